//! REPLACE (RFC 8508): a message comes, and one of the selected mailbox goes.
//!
//! Invariants:
//! - Within an account that is one step. Else the old message goes, by its UID, once it is certain that the new one is
//!   there: none is ever lost. If it cannot go, the client hears that both are there.
//! - APPENDUID is said before the EXPUNGE, and that not before all is done (RFC 8508 §3.4, §4.3).
//! - What can be refused is refused before the client sends the message.
//! - What replaces a message of another home is here whole before it goes anywhere: so the command can be said anew
//!   if an account has moved meanwhile. If one moves behind that, what is left of the command is said anew.

use super::append::{Beginning, append_uid, come, message, prepare};
use super::catenate::Current;
use super::operation::{ASKING, PAUSE};
use super::{Outcome, quota, select, send, transfer};
use crate::answer::{Answer, Failure, no_permission};
use crate::guest::{own_tag, printed};
use crate::handed::Replay;
use crate::names::Found;
use crate::session::{Abroad, Selected, User};
use crate::tell;
use crate::wire::Wire;
use bytes::Bytes;
use rookery_codec::imap::command::{Replaced, SearchKey};
use rookery_codec::imap::{Code, Command, Condition, MessageSet, Response};
use rookery_store::{CommandGuard, NewMessage, StoreError};
use rookery_types::{NodeId, OperationId, Rights, SequenceSet, SetEnd, Uid, UidSet};
use tokio::time::Instant;

/// The message that a REPLACE takes away.
#[derive(Clone, Copy)]
pub(super) struct Old {
    pub(super) uid: Uid,
    pub(super) octets: u64,
}

impl Old {
    /// Finds it, and asks whether it may go.
    pub(super) fn find(user: &User, selected: &Selected, replaced: Replaced) -> Result<Old, Failure> {
        if user.enabled.uid_only && !replaced.uid {
            return Err(Answer::no_numbers().into());
        }
        may_go(user, selected)?;
        let uids = selected.resolve_uids(&set_of(replaced)?, replaced.uid)?;
        let (_, messages) = selected.now();
        let uid = uids.first().and_then(Uid::new).ok_or_else(no_such_message)?;
        let message = messages.message(uid)?.ok_or_else(no_such_message)?;
        Ok(Old { uid, octets: u64::from(message.size) })
    }
}

fn set_of(replaced: Replaced) -> Result<MessageSet, Answer> {
    let set = SequenceSet::new(vec![(replaced.message, replaced.message)]);
    set.map(MessageSet::Set).ok_or_else(no_such_message)
}

fn no_such_message() -> Answer {
    Answer::no(Code::NonExistent, "There is no such message")
}

/// Refuses unless the user may take messages out of the selected mailbox (RFC 8508 §4.1).
fn may_go(user: &User, selected: &Selected) -> Result<(), Failure> {
    let rights = selected.writable(user, &[Rights::DELETE_MESSAGES])?;
    match rights.contains(Rights::EXPUNGE) {
        true => Ok(()),
        false => Err(no_permission().into()),
    }
}

/// The same of one message, which may not be on its way to another home, either.
async fn may_go_now(user: &User, selected: &Selected, uid: Uid) -> Result<(), Failure> {
    may_go(user, selected)?;
    Ok(selected.mailbox.until_here(&UidSet::from_iter([uid])).await?)
}

/// A session whose new message goes elsewhere asks for the old one: refused unless it may go.
pub(super) async fn asked(user: &User, selected: &Selected, key: &SearchKey) -> Result<(), Failure> {
    may_go(user, selected)?;
    let uids = match key {
        SearchKey::Uid(set) => selected.resolve_uids(set, true)?,
        SearchKey::Sequence(set) => selected.resolve_uids(set, false)?,
        _ => return Ok(()),
    };
    Ok(selected.mailbox.until_here(&uids).await?)
}

/// The new message's UID (RFC 8508 §4.3).
pub(super) fn replacement_ready(uid: Code) -> Response {
    Response::ok_code(uid, "Replacement message ready")
}

