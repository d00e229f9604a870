//! Clients are slow, silent, many, or no clients at all.

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{SOON, Socket, TOKEN, World, owns, wait_until};

const LIVEZ: &str = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

/// The head of a request to create a campaign, with further header lines.
fn head(lines: &str) -> String {
    format!("POST /v1/campaigns HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n{lines}\r\n")
}

#[tokio::test]
async fn who_sends_next_to_nothing_is_hung_up_on() {
    let fault = owns("client-silent-or-slow");
    let world = World::start().await;
    let address = world.processes[0].address;
    let connect = || Socket::connect(address);
    let mut patient = connect().await;
    patient.say(LIVEZ).await.unwrap();
    assert_eq!(patient.answer().await, Some(200));
    let mut second = connect().await;
    second.say(LIVEZ).await.unwrap();
    assert_eq!(second.answer().await, Some(200));
    let half = &LIVEZ[..20];
    let long = format!("GET /livez HTTP/1.1\r\nX: {}", "x".repeat(99));
    let heard = tokio::join!(
        connect().await.say_all(""),
        connect().await.say_all(half),
        second.say_all(half),
        connect().await.drip(long),
    );
    let heard = [heard.0, heard.1, heard.2, heard.3];
    assert_eq!(heard, ["", "", "", ""]);
    fault.fired(heard.len());
    // Between two requests there is more time.
    patient.say(LIVEZ).await.unwrap();
    assert_eq!(patient.answer().await, Some(200));
    world.close().await;
}

#[tokio::test]
async fn who_drips_a_body_or_takes_no_answer_is_hung_up_on() {
    let fault = owns("client-drips-or-takes-nothing");
    let world = World::start().await;
    let address = world.processes[0].address;
    let drips = async |lines: &str, body: &str| {
        let mut socket = Socket::connect(address).await;
        socket.say(head(lines)).await.unwrap();
        socket.drip(body).await
    };
    let (letters, chunks) = ("{".repeat(99), "1\r\n{\r\n".repeat(9));
    let (whole, chunked, ()) = tokio::join!(
        drips("Content-Length: 99\r\nConnection: close\r\n", &letters),
        drips("Transfer-Encoding: chunked\r\nConnection: close\r\n", &chunks),
        async {
            Socket::connect_narrow(address)
                .await
                .talk("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(9))
                .await;
        },
    );
    for answer in [whole, chunked] {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        fault.fired(1);
    }
    world.close().await;
}

#[tokio::test]
async fn what_is_too_large_or_no_http_is_refused_and_the_connection_closed() {
    let fault = owns("client-sends-too-much-or-no-http");
    let world = World::start().await;
    let address = world.processes[0].address;
    let many = "X: x\r\n".repeat(200);
    let endless = format!(
        "{}{}",
        head("Transfer-Encoding: chunked\r\n"),
        "400\r\n".to_owned() + &"x".repeat(1_024) + "\r\n"
    )
    .into_bytes();
    let chunk = format!("400\r\n{}\r\n", "x".repeat(1_024));
    let endless = [endless, chunk.repeat(1_000).into_bytes()].concat();
    let attacks: Vec<(&str, &str, Vec<u8>)> = vec![
        ("431", "a long line", head(&format!("X: {}\r\n", "x".repeat(64 * 1_024))).into()),
        ("431", "many lines", head(&many).into()),
        ("431", "a header without end", head(&many.repeat(100)).into()),
        ("431", "a long path", format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(70_000)).into()),
        ("413", "a large body that is announced", head("Content-Length: 9999999999\r\n").into()),
        ("413", "a body without end", endless),
        ("400", "a length that is none", head("Content-Length: -1\r\n").into()),
        ("400", "two lengths", head("Content-Length: 1\r\nContent-Length: 2\r\n").into()),
        ("400", "a length that overflows", head("Content-Length: 99999999999999999999999\r\n").into()),
        ("400", "a NUL in a header", head("X: \0\r\n").into()),
        ("400", "a folded header", head("X: a\r\n b\r\n").into()),
        ("400", "a space before the colon", head("X : a\r\n").into()),
        ("400", "no HTTP", b"EHLO x\r\n\r\n".into()),
        ("", "HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".into()),
        ("400", "TLS", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03\r\n\r\n".into()),
    ];
    let answers =
        attacks.iter().map(async |(_, _, bytes)| Socket::connect(address).await.say_all(bytes).await);
    let mut wrong = Vec::new();
    for ((status, what, _), answer) in attacks.iter().zip(join_all(answers).await) {
        let first = answer.lines().next().unwrap_or_default().to_owned();
        fault.fired(1);
        if first.split(' ').nth(1).unwrap_or_default() != *status {
            wrong.push(format!("{what}: {first:?}"));
        }
    }
    assert_eq!(wrong, [""; 0]);
    assert_eq!(world.api().get("/readyz").await.status, 200);
    world.close().await;
}

#[tokio::test]
async fn requests_sent_at_once_are_answered_in_order() {
    let fault = owns("client-pipelines");
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 300 })).await;
    let requests = (0..300).map(|number| {
        let body = match number % 3 {
            0 => format!(r#"{{"user_id":"user-{number}"}}"#),
            1 => "{".to_owned(),
            _ => r#"{"user_id":""}"#.to_owned(),
        };
        format!(
            "POST /v1/campaigns/{campaign}/coupons HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Length: {}\r\n\r\n{body}{LIVEZ}",
            body.len()
        )
    });
    let requests = requests.collect::<Vec<_>>().concat();
    let mut socket = Socket::connect(world.processes[0].address).await;
    socket.say(requests).await.unwrap();
    fault.fired(1);
    for number in 0..300 {
        let expected = [201, 422, 422][number % 3];
        assert_eq!((socket.answer().await, socket.answer().await), (Some(expected), Some(200)), "{number}");
    }
    assert_eq!(world.coupons(campaign).await, 100);
    world.close().await;
}

