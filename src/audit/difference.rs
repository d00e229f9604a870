//! A difference as data: what differs, where, what was expected and what was found. Words come last, in `Display`.

use std::fmt;

use outbox_relay::Shard;
use outbox_relay::audit::{EventDifference, ShardDifference};
use serde::Serialize;

use super::value::Value;
use crate::ids::{CampaignId, CouponId};

/// The name of a leg of the audit, such as `wallet`: the heading of its column, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct LegName(&'static str);

impl LegName {
    pub(super) const fn new(name: &'static str) -> Self {
        Self(name)
    }

    /// The name as a word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for LegName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

/// What differs. Says what `expected` and `found` of its [`Difference`] hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Mismatch {
    /// More coupons were issued (`found`) than the quantity of the campaign (`expected`).
    Oversold,
    /// A table has another number of rows.
    Rows,
    /// The stream has another number of `issued` events.
    Messages,
    /// The entries add up to another amount, in minor units.
    Amount,
    /// The gate has confirmed another number of seats (`found`) than there are coupons (`expected`), or has
    /// pending ones at rest.
    Seats { pending: i64 },
    /// The gate holds another value (`found`, nothing if it has none) than the campaign has. Both are the gate's text.
    GateField { field: &'static str },
    /// There are rows of a campaign (`found`) that does not exist.
    NoSuchCampaign,
    /// The row of a campaign holds what this program never writes (`found` is the reason), so that it is not compared.
    CampaignUnreadable,
    /// An event announces a coupon that has no row in `coupons`.
    AnnouncedWithoutCoupon,
    /// An event announces a coupon with other data than its row in `coupons`.
    AnnouncedWithOtherData,
    /// An event announces a coupon that an earlier event announces.
    AnnouncedTwice,
    /// No event announces the coupon with this number (`expected`).
    NotAnnounced,
    /// A table or the outbox has another number of changes of coupons, or their serial numbers do.
    Changes { table: &'static str },
    /// A change of a coupon is not there what its event in the outbox tells.
    Change { table: &'static str },
    /// A coupon has no row.
    RowMissing,
    /// The row of a coupon has another value in this column.
    OtherValue { column: &'static str },
    /// A coupon has a row before it is due.
    RowNotDue,
    /// A row names a coupon that does not exist or is not due.
    RowWithoutCoupon,
    /// A coupon has no seat.
    SeatMissing,
    /// A seat (`found`) has no coupon.
    SeatWithoutCoupon,
    /// The message in an event's place has another id, or none.
    OtherEvent,
    /// The message of an event is on another subject.
    OtherSubject,
    /// The message of an event has another body.
    OtherBody,
    /// The stream has no message of an event; `found` is the id of the one that it has next.
    MessageMissing,
    /// The stream has a message (`found` is its id) where the outbox has no event.
    ExtraMessage,
    /// The stream ends (`found`, a sequence) behind the outbox (`expected`).
    StreamAhead,
    /// The stream has lost messages (`found`, their number) before its end.
    MessagesMissing,
    /// A projection has parked events (`found`, their number), the first at `position`.
    EventsParked,
    /// The stream ends (`found`, a sequence; nothing if it does not exist) before the outbox (`expected`).
    StreamBehind,
    /// A projection has applied a shard up to a position (`found`) before the end of the outbox (`expected`).
    ProjectionBehind,
}

/// One difference. What does not apply is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct Difference {
    /// The leg that sees it.
    pub leg: LegName,
    #[serde(flatten)]
    pub mismatch: Mismatch,
    pub shard: Option<Shard>,
    #[serde(rename = "campaign_id")]
    pub campaign: Option<CampaignId>,
    #[serde(rename = "coupon_id")]
    pub coupon: Option<CouponId>,
    /// The place of an event in the outbox, from 1.
    pub position: Option<i64>,
    pub expected: Option<Value>,
    pub found: Option<Value>,
    /// A coupon, row, event or seat that explains a figure which differs.
    pub example: Option<Box<Difference>>,
    /// What the crate of the outbox found, for the words.
    #[serde(skip)]
    pub(super) source: Option<Source>,
}

/// A difference between an outbox and its stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    Shard(ShardDifference),
    Event(EventDifference),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shard(difference) => difference.fmt(f),
            Self::Event(difference) => difference.fmt(f),
        }
    }
}

impl Difference {
    /// A difference of which nothing is known yet but this.
    pub(super) fn new(leg: LegName, mismatch: Mismatch) -> Self {
        Self {
            leg,
            mismatch,
            shard: None,
            campaign: None,
            coupon: None,
            position: None,
            expected: None,
            found: None,
            example: None,
            source: None,
        }
    }

    /// A figure that differs, with an example of it, if there is another difference to name.
    pub(super) fn with_example(self, example: Option<Self>) -> Self {
        let example = example.filter(|example| *example != self);
        Self { example: example.map(Box::new), ..self }
    }

    /// Whether events on their way cannot explain it, so that it is reported at once.
    pub(super) fn is_certain(&self) -> bool {
        matches!(self.mismatch, Mismatch::StreamAhead | Mismatch::MessagesMissing | Mismatch::EventsParked)
    }

    /// The part that stays the same for as long as this side stands still: of a side that lags, how far it has
    /// come, however far the outbox has gone since; of any other difference, all of it.
    pub(super) fn at(&self) -> Self {
        match self.mismatch {
            Mismatch::StreamBehind | Mismatch::ProjectionBehind => {
                Self { position: None, expected: None, source: None, ..self.clone() }
            }
            _ => self.clone(),
        }
    }

