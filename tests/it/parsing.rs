//! Whatever comes from outside: never a panic, never a fault of the service, and what is taken is taken
//! as it was meant. `SEED=<number> cargo test parsing` has the same again.

use std::fmt::Write as _;

use bytes::Bytes;
use coupon_dispatcher::campaign::OutsideId;
use coupon_dispatcher::coupon::{is_code, new_code};
use coupon_dispatcher::event::Issued;
use outbox_relay::Event;
use outbox_relay::replay::RunId;
use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::support::{Socket, TOKEN, World, draft, mutated, owns, seeded};

const TEXTS: usize = 20_000;
/// Requests of each kind, pipelined.
const REQUESTS: usize = 200;
/// Whose every byte may be wrong, each on a connection of its own.
const BROKEN_REQUESTS: usize = 300;
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[test]
fn texts_that_parse_are_printed_as_they_were() {
    let (_, mut random) = seeded();
    let mut parsed = [0; 3];
    for _ in 0..TEXTS {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let user = text(mutated(&mut random, b"user-1@example.org"));
        if let Ok(id) = OutsideId::parse(user.clone()) {
            assert_eq!((id.as_str(), user.is_ascii()), (user.as_str(), true));
            parsed[0] += 1;
        }
        let run = text(mutated(&mut random, b"friday-evening-2"));
        if let Ok(id) = run.parse::<RunId>() {
            assert_eq!(id.to_string(), run);
            parsed[1] += 1;
        }
        let code = text(mutated(&mut random, new_code().as_bytes()));
        if is_code(&code) {
            let letters = code.bytes().filter(|letter| *letter != b'-');
            assert!(
                letters.clone().count() == 16 && letters.clone().all(|letter| letter.is_ascii_alphanumeric())
            );
            parsed[2] += 1;
        }
    }
    assert!(parsed.iter().all(|count| *count > 100), "too few were valid to say anything: {parsed:?}");
}

#[test]
fn an_event_that_parses_is_what_its_body_says() {
    let (_, mut random) = seeded();
    let valid = json!({
        "specversion": "1.0", "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "source": "/coupon-dispatcher", "type": "coupon.issued.v1",
        "subject": "s", "time": "2026-01-02T03:04:05.678901Z", "datacontenttype": "application/json",
        "data": {
            "coupon_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV", "campaign_id": "01ARZ3NDEKTSV4RRFFQ69G5FAV",
            "user_id": "u\"\\é", "number": 7, "issued_at": "2026-01-02T03:04:05Z", "expires_at": "2026-02-02T03:04:05Z",
            "merchant_id": "m", "face_value": 500, "currency": "EUR", "settle_on": "issue",
        },
    })
    .to_string();
    let mut parsed = 0;
    for _ in 0..TEXTS {
        let body = Bytes::from(mutated(&mut random, valid.as_bytes()));
        let Ok(event) = Event::parse(7, &body) else { continue };
        // Half of a surrogate pair is JSON, but no text: who reads the data finds out.
        let Ok(whole) = serde_json::from_slice::<Value>(&body) else { continue };
        assert_eq!(whole["type"], event.kind);
        assert_eq!(whole["id"].as_str().unwrap().to_uppercase(), event.id.to_string());
        assert_eq!(whole["data"], serde_json::from_slice::<Value>(&event.data).unwrap());
        if let Ok(issued) = serde_json::from_slice::<Issued<'_>>(&event.data) {
            assert_eq!(
                (whole["data"]["user_id"].as_str(), &whole["data"]["number"]),
                (Some(&*issued.user_id), &json!(issued.number))
            );
        }
        parsed += 1;
    }
    assert!(parsed > 100, "too few were valid to say anything: {parsed}");
}

/// Of any bytes, so that they can stand in a path or a query.
fn encoded(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || b"-=&".contains(byte) {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
        text
    })
}

