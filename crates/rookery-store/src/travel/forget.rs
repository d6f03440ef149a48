//! How what is here of an account goes that is not at home here: it was to come and does not, or it has moved away.
//!
//! Invariants:
//! - Nothing goes but under the account's berth, and in a state in which it is at home elsewhere.
//! - The account's own record goes last, if it goes: what a crash leaves half forgotten is known for what it is, and is
//!   forgotten later, or comes again over it.

use super::ranges::{self, SPACES};
use crate::committer::Pending;
use crate::error::StoreError;
use crate::keys;
use crate::records::{AccountRecord, AccountState, ContentRecord, Travel, encode_deleted_mailbox};
use crate::store::{Store, now_unix};
use bytes::Bytes;
use rookery_kv::engine::{Batch, Space};
use rookery_types::{AccountId, Epoch, JobId};

/// Records that are deleted in one step.
const STEP_RECORDS: usize = 500;

impl Store {
    /// Gives up receiving an account: all that came of it goes. Nothing happens if the move is another, or none.
    pub async fn cancel_receiving(&self, id: AccountId, job: JobId) -> Result<(), StoreError> {
        let berth = self.berths().of(id);
        let mut connection = berth.lock().await;
        let Some(record) = self.account_record(id)? else { return Ok(()) };
        let travel = match record.state {
            AccountState::Receiving(travel) | AccountState::Ready(travel) if travel.job == job => travel,
            _ => return Ok(()),
        };
        *connection += 1;
        // Once it has begun to go it is not ready for anything.
        let mut batch = Batch::new();
        let receiving = AccountState::Receiving(Travel { modseq: 0, ..travel });
        let record = AccountRecord { state: receiving, ..record };
        batch.put(Space::Account, keys::account_record(id).to_vec(), record.encode(id));
        self.commit_foreign(batch).await?;
        while delete_step(self, id).await? {}
        let mut batch = Batch::new();
        if record.incarnation > 1 {
            // It was at home here once: it is known where it is.
            let epoch = Epoch(travel.epoch.0.saturating_sub(1));
            let moved = AccountState::Moved(Travel { epoch, ..travel });
            let record = AccountRecord { state: moved, ..record };
            batch.put(Space::Account, keys::account_record(id).to_vec(), record.encode(id));
        } else {
            batch.delete(Space::Account, keys::account_record(id).to_vec());
        }
        batch.delete(Space::Meta, keys::job(id));
        self.commit_foreign(batch).await?;
        Ok(())
    }

    /// An account that was released has been taken home elsewhere, and all know of it: what is here goes after the
    /// retention. Nothing happens if it was not released.
    pub async fn has_moved(&self, id: AccountId) -> Result<(), StoreError> {
        let account = match self.load_account(id) {
            Ok(Some(account)) => account,
            Ok(None) | Err(StoreError::Moved) => return self.drop_job(id).await,
            Err(error) => return Err(error),
        };
        let ticket = {
            let mut t = account.cell.begin(self.engine())?;
            let AccountState::Released(travel) = t.record.state else { return Ok(()) };
            t.record.state = AccountState::Moved(travel);
            let key = keys::deleted_account(id, now_unix());
            let value = encode_deleted_mailbox(&key);
            t.put(Space::Queue, key.to_vec(), value);
            t.delete(Space::Meta, keys::job(id));
            t.finish(self.committer())
        };
        ticket.wait().await?;
        account.leave();
        self.unload_this(&account);
        Ok(())
    }

    /// The records by which a deleted or moved account is forgotten in time.
    pub(super) fn markers(&self, id: AccountId) -> Result<Vec<Bytes>, StoreError> {
        let mut found = Vec::new();
        let (start, end) = (keys::account(id), ranges::end_of(id));
        self.engine().scan(Space::Queue, &start, Some(&end), false, &mut |key, _| {
            if !ranges::travels(Space::Queue, key) {
                found.push(Bytes::copy_from_slice(key));
            }
            true
        })?;
        Ok(found)
    }
}

/// Deletes a part of an account that nobody uses, but for its own record; says whether there is more.
async fn delete_step(store: &Store, id: AccountId) -> Result<bool, StoreError> {
    let (mut pending, mut left) = (Pending::default(), STEP_RECORDS);
    let (start, end) = (keys::account(id), ranges::end_of(id));
    for space in SPACES {
        let mut failure = None;
        store.engine().scan(space, &start, Some(&end), false, &mut |key, value| {
            if left == 0 {
                return false;
            }
            if space == Space::Account && !ranges::travels(space, key) {
                return true;
            }
            left -= 1;
            if ranges::content_of(space, key).is_some() {
                match ContentRecord::decode(key, value) {
                    Ok(record) => pending.live.push((record.locator.volume, -i64::from(record.stored))),
                    Err(damaged) => failure = Some(damaged),
                }
            }
            pending.batch.delete(space, Bytes::copy_from_slice(key));
            failure.is_none()
        })?;
        if let Some(damaged) = failure {
            return Err(StoreError::Damaged(damaged));
        }
    }
    store.committer().queue(pending).wait().await?;
    Ok(left == 0)
}

/// Forgets what is left here of an account that has moved away before a second.
pub(crate) async fn forget_moved(store: &Store, id: AccountId, before: u32) -> Result<(), StoreError> {
    let berth = store.berths().of(id);
    loop {
        // Whoever brings it back has a turn in between.
        let _turn = berth.lock().await;
        let is_gone =
            matches!(store.account_record(id)?, Some(AccountRecord { state: AccountState::Moved(_), .. }));
        let is_due = |key: &Bytes| keys::queued_second(key).is_some_and(|second| second < before);
        if !is_gone || !store.markers(id)?.iter().any(is_due) {
            return Ok(());
        }
        if !delete_step(store, id).await? {
            return Ok(());
        }
    }
}
