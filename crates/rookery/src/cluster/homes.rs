//! Accounts at other nodes: where new ones are placed, and what their homes are asked to do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rookery_directory::{Directory, Duty, Node};
use rookery_link::{Incoming, Message};
use rookery_route::{AccountTask, Coming, Homes, Registrar, RegistrarError};
use rookery_types::{AccountId, AccountName, NodeId, StoreId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Cluster, ask, task_json};

/// The name of the service.
pub(super) const SERVICE: &str = "accounts";
/// How long a home may take.
const WITHIN: Duration = Duration::from_secs(10);

/// Places accounts by what the directory knows of the nodes.
pub(crate) struct ClusterHomes {
    pub(crate) cluster: Cluster,
    pub(crate) directory: Arc<dyn Directory>,
    pub(crate) store: StoreId,
}

impl Homes for ClusterHomes {
    /// Here, if this node holds accounts and takes new ones; else at the node that takes new ones and has the most
    /// space.
    fn place<'a>(&'a self, _name: &'a AccountName) -> Coming<'a, Result<(NodeId, StoreId), RegistrarError>> {
        Box::pin(async move {
            let here = self.cluster.links.identity().node;
            let nodes = self.directory.nodes().await.map_err(RegistrarError::Directory)?;
            let takes = |node: &&Node| node.hold == Duty::On && node.store.is_some();
            let own = nodes.iter().find(|node| node.id == here);
            let is_fenced = self.cluster.fence.why().is_some();
            if !is_fenced && own.map_or(self.cluster.holds(), |own| own.hold == Duty::On) {
                return Ok((here, self.store));
            }
            let others = nodes
                .iter()
                .filter(|node| node.id != here)
                .filter(takes)
                .filter(|node| self.cluster.links.peer(node.id).borrow().takes_streams());
            // Among those with as much, any.
            let chosen = others.max_by_key(|node| (node.load.octets_free, rand::random::<u64>()));
            match chosen.and_then(|node| node.store.map(|store| (node.id, store))) {
                Some(place) => Ok(place),
                None => Err(RegistrarError::Away("no node that takes new accounts is there".to_owned())),
            }
        })
    }

    fn ask(&self, node: NodeId, task: AccountTask) -> Coming<'_, Result<(), RegistrarError>> {
        Box::pin(async move {
            let question = task_json(&task);
            let answer =
                tokio::time::timeout(WITHIN, ask(&self.cluster.links, node, SERVICE, &question)).await;
            let answer = answer.unwrap_or_else(|_| Err("it takes too long".to_owned()));
            let why = match answer {
                Ok(Value::Null) => return Ok(()),
                Ok(Value::String(why)) | Err(why) => why,
                Ok(_) => "its answer makes no sense".to_owned(),
            };
            Err(RegistrarError::Away(format!("node {node}: {why}")))
        })
    }
}

#[derive(Deserialize)]
struct Question {
    verb: String,
    id: u64,
    name: Option<String>,
}

fn task_of(head: &[u8]) -> Option<AccountTask> {
    let question: Question = serde_json::from_slice(head).ok()?;
    let id = AccountId::new(question.id)?;
    let name = question.name.and_then(|name| AccountName::parse(&name).ok());
    match (question.verb.as_str(), name) {
        ("make", Some(name)) => Some(AccountTask::Make { id, name }),
        ("delete", None) => Some(AccountTask::Delete { id }),
        ("settle", Some(name)) => Some(AccountTask::Settle { id, name }),
        _ => None,
    }
}

/// Answers another node: null, or why not.
pub(super) async fn serve(mut incoming: Incoming, registrar: &Registrar) {
    let answer = match task_of(&incoming.head) {
        Some(task) => match registrar.perform_for(task).await {
            Ok(()) => Value::Null,
            Err(error) => json!(error.to_string()),
        },
        None => json!("that is not understood"),
    };
    let octets = Bytes::from(answer.to_string());
    // Whoever asked may have gone.
    let _ = incoming.stream.send(Message::Data(octets)).await;
    let _ = incoming.stream.finish();
}
