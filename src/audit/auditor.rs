//! The audit that goes on while the service runs: quick figures every round, and as many events and
//! rows as a round can bear.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use indicatif::ProgressBar;
use outbox_relay::Shard;
use outbox_relay::audit::{ShardAudit, ShardPart};
use sqlx::PgConnection;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::campaigns::Campaigns;
use super::difference::Difference;
use super::ends;
use super::leg::Moment;
use super::legs::Legs;
use super::scan::{Part, Scan};
use super::sources::{Sources, connect};
use super::walk::Walk;
use crate::connections::Connections;
use crate::projections;

/// From one round to the next. A side that stands still for this long is not merely behind.
const INTERVAL: Duration = Duration::from_secs(10);
/// For one round, many times what it takes. A server that does not answer is asked again in the next round. It is
/// also the longest time for which an outdated round is shown.
const ROUND_TIMEOUT: Duration = Duration::from_secs(30);
/// Events that a round compares in all shards together, at most: the new ones first, then those that were compared
/// longest ago. A fifth of a second's work (measured: 110 thousand events a second with their messages, 85 thousand
/// with their rows); all of ten million events take three hours. A part that differs is compared in addition, so
/// that a round compares twice this number at most.
const ROUND_EVENTS: i64 = 10_000;

/// What a round of the auditor came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRound {
    /// Nothing differs that events on their way could not explain.
    pub balanced: bool,
    pub first_difference: Option<Difference>,
    /// Events by which the sides differ, as far as the round could tell; 0 when it is balanced.
    pub drift: u64,
    pub finished_at: SystemTime,
}

/// Audits round after round. A difference that events on their way could explain is reported once the next round
/// finds it unchanged, or finds a side that lags where it was; any other at once.
#[derive(Debug)]
pub struct Auditor {
    connections: Connections,
    shards: i16,
    /// Holds the lock of the auditors.
    connection: Option<PgConnection>,
    /// How far the events of each shard are compared, once it has begun.
    scans: Vec<Option<Scan>>,
    /// The differences of the last round, each by [`Difference::at`].
    found_before: HashSet<Difference>,
    /// The difference that the last round reported, by [`Difference::at`].
    reported: Option<Difference>,
    latest: watch::Sender<Option<AuditRound>>,
}

/// What a round finds.
#[derive(Debug, Default)]
struct Findings {
    differences: Vec<Difference>,
    drift: u64,
}

impl Auditor {
    /// An auditor of all shards.
    #[must_use]
    pub fn new(connections: Connections, shards: i16) -> Self {
        Self {
            connections,
            shards,
            connection: None,
            scans: (0..shards).map(|_| None).collect(),
            found_before: HashSet::new(),
            reported: None,
            latest: watch::Sender::default(),
        }
    }

    /// The last round; nothing before the first one, after one that failed, and while another process audits.
    #[must_use]
    pub fn latest(&self) -> watch::Receiver<Option<AuditRound>> {
        self.latest.subscribe()
    }

    /// Audits until it is dropped. One process at a time audits; the others stand by.
    pub async fn run(mut self) -> Infallible {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failed = false;
        loop {
            ticks.tick().await;
            let result = timeout(ROUND_TIMEOUT, self.round_if_leading()).await;
            let result = result.unwrap_or_else(|_| Err(anyhow::anyhow!("no end within {ROUND_TIMEOUT:?}")));
            if let Err(error) = &result {
                if !failed {
                    let help = "`coupon doctor` tells which server is in trouble";
                    tracing::warn!("the audit fails and is repeated every {INTERVAL:?}; {help}: {error:#}");
                }
                self.withdraw();
            }
            failed = result.is_err();
        }
    }

    async fn round_if_leading(&mut self) -> anyhow::Result<()> {
        if self.leads().await? { self.round().await } else { Ok(()) }
    }

    /// Whether this process holds the lock, or can take it.
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

    /// The last round says nothing about now.
    fn withdraw(&mut self) {
        self.reported = None;
        self.latest.send_if_modified(|round| round.take().is_some());
    }

