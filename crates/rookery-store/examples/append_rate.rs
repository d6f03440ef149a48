//! How many messages a second a store takes, on the engine and disk it will have:
//! `cargo run --release -p rookery-store --example append_rate -- DIR [WRITERS [OCTETS [SECONDS]]]`.

use rookery_kv::files::RealFiles;
use rookery_kv::fjall_engine::{FjallEngine, FjallOptions};
use rookery_store::{NewAccount, NewMessage, Store, StoreOptions};
use rookery_types::{AccountId, InternalDate, MailboxPath, SystemFlags};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

fn argument<T: std::str::FromStr>(n: usize, or: T) -> T {
    std::env::args().nth(n).and_then(|text| text.parse().ok()).unwrap_or(or)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = std::env::args().nth(1).ok_or("which folder?")?;
    let (writers, octets, seconds) = (argument(2, 8u64), argument(3, 4096usize), argument(4, 5u64));
    let engine = FjallEngine::open(format!("{dir}/engine"), FjallOptions::default())?;
    let files = RealFiles::open(format!("{dir}/volumes"))?;
    let store = Store::open(StoreOptions::default(), Arc::new(engine), Arc::new(files))?;
    let until = Instant::now() + Duration::from_secs(seconds);
    let count = Arc::new(AtomicU64::new(0));
    let start = u64::from(std::process::id());
    let mut tasks = Vec::new();
    for writer in 0..writers {
        let id = AccountId::new(start + writer * 1_000_000).ok_or("no id")?;
        let mailboxes = vec![(MailboxPath::inbox(), Vec::new())];
        let account = store.create_account(id, NewAccount { mailboxes, ..NewAccount::default() }).await?;
        let (store, count) = (store.clone(), count.clone());
        tasks.push(tokio::spawn(async move {
            let inbox = account.tree().get(&MailboxPath::inbox());
            let mut n = 0u64;
            while let Some(inbox) = inbox.filter(|_| Instant::now() < until) {
                n += 1;
                let mut text = format!(
                    "From: Ann <ann@example.org>\r\nTo: Bob <bob@example.org>\r\nSubject: message {n}\r\n\
                     Date: Mon, 23 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{n}.{writer}@example.org>\r\n\r\n"
                );
                while text.len() < octets {
                    text.push_str(
                        "And this is a line of the text of the message, of which there are many.\r\n",
                    );
                }
                let mut spool = store.spool();
                spool.push(text.as_bytes())?;
                let body = spool.finish()?;
                let (flags, date) = (SystemFlags::NONE, InternalDate::from_unix(1_700_000_000));
                account.append(inbox, vec![NewMessage { body, flags, keywords: Vec::new(), date }]).await?;
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), rookery_store::StoreError>(())
        }));
    }
    let begin = Instant::now();
    for task in tasks {
        task.await??;
    }
    let rate = count.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64();
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let ticks: u64 = stat.split(' ').skip(13).take(2).filter_map(|t| t.parse::<u64>().ok()).sum();
    let micros = ticks as f64 * 10_000.0 / count.load(Ordering::Relaxed).max(1) as f64;
    eprintln!("{writers} writers, {octets} octets: {rate:.0} messages/s, {micros:.0} µs CPU a message");
    store.close().await;
    Ok(())
}
