//! Those who make accounts and mailboxes, and what they are told of the names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use anyhow::{Result, ensure};

use super::board::{Board, Fault, Kind, Told};
use super::filer::USER;
use crate::imap::{Imap, quote};
use crate::random::Random;
use crate::server::PASSWORD;

/// Who administers all, and has no mailboxes.
pub(super) const ADMINISTRATOR: &str = "cyrus";
/// The tree of shared mailboxes below which anything is made.
pub(super) const TREE: &str = "team";
/// The two homes.
pub(super) const HOMES: [&str; 2] = ["be1.example", "be2.example"];

/// What is known of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    There,
    Gone,
    /// Nobody knows.
    Open,
}

/// Names as administrators have them.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<String, Fate>);

impl Names {
    pub(super) fn join(&mut self, other: Names) {
        self.0.extend(other.0);
    }

    /// Fails unless exactly what should be there is among the names of a node.
    pub(super) fn fit(&self, listed: &BTreeSet<String>) -> Result<()> {
        for (name, fate) in &self.0 {
            let is_there = listed.contains(name);
            let fits = match fate {
                Fate::There => is_there,
                Fate::Gone => !is_there,
                Fate::Open => true,
            };
            ensure!(fits, "{name} is {fate:?}, and that it is listed is {is_there}");
        }
        Ok(())
    }

    /// Those of this fate.
    pub(super) fn all(&self, wanted: Fate) -> Vec<String> {
        let found = self.0.iter().filter(|(_, fate)| **fate == wanted);
        found.map(|(name, _)| name.clone()).collect()
    }

    /// It is known by now.
    pub(super) fn know(&mut self, name: &str, fate: Fate) {
        self.0.insert(name.to_owned(), fate);
    }

    /// What is known to be gone is forgotten.
    pub(super) fn forget(&mut self) {
        self.0.retain(|_, fate| *fate != Fate::Gone);
    }
}

/// Somebody at work.
pub(super) struct Maker<'a> {
    pub(super) board: &'a Board,
    pub(super) names: Names,
    /// What the names begin with that they make, as nobody else's.
    pub(super) name: String,
    pub(super) random: Random,
    number: u64,
}

impl<'a> Maker<'a> {
    pub(super) fn new(board: &'a Board, name: String, seed: u64) -> Maker<'a> {
        Maker { board, names: Names::default(), name, random: Random::new(seed), number: 0 }
    }

    /// An administrator makes accounts, shared mailboxes at the top, and some below the tree, until it is time.
    pub(super) fn administers(&mut self, at: SocketAddr) {
        let (board, who) = (self.board, format!("the maker {}", self.name));
        board.work(
            &who,
            || Imap::login(at, ADMINISTRATOR, PASSWORD),
            |client| {
                let name = self.next();
                let home = HOMES[self.random.index(2)];
                match self.random.index(5) {
                    0 => self.makes(client, format!("user/{name}"), ""),
                    1 => self.makes(client, format!("user/{name}"), home),
                    2 => self.makes(client, name, ""),
                    3 => self.makes(client, name, home),
                    _ => self.makes(client, format!("{TREE}/{name}"), ""),
                }
            },
        );
    }

    /// A user makes mailboxes below the tree, which is at the other home.
    pub(super) fn uses(&mut self, at: SocketAddr) {
        let (board, who) = (self.board, format!("the maker {}", self.name));
        board.work(
            &who,
            || Imap::login(at, USER, PASSWORD),
            |client| {
                let name = self.next();
                self.makes(client, format!("{TREE}/{name}"), "Shared/")
            },
        );
    }

    fn next(&mut self) -> String {
        self.number += 1;
        format!("{}x{}", self.name, self.number)
    }

    /// Makes something, and takes some of it away again. `rest`: what a user's names begin with, or the home.
    fn makes(&mut self, client: &mut Imap, name: String, rest: &str) -> Result<bool> {
        let (wire, home) = match rest.ends_with('/') {
            true => (quote(&format!("{rest}{name}")), String::new()),
            false => (quote(&name), format!(" {rest}")),
        };
        self.names.know(&name, Fate::Open);
        let command = format!("CREATE {wire}{home}");
        match self.board.ask(Kind::Create, client, command.trim_end()) {
            Told::Open => return Ok(false),
            Told::Refused(reply) => {
                let is_known = ["UNAVAILABLE", "CANNOT"].iter().any(|code| reply.code(code).is_some());
                ensure!(is_known, Fault(format!("{command} was answered {}", reply.text)));
                self.names.know(&name, Fate::Gone);
                return Ok(false);
            }
            Told::Done(_) => self.names.know(&name, Fate::There),
        }
        if self.random.chance(50) {
            self.names.know(&name, Fate::Open);
            match Told::of(client.command(&format!("DELETE {wire}"))) {
                Told::Done(_) => self.names.know(&name, Fate::Gone),
                // A deletion that was begun goes on when it is asked for again.
                Told::Refused(_) | Told::Open => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// What an administrator sees at a node.
pub(super) fn of_administrator(at: SocketAddr) -> Result<BTreeSet<String>> {
    listed(Imap::login(at, ADMINISTRATOR, PASSWORD)?)
}

/// What the user sees there.
pub(super) fn of_user(at: SocketAddr) -> Result<BTreeSet<String>> {
    listed(Imap::login(at, USER, PASSWORD)?)
}

fn listed(mut client: Imap) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for line in client.ok("LIST \"\" *")?.lines() {
        let Some(line) = line.strip_prefix("LIST ") else { continue };
        if line.contains("\\NonExistent") || line.contains("\\Noselect") {
            continue;
        }
        let name = line.rsplit_once(" \"/\" ").map(|(_, name)| name.trim_matches('"').to_owned());
        names.extend(name);
    }
    client.ok("LOGOUT")?;
    Ok(names)
}
