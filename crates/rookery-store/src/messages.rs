//! The messages of one mailbox at one moment: an immutable value that sessions share.
//!
//! Invariants:
//! - Messages stand in ascending order of UID; a [`Messages`] never changes once built.
//! - A change copies one leaf of at most [`LEAF_MESSAGES`] and the paths to it; all other leaves are shared,
//!   so two versions of a mailbox differ only where their leaves are different pointers.
//! - Counts are kept per leaf, so the first unseen message or a sequence number is found without a scan.

use rookery_types::{ContentId, InternalDate, ModSeq, SeqNum, SystemFlags, Uid};
use std::collections::HashSet;
use std::sync::Arc;

/// Messages in a full leaf: what one changed message costs to copy.
const LEAF_MESSAGES: usize = 256;
/// Leaves in a full branch.
const BRANCH_LEAVES: usize = 64;

/// The keywords of one message: numbers into the mailbox's keyword table, ascending. Most messages have none
/// and cost nothing.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct KeywordNumbers(Option<Arc<Vec<u16>>>);

impl KeywordNumbers {
    /// Sorted and freed of doubles.
    pub fn new(mut numbers: Vec<u16>) -> KeywordNumbers {
        numbers.sort_unstable();
        numbers.dedup();
        KeywordNumbers((!numbers.is_empty()).then(|| Arc::new(numbers)))
    }

    /// The numbers, ascending.
    pub fn as_slice(&self) -> &[u16] {
        self.0.as_ref().map_or(&[], |numbers| numbers.as_slice())
    }

    /// Whether the message has the keyword.
    pub fn contains(&self, number: u16) -> bool {
        self.as_slice().binary_search(&number).is_ok()
    }
}

/// One message of a mailbox, with all that is asked of many messages at once.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Its UID in this mailbox.
    pub uid: Uid,
    /// Octets, as RFC822.SIZE counts them.
    pub size: u32,
    /// The account's modseq at its last change.
    pub modseq: ModSeq,
    /// INTERNALDATE.
    pub date: InternalDate,
    /// When it came into this mailbox, seconds since 1970 (RFC 8514).
    pub saved_unix_seconds: u32,
    /// System flags.
    pub flags: SystemFlags,
    /// Keywords, by number.
    pub keywords: KeywordNumbers,
    /// What its octets are.
    pub content: ContentId,
}

#[derive(Clone, Debug)]
struct Leaf {
    messages: Vec<Message>,
    unseen: u32,
}

impl Leaf {
    fn new(messages: Vec<Message>) -> Leaf {
        let unseen = messages.iter().filter(|m| !m.flags.contains(SystemFlags::SEEN)).count();
        Leaf { unseen: u32::try_from(unseen).unwrap_or(u32::MAX), messages }
    }

    fn last_uid(&self) -> u32 {
        self.messages.last().map_or(0, |m| m.uid.get())
    }
}

#[derive(Clone, Debug, Default)]
struct Branch {
    leaves: Vec<Arc<Leaf>>,
    count: usize,
    unseen: u64,
    last_uid: u32,
}

impl Branch {
    fn new(leaves: Vec<Arc<Leaf>>) -> Branch {
        Branch {
            count: leaves.iter().map(|leaf| leaf.messages.len()).sum(),
            unseen: leaves.iter().map(|leaf| u64::from(leaf.unseen)).sum(),
            last_uid: leaves.last().map_or(0, |leaf| leaf.last_uid()),
            leaves,
        }
    }
}

/// All messages of a mailbox at one moment. Cloning costs a pointer.
#[derive(Clone, Debug, Default)]
pub struct Messages(Arc<Root>);

#[derive(Clone, Debug, Default)]
struct Root {
    branches: Vec<Arc<Branch>>,
    count: usize,
}

/// What differs between two versions of a mailbox, older to newer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Sequence numbers *in the older version* of messages that are gone, ascending, with their UIDs.
    pub gone: Vec<(SeqNum, Uid)>,
    /// Messages in both whose modseq differs, as the newer has them, ascending.
    pub changed: Vec<Message>,
    /// How many messages the newer has above the older's last UID.
    pub arrived: usize,
}

impl Difference {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.gone.is_empty() && self.changed.is_empty() && self.arrived == 0
    }
}

impl Messages {
    /// From messages in ascending order of UID.
    pub fn from_sorted(messages: impl IntoIterator<Item = Message>) -> Messages {
        let mut leaves = Vec::new();
        let mut leaf = Vec::new();
        for message in messages {
            leaf.push(message);
            if leaf.len() == LEAF_MESSAGES {
                leaves.push(Arc::new(Leaf::new(std::mem::take(&mut leaf))));
            }
        }
        if !leaf.is_empty() {
            leaves.push(Arc::new(Leaf::new(leaf)));
        }
        let branches = leaves.chunks(BRANCH_LEAVES).map(|some| Arc::new(Branch::new(some.to_vec())));
        Messages::from_branches(branches.collect())
    }

