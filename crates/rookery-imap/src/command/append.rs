//! APPEND (RFC 9051 §6.3.12), with several messages at once (RFC 3502) and messages made of parts (RFC 4469). So REPLACE
//! begins, too: `replace.rs`.
//!
//! Invariants:
//! - A message is never whole in memory: its octets go to the store's spool as they come. Of many that come with one
//!   command, what waits in memory is bounded.
//! - What can be refused is refused before the client sends the message.
//! - A message's octets are kept as they came, 8-bit octets in headers included. But parts with NUL, which only a literal8
//!   brings, are in base64 from then on: BODY[..] could not be sent else, and BODYSTRUCTURE must say how it is sent
//!   (RFC 3516 §4.4, §6).
//!
//! DEVIATION: RFC 6855 §4, because old mail with raw 8-bit octets in its headers exists, and comes by LMTP as well:
//! such a message is taken also from a client that has not said ENABLE UTF8=ACCEPT. Else it could not be moved
//! between servers.

use super::abroad::with_news;
use super::catenate::{self, Current};
use super::operation::{self, Operation};
use super::replace::{self, Old};
use super::{Context, Outcome, copy, quota, send};
use crate::answer::{Answer, Failure, no_permission};
use crate::handed::Replay;
use crate::names::Found;
use crate::session::{Selected, State, User};
use crate::wire::{Wire, closed};
use rookery_codec::imap::command::{AppendLiteral, AppendMessage, AppendSource, Replaced};
use rookery_codec::imap::server::{Bad, Decoded};
use rookery_codec::imap::{Code, Tag, WireName};
use rookery_store::{Account, Appended, Held, NewMessage, Spool, Spooled, Store, StoreError, Whereabouts};
use rookery_types::{Flag, InternalDate, Keyword, NodeId, OperationId, Rights, SystemFlags};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

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
        State::Abroad(user, abroad) => (user, None, Some(&**abroad)),
        State::NotAuthenticated | State::Away(_) | State::Logout => {
            wire.decoder.refuse_append();
            return Err(Answer::bad("Log in first").into());
        }
    };
    let (there, abroad) = (abroad, abroad.map(|abroad| abroad.node));
    let whither = match user.home_of_mailbox(&mailbox).await {
        Ok(home) => Whither::of(replaced, home, abroad, selected.is_some()),
        Err(failure) => {
            wire.decoder.refuse_append();
            return Err(failure);
        }
    };
    match whither {
        Whither::Here => {}
        Whither::There(node) => {
            let current = Current::of(selected.as_deref(), there);
            let beginning = Beginning { tag, replaced, mailbox: &mailbox, first, current };
            let appended = Box::pin(send::append(wire, user, node, beginning)).await;
            return match abroad.is_some_and(|selected| selected != node) {
                true => with_news(user, wire, appended).await,
                false => appended,
            };
        }
        Whither::Apart(replaced, to) => {
            let beginning =
                Beginning { tag, replaced: Some(replaced), mailbox: &mailbox, first, current: Current::None };
            let outcome = Box::pin(replace::apart(wire, user, (selected, there), beginning, to)).await;
            return match there {
                Some(_) => with_news(user, wire, outcome).await,
                None => outcome,
            };
        }
    }
    if let Some(Operation { id, again: true }) = operation {
        wire.decoder.refuse_append();
        return operation::settle(user, &mailbox, id).await;
    }
    let ids: Vec<OperationId> = operation.iter().map(|operation| operation.id).collect();
    let beginning = Beginning { tag, replaced, mailbox: &mailbox, first, current: Current::of(None, there) };
    let appended = Box::pin(append_here(wire, user, selected, beginning, &ids)).await;
    match there {
        Some(_) => with_news(user, wire, appended).await,
        None => appended,
    }
}

/// The beginning of an APPEND or REPLACE: of its first message nothing has come yet.
#[derive(Clone)]
pub(super) struct Beginning<'a> {
    pub(super) tag: &'a Tag,
    pub(super) replaced: Option<Replaced>,
    pub(super) mailbox: &'a WireName,
    pub(super) first: AppendMessage,
    /// What URLs are relative to.
    pub(super) current: Current<'a>,
}

/// A message that has come.
pub(super) type Come = (AppendMessage, Spooled);

impl Beginning<'_> {
    /// It found its account gone before anything came: it is said anew.
    pub(super) async fn again(&self, wire: &mut Wire, user: &User) -> Failure {
        match self.first.source {
            AppendSource::Literal(_) => {
                let Beginning { tag, replaced, mailbox, first, .. } = self;
                wire.replay = Replay::of_beginning(tag, *replaced, mailbox, first).map(Box::new);
            }
            // Some of the parts have been read by the decoder already; so what is made of them is said anew.
            AppendSource::Catenate => match come(wire, user, self.current, None, self.first.clone()).await {
                Ok(come) => wire.replay = self.whole(come, None),
                Err(failure) => return failure,
            },
        }
        if wire.replay.is_some() {
            return Failure::Moved;
        }
        wire.decoder.refuse_append();
        crate::guest::not_reached().into()
    }

    /// The whole command, to be said anew. None: it cannot be.
    pub(super) fn whole(
        &self,
        come: Vec<Come>,
        home: Option<watch::Receiver<Whereabouts>>,
    ) -> Option<Box<Replay>> {
        Replay::new(self.tag, self.replaced, self.mailbox, come, home)
    }
}

/// Octets of what is known of the messages of one command, which wait in memory: some 1.5 KiB of an ordinary one.
const KNOWN_OCTETS_MAX: u64 = 32 << 20;
/// The same of all commands, beyond which none takes a second message.
const KNOWN_IN_ALL_MAX: u64 = 128 << 20;

