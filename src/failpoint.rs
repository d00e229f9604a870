//! The points of this service at which a test lets a process end or stand still; see
//! [`outbox_relay::failpoint`].

pub use outbox_relay::failpoint::reached;

/// The part of the program, and what it has just done.
pub const POINTS: [&str; 19] = [
    "claim.asked",
    "claim.judged",
    "gate.admitted",
    "gate.passed_on",
    "gate.confirmed",
    "writer.took",
    "writer.committed",
    "writer.settled",
    "sweeper.found",
    "sweeper.asked",
    "sweeper.confirmed",
    "sweeper.released",
    "loader.began",
    "loader.filled",
    "loader.finished",
    "campaign.recorded",
    "campaign.published",
    "campaign.committed",
    "campaign.changed",
];
