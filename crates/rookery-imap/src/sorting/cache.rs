//! The tables of the mailboxes that were sorted last, for all sessions.

use super::order::Sortable;
use super::table::{NONE, NewRow, Table};
use parking_lot::Mutex;
use rookery_mime::SortKeys;
use rookery_store::Account;
use rookery_types::{ContentId, MailboxId};
use std::collections::HashMap;
use std::sync::Arc;

/// Rows beyond twice the messages sorted before the rows of expunged messages are thrown away.
const IDLE_ROWS_MAX: usize = 4_096;

/// What is compared of the messages of mailboxes, in memory within a budget.
#[derive(Clone)]
pub struct SortTables(Arc<Mutex<Tables>>);

struct Tables {
    octets_max: usize,
    octets: usize,
    /// Counts uses, to know which table was used last.
    clock: u64,
    tables: HashMap<MailboxId, Entry>,
}

struct Entry {
    table: Arc<Table>,
    octets: usize,
    used: u64,
}

impl SortTables {
    /// None yet; together they will take at most so many octets, about.
    pub fn new(octets_max: usize) -> SortTables {
        SortTables(Arc::new(Mutex::new(Tables { octets_max, octets: 0, clock: 0, tables: HashMap::new() })))
    }

    /// A table with all of these messages of a mailbox, and how many of them could not be read; these have no row.
    /// `exists`: how many messages the mailbox has. Reads the disk: call it where blocking is allowed.
    pub(crate) fn table(
        &self,
        account: &Account,
        mailbox: MailboxId,
        exists: usize,
        messages: &[Sortable],
    ) -> (Arc<Table>, usize) {
        let known = self.get(mailbox);
        // Rows of messages that are gone are not worth their memory for ever.
        let known =
            known.filter(|table| table.len() <= exists.saturating_mul(2).saturating_add(IDLE_ROWS_MAX));
        let known = known.unwrap_or_default();
        let rows = known.places(messages.iter().map(|message| message.uid));
        let missing = messages.iter().zip(rows).filter(|(_, row)| *row == NONE);
        let missing: Vec<(u32, ContentId)> =
            missing.map(|(message, _)| (message.uid, message.content)).collect();
        if missing.is_empty() {
            return (known, 0);
        }
        let contents: Vec<ContentId> = missing.iter().map(|(_, content)| *content).collect();
        let mut new = Vec::with_capacity(missing.len());
        let mut unread = 0;
        account.facts_of(&contents, |at, facts| match (missing.get(at), facts) {
            (Some((uid, _)), Ok(facts)) => new.push(NewRow {
                uid: *uid,
                sent: facts.sent.map(|sent| sent.unix_seconds()),
                keys: SortKeys::of_envelope(&facts.envelope, &facts.message_ids),
            }),
            (_, Err(error)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a message cannot be sorted");
                unread += 1;
            }
            (None, Ok(_)) => {}
        });
        let table = Arc::new(known.with(new));
        self.put(mailbox, &table);
        (table, unread)
    }

    fn get(&self, mailbox: MailboxId) -> Option<Arc<Table>> {
        let mut tables = self.0.lock();
        tables.clock += 1;
        let now = tables.clock;
        let entry = tables.tables.get_mut(&mailbox)?;
        entry.used = now;
        Some(entry.table.clone())
    }

    fn put(&self, mailbox: MailboxId, table: &Arc<Table>) {
        let octets = table.octets();
        let mut tables = self.0.lock();
        tables.remove(mailbox);
        if octets > tables.octets_max {
            return;
        }
        while tables.octets + octets > tables.octets_max {
            let oldest = tables.tables.iter().min_by_key(|(_, entry)| entry.used).map(|(id, _)| *id);
            match oldest {
                Some(oldest) => tables.remove(oldest),
                None => break,
            }
        }
        tables.clock += 1;
        let used = tables.clock;
        tables.octets += octets;
        tables.tables.insert(mailbox, Entry { table: table.clone(), octets, used });
    }
}

impl Tables {
    fn remove(&mut self, mailbox: MailboxId) {
        if let Some(entry) = self.tables.remove(&mailbox) {
            self.octets -= entry.octets;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rookery_types::AccountId;

    fn table(rows: u32) -> Arc<Table> {
        let row = |uid| NewRow { uid, sent: None, keys: SortKeys::default() };
        Arc::new(Table::default().with((1..=rows).map(row).collect()))
    }

    #[test]
    fn the_table_used_longest_ago_goes_first() {
        let id = |number| MailboxId { account: AccountId::FIRST, number };
        let tables = SortTables::new(table(10).octets() * 2);
        tables.put(id(1), &table(10));
        tables.put(id(2), &table(10));
        tables.get(id(1));
        tables.put(id(3), &table(10));
        assert!(tables.get(id(1)).is_some() && tables.get(id(2)).is_none() && tables.get(id(3)).is_some());
        tables.put(id(4), &table(1_000));
        assert!(tables.get(id(4)).is_none() && tables.get(id(1)).is_some());
        tables.put(id(1), &table(20));
        assert_eq!(tables.0.lock().octets, table(20).octets());
    }
}
