//! A mailbox as one session sees it: which message has which sequence number, and what was told of it.
//!
//! Invariants:
//! - The view changes only in `catch_up`, and shrinks only where EXPUNGE may be told (RFC 9051 §7.5.1).
//! - It never shows a change that is not yet durable: its versions are the store's durable ones.
//! - Whatever differs between the view and the mailbox will be told at a later `catch_up`; nothing is queued.

mod handed;

pub(crate) use handed::is_unknown;

use rookery_store::{Difference, MailboxState, Message, Messages, StoreError};
use rookery_types::{Keyword, SeqNum, Uid, UidSet};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Messages that are brought into memory at once, for a command that looks at many.
const WINDOW_MESSAGES: usize = 4096;

/// Places in pieces, each of which fits in memory.
pub(crate) fn windows(places: &[Range<usize>]) -> impl Iterator<Item = Range<usize>> {
    places.iter().flat_map(|range| {
        let Range { start, end } = *range;
        (start..end).step_by(WINDOW_MESSAGES).map(move |from| from..end.min(from + WINDOW_MESSAGES))
    })
}

/// The mailbox as the client was told.
pub(crate) struct View {
    /// The messages as the client knows them; their places are the sequence numbers. A version of the store's
    /// own, but while expunges are held back: then what is gone stands in it still.
    base: Messages,
    /// HIGHESTMODSEQ up to which flags were told.
    modseq: u64,
    /// The keyword table up to which FLAGS was told.
    keywords: Arc<Vec<Keyword>>,
    /// UIDs that are \Recent in this session.
    recent: UidSet,
    /// Whether expunges are held back.
    held_back: bool,
    /// Flags that the command under way has told already.
    told_now: Vec<Told>,
    /// SELECT is describing it, and has not been answered.
    fresh: bool,
}

/// Flags that were told: of these messages, as that version has them.
struct Told {
    uids: UidSet,
    modseq: u64,
    messages: Messages,
}

/// What the client is to be told, in this order.
#[derive(Default)]
pub(crate) struct News {
    /// Sequence numbers, before any of these is told, ascending, with their UIDs.
    pub(crate) gone: Vec<(SeqNum, Uid)>,
    /// The number of messages, if some have come.
    pub(crate) exists: Option<u32>,
    /// How many of these are new; they are the last.
    pub(crate) arrived: usize,
    /// Messages with other flags than were told, under their numbers after `gone`.
    pub(crate) changed: Vec<(SeqNum, Message)>,
}

impl View {
    pub(crate) fn new(state: &MailboxState, messages: Messages) -> View {
        View {
            base: messages,
            modseq: state.summary.highest_modseq.get(),
            keywords: state.settings.keywords.clone(),
            recent: UidSet::new(),
            held_back: false,
            told_now: Vec::new(),
            fresh: true,
        }
    }

    /// Whether the command that made the view is still to be answered. True once.
    pub(crate) fn take_fresh(&mut self) -> bool {
        std::mem::take(&mut self.fresh)
    }

    /// Notes that flags of these messages were told as they are in `messages` of `state`, so that the next
    /// `catch_up` does not tell them again.
    pub(crate) fn note_told(&mut self, uids: UidSet, state: &MailboxState, messages: &Messages) {
        if !uids.is_empty() {
            let modseq = state.summary.highest_modseq.get();
            self.told_now.push(Told { uids, modseq, messages: messages.clone() });
        }
    }

    /// Whether the keyword table has grown since FLAGS was told; it counts as told from here on.
    pub(crate) fn learn_keywords(&mut self, state: &MailboxState) -> bool {
        let grown = self.keywords.len() != state.settings.keywords.len();
        if grown {
            self.keywords = state.settings.keywords.clone();
        }
        grown
    }

    /// A message as the client knows it.
    pub(crate) fn known(&self, uid: Uid) -> Result<Option<Message>, StoreError> {
        self.base.message(uid)
    }

