//! The half of the home that an account leaves.

use super::wire::{self, FAILED, FRAME, Question, Reply, TALK};
use super::{Inner, Live, MoveOutcome, MoveStatus, Phase, Trouble};
use crate::relay::{PipeHead, PipeService};
use bytes::Bytes;
use rookery_directory::{AccountState as EntryState, DirectoryError, Home, Moving};
use rookery_net::Pipe;
use rookery_store::{AccountState, Exchange, FORMAT, Job, Stage, StoreError, Travel};
use rookery_types::NodeId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::SemaphorePermit;
use tokio::time::Instant;

/// With so few records left the account is stopped.
const LAG_MAX: usize = 64;
/// So often all is compared, and something differs, before that is an error.
const COMPARISONS: usize = 5;
/// The longest that an account may stand still, after tries that took too long.
const STILL_LIMIT: Duration = Duration::from_secs(2);
/// How long it is waited for the other node when a move is given up; it asks by itself later.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// How a try has ended.
enum Step {
    /// The account is released; perhaps the other node has said already that it serves it.
    Released(Travel, bool, Duration),
    /// Look again what is to be done.
    Again,
    /// It stays here.
    Ended(MoveOutcome),
}

/// A pipe to the other node.
struct Wire<'a> {
    inner: &'a Inner,
    live: &'a Live,
    pipe: Box<dyn Pipe>,
    /// How long an answer may take.
    limit: Duration,
}

impl Wire<'_> {
    async fn exchange(&mut self, kind: u8, octets: &[u8]) -> Result<(u8, Bytes), Trouble> {
        let exchange = async {
            wire::send(&mut *self.pipe, kind, octets).await?;
            wire::receive(&mut *self.pipe).await
        };
        let answer = tokio::time::timeout(self.limit, exchange).await;
        match answer.map_err(|_| Trouble("the other node gives no answer".to_owned()))?? {
            Some((FAILED, why)) => Err(Trouble(format!("the other node: {}", String::from_utf8_lossy(&why)))),
            Some(answer) => Ok(answer),
            None => Err(Trouble("the other node has ended it".to_owned())),
        }
    }

    async fn talk(&mut self, question: &Question) -> Result<Reply, Trouble> {
        match self.exchange(TALK, &wire::json(question)).await? {
            (TALK, reply) => {
                serde_json::from_slice(&reply).map_err(|_| Trouble("its answer makes no sense".to_owned()))
            }
            _ => Err(Trouble("its answer makes no sense".to_owned())),
        }
    }
}

impl Exchange for Wire<'_> {
    async fn ask(&mut self, request: Bytes) -> Result<Bytes, String> {
        let job = self.live.job();
        if job.paused || job.stage != Stage::Prepared {
            return Err("an operator has stopped it".to_owned());
        }
        self.inner.spend(request.len()).await;
        match self.exchange(FRAME, &request).await {
            Ok((FRAME, answer)) => Ok(answer),
            Ok(_) => Err("its answer makes no sense".to_owned()),
            Err(Trouble(why)) => Err(why),
        }
    }

    fn sent(&mut self, messages: u64, octets: u64) {
        self.live.goes_on(messages, octets);
    }
}

impl Inner {
    /// Waits until octets may be sent.
    async fn spend(&self, octets: usize) {
        let Some(rate) = self.limits.octets_per_second else { return };
        let takes = Duration::from_secs_f64(octets as f64 / rate.max(1) as f64);
        let until = {
            let mut budget = self.budget.lock();
            let from = budget.map_or_else(Instant::now, |next| next.max(Instant::now()));
            *budget = Some(from + takes);
            from
        };
        tokio::time::sleep_until(until).await;
    }

    async fn open<'a>(&'a self, live: &'a Live, to: NodeId) -> Result<Wire<'a>, Trouble> {
        let pipe = self.reach(to).await?;
        Ok(Wire { inner: self, live, pipe, limit: self.times.stalled })
    }

    async fn reach(&self, to: NodeId) -> Result<Box<dyn Pipe>, Trouble> {
        let head = PipeHead { trace: rand::random() }.encode();
        self.peers.open(to, PipeService::Move, head).await.map_err(|error| Trouble(error.to_string()))
    }

    /// Asks another node one thing.
    pub(super) async fn ask_once(&self, node: NodeId, question: &Question) -> Result<Reply, Trouble> {
        let mut pipe = self.reach(node).await?;
        let ask = async {
            wire::send(&mut *pipe, TALK, &wire::json(question)).await?;
            wire::receive(&mut *pipe).await
        };
        match self.in_time(ask).await? {
            Some((TALK, reply)) => {
                serde_json::from_slice(&reply).map_err(|_| Trouble("its answer makes no sense".to_owned()))
            }
            Some((FAILED, why)) => Err(Trouble(format!("the other node: {}", String::from_utf8_lossy(&why)))),
            _ => Err(Trouble("the other node gives no answer".to_owned())),
        }
    }

