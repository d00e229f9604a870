//! The balance sheet: gate = coupons = outbox = stream = wallet = settlement, or the first difference.
//!
//! Each of these sides is a leg, in a file of its own under `legs/`, which says what is read of it and compared.
//!
//! There are three speeds. The **quick** audit reads ends and counts that the servers keep anyway, at a cost that
//! grows with the number of campaigns and not of coupons; three million coupons take it 20 ms. It proves that no
//! campaign has more coupons than its quantity, that the gate has confirmed one seat for each coupon, that the stream
//! ends where the outbox ends and lacks nothing on the way, that it holds one issue for each coupon of a campaign,
//! and that the projections have reached the end. It cannot see a row that was changed, exchanged or taken from the
//! middle of a table, a message with other content, or a seat of another user. It counts no rows: those columns of
//! the sheet stay empty. When the gate has confirmed another number of seats, it searches all of them for the first
//! without a coupon, and all coupons for the first without a seat.
//!
//! The **full** audit compares every event with its message and its coupon, and every coupon with its seat, its row
//! in the wallet and its entry in the settlement, in chunks, so that memory stays bounded. It also counts all rows,
//! so that a row that belongs to nothing shows.
//!
//! The [`Auditor`] does both **continuously**, part by part.
//!
//! All of them are right while claims go on. An audit that is made once has a **cut**: the head of each shard's outbox,
//! and the highest number of each campaign's coupons, from one snapshot. It waits until stream and projections have
//! reached the cut, or one stands still; then everything up to the cut must be everywhere. What is behind the cut is on
//! its way: figures that include some of it are compared with the coupons up to where their side had come.

mod auditor;
mod campaigns;
mod chunk;
mod difference;
mod ends;
mod leg;
mod legs;
mod reading;
mod round;
mod scan;
mod sheet;
mod sources;
mod value;
mod walk;

use indicatif::ProgressBar;

pub use self::auditor::{AuditRound, Auditor};
pub use self::difference::{Difference, LegName, Mismatch};
use self::legs::Legs;
use self::reading::Reading;
pub use self::sheet::{CampaignBalance, Column, Compared, ShardBalance, Sheet};
pub use self::value::Value;
use crate::connections::Connections;
use crate::ids::CampaignId;
use crate::progress::progress_bar;

/// What to audit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scope {
    /// Only this campaign; or else all, and what belongs to none.
    pub campaign: Option<CampaignId>,
    /// Every event, seat and row, and not only ends and counts.
    pub full: bool,
}

/// Makes the sheet, at rest or under load.
///
/// # Errors
/// When it cannot be told: one of the servers cannot be asked, the campaign does not exist, events are still on their way
/// after two minutes, or the oldest events leave the outbox meanwhile.
pub async fn audit(connections: &Connections, shards: i16, scope: Scope) -> anyhow::Result<Sheet> {
    let bar = if scope.full { progress_bar(0) } else { ProgressBar::hidden() };
    let reading = Reading::start(connections, shards, scope.campaign, bar).await?;
    if scope.full { reading.full().await } else { reading.quick().await }
}

/// The names of all legs, in the order of the sheet's columns.
#[must_use]
pub fn legs() -> Vec<LegName> {
    Legs::all().names()
}
