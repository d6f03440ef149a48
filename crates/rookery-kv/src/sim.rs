//! A simulated disk that fails, fills up and loses power, below [`crate::memory::MemoryEngine`] and [`SimFiles`].
//!
//! Invariants:
//! - Everything follows from the seed and the order of the calls; no clock, no other randomness.
//! - What an `Ok` promised (a commit, a sync) is never lost, except by [`SimDisk::lose_suffix_of_durable`] and
//!   [`SimDisk::corrupt_file`], which exist to test that lies are detected.
//! - What was not promised may be lost, kept or torn, as the seed has it.
//! - After a loss of power every older handle fails: engine, snapshots and files are opened anew from the disk.
//!
//! Deterministic tests call from one thread, or order their threads themselves.

mod table;
mod volumes;

use std::io;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

pub(crate) use table::{Bounds, Table};
pub use volumes::SimFiles;

/// On this thread [`crate::off_thread()`] does its work in place from now on, so that nothing runs beside anything else.
pub fn in_place() {
    crate::off_thread::in_place();
}

/// Kinds of operation, for [`SimDisk::fail_nth`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpKind {
    /// `VolumeFile::read_at` and `len`, and the engine's `get` and `scan`. Not counted by
    /// [`SimDisk::operations`], since a crash during a read is the same as one before the next change.
    Read,
    /// `VolumeFile::write_at`.
    Write,
    /// `VolumeFile::set_len`.
    SetLen,
    /// `VolumeFile::sync`.
    Sync,
    /// `FileLayer::create`.
    Create,
    /// `FileLayer::remove`.
    Remove,
    /// `FileLayer::rename`.
    Rename,
    /// `FileLayer::sync_directory`.
    SyncDirectory,
    /// `Engine::commit`.
    Commit,
}

/// How an operation fails.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// EIO. A write leaves nothing; a sync leaves the range lost, kept or torn for good, as Linux does, whatever
    /// later syncs say; a commit is there or not after reopening.
    Io,
    /// ENOSPC. Otherwise like [`Fault::Io`].
    NoSpace,
    /// A write that leaves a part of its range, then ENOSPC. For other kinds like [`Fault::NoSpace`].
    Short,
}

impl Fault {
    pub(crate) fn error(self) -> io::Error {
        match self {
            Fault::Io => io::Error::other("simulated input/output error"),
            Fault::NoSpace | Fault::Short => {
                io::Error::new(io::ErrorKind::StorageFull, "simulated disk is full")
            }
        }
    }
}

/// A simulated disk; cloning gives another handle to the same one.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

/// Everything on the disk and what is to happen to it.
pub(crate) struct State {
    rng: Rng,
    /// Counts losses of power and crashes; a handle of an older one is stale.
    generation: u64,
    operations: u64,
    /// How many more operations work before the crash.
    operations_left: Option<u64>,
    down: bool,
    full: bool,
    /// Kind, how many more of the kind until it strikes (1: the next), and what happens.
    faults: Vec<(OpKind, u64, Fault)>,
    pub(crate) table: Table,
    pub(crate) volumes: volumes::Volumes,
}

/// Whether an operation may do its work.
pub(crate) enum Gate {
    /// It works.
    Pass,
    /// It fails as planned.
    Fails(Fault),
    /// The crash comes while it is under way: it may take effect or not, and nobody gets an answer.
    Falling,
}

impl SimDisk {
    /// An empty disk.
    pub fn new(seed: u64) -> SimDisk {
        SimDisk {
            state: Arc::new(Mutex::new(State {
                rng: Rng::new(seed),
                generation: 0,
                operations: 0,
                operations_left: None,
                down: false,
                full: false,
                faults: Vec::new(),
                table: Table::default(),
                volumes: volumes::Volumes::default(),
            })),
        }
    }

    /// The files of this disk.
    pub fn files(&self) -> SimFiles {
        SimFiles::new(self.clone())
    }

    /// Power is lost and comes back. What was not synced is dropped, kept or torn; open handles become stale.
    /// Ends a crash ([`SimDisk::crash_after`]) and forgets planned faults; a full disk stays full.
    pub fn power_loss(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        state.table.reopen(&mut state.rng);
        state.volumes.power_loss(&mut state.rng);
        state.restart();
    }

