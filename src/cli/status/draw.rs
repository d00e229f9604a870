//! A look, for people.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;

use super::super::print::table;
use super::look::{CampaignStatus, ProjectionStatus, ShardStatus, Status};

const CAMPAIGN_COLUMNS: [&str; 7] = ["id", "name", "state", "quantity", "issued", "left", "issued_per_s"];
const SHARD_COLUMNS: [&str; 6] = ["shard", "head", "backlog", "oldest_age_s", "leader", "halted"];
const PROJECTION_COLUMNS: [&str; 5] = ["projection", "shard", "position", "lag", "parked"];

/// A look as tables.
pub(super) struct Picture<'a>(pub(super) &'a Status);

impl fmt::Display for Picture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Status { at, campaigns, more_campaigns, shards, projections } = self.0;
        writeln!(f, "{}\n", at.format(&Rfc3339).map_err(|_| fmt::Error)?)?;
        writeln!(f, "{}", table(&rows(campaigns), &CAMPAIGN_COLUMNS))?;
        if *more_campaigns {
            writeln!(f, "and more: see `coupon campaign list`")?;
        }
        writeln!(f, "\n{}", table(&rows(shards), &SHARD_COLUMNS))?;
        write!(f, "\n{}", table(&rows(projections), &PROJECTION_COLUMNS))
    }
}

/// A look as one line, with the sums of what is known.
pub(super) fn summary(status: &Status) -> String {
    let Status { at, campaigns, shards, projections, .. } = status;
    let at = at.format(&Rfc3339).unwrap_or_default();
    let sum = |of: fn(&CampaignStatus) -> i32| campaigns.iter().map(of).map(i64::from).sum::<i64>();
    let (issued, left) = (sum(|campaign| campaign.issued), sum(|campaign| campaign.left));
    let rate: f64 = campaigns.iter().filter_map(|campaign| campaign.issued_per_s).sum();
    let backlog: Option<i64> = shards.iter().map(|shard| shard.backlog).sum();
    let backlog = backlog.map_or("unknown".to_owned(), |backlog| backlog.to_string());
    let number = |is: fn(&&ShardStatus) -> bool| shards.iter().filter(is).count();
    let (led, halted) = (number(|shard| shard.leader.is_some()), number(|shard| shard.halted.is_some()));
    let of_projections = |of: fn(&ProjectionStatus) -> i64| projections.iter().map(of).sum::<i64>();
    let (lag, parked) = (of_projections(|one| one.lag), of_projections(|one| one.parked));
    format!(
        "{at} {} campaigns, {issued} issued, {rate:.0}/s, {left} left; backlog {backlog}, {led} of {} shards led, \
         {halted} halted; projections {lag} behind, {parked} parked",
        campaigns.len(),
        shards.len()
    )
}

/// As rows of a table, with one decimal.
fn rows<T: Serialize>(items: &[T]) -> Vec<Value> {
    let rounded = |mut item: Value| {
        for field in ["issued_per_s", "oldest_age_s"] {
            if let Some(number) = item.get(field).and_then(Value::as_f64) {
                item[field] = json!((number * 10.0).round() / 10.0);
            }
        }
        item
    };
    items.iter().filter_map(|item| serde_json::to_value(item).ok()).map(rounded).collect()
}
