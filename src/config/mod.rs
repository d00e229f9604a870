//! Configuration, parsed from an injected lookup: all problems at once, before anything connects.

mod access;
mod files;
mod limits;
mod reader;
#[cfg(test)]
mod tests;
mod url;
mod users;
mod variable;

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use async_nats::ServerAddr;
use outbox_relay::deployment::DeploymentName;
use redis::IntoConnectionInfo as _;
use sqlx::postgres::PgConnectOptions;

pub use self::access::Access;
pub use self::files::Authorities;
use self::files::credentials;
pub use self::limits::{Network, Rate, RateLimits};
use self::reader::Reader;
pub use self::url::{Secret, ServerUrl, ServerUrls, login};
pub use self::users::{EndUsers, KeySource};
pub use self::variable::{
    ADMIN_TOKEN, BATCH_ROWS, COUPON_CA, COUPON_TOKEN, COUPON_URL, DATABASE_URL, DEPLOYMENT,
    FAILED_LOGIN_LIMIT, FIRST_DEPLOYMENT, HTTP_ADDR, JWT_AUDIENCE, JWT_CA, JWT_ISSUER, JWT_KEYS, JWT_SECRET,
    LOG_FORMAT, MONITOR_ADDR, NATS_CA, NATS_CREDENTIALS, NATS_REPLICAS, NATS_URL, OUTBOX_RETENTION_DAYS,
    RATE_LIMIT_PER_ADDRESS, RATE_LIMIT_PER_PRINCIPAL, REDIS_CA, REDIS_URL, RUST_LOG, SHARDS, TRUSTED_PROXIES,
    VARIABLES, Variable,
};

/// The largest number of claims in one transaction.
const BATCH_ROWS_MAX: usize = 500;
/// Each shard takes a writer, a relay, a stream and a consumer for each projection.
const SHARDS_MAX: i16 = 64;
/// 100 years, in days: far enough, and no duration overflows.
const RETENTION_DAYS_MAX: u64 = 36_500;
const SECONDS_PER_DAY: u64 = 86_400;

/// What a process can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Serves HTTP, writes coupons, and settles seats that nobody confirmed.
    Api,
    /// Publishes the outbox.
    Relay,
    /// Applies events to the projections, and audits.
    Project,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Api, Self::Relay, Self::Project];

    /// The word for it, in `--roles` and in the log.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Relay => "relay",
            Self::Project => "project",
        }
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let role = Self::ALL.into_iter().find(|role| role.as_str() == word);
        role.ok_or_else(|| format!("{word:?} is not one of {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// The servers that a process or command uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Postgres,
    PostgresAndNats,
    All,
}

/// The configuration of a process.
#[derive(Clone, Debug)]
pub struct Config {
    pub database: ServerUrl,
    /// One server, or some nodes of a Redis Cluster; none if Redis is not needed and no variable names it.
    pub redis: ServerUrls,
    pub redis_ca: Option<Authorities>,
    /// None if NATS is not needed and no variable names it.
    pub nats: ServerUrls,
    pub nats_ca: Option<Authorities>,
    /// The contents of the file, in place of a login in the URLs.
    pub nats_credentials: Option<Secret>,
    pub http: SocketAddr,
    /// A listener of its own for `/livez`, `/readyz` and `/metrics`.
    pub monitor: Option<SocketAddr>,
    /// `HTTP_ADDR` is set: a process without the API listens there too, for monitoring.
    pub listens_without_api: bool,
    /// Without it every request to `/v1` is answered 401.
    pub admin_token: Option<Secret>,
    /// Without it no token of an end user is accepted.
    pub users: Option<EndUsers>,
    pub limits: RateLimits,
    /// Fixed by the first migration.
    pub shards: i16,
    /// The deployment that the database must belong to; fixed by the first migration.
    pub deployment: DeploymentName,
    /// Copies of each new stream except that of replays, which has one: 1, or 3 or 5 in a cluster.
    pub replicas: usize,
    /// The largest number of claims in one transaction.
    pub batch_rows: usize,
    /// How long the outbox keeps what is published and applied; for ever if `None`.
    pub outbox_retention: Option<Duration>,
}

/// Every problem of a configuration, each with the name of its variable.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is wrong:\n  {}", .0.join("\n  "))]
pub struct ConfigError(Vec<String>);

impl ConfigError {
    /// One problem, which names its variable.
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self(vec![problem.into()])
    }

    /// These problems, then those of `other`.
    pub(crate) fn and(mut self, other: Option<Self>) -> Self {
        self.0.extend(other.into_iter().flat_map(|other| other.0));
        self
    }
}

