//! The messages of one mailbox at one moment: an immutable value that sessions share.
//!
//! Invariants:
//! - Messages stand in ascending order of UID; a [`Messages`] never changes once built.
//! - A leaf is known by its counts; the messages of a chunk are read from the disk when somebody looks at them, and
//!   may leave the memory again. So whatever looks at messages can fail.
//! - Two versions of a mailbox differ only where their leaves are different pointers.
//! - Counts are kept per leaf, so the first unseen message or a sequence number is found without a scan.

mod change;
mod difference;
mod iter;

pub(crate) use change::Folded;
pub use difference::Difference;
pub use iter::Iter;
use iter::seq_at;

use crate::error::StoreError;
use crate::leaf::{Home, Leaf, Over, Packed};
use crate::seen::{SeenBy, shown};
use rookery_types::{ContentId, InternalDate, ModSeq, SeqNum, SystemFlags, Uid, UidSet};
use std::ops::Range;
use std::sync::Arc;

/// Messages in a full leaf of those that no chunk has: what one arrival costs to copy.
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

#[derive(Clone, Default)]
struct Branch {
    leaves: Vec<Leaf>,
    count: usize,
    unseen: u64,
    deleted: u64,
    octets: usize,
    /// The last UID that belongs here.
    end: u32,
}

impl Branch {
    fn new(leaves: Vec<Leaf>) -> Branch {
        Branch {
            count: leaves.iter().map(Leaf::len).sum(),
            unseen: leaves.iter().map(|leaf| u64::from(leaf.counts().unseen)).sum(),
            deleted: leaves.iter().map(|leaf| u64::from(leaf.counts().deleted)).sum(),
            octets: leaves.iter().map(Leaf::octets).sum(),
            end: leaves.last().map_or(0, Leaf::end),
            leaves,
        }
    }
}

/// All messages of a mailbox at one moment. Cloning costs a pointer.
///
/// What looks at messages reads the disk where they are not in memory: [`Messages::load`] does so beforehand, where
/// blocking is allowed.
///
/// With the second part it is one user's: \Seen and the modseqs are those that this user is shown.
#[derive(Clone, Default)]
pub struct Messages(Arc<Root>, Option<SeenBy>);

#[derive(Default)]
struct Root {
    /// Where chunks are read from; `None` if there are none.
    home: Option<Home>,
    branches: Vec<Arc<Branch>>,
    count: usize,
}

impl std::fmt::Debug for Messages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Messages({})", self.len())
    }
}

impl Messages {
    /// From messages in ascending order of UID, all of them in memory.
    pub fn from_sorted(messages: impl IntoIterator<Item = Message>) -> Messages {
        let mut leaves = Vec::new();
        push_fresh(&mut leaves, messages.into_iter().collect());
        Messages::from_leaves(None, leaves)
    }

    /// From a mailbox's chunks and its deltas, both ascending; `counts` of a chunk are those with its deltas.
    pub(crate) fn assemble(
        home: Home,
        chunks: Vec<Arc<Packed>>,
        deltas: Vec<(Uid, Option<Message>)>,
    ) -> Messages {
        let mut leaves = Vec::with_capacity(chunks.len());
        let mut deltas = deltas.into_iter().peekable();
        for packed in chunks {
            let summary = packed.summary;
            let mut before = Vec::new();
            while let Some((_, message)) = deltas.next_if(|(uid, _)| uid.get() < summary.first) {
                before.extend(message);
            }
            push_fresh(&mut leaves, before);
            let mut entries = Vec::new();
            while let Some(entry) = deltas.next_if(|(uid, _)| uid.get() <= summary.last) {
                entries.push(entry);
            }
            let over = (!entries.is_empty()).then(|| Arc::new(Over { entries, counts: summary.counts }));
            leaves.push(Leaf::Packed(packed, over));
        }
        push_fresh(&mut leaves, deltas.filter_map(|(_, message)| message).collect());
        Messages::from_leaves(Some(home), leaves)
    }

    pub(crate) fn from_leaves(home: Option<Home>, leaves: Vec<Leaf>) -> Messages {
        let branches = leaves.chunks(BRANCH_LEAVES).map(|some| Arc::new(Branch::new(some.to_vec())));
        Messages::from_branches(home, branches.collect())
    }

    fn from_branches(home: Option<Home>, branches: Vec<Arc<Branch>>) -> Messages {
        let count = branches.iter().map(|branch| branch.count).sum();
        Messages(Arc::new(Root { home, branches, count }), None)
    }

