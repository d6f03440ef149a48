//! `msg-att` of RFC 9051 §9 and of the extensions.

use super::data::{flag_list, object_id_in_parentheses};
use super::fetch::{bracketed_part, section};
use super::scan::{Fault, Parsed, Scanner};
use crate::imap::response::FetchData;
use bytes::Bytes;
use rookery_types::{InternalDate, ModSeq, Uid};

/// One item; `None`: not known, and passed over.
pub(crate) fn item(s: &mut Scanner<'_>) -> Parsed<Option<FetchData>> {
    let name = s.run(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if name.is_empty() {
        return Err(Fault("Missing item"));
    }
    let name = name.to_ascii_uppercase();
    if let Some(item) = bracketed(s, &name)? {
        return Ok(Some(item));
    }
    s.sp()?;
    Ok(Some(match &*name {
        b"FLAGS" => FetchData::Flags(flag_list(s)?),
        b"UID" => FetchData::Uid(s.number_as(Uid::new)?),
        b"MODSEQ" => {
            s.expect(b'(', "Missing (")?;
            let modseq = s.number64_as(ModSeq::new)?;
            s.expect(b')', "Missing )")?;
            FetchData::ModSeq(modseq)
        }
        b"RFC822.SIZE" => FetchData::Size(s.number64()?),
        b"INTERNALDATE" => FetchData::InternalDate(s.date_time()?),
        b"ENVELOPE" => FetchData::Envelope(any_value(s)?),
        b"BODY" => FetchData::Body(any_value(s)?),
        b"BODYSTRUCTURE" => FetchData::BodyStructure(any_value(s)?),
        b"RFC822" => FetchData::Rfc822(s.nstring()?),
        b"RFC822.HEADER" => FetchData::Rfc822Header(s.nstring()?),
        b"RFC822.TEXT" => FetchData::Rfc822Text(s.nstring()?),
        b"EMAILID" => FetchData::EmailId(object_id_in_parentheses(s)?),
        b"THREADID" if s.take_nil() => FetchData::ThreadId(None),
        b"THREADID" => FetchData::ThreadId(Some(object_id_in_parentheses(s)?)),
        b"SAVEDATE" => FetchData::SaveDate(nil_or_date(s)?),
        b"PREVIEW" => FetchData::Preview(s.nstring()?),
        _ => {
            any_value(s)?;
            return Ok(None);
        }
    }))
}

fn nil_or_date(s: &mut Scanner<'_>) -> Parsed<Option<InternalDate>> {
    if s.take_nil() { Ok(None) } else { s.date_time().map(Some) }
}

/// ```abnf
/// msg-att-static =/ "BODY" section ["<" number ">"] SP nstring
///                 / "BINARY" section-binary SP (nstring / literal8)
///                 / "BINARY.SIZE" section-binary SP number
/// ```
fn bracketed(s: &mut Scanner<'_>, name: &[u8]) -> Parsed<Option<FetchData>> {
    if s.peek() != Some(b'[') {
        return Ok(None);
    }
    Ok(Some(match name {
        b"BODY" => {
            let section = section(s)?;
            let origin = origin(s)?;
            s.sp()?;
            FetchData::Section { section, origin, data: s.nstring()? }
        }
        b"BINARY" => {
            let part = bracketed_part(s)?;
            let origin = origin(s)?;
            s.sp()?;
            FetchData::Binary { part, origin, data: s.nstring()? }
        }
        b"BINARY.SIZE" => {
            let part = bracketed_part(s)?;
            s.sp()?;
            FetchData::BinarySize { part, octets: s.number64()? }
        }
        _ => return Err(Fault("Unknown item")),
    }))
}

fn origin(s: &mut Scanner<'_>) -> Parsed<Option<u64>> {
    if !s.take(b'<') {
        return Ok(None);
    }
    let origin = s.number64()?;
    s.expect(b'>', "Missing >")?;
    Ok(Some(origin))
}

/// A value of any shape, as it stands: an atom, a string, or a list of values.
pub(crate) fn any_value(s: &mut Scanner<'_>) -> Parsed<Bytes> {
    let start = s.rest();
    skip_value(s)?;
    let len = start.len() - s.rest().len();
    Ok(s.own(start.get(..len).unwrap_or(&[])))
}

fn skip_value(s: &mut Scanner<'_>) -> Parsed<()> {
    match s.peek() {
        Some(b'(') => s.deeper(|s| {
            s.expect(b'(', "Missing (")?;
            // Lists in lists may follow without a space: addresses and body parts do.
            loop {
                match s.peek() {
                    Some(b')') => {
                        s.take(b')');
                        return Ok(());
                    }
                    Some(b' ') => {
                        s.take(b' ');
                    }
                    Some(_) => skip_value(s)?,
                    None => return Err(Fault("Missing )")),
                }
            }
        }),
        Some(b'"' | b'{') => s.string().map(drop),
        Some(_) => match s.run(|b| b > b' ' && !matches!(b, b'(' | b')' | b'"' | b'{')) {
            [] => Err(Fault("Malformed value")),
            _ => Ok(()),
        },
        None => Err(Fault("Missing value")),
    }
}
