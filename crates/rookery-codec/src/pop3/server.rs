//! A server's side of the wire: octets of one client in, commands out.
//!
//! Invariants:
//! - What is buffered never exceeds a line's limit and what one `push` brought.
//! - A line that is too long is answered once and dropped to its end: the stream stays in step.

use super::command::Command;
use super::parse;
use super::reply::Reply;
use crate::lines::{Line, Lines};
use bytes::{Bytes, BytesMut};

/// Octets in the longest command line, its end included. RFC 2449 §4 has 255; names and passwords in UTF-8, and
/// first responses of SASL, want more.
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
    /// The line asked for with [`Decoder::expect_line`].
    Line(Bytes),
    /// The stream cannot be kept in step: send this and close. Nothing else will come out.
    Fatal(Reply),
}

#[derive(Clone, Copy, Debug)]
enum State {
    Command,
    Line { octets_max: usize },
    Dead,
}

/// Octets of one client in, commands out.
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

    /// The next input is a line that is no command: a client's part of AUTH. Longer than `octets_max`, it is
    /// fatal.
    pub fn expect_line(&mut self, octets_max: usize) {
        if matches!(self.state, State::Command) {
            self.state = State::Line { octets_max };
        }
    }

    /// Takes the octets out that no call of `next` has used: after STLS they must be thrown away
    /// (RFC 2595 §4).
    pub fn take_input(&mut self) -> BytesMut {
        self.lines.take_input()
    }

    /// Whether another decoder could go on with what [`Decoder::take_input`] gives: it is not in the middle of a line that
    /// is dropped, nor of AUTH.
    pub fn is_between(&self) -> bool {
        matches!(self.state, State::Command) && !self.lines.is_dropping()
    }

    /// What comes next. Call until [`Decoded::NeedMore`], acting on each before the next call.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at NeedMore; this goes on")]
    pub fn next(&mut self) -> Decoded {
        match self.state {
            State::Command => match self.lines.next(LINE_OCTETS_MAX, parse::command) {
                Line::NeedMore => Decoded::NeedMore,
                Line::Whole(Ok(command)) => Decoded::Command(command),
                Line::Whole(Err(reply)) => Decoded::Bad(reply),
                Line::TooLong => Decoded::Bad(Reply::err("Line too long")),
                Line::Endless => self.fatal(),
            },
            // Two for the line end.
            State::Line { octets_max } => {
                match self.lines.next(octets_max.saturating_add(2), Bytes::copy_from_slice) {
                    Line::NeedMore => Decoded::NeedMore,
                    Line::Whole(line) => {
                        self.state = State::Command;
                        Decoded::Line(line)
                    }
                    Line::TooLong | Line::Endless => self.fatal(),
                }
            }
            State::Dead => {
                self.lines.take_input();
                Decoded::NeedMore
            }
        }
    }

    fn fatal(&mut self) -> Decoded {
        self.lines.take_input();
        self.state = State::Dead;
        Decoded::Fatal(Reply::err("Line too long"))
    }
}
