//! What is said between the store that an account leaves and the one that it goes to. The nodes carry it unread.

use super::ranges::Block;
use crate::encoding::{Decoder, Encoder};
use bytes::Bytes;
use rookery_kv::engine::Space;
use rookery_types::{AccountId, ContentId};

/// Octets of the longest request or answer.
pub const FRAME_OCTETS_MAX: usize = 16 << 20;

const COMPARE: u8 = 1;
const LACK: u8 = 2;
const APPLY: u8 = 3;
const LARGE: u8 = 4;
const PART: u8 = 5;
const END: u8 = 6;
const SEAL: u8 = 7;

const PRUNE: u8 = 0;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const BODY: u8 = 3;

/// What the store is asked that an account goes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Request {
    /// Which of these blocks are others there? Answer: an octet for each, 1 for those.
    Compare(Vec<Block>),
    /// Which of these contents are not there? Answer: an octet for each, 1 for those.
    Lack(Vec<ContentId>),
    /// Do this, durably.
    Apply(Vec<Item>),
    /// The octets of a large content come.
    Large(ContentId, u32),
    /// Some of them.
    Part(Bytes),
    /// That was all; their hash.
    End([u8; 16]),
    /// The account stands still at home, and this is its own record there. `keys`: what was sent since all was
    /// compared, and what these records come to.
    Seal { record: Bytes, modseq: u64, keys: Vec<(Space, Bytes)>, digest: [u8; 16] },
}

/// One thing to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Item {
    /// Between two keys there are only these.
    Prune { space: Space, start: Bytes, end: Bytes, keys: Vec<Bytes> },
    /// A record, in canonical form.
    Put { space: Space, key: Bytes, value: Bytes },
    /// There is no such record.
    Delete { space: Space, key: Bytes },
    /// The octets of a content, with their hash.
    Body { content: ContentId, hash: [u8; 16], octets: Bytes },
}

impl Item {
    /// About how many octets it takes.
    pub(crate) fn octets(&self) -> usize {
        16 + match self {
            Item::Prune { start, end, keys, .. } => {
                start.len() + end.len() + keys.iter().map(|key| key.len() + 1).sum::<usize>()
            }
            Item::Put { key, value, .. } => key.len() + value.len(),
            Item::Delete { key, .. } => key.len(),
            Item::Body { octets, .. } => 32 + octets.len(),
        }
    }
}

/// What octets come to, for the other side to compare.
pub(crate) fn hash_of(hasher: &blake3::Hasher) -> [u8; 16] {
    let mut hash = [0; 16];
    hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    hash
}

fn space(d: &mut Decoder<'_>) -> Option<Space> {
    Space::from_index(d.u8()?)
}

/// Every key begins with the account's id, which is not sent.
fn key(d: &mut Decoder<'_>, id: AccountId) -> Option<Bytes> {
    Some(Bytes::from([&crate::keys::account(id)[..], d.octets()?].concat()))
}

fn rest(key: &[u8]) -> &[u8] {
    key.get(8..).unwrap_or_default()
}

/// The end of a range: within the account, or the end of it.
fn put_end(e: &mut Encoder, id: AccountId, end: &[u8]) {
    match end.starts_with(&crate::keys::account(id)) {
        true => e.u8(1).octets(rest(end)),
        false => e.u8(0),
    };
}

fn take_end(d: &mut Decoder<'_>, id: AccountId) -> Option<Bytes> {
    match d.u8()? {
        0 => Some(super::ranges::end_of(id)),
        1 => key(d, id),
        _ => None,
    }
}

impl Request {
    pub(crate) fn encode(&self, id: AccountId) -> Bytes {
        let mut e = Encoder::default();
        match self {
            Request::Compare(blocks) => {
                e.u8(COMPARE).varint(blocks.len() as u64);
                for block in blocks {
                    e.u8(block.space.index()).octets(rest(&block.start));
                    put_end(&mut e, id, &block.end);
                    e.raw(&block.digest);
                }
            }
            Request::Lack(contents) => {
                e.u8(LACK).varint(contents.len() as u64);
                for content in contents {
                    e.raw(&content.0);
                }
            }
            Request::Apply(items) => {
                e.u8(APPLY).varint(items.len() as u64);
                for item in items {
                    match item {
                        Item::Prune { space, start, end, keys } => {
                            e.u8(PRUNE).u8(space.index()).octets(rest(start));
                            put_end(&mut e, id, end);
                            e.varint(keys.len() as u64);
                            for key in keys {
                                e.octets(rest(key));
                            }
                        }
                        Item::Put { space, key, value } => {
                            e.u8(PUT).u8(space.index()).octets(rest(key)).octets(value);
                        }
                        Item::Delete { space, key } => {
                            e.u8(DELETE).u8(space.index()).octets(rest(key));
                        }
                        Item::Body { content, hash, octets } => {
                            e.u8(BODY).raw(&content.0).raw(hash).octets(octets);
                        }
                    }
                }
            }
            Request::Large(content, size) => {
                e.u8(LARGE).raw(&content.0).u32(*size);
            }
            Request::Part(octets) => {
                e.u8(PART).octets(octets);
            }
            Request::End(hash) => {
                e.u8(END).raw(hash);
            }
            Request::Seal { record, modseq, keys, digest } => {
                e.u8(SEAL).octets(record).varint(*modseq).raw(digest).varint(keys.len() as u64);
                for (space, key) in keys {
                    e.u8(space.index()).octets(rest(key));
                }
            }
        }
        e.into_octets()
    }

