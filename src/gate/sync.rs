//! To sync: compares a gate with Postgres and loads it again, while users claim.

use std::time::Duration;

use redis::RedisError;
use tokio::time::{Instant, sleep};

use super::connection::is_of_server;
use super::loader::{LoadError, Loaded, Loader, UPKEEP_RESPONSE_TIMEOUT, load};
use super::record::Record;
use super::redis::Seats;
use crate::campaign::Campaign;
use crate::campaign::synced::{GateSeats, Synced, SyncedField};

/// For the whole load. One with 1.5 million coupons takes 4 s.
const SYNC_TIMEOUT: Duration = Duration::from_secs(25);
/// From one attempt to the next, while another loader is at work.
const PAUSE: Duration = Duration::from_millis(100);

impl Loader {
    /// Compares the gate with its campaign, loads it again whatever it holds, and returns what was wrong.
    ///
    /// # Errors
    /// When Postgres or Redis fails, or the load takes too long. The sweeper goes on with the gate.
    pub async fn sync(&self, campaign: &Campaign) -> Result<Synced, LoadError> {
        let mut seats = Seats::connect(&self.client, UPKEEP_RESPONSE_TIMEOUT).await?;
        let before = read(&mut seats, campaign).await?;
        let fields = before.iter().flat_map(|record| record.differences(campaign).flatten());
        let fields = fields.map(|difference| SyncedField {
            field: difference.field,
            found: difference.found,
            expected: difference.expected,
        });
        let fields = fields.collect();
        let until = Instant::now() + SYNC_TIMEOUT;
        while load(&mut seats, &self.source, campaign.id).await? != Loaded::Done {
            if Instant::now() > until {
                return Err(LoadError::Busy);
            }
            sleep(PAUSE).await;
        }
        let after = read(&mut seats, campaign).await?;
        let issued = self.source.issued(campaign.id).await?;
        Ok(Synced {
            fields,
            issued,
            before: before.as_ref().map(seats_of),
            after: after.as_ref().map(seats_of),
        })
    }
}

/// What the gate holds; nothing if it is not loaded, or its keys are of another type.
async fn read(seats: &mut Seats, campaign: &Campaign) -> Result<Option<Record>, RedisError> {
    match seats.record(campaign.id).await {
        Err(error) if !is_of_server(&error) => Ok(None),
        read => read,
    }
}

fn seats_of(record: &Record) -> GateSeats {
    GateSeats { taken: record.taken, pending: record.pending }
}
