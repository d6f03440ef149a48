//! Bringing back what was deleted, while the retention keeps it.

use rookery_admin::socket::{Failed, Replies};
use rookery_store::{DeletedMailbox, Expunged};
use rookery_types::{AccountName, MailboxPath, UserName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::failed;
use crate::node::Node;

#[derive(Deserialize)]
pub(super) struct Of {
    user: String,
}

#[derive(Deserialize)]
pub(super) struct Messages {
    user: String,
    mailbox: String,
    /// Only what was expunged within so many seconds.
    within_s: Option<u64>,
}

#[derive(Deserialize)]
pub(super) struct Mailbox {
    user: String,
    name: String,
    /// Its name from now on.
    into: Option<String>,
}

fn path(name: &str) -> Result<MailboxPath, Failed> {
    MailboxPath::new(name).map_err(|error| Failed::new("usage", format!("'{name}': {error}")))
}

fn now() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, rookery_store::StoreError> + Send + 'static,
) -> Result<T, Failed> {
    let done =
        tokio::task::spawn_blocking(work).await.map_err(|error| Failed::new("failed", error.to_string()))?;
    done.map_err(|error| failed(&error))
}

/// Deleted accounts, each a row.
pub(super) async fn users(node: &Node, replies: &Replies) -> Result<Value, Failed> {
    let store = node.store.clone();
    for account in blocking(move || store.deleted_accounts()).await? {
        let name = account.owner.as_ref().map_or("(shared mailboxes)".to_owned(), |user| node.shown(user));
        let row = json!({
            "name": name,
            "account": account.id.to_string(),
            "deleted_unix_s": account.unix_seconds,
            "messages": account.messages,
            "octets": account.octets,
        });
        if replies.row(row).await.is_err() {
            break;
        }
    }
    Ok(Value::Null)
}

/// What of a user's account was deleted: mailboxes, and messages counted by mailbox, each a row.
pub(super) async fn list(node: &Node, args: Of, replies: &Replies) -> Result<Value, Failed> {
    let account = node.account(&node.user(&args.user)?).await?;
    let reader = account.clone();
    let (mailboxes, messages) =
        blocking(move || Ok((reader.deleted_mailboxes()?, reader.expunged(None)?))).await?;
    let tree = account.tree();
    let mut rows: Vec<Value> = mailboxes
        .iter()
        .map(|gone| {
            json!({
                "what": "mailbox",
                "mailbox": gone.path.as_str(),
                "messages": gone.messages,
                "octets": gone.octets,
                "last_unix_s": gone.unix_seconds,
            })
        })
        .collect();
    let mut counted: std::collections::BTreeMap<_, (u64, u64, u32)> = Default::default();
    for one in &messages {
        let (count, octets, last) = counted.entry(one.mailbox).or_default();
        *count += 1;
        *octets += u64::from(one.message.size);
        *last = (*last).max(one.unix_seconds);
    }
    for (id, (count, octets, last)) in counted {
        let Some(state) = tree.state(id) else { continue };
        rows.push(json!({
            "what": "messages",
            "mailbox": state.settings.path.as_str(),
            "messages": count,
            "octets": octets,
            "last_unix_s": last,
        }));
    }
    for row in rows {
        if replies.row(row).await.is_err() {
            break;
        }
    }
    Ok(Value::Null)
}

/// Brings expunged messages of a mailbox back into it.
pub(super) async fn messages(node: &Node, args: Messages) -> Result<Value, Failed> {
    let account = node.account(&node.user(&args.user)?).await?;
    let path = path(&args.mailbox)?;
    let id = account.tree().get(&path);
    let id = id.ok_or_else(|| Failed::new("not-found", format!("the mailbox {path} does not exist")))?;
    let reader = account.clone();
    let mut gone = blocking(move || reader.expunged(Some(id))).await?;
    if let Some(within) = args.within_s {
        let since = now().saturating_sub(within);
        gone.retain(|one: &Expunged| u64::from(one.unix_seconds) >= since);
    }
    let back = account.undelete_messages(id, &gone).await.map_err(|error| failed(&error))?;
    let count: u64 = back.ranges().map(|(first, last)| u64::from(last - first) + 1).sum();
    Ok(json!({"messages": count}))
}

/// Brings a deleted mailbox back; of several of one name the one deleted last.
pub(super) async fn mailbox(node: &Node, args: Mailbox) -> Result<Value, Failed> {
    let account = node.account(&node.user(&args.user)?).await?;
    let name = path(&args.name)?;
    let into = args.into.as_deref().map_or(Ok(name.clone()), path)?;
    let deleted = account.deleted_mailboxes().map_err(|error| failed(&error))?;
    let of_that_name = deleted.into_iter().filter(|gone: &DeletedMailbox| gone.path == name);
    let gone = of_that_name.max_by_key(|gone| gone.unix_seconds);
    let gone =
        gone.ok_or_else(|| Failed::new("not-found", format!("no deleted mailbox was named {name}")))?;
    account.undelete_mailbox(gone.id, &into).await.map_err(|error| failed(&error))?;
    Ok(json!({"mailbox": into.as_str(), "messages": gone.messages}))
}

/// Brings a deleted account back; of several of one name the one deleted last. Its password has to be set.
pub(super) async fn user(node: &Node, args: Of) -> Result<Value, Failed> {
    let user: UserName = node.user(&args.user)?;
    let store = node.store.clone();
    let deleted = blocking(move || store.deleted_accounts()).await?;
    let theirs = deleted.into_iter().filter(|gone| gone.owner.as_ref() == Some(&user));
    let gone = theirs.max_by_key(|gone| gone.unix_seconds).ok_or_else(|| {
        Failed::new("not-found", format!("no deleted account was that of {}", node.shown(&user)))
    })?;
    node.registrar
        .bring_back(gone.id, &AccountName::User(user.clone()))
        .await
        .map_err(crate::node::NodeError::from)?;
    Ok(json!({"name": node.shown(&user), "messages": gone.messages}))
}
