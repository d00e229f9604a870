//! Random histories of several gates, each step of which the model predicts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use coupon_dispatcher::campaign::{Campaign, CampaignId, State, UserId};
use coupon_dispatcher::issue::seats::{Admission, Seat, Seats};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use redis::aio::MultiplexedConnection;
use time::OffsetDateTime;
use ulid::Ulid;

use super::model::{Model, Place, seat, user};
use super::{campaign, connect};
use crate::support::{World, seeded};

const USERS: usize = 12;
const CAMPAIGNS: usize = 4;
/// A loader that has been quiet for so long is ended here, before its lease ends it.
const LOADER_QUIET_MAX: Duration = Duration::from_secs(3);
const STATES: [State; 5] = [State::Draft, State::Scheduled, State::Open, State::Paused, State::Closed];

/// One campaign: what it is, and what its gate has to be.
struct Subject {
    campaign: Campaign,
    model: Model,
    /// Tokens of all that began to load, the newest last.
    tokens: Vec<Ulid>,
    /// Seats that were ever pending: some are confirmed or released late.
    known: Vec<Place>,
    loader_seen: Instant,
}

pub(super) struct History {
    seed: u64,
    random: StdRng,
    seats: Seats,
    redis: MultiplexedConnection,
    subjects: Vec<Subject>,
    steps: Vec<(usize, String)>,
    /// How often something happened for which these histories are run.
    happened: BTreeMap<&'static str, usize>,
}

impl History {
    pub(super) async fn start(world: &World) -> Self {
        let (seed, random) = seeded();
        let subject = |_| Subject {
            campaign: campaign(),
            model: Model::default(),
            tokens: Vec::new(),
            known: vec![(0, 1)],
            loader_seen: Instant::now(),
        };
        Self {
            seed,
            random,
            seats: connect(world).await,
            redis: world.redis().await,
            subjects: (0..CAMPAIGNS).map(subject).collect(),
            steps: Vec::new(),
            happened: BTreeMap::new(),
        }
    }

    pub(super) async fn step(&mut self) {
        let of = self.random.random_range(0..CAMPAIGNS);
        if self.subjects[of].loader_seen.elapsed() > LOADER_QUIET_MAX {
            self.end_loader(of).await;
        }
        let unloaded = self.subjects[of].model.gate.is_none();
        let roll = if unloaded && self.random.random_bool(0.5) { 1_000 } else { 0 };
        match roll + self.random.random_range(0..1_000) {
            0..400 => self.admit(of).await,
            400..560 => self.confirm(of).await,
            560..680 => self.release(of).await,
            680..730 | 1_000..1_400 => self.begin(of).await,
            730..800 | 1_400..1_600 => self.add(of).await,
            800..860 | 1_600..2_000 => self.finish(of).await,
            860..910 => self.set_state(of).await,
            910..960 => self.overdue(of).await,
            960..975 => self.end_loader(of).await,
            975..985 => self.lose_gate(of).await,
            985..997 => self.forget_scripts(of).await,
            _ => self.lose_everything().await,
        }
        self.compare_count(of).await;
    }

    async fn admit(&mut self, of: usize) {
        let count = self.random.random_range(1..=6);
        let users: Vec<usize> = (0..count).map(|_| self.random.random_range(0..USERS)).collect();
        self.note(of, format!("admit {users:?}"));
        let ids: Vec<UserId> = users.iter().map(|number| UserId::parse(user(*number)).unwrap()).collect();
        let said = self.seats.admit(self.id(of), ids.iter()).await.unwrap();
        let predicted = self.subjects[of].model.admit(&users);
        self.check(of, &said, &predicted);
        let Subject { model, known, .. } = &mut self.subjects[of];
        known.extend(model.pending.keys());
        known.sort_unstable();
        known.dedup();
        for word in &said {
            self.count(match word {
                Admission::Admitted(seat) if seat.parts().1 > 1 => "a further seat was given",
                Admission::Admitted(_) => "a first seat was given",
                Admission::Already => "all was given already",
                Admission::SoldOut => "nothing was left",
                Admission::NotOpen => "it was not open",
                Admission::Closed => "it was closed",
                Admission::Unloaded => "nothing was known",
            });
        }
    }

    async fn confirm(&mut self, of: usize) {
        let places = self.some_known(of);
        self.note(of, format!("confirm {places:?}"));
        let model = &self.subjects[of].model;
        let late = model.gate.is_some() && places.iter().any(|place| !model.taken.contains(place));
        let loads = model.loader.is_some();
        self.seats.confirm(self.id(of), &as_seats(&places)).await.unwrap();
        self.subjects[of].model.confirm(&places);
        self.count_if(late, "a seat was confirmed after its release");
        self.count_if(loads, "a seat was confirmed during a load");
    }

