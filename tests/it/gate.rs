//! The gate against a model: random histories on a real Redis, and every word predicted.

mod history;
mod model;
mod play;
mod telling;

use std::array::from_fn;
use std::cell::RefCell;
use std::sync::atomic::Ordering;
use std::time::Duration;

use coupon_dispatcher::campaign::{Campaign, Expiry, SettleOn, State};
use coupon_dispatcher::coupon::Refusal;
use coupon_dispatcher::gate::client::Client;
use coupon_dispatcher::gate::redis::Seats;
use coupon_dispatcher::gate::seat::{Admission, Denial, Seat};
use coupon_dispatcher::ids::{CampaignId, MerchantId, UserId};
use coupon_dispatcher::money::Money;
use outbox_relay::Shard;
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};
use proptest_state_machine::ReferenceStateMachine as _;
use time::OffsetDateTime;
use tokio::runtime::Runtime;
use ulid::Ulid;

use self::history::{History, Step};
use self::play::Stage;
use self::telling::Telling;
use crate::support::{World, seeded};

const CASES: u32 = 80;
const STEPS_MAX: usize = 100;
/// Attempts to make a history shorter that fails.
const SHRINK_STEPS_MAX: u32 = 2_000;
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

#[test]
fn the_gate_says_what_the_model_predicts() {
    let runtime = Runtime::new().unwrap();
    let world = runtime.block_on(World::bare(1));
    runtime.block_on(world.migrate());
    let stage = runtime.block_on(Stage::new(&world));
    let telling = RefCell::new(Telling::default());

    let (seed, _) = seeded();
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: SHRINK_STEPS_MAX,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    let histories = History::sequential_strategy(STEPS_MAX / 2..=STEPS_MAX);
    let result = TestRunner::new(config).run(&histories, |(history, steps, played)| {
        // What was not played before it fails is dropped first.
        let steps = steps.into_iter().inspect(|_| {
            if let Some(played) = &played {
                played.fetch_add(1, Ordering::Relaxed);
            }
        });
        let watch = |before: &History, step: &Step, after: &History| {
            telling.borrow_mut().watch(before, step, after);
        };
        runtime.block_on(stage.clone().play(history, steps, watch))
    });
    if let Err(TestError::Fail(reason, (_, steps, _))) = &result {
        let steps: Vec<String> = steps.iter().map(|step| format!("{step:?}")).collect();
        panic!("{reason}\n\nSEED={seed}, a history that ends so:\n{}", steps.join("\n"));
    }
    result.unwrap();
    telling.borrow().assert_complete();
    runtime.block_on(world.close());
}

#[tokio::test]
async fn the_largest_batches_fit() {
    let world = World::bare(1).await;
    world.migrate().await;
    let mut seats = connect(&world).await;
    let campaign = Campaign { quantity: 100_000, per_user_limit: 10, ..campaign() };
    let users: Vec<UserId> = (0..512).map(|n| UserId::parse(format!("{n:0>64}")).unwrap()).collect();
    let all: Vec<Seat> = users.iter().flat_map(|u| (1..=10).map(|n| Seat::new(u.as_str(), n))).collect();

    load(&mut seats, &campaign).await;
    for nth in 1..=10 {
        let answers = seats.admit(campaign.id, users.iter()).await.unwrap();
        let expected = users.iter().map(|user| Admission::Admitted(Seat::new(user.as_str(), nth)));
        assert_eq!(answers, expected.collect::<Vec<_>>());
    }
    assert_eq!(
        seats.admit(campaign.id, users.iter()).await.unwrap(),
        vec![Admission::Denied(Denial::Already); 512]
    );
    seats.confirm(campaign.id, &all[..4_096]).await.unwrap();
    assert_eq!(seats.release(campaign.id, &all).await.unwrap(), all.len() - 4_096);
    assert_eq!(seats.count(campaign.id).await.unwrap(), Some((4_096, 0)));
    world.close().await;
}

