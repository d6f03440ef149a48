//! A server's octets on their way through: what is relayed to a client as it is, and the little that whoever relays it
//! has to know.
//!
//! Invariants:
//! - What comes out, joined, is what went in, up to the first octet that makes no sense.
//! - Literals of any size come out as they come in, as do long lines of data. Only status lines are held whole, up to
//!   the limit.
//! - How the input was cut changes only how data is cut.

use super::framing::{TAIL_OCTETS, announcement, without_line_end};
use super::parse;
use super::response::{Response, Status};
use bytes::{Bytes, BytesMut};

/// Octets that show what an untagged response is: `* 4294967295 UIDFETCH `.
const START_OCTETS: usize = 24;
/// Levels of parentheses in a status line.
const DEPTH_MAX: usize = 50;

/// What came out of a server's octets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Passed {
    /// Nothing more for now.
    NeedMore,
    /// Octets of an untagged response that is no status, outside of its literals. The first of a response are at least
    /// its first [`START_OCTETS`], or its whole line.
    Text {
        /// Never empty.
        octets: Bytes,
        /// The response ends with them.
        last: bool,
    },
    /// Octets of a literal in it; never empty.
    Literal(Bytes),
    /// A status response, tagged or not.
    Status {
        /// What it says.
        status: Status,
        /// Its octets, with the line end.
        octets: Bytes,
    },
    /// `+`: what stands behind it.
    Continue(Bytes),
    /// What cannot be: nothing else will come out.
    Broken(&'static str),
}

/// Where in the stream it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Between responses.
    Between,
    /// Within a line of data.
    Line,
    /// Within a literal, of which so much is left.
    Literal(u64),
    /// Nothing more will come out.
    Dead,
}

/// Octets of a server in; out comes what to pass on, and when.
#[derive(Debug)]
pub struct Passage {
    input: BytesMut,
    octets_max: usize,
    /// No line end is before this place.
    scanned: usize,
    state: State,
}

impl Passage {
    /// `octets_max`: the longest status line.
    pub fn new(octets_max: usize) -> Passage {
        Passage { input: BytesMut::new(), octets_max, scanned: 0, state: State::Between }
    }

    /// Where a reader appends octets. Only append.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Whether all of what has come out were whole responses.
    pub fn is_between(&self) -> bool {
        self.state == State::Between
    }

    /// The same, and nothing more has come.
    pub fn is_drained(&self) -> bool {
        self.is_between() && self.input.is_empty()
    }

    /// How much is to come of the literal that was announced last; none: it is over.
    pub fn literal_left(&self) -> Option<u64> {
        match self.state {
            State::Literal(left) => Some(left),
            _ => None,
        }
    }

    /// What comes next. Call until [`Passed::NeedMore`].
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at NeedMore; this goes on")]
    pub fn next(&mut self) -> Passed {
        loop {
            match self.state {
                State::Between => {
                    if let Some(passed) = self.start() {
                        return passed;
                    }
                }
                State::Line => return self.line(),
                State::Literal(0) => self.state = State::Line,
                State::Literal(left) => {
                    let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.input.len());
                    if here == 0 {
                        return Passed::NeedMore;
                    }
                    self.state = State::Literal(left - here as u64);
                    return Passed::Literal(self.input.split_to(here).freeze());
                }
                State::Dead => {
                    self.input.clear();
                    return Passed::NeedMore;
                }
            }
        }
    }

    /// The end of the line at the front.
    fn line_end(&mut self) -> Option<usize> {
        let unseen = self.input.get(self.scanned..)?;
        match memchr::memchr(b'\n', unseen) {
            Some(at) => Some(self.scanned + at + 1),
            None => {
                self.scanned = self.input.len();
                None
            }
        }
    }

    fn take(&mut self, octets: usize) -> Bytes {
        self.scanned = 0;
        self.input.split_to(octets).freeze()
    }

    fn broken(&mut self, why: &'static str) -> Option<Passed> {
        self.input.clear();
        self.state = State::Dead;
        Some(Passed::Broken(why))
    }

    /// The start of a response. `None`: it is data, which is looked at as such.
    fn start(&mut self) -> Option<Passed> {
        let end = self.line_end();
        let start = self.input.get(..end.unwrap_or(self.input.len())).unwrap_or(&[]);
        let is_known = end.is_some() || start.len() >= START_OCTETS;
        if is_known && !parse::response::is_one_line(without_line_end(start)) {
            self.scanned = 0;
            self.state = State::Line;
            return None;
        }
        let Some(end) = end else {
            return match self.scanned > self.octets_max {
                true => self.broken("a line is too long"),
                false => Some(Passed::NeedMore),
            };
        };
        if end > self.octets_max {
            return self.broken("a line is too long");
        }
        let octets = self.take(end);
        let line = octets.slice(..without_line_end(&octets).len());
        match parse::response::response(&line, DEPTH_MAX) {
            Ok(Response::Status(status)) => Some(Passed::Status { status, octets }),
            Ok(Response::Continue(text)) => Some(Passed::Continue(text)),
            // Free text is nothing to stumble over.
            Err(_) if line.starts_with(b"* ") => Some(Passed::Text { octets, last: true }),
            Ok(_) | Err(_) => self.broken("that is no response"),
        }
    }

    /// More of a line of data. Its end is held back, since it may announce a literal.
    fn line(&mut self) -> Passed {
        let Some(end) = self.line_end() else {
            let octets = self.input.len().saturating_sub(TAIL_OCTETS);
            return match octets {
                // Few octets at once are not worth passing on.
                0..START_OCTETS => Passed::NeedMore,
                octets => {
                    let octets = self.take(octets);
                    self.scanned = self.input.len();
                    Passed::Text { octets, last: false }
                }
            };
        };
        let octets = self.take(end);
        let literal = announcement(without_line_end(&octets)).filter(|literal| literal.well_placed);
        match literal.map(|literal| literal.octets) {
            Some(Some(left)) => self.state = State::Literal(left),
            Some(None) => {
                self.input.clear();
                self.state = State::Dead;
                return Passed::Broken("a literal is too large");
            }
            None => self.state = State::Between,
        }
        Passed::Text { octets, last: self.state == State::Between }
    }
}