    fn from_branches(branches: Vec<Arc<Branch>>) -> Messages {
        let count = branches.iter().map(|branch| branch.count).sum();
        Messages(Arc::new(Root { branches, count }))
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.0.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.count == 0
    }

    /// Whether both are the very same version.
    pub fn same_as(&self, other: &Messages) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// The message at a place, from 0.
    pub fn get(&self, mut place: usize) -> Option<&Message> {
        for branch in &self.0.branches {
            if place < branch.count {
                for leaf in &branch.leaves {
                    if let Some(message) = leaf.messages.get(place) {
                        return Some(message);
                    }
                    place -= leaf.messages.len();
                }
            }
            place = place.checked_sub(branch.count)?;
        }
        None
    }

    /// The message with a sequence number.
    pub fn by_seq(&self, seq: SeqNum) -> Option<&Message> {
        self.get(seq.get() as usize - 1)
    }

    /// The last message.
    pub fn last(&self) -> Option<&Message> {
        self.0.branches.last()?.leaves.last()?.messages.last()
    }

    /// The place, from 0, of the first message whose UID is `uid` or more; `len()` if there is none.
    pub fn place_of(&self, uid: u32) -> usize {
        let mut place = 0;
        for branch in &self.0.branches {
            if branch.last_uid < uid {
                place += branch.count;
                continue;
            }
            for leaf in &branch.leaves {
                if leaf.last_uid() < uid {
                    place += leaf.messages.len();
                    continue;
                }
                return place + leaf.messages.partition_point(|m| m.uid.get() < uid);
            }
        }
        place
    }

    /// The message with a UID, and its sequence number.
    pub fn by_uid(&self, uid: Uid) -> Option<(SeqNum, &Message)> {
        let place = self.place_of(uid.get());
        let message = self.get(place).filter(|message| message.uid == uid)?;
        Some((seq_at(place)?, message))
    }

    /// The sequence number of the first message without \Seen.
    pub fn first_unseen(&self) -> Option<SeqNum> {
        let mut place = 0;
        for branch in &self.0.branches {
            if branch.unseen == 0 {
                place += branch.count;
                continue;
            }
            for leaf in &branch.leaves {
                let at = leaf.messages.iter().position(|m| !m.flags.contains(SystemFlags::SEEN));
                match at {
                    Some(at) => return seq_at(place + at),
                    None => place += leaf.messages.len(),
                }
            }
        }
        None
    }

