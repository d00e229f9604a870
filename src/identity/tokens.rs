//! The live API tokens, in memory: what a process knows of them, and how old that is.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use outbox_relay::zoo;
use subtle::Choice;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout};

use super::Scopes;
use super::secret::{Hash, Presented};
use crate::ids::{MerchantId, TokenId};

/// A process that has not read the tokens for this time refuses all of them: one of them may be revoked by now.
pub const STALE_AFTER: Duration = Duration::from_secs(60);
/// How long a request with an unknown token waits for the next read: for the 250 ms between the beginnings of two reads,
/// and for a slow read.
const NEWS_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests that wait for the next read, at most; more are refused. Few callers use a token within 2 s of its creation,
/// and every other request that waits has an invalid one.
const WAITING_MAX: usize = 64;

/// What a process knows of the API tokens. At first it knows nothing.
#[derive(Debug)]
pub struct Tokens {
    known: watch::Sender<Known>,
    /// Notified when a request waits for the tokens to be read again.
    pub(super) wanted: Notify,
    waiting: Semaphore,
}

/// What was read last.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) tokens: HashMap<TokenId, Live>,
    /// When that read began. Nothing if there was none.
    pub(super) asked_at: Option<Instant>,
}

/// A token that is not revoked.
pub(super) struct Live {
    pub(super) scopes: Scopes,
    /// The merchant to which the token is bound, if it is.
    pub(super) merchant: Option<MerchantId>,
    /// When it expires, if it does.
    pub(super) ends: Option<Instant>,
    /// At most two, while the token is rotated.
    pub(super) secrets: Vec<LiveSecret>,
    /// Whether it was used since that was last written. Shared with what was known before.
    pub(super) used: Arc<AtomicBool>,
}

/// A secret, and when it ends, if it does.
pub(super) struct LiveSecret {
    pub(super) hash: Hash,
    pub(super) ends: Option<Instant>,
}

/// What is known of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// With the merchant to which it is bound, if it is.
    Valid(TokenId, Scopes, Option<MerchantId>),
    /// It is not among the live tokens, or has another secret: a read may tell more.
    Unknown,
    /// The last read is older than [`STALE_AFTER`].
    Stale,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { known: watch::Sender::default(), wanted: Notify::new(), waiting: Semaphore::new(WAITING_MAX) }
    }
}

impl Tokens {
    /// How long ago the last read began. Nothing if there was none.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.known.borrow().asked_at.map(|asked_at| asked_at.elapsed())
    }

    /// Judges a token from memory, without an allocation.
    pub(super) fn find(&self, token: &Presented, now: Instant) -> Found {
        self.known.borrow().find(token, now)
    }

    /// Waits until a read that began after this call has ended, up to [`NEWS_TIMEOUT`]; or returns at once if
    /// [`WAITING_MAX`] requests wait already.
    pub(super) async fn news(&self) {
        let Ok(_place) = self.waiting.try_acquire() else { return };
        let (mut known, now) = (self.known.subscribe(), Instant::now());
        self.wanted.notify_one();
        let read = known.wait_for(|known| known.asked_at.is_some_and(|asked_at| asked_at > now));
        drop(timeout(NEWS_TIMEOUT, read).await);
    }

    /// Takes over what was read.
    pub(super) fn replace(&self, mut known: Known) {
        self.known.send_modify(|before| {
            for (id, token) in &mut known.tokens {
                if let Some(before) = before.tokens.get(id) {
                    token.used = before.used.clone();
                }
            }
            if zoo::has("revoked-tokens-are-served") {
                known.tokens.extend(before.tokens.drain());
            }
            *before = known;
        });
    }

    /// The tokens that were used since the last call.
    pub(super) fn take_used(&self) -> Vec<TokenId> {
        let known = self.known.borrow();
        let used = known.tokens.iter().filter(|(_, token)| token.used.swap(false, Ordering::Relaxed));
        used.map(|(id, _)| *id).collect()
    }

    /// Marks these as used again, because the write of their use failed.
    pub(super) fn put_back(&self, ids: &[TokenId]) {
        let known = self.known.borrow();
        for token in ids.iter().filter_map(|id| known.tokens.get(id)) {
            token.used.store(true, Ordering::Relaxed);
        }
    }
}

