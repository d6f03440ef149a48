//! Volumes: their headers, the octets of every content that a record points to, and the counts of octets in use.

use super::{CheckError, Findings, own_name};
use crate::keys;
use crate::records::Locator;
use crate::store::decode_live;
use crate::volume::{FILE_HEADER, VolumeError, Volumes, decode_file_header, name};
use rookery_kv::engine::{Engine, Space, prefix_end};
use rookery_kv::files::FileLayer;
use rookery_types::{AccountId, ContentId, StoreId};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

/// A content that a record points to.
#[derive(Clone, Copy)]
pub(super) struct Body {
    pub(super) account: AccountId,
    pub(super) content: ContentId,
    pub(super) locator: Locator,
}

impl Body {
    /// How its octets are called in reports.
    pub(super) fn name(&self) -> String {
        format!("{} at {}", name(self.locator.volume), self.locator.offset)
    }
}

/// What is wrong with a volume's file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FileFault {
    /// It is not there, and contents should be in it.
    Missing,
    /// Its header is damaged, and contents are in it.
    Header,
    /// Its header is that of another volume or store, and no content is in it.
    Stray,
}

impl FileFault {
    fn text(self) -> &'static str {
        match self {
            FileFault::Missing => "it is missing, and contents are in it",
            FileFault::Header => "its header is damaged",
            FileFault::Stray => "it is a copy of another volume, or another store's",
        }
    }
}

/// What is wrong with the volumes.
#[derive(Default)]
pub(super) struct Survey {
    pub(super) files: BTreeMap<u32, FileFault>,
    /// Contents, by their place in the list, whose octets cannot be had, and why.
    pub(super) bodies: Vec<(usize, String)>,
    /// Counters that are wrong: what they say, and what is counted.
    pub(super) counters: BTreeMap<u32, (u64, u64)>,
}

impl Survey {
    pub(super) fn take(
        engine: &dyn Engine,
        files: Arc<dyn FileLayer>,
        store: Option<StoreId>,
        in_use: BTreeMap<u32, u64>,
        bodies: &[Body],
    ) -> Result<Survey, CheckError> {
        let mut survey = Survey::default();
        survey.look_at_files(&*files, store, &in_use)?;
        let volumes =
            Volumes::open(files, store.unwrap_or(StoreId([0; 16])), 0).map_err(CheckError::Volumes)?;
        for (at, body) in bodies.iter().enumerate() {
            match volumes.verify(body.locator, body.account, body.content) {
                Ok(()) => {}
                // A disk that cannot read at all is no damage of ours to mend.
                Err(VolumeError::Io { source, .. }) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(CheckError::Volumes(source));
                }
                Err(error) => survey.bodies.push((at, crate::committer::describe(&error))),
            }
        }
        let mut live = BTreeMap::new();
        let end = prefix_end(keys::VOLUME);
        engine.scan(Space::Meta, keys::VOLUME, end.as_deref(), false, &mut |key, value| {
            live.extend(decode_live(key, value));
            true
        })?;
        for number in live.keys().chain(in_use.keys()).copied().collect::<BTreeSet<u32>>() {
            let of = |map: &BTreeMap<u32, u64>| map.get(&number).copied().unwrap_or(0);
            if of(&live) != of(&in_use) {
                survey.counters.insert(number, (of(&live), of(&in_use)));
            }
        }
        Ok(survey)
    }

    fn look_at_files(
        &mut self,
        files: &dyn FileLayer,
        store: Option<StoreId>,
        in_use: &BTreeMap<u32, u64>,
    ) -> Result<(), CheckError> {
        let names: BTreeSet<String> = files.list().map_err(CheckError::Volumes)?.into_iter().collect();
        let used = |number: u32| in_use.get(&number).is_some_and(|octets| *octets > 0);
        for number in in_use.keys().filter(|number| used(**number) && !names.contains(&name(**number))) {
            self.files.insert(*number, FileFault::Missing);
        }
        for file in &names {
            let Some(number) = crate::volume::number(file) else { continue };
            let mut header = [0; FILE_HEADER as usize];
            let file = files.open(file).map_err(CheckError::Volumes)?;
            file.read_at(&mut header, 0).map_err(CheckError::Volumes)?;
            match decode_file_header(&header) {
                Some((of, n, _)) if n == number && store.is_none_or(|store| store == of) => {}
                _ if used(number) => drop(self.files.insert(number, FileFault::Header)),
                Some(_) => drop(self.files.insert(number, FileFault::Stray)),
                // A crash leaves such a file behind when it comes between making and syncing it.
                None => {}
            }
        }
        Ok(())
    }

    pub(super) fn tell(&self, bodies: &[Body], findings: &mut Findings) {
        for (number, fault) in &self.files {
            findings.add_named("volume file", None, name(*number), fault.text().into());
        }
        for (at, what) in &self.bodies {
            let Some(body) = bodies.get(*at) else { continue };
            if self.files.get(&body.locator.volume) != Some(&FileFault::Missing) {
                let what = format!("the octets of content {} cannot be read: {what}", body.content);
                findings.add_named("volume record", Some(body.account.get()), body.name(), what);
            }
        }
        for (number, (said, counted)) in &self.counters {
            let what = format!("it says that {said} octets are in use, and {counted} are");
            findings.add_named("volume counter", None, own_name(&keys::volume(*number)), what);
        }
    }
}
