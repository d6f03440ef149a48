//! The accept loop: one task per client, admitted by the gate, waited for by the drain.
//!
//! Invariants:
//! - Only the drain ends the loop. A failing accept is logged and tried again.
//! - A connection's task runs inside a span `conn` with its id and peer.
//! - When `serve` returns or is dropped, none of its connections runs any more.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::drain::{Drain, DrainGuard};
use crate::gate::{Gate, Permit};
use crate::listener::Listener;
use crate::stream::Stream;

/// What a listener is for.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    /// The protocol's name in logs and metrics: `imap`, `imaps`, `lmtp`.
    pub protocol: &'static str,
    /// What a refused client is told before its connection is closed, such as `* BYE ...\r\n`; empty on a
    /// TLS port, where nothing can be said before the handshake.
    pub refusal: &'static str,
}

/// A client that was let in.
pub struct Accepted {
    /// Its stream, plain so far.
    pub stream: Stream,
    /// The connection's name in logs.
    pub id: ConnId,
    /// Its place in the gate; tell it when the client has authenticated.
    pub permit: Permit,
    /// Tells when to end, and makes main wait until it is dropped.
    pub drain: DrainGuard,
}

/// A connection's name: short text of digits and letters, not used again for days, over restarts too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnId(u64);

impl ConnId {
    /// A new id. Seconds of the start are in the upper 20 of 40 bits (12 days), a counter in the lower ones.
    pub fn next() -> ConnId {
        static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| {
            let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
            AtomicU64::new((seconds & 0xf_ffff) << 20)
        });
        ConnId(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// The id that a connection got at the node that holds it.
    pub fn carried(number: u64) -> ConnId {
        ConnId(number)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Crockford's digits, without letters that look like digits; lowest five bits last.
        const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
        let digits = (64 - self.0.leading_zeros()).div_ceil(5).max(1);
        (0..digits).rev().try_for_each(|digit| {
            let value = (self.0 >> (5 * digit)) & 31;
            let letter = usize::try_from(value).ok().and_then(|at| DIGITS.get(at)).copied().unwrap_or(b'?');
            fmt::Write::write_char(f, char::from(letter))
        })
    }
}

/// How long accepting pauses when the system has no file descriptor or memory left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(200);
/// How often failing accepts are logged.
const TROUBLE_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How long a refused client may take to accept the refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Refusals that may be under way at once on one listener; beyond it the connection is closed without a word.
const REFUSALS_MAX: usize = 256;

/// Accepts clients and runs `handler` for each in a task of its own, until the drain starts. Then closes the
/// listener and waits for the tasks; those that are left when the drain is cut are aborted.
///
/// Metrics: `rookery_net_connections_total{protocol,result}`, `rookery_net_connections{protocol}`.
pub async fn serve<H, F>(listener: Listener, service: Service, gate: Gate, drain: Drain, handler: H)
where
    H: Fn(Accepted) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    // A connection that is accepted at the moment the drain begins counts before this loop has ended.
    let accepting = drain.guard();
    let mut connections = JoinSet::new();
    let mut refusals = JoinSet::new();
    let protocol = service.protocol;
    let mut trouble = Trouble::default();
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.draining() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                note_end(protocol, ended);
                continue;
            }
            Some(_) = refusals.join_next(), if !refusals.is_empty() => continue,
            accepted = listener.accept() => accepted,
        };
        let mut stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                trouble.after_failed_accept(protocol, &error).await;
                continue;
            }
        };
        let peer = stream.peer();
        let permit = match gate.admit_peer(peer) {
            Ok(permit) => permit,
            Err(reason) => {
                metrics::counter!("rookery_net_connections_total", "protocol" => protocol, "result" => "refused")
                    .increment(1);
                tracing::debug!(protocol, %peer, %reason, "connection refused");
                if !service.refusal.is_empty() && refusals.len() < REFUSALS_MAX {
                    refusals.spawn(async move {
                        let goodbye = async {
                            stream.write_all(service.refusal.as_bytes()).await?;
                            stream.shutdown().await
                        };
                        let _ = tokio::time::timeout(REFUSAL_TIMEOUT, goodbye).await;
                    });
                }
                continue;
            }
        };
        metrics::counter!("rookery_net_connections_total", "protocol" => protocol, "result" => "accepted")
            .increment(1);
        let id = ConnId::next();
        let span = tracing::info_span!(parent: None, "conn", %id, protocol, %peer);
        let open = OpenCount::new(protocol);
        let session = handler(Accepted { stream, id, permit, drain: drain.guard() });
        connections.spawn(
            async move {
                let _open = open;
                session.await;
            }
            .instrument(span),
        );
    }
    drop((listener, accepting));
    loop {
        tokio::select! {
            ended = connections.join_next() => match ended {
                Some(ended) => note_end(protocol, ended),
                None => return,
            },
            () = drain.cut_off() => {
                connections.shutdown().await;
                return;
            }
        }
    }
}

fn note_end(protocol: &'static str, ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        metrics::counter!("rookery_net_panics_total", "protocol" => protocol).increment(1);
        tracing::error!(protocol, "a connection's task panicked; the connection is closed");
    }
}

/// Failing accepts, which come in crowds, as a few log lines.
#[derive(Default)]
struct Trouble {
    logged: Option<Instant>,
    since: u64,
}

impl Trouble {
    async fn after_failed_accept(&mut self, protocol: &'static str, error: &io::Error) {
        let errno = Errno::from_io_error(error);
        if matches!(errno, Some(Errno::CONNABORTED | Errno::INTR | Errno::PROTO)) {
            // The client was gone before it was accepted.
            return;
        }
        self.since += 1;
        if self.logged.is_none_or(|at| at.elapsed() >= TROUBLE_LOG_INTERVAL) {
            let failures = std::mem::take(&mut self.since);
            self.logged = Some(Instant::now());
            if matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) {
                tracing::error!(protocol, %error, failures, "no descriptors or memory left: accepting pauses");
            } else {
                tracing::warn!(protocol, %error, failures, "connections cannot be accepted");
            }
        }
        tokio::time::sleep(EXHAUSTED_PAUSE).await;
    }
}

/// One open connection in the metrics.
struct OpenCount {
    protocol: &'static str,
}

impl OpenCount {
    fn new(protocol: &'static str) -> OpenCount {
        metrics::gauge!("rookery_net_connections", "protocol" => protocol).increment(1.0);
        OpenCount { protocol }
    }
}

impl Drop for OpenCount {
    fn drop(&mut self) {
        metrics::gauge!("rookery_net_connections", "protocol" => self.protocol).decrement(1.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_differ() {
        let ids: std::collections::HashSet<String> = (0..1000).map(|_| ConnId::next().to_string()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() <= 8), "{:?}", ids.iter().next());
        assert_eq!((ConnId(0).to_string(), ConnId(33).to_string()), ("0".into(), "11".into()));
    }
}
