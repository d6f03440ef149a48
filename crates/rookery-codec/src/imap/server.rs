//! A server's side of the wire: octets of one client in, commands out.
//!
//! Invariants:
//! - Framing first (lines, and literals by their announced length), parsing second: after a bad command the
//!   stream is in step, and the next command is read as if nothing had been.
//! - What is buffered never exceeds [`Limits::command_octets`] and what one `push` brought.
//! - `+` is asked for ([`Decoded::Continue`]) only when the literal will be taken.
//! - How the input was cut changes only how [`Decoded::AppendData`] is cut.
//! - APPEND and REPLACE are told piece by piece, so that no message and no list of parts is held whole.

use super::command::{AppendLiteral, AppendMessage, AppendSource, Replaced, Tagged};
use super::framing::{Announcement, TAIL_OCTETS, announcement, without_line_end};
use super::parse;
use super::parse::append::{Behind, Head, Item, Reached};
use super::response::{Code, Condition, Response, Status};
use super::types::{Tag, WireName};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;

/// The largest `{n+}` under LITERAL- (RFC 7888 §5).
const LITERAL_MINUS_OCTETS_MAX: u64 = 4096;
/// The longest line that is dropped in order to stay in step.
const DROPPED_LINE_OCTETS_MAX: usize = 1 << 20;

/// What one client may send. Sizes in octets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// A command with all its literals, but for messages of APPEND.
    pub command_octets: usize,
    /// One message of APPEND.
    pub append_octets: u64,
    /// Parentheses, OR and NOT within one another.
    pub depth: usize,
    /// LITERAL- instead of LITERAL+: `{n+}` only to 4096 octets (RFC 7888 §5).
    pub literal_minus: bool,
}

impl Limits {
    /// Before a login.
    pub const BEFORE_LOGIN: Limits =
        Limits { command_octets: 8 << 10, append_octets: 0, depth: 50, literal_minus: false };
    /// After it.
    pub const LOGGED_IN: Limits =
        Limits { command_octets: 64 << 10, append_octets: 64 << 20, depth: 50, literal_minus: false };
}

/// What came out of the octets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decoded {
    /// Nothing whole yet. Asking again without a push gives the same answer.
    NeedMore,
    /// One whole command; its octets are gone from the decoder.
    Command(Tagged),
    /// A command that cannot be: answer it; the next one is read as usual. During an APPEND it ends the
    /// APPEND, nothing of which may be kept.
    Bad(Bad),
    /// A synchronising literal was announced and will be taken: send `+` at once (RFC 9051 §4.3).
    Continue,
    /// The first or a further message of an APPEND is announced, or that of a REPLACE. If its octets follow
    /// ([`AppendSource::Literal`]), [`Decoder::accept_append`] or [`Decoder::refuse_append`] must be called
    /// before anything else comes out; if it is made of parts, they come one by one.
    AppendStart {
        /// Of the command; the same for all its messages.
        tag: Tag,
        /// Of REPLACE: the message that goes.
        replaced: Option<Replaced>,
        /// Where to; the same for all its messages.
        mailbox: WireName,
        /// What is said of this one.
        message: AppendMessage,
    },
    /// The message's next part is what this URL names. [`Decoder::refuse_append`] may be called.
    AppendUrl(Bytes),
    /// The message's next part is announced. [`Decoder::accept_append`] or [`Decoder::refuse_append`] must be
    /// called before anything else comes out.
    AppendText(AppendLiteral),
    /// The next octets of the accepted message or part; never empty.
    AppendData(Bytes),
    /// All octets of the message have come.
    AppendEnd {
        /// A further [`Decoded::AppendStart`] (or [`Decoded::Bad`]) of the same command follows. Else the
        /// command is whole, and is to be answered.
        more: bool,
    },
    /// The line asked for with [`Decoder::expect_line`], without its end.
    Line(Bytes),
    /// The stream cannot be kept in step: answer BYE and close. Nothing else will come out.
    Fatal {
        /// For the client.
        text: &'static str,
    },
}

/// Why a command cannot be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bad {
    /// `None`: not even that could be read.
    pub tag: Option<Tag>,
    /// BAD, or NO for what is well written and too big.
    pub condition: Condition,
    /// `[TOOBIG]`, `[LIMIT]`
    pub code: Option<Code>,
    /// For the client.
    pub text: &'static str,
}

impl Bad {
    /// The answer to the client.
    pub fn into_response(self) -> Response {
        Response::Status(Status {
            tag: self.tag,
            condition: self.condition,
            code: self.code,
            text: self.text.into(),
        })
    }
}

