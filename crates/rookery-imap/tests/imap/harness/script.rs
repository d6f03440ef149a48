//! The player of scripts.
//!
//! A script has a line for each thing that happens: `A> a1 NOOP` sends a command of client A and waits for its
//! tagged response; `A~ a1 IDLE` sends without waiting; `A< * 1 EXISTS` is the next line that A hears. In what is
//! sent `\n` stands for CRLF. `A= deflate`: from here on A compresses what it sends. In what is heard `<*>` stands
//! for anything; a line `A< ...` for any lines before the tagged one. What is heard and not written fails the test.
//!
//! Invariant: a script says the same of every arrangement of nodes. Where accounts travel, that happens between its
//! lines, and only what is \Recent is not compared.

use super::{Client, Nodes, Site};
use std::collections::BTreeMap;

impl Site {
    /// Plays a script. Clients come to be as users' sessions when they are first named: A and B are ann's, J is
    /// joe's, M max's, R root's, D adm@b.test's, E eve@b.test's; X has not logged in.
    pub(crate) async fn play(&self, script: &str) {
        let mut clients: BTreeMap<char, Client> = BTreeMap::new();
        let mut moves = 0;
        for line in script.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("--")) {
            let (who, rest) = line.split_at(1);
            let who = who.chars().next().unwrap();
            if let std::collections::btree_map::Entry::Vacant(place) = clients.entry(who) {
                place.insert(match who {
                    'J' => self.login("joe").await,
                    'M' => self.login("max").await,
                    'R' => self.login("root").await,
                    'D' => self.login("adm@b.test").await,
                    'E' => self.login("eve@b.test").await,
                    'X' => self.connect().await,
                    _ => self.login("ann").await,
                });
            }
            if crate::NODES == Nodes::Travelling && "ABJ".contains(who) && !rest.starts_with(['<', '=']) {
                // Joe's account too, in turn with that of the mailboxes that he reaches.
                moves += 1;
                self.relocate(if who == 'J' && moves % 2 == 0 { "joe" } else { "ann" }).await;
            }
            let client = clients.get_mut(&who).unwrap();
            match rest.split_at(1) {
                (">", command) => {
                    client.must_be_quiet(line);
                    client.heard = client.command(command.trim_start()).await;
                }
                ("~", command) => {
                    client.must_be_quiet(line);
                    client.send(command.trim_start()).await;
                }
                ("=", _) => client.deflate(),
                ("<", " ...") => {
                    client.heard.drain(..client.heard.len() - 1);
                }
                ("<", wanted) => {
                    let heard = match client.heard.is_empty() {
                        true => client.line().await,
                        false => client.heard.remove(0),
                    };
                    let wanted = wanted.trim_start();
                    assert!(
                        fits(wanted, &heard),
                        "wanted: {wanted}\n heard: {heard}\n  then: {:#?}",
                        client.heard
                    );
                }
                other => panic!("not a line of a script: {other:?}"),
            }
        }
        for client in clients.values() {
            client.must_be_quiet("the end");
        }
    }
}

/// The same line without what is \Recent: a home counts that anew, as after a restart.
fn as_old(line: &str) -> String {
    match line.strip_suffix(" RECENT") {
        Some(_) => "* RECENT".to_string(),
        None => line.replace(" \\Recent", "").replace("\\Recent", ""),
    }
}

/// Whether a line is what was wanted; `<*>` stands for anything.
fn fits(wanted: &str, heard: &str) -> bool {
    let (old_wanted, old_heard) = (as_old(wanted), as_old(heard));
    let is_old = crate::NODES == Nodes::Travelling;
    let (wanted, heard) = if is_old { (&*old_wanted, &*old_heard) } else { (wanted, heard) };
    let mut parts = wanted.split("<*>");
    let first = parts.next().unwrap_or("");
    let Some(mut rest) = heard.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}
