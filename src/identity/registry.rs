//! The API tokens in Postgres, as operators create, list, rotate and revoke them.

use std::fmt;
use std::time::Duration;

use outbox_relay::in_time::InTime as _;
use serde::Serialize;
use sqlx::{Connection as _, FromRow, PgConnection};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use time::serde::rfc3339;

use super::Scope;
use super::secret::{Hash, generate, new_id};
use crate::config::Secret;
use crate::ids::{MerchantId, TokenId};

/// Live tokens, at most: every process keeps them in memory (about 300 bytes each), and reads them every 2 s.
pub const LIVE_MAX: i64 = 10_000;
/// Tokens on a list: all that are live, and some that are not.
const LISTED_MAX: i64 = 11_000;

/// The columns of a [`Token`], before the literal that follows.
macro_rules! select {
    ($behind:literal) => {
        concat!(
            "SELECT id, name, scopes, merchant_id, created_at, expires_at, revoked_at, last_used_at, \
             CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= now() THEN 'expired' \
                  ELSE 'live' END AS state, \
             (SELECT max(ends_at) FROM api_token_secrets WHERE token_id = id AND ends_at > now()) \
                 AS old_secret_ends_at FROM api_tokens ",
            $behind
        )
    };
}

/// What a new token is created with.
#[derive(Clone, Debug)]
pub struct NewToken {
    pub name: String,
    pub scopes: Vec<Scope>,
    /// Only with [`Scope::Redeem`] and [`Scope::Settle`].
    pub merchant: Option<MerchantId>,
    /// Without it the token never expires.
    pub expires_in: Option<Duration>,
}

/// Whether a token is valid now, by the clock of the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum TokenState {
    Live,
    Expired,
    Revoked,
}

impl fmt::Display for TokenState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Live => "live",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        })
    }
}

/// A token, without its secrets.
#[derive(Clone, Debug, Serialize, FromRow)]
pub struct Token {
    pub id: TokenId,
    pub name: String,
    pub scopes: Vec<String>,
    pub merchant_id: Option<MerchantId>,
    pub state: TokenState,
    #[serde(with = "rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
    #[serde(with = "rfc3339::option")]
    pub revoked_at: Option<OffsetDateTime>,
    /// To within a minute.
    #[serde(with = "rfc3339::option")]
    pub last_used_at: Option<OffsetDateTime>,
    /// Until when the secret before the newest is valid too, while the token is rotated.
    #[serde(with = "rfc3339::option")]
    pub old_secret_ends_at: Option<OffsetDateTime>,
}

/// Why a token was not created or changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("change the API tokens")]
    Database(#[from] sqlx::Error),
    #[error("there is no token {0}")]
    NotFound(TokenId),
    #[error("there are {LIVE_MAX} live tokens, which is the limit: revoke some first")]
    TooMany,
    #[error("token {id} is {state}: create another one")]
    NotLive { id: TokenId, state: TokenState },
    #[error(
        "token {id} has two secrets already: rotate it again when the older one has ended, at {}",
        written(*ends_at)
    )]
    TwoSecrets { id: TokenId, ends_at: OffsetDateTime },
    #[error("the operating system has no random numbers")]
    NoRandomness,
}

/// Creates a token. Its text, with the secret, is in no other place.
///
/// # Errors
/// [`TokenError::TooMany`], and those of the database and the operating system.
pub async fn create(connection: &mut PgConnection, new: &NewToken) -> Result<(Token, Secret), TokenError> {
    let id = new_id();
    let (text, hash) = generate(id).map_err(|_| TokenError::NoRandomness)?;
    let mut transaction = connection.begin().in_time().await?;
    // So that two commands at once do not exceed the limit. Readers go on.
    let lock = "LOCK TABLE api_tokens IN SHARE ROW EXCLUSIVE MODE";
    sqlx::query(lock).execute(&mut *transaction).in_time().await?;
    let live = "SELECT count(*) FROM api_tokens WHERE revoked_at IS NULL \
                AND coalesce(expires_at, 'infinity'::timestamptz) > now()";
    let live: i64 = sqlx::query_scalar(live).fetch_one(&mut *transaction).in_time().await?;
    if live >= LIVE_MAX {
        return Err(TokenError::TooMany);
    }
    sqlx::query(
        "INSERT INTO api_tokens (id, name, scopes, merchant_id, expires_at) \
         VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))",
    )
    .bind(id)
    .bind(&new.name)
    .bind(new.scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>())
    .bind(&new.merchant)
    .bind(new.expires_in.map(|duration| duration.as_secs_f64()))
    .execute(&mut *transaction)
    .in_time()
    .await?;
    insert_secret(&mut transaction, id, &hash).await?;
    let token = get(&mut transaction, id).await?;
    transaction.commit().in_time().await?;
    Ok((token, text))
}