    /// The process dies and the machine lives on (`kill -9`): what was written stays readable, though it is no more
    /// durable than before. Otherwise like [`SimDisk::power_loss`].
    pub fn process_crash(&self) {
        let mut state = self.lock();
        let state = &mut *state;
        state.table.reopen(&mut state.rng);
        state.volumes.process_crash();
        state.restart();
    }

    /// The next `n` operations that change something work; the one after them is under way when everything stops:
    /// it and all later ones, reads too, fail until [`SimDisk::power_loss`] or [`SimDisk::process_crash`].
    pub fn crash_after(&self, n: u64) {
        self.lock().operations_left = Some(n);
    }

    /// How many operations that change something were begun so far, refused ones not counted. A test that runs once
    /// without a crash learns from this how many crash points there are.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// Whether the crash of [`SimDisk::crash_after`] has come.
    pub fn is_down(&self) -> bool {
        self.lock().down
    }

    /// The `n`-th operation of a kind from now on fails (1: the next; 0 counts as 1). Several may be planned.
    pub fn fail_nth(&self, kind: OpKind, n: u64, fault: Fault) {
        self.lock().faults.push((kind, n.max(1), fault));
    }

    /// While the disk is full, commits, creations and writes that lengthen a file fail with ENOSPC.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Takes back the last `n` durable commits, as a journal does that is damaged in the middle and silently cut off
    /// there. Returns how many were taken back: at most the number kept for this, 1,024 since the disk was made.
    /// Files stay as they are; open handles become stale.
    pub fn lose_suffix_of_durable(&self, n: usize) -> usize {
        let mut state = self.lock();
        let state = &mut *state;
        state.table.reopen(&mut state.rng);
        let lost = state.table.undo(n);
        state.volumes.process_crash();
        state.table.unwatch_all();
        state.generation += 1;
        lost
    }

    /// Flips the bits `flip` of the octet at `offset` of a file, on the disk and in the cache.
    /// Fails with `NotFound` or, beyond the file's end, `InvalidInput`.
    pub fn corrupt_file(&self, name: &str, offset: u64, flip: u8) -> io::Result<()> {
        self.lock().volumes.corrupt(name, offset, flip)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl State {
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Settles what a failed commit left open; returns the generation of the new handle.
    pub(crate) fn open_table(&mut self) -> u64 {
        if !self.down {
            self.table.reopen(&mut self.rng);
        }
        self.generation
    }

    /// Asked at the begin of every operation.
    pub(crate) fn gate(&mut self, generation: u64, kind: OpKind) -> io::Result<Gate> {
        if generation != self.generation {
            return Err(io::Error::other("stale: the simulated disk has lost power since this was opened"));
        }
        if self.down {
            return Err(crashed());
        }
        if kind != OpKind::Read {
            self.operations += 1;
            match self.operations_left {
                Some(0) => {
                    self.down = true;
                    return Ok(Gate::Falling);
                }
                Some(left) => self.operations_left = Some(left - 1),
                None => {}
            }
        }
        let mut strikes = None;
        self.faults.retain_mut(|(of, left, fault)| {
            if *of != kind {
                return true;
            }
            *left -= 1;
            if *left == 0 {
                strikes = strikes.or(Some(*fault));
            }
            *left > 0
        });
        Ok(strikes.map_or(Gate::Pass, Gate::Fails))
    }

    fn restart(&mut self) {
        self.generation += 1;
        self.table.unwatch_all();
        self.operations_left = None;
        self.down = false;
        self.faults.clear();
    }
}

/// The error of everything that is asked between a crash and the loss of power.
pub(crate) fn crashed() -> io::Error {
    io::Error::other("the simulated machine has crashed")
}

/// splitmix64: small, and the same for ever, so that a seed written down in a test keeps its meaning.
pub(crate) struct Rng(u64);

impl Rng {
    fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next().checked_rem(n).unwrap_or(0)
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.below(2) == 0
    }
}
