//! Each record by itself: whether its key is one the store makes, and its value what was written there.

use crate::deliveries::Deliveries;
use crate::encoding::Damaged;
use crate::keys;
use crate::operations::Operation;
use crate::records::{self, AccountRecord, ContentRecord, Facts, LogEntry, Settings, Summary};
use crate::seen::{Block, Head};
use crate::store::{decode_group, decode_live};
use crate::transit::{Transit, Verdict, decode_floor, decode_pointer};
use bytes::Bytes;
use rookery_kv::engine::{Engine, EngineError, Space};

/// The kind of record that stands under a key; `None` if the store makes no such key.
pub(crate) fn kind_of(space: Space, key: &[u8]) -> Option<&'static str> {
    if space == Space::Meta {
        return match key {
            keys::STORE => Some("store identity"),
            keys::GROUP => Some("group"),
            keys::TAIL => Some("tail"),
            keys::SERVER_ANNOTATIONS => Some("server annotations"),
            _ if keys::transit_of_pointer(key).is_some() => Some("move pointer"),
            _ if crate::travel::job_of(key).is_some() => Some("move job"),
            _ if key.starts_with(keys::VOLUME) && key.len() == keys::VOLUME.len() + 4 => {
                Some("volume counter")
            }
            _ => None,
        };
    }
    keys::account_of(key)?;
    match (space, key.get(8), key.len()) {
        (Space::Account, Some(0), 9) => Some("account"),
        (Space::Account, Some(1), _) => {
            key.get(9..).filter(|name| std::str::from_utf8(name).is_ok()).map(|_| "subscription")
        }
        (Space::Account, Some(2), 9) => Some("subscription list"),
        (Space::Account, Some(3), _) => keys::annotation_parts(key).map(|_| "annotation"),
        (Space::Account, Some(4), 9) => Some("annotation usage"),
        (Space::Account, Some(5), _) => keys::seen_parts(key).map(|_| super::private::kind_of(key)),
        (Space::Account, Some(6), 10) => Some("deliveries"),
        (Space::Account, Some(7), 17) => Some("outgoing move"),
        (Space::Account, Some(8), 17) => keys::transit_source(key).map(|_| "incoming moves floor"),
        (Space::Account, Some(8), 25) => keys::transit_source(key).map(|_| "incoming move"),
        (Space::Account, Some(9), 29) => Some("operation"),
        (Space::Mailbox, _, 13) => match key.last() {
            Some(0) => Some("mailbox settings"),
            Some(1) => Some("mailbox summary"),
            Some(2) => Some("quota usage"),
            _ => None,
        },
        (Space::Chunk, _, 16) => keys::uid_of(key).map(|_| "message chunk"),
        (Space::Delta, _, 16) => keys::uid_of(key).map(|_| "message delta"),
        (Space::Leaf, _, 16) => keys::uid_of(key).map(|_| "chunk summary"),
        (Space::Log, _, 16) => keys::modseq_of(key).map(|_| "change log entry"),
        (Space::Tombstone, _, 20) => keys::modseq_of(key).map(|_| "tombstone"),
        (Space::Content, _, 25) => match key.last() {
            Some(0) => Some("content"),
            Some(1) => Some("content facts"),
            _ => None,
        },
        (Space::Thread, _, 16) => Some("thread"),
        (Space::Queue, _, 20) => match keys::uid_of(key) {
            Some(_) => Some("expunged message"),
            None if keys::queued_mailbox(key)?.number == 0 => Some("deleted account"),
            None => Some("deleted mailbox"),
        },
        _ => None,
    }
}

