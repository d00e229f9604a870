//! What the servers say about all shards, asked once a second.

use std::collections::HashMap;
use std::convert::Infallible;
use std::time::Duration;

use outbox_relay::sqlstate::is_away;
use outbox_relay::standing::{self, ProjectionStanding, Standing};
use outbox_relay::{Metrics, Outlet, RelayStatus, Shard};
use sqlx::PgConnection;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use crate::pool::Pool;
use crate::projections;

const INTERVAL: Duration = Duration::from_secs(1);
/// For all answers of one sample.
const LIMIT: Duration = Duration::from_secs(3);
/// A sample speaks for this time: for the interval, a slow answer, and some more.
const CURRENT_FOR: Duration = Duration::from_secs(5);
/// How often NATS is asked where the stream of a shard ends whose relay is in another process.
const STREAM_INTERVAL: Duration = Duration::from_secs(5);
/// After this time without progress something is stalled. A takeover of a relay or projector takes up to 11 s.
const PATIENCE: Duration = Duration::from_secs(15);
/// Seconds for which an event may wait for the stream.
const WAIT_MAX: f64 = 30.0;

/// What the servers said.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    at: Instant,
    standings: Vec<Standing>,
    /// What makes no progress, one sentence each.
    pub(super) stalled: Vec<String>,
}

impl Sample {
    /// Why relays have stopped.
    pub(super) fn halted(&self) -> impl Iterator<Item = String> {
        self.standings.iter().filter_map(|Standing { shard, halted, .. }| {
            halted.as_ref().map(|reason| with_command(*shard, reason))
        })
    }
}

/// Why a relay has halted, with the command that lets it go on, if a new epoch does.
pub(super) fn with_command(shard: Shard, reason: &str) -> String {
    let command = format!(". `coupon relay epoch new --shard {shard}` begins one");
    format!("{reason}{}", if reason.contains("new epoch") { &command } else { "" })
}

/// Asks the servers once a second. However many clients ask this process, that costs the servers nothing more.
#[derive(Debug)]
pub struct Watch {
    pub pool: Pool,
    pub nats: async_nats::Client,
    pub outlet: Outlet,
    pub shards: i16,
    /// The relays in this process.
    pub relays: Vec<(Shard, watch::Receiver<RelayStatus>)>,
    /// Where the gauges are set.
    pub metrics: Metrics,
    found: watch::Sender<Option<Sample>>,
}

impl Watch {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(
        pool: Pool,
        (nats, outlet): (async_nats::Client, Outlet),
        shards: i16,
        relays: Vec<(Shard, watch::Receiver<RelayStatus>)>,
        metrics: Metrics,
    ) -> Self {
        Self { pool, nats, outlet, shards, relays, metrics, found: watch::Sender::default() }
    }

    /// Takes samples until it is dropped.
    pub(super) async fn run(&self) -> Infallible {
        let mut sampler = Sampler {
            watch: self,
            ends: HashMap::new(),
            told: false,
            unled: HashMap::new(),
            positions: HashMap::new(),
        };
        let mut ticks = interval(INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Ok(Ok(sample)) = timeout(LIMIT, sampler.sample()).await {
                self.found.send_replace(Some(sample));
            } else if self.current().is_none() {
                self.metrics.forget();
            }
        }
    }

    /// The last sample, if it is young enough to speak for this moment.
    pub(super) fn current(&self) -> Option<Sample> {
        self.found.borrow().clone().filter(|sample| sample.at.elapsed() < CURRENT_FOR)
    }
}

/// What one sample needs to know of those before.
struct Sampler<'a> {
    watch: &'a Watch,
    /// Where streams end, and when this was asked.
    ends: HashMap<Shard, (Instant, Option<i64>)>,
    /// Whether the log says that this login may not read them.
    told: bool,
    /// Since when nothing leads these shards.
    unled: HashMap<Shard, Instant>,
    /// The positions of the projections, and since when they have been there.
    positions: HashMap<(String, Shard), (i64, Instant)>,
}

