//! The gate: it decides in Redis who is in, a batch at a time. It is fast and may be wrong; Postgres decides again.
//!
//! The [`worker`] carries what is asked to Redis and knows nothing of claims: it asks for a
//! [`Candidate`](candidate::Candidate). The [`loader`] fills a gate from Postgres when Redis has lost it or was
//! contradicted. The [`sweeper`] repairs what crashes leave behind.

pub mod candidate;
pub mod loader;
pub mod redis;
pub mod seat;
pub mod sweeper;
pub mod worker;
