//! How the next version of a mailbox's messages comes of one: by changes, and by folding, which changes no message.
//!
//! Invariant: a change copies what is laid over one chunk, or one fresh leaf of at most `LEAF_MESSAGES`, and the paths
//! to it; all else is shared.

use super::{BRANCH_LEAVES, Branch, Message, Messages, push_fresh};
use crate::error::StoreError;
use crate::leaf::{Counts, Home, Leaf, Packed, over_chunk};
use rookery_types::Uid;
use std::sync::Arc;

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
    /// With the messages of `changes` (ascending by UID): a message in place of the one with its UID, or
    /// added; `None` takes the UID out.
    pub fn with(&self, changes: &[(Uid, Option<Message>)]) -> Result<Messages, StoreError> {
        Ok(self.changed(changes)?.0)
    }

    /// The messages as somebody knows them who was told of them up to a modseq: `self`, but for those of `told`, as
    /// [`Messages::with`] takes them. A newer version differs from it as from the one that was told of.
    pub fn as_told(&self, modseq: u64, told: &[(Uid, Option<Message>)]) -> Result<Messages, StoreError> {
        let messages = self.with(told)?;
        let shown = told.iter().filter_map(|(_, message)| message.as_ref());
        let seen = self.1.as_ref().map(|seen| seen.as_told(modseq, shown));
        Ok(Messages(messages.0, seen))
    }

    /// As [`Messages::with`], and the chunks over which something else lies now, with their new counts.
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
