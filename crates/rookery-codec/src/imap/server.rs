//! A server's side of the wire: octets of one client in, commands out.
//!
//! Invariants:
//! - Framing first (lines, and literals by their announced length), parsing second: after a bad command the
//!   stream is in step, and the next command is read as if nothing had been.
//! - What is buffered never exceeds [`Limits::command_octets`] and what one `push` brought.
//! - `+` is asked for ([`Decoded::Continue`]) only when the literal will be taken.
//! - How the input was cut changes only how [`Decoded::AppendData`] is cut.

use super::command::{AppendMessage, Command, Tagged};
use super::response::{Code, Condition, Response, Status};
use super::types::{Tag, WireName};
use bytes::{Bytes, BytesMut};

/// What one client may send. Sizes in octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// A command with all its literals, but for messages of APPEND.
    pub command_octets: usize,
    /// One message of APPEND.
    pub append_octets: u64,
    /// Parentheses, OR and NOT within one another.
    pub depth: usize,
    /// LITERAL- instead of LITERAL+: `{n+}` only to 4096 octets (RFC 7888 §5).
    pub literal_minus: bool,
}

impl Limits {
    /// Before a login.
    pub const BEFORE_LOGIN: Limits =
        Limits { command_octets: 8 << 10, append_octets: 0, depth: 50, literal_minus: false };
    /// After it.
    pub const LOGGED_IN: Limits =
        Limits { command_octets: 64 << 10, append_octets: 64 << 20, depth: 50, literal_minus: false };
}

/// What came out of the octets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// Nothing whole yet. Asking again without a push gives the same answer.
    NeedMore,
    /// One whole command; its octets are gone from the decoder.
    Command(Tagged),
    /// A command that cannot be: answer it; the next one is read as usual. During an APPEND it ends the
    /// APPEND, nothing of which may be kept.
    Bad(Bad),
    /// A synchronising literal was announced and will be taken: send `+` at once (RFC 9051 §4.3).
    Continue,
    /// The first or a further message of an APPEND is announced. [`Decoder::accept_append`] or
    /// [`Decoder::refuse_append`] must be called before anything else comes out.
    AppendStart {
        /// Of the command; the same for all its messages.
        tag: Tag,
        /// Where to; the same for all its messages.
        mailbox: WireName,
        /// What is said of this one.
        message: AppendMessage,
    },
    /// The next octets of the accepted message; never empty.
    AppendData(Bytes),
    /// All octets of the message have come.
    AppendEnd {
        /// A further [`Decoded::AppendStart`] (or [`Decoded::Bad`]) of the same command follows. Else the
        /// command is whole, and is to be answered.
        more: bool,
    },
    /// The line asked for with [`Decoder::expect_line`], without its end.
    Line(Bytes),
    /// The stream cannot be kept in step: answer BYE and close. Nothing else will come out.
    Fatal {
        /// For the client.
        text: &'static str,
    },
}

/// Why a command cannot be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bad {
    /// `None`: not even that could be read.
    pub tag: Option<Tag>,
    /// BAD, or NO for what is well written and too big.
    pub condition: Condition,
    /// `[TOOBIG]`, `[LIMIT]`
    pub code: Option<Code>,
    /// For the client.
    pub text: &'static str,
}

impl Bad {
    /// The answer to the client.
    pub fn into_response(self) -> Response {
        Response::Status(Status {
            tag: self.tag,
            condition: self.condition,
            code: self.code,
            text: self.text.into(),
        })
    }
}

/// Octets of one client in, commands out. Owns no socket, no clock, no task.
#[derive(Debug)]
pub struct Decoder {
    input: BytesMut,
    limits: Limits,
}

impl Decoder {
    /// At the start of a connection.
    pub fn new(limits: Limits) -> Decoder {
        Decoder { input: BytesMut::new(), limits }
    }

    /// Other limits from the next command on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes octets that the client sent.
    pub fn push(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
    }

    /// Where a reader may append octets itself, to save a copy. Only append.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// What comes next. Call until [`Decoded::NeedMore`], acting on each before the next call.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at NeedMore; this goes on")]
    pub fn next(&mut self) -> Decoded {
        Decoded::NeedMore
    }

    /// The next input is a line that is no command: a client's part of AUTHENTICATE, or DONE. A line longer
    /// than `octets_max` is fatal.
    pub fn expect_line(&mut self, octets_max: usize) {
        let _ = octets_max;
    }

    /// Takes the message announced by [`Decoded::AppendStart`].
    pub fn accept_append(&mut self) {}

    /// Will not take it: the caller answers the command now, and it is over. Octets that the client sends
    /// without waiting are dropped as they come.
    pub fn refuse_append(&mut self) {}

    /// Whether octets are waiting that no call of `next` has used: after STARTTLS they must be thrown away
    /// (RFC 9051 §6.2.1), and after COMPRESS they are compressed already.
    pub fn take_input(&mut self) -> BytesMut {
        self.input.split()
    }
}
