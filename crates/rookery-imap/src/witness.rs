//! What an edge notices of a session whose home is another node: enough to go on without the home if that is lost.
//!
//! Of what the client sends it sees where commands begin and end, and by which tags they are answered; of what the home
//! says, only whether it has said something. Where the session stands the home says itself, in marks.
//!
//! Invariants:
//! - What is kept is bounded: a value, tags, and some octets of the line under way.
//! - When it is not certain what the client has heard, the session does not go on.

use crate::value::SessionValue;
use bytes::{Bytes, BytesMut};
use rookery_codec::imap::Tag;
use rookery_net::Onlooker;
use rookery_route::{Mark, Marked};
use std::collections::VecDeque;

/// Octets of a command's beginning that are kept, for its tag and its name.
const HEAD_OCTETS: usize = 96;
/// Octets of a line's end that are kept, for the announcement of a literal.
const TAIL_OCTETS: usize = 24;
/// Behind these octets are compressed, or are not any more (RFC 4978, RFC 8437 §4.1).
const HOLDING: [&[u8]; 2] = [b"COMPRESS", b"UNAUTHENTICATE"];
/// Commands that may be under way.
const COMMANDS_MAX: usize = 1000;

/// Where in the client's octets the session is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Place {
    #[default]
    Between,
    Line,
    /// So much of a literal is to come.
    Literal(u64),
}

/// Reads commands as far as is needed to know where they end.
#[derive(Clone, Default)]
struct Commands {
    place: Place,
    head: Vec<u8>,
    tail: Vec<u8>,
    /// The client waits for `+`.
    waits: bool,
    /// The tag of an IDLE that is not over.
    idling: Option<Vec<u8>>,
}

/// What has ended.
struct Ended {
    /// How many of the octets belong to it.
    octets: usize,
    tag: Vec<u8>,
    /// It may change what octets mean: those behind it are held back until it is answered.
    holds: bool,
}

impl Commands {
    /// Takes octets up to the end of a command. None: they are all of the same one.
    fn take(&mut self, octets: &[u8]) -> Option<Ended> {
        let mut at = 0;
        while let Some(rest) = octets.get(at..).filter(|rest| !rest.is_empty()) {
            if let Place::Literal(left) = self.place {
                self.waits = false;
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
                at += here;
                let left = left.saturating_sub(here as u64);
                self.place = if left == 0 { Place::Line } else { Place::Literal(left) };
                continue;
            }
            self.waits = false;
            self.place = Place::Line;
            let end = memchr::memchr(b'\n', rest);
            let line = rest.get(..end.map_or(rest.len(), |end| end + 1)).unwrap_or(rest);
            at += line.len();
            let room = HEAD_OCTETS.saturating_sub(self.head.len());
            self.head.extend_from_slice(line.get(..room).unwrap_or(line));
            self.tail.extend_from_slice(line.get(line.len().saturating_sub(TAIL_OCTETS)..).unwrap_or(line));
            self.tail.drain(..self.tail.len().saturating_sub(TAIL_OCTETS));
            if end.is_none() {
                continue;
            }
            match announced(&self.tail) {
                Some((left, waits)) => {
                    self.place = Place::Literal(left);
                    self.waits = waits;
                    self.tail.clear();
                }
                None => {
                    let (tag, holds) = self.end();
                    return Some(Ended { octets: at, tag, holds });
                }
            }
        }
        None
    }

    /// The command whose literal the client was to send was answered without that.
    fn forget(&mut self) {
        *self = Commands { idling: self.idling.take(), ..Commands::default() };
    }

    /// The command under way has ended, or is over; its tag, and whether it holds back what comes behind it.
    fn end(&mut self) -> (Vec<u8>, bool) {
        let mut words = self.head.split(|octet| octet.is_ascii_whitespace());
        let tag = words.next().unwrap_or_default().to_vec();
        let verb = words.next().unwrap_or_default();
        let idles = verb.eq_ignore_ascii_case(b"IDLE");
        let holds = HOLDING.iter().any(|holding| verb.eq_ignore_ascii_case(holding));
        (self.place, self.waits) = (Place::Between, false);
        self.head = Vec::new();
        self.tail = Vec::new();
        match self.idling.take() {
            // That was DONE.
            Some(tag) => (tag, false),
            None => {
                self.idling = idles.then(|| tag.clone());
                (tag, holds)
            }
        }
    }
}

