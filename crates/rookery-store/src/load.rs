//! A mailbox on its way into memory: what is counted of its chunks, and its deltas. No chunk is read.

use crate::error::StoreError;
use crate::fold::{overlaid, summary_of};
use crate::keys;
use crate::leaf::{Home, Packed, Source};
use crate::messages::{Message, Messages};
use crate::records;
use crate::sequencer::Transaction;
use bytes::Bytes;
use rookery_kv::engine::{Space, prefix_end};
use rookery_types::{MailboxId, Uid};
use std::sync::Arc;

type Deltas = Vec<(Uid, Option<Message>)>;

/// Brings a mailbox's version into memory, as this change sees it. Returns the chunks that the disk does not have yet,
/// which stay in memory until it is said that they are durable.
///
/// Where the summaries of its chunks are missing or do not agree with the mailbox's own, all chunks are read and their
/// summaries written anew.
pub(crate) fn messages(
    t: &mut Transaction<'_>,
    source: &Arc<Source>,
    id: MailboxId,
) -> Result<Vec<Arc<Packed>>, StoreError> {
    let prefix = keys::mailbox(id);
    let end = prefix_end(&prefix);
    let mut deltas = Deltas::new();
    // Where folding has left none, there may still be many that the engine has not yet forgotten, to be stepped over.
    let may_have = t.any_mailbox(id).is_none_or(|state| state.summary.deltas > 0);
    let records = match may_have {
        true => t.scan(Space::Delta, &prefix, end.as_deref(), usize::MAX)?,
        false => Vec::new(),
    };
    for (key, value) in records {
        deltas.push(records::decode_delta(&key, &value).map_err(StoreError::Damaged)?);
    }
    let home = Home { source: source.clone(), mailbox: id };
    let chunks = t.any_mailbox(id).map_or(0, |state| state.summary.chunks);
    let rows = t.scan(Space::Leaf, &prefix, end.as_deref(), usize::MAX)?;
    if let Some((packed, kept)) = summarised(t, &rows, chunks)? {
        let messages = Messages::assemble(home.clone(), packed, deltas.clone());
        if agrees(t, id, &messages) {
            t.change(id).ok_or(StoreError::NoMailbox)?.messages = Some(messages);
            return Ok(kept);
        }
    }
    let (packed, kept) = counted_anew(t, id, &rows, &deltas)?;
    let messages = Messages::assemble(home, packed, deltas);
    t.change(id).ok_or(StoreError::NoMailbox)?.messages = Some(messages);
    Ok(kept)
}

/// Chunks, and those of them that are kept in memory.
type Chunks = (Vec<Arc<Packed>>, Vec<Arc<Packed>>);

/// The chunks that the summaries tell of; `None` if they cannot be used.
fn summarised(
    t: &Transaction<'_>,
    rows: &[(Bytes, Bytes)],
    chunks: u32,
) -> Result<Option<Chunks>, StoreError> {
    if rows.len() != chunks as usize {
        return Ok(None);
    }
    let mut packed = Vec::with_capacity(rows.len());
    let mut kept = Vec::new();
    let mut last = 0;
    for (key, value) in rows {
        let summary = match records::decode_chunk_summary(key, value) {
            Ok(summary) if summary.first > last => summary,
            _ => return Ok(None),
        };
        last = summary.last;
        let chunk = Packed::new(summary);
        if let Some(value) = t.on_its_way(Space::Chunk, key) {
            let messages = records::decode_chunk(key, &value).map_err(StoreError::Damaged)?;
            chunk.keep(Arc::new(messages));
            kept.push(chunk.clone());
        }
        packed.push(chunk);
    }
    Ok(Some((packed, kept)))
}

fn agrees(t: &Transaction<'_>, id: MailboxId, messages: &Messages) -> bool {
    let Some(summary) = t.any_mailbox(id).map(|state| state.summary) else { return false };
    let (unseen, deleted) = messages.unseen_and_deleted();
    let counted = (messages.len() as u64, unseen, deleted);
    counted == (summary.exists.into(), summary.unseen.into(), summary.deleted.into())
}

