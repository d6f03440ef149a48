//! Sessions in two halves: the edge holds the client's socket and has seen the login, the home has the mail.
//!
//! The edge opens a pipe to the home with a [`SessionHead`] and passes octets both ways unread. What the halves say to
//! each other beside the client's octets is a [`SessionNote`].
//!
//! Invariants:
//! - A session that came over a pipe runs here or is refused; it is never passed on again.
//! - The home decides by its own settings who administers what; the head brings no authority but the user's name.
//! - A session needs others at the homes of other people's mailboxes: its *guests*. They are opened by the home of the
//!   user, as pipes like any, and open none themselves.

use bytes::{BufMut, Bytes, BytesMut};
use rookery_net::{DrainGuard, Peer, Pipe, Relay, Stopped, Stream};
use rookery_types::{NodeId, OperationId, UserName};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Octets in the longest head; what is longer is refused.
pub const HEAD_OCTETS_MAX: usize = 4096;
/// How long the home has, once told, to say good-bye to a client of an edge that ends.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the halves may take to give a client back to the edge.
const HAND_BACK_TIMEOUT: Duration = Duration::from_secs(10);

/// What a pipe is opened for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PipeService {
    /// An IMAP session of a user who has logged in.
    Imap,
    /// A guest of an IMAP session: it runs at the home of its user, or where an administrator is, and needs the far
    /// node for mailboxes that are at home there. It begins without a word, or ends with BYE.
    Guest,
    /// A POP3 session of a user who has logged in.
    Pop3,
    /// LMTP, for recipients whose home the far node is.
    Lmtp,
    /// Messages that move to a mailbox of an account at home there.
    Transit,
}

impl PipeService {
    /// All of them.
    pub const ALL: [PipeService; 5] =
        [PipeService::Imap, PipeService::Guest, PipeService::Pop3, PipeService::Lmtp, PipeService::Transit];

    /// Its name between nodes.
    pub fn name(self) -> &'static str {
        match self {
            PipeService::Imap => "imap",
            PipeService::Guest => "imap-guest",
            PipeService::Pop3 => "pop3",
            PipeService::Lmtp => "lmtp",
            PipeService::Transit => "transit",
        }
    }
}

/// Why another node was not reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("node {node} is not reached: {why}")]
pub struct PeerError {
    /// Which node.
    pub node: NodeId,
    /// Why, for the operator.
    pub why: String,
}

/// A future of [`Peers`].
pub type Reaching<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Pipe>, PeerError>> + Send + 'a>>;

/// The other nodes.
pub trait Peers: Send + Sync + 'static {
    /// Opens a pipe to a service of another node. `head` is at most [`HEAD_OCTETS_MAX`] octets long. After an error
    /// the far node has not taken anything up. Fails within some seconds.
    fn open(&self, node: NodeId, service: PipeService, head: Bytes) -> Reaching<'_>;
}

/// A node that is alone.
#[derive(Clone, Copy, Default, Debug)]
pub struct NoPeers;

impl Peers for NoPeers {
    fn open(&self, node: NodeId, _service: PipeService, _head: Bytes) -> Reaching<'_> {
        Box::pin(async move { Err(PeerError { node, why: "this node is alone".to_owned() }) })
    }
}

/// What every head of a pipe has, whatever else is in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PipeHead {
    /// The connection's id at the edge, for the logs of all hops.
    pub trace: u64,
}

impl PipeHead {
    /// Writes it.
    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads it from any head.
    pub fn decode(octets: &[u8]) -> Result<PipeHead, BadHead> {
        let octets = octets.get(..HEAD_OCTETS_MAX).map_or(Ok(octets), |_| Err(BadHead))?;
        serde_json::from_slice(octets).map_err(|_| BadHead)
    }
}

/// What the home is told of a session that it is to run.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionHead {
    /// Who has logged in, `local@domain`.
    user: String,
    /// The connection's id at the edge, for the log of both.
    pub trace: u64,
    /// Where the client is; none if it is on the edge's machine and not there by IP.
    peer: Option<SocketAddr>,
    /// Whether the client speaks to the edge under TLS.
    pub tls: bool,
    /// The tag of the command that logged in, and what its OK says; empty where the protocol has no tags.
    pub tag: String,
    /// The name of that command.
    pub verb: String,
}

/// A head that cannot be read, or that names no user.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the head of a session cannot be read")]
pub struct BadHead;

