//! The half of the store that an account leaves: what it says to the other until both have the same.
//!
//! All records are compared, or sent if there are none over there, while changes go on; the tap notes what changes, and
//! that is sent round after round. When little is left, both compare all of one moment; then the account is frozen, the
//! last changes go over, and the account's own record with them.

use super::frames::{Item, Request, hash_of};
use super::gate::Frozen;
use super::ranges::{self, Block, Digest, SPACES};
use super::tap::{Keys, Tap};
use crate::account::Account;
use crate::error::StoreError;
use crate::keys;
use crate::records::{AccountRecord, AccountState, ContentRecord};
use bytes::Bytes;
use rookery_kv::engine::{Batch, Read, Space};
use rookery_kv::off_thread;
use rookery_types::ContentId;
use std::collections::{HashMap, HashSet};
use std::iter::Peekable;
use std::sync::Arc;

/// Octets of a request that does something, but for its last item.
const FRAME_OCTETS: usize = 1 << 20;
/// A content of more octets goes by itself, in parts.
const LARGE_OCTETS: u32 = 256 << 10;
/// Octets in a part.
const PART_OCTETS: usize = 512 << 10;
/// Blocks that are compared at once.
const BLOCKS: usize = 64;
/// Contents that are asked about at once.
const CONTENTS: usize = 4096;
/// Keys that may be sent after all was compared; with more of them it is compared again.
const UNCOMPARED_MAX: usize = 8192;

/// Carries requests to the other store, and its answers back.
pub trait Exchange: Send {
    /// Asks for something. An error: the answer has not come, or says that it was not done.
    fn ask(&mut self, request: Bytes) -> impl Future<Output = Result<Bytes, String>> + Send;

    /// It was answered; so many messages, and octets of them, were sent by now.
    fn sent(&mut self, _messages: u64, _octets: u64) {}
}

/// Why an account was not copied.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// This store failed, or the account has been deleted.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The other one has not done it, or was not reached.
    #[error("the other node: {0}")]
    Peer(String),
    /// The copies differ, and it is not known why.
    #[error("the copy is not what it should be: {0}")]
    Differs(String),
}

/// An account that is being copied to another store. While this lives, what changes is noted.
#[derive(Debug)]
pub struct Outgoing {
    account: Account,
    tap: Arc<Tap>,
    /// What was sent since all was compared.
    uncompared: Keys,
    /// Everything over there was once sent, or compared and sent.
    is_whole: bool,
    contents: u64,
    octets: u64,
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.account.store.committer().taps.close(self.account.id(), &self.tap);
    }
}

impl Account {
    /// Begins to copy the account to another store.
    pub fn outgoing(&self) -> Outgoing {
        let tap = self.store.committer().taps.open(self.id());
        let account = self.as_kept();
        Outgoing { account, tap, uncompared: Keys::new(), is_whole: false, contents: 0, octets: 0 }
    }
}

type Snapshot = Box<dyn Read + Send>;

impl Outgoing {
    /// How many records wait to be sent again; `None`: so many that all have to be compared again.
    pub fn lag(&self) -> Option<usize> {
        self.tap.len().filter(|_| self.is_whole)
    }

    /// Messages and octets of them that were sent so far.
    pub fn sent(&self) -> (u64, u64) {
        (self.contents, self.octets)
    }

    async fn ask<E: Exchange>(&self, to: &mut E, request: Request) -> Result<Bytes, SendError> {
        let answer = to.ask(request.encode(self.account.id())).await.map_err(SendError::Peer)?;
        to.sent(self.contents, self.octets);
        Ok(answer)
    }

    /// Makes the other store have all that this one has. `fresh`: it has nothing. What changes meanwhile is left to
    /// [`Outgoing::catch_up`].
    pub async fn copy<E: Exchange>(&mut self, to: &mut E, fresh: bool) -> Result<(), SendError> {
        // What was being written when the tap was opened has not been noted: it is to be read instead.
        self.account.store.commit_foreign(Batch::new()).await.map_err(StoreError::from)?;
        let (_, mut snapshot) = self.take().await?;
        for space in SPACES {
            let mut next = Some(Bytes::copy_from_slice(&keys::account(self.account.id())));
            while let Some(start) = next {
                next = match fresh {
                    true => self.copy_block(to, space, start).await?,
                    false => {
                        let (after, rest, _) = self.compare(to, snapshot, space, start).await?;
                        snapshot = rest;
                        after
                    }
                };
            }
        }
        self.is_whole = true;
        Ok(())
    }

