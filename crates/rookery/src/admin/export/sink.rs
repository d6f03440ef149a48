//! Where an export goes: a folder, or rows that are written into a folder at another node.
//!
//! Invariants:
//! - What comes from another node names no file outside of the account's folder.
//! - A file that did not come whole does not get its name.

use std::collections::{BTreeSet, HashSet};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use parking_lot::Mutex;
use rookery_admin::socket::{Failed, Replies};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Receiver;

use super::Trouble;
use crate::export::{self, WHOLE, make_folder, message_file, settle};

/// Octets in one row.
const ROW_OCTETS: usize = 256 << 10;
/// Contents that the other node is told of; more of them it sends again.
const KNOWN_MAX: usize = 200_000;

/// Writes octets somewhere.
type Fill<'a> = &'a mut dyn FnMut(&mut dyn Write) -> io::Result<()>;

/// Takes an exported account. What it does may block.
pub(super) trait Sink: Send + Sync {
    /// Before anything is written.
    fn begin(&self) -> Result<(), Trouble>;

    /// Whether the octets of a content are there.
    fn has(&self, content: &str) -> bool;

    /// Takes the octets of a content.
    fn message(&self, content: &str, fill: Fill<'_>) -> Result<(), Trouble>;

    /// Takes a whole file; all that was taken before is durable before it is there.
    fn file(&self, name: &str, text: &[u8]) -> Result<(), Trouble>;
}

/// A folder of this machine.
pub(super) struct FolderSink {
    place: PathBuf,
    /// In which names have changed since.
    folders: Mutex<BTreeSet<PathBuf>>,
}

impl FolderSink {
    pub(super) fn new(place: PathBuf) -> FolderSink {
        FolderSink { place, folders: Mutex::default() }
    }
}

fn at(file: &Path) -> impl FnOnce(io::Error) -> Trouble {
    let file = file.to_owned();
    |error| Trouble::File(file, error)
}

impl Sink for FolderSink {
    fn begin(&self) -> Result<(), Trouble> {
        make_folder(&self.place).map_err(at(&self.place))
    }

    fn has(&self, content: &str) -> bool {
        message_file(&self.place, content).is_some_and(|file| file.exists())
    }

    fn message(&self, content: &str, fill: Fill<'_>) -> Result<(), Trouble> {
        let file = message_file(&self.place, content)
            .ok_or_else(|| Trouble::File(self.place.clone(), io::ErrorKind::InvalidInput.into()))?;
        let folder = file.parent().unwrap_or(&self.place).to_owned();
        if self.folders.lock().insert(folder.clone()) {
            make_folder(&folder).map_err(at(&folder))?;
        }
        export::write(&file, |out| fill(out)).map_err(at(&file))
    }

    fn file(&self, name: &str, text: &[u8]) -> Result<(), Trouble> {
        for folder in std::mem::take(&mut *self.folders.lock()) {
            settle(&folder).map_err(at(&folder))?;
        }
        settle(&self.place).map_err(at(&self.place))?;
        let file = self.place.join(name);
        export::write(&file, |out| out.write_all(text)).map_err(at(&file))?;
        settle(&self.place).map_err(at(&self.place))
    }
}

/// What one row has.
#[derive(Serialize, Deserialize)]
enum Part {
    /// What follows are the octets of a content.
    Message(String),
    /// What follows is a file.
    File(String),
    /// Octets, in base64.
    Octets(String),
    /// These were all octets.
    End,
    /// They could not be read to the end.
    Void,
}

/// Another node, which writes what it is sent.
pub(super) struct RowSink {
    replies: Replies,
    known: HashSet<String>,
    runtime: Handle,
}

impl RowSink {
    /// Within a runtime.
    pub(super) fn new(replies: Replies, known: HashSet<String>) -> RowSink {
        RowSink { replies, known, runtime: Handle::current() }
    }

