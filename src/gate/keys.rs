//! The keys of the gate in Redis.
//!
//! Keys of a campaign, all with the hash tag `{<campaign id>}`:
//!
//! | key | type | holds |
//! |---|---|---|
//! | `gate1:{id}` | hash | state, window, quantity, limit, lease, version |
//! | `gate1:{id}:holders` | set | seats taken: confirmed and pending |
//! | `gate1:{id}:pending` | sorted set | seats not yet confirmed, by deadline in ms |
//! | `gate1:{id}:loading` | set | seats of a gate that is being loaded |
//! | `gate1:{id}:loader` | string | token of the loader that is at work |
//!
//! What is left is the quantity less the number of seats taken: there is no counter to go wrong.

use crate::ids::CampaignId;

/// A key that never exists: writing it with `XX` tests whether Redis takes writes, and writes nothing. In a Cluster a
/// hash tag of each node follows.
pub(super) const PROBE: &str = "gate1:probe";

/// The keys of one campaign, which share a hash tag.
pub(super) struct Keys {
    pub(super) gate: String,
    pub(super) holders: String,
    pub(super) pending: String,
    pub(super) loading: String,
    pub(super) loader: String,
}

impl Keys {
    pub(super) fn of(campaign: CampaignId) -> Self {
        let gate = format!("gate1:{{{campaign}}}");
        Self {
            holders: format!("{gate}:holders"),
            pending: format!("{gate}:pending"),
            loading: format!("{gate}:loading"),
            loader: format!("{gate}:loader"),
            gate,
        }
    }
}
