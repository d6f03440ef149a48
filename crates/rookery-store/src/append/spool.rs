//! A message from the first octet that comes of it until it is whole, before it is in any mailbox.
//!
//! Invariants:
//! - A message of up to [`MEMORY_OCTETS_MAX`] waits in memory; a larger one in its own volume, so taking one of
//!   50 MB takes no more memory than one of half a megabyte.
//! - When many whole messages wait in memory ([`StoreOptions::waiting_octets_max`](crate::StoreOptions)), in all commands
//!   of the server, further ones for an account that is known wait in its volume, where nothing refers to them until they
//!   are appended.
//! - ENVELOPE, BODYSTRUCTURE and what else is asked of many messages are found out while the octets come.

use crate::error::StoreError;
use crate::records::Facts;
use crate::store::Store;
use crate::volume::{LargeBody, Placed};
use bytes::Bytes;
use rookery_kv::off_thread;
use rookery_mime::{Limits, Scanned, Scanner};
use rookery_types::{AccountId, ContentId};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Octets of a message that wait in memory.
const MEMORY_OCTETS_MAX: usize = 512 * 1024;
/// Messages of more octets are finished on a thread that may block.
const FINISH_INLINE_OCTETS: u64 = 256 * 1024;
/// Message-IDs of one message that are looked at for its thread.
const THREAD_IDS_MAX: usize = 40;
/// How many of these References may fill: of more, the first and the last ones count, which are the thread's root and
/// the nearest parents.
const REFERENCES_MAX: usize = 30;

/// A message on its way in.
pub struct Spool {
    store: Store,
    /// The account that it is for, if that is known.
    owner: Option<AccountId>,
    scanner: Scanner,
    hasher: blake3::Hasher,
    memory: Vec<u8>,
    large: Option<LargeBody>,
    size: u64,
    has_nul: bool,
}

enum Body {
    /// With how much room that takes.
    Memory(Bytes, #[allow(dead_code, reason = "it counts until it is dropped")] Counted),
    /// A record of this account that nothing refers to yet.
    Stowed(AccountId, Placed),
    Large(LargeBody),
}

/// What waits in memory to be appended, in all commands of the server.
#[derive(Default)]
pub(crate) struct Waiting {
    /// Octets of whole messages.
    messages: Arc<AtomicU64>,
    /// Octets of what is known of messages.
    known: Arc<AtomicU64>,
}

impl Waiting {
    /// Octets of what is known of messages, wherever their own octets are.
    pub(crate) fn octets_known(&self) -> u64 {
        self.known.load(Ordering::Relaxed)
    }
}

/// Octets that are counted until this is dropped.
struct Counted(u64, Arc<AtomicU64>);

impl Counted {
    fn new(octets: usize, count: &Arc<AtomicU64>) -> Counted {
        count.fetch_add(octets as u64, Ordering::Relaxed);
        Counted(octets as u64, count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(self.0, Ordering::Relaxed);
    }
}

struct Taken {
    content: ContentId,
    size: u32,
    message_id: Option<Box<str>>,
    facts: Facts,
    known: Counted,
    body: Body,
}

/// A whole message, ready to be appended to any number of mailboxes. Cheap to clone.
#[derive(Clone)]
pub struct Spooled(Arc<Taken>);

impl std::fmt::Debug for Spooled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Spooled({}, {} octets)", self.0.content, self.0.size)
    }
}

impl Spooled {
    /// What its octets are.
    pub fn content(&self) -> ContentId {
        self.0.content
    }

    /// How many octets it has.
    pub fn size(&self) -> u32 {
        self.0.size
    }

    /// Some octets of it, fewer at its end; before it has become a message of a mailbox. May read the disk.
    pub fn read(&self, from: u64, octets: usize) -> Result<Bytes, StoreError> {
        let end = from.saturating_add(octets as u64);
        match &self.0.body {
            Body::Memory(all, _) => {
                let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(all.len());
                Ok(all.slice(at(from)..at(end)))
            }
            Body::Stowed(_, placed) => {
                let size = u64::from(self.0.size);
                Ok(placed.read(from.min(size)..end.min(size))?.into())
            }
            Body::Large(large) => Ok(large.read(from..end)?.into()),
        }
    }

    /// Octets of what was found out about it, which stay in memory until it is appended.
    pub fn octets_known(&self) -> u64 {
        self.0.known.0
    }

    /// What is kept of it.
    pub(super) fn facts(&self) -> &Facts {
        &self.0.facts
    }

    /// Its Message-ID, if it has one.
    pub fn message_id(&self) -> Option<&str> {
        self.0.message_id.as_deref()
    }

    /// Puts its octets into a volume of the account's.
    pub(super) fn place(&self, store: &Store, account: AccountId) -> Result<Placed, StoreError> {
        Ok(match &self.0.body {
            Body::Memory(octets, _) => store.volumes().append(account, self.0.content, octets)?,
            Body::Stowed(owner, placed) if *owner == account => placed.after_a_while(),
            Body::Stowed(_, placed) => {
                let octets = placed.read(0..self.0.size.into())?;
                store.volumes().append(account, self.0.content, &octets)?
            }
            Body::Large(large) => {
                let placed = large.place(account, self.0.content)?;
                match store.volumes().arrives_behind(placed.volume.number) {
                    true => placed.after_a_while(),
                    false => placed,
                }
            }
        })
    }
}

