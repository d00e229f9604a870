//! What a running process answers is what the reference says: routes, problems, metrics, events.

use std::collections::BTreeSet;

use coupon_dispatcher::event::{EXPIRED, KINDS};
use hyper::Method;
use outbox_relay::Shard;
use serde_json::{Value, json};

use super::spans::{first_column, section};
use super::{documents, read};
use crate::support::{SOON, World, wait_until};
use crate::tidy::sources;

const HTTP: &str = "docs/reference/http.md";
const METRICS: &str = "docs/reference/metrics.md";
const EVENTS: &str = "docs/reference/events.md";
/// Anything that can stand in a path of `/v1`, and the slug of a problem.
const NAME: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";
const SLUG: &str = "not-found";

/// `GET /v1/campaigns/{id}` and the others.
fn routes() -> Vec<String> {
    let column = first_column(&read(HTTP)).into_iter();
    column.filter(|span| span.starts_with("GET /") || span.starts_with("POST /")).collect()
}

#[tokio::test]
async fn every_route_answers_and_every_answer_is_told() {
    let world = World::start().await;
    let nobody = world.api().with_token(None);
    for route in routes() {
        let (method, path) = route.split_once(' ').unwrap();
        let parts = path.split('/').map(|part| match part {
            "{slug}" => SLUG,
            _ if part.starts_with('{') => NAME,
            _ => part,
        });
        let (path, method) = (parts.collect::<Vec<_>>().join("/"), method.parse::<Method>().unwrap());
        let answer = nobody.send(method, &path, "").await;
        let expected = if path.starts_with("/v1/") { 401 } else { 200 };
        assert_eq!(answer.status, expected, "{route}");
    }
    let told: BTreeSet<_> =
        routes().iter().map(|route| route.split_once(' ').unwrap().1.to_owned()).collect();
    for (path, text) in sources("src/http") {
        for literal in text.split('"').skip(1).step_by(2).filter(|literal| literal.starts_with('/')) {
            let is_route =
                literal.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "/{}_".contains(c));
            let is_whole = literal.len() > 1 && !literal.ends_with('/') && !literal.ends_with("{}");
            assert!(!is_route || !is_whole || told.contains(literal), "{}: {literal}", path.display());
        }
    }
    world.close().await;
}

/// Slug, status and title of each problem in the table.
fn problems() -> Vec<[String; 3]> {
    let text = read(HTTP);
    let rows = section(&text, "## Problems").lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.map(|row| row.split(" | ").map(|cell| cell.trim_matches('`').to_owned()));
    cells.map(|mut cells| std::array::from_fn(|_| cells.next().unwrap())).collect()
}

#[tokio::test]
async fn every_problem_is_told() {
    let world = World::start().await;
    let answer = world.api().with_token(None).get("/problems").await;
    let told = problems().into_iter().map(|[slug, status, title]| format!("{status} {slug}: {title}"));
    let listed: BTreeSet<_> = answer.text.lines().map(str::to_owned).collect();
    assert_eq!(told.collect::<BTreeSet<_>>(), listed);
    world.close().await;
}

#[test]
fn every_problem_that_a_document_names_is_in_the_table() {
    let told: BTreeSet<_> = problems().into_iter().map(|[slug, ..]| slug).collect();
    for (path, text) in documents() {
        for rest in text.split("/problems/").skip(1) {
            let slug = rest.split(|c: char| !c.is_ascii_lowercase() && c != '-').next().unwrap_or_default();
            assert!(slug.is_empty() || told.contains(slug), "{path}: {slug}");
        }
    }
}

#[tokio::test]
async fn every_metric_is_told() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    world.claim(campaign, "alice").await;
    wait_until("the audit has a verdict", SOON, async || world.measured(0, "audit_balanced").await.is_some())
        .await;
    let answer = world.api().get("/metrics").await.text;
    let types = answer.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let names =
        types.map(|(name, kind)| if kind == "counter" { format!("{name}_total") } else { name.to_owned() });
    let measured: BTreeSet<_> = names.collect();
    let text = read(METRICS);
    let tables: String = text.split("\n## ").filter(|part| !part.starts_with("Alarms")).collect();
    let told: BTreeSet<_> = first_column(&tables).into_iter().collect();
    assert!(measured.is_subset(&told), "{:?}", measured.difference(&told));
    // Those that come when something happens are in the source, without unit and type.
    let source: String = ["src", "relay/src"].into_iter().flat_map(sources).map(|(_, text)| text).collect();
    for name in told.difference(&measured) {
        let stem = name.trim_end_matches("_total").trim_end_matches("_seconds");
        assert!(source.contains(&format!("\"{stem}\"")), "there is no metric {name}");
    }
    world.close().await;
}

#[tokio::test]
async fn every_event_is_told() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({ "quantity": 1, "budget": 500 })).await;
    let coupon = world.claim(campaign, "alice").await.body["id"].clone();
    let ended = world.open_campaign(json!({ "coupon_valid_for": "PT1S" })).await;
    world.claim(ended, "alice").await;
    for change in ["redeem", "restore", "cancel"] {
        let body = if change == "cancel" { Value::Null } else { json!({ "order_ref": "order-1" }) };
        let path = format!("/v1/coupons/{}/{change}", coupon.as_str().unwrap());
        assert_eq!(world.api().post(&path, &body).await.status, 200, "{change}");
    }
    let has_expired = async || world.outbox(Shard(0)).await.iter().any(|event| event.kind == EXPIRED);
    wait_until("a coupon expires", SOON, has_expired).await;
    for change in ["pause", "close"] {
        world.api().post(&format!("/v1/campaigns/{campaign}/{change}"), &Value::Null).await;
    }
    let text = read(EVENTS);
    let mut kinds = BTreeSet::new();
    for event in world.outbox(Shard(0)).await {
        let data: serde_json::Map<String, Value> = serde_json::from_str(&event.data).unwrap();
        let is_about = |line: &&str| line.starts_with("## ") && line.contains(&format!("`{}`", event.kind));
        let heading = text.lines().find(is_about).unwrap_or_else(|| panic!("no section of {}", event.kind));
        let told: BTreeSet<_> = first_column(section(&text, heading)).into_iter().collect();
        assert_eq!(told, data.keys().cloned().collect(), "{}", event.kind);
        kinds.insert(event.kind);
    }
    assert_eq!(kinds, KINDS.map(str::to_owned).into());
    world.close().await;
}
