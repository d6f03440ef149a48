//! Quota roots, by the names administrators give to the mailboxes they begin at.

use rookery_admin::socket::{Failed, Replies};
use rookery_directory::{AccountFilter, AccountState, PAGE_MAX};
use rookery_store::{Account, Limits, Quota};
use rookery_types::namespace::AdminNames;
use rookery_types::{AccountName, Address};
use serde::Deserialize;
use serde_json::{Value, json};

use super::failed;
use crate::node::{Node, NodeError};

#[derive(Deserialize)]
pub(super) struct Show {
    name: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Set {
    name: String,
    storage: Option<u64>,
    messages: Option<u64>,
    mailboxes: Option<u64>,
}

fn names(node: &Node) -> Result<AdminNames, Failed> {
    AdminNames::new(&node.config.default_domain).map_err(|error| Failed::new("usage", error.to_string()))
}

pub(super) async fn find(node: &Node, name: &str) -> Result<(Account, Address), Failed> {
    let address =
        names(node)?.parse(name).map_err(|error| Failed::new("usage", format!("'{name}': {error}")))?;
    let entry = node.directory.look_up(address.account()).await.map_err(NodeError::from)?;
    node.at_home(&entry)?;
    let account = node.store.account(entry.id).await.map_err(|error| failed(&error))?;
    Ok((account, address))
}

fn row(names: &AdminNames, account: &AccountName, quota: &Quota) -> Result<Value, Failed> {
    let address = Address::new(account.clone(), quota.path.clone())
        .map_err(|error| Failed::new("usage", error.to_string()))?;
    Ok(json!({
        "root": names.show(&address),
        "storage": quota.held.octets,
        "storage_max": quota.limits.octets,
        "messages": quota.held.messages,
        "messages_max": quota.limits.messages,
        "mailboxes": quota.mailboxes,
        "mailboxes_max": quota.limits.mailboxes,
    }))
}

/// All roots, or those that begin at a mailbox or below it; if there are none, the one that it has.
pub(super) async fn show(node: &Node, args: Show, replies: &Replies) -> Result<Value, Failed> {
    let names = names(node)?;
    if let Some(name) = args.name {
        let (account, address) = find(node, &name).await?;
        let all = account.quotas();
        let is_top = *address.path() == *Address::top(address.account().clone()).path();
        let below =
            |quota: &&Quota| is_top || quota.path == *address.path() || quota.path.is_below(address.path());
        let mut found: Vec<Quota> = all.iter().filter(below).cloned().collect();
        if found.is_empty() {
            found.extend(account.quota_of(address.path()));
        }
        for quota in &found {
            if replies.row(row(&names, address.account(), quota)?).await.is_err() {
                break;
            }
        }
        return Ok(Value::Null);
    }
    let mut after = None;
    loop {
        let page = node.directory.list(AccountFilter::default(), after, PAGE_MAX).await;
        let page = page.map_err(NodeError::from)?;
        for entry in page.entries {
            if !matches!(entry.state, AccountState::Active | AccountState::Suspended) {
                continue;
            }
            let Ok(account) = node.store.account(entry.id).await else { continue };
            for quota in account.quotas() {
                if replies.row(row(&names, &entry.name, &quota)?).await.is_err() {
                    return Ok(Value::Null);
                }
            }
        }
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(Value::Null),
        }
    }
}

/// Sets a root's limits; those that are not given are none, and without any it is a root no more.
pub(super) async fn set(node: &Node, args: Set) -> Result<Value, Failed> {
    let (account, address) = find(node, &args.name).await?;
    let limits = Limits { octets: args.storage, messages: args.messages, mailboxes: args.mailboxes };
    account.set_quota(address.path(), limits).await.map_err(|error| failed(&error))?;
    tracing::info!(root = %address, ?limits, "quota set");
    match account.quota_at(address.path()) {
        Some(quota) => row(&names(node)?, address.account(), &quota),
        None => Ok(Value::Null),
    }
}
