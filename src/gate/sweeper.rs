//! The sweeper: settles seats past their deadline, and brings gates to what Postgres says, whether they give too much
//! or too little. Every process may run one: each of its steps can be repeated.
//!
//! A round takes the campaigns in chunks, and all of a chunk side by side. What fails for one campaign is reported,
//! and the others go on. What is more than a round can take has its turn in the next ones.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use prometheus_client::metrics::counter::Counter;
use tokio::time::{MissedTickBehavior, interval};

use super::client::Client;
use super::connection::is_of_server;
use super::loader::{Loader, UPKEEP_RESPONSE_TIMEOUT};
use super::members::Members;
use super::redis::Seats;
use super::repair::{Suspect, Wrong, check, is_suspect};
use super::settle::{self, SweepError};
use super::walk::{Part, Waiting, Walk};
use crate::campaign::State;
use crate::campaign::sweep::{Chunk, Seen};
use crate::ids::CampaignId;
use crate::pool::Pool;
use crate::trouble::Troubles;

/// From the start of one round to the start of the next, at least.
const INTERVAL: Duration = Duration::from_millis(500);
/// The time between two reloads of a gate that contradicts Postgres, at least: a large one takes its time.
const RELOAD_INTERVAL: Duration = Duration::from_secs(5);
/// How long before its opening a gate is loaded, if Redis does not have it.
const LOADED_BEFORE: time::Duration = time::Duration::minutes(1);
/// Campaigns that are asked in one call whether they have pending seats.
const LOOKED_AT: usize = 500;

/// What the sweeper counts.
#[derive(Clone, Debug)]
pub struct Measures {
    /// Failures that concern one campaign alone.
    pub failures: Counter,
    /// Gates whose fields were put right, because they contradicted Postgres.
    pub corrected: Counter,
    /// Gates that were loaded again, because their seats contradicted Postgres.
    pub reloaded: Counter,
}

/// Sweeps until it is dropped.
pub async fn run(client: Client, pool: Pool, loader: Loader, measures: Measures) -> Infallible {
    let mut sweeper = Sweeper {
        client,
        pool,
        loader,
        seats: None,
        rounds: 0,
        walks: [Part::Live, Part::Closed, Part::Drafts].map(Walk::new),
        waiting: Waiting::default(),
        members: Members::default(),
        reloads: HashMap::new(),
        troubles: Troubles::new("a campaign was not swept", measures.failures.clone()),
        measures,
    };
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = false;
    loop {
        ticks.tick().await;
        let result = sweeper.round().await;
        if let Err(error) = &result {
            let cause = error as &dyn std::error::Error;
            if failed || error.is_outage() {
                tracing::debug!(error = cause, "sweeping fails");
            } else {
                tracing::warn!(error = cause, "sweeping fails");
                failed = true;
            }
        } else {
            failed = false;
        }
    }
}

struct Sweeper {
    client: Client,
    pool: Pool,
    loader: Loader,
    /// Kept from round to round; a round that fails drops it.
    seats: Option<Seats>,
    rounds: usize,
    walks: [Walk; 3],
    /// The live campaigns that wait for their turn.
    waiting: Waiting,
    members: Members,
    /// When gates that contradicted Postgres were last loaded.
    reloads: HashMap<CampaignId, Instant>,
    troubles: Troubles,
    measures: Measures,
}

impl Sweeper {
    async fn round(&mut self) -> Result<(), SweepError> {
        self.reloads.retain(|_, at| at.elapsed() < RELOAD_INTERVAL);
        let seats = match self.seats.take() {
            Some(seats) => seats,
            None => Seats::connect(&self.client, UPKEEP_RESPONSE_TIMEOUT).await?,
        };
        // Each round begins with another part, so that one that fails is not always before the others.
        self.rounds = self.rounds.wrapping_add(1);
        for turn in 0..=self.walks.len() {
            let place = (turn + self.rounds) % (self.walks.len() + 1);
            if place < self.walks.len() {
                self.walk(&seats, place).await?;
            } else {
                self.look_at_members(&seats).await?;
            }
        }
        self.settle_others(&seats).await?;
        self.seats = Some(seats);
        Ok(())
    }

