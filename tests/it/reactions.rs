//! A projection that appends events of its own: one for each event that it applies, once.

use coupon_dispatcher::connections::Connections;
use coupon_dispatcher::event::OUTLET;
use futures_util::FutureExt as _;
use outbox_relay::dead::{self, DeadError, Letters};
use outbox_relay::event::StoredEvent;
use outbox_relay::projection::{ApplyError, Applying, FOLLOW_UPS_MAX};
use outbox_relay::rebuild::{Rebuild, RebuildError};
use outbox_relay::{Event, NewEvent, Projection, Projector, Shard, Site, append};
use rand::RngExt as _;
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::outbox::{append_committed, event};
use crate::support::{SOON, World, seeded, wait_until};

/// Not the first, so that an event in the wrong shard shows.
const SHARD: Shard = Shard(1);

/// Follows each event of type `tested` with events of type `echoed`: one, or what its data asks for.
#[derive(Debug)]
struct Echo;

impl Projection for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn tables(&self) -> &'static [&'static str] {
        &["echoes"]
    }

    fn apply<'a>(&'a self, transaction: &'a mut PgConnection, events: &'a [Event]) -> Applying<'a> {
        Box::pin(async move {
            let mut follow_ups = Vec::new();
            for event in events.iter().filter(|event| event.kind == "coupon.tested.v1") {
                let position = event.position;
                let data: Value = serde_json::from_slice(&event.data)
                    .map_err(|source| ApplyError::Unreadable { position, source })?;
                let echo = sqlx::query("INSERT INTO echoes VALUES ($1)").bind(position);
                echo.execute(&mut *transaction).await?;
                let letters = usize::try_from(data["letters"].as_u64().unwrap_or(1)).unwrap();
                follow_ups.extend((0..data["times"].as_u64().unwrap_or(1)).map(|number| NewEvent {
                    id: event.follow_up_id(&format!("echo-{number}")),
                    kind: "echoed",
                    key: "K".to_owned(),
                    subject: position.to_string(),
                    data: json!("x".repeat(letters)).to_string(),
                    traceparent: None,
                    request_id: None,
                }));
            }
            Ok(follow_ups)
        })
    }
}

impl World {
    /// Two shards, relayed and projected by the service, and the table of [`Echo`].
    async fn echoing() -> Self {
        let mut world = Self::bare(2).await;
        world.migrate().await;
        world.add_process("relay,project").await;
        world.execute("CREATE TABLE echoes (position bigint PRIMARY KEY)").await;
        world
    }

    async fn site(&self) -> Site {
        let Connections { database, nats, .. } = self.connections().await.unwrap();
        Site::new(OUTLET, SHARD, database, nats)
    }

    async fn echo(&self) -> Projector {
        echo(self.site().await)
    }

    /// The events of the shard, as a reader gets them.
    async fn told(&self) -> Vec<Event> {
        self.outbox(SHARD).await.iter().map(|event| event.to_event(&OUTLET)).collect()
    }

    async fn echoes(&self) -> Vec<i64> {
        let echoes = sqlx::query_scalar("SELECT position FROM echoes ORDER BY position");
        echoes.fetch_all(&self.pool).await.unwrap()
    }

    /// Each event that was applied is followed by its echo, once and nowhere else; those at the positions
    /// `parked` are neither applied nor followed.
    async fn assert_echoed_but(&self, parked: &[i64]) {
        let events = self.outbox(SHARD).await;
        let (tested, echoed): (Vec<_>, Vec<_>) = events.iter().partition(|event| event.kind == "tested");
        let causes: Vec<&&StoredEvent> =
            tested.iter().filter(|event| !parked.contains(&event.position)).collect();
        let positions: Vec<i64> = causes.iter().map(|cause| cause.position).collect();
        assert_eq!(self.echoes().await, positions, "applied");
        assert_eq!(echoed.len(), causes.len(), "one for each");
        for cause in causes {
            let id = cause.to_event(&OUTLET).follow_up_id("echo-0");
            let its = |echo: &&&StoredEvent| (echo.id, &*echo.subject) == (id, &cause.position.to_string());
            let positions: Vec<i64> = echoed.iter().filter(its).map(|echo| echo.position).collect();
            assert!(positions.len() == 1 && positions[0] > cause.position, "{positions:?} echo {cause:?}");
        }
        assert_eq!(self.head(Shard(0)).await, 0, "what follows stays in the shard");
    }
}

