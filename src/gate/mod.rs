//! The gate: it decides in Redis who is in, a batch at a time. It is fast and may be wrong; Postgres decides again.
//!
//! The [`worker`] carries what is asked to Redis and knows nothing of claims: it asks for a
//! [`Candidate`](candidate::Candidate). The [`loader`] fills a gate from Postgres when Redis has lost it or was
//! contradicted. The [`sweeper`] repairs what crashes leave behind: it walks along the campaigns (`walk`), settles seats
//! (`settle`), and compares what a gate holds (`record`, `members`) with Postgres (`repair`).

mod batch;
pub mod candidate;
mod keys;
pub mod loader;
mod members;
pub(crate) mod record;
pub mod redis;
mod repair;
pub mod seat;
mod settle;
pub mod sweeper;
pub(crate) mod walk;
pub mod worker;
