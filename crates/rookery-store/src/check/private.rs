//! What users have seen of mailboxes that are not theirs: each user's blocks against what is counted of them, and
//! against the messages.

use super::Findings;
use super::account::Seen;
use super::analysis::History;
use crate::keys;
use crate::records::Change;
use crate::seen::{Block, Head, SeenBy, is_seen};
use bytes::Bytes;
use rookery_types::{AccountId, MailboxId, ModSeq, Uid, UidSet, UserName};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the records have of one user and one mailbox; damaged ones are left out.
#[derive(Default)]
pub(super) struct Private {
    pub(super) head: Option<Head>,
    pub(super) blocks: BTreeMap<u32, Block>,
}

impl Private {
    /// Takes in one record.
    pub(super) fn take(all: &mut BTreeMap<(u32, UserName), Private>, key: &[u8], value: &[u8]) {
        let Some((number, user, block)) = keys::seen_parts(key) else { return };
        match block {
            Some(block) => {
                let Ok(read) = Block::decode(key, value) else { return };
                all.entry((number, user)).or_default().blocks.insert(block, read);
            }
            None => {
                let Ok(head) = Head::decode(key, value) else { return };
                all.entry((number, user)).or_default().head = Some(head);
            }
        }
    }

    /// The highest modseq that is spoken of.
    pub(super) fn modseq(&self) -> u64 {
        let runs = self.blocks.values().flat_map(Block::runs).map(|run| run.modseq);
        runs.chain(self.head.map(|head| head.modseq)).max().unwrap_or(0)
    }

    /// The last UID that is spoken of.
    pub(super) fn last_uid(&self) -> Option<u32> {
        self.blocks.values().next_back().and_then(|block| block.runs().last()).map(|run| run.last)
    }

    /// The keys of all records.
    pub(super) fn keys(&self, id: MailboxId, user: &UserName) -> Vec<Bytes> {
        let head = self.head.iter().map(|_| keys::seen(id, user));
        let blocks = self.blocks.keys().map(|number| keys::seen_block(id, user, *number));
        head.chain(blocks).map(Bytes::from).collect()
    }

    /// The messages of a mailbox of which nothing is said.
    pub(super) fn unknown(&self, seen: &Seen, number: u32) -> UidSet {
        let messages = seen.messages.get(&number).into_iter().flatten();
        let mut uids: UidSet = messages.map(|message| message.uid).collect();
        for run in self.blocks.values().flat_map(Block::runs) {
            uids.remove_range(run.first, run.last);
        }
        uids
    }

    /// The same, counted anew, with some messages not seen as from a modseq on, and which blocks these are in.
    pub(super) fn looked_again(
        self,
        seen: &Seen,
        number: u32,
        unseen: &UidSet,
        modseq: ModSeq,
    ) -> (SeenBy, BTreeSet<u32>) {
        let head = self.counted(seen, number, modseq.get());
        let blocks = self.blocks.into_iter().map(|(number, block)| (number, Arc::new(block)));
        let (now, touched) =
            SeenBy::new(Head::default(), blocks.collect()).marked(&UidSet::new(), unseen, modseq.get());
        (now.recounted(head.count), touched)
    }

    /// What should be counted at a modseq.
    pub(super) fn counted(&self, seen: &Seen, number: u32, modseq: u64) -> Head {
        let messages = seen.messages.get(&number).into_iter().flatten();
        let count = messages.filter(|message| is_seen(&self.blocks, message.uid)).count();
        let count = Some(u32::try_from(count).unwrap_or(u32::MAX));
        Head { modseq, count, blocks: u32::try_from(self.blocks.len()).unwrap_or(u32::MAX) }
    }

    /// What is counted, less what has gone since; `None` if the tombstones do not go back so far.
    fn known(&self, seen: &Seen, number: u32) -> Option<u32> {
        let head = self.head?;
        let floor = seen.record.as_ref().map_or(u64::MAX, |record| record.log_floor);
        let count = head.count.filter(|_| head.modseq >= floor)?;
        let since = head.modseq.checked_add(1)?;
        let mut gone = UidSet::new();
        seen.tombstones.range((number, since)..=(number, u64::MAX)).for_each(|(_, uids)| gone.extend(uids));
        let gone = gone.uids().filter(|uid| is_seen(&self.blocks, *uid)).count();
        Some(count.saturating_sub(u32::try_from(gone).unwrap_or(u32::MAX)))
    }
}

