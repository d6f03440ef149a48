//! What is kept in memory of mailboxes, for all sessions, within a budget.

use parking_lot::Mutex;
use rookery_types::MailboxId;
use std::collections::HashMap;
use std::sync::Arc;

/// Rows beyond twice the messages of a mailbox before those of messages that are gone are thrown away.
const IDLE_ROWS_MAX: usize = 4_096;

/// Something that is known of the messages of a mailbox, one row for each message.
pub(crate) trait Rows: Default {
    /// How many there are.
    fn len(&self) -> usize;
    /// Octets of memory, about.
    fn octets(&self) -> usize;
}

/// The rows of the mailboxes that were asked last.
pub(crate) struct Kept<T>(Arc<Mutex<Mailboxes<T>>>);

impl<T> Clone for Kept<T> {
    fn clone(&self) -> Kept<T> {
        Kept(self.0.clone())
    }
}

struct Mailboxes<T> {
    octets_max: usize,
    octets: usize,
    /// Counts uses, to know which was used last.
    clock: u64,
    mailboxes: HashMap<MailboxId, Entry<T>>,
}

struct Entry<T> {
    rows: Arc<T>,
    octets: usize,
    used: u64,
}

impl<T: Rows> Kept<T> {
    /// Nothing yet; all together will take at most so many octets, about.
    pub(crate) fn new(octets_max: usize) -> Kept<T> {
        let mailboxes = HashMap::new();
        Kept(Arc::new(Mutex::new(Mailboxes { octets_max, octets: 0, clock: 0, mailboxes })))
    }

    /// What is known of a mailbox that has so many messages; nothing if most of it is of messages that are gone.
    pub(crate) fn get(&self, mailbox: MailboxId, exists: usize) -> Arc<T> {
        let mut kept = self.0.lock();
        kept.clock += 1;
        let now = kept.clock;
        let Some(entry) = kept.mailboxes.get_mut(&mailbox) else { return Arc::default() };
        entry.used = now;
        match entry.rows.len() <= exists.saturating_mul(2).saturating_add(IDLE_ROWS_MAX) {
            true => entry.rows.clone(),
            false => Arc::default(),
        }
    }

    /// Keeps what is known of a mailbox, if it is not too much. What was used longest ago makes room.
    pub(crate) fn put(&self, mailbox: MailboxId, rows: &Arc<T>) {
        let octets = rows.octets();
        let mut kept = self.0.lock();
        kept.remove(mailbox);
        if octets > kept.octets_max {
            return;
        }
        while kept.octets + octets > kept.octets_max {
            let oldest = kept.mailboxes.iter().min_by_key(|(_, entry)| entry.used).map(|(id, _)| *id);
            match oldest {
                Some(oldest) => kept.remove(oldest),
                None => break,
            }
        }
        kept.clock += 1;
        let used = kept.clock;
        kept.octets += octets;
        kept.mailboxes.insert(mailbox, Entry { rows: rows.clone(), octets, used });
    }
}

impl<T> Mailboxes<T> {
    fn remove(&mut self, mailbox: MailboxId) {
        if let Some(entry) = self.mailboxes.remove(&mailbox) {
            self.octets -= entry.octets;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rookery_types::AccountId;

    #[derive(Default)]
    struct Counted(usize);

    impl Rows for Counted {
        fn len(&self) -> usize {
            self.0
        }

        fn octets(&self) -> usize {
            self.0
        }
    }

    #[test]
    fn what_was_used_longest_ago_goes_first() {
        let id = |number| MailboxId { account: AccountId::FIRST, number };
        let kept: Kept<Counted> = Kept::new(20);
        let known = |number| kept.get(id(number), 10).0;
        for number in [1, 2] {
            kept.put(id(number), &Arc::new(Counted(10)));
        }
        known(1);
        kept.put(id(3), &Arc::new(Counted(10)));
        assert_eq!((known(1), known(2), known(3)), (10, 0, 10));
        kept.put(id(4), &Arc::new(Counted(21)));
        assert_eq!((known(4), known(1)), (0, 10));
        kept.put(id(1), &Arc::new(Counted(5)));
        assert_eq!(kept.0.lock().octets, 15);
    }

    #[test]
    fn rows_of_messages_that_are_gone_are_not_kept_for_ever() {
        let id = MailboxId { account: AccountId::FIRST, number: 1 };
        let kept: Kept<Counted> = Kept::new(1 << 20);
        kept.put(id, &Arc::new(Counted(10_000)));
        assert_eq!(kept.get(id, 9_000).0, 10_000);
        assert_eq!(kept.get(id, 100).0, 0);
    }
}
