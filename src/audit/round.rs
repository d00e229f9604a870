//! One round of the auditor: each shard and each chunk of campaigns by itself, at a cost in proportion to what is live
//! or new.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use outbox_relay::Shard;
use outbox_relay::audit::{ShardAudit, ShardPart};
use uuid::Uuid;

use super::campaigns::{CHUNK_CAMPAIGNS, Campaigns};
use super::difference::Difference;
use super::ends;
use super::leg::Look;
use super::legs::Legs;
use super::scan::{Part, Scan};
use super::sources::Sources;
use super::walk::Walk;
use crate::ids::CampaignId;
use crate::projections;
use outbox_relay::in_time::{InTime as _, SCAN_TIMEOUT};

/// Events that a round compares in all shards together, at most: the new ones first, then those that were compared
/// longest ago. A fifth of a second's work (measured: 110 thousand events a second with their messages, 85 thousand
/// with their rows); all of ten million events take three hours. A part that differs is compared in addition, so
/// that a round compares twice this number at most.
const ROUND_EVENTS: i64 = 10_000;
/// Campaigns that a round looks at, at most, beside those that are live or have new events. A million of them take
/// an hour and a half.
const ROUND_CAMPAIGNS: i64 = 2_000;
/// A round begins nothing more after this time. The next one begins elsewhere.
const ROUND_MAX: Duration = Duration::from_secs(20);

/// What a round finds.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) differences: Vec<Difference>,
    pub(super) drift: u64,
}

/// How far the rounds have come.
#[derive(Debug)]
pub(super) struct Rounds {
    begun: usize,
    /// How far the events of each shard are compared, once it has begun.
    scans: Vec<Option<Scan>>,
    /// The last campaign of the part that was looked at in the last round; nothing before the first part.
    campaign: Option<CampaignId>,
}

impl Rounds {
    pub(super) fn new(shards: i16) -> Self {
        Self { begun: 0, scans: (0..shards).map(|_| None).collect(), campaign: None }
    }

    /// One round. What fails is noted in `sources`, and everything else is looked at nevertheless.
    pub(super) async fn next(&mut self, sources: &mut Sources) -> Findings {
        let began = Instant::now();
        self.begun = self.begun.wrapping_add(1);
        let mut findings = Findings::default();
        let mut audited = Vec::new();
        let mut campaigns = BTreeSet::new();
        let mut shards: Vec<Shard> = (0..sources.shards).map(Shard).collect();
        let first = self.begun % shards.len().max(1);
        shards.rotate_left(first);
        for shard in shards {
            if began.elapsed() > ROUND_MAX {
                sources.fail(format_args!("shard {shard}"), anyhow::anyhow!("no time is left in this round"));
                continue;
            }
            match self.shard(sources, shard, &mut findings, &mut campaigns).await {
                Ok(ends) => audited.push(ends),
                Err(error) => sources.fail(format_args!("shard {shard}"), error),
            }
        }
        match self.due(sources, campaigns).await {
            Ok(due) => {
                let mut chunks: Vec<_> = due.chunks(CHUNK_CAMPAIGNS).collect();
                let first = self.begun % chunks.len().max(1);
                chunks.rotate_left(first);
                for chunk in chunks {
                    if began.elapsed() > ROUND_MAX {
                        let error = anyhow::anyhow!("no time is left in this round");
                        sources.fail(format_args!("{} campaigns", chunk.len()), error);
                    } else if let Err(error) = findings.figures(sources, &audited, chunk).await {
                        sources.fail(format_args!("{} campaigns", chunk.len()), error);
                    }
                }
            }
            Err(error) => sources.fail("the campaigns", error),
        }
        tracing::debug!(took = ?began.elapsed(), failures = sources.failures.len(), "audited");
        findings
    }

