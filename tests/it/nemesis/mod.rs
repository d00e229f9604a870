//! Everything breaks, at random and at once, while users rush; then all is left alone, and everything has to be
//! as if nothing had happened. A seed tells all that is done: `make nemesis SEED=7 SECONDS=30`.

mod deed;
mod uses;

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use coupon_dispatcher::rush::Rush;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep_until};
use ulid::Ulid;
use uuid::Uuid;

use self::deed::{Deed, Lock, Planned, plan};
use self::uses::Uses;
use crate::hostile;
use crate::support::{Clock, Hop, Line, Process, Proxy, SOON, World, owns, wait_until};

/// All roles twice, and the API alone.
const ROLES: [&str; 3] = ["", "", "api"];
const HOPS: [Hop; 3] = [Hop::Postgres, Hop::Redis, Hop::Nats];
/// Claims a second.
const RATE: u32 = 150;
const SECONDS: u64 = 10;
/// The login of the processes, whose defaults may become hostile. The nemesis has another.
const LOGIN: &str = "hostile";

struct Nemesis {
    world: World,
    /// Of each process, one for each hop.
    wires: Vec<[Proxy; 3]>,
    clock_of_redis: Clock,
    /// What Redis, NATS and Postgres had when their rewinding began.
    copies: [Option<PathBuf>; 3],
    /// Coupons of the database when the last copy of it was made.
    kept: HashSet<Ulid>,
    /// When that copy was put back.
    restored: Option<Ulid>,
    /// The session that holds a lock.
    lock: Option<PgConnection>,
}

impl Nemesis {
    async fn start() -> Self {
        let mut world = World::bare(1).await;
        let clock_of_redis = world.clock_of_redis().await;
        world.migrate().await;
        let login = format!("CREATE ROLE {LOGIN} LOGIN SUPERUSER");
        sqlx::raw_sql(&login).execute(&world.pool).await.unwrap();
        let mut wires = Vec::new();
        for roles in ROLES {
            let own = [
                world.proxy(Hop::Postgres).await,
                world.proxy(Hop::Redis).await,
                world.proxy(Hop::Nats).await,
            ];
            world.add_process_as(LOGIN, roles, &own.each_ref()).await;
            wires.push(own);
        }
        let (copies, kept) = ([const { None }; 3], HashSet::new());
        Self { world, wires, clock_of_redis, copies, kept, restored: None, lock: None }
    }

    fn wire(&self, process: usize, hop: Hop) -> &Proxy {
        &self.wires[process][HOPS.iter().position(|other| *other == hop).unwrap()]
    }

    fn server(&mut self, hop: Hop) -> &mut coupon_dispatcher::servers::Server {
        let servers = &mut self.world.servers;
        match hop {
            Hop::Postgres => &mut servers.postgres,
            Hop::Redis => &mut servers.redis,
            Hop::Nats => &mut servers.nats,
        }
    }

