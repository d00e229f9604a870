//! Bytes that nobody meant: valid ones with something wrong, and any at all.

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// What parsers stumble over.
const STUMBLING_BLOCKS: [&[u8]; 20] = [
    b"",
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\"",
    b"\\",
    b"\\ud800",
    b"\\u0000",
    b"{",
    b"[[[[[[[[",
    b"null",
    b"-1",
    b"1e999",
    b"18446744073709551616",
    b" ",
    b"\r\n",
    b"%00",
    b"%",
    "\u{202e}é".as_bytes(),
    b"-",
];
const ANY_LENGTH_MAX: usize = 80;

/// Up to three things are wrong with `valid`; one in ten has nothing to do with it.
pub(crate) fn mutated(random: &mut StdRng, valid: &[u8]) -> Vec<u8> {
    if random.random_ratio(1, 10) {
        let length = random.random_range(0..ANY_LENGTH_MAX);
        return (0..length).map(|_| random.random()).collect();
    }
    let mut bytes = valid.to_vec();
    for _ in 0..random.random_range(1..=3) {
        let from = random.random_range(0..=bytes.len());
        let until = random.random_range(from..=bytes.len().min(from + 9));
        match random.random_range(0..5) {
            0 => drop(bytes.splice(from..from, STUMBLING_BLOCKS.choose(random).unwrap().iter().copied())),
            1 => drop(bytes.splice(from..until, STUMBLING_BLOCKS.choose(random).unwrap().iter().copied())),
            2 => bytes[from..until].fill_with(|| random.random()),
            3 => {
                let again = bytes[from..until].repeat(random.random_range(1..9));
                bytes.splice(from..from, again);
            }
            _ => bytes.truncate(until),
        }
    }
    bytes
}
