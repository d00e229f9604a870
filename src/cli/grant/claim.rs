//! One line of a grant becomes one claim, which is repeated until it has an answer.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use ring::digest::{Context, SHA256};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep};

use super::input::Entry;
use crate::client::{ApiError, ApiFailure, Client, Reply};
use crate::ids::{CampaignId, CouponId, UserId};

/// Pauses before further attempts: the first, and the longest. Each is twice the one before. `Retry-After` can make one longer.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Characters of the name of an outcome, at most.
const SLUG_LENGTH_MAX: usize = 64;

/// The outcomes that this command names itself. The others are slugs of problems.
pub(super) const ISSUED: &str = "issued";
pub(super) const INVALID: &str = "invalid";
pub(super) const UNANSWERED: &str = "unanswered";

/// What became of a line.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) slug: Cow<'static, str>,
    /// The coupon that the answer shows; empty if it shows none.
    pub(super) coupon: String,
    /// For people; may be empty.
    pub(super) reason: String,
}

/// The part of the idempotency keys that the lines of a grant have in common.
#[derive(Clone, Debug)]
pub(super) struct Run(String);

impl Run {
    /// The run with this name or, without a name, that of a results file. Another campaign makes another run.
    pub(super) fn of(campaign: CampaignId, name: Option<&str>, results: &Path) -> Self {
        let (kind, text) = match name {
            Some(name) => ("run", name.as_bytes()),
            None => ("results", results.as_os_str().as_encoded_bytes()),
        };
        let mut hash = Context::new(&SHA256);
        for part in [campaign.to_string().as_bytes(), kind.as_bytes(), text] {
            hash.update(&(part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&hash.finish().as_ref()[..8]);
        Self(format!("{:016x}", u64::from_be_bytes(bytes)))
    }

    /// The idempotency key of a line.
    pub(super) fn key(&self, line: u64) -> String {
        format!("grant-{}-{line}", self.0)
    }
}

/// Claims coupons of one campaign.
pub(super) struct Claimer<'a> {
    client: &'a Client,
    path: String,
    run: Run,
    /// How long a claim is repeated.
    patience: Duration,
    /// Claims at a time.
    places: Semaphore,
    /// The last claim that was issued a coupon, with its key. A repetition has no effect.
    issued: RefCell<Option<(UserId, String)>>,
    has_warned: Cell<bool>,
}

impl<'a> Claimer<'a> {
    pub(super) fn new(
        client: &'a Client,
        campaign: CampaignId,
        run: Run,
        patience: Duration,
        concurrency: usize,
    ) -> Self {
        Self {
            client,
            path: format!("/v1/campaigns/{campaign}/coupons"),
            run,
            patience,
            places: Semaphore::new(concurrency),
            issued: RefCell::new(None),
            has_warned: Cell::new(false),
        }
    }

    /// Claims a coupon for the user of a line.
    ///
    /// # Errors
    /// When no claim can have an outcome: the API refuses the token, does not know the campaign, or has answered no claim
    /// for as long as the patience lasts.
    pub(super) async fn outcome(&self, entry: &Entry) -> anyhow::Result<Outcome> {
        match &entry.user {
            Ok(user) => self.claim(user, &self.run.key(entry.line)).await,
            Err(reason) => Ok(outcome(INVALID, format!("the line {reason}"))),
        }
    }

