//! Reading a copy again, page by page, while it keeps answering.

use super::{CHANGE_MAX, Follower, Following, away, check_position, source_error};
use crate::DirectoryError;
use crate::copy::scan_primary;
use crate::derive::Applier;
use crate::kinds::KindsRead;
use crate::records::is_known;
use crate::source::{Position, Record, Write};
use bytes::Bytes;
use std::collections::BTreeSet;
use tokio::time::timeout;

/// Records of a page.
const PAGE: usize = 1000;
/// Keys that are remembered as gone until all pages were read; further ones go at once.
const GONE_MAX: usize = 50_000;

impl Follower {
    /// Reads all records, page by page. `before`: what the source must not be behind. Gives the position from which
    /// changes are to be followed, and the revision up to which the copy may already have them.
    pub(super) async fn read_again(
        &self,
        before: Option<Position>,
    ) -> Result<(Position, u64), DirectoryError> {
        self.told(Following::Reading);
        let (mut start, mut first, mut ahead) = (Some(Bytes::new()), None, 0);
        let (mut gone, mut left_out) = (BTreeSet::new(), BTreeSet::new());
        while let Some(from) = start {
            let page = timeout(CHANGE_MAX, self.0.source.page(from.clone(), PAGE)).await;
            let page = page.map_err(|_| away("it does not answer"))?.map_err(source_error)?;
            let position = *first.get_or_insert(page.position);
            if let Some(before) = before {
                check_position(before, page.position)?;
            }
            if (page.position.cluster, page.position.term) != (position.cluster, position.term) {
                return Err(away("it became another one while it was read"));
            }
            if page.next.as_ref().is_some_and(|next| *next <= from) {
                return Err(DirectoryError::Unavailable("the source's pages do not go on".to_owned()));
            }
            ahead = page.position.revision.max(ahead);
            let unknown = page.records.iter().filter(|record| !is_known(&record.key));
            left_out.extend(unknown.filter_map(|record| record.key.first().copied()));
            self.apply_page(&from, page.next.as_deref(), page.records, &mut gone).await?;
            start = page.next;
        }
        let position = first.unwrap_or_default();
        let gone: Vec<Bytes> = gone.into_iter().collect();
        for keys in gone.chunks(PAGE) {
            self.forget(keys).await?;
        }
        let (key, value) = KindsRead::now(left_out).record();
        let written = self.0.copy.write(&[], vec![(key, Some(value))], Some(position)).await;
        written.map_err(|error| DirectoryError::Unavailable(error.to_string()))?;
        Ok((position, ahead))
    }

    /// Puts what a page has. What the copy has in the page's range beyond that is gone: it goes when all that came
    /// in its place is there, a renamed account's new name, say.
    async fn apply_page(
        &self,
        from: &[u8],
        next: Option<&[u8]>,
        records: Vec<Record>,
        gone: &mut BTreeSet<Bytes>,
    ) -> Result<(), DirectoryError> {
        let (names, writes, at_once) = {
            let there: BTreeSet<&Bytes> = records.iter().map(|record| &record.key).collect();
            let mut at_once = Vec::new();
            let snapshot = self.0.copy.engine.snapshot();
            scan_primary(&*snapshot, from, &mut |key, _| {
                if next.is_some_and(|next| key >= next) {
                    return false;
                }
                let key = Bytes::copy_from_slice(key);
                match there.contains(&key) {
                    true => {}
                    false if gone.len() < GONE_MAX => drop(gone.insert(key)),
                    false => at_once.push(key),
                }
                true
            })?;
            let mut applier = Applier::new(&*snapshot);
            let puts = records.into_iter().map(|record| Write { key: record.key, value: Some(record.value) });
            applier.apply(&puts.collect::<Vec<_>>())?;
            let (names, writes) = applier.into_parts();
            (names, writes, at_once)
        };
        if !writes.is_empty() {
            let written = self.0.copy.write(&names, writes, None).await;
            written.map_err(|error| DirectoryError::Unavailable(error.to_string()))?;
        }
        self.forget(&at_once).await
    }

    async fn forget(&self, keys: &[Bytes]) -> Result<(), DirectoryError> {
        let (names, writes) = {
            let mut applier = Applier::new(&*self.0.copy.engine);
            let deletes = keys.iter().map(|key| Write { key: key.clone(), value: None });
            applier.apply(&deletes.collect::<Vec<_>>())?;
            applier.into_parts()
        };
        if writes.is_empty() {
            return Ok(());
        }
        let written = self.0.copy.write(&names, writes, None).await;
        written.map_err(|error| DirectoryError::Unavailable(error.to_string()))
    }

    /// The log of a source that was in this engine is of no use any more.
    pub(super) async fn forget_log(&self) -> Result<(), DirectoryError> {
        let log = crate::change_log::log_keys(&*self.0.copy.engine)?;
        let writes = log.into_iter().map(|key| (key, None)).collect();
        let written = self.0.copy.write(&[], writes, None).await;
        written.map_err(|error| DirectoryError::Unavailable(error.to_string()))
    }
}
