//! Somebody wants an account to move, and waits for an answer.

use super::{MoveOutcome, Mover, MoverError, Phase};
use rookery_store::Stage;
use rookery_types::{AccountId, JobId, NodeId};
use std::time::Duration;

/// How often somebody who waits for a move looks how it gets on.
const ATTEND_EVERY: Duration = Duration::from_millis(200);

/// What somebody hears who waits for a move.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attended {
    /// It has ended.
    Ended(MoveOutcome),
    /// An operator has stopped it.
    Paused,
    /// It does not get on, for this reason.
    Stuck(String),
    /// There is no such move, or it is no more told of.
    Unknown,
}

impl Mover {
    /// Begins a move as [`Mover::begin`] does, or finds the one that takes the account there already: whether it has
    /// begun now.
    pub async fn begin_or_join(&self, account: AccountId, to: NodeId) -> Result<(JobId, bool), MoverError> {
        match self.begin(account, to).await {
            Ok(job) => Ok((job, true)),
            Err(MoverError::OnItsWay) => {
                let job = self.0.live.lock().get(&account).map(|live| live.job());
                let joined = job.filter(|job| job.peer == to && job.stage != Stage::Aborting);
                joined.map(|job| (job.id, false)).ok_or(MoverError::OnItsWay)
            }
            Err(error) => Err(error),
        }
    }

    /// Waits for a move as somebody does who wants an answer: also if it is stopped, or has not got on for so long as
    /// they are patient. `gives_up`: it is given up then, if the account has not left.
    pub async fn attend(
        &self,
        account: AccountId,
        job: JobId,
        patience: Duration,
        gives_up: bool,
    ) -> Attended {
        loop {
            if let Ok(outcome) = tokio::time::timeout(ATTEND_EVERY, self.wait(account, job)).await {
                return outcome.map_or(Attended::Unknown, Attended::Ended);
            }
            let live = self.0.live.lock().get(&account).filter(|live| live.job().id == job).cloned();
            let Some(status) = live.map(|live| live.status()) else { continue };
            if status.phase == Phase::Announcing {
                // It has left, and nothing but its arrival ends this.
                continue;
            }
            if status.paused {
                return Attended::Paused;
            }
            let Some((why, _)) = status.trouble.filter(|(_, since)| *since >= patience) else { continue };
            match gives_up {
                false => return Attended::Stuck(why),
                true => match self.cancel(account).await {
                    Ok(()) => return Attended::Stuck(why),
                    Err(MoverError::TooLate | MoverError::NoMove) => {}
                    Err(error) => return Attended::Stuck(error.to_string()),
                },
            }
        }
    }
}
