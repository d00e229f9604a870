//! Configuration, parsed from an injected lookup: all problems at once, before anything connects.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::percent_decode_str;
use sqlx::postgres::PgConnectOptions;

/// Claims in one transaction, at the most.
const BATCH_ROWS: usize = 500;
/// Shards, at the most: each takes a writer, a relay, a stream and a consumer for each projection.
const SHARDS_MAX: i16 = 64;

/// A text that never appears in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

/// Where a server is, with the credentials in its URL.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(String);

impl ServerUrl {
    /// The URL with its credentials.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    fn parse(text: &str, schemes: &[&str]) -> Result<Self, String> {
        let fits = text
            .split_once("://")
            .is_some_and(|(scheme, rest)| schemes.contains(&scheme) && !rest.is_empty());
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("must be a URL that starts with {}://", schemes.join(":// or ")))
        }
    }
}

/// User and password in a URL; a user alone may be a token.
#[must_use]
pub fn login(url: &str) -> Option<(String, Option<String>)> {
    let (_, rest) = url.split_once("://")?;
    let (login, _) = rest.split(['/', '?']).next()?.rsplit_once('@')?;
    let (user, password) = login.split_once(':').map_or((login, None), |(user, word)| (user, Some(word)));
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    Some((decoded(user), password.map(decoded)))
}

/// Without the password, for people: that may be wrong and hold a `/` or a `?`, so nothing before the last `@` is
/// shown.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once("://") {
            Some((scheme, rest)) => {
                let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place);
                // Parameters may hold a password too.
                write!(f, "{scheme}://{}", place.split(['?', '#']).next().unwrap_or_default())
            }
            None => f.write_str("?"),
        }
    }
}

impl fmt::Debug for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a process can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Serves HTTP, writes, and sweeps.
    Api,
    /// Publishes the outbox.
    Relay,
    /// Applies events to the projections.
    Project,
}

impl Role {
    /// All that there are.
    pub const ALL: [Self; 3] = [Self::Api, Self::Relay, Self::Project];
}

impl FromStr for Role {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "api" => Ok(Self::Api),
            "relay" => Ok(Self::Relay),
            "project" => Ok(Self::Project),
            other => Err(format!("{other:?} is not one of api, relay, project")),
        }
    }
}

