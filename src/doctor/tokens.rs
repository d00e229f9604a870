//! Checks of the API tokens: which of them end soon, and which nobody uses.

use std::fmt::Write as _;

use outbox_relay::in_time::InTime as _;
use sqlx::{FromRow, PgConnection};

use super::finding::Finding;
use crate::ids::TokenId;

const POSTGRES: &str = "postgres";
/// A token that expires within this time is a warning: its holder needs another one by then.
const EXPIRY_DAYS: i32 = 7;
/// A token that nobody has used for this time is a warning: if it leaks, nobody notices. A season has 90 days.
const UNUSED_DAYS: i32 = 90;
/// Tokens that a finding names: enough to begin with.
const NAMED_MAX: i64 = 5;

/// Live tokens that meet a condition, which follows from `$1` days: the first `$2`, with the number of all.
macro_rules! live {
    ($condition:literal, $order:literal) => {
        concat!(
            "SELECT id, name, count(*) OVER () AS all FROM api_tokens \
             WHERE revoked_at IS NULL AND coalesce(expires_at, 'infinity'::timestamptz) > now() AND ",
            $condition,
            " ORDER BY ",
            $order,
            " LIMIT $2"
        )
    };
}

const EXPIRING: &str = live!("expires_at < now() + make_interval(days => $1)", "expires_at");
const UNUSED: &str = live!(
    "coalesce(last_used_at, created_at) < now() - make_interval(days => $1)",
    "coalesce(last_used_at, created_at)"
);

#[derive(FromRow)]
struct Named {
    id: TokenId,
    name: String,
    all: i64,
}

pub(super) async fn examine(connection: &mut PgConnection) -> [Finding; 2] {
    let expiring = named(connection, EXPIRING, EXPIRY_DAYS).await;
    let unused = named(connection, UNUSED, UNUSED_DAYS).await;
    [
        finding(
            &format!("API tokens that expire within {EXPIRY_DAYS} days"),
            expiring,
            "Their holders are refused from then on. Create others with `coupon token create`, and hand them over before.",
        ),
        finding(
            &format!("API tokens not used for {UNUSED_DAYS} days"),
            unused,
            "Nobody would notice if one of them leaked. Revoke those that nobody needs: `coupon token revoke`.",
        ),
    ]
}

async fn named(connection: &mut PgConnection, select: &'static str, days: i32) -> sqlx::Result<Vec<Named>> {
    sqlx::query_as(select).bind(days).bind(NAMED_MAX).fetch_all(connection).in_time().await
}

fn finding(check: &str, tokens: sqlx::Result<Vec<Named>>, advice: &str) -> Finding {
    let tokens = match tokens {
        Ok(tokens) => tokens,
        Err(error) => {
            let advice = "Use a login that may read the table api_tokens.";
            return Finding::unknown(POSTGRES, check, error.to_string(), advice);
        }
    };
    let Some(Named { all, .. }) = tokens.first() else { return Finding::of(POSTGRES, check, "none") };
    let mut found = all.to_string();
    for (place, Named { id, name, .. }) in tokens.iter().enumerate() {
        let separator = if place == 0 { ':' } else { ',' };
        // Writing to a String does not fail.
        let _ = write!(found, "{separator} {id} {name:?}");
    }
    Finding::of(POSTGRES, check, found).warn_unless(false, advice)
}
