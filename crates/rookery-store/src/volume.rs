//! Volumes: append-only files that hold the octets of messages.
//!
//! Layout of a volume `v%08x.vol`: a file header of [`FILE_HEADER`] octets, then records, each at a multiple of 8:
//! a record header of [`RECORD_HEADER`] octets and the stored octets. `docs/store-format.md` has every field.
//!
//! What arrives is written as it is into one volume, and compaction writes what it keeps, packed, into another: `lanes`
//! is how. Here is which volumes there are, how they come, are found again and go.
//!
//! Invariants:
//! - A record is never changed once it is referred to; space is won back by writing what lives elsewhere and
//!   removing the whole volume.
//! - What a crash leaves behind the last synced record is garbage that nothing refers to; scanning steps over it.
//! - A new volume's name is made durable with the first sync that acknowledges a record in it.
//! - A volume has in itself all that is needed to read its records.

mod header;
mod lanes;
mod large;
mod packing;
mod record;
#[cfg(test)]
mod tests;

pub(crate) use header::{
    Coding, FILE_HEADER, Mark, Purpose, RECORD_HEADER, RecordHeader, RecordKind, decode_file_header,
    encode_file_header, name, number,
};
pub(crate) use large::LargeBody;
pub(crate) use packing::{DICTIONARY_RECORD_MAX, FRAME_OCTETS, Packer, train};
pub(crate) use record::{Record, Wanted};

use crate::records::Locator;
use lanes::{Lane, PackedLane};
use parking_lot::Mutex;
use record::{Buffers, Dictionary};
use rookery_kv::files::{FileLayer, VolumeFile};
use rookery_types::StoreId;
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Volumes whose files are kept open.
const OPEN_MAX: usize = 256;
/// Headers that are read at the start to find the volumes that writing goes on in.
const RESUME_LOOKS: usize = 64;
/// Octets that are written again at once.
const SETTLE_OCTETS: usize = 1 << 20;