/// The decoder's place in the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Within or before a command.
    Command,
    /// The next line is data.
    Line { octets_max: usize },
    /// The caller has to say whether it takes the message.
    Announced { message: Body, synchronising: bool },
    /// The caller takes the message, and the client has to be told.
    Accepted(Body),
    /// A message's octets are coming.
    Body(Body),
    /// Behind a message or a part of one: the end of the command, or more of it.
    AfterBody(Behind),
    /// What was read of an APPEND is told piece by piece.
    Items,
    /// A literal nobody wants: so many octets are to be dropped, then the rest of its line.
    DropLiteral { left: u64 },
    /// The rest of a command nobody wants; so many octets of it were dropped.
    DropLine { dropped: usize },
    /// Nothing more will come out.
    Dead,
}

/// A message whose octets are to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Body {
    left: u64,
    binary: bool,
    behind: Behind,
}

/// The APPEND or REPLACE under way.
#[derive(Debug)]
struct Append {
    tag: Tag,
    replaced: Option<Replaced>,
    mailbox: WireName,
    /// Read already, to be told.
    items: VecDeque<Item>,
}

impl Append {
    /// The literal that was announced behind all that is to be told.
    fn announced(&self) -> Option<AppendLiteral> {
        match self.items.back()? {
            Item::Text(literal) => Some(*literal),
            Item::Message(AppendMessage { source: AppendSource::Literal(literal), .. }) => Some(*literal),
            _ => None,
        }
    }
}

/// Octets of one client in, commands out. Owns no socket, no clock, no task.
#[derive(Debug)]
pub struct Decoder {
    input: BytesMut,
    limits: Limits,
    state: State,
    /// Where the line that is being looked for began in `input`.
    line_start: usize,
    /// No line end was found before this place; may lie beyond `input` while a literal is to come.
    scanned: usize,
    append: Option<Append>,
    /// The client was told to send the rest of the command that `input` begins with.
    continued: bool,
}

impl Decoder {
    /// At the start of a connection.
    pub fn new(limits: Limits) -> Decoder {
        Decoder {
            input: BytesMut::new(),
            limits,
            state: State::Command,
            line_start: 0,
            scanned: 0,
            append: None,
            continued: false,
        }
    }

    /// Other limits from the next command on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Takes octets that the client sent.
    pub fn push(&mut self, octets: &[u8]) {
        self.input.extend_from_slice(octets);
    }

    /// Where a reader may append octets itself, to save a copy. Only append.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// What comes next. Call until [`Decoded::NeedMore`], acting on each before the next call.
    #[expect(clippy::should_implement_trait, reason = "an iterator would end at NeedMore; this goes on")]
    pub fn next(&mut self) -> Decoded {
        loop {
            let decoded = match self.state {
                State::Command => self.command(),
                State::Line { octets_max } => self.data_line(octets_max),
                State::Announced { .. } => Some(Decoded::NeedMore),
                State::Accepted(body) => {
                    self.state = State::Body(body);
                    Some(Decoded::Continue)
                }
                State::Body(body) => self.body(body),
                State::AfterBody(behind) => self.after_body(behind),
                State::Items => self.item(),
                State::DropLiteral { left } => self.drop_literal(left),
                State::DropLine { dropped } => self.drop_line(dropped),
                State::Dead => {
                    self.input.clear();
                    Some(Decoded::NeedMore)
                }
            };
            if let Some(decoded) = decoded {
                return decoded;
            }
        }
    }

    /// The next input is a line that is no command: a client's part of AUTHENTICATE, or DONE. A line longer
    /// than `octets_max` is fatal. Call it after [`Decoded::Command`] or [`Decoded::Line`], before the next
    /// call of `next`.
    pub fn expect_line(&mut self, octets_max: usize) {
        if self.state == State::Command {
            self.state = State::Line { octets_max };
        }
    }

    /// Takes the octets announced by [`Decoded::AppendStart`] or [`Decoded::AppendText`].
    /// [`Decoded::Continue`] comes next if the client waits for it.
    pub fn accept_append(&mut self) {
        if let State::Announced { message, synchronising } = self.state {
            self.state = if synchronising { State::Accepted(message) } else { State::Body(message) };
        }
    }

    /// Will not take it: the caller answers the command now, and it is over. Octets that the client sends
    /// without waiting are dropped as they come.
    pub fn refuse_append(&mut self) {
        match self.state {
            State::Announced { message, synchronising } => self.give_up_literal(message.left, synchronising),
            State::Items => match self.append.as_ref().and_then(Append::announced) {
                Some(literal) => self.give_up_literal(literal.octets, literal.kind.synchronising),
                None => {
                    self.append = None;
                    self.state = State::Command;
                }
            },
            _ => {}
        }
    }

