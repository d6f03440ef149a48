//! DATA's transparency (RFC 5321 §4.5.2): dots are stuffed by the client and unstuffed by the server.
//!
//! Invariant: a line ends with CRLF and nothing else, so only `CRLF . CRLF` ends a message. A bare CR or LF
//! is an octet like others; were it a line end here and not at another hop, a message could smuggle commands.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Octets given out at once at most.
const CHUNK_OCTETS_MAX: usize = 64 << 10;

/// Where in a line the next octet stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Place {
    /// At a line's start.
    #[default]
    Start,
    /// Behind a dot at a line's start, which is held back.
    Dot,
    /// Behind a dot and CR at a line's start, which are held back.
    DotCr,
    /// Elsewhere.
    Middle,
    /// Behind CR.
    Cr,
}

/// What came out of the octets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unstuffed {
    /// All octets are used.
    NeedMore,
    /// The next octets of the message; never empty.
    Data(Bytes),
    /// The message has ended; what is left in the input is no part of it.
    End,
}

/// Undoes dot-stuffing as octets come.
#[derive(Debug, Default)]
pub struct Unstuffer {
    place: Place,
}

impl Unstuffer {
    /// At the start of a message.
    pub fn new() -> Unstuffer {
        Unstuffer::default()
    }

    /// Takes octets from the front of `input`.
    pub fn next(&mut self, input: &mut BytesMut) -> Unstuffed {
        let mut out = BytesMut::with_capacity(input.len().min(CHUNK_OCTETS_MAX));
        let mut used = 0;
        let mut ended = false;
        while let Some(octet) = input.get(used).copied() {
            if out.len() >= CHUNK_OCTETS_MAX {
                break;
            }
            if self.place == Place::DotCr && octet == b'\n' {
                // Data before it goes out first; the end is found again then.
                ended = out.is_empty();
                used += usize::from(ended);
                break;
            }
            if self.place == Place::Middle {
                let rest = input.get(used..).unwrap_or(&[]);
                let plain = memchr::memchr(b'\r', rest).unwrap_or(rest.len());
                let plain = plain.min(CHUNK_OCTETS_MAX - out.len());
                out.extend_from_slice(rest.get(..plain).unwrap_or(&[]));
                used += plain;
                if plain > 0 {
                    continue;
                }
            }
            self.step(octet, &mut out);
            used += 1;
        }
        input.advance(used);
        match (ended, out.is_empty()) {
            (true, _) => Unstuffed::End,
            (false, false) => Unstuffed::Data(out.freeze()),
            (false, true) => Unstuffed::NeedMore,
        }
    }

    fn step(&mut self, octet: u8, out: &mut BytesMut) {
        let after = |octet: u8| if octet == b'\r' { Place::Cr } else { Place::Middle };
        self.place = match (self.place, octet) {
            (Place::Start, b'.') => return self.place = Place::Dot,
            (Place::Dot, b'\r') => return self.place = Place::DotCr,
            (Place::DotCr, b'\r') => {
                // The CR held back was no line end; this one may be.
                out.put_u8(b'\r');
                Place::Cr
            }
            (Place::DotCr, _) => {
                out.put_u8(b'\r');
                after(octet)
            }
            (Place::Cr, b'\n') => Place::Start,
            _ => after(octet),
        };
        out.put_u8(octet);
    }
}

/// Stuffs dots as octets go.
#[derive(Debug, Default)]
pub struct DotStuffer {
    place: Place,
}

impl DotStuffer {
    /// At the start of a message.
    pub fn new() -> DotStuffer {
        DotStuffer::default()
    }

    /// Appends the octets to `out`, with a dot before each dot at a line's start.
    pub fn push(&mut self, octets: &[u8], out: &mut BytesMut) {
        out.reserve(octets.len());
        for octet in octets {
            if self.place == Place::Start && *octet == b'.' {
                out.put_u8(b'.');
            }
            out.put_u8(*octet);
            self.place = match (self.place, octet) {
                (Place::Cr, b'\n') => Place::Start,
                (_, b'\r') => Place::Cr,
                _ => Place::Middle,
            };
        }
    }

    /// Appends the end of the message, with a line end before it if the message has none.
    pub fn end(self, out: &mut BytesMut) {
        if self.place != Place::Start {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }
}
