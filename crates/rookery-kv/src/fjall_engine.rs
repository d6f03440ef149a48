//! The engine of a real store: fjall, an LSM tree with a journal.
//!
//! Invariants:
//! - A folder that has the engine's final name holds a complete engine: it is made under another name, synced file
//!   by file, and renamed. fjall alone cannot be reopened if it dies between its first file and its version marker,
//!   and does not sync the folder that names its keyspaces.
//! - One commit is one fjall batch across keyspaces, with one `fdatasync`, which the file system confirms (`stable`).
//! - A batch names each key once: fjall gives all changes of a batch the same sequence number, so the order of two
//!   on one key would be lost.
//! - fjall's snapshots are taken only while no batch is being applied; readers get clones of the last one. Taken at
//!   another time they can show half a batch (below).
//!
//! # What was found in fjall 3.1.13 (read in its source, and kept true by `tests/fjall_journal.rs`)
//!
//! - **What a commit promises.** `WriteBatch::commit` appends to the journal under a mutex, syncs as asked, then
//!   applies to the memory tables. `PersistMode::SyncData` is `fdatasync`, which on Linux carries a changed length
//!   and newly allocated blocks too; `SyncAll` adds only timestamps. A new journal is set to 64 MiB, synced, and its
//!   folder is synced before the first batch goes into it. Tables and version files are synced with their folders
//!   before a journal is deleted.
//! - **Torn tail.** At opening, the journal is read up to the first thing that is no valid entry, and cut off there.
//!   A batch without its end marker is dropped, which is right: it was never acknowledged.
//! - **Damage within a value** (all markers intact, checksum wrong) makes opening fail: [`EngineError::Corrupt`]. The
//!   last, unacknowledged batch is only in danger of this if a disk loses power between the sectors of one 4 KiB
//!   block and has written them out of order: a lost block takes a marker with it, or lies in a value of more than
//!   4 KiB, which is compressed and then fails to decompress; both look like a torn tail. If it does happen, the
//!   batch must be cut off by hand.
//! - **Damage to a marker or a length in the middle** looks like a torn tail: everything after it in that journal is
//!   dropped *silently*, and, if it was a sealed journal, batches of the later ones are still applied. The engine
//!   cannot tell; the store must number its batches and compare with what it noted elsewhere.
//! - **A failed write or sync** poisons the database for good. A batch whose sync failed may be read back from the
//!   page cache after a restart of the process though it is not on the disk (Linux marks such pages clean), so after
//!   an input/output error the machine, not only the process, should be restarted.
//! - **A failed flush or compaction** (a full disk, say) poisons it too, but the reason only goes to the `log`
//!   facade: the next commit returns [`EngineError::Poisoned`].
//! - **Snapshots can be torn.** A flush or compaction that ends while a batch is being applied raises the sequence
//!   number that is visible beyond that batch's, so a snapshot taken just then sees the part applied so far, and
//!   later the rest. `tests/conformance.rs` shows it within a second if snapshots are taken at will.
//! - **Slow workers** hold up commits: with four memory tables of one space waiting to be written out, `commit`
//!   sleeps until there are fewer. Its batch is durable by then. If the workers die meanwhile, it sleeps for ever;
//!   commits after that are refused at once.
//! - **Opening reads all journals**, also what is in tables already: some 10 ms for each MiB, for it looks up the keyspace
//!   of each change on the disk, and twice as long where it has to be applied. A journal ends only when a memory table
//!   is written out while it has more than 64 MB, and goes when all tables that it speaks of have been written out: one
//!   space that changes little keeps journals of all. So [`FjallOptions::unflushed_octets_max`] has all of them written
//!   out together, and a clean stop leaves empty journals.
//! - **Options of a keyspace** (here the size of its memory table) are stored when it is created and not changed
//!   by later openings.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::ops::Bound;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use parking_lot::{Mutex, RwLock};

use crate::engine::{Batch, Bytes, Engine, EngineError, Op, Read, Space, check_sizes};
use crate::files::create_folder;
use crate::stable::Witness;

/// Format version that fjall 3 writes into its `version` file, after the letters FJL.
const FJALL_FORMAT: u8 = 3;

/// fjall's own name for the file whose presence makes a folder a database.
const VERSION_FILE: &str = "version";

/// How deep fjall's folders nest (`keyspaces/<id>/tables/<file>`), with room to spare.
const FOLDER_DEPTH_MAX: usize = 8;

/// How long a clean stop waits for memory tables to be written out. What is not will be replayed.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// fjall refuses less.
const JOURNAL_OCTETS_LEAST: u64 = 64 * 1024 * 1024;

/// Octets that fjall writes into the journal for each change, besides key and value.
const ENTRY_OCTETS: u64 = 24;

/// The ending of the names of journals.
const JOURNAL_ENDING: &str = "jnl";

