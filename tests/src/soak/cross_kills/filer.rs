//! Somebody who files messages to and fro between two homes, and writes down what they are told.

use std::net::SocketAddr;

use anyhow::{Context, Result};

use super::board::{Board, Fault, Kind, Told};
use crate::imap::{Imap, Reply, quote};
use crate::random::Random;
use crate::server::PASSWORD;
use crate::soak::ledger::{Ledger, Place};

/// Who they are.
pub(super) const USER: &str = "mia";

/// Where messages come to at a home, where they are copied to, and where they are filed.
pub(super) struct Desk {
    pub(super) inbox: &'static str,
    pub(super) copies: &'static str,
    pub(super) filed: &'static str,
}

/// The user's own, and that of others at the other home.
pub(super) const DESKS: [Desk; 2] = [
    Desk { inbox: "INBOX", copies: "Copies", filed: "Filed" },
    Desk { inbox: "Other Users/ben", copies: "Shared/team/copies", filed: "Shared/team/filed" },
];

/// All of them.
pub(super) const MAILBOXES: &[&str] =
    &["INBOX", "Copies", "Filed", "Other Users/ben", "Shared/team/copies", "Shared/team/filed"];

/// Somebody at work.
pub(super) struct Filer<'a> {
    pub(super) board: &'a Board,
    pub(super) ledger: Ledger,
    /// What their subjects begin with, as nobody else's.
    pub(super) name: String,
    pub(super) random: Random,
    number: u64,
}

/// A message, and where else it was copied to.
struct Letter {
    subject: String,
    uid: u32,
    copy: Option<Place>,
}

impl Letter {
    /// With the message in this mailbox.
    fn at(&self, place: Place) -> Vec<Place> {
        std::iter::once(place).chain(self.copy).collect()
    }
}