fn request(line: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{line} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Sends all at once, and answers the answers, none of which is a fault of the service.
async fn answers(world: &World, requests: &[Vec<u8>]) -> Vec<(u16, Value)> {
    let mut socket = Socket::connect(world.processes[0].address).await;
    socket.say(requests.concat()).await.unwrap();
    let mut answers = Vec::new();
    for request in requests {
        let request = String::from_utf8_lossy(request);
        let (status, body) = socket.whole_answer().await.unwrap_or_else(|| panic!("no answer: {request}"));
        assert!(status < 500 || status == 503, "{status} {body}: {request}"); // it may be busy
        answers.push((status, serde_json::from_str(&body).expect("it is JSON")));
    }
    answers
}

#[tokio::test]
async fn no_request_is_a_fault_of_the_service() {
    let fault = owns("requests-broken-at-any-byte");
    let (_, mut random) = seeded();
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 100_000 })).await;
    let claims = format!("POST /v1/campaigns/{campaign}/coupons");
    let mut wrong = |valid: &str| mutated(&mut random, valid.as_bytes());

    let bodies: Vec<_> =
        (0..REQUESTS).map(|number| wrong(&format!(r#"{{"user_id":"user-{number}"}}"#))).collect();
    let requests: Vec<_> = bodies.iter().map(|body| request(&claims, "", body)).collect();
    for (body, (status, answer)) in bodies.iter().zip(answers(&world, &requests).await) {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        assert!(status != 201 || body["user_id"] == answer["user_id"], "{body} {answer}");
    }
    let valid = draft(json!({ "face_value": 12, "quantity": 34 })).to_string();
    let bodies: Vec<_> = (0..REQUESTS).map(|_| wrong(&valid)).collect();
    let requests: Vec<_> = bodies.iter().map(|body| request("POST /v1/campaigns", "", body)).collect();
    for (body, (status, answer)) in bodies.iter().zip(answers(&world, &requests).await) {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        for field in ["name", "merchant_id", "face_value", "currency", "quantity", "settle_on"] {
            assert!(status != 201 || body[field] == answer[field], "{field}: {body} {answer}");
        }
    }
    let mut requests = Vec::new();
    for number in 0..REQUESTS {
        let id = encoded(&wrong("01ARZ3NDEKTSV4RRFFQ69G5FAV"));
        let user = encoded(&wrong("alice"));
        let query = encoded(&wrong("cursor=01ARZ3NDEKTSV4RRFFQ69G5FAV&limit=10&status=usable"));
        requests.push(request(&format!("GET /v1/coupons/{id}"), "", b""));
        requests.push(request(&format!("POST /v1/campaigns/{id}/open"), "", b""));
        requests.push(request(&format!("GET /v1/users/{user}/coupons?{query}"), "", b""));
        requests.push(request(&format!("GET /v1/campaigns?{query}"), "", b""));
        let trace: Vec<u8> =
            wrong(TRACEPARENT).into_iter().filter(|byte| *byte >= b' ' && *byte != 0x7f).collect();
        let trace = [b"traceparent: ", &*trace, b"\r\n"].concat();
        let claim = request(&claims, "@", format!(r#"{{"user_id":"traced-{number}"}}"#).as_bytes());
        let at = claim.iter().position(|byte| *byte == b'@').unwrap();
        requests.push([&claim[..at], &trace, &claim[at + 1..]].concat());
    }
    let heard = answers(&world, &requests).await;
    fault.fired(heard.iter().filter(|(status, _)| *status >= 400).count());
    is_traced(&world).await;
    broken_requests(&world, &mut random, &request(&claims, "", br#"{"user_id":"broken"}"#)).await;
    assert_eq!(world.api().get("/readyz").await.status, 200);
    assert!(!world.processes[0].log().contains("panicked"), "{}", world.processes[0].log());
    world.close().await;
}

/// What is kept of trace contexts is one of W3C.
async fn is_traced(world: &World) {
    let kept = "SELECT count(*), count(*) FILTER (WHERE traceparent ~ \
                '^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$') \
                FROM outbox WHERE traceparent IS NOT NULL";
    let (kept, valid): (i64, i64) = sqlx::query_as(kept).fetch_one(&world.pool).await.unwrap();
    assert_eq!(kept, valid, "trace contexts that are none");
}

/// An answer, if there is one, blames the client.
async fn broken_requests(world: &World, random: &mut StdRng, valid: &[u8]) {
    for _ in 0..BROKEN_REQUESTS {
        let bytes = mutated(random, valid);
        let mut socket = Socket::connect(world.processes[0].address).await;
        let _ = socket.say(&bytes).await;
        if random.random_ratio(1, 2) {
            continue; // and hangs up at once
        }
        let answer = socket.last_answer().await;
        let status = answer.map(|(status, _)| status);
        assert!(
            status.is_none_or(|status| status < 500 || status == 503),
            "{status:?}: {}",
            String::from_utf8_lossy(&bytes)
        );
    }
}
