//! Where new accounts of domains are placed.

use rookery_admin::socket::{Failed, Replies};
use rookery_directory::Placement;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::node::{Node, NodeError};

/// What stands for all domains that have no placement of their own.
const OTHERS: &str = "*";
/// What a word begins with that is a tag.
const TAG: &str = "tag:";

#[derive(Deserialize)]
pub(super) struct Set {
    domain: String,
    /// Names of nodes, or `tag:` and a tag; none: the placement is forgotten.
    #[serde(default)]
    to: Vec<String>,
}

pub(super) async fn list(node: &Node, replies: &Replies) -> Result<Value, Failed> {
    for (domain, placement) in node.directory.placements().await.map_err(NodeError::from)? {
        let tags = placement.tags.iter().map(|tag| format!("{TAG}{tag}"));
        let to: Vec<String> = placement.nodes.iter().map(ToString::to_string).chain(tags).collect();
        let domain = if domain.is_empty() { OTHERS } else { &*domain };
        if replies.row(json!({"domain": domain, "to": to})).await.is_err() {
            break;
        }
    }
    Ok(Value::Null)
}

pub(super) async fn set(node: &Node, args: Set) -> Result<Value, Failed> {
    let domain = if args.domain == OTHERS { String::new() } else { args.domain.to_lowercase() };
    let mut placement = Placement::default();
    let known = node.directory.nodes().await.map_err(NodeError::from)?;
    for word in &args.to {
        match word.strip_prefix(TAG) {
            Some(tag) => placement.tags.push(tag.into()),
            None if known.iter().any(|node| *node.name == **word) => {
                placement.nodes.push(word.as_str().into())
            }
            None => return Err(Failed::new("not-found", format!("there is no node {word}"))),
        }
    }
    let placement = (!args.to.is_empty()).then_some(placement);
    node.directory.set_placement(domain, placement).await.map_err(NodeError::from)?;
    tracing::info!(domain = args.domain, to = ?args.to, "placement set");
    Ok(Value::Null)
}