    async fn begin(&mut self, deed: Deed) {
        match deed {
            Deed::KillProcess(process) => self.world.processes[process].kill(),
            Deed::FreezeProcess(process) => self.world.processes[process].freeze(),
            Deed::TerminateProcess(process) => self.world.processes[process].terminate(),
            Deed::KillServer(hop) => self.server(hop).kill().await,
            Deed::FreezeServer(hop) => self.server(hop).freeze(),
            Deed::EmptyRedis => {
                self.world.servers.redis.kill().await;
                let store = self.world.servers.redis.dir().join("appendonlydir");
                std::fs::remove_dir_all(store).unwrap();
            }
            Deed::RewindRedis => self.copies[0] = Some(self.world.copy_of_redis()),
            Deed::RewindNats => self.copies[1] = Some(self.world.copy_of_nats()),
            Deed::RewindPostgres => {
                let all: Vec<Uuid> =
                    sqlx::query_scalar("SELECT id FROM coupons").fetch_all(&self.world.pool).await.unwrap();
                self.kept = all.into_iter().map(Ulid::from).collect();
                self.copies[2] = Some(self.world.copy_of_postgres());
            }
            Deed::Lock(lock) => self.lock = Some(self.hold(lock).await),
            Deed::HostileDefaults => {
                for (setting, value) in hostile::DEFAULTS {
                    let set = format!("ALTER ROLE {LOGIN} SET {setting} = {value}");
                    sqlx::raw_sql(&set).execute(&self.world.pool).await.unwrap();
                }
                self.end_backends().await;
            }
            Deed::ClockOfRedis(minutes) => self.clock_of_redis.set(time::Duration::minutes(minutes)),
            Deed::EndBackends => self.end_backends().await,
            Deed::FlushScripts => {
                let mut redis = self.world.redis().await;
                let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut redis).await.unwrap();
            }
            Deed::DeleteStream => {
                let context = async_nats::jetstream::new(self.world.nats().await);
                drop(context.delete_stream("COUPONS-0").await);
            }
            Deed::Wire(process, hop, line) => self.wire(process, hop).set(line),
            Deed::Cut(process, hop) => self.wire(process, hop).cut(),
            Deed::Silence(process, hop) => self.wire(process, hop).silence(),
            Deed::LoseReply(process, hop) => self.wire(process, hop).lose_reply_to("user-"),
        }
    }

    async fn end(&mut self, deed: Deed) {
        match deed {
            Deed::KillProcess(process) => self.world.processes[process].launch(),
            Deed::FreezeProcess(process) => self.world.processes[process].thaw(),
            Deed::TerminateProcess(process) => {
                self.world.processes[process].kill();
                self.world.processes[process].launch();
            }
            Deed::KillServer(hop) => self.server(hop).start().await.unwrap(),
            Deed::FreezeServer(hop) => self.server(hop).thaw(),
            Deed::EmptyRedis => self.world.servers.redis.start().await.unwrap(),
            Deed::RewindRedis => {
                let copy = self.copies[0].take().unwrap();
                self.world.rewind_redis(&copy).await;
                std::fs::remove_dir_all(copy).unwrap();
            }
            Deed::RewindNats => {
                let copy = self.copies[1].take().unwrap();
                self.world.rewind_nats(&copy).await;
                std::fs::remove_dir_all(copy).unwrap();
            }
            Deed::RewindPostgres => {
                let copy = self.copies[2].take().unwrap();
                self.world.rewind_postgres(&copy).await;
                self.restored = Some(Ulid::generate());
                std::fs::remove_dir_all(copy).unwrap();
            }
            Deed::Lock(_) => drop(self.lock.take()),
            Deed::HostileDefaults => {
                let reset = format!("ALTER ROLE {LOGIN} RESET ALL");
                sqlx::raw_sql(&reset).execute(&self.world.pool).await.unwrap();
            }
            Deed::ClockOfRedis(_) => self.clock_of_redis.set(time::Duration::ZERO),
            Deed::Wire(process, hop, _) => {
                self.wire(process, hop).set(Line::Clear);
                self.wire(process, hop).cut();
            }
            Deed::EndBackends
            | Deed::FlushScripts
            | Deed::DeleteStream
            | Deed::Cut(..)
            | Deed::Silence(..)
            | Deed::LoseReply(..) => {}
        }
    }

    async fn end_backends(&self) {
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
        drop(sqlx::query(end).execute(&self.world.pool).await);
    }

    /// A session with an open transaction that holds a lock.
    async fn hold(&self, lock: Lock) -> PgConnection {
        let mut session = PgConnection::connect(&self.world.servers.database_url()).await.unwrap();
        let taken = match lock {
            Lock::Rows => "BEGIN; SELECT FROM campaigns FOR UPDATE",
            Lock::Shard => "BEGIN; SELECT outbox_lock(0::smallint)",
        };
        sqlx::raw_sql(taken).execute(&mut session).await.unwrap();
        session
    }

    /// Whether a coupon may be gone: it came after the copy of the database that was put back since.
    fn is_lost(&self, coupon: Ulid) -> bool {
        self.restored.is_some_and(|restored| coupon < restored) && !self.kept.contains(&coupon)
    }

    /// What an operator does once a database is restored: begins a new epoch while the relay is halted. The gate still
    /// knows users whose coupons are gone, until the sweeper finds them.
    async fn recover(&self) {
        if self.restored.is_none() {
            return;
        }
        wait_until("all data agrees after a restore", 2 * SOON, async || {
            let halted = "SELECT EXISTS (SELECT FROM outbox_halts)";
            if sqlx::query_scalar(halted).fetch_one(&self.world.pool).await.unwrap() {
                // Refused where the database was restored to a moment at which the relay was halted, and is not now.
                let begun = self.world.coupon(&["relay", "epoch", "new", "--yes"]).await;
                println!("{}{}", begun.out, begun.err);
            }
            self.world.sheet().await.is_ok_and(|sheet| sheet.is_balanced())
        })
        .await;
    }
}

