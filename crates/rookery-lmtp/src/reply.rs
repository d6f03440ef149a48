//! What the server says: a code, an enhanced code (RFC 2034, RFC 3463) and a text.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

/// One single-line reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    /// Empty where RFC 2034 §4 has none: greeting and answers to LHLO.
    pub(crate) enhanced: &'static str,
    /// Has no control characters.
    pub(crate) text: Cow<'static, str>,
}

impl Reply {
    pub(crate) const fn new(code: u16, enhanced: &'static str, text: &'static str) -> Reply {
        Reply { code, enhanced, text: Cow::Borrowed(text) }
    }

    /// With text made at run time, whose parts from outside were checked by the parser.
    pub(crate) fn with(code: u16, enhanced: &'static str, text: String) -> Reply {
        Reply { code, enhanced, text: Cow::Owned(text) }
    }

    /// Whether something was done.
    pub(crate) fn is_success(&self) -> bool {
        self.code < 300
    }

    pub(crate) fn write(&self, out: &mut BytesMut) {
        let space = if self.enhanced.is_empty() { "" } else { " " };
        out.put_slice(format!("{} {}{space}{}\r\n", self.code, self.enhanced, self.text).as_bytes());
    }
}
