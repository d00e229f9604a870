//! Applies events to tables, each event once: its effect and the position up to which the shard has been
//! applied are committed together.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use tokio::sync::watch;
use tokio::time::sleep;
use ulid::Ulid;
use uuid::Uuid;

use crate::dead;
use crate::event::{Event, StoredEvent};
use crate::failpoint;
use crate::follow_up::FollowUps;
use crate::in_time::InTime as _;
use crate::outbox;
use crate::positions;
use crate::projection::{Projection, ProjectorError};
use crate::reason::reason_of;
use crate::retry::Retry;
use crate::site::Site;
use crate::zoo;

/// Events in one transaction, at most.
pub(crate) const BATCH_EVENTS: usize = 1_000;
/// Old positions are removed once in this many batches.
const PRUNE_INTERVAL: u32 = 100;
/// Attempts to apply a poison event before it is parked: the cause may be elsewhere, and pass.
const ATTEMPTS: i32 = 5;

/// The right to apply a shard's events to projections, and how far they have been applied.
#[derive(Debug)]
pub struct Feed<'a> {
    projections: &'a [Box<dyn Projection>],
    pub(crate) site: &'a Site,
    pub(crate) connection: PgConnection,
    /// The last applied position of each projection.
    positions: Vec<i64>,
    /// Publishes the lowest of these.
    position: &'a watch::Sender<i64>,
    batches: u32,
    pub(crate) follow_ups: FollowUps,
}

impl<'a> Feed<'a> {
    /// Continues from the positions of these projections. `connection` must hold the lock that lets only one
    /// process apply the shard.
    pub(crate) async fn open(
        site: &'a Site,
        projections: &'a [Box<dyn Projection>],
        mut connection: PgConnection,
        position: &'a watch::Sender<i64>,
        follow_ups: FollowUps,
    ) -> Result<Self, sqlx::Error> {
        let mut positions = Vec::with_capacity(projections.len());
        for projection in projections {
            positions.push(positions::read(&mut connection, projection.name(), site.shard).await?);
        }
        let feed = Self { projections, site, connection, positions, position, batches: 0, follow_ups };
        position.send_replace(feed.position());
        Ok(feed)
    }

    /// The last position that all projections have applied.
    #[must_use]
    pub fn position(&self) -> i64 {
        self.positions.iter().copied().min().unwrap_or_default()
    }

    /// Applies the events of `events` that are new; they may come in any order and any number of times. Events
    /// missing between the last applied position and the highest given are taken from the outbox. An event that
    /// a projection cannot apply is parked for it.
    ///
    /// # Errors
    /// The last batch was not applied, or it is unknown whether it was. Drop this feed and open another.
    pub async fn absorb(&mut self, mut events: Vec<Event>) -> Result<(), ProjectorError> {
        let position = self.position();
        events.sort_by_key(|event| event.position);
        events.dedup_by_key(|event| event.position);
        if zoo::has("applied-however-often") {
            return self.apply(&events).await;
        }
        events.retain(|event| event.position > position);
        let Some(last) = events.last().map(|event| event.position) else { return Ok(()) };
        let complete = last - position == events.len() as i64;
        let new = if complete { &events[..] } else { &events[events.len() - 1..] };
        if !(zoo::has("gaps-are-skipped") || self.are_ours(new).await? && complete) {
            tracing::warn!(
                shard = %self.site.shard, applied = position, given = last,
                "the stream delivered gaps or foreign messages: events are taken from the outbox"
            );
            return self.take_from_outbox(last).await;
        }
        for batch in events.chunks(BATCH_EVENTS) {
            self.apply(batch).await?;
        }
        Ok(())
    }

