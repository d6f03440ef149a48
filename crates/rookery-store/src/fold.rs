//! Folding: packing the delta records of a mailbox into chunks, so that reading a mailbox stays a few large reads.
//!
//! Invariants:
//! - Folding changes no message and no modseq: the mailbox says the same before and after.
//! - It goes through the sequencer and deletes exactly the delta keys it read.
//! - A chunk holds at most [`CHUNK_MESSAGES`] messages; its key is the UID of its first message when written, and it
//!   covers UIDs up to the next chunk's key.
//! - A chunk's summary is written in the batch that writes the chunk, and goes in the batch that deletes it.
//! - A step folds all deltas of the messages that a chunk has, or none: nothing lies over a chunk just written.

use crate::account::Account;
use crate::error::StoreError;
use crate::keys;
use crate::leaf::{ChunkSummary, Counts, Home, Packed};
use crate::messages::{Folded, Message};
use crate::records::{self, Summary};
use crate::sequencer::Transaction;
use bytes::Bytes;
use rookery_kv::engine::{Space, prefix_end};
use rookery_types::{MailboxId, Uid};
use std::sync::Arc;

/// Messages in a full chunk.
const CHUNK_MESSAGES: usize = 512;
/// With fewer delta records a mailbox is not folded.
const DELTAS_MIN: u32 = 1024;
/// With more delta records any mailbox is folded: they are read when it is opened.
const DELTAS_MAX: u32 = 8192;
/// Delta records folded in one step.
const STEP_DELTAS: usize = 1024;

/// Messages with newer states laid over them; `None` takes one out. Both ascending by UID.
pub(crate) fn overlaid(messages: Vec<Message>, deltas: Vec<(Uid, Option<Message>)>) -> Vec<Message> {
    if deltas.is_empty() {
        return messages;
    }
    let mut out = Vec::with_capacity(messages.len() + deltas.len());
    let mut old = messages.into_iter().peekable();
    for (uid, delta) in deltas {
        while let Some(message) = old.next_if(|m| m.uid < uid) {
            out.push(message);
        }
        let _ = old.next_if(|m| m.uid == uid);
        out.extend(delta);
    }
    out.extend(old);
    out
}

/// Whether a mailbox has so many delta records that packing them is worth its while: the larger the mailbox, the
/// more, so that changing all of it folds each chunk a few times and not at every slice.
pub(crate) fn is_due(summary: &Summary) -> bool {
    summary.deltas >= (summary.exists / 16).clamp(DELTAS_MIN, DELTAS_MAX)
}

/// Folds a mailbox's delta records, from the first to the last, in steps between which others get their turn.
pub(crate) async fn fold(account: &Account, id: MailboxId) -> Result<(), StoreError> {
    let Some(state) = account.tree().state(id) else { return Ok(()) };
    let counted = state.summary.deltas;
    let home = Home { source: account.store.source().clone(), mailbox: id };
    let mut from = keys::mailbox(id).to_vec();
    loop {
        let (next, packed) = account.transact(|t| step(t, &home, &from, counted)).await?;
        packed.iter().for_each(|packed| packed.is_durable(&home.source));
        match next {
            Some(next) => from = next,
            None => return Ok(()),
        }
    }
}

/// Where to go on, and the chunks that were written, as far as the mailbox is in memory.
type Step = (Option<Vec<u8>>, Vec<Arc<Packed>>);

/// Folds the first delta records from a key on; tells the key from which to go on if there may be more.
/// `counted`: how many the mailbox had when folding began, which the last step takes off. The count is of writes,
/// not of keys: several writes of one key leave less to fold than counted.
fn step(t: &mut Transaction<'_>, home: &Home, from: &[u8], counted: u32) -> Result<Step, StoreError> {
    let id = home.mailbox;
    if t.mailbox(id).is_none() {
        return Ok((None, Vec::new()));
    }
    let prefix = keys::mailbox(id);
    let end = prefix_end(&prefix);
    // From where the last step ended: what it deleted need not be stepped over again.
    let deltas = t.scan(Space::Delta, from, end.as_deref(), STEP_DELTAS)?;
    let more = deltas.len() == STEP_DELTAS;
    let mut next_from = deltas.last().filter(|_| more).map(|(key, _)| [&key[..], &[0]].concat());
    let mut deltas = deltas.into_iter().peekable();
    let mut folds = Vec::new();
    while let Some((first, _)) = deltas.peek().cloned() {
        let (chunk, next) = chunk_around(t, &prefix, &first)?;
        let old = match &chunk {
            Some((key, value)) => records::decode_chunk(key, value).map_err(StoreError::Damaged)?,
            None => Vec::new(),
        };
        let mut here = Vec::new();
        let inside = |key: &Bytes| next.as_ref().is_none_or(|next| key < next);
        while let Some(entry) = deltas.next_if(|(key, _)| inside(key)) {
            here.push(entry);
        }
        if let Some(last) = old.last().filter(|_| more && deltas.peek().is_none()) {
            // The step ends within this chunk: what else lies over its messages is folded with it.
            let from = next_from.take().unwrap_or_default();
            let behind = [&keys::message(id, last.uid)[..], &[0]].concat();
            here.extend(t.scan(Space::Delta, &from, Some(&behind), usize::MAX)?);
            next_from = Some(from.max(behind));
        }
        let mut newer = Vec::with_capacity(here.len());
        for (key, value) in &here {
            newer.push(records::decode_delta(key, value).map_err(StoreError::Damaged)?);
        }
        let ends = old.last().map(|m| m.uid).max(newer.last().map(|(uid, _)| *uid));
        let begins = old.first().map(|m| m.uid).or(newer.first().map(|(uid, _)| *uid));
        let before = u32::from(chunk.is_some());
        let new = overlaid(old.clone(), newer);
        let packed = rewrite(t, id, chunk.map(|(key, _)| key), &new);
        let after = u32::try_from(packed.len()).unwrap_or(u32::MAX);
        for (key, _) in here {
            t.delete(Space::Delta, key);
        }
        let mailbox = t.change(id).ok_or(StoreError::NoMailbox)?;
        mailbox.summary.chunks = mailbox.summary.chunks.saturating_add(after).saturating_sub(before);
        if let Some(messages) = &mailbox.messages {
            messages.keep_chunk(begins, old);
        }
        folds.push(Folded { first: begins.map_or(0, Uid::get), last: ends.map_or(0, Uid::get), packed });
    }
    let mailbox = t.change(id).ok_or(StoreError::NoMailbox)?;
    let mut fresh = Vec::new();
    if let Some(messages) = mailbox.messages.as_ref().filter(|_| !folds.is_empty()) {
        fresh.extend(folds.iter().flat_map(|fold| fold.packed.iter().cloned()));
        mailbox.messages = Some(messages.folded(home, folds));
    }
    if next_from.is_none() {
        mailbox.summary.deltas = mailbox.summary.deltas.saturating_sub(counted);
    }
    Ok((next_from, fresh))
}

