//! Folding: packing the delta records of a mailbox into chunks, so that reading a mailbox stays a few large reads.
//!
//! Invariants:
//! - Folding changes no message and no modseq: the mailbox says the same before and after.
//! - It goes through the sequencer and deletes exactly the delta keys it read.
//! - A chunk holds at most [`CHUNK_MESSAGES`] messages; its key is the UID of its first message when written, and it
//!   covers UIDs up to the next chunk's key.

use crate::account::Account;
use crate::error::StoreError;
use crate::keys;
use crate::messages::Message;
use crate::records::{self, Summary};
use crate::sequencer::Transaction;
use bytes::Bytes;
use rookery_kv::engine::{Space, prefix_end};
use rookery_types::{MailboxId, Uid};

/// Messages in a full chunk.
const CHUNK_MESSAGES: usize = 512;
/// With fewer delta records a mailbox is not folded.
const DELTAS_MIN: u32 = 1024;
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
    summary.deltas >= DELTAS_MIN.max(summary.exists / 16)
}

/// Folds a mailbox's delta records, from the first to the last, in steps between which others get their turn.
pub(crate) async fn fold(account: &Account, id: MailboxId) -> Result<(), StoreError> {
    let Some(state) = account.tree().state(id) else { return Ok(()) };
    let counted = state.summary.deltas;
    let mut from = keys::mailbox(id).to_vec();
    while let Some(next) = account.transact(|t| step(t, id, &from, counted)).await? {
        from = next;
    }
    Ok(())
}

/// Folds the first delta records from a key on; tells the key from which to go on if there may be more.
/// `counted`: how many the mailbox had when folding began, which the last step takes off. The count is of writes,
/// not of keys: several writes of one key leave less to fold than counted.
fn step(
    t: &mut Transaction<'_>,
    id: MailboxId,
    from: &[u8],
    counted: u32,
) -> Result<Option<Vec<u8>>, StoreError> {
    if t.mailbox(id).is_none() {
        return Ok(None);
    }
    let prefix = keys::mailbox(id);
    let end = prefix_end(&prefix);
    // From where the last step ended: what it deleted need not be stepped over again.
    let deltas = t.scan(Space::Delta, from, end.as_deref(), STEP_DELTAS)?;
    let more = deltas.len() == STEP_DELTAS;
    let next_from = deltas.last().filter(|_| more).map(|(key, _)| [&key[..], &[0]].concat());
    let mut deltas = deltas.into_iter().peekable();
    while let Some((first, _)) = deltas.peek() {
        let (chunk, next) = chunk_around(t, &prefix, first)?;
        let mut keys = Vec::new();
        let mut newer = Vec::new();
        let inside = |key: &Bytes| next.as_ref().is_none_or(|next| key < next);
        while let Some((key, value)) = deltas.next_if(|(key, _)| inside(key)) {
            newer.push(records::decode_delta(&key, &value).map_err(StoreError::Damaged)?);
            keys.push(key);
        }
        let old = match &chunk {
            Some((key, value)) => records::decode_chunk(key, value).map_err(StoreError::Damaged)?,
            None => Vec::new(),
        };
        let before = u32::from(chunk.is_some());
        let after = rewrite(t, id, chunk.map(|(key, _)| key), &overlaid(old, newer));
        let mailbox = t.change(id).ok_or(StoreError::NoMailbox)?;
        mailbox.summary.chunks = mailbox.summary.chunks.saturating_add(after).saturating_sub(before);
        for key in keys {
            t.delete(Space::Delta, key);
        }
    }
    if next_from.is_none() {
        let mailbox = t.change(id).ok_or(StoreError::NoMailbox)?;
        mailbox.summary.deltas = mailbox.summary.deltas.saturating_sub(counted);
    }
    Ok(next_from)
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
            t.delete(Space::Chunk, key);
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

/// Writes the messages that one chunk and its deltas made: as that chunk, as several, or as none. Returns how many.
fn rewrite(t: &mut Transaction<'_>, id: MailboxId, old: Option<Bytes>, messages: &[Message]) -> u32 {
    let mut keys = Vec::new();
    for part in messages.chunks(CHUNK_MESSAGES) {
        let Some(first) = part.first() else { continue };
        let key = keys::message(id, first.uid);
        let value = records::encode_chunk(&key, part);
        t.put(Space::Chunk, key.clone(), value);
        keys.push(Bytes::from(key));
    }
    if let Some(old) = old.filter(|old| !keys.contains(old)) {
        t.delete(Space::Chunk, old);
    }
    u32::try_from(keys.len()).unwrap_or(u32::MAX)
}
