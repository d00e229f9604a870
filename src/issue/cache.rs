//! Campaigns in memory, so that a claim need not ask Postgres whether its campaign is there. What
//! can change while claims are made (the state) is the gate's to know.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sqlx::PgPool;

use crate::campaign::store::{self, Snapshot};
use crate::ids::CampaignId;

/// How old an entry may be.
const AGE_MAX: Duration = Duration::from_secs(1);
/// Entries, at the most; when there are more, all are forgotten.
const ENTRIES_MAX: usize = 10_000;

#[derive(Debug)]
pub(super) struct Campaigns {
    pool: PgPool,
    entries: RwLock<HashMap<CampaignId, Entry>>,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Nothing when there is no such campaign.
    campaign: Option<Arc<Snapshot>>,
    read_at: Instant,
}

impl Campaigns {
    pub(super) fn new(pool: PgPool) -> Self {
        Self { pool, entries: RwLock::default() }
    }

    /// The campaign, if there is one.
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

    /// The campaign has changed.
    pub(super) fn forget(&self, id: CampaignId) {
        self.entries.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Whether the caller is the one to read an old entry again; the others go on with it.
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
