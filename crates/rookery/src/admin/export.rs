//! Exporting accounts into folders while the server runs: into a folder of this machine, or of that of another node
//! whose administrator asks, which is sent what is to be written.

mod sink;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rookery_admin::socket::{Failed, Replies, Reply};
use rookery_directory::{AccountFilter, AccountState, Entry, PAGE_MAX};
use rookery_store::{Account, MailboxState, Message, StoreError};
use rookery_types::namespace::show_identifier;
use rookery_types::{AccountName, MailboxId, NodeId, SystemFlags};
use serde::Deserialize;
use serde_json::{Value, json};

use super::failed;
use crate::cluster::{Cluster, lost};
use crate::export::{AccountFile, AnnotationLine, FORMAT, MailboxFile, MessageLine, WHOLE, folder};
use crate::node::{Node, NodeError};
use sink::{FolderSink, RowSink, Sink};

/// Octets of a message that are read at once.
const PIECE_OCTETS: usize = 1 << 20;
/// Rows from another node that wait to be written.
const ROWS_WAITING: usize = 8;

#[derive(Deserialize)]
pub(super) struct Args {
    /// All accounts if none is named.
    user: Option<String>,
    path: PathBuf,
}

/// What an export came to.
#[derive(Default)]
struct Tally {
    accounts: u64,
    messages: u64,
    written: u64,
    octets: u64,
    /// Messages that cannot be read, and why; the others are exported.
    damaged: Vec<String>,
}

impl Tally {
    fn end(self) -> Value {
        json!({
            "accounts": self.accounts,
            "messages": self.messages,
            "written": self.written,
            "octets": self.octets,
            "damaged": self.damaged,
        })
    }
}

/// Why an account was not exported.
enum Trouble {
    File(PathBuf, std::io::Error),
    Store(StoreError),
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Trouble {
        Trouble::Store(error)
    }
}

impl From<Trouble> for Failed {
    fn from(trouble: Trouble) -> Failed {
        match trouble {
            Trouble::File(file, error) => Failed::new("failed", format!("{}: {error}", file.display())),
            Trouble::Store(error) => failed(&error),
        }
    }
}

/// Exports accounts. Each is as it was at one moment for each of its mailboxes.
pub(super) async fn export(node: &Node, args: Args, replies: &Replies) -> Result<Value, Failed> {
    let mut tally = Tally::default();
    let root = args.path;
    if let Some(user) = &args.user {
        let entry = node.entry(&node.user(user)?).await?;
        one(node, &entry, into_folder(&root, &entry), &mut tally, replies).await?;
    } else {
        let mut after = None;
        loop {
            let page = node.directory.list(AccountFilter::default(), after, PAGE_MAX).await;
            let page = page.map_err(NodeError::from)?;
            for entry in &page.entries {
                // What is at home at other nodes is exported there.
                let here = entry.home.node == node.store.node();
                if here && matches!(entry.state, AccountState::Active | AccountState::Suspended) {
                    one(node, entry, into_folder(&root, entry), &mut tally, replies).await?;
                }
            }
            match page.next {
                Some(name) => after = Some(name),
                None => break,
            }
        }
    }
    Ok(tally.end())
}

fn into_folder(root: &Path, entry: &Entry) -> Arc<dyn Sink> {
    Arc::new(FolderSink::new(folder(root, &entry.name.to_string())))
}

#[derive(Deserialize)]
pub(super) struct SendArgs {
    user: String,
    /// Contents that are there already.
    #[serde(default)]
    known: HashSet<String>,
}

/// Exports one account to whoever asks: what is to be written are rows.
pub(super) async fn send(node: &Node, args: SendArgs, replies: &Replies) -> Result<Value, Failed> {
    let entry = node.entry(&node.user(&args.user)?).await?;
    let mut tally = Tally::default();
    let sink = Arc::new(RowSink::new(replies.clone(), args.known));
    one(node, &entry, sink, &mut tally, replies).await?;
    Ok(tally.end())
}

