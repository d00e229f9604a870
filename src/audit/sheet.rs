//! The balance sheet: what was read, and how it is shown.

use std::fmt;

use outbox_relay::Shard;
use outbox_relay::audit::{Comparison, ShardAudit};
use serde::Serialize;

use crate::campaign::{SettleOn, State};
use crate::ids::CampaignId;

/// One campaign's line.
#[derive(Clone, Debug, Serialize)]
pub struct CampaignBalance {
    pub campaign_id: CampaignId,
    pub name: String,
    pub state: State,
    pub quantity: i64,
    /// Seats taken, without the pending; nothing when the gate is not loaded.
    pub gate: Option<i64>,
    pub pending: i64,
    /// The highest number of a coupon. Numbers have no gaps: so many coupons were issued.
    pub coupons: i64,
    /// Messages that tell of an issue.
    pub stream: i64,
    /// Nothing in a quick sheet: whoever wants to know has to count rows.
    #[serde(flatten)]
    pub counted: Option<Counted>,
    #[serde(skip)]
    pub(super) shard: Shard,
    #[serde(skip)]
    pub(super) settle_on: SettleOn,
    #[serde(skip)]
    pub(super) face_value: i64,
}

/// The rows of one campaign.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counted {
    pub issued: i64,
    pub redeemed: i64,
    pub cancelled: i64,
    pub expired: i64,
    pub outbox: i64,
    pub wallet: i64,
    /// Entries, and those that there have to be.
    pub settlement: i64,
    pub settlement_due: i64,
    /// Sum of the entries, in minor units.
    pub settlement_amount: i64,
}

impl Counted {
    /// Coupons in any state.
    #[must_use]
    pub fn coupons(&self) -> i64 {
        self.issued + self.redeemed + self.cancelled + self.expired
    }
}

/// One shard's line.
#[derive(Clone, Debug, Serialize)]
pub struct ShardBalance {
    pub shard: Shard,
    /// The lowest position that the outbox still holds, and the highest.
    pub first: i64,
    pub outbox: i64,
    pub stream: i64,
    pub projections: Vec<(String, i64)>,
    /// Nothing in a quick sheet.
    pub compared: Option<Compared>,
}

/// What came of the comparison of a shard, event by event, from its first position on.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// Events on both sides.
    pub events: u64,
    pub missing_from_stream: u64,
    pub more_in_stream: u64,
    pub different: u64,
}

impl ShardBalance {
    pub(super) fn new(audited: &ShardAudit, comparison: Option<&Comparison>) -> Self {
        Self {
            shard: audited.shard,
            first: audited.first,
            outbox: audited.head,
            stream: audited.stream.unwrap_or_default(),
            projections: audited.projections.clone(),
            compared: comparison.map(|found| Compared {
                events: found.compared,
                missing_from_stream: found.missing,
                more_in_stream: found.extra,
                different: found.different,
            }),
        }
    }
}

/// The whole sheet.
#[derive(Clone, Debug, Serialize)]
pub struct Sheet {
    pub campaigns: Vec<CampaignBalance>,
    pub shards: Vec<ShardBalance>,
    /// The first thing that differs. Nothing: balanced.
    pub difference: Option<String>,
}

impl Sheet {
    /// Whether everything agrees.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        self.difference.is_none()
    }
}

impl fmt::Display for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<26} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10}",
            "campaign", "quantity", "gate", "coupons", "outbox", "stream", "wallet", "settlement"
        )?;
        for campaign in &self.campaigns {
            writeln!(f, "{campaign}")?;
        }
        writeln!(f, "{:<26} {:>9} {:>9}  applied", "shard", "outbox", "stream")?;
        for shard in &self.shards {
            writeln!(f, "{shard}")?;
        }
        match &self.difference {
            Some(difference) => write!(f, "not balanced: {difference}"),
            None => write!(f, "balanced"),
        }
    }
}

impl fmt::Display for CampaignBalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { campaign_id, quantity, gate, coupons, stream, counted, .. } = self;
        let or_dash = |count: Option<i64>| count.map_or_else(|| "-".to_owned(), |count| count.to_string());
        let rows = |column: fn(&Counted) -> i64| or_dash(counted.as_ref().map(column));
        write!(
            f,
            "{:<26} {quantity:>9} {:>9} {:>9} {:>9} {stream:>9} {:>9} {:>10}",
            campaign_id.to_string(),
            or_dash(*gate),
            counted.as_ref().map_or(*coupons, Counted::coupons),
            rows(|counted| counted.outbox),
            rows(|counted| counted.wallet),
            rows(|counted| counted.settlement),
        )
    }
}

impl fmt::Display for ShardBalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shard, first, outbox, stream, projections, compared } = self;
        let applied: Vec<_> =
            projections.iter().map(|(name, position)| format!("{name} {position}")).collect();
        write!(f, "{:<26} {outbox:>9} {stream:>9}  {}", shard.to_string(), applied.join(", "))?;
        let Some(Compared { events, missing_from_stream, more_in_stream, different }) = compared else {
            return Ok(());
        };
        write!(
            f,
            "\n  {events} events compared from position {first} on: {missing_from_stream} missing from the stream, \
             {more_in_stream} more in it, {different} that differ"
        )
    }
}
