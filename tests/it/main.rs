//! The promises, tested from outside: the real binary on real servers, a world for each test.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how a test fails")]

mod support;

mod answers;
mod api;
mod asyncapi;
mod audit;
mod auditor;
mod bodies;
mod campaigns;
mod changes;
mod claims;
mod cli;
mod cluster;
mod commands;
mod contract;
mod crowds;
mod dead;
mod demo;
mod deployments;
mod docs;
mod doctor;
#[cfg(feature = "drills")]
mod drills;
mod editing;
mod examples;
mod faults;
mod gate;
mod golden;
mod grant;
mod halts;
mod hostile;
mod idempotency;
mod issuing;
mod limits;
mod logs;
mod lookups;
mod matrix;
mod metrics;
mod model;
mod nemesis;
mod openings;
mod outbox;
mod pages;
mod parsing;
mod permissions;
mod plans;
mod problems;
mod projections;
mod python;
mod reactions;
mod readiness;
mod rebuild;
mod refusals;
mod relay;
mod replay;
mod requests;
mod restore;
mod retention;
mod rights;
mod schema;
mod schemathesis;
mod several;
mod situations;
mod startup;
mod subscriber;
mod syncing;
mod tidy;
mod tls;
mod tokens;
mod trust;
mod users;
mod writer;
#[cfg(feature = "zoo")]
mod zoo;
