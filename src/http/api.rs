//! What the routes under `/v1` work with.

use std::sync::Arc;

use crate::campaign::change::Campaigns;
use crate::coupon::store::Coupons;
use crate::identity::authenticator::Authenticator;
use crate::issue::Issuer;
use crate::lifecycle::Lifecycle;
use crate::limits::Limits;
use crate::wallet::Wallets;

/// The state of the API in a process.
#[derive(Debug)]
pub struct Api {
    pub campaigns: Campaigns<Arc<Issuer>>,
    pub coupons: Coupons,
    pub wallets: Wallets,
    pub issuer: Arc<Issuer>,
    pub lifecycle: Lifecycle,
    /// Judges the callers of every route under `/v1`.
    pub authenticator: Authenticator,
    pub limits: Arc<Limits>,
}