/// As `nc -N`, probes and some proxies do: they end their half of the connection behind the last request.
#[tokio::test]
async fn who_ends_his_half_behind_a_request_is_answered_and_then_hung_up_on() {
    let fault = owns("client-half-closes");
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let address = world.processes[0].address;
    world.claim(campaign, "somebody").await; // the process knows the campaign now
    world.pending(campaign, 0).await;
    let claim = |user: &str| {
        let body = format!(r#"{{"user_id":"{user}"}}"#);
        format!(
            "POST /v1/campaigns/{campaign}/coupons HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    // The end of the client's half arrives long before there is an answer.
    world.servers.postgres.freeze();
    let mut socket = Socket::connect(address).await;
    socket.say(claim("alice")).await.unwrap();
    let (answer, ()) = tokio::join!(socket.last_answer(), async {
        world.pending(campaign, 1).await;
        world.servers.postgres.thaw();
    });
    fault.fired(1);
    let (status, body) = answer.expect("alice has an answer");
    assert_eq!(status, 201, "{body}");
    let coupon: serde_json::Value = serde_json::from_str(&body).unwrap();
    world.promised([serde_json::from_value(coupon["id"].clone()).unwrap()]);
    wait_until("the connection is closed", SOON, async || socket.hung_up()).await;

    let mut pipelined = Socket::connect(address).await;
    pipelined.say(claim("bob") + LIVEZ + &claim("bob")).await.unwrap();
    let answers = [
        pipelined.last_answer().await.map(|(status, _)| status),
        pipelined.answer().await,
        pipelined.answer().await,
    ];
    assert_eq!(answers, [Some(201), Some(200), Some(409)]);
    wait_until("the connection is closed", SOON, async || pipelined.hung_up()).await;

    // What is not a whole request is none, and nothing is waited for.
    for (part, statuses) in [
        ("", &[None][..]),
        (&LIVEZ[..20], &[None, Some(400)]),
        (&head("Content-Length: 99\r\n"), &[None, Some(400), Some(422)]),
    ] {
        let mut socket = Socket::connect(address).await;
        socket.say(part).await.unwrap();
        let status = socket.last_answer().await.map(|(status, _)| status);
        assert!(statuses.contains(&status), "{part:?}: {status:?}");
        wait_until("the connection is closed", SOON, async || socket.hung_up()).await;
    }
    fault.healed();
    world.close().await;
}

/// Holds as many connections as `process` may have and some more, each after a first request, and
/// answers them, the oldest first.
async fn crowd(world: &World) -> Vec<Socket> {
    let process = &world.processes[0];
    let log = process.log();
    let places = log.split("at most ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    let places = places.expect("it says how many it takes");
    let mut crowd = Vec::new();
    while crowd.len() < places + 100 {
        let some = (0..100).map(async |_| {
            let mut socket = Socket::connect(process.address).await;
            socket.say(LIVEZ).await.unwrap();
            assert_eq!(socket.answer().await, Some(200));
            socket
        });
        crowd.extend(join_all(some).await);
    }
    println!("{places} places, all taken; resident: {} MB", process.resident_mb());
    crowd
}

/// The places of one process: 10,000, or as many as the machine allows.
#[tokio::test]
async fn a_crowd_that_only_holds_connections_keeps_nobody_out() {
    let fault = owns("clients-hold-all-connections");
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let crowd = crowd(&world).await;
    fault.fired(1);
    assert!(crowd[0].hung_up(), "who is idle longest has to go first");
    assert!(!crowd.last().unwrap().hung_up());
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    assert_eq!(world.api().get("/livez").await.status, 200);
    assert_eq!(world.api().get("/readyz").await.status, 200);
    drop(crowd);
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn a_process_that_may_have_few_files_serves_with_those() {
    let fault = owns("few-open-files");
    let mut world = World::bare(1).await;
    world.migrate().await;
    let mut process = world.process("");
    process.limit_files(512);
    world.processes.push(process);
    world.processes[0].start().await;
    let campaign = world.open_campaign(json!({})).await;
    let crowd = crowd(&world).await;
    fault.fired(1);
    assert_eq!(world.claim(campaign, "alice").await.status, 201);
    let gone = async || crowd.iter().filter(|socket| socket.hung_up()).count() >= 100;
    wait_until("some have to go", SOON, gone).await;
    assert!(!world.processes[0].log().contains("accept a connection"), "it ran out of files");
    fault.healed();
    world.close().await;
}
