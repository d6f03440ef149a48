//! Why something on a link failed, and whether the peer can have seen it.

use std::sync::Arc;

use rookery_types::NodeId;

use crate::frame::ResetCode;

/// What a caller may conclude about the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// No service of the peer can have seen anything of the stream. It is safe to say "not done", or to try elsewhere.
    Not,
    /// The peer may have seen all of it, some, or nothing.
    Unknown,
}

/// Why a stream cannot be opened, or went away.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// The node is not among the peers.
    #[error("node {0} is no peer of this node")]
    UnknownPeer(NodeId),
    /// No connection to the node.
    #[error("there is no connection to node {peer}: {why}")]
    Away {
        /// The node.
        peer: NodeId,
        /// What was tried last and how it failed.
        why: Arc<str>,
    },
    /// The peer did not let the stream through to a service.
    #[error("node {peer} refuses the stream: {text}")]
    Refused {
        /// The node.
        peer: NodeId,
        /// Why.
        code: ResetCode,
        /// Why, for people.
        text: Arc<str>,
    },
    /// The peer's service, or this side's other half, ended the stream early.
    #[error("the stream with node {peer} was reset: {text}")]
    Reset {
        /// The node.
        peer: NodeId,
        /// Why.
        code: ResetCode,
        /// Why, for people.
        text: Arc<str>,
    },
    /// The connection broke.
    #[error("the connection to node {peer} was lost: {why}")]
    Lost {
        /// The node.
        peer: NodeId,
        /// How.
        why: Arc<str>,
        /// Whether anything of the stream can have left this node.
        reach: Reach,
    },
    /// The caller asks for what cannot be: sending after the end, a message above the limit.
    #[error("the stream cannot be used so: {0}")]
    Misuse(&'static str),
}

impl LinkError {
    /// What is known of the peer. A request of which some was sent before is as unknown as its stream.
    pub fn reach(&self) -> Reach {
        match self {
            LinkError::UnknownPeer(_) | LinkError::Away { .. } | LinkError::Refused { .. } => Reach::Not,
            LinkError::Lost { reach, .. } => *reach,
            LinkError::Reset { .. } | LinkError::Misuse(_) => Reach::Unknown,
        }
    }

    /// Whether no service of the peer can have seen anything of the stream.
    pub fn cannot_have_reached(&self) -> bool {
        self.reach() == Reach::Not
    }
}

impl From<LinkError> for std::io::Error {
    fn from(error: LinkError) -> std::io::Error {
        let kind = match &error {
            LinkError::Reset { .. } | LinkError::Lost { .. } => std::io::ErrorKind::ConnectionReset,
            LinkError::Misuse(_) => std::io::ErrorKind::InvalidInput,
            _ => std::io::ErrorKind::NotConnected,
        };
        std::io::Error::new(kind, error)
    }
}
