//! Every parameter and field that the `OpenAPI` document knows, with values that it cannot have: a new one is covered by
//! itself, or asks here what is wrong for it.

use coupon_dispatcher::http::Route;
use serde_json::{Value, json};

use super::{all, body_of, is_problem};
use crate::support::contract::{document, resolve};
use crate::support::{Socket, TOKEN, World};

/// The parameters of an operation in a place, by their names.
fn parameters(document: &Value, route: &Route, place: &str) -> Vec<String> {
    let operation = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
    let parameters = operation["parameters"].as_array().unwrap().iter();
    let parameters = parameters.map(|parameter| resolve(document, parameter));
    let here = parameters.filter(|parameter| parameter["in"] == place);
    here.map(|parameter| parameter["name"].as_str().unwrap().to_owned()).collect()
}

/// Values that a parameter of a path or query cannot have, percent-encoded.
fn wrong(name: &str) -> Vec<String> {
    let known: &[&str] = match name {
        "id" | "cursor" => &[
            "1",
            "ZZZZZZZZZZZZZZZZZZZZZZZZZZ",
            "81ARZ3NDEKTSV4RRFFQ69G5FAV",
            "01ARZ3NDEKTSV4RRFFQ69G5FA%31%31",
        ],
        "user_id" => &["a%20b", "%7F"],
        "slug" => &["NOT-FOUND", "not-found%20"],
        "limit" => &["", "0", "-1", "201", "1.5", "1e1", "%2B1", "few", "99999999999999999999"],
        "state" | "status" => &["", "lost", "OPEN", "open,", "open,,closed", "open;closed"],
        "dry_run" => &["", "1", "yes", "TRUE", "true,false"],
        "code" => &["", "7Q2M", "CBDQ-JJS3-YXM5-5SWY-9BD4", "CBDQ-JJS3-YXM5-5SWY-9BD63"],
        name => panic!("say here what is wrong for {name}"),
    };
    let always = ["%00", "%ff", "%C3%A9", "%0A", "%1B%5B31m"].map(str::to_owned);
    known.iter().map(ToString::to_string).chain(always).chain(["x".repeat(300)]).collect()
}

#[tokio::test]
async fn every_wrong_parameter_of_a_path_is_a_problem() {
    let world = World::start().await;
    let document = document();
    let mut seen = 0;
    for (route, _) in all() {
        let body = body_of(route).unwrap_or_default().to_string();
        for name in parameters(&document, route, "path") {
            for value in wrong(&name) {
                let path = route.path.replace(&format!("{{{name}}}"), &value);
                let answer = world.api().send(route.method.clone(), &path, body.clone()).await;
                let (status, slug, named): (_, _, &[_]) = match name.as_str() {
                    "user_id" => (422, "invalid", &["user_id"]),
                    _ => (404, "not-found", &[]),
                };
                is_problem(&answer, status, slug, named, &format!("{} {path}", route.method));
                seen += 1;
            }
        }
    }
    assert!(seen >= 60, "{seen}");
    world.close().await;
}

#[tokio::test]
async fn every_wrong_parameter_of_a_query_is_named() {
    let world = World::start().await;
    let document = document();
    let mut seen = 0;
    for (route, path) in all() {
        for name in parameters(&document, route, "query") {
            for value in wrong(&name) {
                let path = format!("{path}?{name}={value}");
                let answer = world.api().send(route.method.clone(), &path, "").await;
                is_problem(&answer, 422, "invalid", &[&name], &path);
                seen += 1;
            }
        }
    }
    assert!(seen >= 60, "{seen}");
    world.close().await;
}

