//! What gate, writer, sweeper and loader do in one step: as in `lua/` and `src/issue/`, for one seat.

use super::state::{Claim, LIMIT, Late, Loader, Redis, Set, State, Sweeper, Token, User, Wrong};
use super::steps::{Mistake, Rules, Step};

/// The words of `admit.lua`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Unloaded,
    Already,
    Admitted,
    Taken,
    SoldOut,
}

impl Rules {
    /// `admit.lua`.
    pub(super) fn gate_says(&self, redis: &Redis, user: User) -> Word {
        let already = redis.holders.has(user);
        let left = redis.holders.len() < self.quantity;
        if !redis.loaded && !self.make(Mistake::MissingKeyIsFullStock) {
            Word::Unloaded
        } else if already && (left || !self.make(Mistake::SoldOutBeforeDuplicate)) {
            Word::Already
        } else if left {
            Word::Admitted
        } else if redis.pending.is_empty() || self.make(Mistake::TakenIsSoldOut) {
            Word::SoldOut
        } else {
            Word::Taken
        }
    }

    /// `admit.lua`, `gate::pass_on`, and what `Issuer::issue` makes of the verdict. Who is told
    /// `unloaded` wants a load; but a load may begin at any time.
    pub(super) fn ask(&self, state: &mut State, user: User) {
        state.claims[user] = match self.gate_says(&state.redis, user) {
            Word::Unloaded => Claim::None,
            Word::Already => Claim::Already,
            Word::Taken => Claim::Taken,
            Word::SoldOut => {
                if state.issued().has(user) {
                    state.wronged = Some(Wrong::HolderRefused);
                } else if state.redis.pending.is_empty() && state.count() < self.quantity {
                    state.wronged = Some(Wrong::RefusedWithSeatLeft);
                }
                Claim::None
            }
            Word::Admitted => {
                state.redis.holders = state.redis.holders.with(Set::of(user));
                state.redis.pending = state.redis.pending.with(Set::of(user));
                if self.make(Mistake::AnsweredBeforeCommit) {
                    promise(state, user);
                }
                Claim::Waits { seat: true }
            }
        };
    }

    /// `WriterWorker::write`, up to the commit.
    pub(super) fn write(&self, state: &mut State, user: User) {
        let Claim::Waits { seat } = state.claims[user] else { unreachable!() };
        let has_coupon = self.judge(state, user);
        // Whoever has a coupon has that seat: nobody asks again which one the gate had given him.
        let seat = seat && (!has_coupon || self.make(Mistake::UnknownIsReleased));
        state.claims[user] = Claim::Judged { has_coupon, seat };
    }

    /// A claim that hung, or was on a connection that was lost, comes to its end.
    pub(super) fn carry_out_late(&self, state: &mut State, user: User) {
        let has_coupon = self.judge(state, user);
        if let Late::Hangs { seat } = std::mem::take(&mut state.late[user]) {
            settle(state, user, has_coupon, seat);
        }
    }

    /// `issue_batch_2()`: whether the user has a coupon now; if not, it is sold out.
    fn judge(&self, state: &mut State, user: User) -> bool {
        let held = state.coupons[user] >= LIMIT && !self.make(Mistake::PostgresDoesNotLimit);
        let left = state.count() < self.quantity || self.make(Mistake::PostgresDoesNotCap);
        state.coupons[user] += u8::from(!held && left);
        held || left
    }

    /// `WriterWorker::settle` of an unknown end: the sweeper will see to the seat.
    pub(super) fn end_unknown(&self, state: &mut State, user: User) {
        if self.make(Mistake::UnknownIsReleased) {
            fail(state, user);
        }
        state.claims[user] = Claim::None;
    }

    /// `confirm.lua`.
    pub(super) fn confirm(&self, redis: &mut Redis, seats: Set) {
        if redis.loader != Token::None && !self.make(Mistake::LoadMissesConfirmations) {
            redis.loading = redis.loading.with(seats);
        }
        if redis.loaded {
            redis.holders = redis.holders.with(seats);
        }
        redis.pending = redis.pending.without(seats);
        redis.told = redis.told.with(seats);
    }