impl Access {
    /// `url` and `token_file` are options of a command, which take precedence over variables.
    ///
    /// # Errors
    /// Names every variable and option that is missing or wrong.
    pub fn read(
        url: Option<&str>,
        token_file: Option<&str>,
        lookup: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        access::read(url, token_file, lookup).map_err(ConfigError)
    }
}

impl Config {
    /// Reads the variables that `lookup` knows, for a process that uses all three servers.
    ///
    /// # Errors
    /// Names every variable that is missing or wrong.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        Self::read_for(Needs::All, lookup)
    }

    /// The same, where the URL of a server that is not needed may be missing.
    ///
    /// # Errors
    /// As [`Config::read`].
    pub fn read_for(needs: Needs, lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut reader = Reader { lookup, problems: Vec::new() };
        let parsed = Self::parsed(needs, &mut reader).filter(|_| reader.problems.is_empty());
        parsed.ok_or(ConfigError(reader.problems))
    }

    /// `None` if there is a problem. Every variable is read before the first `?`, so that all problems are noted.
    fn parsed(needs: Needs, reader: &mut Reader<impl Fn(&str) -> Option<String>>) -> Option<Self> {
        // A driver's own parser has the last word on its URL.
        let database = reader.url(DATABASE_URL, &["postgres", "postgresql"], "Postgres", |url| {
            url.parse::<PgConnectOptions>().is_ok()
        });
        let redis = if needs == Needs::All || reader.is_set(REDIS_URL) {
            reader.urls(REDIS_URL, &["redis", "rediss", "redis+unix", "unix"], "Redis", |url| {
                url.into_connection_info().is_ok()
            })
        } else {
            Some(ServerUrls::default())
        };
        let nats = if needs != Needs::Postgres || reader.is_set(NATS_URL) {
            reader.urls(NATS_URL, &["nats", "tls"], "NATS", |url| url.parse::<ServerAddr>().is_ok())
        } else {
            Some(ServerUrls::default())
        };
        let (redis_ca, nats_ca) =
            (reader.file(REDIS_CA, Authorities::read), reader.file(NATS_CA, Authorities::read));
        let nats_credentials = reader.file(NATS_CREDENTIALS, credentials);
        reader.files_fit(database.as_ref(), redis.as_ref(), nats.as_ref());
        let shards = reader.number(SHARDS, &[1..=SHARDS_MAX]);
        let deployment = reader.deployment(DEPLOYMENT);
        let replicas = reader.number(NATS_REPLICAS, &[1..=1, 3..=3, 5..=5]);
        let batch_rows = reader.number(BATCH_ROWS, &[1..=BATCH_ROWS_MAX]);
        let retention_days = reader.number(OUTBOX_RETENTION_DAYS, &[0..=RETENTION_DAYS_MAX]);
        let http = reader.address(HTTP_ADDR);
        let monitor = match (reader.lookup)(MONITOR_ADDR.name) {
            Some(_) => reader.address(MONITOR_ADDR).map(Some),
            None => Some(None),
        };
        let admin_token = reader.token(ADMIN_TOKEN);
        let users = reader.end_users();
        let limits = reader.limits();
        let retention_days = retention_days?;
        Some(Self {
            database: database?,
            redis: redis?,
            redis_ca: redis_ca?,
            nats: nats?,
            nats_ca: nats_ca?,
            nats_credentials: nats_credentials?,
            http: http?,
            monitor: monitor?,
            listens_without_api: (reader.lookup)(HTTP_ADDR.name).is_some(),
            admin_token: admin_token?,
            users: users?,
            limits: limits?,
            shards: shards?,
            deployment: deployment?,
            replicas: replicas?,
            batch_rows: batch_rows?,
            outbox_retention: (retention_days > 0)
                .then(|| Duration::from_secs(retention_days * SECONDS_PER_DAY)),
        })
    }
}
