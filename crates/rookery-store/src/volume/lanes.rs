//! Adding records. There are two lanes, one for what arrives and one for what compaction packs, each with a volume that
//! is being written.
//!
//! Invariants:
//! - Room for a record is taken under the lock of its lane, and once. A message's octets are written without it, so that
//!   nobody waits for those of another.
//! - A volume of an earlier run is gone on with if nothing in it is torn, and only after what all its records need was
//!   written again: that run may have ended behind a sync that failed.
//! - What is packed with a dictionary lies in the volume that holds it.

use super::record::dictionary_id;
use super::{
    Coding, FILE_HEADER, FRAME_OCTETS, Mark, Packer, Placed, Purpose, RECORD_HEADER, RecordHeader,
    RecordKind, Volume, VolumeError, Volumes, aligned, packing, placed,
};
use crate::records::Locator;
use rookery_types::{AccountId, ContentId};
use std::io;
use std::sync::Arc;
use zstd_safe::CDict;

struct Current {
    volume: Arc<Volume>,
    end: u64,
}

/// A volume that is being written, or could be again.
#[derive(Default)]
pub(super) struct Lane {
    current: Option<Current>,
    /// The last such volume of an earlier run, if it has room left.
    resumable: Option<u32>,
}

impl Lane {
    fn is(&self, number: u32) -> bool {
        self.resumable == Some(number)
            || self.current.as_ref().is_some_and(|current| current.volume.number == number)
    }

    /// A volume of an earlier run; the newest is told first.
    pub(super) fn found(&mut self, number: u32) {
        self.resumable.get_or_insert(number);
    }

    pub(super) fn forget(&mut self, number: u32) {
        self.resumable = self.resumable.filter(|resumable| *resumable != number);
    }
}

/// The volume that compaction writes, with what packs for it.
#[derive(Default)]
pub(super) struct PackedLane {
    pub(super) lane: Lane,
    /// The dictionary of the current volume.
    dictionary: Option<(u16, CDict<'static>)>,
}

impl Volumes {
    /// Whether a volume is one of those that records are added to.
    pub(crate) fn is_current(&self, number: u32) -> bool {
        let arrives = self.arrivals.lock().is(number);
        arrives || self.packed.lock().lane.is(number)
    }

    /// Whether what arrives now goes into a later volume.
    pub(crate) fn arrives_behind(&self, number: u32) -> bool {
        self.arrivals.lock().current.as_ref().is_some_and(|current| current.volume.number > number)
    }

    /// The last volume of an earlier run, from behind all that a crash may have left in it.
    fn resume(&self, lane: &mut Lane) -> Result<(), VolumeError> {
        let Some(number) = lane.resumable.take() else { return Ok(()) };
        let volume = self.volume(number)?;
        let len = volume.file.len().map_err(|e| volume.io(e))?;
        // A crash may have left a header whose octets were not written. What came behind it would be taken for these.
        let mut is_torn = false;
        if len < self.roll_octets {
            self.scan_closely(number, |offset, header| {
                is_torn |= offset.saturating_add(RECORD_HEADER).saturating_add(header.stored) > len;
            })?;
        }
        if len < self.roll_octets && !is_torn {
            // The run that made it may have ended behind a sync that failed: then its header can be read and is not on
            // the disk, and syncing what comes behind it would not bring it there.
            self.write_again(&volume, 0, FILE_HEADER)?;
            lane.current = Some(Current { volume, end: aligned(len.max(FILE_HEADER)) });
        }
        Ok(())
    }

    /// Takes room for a record at the end of the current volume, beginning a new one when it is full.
    fn reserve(&self, octets: u64) -> Result<(Arc<Volume>, u64), VolumeError> {
        let mut lane = self.arrivals.lock();
        if lane.current.is_none() {
            self.resume(&mut lane)?;
        }
        if lane.current.as_ref().is_none_or(|current| current.end >= self.roll_octets) {
            lane.current = Some(Current { volume: self.create(Purpose::Arrivals)?, end: FILE_HEADER });
        }
        take_room(lane.current.as_mut(), octets)
    }

