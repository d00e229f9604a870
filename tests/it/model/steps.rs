//! The steps of the small service. Each is atomic in the service too, and others come between any two.

use super::service::{Word, answer, fail, look_up, release};
use super::state::{Claim, Late, Loader, Redis, Set, State, Sweeper, Token, USERS, User};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Ask(User),
    LookUp(User),
    Write(User),
    Answer(User),
    CarryOutLate(User),
    DropLate(User),
    Confirm(User),
    Release(User),
    List(Set),
    AskPostgres,
    ConfirmListed,
    ReleaseListed,
    Begin,
    Read(usize),
    Add(usize),
    Finish(usize),
    LoaderLeaseEnds,
    Rewind,
    // What follows are faults, and counted.
    GateReplyLost(User),
    NotWritten(User),
    ConnectionLost(User),
    CommitReplyLost(User),
    Crash(User),
    Hang(User),
    ConfirmLost(User),
    ReleaseLost(User),
    Wipe,
    /// The moment to which Redis is going to be restored.
    Save,
}

impl Step {
    /// So many kinds of step there are.
    pub(super) const KINDS: usize = 28;

    /// Whether it is counted. Also: a lease that ends too soon, and a load that nobody needs.
    fn is_fault(self, state: &State) -> bool {
        use Step::{
            CommitReplyLost, ConfirmLost, ConnectionLost, Crash, GateReplyLost, Hang, NotWritten,
            ReleaseLost, Save, Wipe,
        };
        match self {
            Self::List(overdue) => !overdue.common(state.may_commit()).is_empty(),
            Self::Begin => state.redis.loaded && !state.gate_contradicts(),
            Self::LoaderLeaseEnds => match state.redis.loader {
                Token::Of(i) => state.loaders[i] != Loader::Rests,
                Token::None | Token::Nobodys => false,
            },
            _ => matches!(
                self,
                GateReplyLost(_)
                    | NotWritten(_)
                    | ConnectionLost(_)
                    | CommitReplyLost(_)
                    | Crash(_)
                    | Hang(_)
                    | ConfirmLost(_)
                    | ReleaseLost(_)
                    | Wipe
                    | Save
            ),
        }
    }
}

/// A mistake that the service does not make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    PostgresDoesNotCap,
    PostgresDoesNotLimit,
    UnknownIsReleased,
    MissingKeyIsFullStock,
    SweeperDoesNotAsk,
    SweeperDoesNotCompare,
    SweeperSleeps,
    LoadMissesConfirmations,
    LoadDropsPending,
    LoadIsNotFenced,
    TakenIsSoldOut,
    AnsweredBeforeCommit,
    SoldOutBeforeDuplicate,
}

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    /// So many coupons there are, for two users.
    pub(super) quantity: u32,
    pub(super) faults_max: u8,
    /// Redis loses nothing, and no seat is overdue whose commit may yet come.
    pub(super) calm: bool,
    pub(super) mistakes: &'static [Mistake],
}

impl Rules {
    pub(super) fn make(&self, mistake: Mistake) -> bool {
        self.mistakes.contains(&mistake)
    }

