//! The balance sheet: what was read, as a table and as JSON.

use std::fmt;

use outbox_relay::Shard;
use outbox_relay::audit::ShardAudit;
use serde::ser::{SerializeMap as _, SerializeStruct as _};
use serde::{Serialize, Serializer};

use super::difference::{Difference, LegName};
use super::value::Value;
use crate::campaign::State;
use crate::ids::CampaignId;

/// Characters of a column; more if its heading has more.
const COLUMN_WIDTH: usize = 9;

/// One campaign's line.
#[derive(Clone, Debug)]
pub struct CampaignBalance {
    pub campaign_id: CampaignId,
    pub name: String,
    pub state: State,
    pub quantity: i64,
    /// What each leg has of the campaign.
    pub columns: Vec<Column>,
}

/// What one leg has of one campaign.
#[derive(Clone, Debug)]
pub struct Column {
    pub leg: LegName,
    /// In the table; nothing if it was not read.
    pub printed: Option<i64>,
    /// In JSON, by their names. A quick audit has no fields for what only counting rows can tell.
    pub fields: Vec<(&'static str, Option<Value>)>,
}

impl Serialize for CampaignBalance {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { campaign_id, name, state, quantity, columns } = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("campaign_id", campaign_id)?;
        map.serialize_entry("name", name)?;
        map.serialize_entry("state", state)?;
        map.serialize_entry("quantity", quantity)?;
        for (name, value) in columns.iter().flat_map(|column| &column.fields) {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// One shard's line.
#[derive(Clone, Debug, Serialize)]
pub struct ShardBalance {
    pub shard: Shard,
    /// The lowest position that the outbox still holds, and the highest.
    pub first: i64,
    pub outbox: i64,
    /// The last sequence of the stream; 0 if there is no stream.
    pub stream: i64,
    /// Each projection, and the position up to which it has applied the shard.
    pub projections: Vec<(String, i64)>,
    /// Nothing in a quick sheet.
    pub compared: Option<Compared>,
}

/// Counts from the comparison of a shard, event by event, from its first position on.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Compared {
    /// Events on both sides.
    pub events: u64,
    pub missing_from_stream: u64,
    pub more_in_stream: u64,
    pub different: u64,
}

impl ShardBalance {
    pub(super) fn new(audited: &ShardAudit, compared: Option<Compared>) -> Self {
        Self {
            shard: audited.shard,
            first: audited.first,
            outbox: audited.head,
            stream: audited.stream.unwrap_or_default(),
            projections: audited.projections.clone(),
            compared,
        }
    }
}

/// The whole sheet.
#[derive(Clone, Debug)]
pub struct Sheet {
    /// The legs that were compared, in the order of their columns.
    pub legs: Vec<LegName>,
    pub campaigns: Vec<CampaignBalance>,
    pub shards: Vec<ShardBalance>,
    /// The first difference. Nothing: balanced.
    pub difference: Option<Difference>,
}

impl Sheet {
    /// Whether everything agrees.
    #[must_use]
    pub fn is_balanced(&self) -> bool {
        self.difference.is_none()
    }
}

/// `difference` is a sentence, `first_difference` the same as data.
impl Serialize for Sheet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { legs: _, campaigns, shards, difference } = self;
        let mut sheet = serializer.serialize_struct("Sheet", 4)?;
        sheet.serialize_field("campaigns", campaigns)?;
        sheet.serialize_field("shards", shards)?;
        sheet.serialize_field("difference", &difference.as_ref().map(ToString::to_string))?;
        sheet.serialize_field("first_difference", difference)?;
        sheet.end()
    }
}

impl fmt::Display for Sheet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:<26} {:>COLUMN_WIDTH$}", "campaign", "quantity")?;
        for leg in &self.legs {
            write!(f, " {leg:>COLUMN_WIDTH$}")?;
        }
        writeln!(f)?;
        for campaign in &self.campaigns {
            writeln!(f, "{campaign}")?;
        }
        writeln!(f, "{:<26} {:>COLUMN_WIDTH$} {:>COLUMN_WIDTH$}  applied", "shard", "outbox", "stream")?;
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
        let Self { campaign_id, quantity, columns, .. } = self;
        write!(f, "{:<26} {quantity:>COLUMN_WIDTH$}", campaign_id.to_string())?;
        for Column { leg, printed, .. } in columns {
            let width = COLUMN_WIDTH.max(leg.as_str().len());
            match printed {
                Some(figure) => write!(f, " {figure:>width$}")?,
                None => write!(f, " {:>width$}", "-")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for ShardBalance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shard, first, outbox, stream, projections, compared } = self;
        let applied: Vec<_> =
            projections.iter().map(|(name, position)| format!("{name} {position}")).collect();
        let applied = applied.join(", ");
        write!(f, "{:<26} {outbox:>COLUMN_WIDTH$} {stream:>COLUMN_WIDTH$}  {applied}", shard.to_string())?;
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
