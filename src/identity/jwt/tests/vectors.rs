//! The signatures of RFC 7515, appendix A, and RFC 8037, appendix A.4.

use super::signing::{ED_X, N, X, Y, bytes};
use crate::jwk::{Key, KeySet};

/// The claims of appendix A.1 to A.3.
const PAYLOAD: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";

fn key(jwk: &str) -> Key {
    KeySet::parse(format!(r#"{{"keys":[{jwk}]}}"#).as_bytes()).unwrap().get(None).unwrap().clone()
}

/// It verifies, and with any one character of it changed it does not.
fn check(key: &Key, header: &str, payload: &str, signature: &str) {
    let message = format!("{header}.{payload}");
    assert!(key.verifies(message.as_bytes(), signature), "{key:?}");
    assert!(!key.verifies(format!("{message}A").as_bytes(), signature), "{key:?}");
    for at in [0, signature.len() / 2, signature.len() - 2] {
        let other = if &signature[at..=at] == "A" { "B" } else { "A" };
        let forged = [&signature[..at], other, &signature[at + 1..]].concat();
        assert!(!key.verifies(message.as_bytes(), &forged), "{key:?} at {at}");
    }
}

#[test]
fn rfc_7515_a_1_is_hs256() {
    let secret =
        bytes("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow");
    let signature = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    check(&Key::secret(&secret), "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9", PAYLOAD, signature);
}

#[test]
fn rfc_7515_a_2_is_rs256() {
    let key = key(&format!(r#"{{"kty":"RSA","n":"{N}","e":"AQAB"}}"#));
    let signature = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    check(&key, "eyJhbGciOiJSUzI1NiJ9", PAYLOAD, signature);
}

#[test]
fn rfc_7515_a_3_is_es256() {
    let key = key(&format!(r#"{{"kty":"EC","crv":"P-256","x":"{X}","y":"{Y}"}}"#));
    let signature = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    check(&key, "eyJhbGciOiJFUzI1NiJ9", PAYLOAD, signature);
}

#[test]
fn rfc_8037_a_4_is_eddsa() {
    let key = key(&format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{ED_X}"}}"#));
    let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    check(&key, "eyJhbGciOiJFZERTQSJ9", "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc", signature);
}