impl SessionHead {
    /// The head of a session of a client at the end of a stream.
    pub fn new(user: &UserName, trace: u64, stream: &Stream, tag: &str, verb: &str) -> SessionHead {
        let peer = match stream.peer() {
            Peer::Ip(addr) => Some(addr),
            Peer::Unix { .. } | Peer::Memory => None,
        };
        let (tag, verb) = (tag.to_owned(), verb.to_owned());
        SessionHead { user: user.to_string(), trace, peer, tls: stream.is_tls(), tag, verb }
    }

    /// The head of a guest of the session whose client is at the end of a stream.
    pub fn of_guest(user: &UserName, trace: u64, stream: &Stream) -> SessionHead {
        SessionHead::new(user, trace, stream, "", "")
    }

    /// Writes it.
    pub fn encode(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }

    /// Reads what [`SessionHead::encode`] has written; members that it does not know are passed over.
    pub fn decode(octets: &[u8]) -> Result<SessionHead, BadHead> {
        let octets = octets.get(..HEAD_OCTETS_MAX).map_or(Ok(octets), |_| Err(BadHead))?;
        let head: SessionHead = serde_json::from_slice(octets).map_err(|_| BadHead)?;
        head.user().map(|_| head.clone())
    }

    /// Who has logged in.
    pub fn user(&self) -> Result<UserName, BadHead> {
        let (local, domain) = self.user.rsplit_once('@').ok_or(BadHead)?;
        UserName::parse(local, domain).map_err(|_| BadHead)
    }

    /// Where the client is.
    pub fn peer(&self) -> Peer {
        self.peer.map_or(Peer::Memory, Peer::Ip)
    }
}

/// What the halves of a session say to each other beside the client's octets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SessionNote {
    /// Of the edge: it ends. The home says good-bye to the client and ends the session.
    Leave,
    /// Of the home: it has done with the client and reads nothing more for itself. The edge passes nothing on from
    /// here, and ends its direction of the pipe.
    Release,
    /// Of a session to its guest: what ENABLE and the like have turned on there, as sessions of the protocol write it.
    Enabled(u8),
    /// Of a session to its guest: the APPEND that follows has an id. Or it is a question: only the APPEND's beginning
    /// follows, what has come of it is to be said, and if nothing has, nothing will.
    Operation {
        /// Its id.
        id: OperationId,
        /// Whether it is a question.
        again: bool,
    },
    /// Of the home, once the edge has done so: what it was sent and has not used, from the start. Several follow one
    /// another.
    Rest(Bytes),
    /// Of the home: that was the rest, and the client is nobody's again.
    Unauthenticated,
}

const LEAVE: u8 = b'L';
const RELEASE: u8 = b'R';
const REST: u8 = b'O';
const UNAUTHENTICATED: u8 = b'U';
const ENABLED: u8 = b'E';
const OPERATION: u8 = b'P';
const OPERATION_AGAIN: u8 = b'Q';
/// Octets in one [`SessionNote::Rest`].
const REST_OCTETS: usize = 4096;
/// Octets that a client may have sent behind its last command; more is no client's.
const REST_OCTETS_MAX: usize = 1 << 20;

impl SessionNote {
    /// Writes it.
    pub fn encode(&self) -> Bytes {
        let mut octets = BytesMut::new();
        match self {
            SessionNote::Leave => octets.put_u8(LEAVE),
            SessionNote::Release => octets.put_u8(RELEASE),
            SessionNote::Rest(rest) => {
                octets.put_u8(REST);
                octets.extend_from_slice(rest);
            }
            SessionNote::Unauthenticated => octets.put_u8(UNAUTHENTICATED),
            SessionNote::Enabled(switches) => octets.extend_from_slice(&[ENABLED, *switches]),
            SessionNote::Operation { id, again } => {
                octets.put_u8(if *again { OPERATION_AGAIN } else { OPERATION });
                octets.extend_from_slice(&id.0);
            }
        }
        octets.freeze()
    }

