//! What is asked of a source in another place, and what it answers, as octets. No I/O.
//!
//! A message is its length (u32, big-endian) and its body: the number of the request (varint), a tag, and fields as in
//! the directory's records. So messages may be cut anywhere on their way.
//!
//! Invariants:
//! - Decoding takes any octets, never panics, and holds at most one message of [`MESSAGE_OCTETS_MAX`].
//! - What was encoded decodes to the same, wherever it is cut.

use crate::encoding::{Decoder, Encoder};
use crate::source::{Condition, ConditionalBatch, Event, Position, Record, RecordPage, SourceError, Write};
use bytes::{Buf, Bytes, BytesMut};

/// Octets of the longest message.
pub const MESSAGE_OCTETS_MAX: usize = 16 << 20;

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// [`crate::Source::commit`].
    Commit(ConditionalBatch),
    /// [`crate::Source::head`].
    Head,
    /// [`crate::Source::get`].
    Get(Vec<Bytes>),
    /// [`crate::Source::page`]: from which key, and how many records.
    Page(Bytes, u64),
    /// [`crate::Source::changes`]: answered by [`Response::Following`], then by events until an error.
    Changes(Position),
    /// No more events for the request of the same number. Not answered.
    Stop,
}

/// What is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// Where a batch was applied, or where the head is.
    At(Position),
    /// The values that were asked for.
    Values(Position, Vec<Option<Bytes>>),
    /// A page.
    Page(RecordPage),
    /// Events follow.
    Following,
    /// One of them.
    Event(Event),
    /// It was not done, or the events have ended.
    Failed(SourceError),
}

/// The octets are no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotAMessage(pub &'static str);

/// What can be sent.
pub trait Message: Sized {
    #[doc(hidden)]
    fn encode(&self, e: &mut Fields);
    #[doc(hidden)]
    fn decode(d: &mut FieldsRead<'_>) -> Option<Self>;
}

#[doc(hidden)]
pub struct Fields(Encoder);
#[doc(hidden)]
pub struct FieldsRead<'a>(Decoder<'a>);

/// A message and the number of its request; `None` if it is longer than any may be.
pub fn encode<M: Message>(number: u64, message: &M) -> Option<Bytes> {
    let mut fields = Fields(Encoder::empty());
    fields.0.varint(number);
    message.encode(&mut fields);
    let body = fields.0.into_octets();
    let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MESSAGE_OCTETS_MAX)?;
    Some([&length.to_be_bytes()[..], &body].concat().into())
}

/// Octets in, messages out.
#[derive(Default, Debug)]
pub struct Pieces(BytesMut);

impl Pieces {
    /// Adds octets as they come.
    pub fn push(&mut self, octets: &[u8]) {
        self.0.extend_from_slice(octets);
    }

    /// The next whole message with its number; `None` if more octets are needed. After an error there is nothing more
    /// to be had.
    pub fn message<M: Message>(&mut self) -> Result<Option<(u64, M)>, NotAMessage> {
        let Some(length) = self.0.first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > MESSAGE_OCTETS_MAX {
            return Err(NotAMessage("it is longer than any message"));
        }
        if self.0.len() - 4 < length {
            return Ok(None);
        }
        self.0.advance(4);
        let body = self.0.split_to(length);
        let mut fields = FieldsRead(Decoder::new(&body));
        let message = fields.0.varint().and_then(|number| Some((number, M::decode(&mut fields)?)));
        match message.filter(|_| fields.0.is_empty()) {
            Some(message) => Ok(Some(message)),
            None => Err(NotAMessage("its fields make no sense")),
        }
    }
}

impl Fields {
    fn position(&mut self, position: Position) {
        self.0.u64(position.cluster).varint(position.term).varint(position.revision);
    }

    fn value(&mut self, value: &Option<Bytes>) {
        match value {
            Some(value) => self.0.u8(1).octets(value),
            None => self.0.u8(0),
        };
    }

    fn writes(&mut self, writes: &[Write]) {
        self.0.varint(writes.len() as u64);
        for write in writes {
            self.0.octets(&write.key);
            self.value(&write.value);
        }
    }
}

