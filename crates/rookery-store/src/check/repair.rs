//! Repair of a whole store: damaged records are put aside, then the store's own records, the volumes' files and each
//! account are made to agree again with what is left.
//!
//! Invariants:
//! - A record is put aside in the same batch that takes it away.
//! - Every step can be done again: a repair that is cut off is begun anew.

use super::rebuild::Index;
use super::volumes::{Body, FileFault, Survey};
use super::{
    CheckError, Finding, Outcome, Report, accounts, check, groups, has_chunk_summaries, identity, own_name,
};
use super::{account::Seen, mend, walk};
use crate::encoding::hex;
use crate::keys;
use crate::records::AccountRecord;
use crate::store::{FORMAT, Identity, encode_group, encode_live, random};
use crate::volume::{self, FILE_HEADER, Purpose, decode_file_header, encode_file_header};
use rookery_kv::engine::{Batch, Bytes, Engine, Space};
use rookery_kv::files::{FileLayer, VolumeFile};
use rookery_types::{AccountId, ContentId, NodeId, StoreId};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::sync::Arc;

/// One mended record may show another that is wrong; after so many rounds what is left is told.
const ROUNDS: usize = 4;
/// Octets after which a batch is written.
const BATCH_OCTETS: usize = 1 << 20;
/// How far beyond what is seen a lost counter begins again.
pub(super) const JUMP: u32 = 1 << 20;
/// Copies of one name that are put aside.
const COPIES_MAX: u32 = 10_000;

/// Makes a store nobody uses whole again. Destroys nothing; the store opens afterwards.
///
/// What is derived is made anew. What cannot be had any more is put aside: damaged records under `quarantine/` in the
/// store's own records, damaged octets in files `quarantine-…`; a message whose octets are damaged leaves its mailbox
/// and its record is kept there too. A message whose place in a mailbox is lost comes back in the mailbox
/// `Recovered`, without flags.
pub fn repair(engine: &dyn Engine, files: Arc<dyn FileLayer>) -> Result<Report, CheckError> {
    let found = check(engine, files.clone())?;
    let mut repair = Repair { engine, files, batch: Batch::new(), notes: Vec::new(), taken: HashSet::new() };
    let mut left = found.clone();
    for _ in 0..ROUNDS {
        if left.is_empty() {
            break;
        }
        repair.round()?;
        left = check(engine, repair.files.clone())?;
    }
    Ok(report(found, repair.notes, left))
}

/// What was done about one record.
struct Note {
    kind: &'static str,
    account: Option<u64>,
    record: String,
    outcome: Outcome,
}

fn report(found: Vec<Finding>, notes: Vec<Note>, left: Vec<Finding>) -> Report {
    let mut by_record: BTreeMap<(&'static str, String), Vec<&Note>> = BTreeMap::new();
    for note in &notes {
        by_record.entry((note.kind, note.record.clone())).or_default().push(note);
    }
    let mut done = Vec::new();
    for finding in found {
        let notes = by_record.remove(&(finding.kind, finding.record.clone())).unwrap_or_default();
        if notes.is_empty() && left.contains(&finding) {
            continue;
        }
        done.push((finding, outcome(&notes)));
    }
    for ((kind, record), notes) in by_record {
        let account = notes.first().and_then(|note| note.account);
        let what = "it had to be changed with the others".to_string();
        done.push((Finding { kind, account, record, what }, outcome(&notes)));
    }
    Report { done, left }
}

fn outcome(notes: &[&Note]) -> Outcome {
    let text = |o: &Outcome| match o {
        Outcome::Repaired(text) | Outcome::Quarantined(text) => text.clone(),
    };
    let texts: Vec<String> = notes.iter().map(|note| text(&note.outcome)).collect();
    match notes.iter().any(|note| matches!(note.outcome, Outcome::Repaired(_))) || notes.is_empty() {
        true if texts.is_empty() => Outcome::Repaired("it agrees with the other records again".into()),
        true => Outcome::Repaired(texts.join("; ")),
        false => Outcome::Quarantined(texts.join("; ")),
    }
}

/// A repair under way.
pub(super) struct Repair<'a> {
    pub(super) engine: &'a dyn Engine,
    pub(super) files: Arc<dyn FileLayer>,
    batch: Batch,
    notes: Vec<Note>,
    /// Keys under quarantine that are in the batch.
    taken: HashSet<Vec<u8>>,
}

