//! Refusals from memory: a process answers losers by itself, is never wrong for longer than a second, and shows every
//! winner their coupon.

mod cluster;
mod restored;

use std::time::{Duration, Instant};

use coupon_dispatcher::ids::CampaignId;
use futures_util::future::join_all;
use serde_json::{Value, json};
use ulid::Ulid;
use uuid::Uuid;

use crate::support::{Answer, Clock, SOON, World, wait_until};

const QUANTITY: usize = 20;
/// For how long a process repeats a refusal, at most.
const VALID_FOR: Duration = Duration::from_secs(1);

/// A user with a coupon.
struct Winner {
    user: String,
    coupon: Value,
}

impl Winner {
    /// Nothing if the answer promises no coupon.
    fn of(user: &str, answer: &Answer) -> Option<Self> {
        let coupon = if answer.status == 201 { &answer.body["id"] } else { &answer.body["coupon"]["id"] };
        (!coupon.is_null()).then(|| Self { user: user.to_owned(), coupon: coupon.clone() })
    }

    fn coupon(&self) -> Ulid {
        serde_json::from_value(self.coupon.clone()).unwrap()
    }

    /// Whether a refusal shows the coupon.
    fn is_shown(&self, answer: &Answer) -> bool {
        (answer.problem(), &answer.body["coupon"]["id"]) == ("already-issued", &self.coupon)
    }
}

impl World {
    async fn claim_at(&self, process: usize, campaign: CampaignId, user: &str) -> Answer {
        let path = format!("/v1/campaigns/{campaign}/coupons");
        self.processes[process].http().post(&path, &json!({ "user_id": user })).await
    }

    /// A claim of somebody who has claimed nothing before.
    async fn newcomer(&self, process: usize, campaign: CampaignId) -> Answer {
        self.claim_at(process, campaign, &Ulid::generate().to_string()).await
    }

    async fn answered_from_memory(&self, process: usize) -> u64 {
        let metrics = self.processes[process].http().get("/metrics").await.text;
        let counted =
            metrics.lines().find_map(|line| line.strip_prefix("claims_answered_from_memory_total "));
        counted.unwrap().parse().unwrap()
    }

    /// Losers come until a process answers some of them from memory. All are refused for this reason.
    async fn remembers(&self, process: usize, campaign: CampaignId, problem: &str) {
        let before = self.answered_from_memory(process).await;
        let remembered = async || {
            for answer in join_all((0..40).map(|_| self.newcomer(process, campaign))).await {
                assert_eq!(answer.problem(), problem, "{answer:?}");
            }
            self.answered_from_memory(process).await > before
        };
        wait_until("losers are answered from memory", SOON, remembered).await;
    }

    /// A campaign that is sold out, and its winners.
    async fn sold_out(&self) -> (CampaignId, Vec<Winner>) {
        let campaign = self.open_campaign(json!({ "quantity": QUANTITY })).await;
        let winners = self.winners(campaign, "winner", QUANTITY).await;
        self.promised(winners.iter().map(Winner::coupon));
        (campaign, winners)
    }

    /// New winners of a campaign. The world does not remember what they are promised.
    async fn winners(&self, campaign: CampaignId, name: &str, count: usize) -> Vec<Winner> {
        let winners = (0..count).map(async |number| {
            let user = format!("{name}-{number}");
            let answer = self.claim_at(0, campaign, &user).await;
            Winner::of(&user, &answer).unwrap_or_else(|| panic!("{answer:?}"))
        });
        join_all(winners).await
    }

    async fn are_shown_their_coupons(
        &self,
        process: usize,
        campaign: CampaignId,
        winners: impl IntoIterator<Item = &Winner>,
    ) {
        for winner in winners {
            let answer = self.claim_at(process, campaign, &winner.user).await;
            assert!(winner.is_shown(&answer), "{}: {answer:?}", winner.user);
        }
    }

    /// By nobody who would notify a process.
    async fn alter(&self, campaign: CampaignId, change: &str) {
        let change = format!("UPDATE campaigns SET {change}, version = version + 1 WHERE id = $1");
        sqlx::query(&change).bind(Uuid::from(campaign.0)).execute(&self.pool).await.unwrap();
    }

    async fn gives_seats(&self, process: usize, campaign: CampaignId) {
        let given = async || self.newcomer(process, campaign).await.status == 201;
        wait_until("seats are given", SOON, given).await;
    }
}

#[tokio::test]
async fn losers_are_refused_from_memory_until_there_are_seats_and_winners_are_shown_their_coupons() {
    let world = World::with_processes(&["", "api"]).await;
    let (campaign, winners) = world.sold_out().await;
    for process in [0, 1] {
        world.remembers(process, campaign, "sold-out").await;
        world.are_shown_their_coupons(process, campaign, &winners).await;
    }
    world.alter(campaign, "quantity = quantity + 10").await;
    for process in [0, 1] {
        world.gives_seats(process, campaign).await;
    }
    world.close().await;
}

