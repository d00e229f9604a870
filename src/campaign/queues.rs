//! Queues before the connections of the pool: while somebody else has locked a campaign, or several, the changes that wait
//! for them must not take the connections of all other requests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::ids::CampaignId;

/// Changes in progress at the same time, of all campaigns: half the connections of the pool.
const CHANGES_AT_ONCE: usize = 4;
/// For a place: as long as for a connection of the pool.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// The queues of changes: one change of each campaign is in progress. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Queues {
    /// The queues of the campaigns that are being changed.
    campaigns: Arc<Mutex<HashMap<CampaignId, Weak<Semaphore>>>>,
    all: Arc<Semaphore>,
}

/// The place of a change in progress, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(#[expect(dead_code, reason = "held")] [OwnedSemaphorePermit; 2]);

impl Queues {
    pub(super) fn new() -> Self {
        Self { campaigns: Arc::default(), all: Arc::new(Semaphore::new(CHANGES_AT_ONCE)) }
    }

    /// Waits for the place of a change, in the order of arrival; nothing if [`WAIT_MAX`] was not enough.
    pub(super) async fn enter(&self, id: CampaignId) -> Option<Place> {
        let queue = self.of(id);
        let places = async {
            Some(Place([queue.acquire_owned().await.ok()?, self.all.clone().acquire_owned().await.ok()?]))
        };
        timeout(WAIT_MAX, places).await.ok().flatten()
    }

    /// The queue of a campaign, which lives as long as somebody waits in it or has its place.
    fn of(&self, id: CampaignId) -> Arc<Semaphore> {
        let mut campaigns = self.campaigns.lock().unwrap_or_else(PoisonError::into_inner);
        campaigns.retain(|_, queue| queue.strong_count() > 0);
        campaigns.get(&id).and_then(Weak::upgrade).unwrap_or_else(|| {
            let queue = Arc::new(Semaphore::new(1));
            campaigns.insert(id, Arc::downgrade(&queue));
            queue
        })
    }
}
