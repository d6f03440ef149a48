//! The naive model: an account as plain maps, as obvious as can be. It knows nothing of how the store does it.

use rookery_store::{Held, Limits};
use rookery_types::SystemFlags;
use std::collections::{BTreeMap, BTreeSet};

/// A message.
#[derive(Clone, PartialEq)]
pub(crate) struct ModelMessage {
    pub(crate) body: Vec<u8>,
    pub(crate) flags: u8,
    pub(crate) keywords: Vec<String>,
    /// Who has seen it, of those who are not the owner.
    pub(crate) seen_by: BTreeSet<&'static str>,
}

/// Users who read what is not theirs.
pub(crate) const READERS: [&str; 2] = ["kim@example.org", "lee@example.org"];

pub(crate) const SEEN: u8 = SystemFlags::SEEN.bits();

impl ModelMessage {
    /// Its flags as a user sees them; `None`: the owner.
    pub(crate) fn flags_for(&self, user: Option<&'static str>) -> u8 {
        match user {
            Some(user) => self.flags & !SEEN | if self.seen_by.contains(user) { SEEN } else { 0 },
            None => self.flags,
        }
    }

    /// The same message with other flags, as that user has set them.
    pub(crate) fn set_flags(&mut self, user: Option<&'static str>, flags: u8) {
        let Some(user) = user else { return self.flags = flags };
        self.flags = flags & !SEEN | self.flags & SEEN;
        match flags & SEEN != 0 {
            true => self.seen_by.insert(user),
            false => self.seen_by.remove(user),
        };
    }

    /// As it comes to a mailbox by that user, who sees it with these flags.
    pub(crate) fn coming(&self, user: Option<&'static str>, flags: u8) -> ModelMessage {
        let mut new = ModelMessage { flags: 0, seen_by: BTreeSet::new(), ..self.clone() };
        new.set_flags(user, flags);
        new
    }
}

impl std::fmt::Debug for ModelMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (octets, flags) = (self.body.len(), self.flags);
        write!(f, "{octets} octets, flags {flags:05b} {:?}, seen by {:?}", self.keywords, self.seen_by)
    }
}

/// A mailbox.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelMailbox {
    pub(crate) uid_validity: u32,
    pub(crate) uid_next: u32,
    pub(crate) messages: BTreeMap<u32, ModelMessage>,
    pub(crate) highest_modseq: u64,
    /// The readers' own.
    pub(crate) own_modseqs: [u64; 2],
    /// It is a quota root; INBOX's limits are the account's.
    pub(crate) quota: Option<Limits>,
    pub(crate) annotations: BTreeMap<String, Vec<u8>>,
}

/// An account's mailboxes, by name.
pub(crate) type Model = BTreeMap<String, ModelMailbox>;

/// The quota root of a name: the nearest mailbox with limits, or the account's, which is called INBOX.
pub(crate) fn root_of(model: &Model, name: &str) -> String {
    let mut at = name;
    loop {
        if model.get(at).is_some_and(|mailbox| mailbox.quota.is_some()) {
            return at.to_string();
        }
        match at.rsplit_once('/') {
            Some((above, _)) => at = above,
            None => return "INBOX".to_string(),
        }
    }
}

/// What each quota root holds.
pub(crate) fn held(model: &Model) -> BTreeMap<String, Held> {
    let mut held: BTreeMap<String, Held> = BTreeMap::new();
    for (name, mailbox) in model {
        let octets = mailbox.messages.values().map(|m| m.body.len() as u64).sum();
        let here = Held { octets, messages: mailbox.messages.len() as u64 };
        let sum = held.entry(root_of(model, name)).or_default();
        *sum = sum.plus(here);
    }
    held
}

/// Whether a root would hold more than it may.
fn is_over(model: &Model, root: &str, held: Held) -> bool {
    let limits = model[root].quota.unwrap_or_default();
    limits.octets.is_some_and(|max| held.octets > max)
        || limits.messages.is_some_and(|max| held.messages > max)
}

/// Whether messages are too much for a mailbox.
pub(crate) fn too_much<'a>(
    model: &Model,
    name: &str,
    messages: impl Iterator<Item = &'a ModelMessage>,
) -> bool {
    let one = |m: &ModelMessage| Held { octets: m.body.len() as u64, messages: 1 };
    let more = messages.map(one).fold(Held::default(), Held::plus);
    let root = root_of(model, name);
    let now = held(model).get(&root).copied().unwrap_or_default();
    more.messages > 0 && is_over(model, &root, now.plus(more))
}

/// The same without what only has to grow.
pub(crate) fn without_modseq(model: &Model) -> Model {
    let mut model = model.clone();
    model.values_mut().for_each(|mailbox| (mailbox.highest_modseq, mailbox.own_modseqs) = (0, [0; 2]));
    model
}
