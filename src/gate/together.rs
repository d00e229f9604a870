//! What the worker asks of the gates of many campaigns at once: one script serves all that are on one server. In a
//! Redis Cluster each campaign has a slot of its own, and no script may use keys of two slots.

use std::sync::LazyLock;

use futures_util::future::join_all;
use redis::{ErrorKind, RedisError, Script, ScriptInvocation, make_extension_error};

use super::connection::Connection;
use super::keys::Keys;
use super::redis::Seats;
use super::seat::{Admission, Seat};
use crate::ids::{CampaignId, UserId};

static ADMIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../../lua/admit.lua")));
static CONFIRM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../../lua/confirm.lua")));

impl Seats {
    /// How many of `campaigns` one script can serve.
    pub(super) fn served_together(&self, campaigns: usize) -> usize {
        match &self.0 {
            Connection::One(_) => campaigns.max(1),
            Connection::Cluster(_) => 1,
        }
    }

    /// Asks for a seat for each of `users`, in this order. Returns an answer for each.
    pub async fn admit<'a>(
        &self,
        campaign: CampaignId,
        users: impl Iterator<Item = &'a UserId>,
    ) -> Result<Vec<Admission>, RedisError> {
        self.admit_together(&[(campaign, users.collect())]).await.remove(0)
    }

    /// The same for campaigns that one script can serve, with a result for each.
    pub async fn admit_together(
        &self,
        asked: &[(CampaignId, Vec<&UserId>)],
    ) -> Vec<Result<Vec<Admission>, RedisError>> {
        let mut call = ADMIT.prepare_invoke();
        for (campaign, users) in asked {
            let keys = Keys::of(*campaign);
            call.key(keys.gate).key(keys.holders).key(keys.pending).arg(users.len());
            for user in users {
                call.arg(user.as_str());
            }
        }
        let words = self.words(&call, asked.first(), asked.iter().map(|(_, users)| users.len()).sum()).await;
        let mut rest = match &words {
            Ok(words) => &words[..],
            Err(error) => return vec![Err(error.clone()); asked.len()],
        };
        let answers = asked.iter().map(|(_, users)| {
            let words;
            (words, rest) = rest.split_at(users.len());
            let answers = users.iter().zip(words);
            answers.map(|(user, word)| Admission::parse(word, user).ok_or_else(|| error_of(word))).collect()
        });
        answers.collect()
    }

    /// Confirms seats: their coupons are committed.
    pub async fn confirm(&self, campaign: CampaignId, seats: &[Seat]) -> Result<(), RedisError> {
        self.confirm_together(&[(campaign, seats)]).await.remove(0)
    }

    /// The same for campaigns that one script can serve, with a result for each.
    pub async fn confirm_together<S: AsRef<[Seat]>>(
        &self,
        committed: &[(CampaignId, S)],
    ) -> Vec<Result<(), RedisError>> {
        let mut call = CONFIRM.prepare_invoke();
        for (campaign, seats) in committed {
            let (keys, seats) = (Keys::of(*campaign), seats.as_ref());
            call.key(keys.gate).key(keys.holders).key(keys.pending).key(keys.loading).key(keys.loader);
            call.arg(seats.len());
            for seat in seats {
                call.arg(&*seat.name());
            }
        }
        match self.words(&call, committed.first(), committed.len()).await {
            Ok(words) => words.iter().map(|word| confirmed(word)).collect(),
            Err(error) => vec![Err(error); committed.len()],
        }
    }

    /// Those of these campaigns that have pending seats. Of campaigns whose node of a Cluster fails, none.
    ///
    /// # Errors
    /// When no gate can be asked.
    pub(super) async fn with_pending(&self, campaigns: &[CampaignId]) -> Result<Vec<CampaignId>, RedisError> {
        let together = self.served_together(campaigns.len());
        let parts = campaigns.chunks(together);
        let answers = join_all(parts.clone().map(|part| self.have_pending(part))).await;
        let mut found = Vec::new();
        for (part, answer) in parts.zip(answers) {
            match answer {
                Ok(have) => found.extend(part.iter().zip(have).filter(|(_, has)| *has).map(|(id, _)| *id)),
                Err(error) if self.is_of_all(&error) => return Err(error),
                Err(_) => {} // reported when the walk comes to these campaigns
            }
        }
        Ok(found)
    }

    async fn have_pending(&self, campaigns: &[CampaignId]) -> Result<Vec<bool>, RedisError> {
        let Some(first) = campaigns.first() else { return Ok(Vec::new()) };
        // Not ZCARD, because a key of another type would fail the pipeline of all.
        let mut pipe = redis::pipe();
        for campaign in campaigns {
            pipe.exists(Keys::of(*campaign).pending);
        }
        pipe.query_async(self.0.clone().at(*first)).await
    }

    /// Calls a script that answers `count` words.
    async fn words<T>(
        &self,
        call: &ScriptInvocation<'_>,
        first: Option<&(CampaignId, T)>,
        count: usize,
    ) -> Result<Vec<String>, RedisError> {
        let Some((campaign, _)) = first else { return Ok(Vec::new()) };
        let words: Vec<String> = call.invoke_async(self.0.clone().at(*campaign)).await?;
        if words.len() == count {
            Ok(words)
        } else {
            Err((ErrorKind::UnexpectedReturnType, "a script of the gate answered something else").into())
        }
    }
}

fn confirmed(word: &str) -> Result<(), RedisError> {
    if word == "confirmed" || word == "unloaded" { Ok(()) } else { Err(error_of(word)) }
}

/// The error of Redis in an answer: `failed <code> <detail>`.
fn error_of(word: &str) -> RedisError {
    let told = word.strip_prefix("failed ").map(|error| error.split_once(' ').unwrap_or((error, "")));
    match told {
        Some((code, detail)) => make_extension_error(code.to_owned(), Some(detail.to_owned())),
        None => (ErrorKind::UnexpectedReturnType, "a script of the gate answered something else").into(),
    }
}