impl FieldsRead<'_> {
    fn position(&mut self) -> Option<Position> {
        Some(Position { cluster: self.0.u64()?, term: self.0.varint()?, revision: self.0.varint()? })
    }

    fn octets(&mut self) -> Option<Bytes> {
        self.0.octets().map(Bytes::copy_from_slice)
    }

    fn value(&mut self) -> Option<Option<Bytes>> {
        match self.0.u8()? {
            0 => Some(None),
            1 => Some(Some(self.octets()?)),
            _ => None,
        }
    }

    /// As many as are said to come. No room is made before they are there.
    fn many<T>(&mut self, mut one: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let mut many = Vec::new();
        for _ in 0..self.0.varint()? {
            many.push(one(self)?);
        }
        Some(many)
    }

    fn writes(&mut self) -> Option<Vec<Write>> {
        self.many(|d| Some(Write { key: d.octets()?, value: d.value()? }))
    }
}

impl Message for Request {
    fn encode(&self, e: &mut Fields) {
        match self {
            Request::Commit(batch) => {
                e.0.u8(1).varint(batch.conditions.len() as u64);
                for condition in &batch.conditions {
                    e.0.octets(&condition.key);
                    e.value(&condition.value);
                }
                e.writes(&batch.writes);
            }
            Request::Head => {
                e.0.u8(2);
            }
            Request::Get(keys) => {
                e.0.u8(3).varint(keys.len() as u64);
                for key in keys {
                    e.0.octets(key);
                }
            }
            Request::Page(start, limit) => {
                e.0.u8(4).octets(start).varint(*limit);
            }
            Request::Changes(since) => {
                e.0.u8(5);
                e.position(*since);
            }
            Request::Stop => {
                e.0.u8(6);
            }
        }
    }

    fn decode(d: &mut FieldsRead<'_>) -> Option<Request> {
        Some(match d.0.u8()? {
            1 => Request::Commit(ConditionalBatch {
                conditions: d.many(|d| Some(Condition { key: d.octets()?, value: d.value()? }))?,
                writes: d.writes()?,
            }),
            2 => Request::Head,
            3 => Request::Get(d.many(FieldsRead::octets)?),
            4 => Request::Page(d.octets()?, d.0.varint()?),
            5 => Request::Changes(d.position()?),
            6 => Request::Stop,
            _ => return None,
        })
    }
}

impl Message for Response {
    fn encode(&self, e: &mut Fields) {
        match self {
            Response::At(position) => {
                e.0.u8(1);
                e.position(*position);
            }
            Response::Values(position, values) => {
                e.0.u8(2);
                e.position(*position);
                e.0.varint(values.len() as u64);
                values.iter().for_each(|value| e.value(value));
            }
            Response::Page(page) => {
                e.0.u8(3);
                e.position(page.position);
                e.value(&page.next);
                e.0.varint(page.records.len() as u64);
                for record in &page.records {
                    e.0.octets(&record.key).octets(&record.value);
                }
            }
            Response::Following => {
                e.0.u8(4);
            }
            Response::Event(event) => {
                e.0.u8(5);
                e.position(event.position);
                e.writes(&event.writes);
            }
            Response::Failed(error) => {
                let (code, why) = match error {
                    SourceError::Conflict => (1, ""),
                    SourceError::Compacted => (2, ""),
                    SourceError::TooLarge => (3, ""),
                    SourceError::Unavailable(why) => (4, &**why),
                    SourceError::Unknown(why) => (5, &**why),
                    SourceError::WentBack(why) => (6, &**why),
                    SourceError::Damaged(why) => (7, &**why),
                };
                e.0.u8(6).u8(code).text(why);
            }
        }
    }

