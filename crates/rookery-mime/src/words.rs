//! Header text as people read it: encoded words (RFC 2047) and charsets.
//!
//! Invariants:
//! - Decoding never fails: what is no encoded word stays, octets that fit no charset become U+FFFD.
//! - Adjacent encoded words of one charset are decoded together, as mailers cut characters between them.

use crate::decode::{TransferDecoder, TransferEncoding};
use encoding_rs::{Encoding, UTF_8};

/// The encoding for a charset name. Unknown ones, US-ASCII and UTF-7 are read as UTF-8: for ASCII it is the
/// same, and for raw 8-bit text it is the best guess.
pub(crate) fn charset(name: &[u8]) -> &'static Encoding {
    let name = name.trim_ascii();
    let ascii = [&b"us-ascii"[..], b"ascii", b"ansi_x3.4-1968", b"utf-7", b"unicode-1-1-utf-7"];
    if ascii.iter().any(|ascii| name.eq_ignore_ascii_case(ascii)) {
        return UTF_8;
    }
    match Encoding::for_label_no_replacement(name) {
        Some(encoding) => encoding,
        // Windows code pages go by short names in mail (cp1256).
        None => match name.split_at_checked(2) {
            Some((cp, number)) if cp.eq_ignore_ascii_case(b"cp") => {
                Encoding::for_label_no_replacement(&[b"windows-", number].concat()).unwrap_or(UTF_8)
            }
            _ => UTF_8,
        },
    }
}

/// Header octets that are not in encoded words: UTF-8 (RFC 6532), or else the Latin script's Windows code page.
fn raw_text(octets: &[u8]) -> String {
    match std::str::from_utf8(octets) {
        Ok(text) => text.to_owned(),
        Err(_) => encoding_rs::WINDOWS_1252.decode_without_bom_handling(octets).0.into_owned(),
    }
}

/// An unfolded header value with its encoded words decoded (RFC 2047 §6.2).
pub fn decode_words(value: &[u8]) -> String {
    let mut out = String::with_capacity(value.len());
    // Decoded octets of encoded words that may go on in the next one.
    let mut pending: Option<(&'static Encoding, Vec<u8>)> = None;
    let mut rest = value;
    while let Some(at) = memchr::memmem::find(rest, b"=?") {
        let (before, from) = rest.split_at(at);
        let Some(word) = EncodedWord::read(from) else {
            flush(&mut pending, &mut out);
            out.push_str(&raw_text(before));
            out.push_str("=?");
            rest = from.get(2..).unwrap_or_default();
            continue;
        };
        // White space between encoded words is not shown.
        let is_adjacent = pending.is_some() && before.iter().all(u8::is_ascii_whitespace);
        if !is_adjacent {
            flush(&mut pending, &mut out);
            out.push_str(&raw_text(before));
        }
        if pending.as_ref().is_some_and(|(encoding, _)| *encoding != word.charset) {
            flush(&mut pending, &mut out);
        }
        pending.get_or_insert_with(|| (word.charset, Vec::new())).1.extend_from_slice(&word.text);
        rest = from.get(word.octets..).unwrap_or_default();
    }
    flush(&mut pending, &mut out);
    out.push_str(&raw_text(rest));
    out
}

fn flush(pending: &mut Option<(&'static Encoding, Vec<u8>)>, out: &mut String) {
    if let Some((encoding, octets)) = pending.take() {
        let text = encoding.decode_without_bom_handling(&octets).0;
        // A decoded line end must not look like structure.
        out.extend(text.chars().map(|c| if matches!(c, '\r' | '\n' | '\0') { ' ' } else { c }));
    }
}

struct EncodedWord {
    charset: &'static Encoding,
    text: Vec<u8>,
    /// Octets of the whole word.
    octets: usize,
}

impl EncodedWord {
    /// `=?charset[*language]?B|Q?text?=` at the start of `from`.
    fn read(from: &[u8]) -> Option<EncodedWord> {
        let inner = from.strip_prefix(b"=?")?;
        let name_end = memchr::memchr(b'?', inner.get(..inner.len().min(100))?)?;
        let (name, rest) = inner.split_at(name_end);
        let name = name.split(|octet| *octet == b'*').next()?;
        if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
            return None;
        }
        let [b'?', kind, b'?', rest @ ..] = rest else { return None };
        let encoding = match kind {
            b'b' | b'B' => TransferEncoding::Base64,
            b'q' | b'Q' => TransferEncoding::QuotedPrintable,
            _ => return None,
        };
        // `?` may not stand in encoded text, so the first one ends it. Spaces may not either, but do.
        let end = memchr::memchr(b'?', rest)?;
        let encoded = rest.get(..end)?;
        if rest.get(end + 1) != Some(&b'=') {
            return None;
        }
        let mut text = Vec::with_capacity(encoded.len());
        let mut decoder = TransferDecoder::new(encoding);
        match encoding {
            TransferEncoding::QuotedPrintable => {
                let spaced: Vec<u8> = encoded.iter().map(|b| if *b == b'_' { b' ' } else { *b }).collect();
                decoder.push(&spaced, &mut text);
            }
            _ => decoder.push(encoded, &mut text),
        }
        decoder.finish(&mut text);
        Some(EncodedWord { charset: charset(name), text, octets: from.len() - rest.len() + end + 2 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_words() {
        for (text, expected) in [
            ("plain", "plain"),
            ("=?ISO-8859-1?Q?a?=", "a"),
            ("=?ISO-8859-1?Q?a?= b", "a b"),
            ("=?ISO-8859-1?Q?a?= =?ISO-8859-1?Q?b?=", "ab"),
            ("=?ISO-8859-1?Q?a_b?=", "a b"),
            ("=?ISO-8859-1?Q?a?= =?ISO-8859-2?Q?_b?=", "a b"),
            ("x =?utf-8?b?w6k=?= y", "x é y"),
            ("=?utf-8?B?w6?= =?utf-8?q?=A9?=", "é"),
            ("=?utf-8*en?q?=C3?= =?utf-8?q?=A9?=", "é"),
            ("=?iso-8859-1?q?caf=E9?=", "café"),
            ("=?koi8-r?B?8NLJ18XU?=", "Привет"),
            ("=?no-such?q?caf=C3=A9?=", "café"),
            ("=?utf-8?x?abc?=", "=?utf-8?x?abc?="),
            ("=?utf-8?q?never ends", "=?utf-8?q?never ends"),
            ("=?=?utf-8?q?a?=", "=?a"),
            ("=?utf-8?q?a=0D=0Ab?=", "a  b"),
        ] {
            assert_eq!(decode_words(text.as_bytes()), expected, "{text}");
        }
        assert_eq!(decode_words(b"caf\xe9"), "café");
    }
}