    pub(crate) fn exists(&self) -> u32 {
        u32::try_from(self.base.len()).unwrap_or(u32::MAX)
    }

    pub(crate) fn messages(&self) -> &Messages {
        &self.base
    }

    /// HIGHESTMODSEQ of what was told last.
    pub(crate) fn modseq(&self) -> u64 {
        self.modseq
    }

    pub(crate) fn recent(&self) -> &UidSet {
        &self.recent
    }

    /// How many messages of the view are \Recent.
    pub(crate) fn recent_count(&self) -> Result<u32, StoreError> {
        let places = self.places_of_uids(&self.recent)?;
        Ok(u32::try_from(places.iter().map(Range::len).sum::<usize>()).unwrap_or(u32::MAX))
    }

    pub(crate) fn add_recent(&mut self, first: u32, uid_next: u32) {
        if first < uid_next {
            self.recent.insert_range(first, uid_next - 1);
        }
    }

    /// Whether there can be anything to tell. Cheap: asked at every checkpoint.
    pub(crate) fn is_current(&self, highest_modseq: u64, expunges: bool) -> bool {
        self.modseq == highest_modseq && !(expunges && self.held_back)
    }

    /// Looks at the chunks that `messages` has, where folding has replaced those of before. Tells nothing: at one
    /// modseq all versions have the same messages.
    pub(crate) fn settle(&mut self, state: &MailboxState, messages: &Messages) {
        if self.modseq == state.summary.highest_modseq.get() && !self.held_back {
            self.base = messages.clone();
        }
    }

    /// Moves the view forward to `messages`. Without `expunges` a version that has lost messages moves only
    /// what was told of flags, and numbers stay; new messages are then told later as well. `modseqs`: the client
    /// hears of them.
    pub(crate) fn catch_up(
        &mut self,
        state: &MailboxState,
        messages: &Messages,
        expunges: bool,
        modseqs: bool,
    ) -> Result<News, StoreError> {
        let mut news = News::default();
        let told_now = std::mem::take(&mut self.told_now);
        let told = |message: &Message| {
            let tells = |told: &&Told| told.uids.contains_uid(message.uid);
            told_now.iter().filter(tells).any(|told| message.modseq.get() <= told.modseq)
        };
        let Difference { gone, changed, arrived } = self.base.difference(messages)?;
        let mut untold = Vec::with_capacity(changed.len());
        for message in changed.iter().filter(|message| !told(message)) {
            // Where \Seen is each user's own, the owner's moves modseqs and nothing else.
            let is_same =
                |known: &Message| (known.flags, &known.keywords) == (message.flags, &message.keywords);
            let hidden = messages.is_personal() && !modseqs;
            if !(hidden && self.known(message.uid)?.as_ref().is_some_and(is_same)) {
                untold.push(message.clone());
            }
        }
        if expunges || gone.is_empty() {
            self.base = messages.clone();
            self.held_back = false;
            news.exists = (arrived > 0).then(|| self.exists());
            news.arrived = arrived;
            for (_, uid) in &gone {
                self.recent.remove(uid.get());
            }
            news.gone = gone;
        } else {
            self.held_back = true;
            // What is gone stays as it was told last, what arrived is told later, by EXISTS.
            let mut known: BTreeMap<Uid, Message> =
                changed.iter().map(|message| (message.uid, message.clone())).collect();
            for (_, uid) in gone {
                let last = told_now.iter().rev().find(|told| told.uids.contains_uid(uid));
                if let Some(told) = last {
                    known.extend(told.messages.message(uid)?.map(|message| (uid, message)));
                }
            }
            let known: Vec<_> = known.into_iter().map(|(uid, message)| (uid, Some(message))).collect();
            self.base = self.base.with(&known)?.seen_like(messages);
        }
        for message in untold {
            if let Some((seq, _)) = self.base.by_uid(message.uid)? {
                news.changed.push((seq, message));
            }
        }
        self.modseq = state.summary.highest_modseq.get();
        Ok(news)
    }