    /// What can happen next.
    pub(super) fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        self.claim_steps(state, steps);
        for user in USERS {
            if state.confirms.has(user) {
                steps.extend([Step::Confirm(user), Step::ConfirmLost(user)]);
            }
            if state.releases.has(user) {
                steps.extend([Step::Release(user), Step::ReleaseLost(user)]);
            }
        }
        match state.sweeper {
            Sweeper::Rests => steps.extend(self.lists(state).map(Step::List)),
            Sweeper::Listed(_) => steps.push(Step::AskPostgres),
            Sweeper::Asked { held: Set::NONE, .. } => steps.push(Step::ReleaseListed),
            Sweeper::Asked { .. } => steps.push(Step::ConfirmListed),
        }
        if state.redis.loader == Token::None && state.loaders.contains(&Loader::Rests) {
            steps.push(Step::Begin);
        }
        for (i, loader) in state.loaders.iter().enumerate() {
            match loader {
                Loader::Rests => {}
                Loader::Begun => steps.push(Step::Read(i)),
                Loader::Read(Set::NONE) | Loader::Added => steps.push(Step::Finish(i)),
                Loader::Read(_) => steps.push(Step::Add(i)),
            }
        }
        if state.redis.loader != Token::None {
            steps.push(Step::LoaderLeaseEnds);
        }
        if state.saved.is_some() {
            steps.push(Step::Rewind);
        } else if !self.calm && state.redis != Redis::default() {
            steps.extend([Step::Save, Step::Wipe]);
        }
        steps.retain(|step| state.faults < self.faults_max || !step.is_fault(state));
    }

    fn claim_steps(&self, state: &State, steps: &mut Vec<Step>) {
        for (i, claim) in state.claims.into_iter().enumerate() {
            match claim {
                Claim::None if i != USERS[0] && state.is_blank() => {}
                Claim::None => {
                    steps.push(Step::Ask(i));
                    if self.gate_says(&state.redis, i) == Word::Admitted {
                        steps.push(Step::GateReplyLost(i));
                    }
                }
                Claim::Already | Claim::Taken => steps.push(Step::LookUp(i)),
                Claim::Waits { .. } => {
                    steps.extend([Step::Write(i), Step::NotWritten(i), Step::Crash(i)]);
                    if state.late[i] == Late::None {
                        steps.extend([Step::ConnectionLost(i), Step::Hang(i)]);
                    }
                }
                Claim::Judged { .. } => {
                    steps.extend([Step::Answer(i), Step::CommitReplyLost(i), Step::Crash(i)]);
                }
            }
            if state.late[i] != Late::None {
                steps.extend([Step::CarryOutLate(i), Step::DropLate(i)]);
            }
        }
    }

    /// Which seats the sweeper may find overdue.
    fn lists(&self, state: &State) -> impl Iterator<Item = Set> {
        let sleeps = self.make(Mistake::SweeperSleeps);
        let in_time = if self.calm { state.may_commit() } else { Set::NONE };
        let overdue = state.redis.pending.without(in_time);
        Set::ALL.into_iter().filter(move |seats| !sleeps && overdue.covers(*seats))
    }

    /// The state after a step that can happen.
    pub(super) fn take(&self, state: &State, step: Step) -> State {
        let mut next = *state;
        next.faults += u8::from(step.is_fault(state));
        match step {
            Step::Ask(i) => self.ask(&mut next, i),
            Step::LookUp(i) => look_up(&mut next, i),
            Step::Write(i) => self.write(&mut next, i),
            Step::Answer(i) => answer(&mut next, i),
            Step::CarryOutLate(i) => self.carry_out_late(&mut next, i),
            Step::DropLate(i) => next.late[i] = Late::None,
            Step::Confirm(user) => {
                next.confirms = next.confirms.without(Set::of(user));
                self.confirm(&mut next.redis, Set::of(user));
            }
            Step::Release(user) => {
                next.releases = next.releases.without(Set::of(user));
                release(&mut next.redis, Set::of(user));
            }
            Step::List(_) | Step::AskPostgres | Step::ConfirmListed | Step::ReleaseListed => {
                self.sweep(&mut next, step);
            }
            Step::Begin | Step::Read(_) | Step::Add(_) | Step::Finish(_) => self.load(&mut next, step),
            Step::LoaderLeaseEnds => next.redis.loader = Token::None,
            Step::Rewind => next.redis = Redis { told: Set::NONE, ..next.saved.take().unwrap() },
            Step::GateReplyLost(i) => {
                self.ask(&mut next, i);
                next.claims[i] = Claim::None;
            }
            Step::NotWritten(i) => fail(&mut next, i),
            Step::ConnectionLost(i) => {
                next.late[i] = Late::Unheard;
                self.end_unknown(&mut next, i);
            }
            Step::CommitReplyLost(i) => self.end_unknown(&mut next, i),
            Step::Hang(i) => {
                let Claim::Waits { seat } = std::mem::take(&mut next.claims[i]) else { unreachable!() };
                next.late[i] = Late::Hangs { seat };
            }
            Step::Crash(i) => next.claims[i] = Claim::None,
            Step::ConfirmLost(user) => next.confirms = next.confirms.without(Set::of(user)),
            Step::ReleaseLost(user) => next.releases = next.releases.without(Set::of(user)),
            Step::Wipe => next.redis = Redis::default(),
            Step::Save => next.saved = Some(next.redis),
        }
        next
    }
}
