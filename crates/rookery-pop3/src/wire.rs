//! The two directions of one connection: octets in through the decoder, answers out in batches.
//!
//! Invariants:
//! - An answer stays in the batch until `flush` (before waiting for the client, or when the batch is full): answers
//!   to pipelined commands leave in one write.
//! - An idle wire owns no buffers.

use std::time::Duration;

use rookery_codec::pop3::Reply;
use rookery_codec::pop3::server::{Decoded, Decoder};
use rookery_net::{Connection, IoError};
use rookery_route::SessionNote;
use tokio::time::Instant;

/// One client's octets, both ways.
pub(crate) struct Wire {
    pub(crate) connection: Connection,
    pub(crate) decoder: Decoder,
    pub(crate) patience: Patience,
    /// Whether the node that holds the client's socket ends.
    pub(crate) leaving: bool,
    /// The other half asks for the session's value, to go on from it.
    pub(crate) suspended: bool,
}

/// How long the client is waited for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Patience {
    /// Until it has to be gone, whatever it sends.
    Until(Instant),
    /// As long as it is not silent for longer.
    Silence(Duration),
}

impl Wire {
    pub(crate) fn new(connection: Connection, patience: Patience) -> Wire {
        Wire { connection, decoder: Decoder::new(), patience, leaving: false, suspended: false }
    }

    /// Adds an answer to the batch.
    pub(crate) fn put(&mut self, reply: &Reply) {
        reply.print(self.connection.out());
    }

    /// Sends the batch if it is full, and lets other sessions have their turn.
    pub(crate) async fn flush_if_full(&mut self) -> Result<(), IoError> {
        if self.connection.must_flush() {
            self.connection.flush().await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// Waits for octets of the client; says whether it is still there. Safe to cancel.
    pub(crate) async fn read(&mut self) -> Result<bool, IoError> {
        let limit = match self.patience {
            Patience::Until(deadline) => deadline.saturating_duration_since(Instant::now()),
            Patience::Silence(longest) => longest,
        };
        if self.connection.read_some(self.decoder.buffer(), limit).await? > 0 {
            return Ok(true);
        }
        // Behind a note, if that is what reading has stopped at, it goes on.
        let note = self.connection.pipe().and_then(|pipe| pipe.take_note());
        match note.clone().and_then(SessionNote::decode) {
            Some(SessionNote::Leave) => self.leaving = true,
            Some(SessionNote::Suspend) => self.suspended = true,
            _ => {}
        }
        Ok(note.is_some())
    }

    /// The next thing that is not [`Decoded::NeedMore`], while a command is under way.
    pub(crate) async fn next(&mut self) -> Result<Decoded, IoError> {
        loop {
            match self.decoder.next() {
                Decoded::NeedMore => {
                    self.connection.flush().await?;
                    if !self.read().await? {
                        return Err(IoError::Lost(std::io::ErrorKind::UnexpectedEof.into()));
                    }
                }
                decoded => return Ok(decoded),
            }
        }
    }
}
