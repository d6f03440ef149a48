//! What stands before a message's octets in APPEND, up to the announcement of its literal.

use super::command::flag;
use super::scan::{Fault, Parsed, Scanner, is_atom_char};
use crate::imap::command::AppendMessage;
use crate::imap::types::{LiteralKind, Tag, WireName};

/// A command's beginning, read while a literal's octets are still to come.
pub(crate) enum Head {
    /// Not an APPEND, or the literal is its mailbox's name: an ordinary literal.
    Ordinary,
    /// The literal is a message.
    Message(Tag, WireName, AppendMessage),
    /// An APPEND that is malformed.
    Bad(Fault),
}

/// Reads a frame that ends with `{n}` and its line end cut off.
///
/// ```abnf
/// append = "APPEND" SP mailbox 1*append-message
/// ```
pub(crate) fn head(frame: &[u8]) -> Head {
    let mut s = Scanner::new(frame, 1);
    let Some(tag) = Tag::new(s.run(|b| b != b' ')) else { return Head::Ordinary };
    if !s.take_word(" APPEND ") {
        return Head::Ordinary;
    }
    if is_announcement_alone(s.rest()) {
        return Head::Ordinary;
    }
    let parsed = s.mailbox().and_then(|mailbox| Ok((mailbox, message(&mut s)?)));
    match parsed {
        Ok((mailbox, message)) => Head::Message(tag, mailbox, message),
        Err(fault) => Head::Bad(fault),
    }
}

/// Whether nothing but `{n}` is left: the mailbox's name comes as a literal.
fn is_announcement_alone(rest: &[u8]) -> bool {
    rest.first() == Some(&b'{') && !rest.contains(&b'\n')
}

/// One message's parameters, from the space before them to the announcement, where the frame must end.
///
/// ```abnf
/// append-message = SP [flag-list SP] [date-time SP] append-data
/// append-data    = literal / literal8 / "UTF8" SP "(" literal8 ")"
/// ```
pub(crate) fn message(s: &mut Scanner<'_>) -> Parsed<AppendMessage> {
    s.sp()?;
    let mut flags = Vec::new();
    if s.peek() == Some(b'(') {
        flags = s.list(flag)?.into_iter().flatten().collect();
        s.sp()?;
    }
    let mut date = None;
    if s.peek() == Some(b'"') {
        date = Some(s.date_time()?);
        s.sp()?;
    }
    let utf8 = s.take_word("UTF8 (");
    if !utf8 && s.peek().is_some_and(is_atom_char) && s.peek() != Some(b'~') {
        return Err(Fault("Unknown form of APPEND data"));
    }
    let binary = s.take(b'~');
    s.expect(b'{', "APPEND must end with a literal")?;
    let octets = s.number64()?;
    let synchronising = !s.take(b'+');
    s.expect(b'}', "Malformed literal")?;
    if !s.is_done() || (utf8 && !binary) {
        return Err(Fault("Malformed APPEND"));
    }
    Ok(AppendMessage { flags, date, octets, literal: LiteralKind { synchronising, binary }, utf8 })
}
