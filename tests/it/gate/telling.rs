//! What histories are run for, and whether it has happened.

use std::collections::BTreeMap;

use coupon_dispatcher::coupon::Refusal;
use coupon_dispatcher::gate::redis::LoadStep;
use coupon_dispatcher::gate::seat::{Admission, Denial};

use super::history::{Call, History, Key, Said, Step, token};

const WANTED: [&str; 37] = [
    "a first seat was given",
    "a further seat was given",
    "all was given already",
    "the last seats were pending",
    "the last seats were pending for a holder",
    "nothing was left",
    "it was not open",
    "it was closed",
    "nothing was left for a holder",
    "it was not open for a holder",
    "it was closed for a holder",
    "nothing was known",
    "a seat was confirmed after its release",
    "a seat was confirmed during a load",
    "a seat was released",
    "a seat was kept",
    "a second loader began",
    "a superseded loader added",
    "a superseded loader finished",
    "seats were pending during a load",
    "a loader died after it began",
    "a loader died after it added",
    "a state was too old",
    "the sweeper confirmed a seat",
    "the sweeper released a seat",
    "the sweeper found a seat that nobody knew of",
    "an admission was not heard, and asked for again",
    "a confirmation was not heard, and repeated",
    "a release was not heard, and repeated",
    "a beginning was not heard, and repeated",
    "an addition was not heard, and repeated",
    "an end was not heard, and repeated",
    "a gate was lost",
    "holders were lost",
    "pending seats were lost",
    "what was loading was lost",
    "everything was lost",
];

/// How often something happened.
#[derive(Debug, Default)]
pub(super) struct Telling(BTreeMap<&'static str, usize>);

impl Telling {
    pub(super) fn watch(&mut self, before: &History, step: &Step, after: &History) {
        self.hear(&after.said);
        self.see(before, step, after);
        if before.subjects[step.gate].lost.as_ref() == Some(&step.call) {
            self.count_repeated(&step.call);
        }
    }

    /// Everything has happened that is to happen.
    pub(super) fn assert_complete(&self) {
        println!("{:#?}", self.0);
        let missing: Vec<_> = WANTED.iter().filter(|what| !self.0.contains_key(*what)).collect();
        assert!(missing.is_empty(), "not once: {missing:?}");
    }

    fn hear(&mut self, said: &Said) {
        match said {
            Said::Admissions(admissions) => admissions.iter().for_each(|word| {
                self.count(match word {
                    Admission::Admitted(seat) if seat.parts().1 > 1 => "a further seat was given",
                    Admission::Admitted(_) => "a first seat was given",
                    Admission::Denied(Denial::Already) => "all was given already",
                    Admission::Denied(Denial::Full(0)) => "the last seats were pending",
                    Admission::Denied(Denial::Full(_)) => "the last seats were pending for a holder",
                    Admission::Denied(Denial::Refused(Refusal::SoldOut)) => "nothing was left",
                    Admission::Denied(Denial::Refused(Refusal::NotOpen)) => "it was not open",
                    Admission::Denied(Denial::Refused(Refusal::Closed)) => "it was closed",
                    Admission::Denied(Denial::RefusedMore(Refusal::SoldOut, _)) => {
                        "nothing was left for a holder"
                    }
                    Admission::Denied(Denial::RefusedMore(Refusal::NotOpen, _)) => {
                        "it was not open for a holder"
                    }
                    Admission::Denied(Denial::RefusedMore(Refusal::Closed, _)) => {
                        "it was closed for a holder"
                    }
                    Admission::Denied(Denial::Unloaded) => "nothing was known",
                });
            }),
            Said::Swept(overdue, released) => {
                self.count_if(overdue.len() > *released, "the sweeper confirmed a seat");
                self.count_if(*released > 0, "the sweeper released a seat");
            }
            Said::Nothing | Said::Released(_) | Said::Loaded(_) => {}
        }
    }

    fn see(&mut self, before: &History, step: &Step, after: &History) {
        let subject = &before.subjects[step.gate];
        let model = &subject.model;
        let superseded = model.loader.is_some() && after.said == Said::Loaded(LoadStep::Superseded);
        match &step.call {
            Call::Confirm(places) => {
                let late = model.gate.is_some() && places.iter().any(|place| !model.taken.contains(place));
                self.count_if(late, "a seat was confirmed after its release");
                self.count_if(model.loader.is_some(), "a seat was confirmed during a load");
            }
            Call::Release(places) => {
                let released = if let Said::Released(count) = after.said { count } else { 0 };
                self.count_if(released > 0, "a seat was released");
                self.count_if(released < places.len(), "a seat was kept");
            }
            Call::Begin => self.count_if(superseded, "a second loader began"),
            Call::Add(..) => self.count_if(superseded, "a superseded loader added"),
            Call::Finish(number, _) => {
                self.count_if(superseded, "a superseded loader finished");
                let loads = model.loader == Some(token(*number));
                self.count_if(loads && !model.pending.is_empty(), "seats were pending during a load");
            }
            Call::LoaderExpires if model.loader.is_some() => self.count(if model.loading.is_empty() {
                "a loader died after it began"
            } else {
                "a loader died after it added"
            }),
            Call::Set(newer, _) => {
                self.count_if(model.gate.is_some() && *newer < 0, "a state was too old");
            }
            Call::Sweep(_) => {
                let unknown = model.overdue().iter().any(|place| subject.unheard.contains(place));
                self.count_if(unknown, "the sweeper found a seat that nobody knew of");
            }
            Call::Lose(key) => self.count(match key {
                Key::Gate => "a gate was lost",
                Key::Holders => "holders were lost",
                Key::Pending => "pending seats were lost",
                Key::Loading => "what was loading was lost",
            }),
            Call::LoseEverything => self.count("everything was lost"),
            Call::Admit(_) | Call::Expire(_) | Call::LoaderExpires | Call::ForgetScripts => {}
        }
    }

    fn count_repeated(&mut self, call: &Call) {
        self.count(match call {
            Call::Admit(_) => "an admission was not heard, and asked for again",
            Call::Confirm(_) => "a confirmation was not heard, and repeated",
            Call::Release(_) => "a release was not heard, and repeated",
            Call::Begin => "a beginning was not heard, and repeated",
            Call::Add(..) => "an addition was not heard, and repeated",
            Call::Finish(..) => "an end was not heard, and repeated",
            _ => return,
        });
    }

    fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    fn count_if(&mut self, happened: bool, what: &'static str) {
        if happened {
            self.count(what);
        }
    }
}
