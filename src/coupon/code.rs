//! The code of a coupon: what its holder shows to use it.

use std::fmt::{self, Debug, Formatter};
use std::str::FromStr;

use rand::RngExt as _;

/// Crockford's alphabet: no I, L, O or U, so that a code can be read out.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Random characters of a code, 5 bits each: 75 bits.
const CODE_RANDOM_LENGTH: usize = 15;

/// A new code: 15 random characters and a check character, in groups of four.
#[must_use]
pub fn new_code() -> String {
    let mut random: u128 = rand::rng().random();
    let mut values = [0_u8; CODE_RANDOM_LENGTH];
    for value in &mut values {
        *value = (random & 31) as u8;
        random >>= 5;
    }
    written(values.into_iter().chain([check_value(&values)]))
}

/// A code as [`new_code`] writes it, from what somebody has read or typed: small letters count, hyphens and blanks do not,
/// and as in Crockford's encoding `O` stands for `0`, and `I` and `L` stand for `1`.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Code(String);

/// The text has another length than a code, or its check character is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a code such as 0HVC-348C-T68Y-MNF1: its last character tells that one is wrong or missing")]
pub struct NoCode;

impl FromStr for Code {
    type Err = NoCode;

    fn from_str(text: &str) -> Result<Self, NoCode> {
        let letters = text.bytes().filter(|byte| !matches!(byte, b'-' | b' '));
        let values: Vec<u8> = letters.map(value_of).collect::<Option<_>>().ok_or(NoCode)?;
        let (check, random) = values.split_last().ok_or(NoCode)?;
        let is_right = random.len() == CODE_RANDOM_LENGTH && *check == check_value(random);
        is_right.then(|| Self(written(values.iter().copied()))).ok_or(NoCode)
    }
}

impl Code {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Without the code, which is a secret.
impl Debug for Code {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Code")
    }
}

/// What a character of a code stands for.
fn value_of(byte: u8) -> Option<u8> {
    let letter = match byte.to_ascii_uppercase() {
        b'O' => b'0',
        b'I' | b'L' => b'1',
        letter => letter,
    };
    ALPHABET.iter().position(|known| *known == letter).and_then(|value| u8::try_from(value).ok())
}

/// In groups of four.
fn written(values: impl Iterator<Item = u8>) -> String {
    let mut code = String::with_capacity(19);
    for (i, value) in values.enumerate() {
        if i > 0 && i % 4 == 0 {
            code.push('-');
        }
        code.push(char::from(ALPHABET[usize::from(value & 31)]));
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

    #[test]
    fn a_code_is_known_and_a_misread_one_is_not() {
        let parse = |text: &str| text.parse().map(|code: Code| code.as_str().to_owned());
        for _ in 0..100 {
            let code = new_code();
            assert_eq!(code.len(), 19);
            let typed = code.to_lowercase().replace('-', " ").replace('0', "o").replace('1', "L");
            assert_eq!((parse(&code).as_ref(), parse(&typed).as_ref()), (Ok(&code), Ok(&code)));
            for at in (0..code.len()).filter(|at| code.as_bytes()[*at] != b'-') {
                let mut wrong = code.clone().into_bytes();
                wrong[at] = if wrong[at] == b'7' { b'8' } else { b'7' };
                assert_eq!(
                    parse(std::str::from_utf8(&wrong).unwrap_or_default()),
                    Err(NoCode),
                    "{code} at {at}"
                );
            }
        }
        assert_eq!(
            [parse(""), parse("not a code"), parse("\u{e9}")],
            [Err(NoCode), Err(NoCode), Err(NoCode)]
        );
    }
}
