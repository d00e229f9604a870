//! What the HTTP library refuses before any handler.

use serde_json::Value;

use crate::problems::{is_as_ever, parsed};
use crate::support::{Socket, World};

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

/// The head of an answer, and its body.
fn parts(answered: &str) -> (&str, &str) {
    answered.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answered:?}"))
}

/// The last of what was answered is this problem, whole, and nothing is behind it.
fn ends_with_problem(answered: &str, status: u16, slug: &str) {
    let (head, body) = parts(answered);
    assert!(
        head.starts_with(&format!("HTTP/1.1 {status} ")) || head.starts_with(&format!("HTTP/1.0 {status} ")),
        "{answered}"
    );
    let header = |name: &str| {
        let mut values = head.lines().filter_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        });
        let value = values.next();
        assert!(values.next().is_none(), "{name} is there twice: {answered}");
        value
    };
    assert_eq!(header("content-type"), Some("application/problem+json"), "{answered}");
    assert_eq!(header("content-length"), Some(body.len().to_string().as_str()), "{answered}");
    assert_eq!(header("connection"), Some("close"), "{answered}");
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!(problem["type"], format!("/problems/{slug}"), "{answered}");
    assert_eq!(
        (problem["status"].as_u64(), problem["request_id"].as_str()),
        (Some(status.into()), header("request-id"))
    );
    assert_eq!(header("request-id").map(str::len), Some(26));
}

#[tokio::test]
async fn what_is_no_request_is_answered_with_a_problem() {
    let world = World::start().await;
    let address = world.processes[0].address;
    let long = "x".repeat(20_000);
    for (request, status, slug) in [
        ("nonsense\r\n\r\n", 400, "malformed-request"),
        ("\0\x01\x02\r\n\r\n", 400, "malformed-request"),
        ("GET /livez\r\n\r\n", 400, "malformed-request"),
        ("GET /livez HTTP/3.0\r\n\r\n", 400, "malformed-request"),
        ("GET /liv ez HTTP/1.1\r\n\r\n", 400, "malformed-request"),
        ("G\u{e9}T /livez HTTP/1.1\r\n\r\n", 400, "malformed-request"),
        ("GET /livez HTTP/1.1\r\nHost x\r\n\r\n", 400, "malformed-request"),
        ("GET /livez HTTP/1.1\r\nX: a\0b\r\n\r\n", 400, "malformed-request"),
        ("GET /livez HTTP/1.1\r\nX : y\r\n\r\n", 400, "malformed-request"),
        ("GET /livez HTTP/1.1\r\nX: a\r\n b\r\n\r\n", 400, "malformed-request"),
        ("POST /v1/campaigns HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, "malformed-request"),
        (
            "POST /v1/campaigns HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
            400,
            "malformed-request",
        ),
        ("POST /v1/campaigns HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400, "malformed-request"),
        ("POST /v1/campaigns HTTP/1.1\r\nTransfer-Encoding: chunked, gzip\r\n\r\n", 400, "malformed-request"),
        ("POST /v1/campaigns HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "malformed-request"),
        (&format!("GET /livez HTTP/1.1\r\nX: {long}\r\n\r\n"), 431, "header-too-large"),
        (&format!("GET /{long} HTTP/1.1\r\n\r\n"), 431, "header-too-large"),
        (&format!("GET /livez HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(101)), 431, "header-too-large"),
    ] {
        let answered = Socket::connect(address).await.say_all(request).await;
        ends_with_problem(&answered, status, slug);
        is_as_ever(slug, &parsed(&answered));
        // Behind requests that are answered, at once or after their answers.
        let behind = format!("{LIVEZ}{LIVEZ}{request}");
        let answered = Socket::connect(address).await.say_all(&behind).await;
        let (answers, last) = answered.split_at(answered.rfind("HTTP/1.").unwrap());
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answered}");
        ends_with_problem(last, status, slug);
        let mut socket = Socket::connect(address).await;
        socket.say(LIVEZ).await.unwrap();
        assert_eq!(socket.answer().await, Some(200));
        ends_with_problem(&socket.say_all(request).await, status, slug);
    }
    world.close().await;
}

/// A proxy before the service may read these otherwise than the service does.
#[tokio::test]
async fn a_request_that_can_be_read_in_two_ways_is_refused() {
    let world = World::start().await;
    let address = world.processes[0].address;
    let post =
        |lines: &str| format!("POST /v1/campaigns HTTP/1.1\r\nHost: x\r\n{lines}\r\n2\r\n{{}}\r\n0\r\n\r\n");
    for (request, named) in [
        ("GET /livez HTTP/1.1\r\n\r\n", "Host"),
        ("GET /livez HTTP/1.1\r\nHost: a/b\r\n\r\n", "Host"),
        ("GET /livez HTTP/1.1\r\nHost: user@a\r\n\r\n", "Host"),
        ("GET /livez HTTP/1.1\r\nHost: a b\r\n\r\n", "Host"),
        ("GET /livez HTTP/1.0\r\nHost: a?b\r\n\r\n", "Host"),
        ("GET /livez HTTP/1.1\r\nHost: a:b:c\r\n\r\n", "Host"),
        ("GET /livez HTTP/1.1\r\nHost: a:123456\r\n\r\n", "Host"),
        ("GET /livez HTTP/1.1\r\nHost: [::1\r\n\r\n", "Host"),
        ("GET /livez HTTP/1.1\r\nHost: ]:80[\r\n\r\n", "Host"),
        ("GET http://other/livez HTTP/1.1\r\nHost: x\r\n\r\n", "Host"),
        (&post("Transfer-Encoding: gzip, chunked\r\n"), "Transfer-Encoding"),
        (&post("Transfer-Encoding: chunked, chunked\r\n"), "Transfer-Encoding"),
        (&post("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"), "Transfer-Encoding"),
    ] {
        let answered = Socket::connect(address).await.say_all(request).await;
        ends_with_problem(&answered, 400, "malformed-request");
        let problem: Value = serde_json::from_str(parts(&answered).1).unwrap();
        assert_eq!(problem["errors"][0]["field"], named, "{request:?} {answered}");
    }
    for request in [
        "GET /livez HTTP/1.0\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost:\r\nConnection: close\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: [::1]:8080\r\nConnection: close\r\n\r\n",
        "GET http://x:80/livez HTTP/1.1\r\nHost: x:80\r\nConnection: close\r\n\r\n",
        "GET /livez HTTP/1.1\r\nHost: xn--9ca.example:80\r\nConnection: close\r\n\r\n",
    ] {
        let answered = Socket::connect(address).await.say_all(request).await;
        assert!(answered.contains(" 200 OK\r\n"), "{request:?} {answered}");
    }
    world.close().await;
}

/// Chunks that cannot be read, of a body that a handler reads.
#[tokio::test]
async fn a_body_that_breaks_off_is_a_problem() {
    let world = World::start().await;
    let address = world.processes[0].address;
    let head = format!(
        "POST /v1/campaigns HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n",
        crate::support::TOKEN
    );
    for rest in [
        "Transfer-Encoding: chunked\r\n\r\nnonsense\r\n",
        "Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n",
        "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    ] {
        let answered = Socket::connect(address).await.say_all(format!("{head}{rest}")).await;
        let (head, body) = parts(&answered);
        assert!(head.starts_with("HTTP/1.1 422 "), "{answered}");
        let problem: Value = serde_json::from_str(body).unwrap();
        assert_eq!(
            (&problem["type"], &problem["errors"][0]["field"]),
            (&"/problems/malformed-body".into(), &"body".into())
        );
    }
    world.close().await;
}