    /// Sends what has changed since the last time; says how many records.
    pub async fn catch_up<E: Exchange>(&mut self, to: &mut E) -> Result<usize, SendError> {
        let (keys, snapshot) = self.take().await?;
        match keys {
            Some(keys) => self.send(to, keys, snapshot).await.map(|(sent, _)| sent),
            None => {
                self.is_whole = false;
                drop(snapshot);
                self.copy(to, false).await?;
                Ok(usize::MAX)
            }
        }
    }

    /// Compares all records of one moment with those over there, and sends what differs; says how many blocks did.
    /// None is what is expected.
    pub async fn verify<E: Exchange>(&mut self, to: &mut E) -> Result<u64, SendError> {
        let (keys, snapshot) = self.take().await?;
        let Some(keys) = keys else {
            self.is_whole = false;
            drop(snapshot);
            self.copy(to, false).await?;
            return Ok(1);
        };
        let (_, mut snapshot) = self.send(to, keys, snapshot).await?;
        self.uncompared.clear();
        let mut differing = 0;
        for space in SPACES {
            let mut next = Some(Bytes::copy_from_slice(&keys::account(self.account.id())));
            while let Some(start) = next {
                let (after, rest, differed) = self.compare(to, snapshot, space, start).await?;
                (next, snapshot) = (after, rest);
                differing += differed;
            }
        }
        Ok(differing)
    }

    /// Whether so much was sent since all was compared that it has to be done again.
    pub fn is_compared(&self) -> bool {
        self.is_whole && self.uncompared.len() <= UNCOMPARED_MAX
    }

    /// Sends the last changes of an account that stands still, and its own record. Afterwards the other store has all of
    /// it, durably, and can take it home.
    pub async fn seal<E: Exchange>(&mut self, to: &mut E, frozen: &Frozen) -> Result<(), SendError> {
        let (keys, snapshot) = self.take().await?;
        let Some(keys) = keys else { return Err(SendError::Differs("too much has changed".to_owned())) };
        #[cfg(feature = "sim")]
        let keys = match rookery_kv::defect::is_planted(rookery_kv::defect::Defect::NoCatchUp) {
            true => Keys::new(),
            false => keys,
        };
        let (_, snapshot) = self.send(to, keys, snapshot).await?;
        if !self.is_compared() {
            return Err(SendError::Differs("too much has changed since it was compared".to_owned()));
        }
        let mut digest = Digest::default();
        for (space, key) in &self.uncompared {
            match snapshot.get(*space, key).map_err(StoreError::from)? {
                Some(value) => {
                    let value = ranges::canonical(*space, key, &value).map_err(StoreError::Damaged)?;
                    digest.add(*space, key, Some(&value));
                }
                None => digest.add(*space, key, None),
            }
        }
        let key = keys::account_record(self.account.id());
        let value = snapshot.get(Space::Account, &key).map_err(StoreError::from)?;
        let record = AccountRecord::decode(&key, &value.ok_or(StoreError::NoAccount)?);
        let record = record.map_err(StoreError::Damaged)?;
        if record.state != AccountState::Home || record.modseq.get() != frozen.modseq() {
            return Err(SendError::Differs(format!(
                "the account does not stand still: it is {:?} at {}, and was at {}",
                record.state,
                record.modseq.get(),
                frozen.modseq()
            )));
        }
        let record = record.encode(self.account.id());
        let keys = self.uncompared.iter().cloned().collect();
        let seal = Request::Seal { record, modseq: frozen.modseq(), keys, digest: digest.end() };
        self.ask(to, seal).await.map(drop)
    }

    async fn take(&self) -> Result<(Option<Keys>, Snapshot), SendError> {
        let (tap, store) = (self.tap.clone(), self.account.store.clone());
        Ok(off_thread(move || tap.take(store.engine())).await.map_err(StoreError::from)?)
    }

    /// Sends a block of records to a store that has none of them.
    async fn copy_block<E: Exchange>(
        &mut self,
        to: &mut E,
        space: Space,
        start: Bytes,
    ) -> Result<Option<Bytes>, SendError> {
        let (id, engine) = (self.account.id(), self.account.store.engine_handle());
        let read = off_thread(move || ranges::next_block(&*engine, id, space, &start)).await;
        let (_, records, next) = read.map_err(StoreError::from)??;
        let items = records.into_iter().map(|(key, value)| Item::Put { space, key, value });
        self.deliver(to, items.collect(), true).await?;
        Ok(next)
    }

