//! A reader that sees writes which are on their way to the disk.

use bytes::Bytes;
use rookery_kv::{EngineError, Read, Space};
use std::collections::BTreeMap;
use std::ops::Bound;

/// Writes that are not durable yet, by key, with the number of the group they go with.
pub(crate) type Overlay = BTreeMap<Vec<u8>, (u64, Option<Bytes>)>;

/// Reads [`Space::Directory`] as it will be.
pub(crate) struct Overlaid<'a> {
    pub(crate) below: &'a dyn Read,
    pub(crate) overlay: &'a Overlay,
}

impl Read for Overlaid<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, EngineError> {
        match self.overlay.get(key) {
            Some((_, value)) if space == Space::Directory => Ok(value.clone()),
            _ => self.below.get(space, key),
        }
    }

    fn scan(
        &self,
        space: Space,
        start: &[u8],
        end: Option<&[u8]>,
        reverse: bool,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), EngineError> {
        if space != Space::Directory || self.overlay.is_empty() {
            return self.below.scan(space, start, end, reverse, visit);
        }
        if end.is_some_and(|end| end <= start) {
            return Ok(());
        }
        let range = (Bound::Included(start), end.map_or(Bound::Unbounded, Bound::Excluded));
        let mut over = self.overlay.range::<[u8], _>(range);
        let mut next = move || if reverse { over.next_back() } else { over.next() };
        let mut waiting = next();
        let mut goes_on = true;
        self.below.scan(space, start, end, reverse, &mut |key, value| {
            while let Some((above, (_, written))) = waiting {
                let first = if reverse { above.as_slice() > key } else { above.as_slice() < key };
                if !first && above != key {
                    break;
                }
                waiting = next();
                goes_on = written.as_ref().is_none_or(|written| visit(above, written));
                if !goes_on || above == key {
                    return goes_on;
                }
            }
            goes_on = visit(key, value);
            goes_on
        })?;
        while let (true, Some((above, (_, written)))) = (goes_on, waiting) {
            waiting = next();
            goes_on = written.as_ref().is_none_or(|written| visit(above, written));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rookery_kv::memory::MemoryEngine;
    use rookery_kv::sim::SimDisk;
    use rookery_kv::{Batch, Engine};

    fn short() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(0u8..3, 1..3)
    }

    proptest! {
        #[test]
        fn it_reads_what_will_be(
            below in proptest::collection::btree_map(short(), any::<u8>(), 0..8),
            above in proptest::collection::btree_map(short(), proptest::option::of(any::<u8>()), 0..8),
            start in short(), end in proptest::option::of(short()), reverse: bool, limit in 1usize..12,
        ) {
            let engine = MemoryEngine::new(SimDisk::new(1));
            let (mut batch, mut model) = (Batch::new(), BTreeMap::new());
            for (key, value) in below {
                batch.put(Space::Directory, key.clone(), vec![value]);
                model.insert(key, vec![value]);
            }
            engine.commit(batch).unwrap();
            let mut overlay = Overlay::new();
            for (key, value) in above {
                match value {
                    Some(value) => drop(model.insert(key.clone(), vec![value])),
                    None => drop(model.remove(&key)),
                }
                overlay.insert(key, (1, value.map(|value| Bytes::from(vec![value]))));
            }
            let read = Overlaid { below: &engine, overlay: &overlay };
            let mut expected: Vec<_> = model
                .iter()
                .filter(|(key, _)| **key >= start && end.as_ref().is_none_or(|end| *key < end))
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect();
            if reverse {
                expected.reverse();
            }
            expected.truncate(limit);
            let mut found = Vec::new();
            read.scan(Space::Directory, &start, end.as_deref(), reverse, &mut |key, value| {
                found.push((key.to_vec(), value.to_vec()));
                found.len() < limit
            }).unwrap();
            prop_assert_eq!(found, expected);
            for (key, value) in &model {
                let found = read.get(Space::Directory, key).unwrap();
                prop_assert_eq!(found.as_deref(), Some(&value[..]));
            }
        }
    }
}
