//! The audit that goes on while the service runs: quick figures every round, and as many events and
//! rows as a round can bear.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use outbox_relay::Shard;
use outbox_relay::audit::{ShardAudit, ShardPart, compare};
use sqlx::PgConnection;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::rows::Rows;
use super::{GATE_TIMEOUT, Lag, PROJECTIONS, behind, connect, differences, ends, figures};
use crate::connections::Connections;
use crate::event::OUTLET;
use crate::gate::redis::Seats;

/// From one round to the next. What stands still for so long is not on its way.
const INTERVAL: Duration = Duration::from_secs(10);
/// Far longer than a round takes; a server that does not answer is asked again in the next one. For so
/// long a verdict may stand that nobody can give any more.
const ROUND_TIMEOUT: Duration = Duration::from_secs(30);
/// Events that a round compares, at the most, in all shards: first what is new, then on with what was
/// compared longest ago. A fifth of a second's work (measured: 110 thousand events a second with their
/// messages, 85 thousand with their rows); once around ten million takes three hours. What differs is
/// compared besides, as many again at the most.
const ROUND_EVENTS: i64 = 10_000;

/// What the last round came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Nothing differs but what is on its way.
    pub balanced: bool,
    /// The first thing that differs.
    pub first_difference: Option<String>,
    /// Events by which the sides differ, as far as the round could tell; 0 when it is balanced.
    pub drift: u64,
    pub finished_at: SystemTime,
}

/// Audits round after round. What one round finds may be on its way. It is reported when the next
/// round finds the very same, figures and all, or a side that lags where it stood, however far the
/// outbox has gone since; or at once when nothing on its way can explain it.
#[derive(Debug)]
pub struct Auditor {
    connections: Connections,
    shards: i16,
    connection: Option<PgConnection>,
    /// Of each shard, once it has begun.
    tours: Vec<Option<Tour>>,
    /// By the last round: what stood where.
    found_before: HashSet<String>,
    /// The same of what the last verdict named.
    named_before: Option<String>,
    verdict: watch::Sender<Option<Verdict>>,
}

/// The events behind a position, up to and including another.
type Part = (i64, i64);

/// How far the comparison of a shard has come.
#[derive(Clone, Copy, Debug)]
struct Tour {
    /// The newest events are compared up to here.
    newest: i64,
    /// The others are compared again and again, this time up to here.
    again: i64,
    /// A part that differs. It is compared in every round, besides, until it does no more.
    differing: Option<Part>,
}

/// What one round finds.
#[derive(Debug, Default)]
struct Findings {
    /// What cannot be on its way.
    certain: Vec<String>,
    /// What may be, for as long as no other round finds it to stand where it stood.
    moving: Vec<Lag>,
    drift: u64,
}

impl Auditor {
    /// An auditor of all shards.
    #[must_use]
    pub fn new(connections: Connections, shards: i16) -> Self {
        let tours = (0..shards).map(|_| None).collect();
        let (found_before, verdict) = (HashSet::new(), watch::Sender::default());
        Self { connections, shards, connection: None, tours, found_before, named_before: None, verdict }
    }

    /// What the last round came to; nothing before the first one, after one that failed, and while another
    /// process audits.
    #[must_use]
    pub fn verdict(&self) -> watch::Receiver<Option<Verdict>> {
        self.verdict.subscribe()
    }

    /// Audits until it is dropped. One process at a time does; any number stand by.
    pub async fn run(mut self) -> Infallible {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed = false;
        loop {
            ticks.tick().await;
            let result = timeout(ROUND_TIMEOUT, self.round_if_leading()).await;
            let result = result.unwrap_or_else(|_| Err(anyhow::anyhow!("not within {ROUND_TIMEOUT:?}")));
            if let Err(error) = &result {
                if !failed {
                    tracing::warn!("auditing fails: {error:#}");
                }
                self.withdraw();
            }
            failed = result.is_err();
        }
    }

