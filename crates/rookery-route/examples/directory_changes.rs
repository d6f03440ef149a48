//! How many changes a second a directory takes from clients at the same time.
//!
//! `directory_changes embedded CLIENTS SECONDS FOLDER`: changes of verifiers in a store of its own in FOLDER, by the
//! store's committer. `directory_changes etcd CLIENTS SECONDS FOLDER ENDPOINTS`: accounts made (reserved, given a
//! verifier, activated) in etcd, with a copy in FOLDER.

use rookery_directory::{
    Commit, CommitError, CopiedDirectory, Directory, EtcdOptions, EtcdSource, Home, Verifier,
};
use rookery_kv::fjall_engine::{FjallEngine, FjallOptions};
use rookery_kv::{Batch, Engine, RealFiles};
use rookery_store::{Store, StoreOptions};
use rookery_types::{AccountName, Epoch, UserName};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

type Error = Box<dyn std::error::Error + Send + Sync>;

struct ThroughStore(Store);

impl Commit for ThroughStore {
    fn commit(&self, batch: Batch) -> Pin<Box<dyn Future<Output = Result<(), CommitError>> + Send>> {
        let committed = self.0.commit_foreign(batch);
        Box::pin(async move { committed.await.map_err(|error| CommitError(error.to_string())) })
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, kind, clients, seconds, folder, rest @ ..] = arguments.as_slice() else {
        return Err("see the top of the source for what it takes".into());
    };
    let (clients, seconds) = (clients.parse::<u64>()?, Duration::from_secs(seconds.parse()?));
    let folder = std::path::Path::new(folder);
    let engine: Arc<dyn Engine> =
        Arc::new(FjallEngine::open(folder.join("engine"), FjallOptions::default())?);
    let files = Arc::new(RealFiles::open(folder.join("volumes"))?);
    let store = Store::open(StoreOptions::default(), engine.clone(), files)?;
    let commit = Arc::new(ThroughStore(store.clone()));
    let directory = match kind.as_str() {
        "embedded" => CopiedDirectory::open(engine, commit)?,
        _ => {
            let options =
                EtcdOptions { endpoints: rest.to_vec(), prefix: "bench/".to_owned(), ..Default::default() };
            let source = Arc::new(EtcdSource::new(options)?);
            let directory = CopiedDirectory::follow(engine, commit, source, store.node())?;
            let is_there =
                |now: &rookery_directory::Following| *now == rookery_directory::Following::Following;
            directory.following().wait_for(is_there).await?;
            directory
        }
    };
    let _ = directory.add_domain("bench.test".to_owned()).await;
    let home = Home { node: store.node(), store: store.store_id(), epoch: Epoch(1) };
    let started = Instant::now();
    let (done, made) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let (directory, done, made) = (directory.clone(), done.clone(), made.clone());
            let is_embedded = kind == "embedded";
            tokio::spawn(async move {
                let account =
                    |n: u64| UserName::parse(&format!("u{client}-{n}"), "bench.test").map(AccountName::User);
                let mut entry = directory.reserve(account(0)?, home, 1).await?;
                let mut n = 0;
                while started.elapsed() < seconds {
                    n += 1;
                    if !is_embedded {
                        entry = directory.reserve(account(n)?, home, 1).await?;
                    }
                    let verifier = Some(Verifier::new(&format!("$test${n}"))?);
                    directory.set_verifier(entry.id, verifier).await?;
                    if !is_embedded {
                        directory.activate(entry.id).await?;
                        made.fetch_add(1, Ordering::Relaxed);
                    }
                    done.fetch_add(if is_embedded { 1 } else { 3 }, Ordering::Relaxed);
                }
                Ok::<(), Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    let rate = |n: &AtomicU64| n.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
    #[allow(clippy::print_stdout)]
    {
        println!(
            "{kind}, {clients} clients: {:.0} changes a second, {:.0} accounts a second",
            rate(&done),
            rate(&made)
        );
    }
    store.close().await;
    Ok(())
}
