//! Every route × every wrong type, size, encoding and header: a problem with the right status, which names what is wrong.

mod ids;
mod traces;
mod unreadable;
mod values;

use coupon_dispatcher::http::{Access, Route, routes};
use hyper::Method;
use serde_json::{Value, json};

use crate::support::{Answer, Http, Socket, TOKEN, World, draft};

/// The routes whose body has fields, each with a body that is right.
fn body_of(route: &Route) -> Option<Value> {
    match route.operation {
        "createCampaign" => Some(draft(json!({}))),
        "claimCoupon" => Some(json!({ "user_id": "alice" })),
        "redeemCoupon" => Some(redemption()),
        "redeemCode" => {
            let mut body = redemption();
            body["code"] = json!("CBDQ-JJS3-YXM5-5SWY-9BD6");
            Some(body)
        }
        "restoreCoupon" => Some(json!({ "order_ref": "order-7" })),
        _ => None,
    }
}

fn redemption() -> Value {
    json!({
        "order_ref": "order-7", "amount": 500, "currency": "EUR", "user_id": "alice", "merchant_id": "shop-7",
    })
}

/// A path of the route, with something that exists for each of its parameters.
fn path_of(route: &Route, id: &str) -> String {
    let path = route.path.replace("{id}", id).replace("{user_id}", "alice").replace("{slug}", "not-found");
    assert!(!path.contains('{'), "say here what to put into {path}");
    path
}

/// Of each route a path with an id that nothing has: what is asked is judged before it is looked up.
fn all() -> impl Iterator<Item = (&'static Route, String)> {
    routes().map(|route| (route, path_of(route, "01ARZ3NDEKTSV4RRFFQ69G5FAV")))
}

/// The fields that a problem names, in its order.
fn fields(answer: &Answer) -> Vec<&str> {
    let errors = answer.body["errors"].as_array();
    errors.into_iter().flatten().map(|error| error["field"].as_str().unwrap()).collect()
}

/// The answer is this problem, whole, and names these fields.
fn is_problem(answer: &Answer, status: u16, slug: &str, named: &[&str], what: &str) {
    let said = format!("{what}: {answer:?}");
    assert_eq!((answer.status, answer.problem()), (status, slug), "{said}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{said}");
    assert_eq!(answer.body["status"], status, "{said}");
    assert_eq!(answer.body["request_id"].as_str(), answer.header("request-id"), "{said}");
    assert_eq!(fields(answer), named, "{said}");
    for error in answer.body["errors"].as_array().into_iter().flatten() {
        let reason = error["reason"].as_str().unwrap();
        assert!(
            reason.starts_with("must ") || reason.starts_with("is ") || reason.starts_with("ends "),
            "{said}"
        );
    }
}

#[tokio::test]
async fn unknown_parameters_are_refused_by_every_route() {
    let world = World::start().await;
    for (route, path) in all() {
        let body = body_of(route).unwrap_or_default().to_string();
        for (query, named) in [
            ("x=1", vec!["x"]),
            ("x=1&colour=red&x=2", vec!["x", "colour"]),
            ("%22%0A=1", vec!["\"\n"]),
            ("=", vec!["\"\""]),
            ("%ff", vec!["\u{fffd}"]),
        ] {
            let path = format!("{path}?{query}");
            let answer = world.api().send(route.method.clone(), &path, body.clone()).await;
            is_problem(&answer, 422, "invalid", &named, &format!("{} {path}", route.method));
        }
        let long = format!("{path}?{}={}", "n".repeat(5_000), "v".repeat(5_000));
        let answer = world.api().send(route.method.clone(), &long, body.clone()).await;
        is_problem(&answer, 422, "invalid", &["n".repeat(64).as_str()], route.path);
        let many: Vec<String> = (0..1_000).map(|number| format!("p{number}")).collect();
        let answer =
            world.api().send(route.method.clone(), &format!("{path}?{}", many.join("&")), body).await;
        assert_eq!((answer.status, fields(&answer).len()), (422, 16), "{}", route.path);
    }
    // All that is wrong with a query is named at once.
    let answer = world.api().get("/v1/campaigns?limit=0&cursor=x&state=open,lost&colour=red").await;
    is_problem(&answer, 422, "invalid", &["colour", "limit", "cursor", "state"], "a list");
    world.close().await;
}