    /// Brings a move to its end.
    pub(super) fn drive(self: &Arc<Self>, job: Job) -> Arc<Live> {
        let live = Live::new(job);
        self.live.lock().insert(job.account, live.clone());
        let (inner, driven) = (Arc::clone(self), live.clone());
        self.spawn(async move {
            let outcome = inner.bring_to_end(&driven).await;
            inner.end(&driven, outcome);
        });
        live
    }

    /// Whoever waits hears it, unless it was told before.
    fn tell(&self, live: &Live, outcome: &MoveOutcome) {
        let is_new = live.outcome.send_if_modified(|told| {
            let is_new = told.is_none();
            told.get_or_insert_with(|| outcome.clone());
            is_new
        });
        if !is_new {
            return;
        }
        let status: MoveStatus = live.status();
        let label = match outcome {
            MoveOutcome::Moved { pause } => {
                metrics::histogram!("rookery_moves_pause_seconds").record(pause.as_secs_f64());
                tracing::info!(account = %status.account, to = %status.peer, messages = status.messages, octets = status.octets, pause_ms = pause.as_millis() as u64, "an account has moved");
                "moved"
            }
            MoveOutcome::Cancelled => {
                tracing::info!(account = %status.account, "the move of an account was cancelled");
                "cancelled"
            }
            MoveOutcome::Failed(why) => {
                tracing::warn!(account = %status.account, to = %status.peer, why, "an account was not moved");
                "failed"
            }
        };
        metrics::counter!("rookery_moves_ended_total", "outcome" => label).increment(1);
        let mut ended = self.ended.lock();
        if ended.len() >= super::ENDED_MAX {
            ended.pop_front();
        }
        ended.push_back((status, outcome.clone()));
    }

    fn end(&self, live: &Arc<Live>, outcome: MoveOutcome) {
        self.tell(live, &outcome);
        let mut all = self.live.lock();
        let account = live.job().account;
        if all.get(&account).is_some_and(|known| Arc::ptr_eq(known, live)) {
            all.remove(&account);
        }
    }

    async fn bring_to_end(&self, live: &Arc<Live>) -> MoveOutcome {
        let mut changed = live.changed.subscribe();
        let mut permit = None;
        let (mut pause, mut still) = (self.times.pause_min, self.times.still_max);
        loop {
            let job = live.job();
            match self.step(live, &mut permit, &mut still).await {
                Ok(Step::Ended(outcome)) => return outcome,
                Ok(Step::Again) => {
                    pause = self.times.pause_min;
                    continue;
                }
                Ok(Step::Released(travel, is_active, pause)) => {
                    drop(permit.take());
                    self.finish(live, travel, is_active, pause).await;
                    return MoveOutcome::Moved { pause };
                }
                // That was broken off for what an operator wants now: it is no trouble.
                Err(_) if live.job() != job => continue,
                Err(Trouble(why)) => {
                    if live.is_kept(&why) {
                        tracing::info!(account = %job.account, why, "the move of an account waits");
                    }
                }
            }
            let wait = pause.mul_f64(rand::random_range(0.5..1.0));
            // Whoever waits for long lets others go first.
            if pause == self.times.pause_max {
                permit = None;
            }
            if let Ok(Ok(())) = tokio::time::timeout(wait, changed.changed()).await {
                pause = self.times.pause_min;
            }
            pause = (pause * 2).min(self.times.pause_max);
        }
    }