    /// Compares some blocks, and sends those that are others there. Where to go on, and how many differed.
    async fn compare<E: Exchange>(
        &mut self,
        to: &mut E,
        snapshot: Snapshot,
        space: Space,
        start: Bytes,
    ) -> Result<(Option<Bytes>, Snapshot, u64), SendError> {
        let id = self.account.id();
        let cut = move || -> Result<_, StoreError> {
            let (mut blocks, mut next) = (Vec::new(), Some(start));
            while let Some(start) = next.take().filter(|_| blocks.len() < BLOCKS) {
                let (block, _, after) = ranges::next_block(&*snapshot, id, space, &start)?;
                blocks.push(block);
                next = after;
                if blocks.len() == BLOCKS {
                    break;
                }
            }
            Ok((blocks, next, snapshot))
        };
        let (blocks, next, mut snapshot) = off_thread(cut).await.map_err(StoreError::from)??;
        let differ = self.ask(to, Request::Compare(blocks.clone())).await?;
        if differ.len() != blocks.len() {
            return Err(SendError::Peer("its answer makes no sense".to_owned()));
        }
        let mut differing = 0;
        for (block, _) in blocks.into_iter().zip(differ).filter(|(_, differs)| *differs != 0) {
            differing += 1;
            let Block { start, end, .. } = block;
            let from = start.clone();
            let read = move || ranges::next_block(&*snapshot, id, space, &from).map(|read| (read, snapshot));
            let ((_, records, _), back) = off_thread(read).await.map_err(StoreError::from)??;
            snapshot = back;
            let keys = records.iter().map(|(key, _)| key.clone()).collect();
            let mut items = vec![Item::Prune { space, start, end, keys }];
            items.extend(records.into_iter().map(|(key, value)| Item::Put { space, key, value }));
            self.deliver(to, items, false).await?;
        }
        Ok((next, snapshot, differing))
    }

    /// Sends the values of some keys.
    async fn send<E: Exchange>(
        &mut self,
        to: &mut E,
        keys: Keys,
        snapshot: Snapshot,
    ) -> Result<(usize, Snapshot), SendError> {
        let (count, uncompared) = (keys.len(), keys.clone());
        let read = move || -> Result<_, StoreError> {
            let mut items = Vec::with_capacity(keys.len());
            for (space, key) in keys {
                items.push(match snapshot.get(space, &key)? {
                    Some(value) => {
                        let value = ranges::canonical(space, &key, &value).map_err(StoreError::Damaged)?;
                        Item::Put { space, key, value }
                    }
                    None => Item::Delete { space, key },
                });
            }
            Ok((items, snapshot))
        };
        let (items, snapshot) = off_thread(read).await.map_err(StoreError::from)??;
        self.deliver(to, items, false).await?;
        self.uncompared.extend(uncompared);
        if self.uncompared.len() > UNCOMPARED_MAX {
            // What they are does not matter any more: all is compared again.
            self.uncompared = self.uncompared.iter().take(UNCOMPARED_MAX + 1).cloned().collect();
        }
        Ok((count, snapshot))
    }

