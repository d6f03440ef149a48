//! THREAD: ORDEREDSUBJECT and REFERENCES (RFC 5256 §3).
//!
//! Invariants:
//! - Nothing recurses: a conversation may be as deep as a mailbox has messages.
//! - The search for loops has a budget for the whole command; only a mailbox made for that purpose uses it up, and then
//!   the rest of its links are not made.

use super::order::{Sortable, sent};
use super::table::{NONE, Table, Text};
use bytes::{Bytes, BytesMut};
use rookery_codec::imap::print::number;

/// Steps from child to parent that one command may take in search of loops, beyond one for each message.
const LOOP_STEPS_MAX: usize = 50_000_000;

/// What is compared of one message; messages stand in the order of their sequence numbers.
#[derive(Clone, Debug)]
struct Member<'a> {
    number: u32,
    sent: i64,
    /// Equal for equal base subjects; 0 for the empty one.
    subject: u32,
    reply: bool,
    /// The number of its Message-ID, or [`NONE`].
    id: u32,
    references: &'a [u32],
}

fn members<'a>(messages: &[Sortable], table: &'a Table) -> Vec<Member<'a>> {
    let rows = table.places(messages.iter().map(|message| message.uid));
    let ranks = table.ranks(Text::Subject);
    let rank = |row: u32| usize::try_from(row).ok().and_then(|row| ranks.get(row)).copied().unwrap_or(0);
    messages
        .iter()
        .zip(rows)
        .map(|(message, row)| Member {
            number: message.number,
            sent: sent(message, row, table),
            subject: rank(row),
            reply: table.is_reply(row),
            id: table.id(row),
            references: table.references(row),
        })
        .collect()
}

/// The lists of THREAD=ORDEREDSUBJECT.
pub(crate) fn ordered_subject(messages: &[Sortable], table: &Table) -> Bytes {
    let members = members(messages, table);
    let mut order: Vec<(u32, i64, usize)> =
        members.iter().enumerate().map(|(place, member)| (member.subject, member.sent, place)).collect();
    order.sort_unstable();
    let mut threads: Vec<&[(u32, i64, usize)]> = order.chunk_by(|a, b| a.0 == b.0).collect();
    threads.sort_by_key(|thread| thread.first().map(|(_, sent, place)| (*sent, *place)));
    let mut out = BytesMut::with_capacity(messages.len() * 8);
    let put = |out: &mut BytesMut, place: usize| number(out, members.get(place).map_or(0, |one| one.number));
    for thread in threads {
        out.extend_from_slice(b"(");
        for (n, (_, _, place)) in thread.iter().enumerate() {
            match n {
                0 => {}
                1 if thread.len() == 2 => out.extend_from_slice(b" "),
                1 => out.extend_from_slice(b" ("),
                _ => out.extend_from_slice(b"("),
            }
            put(&mut out, *place);
            if n > 0 && thread.len() > 2 {
                out.extend_from_slice(b")");
            }
        }
        out.extend_from_slice(b")");
    }
    out.freeze()
}

/// The lists of THREAD=REFERENCES.
pub(crate) fn references(messages: &[Sortable], table: &Table) -> Bytes {
    let members = members(messages, table);
    let links = Links::made(&members, table.id_count());
    let mut forest = Forest::pruned(&members, &links);
    forest.gather_subjects();
    forest.print()
}

/// Messages and dummies with their parents: steps 1 and 2. The first nodes are the messages.
struct Links {
    /// [`NONE`]: a root.
    parents: Vec<u32>,
    /// How many children each node has now: one without any cannot be an ancestor.
    children: Vec<u32>,
    steps_left: usize,
}

fn at(n: u32) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

