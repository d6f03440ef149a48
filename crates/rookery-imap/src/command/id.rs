//! ID (RFC 2971).

use crate::wire::Wire;
use bytes::Bytes;
use rookery_codec::imap::Response;
use rookery_codec::imap::types::IdParams;

/// Octets of a client's value that are logged.
const LOGGED_OCTETS_MAX: usize = 64;

/// Says who we are. What the client says of itself is for the log, cut short and escaped.
pub(crate) fn id(wire: &mut Wire, parameters: IdParams) {
    let said = |wanted: &str| {
        let found =
            parameters.iter().flatten().find(|(name, _)| name.eq_ignore_ascii_case(wanted.as_bytes()));
        found
            .and_then(|(_, value)| value.clone())
            .map(|value| value.slice(..value.len().min(LOGGED_OCTETS_MAX)))
    };
    tracing::debug!(client = ?said("name"), version = ?said("version"), "the client says what it is");
    let ours = [("name", "Rookery"), ("version", env!("CARGO_PKG_VERSION"))];
    let ours = ours.map(|(name, value)| (Bytes::from_static(name.as_bytes()), Some(value.into())));
    wire.put(&Response::Id(Some(ours.to_vec())));
}
