//! An API that is away, refuses for now, or loses an answer.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use super::{Grants, summary, users};
use crate::support::{Line, Proxy, World};

#[tokio::test]
async fn a_claim_without_an_answer_is_repeated_and_gives_one_coupon() {
    let mut world = World::with_processes(&[]).await;
    world.set("RATE_LIMIT_PER_PRINCIPAL", "100/100");
    world.add_process("").await;
    let campaign = world.open_campaign(json!({ "per_user_limit": 3, "quantity": 1_000 })).await;
    let grants = Grants::of(&world, campaign, "users.csv", users(200));
    let wire = Proxy::to(world.processes[0].address).await;
    wire.lose_reply_to("\"user-7\"");
    let said = summary_of_noisy(&grants, &["--json", "--url", &format!("http://{}", wire.address)]).await;
    assert_eq!(said["outcomes"], json!({ "issued": 200 }));
    assert!(wire.fired() > 0, "no answer was lost");
    assert!(grants.rows()[7].reason.contains("earlier request"), "{:?}", grants.rows()[7]);
    assert_eq!(world.coupons(campaign).await, 200);
    world.close().await;
}

/// The summary of a grant that is done, and has logged that it repeats a claim.
async fn summary_of_noisy(grants: &Grants<'_>, more: &[&str]) -> serde_json::Value {
    let finished = grants.run(more).await;
    assert!(finished.code == Some(0) && finished.err.contains("a claim is repeated"), "{finished:?}");
    assert_eq!(finished.err.lines().count(), 1, "it is logged once: {finished:?}");
    serde_json::from_str(&finished.out).unwrap()
}

#[tokio::test]
async fn a_grant_ends_when_the_api_is_away_and_goes_on_afterwards() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "per_user_limit": 2 })).await;
    let grants = Grants::of(&world, campaign, "users.csv", "user_id\nalice\n\"\nbob\ncarol\n");
    let wire = Proxy::to(world.processes[0].address).await;
    let url = format!("http://{}", wire.address);
    wire.set(Line::Refused);
    let ended = grants.run(&["--patience", "1", "--url", &url]).await;
    assert!(ended.code == Some(8) && ended.out.is_empty(), "{ended:?}");
    for word in ["0 lines have a result in", "same command with --resume", &url] {
        assert!(ended.err.contains(word), "{word}: {ended:?}");
    }
    wire.set(Line::Clear);
    summary(&grants.run(&["--resume", "--json", "--url", &url]).await);
    let outcomes = ["2 alice issued", "3  invalid", "4 bob issued", "5 carol issued"];
    assert_eq!(grants.outcomes(), outcomes);
    assert_eq!(world.coupons(campaign).await, 3);
    world.close().await;
}

/// What was issued before the API went away is written, and a claim on its way then gets no outcome of its own.
#[tokio::test]
async fn a_grant_whose_api_goes_away_has_the_results_up_to_then() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "per_user_limit": 2, "quantity": 10_000 })).await;
    let grants = Grants::of(&world, campaign, "users.csv", users(600));
    let wire = Proxy::to(world.processes[0].address).await;
    wire.set(Line::Slow(Duration::from_millis(40)));
    let url = format!("http://{}", wire.address);
    let running = grants.start(&["--patience", "1", "--concurrency", "8", "--url", &url]);
    grants.goes_to(50).await;
    wire.set(Line::Refused);
    let ended = running.finished().await;
    assert!(ended.code == Some(8) && ended.out.is_empty(), "{ended:?}");
    let rows = grants.rows();
    assert!(
        rows.len() < 600 && ended.err.contains(&format!("{} lines have a result", rows.len())),
        "{ended:?}"
    );
    assert!(rows.iter().all(|row| row.outcome == "issued"), "{rows:?}");
    wire.set(Line::Clear);
    let said = summary(&grants.run(&["--resume", "--json", "--url", &url]).await);
    assert_eq!(said["outcomes"], json!({ "issued": 600 }));
    assert_eq!(world.coupons(campaign).await, 600);
    world.close().await;
}

/// An API that never has an answer for mallory, and a coupon for everybody else.
async fn partial() -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let accepts = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream));
        }
    });
    (url, AbortOnDropHandle::new(accepts))
}

async fn answer(mut stream: TcpStream) {
    let (mut request, mut bytes) = (String::new(), [0; 4096]);
    while !request.ends_with('}') {
        let Ok(count @ 1..) = stream.read(&mut bytes).await else { return };
        request += &String::from_utf8_lossy(&bytes[..count]);
    }
    let (head, body) = if request.contains("\"mallory\"") {
        ("503 Service Unavailable\r\nRetry-After: 0", r#"{"type":"/problems/overloaded","title":"Too many"}"#)
    } else {
        ("201 Created", r#"{"id":"01M7WFKGE14NWN561KVXBYTJTY"}"#)
    };
    let text = format!(
        "HTTP/1.1 {head}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(text.as_bytes()).await; // the command may have ended
}

#[tokio::test]
async fn a_line_that_alone_has_no_answer_is_told_and_the_others_go_on() {
    let world = World::bare(1).await;
    world.migrate().await;
    let campaign = coupon_dispatcher::ids::CampaignId(ulid::Ulid::from_parts(1, 1));
    let grants = Grants::of(&world, campaign, "users.csv", users(500).replacen('\n', "\nmallory\n", 1));
    let (url, _api) = partial().await;
    let ended = grants.run(&["--patience", "1", "--concurrency", "2", "--json", "--url", &url]).await;
    assert_eq!(ended.code, Some(8), "{ended:?}");
    for word in ["1 lines have no answer", "without --resume", "no line a second coupon"] {
        assert!(ended.err.contains(word), "{word}: {ended:?}");
    }
    let said: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(said["outcomes"], json!({ "issued": 500, "unanswered": 1 }));
    let rows = grants.rows();
    assert_eq!((&*rows[0].outcome, rows[1].line, rows.len()), ("unanswered", 3, 501));
    assert!(rows[0].reason.contains("503: Too many"), "{:?}", rows[0]);
    world.close().await;
}

/// A progress bar is for a terminal. Elsewhere there is only the summary, as the other tests see.
#[tokio::test]
async fn a_terminal_shows_how_far_it_is() {
    let mut world = World::start().await;
    world.set("TERM", "xterm");
    let campaign = world.open_campaign(json!({ "quantity": 1_000 })).await;
    let grants = Grants::of(&world, campaign, "users.csv", users(300));
    let arguments = grants.arguments(&["--concurrency", "1"]);
    let mut terminal = world.at_terminal(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    terminal.shows("/301").await;
    let (code, shown) = terminal.finished().await;
    assert_eq!(code, Some(0), "{shown}");
    assert!(shown.contains("issued") && shown.contains("300"), "{shown}");
    world.close().await;
}