    /// Reads it; `None`: it is of a kind that this version does not know.
    pub fn decode(mut octets: Bytes) -> Option<SessionNote> {
        if octets.is_empty() {
            return None;
        }
        match octets.split_to(1).first() {
            Some(&LEAVE) => Some(SessionNote::Leave),
            Some(&RELEASE) => Some(SessionNote::Release),
            Some(&REST) => Some(SessionNote::Rest(octets)),
            Some(&UNAUTHENTICATED) => Some(SessionNote::Unauthenticated),
            Some(&ENABLED) => octets.first().map(|switches| SessionNote::Enabled(*switches)),
            Some(kind @ (&OPERATION | &OPERATION_AGAIN)) => {
                let (id, again) = (octets.as_ref().try_into().ok()?, *kind == OPERATION_AGAIN);
                Some(SessionNote::Operation { id: OperationId(id), again })
            }
            _ => None,
        }
    }
}

/// How the edge's half of a session has ended.
#[derive(Debug)]
pub enum Relayed {
    /// As it should: the home has ended it, and the client was sent all that was said.
    Ended,
    /// The client has left.
    ClientGone,
    /// The home, or the way to it, is lost.
    Lost(io::Error),
    /// The same, before the home has said anything and the client has sent anything: as if it had not been reached.
    NeverBegan(io::Error),
    /// The client is nobody's again and may log in anew; it has sent this much already.
    Unauthenticated(BytesMut),
}

/// The edge's half of a session: passes octets on until the session ends. `arrived`: what the client has sent
/// already. When the node drains, the home is told, which says good-bye.
pub async fn relay(
    client: &mut Stream,
    arrived: BytesMut,
    mut pipe: Box<dyn Pipe>,
    drain: &DrainGuard,
) -> Relayed {
    let mut relay = Relay::new(arrived);
    let mut told = false;
    let mut patience = pin!(None);
    loop {
        let stopped = tokio::select! {
            biased;
            () = drain.draining(), if !told => {
                told = true;
                pipe.put_note(SessionNote::Leave.encode());
                patience.set(Some(tokio::time::sleep(LEAVE_TIMEOUT)));
                // The note leaves with what the relay flushes next.
                relay.touch();
                continue;
            }
            () = async {
                match patience.as_mut().as_pin_mut() {
                    Some(patience) => patience.await,
                    None => std::future::pending().await,
                }
            } => Stopped::Lost(io::ErrorKind::TimedOut.into()),
            stopped = relay.run(client, &mut *pipe) => stopped,
        };
        tracing::debug!(
            octets_in = relay.octets_in,
            octets_out = relay.octets_out,
            ?stopped,
            "relay stopped"
        );
        return match stopped {
            Stopped::Client => Relayed::ClientGone,
            Stopped::Ended => Relayed::Ended,
            Stopped::Lost(error) if relay.octets_in == 0 && relay.octets_out == 0 => {
                Relayed::NeverBegan(error)
            }
            Stopped::Lost(error) => Relayed::Lost(error),
            Stopped::Note(note) => match SessionNote::decode(note) {
                Some(SessionNote::Release) => match taken_back(&mut *pipe).await {
                    Ok(mut rest) => {
                        rest.extend_from_slice(&relay.take_unsent());
                        Relayed::Unauthenticated(rest)
                    }
                    Err(error) => Relayed::Lost(error),
                },
                // Of a newer version; it does not concern the client.
                Some(_) | None => continue,
            },
        };
    }
}

