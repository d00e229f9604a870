//! `coupon openapi`: the description of the API for programs.

use super::ended::Ended;
use super::print::say;
use crate::http::openapi;

/// Prints the document.
pub(super) fn run() -> anyhow::Result<Ended> {
    say(openapi().trim_end())?;
    Ok(Ended::Done)
}
