//! What one user has seen of a mailbox that is not theirs: an immutable value that stands beside the messages.
//!
//! Invariants:
//! - Of a UID that no run has, the user has not seen the message, and has never changed that.
//! - Every change of one message has a modseq above those of all changes before it, so a later value differs from an
//!   earlier one in the runs above the earlier one's modseq, and nowhere else.
//! - UIDs whose messages are gone may still stand in runs: nobody looks at them. The count leaves them out.
//! - Runs are kept in blocks of [`BLOCK_UIDS`] UIDs, one record each: reading one message of a large mailbox writes a
//!   small record.

use crate::encoding::{Damaged, Decoder, Encoder, open, seal};
use crate::error::StoreError;
use crate::keys;
use crate::messages::{Message, Messages};
use bytes::Bytes;
use rookery_kv::engine::Space;
use rookery_types::{ModSeq, SystemFlags, Uid, UidSet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// UIDs of which one record tells.
pub(crate) const BLOCK_UIDS: u32 = 1024;

/// UIDs that follow one another and were seen, or not, by one change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Run {
    pub(crate) first: u32,
    pub(crate) last: u32,
    pub(crate) seen: bool,
    /// The account's modseq at that change.
    pub(crate) modseq: u64,
}

/// The runs of one block, ascending.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Block {
    runs: Vec<Run>,
    /// The highest of any run.
    modseq: u64,
}

impl Block {
    fn new(runs: Vec<Run>) -> Block {
        let modseq = runs.iter().map(|run| run.modseq).max().unwrap_or(0);
        Block { runs, modseq }
    }

    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    pub(crate) fn encode(&self, key: &[u8]) -> Bytes {
        let mut e = Encoder::new(1);
        e.varint(self.runs.len() as u64);
        let mut end = keys::seen_block_of(key).map_or(0, |number| number.saturating_mul(BLOCK_UIDS));
        let mut modseq = 0u64;
        for run in &self.runs {
            let length = u64::from(run.last.saturating_sub(run.first));
            e.varint(run.first.saturating_sub(end).into()).varint(length << 1 | u64::from(run.seen));
            // Both are below 2^63.
            e.zigzag(run.modseq.wrapping_sub(modseq) as i64);
            (end, modseq) = (run.last, run.modseq);
        }
        seal(Space::Account, key, e)
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Block, Damaged> {
        open(Space::Account, key, value, |d| {
            d.layout(1)?;
            let first = keys::seen_block_of(key)?.checked_mul(BLOCK_UIDS)?;
            let end = first.checked_add(BLOCK_UIDS - 1)?;
            let count = d.count().filter(|count| *count > 0)?;
            let mut runs: Vec<Run> = Vec::with_capacity(count.min(BLOCK_UIDS as usize));
            for _ in 0..count {
                let run = decode_run(d, first, runs.last())?;
                runs.push(run);
            }
            (runs.last()?.last <= end).then(|| Block::new(runs))
        })
    }
}

fn decode_run(d: &mut Decoder<'_>, begin: u32, before: Option<&Run>) -> Option<Run> {
    let gap = d.varint32()?;
    let first = before.map_or(begin, |run| run.last).checked_add(gap)?;
    if first == 0 || before.is_some_and(|run| first <= run.last) {
        return None;
    }
    let length = d.varint()?;
    let last = first.checked_add(u32::try_from(length >> 1).ok()?)?;
    let modseq = i64::try_from(before.map_or(0, |run| run.modseq)).ok()?.checked_add(d.zigzag()?)?;
    let modseq = ModSeq::new(u64::try_from(modseq).ok()?)?.get();
    Some(Run { first, last, seen: length & 1 == 1, modseq })
}

/// What is counted of all that a user has seen of a mailbox.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Head {
    /// The account's modseq at the user's last change here; never falls.
    pub(crate) modseq: u64,
    /// Messages that are there and that the user has seen, at that modseq; `None`: it has to be counted.
    pub(crate) count: Option<u32>,
    /// Blocks there are, so that the loss of one is found.
    pub(crate) blocks: u32,
}

