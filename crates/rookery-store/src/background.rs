//! What a store does by itself: folding, forgetting what was expunged long ago, and winning back space.
//!
//! Each step is small and goes through the sequencer and the committer like any change, so nobody waits for long.

use crate::account::Account;
use crate::annotations;
use crate::compaction::{self, When};
use crate::error::StoreError;
use crate::fold;
use crate::keys;
use crate::readers;
use crate::records::{self, AccountState};
use crate::recover::release;
use crate::sequencer::Transaction;
use crate::store::{Store, WeakStore, now_unix};
use rookery_kv::engine::{Space, prefix_end};
use rookery_types::{AccountId, MailboxId, ModSeq};
use std::collections::HashMap;
use std::time::Duration;

/// Records forgotten in one step.
const STEP_RECORDS: usize = 500;
/// Accounts looked at in one round for what can be forgotten.
const ROUND_ACCOUNTS: usize = 200;
/// Change log entries beyond the limit that trigger trimming.
const LOG_SLACK: u64 = 10_000;

/// With so many delta records a mailbox is folded once it is quiet, and when the store closes: whoever opens it first
/// reads them all.
const QUIET_DELTAS: u32 = 512;
/// Rounds without a change of a mailbox after which it is quiet.
const QUIET_ROUNDS: u32 = 5;
/// How long folding may take when the store closes.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(1);

/// What one round leaves for the next.
#[derive(Default)]
pub(crate) struct Rounds {
    /// The account after which forgetting goes on.
    cursor: Option<AccountId>,
    /// Mailboxes that wait to be quiet: their HIGHESTMODSEQ, and the rounds that it has stood.
    waiting: HashMap<MailboxId, (ModSeq, u32)>,
}