    /// Ends the volume of arrivals, if it has as many octets, so that it can be packed.
    pub(crate) fn end_arrivals(&self, octets_min: u64) -> Result<(), VolumeError> {
        let mut lane = self.arrivals.lock();
        if lane.current.is_none() {
            self.resume(&mut lane)?;
        }
        if lane.current.as_ref().is_some_and(|current| current.end >= octets_min.max(FILE_HEADER + 1)) {
            lane.current = None;
        }
        Ok(())
    }

    /// Writes a message's octets; they are durable after a [`Volume::sync`].
    pub(crate) fn append(
        &self,
        account: AccountId,
        content: ContentId,
        body: &[u8],
    ) -> Result<Placed, VolumeError> {
        self.used(body.len() as u64);
        let header = content_header(account, content, body);
        let (volume, offset) = self.reserve(RECORD_HEADER + body.len() as u64)?;
        write(volume, offset, &header, body)
    }

    /// Writes into a volume that is being written that the engine had made `group` durable.
    pub(crate) fn mark(&self, group: u64, number: u32) -> Result<(), VolumeError> {
        let header = mark_header(Mark { group, back: None });
        let room = |lane: &mut Lane| {
            let current = lane.current.as_mut().filter(|current| current.volume.number == number);
            current.map(|current| take_room(Some(current), RECORD_HEADER)).transpose()
        };
        let mut here = room(&mut self.arrivals.lock())?;
        if here.is_none() {
            here = room(&mut self.packed.lock().lane)?;
        }
        match here {
            Some((volume, offset)) => write(volume, offset, &header, &[]).map(drop),
            None => Ok(()),
        }
    }

    /// Writes into the volume of arrivals that the engine had made `group` durable, and where the first body is of the
    /// group that comes now. Gives the volume, which is to be synced.
    pub(crate) fn mark_back(&self, group: u64, back: Locator) -> Result<Arc<Volume>, VolumeError> {
        let (volume, offset) = self.reserve(RECORD_HEADER)?;
        write(volume.clone(), offset, &mark_header(Mark { group, back: Some(back) }), &[])?;
        Ok(volume)
    }

    /// Makes sure that there is a volume for what is packed. A new one gets the dictionary that `train` makes.
    pub(crate) fn begin_packing(&self, train: impl FnOnce() -> Option<Vec<u8>>) -> Result<(), VolumeError> {
        let mut packed = self.packed.lock();
        if packed.lane.current.is_none() {
            self.resume(&mut packed.lane)?;
            if let Some(current) = &packed.lane.current {
                let found = current.volume.dictionary()?;
                if let Some(known) = &found {
                    // Both copies, for the same reason as the header.
                    let copy = aligned(RECORD_HEADER + known.octets.len() as u64);
                    self.write_again(&current.volume, FILE_HEADER, FILE_HEADER + 2 * copy)?;
                }
                packed.dictionary =
                    found.and_then(|known| Some((known.id, packing::for_packing(&known.octets)?)));
            }
        }
        if packed.lane.current.as_ref().is_some_and(|current| current.end < self.roll_octets) {
            return Ok(());
        }
        let previous = match &packed.lane.current {
            Some(current) => current.volume.dictionary()?,
            None => None,
        };
        let dictionary = train().or_else(|| previous.map(|known| known.octets.clone()));
        // It is a small part of what a volume holds.
        let dictionary = dictionary.filter(|octets| octets.len() as u64 * 16 < self.roll_octets);
        let volume = self.create(Purpose::Packed)?;
        let mut end = FILE_HEADER;
        packed.dictionary = None;
        if let Some(octets) = dictionary
            && let Some(pack) = packing::for_packing(&octets)
        {
            let crc = crc32c::crc32c(&octets);
            let header = RecordHeader {
                kind: RecordKind::Dictionary,
                account: 0,
                content: ContentId([0; 16]),
                coding: Coding::Raw,
                stored: octets.len() as u64,
                plain: octets.len() as u64,
                crc,
            };
            // Twice: without it nothing here could be read.
            for _ in 0..2 {
                write(volume.clone(), end, &header, &octets)?;
                end = aligned(end + RECORD_HEADER + octets.len() as u64);
            }
            packed.dictionary = Some((dictionary_id(crc), pack));
        }
        packed.lane.current = Some(Current { volume, end });
        Ok(())
    }

