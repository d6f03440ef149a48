//! The parts of a message that CATENATE takes from other messages (RFC 4469 §3).
//!
//! Invariants:
//! - A part goes to the spool in pieces; no message is whole in memory.
//! - Only what the user may read here is taken: a URL of another server or of another user is a bad URL, as is one
//!   of a mailbox that the user may not look up, or that is at another home.
//! - \Seen is left alone.

use super::append::too_big;
use crate::answer::{Answer, Failure, blocking};
use crate::fetch::{Content, Data, cut};
use crate::guest::not_reached;
use crate::names::Found;
use crate::session::{Selected, User};
use bytes::Bytes;
use rookery_codec::imap::Code;
use rookery_codec::imap::url::{MessageUrl, UrlServer};
use rookery_store::{Account, Message, Spool};
use rookery_types::Rights;
use std::ops::Range;

/// Octets that are read at once.
const PIECE_OCTETS: u64 = 256 << 10;

/// Adds what a URL names to a message.
pub(super) async fn take(
    user: &User,
    selected: Option<&Selected>,
    url: &Bytes,
    spool: &mut Spool,
) -> Result<(), Failure> {
    let bad = |text| Failure::from(Answer::no(Code::BadUrl(url.clone()), text));
    let parsed = MessageUrl::parse(url).ok_or_else(|| bad("That is no URL of a message"))?;
    if parsed.server.as_ref().is_some_and(|server| !is_here(user, server)) {
        return Err(bad("Only messages of your own session can be taken"));
    }
    let (account, message) = match find(user, selected, &parsed).await {
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

/// Whether a URL means this server and, if it names one, this user.
fn is_here(user: &User, server: &UrlServer) -> bool {
    let name = |named: &String| *named == user.name.as_str() || *named == user.name.local();
    server.host.eq_ignore_ascii_case(&user.services.hostname) && server.user.as_ref().is_none_or(name)
}

/// The message of a URL, as it is now.
async fn find(
    user: &User,
    selected: Option<&Selected>,
    url: &MessageUrl,
) -> Result<Option<(Account, Message)>, Failure> {
    let mailbox = match (&url.mailbox, selected) {
        (Some(name), _) => {
            let address = user.names.address_of_text(name)?;
            if user.home_of(address.account()).await?.is_some() {
                return Ok(None);
            }
            let Found { account, id, rights, .. } = user.find_address(address).await?;
            if !rights.contains(Rights::READ) {
                return Ok(None);
            }
            account.open(id).await?
        }
        (None, Some(selected)) if selected.rights(user).contains(Rights::READ) => selected.mailbox.clone(),
        (None, _) => return Ok(None),
    };
    let state = mailbox.now();
    if !mailbox.exists() || url.uid_validity.is_some_and(|wanted| wanted != state.settings.uid_validity) {
        return Ok(None);
    }
    let messages = state.messages.clone().unwrap_or_default();
    Ok(messages.message(url.uid)?.map(|message| (mailbox.account().clone(), message)))
}
