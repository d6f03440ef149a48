//! What somebody who knows one version has to hear to know a newer one.

use super::iter::seq_at;
use super::{Message, Messages};
use crate::error::StoreError;
use crate::leaf::{Leaf, Over};
use crate::seen::shown;
use rookery_types::{SeqNum, Uid, UidSet};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

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
}
