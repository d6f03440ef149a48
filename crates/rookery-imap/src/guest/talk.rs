//! What a session and its guest say to each other.

use super::{FOREVER, Guest, Heard, Leaving, STATUS_OCTETS_MAX, Trouble, own_tag};
use crate::answer::Answer;
use crate::command::operation::Operation;
use crate::handed::Replay;
use crate::session::Enabled;
use crate::value::{GuestValue, SelectedValue, SessionValue, WatchedValue};
use crate::wire::Wire;
use bytes::{Bytes, BytesMut};
use rookery_codec::imap::passage::Passed;
use rookery_codec::imap::{Code, Condition, Status, Tag};
use rookery_net::IoError;
use rookery_route::{Mark, Marked, SessionNote, VALUE_OCTETS_MAX};
use std::time::Duration;

impl Guest {
    /// Gives it a command. Leaves when the answer is waited for.
    pub(crate) fn ask(&mut self, enabled: Enabled, octets: Bytes) {
        if self.enabled.bits() != enabled.bits() {
            self.enabled = enabled;
            self.note(&SessionNote::Enabled(enabled.bits()));
        }
        self.put(octets);
    }

    /// The same with an APPEND that has an id.
    pub(crate) fn ask_as(&mut self, operation: Operation, enabled: Enabled, octets: Bytes) {
        self.ask(enabled, Bytes::new());
        let Operation { id, again } = operation;
        self.note(&SessionNote::Operation { id, again });
        self.put(octets);
    }

    /// The same with a command of a REPLACE whose new message is at another home.
    pub(crate) fn ask_replacing(&mut self, enabled: Enabled, octets: Bytes) {
        self.ask(enabled, Bytes::new());
        self.note(&SessionNote::Replaces);
        self.put(octets);
    }

    /// Tells it something before the next command: nothing else is waiting to be sent.
    pub(super) fn note(&mut self, note: &SessionNote) {
        if let Some(pipe) = self.connection.pipe() {
            pipe.put_note(note.encode());
        }
    }

    /// Gives it octets.
    pub(crate) fn put(&mut self, octets: Bytes) {
        self.connection.push_body(octets);
    }

    /// Whether it was lost between two responses, so that something else can be said.
    pub(crate) fn is_between(&self) -> bool {
        self.passage.is_between()
    }

    /// Sends it what waits, if that is much.
    pub(crate) async fn flush_if_full(&mut self) -> Result<(), Trouble> {
        match self.connection.must_flush() {
            true => self.connection.flush().await.map_err(|_| Trouble::Guest),
            false => Ok(()),
        }
    }

    /// Passes on what it says, up to its tagged line.
    pub(crate) async fn answer(&mut self, wire: &mut Wire, tag: &Tag) -> Result<Answer, Trouble> {
        self.answer_with(wire, tag, &[]).await.map(|(answer, _)| answer)
    }

    /// The same, but what begins as one of `wanted` is given back, not passed on.
    pub(crate) async fn answer_with(
        &mut self,
        wire: &mut Wire,
        tag: &Tag,
        wanted: &[&[u8]],
    ) -> Result<(Answer, Vec<Bytes>), Trouble> {
        let mut caught = Vec::new();
        match self.hear_with(wire, tag, wanted, &mut caught).await? {
            Heard::Answer(answer) => Ok((answer, caught)),
            Heard::Continue(_) => Err(self.out_of_step("it goes on where there is nothing to go on with")),
        }
    }

    /// Passes on what it says, up to something else.
    pub(crate) async fn hear(&mut self, wire: &mut Wire, tag: &Tag) -> Result<Heard, Trouble> {
        self.hear_with(wire, tag, &[], &mut Vec::new()).await
    }

    async fn hear_with(
        &mut self,
        wire: &mut Wire,
        tag: &Tag,
        wanted: &[&[u8]],
        caught: &mut Vec<Bytes>,
    ) -> Result<Heard, Trouble> {
        let mut is_caught = false;
        loop {
            let begins = self.passage.is_between();
            match self.passage.next() {
                Passed::NeedMore if self.has_left() => return Err(Trouble::Moved),
                Passed::NeedMore => {
                    wire.flush().await.map_err(Trouble::Client)?;
                    self.read().await?;
                }
                Passed::Text { octets, .. } => {
                    if begins {
                        is_caught = wanted.iter().any(|start| octets.starts_with(start));
                        if is_caught {
                            caught.push(Bytes::new());
                        }
                    }
                    self.pass(wire, octets, is_caught.then_some(&mut *caught)).await?;
                }
                Passed::Literal(octets) => {
                    self.pass(wire, octets, is_caught.then_some(&mut *caught)).await?;
                }
                Passed::Status { status, octets } => match status.tag {
                    None => self.untagged(wire, &status, octets)?,
                    Some(ref said) if said == tag => return Ok(Heard::Answer(answer_of(status))),
                    Some(_) => return Err(self.out_of_step("it answers what it was not asked")),
                },
                Passed::Continue(text) => {
                    self.continued(&text);
                    return Ok(Heard::Continue(text));
                }
                Passed::Broken(why) => return Err(self.out_of_step(why)),
            }
        }
    }

