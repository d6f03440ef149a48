//! What is kept of a mailbox as a whole: what is set on it and what is counted.

use super::{Limits, encode_limits};
use crate::encoding::{Damaged, Decoder, Encoder, open, seal};
use crate::keys;
use bytes::Bytes;
use rookery_kv::engine::Space;
use rookery_types::acl::{Acl, Identifier};
use rookery_types::{
    Keyword, MailboxId, MailboxPath, ModSeq, Rights, SpecialUse, SystemFlags, UidValidity, UserName,
};
use std::sync::Arc;

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
