//! ENVELOPE and BODYSTRUCTURE as octets to be sent (RFC 9051 §7.5.2, RFC 3501 §7.4.2).
//!
//! Invariants:
//! - A string is quoted if it is 7-bit without CR, LF and NUL, else it is a literal; its octets are the
//!   header's own, 8-bit ones as they are.
//! - Every value is well-formed by RFC 9051 §9 whatever the header was.
//! - What does not fit a limit is left out whole: a list element, an optional field.

use crate::address::{Address, parse_addresses};
use crate::header::{fields, unfold};
use crate::media::{MediaType, WithParameters, first_token, join_continuations, parse_with_parameters};
use crate::structure::{PartKind, Structure};

/// Longest quoted string; a longer one goes as a literal, so that lines stay short.
const QUOTED_OCTETS_MAX: usize = 1_000;
/// Octets of one string of an envelope or of a part's optional field; the rest is cut off.
const STRING_OCTETS_MAX: usize = 16 << 10;
/// Octets of each of From, Sender and Reply-To in an envelope.
const AUTHORS_OCTETS_MAX: usize = 16 << 10;
/// Addresses of one envelope list.
const ADDRESSES_MAX: usize = 10_000;
/// Octets of one part's parameters, and of its disposition.
const PARAMETERS_OCTETS_MAX: usize = 64 << 10;
/// Languages of one part.
const LANGUAGES_MAX: usize = 100;

/// What is rendered of a part when its header ends; its size follows later.
#[derive(Clone, Debug, Default)]
pub(crate) struct PartText {
    /// Single and message: type to encoding. Multipart: the subtype.
    head: Vec<u8>,
    /// Extension data, with its leading space.
    extension: Vec<u8>,
    /// The envelope, if the part is a message.
    pub(crate) envelope: Vec<u8>,
    /// Lines are told.
    is_text: bool,
    pub(crate) is_digest: bool,
}

impl PartText {
    pub(crate) fn octets(&self) -> usize {
        self.head.len() + self.extension.len() + self.envelope.len()
    }
}

/// The Content-* fields of a header, unfolded; the first of each name counts.
#[derive(Debug, Default)]
pub(crate) struct ContentFields {
    kind: Option<Vec<u8>>,
    id: Option<Vec<u8>>,
    description: Option<Vec<u8>>,
    encoding: Option<Vec<u8>>,
    md5: Option<Vec<u8>>,
    disposition: Option<Vec<u8>>,
    language: Option<Vec<u8>>,
    location: Option<Vec<u8>>,
}

impl ContentFields {
    pub(crate) fn read(header: &[u8]) -> ContentFields {
        let mut content = ContentFields::default();
        for field in fields(header) {
            let Some((prefix, rest)) = field.name.split_at_checked(8) else { continue };
            if !prefix.eq_ignore_ascii_case(b"content-") {
                continue;
            }
            let slot = match rest.to_ascii_lowercase().as_slice() {
                b"type" => &mut content.kind,
                b"id" => &mut content.id,
                b"description" => &mut content.description,
                b"transfer-encoding" => &mut content.encoding,
                b"md5" => &mut content.md5,
                b"disposition" => &mut content.disposition,
                b"language" => &mut content.language,
                b"location" => &mut content.location,
                _ => continue,
            };
            if slot.is_none() {
                *slot = Some(field.text());
            }
        }
        content
    }

    /// The media type, with its default (RFC 2045 §5.2, RFC 2046 §5.1.5).
    pub(crate) fn media(&self, in_digest: bool) -> MediaType {
        match self.kind.as_deref().map(MediaType::parse) {
            Some(Some(media)) => media,
            None if in_digest => MediaType::message(),
            _ => MediaType::plain_text(),
        }
    }

    /// The transfer encoding in upper case; 7BIT if there is none.
    pub(crate) fn encoding(&self) -> Vec<u8> {
        let token = self.encoding.as_deref().map(first_token).unwrap_or_default();
        if token.is_empty() { b"7BIT".to_vec() } else { token.to_ascii_uppercase() }
    }
}

/// The text/plain part that stands in a multipart without parts.
pub(crate) fn plain_text() -> PartText {
    part_text(&ContentFields::default(), &MediaType::plain_text(), PartKind::Single, 0)
}

