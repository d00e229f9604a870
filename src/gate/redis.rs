//! The gate in Redis: its connection, its keys, and its scripts, one method each.

use std::sync::LazyLock;
use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo as _, RedisError, Script};
use ulid::Ulid;

use crate::campaign::Campaign;
use crate::ids::{CampaignId, UserId};

use super::keys::Keys;
use super::record::{FIELDS, Record, expires_at, values};
use super::seat::{Admission, Seat};

static ADMIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../../lua/admit.lua")));
static CONFIRM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../../lua/confirm.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../../lua/release.lua")));
static OVERDUE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../../lua/overdue.lua")));
static LOAD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../../lua/load.lua")));

const CONNECTION_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a loader may take between two steps. Then another one may begin.
const LOADER_LEASE: Duration = Duration::from_secs(5);
/// A key that never exists: writing it with `XX` tests whether Redis takes writes, and writes nothing.
const PROBE: &str = "gate1:probe";

/// How errors begin that Redis answers to every client and for every key.
const OF_ALL: [&str; 10] = [
    "OOM",
    "MISCONF",
    "BUSY",
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "NOREPLICAS",
    "CLUSTERDOWN",
    "NOAUTH",
    "NOPERM",
];

/// The state of a load after one of its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadStep {
    Done,
    /// Another loader is at work, or has taken over.
    Superseded,
}

/// How many seats are taken, and which of those are pending, with their deadlines in ms since 1970.
type Pending = (i64, Vec<(Seat, i64)>);

/// A client of the Redis at `url`, with Nagle's algorithm off: the crate leaves it on.
///
/// # Errors
/// When the URL is not one of Redis.
pub fn client(url: &str) -> Result<Client, RedisError> {
    let info = url.into_connection_info()?;
    Client::open(info.set_tcp_settings(TcpSettings::default().set_nodelay(true)))
}

/// Whether an error says that Redis cannot be reached or does not answer, whatever it was asked. Any other may be of
/// one campaign alone, such as a key of another type, if [`Seats::probe`] succeeds.
pub(super) fn is_of_all(error: &RedisError) -> bool {
    let lost = error.is_io_error() || error.is_timeout() || error.is_connection_dropped();
    lost || error.code().is_some_and(|code| OF_ALL.contains(&code))
}

/// A connection to the gates of all campaigns. Clones share it.
#[derive(Clone, Debug)]
pub struct Seats(MultiplexedConnection);