impl Repair<'_> {
    pub(super) fn put(&mut self, space: Space, key: impl Into<Bytes>, value: Bytes) {
        self.batch.put(space, key, value);
    }

    pub(super) fn delete(&mut self, space: Space, key: impl Into<Bytes>) {
        self.batch.delete(space, key);
    }

    /// Writes what has gathered, if it is much.
    pub(super) fn pace(&mut self) -> Result<(), CheckError> {
        match self.batch.octets() > BATCH_OCTETS {
            true => self.flush(),
            false => Ok(()),
        }
    }

    pub(super) fn flush(&mut self) -> Result<(), CheckError> {
        self.taken.clear();
        match self.batch.is_empty() {
            true => Ok(()),
            false => Ok(self.engine.commit(std::mem::take(&mut self.batch))?),
        }
    }

    pub(super) fn note(&mut self, kind: &'static str, key: &[u8], outcome: Outcome) {
        let account = keys::account_of(key).map(AccountId::get);
        self.notes.push(Note { kind, account, record: hex(key), outcome });
    }

    pub(super) fn note_named(&mut self, kind: &'static str, record: String, outcome: Outcome) {
        self.notes.push(Note { kind, account: None, record, outcome });
    }

    /// Keeps a value under quarantine, and tells its name there.
    pub(super) fn keep_aside(&mut self, name: &str, value: &[u8]) -> Result<String, CheckError> {
        let base = format!("{}{name}", String::from_utf8_lossy(keys::QUARANTINE));
        for copy in 0..COPIES_MAX {
            let name = if copy == 0 { base.clone() } else { format!("{base}/{copy}") };
            match self.engine.get(Space::Meta, name.as_bytes())? {
                Some(known) if known == value => return Ok(name),
                Some(_) => continue,
                None if self.taken.contains(name.as_bytes()) => continue,
                None => {}
            }
            self.taken.insert(name.clone().into_bytes());
            self.put(Space::Meta, name.clone().into_bytes(), Bytes::copy_from_slice(value));
            return Ok(name);
        }
        Err(CheckError::Exhausted("names under quarantine"))
    }

    /// Puts a record aside as it stands.
    pub(super) fn put_aside(&mut self, space: Space, key: &[u8], value: &[u8]) -> Result<String, CheckError> {
        let name = self.keep_aside(&format!("{}/{}", space.name(), hex(key)), value)?;
        self.delete(space, key.to_vec());
        Ok(name)
    }

    fn round(&mut self) -> Result<(), CheckError> {
        self.put_damaged_aside()?;
        super::transit::mend(self)?;
        let (identity, is_new) = self.mend_identity()?;
        let store = identity.store;
        let (group, marked) = groups(self.engine, &self.files, Some(store))?;
        let lost_after = group.filter(|group| marked > *group);
        let mut index = Index::new(self.files.clone(), store, (!is_new).then_some(identity.secret))?;
        let mut survey = self.survey(store)?;
        if self.mend_files(&survey.0, store)? {
            survey = self.survey(store)?;
        }
        let (survey, bodies) = survey;
        let mut bad: HashMap<AccountId, HashSet<ContentId>> = HashMap::new();
        for body in survey.bodies.iter().filter_map(|(at, _)| bodies.get(*at)) {
            bad.entry(body.account).or_default().insert(body.content);
        }
        drop(bodies);
        let unplaced = match lost_after {
            Some(group) => index.since(group)?,
            None => BTreeMap::new(),
        };
        let mut ids: BTreeSet<AccountId> = accounts(self.engine)?;
        ids.extend(unplaced.keys().copied());
        for id in ids {
            let case = mend::Case {
                id,
                node: identity.node,
                store,
                lost_suffix: lost_after.is_some(),
                summarised: has_chunk_summaries(Some(&identity)),
                bad: bad.remove(&id).unwrap_or_default(),
                unplaced: unplaced.get(&id).cloned().unwrap_or_default(),
            };
            mend::account(self, &mut index, case)?;
            self.flush()?;
        }
        self.mend_numbers(group, marked)?;
        self.mend_counters(store)?;
        self.flush()
    }

    fn put_damaged_aside(&mut self) -> Result<(), CheckError> {
        let mut damaged = Vec::new();
        walk::damaged(self.engine, &mut |space, key, value, kind, _| {
            damaged.push((space, key.to_vec(), value.to_vec(), kind));
        })?;
        for (space, key, value, kind) in damaged {
            let name = self.put_aside(space, &key, &value)?;
            let outcome = Outcome::Quarantined(format!("what stood there is under {name}"));
            match space {
                Space::Meta => self.note_named(kind, own_name(&key), outcome),
                _ => self.note(kind, &key, outcome),
            }
            self.pace()?;
        }
        self.flush()
    }

    fn survey(&self, store: StoreId) -> Result<(Survey, Vec<Body>), CheckError> {
        let mut in_use = BTreeMap::new();
        let mut bodies = Vec::new();
        for id in accounts(self.engine)? {
            Seen::read(self.engine, id)?.bodies(id, &mut in_use, &mut bodies);
        }
        let survey = Survey::take(self.engine, self.files.clone(), Some(store), in_use, &bodies)?;
        Ok((survey, bodies))
    }

    /// The store's identity, made anew if it is lost; and whether it was.
    fn mend_identity(&mut self) -> Result<(Identity, bool), CheckError> {
        if let Some(identity) = identity(self.engine)? {
            return Ok((identity, false));
        }
        let mut stores: BTreeMap<[u8; 16], u64> = BTreeMap::new();
        let mut nodes: BTreeMap<u64, u64> = BTreeMap::new();
        for id in accounts(self.engine)? {
            let key = keys::account_record(id);
            let value = self.engine.get(Space::Account, &key)?.unwrap_or_default();
            if let Ok(record) = AccountRecord::decode(&key, &value) {
                *stores.entry(record.store.0).or_default() += 1;
                *nodes.entry(record.node.0).or_default() += 1;
            }
        }
        for name in self.files.list().map_err(CheckError::Volumes)? {
            if volume::number(&name).is_none() {
                continue;
            }
            let mut header = [0; FILE_HEADER as usize];
            let file = self.files.open(&name).map_err(CheckError::Volumes)?;
            file.read_at(&mut header, 0).map_err(CheckError::Volumes)?;
            if let Some((store, _, _)) = decode_file_header(&header) {
                *stores.entry(store.0).or_default() += 1;
            }
        }
        let store = stores.into_iter().max_by_key(|(_, count)| *count).map(|(store, _)| store);
        let node = nodes.into_iter().max_by_key(|(_, count)| *count).map(|(node, _)| node);
        let identity = Identity {
            format: FORMAT,
            node: NodeId(match node {
                Some(node) => node,
                None => u64::from_le_bytes(random().map_err(CheckError::Volumes)?),
            }),
            store: StoreId(match store {
                Some(store) => store,
                None => random().map_err(CheckError::Volumes)?,
            }),
            secret: random().map_err(CheckError::Volumes)?,
        };
        self.put(Space::Meta, keys::STORE, identity.encode());
        self.flush()?;
        let text = "node and store id are those of the accounts and volumes; the secret that keys content ids is \
                    new, so a message that comes again is stored again";
        self.note_named("store identity", own_name(keys::STORE), Outcome::Repaired(text.into()));
        Ok((identity, true))
    }

    /// Mends the volumes' own headers and puts strangers aside; returns whether there was something to do.
    fn mend_files(&mut self, survey: &Survey, store: StoreId) -> Result<bool, CheckError> {
        let io = CheckError::Volumes;
        for (number, fault) in &survey.files {
            let name = volume::name(*number);
            let outcome = match fault {
                FileFault::Missing => {
                    Outcome::Quarantined("what the store knew of its messages is put aside".into())
                }
                FileFault::Header => {
                    let file = self.files.open(&name).map_err(io)?;
                    let mut header = [0; FILE_HEADER as usize];
                    let got = file.read_at(&mut header, 0).map_err(io)?;
                    let aside =
                        self.keep_aside(&format!("volume file/{name}"), header.get(..got).unwrap_or(&[]))?;
                    self.flush()?;
                    file.write_at(&encode_file_header(store, *number, Purpose::Arrivals), 0).map_err(io)?;
                    file.sync().map_err(io)?;
                    Outcome::Repaired(format!(
                        "its header is written anew; what stood there is under {aside}"
                    ))
                }
                FileFault::Stray => {
                    let taken: BTreeSet<String> = self.files.list().map_err(io)?.into_iter().collect();
                    let aside = (0..COPIES_MAX).map(|copy| match copy {
                        0 => format!("quarantine-{name}"),
                        _ => format!("quarantine-{name}-{copy}"),
                    });
                    let aside = aside.into_iter().find(|aside| !taken.contains(aside));
                    let aside = aside.ok_or(CheckError::Exhausted("names under quarantine"))?;
                    self.files.rename(&name, &aside).map_err(io)?;
                    self.files.sync_directory().map_err(io)?;
                    Outcome::Quarantined(format!("the file is called {aside} now"))
                }
            };
            self.note_named("volume file", name, outcome);
        }
        Ok(!survey.files.is_empty())
    }

    /// Copies the octets of a damaged volume record to a file of their own; returns its name, if there are any.
    pub(super) fn keep_octets(&mut self, body: &Body, octets: u64) -> Result<Option<String>, CheckError> {
        let io = CheckError::Volumes;
        let source = match self.files.open(&volume::name(body.locator.volume)) {
            Ok(source) => source,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
        };
        let (name, file) = self.create_aside(body)?;
        let mut piece = vec![0; 256 * 1024];
        let mut at = 0;
        while at < octets {
            let len = usize::try_from(octets - at).unwrap_or(usize::MAX).min(piece.len());
            let part = piece.get_mut(..len).unwrap_or(&mut []);
            let got = source.read_at(part, body.locator.offset.saturating_add(at)).map_err(io)?;
            if got == 0 {
                break;
            }
            file.write_at(part.get(..got).unwrap_or(&[]), at).map_err(io)?;
            at += got as u64;
        }
        file.sync().map_err(io)?;
        self.files.sync_directory().map_err(io)?;
        Ok(Some(name))
    }

    fn create_aside(&self, body: &Body) -> Result<(String, Arc<dyn VolumeFile>), CheckError> {
        for copy in 0..COPIES_MAX {
            let name = format!("quarantine-v{:08x}-{}-{copy}", body.locator.volume, body.locator.offset);
            match self.files.create(&name) {
                Ok(file) => return Ok((name, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(CheckError::Volumes(error)),
            }
        }
        Err(CheckError::Exhausted("names under quarantine"))
    }

    fn mend_numbers(&mut self, group: Option<u64>, marked: u64) -> Result<(), CheckError> {
        if group.is_none_or(|group| marked > group) {
            let next = marked.saturating_add(JUMP.into());
            self.put(Space::Meta, keys::GROUP, encode_group(next));
            let text = match group {
                Some(_) => format!(
                    "what is left is taken for good, at group {next}; counters are raised beyond what was lost"
                ),
                None => format!("it goes on at group {next}, beyond all that volumes know of"),
            };
            self.note_named("group", own_name(keys::GROUP), Outcome::Repaired(text));
        }
        if self.engine.get(Space::Meta, keys::TAIL)?.is_none() {
            self.put(Space::Meta, keys::TAIL, crate::committer::encode_tail(&[]));
            let text = "it is empty now: every message's octets were looked at here";
            self.note_named("tail", own_name(keys::TAIL), Outcome::Repaired(text.into()));
        }
        self.flush()
    }

    fn mend_counters(&mut self, store: StoreId) -> Result<(), CheckError> {
        let (survey, _) = self.survey(store)?;
        for (number, (_, counted)) in survey.counters {
            let key = keys::volume(number);
            let value = encode_live(&key, counted);
            self.put(Space::Meta, key.clone(), value);
            let text = format!("counted anew: {counted} octets");
            self.note_named("volume counter", own_name(&key), Outcome::Repaired(text));
        }
        Ok(())
    }
}
