//! LMTP sessions (RFC 2033): messages from the MTA into the store, with one answer for each recipient.
mod body;
mod command;
mod config;
mod reply;
pub use config::LmtpConfig;
