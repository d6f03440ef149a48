//! The source of the directory: what holds its primary records and decides in which order they change.
//!
//! Invariants of every source:
//! - A batch is applied whole or not at all, and only if every condition holds at that moment.
//! - An applied batch has a revision above those of all that were applied before it. Those that are applied together
//!   have one and the same; a batch without effect need not have one.
//! - [`Source::head`] answers with a revision not below that of any batch that was acknowledged, anywhere, before
//!   the call.
//! - [`Source::changes`] gives every change after the revision asked for, once and in order, or says that it cannot.

use bytes::Bytes;
use std::future::Future;
use std::pin::Pin;
use tokio::sync::mpsc;

/// What a source will answer.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, SourceError>> + Send + 'a>>;

/// A place in the history of a directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Position {
    /// Which history. Another one has nothing to do with this.
    pub cluster: u64,
    /// How often the history went on from a copy, perhaps without its last changes.
    pub term: u64,
    /// How far it is.
    pub revision: u64,
}

/// What a key must be for a batch to be applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Condition {
    /// The key.
    pub key: Bytes,
    /// Exactly this value; `None`: it must not exist.
    pub value: Option<Bytes>,
}

/// A key that is set, or deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// The key.
    pub key: Bytes,
    /// `None`: it is deleted, whether it exists or not.
    pub value: Option<Bytes>,
}

/// Writes that are made together, if all conditions hold.
///
/// What the directory commits has a condition for every key that it writes, and changes at least one of them. So a
/// batch that was applied does not apply again, and may be sent again after a lost answer.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct ConditionalBatch {
    /// One for each key at most.
    pub conditions: Vec<Condition>,
    /// One for each key at most.
    pub writes: Vec<Write>,
}

impl ConditionalBatch {
    /// Octets of keys and values.
    pub fn octets(&self) -> usize {
        let of = |key: &Bytes, value: &Option<Bytes>| key.len() + value.as_ref().map_or(0, Bytes::len);
        let conditions = self.conditions.iter().map(|condition| of(&condition.key, &condition.value));
        conditions.chain(self.writes.iter().map(|write| of(&write.key, &write.value))).sum()
    }
}

/// A primary record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
}

/// Records in key order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RecordPage {
    /// The records from the start of the page.
    pub records: Vec<Record>,
    /// Where the next page starts; `None`: there are no more.
    pub next: Option<Bytes>,
    /// The page has every change up to here, and none after.
    pub position: Position,
}

/// What one revision changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    /// Which revision.
    pub position: Position,
    /// One for each key at most; none if only the position has moved.
    pub writes: Vec<Write>,
}

/// Changes as they come. Dropping it ends them. It ends by itself only after an error.
#[derive(Debug)]
pub struct Changes(mpsc::Receiver<Result<Event, SourceError>>);

impl Changes {
    /// Those that are sent by the other end, of which as many are held as the channel has room for.
    pub fn new(receiver: mpsc::Receiver<Result<Event, SourceError>>) -> Changes {
        Changes(receiver)
    }

    /// The next one; waits for it.
    pub async fn next(&mut self) -> Result<Event, SourceError> {
        let ended = || Err(SourceError::Unavailable("the stream of changes has ended".to_owned()));
        self.0.recv().await.unwrap_or_else(ended)
    }

    /// The next one if it is here already.
    pub fn try_next(&mut self) -> Option<Result<Event, SourceError>> {
        self.0.try_recv().ok()
    }
}

/// Why a source did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// A condition does not hold; nothing was changed.
    #[error("another change came first")]
    Conflict,
    /// The changes asked for are no longer known; nothing was changed.
    #[error("the changes asked for are no longer known")]
    Compacted,
    /// The batch is larger than the source takes; nothing was changed.
    #[error("the change is larger than the directory's source takes")]
    TooLarge,
    /// The source cannot be asked; nothing was changed.
    #[error("the directory's source is away: {0}")]
    Unavailable(String),
    /// No answer came: what was asked may be done, now or later.
    #[error("the directory's source gave no answer: {0}")]
    Unknown(String),
    /// The position asked for is not of this history, or lies beyond its end; nothing was changed.
    #[error("the directory's source is not the one that was followed, or has gone back: {0}")]
    WentBack(String),
    /// What is stored is damaged, or the answer makes no sense; nothing was changed.
    #[error("the directory's source has damaged data: {0}")]
    Damaged(String),
}

/// What holds the primary records of a directory.
pub trait Source: Send + Sync {
    /// Applies the batch if its conditions hold, and answers when that is durable.
    fn commit(&self, batch: ConditionalBatch) -> Reply<'_, Position>;

    /// How far the history is.
    fn head(&self) -> Reply<'_, Position>;

    /// The newest values of some keys, at most [`GET_MAX`], and at which position.
    fn get(&self, keys: Vec<Bytes>) -> Reply<'_, (Position, Vec<Option<Bytes>>)>;

    /// Records with `start <= key`, in key order, at most about `limit`; perhaps fewer, though not the last.
    fn page(&self, start: Bytes, limit: usize) -> Reply<'_, RecordPage>;

    /// All changes after a position.
    fn changes(&self, since: Position) -> Reply<'_, Changes>;

    /// Which position of another history this one went on from, if it took the place of another source.
    fn predecessor(&self) -> Reply<'_, Option<Position>> {
        Box::pin(async { Ok(None) })
    }

    /// Sees to it that all who follow soon hear of a position not below the present head. Only for sources whose head
    /// may rise without a change of the directory.
    fn nudge(&self) -> Reply<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

/// Keys of one [`Source::get`] at most.
pub const GET_MAX: usize = 128;