/// Exports an account that is at home at another node into a folder of this machine.
pub(super) async fn fetch(
    node: &Node,
    cluster: &Cluster,
    (home, name): (NodeId, &str),
    args: Value,
    replies: &Replies,
) -> Result<Value, Failed> {
    let Args { user, path } = super::parse(args)?;
    let user = user.ok_or_else(|| Failed::new("usage", "whose account?"))?;
    let place = folder(&path, &AccountName::User(node.user(&user)?).to_string());
    let known = {
        let place = place.clone();
        blocking(move || Ok(sink::known_in(&place))).await?
    };
    let mut client =
        cluster.errand((home, name), "export.send", json!({"user": user, "known": known})).await?;
    let (rows, waiting) = tokio::sync::mpsc::channel(ROWS_WAITING);
    let writing = tokio::task::spawn_blocking(move || sink::receive(place, waiting));
    let ended = loop {
        match client.reply().await.map_err(|error| lost(name, error)) {
            Ok(Reply::Row(row)) => {
                // The writer has failed, and says why.
                if rows.send(row).await.is_err() {
                    break Ok(Value::Null);
                }
            }
            Ok(Reply::Progress(progress)) => {
                if replies.send(&Reply::Progress(progress)).await.is_err() {
                    break Err(Failed::new("interrupted", "the export was interrupted; repeat it to go on"));
                }
            }
            Ok(Reply::Done(done)) => break Ok(done),
            Ok(Reply::Failed(failed)) => break Err(failed),
            Err(error) => break Err(error),
        }
    };
    drop(rows);
    let written = writing.await.map_err(|error| Failed::new("failed", error.to_string()))?;
    // A link that is lost makes a file that is not whole; that is the reason, not the file.
    let done = ended?;
    written?;
    Ok(done)
}

async fn one(
    node: &Node,
    entry: &Entry,
    sink: Arc<dyn Sink>,
    tally: &mut Tally,
    replies: &Replies,
) -> Result<(), Failed> {
    node.at_home(entry)?;
    let account = node.store.account(entry.id).await.map_err(|error| failed(&error))?;
    let name = entry.name.to_string();
    let gone = |_| Failed::new("interrupted", "the export was interrupted; repeat it to go on");
    replies.progress(tally.messages, None, name.as_str()).await.map_err(gone)?;
    // The modseq first: what is exported may be newer, never older.
    let modseq = account.modseq();
    let mut file = AccountFile {
        format: FORMAT,
        name: name.clone(),
        verifier: entry.verifier.as_ref().map(|verifier| verifier.as_str().to_owned()),
        suspended: entry.state == AccountState::Suspended,
        modseq,
        subscriptions: account.tree().subscriptions().keys().cloned().collect(),
        annotations: annotations(&account, None, &entry.name).await?,
        mailboxes: Vec::new(),
    };
    let begun = Arc::clone(&sink);
    blocking(move || begun.begin()).await?;
    for (path, state) in account.tree().iter() {
        let mailbox = match account.open(state.id).await {
            Ok(mailbox) => mailbox,
            Err(StoreError::NoMailbox) => continue,
            Err(error) => return Err(failed(&error)),
        };
        let state = mailbox.now();
        let lines = format!("mailbox-{}.jsonl", state.id.number);
        let limits = state.settings.quota.map(|limits| [limits.octets, limits.messages, limits.mailboxes]);
        file.mailboxes.push(MailboxFile {
            path: path.as_str().to_owned(),
            uid_validity: state.settings.uid_validity.get(),
            uid_next: state.summary.uid_next,
            special_use: state.settings.special_use.iter().map(|one| one.attribute().to_owned()).collect(),
            acl: state.settings.acl.entries().iter().map(acl_line).collect(),
            quota: limits,
            annotations: annotations(&account, Some(state.id), &entry.name).await?,
            messages: lines.clone(),
            seen: seen_by_others(&account, state.id).await?,
        });
        let (reader, into, whose) = (account.clone(), Arc::clone(&sink), name.clone());
        let counts = blocking(move || mailbox_file(&reader, &state, &*into, &whose, &lines)).await?;
        tally.messages += counts.messages;
        tally.written += counts.written;
        tally.octets += counts.octets;
        tally.damaged.extend(counts.damaged);
        replies.progress(tally.messages, None, format!("{name} {path}")).await.map_err(gone)?;
    }
    // Last: where it is, the rest is.
    blocking(move || {
        let text = serde_json::to_vec_pretty(&file)
            .map_err(|error| Trouble::File(PathBuf::from(WHOLE), error.into()))?;
        sink.file(WHOLE, &text)
    })
    .await?;
    tally.accounts += 1;
    Ok(())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Trouble> + Send + 'static,
) -> Result<T, Failed> {
    let done =
        tokio::task::spawn_blocking(work).await.map_err(|error| Failed::new("failed", error.to_string()))?;
    Ok(done?)
}

