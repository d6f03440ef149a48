//! A secret of this server in a file: made once, read ever after.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Octets of a secret.
const OCTETS: usize = 32;

/// Reads the secret. Where there is none, a random one is made; it is durable before it has its name, and never
/// readable by others.
pub(crate) fn read_or_make(file: &Path) -> io::Result<[u8; OCTETS]> {
    match File::open(file) {
        Ok(mut open) => {
            let mut secret = [0; OCTETS];
            open.read_exact(&mut secret)?;
            Ok(secret)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(file),
        Err(error) => Err(error),
    }
}

fn make(file: &Path) -> io::Result<[u8; OCTETS]> {
    let secret: [u8; OCTETS] = rand::random();
    let draft = file.with_extension("draft");
    match std::fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut open = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    open.write_all(&secret)?;
    open.sync_all()?;
    std::fs::rename(&draft, file)?;
    if let Some(folder) = file.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_stays_the_same_and_a_short_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.secret");
        let made = read_or_make(&file).unwrap();
        assert_eq!(read_or_make(&file).unwrap(), made);
        std::fs::write(&file, [1; OCTETS - 1]).unwrap();
        assert!(read_or_make(&file).is_err());
    }
}