    async fn release(&mut self, of: usize) {
        let places = self.some_known(of);
        self.note(of, format!("release {places:?}"));
        let said = self.seats.release(self.id(of), &as_seats(&places)).await.unwrap();
        let predicted = self.subjects[of].model.release(&places);
        self.check(of, &said, &predicted);
        self.count_if(said > 0, "a seat was released");
        self.count_if(said < places.len(), "a seat was kept");
    }

    async fn begin(&mut self, of: usize) {
        let token = Ulid(self.random.random());
        self.note(of, format!("begin {token}"));
        let said = self.seats.begin_load(self.id(of), token).await.unwrap();
        let Subject { model, tokens, loader_seen, .. } = &mut self.subjects[of];
        let predicted = model.begin(token);
        *loader_seen = Instant::now();
        tokens.push(token);
        self.check(of, &said, &predicted);
    }

    async fn add(&mut self, of: usize) {
        let Some(token) = self.some_token(of) else { return };
        let places = self.some_known(of);
        self.note(of, format!("add {token} {places:?}"));
        let said = self.seats.add_to_load(self.id(of), token, &as_seats(&places)).await.unwrap();
        let Subject { model, loader_seen, .. } = &mut self.subjects[of];
        let predicted = model.add(token, &places);
        *loader_seen = Instant::now();
        let superseded = model.loader.is_some() && model.loader != Some(token);
        self.check(of, &said, &predicted);
        self.count_if(superseded, "a superseded loader added");
    }

    async fn finish(&mut self, of: usize) {
        let Some(token) = self.some_token(of) else { return };
        let changed = self.changed(of);
        self.note(of, format!("finish {token} {changed:?}"));
        let said = self.seats.finish_load(&changed, token).await.unwrap();
        let Subject { model, .. } = &mut self.subjects[of];
        let superseded = model.loader.is_some() && model.loader != Some(token);
        let loads_pending = model.loader == Some(token) && !model.pending.is_empty();
        let predicted = model.finish(token, &changed);
        self.check(of, &said, &predicted);
        self.subjects[of].campaign = changed;
        self.count_if(superseded, "a superseded loader finished");
        self.count_if(loads_pending, "seats were pending during a load");
    }

    async fn set_state(&mut self, of: usize) {
        let changed = self.changed(of);
        let version = (changed.version + self.random.random_range(-3..=1)).max(1);
        let told = Campaign { version, ..changed };
        self.note(of, format!("set_state {:?} of version {version}", told.state));
        self.seats.set_state(&told).await.unwrap();
        self.subjects[of].model.set_state(&told);
    }

    /// The deadlines of some seats pass; those and no others are overdue.
    async fn overdue(&mut self, of: usize) {
        let places = self.some_known(of);
        self.note(of, format!("overdue {places:?}"));
        for place in &places {
            if let Some(overdue) = self.subjects[of].model.pending.get_mut(place) {
                *overdue = true;
                let name =
                    if place.1 == 1 { user(place.0) } else { format!("{} {}", user(place.0), place.1) };
                let key = format!("{}:pending", self.key(of));
                let mut command = redis::cmd("ZADD");
                let () =
                    command.arg(key).arg("XX").arg(1).arg(name).query_async(&mut self.redis).await.unwrap();
            }
        }
        let said = self.seats.overdue(self.id(of), 1_000).await.unwrap();
        let mut said: Vec<_> = said.iter().map(Seat::parts).collect();
        let places = self.subjects[of].model.overdue();
        let names: Vec<_> = places.iter().map(|(number, nth)| (user(*number), *nth)).collect();
        let mut predicted: Vec<_> = names.iter().map(|(user, nth)| (user.as_str(), *nth)).collect();
        said.sort_unstable();
        predicted.sort_unstable();
        self.check(of, &said, &predicted);
        self.count_if(!predicted.is_empty(), "a seat was overdue");
    }

    /// The lease of a loader runs out.
    async fn end_loader(&mut self, of: usize) {
        self.note(of, "the loader's lease runs out".to_owned());
        self.delete(format!("{}:loader", self.key(of))).await;
        self.subjects[of].model.loader = None;
        self.subjects[of].loader_seen = Instant::now();
    }

    /// Redis drops one key of the campaign.
    async fn lose_gate(&mut self, of: usize) {
        self.note(of, "the hash is lost".to_owned());
        self.delete(self.key(of)).await;
        self.subjects[of].model.gate = None;
    }

