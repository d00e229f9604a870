//! The `OpenAPI` document says what the service does.

use std::collections::BTreeSet;

use coupon_dispatcher::campaign::State;
use coupon_dispatcher::coupon::CouponState;
use coupon_dispatcher::http::{Access, routes};
use hyper::Method;
use serde_json::{Value, json};

use crate::support::contract::{assert_described, document, problems, resolve};
use crate::support::{Answer, Http, SOON, World, coupon, wait_for};

#[test]
fn router_and_document_have_the_same_operations() {
    let document = document();
    let mut told = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let id = operation["operationId"].as_str().unwrap();
            told.insert((method.to_uppercase(), path.as_str(), id, operation["security"].is_array()));
        }
    }
    let routes = routes().map(|route| {
        let needs_token = route.access != Access::Public;
        (route.method.to_string(), route.path, route.operation, needs_token)
    });
    assert_eq!(told, routes.collect());
}

/// Every reference leads somewhere, every component is used, and every parameter of a path is told.
#[test]
fn the_document_is_whole() {
    let document = document();
    let text = document.to_string();
    for (kind, components) in document["components"].as_object().unwrap() {
        for name in components.as_object().unwrap().keys().filter(|_| kind != "securitySchemes") {
            // No operation answers 405: it is the answer to a method that is none of its path.
            let is_used = text.contains(&format!("\"#/components/{kind}/{name}\""));
            assert!(is_used || name == "Problem.method-not-allowed", "nothing uses {name}");
        }
    }
    for reference in text.split("\"$ref\":\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(document.pointer(reference).is_some(), "{reference} leads nowhere");
    }
    for (path, operations) in document["paths"].as_object().unwrap() {
        let expected: BTreeSet<_> = path.split(['{', '}']).skip(1).step_by(2).collect();
        for operation in operations.as_object().unwrap().values() {
            let parameters = operation["parameters"].as_array().unwrap().iter();
            let parameters = parameters.map(|parameter| resolve(&document, parameter));
            let in_path = parameters.filter(|parameter| parameter["in"] == "path");
            assert_eq!(in_path.map(|one| one["name"].as_str().unwrap()).collect::<BTreeSet<_>>(), expected);
        }
    }
}

#[test]
fn the_document_names_every_state() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["CampaignState"]["enum"], json!(State::ALL.map(State::as_str)));
    assert_eq!(schemas["CouponState"]["enum"], json!(CouponState::ALL.map(CouponState::as_str)));
    let statuses = [&["usable"][..], &CouponState::ALL.map(CouponState::as_str)].concat();
    assert_eq!(document["components"]["parameters"]["status"]["schema"]["enum"], json!(statuses));
}

/// Each example fits its schema.
#[test]
fn examples_are_as_the_document_describes_them() {
    let document = document();
    let mut seen = 0;
    let mut fits = |schema: &Value, example: &Value| {
        let problems = problems(&document, schema, example);
        assert!(problems.is_empty() && !example.is_null(), "{problems:?}: {example}");
        seen += 1;
    };
    for operations in document["paths"].as_object().unwrap().values() {
        for operation in operations.as_object().unwrap().values() {
            let answers = operation["responses"].as_object().unwrap().values();
            for described in answers.chain(operation.get("requestBody")) {
                for media in described["content"].as_object().unwrap().values() {
                    if media["schema"]["$ref"].is_string() {
                        fits(&media["schema"], &media["example"]);
                    }
                    let examples = media["examples"].as_object();
                    for example in examples.into_iter().flat_map(|examples| examples.values()) {
                        fits(&media["schema"], &example["value"]);
                    }
                }
            }
        }
    }
    assert!(seen > 100, "{seen} examples");
}

/// The fields of a value, and the type of each.
fn shape(value: &Value) -> Value {
    match value {
        Value::Object(members) => members.iter().map(|(name, value)| (name.clone(), shape(value))).collect(),
        Value::Array(items) => items.iter().take(1).map(shape).collect(),
        Value::String(_) => "string".into(),
        Value::Number(_) => "number".into(),
        Value::Bool(_) => "boolean".into(),
        Value::Null => Value::Null,
    }
}

/// What becomes of a coupon.
async fn uses_are_as_told(
    api: &Http,
    coupon: &str,
    (at, is_as_told): (&impl Fn(&str) -> Value, &impl Fn(&str, &str, &Answer)),
) {
    let coupon = format!("/v1/coupons/{coupon}");
    let of = |path: &str| {
        at(&format!("/paths/{}/post/requestBody/content/application~1json/example", path.replace('/', "~1")))
    };
    let mut by_code = of("/v1/redemptions");
    by_code["code"] = api.get(&coupon).await.body["code"].clone();
    let by_id = of("/v1/coupons/{id}/redeem");
    is_as_told("POST", "/v1/coupons/{id}/redeem", &api.post(&format!("{coupon}/redeem"), &by_id).await);
    is_as_told("POST", "/v1/redemptions", &api.post("/v1/redemptions", &by_code).await);
    let restored = api.post(&format!("{coupon}/restore"), &of("/v1/coupons/{id}/restore")).await;
    is_as_told("POST", "/v1/coupons/{id}/restore", &restored);
    is_as_told("GET", "/v1/coupons/{id}/changes", &api.get(&format!("{coupon}/changes")).await);
    let mut cancelled = api.post(&format!("{coupon}/cancel"), &json!({})).await;
    assert_eq!((&cancelled.body["order_ref"], &cancelled.body["amount"]), (&Value::Null, &Value::Null));
    cancelled.body["order_ref"] = json!("order-7");
    cancelled.body["amount"] = json!(500);
    is_as_told("POST", "/v1/coupons/{id}/cancel", &cancelled);
}

