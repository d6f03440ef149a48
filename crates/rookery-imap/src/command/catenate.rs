//! The parts of a message that CATENATE takes from other messages (RFC 4469 §3).
//!
//! Invariants:
//! - A part goes to the spool in pieces; no message is whole in memory.
//! - Only what the user may read is taken: a URL of another server or of another user is a bad URL, as is one of a
//!   mailbox that the user may not look up.
//! - What is at another home is read there by a guest of its own, which nothing else uses.
//! - \Seen is left alone.

use super::append::too_big;
use crate::answer::{Answer, Failure, blocking};
use crate::fetch::{Content, Data, cut};
use crate::guest::{Guest, not_reached, own_tag, printed};
use crate::names::Found;
use crate::session::{Abroad, Enabled, Selected, User};
use crate::wire::Wire;
use bytes::Bytes;
use rookery_codec::imap::command::{Fetch, FetchItem, SelectParameters};
use rookery_codec::imap::passage::Passed;
use rookery_codec::imap::url::{MessageUrl, UrlServer};
use rookery_codec::imap::{Code, Command, Condition, MessageSet, WireName};
use rookery_store::{Account, Message, Spool};
use rookery_types::{NodeId, Rights, SequenceSet, SetEnd};
use std::ops::Range;

/// The mailbox that a URL without one means: the selected one.
#[derive(Clone, Copy)]
pub(super) enum Current<'a> {
    None,
    Here(&'a Selected),
    There(&'a Abroad),
}

impl<'a> Current<'a> {
    pub(super) fn of(selected: Option<&'a Selected>, abroad: Option<&'a Abroad>) -> Current<'a> {
        match (selected, abroad) {
            (Some(selected), _) => Current::Here(selected),
            (None, Some(abroad)) => Current::There(abroad),
            (None, None) => Current::None,
        }
    }
}

/// Octets that are read at once.
const PIECE_OCTETS: u64 = 256 << 10;

/// Adds what a URL names to a message.
pub(super) async fn take(
    wire: &Wire,
    user: &User,
    current: Current<'_>,
    url: &Bytes,
    spool: &mut Spool,
) -> Result<(), Failure> {
    let bad = |text| Failure::from(Answer::no(Code::BadUrl(url.clone()), text));
    let parsed = MessageUrl::parse(url).ok_or_else(|| bad("That is no URL of a message"))?;
    if parsed.server.as_ref().is_some_and(|server| !is_here(user, server)) {
        return Err(bad("Only messages of your own session can be taken"));
    }
    let elsewhere = match elsewhere(user, current, &parsed).await {
        Err(Failure::Refused(answer)) if answer.code == Some(Code::Unavailable) || answer.fault => {
            return Err(Failure::Refused(answer));
        }
        Err(Failure::Refused(_)) => return Err(bad("There is no such message")),
        elsewhere => elsewhere?,
    };
    if let Some(place) = elsewhere {
        return match take_there(wire, user, place, &parsed, spool).await? {
            true => Ok(()),
            false => Err(bad("There is no such message, or it has no such part")),
        };
    }
    let (account, message) = match find(user, current, &parsed).await {
        // What is wrong with the server itself is no fault of the URL.
        Err(Failure::Refused(answer)) if answer.code == Some(Code::Unavailable) || answer.fault => {
            return Err(Failure::Refused(answer));
        }
        // It moves in this very moment, and what has come of the command cannot be said anew.
        Err(Failure::Moved) => return Err(not_reached().into()),
        Err(Failure::Refused(_)) => return Err(bad("There is no such message")),
        found => found?.ok_or_else(|| bad("There is no such message"))?,
    };
    let (content, size) = (message.content, message.size);
    let source = account.clone();
    let section = parsed.section.clone();
    let data = blocking(move || Content::new(&source, content, size).section(&section)).await??;
    let room = user.services.config.message_octets_max.saturating_sub(spool.size());
    match data {
        // Only BINARY has parts that are encoded.
        Data::Nil | Data::Encoded(..) => Err(bad("The message has no such part")),
        Data::Made(octets) => {
            let range = cut(0..octets.len() as u64, parsed.partial);
            let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(octets.len());
            let octets = octets.slice(at(range.start)..at(range.end));
            if octets.len() as u64 > room {
                return Err(too_big().into());
            }
            Ok(spool.push(&octets)?)
        }
        Data::Range(range) => {
            let Range { start: mut from, end } = cut(range, parsed.partial);
            if end.saturating_sub(from) > room {
                return Err(too_big().into());
            }
            let account = account.clone();
            let reader = blocking(move || account.reader(content)).await??;
            while from < end {
                let octets = usize::try_from((end - from).min(PIECE_OCTETS)).unwrap_or(0);
                let reader = reader.clone();
                let piece = blocking(move || reader.read(from, octets)).await??;
                if piece.len() != octets {
                    tracing::error!("a message is shorter than its structure says");
                    return Err(Answer::server_fault().into());
                }
                spool.push(&piece)?;
                from += octets as u64;
            }
            Ok(())
        }
    }
}

/// A mailbox of another home.
struct There {
    node: NodeId,
    /// As the session writes it.
    name: WireName,
    /// The id that it must have, if it is the selected one.
    id: Option<Bytes>,
}

