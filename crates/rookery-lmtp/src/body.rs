//! The octets of one message on their way into the backing, whether they come by DATA or in chunks.

use std::sync::Arc;

use crate::backing::{Backing, DeliverError};

/// A message that is coming in. Dropping it stores nothing.
pub(crate) struct Incoming<B: Backing> {
    backing: Arc<B>,
    spool: B::Spool,
    octets: u64,
    octets_max: u64,
    /// It was announced as BINARYMIME.
    is_binary: bool,
    /// Somebody here gets it.
    is_kept: bool,
    failed: Option<BodyError>,
}

impl<B: Backing> Incoming<B> {
    /// Begins one. `is_kept`: whether anyone here gets it; else it is only looked at.
    pub(crate) fn new(backing: Arc<B>, octets_max: u64, is_binary: bool, is_kept: bool) -> Incoming<B> {
        let spool = backing.spool();
        Incoming { backing, spool, octets: 0, octets_max, is_binary, is_kept, failed: None }
    }

    /// Takes lines that are put on top, which do not count.
    pub(crate) fn put_on_top(&mut self, lines: &[u8]) {
        self.failed = self.keep(lines);
    }

    /// Takes more of it. What has failed goes on failing: the rest is thrown away.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.octets = self.octets.saturating_add(piece.len() as u64);
        if self.failed.is_some() {
            return;
        }
        self.failed = if self.octets > self.octets_max {
            Some(BodyError::TooLarge)
        } else if !self.is_binary && memchr::memchr(0, piece).is_some() {
            // Neither 7BIT nor 8BITMIME has it (RFC 2045 §2.7, §2.8).
            Some(BodyError::Nul)
        } else {
            self.keep(piece)
        };
    }

    fn keep(&mut self, octets: &[u8]) -> Option<BodyError> {
        if !self.is_kept {
            return None;
        }
        self.backing.push(&mut self.spool, octets).err().map(BodyError::from)
    }

    /// Octets that came, without the lines on top.
    pub(crate) fn octets(&self) -> u64 {
        self.octets
    }

    /// Why it cannot be stored any more.
    pub(crate) fn failure(&self) -> Option<&BodyError> {
        self.failed.as_ref()
    }

    /// Whether nobody can have it, wherever they are.
    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.failed, Some(BodyError::TooLarge | BodyError::Nul))
    }

    /// The message is whole. `None`: nobody here gets it.
    pub(crate) async fn finish(self) -> Result<Option<B::Message>, BodyError> {
        let Incoming { backing, spool, is_kept, failed, .. } = self;
        if let Some(failed) = failed {
            return Err(failed);
        }
        if !is_kept {
            return Ok(None);
        }
        backing.finish(spool).await.map(Some).map_err(BodyError::from)
    }
}

/// Why no recipient, or one recipient, gets the message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("too large")]
    TooLarge,
    #[error("a NUL octet")]
    Nul,
    #[error("over quota")]
    OverQuota,
    #[error("the mailbox is gone")]
    Gone,
    #[error("no space")]
    NoSpace,
    /// The account has left for another node.
    #[error("the account is at home at another node")]
    Moved,
    /// Whoever sent it here has asked what became of it before it came, and was told that it was not stored.
    #[error("broken off on its way, and given up")]
    GivenUp,
    /// The home of the recipient.
    #[error("the home is not reached: {0}")]
    Away(String),
    #[error("{0}")]
    Failed(String),
}

impl BodyError {
    /// Tells the operator, as loudly as there is something to be done about it.
    pub(crate) fn tell(&self, id: &str) {
        match self {
            BodyError::Failed(reason) => tracing::error!(id, %reason, "a message could not be stored"),
            BodyError::Away(reason) => tracing::warn!(id, %reason, "a recipient's home is not reached"),
            // Two nodes lost each other while it was on its way. Nothing is wrong with either.
            BodyError::GivenUp => tracing::info!(
                id,
                "a message was broken off between two nodes and is not stored; the MTA sends it again"
            ),
            other => tracing::debug!(id, reason = %other, "a message was not stored"),
        }
    }
}

impl From<DeliverError> for BodyError {
    fn from(error: DeliverError) -> BodyError {
        match error {
            DeliverError::OverQuota => BodyError::OverQuota,
            DeliverError::TooLarge => BodyError::TooLarge,
            DeliverError::Nul => BodyError::Nul,
            DeliverError::Gone => BodyError::Gone,
            DeliverError::NoSpace => BodyError::NoSpace,
            DeliverError::Moved => BodyError::Moved,
            DeliverError::GivenUp => BodyError::GivenUp,
            DeliverError::Failed(reason) => BodyError::Failed(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use parking_lot::Mutex;
    use tracing::{Event, Level, Metadata, Subscriber, span};

    /// Notes how loud each line is.
    #[derive(Clone, Default)]
    struct Levels(Arc<Mutex<Vec<Level>>>);

    impl Subscriber for Levels {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }
        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
        fn event(&self, event: &Event<'_>) {
            self.0.lock().push(*event.metadata().level());
        }
        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn what_needs_no_operator_is_no_error_in_the_log() {
        let levels = Levels::default();
        tracing::subscriber::with_default(levels.clone(), || {
            for error in [
                DeliverError::from(rookery_store::StoreError::GivenUp).into(),
                BodyError::OverQuota,
                BodyError::Away("why".to_owned()),
                DeliverError::from(rookery_store::StoreError::NoContent).into(),
            ] {
                error.tell("7.1");
            }
        });
        assert_eq!(*levels.0.lock(), [Level::INFO, Level::DEBUG, Level::WARN, Level::ERROR]);
    }
}
