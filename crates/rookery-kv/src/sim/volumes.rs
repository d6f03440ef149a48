//! Simulated volume files: what the program sees, and beside it what would survive a loss of power.
//!
//! Invariants:
//! - A file is its durable octets plus the changes since its last sync; likewise the folder, whose names are
//!   durable on their own. A synced file whose name was not synced can vanish; a durable name can lead to an
//!   empty file.
//! - Octets that were durable and not written since never change.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::{Fault, Gate, OpKind, Rng, SimDisk, crashed};
use crate::files::{FileLayer, VolumeFile, check_name};

/// What a disk writes as one; a torn write is torn between sectors or within one.
const SECTOR_OCTETS: usize = 512;

/// The largest simulated file, in octets: it lies in memory twice.
const FILE_OCTETS_MAX: u64 = 1 << 30;

/// All files of one disk.
#[derive(Default)]
pub(crate) struct Volumes {
    inodes: BTreeMap<u64, Inode>,
    inodes_made: u64,
    names: BTreeMap<String, u64>,
    durable_names: BTreeMap<String, u64>,
    unsynced: Vec<NameChange>,
}

#[derive(Default)]
struct Inode {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    handles: usize,
}

enum Change {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
}

#[derive(Clone)]
enum NameChange {
    Create { name: String, inode: u64 },
    Remove { name: String },
    Rename { from: String, to: String, inode: u64 },
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, u64>) {
        match self {
            NameChange::Create { name, inode } => {
                names.insert(name, inode);
            }
            NameChange::Remove { name } => {
                names.remove(&name);
            }
            NameChange::Rename { from, to, inode } => {
                names.remove(&from);
                names.insert(to, inode);
            }
        }
    }

    fn leads_to(&self, wanted: u64) -> bool {
        match self {
            NameChange::Create { inode, .. } | NameChange::Rename { inode, .. } => *inode == wanted,
            NameChange::Remove { .. } => false,
        }
    }
}

impl Volumes {
    pub(super) fn power_loss(&mut self, rng: &mut Rng) {
        self.settle_names(rng);
        self.names = self.durable_names.clone();
        for inode in self.inodes.values_mut() {
            inode.settle(rng);
            inode.current = inode.durable.clone();
        }
        self.process_crash();
    }

    pub(super) fn process_crash(&mut self) {
        for inode in self.inodes.values_mut() {
            inode.handles = 0;
        }
        let all: Vec<u64> = self.inodes.keys().copied().collect();
        for inode in all {
            self.collect(inode);
        }
    }

    pub(super) fn corrupt(&mut self, name: &str, offset: u64, flip: u8) -> io::Result<()> {
        let inode = self.names.get(name).and_then(|inode| self.inodes.get_mut(inode));
        let inode = inode.ok_or(io::ErrorKind::NotFound)?;
        let at = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        *inode.current.get_mut(at).ok_or(io::ErrorKind::InvalidInput)? ^= flip;
        if let Some(octet) = inode.durable.get_mut(at) {
            *octet ^= flip;
        }
        Ok(())
    }

    /// Takes part of the unsynced changes of names for durable and forgets the rest.
    fn settle_names(&mut self, rng: &mut Rng) {
        let changes = std::mem::take(&mut self.unsynced);
        // A journalling file system keeps a prefix, others any part.
        let kept = rng.below(changes.len() as u64 + 1);
        let as_prefix = rng.coin();
        for (at, change) in (0..).zip(changes) {
            if if as_prefix { at < kept } else { rng.coin() } {
                change.apply(&mut self.durable_names);
            }
        }
    }

    fn change_name(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.unsynced.push(change);
    }

    /// Forgets a file that no name, no pending change and no handle leads to.
    fn collect(&mut self, wanted: u64) {
        let held = self.inodes.get(&wanted).is_some_and(|inode| inode.handles > 0)
            || self.names.values().any(|inode| *inode == wanted)
            || self.durable_names.values().any(|inode| *inode == wanted)
            || self.unsynced.iter().any(|change| change.leads_to(wanted));
        if !held {
            self.inodes.remove(&wanted);
        }
    }

