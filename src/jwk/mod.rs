//! Keys that verify the signatures of tokens: from a JWKS (RFC 7517), from PEM, or a secret.

mod key;
mod pem;
mod provider;

use outbox_relay::strict::from_object;
use serde::Deserialize;
use serde_json::value::RawValue;

use self::key::Jwk;
pub use self::key::Key;

/// Keys of a set, at most: an issuer has two or three at a time, and each is a line in memory and work at each lookup.
const KEYS_MAX: usize = 100;

/// Keys of one issuer, at least one. Each has an id if there are several.
#[derive(Clone, Debug, PartialEq)]
pub struct KeySet(Vec<(Option<String>, Key)>);

impl KeySet {
    /// Reads a JWKS, or one public key in PEM.
    ///
    /// # Errors
    /// When it holds no key that can be used: the end of a sentence about the text.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        if text.trim_ascii_start().starts_with(b"{") {
            Self::from_jwks(text)
        } else {
            pem::key(text).map(|key| Self(vec![(None, key)]))
        }
    }

    /// Reads a JWKS. Keys that cannot be used are left out, and the log says which: sets have keys for other purposes.
    ///
    /// # Errors
    /// When it is malformed, is too large, has an id twice, or holds no key that can be used: the end of a sentence
    /// about the text.
    pub fn from_jwks(text: &[u8]) -> Result<Self, String> {
        let jwks: Jwks<'_> = from_object(text).map_err(|error| format!("is no JWKS: {error}"))?;
        if jwks.keys.len() > KEYS_MAX {
            return Err(format!("holds more than {KEYS_MAX} keys"));
        }
        let (mut keys, mut left_out) = (Vec::new(), Vec::new());
        for (index, raw) in jwks.keys.into_iter().enumerate() {
            match entry(raw) {
                Ok(entry) => keys.push(entry),
                Err(problem) => left_out.push(format!("key {} {problem}", index + 1)),
            }
        }
        if keys.is_empty() {
            left_out.insert(0, "holds no key that can be used".to_owned());
            return Err(left_out.join("; "));
        }
        for problem in left_out {
            tracing::warn!("a key for tokens of users is left out: {problem}");
        }
        with_distinct_ids(keys).map(Self)
    }

    /// The key of this id. A set of one key needs no id; an id that is given must then be that of the key, if it has one.
    #[must_use]
    pub fn get(&self, id: Option<&str>) -> Option<&Key> {
        match (&*self.0, id) {
            ([(_, key)], None) | ([(None, key)], Some(_)) => Some(key),
            (keys, Some(_)) => keys.iter().find(|(other, _)| other.as_deref() == id).map(|(_, key)| key),
            (_, None) => None,
        }
    }

    /// Whether a token must name its key.
    #[must_use]
    pub fn needs_id(&self) -> bool {
        self.0.len() > 1
    }
}

#[derive(Deserialize)]
struct Jwks<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

fn entry(raw: &RawValue) -> Result<(Option<String>, Key), String> {
    let jwk: Jwk = from_object(raw.get().as_bytes()).map_err(|error| format!("is no JWK: {error}"))?;
    let key = jwk.key()?;
    Ok((jwk.kid, key))
}

fn with_distinct_ids(keys: Vec<(Option<String>, Key)>) -> Result<Vec<(Option<String>, Key)>, String> {
    for (index, (id, _)) in keys.iter().enumerate() {
        match id {
            None if keys.len() > 1 => return Err("holds several keys, of which one has no kid".to_owned()),
            Some(id) if keys[..index].iter().any(|(other, _)| other.as_ref() == Some(id)) => {
                return Err(format!("holds two keys of the kid {id:?}"));
            }
            _ => {}
        }
    }
    Ok(keys)
}
