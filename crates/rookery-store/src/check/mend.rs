//! Repair of one account: what its records should say is worked out in memory, and what differs is written.
//!
//! Decisions:
//! - A message whose placement is lost is expunged under its UID, and its content comes back in `Recovered`.
//! - A message whose octets are lost is expunged; its record is kept under quarantine.
//! - UIDVALIDITY changes only of a mailbox whose settings are lost. Where a UIDNEXT or a modseq is lost, the new
//!   one is far above all that is seen, and the change log begins anew, so that clients look at everything again.

mod contents;
mod writing;

use super::account::Seen;
use super::analysis::History;
use super::private;
use super::rebuild::{Index, Stored};
use super::repair::{JUMP, Repair};
use super::{CheckError, Outcome};
use crate::keys;
use crate::messages::Message;
use crate::records::{self, AccountRecord, AccountState, Change, Limits, LogEntry, Settings};
use crate::store::now_unix;
use rookery_kv::engine::Space;
use rookery_types::acl::{Acl, Identifier};
use rookery_types::{
    AccountId, ContentId, Epoch, Keyword, MailboxId, MailboxPath, ModSeq, NodeId, Rights, StoreId, Uid,
    UidSet, UidValidity, UserName,
};
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

/// The mailbox for messages that were in none any more.
const RECOVERED: &str = "Recovered";

/// What is known of an account from outside its records.
pub(super) struct Case {
    pub(super) id: AccountId,
    pub(super) node: NodeId,
    pub(super) store: StoreId,
    /// The engine has lost its end: numbers may have been given that no record speaks of.
    pub(super) lost_suffix: bool,
    /// The store is of a format that has summaries of chunks.
    pub(super) summarised: bool,
    /// Contents whose octets cannot be had where their record says.
    pub(super) bad: HashSet<ContentId>,
    /// Contents that were written for records that are lost.
    pub(super) unplaced: Vec<Stored>,
}

/// An account on its way to be whole.
struct Mend<'r, 'a> {
    repair: &'r mut Repair<'a>,
    index: &'r mut Index,
    case: Case,
    seen: Seen,
    record: AccountRecord,
    /// What the repair itself changes, under one modseq.
    modseq: ModSeq,
    entry: BTreeMap<(u32, u8), UidSet>,
    touched: BTreeSet<u32>,
    deltas: BTreeMap<(u32, Uid), Option<Message>>,
    settings_changed: BTreeSet<u32>,
    /// UIDNEXTs below these may have been given.
    uid_floors: BTreeMap<u32, u32>,
    /// Users for whom messages are not seen any more, or who have to look again.
    looked_again: Vec<(u32, UserName, UidSet)>,
}

const ARRIVED: u8 = 0;
const FLAGS: u8 = 1;
const EXPUNGED: u8 = 2;
const CREATED: u8 = 3;

fn fixed(text: impl Into<String>) -> Outcome {
    Outcome::Repaired(text.into())
}

/// Mends one account.
pub(super) fn account(repair: &mut Repair<'_>, index: &mut Index, case: Case) -> Result<(), CheckError> {
    let mut seen = Seen::read(repair.engine, case.id)?;
    if seen.is_empty() && case.unplaced.is_empty() {
        return Ok(());
    }
    if !seen.overlapping.is_empty() {
        for key in std::mem::take(&mut seen.overlapping) {
            let value = repair.engine.get(Space::Chunk, &key)?.unwrap_or_default();
            let name = repair.put_aside(Space::Chunk, &key, &value)?;
            let text = format!("the chunk is under {name}, its messages come back in {RECOVERED}");
            repair.note("message chunk", &key, Outcome::Quarantined(text));
        }
        repair.flush()?;
        seen = Seen::read(repair.engine, case.id)?;
    }
    if seen.is_going() {
        let is_deleted = seen.record.as_ref().is_some_and(|record| record.state == AccountState::Deleted);
        if !seen.queued.contains_key(&0) && (is_deleted || !seen.contents.is_empty()) {
            let key = keys::deleted_account(case.id, 0);
            repair.put(Space::Queue, key.to_vec(), records::encode_deleted_mailbox(&key));
            repair.note("deleted account", &key, fixed("made anew from the account's record"));
        }
        return repair.flush();
    }
    if seen.is_coming() {
        // What differs from its home is sent again.
        return repair.flush();
    }
    let record = mended_record(repair, &seen, &case);
    seen.record = Some(record.clone());
    let modseq = record.modseq.next().ok_or(CheckError::Exhausted("modseqs"))?;
    let mut mend = Mend {
        repair,
        index,
        case,
        seen,
        record,
        modseq,
        entry: BTreeMap::new(),
        touched: BTreeSet::new(),
        deltas: BTreeMap::new(),
        settings_changed: BTreeSet::new(),
        uid_floors: BTreeMap::new(),
        looked_again: Vec::new(),
    };
    mend.uid_floors();
    mend.settings()?;
    mend.deleted_mailboxes();
    mend.subscriptions();
    mend.annotations()?;
    let history = History::of(&mend.seen);
    mend.history(&history);
    mend.contents(&history)?;
    mend.keywords();
    mend.finish(&history)
}

