//! The holders of a campaign's coupons, as hashes, read from Postgres: a user who is not among them surely holds none.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Semaphore;

use crate::campaign::store::{self, Counted};
use crate::coupon::store::{Holder, holders};
use crate::ids::{CampaignId, CouponId, UserId};
use crate::pool::Pool;
use crate::storage::prepared;

/// Holders that are remembered, of all campaigns together, at most. Each takes 8 bytes: 8 MB per million.
const HOLDERS_MAX: usize = 4_000_000;
/// Holders in one answer of Postgres.
const CHUNK: i64 = 2_000;
/// Statements at Postgres at the same time, of the few connections of the pool.
const STATEMENTS_AT_ONCE: usize = 2;

/// Reads holders.
#[derive(Debug)]
pub(super) struct Reader {
    pool: Pool,
    statements: Semaphore,
    hashes: RandomState,
    remembered: Arc<AtomicUsize>,
}

/// The holders of one campaign.
#[derive(Debug, Default)]
pub(super) struct Holders {
    /// Sorted. Two users with one hash cost a question.
    hashes: Vec<u64>,
    last: Last,
    rooms: Vec<Room>,
}

/// The coupon with the highest number that is known, if any is: Postgres still has it, unless it was restored.
pub(super) type Last = Option<(i32, CouponId)>;

/// A part of [`HOLDERS_MAX`].
#[derive(Debug)]
struct Room {
    holders: usize,
    remembered: Arc<AtomicUsize>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.remembered.fetch_sub(self.holders, Relaxed);
    }
}

impl Reader {
    pub(super) fn new(pool: Pool) -> Self {
        let statements = Semaphore::new(STATEMENTS_AT_ONCE);
        Self { pool, statements, hashes: RandomState::new(), remembered: Arc::default() }
    }

    /// Holders that are remembered, of all campaigns.
    pub(super) fn remembered(&self) -> usize {
        self.remembered.load(Relaxed)
    }

    pub(super) fn hash(&self, user: &UserId) -> u64 {
        self.hashes.hash_one(user.as_str())
    }

    /// A campaign, and how many coupons it has.
    pub(super) async fn count(&self, campaign: CampaignId) -> Result<Option<Counted>, sqlx::Error> {
        let _turn = self.statements.acquire().await;
        store::counted(&self.pool, campaign).await
    }

    /// The holders behind the `last` that is known, up to number `issued`. Nothing if Postgres does not have the last
    /// one any more, or if they are too many.
    pub(super) async fn read(
        &self,
        campaign: CampaignId,
        last: Last,
        issued: i32,
    ) -> Result<Option<Holders>, sqlx::Error> {
        let known = last.map_or(0, |(number, _)| number);
        let Some(room) = usize::try_from(issued - known).ok().and_then(|holders| self.room(holders)) else {
            return Ok(None);
        };
        let mut added = Holders { hashes: Vec::with_capacity(room.holders), last, rooms: vec![room] };
        let mut expected = last;
        let mut reached = if last.is_some() { known - 1 } else { known }; // the last one is read again
        while reached < issued {
            let chunk: Vec<Holder> = {
                let _turn = self.statements.acquire().await;
                prepared!(self.pool, |connection| holders(connection, campaign, reached, CHUNK))?
            };
            reached = chunk.last().map_or(issued, |holder| holder.number);
            let mut new = chunk.into_iter().take_while(|holder| holder.number <= issued);
            if let Some(expected) = expected.take()
                && new.next().map(|holder| (holder.number, holder.coupon)) != Some(expected)
            {
                return Ok(None);
            }
            for holder in new {
                added.hashes.push(self.hash(&holder.user_id));
                added.last = Some((holder.number, holder.coupon));
            }
        }
        Ok(Some(added))
    }

    /// Nothing if more holders would be remembered than may be.
    fn room(&self, holders: usize) -> Option<Room> {
        let reserved = self.remembered.fetch_update(Relaxed, Relaxed, |remembered| {
            Some(remembered + holders).filter(|sum| *sum <= HOLDERS_MAX)
        });
        reserved.ok().map(|_| Room { holders, remembered: self.remembered.clone() })
    }
}

impl Holders {
    pub(super) fn contain(&self, hash: u64) -> bool {
        self.hashes.binary_search(&hash).is_ok()
    }

    pub(super) fn last(&self) -> Last {
        self.last
    }

    pub(super) fn add(&mut self, added: Self) {
        self.last = added.last;
        if !added.hashes.is_empty() {
            self.hashes.extend(added.hashes);
            self.hashes.sort_unstable();
            self.rooms.extend(added.rooms);
        }
    }
}