impl Links {
    fn made(members: &[Member<'_>], id_count: usize) -> Links {
        let count = u32::try_from(members.len()).unwrap_or(NONE);
        let mut links = Links {
            parents: vec![NONE; members.len()],
            children: vec![0; members.len()],
            steps_left: LOOP_STEPS_MAX.saturating_add(members.len()),
        };
        // An id belongs to the first message that has it.
        let mut owners = vec![NONE; id_count];
        for (place, member) in (0..count).zip(members) {
            if let Some(owner @ &mut NONE) = owners.get_mut(at(member.id)) {
                *owner = place;
            }
        }
        for (place, member) in (0..count).zip(members) {
            let mut last = NONE;
            for id in member.references {
                let node = links.node(&mut owners, *id);
                if last != NONE && links.parent(node) == NONE {
                    links.link(last, node);
                }
                last = node;
            }
            links.unlink(place);
            if last != NONE {
                links.link(last, place);
            }
        }
        links
    }

    /// The message with an id, or its dummy.
    fn node(&mut self, owners: &mut [u32], id: u32) -> u32 {
        let Some(owner) = owners.get_mut(at(id)) else { return NONE };
        if *owner == NONE {
            *owner = u32::try_from(self.parents.len()).unwrap_or(NONE);
            self.parents.push(NONE);
            self.children.push(0);
        }
        *owner
    }

    fn parent(&self, node: u32) -> u32 {
        self.parents.get(at(node)).copied().unwrap_or(NONE)
    }

    fn count_child(&mut self, parent: u32, change: i32) {
        if let Some(count) = self.children.get_mut(at(parent)) {
            *count = count.saturating_add_signed(change);
        }
    }

    fn unlink(&mut self, child: u32) {
        let parent = self.parent(child);
        if parent != NONE {
            self.count_child(parent, -1);
            if let Some(slot) = self.parents.get_mut(at(child)) {
                *slot = NONE;
            }
        }
    }

    /// Makes one the parent of another that has none, unless that would make a loop.
    fn link(&mut self, parent: u32, child: u32) {
        if parent == child || self.is_below(parent, child) {
            return;
        }
        if let Some(slot) = self.parents.get_mut(at(child)) {
            *slot = parent;
            self.count_child(parent, 1);
        }
    }

    /// Whether `node` stands below `above`; also when there is no more time to find out.
    fn is_below(&mut self, mut node: u32, above: u32) -> bool {
        if self.children.get(at(above)).is_none_or(|children| *children == 0) {
            return false;
        }
        while node != NONE && node != above {
            let Some(left) = self.steps_left.checked_sub(1) else { return true };
            self.steps_left = left;
            node = self.parent(node);
        }
        node == above
    }
}

/// A message under the root, or a dummy with messages below it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Top {
    Message(u32),
    /// Which of the dummies.
    Dummy(usize),
    /// It was merged with another.
    Gone,
}

/// What is left when dummies are pruned: step 3 and those that follow.
struct Forest<'a, 'b> {
    members: &'a [Member<'b>],
    /// Children of each message.
    children: Vec<Vec<u32>>,
    /// Children of the dummies under the root.
    dummies: Vec<Vec<u32>>,
    tops: Vec<Top>,
}

