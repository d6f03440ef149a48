//! Checkpoints: telling a client what has changed in its selected mailbox.

use crate::answer::Failure;
use crate::command::{fetch, notify_there};
use crate::notify;
use crate::session::{Selected, User};
use crate::view::View;
use crate::wire::Wire;
use bytes::BytesMut;
use rookery_codec::imap::print::FetchWriter;
use rookery_codec::imap::{Code, FlagList, Response};
use rookery_store::{MailboxState, Message, StoreError};
use rookery_types::{Keyword, Rights, SeqNum, SystemFlags, UidSet};
use std::ops::Range;

/// Tells what a client wants to hear: of its selected mailbox, and of others if NOTIFY asks for them.
pub(crate) async fn all(
    wire: &mut Wire,
    user: &mut User,
    mut selected: Option<&mut Selected>,
    expunges: bool,
) -> Result<(), Failure> {
    let id = selected.as_ref().map(|selected| selected.mailbox.id());
    // What SELECT says fits together, and numbers do not move before its tagged response: only that says that they are
    // of the new mailbox.
    let fresh = selected.as_mut().is_some_and(|selected| selected.view.take_fresh());
    if let Some(selected) = selected
        && !fresh
        && user.of_selected().is_none_or(|of| of.messages)
    {
        checkpoint(wire, user, selected, expunges).await?;
    }
    if user.notify.is_none() {
        return Ok(());
    }
    Box::pin(notify_there::hear(wire, user)).await?;
    Box::pin(notify::catch_up(wire, user, id)).await
}

/// Tells what differs between the session's view and the mailbox. `expunges`: whether messages may disappear
/// here (RFC 9051 §7.5.1).
///
/// DEVIATION: RFC 3501 §7.3.2, because who hears EXPUNGE knows whether that message was \Recent: RECENT is told with
/// EXISTS, and not after expunges alone.
pub(crate) async fn checkpoint(
    wire: &mut Wire,
    user: &User,
    selected: &mut Selected,
    expunges: bool,
) -> Result<(), Failure> {
    if !selected.rights(user).contains(Rights::READ) {
        // Taken away since the mailbox was selected: nothing more is told of it.
        return Ok(());
    }
    let (state, messages) = selected.now();
    let gone_mailbox = messages.is_empty() && selected.view.exists() > 0;
    if selected.view.is_current(state.summary.highest_modseq.get(), expunges) && !gone_mailbox {
        selected.view.settle(&state, &messages);
        return Ok(());
    }
    let uid_next = state.summary.uid_next;
    let news = selected.view.catch_up(&state, &messages, expunges, user.enabled.condstore)?;
    if (user.enabled.qresync || user.enabled.uid_only) && !news.gone.is_empty() {
        let uids = news.gone.iter().map(|(_, uid)| *uid).collect();
        wire.put(&Response::Vanished { earlier: false, uids });
    } else {
        // From the last to the first, so that no number moves before it is told.
        for (seq, _) in news.gone.iter().rev() {
            wire.put(&Response::Expunge(*seq));
            wire.flush_if_full().await?;
        }
    }
    if let Some(exists) = news.exists {
        wire.put(&Response::Exists(exists));
        if !user.enabled.rev2 {
            let first = if selected.read_only {
                selected.mailbox.peek_recent()
            } else {
                selected.mailbox.claim_recent(uid_next)
            };
            selected.view.add_recent(first, uid_next);
            wire.put(&Response::Recent(selected.view.recent_count()?));
        }
    }
    if news.arrived > 0
        && let Some(plan) = user.of_selected().and_then(|of| of.attributes.clone())
    {
        let last = selected.view.everywhere().end;
        let places = others_places(user, selected, last.saturating_sub(news.arrived)..last)?;
        Box::pin(fetch::announce(wire, user, selected, plan, &places)).await?;
    }
    if user.of_selected().is_some_and(|of| !of.flags) {
        return Ok(());
    }
    new_keywords(wire, user, selected, &state);
    let shape = Shape::of(user);
    for (seq, message) in &news.changed {
        fetch_flags(wire, &shape, &selected.view, &state, *seq, message);
        wire.flush_if_full().await?;
    }
    Ok(())
}

/// Which of some new messages are not the work of the client's own commands (RFC 5465 §5.2).
fn others_places(
    user: &User,
    selected: &Selected,
    places: Range<usize>,
) -> Result<Vec<Range<usize>>, StoreError> {
    let Some(notify) = &user.notify else { return Ok(vec![places]) };
    let account = selected.mailbox.account().id();
    let mut others: Vec<Range<usize>> = Vec::new();
    for place in places {
        let message = selected.view.messages().get(place)?;
        if message.is_some_and(|message| notify.own.has(account, message.modseq)) {
            continue;
        }
        match others.last_mut().filter(|range| range.end == place) {
            Some(range) => range.end = place + 1,
            None => others.push(place..place + 1),
        }
    }
    Ok(others)
}

