//! What the owner of a mailbox was told of each message, and whether that is what is there.
//!
//! Invariants:
//! - A command that changes where a message is, is written down before it is sent, and again when it was answered. In
//!   between, and for ever if no answer comes, the message may be where it was or where it was to go.
//! - A message that was brought again, since nobody said what had become of it, may be there once more for each time.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};

use crate::imap::{Fetch, Imap, Reply, Status, quote};
use crate::server::PASSWORD;

/// Where those who file put messages.
pub const FILED: &str = "Filed";
/// Where those who file copy messages.
pub const COPIES: &str = "Copies";
/// Where those who write put messages.
pub const DRAFTS: &str = "Drafts";
/// All mailboxes that those use who use their own.
const MAILBOXES: &[&str] = &["INBOX", DRAFTS, FILED, COPIES];

/// A mailbox, and the UID there if it was told.
pub type Place = (&'static str, Option<u32>);

/// What may have become of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fate {
    /// It is at all places of one of these, and nowhere else.
    choices: Vec<Vec<Place>>,
    /// It may be there so many times more.
    again: usize,
}

/// What somebody was told.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// Where messages may be.
    mailboxes: &'static [&'static str],
    /// By subject.
    messages: BTreeMap<String, Fate>,
    /// The UIDVALIDITY of each mailbox, as it was told.
    validities: BTreeMap<String, String>,
    /// The HIGHESTMODSEQ that was seen last in each.
    modseqs: BTreeMap<String, u64>,
    /// The UIDNEXT that was seen last in each.
    nexts: BTreeMap<String, u32>,
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger::of(MAILBOXES)
    }
}

