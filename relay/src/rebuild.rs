//! Builds a projection from all its events, beside the old one. Readers see the old tables until the new ones
//! have caught up; then the tables are swapped in one transaction.

mod tables;

use async_nats::Client;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use futures_util::StreamExt as _;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::dead::Letters;
use crate::epoch::Epochs;
use crate::failpoint;
use crate::feed::{BATCH_EVENTS, Feed};
use crate::follow_up::FollowUps;
use crate::in_time::{InTime as _, LONG_TIMEOUT};
use crate::leadership;
use crate::messages::events_of;
use crate::outbox;
use crate::outlet::{Outlet, Shard};
use crate::positions;
use crate::projection::{Projection, ProjectorError};
use crate::site::Site;
use crate::stream::{self, StreamError};
use crate::zoo;

/// Events applied between two checks of how many are left.
const STRETCH: i64 = 10 * BATCH_EVENTS as i64;
/// How long the swap waits for its locks; readers wait meanwhile.
const SWAP_LOCK_TIMEOUT: &str = "2s";
const SWAP_ATTEMPTS: u32 = 30;
/// A message that the stream holds arrives well within this.
const MESSAGE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// Why a projection was not rebuilt. The old tables are unchanged.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error("another rebuild of {0} is running")]
    AtWork(&'static str),
    #[error(
        "the tables of {0} stayed in use through 30 attempts to swap them: retry when there is less load"
    )]
    InUse(&'static str),
    #[error(
        "{count} events are parked for {projection}, and the events that follow from them were never appended, \
         which a rebuild does not do: redrive or drop them first"
    )]
    Parked { projection: &'static str, count: i64 },
    #[error(
        "a rebuild creates a schema for the new tables, which login {login} may not do in database {database}: \
         let its owner run GRANT CREATE ON DATABASE {database} TO {login}, and rebuild again"
    )]
    MayNotCreate { login: String, database: String },
    #[error(transparent)]
    Apply(#[from] ProjectorError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error("rebuild in the database")]
    Database(#[from] sqlx::Error),
}

/// Progress of a rebuild, in events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub applied: i64,
    /// Grows while events are applied live.
    pub total: i64,
}

/// What a rebuild needs.
#[derive(Debug)]
pub struct Rebuild<'a> {
    pub database: &'a PgConnectOptions,
    pub nats: &'a Client,
    pub outlet: &'a Outlet,
    pub shards: i16,
    /// The projection to rebuild.
    pub projection: [Box<dyn Projection>; 1],
}

