//! Random histories of two gates: who calls what, whose reply is lost, and what befalls Redis.

use std::collections::BTreeSet;

use coupon_dispatcher::campaign::{Campaign, State};
use coupon_dispatcher::gate::redis::LoadStep;
use coupon_dispatcher::gate::seat::Admission;
use coupon_dispatcher::ids::CampaignId;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use proptest_state_machine::ReferenceStateMachine;
use time::OffsetDateTime;
use ulid::Ulid;

use super::campaign;
use super::model::{Model, Place};

pub(super) const GATES: usize = 2;
pub(super) const USERS: usize = 8;
const LIMIT_MAX: i32 = 3;

/// What happens at one of the gates.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) gate: usize,
    pub(super) call: Call,
    /// If not, the script runs, and whoever has called it does not know.
    pub(super) heard: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Call {
    Admit(Vec<usize>),
    Confirm(Vec<Place>),
    Release(Vec<Place>),
    /// With the next token.
    Begin,
    Add(usize, Vec<Place>),
    Finish(usize, Settings),
    /// A notice of a change: settings whose version is this much newer than the gate's last, or older.
    Set(i32, Settings),
    /// The leases of these seats run out.
    Expire(Vec<Place>),
    /// The sweeper sees to all overdue seats, of which these have a coupon.
    Sweep(Vec<Place>),
    /// The lease of the loader runs out: it hangs, or has died.
    LoaderExpires,
    Lose(Key),
    ForgetScripts,
    LoseEverything,
}

/// What an operator may have changed before a load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Settings {
    quantity: i32,
    limit: i32,
    opened: bool,
    over: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Key {
    Gate,
    Holders,
    Pending,
    Loading,
}

/// What a call has to answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Said {
    #[default]
    Nothing,
    Admissions(Vec<Admission>),
    Released(usize),
    Loaded(LoadStep),
    /// Overdue seats, and how many of them were released.
    Swept(BTreeSet<Place>, usize),
}

/// One campaign: what it is, and what its gate has to be.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) campaign: Campaign,
    pub(super) model: Model,
    /// Seats that were ever pending: some are confirmed or released late.
    known: BTreeSet<Place>,
    /// Seats that were given, which nobody knows.
    pub(super) unheard: BTreeSet<Place>,
    /// The last call, if its reply was lost.
    pub(super) lost: Option<Call>,
}

/// Two campaigns, after some steps.
#[derive(Clone, Debug)]
pub(super) struct History {
    pub(super) subjects: Vec<Subject>,
    /// Tokens given so far.
    pub(super) tokens: usize,
    /// What the last step has to have answered.
    pub(super) said: Said,
}

pub(super) fn token(number: usize) -> Ulid {
    Ulid(u128::try_from(number).unwrap() + 1)
}

impl Subject {
    fn new(id: u128) -> Self {
        let campaign = Campaign { id: CampaignId(Ulid(id)), ..campaign() };
        let known = BTreeSet::from([(0, 1)]);
        Self { campaign, model: Model::default(), known, unheard: BTreeSet::new(), lost: None }
    }

    /// The campaign with these settings, a version later.
    pub(super) fn changed(&self, settings: Settings) -> Campaign {
        let now = OffsetDateTime::now_utc();
        let opens_at = if settings.opened { now - time::Duration::HOUR } else { now + time::Duration::HOUR };
        let closes_at = if settings.over { now - time::Duration::MINUTE } else { now + time::Duration::DAY };
        Campaign {
            quantity: settings.quantity,
            per_user_limit: settings.limit,
            opens_at,
            closes_at,
            state: settings.state,
            version: self.campaign.version + 1,
            ..self.campaign.clone()
        }
    }

    /// The campaign with these settings, in a version this much newer than its last.
    pub(super) fn notice(&self, newer: i32, settings: Settings) -> Campaign {
        Campaign { version: (self.campaign.version + newer).max(1), ..self.changed(settings) }
    }

    fn take(&mut self, call: &Call, next_token: usize) -> Said {
        let model = &mut self.model;
        match call {
            Call::Admit(users) => return Said::Admissions(model.admit(users)),
            Call::Confirm(places) => model.confirm(places),
            Call::Release(places) => return Said::Released(model.release(places)),
            Call::Begin => return Said::Loaded(model.begin(token(next_token))),
            Call::Add(number, places) => return Said::Loaded(model.add(token(*number), places)),
            Call::Finish(number, settings) => {
                self.campaign = self.changed(*settings);
                return Said::Loaded(self.model.finish(token(*number), &self.campaign));
            }
            Call::Set(newer, settings) => {
                let told = self.notice(*newer, *settings);
                self.model.set(&told);
            }
            Call::Expire(places) => model.expire(places),
            Call::Sweep(coupons) => {
                let overdue = model.overdue();
                let (held, free): (Vec<_>, Vec<_>) =
                    overdue.iter().copied().partition(|place| coupons.contains(place));
                model.confirm(&held);
                return Said::Swept(overdue, model.release(&free));
            }
            Call::LoaderExpires => model.loader = None,
            Call::Lose(Key::Gate) => model.gate = None,
            Call::Lose(Key::Holders) => model.taken.clear(),
            Call::Lose(Key::Pending) => model.pending.clear(),
            Call::Lose(Key::Loading) => model.loading.clear(),
            Call::ForgetScripts => {}
            Call::LoseEverything => *model = Model::default(),
        }
        Said::Nothing
    }

