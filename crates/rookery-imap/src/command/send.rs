//! APPEND and REPLACE in a mailbox of another node: the client's octets go to the guest there as they come.
//!
//! Invariants:
//! - What the guest refuses is refused before the client sends it: it is asked first.
//! - What cannot be whole is made to be refused there, so that nothing of it stays and the guest is in step.
//! - An APPEND has an id. If its answer is lost, the home is asked what came of it.

use super::append::{answer_to, begins_again};
use super::operation::{self, Operation};
use super::{Outcome, transfer};
use crate::answer::{Answer, Failure};
use crate::guest::{Guest, Heard, Trouble, not_reached};
use crate::session::User;
use crate::wire::{Wire, closed};
use bytes::Bytes;
use rookery_codec::imap::client::{AppendEncoder, EncodeError, Literals};
use rookery_codec::imap::command::{AppendLiteral, AppendMessage, AppendSource, Replaced};
use rookery_codec::imap::server::Decoded;
use rookery_codec::imap::types::LiteralKind;
use rookery_codec::imap::{Code, Tag, WireName};
use rookery_types::NodeId;

/// Octets of filling that are sent at once.
static FILLING: [u8; 4096] = [0; 4096];
/// What cannot stand behind a message.
const NONSENSE: &[u8] = b"x\r\n";

/// How it ended.
enum Sent {
    /// The guest has answered.
    Answered(Answer),
    /// The client has sent what cannot be; this is its answer. So many octets of a message were announced to the guest
    /// and not sent.
    Bad { answer: Answer, left: u64 },
}

/// Why it did not end.
enum Broken {
    Guest(Trouble),
    Session(Failure),
}

impl From<Trouble> for Broken {
    fn from(trouble: Trouble) -> Broken {
        Broken::Guest(trouble)
    }
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Broken {
        Broken::Session(failure)
    }
}

/// Passes the messages that follow on to the guest at a node.
pub(super) async fn append(
    wire: &mut Wire,
    user: &mut User,
    tag: &Tag,
    node: NodeId,
    replaced: Option<Replaced>,
    mailbox: WireName,
    first: AppendMessage,
) -> Outcome {
    let begun = match asking(&first) {
        Some(first) => AppendEncoder::start(tag, replaced, &mailbox, &first, Literals::NonSynchronising),
        None => Err(EncodeError::Catenate),
    };
    let (encoder, head) = match begun {
        Ok((encoder, pieces)) => (encoder, pieces.concat()),
        Err(error) => {
            wire.decoder.refuse_append();
            match transfer::probe(wire, user, node, &mailbox).await {
                Err(Failure::Moved) => return Err(not_reached().into()),
                probed => probed?,
            }
            return Err(unsendable(error).into());
        }
    };
    let mut guest = match user.guest(wire, node).await {
        Ok(guest) => guest,
        Err(Failure::Moved) => return Err(begins_again(wire, tag, replaced, &mailbox, &first)),
        Err(failure) => {
            wire.decoder.refuse_append();
            return Err(failure);
        }
    };
    // A REPLACE is about the selected mailbox, without which the session cannot go on.
    let operation = replaced.is_none().then(Operation::new);
    match operation {
        Some(operation) => guest.ask_as(operation, user.enabled, head.into()),
        None => guest.ask(user.enabled, head.into()),
    }
    let messages_max = user.services.config.append_messages_max;
    let (mut stage, mut count) = (Stage::Asking, 0);
    let under_way = (&mut stage, &mut count);
    let sent = match pass(wire, &mut guest, tag, encoder, first.clone(), messages_max, under_way).await {
        Ok(Sent::Bad { answer, left }) => spoil(wire, &mut guest, tag, left).await.map(|()| answer),
        Ok(Sent::Answered(answer)) => Ok(answer),
        Err(Broken::Guest(trouble)) => Err(trouble),
        Err(Broken::Session(failure)) => return Err(failure),
    };
    match sent {
        Ok(answer) => {
            user.guests.keep(guest);
            Ok(answer)
        }
        Err(Trouble::Moved) if stage == Stage::Asking && user.has_moved(&guest) => match count {
            0 => Err(begins_again(wire, tag, replaced, &mailbox, &first)),
            _ => {
                wire.decoder.refuse_append();
                Err(not_reached().into())
            }
        },
        Err(Trouble::Moved) if stage == Stage::Ended && user.has_moved(&guest) => {
            // It has all of it, and gives it back.
            wire.replay = guest.given_back().map(Box::new);
            match wire.replay.is_some() {
                true => Err(Failure::Moved),
                false => Err(not_reached().into()),
            }
        }
        Err(trouble) => {
            match stage {
                Stage::Asking => wire.decoder.refuse_append(),
                Stage::Sending => skip(wire).await?,
                Stage::Ended => {}
            }
            let ended = stage == Stage::Ended;
            if let Some(operation) = operation.filter(|_| ended && guest.is_between()) {
                let answer = operation::lost_answer(wire, user, &trouble, &mailbox, operation).await;
                if let Some(answer) = answer {
                    user.guests.let_go(&guest);
                    return Ok(answer);
                }
            }
            Err(user.lost(&guest, trouble, ended))
        }
    }
}

