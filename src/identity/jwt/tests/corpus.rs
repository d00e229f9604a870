//! Bad tokens, each with its name and the reason for which it is refused; and bad key sets.

use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING,
};

use super::signing::{N, SECRET, Signer, X, Y, after, base64url, bytes, claims, jwks, tokens, tokens_of};
use crate::identity::jwt::TOKEN_BYTES_MAX;
use crate::identity::jwt::refused::Refused::{self, *};
use crate::jwk::KeySet;

type Bad = (&'static str, String, Refused);

const EC: &str = r#"{"alg":"ES256","kid":"e"}"#;
const RSA: &str = r#"{"alg":"RS256","kid":"r"}"#;
const HMAC: &str = r#"{"alg":"HS256"}"#;

#[test]
fn every_bad_token_is_refused_for_its_reason() {
    let tokens = tokens();
    let corpus = [shapes(), headers(), keys(), signatures(), bad_claims()].concat();
    assert!(corpus.len() >= 80, "{}", corpus.len());
    let mut wrong = Vec::new();
    for (name, token, expected) in &corpus {
        // The second time it is not remembered either.
        for _ in 0..2 {
            let got = tokens.verify_at(token, after(0));
            if got != Err(*expected) {
                wrong.push(format!("{name}: {got:?}, not {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(tokens.memory.len(), 0);
}

fn good() -> String {
    Signer::ec().token(EC, &claims(&[]))
}

/// Header, claims and signature.
fn parts(token: &str) -> [String; 3] {
    let parts: Vec<_> = token.split('.').map(str::to_owned).collect();
    parts.try_into().unwrap()
}

fn shapes() -> Vec<Bad> {
    let good = good();
    let [header, payload, signature] = parts(&good);
    let signed = |claims: &str| Signer::ec().token(EC, claims);
    let huge = claims(&[("pad", &format!("{:?}", "x".repeat(TOKEN_BYTES_MAX)))]);
    let deep = format!("{}{}", "[".repeat(2_000), "]".repeat(2_000));
    vec![
        ("nothing", String::new(), Malformed),
        ("a word", "token".to_owned(), Malformed),
        ("one dot", "a.b".to_owned(), Malformed),
        ("two dots alone", "..".to_owned(), Malformed),
        ("four parts", format!("{good}.{signature}"), Malformed),
        ("five parts, encrypted", format!("{header}.a.b.c.d"), Malformed),
        ("no header", format!(".{payload}.{signature}"), Malformed),
        ("no claims", format!("{header}..{signature}"), Signature),
        ("no claims, signed", Signer::secret().token(HMAC, ""), Malformed),
        ("no signature", format!("{header}.{payload}."), Signature),
        ("a header with padding", format!("{header}=.{payload}.{signature}"), Malformed),
        ("a signature with padding", format!("{good}=="), Signature),
        ("a space before", format!(" {good}"), Malformed),
        ("a space behind", format!("{good} "), Signature),
        ("a line feed inside", format!("{header}.{payload}.\n{signature}"), Signature),
        ("standard base64", format!("{header}.{payload}.{}", "+/".repeat(43)), Signature),
        ("a header that is no JSON", format!("{}.{payload}.{signature}", base64url("alg")), Malformed),
        ("a header that is an array", Signer::ec().token(r#"["ES256","e"]"#, &claims(&[])), Malformed),
        ("a header with a tail", Signer::ec().token(&format!("{EC}{EC}"), &claims(&[])), Malformed),
        ("claims that are an array", signed(r#"["alice"]"#), Malformed),
        ("claims that are a text", signed(r#""alice""#), Malformed),
        ("claims that are null", signed("null"), Malformed),
        (
            "claims that are no UTF-8",
            {
                let message = format!("{header}.{}", base64url(b"{\"sub\":\"\xff\"}"));
                let token = Signer::secret().token(HMAC, "{}");
                format!("{message}.{}", parts(&token)[2])
            },
            Signature,
        ),
        ("claims in claims too deep", signed(&format!("{{\"sub\":{deep}}}")), Malformed),
        ("one byte too many", "x".repeat(TOKEN_BYTES_MAX + 1), TooLong),
        ("huge", signed(&huge), TooLong),
    ]
}

fn headers() -> Vec<Bad> {
    let with = |header: &str| Signer::ec().token(header, &claims(&[]));
    let none = |header: &str| format!("{}.{}.", base64url(header), base64url(claims(&[])));
    let secret = |header: &str| Signer::secret().token(header, &claims(&[]));
    vec![
        ("none, unsigned", none(r#"{"alg":"none"}"#), Algorithm),
        ("none in capitals", none(r#"{"alg":"NONE","kid":"e"}"#), Algorithm),
        ("none, signed", with(r#"{"alg":"none","kid":"e"}"#), Algorithm),
        ("an empty algorithm", with(r#"{"alg":"","kid":"e"}"#), Algorithm),
        ("an algorithm in small letters", with(r#"{"alg":"es256","kid":"e"}"#), Algorithm),
        ("an algorithm with a space", with(r#"{"alg":"ES256 ","kid":"e"}"#), Algorithm),
        ("no algorithm", with(r#"{"kid":"e"}"#), Missing("alg")),
        ("an algorithm that is a list", with(r#"{"alg":["ES256"],"kid":"e"}"#), WrongType("alg")),
        ("an algorithm that is null", with(r#"{"alg":null,"kid":"e"}"#), WrongType("alg")),
        ("two algorithms", with(r#"{"alg":"none","alg":"ES256","kid":"e"}"#), Duplicated),
        ("two algorithms, one escaped", with(r#"{"\u0061lg":"none","alg":"ES256","kid":"e"}"#), Duplicated),
        ("two members in a member", with(r#"{"alg":"ES256","kid":"e","x":{"y":1,"y":2}}"#), Duplicated),
        ("two key ids", with(r#"{"alg":"ES256","kid":"r","kid":"e"}"#), Duplicated),
        ("crit of something", with(r#"{"alg":"ES256","kid":"e","crit":["exp"]}"#), Extension),
        ("crit of nothing", with(r#"{"alg":"ES256","kid":"e","crit":[]}"#), Extension),
        ("b64 is false", with(r#"{"alg":"ES256","kid":"e","b64":false}"#), Extension),
        ("b64 is false, and critical", secret(r#"{"alg":"HS256","b64":false,"crit":["b64"]}"#), Extension),
        ("a token in the token", with(r#"{"alg":"ES256","kid":"e","cty":"JWT"}"#), Extension),
        ("another type", with(r#"{"alg":"ES256","kid":"e","typ":"secevent+jwt"}"#), Type),
        ("an id token of another type", with(r#"{"alg":"ES256","kid":"e","typ":"dpop+jwt"}"#), Type),
        ("a type that is a number", with(r#"{"alg":"ES256","kid":"e","typ":1}"#), WrongType("typ")),
    ]
}

fn keys() -> Vec<Bad> {
    let with = |header: &str| Signer::ec().token(header, &claims(&[]));
    let id = |kid: &str| with(&format!(r#"{{"alg":"ES256","kid":{kid:?}}}"#));
    let rsa_as_secret =
        |secret: Vec<u8>| Signer::Secret(secret).token(r#"{"alg":"HS256","kid":"r"}"#, &claims(&[]));
    vec![
        ("no key id", with(r#"{"alg":"ES256"}"#), NoKeyId),
        ("an unknown key id", id("x"), UnknownKey),
        ("an empty key id", id(""), UnknownKey),
        ("a key id in capitals", id("E"), UnknownKey),
        ("a key id that is a path", id("../../../../dev/null"), UnknownKey),
        ("a key id that is SQL", id("x' UNION SELECT 'e"), UnknownKey),
        ("a key id with a zero byte", with(r#"{"alg":"ES256","kid":"e\u0000"}"#), UnknownKey),
        ("a key id that is a number", with(r#"{"alg":"ES256","kid":1}"#), WrongType("kid")),
        ("a key id that is null", with(r#"{"alg":"ES256","kid":null}"#), WrongType("kid")),
        ("the id of another key", with(r#"{"alg":"ES256","kid":"r"}"#), Algorithm),
        ("the algorithm of another key", with(r#"{"alg":"RS256","kid":"e"}"#), Algorithm),
        ("EdDSA of a key of P-256", with(r#"{"alg":"EdDSA","kid":"e"}"#), Algorithm),
        ("RS512", Signer::rsa().token(r#"{"alg":"RS512","kid":"r"}"#, &claims(&[])), Algorithm),
        ("PS256", Signer::rsa().token(r#"{"alg":"PS256","kid":"r"}"#, &claims(&[])), Algorithm),
        ("ES384", with(r#"{"alg":"ES384","kid":"e"}"#), Algorithm),
        ("HS512", Signer::secret().token(r#"{"alg":"HS512"}"#, &claims(&[])), Algorithm),
        ("the RSA modulus as secret", rsa_as_secret(bytes(N)), Signature),
        ("the RSA modulus in base64url as secret", rsa_as_secret(N.as_bytes().to_vec()), Signature),
        ("the key set as secret", rsa_as_secret(jwks().into_bytes()), Signature),
        ("the point of P-256 as secret", rsa_as_secret([&[4], &*bytes(X), &*bytes(Y)].concat()), Signature),
        ("no secret at all", rsa_as_secret(Vec::new()), Signature),
        ("half of the secret", rsa_as_secret(SECRET.as_bytes()[..16].to_vec()), Signature),
    ]
}

fn signatures() -> Vec<Bad> {
    let [header, payload, signature] = parts(&good());
    let signed = |signature: &str| format!("{header}.{payload}.{signature}");
    let raw = bytes(&signature);
    let [rsa_header, rsa_payload, rsa] = parts(&Signer::rsa().token(RSA, &claims(&[])));
    let new = |form| Signer::new_ec(form).token(EC, &claims(&[]));
    vec![
        ("another key of P-256", new(&ECDSA_P256_SHA256_FIXED_SIGNING), Signature),
        ("a key of P-384", new(&ECDSA_P384_SHA384_FIXED_SIGNING), Signature),
        ("in DER", Signer::ec_as(&ECDSA_P256_SHA256_ASN1_SIGNING).token(EC, &claims(&[])), Signature),
        ("r and s are zero", signed(&base64url([0; 64])), Signature),
        ("r is zero", signed(&base64url([&[0; 32], &raw[32..]].concat())), Signature),
        ("s is zero", signed(&base64url([&raw[..32], &[0; 32]].concat())), Signature),
        ("r and s in the other order", signed(&base64url([&raw[32..], &raw[..32]].concat())), Signature),
        ("one byte less", signed(&base64url(&raw[..63])), Signature),
        ("one byte more", signed(&base64url([&*raw, &[0]].concat())), Signature),
        ("of HMAC under ES256", Signer::secret().token(EC, &claims(&[])), Signature),
        ("of Ed25519 under ES256", Signer::ed().token(EC, &claims(&[])), Signature),
        ("of ECDSA under EdDSA", Signer::ec().token(r#"{"alg":"EdDSA","kid":"d"}"#, &claims(&[])), Signature),
        (
            "zeros under EdDSA",
            { format!("{}.{payload}.{}", base64url(r#"{"alg":"EdDSA","kid":"d"}"#), base64url([0; 64])) },
            Signature,
        ),
        ("of RSA, torn", format!("{rsa_header}.{rsa_payload}.{}", &rsa[..rsa.len() - 4]), Signature),
        ("of RSA, zeros", format!("{rsa_header}.{rsa_payload}.{}", base64url([0; 256])), Signature),
        (
            "other claims",
            format!("{header}.{}.{signature}", base64url(claims(&[("sub", "\"bob\"")]))),
            Signature,
        ),
        (
            "another header",
            { format!("{}.{payload}.{signature}", base64url(r#"{"alg":"ES256","kid":"e","typ":"JWT"}"#)) },
            Signature,
        ),
    ]
}

fn bad_claims() -> Vec<Bad> {
    let with = |changes: &[(&str, &str)]| Signer::secret().token(HMAC, &claims(changes));
    let raw = |text: String| Signer::secret().token(HMAC, &text);
    let twice = |member: &str| raw(claims(&[]).replacen('{', &format!("{{{member},"), 1));
    let long = format!("{:?}", "x".repeat(65));
    vec![
        ("no exp", with(&[("exp", "")]), Missing("exp")),
        ("no iss", with(&[("iss", "")]), Missing("iss")),
        ("no aud", with(&[("aud", "")]), Missing("aud")),
        ("no sub", with(&[("sub", "")]), Missing("sub")),
        ("no claim at all", raw("{}".to_owned()), Missing("exp")),
        ("expired", with(&[("exp", "1699999970")]), Expired),
        ("expired in 1970", with(&[("exp", "0")]), Expired),
        ("expired before 1970", with(&[("exp", "-1")]), Expired),
        ("exp is a text", with(&[("exp", "\"1700000600\"")]), WrongType("exp")),
        ("exp is null", with(&[("exp", "null")]), WrongType("exp")),
        ("exp is true", with(&[("exp", "true")]), WrongType("exp")),
        ("exp is a list", with(&[("exp", "[1700000600]")]), WrongType("exp")),
        ("exp is too large for a number", with(&[("exp", "1e999")]), WrongType("exp")),
        ("exp is no JSON", with(&[("exp", "NaN")]), Malformed),
        ("nbf to come", with(&[("nbf", "1700000031")]), NotYetValid),
        ("nbf is a text", with(&[("nbf", "\"1\"")]), WrongType("nbf")),
        ("nbf is null", with(&[("nbf", "null")]), WrongType("nbf")),
        ("another issuer", with(&[("iss", "\"https://evil.example\"")]), Issuer),
        ("the issuer with a slash", with(&[("iss", "\"https://login.example/\"")]), Issuer),
        ("the issuer is a list", with(&[("iss", "[\"https://login.example\"]")]), WrongType("iss")),
        ("another audience", with(&[("aud", "\"shop\"")]), Audience),
        ("the audience in capitals", with(&[("aud", "\"Coupons\"")]), Audience),
        ("audiences without ours", with(&[("aud", "[\"shop\",\"coupons2\"]")]), Audience),
        ("no audience in the list", with(&[("aud", "[]")]), Audience),
        ("the audience is a number", with(&[("aud", "7")]), WrongType("aud")),
        ("an audience is a number", with(&[("aud", "[\"coupons\",7]")]), WrongType("aud")),
        ("the audience is an object", with(&[("aud", "{\"coupons\":true}")]), WrongType("aud")),
        ("sub is a number", with(&[("sub", "7")]), WrongType("sub")),
        ("sub is null", with(&[("sub", "null")]), WrongType("sub")),
        ("sub is empty", with(&[("sub", "\"\"")]), Subject),
        ("sub has a space", with(&[("sub", "\"alice bob\"")]), Subject),
        ("sub is a dot", with(&[("sub", "\".\"")]), Subject),
        ("sub is not ASCII", with(&[("sub", "\"älice\"")]), Subject),
        ("sub is too long", with(&[("sub", &long)]), Subject),
        ("two subs", twice("\"sub\":\"bob\""), Duplicated),
        ("two subs, one escaped", twice("\"s\\u0075b\":\"bob\""), Duplicated),
        ("two exps", twice("\"exp\":1"), Duplicated),
        ("two claims of another name", twice("\"x\":1,\"x\":1"), Duplicated),
        ("two members in a claim", twice(r#""x":{"role":"user","role":"admin"}"#), Duplicated),
        (
            "two members in a claim, one escaped",
            twice(r#""x":{"role":"user","\u0072ole":"admin"}"#),
            Duplicated,
        ),
        ("two members in an object in a list", twice(r#""x":[1,[{"y":{"z":1,"z":1}}]]"#), Duplicated),
    ]
}

/// Key sets, each with what its problem says.
#[test]
fn bad_key_sets_are_refused() {
    let weak = base64url([0xff; 128]);
    let ec = format!(r#"{{"kty":"EC","kid":"e","crv":"P-256","x":"{X}","y":"{Y}"}}"#);
    let unnamed = ec.replace(r#""kid":"e","#, "");
    let many = vec![&*ec; 101].join(",");
    for (keys, expected) in [
        ("", "holds no key that can be used"),
        (&*format!(r#"{{"kty":"RSA","n":"{weak}","e":"AQAB"}}"#), "of 1024 bits, fewer than 2048"),
        // Leading zeros make no key larger.
        (
            &*format!(r#"{{"kty":"RSA","n":"{}{weak}","e":"AQAB"}}"#, "A".repeat(400)),
            "of 1024 bits, fewer than 2048",
        ),
        (
            &*format!(r#"{{"kty":"RSA","n":"{}","e":"AQAB"}}"#, base64url([0xff; 1025])),
            "of 8200 bits, more than 8192",
        ),
        (&*format!(r#"{{"kty":"RSA","n":"{N}","e":"AA"}}"#), "without an exponent"),
        (&*format!(r#"{{"kty":"RSA","n":"{N}"}}"#), "has no e"),
        (&*format!(r#"{{"kty":"RSA","n":"{N}","e":"AQAB","alg":"PS256"}}"#), "is for PS256, not RS256"),
        (&*format!(r#"{{"kty":"RSA","n":"{N}","e":"AQAB","use":"enc"}}"#), "is not for signatures"),
        (&*format!(r#"{{"kty":"RSA","n":"{N}","e":"AQAB","key_ops":["encrypt"]}}"#), "is not for signatures"),
        (&*ec.replace("P-256", "P-384"), "is of the kind EC P-384"),
        (&*ec.replace(X, &X[..40]), "has coordinates of different lengths"),
        (&*ec.replace(X, &format!("{X}=")), "is not base64url"),
        (&*format!(r#"{{"kty":"OKP","crv":"X25519","x":"{X}"}}"#), "is of the kind OKP X25519"),
        (&*format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#, &X[..40]), "is no key of Ed25519"),
        (r#"{"kty":"oct","k":"c2VjcmV0"}"#, "is a secret"),
        ("7", "is no JWK"),
        (&*format!("{ec},{ec}"), "holds two keys of the kid"),
        (&*format!("{ec},{unnamed}"), "of which one has no kid"),
        (&*many, "holds more than 100 keys"),
    ] {
        let refused = KeySet::parse(format!(r#"{{"keys":[{keys}]}}"#).as_bytes()).expect_err(expected);
        assert!(refused.contains(expected), "{refused}, not {expected}");
    }
    for text in
        ["{}", "[]", "{\"keys\":{}}", "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"]
    {
        assert!(KeySet::parse(text.as_bytes()).is_err(), "{text}");
    }
    // A key that cannot be used does not spoil the others.
    let tokens = tokens_of(&format!(r#"{{"keys":[{},{ec}]}}"#, r#"{"kty":"oct","k":"c2VjcmV0"}"#), None);
    assert!(tokens.verify_at(&good(), after(0)).is_ok());
}
