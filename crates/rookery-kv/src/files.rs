//! The file layer for volumes: one flat folder of files that are written at offsets and synced, and the real one.
//!
//! Invariants:
//! - A name is one to [`NAME_OCTETS_MAX`] of `a-z 0-9 . _ -` and does not begin with a dot, so no name leaves the
//!   folder, whatever it was made from.
//! - What [`VolumeFile::sync`] returned `Ok` for survives a loss of power, *if* the file's name does: names need
//!   [`FileLayer::sync_directory`]. Neither implies the other. The real layer believes no sync that its file system
//!   does not confirm (`stable`).

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::stable::Witness;

/// The longest name of a volume file, in octets.
pub const NAME_OCTETS_MAX: usize = 200;

/// A flat folder of files.
pub trait FileLayer: Send + Sync + 'static {
    /// Creates a file, empty, for reading and writing. Fails with `AlreadyExists` if the name is taken. The name
    /// is durable after [`FileLayer::sync_directory`].
    fn create(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>>;
    /// Opens a file for reading and writing. Fails with `NotFound`.
    fn open(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>>;
    /// The names of all files, ascending. Names that no caller of this layer can have made are left out.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Removes a name. Handles that are open go on working.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name, atomically replacing the file that had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Returns when all creations, removals and renames so far are on stable storage.
    fn sync_directory(&self) -> io::Result<()>;
    /// Octets that can still be written to the disk, about.
    fn free_octets(&self) -> io::Result<u64>;
}

/// One open file.
pub trait VolumeFile: Send + Sync {
    /// Writes all of `buf` at `offset`, extending the file (with zeros) if needed. After an error, any part of the
    /// range may have been written.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Reads from `offset` until `buf` is full or the file ends, and returns how many octets were read.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Returns when all writes so far, and the length needed to read them, are on stable storage (fdatasync).
    /// After an error the range may be lost even if a later call succeeds.
    fn sync(&self) -> io::Result<()>;
    /// The length in octets.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file is empty.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts the file off at `n` octets or extends it with zeros.
    fn set_len(&self, n: u64) -> io::Result<()>;
}

/// Whether `name` may name a volume file.
pub fn is_name(name: &str) -> bool {
    (1..=NAME_OCTETS_MAX).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// Refuses a name that [`is_name`] refuses, with `InvalidInput`.
pub(crate) fn check_name(name: &str) -> io::Result<()> {
    if is_name(name) {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} cannot name a volume file")))
    }
}

/// A folder of the operating system.
pub struct RealFiles {
    path: PathBuf,
    /// Held open, so that syncs go to this folder even if its path is renamed.
    folder: File,
    witness: Arc<Witness>,
}

impl RealFiles {
    /// Opens the folder, creating it with mode 0700 if it does not exist, and syncs its parent in either case: an
    /// earlier start may have created it and died. The parent must exist.
    pub fn open(dir: impl AsRef<Path>) -> io::Result<RealFiles> {
        let path = dir.as_ref().to_path_buf();
        create_folder(&path)?;
        let folder = File::open(&path)?;
        let witness = Arc::new(Witness::at(&path)?);
        Ok(RealFiles { path, folder, witness })
    }

    fn path_of(&self, name: &str) -> io::Result<PathBuf> {
        check_name(name)?;
        Ok(self.path.join(name))
    }

    fn opened(&self, file: File) -> Arc<dyn VolumeFile> {
        Arc::new(RealFile { file, witness: Arc::clone(&self.witness) })
    }
}

/// Creates a folder with mode 0700 unless it exists, and syncs its parent.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other?,
    }
    let parent = fs::canonicalize(path)?;
    match parent.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

impl FileLayer for RealFiles {
    fn create(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
        let path = self.path_of(name)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
        Ok(self.opened(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
        Ok(self.opened(OpenOptions::new().read(true).write(true).open(self.path_of(name)?)?))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
                && is_name(&name)
            {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path_of(name)?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path_of(from)?, self.path_of(to)?)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.folder.sync_all()?;
        self.witness.confirm()
    }

    fn free_octets(&self) -> io::Result<u64> {
        let disk = rustix::fs::fstatvfs(&self.folder)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

struct RealFile {
    file: File,
    witness: Arc<Witness>,
}

impl VolumeFile for RealFile {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buf.get_mut(filled..)
            && !rest.is_empty()
        {
            let at = offset.checked_add(filled as u64).ok_or(io::ErrorKind::InvalidInput)?;
            match FileExt::read_at(&self.file, rest, at) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()?;
        self.witness.confirm()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, n: u64) -> io::Result<()> {
        self.file.set_len(n)
    }
}