    async fn round_if_leading(&mut self) -> anyhow::Result<()> {
        if self.leads().await? { self.round().await } else { Ok(()) }
    }

    /// Whether this process holds the lock, or can have it.
    async fn leads(&mut self) -> Result<bool, sqlx::Error> {
        if self.connection.is_some() {
            return Ok(true);
        }
        let mut connection = connect(&self.connections.database).await?;
        let taken: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext('auditor'), 0)")
            .fetch_one(&mut connection)
            .await?;
        if taken {
            self.connection = Some(connection);
            self.found_before.clear();
        } else {
            self.withdraw();
        }
        Ok(taken)
    }

    /// Nothing is known any more.
    fn withdraw(&mut self) {
        self.named_before = None;
        self.verdict.send_if_modified(|verdict| verdict.take().is_some());
    }

    /// One round. Whoever calls it by himself needs no lock: an audit changes nothing, and the lock
    /// only spares the servers.
    ///
    /// # Errors
    /// When one of the servers cannot be asked. The last verdict stands, until [`Auditor::run`] withdraws it.
    pub async fn round(&mut self) -> anyhow::Result<()> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.connections.database).await?,
        };
        let findings = self.look(&mut connection).await?;
        self.connection = Some(connection); // one that failed is not used again
        self.conclude(findings);
        Ok(())
    }

    async fn look(&mut self, connection: &mut PgConnection) -> anyhow::Result<Findings> {
        let mut findings = Findings::default();
        let audited = ends(&self.connections, connection, self.shards).await?;
        for shard in &audited {
            findings.in_shard(shard);
        }
        self.figures(connection, &audited, &mut findings).await?;
        for shard in &audited {
            self.tour(connection, shard, &mut findings).await?;
        }
        Ok(findings)
    }

    async fn figures(
        &self,
        connection: &mut PgConnection,
        audited: &[ShardAudit],
        findings: &mut Findings,
    ) -> anyhow::Result<()> {
        let mut gates = Seats::connect(&self.connections.redis, GATE_TIMEOUT).await?;
        for balance in figures::read(&self.connections, connection, &mut gates, self.shards, None).await? {
            let whole = audited.iter().any(|shard| shard.shard == balance.shard && shard.is_whole());
            let told = differences::in_stream(&balance).filter(|_| whole);
            let differs = differences::oversold(&balance).or_else(|| differences::under_way(&balance));
            findings.moving.extend(differs.or(told).map(at_rest));
        }
        Ok(())
    }

    /// Compares what differed in a shard, what is new, and then goes on where it was compared longest ago.
    async fn tour(
        &mut self,
        connection: &mut PgConnection,
        audited: &ShardAudit,
        findings: &mut Findings,
    ) -> anyhow::Result<()> {
        let mut budget = ROUND_EVENTS / i64::from(self.shards);
        let (begin, end) = (audited.first - 1, audited.settled(&PROJECTIONS));
        let Some(tour) = self.tours.get_mut(usize::from(audited.shard.0.unsigned_abs())) else {
            return Ok(());
        };
        let tour = tour.get_or_insert(Tour { newest: end - budget, again: begin, differing: None });
        let connections = &self.connections;
        let mut compared =
            async |part| differing(connections, connection, audited.shard, part, findings).await;
        let (after, until) = tour.differing.unwrap_or_default();
        tour.differing = compared((after.max(begin), until.min(end))).await?;
        let new = part((tour.newest.min(end).max(begin), end), &mut budget);
        tour.differing = tour.differing.or(compared(new).await?);
        tour.newest = new.1;
        let again = if tour.again >= new.0 { begin } else { tour.again.max(begin) };
        let old = part(beside((again, new.0), tour.differing), &mut budget);
        tour.differing = tour.differing.or(compared(old).await?);
        tour.again = old.1;
        Ok(())
    }

    fn conclude(&mut self, findings: Findings) {
        let Findings { certain, moving, drift } = findings;
        let still = moving.iter().find(|found| self.found_before.contains(&found.at)).cloned();
        let named = certain.into_iter().next().map(at_rest).or(still);
        self.found_before = moving.into_iter().map(|found| found.at).collect();
        let named_before = self.named_before.take();
        match &named {
            None if named_before.is_some() => tracing::info!("balanced again"),
            Some(found) if named_before.as_ref() != Some(&found.at) => {
                tracing::warn!(drift, "not balanced: {}", found.difference);
            }
            _ => {}
        }
        self.named_before = named.as_ref().map(|found| found.at.clone());
        let first_difference = named.map(|found| found.difference);
        let balanced = first_difference.is_none();
        let drift = if balanced { 0 } else { drift };
        self.verdict.send_replace(Some(Verdict {
            balanced,
            first_difference,
            drift,
            finished_at: SystemTime::now(),
        }));
    }
}

