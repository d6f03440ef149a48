//! Reading mail out of files that other programs keep.
//!
//! Invariants:
//! - The files are only read.
//! - What cannot be read is told and left out; it does not end the import.
//! - One message is in memory at a time for each that is under way; sizes are checked before reading.

pub(crate) mod maildir;
pub(crate) mod mbox;

use rookery_types::{InternalDate, Keyword, SystemFlags};

/// One message as a file has it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// With CR LF at each line's end.
    pub(crate) octets: Vec<u8>,
    pub(crate) flags: SystemFlags,
    pub(crate) keywords: Vec<Keyword>,
    pub(crate) date: InternalDate,
}

/// Gives every line CR LF: what files have as LF alone. A CR that stands elsewhere stays.
pub(crate) fn crlf(octets: &[u8]) -> Vec<u8> {
    let lines = memchr::memchr_iter(b'\n', octets).count();
    let mut out = Vec::with_capacity(octets.len() + lines);
    let mut start = 0;
    for at in memchr::memchr_iter(b'\n', octets) {
        let line = octets.get(start..at).unwrap_or_default();
        out.extend_from_slice(line);
        if !line.ends_with(b"\r") {
            out.push(b'\r');
        }
        out.push(b'\n');
        start = at + 1;
    }
    out.extend_from_slice(octets.get(start..).unwrap_or_default());
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn lines_end_in_crlf_once() {
        assert_eq!(super::crlf(b"a\nb\r\n\nc\rd"), b"a\r\nb\r\n\r\nc\rd");
    }
}
