//! Packing messages with zstd: contexts that are used again, dictionaries, and the table of a framed message.
//!
//! Invariants:
//! - What is unpacked never takes more octets than its header or table says, and these are bounded: a message in one
//!   piece by [`FRAME_OCTETS`], a framed one frame by frame.
//! - Nothing is packed that does not get smaller by an eighth.

use super::header::RECORD_HEADER;
use parking_lot::Mutex;
use zstd_safe::{CCtx, CDict, DCtx, DDict};

/// Octets of a message in one frame; the last frame may have fewer. A message of up to so many is packed whole.
pub(crate) const FRAME_OCTETS: usize = 256 << 10;
/// Octets of the largest dictionary.
pub(crate) const DICTIONARY_OCTETS_MAX: usize = 64 << 10;
/// What zstd calls its level: higher ones take several times as long for some per cent.
const LEVEL: i32 = 3;
/// Contexts for unpacking that are kept; each takes about 160 KiB.
const UNPACKERS_MAX: usize = 16;
/// Octets of an entry in a table.
const ENTRY: usize = 8;
/// Set in an entry's length when its frame is stored as it is.
const AS_IT_IS: u32 = 1 << 31;
/// Messages and octets of them that a dictionary is trained from.
const SAMPLES_MIN: usize = 32;
const SAMPLE_OCTETS_MIN: usize = 64 << 10;

/// What one frame of a framed message takes on the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    /// Where it begins, counted from the first of the stored octets.
    pub(crate) at: u64,
    pub(crate) stored: u32,
    /// Octets of the message.
    pub(crate) plain: u32,
    pub(crate) is_packed: bool,
    /// CRC-32C of its stored octets.
    pub(crate) crc: u32,
}

/// All frames of a message.
#[derive(Debug, Default)]
pub(crate) struct Table(pub(crate) Vec<Frame>);

impl Table {
    fn frames(plain: u64) -> u64 {
        plain.div_ceil(FRAME_OCTETS as u64)
    }

    /// Octets of the table of a message.
    pub(crate) fn octets(plain: u64) -> u64 {
        Table::frames(plain).saturating_mul(ENTRY as u64)
    }

    /// Adds the next frame.
    pub(crate) fn add(&mut self, stored: usize, plain: usize, is_packed: bool, crc: u32) {
        let at = self.end();
        let short = |n: usize| u32::try_from(n).unwrap_or(u32::MAX >> 1);
        self.0.push(Frame { at, stored: short(stored), plain: short(plain), is_packed, crc });
    }

    /// Octets of all frames so far.
    pub(crate) fn end(&self) -> u64 {
        self.0.last().map_or(0, |last| last.at + u64::from(last.stored))
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let entry = |frame: &Frame| {
            let flag = if frame.is_packed { 0 } else { AS_IT_IS };
            [(frame.stored | flag).to_le_bytes(), frame.crc.to_le_bytes()].concat()
        };
        self.0.iter().flat_map(entry).collect()
    }

    /// `stored`: octets of frames and table together.
    pub(crate) fn decode(octets: &[u8], plain: u64, stored: u64) -> Option<Table> {
        if octets.len() as u64 != Table::octets(plain) {
            return None;
        }
        let mut table = Table::default();
        let mut left = plain;
        for entry in octets.chunks_exact(ENTRY) {
            let (length, crc) = entry.split_first_chunk::<4>()?;
            let (length, crc) = (u32::from_le_bytes(*length), u32::from_le_bytes(*crc.first_chunk()?));
            let (is_packed, length) = (length & AS_IT_IS == 0, length & !AS_IT_IS);
            let here = left.min(FRAME_OCTETS as u64) as u32;
            if length > here || (!is_packed && length != here) {
                return None;
            }
            table.0.push(Frame { at: table.end(), stored: length, plain: here, is_packed, crc });
            left -= u64::from(here);
        }
        (left == 0 && table.end().checked_add(octets.len() as u64) == Some(stored)).then_some(table)
    }
}

/// Contexts for unpacking, used again.
#[derive(Default)]
pub(crate) struct Unpackers(Mutex<Vec<DCtx<'static>>>);

impl std::fmt::Debug for Unpackers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unpackers")
    }
}