/// What the home was sent and has not used.
async fn taken_back(pipe: &mut dyn Pipe) -> io::Result<BytesMut> {
    let all = async {
        pipe.shutdown().await?;
        let mut rest = BytesMut::new();
        loop {
            let out_of_step = io::Error::from(io::ErrorKind::InvalidData);
            if pipe.read(&mut [0]).await? > 0 {
                return Err(out_of_step);
            }
            match pipe.take_note().and_then(SessionNote::decode) {
                Some(SessionNote::Rest(octets)) => rest.extend_from_slice(&octets),
                Some(SessionNote::Unauthenticated) => return Ok(rest),
                _ => return Err(out_of_step),
            }
        }
    };
    tokio::time::timeout(HAND_BACK_TIMEOUT, all).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// The home's side of it: gives a client back to the edge, as nobody's. What was said to it is flushed. `rest`: what
/// was read and not used.
pub async fn hand_back(pipe: &mut dyn Pipe, mut rest: BytesMut) -> io::Result<()> {
    let all = async {
        pipe.put_note(SessionNote::Release.encode());
        pipe.flush().await?;
        let mut octets = [0; 1024];
        loop {
            let read = pipe.read(&mut octets).await?;
            rest.extend_from_slice(octets.get(..read).unwrap_or_default());
            if read == 0 && pipe.take_note().is_none() {
                break;
            }
            if rest.len() > REST_OCTETS_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        while !rest.is_empty() {
            let octets = rest.split_to(rest.len().min(REST_OCTETS)).freeze();
            pipe.put_note(SessionNote::Rest(octets).encode());
            pipe.flush().await?;
        }
        pipe.put_note(SessionNote::Unauthenticated.encode());
        pipe.flush().await
    };
    tokio::time::timeout(HAND_BACK_TIMEOUT, all).await.map_err(|_| io::ErrorKind::TimedOut)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_back_as_they_were() {
        let user = UserName::parse("joe", "a.test").unwrap();
        let (one, _other) = tokio::io::duplex(1);
        let stream = Stream::from(one).with_peer(Peer::Ip("192.0.2.1:5".parse().unwrap()));
        let head = SessionHead::new(&user, 77, &stream, "a\"1", "LOGIN");
        let read = SessionHead::decode(&head.encode()).unwrap();
        assert_eq!((&read, read.user(), read.peer()), (&head, Ok(user), stream.peer()));
        assert_eq!(PipeHead::decode(&head.encode()), Ok(PipeHead { trace: 77 }));
        let newer =
            br#"{"user":"joe@a.test","trace":1,"peer":null,"tls":true,"tag":"","verb":"","more":[1]}"#;
        assert!(SessionHead::decode(newer).unwrap().tls);
        for bad in
            [&b""[..], b"{}", &newer[1..], br#"{"user":"joe","trace":1,"tls":true,"tag":"","verb":""}"#]
        {
            assert_eq!(SessionHead::decode(bad), Err(BadHead));
        }
        assert_eq!(SessionHead::decode(&b" ".repeat(HEAD_OCTETS_MAX + 1)), Err(BadHead));
    }

    #[tokio::test]
    async fn what_a_client_sends_meanwhile_comes_back_in_order() {
        let (near, mut far) = rookery_net::pipe::in_memory(64);
        let (mut client, socket) = tokio::io::duplex(64);
        let edge = tokio::spawn(async move {
            let drain = rookery_net::Drain::new();
            relay(&mut Stream::from(socket), BytesMut::from("1 a "), Box::new(near), &drain.guard()).await
        });
        let mut heard = [0; 2];
        far.read_exact(&mut heard).await.unwrap();
        // While the home gives the client back, it goes on sending.
        let sending = tokio::spawn(async move {
            for number in 0..5000 {
                client.write_all(format!("{number:04}").as_bytes()).await.unwrap();
            }
            client
        });
        hand_back(&mut far, BytesMut::from("unused ")).await.unwrap();
        let Relayed::Unauthenticated(mut rest) = edge.await.unwrap() else { panic!("not given back") };
        assert_eq!(&rest.split_to(9)[..], b"unused a ");
        let expected: String = (0..5000).map(|number| format!("{number:04}")).collect();
        assert!(expected.as_bytes().starts_with(&rest), "{}", rest.len());
        sending.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_home_is_told_when_the_edge_ends() {
        let (near, mut far) = rookery_net::pipe::in_memory(64);
        let (_client, socket) = tokio::io::duplex(64);
        let drain = rookery_net::Drain::new();
        let guard = drain.guard();
        let edge = tokio::spawn(async move {
            relay(&mut Stream::from(socket), BytesMut::new(), Box::new(near), &guard).await
        });
        tokio::task::yield_now().await;
        drain.start();
        assert_eq!(far.read(&mut [0]).await.unwrap(), 0);
        assert_eq!(far.take_note().and_then(SessionNote::decode), Some(SessionNote::Leave));
        // It does not say good-bye.
        assert!(matches!(edge.await.unwrap(), Relayed::NeverBegan(_)));
    }

    #[test]
    fn notes_come_back_as_they_were() {
        let rest = SessionNote::Rest(Bytes::from_static(b"a1 LOGIN"));
        let enabled = SessionNote::Enabled(0x1f);
        let operation = |again| SessionNote::Operation { id: OperationId([7; 16]), again };
        let (one, two) = (operation(false), operation(true));
        for note in
            [SessionNote::Leave, SessionNote::Release, rest, SessionNote::Unauthenticated, enabled, one, two]
        {
            assert_eq!(SessionNote::decode(note.encode()), Some(note));
        }
        assert_eq!(SessionNote::decode(Bytes::new()), None);
        assert_eq!(SessionNote::decode(Bytes::from_static(b"?what")), None);
    }
}