/// Why octets cannot be had from a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The disk failed.
    #[error("volume {volume:08x} cannot be read or written")]
    Io {
        /// Which volume.
        volume: u32,
        /// What the operating system says.
        source: io::Error,
    },
    /// What is there is not what was written.
    #[error("the record at {offset} of volume {volume:08x} is damaged: {what}")]
    Damaged {
        /// Which volume.
        volume: u32,
        /// Where the record begins.
        offset: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// One volume file.
pub(crate) struct Volume {
    pub(crate) number: u32,
    file: Arc<dyn VolumeFile>,
    /// Whether the name is durable is not known: it is new, or of an earlier run, which may have ended before it was.
    new: AtomicBool,
    /// What its header says; `None` while nobody has looked.
    purpose: Mutex<Option<Purpose>>,
    dictionary: OnceLock<Option<Arc<Dictionary>>>,
}

impl Volume {
    fn new(number: u32, file: Arc<dyn VolumeFile>, purpose: Option<Purpose>) -> Volume {
        Volume {
            number,
            file,
            new: AtomicBool::new(true),
            purpose: Mutex::new(purpose),
            dictionary: OnceLock::new(),
        }
    }

    fn io(&self, source: io::Error) -> VolumeError {
        VolumeError::Io { volume: self.number, source }
    }

    /// Returns when every record written so far is on stable storage, and the volume's name too.
    pub(crate) fn sync(&self, files: &dyn FileLayer) -> Result<(), VolumeError> {
        self.file.sync().map_err(|e| self.io(e))?;
        if self.new.load(Ordering::Acquire) {
            files.sync_directory().map_err(|e| self.io(e))?;
            self.new.store(false, Ordering::Release);
        }
        Ok(())
    }

    fn read_exact(&self, buf: &mut [u8], offset: u64) -> Result<bool, VolumeError> {
        Ok(self.file.read_at(buf, offset).map_err(|e| self.io(e))? == buf.len())
    }
}

/// A record that is written but not yet synced.
#[derive(Clone)]
pub(crate) struct Placed {
    pub(crate) volume: Arc<Volume>,
    pub(crate) locator: Locator,
    /// Octets with the header.
    pub(crate) stored: u32,
    /// It was written before its change began, and others may have been made durable since.
    pub(crate) waited: bool,
}

impl Placed {
    /// The same record, which has waited for its change.
    pub(crate) fn after_a_while(&self) -> Placed {
        Placed { waited: true, ..self.clone() }
    }

    /// Octets of a message that was written as it is.
    pub(crate) fn read(&self, range: Range<u64>) -> Result<Vec<u8>, VolumeError> {
        let octets = range.end.saturating_sub(range.start);
        let mut read = vec![0; usize::try_from(octets).unwrap_or(usize::MAX)];
        if !self.volume.read_exact(&mut read, self.locator.offset + RECORD_HEADER + range.start)? {
            return Err(self.volume.io(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(read)
    }
}

/// All volumes of a store.
pub(crate) struct Volumes {
    files: Arc<dyn FileLayer>,
    store: StoreId,
    arrivals: Mutex<Lane>,
    packed: Mutex<PackedLane>,
    next: AtomicU32,
    open: Mutex<HashMap<u32, Arc<Volume>>>,
    /// At this size a volume is full.
    roll_octets: u64,
    /// Octets that were read and written for users.
    used: AtomicU64,
    buffers: Arc<Buffers>,
    unpackers: packing::Unpackers,
}

fn aligned(offset: u64) -> u64 {
    offset.next_multiple_of(8)
}

impl Volumes {
    /// Looks which volumes there are. Writes nothing.
    pub(crate) fn open(files: Arc<dyn FileLayer>, store: StoreId, roll_octets: u64) -> io::Result<Volumes> {
        let mut numbers: Vec<u32> = files.list()?.iter().filter_map(|name| number(name)).collect();
        numbers.sort_unstable();
        let mut volumes = Volumes {
            files,
            store,
            arrivals: Mutex::default(),
            packed: Mutex::default(),
            next: AtomicU32::new(numbers.last().map_or(1, |last| last.saturating_add(1))),
            open: Mutex::new(HashMap::new()),
            roll_octets,
            used: AtomicU64::new(0),
            buffers: Arc::default(),
            unpackers: packing::Unpackers::default(),
        };
        for number in numbers.into_iter().rev().take(RESUME_LOOKS) {
            match volumes.purpose(number) {
                Ok(Some(Purpose::Arrivals)) => volumes.arrivals.get_mut().found(number),
                Ok(Some(Purpose::Packed)) => volumes.packed.get_mut().lane.found(number),
                // One that cannot be read is not written either.
                _ => {}
            }
        }
        Ok(volumes)
    }

    /// What is left of the disk, in octets.
    pub(crate) fn free_octets(&self) -> io::Result<u64> {
        self.files.free_octets()
    }

    pub(crate) fn files(&self) -> &dyn FileLayer {
        &*self.files
    }

    /// The numbers of all volumes, ascending.
    pub(crate) fn numbers(&self) -> io::Result<Vec<u32>> {
        let mut numbers: Vec<u32> = self.files.list()?.iter().filter_map(|name| number(name)).collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    /// Whether somebody writes to a volume, or has written a record that no durable change refers to yet.
    pub(crate) fn is_in_use(&self, number: u32) -> bool {
        // Whoever has placed a record holds the volume until the change with it is durable; one is ours.
        let is_held = self.open.lock().get(&number).is_some_and(|volume| Arc::strong_count(volume) > 1);
        is_held || self.is_current(number)
    }

    /// What a volume is for; `None` if its header is damaged.
    pub(crate) fn purpose(&self, number: u32) -> Result<Option<Purpose>, VolumeError> {
        let volume = self.volume(number)?;
        let mut purpose = volume.purpose.lock();
        if purpose.is_none() {
            let mut header = [0; FILE_HEADER as usize];
            if volume.read_exact(&mut header, 0)?
                && let Some((store, of, found)) = decode_file_header(&header)
                && (store, of) == (self.store, number)
            {
                *purpose = Some(found);
            }
        }
        Ok(*purpose)
    }

    /// Counts octets that were read or written for somebody.
    pub(crate) fn used(&self, octets: u64) {
        self.used.fetch_add(octets, Ordering::Relaxed);
    }

    /// Octets that were read and written for users since the start.
    pub(crate) fn used_octets(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    fn create(&self, purpose: Purpose) -> Result<Arc<Volume>, VolumeError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let io = |source| VolumeError::Io { volume: number, source };
        let volume = {
            // From its first moment on it is known that it is in use.
            let mut open = self.open.lock();
            let file = self.files.create(&name(number)).map_err(io)?;
            let volume = Arc::new(Volume::new(number, file, Some(purpose)));
            remember(&mut open, &volume);
            volume
        };
        self.write_file_header(&volume, purpose)?;
        Ok(volume)
    }

    fn write_file_header(&self, volume: &Volume, purpose: Purpose) -> Result<(), VolumeError> {
        let header = encode_file_header(self.store, volume.number, purpose);
        volume.file.write_at(&header, 0).map_err(|e| volume.io(e))?;
        *volume.purpose.lock() = Some(purpose);
        Ok(())
    }

    /// Makes durable what an earlier run has left in a volume from `from` on: a killed process may have written it and
    /// not synced. It is written again, since after a sync that failed another one of the same octets does nothing. A
    /// header that a crash has lost while records behind it are there is made anew; says whether it was.
    pub(crate) fn settle(&self, number: u32, from: u64) -> Result<bool, VolumeError> {
        let volume = self.volume(number)?;
        let is_lost = self.purpose(number)?.is_none();
        match is_lost {
            true => self.write_file_header(&volume, Purpose::Arrivals)?,
            false => self.write_again(&volume, 0, FILE_HEADER)?,
        }
        let end = volume.file.len().map_err(|e| volume.io(e))?;
        self.write_again(&volume, from, end)?;
        volume.sync(&*self.files)?;
        Ok(is_lost)
    }

    fn write_again(&self, volume: &Volume, from: u64, end: u64) -> Result<(), VolumeError> {
        let mut at = from;
        while at < end {
            let room = usize::try_from(end - at).unwrap_or(usize::MAX).min(SETTLE_OCTETS);
            let mut piece = vec![0; room];
            let read = volume.file.read_at(&mut piece, at).map_err(|e| volume.io(e))?;
            if read == 0 {
                break;
            }
            volume.file.write_at(piece.get(..read).unwrap_or_default(), at).map_err(|e| volume.io(e))?;
            at += read as u64;
        }
        Ok(())
    }

    fn volume(&self, number: u32) -> Result<Arc<Volume>, VolumeError> {
        if let Some(volume) = self.open.lock().get(&number) {
            return Ok(volume.clone());
        }
        let file =
            self.files.open(&name(number)).map_err(|source| VolumeError::Io { volume: number, source })?;
        let volume = Arc::new(Volume::new(number, file, None));
        let mut open = self.open.lock();
        if let Some(known) = open.get(&number) {
            // Somebody else was faster; whether a volume is in use is known by the one that stands there.
            return Ok(known.clone());
        }
        remember(&mut open, &volume);
        Ok(volume)
    }

    /// Visits the headers of all records of a volume in order, with where they begin, stepping over garbage.
    /// Does not check bodies.
    pub(crate) fn scan(
        &self,
        number: u32,
        mut visit: impl FnMut(u64, &RecordHeader),
    ) -> Result<(), VolumeError> {
        let volume = self.volume(number)?;
        let len = volume.file.len().map_err(|e| volume.io(e))?;
        let mut offset = FILE_HEADER;
        while offset + RECORD_HEADER <= len {
            match self.header_at(&volume, offset) {
                Ok(header) if offset.saturating_add(RECORD_HEADER).saturating_add(header.stored) <= len => {
                    visit(offset, &header);
                    offset = aligned(offset + RECORD_HEADER + header.stored);
                }
                Ok(_) | Err(VolumeError::Damaged { .. }) => offset += 8,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Visits all that looks like a record's header, wherever it stands: also behind a header that claims more octets
    /// than were written, and within messages. For those who know which records there should be.
    pub(crate) fn scan_closely(
        &self,
        number: u32,
        mut visit: impl FnMut(u64, &RecordHeader),
    ) -> Result<(), VolumeError> {
        let volume = self.volume(number)?;
        let mut piece = vec![0; (1 << 20) + RECORD_HEADER as usize];
        let mut offset = FILE_HEADER;
        loop {
            let got = volume.file.read_at(&mut piece, offset).map_err(|e| volume.io(e))?;
            let octets = piece.get(..got).unwrap_or_default();
            for at in (0..1 << 20).step_by(8) {
                let Some(here) = octets.get(at..at + RECORD_HEADER as usize) else { return Ok(()) };
                if here.starts_with(&header::RECORD_MAGIC.to_le_bytes())
                    && let Some(header) = RecordHeader::decode(here)
                {
                    visit(offset + at as u64, &header);
                }
            }
            offset += 1 << 20;
        }
    }

    /// Removes a volume that nothing refers to any more. Readers that have it open go on.
    pub(crate) fn remove(&self, number: u32) -> Result<(), VolumeError> {
        self.arrivals.lock().forget(number);
        self.packed.lock().lane.forget(number);
        self.open.lock().remove(&number);
        self.files.remove(&name(number)).map_err(|source| VolumeError::Io { volume: number, source })
    }

    /// Octets of a volume's file.
    pub(crate) fn octets(&self, number: u32) -> Result<u64, VolumeError> {
        let volume = self.volume(number)?;
        volume.file.len().map_err(|e| volume.io(e))
    }
}

fn remember(open: &mut HashMap<u32, Arc<Volume>>, volume: &Arc<Volume>) {
    if open.len() >= OPEN_MAX {
        // Whoever uses one holds it; the rest are opened again when needed.
        open.retain(|_, volume| Arc::strong_count(volume) > 1);
    }
    open.insert(volume.number, volume.clone());
}

fn placed(volume: Arc<Volume>, offset: u64, octets: u64) -> Placed {
    let locator = Locator { volume: volume.number, offset };
    Placed { volume, locator, stored: u32::try_from(octets).unwrap_or(u32::MAX), waited: false }
}

/// Reads octets as a packed message and as the table of one.
#[cfg(fuzzing)]
pub(crate) fn unpack_any(octets: &[u8]) {
    let Some((plain, packed)) = octets.split_first_chunk::<4>() else { return };
    let plain = u32::from_le_bytes(*plain);
    let mut out = Vec::new();
    let size = plain as usize % (FRAME_OCTETS + 1);
    if packing::Unpackers::default().unpack(packed, size, None, &mut out) {
        assert_eq!(out.len(), size);
    }
    for stored in [packed.len() as u64, u64::from(plain)] {
        if let Some(table) = packing::Table::decode(packed, u64::from(plain), stored) {
            assert_eq!(table.encode(), packed);
        }
    }
}