    async fn forget_scripts(&mut self, of: usize) {
        self.note(of, "SCRIPT FLUSH".to_owned());
        let () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut self.redis).await.unwrap();
    }

    async fn lose_everything(&mut self) {
        for of in 0..CAMPAIGNS {
            self.note(of, "FLUSHALL".to_owned());
            self.subjects[of].model = Model::default();
        }
        let () = redis::cmd("FLUSHALL").query_async(&mut self.redis).await.unwrap();
        self.count("everything was lost");
    }

    async fn delete(&mut self, key: String) {
        let () = redis::cmd("DEL").arg(key).query_async(&mut self.redis).await.unwrap();
    }

    /// Seats that were given at some time, or never.
    fn some_known(&mut self, of: usize) -> Vec<Place> {
        let count = self.random.random_range(1..=4);
        let known = &self.subjects[of].known;
        let mut places: Vec<Place> =
            (0..count).filter_map(|_| known.choose(&mut self.random).copied()).collect();
        if self.random.random_bool(0.1) {
            places.push((self.random.random_range(0..USERS), self.random.random_range(1..=3)));
        }
        places
    }

    /// Mostly the newest.
    fn some_token(&mut self, of: usize) -> Option<Ulid> {
        let tokens = &self.subjects[of].tokens;
        if self.random.random_bool(0.7) {
            self.subjects[of].model.loader.or(tokens.last().copied())
        } else {
            tokens.choose(&mut self.random).copied()
        }
    }

    /// The campaign as an operator may have changed it, mostly open.
    fn changed(&mut self, of: usize) -> Campaign {
        let campaign = self.subjects[of].campaign.clone();
        let now = OffsetDateTime::now_utc();
        let random = &mut self.random;
        let far = |ahead: bool| if ahead { now + time::Duration::HOUR } else { now - time::Duration::HOUR };
        let opens_at = far(random.random_bool(0.1));
        let closes_at = far(random.random_bool(0.9)).max(opens_at + time::Duration::MINUTE);
        Campaign {
            quantity: random.random_range(1..=15),
            per_user_limit: random.random_range(1..=3),
            opens_at,
            closes_at,
            state: if random.random_bool(0.7) { State::Open } else { *STATES.choose(random).unwrap() },
            version: campaign.version + 1,
            ..campaign
        }
    }

    async fn compare_count(&mut self, of: usize) {
        let said = self.seats.count(self.id(of)).await.unwrap();
        self.check(of, &said, &self.subjects[of].model.count());
    }

    pub(super) async fn compare_seats(&mut self) {
        let places: Vec<Place> = (0..USERS).flat_map(|user| (1..=3).map(move |nth| (user, nth))).collect();
        for of in 0..CAMPAIGNS {
            let said = self.seats.are_taken(self.id(of), &as_seats(&places)).await.unwrap();
            let taken = &self.subjects[of].model.taken;
            let predicted: Vec<bool> = places.iter().map(|place| taken.contains(place)).collect();
            self.check(of, &said, &predicted);
        }
    }

    fn check<T: PartialEq + std::fmt::Debug>(&self, of: usize, said: &T, predicted: &T) {
        if said == predicted {
            return;
        }
        for (step, (_, what)) in self.steps.iter().enumerate().filter(|(_, (subject, _))| *subject == of) {
            eprintln!("{step:>5} {what}");
        }
        panic!("campaign {of} with SEED={}: {said:?} where {predicted:?} was predicted", self.seed);
    }

    /// What these histories are run for has happened.
    pub(super) fn assert_was_telling(&self) {
        println!("{:#?}", self.happened);
        for what in [
            "a further seat was given",
            "all was given already",
            "nothing was left",
            "it was not open",
            "it was closed",
            "nothing was known",
            "a seat was confirmed after its release",
            "a seat was confirmed during a load",
            "a seat was released",
            "a seat was kept",
            "a superseded loader added",
            "a superseded loader finished",
            "seats were pending during a load",
            "a seat was overdue",
            "everything was lost",
        ] {
            assert!(self.happened.contains_key(what), "not once: {what} (SEED={})", self.seed);
        }
    }

    fn id(&self, of: usize) -> CampaignId {
        self.subjects[of].campaign.id
    }

    fn key(&self, of: usize) -> String {
        format!("gate1:{{{}}}", self.id(of))
    }

    fn note(&mut self, of: usize, what: String) {
        self.steps.push((of, what));
    }

    fn count(&mut self, what: &'static str) {
        *self.happened.entry(what).or_default() += 1;
    }

    fn count_if(&mut self, happened: bool, what: &'static str) {
        if happened {
            self.count(what);
        }
    }
}

fn as_seats(places: &[Place]) -> Vec<Seat> {
    places.iter().map(|place| seat(*place)).collect()
}
