//! The disk of a server is full, in a rush.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use coupon_dispatcher::servers::Setup;

use super::redis::{ask, oversells_nothing, refuses_and_comes_back};
use super::storage::{comes_back, is_refused};
use super::{QUANTITY, someone, survives};
use crate::support::{Process, SOON, World, newest_nats_server, owns, packaged_nats_server, wait_until};

/// From the end of a rush until the gate equals Postgres: no seat was left to the sweeper.
const EQUAL_WITHIN: Duration = Duration::from_secs(10);
/// A disk of `$3` at `$1`, with what is in `$2` and a file to fill it up. Nobody else sees it, and nobody needs to be
/// root for it.
const KEEPER: &str = r#"
mount -t tmpfs -o size="$3",mode=700 coupon "$1" && cp -R "$2/." "$1" && : >"$1/filler" && exec sleep infinity"#;

/// Whoever runs a server may mount a disk of his own. Not on every machine.
fn may_mount() -> bool {
    let probe = "unshare --user --map-root-user --mount mount -t tmpfs none /tmp";
    let may = Command::new("sh").args(["-c", probe]).status().unwrap().success();
    if !may {
        eprintln!("not tried: this machine lets nobody mount a disk of his own");
    }
    may
}

/// A small disk, which outlives the server that writes to it.
struct Disk {
    filler: PathBuf,
    _keeper: Process,
}

impl Disk {
    /// With what is in a folder of a server that rests, and in its place. The server finds its way to the disk, which
    /// only the keeper sees, through the keeper's entry in `/proc`.
    async fn in_place_of(world: &World, folder: &Path, size: &str) -> Self {
        let (mount, before) = (world.folder().join("disk"), folder.with_extension("before"));
        fs::create_dir(&mount).unwrap();
        fs::rename(folder, &before).unwrap();
        let owner = fs::metadata(&before).unwrap();
        let (uid, gid) = (format!("--reuid={}", owner.uid()), format!("--regid={}", owner.gid()));
        let mut command = vec!["setpriv", &uid, &gid, "--keep-groups"];
        command.extend(["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", KEEPER, "sh"]);
        command.extend([mount.to_str().unwrap(), before.to_str().unwrap(), size]);
        let mut keeper = world.program("keeper-of-the-disk", &command);
        keeper.launch();
        let disk = PathBuf::from(format!("/proc/{}/root{}", keeper.pid(), mount.display()));
        let filler = disk.join("filler");
        wait_until("the disk is there", SOON, async || {
            assert!(keeper.runs(), "{}", keeper.log());
            filler.exists()
        })
        .await;
        symlink(disk, folder).unwrap();
        Self { filler, _keeper: keeper }
    }

    fn fill(&self) {
        let mut filler = OpenOptions::new().append(true).open(&self.filler).unwrap();
        let error = io::copy(&mut io::repeat(b'x'), &mut filler).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    }

    fn empty(&self) {
        OpenOptions::new().write(true).open(&self.filler).unwrap().set_len(0).unwrap();
    }
}

async fn serve(world: &mut World) {
    world.migrate().await;
    for roles in ["", "api"] {
        world.add_process(roles).await;
    }
}

/// Its tables; its log of what is committed is on another.
#[tokio::test]
async fn a_postgres_whose_disk_is_full_in_a_rush_is_survived() {
    if !may_mount() {
        return;
    }
    let mut world = World::bare(1).await;
    world.servers.postgres.stop().await;
    let disk = Disk::in_place_of(&world, &world.servers.postgres.dir().join("base"), "96m").await;
    world.servers.postgres.start().await.unwrap();
    serve(&mut world).await;
    survives(&mut world, &owns("postgres-disk-full"), async |world: &mut World, campaign| {
        disk.fill();
        let noticed = async || world.processes[0].log().contains("a batch was not written");
        wait_until("a batch cannot be written", SOON, noticed).await;
        let refused = async || is_refused(&world.claim(campaign, &someone()).await);
        wait_until("claims are refused", SOON, refused).await;
        disk.empty();
        assert_ne!(comes_back(world, campaign, "late").await, 500);
    })
    .await;
    world.close().await;
}

async fn redis_on(world: &mut World) -> Disk {
    world.servers.redis.stop().await;
    let disk = Disk::in_place_of(world, world.servers.redis.dir(), "8m").await;
    world.servers.redis.start().await.unwrap();
    serve(world).await;
    disk
}

