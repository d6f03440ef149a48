//! REFERENCES against the six steps of RFC 5256 §3 done one by one, as they stand there.

use super::*;
use crate::sorting::table::NewRow;
use proptest::prelude::*;
use rookery_mime::SortKeys;
use rookery_types::{ContentId, ModSeq};
use std::collections::HashMap;

/// A message as a test has it: sent date, subject, whether that is a reply, its id and its references.
#[derive(Clone, Debug)]
struct Mail {
    sent: i64,
    subject: &'static str,
    reply: bool,
    id: Option<u8>,
    references: Vec<u8>,
}

fn mail(sent: i64, subject: &'static str, id: u8, references: &[u8]) -> Mail {
    let (reply, subject) = match subject.strip_prefix("Re: ") {
        Some(base) => (true, base),
        None => (false, subject),
    };
    Mail { sent, subject, reply, id: Some(id), references: references.to_vec() }
}

fn tabled(mails: &[Mail]) -> (Vec<Sortable>, Table) {
    let rows = (1u32..).zip(mails).map(|(uid, mail)| NewRow {
        uid,
        sent: Some(mail.sent),
        keys: SortKeys {
            subject: mail.subject.into(),
            is_reply_or_forward: mail.reply,
            message_id: mail.id.map(|id| id.to_string()),
            references: mail.references.iter().map(u8::to_string).collect(),
            ..SortKeys::default()
        },
    });
    let table = Table::default().with(rows.collect());
    let sortable = (1u32..).zip(mails).map(|(uid, _)| Sortable {
        number: uid,
        uid,
        date: 0,
        size: 0,
        modseq: ModSeq::FIRST,
        content: ContentId([0; 16]),
    });
    (sortable.collect(), table)
}

fn text(lists: Bytes) -> String {
    String::from_utf8(lists.to_vec()).unwrap()
}

fn threads(mails: &[Mail]) -> String {
    let (messages, table) = tabled(mails);
    text(references(&messages, &table))
}

/// The root of the naive tree.
const ROOT: usize = 0;

#[derive(Default)]
struct Node {
    mail: Option<usize>,
    parent: Option<usize>,
    children: Vec<usize>,
}

struct Naive<'a> {
    mails: &'a [Mail],
    nodes: Vec<Node>,
}

impl Naive<'_> {
    fn is_below(&self, node: usize, above: usize) -> bool {
        node == above || self.nodes[node].parent.is_some_and(|parent| self.is_below(parent, above))
    }

    fn set_parent(&mut self, child: usize, parent: Option<usize>) {
        if let Some(old) = self.nodes[child].parent {
            self.nodes[old].children.retain(|one| *one != child);
        }
        self.nodes[child].parent = parent;
        if let Some(parent) = parent {
            self.nodes[parent].children.push(child);
        }
    }

    fn add(&mut self, mail: Option<usize>) -> usize {
        self.nodes.push(Node { mail, ..Node::default() });
        self.nodes.len() - 1
    }

    /// Step 3, below one node.
    fn prune(&mut self, node: usize) {
        for child in self.nodes[node].children.clone() {
            self.prune(child);
            if self.nodes[child].mail.is_some() {
                continue;
            }
            let below = self.nodes[child].children.clone();
            if below.is_empty() {
                self.set_parent(child, None);
            } else if node != ROOT || below.len() == 1 {
                for one in below {
                    self.set_parent(one, Some(node));
                }
                self.set_parent(child, None);
            }
        }
    }

    fn age(&self, node: usize) -> (i64, usize) {
        match self.nodes[node].mail {
            Some(mail) => (self.mails[mail].sent, mail),
            None => self.age(self.nodes[node].children[0]),
        }
    }

    /// Youngest siblings first.
    fn sort(&mut self, node: usize) {
        for child in self.nodes[node].children.clone() {
            self.sort(child);
        }
        let mut children = std::mem::take(&mut self.nodes[node].children);
        children.sort_by_key(|child| self.age(*child));
        self.nodes[node].children = children;
    }

    fn mail_of(&self, node: usize) -> &Mail {
        match self.nodes[node].mail {
            Some(mail) => &self.mails[mail],
            None => self.mail_of(self.nodes[node].children[0]),
        }
    }

    fn is_dummy(&self, node: usize) -> bool {
        self.nodes[node].mail.is_none()
    }

    fn is_reply(&self, node: usize) -> bool {
        !self.is_dummy(node) && self.mail_of(node).reply
    }

    fn print(&self, node: usize, out: &mut String) {
        if let Some(mail) = self.nodes[node].mail {
            out.push_str(&(mail + 1).to_string());
        }
        match self.nodes[node].children.as_slice() {
            [] => {}
            [only] if !self.is_dummy(node) => {
                out.push(' ');
                self.print(*only, out);
            }
            many => {
                out.push_str(if self.is_dummy(node) { "" } else { " " });
                for child in many {
                    out.push('(');
                    self.print(*child, out);
                    out.push(')');
                }
            }
        }
    }
}