/// The tokens: the live ones first, then the newest; at most 11,000.
///
/// # Errors
/// When the tokens cannot be read.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<Token>, sqlx::Error> {
    let list = select!(
        "ORDER BY revoked_at IS NULL AND coalesce(expires_at, 'infinity'::timestamptz) > now() DESC, id DESC LIMIT $1"
    );
    sqlx::query_as(list).bind(LISTED_MAX).fetch_all(connection).in_time().await
}

/// Revokes a token for ever. Revoking a revoked one changes nothing.
///
/// # Errors
/// [`TokenError::NotFound`], and those of the database.
pub async fn revoke(connection: &mut PgConnection, id: TokenId) -> Result<Token, TokenError> {
    let revoke = "UPDATE api_tokens SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL";
    sqlx::query(revoke).bind(id).execute(&mut *connection).in_time().await?;
    get(connection, id).await
}

/// Gives a token a second secret, and lets the first end after `keep`.
///
/// # Errors
/// [`TokenError::NotFound`], [`TokenError::NotLive`], [`TokenError::TwoSecrets`], and those of the database and the
/// operating system.
pub async fn rotate(
    connection: &mut PgConnection,
    id: TokenId,
    keep: Duration,
) -> Result<(Token, Secret), TokenError> {
    let (text, hash) = generate(id).map_err(|_| TokenError::NoRandomness)?;
    let mut transaction = connection.begin().in_time().await?;
    // One rotation at a time.
    let lock = "SELECT FROM api_tokens WHERE id = $1 FOR UPDATE";
    sqlx::query(lock).bind(id).execute(&mut *transaction).in_time().await?;
    let token = get(&mut transaction, id).await?;
    if token.state != TokenState::Live {
        return Err(TokenError::NotLive { id, state: token.state });
    }
    if let Some(ends_at) = token.old_secret_ends_at {
        return Err(TokenError::TwoSecrets { id, ends_at });
    }
    let ended = "DELETE FROM api_token_secrets WHERE token_id = $1 AND ends_at <= now()";
    sqlx::query(ended).bind(id).execute(&mut *transaction).in_time().await?;
    sqlx::query(
        "UPDATE api_token_secrets SET ends_at = now() + make_interval(secs => $2) WHERE token_id = $1",
    )
    .bind(id)
    .bind(keep.as_secs_f64())
    .execute(&mut *transaction)
    .in_time()
    .await?;
    insert_secret(&mut transaction, id, &hash).await?;
    let token = get(&mut transaction, id).await?;
    transaction.commit().in_time().await?;
    Ok((token, text))
}

async fn get(connection: &mut PgConnection, id: TokenId) -> Result<Token, TokenError> {
    let get = select!("WHERE id = $1");
    let token = sqlx::query_as(get).bind(id).fetch_optional(connection).in_time().await?;
    token.ok_or(TokenError::NotFound(id))
}

async fn insert_secret(connection: &mut PgConnection, id: TokenId, hash: &Hash) -> Result<(), sqlx::Error> {
    let insert = "INSERT INTO api_token_secrets (token_id, hash) VALUES ($1, $2)";
    sqlx::query(insert).bind(id).bind(hash.as_bytes()).execute(connection).in_time().await.map(drop)
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, state, scopes, name, .. } = self;
        write!(f, "{id} {state:<7} {} \"{}\"", scopes.join(","), name.escape_debug())?;
        if let Some(merchant) = &self.merchant_id {
            write!(f, ", merchant {}", merchant.as_str())?;
        }
        write!(f, ", created {}", written(self.created_at))?;
        for (what, time) in [
            ("expires", self.expires_at),
            ("revoked", self.revoked_at),
            ("old secret ends", self.old_secret_ends_at),
        ] {
            if let Some(time) = time {
                write!(f, ", {what} {}", written(time))?;
            }
        }
        match self.last_used_at {
            Some(time) => write!(f, ", last used {}", written(time)),
            None => f.write_str(", never used"),
        }
    }
}

fn written(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_else(|_| time.to_string())
}
