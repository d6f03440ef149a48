//! SELECT and EXAMINE (RFC 9051 §6.3.2, §6.3.3), with CONDSTORE and QRESYNC (RFC 7162).

use super::{Outcome, quota};
use crate::answer::{Answer, Failure, blocking, no_permission};
use crate::names::Found;
use crate::session::{Selected, State, User};
use crate::tell::{self, Shape};
use crate::view::View;
use crate::wire::Wire;
use rookery_codec::imap::command::{Qresync, SelectParameters};
use rookery_codec::imap::response::ListEntry;
use rookery_codec::imap::{Code, Response, WireName};
use rookery_store::MailboxState;
use rookery_types::{ModSeq, Rights, SeqNum, Uid, UidSet};

/// Leaves what is selected, and selects another mailbox.
pub(crate) async fn select(
    mut user: Box<User>,
    selected: Option<Box<Selected>>,
    wire: &mut Wire,
    mailbox: WireName,
    read_only: bool,
    parameters: SelectParameters,
) -> (State, Outcome) {
    if selected.is_some() {
        // From here on untagged responses are of the new mailbox, also if there will be none (RFC 7162 §3.2.11).
        drop(selected);
        wire.put(&Response::ok_code(Code::Closed, "The previous mailbox is closed"));
    }
    match open(&mut user, wire, mailbox, read_only, parameters).await {
        Ok((selected, answer)) => (State::Selected(user, Box::new(selected)), Ok(answer)),
        Err(failure) => (State::Authenticated(user), Err(failure)),
    }
}

async fn open(
    user: &mut User,
    wire: &mut Wire,
    name: WireName,
    read_only: bool,
    parameters: SelectParameters,
) -> Result<(Selected, Answer), Failure> {
    if parameters.qresync.is_some() && !user.enabled.qresync {
        return Err(Answer::bad("ENABLE QRESYNC comes first").into());
    }
    if user.enabled.uid_only
        && parameters.qresync.as_ref().is_some_and(|known| known.sequence_match.is_some())
    {
        return Err(Answer::no_numbers().into());
    }
    user.enabled.condstore |= parameters.condstore;
    let Found { account, id, rights, address, .. } = user.find(&name).await?;
    if !rights.contains(Rights::READ) {
        return Err(no_permission().into());
    }
    let mailbox = account.open(id).await?;
    let change = [Rights::SEEN, Rights::WRITE, Rights::INSERT, Rights::DELETE_MESSAGES, Rights::EXPUNGE];
    let read_only = read_only || !change.iter().any(|one| rights.contains(*one));
    let state = mailbox.now();
    let first_recent = match (user.enabled.rev2, read_only) {
        (true, _) => u32::MAX,
        (false, true) => mailbox.peek_recent(),
        (false, false) => mailbox.claim_recent(state.summary.uid_next),
    };
    let messages = state.messages.clone().unwrap_or_default();
    let mut view = View::new(&state, messages);
    view.add_recent(first_recent, state.summary.uid_next);
    let home = account.whereabouts();
    let selected = Selected { mailbox, read_only, view, saved: UidSet::new(), home };
    let name = user.names.wire(&user.names.show(&address));
    describe(wire, user, &selected, &state, name).await?;
    if let Some(known) = parameters.qresync {
        resynchronise(wire, user, &selected, &state, known).await?;
    }
    quota::warn(wire, user, selected.mailbox.account(), address.path());
    let answer = match read_only {
        true => Answer::ok_code(Code::ReadOnly, "EXAMINE completed"),
        false => Answer::ok_code(Code::ReadWrite, "SELECT completed"),
    };
    Ok((selected, answer))
}

