//! More ask than can be served: the rest is refused at once, and loses nothing by it.

use std::collections::HashSet;

use coupon_dispatcher::ids::CampaignId;
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::problems::is_as_ever;
use crate::support::{Answer, World, owns};

/// Readers that one process has in progress.
const READERS: usize = 512;

/// So many users claim at once, each for himself, at the first process.
fn claims(world: &World, campaign: CampaignId, users: usize) -> JoinSet<(String, Answer)> {
    let api = world.api();
    (0..users)
        .map(|number| {
            let (api, user) = (api.clone(), format!("user-{number}"));
            let path = format!("/v1/campaigns/{campaign}/coupons");
            async move { (user.clone(), api.post(&path, &json!({ "user_id": user })).await) }
        })
        .collect()
}

/// Waits until so many are refused. The others of whom an answer is there are answered too.
async fn refused(answers: &mut JoinSet<(String, Answer)>, count: usize) -> Vec<(String, Answer)> {
    let mut heard = Vec::new();
    while heard.iter().filter(|(_, answer): &&(String, Answer)| answer.problem() == "overloaded").count()
        < count
    {
        heard.push(answers.join_next().await.expect("too few are refused").unwrap());
    }
    heard
}

/// Who was refused has nothing, who was promised something has it; and a refusal says when to come again.
async fn is_kept(world: &World, campaign: CampaignId, answers: &[(String, Answer)]) {
    let holders: Vec<String> = sqlx::query_scalar("SELECT user_id FROM coupons WHERE campaign_id = $1")
        .bind(Uuid::from(campaign.0))
        .fetch_all(&world.pool)
        .await
        .unwrap();
    let holders: HashSet<String> = holders.into_iter().collect();
    for (user, answer) in answers {
        match (answer.status, answer.problem()) {
            (201, _) => assert!(holders.contains(user), "{user} was promised a coupon"),
            (503, slug) => {
                assert_eq!(answer.header("retry-after"), Some("1"), "{answer:?}");
                assert!(slug != "overloaded" || !holders.contains(user), "{user} was refused");
                if slug == "overloaded" {
                    is_as_ever(slug, answer);
                }
            }
            _ => panic!("{user}: {answer:?}"),
        }
    }
}

/// A batch of 10 a second: those behind would wait for half a minute.
#[tokio::test]
async fn a_slow_postgres_lets_nobody_wait_behind_all_the_others() {
    let fault = owns("postgres-too-slow-for-the-crowd");
    let mut world = World::bare(1).await;
    world.migrate().await;
    let mut process = world.process("");
    process.set("BATCH_ROWS", "10");
    world.processes.push(process);
    world.processes[0].start().await;
    let campaign = world.open_campaign(json!({ "quantity": 1_000 })).await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
                $$ BEGIN PERFORM pg_sleep(1); RETURN NULL; END $$; \
                CREATE TRIGGER slow AFTER INSERT ON coupons EXECUTE FUNCTION slow()";
    sqlx::raw_sql(slow).execute(&world.pool).await.unwrap();
    let answers = claims(&world, campaign, 300).join_all().await;
    is_kept(&world, campaign, &answers).await;
    let refused = answers.iter().filter(|(_, answer)| answer.problem() == "overloaded").count();
    fault.fired(1);
    assert!((100..300).contains(&refused), "{refused} of 300 were refused");
    sqlx::raw_sql("DROP FUNCTION slow CASCADE").execute(&world.pool).await.unwrap();
    world.pending(campaign, 0).await;
    assert_eq!(world.claim(campaign, "last").await.status, 201);
    fault.healed();
    world.close().await;
}

#[tokio::test]
async fn readers_in_plenty_are_refused_and_the_process_stays_ready() {
    let fault = owns("readers-in-plenty");
    let world = World::start().await;
    let campaign = world.open_campaign(json!({})).await;
    let coupon = world.claim(campaign, "alice").await.body["id"].as_str().unwrap().to_owned();
    let mut lock = world.pool.begin().await.unwrap();
    sqlx::query("LOCK TABLE coupons").execute(&mut *lock).await.unwrap(); // nobody can read it
    let mut answers: JoinSet<_> = (0..READERS + 100)
        .map(|number| {
            let (api, path) = (world.api(), format!("/v1/coupons/{coupon}"));
            async move { (format!("reader-{number}"), api.get(&path).await) }
        })
        .collect();
    let mut heard = refused(&mut answers, 100).await;
    fault.fired(1);
    let ready = world.api().get("/readyz").await;
    assert_eq!(ready.status, 200, "{ready:?}");
    lock.rollback().await.unwrap();
    heard.extend(answers.join_all().await);
    assert!(heard.iter().all(|(_, answer)| [200, 503].contains(&answer.status)), "{heard:?}");
    assert_eq!(world.api().get(&format!("/v1/coupons/{coupon}")).await.status, 200);
    fault.healed();
    world.close().await;
}
