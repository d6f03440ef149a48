//! A client's side of the wire: commands out, responses in. Links between nodes, tests and benchmarks are
//! clients.
//!
//! Invariants:
//! - What is buffered never exceeds the decoder's limit and what one `push` brought.
//! - A response that cannot be read leaves the stream in step.

use super::command::{AppendMessage, AppendSource, Replaced, Tagged};
use super::framing::{announcement, without_line_end};
use super::parse;
use super::print::CommandWriter;
use super::response::Response;
use super::types::{Tag, WireName};
use bytes::{Bytes, BytesMut};

/// Levels of parentheses that a response may have: body structures nest as messages do.
const DEPTH_MAX: usize = 250;

/// How strings that cannot be quoted are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Literals {
    /// `{n}`: the client waits for `+`.
    Synchronising,
    /// `{n+}`: the server has LITERAL+ (RFC 7888).
    NonSynchronising,
}

/// Why a command cannot be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EncodeError {
    /// A word holds what no atom may hold.
    #[error("a word of the command is no atom")]
    NotAnAtom,
    /// Only `literal8` can hold NUL, which among arguments only values of annotations can be.
    #[error("an argument of the command holds NUL")]
    Nul,
    /// A header field name or entry name holds 8-bit octets or line ends, or is too long.
    #[error("a field name of the command cannot be quoted")]
    FieldName,
    /// CATENATE is read, not sent.
    #[error("a message that is made of parts cannot be sent")]
    Catenate,
    /// [`crate::imap::Command::Unknown`] keeps no arguments.
    #[error("a command that was not understood cannot be sent")]
    Unknown,
}

/// A command's octets. Before each chunk but the first the client waits for `+`.
pub fn encode(tagged: &Tagged, literals: Literals) -> Result<Vec<Bytes>, EncodeError> {
    let mut writer = CommandWriter::new(literals);
    writer.tagged(tagged);
    writer.finish()
}

/// Prints APPEND and REPLACE around the messages' octets, which the caller streams (RFC 9051 §6.3.12, RFC 3502,
/// RFC 8508): `start`, octets, `next`, octets, ..., [`AppendEncoder::end`].
#[derive(Debug)]
pub struct AppendEncoder {
    utf8: bool,
}

impl AppendEncoder {
    /// Tag, mailbox and the first message's parameters; `replaced`: it is a REPLACE. Before each chunk but the first
    /// the client waits for `+`; the last chunk may be empty, and then it waits before the message's octets.
    pub fn start(
        tag: &Tag,
        replaced: Option<Replaced>,
        mailbox: &WireName,
        message: &AppendMessage,
        literals: Literals,
    ) -> Result<(AppendEncoder, Vec<Bytes>), EncodeError> {
        let mut writer = CommandWriter::new(literals);
        writer.text(tag.as_str());
        writer.text(" ");
        writer.append(replaced, mailbox);
        writer.append_message(message);
        Ok((AppendEncoder { utf8: is_utf8(message) }, writer.finish()?))
    }

    /// The next message's parameters, with chunks as of [`AppendEncoder::start`].
    pub fn next(&mut self, message: &AppendMessage) -> Result<Vec<Bytes>, EncodeError> {
        let mut writer = CommandWriter::new(Literals::Synchronising);
        if self.utf8 {
            writer.text(")");
        }
        self.utf8 = is_utf8(message);
        writer.append_message(message);
        writer.finish()
    }

    /// What follows the last message's octets.
    pub fn end(self) -> &'static [u8] {
        if self.utf8 { b")\r\n" } else { b"\r\n" }
    }
}

/// Whether a parenthesis has to be closed behind the message's octets.
fn is_utf8(message: &AppendMessage) -> bool {
    matches!(message.source, AppendSource::Literal(literal) if literal.utf8)
}

/// What came out of a server's octets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// Nothing whole yet.
    NeedMore,
    /// One response.
    Response(Response),
    /// A response that breaks the grammar; the next one is read as usual.
    Malformed {
        /// What is wrong.
        text: &'static str,
        /// Its first octets.
        start: Bytes,
    },
    /// A response beyond the limit: nothing else will come out.
    TooLong,
}

/// Octets of a server in, responses out.
#[derive(Debug)]
pub struct Decoder {
    input: BytesMut,
    octets_max: usize,
    line_start: usize,
    scanned: usize,
    dead: bool,
}

impl Decoder {
    /// `octets_max`: the longest response taken, with its literals, in octets.
    pub fn new(octets_max: usize) -> Decoder {
        Decoder { input: BytesMut::new(), octets_max, line_start: 0, scanned: 0, dead: false }
    }

    /// Takes octets that the server sent.
    pub fn push(&mut self, octets: &[u8]) {
        if !self.dead {
            self.input.extend_from_slice(octets);
        }
    }

    /// Where a reader may append octets itself, to save a copy. Only append.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Takes the octets out that no call of `next` has used, as STARTTLS and COMPRESS need.
    pub fn take_input(&mut self) -> BytesMut {
        self.line_start = 0;
        self.scanned = 0;
        self.input.split()
    }

    /// What comes next. Call until [`Decoded::NeedMore`].
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at NeedMore; this goes on")]
    pub fn next(&mut self) -> Decoded {
        loop {
            if self.dead {
                self.input.clear();
                return Decoded::NeedMore;
            }
            let Some(unseen) = self.input.get(self.scanned..) else { return Decoded::NeedMore };
            let found = memchr::memchr(b'\n', unseen);
            let end = found.map_or(self.input.len(), |at| self.scanned + at + 1);
            self.scanned = end;
            if end > self.octets_max {
                self.dead = true;
                return Decoded::TooLong;
            }
            if found.is_none() {
                return Decoded::NeedMore;
            }
            let line = without_line_end(self.input.get(self.line_start..end).unwrap_or(&[]));
            let frame = self.line_start + line.len();
            let first = self.line_start == 0;
            let literal = if first && parse::response::is_one_line(line) { None } else { announcement(line) };
            let Some(literal) = literal.filter(|literal| literal.well_placed) else {
                return self.response(frame, end);
            };
            let octets = literal.octets.and_then(|octets| usize::try_from(octets).ok());
            match octets.and_then(|octets| octets.checked_add(end)).filter(|n| *n < self.octets_max) {
                Some(next) => {
                    self.line_start = next;
                    self.scanned = next;
                }
                None => {
                    self.dead = true;
                    return Decoded::TooLong;
                }
            }
        }
    }

    fn response(&mut self, frame: usize, end: usize) -> Decoded {
        let mut octets = self.input.split_to(end).freeze();
        self.line_start = 0;
        self.scanned = 0;
        octets.truncate(frame);
        match parse::response::response(&octets, DEPTH_MAX) {
            Ok(response) => Decoded::Response(response),
            Err(fault) => {
                let start = Bytes::copy_from_slice(octets.get(..octets.len().min(80)).unwrap_or(&[]));
                Decoded::Malformed { text: fault.0, start }
            }
        }
    }
}