    pub(crate) fn decode(octets: &Bytes, id: AccountId) -> Option<Request> {
        let mut decoder = Decoder::new(octets);
        let d = &mut decoder;
        let request = match d.u8()? {
            COMPARE => {
                let mut blocks = Vec::new();
                for _ in 0..d.count()? {
                    let (space, start) = (space(d)?, key(d, id)?);
                    blocks.push(Block { space, start, end: take_end(d, id)?, digest: d.array()? });
                }
                Request::Compare(blocks)
            }
            LACK => Request::Lack((0..d.count()?).map(|_| d.array().map(ContentId)).collect::<Option<_>>()?),
            APPLY => {
                let mut items = Vec::new();
                for _ in 0..d.count()? {
                    items.push(match d.u8()? {
                        PRUNE => {
                            let (space, start, end) = (space(d)?, key(d, id)?, take_end(d, id)?);
                            let keys = (0..d.count()?).map(|_| key(d, id)).collect::<Option<_>>()?;
                            Item::Prune { space, start, end, keys }
                        }
                        PUT => {
                            let (space, key) = (space(d)?, key(d, id)?);
                            Item::Put { space, key, value: octets.slice_ref(d.octets()?) }
                        }
                        DELETE => Item::Delete { space: space(d)?, key: key(d, id)? },
                        BODY => {
                            let (content, hash) = (ContentId(d.array()?), d.array()?);
                            Item::Body { content, hash, octets: octets.slice_ref(d.octets()?) }
                        }
                        _ => return None,
                    });
                }
                Request::Apply(items)
            }
            LARGE => Request::Large(ContentId(d.array()?), d.u32()?),
            PART => Request::Part(octets.slice_ref(d.octets()?)),
            END => Request::End(d.array()?),
            SEAL => {
                let record = octets.slice_ref(d.octets()?);
                let (modseq, digest) = (d.varint()?, d.array()?);
                let keys = (0..d.count()?).map(|_| Some((space(d)?, key(d, id)?))).collect::<Option<_>>()?;
                Request::Seal { record, modseq, keys, digest }
            }
            _ => return None,
        };
        (d.left() == 0).then_some(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever another node says is read or refused.
        #[test]
        fn any_octets_are_read_or_refused(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            let id = AccountId::FIRST;
            let octets = Bytes::from(octets);
            if let Some(request) = Request::decode(&octets, id) {
                let again = Request::decode(&request.encode(id), id);
                prop_assert_eq!(again, Some(request));
            }
        }
    }

    #[test]
    fn requests_read_back() {
        let id = AccountId::FIRST;
        let key = Bytes::from([&crate::keys::account(id)[..], &[7, 8]].concat());
        let end = super::super::ranges::end_of(id);
        let (space, content) = (Space::Delta, ContentId([4; 16]));
        let octets = Bytes::from_static(b"text");
        let block = Block { space, start: key.clone(), end: end.clone(), digest: [9; 16] };
        let inner = Block { end: key.clone(), ..block.clone() };
        for request in [
            Request::Compare(vec![block, inner]),
            Request::Lack(vec![content]),
            Request::Apply(vec![
                Item::Prune { space, start: key.clone(), end, keys: vec![key.clone()] },
                Item::Put { space, key: key.clone(), value: octets.clone() },
                Item::Delete { space, key: key.clone() },
                Item::Body { content, hash: [1; 16], octets: octets.clone() },
            ]),
            Request::Large(content, 7),
            Request::Part(octets.clone()),
            Request::End([2; 16]),
            Request::Seal { record: octets, modseq: 3, keys: vec![(space, key)], digest: [5; 16] },
        ] {
            assert_eq!(Request::decode(&request.encode(id), id), Some(request));
        }
    }
}
