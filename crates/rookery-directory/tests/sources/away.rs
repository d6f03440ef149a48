//! A source that does not answer for some seconds, as etcd when it chooses another leader.

use crate::following::{following, make};
use crate::world::{Between, InMemory, Through, World, engine};
use rookery_directory::source::{Changes, ConditionalBatch, RecordPage, Reply, Source, SourceError};
use rookery_directory::{Directory, DirectoryError, Position};
use rookery_kv::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

async fn mended_after(between: &Arc<Between>, seconds: u64) -> tokio::task::JoinHandle<()> {
    between.cut();
    let between = between.clone();
    tokio::spawn(async move {
        sleep(Duration::from_secs(seconds)).await;
        between.mend();
    })
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_away_for_some_seconds_is_waited_for() {
    let world = InMemory::new();
    let between = Between::new(world.source(), 0);
    let copy = engine();
    let directory = following(&copy, Arc::new(Through(between.clone()))).await;
    for _ in 0..2 {
        let mending = mended_after(&between, 2).await;
        directory.barrier().await.unwrap();
        mending.await.unwrap();
    }
    // One that is away for longer is waited for only once.
    between.cut();
    let asked = Instant::now();
    assert!(matches!(directory.barrier().await, Err(DirectoryError::Unavailable(_))));
    let first = asked.elapsed();
    assert!(first > Duration::from_secs(3) && first < Duration::from_secs(6), "{first:?}");
    let asked = Instant::now();
    assert!(matches!(directory.barrier().await, Err(DirectoryError::Unavailable(_))));
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    // When it has answered, again.
    between.mend();
    directory.barrier().await.unwrap();
    let mending = mended_after(&between, 2).await;
    directory.barrier().await.unwrap();
    mending.await.unwrap();
}

/// The first change meets another one, and then the source is away.
struct Meets(Through, AtomicBool);

impl Source for Meets {
    fn commit(&self, batch: ConditionalBatch) -> Reply<'_, Position> {
        Box::pin(async move {
            if self.1.swap(false, Ordering::SeqCst) {
                mended_after(&self.0.0, 6).await;
                return Err(SourceError::Conflict);
            }
            self.0.commit(batch).await
        })
    }

    fn head(&self) -> Reply<'_, Position> {
        self.0.head()
    }

    fn get(&self, keys: Vec<Bytes>) -> Reply<'_, (Position, Vec<Option<Bytes>>)> {
        self.0.get(keys)
    }

    fn page(&self, start: Bytes, limit: usize) -> Reply<'_, RecordPage> {
        self.0.page(start, limit)
    }

    fn changes(&self, since: Position) -> Reply<'_, Changes> {
        self.0.changes(since)
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_met_another_one_has_its_time_all_the_same() {
    let world = InMemory::new();
    let between = Between::new(world.source(), 0);
    let source = Arc::new(Meets(Through(between), AtomicBool::new(false)));
    let copy = engine();
    let directory = following(&copy, source.clone()).await;
    directory.add_domain("x.test".to_owned()).await.unwrap();
    source.1.store(true, Ordering::SeqCst);
    make(&directory, "user/u@x.test").await;
}
