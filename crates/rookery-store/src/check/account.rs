//! One account: each record against its checksum, and against every other that knows of it.

use super::Findings;
use super::volumes::Body;
use crate::fold::overlaid;
use crate::keys;
use crate::messages::Message;
use crate::records::{self, AccountRecord, Change, ContentRecord, Facts, LogEntry, Settings, Summary};
use bytes::Bytes;
use rookery_kv::engine::{Engine, EngineError, Space, prefix_end};
use rookery_types::{AccountId, ContentId, MailboxId, ModSeq, UidSet};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// An account as its records have it.
#[derive(Default)]
struct Seen {
    settings: BTreeMap<u32, Settings>,
    summaries: BTreeMap<u32, Summary>,
    messages: BTreeMap<u32, Vec<Message>>,
    references: HashMap<ContentId, u32>,
    tombstones: BTreeMap<(u32, u64), UidSet>,
    log: BTreeMap<u64, LogEntry>,
    queued: BTreeSet<u32>,
}

fn entries(engine: &dyn Engine, space: Space, prefix: &[u8]) -> Result<Vec<(Bytes, Bytes)>, EngineError> {
    let mut out = Vec::new();
    engine.scan(space, prefix, prefix_end(prefix).as_deref(), false, &mut |key, value| {
        out.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        true
    })?;
    Ok(out)
}

pub(super) fn check(
    engine: &dyn Engine,
    id: AccountId,
    findings: &mut Findings,
    in_use: &mut BTreeMap<u32, u64>,
    bodies: &mut Vec<Body>,
) -> Result<(), EngineError> {
    let key = keys::account_record(id);
    let record = match engine.get(Space::Account, &key)? {
        Some(value) => findings.keep("account", &key, AccountRecord::decode(&key, &value)),
        None => {
            findings.add("account", &key, "it is missing, though the account has other records");
            None
        }
    };
    for (key, value) in entries(engine, Space::Account, &keys::subscriptions(id))? {
        findings.keep("subscription", &key, records::decode_subscription(&key, &value));
    }
    let mut seen = Seen::default();
    read_mailboxes(engine, id, findings, &mut seen)?;
    read_messages(engine, id, findings, &mut seen)?;
    read_history(engine, id, findings, &mut seen)?;
    summaries(id, findings, &seen);
    contents(engine, id, findings, &seen, in_use, bodies)?;
    if let Some(record) = &record {
        sums(id, findings, &seen, record);
        history(id, findings, &seen, record);
    }
    Ok(())
}

fn read_mailboxes(
    engine: &dyn Engine,
    id: AccountId,
    findings: &mut Findings,
    seen: &mut Seen,
) -> Result<(), EngineError> {
    for (key, value) in entries(engine, Space::Mailbox, &keys::account(id))? {
        let Some(mailbox) = keys::mailbox_of(&key) else {
            findings.add("mailbox settings", &key, "its key makes no sense");
            continue;
        };
        match key.last() {
            Some(0) => {
                let read = findings.keep("mailbox settings", &key, Settings::decode(&key, &value));
                seen.settings.extend(read.map(|settings| (mailbox.number, settings)));
            }
            _ => {
                let read = findings.keep("mailbox summary", &key, Summary::decode(&key, &value));
                seen.summaries.extend(read.map(|summary| (mailbox.number, summary)));
            }
        }
    }
    let mut paths = BTreeSet::new();
    for (number, settings) in &seen.settings {
        let key = keys::settings(MailboxId { account: id, number: *number });
        if settings.deleted_unix_seconds.is_none() && !paths.insert(settings.path.clone()) {
            findings.add(
                "mailbox settings",
                &key,
                format!("another mailbox is called {} too", settings.path),
            );
        }
    }
    Ok(())
}

fn read_messages(
    engine: &dyn Engine,
    id: AccountId,
    findings: &mut Findings,
    seen: &mut Seen,
) -> Result<(), EngineError> {
    let mut chunks: BTreeMap<u32, Vec<Message>> = BTreeMap::new();
    for (key, value) in entries(engine, Space::Chunk, &keys::account(id))? {
        let Some(mailbox) = keys::mailbox_of(&key) else { continue };
        let Some(messages) = findings.keep("message chunk", &key, records::decode_chunk(&key, &value)) else {
            continue;
        };
        let all = chunks.entry(mailbox.number).or_default();
        if all.last().zip(messages.first()).is_some_and(|(last, first)| last.uid >= first.uid) {
            findings.add("message chunk", &key, "it overlaps the chunk before it");
            continue;
        }
        all.extend(messages);
    }
    let mut deltas: BTreeMap<u32, Vec<_>> = BTreeMap::new();
    for (key, value) in entries(engine, Space::Delta, &keys::account(id))? {
        let Some(mailbox) = keys::mailbox_of(&key) else { continue };
        let read = findings.keep("message delta", &key, records::decode_delta(&key, &value));
        deltas.entry(mailbox.number).or_default().extend(read);
    }
    let numbers: BTreeSet<u32> =
        chunks.keys().chain(deltas.keys()).chain(seen.settings.keys()).copied().collect();
    for number in numbers {
        let messages =
            overlaid(chunks.remove(&number).unwrap_or_default(), deltas.remove(&number).unwrap_or_default());
        for message in &messages {
            *seen.references.entry(message.content).or_default() += 1;
        }
        if !messages.is_empty() && !seen.settings.contains_key(&number) {
            let key = keys::settings(MailboxId { account: id, number });
            findings.add("mailbox settings", &key, "they are missing, though the mailbox has messages");
        }
        seen.messages.insert(number, messages);
    }
    Ok(())
}

