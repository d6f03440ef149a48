//! One account: its records as they can be read, and each against every other that knows of it.

use super::Findings;
use super::analysis::History;
use super::private::{self, Private};
use super::volumes::Body;
use crate::fold::{overlaid, summary_of};
use crate::keys;
use crate::leaf::{ChunkSummary, Counts};
use crate::messages::Message;
use crate::records::{
    self, AccountRecord, AccountState, Annotations, ContentRecord, Facts, Held, LogEntry, Settings, Summary,
};
use bytes::Bytes;
use rookery_kv::engine::{Engine, EngineError, Space, prefix_end};
use rookery_types::{
    AccountId, ContentId, InternalDate, MailboxId, MailboxPath, ModSeq, ThreadId, Uid, UidSet, UserName,
};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What is needed here of a content's facts.
pub(super) struct Origin {
    pub(super) sent: Option<InternalDate>,
    pub(super) message_ids: Vec<String>,
}

/// An account as its records have it; damaged ones are left out.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) record: Option<AccountRecord>,
    pub(super) subscriptions: BTreeMap<String, Option<MailboxId>>,
    pub(super) list: Option<BTreeMap<String, Option<MailboxId>>>,
    /// What the annotations that can be read come to.
    pub(super) annotations: Annotations,
    pub(super) annotation_usage: Option<Annotations>,
    /// Their keys, by the numbers of their mailboxes.
    pub(super) annotated: BTreeMap<u32, Vec<Bytes>>,
    /// What users have seen of mailboxes that are not theirs.
    pub(super) private: BTreeMap<(u32, UserName), Private>,
    pub(super) settings: BTreeMap<u32, Settings>,
    pub(super) summaries: BTreeMap<u32, Summary>,
    /// What the quota roots that begin at mailboxes hold.
    pub(super) held: BTreeMap<u32, Held>,
    /// Ascending by UID.
    pub(super) messages: BTreeMap<u32, Vec<Message>>,
    pub(super) chunks: BTreeMap<u32, u32>,
    /// What is known of each chunk by itself, by mailbox and first UID.
    pub(super) packed: BTreeMap<(u32, u32), ChunkSummary>,
    /// The summaries of chunks, by mailbox and first UID.
    pub(super) counted: BTreeMap<(u32, u32), ChunkSummary>,
    /// The UIDs that have a delta record.
    pub(super) deltas: BTreeMap<u32, UidSet>,
    /// Keys of chunks that begin before the one before them ends.
    pub(super) overlapping: Vec<Bytes>,
    pub(super) tombstones: BTreeMap<(u32, u64), UidSet>,
    pub(super) log: BTreeMap<u64, LogEntry>,
    /// Deleted mailboxes that wait to be forgotten, and since when.
    pub(super) queued: BTreeMap<u32, u32>,
    pub(super) expunged: Vec<(Bytes, Message)>,
    pub(super) contents: HashMap<ContentId, ContentRecord>,
    pub(super) origins: HashMap<ContentId, Origin>,
    pub(super) threads: HashMap<Bytes, ThreadId>,
    /// The modseq of the last move to another home that there is a record of; 0: there is none.
    pub(super) last_move: u64,
    /// Moves from other homes are spoken of.
    pub(super) has_arrivals: bool,
}