    fn part(&self, part: &Part) -> io::Result<()> {
        let row = serde_json::to_value(part)?;
        self.runtime.block_on(self.replies.row(row)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    fn octets(&self, begin: &Part, fill: Fill<'_>) -> io::Result<()> {
        self.part(begin)?;
        let mut out = io::BufWriter::with_capacity(ROW_OCTETS, Octets(self));
        match fill(&mut out).and_then(|()| out.flush()) {
            Ok(()) => self.part(&Part::End),
            Err(error) => {
                self.part(&Part::Void)?;
                Err(error)
            }
        }
    }
}

/// Octets become rows.
struct Octets<'a>(&'a RowSink);

impl Write for Octets<'_> {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        let piece = octets.get(..ROW_OCTETS).unwrap_or(octets);
        self.0.part(&Part::Octets(STANDARD.encode(piece)))?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for RowSink {
    fn begin(&self) -> Result<(), Trouble> {
        Ok(())
    }

    fn has(&self, content: &str) -> bool {
        self.known.contains(content)
    }

    fn message(&self, content: &str, fill: Fill<'_>) -> Result<(), Trouble> {
        self.octets(&Part::Message(content.to_owned()), fill).map_err(at(Path::new(content)))
    }

    fn file(&self, name: &str, text: &[u8]) -> Result<(), Trouble> {
        self.octets(&Part::File(name.to_owned()), &mut |out| out.write_all(text)).map_err(at(Path::new(name)))
    }
}

/// The contents that are in the folder of an exported account.
pub(super) fn known_in(place: &Path) -> Vec<String> {
    let inside = |of: &Path| std::fs::read_dir(of).into_iter().flatten().flatten().map(|entry| entry.path());
    let names = inside(&place.join("messages")).flat_map(|folder| inside(&folder).collect::<Vec<_>>());
    let contents = names.filter_map(|file| {
        let is_whole = file.extension().is_some_and(|ending| ending == "eml");
        is_whole.then(|| file.file_stem()?.to_str().map(str::to_owned)).flatten()
    });
    contents.take(KNOWN_MAX).collect()
}

/// Writes the account that another node sends into a folder.
pub(super) fn receive(place: PathBuf, mut rows: Receiver<Value>) -> Result<(), Failed> {
    let strange = || Failed::new("failed", "the other node sends what is not understood");
    let sink = FolderSink::new(place);
    sink.begin()?;
    while let Some(row) = rows.blocking_recv() {
        let part: Part = serde_json::from_value(row).map_err(|_| strange())?;
        match part {
            Part::Message(content) => {
                let mut is_void = false;
                let written = sink.message(&content, &mut |out| pour(&mut rows, out, &mut is_void));
                if !is_void {
                    written?;
                }
            }
            Part::File(name) if is_file(&name) => {
                let (mut text, mut is_void) = (Vec::new(), false);
                let whole = pour(&mut rows, &mut text, &mut is_void);
                whole.map_err(|error| Failed::new("failed", format!("{name}: {error}")))?;
                sink.file(&name, &text)?;
            }
            _ => return Err(strange()),
        }
    }
    Ok(())
}

/// Whether an exported account has a file of this name.
fn is_file(name: &str) -> bool {
    let number = name.strip_prefix("mailbox-").and_then(|name| name.strip_suffix(".jsonl"));
    name == WHOLE || number.is_some_and(|n| !n.is_empty() && n.bytes().all(|octet| octet.is_ascii_digit()))
}

/// The octets of one file.
fn pour(rows: &mut Receiver<Value>, out: &mut dyn Write, is_void: &mut bool) -> io::Result<()> {
    loop {
        let row = rows.blocking_recv().ok_or(io::ErrorKind::UnexpectedEof)?;
        match serde_json::from_value(row)? {
            Part::Octets(text) => {
                let octets = STANDARD.decode(text).map_err(|_| io::ErrorKind::InvalidData)?;
                out.write_all(&octets)?;
            }
            Part::End => return Ok(()),
            Part::Void => {
                *is_void = true;
                return Err(io::ErrorKind::InvalidData.into());
            }
            Part::Message(_) | Part::File(_) => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_node_names_stays_inside_the_folder() {
        for good in ["account.json", "mailbox-7.jsonl"] {
            assert!(is_file(good));
        }
        for bad in ["../account.json", "mailbox-.jsonl", "mailbox-1/../x.jsonl", "x", "", "mailbox-7.jsonl/"]
        {
            assert!(!is_file(bad), "{bad}");
        }
        let root = tempfile::tempdir().unwrap();
        let rows = |parts: Vec<Part>| {
            let (sender, waiting) = tokio::sync::mpsc::channel(parts.len().max(1));
            for part in parts {
                sender.try_send(serde_json::to_value(part).unwrap()).unwrap();
            }
            waiting
        };
        let place = root.path().join("joe");
        let octets = |text: &str| Part::Octets(STANDARD.encode(text));
        let (content, other) = ("Eabcdef".to_owned(), "Ezyx".to_owned());
        let whole = vec![
            Part::Message(content.clone()),
            octets("one, "),
            octets("two"),
            Part::End,
            Part::Message(other.clone()),
            octets("damaged"),
            Part::Void,
            Part::File("mailbox-1.jsonl".to_owned()),
            octets("{}"),
            Part::End,
        ];
        receive(place.clone(), rows(whole)).unwrap();
        assert_eq!(std::fs::read(message_file(&place, &content).unwrap()).unwrap(), b"one, two");
        assert!(!message_file(&place, &other).unwrap().exists());
        assert_eq!(std::fs::read(place.join("mailbox-1.jsonl")).unwrap(), b"{}");
        assert_eq!(known_in(&place), [content]);
        for parts in [
            vec![Part::File("../x".to_owned()), Part::End],
            vec![Part::Message("../../x".to_owned()), Part::End],
            vec![Part::File("account.json".to_owned()), octets("half")],
            vec![Part::End],
        ] {
            assert!(receive(place.clone(), rows(parts)).is_err());
        }
        assert!(!place.join("account.json").exists() && !root.path().join("x").exists());
    }
}