    /// Takes the octets out that no call of `next` has used: after STARTTLS they must be thrown away
    /// (RFC 9051 §6.2.1), and after COMPRESS they are compressed already.
    pub fn take_input(&mut self) -> BytesMut {
        self.line_start = 0;
        self.scanned = 0;
        self.input.split()
    }

    /// How many octets have come that no call of `next` has used.
    pub fn unused(&self) -> usize {
        self.input.len()
    }

    /// Whether nothing of a command has come yet: between commands and with nothing waiting.
    pub fn is_idle(&self) -> bool {
        self.state == State::Command && self.input.is_empty()
    }

    /// Whether another decoder could go on in place of this one, given [`Decoder::take_input`]: no command has begun to
    /// come out, and the client waits for nothing that was said about its command.
    pub fn is_between(&self) -> bool {
        self.state == State::Command && !self.continued
    }

    /// The end of the line that begins at `line_start`, line end included.
    fn line_end(&mut self) -> Option<usize> {
        let unseen = self.input.get(self.scanned..)?;
        match memchr::memchr(b'\n', unseen) {
            Some(at) => Some(self.scanned + at + 1),
            None => {
                self.scanned = self.input.len();
                None
            }
        }
    }

    /// Forgets the octets before `end`; a new line begins there.
    fn consume(&mut self, end: usize) {
        self.input.advance(end.min(self.input.len()));
        self.line_start = 0;
        self.scanned = 0;
        self.continued = false;
    }

    fn fatal(&mut self, text: &'static str) -> Option<Decoded> {
        self.input.clear();
        self.state = State::Dead;
        Some(Decoded::Fatal { text })
    }

    /// Leaves a literal and the command it stands in. A client that waits for `+` sends no more of it.
    fn give_up_literal(&mut self, octets: u64, synchronising: bool) {
        self.append = None;
        self.state = if synchronising { State::Command } else { State::DropLiteral { left: octets } };
    }

    /// One step of framing a command.
    fn command(&mut self) -> Option<Decoded> {
        let Some(end) = self.line_end() else {
            if self.scanned > self.limits.command_octets {
                return self.too_long();
            }
            return Some(Decoded::NeedMore);
        };
        if end > self.limits.command_octets {
            return self.too_long();
        }
        let line = without_line_end(self.input.get(self.line_start..end).unwrap_or(&[]));
        let frame = self.line_start + line.len();
        match announcement(line) {
            Some(literal) => self.literal(frame, end, literal),
            None => {
                let whole = self.input.get(..frame)?;
                let decoded = match parse::append::head(whole, false) {
                    Head::Ordinary => match parse::command::command(whole, self.limits.depth) {
                        Ok(tagged) => Decoded::Command(tagged),
                        Err(bad) => Decoded::Bad(bad),
                    },
                    Head::Bad(fault) => self.bad(Condition::Bad, None, fault.0),
                    Head::Append { tag, replaced, mailbox, items } => {
                        self.consume(end);
                        self.begin(tag, replaced, mailbox, items);
                        return None;
                    }
                };
                self.consume(end);
                Some(decoded)
            }
        }
    }

    /// An APPEND or REPLACE was read as far as its first literal, or to its end.
    fn begin(&mut self, tag: Tag, replaced: Option<Replaced>, mailbox: WireName, items: Vec<Item>) {
        self.append = Some(Append { tag, replaced, mailbox, items: items.into() });
        self.state = State::Items;
    }

    /// A command's line beyond the limit: it is answered, and dropped to its end.
    fn too_long(&mut self) -> Option<Decoded> {
        let bad = self.bad(Condition::Bad, Some(Code::TooBig), "Command line too long");
        self.consume(self.line_start);
        self.state = State::DropLine { dropped: 0 };
        Some(bad)
    }

    /// A refusal of the command that `input` begins with.
    fn bad(&self, condition: Condition, code: Option<Code>, text: &'static str) -> Decoded {
        // No more than is there however the input was cut.
        let start = self.input.len().min(self.limits.command_octets).min(Tag::OCTETS_MAX + 1);
        let start = self.input.get(..start).unwrap_or(&[]);
        let tag = memchr::memchr(b' ', start).and_then(|at| Tag::new(start.get(..at)?));
        Decoded::Bad(Bad { tag, condition, code, text })
    }

