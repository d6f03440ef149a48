//! Accounts.

use rookery_admin::socket::{Failed, Replies};
use rookery_directory::AccountState;
use rookery_types::AccountName;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::node::Node;

#[derive(Deserialize)]
pub(super) struct WithPassword {
    name: String,
    password: String,
}

#[derive(Deserialize)]
pub(super) struct Named {
    name: String,
}

pub(super) async fn add(node: &Node, args: WithPassword) -> Result<Value, Failed> {
    let user = node.user(&args.name)?;
    node.add_user(&user, &args.password).await?;
    tracing::info!(%user, "account added");
    Ok(json!({"name": node.shown(&user)}))
}

pub(super) async fn passwd(node: &Node, args: WithPassword) -> Result<Value, Failed> {
    let user = node.user(&args.name)?;
    node.set_password(&user, &args.password).await?;
    tracing::info!(%user, "password changed");
    Ok(Value::Null)
}

pub(super) async fn delete(node: &Node, args: Named) -> Result<Value, Failed> {
    let user = node.user(&args.name)?;
    node.delete_user(&user).await?;
    tracing::info!(%user, "account deleted");
    Ok(Value::Null)
}

pub(super) async fn list(node: &Node, replies: &Replies) -> Result<Value, Failed> {
    let mut after = None;
    loop {
        let (entries, next) = node.users(after).await?;
        for entry in entries {
            let AccountName::User(user) = &entry.name else { continue };
            let state = match entry.state {
                AccountState::Active => "active",
                AccountState::Suspended => "suspended",
                AccountState::Deleted => "deleted",
                AccountState::Reserved { .. } => continue,
            };
            let is_admin = node.config.admins().contains(user);
            let mut row = json!({"name": node.shown(user), "state": state, "admin": is_admin});
            if let Ok(account) = node.store.account(entry.id).await {
                let usage = account.usage();
                row["mailboxes"] = account.tree().iter().count().into();
                row["messages"] = usage.messages.into();
                row["octets"] = usage.octets.into();
            }
            if replies.row(row).await.is_err() {
                return Ok(Value::Null);
            }
        }
        match next {
            Some(name) => after = Some(name),
            None => return Ok(Value::Null),
        }
    }
}
