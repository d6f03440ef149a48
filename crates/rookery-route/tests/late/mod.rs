//! A source of a directory whose changes reach those who follow it late: what they answer must not follow from what they
//! have not heard.

use rookery_directory::Position;
use rookery_directory::source::{Changes, ConditionalBatch, RecordPage, Reply, Source};
use rookery_kv::Bytes;
use std::time::Duration;

pub(crate) struct Late<S> {
    pub(crate) source: S,
    /// How late.
    pub(crate) by: Duration,
}

impl<S: Source> Source for Late<S> {
    fn commit(&self, batch: ConditionalBatch) -> Reply<'_, Position> {
        self.source.commit(batch)
    }

    fn head(&self) -> Reply<'_, Position> {
        self.source.head()
    }

    fn get(&self, keys: Vec<Bytes>) -> Reply<'_, (Position, Vec<Option<Bytes>>)> {
        self.source.get(keys)
    }

    fn page(&self, start: Bytes, limit: usize) -> Reply<'_, RecordPage> {
        self.source.page(start, limit)
    }

    fn changes(&self, since: Position) -> Reply<'_, Changes> {
        Box::pin(async move {
            let mut changes = self.source.changes(since).await?;
            let by = self.by;
            let (to, late) = tokio::sync::mpsc::channel(1);
            tokio::spawn(async move {
                loop {
                    let next = changes.next().await;
                    tokio::time::sleep(by).await;
                    if to.send(next).await.is_err() {
                        return;
                    }
                }
            });
            Ok(Changes::new(late))
        })
    }
}
