//! What NATS refuses: to write a stream, to take from it, to read what was not given.

use async_nats::{Client, Event, StatusCode, Subscriber};
use coupon_dispatcher::connections::nats_options;
use futures_util::{FutureExt as _, StreamExt as _};
use outbox_relay::Shard;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;
use ulid::Ulid;

use super::{ADMINISTRATOR, url_of};
use crate::support::{SOON, World, wait_until};

const USERS: [&str; 6] = ["api", "relay", "projector", "replay", "auditor", "loyalty"];

/// Requests from the least to the worst. Each would be granted to an administrator; each but those in
/// [`may`] is to be refused to everybody else.
fn attacks(config: &Value) -> Vec<(String, Value)> {
    let consumer = json!({ "name": "spy", "ack_policy": "none", "inactive_threshold": 60_000_000_000_i64 });
    let durable = json!({ "durable_name": "spy-2", "ack_policy": "none" });
    let mut smaller = config.clone();
    smaller["max_msgs"] = json!(10);
    let api = |request: &str, body: Value| (format!("$JS.API.{request}"), body);
    vec![
        api("STREAM.NAMES", json!(null)),
        api("STREAM.INFO.COUPONS-0", json!(null)),
        api("STREAM.MSG.GET.COUPONS-0", json!({ "seq": 1 })),
        api("DIRECT.GET.COUPONS-0", json!({ "seq": 1 })),
        api("CONSUMER.CREATE.COUPONS-0.spy", json!({ "stream_name": "COUPONS-0", "config": consumer })),
        api(
            "CONSUMER.DURABLE.CREATE.COUPONS-0.spy-2",
            json!({ "stream_name": "COUPONS-0", "config": durable }),
        ),
        api("CONSUMER.MSG.NEXT.COUPONS-0.spy", json!({ "batch": 1 })),
        api("STREAM.CREATE.SPY", json!({ "name": "SPY", "mirror": { "name": "COUPONS-0" } })),
        api("CONSUMER.DELETE.COUPONS-0.projections", json!(null)),
        api("CONSUMER.DELETE.COUPONS-0.loyalty", json!(null)),
        (format!("coupons.issued.{}.0", Ulid::generate()), json!({ "forged": true })),
        api("STREAM.MSG.DELETE.COUPONS-0", json!({ "seq": 1 })),
        api("STREAM.UPDATE.COUPONS-0", smaller),
        api("STREAM.PURGE.COUPONS-0", json!(null)),
        api("STREAM.DELETE.COUPONS-0", json!(null)),
    ]
}

/// What is somebody's task.
fn may(user: &str, subject: &str) -> bool {
    let tasks: &[&str] = match user {
        "relay" => &["STREAM.INFO.COUPONS-0", "STREAM.MSG.GET.COUPONS-0", "coupons."],
        "projector" => &[
            "STREAM.INFO.COUPONS-0",
            "CONSUMER.DELETE.COUPONS-0.projections",
            "CONSUMER.MSG.NEXT.COUPONS-0.spy",
        ],
        "api" => &["STREAM.INFO.COUPONS-0"],
        "auditor" => &["STREAM.INFO.COUPONS-0", "CONSUMER.MSG.NEXT.COUPONS-0.spy"],
        _ => &[],
    };
    tasks.iter().any(|task| subject.strip_prefix("$JS.API.").unwrap_or(subject).starts_with(task))
}

