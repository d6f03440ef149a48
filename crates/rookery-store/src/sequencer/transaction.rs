//! One change of an account in the making: what it has seen, what it does, and how it is queued.

use super::{AccountCell, MailboxCell, MailboxState, Sequencer, decoded};
use crate::committer::{CommitError, Committer, Pending, TailEntry, Ticket};
use crate::error::StoreError;
use crate::keys;
use crate::publish::{Outbox, Publisher, Seen, SeenChange};
use crate::records::{
    self, AccountRecord, AccountState, AnnotationName, Change, ContentRecord, LogEntry, Settings,
};
use crate::volume::Placed;
use bytes::Bytes;
use parking_lot::MutexGuard;
use rookery_kv::engine::{Batch, Engine, Space};
use rookery_types::{ContentId, MailboxId, MailboxPath, ModSeq, UidSet};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// One change of an account in the making.
pub(crate) struct Transaction<'a> {
    cell: &'a Arc<AccountCell>,
    engine: &'a dyn Engine,
    sequencer: MutexGuard<'a, Sequencer>,
    /// The account's record as it will be.
    pub(crate) record: AccountRecord,
    /// The modseq that everything in this change gets.
    pub(crate) modseq: ModSeq,
    staged: BTreeMap<u32, MailboxState>,
    created: Vec<u32>,
    removed: Vec<u32>,
    writes: BTreeMap<(Space, Bytes), Option<Bytes>>,
    log: LogEntry,
    subscriptions: Option<BTreeMap<String, Option<MailboxId>>>,
    tree_changed: bool,
    /// The moves to other homes that begin, with their messages, and those that end.
    departures: Vec<(u32, u64, Option<UidSet>)>,
    pending: Pending,
}

impl<'a> Transaction<'a> {
    /// Begins; nobody else changes the account until it ends.
    pub(super) fn new(
        cell: &'a Arc<AccountCell>,
        engine: &'a dyn Engine,
        sequencer: MutexGuard<'a, Sequencer>,
    ) -> Result<Transaction<'a>, StoreError> {
        let modseq = sequencer.record.modseq.next().ok_or(StoreError::Exhausted("modseqs"))?;
        Ok(Transaction {
            cell,
            engine,
            record: sequencer.record.clone(),
            sequencer,
            modseq,
            staged: BTreeMap::new(),
            created: Vec::new(),
            removed: Vec::new(),
            writes: BTreeMap::new(),
            log: LogEntry::default(),
            subscriptions: None,
            tree_changed: false,
            departures: Vec::new(),
            pending: Pending::default(),
        })
    }
}

