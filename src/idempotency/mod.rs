//! Idempotency keys: a request that is repeated with its `Idempotency-Key` gets the answer that the first one got, and
//! has no second effect.
//!
//! A key is written in the transaction of the effect: that of a claim in the row of its coupon, any other with the answer. So
//! there is no moment at which a crash leaves a key without an effect, or an effect without its key. Only answers with
//! status 2xx are kept: a refusal has no effect, and a retry after it is judged like a new request.
//!
//! Two requests with the same key at the same time take turns: in one process by [`Turns`](turns::Turns), across processes by a
//! lock in Postgres (for claims that of the shard, else [`store::begin`]). A claim that the gate refuses does not come to that
//! lock: while another seat of its user is pending, it asks the gate again.

pub mod store;
pub mod turns;

use std::sync::Arc;

use ring::digest::{Context, SHA256};
use uuid::Uuid;

use crate::cause::{Cause, IdempotencyKey};
use crate::storage::StorageError;

/// Bytes of a SHA-256.
pub type Hash = [u8; 32];

/// A request with a key. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyed(Arc<Hashes>);

#[derive(Debug, PartialEq, Eq)]
struct Hashes {
    key: Uuid,
    request: Hash,
}

/// Why a request with a key has neither an effect nor the answer of an earlier one.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The same request with this key is in progress, and was not done in time.
    #[error("a request with this idempotency key is in progress")]
    InUse,
    #[error("another request has used this idempotency key")]
    Reused,
    #[error("read or write an idempotency key")]
    Storage(#[from] StorageError),
}

/// The answer to a request, as it is kept with the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// 200 to 299.
    pub status: u16,
    /// The header `Location`.
    pub location: Option<String>,
    /// JSON.
    pub body: String,
}

/// What a request with a key comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Once<T> {
    /// This is the first request with the key, or it has none.
    First(T),
    /// An earlier one had this answer.
    Replayed(Recorded),
}

impl Keyed {
    /// The request of a cause that has a key. A key is valid for its caller, the id of the operation, and the target of the
    /// request (the id in its path, or nothing). `body` is what must be the same when the request is repeated.
    #[must_use]
    pub fn of(cause: &Cause, operation: &str, target: &str, body: &[u8]) -> Option<Self> {
        let key = cause.key.as_ref().map(IdempotencyKey::as_str)?;
        let caller = cause.principal.to_string();
        let parts = [caller.as_bytes(), operation.as_bytes(), target.as_bytes(), key.as_bytes()];
        let [key, request] = [hash(&parts), hash(&[body])];
        Some(Self(Arc::new(Hashes { key: Uuid::from_bytes(std::array::from_fn(|n| key[n])), request })))
    }

    /// The key with its scope: 128 bits of their SHA-256.
    #[must_use]
    pub fn key(&self) -> Uuid {
        self.0.key
    }

    /// The SHA-256 of the body.
    #[must_use]
    pub fn request(&self) -> &Hash {
        &self.0.request
    }
}

/// Each part after its length, so that no two lists have the same bytes.
fn hash(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    let mut hash = Hash::default();
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Principal;
    use crate::ids::TokenId;

    #[test]
    fn a_key_is_valid_for_one_caller_operation_and_target() {
        let key = |principal: &Principal, operation, target, key| {
            let cause = Cause { key: IdempotencyKey::parse(key), ..Cause::of(principal.clone()) };
            Keyed::of(&cause, operation, target, b"body").map(|keyed| keyed.key())
        };
        let (admin, token) =
            (Principal::Administrator, Principal::Token(TokenId(ulid::Ulid::from_parts(1, 1))));
        let all = [
            key(&admin, "claim", "a", "k"),
            key(&token, "claim", "a", "k"),
            key(&admin, "open", "a", "k"),
            key(&admin, "claim", "b", "k"),
            key(&admin, "claim", "a", "l"),
            key(&admin, "claim", "ak", "k"),
            key(&admin, "claima", "", "k"),
        ];
        for (n, one) in all.iter().enumerate() {
            assert!(one.is_some() && !all[..n].contains(one), "{n}");
        }
        assert_eq!(key(&admin, "claim", "a", "k"), all[0]);
        assert_eq!(key(&admin, "claim", "a", "two words"), None);
    }

    #[test]
    fn the_body_alone_makes_the_request() {
        let cause = Cause { key: IdempotencyKey::parse("order-7"), ..Cause::of(Principal::Administrator) };
        let of = |target, body| Keyed::of(&cause, "claim", target, body).map(|keyed| *keyed.request());
        assert_eq!(of("a", b"body"), of("b", b"body"));
        assert_ne!(of("a", b"body"), of("a", b"body "));
        assert_eq!(Keyed::of(&Cause { key: None, ..cause.clone() }, "claim", "a", b"body"), None);
    }
}
