//! Which kinds of records a copy was read with: a program leaves out those that it does not know, and the one that comes
//! after it has to fetch them.
//!
//! Invariants:
//! - A copy is read again before it is followed further, once the program knows other kinds than it was read with.
//! - A copy of which something was left out is not taken for the whole directory ([`left_out`]), unless nobody is left to
//!   ask for it.

use crate::DirectoryError;
use crate::change::unavailable;
use crate::encoding::{Damaged, Encoder, open};
use crate::records::{KINDS_READ, LAYOUT, PRIMARY, is_known};
use bytes::Bytes;
use rookery_kv::{Read, Space, prefix_end};
use std::collections::BTreeSet;

/// The key of the one record of this kind.
const KEY: &[u8] = &[KINDS_READ];

/// What programs knew that did not write down what they know.
const BEFORE: &[u8] = b"adfglmnpsx";

/// The kinds that a copy was read with, by tag.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct KindsRead {
    /// All primary kinds that the program knew.
    known: BTreeSet<u8>,
    /// Those of which the source had records that were left out.
    left_out: BTreeSet<u8>,
}

impl KindsRead {
    /// What this program reads.
    pub(crate) fn now(left_out: BTreeSet<u8>) -> KindsRead {
        KindsRead { known: PRIMARY.into(), left_out }
    }

    /// What a copy was read with.
    pub(crate) fn of(read: &dyn Read) -> Result<KindsRead, DirectoryError> {
        let found = read.get(Space::Directory, KEY).map_err(unavailable)?;
        Ok(KindsRead::from(found.as_deref()))
    }

    fn from(found: Option<&[u8]>) -> KindsRead {
        match found.map(|value| decode_kinds_read(KEY, value)) {
            Some(Ok(kinds)) => kinds,
            // The copy is read again, which writes it anew.
            Some(Err(damaged)) => {
                tracing::error!(%damaged, "which records this node's copy of the directory has is not known");
                KindsRead { known: BTreeSet::new(), left_out: BTreeSet::new() }
            }
            None => KindsRead { known: BEFORE.iter().copied().collect(), left_out: BTreeSet::new() },
        }
    }

    /// Whether this program reads the same.
    pub(crate) fn is_current(&self) -> bool {
        self.known == BTreeSet::from(PRIMARY)
    }

    pub(crate) fn record(&self) -> (Vec<u8>, Bytes) {
        let mut e = Encoder::new(LAYOUT);
        for tags in [&self.known, &self.left_out] {
            e.octets(&tags.iter().copied().collect::<Vec<u8>>());
        }
        (KEY.to_vec(), e.seal(KEY))
    }

    /// What is to be written down when records of other kinds are left out, if anything is. `found`: what is there.
    pub(crate) fn leaving_out(
        found: impl FnOnce(&[u8]) -> Result<Option<Bytes>, DirectoryError>,
        tags: BTreeSet<u8>,
    ) -> Result<Option<(Vec<u8>, Bytes)>, DirectoryError> {
        if tags.is_empty() {
            return Ok(None);
        }
        let mut kinds = KindsRead::from(found(KEY)?.as_deref());
        let before = kinds.left_out.len();
        kinds.left_out.extend(tags);
        if kinds.left_out.len() == before {
            return Ok(None);
        }
        let all = kinds.left_out.iter().map(|tag| char::from(*tag)).collect::<String>();
        tracing::warn!(kinds = all, "the directory has records that this program is too old to know");
        Ok(Some(kinds.record()))
    }
}

pub(crate) fn decode_kinds_read(key: &[u8], value: &[u8]) -> Result<KindsRead, Damaged> {
    if key != KEY {
        return Err(Damaged::new(key, "no such record is made"));
    }
    open(key, value, LAYOUT, |d| {
        let mut tags = || {
            let tags = d.octets()?;
            tags.is_sorted_by(|a, b| a < b).then(|| tags.iter().copied().collect())
        };
        Some(KindsRead { known: tags()?, left_out: tags()? })
    })
}