    /// Writes a message's octets for good, packed if that makes them smaller and is wanted. After
    /// [`Volumes::begin_packing`]; they are durable after a [`Volume::sync`].
    pub(crate) fn append_packed(
        &self,
        account: AccountId,
        content: ContentId,
        body: &[u8],
        packer: Option<&mut Packer>,
    ) -> Result<Placed, VolumeError> {
        let mut packed = self.packed.lock();
        let mut header = content_header(account, content, body);
        let mut framed = Vec::new();
        let mut stored = body;
        match packer {
            None => {}
            Some(packer) if body.len() > FRAME_OCTETS => {
                let mut table = packing::Table::default();
                for frame in body.chunks(FRAME_OCTETS) {
                    let octets = packer.pack(frame, None);
                    let is_packed = octets.is_some();
                    let octets = octets.unwrap_or(frame);
                    table.add(octets.len(), frame.len(), is_packed, crc32c::crc32c(octets));
                    framed.extend_from_slice(octets);
                }
                if table.0.iter().any(|frame| frame.is_packed) {
                    let table = table.encode();
                    header.coding = Coding::Framed;
                    header.crc = crc32c::crc32c(&table);
                    framed.extend_from_slice(&table);
                    stored = &framed;
                }
            }
            Some(packer) => {
                let dictionary = packed.dictionary.as_ref();
                if let Some(octets) = packer.pack(body, dictionary.map(|(_, dictionary)| dictionary)) {
                    header.coding = dictionary.map_or(Coding::Zstd, |(id, _)| Coding::WithDictionary(*id));
                    header.crc = crc32c::crc32c(octets);
                    stored = octets;
                }
            }
        }
        header.stored = stored.len() as u64;
        let (volume, offset) = take_room(packed.lane.current.as_mut(), RECORD_HEADER + stored.len() as u64)?;
        drop(packed);
        write(volume, offset, &header, stored)
    }
}

fn mark_header(mark: Mark) -> RecordHeader {
    RecordHeader {
        kind: RecordKind::Mark,
        account: 0,
        content: mark.encode(),
        coding: Coding::Raw,
        stored: 0,
        plain: 0,
        crc: 0,
    }
}

fn content_header(account: AccountId, content: ContentId, body: &[u8]) -> RecordHeader {
    RecordHeader {
        kind: RecordKind::Content,
        account: account.get(),
        content,
        coding: Coding::Raw,
        stored: body.len() as u64,
        plain: body.len() as u64,
        crc: crc32c::crc32c(body),
    }
}

fn take_room(current: Option<&mut Current>, octets: u64) -> Result<(Arc<Volume>, u64), VolumeError> {
    // Every caller has put one there.
    let missing = || VolumeError::Io { volume: 0, source: io::ErrorKind::NotFound.into() };
    let current = current.ok_or_else(missing)?;
    let offset = current.end;
    current.end = aligned(offset.saturating_add(octets));
    Ok((current.volume.clone(), offset))
}

fn write(
    volume: Arc<Volume>,
    offset: u64,
    header: &RecordHeader,
    body: &[u8],
) -> Result<Placed, VolumeError> {
    let mut record = Vec::with_capacity(RECORD_HEADER as usize + body.len());
    record.extend_from_slice(&header.encode());
    record.extend_from_slice(body);
    volume.file.write_at(&record, offset).map_err(|e| volume.io(e))?;
    Ok(placed(volume, offset, record.len() as u64))
}