    async fn walk(&mut self, seats: &Seats, place: usize) -> Result<(), SweepError> {
        let is_live = self.walks[place].part() == Part::Live;
        for _ in 0..self.walks[place].chunks() {
            let Chunk { seen: chunk, unreadable } = self.walks[place].next(&self.pool).await?;
            for (campaign, error) in unreadable {
                self.troubles.report(campaign, &error);
            }
            if is_live {
                self.waiting.seen(chunk.iter().map(|seen| seen.campaign().id));
            }
            self.sweep(seats, &chunk).await?;
            if self.walks[place].is_at_its_end() {
                if is_live {
                    self.waiting.ended();
                }
                break;
            }
        }
        Ok(())
    }

    /// Settles the seats of live campaigns that had no turn in this round.
    async fn settle_others(&mut self, seats: &Seats) -> Result<(), SweepError> {
        let others = self.waiting.others();
        for chunk in others.chunks(LOOKED_AT) {
            let with_pending = seats.with_pending(chunk).await?;
            let failed = settle::overdue(seats, &self.pool, with_pending).await?;
            self.report(seats, failed).await?;
        }
        Ok(())
    }

    async fn look_at_members(&mut self, seats: &Seats) -> Result<(), SweepError> {
        for (campaign, strangers) in self.members.next(seats, &self.pool).await? {
            self.reload(campaign, &format!("{} of its holders have no coupon", strangers.len()));
        }
        Ok(())
    }

    async fn sweep(&mut self, seats: &Seats, chunk: &[Seen]) -> Result<(), SweepError> {
        let ids: Vec<CampaignId> = chunk.iter().map(|seen| seen.campaign().id).collect();
        let (mut with_pending, mut suspects, mut failed) = (Vec::new(), Vec::new(), Vec::new());
        for (seen, record) in chunk.iter().zip(seats.records(&ids).await) {
            let id = seen.campaign().id;
            match record {
                Ok(None) if opens_soon(seen) => self.loader.want(id),
                Ok(None) => {}
                Ok(Some(record)) => {
                    if record.pending > 0 {
                        with_pending.push(id);
                    }
                    if is_suspect(seen, &record) {
                        suspects.push(Suspect { id, issued_before: seen.issued.into(), record });
                    }
                }
                Err(error) => failed.push((id, error)),
            }
        }
        failed.extend(settle::overdue(seats, &self.pool, with_pending).await?);
        let found = check(seats, &self.pool, suspects).await?;
        for (campaign, wrong) in found {
            match wrong {
                Wrong::Fields { corrected: Err(error), .. } => failed.push((campaign, error)),
                Wrong::Fields { corrected: Ok(()), is_older: true, .. } => {} // it has missed a change
                Wrong::Fields { difference, .. } => {
                    self.measures.corrected.inc();
                    tracing::warn!(%campaign, "the gate is put right: {difference}");
                }
                Wrong::Seats(what) => self.reload(campaign, &what),
            }
        }
        self.report(seats, failed).await
    }

    /// Has a gate loaded again, unless that was done a moment ago.
    fn reload(&mut self, campaign: CampaignId, why: &str) {
        if let Entry::Vacant(last) = self.reloads.entry(campaign) {
            last.insert(Instant::now());
            self.measures.reloaded.inc();
            tracing::warn!(%campaign, "the gate is reloaded: {why}");
            self.loader.want(campaign);
        }
    }

    /// Reports failures of single campaigns, whose gates are loaded again. If Redis as a whole fails, this fails.
    async fn report(&mut self, seats: &Seats, failed: Vec<settle::Failed>) -> Result<(), SweepError> {
        if let Some((_, error)) = failed.iter().find(|(_, error)| seats.is_of_all(error)) {
            return Err(error.clone().into());
        }
        // A node of a Cluster that is away: no load helps its campaigns, and the worker of the gate reports it.
        let mut own = failed.into_iter().filter(|(_, error)| !is_of_server(error)).peekable();
        if own.peek().is_some() {
            seats.clone().probe().await?;
        }
        let mut reported = HashSet::new();
        for (campaign, error) in own {
            if reported.insert(campaign) {
                self.troubles.report(campaign, &error);
                self.loader.want(campaign);
            }
        }
        Ok(())
    }
}

/// Whether a campaign opens so soon that its gate must be there.
fn opens_soon(seen: &Seen) -> bool {
    let (campaign, now) = (seen.campaign(), seen.snapshot.taken_at);
    campaign.state == State::Scheduled && campaign.opens_at <= now + LOADED_BEFORE
}