/// All of it is done. `modseq`: that of the last change that the client was told of.
fn completed(user: &User, modseq: Code) -> Answer {
    match user.enabled.qresync {
        true => Answer::ok_code(modseq, "REPLACE completed"),
        false => Answer::ok("REPLACE completed"),
    }
}

/// The old message did not go, for this reason.
fn both_are_there(why: Answer) -> Answer {
    let text = format!("The new message is there, and the old one is still there, too: {}", why.text);
    Answer { condition: Condition::No, text: text.into(), ..why }
}

/// Both messages are of mailboxes that are at home here.
pub(super) async fn within(
    wire: &mut Wire,
    user: &User,
    selected: &mut Selected,
    found: Found,
    old: Old,
    message: NewMessage,
    operations: &[OperationId],
) -> Outcome {
    // The old one's rights, too, may have gone.
    may_go_now(user, selected, old.uid).await?;
    let Found { account, id, address, .. } = found;
    let old_one = (selected.mailbox.id(), old.uid);
    let is_one_step = account.id() == selected.mailbox.account().id();
    let appended = match is_one_step {
        true => match account.replace_as(operations, id, message, old_one).await? {
            Some(appended) => appended,
            None => return Ok(Answer::no(Code::ExpungeIssued, "The message is gone")),
        },
        false => account.append_in_place_of(operations, id, message, old_one).await?,
    };
    wire.put(&replacement_ready(append_uid(appended)));
    quota::warn(wire, user, &account, address.path());
    match is_one_step {
        true => told(wire, user, selected).await,
        false => take_away(wire, user, selected, old.uid).await,
    }
}

/// The old message has gone.
async fn told(wire: &mut Wire, user: &User, selected: &mut Selected) -> Outcome {
    tell::checkpoint(wire, user, selected, true).await?;
    Ok(completed(user, select::highest_modseq(selected)))
}

/// Takes the old message away, whose new one is there.
async fn take_away(wire: &mut Wire, user: &User, selected: &mut Selected, uid: Uid) -> Outcome {
    match gone(user, selected, &UidSet::from_iter([uid])).await {
        Ok(()) => told(wire, user, selected).await,
        Err(Failure::Refused(answer)) => Ok(both_are_there(*answer)),
        Err(failure) => Err(failure),
    }
}

