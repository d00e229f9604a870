//! The gate: it decides in Redis who is in, a batch at a time. It is fast and may be wrong; Postgres decides again.
//!
//! The [`worker`] carries what is asked to Redis and knows nothing of claims: it asks for a
//! [`Candidate`](candidate::Candidate). The [`loader`] fills a gate from Postgres when Redis has lost it or was
//! contradicted. The [`sweeper`] repairs what crashes leave behind: it walks along the campaigns (`walk`), settles seats
//! (`settle`), and compares what a gate holds (`record`, `members`) with Postgres (`repair`). `sync` does so at once for one campaign.
//!
//! Redis is one server or a Redis Cluster (`client`, `connection`, `cluster`, `nodes`, `slots`), of which each node has
//! the gates of some campaigns.

mod batch;
pub mod candidate;
pub mod client;
mod cluster;
pub(crate) mod connection;
mod keys;
pub mod loader;
mod members;
mod nodes;
mod reach;
pub(crate) mod record;
pub mod redis;
mod repair;
pub mod seat;
mod settle;
mod slots;
pub mod sweeper;
mod sync;
mod together;
pub(crate) mod walk;
pub mod worker;