/// What is wrong with one user's records of one mailbox.
pub(super) struct Fault {
    pub(super) number: u32,
    pub(super) user: UserName,
    pub(super) what: String,
    pub(super) kind: FaultKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FaultKind {
    /// The mailbox does not exist.
    Stray,
    /// A block is missing.
    Lost,
    /// What is counted is missing or wrong.
    Count,
}

impl Fault {
    /// The kind of record that is at fault, and its key, or what begins with it.
    pub(super) fn record(&self, id: AccountId) -> (&'static str, Vec<u8>) {
        let mailbox = MailboxId { account: id, number: self.number };
        let key = keys::seen(mailbox, &self.user);
        match self.kind {
            FaultKind::Stray | FaultKind::Lost => ("private seen", key),
            FaultKind::Count => ("private seen summary", key),
        }
    }
}

/// All that is wrong, in the order of mailboxes and users.
pub(super) fn faults(seen: &Seen, history: &History) -> Vec<Fault> {
    let mut faults = Vec::new();
    for ((number, user), private) in &seen.private {
        let mut add = |kind, what: String| {
            faults.push(Fault { number: *number, user: user.clone(), what, kind });
        };
        if !seen.settings.contains_key(number) {
            add(FaultKind::Stray, "its mailbox does not exist".into());
            continue;
        }
        if seen.is_deleted(*number) {
            // Goes a piece at a time.
            continue;
        }
        let Some(head) = private.head else {
            add(FaultKind::Count, "it is missing".into());
            continue;
        };
        let blocks = u32::try_from(private.blocks.len()).unwrap_or(u32::MAX);
        if head.blocks > blocks {
            add(FaultKind::Lost, format!("{} are missing, of {}", head.blocks - blocks, head.blocks));
            continue;
        }
        let there = private.counted(seen, *number, head.modseq);
        let known = private.known(seen, *number).filter(|_| !history.explains_counts(*number));
        if head.blocks != blocks
            || private.modseq() > head.modseq
            || known.is_some_and(|n| Some(n) != there.count)
        {
            let what = format!("it counts {known:?} in {} records, and there are {:?}", head.blocks, there);
            add(FaultKind::Count, what);
        }
    }
    for (number, user) in logged(seen) {
        let known = seen.private.contains_key(&(number, user.clone()));
        if !known && seen.settings.contains_key(&number) && !seen.is_deleted(number) {
            let what = "it is missing".into();
            faults.push(Fault { number, user, what, kind: FaultKind::Count });
        }
    }
    faults
}

/// The mailboxes and users of which the change log says that there is something.
fn logged(seen: &Seen) -> BTreeSet<(u32, UserName)> {
    let changes = seen.log.values().flat_map(|entry| &entry.changes);
    let users = changes.filter_map(|(number, change)| match change {
        Change::Seen(user, _) => Some((*number, user.clone())),
        _ => None,
    });
    users.collect()
}

pub(super) fn check(id: AccountId, findings: &mut Findings, seen: &Seen, history: &History) {
    for fault in faults(seen, history) {
        let (kind, key) = fault.record(id);
        match fault.kind {
            FaultKind::Stray => {
                let mailbox = MailboxId { account: id, number: fault.number };
                let private = seen.private.get(&(fault.number, fault.user.clone()));
                for key in private.map(|private| private.keys(mailbox, &fault.user)).unwrap_or_default() {
                    findings.add(kind_of(&key), &key, fault.what.clone());
                }
            }
            FaultKind::Lost | FaultKind::Count => findings.add(kind, &key, fault.what),
        }
    }
    for ((number, _), private) in &seen.private {
        let next = seen.summaries.get(number).map_or(u32::MAX, |summary| summary.uid_next);
        if private.last_uid().is_some_and(|last| last >= next) {
            let key = keys::summary(MailboxId { account: id, number: *number });
            findings.add("mailbox summary", &key, "UIDNEXT has been given already");
        }
    }
}

/// The kind of a record by its key.
pub(super) fn kind_of(key: &[u8]) -> &'static str {
    match keys::seen_block_of(key) {
        Some(_) => "private seen",
        None => "private seen summary",
    }
}

/// The last UIDs of mailboxes that any user has seen, as far as records tell.
pub(super) fn last_uids(seen: &Seen) -> impl Iterator<Item = (u32, Uid)> {
    seen.private.iter().filter_map(|((number, _), private)| Some((*number, Uid::new(private.last_uid()?)?)))
}
