//! Whatever comes from outside: never a panic, never a fault of the service, and what is taken is taken
//! as it was meant. `SEED=<number> cargo test parsing` has the same again.

mod forwarded;
pub(crate) mod paths;
mod targets;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use self::targets::TARGETS;
use crate::support::{Socket, TOKEN, World, draft, mutated, owns, seeded};

/// Of each parser.
const ATTACKS: usize = 5_000;
/// What parsers once took: arrays for objects, other writings of a number, ids beyond the last one, a campaign that
/// closes in the microsecond in which it opens, ids that no path can hold.
const MISTAKEN: [(&str, &str); 15] = [
    ("acknowledgement", "[7,false,null]"),
    ("admission", "admitted 1"),
    ("admission", "admitted +2"),
    ("admission", "admitted -3"),
    ("claim", r#"["alice"]"#),
    (
        "draft",
        r#"["n","m",500,"EUR",1000,1,"2026-11-20T18:00:00Z","2026-11-21T18:00:00Z",null,"P30D","issue"]"#,
    ),
    (
        "draft",
        r#"{"name":"n","merchant_id":"m","face_value":1,"currency":"EUR","quantity":1,"coupon_valid_for":"P1D",
            "opens_at":"2026-12-06T00:00:00.0000001Z","closes_at":"2026-12-06T00:00:00.0000002Z"}"#,
    ),
    ("event", r#"["01ARZ3NDEKTSV4RRFFQ69G5FAV","t","2026-01-02T03:04:05Z",{}]"#),
    ("headers", "+1"),
    ("headers", "-1"),
    ("outside_id", "."),
    ("outside_id", ".."),
    ("replay", "--campaign=81ARZ3NDEKTSV4RRFFQ69G5FAV"),
    ("seat", "alice +2"),
    ("ulid", "81ARZ3NDEKTSV4RRFFQ69G5FAV"),
];
/// Requests of each kind, pipelined.
const REQUESTS: usize = 200;
/// Whose every byte may be wrong, each on a connection of its own.
const BROKEN_REQUESTS: usize = 300;
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The seeds of a target.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let seeds = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    seeds.lines().map(|seed| seed.as_bytes().to_vec()).collect()
}

#[test]
fn what_is_taken_is_what_was_meant() {
    let (_, mut random) = seeded();
    for (name, attack) in TARGETS {
        let seeds = seeds(name);
        assert!(seeds.iter().any(|seed| attack(seed)), "{name}: no seed is taken");
        let mut taken = 0;
        for _ in 0..ATTACKS {
            let seed = seeds.choose(&mut random).unwrap();
            taken += usize::from(attack(&mutated(&mut random, seed)));
        }
        assert!((ATTACKS / 1_000..ATTACKS).contains(&taken), "{name}: {taken} of {ATTACKS} were taken");
    }
}

/// What parsers once took for something else.
#[test]
fn what_is_not_meant_is_not_taken() {
    for (target, text) in MISTAKEN {
        let (_, attack) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
        assert!(!attack(text.as_bytes()), "{target} takes {text}");
    }
}

/// `make fuzz` attacks the same ones.
#[test]
fn every_parser_is_fuzzed() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    let manifest: toml::Table = fs::read_to_string(folder.join("Cargo.toml")).unwrap().parse().unwrap();
    let programs =
        manifest["bin"].as_array().unwrap().iter().map(|program| program["name"].as_str().unwrap());
    let attacks = |name: &str| {
        let program = fs::read_to_string(folder.join(format!("targets/{name}.rs"))).unwrap();
        program.contains(&format!("fuzz::attack(\"{name}\", bytes)"))
    };
    assert!(programs.clone().all(attacks));
    assert!(programs.eq(TARGETS.map(|(name, _)| name)));
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
            assert!(status != 201 || is_same(&body[field], &answer[field]), "{field}: {body} {answer}");
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
        requests.push(request(&format!("GET /v1/campaigns?{}", query.replace("status", "state")), "", b""));
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

/// Whether two values mean the same: an integer may be written as 1, 1.0 or 1e0.
fn is_same(said: &Value, shown: &Value) -> bool {
    said == shown || said.is_number() && said.as_f64() == shown.as_f64()
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
