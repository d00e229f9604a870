//! All projections of the events: the one list of them.

use outbox_relay::Projection;

use crate::settlement::Settlement;
use crate::wallet::Wallet;

/// Every projection.
#[must_use]
pub fn all() -> Vec<Box<dyn Projection>> {
    vec![Box::new(Wallet), Box::new(Settlement)]
}

/// The names of all projections, in the order of [`all`].
#[must_use]
pub fn names() -> Vec<&'static str> {
    all().iter().map(|projection| projection.name()).collect()
}