/// Where a URL's mailbox is, if that is another home.
async fn elsewhere(user: &User, current: Current<'_>, url: &MessageUrl) -> Result<Option<There>, Failure> {
    let Some(name) = &url.mailbox else {
        return Ok(match current {
            Current::There(Abroad { node, name, mailbox_id }) => {
                Some(There { node: *node, name: name.clone(), id: mailbox_id.clone() })
            }
            Current::Here(_) | Current::None => None,
        });
    };
    let address = user.names.address_of_text(name)?;
    let home = user.home_of(address.account()).await?;
    Ok(home.map(|node| There { node, name: user.names.wire(&user.names.show(&address)), id: None }))
}

/// Adds what a URL names to a message, which is at another home. Says whether there is such a thing.
async fn take_there(
    wire: &Wire,
    user: &User,
    There { node, name: mailbox, id }: There,
    url: &MessageUrl,
    spool: &mut Spool,
) -> Result<bool, Failure> {
    let tag = own_tag().ok_or_else(Answer::server_fault)?;
    let mut guest = user.new_guest(wire, node).await?;
    // Names are written as the session writes them; what messages look like is as it is without extensions.
    let enabled = Enabled { rev2: user.enabled.rev2, utf8: user.enabled.utf8, ..Enabled::default() };
    let parameters = SelectParameters::default();
    guest.ask(enabled, printed(&tag, Command::Select { mailbox, read_only: true, parameters })?);
    let (mut validity, mut id_there) = (None, None);
    loop {
        let Passed::Status { status, .. } = heard(&mut guest).await? else { continue };
        match (status.tag.is_some(), status.code, status.condition) {
            (false, _, Condition::Bye) => return Err(not_reached().into()),
            (false, Some(Code::UidValidity(told)), _) => validity = Some(told),
            (false, Some(Code::MailboxId(told)), _) => id_there = Some(told),
            (false, ..) => {}
            (true, _, Condition::Ok) => break,
            (true, code, _) => return unless_unavailable(code),
        }
    }
    if url.uid_validity.is_some_and(|wanted| validity != Some(wanted)) || (id.is_some() && id != id_there) {
        return Ok(false);
    }
    let number = SetEnd::Number(url.uid.get());
    let set = SequenceSet::new(vec![(number, number)]).ok_or_else(Answer::server_fault)?;
    let section = FetchItem::Section { peek: true, section: url.section.clone(), partial: url.partial };
    let (set, items) = (MessageSet::Set(set), vec![section]);
    let fetch = Fetch { uid: true, set, items, changed_since: None, vanished: false, partial: None };
    guest.ask(enabled, printed(&tag, Command::Fetch(fetch))?);
    let mut is_there = false;
    loop {
        match heard(&mut guest).await? {
            Passed::Text { octets, .. } => {
                let announced = guest.literal_left();
                let room = user.services.config.message_octets_max.saturating_sub(spool.size());
                if announced.is_some_and(|announced| announced > room) {
                    return Err(too_big().into());
                }
                // What is there and empty may come without a literal.
                is_there |= announced.is_some() || octets.ends_with(b" \"\")\r\n");
            }
            Passed::Literal(octets) => spool.push(&octets)?,
            Passed::Status { status, .. } => match (status.tag.is_some(), status.code, status.condition) {
                (false, _, Condition::Bye) => return Err(not_reached().into()),
                (false, ..) => {}
                (true, _, Condition::Ok) => return Ok(is_there),
                (true, code, _) => return unless_unavailable(code),
            },
            _ => return Err(not_reached().into()),
        }
    }
}

/// What a mailbox's home refuses is not there, unless it cannot say.
fn unless_unavailable(code: Option<Code>) -> Result<bool, Failure> {
    match code {
        Some(Code::Unavailable | Code::ServerBug) => Err(not_reached().into()),
        _ => Ok(false),
    }
}

/// What a guest says next. One that is lost, or goes elsewhere, has nothing.
async fn heard(guest: &mut Guest) -> Result<Passed, Failure> {
    guest.next().await.map_err(|_| not_reached().into())
}

/// Whether a URL means this server and, if it names one, this user.
fn is_here(user: &User, server: &UrlServer) -> bool {
    let name = |named: &String| *named == user.name.as_str() || *named == user.name.local();
    server.host.eq_ignore_ascii_case(&user.services.hostname) && server.user.as_ref().is_none_or(name)
}

/// The message of a URL, as it is now.
async fn find(
    user: &User,
    current: Current<'_>,
    url: &MessageUrl,
) -> Result<Option<(Account, Message)>, Failure> {
    let mailbox = match (&url.mailbox, current) {
        (Some(name), _) => {
            let address = user.names.address_of_text(name)?;
            let Found { account, id, rights, .. } = user.find_address(address).await?;
            if !rights.contains(Rights::READ) {
                return Ok(None);
            }
            account.open(id).await?
        }
        (None, Current::Here(selected)) if selected.rights(user).contains(Rights::READ) => {
            selected.mailbox.clone()
        }
        (None, _) => return Ok(None),
    };
    let state = mailbox.now();
    if !mailbox.exists() || url.uid_validity.is_some_and(|wanted| wanted != state.settings.uid_validity) {
        return Ok(None);
    }
    let messages = state.messages.clone().unwrap_or_default();
    Ok(messages.message(url.uid)?.map(|message| (mailbox.account().clone(), message)))
}
