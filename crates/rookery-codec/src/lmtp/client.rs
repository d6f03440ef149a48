//! A client's side of the wire: commands out, replies in.

use super::address::Address;
use super::command::{Body, Command, Mail, Notify, Rcpt, Ret};
use super::reply::{Enhanced, Reply};
use crate::sasl;
use bytes::{Buf, BytesMut};
use std::borrow::Cow;
use std::fmt::Write;

/// Octets in the longest reply line.
const LINE_OCTETS_MAX: usize = 4096;
/// Lines in the longest reply.
const LINES_MAX: usize = 256;

/// A command that cannot be sent: it holds a line end, or a word with a space in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the command cannot be written in one line")]
pub struct NotOneLine;

/// Appends a command with its line end. Nothing is appended on an error.
pub fn encode(command: &Command, out: &mut BytesMut) -> Result<(), NotOneLine> {
    let line = match command {
        Command::Lhlo(name) => format!("LHLO {name}"),
        Command::Helo | Command::Ehlo | Command::Unknown { .. } => return Err(NotOneLine),
        Command::Mail(mail) => self::mail(mail)?,
        Command::Rcpt(rcpt) => self::rcpt(rcpt)?,
        Command::Data => "DATA".to_owned(),
        Command::Bdat { octets, last: false } => format!("BDAT {octets}"),
        Command::Bdat { octets, last: true } => format!("BDAT {octets} LAST"),
        Command::Rset => "RSET".to_owned(),
        Command::Noop => "NOOP".to_owned(),
        Command::Quit => "QUIT".to_owned(),
        Command::Vrfy(what) => format!("VRFY {what}"),
        Command::StartTls => "STARTTLS".to_owned(),
        Command::Auth { mechanism, initial: None } => format!("AUTH {mechanism}"),
        Command::Auth { mechanism, initial: Some(initial) } => {
            format!("AUTH {mechanism} {}", sasl::encode_initial(initial.as_bytes()))
        }
    };
    if line.chars().any(char::is_control) {
        return Err(NotOneLine);
    }
    out.extend_from_slice(line.as_bytes());
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Appends a parameter.
fn parameter(line: &mut String, name: &str, value: &str) -> Result<(), NotOneLine> {
    if value.contains(' ') {
        return Err(NotOneLine);
    }
    line.push(' ');
    line.push_str(name);
    line.push_str(value);
    Ok(())
}

fn mail(mail: &Mail) -> Result<String, NotOneLine> {
    let mut line = format!("MAIL FROM:<{}>", mail.from.as_ref().map_or(String::new(), Address::to_string));
    if let Some(octets) = mail.size {
        parameter(&mut line, "SIZE=", &octets.to_string())?;
    }
    if let Some(body) = mail.body {
        parameter(
            &mut line,
            "BODY=",
            match body {
                Body::SevenBit => "7BIT",
                Body::EightBitMime => "8BITMIME",
                Body::BinaryMime => "BINARYMIME",
            },
        )?;
    }
    if mail.smtputf8 {
        parameter(&mut line, "SMTPUTF8", "")?;
    }
    if let Some(auth) = &mail.auth {
        parameter(&mut line, "AUTH=", &xtext(auth))?;
    }
    if let Some(ret) = mail.ret {
        parameter(
            &mut line,
            "RET=",
            match ret {
                Ret::Full => "FULL",
                Ret::Headers => "HDRS",
            },
        )?;
    }
    if let Some(envid) = &mail.envid {
        parameter(&mut line, "ENVID=", &xtext(envid))?;
    }
    Ok(line)
}

fn rcpt(rcpt: &Rcpt) -> Result<String, NotOneLine> {
    let mut line = format!("RCPT TO:<{}>", rcpt.to);
    if let Some(Notify { success, failure, delay }) = rcpt.notify {
        let words = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
        let words: Vec<&str> = words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect();
        let value = if words.is_empty() { "NEVER".to_owned() } else { words.join(",") };
        parameter(&mut line, "NOTIFY=", &value)?;
    }
    if let Some((kind, address)) = &rcpt.orcpt {
        parameter(&mut line, "ORCPT=", &format!("{kind};{}", xtext(address)))?;
    }
    if rcpt.ignore_quota {
        parameter(&mut line, "IGNOREQUOTA", "")?;
    }
    Ok(line)
}

/// `xtext` of RFC 3461 §4.
fn xtext(octets: &[u8]) -> String {
    let mut text = String::with_capacity(octets.len());
    for octet in octets {
        match octet {
            b'+' | b'=' | ..=b' ' | 0x7f.. => {
                // Writing to a String cannot fail.
                let _ = write!(text, "+{octet:02X}");
            }
            octet => text.push(char::from(*octet)),
        }
    }
    text
}

/// What came out of a server's octets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// Nothing whole yet.
    NeedMore,
    /// One reply.
    Reply(Reply),
    /// What came is no reply: close. Nothing else will come out.
    Malformed(&'static str),
}

/// Octets of a server in, replies out.
#[derive(Debug, Default)]
pub struct Decoder {
    input: BytesMut,
    scanned: usize,
    begun: Option<Reply>,
    broken: bool,
}

impl Decoder {
    /// At the start of a connection.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Takes octets that the server sent.
    pub fn push(&mut self, octets: &[u8]) {
        if !self.broken {
            self.input.extend_from_slice(octets);
        }
    }

    /// What comes next. Call until [`Decoded::NeedMore`].
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at NeedMore; this goes on")]
    pub fn next(&mut self) -> Decoded {
        loop {
            if self.broken {
                self.input.clear();
                return Decoded::NeedMore;
            }
            let unseen = self.input.get(self.scanned..).unwrap_or(&[]);
            let found = memchr::memchr(b'\n', unseen);
            let end = found.map_or(self.input.len(), |at| self.scanned + at + 1);
            self.scanned = end;
            if end > LINE_OCTETS_MAX {
                self.broken = true;
                return Decoded::Malformed("Reply line too long");
            }
            if found.is_none() {
                return Decoded::NeedMore;
            }
            let line = String::from_utf8_lossy(self.input.get(..end).unwrap_or(&[])).into_owned();
            self.input.advance(end);
            self.scanned = 0;
            match self.line(line.trim_end_matches(['\r', '\n'])) {
                Ok(Some(reply)) => return Decoded::Reply(reply),
                Ok(None) => {}
                Err(text) => {
                    self.broken = true;
                    return Decoded::Malformed(text);
                }
            }
        }
    }

    /// One line of a reply; the reply, if it is the last.
    fn line(&mut self, line: &str) -> Result<Option<Reply>, &'static str> {
        let (code, rest) = line.split_at_checked(3).ok_or("Reply without a code")?;
        let code: u16 = code.parse().map_err(|_| "Reply without a code")?;
        if !(200..600).contains(&code) {
            return Err("Reply without a code");
        }
        let (last, text) = match rest.as_bytes().first() {
            None => (true, ""),
            Some(b' ') => (true, rest.get(1..).unwrap_or("")),
            Some(b'-') => (false, rest.get(1..).unwrap_or("")),
            Some(_) => return Err("Reply without a space"),
        };
        let (enhanced, text) = match enhanced(text, code) {
            Some((enhanced, text)) => (Some(enhanced), text),
            None => (None, text),
        };
        let reply = self.begun.get_or_insert(Reply { code, enhanced, lines: Vec::new() });
        if reply.code != code {
            return Err("Reply with two codes");
        }
        if reply.lines.len() >= LINES_MAX {
            return Err("Reply too long");
        }
        reply.lines.push(Cow::Owned(text.to_owned()));
        Ok(if last { self.begun.take() } else { None })
    }
}

/// `status-code SP` of RFC 2034 §4: its class is that of the reply.
fn enhanced(text: &str, code: u16) -> Option<(Enhanced, &str)> {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let mut parts = word.split('.');
    let mut number = || {
        let part = parts.next()?;
        let legal = (1..=3).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
        part.parse::<u16>().ok().filter(|_| legal)
    };
    let (class, subject, detail) = (number()?, number()?, number()?);
    if parts.next().is_some() || class != code / 100 || !matches!(class, 2 | 4 | 5) {
        return None;
    }
    Some((Enhanced(u8::try_from(class).ok()?, subject, detail), rest))
}
