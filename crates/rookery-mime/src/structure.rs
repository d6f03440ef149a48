//! The part tree of a message as octet ranges: what FETCH BODY[section] needs, stored once at arrival.
//!
//! Invariants of a `Structure`, kept by the scanner and checked by `decode`:
//! - Parts are in preorder; part 0 is the message itself. A parent comes before its children.
//! - `header_start <= header_end <= body_start <= body_end`, and a part lies inside its parent's body.
//! - A multipart has at least one child; a message part has exactly one, the message it holds; others none.
//!
//! Stored form, version 1: the octet 1; varints (LEB128) of message octets, message lines and number of parts;
//! for each part its kind (one octet) and varints of `index - parent` (0 for part 0), header start, header
//! octets, body start less header end, body octets, body lines; four octets of FNV-1a over all before them,
//! little-endian.

use std::ops::Range;

const VERSION: u8 = 1;
/// Octets of the least part in stored form: what bounds the memory `decode` takes by the size of its input.
const PART_OCTETS_MIN: usize = 7;
/// Nesting that `decode` takes; more than any scanner writes.
const NESTING_MAX: u32 = 1_000;

/// What a part holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PartKind {
    /// Text, an image, whatever has no parts.
    Single,
    /// A multipart; has one child or more.
    Multipart,
    /// message/rfc822 or message/global; has one child.
    Message,
    /// Something beyond a limit (nesting, number of parts) that was not looked into.
    Opaque,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) kind: PartKind,
    pub(crate) parent: u32,
    pub(crate) header: Range<u64>,
    pub(crate) body: Range<u64>,
    /// Line ends in the body.
    pub(crate) lines: u64,
}

/// The part tree of one message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Structure {
    pub(crate) octets: u64,
    pub(crate) lines: u64,
    pub(crate) parts: Vec<Part>,
}

/// A part as seen from outside: where it lies in the message, in octets from its start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartRef {
    /// What the part holds.
    pub kind: PartKind,
    /// The part that holds it, by its place in [`Structure::parts`]; `None` for the message itself.
    pub parent: Option<usize>,
    /// Its header, with the blank line if there is one.
    pub header: Range<u64>,
    /// Its body.
    pub body: Range<u64>,
    /// Line ends in its body.
    pub lines: u64,
}

/// What of a part is meant (RFC 9051 §6.4.5, `section-text`). HEADER.FIELDS is
/// [`filter_header`](crate::filter_header) over `Header`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum SectionText {
    /// The whole message, or a part's body.
    #[default]
    Whole,
    /// The header of a message.
    Header,
    /// The body of a message.
    Text,
    /// The MIME header of a part.
    Mime,
}

/// A section: `1.2.HEADER` is parts `[1, 2]` and text `Header`.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct SectionPath {
    /// Part numbers, from 1. Empty for the message itself.
    pub parts: Vec<u32>,
    /// What of the part.
    pub text: SectionText,
}

impl SectionPath {
    /// A path from its two halves.
    pub fn new(parts: impl Into<Vec<u32>>, text: SectionText) -> SectionPath {
        SectionPath { parts: parts.into(), text }
    }
}

/// Stored octets are not a structure that was written here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DamagedStructure {
    /// The first octet is no version this program reads.
    #[error("unknown version {0} of a stored message structure")]
    UnknownVersion(u8),
    /// The check sum does not fit.
    #[error("a stored message structure has a bad check sum")]
    BadChecksum,
    /// It ends early, goes on too long, or says what no message can be.
    #[error("a stored message structure makes no sense at octet {at}")]
    Malformed {
        /// Octets read when it was noticed.
        at: usize,
    },
}

