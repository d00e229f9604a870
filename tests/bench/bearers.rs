//! Claims with each kind of bearer token. Each target of a run has a token and a user of its own, whatever the kind, so
//! that the client costs the same. No token of an end user was seen before, so each costs a check of its signature.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use coupon_dispatcher::identity::Scope;
use coupon_dispatcher::identity::registry::{self, NewToken};
use sqlx::{Connection as _, PgConnection};

use crate::load::{Claims, Targets, claim_on};
use crate::service::{Service, TOKEN};
use crate::signing::{AUDIENCE, ISSUER, Key, SECRET, by_secret};

/// A token of an end user expires after this time: longer than a run.
const SECONDS: i64 = 3_600;
/// Claims for which there are tokens, as a multiple of those that the service is expected to take.
const SPARE: f64 = 1.6;

/// A kind of bearer token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    AdminToken,
    ApiToken,
    Hs256,
    Es256,
}

/// What signs the tokens.
pub(crate) struct Bearers {
    key: Key,
    api_token: String,
}

impl Bearers {
    pub(crate) fn new() -> Self {
        Self { key: Key::new("bench"), api_token: String::new() }
    }

    /// What a service needs to take the tokens.
    pub(crate) fn environment(&self) -> Result<[(&'static str, String); 4]> {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-keys.json");
        fs::write(&file, self.key.jwks())?;
        Ok([
            ("JWT_KEYS", file.display().to_string()),
            ("JWT_SECRET", SECRET.to_owned()),
            ("JWT_ISSUER", ISSUER.to_owned()),
            ("JWT_AUDIENCE", AUDIENCE.to_owned()),
        ])
    }

    /// Creates the API token.
    pub(crate) async fn begin(&mut self, service: &Service) -> Result<()> {
        let mut database = PgConnection::connect(&service.servers.database_url()).await?;
        let name = "bench".to_owned();
        let new = NewToken { name, scopes: vec![Scope::Issue], merchant: None, expires_in: None };
        let (_, text) = registry::create(&mut database, &new).await?;
        text.reveal().clone_into(&mut self.api_token);
        Ok(())
    }

    /// Claims on the campaign of the service, which takes about `rate` of them a second.
    pub(crate) async fn measure(
        &self,
        service: &Service,
        kind: Kind,
        (run, seconds): (usize, u64),
        rate: f64,
    ) -> Result<Claims> {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "small"
        )]
        let count = (rate * seconds as f64 * SPARE) as usize;
        let claim = claim_on(&service.campaign);
        let targets = Targets::new((0..count).map(|number| {
            let user = format!("{kind:?}-{run}-{number}");
            let token = match kind {
                Kind::AdminToken => TOKEN.to_owned(),
                Kind::ApiToken => self.api_token.clone(),
                Kind::Hs256 => by_secret(&user, SECONDS),
                Kind::Es256 => self.key.token(&user),
            };
            format!("{claim} {user} {token}")
        }))?;
        let claims = service.claims_of(&targets, run, seconds).await?;
        ensure!(claims.issued > 0, "{kind:?}: nothing was issued");
        Ok(claims)
    }
}