impl Head {
    pub(crate) fn encode(&self, key: &[u8]) -> Bytes {
        let mut e = Encoder::new(1);
        e.varint(self.modseq).varint(self.count.map_or(0, |count| u64::from(count) + 1));
        e.varint(self.blocks.into());
        seal(Space::Account, key, e)
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Head, Damaged> {
        open(Space::Account, key, value, |d| {
            d.layout(1)?;
            let modseq = ModSeq::new(d.varint()?)?.get();
            let count = match d.varint()?.checked_sub(1) {
                Some(count) => Some(u32::try_from(count).ok()?),
                None => None,
            };
            Some(Head { modseq, count, blocks: d.varint32()? })
        })
    }
}

/// What one user has seen of one mailbox at one moment. Cloning costs a pointer.
#[derive(Clone, Debug)]
pub(crate) struct SeenBy {
    blocks: Arc<BTreeMap<u32, Arc<Block>>>,
    head: Head,
}

impl Default for SeenBy {
    /// Nothing yet.
    fn default() -> SeenBy {
        SeenBy { blocks: Arc::default(), head: Head { count: Some(0), ..Head::default() } }
    }
}

impl SeenBy {
    pub(crate) fn new(head: Head, blocks: BTreeMap<u32, Arc<Block>>) -> SeenBy {
        SeenBy { blocks: Arc::new(blocks), head }
    }

    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// The account's modseq at the user's last change here; 0 if there was none.
    pub(crate) fn modseq(&self) -> u64 {
        self.head.modseq
    }

    pub(crate) fn block(&self, number: u32) -> Option<&Block> {
        self.blocks.get(&number).map(|block| &**block)
    }

    /// Whether both say the same of every message.
    pub(crate) fn same_as(&self, other: &SeenBy) -> bool {
        Arc::ptr_eq(&self.blocks, &other.blocks)
    }

    fn run_of(&self, uid: u32) -> Option<&Run> {
        let runs = &self.blocks.get(&(uid / BLOCK_UIDS))?.runs;
        let at = runs.partition_point(|run| run.last < uid);
        runs.get(at).filter(|run| run.first <= uid)
    }

    /// The message as the user sees it.
    pub(crate) fn show(&self, mut message: Message) -> Message {
        let flags = message.flags.without(SystemFlags::SEEN);
        message.flags = match self.run_of(message.uid.get()) {
            Some(run) => {
                message.modseq =
                    ModSeq::new(run.modseq).map_or(message.modseq, |own| own.max(message.modseq));
                if run.seen { flags | SystemFlags::SEEN } else { flags }
            }
            None => flags,
        };
        message
    }

    /// Whether something about UIDs between two has changed after a modseq. May say so of neighbours' changes.
    pub(crate) fn has_newer(&self, first: u32, last: u32, since: u64) -> bool {
        let blocks = first / BLOCK_UIDS..=last.max(first) / BLOCK_UIDS;
        self.head.modseq > since && self.blocks.range(blocks).any(|(_, block)| block.modseq > since)
    }

    /// The numbers of its blocks.
    pub(crate) fn numbers(&self) -> BTreeSet<u32> {
        self.blocks.keys().copied().collect()
    }

    /// The same, as of a change at a modseq.
    pub(crate) fn at(self, modseq: u64) -> SeenBy {
        SeenBy { head: Head { modseq, ..self.head }, ..self }
    }

    /// The UIDs that are seen, and those about which something is known; some may be gone.
    pub(crate) fn seen_and_known(&self) -> (UidSet, UidSet) {
        let (mut seen, mut known) = (UidSet::new(), UidSet::new());
        for run in self.blocks.values().flat_map(|block| &block.runs) {
            known.insert_range(run.first, run.last);
            if run.seen {
                seen.insert_range(run.first, run.last);
            }
        }
        (seen, known)
    }

    /// What was seen up to a modseq, as far as `told` and what has not changed since say: messages as the user was shown
    /// them, ascending.
    pub(crate) fn as_told<'a>(&self, modseq: u64, told: impl Iterator<Item = &'a Message>) -> SeenBy {
        let mut known: BTreeMap<u32, Vec<Run>> = BTreeMap::new();
        for message in told {
            let uid = message.uid.get();
            let seen = message.flags.contains(SystemFlags::SEEN);
            let run = Run { first: uid, last: uid, seen, modseq: message.modseq.get() };
            known.entry(uid / BLOCK_UIDS).or_default().push(run);
        }
        let mut blocks = (*self.blocks).clone();
        let newer = self.blocks.iter().filter(|(_, block)| block.modseq > modseq).map(|(number, _)| *number);
        let touched: BTreeSet<u32> = newer.chain(known.keys().copied()).collect();
        for number in touched {
            let told = known.remove(&number).unwrap_or_default();
            let uids: UidSet = told.iter().map(|run| run.first).collect();
            let mut runs = told;
            let old = blocks.get(&number).map(|block| block.runs.clone()).unwrap_or_default();
            for run in old.into_iter().filter(|run| run.modseq <= modseq) {
                let left = UidSet::range(run.first, run.last).difference(&uids);
                runs.extend(left.ranges().map(|(first, last)| Run { first, last, ..run }));
            }
            runs.sort_unstable_by_key(|run| run.first);
            match runs.is_empty() {
                true => blocks.remove(&number),
                false => blocks.insert(number, Arc::new(Block::new(runs))),
            };
        }
        SeenBy { blocks: Arc::new(blocks), head: Head { modseq, count: None, ..self.head } }
    }

