//! What the documents say already and the program does not do yet. Each entry goes as soon as it is true: a test fails
//! for a file, a route or a metric that is here and exists. Then this file goes.

/// What commands print: the words in the documents, and today's.
pub(super) const WORDS: [(&str, &str); 6] = [
    ("/problems/already-issued", "already-issued"),
    ("The user already has a coupon of this campaign", "The user has his coupon."),
    ("/problems/sold-out", "sold-out"),
    ("All coupons are issued", "All coupons are issued."),
    ("… warnings, …", "… to know of, …"),
    ("0 unknown, … to know of, … ok", "0 unknown, … to know of, … well"),
];

pub(super) const FILES: &[&str] = &[
    ".deny.toml",
    "../../.deny.toml",
    "app/",
    "audit/legs/",
    "cli/",
    "campaign/change.rs",
    "health.rs",
    "http/caller.rs",
    "http/guard.rs",
    "http/routes.rs",
    "issue_batch.sql",
    "migrations/README.md",
    "tests/fuzz",
    "tests/fuzz/",
];

pub(super) const ROUTES: &[&str] = &["GET /problems", "GET /problems/{slug}"];

pub(super) const METRICS: &[&str] = &[
    "claims_answered_total",
    "claim_batch_size",
    "gate_call_seconds",
    "commit_seconds",
    "claim_queue_depth",
    "claim_places_taken",
];

pub(super) const VARIABLES: &[&str] = &["BENCH_JSON", "SSL_CERT_FILE"];

pub(super) const SLUGS: &[&str] = &["forbidden"];

/// Titles of problems.
pub(super) const TITLES: &[&str] = &[
    "The body cannot be read",
    "Some fields are invalid",
    "The body is too large",
    "The body did not arrive in time",
    "A valid bearer token is required",
    "The token does not give this right",
    "Not found",
    "Method not allowed",
    "The campaign's state does not allow this",
    "The user already has a coupon of this campaign",
    "The user has as many coupons of this campaign as one user may have",
    "The campaign is not open",
    "All coupons are issued",
    "The campaign is closed",
    "Claims cannot be taken right now",
    "Too many concurrent requests",
    "The database cannot be reached",
    "Internal error",
];
