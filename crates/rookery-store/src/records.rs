//! Every kind of record an account consists of, with its octets. `docs/store-format.md` is the same as prose.

use crate::encoding::{Damaged, Decoder, Encoder, open, seal};
use crate::keys;
use crate::leaf::{ChunkSummary, Counts};
use crate::messages::{KeywordNumbers, Message};
use bytes::Bytes;
use rookery_kv::engine::Space;
use rookery_types::acl::{Acl, Identifier};
use rookery_types::{
    AccountId, ContentId, Epoch, InternalDate, JobId, Keyword, MailboxId, MailboxPath, ModSeq, NodeId,
    Rights, SpecialUse, StoreId, SystemFlags, ThreadId, Uid, UidSet, UidValidity, UserName,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A kind of record, for whoever walks an account: check, export, move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// What it is called in reports.
    pub name: &'static str,
    /// The space it stands in.
    pub space: Space,
    /// Whether it can be made anew from other records.
    pub derived: bool,
}

/// Every kind of record that an account consists of.
pub const KINDS: [Kind; 26] = [
    Kind { name: "account", space: Space::Account, derived: false },
    Kind { name: "subscription", space: Space::Account, derived: false },
    Kind { name: "subscription list", space: Space::Account, derived: true },
    Kind { name: "annotation", space: Space::Account, derived: false },
    Kind { name: "annotation usage", space: Space::Account, derived: true },
    Kind { name: "private seen", space: Space::Account, derived: false },
    Kind { name: "private seen summary", space: Space::Account, derived: true },
    Kind { name: "deliveries", space: Space::Account, derived: false },
    Kind { name: "outgoing move", space: Space::Account, derived: false },
    Kind { name: "incoming moves floor", space: Space::Account, derived: false },
    Kind { name: "incoming move", space: Space::Account, derived: false },
    Kind { name: "operation", space: Space::Account, derived: false },
    Kind { name: "mailbox settings", space: Space::Mailbox, derived: false },
    Kind { name: "mailbox summary", space: Space::Mailbox, derived: true },
    Kind { name: "quota usage", space: Space::Mailbox, derived: true },
    Kind { name: "message chunk", space: Space::Chunk, derived: false },
    Kind { name: "message delta", space: Space::Delta, derived: false },
    Kind { name: "chunk summary", space: Space::Leaf, derived: true },
    Kind { name: "change log entry", space: Space::Log, derived: true },
    Kind { name: "tombstone", space: Space::Tombstone, derived: false },
    Kind { name: "content", space: Space::Content, derived: true },
    Kind { name: "content facts", space: Space::Content, derived: true },
    Kind { name: "thread", space: Space::Thread, derived: true },
    Kind { name: "expunged message", space: Space::Queue, derived: false },
    Kind { name: "deleted mailbox", space: Space::Queue, derived: true },
    Kind { name: "deleted account", space: Space::Queue, derived: true },
];

/// Whether an account may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccountState {
    /// This store is its home.
    Home,
    /// Deleted: what is left goes in the background.
    Deleted,
    /// It comes here from the home that is named, and is not whole.
    Receiving(Travel),
    /// It has come here, whole as it was at the modseq that is named, and its home may release it.
    Ready(Travel),
    /// It has gone to the node that is named, for good: nothing of it changes here any more.
    Released(Travel),
    /// That node has said that it has all of it. What is left here goes after the retention.
    Moved(Travel),
}

impl AccountState {
    /// Where it goes, or comes from.
    pub fn travel(self) -> Option<Travel> {
        match self {
            AccountState::Home | AccountState::Deleted => None,
            AccountState::Receiving(travel)
            | AccountState::Ready(travel)
            | AccountState::Released(travel)
            | AccountState::Moved(travel) => Some(travel),
        }
    }
}

/// An account on its way to another home.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Travel {
    /// Which move.
    pub job: JobId,
    /// The other node: where it goes, or where it comes from.
    pub peer: NodeId,
    /// The epoch that it has at its new home.
    pub epoch: Epoch,
    /// The account's modseq when its old home stopped changing it; 0: it has not yet.
    pub modseq: u64,
}

