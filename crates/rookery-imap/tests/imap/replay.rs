//! A property: whatever two sessions do to one mailbox, a client that applies what it is told knows the mailbox
//! exactly, at each checkpoint.

use crate::harness::{Client, Nodes, Site};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// One thing that a client does.
#[derive(Clone, Debug)]
enum Deed {
    Store { by: usize, from: u32, to: u32, add: bool, silent: bool, uid: bool, flag: usize },
    Expunge { by: usize },
    UidExpunge { by: usize, uid: u32 },
    Append { by: usize },
    Move { by: usize, from: u32 },
    Copy { by: usize, from: u32 },
    Fetch { by: usize, from: u32, sees: bool },
    Noop { by: usize },
}

const FLAGS: [&str; 4] = ["\\Seen", "\\Flagged", "\\Deleted", "$Work"];

fn deed() -> impl Strategy<Value = Deed> {
    let by = 0usize..3;
    prop_oneof![
        5 => (by.clone(), 1u32..9, 0u32..4, any::<bool>(), any::<bool>(), any::<bool>(), 0usize..4).prop_map(
            |(by, from, more, add, silent, uid, flag)| Deed::Store { by, from, to: from + more, add, silent, uid, flag }
        ),
        1 => by.clone().prop_map(|by| Deed::Expunge { by }),
        1 => (by.clone(), 1u32..12).prop_map(|(by, uid)| Deed::UidExpunge { by, uid }),
        2 => by.clone().prop_map(|by| Deed::Append { by }),
        1 => (by.clone(), 1u32..9).prop_map(|(by, from)| Deed::Move { by, from }),
        1 => (by.clone(), 1u32..9).prop_map(|(by, from)| Deed::Copy { by, from }),
        2 => (by.clone(), 1u32..9, any::<bool>()).prop_map(|(by, from, sees)| Deed::Fetch { by, from, sees }),
        2 => by.prop_map(|by| Deed::Noop { by }),
    ]
}

/// A message as a client knows it; what it was not told is `None`.
#[derive(Clone, Default, Debug)]
struct Known {
    uid: Option<u32>,
    flags: Option<BTreeSet<String>>,
}

/// A client that believes what it is told.
struct Believer {
    client: Client,
    messages: Vec<Known>,
    tags: u32,
}

impl Believer {
    async fn new(site: &Site, qresync: bool) -> Believer {
        let client = site.login("ann").await;
        let mut believer = Believer { client, messages: Vec::new(), tags: 0 };
        if qresync {
            believer.say("ENABLE QRESYNC", false).await;
        }
        believer.say("SELECT INBOX", false).await;
        believer.learn().await;
        believer
    }

    /// Says a command and believes the answers. `numbered`: messages must not disappear during it.
    async fn say(&mut self, command: &str, numbered: bool) -> String {
        self.tags += 1;
        let heard = self.client.command(&format!("t{} {command}", self.tags)).await;
        for line in &heard {
            self.believe(line, command, numbered);
        }
        heard.last().unwrap().clone()
    }

