//! Replies (RFC 1939 §3) with response codes (RFC 2449 §8).

use bytes::{BufMut, BytesMut};
use std::borrow::Cow;

/// Octets in the longest first line of a reply, its end included (RFC 2449 §4).
const LINE_OCTETS_MAX: usize = 512;

/// What a program can know of a reply (RFC 2449 §8, RFC 3206, RFC 6856 §5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Code {
    /// `AUTH`: user or password is wrong, so the user should be asked (RFC 3206 §5).
    Auth,
    /// `SYS/TEMP`: nothing the user can do; it may pass (RFC 3206 §4).
    SysTemp,
    /// `SYS/PERM`: nothing the user can do; it will not pass (RFC 3206 §4).
    SysPerm,
    /// `IN-USE`: the maildrop can have no more sessions (RFC 2449 §8.1.1).
    InUse,
    /// `UTF8` (RFC 6856 §5)
    Utf8,
    /// A code that this codec does not know, in upper case.
    Other(Box<str>),
}

impl Code {
    /// As it stands between the brackets.
    pub fn as_str(&self) -> &str {
        match self {
            Code::Auth => "AUTH",
            Code::SysTemp => "SYS/TEMP",
            Code::SysPerm => "SYS/PERM",
            Code::InUse => "IN-USE",
            Code::Utf8 => "UTF8",
            Code::Other(text) => text,
        }
    }

    /// Reads what stands between brackets.
    pub fn parse(text: &str) -> Code {
        let known = [Code::Auth, Code::SysTemp, Code::SysPerm, Code::InUse, Code::Utf8];
        let found = known.into_iter().find(|code| code.as_str().eq_ignore_ascii_case(text));
        found.unwrap_or_else(|| Code::Other(text.to_ascii_uppercase().into()))
    }
}

/// The line that answers a command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// `+OK` or `-ERR`
    pub ok: bool,
    /// In brackets, if there is one.
    pub code: Option<Code>,
    /// Printed with what would end the line early as spaces, and cut where the line would be too long.
    pub text: Cow<'static, str>,
}

impl Reply {
    /// `+OK`
    pub fn ok(text: impl Into<Cow<'static, str>>) -> Reply {
        Reply { ok: true, code: None, text: text.into() }
    }

    /// `-ERR` without a code.
    pub fn err(text: impl Into<Cow<'static, str>>) -> Reply {
        Reply { ok: false, code: None, text: text.into() }
    }

    /// `-ERR` with a code.
    pub fn refused(code: Code, text: impl Into<Cow<'static, str>>) -> Reply {
        Reply { ok: false, code: Some(code), text: text.into() }
    }

    /// Appends the line.
    ///
    /// ```abnf
    /// response = status-indicator [SP resp-code] [SP text] CRLF
    /// ```
    pub fn print(&self, out: &mut BytesMut) {
        let start = out.len();
        out.extend_from_slice(if self.ok { b"+OK" } else { b"-ERR" });
        if let Some(code) = &self.code {
            out.extend_from_slice(b" [");
            out.extend_from_slice(code.as_str().as_bytes());
            out.put_u8(b']');
        }
        if !self.text.is_empty() {
            out.put_u8(b' ');
            let room = LINE_OCTETS_MAX.saturating_sub(2 + out.len() - start);
            let mut end = self.text.len().min(room);
            while !self.text.is_char_boundary(end) {
                end -= 1;
            }
            let text = self.text.get(..end).unwrap_or("");
            out.extend(text.bytes().map(|b| if matches!(b, b'\r' | b'\n' | 0) { b' ' } else { b }));
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends a challenge of AUTH, `+ base64` (RFC 5034 §4).
pub fn print_challenge(challenge: &[u8], out: &mut BytesMut) {
    out.extend_from_slice(b"+ ");
    out.extend_from_slice(crate::sasl::encode(challenge).as_bytes());
    out.extend_from_slice(b"\r\n");
}
