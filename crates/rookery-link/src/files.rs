//! Files that are whole or not there.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", file.display())]
pub struct FileError {
    /// Which.
    pub file: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Writes a file under another name, mode 0600 from the first octet on, syncs it, gives it its name, and syncs the
/// folder.
pub(crate) fn write_whole(file: &Path, octets: &[u8]) -> Result<(), FileError> {
    let draft = file.with_extension("draft");
    let write = || -> io::Result<()> {
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut open = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        open.write_all(octets)?;
        open.sync_all()?;
        fs::rename(&draft, file)?;
        file.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
    };
    write().map_err(|source| FileError { file: file.to_owned(), source })
}

pub(crate) fn read(file: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(file).map_err(|source| FileError { file: file.to_owned(), source })
}
