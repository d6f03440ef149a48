//! `rookery transit`: moves of messages to other nodes that are under way.

use rookery_admin::socket::{Failed, Replies};
use rookery_route::{GivenUp, Transit};
use rookery_store::TransitId;
use rookery_types::AccountId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::failed;
use crate::node::Node;

/// Which move.
#[derive(Deserialize)]
pub(super) struct Of {
    id: String,
}

/// How long ago a second was.
pub(super) fn age(unix_seconds: u32) -> Option<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    (unix_seconds > 0).then(|| now.saturating_sub(u64::from(unix_seconds)))
}

/// All of them, each a row.
pub(super) async fn list(node: &Node, transit: &Transit, replies: &Replies) -> Result<Value, Failed> {
    let pending = transit.pending().await.map_err(|error| failed(&error))?;
    // Names are for the reader; where they are not known, numbers do.
    let nodes = node.directory.nodes().await.unwrap_or_default();
    let account = async |id: AccountId| match node.directory.by_id(id).await {
        Ok(entry) => entry.name.to_string(),
        Err(_) => format!("account {id}"),
    };
    for one in pending {
        let tree = node.store.account(one.id.account).await.ok().map(|account| account.tree());
        let state = tree.as_ref().and_then(|tree| tree.state(one.mailbox));
        let from = state.map(|state| state.settings.path.to_string());
        let waits_for = one.node.map(|id| {
            let known = nodes.iter().find(|node| node.id == id).map(|node| node.name.to_string());
            known.filter(|name| !name.is_empty()).unwrap_or_else(|| id.to_string())
        });
        let row = json!({
            "id": one.id.to_string(),
            "from": account(one.id.account).await,
            "mailbox": from,
            "to": account(one.to.account).await,
            "to_mailbox": one.to.path.as_str(),
            "messages": one.messages,
            "age_s": age(one.begun_unix_seconds),
            "waits_for": waits_for,
            "given_up": one.given_up,
            "why": one.why,
        });
        if replies.row(row).await.is_err() {
            break;
        }
    }
    Ok(Value::Null)
}

/// Has one end without its messages going.
pub(super) async fn give_up(transit: &Transit, args: Of) -> Result<Value, Failed> {
    let numbers = args.id.split_once('-').and_then(|(account, counter)| {
        Some(TransitId { account: AccountId::new(account.parse().ok()?)?, counter: counter.parse().ok()? })
    });
    let id = numbers.ok_or_else(|| Failed::new("usage", format!("{} is no move's id", args.id)))?;
    match transit.give_up(id).await.map_err(|error| failed(&error))? {
        GivenUp::None => Err(Failed::new("not-found", format!("no move {id} is under way here"))),
        GivenUp::Stayed => Ok(json!({"outcome": "stayed"})),
        GivenUp::Gone => Ok(json!({"outcome": "gone"})),
        GivenUp::Asked => Ok(json!({"outcome": "asked"})),
    }
}
