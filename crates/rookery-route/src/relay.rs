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
//! - When the user's account has moved, the home gives the session to the edge as a value, and with it whatever of the
//!   client's octets it has not used; the edge opens a pipe to the new home and goes on there. Values are opaque here.
//! - Compression is the edge's, as TLS is: between the halves octets are plain.

mod edge;
mod home;

pub use edge::{Relayed, Reopening, Suspended, Witness, go_on, open_from, relay};
pub use home::{HandOver, Opening, hand_back, own_pipe, take_value};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rookery_net::{Peer, Pipe, Stream};
use rookery_types::{Epoch, NodeId, OperationId, UserName};
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;

/// Octets in the longest head; what is longer is refused.
pub const HEAD_OCTETS_MAX: usize = 4096;
/// Octets in the longest value of a session.
pub const VALUE_OCTETS_MAX: usize = 16 << 20;

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
    /// Accounts that move there, or have come from there.
    Move,
}

impl PipeService {
    /// All of them.
    pub const ALL: [PipeService; 6] = [
        PipeService::Imap,
        PipeService::Guest,
        PipeService::Pop3,
        PipeService::Lmtp,
        PipeService::Transit,
        PipeService::Move,
    ];

    /// Its name between nodes.
    pub fn name(self) -> &'static str {
        match self {
            PipeService::Imap => "imap",
            PipeService::Guest => "imap-guest",
            PipeService::Pop3 => "pop3",
            PipeService::Lmtp => "lmtp",
            PipeService::Transit => "transit",
            PipeService::Move => "move",
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
    /// The edge wants marks ([`SessionNote::Mark`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub marks: bool,
    /// The edge compresses for the home, if that says so ([`SessionNote::Compressed`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deflates: bool,
    /// The session goes on from a value of so many octets, which follows in notes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_octets: Option<usize>,
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
        let (user, tls) = (user.to_string(), stream.is_tls());
        SessionHead { user, trace, peer, tls, tag, verb, marks: false, deflates: false, value_octets: None }
    }

    /// The head of a guest of the session whose client is at the end of a stream.
    pub fn of_guest(user: &UserName, trace: u64, stream: &Stream) -> SessionHead {
        SessionHead::new(user, trace, stream, "", "")
    }

    /// The same of an edge that wants marks.
    pub fn marked(self) -> SessionHead {
        SessionHead { marks: true, ..self }
    }

    /// The same of an edge that compresses for the home.
    pub fn deflating(self) -> SessionHead {
        SessionHead { deflates: true, ..self }
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
    /// Of a session to its guest: the command that follows is of a REPLACE whose new message is at another home. A UID
    /// SEARCH asks for the message that is to go, and is refused unless it may; a UID EXPUNGE takes it away, whatever its
    /// flags.
    Replaces,
    /// Of the home, once the edge has done so: what it was sent and has not used, from the start. Several follow one
    /// another.
    Rest(Bytes),
    /// Of the home: that was the rest, and the client is nobody's again.
    Unauthenticated,
    /// Of a session to its guest, or of an edge to a home: the session has to go on from its value, at the same node if
    /// that still has the account.
    Suspend,
    /// Of the home: the account is at home at that node, since that epoch, and the session goes on there from its value
    /// of so many octets, which follows. As with [`SessionNote::Release`] the edge passes nothing on from here. Without
    /// a value it answers a session that was to go on here.
    Moved {
        /// The account's home.
        node: NodeId,
        /// Since when.
        epoch: Epoch,
        /// Octets of the value.
        octets: u32,
    },
    /// A piece of a session's value.
    Value(Bytes),
    /// Of the home: that was the rest ([`SessionNote::Rest`]), and it goes to the new home.
    Done,
    /// Of the home: a session goes on here from the value that was sent.
    Resumed,
    /// Of the home, behind the OK of COMPRESS: octets between the edge and the client are compressed from here on, both
    /// ways (RFC 4978).
    Compressed,
    /// Of the home, before it says the last that there is to say: what the edge goes on from if it then loses the home.
    Mark(Mark),
}

/// Where a session stands, between two responses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mark {
    /// So many octets that this home was sent are of commands that were answered, and of what comes before the next.
    pub used: u64,
    /// It counts once so many octets were said behind it.
    pub behind: u32,
    /// The session's value, if that is another than at the last mark.
    pub value: Marked,
}

/// The value of a [`Mark`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Marked {
    /// It is the same as before.
    Same,
    /// It is this one.
    Value(Bytes),
    /// Without its home the session cannot go on.
    Nothing,
}

/// Octets of the longest value in a mark.
pub const MARK_OCTETS_MAX: usize = 4096;

