//! The directory as a whole: taken out, put into an empty one, and put into a source that takes the place of another.
//!
//! Invariants:
//! - What is taken out is of one moment.
//! - What is put in replaces nothing: what is there and is another thing ends it. So it may be begun again.
//! - A record's revision is never above that of the directory it is put into.

use crate::alias::{ALIAS, decode_alias, encode_alias};
use crate::change::{Change, get, read_state};
use crate::copy::page_of;
use crate::records::{
    self, ACCOUNT, DOMAIN, GROUP, MEMBER, NODE, STATE, decode_account, decode_domain, decode_group,
    decode_state, encode_account, encode_domain, encode_group,
};
use crate::source::{Condition, ConditionalBatch, Position, Record, Source, SourceError, Write};
use crate::turn::TURN;
use crate::{Damaged, DirectoryError};
use bytes::Bytes;
use rookery_kv::Read;
use rookery_types::AccountId;
use std::time::Duration;
use tokio::time::Instant;

/// Records, and octets of them, that are put into a source at once.
const STEP: usize = 64;
const STEP_OCTETS_MAX: usize = 256 << 10;
/// How long a source may be away while it is filled, and how long until it is tried again.
const AWAY_MAX: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);

/// All primary records of a copy, as they were at one moment.
pub struct Whole {
    pub(crate) snapshot: Box<dyn Read + Send>,
    pub(crate) position: Position,
}

impl Whole {
    /// How far it is.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Some records with `start <= key` in key order, and where the next ones start.
    pub fn page(&self, start: &[u8], limit: usize) -> Result<(Vec<Record>, Option<Bytes>), DirectoryError> {
        page_of(&*self.snapshot, start, limit.max(1), STEP_OCTETS_MAX)
    }
}

/// What kind of record this is, if a directory can be given it; an error if it is damaged.
pub fn kind_of(record: &Record) -> Result<&'static str, Damaged> {
    let tag = record.key.first().copied().filter(|_| records::is_primary(&record.key));
    let kind = records::KINDS.iter().find(|kind| Some(kind.tag) == tag);
    let kind = kind.ok_or_else(|| Damaged::new(&record.key, "it is no record that a source holds"))?;
    (kind.check)(&record.key, &record.value)?;
    Ok(kind.name)
}

/// A record's value with another revision, where it has one.
fn with_revision(key: &[u8], value: &Bytes, revision: impl FnOnce(u64) -> u64) -> Result<Bytes, Damaged> {
    Ok(match key.first() {
        Some(&ACCOUNT) => {
            let mut entry = decode_account(key, value)?;
            entry.revision = revision(entry.revision);
            encode_account(key, &entry)
        }
        Some(&DOMAIN) => {
            let mut domain = decode_domain(key, value)?;
            domain.revision = revision(domain.revision);
            encode_domain(key, &domain)
        }
        Some(&GROUP) => {
            let mut group = decode_group(key, value)?;
            group.revision = revision(group.revision);
            encode_group(key, &group)
        }
        Some(&ALIAS) => {
            let mut alias = decode_alias(key, value)?;
            alias.revision = revision(alias.revision);
            encode_alias(key, &alias)
        }
        _ => value.clone(),
    })
}

impl Change<'_> {
    /// Puts in the state of another directory. Only one that has never given an id takes it.
    pub(crate) fn import_state(&mut self, record: &Record) -> Result<(), DirectoryError> {
        let theirs = decode_state(&record.key, &record.value)?.0;
        let mut ours = read_state(&self.read)?;
        // The same mark: it was put in before, and no id was taken since.
        let is_again = (ours.next_account, ours.mark) == (theirs.next_account, theirs.mark);
        if ours.next_account != AccountId::FIRST && !is_again {
            return Err(DirectoryError::Refused("the directory is not empty: it has given ids of accounts"));
        }
        (ours.next_account, ours.mark) = (theirs.next_account, theirs.mark);
        ours.default_domain = ours.default_domain.or(theirs.default_domain);
        self.put_state(&ours);
        Ok(())
    }

    /// Puts in records of another directory. Domains and nodes that are there stay as they are.
    pub(crate) fn import(&mut self, records: &[Record]) -> Result<(), DirectoryError> {
        for Record { key, value } in records {
            let found = get(&self.read, key)?;
            match (key.first().copied(), found) {
                // Turns are of requests to the other directory.
                (Some(STATE | TURN), _) | (Some(DOMAIN | NODE), Some(_)) => {}
                (_, None) => {
                    let revision = self.revision;
                    self.put_record(key.to_vec(), with_revision(key, value, |_| revision)?);
                }
                (_, Some(found)) => {
                    if with_revision(key, &found, |_| 0)? != with_revision(key, value, |_| 0)? {
                        let what = Damaged::new(key, "another one is there");
                        return Err(DirectoryError::Exists(what.to_string()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// In which order records are put in: what others need comes first.
pub(crate) fn import_order(record: &Record) -> u8 {
    match record.key.first() {
        Some(&STATE) => 0,
        Some(&DOMAIN) => 1,
        Some(&ACCOUNT) => 2,
        Some(&GROUP) => 3,
        Some(&MEMBER) => 4,
        _ => 5,
    }
}

/// Puts a whole directory into a source that has none: how many records.
pub async fn fill(source: &dyn Source, whole: Whole) -> Result<u64, SourceError> {
    let revision = source.head().await?.revision;
    let (mut start, mut count) = (Some(Bytes::new()), 0);
    while let Some(from) = start {
        let (records, next) =
            whole.page(&from, STEP).map_err(|error| SourceError::Damaged(error.to_string()))?;
        count += records.len() as u64;
        let records = records.into_iter().map(|Record { key, value }| {
            let value = with_revision(&key, &value, |known| known.min(revision));
            value.map(|value| Record { key, value }).map_err(|error| SourceError::Damaged(error.to_string()))
        });
        put(source, records.collect::<Result<Vec<_>, _>>()?).await?;
        start = next;
    }
    Ok(count)
}

/// Puts records where they are not; others must not be there.
async fn put(source: &dyn Source, mut records: Vec<Record>) -> Result<(), SourceError> {
    let until = Instant::now() + AWAY_MAX;
    while !records.is_empty() {
        let conditions = records.iter().map(|record| Condition { key: record.key.clone(), value: None });
        let writes =
            records.iter().map(|record| Write { key: record.key.clone(), value: Some(record.value.clone()) });
        let batch = ConditionalBatch { conditions: conditions.collect(), writes: writes.collect() };
        match source.commit(batch).await {
            Ok(_) => return Ok(()),
            // Some are there: those that were put there before, or strangers.
            Err(SourceError::Conflict) => {
                let (_, values) =
                    source.get(records.iter().map(|record| record.key.clone()).collect()).await?;
                let mut missing = Vec::new();
                for (record, found) in records.into_iter().zip(values) {
                    match found {
                        None => missing.push(record),
                        Some(found) => {
                            let same = with_revision(&record.key, &found, |_| 0).and_then(|found| {
                                Ok(found == with_revision(&record.key, &record.value, |_| 0)?)
                            });
                            if !same.unwrap_or(false) {
                                return Err(SourceError::Damaged("it is not empty".to_owned()));
                            }
                        }
                    }
                }
                records = missing;
            }
            Err(SourceError::Unknown(_) | SourceError::Unavailable(_)) if Instant::now() < until => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether who has been at a position may go on with a source that goes on from `after`.
pub(crate) fn goes_on(after: Option<Position>, at: Position) -> bool {
    after.is_some_and(|after| after.cluster == at.cluster && after >= at)
}