    fn file(&mut self, inode: u64) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Inode {
    fn change(&mut self, change: Change) {
        match &change {
            Change::Write { offset, data } => overwrite(&mut self.current, *offset, data),
            Change::SetLen(n) => self.current.resize(*n, 0),
        }
        self.unsynced.push(change);
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::Write { offset, data } => overwrite(&mut self.durable, offset, &data),
                Change::SetLen(n) => self.durable.resize(n, 0),
            }
        }
    }

    /// Takes part of the unsynced changes for durable and forgets the rest.
    fn settle(&mut self, rng: &mut Rng) {
        match rng.below(4) {
            0 => return self.unsynced.clear(),
            1 => return self.sync(),
            _ => {}
        }
        let durable_octets = self.durable.len();
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                Change::Write { offset, data } => match rng.below(4) {
                    0 => {}
                    1 => overwrite(&mut self.durable, offset, &data),
                    2 => {
                        let mut kept = rng.below(data.len() as u64 + 1) as usize;
                        if rng.coin() {
                            kept = kept.saturating_sub((offset + kept) % SECTOR_OCTETS);
                        }
                        overwrite(&mut self.durable, offset, data.get(..kept).unwrap_or(&data));
                    }
                    _ => self.settle_sectors(rng, offset, &data, durable_octets),
                },
                Change::SetLen(n) => {
                    if rng.coin() {
                        self.durable.resize(n, 0);
                    }
                }
            }
        }
    }

    /// Keeps, drops or zeroes each sector of a write. Only what lay beyond the durable end can become zeros: there
    /// the file system may have extended the file before the data came.
    fn settle_sectors(&mut self, rng: &mut Rng, offset: usize, data: &[u8], durable_octets: usize) {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let (part, tail) = rest.split_at((SECTOR_OCTETS - at % SECTOR_OCTETS).min(rest.len()));
            match rng.below(3) {
                0 => {}
                1 => overwrite(&mut self.durable, at, part),
                _ => {
                    let from = at.max(durable_octets);
                    let zeros = (at + part.len()).saturating_sub(from);
                    overwrite(&mut self.durable, from, &vec![0; zeros]);
                }
            }
            at += part.len();
            rest = tail;
        }
    }
}

/// Writes into a buffer as into a file: a gap becomes zeros; nothing written lengthens nothing.
fn overwrite(buffer: &mut Vec<u8>, offset: usize, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let end = offset + data.len();
    if buffer.len() < end {
        buffer.resize(end, 0);
    }
    if let Some(range) = buffer.get_mut(offset..end) {
        range.copy_from_slice(data);
    }
}

/// The files of a [`SimDisk`], as of when this was made: after a loss of power, make another.
#[derive(Clone)]
pub struct SimFiles {
    disk: SimDisk,
    generation: u64,
}

impl SimFiles {
    /// Opens the files of a disk.
    pub fn new(disk: SimDisk) -> SimFiles {
        let generation = disk.lock().generation();
        SimFiles { disk, generation }
    }

    /// Does a change of names, as the gate has it.
    fn change_name(
        &self,
        kind: OpKind,
        change: impl FnOnce(&mut Volumes) -> io::Result<NameChange>,
    ) -> io::Result<()> {
        let mut state = self.disk.lock();
        let gate = state.gate(self.generation, kind)?;
        if let Gate::Fails(fault) = gate {
            return Err(fault.error());
        }
        if kind == OpKind::Create && state.is_full() {
            return Err(Fault::NoSpace.error());
        }
        let change = change(&mut state.volumes)?;
        state.volumes.change_name(change);
        if let Gate::Falling = gate { Err(crashed()) } else { Ok(()) }
    }

    fn handle(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
        let mut state = self.disk.lock();
        let inode = *state.volumes.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        state.volumes.file(inode)?.handles += 1;
        Ok(Arc::new(SimVolume { disk: self.disk.clone(), generation: self.generation, inode }))
    }

    fn read_gate(&self) -> io::Result<()> {
        match self.disk.lock().gate(self.generation, OpKind::Read)? {
            Gate::Fails(fault) => Err(fault.error()),
            Gate::Pass | Gate::Falling => Ok(()),
        }
    }
}