/// The middle ones of seven campaigns fail, each before and after others, and with others that fail.
#[tokio::test]
async fn campaigns_that_one_script_serves_do_not_concern_each_other() {
    let world = World::bare(1).await;
    world.migrate().await;
    let mut seats = connect(&world).await;
    let campaigns: [Campaign; 7] =
        from_fn(|n| Campaign { per_user_limit: if n == 6 { 2 } else { 1 }, ..campaign() });
    let [fine, lost, wrong_holders, wrong_pending, garbage, full, two_each] =
        campaigns.each_ref().map(|c| c.id);
    for campaign in campaigns.iter().filter(|campaign| campaign.id != lost) {
        load(&mut seats, campaign).await;
    }
    let mut redis = world.redis().await;
    for (campaign, key, command, values) in [
        (wrong_holders, ":holders", "SET", ["x"].as_slice()),
        (wrong_pending, ":pending", "SET", &["x"]),
        (garbage, "", "HSET", &["limit", "many"]),
        (full, "", "HSET", &["quantity", "0"]),
    ] {
        let key = World::gate(campaign, key);
        redis::cmd(command).arg(key).arg(values).exec_async(&mut redis).await.unwrap();
    }

    let [a, b] = ["a", "b"].map(|user| UserId::parse(user.to_owned()).unwrap());
    let asked = campaigns.each_ref().map(|campaign| (campaign.id, vec![&a, &b]));
    let answers = seats.admit_together(&asked).await;
    let of = |campaign| &answers[campaigns.iter().position(|c| c.id == campaign).unwrap()];
    let first = |user| Admission::Admitted(Seat::new(user, 1));
    assert_eq!(of(fine).as_ref().unwrap(), &[first("a"), first("b")]);
    assert_eq!(of(lost).as_ref().unwrap(), &vec![Admission::Denied(Denial::Unloaded); 2]);
    for wrong in [wrong_holders, wrong_pending] {
        assert_eq!(of(wrong).as_ref().unwrap_err().code(), Some("WRONGTYPE"));
    }
    assert!(of(garbage).is_err());
    assert_eq!(of(full).as_ref().unwrap(), &vec![Admission::Denied(Denial::Refused(Refusal::SoldOut)); 2]);
    assert_eq!(of(two_each).as_ref().unwrap(), &[first("a"), first("b")]);

    let committed = [(fine, "a"), (wrong_pending, "a"), (lost, "a"), (wrong_holders, "a"), (two_each, "b")];
    let committed = committed.map(|(campaign, user)| (campaign, [Seat::new(user, 1)]));
    let confirmed = seats.confirm_together(&committed).await;
    let codes = confirmed.iter().map(|result| result.as_ref().err().and_then(|error| error.code()));
    assert_eq!(codes.collect::<Vec<_>>(), [None, Some("WRONGTYPE"), None, Some("WRONGTYPE"), None]);
    assert_eq!(seats.count(fine).await.unwrap(), Some((2, 1)));
    assert_eq!(seats.count(two_each).await.unwrap(), Some((2, 1)));
    world.close().await;
}

async fn load(seats: &mut Seats, campaign: &Campaign) {
    let token = Ulid::generate();
    seats.begin_load(campaign.id, token).await.unwrap();
    seats.finish_load(campaign, token).await.unwrap();
}

async fn connect(world: &World) -> Seats {
    let client = Client::open([&*world.servers.redis_url()]).unwrap();
    Seats::connect(&client, RESPONSE_TIMEOUT).await.unwrap()
}

fn campaign() -> Campaign {
    let now = OffsetDateTime::now_utc();
    Campaign {
        id: CampaignId(Ulid::generate()),
        shard: Shard(0),
        name: "Friday".to_owned(),
        merchant_id: MerchantId::parse("merchant-1".to_owned()).unwrap(),
        face_value: Money { minor: 500, currency: "EUR".parse().unwrap() },
        quantity: 10,
        budget: None,
        per_user_limit: 1,
        opens_at: now - time::Duration::HOUR,
        closes_at: now + time::Duration::HOUR,
        expiry: Expiry::After(Duration::from_secs(3_600)),
        require_idempotency_key: false,
        restock_on_cancel: false,
        returned: 0,
        settle_on: SettleOn::Issue,
        state: State::Open,
        version: 1,
        created_at: now,
        closed_at: None,
    }
}
