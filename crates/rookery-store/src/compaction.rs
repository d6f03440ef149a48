//! Compaction: writing elsewhere what lives in a volume, packed, and removing the volume.
//!
//! Volumes that are mostly dead are compacted for their space, and those of arrivals, once they are full, so that what
//! is in them is packed.
//!
//! Invariants:
//! - A copy is on stable storage before anything refers to it; a record is pointed to its copy only if it still says
//!   what was copied.
//! - A volume goes when all that lived in it has gone elsewhere durably, and nobody is about to refer to it or reads it.
//! - Packing waits until nobody is served, unless very much waits for it.

#[cfg(test)]
mod tests;

use crate::account::Account;
use crate::error::StoreError;
use crate::keys;
use crate::records::{self, ContentRecord};
use crate::store::{OpenError, Store, decode_live, read_live};
use crate::volume::{
    DICTIONARY_RECORD_MAX, FRAME_OCTETS, Packer, Placed, Purpose, Record, RecordHeader, RecordKind,
    VolumeError, train,
};
use rookery_kv::engine::{Batch, Space};
use rookery_kv::off_thread;
use rookery_types::{AccountId, ContentId};
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;

/// A volume is compacted when less than this part of it, in percent, is in use.
const COMPACT_BELOW_PERCENT: u64 = 50;
/// Octets of messages that are copied in one round: the budget that keeps compaction from disturbing others.
const ROUND_OCTETS: u64 = 32 << 20;
/// Compaction leaves this part of the reserve alone, one in so many.
const COMPACT_RESERVE_PART: u64 = 4;
/// Messages, and octets of them, that are copied for one sync.
const STEP_RECORDS: usize = 1000;
const STEP_OCTETS: u64 = 4 << 20;
/// A round in which fewer octets than this were read and written for users is a quiet one.
const QUIET_OCTETS: u64 = 256 << 10;
/// After so many quiet rounds the store is idle.
const QUIET_ROUNDS: u32 = 10;
/// With so many octets waiting to be packed it is not waited for quiet any more.
const BACKLOG_OCTETS: u64 = 1 << 30;
/// Octets of messages that a dictionary is trained from, and of the largest that is taken for that.
const SAMPLE_OCTETS: usize = 4 << 20;
const SAMPLE_MESSAGE_MAX: u64 = 32 << 10;

/// When volumes are packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    /// When the store is idle.
    Idle,
    /// At once.
    Now,
}

/// How compaction goes on from round to round.
#[derive(Default)]
pub(crate) struct Pace {
    quiet: u32,
    used: u64,
    /// Volumes with damage that are left as they are until the next start.
    stuck: BTreeSet<u32>,
}

impl Pace {
    /// One more round, by which so many octets in all were read and written for users.
    fn is_idle(&mut self, used: u64) -> bool {
        let busy = used.saturating_sub(self.used) >= QUIET_OCTETS;
        self.used = used;
        self.quiet = if busy { 0 } else { self.quiet.saturating_add(1) };
        self.quiet >= QUIET_ROUNDS
    }
}

/// Compacts as much as one round may.
pub(crate) async fn compact(store: &Store, when: When) -> Result<(), StoreError> {
    let mut pace = store.compacting().lock().await;
    let is_idle = pace.is_idle(store.volumes().used_octets()) || when == When::Now;
    let worker = store.clone();
    let found = off_thread(move || candidates(&worker, is_idle)).await??;
    let mut budget = ROUND_OCTETS;
    for (number, live) in found {
        if budget == 0 {
            return Ok(());
        }
        if pace.stuck.contains(&number) || !has_room_for(store, live)? {
            continue;
        }
        match compact_volume(store, number, &mut budget).await {
            Err(StoreError::Volume(error @ VolumeError::Damaged { .. })) => {
                tracing::error!(%error, "a volume is damaged and stays; `rookery check` tells more");
                pace.stuck.insert(number);
            }
            done => done?,
        }
    }
    Ok(())
}

/// Whether so many octets can be copied and still leave room for the records of changes, without which nothing could be
/// deleted any more.
fn has_room_for(store: &Store, octets: u64) -> Result<bool, StoreError> {
    let io = |source| StoreError::Volume(VolumeError::Io { volume: 0, source });
    let free = store.volumes().free_octets().map_err(io)?;
    Ok(octets == 0 || free.saturating_sub(octets) >= store.options().reserve_octets / COMPACT_RESERVE_PART)
}

