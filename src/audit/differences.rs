//! What the figures of one campaign contradict.

use super::sheet::{CampaignBalance, Counted};

/// The figures at rest: they all are the same number. `whole_stream` says that the shard's outbox,
/// and so its stream, still hold every event.
pub(super) fn at_rest(balance: &CampaignBalance, whole_stream: bool) -> Option<String> {
    let CampaignBalance { campaign_id: id, coupons, gate, pending, .. } = balance;
    let seats = || match gate {
        Some(gate) if gate != coupons || *pending > 0 => {
            Some(format!("campaign {id}: {coupons} coupons, {gate} seats taken and {pending} pending"))
        }
        _ => None,
    };
    let rows = || balance.counted.as_ref().and_then(|counted| in_rows(balance, counted, whole_stream));
    oversold(balance).or_else(rows).or_else(seats)
}

/// More coupons than there may be.
pub(super) fn oversold(balance: &CampaignBalance) -> Option<String> {
    let CampaignBalance { campaign_id: id, coupons, quantity, .. } = balance;
    (coupons > quantity).then(|| format!("campaign {id}: {coupons} coupons of {quantity}"))
}

/// The stream holds another number of coupons.
pub(super) fn in_stream(balance: &CampaignBalance) -> Option<String> {
    let CampaignBalance { campaign_id: id, coupons, stream, .. } = balance;
    (stream != coupons).then(|| format!("campaign {id}: {coupons} coupons, {stream} in the stream"))
}

/// A gate that is loaded takes every seat before its coupon, and confirms none before: with claims on
/// their way, the coupons lie between what is confirmed and what is taken.
pub(super) fn under_way(balance: &CampaignBalance) -> Option<String> {
    let CampaignBalance { campaign_id: id, coupons, gate, pending, .. } = balance;
    let gate = gate.as_ref()?;
    (!(*gate..=gate + pending).contains(coupons))
        .then(|| format!("campaign {id}: {coupons} coupons, {gate} seats taken and {pending} pending"))
}

fn in_rows(balance: &CampaignBalance, counted: &Counted, whole_outbox: bool) -> Option<String> {
    let CampaignBalance { campaign_id: id, face_value, .. } = balance;
    let Counted { outbox, wallet, settlement, settlement_due, settlement_amount, .. } = counted;
    let coupons = counted.coupons();
    if coupons != balance.coupons {
        return Some(format!("campaign {id}: {coupons} coupons, numbered up to {}", balance.coupons));
    }
    let in_outbox = if whole_outbox { coupons } else { (*outbox).min(coupons) };
    for (place, count, expected) in [
        ("outbox", *outbox, in_outbox),
        ("wallet", *wallet, coupons),
        ("settlement", *settlement, *settlement_due),
    ] {
        if count != expected {
            return Some(format!("campaign {id}: {expected} coupons count, {count} are in the {place}"));
        }
    }
    (*settlement_amount != settlement_due * face_value).then(|| {
        format!("campaign {id}: {settlement_due} coupons of {face_value} settle to {settlement_amount}")
    })
}
