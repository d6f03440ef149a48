//! The decoders of what is on disk, for `fuzz/`, which alone is built with `cfg(fuzzing)`.

use crate::deliveries::Deliveries;
use crate::encoding::{Encoder, seal};
use crate::operations::Operation;
use crate::records::{
    self, AccountRecord, Annotations, ContentRecord, Facts, Held, LogEntry, Settings, Summary,
};
use crate::seen::{Block, Head};
use crate::transit::{Transit, Verdict, decode_floor, decode_pointer};
use crate::volume::{RecordHeader, decode_file_header, encode_file_header, number};
use rookery_kv::Space;

/// Reads fields under a key as every kind of record, with a checksum that fits.
pub fn record(space: Space, key: &[u8], fields: &[u8]) {
    let mut encoder = Encoder::default();
    encoder.raw(fields);
    let value = seal(space, key, encoder);
    let _ = AccountRecord::decode(key, &value);
    let _ = Held::decode(key, &value);
    let _ = Settings::decode(key, &value);
    let _ = Summary::decode(key, &value);
    let _ = Annotations::decode(key, &value);
    let _ = Deliveries::decode(key, &value);
    if let Ok(transit) = Transit::decode(key, &value) {
        assert_eq!(Transit::decode(key, &transit.encode(key)), Ok(transit));
    }
    if let Ok(verdict) = Verdict::decode(key, &value) {
        assert_eq!(Verdict::decode(key, &verdict.encode(key)), Ok(verdict));
    }
    if let Ok(operation) = Operation::decode(key, &value) {
        assert_eq!(Operation::decode(key, &operation.encode(key)), Ok(operation));
    }
    let _ = decode_floor(key, &value);
    let _ = decode_pointer(key, &value);
    let _ = ContentRecord::decode(key, &value);
    let _ = LogEntry::decode(key, &value);
    let _ = Facts::decode(key, &value);
    let _ = Facts::decode_structure(key, &value);
    if let Ok((_, message)) = records::decode_delta(key, &value) {
        let again = records::encode_delta(key, message.as_ref());
        assert_eq!(records::decode_delta(key, &again).ok().map(|(_, again)| again), Some(message));
    }
    if let Ok(messages) = records::decode_chunk(key, &value) {
        assert_eq!(records::decode_chunk(key, &records::encode_chunk(key, &messages)), Ok(messages));
    }
    if let Ok(uids) = records::decode_tombstone(key, &value) {
        assert_eq!(records::decode_tombstone(key, &records::encode_tombstone(key, &uids)), Ok(uids));
    }
    let _ = records::decode_annotation(key, &value);
    let _ = records::decode_server_annotations(&value);
    let _ = Head::decode(key, &value);
    if let Ok(block) = Block::decode(key, &value) {
        assert_eq!(Block::decode(key, &block.encode(key)), Ok(block));
    }
    let _ = records::decode_thread(key, &value);
    let _ = records::decode_expunged(key, &value);
    let _ = records::decode_deleted_mailbox(key, &value);
    let _ = records::decode_subscription_list(key, &value);
    let _ = records::decode_subscription(key, &value);
}

/// Reads octets as the header of a record in a volume, of a volume, and as a volume's name.
pub fn volume_header(octets: &[u8]) {
    if let Some(header) = RecordHeader::decode(octets) {
        assert_eq!(RecordHeader::decode(&header.encode()), Some(header));
    }
    // The same with a checksum that fits.
    if let Some(fields) = octets.get(..52) {
        let whole = [fields, &crc32c::crc32c(fields).to_le_bytes()].concat();
        let _ = RecordHeader::decode(&whole);
    }
    if let Some(header) = decode_file_header(octets) {
        let (store, number, purpose) = header;
        assert_eq!(decode_file_header(&encode_file_header(store, number, purpose)), Some(header));
    }
    crate::volume::unpack_any(octets);
    if let Ok(name) = std::str::from_utf8(octets) {
        let _ = number(name);
    }
}