impl Sampler<'_> {
    async fn sample(&mut self) -> Result<Sample, sqlx::Error> {
        let at = Instant::now();
        let mut connection = self.watch.pool.acquire().await?;
        let relays: Vec<(Shard, RelayStatus)> =
            self.watch.relays.iter().map(|(shard, relay)| (*shard, relay.borrow().clone())).collect();
        let read = self.read(&mut connection, &relays).await;
        let (standings, projections) = match read {
            // This login may not read them, or the schema is older: another process tells.
            Err(error) if error.as_database_error().is_some() && !is_away(&error) => {
                if !std::mem::replace(&mut self.told, true) {
                    tracing::warn!(%error, "this process cannot tell how far relays and projections are");
                }
                (Vec::new(), Vec::new())
            }
            read => {
                let read = read?;
                connection.rest();
                read
            }
        };
        self.watch.metrics.set(&relays, &standings, &projections);
        let mut stalled = self.stalled_relays(&standings);
        stalled.extend(self.stalled_projections(&projections));
        Ok(Sample { at, standings, stalled })
    }

    async fn read(
        &mut self,
        connection: &mut PgConnection,
        relays: &[(Shard, RelayStatus)],
    ) -> Result<(Vec<Standing>, Vec<ProjectionStanding>), sqlx::Error> {
        let (mut ends, mut answers) = (Vec::new(), true);
        for shard in (0..self.watch.shards).map(Shard) {
            let own = relays.iter().find(|(of, status)| *of == shard && status.found);
            let published = match own {
                Some((_, status)) => {
                    self.ends.insert(shard, (Instant::now(), Some(status.published)));
                    Some(status.published)
                }
                None => self.end_of(connection, shard, &mut answers).await,
            };
            ends.push((shard, published));
        }
        let standings = Standing::read(connection, &self.watch.outlet, &ends).await?;
        let names = projections::names();
        let projections = standing::of_projections(connection, &names, self.watch.shards).await?;
        Ok((standings, projections))
    }

    /// Where a stream ends, or where it ended when NATS last told: while it does not answer, what waits is told
    /// nevertheless. Nothing when it has never told. `answers`: whether NATS has answered in this sample, so that one
    /// sample waits for it once.
    async fn end_of(
        &mut self,
        connection: &mut PgConnection,
        shard: Shard,
        answers: &mut bool,
    ) -> Option<i64> {
        let known = self.ends.get(&shard).copied();
        let last = known.and_then(|(_, end)| end);
        if !*answers || known.is_some_and(|(asked_at, _)| asked_at.elapsed() < STREAM_INTERVAL) {
            return last;
        }
        let Watch { nats, outlet, .. } = self.watch;
        let asked = timeout(INTERVAL, standing::published(connection, nats, outlet, shard)).await;
        let end = if let Ok(Ok(end)) = asked {
            end
        } else {
            *answers = false;
            last
        };
        self.ends.insert(shard, (Instant::now(), end));
        end
    }

    fn stalled_relays(&mut self, standings: &[Standing]) -> Vec<String> {
        let mut stalled = Vec::new();
        for Standing { shard, leader, age, halted, .. } in standings {
            if leader.is_some() || halted.is_some() {
                self.unled.remove(shard);
            } else if self.unled.entry(*shard).or_insert_with(Instant::now).elapsed() > PATIENCE {
                stalled.push(format!("shard {shard}: no relay runs, so no event is published"));
            }
            if let Some(age) = age.filter(|age| *age > WAIT_MAX) {
                stalled.push(format!("shard {shard}: an event has waited {age:.0} s for the stream"));
            }
        }
        stalled
    }

    fn stalled_projections(&mut self, standings: &[ProjectionStanding]) -> Vec<String> {
        let mut stalled = Vec::new();
        for ProjectionStanding { projection, shard, position, lag, .. } in standings {
            let entry = self.positions.entry((projection.clone(), *shard));
            let (known, since) = entry.or_insert_with(|| (*position, Instant::now()));
            if *known != *position || *lag == 0 {
                (*known, *since) = (*position, Instant::now());
            } else if since.elapsed() > PATIENCE {
                stalled.push(format!(
                    "shard {shard}: projection {projection} has applied nothing for {} s, and {lag} events wait",
                    since.elapsed().as_secs()
                ));
            }
        }
        stalled
    }
}
