//! Known bugs that can be planted, to see that a test finds each: `BUG=<name>`, and only with the feature
//! `zoo`.

/// Whether this bug is planted.
#[cfg(feature = "zoo")]
#[must_use]
pub fn has(bug: &str) -> bool {
    static PLANTED: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("BUG").ok());
    PLANTED.as_deref() == Some(bug)
}

/// Whether this bug is planted.
#[cfg(not(feature = "zoo"))]
#[inline(always)]
#[must_use]
pub const fn has(_bug: &str) -> bool {
    false
}
