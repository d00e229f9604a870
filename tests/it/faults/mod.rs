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

/// So many users rush for so many coupons.
const USERS: usize = 3_000;
const QUANTITY: i64 = 2_500;

/// Something happens in a rush: when a part of the users have a quarter of the coupons, too few for all, and everybody has
/// begun to ask. Everybody is answered in the end.
async fn survives(world: &mut World, fault: &Fault, happening: impl AsyncFnOnce(&mut World, CampaignId)) {
    let campaign = world.open_campaign(json!({ "quantity": QUANTITY })).await;
    let first = tokio::spawn(world.rush(campaign, USERS * 2 / 5).run());
    world.issued(campaign, QUANTITY / 4).await;
    let all = tokio::spawn(world.rush(campaign, USERS).run());
    happening(world, campaign).await;
    fault.fired(1);
    for rush in [first, all] {
        world.answered(&rush.await.unwrap()).await;
    }
    fault.healed();
}

/// Who has no coupon yet: whoever got one is shown it, whatever breaks.
fn someone() -> String {
    format!("someone-{}", Ulid::generate())
}
