//! Restoring exported accounts, onto an empty machine or beside accounts that are there.
//!
//! Invariants:
//! - An account that exists is left alone and told, unless its home is a node that was removed from the cluster: then
//!   what is restored takes its place when all of it is there, and until then the account is away, never empty.
//! - One whose restoring fails is deleted again, so that it can be restored anew.
//! - A node that takes no accounts (`hold`) takes none that come back either, whether their homes are lost or not.
//! - UIDVALIDITY and UIDs are what they were; modseqs go on far beyond.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rookery_admin::socket::{Failed, Replies};
use rookery_directory::{AccountState, DirectoryError, Verifier};
use rookery_route::RegistrarError;
use rookery_store::{
    Account, Annotation, AnnotationName, FlagChange, FlagList, Limits, NewMessage, RestoredMailbox,
    RestoredMessage, Store,
};
use rookery_types::acl::Acl;
use rookery_types::namespace::parse_identifier;
use rookery_types::{
    AccountName, Flag, InternalDate, MailboxId, MailboxPath, Rights, SpecialUse, SystemFlags, Uid, UidSet,
    UidValidity, UserName,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::failed;
use crate::export::{AccountFile, AnnotationLine, FORMAT, MailboxFile, MessageLine, message_file};
use crate::node::{Node, NodeError};

/// Messages stored at once, and octets after which a batch is full.
const BATCH_MESSAGES: usize = 256;
const BATCH_OCTETS: u64 = 4 << 20;

#[derive(Deserialize)]
pub(super) struct Args {
    path: PathBuf,
    /// Only this user's account.
    user: Option<String>,
}

fn broken(place: &Path, what: impl std::fmt::Display) -> Failed {
    Failed::new("failed", format!("{}: {what}", place.display()))
}

/// Restores every account below a folder, or one, into this node's store. `here`: its name, if it is one of several.
pub(super) async fn restore(
    node: &Node,
    here: Option<&str>,
    args: Args,
    replies: &Replies,
) -> Result<Value, Failed> {
    node.registrar.takes_here().await.map_err(NodeError::from)?;
    let only: Option<UserName> = args.user.as_deref().map(|user| node.user(user)).transpose()?;
    let read = std::fs::read_dir(&args.path).map_err(|error| broken(&args.path, error))?;
    let mut places: Vec<PathBuf> = read.filter_map(|entry| Some(entry.ok()?.path())).collect();
    places.retain(|place| place.join("account.json").exists());
    places.sort();
    let (mut accounts, mut messages, mut left) = (0_u64, 0_u64, Vec::new());
    for place in places {
        let text = std::fs::read(place.join("account.json")).map_err(|error| broken(&place, error))?;
        let file: AccountFile = serde_json::from_slice(&text).map_err(|error| broken(&place, error))?;
        let name = AccountName::parse(&file.name).map_err(|error| broken(&place, error))?;
        if only.as_ref().is_some_and(|only| name.user() != Some(only)) {
            continue;
        }
        match one((node, here), &place, file, &name, messages, replies).await {
            Ok(count) => {
                accounts += 1;
                messages += count;
            }
            Err(error) if error.code == "interrupted" => return Err(error),
            Err(error) => left.push(format!("{name}: {}", error.text)),
        }
    }
    Ok(json!({"accounts": accounts, "messages": messages, "left": left}))
}

/// Whether an account is there whose home is lost for good.
async fn is_lost(node: &Node, name: &AccountName) -> Result<bool, Failed> {
    let entry = match node.directory.look_up(name).await {
        Ok(entry) => entry,
        Err(DirectoryError::NotFound(_)) => return Ok(false),
        Err(error) => return Err(NodeError::from(error).into()),
    };
    let removed = node.directory.removed_nodes().await.map_err(NodeError::from)?;
    let stands = matches!(entry.state, AccountState::Active | AccountState::Suspended);
    Ok(stands && removed.iter().any(|node| node.id == entry.home.node))
}

/// A name that nobody uses, for what is being restored.
fn draft_name(name: &AccountName) -> Result<AccountName, Failed> {
    let number: u64 = rand::random();
    let (domain, text) = (name.domain(), format!("restoring-{number:016x}"));
    let text =
        if name.user().is_some() { format!("user/{text}@{domain}") } else { format!("{text}@{domain}") };
    AccountName::parse(&text).map_err(|error| Failed::new("failed", error.to_string()))
}

async fn one(
    (node, here): (&Node, Option<&str>),
    place: &Path,
    file: AccountFile,
    name: &AccountName,
    before: u64,
    replies: &Replies,
) -> Result<u64, Failed> {
    if file.format != FORMAT {
        return Err(broken(
            place,
            format!("it has the form {}, which this program does not know", file.format),
        ));
    }
    let verifier = file.verifier.as_deref().map(Verifier::new).transpose().map_err(NodeError::from)?;
    let is_lost = is_lost(node, name).await?;
    let made = if is_lost { draft_name(name)? } else { name.clone() };
    let id = node.registrar.create_at(&made, verifier, here).await.map_err(NodeError::from)?;
    let account = node.store.account(id).await.map_err(|error| failed(&error))?;
    let mut filled = fill(node, &account, place, &file, name, before, replies).await;
    if is_lost && filled.is_ok() {
        let taken = node.directory.take_over(id, name.clone()).await;
        match taken {
            Ok(()) => {
                tracing::info!(%name, "an account whose home was lost is restored here");
                node.registrar.settle(&account, name).await.map_err(|error| failed(&error))?;
                if let Some(user) = name.user() {
                    node.authenticator.forget(user);
                }
                return filled;
            }
            Err(error) => filled = Err(NodeError::from(error).into()),
        }
    }
    match filled {
        Ok(count) => {
            if file.suspended {
                let set = node.directory.set_state(id, AccountState::Suspended).await;
                set.map_err(NodeError::from)?;
            }
            Ok(count)
        }
        Err(error) => {
            match node.registrar.delete(&made).await {
                Ok(()) | Err(RegistrarError::NotFound(_)) => {}
                Err(error) => tracing::error!(%error, name = %made, "an account that is half restored stays"),
            }
            Err(error)
        }
    }
}

async fn fill(
    node: &Node,
    account: &Account,
    place: &Path,
    file: &AccountFile,
    name: &AccountName,
    before: u64,
    replies: &Replies,
) -> Result<u64, Failed> {
    let store = |error: rookery_store::StoreError| failed(&error);
    account.restore_from(file.modseq).await.map_err(store)?;
    let mut count = 0;
    let mut kept = Vec::new();
    for was in &file.mailboxes {
        let mailbox = mailbox_as_it_was(place, was)?;
        let path = mailbox.path.clone();
        let id = account.restore_mailbox(mailbox).await.map_err(store)?;
        kept.push(id);
        let gone = |_| Failed::new("interrupted", "the restore was interrupted; the account was taken back");
        let mut lines = Lines::open(place, was)?;
        loop {
            let (again, reader) = (node.store.clone(), lines);
            let read = tokio::task::spawn_blocking(move || reader.batch(&again)).await;
            let (rest, batch) = read.map_err(|error| Failed::new("failed", error.to_string()))??;
            lines = rest;
            if batch.is_empty() {
                break;
            }
            count += batch.len() as u64;
            account.restore_messages(id, batch).await.map_err(store)?;
            replies.progress(before + count, None, format!("{name} {path}")).await.map_err(gone)?;
        }
        account.restored_mailbox(id, was.uid_next).await.map_err(store)?;
        annotate(account, Some(id), &was.annotations, name).await?;
        see(account, id, place, &was.seen).await?;
    }
    annotate(account, None, &file.annotations, name).await?;
    // What a new account has and this one had not.
    let tree = account.tree();
    for (path, state) in tree.iter() {
        if !kept.contains(&state.id) && !path.is_inbox() && !path.is_root() {
            account.delete(state.id).await.map_err(store)?;
        }
    }
    for old in tree.subscriptions().keys().filter(|old| !file.subscriptions.contains(*old)) {
        account.unsubscribe(old).await.map_err(store)?;
    }
    for new in file.subscriptions.iter().filter(|new| !tree.subscriptions().contains_key(*new)) {
        account.subscribe(new, None).await.map_err(store)?;
    }
    // Last, since the account may hold more than it may get.
    for was in &file.mailboxes {
        if let Some([octets, messages, mailboxes]) = was.quota {
            let limits = Limits { octets, messages, mailboxes };
            account.set_quota(&path_of(place, was)?, limits).await.map_err(store)?;
        }
    }
    Ok(count)
}

fn path_of(place: &Path, was: &MailboxFile) -> Result<MailboxPath, Failed> {
    match was.path.as_str() {
        "" => Ok(MailboxPath::root()),
        text => MailboxPath::new(text).map_err(|error| broken(place, format!("{text}: {error}"))),
    }
}

fn mailbox_as_it_was(place: &Path, was: &MailboxFile) -> Result<RestoredMailbox, Failed> {
    let mut acl = Acl::new();
    for (who, rights) in &was.acl {
        let (identifier, negative) =
            parse_identifier(who, "").map_err(|error| broken(place, format!("{who}: {error}")))?;
        let rights =
            Rights::parse(rights).map_err(|letter| broken(place, format!("the right '{letter}'")))?;
        acl.set(identifier, negative, rights);
    }
    let uid_validity = UidValidity::new(was.uid_validity);
    Ok(RestoredMailbox {
        path: path_of(place, was)?,
        uid_validity: uid_validity.ok_or_else(|| broken(place, "a UIDVALIDITY of 0"))?,
        special_use: was.special_use.iter().filter_map(|word| SpecialUse::parse(word)).collect(),
        acl,
    })
}

async fn annotate(
    account: &Account,
    of: Option<MailboxId>,
    lines: &[AnnotationLine],
    name: &AccountName,
) -> Result<(), Failed> {
    let mut changes = Vec::new();
    for line in lines {
        let owner = if line.private { name.user().cloned() } else { None };
        let value = STANDARD.decode(&line.value).map_err(|error| Failed::new("failed", error.to_string()))?;
        let name = AnnotationName { owner, entry: line.entry.as_str().into() };
        changes.push(Annotation { name, value: Some(value.into()) });
    }
    if changes.is_empty() {
        return Ok(());
    }
    account.annotate(of, &changes, None).await.map_err(|error| failed(&error))
}

/// Gives users back what they had seen.
async fn see(
    account: &Account,
    id: MailboxId,
    place: &Path,
    seen: &[(String, Vec<(u32, u32)>)],
) -> Result<(), Failed> {
    for (user, ranges) in seen {
        let user = UserName::parse(user, "").map_err(|error| broken(place, format!("{user}: {error}")))?;
        let mut uids = UidSet::new();
        ranges.iter().for_each(|(first, last)| uids.insert_range(*first, *last));
        let mailbox = account.clone().seen_by(&user).open(id).await.map_err(|error| failed(&error))?;
        let list = FlagList { flags: SystemFlags::SEEN, keywords: Vec::new() };
        let stored = mailbox.store_flags(&uids, FlagChange::Add(list), None).await;
        stored.map_err(|error| failed(&error))?;
    }
    Ok(())
}

/// The messages of one mailbox, read batch by batch.
struct Lines {
    place: PathBuf,
    lines: std::io::Lines<std::io::BufReader<std::fs::File>>,
}

impl Lines {
    fn open(place: &Path, was: &MailboxFile) -> Result<Lines, Failed> {
        // The name is part of a file's: no way out of the folder.
        if was.messages.contains(['/', '\0']) {
            return Err(broken(place, "the file of a mailbox is elsewhere"));
        }
        let file = place.join(&was.messages);
        let open = std::fs::File::open(&file).map_err(|error| broken(&file, error))?;
        Ok(Lines { place: place.to_owned(), lines: std::io::BufReader::new(open).lines() })
    }

    fn batch(mut self, store: &Store) -> Result<(Lines, Vec<RestoredMessage>), Failed> {
        let (mut batch, mut octets) = (Vec::new(), 0);
        while batch.len() < BATCH_MESSAGES && octets < BATCH_OCTETS {
            let Some(line) = self.lines.next() else { break };
            let line = line.map_err(|error| broken(&self.place, error))?;
            let line: MessageLine =
                serde_json::from_str(&line).map_err(|error| broken(&self.place, error))?;
            octets += u64::from(line.octets);
            batch.push(message(store, &self.place, line)?);
        }
        Ok((self, batch))
    }
}

fn message(store: &Store, place: &Path, line: MessageLine) -> Result<RestoredMessage, Failed> {
    let file = message_file(place, &line.content).ok_or_else(|| broken(place, "a message without a name"))?;
    let mut spool = store.spool();
    let mut open = std::fs::File::open(&file).map_err(|error| broken(&file, error))?;
    let mut piece = vec![0; 256 * 1024];
    loop {
        let read = std::io::Read::read(&mut open, &mut piece).map_err(|error| broken(&file, error))?;
        if read == 0 {
            break;
        }
        spool.push(piece.get(..read).unwrap_or_default()).map_err(|error| failed(&error))?;
    }
    if spool.size() != u64::from(line.octets) {
        return Err(broken(&file, format!("it has {} octets, not {}", spool.size(), line.octets)));
    }
    let (mut flags, mut keywords) = (SystemFlags::NONE, Vec::new());
    for flag in line.flags.iter().filter_map(|flag| Flag::parse(flag)) {
        match flag {
            Flag::System(flag) => flags = flags.union(flag),
            Flag::Keyword(keyword) => keywords.push(keyword),
        }
    }
    let date = InternalDate::new(line.date.0, line.date.1);
    Ok(RestoredMessage {
        uid: Uid::new(line.uid).ok_or_else(|| broken(place, "a UID of 0"))?,
        saved_unix_seconds: line.saved,
        message: NewMessage {
            body: spool.finish().map_err(|error| failed(&error))?,
            flags,
            keywords,
            date: date.ok_or_else(|| broken(place, "a date that is none"))?,
        },
    })
}
