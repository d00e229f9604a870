//! The writer: batches of claims become coupons and outbox rows, one call and one commit a batch.
//! A task for each shard, with a connection of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use outbox_relay::Shard;
use outbox_relay::retry::Retry;
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{ConnectOptions as _, PgConnection, Row as _};
use time::OffsetDateTime;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use ulid::{Generator, Ulid};
use uuid::Uuid;

use super::gate::Gate;
use super::loader::Loader;
use super::seats::Seat;
use crate::campaign::{CampaignId, UserId};
use crate::coupon::{self, Coupon};

/// Claims waiting for one shard, at the most; more are refused.
const QUEUE: usize = 4_096;
/// Postgres cancels a batch that takes longer, lock waits included; then surely nothing is committed.
const STATEMENT_TIMEOUT: &str = "3s";
/// Longer than a claim takes.
const FORGOTTEN_AFTER: time::Duration = time::Duration::seconds(5);
/// When not even that answer comes, it is not known whether the batch is committed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// A claim that the gate has let through.
#[derive(Debug)]
pub struct Claim {
    pub campaign: CampaignId,
    pub user: UserId,
    /// The pending seat, unless the gate said that he has one already.
    pub seat: Option<Seat>,
    pub traceparent: Option<String>,
}

/// What Postgres says. It is committed when this is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Issued(Coupon),
    /// He holds all that he may have; this is the newest.
    Held(Coupon),
    SoldOut,
    NotOpen,
    Closed,
}

/// Why there is no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    #[error("too many claims wait to be written")]
    Overloaded,
    #[error("nothing was written")]
    Failed,
    #[error("it is not known whether the coupon was written")]
    Unknown,
}

type Reply = oneshot::Sender<Result<Verdict, WriteError>>;

/// The way to one shard's writer.
#[derive(Clone, Debug)]
pub struct Writer(mpsc::Sender<(Claim, Reply)>);

impl Writer {
    /// Has a claim judged and written.
    pub async fn issue(&self, claim: Claim) -> Result<Verdict, WriteError> {
        let (reply, verdict) = oneshot::channel();
        self.0.try_send((claim, reply)).map_err(|_| WriteError::Overloaded)?;
        verdict.await.unwrap_or(Err(WriteError::Unknown))
    }
}

/// Writes the claims of one shard.
#[derive(Debug)]
pub struct WriterWorker {
    shard: Shard,
    batch_rows: usize,
    database: PgConnectOptions,
    claims: mpsc::Receiver<(Claim, Reply)>,
    gate: Gate,
    loader: Loader,
    /// The relay of this shard, if it is in this process.
    appended: Arc<Notify>,
    ids: Generator,
}

impl WriterWorker {
    /// A writer, and the worker that has to run for it. `batch_rows` bounds a batch.
    #[must_use]
    pub fn new(
        shard: Shard,
        batch_rows: usize,
        database: &PgConnectOptions,
        gate: Gate,
        loader: Loader,
        appended: Arc<Notify>,
    ) -> (Writer, Self) {
        let (queue, claims) = mpsc::channel(QUEUE);
        let database = database.clone().options([("statement_timeout", STATEMENT_TIMEOUT)]);
        let ids = Generator::new();
        (Writer(queue), Self { shard, batch_rows, database, claims, gate, loader, appended, ids })
    }

    /// Works until every [`Writer`] is gone.
    pub async fn run(mut self) {
        let mut retry = Retry::new(Duration::from_millis(20), Duration::from_secs(1));
        while let Some(mut connection) = self.connected(&mut retry).await {
            let mut batch = Vec::with_capacity(self.batch_rows);
            loop {
                // Whoever is ready to run goes first: his claim comes along.
                yield_now().await;
                if self.claims.recv_many(&mut batch, self.batch_rows).await == 0 {
                    break;
                }
                let (claims, replies): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
                let result = self.write(&mut connection, &claims).await;
                let failed = result.is_err();
                self.settle(&claims, replies, result);
                if failed {
                    break;
                }
                retry.reset();
            }
            if self.claims.is_closed() && self.claims.is_empty() {
                return;
            }
        }
    }

