//! What the issuer does about a campaign that has changed, or that an operator wants to be looked at.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::Issuer;
use crate::campaign::Campaign;
use crate::campaign::change::{ChangeError, Listener};
use crate::campaign::synced::Synced;
use crate::failpoint;
use crate::gate::loader::LoadError;

/// The claim path forgets what it knows of the campaign, and the gate is brought up to date.
impl Listener for Issuer {
    fn changed<'a>(&'a self, campaign: &'a Campaign) -> BoxFuture<'a, ()> {
        Box::pin(async {
            failpoint::reached("campaign.changed").await;
            self.campaigns.forget(campaign.id);
            self.refusals.forget(campaign.id);
            let Err(error) = self.loader.notify(campaign).await else { return };
            let what = "the gate is not notified of a change: the sweeper will do it";
            let cause = &error as &dyn std::error::Error;
            if error.is_outage() {
                tracing::debug!(campaign = %campaign.id, error = cause, "{what}"); // of which others tell
            } else {
                tracing::warn!(campaign = %campaign.id, error = cause, "{what}");
            }
        })
    }

    fn sync<'a>(&'a self, campaign: &'a Campaign) -> BoxFuture<'a, Result<Synced, ChangeError>> {
        Box::pin(async {
            let synced = self.loader.sync(campaign).await;
            self.campaigns.forget(campaign.id);
            self.refusals.forget(campaign.id);
            synced.map_err(|error| match error {
                LoadError::Database(error) => error.into(),
                error @ (LoadError::Gate(_) | LoadError::Busy) => {
                    tracing::debug!(campaign = %campaign.id, error = &error as &dyn std::error::Error, "a gate was not synced");
                    ChangeError::Gate
                }
            })
        })
    }
}

impl Listener for Arc<Issuer> {
    fn changed<'a>(&'a self, campaign: &'a Campaign) -> BoxFuture<'a, ()> {
        (**self).changed(campaign)
    }

    fn sync<'a>(&'a self, campaign: &'a Campaign) -> BoxFuture<'a, Result<Synced, ChangeError>> {
        (**self).sync(campaign)
    }
}