    async fn claim(&self, user: &UserId, key: &str) -> anyhow::Result<Outcome> {
        let _place = self.places.acquire().await?;
        let (begun, mut pause) = (Instant::now(), PAUSE_FIRST);
        loop {
            let (failed, retry_after) = match self.ask(user, key).await? {
                Asked::Answered(outcome) => return Ok(outcome),
                Asked::Failed(failed, retry_after) => (failed, retry_after),
            };
            let elapsed = begun.elapsed();
            if elapsed >= self.patience {
                return self.last_attempt(user, key, failed).await;
            }
            if !self.has_warned.replace(true) {
                tracing::warn!("a claim is repeated, for up to {} s: {failed:#}", self.patience.as_secs());
            }
            // The last attempt comes at the end of the patience, whatever the API asks for.
            sleep(pause.max(retry_after).min(self.patience.saturating_sub(elapsed))).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    /// Decides about a claim that was repeated in vain. If the API answers another claim, it is there, and this claim alone
    /// has no answer.
    ///
    /// # Errors
    /// With what the claim failed of, if the API answers no other claim either.
    async fn last_attempt(&self, user: &UserId, key: &str, failed: anyhow::Error) -> anyhow::Result<Outcome> {
        let other = self.issued.borrow().clone();
        let Some((other_user, other_key)) = other else { return Err(failed) };
        if let Asked::Failed(..) = self.ask(&other_user, &other_key).await? {
            return Err(failed);
        }
        Ok(match self.ask(user, key).await? {
            Asked::Answered(outcome) => outcome,
            Asked::Failed(failed, _) => outcome(UNANSWERED, format!("{failed:#}")),
        })
    }

    /// One attempt.
    ///
    /// # Errors
    /// When a further attempt, or that of another line, would end in the same way.
    async fn ask(&self, user: &UserId, key: &str) -> anyhow::Result<Asked> {
        let (failed, retry_after) =
            match self.client.post_once(&self.path, &json!({ "user_id": user }), key).await {
                Err(failed) => (failed, None),
                Ok(reply) => {
                    if let Some(outcome) = outcome_of(&reply) {
                        if outcome.slug == ISSUED {
                            self.issued.replace(Some((user.clone(), key.to_owned())));
                        }
                        return Ok(Asked::Answered(outcome));
                    }
                    if reply.status < 400 {
                        return Err(anyhow!("the answer is no coupon: is this the URL of the API?"));
                    }
                    (self.client.refusal(&reply).into(), reply.retry_after)
                }
            };
        let is_passing = failed.downcast_ref().map(ApiError::failure) == Some(ApiFailure::Unavailable);
        if is_passing || retry_after.is_some() {
            return Ok(Asked::Failed(failed, retry_after.unwrap_or_default()));
        }
        Err(failed)
    }
}

/// What became of one attempt.
enum Asked {
    Answered(Outcome),
    /// It may be repeated after this pause.
    Failed(anyhow::Error, Duration),
}

fn outcome(slug: impl Into<Cow<'static, str>>, reason: String) -> Outcome {
    Outcome { slug: slug.into(), coupon: String::new(), reason }
}

/// The outcome in an answer: a coupon, or a refusal that is about this user and this campaign.
fn outcome_of(reply: &Reply) -> Option<Outcome> {
    if reply.status == 201 {
        let reason =
            if reply.is_replayed { "an earlier request with the same key got this coupon" } else { "" };
        let coupon = coupon_of(&reply.body)?;
        return Some(Outcome { coupon, ..outcome(ISSUED, reason.to_owned()) });
    }
    let slug = reply.body["type"].as_str()?.rsplit('/').next()?;
    let is_slug = (1..=SLUG_LENGTH_MAX).contains(&slug.len())
        && slug.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let is_of_the_claim = match reply.status {
        403 => slug == "not-open",
        401 | 404 | 408 | 429 => false,
        400..500 => reply.retry_after.is_none(),
        _ => false,
    };
    (is_slug && is_of_the_claim).then(|| Outcome {
        coupon: coupon_of(&reply.body["coupon"]).unwrap_or_default(),
        ..outcome(slug.to_owned(), reason_of(&reply.body))
    })
}

fn coupon_of(coupon: &Value) -> Option<String> {
    let id = coupon["id"].as_str()?.parse::<CouponId>().ok()?;
    Some(id.to_string())
}

/// What a problem says besides its slug: its detail and its fields, or else its title.
fn reason_of(problem: &Value) -> String {
    let fields = problem["errors"].as_array().into_iter().flatten().map(|error| {
        let [field, reason] = ["field", "reason"].map(|name| error[name].as_str().unwrap_or_default());
        format!("{field} {reason}")
    });
    let detail = problem["detail"].as_str().map(str::to_owned);
    let said: Vec<String> = detail.into_iter().chain(fields).collect();
    if said.is_empty() { problem["title"].as_str().unwrap_or_default().to_owned() } else { said.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(status: u16, body: Value, retry_after: Option<u64>) -> Option<(String, String)> {
        let retry_after = retry_after.map(Duration::from_secs);
        let outcome = outcome_of(&Reply { status, body, retry_after, is_replayed: false })?;
        Some((outcome.slug.into_owned(), outcome.coupon))
    }

    #[test]
    fn an_answer_about_the_claim_is_an_outcome_and_any_other_is_none() {
        let id = "01M7WFKGE14NWN561KVXBYTJTY";
        let of = |slug: &str| json!({ "type": format!("/problems/{slug}"), "coupon": { "id": id } });
        let known = |slug: &str, coupon: &str| Some((slug.to_owned(), coupon.to_owned()));
        assert_eq!(judged(201, json!({ "id": id }), None), known("issued", id));
        assert_eq!(judged(409, of("already-issued"), None), known("already-issued", id));
        assert_eq!(judged(403, of("not-open"), None), known("not-open", id));
        assert_eq!(judged(410, json!({ "type": "/problems/closed" }), None), known("closed", ""));
        assert_eq!(judged(422, json!({ "type": "/problems/invalid" }), None), known("invalid", ""));
        for (status, body, retry_after) in [
            (200, json!({ "id": id }), None),
            (201, json!({ "id": "x" }), None),
            (201, json!("<html>"), None),
            (401, of("unauthorized"), None),
            (403, of("forbidden"), None),
            (404, of("not-found"), None),
            (408, of("too-slow"), None),
            (409, of("idempotency-key-in-use"), Some(1)),
            (429, of("too-many-requests"), Some(1)),
            (410, of("Sold Out"), None),
            (410, json!("<html>"), None),
            (503, of("overloaded"), Some(1)),
        ] {
            assert_eq!(judged(status, body.clone(), retry_after), None, "{status} {body}");
        }
    }

    #[test]
    fn a_key_belongs_to_a_campaign_a_run_and_a_line() {
        let campaign = |n| CampaignId(ulid::Ulid::from_parts(1, n));
        let of = |n, name, path: &str| Run::of(campaign(n), name, Path::new(path)).key(7);
        let keys = [
            of(1, None, "a"),
            of(2, None, "a"),
            of(1, None, "b"),
            of(1, Some("a"), "a"),
            of(1, Some("b"), "a"),
        ];
        for (n, key) in keys.iter().enumerate() {
            assert!(!keys[..n].contains(key), "{key}");
        }
        assert_eq!(of(1, Some("a"), "x"), keys[3]);
        assert!(keys[0].starts_with("grant-") && keys[0].ends_with("-7"), "{}", keys[0]);
    }
}
