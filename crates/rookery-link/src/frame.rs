//! Frames: what two nodes say to each other on one connection, as octets and back. No I/O here.
//!
//! ```text
//! kind: u8 | stream: u32 | length: u32 | payload: `length` octets            (numbers big-endian)
//! ```
//!
//! Invariants:
//! - A payload has at most [`PAYLOAD_OCTETS_MAX`] octets, so that a frame fits one TLS record.
//! - What a decoded frame holds is copied out of the read buffer: a small message never keeps a large buffer alive.
//! - Octets of a peer are never trusted: each length is checked before it is used.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rookery_types::NodeId;

use crate::trace::TraceId;

/// Octets before each payload.
pub const HEADER_OCTETS: usize = 9;
/// The most octets of one payload.
pub const PAYLOAD_OCTETS_MAX: usize = 16_320;
/// The longest name of a service.
pub const SERVICE_OCTETS_MAX: usize = 64;
/// The longest head of a stream.
pub const HEAD_OCTETS_MAX: usize = 16_000;
/// The longest text in a frame: reasons, versions.
pub const TEXT_OCTETS_MAX: usize = 255;

const MAGIC: &[u8; 4] = b"RKLK";

/// The first frame of each side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The oldest version of this protocol the sender speaks.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
    /// What the accepting side chose; 0 in the dialling side's.
    pub chosen: u16,
    /// Who sends this. The certificate must say the same.
    pub node: NodeId,
    /// How often the sender's node has started.
    pub boot: u64,
    /// Which of the connections between two nodes this is.
    pub slot: u8,
    /// The sender's program version, for people.
    pub program: String,
}

/// Why a stream ended early, or was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResetCode(pub u16);

impl ResetCode {
    /// The other side dropped its end before it was finished.
    pub const DROPPED: ResetCode = ResetCode(1);
    /// The service gave up; the text says why.
    pub const FAILED: ResetCode = ResetCode(2);
    /// No such service at the peer. Nothing saw the stream.
    pub const NO_SERVICE: ResetCode = ResetCode(16);
    /// More streams than the peer takes. Nothing saw the stream.
    pub const TOO_MANY: ResetCode = ResetCode(17);
    /// The peer is leaving, or closes this connection. Nothing saw the stream.
    pub const DRAINING: ResetCode = ResetCode(18);
    /// The certificate lacks a duty that the service asks for. Nothing saw the stream.
    pub const NOT_PERMITTED: ResetCode = ResetCode(19);

    /// Whether no service has seen anything of the stream.
    pub fn before_service(self) -> bool {
        (16..32).contains(&self.0)
    }
}

/// Why a whole connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GoodbyeCode(pub u16);

impl GoodbyeCode {
    /// The sender is done: it drained, or shuts down.
    pub const DONE: GoodbyeCode = GoodbyeCode(1);
    /// No version of the protocol that both speak.
    pub const VERSION: GoodbyeCode = GoodbyeCode(2);
    /// Another connection serves this slot.
    pub const DUPLICATE: GoodbyeCode = GoodbyeCode(3);
    /// The peer broke the protocol.
    pub const PROTOCOL: GoodbyeCode = GoodbyeCode(4);
    /// The peer's identity is not what it should be.
    pub const IDENTITY: GoodbyeCode = GoodbyeCode(5);
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Who is there; the first frame of each side and no other.
    Hello(Hello),
    /// A new stream, of the sender's half of the numbers, higher than all before.
    Open {
        /// Its number.
        stream: u32,
        /// Which client's request this is part of.
        trace: TraceId,
        /// Who is to serve it.
        service: String,
        /// What the service reads first.
        head: Bytes,
    },
    /// Octets of a stream.
    Data {
        /// Which.
        stream: u32,
        /// What.
        octets: Bytes,
    },
    /// A message beside the octets, in order with them.
    Control {
        /// Which stream.
        stream: u32,
        /// What.
        octets: Bytes,
    },
    /// The sender sends nothing more on this stream.
    Finish {
        /// Which.
        stream: u32,
    },
    /// The stream ends at once, both ways.
    Reset {
        /// Which.
        stream: u32,
        /// Why.
        code: ResetCode,
        /// Why, for people.
        text: String,
    },
    /// The receiver of this may send so much more on this stream.
    Credit {
        /// Which.
        stream: u32,
        /// How much more.
        octets: u32,
    },
    /// The sender of this will not use so much of its credit.
    GiveBack {
        /// Which stream.
        stream: u32,
        /// How much less.
        octets: u32,
    },
    /// The sender lives.
    Beat,
    /// The sender takes no new streams here; `node`: nor on any other connection.
    Retire {
        /// Whether the whole node is leaving.
        node: bool,
    },
    /// The last frame.
    Goodbye {
        /// Why.
        code: GoodbyeCode,
        /// Why, for people.
        text: String,
    },
}

