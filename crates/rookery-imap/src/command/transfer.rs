//! COPY between mailboxes of two homes: the session reads at one and appends at the other, all of it as one APPEND of
//! several messages.
//!
//! Invariants:
//! - All messages arrive or none: the target's home takes them in one step.
//! - No message is whole in memory here; at the home that takes them, what waits in memory until all have come is
//!   bounded. What is found out about them waits there, so one COPY takes so many.
//! - Messages of another home are read by a guest of its own, which nothing else uses: the client's view of the
//!   selected mailbox stays as it was told.
//!
//! DEVIATION: RFC 9051 §6.4.7, because between two homes a COPY is an APPEND: flags that the user may not set in the
//! target are left out (RFC 4314 §4), and SAVEDATE is that of the copy.

mod source;

use super::append::{self, append_uid};
use super::operation::{self, Operation};
use super::{Outcome, copy, quota};
use crate::answer::{Answer, Failure, blocking, no_such_mailbox};
use crate::guest::{Guest, Heard, Trouble, lost_before, own_tag};
use crate::names::Found;
use crate::progress::Progress;
use crate::session::{Abroad, Selected, User};
use crate::wire::Wire;
use bytes::Bytes;
use rookery_codec::imap::client::{AppendEncoder, Decoded, Decoder, Literals};
use rookery_codec::imap::command::{
    AppendLiteral, AppendMessage, AppendSource, Search, SearchKey, SearchReturn,
};
use rookery_codec::imap::types::LiteralKind;
use rookery_codec::imap::{Code, Command, Condition, MessageSet, Response, WireName};
use rookery_store::{Message, NewMessage};
use rookery_types::{NodeId, Uid, UidSet, UidValidity};
use source::{Carried, Here, Source, There};

/// Messages that one COPY takes.
const MESSAGES_MAX: usize = 50_000;

/// Why nothing was copied.
enum Broken {
    /// The client is told so, and nothing was done.
    Refused(Failure),
    /// The guest that reads is lost.
    Reader,
    /// The guest that takes the messages is lost, before the last octet was sent or behind it.
    Taker(Trouble, bool),
}

impl<T: Into<Failure>> From<T> for Broken {
    fn from(failure: T) -> Broken {
        Broken::Refused(failure.into())
    }
}

/// COPY of messages of this home to a mailbox at the home of `node`.
pub(super) async fn send(
    wire: &mut Wire,
    progress: &mut Progress,
    user: &mut User,
    selected: &Selected,
    (set, uid): (&MessageSet, bool),
    (node, name): (NodeId, &WireName),
) -> Outcome {
    let uids = selected.resolve_uids(set, uid)?;
    if uids.is_empty() {
        probe(wire, user, node, name).await?;
        return Ok(Answer::ok("No messages to copy"));
    }
    let (state, all) = selected.now();
    let found = blocking(move || {
        let mut found = Vec::new();
        for number in uids.iter().take(MESSAGES_MAX + 1) {
            found.extend(Uid::new(number).map(|uid| all.message(uid)).transpose()?.flatten());
        }
        Ok::<_, rookery_store::StoreError>(found)
    });
    let messages: Vec<Message> = found.await??;
    if messages.is_empty() {
        return Ok(Answer::no(Code::ExpungeIssued, "The messages are gone"));
    }
    let (account, keywords) = (selected.mailbox.account().clone(), state.settings.keywords.clone());
    let source = Here::new(account, keywords, messages);
    carry(wire, progress, user, Source::Here(Box::new(source)), Whither::There(node, name)).await
}

/// COPY of messages of the selected mailbox, which is at another home, to a mailbox here or at a third home.
pub(super) async fn bring(
    wire: &mut Wire,
    progress: &mut Progress,
    user: &mut User,
    abroad: &Abroad,
    (set, uid): (MessageSet, bool),
    (home, name): (Option<NodeId>, &WireName),
) -> Outcome {
    let uids = match resolve(wire, user, abroad.node, set, uid).await? {
        Ok(uids) => uids,
        Err(answer) => return Ok(answer),
    };
    let whither = match home {
        Some(node) => {
            if uids.is_empty() {
                probe(wire, user, node, name).await?;
            }
            Whither::There(node, name)
        }
        None => Whither::Here(copy::target(user, name).await?),
    };
    if uids.is_empty() {
        return Ok(Answer::ok("No messages to copy"));
    }
    let reader = match There::open(wire, user, abroad, uids).await {
        Ok(reader) => reader,
        Err(Broken::Refused(failure)) => return Err(failure),
        Err(_) => return Err(crate::guest::not_reached().into()),
    };
    carry(wire, progress, user, Source::There(Box::new(reader)), whither).await
}

