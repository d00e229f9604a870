//! A state of the small service.

/// So many of them for one user.
pub(super) const LIMIT: u8 = 1;
pub(super) const ALICE: User = 0;
pub(super) const BOB: User = 1;
pub(super) const USERS: [User; 2] = [ALICE, BOB];

pub(super) type User = usize;

/// Users, or their seats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Set(u8);

impl Set {
    pub(super) const NONE: Self = Self(0);
    /// All but [`Self::NONE`].
    pub(super) const ALL: [Self; 3] = [Self(1), Self(2), Self(3)];

    pub(super) fn of(user: User) -> Self {
        Self(1 << user)
    }

    pub(super) fn has(self, user: User) -> bool {
        self.covers(Self::of(user))
    }

    pub(super) fn covers(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn len(self) -> u32 {
        self.0.count_ones()
    }

    pub(super) fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub(super) fn common(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// What Redis has of the campaign, as in `seats.rs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Redis {
    pub(super) loaded: bool,
    pub(super) holders: Set,
    /// Each of them may be past its deadline at any moment: there is no clock here.
    pub(super) pending: Set,
    pub(super) loading: Set,
    pub(super) loader: Token,
    /// Not in Redis: whose coupons it was told of, as far back as its memory goes.
    pub(super) told: Set,
}

/// Who loads the gate. Tokens of loads that are over belong to nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Token {
    #[default]
    None,
    Of(usize),
    Nobodys,
}

/// How far the claim of a device has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Claim {
    /// Not made, or answered, or given up: it can be made again.
    #[default]
    None,
    /// The gate has said `already`: a coupon is looked up, and if there is none Postgres decides.
    Already,
    /// The gate has said `taken`: a coupon is looked up, and if there is none it is sold out.
    Taken,
    /// In the queue of the writer, or on its way to Postgres.
    Waits { seat: bool },
    /// Postgres has judged it and committed the batch, and the writer has not heard of it.
    Judged { has_coupon: bool, seat: bool },
}

/// A claim for whose end nobody waits, and which Postgres may still carry out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Late {
    #[default]
    None,
    /// The connection was lost: its writer will not hear of it.
    Unheard,
    /// Its process hangs, and goes on some time; the user has asked somebody else meanwhile.
    Hangs { seat: bool },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Sweeper {
    #[default]
    Rests,
    /// It has read which seats are overdue.
    Listed(Set),
    /// It has asked Postgres which of them have a coupon, and is about to tell the gate.
    Asked { held: Set, free: Set },
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Loader {
    #[default]
    Rests,
    Begun,
    /// It has read the coupons in Postgres.
    Read(Set),
    Added,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct State {
    /// Coupons committed in Postgres, of each user: the truth.
    pub(super) coupons: [u8; 2],
    pub(super) redis: Redis,
    /// An older Redis, to be restored.
    pub(super) saved: Option<Redis>,
    pub(super) claims: [Claim; 2],
    pub(super) late: [Late; 2],
    /// Seats to be confirmed and released, on their way to the gate.
    pub(super) confirms: Set,
    pub(super) releases: Set,
    pub(super) sweeper: Sweeper,
    pub(super) loaders: [Loader; 2],
    pub(super) wronged: Option<Wrong>,
    pub(super) faults: u8,
}

/// Wrong things said to a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wrong {
    PromisedInVain,
    HolderRefused,
    RefusedWithSeatLeft,
}

impl State {
    /// Who has a coupon.
    pub(super) fn issued(&self) -> Set {
        USERS.into_iter().filter(|user| self.coupons[*user] > 0).map(Set::of).fold(Set::NONE, Set::with)
    }

    pub(super) fn count(&self) -> u32 {
        self.coupons.iter().map(|count| u32::from(*count)).sum()
    }

    /// Those of whom a coupon may yet be committed.
    pub(super) fn may_commit(&self) -> Set {
        let waits = |user: User| matches!(self.claims[user], Claim::Already | Claim::Waits { .. });
        let may = |user: &User| waits(*user) || self.late[*user] != Late::None;
        USERS.into_iter().filter(may).map(Set::of).fold(Set::NONE, Set::with)
    }

    /// Whether neither user has left a trace. Then it is all the same which of them asks.
    pub(super) fn is_blank(&self) -> bool {
        let blank = |redis: &Redis| redis.holders.with(redis.loading).with(redis.told).is_empty();
        self.coupons == [0; 2]
            && self.claims == [Claim::None; 2]
            && self.late == [Late::None; 2]
            && self.confirms.with(self.releases).is_empty()
            && self.sweeper == Sweeper::Rests
            && blank(&self.redis)
            && self.saved.as_ref().is_none_or(blank)
    }

    /// Whether nothing is on its way.
    pub(super) fn is_at_rest(&self) -> bool {
        self.claims == [Claim::None; 2]
            && self.late == [Late::None; 2]
            && self.confirms.with(self.releases).is_empty()
            && self.sweeper == Sweeper::Rests
            && self.loaders == [Loader::Rests; 2]
    }

    /// `sweeper::contradiction`.
    pub(super) fn gate_contradicts(&self) -> bool {
        let confirmed = self.redis.holders.without(self.redis.pending).len();
        self.redis.loaded && (self.redis.holders.len() < self.count() || confirmed > self.count())
    }
}