fn echo(site: Site) -> Projector {
    Projector::new(site, "echo", vec![Box::new(Echo)])
}

fn tested(count: usize) -> Vec<NewEvent> {
    (0..count).map(|_| event("tested")).collect()
}

fn tested_with(data: &Value) -> NewEvent {
    NewEvent { data: data.to_string(), ..event("tested") }
}

/// Events come twice and late, the projector is killed between its effects and the commit, in both ways: its
/// process is gone, or its session.
#[tokio::test]
async fn what_follows_is_appended_once_however_often_its_cause_comes_and_the_projector_is_killed() {
    let world = World::echoing().await;
    let (_, mut random) = seeded();
    append_committed(&world, SHARD, &tested(30)).await;
    for round in 0..6 {
        let projector = world.echo().await;
        let mut feed = projector.lead().await.unwrap();
        let events = world.told().await;
        let some = events[random.random_range(0..events.len() / 2)..].to_vec();
        feed.absorb([some.clone(), some].concat()).await.unwrap();
        append_committed(&world, SHARD, &tested(random.random_range(1..=20))).await;

        let mut writer = world.pool.begin().await.unwrap();
        append(&mut writer, SHARD, &tested(1)).await.unwrap(); // it holds the shard's lock
        let echoes = world.echoes().await.len();
        let more = world.told().await;
        let leader = world.leader("projector_echo", SHARD).await;
        {
            let mut kept_waiting = std::pin::pin!(feed.absorb(more));
            tokio::select! {
                ended = &mut kept_waiting => panic!("it appends last, and does not wait: {ended:?}"),
                () = waits_for_the_shard(&world, leader) => {}
            }
            if round % 2 == 0 {
                world.execute(&format!("SELECT pg_terminate_backend({leader})")).await;
                assert!(kept_waiting.await.is_err());
            }
        }
        drop(feed);
        assert_eq!(world.echoes().await.len(), echoes, "nothing of it is committed");
        writer.commit().await.unwrap();
    }
    let projector = world.echo().await;
    let position = projector.position();
    let reaches_the_end = async {
        wait_until("all is applied, what follows included", SOON, async || {
            let head = world.head(SHARD).await;
            *position.borrow() == head
        })
        .await;
    };
    tokio::select! {
        () = reaches_the_end => {}
        never = projector.run() => match never {},
    }
    world.assert_echoed_but(&[]).await;
    world.assert_published().await;
    world.close().await;
}