/// The six steps.
fn naive(mails: &[Mail]) -> String {
    let mut tree = Naive { mails, nodes: vec![Node::default()] };
    let mut by_id: HashMap<u8, usize> = HashMap::new();
    let nodes: Vec<usize> = (0..mails.len()).map(|mail| tree.add(Some(mail))).collect();
    for (mail, node) in mails.iter().zip(&nodes) {
        if let Some(id) = mail.id {
            by_id.entry(id).or_insert(*node);
        }
    }
    for (mail, node) in mails.iter().zip(&nodes) {
        let mut last = None;
        for id in &mail.references {
            let next = *by_id.entry(*id).or_insert_with(|| tree.add(None));
            if let Some(last) = last
                && tree.nodes[next].parent.is_none()
                && !tree.is_below(last, next)
            {
                tree.set_parent(next, Some(last));
            }
            last = Some(next);
        }
        tree.set_parent(*node, None);
        if let Some(last) = last
            && !tree.is_below(last, *node)
        {
            tree.set_parent(*node, Some(last));
        }
    }
    for node in 1..tree.nodes.len() {
        if tree.nodes[node].parent.is_none() {
            tree.set_parent(node, Some(ROOT));
        }
    }
    tree.prune(ROOT);
    tree.sort(ROOT);
    let mut table: HashMap<&str, usize> = HashMap::new();
    for child in tree.nodes[ROOT].children.clone() {
        let subject = tree.mail_of(child).subject;
        if subject.is_empty() {
            continue;
        }
        let held = *table.entry(subject).or_insert(child);
        if !tree.is_dummy(held) && (tree.is_dummy(child) || tree.is_reply(held) && !tree.is_reply(child)) {
            table.insert(subject, child);
        }
    }
    for child in tree.nodes[ROOT].children.clone() {
        let subject = tree.mail_of(child).subject;
        let Some(held) = table.get(subject).copied().filter(|held| *held != child) else { continue };
        if tree.is_dummy(held) && tree.is_dummy(child) {
            for one in tree.nodes[child].children.clone() {
                tree.set_parent(one, Some(held));
            }
            tree.set_parent(child, None);
        } else if tree.is_dummy(held) || tree.is_reply(child) && !tree.is_reply(held) {
            tree.set_parent(child, Some(held));
        } else {
            let dummy = tree.add(None);
            tree.set_parent(dummy, Some(ROOT));
            tree.set_parent(child, Some(dummy));
            tree.set_parent(held, Some(dummy));
            table.insert(subject, dummy);
        }
    }
    tree.sort(ROOT);
    let mut out = String::new();
    for child in &tree.nodes[ROOT].children {
        out.push('(');
        tree.print(*child, &mut out);
        out.push(')');
    }
    out
}

