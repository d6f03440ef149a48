//! Opening a store: what it says of itself, whether it is whole, and what a crash has left to be done.

use super::{Inner, Store, StoreOptions, random};
use crate::append::Waiting;
use crate::committer::{Committer, TailEntry, decode_tail};
use crate::encoding::{Damaged, Encoder, open, seal};
use crate::error::StoreError;
use crate::keys;
use crate::leaf::Source;
use crate::records::Locator;
use crate::travel::Berths;
use crate::volume::{Mark, Purpose, RecordKind, Volumes};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rookery_kv::engine::{Batch, Engine, EngineError, Space, prefix_end};
use rookery_kv::files::FileLayer;
use rookery_types::{AccountId, NodeId, StoreId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use tokio::sync::watch;

/// The format this program writes. A store of a higher one is refused.
pub const FORMAT: u32 = 5;
/// The first format that has chunk summaries.
pub(crate) const FORMAT_WITH_SUMMARIES: u32 = 2;

/// Why a store does not open. The text is for the operator, and says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Written by a newer program.
    #[error(
        "the store has format {found}, and this program knows formats up to {FORMAT}; use a newer program"
    )]
    NewerFormat {
        /// The store's format.
        found: u32,
    },
    /// The engine has lost what it had acknowledged.
    #[error(
        "the metadata engine is at group {engine}, but group {marked} was acknowledged: its end is lost; \
         `rookery check --repair` makes the best of what is left"
    )]
    LostSuffix {
        /// The last group the engine has.
        engine: u64,
        /// The last group known to have been durable.
        marked: u64,
    },
    /// A record that the store needs to open is damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// The engine failed.
    #[error("the metadata engine failed")]
    Engine(#[from] EngineError),
    /// A volume could not be read.
    #[error("the volumes cannot be read")]
    Volumes(#[source] std::io::Error),
    /// Something else of the store failed while opening.
    #[error("the store cannot be brought up to date")]
    Store(#[source] Box<StoreError>),
}

/// Settings of the store, made when it is made.
#[derive(Clone, Debug)]
pub(crate) struct Identity {
    /// The format that the store had when this was read.
    pub(crate) format: u32,
    pub(crate) node: NodeId,
    pub(crate) store: StoreId,
    /// Keys the content ids, so that nobody outside can make two messages with one.
    pub(crate) secret: [u8; 32],
}

impl Identity {
    pub(crate) fn encode(&self) -> bytes::Bytes {
        self.encode_as(FORMAT)
    }

    /// As a program of that format writes it.
    pub(crate) fn encode_as(&self, format: u32) -> bytes::Bytes {
        let mut e = Encoder::new(1);
        e.u32(format).u64(self.node.0).raw(&self.store.0).raw(&self.secret);
        seal(Space::Meta, keys::STORE, e)
    }

    pub(crate) fn read(engine: &dyn Engine) -> Result<Option<Identity>, OpenError> {
        let Some(value) = engine.get(Space::Meta, keys::STORE)? else { return Ok(None) };
        let identity = Identity::decode(&value)?;
        match identity.format <= FORMAT {
            true => Ok(Some(identity)),
            false => Err(OpenError::NewerFormat { found: identity.format }),
        }
    }

    /// The store's format and identity.
    pub(crate) fn decode(value: &[u8]) -> Result<Identity, Damaged> {
        open(Space::Meta, keys::STORE, value, |d| {
            d.layout(1)?;
            let format = d.u32()?;
            Some(Identity { format, node: NodeId(d.u64()?), store: StoreId(d.array()?), secret: d.array()? })
        })
    }
}

impl Store {
    /// Opens a store, formatting an empty engine. Finishes what a crash left undone.
    ///
    /// Must be called within a tokio runtime if there is background work.
    pub fn open(
        options: StoreOptions,
        engine: Arc<dyn Engine>,
        files: Arc<dyn FileLayer>,
    ) -> Result<Store, OpenError> {
        let identity = match Identity::read(&*engine)? {
            Some(identity) => identity,
            None => format(&*engine)?,
        };
        let group = read_group(&*engine)?;
        let volumes = Arc::new(
            Volumes::open(files, identity.store, options.volume_octets).map_err(OpenError::Volumes)?,
        );
        let marked = last_mark(&volumes)?;
        if marked > group {
            return Err(OpenError::LostSuffix { engine: group, marked });
        }
        if identity.format < FORMAT {
            upgrade(&*engine, &identity)?;
        }
        let live = read_live(&*engine)?;
        let annotations = match engine.get(Space::Meta, keys::SERVER_ANNOTATIONS)? {
            Some(value) => crate::records::decode_server_annotations(&value)?,
            None => BTreeMap::new(),
        };
        let committer = match options.by_steps {
            true => Committer::by_steps(engine.clone(), volumes.clone(), group, live),
            false => {
                Committer::start(engine.clone(), volumes.clone(), group, live).map_err(OpenError::Volumes)?
            }
        };
        let source = Source::new(engine.clone(), options.hot_octets_max / 2);
        let store = Store(Arc::new(Inner {
            options,
            source,
            engine,
            volumes,
            committer,
            identity,
            accounts: Mutex::default(),
            closed: Mutex::default(),
            annotations: ArcSwap::from_pointee(annotations),
            annotations_turn: tokio::sync::Mutex::default(),
            annotations_changed: watch::Sender::new(0),
            background: Mutex::new(None),
            compacting: tokio::sync::Mutex::default(),
            full: AtomicBool::new(false),
            arrived: AtomicU64::new(0),
            waiting: Waiting::default(),
            berths: Berths::default(),
        }));
        store.look_at_the_disk();
        store.drop_unwritten_tail()?;
        if let Some(pause) = store.0.options.background {
            let task = tokio::spawn(crate::background::run(Arc::downgrade(&store.0).into(), pause));
            *store.0.background.lock() = Some(task);
        }
        Ok(store)
    }

    /// A crash may have left messages whose octets never reached the disk. They were never acknowledged or shown. Those
    /// whose octets are there will be shown, so they are made as durable as if they had been acknowledged.
    fn drop_unwritten_tail(&self) -> Result<(), OpenError> {
        let Some(value) = self.engine().get(Space::Meta, keys::TAIL)? else { return Ok(()) };
        let tail = decode_tail(&value)?;
        let is_missing = |entry: &&TailEntry| {
            self.volumes().verify(entry.locator, entry.mailbox.account, entry.content).is_err()
        };
        let torn: BTreeSet<u32> = tail.iter().filter(is_missing).map(|entry| entry.batch).collect();
        let kept = tail.iter().filter(|entry| !torn.contains(&entry.batch));
        let mut unsettled: BTreeMap<u32, u64> = BTreeMap::new();
        for Locator { volume, offset } in kept.map(|entry| entry.locator) {
            unsettled.entry(volume).and_modify(|first| *first = offset.min(*first)).or_insert(offset);
        }
        for (number, from) in unsettled {
            let mended = self.volumes().settle(number, from);
            if mended.map_err(|error| OpenError::Store(Box::new(error.into())))? {
                tracing::info!(volume = number, "the header of a volume was lost in an interrupted write");
            }
        }
        let mut missing: BTreeMap<AccountId, Vec<TailEntry>> = BTreeMap::new();
        for entry in tail.into_iter().filter(|entry| torn.contains(&entry.batch)) {
            missing.entry(entry.mailbox.account).or_default().push(entry);
        }
        for (id, entries) in missing {
            tracing::info!(account = %id, messages = entries.len(), "messages of an interrupted write are taken back");
            crate::recover::take_back(self, id, &entries).map_err(|e| OpenError::Store(Box::new(e)))?;
        }
        Ok(())
    }
}

fn format(engine: &dyn Engine) -> Result<Identity, OpenError> {
    for space in Space::ALL {
        let mut found = false;
        engine.scan(space, &[], None, false, &mut |_, _| {
            found = true;
            false
        })?;
        if found {
            let key = crate::encoding::hex(keys::STORE);
            let what = "it is missing, but the engine is not empty";
            return Err(Damaged { space: Space::Meta, key, what }.into());
        }
    }
    let node = random().map_err(OpenError::Volumes)?;
    let identity = Identity {
        format: FORMAT,
        node: NodeId(u64::from_le_bytes(node)),
        store: StoreId(random().map_err(OpenError::Volumes)?),
        secret: random().map_err(OpenError::Volumes)?,
    };
    let mut batch = Batch::new();
    batch.put(Space::Meta, keys::STORE, identity.encode());
    batch.put(Space::Meta, keys::GROUP, encode_group(0));
    engine.commit(batch)?;
    Ok(identity)
}

/// Makes a store of a lower format one of this. Chunk summaries come when a mailbox is first opened; kinds of records
/// that lower formats do not have begin empty.
fn upgrade(engine: &dyn Engine, identity: &Identity) -> Result<(), OpenError> {
    let mut batch = Batch::new();
    if identity.format < FORMAT_WITH_SUMMARIES {
        // Whatever stands there was not written by a program that keeps it up to date.
        engine.scan(Space::Leaf, &[], None, false, &mut |key, _| {
            batch.delete(Space::Leaf, key.to_vec());
            true
        })?;
    }
    batch.put(Space::Meta, keys::STORE, identity.encode());
    engine.commit(batch)?;
    tracing::info!(from = identity.format, to = FORMAT, "the store's format was raised");
    Ok(())
}

pub(crate) fn encode_group(group: u64) -> bytes::Bytes {
    let mut e = Encoder::new(1);
    e.u64(group);
    seal(Space::Meta, keys::GROUP, e)
}

pub(crate) fn encode_live(key: &[u8], octets: u64) -> bytes::Bytes {
    let mut e = Encoder::new(1);
    e.varint(octets);
    seal(Space::Meta, key, e)
}

pub(crate) fn read_group(engine: &dyn Engine) -> Result<u64, OpenError> {
    let Some(value) = engine.get(Space::Meta, keys::GROUP)? else {
        let key = crate::encoding::hex(keys::GROUP);
        return Err(Damaged { space: Space::Meta, key, what: "it is missing" }.into());
    };
    Ok(decode_group(&value)?)
}

pub(crate) fn decode_group(value: &[u8]) -> Result<u64, Damaged> {
    open(Space::Meta, keys::GROUP, value, |d| {
        d.layout(1)?;
        d.u64()
    })
}

/// A volume's number and its octets in use.
pub(crate) fn decode_live(key: &[u8], value: &[u8]) -> Result<(u32, u64), Damaged> {
    open(Space::Meta, key, value, |d| {
        d.layout(1)?;
        let number = key.last_chunk::<4>().map(|octets| u32::from_be_bytes(*octets))?;
        Some((number, d.varint()?))
    })
}

pub(crate) fn read_live(engine: &dyn Engine) -> Result<BTreeMap<u32, u64>, OpenError> {
    let mut live = BTreeMap::new();
    let mut failure = None;
    let end = prefix_end(keys::VOLUME);
    engine.scan(Space::Meta, keys::VOLUME, end.as_deref(), false, &mut |key, value| {
        match decode_live(key, value) {
            Ok((number, octets)) => drop(live.insert(number, octets)),
            Err(damaged) => failure = Some(damaged),
        }
        failure.is_none()
    })?;
    match failure {
        Some(damaged) => Err(damaged.into()),
        None => Ok(live),
    }
}

/// The last group that a volume says was durable. Only the last volumes can say so.
pub(crate) fn last_mark(volumes: &Volumes) -> Result<u64, OpenError> {
    let numbers: BTreeSet<u32> = volumes.numbers().map_err(OpenError::Volumes)?.into_iter().collect();
    let mut marked = 0;
    let mut packed_seen = false;
    for number in numbers.into_iter().rev() {
        // Marks of arrivals come with nearly every group, those of what is packed beside them. A large message of its own
        // has none, and of packed volumes only the newest can have one that counts.
        match volumes.purpose(number).map_err(|error| OpenError::Store(Box::new(error.into())))? {
            Some(purpose) if purpose.is_single() => continue,
            Some(Purpose::Packed) if packed_seen => continue,
            Some(Purpose::Packed) => packed_seen = true,
            _ => {}
        }
        let mut last = None;
        let scanned = volumes.scan(number, |_, header| {
            if header.kind == RecordKind::Mark {
                last = Some(Mark::decode(header.content).group);
            }
        });
        match (scanned, last) {
            (Ok(()), Some(group)) => {
                marked = marked.max(group);
                if volumes.purpose(number).ok().flatten() != Some(Purpose::Packed) {
                    return Ok(marked);
                }
            }
            (Ok(()), None) => {}
            (Err(error), _) => return Err(OpenError::Store(Box::new(error.into()))),
        }
    }
    Ok(marked)
}