    /// The same messages as one user sees them.
    pub(crate) fn seen_by(&self, seen: SeenBy) -> Messages {
        Messages(self.0.clone(), Some(seen))
    }

    /// As the same user sees them who sees `other`.
    pub fn seen_like(self, other: &Messages) -> Messages {
        Messages(self.0, other.1.clone())
    }

    /// Whether \Seen is one user's own here, and not what the mailbox's records have.
    pub fn is_personal(&self) -> bool {
        self.1.is_some()
    }

    /// No message has a lower UID.
    pub(crate) fn begin(&self) -> u32 {
        let leaves = self.0.branches.iter().flat_map(|branch| &branch.leaves);
        leaves.filter(|leaf| leaf.len() > 0).map(Leaf::first).next().unwrap_or(0)
    }

    fn home(&self) -> Option<&Home> {
        self.0.home.as_ref()
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.0.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.count == 0
    }

    /// How many messages lack \Seen, and how many have \Deleted.
    pub(crate) fn unseen_and_deleted(&self) -> (u64, u64) {
        let branches = self.0.branches.iter();
        branches.fold((0, 0), |(unseen, deleted), b| (unseen + b.unseen, deleted + b.deleted))
    }

    /// Whether both are the very same version.
    pub fn same_as(&self, other: &Messages) -> bool {
        let seen = match (&self.1, &other.1) {
            (Some(a), Some(b)) => a.same_as(b),
            (None, None) => true,
            _ => false,
        };
        seen && Arc::ptr_eq(&self.0, &other.0)
    }

    /// The leaf in which a place is, and the place of its first message.
    fn leaf_at(&self, place: usize) -> Option<(usize, &Leaf)> {
        let mut before = 0;
        for branch in &self.0.branches {
            if place - before >= branch.count {
                before += branch.count;
                continue;
            }
            for leaf in &branch.leaves {
                if place - before < leaf.len() {
                    return Some((before, leaf));
                }
                before += leaf.len();
            }
        }
        None
    }

    /// The leaf to which a UID belongs, if any, and the place of its first message.
    fn leaf_of(&self, uid: u32) -> Option<(usize, &Leaf)> {
        let mut before = 0;
        for branch in &self.0.branches {
            if branch.end < uid {
                before += branch.count;
                continue;
            }
            for leaf in &branch.leaves {
                if leaf.end() >= uid {
                    return Some((before, leaf));
                }
                before += leaf.len();
            }
        }
        None
    }

    /// The message at a place, from 0.
    pub fn get(&self, place: usize) -> Result<Option<Message>, StoreError> {
        match self.leaf_at(place) {
            Some(_) => {
                self.iter_from(place).next().transpose().map(|found| found.map(|(_, message)| message))
            }
            None => Ok(None),
        }
    }

    /// The message with a sequence number.
    pub fn by_seq(&self, seq: SeqNum) -> Result<Option<Message>, StoreError> {
        self.get(seq.get() as usize - 1)
    }

    /// The last message's UID; 0 if there is none. Reads nothing.
    pub fn last_uid(&self) -> u32 {
        let leaves = self.0.branches.iter().rev().flat_map(|branch| branch.leaves.iter().rev());
        leaves.map(|leaf| leaf.counts().last_uid).find(|uid| *uid > 0).unwrap_or(0)
    }

    /// The place, from 0, of the first message whose UID is `uid` or more; `len()` if there is none.
    pub fn place_of(&self, uid: u32) -> Result<usize, StoreError> {
        match self.leaf_of(uid) {
            Some((before, leaf)) => Ok(before + leaf.place_of(uid, self.home())?),
            None => Ok(self.len()),
        }
    }

    /// The message with a UID. Costs less than to learn its number as well.
    pub fn message(&self, uid: Uid) -> Result<Option<Message>, StoreError> {
        match self.leaf_of(uid.get()) {
            Some((_, leaf)) if leaf.first() <= uid.get() => {
                Ok(leaf.message(uid, self.home())?.map(|message| shown(self.1.as_ref(), message)))
            }
            _ => Ok(None),
        }
    }

    /// The message with a UID, and its sequence number.
    pub fn by_uid(&self, uid: Uid) -> Result<Option<(SeqNum, Message)>, StoreError> {
        let Some(message) = self.message(uid)? else { return Ok(None) };
        Ok(seq_at(self.place_of(uid.get())?).map(|seq| (seq, message)))
    }

