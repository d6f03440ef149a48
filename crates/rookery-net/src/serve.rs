//! The accept loop: one task per client, let in by the door, admitted by the gate, waited for by the drain.
//!
//! Invariants:
//! - Only the drain ends the loop. A failing accept is logged and tried again.
//! - A connection's task runs inside a span `conn` with its id and peer.
//! - When `serve` returns or is dropped, none of its connections runs any more.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use pin_project_lite::pin_project;
use rustix::io::Errno;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::door::{Doing, Door};
use crate::drain::DrainGuard;
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
    /// The same while the door is shut, where the socket cannot refuse by itself.
    pub shut: &'static str,
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
/// How long a listener waits that cannot be turned on or off, before it tries again.
const TURN_AGAIN: Duration = Duration::from_secs(2);
/// How often failing accepts are logged.
const TROUBLE_LOG_INTERVAL: Duration = Duration::from_secs(10);
/// How long a refused client may take to accept the refusal.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Refusals that may be under way at once on one listener; beyond it the connection is closed without a word.
const REFUSALS_MAX: usize = 256;

/// Accepts clients while the door is open and runs `handler` for each in a task of its own, until the server drains.
/// Then closes the listener and waits for the tasks; those that are left when the drain is cut are aborted.
///
/// Metrics: `rookery_net_connections_total{protocol,result}`, `rookery_net_connections{protocol}`.
pub async fn serve<H, F>(
    mut listener: Listener,
    service: Service,
    gate: Gate,
    door: impl Into<Door>,
    handler: H,
) where
    H: Fn(Accepted) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let door = door.into();
    let drain = door.drain().clone();
    // A connection that is accepted at the moment the drain begins counts before this loop has ended.
    let accepting = drain.guard();
    let mut hall = Hall { service, gate, handler, connections: JoinSet::new(), refusals: JoinSet::new() };
    let mut doing = door.doing();
    let mut accepts = true;
    let mut trouble = Trouble::default();
    // A socket that was given to this process may have been at rest.
    let mut turned = true;
    loop {
        if std::mem::take(&mut turned) {
            let now = *doing.borrow_and_update();
            accepts = match turn(&mut listener, now).await {
                Ok((accepts, waiting)) => {
                    waiting.into_iter().for_each(|stream| hall.admit(stream, &door));
                    accepts
                }
                Err(error) => {
                    tracing::error!(protocol = service.protocol, %error, "a listener cannot be turned on or off");
                    tokio::select! {
                        () = drain.draining() => {}
                        () = tokio::time::sleep(TURN_AGAIN) => {}
                    }
                    turned = true;
                    continue;
                }
            };
            if now == Doing::Cut {
                hall.connections.abort_all();
            }
        }
        let accepted = tokio::select! {
            biased;
            () = drain.draining() => break,
            Some(ended) = hall.connections.join_next(), if !hall.connections.is_empty() => {
                note_end(service.protocol, ended);
                continue;
            }
            Some(_) = hall.refusals.join_next(), if !hall.refusals.is_empty() => continue,
            // The sender is in `door`.
            _ = doing.changed() => {
                turned = true;
                continue;
            }
            accepted = listener.accept(), if accepts => accepted,
        };
        match accepted {
            Ok(stream) if door.is_open() => hall.admit(stream, &door),
            Ok(stream) => hall.refuse(stream, service.shut),
            Err(error) => trouble.after_failed_accept(service.protocol, &error).await,
        }
    }
    drop((listener, accepting));
    let mut connections = hall.connections;
    loop {
        tokio::select! {
            ended = connections.join_next() => match ended {
                Some(ended) => note_end(service.protocol, ended),
                None => return,
            },
            () = drain.cut_off() => {
                connections.shutdown().await;
                return;
            }
        }
    }
}

/// Lets a socket listen or not, as the door is: whether there may be somebody to accept, and who had connected before
/// it was shut.
async fn turn(listener: &mut Listener, doing: Doing) -> io::Result<(bool, Vec<Stream>)> {
    let mut waiting = Vec::new();
    if doing == Doing::Open {
        listener.resume()?;
        return Ok((true, waiting));
    }
    // Who waits to be accepted would hear that the connection is reset.
    loop {
        tokio::select! {
            biased;
            accepted = listener.accept() => match accepted {
                Ok(stream) => waiting.push(stream),
                Err(_) => break,
            },
            () = std::future::ready(()) => break,
        }
    }
    Ok((!listener.pause()?, waiting))
}

/// Those whom a listener has let in.
struct Hall<H> {
    service: Service,
    gate: Gate,
    handler: H,
    connections: JoinSet<()>,
    refusals: JoinSet<()>,
}

impl<H, F> Hall<H>
where
    H: Fn(Accepted) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    /// Serves a client, if the gate has room.
    fn admit(&mut self, stream: Stream, door: &Door) {
        let protocol = self.service.protocol;
        let peer = stream.peer();
        let permit = match self.gate.admit_peer(peer) {
            Ok(permit) => permit,
            Err(reason) => {
                tracing::debug!(protocol, %peer, %reason, "connection refused");
                return self.refuse(stream, self.service.refusal);
            }
        };
        metrics::counter!("rookery_net_connections_total", "protocol" => protocol, "result" => "accepted")
            .increment(1);
        let id = ConnId::next();
        let span = tracing::info_span!(parent: None, "conn", %id, protocol, %peer);
        let open = OpenCount::new(protocol);
        let session = (self.handler)(Accepted { stream, id, permit, drain: door.guard() });
        self.connections.spawn(Counted { session, _open: open }.instrument(span));
    }

    /// Says why not, and closes.
    fn refuse(&mut self, mut stream: Stream, why: &'static str) {
        metrics::counter!("rookery_net_connections_total", "protocol" => self.service.protocol, "result" => "refused")
            .increment(1);
        if why.is_empty() || self.refusals.len() >= REFUSALS_MAX {
            return;
        }
        self.refusals.spawn(async move {
            let goodbye = async {
                stream.write_all(why.as_bytes()).await?;
                stream.shutdown().await
            };
            let _ = tokio::time::timeout(REFUSAL_TIMEOUT, goodbye).await;
        });
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

pin_project! {
    /// A session that is counted as long as it lasts. A block that awaits it would hold it twice: as it was given, and as
    /// it runs.
    struct Counted<F> {
        #[pin]
        session: F,
        _open: OpenCount,
    }
}

impl<F: Future<Output = ()>> Future for Counted<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.project().session.poll(cx)
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
    fn to_count_a_session_costs_no_second_one() {
        let session = std::future::ready([0u8; 4096]);
        let octets = std::mem::size_of_val(&Counted { session, _open: OpenCount::new("test") });
        assert!(octets < 4096 + 64, "{octets}");
    }

    #[test]
    fn ids_are_short_and_differ() {
        let ids: std::collections::HashSet<String> = (0..1000).map(|_| ConnId::next().to_string()).collect();
        assert_eq!(ids.len(), 1000);
        assert!(ids.iter().all(|id| id.len() <= 8), "{:?}", ids.iter().next());
        assert_eq!((ConnId(0).to_string(), ConnId(33).to_string()), ("0".into(), "11".into()));
    }
}
