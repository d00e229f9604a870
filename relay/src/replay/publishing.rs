//! Publishes the events of a run into the stream of replays.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::chain::Chain;
use super::error::ReplayError;
use super::pace::Pace;
use super::replayer::Replayer;
use super::run::Run;
use super::run_state::RunState;
use super::selection::{REPLAY_BATCH_EVENTS, Range};
use crate::epoch::{Epoch, Epochs};
use crate::event::{EPOCH_HEADER, EVENT_ID_HEADER, StoredEvent};
use crate::failpoint;
use crate::in_time::InTime as _;
use crate::leadership;
use crate::outbox;
use crate::outlet::{Outlet, Shard};
use crate::retry::Retry;
use crate::stream::StreamError;
use crate::zoo;

/// Positions that one statement scans, however few of them are selected.
const SCAN_POSITIONS: i64 = 20_000;
/// How often a run checks whether it was cancelled.
const STATE_CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// After this time of failures without one acknowledgement the run gives up.
const FAILING_MAX: Duration = Duration::from_secs(30);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// All selected events are in the stream.
    Done,
    /// It was stopped, and can be resumed.
    Stopped,
    /// The run was cancelled.
    Cancelled,
}

/// Why publishing ends early.
enum Stop {
    Ended(RunEnd),
    Failed(ReplayError),
}

impl<E: Into<ReplayError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Replayer {
    /// Publishes until all events are acknowledged, the run is cancelled, or `stop`; then it first waits for
    /// the acknowledgements of what is in flight. Calls `progress` once for each event that is published.
    ///
    /// It retries through an interruption of NATS of up to 30 s.
    ///
    /// # Errors
    /// When a server stays away or the outbox has dropped the events.
    pub async fn publish(
        mut self,
        stop: &CancellationToken,
        progress: impl FnMut(),
    ) -> Result<RunEnd, ReplayError> {
        let result = publish(&mut self, stop, progress).await;
        // Frees the lock before this returns; if the statement fails, Postgres frees it when it ends the
        // session.
        let release = sqlx::query("SELECT pg_advisory_unlock_all()");
        drop(release.execute(&mut self.connection).in_time().await);
        result
    }
}

async fn publish(
    replayer: &mut Replayer,
    stop: &CancellationToken,
    mut progress: impl FnMut(),
) -> Result<RunEnd, ReplayError> {
    let mut pace = Pace::new(replayer.run.rate, Instant::now());
    let mut retry = Retry::new(Duration::from_millis(50), Duration::from_secs(2));
    let mut failing_since = None;
    loop {
        let mut published = || {
            failing_since = None;
            progress();
        };
        let Err(halt) = attempt(replayer, stop, &mut pace, &mut published).await else {
            return Ok(RunEnd::Done);
        };
        let error = match halt {
            Stop::Ended(outcome) => return Ok(outcome),
            Stop::Failed(ReplayError::Stream(error @ StreamError::Failed { .. })) => error,
            Stop::Failed(error) => return Err(error),
        };
        if failing_since.is_none() {
            retry.reset();
        }
        if failing_since.get_or_insert_with(Instant::now).elapsed() > FAILING_MAX {
            return Err(error.into());
        }
        tracing::warn!(run = %replayer.run.id, error = &error as &dyn std::error::Error, "replay starts over");
        tokio::select! {
            () = stop.cancelled() => return Ok(RunEnd::Stopped),
            () = tokio::time::sleep(retry.next_wait()) => {}
        }
    }
}

/// Publishes what is left, up to the end or the first refusal.
async fn attempt(
    replayer: &mut Replayer,
    stop: &CancellationToken,
    pace: &mut Pace,
    on_published: &mut dyn FnMut(),
) -> Result<(), Stop> {
    // Reads the end of the stream first, and the run's state after that: a cancellation marks the run first,
    // and then moves the end. So nothing of this attempt is stored after a cancellation.
    let (end, left) = replayer.left().await?;
    let Replayer { outlet, nats, connection, run, .. } = replayer;
    let chain = Chain::new(nats, outlet.replay_stream(), end).await?;
    let mut publishing = Publishing {
        outlet,
        connection,
        run,
        chain,
        epochs: Epochs::default(),
        pace,
        stop,
        on_published,
        checked: Instant::now(),
    };
    publishing.check().await?;
    let published = async {
        for (shard, range) in left {
            publishing.publish_shard(shard, range).await?;
        }
        Ok(())
    };
    let result = published.await;
    // Before it reports the end, or events that are gone, everything before that point is in the stream.
    if matches!(result, Ok(()) | Err(Stop::Ended(RunEnd::Stopped) | Stop::Failed(ReplayError::Gone { .. }))) {
        publishing.finish().await?;
    }
    result?;
    failpoint::reached("replay.published").await;
    if Run::end(publishing.connection, &publishing.run.id, &["running"], "done").await? {
        return Ok(());
    }
    Err(Stop::Ended(RunEnd::Cancelled))
}

