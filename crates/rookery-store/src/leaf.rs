//! A run of a mailbox's messages: known by what is counted of it, and read when somebody looks at it.
//!
//! Invariants:
//! - A leaf never changes. What its chunk holds may leave the memory and come back: it is the same chunk, by its
//!   checksum, or it is an error.
//! - Who replaces a chunk on disk first gives the old one's messages to those who still look at it
//!   ([`Packed::keep`]), and keeps the new one's until they are durable.
//! - What is laid over a chunk belongs to messages that the chunk has; messages that no chunk has are [`Fresh`].

use crate::encoding::Damaged;
use crate::error::StoreError;
use crate::keys;
use crate::messages::Message;
use crate::records;
use parking_lot::Mutex;
use rookery_kv::engine::{Engine, Space};
use rookery_types::{MailboxId, SystemFlags, Uid};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// Octets that a leaf in memory costs beside its messages.
const LEAF_OCTETS: usize = 256;

/// What is counted of a run of messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    /// Messages.
    pub(crate) count: u32,
    /// Messages without \Seen.
    pub(crate) unseen: u32,
    /// Messages with \Deleted.
    pub(crate) deleted: u32,
    /// The place, from 0, of the first message without \Seen; 0 if there is none.
    pub(crate) first_unseen: u32,
    /// The last message's UID; 0 if there is none.
    pub(crate) last_uid: u32,
    /// The highest modseq of any; 0 if there is none.
    pub(crate) modseq: u64,
}

impl Counts {
    /// Counts one more message, which comes after those counted already.
    pub(crate) fn add(&mut self, message: &Message) {
        if !message.flags.contains(SystemFlags::SEEN) {
            if self.unseen == 0 {
                self.first_unseen = self.count;
            }
            self.unseen += 1;
        }
        self.deleted += u32::from(message.flags.contains(SystemFlags::DELETED));
        self.count += 1;
        self.last_uid = message.uid.get();
        self.modseq = self.modseq.max(message.modseq.get());
    }

    pub(crate) fn of<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Counts {
        let mut counts = Counts::default();
        messages.into_iter().for_each(|message| counts.add(message));
        counts
    }
}

/// What is known of a chunk without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ChunkSummary {
    /// The first message's UID, which is in the chunk's key.
    pub(crate) first: u32,
    /// The last message's UID.
    pub(crate) last: u32,
    /// Messages in the chunk, whatever is laid over it.
    pub(crate) packed: u32,
    /// The checksum at the chunk record's end.
    pub(crate) checksum: u32,
    /// What is counted of its messages, with all that is laid over it.
    pub(crate) counts: Counts,
}

/// Where chunks are read from, and what of them is in memory: one for each store.
pub(crate) struct Source {
    engine: Arc<dyn Engine>,
    octets_max: usize,
    resident: Mutex<Resident>,
}

#[derive(Default)]
struct Resident {
    octets: usize,
    /// In the order of loading; who was used meanwhile gets another turn.
    queue: VecDeque<(Weak<Packed>, usize)>,
}

impl Source {
    pub(crate) fn new(engine: Arc<dyn Engine>, octets_max: usize) -> Arc<Source> {
        Arc::new(Source { engine, octets_max, resident: Mutex::default() })
    }

    /// Counts a leaf in that has just come into memory, and takes others out until all fit.
    fn admit(&self, leaf: &Arc<Packed>, octets: usize) {
        let mut resident = self.resident.lock();
        resident.queue.push_back((Arc::downgrade(leaf), octets));
        resident.octets = resident.octets.saturating_add(octets);
        let mut turns = resident.queue.len().saturating_mul(2);
        while resident.octets > self.octets_max && turns > 0 {
            turns -= 1;
            let Some((weak, octets)) = resident.queue.pop_front() else { break };
            if let Some(leaf) = weak.upgrade()
                && leaf.used.swap(false, Ordering::Relaxed)
            {
                resident.queue.push_back((weak, octets));
                continue;
            }
            resident.octets = resident.octets.saturating_sub(octets);
            if let Some(leaf) = weak.upgrade() {
                let mut slot = leaf.slot.lock();
                slot.counted = false;
                if !slot.kept {
                    slot.messages = None;
                }
            }
        }
    }
}

