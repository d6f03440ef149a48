//! The two directions of one connection: octets in through the decoder, responses out in batches.
//!
//! Invariants:
//! - A response stays in the batch until `flush` (before waiting for the client, or when the batch is full):
//!   many small answers leave in one write.
//! - An idle wire owns no buffers.

use crate::answer::Failure;
use crate::command::operation::Operation;
use crate::handed::Replay;
use crate::mark::Marks;
use crate::session::Enabled;
use rookery_codec::imap::server::{Decoded, Decoder, Limits};
use rookery_codec::imap::{Response, print};
use rookery_net::{Connection, IoError};
use rookery_route::SessionNote;
use std::time::Duration;
use tokio::time::Instant;

/// Octets in the longest line that is no command: a SASL response, or `DONE`.
pub(crate) const LINE_OCTETS_MAX: usize = 12 << 10;

/// One client's octets, both ways.
pub(crate) struct Wire {
    pub(crate) connection: Connection,
    pub(crate) decoder: Decoder,
    /// How long the client may be silent.
    pub(crate) silence_max: Duration,
    /// When a client that has not logged in has to be gone, whatever it sends and reads until then.
    pub(crate) deadline: Option<Instant>,
    /// Only administrators log in here.
    pub(crate) administrators: bool,
    /// Whether the node that holds the client's socket ends.
    pub(crate) leaving: bool,
    /// The other half asks for the session's value, to go on from it.
    pub(crate) suspended: bool,
    /// Whether compression can begin where the client's socket is.
    pub(crate) can_deflate: bool,
    /// The marks that the other half wants.
    pub(crate) marks: Option<Box<Marks>>,
    /// An APPEND that found its account gone.
    pub(crate) replay: Option<Box<Replay>>,
    /// The connection's id where the client's socket is, for the log of every node.
    pub(crate) trace: u64,
    /// Of a guest: what is on in the session that it serves, if it has heard that since its last command.
    pub(crate) enabled: Option<Enabled>,
    /// Of a guest: what the APPEND that comes next is.
    pub(crate) operation: Option<Operation>,
    /// The command that comes next is of a REPLACE: of a guest, one that its session is about; else what is left of one
    /// whose new message is there already.
    pub(crate) replaces: bool,
}

impl Wire {
    pub(crate) fn new(connection: Connection, limits: Limits, silence_max: Duration, trace: u64) -> Wire {
        let decoder = Decoder::new(limits);
        Wire {
            connection,
            decoder,
            silence_max,
            deadline: None,
            administrators: false,
            leaving: false,
            suspended: false,
            can_deflate: true,
            marks: None,
            replay: None,
            trace,
            enabled: None,
            operation: None,
            replaces: false,
        }
    }

    /// Adds a response to the batch.
    pub(crate) fn put(&mut self, response: &Response) {
        print::response(self.connection.out(), response);
    }

    /// Sends the batch.
    pub(crate) async fn flush(&mut self) -> Result<(), IoError> {
        let Some(deadline) = self.deadline else { return self.connection.flush().await };
        // In a box, since the wait of those who have logged in is to stay small.
        let flush = Box::pin(tokio::time::timeout_at(deadline, self.connection.flush()));
        flush.await.map_err(|_| IoError::Idle)?
    }

    /// Sends the batch if it is full, and lets other sessions have their turn.
    pub(crate) async fn flush_if_full(&mut self) -> Result<(), IoError> {
        if self.connection.must_flush() {
            self.connection.flush().await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Waits for octets of the client, or for a note of the node that holds its socket; says whether the client is
    /// still there. Safe to cancel.
    pub(crate) async fn read(&mut self, silence_max: Duration) -> Result<bool, IoError> {
        let left = match self.deadline {
            None => silence_max,
            Some(deadline) => silence_max.min(deadline.saturating_duration_since(Instant::now())),
        };
        // Octets that are there already would be taken even without time to wait.
        if left.is_zero() {
            return Err(IoError::Idle);
        }
        let octets = self.connection.read_some(self.decoder.buffer(), left).await?;
        if octets > 0 {
            if let Some(marks) = &mut self.marks {
                marks.read += octets as u64;
            }
            return Ok(true);
        }
        // Behind a note, if that is what reading has stopped at, it goes on.
        let note = self.connection.pipe().and_then(|pipe| pipe.take_note());
        match note.clone().and_then(SessionNote::decode) {
            Some(SessionNote::Leave) => self.leaving = true,
            Some(SessionNote::Suspend) => self.suspended = true,
            Some(SessionNote::Enabled(bits)) => self.enabled = Some(Enabled::from_bits(bits)),
            Some(SessionNote::Operation { id, again }) => self.operation = Some(Operation { id, again }),
            Some(SessionNote::Replaces) => self.replaces = true,
            _ => {}
        }
        Ok(note.is_some())
    }

    /// The next thing that is not [`Decoded::NeedMore`], while a command is under way. Sends what is waiting
    /// before it waits itself.
    pub(crate) async fn next(&mut self) -> Result<Decoded, Failure> {
        loop {
            match self.decoder.next() {
                Decoded::NeedMore => {
                    self.flush().await?;
                    if !self.read(self.silence_max).await? {
                        return Err(closed());
                    }
                }
                Decoded::Continue => {
                    self.connection.out().extend_from_slice(b"+ OK\r\n");
                    self.flush().await?;
                }
                decoded => return Ok(decoded),
            }
        }
    }
}

/// The client has closed the connection in the middle of a command.
pub(crate) fn closed() -> Failure {
    Failure::Gone(IoError::Lost(std::io::ErrorKind::UnexpectedEof.into()))
}
