//! Records as a disk may give them back: with a checksum that fits, since all others are refused before they are read.

use rookery_kv::Space;

/// A length, a key of that length, fields.
fn parts(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = data.split_first()?;
    rest.split_at_checked(usize::from(*length) % 40)
}

pub fn store(data: &[u8]) {
    let Some((space, rest)) = data.split_first() else { return };
    let Some(space) = Space::from_index(space % 11) else { return };
    if let Some((key, fields)) = parts(rest) {
        rookery_store::fuzzing::record(space, key, fields);
    }
}

pub fn volumes(data: &[u8]) {
    rookery_store::fuzzing::volume_header(data);
}

pub fn directory(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    let kinds = rookery_directory::records::KINDS;
    let kind = kinds[usize::from(*kind) % kinds.len()];
    let Some((key, fields)) = parts(rest) else { return };
    let key = [&[kind.tag], key].concat();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[Space::Directory.index()]), &key);
    let value = [fields, &crc32c::crc32c_append(crc, fields).to_le_bytes()].concat();
    let _ = (kind.check)(&key, &value);
}
