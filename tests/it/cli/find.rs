//! Coupons by their id, their code and their user.

use coupon_dispatcher::coupon::code::new_code;
use coupon_dispatcher::ids::CouponId;
use serde_json::{Value, json};

use super::json_of;
use crate::support::{SOON, World, wait_until};

/// A user whom a path must spell otherwise.
const USER: &str = "a/b?c&d#%2F";

#[tokio::test]
async fn the_coupons_of_a_user_are_found_in_full_and_listed_as_a_wallet() {
    let world = World::start().await;
    let (one, other) =
        (world.open_campaign(json!({ "per_user_limit": 3 })).await, world.open_campaign(json!({})).await);
    let mut coupons: Vec<Value> = Vec::new();
    for campaign in [one, one, other, one] {
        coupons.push(world.claim(campaign, USER).await.body);
    }
    world.claim(other, "bob").await;
    coupons.reverse();
    let run = async |arguments: &[&str]| json_of(&world.coupon(&[arguments, &["--json"]].concat()).await);
    let wallet = async || run(&["user", "coupons", USER]).await["items"].as_array().unwrap().len();
    wait_until("the wallet has all", SOON, async || wallet().await == 4).await;

    assert_eq!(run(&["show", coupons[1]["id"].as_str().unwrap()]).await, coupons[1]);
    assert_eq!(run(&["find", "--user", USER]).await, json!({ "items": coupons, "next": null }));
    let campaign = one.to_string();
    let find = ["find", "--user", USER, "--campaign", &campaign];
    let of_one = json!([coupons[0], coupons[2], coupons[3]]);
    assert_eq!(run(&find).await, json!({ "items": of_one, "next": null }));
    let page = run(&[&find[..], &["--limit", "2"]].concat()).await;
    assert_eq!(page, json!({ "items": [coupons[0], coupons[2]], "next": coupons[2]["id"] }));
    let rest = run(&[&find[..], &["--cursor", page["next"].as_str().unwrap()]].concat()).await;
    assert_eq!(rest, json!({ "items": [coupons[3]], "next": null }));
    let code = coupons[3]["code"].as_str().unwrap();
    for typed in [code.to_owned(), code.replace('-', " ").to_lowercase()] {
        let found = run(&["find", "--code", &typed]).await;
        assert_eq!(found, json!({ "items": [coupons[3]], "next": null }), "{typed}");
    }
    let unknown = new_code(CouponId(ulid::Ulid::generate()));
    let none = world.coupon(&["find", "--code", &unknown, "--json"]).await;
    assert_eq!((none.code, none.out.trim_end()), (Some(7), r#"{"items":[],"next":null}"#), "{none:?}");
    assert_eq!(none.err.trim_end(), "coupon: no coupon has this code");
    assert_eq!(run(&["find", "--user", "nobody"]).await, json!({ "items": [], "next": null }));

    let listed = run(&["user", "coupons", USER, "--status", "usable", "--limit", "1"]).await;
    assert_eq!((&listed["items"][0]["id"], &listed["next"]), (&coupons[0]["id"], &coupons[0]["id"]));
    assert_eq!(run(&["user", "coupons", USER, "--status", "redeemed"]).await["items"], json!([]));
    for wrong in [
        &["find"][..],
        &["find", "--user", ".."],
        &["find", "--code", &code[1..]],
        &["find", "--code", code, "--user", USER],
        &["find", "--code", code, "--limit", "3"],
        &["user", "coupons", "alice", "--status", "lost"],
    ] {
        assert_eq!(world.coupon(wrong).await.code, Some(2), "{wrong:?}");
    }
    world.close().await;
}