    async fn pass(
        &mut self,
        wire: &mut Wire,
        octets: Bytes,
        caught: Option<&mut Vec<Bytes>>,
    ) -> Result<(), Trouble> {
        match caught.and_then(|caught| caught.last_mut()) {
            Some(last) if last.len() + octets.len() > STATUS_OCTETS_MAX => {
                Err(self.out_of_step("it says too much"))
            }
            Some(last) => {
                *last = [&last[..], &octets[..]].concat().into();
                Ok(())
            }
            None => {
                wire.connection.push_body(octets);
                wire.flush_if_full().await.map_err(Trouble::Client)
            }
        }
    }

    fn untagged(&mut self, wire: &mut Wire, status: &Status, octets: Bytes) -> Result<(), Trouble> {
        if status.condition == Condition::Bye {
            tracing::info!(node = %self.node, said = %status.text, "a mailbox's server ends the session there");
            // That is not passed on: the client knows what it knew before.
            self.heard = self.heard.saturating_sub(octets.len() as u64);
            return Err(Trouble::Guest);
        }
        if let Some(Code::MailboxId(id)) = &status.code {
            self.mailbox_id = Some(id.clone());
        }
        if status.code == Some(Code::NotificationOverflow) {
            // That is said for all of them, once, by this session.
            self.overflow = true;
            return Ok(());
        }
        wire.connection.push_body(octets);
        Ok(())
    }

    /// What it says next; nothing of it is passed on.
    pub(crate) async fn next(&mut self) -> Result<Passed, Trouble> {
        loop {
            match self.passage.next() {
                Passed::NeedMore if self.has_left() => return Err(Trouble::Moved),
                Passed::NeedMore => self.read().await?,
                Passed::Broken(why) => return Err(self.out_of_step(why)),
                passed => return Ok(passed),
            }
        }
    }

    /// How much is to come of the literal that was announced last.
    pub(crate) fn literal_left(&self) -> Option<u64> {
        self.passage.literal_left()
    }

    /// Passes on what it has said without being asked.
    pub(crate) async fn unasked(&mut self, wire: &mut Wire, tag: &Tag) -> Result<Option<Heard>, Trouble> {
        loop {
            match self.passage.next() {
                Passed::NeedMore if self.has_left() => return Err(Trouble::Moved),
                Passed::NeedMore if self.passage.is_between() => return Ok(None),
                Passed::NeedMore => {
                    wire.flush().await.map_err(Trouble::Client)?;
                    self.read().await?;
                }
                Passed::Text { octets, .. } | Passed::Literal(octets) => {
                    self.pass(wire, octets, None).await?
                }
                Passed::Status { status, octets } => match status.tag {
                    None => self.untagged(wire, &status, octets)?,
                    Some(ref said) if said == tag => return Ok(Some(Heard::Answer(answer_of(status)))),
                    Some(_) => return Err(self.out_of_step("it answers what it was not asked")),
                },
                Passed::Continue(text) => return Ok(Some(Heard::Continue(text))),
                Passed::Broken(why) => return Err(self.out_of_step(why)),
            }
        }
    }

    fn out_of_step(&self, why: &str) -> Trouble {
        tracing::error!(node = %self.node, why, "a session's other half is out of step");
        Trouble::Guest
    }