impl Ledger {
    /// Nothing was told yet of these mailboxes.
    pub fn of(mailboxes: &'static [&'static str]) -> Ledger {
        let (messages, validities) = (BTreeMap::new(), BTreeMap::new());
        let (modseqs, nexts) = (BTreeMap::new(), BTreeMap::new());
        Ledger { mailboxes, messages, validities, modseqs, nexts }
    }

    /// A command goes out after which the message is at these places.
    pub fn may_be(&mut self, subject: &str, places: &[Place]) {
        let fate = self.messages.entry(subject.to_owned()).or_default();
        if fate.choices.is_empty() {
            fate.choices.push(Vec::new());
        }
        fate.choices.push(places.to_vec());
    }

    /// It is known to be at these.
    pub fn is(&mut self, subject: &str, places: &[Place]) {
        self.messages.entry(subject.to_owned()).or_default().choices = vec![places.to_vec()];
    }

    /// It is brought again.
    pub fn again(&mut self, subject: &str) {
        self.messages.entry(subject.to_owned()).or_default().again += 1;
    }

    /// [`super::moving::fill`] has brought messages.
    pub fn was_filled(&mut self, messages: u32) {
        (0..messages).for_each(|number| self.is(&format!("old {number}"), &[("INBOX", None)]));
    }

    /// Takes down what another has written.
    pub fn join(&mut self, other: Ledger) {
        self.messages.extend(other.messages);
        self.validities.extend(other.validities);
        self.modseqs.extend(other.modseqs);
        self.nexts.extend(other.nexts);
    }

    /// Its owner has taken away all that was there. What nobody has said to be done, or not to be, may still come: to one
    /// of the places where it was to go.
    pub fn was_emptied(&mut self) {
        self.messages.retain(|_, fate| fate.choices.len() > 1);
        for fate in self.messages.values_mut() {
            let places: BTreeSet<&str> = fate.choices.iter().flatten().map(|(mailbox, _)| *mailbox).collect();
            let one = places.into_iter().map(|mailbox| vec![(mailbox, None)]);
            fate.choices = std::iter::once(Vec::new()).chain(one).collect();
        }
    }

    /// Looks into the user's mailboxes at a node, as one who has not been there before. Gives the number of messages.
    pub fn verify(&mut self, at: SocketAddr, user: &str) -> Result<u64> {
        let mut client = Imap::login(at, user, PASSWORD)?;
        let mut found: BTreeMap<String, Vec<(&'static str, u32)>> = BTreeMap::new();
        for mailbox in self.mailboxes {
            let Some(messages) = self.look_into(&mut client, mailbox)? else { continue };
            for (subject, uid) in messages {
                found.entry(subject).or_default().push((*mailbox, uid));
            }
        }
        client.ok("LOGOUT")?;
        for (subject, fate) in &self.messages {
            let there = found.get(subject).map(Vec::as_slice).unwrap_or_default();
            let fits = fate.choices.iter().any(|choice| fits(choice, fate.again, there));
            ensure!(fits, "{subject:?} is at {there:?}, and should be: {fate:?}");
        }
        let unknown: Vec<&String> =
            found.keys().filter(|subject| !self.messages.contains_key(*subject)).collect();
        ensure!(unknown.is_empty(), "nobody has brought {unknown:?}");
        Ok(found.values().map(|places| places.len() as u64).sum())
    }

    /// The subjects and UIDs of a mailbox, if it is there.
    fn look_into(&mut self, client: &mut Imap, mailbox: &str) -> Result<Option<Vec<(String, u32)>>> {
        let opened = client.command(&format!("EXAMINE {} (CONDSTORE)", quote(mailbox)))?;
        if opened.status != Status::Ok {
            ensure!(opened.code("NONEXISTENT").is_some(), "EXAMINE {mailbox}: {}", opened.text);
            ensure!(!self.validities.contains_key(mailbox), "{mailbox} is gone");
            return Ok(None);
        }
        let validity = opened.code("UIDVALIDITY").context("no UIDVALIDITY")?;
        let known = self.validities.entry(mailbox.to_owned()).or_insert_with(|| validity.clone());
        ensure!(*known == validity, "the UIDVALIDITY of {mailbox} was {known} and is {validity}");
        let highest: u64 = opened.code("HIGHESTMODSEQ").context("no HIGHESTMODSEQ")?.parse()?;
        let known = self.modseqs.entry(mailbox.to_owned()).or_default();
        ensure!(highest >= *known, "the HIGHESTMODSEQ of {mailbox} was {known} and is {highest}");
        *known = highest;
        let next: u32 = opened.code("UIDNEXT").context("no UIDNEXT")?.parse()?;
        let known = self.nexts.entry(mailbox.to_owned()).or_default();
        ensure!(next >= *known, "the UIDNEXT of {mailbox} was {known} and is {next}");
        *known = next;
        let (mut last, mut messages) = (0, Vec::new());
        for fetch in client.ok("UID FETCH 1:* (MODSEQ BODY.PEEK[HEADER.FIELDS (SUBJECT)])")?.fetches()? {
            let header = String::from_utf8_lossy(fetch.body("BODY[HEADER.FIELDS (SUBJECT)]")?).into_owned();
            let (uid, modseq) = (fetch.uid()?, modseq(&fetch)?);
            ensure!(last < uid && uid < next, "UID {uid} in {mailbox}, behind {last} and before {next}");
            ensure!(modseq <= highest, "MODSEQ {modseq} of {uid} in {mailbox}, whose highest is {highest}");
            last = uid;
            messages.push((header.trim().trim_start_matches("Subject: ").to_owned(), uid));
        }
        Ok(Some(messages))
    }
}

/// The MODSEQ of a FETCH response.
pub fn modseq(fetch: &Fetch) -> Result<u64> {
    fetch.get("MODSEQ")?.list()?.first().context("MODSEQ ()")?.number()
}

