//! What goes on beside the rush: coupons are redeemed, restored and cancelled, and the quantity is raised.

use std::collections::HashMap;
use std::time::Duration;

use coupon_dispatcher::ids::CampaignId;
use hyper::Method;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use crate::support::Http;

/// Between two of them, in milliseconds.
const APART: std::ops::Range<u64> = 5..60;

/// Uses coupons of one campaign until the end of a rush.
pub(super) struct Uses {
    pub(super) processes: Vec<Http>,
    pub(super) campaign: CampaignId,
    pub(super) users: usize,
    pub(super) random: StdRng,
    /// The coupons of orders that were told that they have redeemed one.
    pub(super) redeemed: HashMap<String, Value>,
    orders: u32,
}

impl Uses {
    pub(super) fn new(processes: Vec<Http>, campaign: CampaignId, users: usize, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { processes, campaign, users, random, redeemed: HashMap::new(), orders: 0 }
    }

    pub(super) async fn run(mut self, length: Duration) -> Self {
        let end = Instant::now() + length;
        let mut pause = tokio::time::interval(Duration::from_millis(self.random.random_range(APART)));
        while timeout_at(end, async { pause.tick().await }).await.is_ok() {
            self.one().await;
        }
        self
    }

    /// One of them, at any process. Most have no answer while everything breaks.
    async fn one(&mut self) {
        let api = self.processes.choose(&mut self.random).unwrap().clone();
        if self.random.random_ratio(1, 40) {
            let path = format!("/v1/campaigns/{}", self.campaign);
            let Some(shown) = api.try_get(&path).await else { return };
            let Some(quantity) = shown.body["quantity"].as_i64() else { return };
            let raised = json!({ "quantity": quantity + 1 });
            drop(api.try_send(Method::PATCH, &path, raised.to_string()).await);
            return;
        }
        let user = self.random.random_range(0..self.users);
        let Some(wallet) = api.try_get(&format!("/v1/users/user-{user}/coupons")).await else { return };
        let Some(coupon) = wallet.body["coupons"][0]["id"].as_str() else { return };
        self.orders += 1;
        let order = format!("order-{}", self.orders);
        let earlier = wallet.body["coupons"][0]["state"] == "redeemed";
        let (action, body) = match self.random.random_range(0..10) {
            0 => ("cancel", Value::Null),
            1..4 if earlier => {
                let known =
                    self.redeemed.iter().find(|(_, of)| *of == coupon).map(|(order, _)| order.clone());
                ("restore", json!({ "order_ref": known.unwrap_or(order.clone()) }))
            }
            _ => ("redeem", json!({ "order_ref": order })),
        };
        let answer = api.try_post(&format!("/v1/coupons/{coupon}/{action}"), &body).await;
        let Some(answer) = answer else { return };
        assert!([200, 404, 409, 410, 503].contains(&answer.status), "{action}: {answer:?}");
        if answer.status == 200 && action == "redeem" {
            self.redeemed.insert(order, json!(coupon));
        }
    }

    /// Every order that was told that it has redeemed a coupon has redeemed it.
    pub(super) async fn are_kept(&self) {
        for (order, coupon) in &self.redeemed {
            let path = format!("/v1/coupons/{}/redeem", coupon.as_str().unwrap());
            let again = self.processes[0].post(&path, &json!({ "order_ref": order })).await;
            assert_eq!(
                (again.status, again.header("idempotency-replayed")),
                (200, Some("true")),
                "{order}: {again:?}"
            );
        }
    }
}
