//! The tables of the mailboxes that were sorted last, for all sessions.

use super::order::Sortable;
use super::table::{NONE, NewRow, Table};
use crate::kept::{Kept, Rows};
use rookery_mime::SortKeys;
use rookery_store::Account;
use rookery_types::{ContentId, MailboxId};
use std::sync::Arc;

/// What is compared of the messages of mailboxes, in memory within a budget.
#[derive(Clone)]
pub struct SortTables(Kept<Table>);

impl Rows for Table {
    fn len(&self) -> usize {
        Table::len(self)
    }

    fn octets(&self) -> usize {
        Table::octets(self)
    }
}

impl SortTables {
    /// None yet; together they will take at most so many octets, about.
    pub fn new(octets_max: usize) -> SortTables {
        SortTables(Kept::new(octets_max))
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
        let known = self.0.get(mailbox, exists);
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
        self.0.put(mailbox, &table);
        (table, unread)
    }
}
