//! The code of a coupon: what its holder shows to use it.

use rand::RngExt as _;

/// Crockford's alphabet: no I, L, O or U, so that a code can be read out.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Random characters of a code, 5 bits each: 75 bits.
const CODE_RANDOM_LENGTH: usize = 15;

/// A new code: 15 random characters and a check character, in groups of four.
#[must_use]
pub fn new_code() -> String {
    let mut random: u128 = rand::rng().random();
    let mut code = String::with_capacity(19);
    let mut values = [0_u8; CODE_RANDOM_LENGTH];
    for (i, value) in values.iter_mut().enumerate() {
        *value = (random & 31) as u8;
        random >>= 5;
        code.push(char::from(ALPHABET[usize::from(*value)]));
        if i % 4 == 3 {
            code.push('-');
        }
    }
    code.push(char::from(ALPHABET[usize::from(check_value(&values))]));
    code
}

/// Whether a code can be one of ours: whether its check character is right. Small letters and codes without hyphens
/// count as well.
#[must_use]
pub fn is_code(text: &str) -> bool {
    let value = |byte: u8| ALPHABET.iter().position(|letter| *letter == byte.to_ascii_uppercase());
    let values: Option<Vec<u8>> = text
        .bytes()
        .filter(|byte| *byte != b'-')
        .map(|byte| value(byte).and_then(|value| u8::try_from(value).ok()))
        .collect();
    values.is_some_and(|values| {
        values.len() == CODE_RANDOM_LENGTH + 1
            && values.split_last().is_some_and(|(check, random)| *check == check_value(random))
    })
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
        for _ in 0..100 {
            let code = new_code();
            assert_eq!(code.len(), 19);
            assert!(is_code(&code) && is_code(&code.to_lowercase().replace('-', "")));
            for at in (0..code.len()).filter(|at| code.as_bytes()[*at] != b'-') {
                let mut wrong = code.clone().into_bytes();
                wrong[at] = if wrong[at] == b'7' { b'8' } else { b'7' };
                assert!(!is_code(std::str::from_utf8(&wrong).unwrap_or_default()), "{code} at {at}");
            }
        }
        assert!(!is_code("") && !is_code("not a code"));
    }
}
