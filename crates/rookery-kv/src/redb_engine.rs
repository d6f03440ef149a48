//! A second real engine, redb (a copy-on-write B-tree in one file), for the conformance suite: what both engines
//! agree on is the trait's meaning and not one engine's habit. Not compiled by default.

use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use redb::{
    Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, StorageError, TableDefinition,
};

use crate::engine::{Batch, Bytes, Engine, EngineError, Op, Read, Space, check_sizes};

/// See the module.
pub struct RedbEngine {
    database: Database,
    file: std::path::PathBuf,
    poisoned: AtomicBool,
}

fn table(space: Space) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(space.name())
}

impl RedbEngine {
    /// Opens the file, creating it if there is none.
    pub fn open(file: impl AsRef<Path>) -> Result<RedbEngine, EngineError> {
        let file = file.as_ref().to_path_buf();
        let database = Database::create(&file).map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => EngineError::Locked,
            DatabaseError::Storage(error) => storage(error),
            other => EngineError::Corrupt { detail: other.to_string() },
        })?;
        let engine = RedbEngine { database, file, poisoned: AtomicBool::new(false) };
        engine.write(|write| {
            for space in Space::ALL {
                write.open_table(table(space))?;
            }
            Ok(())
        })?;
        Ok(engine)
    }

    fn write(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), EngineError> {
        let run = || {
            let mut write = self.database.begin_write()?;
            write.set_durability(Durability::Immediate)?;
            change(&write)?;
            write.commit()?;
            Ok(())
        };
        run().map_err(translate)
    }

    fn view(&self) -> Result<RedbSnapshot, EngineError> {
        let read = self.database.begin_read().map_err(|error| translate(error.into()))?;
        Ok(RedbSnapshot(Ok(read)))
    }
}

impl Engine for RedbEngine {
    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        if self.poisoned.load(Ordering::Acquire) {
            return Err(EngineError::Poisoned);
        }
        check_sizes(&batch)?;
        if batch.is_empty() {
            return Ok(());
        }
        let result = self.write(|write| {
            for op in &batch.ops {
                let (space, key) = op.target();
                let mut table = write.open_table(table(space))?;
                match op {
                    Op::Put { value, .. } => table.insert(key.as_ref(), value.as_ref())?,
                    Op::Delete { .. } => table.remove(key.as_ref())?,
                };
            }
            Ok(())
        });
        if result.is_err() {
            self.poisoned.store(true, Ordering::Release);
        }
        result
    }

    fn snapshot(&self) -> Box<dyn Read + Send> {
        match self.view() {
            Ok(view) => Box::new(view),
            Err(error) => Box::new(RedbSnapshot(Err(error.to_string()))),
        }
    }

    fn name(&self) -> &'static str {
        "redb"
    }

    fn disk_octets(&self) -> u64 {
        std::fs::metadata(&self.file).map_or(0, |metadata| metadata.len())
    }
}

impl Read for RedbEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        self.view()?.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        self.view()?.scan(space, start, end, reverse, visit)
    }
}

/// A view, or why there is none: taking one cannot fail in the trait, reading from it can.
struct RedbSnapshot(Result<ReadTransaction, String>);

impl RedbSnapshot {
    fn read(&self) -> Result<&ReadTransaction, EngineError> {
        self.0.as_ref().map_err(|detail| EngineError::Io(io::Error::other(detail.clone())))
    }
}

impl Read for RedbSnapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        let run = || {
            let table = self.read()?.open_table(table(space)).map_err(|error| translate(error.into()))?;
            let value = table.get(key).map_err(storage)?;
            Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
        };
        run()
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
        let table = self.read()?.open_table(table(space)).map_err(|error| translate(error.into()))?;
        let high = end.map_or(Bound::Unbounded, Bound::Excluded);
        let mut entries = table.range::<&[u8]>((Bound::Included(start), high)).map_err(storage)?;
        while let Some(entry) = if reverse { entries.next_back() } else { entries.next() } {
            let (key, value) = entry.map_err(storage)?;
            if !visit(key.value(), value.value()) {
                break;
            }
        }
        Ok(())
    }
}

fn storage(error: StorageError) -> EngineError {
    translate(error.into())
}

fn translate(error: redb::Error) -> EngineError {
    match error {
        redb::Error::Io(error) => error.into(),
        redb::Error::PreviousIo => EngineError::Poisoned,
        other => EngineError::Corrupt { detail: other.to_string() },
    }
}