async fn nemesis(seed: u64, seconds: u64) {
    let fault = owns("nemesis");
    let length = Duration::from_secs(seconds);
    let plan = plan(seed, length);
    println!("make nemesis SEED={seed} SECONDS={seconds}");
    for planned in &plan {
        println!("{planned}");
    }
    let mut nemesis = Nemesis::start().await;
    let users = usize::try_from(u64::from(RATE) * seconds).unwrap();
    let quantity = users * 3 / 4;
    let fields = json!({ "quantity": quantity, "restock_on_cancel": true });
    let campaign = nemesis.world.open_campaign(fields).await;
    let rush = nemesis.world.rush(campaign, users);
    let rush = tokio::spawn(Rush { rate: 2 * RATE, ..rush }.run());
    let serving = nemesis.world.processes.iter().filter(|process| process.serves());
    let usage = Uses::new(serving.map(Process::http).collect(), campaign, users, seed);
    let usage = tokio::spawn(usage.run(length));

    let mut steps: Vec<(Duration, bool, Deed)> = Vec::new();
    for Planned { deed, from, until } in plan {
        steps.extend([(from, true, deed), (until, false, deed)]);
    }
    steps.sort_by_key(|(at, ..)| *at);
    let started = Instant::now();
    for (at, begins, deed) in steps {
        sleep_until(started + at).await;
        if begins {
            nemesis.begin(deed).await;
            fault.fired(1);
        } else {
            nemesis.end(deed).await;
        }
    }

    let (during, used) = (rush.await.unwrap(), usage.await.unwrap());
    nemesis.recover().await;
    let Nemesis { world, .. } = &nemesis;
    // Whoever was not answered asks again, and so does everybody else: the answers are the same.
    // A gate that went back in time does not know who has got a seat that was put back on sale since.
    world.balanced_within(2 * SOON).await;
    let since = OffsetDateTime::now_utc() - time::Duration::seconds(2);
    let after = world.rush(campaign, users).run().await;
    world.answered_but_for(&after, Some(since)).await;
    for (coupon, user) in during.promised.iter().filter(|(coupon, _)| !nemesis.is_lost(**coupon)) {
        assert_eq!(after.promised.get(coupon), Some(user), "what user-{user} was promised");
    }
    assert!(during.retried > 0, "nobody noticed");
    let shown = world.api().get(&format!("/v1/campaigns/{campaign}")).await.body;
    let live =
        shown["issued"].as_i64().zip(shown["returned"].as_i64()).map(|(issued, returned)| issued - returned);
    assert_eq!(live, shown["quantity"].as_i64(), "{shown}");
    if nemesis.restored.is_none() {
        used.are_kept().await;
    }
    world.balanced_within(SOON).await;
    assert_eq!(world.coupon(&["audit", "--full"]).await.code, Some(0));
    fault.healed();
    nemesis.world.close().await;
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().expect("a number"))
}

#[tokio::test]
async fn first() {
    nemesis(number("SEED", 1), number("SECONDS", SECONDS)).await;
}

#[tokio::test]
async fn second() {
    nemesis(2, SECONDS).await;
}

#[tokio::test]
async fn third() {
    nemesis(3, SECONDS).await;
}
