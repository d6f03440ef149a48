//! Sections of a message: which of its octets BODY[..] names, and BINARY[..] decoded.

use bytes::Bytes;
use rookery_codec::imap::command::FetchItem;
use rookery_codec::imap::types::Partial;
use rookery_codec::imap::{Section, SectionText};
use rookery_mime::{SectionPath, Structure, TransferDecoder, TransferEncoding, filter_header};
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
    /// These octets of the message, whose transfer encoding is to be undone; too many to be made at once.
    Encoded(Range<u64>, TransferEncoding),
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

    /// A part with its transfer encoding undone (RFC 3516 §4.3).
    ///
    /// DEVIATION: RFC 9051 §6.4.5, because the octets are at hand: BINARY[] is the message itself, and BINARY of a
    /// part with parts is its octets.
    pub(crate) fn binary(&mut self, part: &[NonZeroU32]) -> Result<Result<Data, UnknownCte>, StoreError> {
        if part.is_empty() {
            return Ok(Ok(Data::Range(0..self.size)));
        }
        let parts: Vec<u32> = part.iter().map(|n| n.get()).collect();
        let path = SectionPath::new(parts.clone(), rookery_mime::SectionText::Whole);
        let Some(body) = self.structure()?.section(&path) else { return Ok(Ok(Data::Nil)) };
        let path = SectionPath::new(parts, rookery_mime::SectionText::Mime);
        let header = match self.structure()?.section(&path) {
            Some(range) => self.octets(range.start..range.end.min(range.start + HEADER_OCTETS_MAX))?,
            None => Bytes::new(),
        };
        let Some(encoding) = TransferEncoding::of_header(&header) else { return Ok(Err(UnknownCte)) };
        if encoding == TransferEncoding::Identity {
            return Ok(Ok(Data::Range(body)));
        }
        if body.end - body.start > WHOLE_OCTETS_MAX {
            return Ok(Ok(Data::Encoded(body, encoding)));
        }
        let mut made = Vec::new();
        let mut decoder = TransferDecoder::new(encoding);
        decoder.push(&self.octets(body)?, &mut made);
        decoder.finish(&mut made);
        Ok(Ok(Data::Made(made.into())))
    }

    /// How many octets a large part of a message has once its encoding is undone, and whether NUL is among those
    /// of `partial`. Reads it all, piece by piece.
    pub(crate) fn measure(
        &mut self,
        range: Range<u64>,
        encoding: TransferEncoding,
        partial: Option<Partial>,
    ) -> Result<(u64, bool), StoreError> {
        let wanted = cut(0..u64::MAX, partial);
        let mut decoder = TransferDecoder::new(encoding);
        let (mut from, mut octets, mut nul) = (range.start, 0, false);
        let mut made = Vec::new();
        while from < range.end {
            let end = range.end.min(from + WHOLE_OCTETS_MAX);
            made.clear();
            decoder.push(&self.octets(from..end)?, &mut made);
            if end == range.end {
                decoder.finish(&mut made);
            }
            nul |= within(&made, octets, &wanted).contains(&0);
            octets += made.len() as u64;
            from = end;
        }
        Ok((octets, nul))
    }
}

/// What of some octets, the first of which stands at `at`, lies in a range.
pub(crate) fn within<'a>(octets: &'a [u8], at: u64, range: &Range<u64>) -> &'a [u8] {
    let place = |n: u64| usize::try_from(n.saturating_sub(at)).unwrap_or(usize::MAX).min(octets.len());
    octets.get(place(range.start)..place(range.end)).unwrap_or_default()
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
    fn partials_are_cut_to_what_there_is() {
        let partial = |origin, octets| Some(Partial { origin, octets });
        assert_eq!(cut(10..20, None), 10..20);
        assert_eq!(cut(10..20, partial(2, 3)), 12..15);
        assert_eq!(cut(10..20, partial(2, u64::MAX)), 12..20);
        assert_eq!(cut(10..20, partial(u64::MAX, 5)), 20..20);
    }
}
