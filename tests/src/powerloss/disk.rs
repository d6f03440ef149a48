//! A disk rebuilt from a trace as it could be after a loss of power at one of its records.
//!
//! Model:
//! - A change to a file's octets or length is durable once a sync of that file, begun after the change had returned,
//!   has itself returned. Any other is kept, dropped, or torn in sectors of [`SECTOR`] octets, each independently.
//! - A change of names is durable once a sync of a folder it concerns did the same. Of the others each folder keeps
//!   those up to a random point; so a rename is whole or absent, and an older change is not lost while a newer stays.
//! - With [`Policy::lenient_folders`] the sync of a file also makes its own name durable, as ext4 and XFS in fact do.
//! - What the folder held before the trace began is durable.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::trace::{Kind, Record};
use crate::random::Random;

/// The unit that a disk writes whole or not at all, in octets.
pub const SECTOR: usize = 512;
/// Largest file that is rebuilt, in octets.
const FILE_MAX: u64 = 4 << 30;
const O_CREAT: i64 = 0o100;
const O_TRUNC: i64 = 0o1000;

/// How what was not synced fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// All of it is lost: the cache never reached the disk by itself.
    Dropped,
    /// All of it is there: the plain crash of a process.
    Kept,
    /// Each change fares by chance.
    Chance,
}

/// The rules of one reconstruction.
#[derive(Debug, Clone, Copy)]
pub struct Policy {
    /// What becomes of changes that no sync covers.
    pub fate: Fate,
    /// The sync of a file also makes its name durable.
    pub lenient_folders: bool,
}

/// How much was at stake at the crash point.
#[derive(Debug, Default, Clone, Copy)]
pub struct AtRisk {
    /// Changes to files that no sync covered.
    pub writes: usize,
    /// Those of them that were dropped.
    pub writes_dropped: usize,
    /// Those of them that were torn.
    pub writes_torn: usize,
    /// Changes of names that no sync covered.
    pub names: usize,
    /// Those of them that were dropped.
    pub names_dropped: usize,
}

type Inode = usize;
const ROOT: Inode = 0;
const NEVER: u64 = u64::MAX;

#[derive(Debug, Default)]
struct Node {
    folder: Option<BTreeMap<String, Inode>>,
    base: Vec<u8>,
    changes: Vec<Change>,
    /// (begun, returned) of each sync that succeeded.
    syncs: Vec<(u64, u64)>,
}

#[derive(Debug)]
struct Change {
    begun: u64,
    returned: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Write { at: u64, record: usize, octets: usize },
    SetLength(u64),
    Extend(u64),
}

#[derive(Debug)]
struct NameChange {
    begun: u64,
    returned: u64,
    /// (folder, name) that goes, and that comes with what it names.
    goes: Option<(Inode, String)>,
    comes: Option<(Inode, String, Inode)>,
}

/// What the descriptors of the recorded program name.
#[derive(Debug, Default)]
struct Descriptors {
    files: HashMap<i64, Inode>,
    /// By the `seq` of an open that has begun. Its descriptor is its own only from its end on: the number may be that of
    /// a file which another thread closes after this call has begun.
    opening: HashMap<u64, Inode>,
}

impl Descriptors {
    fn file(&self, fd: i64) -> Result<Inode> {
        self.files.get(&fd).copied().context("an unknown descriptor")
    }
}

/// A trace digested: every file and folder there ever was, with its changes in order.
#[derive(Debug)]
pub struct History<'a> {
    records: &'a [Record],
    nodes: Vec<Node>,
    names: Vec<NameChange>,
    sync_alls: Vec<(u64, u64)>,
    /// Folders' entries before the trace began.
    first: Vec<(Inode, String, Inode)>,
}

impl<'a> History<'a> {
    /// Follows a trace that began when the folder was as `before` is.
    pub fn follow(before: &Path, records: &'a [Record]) -> Result<History<'a>> {
        let root = Node { folder: Some(BTreeMap::new()), ..Node::default() };
        let mut history = History {
            records,
            nodes: vec![root],
            names: Vec::new(),
            sync_alls: Vec::new(),
            first: Vec::new(),
        };
        history.load(before, ROOT)?;
        let ends: HashMap<u64, (u64, i64)> =
            records.iter().filter(|r| r.kind == Kind::End).map(|r| (r.start, (r.seq, r.arg))).collect();
        let mut open = Descriptors::default();
        for (index, record) in records.iter().enumerate() {
            let (returned, result) = ends.get(&record.seq).copied().unwrap_or((NEVER, 0));
            if result >= 0 {
                history.take(index, record, returned, result, &mut open).with_context(|| {
                    format!("at record {}: {:?} {}", record.seq, record.kind, record.path)
                })?;
            }
        }
        Ok(history)
    }

    fn load(&mut self, path: &Path, folder: Inode) -> Result<()> {
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type()?;
            if kind.is_dir() {
                let inode = self.add(Node { folder: Some(BTreeMap::new()), ..Node::default() });
                self.enter(folder, &name, inode)?;
                self.first.push((folder, name, inode));
                self.load(&entry.path(), inode)?;
            } else if kind.is_file() {
                let inode = self.add(Node { base: std::fs::read(entry.path())?, ..Node::default() });
                self.enter(folder, &name, inode)?;
                self.first.push((folder, name, inode));
            }
        }
        Ok(())
    }