/// The account's record with counters that are above all that is seen.
fn mended_record(repair: &mut Repair<'_>, seen: &Seen, case: &Case) -> AccountRecord {
    let key = keys::account_record(case.id);
    let highest = seen.highest_modseq();
    let jump = |from: u64| {
        ModSeq::new(from.saturating_add(JUMP.into())).unwrap_or(ModSeq::new(highest).unwrap_or(ModSeq::FIRST))
    };
    let mut record = match &seen.record {
        Some(record) => record.clone(),
        None => {
            let owner = owner(seen);
            let whose = owner.as_ref().map_or("nobody, so nobody has rights", UserName::as_str);
            let text = format!(
                "made anew: its owner is, by its mailboxes, {whose}; limits are lost; modseqs go on far above"
            );
            repair.note("account", &key, fixed(text));
            AccountRecord {
                node: case.node,
                store: case.store,
                epoch: Epoch(1),
                incarnation: 1,
                state: match seen.queued.contains_key(&0) {
                    true => AccountState::Deleted,
                    false => AccountState::Home,
                },
                owner,
                modseq: jump(highest),
                log_floor: jump(highest).get(),
                last_mailbox: 0,
                last_uid_validity: now_unix(),
                octets: 0,
                messages: 0,
                limits: Limits::default(),
            }
        }
    };
    if case.lost_suffix || highest > record.modseq.get() {
        record.modseq = jump(highest.max(record.modseq.get()));
        record.log_floor = record.modseq.get();
        repair.note("account", &key, fixed("modseqs go on far above what is seen, with a new change log"));
    }
    let numbers = seen.settings.keys().chain(seen.summaries.keys()).chain(seen.messages.keys());
    let numbers = numbers.chain(seen.queued.keys()).chain(seen.tombstones.keys().map(|(number, _)| number));
    let logged = seen.log.values().flat_map(|entry| entry.changes.iter().map(|(number, _)| number));
    record.last_mailbox = numbers.chain(logged).copied().max().unwrap_or(0).max(record.last_mailbox);
    let validities = seen.settings.values().map(|settings| settings.uid_validity.get());
    record.last_uid_validity = validities.max().unwrap_or(0).max(record.last_uid_validity);
    record
}

/// The user who has all rights most often.
fn owner(seen: &Seen) -> Option<UserName> {
    let mut users: BTreeMap<&str, (usize, &UserName)> = BTreeMap::new();
    for entry in seen.settings.values().flat_map(|settings| settings.acl.entries()) {
        if let Identifier::User(user) = &entry.identifier
            && !entry.negative
            && entry.rights.contains(Rights::ADMINISTER)
        {
            users.entry(user.as_str()).or_insert((0, user)).0 += 1;
        }
    }
    users.into_values().max_by_key(|(count, _)| *count).map(|(_, user)| user.clone())
}

impl Mend<'_, '_> {
    fn mailbox(&self, number: u32) -> MailboxId {
        MailboxId { account: self.case.id, number }
    }

    fn change(&mut self, number: u32, what: u8) -> &mut UidSet {
        self.touched.insert(number);
        self.entry.entry((number, what)).or_default()
    }

    /// Takes a message out of its mailbox's records.
    fn remove(&mut self, number: u32, uid: Uid) -> Option<Message> {
        let messages = self.seen.messages.get_mut(&number)?;
        let at = messages.binary_search_by_key(&uid, |m| m.uid).ok()?;
        self.deltas.insert((number, uid), None);
        Some(messages.remove(at))
    }