fn fits(choice: &[Place], again: usize, there: &[(&'static str, u32)]) -> bool {
    let mailboxes: BTreeSet<&str> =
        choice.iter().map(|(mailbox, _)| *mailbox).chain(there.iter().map(|(mailbox, _)| *mailbox)).collect();
    mailboxes.into_iter().all(|mailbox| {
        let is: Vec<u32> = there.iter().filter(|(at, _)| *at == mailbox).map(|(_, uid)| *uid).collect();
        match choice.iter().find(|(place, _)| *place == mailbox) {
            Some((_, told)) => {
                (1..=1 + again).contains(&is.len()) && told.is_none_or(|uid| is.contains(&uid))
            }
            None => is.is_empty(),
        }
    })
}

/// All that a client can know of an account: mailboxes, and of each message UID, MODSEQ, flags, size, dates and a hash of
/// its octets.
pub fn digest(at: SocketAddr, user: &str) -> Result<Vec<String>> {
    let mut client = Imap::login(at, user, PASSWORD)?;
    let mut lines = client.ok("LIST \"\" *")?.lines();
    for mailbox in MAILBOXES {
        let opened = client.command(&format!("EXAMINE {mailbox} (CONDSTORE)"))?;
        if opened.status != Status::Ok {
            continue;
        }
        for code in ["UIDVALIDITY", "UIDNEXT", "HIGHESTMODSEQ"] {
            lines.push(format!("{mailbox} {code} {}", opened.code(code).unwrap_or_default()));
        }
        let items = "(FLAGS MODSEQ RFC822.SIZE INTERNALDATE EMAILID BODY.PEEK[])";
        let fetched: Reply = client.ok(&format!("UID FETCH 1:* {items}"))?;
        for fetch in fetched.fetches()? {
            // What is recent, every session has to itself.
            let flags: BTreeSet<String> =
                fetch.flags()?.into_iter().filter(|flag| flag != "\\Recent").collect();
            let mut hasher = DefaultHasher::new();
            fetch.body("BODY[]")?.hash(&mut hasher);
            let (uid, modseq, hash) = (fetch.uid()?, modseq(&fetch)?, hasher.finish());
            let rest = ["RFC822.SIZE", "INTERNALDATE", "EMAILID"].map(|item| fetch.get(item).cloned().ok());
            lines.push(format!("{mailbox} {uid} {modseq} {flags:?} {rest:?} {hash:016x}"));
        }
    }
    client.ok("LOGOUT")?;
    Ok(lines)
}

/// Fails unless both are the same.
pub fn same(before: &[String], after: &[String]) -> Result<()> {
    let differs = before.iter().zip(after).find(|(one, other)| one != other);
    ensure!(differs.is_none(), "was and is: {differs:?}");
    ensure!(before.len() == after.len(), "{} lines were there, and {} are", before.len(), after.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_where_it_was_or_where_it_was_to_go() {
        let mut ledger = Ledger::default();
        ledger.may_be("a", &[("INBOX", None)]);
        let is = |ledger: &Ledger, there: &[(&'static str, u32)]| {
            let fate = &ledger.messages["a"];
            fate.choices.iter().any(|choice| fits(choice, fate.again, there))
        };
        assert!(is(&ledger, &[]) && is(&ledger, &[("INBOX", 3)]));
        assert!(!is(&ledger, &[("INBOX", 3), ("INBOX", 4)]) && !is(&ledger, &[("Filed", 1)]));
        ledger.is("a", &[("INBOX", Some(3))]);
        assert!(!is(&ledger, &[]) && !is(&ledger, &[("INBOX", 4)]) && is(&ledger, &[("INBOX", 3)]));
        ledger.may_be("a", &[(FILED, None)]);
        assert!(is(&ledger, &[("INBOX", 3)]) && is(&ledger, &[(FILED, 9)]));
        assert!(!is(&ledger, &[("INBOX", 3), (FILED, 9)]) && !is(&ledger, &[]));
    }

    #[test]
    fn what_was_left_open_may_come_after_all_was_taken_away() {
        let mut ledger = Ledger::default();
        ledger.is("known", &[("INBOX", Some(3))]);
        ledger.is("open", &[("INBOX", Some(4))]);
        ledger.may_be("open", &[("INBOX", Some(4)), (COPIES, None)]);
        ledger.was_emptied();
        assert!(!ledger.messages.contains_key("known"));
        let fate = &ledger.messages["open"];
        let is = |there: &[(&'static str, u32)]| fate.choices.iter().any(|choice| fits(choice, 0, there));
        assert!(is(&[]) && is(&[(COPIES, 9)]) && !is(&[(COPIES, 9), (COPIES, 10)]));
    }

    #[test]
    fn what_was_brought_again_may_be_there_again() {
        let mut ledger = Ledger::default();
        ledger.may_be("a", &[("INBOX", None)]);
        ledger.again("a");
        let fate = |ledger: &Ledger, count: u32| {
            let there: Vec<_> = (1..=count).map(|uid| ("INBOX", uid)).collect();
            let fate = &ledger.messages["a"];
            fate.choices.iter().any(|choice| fits(choice, fate.again, &there))
        };
        assert_eq!([0, 1, 2, 3].map(|count| fate(&ledger, count)), [true, true, true, false]);
        ledger.is("a", &[("INBOX", None)]);
        assert_eq!([0, 1, 2, 3].map(|count| fate(&ledger, count)), [false, true, true, false]);
    }
}
