//! Readers who wait together are asked for together, and each gets their own answer.

use coupon_dispatcher::coupon::code::new_code;
use coupon_dispatcher::ids::CouponId;
use futures_util::future::join_all;
use serde_json::json;

use crate::support::World;

const USERS: usize = 60;

#[tokio::test]
async fn each_of_many_readers_gets_their_own_answer() {
    let world = World::with_processes(&[""]).await;
    let campaigns = join_all((0..3).map(|_| world.open_campaign(json!({})))).await;
    let issued = join_all((0..USERS).map(async |number| {
        let campaign = campaigns[number % campaigns.len()];
        let coupon = world.claim(campaign, &format!("user-{number}")).await;
        assert_eq!(coupon.status, 201, "{coupon:?}");
        (campaign, coupon.body)
    }));
    let issued = issued.await;
    world.balanced().await;
    let read = issued.iter().enumerate().map(async |(number, (campaign, coupon))| {
        let (api, user) = (world.api(), format!("user-{number}"));
        let id = coupon["id"].as_str().unwrap();
        let paths = [
            format!("/v1/coupons/{id}"),
            format!("/v1/users/{user}/coupons"),
            format!("/v1/users/nobody-{number}/coupons"),
            format!("/v1/users/{user}/coupons?status=redeemed"),
            format!("/v1/campaigns/{campaign}"),
            format!("/v1/coupons?code={}", coupon["code"].as_str().unwrap()),
            format!("/v1/coupons?code={}", new_code(CouponId(ulid::Ulid::generate()))),
        ];
        let answers = join_all(paths.iter().map(|path| api.get(path))).await;
        assert_eq!(&answers[0].body, coupon);
        let wallet = answers[1].body["coupons"].as_array().unwrap();
        assert_eq!(wallet.iter().map(|held| held["id"].as_str().unwrap()).collect::<Vec<_>>(), [id]);
        assert_eq!((&answers[2].body["coupons"], &answers[3].body["coupons"]), (&json!([]), &json!([])));
        assert_eq!(
            (&answers[4].body["id"], &answers[4].body["issued"]),
            (&json!(campaign), &json!(USERS / 3))
        );
        assert_eq!(answers[5].body, json!({ "coupons": [coupon], "next": null }));
        assert_eq!(answers[6].body, json!({ "coupons": [], "next": null }));
        let again = world.claim(*campaign, &user).await;
        assert_eq!((again.status, &again.body["coupon"]["id"]), (409, &coupon["id"]), "{again:?}");
    });
    join_all(read).await;
    let missing = world.api().get("/v1/coupons/01ARZ3NDEKTSV4RRFFQ69G5FAV").await;
    assert_eq!(missing.status, 404, "{missing:?}");
    let nameless = world.api().get("/v1/coupons").await;
    assert_eq!(
        (nameless.status, &nameless.body["errors"][0]["field"]),
        (422, &json!("code")),
        "{nameless:?}"
    );
    world.close().await;
}

#[tokio::test]
async fn a_row_that_cannot_be_read_fails_only_those_who_ask_for_it() {
    let mut world = World::with_processes(&["api"]).await;
    let campaign = world.open_campaign(json!({})).await;
    let coupons = join_all((0..USERS).map(async |number| {
        let coupon = world.claim(campaign, &format!("user-{number}")).await;
        coupon.body["id"].as_str().unwrap().to_owned()
    }));
    let coupons = coupons.await;
    // A user id that no user can have: the program never writes it.
    let rename = async |from: &str, to: &str| {
        let rename = "UPDATE coupons SET user_id = $2 WHERE user_id = $1";
        sqlx::query(rename).bind(from).bind(to).execute(&world.pool).await.unwrap();
    };
    let name = format!("user-{}", USERS - 1);
    rename(&name, "user 0").await;
    let (last, others) = coupons.split_last().unwrap();
    for _ in 0..5 {
        let others = others.iter().map(async |coupon| {
            let answer = world.api().get(&format!("/v1/coupons/{coupon}")).await;
            assert_eq!((answer.status, answer.body["id"].as_str()), (200, Some(&**coupon)), "{answer:?}");
        });
        let broken = async {
            let answer = world.api().get(&format!("/v1/coupons/{last}")).await;
            assert_eq!((answer.status, answer.problem()), (500, "internal"), "{answer:?}");
        };
        futures_util::join!(join_all(others), broken);
    }
    rename("user 0", &name).await;
    world.add_process("relay,project").await;
    world.close().await;
}

#[tokio::test]
async fn a_time_that_cannot_be_read_is_refused() {
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    assert_eq!(world.claim(campaign, "user-1").await.status, 201);
    for (table, column, value) in [
        ("campaigns", "closes_at", "infinity"),
        ("campaigns", "opens_at", "-infinity"),
        ("coupons", "issued_at", "-infinity"),
        ("coupons", "expires_at", "infinity"),
        ("campaigns", "closes_at", "10000-01-01"),
        ("coupons", "expires_at", "20000-01-01"),
        ("coupons", "issued_at", "0001-12-31 BC"),
    ] {
        let set = format!("UPDATE {table} SET {column} = '{value}'");
        let refused = sqlx::raw_sql(&set).execute(&world.pool).await.unwrap_err();
        let constraint = refused.as_database_error().and_then(|error| error.constraint());
        assert_eq!(constraint, Some(&*format!("{table}_times_can_be_read")), "{column} = {value}");
    }
    world.close().await;
}

/// A time that predates the constraint makes the driver panic.
#[tokio::test]
async fn a_statement_that_fails_in_any_way_holds_up_no_other() {
    let mut world = World::with_processes(&["api"]).await;
    let campaign = world.open_campaign(json!({})).await;
    let ids = join_all(["alice", "bob"].map(async |user| {
        let coupon = world.claim(campaign, user).await;
        coupon.body["id"].as_str().unwrap().to_owned()
    }));
    let [broken, other]: [String; 2] = ids.await.try_into().unwrap();
    let statements = "ALTER TABLE coupons DROP CONSTRAINT coupons_times_can_be_read; \
        UPDATE coupons SET issued_at = issued_at + interval '9000 years' WHERE user_id = 'alice'";
    sqlx::raw_sql(statements).execute(&world.pool).await.unwrap();
    for _ in 0..4 {
        let answer = world.api().get(&format!("/v1/coupons/{broken}")).await;
        assert_eq!((answer.status, answer.problem()), (500, "internal"), "{answer:?}");
    }
    for _ in 0..4 {
        let answer = world.api().get(&format!("/v1/coupons/{other}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let repaired = "UPDATE coupons SET issued_at = issued_at - interval '9000 years' WHERE user_id = 'alice'";
    sqlx::raw_sql(repaired).execute(&world.pool).await.unwrap();
    world.add_process("relay,project").await;
    world.close().await;
}
