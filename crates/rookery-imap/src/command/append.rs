//! APPEND (RFC 9051 §6.3.12), with several messages at once (RFC 3502).
//!
//! Invariants:
//! - A message is never whole in memory: its octets go to the store's spool as they come.
//! - What can be refused is refused before the client sends the message.

use super::{Outcome, copy, quota};
use crate::answer::{Answer, Failure, no_permission};
use crate::names::Found;
use crate::session::{State, User};
use crate::wire::{Wire, closed};
use rookery_codec::imap::command::AppendMessage;
use rookery_codec::imap::server::{Bad, Decoded};
use rookery_codec::imap::{Code, WireName};
use rookery_store::{Appended, NewMessage, Spooled};
use rookery_types::{Flag, InternalDate, Keyword, Rights, SystemFlags};
use std::time::{SystemTime, UNIX_EPOCH};

/// Takes the messages that follow and adds them to a mailbox, all or none.
pub(crate) async fn append(
    wire: &mut Wire,
    state: &State,
    mailbox: WireName,
    first: AppendMessage,
) -> Outcome {
    let (user, found) = match prepare(state, &mailbox, &first).await {
        Ok(prepared) => prepared,
        Err(failure) => {
            wire.decoder.refuse_append();
            return Err(failure);
        }
    };
    let mut messages = Vec::new();
    let mut announced = first;
    loop {
        if let Err(answer) = acceptable(user, &announced, messages.len()) {
            wire.decoder.refuse_append();
            return Err(answer.into());
        }
        let (body, more) = match receive(wire, user).await? {
            Received::Message { body, more } => (body, more),
            Received::Bad(bad) => return Ok(answer_to(bad)),
        };
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
    // Rights may have gone while the client was sending.
    let found = user.find_address(found.address).await?;
    if !found.rights.contains(Rights::INSERT) {
        return Err(no_permission().into());
    }
    let Appended { uid_validity, uids } = found.account.append(found.id, messages).await?;
    quota::warn(wire, user, &found.account, found.address.path());
    let code = Code::AppendUid { uid_validity, uids: uids.into_iter().collect() };
    Ok(Answer::ok_code(code, "APPEND completed"))
}

/// What can be said before the message comes.
async fn prepare<'a>(
    state: &'a State,
    mailbox: &WireName,
    first: &AppendMessage,
) -> Result<(&'a User, Found), Failure> {
    let user = match state {
        State::Authenticated(user) | State::Selected(user, _) => user,
        State::NotAuthenticated | State::Logout => return Err(Answer::bad("Log in first").into()),
    };
    let found = copy::target(user, mailbox).await?;
    quota::allows(&found.account, found.address.path(), first.octets)?;
    Ok((user, found))
}

fn acceptable(user: &User, message: &AppendMessage, so_far: usize) -> Result<(), Answer> {
    let config = &user.services.config;
    if message.octets > config.message_octets_max {
        return Err(Answer::no(Code::TooBig, "The message is larger than is taken"));
    }
    if message.octets == 0 {
        // RFC 3502 §6.3.11: so a client takes its APPEND back.
        return Err(Answer::no(Code::Cannot, "A message cannot be empty"));
    }
    if so_far >= config.append_messages_max {
        return Err(Answer::no(Code::Limit, "Too many messages in one APPEND"));
    }
    if message.literal.binary && !message.utf8 {
        return Err(Answer::no(Code::UnknownCte, "Binary messages are not taken"));
    }
    Ok(())
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

async fn receive(wire: &mut Wire, user: &User) -> Result<Received, Failure> {
    wire.decoder.accept_append();
    let mut spool = Some(user.services.store.spool());
    // The first thing that goes wrong. The rest of the message is read and dropped, to stay in step.
    let mut failed: Option<Failure> = None;
    loop {
        match wire.next().await? {
            Decoded::AppendData(octets) => {
                if octets.contains(&0) && failed.is_none() {
                    failed = Some(Answer::bad("A message cannot hold NUL").into());
                    spool = None;
                }
                if let Some(Err(error)) = spool.as_mut().map(|spool| spool.push(&octets)) {
                    failed = Some(Answer::from(error).into());
                    spool = None;
                }
            }
            Decoded::AppendEnd { more } => {
                let Some(spool) = spool else {
                    if more {
                        refuse_rest(wire).await?;
                    }
                    return Err(failed.unwrap_or_else(closed));
                };
                match spool.finish() {
                    Ok(body) => return Ok(Received::Message { body, more }),
                    Err(error) => {
                        if more {
                            refuse_rest(wire).await?;
                        }
                        return Err(Answer::from(error).into());
                    }
                }
            }
            Decoded::Bad(bad) => return Ok(Received::Bad(bad)),
            _ => return Err(closed()),
        }
    }
}

/// Refuses the messages that follow one that cannot be taken.
async fn refuse_rest(wire: &mut Wire) -> Result<(), Failure> {
    if let Decoded::AppendStart { .. } = wire.next().await? {
        wire.decoder.refuse_append();
    }
    Ok(())
}

fn answer_to(bad: Bad) -> Answer {
    let mut answer = Answer::bad(bad.text);
    answer.condition = bad.condition;
    answer.code = bad.code;
    answer
}

/// A message for the store; flags that the user may not set there are left out (RFC 4314 §4).
fn message(body: Spooled, announced: AppendMessage, rights: Rights) -> NewMessage {
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