    /// The first UIDs that no record speaks of.
    fn uid_floors(&mut self) {
        let mut floors: BTreeMap<u32, u32> = BTreeMap::new();
        let mut raise = |number: u32, uid: Option<u32>| {
            let floor = floors.entry(number).or_insert(1);
            *floor = (*floor).max(uid.map_or(1, |uid| uid.saturating_add(1)));
        };
        for (number, messages) in &self.seen.messages {
            raise(*number, messages.last().map(|m| m.uid.get()));
        }
        for ((number, _), uids) in &self.seen.tombstones {
            raise(*number, uids.last());
        }
        for (key, message) in &self.seen.expunged {
            if let Some(mailbox) = keys::queued_mailbox(key) {
                raise(mailbox.number, Some(message.uid.get()));
            }
        }
        for (number, change) in self.seen.log.values().flat_map(|entry| &entry.changes) {
            match change {
                Change::Arrived(uids) | Change::Flags(uids) | Change::Expunged(uids) => {
                    raise(*number, uids.last());
                }
                Change::Seen(_, uids) => raise(*number, uids.last()),
                Change::Created
                | Change::Settings
                | Change::Deleted
                | Change::Annotations(_)
                | Change::Renamed(_) => {}
            }
        }
        for (number, uid) in private::last_uids(&self.seen) {
            raise(number, Some(uid.get()));
        }
        self.uid_floors = floors;
    }

    fn new_settings(&mut self, path: MailboxPath) -> Result<Settings, CheckError> {
        let validity = self.record.last_uid_validity.checked_add(1);
        let validity = validity.ok_or(CheckError::Exhausted("UIDVALIDITYs"))?.max(now_unix());
        self.record.last_uid_validity = validity;
        let mut acl = Acl::new();
        // Without an owner nobody has rights: an administrator gives them.
        if let Some(owner) = &self.record.owner {
            acl.set(Identifier::User(owner.clone()), false, Rights::ALL);
        }
        Ok(Settings {
            path,
            uid_validity: UidValidity::new(validity).ok_or(CheckError::Exhausted("UIDVALIDITYs"))?,
            special_use: Vec::new(),
            acl,
            keywords: Arc::default(),
            deleted_unix_seconds: None,
            quota: None,
        })
    }

    fn free_path(&self, wanted: &str) -> MailboxPath {
        let taken = |path: &MailboxPath| {
            self.seen.settings.values().any(|s| s.deleted_unix_seconds.is_none() && s.path == *path)
        };
        let names = (0..u32::MAX).map(|n| if n == 0 { wanted.to_string() } else { format!("{wanted}-{n}") });
        let mut free = names.filter_map(|name| MailboxPath::new(&name).ok()).filter(|path| !taken(path));
        free.next().unwrap_or_else(MailboxPath::inbox)
    }

    /// Gives mailboxes that lost their settings new ones, and those of one name different names.
    fn settings(&mut self) -> Result<(), CheckError> {
        let with_messages = self.seen.messages.iter().filter(|(_, messages)| !messages.is_empty());
        let numbers: BTreeSet<u32> = with_messages
            .map(|(number, _)| *number)
            .chain(self.seen.summaries.keys().copied())
            .filter(|number| !self.seen.settings.contains_key(number))
            .collect();
        for number in numbers {
            let path = self.free_path(&format!("{RECOVERED}/mailbox-{number}"));
            let mut settings = self.new_settings(path)?;
            settings.deleted_unix_seconds = self.seen.queued.get(&number).copied();
            let text = format!(
                "the mailbox is called {} now, with UIDVALIDITY {}; its name, rights and names of keywords are lost",
                settings.path, settings.uid_validity
            );
            self.repair.note("mailbox settings", &keys::settings(self.mailbox(number)), fixed(text));
            self.seen.settings.insert(number, settings);
            self.settings_changed.insert(number);
            self.change(number, CREATED);
        }
        let mut paths = BTreeSet::new();
        let mut doubles = Vec::new();
        for (number, settings) in &self.seen.settings {
            if settings.deleted_unix_seconds.is_none() && !paths.insert(settings.path.clone()) {
                doubles.push(*number);
            }
        }
        for number in doubles {
            let path = self.free_path(&format!("{RECOVERED}/mailbox-{number}"));
            let text = format!("the mailbox is called {path} now");
            self.repair.note("mailbox settings", &keys::settings(self.mailbox(number)), fixed(text));
            if let Some(settings) = self.seen.settings.get_mut(&number) {
                settings.path = path;
            }
            self.settings_changed.insert(number);
            self.change(number, CREATED);
        }
        Ok(())
    }

