//! Volumes: append-only files that hold the octets of messages.
//!
//! Layout of a volume `v%08x.vol`: a file header of [`FILE_HEADER`] octets, then records, each at a multiple of 8:
//! a record header of [`RECORD_HEADER`] octets and the stored octets. `docs/store-format.md` has every field.
//!
//! Invariants:
//! - A record is never changed once it is referred to; space is won back by writing what lives elsewhere and
//!   removing the whole volume.
//! - What a crash leaves behind the last synced record is garbage that nothing refers to; scanning steps over it.
//! - A new volume's name is made durable with the first sync that acknowledges a record in it.

use crate::records::Locator;
use bytes::Bytes;
use parking_lot::Mutex;
use rookery_kv::files::{FileLayer, VolumeFile};
use rookery_types::{AccountId, ContentId, StoreId};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Octets of a volume's own header.
pub(crate) const FILE_HEADER: u64 = 64;
/// Octets of a record's header.
pub(crate) const RECORD_HEADER: u64 = 56;
const FILE_MAGIC: &[u8; 8] = b"RookVol1";
const RECORD_MAGIC: u32 = 0x6352_6b52;
/// Volumes whose files are kept open.
const OPEN_MAX: usize = 256;

/// What a record of a volume is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RecordKind {
    /// The octets of a message.
    Content,
    /// Says that the engine had made group `content[..8]` durable when this was written.
    Mark,
}

/// A record's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordHeader {
    pub(crate) kind: RecordKind,
    pub(crate) account: u64,
    pub(crate) content: ContentId,
    /// Octets after the header.
    pub(crate) stored: u64,
    /// CRC-32C of the stored octets.
    pub(crate) crc: u32,
}

impl RecordHeader {
    pub(crate) fn encode(&self) -> [u8; RECORD_HEADER as usize] {
        let mut h = [0; RECORD_HEADER as usize];
        h[0..4].copy_from_slice(&RECORD_MAGIC.to_le_bytes());
        h[4] = match self.kind {
            RecordKind::Content => 1,
            RecordKind::Mark => 2,
        };
        h[8..16].copy_from_slice(&self.account.to_le_bytes());
        h[16..32].copy_from_slice(&self.content.0);
        h[32..40].copy_from_slice(&self.stored.to_le_bytes());
        // 40..48: octets before compression, which no volume has yet.
        h[40..48].copy_from_slice(&self.stored.to_le_bytes());
        h[48..52].copy_from_slice(&self.crc.to_le_bytes());
        let crc = crc32c::crc32c(&h[..52]);
        h[52..56].copy_from_slice(&crc.to_le_bytes());
        h
    }

    pub(crate) fn decode(h: &[u8]) -> Option<RecordHeader> {
        let h = h.first_chunk::<{ RECORD_HEADER as usize }>()?;
        let u32_at = |at: usize| h.get(at..)?.first_chunk().map(|o| u32::from_le_bytes(*o));
        let u64_at = |at: usize| h.get(at..)?.first_chunk().map(|o| u64::from_le_bytes(*o));
        if u32_at(0)? != RECORD_MAGIC || u32_at(52)? != crc32c::crc32c(&h[..52]) {
            return None;
        }
        let kind = match h[4] {
            1 => RecordKind::Content,
            2 => RecordKind::Mark,
            _ => return None,
        };
        let content = ContentId(*h.get(16..)?.first_chunk()?);
        Some(RecordHeader { kind, account: u64_at(8)?, content, stored: u64_at(32)?, crc: u32_at(48)? })
    }
}

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
    /// The name is not yet durable.
    new: AtomicBool,
}

impl Volume {
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
}

struct Current {
    volume: Arc<Volume>,
    end: u64,
}

/// All volumes of a store.
pub(crate) struct Volumes {
    files: Arc<dyn FileLayer>,
    store: StoreId,
    current: Mutex<Option<Current>>,
    next: AtomicU32,
    open: Mutex<HashMap<u32, Arc<Volume>>>,
    /// At this size a volume is full.
    roll_octets: u64,
    /// The last volume of an earlier run, if it has room left.
    resumable: Mutex<Option<u32>>,
}

/// The name of a volume's file.
pub(crate) fn name(number: u32) -> String {
    format!("v{number:08x}.vol")
}

