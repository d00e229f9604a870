//! What can befall a stream, and what its relay makes of it: on the packaged server of NATS, on the
//! newest one, and on clusters of three.

mod absences;
mod losses;
mod outsider;
mod strangers;

use async_nats::jetstream;
use outbox_relay::Shard;
use serde_json::Value;

use crate::outbox::{append_committed, event};
use crate::support::{SOON, World, wait_for};
use absences::{
    a_cluster_that_loses_its_leader_loses_nothing, a_node_that_was_away_catches_up,
    while_nats_is_away_the_outbox_waits,
};
use losses::{
    a_deleted_stream_is_made_again, a_lost_tail_is_published_again,
    a_message_that_is_lost_from_the_middle_is_named, a_restored_database_needs_an_epoch,
    a_stream_past_retention_needs_a_decision, a_tail_that_is_lost_in_a_rush_is_published_again,
};
use strangers::{
    a_seen_id_at_another_place_stops_the_relay, a_strangers_message_in_the_midst_stops_the_relay,
    what_is_stored_already_is_recognized, what_was_seen_elsewhere_does_not_count_as_published,
};

const SHARD: Shard = Shard(0);
const STREAM: &str = "COUPONS-0";

/// A test of each of these situations on each of these servers.
macro_rules! on {
    ($servers:tt: $($situation:ident)+) => {$(
        mod $situation {
            on!(each $situation $servers);
        }
    )+};
    (each $situation:ident [$($test:ident $nats:ident),+]) => {$(
        #[tokio::test]
        async fn $test() {
            super::$situation(crate::support::Nats::$nats).await;
        }
    )+};
}

on! {
    [packaged Packaged, newest Newest, packaged_cluster PackagedCluster, newest_cluster NewestCluster]:
    a_lost_tail_is_published_again
    a_tail_that_is_lost_in_a_rush_is_published_again
    a_deleted_stream_is_made_again
    a_message_that_is_lost_from_the_middle_is_named
    a_stream_past_retention_needs_a_decision
    a_restored_database_needs_an_epoch
    what_is_stored_already_is_recognized
    what_was_seen_elsewhere_does_not_count_as_published
    a_seen_id_at_another_place_stops_the_relay
    a_strangers_message_in_the_midst_stops_the_relay
    while_nats_is_away_the_outbox_waits
}

on! {
    [packaged_cluster PackagedCluster, newest_cluster NewestCluster]:
    a_cluster_that_loses_its_leader_loses_nothing
    a_node_that_was_away_catches_up
}

impl World {
    pub(crate) async fn append_events(&self, count: usize) {
        let events: Vec<_> = (0..count).map(|_| event("tested")).collect();
        append_committed(self, SHARD, &events).await;
    }

    /// The relay stops, and says so: the reason.
    pub(crate) async fn halted(&self) -> String {
        wait_for("the relay stops", SOON, async || {
            let answer = self.api().get("/readyz").await;
            assert_eq!(answer.status, 200, "claims go on: {answer:?}");
            answer.body["halted"][0].as_str().map(ToOwned::to_owned)
        })
        .await
    }

    pub(crate) async fn begin_epoch(&self) -> Value {
        let begun = self.coupon(&["relay", "epoch", "new", "--yes", "--json"]).await;
        assert_eq!(begun.code, Some(0), "{begun:?}");
        serde_json::from_str(&begun.out).unwrap()
    }

    /// The name of the node that leads the stream.
    async fn leading_node(&self) -> String {
        wait_for("the stream has a leader", SOON, async || {
            let stream = jetstream::new(self.nats().await).get_stream(STREAM).await.ok()?;
            stream.cached_info().cluster.as_ref()?.leader.clone()
        })
        .await
    }

    /// As a twin of the relay would.
    pub(crate) async fn publish_at(&self, sequence: i64, id: &str, body: &str) {
        let message = jetstream::message::PublishMessage::build()
            .payload(body.to_owned().into())
            .message_id(id)
            .expected_last_sequence(sequence.unsigned_abs() - 1);
        let context = jetstream::new(self.nats().await);
        context.send_publish("coupons.tested.K.0", message).await.unwrap().await.unwrap();
    }
}
