//! The contents of an account: where they are, how often they are referred to, and what to do with those whose
//! octets or whose messages are lost.

use super::{ARRIVED, CREATED, EXPUNGED, Mend, RECOVERED, fixed};
use crate::append::thread_key;
use crate::check::account::Origin;
use crate::check::analysis::History;
use crate::check::rebuild::Stored;
use crate::check::volumes::Body;
use crate::check::{CheckError, Outcome};
use crate::encoding::hex;
use crate::keys;
use crate::messages::{KeywordNumbers, Message};
use crate::records::{self, ContentRecord};
use crate::store::now_unix;
use bytes::Bytes;
use rookery_kv::engine::Space;
use rookery_types::{ContentId, InternalDate, MailboxPath, SystemFlags, ThreadId, Uid};
use std::collections::{BTreeSet, HashSet};

impl Mend<'_, '_> {
    pub(super) fn contents(&mut self, history: &History) -> Result<(), CheckError> {
        let mut changed = HashSet::new();
        let gone = self.find_octets(&mut changed)?;
        self.forget_bodies(&gone)?;
        self.facts()?;
        self.threads();
        self.place_the_lost(history, &mut changed)?;
        for (content, (_, count)) in self.seen.references() {
            if let Some(record) = self.seen.contents.get_mut(&content)
                && record.references != count
            {
                record.references = count;
                changed.insert(content);
            }
        }
        for content in changed {
            let Some(record) = self.seen.contents.get(&content) else { continue };
            let key = keys::content(self.case.id, content);
            self.repair.put(Space::Content, key.to_vec(), record.encode(&key));
            let text = format!("{} messages refer to it", record.references);
            self.repair.note("content", &key, fixed(text));
            self.repair.pace()?;
        }
        Ok(())
    }

    /// Looks in all volumes for contents that are not where a record says, or have none; tells which are gone.
    fn find_octets(&mut self, changed: &mut HashSet<ContentId>) -> Result<BTreeSet<[u8; 16]>, CheckError> {
        let id = self.case.id;
        let mut wanted: BTreeSet<[u8; 16]> = self.case.bad.iter().map(|content| content.0).collect();
        let referred = self.seen.references().into_keys();
        let named = referred.chain(self.seen.origins.keys().copied());
        let without = named.filter(|content| !self.seen.contents.contains_key(content));
        wanted.extend(without.map(|content| content.0));
        let mut gone = BTreeSet::new();
        for content in wanted.into_iter().map(ContentId) {
            match self.index.find(id, content)? {
                Some(stored) => {
                    self.adopt(stored)?;
                    changed.insert(content);
                }
                None => drop(gone.insert(content.0)),
            }
        }
        for stored in std::mem::take(&mut self.case.unplaced) {
            if !self.seen.contents.contains_key(&stored.content) {
                changed.insert(stored.content);
                self.adopt(stored)?;
            }
        }
        Ok(gone)
    }

    /// Makes a content's record point to octets that were found.
    fn adopt(&mut self, stored: Stored) -> Result<(), CheckError> {
        let too_large = |_| CheckError::Exhausted("octets");
        let record = ContentRecord {
            locator: stored.locator,
            size: u32::try_from(stored.size).map_err(too_large)?,
            stored: u32::try_from(stored.stored).map_err(too_large)?,
            references: 0,
            thread: self.thread_of(&stored)?,
        };
        self.seen.contents.insert(stored.content, record);
        Ok(())
    }

    fn thread_of(&mut self, stored: &Stored) -> Result<ThreadId, CheckError> {
        if let Some(record) = self.seen.contents.get(&stored.content) {
            return Ok(record.thread);
        }
        let id = self.case.id;
        let ids = match self.seen.origins.get(&stored.content) {
            Some(origin) => origin.message_ids.clone(),
            None => self.index.facts(id, stored)?.message_ids,
        };
        let known = ids.iter().find_map(|message_id| self.seen.threads.get(&thread_key(id, message_id)[..]));
        let own = stored.content.0.first_chunk().map_or(0, |octets| u64::from_le_bytes(*octets));
        Ok(known.copied().unwrap_or(ThreadId(own)))
    }

