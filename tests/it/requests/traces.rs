//! What a caller sends stays with the caller: it is in no line of the log unescaped, in no metric, and in no other answer.

use std::fmt::Write as _;

use hyper::Method;
use serde_json::{Value, json};

use super::{all, body_of};
use crate::support::{SOON, Socket, TOKEN, World, wait_for};

/// Looks for itself in texts: a line of its own, colours of a terminal, and what ends strings.
const EVIL: &str = "mallory\n2026-11-20T18:00:00.000000Z ERROR forged: \"mallory\" \u{1b}[31mred\u{7}\r\\";

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut encoded, byte| {
        let _ = write!(encoded, "%{byte:02X}");
        encoded
    })
}

/// An id of a request that ends strings and objects, and as the log in text writes it.
const EVIL_ID: [&str; 2] = [r#"mallory"]}\u001b[31m"#, r#"request_id="mallory\"]}\\u001b[31m""#];

/// Sends it wherever a caller can, and returns how many answers there were.
async fn sends_it_everywhere(world: &World) -> usize {
    let address = world.processes[0].address;
    let evil = encoded(EVIL);
    let mut answers = 0;
    for (route, path) in all() {
        let method = &route.method;
        let known = body_of(route).unwrap_or_default();
        let names: Vec<String> =
            known.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
        let mut bodies: Vec<Value> = names.iter().map(|name| json!({ name: EVIL })).collect();
        bodies.extend([json!({ EVIL: 1 }), json!(EVIL), known.clone()]);
        for body in bodies {
            let segment = path.replace("01ARZ3NDEKTSV4RRFFQ69G5FAV", &evil).replace("alice", &evil);
            for target in
                [path.clone(), segment, format!("{path}?{evil}={evil}"), format!("{path}?limit={evil}")]
            {
                world.api().send(method.clone(), &target, body.to_string()).await;
                answers += 1;
            }
        }
        // In headers, as far as HTTP lets them through.
        for header in [
            "Authorization",
            "Request-Id",
            "traceparent",
            "Idempotency-Key",
            "Content-Type",
            "Accept",
            "Host",
        ] {
            let value = "mallory \"\t\u{80}\\ red";
            let lines = format!("{header}: {value}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            let request =
                format!("{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n{lines}");
            let heard = Socket::connect(address).await.say_all(request).await;
            assert!(heard.starts_with("HTTP/1.1 "), "{heard}");
            answers += 1;
        }
        let [id, _] = EVIL_ID;
        let heard = world.api().with("request-id", id).send(Method::GET, "/v1/users/alice/coupons", "").await;
        assert_eq!((heard.status, heard.header("request-id")), (500, Some(id)));
    }
    answers
}

#[tokio::test]
async fn what_a_caller_sends_reaches_no_line_of_the_log_unescaped_no_metric_and_nobody_else() {
    let mut world = World::bare(1).await;
    world.migrate().await;
    for (format, process) in [("text", 0), ("json", 1)] {
        let mut serve = world.process("api");
        serve.set("RUST_LOG", "debug");
        serve.set("LOG_FORMAT", format);
        serve.start().await;
        world.processes.push(serve);
        world.processes.swap(0, process);
        // A failure is logged with the id that the caller gave.
        world.execute("ALTER TABLE wallet RENAME TO purse").await;
        assert!(sends_it_everywhere(&world).await > 100);
        world.execute("ALTER TABLE purse RENAME TO wallet").await;
        let named = async || {
            let log = world.processes[0].log();
            let is_named = match format {
                "text" => log.contains(EVIL_ID[1]),
                _ => log.lines().any(|line| {
                    serde_json::from_str::<Value>(line).is_ok_and(|line| line["request_id"] == EVIL_ID[0])
                }),
            };
            is_named.then_some(log)
        };
        let log = wait_for(&format!("the log in {format} names the id"), SOON, named).await;
        let (written, _) = log.rsplit_once('\n').unwrap(); // the last line may not be whole yet
        for line in written.lines() {
            assert!(!line.contains(|letter: char| letter.is_control()), "{line:?}");
            let begins = if format == "json" { line.starts_with('{') } else { line.starts_with("20") };
            assert!(begins && !line.contains("ERROR forged"), "{line:?}");
            assert!(format == "text" || serde_json::from_str::<Value>(line).is_ok(), "{line:?}");
        }
        for path in ["/metrics", "/readyz", "/v1/campaigns", "/problems"] {
            let answer = world.api().get(path).await;
            assert!(answer.status == 200 && !answer.text.contains("mallory"), "{path}: {}", answer.text);
        }
    }
    world.add_process("relay,project").await;
    world.close().await;
}