/// An account's own record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AccountRecord {
    /// The node that is its home.
    pub node: NodeId,
    /// The store that is its home.
    pub store: StoreId,
    /// How often the home has changed, from 1.
    pub epoch: Epoch,
    /// Which copy of the account this is within the store.
    pub incarnation: u32,
    /// Whether it may be used.
    pub state: AccountState,
    /// Whose tree it is; `None` for shared mailboxes.
    pub owner: Option<UserName>,
    /// The last modseq given.
    pub modseq: ModSeq,
    /// The oldest modseq the change log still knows is the one after this.
    pub log_floor: u64,
    /// The last mailbox number given.
    pub last_mailbox: u32,
    /// The last UIDVALIDITY given.
    pub last_uid_validity: u32,
    /// Octets of all messages that are not expunged, each copy in full.
    pub octets: u64,
    /// How many messages are not expunged.
    pub messages: u64,
    /// What the account's own quota root may hold.
    pub limits: Limits,
}

impl AccountRecord {
    pub(crate) fn encode(&self, id: AccountId) -> Bytes {
        let travel = self.state.travel();
        let layout = match (travel.is_some(), self.limits.mailboxes.is_some()) {
            (true, _) => 3,
            (false, true) => 2,
            (false, false) => 1,
        };
        let mut e = Encoder::new(layout);
        e.u64(self.node.0).raw(&self.store.0).varint(self.epoch.0).varint(self.incarnation.into());
        e.u8(match self.state {
            AccountState::Home => 0,
            AccountState::Deleted => 1,
            AccountState::Receiving(_) => 2,
            AccountState::Ready(_) => 3,
            AccountState::Released(_) => 4,
            AccountState::Moved(_) => 5,
        });
        e.text(self.owner.as_ref().map_or("", UserName::as_str));
        e.varint(self.modseq.get()).varint(self.log_floor).varint(self.last_mailbox.into());
        e.varint(self.last_uid_validity.into()).varint(self.octets).varint(self.messages);
        encode_limits(&mut e, [self.limits.octets, self.limits.messages]);
        if layout > 1 {
            encode_limits(&mut e, [self.limits.mailboxes]);
        }
        if let Some(travel) = travel {
            e.u64(travel.job.0).u64(travel.peer.0).varint(travel.epoch.0).varint(travel.modseq);
        }
        seal(Space::Account, &keys::account_record(id), e)
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<AccountRecord, Damaged> {
        open(Space::Account, key, value, |d| {
            let layout = d.u8().filter(|layout| matches!(layout, 1..=3))?;
            let (node, store) = (NodeId(d.u64()?), StoreId(d.array()?));
            let (epoch, incarnation) = (Epoch(d.varint()?), d.varint32()?);
            let state = d.u8()?;
            let mut record = AccountRecord {
                node,
                store,
                epoch,
                incarnation,
                // It ends with what else there is to say of the state.
                state: AccountState::Home,
                owner: match d.text()? {
                    "" => None,
                    name => Some(UserName::parse(name, "").ok()?),
                },
                modseq: ModSeq::new(d.varint()?)?,
                log_floor: d.varint()?,
                last_mailbox: d.varint32()?,
                last_uid_validity: d.varint32()?,
                octets: d.varint()?,
                messages: d.varint()?,
                limits: Limits {
                    octets: d.varint()?.checked_sub(1),
                    messages: d.varint()?.checked_sub(1),
                    mailboxes: if layout > 1 { d.varint()?.checked_sub(1) } else { None },
                },
            };
            record.state = match (layout, state) {
                (1 | 2, 0) => AccountState::Home,
                (1 | 2, 1) => AccountState::Deleted,
                (3, state) => {
                    let travel = Travel {
                        job: JobId(d.u64()?),
                        peer: NodeId(d.u64()?),
                        epoch: Epoch(d.varint()?),
                        modseq: d.varint()?,
                    };
                    match state {
                        2 => AccountState::Receiving(travel),
                        3 => AccountState::Ready(travel),
                        4 => AccountState::Released(travel),
                        5 => AccountState::Moved(travel),
                        _ => return None,
                    }
                }
                _ => return None,
            };
            Some(record)
        })
    }
}

/// The most that a quota root may hold; `None`: no limit.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Limits {
    /// Octets of all messages, each copy in full.
    pub octets: Option<u64>,
    /// Messages.
    pub messages: Option<u64>,
    /// Mailboxes.
    pub mailboxes: Option<u64>,
}

fn encode_limits<const N: usize>(e: &mut Encoder, limits: [Option<u64>; N]) {
    for limit in limits {
        e.varint(limit.map_or(0, |n| n.saturating_add(1)));
    }
}

/// What a quota root holds: messages that are not expunged.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Held {
    /// Their octets, each copy in full.
    pub octets: u64,
    /// How many there are.
    pub messages: u64,
}

