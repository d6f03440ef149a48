//! FETCH and STORE.

use super::command::flag;
use super::scan::{Fault, Parsed, Scanner};
use super::search::partial_range;
use crate::imap::command::{Change, Command, Fetch, FetchItem, Store};
use crate::imap::types::{Partial, Section, SectionText};
use std::num::NonZeroU32;

/// Numbers in a part's address; nesting in messages is bounded elsewhere.
const PART_NUMBERS_MAX: usize = 128;

/// ```abnf
/// fetch = "FETCH" SP sequence-set SP ("ALL" / "FULL" / "FAST" / fetch-att /
///         "(" fetch-att *(SP fetch-att) ")") [fetch-modifiers]
/// ```
pub(crate) fn fetch(s: &mut Scanner<'_>, uid: bool) -> Parsed<Command> {
    s.sp()?;
    let set = s.message_set()?;
    s.sp()?;
    let items = match s.peek() {
        Some(b'(') => s.list1(fetch_item)?,
        _ => match take_macro(s) {
            Some(items) => items,
            None => vec![fetch_item(s)?],
        },
    };
    let (mut changed_since, mut vanished, mut partial) = (None, false, None);
    if s.take_word(" (") {
        s.items_to_close(|s| {
            match &*s.atom_upper()? {
                "CHANGEDSINCE" => {
                    s.sp()?;
                    changed_since = Some(s.number64()?);
                }
                "VANISHED" => vanished = true,
                "PARTIAL" if partial.is_none() => {
                    s.sp()?;
                    partial = Some(partial_range(s)?);
                }
                _ => return Err(Fault("Unknown FETCH modifier")),
            }
            Ok(())
        })?;
    }
    if vanished && !(uid && changed_since.is_some()) {
        return Err(Fault("VANISHED is for UID FETCH with CHANGEDSINCE"));
    }
    if partial.is_some() && !uid {
        return Err(Fault("PARTIAL is for UID FETCH"));
    }
    Ok(Command::Fetch(Fetch { uid, set, items, changed_since, vanished, partial }))
}

/// `ALL`, `FULL` and `FAST`, which stand alone (RFC 9051 §6.4.5).
fn take_macro(s: &mut Scanner<'_>) -> Option<Vec<FetchItem>> {
    use FetchItem::{Body, Envelope, Flags, InternalDate, Rfc822Size};
    let mut ahead = s.clone();
    let items = match ahead.run(|b| b.is_ascii_alphabetic()).to_ascii_uppercase().as_slice() {
        b"FAST" => vec![Flags, InternalDate, Rfc822Size],
        b"ALL" => vec![Flags, InternalDate, Rfc822Size, Envelope],
        b"FULL" => vec![Flags, InternalDate, Rfc822Size, Envelope, Body],
        _ => return None,
    };
    *s = ahead;
    Some(items)
}

/// `fetch-att`
pub(crate) fn fetch_item(s: &mut Scanner<'_>) -> Parsed<FetchItem> {
    let name = s.run(|b| b.is_ascii_alphanumeric() || b == b'.');
    let mut buffer = [0; 16];
    let upper = buffer.get_mut(..name.len()).ok_or(Fault("Unknown FETCH item"))?;
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    Ok(match &*upper {
        b"FLAGS" => FetchItem::Flags,
        b"UID" => FetchItem::Uid,
        b"ENVELOPE" => FetchItem::Envelope,
        b"INTERNALDATE" => FetchItem::InternalDate,
        b"RFC822" => FetchItem::Rfc822,
        b"RFC822.HEADER" => FetchItem::Rfc822Header,
        b"RFC822.TEXT" => FetchItem::Rfc822Text,
        b"RFC822.SIZE" => FetchItem::Rfc822Size,
        b"BODY" if s.peek() != Some(b'[') => FetchItem::Body,
        b"BODY" => section_item(s, false)?,
        b"BODY.PEEK" => section_item(s, true)?,
        b"BODYSTRUCTURE" => FetchItem::BodyStructure,
        b"MODSEQ" => FetchItem::ModSeq,
        b"EMAILID" => FetchItem::EmailId,
        b"THREADID" => FetchItem::ThreadId,
        b"SAVEDATE" => FetchItem::SaveDate,
        b"PREVIEW" => FetchItem::Preview { lazy: take_lazy(s)? },
        b"BINARY" => FetchItem::Binary { peek: false, part: bracketed_part(s)?, partial: partial(s)? },
        b"BINARY.PEEK" => FetchItem::Binary { peek: true, part: bracketed_part(s)?, partial: partial(s)? },
        b"BINARY.SIZE" => FetchItem::BinarySize { part: bracketed_part(s)? },
        _ => return Err(Fault("Unknown FETCH item")),
    })
}

/// ```abnf
/// fetch-att =/ "PREVIEW" [SP "(" preview-mod *(SP preview-mod) ")"]
/// ```
fn take_lazy(s: &mut Scanner<'_>) -> Parsed<bool> {
    // After `FETCH 1 PREVIEW` a parenthesis can also open the FETCH modifiers.
    let mut ahead = s.clone();
    if ahead.take_word(" (LAZY)") {
        *s = ahead;
        return Ok(true);
    }
    Ok(false)
}

