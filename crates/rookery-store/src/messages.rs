//! The messages of one mailbox at one moment: an immutable value that sessions share.
//!
//! Invariants:
//! - Messages stand in ascending order of UID; a [`Messages`] never changes once built.
//! - A leaf is known by its counts; the messages of a chunk are read from the disk when somebody looks at them, and
//!   may leave the memory again. So whatever looks at messages can fail.
//! - A change copies what is laid over one chunk, or one fresh leaf of at most [`LEAF_MESSAGES`], and the paths to
//!   it; all else is shared, so two versions of a mailbox differ only where their leaves are different pointers.
//! - Counts are kept per leaf, so the first unseen message or a sequence number is found without a scan.

use crate::encoding::Damaged;
use crate::error::StoreError;
use crate::leaf::{Counts, Home, Leaf, Over, Packed, Run, over_chunk};
use crate::seen::{SeenBy, shown};
use rookery_kv::engine::Space;
use rookery_types::{ContentId, InternalDate, ModSeq, SeqNum, SystemFlags, Uid, UidSet};
use std::collections::{HashMap, HashSet};
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

/// Chunks over which something else lies now, with their new counts.
pub(crate) type Touched = Vec<(Arc<Packed>, Counts)>;

/// A chunk and the deltas that folding has made into other chunks.
pub(crate) struct Folded {
    /// The first UID that was folded: the chunk's, or of the first delta where there is no chunk.
    pub(crate) first: u32,
    /// The last UID that was folded.
    pub(crate) last: u32,
    /// What came of it.
    pub(crate) packed: Vec<Arc<Packed>>,
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

    fn from_leaves(home: Option<Home>, leaves: Vec<Leaf>) -> Messages {
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

    /// All messages with their sequence numbers, ascending. Ends after an error.
    pub fn iter(&self) -> Iter<'_> {
        self.iter_from(0)
    }

