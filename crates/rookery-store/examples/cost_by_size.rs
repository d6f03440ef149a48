//! Whether the cost of a change grows with the mailbox:
//! `cargo run --release -p rookery-store --example cost_by_size -- DIR [SMALL [LARGE]]`.

use rookery_kv::files::RealFiles;
use rookery_kv::fjall_engine::{FjallEngine, FjallOptions};
use rookery_store::{Account, FlagChange, FlagList, NewAccount, NewMessage, Store, StoreOptions};
use rookery_types::{AccountId, InternalDate, MailboxId, MailboxPath, SystemFlags, UidSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;
/// Changes timed of each kind.
const TIMES: u32 = 300;

fn message(store: &Store, n: u32) -> Result<NewMessage, Failure> {
    let mut spool = store.spool();
    spool
        .push(format!("Subject: message {n}\r\nMessage-ID: <{n}@example.org>\r\n\r\nText.\r\n").as_bytes())?;
    let (body, date) = (spool.finish()?, InternalDate::from_unix(1_700_000_000));
    Ok(NewMessage { body, flags: SystemFlags::SEEN, keywords: Vec::new(), date })
}

async fn filled(store: &Store, account: u64, messages: u32) -> Result<(Account, MailboxId), Failure> {
    let id = AccountId::new(account).ok_or("no id")?;
    let mailboxes = vec![(MailboxPath::inbox(), Vec::new())];
    let account = store.create_account(id, NewAccount { mailboxes, ..NewAccount::default() }).await?;
    let inbox = account.tree().get(&MailboxPath::inbox()).ok_or("no INBOX")?;
    let same = message(store, 0)?;
    for begin in (0..messages).step_by(1000) {
        account.append(inbox, vec![same.clone(); 1000.min(messages - begin) as usize]).await?;
    }
    Ok((account, inbox))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let dir = std::env::args().nth(1).ok_or("which folder?")?;
    let size = |n, or| std::env::args().nth(n).and_then(|text| text.parse().ok()).unwrap_or(or);
    let engine = FjallEngine::open(format!("{dir}/engine"), FjallOptions::default())?;
    let files = RealFiles::open(format!("{dir}/volumes"))?;
    let store = Store::open(StoreOptions::default(), Arc::new(engine), Arc::new(files))?;
    for (account, messages) in [(1, size(2, 10)), (2, size(3, 1_000_000))] {
        let begin = Instant::now();
        let (account, inbox) = filled(&store, account, messages).await?;
        let filling = begin.elapsed();
        let mut cold = Vec::new();
        for n in 0..TIMES {
            let new = vec![message(&store, n + 1)?];
            let begin = Instant::now();
            account.append(inbox, new).await?;
            cold.push(begin.elapsed());
        }
        let begin = Instant::now();
        let mailbox = account.open(inbox).await?;
        let opening = begin.elapsed();
        let messages_now = mailbox.now().messages.clone().ok_or("it is not open")?;
        let begin = Instant::now();
        let first_unseen = messages_now.first_unseen()?;
        let selecting = begin.elapsed();
        let begin = Instant::now();
        let mut octets = 0_u64;
        for found in messages_now.iter() {
            octets += u64::from(found?.1.size);
        }
        let reading = begin.elapsed();
        let begin = Instant::now();
        for found in messages_now.iter() {
            octets += u64::from(found?.1.size);
        }
        let again = begin.elapsed();
        eprintln!(
            "opening {opening:.1?}, first unseen {first_unseen:?} in {selecting:.1?}, reading all {reading:.1?}, \
             again {again:.1?} ({octets})"
        );
        let (mut open, mut flags) = (Vec::new(), Vec::new());
        for n in 0..TIMES {
            let new = vec![message(&store, n + 1_000)?];
            let begin = Instant::now();
            account.append(inbox, new).await?;
            open.push(begin.elapsed());
            let uids = UidSet::range(n % messages + 1, n % messages + 1);
            let list = FlagList { flags: SystemFlags::FLAGGED, keywords: Vec::new() };
            let change = if (n / messages).is_multiple_of(2) {
                FlagChange::Add(list)
            } else {
                FlagChange::Remove(list)
            };
            let begin = Instant::now();
            mailbox.store_flags(&uids, change, None).await?;
            flags.push(begin.elapsed());
        }
        let begin = Instant::now();
        let mut seen = 0u64;
        for _ in 0..100_000 {
            seen += account.tree().state(inbox).map_or(0, |state| u64::from(state.summary.exists));
        }
        let status = begin.elapsed() / 100_000;
        eprintln!(
            "{messages} messages (filled in {filling:.1?}): append closed {:.0?}, open {:.0?}, one flag {:.0?}, \
             STATUS {status:.0?} ({seen}), opening {opening:.1?}",
            median(cold),
            median(open),
            median(flags),
        );
    }
    store.close().await;
    drop(store);
    let engine = FjallEngine::open(format!("{dir}/engine"), FjallOptions::default())?;
    let files = RealFiles::open(format!("{dir}/volumes"))?;
    let begin = Instant::now();
    let store = Store::open(StoreOptions::default(), Arc::new(engine), Arc::new(files))?;
    eprintln!("store opened again in {:.1?}", begin.elapsed());
    for account in [1, 2] {
        let account = store.account(AccountId::new(account).ok_or("no id")?).await?;
        let inbox = account.tree().get(&MailboxPath::inbox()).ok_or("no INBOX")?;
        let begin = Instant::now();
        let mailbox = account.open(inbox).await?;
        let opening = begin.elapsed();
        let messages = mailbox.now().messages.clone().ok_or("it is not open")?;
        let begin = Instant::now();
        for found in messages.iter() {
            found?;
        }
        eprintln!("{} messages: opening {opening:.1?}, reading all {:.1?}", messages.len(), begin.elapsed());
    }
    store.close().await;
    Ok(())
}