/// Takes the first chunk of a mailbox, and what lies over it, off the disk; tells what messages that was, and whether
/// more are left. For a mailbox that is being forgotten.
pub(crate) fn take_first(t: &mut Transaction<'_>, id: MailboxId) -> Result<(Vec<Message>, bool), StoreError> {
    let prefix = keys::mailbox(id);
    let end = prefix_end(&prefix);
    let mut chunks = t.scan(Space::Chunk, &prefix, end.as_deref(), 2)?.into_iter();
    let first = chunks.next();
    let next = chunks.next().map(|(key, _)| key);
    let until = next.as_deref().or(end.as_deref());
    let over = t.scan(Space::Delta, &prefix, until, STEP_DELTAS)?;
    let more = next.is_some() || over.len() == STEP_DELTAS;
    let mut deltas = Vec::new();
    for (key, value) in over {
        deltas.push(records::decode_delta(&key, &value).map_err(StoreError::Damaged)?);
        t.delete(Space::Delta, key);
    }
    let messages = match first {
        Some((key, value)) => {
            let messages = records::decode_chunk(&key, &value).map_err(StoreError::Damaged)?;
            t.delete(Space::Chunk, key.clone());
            t.delete(Space::Leaf, key);
            messages
        }
        None => Vec::new(),
    };
    Ok((overlaid(messages, deltas), more))
}

type Entry = (Bytes, Bytes);

/// The chunk that covers a UID's key, and the key of the chunk after it.
fn chunk_around(
    t: &Transaction<'_>,
    prefix: &[u8],
    key: &[u8],
) -> Result<(Option<Entry>, Option<Bytes>), StoreError> {
    let chunk = t.last_at(Space::Chunk, prefix, key)?;
    let after = [key, &[0]].concat();
    let next = t.scan(Space::Chunk, &after, prefix_end(prefix).as_deref(), 1)?;
    Ok((chunk, next.into_iter().next().map(|(key, _)| key)))
}

/// Writes the messages that one chunk and its deltas made, and what is counted of them: as that chunk, as several, or
/// as none. The chunks stay in memory until somebody says that they are durable.
fn rewrite(
    t: &mut Transaction<'_>,
    id: MailboxId,
    old: Option<Bytes>,
    messages: &[Message],
) -> Vec<Arc<Packed>> {
    let mut written = Vec::new();
    let mut keys = Vec::new();
    for part in messages.chunks(CHUNK_MESSAGES) {
        let Some(first) = part.first() else { continue };
        let key = Bytes::from(keys::message(id, first.uid));
        let value = records::encode_chunk(&key, part);
        let summary = summary_of(part, &value, part.iter());
        t.put(Space::Chunk, key.clone(), value);
        t.put(Space::Leaf, key.clone(), records::encode_chunk_summary(&key, &summary));
        keys.push(key);
        let packed = Packed::new(summary);
        packed.keep(Arc::new(part.to_vec()));
        written.push(packed);
    }
    if let Some(old) = old.filter(|old| !keys.contains(old)) {
        t.delete(Space::Chunk, old.clone());
        t.delete(Space::Leaf, old);
    }
    written
}

/// What is counted of a chunk's record, when its messages with all that lies over them are `newest`.
pub(crate) fn summary_of<'a>(
    chunk: &[Message],
    value: &[u8],
    newest: impl IntoIterator<Item = &'a Message>,
) -> ChunkSummary {
    ChunkSummary {
        first: chunk.first().map_or(0, |message| message.uid.get()),
        last: chunk.last().map_or(0, |message| message.uid.get()),
        packed: u32::try_from(chunk.len()).unwrap_or(u32::MAX),
        checksum: records::checksum_of(value).unwrap_or(0),
        counts: Counts::of(newest),
    }
}
