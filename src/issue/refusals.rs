//! Refusals from memory. Most claims of a busy night come from users who get nothing: once the gate and Postgres both
//! refuse every new user of a campaign, a process answers the users who surely hold no coupon of it by itself.
//!
//! A refusal is repeated for [`VALID_FOR`] after the gate was last asked, never longer: a process that was frozen asks
//! again. Within this time a seat that is back on sale may still be refused by another process than the one that has
//! changed the campaign, and a user to whom another process has issued a coupon since may be refused without it. The
//! first answer that contradicts the memory ends it, so that what was shown once is shown again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use outbox_relay::{Shard, zoo};
use tokio::runtime::Handle;

use super::claim::{Outcome, Verdict};
use super::holders::{Holders, Reader};
use crate::campaign::store::Counted;
use crate::coupon::Refusal;
use crate::ids::{CampaignId, UserId};
use crate::pool::Pool;

/// For how long a refusal of the gate is repeated, from the moment at which the gate was asked.
const VALID_FOR: Duration = Duration::from_secs(1);
/// From this age of a refusal on, one claim at a time asks the gate again, and the others are answered from memory.
const RENEWED_AFTER: Duration = Duration::from_millis(400);
/// The next claim asks if that one has brought nothing within this time.
const TURN: Duration = Duration::from_millis(100);
/// After an attempt to remember a campaign has failed, the next one waits for this time.
const PAUSE: Duration = Duration::from_secs(1);
/// Refusals of the gate from which on it pays to read the holders of a campaign.
const WORTH_FROM: u32 = 100;
/// Campaigns that are remembered, at most.
const CAMPAIGNS_MAX: usize = 256;
/// A campaign that the gate has not refused for this long makes room for another.
const KEPT_FOR: Duration = Duration::from_secs(10);
/// The refusals that a process remembers.
#[derive(Debug)]
pub(super) struct Refusals {
    reader: Reader,
    /// Runs the reader, whichever thread has asked.
    runtime: Handle,
    started: Instant,
    entries: RwLock<HashMap<CampaignId, Arc<Entry>>>,
}

/// What is known of a campaign that refuses users.
#[derive(Debug, Default)]
struct Entry {
    refused: AtomicU32,
    /// When the gate last refused a user, in ms since the start.
    refused_at: AtomicU64,
    /// Before this moment, in ms since the start, nobody asks for the others.
    next_at: AtomicU64,
    is_read: AtomicBool,
    memory: RwLock<Option<Memory>>,
}

/// The task that reads the holders of a campaign: one at a time, however it ends.
struct Reading(Arc<Entry>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.is_read.store(false, Relaxed);
    }
}

/// A refusal for all users but the holders.
#[derive(Debug)]
struct Memory {
    refusal: Refusal,
    counted: Counted,
    asked_at: Instant,
    valid_until: Instant,
    holders: Holders,
}

impl Refusals {
    /// Remembers nothing yet. Must be called in a runtime, which then reads the holders.
    pub(super) fn new(pool: Pool) -> Self {
        Self {
            reader: Reader::new(pool),
            runtime: Handle::current(),
            started: Instant::now(),
            entries: RwLock::default(),
        }
    }

    /// Holders that are remembered, of all campaigns.
    pub(super) fn remembered(&self) -> usize {
        self.reader.remembered()
    }

    /// The refusal of this user, and the shard of the campaign. Nothing if the gate must be asked.
    pub(super) fn answer(&self, campaign: CampaignId, user: &UserId) -> Option<(Shard, Outcome)> {
        let entry = self.entry(campaign)?;
        let memory = entry.memory.read().unwrap_or_else(PoisonError::into_inner);
        let memory = memory.as_ref()?;
        let now = Instant::now();
        let is_valid = now < memory.valid_until || zoo::has("refusals-outlive-their-reason");
        if !is_valid || memory.holders.contain(self.reader.hash(user)) {
            return None;
        }
        if now >= memory.asked_at + RENEWED_AFTER && self.takes_turn(&entry) {
            return None;
        }
        let snapshot = &memory.counted.snapshot;
        Some((snapshot.campaign.shard, Outcome::new(Verdict::Refused(memory.refusal, None), snapshot)))
    }

