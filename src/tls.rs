//! What to do about a server that TLS refuses.

use outbox_relay::reason::reason_of;

/// How `rustls` begins what it says of a certificate, whichever driver reports it.
const REFUSED: &str = "invalid peer certificate";
/// What it says if nothing that is trusted has signed the certificate. The signature is bad if an authority of the same
/// name is trusted, such as an earlier one.
const UNTRUSTED: [&str; 2] = ["UnknownIssuer", "BadSignature"];

const ADVICE: &str =
    "Its certificate comes from an authority that is not trusted here: name the PEM file of that authority";

/// A reason why a server cannot be reached; and, once, what to do if its certificate is not trusted: `names` is where the
/// file of its authority is named.
pub(crate) fn advised(reason: String, names: &str) -> String {
    let is_untrusted = reason.contains(REFUSED) && UNTRUSTED.iter().any(|word| reason.contains(word));
    if !is_untrusted || reason.contains(ADVICE) {
        return reason;
    }
    format!("{reason}. {ADVICE} in {names}")
}

/// The same of an error, which stays as it is if there is nothing to advise.
pub(crate) fn explained(error: anyhow::Error, names: &str) -> anyhow::Error {
    let reason = reason_of(error.as_ref());
    let told = advised(reason.clone(), names);
    if told == reason { error } else { anyhow::Error::msg(told) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_unknown_authority_gets_advice() {
        let reason = "connect: invalid peer certificate: UnknownIssuer";
        let told = advised(reason.to_owned(), "REDIS_CA");
        assert!(told.ends_with("in REDIS_CA"), "{told}");
        assert_eq!(advised(told.clone(), "NATS_CA"), told);
        for other in ["connection refused", "invalid peer certificate: Expired"] {
            assert_eq!(advised(other.to_owned(), "REDIS_CA"), other);
        }
    }
}