fn read_history(
    engine: &dyn Engine,
    id: AccountId,
    findings: &mut Findings,
    seen: &mut Seen,
) -> Result<(), EngineError> {
    for (key, value) in entries(engine, Space::Tombstone, &keys::account(id))? {
        let (Some(mailbox), Some(modseq)) = (keys::mailbox_of(&key), keys::modseq_of(&key)) else { continue };
        let read = findings.keep("tombstone", &key, records::decode_tombstone(&key, &value));
        seen.tombstones.extend(read.map(|uids| ((mailbox.number, modseq.get()), uids)));
    }
    for (key, value) in entries(engine, Space::Log, &keys::account(id))? {
        let Some(modseq) = keys::modseq_of(&key) else { continue };
        let read = findings.keep("change log entry", &key, LogEntry::decode(&key, &value));
        seen.log.extend(read.map(|entry| (modseq.get(), entry)));
    }
    for (key, value) in entries(engine, Space::Queue, &keys::account(id))? {
        if keys::uid_of(&key).is_none() {
            let kind = if keys::queued_mailbox(&key).is_some_and(|m| m.number == 0) {
                "deleted account"
            } else {
                "deleted mailbox"
            };
            findings.keep(kind, &key, records::decode_deleted_mailbox(&key, &value));
            seen.queued.extend(keys::queued_mailbox(&key).map(|mailbox| mailbox.number));
            continue;
        }
        if let Some(message) = findings.keep("expunged message", &key, records::decode_expunged(&key, &value))
        {
            *seen.references.entry(message.content).or_default() += 1;
        }
    }
    for (number, settings) in &seen.settings {
        if let Some(second) = settings.deleted_unix_seconds.filter(|_| !seen.queued.contains(number)) {
            let key = keys::deleted_mailbox(MailboxId { account: id, number: *number }, second);
            findings.add("deleted mailbox", &key, "it is missing, so the mailbox is never forgotten");
        }
    }
    for (key, value) in entries(engine, Space::Thread, &keys::account(id))? {
        findings.keep("thread", &key, records::decode_thread(&key, &value));
    }
    Ok(())
}

fn summaries(id: AccountId, findings: &mut Findings, seen: &Seen) {
    for number in seen.settings.keys() {
        let mailbox = MailboxId { account: id, number: *number };
        let key = keys::summary(mailbox);
        let Some(summary) = seen.summaries.get(number) else {
            findings.add("mailbox summary", &key, "it is missing");
            continue;
        };
        let messages = seen.messages.get(number).map_or(&[][..], Vec::as_slice);
        let mut counted = crate::account::empty_summary(ModSeq::FIRST);
        messages.iter().for_each(|m| counted.add(m.size, m.flags));
        let of = |s: &Summary| (s.exists, s.unseen, s.deleted, s.octets, s.deleted_octets);
        if of(summary) != of(&counted) {
            let what = format!("it counts {:?}, and there are {:?}", of(summary), of(&counted));
            findings.add("mailbox summary", &key, what);
        }
        if messages.last().is_some_and(|m| m.uid.get() >= summary.uid_next) {
            findings.add("mailbox summary", &key, "UIDNEXT has been given already");
        }
        if messages.iter().any(|m| m.modseq > summary.highest_modseq) {
            findings.add("mailbox summary", &key, "a message has a higher modseq than the mailbox");
        }
        let table = seen.settings.get(number).map_or(0, |settings| settings.keywords.len());
        if messages.iter().any(|m| m.keywords.as_slice().last().is_some_and(|n| usize::from(*n) >= table)) {
            findings.add(
                "mailbox settings",
                &keys::settings(mailbox),
                "a message has a keyword that is not named",
            );
        }
    }
    for number in seen.summaries.keys().filter(|number| !seen.settings.contains_key(number)) {
        let key = keys::settings(MailboxId { account: id, number: *number });
        findings.add("mailbox settings", &key, "they are missing, though there is a summary");
    }
}

