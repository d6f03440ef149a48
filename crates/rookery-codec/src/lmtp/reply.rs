//! Replies (RFC 5321 §4.2) with enhanced status codes (RFC 2034).

use bytes::{BufMut, BytesMut};
use std::borrow::Cow;
use std::fmt;

/// An enhanced status code, `class.subject.detail` (RFC 3463). The class is 2, 4 or 5.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Enhanced(pub u8, pub u16, pub u16);

impl fmt::Display for Enhanced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// One reply, of one line or more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reply {
    /// 200..=599
    pub code: u16,
    /// Stands on every line.
    pub enhanced: Option<Enhanced>,
    /// At least one; printed with what would end a line early as spaces.
    pub lines: Vec<Cow<'static, str>>,
}

impl Reply {
    /// A reply of one line, with an enhanced code.
    pub fn new(code: u16, enhanced: (u8, u16, u16), text: impl Into<Cow<'static, str>>) -> Reply {
        let (class, subject, detail) = enhanced;
        Reply { code, enhanced: Some(Enhanced(class, subject, detail)), lines: vec![text.into()] }
    }

    /// A reply without an enhanced code: the greeting, 354, 334, and the answer to LHLO (RFC 2034 §4).
    pub fn plain(code: u16, text: impl Into<Cow<'static, str>>) -> Reply {
        Reply { code, enhanced: None, lines: vec![text.into()] }
    }

    /// The answer to LHLO: the server's name, then one extension a line.
    pub fn lhlo(name: impl Into<Cow<'static, str>>, extensions: Vec<Cow<'static, str>>) -> Reply {
        let mut lines = vec![name.into()];
        lines.extend(extensions);
        Reply { code: 250, enhanced: None, lines }
    }

    /// Whether the code is 2xx or 3xx.
    pub fn is_positive(&self) -> bool {
        (200..400).contains(&self.code)
    }

    /// Appends the reply.
    ///
    /// ```abnf
    /// Reply-line = *(Reply-code "-" [textstring] CRLF) Reply-code [SP textstring] CRLF
    /// ```
    pub fn print(&self, out: &mut BytesMut) {
        let count = self.lines.len().max(1);
        for at in 0..count {
            let text = self.lines.get(at).map_or("", |line| line);
            let between = if at + 1 < count { '-' } else { ' ' };
            out.extend_from_slice(format!("{:03}{between}", self.code).as_bytes());
            if let Some(enhanced) = self.enhanced {
                out.extend_from_slice(format!("{enhanced} ").as_bytes());
            }
            out.extend(text.bytes().map(|b| if matches!(b, b'\r' | b'\n' | 0) { b' ' } else { b }));
            out.put_slice(b"\r\n");
        }
    }
}