    /// Connects, and fails whoever comes meanwhile. Nothing when every writer is gone.
    async fn connected(&mut self, retry: &mut Retry) -> Option<PgConnection> {
        let database = self.database.clone();
        let attempts = async {
            loop {
                match timeout(ANSWER_TIMEOUT, database.connect()).await {
                    Ok(Ok(connection)) => return connection,
                    Ok(Err(error)) => tracing::warn!(%error, "connect to Postgres"),
                    Err(_) => tracing::warn!("Postgres does not answer"),
                }
                sleep(retry.next_wait()).await;
            }
        };
        tokio::pin!(attempts);
        loop {
            tokio::select! {
                connection = &mut attempts => return Some(connection),
                claim = self.claims.recv() => {
                    let (claim, reply) = claim?;
                    release(&self.gate, [&claim]);
                    drop(reply.send(Err(WriteError::Failed)));
                }
            }
        }
    }

    /// One call, one transaction: the rows that it answers are committed.
    async fn write(
        &mut self,
        connection: &mut PgConnection,
        claims: &[Claim],
    ) -> Result<Vec<PgRow>, WriteError> {
        let mut campaigns: Vec<CampaignId> = claims.iter().map(|claim| claim.campaign).collect();
        campaigns.sort_unstable();
        campaigns.dedup();
        let coupon_ids: Vec<Ulid> = claims.iter().map(|_| self.new_id()).collect();
        let event_ids: Vec<Uuid> = claims.iter().map(|_| self.new_id().into()).collect();
        let sold_out_ids: Vec<Uuid> = campaigns.iter().map(|_| self.new_id().into()).collect();
        // All rows are read, up to ReadyForQuery: the rows come before the commit, that comes after.
        let call = sqlx::query(
            "SELECT claim, verdict, coupon_id, nth, number, code, state, issued_at, expires_at FROM issue_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)")
            .bind(self.shard.0)
            .bind(campaigns.iter().map(|id| Uuid::from(id.0)).collect::<Vec<_>>())
            .bind(campaigns.iter().map(ToString::to_string).collect::<Vec<_>>())
            .bind(sold_out_ids)
            .bind(claims.iter().map(|claim| Uuid::from(claim.campaign.0)).collect::<Vec<_>>())
            .bind(claims.iter().map(|claim| claim.user.as_str()).collect::<Vec<_>>())
            .bind(coupon_ids.iter().map(|id| Uuid::from(*id)).collect::<Vec<_>>())
            .bind(coupon_ids.iter().map(ToString::to_string).collect::<Vec<_>>())
            .bind(claims.iter().map(|_| coupon::new_code()).collect::<Vec<_>>())
            .bind(event_ids)
            .bind(claims.iter().map(|claim| claim.traceparent.as_deref()).collect::<Vec<_>>())
            .fetch_all(connection);
        match timeout(ANSWER_TIMEOUT, call).await {
            Ok(Ok(rows)) => {
                self.appended.notify_one();
                Ok(rows)
            }
            Ok(Err(error)) => {
                tracing::warn!(shard = %self.shard, claims = claims.len(), error = &error as &dyn std::error::Error, "a batch was not written");
                Err(if is_rolled_back(&error) { WriteError::Failed } else { WriteError::Unknown })
            }
            Err(_) => {
                tracing::warn!(shard = %self.shard, claims = claims.len(), "Postgres does not answer");
                Err(WriteError::Unknown)
            }
        }
    }

    /// Ids that rise within this writer.
    fn new_id(&mut self) -> Ulid {
        self.ids.generate().unwrap_or_else(|_| Ulid::generate())
    }

