//! What every file layer must do, run on the real one and on the simulated one.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;

use rookery_kv::sim::SimDisk;
use rookery_kv::{FileLayer, RealFiles};

#[test]
fn real_files_conform() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("volumes");
    conformance(&RealFiles::open(&path).unwrap(), &|| Box::new(RealFiles::open(&path).unwrap()));
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(std::fs::metadata(path.join("00000002.vol")).unwrap().permissions().mode() & 0o777, 0o600);

    // What others put there is no volume.
    std::fs::create_dir(path.join("subfolder")).unwrap();
    std::fs::write(path.join("Other File"), "").unwrap();
    assert_eq!(RealFiles::open(&path).unwrap().list().unwrap(), ["00000002.vol"]);

    std::fs::write(dir.path().join("file"), "").unwrap();
    assert!(RealFiles::open(dir.path().join("file")).is_err());
    assert!(RealFiles::open(dir.path().join("no/parent")).is_err());
}

#[test]
fn simulated_files_conform() {
    let disk = SimDisk::new(1);
    conformance(&disk.files(), &|| Box::new(disk.files()));
}

/// `reopened` gives another layer on the same files. Leaves one file, 00000002.vol.
fn conformance(files: &dyn FileLayer, reopened: &dyn Fn() -> Box<dyn FileLayer>) {
    assert_eq!(files.list().unwrap(), [""; 0]);
    let file = files.create("00000001.vol").unwrap();
    assert_eq!(files.create("00000001.vol").err().unwrap().kind(), ErrorKind::AlreadyExists);
    assert_eq!(files.open("00000002.vol").err().unwrap().kind(), ErrorKind::NotFound);

    // Reading, writing, gaps, lengths.
    assert!(file.is_empty().unwrap());
    let mut buffer = [7; 16];
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 0);
    file.write_at(b"volume", 0).unwrap();
    file.write_at(b"record", 10).unwrap();
    file.write_at(b"", 100).unwrap();
    file.sync().unwrap();
    assert_eq!(file.len().unwrap(), 16);
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 16);
    assert_eq!(&buffer, b"volume\0\0\0\0record");
    assert_eq!(file.read_at(&mut buffer, 12).unwrap(), 4);
    assert_eq!(&buffer[..4], b"cord");
    assert_eq!(file.read_at(&mut buffer, 16).unwrap(), 0);
    assert_eq!(file.read_at(&mut buffer, u64::MAX / 4).unwrap(), 0);
    file.write_at(b"V", 0).unwrap();
    file.set_len(12).unwrap();
    file.set_len(14).unwrap();
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 14);
    assert_eq!(&buffer[..14], b"Volume\0\0\0\0re\0\0");
    // Two handles see the same.
    let again = files.open("00000001.vol").unwrap();
    again.write_at(b"w", 0).unwrap();
    assert_eq!(file.read_at(&mut buffer[..1], 0).unwrap(), 1);
    assert_eq!(&buffer[..1], b"w");

    // Names.
    let long = "x".repeat(201);
    for name in ["", ".", "..", ".hidden", "a/b", "../a", "A", "ä", "a b", "a\0", long.as_str()] {
        assert_eq!(files.create(name).err().unwrap().kind(), ErrorKind::InvalidInput, "{name:?}");
        assert_eq!(files.open(name).err().unwrap().kind(), ErrorKind::InvalidInput, "{name:?}");
        assert_eq!(files.remove(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name:?}");
        assert_eq!(files.rename("00000001.vol", name).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    files.create("b-2_x.tmp").unwrap();
    files.create("00000003.vol").unwrap().write_at(b"three", 0).unwrap();
    assert_eq!(files.list().unwrap(), ["00000001.vol", "00000003.vol", "b-2_x.tmp"]);
    files.remove("b-2_x.tmp").unwrap();
    assert_eq!(files.remove("b-2_x.tmp").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(files.rename("b-2_x.tmp", "c").unwrap_err().kind(), ErrorKind::NotFound);
    // A rename replaces; the file that lost its name lives on in its handles.
    files.rename("00000003.vol", "00000001.vol").unwrap();
    files.rename("00000001.vol", "00000002.vol").unwrap();
    files.sync_directory().unwrap();
    assert_eq!(files.list().unwrap(), ["00000002.vol"]);
    assert_eq!(again.len().unwrap(), 14);
    again.write_at(b"z", 0).unwrap();
    again.sync().unwrap();
    let files = reopened();
    let file = files.open("00000002.vol").unwrap();
    assert_eq!(file.read_at(&mut buffer, 0).unwrap(), 5);
    assert_eq!(&buffer[..5], b"three");
}
