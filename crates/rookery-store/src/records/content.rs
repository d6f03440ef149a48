//! What is known of contents: where their octets are, and what was found out when they came.

use crate::encoding::{Damaged, Encoder, open, seal};
use bytes::Bytes;
use rookery_kv::engine::Space;
use rookery_types::{InternalDate, ThreadId};

/// Where a record of a volume begins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Locator {
    /// The volume's number.
    pub volume: u32,
    /// The record's first octet in the volume.
    pub offset: u64,
}

/// Where a content's octets are and how often they are referred to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContentRecord {
    /// Where the octets are.
    pub locator: Locator,
    /// How many there are.
    pub size: u32,
    /// How many octets the volume record takes, with its header.
    pub stored: u32,
    /// How many messages, expunged ones that are still kept included, have this content.
    pub references: u32,
    /// The conversation.
    pub thread: ThreadId,
}

impl ContentRecord {
    pub(crate) fn encode(&self, key: &[u8]) -> Bytes {
        let mut e = Encoder::new(1);
        e.varint(self.locator.volume.into()).varint(self.locator.offset).varint(self.size.into());
        e.varint(self.stored.into()).varint(self.references.into()).u64(self.thread.0);
        seal(Space::Content, key, e)
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<ContentRecord, Damaged> {
        open(Space::Content, key, value, |d| {
            d.layout(1)?;
            Some(ContentRecord {
                locator: Locator { volume: d.varint32()?, offset: d.varint()? },
                size: d.varint32()?,
                stored: d.varint32()?,
                references: d.varint32()?,
                thread: ThreadId(d.u64()?),
            })
        })
    }
}

/// What was found out about a content when it came, as it will be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The value of ENVELOPE (RFC 9051 §7.5.2).
    pub envelope: Bytes,
    /// The value of BODYSTRUCTURE.
    pub body_structure: Bytes,
    /// The value of BODY, without extension data.
    pub body: Bytes,
    /// The parts and where they are, in `rookery_mime`'s own octets.
    pub structure: Bytes,
    /// The Date field; `None` if there is none that makes sense.
    pub sent: Option<InternalDate>,
    /// The Message-ID field, then those of References and In-Reply-To.
    pub message_ids: Vec<String>,
}

impl Facts {
    /// Octets that they take in memory, about.
    pub(crate) fn octets(&self) -> usize {
        let Facts { envelope, body_structure, body, structure, message_ids, .. } = self;
        let ids: usize = message_ids.iter().map(|id| size_of::<String>() + id.len()).sum();
        size_of::<Facts>() + envelope.len() + body_structure.len() + body.len() + structure.len() + ids
    }

    pub(crate) fn encode(&self, key: &[u8]) -> Bytes {
        let mut e = Encoder::new(1);
        e.octets(&self.envelope).octets(&self.body_structure).octets(&self.body).octets(&self.structure);
        match self.sent {
            Some(date) => e.u8(1).zigzag(date.unix_seconds()).zigzag(date.zone_minutes().into()),
            None => e.u8(0),
        };
        e.varint(self.message_ids.len() as u64);
        for id in &self.message_ids {
            e.text(id);
        }
        seal(Space::Content, key, e)
    }

    /// The structure alone, for those who need nothing else of many messages.
    pub(crate) fn decode_structure(key: &[u8], value: &Bytes) -> Result<Bytes, Damaged> {
        open(Space::Content, key, value, |d| {
            d.layout(1)?;
            for _ in 0..3 {
                d.octets()?;
            }
            let structure = value.slice_ref(d.octets()?);
            d.skip_rest();
            Some(structure)
        })
    }

    pub(crate) fn decode(key: &[u8], value: &Bytes) -> Result<Facts, Damaged> {
        open(Space::Content, key, value, |d| {
            d.layout(1)?;
            Some(Facts {
                envelope: value.slice_ref(d.octets()?),
                body_structure: value.slice_ref(d.octets()?),
                body: value.slice_ref(d.octets()?),
                structure: value.slice_ref(d.octets()?),
                sent: match d.u8()? {
                    0 => None,
                    1 => Some(InternalDate::new(d.zigzag()?, i16::try_from(d.zigzag()?).ok()?)?),
                    _ => return None,
                },
                message_ids: (0..d.count()?).map(|_| d.text().map(str::to_string)).collect::<Option<_>>()?,
            })
        })
    }
}

/// The thread a Message-ID belongs to.
pub(crate) fn encode_thread(key: &[u8], thread: ThreadId) -> Bytes {
    let mut e = Encoder::new(1);
    e.u64(thread.0);
    seal(Space::Thread, key, e)
}

pub(crate) fn decode_thread(key: &[u8], value: &[u8]) -> Result<ThreadId, Damaged> {
    open(Space::Thread, key, value, |d| {
        d.layout(1)?;
        d.u64().map(ThreadId)
    })
}
