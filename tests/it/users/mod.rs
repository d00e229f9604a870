//! End users: they claim for themselves, and see what is theirs.

mod keys;
mod login;
pub(crate) mod signing;

use hyper::Method;
use serde_json::{Value, json};

use self::signing::{Key, by_secret, claims};
use crate::support::{Answer, Http, SOON, World, draft, in_seconds, wait_until};

const HOUR: i64 = 3_600;

/// A world whose process takes tokens that a new key has signed, and tokens by the secret.
async fn with_key() -> (World, Key) {
    let mut world = World::bare(1).await;
    let key = Key::new("first");
    let file = world.folder().join("keys.json");
    std::fs::write(&file, key.jwks()).unwrap();
    world.admits_users(Some(file.display().to_string()));
    world.migrate().await;
    world.add_process("").await;
    (world, key)
}

fn user(world: &World, token: &str) -> Http {
    world.api().with_token(Some(token))
}

/// What an answer says, without what tells it from all others.
fn said(answer: &Answer) -> (u16, Value) {
    let mut body = answer.body.clone();
    if let Some(body) = body.as_object_mut() {
        body.remove("request_id");
    }
    (answer.status, body)
}

fn refused(answer: &Answer, status: u16, problem: &str) {
    assert_eq!((answer.status, answer.problem()), (status, problem), "{answer:?}");
}

