//! What was delivered into an account a short while ago, so that a second message of the same sender with the same
//! Message-ID is not stored again in the same mailbox.
//!
//! Invariants:
//! - A delivery is remembered in the batch that stores its message: what is remembered is in the mailbox, and the other
//!   way round, through crashes as well.
//! - The sender belongs to what is remembered, so that nobody keeps another's mail away by guessing its Message-ID, and so
//!   that a mailing list's copy and the writer's own are two messages. It is a hash keyed with the store's secret.
//! - It is bounded: 256 records for an account, each of at most [`SLOT_ENTRIES`] deliveries, of which the oldest go
//!   first. Those beyond the window count for nothing, and go when their record is written next.

use crate::account::Account;
use crate::append::{Along, Appended, NewMessage};
use crate::encoding::{Damaged, Encoder, open, seal};
use crate::error::StoreError;
use crate::keys;
use crate::sequencer::Transaction;
use crate::store::now_unix;
use bytes::Bytes;
use rookery_kv::engine::{Space, prefix_end};
use rookery_types::{AccountId, MailboxId, OperationId};
use std::time::Duration;

/// Deliveries that one record remembers; the first octet of a hash says which record that is.
const SLOT_ENTRIES: usize = 16;

/// What a message is known by while it must not be stored twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    /// The envelope's sender.
    pub sender: String,
    /// Its Message-ID.
    pub message_id: String,
    /// For how long it is remembered.
    pub window: Duration,
}

/// One delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Delivery {
    hash: [u8; 16],
    unix_seconds: u32,
}

/// The deliveries of one record, the newest first.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Deliveries(Vec<Delivery>);