    /// The messages from a place (from 0) on, with their sequence numbers. Ends after an error.
    pub fn iter_from(&self, place: usize) -> Iter<'_> {
        self.iter_since(place, 0)
    }

    /// The same, but for messages that are in one leaf with none of a higher modseq than `since`: these are not even
    /// read.
    pub fn iter_since(&self, place: usize, since: u64) -> Iter<'_> {
        let mut iter = Iter { messages: self, branch: 0, leaf: 0, run: None, place: 0, end: 0, since };
        while let Some(branch) = self.0.branches.get(iter.branch).filter(|b| place - iter.end >= b.count) {
            iter.end += branch.count;
            iter.branch += 1;
        }
        let leaves = self.0.branches.get(iter.branch).map_or(&[][..], |branch| &branch.leaves[..]);
        while let Some(leaf) = leaves.get(iter.leaf).filter(|leaf| place - iter.end >= leaf.len()) {
            iter.end += leaf.len();
            iter.leaf += 1;
        }
        iter.place = place.min(self.len());
        iter
    }

    /// Shows the messages at some places (from 0), with their sequence numbers, without making copies of them.
    pub fn each(
        &self,
        places: Range<usize>,
        mut visit: impl FnMut(SeqNum, &Message),
    ) -> Result<(), StoreError> {
        for (before, leaf) in self.leaves_at(&places) {
            let mut run = leaf.read(self.home())?;
            run.pass_over(places.start.saturating_sub(before));
            for place in before.max(places.start)..places.end.min(before + leaf.len()) {
                let uid = u32::try_from(place).unwrap_or(u32::MAX);
                let Some((seq, message)) = seq_at(place).zip(run.advance()) else {
                    return Err(miscounted(uid));
                };
                match &self.1 {
                    Some(seen) => visit(seq, &seen.show(message.clone())),
                    None => visit(seq, message),
                }
            }
            let end = before + leaf.len();
            if places.end >= end && run.advance().is_some() {
                return Err(miscounted(u32::try_from(end).unwrap_or(u32::MAX)));
            }
        }
        Ok(())
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

    /// With the messages of `changes` (ascending by UID): a message in place of the one with its UID, or
    /// added; `None` takes the UID out.
    pub fn with(&self, changes: &[(Uid, Option<Message>)]) -> Result<Messages, StoreError> {
        Ok(self.changed(changes)?.0)
    }

    /// The same, and the chunks over which something else lies now, with their new counts.
    pub(crate) fn changed(
        &self,
        changes: &[(Uid, Option<Message>)],
    ) -> Result<(Messages, Touched), StoreError> {
        let mut touched = Touched::new();
        let mut branches = Vec::with_capacity(self.0.branches.len() + 1);
        let mut rest = changes;
        for (i, branch) in self.0.branches.iter().enumerate() {
            let last = i + 1 == self.0.branches.len();
            let here =
                if last { rest.len() } else { rest.partition_point(|(uid, _)| uid.get() <= branch.end) };
            let (here, after) = rest.split_at(here);
            rest = after;
            if here.is_empty() {
                branches.push(branch.clone());
                continue;
            }
            let leaves = change_leaves(&branch.leaves, here, self.home(), &mut touched)?;
            for some in leaves.chunks(BRANCH_LEAVES) {
                branches.push(Arc::new(Branch::new(some.to_vec())));
            }
        }
        if !rest.is_empty() {
            let mut leaves = Vec::new();
            push_fresh(&mut leaves, rest.iter().filter_map(|(_, message)| message.clone()).collect());
            let branch = Branch::new(leaves);
            branches.extend((branch.count > 0).then(|| Arc::new(branch)));
        }
        Ok((Messages::from_branches(self.0.home.clone(), branches), touched))
    }

    /// Gives a chunk that is about to be replaced on disk its messages, for those who still look at it.
    pub(crate) fn keep_chunk(&self, first: Option<Uid>, messages: Vec<Message>) {
        let Some(first) = first else { return };
        if let Some((_, Leaf::Packed(packed, _))) = self.leaf_of(first.get())
            && packed.summary.first == first.get()
        {
            packed.keep(Arc::new(messages));
        }
    }

    /// With the chunks that folding made. The messages stay the same.
    pub(crate) fn folded(&self, home: &Home, folds: Vec<Folded>) -> Messages {
        let mut branches = Vec::with_capacity(self.0.branches.len() + 1);
        let mut folds = folds.into_iter().peekable();
        let mut under_way: Option<Folded> = None;
        for (i, branch) in self.0.branches.iter().enumerate() {
            let last = i + 1 == self.0.branches.len();
            let begins = |fold: &Folded| fold.first <= branch.end || last;
            if under_way.is_none() && !folds.peek().is_some_and(begins) {
                branches.push(branch.clone());
                continue;
            }
            let mut leaves = Vec::with_capacity(branch.leaves.len() + 1);
            for leaf in &branch.leaves {
                fold_leaf(leaf, &mut under_way, &mut folds, &mut leaves);
            }
            for some in leaves.chunks(BRANCH_LEAVES) {
                branches.push(Arc::new(Branch::new(some.to_vec())));
            }
        }
        // Folded without a message that was in memory: only expunged ones.
        let rest: Vec<Leaf> =
            folds.flat_map(|fold| fold.packed).map(|packed| Leaf::Packed(packed, None)).collect();
        for some in rest.chunks(BRANCH_LEAVES) {
            branches.push(Arc::new(Branch::new(some.to_vec())));
        }
        Messages::from_branches(Some(home.clone()), branches)
    }

    /// What a session that knows `self` has to hear to know `newer`. Costs in proportion to the leaves that
    /// differ, and reads only those whose chunks differ.
    pub fn difference(&self, newer: &Messages) -> Result<Difference, StoreError> {
        let mut difference = Difference::default();
        if self.same_as(newer) {
            return Ok(difference);
        }
        let last_known = self.last_uid();
        let known = newer.place_of(last_known.saturating_add(1))?;
        difference.arrived = newer.len() - known;
        // Branches that both share at their ends cannot differ, nor can leaves that both share between them. Of two
        // leaves over one chunk only what lies over it is compared; what is left of each side is compared message
        // by message.
        let (old, new) = (&self.0.branches, &newer.0.branches);
        let front = old.iter().zip(new).take_while(|(a, b)| Arc::ptr_eq(a, b)).count();
        let room = old.len().min(new.len()) - front;
        let back =
            old.iter().rev().zip(new.iter().rev()).take(room).take_while(|(a, b)| Arc::ptr_eq(a, b)).count();
        let old_leaves = || self.leaves(front..old.len() - back);
        let new_leaves = || newer.leaves(front..new.len() - back);
        let of_newer: HashMap<usize, &Leaf> = new_leaves().map(|(_, leaf)| (leaf.root(), leaf)).collect();
        let of_older: HashSet<usize> = old_leaves().map(|(_, leaf)| leaf.root()).collect();
        let mut fresh = Vec::new();
        for (_, leaf) in new_leaves().filter(|(_, leaf)| !of_older.contains(&leaf.root())) {
            if leaf.len() > 0 && leaf.first() <= last_known {
                fresh.push(leaf.read(newer.home())?);
            }
        }
        let mut fresh =
            fresh.into_iter().flatten().take_while(|message| message.uid.get() <= last_known).peekable();
        for (place, leaf) in old_leaves() {
            match of_newer.get(&leaf.root()) {
                Some(other) if leaf.same_as(other) => {}
                Some(Leaf::Packed(_, newest)) => {
                    self.compare_over(place, leaf, newer, newest.as_deref(), &mut difference)?;
                }
                _ if leaf.len() == 0 => {}
                _ => {
                    for (i, old) in leaf.read(self.home())?.enumerate() {
                        while fresh.next_if(|m| m.uid < old.uid).is_some() {}
                        match fresh.next_if(|m| m.uid == old.uid) {
                            Some(new) if new.modseq != old.modseq => {
                                difference.changed.extend(self.differs(newer, old, new));
                            }
                            Some(_) => {}
                            None => difference.gone.extend(seq_at(place + i).map(|seq| (seq, old.uid))),
                        }
                    }
                }
            }
        }
        if let (Some(known), Some(newest)) = (&self.1, &newer.1)
            && !known.same_as(newest)
        {
            self.compare_seen(newer, &newest.since(known.modseq()), &mut difference)?;
        }
        Ok(difference)
    }

    /// A message of both as the user of the newer version sees it, if it differs from what that of the older sees.
    fn differs(&self, newer: &Messages, old: Message, new: Message) -> Option<Message> {
        let (old, new) = (shown(self.1.as_ref(), old), shown(newer.1.as_ref(), new));
        (old.modseq != new.modseq).then_some(new)
    }

    /// Adds the messages of which only what their user has seen differs.
    fn compare_seen(
        &self,
        newer: &Messages,
        uids: &UidSet,
        difference: &mut Difference,
    ) -> Result<(), StoreError> {
        let known: HashSet<Uid> = difference.changed.iter().map(|message| message.uid).collect();
        for (first, last) in uids.ranges() {
            for found in newer.iter_from(newer.place_of(first)?) {
                let (_, new) = found?;
                if new.uid.get() > last {
                    break;
                }
                if known.contains(&new.uid) {
                    continue;
                }
                if self.message(new.uid)?.is_some_and(|old| old.modseq != new.modseq) {
                    difference.changed.push(new);
                }
            }
        }
        difference.changed.sort_unstable_by_key(|message| message.uid);
        Ok(())
    }

    /// Compares what lies over one chunk in two versions.
    fn compare_over(
        &self,
        place: usize,
        leaf: &Leaf,
        newer: &Messages,
        newest: Option<&Over>,
        difference: &mut Difference,
    ) -> Result<(), StoreError> {
        let Leaf::Packed(packed, known) = leaf else { return Ok(()) };
        let bare = Leaf::Packed(packed.clone(), None);
        let mut known = known.iter().flat_map(|over| &over.entries).peekable();
        let mut newest = newest.iter().flat_map(|over| &over.entries).peekable();
        loop {
            let (uid, old, new) = match (known.peek().copied(), newest.peek().copied()) {
                (None, None) => return Ok(()),
                (Some((uid, _)), other) if other.is_none_or(|(other, _)| uid < other) => {
                    let old = known.next().and_then(|(_, message)| message.clone());
                    (*uid, old, bare.message(*uid, self.home())?)
                }
                (other, Some((uid, _))) if other.is_none_or(|(other, _)| uid < other) => {
                    let new = newest.next().and_then(|(_, message)| message.clone());
                    (*uid, bare.message(*uid, self.home())?, new)
                }
                _ => {
                    let old = known.next().and_then(|(uid, message)| Some((*uid, message.clone()?)));
                    let new = newest.next().and_then(|(_, message)| message.clone());
                    let Some((uid, old)) = old else { continue };
                    (uid, Some(old), new)
                }
            };
            match (old, new) {
                (Some(old), Some(new)) if old.modseq != new.modseq => {
                    difference.changed.extend(self.differs(newer, old, new));
                }
                (Some(_), None) => {
                    let place = place + leaf.place_of(uid.get(), self.home())?;
                    difference.gone.extend(seq_at(place).map(|seq| (seq, uid)));
                }
                _ => {}
            }
        }
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

/// Messages with their sequence numbers. Ends after an error.
pub struct Iter<'a> {
    messages: &'a Messages,
    /// The leaf that comes after `run`.
    branch: usize,
    leaf: usize,
    run: Option<Run>,
    /// The place of the next message.
    place: usize,
    /// The place behind the last message of `run`'s leaf.
    end: usize,
    since: u64,
}

impl Iter<'_> {
    fn fail(&mut self, error: StoreError) -> Option<Result<(SeqNum, Message), StoreError>> {
        self.run = None;
        self.branch = usize::MAX;
        Some(Err(error))
    }
}

