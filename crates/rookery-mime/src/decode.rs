//! Transfer encodings undone in pieces (RFC 2045 §6), tolerant of what mail really holds.
//!
//! Invariant: any cut of the input into pieces gives the same output, and a piece of n octets gives at most
//! n + [`HELD_OCTETS_MAX`] + 4 octets.

use crate::render::ContentFields;

/// How a body is encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TransferEncoding {
    /// 7bit, 8bit, binary, and what is unknown.
    Identity,
    /// `base64`
    Base64,
    /// `quoted-printable`
    QuotedPrintable,
}

impl TransferEncoding {
    /// From a Content-Transfer-Encoding in upper case.
    pub(crate) fn from_token(token: &[u8]) -> TransferEncoding {
        TransferEncoding::known(token).unwrap_or(TransferEncoding::Identity)
    }

    /// That of a part with this header (RFC 2045 §6); without a field it is 7bit. `None` if it has a name that
    /// nobody knows, so that it cannot be undone.
    pub fn of_header(header: &[u8]) -> Option<TransferEncoding> {
        TransferEncoding::known(&ContentFields::read(header).encoding())
    }

    fn known(token: &[u8]) -> Option<TransferEncoding> {
        match token {
            b"BASE64" => Some(TransferEncoding::Base64),
            b"QUOTED-PRINTABLE" => Some(TransferEncoding::QuotedPrintable),
            b"" | b"7BIT" | b"8BIT" | b"BINARY" => Some(TransferEncoding::Identity),
            _ => None,
        }
    }
}

/// Undoes one transfer encoding.
#[derive(Debug)]
pub struct TransferDecoder {
    encoding: TransferEncoding,
    /// Base64: bits not yet given out, and how many sextets they hold.
    bits: u32,
    sextets: u8,
    /// Quoted-printable: what follows an `=`, while it may still become an octet or a soft line break.
    escape: Vec<u8>,
    /// Quoted-printable: white space, and perhaps a CR, that goes if the line ends here.
    pad: Vec<u8>,
    /// Quoted-printable: the white space that comes next belongs to a run that was too long to be kept.
    long_pad: bool,
}

/// Octets that are kept to see if a line ends after them: white space, after an `=` or not. Lines of quoted-printable
/// are shorter (RFC 2045 §6.7).
const HELD_OCTETS_MAX: usize = 80;

impl TransferDecoder {
    /// At the start of a body.
    pub fn new(encoding: TransferEncoding) -> TransferDecoder {
        TransferDecoder {
            encoding,
            bits: 0,
            sextets: 0,
            escape: Vec::new(),
            pad: Vec::new(),
            long_pad: false,
        }
    }

    /// Decodes the next piece and appends it.
    pub fn push(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        match self.encoding {
            TransferEncoding::Identity => out.extend_from_slice(piece),
            TransferEncoding::Base64 => self.base64(piece, out),
            TransferEncoding::QuotedPrintable => self.quoted_printable(piece, out),
        }
    }

    /// Appends what only the end makes certain.
    pub fn finish(&mut self, out: &mut Vec<u8>) {
        self.end_group(out);
        out.append(&mut self.escape);
        if self.pad.ends_with(b"\r") {
            out.push(b'\r');
        }
        self.pad.clear();
    }

    /// Octets outside the alphabet are skipped (RFC 2045 §6.8); padding ends a group, and another may follow.
    fn base64(&mut self, mut piece: &[u8], out: &mut Vec<u8>) {
        loop {
            // Groups that lie together, as nearly all do: many at once, then each.
            while let Some((block, after)) = piece.split_first_chunk::<BLOCK>().filter(|_| self.sextets == 0)
            {
                let Some(octets) = whole_groups(block) else { break };
                out.extend_from_slice(&octets);
                piece = after;
            }
            while let Some((group, after)) = piece.split_first_chunk::<4>().filter(|_| self.sextets == 0) {
                let [a, b, c, d] = group.map(sextet);
                if (a | b | c | d) > 63 {
                    break;
                }
                let bits = u32::from(a) << 18 | u32::from(b) << 12 | u32::from(c) << 6 | u32::from(d);
                let [_, one, two, three] = bits.to_be_bytes();
                out.extend_from_slice(&[one, two, three]);
                piece = after;
            }
            let Some((&octet, after)) = piece.split_first() else { return };
            piece = after;
            let sextet = match sextet(octet) {
                PADDING => {
                    self.end_group(out);
                    continue;
                }
                NO_SEXTET => continue,
                sextet => sextet,
            };
            self.bits = self.bits << 6 | u32::from(sextet);
            self.sextets += 1;
            if self.sextets == 4 {
                let [_, a, b, c] = self.bits.to_be_bytes();
                out.extend_from_slice(&[a, b, c]);
                self.bits = 0;
                self.sextets = 0;
            }
        }
    }

