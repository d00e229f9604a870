//! A public key in PEM: the section `PUBLIC KEY`, whose structure is in RFC 5280, section 4.1.2.7.

use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;

use super::key::Key;

/// What comes before the point of a key of P-256: RFC 5480.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// What comes before a key of Ed25519: RFC 8410.
const ED25519: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// The algorithm of an RSA key: RFC 3279, section 2.3.1.
const RSA: [u8; 15] =
    [0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];

const SEQUENCE: u8 = 0x30;
const BIT_STRING: u8 = 0x03;
const INTEGER: u8 = 0x02;

/// The one public key of a text in PEM.
///
/// # Errors
/// When there is none, or more than one: the end of a sentence about the text.
pub(super) fn key(text: &[u8]) -> Result<Key, String> {
    let sections: Vec<_> = SubjectPublicKeyInfoDer::pem_slice_iter(text)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is no PEM: {error:?}"))?;
    match &*sections {
        [one] => info(one),
        [] => Err("holds no section PUBLIC KEY".to_owned()),
        _ => Err("holds more than one key: a JWKS can, because its keys have ids".to_owned()),
    }
}

fn info(der: &[u8]) -> Result<Key, String> {
    if let Some(point) = der.strip_prefix(&P256) {
        return Key::p256(point.to_vec());
    }
    if let Some(point) = der.strip_prefix(&ED25519) {
        return Key::ed25519(point.to_vec());
    }
    let (n, e) = rsa(der).ok_or("holds a key that is none of RSA, P-256 and Ed25519")?;
    Key::rsa(n, e)
}

/// Modulus and exponent.
fn rsa(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let algorithm_and_key = whole(der, SEQUENCE)?;
    let bits = whole(algorithm_and_key.strip_prefix(&RSA)?, BIT_STRING)?;
    let numbers = whole(bits.strip_prefix(&[0])?, SEQUENCE)?;
    let (n, rest) = element(numbers, INTEGER)?;
    Some((n, whole(rest, INTEGER)?))
}

/// The contents of the element that is all of `der`.
fn whole(der: &[u8], tag: u8) -> Option<&[u8]> {
    element(der, tag).filter(|(_, rest)| rest.is_empty()).map(|(contents, _)| contents)
}

/// The contents of the first element of `der`, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (length, rest) = match *der.strip_prefix(&[tag])? {
        [length @ 0..=0x7f, ref rest @ ..] | [0x81, length, ref rest @ ..] => (usize::from(length), rest),
        [0x82, high, low, ref rest @ ..] => (usize::from(high) << 8 | usize::from(low), rest),
        _ => return None,
    };
    rest.split_at_checked(length)
}
