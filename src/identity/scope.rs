//! Rights, and sets of them.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// A right to use some of the routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All other rights.
    Admin,
    /// Create, open and close campaigns.
    Campaign,
    /// Claim coupons for users.
    Issue,
    /// Redeem, restore and cancel coupons.
    Redeem,
    /// Read campaigns, and coupons with their codes.
    Read,
    /// Read settlements. No route needs it yet.
    Settle,
}

/// The text names no [`Scope`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {}", Scope::ALL.map(Scope::as_str).join(", "))]
pub struct ScopeError;

impl Scope {
    /// All scopes.
    pub const ALL: [Self; 6] =
        [Self::Admin, Self::Campaign, Self::Issue, Self::Redeem, Self::Read, Self::Settle];

    /// The word for it, in the database, the commands and everywhere.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Campaign => "campaign",
            Self::Issue => "issue",
            Self::Redeem => "redeem",
            Self::Read => "read",
            Self::Settle => "settle",
        }
    }
}

impl FromStr for Scope {
    type Err = ScopeError;

    fn from_str(word: &str) -> Result<Self, ScopeError> {
        Self::ALL.into_iter().find(|scope| scope.as_str() == word).ok_or(ScopeError)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A set of rights. One with [`Scope::Admin`] has all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    pub const NONE: Self = Self(0);
    pub const ALL: Self = Self(u8::MAX);

    /// This set and `scope`.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Self {
        match scope {
            Scope::Admin => Self::ALL,
            _ => Self(self.0 | 1 << scope as u8),
        }
    }

    /// Whether the two sets have a scope in common.
    #[must_use]
    pub const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        scopes.into_iter().fold(Self::NONE, Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_right_to_administer_includes_all_others_and_no_other_does() {
        for one in Scope::ALL {
            assert_eq!(one.as_str().parse(), Ok(one));
            for other in &Scope::ALL[1..] {
                let meets = Scopes::NONE.with(one).meets(Scopes::NONE.with(*other));
                assert_eq!(meets, one == *other || one == Scope::Admin, "{one} {other}");
            }
        }
        assert_eq!("Admin".parse::<Scope>(), Err(ScopeError));
        assert!(!Scopes::NONE.meets(Scopes::ALL));
    }
}
