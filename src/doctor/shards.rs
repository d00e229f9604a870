//! Checks of the shards: whether their events are published and applied, whichever processes do it.

use anyhow::Context as _;
use outbox_relay::Shard;
use outbox_relay::standing::{self, ProjectionStanding, Standing};
use sqlx::{ConnectOptions as _, PgConnection};

use super::finding::Finding;
use crate::config::Config;
use crate::connections::{self, Patience, connect_nats};
use crate::event::OUTLET;
use crate::projections;

const EVENTS: &str = "events";
/// Seconds that an event may wait for the stream, as the alarm of `outbox_head_of_line_age_seconds` has it.
const WAIT_MAX: f64 = 60.0;

pub(super) async fn examine(config: &Config) -> anyhow::Result<Vec<Finding>> {
    let mut connection = connections::database(config)?.connect().await.context("connect to Postgres")?;
    let nats = connect_nats(config, Patience::None).await.ok();
    let (mut findings, mut ends) = (Vec::new(), Vec::new());
    for shard in (0..config.shards).map(Shard) {
        let published = match &nats {
            Some(nats) => standing::published(&mut connection, nats, &OUTLET, shard).await.ok().flatten(),
            None => None,
        };
        ends.push((shard, published));
    }
    for standing in Standing::read(&mut connection, &ends).await.context("read the outbox")? {
        findings.extend([relay(&standing), waiting(&standing)]);
    }
    findings.extend(of_projections(&mut connection, config.shards).await?);
    Ok(findings)
}

fn relay(Standing { shard, led_since, halted, head, published, .. }: &Standing) -> Finding {
    let of = |found: String| Finding::of(EVENTS, format!("relay of shard {shard}"), found);
    if let Some(reason) = halted {
        return of("halted".to_owned()).bad_unless(
            false,
            format!("{reason}. docs/how-to/troubleshoot.md has the order of steps; `coupon relay epoch new --shard {shard}` begins a new epoch."),
        );
    }
    let advice = "No event is published while none runs. Start a process with the role relay.";
    match led_since {
        Some(since) => of(format!("active since {since}")),
        None if *published == Some(*head) => {
            of("none runs, and nothing waits".to_owned()).warn_unless(false, advice)
        }
        None => of("none runs".to_owned()).bad_unless(false, advice),
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
