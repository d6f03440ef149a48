//! Aliases.

use rookery_admin::socket::{Failed, Replies};
use rookery_directory::{Alias, PAGE_MAX};
use rookery_types::UserName;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::node::{Node, NodeError};

#[derive(Deserialize)]
pub(super) struct Add {
    name: String,
    targets: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct Named {
    name: String,
}

#[derive(Deserialize)]
pub(super) struct OfDomain {
    domain: Option<String>,
}

/// Aliases are always written whole: a bare `sales` would be one in one domain only.
fn row(alias: &Alias) -> Value {
    let targets: Vec<&str> = alias.targets.iter().map(UserName::as_str).collect();
    json!({"name": alias.name.to_string(), "targets": targets})
}

pub(super) async fn add(node: &Node, args: Add) -> Result<Value, Failed> {
    let alias = node.set_alias(&args.name, &args.targets).await?;
    tracing::info!(alias = %alias.name, targets = alias.targets.len(), "alias set");
    let targets: Vec<&str> = alias.targets.iter().map(UserName::as_str).collect();
    Ok(json!({"name": alias.name.to_string(), "targets": targets.join(", ")}))
}

pub(super) async fn delete(node: &Node, args: Named) -> Result<Value, Failed> {
    node.remove_alias(&args.name).await?;
    tracing::info!(alias = args.name, "alias deleted");
    Ok(Value::Null)
}

pub(super) async fn list(node: &Node, args: OfDomain, replies: &Replies) -> Result<Value, Failed> {
    let domain = args.domain.map(|domain| domain.to_lowercase());
    let mut after = None;
    loop {
        let page = node.directory.aliases(domain.clone(), after, PAGE_MAX).await.map_err(NodeError::from)?;
        let Some(last) = page.last() else { return Ok(Value::Null) };
        after = Some(last.name.clone());
        for alias in &page {
            if replies.row(row(alias)).await.is_err() {
                return Ok(Value::Null);
            }
        }
    }
}