    /// The UIDs of which something has changed after a modseq.
    pub(crate) fn since(&self, modseq: u64) -> UidSet {
        let mut uids = UidSet::new();
        for block in self.blocks.values().filter(|block| block.modseq > modseq) {
            for run in block.runs.iter().filter(|run| run.modseq > modseq) {
                uids.insert_range(run.first, run.last);
            }
        }
        uids
    }

    fn runs_between(&self, first: u32, last: u32) -> impl Iterator<Item = &Run> {
        let blocks = self.blocks.range(first / BLOCK_UIDS..=last.max(first) / BLOCK_UIDS);
        blocks.flat_map(move |(_, block)| {
            let from = block.runs.partition_point(|run| run.last < first);
            block.runs.get(from..).unwrap_or(&[]).iter().take_while(move |run| run.first <= last)
        })
    }

    /// How many of these UIDs are seen.
    pub(crate) fn count_of(&self, uids: &UidSet) -> u32 {
        let mut count = 0u32;
        for (first, last) in uids.ranges() {
            for run in self.runs_between(first, last).filter(|run| run.seen) {
                count = count.saturating_add(run.last.min(last) - run.first.max(first) + 1);
            }
        }
        count
    }

    /// The last UID of those that follow `uid` without a gap and are all seen; `None` if it is not seen itself.
    pub(crate) fn seen_up_to(&self, uid: u32) -> Option<u32> {
        let mut end = None;
        for run in self.runs_between(uid, u32::MAX) {
            let next = end.map_or(uid, |end: u32| end.saturating_add(1));
            if !run.seen || run.first > next {
                break;
            }
            end = Some(run.last);
        }
        end
    }

    /// Counts the messages that are there and seen. May read the disk.
    pub(crate) fn counted(&self, messages: &Messages) -> Result<SeenBy, StoreError> {
        let mut count = 0;
        let mut next = 1;
        while let Some(run) = self.runs_between(next, u32::MAX).find(|run| run.seen) {
            let first = run.first.max(next);
            let last = self.seen_up_to(first).unwrap_or(run.last);
            let Some(behind) = last.checked_add(1) else { break };
            count += messages.place_of(behind)? - messages.place_of(first)?;
            next = behind;
        }
        Ok(self.clone().recounted(Some(u32::try_from(count).unwrap_or(u32::MAX))))
    }

    /// The same where nobody knows what has gone meanwhile.
    pub(crate) fn uncounted(self) -> SeenBy {
        self.recounted(None)
    }

    /// With another count.
    pub(crate) fn recounted(self, count: Option<u32>) -> SeenBy {
        SeenBy { head: Head { count, ..self.head }, ..self }
    }

    /// After messages have gone.
    pub(crate) fn without(&self, gone: &UidSet) -> SeenBy {
        let less = |count: u32| count.saturating_sub(self.count_of(gone));
        self.clone().recounted(self.head.count.map(less))
    }