    /// Whether the outbox holds these same events, whose positions are consecutive. Events past retention
    /// cannot be compared.
    ///
    /// # Errors
    /// When the outbox does not hold the last one: stream and outbox have diverged.
    async fn are_ours(&mut self, events: &[Event]) -> Result<bool, ProjectorError> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return Ok(true) };
        let (ours, head): (Option<Vec<Uuid>>, i64) = sqlx::query_as(
            "SELECT array_agg(event_id), outbox_head($1) FROM (\
                 SELECT event_id FROM outbox WHERE shard = $1 AND position BETWEEN $2 AND $3 ORDER BY position\
             ) AS ours",
        )
        .bind(self.site.shard)
        .bind(first.position)
        .bind(last.position)
        .fetch_one(&mut self.connection)
        .in_time()
        .await?;
        // The oldest may be past retention.
        let ours: Vec<Ulid> = ours.into_iter().flatten().map(Ulid::from).collect();
        let given = events[events.len() - ours.len()..].iter().map(|event| event.id);
        if last.position > head || ours.last().is_some_and(|id| *id != last.id) {
            let (position, given, ours) = (last.position, last.id, ours.last().copied());
            return Err(ProjectorError::Foreign { position, given, ours });
        }
        Ok(given.eq(ours))
    }

    /// Applies the events up to `last` from the outbox, or up to its end.
    pub(crate) async fn take_from_outbox(&mut self, last: i64) -> Result<(), ProjectorError> {
        let last = last.min(outbox::head(&mut self.connection, self.site.shard).await?);
        while self.position() < last {
            let after = self.position();
            let until = last.min(after + BATCH_EVENTS as i64);
            let stored = StoredEvent::between(&mut self.connection, self.site.shard, after, until).await?;
            if stored.len() as i64 != until - after {
                return Err(ProjectorError::Gap { after, until });
            }
            let events: Vec<Event> = stored.iter().map(|event| event.to_event(&self.site.outlet)).collect();
            self.apply(&events).await?;
        }
        Ok(())
    }

    async fn apply(&mut self, events: &[Event]) -> Result<(), ProjectorError> {
        match self.apply_together(events).await {
            Err(ProjectorError::Apply(error)) if error.is_poison() => {
                tracing::warn!(shard = %self.site.shard, error = &error as &dyn std::error::Error, "an event is poison: the batch is applied event by event");
                for event in events {
                    self.apply_or_park(event).await?;
                }
                Ok(())
            }
            result => result,
        }
    }

    /// Commits effects, positions and the events that follow in one transaction. The append comes last: it
    /// takes the shard's lock, and every other append waits for that.
    async fn apply_together(&mut self, events: &[Event]) -> Result<(), ProjectorError> {
        let Some(last) = events.last().map(|event| event.position) else { return Ok(()) };
        let mut transaction = self.connection.begin().in_time().await?;
        let mut moved = Vec::with_capacity(self.projections.len());
        let mut follow_ups = Vec::new();
        for (projection, position) in self.projections.iter().zip(&self.positions) {
            let position = if zoo::has("applied-however-often") { 0 } else { *position };
            let new = &events[events.partition_point(|event| event.position <= position)..];
            if !new.is_empty() {
                follow_ups.extend(projection.apply(&mut transaction, new).in_time().await?);
                moved.push(projection.name());
            }
        }
        if zoo::has("position-in-another-transaction") {
            transaction.commit().in_time().await?;
            transaction = self.connection.begin().in_time().await?;
        }
        positions::save(&mut transaction, &moved, self.site.shard, last).await?;
        failpoint::reached("projector.applied").await;
        self.batches += 1;
        if self.batches.is_multiple_of(PRUNE_INTERVAL) {
            positions::prune(&mut transaction, &moved, self.site.shard, last).await?;
        }
        self.follow_ups.finish(&mut transaction, self.site.shard, &follow_ups).await?;
        transaction.commit().in_time().await?;
        if !follow_ups.is_empty() {
            self.site.appended.notify_one();
        }
        for position in &mut self.positions {
            *position = last.max(*position);
        }
        self.position.send_replace(self.position());
        Ok(())
    }

    /// Applies one event to each projection separately, so that one that fails does not hold up the others.
    async fn apply_or_park(&mut self, event: &Event) -> Result<(), ProjectorError> {
        for (index, projection) in self.projections.iter().enumerate() {
            if self.positions[index] >= event.position {
                continue;
            }
            let mut retry = Retry::new(Duration::from_millis(20), Duration::from_secs(1));
            let mut attempt = 1;
            while let Err(error) = self.apply_one(&**projection, event).await {
                let poison = matches!(&error, ProjectorError::Apply(error) if error.is_poison())
                    && !zoo::has("poison-blocks");
                if !poison {
                    return Err(error);
                }
                if attempt == ATTEMPTS {
                    self.park(projection.name(), event, &error, attempt).await?;
                    break;
                }
                attempt += 1;
                sleep(retry.next_wait()).await;
            }
            self.positions[index] = event.position;
        }
        self.position.send_replace(self.position());
        Ok(())
    }

    async fn apply_one(&mut self, projection: &dyn Projection, event: &Event) -> Result<(), ProjectorError> {
        let mut transaction = self.connection.begin().in_time().await?;
        let follow_ups = projection.apply(&mut transaction, std::slice::from_ref(event)).in_time().await?;
        positions::save(&mut transaction, &[projection.name()], self.site.shard, event.position).await?;
        self.follow_ups.finish(&mut transaction, self.site.shard, &follow_ups).await?;
        transaction.commit().in_time().await?;
        if !follow_ups.is_empty() {
            self.site.appended.notify_one();
        }
        Ok(())
    }

    /// Publishes the letter, then commits the row together with the position. After a crash in between, the
    /// letter is published again, at the same place.
    async fn park(
        &mut self,
        projection: &'static str,
        event: &Event,
        error: &ProjectorError,
        attempts: i32,
    ) -> Result<(), ProjectorError> {
        let parked = dead::Parked::new(projection, self.site.shard, event, &reason_of(error), attempts);
        dead::publish(&self.site.nats, &self.site.outlet, &parked, event).await?;
        failpoint::reached("projector.wrote_letter").await;
        let mut transaction = self.connection.begin().in_time().await?;
        if !zoo::has("poison-is-dropped") {
            parked.note(&mut transaction).await?;
        }
        positions::save(&mut transaction, &[projection], self.site.shard, event.position).await?;
        transaction.commit().in_time().await?;
        failpoint::reached("projector.parked").await;
        tracing::error!(
            projection, shard = %self.site.shard, position = event.position, event = %event.id, reason = parked.reason,
            "an event is parked: redrive or drop it"
        );
        Ok(())
    }
}