    fn deleted_mailboxes(&mut self) {
        for (number, settings) in &self.seen.settings {
            let Some(second) = settings.deleted_unix_seconds else { continue };
            if !self.seen.queued.contains_key(number) {
                let key = keys::deleted_mailbox(MailboxId { account: self.case.id, number: *number }, second);
                self.repair.put(Space::Queue, key.to_vec(), records::encode_deleted_mailbox(&key));
                self.repair.note("deleted mailbox", &key, fixed("made anew from the mailbox's settings"));
            }
        }
    }

    fn subscriptions(&mut self) {
        let id = self.case.id;
        for (name, mailbox) in self.seen.list.iter().flatten() {
            if !self.seen.subscriptions.contains_key(name) {
                let key = keys::subscription(id, name);
                self.repair.put(Space::Account, key.clone(), records::encode_subscription(&key, *mailbox));
                self.repair.note("subscription", &key, fixed("made anew from the list of subscriptions"));
                self.seen.subscriptions.insert(name.clone(), *mailbox);
            }
        }
        let none = self.seen.list.is_none() && self.seen.subscriptions.is_empty();
        if !none && self.seen.list.as_ref() != Some(&self.seen.subscriptions) {
            let key = keys::subscription_list(id);
            let value = records::encode_subscription_list(&key, &self.seen.subscriptions);
            self.repair.put(Space::Account, key.to_vec(), value);
            self.repair.note("subscription list", &key, fixed("made anew from the subscriptions"));
        }
    }

    /// Puts annotations of mailboxes that are gone aside, and counts the others anew.
    fn annotations(&mut self) -> Result<(), CheckError> {
        for (number, keys) in std::mem::take(&mut self.seen.annotated) {
            if number == 0 || self.seen.settings.contains_key(&number) {
                continue;
            }
            for key in keys {
                let value = self.repair.engine.get(Space::Account, &key)?.unwrap_or_default();
                let name = self.repair.put_aside(Space::Account, &key, &value)?;
                let text = format!("its mailbox is gone; it is under {name}");
                self.repair.note("annotation", &key, Outcome::Quarantined(text));
                self.seen.annotations.subtract(&key, &value);
            }
        }
        let counted = self.seen.annotations;
        let known = self.seen.annotation_usage.unwrap_or_default();
        if counted != known {
            let key = keys::annotation_usage(self.case.id);
            let text = format!("counted anew: {} annotations", counted.count);
            let lost = known.count > counted.count;
            match counted.count {
                0 => self.repair.delete(Space::Account, key.to_vec()),
                _ => self.repair.put(Space::Account, key.to_vec(), counted.encode(&key)),
            }
            self.repair.note("annotation usage", &key, fixed(text.clone()));
            if lost {
                let key = keys::annotations(self.case.id, None);
                self.repair.note("annotation", key.get(..9).unwrap_or(&key), fixed(text));
            }
        }
        Ok(())
    }

