//! Where a verb is done: here, at the home of the account that it is about, or at the node that it names.

use rookery_admin::socket::{Failed, Replies, Request};
use rookery_directory::{AccountState, DirectoryError, Entry};
use rookery_types::namespace::AdminNames;
use rookery_types::{AccountName, NodeId, UserName};
use serde_json::Value;
use std::sync::Arc;

use super::{Desk, export};
use crate::cluster::duties::find_node;

/// How far a verb reaches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Reach {
    /// It is done where it is asked for.
    Here,
    /// It is done at the home of an account.
    Account,
    /// It is done at the node that it is about.
    Node,
}

/// How far a verb reaches.
pub(crate) fn reach(verb: &str) -> Reach {
    match verb {
        "mailbox.list" | "mailbox.create" | "mailbox.delete" | "mailbox.rename" | "mailbox.info"
        | "acl.show" | "acl.set" | "acl.delete" | "quota.show" | "quota.set" | "undelete.list"
        | "move.begin" | "move.wait" | "move.pause" | "move.resume" | "move.cancel" | "undelete.messages"
        | "undelete.mailbox" | "export" | "export.send" | "check" => Reach::Account,
        "node.show" | "node.edit" | "node.usage" | "move.drain" | "move.here" => Reach::Node,
        _ => Reach::Here,
    }
}

/// Another node, at which something is to be done.
pub(super) struct Elsewhere {
    id: NodeId,
    name: String,
}

/// Where something is to be done, if that is not here.
pub(super) async fn elsewhere(desk: &Desk, request: &Request) -> Result<Option<Elsewhere>, Failed> {
    let Some(cluster) = &desk.cluster else { return Ok(None) };
    let text = |member: &str| request.args.get(member).and_then(Value::as_str);
    let here = desk.node.store.node();
    match reach(&request.verb) {
        Reach::Here => Ok(None),
        Reach::Node => {
            let Some(name) = text("node") else { return Ok(None) };
            let node = find_node(cluster, &*desk.node.directory, Some(name)).await?;
            // What is to be known of a node that is away is known here, too.
            let is_there = node.id != here && cluster.links.peer(node.id).borrow().takes_streams();
            Ok(is_there.then(|| Elsewhere { id: node.id, name: node.name.into() }))
        }
        Reach::Account => {
            let domain = &desk.node.config.default_domain;
            let account = match (text("user"), text("name")) {
                // What can be no name is refused where it is used.
                (Some(user), _) => UserName::parse(user, domain).ok().map(AccountName::User),
                (None, Some(name)) => AdminNames::new(domain)
                    .ok()
                    .and_then(|names| names.parse(name).ok())
                    .map(|a| a.account().clone()),
                (None, None) => None,
            };
            let Some(account) = account else { return Ok(None) };
            if request.verb.starts_with("move.") {
                // It may have moved a moment ago. If the directory is away, what is known here has to do.
                let _ = desk.node.directory.barrier().await;
            }
            let home = match entry(desk, &account).await {
                Some(entry) if has_mailboxes(&entry) && entry.home.node != here => entry.home.node,
                _ => return Ok(None),
            };
            let nodes = desk.node.directory.nodes().await.map_err(crate::node::NodeError::from)?;
            let Some(node) = nodes.into_iter().find(|node| node.id == home) else {
                let text =
                    format!("{account} is at home at node {home}, which is no node of the cluster any more");
                return Err(Failed::new("away", text));
            };
            if !cluster.may_reach_accounts() {
                let text = format!(
                    "{account} is at home at {}; ask there, or at a node that may take clients: this one's \
                     certificate lets it reach no accounts of other nodes",
                    node.name
                );
                return Err(Failed::new("not-allowed", text));
            }
            Ok(Some(Elsewhere { id: home, name: node.name.into() }))
        }
    }
}

fn has_mailboxes(entry: &Entry) -> bool {
    matches!(entry.state, AccountState::Active | AccountState::Suspended)
}

/// The entry of an account, which may have been made a moment ago at another node.
async fn entry(desk: &Desk, account: &AccountName) -> Option<Arc<Entry>> {
    let directory = &desk.node.directory;
    match directory.look_up(account).await {
        Err(DirectoryError::NotFound(_)) if directory.barrier().await.is_ok() => {
            directory.look_up(account).await.ok()
        }
        found => found.ok(),
    }
}

impl Elsewhere {
    /// Has it done there.
    pub(super) async fn run(self, desk: &Desk, request: Request, replies: &Replies) -> Result<Value, Failed> {
        let Some(cluster) = &desk.cluster else {
            return Err(Failed::new("failed", "this server is alone"));
        };
        match request.verb.as_str() {
            // The files are for this machine.
            "export" => {
                export::fetch(&desk.node, cluster, (self.id, &self.name), request.args, replies).await
            }
            verb => cluster.pass_on((self.id, &self.name), verb, request.args, replies).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_a_machine_is_not_asked_for_over_a_link() {
        for verb in
            ["restart", "reload", "user.delete", "import.mbox", "restore", "directory.promote", "node.token"]
        {
            assert_eq!(reach(verb), Reach::Here, "{verb}");
        }
    }
}