/// Until it cannot write its file, and knows it. What it said yes to before that it writes later.
async fn fill_that_of_redis(world: &World, disk: &Disk) {
    disk.fill();
    let page = "x".repeat(4_096);
    let knows = async || {
        let answer = ask::<redis::Value>(world, &format!("SET page {page}")).await;
        answer.is_err_and(|error| error.code() == Some("MISCONF"))
    };
    wait_until("Redis cannot write its file", SOON, knows).await;
}

/// Once a second it tries again.
async fn empty_that_of_redis(world: &World, disk: &Disk) {
    disk.empty();
    let writes = async || ask::<redis::Value>(world, "PING").await.is_ok();
    wait_until("Redis has written its file", SOON, writes).await;
}

#[tokio::test]
async fn a_redis_whose_disk_is_full_gives_no_seat_until_there_is_space() {
    if !may_mount() {
        return;
    }
    let mut world = World::bare(1).await;
    let disk = redis_on(&mut world).await;
    let equal_in = refuses_and_comes_back(
        world,
        &owns("redis-disk-full"),
        async |world| fill_that_of_redis(world, &disk).await,
        async |world| empty_that_of_redis(world, &disk).await,
    )
    .await;
    assert!(equal_in < EQUAL_WITHIN, "equal within {equal_in:?} only");
}

/// It has forgotten what it could not write, and starts with a disk that is still full.
#[tokio::test]
async fn a_redis_that_is_killed_while_its_disk_is_full_oversells_nothing() {
    if !may_mount() {
        return;
    }
    let mut world = World::bare(1).await;
    let disk = redis_on(&mut world).await;
    let log = world.servers.redis.dir().with_extension("log");
    let failures = || fs::read_to_string(&log).unwrap().matches("writing to the AOF file").count();
    oversells_nothing(world, &owns("redis-disk-full"), async |world: &mut World, _| {
        fill_that_of_redis(world, &disk).await;
        let before = failures();
        world.servers.redis.kill().await;
        // It does not count as started while it takes no writes.
        let fails = async || failures() > before;
        let failed = async {
            wait_until("Redis cannot write its file again", SOON, fails).await;
            disk.empty();
        };
        let (started, ()) = tokio::join!(world.servers.redis.start(), failed);
        started.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_nats_whose_disk_is_full_in_a_rush_is_survived() {
    claims_go_on(packaged_nats_server()).await;
}

#[tokio::test]
async fn the_newest_nats_whose_disk_is_full_in_a_rush_is_survived() {
    claims_go_on(newest_nats_server()).await;
}

/// Of its own accord a stream that could not be written takes nothing any more: 2.9 hangs for good, and 2.14 and newer
/// give it up until they start again.
async fn claims_go_on(program: PathBuf) {
    if !may_mount() {
        return;
    }
    let fault = owns("nats-disk-full");
    let mut world = World::bare(1).await;
    world.servers.nats.stop().await;
    let disk = Disk::in_place_of(&world, world.servers.nats.dir(), "32m").await;
    world.servers.nats.restart_with(Setup { program: Some(program), ..Setup::default() }).await.unwrap();
    world.migrate().await;
    for roles in ["", "api"] {
        let mut process = world.process(roles);
        process.set("RUST_LOG", "outbox_relay=debug"); // every attempt, also after the first that failed
        process.start().await;
        world.processes.push(process);
    }
    survives(&mut world, &fault, async |world: &mut World, campaign| {
        disk.fill();
        for percent in [40, 60, 80, 100] {
            world.issued(campaign, QUANTITY * percent / 100).await;
        }
        let api = world.api();
        let degraded = async || {
            let answer = api.get("/readyz").await;
            answer.status == 200 && answer.body["status"] == "degraded" && answer.body["nats"] == "down"
        };
        wait_until("the process says that NATS is of no use", SOON, degraded).await;
        // Too soon: 2.9 then knows nothing of the stream, and newer ones store nothing.
        world.servers.nats.kill().await;
        world.servers.nats.start().await.unwrap();
        let refuses = async || world.processes[0].log().contains("insufficient");
        wait_until("NATS says that it has no space", SOON, refuses).await;
        disk.empty();
        world.servers.nats.kill().await;
        world.servers.nats.start().await.unwrap();
    })
    .await;
    let ready = async || world.api().get("/readyz").await.body["status"] == "ready";
    wait_until("the process is ready", SOON, ready).await;
    world.assert_published().await;
    fault.healed();
    world.close().await;
}