impl Held {
    pub(crate) fn encode(&self, id: MailboxId) -> Bytes {
        let mut e = Encoder::new(1);
        e.varint(self.octets).varint(self.messages);
        seal(Space::Mailbox, &keys::held(id), e)
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Held, Damaged> {
        open(Space::Mailbox, key, value, |d| {
            d.layout(1)?;
            Some(Held { octets: d.varint()?, messages: d.varint()? })
        })
    }
}

/// What is set on a mailbox, as opposed to counted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Where it stands in its account.
    pub path: MailboxPath,
    /// Its UIDVALIDITY.
    pub uid_validity: UidValidity,
    /// What it is for.
    pub special_use: Vec<SpecialUse>,
    /// Who may do what.
    pub acl: Acl,
    /// The keywords its messages have or had, by number. Only grows.
    pub keywords: Arc<Vec<Keyword>>,
    /// Deleted at this second since 1970: invisible, kept for undelete.
    pub deleted_unix_seconds: Option<u32>,
    /// The mailbox is a quota root: what it and all below it that has no nearer root may hold. Never without a limit.
    pub quota: Option<Limits>,
}

impl Settings {
    /// A keyword's number.
    pub fn keyword_number(&self, keyword: &Keyword) -> Option<u16> {
        self.keywords.iter().position(|known| known == keyword).and_then(|at| u16::try_from(at).ok())
    }

    pub(crate) fn encode(&self, id: MailboxId) -> Bytes {
        let mut e = Encoder::new(if self.quota.is_some() { 2 } else { 1 });
        e.text(self.path.as_str()).varint(self.uid_validity.get().into());
        e.varint(self.special_use.len() as u64);
        for special_use in &self.special_use {
            e.text(special_use.attribute());
        }
        encode_acl(&mut e, &self.acl);
        e.varint(self.keywords.len() as u64);
        for keyword in self.keywords.iter() {
            e.text(keyword.as_str());
        }
        e.varint(self.deleted_unix_seconds.map_or(0, |n| u64::from(n) + 1));
        if let Some(limits) = &self.quota {
            encode_limits(&mut e, [limits.octets, limits.messages, limits.mailboxes]);
        }
        seal(Space::Mailbox, &keys::settings(id), e)
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Settings, Damaged> {
        open(Space::Mailbox, key, value, |d| {
            let layout = d.u8().filter(|layout| matches!(layout, 1 | 2))?;
            let path = match d.text()? {
                "" => MailboxPath::root(),
                text => MailboxPath::new(text).ok()?,
            };
            let uid_validity = UidValidity::new(d.varint32()?)?;
            let special_use = (0..d.count()?).map(|_| SpecialUse::parse(d.text()?)).collect::<Option<_>>()?;
            let acl = decode_acl(d)?;
            let keywords = (0..d.count()?).map(|_| Keyword::new(d.text()?)).collect::<Option<Vec<_>>>()?;
            let deleted_unix_seconds = match d.varint()?.checked_sub(1) {
                Some(n) => Some(u32::try_from(n).ok()?),
                None => None,
            };
            let quota = match layout {
                2 => Some(Limits {
                    octets: d.varint()?.checked_sub(1),
                    messages: d.varint()?.checked_sub(1),
                    mailboxes: d.varint()?.checked_sub(1),
                }),
                _ => None,
            };
            Some(Settings {
                path,
                uid_validity,
                special_use,
                acl,
                keywords: Arc::new(keywords),
                deleted_unix_seconds,
                quota,
            })
        })
    }
}

fn encode_acl(e: &mut Encoder, acl: &Acl) {
    e.varint(acl.entries().len() as u64);
    for entry in acl.entries() {
        let (kind, name) = match &entry.identifier {
            Identifier::Anyone => (0, ""),
            Identifier::Anonymous => (1, ""),
            Identifier::Group(name) => (2, &**name),
            Identifier::User(user) => (3, user.as_str()),
        };
        e.u8(kind | u8::from(entry.negative) << 7).text(name).varint(entry.rights.bits().into());
    }
}

fn decode_acl(d: &mut Decoder<'_>) -> Option<Acl> {
    let mut acl = Acl::new();
    for _ in 0..d.count()? {
        let kind = d.u8()?;
        let name = d.text()?;
        let identifier = match kind & 0x7f {
            0 => Identifier::Anyone,
            1 => Identifier::Anonymous,
            2 => Identifier::Group(name.into()),
            3 => Identifier::User(UserName::parse(name, "").ok()?),
            _ => return None,
        };
        acl.set(identifier, kind & 0x80 != 0, Rights::from_bits(u16::try_from(d.varint()?).ok()?)?);
    }
    Some(acl)
}

/// What is counted of a mailbox: kept with every change, so that STATUS and SELECT read no messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// The next UID to give, from 1.
    pub uid_next: u32,
    /// HIGHESTMODSEQ: the account's modseq at the last change of this mailbox.
    pub highest_modseq: ModSeq,
    /// Messages.
    pub exists: u32,
    /// Messages without \Seen.
    pub unseen: u32,
    /// Messages with \Deleted.
    pub deleted: u32,
    /// Octets of all messages.
    pub octets: u64,
    /// Octets of the messages with \Deleted.
    pub deleted_octets: u64,
    /// Delta records not yet folded into chunks.
    pub deltas: u32,
    /// Chunk records: what tells a check that one is gone.
    pub chunks: u32,
}