    /// The sequence number of the first message without \Seen. Reads nothing, unless \Seen is a user's own.
    pub fn first_unseen(&self) -> Result<Option<SeqNum>, StoreError> {
        let Some(seen) = &self.1 else { return Ok(self.first_without_seen()) };
        let mut place = 0;
        while let Some(message) = self.get(place)? {
            match seen.seen_up_to(message.uid.get()) {
                Some(last) => place = self.place_of(last.saturating_add(1))?.max(place + 1),
                None => return Ok(seq_at(place)),
            }
        }
        Ok(None)
    }

    /// The first whose record has no \Seen.
    fn first_without_seen(&self) -> Option<SeqNum> {
        let mut place = 0;
        for branch in &self.0.branches {
            if branch.unseen == 0 {
                place += branch.count;
                continue;
            }
            for leaf in &branch.leaves {
                if leaf.counts().unseen > 0 {
                    return seq_at(place + leaf.counts().first_unseen as usize);
                }
                place += leaf.len();
            }
        }
        None
    }

    /// The UIDs of the messages at some places.
    pub fn uids(&self, places: Range<usize>) -> Result<UidSet, StoreError> {
        let mut uids = UidSet::new();
        for (before, leaf) in self.leaves(0..self.0.branches.len()) {
            let after = before + leaf.len();
            if after <= places.start || leaf.len() == 0 {
                continue;
            }
            if before >= places.end {
                break;
            }
            match leaf.uid_range().filter(|_| places.start <= before && after <= places.end) {
                Some((first, last)) => uids.insert_range(first, last),
                None => {
                    let mut run = leaf.read(self.home())?;
                    run.pass_over(places.start.saturating_sub(before));
                    let wanted = places.end.min(after) - places.start.max(before);
                    run.take(wanted).for_each(|message| uids.insert_uid(message.uid));
                }
            }
        }
        Ok(uids)
    }

    /// The UIDs of the messages with \Deleted. Looks only where there are any.
    pub fn deleted(&self) -> Result<UidSet, StoreError> {
        let mut uids = UidSet::new();
        for branch in self.0.branches.iter().filter(|branch| branch.deleted > 0) {
            for leaf in branch.leaves.iter().filter(|leaf| leaf.counts().deleted > 0) {
                let run = leaf.read(self.home())?;
                run.filter(|m| m.flags.contains(SystemFlags::DELETED)).for_each(|m| uids.insert_uid(m.uid));
            }
        }
        Ok(uids)
    }

    /// Whether the messages at some places are in memory now: then looking at them does not block.
    pub fn are_loaded(&self, places: &Range<usize>) -> bool {
        self.leaves_at(places).all(|(_, leaf)| leaf.is_resident())
    }

    /// Brings the messages at some places into memory. Reads the disk.
    pub fn load(&self, places: &Range<usize>) -> Result<(), StoreError> {
        self.leaves_at(places).try_for_each(|(_, leaf)| leaf.read(self.home()).map(drop))
    }

    fn leaves_at(&self, places: &Range<usize>) -> impl Iterator<Item = (usize, &Leaf)> {
        let Range { start, end } = places.clone();
        let mut first = 0;
        let mut before = 0;
        while let Some(branch) = self.0.branches.get(first).filter(|b| start - before >= b.count) {
            before += branch.count;
            first += 1;
        }
        self.leaves(first..self.0.branches.len())
            .skip_while(move |(before, leaf)| before + leaf.len() <= start)
            .take_while(move |(before, _)| *before < end)
    }

    /// The leaves of some branches, each with the place of its first message.
    fn leaves(&self, branches: Range<usize>) -> impl Iterator<Item = (usize, &Leaf)> {
        let before = self.0.branches.get(..branches.start).unwrap_or(&[]);
        let mut place = before.iter().map(|branch| branch.count).sum();
        self.0.branches.get(branches).unwrap_or(&[]).iter().flat_map(|branch| branch.leaves.iter()).map(
            move |leaf| {
                let here = place;
                place += leaf.len();
                (here, leaf)
            },
        )
    }

    /// Octets of memory, about, that stay when chunks leave it.
    pub fn octets(&self) -> usize {
        64 + self.0.branches.iter().map(|branch| 96 + branch.octets).sum::<usize>()
    }
}

/// Adds leaves with these messages.
fn push_fresh(leaves: &mut Vec<Leaf>, messages: Vec<Message>) {
    if messages.len() <= LEAF_MESSAGES {
        leaves.extend((!messages.is_empty()).then(|| Leaf::fresh(messages)));
        return;
    }
    leaves.extend(messages.chunks(LEAF_MESSAGES).map(|some| Leaf::fresh(some.to_vec())));
}

#[cfg(test)]
pub(crate) mod tests;
