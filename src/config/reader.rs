//! Reads variables, and notes every problem.

use std::collections::HashSet;
use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use outbox_relay::deployment::{DeploymentName, DeploymentNameError};

use super::files::Authorities;
use super::url::{Secret, ServerUrl, ServerUrls, login};
use super::variable::{DATABASE_URL, NATS_CREDENTIALS, NATS_URL, REDIS_CA, Variable};

/// The token of `.env.example`, which everybody knows.
const PLACEHOLDER: &str = "replace-me-by-a-random-token";
/// Characters of an admin token: too many to guess.
const TOKEN_LENGTH_MIN: usize = 16;

/// Reads one variable after the other. Each method returns `None` exactly if it has noted a problem.
pub(super) struct Reader<L> {
    pub(super) lookup: L,
    pub(super) problems: Vec<String>,
}

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    /// `is_read` is the driver's own parser, which has the last word.
    pub(super) fn url(
        &mut self,
        variable: Variable,
        schemes: &[&str],
        server: &str,
        is_read: impl Fn(&str) -> bool,
    ) -> Option<ServerUrl> {
        let parsed = self.text(variable, schemes).and_then(|text| ServerUrl::parse(&text, schemes));
        let parsed = parsed.and_then(|url| checked([&url], server, is_read).map(|()| url));
        self.noted(variable, parsed)
    }

    /// The same for several servers of one kind, separated by commas.
    pub(super) fn urls(
        &mut self,
        variable: Variable,
        schemes: &[&str],
        server: &str,
        is_read: impl Fn(&str) -> bool,
    ) -> Option<ServerUrls> {
        let parsed = self.text(variable, schemes).and_then(|text| ServerUrls::parse(&text, schemes));
        let parsed = parsed.and_then(|urls| checked(urls.iter(), server, is_read).map(|()| urls));
        self.noted(variable, parsed)
    }

    fn text(&self, variable: Variable, schemes: &[&str]) -> Result<String, String> {
        let text = variable.value(&self.lookup).filter(|text| !text.is_empty());
        text.ok_or_else(|| format!("is needed, a URL that starts with {}://", schemes.join(":// or ")))
    }

    pub(super) fn is_set(&self, variable: Variable) -> bool {
        variable.value(&self.lookup).is_some_and(|text| !text.is_empty())
    }

    pub(super) fn number<T>(&mut self, variable: Variable, allowed: &[RangeInclusive<T>]) -> Option<T>
    where
        T: FromStr + PartialOrd + Display,
    {
        let text = variable.value(&self.lookup).unwrap_or_default();
        let number = text.parse().ok().filter(|number| allowed.iter().any(|range| range.contains(number)));
        let parsed = number.ok_or_else(|| {
            let text = |range: &RangeInclusive<T>| match (range.start(), range.end()) {
                (one, same) if one == same => one.to_string(),
                (first, last) => format!("a number, {first} to {last}"),
            };
            let mut texts: Vec<_> = allowed.iter().map(text).collect();
            let last = texts.pop().unwrap_or_default();
            if texts.is_empty() {
                format!("must be {last}")
            } else {
                format!("must be {} or {last}", texts.join(", "))
            }
        });
        self.noted(variable, parsed)
    }

    pub(super) fn deployment(&mut self, variable: Variable) -> Option<DeploymentName> {
        let text = variable.value(&self.lookup).unwrap_or_default();
        let parsed = text.parse().map_err(|error: DeploymentNameError| error.to_string());
        self.noted(variable, parsed)
    }

    pub(super) fn address(&mut self, variable: Variable) -> Option<SocketAddr> {
        let text = variable.value(&self.lookup).unwrap_or_default();
        let parsed =
            text.parse().map_err(|_| "must be an address and a port, such as 127.0.0.1:8080".to_owned());
        self.noted(variable, parsed)
    }

    /// `Some(None)` if there is no token.
    #[expect(clippy::option_option, reason = "the outer one says whether there is a problem")]
    pub(super) fn token(&mut self, variable: Variable) -> Option<Option<Secret>> {
        let token = variable.value(&self.lookup).filter(|token| !token.is_empty());
        self.noted(variable, token.map(token_of).transpose())
    }

    /// `Some(None)` if no file is named.
    #[expect(clippy::option_option, reason = "the outer one says whether there is a problem")]
    pub(super) fn file<T>(
        &mut self,
        variable: Variable,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        let path = variable.value(&self.lookup).filter(|path| !path.is_empty());
        self.noted(variable, path.map(|path| read(&path)).transpose())
    }

    /// Notes files and logins that do not fit to URLs.
    pub(super) fn files_fit(
        &mut self,
        database: Option<&ServerUrl>,
        redis: Option<&ServerUrls>,
        nats: Option<&ServerUrls>,
    ) {
        for path in database.iter().flat_map(|url| url.authorities()) {
            let read = Authorities::read(&path).map(drop);
            self.noted(DATABASE_URL, read);
        }
        let plain = redis.is_some_and(|urls| urls.reveal().any(|url| !url.starts_with("rediss://")));
        if plain && self.is_set(REDIS_CA) {
            self.noted::<()>(REDIS_CA, Err("needs a REDIS_URL that starts with rediss://".to_owned()));
        }
        let logins: HashSet<_> = nats.iter().flat_map(|urls| urls.reveal()).filter_map(login).collect();
        if logins.len() > 1 {
            self.noted::<()>(
                NATS_URL,
                Err("has different logins, but one is used for all servers".to_owned()),
            );
        }
        if !logins.is_empty() && self.is_set(NATS_CREDENTIALS) {
            self.noted::<()>(
                NATS_CREDENTIALS,
                Err("is set, and NATS_URL has a login: one must go".to_owned()),
            );
        }
    }

    pub(super) fn noted<T>(&mut self, variable: Variable, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|problem| self.problems.push(format!("{} {problem}", variable.name))).ok()
    }
}

/// A token, if the text can be one.
pub(super) fn token_of(text: String) -> Result<Secret, String> {
    if text == PLACEHOLDER {
        return Err(
            "is the placeholder of .env.example: replace it by a random token, for example from `openssl rand -hex 24`"
                .to_owned(),
        );
    }
    let fits = text.len() >= TOKEN_LENGTH_MIN && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits {
        Ok(text.into())
    } else {
        Err(format!("must be at least {TOKEN_LENGTH_MIN} visible ASCII characters"))
    }
}

fn checked<'a>(
    urls: impl IntoIterator<Item = &'a ServerUrl>,
    server: &str,
    is_read: impl Fn(&str) -> bool,
) -> Result<(), String> {
    let all = urls.into_iter().all(|url| is_read(url.reveal()));
    if all { Ok(()) } else { Err(format!("cannot be read as a URL of {server}")) }
}
