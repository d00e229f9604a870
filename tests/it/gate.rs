//! The gate against a model: random histories on a real Redis, and every word predicted.

mod history;
mod model;

use std::time::Duration;

use coupon_dispatcher::campaign::{Campaign, CampaignId, Expiry, MerchantId, SettleOn, State, UserId};
use coupon_dispatcher::issue::seats::{self, Admission, Seat, Seats};
use outbox_relay::Shard;
use time::OffsetDateTime;
use ulid::Ulid;

use self::history::History;
use crate::support::World;

const STEPS: usize = 5_000;
/// All seats are compared once in so many steps, their number after each.
const COMPARE_INTERVAL: usize = 50;
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn the_gate_says_what_the_model_predicts() {
    let world = World::bare(1).await;
    world.migrate().await;
    let mut history = History::start(&world).await;
    for step in 0..STEPS {
        history.step().await;
        if step % COMPARE_INTERVAL == 0 {
            history.compare_seats().await;
        }
    }
    history.assert_was_telling();
    world.close().await;
}

#[tokio::test]
async fn the_largest_batches_fit() {
    let world = World::bare(1).await;
    world.migrate().await;
    let mut seats = connect(&world).await;
    let campaign = Campaign { quantity: 100_000, per_user_limit: 10, ..campaign() };
    let users: Vec<UserId> = (0..512).map(|n| UserId::parse(format!("{n:0>64}")).unwrap()).collect();
    let all: Vec<Seat> = users.iter().flat_map(|u| (1..=10).map(|n| Seat::new(u.as_str(), n))).collect();

    let token = Ulid::generate();
    seats.begin_load(campaign.id, token).await.unwrap();
    seats.finish_load(&campaign, token).await.unwrap();
    for nth in 1..=10 {
        let answers = seats.admit(campaign.id, users.iter()).await.unwrap();
        let expected = users.iter().map(|user| Admission::Admitted(Seat::new(user.as_str(), nth)));
        assert_eq!(answers, expected.collect::<Vec<_>>());
    }
    assert_eq!(seats.admit(campaign.id, users.iter()).await.unwrap(), vec![Admission::Already; 512]);
    seats.confirm(campaign.id, &all[..4_096]).await.unwrap();
    assert_eq!(seats.release(campaign.id, &all).await.unwrap(), all.len() - 4_096);
    assert_eq!(seats.count(campaign.id).await.unwrap(), Some((4_096, 0)));
    world.close().await;
}

async fn connect(world: &World) -> Seats {
    let client = seats::client(&world.servers.redis_url()).unwrap();
    Seats::connect(&client, RESPONSE_TIMEOUT).await.unwrap()
}

fn campaign() -> Campaign {
    let now = OffsetDateTime::now_utc();
    Campaign {
        id: CampaignId(Ulid::generate()),
        shard: Shard(0),
        name: "Friday".to_owned(),
        merchant_id: MerchantId::parse("merchant-1".to_owned()).unwrap(),
        face_value: 500,
        currency: "EUR".to_owned(),
        quantity: 10,
        per_user_limit: 1,
        opens_at: now - time::Duration::HOUR,
        closes_at: now + time::Duration::HOUR,
        expiry: Expiry::After(Duration::from_secs(3_600)),
        settle_on: SettleOn::Issue,
        state: State::Open,
        version: 1,
        created_at: now,
    }
}