    /// All messages with their sequence numbers, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (SeqNum, &Message)> {
        self.iter_from(0)
    }

    /// The messages from a place (from 0) on, with their sequence numbers.
    pub fn iter_from(&self, place: usize) -> impl Iterator<Item = (SeqNum, &Message)> {
        let mut skip = place;
        let mut first = 0;
        while let Some(branch) = self.0.branches.get(first).filter(|branch| skip >= branch.count) {
            skip -= branch.count;
            first += 1;
        }
        let branches = self.0.branches.get(first..).unwrap_or(&[]);
        let leaves = branches.iter().flat_map(|branch| branch.leaves.iter());
        let messages = leaves.flat_map(move |leaf| {
            // Only within the first branch is there anything to skip.
            let here = skip.min(leaf.messages.len());
            skip -= here;
            leaf.messages.get(here..).unwrap_or(&[])
        });
        messages.enumerate().filter_map(move |(i, m)| Some((seq_at(place + i)?, m)))
    }

    /// With the messages of `changes` (ascending by UID): a message in place of the one with its UID, or
    /// added; `None` takes the UID out.
    #[must_use]
    pub fn with(&self, changes: &[(Uid, Option<Message>)]) -> Messages {
        let mut branches = Vec::with_capacity(self.0.branches.len() + 1);
        let mut rest = changes;
        for (i, branch) in self.0.branches.iter().enumerate() {
            let last = i + 1 == self.0.branches.len();
            let here =
                if last { rest.len() } else { rest.partition_point(|(uid, _)| uid.get() <= branch.last_uid) };
            let (here, after) = rest.split_at(here);
            rest = after;
            if here.is_empty() {
                branches.push(branch.clone());
                continue;
            }
            let leaves = change_leaves(&branch.leaves, here);
            for some in leaves.chunks(BRANCH_LEAVES) {
                branches.push(Arc::new(Branch::new(some.to_vec())));
            }
        }
        if !rest.is_empty() {
            return Messages::from_sorted(rest.iter().filter_map(|(_, message)| message.clone()));
        }
        Messages::from_branches(branches)
    }

    /// What a session that knows `self` has to hear to know `newer`. Costs in proportion to the leaves that
    /// differ.
    pub fn difference(&self, newer: &Messages) -> Difference {
        let mut difference = Difference::default();
        if self.same_as(newer) {
            return difference;
        }
        let last_known = self.last().map_or(0, |m| m.uid.get());
        let known = newer.place_of(last_known.saturating_add(1));
        difference.arrived = newer.len() - known;
        // Branches that both share at their ends cannot differ, nor can leaves that both share between them;
        // what is left of each side is compared message by message.
        let (old, new) = (&self.0.branches, &newer.0.branches);
        let front = old.iter().zip(new).take_while(|(a, b)| Arc::ptr_eq(a, b)).count();
        let room = old.len().min(new.len()) - front;
        let back =
            old.iter().rev().zip(new.iter().rev()).take(room).take_while(|(a, b)| Arc::ptr_eq(a, b)).count();
        let old_leaves = || self.leaves(front..old.len() - back);
        let new_leaves = || newer.leaves(front..new.len() - back);
        let shared: HashSet<*const Leaf> = {
            let old: HashSet<*const Leaf> = old_leaves().map(|(_, leaf)| Arc::as_ptr(leaf)).collect();
            new_leaves().map(|(_, leaf)| Arc::as_ptr(leaf)).filter(|leaf| old.contains(leaf)).collect()
        };
        let mut fresh = new_leaves()
            .filter(|(_, leaf)| !shared.contains(&Arc::as_ptr(leaf)))
            .flat_map(|(_, leaf)| leaf.messages.iter())
            .take_while(|m| m.uid.get() <= last_known)
            .peekable();
        for (place, leaf) in old_leaves().filter(|(_, leaf)| !shared.contains(&Arc::as_ptr(leaf))) {
            for (i, old) in leaf.messages.iter().enumerate() {
                while fresh.next_if(|m| m.uid < old.uid).is_some() {}
                match fresh.next_if(|m| m.uid == old.uid) {
                    Some(new) if new.modseq != old.modseq => difference.changed.push(new.clone()),
                    Some(_) => {}
                    None => difference.gone.extend(seq_at(place + i).map(|seq| (seq, old.uid))),
                }
            }
        }
        difference
    }

    /// The leaves of some branches, each with the place of its first message.
    fn leaves(&self, branches: std::ops::Range<usize>) -> impl Iterator<Item = (usize, &Arc<Leaf>)> {
        let before = self.0.branches.get(..branches.start).unwrap_or(&[]);
        let mut place = before.iter().map(|branch| branch.count).sum();
        self.0.branches.get(branches).unwrap_or(&[]).iter().flat_map(|branch| branch.leaves.iter()).map(
            move |leaf| {
                let here = place;
                place += leaf.messages.len();
                (here, leaf)
            },
        )
    }

    /// Octets of memory, about.
    pub fn octets(&self) -> usize {
        self.len() * std::mem::size_of::<Message>() + self.0.branches.len() * 64 * 8
    }
}

fn seq_at(place: usize) -> Option<SeqNum> {
    SeqNum::new(u32::try_from(place).ok()?.checked_add(1)?)
}

/// `changes` all belong to these leaves: each to the first leaf whose last UID is not below it, or to the last.
fn change_leaves(leaves: &[Arc<Leaf>], changes: &[(Uid, Option<Message>)]) -> Vec<Arc<Leaf>> {
    let mut out = Vec::with_capacity(leaves.len() + 1);
    let mut rest = changes;
    for (i, leaf) in leaves.iter().enumerate() {
        let last = i + 1 == leaves.len();
        let here =
            if last { rest.len() } else { rest.partition_point(|(uid, _)| uid.get() <= leaf.last_uid()) };
        let (here, after) = rest.split_at(here);
        rest = after;
        if here.is_empty() {
            out.push(leaf.clone());
            continue;
        }
        let merged = merge(&leaf.messages, here);
        for some in merged.chunks(LEAF_MESSAGES) {
            out.push(Arc::new(Leaf::new(some.to_vec())));
        }
    }
    out
}

