//! What a move between two homes leaves on disk, and its octets.

use crate::encoding::{Damaged, Encoder, open, seal};
use crate::keys;
use bytes::Bytes;
use rookery_kv::engine::Space;
use rookery_types::{AccountId, ContentId, MailboxId, MailboxPath, NodeId, Uid, UidValidity, UserName};

/// Which move it is, for both homes and for ever.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TransitId {
    /// The account that the messages leave.
    pub account: AccountId,
    /// Which of its moves: each has a higher number than those before.
    pub counter: u64,
}

impl std::fmt::Display for TransitId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.account, self.counter)
    }
}

/// Where messages go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Destination {
    /// The account they go to.
    pub account: AccountId,
    /// The node that was its home when the move began.
    pub home: NodeId,
    /// The mailbox's path there, to be resolved there.
    pub path: MailboxPath,
    /// Who moves them: the rights there are this user's.
    pub user: UserName,
}

/// A move that has begun.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Departure {
    /// The mailbox that the messages leave.
    pub mailbox: MailboxId,
    /// Where they go.
    pub to: Destination,
    /// The messages, ascending.
    pub messages: Vec<(Uid, ContentId)>,
    /// The second when it began; 0: an older program has not written it down.
    pub begun_unix_seconds: u32,
    /// An operator wants it ended without its messages going, if they are not there already.
    pub given_up: bool,
}

/// How far a move is where it began.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transit {
    /// The messages are here, and may be there, too.
    Open(Departure),
    /// They are either here or there; what is left is to let the other home forget it.
    Done {
        /// The account they went to, or would have.
        account: AccountId,
        /// The node that was its home when the move began.
        home: NodeId,
    },
}

impl Transit {
    pub(crate) fn encode(&self, key: &[u8]) -> Bytes {
        let mut e = Encoder::new(if matches!(self, Transit::Open(_)) { 2 } else { 1 });
        match self {
            Transit::Open(departure) => {
                let to = &departure.to;
                e.u8(if departure.given_up { 2 } else { 0 }).varint(to.account.get()).u64(to.home.0);
                e.u32(departure.begun_unix_seconds);
                e.varint(departure.mailbox.number.into()).text(to.path.as_str()).text(to.user.as_str());
                e.varint(departure.messages.len() as u64);
                for (uid, content) in &departure.messages {
                    e.varint(uid.get().into()).raw(&content.0);
                }
            }
            Transit::Done { account, home } => {
                e.u8(1).varint(account.get()).u64(home.0);
            }
        }
        seal(Space::Account, key, e)
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Transit, Damaged> {
        open(Space::Account, key, value, |d| {
            let layout = d.u8()?;
            let state = d.u8()?;
            let (account, home) = (AccountId::new(d.varint()?)?, NodeId(d.u64()?));
            let begun_unix_seconds = match (layout, state) {
                (1, 0) => 0,
                (1, 1) => return Some(Transit::Done { account, home }),
                (2, 0 | 2) => d.u32()?,
                _ => return None,
            };
            let given_up = state == 2;
            let mailbox = MailboxId { account: keys::account_of(key)?, number: d.varint32()? };
            let path = match d.text()? {
                "" => MailboxPath::root(),
                text => MailboxPath::new(text).ok()?,
            };
            let user = UserName::parse(d.text()?, "").ok()?;
            let mut messages: Vec<(Uid, ContentId)> = Vec::new();
            for _ in 0..d.count()? {
                let (uid, content) = (Uid::new(d.varint32()?)?, ContentId(d.array()?));
                if messages.last().is_some_and(|(last, _)| *last >= uid) {
                    return None;
                }
                messages.push((uid, content));
            }
            let to = Destination { account, home, path, user };
            Some(Transit::Open(Departure { mailbox, to, messages, begun_unix_seconds, given_up }))
        })
    }
}

/// Why messages were not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// There is no such mailbox.
    NoMailbox,
    /// There is none, but the user could make it.
    MayCreate,
    /// The user may put nothing there.
    NoRight,
    /// The quota does not allow it.
    OverQuota,
    /// The disk there is nearly full.
    NoSpace,
    /// There are as many of something as there can be.
    Limit,
    /// A message is larger than is taken there.
    TooLarge,
    /// The account is gone.
    Gone,
    /// Whoever moved them has given up.
    GivenUp,
}

impl Refusal {
    const ALL: [Refusal; 9] = [
        Refusal::NoMailbox,
        Refusal::MayCreate,
        Refusal::NoRight,
        Refusal::OverQuota,
        Refusal::NoSpace,
        Refusal::Limit,
        Refusal::TooLarge,
        Refusal::Gone,
        Refusal::GivenUp,
    ];

    fn octet(self) -> u8 {
        let place = Refusal::ALL.iter().position(|one| *one == self);
        place.and_then(|place| u8::try_from(place).ok()).unwrap_or(u8::MAX)
    }

