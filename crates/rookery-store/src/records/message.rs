//! Messages, one by one and in chunks, and what is left of those that are gone.

use crate::encoding::{Damaged, Decoder, Encoder, open, seal};
use crate::keys;
use crate::leaf::{ChunkSummary, Counts};
use crate::messages::{KeywordNumbers, Message};
use bytes::Bytes;
use rookery_kv::engine::Space;
use rookery_types::{ContentId, InternalDate, ModSeq, SystemFlags, Uid, UidSet};

fn encode_message(e: &mut Encoder, message: &Message) {
    e.varint(message.modseq.get()).u8(message.flags.bits()).varint(message.keywords.as_slice().len() as u64);
    for number in message.keywords.as_slice() {
        e.varint(u64::from(*number));
    }
    e.zigzag(message.date.unix_seconds()).zigzag(message.date.zone_minutes().into());
    e.u32(message.saved_unix_seconds).varint(message.size.into()).raw(&message.content.0);
}

fn decode_message(d: &mut Decoder<'_>, uid: Uid) -> Option<Message> {
    let modseq = ModSeq::new(d.varint()?)?;
    let flags = SystemFlags::from_bits(d.u8()?)?;
    let count = d.count()?;
    let keywords = match count {
        0 => KeywordNumbers::default(),
        _ => KeywordNumbers::new(
            (0..count).map(|_| d.varint().and_then(|n| u16::try_from(n).ok())).collect::<Option<_>>()?,
        ),
    };
    let date = InternalDate::new(d.zigzag()?, i16::try_from(d.zigzag()?).ok()?)?;
    let saved_unix_seconds = d.u32()?;
    let size = d.varint32()?;
    Some(Message {
        uid,
        size,
        modseq,
        date,
        saved_unix_seconds,
        flags,
        keywords,
        content: ContentId(d.array()?),
    })
}

/// A message's newest state, over what its chunk says; `None`: it is expunged.
pub(crate) fn encode_delta(key: &[u8], message: Option<&Message>) -> Bytes {
    let mut e = Encoder::new(1);
    match message {
        Some(message) => encode_message(e.u8(1), message),
        None => drop(e.u8(0)),
    }
    seal(Space::Delta, key, e)
}

pub(crate) fn decode_delta(key: &[u8], value: &[u8]) -> Result<(Uid, Option<Message>), Damaged> {
    open(Space::Delta, key, value, |d| {
        d.layout(1)?;
        let uid = keys::uid_of(key)?;
        match d.u8()? {
            0 => Some((uid, None)),
            1 => Some((uid, Some(decode_message(d, uid)?))),
            _ => None,
        }
    })
}

/// Messages in ascending order of UID, the first of them in the key. Not empty.
pub(crate) fn encode_chunk(key: &[u8], messages: &[Message]) -> Bytes {
    let mut e = Encoder::new(1);
    e.varint(messages.len() as u64);
    let mut last = messages.first().map_or(0, |m| m.uid.get());
    for message in messages {
        e.varint(u64::from(message.uid.get() - last));
        last = message.uid.get();
        encode_message(&mut e, message);
    }
    seal(Space::Chunk, key, e)
}

pub(crate) fn decode_chunk(key: &[u8], value: &[u8]) -> Result<Vec<Message>, Damaged> {
    open(Space::Chunk, key, value, |d| {
        d.layout(1)?;
        let count = d.count()?;
        let mut messages = Vec::with_capacity(count);
        let mut last = keys::uid_of(key)?.get();
        for i in 0..count {
            let step = d.varint32()?;
            if (step == 0) != (i == 0) {
                return None;
            }
            last = last.checked_add(step)?;
            messages.push(decode_message(d, Uid::new(last)?)?);
        }
        Some(messages)
    })
}

/// The checksum at a record's end; `None` if it is too short to have one.
pub(crate) fn checksum_of(value: &[u8]) -> Option<u32> {
    value.last_chunk::<4>().map(|octets| u32::from_le_bytes(*octets))
}