impl Known {
    fn find(&self, token: &Presented, now: Instant) -> Found {
        let fresh = self.asked_at.is_some_and(|asked_at| now < asked_at + STALE_AFTER);
        if !fresh {
            return Found::Stale;
        }
        let Some(live) = self.tokens.get(&token.id) else { return Found::Unknown };
        let lives = |ends: Option<Instant>| ends.is_none_or(|ends| now < ends);
        // Every secret is compared, so that the time tells nothing of them.
        let matches = live.secrets.iter().filter(|secret| lives(secret.ends));
        let matches = matches.fold(Choice::from(0), |found, secret| found | secret.hash.is(&token.hash));
        if !bool::from(matches) || !lives(live.ends) {
            return Found::Unknown;
        }
        if !live.used.load(Ordering::Relaxed) {
            live.used.store(true, Ordering::Relaxed);
        }
        Found::Valid(token.id, live.scopes, live.merchant.clone())
    }
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use ring::error::Unspecified;

    use super::super::Scope;
    use super::super::secret::{generate, new_id};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The others wait as long as nothing is read.
    #[tokio::test]
    async fn of_65_requests_one_does_not_wait() {
        let tokens = Tokens::default();
        let waiting = join_all((0..WAITING_MAX).map(|_| tokens.news()));
        tokio::select! {
            biased;
            _ = waiting => panic!("nothing was read"),
            () = tokens.news() => {}
        }
        let waiting = join_all((0..WAITING_MAX).map(|_| tokens.news()));
        let read = async { tokens.replace(Known { asked_at: Some(Instant::now()), ..Known::default() }) };
        let (waited, ()) =
            timeout(SECOND, async { tokio::join!(waiting, read) }).await.expect("a read ends the wait");
        assert_eq!(waited.len(), WAITING_MAX);
    }

    #[test]
    fn a_token_counts_until_it_ends_and_while_it_is_read() -> Result<(), Unspecified> {
        let (id, now, scopes) = (new_id(), Instant::now(), Scopes::NONE.with(Scope::Issue));
        let ((old, old_hash), (new, new_hash), (other, _)) = (generate(id)?, generate(id)?, generate(id)?);
        let secrets = vec![
            LiveSecret { hash: old_hash, ends: Some(now + 10 * SECOND) },
            LiveSecret { hash: new_hash, ends: None },
        ];
        let live =
            Live { scopes, merchant: None, ends: Some(now + 30 * SECOND), secrets, used: Arc::default() };
        let mut known = Known { tokens: HashMap::from([(id, live)]), asked_at: Some(now) };
        let find = |known: &Known, text: &str, seconds: u32| {
            Presented::parse(text.as_bytes()).map(|token| known.find(&token, now + seconds * SECOND))
        };
        let valid = Some(Found::Valid(id, scopes, None));
        assert_eq!(find(&known, other.reveal(), 0), Some(Found::Unknown));
        let used = |known: &Known| known.tokens[&id].used.load(Ordering::Relaxed);
        assert!(!used(&known));
        for (text, seconds, expected) in [
            (&old, 9, valid.clone()),
            (&old, 10, Some(Found::Unknown)),
            (&new, 29, valid.clone()),
            (&new, 30, Some(Found::Unknown)),
        ] {
            assert_eq!(find(&known, text.reveal(), seconds), expected, "{seconds}");
        }
        assert!(used(&known));
        if let Some(token) = known.tokens.get_mut(&id) {
            token.ends = None;
        }
        assert_eq!(find(&known, new.reveal(), 59), valid);
        assert_eq!(find(&known, new.reveal(), 60), Some(Found::Stale));
        assert_eq!(find(&Known::default(), new.reveal(), 0), Some(Found::Stale));
        Ok(())
    }
}
