//! A rush: many users who claim over HTTP at once, and what became of their claims.
//!
//! It is a load generator, so it keeps its connections itself and does not share [`crate::client`]: which connection a
//! request goes on, and what becomes of it, is what it measures.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use rand::seq::SliceRandom as _;
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use ulid::Ulid;

use crate::ids::CampaignId;

/// Connections of all users together: more requests at a time than the API needs to be busy, and few enough files for a
/// test.
const CONNECTIONS: usize = 256;
/// Limit for an attempt; after it the user tries again on another connection.
const RUSH_TIMEOUT: Duration = Duration::from_secs(10);
/// Attempts of a request until it counts as an error: with their pauses, 90 s, longer than any outage of a test.
const ATTEMPTS_MAX: u32 = 60;

/// How many users claim which campaign, and where.
#[derive(Clone, Debug)]
pub struct Rush {
    /// The API, at several addresses if it runs in several processes.
    pub addresses: Vec<SocketAddr>,
    pub token: String,
    pub campaign: CampaignId,
    pub users: usize,
    /// Claims of each user, at random moments.
    pub asks: usize,
    /// Requests a second; 0 is as fast as they are answered.
    pub rate: u32,
}

/// What became of all requests.
#[derive(Clone, Debug, Default)]
pub struct Results {
    pub campaign: Option<CampaignId>,
    pub offered: usize,
    pub issued: usize,
    pub already_issued: usize,
    pub sold_out: usize,
    /// Attempts that were refused for now or got no answer, and were repeated.
    pub retried: usize,
    pub errors: usize,
    /// Every coupon in a 201 or an `already-issued`, with the number of its user.
    pub promised: HashMap<Ulid, usize>,
    /// Users who were told that the campaign is sold out.
    pub refused: HashSet<usize>,
    pub took: Duration,
    latencies: Vec<Duration>,
}

impl Results {
    /// The latency that `share` of all requests stayed under; 1.0 is the longest.
    #[must_use]
    pub fn latency(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index"
        )]
        let index = (last as f64 * share).round() as usize;
        self.latencies.get(index).copied().unwrap_or_default()
    }

    /// Answered requests a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let answers = self.latencies.len() as f64;
        answers / self.took.as_secs_f64().max(1e-9)
    }

    fn add(&mut self, other: Self) {
        self.issued += other.issued;
        self.already_issued += other.already_issued;
        self.sold_out += other.sold_out;
        self.retried += other.retried;
        self.errors += other.errors;
        self.promised.extend(other.promised);
        self.refused.extend(other.refused);
        self.latencies.extend(other.latencies);
    }
}

/// The fields of an answer that a rush reads.
#[derive(Deserialize)]
struct Answer {
    id: Option<Ulid>,
    #[serde(rename = "type")]
    problem: Option<String>,
    coupon: Option<Promised>,
}

impl Answer {
    /// The slug of a problem: the last part of its type. (Earlier versions of the API had no more than the slug.)
    fn slug(&self) -> Option<&str> {
        self.problem.as_deref()?.rsplit('/').next()
    }
}

#[derive(Deserialize)]
struct Promised {
    id: Ulid,
}

impl Rush {
    /// Runs until every user has an answer to each claim.
    pub async fn run(self) -> Results {
        let mut asks: Vec<usize> = (0..self.users * self.asks).map(|ask| ask % self.users.max(1)).collect();
        asks.shuffle(&mut rand::rng());
        let offered = asks.len();
        let shared = Arc::new((self, asks, AtomicUsize::new(0)));
        let started = Instant::now();
        let mut crowd = JoinSet::new();
        for connection in 0..CONNECTIONS.min(offered) {
            crowd.spawn(one_connection(shared.clone(), connection, started));
        }
        let campaign = Some(shared.0.campaign);
        let mut results = Results { campaign, offered, ..Results::default() };
        for part in crowd.join_all().await {
            results.add(part);
        }
        results.took = started.elapsed();
        results.latencies.sort_unstable();
        results
    }

    fn request(&self, user: usize) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        Request::builder()
            .method(Method::POST)
            .uri(format!("/v1/campaigns/{}/coupons", self.campaign))
            .header(HOST, "localhost")
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(format!(r#"{{"user_id":"user-{user}"}}"#)))
    }
}

/// Sends one request after the other until none is left.
async fn one_connection(
    shared: Arc<(Rush, Vec<usize>, AtomicUsize)>,
    number: usize,
    started: Instant,
) -> Results {
    let (rush, asks, next) = &*shared;
    let mut results = Results::default();
    let mut sender = None;
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let Some(user) = asks.get(index) else { return results };
        if rush.rate > 0 {
            let due = Duration::from_secs_f64(
                f64::from(u32::try_from(index).unwrap_or(u32::MAX)) / f64::from(rush.rate),
            );
            sleep_until((started + due).into()).await;
        }
        let asked = Instant::now();
        let answered = ask(rush, *user, number, &mut sender, &mut results).await;
        results.latencies.push(asked.elapsed());
        if answered.is_none() {
            results.errors += 1;
        }
    }
}

/// One user claims, and retries when told to. Returns nothing when no answer is final.
async fn ask(
    rush: &Rush,
    user: usize,
    number: usize,
    sender: &mut Option<SendRequest<Full<Bytes>>>,
    results: &mut Results,
) -> Option<()> {
    for attempt in 0..ATTEMPTS_MAX {
        let connected = match sender.take() {
            Some(connected) if !connected.is_closed() => Some(connected),
            _ => connect(rush.addresses[number.wrapping_add(attempt as usize) % rush.addresses.len()]).await,
        };
        let answer = match connected {
            Some(mut connected) => {
                let answer = timeout(RUSH_TIMEOUT, exchange(&mut connected, rush, user)).await.ok().flatten();
                if answer.is_some() {
                    *sender = Some(connected);
                }
                answer
            }
            None => None,
        };
        if let Some((status, answer)) = answer {
            match (status, answer.slug()) {
                (StatusCode::CREATED, _) => {
                    results.issued += 1;
                    results.promised.extend(answer.id.map(|coupon| (coupon, user)));
                    return Some(());
                }
                (_, Some("already-issued")) => {
                    results.already_issued += 1;
                    results.promised.extend(answer.coupon.map(|coupon| (coupon.id, user)));
                    return Some(());
                }
                (_, Some("sold-out")) => {
                    results.sold_out += 1;
                    results.refused.insert(user);
                    return Some(());
                }
                (StatusCode::SERVICE_UNAVAILABLE, _) => {}
                _ => return None,
            }
        }
        // Refused for now, or the connection broke: a retry is safe.
        results.retried += 1;
        tokio::time::sleep(Duration::from_millis(u64::from(attempt + 1) * 50)).await;
    }
    None
}

async fn connect(address: SocketAddr) -> Option<SendRequest<Full<Bytes>>> {
    let stream = TcpStream::connect(address).await.ok()?;
    stream.set_nodelay(true).ok()?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    Some(sender)
}

async fn exchange(
    sender: &mut SendRequest<Full<Bytes>>,
    rush: &Rush,
    user: usize,
) -> Option<(StatusCode, Answer)> {
    sender.ready().await.ok()?;
    let response = sender.send_request(rush.request(user).ok()?).await.ok()?;
    let status = response.status();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    Some((status, serde_json::from_slice(&body).ok()?))
}