/// What is no frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length above the limit.
    #[error("a frame of {0} octets is announced, {PAYLOAD_OCTETS_MAX} are allowed")]
    TooLong(u32),
    /// A kind that this version does not know.
    #[error("a frame of the unknown kind {0}")]
    UnknownKind(u8),
    /// The payload is not what a frame of this kind holds.
    #[error("a malformed frame of kind {0}")]
    Malformed(u8),
}

const HELLO: u8 = 1;
const OPEN: u8 = 2;
const DATA: u8 = 3;
const CONTROL: u8 = 4;
const FINISH: u8 = 5;
const RESET: u8 = 6;
const CREDIT: u8 = 7;
const GIVE_BACK: u8 = 8;
const BEAT: u8 = 9;
const RETIRE: u8 = 10;
const GOODBYE: u8 = 11;

/// The header of a frame with octets of a stream, for senders that do not copy the payload.
pub(crate) fn put_message_header(out: &mut Vec<u8>, control: bool, stream: u32, octets: usize) {
    put_header(out, if control { CONTROL } else { DATA }, stream, octets);
}

fn put_header(out: &mut Vec<u8>, kind: u8, stream: u32, octets: usize) {
    debug_assert!(octets <= PAYLOAD_OCTETS_MAX);
    out.put_u8(kind);
    out.put_u32(stream);
    out.put_u32(u32::try_from(octets).unwrap_or(u32::MAX));
}

/// The start of a text that fits a frame, cut between characters.
pub(crate) fn bounded(text: &str, octets_max: usize) -> &str {
    let mut end = text.len().min(octets_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or("")
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let text = bounded(text, TEXT_OCTETS_MAX);
    out.put_u8(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.put_slice(text.as_bytes());
}

impl Frame {
    /// Appends the frame's octets. Texts are cut to [`TEXT_OCTETS_MAX`]; payloads must fit (callers check).
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut payload = Vec::new();
        let (kind, stream) = match self {
            Frame::Hello(hello) => {
                payload.put_slice(MAGIC);
                payload.put_u16(hello.oldest);
                payload.put_u16(hello.newest);
                payload.put_u16(hello.chosen);
                payload.put_u64(hello.node.0);
                payload.put_u64(hello.boot);
                payload.put_u8(hello.slot);
                put_text(&mut payload, &hello.program);
                (HELLO, 0)
            }
            Frame::Open { stream, trace, service, head } => {
                payload.put_u64(trace.0);
                put_text(&mut payload, service);
                payload.put_slice(head);
                (OPEN, *stream)
            }
            Frame::Data { stream, octets } => {
                put_header(out, DATA, *stream, octets.len());
                return out.put_slice(octets);
            }
            Frame::Control { stream, octets } => {
                put_header(out, CONTROL, *stream, octets.len());
                return out.put_slice(octets);
            }
            Frame::Finish { stream } => (FINISH, *stream),
            Frame::Reset { stream, code, text } => {
                payload.put_u16(code.0);
                put_text(&mut payload, text);
                (RESET, *stream)
            }
            Frame::Credit { stream, octets } => {
                payload.put_u32(*octets);
                (CREDIT, *stream)
            }
            Frame::GiveBack { stream, octets } => {
                payload.put_u32(*octets);
                (GIVE_BACK, *stream)
            }
            Frame::Beat => (BEAT, 0),
            Frame::Retire { node } => {
                payload.put_u8(u8::from(*node));
                (RETIRE, 0)
            }
            Frame::Goodbye { code, text } => {
                payload.put_u16(code.0);
                put_text(&mut payload, text);
                (GOODBYE, 0)
            }
        };
        put_header(out, kind, stream, payload.len());
        out.put_slice(&payload);
    }

    /// The frame as octets.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }
}

/// Octets of one peer in, frames out.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: BytesMut,
}

