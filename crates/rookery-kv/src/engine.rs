//! The engine as the store sees it: named key spaces, atomic durable batches, ordered reads.
//!
//! Invariants:
//! - Keys order as octet strings, in every space and every engine.
//! - A batch is applied whole or not at all, and batches survive in the order in which they were committed: a
//!   later one never without an earlier one.
//! - Only one thread commits (the store's committer); any number may read.

use std::io;

/// Octets that are cheap to clone and to slice.
pub type Bytes = bytes::Bytes;

/// A key space. Few and fixed: each space costs every engine a memory table.
///
/// The order of the variants is their [`Space::index`]; it may be stored, so variants are only ever added at the
/// end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Space {
    /// Facts about the store itself: format version, counters, node and store ids.
    Meta,
    /// This node's copy of the directory.
    Directory,
    /// Accounts and their settings.
    Account,
    /// Mailboxes.
    Mailbox,
    /// Packed message records.
    Chunk,
    /// Changes not yet folded into packed records.
    Delta,
    /// Each account's change log.
    Log,
    /// Expunged UIDs by modseq.
    Tombstone,
    /// Where bodies lie, by content id.
    Content,
    /// Conversations.
    Thread,
    /// Work to be done: outboxes, jobs, intents.
    Queue,
    /// What is counted of packed message records.
    Leaf,
}

impl Space {
    /// All spaces, in the order of their index.
    pub const ALL: [Space; 12] = [
        Space::Meta,
        Space::Directory,
        Space::Account,
        Space::Mailbox,
        Space::Chunk,
        Space::Delta,
        Space::Log,
        Space::Tombstone,
        Space::Content,
        Space::Thread,
        Space::Queue,
        Space::Leaf,
    ];

    /// The name by which engines keep the space; lower case ASCII letters.
    pub fn name(self) -> &'static str {
        match self {
            Space::Meta => "meta",
            Space::Directory => "directory",
            Space::Account => "account",
            Space::Mailbox => "mailbox",
            Space::Chunk => "chunk",
            Space::Delta => "delta",
            Space::Log => "log",
            Space::Tombstone => "tombstone",
            Space::Content => "content",
            Space::Thread => "thread",
            Space::Queue => "queue",
            Space::Leaf => "leaf",
        }
    }

    /// The place of the space in [`Space::ALL`], 0..=11.
    pub fn index(self) -> u8 {
        self as u8
    }

    /// The space with this index; `None` if there is none.
    pub fn from_index(index: u8) -> Option<Space> {
        Space::ALL.get(usize::from(index)).copied()
    }
}

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Op {
    /// Sets a key to a value, whether it exists or not.
    Put {
        /// The space of the key.
        space: Space,
        /// The key.
        key: Bytes,
        /// The new value; may be empty, which is not the same as absent.
        value: Bytes,
    },
    /// Removes a key, whether it exists or not.
    Delete {
        /// The space of the key.
        space: Space,
        /// The key.
        key: Bytes,
    },
}

impl Op {
    /// The space and key that the change is about.
    pub fn target(&self) -> (Space, &Bytes) {
        match self {
            Op::Put { space, key, .. } | Op::Delete { space, key } => (*space, key),
        }
    }

    /// Octets of key and value.
    pub fn octets(&self) -> usize {
        match self {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key, .. } => key.len(),
        }
    }
}

/// Changes that become visible and durable together. Ordered: of two on the same key the later wins.
#[derive(Clone, Default, Debug)]
pub struct Batch {
    /// The changes, in order.
    pub ops: Vec<Op>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Batch {
        Batch::default()
    }

    /// Adds setting `key` to `value`.
    pub fn put(&mut self, space: Space, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.ops.push(Op::Put { space, key: key.into(), value: value.into() });
    }

    /// Adds removing `key`.
    pub fn delete(&mut self, space: Space, key: impl Into<Bytes>) {
        self.ops.push(Op::Delete { space, key: key.into() });
    }

    /// Octets of all keys and values; what an engine adds to each is not counted.
    pub fn octets(&self) -> usize {
        self.ops.iter().map(Op::octets).sum()
    }

    /// Whether there is no change in it.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Adds the changes of `other` after those already here.
    pub fn append(&mut self, mut other: Batch) {
        self.ops.append(&mut other.ops);
    }
}

/// Reading, from an engine (each call sees the newest commit) or from a snapshot (all calls see the same one).
pub trait Read {
    /// The value of a key; `None` if the key does not exist.
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError>;

    /// Visits entries with `start <= key < end` in ascending order, or descending if `reverse`, until `visit`
    /// returns false. An `end` of `None` means to the end of the space. A range that is empty or turned round
    /// visits nothing. One scan sees one state, also while commits go on; `visit` may itself read.
    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError>;
}

