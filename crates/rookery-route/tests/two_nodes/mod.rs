//! Two nodes in memory, and an account that moves between them step by step: for the tests of protocols, whose sessions
//! have to go along.

#[path = "../late/mod.rs"]
mod late;

use late::Late;
use rookery_directory::{DirectCommit, Directory, EmbeddedDirectory, Home};
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_kv::{Bytes, Engine};
use rookery_route::{Publications, Renames};
use rookery_store::{Account, Exchange, Frozen, Incoming, Store, StoreOptions, Travel};
use rookery_types::{AccountName, Epoch, JobId};
use std::sync::Arc;
use std::time::Duration;

/// A node that follows another's directory.
pub(crate) async fn second_node(directory: &EmbeddedDirectory) -> (Store, EmbeddedDirectory, Renames) {
    another_node(directory, 2).await
}

/// The same; each has a seed of its own.
pub(crate) async fn another_node(
    directory: &EmbeddedDirectory,
    seed: u64,
) -> (Store, EmbeddedDirectory, Renames) {
    let disk = SimDisk::new(seed);
    let engine: Arc<dyn Engine> = Arc::new(MemoryEngine::new(disk.clone()));
    let options = StoreOptions { background: None, ..StoreOptions::default() };
    let store = Store::open(options, engine.clone(), Arc::new(disk.files())).unwrap();
    let source = Arc::new(Late { source: directory.embedded().unwrap(), by: LATE });
    let commit = Arc::new(DirectCommit(engine.clone()));
    let copy = EmbeddedDirectory::follow(engine.clone(), commit, source, store.node()).unwrap();
    let mut revisions = copy.subscribe();
    while copy.position().is_none() {
        revisions.changed().await.unwrap();
    }
    Publications::start(store.clone(), Arc::new(copy.clone()), engine.clone()).await.unwrap();
    let renames = Renames::start(store.clone(), &copy, engine);
    (store, copy, renames)
}

/// How late changes reach the other nodes.
const LATE: Duration = Duration::from_millis(10);

/// What carries an account from one store to the other.
struct Carrying(Incoming);

impl Exchange for Carrying {
    async fn ask(&mut self, request: Bytes) -> Result<Bytes, String> {
        self.0.handle(request).await.map_err(|error| error.to_string())
    }
}

/// An account on its way from one store to another, which stands still for now.
pub(crate) struct Moving {
    from: Store,
    to: Store,
    account: Account,
    job: JobId,
    old: Home,
    new: Home,
    modseq: u64,
    frozen: Option<Frozen>,
}

impl Moving {
    /// Copies all of it, whatever its sessions do meanwhile, until it stands still.
    pub(crate) async fn begin(directory: &dyn Directory, name: &AccountName, stores: [&Store; 2]) -> Moving {
        let entry = directory.look_up(name).await.unwrap();
        let [from, to] = match stores[0].node() == entry.home.node {
            true => stores,
            false => [stores[1], stores[0]],
        };
        let (from, to, id) = (from.clone(), to.clone(), entry.id);
        let account = from.account(id).await.unwrap();
        let epoch = Epoch(entry.home.epoch.0 + 1);
        let job = JobId(epoch.0);
        let travel = Travel { job, peer: from.node(), epoch, modseq: 0 };
        let (incoming, fresh) = to.receive(id, travel).await.unwrap();
        let mut wire = Carrying(incoming);
        let mut outgoing = account.outgoing();
        outgoing.copy(&mut wire, fresh).await.unwrap();
        let frozen = loop {
            outgoing.catch_up(&mut wire).await.unwrap();
            if let Some(frozen) = account.freeze(Duration::from_millis(100)).await.unwrap() {
                outgoing.seal(&mut wire, &frozen).await.unwrap();
                break frozen;
            }
        };
        let new = Home { node: to.node(), store: to.store_id(), epoch };
        let modseq = frozen.modseq();
        Moving { from, to, account, job, old: entry.home, new, modseq, frozen: Some(frozen) }
    }

    /// Gives it away for good.
    pub(crate) async fn release(&mut self) {
        let travel = Travel { job: self.job, peer: self.new.node, epoch: self.new.epoch, modseq: 0 };
        self.frozen.take().unwrap().release(travel).await.unwrap();
    }

    /// Takes it home at the other node. The directory hears of it later.
    pub(crate) async fn end(self, directory: &dyn Directory) {
        let id = self.account.id();
        self.to.take_home(id, self.job, self.modseq).await.unwrap();
        self.account.leave();
        directory.set_home(id, self.old, self.new).await.unwrap();
        self.from.has_moved(id).await.unwrap();
    }
}

/// Moves an account to the other of two nodes, whatever its sessions do meanwhile.
pub(crate) async fn relocate(directory: &dyn Directory, name: &AccountName, stores: [&Store; 2]) {
    let mut moving = Moving::begin(directory, name, stores).await;
    moving.release().await;
    moving.end(directory).await;
}