    /// A literal's announcement, which ends the octets before `frame`; its line ends before `end`.
    fn literal(&mut self, frame: usize, end: usize, literal: Announcement) -> Option<Decoded> {
        let refuse = |this: &mut Decoder, octets: u64, bad: Decoded| {
            this.consume(end);
            this.give_up_literal(octets, literal.synchronising);
            Some(bad)
        };
        let Some(octets) = literal.octets else {
            if !literal.synchronising {
                return self.fatal("Literal too large");
            }
            let bad = self.bad(Condition::Bad, Some(Code::TooBig), "Literal too large");
            return refuse(self, 0, bad);
        };
        if !literal.well_placed {
            let bad = self.bad(Condition::Bad, None, "Misplaced literal");
            return refuse(self, octets, bad);
        }
        if self.limits.literal_minus && !literal.synchronising && octets > LITERAL_MINUS_OCTETS_MAX {
            let bad = self.bad(Condition::Bad, Some(Code::TooBig), "Literal too large for LITERAL-");
            return refuse(self, octets, bad);
        }
        match parse::append::head(self.input.get(..frame)?, true) {
            Head::Ordinary => {}
            Head::Bad(fault) => {
                let bad = self.bad(Condition::Bad, None, fault.0);
                return refuse(self, octets, bad);
            }
            Head::Append { tag, replaced, mailbox, items } => {
                self.consume(end);
                self.begin(tag, replaced, mailbox, items);
                return None;
            }
        }
        let room = self.limits.command_octets.saturating_sub(end);
        let Some(octets) = usize::try_from(octets).ok().filter(|n| *n < room) else {
            let bad = self.bad(Condition::Bad, Some(Code::TooBig), "Literal too large");
            return refuse(self, octets, bad);
        };
        self.line_start = end + octets;
        self.scanned = self.line_start;
        self.continued |= literal.synchronising;
        literal.synchronising.then_some(Decoded::Continue)
    }

    /// The next piece of what was read of an APPEND.
    fn item(&mut self) -> Option<Decoded> {
        let Some((append, item)) =
            self.append.as_mut().and_then(|append| append.items.pop_front().map(|item| (append, item)))
        else {
            self.append = None;
            self.state = State::Command;
            return None;
        };
        let Append { tag, replaced, mailbox, .. } = append;
        match item {
            Item::Message(message) => {
                let source = message.source;
                let start = Decoded::AppendStart {
                    tag: tag.clone(),
                    replaced: *replaced,
                    mailbox: mailbox.clone(),
                    message,
                };
                match source {
                    AppendSource::Literal(literal) => Some(self.announce(literal, false, start)),
                    AppendSource::Catenate => Some(start),
                }
            }
            Item::Url(url) => Some(Decoded::AppendUrl(url)),
            Item::Text(literal) => Some(self.announce(literal, true, Decoded::AppendText(literal))),
            Item::End { more } => {
                if !more {
                    self.append = None;
                    self.state = State::Command;
                }
                Some(Decoded::AppendEnd { more })
            }
        }
    }

    /// Octets of a message are announced: the caller's turn, unless they are too many.
    fn announce(&mut self, literal: AppendLiteral, part: bool, decoded: Decoded) -> Decoded {
        let AppendLiteral { octets, kind, utf8 } = literal;
        let limits = self.limits;
        let refusal = match limits.append_octets {
            0 => Some((Condition::Bad, None, "APPEND is not allowed now")),
            max if octets > max => Some((Condition::No, Some(Code::TooBig), "Message too large")),
            _ if limits.literal_minus && !kind.synchronising && octets > LITERAL_MINUS_OCTETS_MAX => {
                Some((Condition::Bad, Some(Code::TooBig), "Literal too large for LITERAL-"))
            }
            _ => None,
        };
        if let Some((condition, code, text)) = refusal {
            let tag = self.append.take().map(|append| append.tag);
            self.give_up_literal(octets, kind.synchronising);
            return Decoded::Bad(Bad { tag, condition, code, text });
        }
        let message = Body { left: octets, binary: kind.binary, behind: Behind { part, utf8 } };
        self.state = State::Announced { message, synchronising: kind.synchronising };
        decoded
    }

