//! What a gate had wrong of its campaign.

use serde::Serialize;

/// A gate that was compared with Postgres and loaded again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Synced {
    /// Fields that differed.
    pub fields: Vec<SyncedField>,
    /// Coupons that are issued.
    pub issued: i32,
    /// The seats before; nothing if the gate was not there, or could not be read.
    pub before: Option<GateSeats>,
    /// The seats since; nothing if the campaign has been over for so long that it has no gate.
    pub after: Option<GateSeats>,
}

/// A field of a gate that differed from its campaign.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SyncedField {
    pub field: &'static str,
    /// Nothing if the gate had no such field.
    pub found: Option<String>,
    pub expected: String,
}

/// Seats of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct GateSeats {
    /// Those that are pending included.
    pub taken: i64,
    /// Not confirmed yet.
    pub pending: i64,
}
