//! The links between the nodes of a site, in memory, and all that may happen to them: a node is lost or ends, a link is
//! cut before something that is said on it, a node does not hear any more.
//!
//! Invariants:
//! - Where a link is cut is said by octets, never by time: the same test cuts at the same place.
//! - What a test waits for is told ([`Links::cut`], [`Links::missed`]); nobody looks again and again.

use super::Nodes;
use parking_lot::Mutex;
use rookery_imap::{Services, serve_guest, serve_pipe};
use rookery_kv::Bytes;
use rookery_net::pipe::FramedPipe;
use rookery_net::{Drain, Pipe};
use rookery_route::{PeerError, Peers, PipeService, Reaching, SessionHead, SessionNote};
use rookery_types::NodeId;
use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// The links of all nodes, in memory.
#[derive(Default)]
pub(crate) struct Links {
    nodes: Mutex<BTreeMap<NodeId, Arc<Services>>>,
    /// Their ends here, to be cut.
    open: Mutex<Vec<(NodeId, AbortHandle, Arc<AtomicBool>)>>,
    /// What ends them, as their servers do.
    drains: Mutex<Vec<(NodeId, Drain)>>,
    /// What is said to a node is heard up to this, and then it is lost; what it says is lost from the start.
    deaf: Mutex<BTreeMap<NodeId, &'static str>>,
    /// The next guest of a node is lost so.
    cuts: Mutex<BTreeMap<NodeId, Cut>>,
    /// Told when that has happened.
    #[allow(dead_code, reason = "only where there are two homes is one of them lost")]
    pub(crate) cut: Notify,
    /// Told when a node that is away was to be reached.
    #[allow(dead_code, reason = "only where there are two homes is one of them lost")]
    pub(crate) missed: Notify,
    itself: Mutex<Weak<Links>>,
}

/// A link that is to be cut.
#[derive(Clone, Copy)]
struct Cut {
    /// What is not heard any more.
    before: &'static str,
    /// And the node is away from then on.
    away: bool,
}

impl Links {
    /// Of nodes that are to be added.
    pub(super) fn new() -> Arc<Links> {
        let links = Arc::new(Links::default());
        *links.itself.lock() = Arc::downgrade(&links);
        links
    }

    /// Passes on what both ends of a link say, until something is said before which it is cut.
    async fn until_cut(self: Arc<Links>, mut near: impl Pipe, mut far: impl Pipe, node: NodeId, cut: Cut) {
        let before = cut.before.as_bytes();
        let mut octets = ([0; 8192], [0; 8192]);
        // What was said last, either way.
        let mut said = (Vec::new(), Vec::new());
        loop {
            let (octets, said, to): (&[u8], &mut Vec<u8>, &mut dyn Pipe) = tokio::select! {
                read = near.read(&mut octets.0) => match (read.unwrap_or(0), near.take_note()) {
                    (0, None) => return,
                    (0, Some(note)) => {
                        far.put_note(note);
                        (b"", &mut said.0, &mut far)
                    }
                    (read, _) => (&octets.0[..read], &mut said.0, &mut far),
                },
                read = far.read(&mut octets.1) => match (read.unwrap_or(0), far.take_note()) {
                    (0, None) => return,
                    (0, Some(note)) => {
                        near.put_note(note);
                        (b"", &mut said.1, &mut near)
                    }
                    (read, _) => (&octets.1[..read], &mut said.1, &mut near),
                },
            };
            said.extend_from_slice(octets);
            if said.windows(before.len()).any(|said| said == before) {
                self.cuts.lock().remove(&node);
                if cut.away {
                    self.nodes.lock().remove(&node);
                }
                self.cut.notify_one();
                return;
            }
            said.drain(..said.len().saturating_sub(before.len()));
            to.write_all(octets).await.unwrap();
            to.flush().await.unwrap();
        }
    }
}

impl Links {
    /// Loses a node: its sessions end without a word, and it is not reached any more.
    #[allow(dead_code, reason = "only where there are two homes is one of them lost")]
    pub(crate) fn lose(&self, node: NodeId) {
        self.nodes.lock().remove(&node);
        for (_, session, lost) in self.open.lock().iter().filter(|(of, ..)| *of == node) {
            lost.store(true, Ordering::Relaxed);
            session.abort();
        }
    }

    /// A node ends: its sessions say good-bye, and it is not reached any more.
    #[allow(dead_code, reason = "only where there are two homes does one of them end")]
    pub(crate) fn end(&self, node: NodeId) {
        self.nodes.lock().remove(&node);
        self.drains.lock().extract_if(.., |(of, _)| *of == node).for_each(|(_, drain)| drain.start());
    }

    /// From here on new sessions of a node are lost once they have heard something that ends so.
    #[allow(dead_code, reason = "only where there are two homes is one of them lost")]
    pub(crate) fn lose_after(&self, node: NodeId, heard: &'static str) {
        self.lose(node);
        self.deaf.lock().insert(node, heard);
    }

    /// The next guest at a node that says this, or is told it, is lost before that is heard.
    #[allow(dead_code, reason = "only where there are two homes is one of them lost")]
    pub(crate) fn cut_before(&self, node: NodeId, before: &'static str) {
        self.cuts.lock().insert(node, Cut { before, away: false });
    }

    /// The same, and the node is away from then on.
    #[allow(dead_code, reason = "only where there are two homes is one of them lost")]
    pub(crate) fn go_away_before(&self, node: NodeId, before: &'static str) {
        self.cuts.lock().insert(node, Cut { before, away: true });
    }

