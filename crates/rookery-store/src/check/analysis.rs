//! What the change log, the tombstones and the messages of an account say of each other.
//!
//! A UID is never given twice, so what was once expunged stays expunged: the order of events matters only for the
//! modseq of what is left.

use super::Findings;
use super::account::Seen;
use super::private::Private;
use crate::keys;
use crate::records::Change;
use rookery_types::{AccountId, MailboxId, ModSeq, Uid, UidSet};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Where they disagree.
#[derive(Default)]
pub(super) struct History {
    /// Messages that the log knows to have come, that never went, and that are not there.
    pub(super) lost: BTreeMap<u32, UidSet>,
    /// Mailboxes that lack more messages than the log can name.
    pub(super) unnamed: BTreeMap<u32, u32>,
    /// Mailboxes that lack chunks, and how many.
    pub(super) chunks: BTreeMap<u32, u32>,
    /// The kind of record that lacks in a deleted mailbox, unless it is just being forgotten.
    pub(super) in_deleted: Option<&'static str>,
    /// Messages that are there though they were expunged.
    pub(super) risen: BTreeMap<u32, UidSet>,
    /// Messages whose modseq is not the one of their last change.
    pub(super) stale: BTreeMap<u32, UidSet>,
    /// Modseqs without an entry in the log.
    pub(super) gaps: BTreeSet<u64>,
    /// Tombstones that are not what the log says, and what they should be.
    pub(super) tombstones: BTreeMap<(u32, u64), UidSet>,
    /// Tombstones of which the log's entry says nothing.
    pub(super) unlogged: BTreeMap<(u32, u64), UidSet>,
}

impl Seen {
    /// The highest modseq that any record of the account speaks of.
    pub(super) fn highest_modseq(&self) -> u64 {
        let messages = self.messages.values().flatten().map(|m| m.modseq.get());
        let summaries = self.summaries.values().map(|s| s.highest_modseq.get());
        let tombstones = self.tombstones.keys().map(|(_, modseq)| *modseq);
        let log = self.log.keys().copied();
        let private = self.private.values().map(Private::modseq);
        let moves = std::iter::once(self.last_move);
        let all = messages.chain(summaries).chain(tombstones).chain(log).chain(private).chain(moves);
        all.max().unwrap_or(1).max(1)
    }
}

impl History {
    pub(super) fn of(seen: &Seen) -> History {
        let mut history = History::default();
        let floor = seen.record.as_ref().map_or(u64::MAX, |record| record.log_floor);
        let last = seen.record.as_ref().map_or(0, |record| record.modseq.get());
        // Never more gaps than there can be entries: a counter that jumped has its floor with it.
        history.gaps = (floor.saturating_add(1)..=last).filter(|m| !seen.log.contains_key(m)).collect();
        let mut newest: HashMap<(u32, u32), u64> = HashMap::new();
        let mut gone: BTreeMap<u32, UidSet> = BTreeMap::new();
        let mut expected: BTreeMap<(u32, u64), UidSet> = BTreeMap::new();
        for (modseq, entry) in &seen.log {
            for (number, change) in &entry.changes {
                match change {
                    Change::Arrived(uids) | Change::Flags(uids) => {
                        newest.extend(uids.iter().map(|uid| ((*number, uid), *modseq)));
                    }
                    Change::Expunged(uids) => {
                        gone.entry(*number).or_default().extend(uids);
                        expected.entry((*number, *modseq)).or_default().extend(uids);
                    }
                    Change::Created
                    | Change::Settings
                    | Change::Deleted
                    | Change::Annotations(_)
                    | Change::Renamed(_)
                    | Change::Seen(..) => {}
                }
            }
        }
        for ((number, _), uids) in &seen.tombstones {
            gone.entry(*number).or_default().extend(uids);
        }
        newest.retain(|(number, uid), _| !gone.get(number).is_some_and(|gone| gone.contains(*uid)));
        let present = |number: &u32| {
            !seen.is_deleted(*number)
                && (seen.settings.contains_key(number)
                    || seen.summaries.contains_key(number)
                    || seen.messages.contains_key(number))
        };
        for (number, messages) in seen.messages.iter().filter(|(number, _)| present(number)) {
            for message in messages {
                let uid = message.uid;
                if gone.get(number).is_some_and(|gone| gone.contains_uid(uid)) {
                    history.risen.entry(*number).or_default().insert_uid(uid);
                    continue;
                }
                let modseq = message.modseq.get();
                let agrees = match newest.remove(&(*number, uid.get())) {
                    Some(known) if known >= modseq => known == modseq,
                    // The entry that should know better is missing, or says something else.
                    _ => modseq <= floor || !seen.log.contains_key(&modseq),
                };
                if !agrees {
                    history.stale.entry(*number).or_default().insert_uid(uid);
                }
            }
        }
        for (number, uid) in newest.into_keys().filter(|(number, _)| present(number)) {
            history.lost.entry(number).or_default().insert(uid);
        }
        for ((number, modseq), uids) in &expected {
            if present(number) && seen.tombstones.get(&(*number, *modseq)) != Some(uids) {
                history.tombstones.insert((*number, *modseq), uids.clone());
            }
        }
        for ((number, modseq), uids) in &seen.tombstones {
            if *modseq > floor && seen.log.contains_key(modseq) && !expected.contains_key(&(*number, *modseq))
            {
                history.unlogged.insert((*number, *modseq), uids.clone());
            }
        }
        history.count(seen, present);
        history
    }