/// Renders a part's fields; with less than 64 KiB `left`, optional ones only if they fit.
pub(crate) fn part_text(content: &ContentFields, media: &MediaType, kind: PartKind, left: usize) -> PartText {
    let mut text = PartText { is_text: media.is_text(), ..PartText::default() };
    let mut left = left;
    let parameters_max = left.min(PARAMETERS_OCTETS_MAX);
    if kind == PartKind::Multipart {
        text.is_digest = media.subtype == b"DIGEST";
        put_string(&mut text.head, &media.subtype);
        put_parameters(&mut text.extension, &media.parameters, parameters_max);
    } else if kind == PartKind::Opaque {
        // What was not looked into cannot be told as a multipart or a message: those need their insides.
        text.head.extend_from_slice(b"\"APPLICATION\" \"OCTET-STREAM\" NIL");
    } else {
        put_string(&mut text.head, &media.kind);
        text.head.push(b' ');
        put_string(&mut text.head, &media.subtype);
        put_parameters(&mut text.head, &media.parameters, parameters_max);
    }
    left = left.saturating_sub(text.octets());
    if kind != PartKind::Multipart {
        put_optional(&mut text.head, content.id.as_deref(), &mut left);
        put_optional(&mut text.head, content.description.as_deref(), &mut left);
        text.head.push(b' ');
        let encoding = content.encoding();
        put_string(&mut text.head, if encoding.len() > 100 { b"8BIT" } else { &encoding });
        put_optional(&mut text.extension, content.md5.as_deref(), &mut left);
    }
    put_disposition(&mut text.extension, content.disposition.as_deref(), &mut left);
    put_language(&mut text.extension, content.language.as_deref(), &mut left);
    put_optional(&mut text.extension, content.location.as_deref(), &mut left);
    text
}

/// The body structure of a whole message.
///
/// Parts are in preorder, so one pass with a stack of open containers renders them.
pub(crate) fn body(structure: &Structure, texts: &[PartText], extended: bool) -> Vec<u8> {
    let room = texts.iter().map(|text| text.octets() + 24).sum();
    let mut out = Vec::with_capacity(room);
    let mut open: Vec<usize> = Vec::new();
    let close = |out: &mut Vec<u8>, index: usize| {
        let (Some(part), Some(text)) = (structure.parts.get(index), texts.get(index)) else { return };
        match part.kind {
            PartKind::Multipart => {
                out.push(b' ');
                out.extend_from_slice(&text.head);
            }
            _ => put_number(out, part.lines),
        }
        if extended {
            out.extend_from_slice(&text.extension);
        }
        out.push(b')');
    };
    for (index, (part, text)) in structure.parts.iter().zip(texts).enumerate() {
        while open.last().is_some_and(|last| index > 0 && *last != part.parent as usize) {
            if let Some(last) = open.pop() {
                close(&mut out, last);
            }
        }
        out.push(b'(');
        if part.kind == PartKind::Multipart {
            open.push(index);
            continue;
        }
        out.extend_from_slice(&text.head);
        put_number(&mut out, part.body.end - part.body.start);
        if part.kind == PartKind::Message {
            out.push(b' ');
            if let Some(held) = texts.get(index + 1) {
                out.extend_from_slice(&held.envelope);
            }
            out.push(b' ');
            open.push(index);
            continue;
        }
        if text.is_text && part.kind == PartKind::Single {
            put_number(&mut out, part.lines);
        }
        if extended {
            out.extend_from_slice(&text.extension);
        }
        out.push(b')');
    }
    while let Some(last) = open.pop() {
        close(&mut out, last);
    }
    out
}

/// The envelope of a header, of about `max` octets at most.
pub(crate) fn envelope(header: &[u8], max: usize) -> Vec<u8> {
    const NAMES: [&str; 10] =
        ["Date", "Subject", "From", "Sender", "Reply-To", "To", "Cc", "Bcc", "In-Reply-To", "Message-ID"];
    let mut texts: [Vec<&[u8]>; 10] = Default::default();
    for field in fields(header) {
        if let Some(place) = NAMES.iter().position(|name| field.is(name))
            && let Some(values) = texts.get_mut(place)
        {
            values.push(field.value);
        }
    }
    let [date, subject, from, sender, reply_to, to, cc, bcc, in_reply_to, message_id] = texts;
    let string_max = STRING_OCTETS_MAX.min(max / 16);
    let authors_max = AUTHORS_OCTETS_MAX.min(max / 16);
    let mut out = vec![b'('];
    put_text(&mut out, date.first(), string_max);
    out.push(b' ');
    put_text(&mut out, subject.first(), string_max);
    out.push(b' ');
    let from = address_list(&from, authors_max);
    out.extend_from_slice(&from);
    for values in [&sender, &reply_to] {
        out.push(b' ');
        let list = address_list(values, authors_max);
        out.extend_from_slice(if list == b"NIL" { &from } else { &list });
    }
    for values in [&to, &cc, &bcc] {
        out.push(b' ');
        let left = max.saturating_sub(out.len() + 2 * string_max);
        out.extend_from_slice(&address_list(values, left));
    }
    out.push(b' ');
    put_text(&mut out, in_reply_to.first(), string_max);
    out.push(b' ');
    put_text(&mut out, message_id.first(), string_max);
    out.push(b')');
    out
}