    /// A message's octets.
    fn body(&mut self, body: Body) -> Option<Decoded> {
        if body.left == 0 {
            self.state = State::AfterBody(body.behind);
            return None;
        }
        if self.input.is_empty() {
            return Some(Decoded::NeedMore);
        }
        let here = usize::try_from(body.left).unwrap_or(usize::MAX).min(self.input.len());
        let nul = if body.binary { None } else { memchr::memchr(0, self.input.get(..here)?) };
        if nul == Some(0) {
            // Only literal8 may hold NUL (RFC 9051 §9, RFC 3516 §4.4).
            let tag = self.append.take().map(|append| append.tag);
            self.state = State::DropLiteral { left: body.left };
            let text = "Message holds NUL";
            return Some(Decoded::Bad(Bad { tag, condition: Condition::No, code: None, text }));
        }
        let octets = self.input.split_to(nul.unwrap_or(here)).freeze();
        self.state = State::Body(Body { left: body.left - octets.len() as u64, ..body });
        Some(Decoded::AppendData(octets))
    }

    /// What stands behind a message's octets.
    ///
    /// ```abnf
    /// append = "APPEND" SP mailbox 1*append-message CRLF
    /// ```
    fn after_body(&mut self, behind: Behind) -> Option<Decoded> {
        let end = self.line_end();
        if end.unwrap_or(self.scanned) > self.limits.command_octets {
            let tag = self.append.take().map(|append| append.tag);
            self.consume(self.line_start);
            self.state = State::DropLine { dropped: 0 };
            let (code, text) = (Some(Code::TooBig), "Command line too long");
            return Some(Decoded::Bad(Bad { tag, condition: Condition::Bad, code, text }));
        }
        let Some(end) = end else { return Some(Decoded::NeedMore) };
        let line = without_line_end(self.input.get(self.line_start..end)?);
        let literal = announcement(line);
        let frame = self.input.get(..self.line_start + line.len())?;
        let single = self.append.as_ref().is_some_and(|append| append.replaced.is_some());
        let refusal = match parse::append::tail(frame, literal.is_some(), behind, single) {
            Ok((_, Reached::Argument)) => {
                let Announcement { octets, synchronising, .. } = literal?;
                let room = self.limits.command_octets.saturating_sub(end);
                match octets.and_then(|n| usize::try_from(n).ok()).filter(|n| *n < room) {
                    Some(octets) => {
                        self.line_start = end + octets;
                        self.scanned = self.line_start;
                        return synchronising.then_some(Decoded::Continue);
                    }
                    None => (Some(Code::TooBig), "Literal too large"),
                }
            }
            Ok((items, _)) => {
                self.consume(end);
                self.append.as_mut()?.items.extend(items);
                self.state = State::Items;
                return None;
            }
            Err(fault) => (None, fault.0),
        };
        let tag = self.append.take().map(|append| append.tag);
        self.consume(end);
        self.state = State::Command;
        if let Some(literal) = literal {
            let Some(octets) = literal.octets.or(literal.synchronising.then_some(0)) else {
                return self.fatal("Literal too large");
            };
            self.give_up_literal(octets, literal.synchronising);
        }
        let (code, text) = refusal;
        Some(Decoded::Bad(Bad { tag, condition: Condition::Bad, code, text }))
    }

    fn data_line(&mut self, octets_max: usize) -> Option<Decoded> {
        let end = self.line_end();
        // Two for the line end.
        if end.unwrap_or(self.scanned) > octets_max.saturating_add(2) {
            return self.fatal("Line too long");
        }
        let Some(end) = end else { return Some(Decoded::NeedMore) };
        let line = Bytes::copy_from_slice(without_line_end(self.input.get(..end)?));
        self.consume(end);
        self.state = State::Command;
        Some(Decoded::Line(line))
    }

    fn drop_literal(&mut self, left: u64) -> Option<Decoded> {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(self.input.len());
        self.consume(here);
        let left = left - here as u64;
        if left > 0 {
            self.state = State::DropLiteral { left };
            return Some(Decoded::NeedMore);
        }
        self.state = State::DropLine { dropped: 0 };
        None
    }

    /// Drops to the end of a line, keeping what may announce a further literal.
    fn drop_line(&mut self, dropped: usize) -> Option<Decoded> {
        let end = self.line_end();
        if dropped.saturating_add(end.unwrap_or(self.scanned)) > DROPPED_LINE_OCTETS_MAX {
            return self.fatal("Line too long");
        }
        let Some(end) = end else {
            let useless = self.input.len().saturating_sub(TAIL_OCTETS);
            self.consume(useless);
            self.scanned = self.input.len();
            self.state = State::DropLine { dropped: dropped + useless };
            return Some(Decoded::NeedMore);
        };
        let literal = announcement(without_line_end(self.input.get(..end)?));
        self.consume(end);
        self.state = State::Command;
        if let Some(Announcement { octets, synchronising: false, .. }) = literal {
            let Some(left) = octets else { return self.fatal("Literal too large") };
            self.state = State::DropLiteral { left };
        }
        None
    }
}
