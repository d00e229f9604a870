//! A crowd of users who each claim once and arrive at a fixed rate, however fast they are answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};

use crate::service::TOKEN;

/// A user who waits longer for a free connection leaves.
const PATIENCE: Duration = Duration::from_secs(1);
/// A claim that takes longer counts as failed.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Clone, Debug)]
pub(crate) struct Crowd {
    pub(crate) address: SocketAddr,
    pub(crate) campaign: String,
    /// Prefix of the users' names.
    pub(crate) name: &'static str,
    pub(crate) connections: usize,
    /// Users per second; if none, each connection claims again as soon as it is answered.
    pub(crate) rate: Option<f64>,
    pub(crate) lasts: Duration,
}

/// The outcomes of the users' claims.
#[derive(Debug, Default)]
pub(crate) struct Fates {
    /// Times from the first byte of the claim to the last byte of the answer.
    pub(crate) issued: Vec<Duration>,
    /// The same times, of answers 503 with `Retry-After`.
    pub(crate) refused: Vec<Duration>,
    /// Users who left before a connection was free.
    pub(crate) gone_away: usize,
    /// Claims with another answer, or none.
    pub(crate) failed: usize,
    pub(crate) seconds: f64,
}

impl Fates {
    pub(crate) fn offered(&self) -> usize {
        self.issued.len() + self.refused.len() + self.gone_away + self.failed
    }

    /// Coupons per second.
    pub(crate) fn goodput(&self) -> f64 {
        self.per_second(self.issued.len())
    }

    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    pub(crate) fn per_second(&self, count: usize) -> f64 {
        count as f64 / self.seconds
    }
}

enum Fate {
    Issued,
    Refused,
}

impl Crowd {
    pub(crate) async fn run(self) -> Fates {
        let started = Instant::now();
        let shared = Arc::new((self, AtomicUsize::new(0), started));
        let mut connections = JoinSet::new();
        for _ in 0..shared.0.connections {
            connections.spawn(one_connection(shared.clone()));
        }
        let mut all = Fates::default();
        for part in connections.join_all().await {
            all.issued.extend(part.issued);
            all.refused.extend(part.refused);
            all.gone_away += part.gone_away;
            all.failed += part.failed;
        }
        all.seconds = started.elapsed().as_secs_f64();
        all.issued.sort_unstable();
        all.refused.sort_unstable();
        all
    }
}

/// Claims for one user after the other until the time is over.
async fn one_connection(shared: Arc<(Crowd, AtomicUsize, Instant)>) -> Fates {
    let (crowd, next, started) = &*shared;
    let (mut fates, mut connected) = (Fates::default(), None);
    loop {
        let user = next.fetch_add(1, Ordering::Relaxed);
        let number = u32::try_from(user).unwrap_or(u32::MAX);
        let due = crowd
            .rate
            .map_or_else(Instant::now, |rate| *started + Duration::from_secs_f64(1.0 / rate) * number);
        if due.duration_since(*started) >= crowd.lasts {
            return fates;
        }
        if due.elapsed() > PATIENCE {
            fates.gone_away += 1;
            continue;
        }
        sleep_until(due.into()).await;
        let asked = Instant::now();
        match timeout(ANSWER_TIMEOUT, claim(crowd, user, &mut connected)).await {
            Ok(Ok(Fate::Issued)) => fates.issued.push(asked.elapsed()),
            Ok(Ok(Fate::Refused)) => fates.refused.push(asked.elapsed()),
            Ok(Err(_)) | Err(_) => {
                connected = None;
                fates.failed += 1;
            }
        }
    }
}

/// Cheap, without an HTTP library: the crowd and the service share the machine.
async fn claim(crowd: &Crowd, user: usize, connected: &mut Option<TcpStream>) -> Result<Fate> {
    let stream = match connected {
        Some(stream) => stream,
        None => connected.insert(TcpStream::connect(crowd.address).await?),
    };
    let Crowd { campaign, name, .. } = crowd;
    let body = format!(r#"{{"user_id":"{name}-{user}"}}"#);
    let claim = format!(
        "POST /v1/campaigns/{campaign}/coupons HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(claim.as_bytes()).await?;
    let (mut answer, mut length) = ([0; 2_048], 0);
    let header = loop {
        let read = stream.read(&mut answer[length..]).await?;
        if read == 0 {
            bail!("the connection was closed");
        }
        length += read;
        let text = std::str::from_utf8(&answer[..length])?;
        if let Some((header, body)) = text.split_once("\r\n\r\n")
            && body.len() >= value(header, "content-length").context("the answer has no length")?.parse()?
        {
            break header;
        }
    };
    match header.split(' ').nth(1) {
        Some("201") => Ok(Fate::Issued),
        Some("503") if value(header, "retry-after") == Some("1") => Ok(Fate::Refused),
        _ => bail!("{header}"),
    }
}

/// The value of a header; `name` is in lower case, as hyper writes it.
fn value<'a>(header: &'a str, name: &str) -> Option<&'a str> {
    header.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}
