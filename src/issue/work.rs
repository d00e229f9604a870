//! Claims as the work of a writer: one call of `issue_batch_2()`, one transaction, an answer for each claim.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use outbox_relay::{Shard, zoo};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row as _};
use time::OffsetDateTime;
use uuid::Uuid;

use super::claim::{Asking, Claim, ClaimError, Fate, Verdict};
use crate::cause::{RequestId, Traceparent};
use crate::coupon::rising::RisingIds;
use crate::coupon::{self, Coupon, CouponState, Refusal};
use crate::gate::loader::Loader;
use crate::gate::seat::Seat;
use crate::gate::worker::Gate;
use crate::idempotency::Keyed;
use crate::ids::{CampaignId, CouponId};
use crate::writer::{Work, WriteError};

/// A user who has had a coupon for longer than a claim takes, and was admitted nevertheless, was forgotten by the
/// gate. Within this time it is a concurrent claim of the same user.
const FORGOTTEN_AFTER: time::Duration = time::Duration::seconds(5);

/// Writes claims, answers them, and tells the gate what became of their seats.
#[derive(Debug)]
pub struct Claims {
    gate: Gate<Asking>,
    loader: Loader,
    ids: RisingIds,
}

impl Claims {
    #[must_use]
    pub fn new(gate: Gate<Asking>, loader: Loader) -> Self {
        Self { gate, loader, ids: RisingIds::new() }
    }
}

/// What Postgres says to one claim of a batch.
#[derive(Debug)]
pub struct Answer {
    /// Its place in the batch, from 0.
    claim: usize,
    /// Which of the user's coupons it is about, from 1; 0 if about none.
    nth: i32,
    verdict: Verdict,
}

impl Work for Claims {
    type Item = Claim;
    type Answer = Answer;

    fn asked_at(claim: &Claim) -> Instant {
        claim.asked_at
    }

    /// No user twice in a campaign, and no idempotency key twice. Claims of a campaign are together, in the order in which they came.
    fn take_together(batch: &mut Vec<Claim>) -> Vec<Claim> {
        let mut users = HashSet::with_capacity(batch.len());
        let mut keys = HashSet::new();
        let (mut together, later) = batch.drain(..).partition(|claim| {
            users.insert((claim.campaign, claim.user.clone()))
                && claim.keyed.as_ref().is_none_or(|keyed| keys.insert(keyed.key()))
        });
        *batch = later;
        together.sort_by_key(|claim: &Claim| claim.campaign);
        together
    }

    async fn write(
        &mut self,
        connection: &mut PgConnection,
        shard: Shard,
        claims: &[Claim],
    ) -> Result<Vec<Answer>, sqlx::Error> {
        let mut new_id = || self.ids.generate();
        let campaigns: Vec<&[Claim]> = claims.chunk_by(|a, b| a.campaign == b.campaign).collect();
        let last_claims = campaigns.iter().scan(0, |last, claims| {
            *last += claims.len();
            i32::try_from(*last).ok()
        });
        let coupon_ids: Vec<CouponId> = claims.iter().map(|_| CouponId(new_id())).collect();
        let codes: Vec<String> = coupon_ids.iter().map(|id| coupon::code::new_code(*id)).collect();
        // All rows are read, up to ReadyForQuery: the rows come before the commit, that comes after.
        let rows = sqlx::query(
            "SELECT claims, verdict, nths, numbers, issued_at, expires_at, coupon_id, code, state \
             FROM issue_batch_2($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
        )
        .bind(shard)
        .bind(campaigns.iter().map(|claims| claims[0].campaign).collect::<Vec<_>>())
        .bind(campaigns.iter().map(|claims| claims[0].campaign.to_string()).collect::<Vec<_>>())
        .bind(campaigns.iter().map(|_| new_id().into()).collect::<Vec<Uuid>>())
        .bind(last_claims.collect::<Vec<_>>())
        .bind(claims.iter().map(|claim| claim.user.as_str()).collect::<Vec<_>>())
        .bind(&coupon_ids)
        .bind(coupon_ids.iter().map(ToString::to_string).collect::<Vec<_>>())
        .bind(&codes)
        .bind(claims.iter().map(|_| new_id().into()).collect::<Vec<Uuid>>())
        .bind(claims.iter().map(traceparent).collect::<Vec<_>>())
        .bind(claims.iter().map(request_id).collect::<Vec<_>>())
        .bind(keys(claims))
        .fetch_all(connection)
        .await?;
        let mut answers = Vec::with_capacity(claims.len());
        for row in &rows {
            Answer::read(row, claims, &coupon_ids, &codes, &mut answers)?;
        }
        Ok(answers)
    }