impl<'a> Filer<'a> {
    pub(super) fn new(board: &'a Board, name: String, seed: u64) -> Filer<'a> {
        Filer { board, ledger: Ledger::of(MAILBOXES), name, random: Random::new(seed), number: 0 }
    }

    /// Works through a node until it is time.
    pub(super) fn work(&mut self, at: SocketAddr) {
        let (board, name) = (self.board, self.name.clone());
        board.work(&name, || Imap::login(at, USER, PASSWORD), |client| self.files(client));
    }

    /// New messages come to one home, are copied there or to the other, move to that, and back; one is replaced by one at
    /// the other home.
    fn files(&mut self, client: &mut Imap) -> Result<bool> {
        let side = self.random.index(2);
        let [here, there] = [&DESKS[side], &DESKS[1 - side]];
        let mut letters = Vec::new();
        for _ in 0..=self.random.index(3) {
            match self.brings(client, here.inbox)? {
                Some(letter) => letters.push(letter),
                None => return Ok(false),
            }
        }
        let copies = DESKS[self.random.index(2)].copies;
        if !select(client, here.inbox)? || !self.copies(client, &mut letters, here.inbox, copies)? {
            return Ok(false);
        }
        let was_moved = self.moves(client, &mut letters, here.inbox, there.filed)?;
        Ok(was_moved
            && select(client, there.filed)?
            && self.moves(client, &mut letters, there.filed, here.filed)?
            && select(client, here.filed)?
            && self.replaces(client, &letters, here.filed, there.filed)?)
    }

    fn brings(&mut self, client: &mut Imap, to: &'static str) -> Result<Option<Letter>> {
        self.number += 1;
        let subject = format!("{} {}", self.name, self.number);
        let octets = [200, 200, 200, 5_000, 20_000, 300_000][self.random.index(6)];
        let body = format!("{subject} and so on.\r\n").repeat(octets / 20);
        let text = format!("From: {USER}@example.org\r\nSubject: {subject}\r\n\r\n{body}");
        self.ledger.may_be(&subject, &[(to, None)]);
        match Told::of(client.append(to, "", text.as_bytes())) {
            Told::Done(reply) => {
                let uid = appended(&reply)?;
                self.ledger.is(&subject, &[(to, Some(uid))]);
                Ok(Some(Letter { subject, uid, copy: None }))
            }
            Told::Refused(_) => {
                self.ledger.is(&subject, &[]);
                Ok(None)
            }
            Told::Open => Ok(None),
        }
    }

    /// Replaces one of the letters by one with the same subject in another mailbox.
    fn replaces(
        &mut self,
        client: &mut Imap,
        letters: &[Letter],
        from: &'static str,
        to: &'static str,
    ) -> Result<bool> {
        let letter = &letters[self.random.index(letters.len())];
        let (subject, old) = (&letter.subject, (from, Some(letter.uid)));
        let text = format!("From: {USER}@example.org\r\nSubject: {subject}\r\n\r\nThe last version.\r\n");
        let both = |new: Place| letter.at(old).into_iter().chain([new]).collect::<Vec<_>>();
        self.ledger.may_be(subject, &both((to, None)));
        self.ledger.may_be(subject, &letter.at((to, None)));
        let command = format!("UID REPLACE {} {} {{{}+}}\r\n{text}", letter.uid, quote(to), text.len());
        match self.board.ask(Kind::Replace, client, &command) {
            Told::Done(reply) => {
                let uid = appended(&reply)?;
                self.ledger.is(subject, &letter.at((to, Some(uid))));
                Ok(true)
            }
            Told::Refused(reply) => {
                if reply.text.contains("is still there, too") {
                    self.ledger.is(subject, &both((to, None)));
                } else if reply.text.contains("may still be there, too") {
                    self.ledger.is(subject, &letter.at((to, None)));
                    self.ledger.may_be(subject, &both((to, None)));
                } else {
                    self.ledger.is(subject, &letter.at(old));
                }
                Ok(false)
            }
            Told::Open => Ok(false),
        }
    }

    fn copies(
        &mut self,
        client: &mut Imap,
        letters: &mut [Letter],
        from: &'static str,
        to: &'static str,
    ) -> Result<bool> {
        for letter in letters.iter() {
            self.ledger.may_be(&letter.subject, &[(from, Some(letter.uid)), (to, None)]);
        }
        let command = format!("UID COPY {} {}", set(letters), quote(to));
        match self.board.ask(Kind::Copy, client, &command) {
            Told::Done(reply) => {
                let uids = copied(&reply, letters.len())?;
                for (letter, uid) in letters.iter_mut().zip(uids) {
                    letter.copy = Some((to, Some(uid)));
                    self.ledger.is(&letter.subject, &letter.at((from, Some(letter.uid))));
                }
                Ok(true)
            }
            Told::Refused(_) => {
                for letter in letters.iter() {
                    self.ledger.is(&letter.subject, &letter.at((from, Some(letter.uid))));
                }
                Ok(false)
            }
            Told::Open => Ok(false),
        }
    }

    fn moves(
        &mut self,
        client: &mut Imap,
        letters: &mut [Letter],
        from: &'static str,
        to: &'static str,
    ) -> Result<bool> {
        for letter in letters.iter() {
            self.ledger.may_be(&letter.subject, &letter.at((to, None)));
        }
        let command = format!("UID MOVE {} {}", set(letters), quote(to));
        match self.board.ask(Kind::Move, client, &command) {
            Told::Done(reply) => {
                let uids = copied(&reply, letters.len())?;
                for (letter, uid) in letters.iter_mut().zip(uids) {
                    letter.uid = uid;
                    self.ledger.is(&letter.subject, &letter.at((to, Some(uid))));
                }
                Ok(true)
            }
            Told::Refused(_) => {
                for letter in letters.iter() {
                    self.ledger.is(&letter.subject, &letter.at((from, Some(letter.uid))));
                }
                Ok(false)
            }
            Told::Open => Ok(false),
        }
    }
}

/// Whether the mailbox is selected now.
fn select(client: &mut Imap, mailbox: &str) -> Result<bool> {
    match Told::of(client.command(&format!("SELECT {}", quote(mailbox)))) {
        Told::Done(_) => Ok(true),
        Told::Refused(reply) if reply.code("UNAVAILABLE").is_some() => Ok(false),
        Told::Refused(reply) => Err(Fault(format!("SELECT {mailbox} was answered {}", reply.text)).into()),
        Told::Open => anyhow::bail!("the connection is lost"),
    }
}

fn set(letters: &[Letter]) -> String {
    letters.iter().map(|letter| letter.uid.to_string()).collect::<Vec<_>>().join(",")
}

/// The new UID of APPENDUID.
fn appended(reply: &Reply) -> Result<u32> {
    let code = reply.code("APPENDUID").with_context(|| Fault(format!("no APPENDUID: {reply:?}")))?;
    Ok(code.split_once(' ').context("APPENDUID of one number")?.1.parse()?)
}

/// The new UIDs of COPYUID, in the order of the old ones, which ascend.
fn copied(reply: &Reply, count: usize) -> Result<Vec<u32>> {
    let code = reply.code("COPYUID").with_context(|| Fault(format!("no COPYUID: {:?}", reply.lines())))?;
    let new = code.split(' ').nth(2).with_context(|| Fault(format!("COPYUID {code}")))?;
    let mut uids = Vec::new();
    for range in new.split(',') {
        let (first, last) = range.split_once(':').unwrap_or((range, range));
        uids.extend(first.parse::<u32>()?..=last.parse()?);
    }
    match uids.len() == count {
        true => Ok(uids),
        false => Err(Fault(format!("COPYUID {code} of {count} messages")).into()),
    }
}
