//! Breadth-first search: every state that can be reached, and the shortest way to the first that is wrong.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, Hasher};
use std::mem::{Discriminant, discriminant};

use super::promises::{next_by_itself, violation, violation_at_rest};
use super::state::State;
use super::steps::{Rules, Step};

/// A service that is left alone comes to rest within so many steps.
const STEPS_TO_REST_MAX: usize = 100;

pub(super) struct Explored {
    pub(super) states: usize,
    pub(super) transitions: usize,
    /// Kinds of steps taken.
    pub(super) kinds: usize,
    pub(super) violation: Option<Violation>,
}

pub(super) struct Violation {
    pub(super) what: &'static str,
    pub(super) trace: String,
}

/// The default hasher would take half of the time.
#[derive(Default)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(byte)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_isize(&mut self, number: isize) {
        self.write_u8(number.to_le_bytes()[0]);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

struct Search {
    rules: Rules,
    /// Each state, the step that led to it, and the state before.
    states: Vec<(State, Option<(Step, usize)>)>,
    places: HashMap<State, usize, BuildHasherDefault<Mixer>>,
}

/// Explores all that `rules` allow, up to the first violation.
pub(super) fn explore(rules: Rules) -> Explored {
    let start = State::default();
    let mut search = Search { rules, states: vec![(start, None)], places: HashMap::from_iter([(start, 0)]) };
    let mut kinds: HashSet<Discriminant<Step>> = HashSet::new();
    let (mut place, mut transitions, mut steps) = (0, 0, Vec::new());
    let mut violation = None;
    while violation.is_none() && place < search.states.len() {
        let (state, _) = search.states[place];
        rules.steps(&state, &mut steps);
        for step in steps.drain(..) {
            transitions += 1;
            kinds.insert(discriminant(&step));
            let next = rules.take(&state, step);
            let new = search.states.len();
            if *search.places.entry(next).or_insert(new) == new {
                search.states.push((next, Some((step, place))));
            }
        }
        violation = search.violation_in(place);
        place += 1;
    }
    let violation = violation.or_else(|| search.violation_in_the_end());
    Explored { states: search.states.len(), transitions, kinds: kinds.len(), violation }
}

impl Search {
    fn violation_in(&self, place: usize) -> Option<Violation> {
        let what = violation(&self.rules, &self.states[place].0)?;
        Some(Violation { what, trace: self.trace(place, &[]) })
    }

    /// From every state: when nothing fails any more, the service comes to rest, and rightly so.
    fn violation_in_the_end(&self) -> Option<Violation> {
        let mut good = vec![false; self.states.len()];
        for start in 0..self.states.len() {
            let (mut place, mut steps, mut passed) = (start, Vec::new(), Vec::new());
            while !good[place] {
                passed.push(place);
                let (state, _) = &self.states[place];
                let step = next_by_itself(&self.rules, state);
                let what = match step {
                    None => violation_at_rest(state),
                    Some(_) if steps.len() > STEPS_TO_REST_MAX => Some("it does not come to rest"),
                    Some(_) => None,
                };
                if let Some(what) = what {
                    return Some(Violation { what, trace: self.trace(start, &steps) });
                }
                let Some(step) = step else { break };
                steps.push(step);
                place = self.places[&self.rules.take(state, step)];
            }
            for place in passed {
                good[place] = true;
            }
        }
        None
    }

    /// The steps to a state, and those that follow by themselves.
    fn trace(&self, mut place: usize, then: &[Step]) -> String {
        let mut steps: Vec<Step> = then.iter().rev().copied().collect();
        while let Some((step, before)) = self.states[place].1 {
            steps.push(step);
            place = before;
        }
        let mut state = self.states[0].0;
        let mut trace = String::new();
        for (number, step) in steps.iter().rev().enumerate().take(60) {
            state = self.rules.take(&state, *step);
            writeln!(
                trace,
                "{number:>3} {:<18} coupons {:?} {:?}",
                format!("{step:?}"),
                state.coupons,
                state.redis,
            )
            .unwrap();
        }
        trace
    }
}
