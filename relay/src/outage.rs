//! The log of a process says once that a server is away, and once that it is there again, however many parts need it. Of
//! Postgres these parts say it together, by an [`Outage`]; of NATS the client of the process says it, by its events.

use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::Client;
use sqlx::Error;

use crate::reason::reason_of;
use crate::sqlstate::is_away;
use crate::stream;

/// An outage of Postgres, as all parts of a process find it. The log has a warning when the first of them loses its
/// connection, and a line when the last is connected again. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Outage(Arc<Mutex<Found>>);

#[derive(Debug, Default)]
struct Found {
    /// Parts that have lost their connection.
    lost: usize,
    /// Outages that are over.
    over: u64,
}

impl Outage {
    /// What one part knows of it. The part begins connected.
    #[must_use]
    pub fn link(&self) -> Link {
        Link { outage: self.clone(), is_lost: false, since: self.found().over }
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one part of a process knows of an [`Outage`]. A part that has ended is not waited for.
#[derive(Debug)]
pub struct Link {
    outage: Outage,
    is_lost: bool,
    /// Outages that were over when this part connected, or lost its connection.
    since: u64,
}

impl Link {
    /// This part has lost its connection, or found none.
    pub fn lost(&mut self, why: &str) {
        if self.is_first() {
            tracing::warn!("the connection to Postgres is lost: {why}");
        } else {
            tracing::debug!("the connection to Postgres is lost: {why}");
        }
    }

    /// Whether the outage begins by that.
    fn is_first(&mut self) -> bool {
        let mut found = self.outage.found();
        // If an outage was over meanwhile, the connection was lost in it. The next attempt tells of now.
        let is_old = mem::replace(&mut self.since, found.over) != found.over;
        let counts = !self.is_lost && !is_old;
        self.is_lost |= counts;
        found.lost += usize::from(counts);
        counts && found.lost == 1
    }

    /// It is connected.
    pub fn found(&mut self) {
        if self.is_last() {
            tracing::info!("connected to Postgres again");
        }
    }

    /// Whether the outage is over by that.
    fn is_last(&mut self) -> bool {
        let mut found = self.outage.found();
        let was_lost = mem::take(&mut self.is_lost);
        found.lost -= usize::from(was_lost);
        let is_over = was_lost && found.lost == 0;
        found.over += u64::from(is_over);
        self.since = found.over;
        is_over
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.is_last();
    }
}

/// What the log says of a leader, which fails and begins again.
#[derive(Debug)]
pub(crate) struct Told {
    postgres: Link,
    nats: Client,
    /// How many times the client had connected when this attempt began.
    connects: u64,
    /// The log has said of a failure, and not yet that it is over.
    failure: bool,
    /// The log says that this is the leader.
    leader: bool,
}

/// What the log says of a leader that begins.
pub(crate) enum Begins {
    /// It was the leader.
    Silently,
    Leads,
    /// A failure is over of which the log has said.
    GoesOn,
}

/// What has failed, if it is a server.
pub(crate) enum Failed<'a> {
    Postgres(&'a Error),
    Nats,
    Other,
}

impl Told {
    pub(crate) fn new(outage: &Outage, nats: &Client) -> Self {
        Self {
            postgres: outage.link(),
            nats: nats.clone(),
            connects: stream::connects(nats),
            failure: false,
            leader: false,
        }
    }

    /// A new attempt.
    pub(crate) fn tries(&mut self) {
        self.connects = stream::connects(&self.nats);
    }

    /// Postgres answers.
    pub(crate) fn connected(&mut self) {
        self.postgres.found();
    }

    /// The leader waits for what is not a failure, and what it leads is not served meanwhile.
    pub(crate) fn waits(&mut self) {
        self.leader = false;
    }

    /// The attempt has failed. Returns whether the log warns of it: once, and not of a server that is away.
    pub(crate) fn warns(&mut self, failed: &Failed<'_>) -> bool {
        match failed {
            Failed::Postgres(error) if is_away(error) => {
                self.leader = false; // the lock is lost with the session
                self.postgres.lost(&reason_of(error));
                false
            }
            Failed::Nats if stream::was_lost(&self.nats, self.connects) => false,
            _ => !mem::replace(&mut self.failure, true),
        }
    }

    /// The leader begins. `kept`: no other can have led since it began before.
    pub(crate) fn begins(&mut self, kept: bool) -> Begins {
        let was_leader = mem::replace(&mut self.leader, true);
        match (mem::take(&mut self.failure), was_leader && kept) {
            (true, _) => Begins::GoesOn,
            (false, true) => Begins::Silently,
            (false, false) => Begins::Leads,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_begins_with_the_first_and_ends_with_the_last() {
        let outage = Outage::default();
        let [mut first, mut second, mut late] = [(); 3].map(|()| outage.link());
        assert_eq!([first.is_first(), first.is_first(), second.is_first()], [true, false, false]);
        assert_eq!([first.is_last(), second.is_last(), second.is_last()], [false, true, false]);
        // It finds later than the others that its connection was lost in that outage, and then another begins.
        assert_eq!([late.is_first(), late.is_first(), first.is_first()], [false, true, false]);
        drop(first);
        assert!(late.is_last(), "a part that has ended is not waited for");
    }
}