/// Tells FLAGS if the mailbox has keywords that the client has not heard of. To be called before a FETCH that
/// names them (RFC 9051 §7.3.5: FLAGS says which flags apply in the mailbox).
pub(crate) fn new_keywords(wire: &mut Wire, user: &User, selected: &mut Selected, state: &MailboxState) {
    if selected.view.learn_keywords(state) {
        flags_and_permanent_flags(wire, user, selected, state);
    }
}

/// Which items stand in a FETCH that tells of flags.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) flags: bool,
    pub(crate) uid: bool,
    pub(crate) modseq: bool,
    pub(crate) recent: bool,
    /// UIDFETCH, which needs no UID among its items (RFC 9586 §3.3).
    pub(crate) uid_only: bool,
}

impl Shape {
    /// Of what nobody asked for.
    pub(crate) fn of(user: &User) -> Shape {
        let enabled = user.enabled;
        Shape {
            flags: true,
            // With a modseq always goes the UID (RFC 7162 §3.2.4), and to those who use NOTIFY (RFC 5465 §5.1).
            uid: (enabled.condstore || enabled.rev2 || user.notify.is_some()) && !enabled.uid_only,
            modseq: enabled.condstore,
            recent: !enabled.rev2,
            uid_only: enabled.uid_only,
        }
    }
}

/// `* n FETCH (UID n FLAGS (..) MODSEQ (n))`, into the batch.
pub(crate) fn fetch_flags(
    wire: &mut Wire,
    shape: &Shape,
    view: &View,
    state: &MailboxState,
    seq: SeqNum,
    message: &Message,
) {
    let mut writer = begin(wire.connection.out(), shape.uid_only, seq, message);
    if shape.uid {
        writer.uid(message.uid);
    }
    if shape.flags {
        let recent = shape.recent && view.recent().contains_uid(message.uid);
        writer.flags(message.flags, recent, keyword_names(&state.settings.keywords, message));
    }
    if shape.modseq {
        writer.modseq(message.modseq);
    }
    writer.end();
}

/// A FETCH response, or a UIDFETCH response for those who have done away with sequence numbers.
pub(crate) fn begin<'a>(
    out: &'a mut BytesMut,
    uid_only: bool,
    seq: SeqNum,
    message: &Message,
) -> FetchWriter<'a> {
    match uid_only {
        true => FetchWriter::begin_uid(out, message.uid),
        false => FetchWriter::begin(out, seq),
    }
}

/// The keywords of a message, by name.
pub(crate) fn keyword_names<'a>(
    keywords: &'a [Keyword],
    message: &'a Message,
) -> impl Iterator<Item = &'a str> + 'a {
    message.keywords.as_slice().iter().filter_map(|n| keywords.get(usize::from(*n))).map(Keyword::as_str)
}

/// All system flags.
pub(crate) fn all_system_flags() -> SystemFlags {
    SystemFlags::ALL.iter().fold(SystemFlags::NONE, |all, (flag, _)| all | *flag)
}

/// `* FLAGS` and `* OK [PERMANENTFLAGS ..]`: what there is, and what this user can keep (RFC 9051 §7.1).
pub(crate) fn flags_and_permanent_flags(
    wire: &mut Wire,
    user: &User,
    selected: &Selected,
    state: &MailboxState,
) {
    let keywords = state.settings.keywords.to_vec();
    let every =
        FlagList { system: all_system_flags(), recent: false, any: false, keywords: keywords.clone() };
    wire.put(&Response::Flags(every));
    let rights = if selected.read_only { Rights::NONE } else { selected.rights(user) };
    let permanent = match rights.contains(Rights::WRITE) {
        true => FlagList { system: changeable(rights), recent: false, any: true, keywords },
        false => FlagList { system: changeable(rights), ..FlagList::default() },
    };
    wire.put(&Response::ok_code(Code::PermanentFlags(permanent), "These can be kept"));
}

/// The system flags that someone with these rights may change (RFC 4314 §4).
pub(crate) fn changeable(rights: Rights) -> SystemFlags {
    let mut flags = SystemFlags::NONE;
    if rights.contains(Rights::SEEN) {
        flags = flags | SystemFlags::SEEN;
    }
    if rights.contains(Rights::DELETE_MESSAGES) {
        flags = flags | SystemFlags::DELETED;
    }
    if rights.contains(Rights::WRITE) {
        flags = flags | all_system_flags().without(SystemFlags::SEEN).without(SystemFlags::DELETED);
    }
    flags
}

/// The UIDs of the whole view.
pub(crate) fn uids_of(view: &View) -> Result<UidSet, StoreError> {
    view.uids_at(std::slice::from_ref(&view.everywhere()))
}
