//! A walk along the campaigns that are swept: a chunk at a time, from the first to the last and again.

use std::collections::HashMap;

use super::record::GRACE;
use crate::campaign::Campaign;
use crate::campaign::sweep::{self, Chunk};
use crate::ids::CampaignId;
use crate::pool::Pool;

/// Campaigns in one chunk: one query to Postgres, and their calls of Redis side by side.
const CHUNK: i64 = 500;
/// Chunks of live campaigns in a round, at most: 1,500 campaigns in half a second, which cost Redis, Postgres and this
/// process about 20 ms of a processor each. With more campaigns, a gate that differs waits for its turn: with 20,000
/// for 7 s. Seats do not wait so long, see [`Waiting`].
const LIVE_CHUNKS: usize = 3;
/// How long a campaign is swept after it has closed: long after the last lease. The first walk goes back as far as
/// gates are kept, since seats may have been left pending while no process ran.
pub(crate) const SWEPT_AFTER_CLOSE: time::Duration = time::Duration::hours(1);

/// Which campaigns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Those that take claims, or will.
    Live,
    /// Those that have closed lately. No claim gets a coupon of them, so their turn may come later.
    Closed,
    /// Their gates refuse all claims; only the reason could be wrong.
    Drafts,
}

/// How far a walk has come.
#[derive(Debug)]
pub(super) struct Walk {
    part: Part,
    /// The last campaign of the last chunk; nothing at the beginning.
    after: Option<Campaign>,
    /// How long campaigns have been closed, at most.
    over: time::Duration,
}

impl Walk {
    pub(super) fn new(part: Part) -> Self {
        Self { part, after: None, over: GRACE }
    }

    pub(super) fn part(&self) -> Part {
        self.part
    }

    /// How many chunks a round takes, at most.
    pub(super) fn chunks(&self) -> usize {
        match self.part {
            Part::Live => LIVE_CHUNKS,
            Part::Closed | Part::Drafts => 1,
        }
    }

    /// The next chunk, or the first one after the last.
    pub(super) async fn next(&mut self, pool: &Pool) -> Result<Chunk, sqlx::Error> {
        let after = self.after.as_ref();
        let chunk = match self.part {
            Part::Live => sweep::live(pool, after, CHUNK).await?,
            Part::Closed => sweep::closed(pool, self.over, after, CHUNK).await?,
            Part::Drafts => sweep::drafts(pool, after, CHUNK).await?,
        };
        let is_full = i64::try_from(chunk.rows()).is_ok_and(|count| count >= CHUNK);
        self.after = chunk.seen.last().map(|seen| seen.campaign().clone()).filter(|_| is_full);
        if !is_full {
            self.over = SWEPT_AFTER_CLOSE;
        }
        Ok(chunk)
    }

    /// Whether the last chunk was the last one.
    pub(super) fn is_at_its_end(&self) -> bool {
        self.after.is_none()
    }
}

/// The campaigns of a walk that wait for their turn, in which seats may be past their deadline meanwhile.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// In which walk and which round a campaign had its last turn.
    turns: HashMap<CampaignId, (usize, usize)>,
    walk: usize,
    round: usize,
}

impl Waiting {
    /// Notes that these have their turn in this round.
    pub(super) fn seen(&mut self, campaigns: impl Iterator<Item = CampaignId>) {
        let turn = (self.walk, self.round);
        self.turns.extend(campaigns.map(|campaign| (campaign, turn)));
    }

    /// Notes that the walk has come to its end. A campaign that it has not met is no part of it any more.
    pub(super) fn ended(&mut self) {
        self.turns.retain(|_, (walk, _)| *walk == self.walk);
        self.walk = self.walk.wrapping_add(1);
    }

    /// Ends a round. Returns the campaigns that had no turn in it.
    pub(super) fn others(&mut self) -> Vec<CampaignId> {
        let others = self.turns.iter().filter(|(_, (_, round))| *round != self.round);
        let others = others.map(|(campaign, _)| *campaign).collect();
        self.round = self.round.wrapping_add(1);
        others
    }
}
