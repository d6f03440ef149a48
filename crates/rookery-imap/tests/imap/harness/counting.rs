//! An engine that counts what is read of it, so that a test can say what a command costs.

use rookery_kv::memory::MemoryEngine;
use rookery_kv::{Batch, Bytes, Engine, EngineError, Read, Space};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An engine that counts the records that are read.
pub(super) struct Counting {
    pub(super) inner: MemoryEngine,
    pub(super) reads: Arc<AtomicU64>,
}

struct CountingRead(Box<dyn Read + Send>, Arc<AtomicU64>);

fn counted_scan(
    read: &dyn Read,
    reads: &AtomicU64,
    range: (Space, &[u8], Option<&[u8]>, bool),
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), EngineError> {
    let (space, start, end, reverse) = range;
    reads.fetch_add(1, Ordering::Relaxed);
    read.scan(space, start, end, reverse, &mut |key, value| {
        reads.fetch_add(1, Ordering::Relaxed);
        visit(key, value)
    })
}

impl Read for CountingRead {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        counted_scan(&*self.0, &self.1, (space, start, end, reverse), visit)
    }
}

impl Read for Counting {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.inner.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        counted_scan(&self.inner, &self.reads, (space, start, end, reverse), visit)
    }
}

impl Engine for Counting {
    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        self.inner.commit(batch)
    }

    fn snapshot(&self) -> Box<dyn Read + Send> {
        Box::new(CountingRead(self.inner.snapshot(), self.reads.clone()))
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn disk_octets(&self) -> u64 {
        self.inner.disk_octets()
    }
}
