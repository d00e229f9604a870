//! Rows that are gone, added or changed.

use redis::AsyncCommands as _;
use serde_json::{Value, json};
use ulid::Ulid;
use uuid::Uuid;

use super::{FULL, QUICK, SHARD, Scene};

#[tokio::test]
async fn a_row_that_is_missing_or_too_much_is_named() {
    let mut scene = Scene::start().await;
    scene.world.processes[0].kill(); // its sweeper would put the gate right
    let (campaign, coupon) = (scene.campaign.to_string(), scene.coupon.to_string());

    let row = scene.take("coupons", &scene.is_the_coupon("id")).await;
    scene.assert_named(FULL, &[&campaign, &coupon, "coupons: 19 rows, 20 expected"]).await;
    scene.assert_named(&["audit", "--full", "--campaign", &campaign], &[&campaign]).await;
    scene.assert_balanced(&["audit", "--full", "--campaign", &scene.other.to_string()]).await;
    let finished = scene.world.coupon(&["audit", "--full", "--json"]).await;
    let said: Value = serde_json::from_str(&finished.out).unwrap();
    assert_eq!((finished.code, &said["balanced"]), (Some(1), &json!(false)));
    assert!(said["sheet"]["difference"].as_str().unwrap().contains(&campaign));
    scene.assert_balanced(QUICK).await; // the numbers say that there are 20

    // Nothing is left of the coupon but its event.
    let wallet = scene.take("wallet", &scene.is_the_coupon("coupon_id")).await;
    let settlement = scene.take("settlement_entries", &scene.is_the_coupon("coupon_id")).await;
    let () = scene.world.redis().await.srem(scene.holders(), &scene.user).await.unwrap();
    scene.assert_named(FULL, &[&campaign, &coupon, "outbox"]).await;
    let () = scene.world.redis().await.sadd(scene.holders(), &scene.user).await.unwrap();
    for row in [row, settlement] {
        scene.put(row).await;
    }

    scene.assert_named(FULL, &[&campaign, &coupon, "wallet: 19 rows, 20 expected"]).await;
    scene.put(wallet).await;
    let settlement = scene.take("settlement_entries", &scene.is_the_coupon("coupon_id")).await;
    scene.assert_named(FULL, &[&campaign, &coupon, "settlement: 19 rows, 20 expected"]).await;
    scene.put(settlement).await;

    for (table, columns, column) in [
        (
            "wallet",
            "user_id, '{}', campaign_id, 99, face_value, currency, state, issued_at, expires_at",
            "coupon_id",
        ),
        (
            "settlement_entries",
            "'{}', kind, campaign_id, merchant_id, amount, currency, event_id, occurred_at",
            "coupon_id",
        ),
    ] {
        let extra = Ulid::generate();
        let columns = columns.replace("{}", &Uuid::from(extra).to_string());
        let condition = scene.is_the_coupon(column);
        scene.execute(&format!("INSERT INTO {table} SELECT {columns} FROM {table} WHERE {condition}")).await;
        let name = table.trim_end_matches("_entries");
        scene
            .assert_named(FULL, &[&campaign, &extra.to_string(), &format!("{name}: 21 rows, 20 expected")])
            .await;
        scene.take(table, &format!("{column} = '{}'", Uuid::from(extra))).await;
    }

    let stranger = Ulid::generate();
    let of_nobody = format!(
        "user_id, '{0}', '{0}', number, face_value, currency, state, issued_at, expires_at",
        Uuid::from(stranger)
    );
    let condition = scene.is_the_coupon("coupon_id");
    scene.execute(&format!("INSERT INTO wallet SELECT {of_nobody} FROM wallet WHERE {condition}")).await;
    scene.assert_named(FULL, &[&format!("rows of campaign {stranger}, and no such campaign")]).await;
    scene.take("wallet", &format!("coupon_id = '{}'", Uuid::from(stranger))).await;
    scene.assert_balanced(FULL).await;
    scene.world.close().await;
}