/// The volumes to be compacted, with the octets that live in each: those that are mostly dead, and those whose messages are to be packed.
fn candidates(store: &Store, is_idle: bool) -> Result<Vec<(u32, u64)>, StoreError> {
    let live = read_live(store.engine()).map_err(|error| match error {
        OpenError::Damaged(damaged) => StoreError::Damaged(damaged),
        OpenError::Engine(error) => StoreError::Engine(error),
        OpenError::Store(error) => *error,
        _ => StoreError::CutOff,
    })?;
    let volumes = store.volumes();
    let compresses = store.options().compress;
    if compresses && is_idle {
        volumes.end_arrivals(store.options().pack_octets_min)?;
    }
    let io = |source| StoreError::Volume(VolumeError::Io { volume: 0, source });
    let (mut dead, mut unpacked, mut backlog) = (Vec::new(), Vec::new(), 0_u64);
    for number in volumes.numbers().map_err(io)? {
        if volumes.is_in_use(number) {
            continue;
        }
        let mut octets = match volumes.octets(number) {
            // Whoever took it for a message has given up meanwhile.
            Err(VolumeError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => continue,
            octets => octets?,
        };
        let purpose = volumes.purpose(number)?;
        if purpose == Some(Purpose::Packed) {
            octets = octets.saturating_sub(2 * DICTIONARY_RECORD_MAX);
        }
        let live = live.get(&number).copied().unwrap_or(0);
        if live == 0 || live.saturating_mul(100) < octets.saturating_mul(COMPACT_BELOW_PERCENT) {
            dead.push((number, live));
        } else if compresses && purpose.is_some_and(|purpose| !purpose.is_packed()) {
            unpacked.push((number, live));
            backlog = backlog.saturating_add(octets);
        }
    }
    if is_idle || backlog >= BACKLOG_OCTETS {
        dead.append(&mut unpacked);
    }
    Ok(dead)
}

/// A record that lives.
#[derive(Clone, Copy)]
struct Alive {
    account: AccountId,
    content: ContentId,
    record: ContentRecord,
}

async fn compact_volume(store: &Store, number: u32, budget: &mut u64) -> Result<(), StoreError> {
    let worker = store.clone();
    let living = off_thread(move || living(&worker, number)).await??;
    let mut rest = living.as_slice();
    while !rest.is_empty() {
        if *budget == 0 {
            return Ok(());
        }
        let mut octets = 0;
        let mut count = 0;
        while let Some(next) = rest.get(count) {
            if count > 0 && (count >= STEP_RECORDS || octets + u64::from(next.record.size) > STEP_OCTETS) {
                break;
            }
            octets += u64::from(next.record.size);
            count += 1;
        }
        let (step, behind) = rest.split_at(count);
        rest = behind;
        let (worker, step) = (store.clone(), step.to_vec());
        let copied = off_thread(move || copy(&worker, &step)).await??;
        switch(store, copied).await?;
        *budget = budget.saturating_sub(octets);
    }
    // All that lived here has gone elsewhere durably, and nobody is about to refer to it.
    let left = match store.engine().get(Space::Meta, &keys::volume(number))? {
        Some(value) => decode_live(&keys::volume(number), &value).map_err(StoreError::Damaged)?.1,
        None => 0,
    };
    if left > 0 {
        let what = "octets are in use in it that cannot be found";
        return Err(VolumeError::Damaged { volume: number, offset: 0, what }.into());
    }
    if !store.volumes().is_in_use(number) {
        let mut batch = Batch::new();
        batch.delete(Space::Meta, keys::volume(number));
        store.commit_foreign(batch).await?;
        store.volumes().remove(number)?;
        tracing::debug!(volume = number, "a volume was compacted away");
    }
    Ok(())
}

/// The records of a volume that something refers to, in the order in which they lie there.
fn living(store: &Store, number: u32) -> Result<Vec<Alive>, StoreError> {
    let mut headers: Vec<(u64, RecordHeader)> = Vec::new();
    // No record may be missed: the volume goes. What only looks like one is not what the engine knows.
    store.volumes().scan_closely(number, |offset, header| {
        if header.kind == RecordKind::Content {
            headers.push((offset, *header));
        }
    })?;
    let mut living = Vec::new();
    for (offset, header) in headers {
        let Some(id) = AccountId::new(header.account) else { continue };
        let from = records::Locator { volume: number, offset };
        let key = keys::content(id, header.content);
        let Some(value) = store.engine().get(Space::Content, &key)? else { continue };
        let record = ContentRecord::decode(&key, &value).map_err(StoreError::Damaged)?;
        if record.locator == from {
            living.push(Alive { account: id, content: header.content, record });
        }
    }
    Ok(living)
}

/// Copies messages, packed, and syncs the copies.
fn copy(store: &Store, step: &[Alive]) -> Result<Vec<(Alive, Placed)>, StoreError> {
    let volumes = store.volumes();
    let mut packer = match store.options().compress {
        true => Packer::new(),
        false => None,
    };
    let mut copied = Vec::with_capacity(step.len());
    for alive in step {
        let record = volumes.record(alive.record.locator, alive.account, alive.content)?;
        if record.size() != u64::from(alive.record.size) {
            return Err(damaged(alive, "it has another size than it should"));
        }
        let is_alone = volumes.purpose(alive.record.locator.volume)?.is_some_and(Purpose::is_single)
            || record.size() > STEP_OCTETS;
        let placed = match &mut packer {
            packer if is_alone => copy_large(store, alive, &record, packer.as_mut())?,
            packer => {
                let body = volumes.read_record(&record, 0, alive.record.size as usize)?;
                volumes.begin_packing(|| packer.is_some().then(|| dictionary(store, step)).flatten())?;
                volumes.append_packed(alive.account, alive.content, &body, packer.as_mut())?
            }
        };
        copied.push((*alive, placed));
    }
    // Before the records point there: nobody looks after a crash whether a copy was synced with its record, and the old
    // place is still good until then.
    let mut synced = BTreeSet::new();
    for (_, placed) in &copied {
        if synced.insert(placed.volume.number)
            && let Err(error) = placed.volume.sync(volumes.files())
        {
            store.committer().fail(&error);
            return Err(error.into());
        }
    }
    Ok(copied)
}

fn damaged(alive: &Alive, what: &'static str) -> StoreError {
    let at = alive.record.locator;
    VolumeError::Damaged { volume: at.volume, offset: at.offset, what }.into()
}

/// Copies a message into a volume of its own, frame by frame.
fn copy_large(
    store: &Store,
    alive: &Alive,
    record: &Record,
    mut packer: Option<&mut Packer>,
) -> Result<Placed, StoreError> {
    let mut large = store.volumes().begin_packed_large()?;
    let mut at = 0;
    while at < record.size() {
        let piece = store.volumes().read_record(record, at, FRAME_OCTETS)?;
        if piece.is_empty() {
            return Err(damaged(alive, "it ends too early"));
        }
        large.pack(&piece, packer.as_deref_mut())?;
        at += piece.len() as u64;
    }
    large.end()?;
    Ok(large.place(alive.account, alive.content)?)
}

/// A dictionary for messages like these. Those that cannot be read do without.
fn dictionary(store: &Store, step: &[Alive]) -> Option<Vec<u8>> {
    let (mut samples, mut sizes) = (Vec::new(), Vec::new());
    for alive in step.iter().filter(|alive| u64::from(alive.record.size) <= SAMPLE_MESSAGE_MAX) {
        let volumes = store.volumes();
        let record = volumes.record(alive.record.locator, alive.account, alive.content).ok()?;
        let body = volumes.read_record(&record, 0, alive.record.size as usize).ok()?;
        if samples.len() + body.len() > SAMPLE_OCTETS {
            break;
        }
        sizes.push(body.len());
        samples.extend_from_slice(&body);
    }
    train(&samples, &sizes)
}

/// Points records to their copies, those of each account in one change.
async fn switch(store: &Store, copied: Vec<(Alive, Placed)>) -> Result<(), StoreError> {
    let mut by_account: BTreeMap<AccountId, Vec<(Alive, Placed)>> = BTreeMap::new();
    for (alive, placed) in copied {
        by_account.entry(alive.account).or_default().push((alive, placed));
    }
    for (id, copied) in by_account {
        match store.load_account(id) {
            Ok(Some(account)) => point(&account, &copied).await?,
            Ok(None) => {}
            // It is not whole, and has no sequencer.
            Err(StoreError::Moved) => {
                let copied = copied.into_iter();
                let copied = copied.map(|(alive, placed)| (alive.content, alive.record, placed)).collect();
                crate::travel::relocate(store, id, copied).await?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Where octets lie is no part of what an account is: also one that is deleted, frozen or released is pointed elsewhere.
async fn point(account: &Account, copied: &[(Alive, Placed)]) -> Result<(), StoreError> {
    let ticket = {
        let mut t = account.cell.begin(account.store.engine())?;
        {
            let t = &mut t;
            for (alive, placed) in copied {
                let from = alive.record;
                // The record may have gone, or been moved, meanwhile: then the copy is garbage.
                let Some(mut record) =
                    t.content(alive.content)?.filter(|record| record.locator == from.locator)
                else {
                    continue;
                };
                record.locator = placed.locator;
                record.stored = placed.stored;
                t.put_content(alive.content, &record);
                t.live(from.locator.volume, -i64::from(from.stored));
                t.sync_with(placed);
            }
        }
        t.finish(account.store.committer())
    };
    ticket.wait().await?;
    account.cell.tidy();
    Ok(())
}