/// One chain of messages.
struct Publishing<'a> {
    outlet: &'a Outlet,
    connection: &'a mut PgConnection,
    run: &'a Run,
    chain: Chain,
    /// The epochs of the shard that is being published.
    epochs: Epochs,
    pace: &'a mut Pace,
    stop: &'a CancellationToken,
    on_published: &'a mut dyn FnMut(),
    /// When the run was last found not to be cancelled.
    checked: Instant,
}

impl Publishing<'_> {
    async fn publish_shard(&mut self, shard: Shard, range: Range) -> Result<(), Stop> {
        self.epochs = Epochs::read(self.connection, shard).await?;
        let mut after = range.first - 1;
        while after < range.last {
            let until = range.last.min(after + SCAN_POSITIONS);
            let events = self.run.selection.next(self.connection, shard, after, until).await?;
            // Read after the events: if it is at or below the first of them, all of them were there.
            let oldest = outbox::oldest(self.connection, shard).await?;
            let oldest = oldest.map_or(range.last + 1, |(position, _)| position);
            if oldest > after + 1 {
                return Err(ReplayError::Gone { shard, from: after + 1, to: oldest - 1 }.into());
            }
            after = match events.last() {
                Some(last) if events.len() as i64 == REPLAY_BATCH_EVENTS => last.position,
                _ => until,
            };
            for event in events {
                self.publish(&event).await?;
            }
            self.check_stop().await?;
        }
        Ok(())
    }

    async fn publish(&mut self, event: &StoredEvent) -> Result<(), Stop> {
        let due = self.pace.next(Instant::now());
        self.wait(due).await?;
        let StoredEvent { id, kind, key, shard, .. } = event;
        let run = &self.run.id;
        let mut headers = event.headers(&format!("{id}.{run}"));
        let id = if zoo::has("replay-mints-event-ids") { ulid::Ulid::generate() } else { *id };
        headers.insert(EVENT_ID_HEADER, id.to_string());
        let Epoch { epoch, .. } = self.epochs.of_position(event.position);
        if epoch > 0 {
            headers.insert(EPOCH_HEADER, epoch.to_string());
        }
        let subject = format!("replay.{run}.{kind}.{key}.{shard}");
        let sent = self.chain.publish(subject, headers, event.body(self.outlet));
        leadership::keep(self.connection, sent).await??;
        failpoint::reached("replay.sent").await;
        Ok(())
    }

    /// Waits until `due` and until there is room, and takes acknowledgements meanwhile.
    async fn wait(&mut self, due: Instant) -> Result<(), Stop> {
        loop {
            self.check_stop().await?;
            let has_room = self.chain.has_room();
            let wake = if has_room { due.min(self.next_check()) } else { self.next_check() };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                acknowledged = self.chain.acknowledged() => {
                    acknowledged?;
                    self.count().await;
                }
                () = sleep_until(wake) => if has_room && Instant::now() >= due { return Ok(()) },
            }
        }
    }

    fn next_check(&self) -> Instant {
        self.checked + STATE_CHECK_INTERVAL
    }

    /// Ends publishing if it was stopped, and from time to time checks whether the run was cancelled.
    async fn check_stop(&mut self) -> Result<(), Stop> {
        if self.stop.is_cancelled() {
            return Err(Stop::Ended(RunEnd::Stopped));
        }
        if Instant::now() >= self.next_check() { self.check().await } else { Ok(()) }
    }

    async fn check(&mut self) -> Result<(), Stop> {
        self.checked = Instant::now();
        match Run::find(self.connection, &self.run.id).await?.state {
            RunState::Running => Ok(()),
            RunState::Cancelled => Err(Stop::Ended(RunEnd::Cancelled)),
            RunState::Done => Err(Stop::Ended(RunEnd::Done)),
        }
    }

    async fn finish(&mut self) -> Result<(), ReplayError> {
        while !self.chain.is_idle() {
            leadership::keep(self.connection, self.chain.acknowledged()).await??;
            self.count().await;
        }
        Ok(())
    }

    /// One more message is in the stream.
    async fn count(&mut self) {
        failpoint::reached("replay.acknowledged").await;
        (self.on_published)();
    }
}