/// Where a mailbox's chunks are read from.
#[derive(Clone)]
pub(crate) struct Home {
    pub(crate) source: Arc<Source>,
    pub(crate) mailbox: MailboxId,
}

#[derive(Default)]
struct Slot {
    messages: Option<Arc<Vec<Message>>>,
    /// They stay: the disk has another chunk by now, or has not this one yet.
    kept: bool,
    /// The source has counted them in.
    counted: bool,
}

/// The messages of a chunk.
pub(crate) struct Packed {
    pub(crate) summary: ChunkSummary,
    slot: Mutex<Slot>,
    used: AtomicBool,
}

impl Packed {
    pub(crate) fn new(summary: ChunkSummary) -> Arc<Packed> {
        Arc::new(Packed { summary, slot: Mutex::default(), used: AtomicBool::new(false) })
    }

    /// Whether every UID between the first and the last has its message.
    fn is_dense(&self) -> bool {
        self.summary.last - self.summary.first + 1 == self.summary.packed
    }

    /// Its messages, if they are in memory.
    pub(crate) fn resident(&self) -> Option<Arc<Vec<Message>>> {
        let messages = self.slot.lock().messages.clone();
        if messages.is_some() {
            self.used.store(true, Ordering::Relaxed);
        }
        messages
    }

    /// Its messages. Reads the disk if they are not in memory.
    pub(crate) fn messages(self: &Arc<Packed>, home: &Home) -> Result<Arc<Vec<Message>>, StoreError> {
        if let Some(messages) = self.resident() {
            return Ok(messages);
        }
        let first = Uid::new(self.summary.first).unwrap_or(Uid::FIRST);
        let key = keys::message(home.mailbox, first);
        let value = home.source.engine.get(Space::Chunk, &key)?;
        let value = value.filter(|value| records::checksum_of(value) == Some(self.summary.checksum));
        let Some(value) = value else {
            // Folding has put another in its place since we looked, and has kept this one's messages before.
            return self.resident().ok_or_else(|| damaged(&key, "it is not the one its summary tells of"));
        };
        let messages = records::decode_chunk(&key, &value).map_err(StoreError::Damaged)?;
        let last = messages.last().map_or(0, |message| message.uid.get());
        if (messages.len(), last) != (self.summary.packed as usize, self.summary.last) {
            return Err(damaged(&key, "its summary counts other messages"));
        }
        let octets = LEAF_OCTETS + messages.len() * std::mem::size_of::<Message>();
        let messages = Arc::new(messages);
        {
            let mut slot = self.slot.lock();
            if let Some(messages) = &slot.messages {
                return Ok(messages.clone());
            }
            slot.messages = Some(messages.clone());
            slot.counted = true;
        }
        home.source.admit(self, octets);
        Ok(messages)
    }

    /// Keeps its messages in memory, as the disk has them no more, or not yet.
    pub(crate) fn keep(&self, messages: Arc<Vec<Message>>) {
        let mut slot = self.slot.lock();
        slot.messages = Some(messages);
        slot.kept = true;
    }

    /// The disk has the chunk now: its messages may leave the memory.
    pub(crate) fn is_durable(self: &Arc<Packed>, source: &Source) {
        let octets = {
            let mut slot = self.slot.lock();
            slot.kept = false;
            match (&slot.messages, slot.counted) {
                (Some(messages), false) => {
                    let octets = LEAF_OCTETS + messages.len() * std::mem::size_of::<Message>();
                    slot.counted = true;
                    octets
                }
                _ => return,
            }
        };
        source.admit(self, octets);
    }
}