fn contents(
    engine: &dyn Engine,
    id: AccountId,
    findings: &mut Findings,
    seen: &Seen,
    in_use: &mut BTreeMap<u32, u64>,
    bodies: &mut Vec<Body>,
) -> Result<(), EngineError> {
    let mut found = HashMap::new();
    let mut with_facts = HashMap::new();
    for (key, value) in entries(engine, Space::Content, &keys::account(id))? {
        let Some(content) =
            key.get(8..24).and_then(|octets| octets.first_chunk::<16>()).map(|c| ContentId(*c))
        else {
            findings.add("content", &key, "its key makes no sense");
            continue;
        };
        match key.last() {
            Some(0) => {
                if let Some(record) = findings.keep("content", &key, ContentRecord::decode(&key, &value)) {
                    *in_use.entry(record.locator.volume).or_default() += u64::from(record.stored);
                    bodies.push(Body { account: id, content, locator: record.locator });
                    found.insert(content, record);
                }
            }
            _ => {
                let read = findings.keep("content facts", &key, Facts::decode(&key, &value));
                with_facts.extend(read.map(|facts| (content, facts)));
            }
        }
    }
    for (content, count) in &seen.references {
        let key = keys::content(id, *content);
        match found.get(content) {
            None => findings.add("content", &key, format!("it is missing, and {count} messages refer to it")),
            Some(record) if record.references != *count => {
                let what = format!("it says that {} messages refer to it, and {count} do", record.references);
                findings.add("content", &key, what);
            }
            Some(_) => {}
        }
    }
    for (content, record) in &found {
        if !seen.references.contains_key(content) {
            findings.add("content", &keys::content(id, *content), "no message refers to it");
        }
        let Some(facts) = with_facts.get(content) else {
            findings.add("content facts", &keys::facts(id, *content), "they are missing");
            continue;
        };
        if let Some(key) = crate::append::unknown_thread(engine, id, facts)? {
            findings.add(
                "thread",
                &key,
                format!("it is missing, and thread {} has its message", record.thread),
            );
        }
    }
    for content in with_facts.keys().filter(|content| !found.contains_key(content)) {
        findings.add("content", &keys::content(id, *content), "it is missing, though its facts are there");
    }
    Ok(())
}

fn sums(id: AccountId, findings: &mut Findings, seen: &Seen, record: &AccountRecord) {
    let key = keys::account_record(id);
    let kept = |number: &u32| seen.settings.get(number).is_some_and(|s| s.deleted_unix_seconds.is_none());
    let messages = seen.messages.iter().filter(|(number, _)| kept(number)).flat_map(|(_, messages)| messages);
    let (count, octets) = messages.fold((0, 0), |(count, octets), m| (count + 1, octets + u64::from(m.size)));
    if (record.messages, record.octets) != (count, octets) {
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
}

/// The change log has an entry for each modseq, and the newest that speaks of a message has the message's modseq.
fn history(id: AccountId, findings: &mut Findings, seen: &Seen, record: &AccountRecord) {
    for modseq in record.log_floor.saturating_add(1)..=record.modseq.get() {
        if !seen.log.contains_key(&modseq)
            && let Some(modseq) = ModSeq::new(modseq)
        {
            findings.add("change log entry", &keys::log(id, modseq), "it is missing");
        }
    }
    let mut newest: HashMap<(u32, u32), u64> = HashMap::new();
    for (modseq, entry) in &seen.log {
        for (number, change) in &entry.changes {
            let mailbox = MailboxId { account: id, number: *number };
            match change {
                Change::Arrived(uids) | Change::Flags(uids) => {
                    newest.extend(uids.iter().map(|uid| ((*number, uid), *modseq)));
                }
                Change::Expunged(uids) if seen.settings.contains_key(number) => {
                    newest.retain(|(mailbox, uid), _| mailbox != number || !uids.contains(*uid));
                    if seen.tombstones.get(&(*number, *modseq)) != Some(uids)
                        && let Some(modseq) = ModSeq::new(*modseq)
                    {
                        let key = keys::tombstone(mailbox, modseq);
                        findings.add("tombstone", &key, "it is not what the change log says was expunged");
                    }
                }
                _ => {}
            }
        }
    }
    for (number, messages) in &seen.messages {
        let mailbox = MailboxId { account: id, number: *number };
        for message in messages {
            let known = newest.remove(&(*number, message.uid.get()));
            if known.is_some_and(|modseq| modseq != message.modseq.get()) {
                let what = "the change log knows another modseq of the message: a newer state of it is lost";
                findings.add("message delta", &keys::message(mailbox, message.uid), what);
            }
        }
    }
    for ((number, uid), _) in newest.into_iter().filter(|((number, _), _)| seen.settings.contains_key(number))
    {
        if let Some(uid) = rookery_types::Uid::new(uid) {
            let key = keys::message(MailboxId { account: id, number }, uid);
            findings.add(
                "message delta",
                &key,
                "it is missing: the change log knows a message with this UID",
            );
        }
    }
}
