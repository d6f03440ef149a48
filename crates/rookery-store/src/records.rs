//! Every kind of record an account consists of, with its octets. `docs/store-format.md` is the same as prose.

mod content;
mod mailbox;
mod message;

pub use content::{ContentRecord, Facts, Locator};
pub(crate) use content::{decode_thread, encode_thread};
pub use mailbox::{Held, Settings, Summary};
pub(crate) use message::decode_uids;
pub(crate) use message::{
    checksum_of, decode_chunk, decode_chunk_summary, decode_deleted_mailbox, decode_delta, decode_expunged,
    decode_tombstone, encode_chunk, encode_chunk_summary, encode_deleted_mailbox, encode_delta,
    encode_expunged, encode_tombstone, encode_uids,
};

use crate::encoding::{Damaged, Decoder, Encoder, open, seal};
use crate::keys;
use bytes::Bytes;
use rookery_kv::engine::Space;
use rookery_types::{
    AccountId, Epoch, JobId, MailboxId, MailboxPath, ModSeq, NodeId, StoreId, UidSet, UserName,
};
use std::collections::BTreeMap;

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
