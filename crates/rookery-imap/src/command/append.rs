//! APPEND (RFC 9051 §6.3.12), with several messages at once (RFC 3502) and messages made of parts (RFC 4469),
//! and REPLACE (RFC 8508).
//!
//! Invariants:
//! - A message is never whole in memory: its octets go to the store's spool as they come.
//! - What can be refused is refused before the client sends the message.
//! - A message's octets are kept as they came, 8-bit octets in headers included. But parts with NUL, which only a literal8
//!   brings, are in base64 from then on: BODY[..] could not be sent else, and BODYSTRUCTURE must say how it is sent
//!   (RFC 3516 §4.4, §6).
//!
//! DEVIATION: RFC 6855 §4, because old mail with raw 8-bit octets in its headers exists, and comes by LMTP as well:
//! such a message is taken also from a client that has not said ENABLE UTF8=ACCEPT. Else it could not be moved
//! between servers.

use super::abroad::with_news;
use super::operation::{self, Operation};
use super::{Context, Outcome, catenate, copy, quota, select, send, transfer};
use crate::answer::{Answer, Failure, no_permission};
use crate::guest::not_reached;
use crate::handed::Replay;
use crate::names::Found;
use crate::session::{Selected, State, User};
use crate::tell;
use crate::wire::{Wire, closed};
use rookery_codec::imap::command::{AppendLiteral, AppendMessage, AppendSource, Replaced};
use rookery_codec::imap::server::{Bad, Decoded};
use rookery_codec::imap::{Code, MessageSet, Response, Tag, WireName};
use rookery_store::{Appended, Held, NewMessage, Spool, Spooled, StoreError};
use rookery_types::{
    Flag, InternalDate, Keyword, NodeId, OperationId, Rights, SequenceSet, SystemFlags, Uid, UidSet,
};
use std::time::{SystemTime, UNIX_EPOCH};

/// Takes the messages that follow and adds them to a mailbox, all or none. `replaced`: a message of the selected
/// mailbox goes with the same step.
pub(crate) async fn append(
    context: Context<'_>,
    state: &mut State,
    replaced: Option<Replaced>,
    mailbox: WireName,
    first: AppendMessage,
) -> Outcome {
    let Context { wire, tag, .. } = context;
    let operation = wire.operation.take();
    let (user, selected, abroad) = match state {
        State::Authenticated(user) => (user, None, None),
        State::Selected(user, selected) => (user, Some(&mut **selected), None),
        State::Abroad(user, abroad) => (user, None, Some(abroad.node)),
        State::NotAuthenticated | State::Away(_) | State::Logout => {
            wire.decoder.refuse_append();
            return Err(Answer::bad("Log in first").into());
        }
    };
    let whither = match user.home_of_mailbox(&mailbox).await {
        Ok(home) => Whither::of(replaced, home, abroad, selected.is_some()),
        Err(Failure::Moved) => return Err(begins_again(wire, tag, replaced, &mailbox, &first)),
        Err(failure) => {
            wire.decoder.refuse_append();
            return Err(failure);
        }
    };
    match whither {
        Whither::Here => {}
        Whither::There(node) => {
            let appended = Box::pin(send::append(wire, user, tag, node, replaced, mailbox, first)).await;
            return match abroad.is_some_and(|selected| selected != node) {
                true => with_news(user, wire, appended).await,
                false => appended,
            };
        }
        Whither::Apart(home) => {
            wire.decoder.refuse_append();
            match home {
                Some(node) => transfer::probe(wire, user, node, &mailbox).await?,
                None => drop(copy::target(user, &mailbox).await?),
            }
            let text = "A message cannot be replaced by one in a mailbox of another server";
            return Err(Answer::no(Code::Cannot, text).into());
        }
    }
    if let Some(Operation { id, again: true }) = operation {
        wire.decoder.refuse_append();
        return operation::settle(user, &mailbox, id).await;
    }
    let ids: Vec<OperationId> = operation.iter().map(|operation| operation.id).collect();
    let appended = Box::pin(append_here((wire, tag), user, selected, replaced, mailbox, first, &ids)).await;
    match abroad {
        Some(_) => with_news(user, wire, appended).await,
        None => appended,
    }
}