/// Refuses unless the user may know of the mailbox.
async fn probe(wire: &mut Wire, user: &mut User, node: NodeId, name: &WireName) -> Result<(), Failure> {
    let command = Command::MyRights { mailbox: name.clone() };
    let (answer, _) = user.ask(wire, node, command, &[b"* MYRIGHTS "]).await?;
    match answer.condition {
        Condition::Ok => Ok(()),
        _ if answer.code == Some(Code::NonExistent) => Err(no_such_mailbox().into()),
        _ => Err(answer.into()),
    }
}

/// The UIDs of messages of the selected mailbox, by the guest that has it.
async fn resolve(
    wire: &mut Wire,
    user: &mut User,
    node: NodeId,
    set: MessageSet,
    uid: bool,
) -> Result<Result<UidSet, Answer>, Failure> {
    let (answer, caught) = user.ask(wire, node, uids_wanted(set, uid), &[UIDS_SAID]).await?;
    if answer.condition != Condition::Ok {
        return Ok(Err(answer));
    }
    let uids = uids_said(&caught);
    Ok(match uids.is_empty() && !uid {
        true => Err(Answer::bad("There is no message of that number")),
        false => Ok(uids),
    })
}

/// What a guest is asked that has messages, for their UIDs.
pub(super) fn uids_wanted(set: MessageSet, uid: bool) -> Command {
    let key = if uid { SearchKey::Uid(set) } else { SearchKey::Sequence(set) };
    let returns = Some(SearchReturn { all: true, ..SearchReturn::default() });
    Command::Search(Search { uid: true, returns, charset: None, key })
}

/// How it begins to say them.
pub(super) const UIDS_SAID: &[u8] = b"* ESEARCH (TAG \"guest\")";

/// The UIDs that it has said.
pub(super) fn uids_said(caught: &[Bytes]) -> UidSet {
    let mut uids = UidSet::new();
    for octets in caught {
        if let Some(Response::Esearch(found)) = read(octets) {
            found.all.ranges().for_each(|(first, last)| uids.insert_range(first, last));
        }
    }
    uids
}

/// One response.
fn read(octets: &[u8]) -> Option<Response> {
    let mut decoder = Decoder::new(octets.len().saturating_add(1));
    decoder.push(octets);
    match decoder.next() {
        Decoded::Response(response) => Some(response),
        _ => None,
    }
}

/// Where the messages go.
enum Whither<'a> {
    Here(Found),
    There(NodeId, &'a WireName),
}

/// Carries messages over. Nothing of it is done unless all of it is.
async fn carry(
    wire: &mut Wire,
    progress: &mut Progress,
    user: &mut User,
    mut source: Source,
    whither: Whither<'_>,
) -> Outcome {
    let carried = match whither {
        Whither::Here(found) => take(wire, progress, user, &mut source, found).await,
        Whither::There(node, name) => hand_over(wire, progress, user, &mut source, node, name).await,
    };
    match carried {
        Ok(answer) => Ok(answer),
        Err(Broken::Refused(failure)) => Err(failure),
        Err(Broken::Reader) => Err(crate::guest::not_reached().into()),
        Err(Broken::Taker(trouble, ended)) => Err(lost_before(trouble, ended)),
    }
}

/// Counts what one COPY takes.
#[derive(Default)]
struct Bound(usize);

impl Bound {
    fn add(&mut self) -> Result<(), Answer> {
        self.0 += 1;
        match self.0 > MESSAGES_MAX {
            true => Err(append::too_many()),
            false => Ok(()),
        }
    }
}