    /// The ends of a shard and the events whose turn it is. Adds the campaigns of the new ones to `touched`.
    async fn shard(
        &mut self,
        sources: &mut Sources,
        shard: Shard,
        findings: &mut Findings,
        touched: &mut BTreeSet<CampaignId>,
    ) -> anyhow::Result<ShardAudit> {
        let audited = ends::read(sources, shard).await?;
        findings.drift += (audited.behind() + audited.ahead() + audited.missing).unsigned_abs();
        findings.differences.extend(ends::differences(&audited));
        let mut budget = ROUND_EVENTS / i64::from(sources.shards);
        let ends = (audited.first - 1, audited.settled(&projections::names()));
        let Some(scan) = self.scans.get_mut(usize::from(shard.0.unsigned_abs())) else { return Ok(audited) };
        let scan = scan.get_or_insert_with(|| Scan::start(ends, budget));
        let mut differs = async |part| findings.compare(sources, shard, part).await;
        let suspect = scan.suspect(ends);
        scan.differing = differs(suspect).await?.0.then_some(suspect);
        let new = scan.new_events(ends, &mut budget);
        let (differing, campaigns) = differs(new).await?;
        touched.extend(campaigns);
        if differing {
            scan.differing.get_or_insert(new);
        }
        let old = scan.old_events(ends, new, &mut budget);
        if differs(old).await?.0 {
            scan.differing.get_or_insert(old);
        }
        Ok(audited)
    }

    /// The campaigns that are due: those that are live, those with new events, and the next part of all.
    async fn due(
        &mut self,
        sources: &mut Sources,
        touched: BTreeSet<CampaignId>,
    ) -> Result<Vec<CampaignId>, sqlx::Error> {
        let next = sqlx::query_scalar("SELECT id FROM campaigns WHERE id > $1 ORDER BY id LIMIT $2");
        let behind = self.campaign.map(Uuid::from).unwrap_or_default();
        let next: Vec<CampaignId> = next
            .bind(behind)
            .bind(ROUND_CAMPAIGNS)
            .fetch_all(&mut sources.connection)
            .within(SCAN_TIMEOUT)
            .await?;
        let is_last = (next.len() as i64) < ROUND_CAMPAIGNS;
        self.campaign = next.last().copied().filter(|_| !is_last);
        let live: Vec<CampaignId> =
            sqlx::query_scalar("SELECT id FROM campaigns WHERE state IN ('scheduled', 'open', 'paused')")
                .fetch_all(&mut sources.connection)
                .within(SCAN_TIMEOUT)
                .await?;
        let due: BTreeSet<CampaignId> = touched.into_iter().chain(next).chain(live).collect();
        Ok(due.into_iter().collect())
    }
}

impl Findings {
    /// Judges the figures of some campaigns.
    async fn figures(
        &mut self,
        sources: &mut Sources,
        shards: &[ShardAudit],
        ids: &[CampaignId],
    ) -> anyhow::Result<()> {
        let mut campaigns = Campaigns::of(sources, ids).await?;
        campaigns.know(shards);
        let mut legs = Legs::all();
        legs.quick(sources, &mut campaigns.list, Look::Brief).await?;
        self.differences.extend(campaigns.list.iter().flat_map(|campaign| legs.figures(campaign)));
        Ok(())
    }

    /// Compares a part of a shard. Returns whether it differs, and the campaigns of its events.
    async fn compare(
        &mut self,
        sources: &mut Sources,
        shard: Shard,
        (after, until): Part,
    ) -> anyhow::Result<(bool, BTreeSet<CampaignId>)> {
        let mut walk = Walk::default();
        if after >= until {
            return Ok((false, walk.campaigns));
        }
        let part = ShardPart { shard, after, until };
        let mut legs = Legs::all(); // which remember the events of this part alone
        let (compared, of_events) = legs.part(sources, part).await?;
        walk.events(&mut legs, sources, None, part).await?;
        let before = self.differences.len();
        self.drift += compared.more_in_stream + compared.different; // the ends count what is missing
        self.differences.extend(of_events);
        self.differences.extend(walk.differences.into_values());
        Ok((self.differences.len() > before, walk.campaigns))
    }
}
