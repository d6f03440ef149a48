//! The transparency of DATA (RFC 5321 §4.5.2) and of POP3's long answers (RFC 1939 §3): a dot before each dot at a
//! line's start, and a line of a dot alone at the end.
//!
//! Invariant: only `CRLF . CRLF` ends a message. In SMTP and LMTP a bare CR or LF is an octet like others; were it
//! a line end here and not at another hop, a message could smuggle commands. Clients of POP3 take a bare LF for a
//! line end, and a message must not end early for them; so there dots behind a bare LF are doubled too.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Octets given out at once at most.
const CHUNK_OCTETS_MAX: usize = 64 << 10;

/// What ends a line, as far as dots are doubled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LineEnds {
    /// CRLF alone: SMTP and LMTP.
    CrLf,
    /// LF, with CR before it or not: POP3.
    Any,
}

/// Where in a line the next octet stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Place {
    /// At a line's start.
    Start,
    /// At the start of a line behind a bare LF, where that is a line end.
    BareStart,
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
#[derive(Debug)]
pub struct Unstuffer {
    place: Place,
    ends: LineEnds,
}

impl Unstuffer {
    /// At the start of a message.
    pub fn new(ends: LineEnds) -> Unstuffer {
        Unstuffer { place: Place::Start, ends }
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
                let special = match self.ends {
                    LineEnds::CrLf => memchr::memchr(b'\r', rest),
                    LineEnds::Any => memchr::memchr2(b'\r', b'\n', rest),
                };
                let plain = special.unwrap_or(rest.len()).min(CHUNK_OCTETS_MAX - out.len());
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
        let after = |octet: u8| match (octet, self.ends) {
            (b'\r', _) => Place::Cr,
            (b'\n', LineEnds::Any) => Place::BareStart,
            _ => Place::Middle,
        };
        self.place = match (self.place, octet) {
            (Place::Start, b'.') => return self.place = Place::Dot,
            (Place::BareStart, b'.') => return self.place = Place::Middle,
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
#[derive(Debug)]
pub struct DotStuffer {
    place: Place,
    ends: LineEnds,
}

impl DotStuffer {
    /// At the start of a message.
    pub fn new(ends: LineEnds) -> DotStuffer {
        DotStuffer { place: Place::Start, ends }
    }

    /// Appends the octets to `out`, with a dot before each dot at a line's start.
    pub fn push(&mut self, octets: &[u8], out: &mut BytesMut) {
        out.reserve(octets.len());
        let mut rest = octets;
        while let Some(first) = rest.first() {
            if *first == b'.' && matches!(self.place, Place::Start | Place::BareStart) {
                out.put_u8(b'.');
            }
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            let (line, after) = rest.split_at(end);
            out.extend_from_slice(line);
            self.pass(line);
            rest = after;
        }
    }

    /// Whether the octets need no dot; if so they count as gone and can be sent as they are, without a copy.
    pub fn goes_as_it_is(&mut self, octets: &[u8]) -> bool {
        let at_start = octets.first() == Some(&b'.') && matches!(self.place, Place::Start | Place::BareStart);
        if at_start || memchr::memmem::find(octets, b"\n.").is_some() {
            return false;
        }
        if !octets.is_empty() {
            self.pass(octets);
        }
        true
    }

    /// Behind these octets, of which only the last may end a line.
    fn pass(&mut self, octets: &[u8]) {
        self.place = match octets {
            [.., b'\r', b'\n'] => Place::Start,
            [b'\n'] if self.place == Place::Cr => Place::Start,
            [.., b'\n'] if self.ends == LineEnds::Any => Place::BareStart,
            [.., b'\r'] => Place::Cr,
            _ => Place::Middle,
        };
    }

    /// Appends the end of the message, with a line end before it if the message has none.
    pub fn end(self, out: &mut BytesMut) {
        if self.place != Place::Start {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
    }
}
