//! A server's side of the wire: octets of one client in, commands and message octets out.
//!
//! Invariants:
//! - What is buffered never exceeds a line's limit and what one `push` brought.
//! - A line that is too long is answered once and dropped to its end: the stream stays in step.
//! - The octets of BDAT are given out whatever is answered, for they come whatever is answered.

use super::command::Command;
use super::parse;
use super::reply::Reply;
use crate::dot::{LineEnds, Unstuffed, Unstuffer};
use crate::lines::{Line, Lines};
use bytes::{Bytes, BytesMut};

/// Octets in the longest command line, its end included.
pub const LINE_OCTETS_MAX: usize = 4096;

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
    Dead,
}

/// Octets of one client in, commands and message octets out.
#[derive(Debug)]
pub struct Decoder {
    lines: Lines,
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
        Decoder { lines: Lines::default(), state: State::Command }
    }

    /// Takes octets that the client sent.
    pub fn push(&mut self, octets: &[u8]) {
        self.lines.input.extend_from_slice(octets);
    }

    /// Where a reader may append octets itself, to save a copy. Only append.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.lines.input
    }

    /// After 354: a message comes, up to `CRLF . CRLF`.
    pub fn expect_data(&mut self) {
        if matches!(self.state, State::Command) {
            self.state = State::Data(Unstuffer::new(LineEnds::CrLf));
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
        self.lines.take_input()
    }

    /// What comes next. Call until [`Decoded::NeedMore`], acting on each before the next call.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at NeedMore; this goes on")]
    pub fn next(&mut self) -> Decoded {
        match &mut self.state {
            State::Command => self.command(),
            State::Line { octets_max } => {
                let octets_max = *octets_max;
                self.data_line(octets_max)
            }
            State::Data(unstuffer) => match unstuffer.next(&mut self.lines.input) {
                Unstuffed::NeedMore => Decoded::NeedMore,
                Unstuffed::Data(octets) => Decoded::Data(octets),
                Unstuffed::End => {
                    self.state = State::Command;
                    Decoded::DataEnd
                }
            },
            State::Chunk { left } => {
                let left = *left;
                self.chunk(left)
            }
            State::Dead => {
                self.lines.take_input();
                Decoded::NeedMore
            }
        }
    }

    fn fatal(&mut self, text: &'static str) -> Decoded {
        self.lines.take_input();
        self.state = State::Dead;
        Decoded::Fatal(Reply::new(421, (4, 7, 0), text))
    }

    fn command(&mut self) -> Decoded {
        let read = |line: &[u8]| parse::command(line).map_err(|reply| (reply, parse::is_bdat(line)));
        match self.lines.next(LINE_OCTETS_MAX, read) {
            Line::NeedMore => Decoded::NeedMore,
            Line::Whole(Ok(command)) => {
                if let Command::Bdat { octets, .. } = command {
                    self.state = State::Chunk { left: octets };
                }
                Decoded::Command(command)
            }
            // Nobody knows how many octets follow; read as commands they could be anything.
            Line::Whole(Err((_, true))) => self.fatal("Malformed BDAT"),
            Line::Whole(Err((reply, false))) => Decoded::Bad(reply),
            Line::TooLong => Decoded::Bad(Reply::new(500, (5, 5, 2), "Line too long")),
            Line::Endless => self.fatal("Line too long"),
        }
    }

    fn chunk(&mut self, left: u64) -> Decoded {
        if left == 0 {
            self.state = State::Command;
            return Decoded::DataEnd;
        }
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.lines.input.len());
        if here == 0 {
            return Decoded::NeedMore;
        }
        self.state = State::Chunk { left: left - here as u64 };
        Decoded::Data(self.lines.input.split_to(here).freeze())
    }

    fn data_line(&mut self, octets_max: usize) -> Decoded {
        // Two for the line end.
        match self.lines.next(octets_max.saturating_add(2), Bytes::copy_from_slice) {
            Line::NeedMore => Decoded::NeedMore,
            Line::Whole(line) => {
                self.state = State::Command;
                Decoded::Line(line)
            }
            Line::TooLong | Line::Endless => self.fatal("Line too long"),
        }
    }
}