    /// With some messages seen and some others not any more, none of which was so before, as from a modseq on. Also
    /// says which blocks differ.
    pub(crate) fn marked(&self, seen: &UidSet, unseen: &UidSet, modseq: u64) -> (SeenBy, BTreeSet<u32>) {
        let mut blocks = BTreeMap::clone(&self.blocks);
        let mut touched = BTreeSet::new();
        for (uids, seen) in [(seen, true), (unseen, false)] {
            for (mut first, end) in uids.ranges() {
                loop {
                    let number = first / BLOCK_UIDS;
                    let last = end.min(number * BLOCK_UIDS + (BLOCK_UIDS - 1));
                    let old = blocks.get(&number).map_or(&[][..], |block| &block.runs);
                    let new = with_run(old, Run { first, last, seen, modseq });
                    blocks.insert(number, Arc::new(Block::new(new)));
                    touched.insert(number);
                    match last.checked_add(1).filter(|next| *next <= end) {
                        Some(next) => first = next,
                        None => break,
                    }
                }
            }
        }
        let len = |uids: &UidSet| u32::try_from(uids.len()).unwrap_or(u32::MAX);
        let count = self.head.count.map(|count| count.saturating_add(len(seen)).saturating_sub(len(unseen)));
        let head = Head { modseq, count, blocks: u32::try_from(blocks.len()).unwrap_or(u32::MAX) };
        (SeenBy { blocks: Arc::new(blocks), head }, touched)
    }

    /// Drops what speaks of gone messages alone: in blocks that are written anyway, and before the first message.
    /// Adds the blocks that go to `touched`. May read the disk.
    pub(crate) fn pruned(
        self,
        messages: &Messages,
        touched: &mut BTreeSet<u32>,
    ) -> Result<SeenBy, StoreError> {
        let SeenBy { mut blocks, mut head } = self;
        let kept = Arc::make_mut(&mut blocks);
        let begin = messages.begin() / BLOCK_UIDS;
        touched.extend(kept.keys().take_while(|number| **number < begin));
        for number in touched.iter() {
            let Some(block) = kept.get(number) else { continue };
            let mut runs = Vec::with_capacity(block.runs.len());
            for run in &block.runs {
                let behind = run.last.saturating_add(1);
                if *number >= begin && messages.place_of(run.first)? < messages.place_of(behind)? {
                    runs.push(*run);
                }
            }
            match runs.is_empty() {
                true => drop(kept.remove(number)),
                false => drop(kept.insert(*number, Arc::new(Block::new(runs)))),
            }
        }
        head.blocks = u32::try_from(kept.len()).unwrap_or(u32::MAX);
        Ok(SeenBy { blocks, head })
    }
}

/// Runs with one laid over them.
fn with_run(old: &[Run], new: Run) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::with_capacity(old.len() + 2);
    let mut push = |run: Run| match runs.last_mut() {
        Some(last) if last.last + 1 == run.first && (last.seen, last.modseq) == (run.seen, run.modseq) => {
            last.last = run.last;
        }
        _ => runs.push(run),
    };
    let (before, after) = old.split_at(old.partition_point(|run| run.first < new.first));
    for run in before {
        push(Run { last: run.last.min(new.first - 1), ..*run });
    }
    push(new);
    // What the new one was laid into the middle of goes on behind it.
    for run in before.last().into_iter().chain(after).filter(|run| run.last > new.last) {
        push(Run { first: run.first.max(new.last + 1), ..*run });
    }
    runs
}

/// A message that both versions have, and its user's view of it.
pub(crate) fn shown(seen: Option<&SeenBy>, message: Message) -> Message {
    match seen {
        Some(seen) => seen.show(message),
        None => message,
    }
}