impl Summary {
    /// Counts one message in.
    pub(crate) fn add(&mut self, size: u32, flags: SystemFlags) {
        self.exists = self.exists.saturating_add(1);
        self.octets = self.octets.saturating_add(size.into());
        if !flags.contains(SystemFlags::SEEN) {
            self.unseen = self.unseen.saturating_add(1);
        }
        if flags.contains(SystemFlags::DELETED) {
            self.deleted = self.deleted.saturating_add(1);
            self.deleted_octets = self.deleted_octets.saturating_add(size.into());
        }
    }

    /// Counts one message out.
    pub(crate) fn subtract(&mut self, size: u32, flags: SystemFlags) {
        self.exists = self.exists.saturating_sub(1);
        self.octets = self.octets.saturating_sub(size.into());
        if !flags.contains(SystemFlags::SEEN) {
            self.unseen = self.unseen.saturating_sub(1);
        }
        if flags.contains(SystemFlags::DELETED) {
            self.deleted = self.deleted.saturating_sub(1);
            self.deleted_octets = self.deleted_octets.saturating_sub(size.into());
        }
    }

    pub(crate) fn encode(&self, id: MailboxId) -> Bytes {
        let mut e = Encoder::new(1);
        e.varint(self.uid_next.into()).varint(self.highest_modseq.get()).varint(self.exists.into());
        e.varint(self.unseen.into())
            .varint(self.deleted.into())
            .varint(self.octets)
            .varint(self.deleted_octets);
        e.varint(self.deltas.into()).varint(self.chunks.into());
        seal(Space::Mailbox, &keys::summary(id), e)
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Summary, Damaged> {
        open(Space::Mailbox, key, value, |d| {
            d.layout(1)?;
            Some(Summary {
                uid_next: d.varint32()?,
                highest_modseq: ModSeq::new(d.varint()?)?,
                exists: d.varint32()?,
                unseen: d.varint32()?,
                deleted: d.varint32()?,
                octets: d.varint()?,
                deleted_octets: d.varint()?,
                deltas: d.varint32()?,
                chunks: d.varint32()?,
            })
        })
    }
}

fn encode_message(e: &mut Encoder, message: &Message) {
    e.varint(message.modseq.get()).u8(message.flags.bits()).varint(message.keywords.as_slice().len() as u64);
    for number in message.keywords.as_slice() {
        e.varint(u64::from(*number));
    }
    e.zigzag(message.date.unix_seconds()).zigzag(message.date.zone_minutes().into());
    e.u32(message.saved_unix_seconds).varint(message.size.into()).raw(&message.content.0);
}

fn decode_message(d: &mut Decoder<'_>, uid: Uid) -> Option<Message> {
    let modseq = ModSeq::new(d.varint()?)?;
    let flags = SystemFlags::from_bits(d.u8()?)?;
    let count = d.count()?;
    let keywords = match count {
        0 => KeywordNumbers::default(),
        _ => KeywordNumbers::new(
            (0..count).map(|_| d.varint().and_then(|n| u16::try_from(n).ok())).collect::<Option<_>>()?,
        ),
    };
    let date = InternalDate::new(d.zigzag()?, i16::try_from(d.zigzag()?).ok()?)?;
    let saved_unix_seconds = d.u32()?;
    let size = d.varint32()?;
    Some(Message {
        uid,
        size,
        modseq,
        date,
        saved_unix_seconds,
        flags,
        keywords,
        content: ContentId(d.array()?),
    })
}

/// A message's newest state, over what its chunk says; `None`: it is expunged.
pub(crate) fn encode_delta(key: &[u8], message: Option<&Message>) -> Bytes {
    let mut e = Encoder::new(1);
    match message {
        Some(message) => encode_message(e.u8(1), message),
        None => drop(e.u8(0)),
    }
    seal(Space::Delta, key, e)
}

pub(crate) fn decode_delta(key: &[u8], value: &[u8]) -> Result<(Uid, Option<Message>), Damaged> {
    open(Space::Delta, key, value, |d| {
        d.layout(1)?;
        let uid = keys::uid_of(key)?;
        match d.u8()? {
            0 => Some((uid, None)),
            1 => Some((uid, Some(decode_message(d, uid)?))),
            _ => None,
        }
    })
}

/// Messages in ascending order of UID, the first of them in the key. Not empty.
pub(crate) fn encode_chunk(key: &[u8], messages: &[Message]) -> Bytes {
    let mut e = Encoder::new(1);
    e.varint(messages.len() as u64);
    let mut last = messages.first().map_or(0, |m| m.uid.get());
    for message in messages {
        e.varint(u64::from(message.uid.get() - last));
        last = message.uid.get();
        encode_message(&mut e, message);
    }
    seal(Space::Chunk, key, e)
}

pub(crate) fn decode_chunk(key: &[u8], value: &[u8]) -> Result<Vec<Message>, Damaged> {
    open(Space::Chunk, key, value, |d| {
        d.layout(1)?;
        let count = d.count()?;
        let mut messages = Vec::with_capacity(count);
        let mut last = keys::uid_of(key)?.get();
        for i in 0..count {
            let step = d.varint32()?;
            if (step == 0) != (i == 0) {
                return None;
            }
            last = last.checked_add(step)?;
            messages.push(decode_message(d, Uid::new(last)?)?);
        }
        Some(messages)
    })
}

/// The checksum at a record's end; `None` if it is too short to have one.
pub(crate) fn checksum_of(value: &[u8]) -> Option<u32> {
    value.last_chunk::<4>().map(|octets| u32::from_le_bytes(*octets))
}

/// What is counted of a chunk; its first UID is in the key, which is the chunk's.
pub(crate) fn encode_chunk_summary(key: &[u8], summary: &ChunkSummary) -> Bytes {
    let mut e = Encoder::new(1);
    let counts = &summary.counts;
    e.varint((summary.last - summary.first).into()).varint(summary.packed.into()).u32(summary.checksum);
    e.varint(counts.count.into()).varint(counts.unseen.into()).varint(counts.deleted.into());
    e.varint(counts.first_unseen.into());
    e.varint((counts.last_uid + 1).saturating_sub(summary.first).into()).varint(counts.modseq);
    seal(Space::Leaf, key, e)
}

pub(crate) fn decode_chunk_summary(key: &[u8], value: &[u8]) -> Result<ChunkSummary, Damaged> {
    open(Space::Leaf, key, value, |d| {
        d.layout(1)?;
        let first = keys::uid_of(key)?.get();
        let last = first.checked_add(d.varint32()?)?;
        let packed = d.varint32()?;
        let checksum = d.u32()?;
        let counts = Counts {
            count: d.varint32()?,
            unseen: d.varint32()?,
            deleted: d.varint32()?,
            first_unseen: d.varint32()?,
            last_uid: match d.varint32()? {
                0 => 0,
                n => first.checked_add(n - 1)?,
            },
            modseq: d.varint()?,
        };
        let possible = (1..=u64::from(last - first) + 1).contains(&packed.into())
            && counts.count <= packed
            && counts.unseen <= counts.count
            && counts.deleted <= counts.count
            && counts.last_uid <= last
            && (counts.count == 0) == (counts.last_uid == 0);
        possible.then_some(ChunkSummary { first, last, packed, checksum, counts })
    })
}

pub(crate) fn encode_uids(e: &mut Encoder, uids: &UidSet) {
    let mut last = 0;
    e.varint(uids.ranges().count() as u64);
    for (first, end) in uids.ranges() {
        e.varint(u64::from(first - last)).varint(u64::from(end - first));
        last = end;
    }
}

fn decode_uids(d: &mut Decoder<'_>) -> Option<UidSet> {
    let mut uids = UidSet::new();
    let mut last = 0u32;
    for _ in 0..d.count()? {
        let first = last.checked_add(d.varint32()?).filter(|n| *n > last)?;
        last = first.checked_add(d.varint32()?)?;
        uids.insert_range(first, last);
    }
    Some(uids)
}

/// Which UIDs of a mailbox went at one modseq.
pub(crate) fn encode_tombstone(key: &[u8], uids: &UidSet) -> Bytes {
    let mut e = Encoder::new(1);
    encode_uids(&mut e, uids);
    seal(Space::Tombstone, key, e)
}

pub(crate) fn decode_tombstone(key: &[u8], value: &[u8]) -> Result<UidSet, Damaged> {
    open(Space::Tombstone, key, value, |d| {
        d.layout(1)?;
        decode_uids(d)
    })
}

/// Which annotation of a mailbox, or of an account.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AnnotationName {
    /// Whose it is; `None`: it is shared.
    pub owner: Option<UserName>,
    /// Its entry, whole and in lower case.
    pub entry: Box<str>,
}

