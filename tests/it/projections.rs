//! From the stream into tables: the effect of each event once, and never without its position.

use coupon_dispatcher::connections::Connections;
use coupon_dispatcher::event::OUTLET;
use coupon_dispatcher::settlement::Settlement;
use coupon_dispatcher::wallet::Wallet;
use outbox_relay::projection::ProjectorError;
use outbox_relay::{Event, Projection, Projector, Shard, Site};
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::json;
use tokio::time::timeout;

use crate::support::{SOON, World, owns, seeded, wait_until};

const SHARD: Shard = Shard(0);

fn projector(connections: Connections) -> Projector {
    let projections: Vec<Box<dyn Projection>> = vec![Box::new(Wallet), Box::new(Settlement)];
    let Connections { database, nats, .. } = connections;
    Projector::new(Site::new(OUTLET, SHARD, database, nats), "projections", projections)
}

impl World {
    /// All events as a reader gets them.
    async fn events(&self) -> Vec<Event> {
        let stored = self.outbox(SHARD).await;
        stored.iter().map(|event| Event::parse(event.position, &event.body(&OUTLET)).unwrap()).collect()
    }

    /// In the tables is what the events up to the stored position come to, at any moment.
    async fn assert_effects_fit_positions(&self) {
        let (wallet, settlement, wallet_due, settlement_due): (i64, i64, i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM wallet), (SELECT count(*) FROM settlement_entries), \
               (SELECT count(*) FROM outbox WHERE type = 'issued' AND position <= projection_position('wallet', 0::smallint)), \
               (SELECT count(*) FROM outbox WHERE type = 'issued' AND data ->> 'settle_on' = 'issue' \
                AND position <= projection_position('settlement', 0::smallint))",
        )
        .fetch_one(&self.pool)
        .await
        .unwrap();
        assert_eq!((wallet, settlement), (wallet_due, settlement_due), "effects, and what the positions say");
    }

    /// Each coupon is in the wallet as it was issued, and each that counts is settled, once.
    async fn assert_projected(&self) {
        let strays: Vec<String> = sqlx::query_scalar(
            "(SELECT coalesce(c.id, w.coupon_id)::text FROM coupons AS c \
              FULL JOIN wallet AS w ON w.coupon_id = c.id AND (w.user_id, w.campaign_id, w.number, w.state, w.issued_at, w.expires_at) \
                = (c.user_id, c.campaign_id, c.number, c.state, c.issued_at, c.expires_at) \
              WHERE c.id IS NULL OR w.coupon_id IS NULL) \
             UNION ALL \
             (SELECT coalesce(c.id, s.coupon_id)::text FROM \
              (SELECT coupons.id, issued_at, merchant_id, face_value, currency, event_id FROM coupons \
               JOIN campaigns ON campaign_id = campaigns.id AND settle_on = 'issue' \
               JOIN outbox ON type = 'issued' AND (data ->> 'number')::int = number AND (data ->> 'issued_at')::timestamptz = issued_at \
                AND data ->> 'user_id' = user_id) AS c \
              FULL JOIN settlement_entries AS s ON s.coupon_id = c.id \
                AND (s.merchant_id, s.amount, s.currency, s.event_id, s.occurred_at) \
                = (c.merchant_id, c.face_value, c.currency, c.event_id, c.issued_at) \
              WHERE c.id IS NULL OR s.coupon_id IS NULL)",
        )
        .fetch_all(&self.pool)
        .await
        .unwrap();
        assert!(strays.is_empty(), "not in both: {strays:?}");
        self.assert_effects_fit_positions().await;
    }

    /// Coupons of two campaigns, of which one settles later, published and not yet projected.
    async fn with_events() -> Self {
        let world = Self::with_processes(&["api,relay"]).await;
        for fields in [json!({ "quantity": 400 }), json!({ "quantity": 100, "settle_on": "redeem" })] {
            let campaign = world.open_campaign(fields).await;
            world.answered(&world.rush(campaign, 450).run().await).await;
        }
        world
    }
}

#[tokio::test]
async fn each_event_is_applied_once_however_often_and_in_whatever_order_it_comes() {
    let fault = owns("events-doubled-and-shuffled");
    let world = World::with_events().await;
    let (_, mut random) = seeded();
    let projector = projector(world.connections().await.unwrap());
    let events = world.events().await;
    let given = shuffled_twice(&events, &mut random);
    let mut feed = projector.lead().await.unwrap();
    let mut rest = given.as_slice();
    while !rest.is_empty() {
        let (batch, behind) = rest.split_at(random.random_range(1..=60.min(rest.len())));
        feed.absorb(batch.to_vec()).await.unwrap();
        fault.fired(1);
        rest = behind;
        world.assert_effects_fit_positions().await;
        if random.random_bool(0.1) {
            drop(feed); // another process takes over
            feed = projector.lead().await.unwrap();
        }
    }
    assert_eq!(feed.position(), world.head(SHARD).await);
    feed.absorb(events).await.unwrap();
    world.assert_projected().await;
    fault.healed();
    world.close().await;
}

/// Every event twice, not far from its place; some of them not at all.
fn shuffled_twice(events: &[Event], random: &mut StdRng) -> Vec<Event> {
    let (last, others) = events.split_last().unwrap();
    let kept = others.iter().filter(|event| event.position % 97 != 0);
    let mut given: Vec<(i64, &Event)> = kept
        .flat_map(|event| [event, event])
        .map(|event| (event.position + random.random_range(0..40), event))
        .collect();
    given.sort_by_key(|(place, _)| *place);
    given.into_iter().map(|(_, event)| event).chain([last]).cloned().collect()
}

