//! Access control lists, of mailboxes by the names that administrators give them.

use rookery_admin::socket::{Failed, Replies};
use rookery_store::StoreError;
use rookery_types::namespace::{parse_identifier, show_identifier};
use rookery_types::{Acl, Identifier, MailboxId, Rights};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{failed, quota};
use crate::node::Node;

#[derive(Deserialize)]
pub(super) struct Of {
    name: String,
}

#[derive(Deserialize)]
pub(super) struct Entry {
    name: String,
    identifier: String,
    #[serde(default)]
    rights: String,
}

async fn find(node: &Node, name: &str) -> Result<(rookery_store::Account, MailboxId, Acl), Failed> {
    let (account, address) = quota::find(node, name).await?;
    let missing = || failed(&StoreError::NoMailbox);
    let tree = account.tree();
    let id = tree.get(address.path()).ok_or_else(missing)?;
    let state = tree.state(id).ok_or_else(missing)?;
    Ok((account, id, state.settings.acl.clone()))
}

fn identifier(node: &Node, text: &str) -> Result<(Identifier, bool), Failed> {
    parse_identifier(text, &node.config.default_domain)
        .map_err(|error| Failed::new("usage", format!("'{text}': {error}")))
}

/// The entries, oldest first.
pub(super) async fn show(node: &Node, args: Of, replies: &Replies) -> Result<Value, Failed> {
    let (_, _, acl) = find(node, &args.name).await?;
    for entry in acl.entries() {
        let who = show_identifier(&entry.identifier, entry.negative, &node.config.default_domain);
        let row = json!({"identifier": who, "rights": entry.rights.to_string()});
        if replies.row(row).await.is_err() {
            break;
        }
    }
    Ok(Value::Null)
}

/// Gives an identifier rights; `+` before them gives more, `-` takes some away.
pub(super) async fn set(node: &Node, args: Entry) -> Result<Value, Failed> {
    let (who, negative) = identifier(node, &args.identifier)?;
    let letters = args.rights.trim_start_matches(['+', '-']);
    let rights =
        Rights::parse(letters).map_err(|letter| Failed::new("usage", format!("'{letter}' is no right")))?;
    let (account, id, _) = find(node, &args.name).await?;
    let change = |acl: &mut Acl| -> Result<(), StoreError> {
        let had = acl.of(&who, negative);
        let new = match args.rights.chars().next() {
            Some('+') => had.union(rights),
            Some('-') => had.without(rights),
            _ => rights,
        };
        acl.set(who.clone(), negative, new);
        Ok(())
    };
    account.change_acl(id, change).await.map_err(|error| failed(&error))?;
    tracing::info!(mailbox = args.name, identifier = args.identifier, rights = args.rights, "rights set");
    Ok(Value::Null)
}

/// Takes an identifier's entry away.
pub(super) async fn delete(node: &Node, args: Entry) -> Result<Value, Failed> {
    set(node, Entry { rights: String::new(), ..args }).await
}
