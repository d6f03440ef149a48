//! APPEND and REPLACE around their messages' octets: what stands before a literal with a message or a part of
//! one, and what stands behind it.

use super::command::flag;
use super::scan::{Fault, Parsed, Scanner, is_atom_char};
use crate::imap::command::{AppendLiteral, AppendMessage, AppendSource, Replaced};
use crate::imap::types::{LiteralKind, Tag, WireName};
use bytes::Bytes;

/// A command's beginning, or a whole command without a message's octets.
pub(crate) enum Head {
    /// Not APPEND or REPLACE, or the literal to come is an argument: an ordinary command.
    Ordinary,
    /// As far as the first literal of a message.
    Append { tag: Tag, replaced: Option<Replaced>, mailbox: WireName, items: Vec<Item> },
    /// One of them, and malformed.
    Bad(Fault),
}

/// What a command says of its messages, piece by piece. A literal is always the last piece of a frame.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Item {
    /// A message begins; its literal follows, or its parts do.
    Message(AppendMessage),
    /// `URL` of CATENATE.
    Url(Bytes),
    /// `TEXT` or `UTF8` of CATENATE, whose octets follow.
    Text(AppendLiteral),
    /// A message is whole.
    End { more: bool },
}

/// Why the reading of a frame ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reached {
    /// A message's octets come next.
    Literal,
    /// The literal that comes next is an argument; the frame goes on behind it.
    Argument,
    /// The end of the command.
    End,
}

/// Where in the grammar octets stand that follow a message's literal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Behind {
    /// A part of CATENATE, else a message.
    pub(crate) part: bool,
    /// It stands in `UTF8 (`.
    pub(crate) utf8: bool,
}

/// Reads a frame from its first octet. `announced`: it ends with `{n}` and its line end cut off, and the
/// literal is still to come; else it is a whole command.
///
/// ```abnf
/// append  = "APPEND" SP mailbox 1*append-message
/// replace = ["UID" SP] "REPLACE" SP seq-number SP mailbox append-message
/// ```
pub(crate) fn head(frame: &[u8], announced: bool) -> Head {
    let mut s = Scanner::new(frame, 1);
    let Some(tag) = Tag::new(s.run(|b| b != b' ')) else { return Head::Ordinary };
    let uid = s.take_word(" UID REPLACE ");
    let replaced = match uid || s.take_word(" REPLACE ") {
        true => match s.set_end().and_then(|message| s.sp().map(|()| Replaced { uid, message })) {
            Ok(replaced) => Some(replaced),
            Err(fault) => return Head::Bad(fault),
        },
        false if s.take_word(" APPEND ") => None,
        false => return Head::Ordinary,
    };
    if announced && is_announcement_alone(s.rest()) {
        return Head::Ordinary;
    }
    let parsed = s.mailbox().and_then(|mailbox| {
        let mut reader = Reader { s, announced, single: replaced.is_some(), items: Vec::new() };
        let reached = reader.read(At::Message)?;
        Ok((mailbox, reader.items, reached))
    });
    match parsed {
        Ok((_, _, Reached::Argument)) => Head::Ordinary,
        Ok((mailbox, items, _)) => Head::Append { tag, replaced, mailbox, items },
        Err(fault) => Head::Bad(fault),
    }
}

/// Reads what follows a message's literal. `single`: no further message may follow, as in REPLACE.
pub(crate) fn tail(
    frame: &[u8],
    announced: bool,
    behind: Behind,
    single: bool,
) -> Parsed<(Vec<Item>, Reached)> {
    let mut s = Scanner::new(frame, 1);
    if behind.utf8 {
        s.expect(b')', "Missing )")?;
    }
    let mut reader = Reader { s, announced, single, items: Vec::new() };
    let at = if behind.part { At::BehindPart } else { At::BehindMessage };
    let reached = reader.read(at)?;
    Ok((reader.items, reached))
}

/// Whether nothing but `{n}` is left: an argument comes as a literal.
fn is_announcement_alone(rest: &[u8]) -> bool {
    rest.first() == Some(&b'{') && !rest.contains(&b'\n')
}

/// Places in the grammar.
enum At {
    Message,
    Part,
    BehindPart,
    BehindMessage,
}

struct Reader<'a> {
    s: Scanner<'a>,
    announced: bool,
    single: bool,
    items: Vec<Item>,
}

impl Reader<'_> {
    /// ```abnf
    /// append-data = literal / literal8 / "UTF8" SP "(" literal8 ")" / "CATENATE" SP "(" cat-part *(SP cat-part) ")"
    /// cat-part    = "TEXT" SP literal / "URL" SP astring / "UTF8" SP "(" literal8 ")"
    /// ```
    fn read(&mut self, mut at: At) -> Parsed<Reached> {
        loop {
            at = match at {
                At::Message => {
                    let message = message(&mut self.s)?;
                    let source = message.source;
                    self.items.push(Item::Message(message));
                    match source {
                        AppendSource::Literal(_) => return Ok(Reached::Literal),
                        AppendSource::Catenate => At::Part,
                    }
                }
                At::Part if self.s.take_word("URL ") => {
                    if self.announced && is_announcement_alone(self.s.rest()) {
                        return Ok(Reached::Argument);
                    }
                    self.items.push(Item::Url(self.s.astring()?));
                    At::BehindPart
                }
                At::Part => {
                    let utf8 = self.s.take_word("UTF8 (");
                    if !utf8 && !self.s.take_word("TEXT ") {
                        return Err(Fault("Unknown part of CATENATE"));
                    }
                    self.items.push(Item::Text(literal(&mut self.s, utf8)?));
                    return Ok(Reached::Literal);
                }
                At::BehindPart if self.s.take(b')') => At::BehindMessage,
                At::BehindPart => {
                    self.s.sp()?;
                    At::Part
                }
                At::BehindMessage if self.s.rest().iter().all(|b| *b == b' ') => {
                    self.items.push(Item::End { more: false });
                    return Ok(Reached::End);
                }
                At::BehindMessage if self.single => return Err(Fault("REPLACE takes one message")),
                At::BehindMessage => {
                    self.items.push(Item::End { more: true });
                    At::Message
                }
            }
        }
    }
}

/// One message's parameters, from the space before them to its literal's announcement or into CATENATE's list.
///
/// ```abnf
/// append-message = SP [flag-list SP] [date-time SP] append-data
/// ```
fn message(s: &mut Scanner<'_>) -> Parsed<AppendMessage> {
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
    if s.take_word("CATENATE (") {
        return Ok(AppendMessage { flags, date, source: AppendSource::Catenate });
    }
    let utf8 = s.take_word("UTF8 (");
    if !utf8 && s.peek().is_some_and(is_atom_char) && s.peek() != Some(b'~') {
        return Err(Fault("Unknown form of APPEND data"));
    }
    Ok(AppendMessage { flags, date, source: AppendSource::Literal(literal(s, utf8)?) })
}

/// The announcement of octets, with which the frame must end.
fn literal(s: &mut Scanner<'_>, utf8: bool) -> Parsed<AppendLiteral> {
    let binary = s.take(b'~');
    s.expect(b'{', "APPEND must end with a literal")?;
    let octets = s.number64()?;
    let synchronising = !s.take(b'+');
    s.expect(b'}', "Malformed literal")?;
    if !s.is_done() || (utf8 && !binary) {
        return Err(Fault("Malformed APPEND"));
    }
    Ok(AppendLiteral { octets, kind: LiteralKind { synchronising, binary }, utf8 })
}