#[tokio::test]
async fn a_body_that_is_not_sent_as_json_is_refused_by_every_route_that_takes_one() {
    let world = World::start().await;
    for route in routes().filter(|route| route.writes()) {
        let id = world.open_campaign(json!({})).await.to_string(); // one that no other route has closed
        let path = path_of(route, &id);
        let body = body_of(route).unwrap_or(json!({})).to_string();
        let send = async |api: Http| api.send(route.method.clone(), &path, body.clone()).await;
        for media_type in [
            "text/plain",
            "application/x-www-form-urlencoded",
            "application/json; charset=iso-8859-1",
            "application/jsonx",
            "application/",
            "multipart/form-data; boundary=x",
            "",
            "\u{e9}",
        ] {
            let answer = send(world.api().instead("content-type", media_type)).await;
            is_problem(&answer, 415, "unsupported-media-type", &["Content-Type"], media_type);
        }
        for encoding in ["gzip", "br", "identity, gzip", ""] {
            let answer = send(world.api().with("content-encoding", encoding)).await;
            is_problem(&answer, 415, "unsupported-media-type", &["Content-Encoding"], encoding);
        }
        let both = world.api().instead("content-type", "text/json").with("content-encoding", "deflate");
        let named = ["Content-Type", "Content-Encoding"];
        is_problem(&send(both).await, 415, "unsupported-media-type", &named, "both");
        for media_type in
            ["Application/JSON", "application/json; charset=\"UTF-8\"", "application/merge-patch+json"]
        {
            let answer = send(world.api().instead("content-type", media_type)).await;
            assert!([200, 201, 404, 409].contains(&answer.status), "{media_type}: {answer:?}");
        }
    }
    world.close().await;
}

