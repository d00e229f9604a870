//! What the gate has to say: the same rules as the scripts have, without Redis.

use std::collections::{BTreeMap, BTreeSet};

use coupon_dispatcher::campaign::{Campaign, State};
use coupon_dispatcher::coupon::Refusal;
use coupon_dispatcher::gate::redis::LoadStep;
use coupon_dispatcher::gate::seat::{Admission, Denial, Seat};
use time::OffsetDateTime;
use ulid::Ulid;

/// A user's n-th seat.
pub(super) type Place = (usize, i32);

pub(super) fn user(number: usize) -> String {
    format!("user-{number}")
}

pub(super) fn seat(place: Place) -> Seat {
    Seat::new(user(place.0), place.1)
}

/// The seat that was given.
pub(super) fn place(admission: &Admission) -> Option<Place> {
    let Admission::Admitted(seat) = admission else { return None };
    let (user, nth) = seat.parts();
    Some((user.strip_prefix("user-")?.parse().ok()?, nth))
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    /// The campaign that the gate was loaded with, or was notified of since. Nothing: unloaded.
    pub(super) gate: Option<Campaign>,
    pub(super) taken: BTreeSet<Place>,
    /// Of the seats taken, those not confirmed; whether their deadline has passed.
    pub(super) pending: BTreeMap<Place, bool>,
    pub(super) loader: Option<Ulid>,
    pub(super) loading: BTreeSet<Place>,
}

impl Model {
    pub(super) fn admit(&mut self, users: &[usize]) -> Vec<Admission> {
        users.iter().map(|user| self.admit_one(*user)).collect()
    }

    fn admit_one(&mut self, user: usize) -> Admission {
        let Some(gate) = &self.gate else { return Admission::Denied(Denial::Unloaded) };
        let free = (1..=gate.per_user_limit).find(|nth| !self.taken.contains(&(user, *nth)));
        let held = (1..=gate.per_user_limit).filter(|nth| self.taken.contains(&(user, *nth))).count();
        let held = i32::try_from(held).unwrap();
        let left = self.taken.len() < usize::try_from(gate.quantity).unwrap();
        match (free, refusal(gate)) {
            (None, _) => Admission::Denied(Denial::Already),
            (Some(_), Some(refusal)) => refused(held, refusal),
            (Some(_), None) if !left && self.pending.is_empty() => refused(held, Refusal::SoldOut),
            (Some(_), None) if !left => Admission::Denied(Denial::Full(held)),
            (Some(nth), None) => {
                self.taken.insert((user, nth));
                self.pending.insert((user, nth), false);
                Admission::Admitted(seat((user, nth)))
            }
        }
    }

    pub(super) fn confirm(&mut self, places: &[Place]) {
        if self.loader.is_some() {
            self.loading.extend(places);
        }
        if self.gate.is_some() {
            self.taken.extend(places);
        }
        self.pending.retain(|place, _| !places.contains(place));
    }

    /// Answers how many seats were put back on sale.
    pub(super) fn release(&mut self, places: &[Place]) -> usize {
        let released = places.iter().filter(|place| self.pending.remove(place).is_some());
        released.map(|place| self.taken.remove(place)).count()
    }

    pub(super) fn begin(&mut self, token: Ulid) -> LoadStep {
        if self.loader.is_some() {
            return LoadStep::Superseded;
        }
        self.loader = Some(token);
        self.loading.clear();
        LoadStep::Done
    }

    pub(super) fn add(&mut self, token: Ulid, places: &[Place]) -> LoadStep {
        if self.loader != Some(token) {
            return LoadStep::Superseded;
        }
        self.loading.extend(places);
        LoadStep::Done
    }

    pub(super) fn finish(&mut self, token: Ulid, campaign: &Campaign) -> LoadStep {
        if self.loader != Some(token) {
            return LoadStep::Superseded;
        }
        self.taken = std::mem::take(&mut self.loading);
        self.taken.extend(self.pending.keys());
        self.loader = None;
        self.gate = Some(campaign.clone());
        LoadStep::Done
    }

    pub(super) fn set(&mut self, told: &Campaign) {
        if let Some(gate) = &mut self.gate
            && gate.version <= told.version
        {
            *gate = told.clone();
        }
    }

    /// Seats taken and pending, if the gate is loaded.
    pub(super) fn count(&self) -> Option<(i64, i64)> {
        let count = |length: usize| i64::try_from(length).unwrap();
        self.gate.as_ref().map(|_| (count(self.taken.len()), count(self.pending.len())))
    }

    pub(super) fn expire(&mut self, places: &[Place]) {
        for place in places {
            self.pending.entry(*place).and_modify(|overdue| *overdue = true);
        }
    }

    pub(super) fn overdue(&self) -> BTreeSet<Place> {
        self.pending.iter().filter(|(_, overdue)| **overdue).map(|(place, _)| *place).collect()
    }
}

/// What a user is told who has this number of seats.
fn refused(held: i32, refusal: Refusal) -> Admission {
    Admission::Denied(if held > 0 { Denial::RefusedMore(refusal, held) } else { Denial::Refused(refusal) })
}

/// Why nobody gets a seat who does not have all that the limit allows.
fn refusal(gate: &Campaign) -> Option<Refusal> {
    let now = OffsetDateTime::now_utc();
    match gate.state {
        State::Closed => Some(Refusal::Closed),
        _ if gate.closes_at <= now => Some(Refusal::Closed),
        State::Draft | State::Paused => Some(Refusal::NotOpen),
        _ if gate.opens_at > now => Some(Refusal::NotOpen),
        State::Scheduled | State::Open => None,
    }
}