    async fn step<'a>(
        &'a self,
        live: &Live,
        permit: &mut Option<SemaphorePermit<'a>>,
        still: &mut Duration,
    ) -> Result<Step, Trouble> {
        let job = live.job();
        // A write failed, that of the release, perhaps: the next start tells whether it is done. Until then the other
        // node keeps what it has, ready to be taken home.
        if let Some(why) = self.store.read_only_because() {
            return Err(Trouble(why));
        }
        let state = self.store.account_record(job.account)?.map(|record| record.state);
        match state {
            Some(AccountState::Released(travel)) => {
                return Ok(Step::Released(travel, false, Duration::ZERO));
            }
            Some(AccountState::Home) if job.stage != Stage::Aborting => {}
            _ => return self.give_up(live, state.is_none_or(|state| state != AccountState::Home)).await,
        }
        if job.paused {
            *permit = None;
            let mut changed = live.changed.subscribe();
            if live.job() == job {
                // Nobody ends this but whoever says that it goes on, or is given up.
                let _ = changed.changed().await;
            }
            return Ok(Step::Again);
        }
        if permit.is_none() {
            live.is(Phase::Waiting);
            *permit = Some(self.leaving.acquire().await.map_err(|_| Trouble("the node ends".to_owned()))?);
            return Ok(Step::Again);
        }
        if job.stage == Stage::Waiting {
            let _turn = self.turn.lock().await;
            if live.job() == job {
                let prepared = Job { stage: Stage::Prepared, ..job };
                self.store.put_job(prepared).await?;
                *live.job.lock() = prepared;
            }
            return Ok(Step::Again);
        }
        self.try_to_move(live, &job, still).await
    }

    fn home(&self, job: &Job) -> Home {
        let epoch = rookery_types::Epoch(job.epoch.0.saturating_sub(1));
        Home { node: self.here(), store: self.store.store_id(), epoch }
    }

    /// Has the directory say that the account is going there. Some: why that can never be.
    async fn mark(&self, job: &Job) -> Result<Option<String>, Trouble> {
        let (home, to) = (self.home(job), Moving { node: job.peer, job: job.id });
        let Some(entry) = self.entry(job.account).await? else {
            return Ok(Some("the directory does not know the account".to_owned()));
        };
        if entry.home != home {
            return Ok(Some("by the directory the account is not at home here".to_owned()));
        }
        if !matches!(entry.state, EntryState::Active | EntryState::Suspended) {
            return Ok(Some("the account is being deleted".to_owned()));
        }
        match entry.moving {
            Some(known) if known == to => {}
            // Nobody but its home says where an account goes: this is left of a move that is over.
            moving => drop(self.directory.relocate(job.account, (home, moving), (home, Some(to))).await?),
        }
        Ok(None)
    }

    async fn try_to_move(&self, live: &Live, job: &Job, still: &mut Duration) -> Result<Step, Trouble> {
        if let Some(why) = self.mark(job).await? {
            return self.fail(live, why).await;
        }
        let account = self.store.account(job.account).await?;
        let mut wire = self.open(live, job.peer).await?;
        let (id, epoch) = (job.account.get(), job.epoch.0);
        let begin = Question::Begin { account: id, job: job.id.0, epoch, format: FORMAT };
        let Reply::Begun { fresh } = wire.talk(&begin).await? else {
            return Err(Trouble("its answer makes no sense".to_owned()));
        };
        let mut outgoing = account.outgoing();
        live.is(Phase::Copying);
        let copied = outgoing.copy(&mut wire, fresh).await;
        copied?;
        live.is(Phase::Following);
        let mut comparisons = 0;
        loop {
            if live.job() != *job {
                return Ok(Step::Again);
            }
            if outgoing.lag().is_none_or(|lag| lag > LAG_MAX) {
                outgoing.catch_up(&mut wire).await?;
                continue;
            }
            if comparisons == 0 || !outgoing.is_compared() {
                comparisons += 1;
                match outgoing.verify(&mut wire).await? {
                    0 => {}
                    differing if comparisons <= COMPARISONS => {
                        tracing::warn!(account = %job.account, blocks = differing, "the copy of an account was not what it should be");
                        outgoing.catch_up(&mut wire).await?;
                        if outgoing.verify(&mut wire).await? != 0 {
                            return Err(Trouble("the copy is not what it should be".to_owned()));
                        }
                    }
                    _ => return Err(Trouble("the copy is not what it should be".to_owned())),
                }
                continue;
            }
            // The directory has the last word before the account is stopped.
            let to = Moving { node: job.peer, job: job.id };
            let entry = self.entry(job.account).await?;
            if entry.is_none_or(|entry| (entry.home, entry.moving) != (self.home(job), Some(to))) {
                return Err(Trouble("the directory does not have it going there any more".to_owned()));
            }
            if self.is_publishing(job) {
                tokio::time::sleep(self.times.pause_min).await;
                continue;
            }
            outgoing.catch_up(&mut wire).await?;
            live.is(Phase::Switching);
            let began = Instant::now();
            let Some(frozen) = account.freeze(self.times.patience).await? else {
                live.is(Phase::Following);
                // Whatever takes so long comes to its end.
                tokio::time::sleep(self.times.pause_min).await;
                continue;
            };
            if self.is_publishing(job) {
                drop(frozen);
                live.is(Phase::Following);
                continue;
            }
            match tokio::time::timeout(*still, outgoing.seal(&mut wire, &frozen)).await {
                Ok(sealed) => sealed?,
                Err(_) => {
                    let took = still.as_millis() as u64;
                    *still = (*still * 2).min(STILL_LIMIT.max(self.times.still_max));
                    return Err(Trouble(format!("the last changes took more than {took} ms")));
                }
            }
            let travel = Travel { job: job.id, peer: job.peer, epoch: job.epoch, modseq: frozen.modseq() };
            {
                // Whoever gives it up comes before, or too late.
                let _turn = self.turn.lock().await;
                if live.job() != *job {
                    return Ok(Step::Again);
                }
                frozen.release(travel).await?;
            }
            let is_active = self.release(&mut wire, job, &travel).await.is_ok();
            return Ok(Step::Released(travel, is_active, began.elapsed()));
        }
    }

    fn is_publishing(&self, job: &Job) -> bool {
        self.publications.as_ref().is_some_and(|all| all.waits_for(job.account))
    }

    async fn release(&self, wire: &mut Wire<'_>, job: &Job, travel: &Travel) -> Result<(), Trouble> {
        let release = Question::Release {
            account: job.account.get(),
            job: travel.job.0,
            epoch: travel.epoch.0,
            modseq: travel.modseq,
        };
        match wire.talk(&release).await? {
            Reply::Active => Ok(()),
            _ => Err(Trouble("its answer makes no sense".to_owned())),
        }
    }

    /// An account that is released: the other node takes it home, sessions follow, the directory knows; then it is over.
    async fn finish(&self, live: &Live, travel: Travel, mut is_active: bool, took: Duration) {
        live.is(Phase::Announcing);
        let job = live.job();
        let mut pause = self.times.pause_min;
        loop {
            match self.finish_step(live, &job, &travel, &mut is_active, took).await {
                Ok(()) => return,
                Err(Trouble(why)) => {
                    if live.is_kept(&why) {
                        tracing::info!(account = %job.account, why, "an account that is released waits");
                    }
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(self.times.pause_max);
        }
    }

    async fn finish_step(
        &self,
        live: &Live,
        job: &Job,
        travel: &Travel,
        is_active: &mut bool,
        took: Duration,
    ) -> Result<(), Trouble> {
        if !*is_active {
            let mut wire = self.open(live, travel.peer).await?;
            self.release(&mut wire, job, travel).await?;
            *is_active = true;
        }
        match self.store.account(job.account).await {
            Ok(account) => account.leave(),
            Err(StoreError::Moved) => {}
            Err(error) => return Err(error.into()),
        }
        self.tell(live, &MoveOutcome::Moved { pause: took });
        // Its new home tells the directory; both have to know before anything of it goes here.
        let mut revisions = self.directory.subscribe();
        loop {
            revisions.mark_unchanged();
            match self.directory.by_id(job.account).await {
                Ok(entry) if entry.home.epoch < travel.epoch => {
                    let next = tokio::time::timeout(self.times.pause_max, revisions.changed()).await;
                    if next.is_err() {
                        return Err(Trouble("the directory is not told yet".to_owned()));
                    }
                }
                // It may have been deleted meanwhile, or have gone on.
                Ok(_) | Err(DirectoryError::NotFound(_)) => break,
                Err(error) => return Err(error.into()),
            }
        }
        let settled = Question::Settled { account: job.account.get(), epoch: travel.epoch.0 };
        match self.ask_once(travel.peer, &settled).await? {
            Reply::Yes => {}
            _ => return Err(Trouble("the other node has not told the directory yet".to_owned())),
        }
        self.store.has_moved(job.account).await?;
        Ok(())
    }

    /// It can never be.
    async fn fail(&self, live: &Live, why: String) -> Result<Step, Trouble> {
        let _turn = self.turn.lock().await;
        let job = Job { stage: Stage::Aborting, ..live.job() };
        self.store.put_job(job).await?;
        *live.job.lock() = job;
        live.progress.lock().failed = Some(why);
        Ok(Step::Again)
    }

    /// Gives a move up: the other node drops what it has, and the directory forgets where the account was going.
    async fn give_up(&self, live: &Live, is_gone: bool) -> Result<Step, Trouble> {
        let job = live.job();
        live.is(Phase::Cancelling);
        let cancel = Question::Cancel { account: job.account.get(), job: job.id.0 };
        // If it is not reached it asks later, and hears that there is no such move.
        let _ = tokio::time::timeout(CANCEL_WAIT, self.ask_once(job.peer, &cancel)).await;
        let (home, to) = (self.home(&job), Moving { node: job.peer, job: job.id });
        if let Some(entry) = self.entry(job.account).await?
            && (entry.home, entry.moving) == (home, Some(to))
        {
            self.directory.relocate(job.account, (home, Some(to)), (home, None)).await?;
        }
        let _turn = self.turn.lock().await;
        self.store.drop_job(job.account).await?;
        let failed = live.progress.lock().failed.take();
        let outcome = match failed {
            _ if is_gone => MoveOutcome::Failed("the account was deleted".to_owned()),
            Some(why) => MoveOutcome::Failed(why),
            None => MoveOutcome::Cancelled,
        };
        Ok(Step::Ended(outcome))
    }
}
