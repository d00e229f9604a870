//! Where a server is, and what must not be shown of it.

use std::fmt;

use percent_encoding::percent_decode_str;

/// Servers that one variable names, at most: some nodes are enough to find all others.
const SERVERS_MAX: usize = 64;

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
        let is_known = |name: &str| {
            known.iter().any(|known| name == *known || known.ends_with('[') && name.starts_with(known))
        };
        self.parameters().map(|(name, _)| name).filter(|name| !is_known(name)).collect()
    }

    /// Host and port: what is behind the login, up to the path.
    fn host(&self) -> &str {
        let rest = self.0.split_once("://").map_or(&*self.0, |(_, rest)| rest);
        let rest = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
        rest.split(['/', '?', '#']).next().unwrap_or_default()
    }

    /// The files of certificate authorities that the parameters of a URL of Postgres name, under the names that the
    /// driver knows. A value that holds a certificate in PEM names no file.
    pub(super) fn authorities(&self) -> impl Iterator<Item = String> {
        let named = |name: &str| ["sslrootcert", "ssl-root-cert", "ssl-ca"].contains(&name);
        let values = self.parameters().filter(move |(name, _)| named(name)).map(|(_, value)| value);
        values.filter(|value| !value.contains("BEGIN CERTIFICATE"))
    }

    /// Names and values of its parameters, decoded.
    fn parameters(&self) -> impl Iterator<Item = (String, String)> {
        let query = self.0.rsplit_once('?').map_or("", |(_, query)| query);
        let query = query.split('#').next().unwrap_or_default();
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        pairs.map(move |pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name), decoded(value))
        })
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

/// The URLs of one server, or of several of a kind; by default none.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct ServerUrls(Vec<ServerUrl>);

impl ServerUrls {
    /// Each of them, in the order in which they were named.
    pub fn iter(&self) -> impl Iterator<Item = &ServerUrl> {
        self.0.iter()
    }

    /// Each with its login.
    pub fn reveal(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(ServerUrl::reveal)
    }

    /// URLs separated by commas. A comma that no URL follows is part of a login or a path, and none of a host.
    pub(super) fn parse(text: &str, schemes: &[&str]) -> Result<Self, String> {
        let mut pieces: Vec<String> = Vec::new();
        for piece in text.split(',') {
            match pieces.last_mut() {
                Some(last) if !piece.contains("://") => last.extend([",", piece]),
                _ => pieces.push(piece.to_owned()),
            }
        }
        if pieces.len() > SERVERS_MAX {
            return Err(format!("names more than {SERVERS_MAX} servers"));
        }
        let urls: Vec<_> =
            pieces.iter().map(|piece| ServerUrl::parse(piece.trim(), schemes)).collect::<Result<_, _>>()?;
        if urls.iter().any(|url| url.host().contains(',')) {
            return Err(format!("must start each of its URLs with {}://", schemes.join(":// or ")));
        }
        Ok(Self(urls))
    }
}

impl fmt::Display for ServerUrls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let shown: Vec<String> = self.0.iter().map(ServerUrl::to_string).collect();
        f.write_str(&shown.join(", "))
    }
}

impl fmt::Debug for ServerUrls {
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
    fn several_servers_are_separated_by_commas() {
        let parse = |text: &str| ServerUrls::parse(text, &["nats", "tls"]).map(|urls| urls.to_string());
        assert_eq!(parse("nats://a").as_deref(), Ok("nats://a"));
        assert_eq!(parse("nats://u:p@a:1, tls://b:2").as_deref(), Ok("nats://a:1, tls://b:2"));
        assert_eq!(parse("nats://us,er:p,w@a,nats://b").as_deref(), Ok("nats://a, nats://b"));
        for text in ["", "a,b,c", "nats://a,b", "nats://a,http://b", "nats://a,nats://", "nats://u:p@a,b"] {
            assert!(parse(text).is_err(), "{text}");
        }
        let many = |count: usize| vec!["nats://a"; count].join(",");
        assert!(parse(&many(SERVERS_MAX)).is_ok() && parse(&many(SERVERS_MAX + 1)).is_err());
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
