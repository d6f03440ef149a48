//! Reading records: whole messages, parts of them, and what lies close together.

use super::header::{Coding, FILE_HEADER, RECORD_HEADER, RecordHeader, RecordKind};
use super::packing::{self, DICTIONARY_RECORD_MAX, FRAME_OCTETS, Table};
use super::{Volume, VolumeError, Volumes, aligned};
use crate::records::{ContentRecord, Locator};
use bytes::Bytes;
use parking_lot::Mutex;
use rookery_types::{AccountId, ContentId};
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use zstd_safe::DDict;

/// Octets of the largest part that is lent a buffer.
pub(crate) const PART_OCTETS_MAX: usize = 1280 << 10;
/// Buffers for parts that are kept.
const BUFFERS_MAX: usize = 16;
/// A record of at most so many octets is read with its header at once.
const AT_ONCE: u32 = 1 << 20;

const HEADER: &str = "its header does not fit its checksum";
const OTHER: &str = "it is another record";
const SHORT: &str = "the volume ends within it";
const SUM: &str = "its octets do not fit their checksum";
const TABLE: &str = "the table of its frames is damaged";
const UNPACKED: &str = "it cannot be unpacked";
const DICTIONARY: &str = "the dictionary of its volume is damaged";

/// Buffers of [`PART_OCTETS_MAX`], lent for one part each: new memory would have to be cleared for every part.
#[derive(Default)]
pub(crate) struct Buffers(Mutex<Vec<Vec<u8>>>);

struct Lent {
    octets: Vec<u8>,
    len: usize,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut free = self.home.0.lock();
        if free.len() < BUFFERS_MAX {
            free.push(std::mem::take(&mut self.octets));
        }
    }
}

impl Buffers {
    /// Octets that `fill` writes, every one of them.
    fn filled(
        self: &Arc<Buffers>,
        len: usize,
        fill: impl FnOnce(&mut [u8]) -> Result<(), VolumeError>,
    ) -> Result<Bytes, VolumeError> {
        if len > PART_OCTETS_MAX {
            let mut octets = vec![0; len];
            fill(&mut octets)?;
            return Ok(octets.into());
        }
        let free = self.0.lock().pop();
        let mut octets = free.unwrap_or_else(|| vec![0; PART_OCTETS_MAX]);
        fill(octets.get_mut(..len).unwrap_or_default())?;
        Ok(Bytes::from_owner(Lent { octets, len, home: self.clone() }))
    }
}

/// A volume's dictionary, ready for use.
pub(crate) struct Dictionary {
    pub(crate) id: u16,
    pub(crate) octets: Vec<u8>,
    unpack: DDict<'static>,
}

/// Which message a record should hold.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) account: AccountId,
    pub(crate) content: ContentId,
    pub(crate) size: u32,
}

enum Found {
    Here(Range<usize>),
    Unpacked,
}

/// A record whose header has been read; it holds its volume.
pub(crate) struct Record {
    volume: Arc<Volume>,
    offset: u64,
    pub(crate) header: RecordHeader,
    table: Table,
    /// A message in one piece is unpacked once.
    unpacked: OnceLock<Bytes>,
    /// How far a message that is stored as it is has been read from its beginning, and the checksum so far.
    sum: Mutex<(u64, u32)>,
}

impl Record {
    fn damaged(&self, what: &'static str) -> VolumeError {
        VolumeError::Damaged { volume: self.volume.number, offset: self.offset, what }
    }

    fn read_stored(&self, into: &mut [u8], at: u64) -> Result<(), VolumeError> {
        let offset = self.offset.saturating_add(RECORD_HEADER).saturating_add(at);
        match self.volume.read_exact(into, offset)? {
            true => Ok(()),
            false => Err(self.damaged(SHORT)),
        }
    }

    /// Octets of the message.
    pub(crate) fn size(&self) -> u64 {
        self.header.plain
    }
}

