//! Identities of callers: the principal that a request speaks for.

/// Who a request speaks for, once its credentials are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Principal {
    /// The holder of `ADMIN_TOKEN`, who has every right.
    Administrator,
}
