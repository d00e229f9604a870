//! What an operator decides when a relay has stopped: that a new [epoch](crate::epoch) begins.

use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::stream::Stream;
use serde::Serialize;
use sqlx::PgConnection;
use sqlx::postgres::PgConnectOptions;
use tokio::time::timeout;

use crate::cursor::Cursor;
use crate::epoch::{Epoch, Epochs};
use crate::failpoint;
use crate::leadership::{self, RELAY_LOCK};
use crate::outbox;
use crate::outlet::{Outlet, Shard};
use crate::status::{Halt, RelayError};
use crate::stream;

/// For the relay to let go: one that is stopped holds its lock for moments only.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// What beginning an epoch came to.
#[derive(Clone, Debug, Serialize)]
pub struct Begun {
    pub shard: Shard,
    #[serde(flatten)]
    pub epoch: Epoch,
    /// What had stopped the relay.
    pub reason: String,
    /// Messages at the end of the stream that no longer count. They stay, and what the outbox knows of them is
    /// told again.
    pub left: i64,
    /// Events that nobody can be given any more: neither in the stream nor in the outbox.
    pub lost: i64,
}

impl std::fmt::Display for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Epoch { epoch, first_position, first_sequence } = self.epoch;
        writeln!(f, "what had stopped the relay: {}", self.reason)?;
        writeln!(
            f,
            "epoch {epoch} of shard {} begins with position {first_position} at sequence {first_sequence}",
            self.shard
        )?;
        writeln!(
            f,
            "{} messages before it no longer count: they stay, and what the database knows of them is told again",
            self.left
        )?;
        write!(f, "{} events are in neither and were lost to whoever had not read them", self.lost)
    }
}

/// Why no epoch was begun.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    #[error(
        "stream and outbox of shard {0} agree on where the stream ends: no epoch is to begin. If the relay has stopped, its reason is another"
    )]
    NotNeeded(Shard),
    #[error("no epoch helps against this: {0}")]
    NoHelp(Halt),
    #[error("shard {0} has a relay at work, which is not stopped")]
    Led(Shard),
    #[error(transparent)]
    Relay(#[from] RelayError),
}

/// Begins a new epoch of a shard: its relay goes on behind the last event on which outbox and stream
/// agree, at the end of the stream as it is. Only a shard whose relay has stopped needs it.
///
/// # Errors
/// See [`BeginError`]; nothing is changed then.
pub async fn begin(
    database: &PgConnectOptions,
    nats: &Client,
    outlet: &Outlet,
    shard: Shard,
    replicas: usize,
) -> Result<Begun, BeginError> {
    let led = timeout(LOCK_TIMEOUT, leadership::take(database, RELAY_LOCK, shard.0)).await;
    let mut connection =
        led.map_err(|_| BeginError::Led(shard))?.map_err(|error| BeginError::Relay(error.into()))?;
    let cursor = Cursor { outlet, shard, replicas, nats };
    let reason = match cursor.find(&mut connection, 0).await {
        Ok(_) => return Err(BeginError::NotNeeded(shard)),
        Err(RelayError::Halted(halt)) if halt.needs_epoch() => halt,
        Err(RelayError::Halted(halt)) => return Err(BeginError::NoHelp(halt)),
        Err(error) => return Err(error.into()),
    };
    Ok(cursor.begin(&mut connection, reason).await?)
}

impl Cursor<'_> {
    async fn begin(&self, connection: &mut PgConnection, reason: Halt) -> Result<Begun, RelayError> {
        let epochs = Epochs::read(connection, self.shard).await?;
        let stream = stream::of_shard(self.nats, self.outlet, self.shard, self.replicas).await?;
        let last = stream.cached_info().state.last_sequence.cast_signed();
        let (oldest, head) = outbox::bounds(connection, self.shard).await?;
        let end = match &reason {
            Halt::Differs { position, .. } => position - 1,
            _ => head,
        };
        let agreed = self.last_agreed(connection, &stream, &epochs, (oldest - 1, end)).await?;
        // The database may have been restored to a time before earlier epochs: the stream knows them.
        let newest = self.message(&stream, last).await?.map_or(0, |message| message.epoch);
        let epoch = Epoch {
            epoch: newest.max(epochs.current().epoch).saturating_add(1),
            first_position: agreed + 1,
            first_sequence: last + 1,
        };
        sqlx::query(
            "INSERT INTO outbox_epochs (shard, epoch, first_position, first_sequence, reason) \
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(self.shard)
        .bind(epoch.epoch)
        .bind(epoch.first_position)
        .bind(epoch.first_sequence)
        .bind(reason.to_string())
        .execute(connection)
        .await?;
        failpoint::reached("epoch.begun").await;
        let end = epochs.sequence_of(agreed);
        Ok(Begun {
            shard: self.shard,
            epoch,
            reason: reason.to_string(),
            left: (last - end).max(0),
            lost: (end - last).max(0),
        })
    }

    /// The last position, from `agreed` to `end`, at which the stream has the event of the outbox. After a
    /// restore they differ from one position on, so it is searched by halves. Where the stream has no message
    /// (any more), it is taken to have had the right one.
    async fn last_agreed(
        &self,
        connection: &mut PgConnection,
        stream: &Stream,
        epochs: &Epochs,
        (mut agreed, mut end): (i64, i64),
    ) -> Result<i64, RelayError> {
        let state = &stream.cached_info().state;
        let (first, last) = (state.first_sequence.cast_signed(), state.last_sequence.cast_signed());
        while agreed < end {
            let middle = end - (end - agreed) / 2;
            if epochs.sequence_of(middle) > last {
                end = middle - 1;
                continue;
            }
            let mut probe = middle;
            let same = loop {
                let sequence = epochs.sequence_of(probe);
                if probe == agreed || sequence < first {
                    break true;
                }
                if let Some(message) = self.message(stream, sequence).await? {
                    let ours = self.event_id(connection, probe).await?;
                    break ours.map(|id| epochs.of_position(probe).message_id(id)) == message.id;
                }
                probe -= 1;
            };
            if same {
                agreed = middle;
            } else {
                end = probe - 1;
            }
        }
        Ok(agreed)
    }
}
