//! Accounts.

use rookery_admin::socket::{Failed, Replies};
use rookery_directory::{AccountState, Entry};
use rookery_route::Authority;
use rookery_types::AccountName;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::node::{Node, NodeError};

#[derive(Deserialize)]
pub(super) struct WithPassword {
    name: String,
    password: String,
    #[serde(default)]
    login_only: bool,
    /// Where it is to be at home.
    #[serde(default)]
    node: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Named {
    name: String,
}

pub(super) async fn add(node: &Node, args: WithPassword) -> Result<Value, Failed> {
    let user = node.user(&args.name)?;
    node.add_user(&user, &args.password, args.login_only, args.node.as_deref()).await?;
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

pub(super) async fn suspend(node: &Node, args: Named, suspended: bool) -> Result<Value, Failed> {
    let user = node.user(&args.name)?;
    node.suspend(&user, suspended).await?;
    tracing::info!(%user, suspended, "account suspended or resumed");
    Ok(Value::Null)
}

pub(super) async fn list(node: &Node, replies: &Replies) -> Result<Value, Failed> {
    let mut after = None;
    let nodes = node.directory.nodes().await.map_err(NodeError::from)?;
    let home = |entry: &Entry| {
        let known = nodes.iter().find(|node| node.id == entry.home.node && !node.name.is_empty());
        known.map_or_else(|| entry.home.node.to_string(), |node| node.name.to_string())
    };
    loop {
        let (entries, next) = node.users(after).await?;
        for entry in entries {
            let AccountName::User(user) = &entry.name else { continue };
            let state = match entry.state {
                AccountState::Active => "active",
                AccountState::Suspended => "suspended",
                AccountState::Deleted => "deleted",
                AccountState::LoginOnly => "login only",
                AccountState::Reserved { .. } => continue,
            };
            let admin = match node.administrators.authority(user) {
                Authority::Site => json!(true),
                Authority::Domain => json!("domain"),
                Authority::User => json!(false),
            };
            let mut row = json!({"name": node.shown(user), "state": state, "admin": admin});
            // A server that is alone is no node.
            if nodes.len() > 1 && entry.state != AccountState::LoginOnly {
                row["home"] = home(&entry).into();
            }
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
