//! SEARCH over the octets of a message (RFC 9051 §6.4.4): encoded text decoded, compared in any case.
//!
//! Invariants:
//! - Text is decoded and compared in chunks; memory does not grow with the message. A match across a cut of
//!   chunks is found.
//! - Offsets of a structure that does not belong to the message lead to no panic, only to no match.

use crate::address::{Address, parse_addresses};
use crate::decode::{TransferDecoder, TransferEncoding};
use crate::header::{fields, unfold_into};
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
        let mut folded = Folded::default();
        folded.push(text);
        Needle { finder: Finder::new(&folded.0).into_owned() }
    }

    /// Whether it is the empty string, which is in every text.
    pub fn is_empty(&self) -> bool {
        self.finder.needle().is_empty()
    }

    /// Whether `haystack` holds it, in any case.
    pub fn contains(&self, haystack: &str) -> bool {
        let mut folded = Folded(Vec::with_capacity(haystack.len()));
        folded.push(haystack);
        self.is_in(&folded)
    }

    /// Whether a field that [`searchable`] has made ready holds it.
    pub fn is_in_field(&self, folded: &[u8]) -> bool {
        memchr::memchr(b'\n', self.finder.needle()).is_none() && self.finder.find(folded).is_some()
    }

    fn is_in(&self, folded: &Folded) -> bool {
        self.finder.find(&folded.0).is_some()
    }
}

/// Memory that searching needs again and again: one for all messages of a search.
#[derive(Default, Debug)]
pub struct SearchBuffers {
    octets: Vec<u8>,
    text: String,
    folded: Folded,
}

/// Text in folded case: upper, then lower, so that letters with two lower forms (s and ſ, σ and ς) and ones that grow
/// (ß) meet.
#[derive(Default, Debug)]
struct Folded(Vec<u8>);

impl Folded {
    /// Appends `text`.
    fn push(&mut self, text: &str) {
        let mut octets = [0; 4];
        let mut rest = text;
        while !rest.is_empty() {
            let end = Encoding::ascii_valid_up_to(rest.as_bytes());
            let (ascii, other) = rest.split_at(end);
            self.push_ascii(ascii.as_bytes());
            let end = other.bytes().position(|octet| octet.is_ascii()).unwrap_or(other.len());
            let (other, after) = other.split_at(end);
            for c in other.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase) {
                self.0.extend_from_slice(c.encode_utf8(&mut octets).as_bytes());
            }
            rest = after;
        }
    }

    /// Appends ASCII.
    fn push_ascii(&mut self, text: &[u8]) {
        let from = self.0.len();
        self.0.extend_from_slice(text);
        if let Some(added) = self.0.get_mut(from..) {
            added.make_ascii_lowercase();
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
    search_text_with(&mut SearchBuffers::default(), message, structure, needle, scope)
}

/// The same, for many messages.
pub fn search_text_with(
    buffers: &mut SearchBuffers,
    message: &[u8],
    structure: &Structure,
    needle: &Needle,
    scope: SearchScope<'_>,
) -> bool {
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
            needle.is_empty()
                || header_matches(buffers, root_header, needle)
                || in_body(buffers, message, parts, needle)
        }
        SearchScope::Body => needle.is_empty() || in_body(buffers, message, parts, needle),
    }
}

/// Whether one of the addresses of a field, in its shortest form, holds the needle.
fn names_address(text: &[u8], needle: &Needle) -> bool {
    short_addresses(text).any(|address| needle.contains(&address))
}

/// The addresses of a field, each in its shortest form.
fn short_addresses(text: &[u8]) -> impl Iterator<Item = String> {
    parse_addresses(text, ADDRESSES_MAX).into_iter().filter_map(|address| match address {
        Address::Mailbox { name, mailbox, host, .. } => {
            let name = name.map(|name| decode_words(&name)).unwrap_or_default();
            let mailbox = String::from_utf8_lossy(&mailbox);
            Some(format!("{name} <{mailbox}@{}>", String::from_utf8_lossy(&host)))
        }
        Address::GroupStart(_) | Address::GroupEnd => None,
    })
}