const LEAVE: u8 = b'L';
const RELEASE: u8 = b'R';
const REST: u8 = b'O';
const UNAUTHENTICATED: u8 = b'U';
const ENABLED: u8 = b'E';
const OPERATION: u8 = b'P';
const OPERATION_AGAIN: u8 = b'Q';
const REPLACES: u8 = b'X';
const SUSPEND: u8 = b'S';
const MOVED: u8 = b'M';
const VALUE: u8 = b'V';
const DONE: u8 = b'D';
const RESUMED: u8 = b'C';
const COMPRESSED: u8 = b'Z';
const MARK: u8 = b'K';
const MARK_VALUE: u8 = b'k';
const MARK_NOTHING: u8 = b'n';
/// Octets in one [`SessionNote::Rest`] or [`SessionNote::Value`].
const NOTE_OCTETS: usize = 4096;

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
            SessionNote::Replaces => octets.put_u8(REPLACES),
            SessionNote::Suspend => octets.put_u8(SUSPEND),
            SessionNote::Moved { node, epoch, octets: value } => {
                octets.put_u8(MOVED);
                octets.put_u64(node.0);
                octets.put_u64(epoch.0);
                octets.put_u32(*value);
            }
            SessionNote::Value(piece) => {
                octets.put_u8(VALUE);
                octets.extend_from_slice(piece);
            }
            SessionNote::Done => octets.put_u8(DONE),
            SessionNote::Resumed => octets.put_u8(RESUMED),
            SessionNote::Compressed => octets.put_u8(COMPRESSED),
            SessionNote::Mark(Mark { used, behind, value }) => {
                octets.put_u8(match value {
                    Marked::Same => MARK,
                    Marked::Value(_) => MARK_VALUE,
                    Marked::Nothing => MARK_NOTHING,
                });
                octets.put_u64(*used);
                octets.put_u32(*behind);
                if let Marked::Value(value) = value {
                    octets.extend_from_slice(value);
                }
            }
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
            Some(&REPLACES) => Some(SessionNote::Replaces),
            Some(&SUSPEND) => Some(SessionNote::Suspend),
            Some(&MOVED) if octets.len() >= 20 => {
                let (node, epoch) = (NodeId(octets.get_u64()), Epoch(octets.get_u64()));
                Some(SessionNote::Moved { node, epoch, octets: octets.get_u32() })
            }
            Some(&VALUE) => Some(SessionNote::Value(octets)),
            Some(&DONE) => Some(SessionNote::Done),
            Some(&RESUMED) => Some(SessionNote::Resumed),
            Some(&COMPRESSED) => Some(SessionNote::Compressed),
            Some(kind @ (&MARK | &MARK_VALUE | &MARK_NOTHING)) if octets.len() >= 12 => {
                let (used, behind) = (octets.get_u64(), octets.get_u32());
                let value = match *kind {
                    MARK => Marked::Same,
                    MARK_VALUE => Marked::Value(octets),
                    _ => Marked::Nothing,
                };
                Some(SessionNote::Mark(Mark { used, behind, value }))
            }
            Some(kind @ (&OPERATION | &OPERATION_AGAIN)) => {
                let (id, again) = (octets.as_ref().try_into().ok()?, *kind == OPERATION_AGAIN);
                Some(SessionNote::Operation { id: OperationId(id), again })
            }
            _ => None,
        }
    }
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

    #[test]
    fn notes_come_back_as_they_were() {
        let rest = SessionNote::Rest(Bytes::from_static(b"a1 LOGIN"));
        let enabled = SessionNote::Enabled(0x1f);
        let moved = SessionNote::Moved { node: NodeId(u64::MAX), epoch: Epoch(7), octets: 1 << 24 };
        let value = SessionNote::Value(Bytes::from_static(b"{}"));
        let operation = |again| SessionNote::Operation { id: OperationId([7; 16]), again };
        let (one, two) = (operation(false), operation(true));
        for note in
            [SessionNote::Leave, SessionNote::Release, rest, SessionNote::Unauthenticated, enabled, one, two]
        {
            assert_eq!(SessionNote::decode(note.encode()), Some(note));
        }
        let plain = [SessionNote::Suspend, SessionNote::Replaces, SessionNote::Done, SessionNote::Resumed];
        for note in plain.into_iter().chain([SessionNote::Compressed, moved, value]) {
            assert_eq!(SessionNote::decode(note.encode()), Some(note));
        }
        for value in [Marked::Same, Marked::Value(Bytes::from_static(b"{}")), Marked::Nothing] {
            let note = SessionNote::Mark(Mark { used: u64::MAX - 1, behind: 7, value });
            assert_eq!(SessionNote::decode(note.encode()), Some(note));
        }
        assert_eq!(SessionNote::decode(Bytes::from_static(b"M1234567")), None);
        assert_eq!(SessionNote::decode(Bytes::new()), None);
        assert_eq!(SessionNote::decode(Bytes::from_static(b"?what")), None);
    }
}