#[tokio::test]
async fn a_gap_is_filled_from_the_outbox_or_stops_the_projection() {
    let fault = owns("events-left-out");
    let world = World::with_events().await;
    let projector = projector(world.connections().await.unwrap());
    let events = world.events().await;
    let last = events.last().unwrap().clone();
    move_row(&world, "outbox", "kept").await;
    fault.fired(1);
    let mut feed = projector.lead().await.unwrap();
    match feed.absorb(vec![last.clone()]).await {
        Err(ProjectorError::Gap { after, until }) => assert!(after < 7 && until >= 7),
        other => panic!("{other:?}"),
    }
    drop(feed);
    world.assert_effects_fit_positions().await;

    move_row(&world, "kept", "outbox").await;
    let mut feed = projector.lead().await.unwrap();
    feed.absorb(vec![last]).await.unwrap();
    world.assert_projected().await;
    fault.healed();
    world.close().await;
}

/// Position 7 goes from one table to the other.
async fn move_row(world: &World, from: &str, to: &str) {
    sqlx::query("CREATE TABLE IF NOT EXISTS kept (LIKE outbox)").execute(&world.pool).await.unwrap();
    let statement = format!(
        "WITH moved AS (DELETE FROM {from} WHERE shard = 0 AND position = 7 RETURNING *) INSERT INTO {to} SELECT * FROM moved"
    );
    assert_eq!(sqlx::query(&statement).execute(&world.pool).await.unwrap().rows_affected(), 1);
}

#[tokio::test]
async fn projections_go_on_when_their_process_is_killed() {
    let fault = owns("projector-killed");
    let mut world = World::with_processes(&["api,relay", "project"]).await;
    world.leader("projector_projections", SHARD).await;
    world.add_process("project").await;
    let campaign = world.open_campaign(json!({ "quantity": 2_004 })).await;
    let rush = tokio::spawn(world.rush(campaign, 2_000).run());
    for (leader, issued) in [(1, 200), (2, 600), (1, 1_000), (2, 1_400)] {
        world.issued(campaign, issued).await;
        let applied = world.applied().await;
        world.processes[leader].kill();
        fault.fired(1);
        world.assert_effects_fit_positions().await;
        // The rush may be over before the other is the leader.
        assert_eq!(world.claim(campaign, &format!("late-{issued}")).await.status, 201);
        wait_until("the other applies", SOON, async || {
            world.assert_effects_fit_positions().await;
            world.applied().await > applied
        })
        .await;
        world.processes[leader].start().await;
    }
    world.answered(&rush.await.unwrap()).await;
    world.all_applied().await;
    world.assert_projected().await;
    fault.healed();
    world.close().await;
}

impl World {
    /// The last position that is in the wallet.
    async fn applied(&self) -> i64 {
        let position = sqlx::query_scalar("SELECT projection_position('wallet', 0::smallint)");
        position.fetch_one(&self.pool).await.unwrap()
    }

    async fn all_applied(&self) {
        wait_until("all is applied", SOON, async || self.applied().await == self.head(SHARD).await).await;
    }
}

#[tokio::test]
async fn a_projector_tells_how_far_it_is() {
    let world = World::with_events().await;
    let head = world.head(SHARD).await;
    let projector = projector(world.connections().await.unwrap());
    let mut position = projector.position();
    assert_eq!(*position.borrow(), 0);
    tokio::select! {
        reached = timeout(SOON, position.wait_for(|position| *position == head)) => drop(reached.unwrap().unwrap()),
        never = projector.run() => match never {},
    }
    assert_eq!(world.applied().await, head, "it was committed before it was told");
    world.assert_projected().await;
    world.close().await;
}

/// One that the effect breaks, and one that the position breaks: the other is not there either.
#[tokio::test]
async fn what_fails_leaves_neither_effect_nor_position() {
    let fault = owns("effect-fails");
    let world = World::with_processes(&["api,relay", "project"]).await;
    execute(
        &world,
        "CREATE FUNCTION break() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'broken'; END $$",
    )
    .await;
    for (table, condition) in
        [("wallet", "NEW.user_id LIKE '%7'"), ("projection_positions", "NEW.projection = 'settlement'")]
    {
        let trigger = format!(
            "CREATE TRIGGER broken AFTER INSERT ON {table} FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION break()"
        );
        execute(&world, &trigger).await;
        let failures = failures(&world);
        let campaign = world.open_campaign(json!({ "quantity": 200 })).await;
        world.answered(&world.rush(campaign, 200).run().await).await;
        wait_until("projecting fails, again and again", SOON, async || {
            world.assert_effects_fit_positions().await;
            fault.fired(1);
            assert!(
                acknowledged(&world).await <= world.applied().await,
                "acknowledged before it is committed"
            );
            self::failures(&world) > failures + 2
        })
        .await;
        assert!(world.applied().await < world.head(SHARD).await);
        execute(&world, &format!("DROP TRIGGER broken ON {table}")).await;
        world.all_applied().await;
        world.assert_projected().await;
    }
    fault.healed();
    world.close().await;
}

/// Up to where the consumer has acknowledged; 0 while there is none.
async fn acknowledged(world: &World) -> i64 {
    let context = async_nats::jetstream::new(world.nats().await);
    let Ok(stream) = context.get_stream(OUTLET.stream_of(SHARD)).await else { return 0 };
    let info = stream.consumer_info("projections").await;
    info.map_or(0, |info| info.ack_floor.stream_sequence.cast_signed())
}

fn failures(world: &World) -> usize {
    world.processes[1].log().matches("projector starts over").count()
}

async fn execute(world: &World, statement: &str) {
    sqlx::query(statement).execute(&world.pool).await.unwrap();
}
