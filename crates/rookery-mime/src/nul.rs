//! A message with NUL made into one without: IMAP's literals and 8BITMIME can carry every octet but that one.
//!
//! Invariants:
//! - A part with NUL in its body becomes base64 and its header says so; undone, it has the octets it had. All else stays
//!   as it came: RFC 3516 §6 has an encoding changed only where that cannot be helped, because of signatures.
//! - NUL where no encoding can hide it (in a header, between parts, in what is encoded already) cannot be taken away.

use crate::decode::TransferEncoding;
use crate::header::{ends_within, fields};
use crate::structure::{PartKind, Structure};
use std::ops::Range;

/// Octets of one line of base64, before and after (RFC 2045 §6.8).
const LINE_OCTETS: u64 = 57;
/// Octets read at once; a multiple of [`LINE_OCTETS`], so that pieces can be encoded one by one.
const PIECE_OCTETS: u64 = LINE_OCTETS * 2048;
/// Octets of the longest header that is written anew.
const HEADER_OCTETS_MAX: u64 = 1 << 20;

/// The message has NUL where no transfer encoding can be put over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("NUL stands outside of the content of parts, or in an encoded one")]
pub struct NulOutside;

/// What becomes of some octets of the message.
enum Change {
    Header(Vec<u8>),
    Base64,
}

type Changes = Vec<(Range<u64>, Change)>;

