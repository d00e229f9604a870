//! Checks of the shards: whether their events are published and applied, whichever processes do it.

use anyhow::Context as _;
use async_nats::Client;
use outbox_relay::ownership::{self, Owner};
use outbox_relay::standing::{self, ProjectionStanding, Standing};
use outbox_relay::{Outlet, Shard, stream};
use sqlx::{ConnectOptions as _, PgConnection};

use super::finding::Finding;
use crate::config::Config;
use crate::connections::{self, Patience, connect_nats};
use crate::deployment;
use crate::event::OUTLET;
use crate::projections;

const EVENTS: &str = "events";
/// Seconds that an event may wait for the stream, as the alarm of `outbox_head_of_line_age_seconds` has it.
const WAIT_MAX: f64 = 60.0;

pub(super) async fn examine(config: &Config) -> anyhow::Result<Vec<Finding>> {
    let mut connection = connections::database(config)?.connect().await.context("connect to Postgres")?;
    let nats = connect_nats(config, Patience::None).await.ok();
    let deployment = deployment::read(&mut connection).await.context("read the deployment")?;
    let outlet = Outlet { deployment: deployment.map(|(deployment, _)| deployment), ..OUTLET };
    let (mut findings, mut ends) = (Vec::new(), Vec::new());
    for shard in (0..config.shards).map(Shard) {
        let published = match &nats {
            Some(nats) => standing::published(&mut connection, nats, &outlet, shard).await.ok().flatten(),
            None => None,
        };
        ends.push((shard, published));
    }
    for standing in Standing::read(&mut connection, &outlet, &ends).await.context("read the outbox")? {
        findings.extend([relay(&standing), waiting(&standing)]);
    }
    findings.extend(of_projections(&mut connection, config.shards).await?);
    if let Some(nats) = &nats {
        findings.extend(of_owners(nats, &outlet, config.shards).await);
    }
    Ok(findings)
}

fn relay(Standing { shard, leader, led_since, halted, head, published, .. }: &Standing) -> Finding {
    let of = |found: String| Finding::of(EVENTS, format!("relay of shard {shard}"), found);
    if let Some(reason) = halted {
        let command = format!("; `coupon relay epoch new --shard {shard}` begins a new epoch");
        let command = if reason.contains("new epoch") { &command } else { "" };
        let steps = "docs/how-to/troubleshoot.md has the order of steps";
        return of("halted".to_owned()).bad_unless(false, format!("{reason}. {steps}{command}."));
    }
    let advice = "No event is published while none runs. Start a process with the role relay.";
    match (leader, led_since) {
        (_, Some(since)) => of(format!("active since {since}")),
        (Some(_), None) => of("active".to_owned()),
        (None, None) if *published == Some(*head) => {
            of("none runs, and nothing waits".to_owned()).warn_unless(false, advice)
        }
        (None, None) => of("none runs".to_owned()).bad_unless(false, advice),
    }
}

fn waiting(standing: &Standing) -> Finding {
    let check = format!("unpublished events of shard {}", standing.shard);
    let (Some(backlog), Some(age)) = (standing.backlog(), standing.age) else {
        let advice = "Where the stream ends is not known: check NATS, and that its stream ends with an event of the outbox.";
        return Finding::unknown(EVENTS, &check, "not known", advice);
    };
    Finding::of(EVENTS, check, format!("{backlog}, the oldest for {age:.0} s")).bad_unless(
        age <= WAIT_MAX,
        "Other services do not learn of them. Check NATS, the limits of the stream, and the log of the relay.",
    )
}

async fn of_projections(connection: &mut PgConnection, shards: i16) -> anyhow::Result<Vec<Finding>> {
    let all = standing::of_projections(connection, &projections::names(), shards).await;
    let all = all.context("read the projections")?;
    Ok(all
        .into_iter()
        .map(|ProjectionStanding { projection, shard, lag, parked, .. }| {
            let found = format!("{lag} events behind, {parked} parked");
            Finding::of(EVENTS, format!("projection {projection} of shard {shard}"), found).warn_unless(
                parked == 0,
                "Parked events wait for a decision: `coupon dead list` names them, with their causes.",
            )
        })
        .collect())
}

/// Whose the streams are. One that names no deployment was created before deployments had names.
async fn of_owners(nats: &Client, outlet: &Outlet, shards: i16) -> Vec<Finding> {
    let of_shards = (0..shards).map(|shard| outlet.stream_of(Shard(shard)));
    let mut findings = Vec::new();
    for name in of_shards.chain([outlet.dead_stream(), outlet.replay_stream()]) {
        let check = format!("owner of {name}");
        let stream = match stream::existing(nats, &name).await {
            Ok(Some(stream)) => stream,
            Ok(None) => continue,
            Err(error) => {
                let advice = "Use a login that may publish to $JS.API.STREAM.INFO.>.";
                findings.push(Finding::unknown(EVENTS, &check, error.to_string(), advice));
                break; // the others are likely to take as long to fail
            }
        };
        let of = |found: &str| Finding::of(EVENTS, &*check, found);
        findings.push(match ownership::owner(outlet, &stream.cached_info().config) {
            Owner::Ours => of("this deployment"),
            Owner::Foreign(foreign) => of("another deployment").bad_unless(false, format!("{foreign}.")),
            Owner::Unknown => of("not named").warn_unless(
                !nats.is_server_compatible(2, 10, 0),
                "Another deployment on this NATS would not notice that it is not its own. The relay names the owner when it \
                 starts, if its login may change the stream.",
            ),
        });
    }
    findings
}