/// An annotation's value; what it belongs to and how it is called is in the key.
pub(crate) fn encode_annotation(key: &[u8], value: &[u8]) -> Bytes {
    let mut e = Encoder::new(1);
    e.octets(value);
    seal(Space::Account, key, e)
}

/// The mailbox's number, the name and the value.
pub(crate) fn decode_annotation(key: &[u8], value: &[u8]) -> Result<(u32, AnnotationName, Bytes), Damaged> {
    open(Space::Account, key, value, |d| {
        d.layout(1)?;
        let (number, owner, entry) = keys::annotation_parts(key)?;
        let name = AnnotationName { owner, entry: entry.into() };
        Some((number, name, Bytes::copy_from_slice(d.octets()?)))
    })
}

/// What an account's annotations come to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(crate) struct Annotations {
    /// How many there are.
    pub(crate) count: u64,
    /// Octets of their keys and records, and something for each.
    pub(crate) octets: u64,
}

impl Annotations {
    pub(crate) fn encode(&self, key: &[u8]) -> Bytes {
        let mut e = Encoder::new(1);
        e.varint(self.count).varint(self.octets);
        seal(Space::Account, key, e)
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Annotations, Damaged> {
        open(Space::Account, key, value, |d| {
            d.layout(1)?;
            Some(Annotations { count: d.varint()?, octets: d.varint()? })
        })
    }
}

/// The annotations of the server, by their entries.
pub(crate) fn encode_server_annotations(entries: &BTreeMap<String, Bytes>) -> Bytes {
    let mut e = Encoder::new(1);
    e.varint(entries.len() as u64);
    for (entry, value) in entries {
        e.text(entry).octets(value);
    }
    seal(Space::Meta, keys::SERVER_ANNOTATIONS, e)
}

pub(crate) fn decode_server_annotations(value: &[u8]) -> Result<BTreeMap<String, Bytes>, Damaged> {
    open(Space::Meta, keys::SERVER_ANNOTATIONS, value, |d| {
        d.layout(1)?;
        let entry = |d: &mut Decoder<'_>| Some((d.text()?.to_string(), Bytes::copy_from_slice(d.octets()?)));
        (0..d.count()?).map(|_| entry(d)).collect()
    })
}

/// What one modseq changed in one mailbox.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// Messages came.
    Arrived(UidSet),
    /// Flags or keywords changed.
    Flags(UidSet),
    /// Messages went.
    Expunged(UidSet),
    /// The mailbox was made.
    Created,
    /// Its name, rights or uses changed.
    Settings,
    /// It was deleted.
    Deleted,
    /// These annotations changed; of the account itself under the number 0.
    Annotations(Vec<AnnotationName>),
    /// It was called so before.
    Renamed(MailboxPath),
    /// A user has seen these messages, or not any more, and \Seen is the user's own there.
    Seen(UserName, UidSet),
}

