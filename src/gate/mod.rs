//! The gate: who is in, decided in Redis, a batch at a time. It is fast and may be wrong; Postgres decides again.

pub mod loader;
pub mod redis;
pub mod sweeper;
pub mod worker;
