//! How parts of sessions' values are written, for every protocol alike: `#[serde(with = "parts::set")]`.
//!
//! What is read was written by another node, of another version perhaps: what is not such a part is refused.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use rookery_store::{KeywordNumbers, Message};
use rookery_types::{ContentId, InternalDate, ModSeq, SystemFlags, Uid, UidSet};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A set: `1:5,7`.
pub mod set {
    use super::*;

    /// Writes it.
    pub fn serialize<S: Serializer>(set: &UidSet, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(set)
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<UidSet, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| de::Error::custom("no ascending set"))
    }

    fn parse(text: &str) -> Option<UidSet> {
        let mut set = UidSet::new();
        for range in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = range.split_once(':').unwrap_or((range, range));
            let (first, last) = (first.parse::<u32>().ok()?, last.parse::<u32>().ok()?);
            // Ascending, so that a hostile one is not sorted in.
            if first == 0 || first > last || set.last().is_some_and(|known| known >= first) {
                return None;
            }
            set.insert_range(first, last);
        }
        Some(set)
    }
}

/// Octets: base64.
pub mod octets {
    use super::*;

    /// Writes it.
    pub fn serialize<S: Serializer>(octets: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(octets))
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes::from).map_err(de::Error::custom)
    }
}

/// Octets, or nothing.
pub mod maybe_octets {
    use super::*;

    /// Writes it.
    pub fn serialize<S: Serializer>(octets: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
        octets.as_ref().map(|octets| STANDARD.encode(octets)).serialize(serializer)
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| STANDARD.decode(text).map(Bytes::from)).transpose().map_err(de::Error::custom)
    }
}

/// Messages, ascending: UID, octets, modseq, date and zone, day of saving, flags, keywords, content.
pub mod messages {
    use super::*;

    type Row = (u32, u32, u64, i64, i16, u32, u8, Vec<u16>, String);

    /// Writes it.
    pub fn serialize<S: Serializer>(messages: &[Message], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(messages.iter().map(|message| -> Row {
            let Message { uid, size, modseq, date, saved_unix_seconds, flags, keywords, content } = message;
            let (seconds, zone) = (date.unix_seconds(), date.zone_minutes());
            let keywords = keywords.as_slice().to_vec();
            let content = STANDARD.encode(content.0);
            let (uid, modseq) = (uid.get(), modseq.get());
            (uid, *size, modseq, seconds, zone, *saved_unix_seconds, flags.bits(), keywords, content)
        }))
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Message>, D::Error> {
        let rows = Vec::<Row>::deserialize(deserializer)?;
        let messages: Option<Vec<Message>> = rows.into_iter().map(read).collect();
        let messages = messages.ok_or_else(|| de::Error::custom("no message"))?;
        match messages.is_sorted_by(|a, b| a.uid < b.uid) {
            true => Ok(messages),
            false => Err(de::Error::custom("messages in no order")),
        }
    }

    fn read((uid, size, modseq, seconds, zone, saved, flags, keywords, content): Row) -> Option<Message> {
        Some(Message {
            uid: Uid::new(uid)?,
            size,
            modseq: ModSeq::new(modseq)?,
            date: InternalDate::new(seconds, zone)?,
            saved_unix_seconds: saved,
            flags: SystemFlags::from_bits(flags)?,
            keywords: KeywordNumbers::new(keywords),
            content: ContentId(STANDARD.decode(content).ok()?.try_into().ok()?),
        })
    }
}