impl Volume {
    /// The volume's dictionary, read when first asked for. It stands there twice.
    pub(crate) fn dictionary(&self) -> Result<Option<Arc<Dictionary>>, VolumeError> {
        if let Some(known) = self.dictionary.get() {
            return Ok(known.clone());
        }
        let mut head = vec![0; FILE_HEADER as usize + 2 * aligned(DICTIONARY_RECORD_MAX) as usize];
        let got = self.file.read_at(&mut head, 0).map_err(|e| self.io(e))?;
        head.truncate(got);
        let mut at = FILE_HEADER as usize;
        let mut found = None;
        while let Some(octets) = head.get(at..).filter(|octets| octets.len() > RECORD_HEADER as usize) {
            let Some(header) = RecordHeader::decode(octets) else {
                at += 8;
                continue;
            };
            if header.kind != RecordKind::Dictionary {
                break;
            }
            let stored = usize::try_from(header.stored).unwrap_or(usize::MAX);
            let end = (RECORD_HEADER as usize).saturating_add(stored);
            let whole = octets.get(RECORD_HEADER as usize..end);
            if let Some(octets) = whole.filter(|octets| crc32c::crc32c(octets) == header.crc)
                && let Some(unpack) = packing::for_unpacking(octets)
            {
                let id = dictionary_id(header.crc);
                found = Some(Arc::new(Dictionary { id, octets: octets.to_vec(), unpack }));
                break;
            }
            at = at.saturating_add(end).next_multiple_of(8);
        }
        Ok(self.dictionary.get_or_init(|| found).clone())
    }

    fn dictionary_with(&self, id: u16) -> Result<Option<Arc<Dictionary>>, VolumeError> {
        Ok(self.dictionary()?.filter(|dictionary| dictionary.id == id))
    }
}

/// The id of a dictionary whose octets have this checksum.
pub(crate) fn dictionary_id(crc: u32) -> u16 {
    (crc & 0xffff) as u16
}

impl Volumes {
    /// A whole message, checked. For sizes that fit in memory.
    pub(crate) fn read(
        &self,
        record: &ContentRecord,
        account: AccountId,
        content: ContentId,
    ) -> Result<Bytes, VolumeError> {
        let (locator, size) = (record.locator, record.size);
        self.used(size.into());
        if record.stored > AT_ONCE {
            let found = self.record(locator, account, content)?;
            if found.size() != u64::from(size) {
                return Err(found.damaged(OTHER));
            }
            return self.read_record(&found, 0, size as usize);
        }
        let (mut span, mut scratch) = (Vec::new(), Vec::new());
        self.read_octets(locator, record.stored as usize, &mut span)?;
        let wanted = Wanted { account, content, size };
        match self.find_in(&span, locator, 0, wanted, &mut scratch)? {
            Found::Here(body) => Ok(Bytes::from(span).slice(body)),
            Found::Unpacked => Ok(scratch.into()),
        }
    }

    fn read_octets(&self, from: Locator, octets: usize, span: &mut Vec<u8>) -> Result<(), VolumeError> {
        let volume = self.volume(from.volume)?;
        span.resize(octets, 0);
        let got = volume.file.read_at(span, from.offset).map_err(|e| volume.io(e))?;
        span.truncate(got);
        Ok(())
    }

    /// Octets of a volume from a place on, as many as there are, in place of what is in `span`: for records that lie
    /// close together.
    pub(crate) fn read_span(
        &self,
        from: Locator,
        octets: usize,
        span: &mut Vec<u8>,
    ) -> Result<(), VolumeError> {
        self.used(octets as u64);
        self.read_octets(from, octets, span)
    }