/// The literal that a line's end announces, and whether the client waits before it.
fn announced(line: &[u8]) -> Option<(u64, bool)> {
    let line = line.strip_suffix(b"\n")?;
    let line = line.strip_suffix(b"\r").unwrap_or(line).strip_suffix(b"}")?;
    let start = line.iter().rposition(|octet| *octet == b'{')?;
    let number = line.get(start + 1..)?;
    let (number, waits) = match number.strip_suffix(b"+").or_else(|| number.strip_suffix(b"-")) {
        Some(number) => (number, false),
        None => (number, true),
    };
    let octets = std::str::from_utf8(number).ok()?.parse().ok()?;
    Some((octets, waits))
}

/// The edge's knowledge of a session.
#[derive(Default)]
pub struct Witness {
    commands: Commands,
    /// Octets that the home was sent.
    sent: u64,
    /// Commands that were sent whole and not answered: where each ends, and its tag.
    under_way: VecDeque<(u64, Vec<u8>)>,
    /// Where the command ends that holds back what comes behind it.
    held: Option<u64>,
    /// From what the session goes on.
    value: Option<Bytes>,
    /// Octets that the home has said.
    said: u64,
    /// The next mark, and after how many of these it counts.
    next: Option<(u64, Mark)>,
    /// The home has said something since the last mark that counts.
    has_spoken: bool,
    /// More is under way than is kept.
    overflown: bool,
    /// What the home was not sent, once it is lost.
    unsent: Option<BytesMut>,
}

/// A session that has lost its home.
pub(crate) struct Bereft {
    pub(crate) value: SessionValue,
    /// The commands that were not answered, in their order, but for the one under way.
    pub(crate) tags: Vec<Tag>,
    /// The command that the client is sending.
    pub(crate) broken_off: Option<BrokenOff>,
    /// What the client has sent behind that.
    pub(crate) rest: BytesMut,
}

/// A command of which a part was sent to a home that is lost.
pub(crate) struct BrokenOff(Commands);

impl BrokenOff {
    /// Passes over what belongs to it; the tag once it is over.
    pub(crate) fn skip(&mut self, octets: &mut BytesMut) -> Option<Option<Tag>> {
        if self.0.waits {
            // The client has not begun to send the literal, and is not asked for it.
            return Some(Tag::new(&self.0.end().0));
        }
        match self.0.take(octets) {
            Some(ended) => {
                drop(octets.split_to(ended.octets.min(octets.len())));
                Some(Tag::new(&ended.tag))
            }
            None => {
                octets.clear();
                self.0.waits.then(|| Tag::new(&self.0.end().0))
            }
        }
    }
}

impl Witness {
    /// How the session goes on, if it can.
    pub(crate) fn bereft(self) -> Option<Bereft> {
        let (value, rest) = (self.value?, self.unsent?);
        if self.has_spoken || self.overflown {
            return None;
        }
        let mut value = SessionValue::decode(&value).ok()?;
        // In an IDLE that began at another home DONE was taken for a command.
        let answers = |tag: &Vec<u8>| match &value.idle {
            Some(idle) if tag.eq_ignore_ascii_case(b"DONE") => Tag::new(idle.as_bytes()),
            _ => Tag::new(tag),
        };
        let tags: Option<Vec<Tag>> = self.under_way.iter().map(|(_, tag)| answers(tag)).collect();
        let tags = tags?;
        if let Some(idle) = &value.idle
            && tags.iter().any(|tag| tag.as_str() == idle)
        {
            // DONE was sent.
            value.idle = None;
        }
        let is_between = self.commands.place == Place::Between;
        let broken_off = (!is_between).then_some(BrokenOff(self.commands));
        Some(Bereft { value, tags, broken_off, rest })
    }
}

impl Onlooker for Witness {
    fn holds(&self) -> bool {
        self.held.is_some()
    }

    fn admits(&self, octets: &[u8]) -> usize {
        if self.holds() {
            return 0;
        }
        let (mut commands, mut at) = (self.commands.clone(), 0);
        while let Some(rest) = octets.get(at..).filter(|rest| !rest.is_empty() && !self.overflown) {
            let Some(ended) = commands.take(rest) else { break };
            at += ended.octets;
            if ended.holds {
                return at;
            }
        }
        octets.len()
    }

    fn inward(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() && !self.overflown {
            let Some(ended) = self.commands.take(octets) else {
                self.sent += octets.len() as u64;
                return;
            };
            self.sent += ended.octets as u64;
            self.held = ended.holds.then_some(self.sent);
            self.overflown = self.under_way.len() >= COMMANDS_MAX;
            self.under_way.push_back((self.sent, ended.tag));
            octets = octets.get(ended.octets..).unwrap_or_default();
        }
    }

