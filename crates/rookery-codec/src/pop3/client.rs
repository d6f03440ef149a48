//! A client's side of the wire: commands out; replies, challenges and messages in.

use super::command::Command;
use super::reply::{Code, Reply};
use crate::dot::{LineEnds, Unstuffed, Unstuffer};
use crate::lines::{Line, Lines};
use crate::sasl;
use bytes::{Bytes, BytesMut};
use std::borrow::Cow;

/// Octets in the longest first line of a reply that is taken. A SASL challenge is one.
const LINE_OCTETS_MAX: usize = sasl::LINE_OCTETS_MAX + 4;

/// A command that cannot be sent: it holds a line end, or nothing where something must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the command cannot be written in one line")]
pub struct NotOneLine;

/// Appends a command with its line end. Nothing is appended on an error.
pub fn encode(command: &Command, out: &mut BytesMut) -> Result<(), NotOneLine> {
    let with = |word: &str, number: &Option<u32>| match number {
        Some(number) => format!("{word} {number}").into_bytes(),
        None => word.as_bytes().to_vec(),
    };
    let line: Vec<u8> = match command {
        Command::Capa => b"CAPA".to_vec(),
        Command::Stls => b"STLS".to_vec(),
        Command::Utf8 => b"UTF8".to_vec(),
        Command::User(name) if name.trim_matches(' ').is_empty() => return Err(NotOneLine),
        Command::User(name) => format!("USER {name}").into_bytes(),
        Command::Pass(password) if password.as_bytes().is_empty() => return Err(NotOneLine),
        Command::Pass(password) => [b"PASS ", password.as_bytes()].concat(),
        Command::AuthList => b"AUTH".to_vec(),
        Command::Auth { mechanism, initial: None } => format!("AUTH {mechanism}").into_bytes(),
        Command::Auth { mechanism, initial: Some(initial) } => {
            format!("AUTH {mechanism} {}", sasl::encode_initial(initial.as_bytes())).into_bytes()
        }
        Command::Stat => b"STAT".to_vec(),
        Command::List(number) => with("LIST", number),
        Command::Uidl(number) => with("UIDL", number),
        Command::Retr(number) => with("RETR", &Some(*number)),
        Command::Top { message, lines } => format!("TOP {message} {lines}").into_bytes(),
        Command::Dele(number) => with("DELE", &Some(*number)),
        Command::Noop => b"NOOP".to_vec(),
        Command::Rset => b"RSET".to_vec(),
        Command::Quit => b"QUIT".to_vec(),
        Command::Unknown { .. } => return Err(NotOneLine),
    };
    if line.iter().any(|b| matches!(b, b'\r' | b'\n')) {
        return Err(NotOneLine);
    }
    out.extend_from_slice(&line);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// What came out of a server's octets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// Nothing whole yet.
    NeedMore,
    /// The line that answers a command. Lines follow if it is positive and the command has such
    /// ([`Command::has_lines`]): then say [`Decoder::expect_lines`] before the next call.
    Reply(Reply),
    /// A challenge of AUTH, base64 undone.
    Challenge(Bytes),
    /// The next octets behind a reply, transparency undone; never empty.
    Data(Bytes),
    /// The lines behind a reply have ended.
    DataEnd,
    /// What came is no reply: close. Nothing else will come out.
    Malformed(&'static str),
}

#[derive(Debug)]
enum State {
    Reply,
    Data(Unstuffer),
    Broken,
}

/// Octets of a server in, replies out.
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
        Decoder { lines: Lines::default(), state: State::Reply }
    }

    /// Takes octets that the server sent.
    pub fn push(&mut self, octets: &[u8]) {
        if !matches!(self.state, State::Broken) {
            self.lines.input.extend_from_slice(octets);
        }
    }

    /// Lines come, up to a dot alone.
    pub fn expect_lines(&mut self) {
        if matches!(self.state, State::Reply) {
            self.state = State::Data(Unstuffer::new(LineEnds::Any));
        }
    }

    /// What comes next. Call until [`Decoded::NeedMore`], acting on each before the next call.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at NeedMore; this goes on")]
    pub fn next(&mut self) -> Decoded {
        match &mut self.state {
            State::Reply => match self.lines.next(LINE_OCTETS_MAX, reply) {
                Line::NeedMore => Decoded::NeedMore,
                Line::Whole(Ok(decoded)) => decoded,
                Line::Whole(Err(text)) => self.malformed(text),
                Line::TooLong | Line::Endless => self.malformed("Reply line too long"),
            },
            State::Data(unstuffer) => match unstuffer.next(&mut self.lines.input) {
                Unstuffed::NeedMore => Decoded::NeedMore,
                Unstuffed::Data(octets) => Decoded::Data(octets),
                Unstuffed::End => {
                    self.state = State::Reply;
                    Decoded::DataEnd
                }
            },
            State::Broken => Decoded::NeedMore,
        }
    }

    fn malformed(&mut self, text: &'static str) -> Decoded {
        self.lines.take_input();
        self.state = State::Broken;
        Decoded::Malformed(text)
    }
}

/// One line of a server.
fn reply(line: &[u8]) -> Result<Decoded, &'static str> {
    if let Some(challenge) = line.strip_prefix(b"+ ") {
        return sasl::decode(challenge).map(Decoded::Challenge).map_err(|_| "A challenge that is no base64");
    }
    let line = String::from_utf8_lossy(line);
    let (ok, rest) = match (line.strip_prefix("+OK"), line.strip_prefix("-ERR")) {
        (Some(rest), _) => (true, rest),
        (_, Some(rest)) => (false, rest),
        _ => return Err("Reply without +OK or -ERR"),
    };
    let rest = match rest.strip_prefix(' ') {
        Some(rest) => rest,
        None if rest.is_empty() => rest,
        None => return Err("Reply without a space"),
    };
    let coded = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')).filter(|_| !ok);
    let (code, text) = match coded {
        Some((code, text)) => (Some(Code::parse(code)), text.strip_prefix(' ').unwrap_or(text)),
        None => (None, rest),
    };
    Ok(Decoded::Reply(Reply { ok, code, text: Cow::Owned(text.to_owned()) }))
}