impl Transaction<'_> {
    /// Whether the account stands still, so that nothing may be written.
    pub(crate) fn is_frozen(&self) -> bool {
        self.sequencer.frozen
    }

    /// As a change would be made that has not heard that the account has gone.
    #[cfg(test)]
    pub(crate) fn pretend_home(&mut self) {
        self.sequencer.record.state = AccountState::Home;
        self.record.state = AccountState::Home;
    }

    /// The value of a key as this change sees it.
    pub(crate) fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let at = (space, Bytes::copy_from_slice(key));
        if let Some(value) = self.writes.get(&at) {
            return Ok(value.clone());
        }
        if let Some((_, value)) = self.sequencer.overlay.get(&at) {
            return Ok(value.clone());
        }
        Ok(self.engine.get(space, key)?)
    }

    /// The value of a key that the engine does not have yet: on its way there, or of this change.
    pub(crate) fn on_its_way(&self, space: Space, key: &[u8]) -> Option<Bytes> {
        let at = (space, Bytes::copy_from_slice(key));
        let queued = || self.sequencer.overlay.get(&at).map(|(_, value)| value);
        self.writes.get(&at).or_else(queued).cloned().flatten()
    }

    /// Entries with `start <= key < end` as this change sees them, ascending, at most `max` of them.
    pub(crate) fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        max: usize,
    ) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let from = (space, Bytes::copy_from_slice(start));
        let inside = |key: &(Space, Bytes)| key.0 == space && end.is_none_or(|end| &key.1[..] < end);
        let mut over: BTreeMap<Bytes, Option<Bytes>> = BTreeMap::new();
        for (key, (_, value)) in
            self.sequencer.overlay.range(from.clone()..).take_while(|(key, _)| inside(key))
        {
            over.insert(key.1.clone(), value.clone());
        }
        for (key, value) in self.writes.range(from..).take_while(|(key, _)| inside(key)) {
            over.insert(key.1.clone(), value.clone());
        }
        let mut over = over.into_iter().peekable();
        let mut out = Vec::new();
        let put = |out: &mut Vec<(Bytes, Bytes)>, key: Bytes, value: Option<Bytes>| {
            out.extend(value.map(|value| (key, value)));
        };
        self.engine.scan(space, start, end, false, &mut |key, value| {
            while let Some((over_key, over_value)) = over.next_if(|(over_key, _)| &over_key[..] < key) {
                put(&mut out, over_key, over_value);
            }
            match over.next_if(|(over_key, _)| &over_key[..] == key) {
                Some((over_key, over_value)) => put(&mut out, over_key, over_value),
                None => out.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))),
            }
            out.len() < max
        })?;
        for (key, value) in over {
            if out.len() >= max {
                break;
            }
            put(&mut out, key, value);
        }
        out.truncate(max);
        Ok(out)
    }

    /// The last entry with `start <= key <= last` as this change sees it.
    pub(crate) fn last_at(
        &self,
        space: Space,
        start: &[u8],
        last: &[u8],
    ) -> Result<Option<(Bytes, Bytes)>, StoreError> {
        let range = (space, Bytes::copy_from_slice(start))..=(space, Bytes::copy_from_slice(last));
        let over: BTreeMap<Bytes, Option<Bytes>> = self
            .sequencer
            .overlay
            .range(range.clone())
            .map(|(key, (_, value))| (key.1.clone(), value.clone()))
            .chain(self.writes.range(range).map(|(key, value)| (key.1.clone(), value.clone())))
            .collect();
        let newest = over.iter().rev().find_map(|(key, value)| Some((key.clone(), value.clone()?)));
        let mut found = None;
        let end = [last, &[0]].concat();
        self.engine.scan(space, start, Some(&end), true, &mut |key, value| {
            if over.contains_key(key) {
                return true;
            }
            found = Some((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            false
        })?;
        Ok(match (found, newest) {
            (Some(found), Some(newest)) => Some(if found.0 > newest.0 { found } else { newest }),
            (found, newest) => found.or(newest),
        })
    }

    pub(crate) fn put(&mut self, space: Space, key: impl Into<Bytes>, value: Bytes) {
        self.writes.insert((space, key.into()), Some(value));
    }

    pub(crate) fn delete(&mut self, space: Space, key: impl Into<Bytes>) {
        self.writes.insert((space, key.into()), None);
    }

    /// A mailbox as it will be after this change; `None` if it does not exist or is deleted.
    pub(crate) fn mailbox(&self, id: MailboxId) -> Option<&MailboxState> {
        self.any_mailbox(id).filter(|state| state.settings.deleted_unix_seconds.is_none())
    }

    /// The same, also for a mailbox that is deleted but kept.
    pub(crate) fn any_mailbox(&self, id: MailboxId) -> Option<&MailboxState> {
        let state = match self.staged.get(&id.number) {
            Some(state) => Some(state),
            None => self.sequencer.mailboxes.get(&id.number).map(|(_, state)| &**state),
        };
        state.filter(|state| state.id == id)
    }

    /// All mailboxes as they will be, deleted ones left out.
    pub(crate) fn mailboxes(&self) -> impl Iterator<Item = &MailboxState> {
        let known = self.sequencer.mailboxes.keys().filter(|number| !self.staged.contains_key(number));
        known
            .filter_map(|number| self.sequencer.mailboxes.get(number).map(|(_, state)| &**state))
            .chain(self.staged.values())
            .filter(|state| state.settings.deleted_unix_seconds.is_none())
    }

    /// All mailboxes as they are now, deleted ones that are kept included.
    pub(crate) fn all_mailboxes(&self) -> impl Iterator<Item = &MailboxState> {
        self.sequencer.mailboxes.values().map(|(_, state)| &**state)
    }

    /// The mailboxes that will be quota roots, in no order. Cheap where there are none.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &MailboxState> {
        let known = self.sequencer.roots.iter().filter(|number| !self.staged.contains_key(number));
        known
            .filter_map(|number| self.sequencer.mailboxes.get(number).map(|(_, state)| &**state))
            .chain(self.staged.values())
            .filter(|state| state.settings.quota.is_some() && state.settings.deleted_unix_seconds.is_none())
    }

    /// The mailbox that will have a path.
    pub(crate) fn by_path(&self, path: &MailboxPath) -> Option<MailboxId> {
        self.mailboxes().find(|state| state.settings.path == *path).map(|state| state.id)
    }

    /// Whether any message of a mailbox, or any of these, is in transit to another home.
    pub(crate) fn is_departing(&self, id: MailboxId, uids: Option<&UidSet>) -> bool {
        let moves = self.sequencer.departing.get(&id.number);
        let mut moves = moves.into_iter().flat_map(BTreeMap::values);
        moves.any(|gone| uids.is_none_or(|uids| !uids.intersection(gone).is_empty()))
    }

    /// The messages of a mailbox that are.
    pub(crate) fn departing(&self, id: MailboxId) -> UidSet {
        let mut gone = UidSet::new();
        let moves = self.sequencer.departing.get(&id.number);
        moves.into_iter().flat_map(BTreeMap::values).for_each(|uids| gone.extend(uids));
        gone
    }

    /// The number of the first move to another home that is under way.
    pub(crate) fn first_departure(&self) -> Option<u64> {
        self.sequencer.departing.values().filter_map(|moves| moves.keys().next()).min().copied()
    }

    /// Messages of a mailbox are in transit from now on.
    pub(crate) fn begin_departure(&mut self, number: u32, counter: u64, uids: UidSet) {
        self.departures.push((number, counter, Some(uids)));
    }

    /// They are not any more.
    pub(crate) fn end_departure(&mut self, number: u32, counter: u64) {
        self.departures.push((number, counter, None));
    }

    /// A mailbox to be changed: what is done to it is written and published with this change.
    pub(crate) fn change(&mut self, id: MailboxId) -> Option<&mut MailboxState> {
        if !self.staged.contains_key(&id.number) {
            let state = MailboxState::clone(&self.sequencer.mailboxes.get(&id.number)?.1);
            self.staged.insert(id.number, state);
        }
        self.staged.get_mut(&id.number)
    }

    /// Adds a mailbox.
    pub(crate) fn add_mailbox(&mut self, state: MailboxState) {
        self.created.push(state.id.number);
        self.log.changes.push((state.id.number, Change::Created));
        self.tree_changed = true;
        self.staged.insert(state.id.number, state);
    }

    /// Forgets a mailbox that was deleted, for good.
    pub(crate) fn remove_mailbox(&mut self, id: MailboxId) {
        self.delete(Space::Mailbox, keys::settings(id));
        self.delete(Space::Mailbox, keys::summary(id));
        self.delete(Space::Mailbox, keys::held(id));
        self.removed.push(id.number);
    }

    /// Notes in the change log what happens to a mailbox; settings and deletions also make a new tree.
    pub(crate) fn note(&mut self, id: MailboxId, change: Change) {
        if matches!(change, Change::Settings | Change::Deleted) {
            self.tree_changed = true;
        }
        self.log.changes.push((id.number, change));
    }

    /// Notes in the change log which annotations of a mailbox, or of the account itself, change.
    pub(crate) fn note_annotations(&mut self, of: Option<MailboxId>, names: Vec<AnnotationName>) {
        self.log.changes.push((of.map_or(0, |id| id.number), Change::Annotations(names)));
    }

    /// The subscriptions, to be changed.
    pub(crate) fn subscriptions(&mut self) -> &mut BTreeMap<String, Option<MailboxId>> {
        let now = &self.sequencer.subscriptions;
        self.log.subscriptions = true;
        self.tree_changed = true;
        self.subscriptions.get_or_insert_with(|| BTreeMap::clone(now))
    }

    /// A content's record as this change sees it.
    pub(crate) fn content(&self, content: ContentId) -> Result<Option<ContentRecord>, StoreError> {
        let key = keys::content(self.cell.id, content);
        match self.get(Space::Content, &key)? {
            Some(value) => decoded(ContentRecord::decode(&key, &value)).map(Some),
            None => Ok(None),
        }
    }

    /// Writes a content's record.
    pub(crate) fn put_content(&mut self, content: ContentId, record: &ContentRecord) {
        let key = keys::content(self.cell.id, content);
        let value = record.encode(&key);
        self.put(Space::Content, Bytes::copy_from_slice(&key), value);
    }

    /// A body was written for this change: it is synced with it, and looked at after a crash.
    pub(crate) fn bring(&mut self, placed: &Placed, tail: TailEntry) {
        self.sync_with(placed);
        if placed.waited {
            self.pending.back = self.pending.back.into_iter().chain([placed.locator]).min();
        }
        self.pending.tail.push(tail);
    }

    /// Whether a content's record is changed by something that is not durable yet.
    pub(crate) fn is_on_its_way(&self, content: ContentId) -> bool {
        let key = Bytes::copy_from_slice(&keys::content(self.cell.id, content));
        self.sequencer.overlay.contains_key(&(Space::Content, key))
    }

    /// The octets of a body are on the disk when this change is. Nothing refers to them yet.
    pub(crate) fn sync_body(&mut self, placed: &Placed) {
        if !self.pending.volumes.iter().any(|volume| volume.number == placed.volume.number) {
            self.pending.volumes.push(placed.volume.clone());
        }
    }

    /// A record was written for this change: it is synced with it, and counts as in use.
    pub(crate) fn sync_with(&mut self, placed: &Placed) {
        self.sync_body(placed);
        self.pending.live.push((placed.locator.volume, placed.stored.into()));
    }

    /// A body of the last change's group is looked at after a crash also for this message.
    pub(crate) fn watch_body(&mut self, tail: TailEntry) {
        self.pending.tail.push(tail);
    }

    /// A volume's octets in use change.
    pub(crate) fn live(&mut self, volume: u32, octets: i64) {
        self.pending.live.push((volume, octets));
    }

    /// Writes to the outbox what changes of what others may see.
    fn publish(&mut self, publisher: &dyn Publisher) -> Option<Outbox> {
        // What is seen of an account that moves goes on to be seen.
        let was_open = self.sequencer.record.state != AccountState::Deleted;
        let is_open = self.record.state != AccountState::Deleted;
        let opens = was_open != is_open;
        fn shown(settings: &Option<Arc<Settings>>) -> Option<Seen<'_>> {
            let Settings { path, acl, special_use, .. } = &**settings.as_ref()?;
            Some(Seen { path, acl, special_use })
        }
        let seen = |state: &MailboxState, open: bool| {
            (open && state.settings.deleted_unix_seconds.is_none()).then(|| state.settings.clone())
        };
        let mut changed = Vec::new();
        let known = self.sequencer.mailboxes.keys().chain(&self.created).copied();
        let numbers: BTreeSet<u32> = match opens {
            true => known.collect(),
            false => self.staged.keys().copied().collect(),
        };
        for number in numbers {
            let before = self.sequencer.mailboxes.get(&number).map(|(_, state)| &**state);
            let after = self.staged.get(&number).or(before);
            let Some(id) = after.map(|state| state.id) else { continue };
            let before = before.and_then(|state| seen(state, was_open));
            let after =
                after.filter(|_| !self.removed.contains(&number)).and_then(|state| seen(state, is_open));
            let same = before.as_ref().zip(after.as_ref()).is_some_and(|(a, b)| Arc::ptr_eq(a, b));
            if !same {
                changed.push((id, before, after));
            }
        }
        let changes: Vec<_> = changed
            .iter()
            .map(|(id, before, after)| SeenChange {
                mailbox: *id,
                before: shown(before),
                after: shown(after),
            })
            .collect();
        if changes.is_empty() {
            return None;
        }
        let mut outbox = publisher.changes(&changes)?;
        for (key, value) in std::mem::take(&mut outbox.writes) {
            self.put(Space::Directory, key, value);
        }
        Some(outbox)
    }

    /// Where nothing can be written any more: what only brings mailboxes into memory is shown at once, changes are
    /// refused and leave nothing behind. Nothing is shown of an account that had a change on its way at the time, since
    /// nobody knows whether that is on the disk.
    fn show(mut self, refusal: CommitError) -> Ticket {
        let is_behind = self.sequencer.queued > self.cell.durable.load(Ordering::Acquire);
        if is_behind || !self.only_loads() {
            return Ticket::ended(Err(refusal));
        }
        for (number, state) in std::mem::take(&mut self.staged) {
            if let Some((cell, known)) = self.sequencer.mailboxes.get_mut(&number) {
                *known = Arc::new(state);
                cell.publish(known.clone());
            }
        }
        Ticket::ended(Ok(()))
    }

    /// Whether it changes nothing but what is in memory of mailboxes.
    pub(crate) fn only_loads(&self) -> bool {
        let same = |state: &MailboxState| {
            self.sequencer.mailboxes.get(&state.id.number).is_some_and(|(_, before)| {
                Arc::ptr_eq(&before.settings, &state.settings)
                    && before.summary == state.summary
                    && before.held == state.held
            })
        };
        self.writes.is_empty()
            && self.removed.is_empty()
            && self.subscriptions.is_none()
            && self.log == LogEntry::default()
            && self.record == self.sequencer.record
            && self.pending.volumes.is_empty()
            && self.staged.values().all(same)
    }

    /// Queues the change. Its effects are durable and visible when the ticket is.
    pub(crate) fn finish(mut self, committer: &Committer) -> Ticket {
        if let Some(refusal) = committer.poison() {
            return self.show(refusal);
        }
        if self.log != LogEntry::default() {
            self.record.modseq = self.modseq;
            crate::noted::note(self.cell.id, self.modseq);
            let key = keys::log(self.cell.id, self.modseq);
            let value = self.log.encode(&key);
            self.put(Space::Log, Bytes::copy_from_slice(&key), value);
        }
        if self.record != self.sequencer.record {
            let value = self.record.encode(self.cell.id);
            self.put(Space::Account, Bytes::copy_from_slice(&keys::account_record(self.cell.id)), value);
        }
        let outbox = committer.publisher.get().and_then(|publisher| self.publish(&**publisher));
        let (durable, published) = match outbox {
            Some(outbox) => (Some(outbox.durable), Some(outbox.published)),
            None => (None, None),
        };
        let removed: BTreeSet<u32> = self.removed.iter().copied().collect();
        let mut publish = Vec::new();
        for (number, mut state) in std::mem::take(&mut self.staged) {
            if removed.contains(&number) {
                continue;
            }
            let before = self.sequencer.mailboxes.get(&number).map(|(_, state)| state.clone());
            let fresh = self.created.contains(&number);
            if fresh || before.as_ref().is_none_or(|before| !Arc::ptr_eq(&before.settings, &state.settings)) {
                let value = state.settings.encode(state.id);
                self.put(Space::Mailbox, keys::settings(state.id), value);
            }
            if fresh || before.as_ref().is_none_or(|before| before.summary != state.summary) {
                let value = state.summary.encode(state.id);
                self.put(Space::Mailbox, keys::summary(state.id), value);
            }
            let was_root = before.as_ref().is_some_and(|before| before.settings.quota.is_some());
            let is_root = state.settings.quota.is_some();
            if is_root && (!was_root || before.as_ref().is_some_and(|before| before.held != state.held)) {
                self.put(Space::Mailbox, keys::held(state.id), state.held.encode(state.id));
                self.sequencer.roots.insert(number);
            }
            if was_root && !is_root {
                self.delete(Space::Mailbox, keys::held(state.id));
                self.sequencer.roots.remove(&number);
            }
            if !state.readers.is_empty()
                && let Some((cell, _)) = self.sequencer.mailboxes.get(&number)
            {
                cell.forget_readers(&mut state.readers);
            }
            let state = Arc::new(state);
            let cell = match self.sequencer.mailboxes.get(&number) {
                Some((cell, _)) => cell.clone(),
                None => MailboxCell::new(MailboxState::clone(&state)),
            };
            self.sequencer.mailboxes.insert(number, (cell.clone(), state.clone()));
            publish.push((cell, state));
        }
        for number in &self.removed {
            self.sequencer.mailboxes.remove(number);
            self.sequencer.roots.remove(number);
        }
        for (number, counter, uids) in std::mem::take(&mut self.departures) {
            let moves = self.sequencer.departing.entry(number).or_default();
            match uids {
                Some(uids) => drop(moves.insert(counter, uids)),
                None => {
                    moves.remove(&counter);
                    self.cell.departed.notify_waiters();
                }
            }
            if moves.is_empty() {
                self.sequencer.departing.remove(&number);
            }
        }
        let was_home = self.sequencer.record.state == AccountState::Home;
        self.sequencer.record = self.record.clone();
        if let Some(subscriptions) = self.subscriptions.take() {
            let key = keys::subscription_list(self.cell.id);
            let value = records::encode_subscription_list(&key, &subscriptions);
            self.put(Space::Account, Bytes::copy_from_slice(&key), value);
            self.sequencer.subscriptions = Arc::new(subscriptions);
        }
        self.sequencer.queued += 1;
        let number = self.sequencer.queued;
        let mut batch = Batch::new();
        for ((space, key), value) in std::mem::take(&mut self.writes) {
            match &value {
                Some(value) => batch.put(space, key.clone(), value.clone()),
                None => batch.delete(space, key.clone()),
            }
            self.sequencer.overlay.insert((space, key), (number, value));
        }
        let tree = self.tree_changed.then(|| Arc::new(self.sequencer.tree()));
        let record = Arc::new(self.record.clone());
        let cell = self.cell.clone();
        let mut pending = std::mem::take(&mut self.pending);
        pending.batch = batch;
        // What is done to the rest of an account that has gone needs no home.
        pending.fence = was_home.then(|| (self.cell.fence.clone(), self.record.epoch));
        pending.publish = Some(Box::new(move || {
            for (mailbox, state) in publish {
                mailbox.publish(state);
            }
            if let Some(tree) = tree {
                cell.tree.store(tree);
            }
            let modseq = record.modseq.get();
            if matches!(record.state, AccountState::Released(_)) {
                cell.fence.close();
            }
            let has_gone = matches!(record.state, AccountState::Released(_));
            cell.record.store(record);
            if has_gone {
                // Whoever waits hears it, also if nobody waits for the release any more.
                cell.gate.open();
            }
            cell.durable.store(number, Ordering::Release);
            cell.changed.send_if_modified(|told| std::mem::replace(told, modseq) != modseq);
            if let Some(durable) = durable {
                durable();
            }
        }));
        // The lock is held until the change is queued: queue order is the account's order.
        let ticket = committer.queue(pending).published(published);
        drop(self.sequencer);
        ticket
    }
}
