//! Keys behind a URL: rotation, outages, floods, and answers that are no key set.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
use tokio::task::JoinHandle;

use super::server::{Reply, Server};
use super::signing::{Signer, after, claims};
use crate::config::EndUsers;
use crate::identity::jwt::moment::Moment;
use crate::identity::jwt::remote::Pace;
use crate::identity::jwt::{Refused, UserTokens};

/// Fetches as soon as it is asked to, and never by itself.
const EAGER: Pace = Pace {
    every: Duration::from_secs(3_600),
    retry: Duration::from_secs(3_600),
    apart: Duration::ZERO,
    answer: Duration::from_secs(10),
    wait: Duration::from_secs(20),
    keep: Pace::SERVICE.keep,
};

/// What verifies tokens with the keys of a server.
struct Service {
    tokens: Arc<UserTokens>,
    task: JoinHandle<()>,
}

impl Service {
    fn start(users: &EndUsers, pace: Pace) -> Self {
        let tokens = Arc::new(UserTokens::with_pace(users, pace));
        let running = tokens.clone();
        let task = tokio::spawn(async move { match running.run().await {} });
        Self { tokens, task }
    }

    /// Waits for a fetch that begins after this call: one that is on its way may bring what was there before.
    async fn fetched(&self) {
        self.tokens.renewed().await;
        self.tokens.renewed().await;
    }

    fn verify(&self, token: &str) -> Result<String, Refused> {
        self.tokens.verify_at(token, after(0)).map(|user| user.as_str().to_owned())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A key of an issuer, and a token of it.
fn issuer(kid: &str) -> (String, String) {
    let signer = Signer::new_ec(&ECDSA_P256_SHA256_FIXED_SIGNING);
    let token = signer.token(&format!(r#"{{"alg":"ES256","kid":{kid:?}}}"#), &claims(&[]));
    (signer.jwks(kid), token)
}

#[tokio::test]
async fn keys_rotate_and_what_is_remembered_ends_with_its_key() {
    let ((first, old), (second, new)) = (issuer("first"), issuer("second"));
    let server = Server::start(Reply::ok(&first)).await;
    let service = Service::start(&server.users(), EAGER);
    service.fetched().await;
    assert_eq!(service.verify(&old).as_deref(), Ok("alice"));
    assert_eq!(service.verify(&new), Err(Refused::UnknownKey));
    assert!(service.tokens.age().unwrap() < Duration::from_secs(60));
    server.reply(Reply::ok(&second));
    service.fetched().await;
    assert_eq!(service.verify(&new).as_deref(), Ok("alice"));
    assert_eq!(service.verify(&old), Err(Refused::UnknownKey));
}

#[tokio::test]
async fn the_last_good_set_outlives_every_bad_answer() {
    let ((first, old), (second, new)) = (issuer("first"), issuer("second"));
    let server = Server::start(Reply::ok(&first)).await;
    let service = Service::start(&server.users(), Pace { answer: Duration::from_millis(500), ..EAGER });
    while service.tokens.age().is_none() {
        service.fetched().await;
    }
    assert!(service.verify(&old).is_ok());
    for (name, reply) in [
        ("an error", Reply::with("500 Internal Server Error", "x: y", &second)),
        ("no content", Reply::with("204 No Content", "x: y", "")),
        ("a redirect", Reply::with("302 Found", "location: /other", &second)),
        ("2 MiB", Reply::ok(&format!("{second}{}", " ".repeat(2 << 20)))),
        ("no JSON", Reply::ok("<html>")),
        ("no keys", Reply::ok(r#"{"keys":[]}"#)),
        ("torn", Reply::ok(&second[..second.len() / 2])),
        ("no HTTP", Reply::Answer(b"keys".to_vec())),
        ("nothing", Reply::Answer(Vec::new())),
        ("silence", Reply::Silence),
    ] {
        let before = server.requests();
        server.reply(reply);
        service.fetched().await;
        assert!(server.requests() > before, "{name}");
        assert!(service.verify(&old).is_ok(), "{name}");
        assert_eq!(service.verify(&new), Err(Refused::UnknownKey), "{name}");
    }
    // Only a new token needs a key; but no key counts for longer than a day.
    let Moment { unix, instant } = after(0);
    let (soon, day) = (Duration::from_secs(23 * 60 * 60), Duration::from_secs(24 * 60 * 60));
    let later = |passed: Duration| Moment { unix, instant: instant + passed };
    assert!(service.tokens.verify_at(&old, later(soon)).is_ok());
    assert_eq!(service.tokens.verify_at(&old, later(day + Duration::from_secs(1))), Err(Refused::KeysTooOld));
    server.reply(Reply::ok(&second));
    while service.verify(&new).is_err() {
        service.fetched().await;
    }
}

#[tokio::test]
async fn a_flood_of_unknown_keys_causes_one_fetch_in_30_seconds() {
    let (set, _) = issuer("first");
    let server = Server::start(Reply::ok(&set)).await;
    let service = Service::start(&server.users(), Pace { wait: Duration::from_secs(20), ..Pace::SERVICE });
    service.tokens.renewed().await;
    assert!(service.tokens.age().is_some());
    for number in 0..50 {
        let (_, unknown) = issuer(&number.to_string());
        assert_eq!(service.verify(&unknown), Err(Refused::UnknownKey));
        service.tokens.renewed().await;
    }
    join_all((0..200).map(|_| service.tokens.renewed())).await;
    assert_eq!(server.requests(), 1);
}

#[tokio::test]
async fn callers_at_the_same_time_share_a_fetch() {
    let (set, token) = issuer("first");
    let server = Server::start(Reply::ok(&set)).await;
    let service = Service::start(&server.users(), EAGER);
    join_all((0..60).map(|_| service.tokens.renewed())).await;
    // The first, and one for a caller that came before it began.
    assert!((1..=2).contains(&server.requests()), "{}", server.requests());
    assert!(service.verify(&token).is_ok());
}

#[tokio::test]
async fn of_65_callers_one_does_not_wait() {
    let server = Server::start(Reply::Silence).await;
    let long = Duration::from_secs(3_600);
    let service = Service::start(&server.users(), Pace { answer: long, wait: long, ..EAGER });
    let places = join_all((0..64).map(|_| service.tokens.renewed()));
    tokio::select! {
        biased;
        _ = places => panic!("there was no answer to wait for"),
        () = service.tokens.renewed() => {}
    }
}

#[tokio::test]
async fn a_server_that_is_not_trusted_gives_no_keys() {
    let (set, token) = issuer("first");
    let server = Server::start(Reply::ok(&set)).await;
    let service = Service::start(&server.users_without_authority(), EAGER);
    service.fetched().await;
    assert_eq!((service.tokens.age(), server.requests()), (None, 0));
    assert!(service.tokens.lacks_keys());
    assert_eq!(service.verify(&token), Err(Refused::NoKeys));
    let trusting = Service::start(&server.users(), EAGER);
    trusting.fetched().await;
    assert!(trusting.verify(&token).is_ok());
}
