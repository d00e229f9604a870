//! The text of an API token: `cd_<id>_<secret>`.

use ring::digest::{SHA256, digest};
use ring::error::Unspecified;
use ring::rand::{SecureRandom as _, SystemRandom};
use subtle::{Choice, ConstantTimeEq as _};
use ulid::Ulid;

use crate::config::Secret;
use crate::ids::{TokenId, ulid};

/// How every API token begins.
const PREFIX: &str = "cd_";
/// Characters of a ULID.
const ID_LENGTH: usize = 26;
/// Random bytes of a secret: 256 bits, too many to guess.
const SECRET_BYTES: usize = 32;

/// An API token as a caller sent it.
#[derive(Clone, Copy)]
pub(super) struct Presented {
    pub(super) id: TokenId,
    pub(super) hash: Hash,
}

impl Presented {
    /// Nothing if the text is not that of an API token: then it may be another credential.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let rest = text.strip_prefix(PREFIX.as_bytes())?;
        let (id, rest) = rest.split_at_checked(ID_LENGTH)?;
        let secret = rest.strip_prefix(b"_")?;
        let is_secret = secret.len() == 2 * SECRET_BYTES
            && secret.iter().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte));
        let id = ulid(str::from_utf8(id).ok()?).ok()?;
        is_secret.then(|| Self { id: TokenId(id), hash: Hash::of(secret) })
    }
}

/// The SHA-256 of a secret. It has no `==`: it is compared in constant time or not at all.
#[derive(Clone, Copy)]
pub(super) struct Hash([u8; 32]);

impl Hash {
    /// Nothing if these are not 32 bytes.
    pub(super) fn stored(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes the same time whatever the two are.
    pub(super) fn is(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }

    fn of(secret: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, secret).as_ref());
        Self(hash)
    }
}

/// A new id.
pub(super) fn new_id() -> TokenId {
    TokenId(Ulid::generate())
}

/// A new secret for a token: the text of the token with it, and what is stored.
///
/// # Errors
/// When the operating system has no random numbers.
pub(super) fn generate(id: TokenId) -> Result<(Secret, Hash), Unspecified> {
    let mut random = [0; SECRET_BYTES];
    SystemRandom::new().fill(&mut random)?;
    let mut text = format!("{PREFIX}{id}_");
    for byte in random {
        for digit in [byte >> 4, byte & 15] {
            text.extend(char::from_digit(digit.into(), 16));
        }
    }
    let hash = Hash::of(&text.as_bytes()[text.len() - 2 * SECRET_BYTES..]);
    Ok((Secret::from(text), hash))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_read_as_it_is_written_and_nothing_else_is() -> Result<(), Unspecified> {
        let id = new_id();
        let (text, hash) = generate(id)?;
        let (other, _) = generate(id)?;
        let text = text.reveal();
        assert_ne!(text, other.reveal());
        let parse = |text: &str| Presented::parse(text.as_bytes());
        assert!(parse(text).is_some_and(|token| token.id == id && token.hash.is(&hash).into()));
        assert!(parse(other.reveal()).is_some_and(|token| !bool::from(token.hash.is(&hash))));
        let (head, secret) = text.split_at(PREFIX.len() + ID_LENGTH + 1);
        assert_eq!((text.len(), secret.len()), (94, 64));
        for wrong in [
            String::new(),
            text[1..].to_owned(),
            text[..93].to_owned(),
            format!("{text}0"),
            format!("{head}{}", secret.to_uppercase().replace(char::is_numeric, "A")),
            text.replace("cd_", "CD_"),
            text.replacen("cd_0", "cd_8", 1),
            format!("{}-{secret}", &head[..head.len() - 1]),
        ] {
            assert!(parse(&wrong).is_none(), "{wrong}");
        }
        Ok(())
    }
}
