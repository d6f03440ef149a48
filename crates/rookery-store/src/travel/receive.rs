//! The half of the store that an account goes to: takes what the other says, checks it, and makes it durable.
//!
//! Nobody uses the account meanwhile, so it has no sequencer: its batches are made here, one after another.
//!
//! Invariants:
//! - Octets of a content are on the disk before a record points to them.
//! - Each record is one that the store itself could have written.
//! - Only the last connection that began to send writes anything: what an older one still has on its way is refused.
//! - An account becomes at home here only from the state in which all of it was here, and by the move it came with.

use super::frames::{Item, Request, hash_of};
use super::jobs::{Job, Stage};
use super::ranges::{self, Digest};
use crate::check::walk;
use crate::committer::Pending;
use crate::error::StoreError;
use crate::keys;
use crate::records::{AccountRecord, AccountState, ContentRecord, Limits, Travel};
use crate::store::{Store, now_unix};
use crate::transit::encode_pointer;
use crate::volume::{LargeBody, Placed, Volume};
use bytes::Bytes;
use parking_lot::Mutex;
use rookery_kv::engine::{Batch, Space, prefix_end};
use rookery_kv::off_thread;
use rookery_types::{AccountId, ContentId, Epoch, JobId, ModSeq};
use std::collections::HashMap;
use std::sync::Arc;

/// One after another, whoever writes to an account that has no sequencer; and the number of the last connection that
/// sends it.
type Berth = Arc<tokio::sync::Mutex<u64>>;

/// Those of all accounts that are made, come or have gone.
#[derive(Default)]
pub(crate) struct Berths(Mutex<HashMap<AccountId, Berth>>);

impl Berths {
    pub(crate) fn of(&self, id: AccountId) -> Berth {
        let mut berths = self.0.lock();
        if berths.len() > 1000 {
            // Those that nobody uses, but for whose connections may still come.
            berths.retain(|_, berth| Arc::strong_count(berth) > 1);
        }
        berths.entry(id).or_default().clone()
    }
}

/// An account that comes from another store.
pub struct Incoming {
    store: Store,
    id: AccountId,
    job: JobId,
    berth: Berth,
    connection: u64,
    /// Contents whose octets are here, and no record yet.
    placed: HashMap<ContentId, Placed>,
    /// Volumes with such octets that are not yet on the disk.
    unsynced: Vec<Arc<Volume>>,
    large: Option<Large>,
}

struct Large {
    content: ContentId,
    size: u32,
    body: LargeBody,
    got: u64,
    hasher: blake3::Hasher,
}

impl std::fmt::Debug for Incoming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Incoming({})", self.id)
    }
}

/// A record is not what a store could have written, or does not fit what was said before.
fn senseless() -> StoreError {
    StoreError::Refused("what was sent makes no sense")
}

fn differs() -> StoreError {
    StoreError::Refused("what came is not what was sent")
}

impl Store {
    /// Begins to receive an account, or goes on with it; also says whether nothing of it is here. From here on it is in
    /// nobody's use here, and what an earlier connection sends is refused.
    pub async fn receive(&self, id: AccountId, travel: Travel) -> Result<(Incoming, bool), StoreError> {
        let berth = self.berths().of(id);
        let mut connection = berth.lock().await;
        let old = self.account_record(id)?;
        let incarnation = match old.as_ref().map(|record| (record.state, record.incarnation)) {
            None => 1,
            // Another try of its home, or the same after a break.
            Some((AccountState::Receiving(known) | AccountState::Ready(known), incarnation))
                if known.peer == travel.peer && known.epoch == travel.epoch =>
            {
                incarnation
            }
            // It was here before.
            Some((AccountState::Moved(known), incarnation)) if travel.epoch > known.epoch => incarnation + 1,
            Some((AccountState::Home, _)) => return Err(StoreError::AlreadyExists),
            Some(_) => return Err(StoreError::InUse),
        };
        let is_empty = old.is_none();
        let record = AccountRecord {
            node: self.node(),
            store: self.store_id(),
            epoch: Epoch(travel.epoch.0.saturating_sub(1)),
            incarnation,
            state: AccountState::Receiving(Travel { modseq: 0, ..travel }),
            owner: None,
            modseq: ModSeq::FIRST,
            log_floor: 1,
            last_mailbox: 0,
            last_uid_validity: 0,
            octets: 0,
            messages: 0,
            limits: Limits::default(),
        };
        let mut batch = Batch::new();
        batch.put(Space::Account, keys::account_record(id).to_vec(), record.encode(id));
        for key in self.markers(id)? {
            batch.delete(Space::Queue, key);
        }
        let job = Job {
            id: travel.job,
            account: id,
            peer: travel.peer,
            epoch: travel.epoch,
            stage: Stage::Receiving,
            paused: false,
            unix_seconds: now_unix(),
        };
        batch.put(Space::Meta, job.key(), job.encode());
        self.commit_foreign(batch).await?;
        // Handles of a former time here know where it went.
        self.unload(id);
        *connection += 1;
        let incoming = Incoming {
            store: self.clone(),
            id,
            job: travel.job,
            connection: *connection,
            berth: berth.clone(),
            placed: HashMap::new(),
            unsynced: Vec::new(),
            large: None,
        };
        Ok((incoming, is_empty))
    }

