//! A server's side of the wire: octets of one client in, commands and message octets out.
//!
//! Invariants:
//! - What is buffered never exceeds a line's limit and what one `push` brought.
//! - A line that is too long is answered once and dropped to its end: the stream stays in step.
//! - The octets of BDAT are given out whatever is answered, for they come whatever is answered.

use super::command::Command;
use super::data::{Unstuffed, Unstuffer};
use super::parse;
use super::reply::Reply;
use bytes::{Buf, Bytes, BytesMut};

/// Octets in the longest command line, its end included.
pub const LINE_OCTETS_MAX: usize = 4096;
/// The longest line that is dropped in order to stay in step.
const DROPPED_LINE_OCTETS_MAX: usize = 1 << 20;

/// What came out of the octets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// Nothing whole yet.
    NeedMore,
    /// One command.
    Command(Command),
    /// A command that cannot be: send this answer.
    Bad(Reply),
    /// The next octets of a message, transparency undone; never empty.
    Data(Bytes),
    /// The message of DATA, or the chunk of BDAT, has come whole: answer it.
    DataEnd,
    /// The line asked for with [`Decoder::expect_line`].
    Line(Bytes),
    /// The stream cannot be kept in step: send this and close. Nothing else will come out.
    Fatal(Reply),
}

#[derive(Debug)]
enum State {
    Command,
    Line { octets_max: usize },
    Data(Unstuffer),
    Chunk { left: u64 },
    DropLine { dropped: usize },
    Dead,
}

/// Octets of one client in, commands and message octets out.
#[derive(Debug)]
pub struct Decoder {
    input: BytesMut,
    scanned: usize,
    state: State,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl Decoder {
    /// At the start of a connection.
    pub fn new() -> Decoder {
        Decoder { input: BytesMut::new(), scanned: 0, state: State::Command }
    }

    /// Takes octets that the client sent.
    pub fn push(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
    }

    /// Where a reader may append octets itself, to save a copy. Only append.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// After 354: a message comes, up to `CRLF . CRLF`.
    pub fn expect_data(&mut self) {
        if matches!(self.state, State::Command) {
            self.state = State::Data(Unstuffer::new());
        }
    }

    /// The next input is a line that is no command: a client's part of AUTH. Longer than `octets_max`, it
    /// is fatal.
    pub fn expect_line(&mut self, octets_max: usize) {
        if matches!(self.state, State::Command) {
            self.state = State::Line { octets_max };
        }
    }

    /// Takes the octets out that no call of `next` has used: after STARTTLS they must be thrown away
    /// (RFC 3207 §4.2).
    pub fn take_input(&mut self) -> BytesMut {
        self.scanned = 0;
        self.input.split()
    }

    /// What comes next. Call until [`Decoded::NeedMore`], acting on each before the next call.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at NeedMore; this goes on")]
    pub fn next(&mut self) -> Decoded {
        loop {
            let decoded = match &mut self.state {
                State::Command => self.command(),
                State::Line { octets_max } => {
                    let octets_max = *octets_max;
                    self.data_line(octets_max)
                }
                State::Data(unstuffer) => Some(match unstuffer.next(&mut self.input) {
                    Unstuffed::NeedMore => Decoded::NeedMore,
                    Unstuffed::Data(octets) => Decoded::Data(octets),
                    Unstuffed::End => {
                        self.state = State::Command;
                        Decoded::DataEnd
                    }
                }),
                State::Chunk { left } => {
                    let left = *left;
                    Some(self.chunk(left))
                }
                State::DropLine { dropped } => {
                    let dropped = *dropped;
                    self.drop_line(dropped)
                }
                State::Dead => {
                    self.input.clear();
                    Some(Decoded::NeedMore)
                }
            };
            if let Some(decoded) = decoded {
                return decoded;
            }
        }
    }

    /// The end of the line that `input` begins with, line end included.
    fn line_end(&mut self) -> Option<usize> {
        let found = memchr::memchr(b'\n', self.input.get(self.scanned..)?);
        let end = found.map(|at| self.scanned + at + 1);
        self.scanned = end.unwrap_or(self.input.len());
        end
    }

    fn consume(&mut self, octets: usize) {
        self.input.advance(octets.min(self.input.len()));
        self.scanned = 0;
    }

    fn fatal(&mut self, text: &'static str) -> Option<Decoded> {
        self.input.clear();
        self.state = State::Dead;
        Some(Decoded::Fatal(Reply::new(421, (4, 7, 0), text)))
    }

    fn command(&mut self) -> Option<Decoded> {
        let end = self.line_end();
        if self.scanned > LINE_OCTETS_MAX {
            self.scanned = 0;
            self.state = State::DropLine { dropped: 0 };
            return Some(Decoded::Bad(Reply::new(500, (5, 5, 2), "Line too long")));
        }
        let Some(end) = end else { return Some(Decoded::NeedMore) };
        let line = without_line_end(self.input.get(..end)?);
        let out_of_step = parse::is_bdat(line);
        let parsed = parse::command(line);
        self.consume(end);
        match parsed {
            Ok(command) => {
                if let Command::Bdat { octets, .. } = command {
                    self.state = State::Chunk { left: octets };
                }
                Some(Decoded::Command(command))
            }
            // Nobody knows how many octets follow; read as commands they could be anything.
            Err(_) if out_of_step => self.fatal("Malformed BDAT"),
            Err(reply) => Some(Decoded::Bad(reply)),
        }
    }

    fn chunk(&mut self, left: u64) -> Decoded {
        if left == 0 {
            self.state = State::Command;
            return Decoded::DataEnd;
        }
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.input.len());
        if here == 0 {
            return Decoded::NeedMore;
        }
        self.state = State::Chunk { left: left - here as u64 };
        Decoded::Data(self.input.split_to(here).freeze())
    }

    fn data_line(&mut self, octets_max: usize) -> Option<Decoded> {
        let end = self.line_end();
        // Two for the line end.
        if self.scanned > octets_max.saturating_add(2) {
            return self.fatal("Line too long");
        }
        let Some(end) = end else { return Some(Decoded::NeedMore) };
        let line = Bytes::copy_from_slice(without_line_end(self.input.get(..end)?));
        self.consume(end);
        self.state = State::Command;
        Some(Decoded::Line(line))
    }

    fn drop_line(&mut self, dropped: usize) -> Option<Decoded> {
        let end = self.line_end();
        let dropped = dropped.saturating_add(self.scanned);
        if dropped > DROPPED_LINE_OCTETS_MAX {
            return self.fatal("Line too long");
        }
        self.consume(self.scanned);
        self.state = match end {
            Some(_) => State::Command,
            None => State::DropLine { dropped },
        };
        end.is_none().then_some(Decoded::NeedMore)
    }
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
