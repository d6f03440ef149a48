//! The octets after DATA: dots taken away, the end found (RFC 5321 §4.5.2).
//!
//! Invariants:
//! - Only CR LF ends a line here. What stands between other line ends is data, so that no sender can smuggle
//!   an end of data past an MTA that reads lines another way.
//! - All octets come out but the dots that were stuffed and the last line, in whatever pieces they came in.

use memchr::memchr2;

/// Where in a line the last octet left us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// After CR LF, or at the very beginning.
    LineStart,
    /// After a dot at the start of a line, which is held back.
    Dot,
    /// After the dot and a CR, both held back.
    DotCr,
    /// After a CR within a line.
    Cr,
    /// Anywhere else.
    Inside,
}

/// Takes stuffed octets, gives the message.
#[derive(Debug)]
pub(crate) struct BodyDecoder {
    at: At,
    has_nul: bool,
}

/// What became of some octets.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fed {
    /// All were taken, and there is more to come.
    More,
    /// The end of data was found; octets from this offset on belong to the next command.
    End(usize),
}

impl BodyDecoder {
    pub(crate) fn new() -> BodyDecoder {
        BodyDecoder { at: At::LineStart, has_nul: false }
    }

    /// Whether a NUL was among the octets, which no IMAP client could ever fetch (RFC 9051 §4.3).
    pub(crate) fn has_nul(&self) -> bool {
        self.has_nul
    }

    /// Takes octets and gives what they mean to `sink` in pieces.
    pub(crate) fn feed(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> Fed {
        let mut at = 0;
        let piece = |from: usize, to: usize| input.get(from..to).unwrap_or_default();
        // Octets before this one are given away.
        let mut given = 0;
        while let Some(octet) = input.get(at).copied() {
            match self.at {
                At::Inside => {
                    // The common case: run to the next octet that matters.
                    let Some(run) = memchr2(b'\r', 0, piece(at, input.len())) else {
                        break;
                    };
                    at += run;
                    if input.get(at) == Some(&0) {
                        self.has_nul = true;
                    } else {
                        self.at = At::Cr;
                    }
                }
                At::LineStart if octet == b'.' => {
                    sink(piece(given, at));
                    given = at + 1;
                    self.at = At::Dot;
                }
                At::LineStart => {
                    self.at = self.after(octet);
                }
                At::Cr => {
                    self.at = if octet == b'\n' { At::LineStart } else { self.after(octet) };
                }
                At::Dot if octet == b'\r' => {
                    given = at + 1;
                    self.at = At::DotCr;
                }
                // A stuffed dot is gone; what follows it is data.
                At::Dot => self.at = self.after(octet),
                At::DotCr if octet == b'\n' => return Fed::End(at + 1),
                At::DotCr => {
                    // A line that begins with a dot and a lone CR: the dot was stuffed, the CR is data.
                    sink(b"\r");
                    self.at = self.after(octet);
                }
            }
            at += 1;
        }
        sink(piece(given, input.len()));
        Fed::More
    }

    fn after(&mut self, octet: u8) -> At {
        match octet {
            b'\r' => At::Cr,
            0 => {
                self.has_nul = true;
                At::Inside
            }
            _ => At::Inside,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(stuffed: &[u8], pieces: usize) -> (Vec<u8>, Option<usize>) {
        let mut decoder = BodyDecoder::new();
        let (mut out, mut fed) = (Vec::new(), 0);
        for piece in stuffed.chunks(pieces.max(1)) {
            match decoder.feed(piece, |octets| out.extend_from_slice(octets)) {
                Fed::More => fed += piece.len(),
                Fed::End(at) => return (out, Some(fed + at)),
            }
        }
        (out, None)
    }

    fn stuff(message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut start = true;
        let mut last = 0;
        for octet in message {
            if start && *octet == b'.' {
                out.push(b'.');
            }
            out.push(*octet);
            start = last == b'\r' && *octet == b'\n';
            last = *octet;
        }
        if !start {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
        out
    }

    #[test]
    fn ends_and_dots() {
        let table: [(&[u8], &[u8], bool); 10] = [
            (b".\r\n", b"", true),
            (b"a\r\n.\r\n", b"a\r\n", true),
            (b"..a\r\n.\r\n", b".a\r\n", true),
            (b".a\r\n.\r\n", b"a\r\n", true),
            (b"a\n.\r\nb\r\n.\r\n", b"a\n.\r\nb\r\n", true),
            (b"a\r\n.\nb\r\n.\r\n", b"a\r\n\nb\r\n", true),
            (b"a\r.\r\n.\r\n", b"a\r.\r\n", true),
            (b"a\r\n.\rb\r\n.\r\n", b"a\r\n\rb\r\n", true),
            (b"a\r\r\n.\r\n", b"a\r\r\n", true),
            (b"a\r\n.\r", b"a\r\n", false),
        ];
        for (stuffed, message, ended) in table {
            for pieces in 1..=stuffed.len() {
                let (out, end) = decode(stuffed, pieces);
                assert_eq!((&out[..], end.is_some()), (message, ended), "{}", stuffed.escape_ascii());
            }
        }
    }

    #[test]
    fn a_nul_is_noticed_anywhere() {
        for text in [&b"\0"[..], b"a\0b", b"a\r\0", b"\r\n.\0", b"a\r\n.\r\0"] {
            let mut decoder = BodyDecoder::new();
            decoder.feed(text, |_| ());
            assert!(decoder.has_nul(), "{}", text.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn what_is_stuffed_comes_back(
            message in proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'\r'), Just(b'\n'), Just(b'a')], 0..40),
            pieces in 1usize..12,
        ) {
            let stuffed = stuff(&message);
            let mut expected = message.clone();
            if !(message.is_empty() || message.ends_with(b"\r\n")) {
                expected.extend_from_slice(b"\r\n");
            }
            let end = stuffed.len();
            let mut with_more = stuffed;
            with_more.extend_from_slice(b"RSET\r\n");
            let (out, at) = decode(&with_more, pieces);
            prop_assert_eq!(at, Some(end));
            prop_assert_eq!(out, expected);
        }
    }
}