impl Unpackers {
    fn with<T>(&self, work: impl FnOnce(&mut DCtx<'static>) -> T) -> Option<T> {
        let kept = self.0.lock().pop();
        let mut context = match kept {
            Some(context) => context,
            None => DCtx::try_create()?,
        };
        let result = work(&mut context);
        let mut free = self.0.lock();
        if free.len() < UNPACKERS_MAX {
            free.push(context);
        }
        Some(result)
    }

    /// Unpacks to exactly as many octets as `into` has room for; says whether that worked.
    pub(crate) fn unpack_into(&self, stored: &[u8], into: &mut [u8]) -> bool {
        let wanted = into.len();
        self.with(|context| context.decompress(into, stored)) == Some(Ok(wanted))
    }

    /// Unpacks to exactly `plain` octets, in place of what is in `into`; says whether that worked.
    pub(crate) fn unpack(
        &self,
        stored: &[u8],
        plain: usize,
        dictionary: Option<&DDict<'_>>,
        into: &mut Vec<u8>,
    ) -> bool {
        into.clear();
        into.reserve_exact(plain);
        let unpacked = self.with(|context| match dictionary {
            Some(dictionary) => context.decompress_using_ddict(into, stored, dictionary),
            None => context.decompress(into, stored),
        });
        unpacked == Some(Ok(plain))
    }
}

/// What packs: one context and room for what comes out.
pub(crate) struct Packer {
    context: CCtx<'static>,
    out: Vec<u8>,
}

impl Packer {
    /// `None`: there is no memory for it.
    pub(crate) fn new() -> Option<Packer> {
        Some(Packer { context: CCtx::try_create()?, out: Vec::new() })
    }

    /// The octets packed; `None` if that would gain less than an eighth.
    pub(crate) fn pack(&mut self, plain: &[u8], dictionary: Option<&CDict<'_>>) -> Option<&[u8]> {
        self.out.clear();
        // More than the limit is of no use, so there is no room for it: the attempt ends early.
        let most = plain.len() - plain.len() / 8;
        self.out.reserve(most);
        let packed = match dictionary {
            Some(dictionary) => self.context.compress_using_cdict(&mut self.out, plain, dictionary),
            None => self.context.compress(&mut self.out, plain, LEVEL),
        };
        (packed.is_ok_and(|octets| octets <= most && octets < plain.len())).then_some(&self.out)
    }
}

/// A dictionary as packing needs it.
pub(crate) fn for_packing(dictionary: &[u8]) -> Option<CDict<'static>> {
    CDict::try_create(dictionary, LEVEL)
}

/// A dictionary as unpacking needs it.
pub(crate) fn for_unpacking(dictionary: &[u8]) -> Option<DDict<'static>> {
    DDict::try_create(dictionary)
}

/// A dictionary made from messages that lie one behind the other; `None` if there are too few.
pub(crate) fn train(samples: &[u8], sizes: &[usize]) -> Option<Vec<u8>> {
    if sizes.len() < SAMPLES_MIN
        || samples.len() < SAMPLE_OCTETS_MIN
        || sizes.iter().sum::<usize>() != samples.len()
    {
        return None;
    }
    let mut dictionary = Vec::with_capacity(DICTIONARY_OCTETS_MAX.min(samples.len() / 8));
    let trained = zstd_safe::train_from_buffer(&mut dictionary, samples, sizes);
    (trained.is_ok() && dictionary.len() <= DICTIONARY_OCTETS_MAX).then_some(dictionary)
}