/// Where the servers are.
#[derive(Clone, Debug)]
pub struct Config {
    pub database: ServerUrl,
    pub redis: ServerUrl,
    pub nats: ServerUrl,
    pub http: SocketAddr,
    /// `HTTP_ADDR` was given: a process without the API listens too, for whoever watches over it.
    pub monitored: bool,
    pub admin_token: Option<Secret>,
    /// Fixed at the first migration.
    pub shards: i16,
    /// Of each stream: 1, or 3 or 5 in a cluster.
    pub replicas: usize,
    /// Claims in one transaction, at the most.
    pub batch_rows: usize,
    /// How long the outbox keeps what is published and applied; for ever if nothing.
    pub outbox_retention: Option<Duration>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration is wrong:\n  {}", .0.join("\n  "))]
pub struct ConfigError(Vec<String>);

impl Config {
    /// Reads the variables that `lookup` knows.
    ///
    /// # Errors
    /// Names every variable that is missing or wrong.
    pub fn read(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut url = |name: &str, schemes: &[&str]| {
            let parsed = match lookup(name).filter(|text| !text.is_empty()) {
                Some(text) => ServerUrl::parse(&text, schemes),
                None => Err(format!("is needed, a URL that starts with {}://", schemes.join(":// or "))),
            };
            parsed.map_err(|problem| problems.push(format!("{name} {problem}"))).ok()
        };
        let database = url("DATABASE_URL", &["postgres", "postgresql"]);
        let redis = url("REDIS_URL", &["redis", "rediss", "redis+unix", "unix"]);
        let nats = url("NATS_URL", &["nats", "tls"]);
        if let Some(url) = &database
            && PgConnectOptions::from_str(url.reveal()).is_err()
        {
            problems.push("DATABASE_URL cannot be read as a URL of Postgres".to_owned());
        }
        if let Some(url) = &redis
            && crate::gate::redis::client(url.reveal()).is_err()
        {
            problems.push("REDIS_URL cannot be read as a URL of Redis".to_owned());
        }
        let mut number = |name: &str, default: i64, allowed: &[std::ops::RangeInclusive<i64>]| {
            let Some(text) = lookup(name) else { return default };
            match text.parse() {
                Ok(number) if allowed.iter().any(|range| range.contains(&number)) => number,
                _ => {
                    let ranges: Vec<_> =
                        allowed.iter().map(|range| format!("{} to {}", range.start(), range.end())).collect();
                    problems.push(format!("{name} must be a number, {}", ranges.join(" or ")));
                    default
                }
            }
        };
        let shards = number("SHARDS", 1, &[1..=i64::from(SHARDS_MAX)]);
        let replicas = number("NATS_REPLICAS", 1, &[1..=1, 3..=3, 5..=5]);
        let batch_rows = number("BATCH_ROWS", BATCH_ROWS as i64, &[1..=BATCH_ROWS as i64]);
        let retention_days = number("OUTBOX_RETENTION_DAYS", 30, &[0..=36_500]).unsigned_abs();
        let http = lookup("HTTP_ADDR").unwrap_or_else(|| "127.0.0.1:8080".to_owned()).parse();
        let http = http
            .map_err(|_| {
                problems.push("HTTP_ADDR must be an address and a port, such as 127.0.0.1:8080".to_owned());
            })
            .ok();
        let admin_token = lookup("ADMIN_TOKEN").filter(|token| !token.is_empty());
        if admin_token
            .as_ref()
            .is_some_and(|token| token.len() < 16 || !token.bytes().all(|b| b.is_ascii_graphic()))
        {
            problems.push("ADMIN_TOKEN must be at least 16 visible ASCII characters".to_owned());
        }
        match (database, redis, nats, http) {
            (Some(database), Some(redis), Some(nats), Some(http)) if problems.is_empty() => Ok(Self {
                database,
                redis,
                nats,
                http,
                monitored: lookup("HTTP_ADDR").is_some(),
                admin_token: admin_token.map(Secret),
                shards: i16::try_from(shards).unwrap_or(1),
                replicas: usize::try_from(replicas).unwrap_or(1),
                batch_rows: usize::try_from(batch_rows).unwrap_or(BATCH_ROWS),
                outbox_retention: (retention_days > 0).then(|| Duration::from_secs(retention_days * 86_400)),
            }),
            _ => Err(ConfigError(problems)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::read(|name| {
            variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let Err(ConfigError(problems)) = read(&[
            ("DATABASE_URL", "mysql://x"),
            ("NATS_URL", ""),
            ("HTTP_ADDR", "8080"),
            ("SHARDS", "0"),
            ("NATS_REPLICAS", "2"),
            ("ADMIN_TOKEN", "short"),
        ]) else {
            panic!("accepted")
        };
        let variables: Vec<_> =
            problems.iter().map(|line| line.split(' ').next().unwrap_or_default()).collect();
        assert_eq!(
            variables,
            ["DATABASE_URL", "REDIS_URL", "NATS_URL", "SHARDS", "NATS_REPLICAS", "HTTP_ADDR", "ADMIN_TOKEN"]
        );
    }

    #[test]
    fn a_login_is_read_from_a_url() {
        let both = |user: &str, word: &str| Some((user.to_owned(), Some(word.to_owned())));
        assert_eq!(login("nats://bus:4222"), None);
        assert_eq!(login("nats://bus:4222/?a=b@c"), None);
        assert_eq!(login("nats://user:hunter2@bus:4222"), both("user", "hunter2"));
        assert_eq!(login("tls://u%40ser:p%3A%2F:%40@bus"), both("u@ser", "p:/:@"));
        assert_eq!(login("nats://token@bus"), Some(("token".to_owned(), None)));
    }

    #[test]
    fn secrets_are_not_shown() -> Result<(), ConfigError> {
        let config = read(&[
            ("DATABASE_URL", "postgres://user:hunter2@db:5432/coupon?password=hunter2"),
            ("REDIS_URL", "redis://:hunter2@cache/0"),
            ("NATS_URL", "nats://user:hunter2@bus:4222"),
            ("ADMIN_TOKEN", "hunter2-hunter2-hunter2"),
        ])?;
        let shown = format!("{config:?} {} {} {}", config.database, config.redis, config.nats);
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("postgres://db:5432/coupon"), "{shown}");
        // Such passwords are not encoded as they have to be.
        for url in
            ["nats://user:hunter2/@bus", "nats://user:hunter2?@bus", "nats://user:4/hunter2@bus#hunter2"]
        {
            assert_eq!(ServerUrl(url.to_owned()).to_string(), "nats://bus");
        }
        Ok(())
    }
}
