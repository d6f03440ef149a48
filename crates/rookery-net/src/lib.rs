//! Connections: listeners, streams, TLS, limits per address, and the signal that drains a server.
//!
//! This is the only crate that opens a socket to a client. It knows no protocol: what it moves is octets.
//!
//! Invariants:
//! - One task per connection, and no split streams: every read is safe to cancel, so the task may wait for
//!   octets and for something else at once.
//! - An idle connection owns no buffer (see [`connection`]).
//! - What counts a connection is an RAII guard; a task that panics or is dropped gives back what it held.
//! - Nothing read before a STARTTLS handshake is believed after it ([`Stream::start_tls`]).

mod certificates;
pub mod connection;
mod deflate;
pub mod door;
pub mod drain;
pub mod gate;
pub mod inherit;
pub mod listener;
pub mod measure;
pub mod networks;
pub mod peer;
pub mod pipe;
mod proof;
pub mod serve;
pub mod stream;
pub mod tls;

pub use connection::{Connection, IoError};
pub use door::Door;
pub use drain::{Drain, DrainGuard};
pub use gate::{ConnectionLimits, Gate, Permit, Source};
pub use inherit::{Handover, Held, Inherited};
pub use listener::{BindError, ListenOptions, ListenSpec, Listener};
pub use measure::{ConnectionEnd, MetricNames, Timing};
pub use networks::Networks;
pub use peer::{Local, Peer};
pub use pipe::{Before, Onlooker, Pipe, Relay, Stopped};
pub use proof::ClientNames;
pub use serve::{Accepted, ConnId, Service, serve};
pub use stream::{StartTlsError, Stream, TlsInfo};
pub use tls::{SelfSigned, ServerTls, TlsError, TlsFiles};
pub use tokio_rustls::TlsAcceptor;