impl FileLayer for SimFiles {
    fn create(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
        check_name(name)?;
        self.change_name(OpKind::Create, |volumes| {
            if volumes.names.contains_key(name) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            volumes.inodes_made += 1;
            let inode = volumes.inodes_made;
            volumes.inodes.insert(inode, Inode::default());
            Ok(NameChange::Create { name: name.to_owned(), inode })
        })?;
        self.handle(name)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
        check_name(name)?;
        self.read_gate()?;
        self.handle(name)
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.read_gate()?;
        Ok(self.disk.lock().volumes.names.keys().cloned().collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.change_name(OpKind::Remove, |volumes| {
            volumes.names.get(name).ok_or(io::ErrorKind::NotFound)?;
            Ok(NameChange::Remove { name: name.to_owned() })
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        check_name(from)?;
        check_name(to)?;
        self.change_name(OpKind::Rename, |volumes| {
            let inode = *volumes.names.get(from).ok_or(io::ErrorKind::NotFound)?;
            Ok(NameChange::Rename { from: from.to_owned(), to: to.to_owned(), inode })
        })
    }

    fn free_octets(&self) -> io::Result<u64> {
        Ok(if self.disk.lock().is_full() { 0 } else { u64::MAX })
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let state = &mut *state;
        match state.gate(self.generation, OpKind::SyncDirectory)? {
            Gate::Falling => Err(crashed()),
            Gate::Fails(fault) => {
                state.volumes.settle_names(&mut state.rng);
                Err(fault.error())
            }
            Gate::Pass => {
                for change in std::mem::take(&mut state.volumes.unsynced) {
                    change.apply(&mut state.volumes.durable_names);
                }
                let all: Vec<u64> = state.volumes.inodes.keys().copied().collect();
                for inode in all {
                    state.volumes.collect(inode);
                }
                Ok(())
            }
        }
    }
}

/// An open simulated file.
struct SimVolume {
    disk: SimDisk,
    generation: u64,
    inode: u64,
}

impl SimVolume {
    fn read<T>(&self, read: impl FnOnce(&[u8]) -> T) -> io::Result<T> {
        let mut state = self.disk.lock();
        match state.gate(self.generation, OpKind::Read)? {
            Gate::Fails(fault) => Err(fault.error()),
            Gate::Pass | Gate::Falling => Ok(read(&state.volumes.file(self.inode)?.current)),
        }
    }
}

/// An offset or length that the simulation can hold.
fn place(n: u64) -> io::Result<usize> {
    match usize::try_from(n) {
        Ok(at) if n <= FILE_OCTETS_MAX => Ok(at),
        _ => Err(io::Error::new(io::ErrorKind::FileTooLarge, "simulated files end at 1 GiB")),
    }
}

impl VolumeFile for SimVolume {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64).ok_or(io::ErrorKind::InvalidInput)?;
        let (offset, end) = (place(offset)?, place(end)?);
        let mut state = self.disk.lock();
        let state = &mut *state;
        let gate = state.gate(self.generation, OpKind::Write)?;
        let full = state.full;
        let file = state.volumes.file(self.inode)?;
        let (octets, result) = match gate {
            Gate::Fails(Fault::Short) => {
                (state.rng.below(buf.len() as u64) as usize, Err(Fault::Short.error()))
            }
            Gate::Fails(fault) => return Err(fault.error()),
            Gate::Pass if full && end > file.current.len() => return Err(Fault::NoSpace.error()),
            Gate::Pass => (buf.len(), Ok(())),
            Gate::Falling => (buf.len(), Err(crashed())),
        };
        file.change(Change::Write { offset, data: buf.get(..octets).unwrap_or(buf).to_vec() });
        result
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.read(|octets| {
            let rest = usize::try_from(offset).ok().and_then(|at| octets.get(at..)).unwrap_or_default();
            let n = rest.len().min(buf.len());
            if let (Some(to), Some(from)) = (buf.get_mut(..n), rest.get(..n)) {
                to.copy_from_slice(from);
            }
            n
        })
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let state = &mut *state;
        let gate = state.gate(self.generation, OpKind::Sync)?;
        let file = state.volumes.file(self.inode)?;
        match gate {
            Gate::Falling => Err(crashed()),
            Gate::Fails(fault) => {
                file.settle(&mut state.rng);
                Err(fault.error())
            }
            Gate::Pass => {
                file.sync();
                Ok(())
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.read(|octets| octets.len() as u64)
    }

    fn set_len(&self, n: u64) -> io::Result<()> {
        let n = place(n)?;
        let mut state = self.disk.lock();
        let state = &mut *state;
        let gate = state.gate(self.generation, OpKind::SetLen)?;
        if let Gate::Fails(fault) = gate {
            return Err(fault.error());
        }
        state.volumes.file(self.inode)?.change(Change::SetLen(n));
        if let Gate::Falling = gate { Err(crashed()) } else { Ok(()) }
    }
}

impl Drop for SimVolume {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.generation() != self.generation {
            return;
        }
        if let Ok(file) = state.volumes.file(self.inode) {
            file.handles = file.handles.saturating_sub(1);
            state.volumes.collect(self.inode);
        }
    }
}
