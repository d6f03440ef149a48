//! Imports: files are read and hashed while the batch before them is being stored.
//!
//! Invariants:
//! - A message that is in its target mailbox already, octet for octet, is left out; so an import that was broken
//!   off can be repeated.
//! - Messages get their UIDs in the order in which the source has them.
//! - When the client goes, the batch under way is finished, and no other begins.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use rookery_admin::socket::{Failed, Replies};
use rookery_store::{Account, NewMessage, Store, StoreError};
use rookery_types::{ContentId, MailboxId, MailboxPath, UserName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{failed, mailboxes};
use crate::import::Found;
use crate::import::maildir::{self, MaildirFolder};
use crate::import::mbox::Mbox;
use crate::node::Node;

/// Messages stored at once.
const BATCH_MESSAGES: usize = 256;
/// Octets after which a batch is full.
const BATCH_OCTETS: usize = 4 << 20;
/// Complaints that are told one by one.
const COMPLAINTS_MAX: usize = 20;

#[derive(Deserialize)]
pub(super) struct Args {
    user: String,
    path: PathBuf,
    into: Option<String>,
}

/// What an import has done so far.
#[derive(Default)]
struct Tally {
    imported: u64,
    skipped: u64,
    failed: u64,
    octets: u64,
    mailboxes: u64,
    /// How far the work is, and of how much.
    done: u64,
    total: Option<u64>,
    complaints: Vec<String>,
}

impl Tally {
    fn complain(&mut self, text: String) {
        self.failed += 1;
        tracing::debug!(text, "left out of an import");
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(text);
        }
    }

    fn end(self) -> Value {
        json!({
            "imported": self.imported,
            "skipped": self.skipped,
            "failed": self.failed,
            "octets": self.octets,
            "mailboxes": self.mailboxes,
            "failures": self.complaints,
        })
    }
}

/// Where messages go, and what is there already.
struct Destination<'a> {
    store: &'a Store,
    account: Account,
    user: UserName,
    replies: &'a Replies,
}

fn gone() -> Failed {
    Failed::new("interrupted", "the import was interrupted; repeat it to go on")
}

fn unreadable(path: &std::path::Path, error: &std::io::Error) -> Failed {
    let code = if error.kind() == std::io::ErrorKind::NotFound { "not-found" } else { "failed" };
    Failed::new(code, format!("the server cannot read {}: {error}", path.display()))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failed> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Failed::new("failed", error.to_string()))
}

fn target(into: Option<&str>) -> Result<MailboxPath, Failed> {
    match into {
        None => Ok(MailboxPath::inbox()),
        Some(name) => {
            MailboxPath::new(name).map_err(|error| Failed::new("usage", format!("'{name}': {error}")))
        }
    }
}

pub(super) async fn maildir(node: &Node, args: Args, replies: &Replies) -> Result<Value, Failed> {
    let user = node.user(&args.user)?;
    let destination = Destination { store: &node.store, account: node.account(&user).await?, user, replies };
    let into = target(args.into.as_deref())?;
    let root = args.path.clone();
    let found = blocking(move || -> std::io::Result<_> {
        let (folders, complaints) = maildir::mailboxes(&root, &into)?;
        let listed = folders.into_iter().map(|folder| Ok((maildir::messages(&folder.folder)?, folder)));
        Ok((listed.collect::<std::io::Result<Vec<_>>>()?, complaints))
    });
    let (folders, complaints) = found.await?.map_err(|error| unreadable(&args.path, &error))?;
    if folders.is_empty() {
        let text = format!("{} is no Maildir: it has no folder 'cur' or 'new'", args.path.display());
        return Err(Failed::new("usage", text));
    }
    let mut tally =
        Tally { total: Some(folders.iter().map(|(files, _)| files.len() as u64).sum()), ..Tally::default() };
    complaints.into_iter().for_each(|text| tally.complain(text));
    for (files, MaildirFolder { path, folder }) in folders {
        let octets_max = node.config.store.message_octets_max;
        let keywords = Arc::new(blocking(move || maildir::keyword_table(&folder)).await?);
        let mut files = files.into_iter();
        let next = move || {
            let file = files.next()?;
            Some((1, maildir::read(&file, &keywords, octets_max)))
        };
        fill(&destination, &path, next, &mut tally).await?;
    }
    tracing::info!(user = %destination.user, imported = tally.imported, skipped = tally.skipped, failed = tally.failed, "Maildir imported");
    Ok(tally.end())
}

