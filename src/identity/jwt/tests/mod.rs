//! Good tokens, bad ones, and keys behind a URL.

mod corpus;
mod good;
mod remote;
mod server;
mod signing;
mod vectors;
