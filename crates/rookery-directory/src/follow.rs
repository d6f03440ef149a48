//! Following a source: how a copy in another place comes to hold the same records, and how changes are made from there.
//!
//! Invariants:
//! - The copy holds what the source held at the copy's position, also after a crash: both are in one batch.
//! - A copy that is too old for the source's changes keeps answering while it is read again page by page. It never
//!   shows less meanwhile than before and after.
//! - A source that is another one, or behind what was seen, changes nothing here and takes no changes from here.
//! - An answer that was lost is not taken for a "no": the same batch is sent again, and applies once at most.
//! - A request that was given up is not done any more when something else was decided here ([`crate::turn`]).

mod reading;

use crate::DirectoryError;
use crate::change::Change;
use crate::copy::Copy;
use crate::derive::Applier;
use crate::kinds::KindsRead;
use crate::source::{Changes, ConditionalBatch, Event, GET_MAX, Position, Source, SourceError, Write};
use crate::turn::Turns;
use crate::whole::goes_on;
use bytes::Bytes;
use rand::Rng;
use rookery_types::NodeId;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long a change may take; then it is told that its outcome is pending.
const CHANGE_MAX: Duration = Duration::from_secs(10);
/// How long the source may take to say how far it is; then it is asked again, or counts as away.
const HEAD_MAX: Duration = Duration::from_millis(500);
/// How long a source that was there until now is asked again: as long as etcd may need to choose another leader, and a
/// node to start again. One that is known to be away is asked once.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long the copy may take to get there.
const ARRIVE_MAX: Duration = Duration::from_secs(2);
/// After so long the source is asked to tell its followers.
const NUDGE_AFTER: Duration = Duration::from_millis(50);
/// Events, and octets of them, that are applied together.
const EVENTS_MAX: usize = 512;
const EVENT_OCTETS_MAX: usize = 1 << 20;
/// The shortest and the longest pause before the source is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// A source that is away for less is nothing for an operator to look at: its node is restarted, or a link is made anew.
const AWAY_QUIETLY: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Callers that wait for one answer of the source.
const BARRIERS_MAX: usize = 100_000;

/// How a copy stands to its source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Following {
    /// It has not been told anything yet.
    Starting,
    /// It follows.
    Following,
    /// It is read again, since what it had was too old.
    Reading,
    /// The source cannot be asked, and why.
    Away(String),
    /// The source is not the one that was followed, or has gone back: nothing can be changed. What was found.
    WentBack(String),
}

/// A source and the copy that follows it.
#[derive(Clone)]
pub(crate) struct Follower(Arc<Inner>);

struct Inner {
    copy: Arc<Copy>,
    source: Arc<dyn Source>,
    turns: Turns,
    following: watch::Sender<Following>,
    barriers: mpsc::Sender<oneshot::Sender<Result<Position, DirectoryError>>>,
}

/// Ends what it began when it is dropped.
pub(crate) struct Tasks(Vec<tokio::task::JoinHandle<()>>);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(|task| task.abort());
    }
}

impl Follower {
    /// Begins to follow, as this node.
    pub(crate) fn start(copy: Arc<Copy>, source: Arc<dyn Source>, who: NodeId) -> (Follower, Tasks) {
        let (barriers, asked) = mpsc::channel(BARRIERS_MAX);
        let following = watch::Sender::new(Following::Starting);
        let turns = Turns::new(who);
        let follower = Follower(Arc::new(Inner { copy, source, turns, following, barriers }));
        let (one, other) = (follower.clone(), follower.clone());
        let tasks = vec![
            tokio::spawn(async move { one.follow().await }),
            tokio::spawn(async move { other.answer_barriers(asked).await }),
        ];
        (follower, Tasks(tasks))
    }

    pub(crate) fn following(&self) -> watch::Receiver<Following> {
        self.0.following.subscribe()
    }

    fn told(&self, now: Following) {
        self.0.following.send_if_modified(|before| {
            let changed = *before != now;
            if changed {
                match &now {
                    Following::WentBack(why) => tracing::error!(why, "the directory takes no changes"),
                    // It may be there again at once: see `follow`.
                    Following::Away(why) => tracing::info!(why, "the directory's source does not answer"),
                    now => tracing::info!(?now, "the directory's copy"),
                }
                *before = now;
            }
            changed
        });
    }

