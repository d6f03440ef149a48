//! What is compared of the messages of one mailbox, in columns.
//!
//! Invariants:
//! - Rows stand in ascending order of UID. A table never changes once built; only ranks are found out when first asked.
//! - Equal message ids have equal numbers, and equal texts equal ranks; the empty text has rank 0.

use rookery_mime::SortKeys;
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::OnceLock;

/// A number that stands for none.
pub(crate) const NONE: u32 = u32::MAX;
/// The texts of a message.
const TEXTS: usize = 6;

/// One of the texts that are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Text {
    Subject,
    From,
    To,
    Cc,
    DisplayFrom,
    DisplayTo,
}

#[derive(Clone, Copy)]
struct Row {
    uid: u32,
    /// Seconds since 1970; `i64::MIN`: there is no sent date.
    sent: i64,
    /// Where the texts lie; each goes on where the one before it ends.
    start: u32,
    ends: [u32; TEXTS],
    /// The number of the message's own id, or [`NONE`].
    id: u32,
    /// Where its references lie, and how many there are.
    references: u32,
    reference_count: u32,
    reply: bool,
}

/// What is compared of one message that a table does not have yet.
pub(crate) struct NewRow {
    pub(crate) uid: u32,
    /// Seconds since 1970.
    pub(crate) sent: Option<i64>,
    pub(crate) keys: SortKeys,
}

/// The columns.
#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<Row>,
    texts: String,
    references: Vec<u32>,
    /// Hashes of message ids to their numbers.
    numbers: HashMap<u64, u32>,
    hasher: RandomState,
    ranks: [OnceLock<Box<[u32]>>; TEXTS],
}

impl Table {
    /// With more rows. Those whose UID is there already are left out, and so are those that there is no room to count.
    pub(crate) fn with(&self, mut new: Vec<NewRow>) -> Table {
        new.sort_by_key(|row| row.uid);
        let mut table = Table {
            rows: self.rows.clone(),
            texts: self.texts.clone(),
            references: self.references.clone(),
            numbers: self.numbers.clone(),
            hasher: self.hasher.clone(),
            ranks: Default::default(),
        };
        table.rows.reserve(new.len());
        for row in new {
            table.add(row);
        }
        // Stable, so that of two rows of one UID the older stays.
        table.rows.sort_by_key(|row| row.uid);
        table.rows.dedup_by_key(|row| row.uid);
        table
    }

    fn add(&mut self, new: NewRow) -> Option<()> {
        let keys = new.keys;
        let texts = [&keys.subject, &keys.from, &keys.to, &keys.cc, &keys.display_from, &keys.display_to];
        let octets: usize = texts.iter().map(|text| text.len()).sum();
        u32::try_from(self.texts.len().checked_add(octets)?).ok()?;
        let start = u32::try_from(self.texts.len()).ok()?;
        let references = u32::try_from(self.references.len()).ok()?;
        let reference_count = u32::try_from(keys.references.len()).ok()?;
        let mut ends = [0; TEXTS];
        for (text, end) in texts.into_iter().zip(&mut ends) {
            self.texts.push_str(text);
            *end = u32::try_from(self.texts.len()).ok()?;
        }
        for id in &keys.references {
            let number = self.number(id);
            self.references.push(number);
        }
        let id = keys.message_id.as_deref().map_or(NONE, |id| self.number(id));
        let sent = new.sent.unwrap_or(i64::MIN);
        let reply = keys.is_reply_or_forward;
        self.rows.push(Row { uid: new.uid, sent, start, ends, id, references, reference_count, reply });
        Some(())
    }