fn put_text(out: &mut Vec<u8>, value: Option<&&[u8]>, max: usize) {
    match value {
        Some(value) => {
            let text = unfold(value);
            put_string(out, text.get(..max).unwrap_or(&text));
        }
        None => out.extend_from_slice(b"NIL"),
    }
}

/// The addresses of all fields of one name, or NIL if there is none. A list that would pass `max` octets is cut
/// between addresses.
fn address_list(values: &[&[u8]], max: usize) -> Vec<u8> {
    let mut out = vec![b'('];
    let mut count = 0;
    'fields: for value in values {
        let addresses = parse_addresses(&unfold(value), ADDRESSES_MAX.saturating_sub(count));
        count += addresses.len();
        let mut in_group = false;
        for address in addresses {
            let before = out.len();
            put_address(&mut out, &address);
            if out.len() > max {
                out.truncate(before);
                if in_group {
                    put_address(&mut out, &Address::GroupEnd);
                }
                break 'fields;
            }
            match address {
                Address::GroupStart(_) => in_group = true,
                Address::GroupEnd => in_group = false,
                Address::Mailbox { .. } => {}
            }
        }
    }
    if out.len() == 1 {
        return b"NIL".to_vec();
    }
    out.push(b')');
    out
}

fn put_address(out: &mut Vec<u8>, address: &Address) {
    match address {
        Address::Mailbox { name, route, mailbox, host } => {
            out.push(b'(');
            for text in [name, route] {
                match text {
                    Some(text) => put_string(out, text),
                    None => out.extend_from_slice(b"NIL"),
                }
                out.push(b' ');
            }
            put_string(out, mailbox);
            out.push(b' ');
            put_string(out, host);
            out.push(b')');
        }
        Address::GroupStart(name) => {
            out.extend_from_slice(b"(NIL NIL ");
            put_string(out, name);
            out.extend_from_slice(b" NIL)");
        }
        Address::GroupEnd => out.extend_from_slice(b"(NIL NIL NIL NIL)"),
    }
}

/// ` (name value ...)` or ` NIL`; parameters that would pass `max` octets are left out.
fn put_parameters(out: &mut Vec<u8>, parameters: &[(Vec<u8>, Vec<u8>)], max: usize) {
    let mut list = vec![b'('];
    // The default is told even when nothing else is.
    let max = max.max(32);
    for (name, value) in join_continuations(parameters) {
        let before = list.len();
        if before > 1 {
            list.push(b' ');
        }
        put_string(&mut list, &name);
        list.push(b' ');
        put_string(&mut list, &value);
        if list.len() > max {
            list.truncate(before);
        }
    }
    out.push(b' ');
    if list.len() == 1 {
        out.extend_from_slice(b"NIL");
    } else {
        out.extend_from_slice(&list);
        out.push(b')');
    }
}

/// ` "text"`, or ` NIL` if there is none or it does not fit in `left`.
fn put_optional(out: &mut Vec<u8>, text: Option<&[u8]>, left: &mut usize) {
    out.push(b' ');
    match text.map(|text| text.get(..STRING_OCTETS_MAX).unwrap_or(text)) {
        Some(text) if text.len() + 20 <= *left => {
            *left -= text.len() + 20;
            put_string(out, text);
        }
        _ => out.extend_from_slice(b"NIL"),
    }
}

fn put_disposition(out: &mut Vec<u8>, text: Option<&[u8]>, left: &mut usize) {
    let WithParameters { value, parameters } = text.map(parse_with_parameters).unwrap_or_default();
    if value.is_empty() || value.len() > 1_000 || value.len() + 100 > *left {
        out.extend_from_slice(b" NIL");
        return;
    }
    let before = out.len();
    out.extend_from_slice(b" (");
    put_string(out, &value);
    put_parameters(out, &parameters, (*left - value.len()).min(PARAMETERS_OCTETS_MAX));
    out.push(b')');
    *left = left.saturating_sub(out.len() - before);
}