#[tokio::test]
async fn every_wrong_idempotency_key_is_refused_by_every_route_that_takes_one() {
    let world = World::start().await;
    let document = document();
    let long: &'static str = String::leak("k".repeat(256));
    let mut seen = 0;
    for (route, path) in all() {
        if !parameters(&document, route, "header").iter().any(|name| name == "Idempotency-Key") {
            assert!(!route.writes(), "{path}");
            continue;
        }
        let body = body_of(route).unwrap_or_default().to_string();
        for key in ["", "two words", "\u{e9}", "tab\there", long] {
            let api = world.api().with("idempotency-key", key);
            let answer = api.send(route.method.clone(), &path, body.clone()).await;
            is_problem(&answer, 422, "invalid", &["Idempotency-Key"], &format!("{path} {key:?}"));
            seen += 1;
        }
        let twice = world.api().with("idempotency-key", "one").with("idempotency-key", "one");
        let answer = twice.send(route.method.clone(), &path, body.clone()).await;
        is_problem(&answer, 400, "malformed-request", &["Idempotency-Key"], &path);
    }
    assert!(seen >= 20, "{seen}");
    world.close().await;
}

/// Whatever stands before the service may read the other one.
#[tokio::test]
async fn a_header_of_one_value_is_not_given_twice() {
    let world = World::start().await;
    for (route, path) in all() {
        let body = body_of(route).unwrap_or_default().to_string();
        for (header, name, value) in [
            ("authorization", "Authorization", "Bearer a-token-for-tests-only"),
            ("authorization", "Authorization", "Basic eA=="),
            ("host", "Host", "example.org"),
            ("content-type", "Content-Type", "application/json"),
            ("content-type", "Content-Type", "text/plain"),
        ] {
            let api = world.api().with(header, value);
            let answer = api.send(route.method.clone(), &path, body.clone()).await;
            is_problem(&answer, 400, "malformed-request", &[name], &format!("{path} {header}: {value}"));
            assert_eq!(answer.header("connection"), Some("close"), "{answer:?}");
        }
    }
    // Two lengths that are the same are one, as RFC 9110, section 8.6, has it; two that differ are in `unreadable`.
    let lengths = format!(
        "POST /v1/campaigns HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\
         Content-Length: 2\r\nContent-Length: 2\r\n\r\n{{}}"
    );
    let answered = Socket::connect(world.processes[0].address).await.say_all(lengths).await;
    assert!(answered.starts_with("HTTP/1.1 422 "), "{answered}");
    let lists = world.api().with("accept", "text/html").with("accept", "text/plain").with("x-mine", "1");
    assert_eq!(lists.with("x-mine", "2").get("/v1/campaigns").await.status, 200);
    world.close().await;
}

#[tokio::test]
async fn every_wrong_value_of_a_field_is_named() {
    let world = World::start().await;
    let document = document();
    let mut seen = 0;
    for (route, path) in all() {
        let Some(right) = body_of(route) else { continue };
        let described = &document["paths"][route.path]["post"]["requestBody"]["content"]["application/json"];
        let schema = resolve(&document, &described["schema"]);
        for (name, field) in schema["properties"].as_object().unwrap() {
            // One that may be null says so beside its type.
            let field = field["oneOf"].as_array().and_then(|forms| forms.first()).unwrap_or(field);
            let kinds = resolve(&document, field)["type"].to_string();
            let values: Vec<Value> = if kinds.contains("integer") {
                vec![json!(0), json!(-1), json!(i64::MIN), json!(i64::MAX), json!(u64::MAX), json!(1e300)]
            } else if kinds.contains("string") {
                let long = "x".repeat(10_000);
                ["", "\0", "a\nb", "\u{1b}[31m", "\u{7f}", &long].map(|text| json!(text)).to_vec()
            } else {
                assert!(kinds.contains("boolean"), "say here what is wrong for {name}: {kinds}");
                vec![json!(0), json!("true"), json!(null)]
            };
            for value in values {
                let mut body = right.clone();
                body[name] = value.clone();
                let answer = world.api().post(&path, &body).await;
                let slug = answer.problem();
                assert!(["invalid", "malformed-body"].contains(&slug), "{name} {value}: {answer:?}");
                is_problem(&answer, 422, slug, &[name], &format!("{name} {value}"));
                seen += 1;
            }
        }
    }
    assert!(seen >= 60, "{seen}");
    world.close().await;
}
