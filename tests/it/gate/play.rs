//! A history on a real Redis: what the scripts say there.

use std::collections::BTreeSet;

use coupon_dispatcher::gate::redis::Seats;
use coupon_dispatcher::gate::seat::Seat;
use coupon_dispatcher::ids::UserId;
use proptest::prelude::*;
use proptest_state_machine::ReferenceStateMachine as _;
use redis::aio::MultiplexedConnection;

use super::connect;
use super::history::{Call, History, Key, Said, Step, Subject, USERS, token};
use super::model::{Place, seat, user};
use crate::support::World;

/// Two gates in a Redis of their own.
#[derive(Clone)]
pub(super) struct Stage {
    seats: Seats,
    redis: MultiplexedConnection,
}

impl Stage {
    pub(super) async fn new(world: &World) -> Self {
        Self { seats: connect(world).await, redis: world.redis().await }
    }

    /// Plays a history from its beginning. `watch` sees each step with what was before and is after it.
    pub(super) async fn play(
        mut self,
        mut history: History,
        steps: impl Iterator<Item = Step>,
        mut watch: impl FnMut(&History, &Step, &History),
    ) -> Result<(), TestCaseError> {
        self.redis(&["FLUSHALL"]).await;
        for (number, step) in steps.enumerate() {
            let before = history.clone();
            history = History::apply(history, &step);
            let said = self.take(&before, &step).await;
            if step.heard {
                prop_assert_eq!(&said, &history.said, "step {}, {:?}, said this", number, step);
            }
            self.compare_counts(&history).await?;
            watch(&before, &step, &history);
        }
        self.compare_seats(&history).await
    }

    async fn take(&mut self, before: &History, step: &Step) -> Said {
        let subject = &before.subjects[step.gate];
        let id = subject.campaign.id;
        match &step.call {
            Call::Admit(users) => {
                let users: Vec<UserId> = users.iter().map(|of| UserId::parse(user(*of)).unwrap()).collect();
                return Said::Admissions(self.seats.admit(id, users.iter()).await.unwrap());
            }
            Call::Confirm(places) => self.seats.confirm(id, &seats(places)).await.unwrap(),
            Call::Release(places) => {
                return Said::Released(self.seats.release(id, &seats(places)).await.unwrap());
            }
            Call::Begin | Call::Add(..) | Call::Finish(..) => return self.load(before, step).await,
            Call::Set(newer, settings) => {
                self.seats.set(&subject.notice(*newer, *settings)).await.unwrap();
                self.keep_leases(subject).await;
            }
            Call::Expire(places) => {
                for place in places {
                    self.redis(&["ZADD", &key(subject, ":pending"), "XX", "1", &seat(*place).to_string()])
                        .await;
                }
            }
            Call::Sweep(coupons) => return self.sweep(subject, coupons).await,
            Call::LoaderExpires => self.redis(&["DEL", &key(subject, ":loader")]).await,
            Call::Lose(lost) => {
                let name = match lost {
                    Key::Gate => "",
                    Key::Holders => ":holders",
                    Key::Pending => ":pending",
                    Key::Loading => ":loading",
                };
                self.redis(&["DEL", &key(subject, name)]).await;
            }
            Call::ForgetScripts => self.redis(&["SCRIPT", "FLUSH"]).await,
            Call::LoseEverything => self.redis(&["FLUSHALL"]).await,
        }
        Said::Nothing
    }

    /// Leases last as long as the history wants, however slow the machine is.
    async fn load(&mut self, before: &History, step: &Step) -> Said {
        let subject = &before.subjects[step.gate];
        let id = subject.campaign.id;
        let said = match &step.call {
            Call::Add(number, places) => self.seats.add_to_load(id, token(*number), &seats(places)).await,
            Call::Finish(number, settings) => {
                self.seats.finish_load(&subject.changed(*settings), token(*number)).await
            }
            _ => self.seats.begin_load(id, token(before.tokens)).await,
        };
        self.redis(&["PERSIST", &key(subject, ":loader")]).await;
        self.keep_leases(subject).await;
        Said::Loaded(said.unwrap())
    }

    /// Seats that are given from now on run out only when a step says so.
    async fn keep_leases(&mut self, subject: &Subject) {
        if self.seats.version(subject.campaign.id).await.unwrap().is_some() {
            self.redis(&["HSET", &key(subject, ""), "lease", "3600000"]).await;
        }
    }

    async fn sweep(&mut self, subject: &Subject, coupons: &[Place]) -> Said {
        let id = subject.campaign.id;
        let overdue = self.seats.overdue(id, 1_000).await.unwrap();
        let held = seats(coupons);
        let (held, free): (Vec<Seat>, Vec<Seat>) =
            overdue.iter().cloned().partition(|seat| held.contains(seat));
        if !held.is_empty() {
            self.seats.confirm(id, &held).await.unwrap();
        }
        let released = if free.is_empty() { 0 } else { self.seats.release(id, &free).await.unwrap() };
        let all = places();
        let of = |found: &Seat| *all.iter().find(|place| seat(**place) == *found).unwrap();
        Said::Swept(overdue.iter().map(of).collect(), released)
    }

    async fn compare_counts(&mut self, history: &History) -> Result<(), TestCaseError> {
        for Subject { campaign, model, .. } in &history.subjects {
            prop_assert_eq!(
                self.seats.count(campaign.id).await.unwrap(),
                model.count(),
                "seats of {}",
                campaign.id
            );
        }
        Ok(())
    }

    async fn compare_seats(&mut self, history: &History) -> Result<(), TestCaseError> {
        let all = places();
        for Subject { campaign, model, .. } in &history.subjects {
            let taken = self.seats.are_taken(campaign.id, &seats(&all)).await.unwrap();
            let taken: BTreeSet<Place> =
                all.iter().zip(taken).filter_map(|(place, taken)| taken.then_some(*place)).collect();
            prop_assert_eq!(&taken, &model.taken, "seats of {} in the end", campaign.id);
        }
        Ok(())
    }

    async fn redis(&mut self, command: &[&str]) {
        let () = redis::cmd(command[0]).arg(&command[1..]).query_async(&mut self.redis).await.unwrap();
    }
}

fn key(subject: &Subject, name: &str) -> String {
    World::gate(subject.campaign.id, name)
}

fn seats(places: &[Place]) -> Vec<Seat> {
    places.iter().map(|place| seat(*place)).collect()
}

fn places() -> Vec<Place> {
    (0..USERS).flat_map(|user| (1..=3).map(move |nth| (user, nth))).collect()
}