fn acl_line(entry: &rookery_types::acl::AclEntry) -> (String, String) {
    (show_identifier(&entry.identifier, entry.negative, ""), entry.rights.to_string())
}

/// What all share, and what is the owner's own. What other users keep of a shared mailbox is not exported.
async fn annotations(
    account: &Account,
    of: Option<MailboxId>,
    name: &AccountName,
) -> Result<Vec<AnnotationLine>, Failed> {
    let (account, owner) = (account.clone(), name.user().cloned());
    blocking(move || {
        let mut lines = Vec::new();
        let mut add = |found: Vec<(String, bytes::Bytes)>, private| {
            let line = |(entry, value)| AnnotationLine {
                entry,
                private,
                value: STANDARD.encode::<bytes::Bytes>(value),
            };
            lines.extend(found.into_iter().map(line));
        };
        add(account.annotations(of, None)?, false);
        if let Some(owner) = &owner {
            add(account.annotations(of, Some(owner))?, true);
        }
        Ok(lines)
    })
    .await
}

/// What others than the owner have seen of a mailbox.
async fn seen_by_others(
    account: &Account,
    mailbox: MailboxId,
) -> Result<Vec<(String, Vec<(u32, u32)>)>, Failed> {
    let account = account.clone();
    let seen = blocking(move || Ok(account.seen_by_others(mailbox)?)).await?;
    Ok(seen.into_iter().map(|(user, uids)| (user.as_str().to_owned(), uids.ranges().collect())).collect())
}

/// Writes the messages of a mailbox.
fn mailbox_file(
    account: &Account,
    state: &MailboxState,
    sink: &dyn Sink,
    name: &str,
    lines: &str,
) -> Result<Tally, Trouble> {
    let mut tally = Tally::default();
    let mut text = Vec::new();
    for found in state.messages.iter().flat_map(|messages| messages.iter()) {
        let (_, message) = found?;
        let content = message.content.objectid();
        if !sink.has(&content) {
            match copy_out(account, &message, &content, sink) {
                Err(Trouble::Store(error)) => {
                    let path = &state.settings.path;
                    tally.damaged.push(format!("{name}: UID {} of {path}: {error}", message.uid));
                    continue;
                }
                copied => copied?,
            }
            tally.written += 1;
            tally.octets += u64::from(message.size);
        }
        tally.messages += 1;
        let line = MessageLine {
            uid: message.uid.get(),
            flags: flags(state, &message),
            date: (message.date.unix_seconds(), message.date.zone_minutes()),
            saved: message.saved_unix_seconds,
            content,
            octets: message.size,
        };
        serde_json::to_writer(&mut text, &line)
            .map_err(|error| Trouble::File(PathBuf::from(lines), error.into()))?;
        text.push(b'\n');
    }
    sink.file(lines, &text)?;
    Ok(tally)
}

fn flags(state: &MailboxState, message: &Message) -> Vec<String> {
    let system = SystemFlags::ALL.iter().filter(|(flag, _)| message.flags.contains(*flag));
    let keywords = message.keywords.as_slice().iter();
    let keywords = keywords.filter_map(|number| state.settings.keywords.get(usize::from(*number)));
    system.map(|(_, name)| (*name).to_owned()).chain(keywords.map(|one| one.as_str().to_owned())).collect()
}

/// The octets of a message, checked by their number; a damaged one is not there afterwards.
fn copy_out(account: &Account, message: &Message, content: &str, sink: &dyn Sink) -> Result<(), Trouble> {
    let reader = account.reader(message.content)?;
    let mut fault = None;
    let copied = sink.message(content, &mut |out| {
        let mut at = 0;
        while at < u64::from(message.size) {
            match reader.read(at, PIECE_OCTETS) {
                Ok(piece) if piece.is_empty() => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(piece) => {
                    out.write_all(&piece)?;
                    at += piece.len() as u64;
                }
                Err(error) => {
                    fault = Some(error);
                    return Err(std::io::ErrorKind::InvalidData.into());
                }
            }
        }
        Ok(())
    });
    match fault {
        Some(error) => Err(error.into()),
        None => copied,
    }
}
