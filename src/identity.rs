//! Identities of callers: the principal that a request speaks for, and the rights that it has.

pub mod jwt;

/// The party that a request speaks for, once its credentials are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// The holder of `ADMIN_TOKEN`.
    Administrator,
}

impl Principal {
    /// The rights of this principal.
    #[must_use]
    pub fn scopes(&self) -> Scopes {
        match self {
            Self::Administrator => Scopes::ALL,
        }
    }
}

/// A right to use some of the routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Read campaigns and their counts.
    ReadCampaigns,
    /// Create, open and close campaigns.
    ChangeCampaigns,
    /// Claim coupons for users.
    ClaimCoupons,
    /// Read coupons, with their codes.
    ReadCoupons,
}

/// A set of rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(u8::MAX);

    /// This set and `scope`.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | 1 << scope as u8)
    }

    /// Whether `scope` is in this set.
    #[must_use]
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }
}
