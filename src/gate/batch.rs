//! A batch: what one campaign asks of Redis in one round trip.

use std::mem;

use redis::RedisError;

use super::candidate::{Candidate, GateError};
use super::connection::is_of_server;
use super::redis::Seats;
use super::seat::{Admission, Denial, Seat};
use crate::failpoint;
use crate::ids::CampaignId;

/// What the gate is asked to do.
#[derive(Debug)]
pub(super) enum Operation<C> {
    Admit(C),
    Confirm(Vec<Seat>),
    Release(Vec<Seat>),
}

/// What one campaign asks of Redis in one round trip.
pub(super) struct Batch<C> {
    pub(super) candidates: Vec<C>,
    pub(super) confirmed: Vec<Seat>,
    released: Vec<Seat>,
}

impl<C: Candidate> Batch<C> {
    pub(super) fn new() -> Self {
        Self { candidates: Vec::new(), confirmed: Vec::new(), released: Vec::new() }
    }

    pub(super) fn add(&mut self, operation: Operation<C>) {
        match operation {
            Operation::Admit(candidate) => self.candidates.push(candidate),
            Operation::Confirm(seats) => self.confirmed.extend(seats),
            Operation::Release(seats) => self.released.extend(seats),
        }
    }

    /// Writes the three calls one behind the other, then waits for all. `confirmed` is empty afterwards, unless
    /// the confirmation did not reach Redis.
    pub(super) async fn call(&mut self, campaign: CampaignId, seats: &Seats) -> Result<(), RedisError> {
        let (mut first, mut second, mut third) = (seats.clone(), seats.clone(), seats.clone());
        let confirm = async {
            if self.confirmed.is_empty() { Ok(()) } else { first.confirm(campaign, &self.confirmed).await }
        };
        let release = async {
            if self.released.is_empty() { Ok(0) } else { second.release(campaign, &self.released).await }
        };
        let admit = async {
            let users = self.candidates.iter().map(Candidate::user);
            if self.candidates.is_empty() { Ok(Vec::new()) } else { third.admit(campaign, users).await }
        };
        let (confirmed, released, admitted) = futures_util::join!(confirm, release, admit);
        let result =
            confirmed.clone().and(released.map(drop)).and(admitted.as_ref().map(drop).map_err(Clone::clone));
        if !self.confirmed.is_empty() {
            failpoint::reached("gate.confirmed").await;
        }
        if confirmed.is_ok() {
            self.confirmed.clear();
        }
        if !self.candidates.is_empty() {
            failpoint::reached("gate.admitted").await;
        }
        let admissions = admitted.unwrap_or_else(|error| of_failure(&error, self.candidates.len()));
        let back_on_sale = tell(mem::take(&mut self.candidates), admissions);
        failpoint::reached("gate.passed_on").await;
        if !back_on_sale.is_empty() {
            third.release(campaign, &back_on_sale).await?;
        }
        result
    }
}

/// What candidates are told when the script fails: that the gate must be loaded, which mends a key of another type.
/// Nothing when no gate can be asked.
fn of_failure(error: &RedisError, candidates: usize) -> Vec<Admission> {
    if is_of_server(error) { Vec::new() } else { vec![Admission::Denied(Denial::Unloaded); candidates] }
}

/// Tells each candidate its answer. Returns the seats of those that cannot use them.
fn tell<C: Candidate>(candidates: Vec<C>, admissions: Vec<Admission>) -> Vec<Seat> {
    let answers = admissions.into_iter().map(Ok).chain(std::iter::repeat(Err(GateError::Unreachable)));
    candidates.into_iter().zip(answers).filter_map(|(candidate, answer)| candidate.told(answer)).collect()
}
