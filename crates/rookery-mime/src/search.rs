//! SEARCH over the octets of a message (RFC 9051 §6.4.4): encoded text decoded, compared in any case.
//!
//! Invariants:
//! - Text is decoded and compared in chunks; memory does not grow with the message. A match across a cut of
//!   chunks is found.
//! - Offsets of a structure that does not belong to the message lead to no panic, only to no match.

use crate::address::{Address, parse_addresses};
use crate::decode::{TransferDecoder, TransferEncoding};
use crate::header::fields;
use crate::media::MediaType;
use crate::render::ContentFields;
use crate::structure::{Part, PartKind, Structure};
use crate::words::{charset, decode_words};
use encoding_rs::Encoding;
use memchr::memmem::Finder;

/// Octets of a header that are searched, as of one that is scanned for facts.
const HEADER_OCTETS_MAX: usize = 1 << 20;
/// Addresses of one field that are looked at.
const ADDRESSES_MAX: usize = 10_000;
/// Raw octets decoded at a time.
const CHUNK_OCTETS: usize = 32 << 10;

/// A text to be searched for, case folded once.
#[derive(Clone, Debug)]
pub struct Needle {
    finder: Finder<'static>,
}

impl Needle {
    /// Folds the case of `text`.
    pub fn new(text: &str) -> Needle {
        let mut folded = String::with_capacity(text.len());
        fold(text, &mut folded);
        Needle { finder: Finder::new(folded.as_bytes()).into_owned() }
    }

    /// Whether it is the empty string, which is in every text.
    pub fn is_empty(&self) -> bool {
        self.finder.needle().is_empty()
    }

    /// Whether `haystack` holds it, in any case.
    pub fn contains(&self, haystack: &str) -> bool {
        let mut folded = String::with_capacity(haystack.len());
        fold(haystack, &mut folded);
        self.finder.find(folded.as_bytes()).is_some()
    }
}

/// Appends `text` in folded case: upper, then lower, so that letters with two lower forms (s and ſ, σ and ς)
/// and ones that grow (ß) meet.
fn fold(text: &str, out: &mut String) {
    if text.is_ascii() {
        let from = out.len();
        out.push_str(text);
        if let Some(added) = out.get_mut(from..) {
            added.make_ascii_lowercase();
        }
        return;
    }
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c.to_ascii_lowercase());
        } else {
            out.extend(c.to_uppercase().flat_map(char::to_lowercase));
        }
    }
}

/// Where to search (RFC 9051 §6.4.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SearchScope<'a> {
    /// TEXT: the header and the body.
    Text,
    /// BODY: the text parts, with the headers of parts and of held messages.
    Body,
    /// HEADER and SUBJECT: fields of the message's own header. An empty needle asks whether there is such a
    /// field.
    Header(&'a str),
    /// FROM, TO, CC and BCC: the same, and besides the text of the field its addresses as ENVELOPE has them,
    /// without comments, quotes and spaces.
    Addresses(&'a str),
}

/// Whether a message holds the needle. `message` is all its octets and `structure` what was scanned of them.
pub fn search_text(message: &[u8], structure: &Structure, needle: &Needle, scope: SearchScope<'_>) -> bool {
    let parts = structure.parts.as_slice();
    let root_header = parts.first().map(|root| header_of(message, root)).unwrap_or_default();
    match scope {
        SearchScope::Header(name) => fields(root_header)
            .filter(|field| field.is(name))
            .any(|field| needle.is_empty() || needle.contains(&decode_words(&field.text()))),
        SearchScope::Addresses(name) => fields(root_header).filter(|field| field.is(name)).any(|field| {
            let text = field.text();
            needle.is_empty() || needle.contains(&decode_words(&text)) || names_address(&text, needle)
        }),
        SearchScope::Text => {
            needle.is_empty() || header_matches(root_header, needle) || in_body(message, parts, needle)
        }
        SearchScope::Body => needle.is_empty() || in_body(message, parts, needle),
    }
}

/// Whether one of the addresses of a field, in its shortest form, holds the needle.
fn names_address(text: &[u8], needle: &Needle) -> bool {
    parse_addresses(text, ADDRESSES_MAX).into_iter().any(|address| match address {
        Address::Mailbox { name, mailbox, host, .. } => {
            let name = name.map(|name| decode_words(&name)).unwrap_or_default();
            let mailbox = String::from_utf8_lossy(&mailbox);
            needle.contains(&format!("{name} <{mailbox}@{}>", String::from_utf8_lossy(&host)))
        }
        Address::GroupStart(_) | Address::GroupEnd => false,
    })
}

fn in_body(message: &[u8], parts: &[Part], needle: &Needle) -> bool {
    parts.iter().enumerate().any(|(index, part)| {
        let header = header_of(message, part);
        index > 0 && header_matches(header, needle) || body_matches(message, part, header, needle)
    })
}

/// Any field, its name too: `Subject: x` is text a client may search for.
fn header_matches(header: &[u8], needle: &Needle) -> bool {
    fields(header).any(|field| {
        let name = String::from_utf8_lossy(field.name);
        needle.contains(&format!("{name}: {}", decode_words(&field.text())))
    })
}

fn body_matches(message: &[u8], part: &Part, header: &[u8], needle: &Needle) -> bool {
    if part.kind != PartKind::Single {
        return false;
    }
    let mut folded = String::new();
    let mut found = false;
    for_each_text(message, part, header, |text| {
        let room = needle.finder.needle().len().saturating_sub(1);
        // What may be the beginning of a match stays in front.
        let mut keep = folded.len().saturating_sub(room);
        while !folded.is_char_boundary(keep) {
            keep -= 1;
        }
        folded.drain(..keep);
        fold(text, &mut folded);
        found = needle.finder.find(folded.as_bytes()).is_some();
        !found
    });
    found
}

/// Feeds the decoded text of a text part, in pieces, until `take` says false. Other parts have none.
pub(crate) fn for_each_text(message: &[u8], part: &Part, header: &[u8], mut take: impl FnMut(&str) -> bool) {
    let content = ContentFields::read(header);
    let media = content.media(false);
    if !media.is_text() || part.kind != PartKind::Single {
        return;
    }
    let mut transfer = TransferDecoder::new(TransferEncoding::from_token(&content.encoding()));
    let mut decoder = charset_of(&media).new_decoder_with_bom_removal();
    let mut octets = Vec::with_capacity(CHUNK_OCTETS + 4);
    let mut text = String::new();
    let body = slice(message, &part.body);
    let chunks = body.len().div_ceil(CHUNK_OCTETS).max(1);
    for (index, chunk) in body.chunks(CHUNK_OCTETS).enumerate() {
        octets.clear();
        transfer.push(chunk, &mut octets);
        let is_last = index + 1 == chunks;
        if is_last {
            transfer.finish(&mut octets);
        }
        text.clear();
        text.reserve(decoder.max_utf8_buffer_length(octets.len()).unwrap_or(octets.len() * 3 + 16));
        let _ = decoder.decode_to_string(&octets, &mut text, is_last);
        if !text.is_empty() && !take(&text) {
            return;
        }
    }
}

fn charset_of(media: &MediaType) -> &'static Encoding {
    charset(media.parameter("charset").unwrap_or_default())
}

