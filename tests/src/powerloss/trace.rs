//! The shim's record of file calls, read back. The layout is `struct record` in `tests/powerloss/shim.c`.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

const HEADER: usize = 64;
/// Largest record taken for sane, in octets.
const RECORD_MAX: u64 = 1 << 30;

/// What a record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file is opened, perhaps created; `arg` are the flags, the result is the descriptor.
    Open,
    /// A descriptor is about to be closed.
    Close,
    /// `arg` is now a second descriptor of what `fd` is.
    Duplicate,
    /// `data` goes to offset `arg`; the result is how much of it went.
    Write,
    /// fsync or fdatasync.
    Sync,
    /// sync or syncfs.
    SyncAll,
    /// ftruncate to `arg` octets.
    SetLength,
    /// fallocate: at least `arg` octets long from now on.
    Extend,
    /// `path` becomes `path2`.
    Rename,
    /// A name goes.
    Unlink,
    /// A folder goes.
    RemoveFolder,
    /// A folder comes.
    MakeFolder,
    /// `path2` becomes a second name of `path`.
    Link,
    /// The program did what cannot be recorded.
    Unsupported,
    /// The call that record `start` began has returned `arg`.
    End,
}

/// One record.
#[derive(Debug, Clone)]
pub struct Record {
    /// Position in the trace, from 1, without gaps.
    pub seq: u64,
    /// CLOCK_MONOTONIC in nanoseconds.
    pub time_ns: u64,
    /// What it says.
    pub kind: Kind,
    /// A descriptor, where the kind has one.
    pub fd: i64,
    /// See [`Kind`].
    pub arg: i64,
    /// Of [`Kind::End`]: the `seq` of the record that began the call.
    pub start: u64,
    /// Path below the recorded folder, without a leading slash; empty for the folder itself.
    pub path: String,
    /// Second path.
    pub path2: String,
    /// Octets written.
    pub data: Vec<u8>,
}

/// Reads a whole trace. A record that the kill cut short ends it: the call behind it had not begun.
pub fn read(path: &Path) -> Result<Vec<Record>> {
    let octets = std::fs::read(path).with_context(|| format!("no trace at {}", path.display()))?;
    let mut records: Vec<Record> = Vec::new();
    let mut rest = octets.as_slice();
    while let Some((record, after)) = parse(rest)? {
        ensure!(record.seq == records.len() as u64 + 1, "record {} follows {}", record.seq, records.len());
        if record.kind == Kind::Unsupported {
            bail!("the program did what the power-loss shim cannot record: {}", record.path);
        }
        records.push(record);
        rest = after;
    }
    Ok(records)
}

fn parse(octets: &[u8]) -> Result<Option<(Record, &[u8])>> {
    let Some((header, rest)) = octets.split_at_checked(HEADER) else { return Ok(None) };
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&header[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let (path, path2, data) = (word(48) & 0xffff_ffff, word(48) >> 32, word(56));
    ensure!(path + path2 + data < RECORD_MAX, "a record of {data} octets");
    let Some((path, rest)) = rest.split_at_checked(usize::try_from(path)?) else { return Ok(None) };
    let Some((path2, rest)) = rest.split_at_checked(usize::try_from(path2)?) else { return Ok(None) };
    let Some((data, rest)) = rest.split_at_checked(usize::try_from(data)?) else { return Ok(None) };
    let text = |octets: &[u8]| String::from_utf8_lossy(octets).trim_start_matches('/').to_owned();
    let record = Record {
        seq: word(0),
        time_ns: word(8),
        kind: kind(word(16))?,
        fd: word(24).cast_signed(),
        arg: word(32).cast_signed(),
        start: word(40),
        path: text(path),
        path2: text(path2),
        data: data.to_vec(),
    };
    Ok(Some((record, rest)))
}

fn kind(number: u64) -> Result<Kind> {
    Ok(match number {
        1 => Kind::Open,
        2 => Kind::Close,
        3 => Kind::Duplicate,
        4 => Kind::Write,
        5 => Kind::Sync,
        6 => Kind::SyncAll,
        7 => Kind::SetLength,
        8 => Kind::Extend,
        9 => Kind::Rename,
        10 => Kind::Unlink,
        11 => Kind::RemoveFolder,
        12 => Kind::MakeFolder,
        13 => Kind::Link,
        14 => Kind::Unsupported,
        100 => Kind::End,
        _ => bail!("a record of kind {number}"),
    })
}
