//! Mailboxes of one account, by the names their owner sees.

use rookery_admin::socket::{Failed, Replies};
use rookery_store::{Account, MailboxState, StoreError, Tree};
use rookery_types::{AccountName, Address, MailboxId, MailboxPath, SpecialUse, UserName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::failed;
use crate::node::Node;

#[derive(Deserialize)]
pub(super) struct OfUser {
    user: String,
}

#[derive(Deserialize)]
pub(super) struct OneMailbox {
    user: String,
    name: String,
    #[serde(default)]
    special_use: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Rename {
    user: String,
    from: String,
    to: String,
}

fn path(name: &str) -> Result<MailboxPath, Failed> {
    MailboxPath::new(name).map_err(|error| Failed::new("usage", format!("'{name}': {error}")))
}

fn find(tree: &Tree, path: &MailboxPath) -> Result<MailboxId, Failed> {
    tree.get(path).ok_or_else(|| Failed::new("not-found", format!("there is no mailbox {path}")))
}

fn told(error: StoreError, name: &str) -> Failed {
    let mut told = failed(&error);
    told.text = format!("{name}: {}", told.text);
    told
}

/// How subscriptions name it.
pub(super) fn canonical(user: &UserName, path: &MailboxPath) -> Result<String, Failed> {
    Address::new(AccountName::User(user.clone()), path.clone())
        .map(|address| address.to_string())
        .map_err(|error| Failed::new("usage", error.to_string()))
}

/// Makes a mailbox and subscribes its owner to it.
pub(super) async fn make(
    account: &Account,
    user: &UserName,
    path: &MailboxPath,
    special_use: Vec<SpecialUse>,
) -> Result<MailboxId, Failed> {
    // A name that no client could see is refused as a client's CREATE would be.
    let address = Address::new(AccountName::User(user.clone()), path.clone())
        .map_err(|error| Failed::new("usage", error.to_string()))?;
    address.check_new().map_err(|error| Failed::new("usage", error.to_string()))?;
    let id = account.create(path, special_use).await.map_err(|error| told(error, path.as_str()))?;
    account.subscribe(&address.to_string(), Some(id)).await.map_err(|error| failed(&error))?;
    Ok(id)
}

pub(super) async fn list(node: &Node, args: OfUser, replies: &Replies) -> Result<Value, Failed> {
    let user = node.user(&args.user)?;
    let tree = node.account(&user).await?.tree();
    for (path, state) in tree.iter() {
        let subscribed = tree.subscriptions().contains_key(&canonical(&user, path)?);
        let uses: Vec<&str> = state.settings.special_use.iter().map(|one| one.attribute()).collect();
        let row = json!({
            "name": path.as_str(),
            "messages": state.summary.exists,
            "unseen": state.summary.unseen,
            "octets": state.summary.octets,
            "subscribed": subscribed,
            "special_use": uses,
        });
        if replies.row(row).await.is_err() {
            break;
        }
    }
    Ok(Value::Null)
}

pub(super) async fn create(node: &Node, args: OneMailbox) -> Result<Value, Failed> {
    let user = node.user(&args.user)?;
    let path = path(&args.name)?;
    let uses = match &args.special_use {
        None => Vec::new(),
        Some(word) => {
            let attribute = format!("\\{}", word.trim_start_matches('\\'));
            let found = SpecialUse::parse(&attribute);
            vec![found.ok_or_else(|| Failed::new("usage", format!("'{word}' is no special use")))?]
        }
    };
    let account = node.account(&user).await?;
    make(&account, &user, &path, uses).await?;
    tracing::info!(%user, mailbox = %path, "mailbox created");
    Ok(Value::Null)
}

pub(super) async fn delete(node: &Node, args: OneMailbox) -> Result<Value, Failed> {
    let user = node.user(&args.user)?;
    let path = path(&args.name)?;
    let account = node.account(&user).await?;
    let id = find(&account.tree(), &path)?;
    account.delete(id).await.map_err(|error| told(error, path.as_str()))?;
    let _ = account.unsubscribe(&canonical(&user, &path)?).await;
    tracing::info!(%user, mailbox = %path, "mailbox deleted");
    Ok(Value::Null)
}

pub(super) async fn rename(node: &Node, args: Rename) -> Result<Value, Failed> {
    let user = node.user(&args.user)?;
    let (from, to) = (path(&args.from)?, path(&args.to)?);
    let address = Address::new(AccountName::User(user.clone()), to.clone())
        .map_err(|error| Failed::new("usage", error.to_string()))?;
    address.check_new().map_err(|error| Failed::new("usage", error.to_string()))?;
    let account = node.account(&user).await?;
    account.rename(&from, &to).await.map_err(|error| told(error, from.as_str()))?;
    tracing::info!(%user, mailbox = %from, %to, "mailbox renamed");
    Ok(Value::Null)
}

pub(super) async fn info(node: &Node, args: OneMailbox) -> Result<Value, Failed> {
    let user = node.user(&args.user)?;
    let path = path(&args.name)?;
    let tree = node.account(&user).await?.tree();
    let state = tree.state(find(&tree, &path)?).ok_or_else(|| failed(&StoreError::NoMailbox))?;
    let MailboxState { id, settings, summary, .. } = &*state;
    let acl: Vec<String> = settings
        .acl
        .entries()
        .iter()
        .map(|entry| {
            let domain = &node.config.default_domain;
            let who = rookery_types::namespace::show_identifier(&entry.identifier, entry.negative, domain);
            format!("{who} {}", entry.rights)
        })
        .collect();
    Ok(json!({
        "name": settings.path.as_str(),
        "mailboxid": id.objectid(),
        "uidvalidity": settings.uid_validity.get(),
        "uidnext": summary.uid_next,
        "highestmodseq": summary.highest_modseq.get(),
        "messages": summary.exists,
        "unseen": summary.unseen,
        "deleted": summary.deleted,
        "octets": summary.octets,
        "keywords": settings.keywords.iter().map(|keyword| keyword.as_str()).collect::<Vec<_>>(),
        "special_use": settings.special_use.iter().map(|one| one.attribute()).collect::<Vec<_>>(),
        "acl": acl,
    }))
}