impl Decoder {
    /// A decoder that has seen nothing.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Takes octets in.
    pub fn push(&mut self, octets: &[u8]) {
        self.pending.extend_from_slice(octets);
    }

    /// Where a reader puts octets, behind those that are there: room for `octets` at least.
    pub fn room(&mut self, octets: usize) -> &mut BytesMut {
        self.pending.reserve(octets);
        &mut self.pending
    }

    /// The next whole frame; `None`: more octets are needed. After an error nothing good follows.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let Some((header, rest)) = self.pending.split_first_chunk::<HEADER_OCTETS>() else {
            return Ok(None);
        };
        let [kind, s0, s1, s2, s3, l0, l1, l2, l3] = *header;
        let (stream, announced) =
            (u32::from_be_bytes([s0, s1, s2, s3]), u32::from_be_bytes([l0, l1, l2, l3]));
        let length = usize::try_from(announced).unwrap_or(usize::MAX);
        if length > PAYLOAD_OCTETS_MAX {
            return Err(FrameError::TooLong(announced));
        }
        if !(HELLO..=GOODBYE).contains(&kind) {
            return Err(FrameError::UnknownKind(kind));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let frame = decode(kind, stream, payload).ok_or(FrameError::Malformed(kind))?;
        self.pending.advance(HEADER_OCTETS + length);
        Ok(Some(frame))
    }
}

fn decode(kind: u8, stream: u32, mut payload: &[u8]) -> Option<Frame> {
    let of_stream = (OPEN..=GIVE_BACK).contains(&kind);
    if of_stream != (stream != 0) {
        return None;
    }
    let frame = match kind {
        // What a later version says after these is its own; it is not read.
        HELLO => return decode_hello(payload).map(Frame::Hello),
        OPEN => {
            let trace = TraceId(payload.try_get_u64().ok()?);
            let service = take_text(&mut payload)
                .filter(|name| !name.is_empty() && name.len() <= SERVICE_OCTETS_MAX)?;
            let head = (payload.len() <= HEAD_OCTETS_MAX).then(|| take_rest(&mut payload))?;
            Frame::Open { stream, trace, service, head }
        }
        DATA => Frame::Data { stream, octets: take_rest(&mut payload) },
        CONTROL => Frame::Control { stream, octets: take_rest(&mut payload) },
        FINISH => Frame::Finish { stream },
        RESET => {
            let code = ResetCode(payload.try_get_u16().ok()?);
            Frame::Reset { stream, code, text: take_text(&mut payload)? }
        }
        CREDIT => Frame::Credit { stream, octets: payload.try_get_u32().ok()? },
        GIVE_BACK => Frame::GiveBack { stream, octets: payload.try_get_u32().ok()? },
        BEAT => Frame::Beat,
        RETIRE => match payload.try_get_u8().ok()? {
            0 => Frame::Retire { node: false },
            1 => Frame::Retire { node: true },
            _ => return None,
        },
        GOODBYE => {
            let code = GoodbyeCode(payload.try_get_u16().ok()?);
            Frame::Goodbye { code, text: take_text(&mut payload)? }
        }
        _ => return None,
    };
    payload.is_empty().then_some(frame)
}

fn decode_hello(mut payload: &[u8]) -> Option<Hello> {
    payload = payload.strip_prefix(MAGIC)?;
    Some(Hello {
        oldest: payload.try_get_u16().ok()?,
        newest: payload.try_get_u16().ok()?,
        chosen: payload.try_get_u16().ok()?,
        node: NodeId(payload.try_get_u64().ok()?),
        boot: payload.try_get_u64().ok()?,
        slot: payload.try_get_u8().ok()?,
        program: take_text(&mut payload)?,
    })
}

fn take_rest(payload: &mut &[u8]) -> Bytes {
    Bytes::copy_from_slice(std::mem::take(payload))
}

fn take_text(payload: &mut &[u8]) -> Option<String> {
    let octets = usize::from(payload.try_get_u8().ok()?);
    let (text, rest) = payload.split_at_checked(octets)?;
    *payload = rest;
    std::str::from_utf8(text).ok().map(str::to_owned)
}
