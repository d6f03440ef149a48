//! The headers in a volume: its own, and that of each record.

use super::packing::{FRAME_OCTETS, Table};
use crate::records::Locator;
use rookery_types::{ContentId, StoreId};

/// Octets of a volume's own header.
pub(crate) const FILE_HEADER: u64 = 64;
/// Octets of a record's header.
pub(crate) const RECORD_HEADER: u64 = 56;
const FILE_MAGIC: &[u8; 8] = b"RookVol1";
pub(super) const RECORD_MAGIC: u32 = 0x6352_6b52;

/// What a volume is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Purpose {
    /// What arrives, as it came. Once it is full, compaction packs it.
    Arrivals,
    /// What compaction has written.
    Packed,
    /// One large message as it came, which compaction packs.
    Large,
    /// One large message as it came, which packing would not make much smaller.
    Settled,
    /// One large message that compaction has written.
    PackedLarge,
}

impl Purpose {
    const ALL: [Purpose; 5] =
        [Purpose::Arrivals, Purpose::Packed, Purpose::Large, Purpose::Settled, Purpose::PackedLarge];

    fn number(self) -> u8 {
        match self {
            Purpose::Arrivals => 0,
            Purpose::Packed => 1,
            Purpose::Large => 2,
            Purpose::Settled => 3,
            Purpose::PackedLarge => 4,
        }
    }

    fn of(number: u8) -> Option<Purpose> {
        Purpose::ALL.into_iter().find(|purpose| purpose.number() == number)
    }

    /// Whether compaction has nothing to pack in it.
    pub(crate) fn is_packed(self) -> bool {
        matches!(self, Purpose::Packed | Purpose::Settled | Purpose::PackedLarge)
    }

    /// Whether compaction has written it.
    pub(crate) fn is_compacted(self) -> bool {
        matches!(self, Purpose::Packed | Purpose::PackedLarge)
    }

    /// Whether one message has it for itself.
    pub(crate) fn is_single(self) -> bool {
        matches!(self, Purpose::Large | Purpose::Settled | Purpose::PackedLarge)
    }
}

/// What a record of a volume is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RecordKind {
    /// The octets of a message.
    Content,
    /// Says that the engine had made group `content[..8]` durable when this was written.
    Mark,
    /// The dictionary of the volume, its first record.
    Dictionary,
}

/// How the octets of a message are stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Coding {
    /// As they are.
    Raw,
    /// One zstd frame.
    Zstd,
    /// One zstd frame made with the volume's dictionary, which has this id.
    WithDictionary(u16),
    /// Pieces of [`FRAME_OCTETS`], each as it is or one zstd frame, and behind them a table of the pieces.
    Framed,
}

/// What a mark says, where other records have a content id.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    /// The engine had made this group durable when the mark was written.
    pub(crate) group: u64,
    /// The first body of the next group, if that was there before this one was durable.
    pub(crate) back: Option<Locator>,
}

impl Mark {
    pub(crate) fn encode(self) -> ContentId {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&self.group.to_le_bytes());
        if let Some(Locator { volume, offset }) = self.back {
            octets[8..12].copy_from_slice(&volume.to_le_bytes());
            // Volumes are far smaller than 4 GiB; from 0 on all of one is looked through.
            octets[12..].copy_from_slice(&u32::try_from(offset).unwrap_or(0).to_le_bytes());
        }
        ContentId(octets)
    }

    pub(crate) fn decode(content: ContentId) -> Mark {
        let [group, back] = [0, 8].map(|at| {
            let octets = content.0.get(at..).and_then(|octets| octets.first_chunk());
            octets.map_or(0, |octets| u64::from_le_bytes(*octets))
        });
        let volume = u32::try_from(back & u64::from(u32::MAX)).unwrap_or(0);
        Mark { group, back: (volume > 0).then_some(Locator { volume, offset: back >> 32 }) }
    }
}

/// A record's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RecordHeader {
    pub(crate) kind: RecordKind,
    pub(crate) account: u64,
    pub(crate) content: ContentId,
    pub(crate) coding: Coding,
    /// Octets after the header.
    pub(crate) stored: u64,
    /// Octets of the message.
    pub(crate) plain: u64,
    /// CRC-32C of the stored octets; where they are framed, of the table, which has those of the frames.
    pub(crate) crc: u32,
}