    fn count(&mut self, seen: &Seen, present: impl Fn(&u32) -> bool) {
        for (number, summary) in seen.summaries.iter().filter(|(number, _)| seen.is_deleted(**number)) {
            let there = seen.messages.get(number).map_or(0, Vec::len);
            if usize::try_from(summary.exists).is_ok_and(|exists| exists > there) {
                let chunks = seen.chunks.get(number).copied().unwrap_or(0);
                self.in_deleted =
                    Some(if summary.chunks > chunks { "message chunk" } else { "message delta" });
            }
        }
        let len = |sets: &BTreeMap<u32, UidSet>, number: &u32| sets.get(number).map_or(0, UidSet::len);
        for (number, summary) in seen.summaries.iter().filter(|(number, _)| present(number)) {
            let chunks = seen.chunks.get(number).copied().unwrap_or(0);
            if summary.chunks > chunks {
                self.chunks.insert(*number, summary.chunks - chunks);
            }
            let there = seen.messages.get(number).map_or(0, |messages| messages.len() as u64);
            let known = there.saturating_sub(len(&self.risen, number)) + len(&self.lost, number);
            let unnamed = u64::from(summary.exists).saturating_sub(known);
            if unnamed > 0 {
                self.unnamed.insert(*number, u32::try_from(unnamed).unwrap_or(u32::MAX));
            }
        }
    }

    /// Whether messages have gone without having been expunged.
    pub(super) fn has_losses(&self) -> bool {
        !self.lost.is_empty() || !self.unnamed.is_empty() || !self.chunks.is_empty() || !self.risen.is_empty()
    }

    /// Whether a mailbox's messages are not those its summary counts, for a reason that is told elsewhere.
    pub(super) fn explains_counts(&self, number: u32) -> bool {
        [&self.lost, &self.risen, &self.stale].into_iter().any(|sets| sets.contains_key(&number))
            || self.unnamed.contains_key(&number)
            || self.chunks.contains_key(&number)
    }

    pub(super) fn tell(&self, id: AccountId, findings: &mut Findings) {
        for modseq in self.gaps.iter().filter_map(|modseq| ModSeq::new(*modseq)) {
            findings.add("change log entry", &keys::log(id, modseq), "it is missing");
        }
        let mailbox = |number: &u32| MailboxId { account: id, number: *number };
        let numbers: BTreeSet<&u32> =
            self.lost.keys().chain(self.unnamed.keys()).chain(self.chunks.keys()).collect();
        for number in numbers {
            let lost = self.lost.get(number).cloned().unwrap_or_default();
            let key = match lost.first().and_then(Uid::new) {
                Some(first) => keys::message(mailbox(number), first),
                None => keys::mailbox(mailbox(number)).to_vec(),
            };
            let mut what = match lost.is_empty() {
                true => String::from("it is missing"),
                false => format!("it is missing: messages {lost} are not there"),
            };
            if let Some(unnamed) = self.unnamed.get(number) {
                what.push_str(&format!(", and {unnamed} more that are too old for the change log"));
            }
            let kind = if self.chunks.contains_key(number) { "message chunk" } else { "message delta" };
            findings.add(kind, &key, what);
        }
        let each = |sets: &BTreeMap<u32, UidSet>, what: &str, findings: &mut Findings| {
            for (number, uids) in sets {
                for uid in uids.uids() {
                    findings.add("message delta", &keys::message(mailbox(number), uid), what);
                }
            }
        };
        each(&self.risen, "it is missing: the message was expunged", findings);
        each(&self.stale, "it is missing: a newer state of the message is lost", findings);
        for (number, modseq) in self.tombstones.keys() {
            let Some(modseq) = ModSeq::new(*modseq) else { continue };
            let what = "it is not what the change log says was expunged";
            findings.add("tombstone", &keys::tombstone(mailbox(number), modseq), what);
        }
        for (_, modseq) in self.unlogged.keys() {
            let Some(modseq) = ModSeq::new(*modseq) else { continue };
            findings.add("change log entry", &keys::log(id, modseq), "it does not speak of a tombstone");
        }
    }
}