/// What a record under a key that makes no sense is taken for.
fn kind_near(space: Space, key: &[u8]) -> &'static str {
    match space {
        Space::Meta if key.starts_with(keys::GROUP) => "group",
        Space::Meta if key.starts_with(keys::TAIL) => "tail",
        Space::Meta if key.starts_with(keys::VOLUME) => "volume counter",
        Space::Meta if key.starts_with(keys::TRANSIT) => "move pointer",
        Space::Meta if key.starts_with(keys::JOB) => "move job",
        Space::Meta if key.starts_with(keys::SERVER_ANNOTATIONS) => "server annotations",
        Space::Meta | Space::Directory => "store identity",
        Space::Account => "account",
        Space::Mailbox => "mailbox settings",
        Space::Chunk => "message chunk",
        Space::Delta => "message delta",
        Space::Leaf => "chunk summary",
        Space::Log => "change log entry",
        Space::Tombstone => "tombstone",
        Space::Content => "content",
        Space::Thread => "thread",
        Space::Queue => "expunged message",
    }
}

/// Whether a record says what one of its kind can say.
pub(crate) fn read(kind: &str, key: &[u8], value: &[u8]) -> Result<(), Damaged> {
    match kind {
        "store identity" => crate::store::Identity::decode(value).map(drop),
        "group" => decode_group(value).map(drop),
        "tail" => crate::committer::decode_tail(value).map(drop),
        "volume counter" => decode_live(key, value).map(drop),
        "server annotations" => records::decode_server_annotations(value).map(drop),
        "annotation" => records::decode_annotation(key, value).map(drop),
        "annotation usage" => records::Annotations::decode(key, value).map(drop),
        "private seen" => Block::decode(key, value).map(drop),
        "private seen summary" => Head::decode(key, value).map(drop),
        "outgoing move" => Transit::decode(key, value).map(drop),
        "incoming moves floor" => decode_floor(key, value).map(drop),
        "incoming move" => Verdict::decode(key, value).map(drop),
        "operation" => Operation::decode(key, value).map(drop),
        "move pointer" => decode_pointer(key, value).map(drop),
        "move job" => crate::travel::read_job(key, value).map(drop),
        "deliveries" => Deliveries::decode(key, value).map(drop),
        "account" => AccountRecord::decode(key, value).map(drop),
        "subscription" => records::decode_subscription(key, value).map(drop),
        "subscription list" => records::decode_subscription_list(key, value).map(drop),
        "mailbox settings" => Settings::decode(key, value).map(drop),
        "mailbox summary" => Summary::decode(key, value).map(drop),
        "quota usage" => records::Held::decode(key, value).map(drop),
        "message chunk" => records::decode_chunk(key, value).map(drop),
        "message delta" => records::decode_delta(key, value).map(drop),
        "chunk summary" => records::decode_chunk_summary(key, value).map(drop),
        "change log entry" => LogEntry::decode(key, value).map(drop),
        "tombstone" => records::decode_tombstone(key, value).map(drop),
        "content" => ContentRecord::decode(key, value).map(drop),
        "content facts" => Facts::decode(key, &Bytes::copy_from_slice(value)).map(drop),
        "thread" => records::decode_thread(key, value).map(drop),
        "expunged message" => records::decode_expunged(key, value).map(drop),
        _ => records::decode_deleted_mailbox(key, value),
    }
}

type Visit<'a> = dyn FnMut(Space, &[u8], &[u8], &'static str, &'static str) + 'a;

/// Visits every record that is damaged, or stands where the store puts none: space, key, value, kind and fault.
pub(super) fn damaged(engine: &dyn Engine, visit: &mut Visit<'_>) -> Result<(), EngineError> {
    for space in Space::ALL.into_iter().filter(|space| *space != Space::Directory) {
        engine.scan(space, &[], None, false, &mut |key, value| {
            match kind_of(space, key) {
                Some(kind) => {
                    if let Err(damaged) = read(kind, key, value) {
                        visit(space, key, value, kind, damaged.what);
                    }
                }
                None if space == Space::Meta && key.starts_with(keys::QUARANTINE) => {}
                None => visit(space, key, value, kind_near(space, key), "the store makes no such key"),
            }
            true
        })?;
    }
    Ok(())
}
