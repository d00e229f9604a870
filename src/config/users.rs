//! Tokens of end users: where their keys are, and what they must say.

use super::files::{Authorities, keys};
use super::reader::Reader;
use super::url::{Secret, ServerUrl};
use super::variable::{JWT_AUDIENCE, JWT_CA, JWT_ISSUER, JWT_KEYS, JWT_SECRET, Variable};
use crate::jwk::KeySet;

/// Bytes of a secret, at least: those of a signature of HS256, as RFC 7518, section 3.2, demands.
const SECRET_BYTES_MIN: usize = 32;

/// How tokens of end users are verified.
#[derive(Clone, Debug)]
pub struct EndUsers {
    pub keys: Option<KeySource>,
    /// The key of HS256.
    pub secret: Option<Secret>,
    /// What `iss` must be.
    pub issuer: String,
    /// What `aud` must be or hold.
    pub audience: String,
    /// The authorities to trust at the URL of the keys, in place of the system's.
    pub authorities: Option<Authorities>,
}

/// Where public keys are.
#[derive(Clone, Debug)]
pub enum KeySource {
    /// In a file, which was read.
    Set(KeySet),
    /// At a URL that starts with `https://`.
    Url(String),
}

impl<L: Fn(&str) -> Option<String>> Reader<L> {
    /// `Some(None)` if there is neither a key nor a secret, so that no end user has access.
    #[expect(clippy::option_option, reason = "the outer one says whether there is a problem")]
    pub(super) fn end_users(&mut self) -> Option<Option<EndUsers>> {
        let is_remote = self.set(JWT_KEYS).is_some_and(|text| text.contains("://"));
        let keys = self.file(JWT_KEYS, source);
        let secret = self.file(JWT_SECRET, secret);
        let authorities = self.file(JWT_CA, Authorities::read);
        if !is_remote && self.set(JWT_CA).is_some() {
            self.noted::<()>(JWT_CA, Err("needs a JWT_KEYS that starts with https://".to_owned()));
        }
        let has_keys = [JWT_KEYS, JWT_SECRET].into_iter().any(|variable| self.set(variable).is_some());
        let [issuer, audience] = [JWT_ISSUER, JWT_AUDIENCE].map(|variable| self.named(variable, has_keys));
        let (keys, secret, authorities) = (keys?, secret?, authorities?);
        let (issuer, audience) = (issuer?, audience?);
        Some(has_keys.then_some(EndUsers { keys, secret, issuer, audience, authorities }))
    }

    /// A text that is needed exactly if there are keys.
    fn named(&mut self, variable: Variable, has_keys: bool) -> Option<String> {
        let parsed = match (self.set(variable), has_keys) {
            (Some(text), true) => Ok(text),
            (None, false) => Ok(String::new()),
            (None, true) => Err("is needed, because JWT_KEYS or JWT_SECRET is set".to_owned()),
            (Some(_), false) => Err("is set, but neither JWT_KEYS nor JWT_SECRET is".to_owned()),
        };
        self.noted(variable, parsed)
    }

    fn set(&self, variable: Variable) -> Option<String> {
        variable.value(&self.lookup).filter(|text| !text.is_empty())
    }
}

fn source(text: &str) -> Result<KeySource, String> {
    if !text.contains("://") {
        return keys(text).map(KeySource::Set);
    }
    ServerUrl::parse(text, &["https"]).map_err(|problem| format!("{problem}, or the path of a file"))?;
    if text.contains('@') {
        return Err("must be a URL without a login".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("must be a URL of visible ASCII characters".to_owned());
    }
    Ok(KeySource::Url(text.to_owned()))
}

fn secret(text: &str) -> Result<Secret, String> {
    if text.len() < SECRET_BYTES_MIN {
        return Err(format!("must be at least {SECRET_BYTES_MIN} bytes"));
    }
    Ok(text.to_owned().into())
}

#[cfg(test)]
mod tests {
    use super::super::{Config, ConfigError};
    use super::*;

    const SERVERS: [(&str, &str); 3] = [
        ("DATABASE_URL", "postgres://db/coupon"),
        ("REDIS_URL", "redis://cache"),
        ("NATS_URL", "nats://bus"),
    ];
    const SECRET: (&str, &str) = ("JWT_SECRET", "0123456789abcdef0123456789abcdef");
    const NAMES: [(&str, &str); 2] = [("JWT_ISSUER", "https://login.example"), ("JWT_AUDIENCE", "coupons")];

    fn read(variables: &[(&str, &str)]) -> Result<Option<EndUsers>, String> {
        let all = [&SERVERS[..], variables].concat();
        let find =
            |name: &str| all.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Config::read(find).map(|config| config.users).map_err(|error: ConfigError| error.to_string())
    }

    fn problems(variables: &[(&str, &str)]) -> Vec<String> {
        let told = read(variables).expect_err("it is accepted");
        told.lines().skip(1).map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn without_keys_there_are_no_end_users() {
        assert!(read(&[]).unwrap().is_none());
        assert!(read(&[("JWT_KEYS", ""), ("JWT_SECRET", "")]).unwrap().is_none());
    }

    #[test]
    fn a_secret_or_a_url_is_enough() {
        let users = read(&[NAMES[0], NAMES[1], SECRET]).unwrap().unwrap();
        assert_eq!((&*users.issuer, &*users.audience), ("https://login.example", "coupons"));
        assert!(users.keys.is_none() && users.secret.is_some());
        let url = ("JWT_KEYS", "https://login.example/jwks.json");
        let users = read(&[NAMES[0], NAMES[1], url]).unwrap().unwrap();
        assert!(matches!(users.keys, Some(KeySource::Url(read)) if read == url.1));
        assert!(users.secret.is_none());
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let told = problems(&[
            ("JWT_KEYS", "http://login.example"),
            ("JWT_SECRET", "short"),
            ("JWT_CA", "/nowhere"),
        ]);
        let [keys, secret, ca, issuer, audience] = &*told else { panic!("{told:?}") };
        assert_eq!(keys, "JWT_KEYS must be a URL that starts with https://, or the path of a file");
        assert_eq!(secret, "JWT_SECRET must be at least 32 bytes");
        assert!(ca.starts_with("JWT_CA names /nowhere, which cannot be read"), "{ca}");
        assert_eq!(issuer, "JWT_ISSUER is needed, because JWT_KEYS or JWT_SECRET is set");
        assert_eq!(audience, "JWT_AUDIENCE is needed, because JWT_KEYS or JWT_SECRET is set");
    }

    #[test]
    fn names_without_keys_are_a_problem() {
        let why = "is set, but neither JWT_KEYS nor JWT_SECRET is";
        assert_eq!(problems(&NAMES), [format!("JWT_ISSUER {why}"), format!("JWT_AUDIENCE {why}")]);
    }

    #[test]
    fn a_file_is_read_and_its_problem_told() {
        let told = problems(&[NAMES[0], NAMES[1], ("JWT_KEYS", "Cargo.toml"), SECRET]);
        assert_eq!(told, ["JWT_KEYS names Cargo.toml, which holds no section PUBLIC KEY"]);
        let told = problems(&[NAMES[0], NAMES[1], ("JWT_KEYS", "https://user:word@login.example")]);
        assert_eq!(told, ["JWT_KEYS must be a URL without a login"]);
    }

    #[test]
    fn the_secret_is_not_shown() {
        let users = read(&[NAMES[0], NAMES[1], SECRET]).unwrap();
        assert!(!format!("{users:?}").contains(SECRET.1));
    }
}
