//! What a node says of accounts while its copy of the directory lags behind.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

mod late;

use late::Late;
use rookery_directory::source::Source;
use rookery_directory::{CopiedDirectory, DirectCommit, Directory, MemorySource};
use rookery_kv::Engine;
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_route::{Registrar, Route, Router};
use rookery_store::{Store, StoreOptions};
use rookery_types::{AccountName, NodeId, Style};
use std::sync::Arc;
use std::time::Duration;

/// How late changes come.
const LATE: Duration = Duration::from_millis(100);

fn engine(seed: u64) -> Arc<dyn Engine> {
    Arc::new(MemoryEngine::new(SimDisk::new(seed)))
}

async fn copy(source: Arc<dyn Source>, engine: Arc<dyn Engine>) -> Arc<dyn Directory> {
    let commit = Arc::new(DirectCommit(engine.clone()));
    let directory = CopiedDirectory::follow(engine, commit, source, NodeId(1)).unwrap();
    while directory.position().is_none() {
        directory.subscribe().changed().await.unwrap();
    }
    Arc::new(directory)
}

async fn until(directory: &dyn Directory, name: &AccountName) {
    while directory.look_up(name).await.is_err() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn an_account_that_is_made_is_found_wherever_its_reservation_has_come() {
    let source = MemorySource::new(1);
    let (disk, one) = (SimDisk::new(1), engine(2));
    let store = Arc::new(MemoryEngine::new(disk.clone()));
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    let store = Store::open(options, store, Arc::new(disk.files())).unwrap();
    let near = copy(Arc::new(source.clone()), one).await;
    let far = copy(Arc::new(Late { source, by: LATE }), engine(3)).await;
    let here = store.node();
    let registrar = Registrar::new(near, store.clone(), vec![]);
    let elsewhere = Registrar::new(far.clone(), store.clone(), vec![]);
    let router = Router::new(far.clone(), here, Style::default());
    let name = |text: &str| AccountName::parse(text).unwrap();

    let joe = name("user/joe@a.test");
    let id = registrar.create(&joe, None).await.unwrap();
    // The reservation comes there before what has made an account of it.
    until(&*far, &joe).await;
    assert_eq!(router.locate(&joe).await, Ok((id, Route::Here { account: id })));

    // Nor is it said of what has not come at all that there is none.
    let (ann, new) = (name("user/ann@a.test"), name("user/new@a.test"));
    registrar.create(&ann, None).await.unwrap();
    elsewhere.rename(&ann, new.clone()).await.unwrap();
    let (eve, last) = (name("user/eve@a.test"), name("user/last@a.test"));
    registrar.create(&eve, None).await.unwrap();
    until(&*far, &eve).await;
    elsewhere.rename(&eve, last.clone()).await.unwrap();
    for one in [&new, &last] {
        registrar.create(&ann, None).await.unwrap();
        elsewhere.delete(&ann).await.unwrap();
        registrar.delete(one).await.unwrap();
    }

    // Nor is an old name taken for the account that had it.
    let (zoe, zoo) = (name("user/zoe@a.test"), name("user/zoo@a.test"));
    registrar.create(&zoe, None).await.unwrap();
    far.barrier().await.unwrap();
    registrar.rename(&zoe, zoo.clone()).await.unwrap();
    registrar.create(&zoe, None).await.unwrap();
    elsewhere.delete(&zoe).await.unwrap();
    far.barrier().await.unwrap();
    assert!(far.look_up(&zoe).await.is_err());
    assert!(store.account(far.look_up(&zoo).await.unwrap().id).await.is_ok());
    store.close().await;
}
