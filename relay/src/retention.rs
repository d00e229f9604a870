//! Retention: drops whole partitions of the outbox. A partition goes once every event in it is older than
//! `keep`, is in the stream, and has been applied by every projection. While the stream lacks any event of the
//! outbox, no partition goes. No row is ever deleted.

use std::time::Duration;

use crate::in_time::InTime as _;
use async_nats::Client;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::time::sleep;

use crate::audit::missing;
use crate::epoch::Epochs;
use crate::outbox;
use crate::outlet::{Outlet, Shard};
use crate::sqlstate::{is_gone, is_lock_timeout};
use crate::stream::{self, StreamError};
use crate::zoo;

/// Positions in a partition, as in `outbox_add_partitions()`.
const PARTITION: i64 = 1_000_000;
/// Dropping a partition takes a lock for which appends wait: after this time it is given up until the next
/// round.
const DROP_LOCK_TIMEOUT: &str = "200ms";
const DROP_INTERVAL: Duration = Duration::from_secs(600);

/// Why partitions were not dropped. They stay until a later round.
#[derive(Debug, thiserror::Error)]
pub enum RetentionError {
    #[error("read the outbox")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Stream(#[from] StreamError),
}

impl RetentionError {
    /// Whether a server is away, of which the relays tell, or the client.
    fn is_outage(&self, nats: &Client, connects_before: u64) -> bool {
        match self {
            Self::Database(error) => is_gone(error),
            Self::Stream(_) => stream::was_lost(nats, connects_before),
        }
    }
}

/// What a sweep did.
#[derive(Debug, Default)]
pub struct Dropped {
    /// The numbers of the partitions that are gone: number `n` holds the positions from n million on.
    pub partitions: Vec<i64>,
    /// The shards for which it could not be told what may go. Partitions with events of such a shard stay.
    pub failures: Vec<(Shard, RetentionError)>,
}

/// What to keep of an outbox.
#[derive(Clone, Debug)]
pub struct Retention {
    pub outlet: Outlet,
    pub shards: i16,
    /// The names of the projections. Events that one of them has not applied are kept.
    pub projections: Vec<&'static str>,
    /// How long to keep an event after its append. The stream can be healed after a loss of that much.
    pub keep: Duration,
}

impl Retention {
    /// Drops old partitions every ten minutes. Any number of processes may do so.
    pub async fn run(&self, database: &PgConnectOptions, nats: &Client) -> std::convert::Infallible {
        loop {
            let connects = stream::connects(nats);
            match self.drop_old(database, nats).await {
                Ok(Dropped { partitions, failures }) => {
                    for (shard, error) in &failures {
                        let (is_outage, error) =
                            (error.is_outage(nats, connects), error as &dyn std::error::Error);
                        if is_outage {
                            tracing::debug!(%shard, error, "partitions with events of this shard are not dropped");
                        } else {
                            tracing::warn!(%shard, error, "partitions with events of this shard are not dropped");
                        }
                    }
                    if !partitions.is_empty() {
                        tracing::info!(dropped = ?partitions, "partitions of the outbox are past retention");
                    }
                }
                Err(error) if error.is_outage(nats, connects) => {
                    tracing::debug!(error = &error as &dyn std::error::Error, "partitions are not dropped");
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "partitions are not dropped");
                }
            }
            sleep(DROP_INTERVAL).await;
        }
    }

    /// Drops the partitions that may go, the oldest first, up to the first that may not. Each shard is asked for by
    /// itself: one that fails holds back no partition without events of it.
    ///
    /// # Errors
    /// When the partitions cannot be read, or one that may go cannot be dropped.
    pub async fn drop_old(
        &self,
        database: &PgConnectOptions,
        nats: &Client,
    ) -> Result<Dropped, RetentionError> {
        let mut connection =
            database.clone().options([("lock_timeout", DROP_LOCK_TIMEOUT)]).connect().in_time().await?;
        let mut dropped = Dropped::default();
        let mut floors = Vec::new();
        for shard in (0..self.shards).map(Shard) {
            let floor = self.floor(&mut connection, nats, shard).await;
            floors.push((shard, *floor.as_ref().unwrap_or(&0)));
            dropped.failures.extend(floor.err().map(|error| (shard, error)));
        }
        for partition in partitions(&mut connection).await? {
            let mut may_go = true;
            for (shard, floor) in &floors {
                may_go &= self.may_go(&mut connection, *shard, *floor, partition).await?;
            }
            if !may_go {
                break;
            }
            let done =
                sqlx::query_scalar("SELECT outbox_drop_partition($1, $2)").bind(partition).bind(self.shards);
            match done.fetch_one(&mut connection).in_time().await {
                Ok(true) => dropped.partitions.push(partition),
                Ok(false) => break,
                Err(error) if is_lock_timeout(&error) => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(dropped)
    }

    /// The position up to which the stream and all projections have the events of a shard; 0 while the stream
    /// lacks any event of the outbox.
    async fn floor(
        &self,
        connection: &mut PgConnection,
        nats: &Client,
        shard: Shard,
    ) -> Result<i64, RetentionError> {
        let name = self.outlet.stream_of(shard);
        let Some(stream) = stream::ours(nats, &self.outlet, &name).await? else { return Ok(0) };
        let end = stream.cached_info().state.last_sequence.cast_signed();
        let epochs = Epochs::read(connection, shard).await?;
        let missing = match outbox::oldest(connection, shard).await? {
            Some((first, _)) => missing(&stream, epochs.sequence_of(first)).await?,
            None => 0,
        };
        if missing > 0 {
            tracing::warn!(
                stream = name,
                missing,
                "the stream lacks events of the outbox, so no partition is dropped: delete the stream, and the relay \
                 recreates it if the outbox holds every event; if it does not, create the stream with `first_seq`"
            );
            return Ok(0);
        }
        // While an epoch has just begun, the stream holds none of it.
        let in_stream = epochs.place_of(end).map_or(0, |(_, position)| position);
        let applied: Option<i64> =
            sqlx::query_scalar("SELECT min(projection_position(name, $1)) FROM unnest($2::text[]) AS name")
                .bind(shard)
                .bind(&self.projections)
                .fetch_one(connection)
                .in_time()
                .await?;
        Ok(in_stream.min(applied.unwrap_or(i64::MAX)))
    }

    /// Whether all events of a shard in a partition are at or below its floor, and old enough.
    async fn may_go(
        &self,
        connection: &mut PgConnection,
        shard: Shard,
        floor: i64,
        partition: i64,
    ) -> Result<bool, sqlx::Error> {
        // The last event is the newest.
        let last: Option<(i64, bool)> = sqlx::query_as(
            "SELECT position, time > now() - make_interval(secs => $3) FROM outbox \
             WHERE shard = $1 AND position >= $2 AND position < $2 + $4 ORDER BY position DESC LIMIT 1",
        )
        .bind(shard)
        .bind(partition * PARTITION)
        .bind(self.keep.as_secs_f64())
        .bind(PARTITION)
        .fetch_optional(connection)
        .in_time()
        .await?;
        let floor = if zoo::has("partitions-go-unconfirmed") { i64::MAX } else { floor };
        Ok(last.is_none_or(|(position, young)| position <= floor && !young))
    }
}

/// The numbers of the existing partitions, the oldest first.
async fn partitions(connection: &mut PgConnection) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT substr(relname, length('outbox_') + 1)::bigint AS number \
         FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid \
         WHERE inhparent = 'outbox'::regclass ORDER BY number",
    )
    .fetch_all(connection)
    .in_time()
    .await
}
