//! CPU time, as Linux reports it in `/proc/<pid>/stat` and `/proc/stat`.

use std::fs;

use anyhow::{Context as _, Result};

use crate::service::Service;

/// Linux reports to programs in hundredths of a second (`USER_HZ`), on every machine.
const TICK_US: f64 = 10_000.0;
/// Where user and system time stand behind the name of the program, and behind them those of children that
/// have ended.
const OWN: usize = 11;
const ENDED_CHILDREN: usize = 13;
const END: usize = 15;
/// In the first line of `/proc/stat`: user, nice, system, irq, softirq, steal.
const BUSY: [usize; 6] = [0, 1, 2, 5, 6, 7];

/// User and system time of a process and its children, living and ended, in microseconds.
fn family_us(pid: u32) -> Result<f64> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    let mut sum = times_us(&pid.to_string(), OWN)?;
    for child in children.split_whitespace() {
        // A child that has ended since has left its time to its parent: it is counted next time.
        sum += times_us(child, OWN).unwrap_or_default();
    }
    Ok(sum)
}

/// CPU time of the service, Postgres, Redis and NATS since they were started, in microseconds.
pub(crate) fn service_us(service: &Service) -> Result<[f64; 4]> {
    let servers = &service.servers;
    let pids = [service.process.id(), servers.postgres.pid(), servers.redis.pid(), servers.nats.pid()];
    let mut times = [0.0; 4];
    for (time, pid) in times.iter_mut().zip(pids) {
        *time = family_us(pid.context("a process has ended")?)?;
    }
    Ok(times)
}

/// User and system time of those children of this process that have ended, in microseconds.
pub(crate) fn ended_children_us() -> Result<f64> {
    times_us("self", ENDED_CHILDREN)
}

/// User and system time of this process and of its children that have ended, in microseconds.
pub(crate) fn own_us() -> Result<f64> {
    times_us("self", OWN)
}

/// Time that the cores of this machine were busy, or taken by its host, since it was started, in microseconds.
pub(crate) fn machine_us() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let all = stat.lines().next().context("/proc/stat is empty")?.split_whitespace().skip(1);
    let busy =
        all.enumerate().filter(|(field, _)| BUSY.contains(field)).map(|(_, ticks)| ticks.parse::<f64>());
    Ok(busy.sum::<Result<f64, _>>()? * TICK_US)
}

/// The sum of the times from the field `first` on.
fn times_us(pid: &str, first: usize) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").context("/proc/<pid>/stat has no program name")?;
    let ticks = fields.split(' ').take(END).skip(first).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? * TICK_US)
}
