//! What a gate has wrong: looked at again in Postgres before anything is done about it, because a campaign may have
//! changed and coupons may have been issued between two looks.

use std::collections::HashMap;

use futures_util::future::join_all;
use redis::RedisError;

use super::record::{FieldDifference, Record};
use super::redis::Seats;
use crate::campaign::sweep::{self, Seen};
use crate::ids::CampaignId;
use crate::pool::Pool;
use crate::storage::prepared;

/// A gate that looked wrong.
pub(super) struct Suspect {
    pub(super) id: CampaignId,
    /// Coupons that were counted before the gate was read.
    pub(super) issued_before: i64,
    pub(super) record: Record,
}

/// What is wrong with a gate.
pub(super) enum Wrong {
    /// A field, or when a key expires. It is put right, unless that failed.
    Fields {
        difference: FieldDifference,
        /// The gate had an older version of the campaign: it has missed a change, or not heard of it yet.
        is_older: bool,
        corrected: Result<(), RedisError>,
    },
    /// Its seats contradict the coupons: it must be loaded again.
    Seats(String),
}

/// Whether a gate looks wrong beside what Postgres said before it was read.
pub(super) fn is_suspect(seen: &Seen, record: &Record) -> bool {
    let issued = i64::from(seen.issued);
    record.is_not(&seen.snapshot).is_some() || record.taken < issued || record.confirmed() > issued
}

async fn current(pool: &Pool, ids: &[CampaignId]) -> Result<Vec<Seen>, sqlx::Error> {
    prepared!(pool, |connection| sweep::of_ids(connection, ids))
}

/// Asks Postgres again, and puts fields right. Returns what was wrong.
pub(super) async fn check(
    seats: &Seats,
    pool: &Pool,
    suspects: Vec<Suspect>,
) -> Result<Vec<(CampaignId, Wrong)>, sqlx::Error> {
    if suspects.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<CampaignId> = suspects.iter().map(|suspect| suspect.id).collect();
    let now: HashMap<CampaignId, Seen> =
        current(pool, &ids).await?.into_iter().map(|seen| (seen.campaign().id, seen)).collect();
    let mut wrong = Vec::new();
    let mut corrections = Vec::new();
    for Suspect { id, issued_before, record } in suspects {
        let Some(now) = now.get(&id) else { continue };
        if let Some(what) = contradiction(&record, issued_before, now.issued.into()) {
            wrong.push((id, Wrong::Seats(what)));
        }
        if let Some(difference) = record.is_not(&now.snapshot) {
            corrections.push(correct(seats.clone(), now, record, difference));
        }
    }
    wrong.extend(join_all(corrections).await);
    Ok(wrong)
}

/// In what the seats of a gate contradict the coupons, which were counted before it was read and after. A seat is
/// taken before its coupon is committed, and confirmed after it.
fn contradiction(record: &Record, before: i64, after: i64) -> Option<String> {
    let (taken, confirmed) = (record.taken, record.confirmed());
    if taken < before.min(after) {
        Some(format!("it has forgotten seats: {taken} are taken, {before} coupons are issued"))
    } else if confirmed > after {
        Some(format!("{confirmed} seats are confirmed, {after} coupons are issued"))
    } else {
        None
    }
}

async fn correct(
    mut seats: Seats,
    now: &Seen,
    record: Record,
    difference: FieldDifference,
) -> (CampaignId, Wrong) {
    let campaign = now.campaign();
    let version = record.version().and_then(|version| version.parse().ok());
    // Or it was not told yet that seats are back on sale.
    let quantity =
        difference.found.as_ref().filter(|_| difference.field == "quantity" && campaign.returned > 0);
    let is_behind = quantity
        .and_then(|found| found.parse().ok())
        .is_some_and(|found: i32| found < campaign.coupons_max());
    let is_older = is_behind || version.is_some_and(|version: i32| version < campaign.version);
    let corrected = seats.put(campaign, &record).await;
    (campaign.id, Wrong::Fields { difference, is_older, corrected })
}
