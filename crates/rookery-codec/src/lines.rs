//! Lines out of a client's octets, for codecs in which every command is one line.
//!
//! Invariants:
//! - What is buffered never exceeds a line's limit and what one `push` brought.
//! - A line that is too long is told once and dropped to its end: the stream stays in step.

use bytes::{Buf, BytesMut};

/// The longest line that is dropped in order to stay in step.
const DROPPED_LINE_OCTETS_MAX: usize = 1 << 20;

/// What [`Lines::next`] found.
#[derive(Debug)]
pub(crate) enum Line<T> {
    /// Nothing whole yet.
    NeedMore,
    /// A whole line, as it was read.
    Whole(T),
    /// A line is longer than it may be. What follows it is found again.
    TooLong,
    /// A line is so long that its end is not waited for. Nothing else will come out.
    Endless,
}

/// Octets that came, and how far they were looked at.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pub(crate) input: BytesMut,
    scanned: usize,
    /// Octets of the line that is being dropped.
    dropped: Option<usize>,
}

impl Lines {
    /// Takes the octets out that nothing has used.
    pub(crate) fn take_input(&mut self) -> BytesMut {
        self.scanned = 0;
        self.input.split()
    }

    /// Whether the end of a line that was too long has not come yet.
    pub(crate) fn is_dropping(&self) -> bool {
        self.dropped.is_some()
    }

    /// Reads the next line, of at most `octets_max` octets with its end, by `read`, which sees it without its
    /// end: CRLF, or LF alone.
    pub(crate) fn next<T>(&mut self, octets_max: usize, read: impl FnOnce(&[u8]) -> T) -> Line<T> {
        loop {
            let unseen = self.input.get(self.scanned..).unwrap_or(&[]);
            let found = memchr::memchr(b'\n', unseen).map(|at| self.scanned + at + 1);
            self.scanned = found.unwrap_or(self.input.len());
            if let Some(dropped) = self.dropped {
                let dropped = dropped.saturating_add(self.scanned);
                if dropped > DROPPED_LINE_OCTETS_MAX {
                    self.input.clear();
                    self.scanned = 0;
                    return Line::Endless;
                }
                self.consume(self.scanned);
                self.dropped = found.is_none().then_some(dropped);
                match found {
                    Some(_) => continue,
                    None => return Line::NeedMore,
                }
            }
            if self.scanned > octets_max {
                self.scanned = 0;
                self.dropped = Some(0);
                return Line::TooLong;
            }
            let Some(end) = found else { return Line::NeedMore };
            let value = read(without_line_end(self.input.get(..end).unwrap_or(&[])));
            self.consume(end);
            return Line::Whole(value);
        }
    }

    fn consume(&mut self, octets: usize) {
        self.input.advance(octets.min(self.input.len()));
        self.scanned = 0;
    }
}

fn without_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}
