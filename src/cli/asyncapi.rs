//! `coupon asyncapi`: the description of the events for programs.

use super::ended::Ended;
use super::print::say;
use crate::asyncapi::asyncapi;

/// Prints the document.
pub(super) fn run() -> anyhow::Result<Ended> {
    say(asyncapi().trim_end())?;
    Ok(Ended::Done)
}