    /// Takes messages out of their mailboxes whose octets are gone, and keeps all that is known of them aside.
    fn forget_bodies(&mut self, gone: &BTreeSet<[u8; 16]>) -> Result<(), CheckError> {
        if gone.is_empty() {
            return Ok(());
        }
        let id = self.case.id;
        let is_gone = |content: &ContentId| gone.contains(&content.0);
        for content in gone.iter().map(|content| ContentId(*content)) {
            let (body, octets) = match self.seen.contents.get(&content) {
                Some(record) => (Body { account: id, content, locator: record.locator }, record.stored),
                None => continue,
            };
            let file = self.repair.keep_octets(&body, octets.into())?;
            let text = match file {
                Some(file) => format!("what is left of its octets is in {file}"),
                None => "nothing is left of its octets".into(),
            };
            let name = body.name();
            self.repair.note_named("volume record", name, Outcome::Quarantined(text));
        }
        for (number, path) in self.paths() {
            let messages = self.seen.messages.get(&number).into_iter().flatten();
            let doomed: Vec<Uid> = messages.filter(|m| is_gone(&m.content)).map(|m| m.uid).collect();
            for uid in doomed {
                let Some(message) = self.remove(number, uid) else { continue };
                let key = keys::message(self.mailbox(number), uid);
                let value = records::encode_delta(&key, Some(&message));
                let name = self.repair.keep_aside(&format!("message/{}", hex(&key)), &value)?;
                let text = format!(
                    "message {uid} of {path} has no octets any more and is expunged; its record is under {name}"
                );
                self.repair.note("content", &keys::content(id, message.content), Outcome::Quarantined(text));
                if !self.seen.is_deleted(number) {
                    self.change(number, EXPUNGED).insert_uid(uid);
                }
            }
        }
        for (key, message) in std::mem::take(&mut self.seen.expunged) {
            if !is_gone(&message.content) {
                self.seen.expunged.push((key, message));
                continue;
            }
            let value = records::encode_expunged(&key, &message);
            let name = self.repair.put_aside(Space::Queue, &key, &value)?;
            let text = format!("an expunged message has no octets any more; its record is under {name}");
            self.repair.note("content", &keys::content(id, message.content), Outcome::Quarantined(text));
        }
        for content in gone.iter().map(|content| ContentId(*content)) {
            self.seen.contents.remove(&content);
            self.seen.origins.remove(&content);
            for key in [keys::content(id, content), keys::facts(id, content)] {
                if let Some(value) = self.repair.engine.get(Space::Content, &key)? {
                    let name = self.repair.put_aside(Space::Content, &key, &value)?;
                    let outcome = Outcome::Quarantined(format!("its octets are gone; it is under {name}"));
                    self.repair.note("content", &key, outcome);
                }
            }
            self.repair.pace()?;
        }
        Ok(())
    }

    fn paths(&self) -> Vec<(u32, String)> {
        let path = |number: &u32| self.seen.settings.get(number).map(|settings| settings.path.to_string());
        self.seen.messages.keys().map(|number| (*number, path(number).unwrap_or_default())).collect()
    }

    /// Scans contents again whose facts are lost.
    fn facts(&mut self) -> Result<(), CheckError> {
        let id = self.case.id;
        let without: Vec<Stored> = self
            .seen
            .contents
            .iter()
            .filter(|(content, _)| !self.seen.origins.contains_key(content))
            .map(|(content, record)| Stored {
                content: *content,
                locator: record.locator,
                size: record.size.into(),
                stored: record.stored.into(),
            })
            .collect();
        for stored in without {
            let facts = self.index.facts(id, &stored)?;
            let key = keys::facts(id, stored.content);
            self.repair.put(Space::Content, key.to_vec(), facts.encode(&key));
            self.repair.note("content facts", &key, fixed("found out anew from the message's octets"));
            let origin = Origin { sent: facts.sent, message_ids: facts.message_ids };
            self.seen.origins.insert(stored.content, origin);
            self.repair.pace()?;
        }
        Ok(())
    }