#[tokio::test]
async fn every_wrong_body_is_refused_and_all_of_its_fields_are_named() {
    let world = World::start().await;
    for (route, path) in all().filter(|(route, _)| route.writes()) {
        let refused = async |body: &[u8], named: &[&str]| {
            let answer = world.api().send(route.method.clone(), &path, body.to_vec()).await;
            let what = format!("{path} {}", String::from_utf8_lossy(body));
            is_problem(&answer, 422, "malformed-body", named, &what);
        };
        for body in ["[]", "7", "\"{}\"", "true", "{", "}", "\u{feff}{}", "{} {}", "{}x", "'{}'", "{1: 2}"] {
            refused(body.as_bytes(), &["body"]).await;
        }
        refused(b"{\"\xff\": 1}", &["body"]).await;
        refused(br#"{"a" 1}"#, &["a"]).await;
        refused("[".repeat(9_000).as_bytes(), &["body"]).await;
        let Some(right) = body_of(route) else {
            refused(br#"{"user_id":"alice","":1}"#, &["user_id", "\"\""]).await;
            continue;
        };
        let names: Vec<&str> = right.as_object().unwrap().keys().map(String::as_str).collect();
        let every = |value: &Value| -> Value { names.iter().map(|name| (*name, value.clone())).collect() };
        for value in [json!(1.5), json!(true), json!([]), json!({ "a": 1 })] {
            let answer = world.api().post(&path, &every(&value)).await;
            let mut wrong = fields(&answer);
            wrong.sort_unstable();
            assert_eq!((answer.problem(), wrong), ("malformed-body", names.clone()), "{value}: {answer:?}");
        }
        for name in &names {
            let mut body = right.clone();
            body.as_object_mut().unwrap().remove(*name);
            let answer = world.api().post(&path, &body).await;
            assert!([404, 201].contains(&answer.status) || fields(&answer).len() == 1, "{name}: {answer:?}");
            let twice = right.to_string().replacen('{', &format!("{{\"{name}\":{},", right[*name]), 1);
            refused(twice.as_bytes(), &[name]).await;
            let half = right.to_string().replacen('{', &format!("{{\"{name}\":\"\\u12"), 1);
            refused(half.split_inclusive("\\u12").next().unwrap().as_bytes(), &[name]).await;
            refused(format!("{{\"{name}\":\"\u{1}\"}}").as_bytes(), &[name]).await;
        }
        let mut unknown = right.clone();
        unknown["colour"] = json!("red");
        unknown["size"] = json!(null);
        refused(unknown.to_string().as_bytes(), &["colour", "size"]).await;
        let many: Value = (0..1_000).map(|number| (format!("f{number}"), json!(0))).collect();
        let answer = world.api().post(&path, &many).await;
        let reasons = answer.body["errors"].as_array().unwrap().iter().map(|error| error["reason"].as_str());
        let (unknown, missing): (Vec<_>, Vec<_>) =
            reasons.flatten().partition(|reason| reason.starts_with("is unknown"));
        assert!(unknown.len() == 16 && missing.contains(&"is missing"), "{answer:?}");
    }
    // Of another type, and of a wrong value: in one answer.
    let body = draft(json!({ "quantity": "many", "face_value": 0, "name": "", "closes_at": "soon", "x": 1 }));
    let answer = world.api().post("/v1/campaigns", &body).await;
    let named = ["x", "quantity", "closes_at", "name", "face_value"];
    is_problem(&answer, 422, "malformed-body", &named, "a campaign");
    let reason = |field: &str| {
        let errors = answer.body["errors"].as_array().unwrap();
        errors.iter().find(|error| error["field"] == field).unwrap()["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(reason("quantity"), "must be an integer, not a string");
    assert_eq!(reason("closes_at"), "must be a time of RFC 3339, such as 2026-11-20T18:00:00Z");
    assert!(reason("x").starts_with("is unknown: the fields are name, merchant_id, "), "{answer:?}");
    world.close().await;
}

/// A megabyte is refused before it is read: the answer comes though no more than its beginning was sent, or the
/// connection ends long before its end.
#[tokio::test]
async fn a_megabyte_of_anything_is_refused_early() {
    let world = World::start().await;
    let address = world.processes[0].address;
    let megabyte = "x".repeat(1_048_576);
    for (route, path) in all() {
        let head = |line: &str, headers: &str| {
            format!(
                "{} {line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n{headers}",
                route.method
            )
        };
        for request in [
            head(&path, &format!("X: {megabyte}\r\n\r\n")),
            head(&path, &format!("{megabyte}: x\r\n\r\n")),
            head(&path, &format!("{}\r\n", "X: y\r\n".repeat(200_000))),
            head(&format!("{path}?{megabyte}"), "\r\n"),
            head(&format!("/{megabyte}"), "\r\n"),
            head(&path, &format!("Cookie: {}\r\n\r\n", "\t".repeat(1_048_576))),
        ] {
            let answered = Socket::connect(address).await.say_all(&request).await;
            let status = answered.split(' ').nth(1);
            // What is still on its way when the service hangs up may take the answer along.
            assert!([None, Some("431")].contains(&status), "{path}: {answered}");
            let begin = &request[..20_000];
            let mut socket = Socket::connect(address).await;
            socket.say(begin).await.unwrap();
            let (status, body) = socket.whole_answer().await.expect("an answer");
            let problem: Value = serde_json::from_str(&body).unwrap();
            assert_eq!((status, problem["type"].as_str()), (431, Some("/problems/header-too-large")));
            assert_eq!(problem["request_id"].as_str().unwrap().len(), 26);
        }
        let begun = format!("{}{}", head(&path, "Content-Length: 1048576\r\n\r\n"), &megabyte[..100]);
        let chunk = format!("Transfer-Encoding: chunked\r\n\r\n100000\r\n{}", &megabyte[..20_000]);
        // Nobody reads the chunks of a GET: it is answered, and the connection ends.
        let chunked = (route.writes()).then(|| head(&path, &chunk));
        for request in [Some(begun), chunked].into_iter().flatten() {
            let mut socket = Socket::connect(address).await;
            socket.say(&request).await.unwrap();
            let (status, body) = socket.whole_answer().await.expect("an answer");
            let problem: Value = serde_json::from_str(&body).unwrap();
            assert_eq!((status, problem["type"].as_str()), (413, Some("/problems/too-large")), "{path}");
            assert_eq!(problem["errors"][0]["field"], "body");
        }
    }
    world.close().await;
}

#[tokio::test]
async fn every_wrong_method_and_every_lack_of_rights_is_a_problem() {
    let world = World::start().await;
    for (route, path) in all() {
        for method in ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"] {
            let method: Method = method.parse().unwrap();
            let is_there = routes().any(|other| other.path == route.path && other.method == method);
            // The target of CONNECT is an authority, not a path.
            if method == Method::CONNECT || is_there {
                continue;
            }
            let answer = world.api().send(method.clone(), &path, "").await;
            is_problem(&answer, 405, "method-not-allowed", &[], &format!("{method} {path}"));
            assert!(answer.header("allow").unwrap().contains(route.method.as_str()), "{answer:?}");
        }
        let head = world.api().send(Method::HEAD, &path, "").await;
        assert!(head.text.is_empty() && head.header("request-id").is_some(), "{head:?}");
        if route.access != Access::Public {
            let answer = world.api().with_token(None).send(route.method.clone(), &path, "").await;
            is_problem(&answer, 401, "unauthorized", &[], &path);
        }
    }
    let answer = world.api().get("/nowhere?x=1").await;
    is_problem(&answer, 404, "not-found", &[], "no route");
    world.close().await;
}