/// Gives the message to `push`, parts with NUL in base64. `read` reads octets of it. Nothing is given out if NUL cannot
/// be taken away.
pub fn without_nul<O: AsRef<[u8]>, E>(
    structure: &Structure,
    mut read: impl FnMut(Range<u64>) -> Result<O, E>,
    mut push: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<Result<(), NulOutside>, E> {
    let Ok(changes) = plan(structure, &mut read)? else { return Ok(Err(NulOutside)) };
    let mut at = 0;
    let ends = changes.iter().map(|(range, change)| (range.clone(), Some(change)));
    let end = structure.octets()..structure.octets();
    for (range, change) in ends.chain([(end, None)]) {
        for piece in pieces(at..range.start) {
            push(read(piece)?.as_ref())?;
        }
        match change {
            None => {}
            Some(Change::Header(header)) => push(header)?,
            Some(Change::Base64) => {
                let mut lines = Vec::new();
                for piece in pieces(range.clone()) {
                    lines.clear();
                    encode_base64(read(piece)?.as_ref(), &mut lines);
                    push(&lines)?;
                }
            }
        }
        at = range.end;
    }
    Ok(Ok(()))
}

fn pieces(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let step = usize::try_from(PIECE_OCTETS).unwrap_or(usize::MAX);
    range.clone().step_by(step).map(move |start| start..range.end.min(start + PIECE_OCTETS))
}

/// What is changed of a message: ascending and apart.
fn plan<O: AsRef<[u8]>, E>(
    structure: &Structure,
    read: &mut impl FnMut(Range<u64>) -> Result<O, E>,
) -> Result<Result<Changes, NulOutside>, E> {
    let mut has_nul = |range: Range<u64>| -> Result<bool, E> {
        for piece in pieces(range) {
            if memchr::memchr(0, read(piece)?.as_ref()).is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let parts: Vec<_> = structure.parts().collect();
    // Those in whose body NUL is, and what holds them.
    let mut encoded = Vec::new();
    let mut around = vec![false; parts.len()];
    let mut plain = 0;
    for (index, part) in parts.iter().enumerate().filter(|(_, part)| part.kind == PartKind::Single) {
        if has_nul(plain..part.body.start)? {
            return Ok(Err(NulOutside));
        }
        plain = part.body.end;
        if has_nul(part.body.clone())? {
            encoded.push(index);
            let mut above = part.parent;
            while let Some(holder) = above
                && let Some(known) = around.get_mut(holder).filter(|known| !**known)
            {
                *known = true;
                above = parts.get(holder).and_then(|holder| holder.parent);
            }
        }
    }
    if has_nul(plain..structure.octets())? {
        return Ok(Err(NulOutside));
    }
    let mut changes = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let is_encoded = encoded.binary_search(&index).is_ok();
        if !is_encoded && !around.get(index).is_some_and(|around| *around) {
            continue;
        }
        if part.header.end - part.header.start > HEADER_OCTETS_MAX {
            return Ok(Err(NulOutside));
        }
        let header = read(part.header.clone())?;
        let header = header.as_ref();
        if is_encoded {
            if TransferEncoding::of_header(header) != Some(TransferEncoding::Identity) {
                return Ok(Err(NulOutside));
            }
            changes.push((
                part.header.clone(),
                Change::Header(labelled(header, "base64", part.parent.is_none())),
            ));
            changes.push((part.body.clone(), Change::Base64));
        } else if is_binary(header) {
            // What a part holds is not binary any more, and so is the part (RFC 2045 §6.4).
            changes.push((part.header.clone(), Change::Header(labelled(header, "8bit", false))));
        }
    }
    Ok(Ok(changes))
}

const FIELD: &str = "Content-Transfer-Encoding";

fn is_binary(header: &[u8]) -> bool {
    let mut encodings = fields(header).filter(|field| field.is(FIELD));
    encodings.next().is_some_and(|field| field.text().trim_ascii().eq_ignore_ascii_case(b"binary"))
}

/// The header with this transfer encoding in place of its own. One of a whole message says that it is MIME.
fn labelled(header: &[u8], encoding: &str, is_message: bool) -> Vec<u8> {
    let line = format!("{FIELD}: {encoding}\r\n");
    let mut out = Vec::with_capacity(header.len() + line.len());
    let (mut seen, mut done, mut is_mime) = (0, false, !is_message);
    for field in fields(header) {
        seen += field.raw.len();
        is_mime |= field.is("MIME-Version");
        if !field.is(FIELD) {
            out.extend_from_slice(field.raw);
        } else if !std::mem::replace(&mut done, true) {
            out.extend_from_slice(line.as_bytes());
        }
    }
    if !out.is_empty() && !out.ends_with(b"\n") {
        out.extend_from_slice(b"\r\n");
    }
    if !is_mime {
        out.extend_from_slice(b"MIME-Version: 1.0\r\n");
    }
    if !done {
        out.extend_from_slice(line.as_bytes());
    }
    match ends_within(header) {
        true => out.extend_from_slice(header.get(seen..).unwrap_or_default()),
        false => out.extend_from_slice(b"\r\n"),
    }
    out
}

/// Appends octets as whole lines of base64.
fn encode_base64(octets: &[u8], out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let line = usize::try_from(LINE_OCTETS).unwrap_or(usize::MAX);
    for line in octets.chunks(line) {
        for group in line.chunks(3) {
            let octet = |n: usize| u32::from(group.get(n).copied().unwrap_or(0));
            let bits = octet(0) << 16 | octet(1) << 8 | octet(2);
            for n in 0..4 {
                let sextet = (bits >> (18 - 6 * n) & 0x3f) as usize;
                let letter = ALPHABET.get(sextet).copied().unwrap_or(b'=');
                out.push(if n <= group.len() { letter } else { b'=' });
            }
        }
        out.extend_from_slice(b"\r\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Limits, Scanner, SectionPath, SectionText, TransferDecoder};
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn scan(message: &[u8]) -> Structure {
        let mut scanner = Scanner::new(Limits::default());
        scanner.push(message);
        scanner.finish().structure().clone()
    }

    fn encoded(message: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let read =
            |range: Range<u64>| Ok::<_, Infallible>(&message[range.start as usize..range.end as usize]);
        let done = without_nul(&scan(message), read, |octets| {
            out.extend_from_slice(octets);
            Ok(())
        });
        done.expect("nothing fails").ok().map(|()| out)
    }

    fn text(message: &str) -> Option<String> {
        encoded(message.as_bytes()).map(|octets| String::from_utf8(octets).expect("it is text"))
    }

    /// The decoded octets of a part.
    fn part(message: &[u8], numbers: &[u32]) -> Vec<u8> {
        let structure = scan(message);
        let of = |text| {
            let range = structure.section(&SectionPath::new(numbers, text)).expect("there is such a part");
            &message[range.start as usize..range.end as usize]
        };
        let encoding = TransferEncoding::of_header(of(SectionText::Mime)).expect("it is known");
        let (mut decoder, mut out) = (TransferDecoder::new(encoding), Vec::new());
        decoder.push(of(SectionText::Whole), &mut out);
        decoder.finish(&mut out);
        out
    }

    #[test]
    fn a_part_with_nul_becomes_base64_and_the_others_stay() {
        let message = "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\
            Content-Transfer-Encoding: BINARY\r\n\r\npreamble\r\n--b\r\n\
            Content-Transfer-Encoding: binary\r\n\r\nno nul\nhere \u{e9}\r\n--b\r\n\
            Content-Type: application/x\r\nContent-Transfer-Encoding: binary (so)\r\nX-After: 1\r\n\r\na\0b\r\n\
            --b\r\n\r\n\0\r\n--b--\r\nepilogue\r\n";
        let expected = "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\
            Content-Transfer-Encoding: 8bit\r\n\r\npreamble\r\n--b\r\n\
            Content-Transfer-Encoding: binary\r\n\r\nno nul\nhere \u{e9}\r\n--b\r\n\
            Content-Type: application/x\r\nContent-Transfer-Encoding: base64\r\nX-After: 1\r\n\r\nYQBi\r\n\r\n\
            --b\r\nContent-Transfer-Encoding: base64\r\n\r\nAA==\r\n\r\n--b--\r\nepilogue\r\n";
        assert_eq!(text(message).as_deref(), Some(expected));
        assert_eq!(text(expected).as_deref(), Some(expected), "without NUL nothing changes");
    }

    #[test]
    fn a_message_without_parts_says_that_it_is_mime() {
        let expected = "A: 1\r\nMIME-Version: 1.0\r\nContent-Transfer-Encoding: base64\r\n\r\neAB5\r\n";
        assert_eq!(text("A: 1\r\n\r\nx\0y").as_deref(), Some(expected));
    }

    #[test]
    fn a_held_message_is_changed_inside() {
        let message = "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: binary\r\n\r\n\
            Subject: in\r\nContent-Type: image/x\r\n\r\n\0\0\0";
        let expected = "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: 8bit\r\n\r\n\
            Subject: in\r\nContent-Type: image/x\r\nContent-Transfer-Encoding: base64\r\n\r\nAAAA\r\n";
        assert_eq!(text(message).as_deref(), Some(expected));
    }

    #[test]
    fn nul_that_no_encoding_can_hide_is_told() {
        for message in [
            "Subject: a\0b\r\n\r\nx",
            "Subject: x\r\nContent-Transfer-Encoding: base64\r\n\r\nAA\0A",
            "Content-Transfer-Encoding: x-unknown\r\n\r\n\0",
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n\0\r\n--b\r\n\r\nx\r\n--b--\r\n",
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nx\r\n--b--\r\n\0",
            "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nX: \0\r\n\r\nx\0\r\n--b--\r\n",
        ] {
            assert_eq!(text(message), None, "{message:?}");
        }
    }

    proptest! {
        #[test]
        fn parts_keep_their_octets(
            one in prop::collection::vec(any::<u8>(), 0..300),
            large in 0..300_000_usize,
        ) {
            let mut two: Vec<u8> = (0..large).map(|n| (n % 251) as u8).collect();
            two.push(0);
            let message = [
                &b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=a.b.c.d.e\r\n\r\n--a.b.c.d.e\r\n\r\n"[..],
                &one, b"\r\n--a.b.c.d.e\r\nContent-Transfer-Encoding: binary\r\n\r\n", &two, b"\r\n--a.b.c.d.e--\r\n",
            ].concat();
            let out = encoded(&message).expect("NUL is in parts alone");
            prop_assert!(memchr::memchr(0, &out).is_none());
            prop_assert_eq!(part(&out, &[1]), one);
            prop_assert_eq!(part(&out, &[2]), two);
        }
    }
}