/// All that one modseq changed: an entry of the account's change log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LogEntry {
    /// The mailbox's number and what happened to it.
    pub changes: Vec<(u32, Change)>,
    /// Whether the account's subscriptions changed.
    pub subscriptions: bool,
}

impl LogEntry {
    pub(crate) fn encode(&self, key: &[u8]) -> Bytes {
        let mut e = Encoder::new(1);
        e.u8(self.subscriptions.into()).varint(self.changes.len() as u64);
        for (mailbox, change) in &self.changes {
            e.varint(u64::from(*mailbox));
            match change {
                Change::Arrived(uids) => encode_uids(e.u8(0), uids),
                Change::Flags(uids) => encode_uids(e.u8(1), uids),
                Change::Expunged(uids) => encode_uids(e.u8(2), uids),
                Change::Created => drop(e.u8(3)),
                Change::Settings => drop(e.u8(4)),
                Change::Deleted => drop(e.u8(5)),
                Change::Annotations(names) => {
                    e.u8(6).varint(names.len() as u64);
                    for name in names {
                        e.text(name.owner.as_ref().map_or("", UserName::as_str)).text(&name.entry);
                    }
                }
                Change::Renamed(path) => drop(e.u8(7).text(path.as_str())),
                Change::Seen(user, uids) => encode_uids(e.u8(8).text(user.as_str()), uids),
            }
        }
        seal(Space::Log, key, e)
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<LogEntry, Damaged> {
        open(Space::Log, key, value, |d| {
            d.layout(1)?;
            let subscriptions = d.u8()? != 0;
            let mut changes = Vec::new();
            for _ in 0..d.count()? {
                let mailbox = d.varint32()?;
                let change = match d.u8()? {
                    0 => Change::Arrived(decode_uids(d)?),
                    1 => Change::Flags(decode_uids(d)?),
                    2 => Change::Expunged(decode_uids(d)?),
                    3 => Change::Created,
                    4 => Change::Settings,
                    5 => Change::Deleted,
                    6 => {
                        let name = |d: &mut Decoder<'_>| {
                            let owner = match d.text()? {
                                "" => None,
                                owner => Some(UserName::parse(owner, "").ok()?),
                            };
                            Some(AnnotationName { owner, entry: d.text()?.into() })
                        };
                        Change::Annotations((0..d.count()?).map(|_| name(d)).collect::<Option<_>>()?)
                    }
                    7 => Change::Renamed(MailboxPath::new(d.text()?).ok()?),
                    8 => Change::Seen(UserName::parse(d.text()?, "").ok()?, decode_uids(d)?),
                    _ => return None,
                };
                changes.push((mailbox, change));
            }
            Some(LogEntry { changes, subscriptions })
        })
    }
}