/// Reads all chunks and writes their summaries, in place of `rows`.
fn counted_anew(
    t: &mut Transaction<'_>,
    id: MailboxId,
    rows: &[(Bytes, Bytes)],
    deltas: &Deltas,
) -> Result<Chunks, StoreError> {
    let prefix = keys::mailbox(id);
    let chunks = t.scan(Space::Chunk, &prefix, prefix_end(&prefix).as_deref(), usize::MAX)?;
    if !chunks.is_empty() {
        tracing::info!(mailbox = %id, chunks = chunks.len(), "the summaries of a mailbox's chunks are made anew");
    }
    for (key, _) in rows {
        t.delete(Space::Leaf, key.clone());
    }
    let mut packed = Vec::with_capacity(chunks.len());
    let mut kept = Vec::new();
    for (key, value) in chunks {
        let messages = records::decode_chunk(&key, &value).map_err(StoreError::Damaged)?;
        let (Some(first), Some(last)) = (messages.first(), messages.last()) else { continue };
        let from = deltas.partition_point(|(uid, _)| *uid < first.uid);
        let until = deltas.partition_point(|(uid, _)| *uid <= last.uid);
        let over = deltas.get(from..until).unwrap_or(&[]);
        let newest = overlaid(messages.clone(), over.to_vec());
        let summary = summary_of(&messages, &value, &newest);
        let new = records::encode_chunk_summary(&key, &summary);
        let on_its_way = t.on_its_way(Space::Chunk, &key).is_some();
        let chunk = Packed::new(summary);
        if on_its_way {
            chunk.keep(Arc::new(messages));
            kept.push(chunk.clone());
        }
        packed.push(chunk);
        t.put(Space::Leaf, key, new);
    }
    Ok((packed, kept))
}