    fn believe(&mut self, line: &str, command: &str, numbered: bool) {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["*", n, "EXISTS"] => {
                let n: usize = n.parse().unwrap();
                assert!(n >= self.messages.len(), "{line}");
                self.messages.resize(n, Known::default());
            }
            ["*", n, "EXPUNGE"] => {
                assert!(!numbered, "{line} during {command}");
                self.messages.remove(n.parse::<usize>().unwrap() - 1);
            }
            ["*", "VANISHED", set] => {
                assert!(!numbered, "{line} during {command}");
                let gone = numbers(set);
                let before = self.messages.len();
                self.messages.retain(|message| !gone.contains(&message.uid.unwrap()));
                assert_eq!(self.messages.len(), before - gone.len(), "{line}");
            }
            ["*", n, "FETCH", ..] => {
                let message = &mut self.messages[n.parse::<usize>().unwrap() - 1];
                if let Some(uid) = after(line, "UID ") {
                    let uid: u32 = uid.split([' ', ')']).next().unwrap().parse().unwrap();
                    assert!(message.uid.is_none_or(|known| known == uid), "{line}: {message:?}");
                    message.uid = Some(uid);
                }
                if let Some(flags) = after(line, "FLAGS (") {
                    let flags = flags.split(')').next().unwrap();
                    message.flags = Some(flags_of(flags));
                }
            }
            _ => {}
        }
    }

    /// Asks for what it was not told.
    async fn learn(&mut self) {
        for n in 0..self.messages.len() {
            if self.messages.get(n).is_some_and(|message| message.uid.is_none() || message.flags.is_none()) {
                self.say(&format!("FETCH {} (UID FLAGS)", n + 1), true).await;
            }
        }
    }

    async fn act(&mut self, deed: &Deed) {
        let len = u32::try_from(self.messages.len()).unwrap();
        match *deed {
            Deed::Store { from, to, add, silent, uid, flag, .. } => {
                let to = if uid { to } else { to.min(len) };
                if from > to {
                    return;
                }
                let (sign, flag) = (if add { '+' } else { '-' }, FLAGS[flag]);
                let (verb, dot) =
                    (if uid { "UID STORE" } else { "STORE" }, if silent { ".SILENT" } else { "" });
                // What it asks for silently it takes for done, where it names a message it knows; the answer
                // may then tell more.
                if silent {
                    self.assume(from, to, uid, add, flag);
                }
                let answer = self.say(&format!("{verb} {from}:{to} {sign}FLAGS{dot} ({flag})"), !uid).await;
                assert!(answer.contains(" OK ") || answer.contains("EXPUNGEISSUED"), "{answer}");
            }
            Deed::Expunge { .. } => drop(self.say("EXPUNGE", false).await),
            Deed::UidExpunge { uid, .. } => drop(self.say(&format!("UID EXPUNGE {uid}"), false).await),
            Deed::Append { .. } => drop(self.say("APPEND INBOX (\\Flagged) {3+}\\na\\n", false).await),
            Deed::Move { from, .. } if from <= len => {
                drop(self.say(&format!("MOVE {from} Trash"), false).await)
            }
            Deed::Copy { from, .. } if from <= len => {
                drop(self.say(&format!("COPY {from} INBOX"), false).await)
            }
            Deed::Fetch { from, sees, .. } if from <= len => {
                let item = if sees { "(FLAGS BODY[])" } else { "FLAGS" };
                let answer = self.say(&format!("FETCH {from}:* {item}"), true).await;
                // Of what is moved away while its session is handed over nothing is known any more.
                let gone = [Nodes::HandedOver, Nodes::Travelling].contains(&crate::NODES)
                    && answer.contains("EXPUNGEISSUED");
                assert!(answer.contains(" OK ") || gone, "{answer}");
            }
            Deed::Move { .. } | Deed::Copy { .. } | Deed::Fetch { .. } => {}
            Deed::Noop { .. } => drop(self.say("NOOP", false).await),
        }
    }

    fn assume(&mut self, from: u32, to: u32, uid: bool, add: bool, flag: &str) {
        for (n, message) in (1u32..).zip(&mut self.messages) {
            let number = if uid { message.uid.unwrap_or(0) } else { n };
            if let Some(flags) = message.flags.as_mut().filter(|_| (from..=to).contains(&number)) {
                match add {
                    true => drop(flags.insert(flag.to_string())),
                    false => drop(flags.remove(flag)),
                }
            }
        }
    }

    fn knows(&self) -> BTreeMap<u32, BTreeSet<String>> {
        self.messages.iter().map(|m| (m.uid.unwrap(), m.flags.clone().unwrap())).collect()
    }
}

fn after<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    line.find(word).map(|at| &line[at + word.len()..])
}

fn flags_of(text: &str) -> BTreeSet<String> {
    text.split(' ').filter(|flag| !flag.is_empty() && *flag != "\\Recent").map(str::to_string).collect()
}

fn numbers(set: &str) -> BTreeSet<u32> {
    let range = |part: &str| {
        let (a, b) = part.split_once(':').unwrap_or((part, part));
        a.parse::<u32>().unwrap()..=b.parse::<u32>().unwrap()
    };
    set.split(',').flat_map(range).collect()
}

async fn play(deeds: Vec<Deed>) {
    let site = Site::new().await;
    site.fill("..s.d.").await;
    let mut believers = [
        Believer::new(&site, false).await,
        Believer::new(&site, true).await,
        Believer::new(&site, false).await,
    ];
    for deed in &deeds {
        let (Deed::Store { by, .. }
        | Deed::Expunge { by }
        | Deed::UidExpunge { by, .. }
        | Deed::Append { by }
        | Deed::Move { by, .. }
        | Deed::Copy { by, .. }
        | Deed::Fetch { by, .. }
        | Deed::Noop { by }) = deed;
        if crate::NODES == Nodes::Travelling {
            site.relocate("ann").await;
        }
        believers[*by].act(deed).await;
        believers[*by].learn().await;
    }
    let truth = Believer::new(&site, false).await.knows();
    for (n, believer) in believers.iter_mut().enumerate() {
        believer.say("NOOP", false).await;
        believer.learn().await;
        assert_eq!(believer.knows(), truth, "client {n}");
        assert_eq!(believer.messages.len(), truth.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn what_clients_are_told_is_what_there_is(deeds in proptest::collection::vec(deed(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(play(deeds));
    }
}