    /// Makes an account at home here that has come whole: its former home has released it. Durable when it returns;
    /// said again, it changes nothing.
    pub async fn take_home(&self, id: AccountId, job: JobId, modseq: u64) -> Result<(), StoreError> {
        let berth = self.berths().of(id);
        let mut connection = berth.lock().await;
        let record = self.account_record(id)?.ok_or(StoreError::NoAccount)?;
        let travel = match record.state {
            AccountState::Ready(travel) if travel.job == job && travel.modseq == modseq => travel,
            AccountState::Home if self.job(id)?.is_some_and(|known| known.id == job) => return Ok(()),
            _ => return Err(StoreError::Refused("the account is not ready")),
        };
        let mut batch = Batch::new();
        let home = AccountRecord { state: AccountState::Home, epoch: travel.epoch, ..record };
        batch.put(Space::Account, keys::account_record(id).to_vec(), home.encode(id));
        // Its moves of messages go on from here.
        let prefix = keys::departures(id);
        self.engine().scan(
            Space::Account,
            &prefix,
            prefix_end(&prefix).as_deref(),
            false,
            &mut |key, _| {
                if let Some(transit) = keys::transit_of_departure(key) {
                    let key = keys::transit_pointer(transit);
                    let value = encode_pointer(&key);
                    batch.put(Space::Meta, key, value);
                }
                true
            },
        )?;
        let announce = Job {
            id: job,
            account: id,
            peer: travel.peer,
            epoch: travel.epoch,
            stage: Stage::Announce,
            paused: false,
            unix_seconds: now_unix(),
        };
        batch.put(Space::Meta, announce.key(), announce.encode());
        // Whoever finds it from here on finds the same.
        self.unload(id);
        self.commit_foreign(batch).await?;
        // Nothing of the connection that brought it counts any more.
        *connection += 1;
        Ok(())
    }
}

/// Points contents of an account that has no sequencer to where their octets lie now.
pub(crate) async fn relocate(
    store: &Store,
    id: AccountId,
    copied: Vec<(ContentId, ContentRecord, Placed)>,
) -> Result<(), StoreError> {
    let berth = store.berths().of(id);
    let _turn = berth.lock().await;
    if !matches!(
        store.account_record(id)?.map(|record| record.state),
        Some(AccountState::Receiving(_) | AccountState::Ready(_) | AccountState::Moved(_))
    ) {
        // It has been taken home just now. The next round finds it again.
        return Ok(());
    }
    let mut pending = Pending::default();
    for (content, from, placed) in copied {
        let key = keys::content(id, content);
        let Some(value) = store.engine().get(Space::Content, &key)? else { continue };
        let record = ContentRecord::decode(&key, &value).map_err(StoreError::Damaged)?;
        if record.locator != from.locator {
            continue;
        }
        let record = ContentRecord { locator: placed.locator, stored: placed.stored, ..record };
        pending.batch.put(Space::Content, key.to_vec(), record.encode(&key));
        pending.live.push((from.locator.volume, -i64::from(from.stored)));
        pending.live.push((placed.locator.volume, placed.stored.into()));
        pending.volumes.push(placed.volume);
    }
    Ok(store.committer().queue(pending).wait().await?)
}