/// A header field that [`searchable`] makes ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SearchableField<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether its addresses are searched as well, as with [`SearchScope::Addresses`].
    pub addresses: bool,
}

/// Fields of the header that a message begins with, decoded and folded once, so that [`Needle::is_in_field`] answers for
/// them what [`search_text`] would. `None`: there is no such field.
pub fn searchable<const N: usize>(message: &[u8], wanted: [SearchableField<'_>; N]) -> [Option<Vec<u8>>; N] {
    let mut found = [const { None }; N];
    for field in fields(message) {
        for (one, slot) in wanted.iter().zip(&mut found) {
            if !field.is(one.name) {
                continue;
            }
            let text = field.text();
            let Folded(octets) = slot.get_or_insert_default();
            let mut add = |text: &str| {
                let mut folded = Folded::default();
                folded.push(text);
                // What stands there already need not stand there again.
                if memchr::memmem::find(octets, &folded.0).is_none() {
                    octets.extend_from_slice(&folded.0);
                    octets.push(b'\n');
                }
            };
            add(&decode_words(&text));
            if one.addresses {
                short_addresses(&text).for_each(|address| add(&address));
            }
        }
    }
    found.map(|folded: Option<Folded>| folded.map(|Folded(octets)| octets))
}

fn in_body(buffers: &mut SearchBuffers, message: &[u8], parts: &[Part], needle: &Needle) -> bool {
    parts.iter().enumerate().any(|(index, part)| {
        let header = header_of(message, part);
        index > 0 && header_matches(buffers, header, needle)
            || body_matches(buffers, message, part, header, needle)
    })
}

/// Any field, its name too: `Subject: x` is text a client may search for.
fn header_matches(buffers: &mut SearchBuffers, header: &[u8], needle: &Needle) -> bool {
    let is_plain = header.is_ascii() && memchr::memmem::find(header, b"=?").is_none();
    if !is_plain || memchr::memchr(b'\n', needle.finder.needle()).is_some() {
        return fields(header).any(|field| {
            let name = String::from_utf8_lossy(field.name);
            needle.contains(&format!("{name}: {}", decode_words(&field.text())))
        });
    }
    // Nothing is encoded: all fields are looked through at once, with a line end between them that no needle has.
    let folded = &mut buffers.folded.0;
    folded.clear();
    for field in fields(header) {
        folded.extend_from_slice(field.name);
        folded.extend_from_slice(b": ");
        unfold_into(field.value, folded);
        folded.push(b'\n');
    }
    folded.make_ascii_lowercase();
    needle.is_in(&buffers.folded)
}

fn body_matches(
    buffers: &mut SearchBuffers,
    message: &[u8],
    part: &Part,
    header: &[u8],
    needle: &Needle,
) -> bool {
    let Some(text) = TextPart::new(message, part, header) else { return false };
    let SearchBuffers { octets, text: decoded, folded } = buffers;
    folded.0.clear();
    let room = needle.finder.needle().len().saturating_sub(1);
    // What may be the beginning of a match stays in front.
    let make_room = |folded: &mut Folded| {
        let keep = folded.0.len().saturating_sub(room);
        folded.0.drain(..keep);
    };
    if text.is_plain_ascii() {
        return text.body.chunks(CHUNK_OCTETS).any(|chunk| {
            make_room(folded);
            folded.push_ascii(chunk);
            needle.is_in(folded)
        });
    }
    let mut found = false;
    text.decode(octets, decoded, |text| {
        make_room(folded);
        folded.push(text);
        found = needle.is_in(folded);
        !found
    });
    found
}

/// Feeds the decoded text of a text part, in pieces, until `take` says false. Other parts have none.
pub(crate) fn for_each_text(message: &[u8], part: &Part, header: &[u8], take: impl FnMut(&str) -> bool) {
    if let Some(text) = TextPart::new(message, part, header) {
        text.decode(&mut Vec::new(), &mut String::new(), take);
    }
}

/// A part that is text, and how to read it.
struct TextPart<'a> {
    transfer: TransferEncoding,
    charset: &'static Encoding,
    body: &'a [u8],
}