/// The same message, announced so that the guest is asked; none: it is made of parts.
fn asking(message: &AppendMessage) -> Option<AppendMessage> {
    let AppendSource::Literal(literal) = message.source else { return None };
    let kind = LiteralKind { synchronising: true, ..literal.kind };
    let source = AppendSource::Literal(AppendLiteral { kind, ..literal });
    Some(AppendMessage { source, ..message.clone() })
}

fn unsendable(error: EncodeError) -> Answer {
    tracing::debug!(%error, "a message cannot be sent on");
    match error {
        EncodeError::Catenate => {
            let text =
                "A message made of parts cannot be put into a mailbox of another server; send it whole";
            Answer::no(Code::Cannot, text)
        }
        _ => Answer::no(Code::Cannot, "That cannot be asked of the mailbox's server"),
    }
}

/// How far an APPEND has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The guest has been told of a message, and the client waits.
    Asking,
    /// The client sends a message.
    Sending,
    /// All of it was sent, so it may be done.
    Ended,
}

/// Passes over what the client sends of an APPEND that cannot be any more.
async fn skip(wire: &mut Wire) -> Result<(), Failure> {
    loop {
        match wire.next().await? {
            Decoded::AppendData(_) => {}
            Decoded::AppendEnd { more: true } => {
                if let Decoded::AppendStart { .. } = wire.next().await? {
                    wire.decoder.refuse_append();
                }
                return Ok(());
            }
            _ => return Ok(()),
        }
    }
}

/// Message by message: announced, and sent once the guest wants it.
async fn pass(
    wire: &mut Wire,
    guest: &mut Guest,
    tag: &Tag,
    mut encoder: AppendEncoder,
    mut message: AppendMessage,
    messages_max: usize,
    (stage, count): (&mut Stage, &mut usize),
) -> Result<Sent, Broken> {
    loop {
        match guest.hear(wire, tag).await? {
            Heard::Continue(_) => {
                wire.decoder.accept_append();
                *stage = Stage::Sending;
            }
            Heard::Answer(answer) => {
                wire.decoder.refuse_append();
                return Ok(Sent::Answered(answer));
            }
        }
        let AppendSource::Literal(AppendLiteral { octets: mut left, .. }) = message.source else {
            return Err(closed().into());
        };
        let more = loop {
            match wire.next().await? {
                Decoded::AppendData(octets) => {
                    left = left.saturating_sub(octets.len() as u64);
                    guest.put(octets);
                    guest.flush_if_full().await?;
                }
                Decoded::AppendEnd { more } => break more,
                Decoded::Bad(bad) => return Ok(Sent::Bad { answer: answer_to(bad), left }),
                _ => return Err(closed().into()),
            }
        };
        if !more {
            guest.put(Bytes::from_static(encoder.end()));
            *stage = Stage::Ended;
            return Ok(Sent::Answered(guest.answer(wire, tag).await?));
        }
        message = match wire.next().await? {
            Decoded::AppendStart { message, .. } => message,
            Decoded::Bad(bad) => return Ok(Sent::Bad { answer: answer_to(bad), left: 0 }),
            _ => return Err(closed().into()),
        };
        *count += 1;
        if *count >= messages_max {
            wire.decoder.refuse_append();
            let answer = Answer::no(Code::Limit, "Too many messages in one APPEND");
            return Ok(Sent::Bad { answer, left: 0 });
        }
        let head = match asking(&message) {
            Some(message) => encoder.next(&message),
            None => Err(EncodeError::Catenate),
        };
        match head {
            Ok(pieces) => {
                guest.put(pieces.concat().into());
                *stage = Stage::Asking;
            }
            Err(error) => {
                wire.decoder.refuse_append();
                return Ok(Sent::Bad { answer: unsendable(error), left: 0 });
            }
        }
    }
}

/// Ends an APPEND of which nothing may stay: what was announced is filled up, and nonsense follows.
async fn spoil(wire: &mut Wire, guest: &mut Guest, tag: &Tag, mut left: u64) -> Result<(), Trouble> {
    while left > 0 {
        let octets = usize::try_from(left).unwrap_or(usize::MAX).min(FILLING.len());
        guest.put(Bytes::from_static(FILLING.get(..octets).unwrap_or_default()));
        guest.flush_if_full().await?;
        left -= octets as u64;
    }
    guest.put(Bytes::from_static(NONSENSE));
    // What it says is that it did not do it.
    guest.answer(wire, tag).await.map(drop)
}
