//! A batch: what campaigns ask of Redis in one round trip.

use std::collections::HashMap;
use std::mem;

use futures_util::future::join_all;
use redis::RedisError;

use super::candidate::{Candidate, GateError};
use super::connection::is_of_server;
use super::redis::Seats;
use super::seat::{Admission, Denial, Seat};
use super::settle::{Failed, OfCampaign};
use crate::failpoint;
use crate::ids::CampaignId;

/// What the gate is asked to do.
#[derive(Debug)]
pub(super) enum Operation<C> {
    Admit(C),
    Confirm(Vec<Seat>),
    Release(Vec<Seat>),
}

/// What campaigns ask of Redis in one round trip, each campaign once for each kind.
pub(super) struct Batch<C> {
    candidates: Vec<(CampaignId, Vec<C>)>,
    confirmed: Vec<OfCampaign>,
    released: Vec<OfCampaign>,
}

impl<C: Candidate> Batch<C> {
    pub(super) fn new(operations: impl Iterator<Item = (CampaignId, Operation<C>)>) -> Self {
        let (mut candidates, mut confirmed, mut released) = (HashMap::new(), HashMap::new(), HashMap::new());
        for (campaign, operation) in operations {
            match operation {
                Operation::Admit(candidate) => add(&mut candidates, campaign, [candidate]),
                Operation::Confirm(seats) => add(&mut confirmed, campaign, seats),
                Operation::Release(seats) => add(&mut released, campaign, seats),
            }
        }
        Self {
            candidates: candidates.into_iter().collect(),
            confirmed: confirmed.into_iter().collect(),
            released: released.into_iter().collect(),
        }
    }

    pub(super) fn candidates(&self) -> usize {
        self.candidates.iter().map(|(_, candidates)| candidates.len()).sum()
    }

    /// Writes the calls one behind the other, then waits for all. Returns the error of each campaign that failed.
    pub(super) async fn call(&mut self, seats: &Seats) -> HashMap<CampaignId, RedisError> {
        let Self { candidates, confirmed, released } = self;
        let calls = futures_util::join!(
            confirm(seats, confirmed),
            release(seats, released),
            admit(seats, candidates)
        );
        let (unconfirmed, unreleased, not_admitted) = calls;
        // If a campaign failed twice, its confirmation tells what to do.
        not_admitted.into_iter().chain(unreleased).chain(unconfirmed).collect()
    }

    /// The seats whose confirmation did not reach Redis.
    pub(super) fn unconfirmed(self) -> Vec<OfCampaign> {
        self.confirmed
    }
}

fn add<T>(to: &mut HashMap<CampaignId, Vec<T>>, campaign: CampaignId, items: impl IntoIterator<Item = T>) {
    to.entry(campaign).or_default().extend(items);
}

/// Afterwards `committed` has what failed.
async fn confirm(seats: &Seats, committed: &mut Vec<OfCampaign>) -> Vec<Failed> {
    if committed.is_empty() {
        return Vec::new();
    }
    let together = seats.served_together(committed.len());
    let results = join_all(committed.chunks(together).map(|part| seats.confirm_together(part))).await;
    failpoint::reached("gate.confirmed").await;
    let mut failed = Vec::new();
    let mut results = results.into_iter().flatten();
    committed.retain(|(campaign, _)| match results.next() {
        Some(Err(error)) => {
            failed.push((*campaign, error));
            true
        }
        _ => false,
    });
    failed
}

async fn release(seats: &Seats, refused: &[OfCampaign]) -> Vec<Failed> {
    let results = refused.iter().filter(|(_, refused)| !refused.is_empty()).map(|(campaign, refused)| {
        let mut seats = seats.clone();
        async move { seats.release(*campaign, refused).await.map_err(|error| (*campaign, error)) }
    });
    join_all(results).await.into_iter().filter_map(Result::err).collect()
}

async fn admit<C: Candidate>(seats: &Seats, candidates: &mut [(CampaignId, Vec<C>)]) -> Vec<Failed> {
    let together = seats.served_together(candidates.len());
    let calls = candidates.chunks_mut(together).map(|part| admit_together(seats, part));
    join_all(calls).await.into_iter().flatten().collect()
}

/// Tells candidates of campaigns that one script can serve their answers.
async fn admit_together<C: Candidate>(seats: &Seats, candidates: &mut [(CampaignId, Vec<C>)]) -> Vec<Failed> {
    let users = candidates.iter().map(|(id, candidates)| (*id, candidates.iter().map(C::user).collect()));
    let admitted = seats.admit_together(&users.collect::<Vec<_>>()).await;
    failpoint::reached("gate.admitted").await;
    let (mut failed, mut back_on_sale) = (Vec::new(), Vec::new());
    for ((campaign, candidates), admitted) in candidates.iter_mut().zip(admitted) {
        let candidates = mem::take(candidates);
        let admissions = admitted.unwrap_or_else(|error| {
            let admissions = of_failure(&error, candidates.len());
            failed.push((*campaign, error));
            admissions
        });
        back_on_sale.push((*campaign, tell(candidates, admissions)));
    }
    failpoint::reached("gate.passed_on").await;
    failed.extend(release(seats, &back_on_sale).await);
    failed
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
