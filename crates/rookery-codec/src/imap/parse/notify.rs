//! NOTIFY (RFC 5465 §8).

use super::fetch::fetch_item;
use super::scan::{Fault, Parsed, Scanner};
use crate::imap::command::{Command, Event, EventGroup, MailboxFilter, Notify};
use crate::imap::types::WireName;

/// ```abnf
/// notify       = "NOTIFY" SP (notify-set / notify-none)
/// notify-set   = "SET" [SP "STATUS"] SP event-groups
/// event-groups = event-group *(SP event-group)
/// ```
pub(crate) fn notify(s: &mut Scanner<'_>) -> Parsed<Command> {
    match &*s.atom_upper()? {
        "NONE" => return Ok(Command::Notify(Notify::None)),
        "SET" => {}
        _ => return Err(Fault("NOTIFY is SET or NONE")),
    }
    let status = s.take_word(" STATUS");
    s.sp()?;
    let mut groups = vec![group(s)?];
    while s.take_word(" (") {
        groups.push(group_to_close(s)?);
    }
    Ok(Command::Notify(Notify::Set { status, groups }))
}

/// ```abnf
/// event-group = "(" filter-mailboxes SP events ")"
/// ```
fn group(s: &mut Scanner<'_>) -> Parsed<EventGroup> {
    s.expect(b'(', "Missing (")?;
    group_to_close(s)
}

fn group_to_close(s: &mut Scanner<'_>) -> Parsed<EventGroup> {
    let filter = match &*s.atom_upper()? {
        "SELECTED" => MailboxFilter::Selected,
        "SELECTED-DELAYED" => MailboxFilter::SelectedDelayed,
        "INBOXES" => MailboxFilter::Inboxes,
        "PERSONAL" => MailboxFilter::Personal,
        "SUBSCRIBED" => MailboxFilter::Subscribed,
        "SUBTREE" => MailboxFilter::Subtree(mailboxes(s)?),
        "MAILBOXES" => MailboxFilter::Mailboxes(mailboxes(s)?),
        _ => return Err(Fault("Unknown mailbox specifier")),
    };
    s.sp()?;
    // The RFC's own examples leave the parentheses of a single event out.
    let events = match s.peek() {
        Some(b'(') => s.list1(event)?,
        _ => match event(s)? {
            Event::Other(name) if name.eq_ignore_ascii_case("NONE") => Vec::new(),
            event => vec![event],
        },
    };
    s.expect(b')', "Missing )")?;
    Ok(EventGroup { filter, events })
}

/// ```abnf
/// one-or-more-mailbox = mailbox / many-mailboxes
/// ```
fn mailboxes(s: &mut Scanner<'_>) -> Parsed<Vec<WireName>> {
    s.sp()?;
    match s.peek() {
        Some(b'(') => s.list1(Scanner::mailbox),
        _ => Ok(vec![s.mailbox()?]),
    }
}

/// ```abnf
/// event         = message-event / mailbox-event / user-event / event-ext
/// message-event = ("MessageNew" [SP "(" fetch-att *(SP fetch-att) ")"]) / "MessageExpunge" / "FlagChange" /
///                 "AnnotationChange"
/// ```
fn event(s: &mut Scanner<'_>) -> Parsed<Event> {
    let name = s.atom()?;
    let mut known = Event::NAMES.into_iter();
    let known = known.find(|(_, one)| one.as_bytes().eq_ignore_ascii_case(name)).map(|(event, _)| event);
    Ok(match known {
        Some(Event::MessageNew(_)) if s.rest().starts_with(b" (") => {
            s.sp()?;
            Event::MessageNew(s.list1(fetch_item)?)
        }
        Some(event) => event,
        None => Event::Other(super::scan::ascii(name)),
    })
}