impl Iterator for Iter<'_> {
    type Item = Result<(SeqNum, Message), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(message) = self.run.as_mut().and_then(Run::next) {
                let seq = seq_at(self.place)?;
                self.place += 1;
                if self.place > self.end {
                    return self.fail(miscounted(message.uid.get()));
                }
                return Some(Ok((seq, shown(self.messages.1.as_ref(), message))));
            }
            if self.place < self.end && self.run.is_some() {
                let uid = u32::try_from(self.place).unwrap_or(u32::MAX);
                return self.fail(miscounted(uid));
            }
            self.run = None;
            let branch = self.messages.0.branches.get(self.branch)?;
            let Some(leaf) = branch.leaves.get(self.leaf) else {
                self.branch += 1;
                self.leaf = 0;
                continue;
            };
            self.leaf += 1;
            let begin = self.end;
            self.end += leaf.len();
            if self.place >= self.end {
                continue;
            }
            let newer = |seen: &SeenBy| seen.has_newer(leaf.first(), leaf.end(), self.since);
            if leaf.counts().modseq <= self.since && !self.messages.1.as_ref().is_some_and(newer) {
                self.place = self.end;
                continue;
            }
            match leaf.read(self.messages.home()) {
                Ok(mut run) => {
                    run.pass_over(self.place - begin);
                    self.run = Some(run);
                }
                Err(error) => return self.fail(error),
            }
        }
    }
}