    /// The number of a message id. Ids whose hashes of 64 bits meet would be taken for one; nobody can make them meet,
    /// since the hash is keyed.
    fn number(&mut self, id: &str) -> u32 {
        let next = u32::try_from(self.numbers.len()).unwrap_or(NONE);
        *self.numbers.entry(self.hasher.hash_one(id)).or_insert(next)
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// How many message ids are known.
    pub(crate) fn id_count(&self) -> usize {
        self.numbers.len()
    }

    /// The rows of ascending UIDs; [`NONE`] for those that are not there.
    pub(crate) fn places(&self, uids: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut at = 0;
        uids.map(|uid| {
            while self.rows.get(at).is_some_and(|row| row.uid < uid) {
                at += 1;
            }
            let here = self.rows.get(at).is_some_and(|row| row.uid == uid);
            if here { u32::try_from(at).unwrap_or(NONE) } else { NONE }
        })
        .collect()
    }

    fn row(&self, place: u32) -> Option<&Row> {
        self.rows.get(usize::try_from(place).ok()?)
    }

    /// When the message at a place was sent.
    pub(crate) fn sent(&self, place: u32) -> Option<i64> {
        self.row(place).map(|row| row.sent).filter(|sent| *sent != i64::MIN)
    }

    /// Whether its subject says that it is a reply or a forward.
    pub(crate) fn is_reply(&self, place: u32) -> bool {
        self.row(place).is_some_and(|row| row.reply)
    }

    /// The number of its own id, or [`NONE`].
    pub(crate) fn id(&self, place: u32) -> u32 {
        self.row(place).map_or(NONE, |row| row.id)
    }

    /// The numbers of its references.
    pub(crate) fn references(&self, place: u32) -> &[u32] {
        let range = self.row(place).map(|row| {
            let start = usize::try_from(row.references).unwrap_or(usize::MAX);
            start..start.saturating_add(usize::try_from(row.reference_count).unwrap_or(0))
        });
        range.and_then(|range| self.references.get(range)).unwrap_or(&[])
    }

    fn text(&self, row: &Row, text: usize) -> &str {
        let at = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let start = text.checked_sub(1).and_then(|before| row.ends.get(before)).unwrap_or(&row.start);
        let end = row.ends.get(text).unwrap_or(start);
        self.texts.get(at(*start)..at(*end)).unwrap_or("")
    }

    /// For each row where one of its texts stands among all of them: equal texts have equal ranks.
    pub(crate) fn ranks(&self, text: Text) -> &[u32] {
        let column = text as usize;
        match self.ranks.get(column) {
            Some(ranks) => ranks.get_or_init(|| self.rank(column)),
            None => &[],
        }
    }

    fn rank(&self, column: usize) -> Box<[u32]> {
        let mut order: Vec<(u64, &str, u32)> = (0u32..)
            .zip(&self.rows)
            .map(|(place, row)| {
                let text = self.text(row, column);
                (prefix(text), text, place)
            })
            .collect();
        order.sort_unstable();
        let mut ranks = vec![0; order.len()].into_boxed_slice();
        let mut rank = 0;
        let mut last = "";
        for (_, text, place) in order {
            if text != last {
                rank += 1;
                last = text;
            }
            if let Some(slot) = usize::try_from(place).ok().and_then(|place| ranks.get_mut(place)) {
                *slot = rank;
            }
        }
        ranks
    }

    /// Octets of memory, about, with all ranks.
    pub(crate) fn octets(&self) -> usize {
        self.rows.len() * (size_of::<Row>() + TEXTS * 4)
            + self.texts.len()
            + self.references.len() * 4
            + self.numbers.len() * 24
    }
}

/// The first octets of a text, as a number that orders as they do.
fn prefix(text: &str) -> u64 {
    let mut octets = [0; 8];
    let head = text.as_bytes().get(..8).unwrap_or(text.as_bytes());
    octets.iter_mut().zip(head).for_each(|(slot, octet)| *slot = *octet);
    u64::from_be_bytes(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(uid: u32, subject: &str, id: Option<&str>, references: &[&str]) -> NewRow {
        let keys = SortKeys {
            subject: subject.into(),
            message_id: id.map(str::to_string),
            references: references.iter().map(|id| id.to_string()).collect(),
            ..SortKeys::default()
        };
        NewRow { uid, sent: Some(i64::from(uid)), keys }
    }

    #[test]
    fn rows_are_found_and_ranked_in_whatever_order_they_came() {
        let first =
            Table::default().with(vec![row(5, "B", Some("x"), &[]), row(2, "A LONG ONE", None, &["x"])]);
        let table = first.with(vec![
            row(3, "", Some("y"), &["x", "z"]),
            row(9, "B", None, &[]),
            row(5, "C", None, &[]),
        ]);
        assert_eq!(table.len(), 4);
        assert_eq!(table.places([1, 2, 3, 4, 5, 9].into_iter()), [NONE, 0, 1, NONE, 2, 3]);
        assert_eq!(table.ranks(Text::Subject), [1, 0, 2, 2]);
        assert_eq!(table.references(0), [table.id(2)]);
        assert_eq!(table.references(1).first(), Some(&table.id(2)));
        assert_eq!(table.id(3), NONE);
        assert_eq!(table.sent(2), Some(5));
        assert_eq!(table.id_count(), 3);
        assert_eq!(table.ranks(Text::Cc), [0; 4]);
    }
}
