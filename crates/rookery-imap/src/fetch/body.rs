//! Sections of a message: which of its octets BODY[..] names, and BINARY[..] decoded.

use bytes::Bytes;
use rookery_codec::imap::command::FetchItem;
use rookery_codec::imap::types::Partial;
use rookery_codec::imap::{Section, SectionText};
use rookery_mime::{SectionPath, Structure, filter_header};
use rookery_store::{Account, StoreError};
use rookery_types::ContentId;
use std::num::NonZeroU32;
use std::ops::Range;

/// The largest message that is read whole, octets.
pub(crate) const WHOLE_OCTETS_MAX: u64 = 1 << 20;
/// The largest header that is filtered, octets; of a longer one the rest is left out.
const HEADER_OCTETS_MAX: u64 = 4 << 20;

/// What a section is.
pub(crate) enum Data {
    /// There is no such part.
    Nil,
    /// These octets of the message.
    Range(Range<u64>),
    /// Octets made from the message.
    Made(Bytes),
}

/// One message's octets, read when first needed and at most once if it is small.
pub(crate) struct Content<'a> {
    account: &'a Account,
    id: ContentId,
    size: u64,
    structure: Option<Structure>,
    whole: Option<Bytes>,
}

impl<'a> Content<'a> {
    pub(crate) fn new(account: &'a Account, id: ContentId, size: u32) -> Content<'a> {
        Content { account, id, size: u64::from(size), structure: None, whole: None }
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// The parts and where they are. Of a message whose structure is damaged nothing but the whole is known.
    pub(crate) fn structure(&mut self) -> Result<&Structure, StoreError> {
        if self.structure.is_none() {
            let facts = self.account.facts(self.id)?;
            let structure = Structure::decode(&facts.structure).map_err(|error| {
                tracing::error!(%error, "a message's stored structure is damaged");
                StoreError::NoContent
            })?;
            return Ok(self.structure.insert(structure));
        }
        self.structure.as_ref().ok_or(StoreError::NoContent)
    }

    /// Octets of the message. Small messages are read once, whole.
    pub(crate) fn octets(&mut self, range: Range<u64>) -> Result<Bytes, StoreError> {
        let end = range.end.min(self.size);
        let start = range.start.min(end);
        if self.size > WHOLE_OCTETS_MAX {
            let octets = usize::try_from(end - start).unwrap_or(usize::MAX);
            return self.account.read_part(self.id, start, octets);
        }
        let whole = match &self.whole {
            Some(whole) => whole,
            None => self.whole.insert(self.account.read(self.id)?),
        };
        let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(whole.len());
        Ok(whole.slice(at(start)..at(end)))
    }

    /// The whole message, however large: for what has to be looked through.
    pub(crate) fn whole(&mut self) -> Result<Bytes, StoreError> {
        if self.size <= WHOLE_OCTETS_MAX {
            return self.octets(0..self.size);
        }
        match &self.whole {
            Some(whole) => Ok(whole.clone()),
            None => Ok(self.whole.insert(self.account.read(self.id)?).clone()),
        }
    }

    /// What a section names, without `<partial>`.
    pub(crate) fn section(&mut self, section: &Section) -> Result<Data, StoreError> {
        use rookery_mime::SectionText as Text;
        let whole = section.part.is_empty() && section.text.is_none();
        if whole {
            return Ok(Data::Range(0..self.size));
        }
        let (text, filter) = match &section.text {
            None => (Text::Whole, None),
            Some(SectionText::Header) => (Text::Header, None),
            Some(SectionText::Text) => (Text::Text, None),
            Some(SectionText::Mime) => (Text::Mime, None),
            Some(SectionText::HeaderFields(names)) => (Text::Header, Some((names, false))),
            Some(SectionText::HeaderFieldsNot(names)) => (Text::Header, Some((names, true))),
        };
        let parts: Vec<u32> = section.part.iter().map(|n| n.get()).collect();
        let Some(range) = self.structure()?.section(&SectionPath::new(parts, text)) else {
            return Ok(Data::Nil);
        };
        let Some((names, not)) = filter else { return Ok(Data::Range(range)) };
        let end = range.end.min(range.start.saturating_add(HEADER_OCTETS_MAX));
        let header = self.octets(range.start..end)?;
        Ok(Data::Made(filter_header(&header, names, not).into()))
    }

    /// A part with its transfer encoding undone; `Err(None)` if it cannot be (RFC 3516 §4.3).
    pub(crate) fn binary(&mut self, part: &[NonZeroU32]) -> Result<Result<Data, UnknownCte>, StoreError> {
        if part.is_empty() {
            return Ok(Ok(Data::Range(0..self.size)));
        }
        let parts: Vec<u32> = part.iter().map(|n| n.get()).collect();
        let path = SectionPath::new(parts.clone(), rookery_mime::SectionText::Whole);
        let Some(body) = self.structure()?.section(&path) else { return Ok(Ok(Data::Nil)) };
        let path = SectionPath::new(parts, rookery_mime::SectionText::Mime);
        let header = match self.structure()?.section(&path) {
            Some(range) => self.octets(range)?,
            None => Bytes::new(),
        };
        let encoding = transfer_encoding(&header);
        match encoding.as_slice() {
            b"" | b"7bit" | b"8bit" | b"binary" => Ok(Ok(Data::Range(body))),
            _ => {
                let octets = self.octets(body)?;
                Ok(decode(&encoding, &octets).map(|made| Data::Made(made.into())).ok_or(UnknownCte))
            }
        }
    }
}

/// A part whose transfer encoding nobody knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnknownCte;

/// The part of some octets that `<origin.octets>` asks for.
pub(crate) fn cut(range: Range<u64>, partial: Option<Partial>) -> Range<u64> {
    let Some(Partial { origin, octets }) = partial else { return range };
    let start = range.start.saturating_add(origin).min(range.end);
    start..start.saturating_add(octets).min(range.end)
}

/// The token of Content-Transfer-Encoding, in lower case; empty if there is none.
fn transfer_encoding(header: &[u8]) -> Vec<u8> {
    let field = rookery_mime::header::fields(header).find(|field| field.is("Content-Transfer-Encoding"));
    let value = field.map(|field| field.text()).unwrap_or_default();
    let token = value.split(|b| matches!(b, b';' | b'(' | b' ' | b'\t')).find(|token| !token.is_empty());
    token.unwrap_or_default().to_ascii_lowercase()
}

/// Undoes base64 or quoted-printable; what does not belong there is passed over.
fn decode(encoding: &[u8], octets: &[u8]) -> Option<Vec<u8>> {
    match encoding {
        b"base64" => Some(decode_base64(octets)),
        b"quoted-printable" => Some(decode_quoted_printable(octets)),
        _ => None,
    }
}

fn decode_base64(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    for octet in octets {
        let value = match octet {
            b'A'..=b'Z' => octet - b'A',
            b'a'..=b'z' => octet - b'a' + 26,
            b'0'..=b'9' => octet - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => break,
            _ => continue,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xff) as u8);
        }
    }
    out
}