    fn sentence(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leg, shard, coupon, position, expected, found, source, .. } = self;
        let (shard, coupon, position) = (Known(shard), Known(coupon), Known(position));
        let (expected, found) = (Known(expected), Known(found));
        let announces = format_args!("outbox announces coupon {coupon} at position {position}");
        match self.mismatch {
            Mismatch::Oversold => write!(f, "{leg}: {found} issued of a quantity of {expected}"),
            Mismatch::Rows => write!(f, "{leg}: {found} rows, {expected} expected"),
            Mismatch::Messages => write!(f, "{leg}: {found} issued events, {expected} expected"),
            Mismatch::Amount => write!(f, "{leg}: entries add up to {found}, {expected} expected"),
            Mismatch::Seats { pending } => {
                write!(f, "{leg}: {expected} coupons, {found} seats confirmed, {pending} pending")
            }
            Mismatch::GateField { field } => write!(f, "{leg} has {field} {found}, {expected} expected"),
            Mismatch::NoSuchCampaign => {
                write!(f, "{leg} has rows of campaign {found}, and no such campaign exists")
            }
            Mismatch::CampaignUnreadable => write!(f, "its row in `campaigns` cannot be read: {found}"),
            Mismatch::AnnouncedWithoutCoupon => write!(f, "{announces}, which has no row in `coupons`"),
            Mismatch::AnnouncedWithOtherData => {
                write!(f, "{announces}, whose row in `coupons` has other data")
            }
            Mismatch::AnnouncedTwice => write!(f, "{announces}, already announced by an earlier event"),
            Mismatch::NotAnnounced => write!(f, "no event in the {leg} announces coupon number {expected}"),
            Mismatch::Changes { table } => write!(f, "{table}: {found} changes, {expected} expected"),
            Mismatch::Change { table } => {
                write!(f, "coupon {coupon}, change at {position}: {found} in {table}, {expected} expected")
            }
            Mismatch::RowMissing => write!(f, "coupon {coupon} is not in the {leg}"),
            Mismatch::OtherValue { column } => {
                write!(f, "coupon {coupon} has {column} {found} in the {leg}, {expected} expected")
            }
            Mismatch::RowNotDue => write!(f, "coupon {coupon} is in the {leg} before it is due"),
            Mismatch::RowWithoutCoupon => write!(f, "coupon {coupon} does not belong in the {leg}"),
            Mismatch::SeatMissing => write!(f, "coupon {coupon} has no seat"),
            Mismatch::SeatWithoutCoupon => write!(f, "seat {found} has no coupon"),
            Mismatch::OtherEvent
            | Mismatch::OtherSubject
            | Mismatch::OtherBody
            | Mismatch::MessageMissing
            | Mismatch::ExtraMessage
            | Mismatch::StreamAhead
            | Mismatch::MessagesMissing
            | Mismatch::EventsParked
            | Mismatch::StreamBehind => write!(f, "{}", Known(source)),
            Mismatch::ProjectionBehind => {
                write!(f, "{leg} has applied shard {shard} up to {found}, the outbox ends at {expected}")
            }
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(campaign) = self.campaign.filter(|_| self.mismatch != Mismatch::NoSuchCampaign) {
            write!(f, "campaign {campaign}: ")?;
        }
        self.sentence(f)?;
        let Some(example) = &self.example else { return Ok(()) };
        f.write_str("; ")?;
        example.sentence(f)
    }
}

/// A value that its kind of difference always has.
struct Known<'a, T>(&'a Option<T>);

impl<T: fmt::Display> fmt::Display for Known<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("?"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALLET: LegName = LegName::new("wallet");

    #[test]
    fn the_shape_in_json_is_the_same_for_every_kind() {
        let campaign = CampaignId("01ARZ3NDEKTSV4RRFFQ69G5FAV".parse().unwrap_or_default());
        let figure = Difference {
            campaign: Some(campaign),
            expected: Some(4.into()),
            found: Some((i128::from(i64::MAX) + 1).into()),
            ..Difference::new(WALLET, Mismatch::Rows)
        };
        let example = Difference {
            coupon: Some(CouponId(campaign.0)),
            expected: Some(Value::Text("EUR".to_owned())),
            ..Difference::new(WALLET, Mismatch::OtherValue { column: "currency" })
        };
        let expected = serde_json::json!({
            "leg": "wallet", "kind": "rows", "shard": null, "campaign_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "coupon_id": null, "position": null, "expected": 4, "found": "9223372036854775808",
            "example": {
                "leg": "wallet", "kind": "other_value", "column": "currency", "shard": null, "campaign_id": null,
                "coupon_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "position": null, "expected": "EUR", "found": null,
                "example": null,
            },
        });
        assert_eq!(serde_json::json!(figure.with_example(Some(example))), expected);
    }

    #[test]
    fn a_side_that_lags_stands_where_it_stood_whatever_the_outbox_does() {
        let lag = |found: i64, expected: i64| Difference {
            expected: Some(expected.into()),
            found: Some(found.into()),
            ..Difference::new(WALLET, Mismatch::ProjectionBehind)
        };
        assert_eq!(lag(3, 7).at(), lag(3, 9).at());
        assert_ne!(lag(3, 9).at(), lag(4, 9).at());
        let rows = Difference { mismatch: Mismatch::Rows, ..lag(3, 7) };
        assert_eq!(rows.at(), rows);
    }
}