/// A message of more octets waits in a file of its own, which stays open.
const ALONE_OCTETS: u32 = 512 << 10;
/// What such a file counts, so that one command holds a thousand at most.
const FILE_COSTS: u64 = 32 << 10;

/// What is known of the messages of one command, as octets in memory.
#[derive(Default)]
pub(super) struct Known {
    octets: u64,
    messages: u64,
}

impl Known {
    /// One more message has come. Err: there is no room for what is known of more.
    pub(super) fn add(&mut self, message: &Spooled, store: &Store) -> Result<(), Answer> {
        let file = if message.size() > ALONE_OCTETS { FILE_COSTS } else { 0 };
        self.octets = self.octets.saturating_add(message.octets_known()).saturating_add(file);
        self.messages += 1;
        let is_full = self.octets > KNOWN_OCTETS_MAX || store.octets_known_waiting() > KNOWN_IN_ALL_MAX;
        // Nobody is kept from adding one.
        match is_full && self.messages > 1 {
            true => Err(too_many()),
            false => Ok(()),
        }
    }
}

/// Takes the messages of a command. `owner`: the account that they are for, if that is here.
pub(super) async fn come(
    wire: &mut Wire,
    user: &User,
    current: Current<'_>,
    owner: Option<&Account>,
    first: AppendMessage,
) -> Result<Vec<Come>, Failure> {
    let mut come = Vec::new();
    let mut known = Known::default();
    let mut announced = first;
    loop {
        if let Err(answer) = acceptable(user, &announced, come.len()) {
            wire.decoder.refuse_append();
            return Err(answer.into());
        }
        let spool = owner.map_or_else(|| user.services.store.spool(), Account::spool);
        let (body, more) = receive(wire, user, current, spool, announced.source).await?;
        if let Err(answer) = known.add(&body, &user.services.store) {
            if more {
                refuse_rest(wire).await?;
            }
            return Err(answer.into());
        }
        come.push((announced, body));
        if !more {
            return Ok(come);
        }
        announced = next_announced(wire).await?;
    }
}

/// The message that follows one behind which there is more.
pub(super) async fn next_announced(wire: &mut Wire) -> Result<AppendMessage, Failure> {
    match wire.next().await? {
        Decoded::AppendStart { message, .. } => Ok(message),
        Decoded::Bad(bad) => Err(answer_to(bad).into()),
        _ => Err(closed()),
    }
}

/// Where messages have to go.
enum Whither {
    Here,
    There(NodeId),
    /// The message that is to go is of another home than the mailbox, which is at home at this node, or here.
    Apart(Replaced, Option<NodeId>),
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
            (Some(replaced), home) if home != abroad => Whither::Apart(replaced, home),
            (_, Some(node)) => Whither::There(node),
            (_, None) => Whither::Here,
        }
    }
}

/// The same in an account that is at home here. `operations`: by which another node asks for it.
async fn append_here(
    wire: &mut Wire,
    user: &mut User,
    selected: Option<&mut Selected>,
    beginning: Beginning<'_>,
    operations: &[OperationId],
) -> Outcome {
    let Beginning { replaced, mailbox, ref first, .. } = beginning;
    let prepared = match (replaced, selected.as_deref()) {
        (Some(_), None) => Err(Answer::bad("No mailbox is selected").into()),
        (Some(replaced), Some(selected)) => Old::find(user, selected, replaced).map(Some),
        (None, _) => Ok(None),
    };
    let prepared = match prepared {
        Ok(old) => prepare(user, mailbox, first, old).await.map(|found| (found, old)),
        Err(failure) => Err(failure),
    };
    let current = match selected.as_deref() {
        Some(selected) => Current::Here(selected),
        None => beginning.current,
    };
    let (found, old) = match prepared {
        Ok(prepared) => prepared,
        Err(Failure::Moved) => {
            return Err(Beginning { current, ..beginning.clone() }.again(wire, user).await);
        }
        Err(failure) => {
            wire.decoder.refuse_append();
            return Err(failure);
        }
    };
    let come = come(wire, user, current, Some(&found.account), first.clone()).await?;
    let new = |(announced, body): &Come| message(body.clone(), announced.clone(), found.rights);
    let mut messages: Vec<NewMessage> = come.iter().map(new).collect();
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
            wire.replay = beginning.whole(come, Some(found.account.whereabouts()));
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
            replace::within(wire, user, selected, found, old, message, operations).await
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

/// What can be said before the message comes.
pub(super) async fn prepare(
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

pub(super) fn too_many() -> Answer {
    Answer::no(Code::Limit, "Those are more messages than can be taken at once; send fewer")
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

/// Takes one message into a spool, in one piece or of many parts. Says whether there is more behind it.
pub(super) async fn receive(
    wire: &mut Wire,
    user: &User,
    current: Current<'_>,
    spool: Spool,
    source: AppendSource,
) -> Result<(Spooled, bool), Failure> {
    if let AppendSource::Literal(_) = source {
        wire.decoder.accept_append();
    }
    // An error when something has gone wrong: the rest of the literal is read and dropped, to stay in step.
    let mut spool: Result<Spool, Failure> = Ok(spool);
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
                    Ok(spool) => catenate::take(wire, user, current, &url, spool).await,
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
                    Ok(body) => Ok((body, more)),
                    Err(failure) => {
                        if more {
                            refuse_rest(wire).await?;
                        }
                        Err(failure)
                    }
                };
            }
            Decoded::Bad(bad) => return Err(answer_to(bad).into()),
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
pub(super) async fn refuse_rest(wire: &mut Wire) -> Result<(), Failure> {
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
