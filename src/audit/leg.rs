//! A leg: one side of what has to agree, such as the seats of the gate or the rows of the wallet.

use std::fmt;

use futures_util::future::BoxFuture;
use outbox_relay::audit::ShardPart;
use sqlx::PgConnection;

use super::campaigns::{Campaign, Campaigns};
use super::chunk::Chunk;
use super::difference::{Difference, LegName};
use super::sheet::Compared;
use super::sources::Sources;
use super::value::Value;

/// What a leg reads, or why a server could not be asked.
pub(super) type Asking<'a, T> = BoxFuture<'a, anyhow::Result<T>>;

/// How figures are judged that differ because claims are on their way, or because something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// The auditor looks without a wait. A figure differs only outside the bounds within which claims can move it.
    Brief,
    /// An audit that is made once looks again until the figures are of one moment, and waits for pending seats.
    Patient,
}

/// The coupons of a campaign of which no event told.
#[derive(Debug, Default)]
pub(super) struct Unannounced {
    /// Those with numbers up to this one have lost their events to age, and are still to be compared.
    pub(super) until: i32,
    /// The first of the others, which should have an event.
    pub(super) difference: Option<Difference>,
}

/// A field of a campaign in the sheet's JSON.
pub(super) type Field = (&'static str, Option<Value>);

/// One side. It has a column of its own in the sheet, under its name. A method that a leg does not need finds nothing.
pub(super) trait Leg: fmt::Debug + Send {
    fn name(&self) -> LegName;

    /// Reads the figures that the servers keep anyway of some campaigns, at a cost that does not grow with the number
    /// of coupons.
    fn quick<'a>(&'a mut self, _: &'a mut Sources, _: &'a [Campaign], _: Look) -> Asking<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Judges the figures of [`Leg::quick`], once it is known how many coupons there were after they were read.
    fn judge<'a>(&'a mut self, _: &'a mut Sources, _: &'a [Campaign], _: Look) -> Asking<'a, ()> {
        Box::pin(async { Ok(()) })
    }

    /// Counts all rows, as of a snapshot. Returns the first campaign that has rows and does not exist.
    fn count<'a>(
        &'a mut self,
        _snapshot: &'a mut PgConnection,
        _: &'a mut Campaigns,
    ) -> Asking<'a, Option<Difference>> {
        Box::pin(async { Ok(None) })
    }

    /// In which of its figures the leg differs from the coupons of a campaign.
    fn figures(&self, _: &Campaign) -> Option<Difference> {
        None
    }

    /// Compares a part of a shard's outbox with the leg. Returns the counts, and the first difference.
    fn part<'a>(
        &'a mut self,
        _: &'a mut Sources,
        _: ShardPart,
    ) -> Asking<'a, Option<(Compared, Option<Difference>)>> {
        Box::pin(async { Ok(None) })
    }

    /// Compares events of any kind, in their order, and the coupons of which they tell, with the rows of the leg.
    fn batch<'a>(&'a mut self, _: &'a mut PgConnection, _: &'a Chunk) -> Asking<'a, Vec<Difference>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    /// After the last batch: the coupons of a campaign of which no event told.
    fn unannounced(&mut self, _: &Campaign) -> Unannounced {
        Unannounced::default()
    }

    /// Searches a campaign for a row or seat that belongs to no coupon.
    fn stranger<'a>(&'a mut self, _: &'a mut Sources, _: &'a Campaign) -> Asking<'a, Option<Difference>> {
        Box::pin(async { Ok(None) })
    }

    /// Whether the batches find a coupon in whose place a stranger is. If not, strangers are searched for in every
    /// campaign, and not only where figures differ.
    fn batches_find_the_missing(&self) -> bool {
        true
    }

    /// The figure in the column of the leg; nothing if it was not read.
    fn printed(&self, campaign: &Campaign) -> Option<i64>;

    /// The figures in JSON.
    fn fields(&self, campaign: &Campaign) -> Vec<Field>;
}