/// How the engine uses memory, disk and threads.
#[derive(Clone, Debug)]
pub struct FjallOptions {
    /// Octets of the cache of table blocks. Default 64 MiB.
    pub cache_octets: u64,
    /// Octets of one space's memory table before it is written out. There is one for each space, and for a moment a
    /// second while the first is written out. Counts when a space is first created. Default 16 MiB.
    pub memtable_octets: u64,
    /// Octets of changes after which all memory tables are written out. With the 64 MB at which fjall ends a journal it
    /// bounds what is read and applied when opening after a crash. Default 22 MiB: with the third of them the journal
    /// ends.
    pub unflushed_octets_max: u64,
    /// Octets of all journals at which fjall itself sees to it that they go, should the workers not keep up. At least
    /// 64 MiB; less is taken as that. Default 256 MiB.
    pub journal_octets_max: u64,
    /// Threads that write out and merge tables, at least 1. Default 2.
    pub worker_threads: usize,
}

impl Default for FjallOptions {
    fn default() -> FjallOptions {
        FjallOptions {
            cache_octets: 64 * 1024 * 1024,
            memtable_octets: 16 * 1024 * 1024,
            unflushed_octets_max: 22 * 1024 * 1024,
            journal_octets_max: 256 * 1024 * 1024,
            worker_threads: 2,
        }
    }
}

/// See the module.
pub struct FjallEngine {
    database: Database,
    spaces: Spaces,
    /// The view of the last commit, or of the opening. It keeps what it sees from being cleaned up until the next.
    current: RwLock<Snapshot>,
    /// Held during commits, so that there is one at a time.
    commits: Mutex<Commits>,
    path: PathBuf,
    unflushed_octets_max: u64,
    witness: Witness,
}

/// What commits leave.
struct Commits {
    /// One has failed, or nothing is to be committed any more.
    ended: bool,
    /// Octets since all memory tables were written out.
    unflushed: u64,
}

/// One keyspace for each [`Space`], by its index.
type Spaces = Arc<[Keyspace]>;

impl FjallEngine {
    /// Opens the engine in the folder `path`, creating it (mode 0700) if there is none or an empty one; its
    /// parent must exist.
    /// While it is being created it is called `<path>.creating`; what an earlier attempt left there is removed.
    ///
    /// Errors: [`EngineError::Locked`] if it is open elsewhere, in this process too (a snapshot that lives on keeps it
    /// open); [`EngineError::Corrupt`] and [`EngineError::NewerFormat`] by what is found; the folder is then as it was,
    /// except that fjall cuts off the torn tail of a journal.
    pub fn open(path: impl AsRef<Path>, options: FjallOptions) -> Result<FjallEngine, EngineError> {
        let path = path.as_ref();
        if !is_present(path)? {
            create(path, &options)?;
        }
        refuse_newer(path)?;
        let (database, spaces, changed) = open_database(path, &options)?;
        if changed {
            // A space that this version is the first to know.
            sync_tree(path, FOLDER_DEPTH_MAX)?;
        }
        let current = RwLock::new(database.snapshot());
        // Their valid part: what is behind it was cut off.
        let unflushed =
            journals(path)?.iter().map(|journal| fs::metadata(journal).map_or(0, |file| file.len())).sum();
        Ok(FjallEngine {
            database,
            spaces,
            current,
            commits: Mutex::new(Commits { ended: false, unflushed }),
            path: path.to_owned(),
            unflushed_octets_max: options.unflushed_octets_max,
            witness: Witness::at(path)?,
        })
    }

    /// Has those memory tables written out in the background that are not waiting for it in numbers already: with four
    /// of one space waiting, commits would have to.
    fn flush(&self) {
        for space in self.spaces.iter().filter(|space| space.sealed_memtable_count() < 2) {
            // Best effort: what fails for good makes the next commit fail.
            let _ = space.rotate_memtable();
        }
    }

    fn view(&self) -> Snapshot {
        self.current.read().clone()
    }
}