    fn outward(&mut self, octets: &[u8]) {
        if octets.is_empty() {
            return;
        }
        let asks = octets.starts_with(b"+ ") && memchr::memchr(b'\n', octets) == Some(octets.len() - 1);
        match asks {
            true => self.commands.waits = false,
            false => self.has_spoken = true,
        }
        self.said += octets.len() as u64;
        self.settle();
    }
}

impl rookery_route::Witness for Witness {
    fn marked(&mut self, mark: Mark) {
        self.next = Some((self.said.saturating_add(mark.behind.into()), mark));
        self.settle();
    }

    fn turned(&mut self) {
        *self = Witness::default();
    }

    fn lost(&mut self, unsent: Option<BytesMut>) {
        self.unsent = unsent;
    }
}

impl Witness {
    /// Of a session that goes on from a value.
    pub(crate) fn of(value: Bytes) -> Witness {
        Witness { value: Some(value), ..Witness::default() }
    }

    fn settle(&mut self) {
        let Some((at, mark)) = self.next.take_if(|(at, _)| *at <= self.said) else { return };
        while self.under_way.front().is_some_and(|(end, _)| *end <= mark.used) {
            self.under_way.pop_front();
        }
        self.held.take_if(|end| *end <= mark.used);
        if mark.used >= self.sent && self.commands.waits {
            self.commands.forget();
        }
        if self.under_way.is_empty() {
            // It may have held many.
            self.under_way = VecDeque::new();
        }
        self.has_spoken = at < self.said;
        match mark.value {
            Marked::Same => {}
            Marked::Value(value) => self.value = Some(value),
            Marked::Nothing => self.value = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rookery_route::Witness as _;

    fn marked(witness: &mut Witness, used: u64) {
        let value = SessionValue::new().encode();
        witness.marked(Mark { used, behind: 0, value: Marked::Value(value) });
    }

    fn lost(mut witness: Witness, unsent: &str) -> Option<Bereft> {
        witness.lost(Some(BytesMut::from(unsent)));
        witness.bereft()
    }

    fn tags(bereft: &Bereft) -> Vec<&str> {
        bereft.tags.iter().map(Tag::as_str).collect()
    }

    #[test]
    fn what_was_not_answered_is_known_however_it_came() {
        let sent = "a1 NOOP\r\na2 LOGIN {3}\r\nann {6+}\r\nsecret\r\na3 FETCH 1 BODY[]\r\n";
        for piece in 1..sent.len() {
            let mut witness = Witness::default();
            for octets in sent.as_bytes().chunks(piece) {
                witness.inward(octets);
            }
            marked(&mut witness, 9);
            let bereft = lost(witness, "a4 NO").unwrap();
            assert_eq!((tags(&bereft), &bereft.rest[..]), (vec!["a2", "a3"], &b"a4 NO"[..]));
            assert!(bereft.broken_off.is_none());
        }
    }

    #[test]
    fn what_may_be_compressed_waits_until_that_is_known() {
        let sent = "a1 append x {25+}\r\nx compress deflate\r\n12345\r\na2 Compress DEFLATE\r\na3 NOOP\r\n";
        let before = sent.find("a3").unwrap();
        for piece in 1..sent.len() {
            let mut witness = Witness::default();
            let mut passed = 0;
            for octets in sent.as_bytes().chunks(piece) {
                let admitted = witness.admits(octets);
                assert!(
                    admitted == octets.len() || passed + admitted == before || witness.holds(),
                    "{piece}"
                );
                witness.inward(&octets[..admitted]);
                passed += admitted;
            }
            assert_eq!(passed, before);
            assert!(witness.holds() && witness.admits(b"a3 NOOP\r\n") == 0);
            let used = |used: usize| Mark { used: used as u64, behind: 4, value: Marked::Same };
            witness.marked(used(before - 1));
            witness.outward(b"1234");
            assert!(witness.holds(), "something before it was answered");
            witness.marked(used(before));
            assert!(witness.holds(), "the answer is not there yet");
            witness.outward(b"1234");
            assert!(!witness.holds() && witness.admits(b"a3 UNAUTHENTICATE\r\nb") == 19);
        }
    }

    #[test]
    fn a_literal_on_its_way_is_passed_over() {
        let mut witness = Witness::default();
        marked(&mut witness, 0);
        witness.inward(b"a1 APPEND x {10}\r\n");
        witness.outward(b"+ OK\r\n");
        witness.inward(b"123");
        let bereft = lost(witness, "").unwrap();
        let mut broken_off = bereft.broken_off.unwrap();
        let mut octets = BytesMut::from("4567");
        assert!(broken_off.skip(&mut octets).is_none() && octets.is_empty());
        let mut octets = BytesMut::from("890 {5}\r\na2 NOOP\r\n");
        // Of the next one the client is not asked for.
        assert_eq!(broken_off.skip(&mut octets).unwrap().unwrap().as_str(), "a1");
    }

    #[test]
    fn who_waits_for_leave_to_send_is_answered_at_once() {
        let mut witness = Witness::default();
        marked(&mut witness, 0);
        witness.inward(b"a1 APPEND x {10}\r\n");
        let mut bereft = lost(witness, "").unwrap();
        assert_eq!(bereft.broken_off.unwrap().skip(&mut bereft.rest).unwrap().unwrap().as_str(), "a1");
    }

    #[test]
    fn a_literal_that_is_refused_does_not_come() {
        let mut witness = Witness::default();
        witness.inward(b"a1 APPEND x {10}\r\n");
        witness.marked(Mark { used: 18, behind: 7, value: Marked::Value(SessionValue::new().encode()) });
        witness.outward(b"a1 NO\r\n");
        assert_eq!(witness.admits(b"a2 COMPRESS DEFLATE\r\na3"), 21);
        witness.inward(b"a2 STORE 1 +FLAGS x\r\n");
        let bereft = lost(witness, "").unwrap();
        assert_eq!(tags(&bereft), ["a2"]);
        assert!(bereft.broken_off.is_none());
    }

    #[test]
    fn the_end_of_idle_is_no_command() {
        let mut witness = Witness::default();
        witness.inward(b"i IDLE\r\n");
        let mut idle = SessionValue::new();
        idle.idle = Some("i".to_owned());
        witness.marked(Mark { used: 8, behind: 10, value: Marked::Value(idle.encode()) });
        witness.outward(b"+ idling\r\n");
        witness.inward(b"DONE\r\na2 NOOP\r\n");
        let bereft = lost(witness, "").unwrap();
        assert_eq!((tags(&bereft), bereft.value.idle.clone()), (vec!["i", "a2"], None));
        // Where it has come from another home as it was.
        let mut witness = Witness::default();
        witness.inward(b"i IDLE\r\n");
        witness.turned();
        witness.marked(Mark { used: 0, behind: 0, value: Marked::Value(idle.encode()) });
        witness.inward(b"done\r\na2 NOOP\r\n");
        let bereft = lost(witness, "").unwrap();
        assert_eq!((tags(&bereft), bereft.value.idle.clone()), (vec!["i", "a2"], None));
    }

    #[test]
    fn a_mark_counts_once_all_before_it_was_said() {
        for (said, goes_on) in [("", true), ("* 1 EXISTS\r\n", false), ("* 1 EXISTS\r\na1 OK\r\n", true)] {
            let mut witness = Witness::default();
            marked(&mut witness, 0);
            witness.inward(b"a1 NOOP\r\n");
            witness.marked(Mark { used: 9, behind: 19, value: Marked::Same });
            witness.outward(said.as_bytes());
            let bereft = lost(witness, "");
            assert_eq!(bereft.is_some(), goes_on, "{said}");
            let under_way = if said.is_empty() { vec!["a1"] } else { vec![] };
            assert!(bereft.is_none_or(|bereft| tags(&bereft) == under_way), "{said}");
        }
    }

    #[test]
    fn what_was_half_said_ends_the_session() {
        let mut witness = Witness::default();
        marked(&mut witness, 0);
        witness.inward(b"a1 FETCH 1 BODY[]\r\n");
        witness.outward(b"* 1 FETCH (BODY[] {5}\r\nab");
        assert!(lost(witness, "").is_none());
        let mut witness = Witness::default();
        marked(&mut witness, 0);
        witness.marked(Mark { used: 0, behind: 0, value: Marked::Nothing });
        assert!(lost(witness, "").is_none());
        assert!(lost(Witness::default(), "").is_none());
    }

    #[test]
    fn more_than_is_kept_ends_the_session() {
        let mut witness = Witness::default();
        marked(&mut witness, 0);
        witness.inward("a NOOP\r\n".repeat(COMMANDS_MAX + 1).as_bytes());
        assert!(lost(witness, "").is_none());
    }
}
