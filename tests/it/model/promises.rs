//! What has to hold: in every state, and when the service is left alone.

use super::state::{Claim, LIMIT, Late, Loader, State, Sweeper, Token, USERS, Wrong};
use super::steps::{Mistake, Rules, Step};

/// What is wrong with a state.
pub(super) fn violation(rules: &Rules, state: &State) -> Option<&'static str> {
    let State { redis, .. } = state;
    let forgets = redis.loaded && !redis.holders.covers(state.issued());
    [
        (state.count() > rules.quantity, "more coupons than the quantity"),
        (USERS.into_iter().any(|user| state.coupons[user] > LIMIT), "more coupons for a user than the limit"),
        (state.wronged == Some(Wrong::PromisedInVain), "a coupon is promised and not there"),
        (state.wronged == Some(Wrong::HolderRefused), "a holder is told that it is sold out"),
        (state.wronged == Some(Wrong::RefusedWithSeatLeft), "it is sold out, and a seat is left"),
        (!redis.holders.covers(redis.pending), "a pending seat is not taken"),
        (redis.loaded && !redis.holders.covers(redis.told), "the gate has forgotten what it was told"),
        (rules.calm && state.is_at_rest() && forgets, "the gate has forgotten a coupon in calm times"),
    ]
    .into_iter()
    .find_map(|(wrong, what)| wrong.then_some(what))
}

/// What happens when nothing fails any more: everything on its way arrives, leases run out, the sweeper
/// sees to the seats and to the gate, and as long as there are seats somebody asks who has none.
pub(super) fn next_by_itself(rules: &Rules, state: &State) -> Option<Step> {
    let claims = USERS.into_iter().find_map(|i| match state.claims[i] {
        _ if state.late[i] != Late::None => Some(Step::CarryOutLate(i)),
        Claim::None => None,
        Claim::Already | Claim::Taken => Some(Step::LookUp(i)),
        Claim::Waits { .. } => Some(Step::Write(i)),
        Claim::Judged { .. } => Some(Step::Answer(i)),
    });
    let confirm = || USERS.into_iter().find(|user| state.confirms.has(*user)).map(Step::Confirm);
    let release = || USERS.into_iter().find(|user| state.releases.has(*user)).map(Step::Release);
    let overdue = state.redis.pending;
    let sweep = || match state.sweeper {
        Sweeper::Rests if overdue.is_empty() || rules.make(Mistake::SweeperSleeps) => None,
        Sweeper::Rests => Some(Step::List(overdue)),
        Sweeper::Listed(_) => Some(Step::AskPostgres),
        Sweeper::Asked { held, .. } if held.is_empty() => Some(Step::ReleaseListed),
        Sweeper::Asked { .. } => Some(Step::ConfirmListed),
    };
    let load = || {
        (0..state.loaders.len()).find_map(|i| match state.loaders[i] {
            Loader::Rests => None,
            Loader::Begun => Some(Step::Read(i)),
            Loader::Read(coupons) if !coupons.is_empty() => Some(Step::Add(i)),
            Loader::Read(_) | Loader::Added => Some(Step::Finish(i)),
        })
    };
    let contradicts = state.gate_contradicts() && !rules.make(Mistake::SweeperDoesNotCompare);
    let begin = || (!state.redis.loaded || contradicts).then_some(Step::Begin);
    let lease = || (state.redis.loader != Token::None).then_some(Step::LoaderLeaseEnds);
    let stranger = || USERS.into_iter().find(|user| !state.issued().with(state.redis.holders).has(*user));
    let ask = || if state.count() < rules.quantity { stranger().map(Step::Ask) } else { None };
    claims
        .or_else(confirm)
        .or_else(release)
        .or_else(load)
        .or_else(lease)
        .or_else(sweep)
        .or_else(begin)
        .or_else(ask)
}

/// What is wrong with a service at rest.
pub(super) fn violation_at_rest(state: &State) -> Option<&'static str> {
    let right = state.redis.loaded && state.redis.pending.is_empty() && state.redis.holders == state.issued();
    (!right).then_some("the gate does not equal Postgres in the end")
}