    fn end_group(&mut self, out: &mut Vec<u8>) {
        match self.sextets {
            2 => out.push((self.bits >> 4) as u8),
            3 => {
                let [_, _, a, b] = (self.bits >> 2).to_be_bytes();
                out.extend_from_slice(&[a, b]);
            }
            _ => {}
        }
        self.bits = 0;
        self.sextets = 0;
    }

    fn quoted_printable(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let mut rest = piece;
        while !rest.is_empty() {
            if self.escape.is_empty()
                && let [b'=', high, low, after @ ..] = rest
                && high.is_ascii_hexdigit()
                && low.is_ascii_hexdigit()
            {
                // White space before it is not at the line's end.
                out.append(&mut self.pad);
                self.long_pad = false;
                out.push(hex(*high) << 4 | hex(*low));
                rest = after;
                continue;
            }
            if self.escape.is_empty() {
                let at = memchr::memchr(b'=', rest).unwrap_or(rest.len());
                let (plain, from) = rest.split_at(at);
                self.unescaped(plain, out);
                rest = from;
                if !rest.is_empty() {
                    // White space before an `=` is not at the line's end.
                    out.append(&mut self.pad);
                    self.long_pad = false;
                }
            }
            if let Some((octet, after)) = rest.split_first() {
                self.escaped(*octet, out);
                rest = after;
            }
        }
    }

    /// Takes text without `=`. White space at a line's end was added on the way, and goes (RFC 2045 §6.7 (3)).
    fn unescaped(&mut self, mut text: &[u8], out: &mut Vec<u8>) {
        while let Some((&octet, after)) = text.split_first().filter(|_| self.long_pad || !self.pad.is_empty())
        {
            match (octet, self.pad.last()) {
                (b' ' | b'\t', _) if self.long_pad => out.push(octet),
                (_, None) => {
                    self.long_pad = false;
                    continue;
                }
                (b' ' | b'\t', Some(last)) if *last != b'\r' => {
                    self.pad.push(octet);
                    if self.pad.len() > HELD_OCTETS_MAX {
                        out.append(&mut self.pad);
                        self.long_pad = true;
                    }
                }
                (b'\r', Some(last)) if *last != b'\r' => self.pad.push(octet),
                (b'\n', Some(last)) => {
                    if *last == b'\r' {
                        out.push(b'\r');
                    }
                    self.pad.clear();
                    continue;
                }
                _ => {
                    out.append(&mut self.pad);
                    continue;
                }
            }
            text = after;
        }
        while let Some(end) = memchr::memchr(b'\n', text) {
            let (line, after) = text.split_at(end);
            match line.strip_suffix(b"\r") {
                Some(line) => {
                    out.extend_from_slice(without_pad(line));
                    out.extend_from_slice(b"\r\n");
                }
                None => {
                    out.extend_from_slice(without_pad(line));
                    out.push(b'\n');
                }
            }
            text = after.split_first().map_or(after, |(_, after)| after);
        }
        if text.is_empty() {
            return;
        }
        let kept = without_pad(text.strip_suffix(b"\r").unwrap_or(text));
        out.extend_from_slice(kept);
        self.pad.extend(text.iter().skip(kept.len()));
        self.long_pad = self.pad.is_empty() && matches!(kept.last(), Some(b' ' | b'\t'));
    }

    /// Takes one octet from the `=` on.
    fn escaped(&mut self, octet: u8, out: &mut Vec<u8>) {
        match (self.escape.as_slice(), octet) {
            ([], _) => self.escape.push(octet),
            // A soft line break, white space before it and all.
            (_, b'\n') if !matches!(self.escape.get(1), Some(b) if b.is_ascii_hexdigit()) => {
                self.escape.clear()
            }
            ([_], b' ' | b'\t' | b'\r') => self.escape.push(octet),
            ([_, b' ' | b'\t' | b'\r', ..], b' ' | b'\t' | b'\r') if self.escape.len() < HELD_OCTETS_MAX => {
                self.escape.push(octet);
            }
            ([_], _) if octet.is_ascii_hexdigit() => self.escape.push(octet),
            ([_, high], _) if high.is_ascii_hexdigit() && octet.is_ascii_hexdigit() => {
                out.push(hex(*high) << 4 | hex(octet));
                self.escape.clear();
            }
            _ => {
                // No escape after all: it stands for itself, and this octet may begin another.
                out.append(&mut self.escape);
                if octet == b'=' { self.escape.push(octet) } else { out.push(octet) }
            }
        }
    }
}