fn put_language(out: &mut Vec<u8>, text: Option<&[u8]>, left: &mut usize) {
    let text = text.unwrap_or_default();
    let tags: Vec<&[u8]> = text
        .split(|octet| *octet == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|tag| !tag.is_empty() && tag.len() <= 100)
        .take(LANGUAGES_MAX)
        .collect();
    out.push(b' ');
    match tags.as_slice() {
        tags if text.len() + 20 > *left || tags.is_empty() => out.extend_from_slice(b"NIL"),
        [tag] => put_string(out, tag),
        tags => {
            *left -= text.len() + 20;
            out.push(b'(');
            for (place, tag) in tags.iter().enumerate() {
                if place > 0 {
                    out.push(b' ');
                }
                put_string(out, tag);
            }
            out.push(b')');
        }
    }
}

fn put_number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(format!(" {number}").as_bytes());
}

/// A string as it is sent: quoted if it can be, else a literal (RFC 9051 §4.3). It holds no NUL: unfolding has
/// replaced them.
fn put_string(out: &mut Vec<u8>, text: &[u8]) {
    let is_quotable = text.len() <= QUOTED_OCTETS_MAX
        && text.iter().all(|b| b.is_ascii() && !matches!(b, b'\r' | b'\n' | 0));
    if !is_quotable {
        out.extend_from_slice(format!("{{{}}}\r\n", text.len()).as_bytes());
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for &octet in text {
        if matches!(octet, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(octet);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(octets: &[u8]) -> String {
        String::from_utf8_lossy(octets).into_owned()
    }

    #[test]
    fn the_rfcs_envelope() {
        let header = b"Date: Wed, 17 Jul 1996 02:23:25 -0700 (PDT)\r\nFrom: Terry Gray <gray@cac.example>\r\n\
            Subject: IMAP4rev2 WG mtg summary and minutes\r\nTo: imap@cac.example\r\n\
            cc: minutes@cnri.example, John Klensin <KLENSIN@mit.example>\r\nMessage-Id: <B27397@cac.example>\r\n";
        assert_eq!(
            shown(&envelope(header, 1 << 16)),
            "(\"Wed, 17 Jul 1996 02:23:25 -0700 (PDT)\" \"IMAP4rev2 WG mtg summary and minutes\" \
             ((\"Terry Gray\" NIL \"gray\" \"cac.example\")) ((\"Terry Gray\" NIL \"gray\" \"cac.example\")) \
             ((\"Terry Gray\" NIL \"gray\" \"cac.example\")) ((NIL NIL \"imap\" \"cac.example\")) \
             ((NIL NIL \"minutes\" \"cnri.example\")(\"John Klensin\" NIL \"KLENSIN\" \"mit.example\")) NIL NIL \
             \"<B27397@cac.example>\")"
        );
    }

    #[test]
    fn absent_is_nil_and_empty_is_empty() {
        let nothing = "(NIL NIL NIL NIL NIL NIL NIL NIL NIL NIL)";
        assert_eq!(shown(&envelope(b"", 1 << 16)), nothing);
        assert_eq!(
            shown(&envelope(b"Subject:\r\nFrom: \r\nSender:\r\n", 1 << 16)),
            "(NIL \"\" NIL NIL NIL NIL NIL NIL NIL NIL)"
        );
    }

    #[test]
    fn strings_are_quoted_or_literal() {
        for (text, expected) in [
            (&b""[..], "\"\""),
            (b"a\"b\\c", "\"a\\\"b\\\\c\""),
            ("é".as_bytes(), "{2}\r\né"),
            (b"a\rb", "{3}\r\na\rb"),
        ] {
            let mut out = Vec::new();
            put_string(&mut out, text);
            assert_eq!(shown(&out), expected);
        }
    }

    #[test]
    fn a_long_list_is_cut_between_addresses_and_closes_its_group() {
        let mut header = b"To: g:".to_vec();
        for n in 0..1_000 {
            header.extend_from_slice(format!(" user{n}@example.org,\r\n").as_bytes());
        }
        header.extend_from_slice(b" z@z;\r\n");
        let out = envelope(&header, 4_096);
        assert!(out.len() < 4_300, "{}", out.len());
        assert!(shown(&out).contains("(NIL NIL NIL NIL)) NIL NIL"), "{}", shown(&out));
    }
}