async fn waits_for_the_shard(world: &World, session: i32) {
    let waits =
        "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'advisory' AND pid = $1)";
    wait_until("the projector waits for the shard's lock", SOON, async || {
        sqlx::query_scalar(waits).bind(session).fetch_one(&world.pool).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn a_rebuild_appends_nothing() {
    let world = World::echoing().await;
    append_committed(&world, SHARD, &tested(40)).await;
    let site = world.site().await;
    let projector = echo(site.clone());
    let mut feed = projector.lead().await.unwrap();
    feed.absorb(world.told().await).await.unwrap();
    assert!(site.appended.notified().now_or_never().is_some(), "a relay in this process is woken");
    let told = world.told().await;
    feed.absorb(told.clone()).await.unwrap();
    assert!(site.appended.notified().now_or_never().is_none(), "nothing was appended");
    world.assert_echoed_but(&[]).await;

    world.execute("DELETE FROM echoes WHERE position % 3 = 0").await;
    let Connections { database, nats, .. } = world.connections().await.unwrap();
    let rebuild = || Rebuild {
        database: &database,
        nats: &nats,
        outlet: &OUTLET,
        shards: 2,
        projection: [Box::new(Echo)],
    };
    assert_eq!(rebuild().run(|_| {}).await.unwrap(), told.len() as i64);
    assert_eq!(world.head(SHARD).await, told.len() as i64, "events of the outbox");
    world.assert_echoed_but(&[]).await;

    // A rebuild would apply an event that is parked, and drop what follows from it, which was never appended.
    world.execute("ALTER TABLE echoes ADD CONSTRAINT poison CHECK (position < 81)").await;
    let parked = append_committed(&world, SHARD, &tested(1)).await;
    assert_eq!(parked, 81);
    feed.absorb(world.told().await).await.unwrap();
    world.execute("ALTER TABLE echoes DROP CONSTRAINT poison").await;
    let refused = rebuild().run(|_| {}).await;
    assert!(matches!(refused, Err(RebuildError::Parked { count: 1, .. })), "{refused:?}");
    world.assert_echoed_but(&[parked]).await;
    world.redrive(parked).await.unwrap();
    rebuild().run(|_| {}).await.unwrap();
    world.assert_echoed_but(&[]).await;
    world.close().await;
}

impl World {
    async fn redrive(&self, position: i64) -> Result<(), DeadError> {
        let nats = self.nats().await;
        let mut connection = self.pool.acquire().await.unwrap();
        let letters = Letters { nats: &nats, outlet: &OUTLET, shard: SHARD };
        letters.redrive(&mut connection, &Echo, position).await
    }
}

/// The events in the midst of the batch are poison: by themselves, or by what follows from them.
#[tokio::test]
async fn a_redrive_appends_and_what_the_outbox_refuses_is_parked() {
    let world = World::echoing().await;
    world.execute("ALTER TABLE echoes ADD CONSTRAINT poison CHECK (position <> 3)").await;
    let too_long = tested_with(&json!({ "letters": 65_535 }));
    let too_many = tested_with(&json!({ "times": FOLLOW_UPS_MAX + 1 }));
    append_committed(&world, SHARD, &[tested(5), vec![too_long, too_many], tested(3)].concat()).await;
    let projector = world.echo().await;
    projector.lead().await.unwrap().absorb(world.told().await).await.unwrap();
    world.assert_echoed_but(&[3, 6, 7]).await;
    let mut connection = world.pool.acquire().await.unwrap();
    let parked = dead::list(&mut connection, 10).await.unwrap();
    let reasons: Vec<(i64, &str)> =
        parked.iter().map(|parked| (parked.position, parked.reason.as_str())).collect();
    assert!(reasons[0].1.contains("\"poison\""), "{reasons:?}");
    assert!(reasons[1].1.contains("outbox_data_is_small"), "{reasons:?}");
    assert!(reasons[2].1.contains("10001 events follow; at most 10000 may"), "{reasons:?}");

    // What still cannot be applied or appended stays parked, and is not there in part.
    for position in [3, 6, 7] {
        let refused = world.redrive(position).await;
        assert!(matches!(refused, Err(DeadError::Apply(_))), "{refused:?}");
    }
    world.assert_echoed_but(&[3, 6, 7]).await;
    world.execute("ALTER TABLE echoes DROP CONSTRAINT poison").await;
    world.redrive(3).await.unwrap();
    let again = world.redrive(3).await;
    assert!(matches!(again, Err(DeadError::NotParked { .. })), "{again:?}");
    world.assert_echoed_but(&[6, 7]).await;

    let nats = world.nats().await;
    for position in [6, 7] {
        let letters = Letters { nats: &nats, outlet: &OUTLET, shard: SHARD };
        letters.drop_parked(&mut connection, "echo", position).await.unwrap();
    }
    drop(connection);
    world.assert_published().await;
    world.close().await;
}