#[tokio::test]
async fn a_user_claims_for_themselves_and_for_nobody_else() {
    let (world, key) = with_key().await;
    let campaign = world.open_campaign(json!({})).await;
    let path = format!("/v1/campaigns/{campaign}/coupons");
    let (alice, bob) = (user(&world, &key.token("alice")), user(&world, &by_secret("bob", HOUR)));
    let coupon = alice.post(&path, &json!({})).await;
    assert_eq!((coupon.status, &coupon.body["user_id"]), (201, &json!("alice")), "{coupon:?}");
    let again = alice.post(&path, &json!({ "user_id": "alice" })).await;
    refused(&again, 409, "already-issued");
    assert_eq!(again.body["coupon"]["id"], coupon.body["id"]);
    assert_eq!(bob.post(&path, &json!({ "user_id": "bob" })).await.status, 201);

    let (draft, closed) = (world.create_campaign(json!({})).await, world.open_campaign(json!({})).await);
    let answer = world.api().post(&format!("/v1/campaigns/{closed}/close"), &json!(null)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let sold_out = world.open_campaign(json!({ "quantity": 1 })).await;
    let path_of = |campaign: &str| format!("/v1/campaigns/{campaign}/coupons");
    let sold_path = path_of(&sold_out.to_string());
    assert_eq!(bob.post(&sold_path, &json!({})).await.status, 201);
    // From the hundredth refusal on the process answers from memory.
    for _ in 0..150 {
        refused(&alice.post(&sold_path, &json!({})).await, 410, "sold-out");
    }
    let mut forbidden = Vec::new();
    for campaign in [campaign, draft, closed, sold_out].map(|id| id.to_string()) {
        for named in ["bob", "carol", "ALICE", "alice ", "", &"x".repeat(65)] {
            let answer = alice.post(&path_of(&campaign), &json!({ "user_id": named })).await;
            refused(&answer, 403, "forbidden");
            forbidden.push(said(&answer));
        }
    }
    let unknown = path_of("01ARZ3NDEKTSV4RRFFQ69G5FAV");
    refused(&alice.post(&unknown, &json!({ "user_id": "bob" })).await, 403, "forbidden");
    forbidden.dedup();
    assert_eq!(forbidden.len(), 1, "{forbidden:?}");
    refused(&alice.post(&unknown, &json!({})).await, 404, "not-found");
    for (body, field) in [(json!({ "user_id": null }), "user_id"), (json!({ "user": "alice" }), "user")] {
        let answer = alice.post(&path, &body).await;
        refused(&answer, 422, "malformed-body");
        assert_eq!(answer.body["errors"][0]["field"], field, "{answer:?}");
    }
    // Everybody else says for whom they claim.
    refused(&world.api().post(&path, &json!({})).await, 422, "malformed-body");
    let holders = "SELECT user_id FROM coupons ORDER BY user_id";
    let holders: Vec<String> = sqlx::query_scalar(holders).fetch_all(&world.pool).await.unwrap();
    assert_eq!(holders, ["alice", "bob", "bob"]);
    world.close().await;
}

#[tokio::test]
async fn a_user_sees_what_is_theirs_and_nothing_else() {
    let (world, key) = with_key().await;
    let campaign = world.open_campaign(json!({})).await;
    let path = format!("/v1/campaigns/{campaign}/coupons");
    let (alice, bob) = (user(&world, &key.token("alice")), user(&world, &key.token("bob")));
    let own = alice.post(&path, &json!({})).await.body;
    let others = bob.post(&path, &json!({})).await.body;
    let path_of = |coupon: &Value| format!("/v1/coupons/{}", coupon["id"].as_str().unwrap());

    let shown = alice.get(&path_of(&own)).await;
    assert_eq!((shown.status, &shown.body), (200, &own), "{shown:?}");
    let unknown = alice.get("/v1/coupons/01ARZ3NDEKTSV4RRFFQ69G5FAV").await;
    refused(&unknown, 404, "not-found");
    let hidden = alice.get(&path_of(&others)).await;
    assert_eq!(said(&hidden), said(&unknown));
    let names = |answer: &Answer| {
        let mut names: Vec<_> = answer.headers.keys().map(|name| name.as_str().to_owned()).collect();
        names.sort_unstable();
        names
    };
    assert_eq!(names(&hidden), names(&unknown));
    assert_eq!(world.api().get(&path_of(&others)).await.body, others);

    let wallet = |user: &str| format!("/v1/users/{user}/coupons");
    let holds = async |api: &Http, user: &str| {
        let answer = api.get(&wallet(user)).await;
        answer.body["coupons"].as_array().is_some_and(|coupons| coupons.len() == 1)
    };
    wait_until("alice sees her coupon", SOON, async || holds(&alice, "alice").await).await;
    wait_until("bob sees his coupon", SOON, async || holds(&bob, "bob").await).await;
    let unknown = alice.get(&wallet("nobody")).await;
    refused(&unknown, 404, "not-found");
    for path in [wallet("bob"), format!("{}?limit=0", wallet("bob")), wallet("Alice")] {
        let hidden = alice.get(&path).await;
        assert_eq!(said(&hidden), said(&unknown), "{path}");
    }
    world.close().await;
}

#[tokio::test]
async fn a_user_sees_campaigns_that_are_no_drafts_and_changes_none() {
    let (world, key) = with_key().await;
    let alice = user(&world, &key.token("alice"));
    let (open, draft_id) = (world.open_campaign(json!({})).await, world.create_campaign(json!({})).await);
    let shown = alice.get(&format!("/v1/campaigns/{open}")).await;
    assert_eq!((shown.status, &shown.body["state"]), (200, &json!("open")), "{shown:?}");
    let unknown = alice.get("/v1/campaigns/01ARZ3NDEKTSV4RRFFQ69G5FAV").await;
    let hidden = alice.get(&format!("/v1/campaigns/{draft_id}")).await;
    refused(&hidden, 404, "not-found");
    assert_eq!(said(&hidden), said(&unknown));
    for (method, path, body) in [
        (Method::GET, "/v1/campaigns".to_owned(), json!(null)),
        (Method::POST, "/v1/campaigns".to_owned(), draft(json!({}))),
        (Method::POST, format!("/v1/campaigns/{draft_id}/open"), json!(null)),
        (Method::PATCH, format!("/v1/campaigns/{open}"), json!({ "quantity": 9 })),
        (Method::GET, format!("/v1/campaigns/{open}/changes"), json!(null)),
        (Method::POST, format!("/v1/campaigns/{open}/sync"), json!(null)),
        (Method::GET, format!("/v1/coupons/{open}/changes"), json!(null)),
        (Method::POST, format!("/v1/coupons/{open}/redeem"), json!({ "order_ref": "order-1" })),
        (Method::POST, format!("/v1/coupons/{open}/restore"), json!({ "order_ref": "order-1" })),
        (Method::POST, "/v1/redemptions".to_owned(), json!({ "order_ref": "order-1" })),
        (Method::POST, format!("/v1/campaigns/{open}/pause"), json!(null)),
        (Method::POST, format!("/v1/campaigns/{open}/close"), json!(null)),
    ] {
        refused(&alice.send(method, &path, body.to_string()).await, 403, "forbidden");
    }
    let states = "SELECT state FROM campaigns ORDER BY state";
    let states: Vec<String> = sqlx::query_scalar(states).fetch_all(&world.pool).await.unwrap();
    assert_eq!(states, ["draft", "open"]);
    world.close().await;
}

/// To them no coupon of another user exists.
#[tokio::test]
async fn a_user_cancels_what_is_theirs() {
    let (world, key) = with_key().await;
    let campaign = world.open_campaign(json!({})).await;
    let (alice, bob) = (user(&world, &key.token("alice")), user(&world, &key.token("bob")));
    let coupon = alice.post(&format!("/v1/campaigns/{campaign}/coupons"), &json!({})).await;
    let path = format!("/v1/coupons/{}/cancel", coupon.body["id"].as_str().unwrap());
    let unknown = bob.post("/v1/coupons/01ARZ3NDEKTSV4RRFFQ69G5FAV/cancel", &json!({})).await;
    let hidden = bob.post(&path, &json!({})).await;
    refused(&hidden, 404, "not-found");
    assert_eq!(said(&hidden), said(&unknown));
    let cancelled = alice.post(&path, &json!({})).await;
    assert_eq!((cancelled.status, &cancelled.body["actor"]), (200, &json!("user:alice")), "{cancelled:?}");
    refused(&alice.post(&path, &json!({})).await, 409, "cancelled");
    assert_eq!(said(&bob.post(&path, &json!({})).await), said(&unknown));
    world.balanced().await;
    world.close().await;
}

/// Neither by what a claim comes to, nor by what it lacks.
#[tokio::test]
async fn a_user_learns_of_no_draft_by_a_claim() {
    let (world, key) = with_key().await;
    let alice = user(&world, &key.token("alice"));
    let path = |id: &str| format!("/v1/campaigns/{id}/coupons");
    let unknown = alice.post(&path("01ARZ3NDEKTSV4RRFFQ69G5FAV"), &json!({})).await;
    refused(&unknown, 404, "not-found");
    let mut drafts = Vec::new();
    for fields in
        [json!({}), json!({ "require_idempotency_key": true }), json!({ "opens_at": in_seconds(60) })]
    {
        drafts.push(world.create_campaign(fields).await.to_string());
    }
    for draft in &drafts {
        for api in [&alice, &alice.with("idempotency-key", "one")] {
            assert_eq!(said(&api.post(&path(draft), &json!({})).await), said(&unknown));
        }
        // All others see drafts.
        refused(
            &world
                .api()
                .with("idempotency-key", "one")
                .post(&path(draft), &json!({ "user_id": "alice" }))
                .await,
            403,
            "not-open",
        );
    }
    for (draft, status) in drafts.iter().zip([201, 400, 403]) {
        let opened = world.api().post(&format!("/v1/campaigns/{draft}/open"), &json!(null)).await;
        assert_eq!(opened.status, 200, "{opened:?}");
        assert_eq!(alice.post(&path(draft), &json!({})).await.status, status, "at once");
    }
    world.close().await;
}

#[tokio::test]
async fn a_token_that_is_not_valid_is_refused_without_a_reason() {
    let (world, key) = with_key().await;
    let campaign = world.open_campaign(json!({})).await;
    let path = format!("/v1/campaigns/{campaign}/coupons");
    let mut tokens = vec![
        ("expired", by_secret("alice", -31)),
        ("another key", Key::new("first").token("alice")),
        ("an unknown key", Key::new("second").token("alice")),
        ("a user who cannot be", key.token(&"x".repeat(65))),
        ("two dots", "..".to_owned()),
        ("words", "a.b.c".to_owned()),
        ("more than 8 KiB", format!("{}.b.c", "a".repeat(9_000))),
    ];
    for (claim, value) in [("iss", "https://other.example"), ("aud", "other")] {
        let mut claims = claims("alice", HOUR);
        claims[claim] = json!(value);
        tokens.push((claim, key.signed(&claims)));
    }
    let nobody = world.api().with_token(None).post(&path, &json!({})).await;
    refused(&nobody, 401, "unauthorized");
    for (what, token) in tokens {
        let answer = user(&world, &token).post(&path, &json!({})).await;
        assert_eq!(said(&answer), said(&nobody), "{what}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"), "{what}");
        let log = world.processes[0].log();
        assert!(
            !log.contains(token.rsplit('.').next().filter(|part| part.len() > 8).unwrap_or(&token)),
            "{what}"
        );
    }
    world.close().await;
}

