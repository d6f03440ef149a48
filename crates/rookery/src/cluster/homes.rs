//! Accounts at other nodes: where new ones are placed, and what their homes are asked to do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rookery_directory::{Directory, Node};
use rookery_link::{Incoming, Message};
use rookery_route::{AccountTask, Coming, Homes, Registrar, RegistrarError};
use rookery_types::{AccountId, AccountName, NodeId, StoreId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::placing::{Placed, View, Why};
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
    pub(crate) placed: Placed,
}

impl From<Why> for RegistrarError {
    fn from(why: Why) -> RegistrarError {
        match why {
            Why::NoPlace(why) => RegistrarError::NoPlace(why),
            Why::Away(why) => RegistrarError::Away(why),
        }
    }
}

impl ClusterHomes {
    /// The nodes of the directory, of this one what it knows better.
    async fn nodes(&self) -> Result<Vec<Node>, RegistrarError> {
        let here = self.cluster.links.identity().node;
        let mut nodes = self.directory.nodes().await.map_err(RegistrarError::Directory)?;
        let own = nodes.iter_mut().find(|node| node.id == here);
        match own {
            // It has not told of its store yet.
            Some(own) => own.store = Some(self.store).filter(|_| self.cluster.holds()),
            None if self.cluster.holds() => {
                let name = self.cluster.links.identity().name.as_str().into();
                nodes.push(Node { name, store: Some(self.store), ..Node::new(here) });
            }
            None => {}
        }
        Ok(nodes)
    }

    fn is_there(&self, node: &Node) -> bool {
        match node.id == self.cluster.links.identity().node {
            true => self.cluster.fence.why().is_none(),
            false => self.cluster.links.peer(node.id).borrow().takes_streams(),
        }
    }
}

impl Homes for ClusterHomes {
    /// The node that was named. Else here, if this node holds accounts, takes new ones and is none that the domain's
    /// placement rules out; else at the one of the others that is there, fits, and has the most room.
    fn place<'a>(
        &'a self,
        name: &'a AccountName,
        at: Option<&'a str>,
    ) -> Coming<'a, Result<(NodeId, StoreId), RegistrarError>> {
        Box::pin(async move {
            let nodes = self.nodes().await?;
            let placements = self.directory.placements().await.map_err(RegistrarError::Directory)?;
            let is_there = |node: &Node| self.is_there(node);
            let here = self.cluster.links.identity().node;
            let view = View { nodes: &nodes, placements: &placements, here, is_there: &is_there };
            let placed = match at {
                Some(at) => view.named(at),
                None => view.choose(name.domain(), &self.placed),
            };
            Ok(placed?)
        })
    }

    fn takes_here(&self) -> Coming<'_, Result<(), RegistrarError>> {
        Box::pin(async move {
            // What an operator has just said at another node counts. Without the directory, what is known here does.
            if let Err(error) = self.directory.barrier().await {
                tracing::debug!(%error, "an account comes back without asking the directory");
            }
            if let Some(why) = self.cluster.fence.why() {
                return Err(RegistrarError::NoPlace(format!("This node holds nothing: {why}")));
            }
            let nodes = self.nodes().await?;
            let is_there = |node: &Node| self.is_there(node);
            let own = self.cluster.links.identity();
            let view = View { nodes: &nodes, placements: &[], here: own.node, is_there: &is_there };
            view.named(&own.name)?;
            Ok(())
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
