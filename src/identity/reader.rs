//! Reads the live API tokens from Postgres, again and again, and writes which of them were used.

use std::collections::HashMap;
use std::convert::Infallible;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use outbox_relay::sqlstate::is_gone;
use tokio::time::{Instant, sleep_until, timeout};

use super::Scopes;
use super::secret::Hash;
use super::tokens::{Known, Live, LiveSecret, Tokens};
use crate::ids::{MerchantId, TokenId};
use crate::pool::Pool;
use crate::storage::prepared;

/// From the beginning of one read to that of the next. With a slow read, a change is known after 4 s.
const INTERVAL: Duration = Duration::from_secs(2);
/// The same after a read that failed, and while a request waits for the next read.
const INTERVAL_MIN: Duration = Duration::from_millis(250);
/// For one read, with its connection. Half of what a change may take to be known.
const TOKENS_READ_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is written which tokens were used.
const USES_INTERVAL: Duration = Duration::from_secs(60);
/// Rows of one read, at most: two secrets of each of as many tokens as `coupon token create` makes.
const ROWS_MAX: i64 = 2 * super::registry::LIVE_MAX;

/// The live tokens with their live secrets. Times are what is left of them, in seconds by the clock of the database.
const READ: &str = "
    SELECT token.id, token.scopes, token.merchant_id, extract(epoch FROM token.expires_at - now())::float8, secret.hash,
           extract(epoch FROM secret.ends_at - now())::float8
    FROM api_tokens AS token JOIN api_token_secrets AS secret ON secret.token_id = token.id
    WHERE token.revoked_at IS NULL AND coalesce(token.expires_at, 'infinity'::timestamptz) > now()
      AND (secret.ends_at IS NULL OR secret.ends_at > now())
    LIMIT $1";
/// A time that is later already stays.
const WRITE_USES: &str =
    "UPDATE api_tokens SET last_used_at = greatest(last_used_at, now()) WHERE id = ANY ($1)";

/// Id, scopes and merchant of a token, what is left of it; the hash of a secret, what is left of that.
type Row = (TokenId, Vec<String>, Option<MerchantId>, Option<f64>, Vec<u8>, Option<f64>);

/// Keeps what a process knows of the tokens up to date, until it is dropped.
pub async fn run(tokens: Arc<Tokens>, pool: Pool) -> Infallible {
    // Apart from each other: a row that is locked holds up no read.
    tokio::join!(read_again_and_again(&tokens, &pool), write_uses_again_and_again(&tokens, &pool)).0
}

/// Reads the tokens once.
///
/// # Errors
/// When Postgres does not answer in time. What was known stays.
pub async fn read(tokens: &Tokens, pool: &Pool) -> Result<(), sqlx::Error> {
    let asked_at = Instant::now();
    let rows = timeout(TOKENS_READ_TIMEOUT, rows(pool)).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
    tokens.replace(Known { tokens: live(rows, asked_at), asked_at: Some(asked_at) });
    Ok(())
}

async fn read_again_and_again(tokens: &Tokens, pool: &Pool) -> Infallible {
    let mut told = false;
    loop {
        let began = Instant::now();
        let failure = read(tokens, pool).await.err();
        if let Some(error) = &failure {
            let what = "API tokens cannot be read: all are refused a minute after the last read";
            let cause = error as &dyn std::error::Error;
            if told || is_gone(error) {
                tracing::debug!(error = cause, "{what}"); // of an outage the writers tell
            } else {
                tracing::warn!(error = cause, "{what}");
                told = true;
            }
        } else if mem::take(&mut told) {
            tracing::info!("API tokens are read again");
        }
        let interval = if failure.is_some() { INTERVAL_MIN } else { INTERVAL };
        tokio::select! {
            () = sleep_until(began + interval) => {}
            () = tokens.wanted.notified() => sleep_until(began + INTERVAL_MIN).await,
        }
    }
}

async fn write_uses_again_and_again(tokens: &Tokens, pool: &Pool) -> Infallible {
    loop {
        let used = tokens.take_used();
        if used.is_empty() {
            sleep_until(Instant::now() + INTERVAL).await;
            continue;
        }
        if let Err(error) = write_uses(&used, pool).await {
            tokens.put_back(&used);
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the use of API tokens is written later"
            );
        }
        sleep_until(Instant::now() + USES_INTERVAL).await;
    }
}

async fn rows(pool: &Pool) -> Result<Vec<Row>, sqlx::Error> {
    prepared!(pool, |connection| sqlx::query_as(READ).bind(ROWS_MAX).fetch_all(connection))
}

async fn write_uses(used: &[TokenId], pool: &Pool) -> Result<(), sqlx::Error> {
    prepared!(pool, |connection| sqlx::query(WRITE_USES).bind(used).execute(connection)).map(drop)
}

/// The tokens of these rows. A scope that a newer version has added gives no right here.
fn live(rows: Vec<Row>, asked_at: Instant) -> HashMap<TokenId, Live> {
    // What is left is a time of the future; one that no clock can express never comes.
    let end = |left: f64| asked_at.checked_add(Duration::try_from_secs_f64(left).unwrap_or_default());
    let mut tokens = HashMap::<TokenId, Live>::new();
    for (id, scopes, merchant, left, hash, secret_left) in rows {
        let Some(hash) = Hash::stored(&hash) else { continue };
        let token = tokens.entry(id).or_insert_with(|| Live {
            scopes: scopes.iter().filter_map(|word| word.parse().ok()).collect::<Scopes>(),
            merchant,
            ends: left.and_then(end),
            secrets: Vec::with_capacity(1),
            used: Arc::default(),
        });
        token.secrets.push(LiveSecret { hash, ends: secret_left.and_then(end) });
    }
    tokens
}
