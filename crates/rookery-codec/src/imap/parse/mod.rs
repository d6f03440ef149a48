//! Frames to values: commands for a server, responses for a client.

pub(crate) mod append;
mod code;
pub(crate) mod command;
mod data;
pub(crate) mod fetch;
mod fetch_data;
pub(crate) mod list;
mod list_data;
mod notify;
pub(crate) mod response;
pub(crate) mod scan;
pub(crate) mod search;