    /// Follows for ever.
    async fn follow(&self) {
        let mut pause = PAUSE_MIN;
        let (mut since, mut warned) = (Instant::now(), false);
        loop {
            let error = match self.follow_once(&mut pause).await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            if pause == PAUSE_MIN {
                // It was followed until now.
                (since, warned) = (Instant::now(), false);
            }
            match error {
                DirectoryError::WentBack(why) => self.told(Following::WentBack(why)),
                error => {
                    if !warned && since.elapsed() >= AWAY_QUIETLY {
                        warned = true;
                        tracing::warn!(%error, "the directory's source is away");
                    }
                    self.told(Following::Away(error.to_string()));
                }
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn follow_once(&self, pause: &mut Duration) -> Result<std::convert::Infallible, DirectoryError> {
        let head = timeout(CHANGE_MAX, self.0.source.head()).await;
        let head = head.map_err(|_| away("it does not answer"))?.map_err(source_error)?;
        let mut at = self.0.copy.position();
        // What has been at the end of another history may go on with the one that took its place.
        let moves = match at.filter(|at| at.cluster != head.cluster) {
            Some(at) => {
                let after = timeout(CHANGE_MAX, self.0.source.predecessor()).await;
                let after = after.map_err(|_| away("it does not answer"))?.map_err(source_error)?;
                if after.is_some_and(|after| after.cluster == at.cluster) && !goes_on(after, at) {
                    return Err(DirectoryError::WentBack(format!(
                        "the source went on from {after:?}, and {at:?} was seen"
                    )));
                }
                goes_on(after, at)
            }
            None => false,
        };
        if let Some(at) = at.filter(|_| !moves) {
            check_position(at, head)?;
        }
        // Up to here the copy may be ahead of the changes that come.
        let mut ahead = 0;
        // Records may be missing that the program did not know which was here before.
        let is_partial = !KindsRead::of(&*self.0.copy.engine)?.is_current();
        if at.is_none_or(|at| at.term != head.term || moves || is_partial) {
            let before = at.filter(|_| !moves);
            (at, ahead) = self.read_again(before).await.map(|(at, ahead)| (Some(at), ahead))?;
        }
        if moves {
            self.forget_log().await?;
        }
        loop {
            let Some(since) = at else { return Err(away("it has no position")) };
            let changes = timeout(CHANGE_MAX, self.0.source.changes(since)).await;
            let changes = changes.map_err(|_| away("it does not answer"))?;
            let ended = match changes {
                Ok(mut changes) => {
                    self.told(Following::Following);
                    *pause = PAUSE_MIN;
                    self.apply_all(&mut changes, since, ahead).await
                }
                Err(error) => source_error_or_compacted(error),
            };
            match ended {
                Ended::Compacted => {
                    let before = self.0.copy.position();
                    (at, ahead) = self.read_again(before).await.map(|(at, ahead)| (Some(at), ahead))?;
                }
                Ended::Failed(error) => return Err(error),
            }
        }
    }

    async fn apply_all(&self, changes: &mut Changes, mut at: Position, ahead: u64) -> Ended {
        loop {
            let mut next = Some(changes.next().await);
            let (mut events, mut octets, mut ended) = (Vec::new(), 0, None);
            while let Some(event) = next {
                match event {
                    Ok(event) => {
                        octets += event.writes.iter().map(octets_of).sum::<usize>();
                        events.push(event);
                    }
                    Err(error) => {
                        ended = Some(source_error_or_compacted(error));
                        break;
                    }
                }
                next = (events.len() < EVENTS_MAX && octets < EVENT_OCTETS_MAX)
                    .then(|| changes.try_next())
                    .flatten();
            }
            match self.apply(events, at, ahead).await {
                Ok(position) => at = position,
                Err(error) => return Ended::Failed(error),
            }
            if let Some(ended) = ended {
                return ended;
            }
        }
    }

    /// Writes what some events changed, with the position of the last.
    async fn apply(&self, events: Vec<Event>, at: Position, ahead: u64) -> Result<Position, DirectoryError> {
        let mut now = at;
        let (names, writes) = {
            let mut applier = Applier::new(&*self.0.copy.engine);
            for event in &events {
                let is_next = (event.position.cluster, event.position.term) == (at.cluster, at.term)
                    && event.position.revision >= now.revision;
                if !is_next {
                    return Err(DirectoryError::WentBack(format!(
                        "after {now:?} comes {:?}",
                        event.position
                    )));
                }
                now = event.position;
                applier.set_lenient(now.revision <= ahead);
                applier.apply(&event.writes)?;
            }
            applier.into_parts()
        };
        if now == at {
            return Ok(at);
        }
        let written = self.0.copy.write(&names, writes, Some(now)).await;
        written.map(|()| now).map_err(|error| DirectoryError::Unavailable(error.to_string()))
    }

    /// Says whether the copy was ever whole: before that, what is not found may well exist.
    pub(crate) fn check_whole(&self) -> Result<(), DirectoryError> {
        match self.0.copy.position() {
            Some(_) => Ok(()),
            None => Err(DirectoryError::Unavailable("this node has not yet read the directory".to_owned())),
        }
    }

    /// Says whether the copy may be taken for the whole directory, or has to be read again by this program first.
    pub(crate) fn check_complete(&self) -> Result<(), DirectoryError> {
        match &*self.0.following.borrow() {
            Following::Away(_) | Following::WentBack(_) => Ok(()),
            _ if KindsRead::of(&*self.0.copy.engine)?.is_current() => Ok(()),
            _ => Err(DirectoryError::Unavailable(
                "this node is still reading what its program was too old for; try again in a moment"
                    .to_owned(),
            )),
        }
    }

    fn check_usable(&self) -> Result<(), DirectoryError> {
        match &*self.0.following.borrow() {
            Following::WentBack(why) => Err(DirectoryError::WentBack(why.clone())),
            _ => self.check_whole(),
        }
    }

    /// How far the source is.
    pub(crate) async fn head(&self) -> Result<Position, DirectoryError> {
        let head = timeout(HEAD_MAX, self.0.source.head()).await;
        head.map_err(|_| away("it does not answer"))?.map_err(source_error)
    }

    /// Returns when the copy has all that was acknowledged anywhere before the call.
    pub(crate) async fn barrier(&self) -> Result<Position, DirectoryError> {
        let (answer, waiting) = oneshot::channel();
        self.0.barriers.try_send(answer).map_err(|_| away("too many ask for it"))?;
        waiting.await.unwrap_or_else(|_| Err(away("the directory has ended")))
    }

    /// Asks the source once for all who asked meanwhile.
    async fn answer_barriers(
        &self,
        mut asked: mpsc::Receiver<oneshot::Sender<Result<Position, DirectoryError>>>,
    ) {
        let mut is_away = false;
        while let Some(first) = asked.recv().await {
            let mut all = vec![first];
            while let Ok(more) = asked.try_recv() {
                all.push(more);
            }
            let reached = self.reach_head(if is_away { HEAD_MAX } else { PATIENCE }).await;
            is_away = reached.is_err();
            for answer in all {
                // Whoever asked may have gone.
                let _ = answer.send(reached.clone());
            }
        }
    }

    /// Asks the source how far it is, again if it does not answer, and has the copy get there.
    async fn reach_head(&self, patience: Duration) -> Result<Position, DirectoryError> {
        let until = Instant::now() + patience;
        let (mut wait, mut pause) = (HEAD_MAX, PAUSE_MIN);
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let error = match self.reach_head_once(wait.min(left.max(HEAD_MAX))).await {
                Err(error @ DirectoryError::Unavailable(_)) => error,
                answered => return answered,
            };
            if Instant::now() + pause >= until {
                return Err(error);
            }
            sleep(jittered(pause)).await;
            // It may be there, and slow.
            (wait, pause) = (wait * 2, (pause * 2).min(PAUSE_MAX / 4));
        }
    }

    async fn reach_head_once(&self, wait: Duration) -> Result<Position, DirectoryError> {
        // Before the source is asked: the copy may be further than the answer when that comes.
        let at = self.0.copy.position();
        let head = timeout(wait, self.0.source.head()).await;
        let head = head.map_err(|_| away("it does not answer"))?.map_err(source_error)?;
        if let Some(at) = at {
            check_position(at, head)?;
        }
        self.check_usable()?;
        self.reach(head, Instant::now() + ARRIVE_MAX).await?;
        Ok(head)
    }

    /// As [`Follower::barrier`], for a change that has something to go on with until then.
    async fn barrier_until(&self, until: Instant) -> Result<(), DirectoryError> {
        let reached = async {
            loop {
                match self.barrier().await {
                    Err(DirectoryError::Unavailable(_)) => sleep(jittered(PAUSE_MAX / 4)).await,
                    reached => return reached.map(drop),
                }
            }
        };
        let not_reached = |_| Err(away("it does not answer; nothing was changed"));
        timeout_at(until, reached).await.unwrap_or_else(not_reached)
    }

    /// Returns when the copy is at a position.
    async fn reach(&self, to: Position, until: Instant) -> Result<(), DirectoryError> {
        let mut positions = self.0.copy.position.subscribe();
        let arrived = async move {
            let there = |at: &Option<Position>| at.is_some_and(|at| at.cluster == to.cluster && at >= to);
            positions.wait_for(|at| there(at)).await.is_ok()
        };
        tokio::pin!(arrived);
        let is_there = match timeout(NUDGE_AFTER, &mut arrived).await {
            Ok(is_there) => is_there,
            Err(_) => {
                // Best effort: perhaps the changes are just slow.
                let _ = timeout(HEAD_MAX, self.0.source.nudge()).await;
                timeout_at(until, &mut arrived).await.unwrap_or(false)
            }
        };
        match is_there {
            true => Ok(()),
            false => Err(away("its changes do not come")),
        }
    }

    /// Decides a change on the copy, and again whenever another change came first.
    pub(crate) async fn change<T>(
        &self,
        decide: impl Fn(&mut Change<'_>) -> Result<T, DirectoryError>,
    ) -> Result<T, DirectoryError> {
        let until = Instant::now() + CHANGE_MAX;
        let mut is_fresh = false;
        let mut pause = PAUSE_MIN;
        loop {
            self.check_usable()?;
            let decided = {
                // The position first: what is decided on may be newer than it, never older.
                let at = self.0.copy.position().unwrap_or_default();
                let snapshot = self.0.copy.engine.snapshot();
                let mut change = Change::begin(&*snapshot, at.revision);
                let turn = change.turn(self.0.turns.node)?;
                match self.0.turns.may_decide_in(turn) {
                    false => None,
                    true => Some(match decide(&mut change) {
                        Ok(answer) => (Ok(answer), change.finish()?, turn),
                        Err(error) => (Err(error), None, turn),
                    }),
                }
            };
            let Some((answer, batch, turn)) = decided else {
                self.raise_turn(until).await?;
                continue;
            };
            let Some(batch) = batch else {
                // A copy that lags may be wrong about what is there. Only an up-to-date one says no.
                if is_fresh {
                    return answer;
                }
                self.barrier().await?;
                is_fresh = true;
                continue;
            };
            match self.commit(batch, turn, until).await {
                Ok(position) => {
                    self.reach(position, until).await.map_err(|_| pending("it was recorded"))?;
                    return answer;
                }
                Err(DirectoryError::Conflict) if Instant::now() >= until => {
                    return Err(away("others changed the same all the time; nothing was changed"));
                }
                Err(DirectoryError::Conflict) => {
                    self.barrier_until(until).await?;
                    is_fresh = true;
                    // Those who met are not to meet again.
                    sleep(jittered(pause)).await;
                    pause = (pause * 2).min(PAUSE_MAX / 4);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sees to it that no request of this turn or an earlier one is done any more.
    async fn raise_turn(&self, until: Instant) -> Result<(), DirectoryError> {
        let turns = &self.0.turns;
        let not_begun = |why: &str| away(&format!("{why}; nothing was changed"));
        let raising = timeout_at(until, turns.raising.lock()).await;
        let _raising = raising.map_err(|_| not_begun("what was asked before has no answer yet"))?;
        let mut pause = PAUSE_MIN;
        loop {
            let (turn, batch) = {
                let at = self.0.copy.position().unwrap_or_default();
                let snapshot = self.0.copy.engine.snapshot();
                let mut change = Change::begin(&*snapshot, at.revision);
                if turns.may_decide_in(change.turn(turns.node)?) {
                    return Ok(());
                }
                (change.raise_turn(turns.node)?, change.finish()?)
            };
            let Some(batch) = batch else { return Err(not_begun("its turn cannot be raised")) };
            match self.commit(batch, 0, until).await {
                Ok(position) => {
                    let reached = self.reach(position, until).await;
                    reached.map_err(|_| not_begun("its changes do not come"))?;
                    turns.raised(turn);
                }
                Err(DirectoryError::Conflict) if Instant::now() < until => {
                    self.barrier_until(until).await?;
                    sleep(jittered(pause)).await;
                    pause = (pause * 2).min(PAUSE_MAX / 4);
                }
                Err(DirectoryError::Unavailable(why) | DirectoryError::Pending(why)) => {
                    return Err(not_begun(&why));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Sends a batch of a turn until it is known what became of it.
    async fn commit(
        &self,
        batch: ConditionalBatch,
        turn: u64,
        until: Instant,
    ) -> Result<Position, DirectoryError> {
        let mut is_lost = false;
        let mut pause = PAUSE_MIN;
        loop {
            let error = match timeout_at(until, self.0.source.commit(batch.clone())).await {
                Ok(Ok(position)) => return Ok(position),
                Ok(Err(error)) => error,
                Err(_) => SourceError::Unknown("it does not answer".to_owned()),
            };
            let why = match error {
                SourceError::Conflict if !is_lost => return Err(DirectoryError::Conflict),
                // Ours, perhaps, came first.
                SourceError::Conflict => match timeout_at(until, self.is_done(&batch)).await {
                    Ok(Ok(Some(position))) => return Ok(position),
                    Ok(Ok(None)) => return Err(DirectoryError::Conflict),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "it does not answer".to_owned(),
                },
                SourceError::Unknown(why) => {
                    is_lost = true;
                    // Even if it is done at once when it is sent again: the first one may still come.
                    self.0.turns.is_in_doubt(turn);
                    why
                }
                SourceError::Unavailable(why) => why,
                error => return Err(source_error(error)),
            };
            if Instant::now() + pause >= until {
                return Err(match is_lost {
                    true => pending(&why),
                    false => away(&format!("{why}; nothing was changed")),
                });
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Whether the source has all that a batch writes.
    async fn is_done(&self, batch: &ConditionalBatch) -> Result<Option<Position>, SourceError> {
        let mut at = None;
        for writes in batch.writes.chunks(GET_MAX) {
            let keys = writes.iter().map(|write| write.key.clone()).collect();
            let (position, values) = self.0.source.get(keys).await?;
            at = Some(position);
            if !writes.iter().map(|write| &write.value).eq(values.iter()) {
                return Ok(None);
            }
        }
        Ok(at)
    }
}

enum Ended {
    Compacted,
    Failed(DirectoryError),
}

fn source_error_or_compacted(error: SourceError) -> Ended {
    match error {
        SourceError::Compacted => Ended::Compacted,
        error => Ended::Failed(source_error(error)),
    }
}

fn octets_of(write: &Write) -> usize {
    write.key.len() + write.value.as_ref().map_or(0, Bytes::len)
}

/// Half of a pause to all of it.
fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// Whether a source may be followed by who has been at a position.
fn check_position(at: Position, head: Position) -> Result<(), DirectoryError> {
    let what = if at.cluster != head.cluster {
        "is another directory"
    } else if head.term < at.term || head.revision < at.revision {
        "is behind what this node has seen"
    } else {
        return Ok(());
    };
    Err(DirectoryError::WentBack(format!("the source {what}: it is at {head:?}, and {at:?} was seen")))
}

fn away(why: &str) -> DirectoryError {
    DirectoryError::Unavailable(format!("the directory's source is away: {why}"))
}

fn pending(why: &str) -> DirectoryError {
    DirectoryError::Pending(why.to_owned())
}

fn source_error(error: SourceError) -> DirectoryError {
    match error {
        SourceError::Conflict => DirectoryError::Conflict,
        SourceError::TooLarge => {
            DirectoryError::Refused("the change is larger than the directory's source takes")
        }
        SourceError::WentBack(why) => DirectoryError::WentBack(why),
        error => unavailable_source(&error),
    }
}

fn unavailable_source(error: &SourceError) -> DirectoryError {
    DirectoryError::Unavailable(error.to_string())
}
