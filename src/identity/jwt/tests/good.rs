//! Tokens that are accepted, for how long, and what of them is remembered.

use super::signing::{Signer, after, claims, jwks, tokens, tokens_of};
use crate::identity::jwt::refused::Refused;
use crate::jwk::KeySet;

// The three keys of the JWKS, as `openssl pkey -pubin` writes them.
const RSA_PEM: &str = "\
-----BEGIN PUBLIC KEY-----\n\
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAofgWCuLjybRlzo0tZWJj\n\
NiuSfb4p4fAkd/wWJcyQoTbji9k0l8W26mPddxHmfHQp+Vaw+4qPCJrcS2mJPMEz\n\
P1Pt0Bm4d4QlL+yRT+SFd2lZS+pCgNMsD1W/YpRPEwOWvG6b32690r2jZ47soMZo\n\
9wGzjb/7OMg0LOL+bSf63kpaSHSXndS5z5rexMdbBYUsLA9e+KXBdQOS+UTo7WTB\n\
EMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6/I5IhlJH7aGhyxX\n\
FvUK+DWNmoudF8NAco9/h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXp\n\
oQIDAQAB\n\
-----END PUBLIC KEY-----";
const EC_PEM: &str = "\
-----BEGIN PUBLIC KEY-----\n\
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7\n\
6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==\n\
-----END PUBLIC KEY-----";
const ED_PEM: &str = "\
-----BEGIN PUBLIC KEY-----\n\
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
-----END PUBLIC KEY-----";

#[test]
fn a_token_of_each_algorithm_is_accepted() {
    let tokens = tokens();
    for (signer, header) in [
        (Signer::rsa(), r#"{"alg":"RS256","kid":"r"}"#),
        (Signer::ec(), r#"{"alg":"ES256","kid":"e","typ":"JWT"}"#),
        (Signer::ed(), r#"{"alg":"EdDSA","kid":"d","typ":"at+jwt"}"#),
        (Signer::secret(), r#"{"alg":"HS256","typ":"application/at+JWT"}"#),
    ] {
        let token = signer.token(header, &claims(&[]));
        for _ in 0..2 {
            assert_eq!(tokens.verify_at(&token, after(0)).unwrap().as_str(), "alice", "{header}");
        }
    }
}

#[test]
fn what_else_a_token_says_does_not_matter() {
    let (tokens, signer) = (tokens(), Signer::ec());
    let foreign = Signer::new_ec(&ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING).jwks("e");
    let jwk = foreign.trim_start_matches(r#"{"keys":["#).trim_end_matches("]}");
    let header = format!(
        r#"{{"alg":"ES256","kid":"e","jku":"https://evil.example","x5u":"https://evil.example","x5c":["MA"],"jwk":{jwk}}}"#
    );
    for changes in [
        &[("aud", r#"["shop","coupons"]"#)][..],
        &[("exp", "1700000600.75")],
        &[("nbf", "1700000000"), ("iat", "1699999999"), ("scope", r#"{"admin":[true,null]}"#)],
    ] {
        let token = signer.token(&header, &claims(changes));
        assert_eq!(tokens.verify_at(&token, after(0)).unwrap().as_str(), "alice", "{changes:?}");
    }
    // Nor does a header name the key that verifies it.
    let forged =
        Signer::new_ec(&ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING).token(&header, &claims(&[]));
    assert_eq!(tokens.verify_at(&forged, after(0)), Err(Refused::Signature));
}

#[test]
fn clocks_may_differ_by_30_seconds() {
    let (tokens, signer) = (tokens(), Signer::secret());
    let token = |changes: &[(&str, &str)]| signer.token(r#"{"alg":"HS256"}"#, &claims(changes));
    let expiring = token(&[("exp", "1700000010")]);
    // Remembered or not, it expires.
    assert!(tokens.verify_at(&expiring, after(39)).is_ok());
    assert_eq!(tokens.verify_at(&expiring, after(40)), Err(Refused::Expired));
    let early = token(&[("nbf", "1700000031")]);
    assert_eq!(tokens.verify_at(&early, after(0)), Err(Refused::NotYetValid));
    assert!(tokens.verify_at(&early, after(1)).is_ok());
}

#[test]
fn a_set_of_one_key_needs_no_id() {
    let signer = Signer::new_ec(&ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING);
    let tokens = tokens_of(&signer.jwks("only"), None);
    let token = |header: &str| signer.token(header, &claims(&[]));
    assert!(tokens.verify_at(&token(r#"{"alg":"ES256"}"#), after(0)).is_ok());
    assert!(tokens.verify_at(&token(r#"{"alg":"ES256","kid":"only"}"#), after(0)).is_ok());
    let other = token(r#"{"alg":"ES256","kid":"other"}"#);
    assert_eq!(tokens.verify_at(&other, after(0)), Err(Refused::UnknownKey));
}

#[test]
fn a_token_that_is_remembered_needs_no_signature_check() {
    let mut tokens = tokens();
    let token = |id: &str| {
        let header = format!(r#"{{"alg":"HS256","jti":{id:?}}}"#);
        Signer::secret().token(&header, &claims(&[]))
    };
    assert!(tokens.verify_at(&token("first"), after(0)).is_ok());
    tokens.secret = None;
    assert!(tokens.verify_at(&token("first"), after(0)).is_ok());
    assert_eq!(tokens.verify_at(&token("second"), after(0)), Err(Refused::Algorithm));
}

#[test]
fn at_most_10_000_tokens_are_remembered() {
    let (tokens, signer) = (tokens(), Signer::secret());
    let hot = signer.token(r#"{"alg":"HS256"}"#, &claims(&[]));
    for number in 0..12_000 {
        let subject = format!("\"user-{number}\"");
        let token = signer.token(r#"{"alg":"HS256"}"#, &claims(&[("sub", &subject)]));
        assert!(tokens.verify_at(&token, after(0)).is_ok());
        if number % 1_000 == 0 {
            assert!(tokens.verify_at(&hot, after(0)).is_ok());
        }
        assert!(tokens.memory.len() <= 10_000, "{}", tokens.memory.len());
    }
    assert!(tokens.memory.len() > 5_000, "{}", tokens.memory.len());
}

#[test]
fn a_public_key_in_pem_is_read() {
    let set = KeySet::parse(jwks().as_bytes()).unwrap();
    for (name, pem) in [("r", RSA_PEM), ("e", EC_PEM), ("d", ED_PEM)] {
        let key = KeySet::parse(pem.as_bytes()).unwrap();
        assert_eq!(key.get(None), set.get(Some(name)), "{name}");
    }
    assert!(
        KeySet::parse(format!("{EC_PEM}\n{ED_PEM}").as_bytes()).unwrap_err().contains("more than one key")
    );
    assert!(KeySet::parse(b"-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n").is_err());
    assert!(KeySet::parse(b"").is_err());
}