impl Deliveries {
    fn encode(&self, key: &[u8]) -> Bytes {
        let mut e = Encoder::new(1);
        e.varint(self.0.len() as u64);
        for delivery in &self.0 {
            e.raw(&delivery.hash).u32(delivery.unix_seconds);
        }
        seal(Space::Account, key, e)
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Result<Deliveries, Damaged> {
        open(Space::Account, key, value, |d| {
            d.layout(1)?;
            let count = d.count().filter(|count| (1..=SLOT_ENTRIES).contains(count))?;
            let mut deliveries = Vec::with_capacity(count);
            for _ in 0..count {
                let delivery = Delivery { hash: d.array()?, unix_seconds: d.u32()? };
                if key.last() != delivery.hash.first() {
                    return None;
                }
                deliveries.push(delivery);
            }
            Some(Deliveries(deliveries))
        })
    }

    /// Whether a delivery is among them that is not older than the window. One of the future, of before the clock was
    /// set back, counts as long as it could have been made had the clock gone on.
    fn knows(&self, hash: &[u8; 16], now: u32, window: u32) -> bool {
        self.0.iter().any(|known| known.hash == *hash && known.is_within(now, window))
    }

    fn remember(&mut self, hash: [u8; 16], now: u32, window: u32) {
        self.0.retain(|known| known.hash != hash && known.is_within(now, window));
        self.0.insert(0, Delivery { hash, unix_seconds: now });
        self.0.truncate(SLOT_ENTRIES);
    }
}

impl Delivery {
    fn is_within(&self, now: u32, window: u32) -> bool {
        now.abs_diff(self.unix_seconds) < window
    }
}

fn hash(account: &Account, mailbox: MailboxId, once: &Once) -> [u8; 16] {
    let mut hasher = blake3::Hasher::new_keyed(account.store.secret());
    hasher.update(&mailbox.number.to_le_bytes());
    hasher.update(&(once.sender.len() as u64).to_le_bytes());
    hasher.update(once.sender.as_bytes()).update(once.message_id.as_bytes());
    let mut hash = [0; 16];
    hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    hash
}

fn seconds(once: &Once) -> u32 {
    u32::try_from(once.window.as_secs()).unwrap_or(u32::MAX)
}

fn decoded(key: &[u8], value: Option<Bytes>) -> Result<Deliveries, StoreError> {
    match value {
        Some(value) => Deliveries::decode(key, &value).map_err(StoreError::Damaged),
        None => Ok(Deliveries::default()),
    }
}

impl Account {
    /// Puts a message into a mailbox, unless one that is known by the same was put there within the window: then `None`.
    /// Either way, when it returns the message is on stable storage. `operations`: as [`Account::append_as`] has them.
    pub async fn append_once(
        &self,
        to: MailboxId,
        message: NewMessage,
        once: &Once,
        operations: &[OperationId],
    ) -> Result<Option<Appended>, StoreError> {
        let hash = hash(self, to, once);
        let key = keys::deliveries(self.id(), hash[0]);
        let known = decoded(&key, self.store.engine().get(Space::Account, &key)?)?;
        // Known durably: nothing needs to be written to find that out.
        match known.knows(&hash, now_unix(), seconds(once)) {
            true => Ok(None),
            false => {
                let along = Along::Remembered { once: Some(once), operations };
                self.append_along(to, vec![message], Vec::new(), along).await
            }
        }
    }
}

/// Whether this change comes too late: the message is there, or on its way there with a change before this one.
pub(crate) fn is_known(
    t: &Transaction<'_>,
    account: &Account,
    to: MailboxId,
    once: &Once,
) -> Result<bool, StoreError> {
    let hash = hash(account, to, once);
    let key = keys::deliveries(account.id(), hash[0]);
    Ok(decoded(&key, t.get(Space::Account, &key)?)?.knows(&hash, now_unix(), seconds(once)))
}

/// Remembers the delivery of this change.
pub(crate) fn remember(
    t: &mut Transaction<'_>,
    account: &Account,
    to: MailboxId,
    once: &Once,
) -> Result<(), StoreError> {
    let hash = hash(account, to, once);
    let key = keys::deliveries(account.id(), hash[0]);
    let mut deliveries = decoded(&key, t.get(Space::Account, &key)?)?;
    deliveries.remember(hash, now_unix(), seconds(once));
    let value = deliveries.encode(&key);
    t.put(Space::Account, key.to_vec(), value);
    Ok(())
}

/// Forgets all of an account's: some of them may be of messages that were never stored.
pub(crate) fn forget(t: &mut Transaction<'_>, id: AccountId) -> Result<(), StoreError> {
    let prefix = keys::all_deliveries(id);
    for (key, _) in t.scan(Space::Account, &prefix, prefix_end(&prefix).as_deref(), usize::MAX)? {
        t.delete(Space::Account, key);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{NewAccount, Store, StoreOptions};
    use rookery_kv::memory::MemoryEngine;
    use rookery_kv::sim::SimDisk;
    use rookery_types::{InternalDate, MailboxPath, SystemFlags};
    use std::sync::Arc;

    fn opened(disk: &SimDisk) -> Store {
        let options = StoreOptions { background: None, ..StoreOptions::default() };
        let engine = Arc::new(MemoryEngine::new(disk.clone()));
        Store::open(options, engine, Arc::new(disk.files())).expect("it opens")
    }

    fn message(store: &Store, text: &str) -> NewMessage {
        let mut spool = store.spool();
        spool.push(text.as_bytes()).expect("it takes octets");
        let (body, date) = (spool.finish().expect("it is whole"), InternalDate::from_unix(1));
        NewMessage { body, flags: SystemFlags::NONE, keywords: vec![], date }
    }

    fn once(sender: &str, message_id: &str) -> Once {
        Once { sender: sender.into(), message_id: message_id.into(), window: Duration::from_secs(3600) }
    }

    fn id() -> AccountId {
        AccountId::new(1).expect("it is not zero")
    }

    async fn account(store: &Store) -> Account {
        let mailboxes = ["INBOX", "Lists"].map(|name| (MailboxPath::new(name).expect("a path"), vec![]));
        let new = NewAccount { mailboxes: mailboxes.to_vec(), ..NewAccount::default() };
        store.create_account(id(), new).await.expect("it is made")
    }

    #[tokio::test]
    async fn a_delivery_is_remembered_through_a_restart() {
        let disk = SimDisk::new(3);
        let store = opened(&disk);
        let account = account(&store).await;
        let at = |name| account.tree().get(&MailboxPath::new(name).expect("a path")).expect("it is there");
        let (inbox, lists) = (at("INBOX"), at("Lists"));
        let one = once("a@b.test", "<1@b.test>");
        let deliver = async |account: &Account, to, text: &str, once: &Once| {
            let message = message(&account.store, text);
            account.append_once(to, message, once, &[]).await.expect("it delivers").is_some()
        };
        assert!(deliver(&account, inbox, "a: 1\r\n\r\n", &one).await);
        assert!(!deliver(&account, inbox, "a: 2\r\n\r\n", &one).await);
        // Another mailbox, another sender and another message are others.
        assert!(deliver(&account, lists, "a: 2\r\n\r\n", &one).await);
        assert!(deliver(&account, inbox, "a: 2\r\n\r\n", &once("c@b.test", "<1@b.test>")).await);
        assert!(deliver(&account, inbox, "a: 3\r\n\r\n", &once("a@b.test", "<2@b.test>")).await);
        // Two at the same moment: one of them is stored.
        let two = once("a@b.test", "<3@b.test>");
        let (first, second) = tokio::join!(
            deliver(&account, inbox, "a: 4\r\n\r\n", &two),
            deliver(&account, inbox, "a: 5\r\n\r\n", &two)
        );
        assert!(first != second);
        store.close().await;
        drop((account, store));
        let store = opened(&disk);
        let account = store.account(id()).await.expect("it is there");
        assert!(!deliver(&account, inbox, "a: 2\r\n\r\n", &one).await);
        assert!(deliver(&account, inbox, "a: 2\r\n\r\n", &Once { window: Duration::ZERO, ..one }).await);
        assert_eq!(account.tree().state(inbox).expect("it is there").summary.exists, 5);
    }

    #[test]
    fn deliveries_are_bounded_in_time_and_number() {
        let mut deliveries = Deliveries::default();
        let hash = |n: u8| [n; 16];
        for n in 0..=SLOT_ENTRIES as u8 {
            deliveries.remember(hash(n), 1000 + u32::from(n), 100);
        }
        assert_eq!(deliveries.0.len(), SLOT_ENTRIES);
        assert!(!deliveries.knows(&hash(0), 1020, 100) && deliveries.knows(&hash(1), 1020, 100));
        assert!(deliveries.knows(&hash(1), 1100, 100) && !deliveries.knows(&hash(1), 1101, 100));
        // The clock is set back: what was delivered is not held back for ever.
        assert!(deliveries.knows(&hash(1), 950, 100) && !deliveries.knows(&hash(1), 900, 100));
        deliveries.remember(hash(1), 2000, 100);
        assert_eq!(deliveries.0.len(), 1);
    }
}
