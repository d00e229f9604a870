//! One batch of claims: one call, one transaction, an answer for each.

use std::collections::HashSet;
use std::time::Duration;

use outbox_relay::Shard;
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use time::OffsetDateTime;
use tokio::time::timeout;
use ulid::{Generator, Ulid};
use uuid::Uuid;

use super::{Claim, ClaimError, Verdict};
use crate::cause::Traceparent;
use crate::coupon::{self, Coupon, CouponState};
use crate::ids::CouponId;

/// When not even that answer comes, it is not known whether the batch is committed.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// Takes out of `batch` what can be judged together: no user twice in a campaign. Claims of a
/// campaign are together, and within it in the order in which they came.
pub(crate) fn take_together(batch: &mut Vec<Claim>) -> Vec<Claim> {
    let mut users = HashSet::with_capacity(batch.len());
    let (mut together, later) =
        batch.drain(..).partition(|claim| users.insert((claim.campaign, claim.user.clone())));
    *batch = later;
    together.sort_by_key(|claim: &Claim| claim.campaign);
    together
}

/// One call, one transaction: the rows that it answers are committed. Claims of a campaign are
/// to be together.
pub(crate) async fn write(
    connection: &mut PgConnection,
    shard: Shard,
    claims: &[Claim],
    ids: &mut Generator,
) -> Result<Vec<Answer>, ClaimError> {
    // They rise within a writer.
    let mut new_id = || ids.generate().unwrap_or_else(|_| Ulid::generate());
    let campaigns: Vec<&[Claim]> = claims.chunk_by(|a, b| a.campaign == b.campaign).collect();
    let last_claims = campaigns.iter().scan(0, |last, claims| {
        *last += claims.len();
        i32::try_from(*last).ok()
    });
    let coupon_ids: Vec<CouponId> = claims.iter().map(|_| CouponId(new_id())).collect();
    let codes: Vec<String> = claims.iter().map(|_| coupon::code::new_code()).collect();
    // All rows are read, up to ReadyForQuery: the rows come before the commit, that comes after.
    let call = sqlx::query(
        "SELECT claims, verdict, nths, numbers, issued_at, expires_at, coupon_id, code, state FROM issue_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)")
        .bind(shard.0)
        .bind(campaigns.iter().map(|claims| claims[0].campaign).collect::<Vec<_>>())
        .bind(campaigns.iter().map(|claims| claims[0].campaign.to_string()).collect::<Vec<_>>())
        .bind(campaigns.iter().map(|_| new_id().into()).collect::<Vec<Uuid>>())
        .bind(last_claims.collect::<Vec<_>>())
        .bind(claims.iter().map(|claim| &claim.user).collect::<Vec<_>>())
        .bind(&coupon_ids)
        .bind(coupon_ids.iter().map(ToString::to_string).collect::<Vec<_>>())
        .bind(&codes)
        .bind(claims.iter().map(|_| new_id().into()).collect::<Vec<Uuid>>())
        .bind(claims.iter().map(|claim| claim.cause.traceparent.as_ref().map(Traceparent::as_str)).collect::<Vec<_>>())
        .fetch_all(connection);
    match timeout(ANSWER_TIMEOUT, call).await {
        Ok(Ok(rows)) => {
            let mut answers = Vec::with_capacity(claims.len());
            for row in &rows {
                Answer::read(row, claims, &coupon_ids, &codes, &mut answers).map_err(|error| {
                    tracing::error!(%error, "issue_batch() answered something else");
                    ClaimError::Unknown
                })?;
            }
            Ok(answers)
        }
        Ok(Err(error)) => {
            tracing::warn!(shard = %shard, claims = claims.len(), error = &error as &dyn std::error::Error, "a batch was not written");
            Err(if is_rolled_back(&error) { ClaimError::NotWritten } else { ClaimError::Unknown })
        }
        Err(_) => {
            tracing::warn!(shard = %shard, claims = claims.len(), "Postgres does not answer");
            Err(ClaimError::Unknown)
        }
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

/// What Postgres says to one claim of a batch.
pub(crate) struct Answer {
    pub(crate) claim: usize,
    /// Which of the user's coupons it is about, from 1; 0 if about none.
    pub(crate) nth: i32,
    pub(crate) verdict: Verdict,
}

impl Answer {
    /// Columns by index, as [`write`] selects them. What it has sent itself, to a
    /// winner, does not come back.
    fn read(
        row: &PgRow,
        claims: &[Claim],
        ids: &[CouponId],
        codes: &[String],
        answers: &mut Vec<Self>,
    ) -> Result<(), sqlx::Error> {
        let (judged, nths): (Vec<i32>, Vec<Option<i32>>) = (row.try_get(0)?, row.try_get(2)?);
        let word: &str = row.try_get(1)?;
        let numbers: Vec<Option<i32>> = row.try_get(3)?;
        let (issued_at, expires_at): (Option<OffsetDateTime>, Option<OffsetDateTime>) =
            (row.try_get(4)?, row.try_get(5)?);
        for ((place, nth), number) in judged.into_iter().zip(nths).zip(numbers) {
            let claim = usize::try_from(place - 1).unwrap_or(usize::MAX);
            let asked = claims.get(claim).ok_or(sqlx::Error::RowNotFound)?;
            let coupon = |id: CouponId, code: String, state: CouponState| {
                Ok::<_, sqlx::Error>(Coupon {
                    id,
                    campaign_id: asked.campaign,
                    user_id: asked.user.clone(),
                    number: number.ok_or(sqlx::Error::RowNotFound)?,
                    code,
                    state,
                    issued_at: issued_at.ok_or(sqlx::Error::RowNotFound)?,
                    expires_at: expires_at.ok_or(sqlx::Error::RowNotFound)?,
                })
            };
            let verdict = match word {
                "issued" => Verdict::Issued(coupon(ids[claim], codes[claim].clone(), CouponState::Issued)?),
                "held" => Verdict::Held(coupon(row.try_get(6)?, row.try_get(7)?, row.try_get(8)?)?),
                "sold_out" => Verdict::SoldOut,
                "not_open" => Verdict::NotOpen,
                "closed" => Verdict::Closed,
                other => return Err(sqlx::Error::Protocol(format!("verdict {other}"))),
            };
            answers.push(Self { claim, nth: nth.unwrap_or_default(), verdict });
        }
        Ok(())
    }
}
