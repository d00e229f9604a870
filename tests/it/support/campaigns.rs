//! Campaigns, claims and rushes.

use std::collections::HashSet;
use std::time::Duration;

use coupon_dispatcher::ids::CampaignId;
use coupon_dispatcher::rush::{Results, Rush};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use ulid::Ulid;
use uuid::Uuid;

use super::{Answer, SOON, TOKEN, World, wait_until};

/// A campaign that can be created, with other or further fields; null leaves one out.
pub(crate) fn draft(fields: Value) -> Value {
    let mut draft = json!({
        "name": "Friday", "merchant_id": "merchant-1", "face_value": 500, "currency": "EUR", "quantity": 100,
        "opens_at": in_seconds(-3_600), "closes_at": in_seconds(3_600),
        "coupon_valid_for": "P30D", "settle_on": "issue",
    });
    let known = draft.as_object_mut().unwrap();
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    for (name, value) in fields {
        known.insert(name, value);
    }
    known.retain(|_, value| !value.is_null());
    draft
}

/// A moment from now on, as RFC 3339.
pub(crate) fn in_seconds(seconds: i64) -> String {
    (OffsetDateTime::now_utc() + time::Duration::seconds(seconds)).format(&Rfc3339).unwrap()
}

impl World {
    /// A campaign that nobody has opened yet.
    pub(crate) async fn create_campaign(&self, fields: Value) -> CampaignId {
        let created = self.api().post("/v1/campaigns", &draft(fields)).await;
        assert_eq!(created.status, 201, "{created:?}");
        serde_json::from_value(created.body["id"].clone()).unwrap()
    }

    /// A campaign that takes claims.
    pub(crate) async fn open_campaign(&self, fields: Value) -> CampaignId {
        let campaign = self.create_campaign(fields).await;
        let opened = self.api().post(&format!("/v1/campaigns/{campaign}/open"), &json!(null)).await;
        assert_eq!((opened.status, &opened.body["state"]), (200, &json!("open")), "{opened:?}");
        campaign
    }

    /// One claim, at the first process. What it promises is remembered.
    pub(crate) async fn claim(&self, campaign: CampaignId, user: &str) -> Answer {
        let path = format!("/v1/campaigns/{campaign}/coupons");
        let answer = self.api().post(&path, &json!({ "user_id": user })).await;
        let promise = if answer.status == 201 { &answer.body["id"] } else { &answer.body["coupon"]["id"] };
        self.promised(serde_json::from_value::<Ulid>(promise.clone()));
        answer
    }

    /// Many users at all processes with the API, each asking twice.
    pub(crate) fn rush(&self, campaign: CampaignId, users: usize) -> Rush {
        let serving = self.processes.iter().filter(|process| process.serves());
        Rush {
            addresses: serving.map(|process| process.address).collect(),
            token: TOKEN.to_owned(),
            campaign,
            users,
            asks: 2,
            rate: 0,
        }
    }

    /// What a rush promised is remembered; nobody was left without an answer, nobody was promised two coupons,
    /// and who was only ever refused has none.
    pub(crate) async fn answered(&self, results: &Results) {
        self.answered_but_for(results, None).await;
    }

    /// The same where seats are put back on sale: who has got a coupon since a moment may have been refused before that, or by
    /// another process within a second after it.
    pub(crate) async fn answered_but_for(&self, results: &Results, since: Option<OffsetDateTime>) {
        self.promised(results.promised.keys().copied());
        let Results { offered, issued, already_issued, sold_out, retried, errors, .. } = results;
        let answers =
            format!("{issued} issued, {already_issued} again, {sold_out} sold out, {retried} retried");
        assert_eq!(*errors, 0, "of {offered} asks some were never answered: {answers}");
        let holders: HashSet<_> = results.promised.values().collect();
        assert_eq!(holders.len(), results.promised.len(), "somebody was promised two coupons");
        let refused = results.refused.iter().filter(|user| !holders.contains(user));
        let wrongly: Vec<String> = sqlx::query_scalar(
            "SELECT user_id FROM coupons WHERE campaign_id = $1 AND user_id = ANY ($2) \
                 AND issued_at < coalesce($3, 'infinity'::timestamptz)",
        )
        .bind(Uuid::from(results.campaign.unwrap().0))
        .bind(refused.map(|user| format!("user-{user}")).collect::<Vec<_>>())
        .bind(since)
        .fetch_all(&self.pool)
        .await
        .unwrap();
        assert!(wrongly.is_empty(), "told that all is sold out, and have a coupon: {wrongly:?}");
    }

    /// Coupons of a campaign, as Postgres counts them.
    pub(crate) async fn coupons(&self, campaign: CampaignId) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM coupons WHERE campaign_id = $1")
            .bind(Uuid::from(campaign.0))
            .fetch_one(&self.pool)
            .await
            .unwrap()
    }

    /// Waits until a campaign has so many coupons: until a rush is well under way.
    pub(crate) async fn issued(&self, campaign: CampaignId, count: i64) {
        let limit = Duration::from_secs(60);
        wait_until("coupons are issued", limit, async || self.coupons(campaign).await >= count).await;
    }

    /// A key of a campaign's gate: the hash itself, or what `part` names, such as `:holders`.
    pub(crate) fn gate(campaign: CampaignId, part: &str) -> String {
        format!("gate1:{{{campaign}}}{part}")
    }

    /// Waits until so many seats of a campaign are pending, by the gate's word.
    pub(crate) async fn pending(&self, campaign: CampaignId, count: usize) {
        let mut redis = self.redis().await;
        let key = Self::gate(campaign, ":pending");
        let pending = async || {
            let pending: usize = redis::cmd("ZCARD").arg(&key).query_async(&mut redis).await.unwrap();
            pending == count
        };
        wait_until("as many seats are pending", SOON, pending).await;
    }
}