impl Incoming {
    /// Does what the other store asks for, and answers. What it asks for is durable when this returns. An error: it is
    /// not done, and this is of no use any more.
    pub async fn handle(&mut self, request: Bytes) -> Result<Bytes, StoreError> {
        let request = Request::decode(&request, self.id).ok_or_else(senseless)?;
        let berth = self.berth.clone();
        let connection = berth.lock().await;
        if *connection != self.connection {
            return Err(StoreError::Refused("another connection has taken over"));
        }
        match request {
            Request::Compare(blocks) => {
                let store = self.store.clone();
                let compare = move || -> Result<Bytes, StoreError> {
                    let mut differ = Vec::with_capacity(blocks.len());
                    for block in blocks {
                        let here = ranges::digest(store.engine(), block.space, &block.start, &block.end)?;
                        differ.push(u8::from(here != block.digest));
                    }
                    Ok(differ.into())
                };
                off_thread(compare).await?
            }
            Request::Lack(contents) => {
                let mut lacks = Vec::with_capacity(contents.len());
                for content in contents {
                    let is_here = self.placed.contains_key(&content) || self.content(content)?.is_some();
                    lacks.push(u8::from(!is_here));
                }
                Ok(lacks.into())
            }
            Request::Apply(items) => self.apply(items).await.map(|()| Bytes::new()),
            Request::Large(content, size) => {
                if u64::from(size) > self.store.options().message_octets_max.max(1 << 30) {
                    return Err(senseless());
                }
                let body = self.store.volumes().begin_large()?;
                self.large = Some(Large { content, size, body, got: 0, hasher: blake3::Hasher::new() });
                Ok(Bytes::new())
            }
            Request::Part(octets) => {
                self.make_room(octets.len())?;
                let large = self.large.as_mut().ok_or_else(senseless)?;
                large.got = large.got.saturating_add(octets.len() as u64);
                if large.got > large.size.into() {
                    return Err(senseless());
                }
                large.hasher.update(&octets);
                large.body.push(&octets)?;
                Ok(Bytes::new())
            }
            Request::End(hash) => {
                let mut large = self.large.take().ok_or_else(senseless)?;
                if large.got != large.size.into() || hash_of(&large.hasher) != hash {
                    return Err(differs());
                }
                large.body.end()?;
                let placed = large.body.place(self.id, large.content)?;
                self.has_placed(large.content, placed);
                Ok(Bytes::new())
            }
            Request::Seal { record, modseq, keys, digest } => {
                self.seal(&record, modseq, &keys, digest).await.map(|()| Bytes::new())
            }
        }
    }

    fn make_room(&self, octets: usize) -> Result<(), StoreError> {
        self.store.count_arriving(octets);
        match self.store.is_full() {
            true => Err(StoreError::NoSpace),
            false => Ok(()),
        }
    }

    fn has_placed(&mut self, content: ContentId, placed: Placed) {
        if !self.unsynced.iter().any(|volume| volume.number == placed.volume.number) {
            self.unsynced.push(placed.volume.clone());
        }
        self.placed.insert(content, placed);
    }

    fn content(&self, content: ContentId) -> Result<Option<ContentRecord>, StoreError> {
        let key = keys::content(self.id, content);
        match self.store.engine().get(Space::Content, &key)? {
            Some(value) => ContentRecord::decode(&key, &value).map(Some).map_err(StoreError::Damaged),
            None => Ok(None),
        }
    }

    async fn apply(&mut self, items: Vec<Item>) -> Result<(), StoreError> {
        let record = self.store.account_record(self.id)?.ok_or(StoreError::NoAccount)?;
        let travel = match record.state {
            AccountState::Receiving(travel) | AccountState::Ready(travel) if travel.job == self.job => travel,
            _ => return Err(StoreError::Refused("the account does not come any more")),
        };
        for item in &items {
            let Item::Body { content, hash, octets } = item else { continue };
            if hash_of(blake3::Hasher::new().update(octets)) != *hash {
                return Err(differs());
            }
            self.make_room(octets.len())?;
            let placed = self.store.volumes().append(self.id, *content, octets)?;
            self.has_placed(*content, placed);
        }
        if !self.unsynced.is_empty() {
            let volumes = std::mem::take(&mut self.unsynced);
            let mut pending = Pending::default();
            pending.volumes = volumes;
            self.store.committer().queue(pending).wait().await?;
        }
        let mut pending = Pending::default();
        if let AccountState::Ready(_) = record.state {
            // What was ready goes on.
            let state = AccountState::Receiving(Travel { modseq: 0, ..travel });
            let record = AccountRecord { state, ..record };
            let key = keys::account_record(self.id).to_vec();
            pending.batch.put(Space::Account, key, record.encode(self.id));
        }
        // Contents that get or lose their record within these items.
        let mut changed: HashMap<ContentId, Option<ContentRecord>> = HashMap::new();
        for item in items {
            match item {
                Item::Body { .. } => {}
                Item::Put { space, key, value } => {
                    self.put(&mut pending, &mut changed, space, key, &value)?
                }
                Item::Delete { space, key } => self.delete(&mut pending, &mut changed, space, key)?,
                Item::Prune { space, start, end, keys } => {
                    if !start.starts_with(&keys::account(self.id)) || end > ranges::end_of(self.id) {
                        return Err(senseless());
                    }
                    for key in ranges::keys_between(self.store.engine(), space, &start, &end)? {
                        if keys.binary_search(&key).is_err() {
                            self.delete(&mut pending, &mut changed, space, key)?;
                        }
                    }
                }
            }
        }
        Ok(self.store.committer().queue(pending).wait().await?)
    }

