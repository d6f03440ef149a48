//! Compaction on a disk that has no room for what it copies.

use rookery_kv::files::{FileLayer, VolumeFile};
use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::SimDisk;
use rookery_store::{Account, FlagChange, FlagList, NewAccount, NewMessage, Store, StoreOptions};
use rookery_types::{AccountId, InternalDate, MailboxPath, SystemFlags, UidSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// A disk that says how much room it has, and takes nothing while it is full.
#[derive(Clone)]
struct Limited {
    files: Arc<dyn FileLayer>,
    free: Arc<AtomicU64>,
    full: Arc<AtomicBool>,
}

struct LimitedFile(Arc<dyn VolumeFile>, Arc<AtomicBool>);

impl FileLayer for Limited {
    fn create(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
        Ok(Arc::new(LimitedFile(self.files.create(name)?, self.full.clone())))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn VolumeFile>> {
        Ok(Arc::new(LimitedFile(self.files.open(name)?, self.full.clone())))
    }

    fn list(&self) -> io::Result<Vec<String>> {
        self.files.list()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.files.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.files.rename(from, to)
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.files.sync_directory()
    }

    fn free_octets(&self) -> io::Result<u64> {
        Ok(self.free.load(Ordering::Relaxed))
    }
}

impl VolumeFile for LimitedFile {
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        // A record of changes still fits; a message does not.
        match self.1.load(Ordering::Relaxed) && buf.len() > 1000 {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.0.write_at(buf, offset),
        }
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, n: u64) -> io::Result<()> {
        self.0.set_len(n)
    }
}

fn message(store: &Store, n: usize) -> NewMessage {
    let mut spool = store.spool();
    spool
        .push(format!("Subject: {n}\r\n\r\n{}", n.to_string().repeat(4000)).as_bytes())
        .expect("it takes octets");
    let (body, date) = (spool.finish().expect("it is whole"), InternalDate::from_unix(1));
    NewMessage { body, flags: SystemFlags::NONE, keywords: vec![], date }
}

async fn flag(account: &Account, uids: &UidSet, flags: SystemFlags) {
    let inbox = account.tree().get(&MailboxPath::inbox()).expect("it is there");
    let mailbox = account.open(inbox).await.expect("it opens");
    let change = FlagChange::Add(FlagList { flags, keywords: vec![] });
    mailbox.store_flags(uids, change, None).await.expect("it stores flags");
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_waits_for_room_and_goes_on() {
    const RESERVE: u64 = 1 << 20;
    let disk = SimDisk::new(11);
    let files = Limited {
        files: Arc::new(disk.files()),
        free: Arc::new(AtomicU64::new(u64::MAX)),
        full: Arc::default(),
    };
    let options = StoreOptions {
        background: None,
        retention: Duration::ZERO,
        volume_octets: 200_000,
        reserve_octets: RESERVE,
        // What is packed would fit all the same.
        compress: false,
        ..StoreOptions::default()
    };
    let engine = Arc::new(MemoryEngine::new(disk.clone()));
    let store = Store::open(options, engine, Arc::new(files.clone())).expect("it opens");
    let new = NewAccount { mailboxes: vec![(MailboxPath::inbox(), vec![])], ..NewAccount::default() };
    let account = store.create_account(AccountId::new(1).expect("not zero"), new).await.expect("it is made");
    let inbox = account.tree().get(&MailboxPath::inbox()).expect("it is there");
    for n in 10..70 {
        account.append(inbox, vec![message(&store, n)]).await.expect("it appends");
    }
    let first = "v00000001.vol".to_owned();
    let has_first = || files.list().expect("it lists").contains(&first);
    let gone: UidSet = (1..=60).filter(|n| n % 3 != 0).filter_map(rookery_types::Uid::new).collect();
    flag(&account, &gone, SystemFlags::DELETED).await;
    let mailbox = account.open(inbox).await.expect("it opens");
    mailbox.expunge(None).await.expect("it expunges");
    let verify = || {
        for (n, found) in mailbox.now().messages.clone().expect("it is open").iter().enumerate() {
            let (_, message) = found.expect("it reads");
            let octets = account.read(message.content).expect("its octets are there");
            let expected = (n * 3 + 12).to_string();
            assert!(octets.starts_with(format!("Subject: {expected}\r\n").as_bytes()), "{n}");
        }
        assert_eq!(mailbox.now().summary.exists, 20);
    };

    // So little room that copying would take what changes need: it is not begun, and nothing fails.
    files.free.store(RESERVE / 4 + 10_000, Ordering::Relaxed);
    // What was expunged in this second is not due in it.
    while !account.expunged(None).expect("it reads").is_empty() {
        store.tend_now().await.expect("nothing fails");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    store.tend_now().await.expect("nothing fails");
    assert!(has_first());
    verify();

    // The disk fills up in the middle all the same: that round fails, and nothing else does.
    files.free.store(u64::MAX, Ordering::Relaxed);
    files.full.store(true, Ordering::Relaxed);
    store.tend_now().await.expect_err("there is no room");
    assert!(has_first() && store.read_only_because().is_none());
    flag(&account, &UidSet::range(3, 3), SystemFlags::FLAGGED).await;
    verify();

    // With room it goes on by itself.
    files.full.store(false, Ordering::Relaxed);
    while has_first() {
        store.tend_now().await.expect("there is room");
    }
    verify();
    store.close().await;
}