/// What [`sextet`] says of `=`.
const PADDING: u8 = 64;
/// What it says of what is not in the alphabet.
const NO_SEXTET: u8 = 128;

/// The six bits of each octet of the alphabet (RFC 2045 §6.8).
const SEXTETS: [u8; 256] = {
    let mut sextets = [NO_SEXTET; 256];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut at = 0;
    while at < alphabet.len() {
        sextets[alphabet[at] as usize] = at as u8;
        at += 1;
    }
    sextets[b'=' as usize] = PADDING;
    sextets
};

/// Octets of base64 that are decoded at once: a line of 76 has two of these.
const BLOCK: usize = 32;

/// What octets of the alphabet alone stand for; none if there are others.
fn whole_groups(block: &[u8; BLOCK]) -> Option<[u8; BLOCK / 4 * 3]> {
    let mut octets = [0; BLOCK / 4 * 3];
    let mut all = 0;
    for (group, out) in block.as_chunks::<4>().0.iter().zip(octets.as_chunks_mut::<3>().0) {
        let [a, b, c, d] = group.map(sextet);
        all |= a | b | c | d;
        *out = [a << 2 | b >> 4, b << 4 | c >> 2, c << 6 | d];
    }
    (all <= 63).then_some(octets)
}

fn sextet(octet: u8) -> u8 {
    SEXTETS[usize::from(octet)]
}

/// A line without the white space at its end, unless that is more than is ever held.
fn without_pad(line: &[u8]) -> &[u8] {
    let pad = line.iter().rev().take_while(|octet| matches!(octet, b' ' | b'\t')).count();
    match pad <= HELD_OCTETS_MAX {
        true => line.split_at(line.len() - pad).0,
        false => line,
    }
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        b'a'..=b'f' => digit - b'a' + 10,
        _ => digit.wrapping_sub(b'A').wrapping_add(10) & 15,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode(encoding: TransferEncoding, pieces: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut decoder = TransferDecoder::new(encoding);
        for piece in pieces {
            decoder.push(piece, &mut out);
        }
        decoder.finish(&mut out);
        out
    }

    #[test]
    fn quoted_printable_as_it_occurs() {
        for (text, expected) in [
            ("a=3Db=3dc", "a=b=c"),
            ("soft=\r\nbreak=\nand= \t\r\npad", "softbreakandpad"),
            ("bad=ZZ =4", "bad=ZZ =4"),
            ("==41", "=A"),
            ("=4=41", "=4A"),
            ("end=", "end="),
            ("white  \r\nspace\t\nat =20\r\nline ends  ", "white\r\nspace\nat  \r\nline ends"),
            ("kept =41 \r b\r", "kept A \r b\r"),
        ] {
            let got = decode(TransferEncoding::QuotedPrintable, &[text.as_bytes()]);
            assert_eq!(String::from_utf8_lossy(&got), expected, "{text}");
        }
    }

    #[test]
    fn base64_as_it_occurs() {
        for (text, expected) in [
            ("SGVs\r\nbG8=", "Hello"),
            ("SGVsbG8", "Hello"),
            ("SGU=bGxv", "Hello"),
            ("S*G!U", "He"),
            ("====", ""),
        ] {
            let got = decode(TransferEncoding::Base64, &[text.as_bytes()]);
            assert_eq!(String::from_utf8_lossy(&got), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn cuts_in_long_white_space_make_no_difference(
            text in "(x| {78,83}|\r|\n|=|\t){0,5}",
            cut in any::<prop::sample::Index>(),
        ) {
            let (a, b) = text.as_bytes().split_at(cut.index(text.len() + 1));
            let whole = decode(TransferEncoding::QuotedPrintable, &[text.as_bytes()]);
            prop_assert_eq!(decode(TransferEncoding::QuotedPrintable, &[a, b]), whole);
        }

        #[test]
        fn cuts_make_no_difference(text in "[=A-F0-9 \r\n\tx]{0,60}", cut in any::<prop::sample::Index>()) {
            let (a, b) = text.as_bytes().split_at(cut.index(text.len() + 1));
            for encoding in [TransferEncoding::Base64, TransferEncoding::QuotedPrintable] {
                prop_assert_eq!(decode(encoding, &[a, b]), decode(encoding, &[text.as_bytes()]));
            }
        }
    }
}