fn entries(
    engine: &dyn Engine,
    space: Space,
    prefix: &[u8],
    visit: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<(), EngineError> {
    engine.scan(space, prefix, prefix_end(prefix).as_deref(), false, &mut |key, value| {
        visit(key, value);
        true
    })
}

fn content_of(key: &[u8]) -> Option<ContentId> {
    key.get(8..24)?.first_chunk::<16>().map(|octets| ContentId(*octets))
}

impl Seen {
    pub(super) fn read(engine: &dyn Engine, id: AccountId) -> Result<Seen, EngineError> {
        let mut seen = Seen::default();
        let prefix = keys::account(id);
        entries(engine, Space::Account, &prefix, &mut |key, value| match key.get(8) {
            Some(0) => seen.record = AccountRecord::decode(key, value).ok(),
            Some(1) => {
                let name = key.get(9..).and_then(|name| std::str::from_utf8(name).ok());
                if let (Some(name), Ok(mailbox)) = (name, records::decode_subscription(key, value)) {
                    seen.subscriptions.insert(name.to_string(), mailbox);
                }
            }
            Some(3) => {
                if let Ok((number, ..)) = records::decode_annotation(key, value) {
                    seen.annotations.add(key, value);
                    seen.annotated.entry(number).or_default().push(Bytes::copy_from_slice(key));
                }
            }
            Some(4) => seen.annotation_usage = Annotations::decode(key, value).ok(),
            Some(5) => Private::take(&mut seen.private, key, value),
            Some(6 | 9) => {}
            Some(7) => {
                let counter = keys::transit_of_departure(key).map_or(0, |id| id.counter);
                seen.last_move = seen.last_move.max(counter);
            }
            Some(8) => seen.has_arrivals = true,
            _ => seen.list = records::decode_subscription_list(key, value).ok(),
        })?;
        entries(engine, Space::Mailbox, &prefix, &mut |key, value| {
            let Some(mailbox) = keys::mailbox_of(key) else { return };
            match key.last() {
                Some(0) => {
                    seen.settings.extend(Settings::decode(key, value).ok().map(|s| (mailbox.number, s)));
                }
                Some(2) => seen.held.extend(Held::decode(key, value).ok().map(|h| (mailbox.number, h))),
                _ => seen.summaries.extend(Summary::decode(key, value).ok().map(|s| (mailbox.number, s))),
            }
        })?;
        seen.read_messages(engine, id)?;
        seen.read_history(engine, id)?;
        entries(engine, Space::Content, &prefix, &mut |key, value| {
            let Some(content) = content_of(key) else { return };
            match key.last() {
                Some(0) => seen.contents.extend(ContentRecord::decode(key, value).map(|r| (content, r))),
                _ => {
                    let facts = Facts::decode(key, &Bytes::copy_from_slice(value));
                    let origin = facts.map(|f| Origin { sent: f.sent, message_ids: f.message_ids });
                    seen.origins.extend(origin.map(|origin| (content, origin)));
                }
            }
        })?;
        entries(engine, Space::Thread, &prefix, &mut |key, value| {
            let thread = records::decode_thread(key, value);
            seen.threads.extend(thread.map(|thread| (Bytes::copy_from_slice(key), thread)));
        })?;
        Ok(seen)
    }

    fn read_messages(&mut self, engine: &dyn Engine, id: AccountId) -> Result<(), EngineError> {
        let mut chunks: BTreeMap<u32, Vec<Message>> = BTreeMap::new();
        entries(engine, Space::Chunk, &keys::account(id), &mut |key, value| {
            let Some(mailbox) = keys::mailbox_of(key) else { return };
            let Ok(messages) = records::decode_chunk(key, value) else { return };
            *self.chunks.entry(mailbox.number).or_default() += 1;
            let all = chunks.entry(mailbox.number).or_default();
            if all.last().zip(messages.first()).is_some_and(|(last, first)| last.uid >= first.uid) {
                self.overlapping.push(Bytes::copy_from_slice(key));
                return;
            }
            let summary = summary_of(&messages, value, &[]);
            self.packed.insert((mailbox.number, summary.first), summary);
            all.extend(messages);
        })?;
        entries(engine, Space::Leaf, &keys::account(id), &mut |key, value| {
            let Some(mailbox) = keys::mailbox_of(key) else { return };
            let Ok(summary) = records::decode_chunk_summary(key, value) else { return };
            self.counted.insert((mailbox.number, summary.first), summary);
        })?;
        let mut deltas: BTreeMap<u32, Vec<(Uid, Option<Message>)>> = BTreeMap::new();
        entries(engine, Space::Delta, &keys::account(id), &mut |key, value| {
            let Some(mailbox) = keys::mailbox_of(key) else { return };
            let Ok((uid, message)) = records::decode_delta(key, value) else { return };
            self.deltas.entry(mailbox.number).or_default().insert_uid(uid);
            deltas.entry(mailbox.number).or_default().push((uid, message));
        })?;
        let numbers: BTreeSet<u32> =
            chunks.keys().chain(deltas.keys()).chain(self.settings.keys()).copied().collect();
        for number in numbers {
            let chunks = chunks.remove(&number).unwrap_or_default();
            let messages = overlaid(chunks, deltas.remove(&number).unwrap_or_default());
            self.messages.insert(number, messages);
        }
        Ok(())
    }

    fn read_history(&mut self, engine: &dyn Engine, id: AccountId) -> Result<(), EngineError> {
        let prefix = keys::account(id);
        entries(engine, Space::Tombstone, &prefix, &mut |key, value| {
            let Some((mailbox, modseq)) = keys::mailbox_of(key).zip(keys::modseq_of(key)) else { return };
            let uids = records::decode_tombstone(key, value);
            self.tombstones.extend(uids.map(|uids| ((mailbox.number, modseq.get()), uids)));
        })?;
        entries(engine, Space::Log, &prefix, &mut |key, value| {
            let Some(modseq) = keys::modseq_of(key) else { return };
            self.log.extend(LogEntry::decode(key, value).map(|entry| (modseq.get(), entry)));
        })?;
        entries(engine, Space::Queue, &prefix, &mut |key, value| {
            if keys::uid_of(key).is_some() {
                let message = records::decode_expunged(key, value);
                self.expunged.extend(message.map(|message| (Bytes::copy_from_slice(key), message)));
            } else if records::decode_deleted_mailbox(key, value).is_ok() {
                let second = key.get(8..12).and_then(|o| o.first_chunk()).map(|o| u32::from_be_bytes(*o));
                self.queued.extend(keys::queued_mailbox(key).map(|mailbox| mailbox.number).zip(second));
            }
        })
    }

    /// Whether nothing of an account is left.
    pub(super) fn is_empty(&self) -> bool {
        self.record.is_none()
            && self.list.is_none()
            && self.annotated.is_empty()
            && self.annotation_usage.is_none()
            && self.private.is_empty()
            && self.subscriptions.is_empty()
            && self.summaries.is_empty()
            && self.held.is_empty()
            && self.messages.is_empty()
            && self.counted.is_empty()
            && self.log.is_empty()
            && self.tombstones.is_empty()
            && self.expunged.is_empty()
            && self.queued.is_empty()
            && self.contents.is_empty()
            && self.origins.is_empty()
            && self.threads.is_empty()
            && self.last_move == 0
            && !self.has_arrivals
    }

    /// The summaries that the chunks should have, by mailbox and first UID.
    pub(super) fn chunk_summaries(&self) -> BTreeMap<(u32, u32), ChunkSummary> {
        let mut wanted = self.packed.clone();
        for ((number, first), summary) in &mut wanted {
            let messages = self.messages.get(number).map_or(&[][..], Vec::as_slice);
            let from = messages.partition_point(|message| message.uid.get() < *first);
            let until = messages.partition_point(|message| message.uid.get() <= summary.last);
            summary.counts = Counts::of(messages.get(from..until).unwrap_or(&[]));
        }
        wanted
    }

    pub(super) fn is_deleted(&self, number: u32) -> bool {
        match self.settings.get(&number) {
            Some(settings) => settings.deleted_unix_seconds.is_some(),
            None => self.queued.contains_key(&number),
        }
    }

    /// Whether the account is deleted or has moved, and its records are on their way out.
    pub(super) fn is_going(&self) -> bool {
        self.record
            .as_ref()
            .is_some_and(|record| matches!(record.state, AccountState::Deleted | AccountState::Moved(_)))
    }

    /// Whether it is on its way here: its records agree with nothing until all are here.
    pub(super) fn is_coming(&self) -> bool {
        self.record.as_ref().is_some_and(|record| matches!(record.state, AccountState::Receiving(_)))
    }

    /// How many messages refer to each content: those in mailboxes that are not deleted, and all.
    pub(super) fn references(&self) -> HashMap<ContentId, (u32, u32)> {
        let mut references: HashMap<ContentId, (u32, u32)> = HashMap::new();
        for (number, messages) in &self.messages {
            let live = u32::from(!self.is_deleted(*number));
            for message in messages {
                let counts = references.entry(message.content).or_default();
                *counts = (counts.0 + live, counts.1 + 1);
            }
        }
        for (_, message) in &self.expunged {
            references.entry(message.content).or_default().1 += 1;
        }
        references
    }

    /// The contents that have a record, and what they use of each volume.
    pub(super) fn bodies(&self, id: AccountId, in_use: &mut BTreeMap<u32, u64>, bodies: &mut Vec<Body>) {
        let mut here = Vec::with_capacity(self.contents.len());
        for (content, record) in &self.contents {
            *in_use.entry(record.locator.volume).or_default() += u64::from(record.stored);
            if self.is_going() {
                continue;
            }
            here.push(Body { account: id, content: *content, locator: record.locator });
        }
        // In the order of the disk: reading them all is one sweep.
        here.sort_unstable_by_key(|body| body.locator);
        bodies.append(&mut here);
    }
}

pub(super) fn check(id: AccountId, seen: &Seen, summarised: bool, findings: &mut Findings) {
    if seen.is_empty() {
        return;
    }
    if seen.record.is_none() {
        let key = keys::account_record(id);
        findings.add("account", &key, "it is missing, though the account has other records");
    }
    if seen.is_going() {
        let is_deleted = seen.record.as_ref().is_some_and(|record| record.state == AccountState::Deleted);
        // What has moved stays known when nothing else is left of it.
        if !seen.queued.contains_key(&0) && (is_deleted || !seen.contents.is_empty()) {
            let key = keys::deleted_account(id, 0);
            findings.add("deleted account", &key, "it is missing, so the account is never forgotten");
        }
        // The rest goes a piece at a time, and agrees with nothing meanwhile.
        return;
    }
    if seen.is_coming() {
        return;
    }
    subscriptions(id, findings, seen);
    annotations(id, findings, seen);
    for key in &seen.overlapping {
        findings.add("message chunk", key, "it overlaps the chunk before it");
    }
    let history = History::of(seen);
    history.tell(id, findings);
    mailboxes(id, findings, seen);
    summaries(id, findings, seen, &history);
    if summarised {
        chunk_summaries(id, findings, seen, &history);
    }
    contents(id, findings, seen, &history);
    quotas(id, findings, seen, &history);
    private::check(id, findings, seen, &history);
    if let Some(record) = &seen.record {
        sums(id, findings, seen, record, &history);
    }
}

fn subscriptions(id: AccountId, findings: &mut Findings, seen: &Seen) {
    let key = keys::subscription_list(id);
    match &seen.list {
        None if seen.subscriptions.is_empty() => {}
        None => findings.add("subscription list", &key, "it is missing"),
        Some(list) => {
            for name in list.keys().filter(|name| !seen.subscriptions.contains_key(*name)) {
                let what = format!("it is missing, and the account subscribes to {name}");
                findings.add("subscription", &keys::subscription(id, name), what);
            }
            if seen.subscriptions.iter().any(|(name, mailbox)| list.get(name) != Some(mailbox)) {
                findings.add("subscription list", &key, "it does not agree with the subscriptions");
            }
        }
    }
}

fn annotations(id: AccountId, findings: &mut Findings, seen: &Seen) {
    for (number, keys) in &seen.annotated {
        if *number != 0 && !seen.settings.contains_key(number) {
            for key in keys {
                findings.add("annotation", key, "its mailbox does not exist");
            }
        }
    }
    let known = seen.annotation_usage.unwrap_or_default();
    let counted = seen.annotations;
    if known.count > counted.count {
        let key = keys::annotations(id, None);
        let what = format!("{} are missing, of {}", known.count - counted.count, known.count);
        findings.add("annotation", key.get(..9).unwrap_or(&key), what);
    } else if known != counted {
        let what = match seen.annotation_usage {
            None => "it is missing".to_string(),
            Some(_) => format!("it counts {} annotations, and there are {}", known.count, counted.count),
        };
        findings.add("annotation usage", &keys::annotation_usage(id), what);
    }
}

fn mailboxes(id: AccountId, findings: &mut Findings, seen: &Seen) {
    let settings_key = |number: &u32| keys::settings(MailboxId { account: id, number: *number });
    let mut paths = BTreeSet::new();
    for (number, settings) in &seen.settings {
        if settings.deleted_unix_seconds.is_none() && !paths.insert(&settings.path) {
            let what = format!("another mailbox is called {} too", settings.path);
            findings.add("mailbox settings", &settings_key(number), what);
        }
        if let Some(second) = settings.deleted_unix_seconds.filter(|_| !seen.queued.contains_key(number)) {
            let key = keys::deleted_mailbox(MailboxId { account: id, number: *number }, second);
            findings.add("deleted mailbox", &key, "it is missing, so the mailbox is never forgotten");
        }
    }
    let has_messages = seen.messages.iter().filter(|(_, messages)| !messages.is_empty());
    for number in has_messages.map(|(number, _)| number).chain(seen.summaries.keys()) {
        if !seen.settings.contains_key(number) {
            let what = "they are missing, though the mailbox has messages or a summary";
            findings.add("mailbox settings", &settings_key(number), what);
        }
    }
}

/// What a mailbox's messages count up to.
pub(super) fn counted(messages: &[Message]) -> Summary {
    let mut counted = crate::account::empty_summary(ModSeq::FIRST);
    messages.iter().for_each(|m| counted.add(m.size, m.flags));
    counted
}

fn summaries(id: AccountId, findings: &mut Findings, seen: &Seen, history: &History) {
    for (number, settings) in &seen.settings {
        let mailbox = MailboxId { account: id, number: *number };
        let key = keys::summary(mailbox);
        let Some(summary) = seen.summaries.get(number) else {
            findings.add("mailbox summary", &key, "it is missing");
            continue;
        };
        let messages = seen.messages.get(number).map_or(&[][..], Vec::as_slice);
        let of = |s: &Summary| (s.exists, s.unseen, s.deleted, s.octets, s.deleted_octets);
        // A deleted mailbox is forgotten a piece at a time, and its summary with the last.
        if settings.deleted_unix_seconds.is_none() && !history.explains_counts(*number) {
            let counted = counted(messages);
            if of(summary) != of(&counted) {
                let what = format!("it counts {:?}, and there are {:?}", of(summary), of(&counted));
                findings.add("mailbox summary", &key, what);
            }
            let chunks = seen.chunks.get(number).copied().unwrap_or(0);
            if summary.chunks != chunks {
                let what = format!("it counts {} chunks, and there are {chunks}", summary.chunks);
                findings.add("mailbox summary", &key, what);
            }
        }
        if messages.last().is_some_and(|m| m.uid.get() >= summary.uid_next) {
            findings.add("mailbox summary", &key, "UIDNEXT has been given already");
        }
        if messages.iter().any(|m| m.modseq > summary.highest_modseq) {
            findings.add("mailbox summary", &key, "a message has a higher modseq than the mailbox");
        }
        let table = settings.keywords.len();
        if messages.iter().any(|m| m.keywords.as_slice().last().is_some_and(|n| usize::from(*n) >= table)) {
            let what = "a message has a keyword that is not named";
            findings.add("mailbox settings", &keys::settings(mailbox), what);
        }
    }
}

/// Each chunk's summary against the chunk and what lies over it. A mailbox that lacks messages has wrong ones for that
/// reason; one that is deleted loses its records a piece at a time.
fn chunk_summaries(id: AccountId, findings: &mut Findings, seen: &Seen, history: &History) {
    let wanted = seen.chunk_summaries();
    for (at, what) in chunk_summary_faults(seen, &wanted) {
        if !seen.is_deleted(at.0) && !history.explains_counts(at.0) {
            let mailbox = MailboxId { account: id, number: at.0 };
            findings.add(
                "chunk summary",
                &keys::message(mailbox, Uid::new(at.1).unwrap_or(Uid::FIRST)),
                what,
            );
        }
    }
}

/// Which summaries of chunks are not as they should be, by mailbox and first UID.
pub(super) fn chunk_summary_faults(
    seen: &Seen,
    wanted: &BTreeMap<(u32, u32), ChunkSummary>,
) -> Vec<((u32, u32), &'static str)> {
    let mut faults = Vec::new();
    for (at, wanted) in wanted {
        match seen.counted.get(at) {
            None => faults.push((*at, "it is missing")),
            Some(counted) if counted != wanted => faults.push((*at, "its chunk has other messages")),
            Some(_) => {}
        }
    }
    let strays = seen.counted.keys().filter(|at| !wanted.contains_key(at));
    faults.extend(strays.map(|at| (*at, "it is of a chunk that is not there")));
    faults
}

fn contents(id: AccountId, findings: &mut Findings, seen: &Seen, history: &History) {
    let references = seen.references();
    for (content, (_, count)) in &references {
        if !seen.contents.contains_key(content) {
            let what = format!("it is missing, and {count} messages refer to it");
            findings.add("content", &keys::content(id, *content), what);
        }
    }
    for (content, record) in &seen.contents {
        let key = keys::content(id, *content);
        let count = references.get(content).map_or(0, |(_, all)| *all);
        if record.references != count {
            // Placements that are known to be lost explain it. A deleted mailbox that is being forgotten gives its
            // references back as it goes, so one that lacks messages explains it too. Else it was expunged.
            let kind = match record.references > count && !history.has_losses() {
                true => history.in_deleted.unwrap_or("expunged message"),
                false => "content",
            };
            let what = format!("{} messages referred to the content, and {count} do", record.references);
            findings.add(kind, &key, what);
        }
        let Some(origin) = seen.origins.get(content) else {
            findings.add("content facts", &keys::facts(id, *content), "they are missing");
            continue;
        };
        for message_id in &origin.message_ids {
            let key = crate::append::thread_key(id, message_id);
            if !seen.threads.contains_key(&key[..]) {
                let what = format!("it is missing, and thread {} has its message", record.thread);
                findings.add("thread", &key, what);
            }
        }
    }
    for content in seen.origins.keys().filter(|content| !seen.contents.contains_key(content)) {
        findings.add("content", &keys::content(id, *content), "it is missing, though its facts are there");
    }
}

/// What each quota root that begins at a mailbox should hold.
pub(super) fn held(seen: &Seen) -> BTreeMap<u32, Held> {
    let visible = || seen.settings.iter().filter(|(_, settings)| settings.deleted_unix_seconds.is_none());
    let roots: BTreeMap<&MailboxPath, u32> = visible()
        .filter(|(_, settings)| settings.quota.is_some())
        .map(|(number, settings)| (&settings.path, *number))
        .collect();
    let mut held: BTreeMap<u32, Held> = roots.values().map(|number| (*number, Held::default())).collect();
    for (number, settings) in visible().filter(|_| !roots.is_empty()) {
        let mut at = Some(settings.path.clone());
        while let Some(path) = at {
            if let Some(held) = roots.get(&path).and_then(|root| held.get_mut(root)) {
                *held = held.plus(Held::of(seen.messages.get(number).into_iter().flatten()));
                break;
            }
            at = path.parent();
        }
    }
    held
}

fn quotas(id: AccountId, findings: &mut Findings, seen: &Seen, history: &History) {
    let held = held(seen);
    let key = |number: &u32| keys::held(MailboxId { account: id, number: *number });
    for (number, held) in &held {
        match seen.held.get(number) {
            None => {
                findings.add("quota usage", &key(number), "it is missing, and the mailbox is a quota root")
            }
            Some(known) if known != held && !history.has_losses() => {
                let what = format!(
                    "it counts {} messages of {} octets, and there are {} of {}",
                    known.messages, known.octets, held.messages, held.octets
                );
                findings.add("quota usage", &key(number), what);
            }
            Some(_) => {}
        }
    }
    for number in seen.held.keys().filter(|number| !held.contains_key(number)) {
        findings.add("quota usage", &key(number), "the mailbox is no quota root");
    }
}

/// Messages, and their octets, that are not in deleted mailboxes.
pub(super) fn usage(seen: &Seen) -> (u64, u64) {
    let messages = seen.messages.iter().filter(|(number, _)| !seen.is_deleted(**number));
    let messages = messages.flat_map(|(_, messages)| messages);
    messages.fold((0, 0), |(count, octets), m| (count + 1, octets + u64::from(m.size)))
}

fn sums(id: AccountId, findings: &mut Findings, seen: &Seen, record: &AccountRecord, history: &History) {
    let key = keys::account_record(id);
    let (count, octets) = usage(seen);
    if (record.messages, record.octets) != (count, octets) && !history.has_losses() {
        let what = format!(
            "it counts {} messages of {} octets, and there are {count} of {octets}",
            record.messages, record.octets
        );
        findings.add("account", &key, what);
    }
    if seen.settings.keys().last().is_some_and(|last| *last > record.last_mailbox) {
        findings.add("account", &key, "a mailbox has a number that was never given");
    }
    if seen.settings.values().any(|s| s.uid_validity.get() > record.last_uid_validity) {
        findings.add("account", &key, "a mailbox has a UIDVALIDITY that was never given");
    }
    if seen.highest_modseq() > record.modseq.get() {
        findings.add("account", &key, "a record has a modseq that was never given");
    }
}
