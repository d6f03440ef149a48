//! What can be had again from the volumes: where a content's octets are, and the facts that are in them.

use super::CheckError;
use crate::append::facts_of;
use crate::records::{Facts, Locator};
use crate::volume::{Mark, Purpose, RECORD_HEADER, RecordHeader, RecordKind, VolumeError, Volumes};
use rookery_kv::files::FileLayer;
use rookery_mime::{Limits, Scanner};
use rookery_types::{AccountId, ContentId, StoreId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Octets read at once.
const PIECE: usize = 256 * 1024;

/// A record of a volume.
#[derive(Clone, Copy)]
pub(super) struct Stored {
    pub(super) content: ContentId,
    pub(super) locator: Locator,
    /// Octets of the message.
    pub(super) size: u64,
    /// Octets of the record with its header.
    pub(super) stored: u64,
}

impl Stored {
    fn of(header: &RecordHeader, locator: Locator) -> Stored {
        let stored = header.stored.saturating_add(RECORD_HEADER);
        Stored { content: header.content, locator, size: header.plain, stored }
    }
}

type ByContent = HashMap<(u64, ContentId), Vec<Stored>>;

/// The records of all volumes, looked through when first asked for.
pub(super) struct Index {
    volumes: Volumes,
    secret: Option<[u8; 32]>,
    known: Option<ByContent>,
}

fn volumes_error(error: VolumeError) -> CheckError {
    match error {
        VolumeError::Io { source, .. } => CheckError::Volumes(source),
        damaged => CheckError::Volumes(std::io::Error::other(damaged)),
    }
}

impl Index {
    /// `secret`: what keys the content ids, if it is known.
    pub(super) fn new(
        files: Arc<dyn FileLayer>,
        store: StoreId,
        secret: Option<[u8; 32]>,
    ) -> Result<Index, CheckError> {
        let volumes = Volumes::open(files, store, 0).map_err(CheckError::Volumes)?;
        Ok(Index { volumes, secret, known: None })
    }

    /// Where a content's octets are whole.
    pub(super) fn find(&mut self, id: AccountId, content: ContentId) -> Result<Option<Stored>, CheckError> {
        if self.known.is_none() {
            let mut known = ByContent::new();
            for number in self.volumes.numbers().map_err(CheckError::Volumes)? {
                let visit = |offset, header: &RecordHeader| {
                    if header.kind == RecordKind::Content {
                        let locator = Locator { volume: number, offset };
                        let stored = Stored::of(header, locator);
                        known.entry((header.account, header.content)).or_default().push(stored);
                    }
                };
                self.volumes.scan(number, visit).map_err(volumes_error)?;
            }
            self.known = Some(known);
        }
        let found = self.known.as_ref().and_then(|known| known.get(&(id.get(), content)));
        Ok(found.into_iter().flatten().rev().find(|stored| self.is_whole(id, stored)).copied())
    }

    /// Whether the octets are there and are the content. A header within a message that looks like a record's is
    /// not believed: nobody outside knows the secret.
    fn is_whole(&self, id: AccountId, stored: &Stored) -> bool {
        if u32::try_from(stored.size).is_err()
            || self.volumes.verify(stored.locator, id, stored.content).is_err()
        {
            return false;
        }
        let Some(secret) = &self.secret else { return true };
        let mut hasher = blake3::Hasher::new_keyed(secret);
        let read = self.each_piece(id, stored, |piece| {
            hasher.update(piece);
        });
        read.is_ok() && hasher.finalize().as_bytes().starts_with(&stored.content.0)
    }

    fn each_piece(
        &self,
        id: AccountId,
        stored: &Stored,
        mut visit: impl FnMut(&[u8]),
    ) -> Result<(), CheckError> {
        let record = self.volumes.record(stored.locator, id, stored.content).map_err(volumes_error)?;
        let mut at = 0;
        while at < stored.size {
            let piece = self.volumes.read_record(&record, at, PIECE).map_err(volumes_error)?;
            if piece.is_empty() {
                return Err(CheckError::Volumes(std::io::ErrorKind::UnexpectedEof.into()));
            }
            visit(&piece);
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// A content's facts from its octets.
    pub(super) fn facts(&self, id: AccountId, stored: &Stored) -> Result<Facts, CheckError> {
        let mut scanner = Scanner::new(Limits::default());
        self.each_piece(id, stored, |piece| scanner.push(piece))?;
        Ok(facts_of(&scanner.finish()))
    }

    /// The contents that were written after the engine was at a group, by account; what came shortly before is among
    /// them.
    pub(super) fn since(&mut self, group: u64) -> Result<BTreeMap<AccountId, Vec<Stored>>, CheckError> {
        let mut start = Locator { volume: 0, offset: 0 };
        let mut back: Option<Locator> = None;
        let mut found: Vec<(u64, Stored)> = Vec::new();
        for number in self.volumes.numbers().map_err(CheckError::Volumes)? {
            // What is there came long before it was packed.
            let purpose = self.volumes.purpose(number).map_err(volumes_error)?;
            if purpose.is_some_and(Purpose::is_compacted) {
                continue;
            }
            let visit = |offset, header: &RecordHeader| {
                let locator = Locator { volume: number, offset };
                match header.kind {
                    // Octets are written before their group begins, so the last but one mark is the safe one.
                    RecordKind::Mark => {
                        let mark = Mark::decode(header.content);
                        if mark.group.saturating_add(2) <= group {
                            start = start.max(locator);
                        }
                        // But some wait for theirs for long.
                        if mark.group >= group {
                            back = back.into_iter().chain(mark.back).min();
                        }
                    }
                    RecordKind::Content => {
                        let stored = Stored::of(header, locator);
                        found.push((header.account, stored));
                    }
                    RecordKind::Dictionary => {}
                }
            };
            self.volumes.scan(number, visit).map_err(volumes_error)?;
        }
        let is_late = |(_, stored): &(u64, Stored)| {
            stored.locator > start || back.is_some_and(|back| stored.locator >= back)
        };
        let mut by_account: BTreeMap<AccountId, Vec<Stored>> = BTreeMap::new();
        for (account, stored) in found.into_iter().filter(is_late) {
            let Some(id) = AccountId::new(account).filter(|id| self.is_whole(*id, &stored)) else { continue };
            by_account.entry(id).or_default().push(stored);
        }
        Ok(by_account)
    }
}