    fn settle(&mut self, claims: Vec<Claim>, result: Result<Vec<Answer>, WriteError>) {
        match result {
            Ok(answers) => self.answer(claims, answers),
            // It is not known what became of the seats: the sweeper will ask Postgres.
            Err(error @ WriteError::Unknown) if !zoo::has("unknown-is-taken-for-failed") => {
                fail(claims, error);
            }
            // Surely nothing was written: the seats go back on sale.
            Err(error) => {
                if !zoo::has("seats-of-the-failed-are-kept") {
                    self.release(&claims);
                }
                fail(claims, error);
            }
        }
    }
}

impl Claims {
    fn answer(&self, claims: Vec<Claim>, answers: Vec<Answer>) {
        let mut claims: Vec<Option<Claim>> = claims.into_iter().map(Some).collect();
        let mut confirmed: HashMap<CampaignId, Vec<Seat>> = HashMap::new();
        for Answer { claim, nth, verdict } in answers {
            let Some(claim) = claims.get_mut(claim).and_then(Option::take) else { continue };
            let own = Seat::new(&claim.user, nth);
            match &verdict {
                Verdict::Issued(_) => confirmed.entry(claim.campaign).or_default().push(own),
                Verdict::Held(coupon) => {
                    if let Some(other) = claim.seat.as_ref().filter(|seat| **seat != own) {
                        self.gate.release(claim.campaign, vec![other.clone()]);
                    }
                    let long_ago = OffsetDateTime::now_utc() - coupon.issued_at > FORGOTTEN_AFTER;
                    if claim.seat.is_some() && long_ago {
                        self.loader.want(claim.campaign);
                    }
                    confirmed.entry(claim.campaign).or_default().push(own);
                }
                Verdict::Replayed(_) => {
                    if let Some(other) = claim.seat.as_ref().filter(|seat| **seat != own) {
                        self.gate.release(claim.campaign, vec![other.clone()]);
                    }
                    confirmed.entry(claim.campaign).or_default().push(own);
                }
                Verdict::KeyReused => self.release(std::slice::from_ref(&claim)),
                Verdict::Refused(..) if claim.seat.is_some() => {
                    self.release(std::slice::from_ref(&claim));
                    self.loader.want(claim.campaign); // the gate gave a seat that Postgres does not have
                }
                Verdict::Refused(..) => {}
            }
            claim.answer(Ok(Fate::Judged(verdict)));
        }
        for (campaign, seats) in confirmed {
            self.gate.confirm(campaign, seats);
        }
    }

    /// Puts the seats of claims back on sale.
    fn release(&self, claims: &[Claim]) {
        let mut seats: HashMap<CampaignId, Vec<Seat>> = HashMap::new();
        for claim in claims {
            if let Some(seat) = &claim.seat {
                seats.entry(claim.campaign).or_default().push(seat.clone());
            }
        }
        for (campaign, seats) in seats {
            self.gate.release(campaign, seats);
        }
    }
}

fn traceparent(claim: &Claim) -> Option<&str> {
    claim.cause.traceparent.as_ref().map(Traceparent::as_str)
}

fn request_id(claim: &Claim) -> Option<&str> {
    claim.cause.request_id.as_ref().map(RequestId::as_str)
}

/// The idempotency key of each claim; nothing if none has one.
fn keys(claims: &[Claim]) -> Option<Vec<Option<Uuid>>> {
    let is_keyed = claims.iter().any(|claim| claim.keyed.is_some());
    is_keyed.then(|| claims.iter().map(|claim| claim.keyed.as_ref().map(Keyed::key)).collect())
}

fn fail(claims: Vec<Claim>, error: WriteError) {
    for claim in claims {
        claim.answer(Err(ClaimError::from(error)));
    }
}

impl Answer {
    /// Reads columns by index, as `write` selects them. What the caller has sent itself does not come back to a
    /// winner.
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
            let newest = || match row.try_get(6)? {
                Some(id) => coupon(id, row.try_get(7)?, row.try_get(8)?).map(Some),
                None => Ok(None),
            };
            let verdict = match word {
                "issued" => Verdict::Issued(coupon(ids[claim], codes[claim].clone(), CouponState::Issued)?),
                "held" => Verdict::Held(coupon(row.try_get(6)?, row.try_get(7)?, row.try_get(8)?)?),
                "sold_out" => Verdict::Refused(Refusal::SoldOut, newest()?),
                "not_open" => Verdict::Refused(Refusal::NotOpen, newest()?),
                "closed" => Verdict::Refused(Refusal::Closed, newest()?),
                "replayed" => Verdict::Replayed(coupon(row.try_get(6)?, row.try_get(7)?, row.try_get(8)?)?),
                "key_reused" => Verdict::KeyReused,
                other => return Err(sqlx::Error::Protocol(format!("issue_batch_2() answered {other:?}"))),
            };
            answers.push(Self { claim, nth: nth.unwrap_or_default(), verdict });
        }
        Ok(())
    }
}
