//! Between a server and the program that takes its place: the old process keeps the clients' sockets, and the new one
//! runs their sessions, or passes on to the nodes that do.
//!
//! The new program listens on a socket in the data folder. Each session is a connection there; what it is opens with two
//! notes: where the session runs and as what, and the head that it would be opened with there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rookery_net::pipe::{FramedPipe, join};
use rookery_net::{ConnId, Drain, DrainGuard, Pipe};
use rookery_route::{Keeper, PeerError, Peers, PipeService, Reaching, SessionHead, SessionNote};
use rookery_types::NodeId;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;
use tracing::Instrument;

use crate::live::Live;

/// The socket's name in the data folder, which only the server's user may enter.
const SOCKET: &str = "succession.sock";
/// How long a session may take to say what it is.
const OPENING_WITHIN: Duration = Duration::from_secs(10);
/// How long a program may take until it listens, and how often it is looked for.
const START_WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What a session is.
#[derive(Serialize, Deserialize)]
struct Opening {
    node: u64,
    service: String,
}

/// The program that has taken this one's place, as a way to all nodes.
#[derive(Clone)]
pub(crate) struct Successor {
    socket: PathBuf,
}

impl Successor {
    /// On this data folder.
    pub(crate) fn on(data_dir: &Path) -> Successor {
        Successor { socket: data_dir.join(SOCKET) }
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        let connecting = async {
            loop {
                match UnixStream::connect(&self.socket).await {
                    Ok(stream) => return stream,
                    Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
                }
            }
        };
        let connected = tokio::time::timeout(START_WITHIN, connecting).await;
        connected.map_err(|_| io::ErrorKind::TimedOut.into())
    }

    async fn reach(&self, node: NodeId, service: PipeService, head: Bytes) -> io::Result<Box<dyn Pipe>> {
        let mut pipe = FramedPipe::new(self.connect().await?);
        let opening = Opening { node: node.0, service: service.name().to_owned() };
        pipe.put_note(serde_json::to_vec(&opening)?.into());
        pipe.put_note(head);
        pipe.flush().await?;
        Ok(Box::new(pipe))
    }
}

impl Peers for Successor {
    fn open(&self, node: NodeId, service: PipeService, head: Bytes) -> Reaching<'_> {
        Box::pin(async move {
            let reached = self.reach(node, service, head).await;
            reached.map_err(|error| PeerError { node, why: format!("the next program: {error}") })
        })
    }
}

/// Listens for the sessions of those who come before. What an ended one has left behind is removed.
pub(crate) fn bind(data_dir: &Path) -> io::Result<UnixListener> {
    let socket = data_dir.join(SOCKET);
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(socket)
}

/// Removes the socket, so that whoever looks for it finds the next one's.
pub(crate) fn unbind(data_dir: &Path) {
    // It may never have been there.
    let _ = std::fs::remove_file(data_dir.join(SOCKET));
}

/// What runs sessions here, and the way to other nodes.
#[derive(Clone)]
pub(crate) struct Heirs {
    pub(crate) here: NodeId,
    pub(crate) imap: Live<rookery_imap::Services>,
    pub(crate) pop3: Live<rookery_pop3::Services>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) keeper: Keeper,
}

/// Takes sessions over, until the drain.
pub(crate) async fn serve(listener: UnixListener, heirs: Heirs, drain: Drain) {
    let mut sessions = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.draining() => break,
            accepted = listener.accept() => accepted,
            Some(_) = sessions.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => drop(sessions.spawn(heirs.clone().take(stream, drain.guard()))),
            Err(error) => {
                tracing::warn!(%error, "a session cannot be taken over");
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
    drop(listener);
    while sessions.join_next().await.is_some() {}
}

/// The next note of a pipe that has said nothing else yet.
async fn note(pipe: &mut dyn Pipe) -> io::Result<Bytes> {
    match pipe.read(&mut [0]).await? {
        0 => pipe.take_note().ok_or_else(|| io::ErrorKind::UnexpectedEof.into()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

async fn opening(pipe: &mut dyn Pipe) -> io::Result<(NodeId, PipeService, Bytes)> {
    let opening: Opening = serde_json::from_slice(&note(pipe).await?)?;
    let service = PipeService::ALL.into_iter().find(|service| service.name() == opening.service);
    let service = service.ok_or(io::ErrorKind::InvalidData)?;
    Ok((NodeId(opening.node), service, note(pipe).await?))
}

impl Heirs {
    async fn take(self, stream: UnixStream, drain: DrainGuard) {
        let mut pipe = FramedPipe::new(stream);
        let opened = tokio::time::timeout(OPENING_WITHIN, opening(&mut pipe)).await;
        let (node, service, head) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return tracing::warn!(%error, "a session to be taken over makes no sense"),
            Err(_) => return tracing::warn!("a session to be taken over does not say what it is"),
        };
        let Ok(session) = SessionHead::decode(&head) else {
            return tracing::warn!("a session to be taken over has no head");
        };
        if drain.is_draining() {
            return tracing::debug!("a session that comes now is left to the next program");
        }
        let id = ConnId::carried(session.trace);
        let span = tracing::info_span!("conn", %id, protocol = service.name(), peer = %session.peer());
        let run = async move {
            match service {
                PipeService::Imap if node == self.here => {
                    rookery_imap::serve_pipe(Box::new(pipe), session, self.imap.now(), drain).await;
                }
                PipeService::Pop3 if node == self.here => {
                    rookery_pop3::serve_pipe(Box::new(pipe), session, self.pop3.now(), drain).await;
                }
                _ => self.pass_on(pipe, (node, service, head), &drain).await,
            }
        };
        run.instrument(span).await;
    }

    /// Passes a session on to the node that runs it. When this server ends, the session is asked to go on elsewhere, or
    /// to end.
    async fn pass_on(
        &self,
        mut near: FramedPipe<UnixStream>,
        (node, service, head): (NodeId, PipeService, Bytes),
        drain: &DrainGuard,
    ) {
        let mut far = match self.peers.open(node, service, head).await {
            Ok(far) => far,
            Err(error) => return tracing::debug!(%error, "a session's home is not reached"),
        };
        let last = async {
            drain.draining().await;
            let note = if self.keeper.is_open() { SessionNote::Suspend } else { SessionNote::Leave };
            note.encode()
        };
        tokio::select! {
            joined = join(&mut near, &mut *far, last) => {
                if let Err(error) = joined {
                    tracing::debug!(%error, "a session that was passed on is lost");
                }
            }
            () = drain.drain().cut_off() => tracing::debug!("a session that was passed on is cut off"),
        }
    }
}