/// The number of a volume, from the name of its file.
pub(crate) fn number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix('v')?.strip_suffix(".vol")?;
    (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// The first octets of a volume's file.
pub(crate) fn encode_file_header(store: StoreId, number: u32) -> [u8; FILE_HEADER as usize] {
    let mut header = [0; FILE_HEADER as usize];
    header[..8].copy_from_slice(FILE_MAGIC);
    header[8..24].copy_from_slice(&store.0);
    header[24..28].copy_from_slice(&number.to_le_bytes());
    let crc = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Which store and which volume a file's first octets speak of; `None` if they are damaged.
pub(crate) fn decode_file_header(header: &[u8]) -> Option<(StoreId, u32)> {
    let header = header.first_chunk::<{ FILE_HEADER as usize }>()?;
    let store = StoreId(*header.get(8..)?.first_chunk()?);
    let number = u32::from_le_bytes(*header.get(24..)?.first_chunk()?);
    (*header == encode_file_header(store, number)).then_some((store, number))
}

fn aligned(offset: u64) -> u64 {
    offset.next_multiple_of(8)
}

impl Volumes {
    /// Looks which volumes there are. Writes nothing.
    pub(crate) fn open(files: Arc<dyn FileLayer>, store: StoreId, roll_octets: u64) -> io::Result<Volumes> {
        let last = files.list()?.iter().filter_map(|name| number(name)).max().unwrap_or(0);
        Ok(Volumes {
            files,
            store,
            current: Mutex::new(None),
            next: AtomicU32::new(last + 1),
            open: Mutex::new(HashMap::new()),
            roll_octets,
            resumable: Mutex::new((last > 0).then_some(last)),
        })
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

    /// The volume that is being written, if any.
    pub(crate) fn current_number(&self) -> Option<u32> {
        self.current.lock().as_ref().map(|current| current.volume.number)
    }

    /// Whether somebody writes to a volume, or has written a record that no durable change refers to yet.
    pub(crate) fn is_in_use(&self, number: u32) -> bool {
        // Whoever has placed a record holds the volume until the change with it is durable; one is ours.
        self.open.lock().get(&number).is_some_and(|volume| Arc::strong_count(volume) > 1)
            || self.current_number() == Some(number)
    }

    fn create(&self) -> Result<Arc<Volume>, VolumeError> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let io = |source| VolumeError::Io { volume: number, source };
        let file = self.files.create(&name(number)).map_err(io)?;
        file.write_at(&encode_file_header(self.store, number), 0).map_err(io)?;
        let volume = Arc::new(Volume { number, file, new: AtomicBool::new(true) });
        self.remember(&volume);
        Ok(volume)
    }

    /// Writes a volume's header again if it is damaged: a crash may have lost it while records behind it are there.
    /// Says whether it was.
    pub(crate) fn mend_header(&self, number: u32) -> Result<bool, VolumeError> {
        let volume = self.volume(number)?;
        let mut header = [0; FILE_HEADER as usize];
        if volume.read_exact(&mut header, 0)? && decode_file_header(&header).is_some() {
            return Ok(false);
        }
        volume.file.write_at(&encode_file_header(self.store, number), 0).map_err(|e| volume.io(e))?;
        volume.sync(&*self.files)?;
        Ok(true)
    }

    fn remember(&self, volume: &Arc<Volume>) {
        let mut open = self.open.lock();
        if open.len() >= OPEN_MAX {
            // Whoever uses one holds it; the rest are opened again when needed.
            open.retain(|_, volume| Arc::strong_count(volume) > 1);
        }
        open.insert(volume.number, volume.clone());
    }

    fn volume(&self, number: u32) -> Result<Arc<Volume>, VolumeError> {
        if let Some(volume) = self.open.lock().get(&number) {
            return Ok(volume.clone());
        }
        let file =
            self.files.open(&name(number)).map_err(|source| VolumeError::Io { volume: number, source })?;
        let volume = Arc::new(Volume { number, file, new: AtomicBool::new(false) });
        self.remember(&volume);
        Ok(volume)
    }

    /// The last volume of an earlier run, from behind all that a crash may have left in it.
    fn resume(&self) -> Result<Option<Current>, VolumeError> {
        let Some(number) = self.resumable.lock().take() else { return Ok(None) };
        let volume = self.volume(number)?;
        let len = volume.file.len().map_err(|e| volume.io(e))?;
        let sound = len >= FILE_HEADER && self.header_is_sound(&volume)?;
        Ok((sound && len < self.roll_octets).then(|| Current { volume, end: aligned(len) }))
    }

    fn header_is_sound(&self, volume: &Volume) -> Result<bool, VolumeError> {
        let mut header = [0; FILE_HEADER as usize];
        let whole = volume.read_exact(&mut header, 0)?;
        Ok(whole && header == encode_file_header(self.store, volume.number))
    }

    /// Takes room for a record at the end of the current volume, beginning a new one when it is full.
    fn reserve(&self, octets: u64) -> Result<(Arc<Volume>, u64), VolumeError> {
        let mut current = self.current.lock();
        if current.is_none() {
            *current = self.resume()?;
        }
        if current.as_ref().is_none_or(|current| current.end >= self.roll_octets) {
            *current = Some(Current { volume: self.create()?, end: FILE_HEADER });
        }
        match current.as_mut() {
            Some(current) => {
                let offset = current.end;
                current.end = aligned(offset.saturating_add(octets));
                Ok((current.volume.clone(), offset))
            }
            // The lines above have just put one there.
            None => Err(VolumeError::Io { volume: 0, source: io::ErrorKind::NotFound.into() }),
        }
    }

    /// Writes a message's octets; they are durable after a [`Volume::sync`].
    pub(crate) fn append(
        &self,
        account: AccountId,
        content: ContentId,
        body: &[u8],
    ) -> Result<Placed, VolumeError> {
        let header = RecordHeader {
            kind: RecordKind::Content,
            account: account.get(),
            content,
            stored: body.len() as u64,
            crc: crc32c::crc32c(body),
        };
        self.write(&header, body)
    }

    /// Writes that the engine had made `group` durable.
    pub(crate) fn mark(&self, group: u64) -> Result<(), VolumeError> {
        let mut content = [0; 16];
        content[..8].copy_from_slice(&group.to_le_bytes());
        let content = ContentId(content);
        self.write(&RecordHeader { kind: RecordKind::Mark, account: 0, content, stored: 0, crc: 0 }, &[])
            .map(drop)
    }

    fn write(&self, header: &RecordHeader, body: &[u8]) -> Result<Placed, VolumeError> {
        let octets = RECORD_HEADER + body.len() as u64;
        let (volume, offset) = self.reserve(octets)?;
        let mut record = Vec::with_capacity(octets as usize);
        record.extend_from_slice(&header.encode());
        record.extend_from_slice(body);
        volume.file.write_at(&record, offset).map_err(|e| volume.io(e))?;
        Ok(placed(volume, offset, octets))
    }

    /// A volume of its own for one large message, written as it comes.
    pub(crate) fn begin_large(self: &Arc<Volumes>) -> Result<LargeBody, VolumeError> {
        let volume = self.create()?;
        Ok(LargeBody { volumes: self.clone(), volume, size: 0, crc: 0, kept: AtomicBool::new(false) })
    }

    fn header_at(&self, volume: &Volume, offset: u64) -> Result<RecordHeader, VolumeError> {
        let damaged = |what| VolumeError::Damaged { volume: volume.number, offset, what };
        let mut header = [0; RECORD_HEADER as usize];
        if !volume.read_exact(&mut header, offset)? {
            return Err(damaged("the volume ends before it"));
        }
        RecordHeader::decode(&header).ok_or_else(|| damaged("its header does not fit its checksum"))
    }

    /// A whole message, checked. For sizes that fit in memory.
    pub(crate) fn read(
        &self,
        locator: Locator,
        size: u32,
        account: AccountId,
        content: ContentId,
    ) -> Result<Bytes, VolumeError> {
        let mut span = Vec::new();
        self.read_span(locator, RECORD_HEADER as usize + size as usize, &mut span)?;
        let body = Volumes::message_in(&span, locator, 0, size, account, content)?;
        Ok(Bytes::from(span).slice(body))
    }

    /// Octets of a volume from a place on, as many as there are, in place of what is in `span`: for records that lie
    /// close together.
    pub(crate) fn read_span(
        &self,
        from: Locator,
        octets: usize,
        span: &mut Vec<u8>,
    ) -> Result<(), VolumeError> {
        let volume = self.volume(from.volume)?;
        span.resize(octets, 0);
        let got = volume.file.read_at(span, from.offset).map_err(|e| volume.io(e))?;
        span.truncate(got);
        Ok(())
    }

    /// Where the message lies of a record that begins so many octets into a span that begins at `from`, checked.
    pub(crate) fn message_in(
        span: &[u8],
        from: Locator,
        at: usize,
        size: u32,
        account: AccountId,
        content: ContentId,
    ) -> Result<Range<usize>, VolumeError> {
        let damaged = |what| VolumeError::Damaged {
            volume: from.volume,
            offset: from.offset.saturating_add(at as u64),
            what,
        };
        let record = span.get(at..).unwrap_or_default();
        let header =
            RecordHeader::decode(record).ok_or_else(|| damaged("its header does not fit its checksum"))?;
        if (header.account, header.content, header.stored) != (account.get(), content, u64::from(size)) {
            return Err(damaged("it is another record"));
        }
        let start = at + RECORD_HEADER as usize;
        let body = start..start + size as usize;
        let octets = span.get(body.clone()).ok_or_else(|| damaged("the volume ends within it"))?;
        if crc32c::crc32c(octets) != header.crc {
            return Err(damaged("its octets do not fit their checksum"));
        }
        Ok(body)
    }

    /// Some octets of a message, beginning with octet `from` of it; unchecked but for the header.
    pub(crate) fn read_part(
        &self,
        locator: Locator,
        account: AccountId,
        content: ContentId,
        from: u64,
        octets: usize,
    ) -> Result<Bytes, VolumeError> {
        let volume = self.volume(locator.volume)?;
        let damaged = |what| VolumeError::Damaged { volume: locator.volume, offset: locator.offset, what };
        let header = self.header_at(&volume, locator.offset)?;
        if (header.account, header.content) != (account.get(), content) {
            return Err(damaged("it is another record"));
        }
        let octets = octets.min(usize::try_from(header.stored.saturating_sub(from)).unwrap_or(usize::MAX));
        let mut part = vec![0; octets];
        if !volume.read_exact(&mut part, locator.offset + RECORD_HEADER + from)? {
            return Err(damaged("the volume ends within it"));
        }
        Ok(part.into())
    }

    /// Whether a record is there with all its octets, reading in pieces.
    pub(crate) fn verify(
        &self,
        locator: Locator,
        account: AccountId,
        content: ContentId,
    ) -> Result<(), VolumeError> {
        let volume = self.volume(locator.volume)?;
        let header = self.header_at(&volume, locator.offset)?;
        let damaged = |what| VolumeError::Damaged { volume: locator.volume, offset: locator.offset, what };
        if (header.kind, header.account, header.content) != (RecordKind::Content, account.get(), content) {
            return Err(damaged("it is another record"));
        }
        match self.body_is_whole(&volume, locator.offset, &header)? {
            true => Ok(()),
            false => Err(damaged("its octets do not fit their checksum")),
        }
    }

    fn body_is_whole(
        &self,
        volume: &Volume,
        offset: u64,
        header: &RecordHeader,
    ) -> Result<bool, VolumeError> {
        let mut crc = 0;
        let mut piece = vec![0; 256 * 1024];
        let mut at = 0;
        while at < header.stored {
            let octets = (header.stored - at).min(piece.len() as u64) as usize;
            let part = &mut piece[..octets];
            if !volume.read_exact(part, offset + RECORD_HEADER + at)? {
                return Ok(false);
            }
            crc = crc32c::crc32c_append(crc, part);
            at += octets as u64;
        }
        Ok(crc == header.crc)
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

    /// Removes a volume that nothing refers to any more. Readers that have it open go on.
    pub(crate) fn remove(&self, number: u32) -> Result<(), VolumeError> {
        self.open.lock().remove(&number);
        self.files.remove(&name(number)).map_err(|source| VolumeError::Io { volume: number, source })
    }

    /// Octets of a volume's file.
    pub(crate) fn octets(&self, number: u32) -> Result<u64, VolumeError> {
        let volume = self.volume(number)?;
        volume.file.len().map_err(|e| volume.io(e))
    }
}

fn placed(volume: Arc<Volume>, offset: u64, octets: u64) -> Placed {
    let locator = Locator { volume: volume.number, offset };
    Placed { volume, locator, stored: u32::try_from(octets).unwrap_or(u32::MAX) }
}

/// A message too large for memory, in a volume of its own whose record header is still missing.
///
/// Dropped before it is placed, it takes its file with it.
pub(crate) struct LargeBody {
    volumes: Arc<Volumes>,
    volume: Arc<Volume>,
    size: u64,
    crc: u32,
    kept: AtomicBool,
}

impl LargeBody {
    /// Adds octets.
    pub(crate) fn push(&mut self, octets: &[u8]) -> Result<(), VolumeError> {
        let offset = FILE_HEADER + RECORD_HEADER + self.size;
        self.volume.file.write_at(octets, offset).map_err(|e| self.volume.io(e))?;
        self.crc = crc32c::crc32c_append(self.crc, octets);
        self.size += octets.len() as u64;
        Ok(())
    }

    /// Octets of what was added.
    pub(crate) fn read(&self, range: Range<u64>) -> Result<Vec<u8>, VolumeError> {
        let end = range.end.min(self.size);
        let start = range.start.min(end);
        let mut octets = vec![0; usize::try_from(end - start).unwrap_or(usize::MAX)];
        if !self.volume.read_exact(&mut octets, FILE_HEADER + RECORD_HEADER + start)? {
            return Err(self.volume.io(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(octets)
    }

    /// Makes it a record of an account. The first account gets the file itself, each further one a copy.
    pub(crate) fn place(&self, account: AccountId, content: ContentId) -> Result<Placed, VolumeError> {
        if !self.kept.swap(true, Ordering::AcqRel) {
            return self.seal(&self.volume, account, content);
        }
        let copy = self.volumes.create()?;
        let mut at = 0;
        let mut piece = vec![0; 256 * 1024];
        while at < self.size {
            let octets = (self.size - at).min(piece.len() as u64) as usize;
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
            stored: self.size,
            crc: self.crc,
        };
        volume.file.write_at(&header.encode(), FILE_HEADER).map_err(|e| volume.io(e))?;
        Ok(placed(volume.clone(), FILE_HEADER, RECORD_HEADER + self.size))
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