impl<'a, 'b> Forest<'a, 'b> {
    /// Steps 2 to 4. A message's parent is the nearest message above it. Where there are only dummies, all messages that
    /// hang on the topmost of them are children of one dummy under the root, or a root if there is but one.
    fn pruned(members: &'a [Member<'b>], links: &Links) -> Forest<'a, 'b> {
        let is_message = |node: u32| at(node) < members.len();
        let nodes = || 0..u32::try_from(links.parents.len()).unwrap_or(NONE);
        // Where each node's messages hang: on itself if it is one, else on the nearest message above, or the top.
        let mut holders = vec![NONE; links.parents.len()];
        let mut forest = Forest {
            members,
            children: vec![Vec::new(); members.len()],
            dummies: Vec::new(),
            tops: Vec::new(),
        };
        let mut path = Vec::new();
        for node in nodes() {
            let mut here = node;
            let holder = loop {
                match holders.get(at(here)) {
                    Some(known) if *known != NONE => break *known,
                    _ => path.push(here),
                }
                let parent = links.parent(here);
                if is_message(here) || parent == NONE {
                    break here;
                }
                here = parent;
            };
            for passed in path.drain(..) {
                if let Some(slot) = holders.get_mut(at(passed)) {
                    *slot = holder;
                }
            }
        }
        // Messages below dummies alone, by the topmost dummy.
        let mut orphans: Vec<(u32, u32)> = Vec::new();
        for (node, _) in nodes().zip(members) {
            let parent = links.parent(node);
            let holder = holders.get(at(parent)).copied().unwrap_or(NONE);
            match forest.children.get_mut(at(holder)) {
                Some(siblings) => siblings.push(node),
                None if holder == NONE => forest.tops.push(Top::Message(node)),
                None => orphans.push((holder, node)),
            }
        }
        orphans.sort_unstable();
        for group in orphans.chunk_by(|a, b| a.0 == b.0) {
            match group {
                [(_, only)] => forest.tops.push(Top::Message(*only)),
                group => {
                    let mut children: Vec<u32> = group.iter().map(|(_, node)| *node).collect();
                    forest.sort(&mut children);
                    forest.tops.push(Top::Dummy(forest.dummies.len()));
                    forest.dummies.push(children);
                }
            }
        }
        forest.sort_tops();
        forest
    }

    fn member(&self, node: u32) -> Option<&Member<'b>> {
        self.members.get(at(node))
    }

    /// When a message was sent and its place, which decides between equal dates.
    fn age(&self, node: u32) -> (i64, u32) {
        (self.member(node).map_or(i64::MAX, |member| member.sent), node)
    }

    fn sort(&self, siblings: &mut [u32]) {
        siblings.sort_unstable_by_key(|node| self.age(*node));
    }

    /// The message that stands for a top: its first child for a dummy.
    fn first(&self, top: Top) -> u32 {
        match top {
            Top::Message(node) => node,
            Top::Dummy(dummy) => {
                self.dummies.get(dummy).and_then(|children| children.first()).map_or(NONE, |n| *n)
            }
            Top::Gone => NONE,
        }
    }

    fn sort_tops(&mut self) {
        let mut tops = std::mem::take(&mut self.tops);
        tops.retain(|top| *top != Top::Gone);
        tops.sort_by_cached_key(|top| self.age(self.first(*top)));
        self.tops = tops;
    }

    fn is_reply(&self, top: Top) -> bool {
        matches!(top, Top::Message(node) if self.member(node).is_some_and(|member| member.reply))
    }

    fn subject(&self, top: Top) -> u32 {
        self.member(self.first(top)).map_or(0, |member| member.subject)
    }

    /// Steps 5 and 6.
    fn gather_subjects(&mut self) {
        let subjects: Vec<u32> = self.tops.iter().map(|top| self.subject(*top)).collect();
        // A subject's place among the tops.
        let size = subjects.iter().max().map_or(0, |max| at(*max).saturating_add(1));
        let mut table: Vec<usize> = vec![usize::MAX; size];
        for (place, (top, subject)) in self.tops.iter().zip(&subjects).enumerate() {
            if *subject == 0 {
                continue;
            }
            let Some(slot) = table.get_mut(at(*subject)) else { continue };
            let replaces = match self.tops.get(*slot) {
                None => true,
                Some(Top::Message(_)) => {
                    let held = self.tops.get(*slot).copied().unwrap_or(Top::Gone);
                    matches!(top, Top::Dummy(_)) || self.is_reply(held) && !self.is_reply(*top)
                }
                Some(_) => false,
            };
            if replaces {
                *slot = place;
            }
        }
        for (place, subject) in subjects.into_iter().enumerate() {
            let Some(holder) = table.get(at(subject)).copied().filter(|_| subject != 0) else { continue };
            if holder != place {
                self.merge(place, holder);
            }
        }
        let mut children = std::mem::take(&mut self.children);
        let mut dummies = std::mem::take(&mut self.dummies);
        children.iter_mut().chain(&mut dummies).for_each(|siblings| self.sort(siblings));
        (self.children, self.dummies) = (children, dummies);
        self.sort_tops();
    }

    /// Step 5 C: merges the top at a place with the one that holds their subject.
    fn merge(&mut self, place: usize, holder: usize) {
        let (Some(current), Some(held)) = (self.tops.get(place).copied(), self.tops.get(holder).copied())
        else {
            return;
        };
        let reply = self.is_reply(current) && !self.is_reply(held);
        let gone = match (current, held) {
            (Top::Dummy(current), Top::Dummy(held)) => {
                let moved = self.dummies.get_mut(current).map(std::mem::take).unwrap_or_default();
                if let Some(children) = self.dummies.get_mut(held) {
                    children.extend(moved);
                }
                true
            }
            (Top::Message(node), Top::Dummy(held)) => {
                if let Some(children) = self.dummies.get_mut(held) {
                    children.push(node);
                }
                true
            }
            (Top::Message(node), Top::Message(held)) if reply => {
                if let Some(children) = self.children.get_mut(at(held)) {
                    children.push(node);
                }
                true
            }
            (Top::Message(node), Top::Message(other)) => {
                if let Some(slot) = self.tops.get_mut(holder) {
                    *slot = Top::Dummy(self.dummies.len());
                }
                self.dummies.push(vec![other, node]);
                true
            }
            // A dummy holds its subject before any message does, and what is gone holds none.
            _ => false,
        };
        if gone && let Some(slot) = self.tops.get_mut(place) {
            *slot = Top::Gone;
        }
    }

    /// ```abnf
    /// thread-list    = "(" (thread-members / thread-nested) ")"
    /// thread-members = nz-number *(SP nz-number) [SP thread-nested]
    /// thread-nested  = 2*thread-list
    /// ```
    fn print(&self) -> Bytes {
        enum Todo {
            Close,
            /// In parentheses.
            List(u32),
            /// A space before it.
            Only(u32),
        }
        let mut out = BytesMut::with_capacity(self.members.len() * 8);
        let mut todo = Vec::new();
        for top in &self.tops {
            match top {
                Top::Message(node) => todo.push(Todo::List(*node)),
                Top::Dummy(dummy) => {
                    out.extend_from_slice(b"(");
                    todo.push(Todo::Close);
                    let children = self.dummies.get(*dummy).map_or(&[][..], Vec::as_slice);
                    todo.extend(children.iter().rev().map(|node| Todo::List(*node)));
                }
                Top::Gone => {}
            }
            while let Some(next) = todo.pop() {
                let node = match next {
                    Todo::Close => {
                        out.extend_from_slice(b")");
                        continue;
                    }
                    Todo::List(node) => {
                        out.extend_from_slice(b"(");
                        todo.push(Todo::Close);
                        node
                    }
                    Todo::Only(node) => {
                        out.extend_from_slice(b" ");
                        node
                    }
                };
                number(&mut out, self.member(node).map_or(0, |member| member.number));
                match self.children.get(at(node)).map_or(&[][..], Vec::as_slice) {
                    [] => {}
                    [only] => todo.push(Todo::Only(*only)),
                    many => {
                        out.extend_from_slice(b" ");
                        todo.extend(many.iter().rev().map(|node| Todo::List(*node)));
                    }
                }
            }
        }
        out.freeze()
    }
}

#[cfg(test)]
mod tests;
