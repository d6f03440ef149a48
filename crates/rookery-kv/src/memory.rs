//! An engine in memory, on a [`SimDisk`]: the model that the others are tested against, and the engine of tests that
//! cut the power.

use std::io;
use std::ops::Bound;

use parking_lot::MutexGuard;

use crate::engine::{Batch, Bytes, Engine, EngineError, Read, Space, check_sizes};
use crate::sim::{Bounds, Fault, Gate, OpKind, SimDisk, State, crashed};

/// Entries taken under the disk's lock at a time, so that a visitor may itself use the disk.
const PAGE_ENTRIES: usize = 256;

/// See the module. Opened once for each life of the simulated process.
pub struct MemoryEngine {
    disk: SimDisk,
    generation: u64,
    /// Of the commit that failed, kept with the engine: another one opened later is not poisoned.
    poisoned: parking_lot::Mutex<bool>,
}

impl MemoryEngine {
    /// Opens what the disk holds. If a commit failed before, this decides whether it happened.
    pub fn new(disk: SimDisk) -> MemoryEngine {
        let generation = disk.lock().open_table();
        MemoryEngine { disk, generation, poisoned: parking_lot::Mutex::new(false) }
    }
}

impl Engine for MemoryEngine {
    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        let mut poisoned = self.poisoned.lock();
        if *poisoned {
            return Err(EngineError::Poisoned);
        }
        check_sizes(&batch)?;
        if batch.is_empty() {
            return Ok(());
        }
        let mut state = self.disk.lock();
        let error = match state.gate(self.generation, OpKind::Commit) {
            Ok(Gate::Pass) if state.is_full() => Fault::NoSpace.error(),
            Ok(Gate::Pass) => {
                state.table.apply(batch);
                return Ok(());
            }
            Ok(Gate::Fails(fault)) => fault.error(),
            Ok(Gate::Falling) => crashed(),
            Err(refused) => {
                *poisoned = true;
                return Err(refused.into());
            }
        };
        *poisoned = true;
        state.table.leave_unsettled(batch);
        Err(error.into())
    }

    fn snapshot(&self) -> Box<dyn Read + Send> {
        let mut state = self.disk.lock();
        let commit = if state.generation() == self.generation { state.table.watch() } else { 0 };
        Box::new(MemorySnapshot { disk: self.disk.clone(), generation: self.generation, commit })
    }

    fn name(&self) -> &'static str {
        "memory"
    }

    fn disk_octets(&self) -> u64 {
        self.disk.lock().table.octets()
    }
}

impl Read for MemoryEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let state = readable(&self.disk, self.generation)?;
        Ok(state.table.get(space, key, state.table.newest()))
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        self.snapshot().scan(space, start, end, reverse, visit)
    }
}

struct MemorySnapshot {
    disk: SimDisk,
    generation: u64,
    commit: u64,
}

impl Read for MemorySnapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        Ok(readable(&self.disk, self.generation)?.table.get(space, key, self.commit))
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        let mut last: Option<Bytes> = None;
        loop {
            let low = Bound::Included(start);
            let high = end.map_or(Bound::Unbounded, Bound::Excluded);
            let bounds: Bounds<'_> = match &last {
                None => (low, high),
                Some(key) if reverse => (low, Bound::Excluded(key)),
                Some(key) => (Bound::Excluded(key), high),
            };
            let page = readable(&self.disk, self.generation)?.table.page(
                space,
                bounds,
                reverse,
                self.commit,
                PAGE_ENTRIES,
            );
            for (key, value) in &page {
                if !visit(key, value) {
                    return Ok(());
                }
            }
            match page.into_iter().nth(PAGE_ENTRIES - 1) {
                Some((key, _)) => last = Some(key),
                None => return Ok(()),
            }
        }
    }
}

impl Drop for MemorySnapshot {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        if state.generation() == self.generation {
            state.table.unwatch(self.commit);
        }
    }
}

/// The disk's state, if a read may be done now.
fn readable(disk: &SimDisk, generation: u64) -> Result<MutexGuard<'_, State>, io::Error> {
    let mut state = disk.lock();
    match state.gate(generation, OpKind::Read)? {
        Gate::Fails(fault) => Err(fault.error()),
        Gate::Pass | Gate::Falling => Ok(state),
    }
}