    fn threads(&mut self) {
        let id = self.case.id;
        for (content, origin) in &self.seen.origins {
            let Some(record) = self.seen.contents.get(content) else { continue };
            for message_id in &origin.message_ids {
                let key = thread_key(id, message_id);
                if !self.seen.threads.contains_key(&key[..]) {
                    let value = records::encode_thread(&key, record.thread);
                    self.repair.put(Space::Thread, key.to_vec(), value);
                    self.repair.note("thread", &key, fixed("made anew from a message that belongs to it"));
                    self.seen.threads.insert(Bytes::copy_from_slice(&key), record.thread);
                }
            }
        }
    }

    /// Puts contents whose message is lost into a mailbox.
    fn place_the_lost(
        &mut self,
        history: &History,
        changed: &mut HashSet<ContentId>,
    ) -> Result<(), CheckError> {
        let references = self.seen.references();
        let is_lost = |content: &ContentId, record: &ContentRecord| {
            let (live, all) = references.get(content).copied().unwrap_or_default();
            // One that is still in the queue of the expunged may have had a living copy among those that are lost.
            all == 0 || (live == 0 && record.references > all && history.has_losses())
        };
        let lost: BTreeSet<[u8; 16]> = self
            .seen
            .contents
            .iter()
            .filter(|(content, record)| is_lost(content, record))
            .map(|(content, _)| content.0)
            .collect();
        if lost.is_empty() {
            return Ok(());
        }
        let number = self.recovered()?;
        let first = self.uid_floors.get(&number).copied().unwrap_or(1);
        let old = self.seen.summaries.get(&number).map_or(1, |summary| summary.uid_next);
        let mut next = first.max(old);
        for content in lost.into_iter().map(ContentId) {
            let Some(record) = self.seen.contents.get(&content) else { continue };
            let uid = Uid::new(next).ok_or(CheckError::Exhausted("UIDs"))?;
            next = next.checked_add(1).ok_or(CheckError::Exhausted("UIDs"))?;
            let now = now_unix();
            let sent = self.seen.origins.get(&content).and_then(|origin| origin.sent);
            let message = Message {
                uid,
                size: record.size,
                modseq: self.modseq,
                date: sent.unwrap_or_else(|| InternalDate::from_unix(now.into())),
                saved_unix_seconds: now,
                flags: SystemFlags::NONE,
                keywords: KeywordNumbers::default(),
                content,
            };
            self.deltas.insert((number, uid), Some(message.clone()));
            self.seen.messages.entry(number).or_default().push(message);
            self.change(number, ARRIVED).insert_uid(uid);
            changed.insert(content);
            let text = format!("its message was lost; it is message {uid} of {RECOVERED} now, without flags");
            let key = keys::content(self.case.id, content);
            self.repair.note("content", &key, fixed(text.clone()));
            self.repair.note("expunged message", &key, fixed(text));
        }
        Ok(())
    }

    fn recovered(&mut self) -> Result<u32, CheckError> {
        let path = MailboxPath::new(RECOVERED).unwrap_or_else(|_| MailboxPath::inbox());
        let known = self
            .seen
            .settings
            .iter()
            .find(|(_, settings)| settings.deleted_unix_seconds.is_none() && settings.path == path);
        if let Some((number, _)) = known {
            return Ok(*number);
        }
        let number =
            self.record.last_mailbox.checked_add(1).ok_or(CheckError::Exhausted("mailbox numbers"))?;
        self.record.last_mailbox = number;
        let settings = self.new_settings(path)?;
        self.seen.settings.insert(number, settings);
        self.settings_changed.insert(number);
        self.change(number, CREATED);
        Ok(number)
    }
}