/// The untagged responses that a client needs to begin with.
async fn describe(
    wire: &mut Wire,
    user: &User,
    selected: &Selected,
    state: &MailboxState,
    name: WireName,
) -> Result<(), Failure> {
    tell::flags_and_permanent_flags(wire, user, selected, state);
    wire.put(&Response::Exists(selected.view.exists()));
    if !user.enabled.rev2 {
        wire.put(&Response::Recent(selected.view.recent_count()?));
        let messages = selected.view.messages().clone();
        let first = match messages.is_personal() {
            true => blocking(move || messages.first_unseen()).await??,
            false => messages.first_unseen()?,
        };
        if let Some(seq) = first.filter(|_| !user.enabled.uid_only) {
            wire.put(&Response::ok_code(Code::Unseen(seq), "The first message that is not seen"));
        }
    }
    let uid_validity = state.settings.uid_validity;
    wire.put(&Response::ok_code(Code::UidValidity(uid_validity), "UIDs are valid"));
    if let Some(next) = Uid::new(state.summary.uid_next) {
        wire.put(&Response::ok_code(Code::UidNext(next), "The next UID"));
    }
    wire.put(&Response::ok_code(Code::HighestModSeq(state.summary.highest_modseq), "The last change"));
    let id = selected.mailbox.id().objectid();
    wire.put(&Response::ok_code(Code::MailboxId(id.into()), "The mailbox's id"));
    if user.enabled.rev2 {
        // RFC 9051 §6.3.2 wants LIST, so that a client learns the name as the server has it.
        wire.put(&Response::List(ListEntry {
            attributes: Vec::new(),
            separator: Some(b'/'),
            mailbox: name,
            child_info: Vec::new(),
            old_name: None,
        }));
    }
    Ok(())
}

/// What a client that was here before has missed (RFC 7162 §3.2.5).
async fn resynchronise(
    wire: &mut Wire,
    user: &User,
    selected: &Selected,
    state: &MailboxState,
    known: Qresync,
) -> Result<(), Failure> {
    if known.uid_validity != state.settings.uid_validity {
        return Ok(());
    }
    let known_uids = match &known.known_uids {
        Some(set) => set.resolve(0),
        None => UidSet::range(1, state.summary.uid_next.saturating_sub(1)),
    };
    let gone = vanished(selected, &known, &known_uids).await?;
    if !gone.is_empty() {
        wire.put(&Response::Vanished { earlier: true, uids: gone });
    }
    let usual = Shape::of(user);
    let shape = Shape { uid: !usual.uid_only, modseq: true, ..usual };
    for found in selected.view.messages().iter_since(0, known.modseq) {
        let (seq, message) = found?;
        if message.modseq.get() > known.modseq && known_uids.contains_uid(message.uid) {
            tell::fetch_flags(wire, &shape, &selected.view, state, seq, &message);
            wire.flush_if_full().await?;
        }
    }
    Ok(())
}

/// Which of `known_uids` are gone: since the client's modseq if that is remembered, else all of them, except
/// where the client's sequence numbers show that it has heard of it (RFC 7162 §3.2.5.2).
async fn vanished(selected: &Selected, known: &Qresync, known_uids: &UidSet) -> Result<UidSet, Failure> {
    let mailbox = selected.mailbox.clone();
    let modseq = known.modseq;
    if let Some(gone) = blocking(move || mailbox.vanished_since(modseq)).await?? {
        let gone = gone.intersection(known_uids);
        // What vanished cannot be there; a message with that UID in the view is proof against the log.
        return Ok(gone.difference(&tell::uids_of(&selected.view)?));
    }
    let mut gone = known_uids.difference(&tell::uids_of(&selected.view)?);
    if let Some((numbers, uids)) = &known.sequence_match {
        let agreed = agreed_up_to(selected, &numbers.resolve(0), &uids.resolve(0))?;
        gone.remove_range(1, agreed);
    }
    Ok(gone)
}

/// The highest UID that has the number the client says: up to it, client and server have the same messages.
fn agreed_up_to(selected: &Selected, numbers: &UidSet, uids: &UidSet) -> Result<u32, Failure> {
    let mut agreed = 0;
    for (number, uid) in numbers.iter().zip(uids.iter()).take(SEQUENCE_MATCH_MAX) {
        let Some(seq) = SeqNum::new(number) else { continue };
        let message = selected.view.messages().by_seq(seq)?;
        if message.is_some_and(|message| message.uid.get() == uid) {
            agreed = agreed.max(uid);
        }
    }
    Ok(agreed)
}

/// Pairs of number and UID that are looked at; a client has reason to send a few dozen.
const SEQUENCE_MATCH_MAX: usize = 10_000;

/// HIGHESTMODSEQ for the tagged answer of a command that expunged: that of the last checkpoint, since the
/// client must not believe to know what was not told.
pub(crate) fn highest_modseq(selected: &Selected) -> Code {
    ModSeq::new(selected.view.modseq()).map_or(Code::NoModSeq, Code::HighestModSeq)
}
