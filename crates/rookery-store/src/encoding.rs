//! How records are written: fields in order, and a checksum that knows the record's place.
//!
//! Invariants:
//! - Every value in the engine ends in four octets of CRC-32C over its space, its key and its fields, so a
//!   flipped octet, a truncated value and a value under another key are all found when it is read.
//! - Decoding takes any octets and never panics; numbers are little-endian, varints are LEB128.

use bytes::Bytes;
use rookery_kv::engine::Space;

/// A record that is not what was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {space:?} {key} is damaged: {what}")]
pub struct Damaged {
    /// Which space it stands in.
    pub space: Space,
    /// Its key, in hexadecimal.
    pub key: String,
    /// What is wrong with it.
    pub what: &'static str,
}

fn checksum(space: Space, key: &[u8], fields: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&[space.index()]);
    crc32c::crc32c_append(crc32c::crc32c_append(crc, key), fields)
}

/// Ends a record: its fields and the checksum.
pub(crate) fn seal(space: Space, key: &[u8], encoder: Encoder) -> Bytes {
    let mut fields = encoder.0;
    let crc = checksum(space, key, &fields);
    fields.extend_from_slice(&crc.to_le_bytes());
    Bytes::from(fields)
}

/// Checks a record's checksum and gives its fields to `read`, which must use them up.
pub(crate) fn open<T>(
    space: Space,
    key: &[u8],
    value: &[u8],
    read: impl FnOnce(&mut Decoder<'_>) -> Option<T>,
) -> Result<T, Damaged> {
    let damaged = |what| Damaged { space, key: hex(key), what };
    let (fields, crc) = value.split_last_chunk::<4>().ok_or_else(|| damaged("it is too short"))?;
    if checksum(space, key, fields) != u32::from_le_bytes(*crc) {
        return Err(damaged("its checksum does not fit"));
    }
    let mut decoder = Decoder(fields);
    let record = read(&mut decoder).ok_or_else(|| damaged("its fields make no sense"))?;
    if !decoder.0.is_empty() {
        return Err(damaged("it is longer than its fields"));
    }
    Ok(record)
}

/// Octets as hexadecimal digits.
pub(crate) fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

/// Fields going out.
#[derive(Default)]
pub(crate) struct Encoder(Vec<u8>);

impl Encoder {
    /// What was written, for others than the engine.
    pub(crate) fn into_octets(self) -> Bytes {
        Bytes::from(self.0)
    }

    /// Begins a record with the number of its layout.
    pub(crate) fn new(layout: u8) -> Encoder {
        Encoder(vec![layout])
    }

    pub(crate) fn u8(&mut self, n: u8) -> &mut Encoder {
        self.0.push(n);
        self
    }

    pub(crate) fn u32(&mut self, n: u32) -> &mut Encoder {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    pub(crate) fn u64(&mut self, n: u64) -> &mut Encoder {
        self.0.extend_from_slice(&n.to_le_bytes());
        self
    }

    pub(crate) fn varint(&mut self, mut n: u64) -> &mut Encoder {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
        self
    }

    /// A number that may be negative, small ones short.
    pub(crate) fn zigzag(&mut self, n: i64) -> &mut Encoder {
        self.varint(((n << 1) ^ (n >> 63)) as u64)
    }

    pub(crate) fn raw(&mut self, octets: &[u8]) -> &mut Encoder {
        self.0.extend_from_slice(octets);
        self
    }

    /// Octets with their length before them.
    pub(crate) fn octets(&mut self, octets: &[u8]) -> &mut Encoder {
        self.varint(octets.len() as u64).raw(octets)
    }

    pub(crate) fn text(&mut self, text: &str) -> &mut Encoder {
        self.octets(text.as_bytes())
    }
}

/// Fields coming in.
pub(crate) struct Decoder<'a>(&'a [u8]);

impl<'a> Decoder<'a> {
    /// Reads what does not come from the engine.
    pub(crate) fn new(octets: &'a [u8]) -> Decoder<'a> {
        Decoder(octets)
    }

    /// The layout number, if it is the one expected.
    pub(crate) fn layout(&mut self, expected: u8) -> Option<()> {
        (self.u8()? == expected).then_some(())
    }

    /// Passes over what nobody needs now.
    pub(crate) fn skip_rest(&mut self) {
        self.0 = &[];
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut n = 0u64;
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

    pub(crate) fn varint32(&mut self) -> Option<u32> {
        self.varint().and_then(|n| u32::try_from(n).ok())
    }

    pub(crate) fn zigzag(&mut self) -> Option<i64> {
        let n = self.varint()?;
        Some((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    pub(crate) fn octets(&mut self) -> Option<&'a [u8]> {
        let len = usize::try_from(self.varint()?).ok()?;
        let (first, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(first)
    }

    pub(crate) fn text(&mut self) -> Option<&'a str> {
        self.octets().and_then(|octets| std::str::from_utf8(octets).ok())
    }

    /// How many octets are left: an upper bound for any count that follows.
    pub(crate) fn left(&self) -> usize {
        self.0.len()
    }

    /// A count of things that each take at least one octet.
    pub(crate) fn count(&mut self) -> Option<usize> {
        usize::try_from(self.varint()?).ok().filter(|n| *n <= self.left())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_read_back(n in any::<u64>(), z in any::<i64>(), text in ".{0,20}") {
            let mut encoder = Encoder::new(7);
            encoder.varint(n).zigzag(z).text(&text).u64(n);
            let value = seal(Space::Meta, b"key", encoder);
            let read = open(Space::Meta, b"key", &value, |d| {
                d.layout(7)?;
                Some((d.varint()?, d.zigzag()?, d.text()?.to_string(), d.u64()?))
            });
            prop_assert_eq!(read, Ok((n, z, text, n)));
        }

        #[test]
        fn a_flipped_octet_or_another_place_is_found(
            text in ".{0,30}", at in any::<prop::sample::Index>(), bit in 0u8..8, cut in any::<prop::sample::Index>()
        ) {
            let mut encoder = Encoder::new(1);
            encoder.text(&text);
            let value = seal(Space::Meta, b"key", encoder);
            let read = |space, key: &[u8], value: &[u8]| {
                open(space, key, value, |d| { d.layout(1)?; d.text().map(str::to_string) })
            };
            prop_assert!(read(Space::Meta, b"key", &value).is_ok());
            prop_assert!(read(Space::Meta, b"kez", &value).is_err());
            prop_assert!(read(Space::Log, b"key", &value).is_err());
            let mut flipped = value.to_vec();
            flipped[at.index(value.len())] ^= 1 << bit;
            prop_assert!(read(Space::Meta, b"key", &flipped).is_err());
            prop_assert!(read(Space::Meta, b"key", &value[..cut.index(value.len())]).is_err());
        }
    }
}
