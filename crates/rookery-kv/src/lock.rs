//! One process for one data folder.
//!
//! Invariants:
//! - The lock is the operating system's on an open file, so it ends with the process however that ends. The pid
//!   written into the file only serves the message; the file's presence means nothing.
//! - The file is never removed: another process might be waiting on the one that was.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The file's name in the data folder.
pub const LOCK_FILE: &str = "rookery.lock";

/// Octets of the file that are read: a pid in decimal is shorter.
const PID_OCTETS_MAX: u64 = 20;

/// The data folder is this process's until this is dropped.
#[derive(Debug)]
pub struct DataLock {
    file: File,
}

/// Why the data folder cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it, or this one has it already.
    #[error("{path} is in use by {}", holder(*pid))]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The process that says that it holds it; unknown for a moment after it took it.
        pid: Option<u32>,
    },
    /// The lock file cannot be opened, locked or written.
    #[error("cannot lock {path}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl DataLock {
    /// Takes the lock of a data folder, which must exist. Does not wait.
    pub fn acquire(dir: impl AsRef<Path>) -> Result<DataLock, LockError> {
        let path = dir.as_ref().join(LOCK_FILE);
        match try_acquire(&path) {
            Ok(Ok(lock)) => Ok(lock),
            Ok(Err(pid)) => Err(LockError::Held { path, pid }),
            Err(source) => Err(LockError::Io { path, source }),
        }
    }
}

/// The lock, or who holds it.
fn try_acquire(path: &Path) -> io::Result<Result<DataLock, Option<u32>>> {
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let read = file.take(PID_OCTETS_MAX).read_to_string(&mut text);
            return Ok(Err(read.ok().and_then(|_| text.trim().parse().ok())));
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    file.set_len(0)?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
    Ok(Ok(DataLock { file }))
}

impl Drop for DataLock {
    fn drop(&mut self) {
        // Closing the file unlocks it whatever comes of these.
        let _ = self.file.set_len(0);
        let _ = self.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let lock = DataLock::acquire(dir.path()).unwrap();
        match DataLock::acquire(dir.path()) {
            Err(error @ LockError::Held { pid, .. }) => {
                assert_eq!(pid, Some(std::process::id()));
                assert!(error.to_string().ends_with(&format!("in use by process {}", std::process::id())));
            }
            other => panic!("{other:?}"),
        }
        drop(lock);
        DataLock::acquire(dir.path()).unwrap();
    }

    #[test]
    fn what_a_dead_process_left_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(LOCK_FILE), "4242 and something much longer than a pid\n").unwrap();
        let _lock = DataLock::acquire(dir.path()).unwrap();
        let text = std::fs::read_to_string(dir.path().join(LOCK_FILE)).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let error = DataLock::acquire(dir.path().join("none")).unwrap_err();
        assert!(matches!(error, LockError::Io { .. }));
    }
}