/// A row of the outbox: the stream has one event more, and a coupon of which nobody told.
#[tokio::test]
async fn an_event_that_is_gone_or_told_twice_is_named() {
    let scene = Scene::start().await;
    let (campaign, coupon) = (scene.campaign.to_string(), scene.coupon.to_string());
    let events = scene.world.outbox(SHARD).await;
    let event = events.iter().find(|event| event.subject == coupon).unwrap();
    let of_the_event = format!("shard = 0 AND position = {}", event.position);

    let row = scene.take("outbox", &of_the_event).await;
    let words = ["outbox: 19 rows, 20 expected", "no event in the outbox announces coupon number 10"];
    scene.assert_named(FULL, &[&[campaign.as_str()][..], &words].concat()).await;
    let finished = scene.world.coupon(&["audit", "--full", "--json"]).await;
    let said: Value = serde_json::from_str(&finished.out).unwrap();
    let compared = json!({
        "events": events.len() - 1, "missing_from_stream": 0, "more_in_stream": 1, "different": 0,
    });
    assert_eq!(said["sheet"]["shards"][0]["compared"], compared);
    scene.put(row).await;

    // One event tells of another's coupon: the counts agree.
    let told_before = events.iter().find(|other| other.kind == "issued" && other.key == campaign).unwrap();
    let (subject, data) = (&told_before.subject, &told_before.data);
    scene
        .execute(&format!("UPDATE outbox SET subject = '{subject}', data = '{data}' WHERE {of_the_event}"))
        .await;
    scene
        .assert_named(
            FULL,
            &[&campaign, subject, &format!("position {}", event.position), "already announced"],
        )
        .await;
    let (subject, data) = (&event.subject, &event.data);
    scene
        .execute(&format!("UPDATE outbox SET subject = '{subject}', data = '{data}' WHERE {of_the_event}"))
        .await;
    scene.assert_balanced(FULL).await;

    // What is past retention is gone from the beginning of the outbox, and nothing is wrong.
    for statement in [
        "CREATE TABLE kept AS SELECT * FROM outbox WHERE position <= 12",
        "DELETE FROM outbox WHERE position <= 12",
    ] {
        sqlx::query(statement).execute(&scene.world.pool).await.unwrap();
    }
    for arguments in [QUICK, FULL] {
        scene.assert_balanced(arguments).await;
    }
    let said = scene.world.coupon(FULL).await.out;
    let compared = format!("{} events compared from position 13 on: 0 missing", events.len() - 12);
    assert!(said.contains(&compared), "{said}");
    let wallet = scene.take("wallet", &format!("number = 1 AND {}", scene.is_the_campaign())).await;
    scene.assert_named(FULL, &[&campaign, "wallet: 19 rows, 20 expected", "coupon 01"]).await;
    scene.put(wallet).await;
    sqlx::query("INSERT INTO outbox SELECT * FROM kept").execute(&scene.world.pool).await.unwrap();
    scene.world.close().await;
}

/// A row of the outbox that the service did not write.
#[tokio::test]
async fn an_event_of_a_campaign_that_does_not_exist_is_named() {
    let scene = Scene::start().await;
    let first = scene.world.outbox(SHARD).await.swap_remove(0);
    assert_eq!((first.position, &*first.kind), (1, "campaign-opened"));
    let stranger = Ulid::generate().to_string();
    let change = async |kind: &str, key: &str, subject: &str| {
        let columns = format!("type = '{kind}', key = '{key}', subject = '{subject}'");
        scene.execute(&format!("UPDATE outbox SET {columns} WHERE shard = 0 AND position = 1")).await;
    };
    change("issued", &stranger, &stranger).await;
    let announces =
        format!("outbox announces coupon {stranger} at position 1, which has no row in `coupons`");
    scene.assert_named(FULL, &[&format!("campaign {stranger}: {announces}")]).await;
    change(&first.kind, &first.key, &first.subject).await;
    scene.assert_balanced(FULL).await;
    scene.world.close().await;
}

#[tokio::test]
async fn an_amount_that_is_another_is_named() {
    let scene = Scene::start().await;
    let of_the_coupon = scene.is_the_coupon("coupon_id");
    for amount in [501, 499] {
        scene
            .execute(&format!("UPDATE settlement_entries SET amount = {amount} WHERE {of_the_coupon}"))
            .await;
        let settled = format!("settlement: entries add up to {}, 10000 expected", 19 * 500 + amount);
        scene.assert_named(FULL, &[&scene.campaign.to_string(), &scene.coupon.to_string(), &settled]).await;
    }
    scene.execute(&format!("UPDATE settlement_entries SET amount = 500 WHERE {of_the_coupon}")).await;
    scene.assert_balanced(FULL).await;
    scene.world.close().await;
}

/// The counts agree: only the full audit can find it.
#[tokio::test]
async fn a_row_that_is_another_is_named_by_the_full_audit() {
    let scene = Scene::start().await;
    let (campaign, coupon) = (scene.campaign.to_string(), scene.coupon.to_string());
    let stranger = Uuid::from(Ulid::generate());
    let the_coupon = Uuid::from(scene.coupon);
    for (table, change, back) in [
        ("wallet", format!("coupon_id = '{stranger}'"), format!("coupon_id = '{the_coupon}'")),
        ("wallet", "user_id = 'a-thief'".to_owned(), format!("user_id = '{}'", scene.user)),
        ("wallet", "face_value = 501".to_owned(), "face_value = 500".to_owned()),
        ("settlement_entries", format!("coupon_id = '{stranger}'"), format!("coupon_id = '{the_coupon}'")),
        ("settlement_entries", "merchant_id = 'a-thief'".to_owned(), "merchant_id = 'merchant-1'".to_owned()),
    ] {
        scene
            .execute(&format!("UPDATE {table} SET {change} WHERE {}", scene.is_the_coupon("coupon_id")))
            .await;
        let name = table.trim_end_matches("_entries");
        scene.assert_named(FULL, &[&campaign, name]).await;
        if change.starts_with("coupon_id") {
            scene.execute(&format!("UPDATE {table} SET {back} WHERE {change}")).await;
        } else {
            scene.assert_named(FULL, &[&coupon]).await;
            scene
                .execute(&format!("UPDATE {table} SET {back} WHERE {}", scene.is_the_coupon("coupon_id")))
                .await;
        }
        scene.assert_balanced(FULL).await;
    }
    scene.world.close().await;
}
