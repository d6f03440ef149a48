//! Whether a sync that returned `Ok` can be believed.
//!
//! ext4 that finds itself damaged gives its journal up and turns read-only. A sync that waits for the journal at that
//! moment may return success for what never came onto the disk: the transaction that it waited for is gone, and that
//! counts as its end. With Linux 6.18 that was seen in about a fifth of all tries, four threads writing and syncing each a
//! file when the file system was told of an error (`tests/blackbox/untrue_syncs.rs`). What begins a transaction later
//! fails, since the journal is given up before anybody stops waiting for it. So a sync is followed by a call that needs
//! one and changes nothing: room is asked for an octet that has it. That takes about a microsecond.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;

use rustix::fs::{FallocateFlags, Mode, OFlags, fallocate, fstatfs};
use rustix::io::Errno;

/// What statfs(2) calls ext2, ext3 and ext4.
const EXT_MAGIC: u64 = 0xEF53;

/// A file without a name, through which the file system is asked; none where it need not be.
pub(crate) struct Witness(Option<File>);

impl Witness {
    /// One for the file system of this folder.
    pub(crate) fn at(folder: &Path) -> io::Result<Witness> {
        if u64::try_from(fstatfs(File::open(folder)?)?.f_type) != Ok(EXT_MAGIC) {
            return Ok(Witness(None));
        }
        let flags = OFlags::TMPFILE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        match rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => {
                let mut file = File::from(file);
                // On a full disk it stays empty, and asks for more than it has to.
                let _ = file.write_all(b"x");
                Ok(Witness(Some(file)))
            }
            // Not even one file more: what is there is served.
            Err(Errno::NOSPC | Errno::DQUOT) => Ok(Witness(None)),
            Err(error) => Err(error.into()),
        }
    }

    /// Fails if a sync there that has returned `Ok` may not have reached the disk.
    pub(crate) fn confirm(&self) -> io::Result<()> {
        let Some(file) = &self.0 else { return Ok(()) };
        loop {
            return match fallocate(file, FallocateFlags::KEEP_SIZE, 0, 1) {
                Err(Errno::INTR) => continue,
                Err(error @ (Errno::IO | Errno::ROFS | Errno::SHUTDOWN | Errno::UCLEAN)) => Err(error.into()),
                // Any other error, of a full disk for one, says nothing of the sync.
                Ok(()) | Err(_) => Ok(()),
            };
        }
    }
}
