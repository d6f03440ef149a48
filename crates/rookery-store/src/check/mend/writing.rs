//! What is on disk in the end: records that differ from what they should say, counts, and the repair's own change.

use super::{ARRIVED, CREATED, FLAGS, Mend, fixed};
use crate::check::account::{chunk_summary_faults, counted, held, usage};
use crate::check::analysis::History;
use crate::check::private::{self, FaultKind};
use crate::check::repair::JUMP;
use crate::check::{CheckError, Outcome};
use crate::keys;
use crate::records::{self, Change, LogEntry, Summary};
use rookery_kv::engine::Space;
use rookery_types::{MailboxId, ModSeq, Uid, UidSet};

impl Mend<'_, '_> {
    /// Writes what differs from what is on disk.
    pub(super) fn finish(&mut self, history: &History) -> Result<(), CheckError> {
        let id = self.case.id;
        if self.case.lost_suffix {
            self.touched.extend(self.seen.settings.keys().filter(|number| !self.seen.is_deleted(**number)));
        }
        for number in std::mem::take(&mut self.settings_changed) {
            if let Some(settings) = self.seen.settings.get(&number) {
                let mailbox = MailboxId { account: id, number };
                self.repair.put(Space::Mailbox, keys::settings(mailbox), settings.encode(mailbox));
            }
        }
        for ((number, uid), message) in &self.deltas {
            let key = keys::message(MailboxId { account: id, number: *number }, *uid);
            let value = records::encode_delta(&key, message.as_ref());
            self.repair.put(Space::Delta, key, value);
            self.seen.deltas.entry(*number).or_default().insert_uid(*uid);
        }
        self.repair.pace()?;
        self.private(history)?;
        if !self.entry.is_empty() || !self.touched.is_empty() || !self.looked_again.is_empty() {
            self.write_entry();
        }
        for number in self.seen.settings.keys().copied().collect::<Vec<_>>() {
            self.summary(number, history);
        }
        self.chunk_summaries(history);
        self.quotas();
        (self.record.messages, self.record.octets) = usage(&self.seen);
        let key = keys::account_record(id);
        let value = self.record.encode(id);
        if self.repair.engine.get(Space::Account, &key)?.as_ref() != Some(&value) {
            self.repair.put(Space::Account, key.to_vec(), value);
        }
        Ok(())
    }

    /// Counts anew what summaries of chunks count wrong, now that all messages are as they will be.
    fn chunk_summaries(&mut self, history: &History) {
        if !self.case.summarised {
            return;
        }
        let wanted = self.seen.chunk_summaries();
        for (at, _) in chunk_summary_faults(&self.seen, &wanted) {
            let key = keys::message(self.mailbox(at.0), Uid::new(at.1).unwrap_or(Uid::FIRST));
            let text = match wanted.get(&at) {
                Some(summary) => {
                    let value = records::encode_chunk_summary(&key, summary);
                    self.repair.put(Space::Leaf, key.clone(), value);
                    "counted anew"
                }
                None => {
                    self.repair.delete(Space::Leaf, key.clone());
                    "taken away: its chunk is not there"
                }
            };
            if !self.seen.is_deleted(at.0) && !history.explains_counts(at.0) {
                self.repair.note("chunk summary", &key, fixed(text));
            }
        }
    }

    /// Puts aside what users have seen of mailboxes that are gone, and counts the rest anew where it is wrong: as a
    /// change of that user, now, so that clients look again. A lost record means that its messages are not seen.
    fn private(&mut self, history: &History) -> Result<(), CheckError> {
        for fault in private::faults(&self.seen, history) {
            let mailbox = self.mailbox(fault.number);
            let at = (fault.number, fault.user.clone());
            let private = self.seen.private.remove(&at).unwrap_or_default();
            if fault.kind == FaultKind::Stray {
                for key in private.keys(mailbox, &fault.user) {
                    let value = self.repair.engine.get(Space::Account, &key)?.unwrap_or_default();
                    let name = self.repair.put_aside(Space::Account, &key, &value)?;
                    let text = format!("its mailbox is gone; it is under {name}");
                    self.repair.note(private::kind_of(&key), &key, Outcome::Quarantined(text));
                }
                continue;
            }
            // What no record speaks of may have been seen: now it is not, which the user's clients have to hear.
            let unknown = match fault.kind {
                FaultKind::Lost => private.unknown(&self.seen, fault.number),
                _ => UidSet::new(),
            };
            let (now, touched) = private.looked_again(&self.seen, fault.number, &unknown, self.modseq);
            for number in touched {
                if let Some(block) = now.block(number) {
                    let key = keys::seen_block(mailbox, &fault.user, number);
                    let value = block.encode(&key);
                    self.repair.put(Space::Account, key, value);
                }
            }
            let (kind, key) = fault.record(self.case.id);
            self.repair.put(Space::Account, key.clone(), now.head().encode(&key));
            let text = format!("counted anew: the user has seen {} messages", now.head().count.unwrap_or(0));
            self.repair.note(kind, &key, fixed(text));
            self.looked_again.push((fault.number, fault.user, unknown));
        }
        Ok(())
    }

