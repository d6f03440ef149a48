//! APPEND and REPLACE in a mailbox of another node: the client's octets go to the guest there as they come.
//!
//! Invariants:
//! - What the guest refuses is refused before the client sends it: it is asked first.
//! - A message that is made of parts is put together here, and goes on as any message does. So does one whose command may
//!   have to be said anew here when all of it was sent: it replaces one of another home.
//! - What cannot be whole is made to be refused there, so that nothing of it stays and the guest is in step.
//! - Each has an id. If its answer is lost, the home is asked what came of it.

use super::Outcome;
use super::append::{Beginning, Come, answer_to, come, next_announced, receive, refuse_rest};
use super::operation::{self, Operation};
use super::replace::replacement_ready;
use crate::answer::{Answer, Failure, blocking};
use crate::guest::{Guest, Heard, Trouble, lost_before, not_reached};
use crate::session::User;
use crate::wire::{Wire, closed};
use bytes::Bytes;
use rookery_codec::imap::client::{AppendEncoder, EncodeError, Literals};
use rookery_codec::imap::command::{AppendLiteral, AppendMessage, AppendSource, Replaced};
use rookery_codec::imap::server::Decoded;
use rookery_codec::imap::types::LiteralKind;
use rookery_codec::imap::{Code, Condition, Tag};
use rookery_store::Spooled;
use rookery_types::NodeId;

/// Octets of filling that are sent at once. Where no NUL may be, the first of them has the message refused.
static FILLING: [u8; 4096] = [0; 4096];
/// What cannot stand behind a message.
const NONSENSE: &[u8] = b"x\r\n";
/// Octets of a message that are read at once.
const PIECE_OCTETS: usize = 256 << 10;

/// How it ended.
enum Sent {
    /// The guest is done with it; this is the answer.
    Answered(Answer),
    /// The message cannot be; this is the answer. So many octets of it were announced to the guest and not sent.
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
    node: NodeId,
    beginning: Beginning<'_>,
) -> Outcome {
    let mut guest = match user.guest(wire, node).await {
        Ok(guest) => guest,
        Err(Failure::Moved) => return Err(beginning.again(wire, user).await),
        Err(failure) => {
            wire.decoder.refuse_append();
            return Err(failure);
        }
    };
    let mut course = Course::new(beginning.replaced);
    let mut passing = Passing { user, beginning: &beginning, encoder: None, course: &mut course };
    let sent = passing.pass(wire, &mut guest).await;
    conclude(wire, user, guest, &beginning, course, sent).await
}

/// Gives the guest at a node a message that is whole, as an APPEND. What that message replaces is of another home.
pub(super) async fn append_whole(
    wire: &mut Wire,
    user: &mut User,
    node: NodeId,
    beginning: &Beginning<'_>,
    come: Come,
) -> Outcome {
    let mut guest = match user.guest(wire, node).await {
        Ok(guest) => guest,
        Err(Failure::Moved) => {
            wire.replay = beginning.whole(vec![come], None);
            return Err(Failure::Moved);
        }
        Err(failure) => return Err(failure),
    };
    let mut course = Course { stage: Stage::Made { more: false }, ..Course::new(None) };
    let mut passing = Passing { user, beginning, encoder: None, course: &mut course };
    let sent = passing.pass_whole(wire, &mut guest, come).await;
    conclude(wire, user, guest, beginning, course, sent).await
}

/// Refuses a message that its mailbox's home does not take, before anything of it comes. A guest of its own is asked, and
/// left.
pub(super) async fn probe(
    wire: &mut Wire,
    user: &mut User,
    node: NodeId,
    beginning: &Beginning<'_>,
) -> Result<(), Failure> {
    let Beginning { tag, mailbox, ref first, .. } = *beginning;
    let literal = match first.source {
        AppendSource::Literal(literal) => {
            AppendLiteral { kind: LiteralKind { synchronising: true, ..literal.kind }, ..literal }
        }
        // Its size is not known yet.
        AppendSource::Catenate => literal(1, true),
    };
    let message = AppendMessage { source: AppendSource::Literal(literal), ..first.clone() };
    let start = AppendEncoder::start(tag, None, mailbox, &message, Literals::NonSynchronising);
    let (_, head) = start.map_err(unsendable)?;
    let mut guest = user.new_guest(wire, node).await?;
    guest.ask(user.enabled, head.concat().into());
    match guest.hear(wire, tag).await {
        Ok(Heard::Continue(_)) => Ok(()),
        Ok(Heard::Answer(answer)) => Err(answer.into()),
        Err(Trouble::Moved) if user.has_moved(&guest) => Err(Failure::Moved),
        Err(trouble) => Err(lost_before(trouble, false)),
    }
}

