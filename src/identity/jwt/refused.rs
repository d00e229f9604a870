//! Why a token is refused.

/// Why a token of a user is refused. A client is not told which of these it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is longer than [`TOKEN_BYTES_MAX`](super::TOKEN_BYTES_MAX).
    #[error("the token is too long")]
    TooLong,
    /// It has no three parts, or its header or claims are no JSON object in base64url without padding.
    #[error("the token is malformed")]
    Malformed,
    /// A member of its header or a claim is there twice.
    #[error("the token has a member twice")]
    Duplicated,
    /// A member of its header or a claim that it must have is missing.
    #[error("the token has no {0}")]
    Missing(&'static str),
    /// A member of its header or a claim has a type that it must not have.
    #[error("the token has a {0} of a wrong type")]
    WrongType(&'static str),
    /// Its `typ` is neither `JWT` nor `at+jwt`.
    #[error("the token is of another type")]
    Type,
    /// It has `crit`, `b64` or `cty`: it demands an extension, or holds another token.
    #[error("the token demands an extension")]
    Extension,
    /// Its `alg` is not that of the key, or no key has it.
    #[error("the token has another algorithm than the key")]
    Algorithm,
    /// The set has several keys, and the token names none.
    #[error("the token does not name its key")]
    NoKeyId,
    /// The set has no such key. A newer set may have it: see [`UserTokens::renewed`](super::UserTokens::renewed).
    #[error("the token names a key that is not known")]
    UnknownKey,
    /// No set was fetched yet.
    #[error("no keys were fetched yet")]
    NoKeys,
    /// The last set that was fetched is older than a day.
    #[error("the keys are too old")]
    KeysTooOld,
    /// Its signature is not one of its key.
    #[error("the signature is wrong")]
    Signature,
    /// Its `exp` is over.
    #[error("the token has expired")]
    Expired,
    /// Its `nbf` is still to come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// Its `iss` is not that of the configuration.
    #[error("the token is from another issuer")]
    Issuer,
    /// Its `aud` does not hold that of the configuration.
    #[error("the token is for another audience")]
    Audience,
    /// Its `sub` cannot be the id of a user.
    #[error("the token has a subject that cannot be a user")]
    Subject,
}
