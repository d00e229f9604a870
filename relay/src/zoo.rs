//! Known bugs that tests plant, to prove that a test finds each: `BUG=<name>`, only with the feature `zoo`.

/// Whether this bug is planted.
#[cfg(feature = "zoo")]
#[must_use]
pub fn has(bug: &str) -> bool {
    static PLANTED: std::sync::LazyLock<Option<String>> =
        std::sync::LazyLock::new(|| std::env::var("BUG").ok());
    PLANTED.as_deref() == Some(bug)
}

/// Never: the feature is off.
#[cfg(not(feature = "zoo"))]
#[inline]
#[must_use]
pub const fn has(_bug: &str) -> bool {
    false
}
