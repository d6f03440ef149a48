//! How records are written: fields in order, then a checksum that knows the record's key.
//!
//! Invariants:
//! - Every value ends in four octets of CRC-32C over the index of its space, its key and its fields, so a changed
//!   octet, a cut value and a value under another key are found when it is read.
//! - Decoding takes any octets and never panics. Numbers are LEB128 or little-endian.

use bytes::Bytes;
use rookery_kv::Space;

/// A record of the directory that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("directory record {record} is damaged: {what}")]
pub struct Damaged {
    /// Its key, escaped where it is not printable.
    pub record: String,
    /// What is wrong.
    pub what: &'static str,
}

impl Damaged {
    pub(crate) fn new(key: &[u8], what: &'static str) -> Damaged {
        Damaged { record: key.escape_ascii().to_string(), what }
    }
}

fn checksum(key: &[u8], fields: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&[Space::Directory.index()]);
    crc32c::crc32c_append(crc32c::crc32c_append(crc, key), fields)
}

/// The layout number that a value begins with, not yet checked.
pub(crate) fn layout_of(value: &[u8]) -> Option<u8> {
    value.first().copied()
}

/// Checks a value's checksum and layout number and gives its fields to `read`, which must use them up.
pub(crate) fn open<T>(
    key: &[u8],
    value: &[u8],
    layout: u8,
    read: impl FnOnce(&mut Decoder<'_>) -> Option<T>,
) -> Result<T, Damaged> {
    let damaged = |what| Damaged::new(key, what);
    let (fields, crc) = value.split_last_chunk::<4>().ok_or_else(|| damaged("it is too short"))?;
    if checksum(key, fields) != u32::from_le_bytes(*crc) {
        return Err(damaged("its checksum does not fit"));
    }
    let mut decoder = Decoder(fields);
    if decoder.u8() != Some(layout) {
        return Err(damaged("its layout is not known to this version"));
    }
    let record = read(&mut decoder).ok_or_else(|| damaged("its fields make no sense"))?;
    if !decoder.0.is_empty() {
        return Err(damaged("it is longer than its fields"));
    }
    Ok(record)
}

/// Fields going out.
pub(crate) struct Encoder(Vec<u8>);

impl Encoder {
    pub(crate) fn new(layout: u8) -> Encoder {
        Encoder(vec![layout])
    }

    /// Fields without a layout number.
    pub(crate) fn empty() -> Encoder {
        Encoder(Vec::new())
    }

    pub(crate) fn into_octets(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn u8(&mut self, n: u8) -> &mut Encoder {
        self.0.push(n);
        self
    }

    pub(crate) fn u64(&mut self, n: u64) -> &mut Encoder {
        self.raw(&n.to_le_bytes())
    }

    pub(crate) fn varint(&mut self, mut n: u64) -> &mut Encoder {
        while n >= 0x80 {
            self.0.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        self.u8(n as u8)
    }

    pub(crate) fn raw(&mut self, octets: &[u8]) -> &mut Encoder {
        self.0.extend_from_slice(octets);
        self
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Encoder {
        self.varint(text.len() as u64).raw(text.as_bytes())
    }

    pub(crate) fn octets(&mut self, octets: &[u8]) -> &mut Encoder {
        self.varint(octets.len() as u64).raw(octets)
    }

    pub(crate) fn seal(mut self, key: &[u8]) -> Bytes {
        let crc = checksum(key, &self.0);
        self.raw(&crc.to_le_bytes());
        Bytes::from(self.0)
    }
}

/// Fields coming in.
pub(crate) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    pub(crate) fn new(octets: &'a [u8]) -> Decoder<'a> {
        Decoder(octets)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[octet]| octet)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut n = 0;
        for shift in (0..64).step_by(7) {
            let octet = self.u8()?;
            let bits = u64::from(octet & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            n |= bits << shift;
            if octet & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }

    pub(crate) fn octets(&mut self) -> Option<&'a [u8]> {
        let octets = usize::try_from(self.varint()?).ok()?;
        let (first, rest) = self.0.split_at_checked(octets)?;
        self.0 = rest;
        Some(first)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.octets()?).ok()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