    /// The gate, asked at `asked_at`, has refused a user without seats. Remembers that, if it pays.
    pub(super) fn learn(self: &Arc<Self>, campaign: CampaignId, refusal: Refusal, asked_at: Instant) {
        let Some(entry) = self.entry(campaign).or_else(|| self.insert(campaign)) else { return };
        entry.refused_at.store(self.millis(), Relaxed);
        if entry.refused.fetch_add(1, Relaxed) < WORTH_FROM {
            return;
        }
        let memory = entry.memory.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(|m| m.asked_at);
        let is_wanted = match memory {
            Some(asked_at) => asked_at.elapsed() >= RENEWED_AFTER,
            None => entry.next_at.load(Relaxed) <= self.millis(),
        };
        if is_wanted && !entry.is_read.swap(true, Relaxed) {
            let this = self.clone();
            let reading = Reading(entry.clone());
            drop(self.runtime.spawn(async move {
                let _reading = reading;
                let is_remembered =
                    this.read(campaign, &entry, refusal, asked_at).await.unwrap_or_else(|error| {
                        tracing::debug!(%campaign, %error, "the holders were not read");
                        false
                    });
                if !is_remembered {
                    *entry.memory.write().unwrap_or_else(PoisonError::into_inner) = None;
                    entry.next_at.store(this.millis() + millis(PAUSE), Relaxed);
                }
            }));
        }
    }

    /// Whether the process remembers the user as a holder of the campaign. The user may have lost the coupon since, if
    /// Postgres was restored: only Postgres can say.
    pub(super) fn knows_holder(&self, campaign: CampaignId, user: &UserId) -> bool {
        self.is_among_holders(campaign, user) == Some(true)
    }

    /// A user holds a coupon of the campaign. Forgets the campaign if the user is not among the holders.
    pub(super) fn holds(&self, campaign: CampaignId, user: &UserId) {
        if self.is_among_holders(campaign, user) == Some(false) {
            self.forget(campaign);
        }
    }

    /// Nothing if the holders are not remembered.
    fn is_among_holders(&self, campaign: CampaignId, user: &UserId) -> Option<bool> {
        let entry = self.entry(campaign)?;
        let memory = entry.memory.read().unwrap_or_else(PoisonError::into_inner);
        memory.as_ref().map(|memory| memory.holders.contain(self.reader.hash(user)))
    }

    /// Forgets a campaign that has changed, or that gives coupons.
    pub(super) fn forget(&self, campaign: CampaignId) {
        if self.entry(campaign).is_some() && !zoo::has("refusals-outlive-their-reason") {
            self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(&campaign);
        }
    }

    /// Remembers a refusal. Returns false if Postgres would not refuse all users for the same reason, has been restored
    /// to an earlier moment, or has more holders than can be remembered.
    async fn read(
        &self,
        campaign: CampaignId,
        entry: &Arc<Entry>,
        refusal: Refusal,
        asked_at: Instant,
    ) -> Result<bool, sqlx::Error> {
        let last = {
            let memory = entry.memory.read().unwrap_or_else(PoisonError::into_inner);
            memory.as_ref().and_then(|memory| memory.holders.last())
        };
        let counted = self.reader.count(campaign).await?;
        let Some(counted) = counted.filter(|counted| counted.refuses_all() == Some(refusal)) else {
            return Ok(false);
        };
        let Some(added) = self.reader.read(campaign, last, counted.issued).await? else {
            self.make_room(0); // for the next attempt
            return Ok(false);
        };
        self.keep(campaign, entry, (refusal, counted, asked_at), added);
        Ok(true)
    }

    /// Keeps what was read, unless the campaign was forgotten meanwhile.
    fn keep(
        &self,
        campaign: CampaignId,
        entry: &Arc<Entry>,
        (refusal, counted, asked_at): (Refusal, Counted, Instant),
        added: Holders,
    ) {
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        if !entries.get(&campaign).is_some_and(|current| Arc::ptr_eq(current, entry)) {
            return;
        }
        let mut memory = entry.memory.write().unwrap_or_else(PoisonError::into_inner);
        let mut holders = memory.take().map_or_else(Holders::default, |memory| memory.holders);
        holders.add(added);
        let valid_until = asked_at + counted.refuses_for().map_or(VALID_FOR, |time| time.min(VALID_FOR));
        *memory = Some(Memory { refusal, counted, asked_at, valid_until, holders });
    }

    fn entry(&self, campaign: CampaignId) -> Option<Arc<Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).get(&campaign).cloned()
    }

    /// A new entry; nothing if there are too many.
    fn insert(&self, campaign: CampaignId) -> Option<Arc<Entry>> {
        self.make_room(CAMPAIGNS_MAX);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        (entries.len() < CAMPAIGNS_MAX).then(|| entries.entry(campaign).or_default().clone())
    }

    /// Drops campaigns that have refused nobody lately, if there are as many as `entries_max`.
    fn make_room(&self, entries_max: usize) {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= entries_max {
            let oldest = self.millis().saturating_sub(millis(KEPT_FOR));
            entries.retain(|_, entry| entry.refused_at.load(Relaxed) >= oldest);
        }
    }

    /// Whether the caller asks for all others.
    fn takes_turn(&self, entry: &Entry) -> bool {
        let (now, next_at) = (self.millis(), entry.next_at.load(Relaxed));
        now >= next_at
            && entry.next_at.compare_exchange(next_at, now + millis(TURN), Relaxed, Relaxed).is_ok()
    }

    /// Since the start.
    fn millis(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