impl Spool {
    pub(crate) fn new(store: &Store, owner: Option<AccountId>) -> Spool {
        Spool {
            owner,
            scanner: Scanner::new(Limits::default()),
            hasher: blake3::Hasher::new_keyed(store.secret()),
            memory: Vec::new(),
            large: None,
            size: 0,
            has_nul: false,
            store: store.clone(),
        }
    }

    /// Takes the next octets. After an error the spool is of no use any more.
    pub fn push(&mut self, octets: &[u8]) -> Result<(), StoreError> {
        let max = self.store.options().message_octets_max.min(u32::MAX.into());
        self.size = self.size.saturating_add(octets.len() as u64);
        if self.size > max {
            return Err(StoreError::TooLarge(max));
        }
        self.has_nul = self.has_nul || memchr::memchr(0, octets).is_some();
        self.scanner.push(octets);
        self.hasher.update(octets);
        self.store.count_arriving(octets.len());
        if self.large.is_none() && self.store.is_full() {
            return Err(StoreError::NoSpace);
        }
        if self.large.is_none() && self.memory.len() + octets.len() > MEMORY_OCTETS_MAX {
            let mut large = self.store.volumes().begin_large()?;
            large.push(&std::mem::take(&mut self.memory))?;
            self.large = Some(large);
        }
        match &mut self.large {
            Some(large) => large.push(octets)?,
            None => self.memory.extend_from_slice(octets),
        }
        Ok(())
    }

    /// Octets so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The same as [`Spool::finish`], beside the runtime where that may take a while.
    pub async fn finished(self) -> Result<Spooled, StoreError> {
        match self.size <= FINISH_INLINE_OCTETS {
            true => self.finish(),
            false => off_thread(|| self.finish()).await?,
        }
    }

    /// The same as [`Spool::finish_without_nul`], beside the runtime where that may take a while.
    pub async fn finished_without_nul(self) -> Result<Spooled, StoreError> {
        match self.size <= FINISH_INLINE_OCTETS {
            true => self.finish_without_nul(),
            false => off_thread(|| self.finish_without_nul()).await?,
        }
    }

    /// The message is whole. What has NUL becomes one that IMAP and POP3 can carry: parts with NUL are in base64 from
    /// now on (RFC 3516 §4.4). May read and write the disk.
    ///
    /// `Nul` if it stands where no encoding can be put over it.
    pub fn finish_without_nul(self) -> Result<Spooled, StoreError> {
        if !self.has_nul {
            return self.finish();
        }
        let Spool { store, owner, scanner, memory, large, .. } = self;
        let mut made = Spool::new(&store, owner);
        let read = |range: Range<u64>| -> Result<Vec<u8>, StoreError> {
            if let Some(large) = &large {
                return Ok(large.read(range)?);
            }
            let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(memory.len());
            Ok(memory.get(at(range.start)..at(range.end)).unwrap_or_default().to_vec())
        };
        rookery_mime::without_nul(scanner.finish().structure(), read, |octets| made.push(octets))??;
        made.finish()
    }

    /// The message is whole, as it came.
    pub fn finish(self) -> Result<Spooled, StoreError> {
        let size = u32::try_from(self.size).map_err(|_| StoreError::TooLarge(u32::MAX.into()))?;
        let mut content = [0; 16];
        content.copy_from_slice(&self.hasher.finalize().as_bytes()[..16]);
        let content = ContentId(content);
        let scanned = self.scanner.finish();
        let message_id = scanned.facts().message_id.map(String::into_boxed_str);
        let facts = facts_of(&scanned);
        let (waiting, waiting_max) = (self.store.waiting(), self.store.options().waiting_octets_max);
        let body = match self.large {
            Some(mut large) => {
                large.end()?;
                Body::Large(large)
            }
            None => match self.owner {
                Some(owner) if waiting.messages.load(Ordering::Relaxed) >= waiting_max => {
                    Body::Stowed(owner, self.store.volumes().append(owner, content, &self.memory)?)
                }
                _ => {
                    let room = Counted::new(self.memory.capacity(), &waiting.messages);
                    Body::Memory(self.memory.into(), room)
                }
            },
        };
        let known = Counted::new(facts.octets(), &waiting.known);
        Ok(Spooled(Arc::new(Taken { content, size, message_id, facts, known, body })))
    }
}

/// What is kept of a message that has been scanned.
pub(crate) fn facts_of(scanned: &Scanned) -> Facts {
    let found = scanned.facts();
    let (root, parents) = match found.references.split_first() {
        Some((root, parents)) => (Some(root), parents),
        None => (None, &[][..]),
    };
    let parents = parents.get(parents.len().saturating_sub(REFERENCES_MAX - 1)..).unwrap_or(parents);
    let message_ids = found.message_id.iter().chain(root).chain(parents).chain(&found.in_reply_to);
    Facts {
        envelope: scanned.envelope().into(),
        body_structure: scanned.bodystructure().into(),
        body: scanned.body().into(),
        structure: scanned.structure().encode().into(),
        sent: found.date,
        message_ids: message_ids.take(THREAD_IDS_MAX).cloned().collect(),
    }
}
