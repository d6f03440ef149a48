//! The content of a simulated disk as a value, for tests that begin many times from one state.

use rookery_kv::engine::{Batch, Engine, Read, Space};
use rookery_kv::files::FileLayer;
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use std::collections::BTreeMap;

/// All that a disk holds, to be put on as many disks as there are damages.
/// All records and files of a disk.
#[derive(Clone, Default, Debug)]
pub(crate) struct Image {
    /// By space and key.
    pub(crate) records: BTreeMap<(Space, Vec<u8>), Vec<u8>>,
    /// By name.
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

impl Image {
    /// What a disk holds.
    pub(crate) fn of(disk: &SimDisk) -> Image {
        let engine = MemoryEngine::new(disk.clone());
        let mut image = Image::default();
        for space in Space::ALL {
            let mut visit = |key: &[u8], value: &[u8]| {
                image.records.insert((space, key.to_vec()), value.to_vec());
                true
            };
            engine.scan(space, &[], None, false, &mut visit).expect("it scans");
        }
        let files = disk.files();
        for name in files.list().expect("it lists") {
            let file = files.open(&name).expect("it opens");
            let mut octets = vec![0; file.len().expect("it has a length") as usize];
            file.read_at(&mut octets, 0).expect("it reads");
            image.files.insert(name, octets);
        }
        image
    }

    /// A new disk that holds it.
    pub(crate) fn disk(&self) -> SimDisk {
        let disk = SimDisk::new(7);
        let engine = MemoryEngine::new(disk.clone());
        let mut batch = Batch::new();
        for ((space, key), value) in &self.records {
            batch.put(*space, key.clone(), value.clone());
        }
        engine.commit(batch).expect("it commits");
        let files = disk.files();
        for (name, octets) in &self.files {
            let file = files.create(name).expect("it creates");
            file.write_at(octets, 0).expect("it writes");
            file.sync().expect("it syncs");
        }
        files.sync_directory().expect("it syncs");
        disk
    }
}