pub(crate) fn header_of<'a>(message: &'a [u8], part: &Part) -> &'a [u8] {
    let header = slice(message, &part.header);
    header.get(..HEADER_OCTETS_MAX).unwrap_or(header)
}

fn slice<'a>(message: &'a [u8], range: &std::ops::Range<u64>) -> &'a [u8] {
    match (usize::try_from(range.start), usize::try_from(range.end)) {
        (Ok(start), Ok(end)) => message.get(start..end).unwrap_or_default(),
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, Scanner};

    fn found(message: &[u8], needle: &str, scope: SearchScope<'_>) -> bool {
        let mut scanner = Scanner::new(Limits::default());
        scanner.push(message);
        search_text(message, scanner.finish().structure(), &Needle::new(needle), scope)
    }

    #[test]
    fn needles_ignore_case() {
        for (needle, haystack) in
            [("HELLO", "oh hello"), ("straße", "STRASSE"), ("ΣΊΣΥΦΟΣ", "σίσυφος"), ("", ""), ("é", "CAFÉ")]
        {
            assert!(Needle::new(needle).contains(haystack), "{needle}");
        }
        assert!(!Needle::new("e").contains("é"));
    }

    #[test]
    fn scopes() {
        let message = b"Subject: =?utf-8?q?Caf=C3=A9_au_lait?=\r\nX-Empty:\r\n\
            Content-Type: multipart/mixed; boundary=b\r\n\r\n\
            --b\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\
            \r\ncr=E8me br=FBl=\r\n=E9e\r\n--b\r\nContent-Type: text/html; charset=koi8-r\r\n\
            Content-Transfer-Encoding: base64\r\n\r\n8NLJ\r\n18XU\r\n--b\r\nContent-Type: image/png; name=dessert.png\r\n\
            \r\nsecret\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inside\r\n\r\nheld text\r\n--b--\r\n";
        use SearchScope::{Body, Header, Text};
        for (needle, scope, expected) in [
            ("CAFÉ", Text, true),
            ("CAFÉ", Body, false),
            ("café AU", Header("subject"), true),
            ("café", Header("from"), false),
            ("", Header("x-empty"), true),
            ("", Header("x-none"), false),
            ("", Body, true),
            ("crème brûlée", Body, true),
            ("ПРИВЕТ", Body, true),
            ("secret", Text, false),
            ("dessert.PNG", Body, true),
            ("inside", Body, true),
            ("inside", Header("subject"), false),
            ("Held Text", Text, true),
        ] {
            assert_eq!(found(message, needle, scope), expected, "{needle} {scope:?}");
        }
    }

    #[test]
    fn an_address_is_found_as_written_and_in_its_shortest_form() {
        let message = b"From: \"B (really)\" <joe (a comment)@ (another) example.org>\r\nTo: a@b.test (Ann)\r\n\r\nx\r\n";
        use SearchScope::Addresses;
        for (needle, name, expected) in [
            ("joe@example.org", "From", true),
            ("JOE (a comment)", "From", true),
            ("b (really) <joe@", "From", true),
            ("joe@example.com", "From", false),
            ("Ann <a@b.test>", "To", true),
            ("a@b.test (ann)", "To", true),
            ("joe@example.org", "Cc", false),
            ("", "Cc", false),
            ("", "To", true),
        ] {
            assert_eq!(found(message, needle, Addresses(name)), expected, "{needle} {name}");
        }
    }

    #[test]
    fn a_match_across_chunks_is_found() {
        for shift in 0..12 {
            let mut message = b"Content-Type: text/plain; charset=utf-8\r\n\r\n".to_vec();
            message.extend(std::iter::repeat_n(b'.', CHUNK_OCTETS - shift));
            message.extend_from_slice("Größe!".as_bytes());
            assert!(found(&message, "GRÖSSE", SearchScope::Body), "{shift}");
        }
    }
}
