//! What a gate holds of its campaign: written as text, read again, and compared with Postgres.

use std::time::Duration;

use outbox_relay::zoo;

use crate::campaign::Campaign;
use crate::campaign::store::Snapshot;

/// How long a gate is kept after its campaign is over, to answer late claims.
pub(crate) const GRACE: time::Duration = time::Duration::days(1);
/// How long a seat may be pending. Then the sweeper asks Postgres whether its coupon is committed.
pub(crate) const LEASE: Duration = Duration::from_secs(10);
/// By how much the expiry of a key may differ, in ms: far more than clocks differ, and less than [`GRACE`] by more
/// than the hour for which the gate of a closed campaign is asked.
const EXPIRY_TOLERANCE: i128 = 6 * 3_600_000;
/// What Redis says of a key that never expires.
const NEVER: i64 = -1;
/// Those that decide who gets a coupon. The others say how long seats and keys are kept.
const DECIDING: usize = 6;

/// The fields of a gate, as [`values`] writes them.
pub(super) const FIELDS: [&str; 8] =
    ["state", "opens_at", "closes_at", "quantity", "limit", "version", "lease", "expires_at"];

/// The value of each of [`FIELDS`]. The one place that decides it: load, set and put write this.
pub(super) fn values(campaign: &Campaign) -> [String; FIELDS.len()] {
    [
        campaign.state.as_str().to_owned(),
        unix_millis(campaign.opens_at),
        unix_millis(campaign.closes_at),
        campaign.coupons_max().to_string(),
        campaign.per_user_limit.to_string(),
        campaign.version.to_string(),
        LEASE.as_millis().to_string(),
        expires_at(campaign),
    ]
}

/// When the keys of a campaign's gate expire, in ms since 1970.
pub(super) fn expires_at(campaign: &Campaign) -> String {
    unix_millis(campaign.over_at() + GRACE)
}

fn unix_millis(time: time::OffsetDateTime) -> String {
    (time.unix_timestamp_nanos() / 1_000_000).to_string()
}

/// What a gate holds, at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    /// The values of [`FIELDS`]; nothing where the gate has none.
    pub(super) found: Vec<Option<String>>,
    /// Seats that are taken, those that are pending included.
    pub(crate) taken: i64,
    /// Seats that are not confirmed.
    pub(crate) pending: i64,
    /// For how long Redis keeps the gate and its holders, in ms; less than 0 for ever, or if there is no such key.
    pub(super) ttls: [i64; 2],
}

/// A field in which a gate differs from its campaign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {}, {expected} expected", found.as_deref().unwrap_or("missing"))]
pub(crate) struct FieldDifference {
    pub(crate) field: &'static str,
    pub(crate) expected: String,
    /// Nothing if the gate has no such field.
    pub(crate) found: Option<String>,
}

impl Record {
    /// Seats whose coupons are committed, by the word of the gate.
    pub(crate) fn confirmed(&self) -> i64 {
        self.taken - self.pending
    }

    /// The version of the campaign that the gate has, as text.
    pub(super) fn version(&self) -> Option<&str> {
        let place = FIELDS.iter().position(|field| *field == "version")?;
        self.found.get(place)?.as_deref()
    }

    /// The first field that decides who gets a coupon, and differs: state, window, quantity, limit, version.
    pub(crate) fn differs(&self, campaign: &Campaign) -> Option<FieldDifference> {
        let compared = if zoo::has("audit-compares-no-gate-field") { 0 } else { DECIDING };
        self.differences(campaign).take(compared).flatten().next()
    }

    /// The first difference of any kind: in a field, or in when the keys expire.
    pub(super) fn is_not(&self, snapshot: &Snapshot) -> Option<FieldDifference> {
        if zoo::has("gate-fields-are-not-compared") {
            return None;
        }
        let of_field = self.differences(&snapshot.campaign).flatten().next();
        of_field.or_else(|| self.expires_otherwise(snapshot))
    }

    /// For each of [`FIELDS`], in this order.
    pub(super) fn differences(&self, campaign: &Campaign) -> impl Iterator<Item = Option<FieldDifference>> {
        let pairs = FIELDS.into_iter().zip(values(campaign)).zip(&self.found);
        pairs.map(|((field, expected), found)| {
            (found.as_ref() != Some(&expected)).then(|| FieldDifference {
                field,
                expected,
                found: found.clone(),
            })
        })
    }

    fn expires_otherwise(&self, Snapshot { campaign, taken_at }: &Snapshot) -> Option<FieldDifference> {
        let expected = (campaign.over_at() + GRACE - *taken_at).whole_milliseconds();
        let differs = |ttl: i64| match ttl {
            NEVER => true,
            ttl => ttl >= 0 && (i128::from(ttl) - expected).abs() > EXPIRY_TOLERANCE,
        };
        let ttl = self.ttls.into_iter().find(|ttl| differs(*ttl))?;
        let found = Some(if ttl == NEVER { "never".to_owned() } else { format!("in {ttl} ms") });
        Some(FieldDifference { field: "expiry of a key", expected: format!("in {expected} ms"), found })
    }
}
