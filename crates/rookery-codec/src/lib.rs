//! Octets of mail protocols to typed messages and back, in both directions: what a server reads and writes,
//! and what a client of one does.
//!
//! Invariants:
//! - Nothing here does I/O: no socket, no task, no clock. Octets are pushed in, values come out.
//! - Framing comes before parsing, so that after a bad command the stream is still in step.
//! - Everything that is buffered has a limit; a message's octets are streamed, never collected.
//! - How the input was cut into pieces never changes what comes out, but for how message octets are cut.

pub mod dot;
pub mod imap;
mod lines;
pub mod lmtp;
pub mod pop3;
pub mod sasl;