    /// Sessions that are open between nodes.
    #[allow(dead_code, reason = "only where there are two homes is one of them lost")]
    pub(crate) fn sessions(&self) -> usize {
        self.open.lock().iter().filter(|(_, session, _)| !session.is_finished()).count()
    }

    /// The node of that id.
    #[allow(dead_code, reason = "only where there are two homes is one of them lost")]
    pub(crate) fn services(&self, node: NodeId) -> Arc<Services> {
        self.nodes.lock().get(&node).unwrap().clone()
    }

    /// It is there again.
    pub(crate) fn add(&self, services: Arc<Services>) {
        self.nodes.lock().insert(services.store.node(), services);
    }
}

impl Peers for Links {
    fn open(&self, node: NodeId, service: PipeService, head: Bytes) -> Reaching<'_> {
        Box::pin(async move {
            if let Some(last) = self.deaf.lock().get(&node).copied() {
                let (near, mut far) = rookery_net::pipe::in_memory(1 << 16);
                tokio::spawn(async move {
                    let mut heard = Vec::new();
                    while !heard.ends_with(last.as_bytes()) {
                        let mut octets = [0; 1000];
                        let read = far.read(&mut octets).await.unwrap_or(0);
                        if read == 0 && far.take_note().is_none() {
                            break;
                        }
                        heard.extend_from_slice(&octets[..read]);
                        if heard.ends_with(b"}\r\n") {
                            far.write_all(b"+ OK\r\n").await.unwrap();
                            far.flush().await.unwrap();
                        }
                    }
                });
                return Ok::<Box<dyn Pipe>, PeerError>(Box::new(near));
            }
            let home = self.nodes.lock().get(&node).cloned();
            let is_known = [PipeService::Imap, PipeService::Guest, PipeService::Transit].contains(&service);
            let Some(home) = home.filter(|_| is_known) else {
                self.missed.notify_one();
                return Err(PeerError { node, why: "there is no such node".to_string() });
            };
            let (near, far) = rookery_net::pipe::in_memory(1 << 16);
            // Without a drain of its own: the halves end together.
            let drain = Drain::new();
            let guard = drain.guard();
            self.drains.lock().push((node, drain.clone()));
            if service == PipeService::Transit {
                let other = self.nodes.lock().keys().copied().find(|known| *known != node);
                let task = tokio::spawn(async move {
                    let _drain = drain;
                    home.transit.serve(Box::new(far), other.unwrap(), guard).await;
                });
                self.open.lock().push((node, task.abort_handle(), Arc::default()));
                return Ok::<Box<dyn Pipe>, PeerError>(Box::new(near));
            }
            let head = SessionHead::decode(&head).unwrap();
            let task = tokio::spawn(async move {
                let _drain = drain;
                match service {
                    PipeService::Guest => serve_guest(Box::new(far), head, home, guard).await,
                    _ => serve_pipe(Box::new(far), head, home, guard).await,
                }
            });
            let lost = Arc::new(AtomicBool::new(false));
            self.open.lock().push((node, task.abort_handle(), lost.clone()));
            let cut = self.cuts.lock().get(&node).copied().filter(|_| service == PipeService::Guest);
            if let Some((cut, links)) = cut.zip(self.itself.lock().upgrade()) {
                let (session, link) = rookery_net::pipe::in_memory(1 << 16);
                tokio::spawn(links.until_cut(link, near, node, cut));
                return Ok(Box::new(session));
            }
            Ok::<Box<dyn Pipe>, PeerError>(match (crate::NODES, service) {
                (Nodes::HandedOver, PipeService::Imap) => {
                    Box::new(Restless { pipe: near, is_suspended: false })
                }
                _ => Box::new(Losable { pipe: near, note: None, lost }),
            })
        })
    }
}

/// An end of a pipe whose other end may be lost, which is another thing than its end.
struct Losable {
    pipe: FramedPipe<DuplexStream>,
    note: Option<Bytes>,
    lost: Arc<AtomicBool>,
}

impl Pipe for Losable {
    fn take_note(&mut self) -> Option<Bytes> {
        self.note.take()
    }

    fn put_note(&mut self, note: Bytes) {
        self.pipe.put_note(note);
    }
}

impl AsyncRead for Losable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.note.is_some() {
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            self.note = self.pipe.take_note();
            if self.note.is_none() && self.lost.load(Ordering::Relaxed) {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Losable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

/// An edge's end of a pipe, whose session has to go on from its value behind the first line that it is sent.
struct Restless {
    pipe: FramedPipe<DuplexStream>,
    is_suspended: bool,
}

impl Pipe for Restless {
    fn take_note(&mut self) -> Option<Bytes> {
        self.pipe.take_note()
    }

    fn put_note(&mut self, note: Bytes) {
        self.pipe.put_note(note);
    }
}

impl AsyncRead for Restless {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_read(cx, buf)
    }
}

impl AsyncWrite for Restless {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, octets: &[u8]) -> Poll<io::Result<usize>> {
        // A line of a command with literals may end no command, and would be given on for ever.
        let has_literal = octets.windows(3).any(|three| three == b"}\r\n");
        let line = match has_literal {
            true => octets.ends_with(b"\n").then(|| octets.len() - 1),
            false => octets.iter().position(|octet| *octet == b'\n'),
        };
        let line = line.filter(|_| !self.is_suspended);
        let octets = line.map_or(octets, |end| &octets[..=end]);
        let written = ready!(Pin::new(&mut self.pipe).poll_write(cx, octets))?;
        let whole = line.is_some() && !octets.ends_with(b"}\r\n");
        if whole && written == octets.len() {
            self.pipe.put_note(SessionNote::Suspend.encode());
            self.is_suspended = true;
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