    /// Sends what waits, and waits for more. Safe to cancel.
    pub(crate) async fn read(&mut self) -> Result<(), Trouble> {
        self.connection.flush().await.map_err(|_| Trouble::Guest)?;
        match self.read_for(FOREVER).await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(Trouble::Guest),
        }
    }

    /// Whether it is still there, or has said that it goes on elsewhere.
    pub(super) async fn read_for(&mut self, time: Duration) -> Result<bool, IoError> {
        while !self.has_left() {
            let octets = self.connection.read_some(self.passage.buffer(), time).await?;
            if octets > 0 {
                self.heard += octets as u64;
                self.settle();
                return Ok(true);
            }
            let Some(note) = self.connection.pipe().and_then(|pipe| pipe.take_note()) else {
                return Ok(false);
            };
            match (SessionNote::decode(note), &mut self.leaves) {
                (Some(SessionNote::Mark(mark)), _) => self.marked(mark),
                (Some(SessionNote::Moved { octets, .. }), leaves) => {
                    let octets = usize::try_from(octets).unwrap_or(usize::MAX);
                    *leaves = Some(Leaving { octets, come: BytesMut::new() });
                }
                (Some(SessionNote::Value(piece)), Some(leaving)) if leaving.come.len() < VALUE_OCTETS_MAX => {
                    leaving.come.extend_from_slice(&piece);
                }
                _ => {}
            }
        }
        Ok(true)
    }

    /// Passes on what it still says, until it goes on elsewhere, or something else happens.
    pub(super) async fn last_words(&mut self, wire: &mut Wire) -> Trouble {
        let Some(tag) = own_tag() else { return Trouble::Guest };
        loop {
            match self.unasked(wire, &tag).await {
                Ok(None) => {}
                Ok(Some(_)) => return Trouble::Guest,
                Err(trouble) => return trouble,
            }
            if let Err(trouble) = self.read().await {
                return trouble;
            }
        }
    }

    /// Whether it goes on elsewhere.
    pub(crate) fn has_left(&self) -> bool {
        self.leaves.as_ref().is_some_and(|leaving| leaving.come.len() >= leaving.octets)
    }

    /// What it knew, if it goes on elsewhere.
    pub(super) fn value(&self) -> Option<GuestValue> {
        let leaving = self.leaves.as_ref().filter(|_| self.has_left())?;
        let session = SessionValue::decode(&leaving.come).ok()?;
        Some(GuestValue { node: self.node.0, watches: self.watches, session })
    }

    /// What it was asked and gives back, for whoever goes on. None: it has not taken anything.
    pub(crate) fn given_back(mut self) -> Option<Replay> {
        let octets = self.value()?.session.replay_octets;
        (octets > 0).then(|| Replay::of_guest(self.connection.take_stream(), octets))
    }

    /// How many marks it has put.
    pub(crate) fn marks(&self) -> u64 {
        self.marks.count
    }

    fn marked(&mut self, mark: Mark) {
        self.marks.next = Some((self.heard.saturating_add(mark.behind.into()), mark.value));
        self.settle();
    }

    /// It asks for more, which says nothing of where it stands.
    fn continued(&mut self, text: &Bytes) {
        if self.heard > self.marks.at {
            self.marks.at += (b"+ ".len() + text.len() + b"\r\n".len()) as u64;
        }
    }

    /// A mark counts once all was heard that goes before it.
    fn settle(&mut self) {
        let Some((at, value)) = self.marks.next.take_if(|(at, _)| *at <= self.heard) else { return };
        (self.marks.at, self.marks.count) = (at, self.marks.count + 1);
        match value {
            Marked::Same => {}
            Marked::Value(value) => self.marks.value = Some(value),
            Marked::Nothing => self.marks.value = None,
        }
    }

    /// Its selected mailbox as the client knows it, if that is certain.
    pub(crate) fn mark(&self) -> Option<SelectedValue> {
        let is_certain = self.heard == self.marks.at && self.passage.is_between();
        let value = self.marks.value.as_ref().filter(|_| is_certain)?;
        SessionValue::decode(value).ok()?.selected
    }

    /// How far it has told of the accounts that it watches, if that is certain.
    pub(super) fn told(&self) -> Option<Vec<WatchedValue>> {
        let is_certain = self.heard == self.marks.at && self.passage.is_drained();
        let value = SessionValue::decode(self.marks.value.as_ref().filter(|_| is_certain)?).ok()?;
        value.notify.filter(|_| !value.overflow).map(|notify| notify.watched)
    }

    /// Whether more of it has come that was not looked at. None: it is lost.
    pub(crate) async fn has_more(&mut self) -> Option<bool> {
        match self.read_for(Duration::ZERO).await {
            Ok(true) => Some(true),
            Err(IoError::Idle) => Some(false),
            Ok(false) | Err(_) => None,
        }
    }

    /// Whether it can be asked: it is not lost, and has not said good-bye.
    pub(super) async fn is_there(&mut self) -> bool {
        match self.read_for(Duration::ZERO).await {
            Err(IoError::Idle) => true,
            // Without being asked it says nothing but that, or that it goes on elsewhere.
            Ok(true) => self.watches && !self.has_left(),
            Ok(false) | Err(_) => false,
        }
    }
}

pub(crate) fn answer_of(status: Status) -> Answer {
    let mut answer = Answer::ok(status.text);
    answer.condition = status.condition;
    answer.fault = status.code == Some(Code::ServerBug);
    answer.code = status.code;
    answer
}