impl<'a> TextPart<'a> {
    fn new(message: &'a [u8], part: &Part, header: &[u8]) -> Option<TextPart<'a>> {
        if part.kind != PartKind::Single {
            return None;
        }
        let content = ContentFields::read(header);
        let media = content.media(false);
        if !media.is_text() {
            return None;
        }
        let transfer = TransferEncoding::from_token(&content.encoding());
        Some(TextPart { transfer, charset: charset_of(&media), body: slice(message, &part.body) })
    }

    /// Whether its octets are its text: nothing is encoded, and all of it is ASCII in a charset that holds ASCII.
    fn is_plain_ascii(&self) -> bool {
        self.transfer == TransferEncoding::Identity
            && self.charset.is_ascii_compatible()
            && self.body.is_ascii()
    }

    fn decode(&self, octets: &mut Vec<u8>, text: &mut String, mut take: impl FnMut(&str) -> bool) {
        let mut transfer = TransferDecoder::new(self.transfer);
        let mut decoder = self.charset.new_decoder_with_bom_removal();
        let chunks = self.body.len().div_ceil(CHUNK_OCTETS).max(1);
        for (index, chunk) in self.body.chunks(CHUNK_OCTETS).enumerate() {
            octets.clear();
            transfer.push(chunk, octets);
            let is_last = index + 1 == chunks;
            if is_last {
                transfer.finish(octets);
            }
            text.clear();
            text.reserve(decoder.max_utf8_buffer_length(octets.len()).unwrap_or(octets.len() * 3 + 16));
            let _ = decoder.decode_to_string(octets, text, is_last);
            if !text.is_empty() && !take(text) {
                return;
            }
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
    use proptest::prelude::*;

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
            let ascii: Vec<u8> = message.iter().copied().filter(u8::is_ascii).chain(*b" needle").collect();
            assert!(found(&ascii, "! NEEDLE", SearchScope::Body), "{shift}");
        }
    }

    #[test]
    fn a_header_is_searched_field_by_field_whether_plain_or_not() {
        for tail in ["", "X: caf\u{e9}\r\n", "X: =?utf-8?q?a?=\r\n"] {
            let message = format!("Subject:  one\r\n\ttwo\r\nFrom: three \r\n{tail}\r\nbody\r\n");
            for (needle, expected) in [
                ("subject: ONE\ttwo", true),
                ("subject: one", true),
                ("two\nfrom", false),
                ("twofrom", false),
                ("three x", false),
            ] {
                assert_eq!(found(message.as_bytes(), needle, SearchScope::Text), expected, "{needle} {tail}");
            }
        }
    }

    proptest! {
        #[test]
        fn a_field_made_ready_answers_as_its_message_does(
            lines in prop::collection::vec("(Subject|From|to|X): [ab<>@,.\"(): é=?\t]{0,12}|[ab]{0,3}| folded b", 0..6),
            needle in "[abAB@<> é.]{0,3}",
        ) {
            let message = format!("{}\r\n\r\nSubject: body\r\n", lines.join("\r\n"));
            let mut scanner = Scanner::new(Limits::default());
            scanner.push(message.as_bytes());
            let scanned = scanner.finish();
            let needle = Needle::new(&needle);
            let field = |name, addresses| SearchableField { name, addresses };
            let ready = searchable(message.as_bytes(), [field("Subject", false), field("From", true), field("To", true)]);
            let scopes = [
                SearchScope::Header("Subject"),
                SearchScope::Addresses("From"),
                SearchScope::Addresses("To"),
            ];
            for (ready, scope) in ready.into_iter().zip(scopes) {
                let quick = ready.is_some_and(|field| needle.is_in_field(&field));
                let slow = search_text(message.as_bytes(), scanned.structure(), &needle, scope);
                prop_assert_eq!(quick, slow, "{:?} {:?} {:?}", message, scope, needle);
            }
        }
    }
}
