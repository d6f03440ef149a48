//! The half of the node that an account goes to.

use super::wire::{self, FAILED, FRAME, Question, Reply, TALK};
use super::{Inner, Mover, Trouble};
use rookery_directory::{DirectoryError, Home};
use rookery_net::{DrainGuard, Pipe};
use rookery_store::{AccountState, FORMAT, Incoming, Job, Stage, Travel};
use rookery_types::NodeId;
use std::io;
use std::sync::Arc;

impl Mover {
    /// Does what another node asks for, one thing after another, and answers.
    pub async fn serve(&self, mut pipe: Box<dyn Pipe>, peer: NodeId, drain: DrainGuard) {
        if let Err(error) = self.0.answer_all(&mut *pipe, peer).await {
            tracing::info!(%error, node = %peer, "a move of another node was broken off");
        }
        drop(drain);
    }
}

impl Inner {
    async fn answer_all(self: &Arc<Self>, pipe: &mut dyn Pipe, peer: NodeId) -> io::Result<()> {
        let mut incoming: Option<Incoming> = None;
        while let Some((kind, octets)) = self.in_time(wire::receive(pipe)).await? {
            let answer = match kind {
                FRAME => match &mut incoming {
                    Some(incoming) => {
                        incoming.handle(octets).await.map(|answer| (FRAME, answer)).map_err(Trouble::from)
                    }
                    None => Err(Trouble("nothing has begun".to_owned())),
                },
                TALK => {
                    let question = serde_json::from_slice(&octets).map_err(io::Error::other)?;
                    let reply = self.reply(question, peer, &mut incoming).await;
                    reply.map(|reply| (TALK, wire::json(&reply)))
                }
                _ => return Err(io::Error::other("it makes no sense")),
            };
            match answer {
                Ok((kind, octets)) => self.in_time(wire::send(pipe, kind, &octets)).await?,
                Err(Trouble(why)) => {
                    incoming = None;
                    self.in_time(wire::send(pipe, FAILED, why.as_bytes())).await?;
                }
            }
        }
        Ok(())
    }

    async fn reply(
        self: &Arc<Self>,
        question: Question,
        peer: NodeId,
        incoming: &mut Option<Incoming>,
    ) -> Result<Reply, Trouble> {
        let sense = |error: io::Error| Trouble(error.to_string());
        match question {
            // They go from store to store as they are.
            Question::Begin { format, .. } if format > FORMAT => Err(Trouble(format!(
                "records of the store's format {format} come, and this program knows formats up to {FORMAT}"
            ))),
            Question::Begin { account, job, epoch, format: _ } => {
                let (id, job, epoch) =
                    (wire::account(account).map_err(sense)?, wire::job(job), wire::epoch(epoch));
                // Nobody but its home sends an account, and only where the directory has it going.
                let entry =
                    self.entry(id).await?.ok_or_else(|| Trouble("there is no such account".to_owned()))?;
                let comes = entry.moving.is_some_and(|to| to.node == self.here() && to.job == job);
                if entry.home.node != peer || !comes || entry.home.epoch.0.saturating_add(1) != epoch.0 {
                    return Err(Trouble("by the directory the account does not come from there".to_owned()));
                }
                let travel = Travel { job, peer, epoch, modseq: 0 };
                let (begun, fresh) = self.store.receive(id, travel).await?;
                *incoming = Some(begun);
                Ok(Reply::Begun { fresh })
            }
            Question::Release { account, job, epoch, modseq } => {
                let (id, job) = (wire::account(account).map_err(sense)?, wire::job(job));
                let record = self.store.account_record(id)?;
                let record = record.ok_or_else(|| Trouble("nothing of the account is here".to_owned()))?;
                match record.state {
                    AccountState::Receiving(from) | AccountState::Ready(from) if from.peer == peer => {
                        #[cfg(feature = "sim")]
                        if rookery_kv::defect::is_planted(rookery_kv::defect::Defect::EarlyHome) {
                            let inner = Arc::clone(self);
                            self.spawn(async move {
                                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                                drop(inner.store.take_home(id, job, modseq).await);
                            });
                            return Ok(Reply::Active);
                        }
                        self.store.take_home(id, job, modseq).await?;
                        if let Some(transit) = &self.transit {
                            transit.adopt(id)?;
                        }
                    }
                    // It was said before; it may have been deleted here, or have gone on, since.
                    _ if record.epoch >= wire::epoch(epoch) => {}
                    _ => return Err(Trouble("the account does not come from there".to_owned())),
                }
                if let Some(job) = self.store.job(id)?.filter(|job| job.stage == Stage::Announce) {
                    self.begin_announcing(job);
                }
                Ok(Reply::Active)
            }
            Question::Cancel { account, job } => {
                let (id, job) = (wire::account(account).map_err(sense)?, wire::job(job));
                let from = self.store.account_record(id)?.and_then(|record| record.state.travel());
                if from.is_some_and(|from| from.peer == peer) {
                    self.store.cancel_receiving(id, job).await?;
                }
                Ok(Reply::Done)
            }
            Question::Settled { account, epoch } => {
                let id = wire::account(account).map_err(sense)?;
                let record = self.store.account_record(id)?;
                let waits = self.store.job(id)?.is_some_and(|job| job.stage == Stage::Announce);
                // It may have gone on from here, or have been deleted.
                let was_here = record.is_none_or(|record| record.epoch >= wire::epoch(epoch));
                Ok(if was_here && !waits { Reply::Yes } else { Reply::No })
            }
            Question::Known { account, job } => {
                let (id, job) = (wire::account(account).map_err(sense)?, wire::job(job));
                let is_job = self.store.job(id)?.is_some_and(|known| known.id == job);
                let state = self.store.account_record(id)?.map(|record| record.state);
                let is_released = matches!(state, Some(AccountState::Released(to)) if to.job == job);
                Ok(if is_job || is_released { Reply::Yes } else { Reply::No })
            }
        }
    }