impl Seats {
    /// Connects, and makes sure that Redis answers.
    pub async fn connect(client: &Client, response_timeout: Duration) -> Result<Self, RedisError> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECTION_TIMEOUT.max(response_timeout)))
            .set_response_timeout(Some(response_timeout));
        let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        redis::cmd("PING").exec_async(&mut connection).await?;
        Ok(Self(connection))
    }

    /// Makes sure that seats can be taken: a Redis that has become a replica, has no memory left, cannot
    /// write its file or runs a long script says so here. Writes nothing.
    pub async fn probe(&mut self) -> Result<(), RedisError> {
        redis::cmd("SET").arg(PROBE).arg("").arg("XX").exec_async(&mut self.0).await
    }

    /// Asks for a seat for each of `users`, in this order. Returns an answer for each.
    pub async fn admit<'a>(
        &mut self,
        campaign: CampaignId,
        users: impl ExactSizeIterator<Item = &'a UserId> + Clone,
    ) -> Result<Vec<Admission>, RedisError> {
        let keys = Keys::of(campaign);
        let mut call = ADMIT.prepare_invoke();
        call.key(keys.gate).key(keys.holders).key(keys.pending);
        for user in users.clone() {
            call.arg(user.as_str());
        }
        let words: Vec<String> = call.invoke_async(&mut self.0).await?;
        let answers: Option<Vec<_>> =
            users.clone().zip(&words).map(|(user, word)| Admission::parse(word, user)).collect();
        answers.filter(|_| words.len() == users.len()).ok_or_else(|| {
            (redis::ErrorKind::UnexpectedReturnType, "admit.lua answered something else").into()
        })
    }

    /// Confirms seats: their coupons are committed.
    pub async fn confirm(&mut self, campaign: CampaignId, seats: &[Seat]) -> Result<(), RedisError> {
        let keys = Keys::of(campaign);
        let mut call = CONFIRM.prepare_invoke();
        call.key(keys.gate).key(keys.holders).key(keys.pending).key(keys.loading).key(keys.loader);
        for seat in seats {
            call.arg(&*seat.name());
        }
        call.invoke_async::<Vec<String>>(&mut self.0).await.map(drop)
    }

    /// Puts pending seats back on sale. Returns how many of `seats` were pending.
    pub async fn release(&mut self, campaign: CampaignId, seats: &[Seat]) -> Result<usize, RedisError> {
        let keys = Keys::of(campaign);
        let mut call = RELEASE.prepare_invoke();
        call.key(keys.holders).key(keys.pending);
        for seat in seats {
            call.arg(&*seat.name());
        }
        let words: Vec<String> = call.invoke_async(&mut self.0).await?;
        Ok(words.iter().filter(|word| *word == "released").count())
    }

    /// First step of a load; from here on confirmations are noted for the gate that is to come.
    pub async fn begin_load(&mut self, campaign: CampaignId, token: Ulid) -> Result<LoadStep, RedisError> {
        self.load(campaign, "begin", &[token.to_string(), millis(LOADER_LEASE)]).await
    }

    /// Adds seats of committed coupons.
    pub async fn add_to_load(
        &mut self,
        campaign: CampaignId,
        token: Ulid,
        seats: &[Seat],
    ) -> Result<LoadStep, RedisError> {
        let mut arguments = vec![token.to_string(), millis(LOADER_LEASE)];
        arguments.extend(seats.iter().map(|seat| seat.name().into_owned()));
        self.load(campaign, "add", &arguments).await
    }

    /// Last step: puts the new gate in the place of the old one.
    pub async fn finish_load(&mut self, campaign: &Campaign, token: Ulid) -> Result<LoadStep, RedisError> {
        let mut arguments = vec![token.to_string(), expires_at(campaign)];
        arguments.extend(fields(campaign));
        self.load(campaign.id, "finish", &arguments).await
    }

    /// Brings a gate that is loaded up to date with its campaign: all fields, and when its keys expire. Does
    /// nothing when the gate is not loaded, or has a newer version.
    pub async fn set(&mut self, campaign: &Campaign) -> Result<(), RedisError> {
        let mut arguments = vec![campaign.version.to_string(), expires_at(campaign)];
        arguments.extend(fields(campaign));
        self.load(campaign.id, "set", &arguments).await.map(drop)
    }

    /// The same, older or newer, for a gate that has not changed since this was read.
    pub(super) async fn put(&mut self, campaign: &Campaign, read: &Record) -> Result<(), RedisError> {
        let mut arguments = vec![read.version().unwrap_or_default().to_owned(), expires_at(campaign)];
        arguments.extend(fields(campaign));
        self.load(campaign.id, "put", &arguments).await.map(drop)
    }

    async fn load(
        &mut self,
        campaign: CampaignId,
        step: &str,
        arguments: &[String],
    ) -> Result<LoadStep, RedisError> {
        let keys = Keys::of(campaign);
        let mut call = LOAD.prepare_invoke();
        call.key(keys.gate).key(keys.holders).key(keys.pending).key(keys.loading).key(keys.loader).arg(step);
        for argument in arguments {
            call.arg(argument);
        }
        let word: String = call.invoke_async(&mut self.0).await?;
        Ok(if word == "busy" || word == "superseded" { LoadStep::Superseded } else { LoadStep::Done })
    }

    /// Pending seats whose deadline is past by Redis' clock, the oldest first, and those whose deadline is so far
    /// away that the clock was set back since; at most `limit` of each.
    pub async fn overdue(&mut self, campaign: CampaignId, limit: usize) -> Result<Vec<Seat>, RedisError> {
        let keys = Keys::of(campaign);
        let mut call = OVERDUE.prepare_invoke();
        call.key(keys.gate).key(keys.pending).arg(limit);
        let names: Vec<String> = call.invoke_async(&mut self.0).await?;
        Ok(names.iter().map(|name| Seat::parse(name)).collect())
    }

    /// The version of its campaign that a gate has; nothing when it is not loaded.
    pub async fn version(&mut self, campaign: CampaignId) -> Result<Option<i32>, RedisError> {
        redis::cmd("HGET").arg(Keys::of(campaign).gate).arg("version").query_async(&mut self.0).await
    }

    /// How many seats are taken, and how many of those are pending. Nothing when the gate is not loaded.
    pub async fn count(&mut self, campaign: CampaignId) -> Result<Option<(i64, i64)>, RedisError> {
        Ok(self.record(campaign).await?.map(|record| (record.taken, record.pending)))
    }

    /// What a gate holds. Nothing when it is not loaded.
    pub(crate) async fn record(&mut self, campaign: CampaignId) -> Result<Option<Record>, RedisError> {
        let keys = Keys::of(campaign);
        let mut pipe = redis::pipe();
        pipe.cmd("HMGET").arg(&keys.gate).arg(&FIELDS);
        pipe.scard(&keys.holders).zcard(keys.pending).pttl(keys.gate).pttl(keys.holders);
        let (found, taken, pending, gate, holders): (Vec<Option<String>>, _, _, _, _) =
            pipe.query_async(&mut self.0).await?;
        let is_loaded = found.iter().any(Option::is_some);
        Ok(is_loaded.then_some(Record { found, taken, pending, ttls: [gate, holders] }))
    }

    /// The same for each of `campaigns`, all at once.
    pub(crate) async fn records(&self, campaigns: &[CampaignId]) -> Vec<Result<Option<Record>, RedisError>> {
        join_all(campaigns.iter().map(|campaign| {
            let mut seats = self.clone();
            async move { seats.record(*campaign).await }
        }))
        .await
    }

    /// Those of these seats that are taken and not pending.
    pub(super) async fn confirmed(
        &mut self,
        campaign: CampaignId,
        seats: &[Seat],
    ) -> Result<Vec<Seat>, RedisError> {
        let keys = Keys::of(campaign);
        let names: Vec<_> = seats.iter().map(|seat| seat.name().into_owned()).collect();
        let mut pipe = redis::pipe();
        pipe.cmd("SMISMEMBER").arg(keys.holders).arg(&names);
        pipe.cmd("ZMSCORE").arg(keys.pending).arg(&names);
        let (taken, due): (Vec<bool>, Vec<Option<f64>>) = pipe.query_async(&mut self.0).await?;
        let told = taken.into_iter().zip(due).zip(seats);
        Ok(told.filter(|((taken, due), _)| *taken && due.is_none()).map(|(_, seat)| seat.clone()).collect())
    }

    /// The seats at one moment. Nothing when the gate is not loaded.
    pub async fn pending(&mut self, campaign: CampaignId) -> Result<Option<Pending>, RedisError> {
        let keys = Keys::of(campaign);
        let (loaded, taken, pending): (bool, i64, Vec<(String, i64)>) = redis::pipe()
            .atomic()
            .exists(keys.gate)
            .scard(keys.holders)
            .zrange_withscores(keys.pending, 0, -1)
            .query_async(&mut self.0)
            .await?;
        let pending = pending.iter().map(|(name, deadline)| (Seat::parse(name), *deadline));
        Ok(loaded.then(|| (taken, pending.collect())))
    }

    /// Some of the seats taken, and the cursor to go on with. A scan begins with cursor 0 and ends when it
    /// returns 0.
    pub async fn scan(
        &mut self,
        campaign: CampaignId,
        cursor: u64,
        count: i64,
    ) -> Result<(u64, Vec<Seat>), RedisError> {
        let mut command = redis::cmd("SSCAN");
        command.arg(Keys::of(campaign).holders).arg(cursor).arg("COUNT").arg(count);
        let (next, names): (u64, Vec<String>) = command.query_async(&mut self.0).await?;
        Ok((next, names.iter().map(|name| Seat::parse(name)).collect()))
    }

    /// Whether each of these seats is taken.
    pub async fn are_taken(&mut self, campaign: CampaignId, seats: &[Seat]) -> Result<Vec<bool>, RedisError> {
        let mut command = redis::cmd("SMISMEMBER");
        command.arg(Keys::of(campaign).holders);
        for seat in seats {
            command.arg(&*seat.name());
        }
        command.query_async(&mut self.0).await
    }
}

/// The fields of a gate, as field and value in turn.
fn fields(campaign: &Campaign) -> impl Iterator<Item = String> {
    let fields = FIELDS.into_iter().zip(values(campaign)).filter(|(field, _)| *field != "expires_at");
    fields.flat_map(|(field, value)| [field.to_owned(), value])
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}
