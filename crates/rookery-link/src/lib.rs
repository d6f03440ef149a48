//! Links between the nodes of a murder: streams multiplexed over a few connections with mutual TLS.
//!
//! [`Links`] is the door: say who the peers are, serve streams, open streams. `ca`, `token` and `join` make the
//! certificates. A node is trusted for what its certificate says, never for its address.
//!
//! Invariants:
//! - What a peer can make this node keep is bounded: frames, windows, streams, frames that answer its own.
//! - A peer that vanishes without a word is cut off within [`mux::DOWN_AFTER`] and a heartbeat; all its streams end.
//! - [`LinkError`] tells "cannot have reached the peer" from "unknown", and says the former only when it is certain.
//! - Content is not logged.

pub mod budget;
pub mod ca;
pub mod dial;
pub mod error;
pub mod files;
pub mod frame;
pub mod hello;
pub mod identity;
pub mod io;
pub mod join;
pub mod links;
pub mod metrics;
pub mod mux;
pub mod peer;
mod services;
mod tls;
pub mod token;
pub mod trace;

pub use budget::Budget;
pub use ca::{Ca, CaError, Credentials, Fingerprint, NODE_DAYS, NodeKey};
pub use dial::{BoxTransport, Dial, Transport};
pub use error::{LinkError, Reach};
pub use hello::{ConnectError, PROTOCOL};
pub use identity::{Duties, Identity};
pub use io::LinkIo;
pub use join::{Admission, JoinDesk, JoinError, Joined, NewNode, join};
pub use links::{Links, LinksConfig, Peer};
pub use metrics::LinkCounters;
pub use mux::{CONTROL_OCTETS_MAX, Incoming, LinkStream, Message, PeerFacts, RecvHalf, SendHalf};
pub use peer::{Class, PeerState};
pub use token::{JoinToken, TokenError, Tokens};
pub use trace::TraceId;
