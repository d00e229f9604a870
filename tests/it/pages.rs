//! Pages for people: whole, true, and without anything from elsewhere.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coupon_dispatcher::http::routes;
use ring::digest::{SHA256, digest};
use serde_json::json;
use tokio::process::Command;

use crate::support::contract::{document, resolve};
use crate::support::{Answer, SOON, TOKEN, World, wait_until};

/// The id in the path of every example.
const EXAMPLE_ID: &str = "01M7WFKGE14NWN561KVXBYTJTX";
const EXAMPLE_CODE: &str = "CBDQ-JJS3-YXM5-5SWY-9BD6";

/// What stands between two marks, each time that the first is there.
fn between<'t>(text: &'t str, before: &str, behind: &str) -> Vec<&'t str> {
    text.split(before).skip(1).map(|rest| rest.split(behind).next().unwrap()).collect()
}

/// The text that HTML writes so.
fn unescaped(html: &str) -> String {
    let marks = [("&#34;", "\""), ("&#39;", "'"), ("&#60;", "<"), ("&#62;", ">"), ("&#38;", "&")];
    marks.iter().fold(html.to_owned(), |text, (escaped, mark)| text.replace(escaped, mark))
}

/// The page is HTML that runs no script and loads nothing: it could not, and it does not try.
fn assert_harmless(page: &Answer) {
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let styles = between(&page.text, "<style>", "</style>");
    assert_eq!(styles.len(), 1, "{}", page.text);
    let hash = STANDARD.encode(digest(&SHA256, styles[0].as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    assert_eq!(page.header("content-security-policy"), Some(&*policy));
    for word in ["<script", "<link", "<img", "<iframe", " src=", " style=", " on", "url(", "@import", "://"] {
        let is_there = page.text.replace("API=http://127.0.0.1:8080", "").contains(word);
        // Words of sentences, and no attributes.
        let in_tags = between(&page.text, "<", ">").into_iter().any(|tag| tag.contains(word));
        assert!(!in_tags && (word == " on" || !is_there), "{word} in {}", page.text);
    }
}

#[tokio::test]
async fn the_page_tells_every_operation_and_every_problem() {
    let world = World::start().await;
    let nobody = world.api().with_token(None);
    let page = nobody.get("/docs").await;
    assert_harmless(&page);
    let (document, text) = (document(), unescaped(&page.text));
    let sections = between(&text, "<section id=\"", "</section>");
    for route in routes() {
        let section = sections.iter().find(|section| section.starts_with(&format!("{}\"", route.operation)));
        let section = section.unwrap_or_else(|| panic!("nothing about {}", route.operation));
        let operation = &document["paths"][route.path][route.method.as_str().to_ascii_lowercase()];
        let mut parts = vec![format!("<h3><code>{} {}</code></h3>", route.method, route.path)];
        parts.push(operation["summary"].as_str().unwrap().to_owned());
        parts.extend(operation["description"].as_str().map(str::to_owned));
        for parameter in operation["parameters"].as_array().unwrap() {
            let parameter = resolve(&document, parameter);
            parts.push(format!("<code>{}</code>", parameter["name"].as_str().unwrap()));
            parts.push(parameter["description"].as_str().unwrap().to_owned());
        }
        for (status, answer) in operation["responses"].as_object().unwrap() {
            parts.push(format!("<td>{status}</td>"));
            for reference in between(&answer.to_string(), "schemas/Problem.", "\"") {
                parts.push(format!("<a href=\"/problems/{reference}\">{reference}</a>"));
            }
        }
        for part in parts {
            assert!(section.contains(&part), "no {part} in {section}");
        }
    }
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        let place =
            name.strip_prefix("Problem.").map(|slug| format!("<a href=\"/problems/{slug}\">{slug}</a>"));
        let place = place.unwrap_or_else(|| format!("<section id=\"{name}\">"));
        assert!(text.contains(&place), "no {place}");
    }
    world.close().await;
}

#[tokio::test]
async fn links_of_pages_lead_somewhere_and_no_page_does_harm() {
    let world = World::start().await;
    let browser = world.api().with_token(None).with("accept", "text/html");
    let (mut open, mut seen) = (vec!["/docs".to_owned()], BTreeSet::new());
    while let Some(path) = open.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        let page = browser.get(&path).await;
        assert_eq!(page.status, 200, "{path}");
        if page.header("content-type") == Some("application/json") {
            continue;
        }
        assert_harmless(&page);
        for link in between(&page.text, "href=\"", "\"") {
            match link.strip_prefix('#') {
                Some(place) => assert!(page.text.contains(&format!("id=\"{place}\"")), "{path}: {link}"),
                None => open.push(link.to_owned()),
            }
        }
    }
    assert!(seen.len() > 20, "{seen:?}");
    world.close().await;
}

/// Each line works as it stands, but for the ids, which are of something that exists.
#[tokio::test]
async fn the_lines_of_the_page_run() {
    let world = World::start().await;
    wait_until("it is ready", SOON, async || world.api().get("/readyz").await.status == 200).await;
    let page = world.api().get("/docs").await;
    let lines: Vec<_> =
        between(&page.text, "<pre class=\"curl\">", "</pre>").into_iter().map(unescaped).collect();
    assert_eq!(lines.len(), routes().count());
    for (route, line) in routes().zip(lines) {
        // Each order of the examples is one of its merchant.
        let merchant = if route.operation == "redeemCode" { "shop-7" } else { route.operation };
        let campaign = world.open_campaign(json!({ "merchant_id": merchant })).await;
        let (mut id, mut code) = (campaign.to_string(), String::new());
        if route.path.starts_with("/v1/coupons/") || route.operation == "redeemCode" {
            let coupon = world.claim(campaign, "bob").await.body;
            (id, code) =
                (coupon["id"].as_str().unwrap().to_owned(), coupon["code"].as_str().unwrap().to_owned());
        }
        if route.operation == "restoreCoupon" {
            let path = format!("/v1/coupons/{id}/redeem");
            assert_eq!(world.api().post(&path, &json!({ "order_ref": "order-7" })).await.status, 200);
        }
        let mut line = line.replace(EXAMPLE_ID, &id);
        if route.operation == "redeemCode" {
            line = line.replace(EXAMPLE_CODE, &code);
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{line} -o /dev/null -w '%{{http_code}}'")]);
        shell.env("API", format!("http://{}", world.api().address()));
        let output = shell.env("AUTH", format!("Authorization: Bearer {TOKEN}")).output().await.unwrap();
        let expected =
            if ["createCampaign", "claimCoupon"].contains(&route.operation) { "201" } else { "200" };
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{line}: {output:?}");
    }
    world.close().await;
}
