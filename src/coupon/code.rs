//! The code of a coupon: what its holder shows to use it.
//!
//! 20 characters, 5 bits each: 42 bits of the time in the coupon's id, by which the coupon is found without an index of its
//! own, 53 random bits, and a check character. Of all codes with the time of one coupon, one in 2^53 is its code.

use std::fmt::{self, Debug, Formatter};
use std::ops::RangeInclusive;
use std::str::FromStr;

use rand::RngExt as _;
use ulid::Ulid;

use crate::ids::CouponId;

/// Crockford's alphabet: no I, L, O or U, so that a code can be read out.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// What stands between the groups of a code: the hyphen, and those that programs put in its place.
const HYPHENS: [char; 4] = ['-', '\u{2010}', '\u{2011}', '\u{2013}'];
/// Characters of a code, without hyphens.
pub const CODE_LENGTH: usize = LENGTH + 1;
/// Characters before the check character.
const LENGTH: usize = 19;
const RANDOM_BITS: u32 = 53;
/// The bits of the time, in milliseconds since 1970, which are enough until 2109.
const TIME_MASK: u128 = (1 << 42) - 1;

/// A new code for a coupon: 19 characters and a check character, in groups of four.
#[must_use]
pub fn new_code(id: CouponId) -> String {
    let random = rand::rng().random::<u128>() >> (128 - RANDOM_BITS);
    let time = u128::from(id.0.timestamp_ms()) & TIME_MASK;
    written(hidden(time, random) << RANDOM_BITS | random)
}

/// The time, mixed with the random bits, and the other way round: codes of the same moment shall not look alike.
fn hidden(time: u128, random: u128) -> u128 {
    time ^ (random & TIME_MASK)
}

/// A code as [`new_code`] writes it, from what somebody has read or typed: small letters count, hyphens and blanks do not,
/// and as in Crockford's encoding `O` stands for `0`, and `I` and `L` stand for `1`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Code(u128);

/// The text has another length than a code, or its check character is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a valid code: a character is wrong or missing")]
pub struct NoCode;

impl FromStr for Code {
    type Err = NoCode;

    fn from_str(text: &str) -> Result<Self, NoCode> {
        let letters = text.chars().filter(|letter| !letter.is_whitespace() && !HYPHENS.contains(letter));
        let values: Vec<u8> = letters.map(value_of).collect::<Option<_>>().ok_or(NoCode)?;
        let (check, values) = values.split_last().ok_or(NoCode)?;
        let is_right = values.len() == LENGTH && *check == check_value(values);
        let bits = || values.iter().fold(0, |bits, value| bits << 5 | u128::from(*value));
        is_right.then(|| Self(bits())).ok_or(NoCode)
    }
}

impl Code {
    /// As coupons have it.
    #[must_use]
    pub fn text(&self) -> String {
        written(self.0)
    }

    /// The ids that its coupon can have: those of one millisecond.
    #[must_use]
    pub fn ids(&self) -> RangeInclusive<CouponId> {
        let time = hidden(self.0 >> RANDOM_BITS, self.0);
        let ms = u64::try_from(time).unwrap_or_default(); // 42 bits
        let id = |random| CouponId(Ulid::from_parts(ms, random));
        id(0)..=id(u128::MAX)
    }
}

/// Without the code, which is a secret.
impl Debug for Code {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Code")
    }
}

/// What a character of a code stands for.
fn value_of(letter: char) -> Option<u8> {
    let letter = match u8::try_from(letter.to_ascii_uppercase()).ok()? {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        letter => letter,
    };
    ALPHABET.iter().position(|known| *known == letter).and_then(|value| u8::try_from(value).ok())
}

/// In groups of four, with the check character.
fn written(bits: u128) -> String {
    let mut values = [0_u8; LENGTH];
    for (value, place) in values.iter_mut().zip((0..LENGTH).rev()) {
        *value = ((bits >> (5 * place)) & 31) as u8;
    }
    let mut code = String::with_capacity(LENGTH + 5);
    for (i, value) in values.into_iter().chain([check_value(&values)]).enumerate() {
        if i > 0 && i % 4 == 0 {
            code.push('-');
        }
        code.push(char::from(ALPHABET[usize::from(value)]));
    }
    code
}

/// Luhn's algorithm modulo 32: finds every single wrong character and nearly every swap of two
/// neighbours.
fn check_value(values: &[u8]) -> u8 {
    let sum: u32 = values
        .iter()
        .rev()
        .enumerate()
        .map(|(i, value)| {
            let doubled = u32::from(*value) * if i % 2 == 0 { 2 } else { 1 };
            doubled / 32 + doubled % 32
        })
        .sum();
    ((32 - sum % 32) % 32) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(ms: u64) -> CouponId {
        CouponId(Ulid::from_parts(ms, rand::rng().random()))
    }

    #[test]
    fn a_code_is_known_and_a_misread_one_is_not() {
        let parse = |text: &str| text.parse().map(|code: Code| code.text());
        for _ in 0..100 {
            let code = new_code(id(rand::rng().random_range(0..1 << 42)));
            assert_eq!(code.len(), 24);
            let typed = code.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "L");
            let printed = code.replace('-', "\u{2011}") + "\n";
            for text in [&code, &typed, &printed] {
                assert_eq!(parse(text).as_ref(), Ok(&code), "{text}");
            }
            for at in (0..code.len()).filter(|at| code.as_bytes()[*at] != b'-') {
                let mut wrong = code.clone().into_bytes();
                wrong[at] = if wrong[at] == b'7' { b'8' } else { b'7' };
                let wrong = String::from_utf8(wrong).unwrap_or_default();
                assert_eq!(parse(&wrong), Err(NoCode), "{code} at {at}");
            }
        }
        for wrong in ["", "not a code", "\u{e9}", "\u{130}", "7Q2M-9KXD-4HTA-V8E3"] {
            assert_eq!(parse(wrong), Err(NoCode), "{wrong}");
        }
    }

    #[test]
    fn a_code_tells_the_ids_of_its_moment_and_nothing_that_codes_share() {
        // Clocks that were never set, and one that is far ahead, too.
        for ms in [0, 1, 1_767_225_599_999, 1_795_881_600_123, 4_200_000_000_000, (1 << 42) - 1] {
            let (one, other) = (id(ms), id(ms));
            let codes = [new_code(one), new_code(other)];
            for code in &codes {
                let ids = code.parse::<Code>().map(|code| code.ids());
                let is_of = |id: &CouponId| ids.as_ref().is_ok_and(|ids| ids.contains(id));
                assert!(is_of(&one) && is_of(&other) && !is_of(&id(ms + 1)), "{code} of {ms}");
                assert!(ms == 0 || !is_of(&id(ms - 1)), "{code} of {ms}");
            }
            assert_ne!(codes[0], codes[1]);
            assert_ne!(codes[0][..9], codes[1][..9], "one in 2^40 is equal");
        }
        assert!(new_code(id((1 << 48) - 1)).parse::<Code>().is_ok());
    }
}