    /// Makes messages, tombstones and the change log agree.
    fn history(&mut self, history: &History) {
        let numbers: BTreeSet<u32> = history.lost.keys().chain(history.unnamed.keys()).copied().collect();
        for number in numbers.into_iter().chain(history.chunks.keys().copied()) {
            let uids = history.lost.get(&number).cloned().unwrap_or_default();
            self.change(number, EXPUNGED).extend(&uids);
            let key = match uids.first().and_then(Uid::new) {
                Some(first) => keys::message(self.mailbox(number), first),
                None => keys::mailbox(self.mailbox(number)).to_vec(),
            };
            let kind = if history.chunks.contains_key(&number) { "message chunk" } else { "message delta" };
            let text = format!(
                "messages {uids} are expunged under their UIDs; what is not elsewhere comes back in {RECOVERED}"
            );
            self.repair.note(kind, &key, fixed(text));
        }
        for (number, uids) in &history.risen {
            for uid in uids.uids() {
                self.remove(*number, uid);
                let key = keys::message(self.mailbox(*number), uid);
                self.repair.note(
                    "message delta",
                    &key,
                    fixed("the message is expunged, as its tombstone says"),
                );
            }
        }
        for (number, uids) in &history.stale {
            let modseq = self.modseq;
            for message in self.seen.messages.get_mut(number).into_iter().flatten() {
                if uids.contains_uid(message.uid) {
                    message.modseq = modseq;
                    self.deltas.insert((*number, message.uid), Some(message.clone()));
                }
            }
            self.change(*number, FLAGS).extend(uids);
            for uid in uids.uids() {
                let key = keys::message(self.mailbox(*number), uid);
                let text = "the message keeps its last known flags, as a new change";
                self.repair.note("message delta", &key, fixed(text));
            }
        }
        if !history.unnamed.is_empty() {
            // Nobody can be told which messages have gone: everybody has to look again.
            self.record.log_floor = self.modseq.get();
        }
        for ((number, modseq), uids) in &history.tombstones {
            let Some(modseq) = ModSeq::new(*modseq) else { continue };
            let key = keys::tombstone(self.mailbox(*number), modseq);
            self.repair.put(Space::Tombstone, key.clone(), records::encode_tombstone(&key, uids));
            self.repair.note("tombstone", &key, fixed("made anew from the change log"));
        }
        self.log(history);
    }

    fn log(&mut self, history: &History) {
        let mut entries: BTreeMap<u64, LogEntry> = BTreeMap::new();
        for modseq in &history.gaps {
            // What else it changed cannot be known: whoever reads it looks at all mailboxes again.
            let changes = self.seen.settings.keys().map(|number| (*number, Change::Settings)).collect();
            entries.insert(*modseq, LogEntry { changes, subscriptions: true });
        }
        if !entries.is_empty() {
            let mut known: BTreeSet<(u32, u32)> = BTreeSet::new();
            for (number, change) in self.seen.log.values().flat_map(|entry| &entry.changes) {
                if let Change::Arrived(uids) | Change::Flags(uids) = change {
                    known.extend(uids.iter().map(|uid| (*number, uid)));
                }
            }
            let mut of_gaps: BTreeMap<(u64, u32, bool), UidSet> = BTreeMap::new();
            for (number, messages) in &self.seen.messages {
                for message in messages.iter().filter(|m| history.gaps.contains(&m.modseq.get())) {
                    let is_known = known.contains(&(*number, message.uid.get()));
                    let at = (message.modseq.get(), *number, is_known);
                    of_gaps.entry(at).or_default().insert_uid(message.uid);
                }
            }
            for ((modseq, number, is_known), uids) in of_gaps {
                let change = if is_known { Change::Flags(uids) } else { Change::Arrived(uids) };
                entries.entry(modseq).or_default().changes.push((number, change));
            }
            for ((number, modseq), uids) in &self.seen.tombstones {
                if history.gaps.contains(modseq) {
                    let change = (*number, Change::Expunged(uids.clone()));
                    entries.entry(*modseq).or_default().changes.push(change);
                }
            }
        }
        for ((number, modseq), uids) in &history.unlogged {
            let old = self.seen.log.get(modseq).cloned().unwrap_or_default();
            let entry = entries.entry(*modseq).or_insert(old);
            entry.changes.push((*number, Change::Expunged(uids.clone())));
        }
        for (modseq, entry) in entries {
            let Some(modseq) = ModSeq::new(modseq) else { continue };
            let key = keys::log(self.case.id, modseq);
            self.repair.put(Space::Log, key.to_vec(), entry.encode(&key));
            let text = "made anew from messages and tombstones; it says that all mailboxes may have changed";
            self.repair.note("change log entry", &key, fixed(text));
        }
    }

    /// Names the keywords whose names are lost.
    fn keywords(&mut self) {
        for (number, settings) in &mut self.seen.settings {
            let messages = self.seen.messages.get(number).into_iter().flatten();
            let last = messages.filter_map(|m| m.keywords.as_slice().last()).max();
            let wanted = last.map_or(0, |last| usize::from(*last) + 1);
            if settings.keywords.len() >= wanted {
                continue;
            }
            let mut table = Vec::clone(&settings.keywords);
            for n in table.len()..wanted {
                table.extend(Keyword::new(&format!("$lost-{number}-{n}")));
            }
            settings.keywords = Arc::new(table);
            self.settings_changed.insert(*number);
        }
    }
}
