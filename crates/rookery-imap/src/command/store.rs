//! STORE (RFC 9051 §6.4.6), with UNCHANGEDSINCE (RFC 7162 §3.1.3).

use super::Outcome;
use crate::answer::{Answer, Failure, no_permission};
use crate::progress::Progress;
use crate::session::{Selected, User};
use crate::tell::{self, Shape};
use crate::wire::Wire;
use rookery_codec::imap::Code;
use rookery_codec::imap::command::{Change, Store};
use rookery_store::{FlagChange, FlagList, Message, StoreError, Stored};
use rookery_types::{Flag, Keyword, Rights, SystemFlags, UidSet};
use std::collections::BTreeSet;

/// Changes flags, and tells the new ones unless that was not wanted.
pub(crate) async fn store(
    wire: &mut Wire,
    progress: &mut Progress,
    user: &mut User,
    selected: &mut Selected,
    store: Store,
) -> Outcome {
    let rights = selected.writable(user, &[Rights::SEEN, Rights::WRITE, Rights::DELETE_MESSAGES])?;
    let places = selected.resolve(&store.set, store.uid)?;
    user.enabled.condstore |= store.unchanged_since.is_some();
    let (flags, keywords) = allowed(&store.flags, rights);
    if flags.is_empty() && keywords.is_empty() && !store.flags.is_empty() {
        return Err(no_permission().into());
    }
    let uids = selected.view.uids_at(&places)?;
    if uids.is_empty() {
        return Ok(Answer::ok("No messages to change"));
    }
    let wanted = Wanted { change: store.change, flags, keywords, rights };
    let mut stored: Option<Stored> = None;
    // All of it is done here, or none.
    let _guard = selected.mailbox.account().guard().await?;
    for change in wanted.changes(selected) {
        // Only the first change may be conditional: it moves the modseqs the condition is about.
        let (uids, unchanged_since) = match &stored {
            Some(first) => (uids.difference(&first.failed), None),
            None => (uids.clone(), store.unchanged_since),
        };
        match progress.during(wire, selected.mailbox.store_flags(&uids, change, unchanged_since)).await {
            Ok(now) => stored = Some(merged(stored, now)),
            // Deleted under our feet: all messages are gone, as the next checkpoint tells.
            Err(StoreError::NoMailbox) => return Ok(gone()),
            Err(error) => return Err(error.into()),
        }
    }
    let Some(stored) = stored else { return Ok(Answer::ok("STORE completed")) };
    let told = uids.difference(&stored.failed).difference(&stored.missing);
    tell_stored(wire, user, selected, &store, &wanted, &told, &stored).await?;
    if !stored.failed.is_empty() {
        let failed = match store.uid {
            true => stored.failed,
            false => selected.view.numbers_of(&stored.failed)?,
        };
        return Ok(Answer::ok_code(Code::Modified(failed), "Some had been changed"));
    }
    Ok(if stored.missing.is_empty() { Answer::ok("STORE completed") } else { gone() })
}

/// All that can be done was done, and the client hears of the rest at once it may (RFC 2180 §4.2.1).
fn gone() -> Answer {
    Answer::ok_code(Code::ExpungeIssued, "Some of the messages are gone; the others were changed")
}

fn merged(first: Option<Stored>, then: Stored) -> Stored {
    match first {
        None => then,
        Some(mut first) => {
            first.changed.extend(&then.changed);
            first.missing.extend(&then.missing);
            first
        }
    }
}

/// What of the flags someone with these rights may touch (RFC 4314 §4).
fn allowed(flags: &[Flag], rights: Rights) -> (SystemFlags, Vec<Keyword>) {
    let changeable = tell::changeable(rights);
    let mut system = SystemFlags::NONE;
    let mut keywords = Vec::new();
    for flag in flags {
        match flag {
            Flag::System(one) if changeable.contains(*one) => system = system | *one,
            Flag::Keyword(keyword) if rights.contains(Rights::WRITE) && !keywords.contains(keyword) => {
                keywords.push(keyword.clone());
            }
            Flag::System(_) | Flag::Keyword(_) => {}
        }
    }
    (system, keywords)
}

/// What a client wants of flags, as far as it may.
struct Wanted {
    change: Change,
    flags: SystemFlags,
    keywords: Vec<Keyword>,
    rights: Rights,
}

impl Wanted {
    /// Whether all flags may be touched.
    fn everything(&self) -> bool {
        tell::changeable(self.rights) == tell::all_system_flags()
    }

    /// The store's changes for it. Replacing touches only what the user may touch; where that is not everything
    /// it becomes adding and taking away.
    fn changes(&self, selected: &Selected) -> Vec<FlagChange> {
        let list = || FlagList { flags: self.flags, keywords: self.keywords.clone() };
        match self.change {
            Change::Add => vec![FlagChange::Add(list())],
            Change::Remove => vec![FlagChange::Remove(list())],
            Change::Replace if self.everything() => vec![FlagChange::Set(list())],
            Change::Replace => {
                let others = match self.rights.contains(Rights::WRITE) {
                    true => selected.mailbox.now().settings.keywords.to_vec(),
                    false => Vec::new(),
                };
                let keywords = others.into_iter().filter(|one| !self.keywords.contains(one)).collect();
                let flags = tell::changeable(self.rights).without(self.flags);
                vec![FlagChange::Add(list()), FlagChange::Remove(FlagList { flags, keywords })]
            }
        }
    }

    /// Whether a message is as a client expects that knew it as `before`. If not, someone else has changed it
    /// as well, and `.SILENT` does not cover that (RFC 9051 §6.4.6).
    fn expected(&self, before: &Message, after: &Message, keywords: &[Keyword]) -> bool {
        let numbers: BTreeSet<u16> = (0u16..)
            .zip(keywords)
            .filter(|(_, keyword)| self.keywords.contains(keyword))
            .map(|(number, _)| number)
            .collect();
        let old: BTreeSet<u16> = before.keywords.as_slice().iter().copied().collect();
        let new: BTreeSet<u16> = after.keywords.as_slice().iter().copied().collect();
        match self.change {
            Change::Add => after.flags == before.flags | self.flags && new == &old | &numbers,
            Change::Remove => after.flags == before.flags.without(self.flags) && new == &old - &numbers,
            Change::Replace => self.everything() && after.flags == self.flags && new == numbers,
        }
    }
}

/// Tells the flags of what was stored; after `.SILENT` only modseqs, to those who know them, and flags where
/// they are not what the client must expect.
async fn tell_stored(
    wire: &mut Wire,
    user: &User,
    selected: &mut Selected,
    store: &Store,
    wanted: &Wanted,
    told: &UidSet,
    stored: &Stored,
) -> Result<(), Failure> {
    let (state, newest) = selected.now();
    tell::new_keywords(wire, user, selected, &state);
    let usual = Shape::of(user);
    let uid = (store.uid || usual.uid) && !usual.uid_only;
    let shape = Shape { uid, flags: !store.silent, ..usual };
    let mut done = UidSet::new();
    let places = selected.view.places_of_uids(told)?;
    for found in selected.view.at(&places, &newest) {
        let (seq, message) = found?;
        if store.silent {
            let known = selected.view.known(message.uid)?;
            if !known.is_some_and(|known| wanted.expected(&known, &message, &state.settings.keywords)) {
                continue;
            }
        }
        done.insert_uid(message.uid);
        if shape.flags || shape.modseq && stored.changed.contains_uid(message.uid) {
            tell::fetch_flags(wire, &shape, &selected.view, &state, seq, &message);
            wire.flush_if_full().await?;
        }
    }
    selected.view.note_told(done, &state, &newest);
    Ok(())
}