/// An ordered key-value engine.
pub trait Engine: Read + Send + Sync + 'static {
    /// Applies the batch atomically and returns when it is on stable storage. Only the store's committer calls it.
    ///
    /// After an `Err` the engine refuses further commits with [`EngineError::Poisoned`], and may or may not have
    /// the batch after reopening. Reads go on. An empty batch is no work and returns `Ok` unless poisoned.
    fn commit(&self, batch: Batch) -> Result<(), EngineError>;

    /// A consistent view, for short reads: while it lives, what it sees cannot be cleaned up.
    fn snapshot(&self) -> Box<dyn Read + Send>;

    /// The engine's name, for logs.
    fn name(&self) -> &'static str;

    /// Writes out what the next opening would have to replay, as far as that is soon done. For a clean stop: nothing
    /// depends on it, and nothing may be committed afterwards, which may be refused. Reads go on.
    fn settle(&self) {}

    /// Octets that the engine occupies on its disk, roughly.
    fn disk_octets(&self) -> u64;
}

/// The smallest key greater than every key that begins with `prefix`; `None` if there is none, since the prefix is
/// empty or all 0xff. So `scan(space, prefix, prefix_end(prefix).as_deref(), ..)` visits exactly the prefix.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let (at, last) = prefix.iter().enumerate().rev().find(|(_, octet)| **octet != 0xff)?;
    let mut end = prefix.get(..at)?.to_vec();
    end.push(last + 1);
    Some(end)
}

/// What can go wrong in an engine or in opening one.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The disk or the operating system failed.
    #[error("the key-value engine's disk failed")]
    Io(#[source] io::Error),
    /// What is stored is damaged.
    #[error("the key-value engine's data is damaged: {detail}")]
    Corrupt {
        /// What was found, for the operator.
        detail: String,
    },
    /// An earlier commit failed, so nothing is committed until the engine is opened again.
    #[error("an earlier commit failed; the key-value engine must be opened again")]
    Poisoned,
    /// The disk or a quota is full.
    #[error("no space is left for the key-value engine")]
    NoSpace,
    /// Another process has the data open.
    #[error("the key-value engine's data is in use by another process")]
    Locked,
    /// The data was written by a newer version.
    #[error("the key-value engine's data has a newer format than this program knows: {detail}")]
    NewerFormat {
        /// What was found and what is known.
        detail: String,
    },
    /// A key is empty, which engines cannot store; nothing was changed and the engine is not poisoned.
    #[error("the key-value engine takes no empty key")]
    EmptyKey,
    /// A key or a value is larger than the engine takes; nothing was changed and the engine is not poisoned.
    #[error("a {what} of {octets} octets is more than the key-value engine takes ({octets_max})")]
    TooLarge {
        /// "key" or "value".
        what: &'static str,
        /// The size asked for.
        octets: usize,
        /// The largest size taken.
        octets_max: usize,
    },
}

impl From<io::Error> for EngineError {
    /// Sorts out the full disk; everything else is [`EngineError::Io`].
    fn from(error: io::Error) -> EngineError {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => EngineError::NoSpace,
            _ => EngineError::Io(error),
        }
    }
}

/// The largest key any engine takes, in octets.
pub const KEY_OCTETS_MAX: usize = 65_535;

/// The largest value any engine takes, in octets.
pub const VALUE_OCTETS_MAX: usize = 64 * 1024 * 1024;

/// Refuses what some engine could not store, so that all of them refuse the same.
pub(crate) fn check_sizes(batch: &Batch) -> Result<(), EngineError> {
    for op in &batch.ops {
        let (_, key) = op.target();
        if key.is_empty() {
            return Err(EngineError::EmptyKey);
        }
        if key.len() > KEY_OCTETS_MAX {
            return Err(EngineError::TooLarge { what: "key", octets: key.len(), octets_max: KEY_OCTETS_MAX });
        }
        if let Op::Put { value, .. } = op
            && value.len() > VALUE_OCTETS_MAX
        {
            return Err(EngineError::TooLarge {
                what: "value",
                octets: value.len(),
                octets_max: VALUE_OCTETS_MAX,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn spaces_and_their_indexes_agree() {
        for (at, space) in Space::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(space.index()), at);
            assert_eq!(Space::from_index(space.index()), Some(space));
        }
        assert_eq!(Space::from_index(12), None);
        let names: std::collections::BTreeSet<_> = Space::ALL.iter().map(|space| space.name()).collect();
        assert_eq!(names.len(), Space::ALL.len());
    }

    #[test]
    fn prefix_ends() {
        assert_eq!(prefix_end(b""), None);
        assert_eq!(prefix_end(&[0xff, 0xff]), None);
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[1, 0xff, 0xff]), Some(vec![2]));
        assert_eq!(prefix_end(&[0xfe, 0xff]), Some(vec![0xff]));
    }

    proptest! {
        #[test]
        fn a_key_lies_before_the_end_of_a_prefix_exactly_if_it_has_it(
            prefix in proptest::collection::vec(prop_oneof![Just(0u8), Just(0xfe), Just(0xff)], 0..4),
            key in proptest::collection::vec(prop_oneof![Just(0u8), Just(0xfe), Just(0xff)], 0..6),
        ) {
            let inside = key >= prefix && prefix_end(&prefix).is_none_or(|end| key < end);
            prop_assert_eq!(inside, key.starts_with(&prefix));
        }
    }
}