impl RecordHeader {
    pub(crate) fn encode(&self) -> [u8; RECORD_HEADER as usize] {
        let mut h = [0; RECORD_HEADER as usize];
        h[0..4].copy_from_slice(&RECORD_MAGIC.to_le_bytes());
        h[4] = match self.kind {
            RecordKind::Content => 1,
            RecordKind::Mark => 2,
            RecordKind::Dictionary => 3,
        };
        let (coding, dictionary) = match self.coding {
            Coding::Raw => (0, 0),
            Coding::Zstd => (1, 0),
            Coding::WithDictionary(id) => (2, id),
            Coding::Framed => (3, 0),
        };
        h[5] = coding;
        h[6..8].copy_from_slice(&dictionary.to_le_bytes());
        h[8..16].copy_from_slice(&self.account.to_le_bytes());
        h[16..32].copy_from_slice(&self.content.0);
        h[32..40].copy_from_slice(&self.stored.to_le_bytes());
        h[40..48].copy_from_slice(&self.plain.to_le_bytes());
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
            3 => RecordKind::Dictionary,
            _ => return None,
        };
        let coding = match h[5] {
            0 => Coding::Raw,
            1 => Coding::Zstd,
            2 => Coding::WithDictionary(u16::from_le_bytes([h[6], h[7]])),
            3 => Coding::Framed,
            _ => return None,
        };
        let content = ContentId(*h.get(16..)?.first_chunk()?);
        let (stored, plain) = (u64_at(32)?, u64_at(40)?);
        // What it takes to unpack is bounded here, whatever stands on the disk.
        let fits = match coding {
            Coding::Raw => plain == stored,
            Coding::Zstd | Coding::WithDictionary(_) => {
                kind == RecordKind::Content && plain <= FRAME_OCTETS as u64 && stored <= plain
            }
            Coding::Framed => {
                let most = plain.checked_add(Table::octets(plain));
                kind == RecordKind::Content
                    && plain <= u32::MAX.into()
                    && most.is_some_and(|most| (Table::octets(plain)..=most).contains(&stored))
            }
        };
        fits.then_some(RecordHeader {
            kind,
            account: u64_at(8)?,
            content,
            coding,
            stored,
            plain,
            crc: u32_at(48)?,
        })
    }
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
pub(crate) fn encode_file_header(
    store: StoreId,
    number: u32,
    purpose: Purpose,
) -> [u8; FILE_HEADER as usize] {
    let mut header = [0; FILE_HEADER as usize];
    header[..8].copy_from_slice(FILE_MAGIC);
    header[8..24].copy_from_slice(&store.0);
    header[24..28].copy_from_slice(&number.to_le_bytes());
    header[28] = purpose.number();
    let crc = crc32c::crc32c(&header[..60]);
    header[60..].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Which store and which volume a file's first octets speak of, and what it is for; `None` if they are damaged.
pub(crate) fn decode_file_header(header: &[u8]) -> Option<(StoreId, u32, Purpose)> {
    let header = header.first_chunk::<{ FILE_HEADER as usize }>()?;
    let store = StoreId(*header.get(8..)?.first_chunk()?);
    let number = u32::from_le_bytes(*header.get(24..)?.first_chunk()?);
    let purpose = Purpose::of(*header.get(28)?)?;
    (*header == encode_file_header(store, number, purpose)).then_some((store, number, purpose))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_header_claims_no_more_than_fits(
            coding in 0_u8..5, kind in 1_u8..4, stored in any::<u64>(), plain in any::<u64>(), small: bool,
        ) {
            let (stored, plain) = if small { (stored % 1_000_000, plain % 1_000_000) } else { (stored, plain) };
            let mut octets = RecordHeader {
                kind: RecordKind::Content, account: 1, content: ContentId([7; 16]), coding: Coding::Raw,
                stored, plain, crc: 3,
            }
            .encode();
            (octets[4], octets[5]) = (kind, coding);
            let crc = crc32c::crc32c(&octets[..52]);
            octets[52..].copy_from_slice(&crc.to_le_bytes());
            if let Some(header) = RecordHeader::decode(&octets) {
                prop_assert_eq!(RecordHeader::decode(&header.encode()), Some(header));
                match header.coding {
                    Coding::Raw => prop_assert_eq!(header.plain, header.stored),
                    Coding::Framed => prop_assert!(header.plain <= u32::MAX.into()),
                    _ => prop_assert!(header.plain <= FRAME_OCTETS as u64 && header.stored <= header.plain),
                }
            }
        }
    }

    #[test]
    fn a_volumes_header_tells_what_it_is_for() {
        for purpose in Purpose::ALL {
            let mut header = encode_file_header(StoreId([5; 16]), 9, purpose);
            assert_eq!(decode_file_header(&header), Some((StoreId([5; 16]), 9, purpose)));
            header[28] += 1;
            assert_eq!(decode_file_header(&header), None);
        }
        // As volumes of format 2 are: what has come.
        assert_eq!(encode_file_header(StoreId([5; 16]), 9, Purpose::Arrivals)[28..60], [0; 32]);
    }
}