/// An APPEND that found its account gone before anything of its first message came: it is said anew.
pub(super) fn begins_again(
    wire: &mut Wire,
    tag: &Tag,
    replaced: Option<Replaced>,
    mailbox: &WireName,
    first: &AppendMessage,
) -> Failure {
    wire.replay = Replay::of_beginning(tag, replaced, mailbox, first).map(Box::new);
    if wire.replay.is_some() {
        return Failure::Moved;
    }
    wire.decoder.refuse_append();
    not_reached().into()
}

/// Where messages have to go.
enum Whither {
    Here,
    There(NodeId),
    /// The message that is to go is of another home than the mailbox, which is at home at this node, or here.
    Apart(Option<NodeId>),
}

impl Whither {
    /// `home`: that of the mailbox; `abroad`: that of the selected mailbox.
    fn of(
        replaced: Option<Replaced>,
        home: Option<NodeId>,
        abroad: Option<NodeId>,
        selected_here: bool,
    ) -> Whither {
        let nothing_selected = abroad.is_none() && !selected_here;
        match (replaced, home) {
            // What replaces nothing is refused where it is.
            (Some(_), _) if nothing_selected => Whither::Here,
            (Some(_), home) if home != abroad => Whither::Apart(home),
            (_, Some(node)) => Whither::There(node),
            (_, None) => Whither::Here,
        }
    }
}

/// The same in an account that is at home here. `operations`: by which another node asks for it.
async fn append_here(
    (wire, tag): (&mut Wire, &Tag),
    user: &mut User,
    selected: Option<&mut Selected>,
    replaced: Option<Replaced>,
    mailbox: WireName,
    first: AppendMessage,
    operations: &[OperationId],
) -> Outcome {
    let prepared = match (replaced, selected.as_deref()) {
        (Some(_), None) => Err(Answer::bad("No mailbox is selected").into()),
        (Some(replaced), Some(selected)) => going(user, selected, replaced).map(Some),
        (None, _) => Ok(None),
    };
    let prepared = match prepared {
        Ok(old) => prepare(user, &mailbox, &first, old).await.map(|found| (found, old)),
        Err(failure) => Err(failure),
    };
    let (found, old) = match prepared {
        Ok(prepared) => prepared,
        Err(Failure::Moved) => return Err(begins_again(wire, tag, replaced, &mailbox, &first)),
        Err(failure) => {
            wire.decoder.refuse_append();
            return Err(failure);
        }
    };
    let mut messages = Vec::new();
    let mut come = Vec::new();
    let mut announced = first;
    loop {
        if let Err(answer) = acceptable(user, &announced, messages.len()) {
            wire.decoder.refuse_append();
            return Err(answer.into());
        }
        let (body, more) = match receive(wire, user, selected.as_deref(), announced.source).await? {
            Received::Message { body, more } => (body, more),
            Received::Bad(bad) => return Ok(answer_to(bad)),
        };
        come.push((announced.clone(), body.clone()));
        messages.push(message(body, announced, found.rights));
        if !more {
            break;
        }
        announced = match wire.next().await? {
            Decoded::AppendStart { message, .. } => message,
            Decoded::Bad(bad) => return Ok(answer_to(bad)),
            _ => return Err(closed()),
        };
    }
    // All of it is done here, or none: then the new home of the account is sent it.
    let guarded = match (found.account.guard().await, selected.as_deref()) {
        (Ok(target), Some(selected)) if old.is_some() => {
            selected.mailbox.account().guard().await.map(|source| (target, Some(source)))
        }
        (Ok(target), _) => Ok((target, None)),
        (Err(error), _) => Err(error),
    };
    let _guards = match guarded {
        Err(StoreError::Moved) => {
            wire.replay = Replay::new(tag, replaced, &mailbox, come, found.account.whereabouts());
            return Err(Failure::Moved);
        }
        guarded => guarded?,
    };
    // Rights may have gone while the client was sending.
    let found = user.find_address(found.address).await?;
    if !found.rights.contains(Rights::INSERT) {
        return Err(no_permission().into());
    }
    match (old, selected, messages.pop()) {
        (Some(old), Some(selected), Some(message)) => {
            replace(wire, user, selected, found, old, message).await
        }
        (_, _, last) => {
            messages.extend(last);
            let appended = found.account.append_as(operations, found.id, messages).await?;
            quota::warn(wire, user, &found.account, found.address.path());
            Ok(Answer::ok_code(append_uid(appended), "APPEND completed"))
        }
    }
}