    /// `sweeper::resolve_overdue`: each of its calls is a step.
    pub(super) fn sweep(&self, state: &mut State, step: Step) {
        state.sweeper = match (step, state.sweeper) {
            (Step::List(overdue), _) => Sweeper::Listed(overdue),
            (_, Sweeper::Listed(overdue)) if self.make(Mistake::SweeperDoesNotAsk) => {
                Sweeper::Asked { held: Set::NONE, free: overdue }
            }
            (_, Sweeper::Listed(overdue)) => {
                let issued = state.issued();
                Sweeper::Asked { held: overdue.common(issued), free: overdue.without(issued) }
            }
            (_, Sweeper::Asked { held: Set::NONE, free }) => {
                release(&mut state.redis, free);
                Sweeper::Rests
            }
            (_, Sweeper::Asked { held, free }) => {
                self.confirm(&mut state.redis, held);
                if free.is_empty() { Sweeper::Rests } else { Sweeper::Asked { held: Set::NONE, free } }
            }
            (_, Sweeper::Rests) => unreachable!(),
        };
    }

    /// `loader::load` and `load.lua`: each of its calls is a step.
    pub(super) fn load(&self, state: &mut State, step: Step) {
        let Redis { loader, .. } = state.redis;
        let is_fenced = |i: usize| loader != Token::Of(i) && !self.make(Mistake::LoadIsNotFenced);
        match step {
            Step::Begin => begin_load(state),
            Step::Read(i) => state.loaders[i] = Loader::Read(state.issued()),
            Step::Add(i) | Step::Finish(i) if is_fenced(i) => state.loaders[i] = Loader::Rests,
            Step::Add(i) => {
                let Loader::Read(coupons) = state.loaders[i] else { unreachable!() };
                state.redis.loading = state.redis.loading.with(coupons);
                state.loaders[i] = Loader::Added;
            }
            _ => {
                let redis = &mut state.redis;
                let kept = if self.make(Mistake::LoadDropsPending) { Set::NONE } else { redis.pending };
                redis.holders = redis.loading.with(kept);
                (redis.loading, redis.loader, redis.loaded) = (Set::NONE, Token::None, true);
                let Step::Finish(i) = step else { unreachable!() };
                state.loaders[i] = Loader::Rests;
            }
        }
    }
}

fn begin_load(state: &mut State) {
    let i = state.loaders.iter().position(|loader| *loader == Loader::Rests).unwrap();
    state.loaders[i] = Loader::Begun;
    state.redis.loader = Token::Of(i);
    state.redis.loading = Set::NONE;
    // The token is a new one: the same loader's last is not.
    if let Some(saved) = &mut state.saved
        && saved.loader == Token::Of(i)
    {
        saved.loader = Token::Nobodys;
    }
}

/// `coupon::held` after `already` or `taken`.
pub(super) fn look_up(state: &mut State, user: User) {
    let already = state.claims[user] == Claim::Already;
    state.claims[user] = Claim::None;
    if state.issued().has(user) {
        promise(state, user);
    } else if already {
        state.claims[user] = Claim::Waits { seat: false };
    }
}

/// The writer hears that the batch is committed, and answers.
pub(super) fn answer(state: &mut State, user: User) {
    let Claim::Judged { has_coupon, seat } = std::mem::take(&mut state.claims[user]) else { unreachable!() };
    settle(state, user, has_coupon, seat);
    if has_coupon {
        promise(state, user);
    }
}

/// `WriterWorker::settle` of a batch that is committed. (That it wants a load adds nothing: a load may
/// begin at any time.)
fn settle(state: &mut State, user: User, has_coupon: bool, seat: bool) {
    if has_coupon {
        state.confirms = state.confirms.with(Set::of(user));
    } else if seat {
        state.releases = state.releases.with(Set::of(user));
    }
}

/// He is told that he has a coupon. What is committed stays, so that it is enough to look now.
fn promise(state: &mut State, user: User) {
    if !state.issued().has(user) {
        state.wronged = Some(Wrong::PromisedInVain);
    }
}

/// `WriterWorker::fail`: surely nothing is written; or the queue was full, and `Batch::call` gives the seat back.
pub(super) fn fail(state: &mut State, user: User) {
    if let Claim::Waits { seat: true } | Claim::Judged { seat: true, .. } = state.claims[user] {
        state.releases = state.releases.with(Set::of(user));
    }
    state.claims[user] = Claim::None;
}

/// `release.lua`.
pub(super) fn release(redis: &mut Redis, seats: Set) {
    let released = redis.pending.common(seats);
    redis.pending = redis.pending.without(released);
    redis.holders = redis.holders.without(released);
}
