//! A candidate: what asks the gate for a seat.

use super::seat::{Admission, Seat};
use crate::ids::{CampaignId, UserId};

/// Asks for a seat in a campaign.
pub trait Candidate: Send + 'static {
    fn campaign(&self) -> CampaignId;
    fn user(&self) -> &UserId;

    /// Receives the gate's answer, within 300 ms. Returns the seat when the candidate cannot use it: it goes back
    /// on sale.
    fn told(self, answer: Result<Admission, GateError>) -> Option<Seat>;
}

/// Why the gate gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GateError {
    #[error("too many operations wait for the gate")]
    Overloaded,
    #[error("the gate cannot be reached")]
    Unreachable,
}