    fn decode(d: &mut FieldsRead<'_>) -> Option<Response> {
        Some(match d.0.u8()? {
            1 => Response::At(d.position()?),
            2 => Response::Values(d.position()?, d.many(FieldsRead::value)?),
            3 => {
                let (position, next) = (d.position()?, d.value()?);
                let records = d.many(|d| Some(Record { key: d.octets()?, value: d.octets()? }))?;
                Response::Page(RecordPage { records, next, position })
            }
            4 => Response::Following,
            5 => Response::Event(Event { position: d.position()?, writes: d.writes()? }),
            6 => {
                let (code, why) = (d.0.u8()?, d.0.text()?.to_owned());
                Response::Failed(match code {
                    1 => SourceError::Conflict,
                    2 => SourceError::Compacted,
                    3 => SourceError::TooLarge,
                    4 => SourceError::Unavailable(why),
                    5 => SourceError::Unknown(why),
                    6 => SourceError::WentBack(why),
                    7 => SourceError::Damaged(why),
                    _ => return None,
                })
            }
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn octets() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
    }

    fn position() -> impl Strategy<Value = Position> {
        any::<(u64, u64, u64)>().prop_map(|(cluster, term, revision)| Position { cluster, term, revision })
    }

    fn writes() -> impl Strategy<Value = Vec<Write>> {
        let write = (octets(), proptest::option::of(octets())).prop_map(|(key, value)| Write { key, value });
        proptest::collection::vec(write, 0..4)
    }

    fn request() -> impl Strategy<Value = Request> {
        prop_oneof![
            (writes(), writes()).prop_map(|(conditions, writes)| {
                let conditions = conditions.into_iter().map(|w| Condition { key: w.key, value: w.value });
                Request::Commit(ConditionalBatch { conditions: conditions.collect(), writes })
            }),
            Just(Request::Head),
            proptest::collection::vec(octets(), 0..4).prop_map(Request::Get),
            (octets(), any::<u64>()).prop_map(|(start, limit)| Request::Page(start, limit)),
            position().prop_map(Request::Changes),
            Just(Request::Stop),
        ]
    }

    fn response() -> impl Strategy<Value = Response> {
        let record = (octets(), octets()).prop_map(|(key, value)| Record { key, value });
        let page = (proptest::collection::vec(record, 0..4), proptest::option::of(octets()), position());
        let failures = prop_oneof![
            Just(SourceError::Conflict),
            Just(SourceError::Compacted),
            Just(SourceError::TooLarge),
            ".{0,9}".prop_map(SourceError::Unavailable),
            ".{0,9}".prop_map(SourceError::Unknown),
            ".{0,9}".prop_map(SourceError::WentBack),
            ".{0,9}".prop_map(SourceError::Damaged),
        ];
        prop_oneof![
            position().prop_map(Response::At),
            (position(), proptest::collection::vec(proptest::option::of(octets()), 0..4))
                .prop_map(|(position, values)| Response::Values(position, values)),
            page.prop_map(|(records, next, position)| Response::Page(RecordPage { records, next, position })),
            Just(Response::Following),
            (position(), writes()).prop_map(|(position, writes)| Response::Event(Event { position, writes })),
            failures.prop_map(Response::Failed),
        ]
    }

    /// Decodes what was sent in pieces.
    fn through<M: Message>(octets: &[u8], cut: usize) -> Vec<(u64, M)> {
        let mut pieces = Pieces::default();
        let mut found = Vec::new();
        for piece in octets.chunks(cut) {
            pieces.push(piece);
            while let Some(message) = pieces.message().unwrap() {
                found.push(message);
            }
        }
        found
    }

    proptest! {
        #[test]
        fn messages_read_back_wherever_they_are_cut(
            requests in proptest::collection::vec((any::<u64>(), request()), 1..4),
            responses in proptest::collection::vec((any::<u64>(), response()), 1..4),
            cut in 1usize..40,
        ) {
            let sent: Vec<u8> = requests.iter().flat_map(|(n, m)| encode(*n, m).unwrap()).collect();
            prop_assert_eq!(through::<Request>(&sent, cut), requests);
            let sent: Vec<u8> = responses.iter().flat_map(|(n, m)| encode(*n, m).unwrap()).collect();
            prop_assert_eq!(through::<Response>(&sent, cut), responses);
        }

        #[test]
        fn any_octets_do_no_harm(octets in proptest::collection::vec(any::<u8>(), 0..80)) {
            let body = [&u32::try_from(octets.len()).unwrap().to_be_bytes()[..], &octets].concat();
            for sent in [octets, body] {
                let mut pieces = Pieces::default();
                pieces.push(&sent);
                while let Ok(Some(_)) = pieces.message::<Request>() {}
                let mut pieces = Pieces::default();
                pieces.push(&sent);
                while let Ok(Some(_)) = pieces.message::<Response>() {}
            }
        }

        #[test]
        fn a_shortened_body_is_no_message(request in request(), number: u64) {
            let sent = encode(number, &request).unwrap();
            let body = &sent[4..];
            for at in 0..body.len() {
                let mut pieces = Pieces::default();
                pieces.push(&u32::try_from(at).unwrap().to_be_bytes());
                pieces.push(&body[..at]);
                prop_assert!(pieces.message::<Request>().is_err());
            }
        }
    }

    #[test]
    fn what_is_too_long_is_known_at_once() {
        let mut pieces = Pieces::default();
        pieces.push(&u32::MAX.to_be_bytes());
        assert!(pieces.message::<Request>().is_err());
        let key = Bytes::from(vec![0; MESSAGE_OCTETS_MAX]);
        assert_eq!(encode(1, &Request::Get(vec![key])), None);
        // A count that promises much costs nothing.
        let mut pieces = Pieces::default();
        pieces.push(&[0, 0, 0, 12, 1, 3, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]);
        assert!(pieces.message::<Request>().is_err());
    }
}