impl Rebuild<'_> {
    /// Rebuilds the projection and returns how many events were applied. If it is interrupted, nothing has
    /// changed, except that letters of events that it could not apply may remain; the next rebuild starts from
    /// the beginning and removes them.
    ///
    /// # Errors
    /// See [`RebuildError`].
    pub async fn run(&self, mut progress: impl FnMut(Progress)) -> Result<i64, RebuildError> {
        let name = self.projection[0].name();
        let schema = self.outlet.own(&format!("rebuild_{name}"));
        let streams = [self.outlet.stream_of(Shard(0)), self.outlet.dead_stream()];
        stream::none_is_foreign(self.nats, self.outlet, &streams).await?;
        let database = self.database.clone().options([("lock_timeout", SWAP_LOCK_TIMEOUT)]);
        let (mut home, free) = leadership::try_take(&database, &schema, 0, leadership::GRACE).await?;
        if !free {
            return Err(RebuildError::AtWork(name));
        }
        if let Some((login, database)) = tables::refused_schemas(&mut home).await? {
            return Err(RebuildError::MayNotCreate { login, database });
        }
        tables::create(&mut home, &schema, self.projection[0].tables()).await?;
        failpoint::reached("rebuild.made_tables").await;

        let sites: Vec<Site> = (0..self.shards).map(|shard| self.site(Shard(shard))).collect();
        let positions: Vec<watch::Sender<i64>> = sites.iter().map(|_| watch::Sender::default()).collect();
        let mut feeds = Vec::new();
        for (site, position) in sites.iter().zip(&positions) {
            feeds.push(self.feed(&mut home, &schema, site, position).await?);
        }
        for _ in 0..SWAP_ATTEMPTS {
            self.catch_up(&mut home, &mut feeds, &mut progress).await?;
            failpoint::reached("rebuild.caught_up").await;
            if self.swap(&mut home, &schema, &mut feeds).await? {
                return Ok(feeds.iter().map(Feed::position).sum());
            }
        }
        Err(RebuildError::InUse(name))
    }

    fn site(&self, shard: Shard) -> Site {
        Site::new(*self.outlet, shard, self.database.clone(), self.nats.clone())
    }

    /// A feed into the new tables, from the first position on.
    async fn feed<'a>(
        &'a self,
        home: &mut PgConnection,
        schema: &str,
        site: &'a Site,
        position: &'a watch::Sender<i64>,
    ) -> Result<Feed<'a>, sqlx::Error> {
        let home: String =
            sqlx::query_scalar("SELECT quote_ident(current_schema)").fetch_one(home).in_time().await?;
        let mut connection = self.database.connect().in_time().await?;
        let path = format!("SET search_path = \"{schema}\", {home}");
        sqlx::raw_sql(&path).execute(&mut connection).in_time().await?;
        let follow_ups = if zoo::has("rebuild-appends") { FollowUps::Append } else { FollowUps::REBUILD };
        Feed::open(site, &self.projection, connection, position, follow_ups).await
    }

    /// Applies everything that the live projection has applied.
    async fn catch_up(
        &self,
        home: &mut PgConnection,
        feeds: &mut [Feed<'_>],
        progress: &mut impl FnMut(Progress),
    ) -> Result<(), RebuildError> {
        loop {
            let mut standing = Progress { applied: 0, total: 0 };
            for feed in &mut *feeds {
                let end = self.applied_at_home(home, feed.site.shard).await?;
                let stretch = end.min(feed.position() + STRETCH);
                leadership::keep(home, self.past_retention(feed, stretch)).await??;
                leadership::keep(home, feed.take_from_outbox(stretch)).await??;
                standing.applied += feed.position();
                standing.total += end;
            }
            progress(standing);
            if standing.total - standing.applied <= BATCH_EVENTS as i64 {
                return Ok(());
            }
        }
    }

    async fn applied_at_home(&self, home: &mut PgConnection, shard: Shard) -> Result<i64, sqlx::Error> {
        positions::read(home, self.projection[0].name(), shard).await
    }

    /// Applies from the stream, up to `end`, the events that the outbox no longer has.
    async fn past_retention(&self, feed: &mut Feed<'_>, end: i64) -> Result<(), RebuildError> {
        let oldest = outbox::oldest(&mut feed.connection, feed.site.shard).await?;
        let end = end.min(oldest.map_or(i64::MAX, |(position, _)| position) - 1);
        if feed.position() >= end {
            return Ok(());
        }
        let name = feed.site.stream();
        let failed = |error: &dyn std::error::Error| StreamError::new(&name, error);
        let Some(stream) = stream::ours(self.nats, self.outlet, &name).await? else { return Ok(()) };
        let epochs = Epochs::read(&mut feed.connection, feed.site.shard).await?;
        let start_sequence = epochs.sequence_of(feed.position() + 1).unsigned_abs();
        let deliver_policy = DeliverPolicy::ByStartSequence { start_sequence };
        let config = pull::OrderedConfig { deliver_policy, ..Default::default() };
        let consumer = stream.create_consumer(config).await.map_err(|error| failed(&error))?;
        let mut messages = consumer.messages().await.map_err(|error| failed(&error))?;
        let mut events = Vec::with_capacity(BATCH_EVENTS);
        while feed.position() < end {
            // What does not arrive is missing: the next step reports it.
            let Ok(Some(message)) = timeout(MESSAGE_TIMEOUT, messages.next()).await else { return Ok(()) };
            let message = message.map_err(|error| failed(&error))?;
            let read = events_of(&[message], &epochs, &mut feed.connection, feed.site.shard).await?;
            let Some(event) = read.into_iter().next() else { continue };
            let position = event.position;
            events.push(event);
            if events.len() == BATCH_EVENTS || position >= end {
                feed.absorb(std::mem::take(&mut events)).await?;
            }
        }
        Ok(())
    }

    /// Makes sure that no event is parked live that the rebuild has applied: the rebuild has dropped the events
    /// that follow, and only a redrive appends them.
    async fn refuse_parked(&self, home: &mut PgConnection, schema: &str) -> Result<(), RebuildError> {
        let projection = self.projection[0].name();
        let applied = format!(
            "SELECT count(*) FROM parked_events AS home WHERE projection = $1 AND NOT EXISTS (\
                 SELECT FROM \"{schema}\".parked_events AS rebuilt \
                 WHERE (rebuilt.projection, rebuilt.shard, rebuilt.position) \
                     = (home.projection, home.shard, home.position))"
        );
        match sqlx::query_scalar(&applied).bind(projection).fetch_one(home).in_time().await? {
            0 => Ok(()),
            count => Err(RebuildError::Parked { projection, count }),
        }
    }

    /// Catches up while nothing can be applied or parked live, and swaps the tables. Returns false when they
    /// are in use.
    async fn swap(
        &self,
        home: &mut PgConnection,
        schema: &str,
        feeds: &mut [Feed<'_>],
    ) -> Result<bool, RebuildError> {
        let name = self.projection[0].name();
        let tables = self.projection[0].tables();
        let made: Vec<String> = tables.iter().map(|table| format!("\"{schema}\".\"{table}\"")).collect();
        sqlx::raw_sql(&format!("ANALYZE {}", made.join(", ")))
            .execute(&mut *home)
            .within(LONG_TIMEOUT)
            .await?;
        if !tables::lock(home, tables).await? {
            return Ok(false);
        }
        for feed in &mut *feeds {
            let end = self.applied_at_home(home, feed.site.shard).await?;
            leadership::keep(home, feed.take_from_outbox(end)).await??;
        }
        if feeds.iter().any(|feed| feed.follow_ups.dropped_any()) {
            self.refuse_parked(home, schema).await?;
        }
        for table in tables {
            sqlx::query("SELECT outbox_swap_table($1, $2)")
                .bind(schema)
                .bind(table)
                .execute(&mut *home)
                .in_time()
                .await?;
        }
        failpoint::reached("rebuild.swapped").await;
        let finish = format!(
            "DELETE FROM parked_events WHERE projection = '{name}'; \
             INSERT INTO parked_events SELECT * FROM \"{schema}\".parked_events; \
             DROP SCHEMA \"{schema}\" CASCADE; COMMIT"
        );
        sqlx::raw_sql(&finish).execute(&mut *home).within(LONG_TIMEOUT).await?;
        failpoint::reached("rebuild.committed").await;
        self.remove_letters(home, feeds).await;
        Ok(true)
    }

    /// Removes the letters of events that the new tables hold. The swap is committed; a letter that remains does no
    /// harm.
    async fn remove_letters(&self, home: &mut PgConnection, feeds: &[Feed<'_>]) {
        for feed in feeds {
            let letters = Letters { nats: self.nats, outlet: self.outlet, shard: feed.site.shard };
            if let Err(error) = letters.remove_left_behind(home, self.projection[0].name()).await {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "dead letters remain after a rebuild"
                );
            }
        }
    }
}
