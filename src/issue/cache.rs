//! Campaigns in memory, so that a claim need not ask Postgres whether its campaign exists. What changes while claims
//! are made, such as the state, only the gate decides.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::campaign::store::{self, Snapshot};
use crate::ids::CampaignId;
use crate::pool::Pool;

/// The age at which an entry is read again.
const AGE_MAX: Duration = Duration::from_secs(1);
/// Entries, at most; one more drops all of them.
const ENTRIES_MAX: usize = 10_000;

#[derive(Debug)]
pub(super) struct Campaigns {
    pool: Pool,
    entries: RwLock<HashMap<CampaignId, Entry>>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Nothing when no campaign has this id.
    campaign: Option<Arc<Snapshot>>,
    read_at: Instant,
}

impl Campaigns {
    pub(super) fn new(pool: Pool) -> Self {
        Self { pool, entries: RwLock::default() }
    }

    /// The campaign of this id, at most [`AGE_MAX`] old; nothing when there is none.
    pub(super) async fn get(&self, id: CampaignId) -> Result<Option<Arc<Snapshot>>, sqlx::Error> {
        let entry = self.entries.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if let Some(entry) = &entry
            && (entry.read_at.elapsed() < AGE_MAX || !self.renew(id))
        {
            return Ok(entry.campaign.clone());
        }
        let campaign = store::get(&self.pool, id).await?.map(Arc::new);
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        if entries.len() >= ENTRIES_MAX {
            entries.clear();
        }
        entries.insert(id, Entry { campaign: campaign.clone(), read_at: Instant::now() });
        Ok(campaign)
    }

    /// Drops an entry, because its campaign has changed.
    pub(super) fn forget(&self, id: CampaignId) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Whether the caller should read an old entry again; concurrent callers use it as it is.
    fn renew(&self, id: CampaignId) -> bool {
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        match entries.get_mut(&id) {
            Some(entry) if entry.read_at.elapsed() < AGE_MAX => false,
            Some(entry) => {
                entry.read_at = Instant::now();
                true
            }
            None => true,
        }
    }
}