    fn calls(&self, tokens: usize) -> BoxedStrategy<(Call, bool)> {
        let users = proptest::collection::vec(0..USERS, 1..=6);
        let places = || {
            let some = proptest::collection::vec(select(Vec::from_iter(self.known.clone())), 1..=4);
            let any = proptest::collection::vec((0..USERS, 1..=LIMIT_MAX), 1..=2);
            prop_oneof![9 => some, 1 => any]
        };
        let pending: Vec<Place> = self.model.pending.keys().copied().collect();
        let overdue = Vec::from_iter(self.model.overdue());
        let (expires, sweeps) =
            (if pending.is_empty() { 0 } else { 14 }, if overdue.is_empty() { 1 } else { 30 });
        let some_pending = subsequence(pending.clone(), pending.len().min(1)..=pending.len());
        let some_overdue = subsequence(overdue.clone(), 0..=overdue.len());
        let expected = (0..tokens).find(|number| Some(token(*number)) == self.model.loader);
        let newest = expected.unwrap_or(tokens.saturating_sub(1));
        let number = || prop_oneof![7 => Just(newest), 3 => 0..tokens.max(1)];
        let (calls, loads) = if self.model.gate.is_some() { (1, 1) } else { (1, 6) };
        let keys = select(vec![Key::Gate, Key::Gate, Key::Holders, Key::Pending, Key::Loading]);
        let heard = || prop::bool::weighted(0.8);
        let call = prop_oneof![
            40 * calls => users.prop_map(Call::Admit),
            12 * calls => places().prop_map(Call::Confirm),
            8 * calls => places().prop_map(Call::Release),
            5 * loads => Just(Call::Begin),
            7 * loads => (number(), places()).prop_map(|(token, places)| Call::Add(token, places)),
            6 * loads => (number(), settings()).prop_map(|(token, settings)| Call::Finish(token, settings)),
        ];
        let rest = prop_oneof![
            5 => (-3..=1, settings()).prop_map(|(newer, settings)| Call::Set(newer, settings)),
            expires => some_pending.prop_map(Call::Expire),
            sweeps => some_overdue.prop_map(Call::Sweep),
            2 => Just(Call::LoaderExpires),
        ];
        let losses = prop_oneof![
            4 => keys.prop_map(Call::Lose),
            2 => Just(Call::ForgetScripts),
            1 => Just(Call::LoseEverything),
        ];
        let new = prop_oneof![79 => (call, heard()), 18 => (rest, Just(true)), 3 => (losses, Just(true))];
        match self.lost.clone() {
            None => new.boxed(),
            Some(lost) => prop_oneof![1 => new, 1 => (Just(lost), heard())].boxed(),
        }
    }
}

fn settings() -> impl Strategy<Value = Settings> {
    let (opened, over) = (prop::bool::weighted(0.95), prop::bool::weighted(0.05));
    (1..=15, 1..=LIMIT_MAX, opened, over, state())
        .prop_map(|(quantity, limit, opened, over, state)| Settings { quantity, limit, opened, over, state })
}

/// Mostly open.
fn state() -> impl Strategy<Value = State> {
    let any = select(vec![State::Draft, State::Scheduled, State::Open, State::Paused, State::Closed]);
    prop_oneof![17 => Just(State::Open), 3 => any]
}

impl ReferenceStateMachine for History {
    type State = Self;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Self> {
        let subjects = (1..=u128::try_from(GATES).unwrap()).map(Subject::new).collect();
        Just(Self { subjects, tokens: 0, said: Said::Nothing }).boxed()
    }

    fn transitions(history: &Self) -> BoxedStrategy<Step> {
        let of = |gate: usize| {
            let calls = history.subjects[gate].calls(history.tokens);
            calls.prop_map(move |(call, heard)| Step { gate, call, heard })
        };
        prop_oneof![of(0), of(1)].boxed()
    }

    /// A token has to be given before it is used.
    fn preconditions(history: &Self, step: &Step) -> bool {
        match &step.call {
            Call::Add(number, _) | Call::Finish(number, _) => *number < history.tokens,
            _ => true,
        }
    }

    fn apply(mut history: Self, Step { gate, call, heard }: &Step) -> Self {
        if *call == Call::LoseEverything {
            history.subjects.iter_mut().for_each(|subject| subject.model = Model::default());
        }
        let subject = &mut history.subjects[*gate];
        history.said = subject.take(call, history.tokens);
        history.tokens += usize::from(*call == Call::Begin);
        subject.known.extend(subject.model.pending.keys());
        subject.lost = (!heard).then(|| call.clone());
        if let (false, Said::Admissions(admissions)) = (heard, &history.said) {
            subject.unheard.extend(admissions.iter().filter_map(super::model::place));
        }
        history
    }
}
