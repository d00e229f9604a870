//! What users hold: their newest coupons, by the word of Postgres. All who wait are asked for together, so that a
//! crowd of losers costs few queries.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::claim::{ClaimError, IssueError};
use crate::coupon::store::{self, Newest};
use crate::ids::{CampaignId, UserId};
use crate::pool::Pool;
use crate::storage::StorageError;

/// Questions that wait, at most; more are refused. Above the claims that a shard has in progress.
const QUEUE: usize = 8_192;
/// Questions in one query, at most. It takes some milliseconds.
const BATCH: usize = 512;
/// For one answer, with the query before it. A claim must be answered within 8 s while Postgres hangs.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

struct Question {
    campaign: CampaignId,
    user: UserId,
    answer: oneshot::Sender<Result<Option<Newest>, StorageError>>,
}

/// The way to ask.
#[derive(Debug)]
pub(super) struct Holdings(mpsc::Sender<Question>);

impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question").field("campaign", &self.campaign).finish_non_exhaustive()
    }
}

impl Holdings {
    /// Starts a task that asks Postgres. It ends when this is dropped.
    pub(super) fn start(pool: Pool) -> Self {
        let (queue, questions) = mpsc::channel(QUEUE);
        tokio::spawn(answer_all(pool, questions));
        Self(queue)
    }

    /// The user's newest coupon of a campaign, and which of theirs it is.
    pub(super) async fn newest(
        &self,
        campaign: CampaignId,
        user: UserId,
    ) -> Result<Option<Newest>, IssueError> {
        let (answer, told) = oneshot::channel();
        if self.0.try_send(Question { campaign, user, answer }).is_err() {
            return Err(ClaimError::Overloaded.into());
        }
        match timeout(ANSWER_TIMEOUT, told).await {
            Ok(Ok(answer)) => Ok(answer?),
            Ok(Err(_)) | Err(_) => Err(sqlx::Error::PoolTimedOut.into()),
        }
    }
}

/// One query is in flight at a time; the next has all that were asked meanwhile.
async fn answer_all(pool: Pool, mut questions: mpsc::Receiver<Question>) {
    let mut asked = Vec::with_capacity(BATCH);
    while questions.recv_many(&mut asked, BATCH).await > 0 {
        let result = timeout(ANSWER_TIMEOUT, ask(&pool, &asked)).await;
        let result = result.unwrap_or(Err(sqlx::Error::PoolTimedOut)).map_err(StorageError::from);
        match result {
            Ok(found) => tell(&mut asked, found),
            Err(error) => asked.drain(..).for_each(|Question { answer, .. }| {
                drop(answer.send(Err(error.clone()))); // the caller may have gone
            }),
        }
    }
}

async fn ask(pool: &Pool, asked: &[Question]) -> Result<Vec<Newest>, sqlx::Error> {
    let campaigns: Vec<CampaignId> = asked.iter().map(|question| question.campaign).collect();
    let users: Vec<&str> = asked.iter().map(|question| question.user.as_str()).collect();
    store::newest(pool, &campaigns, &users).await
}

fn tell(asked: &mut Vec<Question>, found: Vec<Newest>) {
    let mut answers: Vec<Option<Newest>> = asked.iter().map(|_| None).collect();
    for newest in found {
        let place = usize::try_from(newest.question - 1).ok().and_then(|place| answers.get_mut(place));
        if let Some(place) = place {
            *place = Some(newest);
        }
    }
    for (Question { answer, .. }, newest) in asked.drain(..).zip(answers) {
        drop(answer.send(Ok(newest))); // the caller may have gone
    }
}
