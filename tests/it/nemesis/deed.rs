//! What the nemesis does: a seed tells which deeds, from when on, and for how long.

use std::fmt;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::{HOPS, ROLES};
use crate::support::{Hop, Line};

/// Deeds begin so far apart, and last so long, in milliseconds; several are under way at a time.
const APART: std::ops::Range<u64> = 100..1_200;
const LASTING: std::ops::Range<u64> = 50..3_000;
/// One in so many lasts longer than any lease, session or answer.
const LONG_ONES: u32 = 12;
const LASTING_LONG: std::ops::Range<u64> = 10_500..13_000;

/// What can be done to one thing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deed {
    KillProcess(usize),
    FreezeProcess(usize),
    TerminateProcess(usize),
    KillServer(Hop),
    FreezeServer(Hop),
    /// It starts again without its store.
    EmptyRedis,
    /// Its store goes back to where it was when this began.
    RewindRedis,
    RewindNats,
    /// The same of Postgres: whatever was promised meanwhile is lost, and the relay may need a new epoch.
    RewindPostgres,
    /// Another session holds this.
    Lock(Lock),
    /// Every default of the services' login is another than they rely on, and all their sessions end.
    HostileDefaults,
    /// Its clock is so many minutes ahead.
    ClockOfRedis(i64),
    EndBackends,
    FlushScripts,
    DeleteStream,
    Wire(usize, Hop, Line),
    Cut(usize, Hop),
    Silence(usize, Hop),
    LoseReply(usize, Hop),
}

/// What another session can hold.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lock {
    /// The rows of all campaigns.
    Rows,
    /// The shard: nobody else issues or appends.
    Shard,
}

/// A deed, from when on and until when, since the beginning.
#[derive(Clone, Copy)]
pub(super) struct Planned {
    pub(super) deed: Deed,
    pub(super) from: Duration,
    pub(super) until: Duration,
}

impl fmt::Display for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { deed, from, until } = self;
        write!(f, "{:6.3} to {:6.3} s: {deed:?}", from.as_secs_f64(), until.as_secs_f64())
    }
}

impl Deed {
    fn any(random: &mut StdRng) -> Self {
        let process = random.random_range(0..ROLES.len());
        let hop = *HOPS.choose(random).unwrap();
        let slow = Duration::from_millis(random.random_range(10..2_000));
        let line =
            *[Line::Slow(slow), Line::Refused, Line::Swallowed, Line::HalfOpen].choose(random).unwrap();
        match random.random_range(0..28) {
            0 | 1 => Self::KillProcess(process),
            2 | 3 => Self::FreezeProcess(process),
            4 => Self::TerminateProcess(process),
            5 | 6 => Self::KillServer(hop),
            7 | 8 => Self::FreezeServer(hop),
            9 => Self::EmptyRedis,
            10 => Self::RewindNats,
            11 => Self::EndBackends,
            12 => Self::FlushScripts,
            13 => Self::DeleteStream,
            14..17 => Self::Wire(process, hop, line),
            17 => Self::Cut(process, hop),
            18 => Self::RewindRedis,
            19 => Self::ClockOfRedis(random.random_range(-40..40)),
            20..22 => Self::Silence(process, hop),
            22 => Self::RewindPostgres,
            23 => Self::Lock(Lock::Rows),
            24 => Self::Lock(Lock::Shard),
            25 => Self::HostileDefaults,
            _ => Self::LoseReply(process, hop),
        }
    }

    /// To whom it is done: only one thing is done to him at a time.
    fn victim(self) -> String {
        match self {
            Self::KillProcess(process) | Self::FreezeProcess(process) | Self::TerminateProcess(process) => {
                format!("{process}")
            }
            Self::KillServer(hop) | Self::FreezeServer(hop) => format!("{hop:?}"),
            Self::EmptyRedis | Self::FlushScripts | Self::RewindRedis => format!("{:?}", Hop::Redis),
            Self::ClockOfRedis(_) => "clock".to_owned(),
            Self::RewindNats | Self::DeleteStream => format!("{:?}", Hop::Nats),
            Self::EndBackends | Self::RewindPostgres | Self::Lock(_) | Self::HostileDefaults => {
                format!("{:?}", Hop::Postgres)
            }
            Self::Wire(process, hop, _)
            | Self::Cut(process, hop)
            | Self::Silence(process, hop)
            | Self::LoseReply(process, hop) => format!("{process} {hop:?}"),
        }
    }
}

/// All that is done for so long, in order.
pub(super) fn plan(seed: u64, length: Duration) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut planned: Vec<Planned> = Vec::new();
    let mut from = Duration::from_millis(random.random_range(APART));
    while from < length {
        let deed = Deed::any(&mut random);
        let long = random.random_ratio(1, LONG_ONES);
        let lasting = random.random_range(if long { LASTING_LONG } else { LASTING });
        let until = from + Duration::from_millis(lasting);
        if planned.iter().all(|other| other.until < from || other.deed.victim() != deed.victim()) {
            planned.push(Planned { deed, from, until });
        }
        from += Duration::from_millis(random.random_range(APART));
    }
    planned
}