    /// The places of all messages of the view.
    pub(crate) fn everywhere(&self) -> Range<usize> {
        0..self.base.len()
    }

    /// The places of the view's messages with these sequence numbers.
    pub(crate) fn places_of_numbers(&self, numbers: &UidSet) -> Vec<Range<usize>> {
        let end = |n: u32| usize::try_from(n).unwrap_or(usize::MAX).min(self.base.len());
        numbers.ranges().map(|(a, b)| end(a.saturating_sub(1))..end(b)).filter(|r| !r.is_empty()).collect()
    }

    /// The places of the view's messages with these UIDs.
    pub(crate) fn places_of_uids(&self, uids: &UidSet) -> Result<Vec<Range<usize>>, StoreError> {
        let mut places = Vec::new();
        for (first, last) in uids.ranges() {
            let start = self.base.place_of(first)?;
            let end = match last.checked_add(1) {
                Some(behind) => self.base.place_of(behind)?,
                None => self.base.len(),
            };
            if start < end {
                places.push(start..end);
            }
        }
        Ok(places)
    }

    /// The view's messages at some places, as `newest` has them, or as they were when they are gone there. Ends after
    /// an error.
    pub(crate) fn at<'a>(
        &'a self,
        places: &'a [Range<usize>],
        newest: &'a Messages,
    ) -> impl Iterator<Item = Result<(SeqNum, Message), StoreError>> + 'a {
        self.at_since(places, newest, 0)
    }

    /// Shows the view's messages at some places, as [`View::at`] gives them.
    pub(crate) fn each(
        &self,
        places: Range<usize>,
        newest: &Messages,
        mut visit: impl FnMut(SeqNum, &Message),
    ) -> Result<(), StoreError> {
        if newest.same_as(&self.base) {
            return self.base.each(places, visit);
        }
        for found in self.at(std::slice::from_ref(&places), newest) {
            let (seq, message) = found?;
            visit(seq, &message);
        }
        Ok(())
    }

    /// As [`View::at`], where messages with no higher modseq than `since` may be left out.
    pub(crate) fn at_since<'a>(
        &'a self,
        places: &'a [Range<usize>],
        newest: &'a Messages,
        since: u64,
    ) -> impl Iterator<Item = Result<(SeqNum, Message), StoreError>> + 'a {
        let same = newest.same_as(&self.base);
        let since = if same { since } else { 0 };
        places.iter().flat_map(move |range| {
            let end = range.end;
            let inside = move |found: &Result<(SeqNum, Message), StoreError>| match found {
                Ok((seq, _)) => seq.get() as usize <= end,
                Err(_) => true,
            };
            self.base.iter_since(range.start, since).take_while(inside).map(move |found| {
                let (seq, message) = found?;
                let fresh = if same { None } else { newest.message(message.uid)? };
                Ok((seq, fresh.unwrap_or(message)))
            })
        })
    }

    /// The UIDs of the view's messages at some places.
    pub(crate) fn uids_at(&self, places: &[Range<usize>]) -> Result<UidSet, StoreError> {
        let mut uids = UidSet::new();
        for range in places {
            uids.extend(&self.base.uids(range.clone())?);
        }
        Ok(uids)
    }

    /// UIDs as sequence numbers, those that are in the view.
    pub(crate) fn numbers_of(&self, uids: &UidSet) -> Result<UidSet, StoreError> {
        let mut numbers = UidSet::new();
        for range in self.places_of_uids(uids)? {
            let number = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
            numbers.insert_range(number(range.start).saturating_add(1), number(range.end));
        }
        Ok(numbers)
    }

    /// The highest UID of the view; 0 if it is empty.
    pub(crate) fn last_uid(&self) -> u32 {
        self.base.last_uid()
    }
}