    /// One round. It needs no lock: an audit changes nothing, and the lock only keeps load from the servers.
    ///
    /// # Errors
    /// When one of the servers cannot be asked. The last round stands, until [`Auditor::run`] withdraws it.
    pub async fn round(&mut self) -> anyhow::Result<()> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.connections.database).await?,
        };
        let bar = ProgressBar::hidden();
        let mut sources = Sources::new(&self.connections, connection, self.shards, bar).await?;
        let findings = self.look(&mut sources).await?;
        self.connection = Some(sources.connection); // after a failure it is dropped, and the lock with it
        self.conclude(findings);
        Ok(())
    }

    async fn look(&mut self, sources: &mut Sources) -> anyhow::Result<Findings> {
        let mut findings = Findings::default();
        let shards = ends::read(sources).await?;
        for audited in &shards {
            findings.drift += (audited.behind() + audited.ahead() + audited.missing).unsigned_abs();
            findings.differences.extend(ends::differences(audited));
        }
        let mut campaigns = Campaigns::read(&mut sources.connection, &shards, None).await?;
        let mut legs = Legs::all();
        legs.quick(sources, &mut campaigns).await?;
        for campaign in &campaigns.list {
            findings.differences.extend(legs.figures(campaign, Moment::UnderWay));
        }
        for audited in &shards {
            self.scan(sources, &campaigns, audited, &mut findings).await?;
        }
        Ok(findings)
    }

    /// Compares what differed in a shard, what is new, and then what was compared longest ago.
    async fn scan(
        &mut self,
        sources: &mut Sources,
        campaigns: &Campaigns,
        audited: &ShardAudit,
        findings: &mut Findings,
    ) -> anyhow::Result<()> {
        let mut budget = ROUND_EVENTS / i64::from(self.shards);
        let ends = (audited.first - 1, audited.settled(&projections::names()));
        let Some(scan) = self.scans.get_mut(usize::from(audited.shard.0.unsigned_abs())) else {
            return Ok(());
        };
        let scan = scan.get_or_insert_with(|| Scan::start(ends, budget));
        let mut differs = async |part| findings.compare(sources, campaigns, audited.shard, part).await;
        let suspect = scan.suspect(ends);
        scan.differing = differs(suspect).await?.then_some(suspect);
        let new = scan.new_events(ends, &mut budget);
        if differs(new).await? {
            scan.differing.get_or_insert(new);
        }
        let old = scan.old_events(ends, new, &mut budget);
        if differs(old).await? {
            scan.differing.get_or_insert(old);
        }
        Ok(())
    }

    fn conclude(&mut self, Findings { differences, drift }: Findings) {
        let named = differences
            .iter()
            .find(|found| found.is_certain())
            .or_else(|| differences.iter().find(|found| self.found_before.contains(&found.at())))
            .cloned();
        self.found_before = differences.iter().map(Difference::at).collect();
        let at = named.as_ref().map(Difference::at);
        let reported_before = std::mem::replace(&mut self.reported, at);
        match &named {
            None if reported_before.is_some() => tracing::info!("balanced again"),
            Some(found) if reported_before != self.reported => {
                tracing::warn!(drift, "not balanced: {found}");
            }
            _ => {}
        }
        self.latest.send_replace(Some(AuditRound {
            balanced: named.is_none(),
            drift: if named.is_none() { 0 } else { drift },
            first_difference: named,
            finished_at: SystemTime::now(),
        }));
    }
}

impl Findings {
    /// Compares a part of a shard. Returns whether it differs.
    async fn compare(
        &mut self,
        sources: &mut Sources,
        campaigns: &Campaigns,
        shard: Shard,
        (after, until): Part,
    ) -> anyhow::Result<bool> {
        if after >= until {
            return Ok(false);
        }
        let part = ShardPart { shard, after, until };
        let mut legs = Legs::all(); // which remember the events of this part alone
        let (compared, of_events) = legs.part(sources, part).await?;
        let mut walk = Walk::default();
        walk.events(&mut legs, sources, campaigns, part).await?;
        let before = self.differences.len();
        self.drift += compared.more_in_stream + compared.different; // the ends count what is missing
        self.differences.extend(of_events);
        self.differences.extend(walk.differences.into_values());
        Ok(self.differences.len() > before)
    }
}
