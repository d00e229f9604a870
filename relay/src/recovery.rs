//! Begins a new [epoch](crate::epoch): what an operator decides when a relay has stopped.

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
use crate::in_time::InTime as _;
use crate::leadership;
use crate::outbox;
use crate::outlet::{Outlet, Shard};
use crate::standing::RELAY_LOCK;
use crate::status::{Halt, RelayError};
use crate::stream;

/// How long to wait for the lock of a relay. One that has stopped holds it only for moments.
const RELAY_LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// The epoch that was begun, and what it cost.
#[derive(Clone, Debug, Serialize)]
pub struct Begun {
    pub shard: Shard,
    #[serde(flatten)]
    pub epoch: Epoch,
    /// Why the relay had stopped.
    pub reason: String,
    /// Messages at the end of the stream that no longer count. They stay in the stream, and the relay publishes
    /// their events again if the outbox has them.
    pub left: i64,
    /// Events that are neither in the stream nor in the outbox: a reader that has not read them never will.
    pub lost: i64,
}

impl std::fmt::Display for Begun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Epoch { epoch, first_position, first_sequence } = self.epoch;
        writeln!(f, "why the relay had stopped: {}", self.reason)?;
        writeln!(
            f,
            "epoch {epoch} of shard {} begins with position {first_position} at sequence {first_sequence}",
            self.shard
        )?;
        writeln!(
            f,
            "{} messages before it stay in the stream and are ignored; their events are published again if the database has them",
            self.left
        )?;
        write!(f, "{} events are in neither: readers that have not read them never will", self.lost)
    }
}

/// Why no epoch was begun.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    #[error(
        "shard {0}: outbox and stream agree, no new epoch is needed; a relay that has stopped reports another cause"
    )]
    NotNeeded(Shard),
    #[error("a new epoch does not help: {0}")]
    NoHelp(Halt),
    #[error("the relay of shard {0} is not halted: no new epoch is needed")]
    Led(Shard),
    #[error(transparent)]
    Relay(#[from] RelayError),
}

/// Begins a new epoch of a shard: the relay continues after the last event on which outbox and stream agree, at
/// the present end of the stream. Only a shard whose relay has stopped needs it.
///
/// # Errors
/// See [`BeginError`]; nothing has changed then.
pub async fn begin(
    database: &PgConnectOptions,
    nats: &Client,
    outlet: &Outlet,
    shard: Shard,
    replicas: usize,
) -> Result<Begun, BeginError> {
    let class = outlet.own(RELAY_LOCK);
    let led = timeout(RELAY_LOCK_TIMEOUT, leadership::take(database, &class, shard.0, || {})).await;
    let (mut connection, _) =
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
        // If the database was restored to a time before earlier epochs, only the stream knows them.
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
        .in_time()
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

    /// The last position, from `agreed` to `end`, at which the stream holds the event of the outbox. After a
    /// restore they differ from one position on, so this is a binary search. A message that the stream no
    /// longer holds is taken to have been the right one.
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