fn damaged(key: &[u8], what: &'static str) -> StoreError {
    StoreError::Damaged(Damaged { space: Space::Chunk, key: crate::encoding::hex(key), what })
}

/// The newest states of some messages of a chunk, ascending; `None`: it is expunged.
pub(crate) struct Over {
    pub(crate) entries: Vec<(Uid, Option<Message>)>,
    pub(crate) counts: Counts,
}

impl Over {
    fn get(&self, uid: Uid) -> Option<&Option<Message>> {
        let at = self.entries.binary_search_by_key(&uid, |(uid, _)| *uid).ok()?;
        self.entries.get(at).map(|(_, message)| message)
    }
}

/// Messages that no chunk has yet, in memory.
pub(crate) struct Fresh {
    pub(crate) messages: Arc<Vec<Message>>,
    pub(crate) counts: Counts,
}

/// A run of messages.
#[derive(Clone)]
pub(crate) enum Leaf {
    /// A chunk's, and what is laid over them.
    Packed(Arc<Packed>, Option<Arc<Over>>),
    /// Not packed yet.
    Fresh(Arc<Fresh>),
}

impl Leaf {
    pub(crate) fn fresh(messages: Vec<Message>) -> Leaf {
        let counts = Counts::of(&messages);
        Leaf::Fresh(Arc::new(Fresh { messages: Arc::new(messages), counts }))
    }

