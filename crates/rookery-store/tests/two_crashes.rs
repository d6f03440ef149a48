//! A process that is killed, and later a loss of power: what the killed one had written and not synced is there, and
//! who shows it or builds on it has to make it durable first.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on shall say where")]

use rookery_kv::memory::MemoryEngine;
use rookery_kv::sim::{Fault, OpKind, SimDisk};
use rookery_store::{Account, NewAccount, NewMessage, Store, StoreError, StoreOptions};
use rookery_types::{AccountId, InternalDate, MailboxPath, SystemFlags};
use std::sync::Arc;

struct Run {
    store: Store,
    commits: tokio::task::JoinHandle<()>,
}

impl Run {
    fn open(disk: &SimDisk) -> Run {
        let options = StoreOptions { background: None, by_steps: true, ..StoreOptions::default() };
        let engine = Arc::new(MemoryEngine::new(disk.clone()));
        let store = Store::open(options, engine, Arc::new(disk.files())).unwrap();
        let committing = store.clone();
        let commits = tokio::spawn(async move {
            loop {
                committing.commit_waits().await;
                committing.commit_step();
            }
        });
        Run { store, commits }
    }

    async fn account(&self) -> Account {
        self.store.account(AccountId::new(1).unwrap()).await.unwrap()
    }

    async fn append(&self, text: &str) -> Result<(), StoreError> {
        let account = self.account().await;
        let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
        let mut spool = self.store.spool();
        spool.push(format!("Subject: {text}\r\n\r\n").as_bytes()).unwrap();
        let (body, date) = (spool.finish().unwrap(), InternalDate::from_unix(1));
        let message = NewMessage { body, flags: SystemFlags::NONE, keywords: vec![], date };
        account.append(inbox, vec![message]).await.map(drop)
    }

    /// The subjects of all messages.
    async fn shown(&self) -> Vec<String> {
        let account = self.account().await;
        let inbox = account.open(account.tree().get(&MailboxPath::inbox()).unwrap()).await.unwrap();
        let all = inbox.now().messages.clone().unwrap();
        let body = |content| String::from_utf8(account.read(content).unwrap().to_vec()).unwrap();
        all.iter().map(|one| body(one.unwrap().1.content).trim().replace("Subject: ", "")).collect()
    }

    async fn end(self) {
        self.commits.abort();
        self.store.close().await;
    }
}

#[tokio::test]
async fn what_is_shown_after_a_kill_outlives_a_loss_of_power() {
    rookery_kv::sim::in_place();
    let (mut shown_at_all, mut appended_after) = (0, 0);
    for seed in 0..40 {
        for operation in 0..8 {
            let disk = SimDisk::new(seed);
            let run = Run::open(&disk);
            let new = NewAccount { mailboxes: vec![(MailboxPath::inbox(), vec![])], ..NewAccount::default() };
            run.store.create_account(AccountId::new(1).unwrap(), new).await.unwrap();
            // Before the engine commits its volume is synced in every second group.
            if seed % 2 == 0 {
                let account = run.account().await;
                account.subscribe("INBOX", None).await.unwrap();
            }
            match operation {
                // What a sync that failed has lost is still read, until the power is lost.
                6.. => disk.fail_nth(OpKind::Sync, 1, Fault::Io),
                operation => disk.crash_after(operation),
            }
            let first = run.append("first").await;
            run.end().await;
            disk.process_crash();
            let run = Run::open(&disk);
            let mut shown = run.shown().await;
            assert!(first.is_err() || shown == ["first"], "seed {seed}, operation {operation}");
            shown_at_all += shown.len();
            if operation % 2 == 0 {
                run.append("second").await.unwrap();
                shown.push("second".to_owned());
                appended_after += 1;
            } else {
                // What comes without a body says no more that there was one.
                run.account().await.subscribe("Other", None).await.unwrap();
            }
            run.end().await;
            disk.power_loss();
            let run = Run::open(&disk);
            assert_eq!(run.shown().await, shown, "seed {seed}, operation {operation}");
            run.end().await;
            let engine = MemoryEngine::new(disk.clone());
            let findings = rookery_store::check::check(&engine, Arc::new(disk.files())).unwrap();
            assert!(findings.is_empty(), "seed {seed}, operation {operation}: {findings:?}");
        }
    }
    assert!(shown_at_all > 50 && appended_after > 50, "{shown_at_all}");
}