/// As long as no end user has access, nothing is told apart by its dots.
#[tokio::test]
async fn an_admin_token_may_have_dots() {
    const DOTTED: &str = "an.admin.token-for-tests";
    for takes_users in [false, true] {
        let mut world = World::bare(1).await;
        world.set("ADMIN_TOKEN", DOTTED);
        if takes_users {
            world.admits_users(None);
        }
        world.migrate().await;
        world.add_process("").await;
        assert_eq!(user(&world, DOTTED).get("/v1/campaigns").await.status, 200);
        let alice = user(&world, &by_secret("alice", HOUR)).get("/v1/users/alice/coupons").await;
        assert_eq!(alice.status, if takes_users { 200 } else { 401 }, "{alice:?}");
        assert_eq!(user(&world, "an.admin.token-for-testS").get("/v1/campaigns").await.status, 401);
        world.close().await;
    }
}

/// An idempotency key belongs to the user, whatever token says who that is.
#[tokio::test]
async fn the_key_of_a_user_is_not_that_of_another() {
    let (world, key) = with_key().await;
    let campaign = world.open_campaign(json!({ "per_user_limit": 2 })).await;
    let path = format!("/v1/campaigns/{campaign}/coupons");
    let tokens = [key.token("alice"), key.token("alice"), by_secret("alice", HOUR), key.token("bob")];
    let mut answers = Vec::new();
    for token in tokens {
        let answer = user(&world, &token).with("Idempotency-Key", "one").post(&path, &json!({})).await;
        let is_replayed = answer.header("idempotency-replayed").is_some();
        answers.push((answer.status, answer.body["id"].clone(), answer.body["user_id"].clone(), is_replayed));
    }
    let [first, again, renewed, other] = &answers[..] else { unreachable!("four tokens") };
    assert_eq!((first.0, &first.2, first.3), (201, &json!("alice"), false), "{answers:?}");
    for replayed in [again, renewed] {
        assert_eq!(replayed, &(201, first.1.clone(), json!("alice"), true), "{answers:?}");
    }
    assert_eq!((other.0, &other.2, other.3), (201, &json!("bob"), false), "{answers:?}");
    world.close().await;
}