/// As much of a part as the budget allows.
fn part((after, end): Part, budget: &mut i64) -> Part {
    let until = end.min(after + *budget).max(after);
    *budget -= until - after;
    (after, until)
}

/// As much of a part as lies before the one that differs, or else behind it.
fn beside((after, end): Part, differing: Option<Part>) -> Part {
    match differing {
        Some((begin, _)) if after < begin => (after, end.min(begin)),
        Some((_, until)) => (after.max(until), end),
        None => (after, end),
    }
}

/// Compares a part of a shard, and answers it if it differs.
async fn differing(
    connections: &Connections,
    connection: &mut PgConnection,
    shard: Shard,
    part: Part,
    findings: &mut Findings,
) -> anyhow::Result<Option<Part>> {
    if part.0 >= part.1 {
        return Ok(None);
    }
    let events = ShardPart { shard, after: part.0, until: part.1 };
    let comparison = compare(connection, &connections.nats, &OUTLET, events, drop).await?;
    let mut rows = Rows::default();
    rows.compare(connection, shard, part, drop).await?;
    let differs = comparison.first_difference.is_some() || !rows.differences.is_empty();
    findings.drift += comparison.extra + comparison.different; // what is missing, the ends tell
    findings.moving.extend(comparison.first_difference.map(|found| at_rest(found.to_string())));
    let rows = rows.differences.into_iter().map(|(id, named)| format!("campaign {id}: {named}"));
    findings.moving.extend(rows.map(at_rest));
    Ok(differs.then_some(part))
}

/// What stands still only as long as all of its words stay the same.
fn at_rest(difference: String) -> Lag {
    Lag { at: difference.clone(), difference }
}

impl Findings {
    fn in_shard(&mut self, shard: &ShardAudit) {
        self.drift += (shard.behind() + shard.ahead() + shard.missing).unsigned_abs();
        self.certain.extend(shard.contradiction().map(|found| found.to_string()));
        self.moving.extend(shard.lag().map(Lag::from));
        self.moving.extend(behind(shard));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_ends_with_the_budget_or_the_events() {
        let mut budget = 10;
        assert_eq!(part((4, 7), &mut budget), (4, 7));
        assert_eq!(part((9, 8), &mut budget), (9, 9)); // the end may have gone back
        assert_eq!(part((0, 100), &mut budget), (0, 7));
        assert_eq!(part((7, 100), &mut budget), (7, 7));
    }

    #[test]
    fn what_is_compared_in_every_round_is_left_out_of_the_tour() {
        let differing = Some((10, 20));
        for (behind, rest) in [
            ((0, 30), (0, 10)),
            ((0, 5), (0, 5)),
            ((10, 30), (20, 30)),
            ((15, 30), (20, 30)),
            ((20, 30), (20, 30)),
            ((25, 30), (25, 30)),
        ] {
            assert_eq!(beside(behind, differing), rest);
        }
        assert_eq!(beside((0, 30), None), (0, 30));
        let mut budget = 10;
        assert_eq!(part(beside((0, 20), Some((0, 20))), &mut budget), (20, 20));
    }
}