fn decode_quoted_printable(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len());
    for line in octets.split_inclusive(|b| *b == b'\n') {
        let (text, end) = match line {
            [text @ .., b'\r', b'\n'] => (text, &b"\r\n"[..]),
            [text @ .., b'\n'] => (text, &b"\n"[..]),
            text => (text, &b""[..]),
        };
        let text = text.trim_ascii_end();
        let (text, end) = match text {
            [text @ .., b'='] => (text, &b""[..]),
            text => (text, end),
        };
        let mut rest = text;
        while let Some((first, after)) = rest.split_first() {
            match (first, after) {
                (b'=', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                    out.push(hex(*high).unwrap_or(0) << 4 | hex(*low).unwrap_or(0));
                    rest = after;
                }
                _ => {
                    out.push(*first);
                    rest = after;
                }
            }
        }
        out.extend_from_slice(end);
    }
    out
}

fn hex(octet: u8) -> Option<u8> {
    char::from(octet).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

/// The section that RFC822 and its kin are another name for.
pub(crate) fn section_of(item: &FetchItem) -> Option<(&'static str, Section)> {
    let section = |text| Section { part: Vec::new(), text };
    match item {
        FetchItem::Rfc822 => Some(("RFC822", section(None))),
        FetchItem::Rfc822Header => Some(("RFC822.HEADER", section(Some(SectionText::Header)))),
        FetchItem::Rfc822Text => Some(("RFC822.TEXT", section(Some(SectionText::Text)))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfer_encodings_are_undone() {
        assert_eq!(decode_base64(b"aGVs\r\nbG8=\r\n"), b"hello");
        assert_eq!(decode_quoted_printable(b"a=C3=\r\n=A9 =zz \r\nb"), "aé =zz\r\nb".as_bytes());
        assert_eq!(transfer_encoding(b"Content-Transfer-Encoding: Base64 (really)\r\n\r\n"), b"base64");
        assert!(decode(b"x-uuencode", b"").is_none());
    }

    #[test]
    fn partials_are_cut_to_what_there_is() {
        let partial = |origin, octets| Some(Partial { origin, octets });
        assert_eq!(cut(10..20, None), 10..20);
        assert_eq!(cut(10..20, partial(2, 3)), 12..15);
        assert_eq!(cut(10..20, partial(2, u64::MAX)), 12..20);
        assert_eq!(cut(10..20, partial(u64::MAX, 5)), 20..20);
    }
}
