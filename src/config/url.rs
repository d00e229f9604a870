//! Where a server is, and what must not be shown of it.

use std::fmt;

use percent_encoding::percent_decode_str;

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

/// The URL of a server, which may hold a login.
#[derive(Clone, PartialEq, Eq)]
pub struct ServerUrl(String);

impl ServerUrl {
    /// The URL with its login.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The names of those of its parameters that are not among `known`. A name that ends in `[` stands for all that
    /// begin with it.
    pub(crate) fn other_parameters(&self, known: &[&str]) -> Vec<String> {
        let parameters = self.0.rsplit_once('?').map_or("", |(_, parameters)| parameters);
        let names = parameters.split('&').filter_map(|pair| pair.split('=').next());
        let names = names.map(|name| percent_decode_str(name).decode_utf8_lossy().into_owned());
        let is_known = |name: &str| {
            known.iter().any(|known| name == *known || known.ends_with('[') && name.starts_with(known))
        };
        names.filter(|name| !name.is_empty() && !is_known(name)).collect()
    }

    pub(super) fn parse(text: &str, schemes: &[&str]) -> Result<Self, String> {
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

/// Without login and parameters, either of which may hold a password. A password that should have been encoded may
/// hold a `/` or a `?`, so nothing before the last `@` is shown.
impl fmt::Display for ServerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_once("://") {
            Some((scheme, rest)) => {
                let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
                write!(f, "{scheme}://{}", host.split(['?', '#']).next().unwrap_or_default())
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

/// User and password in a URL, decoded. A user without a password may be a token.
#[must_use]
pub fn login(url: &str) -> Option<(String, Option<String>)> {
    let (_, rest) = url.split_once("://")?;
    let (login, _) = rest.split(['/', '?']).next()?.rsplit_once('@')?;
    let (user, password) = login.split_once(':').map_or((login, None), |(user, word)| (user, Some(word)));
    let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    Some((decoded(user), password.map(decoded)))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn parameters_that_are_not_known_are_named() {
        let url = "postgres://a:b?c@db/coupon?sslmode=require&options[a]=1&ssl%70assword=x&pasword";
        let other = ServerUrl(url.to_owned()).other_parameters(&["sslmode", "options["]);
        assert_eq!(other, ["sslpassword", "pasword"]);
        assert!(ServerUrl("postgres://db/coupon".to_owned()).other_parameters(&[]).is_empty());
    }

    #[test]
    fn a_password_that_is_not_encoded_is_not_shown() {
        for url in
            ["nats://user:hunter2/@bus", "nats://user:hunter2?@bus", "nats://user:4/hunter2@bus#hunter2"]
        {
            assert_eq!(ServerUrl(url.to_owned()).to_string(), "nats://bus");
        }
    }
}