    /// Sends items, and before each content's record its octets, if they are not there.
    async fn deliver<E: Exchange>(
        &mut self,
        to: &mut E,
        items: Vec<Item>,
        fresh: bool,
    ) -> Result<(), SendError> {
        let mut contents = Vec::new();
        for item in &items {
            if let Item::Put { space, key, value } = item
                && let Some(content) = ranges::content_of(*space, key)
            {
                let record = ContentRecord::decode(key, value).map_err(StoreError::Damaged)?;
                contents.push((content, record.size));
            }
        }
        let mut lacking: HashSet<ContentId> = contents.iter().map(|(content, _)| *content).collect();
        if !fresh {
            for some in contents.chunks(CONTENTS) {
                let some: Vec<ContentId> = some.iter().map(|(content, _)| *content).collect();
                let lacks = self.ask(to, Request::Lack(some.clone())).await?;
                if lacks.len() != some.len() {
                    return Err(SendError::Peer("its answer makes no sense".to_owned()));
                }
                some.iter().zip(lacks).filter(|(_, lacks)| *lacks == 0).for_each(|(content, _)| {
                    lacking.remove(content);
                });
            }
        }
        contents.retain(|(content, _)| lacking.contains(content));
        let mut contents = contents.into_iter().peekable();
        let mut bodies: HashMap<ContentId, Option<Bytes>> = HashMap::new();
        let (mut frame, mut octets) = (Vec::new(), 0);
        for item in items {
            let content = match &item {
                Item::Put { space, key, .. } => ranges::content_of(*space, key),
                _ => None,
            };
            if let Some(content) = content.filter(|content| lacking.contains(content)) {
                if contents.peek().is_some_and(|(next, size)| *next == content && *size > LARGE_OCTETS) {
                    contents.next();
                    if !self.send_large(to, content).await? {
                        continue;
                    }
                } else {
                    if !bodies.contains_key(&content) {
                        bodies = self.read_bodies(next_small(&mut contents)).await?;
                    }
                    // What has gone meanwhile has been noted to be gone.
                    let Some(Some(body)) = bodies.remove(&content) else { continue };
                    self.contents += 1;
                    self.octets += body.len() as u64;
                    let hash = hash_of(blake3::Hasher::new().update(&body));
                    let body = Item::Body { content, hash, octets: body };
                    octets += body.octets();
                    frame.push(body);
                }
            }
            octets += item.octets();
            frame.push(item);
            if octets >= FRAME_OCTETS {
                let ask = self.ask(to, Request::Apply(std::mem::take(&mut frame)));
                // While the other store writes, this one reads on.
                if bodies.is_empty() {
                    let (asked, read) = tokio::join!(ask, self.read_bodies(next_small(&mut contents)));
                    asked?;
                    bodies = read?;
                } else {
                    ask.await?;
                }
                octets = 0;
            }
        }
        if !frame.is_empty() {
            self.ask(to, Request::Apply(frame)).await?;
        }
        Ok(())
    }

    async fn read_bodies(
        &self,
        contents: Vec<ContentId>,
    ) -> Result<HashMap<ContentId, Option<Bytes>>, SendError> {
        let account = self.account.clone();
        let read = move || -> Result<_, StoreError> {
            let mut bodies = HashMap::with_capacity(contents.len());
            let mut failure = None;
            account.read_many(&contents, |at, read| {
                let Some(content) = contents.get(at) else { return };
                match read {
                    Ok(whole) => drop(bodies.insert(*content, Some(Bytes::copy_from_slice(whole.octets)))),
                    Err(StoreError::NoContent) => drop(bodies.insert(*content, None)),
                    Err(error) => failure = Some(error),
                }
            });
            failure.map_or(Ok(bodies), Err)
        };
        Ok(off_thread(read).await.map_err(StoreError::from)??)
    }

    /// Sends a content in parts; false: it has gone meanwhile.
    async fn send_large<E: Exchange>(&mut self, to: &mut E, content: ContentId) -> Result<bool, SendError> {
        let account = self.account.clone();
        let reader = match off_thread(move || account.reader(content)).await.map_err(StoreError::from)? {
            Ok(reader) => reader,
            Err(StoreError::NoContent) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        let size = u32::try_from(reader.size()).map_err(|_| StoreError::TooLarge(u32::MAX.into()))?;
        self.ask(to, Request::Large(content, size)).await?;
        let read = |at| {
            let reader = reader.clone();
            async move {
                Ok::<_, SendError>(
                    off_thread(move || reader.read(at, PART_OCTETS)).await.map_err(StoreError::from)??,
                )
            }
        };
        let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
        let mut part = read(at).await?;
        while at < reader.size() {
            if part.is_empty() {
                return Err(StoreError::NoContent.into());
            }
            at += part.len() as u64;
            hasher.update(&part);
            self.octets += part.len() as u64;
            let ask = self.ask(to, Request::Part(std::mem::take(&mut part)));
            if at < reader.size() {
                let (asked, next) = tokio::join!(ask, read(at));
                asked?;
                part = next?;
            } else {
                ask.await?;
            }
        }
        self.contents += 1;
        self.ask(to, Request::End(hash_of(&hasher))).await?;
        Ok(true)
    }
}

/// The next of some contents, as many as fill a frame, up to a large one.
fn next_small(contents: &mut Peekable<impl Iterator<Item = (ContentId, u32)>>) -> Vec<ContentId> {
    let (mut some, mut sum) = (Vec::new(), 0);
    while let Some((next, size)) = contents.next_if(|(_, size)| *size <= LARGE_OCTETS && sum < FRAME_OCTETS) {
        some.push(next);
        sum += size as usize;
    }
    some
}
