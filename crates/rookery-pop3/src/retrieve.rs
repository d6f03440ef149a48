//! RETR and TOP: a message's octets, piece by piece.
//!
//! Invariants:
//! - A message takes at most [`WHOLE_OCTETS_MAX`] octets of memory, or one piece being sent and one being read.
//! - What cannot be read is said before `+OK`. Once a message is under way nothing can be said any more, so the
//!   connection ends without the last dot, and no client takes the message for whole.

use bytes::Bytes;
use rookery_codec::dot::{DotStuffer, LineEnds};
use rookery_codec::pop3::Reply;
use rookery_net::IoError;
use rookery_store::{BodyReader, Mailbox, Message, StoreError};

use crate::connection::Outcome;
use crate::maildrop::failed;
use crate::wire::Wire;

/// The largest message that is read whole, with its checksum, octets.
const WHOLE_OCTETS_MAX: u32 = 1 << 20;
/// The largest one for TOP, which wants the beginning.
const WHOLE_OCTETS_MAX_OF_TOP: u32 = 64 << 10;
/// Octets read at once of larger ones.
const PIECE_OCTETS: usize = 256 << 10;

/// Sends a message, or its header and `lines` lines of its body.
pub(crate) async fn retrieve(
    wire: &mut Wire,
    mailbox: &Mailbox,
    message: &Message,
    lines: Option<u32>,
) -> Result<Outcome, IoError> {
    let size = u64::from(message.size);
    let (whole_max, piece_octets) = match lines {
        None => (WHOLE_OCTETS_MAX, PIECE_OCTETS),
        Some(_) => (WHOLE_OCTETS_MAX_OF_TOP, WHOLE_OCTETS_MAX_OF_TOP as usize),
    };
    let first = match message.size <= whole_max {
        true => whole(mailbox, message).await.map(|octets| (octets, None)),
        false => match reader(mailbox, message).await {
            Ok(reader) => read_part(&reader, 0, piece_octets).await.map(|octets| (octets, Some(reader))),
            Err(error) => Err(error),
        },
    };
    let (mut piece, reader) = match first {
        Ok(first) => first,
        Err(StoreError::NoContent)
            if mailbox
                .now()
                .messages
                .as_ref()
                .is_none_or(|now| matches!(now.message(message.uid), Ok(None))) =>
        {
            return Ok(Outcome::Said(Reply::err("Another session has removed that message")));
        }
        Err(error) => return Ok(Outcome::Said(failed(&error))),
    };
    wire.put(&match lines {
        None => Reply::ok(format!("{size} octets")),
        Some(_) => Reply::ok("The top of the message follows"),
    });
    let mut stuffer = DotStuffer::new(LineEnds::Any);
    let mut top = lines.map(Top::new);
    let mut sent = 0;
    loop {
        sent += piece.len() as u64;
        let (part, ended) = match &mut top {
            Some(top) => {
                let (octets, ended) = top.take(&piece);
                (piece.slice(..octets), ended)
            }
            None => (piece, false),
        };
        match stuffer.goes_as_it_is(&part) {
            true => wire.connection.push_body(part),
            false => stuffer.push(&part, wire.connection.out()),
        }
        if ended || sent >= size {
            break;
        }
        let next = async {
            match &reader {
                Some(reader) => read_part(reader, sent, piece_octets).await,
                None => Ok(Bytes::new()),
            }
        };
        let (flushed, next) = tokio::join!(wire.connection.flush(), next);
        flushed?;
        piece = match next {
            Ok(octets) if !octets.is_empty() => octets,
            read => {
                let error = read.err();
                tracing::error!(
                    error = error.as_ref().map(|e| e as &dyn std::error::Error),
                    "a message broke off"
                );
                return Ok(Outcome::Broken);
            }
        };
    }
    stuffer.end(wire.connection.out());
    wire.flush_if_full().await?;
    Ok(Outcome::Sent)
}

/// Reads a message on a thread that may block.
async fn whole(mailbox: &Mailbox, message: &Message) -> Result<Bytes, StoreError> {
    let (account, content) = (mailbox.account().clone(), message.content);
    blocking(move || account.read(content)).await
}

async fn reader(mailbox: &Mailbox, message: &Message) -> Result<BodyReader, StoreError> {
    let (account, content) = (mailbox.account().clone(), message.content);
    blocking(move || account.reader(content)).await
}

async fn read_part(reader: &BodyReader, from: u64, octets: usize) -> Result<Bytes, StoreError> {
    let reader = reader.clone();
    blocking(move || reader.read(from, octets)).await
}

/// Reads the disk on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || span.in_scope(work)).await.unwrap_or(Err(StoreError::CutOff))
}

/// Finds the end of what TOP asks for: the header, the empty line behind it, and some lines.
struct Top {
    lines: u32,
    /// Lines of the body still to come; `None` in the header.
    left: Option<u32>,
    line: Line,
}

/// What the line under way holds so far.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Nothing,
    /// A CR.
    Cr,
    Something,
}

impl Top {
    fn new(lines: u32) -> Top {
        Top { lines, left: None, line: Line::Nothing }
    }

    /// How many of the octets belong to it, and whether they end it.
    fn take(&mut self, octets: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while self.left != Some(0) {
            let rest = octets.get(at..).unwrap_or(&[]);
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.see(rest);
                return (octets.len(), false);
            };
            self.see(rest.get(..end).unwrap_or(&[]));
            at += end + 1;
            match &mut self.left {
                None if self.line != Line::Something => self.left = Some(self.lines),
                None => {}
                Some(left) => *left -= 1,
            }
            self.line = Line::Nothing;
        }
        (at, true)
    }

    fn see(&mut self, octets: &[u8]) {
        self.line = match (self.line, octets) {
            (line, []) => line,
            (Line::Nothing, [b'\r']) => Line::Cr,
            _ => Line::Something,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn top(message: &str, lines: u32, cut: usize) -> String {
        let mut top = Top::new(lines);
        let mut found = Vec::new();
        for piece in message.as_bytes().chunks(cut) {
            let (octets, ended) = top.take(piece);
            found.extend_from_slice(&piece[..octets]);
            if ended {
                break;
            }
        }
        String::from_utf8_lossy(&found).into_owned()
    }

    #[test]
    fn the_top_ends_where_it_was_asked_to_however_it_comes() {
        let message = "A: b\r\n c\r\n\r\none\r\n\r\nthree\r\nfour";
        for cut in 1..=message.len() {
            for (lines, expected) in [
                (0, "A: b\r\n c\r\n\r\n"),
                (1, "A: b\r\n c\r\n\r\none\r\n"),
                (2, "A: b\r\n c\r\n\r\none\r\n\r\n"),
                (3, "A: b\r\n c\r\n\r\none\r\n\r\nthree\r\n"),
                (9, message),
            ] {
                assert_eq!(top(message, lines, cut), expected, "{lines} lines in pieces of {cut}");
            }
            assert_eq!(top("A: b\n\none\ntwo\n", 1, cut), "A: b\n\none\n", "bare LF");
            assert_eq!(top("A: b\r\nC: d", 1, cut), "A: b\r\nC: d", "no body");
            assert_eq!(top("\r\nbody\r\nmore", 1, cut), "\r\nbody\r\n", "no header");
            assert_eq!(top("A: \r\r\n\rx\r\n\r\nb", 0, cut), "A: \r\r\n\rx\r\n\r\n", "a CR is no line");
        }
    }
}