    /// The message of a record that begins so many octets into a span that begins at `from`, checked. What is packed
    /// is unpacked into `scratch`.
    pub(crate) fn message_in<'a>(
        &self,
        span: &'a [u8],
        from: Locator,
        at: usize,
        wanted: Wanted,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], VolumeError> {
        match self.find_in(span, from, at, wanted, scratch)? {
            Found::Here(body) => Ok(span.get(body).unwrap_or_default()),
            Found::Unpacked => Ok(scratch),
        }
    }

    fn find_in(
        &self,
        span: &[u8],
        from: Locator,
        at: usize,
        wanted: Wanted,
        scratch: &mut Vec<u8>,
    ) -> Result<Found, VolumeError> {
        let damaged = |what| VolumeError::Damaged {
            volume: from.volume,
            offset: from.offset.saturating_add(at as u64),
            what,
        };
        let record = span.get(at..).unwrap_or_default();
        let header = RecordHeader::decode(record).ok_or_else(|| damaged(HEADER))?;
        let is = (header.kind, header.account, header.content, header.plain);
        if is != (RecordKind::Content, wanted.account.get(), wanted.content, u64::from(wanted.size)) {
            return Err(damaged(OTHER));
        }
        let start = at + RECORD_HEADER as usize;
        let stored = usize::try_from(header.stored).unwrap_or(usize::MAX);
        let body = start..start.saturating_add(stored);
        let octets = span.get(body.clone()).ok_or_else(|| damaged(SHORT))?;
        if header.coding == Coding::Framed {
            let tail = octets.len().saturating_sub(Table::octets(header.plain) as usize);
            let (frames, table) = octets.split_at(tail);
            let table = read_table(&header, table).ok_or_else(|| damaged(TABLE))?;
            scratch.clear();
            scratch.resize(wanted.size as usize, 0);
            let mut left = scratch.as_mut_slice();
            for frame in &table.0 {
                let start = usize::try_from(frame.at).unwrap_or(usize::MAX);
                let octets = frames.get(start..start.saturating_add(frame.stored as usize));
                let octets = octets.ok_or_else(|| damaged(SHORT))?;
                let (here, behind) = left.split_at_mut((frame.plain as usize).min(left.len()));
                left = behind;
                if crc32c::crc32c(octets) != frame.crc {
                    return Err(damaged(SUM));
                }
                match frame.is_packed {
                    true if !self.unpackers.unpack_into(octets, here) => return Err(damaged(UNPACKED)),
                    true => {}
                    false => here.copy_from_slice(octets),
                }
            }
            return Ok(Found::Unpacked);
        }
        if crc32c::crc32c(octets) != header.crc {
            return Err(damaged(SUM));
        }
        let dictionary = match header.coding {
            Coding::Raw | Coding::Framed => return Ok(Found::Here(body)),
            Coding::Zstd => None,
            Coding::WithDictionary(id) => {
                let dictionary = self.volume(from.volume)?.dictionary_with(id)?;
                Some(dictionary.ok_or_else(|| damaged(DICTIONARY))?)
            }
        };
        let dictionary = dictionary.as_ref().map(|dictionary| &dictionary.unpack);
        match self.unpackers.unpack(octets, wanted.size as usize, dictionary, scratch) {
            true => Ok(Found::Unpacked),
            false => Err(damaged(UNPACKED)),
        }
    }

    /// Finds a record and reads what is needed to read parts of it.
    pub(crate) fn record(
        &self,
        locator: Locator,
        account: AccountId,
        content: ContentId,
    ) -> Result<Record, VolumeError> {
        let volume = self.volume(locator.volume)?;
        let header = self.header_at(&volume, locator.offset)?;
        let (unpacked, sum) = Default::default();
        let offset = locator.offset;
        let mut record = Record { volume, offset, header, table: Table::default(), unpacked, sum };
        if (header.kind, header.account, header.content) != (RecordKind::Content, account.get(), content) {
            return Err(record.damaged(OTHER));
        }
        if header.coding == Coding::Framed {
            let octets = Table::octets(header.plain);
            let mut table = vec![0; usize::try_from(octets).unwrap_or(0)];
            record.read_stored(&mut table, header.stored.saturating_sub(octets))?;
            record.table = read_table(&header, &table).ok_or_else(|| record.damaged(TABLE))?;
        }
        Ok(record)
    }

    /// Some octets of a message, beginning with octet `from` of it; fewer at its end. All are checked, but for parts of
    /// a message that is stored as it is: that is checked when it was read from its beginning to its end.
    pub(crate) fn read_record(
        &self,
        record: &Record,
        from: u64,
        octets: usize,
    ) -> Result<Bytes, VolumeError> {
        let left = usize::try_from(record.size().saturating_sub(from)).unwrap_or(usize::MAX);
        let octets = octets.min(left);
        match record.header.coding {
            Coding::Raw => {
                let part = self.buffers.filled(octets, |into| record.read_stored(into, from))?;
                let mut sum = record.sum.lock();
                if from == 0 {
                    *sum = (0, 0);
                }
                if sum.0 == from {
                    *sum = (from + octets as u64, crc32c::crc32c_append(sum.1, &part));
                    if sum.0 == record.size() && sum.1 != record.header.crc {
                        return Err(record.damaged(SUM));
                    }
                }
                Ok(part)
            }
            Coding::Zstd | Coding::WithDictionary(_) => {
                let whole = match record.unpacked.get() {
                    Some(whole) => whole,
                    None => {
                        let whole = self.unpack(record)?;
                        record.unpacked.get_or_init(|| whole)
                    }
                };
                let start = usize::try_from(from).unwrap_or(usize::MAX).min(whole.len());
                Ok(whole.slice(start..(start + octets).min(whole.len())))
            }
            Coding::Framed => self.buffers.filled(octets, |into| self.read_frames(record, from, into)),
        }
    }

    fn unpack(&self, record: &Record) -> Result<Bytes, VolumeError> {
        let header = &record.header;
        let mut stored = vec![0; usize::try_from(header.stored).unwrap_or(0)];
        record.read_stored(&mut stored, 0)?;
        if crc32c::crc32c(&stored) != header.crc {
            return Err(record.damaged(SUM));
        }
        let dictionary = match header.coding {
            Coding::WithDictionary(id) => {
                let dictionary = record.volume.dictionary_with(id)?;
                Some(dictionary.ok_or_else(|| record.damaged(DICTIONARY))?)
            }
            _ => None,
        };
        let dictionary = dictionary.as_ref().map(|dictionary| &dictionary.unpack);
        let mut out = Vec::new();
        match self.unpackers.unpack(&stored, usize::try_from(header.plain).unwrap_or(0), dictionary, &mut out)
        {
            true => Ok(out.into()),
            false => Err(record.damaged(UNPACKED)),
        }
    }

    /// Fills `into` with octets of a framed message from one on.
    fn read_frames(&self, record: &Record, from: u64, mut into: &mut [u8]) -> Result<(), VolumeError> {
        let frame_octets = FRAME_OCTETS as u64;
        let first = usize::try_from(from / frame_octets).unwrap_or(usize::MAX);
        let mut skip = usize::try_from(from % frame_octets).unwrap_or(0);
        let mut frames = record.table.0.get(first..).unwrap_or_default();
        let mut scratch = Vec::new();
        while let Some(frame) = frames.first().filter(|_| !into.is_empty()) {
            // Whole frames that are stored as they are lie there as they are wanted.
            let mut run = 0;
            let mut octets = 0;
            while let Some(next) = frames.get(run)
                && (skip == 0 && !next.is_packed && octets + next.stored as usize <= into.len())
            {
                octets += next.stored as usize;
                run += 1;
            }
            if run > 0 {
                let (here, behind) = into.split_at_mut(octets);
                record.read_stored(here, frame.at)?;
                let mut unchecked = &*here;
                for frame in frames.get(..run).unwrap_or_default() {
                    let (octets, others) = unchecked.split_at((frame.stored as usize).min(unchecked.len()));
                    unchecked = others;
                    if crc32c::crc32c(octets) != frame.crc {
                        return Err(record.damaged(SUM));
                    }
                }
                into = behind;
                frames = frames.get(run..).unwrap_or_default();
                continue;
            }
            scratch.resize(frame.stored as usize, 0);
            record.read_stored(&mut scratch, frame.at)?;
            if crc32c::crc32c(&scratch) != frame.crc {
                return Err(record.damaged(SUM));
            }
            let plain = frame.plain as usize;
            let here = plain.saturating_sub(skip).min(into.len());
            let (target, behind) = into.split_at_mut(here);
            if frame.is_packed && here == plain {
                if !self.unpackers.unpack_into(&scratch, target) {
                    return Err(record.damaged(UNPACKED));
                }
            } else {
                let mut made = Vec::new();
                if frame.is_packed && !self.unpackers.unpack(&scratch, plain, None, &mut made) {
                    return Err(record.damaged(UNPACKED));
                }
                let whole = if frame.is_packed { &made } else { &scratch };
                let part = whole.get(skip..skip + here).ok_or_else(|| record.damaged(TABLE))?;
                target.copy_from_slice(part);
            }
            (into, skip) = (behind, 0);
            frames = frames.get(1..).unwrap_or_default();
        }
        match into.is_empty() {
            true => Ok(()),
            false => Err(record.damaged(TABLE)),
        }
    }

    /// Whether a record is there with all its octets, reading in pieces.
    pub(crate) fn verify(
        &self,
        locator: Locator,
        account: AccountId,
        content: ContentId,
    ) -> Result<(), VolumeError> {
        let record = self.record(locator, account, content)?;
        let mut at = 0;
        loop {
            let piece = self.read_record(&record, at, FRAME_OCTETS)?;
            at += piece.len() as u64;
            if piece.is_empty() || at >= record.size() {
                return Ok(());
            }
        }
    }

    pub(super) fn header_at(&self, volume: &Volume, offset: u64) -> Result<RecordHeader, VolumeError> {
        let damaged = |what| VolumeError::Damaged { volume: volume.number, offset, what };
        let mut header = [0; RECORD_HEADER as usize];
        if !volume.read_exact(&mut header, offset)? {
            return Err(damaged("the volume ends before it"));
        }
        RecordHeader::decode(&header).ok_or_else(|| damaged(HEADER))
    }
}

fn read_table(header: &RecordHeader, octets: &[u8]) -> Option<Table> {
    if crc32c::crc32c(octets) != header.crc {
        return None;
    }
    Table::decode(octets, header.plain, header.stored)
}
