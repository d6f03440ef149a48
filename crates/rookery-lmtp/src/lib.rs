//! LMTP sessions (RFC 2033): messages from the MTA into the store, with one answer for each recipient.
//!
//! Invariants:
//! - What a session needs of directory and store it gets through [`Backing`]; it opens no socket and no file.
//! - An unknown user is refused at RCPT, and only when the directory surely knows of none: mail is never
//!   bounced because something is away.
//! - Recipients at home at other nodes get the message from there; the octets are passed on as they come.
//! - Nothing of a message is changed; `Return-Path` and `Received` are put on top.

mod authenticate;
mod backing;
mod body;
mod config;
mod deliver;
mod follow;
mod forward;
mod home;
mod house;
mod parcel;
mod session;

pub use backing::{Backing, DeliverError, Delivered, LookUpError, Once, Place};
pub use config::LmtpConfig;
pub use home::{Carrier, serve_pipe};
pub use house::House;
pub use session::{Services, Site, serve_connection};