pub(super) fn append_uid(appended: Appended) -> Code {
    let Appended { uid_validity, uids } = appended;
    Code::AppendUid { uid_validity, uids: uids.into_iter().collect() }
}

/// The message that a REPLACE takes away.
#[derive(Clone, Copy)]
struct Old {
    uid: Uid,
    octets: u64,
}

/// Finds it, and asks whether it may go (RFC 8508 §4.1).
fn going(user: &User, selected: &Selected, replaced: Replaced) -> Result<Old, Failure> {
    if user.enabled.uid_only && !replaced.uid {
        return Err(Answer::no_numbers().into());
    }
    let rights = selected.writable(user, &[Rights::DELETE_MESSAGES])?;
    if !rights.contains(Rights::EXPUNGE) {
        return Err(no_permission().into());
    }
    let gone = || Answer::no(Code::NonExistent, "There is no such message");
    let set = SequenceSet::new(vec![(replaced.message, replaced.message)]).ok_or_else(gone)?;
    let uids = selected.resolve_uids(&MessageSet::Set(set), replaced.uid)?;
    let (_, messages) = selected.now();
    let uid = uids.first().and_then(Uid::new).ok_or_else(gone)?;
    let message = messages.message(uid)?.ok_or_else(gone)?;
    Ok(Old { uid, octets: u64::from(message.size) })
}

/// The new message comes and the old one goes. Within an account that is one step. APPENDUID comes before the
/// EXPUNGE, untagged (RFC 8508 §4.3).
async fn replace(
    wire: &mut Wire,
    user: &User,
    selected: &mut Selected,
    found: Found,
    old: Old,
    message: NewMessage,
) -> Outcome {
    // The old one's rights, too, may have gone.
    let rights = selected.writable(user, &[Rights::DELETE_MESSAGES])?;
    if !rights.contains(Rights::EXPUNGE) {
        return Err(no_permission().into());
    }
    let Found { account, id, address, .. } = found;
    let appended = match account.id() == selected.mailbox.account().id() {
        true => match account.replace(id, message, (selected.mailbox.id(), old.uid)).await? {
            Some(appended) => appended,
            None => return Ok(Answer::no(Code::ExpungeIssued, "The message is gone")),
        },
        false => {
            let appended = account.append(id, vec![message]).await?;
            selected.mailbox.remove(&UidSet::from_iter([old.uid])).await?;
            appended
        }
    };
    wire.put(&Response::ok_code(append_uid(appended), "Replacement message ready"));
    quota::warn(wire, user, &account, address.path());
    tell::checkpoint(wire, user, selected, true).await?;
    Ok(match user.enabled.qresync {
        true => Answer::ok_code(select::highest_modseq(selected), "REPLACE completed"),
        false => Answer::ok("REPLACE completed"),
    })
}

/// What can be said before the message comes.
async fn prepare(
    user: &User,
    mailbox: &WireName,
    first: &AppendMessage,
    old: Option<Old>,
) -> Result<Found, Failure> {
    let found = copy::target(user, mailbox).await?;
    let octets = match first.source {
        AppendSource::Literal(literal) => literal.octets,
        AppendSource::Catenate => 0,
    };
    let more = match old {
        // What goes makes room. Whether in the same quota, the store knows.
        Some(old) => Held { octets: octets.saturating_sub(old.octets), messages: 0 },
        None => Held { octets, messages: 1 },
    };
    quota::allows(&found.account, found.address.path(), more)?;
    Ok(found)
}

pub(super) fn too_big() -> Answer {
    Answer::no(Code::TooBig, "The message is larger than is taken")
}

fn acceptable(user: &User, message: &AppendMessage, so_far: usize) -> Result<(), Answer> {
    // A session at another home has counted, or copies.
    if !user.is_guest && so_far >= user.services.config.append_messages_max {
        return Err(Answer::no(Code::Limit, "Too many messages in one APPEND"));
    }
    let AppendSource::Literal(literal) = message.source else { return Ok(()) };
    if literal.octets == 0 {
        // RFC 3502 §6.3.11: so a client takes its APPEND back.
        return Err(empty());
    }
    acceptable_octets(user, literal, 0)
}