impl Structure {
    /// Octets of the message (RFC822.SIZE).
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Line ends in the message.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// All parts in preorder; the first is the message itself.
    pub fn parts(&self) -> impl Iterator<Item = PartRef> + '_ {
        self.parts.iter().enumerate().map(|(index, part)| PartRef {
            kind: part.kind,
            parent: (index > 0).then_some(part.parent as usize),
            header: part.header.clone(),
            body: part.body.clone(),
            lines: part.lines,
        })
    }

    /// The octets of a section (RFC 9051 §6.4.5); `None` if the message has no such section.
    ///
    /// BODY[1] of a message that is no multipart is its body. HEADER and TEXT below a part are for parts that
    /// hold a message; MIME needs a part number.
    pub fn section(&self, path: &SectionPath) -> Option<Range<u64>> {
        if path.parts.is_empty() {
            let root = self.parts.first()?;
            return match path.text {
                SectionText::Whole => Some(0..self.octets),
                SectionText::Header => Some(root.header.clone()),
                SectionText::Text => Some(root.body.clone()),
                SectionText::Mime => None,
            };
        }
        let index = self.resolve(&path.parts)?;
        let part = self.parts.get(index)?;
        match path.text {
            SectionText::Whole => Some(part.body.clone()),
            SectionText::Mime => Some(part.header.clone()),
            SectionText::Header | SectionText::Text => {
                let held = (part.kind == PartKind::Message).then(|| self.parts.get(index + 1))??;
                Some(if path.text == SectionText::Header { held.header.clone() } else { held.body.clone() })
            }
        }
    }

    /// The part that a list of part numbers means.
    pub(crate) fn resolve(&self, numbers: &[u32]) -> Option<usize> {
        let mut current = 0_usize;
        // Whether `current` stands for a message, whose parts are numbered, rather than for a part.
        let mut is_message = true;
        for &number in numbers {
            if !is_message && self.parts.get(current)?.kind == PartKind::Message {
                current += 1; // the one child comes next in preorder
                is_message = true;
            }
            if self.parts.get(current)?.kind == PartKind::Multipart {
                current = self.child(current, number)?;
            } else if !is_message || number != 1 {
                return None;
            }
            is_message = false;
        }
        Some(current)
    }

    fn child(&self, parent: usize, number: u32) -> Option<usize> {
        let nth = usize::try_from(number.checked_sub(1)?).ok()?;
        self.children(parent).nth(nth)
    }

    pub(crate) fn children(&self, parent: usize) -> impl Iterator<Item = usize> + '_ {
        let below = self.parts.get(parent + 1..).unwrap_or_default();
        below
            .iter()
            .enumerate()
            // Preorder: the subtree ends where a part hangs above it.
            .take_while(move |(_, part)| part.parent as usize >= parent)
            .filter(move |(_, part)| part.parent as usize == parent)
            .map(move |(offset, _)| parent + 1 + offset)
    }

    /// The stored form; see the module's head.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_varint(&mut out, self.octets);
        put_varint(&mut out, self.lines);
        put_varint(&mut out, self.parts.len() as u64);
        for (index, part) in self.parts.iter().enumerate() {
            out.push(match part.kind {
                PartKind::Single => 0,
                PartKind::Multipart => 1,
                PartKind::Message => 2,
                PartKind::Opaque => 3,
            });
            put_varint(&mut out, (index as u64).saturating_sub(u64::from(part.parent)));
            put_varint(&mut out, part.header.start);
            put_varint(&mut out, part.header.end - part.header.start);
            put_varint(&mut out, part.body.start - part.header.end);
            put_varint(&mut out, part.body.end - part.body.start);
            put_varint(&mut out, part.lines);
        }
        let sum = fnv1a(&out);
        out.extend_from_slice(&sum.to_le_bytes());
        out
    }

    /// Reads the stored form and checks every invariant, so that a section of it is always inside the message.
    pub fn decode(stored: &[u8]) -> Result<Structure, DamagedStructure> {
        let version = *stored.first().ok_or(DamagedStructure::Malformed { at: 0 })?;
        if version != VERSION {
            return Err(DamagedStructure::UnknownVersion(version));
        }
        let (content, sum) = stored.split_last_chunk::<4>().ok_or(DamagedStructure::Malformed { at: 1 })?;
        if fnv1a(content) != u32::from_le_bytes(*sum) {
            return Err(DamagedStructure::BadChecksum);
        }
        let mut reader = Reader { content, at: 1 };
        reader.structure().ok_or(DamagedStructure::Malformed { at: reader.at })
    }

    /// Whether the invariants hold.
    fn is_sound(&self) -> bool {
        let mut children = vec![0_u32; self.parts.len()];
        let mut depth = vec![0_u32; self.parts.len()];
        for (index, part) in self.parts.iter().enumerate() {
            let ordered = part.header.start <= part.header.end
                && part.header.end <= part.body.start
                && part.body.start <= part.body.end;
            let parent = part.parent as usize;
            let room = if index == 0 {
                0..self.octets
            } else {
                // Preorder: the parent is the part before this one or one of that part's ancestors.
                let mut ancestor = index - 1;
                while ancestor > parent {
                    ancestor = self.parts.get(ancestor).map_or(0, |part| part.parent as usize);
                }
                let Some(holder) = self.parts.get(parent).filter(|_| ancestor == parent && parent < index)
                else {
                    return false;
                };
                let deeper = depth.get(parent).map_or(0, |d| d + 1);
                if !matches!(holder.kind, PartKind::Multipart | PartKind::Message) || deeper > NESTING_MAX {
                    return false;
                }
                if let (Some(count), Some(own)) = (children.get_mut(parent), depth.get_mut(index)) {
                    *count += 1;
                    *own = deeper;
                }
                holder.body.clone()
            };
            let inside = room.start <= part.header.start && part.body.end <= room.end;
            if !ordered || !inside || part.lines > part.body.end - part.body.start {
                return false;
            }
        }
        let whole = self.parts.first().is_some_and(|root| {
            root.header.start == 0 && root.body.end == self.octets && self.lines <= self.octets
        });
        whole
            && self.parts.iter().zip(&children).all(|(part, count)| match part.kind {
                PartKind::Multipart => *count >= 1,
                PartKind::Message => *count == 1,
                PartKind::Single | PartKind::Opaque => *count == 0,
            })
    }
}