/// Its clock is days ahead besides.
#[tokio::test]
async fn a_process_that_was_frozen_asks_before_it_refuses() {
    let mut world = World::with_processes(&[""]).await;
    let clock = Clock::new(world.folder(), "ahead");
    clock.set(time::Duration::days(3));
    let mut process = world.process("api");
    for (name, value) in clock.environment() {
        process.set(name, &value);
    }
    process.start().await;
    world.processes.push(process);
    let (campaign, _) = world.sold_out().await;
    world.remembers(1, campaign, "sold-out").await;

    world.processes[1].freeze();
    let frozen = Instant::now();
    world.alter(campaign, "quantity = quantity + 50").await;
    world.gives_seats(0, campaign).await;
    wait_until("the refusals are too old", SOON, async || frozen.elapsed() > VALID_FOR).await;
    world.processes[1].thaw();
    let given = async || {
        // Several at once: only one of them asks for the others.
        let answers = join_all((0..5).map(|_| world.newcomer(1, campaign))).await;
        assert!(answers.iter().all(|answer| answer.status != 410), "{answers:?}");
        answers.iter().any(|answer| answer.status == 201)
    };
    wait_until("seats are given", SOON, given).await;
    world.close().await;
}

#[tokio::test]
async fn a_gate_that_is_emptied_and_loaded_again_changes_no_answer() {
    let world = World::with_processes(&["", "api"]).await;
    let (campaign, winners) = world.sold_out().await;
    for _ in 0..2 {
        world.remembers(1, campaign, "sold-out").await;
        redis::cmd("FLUSHALL").exec_async(&mut world.redis().await).await.unwrap();
        let loaded = async || {
            world.are_shown_their_coupons(1, campaign, &winners[..3]).await; // by Postgres
            let refused = world.newcomer(1, campaign).await;
            assert!(refused.status == 503 || refused.problem() == "sold-out", "{refused:?}");
            redis::cmd("EXISTS")
                .arg(World::gate(campaign, ""))
                .query_async(&mut world.redis().await)
                .await
                .unwrap()
        };
        wait_until("the gate is loaded again", SOON, loaded).await;
    }
    world.alter(campaign, "quantity = quantity + 10").await;
    world.gives_seats(1, campaign).await;
    world.close().await;
}

/// Who is remembered as a holder is shown the coupon by Postgres alone.
#[tokio::test]
async fn winners_are_shown_their_coupons_while_the_gate_is_away() {
    let mut world = World::with_processes(&[""]).await;
    let (campaign, winners) = world.sold_out().await;
    world.remembers(0, campaign, "sold-out").await;
    world.servers.redis.kill().await;
    world.are_shown_their_coupons(0, campaign, &winners).await;
    world.servers.redis.start().await.unwrap();
    world.close().await;
}

#[tokio::test]
async fn a_campaign_that_opens_or_closes_is_remembered_otherwise() {
    let world = World::with_processes(&["", "api"]).await;
    let in_an_hour = crate::support::in_seconds(3_600);
    let campaign = world.create_campaign(json!({ "quantity": QUANTITY, "opens_at": in_an_hour })).await;
    let open = format!("/v1/campaigns/{campaign}/open");
    assert_eq!(world.api().post(&open, &Value::Null).await.body["state"], "scheduled");
    for process in [0, 1] {
        world.remembers(process, campaign, "not-open").await;
        assert!(world.newcomer(process, campaign).await.body["opens_at"].is_string());
    }
    world.alter(campaign, "opens_at = now() - interval '1 minute'").await;
    for process in [0, 1] {
        world.gives_seats(process, campaign).await;
    }
    for (change, refusal) in [("pause", Some("not-open")), ("open", None)] {
        let change = format!("/v1/campaigns/{campaign}/{change}");
        assert_eq!(world.processes[0].http().post(&change, &Value::Null).await.status, 200);
        for process in [0, 1] {
            match refusal {
                Some(refusal) => world.remembers(process, campaign, refusal).await,
                None => world.gives_seats(process, campaign).await,
            }
        }
    }
    let close = format!("/v1/campaigns/{campaign}/close");
    assert_eq!(world.processes[0].http().post(&close, &Value::Null).await.status, 200);
    for process in [0, 1] {
        let closed = async || world.newcomer(process, campaign).await.problem() == "closed";
        if process == 0 {
            assert!(closed().await, "the process that closed it knows");
        }
        wait_until("all others know", SOON, closed).await;
        world.remembers(process, campaign, "closed").await;
    }
    world.close().await;
}

/// A draft that another process opens: its winner is refused for a moment at most, and never again once shown.
#[tokio::test]
async fn what_was_shown_once_is_shown_again() {
    let world = World::with_processes(&["", "api"]).await;
    let campaign = world.create_campaign(json!({ "quantity": QUANTITY })).await;
    world.remembers(1, campaign, "not-open").await;
    let open = format!("/v1/campaigns/{campaign}/open");
    assert_eq!(world.processes[0].http().post(&open, &Value::Null).await.status, 200);
    let winner = &world.winners(campaign, "winner", 1).await[0];
    world.promised([winner.coupon()]);
    let mut shown = false;
    let sells = async || {
        let answers = join_all((0..8).map(|_| world.claim_at(1, campaign, &winner.user))).await;
        shown |= answers.iter().any(|answer| answer.problem() == "already-issued");
        if shown {
            let again = world.claim_at(1, campaign, &winner.user).await;
            assert_eq!(again.problem(), "already-issued", "{again:?}");
        }
        world.newcomer(1, campaign).await.status == 201
    };
    wait_until("the other process sells", SOON, sells).await;
    world.close().await;
}