#[cfg(test)]
mod tests {
    use crate::{FlagChange, FlagList, Mailbox, Messages, NewAccount, NewMessage, Store, StoreOptions};
    use rookery_kv::engine::{Batch, Engine, Space};
    use rookery_kv::memory::MemoryEngine;
    use rookery_kv::sim::SimDisk;
    use rookery_types::{AccountId, InternalDate, MailboxId, MailboxPath, SeqNum, SystemFlags, Uid, UidSet};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    /// UIDs, with flags and modseq.
    type Model = BTreeMap<u32, (SystemFlags, u64)>;

    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u32) -> u32 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((self.0 >> 33) % u64::from(sides)) as u32
        }
    }

    /// Room for four chunks, so that they come and go all the time.
    fn open(disk: &SimDisk) -> Store {
        let engine = Arc::new(MemoryEngine::new(disk.clone()));
        let options = StoreOptions { background: None, hot_octets_max: 1 << 18, ..StoreOptions::default() };
        Store::open(options, engine, Arc::new(disk.files())).expect("the store opens")
    }

    async fn inbox(store: &Store) -> Mailbox {
        let account = store.account(AccountId::new(1).unwrap()).await.expect("the account is there");
        let id = account.tree().get(&MailboxPath::inbox()).expect("INBOX is there");
        account.open(id).await.expect("it opens")
    }

    fn compare(messages: &Messages, model: &Model, dice: &mut Dice) {
        let found: Vec<_> = messages.iter().map(|found| found.expect("it is read")).collect();
        let known: Vec<_> = found.iter().map(|(_, m)| (m.uid.get(), (m.flags, m.modseq.get()))).collect();
        let wanted: Vec<_> = model.iter().map(|(uid, state)| (*uid, *state)).collect();
        assert_eq!(known, wanted);
        assert!(found.iter().zip(1..).all(|((seq, _), n)| seq.get() == n));
        assert_eq!(messages.len(), model.len());
        assert_eq!(messages.last_uid(), model.keys().last().copied().unwrap_or(0));
        let unseen = model.values().position(|(flags, _)| !flags.contains(SystemFlags::SEEN));
        assert_eq!(messages.first_unseen().unwrap().map(SeqNum::get), unseen.map(|at| at as u32 + 1));
        let deleted: UidSet = model
            .iter()
            .filter(|(_, (flags, _))| flags.contains(SystemFlags::DELETED))
            .filter_map(|(uid, _)| Uid::new(*uid))
            .collect();
        assert_eq!(messages.deleted().expect("it is read"), deleted);
        let last = messages.last_uid() + 2;
        for _ in 0..30 {
            let uid = dice.roll(last) + 1;
            let place = model.range(..uid).count();
            assert_eq!(messages.place_of(uid).expect("it is read"), place, "{uid}");
            let found = messages.by_uid(Uid::new(uid).unwrap()).expect("it is read");
            let wanted = model.get(&uid).map(|_| place as u32 + 1);
            assert_eq!(found.map(|(seq, _)| seq.get()), wanted);
            let from = dice.roll(model.len() as u32 + 1) as usize;
            let until = (from + dice.roll(600) as usize).min(model.len());
            let uids: Vec<u32> = messages.uids(from..until).expect("it is read").iter().collect();
            assert_eq!(uids, model.keys().skip(from).take(until - from).copied().collect::<Vec<_>>());
        }
        let since = u64::from(dice.roll(40));
        let newer = messages.iter_since(0, since).map(|found| found.expect("it is read"));
        let newer: Vec<_> =
            newer.filter(|(_, m)| m.modseq.get() > since).map(|(n, m)| (n.get(), m.uid.get())).collect();
        let wanted: Vec<_> = (1..).zip(model).filter(|(_, (_, (_, modseq)))| *modseq > since).collect();
        assert_eq!(newer, wanted.iter().map(|(n, (uid, _))| (*n, **uid)).collect::<Vec<_>>());
    }

    fn compare_difference(old: (&Messages, &Model), new: (&Messages, &Model)) {
        let difference = old.0.difference(new.0).expect("it is read");
        let gone: Vec<_> = (1..)
            .zip(old.1.keys())
            .filter(|(_, uid)| !new.1.contains_key(uid))
            .map(|(n, uid)| (n, *uid))
            .collect();
        assert_eq!(difference.gone.iter().map(|(n, uid)| (n.get(), uid.get())).collect::<Vec<_>>(), gone);
        let changed = new.1.iter().filter(|(uid, new)| old.1.get(uid).is_some_and(|old| old.1 != new.1));
        let changed: Vec<u32> = changed.map(|(uid, _)| *uid).collect();
        assert_eq!(difference.changed.iter().map(|m| m.uid.get()).collect::<Vec<_>>(), changed);
        let last = old.1.keys().last().copied().unwrap_or(0);
        assert_eq!(difference.arrived, new.1.range(last + 1..).count());
    }

    /// Arrivals, flags, expunges, folding and restarts in any order: each version says what a map says, also long
    /// after its chunks were folded, and the difference of any two is the naive one.
    #[tokio::test]
    async fn versions_agree_with_a_map_while_chunks_come_and_go() {
        for seed in 0..6 {
            let mut dice = Dice(seed);
            let disk = SimDisk::new(seed);
            let mut store = open(&disk);
            let mailboxes = vec![(MailboxPath::inbox(), Vec::new())];
            let new = NewAccount { mailboxes, ..NewAccount::default() };
            store.create_account(AccountId::new(1).unwrap(), new).await.expect("it is made");
            let mut mailbox = inbox(&store).await;
            let mut model = Model::new();
            let mut next = 1;
            let mut old: Option<(Messages, Model)> = None;
            for _ in 0..60 {
                let flags =
                    [SystemFlags::SEEN, SystemFlags::FLAGGED, SystemFlags::DELETED][dice.roll(3) as usize];
                match dice.roll(10) {
                    0..=2 => {
                        let count = 1 + dice.roll(if next < 4000 { 700 } else { 20 });
                        let mut spool = store.spool();
                        spool.push(b"Subject: x\r\n\r\ntext\r\n").expect("it takes octets");
                        let (body, date) = (spool.finish().expect("it is whole"), InternalDate::from_unix(1));
                        let one = NewMessage { body, flags, keywords: Vec::new(), date };
                        let id: MailboxId = mailbox.id();
                        let account = mailbox.account().clone();
                        account.append(id, vec![one; count as usize]).await.expect("it appends");
                        let modseq = mailbox.now().summary.highest_modseq.get();
                        model.extend((next..next + count).map(|uid| (uid, (flags, modseq))));
                        next += count;
                    }
                    3..=5 => {
                        let first = 1 + dice.roll(next);
                        let uids = UidSet::range(first, first + dice.roll(300));
                        let list = FlagList { flags, keywords: Vec::new() };
                        let adds = dice.roll(2) == 0;
                        let change = if adds { FlagChange::Add(list) } else { FlagChange::Remove(list) };
                        mailbox.store_flags(&uids, change, None).await.expect("it stores");
                        let modseq = mailbox.now().summary.highest_modseq.get();
                        for (_, state) in model.range_mut(first..).filter(|(uid, _)| uids.contains(**uid)) {
                            let new = if adds { state.0 | flags } else { state.0.without(flags) };
                            if new != state.0 {
                                *state = (new, modseq);
                            }
                        }
                    }
                    6 => {
                        mailbox.expunge(None).await.expect("it expunges");
                        model.retain(|_, (flags, _)| !flags.contains(SystemFlags::DELETED));
                    }
                    7 | 8 => {
                        crate::fold::fold(mailbox.account(), mailbox.id()).await.expect("it folds");
                        assert_eq!(mailbox.now().summary.deltas, 0);
                    }
                    _ => {
                        drop(mailbox);
                        old = None;
                        store.close().await;
                        drop(store);
                        store = open(&disk);
                        mailbox = inbox(&store).await;
                    }
                }
                let now = mailbox.now().messages.clone().expect("it is open");
                compare(&now, &model, &mut dice);
                if let Some((messages, known)) = &old {
                    compare_difference((messages, known), (&now, &model));
                    compare(messages, known, &mut dice);
                }
                if old.is_none() || dice.roll(4) == 0 {
                    old = Some((now, model.clone()));
                }
            }
            store.close().await;
            drop(mailbox);
            drop(store);
            let engine = MemoryEngine::new(disk.clone());
            let found = crate::check::check(&engine, Arc::new(disk.files())).expect("it is checked");
            assert_eq!(found, Vec::new());
        }
    }

    /// A store of the format before: without summaries, which are made when a mailbox is opened.
    #[tokio::test]
    async fn summaries_are_made_where_there_are_none() {
        let disk = SimDisk::new(9);
        let store = open(&disk);
        let mailboxes = vec![(MailboxPath::inbox(), Vec::new())];
        let new = NewAccount { mailboxes, ..NewAccount::default() };
        store.create_account(AccountId::new(1).unwrap(), new).await.expect("it is made");
        let mailbox = inbox(&store).await;
        let mut spool = store.spool();
        spool.push(b"Subject: x\r\n\r\ntext\r\n").expect("it takes octets");
        let (body, date) = (spool.finish().expect("it is whole"), InternalDate::from_unix(1));
        let one = NewMessage { body, flags: SystemFlags::NONE, keywords: Vec::new(), date };
        mailbox.account().append(mailbox.id(), vec![one; 1500]).await.expect("it appends");
        crate::fold::fold(mailbox.account(), mailbox.id()).await.expect("it folds");
        let seen = FlagList { flags: SystemFlags::SEEN, keywords: Vec::new() };
        mailbox.store_flags(&UidSet::range(1, 700), FlagChange::Add(seen), None).await.expect("it stores");
        let wanted = mailbox.now().messages.clone().expect("it is open");
        let wanted: Vec<_> = wanted.iter().map(|found| found.expect("it is read")).collect();
        drop(mailbox);
        store.close().await;
        drop(store);

        let summaries = |engine: &MemoryEngine| {
            let mut found = Vec::new();
            let scanned =
                rookery_kv::engine::Read::scan(engine, Space::Leaf, &[], None, false, &mut |key, value| {
                    found.push((key.to_vec(), value.to_vec()));
                    true
                });
            scanned.expect("the engine scans");
            found
        };
        let engine = MemoryEngine::new(disk.clone());
        let before = summaries(&engine);
        assert_eq!(before.len(), 3);
        let identity = crate::store::Identity::read(&engine).expect("it is read").expect("it is there");
        let mut batch = Batch::new();
        batch.put(Space::Meta, crate::keys::STORE, identity.encode_as(1));
        before.iter().skip(1).for_each(|(key, _)| batch.delete(Space::Leaf, key.clone()));
        engine.commit(batch).expect("the engine commits");
        let found = crate::check::check(&engine, Arc::new(disk.files())).expect("it is checked");
        assert_eq!(found, Vec::new(), "a store of that format lacks nothing");
        drop(engine);

        let store = open(&disk);
        let mailbox = inbox(&store).await;
        let now = mailbox.now().messages.clone().expect("it is open");
        assert_eq!(now.iter().map(|found| found.expect("it is read")).collect::<Vec<_>>(), wanted);
        assert_eq!(now.first_unseen().unwrap().map(SeqNum::get), Some(701));
        drop(mailbox);
        store.close().await;
        drop(store);
        let engine = MemoryEngine::new(disk.clone());
        assert_eq!(summaries(&engine), before);
        let found = crate::check::check(&engine, Arc::new(disk.files())).expect("it is checked");
        assert_eq!(found, Vec::new());
    }
}