/// What an APPEND comes to, by what the guest has said or why it has not.
async fn conclude(
    wire: &mut Wire,
    user: &mut User,
    mut guest: Guest,
    beginning: &Beginning<'_>,
    course: Course,
    sent: Result<Sent, Broken>,
) -> Outcome {
    let Course { operation, replaced, mut stage, count, whole } = course;
    let answered = match sent {
        Ok(Sent::Bad { answer, left }) => {
            stage = Stage::Over;
            spoil(wire, &mut guest, beginning.tag, left).await.map(|()| answer)
        }
        Ok(Sent::Answered(answer)) => Ok(answer),
        Err(Broken::Guest(trouble)) => Err(trouble),
        Err(Broken::Session(failure)) => return Err(failure),
    };
    match answered {
        Ok(answer) => {
            user.guests.keep(guest);
            Ok(answer)
        }
        Err(Trouble::Moved) if stage == Stage::Asking && user.has_moved(&guest) => match count {
            0 => Err(beginning.again(wire, user).await),
            _ => {
                wire.decoder.refuse_append();
                Err(not_reached().into())
            }
        },
        Err(Trouble::Moved) if matches!(stage, Stage::Made { .. }) && user.has_moved(&guest) => {
            let more = stage == Stage::Made { more: true };
            if count == 0 {
                let mut all: Vec<Come> = whole.into_iter().collect();
                if more {
                    let next = next_announced(wire).await?;
                    all.extend(come(wire, user, beginning.current, None, next).await?);
                }
                wire.replay = beginning.whole(all, None);
            } else if more {
                refuse_rest(wire).await?;
            }
            match wire.replay.is_some() {
                true => Err(Failure::Moved),
                false => Err(not_reached().into()),
            }
        }
        Err(Trouble::Moved) if stage == Stage::Ended && user.has_moved(&guest) => {
            wire.replay = match replaced == beginning.replaced {
                // It has all of it, and gives it back.
                true => guest.given_back().map(Box::new),
                // It knows of no REPLACE.
                false => beginning.whole(whole.into_iter().collect(), None),
            };
            match wire.replay.is_some() {
                true => Err(Failure::Moved),
                false => Err(not_reached().into()),
            }
        }
        Err(trouble) => {
            match stage {
                Stage::Asking => wire.decoder.refuse_append(),
                Stage::Sending => skip(wire).await?,
                Stage::Made { more: true } => refuse_rest(wire).await?,
                Stage::Made { more: false } | Stage::Ended | Stage::Over => {}
            }
            let ended = stage == Stage::Ended;
            if ended && guest.is_between() {
                let mailbox = beginning.mailbox;
                let answer = operation::lost_answer(wire, user, &trouble, mailbox, operation).await;
                if let Some(answer) = answer {
                    user.guests.let_go(&guest);
                    return Ok(match (replaced, answer.condition, answer.code) {
                        (Some(_), Condition::Ok, Some(code)) => {
                            wire.put(&replacement_ready(appended_as(code)));
                            Answer::ok("REPLACE completed")
                        }
                        (_, _, code) => Answer { code, ..answer },
                    });
                }
            }
            Err(user.lost(&guest, trouble, ended))
        }
    }
}

/// Where a message is that has replaced another. One of another account was moved, as its home sees it.
fn appended_as(code: Code) -> Code {
    match code {
        Code::CopyUid { uid_validity, to, .. } => Code::AppendUid { uid_validity, uids: to },
        code => code,
    }
}

fn unsendable(error: EncodeError) -> Answer {
    tracing::debug!(%error, "a message cannot be sent on");
    Answer::no(Code::Cannot, "That cannot be asked of the mailbox's server")
}

/// A literal that a guest is asked for, or that is just sent.
fn literal(octets: u64, asks: bool) -> AppendLiteral {
    AppendLiteral { octets, kind: LiteralKind { synchronising: asks, binary: false }, utf8: false }
}

/// How far an APPEND has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The guest has been told of a message, and the client waits.
    Asking,
    /// The client sends a message.
    Sending,
    /// A message is here that was made of parts, and goes to the guest.
    Made { more: bool },
    /// All of it was sent, so it may be done.
    Ended,
    /// It cannot be, and has its answer.
    Over,
}