/// A chunk's summary says other numbers than its messages: what is numbered by it would be wrong.
fn miscounted(near: u32) -> StoreError {
    let what = "a chunk has other messages than its summary counts";
    StoreError::Damaged(Damaged { space: Space::Leaf, key: format!("near {near}"), what })
}

fn seq_at(place: usize) -> Option<SeqNum> {
    SeqNum::new(u32::try_from(place).ok()?.checked_add(1)?)
}

/// Adds leaves with these messages.
fn push_fresh(leaves: &mut Vec<Leaf>, messages: Vec<Message>) {
    if messages.len() <= LEAF_MESSAGES {
        leaves.extend((!messages.is_empty()).then(|| Leaf::fresh(messages)));
        return;
    }
    leaves.extend(messages.chunks(LEAF_MESSAGES).map(|some| Leaf::fresh(some.to_vec())));
}

/// Adds a leaf as folding leaves it: with new chunks in its place where it begins what was folded, without what was
/// folded of it.
fn fold_leaf(
    leaf: &Leaf,
    under_way: &mut Option<Folded>,
    folds: &mut std::iter::Peekable<std::vec::IntoIter<Folded>>,
    leaves: &mut Vec<Leaf>,
) {
    let mut messages = match leaf {
        Leaf::Fresh(fresh) => &fresh.messages[..],
        Leaf::Packed(..) => &[],
    };
    let whole = messages.len();
    loop {
        let passed = |fold: &Folded| fold.last < leaf.first();
        if under_way.as_ref().is_some_and(passed) {
            *under_way = None;
        }
        let Some(fold) = under_way.as_ref() else {
            let Some(fold) = folds.next_if(|fold| fold.first <= leaf.end()) else { break };
            let before = messages.partition_point(|message| message.uid.get() < fold.first);
            let (kept, rest) = messages.split_at(before);
            push_fresh(leaves, kept.to_vec());
            messages = rest;
            leaves.extend(fold.packed.iter().cloned().map(|packed| Leaf::Packed(packed, None)));
            *under_way = Some(fold);
            continue;
        };
        match leaf {
            Leaf::Packed(packed, _) if packed.summary.last <= fold.last => return,
            Leaf::Packed(..) => break,
            Leaf::Fresh(_) => {
                let gone = messages.partition_point(|message| message.uid.get() <= fold.last);
                messages = messages.get(gone..).unwrap_or(&[]);
                if messages.is_empty() {
                    return;
                }
                *under_way = None;
            }
        }
    }
    match leaf {
        Leaf::Fresh(_) if messages.len() < whole => push_fresh(leaves, messages.to_vec()),
        leaf => leaves.push(leaf.clone()),
    }
}