    /// Tells the directory of an account that has come, until it knows.
    pub(super) fn begin_announcing(self: &Arc<Self>, job: Job) {
        if !self.announcing.send_if_modified(|all| all.insert(job.account)) {
            return;
        }
        let inner = Arc::clone(self);
        self.spawn(async move {
            let mut pause = inner.times.pause_min;
            loop {
                match inner.announce(&job).await {
                    Ok(()) => break,
                    Err(Trouble(why)) => {
                        if pause == inner.times.pause_min {
                            tracing::info!(account = %job.account, why, "the directory is not told yet of an account that has come");
                        }
                    }
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(inner.times.pause_max);
            }
            inner.announcing.send_if_modified(|all| all.remove(&job.account));
        });
    }

    async fn announce(&self, job: &Job) -> Result<(), Trouble> {
        let home = Home { node: self.here(), store: self.store.store_id(), epoch: job.epoch };
        match self.directory.by_id(job.account).await {
            Ok(entry) if entry.home.epoch >= home.epoch => {}
            Ok(entry) => {
                if entry.moving.is_some_and(|to| to.node != home.node || to.job != job.id) {
                    return Err(Trouble("by the directory the account goes elsewhere".to_owned()));
                }
                let told =
                    self.directory.relocate(job.account, (entry.home, entry.moving), (home, None)).await;
                if let Err(error) = told {
                    // Its copy may be old.
                    self.directory.barrier().await?;
                    return Err(error.into());
                }
            }
            Err(DirectoryError::NotFound(_)) if self.entry(job.account).await?.is_none() => {}
            Err(error) => return Err(error.into()),
        }
        self.store.drop_job(job.account).await?;
        tracing::info!(account = %job.account, from = %job.peer, epoch = job.epoch.0, "an account has come, and the directory knows");
        Ok(())
    }

    /// Asks the homes of accounts that come whether they still do, again and again.
    pub(super) async fn look_after_coming(self: Arc<Self>) {
        loop {
            let jobs = self.store.jobs().unwrap_or_default();
            for job in jobs.into_iter().filter(|job| job.stage == Stage::Receiving) {
                let question = Question::Known { account: job.account.get(), job: job.id.0 };
                // Otherwise it goes on when its home comes back to it.
                if !matches!(self.ask_once(job.peer, &question).await, Ok(Reply::No)) {
                    continue;
                }
                match self.store.cancel_receiving(job.account, job.id).await {
                    Ok(()) => tracing::info!(account = %job.account, "an account does not come any more"),
                    Err(error) => tracing::warn!(%error, "what came of an account is not dropped"),
                }
            }
            tokio::time::sleep(self.times.ask_every).await;
        }
    }
}
