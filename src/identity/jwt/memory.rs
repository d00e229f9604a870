//! Tokens that are verified: the next request with one of them needs no signature check.

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use super::token::Claims;
use crate::ids::UserId;

/// Tokens that are remembered, at most: each takes about 200 bytes, and one that is forgotten costs a signature check.
const TOKENS_MAX: usize = 10_000;

/// The digest of a token: a token itself is a credential, which no dump of the memory needs to hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Digest([u8; SHA256_OUTPUT_LEN]);

impl Digest {
    pub(super) fn of(token: &str) -> Self {
        let mut bytes = [0; SHA256_OUTPUT_LEN];
        bytes.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Self(bytes)
    }
}

/// What is remembered of a token.
pub(super) struct Verified {
    pub(super) claims: Claims,
    /// The revision of the set of its key; `None` for the secret, which never changes.
    pub(super) revision: Option<u64>,
}

/// The tokens that were used last.
#[derive(Default)]
pub(super) struct Memory(Mutex<Halves>);

/// Every token is first in `young`. When that is full it becomes `old`, and what was in `old` is forgotten, except the
/// tokens that were used meanwhile.
#[derive(Default)]
struct Halves {
    young: HashMap<Digest, Verified>,
    old: HashMap<Digest, Verified>,
}

impl Memory {
    /// The user of a token, if it is remembered and `holds` says that it still counts. Otherwise it is forgotten.
    pub(super) fn user(&self, token: &Digest, holds: impl FnOnce(&Verified) -> bool) -> Option<UserId> {
        let mut halves = self.lock();
        if let Some(verified) = halves.old.remove(token) {
            halves.add(*token, verified);
        }
        let verified = halves.young.get(token)?;
        if holds(verified) {
            Some(verified.claims.user.clone())
        } else {
            halves.young.remove(token);
            None
        }
    }

    pub(super) fn remember(&self, token: Digest, verified: Verified) {
        self.lock().add(token, verified);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let halves = self.lock();
        halves.young.len() + halves.old.len()
    }

    fn lock(&self) -> MutexGuard<'_, Halves> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Halves {
    fn add(&mut self, token: Digest, verified: Verified) {
        if self.young.len() >= TOKENS_MAX / 2 {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(token, verified);
    }
}