/// Answers of the running service have the fields and types of the examples. The requests are the examples too.
#[tokio::test]
async fn examples_are_answers_of_the_service() {
    let document = document();
    let at = |pointer: &str| document.pointer(pointer).unwrap_or_else(|| panic!("{pointer}")).clone();
    let is_as_told = |method: &str, path: &str, answer: &Answer| {
        assert_described(method, path, answer);
        let media = &document["paths"][path][method.to_ascii_lowercase()]["responses"];
        let media = &media[answer.status.to_string()]["content"]["application/json"];
        assert_eq!(shape(&answer.body), shape(&media["example"]), "{method} {path}: {answer:?}");
    };
    let world = World::start().await;
    let api = world.api();
    let (all, one) = ("/v1/campaigns", "/v1/campaigns/{id}");
    let new = at("/paths/~1v1~1campaigns/post/requestBody/content/application~1json/example");
    let created = api.post(all, &new).await;
    is_as_told("POST", all, &created);
    let campaign = created.header("location").unwrap();
    is_as_told("GET", one, &api.get(campaign).await);
    is_as_told("GET", all, &api.get(all).await);
    is_as_told("POST", "/v1/campaigns/{id}/open", &api.post(&format!("{campaign}/open"), &json!({})).await);
    let claim =
        at("/paths/~1v1~1campaigns~1{id}~1coupons/post/requestBody/content/application~1json/example");
    // The example of a campaign opens at a time of its own; another one is open now.
    let open = world.open_campaign(json!({ "merchant_id": "shop-7" })).await;
    let keyed = api.with("idempotency-key", "order-7");
    for replayed in [None, Some("true")] {
        let claimed = keyed.post(&format!("{all}/{open}/coupons"), &claim).await;
        is_as_told("POST", "/v1/campaigns/{id}/coupons", &claimed);
        assert_eq!(claimed.header("idempotency-replayed"), replayed);
        let coupon = api.get(claimed.header("location").unwrap()).await;
        is_as_told("GET", "/v1/coupons/{id}", &coupon);
        let code = coupon.body["code"].as_str().unwrap();
        is_as_told("GET", "/v1/coupons", &api.get(&format!("/v1/coupons?code={code}")).await);
    }
    let wallet = wait_for("the coupon is in the wallet", SOON, async || {
        let wallet = api.get("/v1/users/alice/coupons").await;
        (wallet.body["coupons"] != json!([])).then_some(wallet)
    });
    let wallet = wallet.await;
    is_as_told("GET", "/v1/users/{user_id}/coupons", &wallet);
    uses_are_as_told(&api, wallet.body["coupons"][0]["id"].as_str().unwrap(), (&at, &is_as_told)).await;
    let edit = at("/paths/~1v1~1campaigns~1{id}/patch/requestBody/content/application~1json/example");
    let edited = api.send(Method::PATCH, &format!("{all}/{open}"), edit.to_string()).await;
    is_as_told("PATCH", one, &edited);
    let mut changes = api.get(&format!("{all}/{open}/changes?limit=1")).await;
    changes.body["next"] = Value::Null;
    changes.body["changes"][0]["before"] = json!({ "quantity": 1 });
    changes.body["changes"][0]["after"] = json!({ "quantity": 1 });
    is_as_told("GET", "/v1/campaigns/{id}/changes", &changes);
    let mut synced = api.post(&format!("{all}/{open}/sync"), &json!({})).await;
    assert_eq!(synced.body["fields"], json!([]), "{synced:?}");
    synced.body["fields"] = json!([{ "field": "quantity", "found": "1", "expected": "2" }]);
    is_as_told("POST", "/v1/campaigns/{id}/sync", &synced);
    let paused = api.post(&format!("{all}/{open}/pause"), &json!({})).await;
    is_as_told("POST", "/v1/campaigns/{id}/pause", &paused);
    let closed = api.post(&format!("{campaign}/close"), &json!({})).await;
    is_as_told("POST", "/v1/campaigns/{id}/close", &closed);
    is_as_told("GET", "/readyz", &api.get("/readyz").await);
    // Text has what its example has around each `…`, and a document its member.
    for path in
        ["/livez", "/docs", "/problems", "/problems/{slug}", "/metrics", "/openapi.json", "/asyncapi.json"]
    {
        let media = at(&format!("/paths/{}/get/responses/200/content", path.replace('/', "~1")));
        for (media_type, told) in media.as_object().unwrap() {
            let accept: &'static str = String::leak(media_type.clone());
            let answer = api.with("accept", accept).get(&path.replace("{slug}", "not-found")).await;
            let mut rest = answer.text.as_str();
            for part in told["example"].as_str().unwrap_or_default().split('…') {
                rest = &rest[rest.find(part).unwrap_or_else(|| panic!("{path} {media_type}: {part:?}"))
                    + part.len()..];
            }
            for (member, value) in told["example"].as_object().into_iter().flatten() {
                assert_eq!(&answer.body[member], value, "{path}");
            }
        }
    }
    world.close().await;
}

#[tokio::test]
async fn the_document_is_served_and_printed() {
    let world = World::with_processes(&["api", "relay"]).await;
    let printed = coupon(&["openapi"], &[]).await;
    assert_eq!((printed.code, &*printed.err), (Some(0), ""), "{printed:?}");
    for process in &world.processes {
        let api = process.http().with_token(None);
        let served = wait_for("the process listens", SOON, async || api.try_get("/openapi.json").await);
        let answer = served.await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        assert_eq!(answer.text, printed.out);
        assert_eq!(answer.body["openapi"], "3.1.0");
    }
    world.close().await;
}