/// `changes` all belong to these leaves, or stand before or between them, or behind the last.
fn change_leaves(
    leaves: &[Leaf],
    changes: &[(Uid, Option<Message>)],
    home: Option<&Home>,
    touched: &mut Touched,
) -> Result<Vec<Leaf>, StoreError> {
    let mut out = Vec::with_capacity(leaves.len() + 1);
    let mut rest = changes;
    for (i, leaf) in leaves.iter().enumerate() {
        let last = i + 1 == leaves.len();
        let here = if last { rest.len() } else { rest.partition_point(|(uid, _)| uid.get() <= leaf.end()) };
        let (here, after) = rest.split_at(here);
        rest = after;
        if here.is_empty() {
            out.push(leaf.clone());
            continue;
        }
        match leaf {
            Leaf::Fresh(fresh) => push_fresh(&mut out, merge(&fresh.messages, here)),
            Leaf::Packed(packed, over) => {
                let (before, inside) =
                    here.split_at(here.partition_point(|(uid, _)| uid.get() < leaf.first()));
                let (inside, behind) =
                    inside.split_at(inside.partition_point(|(uid, _)| uid.get() <= leaf.end()));
                push_fresh(&mut out, before.iter().filter_map(|(_, message)| message.clone()).collect());
                match inside.is_empty() {
                    true => out.push(leaf.clone()),
                    false => {
                        let over = Arc::new(over_chunk(packed, over.as_ref(), inside, home)?);
                        touched.push((packed.clone(), over.counts));
                        out.push(Leaf::Packed(packed.clone(), Some(over)));
                    }
                }
                push_fresh(&mut out, behind.iter().filter_map(|(_, message)| message.clone()).collect());
            }
        }
    }
    Ok(out)
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
        let all: Vec<_> =
            messages.iter().map(|found| found.unwrap()).map(|(seq, m)| (seq.get(), m)).collect();
        let wanted: Vec<_> = model.values().cloned().enumerate().map(|(i, m)| (i as u32 + 1, m)).collect();
        assert_eq!(all, wanted);
        assert_eq!(messages.len(), model.len());
        let unseen = model.values().position(|m| !m.flags.contains(SystemFlags::SEEN)).map(|i| i as u32 + 1);
        assert_eq!(messages.first_unseen().unwrap().map(SeqNum::get), unseen);
        for (i, (uid, m)) in model.iter().enumerate().step_by(97) {
            assert_eq!(messages.get(i).unwrap().as_ref(), Some(m));
            assert_eq!(
                messages.by_uid(Uid::new(*uid).unwrap()).unwrap(),
                Some((SeqNum::new(i as u32 + 1).unwrap(), m.clone()))
            );
            let next = messages.iter_from(i).next().map(|found| found.unwrap());
            assert_eq!(next.map(|(seq, m)| (seq.get(), m)), Some((i as u32 + 1, m.clone())));
            let mut some = Vec::new();
            let places = i..(i + 150).min(model.len());
            messages.each(places.clone(), |seq, m| some.push((seq.get(), m.clone()))).unwrap();
            assert_eq!(some, wanted[places]);
        }
        assert_eq!(messages.get(model.len()).unwrap(), None);
        assert_eq!(messages.last_uid(), model.keys().last().copied().unwrap_or(0));
        let uids: Vec<u32> = messages.uids(0..messages.len()).unwrap().iter().collect();
        assert_eq!(uids, model.keys().copied().collect::<Vec<_>>());
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
                messages = messages.with(&list).unwrap();
                for (uid, change) in list {
                    match change { Some(m) => { model.insert(uid.get(), m); } None => { model.remove(&uid.get()); } }
                }
                check(&messages, &model);
                let difference = before.0.difference(&messages).unwrap();
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
        let newer = large
            .with(&[(Uid::new(1_000_001).unwrap(), Some(message(1_000_001, 2, SystemFlags::NONE)))])
            .unwrap();
        let old: HashSet<_> = large.leaves(0..large.0.branches.len()).map(|(_, leaf)| leaf.root()).collect();
        assert!(
            newer.leaves(0..newer.0.branches.len()).filter(|(_, leaf)| !old.contains(&leaf.root())).count()
                <= 1
        );
        assert_eq!(newer.first_unseen().unwrap().map(SeqNum::get), Some(1_000_001));
    }
}