    fn add(&mut self, node: Node) -> Inode {
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    fn enter(&mut self, folder: Inode, name: &str, inode: Inode) -> Result<Option<Inode>> {
        let entries = self.nodes[folder].folder.as_mut().context("a name inside what is no folder")?;
        Ok(entries.insert(name.to_owned(), inode))
    }

    fn leave(&mut self, folder: Inode, name: &str) -> Option<Inode> {
        self.nodes[folder].folder.as_mut()?.remove(name)
    }

    fn find(&self, path: &str) -> Option<Inode> {
        let mut at = ROOT;
        for name in path.split('/').filter(|name| !name.is_empty()) {
            at = *self.nodes[at].folder.as_ref()?.get(name)?;
        }
        Some(at)
    }

    fn place(&self, path: &str) -> Result<(Inode, String)> {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.find(folder).with_context(|| format!("{folder} is not known"))?, name.to_owned()))
    }

    fn take(
        &mut self,
        index: usize,
        record: &Record,
        returned: u64,
        result: i64,
        open: &mut Descriptors,
    ) -> Result<()> {
        let begun = record.seq;
        match record.kind {
            Kind::Open => self.take_open(record, returned, open)?,
            Kind::Close => {
                open.files.remove(&record.fd);
            }
            Kind::Duplicate => {
                let inode = open.file(record.fd)?;
                open.files.insert(record.arg, inode);
            }
            Kind::End => {
                if let Some(inode) = open.opening.remove(&record.start) {
                    open.files.insert(record.arg, inode);
                }
            }
            Kind::Write | Kind::SetLength | Kind::Extend => {
                let inode = open.file(record.fd)?;
                let number = u64::try_from(record.arg)?;
                let what = match record.kind {
                    // A write cut short by the kill may have reached the file as a whole.
                    Kind::Write => {
                        let went =
                            if returned == NEVER { record.data.len() } else { usize::try_from(result)? };
                        What::Write { at: number, record: index, octets: went }
                    }
                    Kind::SetLength => What::SetLength(number),
                    _ => What::Extend(number),
                };
                self.nodes[inode].changes.push(Change { begun, returned, what });
            }
            Kind::Sync if returned != NEVER => {
                let inode = open.file(record.fd)?;
                self.nodes[inode].syncs.push((begun, returned));
            }
            Kind::SyncAll if returned != NEVER => self.sync_alls.push((begun, returned)),
            Kind::MakeFolder => {
                let (folder, name) = self.place(&record.path)?;
                let inode = self.add(Node { folder: Some(BTreeMap::new()), ..Node::default() });
                self.named(begun, returned, None, Some((folder, name, inode)))?;
            }
            Kind::Unlink | Kind::RemoveFolder => {
                let (folder, name) = self.place(&record.path)?;
                // Sockets have no record of their making, and no octets to lose.
                if self.find(&record.path).is_some() {
                    self.named(begun, returned, Some((folder, name)), None)?;
                }
            }
            Kind::Rename | Kind::Link => {
                let inode = self.find(&record.path).context("renamed from nowhere")?;
                let goes = if record.kind == Kind::Rename { Some(self.place(&record.path)?) } else { None };
                let (folder, name) = self.place(&record.path2)?;
                self.named(begun, returned, goes, Some((folder, name, inode)))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn take_open(&mut self, record: &Record, returned: u64, open: &mut Descriptors) -> Result<()> {
        let known = self.find(&record.path);
        let inode = match known {
            Some(inode) => inode,
            None if record.arg & O_CREAT != 0 => {
                let (folder, name) = self.place(&record.path)?;
                let inode = self.add(Node::default());
                self.named(record.seq, returned, None, Some((folder, name, inode)))?;
                inode
            }
            None if returned == NEVER => return Ok(()),
            None => bail!("opened, but never made"),
        };
        if known.is_some() && record.arg & O_TRUNC != 0 {
            let change = Change { begun: record.seq, returned, what: What::SetLength(0) };
            self.nodes[inode].changes.push(change);
        }
        open.opening.insert(record.seq, inode);
        Ok(())
    }

    fn named(
        &mut self,
        begun: u64,
        returned: u64,
        goes: Option<(Inode, String)>,
        comes: Option<(Inode, String, Inode)>,
    ) -> Result<()> {
        if let Some((folder, name)) = &goes {
            self.leave(*folder, name);
        }
        if let Some((folder, name, inode)) = &comes {
            self.enter(*folder, name, *inode)?;
        }
        self.names.push(NameChange { begun, returned, goes, comes });
        Ok(())
    }

    /// Writes the disk as it could be if power was lost just before record `crash` (a `seq`) into the empty folder
    /// `target`.
    pub fn rebuild(&self, crash: u64, policy: Policy, random: &mut Random, target: &Path) -> Result<AtRisk> {
        let mut risk = AtRisk::default();
        let folders = self.folders_at(crash, policy, random, &mut risk);
        self.write_folder(ROOT, &folders, crash, policy, random, target, &mut risk, 0)?;
        Ok(risk)
    }

    fn covered(&self, inode: Inode, change_returned: u64, crash: u64) -> bool {
        let syncs = self.nodes[inode].syncs.iter().chain(&self.sync_alls);
        change_returned != NEVER
            && syncs.into_iter().any(|&(begun, end)| begun > change_returned && end < crash)
    }

    fn folders_at(
        &self,
        crash: u64,
        policy: Policy,
        random: &mut Random,
        risk: &mut AtRisk,
    ) -> HashMap<Inode, BTreeMap<String, Inode>> {
        let mut folders: HashMap<Inode, BTreeMap<String, Inode>> = HashMap::new();
        for (folder, name, inode) in &self.first {
            folders.entry(*folder).or_default().insert(name.clone(), *inode);
        }
        let happened: Vec<&NameChange> =
            self.names.iter().take_while(|change| change.begun < crash).collect();
        let durable: Vec<bool> =
            happened.iter().map(|change| self.name_durable(change, crash, policy)).collect();
        let concerned = |change: &NameChange| {
            let goes = change.goes.as_ref().map(|(folder, _)| *folder);
            let comes = change.comes.as_ref().map(|(folder, _, _)| *folder);
            [goes, comes].into_iter().flatten().collect::<Vec<_>>()
        };
        let mut pending: HashMap<Inode, u64> = HashMap::new();
        for (change, _) in happened.iter().zip(&durable).filter(|(_, durable)| !**durable) {
            concerned(change).into_iter().for_each(|folder| *pending.entry(folder).or_default() += 1);
        }
        let mut keep: BTreeMap<Inode, u64> = BTreeMap::new();
        // In the order of inodes, so that a seed repeats.
        let ordered: BTreeMap<Inode, u64> = pending.into_iter().collect();
        for (folder, count) in ordered {
            let kept = match policy.fate {
                Fate::Dropped => 0,
                Fate::Kept => count,
                Fate::Chance => random.below(count + 1),
            };
            keep.insert(folder, kept);
        }
        for (change, durable) in happened.iter().zip(durable) {
            let mut kept = true;
            if !durable {
                risk.names += 1;
                for folder in concerned(change) {
                    let left = keep.entry(folder).or_default();
                    kept &= *left > 0;
                    *left = left.saturating_sub(1);
                }
                risk.names_dropped += usize::from(!kept);
            }
            if kept {
                if let Some((folder, name)) = &change.goes {
                    folders.entry(*folder).or_default().remove(name);
                }
                if let Some((folder, name, inode)) = &change.comes {
                    folders.entry(*folder).or_default().insert(name.clone(), *inode);
                }
            }
        }
        folders
    }

    fn name_durable(&self, change: &NameChange, crash: u64, policy: Policy) -> bool {
        let goes = change.goes.as_ref().map(|(folder, _)| *folder);
        let comes = change.comes.as_ref().map(|(folder, _, _)| *folder);
        let itself = change.comes.as_ref().map(|(_, _, inode)| *inode).filter(|_| policy.lenient_folders);
        [goes, comes, itself].into_iter().flatten().any(|inode| self.covered(inode, change.returned, crash))
    }

    #[allow(clippy::too_many_arguments, reason = "the recursion carries what rebuild was given")]
    fn write_folder(
        &self,
        folder: Inode,
        folders: &HashMap<Inode, BTreeMap<String, Inode>>,
        crash: u64,
        policy: Policy,
        random: &mut Random,
        target: &Path,
        risk: &mut AtRisk,
        depth: usize,
    ) -> Result<()> {
        ensure!(depth < 64, "folders nest deeper than 64");
        std::fs::create_dir_all(target)?;
        for (name, &inode) in folders.get(&folder).into_iter().flatten() {
            let path = target.join(name);
            if self.nodes[inode].folder.is_some() {
                self.write_folder(inode, folders, crash, policy, random, &path, risk, depth + 1)?;
            } else {
                let octets = self.file_at(inode, crash, policy, random, risk)?;
                std::fs::write(&path, octets)?;
            }
        }
        Ok(())
    }

    fn file_at(
        &self,
        inode: Inode,
        crash: u64,
        policy: Policy,
        random: &mut Random,
        risk: &mut AtRisk,
    ) -> Result<Vec<u8>> {
        let node = &self.nodes[inode];
        let mut octets = node.base.clone();
        for change in node.changes.iter().take_while(|change| change.begun < crash) {
            let durable = self.covered(inode, change.returned, crash);
            let mut torn = false;
            if !durable {
                risk.writes += 1;
                let lot = match policy.fate {
                    Fate::Dropped => 0,
                    Fate::Kept => 2,
                    Fate::Chance => random.below(3),
                };
                if lot == 0 {
                    risk.writes_dropped += 1;
                    continue;
                }
                torn = lot == 1;
            }
            match change.what {
                What::SetLength(length) => {
                    ensure!(length <= FILE_MAX, "a file of {length} octets");
                    octets.resize(usize::try_from(length)?, 0);
                }
                What::Extend(length) => {
                    ensure!(length <= FILE_MAX, "a file of {length} octets");
                    let length = usize::try_from(length)?;
                    octets.resize(octets.len().max(length), 0);
                }
                What::Write { at, record, octets: count } => {
                    ensure!(at <= FILE_MAX, "a write at {at}");
                    let data = &self.records[record].data[..count];
                    risk.writes_torn += usize::from(torn);
                    put(&mut octets, usize::try_from(at)?, data, torn.then_some(&mut *random));
                }
            }
        }
        Ok(octets)
    }

    /// Fails unless the trace, with everything kept, gives exactly the folder `real`, where a kill ended it: so no call
    /// went past the shim. Files with a call that the kill cut short are left out.
    pub fn prove_complete(&self, real: &Path) -> Result<()> {
        self.compare(ROOT, real)
    }

    fn compare(&self, folder: Inode, real: &Path) -> Result<()> {
        let unfinished = |name: &str| {
            let here = |place: &Option<(Inode, String)>| {
                place.as_ref().is_some_and(|(f, n)| *f == folder && n == name)
            };
            self.names.iter().filter(|change| change.returned == NEVER).any(|change| {
                here(&change.goes) || here(&change.comes.as_ref().map(|(f, n, _)| (*f, n.clone())))
            })
        };
        let known = self.nodes[folder].folder.as_ref().context("not a folder")?;
        for entry in std::fs::read_dir(real)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let kind = entry.file_type()?;
            let recorded =
                (!kind.is_dir() && !kind.is_file()) || known.contains_key(&name) || unfinished(&name);
            ensure!(recorded, "{} was made by a call that the shim did not see", entry.path().display());
        }
        for (name, &inode) in known {
            if unfinished(name) {
                continue;
            }
            let (node, path) = (&self.nodes[inode], real.join(name));
            if node.folder.is_some() {
                self.compare(inode, &path)?;
            } else if node.changes.iter().all(|change| change.returned != NEVER) {
                let policy = Policy { fate: Fate::Kept, lenient_folders: false };
                let want = self.file_at(inode, NEVER, policy, &mut Random::new(0), &mut AtRisk::default())?;
                let found = std::fs::read(&path).with_context(|| {
                    format!("{} went by a call that the shim did not see", path.display())
                })?;
                ensure!(found == want, "{} was changed by a call that the shim did not see", path.display());
            }
        }
        Ok(())
    }
}

/// Writes into the image; torn: each sector by a coin's throw.
fn put(image: &mut Vec<u8>, at: usize, data: &[u8], torn: Option<&mut Random>) {
    let end = at + data.len();
    let Some(random) = torn else {
        image.resize(image.len().max(end), 0);
        image[at..end].copy_from_slice(data);
        return;
    };
    let mut from = at;
    while from < end {
        let to = ((from / SECTOR + 1) * SECTOR).min(end);
        if random.chance(50) {
            image.resize(image.len().max(to), 0);
            image[from..to].copy_from_slice(&data[from - at..to - at]);
        }
        from = to;
    }
}
