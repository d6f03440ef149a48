//! Exporting accounts into folders while the server runs.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rookery_admin::socket::{Failed, Replies};
use rookery_directory::{AccountFilter, AccountState, Entry, PAGE_MAX};
use rookery_store::{Account, MailboxState, Message, StoreError};
use rookery_types::namespace::show_identifier;
use rookery_types::{AccountName, MailboxId, SystemFlags};
use serde::Deserialize;
use serde_json::{Value, json};

use super::failed;
use crate::export::{
    self, AccountFile, AnnotationLine, FORMAT, MailboxFile, MessageLine, folder, make_folder, message_file,
    settle,
};
use crate::node::{Node, NodeError};

/// Octets of a message that are read at once.
const PIECE_OCTETS: usize = 1 << 20;

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
        one(node, &entry, &root, &mut tally, replies).await?;
    } else {
        let mut after = None;
        loop {
            let page = node.directory.list(AccountFilter::default(), after, PAGE_MAX).await;
            let page = page.map_err(NodeError::from)?;
            for entry in &page.entries {
                // What is at home at other nodes is exported there.
                let here = entry.home.node == node.store.node();
                if here && matches!(entry.state, AccountState::Active | AccountState::Suspended) {
                    one(node, entry, &root, &mut tally, replies).await?;
                }
            }
            match page.next {
                Some(name) => after = Some(name),
                None => break,
            }
        }
    }
    Ok(json!({
        "accounts": tally.accounts,
        "messages": tally.messages,
        "written": tally.written,
        "octets": tally.octets,
        "damaged": tally.damaged,
    }))
}

async fn one(
    node: &Node,
    entry: &Entry,
    root: &Path,
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
    let place = folder(root, &name);
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
    let made = place.clone();
    blocking(move || make_folder(&made).map_err(|error| Trouble::File(made, error))).await?;
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
        let (reader, place) = (account.clone(), place.clone());
        let counts = blocking(move || mailbox_file(&reader, &state, &place, &lines)).await?;
        tally.messages += counts.messages;
        tally.written += counts.written;
        tally.octets += counts.octets;
        tally.damaged.extend(counts.damaged);
        replies.progress(tally.messages, None, format!("{name} {path}")).await.map_err(gone)?;
    }
    let trouble = |file: &Path| {
        let file = file.to_owned();
        move |error| Trouble::File(file, error)
    };
    blocking(move || {
        let whole = place.join("account.json");
        settle(&place).map_err(trouble(&place))?;
        export::write(&whole, |out| Ok(serde_json::to_writer_pretty(out, &file)?))
            .map_err(trouble(&whole))?;
        settle(&place).map_err(trouble(&place))
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
    place: &Path,
    lines: &str,
) -> Result<Tally, Trouble> {
    let mut tally = Tally::default();
    let mut text = Vec::new();
    let mut folders = std::collections::BTreeSet::new();
    for found in state.messages.iter().flat_map(|messages| messages.iter()) {
        let (_, message) = found?;
        let content = message.content.objectid();
        let Some(file) = message_file(place, &content) else { continue };
        if !file.exists() {
            let folder = file.parent().unwrap_or(place).to_owned();
            if folders.insert(folder.clone()) {
                make_folder(&folder).map_err(|error| Trouble::File(folder, error))?;
            }
            match copy_out(account, &message, &file) {
                Err(Trouble::Store(error)) => {
                    let path = &state.settings.path;
                    tally.damaged.push(format!(
                        "{}: UID {} of {path}: {error}",
                        place.display(),
                        message.uid
                    ));
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
            .map_err(|error| Trouble::File(place.join(lines), error.into()))?;
        text.push(b'\n');
    }
    for folder in folders {
        settle(&folder).map_err(|error| Trouble::File(folder, error))?;
    }
    let file = place.join(lines);
    export::write(&file, |out| out.write_all(&text)).map_err(|error| Trouble::File(file, error))?;
    Ok(tally)
}

fn flags(state: &MailboxState, message: &Message) -> Vec<String> {
    let system = SystemFlags::ALL.iter().filter(|(flag, _)| message.flags.contains(*flag));
    let keywords = message.keywords.as_slice().iter();
    let keywords = keywords.filter_map(|number| state.settings.keywords.get(usize::from(*number)));
    system.map(|(_, name)| (*name).to_owned()).chain(keywords.map(|one| one.as_str().to_owned())).collect()
}

/// The octets of a message, checked by their number; a damaged one ends the export with its name.
fn copy_out(account: &Account, message: &Message, file: &Path) -> Result<(), Trouble> {
    let reader = account.reader(message.content)?;
    let mut fault = None;
    let copied = export::write(file, |out| {
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
    match (copied, fault) {
        (_, Some(error)) => Err(error.into()),
        (Err(error), None) => Err(Trouble::File(file.to_owned(), error)),
        (Ok(()), None) => Ok(()),
    }
}