fn section_item(s: &mut Scanner<'_>, peek: bool) -> Parsed<FetchItem> {
    Ok(FetchItem::Section { peek, section: section(s)?, partial: partial(s)? })
}

/// ```abnf
/// section      = "[" [section-spec] "]"
/// section-spec = section-msgtext / (section-part ["." section-text])
/// ```
pub(crate) fn section(s: &mut Scanner<'_>) -> Parsed<Section> {
    s.expect(b'[', "Missing [")?;
    let mut section = Section { part: part_numbers(s)?, text: None };
    let named = s.peek().is_some_and(|b| b.is_ascii_alphabetic());
    if named {
        section.text = Some(section_text(s, !section.part.is_empty())?);
    }
    s.expect(b']', "Missing ]")?;
    Ok(section)
}

/// `1.2.3`, and the dot after it if a word follows.
fn part_numbers(s: &mut Scanner<'_>) -> Parsed<Vec<NonZeroU32>> {
    let mut part = Vec::new();
    while s.peek().is_some_and(|b| b.is_ascii_digit()) {
        if part.len() >= PART_NUMBERS_MAX {
            return Err(Fault("Part too deep"));
        }
        part.push(s.number_as(NonZeroU32::new)?);
        if !s.take(b'.') {
            if s.peek() != Some(b']') {
                return Err(Fault("Malformed part"));
            }
            return Ok(part);
        }
        if !s.peek().is_some_and(|b| b.is_ascii_alphanumeric()) {
            return Err(Fault("Malformed part"));
        }
    }
    Ok(part)
}

/// ```abnf
/// section-msgtext = "HEADER" / "HEADER.FIELDS" [".NOT"] SP header-list / "TEXT"
/// section-text    = section-msgtext / "MIME"
/// header-list     = "(" header-fld-name *(SP header-fld-name) ")"
/// ```
fn section_text(s: &mut Scanner<'_>, in_part: bool) -> Parsed<SectionText> {
    let name = s.run(|b| b.is_ascii_alphabetic() || b == b'.');
    let is = |word: &str| name.eq_ignore_ascii_case(word.as_bytes());
    if is("HEADER") {
        return Ok(SectionText::Header);
    }
    if is("TEXT") {
        return Ok(SectionText::Text);
    }
    if is("MIME") && in_part {
        return Ok(SectionText::Mime);
    }
    let not = is("HEADER.FIELDS.NOT");
    if !not && !is("HEADER.FIELDS") {
        return Err(Fault("Unknown section"));
    }
    s.sp()?;
    let names = s.list1(Scanner::astring)?;
    Ok(if not { SectionText::HeaderFieldsNot(names) } else { SectionText::HeaderFields(names) })
}

/// ```abnf
/// section-binary = "[" [section-part] "]"
/// ```
pub(crate) fn bracketed_part(s: &mut Scanner<'_>) -> Parsed<Vec<NonZeroU32>> {
    s.expect(b'[', "Missing [")?;
    let part = part_numbers(s)?;
    s.expect(b']', "Missing ]")?;
    Ok(part)
}

/// ```abnf
/// partial = "<" number64 "." nz-number64 ">"
/// ```
fn partial(s: &mut Scanner<'_>) -> Parsed<Option<Partial>> {
    if !s.take(b'<') {
        return Ok(None);
    }
    let origin = s.number64()?;
    s.expect(b'.', "Malformed <>")?;
    let octets = s.number64_as(|n| (n > 0).then_some(n))?;
    s.expect(b'>', "Malformed <>")?;
    Ok(Some(Partial { origin, octets }))
}

/// ```abnf
/// store           = "STORE" SP sequence-set [store-modifiers] SP store-att-flags
/// store-att-flags = (["+" / "-"] "FLAGS" [".SILENT"]) SP (flag-list / (flag *(SP flag)))
/// ```
pub(crate) fn store(s: &mut Scanner<'_>, uid: bool) -> Parsed<Command> {
    s.sp()?;
    let set = s.message_set()?;
    s.sp()?;
    let mut unchanged_since = None;
    if s.take(b'(') {
        if !s.take_word("UNCHANGEDSINCE ") {
            return Err(Fault("Unknown STORE modifier"));
        }
        unchanged_since = Some(s.number64()?);
        s.expect(b')', "Missing )")?;
        s.sp()?;
    }
    let change = match s.peek() {
        Some(b'+') => Change::Add,
        Some(b'-') => Change::Remove,
        _ => Change::Replace,
    };
    if let Some(sign) = s.peek().filter(|_| change != Change::Replace) {
        s.take(sign);
    }
    if !s.take_word("FLAGS") {
        return Err(Fault("Unknown STORE item"));
    }
    let silent = s.take_word(".SILENT");
    s.sp()?;
    let flags = if s.peek() == Some(b'(') {
        s.list(flag)?
    } else {
        let mut flags = vec![flag(s)?];
        while s.take(b' ') && !s.is_done() {
            flags.push(flag(s)?);
        }
        flags
    };
    let flags = flags.into_iter().flatten().collect();
    Ok(Command::Store(Store { uid, set, unchanged_since, change, silent, flags }))
}
