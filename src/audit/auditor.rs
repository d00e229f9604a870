//! The audit that goes on while the service runs: round after round, in one process at a time.

use std::collections::HashSet;
use std::convert::Infallible;
use std::mem;
use std::time::{Duration, SystemTime};

use indicatif::ProgressBar;
use outbox_relay::in_time::InTime as _;
use outbox_relay::sqlstate;
use outbox_relay::stream::{connects, was_lost};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::difference::Difference;
use super::round::{Findings, Rounds};
use super::sources::{Sources, connect};
use crate::connections::Connections;
use crate::gate::connection;
use crate::storage::of_postgres;

/// From one round to the next. A side that stands still for this long is not merely behind.
const INTERVAL: Duration = Duration::from_secs(10);
/// For one round, many times what it takes. A server that does not answer is asked again in the next round. It is
/// also the longest time for which an outdated round is shown.
const ROUND_TIMEOUT: Duration = Duration::from_secs(30);
/// Settings of the session that holds the lock, enforced by the server: a frozen auditor, or one whose machine is gone,
/// gives way to another. Longer than the session is idle between two rounds or within one.
const HELD: [(&str, &str); 6] = [
    ("idle_session_timeout", "40s"),
    ("idle_in_transaction_session_timeout", "40s"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "30s"),
];
/// Failures of one round that the log names; the others are counted.
const FAILURES_SHOWN: usize = 5;

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
    rounds: Rounds,
    /// Whether another part of this process tells in the log that Redis is away.
    gate_told: bool,
    /// The differences of the last round, each by [`Difference::at`].
    found_before: HashSet<Difference>,
    /// The difference that the last round reported, by [`Difference::at`].
    reported: Option<Difference>,
    latest: watch::Sender<Option<AuditRound>>,
}

impl Auditor {
    /// An auditor of all shards.
    #[must_use]
    pub fn new(connections: Connections, shards: i16) -> Self {
        Self {
            connections,
            shards,
            connection: None,
            rounds: Rounds::new(shards),
            gate_told: false,
            found_before: HashSet::new(),
            reported: None,
            latest: watch::Sender::default(),
        }
    }

    /// Whether another part of this process tells in the log that Redis is away. Of Postgres and NATS, others always do.
    #[must_use]
    pub fn with_gate_told(self, gate_told: bool) -> Self {
        Self { gate_told, ..self }
    }

    /// The last round; nothing before the first one, while another process audits, and after a round that found no
    /// difference and could not audit everything.
    #[must_use]
    pub fn latest(&self) -> watch::Receiver<Option<AuditRound>> {
        self.latest.subscribe()
    }

    /// Audits until it is dropped. One process at a time audits; the others stand by.
    pub async fn run(mut self) -> Infallible {
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = false;
        loop {
            ticks.tick().await;
            let connects = connects(&self.connections.nats);
            let result = timeout(ROUND_TIMEOUT, self.round_if_leading()).await;
            let result = result.unwrap_or_else(|_| Err(anyhow::anyhow!("no end within {ROUND_TIMEOUT:?}")));
            let failures = result.unwrap_or_else(|error| {
                self.withdraw();
                vec![error]
            });
            let lost_nats = was_lost(&self.connections.nats, connects);
            let is_told = |error| is_of_outage(error, lost_nats, self.gate_told);
            match in_words(&failures) {
                Some(error) if told || failures.iter().all(is_told) => {
                    tracing::debug!("the audit fails: {error:#}");
                }
                Some(error) => {
                    let help = "`coupon doctor` tells which server is in trouble";
                    tracing::warn!("the audit fails and is repeated every {INTERVAL:?}; {help}: {error:#}");
                    told = true;
                }
                None if mem::take(&mut told) => tracing::info!("the audit succeeds again"),
                None => {}
            }
        }
    }

    async fn round_if_leading(&mut self) -> anyhow::Result<Vec<anyhow::Error>> {
        if self.leads().await? { self.look().await } else { Ok(Vec::new()) }
    }

    /// Whether this process holds the lock, or can take it.
    async fn leads(&mut self) -> Result<bool, sqlx::Error> {
        if self.connection.is_some() {
            return Ok(true);
        }
        let mut connection = connect(&self.connections.database.clone().options(HELD)).await?;
        let taken: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtext($1), 0)")
            .bind(self.connections.outlet.own("auditor"))
            .fetch_one(&mut connection)
            .in_time()
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
    /// Names the shards and campaigns that could not be audited. The others were, and a difference in them is the result
    /// of the round.
    pub async fn round(&mut self) -> anyhow::Result<()> {
        in_words(&self.look().await?).map_or(Ok(()), Err)
    }

    /// One round. Returns why what could not be audited. Fails if nothing could be.
    async fn look(&mut self) -> anyhow::Result<Vec<anyhow::Error>> {
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect(&self.connections.database).await?,
        };
        let bar = ProgressBar::hidden();
        let mut sources = Sources::new(&self.connections, connection, self.shards, bar).await?;
        let findings = self.rounds.next(&mut sources).await;
        let Sources { mut connection, failures, .. } = sources;
        if failures.is_empty() || connection.ping().in_time().await.is_ok() {
            self.connection = Some(connection); // or else it is dropped, and the lock with it
        }
        self.conclude(findings, failures.is_empty());
        Ok(failures)
    }

    fn conclude(&mut self, Findings { differences, drift }: Findings, complete: bool) {
        let named = differences
            .iter()
            .find(|found| found.is_certain())
            .or_else(|| differences.iter().find(|found| self.found_before.contains(&found.at())))
            .cloned();
        self.found_before = differences.iter().map(Difference::at).collect();
        if named.is_none() && !complete {
            return self.withdraw();
        }
        let at = named.as_ref().map(Difference::at);
        let reported_before = mem::replace(&mut self.reported, at);
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

/// Whether a round failed because a server was away, of which other parts of the process tell in the log: Postgres; Redis,
/// if `gate_told`; NATS, if the round has `lost_nats` and met no failure of the other two.
fn is_of_outage(error: &anyhow::Error, lost_nats: bool, gate_told: bool) -> bool {
    let of_redis = || error.chain().find_map(connection::is_gone);
    match of_postgres(error.as_ref()) {
        Some(error) => sqlstate::is_gone(error),
        None => of_redis().map_or(lost_nats, |is_gone| is_gone && gate_told),
    }
}

/// An error for what could not be audited; nothing if everything was.
fn in_words(failures: &[anyhow::Error]) -> Option<anyhow::Error> {
    let shown = failures.iter().take(FAILURES_SHOWN).map(|error| format!("{error:#}"));
    let shown = shown.collect::<Vec<_>>().join("; ");
    let more = failures.len().saturating_sub(FAILURES_SHOWN);
    match (failures.is_empty(), more) {
        (true, _) => None,
        (false, 0) => Some(anyhow::anyhow!(shown)),
        (false, more) => Some(anyhow::anyhow!("{shown}; and {more} more")),
    }
}
