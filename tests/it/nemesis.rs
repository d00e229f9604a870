//! Everything breaks, at random and at once, while users rush; then all is left alone, and everything has to be
//! as if nothing had happened. A seed tells all that is done: `make nemesis SEED=7 SECONDS=30`.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::support::{Clock, Hop, Line, Proxy, SOON, World, owns};

/// All roles twice, and the API alone.
const ROLES: [&str; 3] = ["", "", "api"];
const HOPS: [Hop; 3] = [Hop::Postgres, Hop::Redis, Hop::Nats];
/// Claims a second.
const RATE: u32 = 150;
const SECONDS: u64 = 10;
/// Deeds begin so far apart, and last so long, in milliseconds; several are under way at a time.
const APART: std::ops::Range<u64> = 100..1_200;
const LASTING: std::ops::Range<u64> = 50..3_000;
/// One in so many lasts longer than any lease, session or answer.
const LONG_ONES: u32 = 12;
const LASTING_LONG: std::ops::Range<u64> = 10_500..13_000;

/// What can be done to one thing.
#[derive(Clone, Copy, Debug)]
enum Deed {
    KillProcess(usize),
    FreezeProcess(usize),
    TerminateProcess(usize),
    KillServer(Hop),
    FreezeServer(Hop),
    /// It starts again without its store.
    EmptyRedis,
    /// Its store goes back to where it was when this began.
    RewindRedis,
    RewindNats,
    /// Its clock is so many minutes ahead.
    ClockOfRedis(i64),
    EndBackends,
    FlushScripts,
    DeleteStream,
    Wire(usize, Hop, Line),
    Cut(usize, Hop),
    Silence(usize, Hop),
    LoseReply(usize, Hop),
}

/// A deed, from when on and until when, since the beginning.
#[derive(Clone, Copy)]
struct Planned {
    deed: Deed,
    from: Duration,
    until: Duration,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { deed, from, until } = self;
        write!(f, "{:6.3} to {:6.3} s: {deed:?}", from.as_secs_f64(), until.as_secs_f64())
    }
}

impl Deed {
    fn any(random: &mut StdRng) -> Self {
        let process = random.random_range(0..ROLES.len());
        let hop = *HOPS.choose(random).unwrap();
        let slow = Duration::from_millis(random.random_range(10..2_000));
        let line =
            *[Line::Slow(slow), Line::Refused, Line::Swallowed, Line::HalfOpen].choose(random).unwrap();
        match random.random_range(0..24) {
            0 | 1 => Self::KillProcess(process),
            2 | 3 => Self::FreezeProcess(process),
            4 => Self::TerminateProcess(process),
            5 | 6 => Self::KillServer(hop),
            7 | 8 => Self::FreezeServer(hop),
            9 => Self::EmptyRedis,
            10 => Self::RewindNats,
            11 => Self::EndBackends,
            12 => Self::FlushScripts,
            13 => Self::DeleteStream,
            14..17 => Self::Wire(process, hop, line),
            17 => Self::Cut(process, hop),
            18 => Self::RewindRedis,
            19 => Self::ClockOfRedis(random.random_range(-40..40)),
            20..22 => Self::Silence(process, hop),
            _ => Self::LoseReply(process, hop),
        }
    }

    /// To whom it is done: only one thing is done to him at a time.
    fn victim(self) -> String {
        match self {
            Self::KillProcess(process) | Self::FreezeProcess(process) | Self::TerminateProcess(process) => {
                format!("{process}")
            }
            Self::KillServer(hop) | Self::FreezeServer(hop) => format!("{hop:?}"),
            Self::EmptyRedis | Self::FlushScripts | Self::RewindRedis => format!("{:?}", Hop::Redis),
            Self::ClockOfRedis(_) => "clock".to_owned(),
            Self::RewindNats | Self::DeleteStream => format!("{:?}", Hop::Nats),
            Self::EndBackends => format!("{:?}", Hop::Postgres),
            Self::Wire(process, hop, _)
            | Self::Cut(process, hop)
            | Self::Silence(process, hop)
            | Self::LoseReply(process, hop) => format!("{process} {hop:?}"),
        }
    }
}

/// All that is done for so long, in order.
fn plan(seed: u64, length: Duration) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut planned: Vec<Planned> = Vec::new();
    let mut from = Duration::from_millis(random.random_range(APART));
    while from < length {
        let deed = Deed::any(&mut random);
        let long = random.random_ratio(1, LONG_ONES);
        let lasting = random.random_range(if long { LASTING_LONG } else { LASTING });
        let until = from + Duration::from_millis(lasting);
        if planned.iter().all(|other| other.until < from || other.deed.victim() != deed.victim()) {
            planned.push(Planned { deed, from, until });
        }
        from += Duration::from_millis(random.random_range(APART));
    }
    planned
}

struct Nemesis {
    world: World,
    /// Of each process, one for each hop.
    wires: Vec<[Proxy; 3]>,
    clock_of_redis: Clock,
    /// What Redis and NATS had when their rewinding began.
    copies: [Option<PathBuf>; 2],
}

impl Nemesis {
    async fn start() -> Self {
        let mut world = World::bare(1).await;
        let clock_of_redis = world.clock_of_redis().await;
        world.migrate().await;
        let mut wires = Vec::new();
        for roles in ROLES {
            let own = [
                world.proxy(Hop::Postgres).await,
                world.proxy(Hop::Redis).await,
                world.proxy(Hop::Nats).await,
            ];
            world.add_process_through(roles, &own.each_ref()).await;
            wires.push(own);
        }
        Self { world, wires, clock_of_redis, copies: [None, None] }
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
            Deed::ClockOfRedis(minutes) => self.clock_of_redis.set(time::Duration::minutes(minutes)),
            Deed::EndBackends => {
                let end =
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()";
                drop(sqlx::query(end).execute(&self.world.pool).await);
            }
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
    let campaign = nemesis.world.open_campaign(json!({ "quantity": quantity })).await;
    let rush = nemesis.world.rush(campaign, users);
    let rush = tokio::spawn(coupon_dispatcher::rush::Rush { rate: 2 * RATE, ..rush }.run());

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

    let Nemesis { world, .. } = &nemesis;
    let during = rush.await.unwrap();
    // Whoever was not answered asks again, and so does everybody else: the answers are the same.
    let after = world.rush(campaign, users).run().await;
    world.answered(&after).await;
    for (coupon, user) in &during.promised {
        assert_eq!(after.promised.get(coupon), Some(user), "what user-{user} was promised");
    }
    assert!(during.retried > 0, "nobody noticed");
    assert_eq!(world.coupons(campaign).await, i64::try_from(quantity).unwrap());
    world.balanced_within(SOON).await;
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
