//! Campaigns that are known to be published.

use std::collections::HashSet;
use std::sync::{Arc, PoisonError, RwLock};

use crate::ids::CampaignId;

/// Campaigns that are remembered, at most; one more drops all of them.
const REMEMBERED_MAX: usize = 10_000;

/// Campaigns that exist and are no drafts. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Published(Arc<RwLock<HashSet<CampaignId>>>);

impl Published {
    pub(super) fn has(&self, id: CampaignId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    pub(super) fn insert(&self, id: CampaignId) {
        let mut published = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if published.len() >= REMEMBERED_MAX {
            published.clear();
        }
        published.insert(id);
    }
}