/// What is counted of a chunk; its first UID is in the key, which is the chunk's.
pub(crate) fn encode_chunk_summary(key: &[u8], summary: &ChunkSummary) -> Bytes {
    let mut e = Encoder::new(1);
    let counts = &summary.counts;
    e.varint((summary.last - summary.first).into()).varint(summary.packed.into()).u32(summary.checksum);
    e.varint(counts.count.into()).varint(counts.unseen.into()).varint(counts.deleted.into());
    e.varint(counts.first_unseen.into());
    e.varint((counts.last_uid + 1).saturating_sub(summary.first).into()).varint(counts.modseq);
    seal(Space::Leaf, key, e)
}

pub(crate) fn decode_chunk_summary(key: &[u8], value: &[u8]) -> Result<ChunkSummary, Damaged> {
    open(Space::Leaf, key, value, |d| {
        d.layout(1)?;
        let first = keys::uid_of(key)?.get();
        let last = first.checked_add(d.varint32()?)?;
        let packed = d.varint32()?;
        let checksum = d.u32()?;
        let counts = Counts {
            count: d.varint32()?,
            unseen: d.varint32()?,
            deleted: d.varint32()?,
            first_unseen: d.varint32()?,
            last_uid: match d.varint32()? {
                0 => 0,
                n => first.checked_add(n - 1)?,
            },
            modseq: d.varint()?,
        };
        let possible = (1..=u64::from(last - first) + 1).contains(&packed.into())
            && counts.count <= packed
            && counts.unseen <= counts.count
            && counts.deleted <= counts.count
            && counts.last_uid <= last
            && (counts.count == 0) == (counts.last_uid == 0);
        possible.then_some(ChunkSummary { first, last, packed, checksum, counts })
    })
}

pub(crate) fn encode_uids(e: &mut Encoder, uids: &UidSet) {
    let mut last = 0;
    e.varint(uids.ranges().count() as u64);
    for (first, end) in uids.ranges() {
        e.varint(u64::from(first - last)).varint(u64::from(end - first));
        last = end;
    }
}

pub(crate) fn decode_uids(d: &mut Decoder<'_>) -> Option<UidSet> {
    let mut uids = UidSet::new();
    let mut last = 0u32;
    for _ in 0..d.count()? {
        let first = last.checked_add(d.varint32()?).filter(|n| *n > last)?;
        last = first.checked_add(d.varint32()?)?;
        uids.insert_range(first, last);
    }
    Some(uids)
}

/// Which UIDs of a mailbox went at one modseq.
pub(crate) fn encode_tombstone(key: &[u8], uids: &UidSet) -> Bytes {
    let mut e = Encoder::new(1);
    encode_uids(&mut e, uids);
    seal(Space::Tombstone, key, e)
}

pub(crate) fn decode_tombstone(key: &[u8], value: &[u8]) -> Result<UidSet, Damaged> {
    open(Space::Tombstone, key, value, |d| {
        d.layout(1)?;
        decode_uids(d)
    })
}

/// An expunged message that can still be undeleted; its mailbox and UID are in the key.
pub(crate) fn encode_expunged(key: &[u8], message: &Message) -> Bytes {
    let mut e = Encoder::new(1);
    encode_message(&mut e, message);
    seal(Space::Queue, key, e)
}

pub(crate) fn decode_expunged(key: &[u8], value: &[u8]) -> Result<Message, Damaged> {
    open(Space::Queue, key, value, |d| {
        d.layout(1)?;
        decode_message(d, keys::uid_of(key)?)
    })
}

/// A deleted mailbox or account that is still kept; all there is to say is in the key.
pub(crate) fn encode_deleted_mailbox(key: &[u8]) -> Bytes {
    seal(Space::Queue, key, Encoder::new(1))
}

pub(crate) fn decode_deleted_mailbox(key: &[u8], value: &[u8]) -> Result<(), Damaged> {
    open(Space::Queue, key, value, |d| d.layout(1))
}