/// Into a mailbox here.
async fn take(
    wire: &mut Wire,
    progress: &mut Progress,
    user: &User,
    source: &mut Source,
    found: Found,
) -> Result<Answer, Broken> {
    let (mut bound, mut known) = (Bound::default(), append::Known::default());
    let mut from = UidSet::new();
    let mut messages: Vec<NewMessage> = Vec::new();
    while let Some(message) = source.next().await? {
        bound.add()?;
        let mut spool = found.account.spool();
        while let Some(octets) = source.octets().await? {
            spool.push(&octets)?;
        }
        let body = spool.finished_without_nul().await?;
        known.add(&body, &user.services.store)?;
        from.insert_uid(message.uid);
        let announced = announced(&message);
        messages.push(append::message(body, announced, found.rights));
        progress.note(wire, messages.len(), source.whole()).await?;
    }
    if messages.is_empty() {
        return Ok(Answer::no(Code::ExpungeIssued, "The messages are gone"));
    }
    let appended = found.account.append(found.id, messages).await?;
    quota::warn(wire, user, &found.account, found.address.path());
    match append_uid(appended) {
        Code::AppendUid { uid_validity, uids } => Ok(copied(uid_validity, from, uids)),
        _ => Err(Answer::server_fault().into()),
    }
}

fn copied(uid_validity: UidValidity, from: UidSet, to: UidSet) -> Answer {
    Answer::ok_code(Code::CopyUid { uid_validity, from, to }, "COPY completed")
}

/// What is said of a message in APPEND. Octets of any kind may come.
fn announced(message: &Carried) -> AppendMessage {
    let kind = LiteralKind { synchronising: false, binary: true };
    let source = AppendSource::Literal(AppendLiteral { octets: message.octets, kind, utf8: false });
    AppendMessage { flags: message.flags.clone(), date: Some(message.date), source }
}

/// Into a mailbox of another home. If it comes to no good end, the guest is left: what it was given is not whole.
async fn hand_over(
    wire: &mut Wire,
    progress: &mut Progress,
    user: &mut User,
    source: &mut Source,
    node: NodeId,
    name: &WireName,
) -> Result<Answer, Broken> {
    let Some(tag) = own_tag() else { return Err(Answer::server_fault().into()) };
    let early = |trouble| Broken::Taker(trouble, false);
    let operation = Operation::new();
    let mut bound = Bound::default();
    let mut from = UidSet::new();
    let mut taker: Option<(Guest, AppendEncoder)> = None;
    while let Some(message) = source.next().await? {
        bound.add()?;
        let mut announced = announced(&message);
        let (guest, _) = match &mut taker {
            Some(open) => {
                let head = open.1.next(&announced).map_err(|_| Answer::server_fault())?;
                open.0.put(head.concat().into());
                open
            }
            None => {
                let mut guest = user.guest(wire, node).await?;
                if let AppendSource::Literal(literal) = &mut announced.source {
                    // It is asked before it is sent anything.
                    literal.kind.synchronising = true;
                }
                let start = AppendEncoder::start(&tag, None, name, &announced, Literals::NonSynchronising);
                let (encoder, head) = start.map_err(|_| Answer::server_fault())?;
                guest.ask_as(operation, user.enabled, head.concat().into());
                match guest.hear(wire, &tag).await {
                    // The command is done again, wherever the mailbox is.
                    Err(Trouble::Moved) if user.has_moved(&guest) => return Err(Failure::Moved.into()),
                    Err(trouble) => return Err(early(trouble)),
                    Ok(Heard::Continue(_)) => taker.insert((guest, encoder)),
                    Ok(Heard::Answer(answer)) => {
                        user.guests.keep(guest);
                        return Ok(answer);
                    }
                }
            }
        };
        while let Some(octets) = source.octets().await? {
            guest.put(octets);
            guest.flush_if_full().await.map_err(early)?;
        }
        from.insert_uid(message.uid);
        progress.note(wire, bound.0, source.whole()).await?;
    }
    let Some((mut guest, encoder)) = taker else {
        return Ok(Answer::no(Code::ExpungeIssued, "The messages are gone"));
    };
    guest.put(Bytes::from_static(encoder.end()));
    let answer = match guest.answer(wire, &tag).await {
        Ok(answer) => {
            user.guests.keep(guest);
            answer
        }
        Err(Trouble::Moved) if user.has_moved(&guest) => return Err(Failure::Moved.into()),
        Err(trouble) => {
            user.guests.let_go(&guest);
            let known = match guest.is_between() {
                true => operation::lost_answer(wire, user, &trouble, name, operation).await,
                false => None,
            };
            known.ok_or(Broken::Taker(trouble, true))?
        }
    };
    Ok(match answer.code {
        Some(Code::AppendUid { uid_validity, uids }) if answer.condition == Condition::Ok => {
            copied(uid_validity, from, uids)
        }
        _ => answer,
    })
}