struct Reader<'a> {
    content: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn structure(&mut self) -> Option<Structure> {
        let octets = self.varint()?;
        let lines = self.varint()?;
        let count = usize::try_from(self.varint()?).ok()?;
        if count > (self.content.len() - self.at) / PART_OCTETS_MIN {
            return None;
        }
        let mut parts = Vec::with_capacity(count);
        for index in 0..count {
            let kind = match self.octet()? {
                0 => PartKind::Single,
                1 => PartKind::Multipart,
                2 => PartKind::Message,
                3 => PartKind::Opaque,
                _ => return None,
            };
            let back = usize::try_from(self.varint()?).ok()?;
            if (back == 0) != (index == 0) {
                return None;
            }
            let parent = u32::try_from(index.checked_sub(back)?).ok()?;
            let header_start = self.varint()?;
            let header_end = header_start.checked_add(self.varint()?)?;
            let body_start = header_end.checked_add(self.varint()?)?;
            let body_end = body_start.checked_add(self.varint()?)?;
            let lines = self.varint()?;
            parts.push(Part {
                kind,
                parent,
                header: header_start..header_end,
                body: body_start..body_end,
                lines,
            });
        }
        let structure = Structure { octets, lines, parts };
        (self.at == self.content.len() && structure.is_sound()).then_some(structure)
    }

    fn octet(&mut self) -> Option<u8> {
        let octet = *self.content.get(self.at)?;
        self.at += 1;
        Some(octet)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..63).step_by(7) {
            let octet = self.octet()?;
            value |= u64::from(octet & 0x7f) << shift;
            if octet < 0x80 {
                return Some(value);
            }
        }
        None
    }
}

fn put_varint(out: &mut Vec<u8>, value: u64) {
    let mut value = value;
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn fnv1a(octets: &[u8]) -> u32 {
    octets.iter().fold(0x811c_9dc5, |sum, octet| (sum ^ u32::from(*octet)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, Scanner};
    use proptest::prelude::*;

    const MESSAGE: &[u8] = b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\none\r\n--b\r\n\
        Content-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\ninner\r\n--b--\r\n";

    fn scan(message: &[u8]) -> Structure {
        let mut scanner = Scanner::new(Limits::default());
        scanner.push(message);
        scanner.finish().structure().clone()
    }

    #[test]
    fn what_is_stored_is_read_back() {
        let structure = scan(MESSAGE);
        assert_eq!(structure.parts.len(), 4);
        assert_eq!(Structure::decode(&structure.encode()), Ok(structure));
    }

    #[test]
    fn a_cycle_in_parents_is_refused() {
        let mut structure = scan(MESSAGE);
        structure.parts[1].parent = 3;
        assert!(Structure::decode(&structure.encode()).is_err());
    }

    proptest! {
        #[test]
        fn damage_is_an_error(at in 0usize..60, with in 1u8..=255) {
            let mut stored = scan(MESSAGE).encode();
            let at = at % stored.len();
            stored[at] ^= with;
            prop_assert!(Structure::decode(&stored).is_err());
        }

        #[test]
        fn damage_under_a_good_sum_leaves_ranges_inside(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
            numbers in prop::collection::vec(0u32..4, 0..4),
        ) {
            let mut stored = scan(MESSAGE).encode();
            stored.truncate(stored.len() - 4);
            for (index, with) in changes {
                let at = index.index(stored.len());
                stored[at] = with;
            }
            let sum = fnv1a(&stored);
            stored.extend_from_slice(&sum.to_le_bytes());
            if let Ok(structure) = Structure::decode(&stored) {
                for text in [SectionText::Whole, SectionText::Header, SectionText::Text, SectionText::Mime] {
                    if let Some(range) = structure.section(&SectionPath::new(numbers.clone(), text)) {
                        prop_assert!(range.start <= range.end && range.end <= structure.octets());
                    }
                }
            }
        }

        #[test]
        fn random_octets_never_panic(octets in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = Structure::decode(&octets);
        }
    }
}