/// Looks around every `pause` until the store is gone.
pub(crate) async fn run(store: WeakStore, pause: Duration) {
    let mut rounds = Rounds::default();
    loop {
        tokio::time::sleep(pause).await;
        let Some(store) = store.upgrade() else { return };
        if store.read_only_because().is_some() {
            return;
        }
        if let Err(error) = round(&store, &mut rounds, When::Idle).await {
            tracing::error!(error = crate::committer::describe(&error), "background work failed");
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    }
}

/// One look around.
pub(crate) async fn round(store: &Store, rounds: &mut Rounds, when: When) -> Result<(), StoreError> {
    store.look_at_the_disk();
    let before = std::mem::take(&mut rounds.waiting);
    for account in store.loaded() {
        match tend(&account, &before, &mut rounds.waiting).await {
            // It is tended where it is at home.
            Ok(()) | Err(StoreError::Moved) => {}
            Err(error) => return Err(error),
        }
    }
    store.shrink();
    forget_due(store, &mut rounds.cursor).await?;
    compaction::compact(store, when).await
}

/// Folds as much as there is time for, of the mailboxes with the most delta records first.
pub(crate) async fn settle(store: &Store) {
    let folding = async {
        let mut waiting = Vec::new();
        for account in store.loaded() {
            let tree = account.tree();
            let many = tree.iter().map(|(_, state)| state).filter(|s| s.summary.deltas >= QUIET_DELTAS);
            waiting.extend(many.map(|state| (state.summary.deltas, account.clone(), state.id)));
        }
        waiting.sort_unstable_by_key(|(deltas, ..)| std::cmp::Reverse(*deltas));
        for (_, account, id) in waiting {
            match fold::fold(&account, id).await {
                Ok(()) | Err(StoreError::Moved) => {}
                Err(error) => return Err(error),
            }
        }
        Ok::<(), StoreError>(())
    };
    // What is cut off has been folded so far, and the rest is read when its mailbox is opened.
    if let Ok(Err(error)) = tokio::time::timeout(SETTLE_TIME_MAX, folding).await {
        tracing::warn!(error = crate::committer::describe(&error), "not all was folded at the end");
    }
}

/// Folds what has many deltas, or quite a few and is quiet, and trims the change log.
async fn tend(
    account: &Account,
    before: &HashMap<MailboxId, (ModSeq, u32)>,
    waiting: &mut HashMap<MailboxId, (ModSeq, u32)>,
) -> Result<(), StoreError> {
    let tree = account.tree();
    for (_, state) in tree.iter().filter(|(_, state)| state.summary.deltas >= QUIET_DELTAS) {
        let modseq = state.summary.highest_modseq;
        let rounds = match before.get(&state.id) {
            Some((known, rounds)) if *known == modseq => rounds + 1,
            _ => 0,
        };
        if fold::is_due(&state.summary) || rounds >= QUIET_ROUNDS {
            fold::fold(account, state.id).await?;
        } else {
            waiting.insert(state.id, (modseq, rounds));
        }
    }
    let record = account.cell.record.load_full();
    let kept = account.store.options().log_entries;
    if record.modseq.get().saturating_sub(record.log_floor) > kept.saturating_add(LOG_SLACK) {
        while trim_log(account, record.modseq.get() - kept).await? {}
    }
    Ok(())
}

/// Forgets changes up to a modseq, a step at a time; returns whether more is to be done.
async fn trim_log(account: &Account, floor: u64) -> Result<bool, StoreError> {
    let id = account.id();
    account
        .transact(|t| {
            let end = keys::log(id, ModSeq::new(floor).unwrap_or(ModSeq::FIRST));
            let doomed = t.scan(Space::Log, &keys::account(id), Some(&end), STEP_RECORDS)?;
            let more = doomed.len() == STEP_RECORDS;
            let reached = doomed.last().and_then(|(key, _)| keys::modseq_of(key)).map_or(floor, ModSeq::get);
            for (key, value) in doomed {
                let entry = records::LogEntry::decode(&key, &value).map_err(StoreError::Damaged)?;
                let modseq = keys::modseq_of(&key).unwrap_or(ModSeq::FIRST);
                for (number, change) in entry.changes {
                    if matches!(change, records::Change::Expunged(_)) {
                        let mailbox = MailboxId { account: id, number };
                        t.delete(Space::Tombstone, keys::tombstone(mailbox, modseq));
                    }
                }
                t.delete(Space::Log, key);
            }
            t.record.log_floor = t.record.log_floor.max(if more { reached } else { floor.max(1) - 1 });
            Ok(more)
        })
        .await
}

/// Forgets, in some accounts after the cursor, what was expunged or deleted before the retention began.
async fn forget_due(store: &Store, cursor: &mut Option<AccountId>) -> Result<(), StoreError> {
    let before =
        now_unix().saturating_sub(u32::try_from(store.options().retention.as_secs()).unwrap_or(u32::MAX));
    for _ in 0..ROUND_ACCOUNTS {
        let Some(id) = next_account(store, *cursor)? else {
            *cursor = None;
            return Ok(());
        };
        *cursor = Some(id);
        if !has_due(store, id, before)? {
            continue;
        }
        match store.load_account(id) {
            Ok(Some(account)) => while forget_step(&account, before).await? {},
            Ok(None) => {}
            Err(StoreError::Moved) => crate::travel::forget_moved(store, id, before).await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The next account that has expunged messages waiting.
fn next_account(store: &Store, after: Option<AccountId>) -> Result<Option<AccountId>, StoreError> {
    let start = after.and_then(|id| prefix_end(&keys::account(id))).unwrap_or_default();
    let mut found = None;
    store.engine().scan(Space::Queue, &start, None, false, &mut |key, _| {
        found = keys::account_of(key);
        false
    })?;
    Ok(found)
}

fn has_due(store: &Store, id: AccountId, before: u32) -> Result<bool, StoreError> {
    let mut due = false;
    let end = [&keys::account(id)[..], &before.to_be_bytes()].concat();
    store.engine().scan(Space::Queue, &keys::account(id), Some(&end), false, &mut |_, _| {
        due = true;
        false
    })?;
    Ok(due)
}

/// Forgets a few records, of a deleted account too; returns whether more is due.
async fn forget_step(account: &Account, before: u32) -> Result<bool, StoreError> {
    let (more, ticket) = {
        let mut t = account.cell.begin(account.store.engine())?;
        let more = match t.record.state {
            AccountState::Home if t.is_frozen() => false,
            AccountState::Home => forget_expunged(&mut t, account, before)?,
            AccountState::Deleted => forget_account(&mut t, account, before)?,
            _ => false,
        };
        (more, t.finish(account.store.committer()))
    };
    ticket.wait().await?;
    account.cell.tidy();
    Ok(more)
}

/// Forgets a part of a deleted account, its own record last.
fn forget_account(t: &mut Transaction<'_>, account: &Account, before: u32) -> Result<bool, StoreError> {
    let prefix = keys::account(account.id());
    let end = prefix_end(&prefix);
    let deleted = keys::deleted_account(account.id(), 0);
    let queue = t.scan(Space::Queue, &prefix, end.as_deref(), usize::MAX)?;
    let marker = queue.iter().find(|(key, _)| key.get(12..) == deleted.get(12..));
    let due = marker
        .is_some_and(|(key, _)| key.get(8..12).is_some_and(|second| second < &before.to_be_bytes()[..]));
    if !due {
        return Ok(false);
    }
    for (key, value) in t.scan(Space::Content, &prefix, end.as_deref(), STEP_RECORDS)? {
        if key.last() == Some(&0) {
            let record = records::ContentRecord::decode(&key, &value).map_err(StoreError::Damaged)?;
            t.live(record.locator.volume, -i64::from(record.stored));
        }
        t.delete(Space::Content, key);
    }
    let mut left = STEP_RECORDS;
    for space in
        [Space::Chunk, Space::Leaf, Space::Delta, Space::Tombstone, Space::Log, Space::Thread, Space::Mailbox]
    {
        let doomed = t.scan(space, &prefix, end.as_deref(), left)?;
        left = left.saturating_sub(doomed.len());
        doomed.into_iter().for_each(|(key, _)| t.delete(space, key));
    }
    if left == 0
        || !t.scan(Space::Content, &prefix, end.as_deref(), 1)?.is_empty()
        || readers::forget(t, &keys::seen_of_account(account.id()), STEP_RECORDS)?
    {
        return Ok(true);
    }
    crate::transit::forget_pointers(t, account.id())?;
    for space in [Space::Queue, Space::Account] {
        for (key, _) in t.scan(space, &prefix, end.as_deref(), usize::MAX)? {
            t.delete(space, key);
        }
    }
    account.store.unload_this(account);
    Ok(false)
}

fn forget_expunged(t: &mut Transaction<'_>, account: &Account, before: u32) -> Result<bool, StoreError> {
    let id = account.id();
    let end = [&keys::account(id)[..], &before.to_be_bytes()].concat();
    let due = t.scan(Space::Queue, &keys::account(id), Some(&end), STEP_RECORDS)?;
    let more = due.len() == STEP_RECORDS;
    for (key, value) in due {
        if keys::uid_of(&key).is_none() {
            records::decode_deleted_mailbox(&key, &value).map_err(StoreError::Damaged)?;
            if let Some(mailbox) = keys::queued_mailbox(&key)
                && forget_mailbox(t, account, mailbox)?
            {
                // The rest of it comes in the next step.
                return Ok(true);
            }
            t.delete(Space::Queue, key);
            continue;
        }
        let message = records::decode_expunged(&key, &value).map_err(StoreError::Damaged)?;
        release(t, account, message.content)?;
        t.delete(Space::Queue, key);
    }
    Ok(more)
}

/// Forgets a part of a deleted mailbox; returns whether there is more of it.
fn forget_mailbox(t: &mut Transaction<'_>, account: &Account, id: MailboxId) -> Result<bool, StoreError> {
    if t.any_mailbox(id).is_none_or(|state| state.settings.deleted_unix_seconds.is_none()) {
        return Ok(false);
    }
    let (messages, more) = fold::take_first(t, id)?;
    for message in messages {
        release(t, account, message.content)?;
    }
    if more
        || annotations::forget(t, account, id, STEP_RECORDS)?
        || readers::forget(t, &keys::seen_of_mailbox(id), STEP_RECORDS)?
    {
        return Ok(true);
    }
    let prefix = keys::mailbox(id);
    let tombstones = t.scan(Space::Tombstone, &prefix, prefix_end(&prefix).as_deref(), STEP_RECORDS)?;
    let more = tombstones.len() == STEP_RECORDS;
    for (key, _) in tombstones {
        t.delete(Space::Tombstone, key);
    }
    if !more {
        t.remove_mailbox(id);
    }
    Ok(more)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::append::NewMessage;
    use crate::store::{NewAccount, StoreOptions};
    use rookery_kv::memory::MemoryEngine;
    use rookery_kv::sim::SimDisk;
    use rookery_types::{InternalDate, MailboxPath, SystemFlags};
    use std::sync::Arc;

    #[tokio::test]
    async fn a_quiet_mailbox_is_folded() {
        let disk = SimDisk::new(2);
        let options = StoreOptions { background: None, ..StoreOptions::default() };
        let engine = Arc::new(MemoryEngine::new(disk.clone()));
        let store = Store::open(options, engine, Arc::new(disk.files())).expect("it opens");
        let new = NewAccount { mailboxes: vec![(MailboxPath::inbox(), vec![])], ..NewAccount::default() };
        let id = AccountId::new(1).expect("it is not zero");
        let account = store.create_account(id, new).await.expect("it is made");
        let inbox = account.tree().get(&MailboxPath::inbox()).expect("it is there");
        let append = async |count: usize| {
            let mut spool = store.spool();
            spool.push(b"Subject: x\r\n\r\n").expect("it takes octets");
            let (body, date) = (spool.finish().expect("it is whole"), InternalDate::from_unix(1));
            let message = NewMessage { body, flags: SystemFlags::NONE, keywords: vec![], date };
            account.append(inbox, vec![message; count]).await.expect("it appends");
        };
        let summary = || account.tree().state(inbox).expect("it is there").summary;
        let mut rounds = Rounds::default();
        append(700).await;
        for _ in 0..9 {
            append(1).await;
            round(&store, &mut rounds, When::Idle).await.expect("it looks around");
        }
        for _ in 1..QUIET_ROUNDS {
            round(&store, &mut rounds, When::Idle).await.expect("it looks around");
            assert_eq!(summary().deltas, 709, "it is not quiet yet");
        }
        round(&store, &mut rounds, When::Idle).await.expect("it looks around");
        assert_eq!((summary().deltas, summary().chunks, summary().exists), (0, 2, 709));
        assert!(rounds.waiting.is_empty());
        store.close().await;
    }
}