/// Octets that a volume's dictionary may take, with its header.
pub(crate) const DICTIONARY_RECORD_MAX: u64 = DICTIONARY_OCTETS_MAX as u64 + RECORD_HEADER;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail where it stands")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mail(n: usize) -> Vec<u8> {
        format!(
            "From: Ann {n} <ann{n}@mail.example>\r\nTo: joe@mail.example\r\nSubject: the report of day {n}\r\n\
             Message-ID: <{}@mail.example>\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nDear Joe,\r\n\
             here are the {} numbers that you asked for.\r\n\r\nYours, Ann\r\n",
            n * 7919,
            n % 17
        )
        .into_bytes()
    }

    fn dictionary() -> Vec<u8> {
        let samples: Vec<Vec<u8>> = (0..500).map(mail).collect();
        let sizes: Vec<usize> = samples.iter().map(Vec::len).collect();
        train(&samples.concat(), &sizes).expect("there are enough")
    }

    #[test]
    fn a_dictionary_makes_small_messages_smaller() {
        let dictionary = dictionary();
        let (pack, unpack) = (for_packing(&dictionary).unwrap(), for_unpacking(&dictionary).unwrap());
        let mut packer = Packer::new().unwrap();
        let (unpackers, mut out) = (Unpackers::default(), Vec::new());
        let plain = mail(1_000_003);
        let without = packer.pack(&plain, None).map_or(plain.len(), <[u8]>::len);
        let packed = packer.pack(&plain, Some(&pack)).expect("it gains").to_vec();
        assert!(packed.len() * 2 < without, "{} and {without}", packed.len());
        assert!(unpackers.unpack(&packed, plain.len(), Some(&unpack), &mut out));
        assert_eq!(out, plain);
        assert!(
            !unpackers.unpack(&packed, plain.len(), None, &mut out),
            "without its dictionary it is nothing"
        );
        for wrong in [plain.len() - 1, plain.len() + 1] {
            let mut out = Vec::new();
            assert!(!unpackers.unpack(&packed, wrong, Some(&unpack), &mut out), "the size is part of it");
        }
    }

    #[test]
    fn too_few_messages_make_no_dictionary() {
        let sizes = [100; 10];
        assert_eq!(train(&[b'x'; 1000], &sizes), None);
        assert_eq!(train(&[], &[]), None);
    }

    #[test]
    fn a_bomb_does_not_go_off() {
        let mut packer = Packer::new().unwrap();
        let bomb = packer.pack(&vec![0; 64 << 20], None).unwrap().to_vec();
        let (unpackers, mut out) = (Unpackers::default(), Vec::new());
        assert!(!unpackers.unpack(&bomb, 1000, None, &mut out));
        assert!(out.capacity() < 1 << 20);
        assert!(!unpackers.unpack_into(&bomb, &mut [0; 1000]));
    }

    proptest! {
        #[test]
        fn what_is_packed_comes_back(plain in proptest::collection::vec(0_u8..4, 0..5000)) {
            let mut packer = Packer::new().unwrap();
            if let Some(packed) = packer.pack(&plain, None) {
                prop_assert!(packed.len() <= plain.len() - plain.len() / 8);
                let (unpackers, mut out) = (Unpackers::default(), vec![9; 10]);
                prop_assert!(unpackers.unpack(packed, plain.len(), None, &mut out));
                prop_assert_eq!(&out, &plain);
                let mut exact = vec![0; plain.len()];
                prop_assert!(unpackers.unpack_into(packed, &mut exact));
                prop_assert_eq!(exact, plain);
            }
        }

        #[test]
        fn any_octets_are_unpacked_to_what_was_asked_or_not_at_all(
            octets in proptest::collection::vec(any::<u8>(), 0..300), plain in 0_usize..1000,
        ) {
            let (unpackers, mut out) = (Unpackers::default(), Vec::new());
            if unpackers.unpack(&octets, plain, None, &mut out) {
                prop_assert_eq!(out.len(), plain);
            }
        }

        #[test]
        fn a_table_says_what_was_added(kept in proptest::collection::vec((any::<bool>(), 1_usize..FRAME_OCTETS), 0..6), last in 1_usize..FRAME_OCTETS) {
            let mut table = Table::default();
            let mut plain = 0;
            for (at, (is_packed, stored)) in kept.iter().enumerate() {
                let here = if at + 1 == kept.len() { last } else { FRAME_OCTETS };
                table.add(if *is_packed { (*stored).min(here) } else { here }, here, *is_packed, at as u32);
                plain += here as u64;
            }
            let octets = table.encode();
            prop_assert_eq!(octets.len() as u64, Table::octets(plain));
            let stored = table.end() + octets.len() as u64;
            let again = Table::decode(&octets, plain, stored).expect("it fits");
            prop_assert_eq!(again.0, table.0);
            prop_assert!(Table::decode(&octets, plain, stored + 1).is_none());
            prop_assert!(Table::decode(&octets, plain + FRAME_OCTETS as u64, stored).is_none());
        }
    }
}