/// Where a record of a volume begins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Locator {
    /// The volume's number.
    pub volume: u32,
    /// The record's first octet in the volume.
    pub offset: u64,
}

/// Where a content's octets are and how often they are referred to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContentRecord {
    /// Where the octets are.
    pub locator: Locator,
    /// How many there are.
    pub size: u32,
    /// How many octets the volume record takes, with its header.
    pub stored: u32,
    /// How many messages, expunged ones that are still kept included, have this content.
    pub references: u32,
    /// The conversation.
    pub thread: ThreadId,
}

impl ContentRecord {
    pub(crate) fn encode(&self, key: &[u8]) -> Bytes {
        let mut e = Encoder::new(1);
        e.varint(self.locator.volume.into()).varint(self.locator.offset).varint(self.size.into());
        e.varint(self.stored.into()).varint(self.references.into()).u64(self.thread.0);
        seal(Space::Content, key, e)
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<ContentRecord, Damaged> {
        open(Space::Content, key, value, |d| {
            d.layout(1)?;
            Some(ContentRecord {
                locator: Locator { volume: d.varint32()?, offset: d.varint()? },
                size: d.varint32()?,
                stored: d.varint32()?,
                references: d.varint32()?,
                thread: ThreadId(d.u64()?),
            })
        })
    }
}

/// What was found out about a content when it came, as it will be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Facts {
    /// The value of ENVELOPE (RFC 9051 §7.5.2).
    pub envelope: Bytes,
    /// The value of BODYSTRUCTURE.
    pub body_structure: Bytes,
    /// The value of BODY, without extension data.
    pub body: Bytes,
    /// The parts and where they are, in `rookery_mime`'s own octets.
    pub structure: Bytes,
    /// The Date field; `None` if there is none that makes sense.
    pub sent: Option<InternalDate>,
    /// The Message-ID field, then those of References and In-Reply-To.
    pub message_ids: Vec<String>,
}

impl Facts {
    pub(crate) fn encode(&self, key: &[u8]) -> Bytes {
        let mut e = Encoder::new(1);
        e.octets(&self.envelope).octets(&self.body_structure).octets(&self.body).octets(&self.structure);
        match self.sent {
            Some(date) => e.u8(1).zigzag(date.unix_seconds()).zigzag(date.zone_minutes().into()),
            None => e.u8(0),
        };
        e.varint(self.message_ids.len() as u64);
        for id in &self.message_ids {
            e.text(id);
        }
        seal(Space::Content, key, e)
    }

