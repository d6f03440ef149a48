//! What a client knows of a mailbox, carried to another node.

use super::View;
use crate::value::{AsOfValue, KNOWN_MAX, ViewValue};
use rookery_store::{KeywordNumbers, MailboxState, Message, Messages, StoreError};
use rookery_types::{ContentId, InternalDate, ModSeq, SystemFlags, Uid, UidSet};
use std::collections::BTreeMap;

/// Messages of which a client has still to be told that they are gone; with more a session does not go on.
const GONE_MAX: u64 = 4_000_000;

impl View {
    /// What another node has to know of it. `messages`: the mailbox's newest.
    pub(crate) fn value(&self, messages: &Messages) -> Result<ViewValue, StoreError> {
        let difference = self.base.difference(messages)?;
        let gone = difference.gone.iter().map(|(_, uid)| *uid);
        let mut other: Vec<Uid> = gone.chain(difference.changed.iter().map(|message| message.uid)).collect();
        other.sort_unstable();
        let mut known = Vec::new();
        for uid in other.into_iter().take(KNOWN_MAX) {
            known.extend(self.base.message(uid)?);
        }
        Ok(ViewValue {
            uids: self.base.uids(self.everywhere())?,
            modseq: self.modseq,
            keywords: self.keywords.len(),
            recent: self.recent.clone(),
            held_back: self.held_back,
            as_of: None,
            known,
        })
    }

    /// The same in short, which its own home alone can read. `messages`: the mailbox's newest.
    pub(crate) fn short_value(&self, messages: &Messages) -> Result<ViewValue, StoreError> {
        let uids = match self.held_back {
            // These were gone at the view's modseq already.
            true => self.base.difference(messages)?.gone.iter().map(|(_, uid)| *uid).collect(),
            false => UidSet::new(),
        };
        Ok(ViewValue {
            uids,
            modseq: self.modseq,
            keywords: self.keywords.len(),
            recent: self.recent.clone(),
            held_back: self.held_back,
            as_of: Some(AsOfValue { last: self.base.last_uid(), exists: self.base.len() as u64 }),
            known: Vec::new(),
        })
    }

    /// Whether expunges are held back.
    pub(crate) fn is_held_back(&self) -> bool {
        self.held_back
    }

    /// How many keywords the client has heard of.
    pub(crate) fn keywords_known(&self) -> usize {
        self.keywords.len()
    }

    /// The same view again, of a mailbox whose newest state and messages these are. `vanished` gives what has been expunged
    /// since a modseq, if that is known; `expunged` gives messages as they were when they were expunged, as far as that is
    /// known. None: it says too much to be a view.
    pub(crate) fn resumed(
        value: ViewValue,
        state: &MailboxState,
        messages: &Messages,
        vanished: impl FnOnce(u64) -> Result<Option<UidSet>, StoreError>,
        expunged: impl FnOnce(&UidSet) -> Result<Vec<Message>, StoreError>,
    ) -> Result<Option<View>, StoreError> {
        let ViewValue { mut uids, modseq, keywords, recent, held_back, as_of, known } = value;
        let there = messages.uids(0..messages.len())?;
        if let Some(AsOfValue { last, exists }) = as_of {
            let Some(vanished) = vanished(modseq)? else { return Ok(None) };
            let up_to = UidSet::range(1, last);
            uids.extend(&there.intersection(&up_to));
            uids.extend(&vanished.intersection(&up_to));
            // The store is not what it was.
            if uids.len() != exists {
                return Ok(None);
            }
        }
        let gone = uids.difference(&there);
        if gone.len() > GONE_MAX {
            return Ok(None);
        }
        // What has come since is told by EXISTS.
        let mut told: BTreeMap<Uid, Option<Message>> =
            there.difference(&uids).uids().map(|uid| (uid, None)).collect();
        let known = known.into_iter().filter(|message| uids.contains_uid(message.uid));
        told.extend(known.map(|message| (message.uid, Some(message))));
        // Some may be gone only since the value was written.
        let others = gone.difference(&told.keys().copied().collect());
        if !others.is_empty() {
            told.extend(expunged(&others)?.into_iter().map(|message| (message.uid, Some(message))));
        }
        for uid in others.uids() {
            told.entry(uid).or_insert_with(|| Some(unknown(uid)));
        }
        let before = ModSeq::new(modseq).unwrap_or(ModSeq::FIRST);
        for found in messages.iter_since(0, modseq) {
            let (_, message) = found?;
            if message.modseq.get() > modseq && uids.contains_uid(message.uid) {
                // Its flags are told again, since how the client knows them is not known: as no message has them.
                let keywords = KeywordNumbers::new(vec![NO_KEYWORD]);
                told.entry(message.uid).or_insert(Some(Message { modseq: before, keywords, ..message }));
            }
        }
        let base = match told.is_empty() {
            true => messages.clone(),
            false => messages.as_told(modseq, &told.into_iter().collect::<Vec<_>>())?,
        };
        let table = &state.settings.keywords;
        let keywords = match table.get(..keywords) {
            Some(some) if some.len() < table.len() => some.to_vec().into(),
            _ => table.clone(),
        };
        let (told_now, fresh) = (Vec::new(), false);
        Ok(Some(View { base, modseq, keywords, recent, held_back, told_now, fresh }))
    }
}

/// A keyword that no mailbox has.
const NO_KEYWORD: u16 = u16::MAX;
/// Stands where a message's octets are not known.
const NO_CONTENT: ContentId = ContentId([0; 16]);

/// Whether nothing is known of a message but that it is gone, which the client has not been told.
pub(crate) fn is_unknown(message: &Message) -> bool {
    message.content == NO_CONTENT
}

/// A message of which nothing is known but that the client has not heard that it is gone.
fn unknown(uid: Uid) -> Message {
    Message {
        uid,
        size: 0,
        modseq: ModSeq::FIRST,
        date: InternalDate::from_unix(0),
        saved_unix_seconds: 0,
        flags: SystemFlags::NONE,
        keywords: KeywordNumbers::default(),
        content: NO_CONTENT,
    }
}
