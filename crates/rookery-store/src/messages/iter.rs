//! Walking through the messages of a version, in the order of their UIDs.

use super::{Message, Messages};
use crate::encoding::Damaged;
use crate::error::StoreError;
use crate::leaf::Run;
use crate::seen::{SeenBy, shown};
use rookery_kv::engine::Space;
use rookery_types::SeqNum;
use std::ops::Range;

impl Messages {
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

/// The sequence number of a place.
pub(super) fn seq_at(place: usize) -> Option<SeqNum> {
    SeqNum::new(u32::try_from(place).ok()?.checked_add(1)?)
}