    /// Answers every claim, and tells the gate what became of its seats.
    fn settle(&self, claims: &[Claim], replies: Vec<Reply>, result: Result<Vec<PgRow>, WriteError>) {
        let mut verdicts: Vec<Result<Verdict, WriteError>> =
            vec![Err(result.as_ref().err().copied().unwrap_or(WriteError::Unknown)); claims.len()];
        let mut confirmed: HashMap<CampaignId, Vec<Seat>> = HashMap::new();
        for row in result.iter().flatten() {
            match judgement(row, claims) {
                Ok((claim, nth, verdict)) => {
                    let Claim { campaign, user, seat, .. } = &claims[claim];
                    match &verdict {
                        Verdict::Issued(_) => {
                            confirmed.entry(*campaign).or_default().push(Seat::new(user, nth));
                        }
                        Verdict::Held(coupon) => {
                            let own = Seat::new(user, nth);
                            if let Some(seat) = seat.as_ref().filter(|seat| **seat != own) {
                                self.gate.release(*campaign, vec![seat.clone()]);
                            }
                            // A seat for somebody who has long had his: the gate has forgotten. (What he
                            // got a moment ago, he got by asking twice.)
                            let long_ago = OffsetDateTime::now_utc() - coupon.issued_at > FORGOTTEN_AFTER;
                            if seat.is_some() && long_ago {
                                self.loader.want(*campaign);
                            }
                            confirmed.entry(*campaign).or_default().push(own);
                        }
                        Verdict::SoldOut | Verdict::NotOpen | Verdict::Closed if seat.is_some() => {
                            release(&self.gate, [&claims[claim]]);
                            self.loader.want(*campaign);
                        }
                        Verdict::SoldOut | Verdict::NotOpen | Verdict::Closed => {}
                    }
                    verdicts[claim] = Ok(verdict);
                }
                Err(error) => tracing::error!(%error, "issue_batch() answered something else"),
            }
        }
        // Surely failed: back on sale. Not known: neither, the sweeper will ask Postgres.
        if result.is_err_and(|error| error == WriteError::Failed) {
            release(&self.gate, claims);
        }
        for (campaign, seats) in confirmed {
            self.gate.confirm(campaign, seats);
        }
        for (reply, verdict) in replies.into_iter().zip(verdicts) {
            drop(reply.send(verdict)); // whoever has gone can ask again
        }
    }
}

/// Puts the seats of claims back on sale.
fn release<'a>(gate: &Gate, claims: impl IntoIterator<Item = &'a Claim>) {
    let mut seats: HashMap<CampaignId, Vec<Seat>> = HashMap::new();
    for claim in claims {
        if let Some(seat) = &claim.seat {
            seats.entry(claim.campaign).or_default().push(seat.clone());
        }
    }
    for (campaign, seats) in seats {
        gate.release(campaign, seats);
    }
}

/// An answer of the severity ERROR rolls back; FATAL, or no answer at all, may come after the commit.
fn is_rolled_back(error: &sqlx::Error) -> bool {
    use sqlx::postgres::{PgDatabaseError, PgSeverity};
    error
        .as_database_error()
        .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
        .is_some_and(|error| error.severity() == PgSeverity::Error)
}

/// Columns by index, as [`WriterWorker::write`] selects them: which claim a row answers, which of the user's coupons it is about, and the verdict.
fn judgement(row: &PgRow, claims: &[Claim]) -> Result<(usize, i32, Verdict), sqlx::Error> {
    let claim = usize::try_from(row.try_get::<i64, _>(0)? - 1).unwrap_or(usize::MAX);
    let asked = claims.get(claim).ok_or(sqlx::Error::RowNotFound)?;
    let coupon = || {
        Ok::<_, sqlx::Error>(Coupon {
            id: row.try_get::<Uuid, _>(2)?.into(),
            campaign_id: asked.campaign,
            user_id: asked.user.as_str().to_owned(),
            number: row.try_get(4)?,
            code: row.try_get(5)?,
            state: row.try_get(6)?,
            issued_at: row.try_get(7)?,
            expires_at: row.try_get(8)?,
        })
    };
    let verdict = match row.try_get(1)? {
        "issued" => Verdict::Issued(coupon()?),
        "held" => Verdict::Held(coupon()?),
        "sold_out" => Verdict::SoldOut,
        "not_open" => Verdict::NotOpen,
        "closed" => Verdict::Closed,
        other => return Err(sqlx::Error::Protocol(format!("verdict {other}"))),
    };
    Ok((claim, row.try_get::<Option<i32>, _>(3)?.unwrap_or_default(), verdict))
}
