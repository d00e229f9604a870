//! What breaks, and what holds nevertheless.

mod apart;
mod clients;
mod clocks;
mod cold;
mod disks;
mod gate;
mod losses;
mod nats;
mod operations;
mod overload;
#[cfg(feature = "failpoints")]
mod points;
mod postgres;
mod processes;
mod redis;
mod seats;
mod silence;
mod storage;
mod strict;
mod wires;

use coupon_dispatcher::ids::CampaignId;
use serde_json::json;
use ulid::Ulid;

use crate::support::{Fault, World};

/// So many users rush for so many coupons; when a quarter is issued, something happens.
const USERS: usize = 3_000;
const QUANTITY: i64 = 2_500;

/// Everybody was answered in the end, and all coupons found an owner.
async fn survives(world: &mut World, fault: &Fault, happening: impl AsyncFnOnce(&mut World, CampaignId)) {
    let campaign = world.open_campaign(json!({ "quantity": QUANTITY })).await;
    let rush = tokio::spawn(world.rush(campaign, USERS).run());
    world.issued(campaign, QUANTITY / 4).await;
    assert!(world.coupons(campaign).await < QUANTITY, "the rush was over too soon");
    happening(world, campaign).await;
    fault.fired(1);
    world.answered(&rush.await.unwrap()).await;
    fault.healed();
}

/// Who has no coupon yet: whoever got one is shown it, whatever breaks.
fn someone() -> String {
    format!("someone-{}", Ulid::generate())
}
