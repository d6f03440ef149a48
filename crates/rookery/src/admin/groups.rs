//! Domains, and their groups of users.

use rookery_admin::socket::{Failed, Replies};
use rookery_directory::PAGE_MAX;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::node::{Node, NodeError};

#[derive(Deserialize)]
pub(super) struct Named {
    name: String,
}

#[derive(Deserialize)]
pub(super) struct OfDomain {
    domain: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Membership {
    name: String,
    user: String,
    is_member: bool,
}

/// A group's name and its domain, from `staff` or `staff@example.org`.
fn split(node: &Node, name: &str) -> (String, String) {
    match name.rsplit_once('@') {
        Some((group, domain)) => (group.to_owned(), domain.to_lowercase()),
        None => (name.to_owned(), node.config.default_domain.to_lowercase()),
    }
}

pub(super) async fn domains(node: &Node, replies: &Replies) -> Result<Value, Failed> {
    let default = node.config.default_domain.to_lowercase();
    let mut after = None;
    loop {
        let page = node.directory.domains(after, PAGE_MAX).await.map_err(NodeError::from)?;
        let Some(last) = page.last() else { return Ok(Value::Null) };
        after = Some(last.name.to_string());
        for domain in &page {
            let row = json!({"domain": &*domain.name, "default": *domain.name == *default});
            if replies.row(row).await.is_err() {
                return Ok(Value::Null);
            }
        }
    }
}

pub(super) async fn add_domain(node: &Node, args: Named) -> Result<Value, Failed> {
    node.directory.add_domain(args.name).await.map_err(NodeError::from)?;
    Ok(Value::Null)
}

pub(super) async fn delete_domain(node: &Node, args: Named) -> Result<Value, Failed> {
    node.directory.remove_domain(args.name).await.map_err(NodeError::from)?;
    Ok(Value::Null)
}

pub(super) async fn list(node: &Node, args: OfDomain, replies: &Replies) -> Result<Value, Failed> {
    let domain = args.domain.unwrap_or_else(|| node.config.default_domain.clone()).to_lowercase();
    let mut after = None;
    loop {
        let page = node.directory.groups(domain.clone(), after, PAGE_MAX).await.map_err(NodeError::from)?;
        let Some(last) = page.last() else { return Ok(Value::Null) };
        after = Some(last.name.to_string());
        for group in &page {
            let row = json!({"group": &*group.name, "domain": &*group.domain, "members": group.members});
            if replies.row(row).await.is_err() {
                return Ok(Value::Null);
            }
        }
    }
}

pub(super) async fn add(node: &Node, args: Named) -> Result<Value, Failed> {
    let (group, domain) = split(node, &args.name);
    node.directory.add_group(domain, group).await.map_err(NodeError::from)?;
    Ok(Value::Null)
}

pub(super) async fn delete(node: &Node, args: Named) -> Result<Value, Failed> {
    let (group, domain) = split(node, &args.name);
    node.directory.remove_group(domain, group).await.map_err(NodeError::from)?;
    Ok(Value::Null)
}

pub(super) async fn members(node: &Node, args: Named, replies: &Replies) -> Result<Value, Failed> {
    let (group, domain) = split(node, &args.name);
    let mut after = None;
    loop {
        let page = node.directory.members(domain.clone(), group.clone(), after, PAGE_MAX).await;
        let page = page.map_err(NodeError::from)?;
        let Some(last) = page.last() else { return Ok(Value::Null) };
        after = Some(last.clone());
        for user in &page {
            if replies.row(json!({"user": node.shown(user)})).await.is_err() {
                return Ok(Value::Null);
            }
        }
    }
}

pub(super) async fn set_member(node: &Node, args: Membership) -> Result<Value, Failed> {
    let (group, domain) = split(node, &args.name);
    // A bare user is of the group's domain, and a group has users of its own domain only.
    let user = rookery_types::UserName::parse(&args.user, &domain).map_err(NodeError::from)?;
    if user.domain() != domain {
        return Err(Failed::new("usage", "a group has users of its own domain only"));
    }
    if args.is_member {
        // A slip of the pen is no member.
        node.entry(&user).await?;
    }
    node.directory.set_member(group, user, args.is_member).await.map_err(NodeError::from)?;
    Ok(Value::Null)
}
