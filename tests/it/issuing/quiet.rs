//! One hot campaign beside quiet ones of its shard: no claim of a quiet one waits until the rush is over.

use std::cell::Cell;
use std::net::SocketAddr;

use bytes::Bytes;
use coupon_dispatcher::ids::CampaignId;
use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use ulid::Ulid;

use crate::support::{TOKEN, World};

const QUIET: usize = 50;
/// Claims in progress on the hot campaign: more than a batch, and so few that every claim finds one of the 1,500 places
/// of its shard at once.
const HOT: usize = 600;
/// Operations in one call of the gate, at most.
const CALL: usize = 512;
/// Claims in one batch of a writer, at most.
const BATCH: usize = 500;
/// Hot claims that are answered until the quiet users end. The hot ones end with them, or at twice this number.
const RUSH: usize = 20 * BATCH;
/// Hot claims that are answered while a quiet one waits, at most. Gate and writer take claims in the order in which
/// these arrive, so there are
/// * those that were in progress when the quiet claim was made: one of each connection;
/// * of those that came later, those that go to the gate in one call with it, and those that are written in one batch
///   with it;
/// * one more of each connection while the service reads what has arrived, and one while the client does: both take
///   the connections in any order.
const ANSWERED_MEANWHILE_MAX: usize = HOT + CALL + BATCH + 2 * HOT;

/// A client that keeps its connection.
struct Client(SendRequest<Full<Bytes>>);

impl Client {
    async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    /// A claim of this user: the status and the body of its answer.
    async fn claim(&mut self, campaign: CampaignId, user: &str) -> (u16, Value) {
        let request = Request::post(format!("/v1/campaigns/{campaign}/coupons"))
            .header(HOST, "localhost")
            .header(AUTHORIZATION, format!("Bearer {TOKEN}"))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(json!({ "user_id": user }).to_string()))
            .unwrap();
        self.0.ready().await.unwrap();
        let answer = self.0.send_request(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }
}

/// What both kinds of users see.
#[derive(Default)]
struct Rush {
    /// Coupons of the hot campaign that were answered.
    hot: Cell<usize>,
    quiet: Cell<usize>,
    /// Quiet campaigns whose users have ended.
    ended: Cell<usize>,
    /// The most hot claims that were answered while a quiet one waited.
    meanwhile_max: Cell<usize>,
}

impl Rush {
    async fn hot(&self, mut client: Client, campaign: CampaignId) {
        while self.ended.get() < QUIET && self.hot.get() < 2 * RUSH {
            let (status, answer) = client.claim(campaign, &Ulid::generate().to_string()).await;
            assert!([201, 503].contains(&status), "{answer}");
            self.hot.set(self.hot.get() + usize::from(status == 201));
        }
    }

    /// Users of a quiet campaign, one after the other.
    async fn quiet(&self, mut client: Client, campaign: CampaignId) {
        while self.hot.get() < RUSH {
            let user = Ulid::generate().to_string();
            let mut before = self.hot.get();
            loop {
                let (status, answer) = client.claim(campaign, &user).await;
                match (status, answer["type"].as_str()) {
                    (201, _) => break,
                    // Redis did not answer in time, which concerns all claims.
                    (503, Some("/problems/gate-unavailable")) => before = self.hot.get(),
                    _ => assert_eq!(status, 503, "{answer}"),
                }
            }
            let meanwhile = self.hot.get() - before;
            self.meanwhile_max.set(self.meanwhile_max.get().max(meanwhile));
            self.quiet.set(self.quiet.get() + 1);
        }
        self.ended.set(self.ended.get() + 1);
    }
}

#[tokio::test]
async fn a_hot_campaign_does_not_starve_quiet_ones() {
    let world = World::with_processes(&[""]).await;
    let address = world.api().address();
    let campaign = async || {
        let campaign = world.open_campaign(json!({ "quantity": 2 * RUSH + HOT })).await;
        assert_eq!(world.claim(campaign, "first").await.status, 201); // its gate is loaded
        campaign
    };
    let (hot, mut quiet) = (campaign().await, Vec::new());
    for _ in 0..QUIET {
        quiet.push((Client::connect(address).await, campaign().await));
    }
    let crowd = join_all((0..HOT).map(|_| Client::connect(address))).await;
    let rush = Rush::default();
    let crowd = join_all(crowd.into_iter().map(|client| rush.hot(client, hot)));
    let quiet = join_all(quiet.into_iter().map(|(client, campaign)| rush.quiet(client, campaign)));
    futures_util::join!(crowd, quiet);

    let Rush { hot, quiet, meanwhile_max, .. } = rush;
    let meanwhile_max = meanwhile_max.get();
    println!("{} hot claims, {} quiet ones, {meanwhile_max} meanwhile at most", hot.get(), quiet.get());
    assert!(
        meanwhile_max <= ANSWERED_MEANWHILE_MAX,
        "{meanwhile_max} hot claims were answered while a quiet one waited"
    );
    world.close().await;
}