    fn put(
        &mut self,
        pending: &mut Pending,
        changed: &mut HashMap<ContentId, Option<ContentRecord>>,
        space: Space,
        key: Bytes,
        value: &Bytes,
    ) -> Result<(), StoreError> {
        let kind =
            walk::kind_of(space, &key).filter(|_| ranges::travels(space, &key)).ok_or_else(senseless)?;
        walk::read(kind, &key, value).map_err(StoreError::Damaged)?;
        let Some(content) = ranges::content_of(space, &key) else {
            pending.batch.put(space, key, value.clone());
            return Ok(());
        };
        let record = ContentRecord::decode(&key, value).map_err(StoreError::Damaged)?;
        let known = match changed.get(&content) {
            Some(known) => *known,
            None => self.content(content)?,
        };
        let record = match known {
            Some(known) if known.size == record.size => {
                ContentRecord { locator: known.locator, stored: known.stored, ..record }
            }
            Some(_) => return Err(differs()),
            None => {
                let lacks = || StoreError::Refused("the octets of a message have not come");
                let placed = self.placed.remove(&content).ok_or_else(lacks)?;
                pending.live.push((placed.locator.volume, placed.stored.into()));
                // Held until the record is durable.
                pending.volumes.push(placed.volume);
                ContentRecord { locator: placed.locator, stored: placed.stored, ..record }
            }
        };
        if known.is_none() {
            self.is_whole(content, &record)?;
        }
        changed.insert(content, Some(record));
        pending.batch.put(space, key.clone(), record.encode(&key));
        Ok(())
    }

    /// Whether the octets that were placed are as many as the record says.
    fn is_whole(&self, content: ContentId, record: &ContentRecord) -> Result<(), StoreError> {
        let placed = self.store.volumes().record(record.locator, self.id, content)?;
        match placed.size() == u64::from(record.size) {
            true => Ok(()),
            false => Err(differs()),
        }
    }

    fn delete(
        &self,
        pending: &mut Pending,
        changed: &mut HashMap<ContentId, Option<ContentRecord>>,
        space: Space,
        key: Bytes,
    ) -> Result<(), StoreError> {
        if !ranges::travels(space, &key) {
            return Err(senseless());
        }
        if let Some(content) = ranges::content_of(space, &key) {
            let known = match changed.get(&content) {
                Some(known) => *known,
                None => self.content(content)?,
            };
            if let Some(record) = known {
                pending.live.push((record.locator.volume, -i64::from(record.stored)));
            }
            changed.insert(content, None);
        }
        pending.batch.delete(space, key);
        Ok(())
    }

    async fn seal(
        &mut self,
        record: &[u8],
        modseq: u64,
        keys: &[(Space, Bytes)],
        digest: [u8; 16],
    ) -> Result<(), StoreError> {
        let here = self.store.account_record(self.id)?.ok_or(StoreError::NoAccount)?;
        let travel = match here.state {
            AccountState::Receiving(travel) | AccountState::Ready(travel) if travel.job == self.job => travel,
            _ => return Err(StoreError::Refused("the account does not come any more")),
        };
        let key = keys::account_record(self.id);
        let there = AccountRecord::decode(&key, record).map_err(StoreError::Damaged)?;
        if there.state != AccountState::Home
            || there.modseq.get() != modseq
            || there.epoch.0.saturating_add(1) != travel.epoch.0
        {
            return Err(senseless());
        }
        let mut own = Digest::default();
        for (space, key) in keys {
            match self.store.engine().get(*space, key)? {
                Some(value) => {
                    let value = ranges::canonical(*space, key, &value).map_err(StoreError::Damaged)?;
                    own.add(*space, key, Some(&value));
                }
                None => own.add(*space, key, None),
            }
        }
        if own.end() != digest {
            return Err(differs());
        }
        let state = AccountState::Ready(Travel { modseq, ..travel });
        let ready = AccountRecord {
            node: here.node,
            store: here.store,
            incarnation: here.incarnation,
            state,
            ..there
        };
        let mut batch = Batch::new();
        batch.put(Space::Account, key.to_vec(), ready.encode(self.id));
        Ok(self.store.commit_foreign(batch).await?)
    }
}