fn merge(messages: &[Message], changes: &[(Uid, Option<Message>)]) -> Vec<Message> {
    let mut out = Vec::with_capacity(messages.len() + changes.len());
    let mut old = messages.iter().peekable();
    for (uid, change) in changes {
        while let Some(message) = old.next_if(|m| m.uid < *uid) {
            out.push(message.clone());
        }
        let _ = old.next_if(|m| m.uid == *uid);
        out.extend(change.clone());
    }
    out.extend(old.cloned());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    pub(crate) fn message(uid: u32, modseq: u64, flags: SystemFlags) -> Message {
        Message {
            uid: Uid::new(uid).unwrap(),
            size: uid * 3,
            modseq: ModSeq::new(modseq).unwrap(),
            date: InternalDate::from_unix(0),
            saved_unix_seconds: 0,
            flags,
            keywords: KeywordNumbers::default(),
            content: ContentId([0; 16]),
        }
    }

    type Model = BTreeMap<u32, Message>;

    fn check(messages: &Messages, model: &Model) {
        let all: Vec<_> = messages.iter().map(|(seq, m)| (seq.get(), m.clone())).collect();
        let wanted: Vec<_> = model.values().cloned().enumerate().map(|(i, m)| (i as u32 + 1, m)).collect();
        assert_eq!(all, wanted);
        assert_eq!(messages.len(), model.len());
        let unseen = model.values().position(|m| !m.flags.contains(SystemFlags::SEEN)).map(|i| i as u32 + 1);
        assert_eq!(messages.first_unseen().map(SeqNum::get), unseen);
        for (i, (uid, m)) in model.iter().enumerate().step_by(97) {
            assert_eq!(messages.get(i), Some(m));
            assert_eq!(
                messages.by_uid(Uid::new(*uid).unwrap()),
                Some((SeqNum::new(i as u32 + 1).unwrap(), m))
            );
            assert_eq!(messages.iter_from(i).next().map(|(seq, m)| (seq.get(), m)), Some((i as u32 + 1, m)));
        }
        assert_eq!(messages.get(model.len()), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        /// Random steps against a map, and each difference against the naive one.
        #[test]
        fn versions_agree_with_a_map(
            start in 0usize..30_000,
            steps in proptest::collection::vec(proptest::collection::vec((1u32..50_000, 0u8..4), 1..40), 1..6)
        ) {
            let mut modseq = 1;
            let mut model: Model = (1..=start as u32).map(|uid| (uid, message(uid, 1, SystemFlags::SEEN))).collect();
            let mut uidnext = start as u32 + 1;
            let mut messages = Messages::from_sorted(model.values().cloned());
            for step in steps {
                modseq += 1;
                let mut changes: BTreeMap<u32, Option<Message>> = BTreeMap::new();
                for (uid, kind) in step {
                    match kind {
                        0 => { changes.insert(uidnext, Some(message(uidnext, modseq, SystemFlags::NONE))); uidnext += 1; }
                        1 if model.contains_key(&uid) => { changes.insert(uid, None); }
                        _ if model.contains_key(&uid) => { changes.insert(uid, Some(message(uid, modseq, SystemFlags::FLAGGED))); }
                        _ => {}
                    }
                }
                let before = (messages.clone(), model.clone());
                let list: Vec<_> = changes.into_iter().map(|(uid, m)| (Uid::new(uid).unwrap(), m)).collect();
                messages = messages.with(&list);
                for (uid, change) in list {
                    match change { Some(m) => { model.insert(uid.get(), m); } None => { model.remove(&uid.get()); } }
                }
                check(&messages, &model);
                let difference = before.0.difference(&messages);
                let gone: Vec<_> = before.1.keys().enumerate().filter(|(_, uid)| !model.contains_key(uid)).map(|(i, uid)| (i as u32 + 1, *uid)).collect();
                prop_assert_eq!(difference.gone.iter().map(|(s, u)| (s.get(), u.get())).collect::<Vec<_>>(), gone);
                let changed: Vec<_> = model.values().filter(|m| before.1.get(&m.uid.get()).is_some_and(|o| o.modseq != m.modseq)).cloned().collect();
                prop_assert_eq!(difference.changed, changed);
                let last = before.1.keys().last().copied().unwrap_or(0);
                prop_assert_eq!(difference.arrived, model.keys().filter(|uid| **uid > last).count());
            }
        }
    }

    #[test]
    fn an_arrival_in_a_large_mailbox_copies_one_leaf() {
        let large = Messages::from_sorted((1..=1_000_000).map(|uid| message(uid, 1, SystemFlags::SEEN)));
        let newer =
            large.with(&[(Uid::new(1_000_001).unwrap(), Some(message(1_000_001, 2, SystemFlags::NONE)))]);
        let old: HashSet<_> =
            large.leaves(0..large.0.branches.len()).map(|(_, leaf)| Arc::as_ptr(leaf)).collect();
        assert!(
            newer
                .leaves(0..newer.0.branches.len())
                .filter(|(_, leaf)| !old.contains(&Arc::as_ptr(leaf)))
                .count()
                <= 1
        );
        assert_eq!(newer.first_unseen().map(SeqNum::get), Some(1_000_001));
    }
}
