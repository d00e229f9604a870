//! The gate in Redis: its connection, its keys, and its scripts, one method each. `together` has the scripts that serve
//! many campaigns at once.

use std::sync::LazyLock;
use std::time::Duration;

use futures_util::future::join_all;
use outbox_relay::zoo;
use redis::{RedisError, Script};
use ulid::Ulid;

use crate::campaign::Campaign;
use crate::ids::CampaignId;

use super::client::Client;
use super::connection::{Connection, is_of_server};
use super::keys::{Keys, PROBE};
use super::record::{FIELDS, Record, expires_at, values};
use super::seat::Seat;
use super::slots::Node;

static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../../lua/release.lua")));
static OVERDUE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../../lua/overdue.lua")));
static LOAD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../../lua/load.lua")));

/// How long a loader may take between two steps. Then another one may begin.
const LOADER_LEASE: Duration = Duration::from_secs(5);

/// The state of a load after one of its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadStep {
    Done,
    /// Another loader is at work, or has taken over.
    Superseded,
}

/// How many seats are taken, and which of those are pending, with their deadlines in ms since 1970.
type Pending = (i64, Vec<(Seat, i64)>);

/// A connection to the gates of all campaigns. Clones share it.
#[derive(Clone, Debug)]
pub struct Seats(pub(super) Connection);

impl Seats {
    /// Connects, and makes sure that Redis answers.
    pub async fn connect(client: &Client, response_timeout: Duration) -> Result<Self, RedisError> {
        client.connect(response_timeout).await.map(Self)
    }

    /// Makes sure that seats can be taken: a Redis that has become a replica, has no memory left, cannot
    /// write its file or runs a long script says so here. Of a Cluster, one node must give seats. Writes nothing.
    pub async fn probe(&mut self) -> Result<(), RedisError> {
        match &mut self.0 {
            Connection::One(redis) => redis::cmd("SET").arg(PROBE).arg("").arg("XX").exec_async(redis).await,
            Connection::Cluster(cluster) => cluster.probe().await,
        }
    }

    /// The nodes of a Cluster, each with why it gives no seats, if it does not; nothing if there is no Cluster.
    pub(super) async fn nodes(&self) -> Option<Vec<(Node, Result<(), RedisError>)>> {
        match &self.0 {
            Connection::One(_) => None,
            Connection::Cluster(cluster) => Some(cluster.probe_each().await),
        }
    }

    /// Slots of a Cluster that no node serves.
    pub(super) fn unserved(&self) -> usize {
        match &self.0 {
            Connection::One(_) => 0,
            Connection::Cluster(cluster) => cluster.slots().unserved(),
        }
    }

    /// Whether an error says that no gate can be reached, or that none answers. In a Cluster no error of one node does.
    pub(super) fn is_of_all(&self, error: &RedisError) -> bool {
        matches!(self.0, Connection::One(_)) && is_of_server(error)
    }

    /// Puts pending seats back on sale. Returns how many of `seats` were pending.
    pub async fn release(&mut self, campaign: CampaignId, seats: &[Seat]) -> Result<usize, RedisError> {
        let keys = Keys::of(campaign);
        let mut call = RELEASE.prepare_invoke();
        call.key(keys.holders).key(keys.pending);
        for seat in seats {
            call.arg(&*seat.name());
        }
        let words: Vec<String> = call.invoke_async(self.0.at(campaign)).await?;
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
        let word: String = call.invoke_async(self.0.at(campaign)).await?;
        Ok(if word == "busy" || word == "superseded" { LoadStep::Superseded } else { LoadStep::Done })
    }

    /// Pending seats whose deadline is past by Redis' clock, the oldest first, and those whose deadline is so far
    /// away that the clock was set back since; at most `limit` of each.
    pub async fn overdue(&mut self, campaign: CampaignId, limit: usize) -> Result<Vec<Seat>, RedisError> {
        let keys = Keys::of(campaign);
        let mut call = OVERDUE.prepare_invoke();
        call.key(keys.gate).key(keys.pending).arg(limit);
        let names: Vec<String> = call.invoke_async(self.0.at(campaign)).await?;
        Ok(names.iter().map(|name| Seat::parse(name)).collect())
    }

    /// The version of its campaign that a gate has; nothing when it is not loaded.
    pub async fn version(&mut self, campaign: CampaignId) -> Result<Option<i32>, RedisError> {
        redis::cmd("HGET").arg(Keys::of(campaign).gate).arg("version").query_async(self.0.at(campaign)).await
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
            pipe.query_async(self.0.at(campaign)).await?;
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
        let (taken, due): (Vec<bool>, Vec<Option<f64>>) = pipe.query_async(self.0.at(campaign)).await?;
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
            .query_async(self.0.at(campaign))
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
        let (next, names): (u64, Vec<String>) = command.query_async(self.0.at(campaign)).await?;
        Ok((next, names.iter().map(|name| Seat::parse(name)).collect()))
    }

    /// Whether each of these seats is taken.
    pub async fn are_taken(&mut self, campaign: CampaignId, seats: &[Seat]) -> Result<Vec<bool>, RedisError> {
        let mut command = redis::cmd("SMISMEMBER");
        command.arg(Keys::of(campaign).holders);
        for seat in seats {
            command.arg(&*seat.name());
        }
        command.query_async(self.0.at(campaign)).await
    }
}

/// The fields of a gate, as field and value in turn.
fn fields(campaign: &Campaign) -> impl Iterator<Item = String> {
    let fields = FIELDS.into_iter().zip(values(campaign)).filter(|(field, _)| *field != "expires_at");
    let is_lost = zoo::has("edits-are-lost-at-the-gate") && campaign.version > 2;
    let fields = fields.filter(move |(field, _)| !is_lost || ["version", "state"].contains(field));
    fields.flat_map(|(field, value)| [field.to_owned(), value])
}

fn millis(duration: Duration) -> String {
    duration.as_millis().to_string()
}