    /// The structure alone, for those who need nothing else of many messages.
    pub(crate) fn decode_structure(key: &[u8], value: &Bytes) -> Result<Bytes, Damaged> {
        open(Space::Content, key, value, |d| {
            d.layout(1)?;
            for _ in 0..3 {
                d.octets()?;
            }
            let structure = value.slice_ref(d.octets()?);
            d.skip_rest();
            Some(structure)
        })
    }

    pub(crate) fn decode(key: &[u8], value: &Bytes) -> Result<Facts, Damaged> {
        open(Space::Content, key, value, |d| {
            d.layout(1)?;
            Some(Facts {
                envelope: value.slice_ref(d.octets()?),
                body_structure: value.slice_ref(d.octets()?),
                body: value.slice_ref(d.octets()?),
                structure: value.slice_ref(d.octets()?),
                sent: match d.u8()? {
                    0 => None,
                    1 => Some(InternalDate::new(d.zigzag()?, i16::try_from(d.zigzag()?).ok()?)?),
                    _ => return None,
                },
                message_ids: (0..d.count()?).map(|_| d.text().map(str::to_string)).collect::<Option<_>>()?,
            })
        })
    }
}

/// The thread a Message-ID belongs to.
pub(crate) fn encode_thread(key: &[u8], thread: ThreadId) -> Bytes {
    let mut e = Encoder::new(1);
    e.u64(thread.0);
    seal(Space::Thread, key, e)
}

pub(crate) fn decode_thread(key: &[u8], value: &[u8]) -> Result<ThreadId, Damaged> {
    open(Space::Thread, key, value, |d| {
        d.layout(1)?;
        d.u64().map(ThreadId)
    })
}

/// An expunged message that can still be undeleted; its mailbox and UID are in the key.
pub(crate) fn encode_expunged(key: &[u8], message: &Message) -> Bytes {
    let mut e = Encoder::new(1);
    encode_message(&mut e, message);
    seal(Space::Queue, key, e)
}

pub(crate) fn decode_expunged(key: &[u8], value: &[u8]) -> Result<Message, Damaged> {
    open(Space::Queue, key, value, |d| {
        d.layout(1)?;
        decode_message(d, keys::uid_of(key)?)
    })
}

/// A deleted mailbox or account that is still kept; all there is to say is in the key.
pub(crate) fn encode_deleted_mailbox(key: &[u8]) -> Bytes {
    seal(Space::Queue, key, Encoder::new(1))
}

pub(crate) fn decode_deleted_mailbox(key: &[u8], value: &[u8]) -> Result<(), Damaged> {
    open(Space::Queue, key, value, |d| d.layout(1))
}

/// All names the account's user subscribes to, and the mailbox each had then: so that the loss of one is found, and
/// mended. Empty: there is none.
pub(crate) fn encode_subscription_list(key: &[u8], list: &BTreeMap<String, Option<MailboxId>>) -> Bytes {
    let mut e = Encoder::new(1);
    e.varint(list.len() as u64);
    for (name, mailbox) in list {
        e.text(name);
        e.varint(mailbox.map_or(0, |id| id.account.get())).varint(mailbox.map_or(0, |id| id.number.into()));
    }
    seal(Space::Account, key, e)
}

pub(crate) fn decode_subscription_list(
    key: &[u8],
    value: &[u8],
) -> Result<BTreeMap<String, Option<MailboxId>>, Damaged> {
    open(Space::Account, key, value, |d| {
        d.layout(1)?;
        let mut list = BTreeMap::new();
        for _ in 0..d.count()? {
            let name = d.text()?.to_string();
            let (account, number) = (d.varint()?, d.varint32()?);
            list.insert(name, AccountId::new(account).map(|account| MailboxId { account, number }));
        }
        Some(list)
    })
}

/// A name the account's user subscribes to, which is in the key, and the mailbox it had then.
pub(crate) fn encode_subscription(key: &[u8], mailbox: Option<MailboxId>) -> Bytes {
    let mut e = Encoder::new(1);
    e.varint(mailbox.map_or(0, |id| id.account.get())).varint(mailbox.map_or(0, |id| id.number.into()));
    seal(Space::Account, key, e)
}

pub(crate) fn decode_subscription(key: &[u8], value: &[u8]) -> Result<Option<MailboxId>, Damaged> {
    open(Space::Account, key, value, |d| {
        d.layout(1)?;
        let (account, number) = (d.varint()?, d.varint32()?);
        Some(AccountId::new(account).map(|account| MailboxId { account, number }))
    })
}
