//! Another service, which knows nothing of this one but its stream: a durable pull consumer with
//! explicit acknowledgements sees every event, and each at one place.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use futures_util::StreamExt as _;
use outbox_relay::{Event, Shard};
use serde_json::json;
use ulid::Ulid;

use crate::support::{SOON, World, wait_until};

const NAME: &str = "another-service";
/// Then it breaks off, with a message that it has seen and not acknowledged.
const MESSAGES_PER_SESSION: usize = 250;

#[derive(Default)]
struct Seen {
    ids: BTreeMap<u64, Ulid>,
    sessions: usize,
    deliveries: usize,
}

#[tokio::test]
async fn a_subscriber_sees_every_event_at_one_place() {
    let mut world = World::with_processes(&["api", "relay", "project"]).await;
    let campaign = world.open_campaign(json!({ "quantity": 2_000 })).await;
    world.assert_published().await;
    let seen = Arc::new(Mutex::new(Seen::default()));
    let subscriber = tokio::spawn(subscribe(world.servers.nats_url(), seen.clone()));
    let rush = tokio::spawn(world.rush(campaign, 2_000).run());
    world.issued(campaign, 300).await;
    world.processes[1].kill();
    world.processes[1].start().await;
    world.issued(campaign, 800).await;
    world.servers.nats.kill().await;
    world.issued(campaign, 1_200).await;
    world.servers.nats.start().await.unwrap();
    world.issued(campaign, 1_600).await;
    world.processes[1].kill();
    world.processes[1].start().await;
    world.answered(&rush.await.unwrap()).await;

    wait_until("the subscriber has seen all", SOON, async || seen.lock().unwrap().ids.len() >= 2_000).await;
    wait_until("the subscriber has acknowledged all", SOON, async || is_done(&world).await).await;
    subscriber.abort();
    let issued: BTreeMap<u64, Ulid> = world
        .outbox(Shard(0))
        .await
        .into_iter()
        .filter(|event| event.kind == "issued")
        .map(|event| (event.position.unsigned_abs(), event.id))
        .collect();
    let Seen { ids, sessions, deliveries } = std::mem::take(&mut *seen.lock().unwrap());
    assert_eq!(ids, issued);
    assert!(sessions > 5 && deliveries > ids.len(), "{deliveries} deliveries in {sessions} sessions");
    world.close().await;
}

async fn subscribe(url: String, seen: Arc<Mutex<Seen>>) -> Infallible {
    loop {
        let result = session(&url, &seen).await;
        seen.lock().unwrap().sessions += 1;
        if let Err(error) = result {
            println!("the subscriber begins anew: {error}");
        }
    }
}

async fn session(url: &str, seen: &Mutex<Seen>) -> Result<(), async_nats::Error> {
    let client = async_nats::ConnectOptions::new().retry_on_initial_connect().connect(url).await?;
    let consumer = consumer(client).await?;
    let pull = consumer.stream().heartbeat(Duration::from_secs(1)).expires(Duration::from_secs(5));
    let mut messages = pull.messages().await?.take(MESSAGES_PER_SESSION);
    let mut count = 0;
    while let Some(message) = messages.next().await {
        let message = message?;
        see(&message, seen);
        count += 1;
        if count < MESSAGES_PER_SESSION {
            message.double_ack().await?;
        }
    }
    Ok(())
}

async fn consumer(client: async_nats::Client) -> Result<PullConsumer, async_nats::Error> {
    let stream = jetstream::new(client).get_stream("COUPONS-0").await?;
    let config = pull::Config {
        durable_name: Some(NAME.to_owned()),
        filter_subject: "coupons.issued.*.0".to_owned(),
        ack_wait: Duration::from_secs(1),
        ..Default::default()
    };
    Ok(stream.get_or_create_consumer(NAME, config).await?)
}

fn see(message: &jetstream::Message, seen: &Mutex<Seen>) {
    let sequence = message.info().unwrap().stream_sequence;
    let id = Event::parse(0, &message.payload).unwrap().id;
    let mut seen = seen.lock().unwrap();
    seen.deliveries += 1;
    let before = seen.ids.insert(sequence, id);
    assert!(before.is_none_or(|before| before == id), "two events at sequence {sequence}");
}

async fn is_done(world: &World) -> bool {
    let mut consumer = consumer(world.nats().await).await.unwrap();
    let info = consumer.info().await.unwrap();
    info.num_pending == 0 && info.num_ack_pending == 0
}