/// Whether a message is seen by a user, as their records have it.
pub(crate) fn is_seen(blocks: &BTreeMap<u32, Block>, uid: Uid) -> bool {
    let runs = blocks.get(&(uid.get() / BLOCK_UIDS)).map_or(&[][..], |block| &block.runs);
    let at = runs.partition_point(|run| run.last < uid.get());
    runs.get(at).is_some_and(|run| run.first <= uid.get() && run.seen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messages::KeywordNumbers;
    use proptest::prelude::*;
    use rookery_types::{AccountId, ContentId, InternalDate, MailboxId, UserName};

    fn message(uid: u32) -> Message {
        Message {
            uid: Uid::new(uid).unwrap(),
            size: 1,
            modseq: ModSeq::new(7).unwrap(),
            date: InternalDate::from_unix(0),
            saved_unix_seconds: 0,
            flags: SystemFlags::SEEN | SystemFlags::FLAGGED,
            keywords: KeywordNumbers::default(),
            content: ContentId([0; 16]),
        }
    }

    fn key(number: u32) -> Vec<u8> {
        let id = MailboxId { account: AccountId::FIRST, number: 3 };
        keys::seen_block(id, &UserName::parse("joe@example.org", "").unwrap(), number)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        /// Random changes against a map of single UIDs; the octets on disk bring back the same.
        #[test]
        fn it_agrees_with_a_map(
            steps in proptest::collection::vec((1u32..5_000, 0u32..1_500, any::<bool>()), 1..25),
            gone in proptest::collection::btree_set(1u32..5_000, 0..2_000),
        ) {
            let exists: Vec<u32> = (1..7_000).filter(|uid| !gone.contains(uid)).collect();
            let messages = Messages::from_sorted(exists.iter().map(|uid| message(*uid)));
            let mut model: BTreeMap<u32, (bool, u64)> = BTreeMap::new();
            let mut by = SeenBy::default();
            let mut modseq = 10;
            for (first, length, seen) in steps {
                let before = (by.clone(), modseq);
                modseq += 3;
                let is = |uid: &u32| model.get(uid).is_some_and(|(seen, _)| *seen);
                let change: Vec<u32> = exists.iter().copied()
                    .filter(|uid| (first..=first + length).contains(uid) && is(uid) != seen).collect();
                let uids: UidSet = change.iter().copied().collect();
                let none = UidSet::new();
                let (marked, mut touched) = match seen {
                    true => by.marked(&uids, &none, modseq),
                    false => by.marked(&none, &uids, modseq),
                };
                by = marked.pruned(&messages, &mut touched).unwrap();
                model.extend(change.iter().map(|uid| (*uid, (seen, modseq))));
                prop_assert_eq!(by.since(before.1), uids.clone());
                let old: Vec<Message> = change.iter().map(|uid| before.0.show(message(*uid))).collect();
                let told = by.as_told(before.1, old.iter());
                for uid in &exists {
                    prop_assert_eq!(told.show(message(*uid)), before.0.show(message(*uid)));
                }
                prop_assert_eq!(by.same_as(&before.0), false);
                let blocks = by.blocks.iter().map(|(number, block)| {
                    let value = block.encode(&key(*number));
                    let again = Block::decode(&key(*number), &value).unwrap();
                    assert_eq!(&again, &**block);
                    (*number, again)
                });
                let blocks: BTreeMap<u32, Block> = blocks.collect();
                prop_assert_eq!(by.head().blocks as usize, blocks.len());
                for uid in &exists {
                    let shown = by.show(message(*uid));
                    let (seen, own) = model.get(uid).copied().unwrap_or((false, 0));
                    prop_assert_eq!(shown.flags.contains(SystemFlags::SEEN), seen);
                    prop_assert!(shown.flags.contains(SystemFlags::FLAGGED));
                    prop_assert_eq!(shown.modseq.get(), own.max(7));
                    prop_assert_eq!(is_seen(&blocks, shown.uid), seen);
                    prop_assert!(own <= before.1 || by.has_newer(*uid, *uid, before.1));
                }
                let count = model.values().filter(|(seen, _)| *seen).count();
                prop_assert_eq!(by.head().count, Some(count as u32));
                prop_assert_eq!(by.counted(&messages).unwrap().head(), by.head());
                let unseen = exists.iter().position(|uid| !model.get(uid).is_some_and(|(seen, _)| *seen));
                let personal = messages.seen_by(by.clone());
                let first_unseen = personal.first_unseen().unwrap().map(|seq| seq.get() as usize - 1);
                prop_assert_eq!(first_unseen, unseen);
                let gone: UidSet = exists.iter().copied().step_by(3).collect();
                let left = model.iter().filter(|(uid, (seen, _))| *seen && !gone.contains(**uid)).count();
                prop_assert_eq!(by.without(&gone).head().count, Some(left as u32));
            }
        }
    }

    #[test]
    fn what_is_seen_in_a_row_takes_no_room() {
        let all = UidSet::range(1, 1_000_000);
        let (by, touched) = SeenBy::default().marked(&all, &UidSet::new(), 5);
        let octets: usize =
            touched.iter().map(|number| by.block(*number).unwrap().encode(&key(*number)).len()).sum();
        assert_eq!(touched.len(), 977);
        assert!(octets < 12_000, "{octets}");
        // One after the other, each with a modseq of its own: what the reading of one more message writes.
        let mut by = SeenBy::default();
        for uid in 1..BLOCK_UIDS {
            by = by.marked(&UidSet::range(uid, uid), &UidSet::new(), u64::from(uid) + 5).0;
        }
        let octets = by.block(0).unwrap().encode(&key(0)).len();
        assert!(octets < 3_200, "{octets}");
    }
}