/// How far an APPEND has come, and what it is.
struct Course {
    operation: Operation,
    /// What the guest is to take away in the same step.
    replaced: Option<Replaced>,
    stage: Stage,
    /// Messages that went before.
    count: usize,
    /// The last message that was made of parts, or was whole before.
    whole: Option<Come>,
}

impl Course {
    fn new(replaced: Option<Replaced>) -> Course {
        Course { operation: Operation::new(), replaced, stage: Stage::Asking, count: 0, whole: None }
    }
}

/// An APPEND on its way to a guest.
struct Passing<'a> {
    user: &'a User,
    beginning: &'a Beginning<'a>,
    /// Once the guest knows of it.
    encoder: Option<AppendEncoder>,
    course: &'a mut Course,
}

impl Passing<'_> {
    /// Message by message: announced, and sent once the guest wants it.
    async fn pass(&mut self, wire: &mut Wire, guest: &mut Guest) -> Result<Sent, Broken> {
        let mut message = self.beginning.first.clone();
        loop {
            let passed = match message.source {
                AppendSource::Literal(literal) => self.passed(wire, guest, &message, literal).await?,
                AppendSource::Catenate => self.made(wire, guest, &message).await?,
            };
            let more = match passed {
                Ok(more) => more,
                Err(sent) => return Ok(sent),
            };
            if !more {
                return self.end(wire, guest).await;
            }
            message = match next_announced(wire).await {
                Ok(message) => message,
                Err(Failure::Refused(answer)) => return Ok(Sent::Bad { answer: *answer, left: 0 }),
                Err(failure) => return Err(failure.into()),
            };
            self.course.count += 1;
            self.course.stage = Stage::Asking;
            if self.course.count >= self.user.services.config.append_messages_max {
                wire.decoder.refuse_append();
                let answer = Answer::no(Code::Limit, "Too many messages in one APPEND");
                return Ok(self.refused(guest, &message, answer));
            }
        }
    }

    /// That was all; the guest says what has come of it.
    async fn end(&mut self, wire: &mut Wire, guest: &mut Guest) -> Result<Sent, Broken> {
        let end = self.encoder.take().map_or(&b"\r\n"[..], AppendEncoder::end);
        guest.put(Bytes::from_static(end));
        self.course.stage = Stage::Ended;
        Ok(Sent::Answered(guest.answer(wire, self.beginning.tag).await?))
    }

    /// The only message, which is here.
    async fn pass_whole(&mut self, wire: &mut Wire, guest: &mut Guest, come: Come) -> Result<Sent, Broken> {
        match self.hand_over(wire, guest, come).await? {
            Some(sent) => Ok(sent),
            None => self.end(wire, guest).await,
        }
    }

    /// Tells the guest of a message.
    fn announce(
        &mut self,
        guest: &mut Guest,
        message: &AppendMessage,
        literal: AppendLiteral,
    ) -> Result<(), EncodeError> {
        let message = AppendMessage { source: AppendSource::Literal(literal), ..message.clone() };
        if let Some(encoder) = &mut self.encoder {
            guest.put(encoder.next(&message)?.concat().into());
            return Ok(());
        }
        let (encoder, head) = self.start(&message)?;
        self.encoder = Some(encoder);
        guest.ask_as(self.course.operation, self.user.enabled, head);
        Ok(())
    }

    fn start(&self, message: &AppendMessage) -> Result<(AppendEncoder, Bytes), EncodeError> {
        let Beginning { tag, mailbox, .. } = *self.beginning;
        let replaced = self.course.replaced;
        let start = AppendEncoder::start(tag, replaced, mailbox, message, Literals::NonSynchronising)?;
        Ok((start.0, start.1.concat().into()))
    }

    /// How it ends with a message that cannot be. The guest may have been told of others.
    fn refused(&mut self, guest: &mut Guest, message: &AppendMessage, answer: Answer) -> Sent {
        let left = 1;
        match self.encoder.is_some() && self.announce(guest, message, literal(left, false)).is_ok() {
            true => Sent::Bad { answer, left },
            false if self.encoder.is_some() => Sent::Bad { answer, left: 0 },
            false => Sent::Answered(answer),
        }
    }

    /// A message that the client sends. Says whether there is more behind it.
    async fn passed(
        &mut self,
        wire: &mut Wire,
        guest: &mut Guest,
        message: &AppendMessage,
        literal: AppendLiteral,
    ) -> Result<Result<bool, Sent>, Broken> {
        let kind = LiteralKind { synchronising: true, ..literal.kind };
        if let Err(error) = self.announce(guest, message, AppendLiteral { kind, ..literal }) {
            wire.decoder.refuse_append();
            return Ok(Err(self.refused(guest, message, unsendable(error))));
        }
        if let Heard::Answer(answer) = guest.hear(wire, self.beginning.tag).await? {
            wire.decoder.refuse_append();
            return Ok(Err(Sent::Answered(answer)));
        }
        wire.decoder.accept_append();
        self.course.stage = Stage::Sending;
        let mut left = literal.octets;
        loop {
            match wire.next().await? {
                Decoded::AppendData(octets) => {
                    left = left.saturating_sub(octets.len() as u64);
                    guest.put(octets);
                    guest.flush_if_full().await?;
                }
                Decoded::AppendEnd { more } => return Ok(Ok(more)),
                Decoded::Bad(bad) => return Ok(Err(Sent::Bad { answer: answer_to(bad), left })),
                _ => return Err(closed().into()),
            }
        }
    }

    /// A message that is made of parts. Says whether there is more behind it.
    async fn made(
        &mut self,
        wire: &mut Wire,
        guest: &mut Guest,
        message: &AppendMessage,
    ) -> Result<Result<bool, Sent>, Broken> {
        if self.encoder.is_none()
            && let Some(answer) = self.unwanted(wire, guest, message).await?
        {
            wire.decoder.refuse_append();
            return Ok(Err(Sent::Answered(answer)));
        }
        let spool = self.user.services.store.spool();
        let made = receive(wire, self.user, self.beginning.current, spool, message.source).await;
        let (body, more) = match made {
            Ok(made) => made,
            Err(Failure::Refused(answer)) => return Ok(Err(self.refused(guest, message, *answer))),
            Err(failure) => return Err(failure.into()),
        };
        self.course.stage = Stage::Made { more };
        match self.hand_over(wire, guest, (message.clone(), body)).await? {
            None => Ok(Ok(more)),
            Some(sent) => {
                if more {
                    refuse_rest(wire).await?;
                }
                Ok(Err(sent))
            }
        }
    }

    /// Gives the guest a message that is here. How it ends if it cannot be.
    async fn hand_over(
        &mut self,
        wire: &mut Wire,
        guest: &mut Guest,
        come: Come,
    ) -> Result<Option<Sent>, Broken> {
        let (message, body) = come.clone();
        self.course.whole = Some(come);
        if let Err(error) = self.announce(guest, &message, literal(body.size().into(), true)) {
            return Ok(Some(self.refused(guest, &message, unsendable(error))));
        }
        match guest.hear(wire, self.beginning.tag).await? {
            Heard::Continue(_) => give(guest, &body).await,
            Heard::Answer(answer) => Ok(Some(Sent::Answered(answer))),
        }
    }

    /// Asks the guest for a message whose size is not known yet, as if it had one octet, and sends none. Its answer if it
    /// does not want it.
    async fn unwanted(
        &self,
        wire: &mut Wire,
        guest: &mut Guest,
        message: &AppendMessage,
    ) -> Result<Option<Answer>, Broken> {
        let octets = 1;
        let message =
            AppendMessage { source: AppendSource::Literal(literal(octets, true)), ..message.clone() };
        let head = match self.start(&message) {
            Ok((_, head)) => head,
            Err(error) => return Ok(Some(unsendable(error))),
        };
        guest.ask(self.user.enabled, head);
        match guest.hear(wire, self.beginning.tag).await? {
            Heard::Answer(answer) => Ok(Some(answer)),
            Heard::Continue(_) => {
                spoil(wire, guest, self.beginning.tag, octets).await?;
                Ok(None)
            }
        }
    }
}

/// Gives a guest the octets of a message; how it ends if they cannot be read.
async fn give(guest: &mut Guest, body: &Spooled) -> Result<Option<Sent>, Broken> {
    let (mut from, size) = (0, u64::from(body.size()));
    while from < size {
        let reading = body.clone();
        let octets = match blocking(move || reading.read(from, PIECE_OCTETS)).await? {
            Ok(octets) if !octets.is_empty() => octets,
            other => {
                tracing::error!(?other, "a message that was made of parts cannot be read");
                return Ok(Some(Sent::Bad {
                    answer: Answer::server_fault(),
                    left: size.saturating_sub(from),
                }));
            }
        };
        from = from.saturating_add(octets.len() as u64);
        guest.put(octets);
        guest.flush_if_full().await?;
    }
    Ok(None)
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