    /// Its name between nodes.
    pub fn name(self) -> &'static str {
        match self {
            Refusal::NoMailbox => "no mailbox",
            Refusal::MayCreate => "may create",
            Refusal::NoRight => "no right",
            Refusal::OverQuota => "over quota",
            Refusal::NoSpace => "no space",
            Refusal::Limit => "limit",
            Refusal::TooLarge => "too large",
            Refusal::Gone => "gone",
            Refusal::GivenUp => "given up",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Refusal> {
        Refusal::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// What became of a move at the home that the messages go to. It never changes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The messages are there.
    Moved {
        /// UIDVALIDITY of the mailbox that has them.
        uid_validity: UidValidity,
        /// Their UIDs where they came from, ascending, and there.
        uids: Vec<(Uid, Uid)>,
    },
    /// None of them is, nor will be.
    Refused(Refusal),
}

impl Verdict {
    pub(crate) fn encode(&self, key: &[u8]) -> Bytes {
        let mut e = Encoder::new(1);
        match self {
            Verdict::Moved { uid_validity, uids } => {
                e.u8(0).varint(uid_validity.get().into()).varint(uids.len() as u64);
                for (from, to) in uids {
                    e.varint(from.get().into()).varint(to.get().into());
                }
            }
            Verdict::Refused(refusal) => {
                e.u8(1).u8(refusal.octet());
            }
        }
        seal(Space::Account, key, e)
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Verdict, Damaged> {
        open(Space::Account, key, value, |d| {
            d.layout(1)?;
            match d.u8()? {
                0 => {
                    let uid_validity = UidValidity::new(d.varint32()?)?;
                    let mut uids = Vec::new();
                    for _ in 0..d.count()? {
                        uids.push((Uid::new(d.varint32()?)?, Uid::new(d.varint32()?)?));
                    }
                    Some(Verdict::Moved { uid_validity, uids })
                }
                1 => Refusal::ALL.get(usize::from(d.u8()?)).copied().map(Verdict::Refused),
                _ => None,
            }
        })
    }
}

/// Below which number the moves out of an account are closed here.
pub(crate) fn encode_floor(key: &[u8], floor: u64) -> Bytes {
    let mut e = Encoder::new(1);
    e.varint(floor);
    seal(Space::Account, key, e)
}

pub(crate) fn decode_floor(key: &[u8], value: &[u8]) -> Result<u64, Damaged> {
    open(Space::Account, key, value, |d| {
        d.layout(1)?;
        d.varint()
    })
}

/// Says that there is a move; all there is to say is in the key.
pub(crate) fn encode_pointer(key: &[u8]) -> Bytes {
    seal(Space::Meta, key, Encoder::new(1))
}

pub(crate) fn decode_pointer(key: &[u8], value: &[u8]) -> Result<TransitId, Damaged> {
    open(Space::Meta, key, value, |d| {
        d.layout(1)?;
        keys::transit_of_pointer(key)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_as_they_were() {
        let account = AccountId::new(7).unwrap();
        let uid = |n| Uid::new(n).unwrap();
        let to = Destination {
            account: AccountId::new(9).unwrap(),
            home: NodeId(3),
            path: MailboxPath::root(),
            user: UserName::parse("joe@a.test", "").unwrap(),
        };
        let messages = vec![(uid(1), ContentId([1; 16])), (uid(300), ContentId([2; 16]))];
        let mailbox = MailboxId { account, number: 2 };
        let begun_unix_seconds = 1_700_000_000;
        let open = Departure { mailbox, to: to.clone(), messages, begun_unix_seconds, given_up: false };
        let key = keys::departure(account, 5);
        let given_up = Transit::Open(Departure { given_up: true, ..open.clone() });
        for transit in
            [Transit::Open(open.clone()), given_up, Transit::Done { account: to.account, home: to.home }]
        {
            assert_eq!(Transit::decode(&key, &transit.encode(&key)), Ok(transit));
        }
        // As it was written before there was more to say.
        let mut e = Encoder::new(1);
        e.u8(0).varint(9).u64(3).varint(2).text("").text("joe@a.test").varint(2);
        for (uid, content) in &open.messages {
            e.varint(uid.get().into()).raw(&content.0);
        }
        let old = Transit::Open(Departure { begun_unix_seconds: 0, ..open });
        assert_eq!(Transit::decode(&key, &seal(Space::Account, &key, e)), Ok(old));
        let id = TransitId { account, counter: 5 };
        let key = keys::verdict(to.account, id);
        let uid_validity = UidValidity::new(8).unwrap();
        let moved = Verdict::Moved { uid_validity, uids: vec![(uid(1), uid(4)), (uid(300), uid(5))] };
        let refused = Refusal::ALL.into_iter().map(Verdict::Refused);
        for verdict in refused.chain([moved]) {
            assert_eq!(Verdict::decode(&key, &verdict.encode(&key)), Ok(verdict));
        }
        assert!(Refusal::ALL.into_iter().all(|one| Refusal::named(one.name()) == Some(one)));
        let key = keys::transit_pointer(id);
        assert_eq!(decode_pointer(&key, &encode_pointer(&key)), Ok(id));
    }
}
