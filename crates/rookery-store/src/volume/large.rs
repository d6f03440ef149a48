//! Messages too large for memory: each in a volume of its own, written frame by frame.

use super::header::{Coding, FILE_HEADER, Purpose, RECORD_HEADER, RecordHeader, RecordKind};
use super::packing::{FRAME_OCTETS, Packer, Table};
use super::{Placed, Volume, VolumeError, Volumes, placed};
use rookery_types::{AccountId, ContentId};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The octets of a message by which it is decided whether packing it is worth the while.
const SAMPLE: Range<u64> = 64 << 10..128 << 10;

/// A message too large for memory, in a volume of its own whose record header is still missing.
///
/// Dropped before it is placed, it takes its file with it.
pub(crate) struct LargeBody {
    volumes: Arc<Volumes>,
    volume: Arc<Volume>,
    purpose: Purpose,
    size: u64,
    table: Table,
    /// Octets of the frame that is under way, as they are, and their checksum.
    frame: (usize, u32),
    sample: Vec<u8>,
    kept: AtomicBool,
}

impl Volumes {
    /// A volume of its own for one large message, written as it comes.
    pub(crate) fn begin_large(self: &Arc<Volumes>) -> Result<LargeBody, VolumeError> {
        self.begin(Purpose::Large)
    }

    /// A volume of its own for a large message that is packed, with [`LargeBody::pack`].
    pub(crate) fn begin_packed_large(self: &Arc<Volumes>) -> Result<LargeBody, VolumeError> {
        self.begin(Purpose::PackedLarge)
    }

    fn begin(self: &Arc<Volumes>, purpose: Purpose) -> Result<LargeBody, VolumeError> {
        let volume = self.create(purpose)?;
        let (size, table, frame, sample) = Default::default();
        let kept = AtomicBool::new(false);
        Ok(LargeBody { volumes: self.clone(), volume, purpose, size, table, frame, sample, kept })
    }
}

impl LargeBody {
    fn write(&self, octets: &[u8], at: u64) -> Result<(), VolumeError> {
        let offset = FILE_HEADER + RECORD_HEADER + at;
        self.volume.file.write_at(octets, offset).map_err(|e| self.volume.io(e))
    }

    /// Adds octets as they are.
    pub(crate) fn push(&mut self, octets: &[u8]) -> Result<(), VolumeError> {
        self.volumes.used(octets.len() as u64);
        // Nothing is packed yet, so octets are stored where they stand in the message.
        self.write(octets, self.size)?;
        let mut left = octets;
        while !left.is_empty() {
            let (here, behind) = left.split_at(left.len().min(FRAME_OCTETS - self.frame.0));
            left = behind;
            self.frame = (self.frame.0 + here.len(), crc32c::crc32c_append(self.frame.1, here));
            if self.frame.0 == FRAME_OCTETS {
                self.end_frame();
            }
        }
        let inside =
            |n: u64| usize::try_from(n.saturating_sub(self.size)).unwrap_or(usize::MAX).min(octets.len());
        self.sample
            .extend_from_slice(octets.get(inside(SAMPLE.start)..inside(SAMPLE.end)).unwrap_or_default());
        self.size += octets.len() as u64;
        Ok(())
    }

    /// Octets of what was added as it is.
    pub(crate) fn read(&self, range: Range<u64>) -> Result<Vec<u8>, VolumeError> {
        let end = range.end.min(self.size);
        let start = range.start.min(end);
        let mut octets = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
        if !self.volume.read_exact(&mut octets, FILE_HEADER + RECORD_HEADER + start)? {
            return Err(self.volume.io(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(octets)
    }

    fn end_frame(&mut self) {
        let (octets, crc) = std::mem::take(&mut self.frame);
        if octets > 0 {
            self.table.add(octets, octets, false, crc);
        }
    }

    /// Adds a frame, packed if that is wanted and makes it smaller. All but the last have [`FRAME_OCTETS`].
    pub(crate) fn pack(&mut self, octets: &[u8], packer: Option<&mut Packer>) -> Result<(), VolumeError> {
        let packed = packer.and_then(|packer| packer.pack(octets, None));
        let stored = packed.unwrap_or(octets);
        self.write(stored, self.table.end())?;
        self.table.add(stored.len(), octets.len(), packed.is_some(), crc32c::crc32c(stored));
        self.size += octets.len() as u64;
        Ok(())
    }

    /// All octets are there. A message that packing would not make much smaller is never looked at for that again:
    /// attachments are mostly such, and are the cheaper to read.
    pub(crate) fn end(&mut self) -> Result<(), VolumeError> {
        self.end_frame();
        if self.purpose == Purpose::Large {
            let packed =
                Packer::new().and_then(|mut packer| packer.pack(&self.sample, None).map(<[u8]>::len));
            if packed.is_none_or(|packed| packed > self.sample.len() / 3 * 2) {
                self.purpose = Purpose::Settled;
                self.volumes.write_file_header(&self.volume, self.purpose)?;
            }
            self.sample = Vec::new();
        }
        self.write(&self.table.encode(), self.table.end())
    }

    /// Makes it a record of an account. The first account gets the file itself, each further one a copy.
    pub(crate) fn place(&self, account: AccountId, content: ContentId) -> Result<Placed, VolumeError> {
        if !self.kept.swap(true, Ordering::AcqRel) {
            return self.seal(&self.volume, account, content);
        }
        let copy = self.volumes.create(self.purpose)?;
        let end = self.stored();
        let mut at = 0;
        let mut piece = vec![0; FRAME_OCTETS];
        while at < end {
            let octets = (end - at).min(piece.len() as u64) as usize;
            let part = &mut piece[..octets];
            let offset = FILE_HEADER + RECORD_HEADER + at;
            if !self.volume.read_exact(part, offset)? {
                return Err(self.volume.io(io::ErrorKind::UnexpectedEof.into()));
            }
            copy.file.write_at(part, offset).map_err(|e| copy.io(e))?;
            at += octets as u64;
        }
        self.seal(&copy, account, content)
    }

    /// Octets of frames and table.
    fn stored(&self) -> u64 {
        self.table.end() + Table::octets(self.size)
    }

    fn seal(
        &self,
        volume: &Arc<Volume>,
        account: AccountId,
        content: ContentId,
    ) -> Result<Placed, VolumeError> {
        let header = RecordHeader {
            kind: RecordKind::Content,
            account: account.get(),
            content,
            coding: Coding::Framed,
            stored: self.stored(),
            plain: self.size,
            crc: crc32c::crc32c(&self.table.encode()),
        };
        volume.file.write_at(&header.encode(), FILE_HEADER).map_err(|e| volume.io(e))?;
        Ok(placed(volume.clone(), FILE_HEADER, RECORD_HEADER + self.stored()))
    }
}

impl Drop for LargeBody {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Acquire) {
            // Nothing refers to it; if it cannot be removed now, compaction will.
            let _ = self.volumes.remove(self.volume.number);
        }
    }
}