    /// Counts anew what each quota root holds.
    fn quotas(&mut self) {
        let held = held(&self.seen);
        for (number, held) in &held {
            if self.seen.held.get(number) != Some(held) {
                let id = self.mailbox(*number);
                let key = keys::held(id);
                let text = format!("counted anew: {} messages of {} octets", held.messages, held.octets);
                self.repair.put(Space::Mailbox, key.clone(), held.encode(id));
                self.repair.note("quota usage", &key, fixed(text));
            }
        }
        for number in self.seen.held.keys().filter(|number| !held.contains_key(number)) {
            let key = keys::held(self.mailbox(*number));
            self.repair.delete(Space::Mailbox, key.clone());
            self.repair.note("quota usage", &key, fixed("taken away: the mailbox is no quota root any more"));
        }
    }

    /// The repair's own changes are a change like any: clients hear of them.
    fn write_entry(&mut self) {
        let mut entry = LogEntry::default();
        for ((number, what), uids) in std::mem::take(&mut self.entry) {
            let change = match what {
                CREATED => Change::Created,
                _ if uids.is_empty() => Change::Settings,
                ARRIVED => Change::Arrived(uids),
                FLAGS => Change::Flags(uids),
                _ => {
                    let key = keys::tombstone(self.mailbox(number), self.modseq);
                    let value = records::encode_tombstone(&key, &uids);
                    self.repair.put(Space::Tombstone, key, value);
                    Change::Expunged(uids)
                }
            };
            entry.changes.push((number, change));
        }
        for (number, user, uids) in std::mem::take(&mut self.looked_again) {
            entry.changes.push((number, Change::Seen(user, uids)));
        }
        self.record.modseq = self.modseq;
        let key = keys::log(self.case.id, self.modseq);
        self.repair.put(Space::Log, key.to_vec(), entry.encode(&key));
    }

    fn summary(&mut self, number: u32, history: &History) {
        let mailbox = self.mailbox(number);
        let key = keys::summary(mailbox);
        let old = self.seen.summaries.get(&number);
        if self.seen.is_deleted(number) && old.is_some() {
            return;
        }
        let messages = self.seen.messages.get(&number).map_or(&[][..], Vec::as_slice);
        let floor = self.uid_floors.get(&number).copied().unwrap_or(1);
        let last = messages.last().map_or(0, |m| m.uid.get()).saturating_add(1);
        let mut uid_next = floor.max(last).max(old.map_or(1, |old| old.uid_next));
        let has_birth =
            self.seen.log.values().any(|entry| entry.changes.contains(&(number, Change::Created)));
        if self.case.lost_suffix || (old.is_none() && !has_birth) {
            uid_next = uid_next.saturating_add(JUMP);
        }
        let modseqs = messages.iter().map(|m| m.modseq);
        let tombstones = self.seen.tombstones.keys().filter(|(n, _)| *n == number);
        let mut highest_modseq = modseqs
            .chain(tombstones.filter_map(|(_, modseq)| ModSeq::new(*modseq)))
            .chain(old.map(|old| old.highest_modseq))
            .max()
            .unwrap_or(ModSeq::FIRST);
        if old.is_none() {
            highest_modseq = self.record.modseq;
        }
        if self.touched.contains(&number) {
            highest_modseq = self.modseq;
        }
        let count =
            |uids: Option<&UidSet>| uids.map_or(0, |uids| u32::try_from(uids.len()).unwrap_or(u32::MAX));
        let new = Summary {
            uid_next,
            highest_modseq,
            deltas: count(self.seen.deltas.get(&number)),
            chunks: self.seen.chunks.get(&number).copied().unwrap_or(0),
            ..counted(messages)
        };
        // It may count more writes than there are records, and never fewer.
        let same = |old: &Summary| {
            old.deltas >= new.deltas && Summary { deltas: 0, ..*old } == Summary { deltas: 0, ..new }
        };
        if old.is_some_and(same) {
            return;
        }
        self.repair.put(Space::Mailbox, key.clone(), new.encode(mailbox));
        if !history.explains_counts(number) {
            let text = format!("counted anew: {} messages, UIDNEXT {}", new.exists, new.uid_next);
            self.repair.note("mailbox summary", &key, fixed(text));
        }
    }
}
