//! A seat: the right of one user to one coupon, as long as the gate keeps it; and the gate's words.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use crate::coupon::Refusal;
use crate::ids::UserId;

/// The n-th seat of a user. Its name in Redis is `<user>` for the first, then `<user> 2`, `<user> 3`, …
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Seat {
    user: Arc<str>,
    nth: i32,
}

impl Seat {
    /// The `nth` seat of a user, from 1.
    #[must_use]
    pub fn new(user: impl Into<Arc<str>>, nth: i32) -> Self {
        Self { user: user.into(), nth }
    }

    /// The seat of this name. A name that this program never writes becomes seat 1 of a user of that name,
    /// which is the id of nobody.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        let later = name.split_once(' ').and_then(|(user, nth)| Some(Self::new(user, nth.parse().ok()?)));
        later.filter(|seat| seat.name() == name).unwrap_or_else(|| Self::new(name, 1))
    }

    /// Its name in Redis.
    pub(super) fn name(&self) -> Cow<'_, str> {
        if self.nth == 1 { Cow::Borrowed(&*self.user) } else { format!("{} {}", self.user, self.nth).into() }
    }

    /// The user, and which of the user's seats it is.
    #[must_use]
    pub fn parts(&self) -> (&str, i32) {
        (&self.user, self.nth)
    }
}

impl fmt::Display for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// What the gate answers to one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admission {
    /// The user has a new seat, pending until its coupon is committed.
    Admitted(Seat),
    Denied(Denial),
}

/// Why the gate gives no seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The user has all the seats that the limit allows. Coupons of some may not be committed yet, or never.
    Already,
    /// All seats are taken and some are pending; of them the user has this number, which is below the limit. Whatever it is,
    /// the user may hold coupons: Postgres knows.
    Full(i32),
    /// The user has no seat.
    Refused(Refusal),
    /// The user has this number of seats, which is below the limit, and gets no other. Postgres knows which have coupons.
    RefusedMore(Refusal, i32),
    /// The gate does not know the campaign: it must be loaded.
    Unloaded,
}

impl Admission {
    /// Parses a word that `admit.lua` answers to `user`; nothing when it is none of its words.
    #[must_use]
    pub fn parse(word: &str, user: &UserId) -> Option<Self> {
        Some(match word {
            "admitted" => Self::Admitted(Seat::new(user, 1)),
            "already" => Self::Denied(Denial::Already),
            "full" => Self::Denied(Denial::Full(0)),
            "unloaded" => Self::Denied(Denial::Unloaded),
            other => {
                if let Some(nth) = other.strip_prefix("admitted ") {
                    let nth = number(nth).filter(|nth| *nth > 1)?;
                    return Some(Self::Admitted(Seat::new(user, nth)));
                }
                Self::Denied(match other.split_once(" held ") {
                    Some(("full", seats)) => Denial::Full(number(seats)?),
                    Some((why, seats)) => Denial::RefusedMore(refusal(why)?, number(seats)?),
                    None => Denial::Refused(refusal(other)?),
                })
            }
        })
    }
}

fn refusal(word: &str) -> Option<Refusal> {
    match word {
        "sold_out" => Some(Refusal::SoldOut),
        "not_open" => Some(Refusal::NotOpen),
        "closed" => Some(Refusal::Closed),
        _ => None,
    }
}

/// A number from 1, as it is usually written.
fn number(word: &str) -> Option<i32> {
    word.parse().ok().filter(|number: &i32| *number >= 1 && number.to_string() == word)
}
