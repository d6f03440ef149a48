//! Reading from a socket piece by piece, up to a bound, until something whole is there or the server drains.

use bytes::BytesMut;
use rookery_net::{Connection, DrainGuard};
use std::time::Duration;

/// How long an MTA's connection may be silent. Postfix keeps its connections and comes back.
const IDLE: Duration = Duration::from_secs(3600);

/// Waits until `take` finds something whole in what has come. `None`: the connection is over, for whatever reason.
pub(crate) async fn next<T>(
    connection: &mut Connection,
    drain: &DrainGuard,
    buffer: &mut BytesMut,
    octets_max: usize,
    mut take: impl FnMut(&mut BytesMut) -> Option<T>,
) -> Option<T> {
    loop {
        if let Some(whole) = take(buffer) {
            return Some(whole);
        }
        if buffer.len() >= octets_max {
            tracing::warn!(octets = buffer.len(), "an MTA sent more than a request can have");
            return None;
        }
        let read = tokio::select! {
            () = drain.draining() => return None,
            read = connection.read_some(buffer, IDLE) => read,
        };
        if !matches!(read, Ok(octets) if octets > 0) {
            return None;
        }
    }
}