pub(super) async fn mbox(node: &Node, args: Args, replies: &Replies) -> Result<Value, Failed> {
    let user = node.user(&args.user)?;
    let destination = Destination { store: &node.store, account: node.account(&user).await?, user, replies };
    let into = target(args.into.as_deref())?;
    let path = args.path.clone();
    let octets_max = node.config.store.message_octets_max;
    let opened = blocking(move || -> std::io::Result<_> {
        let file = std::fs::File::open(path)?;
        let meta = file.metadata()?;
        if meta.is_dir() {
            return Err(std::io::ErrorKind::IsADirectory.into());
        }
        Ok((file, meta.len()))
    });
    let (file, octets) = opened.await?.map_err(|error| unreadable(&args.path, &error))?;
    let mut tally = Tally { total: Some(octets), ..Tally::default() };
    let mut source = Mbox::new(std::io::BufReader::with_capacity(1 << 18, file), octets_max);
    let mut before = 0;
    let mut ended = false;
    let next = move || {
        if ended {
            return None;
        }
        let found = match source.next() {
            Ok(found) => found?,
            Err(error) => {
                ended = true;
                Err(error.to_string())
            }
        };
        let octets = source.octets_read - before;
        before = source.octets_read;
        Some((octets, found))
    };
    fill(&destination, &into, next, &mut tally).await?;
    if let (0, 0, [only]) = (tally.imported, tally.skipped, &tally.complaints[..]) {
        return Err(Failed::new("usage", format!("{}: {only}", args.path.display())));
    }
    tracing::info!(user = %destination.user, imported = tally.imported, skipped = tally.skipped, failed = tally.failed, "mbox imported");
    Ok(tally.end())
}

/// Messages that were read and hashed.
#[derive(Default)]
struct Batch {
    messages: Vec<NewMessage>,
    octets: u64,
    skipped: u64,
    complaints: Vec<String>,
    /// What was read of the source, for progress.
    steps: u64,
    is_last: bool,
}

/// Puts what `next` gives into one mailbox, making it if need be.
async fn fill(
    destination: &Destination<'_>,
    path: &MailboxPath,
    next: impl FnMut() -> Option<(u64, Result<Found, String>)> + Send + 'static,
    tally: &mut Tally,
) -> Result<(), Failed> {
    let Destination { store, account, user, replies } = destination;
    let mailbox = match account.tree().get(path) {
        Some(id) => id,
        None => mailboxes::make(account, user, path, Vec::new()).await?,
    };
    tally.mailboxes += 1;
    let mut reader = Reader { store: (*store).clone(), known: known(account, mailbox).await?, next };
    let (mut batch, mut waiting) = {
        let (batch, reader) = read_batch(reader).await?;
        (batch, Some(reader))
    };
    loop {
        let Batch { messages, octets, skipped, complaints, steps, is_last } = std::mem::take(&mut batch);
        let count = messages.len() as u64;
        let storing = async {
            match messages.is_empty() {
                true => Ok(()),
                false => account.append(mailbox, messages).await.map(drop),
            }
        };
        let (stored, read) = match waiting.take() {
            Some(ready) if !is_last => {
                let (stored, read) = tokio::join!(storing, read_batch(ready));
                (stored, Some(read?))
            }
            _ => (storing.await, None),
        };
        stored.map_err(|error: StoreError| failed(&error))?;
        tally.imported += count;
        tally.octets += octets;
        tally.skipped += skipped;
        tally.done += steps;
        complaints.into_iter().for_each(|text| tally.complain(text));
        replies.progress(tally.done, tally.total, path.as_str()).await.map_err(|_| gone())?;
        match read {
            Some((following, ready)) => {
                batch = following;
                reader = ready;
                waiting = Some(reader);
            }
            None => return Ok(()),
        }
    }
}

/// What is in a mailbox.
async fn known(account: &Account, mailbox: MailboxId) -> Result<HashSet<ContentId>, Failed> {
    let opened = account.open(mailbox).await.map_err(|error| failed(&error))?;
    let state = opened.now();
    let found = state.messages.iter().flat_map(|messages| messages.iter());
    found
        .map(|found| found.map(|(_, message)| message.content))
        .collect::<Result<_, _>>()
        .map_err(|error| failed(&error))
}

struct Reader<F> {
    store: Store,
    known: HashSet<ContentId>,
    next: F,
}

/// Reads and hashes on a thread that may block.
async fn read_batch<F>(mut reader: Reader<F>) -> Result<(Batch, Reader<F>), Failed>
where
    F: FnMut() -> Option<(u64, Result<Found, String>)> + Send + 'static,
{
    blocking(move || {
        let mut batch = Batch::default();
        while batch.messages.len() < BATCH_MESSAGES && batch.octets < BATCH_OCTETS as u64 {
            let Some((steps, found)) = (reader.next)() else {
                batch.is_last = true;
                break;
            };
            batch.steps += steps;
            match found.and_then(|found| spool(&reader.store, found)) {
                Ok(message) if reader.known.insert(message.body.content()) => {
                    batch.octets += u64::from(message.body.size());
                    batch.messages.push(message);
                }
                Ok(_) => batch.skipped += 1,
                Err(text) => batch.complaints.push(text),
            }
        }
        (batch, reader)
    })
    .await
}

fn spool(store: &Store, found: Found) -> Result<NewMessage, String> {
    let Found { octets, flags, keywords, date } = found;
    let mut spool = store.spool();
    spool.push(&octets).map_err(|error| error.to_string())?;
    let body = spool.finish_without_nul().map_err(|error| format!("the message of {date}: {error}"))?;
    Ok(NewMessage { body, flags, keywords, date })
}