/// What everybody may ask, and whose answer he might send elsewhere.
const QUESTIONS: [(&str, &str, &str); 9] = [
    ("api", "$JS.API.STREAM.INFO.COUPONS-0", ""),
    ("projector", "$JS.API.STREAM.INFO.COUPONS-0", ""),
    ("projector", "$JS.API.CONSUMER.INFO.COUPONS-0.projections", ""),
    ("auditor", "$JS.API.STREAM.INFO.COUPONS-0", ""),
    ("auditor", "$JS.API.INFO", ""),
    ("replay", "$JS.API.STREAM.INFO.COUPONS-REPLAY", ""),
    ("replay", "replay.forged.issued.x.0", ""),
    ("loyalty", "$JS.API.CONSUMER.INFO.COUPONS-0.loyalty", ""),
    ("loyalty", "$JS.API.CONSUMER.MSG.NEXT.COUPONS-0.loyalty", r#"{"batch":1,"no_wait":true}"#),
];

/// Nobody gets what he should not have, and no attempt leaves a trace; then the administrator does it all.
pub(super) async fn attack(world: &World, mut callers: Vec<Caller>) {
    let mut administrator = Caller::new(world, ADMINISTRATOR).await;
    let before = administrator.stream().await;
    let attacks = attacks(&before["config"]);
    for caller in &mut callers {
        for (subject, body) in &attacks {
            if !may(caller.name, subject) {
                let answer = caller.ask(subject, body).await;
                assert!(answer.is_err(), "{} on {subject}: {answer:?}", caller.name);
            }
        }
    }
    let (_, other) = attacks.iter().find(|(subject, _)| subject.contains("STREAM.UPDATE")).unwrap();
    let relay = callers.iter_mut().find(|caller| caller.name == "relay").unwrap();
    let answer = relay.ask("$JS.API.STREAM.CREATE.COUPONS-0", other).await;
    assert!(answer.is_err(), "the relay makes its stream another: {answer:?}");
    for (name, question, body) in QUESTIONS {
        let caller = callers.iter_mut().find(|caller| caller.name == name).unwrap();
        caller.have_answered(question, body, &forged()).await;
        // Its answer comes after the one that went astray.
        caller.ask(question, &serde_json::from_str(body).unwrap_or_default()).await.unwrap();
    }
    assert_eq!(administrator.stream().await, before);
    let consumers = administrator.ask("$JS.API.CONSUMER.NAMES.COUPONS-0", &json!(null)).await.unwrap();
    for name in ["projections", "loyalty"] {
        assert!(consumers["consumers"].as_array().unwrap().contains(&json!(name)), "{consumers}");
    }

    let end = world.end_of_stream(Shard(0)).await;
    administrator.have_answered("$JS.API.STREAM.INFO.COUPONS-0", "", &forged()).await;
    wait_until("an answer is stored", SOON, async || world.end_of_stream(Shard(0)).await > end).await;
    for (subject, body) in &attacks {
        let answer = administrator.ask(subject, body).await;
        assert!(answer.is_ok(), "{subject}: {answer:?}");
    }
}

fn forged() -> String {
    format!("coupons.issued.{}.0", Ulid::generate())
}

/// A user of NATS, who is told what he may not do.
pub(super) struct Caller {
    pub(super) name: &'static str,
    client: Client,
    refusals: mpsc::Receiver<String>,
    ears: Option<Subscriber>,
}

impl Caller {
    /// Everybody but the administrator.
    pub(super) async fn all(world: &World) -> Vec<Self> {
        let mut all = Vec::new();
        for user in USERS {
            all.push(Self::new(world, user).await);
        }
        all
    }

    async fn new(world: &World, name: &'static str) -> Self {
        let (told, refusals) = mpsc::channel(64);
        let url = url_of(name, &world.servers.nats_url());
        let options = nats_options(&url).event_callback(move |event| {
            let told = told.clone();
            async move {
                if let Event::ServerError(error) = event {
                    told.send(error.to_string()).await.unwrap();
                }
            }
        });
        let client = options.connect(url).await.unwrap();
        Self { name, client, refusals, ears: None }
    }

    /// Listens to all events, if it may.
    pub(super) async fn listen(&mut self) {
        self.ears = Some(self.client.subscribe("coupons.>").await.unwrap());
        self.client.flush().await.unwrap();
    }

    /// How many messages have come since. It listens no longer.
    pub(super) async fn heard(&mut self) -> usize {
        let mut ears = self.ears.take().unwrap();
        self.client.flush().await.unwrap();
        ears.unsubscribe().await.unwrap();
        self.client.flush().await.unwrap();
        let mut count = 0;
        while let Some(Some(_)) = ears.next().now_or_never() {
            count += 1;
        }
        count
    }

    /// The answer, or why there is none. Somebody has to say no: silence is neither.
    async fn ask(&mut self, subject: &str, body: &Value) -> Result<Value, String> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let inbox = self.client.new_inbox();
        let mut answers = self.client.subscribe(inbox.clone()).await.unwrap();
        self.have_answered(subject, &body, &inbox).await;
        let answered = async {
            tokio::select! {
                refusal = self.refusals.recv() => Err(refusal.unwrap()),
                answer = answers.next() => Ok(answer.unwrap()),
            }
        };
        let answer = timeout(SOON, answered).await.unwrap_or_else(|_| panic!("{subject}: silence"))?;
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            return Err("nobody answers".to_owned());
        }
        let answer: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
        if answer["error"].is_null() { Ok(answer) } else { Err(answer["error"].to_string()) }
    }

    /// Asks, and has the answer sent to `reply`.
    async fn have_answered(&mut self, subject: &str, body: &str, reply: &str) {
        let (subject, reply, body) = (subject.to_owned(), reply.to_owned(), body.to_owned());
        while self.refusals.try_recv().is_ok() {}
        self.client.publish_with_reply(subject, reply, body.into()).await.unwrap();
        self.client.flush().await.unwrap();
    }

    /// What the shard's stream is and holds.
    async fn stream(&mut self) -> Value {
        let info = self.ask("$JS.API.STREAM.INFO.COUPONS-0", &json!(null)).await.unwrap();
        let state = &info["state"];
        json!({
            "config": info["config"], "messages": state["messages"],
            "first": state["first_seq"], "last": state["last_seq"],
        })
    }
}