#[test]
fn conversations() {
    for (mails, expected) in [
        (vec![], ""),
        // a chain, though the middle is missing and the order is another
        (vec![mail(3, "c", 3, &[1, 2]), mail(1, "a", 1, &[]), mail(2, "b", 9, &[])], "(2 1)(3)"),
        // children of what is not here hang together
        (vec![mail(1, "a", 1, &[7]), mail(2, "b", 2, &[7])], "((1)(2))"),
        (vec![mail(1, "a", 1, &[7])], "(1)"),
        // a reply without references, by its subject; and two that are none
        (vec![mail(1, "Re: a", 1, &[]), mail(2, "a", 2, &[])], "(2 1)"),
        (vec![mail(1, "a", 1, &[]), mail(2, "a", 2, &[]), mail(3, "Re: a", 3, &[])], "((1)(2)(3))"),
        (vec![mail(1, "", 1, &[]), mail(2, "", 2, &[])], "(1)(2)"),
        // loops, and a message that refers to itself
        (vec![mail(1, "a", 1, &[2]), mail(2, "b", 2, &[1])], "(2 1)"),
        (vec![mail(1, "a", 1, &[1])], "(1)"),
        // one id twice
        (vec![mail(1, "a", 1, &[]), mail(2, "b", 1, &[]), mail(3, "c", 3, &[1])], "(1 3)(2)"),
        // siblings by date, ties by number
        (
            vec![mail(1, "a", 1, &[]), mail(9, "b", 2, &[1]), mail(5, "c", 3, &[1]), mail(5, "d", 4, &[1])],
            "(1 (3)(4)(2))",
        ),
    ] {
        assert_eq!(threads(&mails), expected, "{mails:?}");
        assert_eq!(naive(&mails), expected, "{mails:?}");
    }
}

#[test]
fn ordered_subjects() {
    let mails = [
        mail(5, "b", 1, &[]),
        mail(1, "a", 2, &[]),
        mail(3, "Re: a", 3, &[]),
        mail(2, "a", 4, &[]),
        mail(6, "Re: b", 5, &[]),
        mail(4, "c", 6, &[]),
    ];
    let (messages, table) = tabled(&mails);
    assert_eq!(text(ordered_subject(&messages, &table)), "(2 (4)(3))(6)(1 5)");
    assert_eq!(text(ordered_subject(&[], &table)), "");
}

/// Messages that have nothing but an id and references.
fn threads_of(mails: Vec<(String, Vec<String>)>) -> String {
    let rows = (1u32..).zip(&mails).map(|(uid, (id, references))| NewRow {
        uid,
        sent: Some(0),
        keys: SortKeys {
            message_id: Some(id.clone()),
            references: references.clone(),
            ..SortKeys::default()
        },
    });
    let table = Table::default().with(rows.collect());
    let message = |uid| Sortable {
        number: uid,
        uid,
        date: 0,
        size: 0,
        modseq: ModSeq::FIRST,
        content: ContentId([0; 16]),
    };
    let messages: Vec<Sortable> = (1u32..).zip(&mails).map(|(uid, _)| message(uid)).collect();
    text(references(&messages, &table))
}

#[test]
fn a_conversation_may_be_as_deep_as_a_mailbox() {
    let lists = threads_of((1..=30_000).map(|n| (n.to_string(), vec![(n + 1).to_string()])).collect());
    assert!(lists.starts_with("(30000 29999 29998 "), "{}", &lists[..40]);
    assert!(lists.ends_with(" 2 1)"));
}

#[test]
fn a_search_for_loops_that_would_not_end_is_given_up() {
    let many = 8_000;
    let chain = (0..many).map(|n| (format!("c{n}"), vec![format!("c{}", n as i64 - 1)]));
    let children = (0..many).map(|n| (format!("a{n}"), vec![format!("h{n}")]));
    // Each has a child already, and wants to be below the end of the chain.
    let heads = (0..many).map(|n| (format!("h{n}"), vec![format!("c{}", many - 1)]));
    let lists = threads_of(chain.chain(children).chain(heads).collect());
    let numbers = lists.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty()).count();
    assert_eq!(numbers, 3 * many);
}

fn mails() -> impl Strategy<Value = Vec<Mail>> {
    let subject = prop::sample::select(vec!["", "a", "b", "c"]);
    let mail = (
        0i64..6,
        subject,
        any::<bool>(),
        prop::option::weighted(0.9, 0u8..8),
        prop::collection::vec(0u8..8, 0..4),
    );
    let mail =
        mail.prop_map(|(sent, subject, reply, id, references)| Mail { sent, subject, reply, id, references });
    prop::collection::vec(mail, 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn as_the_six_steps_say(mails in mails()) {
        prop_assert_eq!(threads(&mails), naive(&mails));
    }
}
