//! coupon-dispatcher: limited coupons, first come, first served.
//!
//! A claim crosses [`http`], [`issue`] (gate, then writer) and comes straight back. What it leaves
//! in the outbox goes, through the crate `outbox-relay`, to a stream, and from there into the
//! projections. The modules, in the order in which a request meets them:
//!
//! * [`http`]: routes, and everything that is refused.
//! * [`issue`]: the use case: the gate admits, the writer writes, the sweeper tidies up.
//! * [`lifecycle`]: what becomes of a coupon afterwards: it is redeemed, restored, cancelled, or expires.
//! * [`campaign`], [`coupon`]: what it is about: rules, and rows.
//! * [`cause`], [`identity`]: the request behind what happens, and its principal.
//! * [`limits`]: how many requests a caller may send.
//! * [`page`], [`json`], [`ids`]: what requests are made of: pages of lists, bodies, identities.
//! * [`health`]: whether a process can do its work, and what it measures.
//! * [`event`], [`asyncapi`]: what is published, and its description for programs.
//! * [`wallet`], [`settlement`]: projections of the events.
//! * [`audit`]: the balance sheet over all of them, at once, in full, or continuously.
//! * [`doctor`]: whether the servers are as all of this needs them.
//!
//! What holds it together: [`cli`] (the commands), [`config`], [`jwk`] (keys of tokens), [`schema`], [`deployment`] (whose a database is), [`connections`], [`app`] (plays the
//! roles of a process), [`client`] (the API from a shell), [`progress`] (a bar), and for the demo and the tests
//! [`servers`] (private Postgres, Redis and NATS), [`rush`] (many users at once) and [`failpoint`].

pub mod app;
pub mod asyncapi;
pub mod audit;
pub mod campaign;
pub mod cause;
pub mod cli;
pub mod client;
pub mod config;
pub mod connections;
pub mod coupon;
pub mod deployment;
pub mod doctor;
pub mod event;
pub mod failpoint;
pub mod gate;
pub mod health;
pub mod http;
pub mod idempotency;
pub mod identity;
pub mod ids;
pub mod issue;
pub mod json;
pub mod jwk;
pub mod lifecycle;
pub mod limits;
mod lookup;
pub mod money;
pub mod page;
pub mod pool;
pub mod progress;
pub mod projections;
pub mod rush;
pub mod schema;
pub mod servers;
pub mod settlement;
pub mod storage;
mod tls;
pub mod trouble;
pub mod wallet;
pub mod writer;