fn empty() -> Answer {
    Answer::no(Code::Cannot, "A message cannot be empty")
}

/// Whether these octets may follow `so_far` octets of the message.
fn acceptable_octets(user: &User, literal: AppendLiteral, so_far: u64) -> Result<(), Answer> {
    if literal.utf8 && !user.enabled.utf8 {
        return Err(Answer::bad("ENABLE UTF8=ACCEPT comes first"));
    }
    match so_far.saturating_add(literal.octets) > user.services.config.message_octets_max {
        true => Err(too_big()),
        false => Ok(()),
    }
}

/// What came of one message.
enum Received {
    Message {
        body: Spooled,
        more: bool,
    },
    /// The command cannot be; this is its answer.
    Bad(Bad),
}

/// Takes one message, in one piece or of many parts.
async fn receive(
    wire: &mut Wire,
    user: &User,
    selected: Option<&Selected>,
    source: AppendSource,
) -> Result<Received, Failure> {
    if let AppendSource::Literal(_) = source {
        wire.decoder.accept_append();
    }
    // An error when something has gone wrong: the rest of the literal is read and dropped, to stay in step.
    let mut spool: Result<Spool, Failure> = Ok(user.services.store.spool());
    loop {
        match wire.next().await? {
            Decoded::AppendData(octets) => {
                if let Ok(Err(error)) = spool.as_mut().map(|spool| spool.push(&octets)) {
                    spool = Err(error.into());
                }
            }
            Decoded::AppendText(literal) => {
                let accepted = match &spool {
                    Ok(spool) => acceptable_octets(user, literal, spool.size()),
                    Err(_) => return Err(refused(wire, spool)),
                };
                if let Err(answer) = accepted {
                    wire.decoder.refuse_append();
                    return Err(answer.into());
                }
                wire.decoder.accept_append();
            }
            Decoded::AppendUrl(url) => {
                let taken = match &mut spool {
                    Ok(spool) => catenate::take(user, selected, &url, spool).await,
                    Err(_) => return Err(refused(wire, spool)),
                };
                if let Err(failure) = taken {
                    wire.decoder.refuse_append();
                    return Err(failure);
                }
            }
            Decoded::AppendEnd { more } => {
                let body = match spool {
                    Err(failure) => Err(failure),
                    Ok(spool) if spool.size() == 0 => Err(empty().into()),
                    Ok(spool) => spool.finished_without_nul().await.map_err(Failure::from),
                };
                return match body {
                    Ok(body) => Ok(Received::Message { body, more }),
                    Err(failure) => {
                        if more {
                            refuse_rest(wire).await?;
                        }
                        Err(failure)
                    }
                };
            }
            Decoded::Bad(bad) => return Ok(Received::Bad(bad)),
            _ => return Err(closed()),
        }
    }
}

/// Refuses what follows of a message that has failed already.
fn refused(wire: &mut Wire, spool: Result<Spool, Failure>) -> Failure {
    wire.decoder.refuse_append();
    spool.err().unwrap_or_else(closed)
}

/// Refuses the messages that follow one that cannot be taken.
async fn refuse_rest(wire: &mut Wire) -> Result<(), Failure> {
    if let Decoded::AppendStart { .. } = wire.next().await? {
        wire.decoder.refuse_append();
    }
    Ok(())
}

pub(super) fn answer_to(bad: Bad) -> Answer {
    let mut answer = Answer::bad(bad.text);
    answer.condition = bad.condition;
    answer.code = bad.code;
    answer
}

/// A message for the store; flags that the user may not set there are left out (RFC 4314 §4).
pub(super) fn message(body: Spooled, announced: AppendMessage, rights: Rights) -> NewMessage {
    let changeable = crate::tell::changeable(rights);
    let mut flags = SystemFlags::NONE;
    let mut keywords: Vec<Keyword> = Vec::new();
    for flag in announced.flags {
        match flag {
            Flag::System(one) if changeable.contains(one) => flags = flags | one,
            Flag::Keyword(keyword) if rights.contains(Rights::WRITE) && !keywords.contains(&keyword) => {
                keywords.push(keyword);
            }
            Flag::System(_) | Flag::Keyword(_) => {}
        }
    }
    NewMessage { body, flags, keywords, date: announced.date.unwrap_or_else(now) }
}

fn now() -> InternalDate {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    InternalDate::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX))
}