/// Takes messages out of the selected mailbox, if they are there still.
async fn gone(user: &User, selected: &Selected, uids: &UidSet) -> Result<(), Failure> {
    may_go(user, selected)?;
    match selected.mailbox.remove(uids).await {
        // With the mailbox all its messages have gone.
        Ok(_) | Err(StoreError::NoMailbox) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The same for a session at another node that has put the new message where it belongs; or as what is left of a REPLACE,
/// if this session was there until then.
pub(super) async fn take_away_as_asked(
    wire: &mut Wire,
    user: &User,
    selected: &mut Selected,
    uids: &MessageSet,
) -> Outcome {
    let uids = selected.resolve_uids(uids, true)?;
    match gone(user, selected, &uids).await {
        Ok(()) if user.is_guest => {
            tell::checkpoint(wire, user, selected, true).await?;
            // So that the session knows that it was understood.
            Ok(Answer::ok_code(select::highest_modseq(selected), "The message is gone"))
        }
        Ok(()) => told(wire, user, selected).await,
        Err(Failure::Refused(answer)) if !user.is_guest => Ok(both_are_there(*answer)),
        Err(Failure::Moved) if !user.is_guest => {
            wire.replaces = true;
            Err(Failure::Moved)
        }
        Err(failure) => Err(failure),
    }
}

/// Where the old message is: here, or at another home.
type Place<'a> = (Option<&'a Selected>, Option<&'a Abroad>);

/// The message that goes is at home elsewhere than the mailbox that takes the new one, which is there, or here. That one is
/// appended, and then the old one expunged.
pub(super) async fn apart(
    wire: &mut Wire,
    user: &mut User,
    (selected, abroad): (Option<&mut Selected>, Option<&Abroad>),
    beginning: Beginning<'_>,
    to: Option<NodeId>,
) -> Outcome {
    let tag = beginning.tag;
    let placed = Box::pin(put(wire, user, (selected.as_deref(), abroad), beginning, to)).await?;
    let Put { uid, answer, guard: _guard } = placed;
    let Answer { condition: Condition::Ok, code, .. } = answer else { return Ok(answer) };
    if let Some(code) = code {
        wire.put(&replacement_ready(code));
    }
    match (selected, abroad) {
        (Some(selected), _) => take_away(wire, user, selected, uid).await,
        (None, Some(abroad)) => {
            let set = only(uid)?;
            let taken = take_away_there(wire, user, abroad.node, set.clone()).await;
            if matches!(taken, Err(Failure::Moved)) {
                let left = Command::Expunge { uids: Some(set) };
                wire.replay = Some(Box::new(Replay::of_command(printed(tag, left)?)));
            }
            taken
        }
        (None, None) => Err(Answer::server_fault().into()),
    }
}

/// A new message that is where it belongs, or was refused.
struct Put {
    /// Of the old one.
    uid: Uid,
    answer: Answer,
    /// The old one's account stays here, if it is here.
    guard: Option<CommandGuard>,
}

/// The set of one message.
fn only(uid: Uid) -> Result<MessageSet, Answer> {
    set_of(Replaced { uid: true, message: SetEnd::Number(uid.get()) })
}

/// Takes the new message, and puts it where it belongs.
async fn put(
    wire: &mut Wire,
    user: &mut User,
    from: Place<'_>,
    beginning: Beginning<'_>,
    to: Option<NodeId>,
) -> Result<Put, Failure> {
    let current = Current::of(from.0, from.1);
    let beginning = Beginning { current, ..beginning };
    let (uid, found) = match early(wire, user, from, &beginning, to).await {
        Ok(early) => early,
        Err(Failure::Moved) => return Err(beginning.again(wire, user).await),
        Err(failure) => {
            wire.decoder.refuse_append();
            return Err(failure);
        }
    };
    // Numbers may change while the client sends.
    let message_of = Replaced { uid: true, message: SetEnd::Number(uid.get()) };
    let beginning = Beginning { replaced: Some(message_of), ..beginning };
    let owner = found.as_ref().map(|found| &found.account);
    let mut all = come(wire, user, current, owner, beginning.first.clone()).await?;
    // Rights may have gone meanwhile, and accounts too; then all of it is done at the new home.
    let guard = match from {
        (Some(selected), _) => match selected.mailbox.account().guard().await {
            Err(StoreError::Moved) => {
                wire.replay = beginning.whole(all, Some(selected.home.clone()));
                return Err(Failure::Moved);
            }
            guard => {
                may_go_now(user, selected, uid).await?;
                Some(guard?)
            }
        },
        (None, Some(abroad)) => match find_there(wire, user, abroad.node, message_of).await {
            Err(Failure::Moved) => {
                wire.replay = beginning.whole(all, None);
                return Err(Failure::Moved);
            }
            found => found.map(|_| None)?,
        },
        (None, None) => None,
    };
    let outcome = match (to, found) {
        (Some(node), _) => {
            let come = all.pop().ok_or_else(Answer::server_fault)?;
            send::append_whole(wire, user, node, &beginning, come).await
        }
        (None, Some(found)) => {
            let _guard = match found.account.guard().await {
                Err(StoreError::Moved) => {
                    wire.replay = beginning.whole(all, Some(found.account.whereabouts()));
                    return Err(Failure::Moved);
                }
                guard => guard?,
            };
            let Found { account, id, address, rights, .. } = user.find_address(found.address).await?;
            if !rights.contains(Rights::INSERT) {
                return Err(no_permission().into());
            }
            let new = all.into_iter().map(|(announced, body)| message(body, announced, rights));
            let appended = account.append(id, new.collect()).await?;
            quota::warn(wire, user, &account, address.path());
            Ok(Answer::ok_code(append_uid(appended), "APPEND completed"))
        }
        (None, None) => Err(Answer::server_fault().into()),
    };
    Ok(Put { uid, answer: outcome?, guard })
}

/// What can be said before the message comes: which one goes, and where the new one comes, if that is here.
async fn early(
    wire: &mut Wire,
    user: &mut User,
    from: Place<'_>,
    beginning: &Beginning<'_>,
    to: Option<NodeId>,
) -> Result<(Uid, Option<Found>), Failure> {
    let Some(replaced) = beginning.replaced else { return Err(Answer::server_fault().into()) };
    let uid = match from {
        (Some(selected), _) => {
            let Old { uid, .. } = Old::find(user, selected, replaced)?;
            may_go_now(user, selected, uid).await?;
            uid
        }
        (None, Some(abroad)) => {
            let found = find_there(wire, user, abroad.node, replaced).await?;
            found.ok_or_else(|| match replaced.uid {
                true => no_such_message(),
                false => Answer::bad("There is no message of that number"),
            })?
        }
        (None, None) => return Err(Answer::bad("No mailbox is selected").into()),
    };
    let found = match to {
        Some(node) => {
            send::probe(wire, user, node, beginning).await?;
            None
        }
        None => Some(prepare(user, beginning.mailbox, &beginning.first, None).await?),
    };
    Ok((uid, found))
}

/// Finds the old message in the selected mailbox, which is at another home; refused if it may not go.
async fn find_there(
    wire: &mut Wire,
    user: &mut User,
    node: NodeId,
    replaced: Replaced,
) -> Result<Option<Uid>, Failure> {
    if user.enabled.uid_only && !replaced.uid {
        return Err(Answer::no_numbers().into());
    }
    let wanted = transfer::uids_wanted(set_of(replaced)?, replaced.uid);
    let (answer, caught) = ask(wire, user, node, wanted, &[transfer::UIDS_SAID]).await?;
    match answer.condition {
        Condition::Ok => Ok(transfer::uids_said(&caught).first().and_then(Uid::new)),
        _ => Err(answer.into()),
    }
}

/// Takes the old message out of the selected mailbox, which is at another home; the new one is there. That may be said
/// twice, so it is said again if that home was lost and comes back soon.
pub(super) async fn take_away_there(
    wire: &mut Wire,
    user: &mut User,
    node: NodeId,
    uids: MessageSet,
) -> Outcome {
    let until = Instant::now() + ASKING;
    loop {
        let command = Command::Expunge { uids: Some(uids.clone()) };
        match ask(wire, user, node, command, &[]).await {
            Ok((Answer { condition: Condition::Ok, code: Some(modseq), .. }, _)) => {
                return Ok(completed(user, modseq));
            }
            Ok((answer, _)) => return Ok(both_are_there(answer)),
            Err(Failure::Moved) => {
                wire.replaces = true;
                return Err(Failure::Moved);
            }
            Err(Failure::Refused(answer)) if answer.condition == Condition::No && user.guests.awaits() => {
                if Instant::now() > until {
                    let text =
                        "The new message is there; the old one may still be there, too: its server is lost";
                    return Ok(Answer::no(Code::Unavailable, text));
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(failure) => return Err(failure),
        }
    }
}

/// Asks the guest with the selected mailbox something that is part of a REPLACE.
async fn ask(
    wire: &mut Wire,
    user: &mut User,
    node: NodeId,
    command: Command,
    wanted: &[&[u8]],
) -> Result<(Answer, Vec<Bytes>), Failure> {
    let tag = own_tag().ok_or_else(Answer::server_fault)?;
    let octets = printed(&tag, command)?;
    let mut guest = user.guest(wire, node).await?;
    guest.ask_replacing(user.enabled, octets);
    match guest.answer_with(wire, &tag, wanted).await {
        Ok(answered) => {
            user.guests.keep(guest);
            Ok(answered)
        }
        Err(trouble) => Err(user.lost(&guest, trouble, false)),
    }
}