    pub(crate) fn counts(&self) -> &Counts {
        match self {
            Leaf::Packed(packed, None) => &packed.summary.counts,
            Leaf::Packed(_, Some(over)) => &over.counts,
            Leaf::Fresh(fresh) => &fresh.counts,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.counts().count as usize
    }

    /// The first UID that belongs here.
    pub(crate) fn first(&self) -> u32 {
        match self {
            Leaf::Packed(packed, _) => packed.summary.first,
            Leaf::Fresh(fresh) => fresh.messages.first().map_or(0, |message| message.uid.get()),
        }
    }

    /// The last UID that belongs here, whether its message is still there or not.
    pub(crate) fn end(&self) -> u32 {
        match self {
            Leaf::Packed(packed, _) => packed.summary.last,
            Leaf::Fresh(fresh) => fresh.counts.last_uid,
        }
    }

    /// What two leaves of the same chunk, or the very same fresh one, have in common.
    pub(crate) fn root(&self) -> usize {
        match self {
            Leaf::Packed(packed, _) => Arc::as_ptr(packed).addr(),
            Leaf::Fresh(fresh) => Arc::as_ptr(fresh).addr(),
        }
    }

    /// Whether both are the very same.
    pub(crate) fn same_as(&self, other: &Leaf) -> bool {
        match (self, other) {
            (Leaf::Packed(a, over_a), Leaf::Packed(b, over_b)) => {
                let over = match (over_a, over_b) {
                    (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                    (None, None) => true,
                    _ => false,
                };
                Arc::ptr_eq(a, b) && over
            }
            (Leaf::Fresh(a), Leaf::Fresh(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }

    /// Whether looking at its messages reads no disk.
    pub(crate) fn is_resident(&self) -> bool {
        match self {
            Leaf::Packed(packed, _) => packed.slot.lock().messages.is_some(),
            Leaf::Fresh(_) => true,
        }
    }

    /// Octets of memory that do not go when chunks leave it, about.
    pub(crate) fn octets(&self) -> usize {
        let each = std::mem::size_of::<Message>();
        match self {
            Leaf::Packed(_, None) => 128,
            Leaf::Packed(_, Some(over)) => 192 + over.entries.len() * (each + 8),
            Leaf::Fresh(fresh) => 128 + fresh.messages.len() * each,
        }
    }

    /// Its messages, one after the other.
    pub(crate) fn read(&self, home: Option<&Home>) -> Result<Run, StoreError> {
        Ok(match self {
            Leaf::Packed(packed, over) => Run::new(packed_messages(packed, home)?, over.clone()),
            Leaf::Fresh(fresh) => Run::new(fresh.messages.clone(), None),
        })
    }

    /// The message with a UID that belongs here.
    pub(crate) fn message(&self, uid: Uid, home: Option<&Home>) -> Result<Option<Message>, StoreError> {
        let in_memory = |messages: &[Message]| {
            let at = messages.binary_search_by_key(&uid, |message| message.uid).ok()?;
            messages.get(at).cloned()
        };
        match self {
            Leaf::Packed(packed, over) => match over.as_ref().and_then(|over| over.get(uid)) {
                Some(newest) => Ok(newest.clone()),
                None => Ok(in_memory(&packed_messages(packed, home)?)),
            },
            Leaf::Fresh(fresh) => Ok(in_memory(&fresh.messages)),
        }
    }

    /// The place, from 0, of the first message whose UID is `uid` or more; its length if there is none.
    pub(crate) fn place_of(&self, uid: u32, home: Option<&Home>) -> Result<usize, StoreError> {
        if uid > self.counts().last_uid {
            return Ok(self.len());
        }
        if uid <= self.first() {
            return Ok(0);
        }
        let before = |messages: &[Message]| messages.partition_point(|message| message.uid.get() < uid);
        let (packed, over) = match self {
            Leaf::Packed(packed, over) => (packed, over),
            Leaf::Fresh(fresh) => return Ok(before(&fresh.messages)),
        };
        let below = over.iter().flat_map(|over| &over.entries).take_while(|(entry, _)| entry.get() < uid);
        if packed.is_dense() {
            let place = (uid - packed.summary.first) as usize;
            return Ok(place.saturating_sub(below.filter(|(_, message)| message.is_none()).count()));
        }
        let chunk = packed_messages(packed, home)?;
        // Over a chunk that was folded may lie messages that it has no more, for those who still know them.
        let added = |uid: Uid| chunk.binary_search_by_key(&uid, |message| message.uid).is_err();
        let place = below.fold(before(&chunk), |place, (uid, message)| match message {
            None => place.saturating_sub(1),
            Some(_) if added(*uid) => place + 1,
            Some(_) => place,
        });
        Ok(place)
    }

    /// The UIDs, if they are known to follow one another without looking at the messages.
    pub(crate) fn uid_range(&self) -> Option<(u32, u32)> {
        match self {
            Leaf::Packed(packed, None) if packed.is_dense() => {
                Some((packed.summary.first, packed.summary.last))
            }
            _ => None,
        }
    }
}

fn packed_messages(packed: &Arc<Packed>, home: Option<&Home>) -> Result<Arc<Vec<Message>>, StoreError> {
    match home {
        Some(home) => packed.messages(home),
        None => packed.resident().ok_or(StoreError::CutOff),
    }
}

/// A chunk's messages with newer states laid over them. Ascending.
pub(crate) fn over_chunk(
    packed: &Arc<Packed>,
    over: Option<&Arc<Over>>,
    changes: &[(Uid, Option<Message>)],
    home: Option<&Home>,
) -> Result<Over, StoreError> {
    let chunk = packed_messages(packed, home)?;
    let has = |uid: Uid| chunk.binary_search_by_key(&uid, |message| message.uid).is_ok();
    let old = over.map_or(&[][..], |over| &over.entries[..]);
    let mut entries = Vec::with_capacity(old.len() + changes.len());
    let mut old = old.iter().peekable();
    for (uid, change) in changes {
        while let Some(entry) = old.next_if(|(known, _)| known < uid) {
            entries.push(entry.clone());
        }
        let _ = old.next_if(|(known, _)| known == uid);
        // Of a UID that the chunk does not have there is nothing to take out.
        if change.is_some() || has(*uid) {
            entries.push((*uid, change.clone()));
        }
    }
    entries.extend(old.cloned());
    let mut over = Over { entries, counts: Counts::default() };
    let mut counts = Counts::default();
    visit(&chunk, &over.entries, &mut |message| counts.add(message));
    over.counts = counts;
    Ok(over)
}

fn visit(chunk: &[Message], over: &[(Uid, Option<Message>)], each: &mut dyn FnMut(&Message)) {
    let mut chunk = chunk.iter().peekable();
    for (uid, newest) in over {
        while let Some(message) = chunk.next_if(|message| message.uid < *uid) {
            each(message);
        }
        let _ = chunk.next_if(|message| message.uid == *uid);
        newest.iter().for_each(&mut *each);
    }
    chunk.for_each(each);
}

/// A leaf's messages on their way out.
pub(crate) struct Run {
    chunk: Arc<Vec<Message>>,
    at: usize,
    over: Option<Arc<Over>>,
    over_at: usize,
}

impl Run {
    fn new(chunk: Arc<Vec<Message>>, over: Option<Arc<Over>>) -> Run {
        Run { chunk, at: 0, over, over_at: 0 }
    }

    /// Leaves some out.
    pub(crate) fn pass_over(&mut self, messages: usize) {
        match self.over {
            None => self.at = self.at.saturating_add(messages),
            Some(_) => (0..messages).for_each(|_| {
                let _ = self.advance();
            }),
        }
    }

    /// The next message, where it lies.
    pub(crate) fn advance(&mut self) -> Option<&Message> {
        let Some(over) = &self.over else {
            self.at += 1;
            return self.chunk.get(self.at - 1);
        };
        loop {
            let packed = self.chunk.get(self.at);
            let Some((uid, newest)) = over.entries.get(self.over_at) else {
                self.at += 1;
                return packed;
            };
            match packed {
                Some(message) if message.uid < *uid => {
                    self.at += 1;
                    return packed;
                }
                Some(message) if message.uid == *uid => self.at += 1,
                _ => {}
            }
            self.over_at += 1;
            if newest.is_some() {
                return newest.as_ref();
            }
        }
    }
}

impl Iterator for Run {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        self.advance().cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::Messages;
    use crate::messages::tests::message;
    use rookery_types::SystemFlags;

    #[test]
    fn what_a_folded_chunk_has_no_more_can_lie_over_it() {
        let messages: Vec<Message> =
            [2, 4, 6, 8].iter().map(|uid| message(*uid, 1, SystemFlags::NONE)).collect();
        let counts = Counts::of(&messages);
        let summary = ChunkSummary { first: 2, last: 8, packed: 4, checksum: 0, counts };
        let packed = Packed::new(summary);
        packed.keep(Arc::new(messages));
        let changes = [
            (Uid::new(3).unwrap(), Some(message(3, 1, SystemFlags::SEEN))),
            (Uid::new(4).unwrap(), None),
            (Uid::new(7).unwrap(), Some(message(7, 1, SystemFlags::NONE))),
        ];
        let over = over_chunk(&packed, None, &changes, None).unwrap();
        let leaf = Leaf::Packed(packed, Some(Arc::new(over)));
        let places: Vec<usize> = (1..10).map(|uid| leaf.place_of(uid, None).unwrap()).collect();
        assert_eq!(places, [0, 0, 1, 2, 2, 2, 3, 4, 5]);
        let known = Messages::from_leaves(None, vec![leaf.clone()]);
        assert_eq!(known.uids(0..5).unwrap().iter().collect::<Vec<_>>(), [2, 3, 6, 7, 8]);
        let Leaf::Packed(packed, _) = leaf else { unreachable!() };
        let newer = Messages::from_leaves(None, vec![Leaf::Packed(packed, None)]);
        let gone = known.difference(&newer).unwrap().gone;
        let gone: Vec<(u32, u32)> = gone.iter().map(|(seq, uid)| (seq.get(), uid.get())).collect();
        assert_eq!(gone, [(2, 3), (4, 7)]);
    }
}