/// A kind that this program does not know, and that would be missing if one took what it reads here for the whole
/// directory: it was left out, or a newer program has written it here.
pub(crate) fn left_out(read: &dyn Read) -> Result<Option<u8>, DirectoryError> {
    if let Some(tag) = KindsRead::of(read)?.left_out.into_iter().find(|tag| !is_known(&[*tag])) {
        return Ok(Some(tag));
    }
    let mut start = Vec::new();
    loop {
        let mut found = None;
        let scanned = read.scan(Space::Directory, &start, None, false, &mut |key, _| {
            found = key.first().copied();
            false
        });
        scanned.map_err(unavailable)?;
        match found {
            Some(tag) if !is_known(&[tag]) => return Ok(Some(tag)),
            Some(tag) => match prefix_end(&[tag]) {
                Some(end) => start = end,
                None => return Ok(None),
            },
            None => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{ConditionalBatch, Source, SourceError, Write};
    use crate::{
        Call, CopiedDirectory, DirectCommit, Directory, EmbeddedSource, Following, MemorySource, Trouble,
    };
    use rookery_kv::memory::MemoryEngine;
    use rookery_kv::sim::SimDisk;
    use rookery_kv::{Batch, Engine};
    use rookery_types::{NodeId, UserName};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn engine() -> Arc<dyn Engine> {
        Arc::new(MemoryEngine::new(SimDisk::new(1)))
    }

    /// A node that follows, and how many pages it has read to get there.
    async fn started(engine: &Arc<dyn Engine>, source: &MemorySource) -> (CopiedDirectory, usize) {
        let pages = Arc::new(AtomicUsize::new(0));
        let counted = pages.clone();
        source.set_plan(move |call| {
            counted.fetch_add(usize::from(call == Call::Page), Ordering::Relaxed);
            Trouble::None
        });
        let (commit, source) = (Arc::new(DirectCommit(engine.clone())), Arc::new(source.clone()));
        let directory = CopiedDirectory::follow(engine.clone(), commit, source, NodeId(1)).unwrap();
        directory.following().wait_for(|now| *now == Following::Following).await.unwrap();
        (directory, pages.load(Ordering::Relaxed))
    }

    fn of_new_kind(text: &'static str) -> ConditionalBatch {
        let write =
            Write { key: Bytes::from_static(b"znew"), value: Some(Bytes::from_static(text.as_bytes())) };
        ConditionalBatch { conditions: Vec::new(), writes: vec![write] }
    }

    #[tokio::test]
    async fn what_an_older_program_left_out_is_fetched_by_the_next_one() {
        let (engine, source) = (engine(), MemorySource::new(7));
        let joe = UserName::parse("joe", "x.test").unwrap();
        let (directory, pages) = started(&engine, &source).await;
        assert!(pages > 0);
        directory.add_domain("x.test".to_owned()).await.unwrap();
        directory.add_group("x.test".to_owned(), "staff".to_owned()).await.unwrap();
        directory.set_member("staff".to_owned(), joe.clone(), true).await.unwrap();
        drop(directory);
        assert_eq!(started(&engine, &source).await.1, 0, "it has all");
        // As a program leaves it that has no groups, and one that does not say what it has.
        let old = KindsRead {
            known: PRIMARY.into_iter().filter(|tag| !b"gm".contains(tag)).collect(),
            left_out: b"gm".iter().copied().collect(),
        };
        let (mut batch, (key, value)) = (Batch::new(), old.record());
        let scanned = engine.scan(Space::Directory, b"", None, false, &mut |key, _| {
            if matches!(key.first(), Some(b'g' | b'm' | b'o')) {
                batch.delete(Space::Directory, key.to_vec());
            }
            true
        });
        scanned.unwrap();
        batch.put(Space::Directory, key.clone(), value);
        engine.commit(batch).unwrap();
        // If the source is lost, what is here is the best there is.
        source.set_plan(|_| Trouble::Away);
        let commit = Arc::new(DirectCommit(engine.clone()));
        let lost =
            CopiedDirectory::follow(engine.clone(), commit, Arc::new(source.clone()), NodeId(1)).unwrap();
        assert!(matches!(lost.whole(), Err(DirectoryError::Unavailable(_))));
        lost.following().wait_for(|now| matches!(now, Following::Away(_))).await.unwrap();
        lost.whole().unwrap().page(b"", 9).unwrap();
        drop(lost);
        let (directory, pages) = started(&engine, &source).await;
        assert!(pages > 0, "it is read again");
        assert_eq!(
            directory.groups_of(&joe).await.unwrap(),
            ["staff".into()],
            "what is derived is there, too"
        );
        crate::check::check(&*engine.snapshot(), &mut |fault| panic!("{fault}")).unwrap();
        drop(directory);
        let (directory, pages) = started(&engine, &source).await;
        assert_eq!(pages, 0, "once");
        drop(directory);
        let mut batch = Batch::new();
        batch.delete(Space::Directory, key);
        engine.commit(batch).unwrap();
        let is_same = BTreeSet::from_iter(BEFORE.iter().copied()) == BTreeSet::from(PRIMARY);
        let (_, pages) = started(&engine, &source).await;
        assert_eq!(pages == 0, is_same, "{pages} pages, with what nobody wrote down");
    }

    #[tokio::test]
    async fn a_copy_of_which_something_was_left_out_is_not_the_whole_directory() {
        for is_read in [false, true] {
            let (engine, source) = (engine(), MemorySource::new(7));
            if is_read {
                source.commit(of_new_kind("new")).await.unwrap();
            }
            let (directory, _) = started(&engine, &source).await;
            if !is_read {
                directory.add_domain("x.test".to_owned()).await.unwrap();
                directory.whole().unwrap().page(b"", 9).unwrap();
                source.commit(of_new_kind("new")).await.unwrap();
            }
            directory.barrier().await.unwrap();
            let refused = directory.whole().unwrap().page(b"", 9);
            assert!(matches!(refused, Err(DirectoryError::Refused(_))), "{refused:?}");
            assert_eq!(engine.get(Space::Directory, b"znew").unwrap(), None);
            // It serves all the same.
            let _ = directory.add_domain("y.test".to_owned()).await.unwrap();
            drop(directory);
            let (directory, pages) = started(&engine, &source).await;
            assert_eq!(pages, 0);
            assert!(directory.whole().unwrap().page(b"", 9).is_err());
            crate::check::check(&*engine.snapshot(), &mut |fault| panic!("{fault}")).unwrap();
        }
    }

    #[tokio::test]
    async fn a_source_neither_takes_nor_hides_what_it_does_not_know() {
        let engine = engine();
        let source = EmbeddedSource::open(engine.clone(), Arc::new(DirectCommit(engine.clone()))).unwrap();
        let mut batch = of_new_kind("new");
        let known = Bytes::from_static(b"dx.test");
        batch.writes.push(Write { key: known.clone(), value: Some(Bytes::from_static(b"known")) });
        let refused = source.commit(batch).await;
        assert!(matches!(refused, Err(SourceError::Damaged(_))), "{refused:?}");
        assert_eq!(source.get(vec![known]).await.unwrap().1, [None], "all or nothing");
        source.page(Bytes::new(), 9).await.unwrap();
        // A newer program has written here, and gave way to this one again.
        let mut batch = Batch::new();
        batch.put(Space::Directory, &b"znew"[..], &b"new"[..]);
        engine.commit(batch).unwrap();
        assert!(source.page(Bytes::new(), 9).await.is_err());
    }

    #[test]
    fn a_record_that_cannot_be_read_has_the_copy_read_again() {
        let (_, value) = KindsRead::now(BTreeSet::new()).record();
        assert!(KindsRead::from(Some(&value)).is_current());
        assert!(!KindsRead::from(value.get(1..)).is_current());
    }
}