/// Whether there is an engine, as opposed to nothing or an empty folder.
fn is_present(path: &Path) -> Result<bool, EngineError> {
    match fs::read_dir(path) {
        Ok(mut entries) => match entries.next() {
            None => Ok(false),
            Some(_) if path.join(VERSION_FILE).try_exists()? => Ok(true),
            Some(_) => Err(EngineError::Corrupt {
                detail: format!("{} is neither empty nor a key-value engine", path.display()),
            }),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The files of the journal, oldest first: their names are numbers.
fn journals(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut journals = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        if file.extension().is_some_and(|ending| ending == JOURNAL_ENDING) {
            let number = file.file_stem().and_then(|name| name.to_str()?.parse::<u64>().ok());
            journals.push((number, file));
        }
    }
    journals.sort();
    Ok(journals.into_iter().map(|(_, file)| file).collect())
}

/// Makes an empty engine so that `path` exists only when it is whole and durable.
fn create(path: &Path, options: &FjallOptions) -> Result<(), EngineError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".creating");
    let unfinished = PathBuf::from(name);
    match fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    // fjall would make it with the modes that the umask leaves.
    create_folder(&unfinished)?;
    drop(open_database(&unfinished, options)?);
    sync_tree(&unfinished, FOLDER_DEPTH_MAX)?;
    fs::rename(&unfinished, path)?;
    if let Some(parent) = fs::canonicalize(path)?.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Syncs every file and folder below `path`.
fn sync_tree(path: &Path, depth_left: usize) -> io::Result<()> {
    if depth_left == 0 {
        return Err(io::Error::other(format!("{} nests deeper than expected", path.display())));
    }
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_tree(&entry.path(), depth_left - 1)?;
        } else {
            match File::open(entry.path()) {
                Ok(file) => file.sync_all()?,
                // A worker may have removed a file that is no longer needed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    File::open(path)?.sync_all()
}

/// Tells a format of the future from damage: fjall gives the same error for both.
fn refuse_newer(path: &Path) -> Result<(), EngineError> {
    match fs::read(path.join(VERSION_FILE))?.as_slice() {
        [b'F', b'J', b'L', found, ..] if *found > FJALL_FORMAT => Err(EngineError::NewerFormat {
            detail: format!("found fjall format {found}, known is {FJALL_FORMAT}"),
        }),
        _ => Ok(()),
    }
}

/// Opens or creates the database and its keyspaces; true if a keyspace was created.
fn open_database(path: &Path, options: &FjallOptions) -> Result<(Database, Spaces, bool), EngineError> {
    // fjall asserts much of what it reads from the disk.
    let opened = std::panic::catch_unwind(AssertUnwindSafe(|| {
        let database = Database::builder(path)
            .cache_size(options.cache_octets)
            .max_journaling_size(options.journal_octets_max.max(JOURNAL_OCTETS_LEAST))
            .worker_threads(options.worker_threads.max(1))
            .open()?;
        let mut created = false;
        let keyspaces = Space::ALL.map(|space| {
            database.keyspace(space.name(), || {
                created = true;
                KeyspaceCreateOptions::default().max_memtable_size(options.memtable_octets)
            })
        });
        let keyspaces = keyspaces.into_iter().collect::<fjall::Result<Spaces>>()?;
        Ok((database, keyspaces, created))
    }));
    match opened {
        Ok(result) => result.map_err(translate),
        Err(_) => Err(EngineError::Corrupt { detail: format!("fjall panicked on {}", path.display()) }),
    }
}

impl Engine for FjallEngine {
    fn commit(&self, batch: Batch) -> Result<(), EngineError> {
        let mut commits = self.commits.lock();
        if commits.ended {
            return Err(EngineError::Poisoned);
        }
        check_sizes(&batch)?;
        if batch.is_empty() {
            return Ok(());
        }
        let octets =
            (batch.octets() as u64).saturating_add(ENTRY_OCTETS.saturating_mul(batch.ops.len() as u64));
        let mut changes = self.database.batch().durability(Some(PersistMode::SyncData));
        for op in last_of_each_key(batch) {
            match op {
                Op::Put { space, key, value } => changes.insert(keyspace(&self.spaces, space)?, key, value),
                Op::Delete { space, key } => changes.remove(keyspace(&self.spaces, space)?, key),
            }
        }
        let committed = changes.commit().map_err(translate);
        if let Err(error) = committed.and_then(|()| Ok(self.witness.confirm()?)) {
            commits.ended = true;
            return Err(error);
        }
        *self.current.write() = self.database.snapshot();
        commits.unflushed = commits.unflushed.saturating_add(octets);
        if commits.unflushed >= self.unflushed_octets_max {
            commits.unflushed = 0;
            self.flush();
        }
        Ok(())
    }

    fn snapshot(&self) -> Box<dyn Read + Send> {
        Box::new(FjallSnapshot { snapshot: self.view(), spaces: Arc::clone(&self.spaces) })
    }

    fn name(&self) -> &'static str {
        "fjall"
    }

    /// All memory tables become tables on disk, and then nothing of the journals is needed: the next opening would read
    /// them all the same. fjall's own waiting would never end if a worker died.
    fn settle(&self) {
        let mut commits = self.commits.lock();
        if commits.ended || self.spaces.iter().any(|space| space.rotate_memtable().is_err()) {
            return;
        }
        let deadline = Instant::now() + SETTLE_MAX;
        while self.spaces.iter().any(|space| space.sealed_memtable_count() > 0) {
            if Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // fjall goes on writing where it was, behind what is cut off: that could not be read.
        commits.ended = true;
        // The oldest first: what is left of them, should this be cut short, has the last word on whatever it speaks of.
        for journal in journals(&self.path).into_iter().flatten() {
            // Best effort: the next opening reads what is left, and finds that it has it all.
            let _ = File::options().write(true).open(&journal).and_then(|file| {
                file.set_len(0)?;
                file.sync_all()
            });
        }
    }

    fn disk_octets(&self) -> u64 {
        self.database.disk_space().unwrap_or(0)
    }
}

/// Reads go through a snapshot each, since fjall's plain reads see a batch while it is being applied.
impl Read for FjallEngine {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        get(&self.view(), &self.spaces, space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        scan(&self.view(), &self.spaces, space, (start, end), reverse, visit)
    }
}

struct FjallSnapshot {
    snapshot: Snapshot,
    spaces: Spaces,
}

impl Read for FjallSnapshot {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        get(&self.snapshot, &self.spaces, space, key)
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        scan(&self.snapshot, &self.spaces, space, (start, end), reverse, visit)
    }
}

fn get(snapshot: &Snapshot, spaces: &Spaces, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
    // No engine stores an empty key, and fjall asserts it.
    if key.is_empty() {
        return Ok(None);
    }
    Ok(snapshot.get(keyspace(spaces, space)?, key).map_err(translate)?.map(Bytes::from))
}

fn scan(
    snapshot: &Snapshot,
    spaces: &Spaces,
    space: Space,
    (start, end): (&[u8], Option<&[u8]>),
    reverse: bool,
    visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
) -> Result<(), EngineError> {
    if end.is_some_and(|end| end <= start) {
        return Ok(());
    }
    let low = if start.is_empty() { Bound::Unbounded } else { Bound::Included(start) };
    let high = end.map_or(Bound::Unbounded, Bound::Excluded);
    let mut entries = snapshot.range::<&[u8], _>(keyspace(spaces, space)?, (low, high));
    while let Some(entry) = if reverse { entries.next_back() } else { entries.next() } {
        let (key, value) = entry.into_inner().map_err(translate)?;
        if !visit(&key, &value) {
            break;
        }
    }
    Ok(())
}

fn keyspace(spaces: &Spaces, space: Space) -> Result<&Keyspace, EngineError> {
    spaces
        .get(usize::from(space.index()))
        .ok_or_else(|| EngineError::Corrupt { detail: format!("there is no keyspace {}", space.name()) })
}

/// Leaves out each change that a later one on the same key overrides.
fn last_of_each_key(batch: Batch) -> Vec<Op> {
    let mut last: HashMap<(Space, Bytes), usize> = HashMap::with_capacity(batch.ops.len());
    for (at, op) in batch.ops.iter().enumerate() {
        let (space, key) = op.target();
        last.insert((space, key.clone()), at);
    }
    if last.len() == batch.ops.len() {
        return batch.ops;
    }
    let is_last = |at: usize, op: &Op| {
        let (space, key) = op.target();
        last.get(&(space, key.clone())) == Some(&at)
    };
    batch.ops.into_iter().enumerate().filter(|(at, op)| is_last(*at, op)).map(|(_, op)| op).collect()
}

fn translate(error: fjall::Error) -> EngineError {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => error.into(),
        fjall::Error::Poisoned => EngineError::Poisoned,
        fjall::Error::Locked => EngineError::Locked,
        other => EngineError::Corrupt { detail: other.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_failures_wherever_it_is_met() {
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            assert!(matches!(translate(fjall::Error::Io(kind.into())), EngineError::NoSpace));
            let below = fjall::LsmError::Io(kind.into());
            assert!(matches!(translate(fjall::Error::Storage(below)), EngineError::NoSpace));
        }
        assert!(matches!(translate(fjall::Error::Io(io::ErrorKind::Other.into())), EngineError::Io(_)));
        assert!(matches!(translate(fjall::Error::InvalidTrailer), EngineError::Corrupt { .. }));
    }

    #[test]
    fn only_the_last_change_of_a_key_in_a_space_is_left() {
        let mut batch = Batch::new();
        batch.put(Space::Meta, "a", "1");
        batch.put(Space::Queue, "a", "2");
        batch.delete(Space::Meta, "a");
        batch.put(Space::Meta, "b", "3");
        batch.put(Space::Meta, "a", "4");
        let left: Vec<String> = last_of_each_key(batch)
            .iter()
            .map(|op| match op {
                Op::Put { space, value, .. } => format!("{}={value:?}", space.name()),
                Op::Delete { space, .. } => format!("{} deleted", space.name()),
            })
            .collect();
        assert_eq!(left, [r#"queue=b"2""#, r#"meta=b"3""#, r#"meta=b"4""#]);
    }
}
