//! What administrators at one node have another node do: by the same verbs, and in the same frames, as at the admin
//! socket.
//!
//! Invariants:
//! - What came over a link is done here or refused, never passed on.
//! - A node does for another's administrator only what that node could do for users anyway: who may not take clients
//!   reaches no account by this.

use std::sync::Arc;

use rookery_admin::socket::{CallError, Client, Failed, Replies, Reply, Request, answer_peer};
use rookery_link::{Class, Duties, PeerFacts, TraceId};
use rookery_net::Drain;
use rookery_types::NodeId;
use serde_json::Value;

use super::Cluster;
use super::pipe::LinkPipe;
use crate::admin::{self, Desk, Reach};

/// The name of the service.
const SERVICE: &str = "admin";

impl Cluster {
    /// Answers administrators of other nodes.
    pub(crate) fn serve_errands(&self, desk: &Arc<Desk>, drain: &Drain) {
        let (desk, drain) = (Arc::clone(desk), drain.clone());
        self.links.serve(SERVICE, Duties::NONE, move |incoming| {
            let (desk, guard) = (Arc::clone(&desk), drain.guard());
            async move {
                let peer = Arc::clone(&incoming.peer);
                let asking = Arc::clone(&peer);
                let handler = move |request: Request, replies: Replies| {
                    let (desk, peer) = (Arc::clone(&desk), Arc::clone(&asking));
                    async move {
                        may_ask(&peer, &request.verb)?;
                        tracing::info!(verb = request.verb, peer = %peer.name, "asked by another node's administrator");
                        admin::answer_here(desk, request, replies).await
                    }
                };
                let pipe = LinkPipe::new(incoming.stream);
                if let Err(error) = answer_peer(pipe, &peer.name, &handler, guard.drain()).await {
                    tracing::debug!(%error, peer = %peer.name, "another node's administrator has gone");
                }
            }
        });
    }

    /// Whether this node may have verbs about accounts done at other nodes.
    pub(crate) fn may_reach_accounts(&self) -> bool {
        self.links.identity().duties.contains(Duties::SERVE)
    }

    /// Begins to ask another node.
    pub(crate) async fn errand(
        &self,
        (node, name): (NodeId, &str),
        verb: &str,
        args: Value,
    ) -> Result<Client, Failed> {
        let class = if verb.starts_with("export") { Class::Bulk } else { Class::Interactive };
        let opened = self.links.open(node, class, SERVICE, TraceId::random(), bytes::Bytes::new()).await;
        let stream = opened.map_err(|error| {
            Failed::new("away", format!("{name} is not reached: {}", crate::exit::with_causes(&error)))
        })?;
        let mut client = Client::over(LinkPipe::new(stream));
        client.ask(verb, args).await.map_err(|error| lost(name, error))?;
        Ok(client)
    }

    /// Has another node do something, and passes on what it says.
    pub(crate) async fn pass_on(
        &self,
        (node, name): (NodeId, &str),
        verb: &str,
        args: Value,
        replies: &Replies,
    ) -> Result<Value, Failed> {
        let mut client = self.errand((node, name), verb, args).await?;
        loop {
            match client.reply().await.map_err(|error| lost(name, error))? {
                Reply::Done(done) => return Ok(done),
                Reply::Failed(failed) => return Err(failed),
                reply @ (Reply::Progress(_) | Reply::Row(_)) => {
                    let gone = |_| Failed::new("interrupted", "whoever asked has gone");
                    replies.send(&reply).await.map_err(gone)?;
                }
            }
        }
    }
}

/// Refuses what a node's certificate does not allow.
fn may_ask(peer: &PeerFacts, verb: &str) -> Result<(), Failed> {
    let allowed = match admin::reach(verb) {
        Reach::Account => peer.duties.contains(Duties::SERVE),
        Reach::Node => true,
        Reach::Here => false,
    };
    match allowed {
        true => Ok(()),
        false => {
            tracing::warn!(verb, peer = %peer.name, "a node asks for what it may not");
            Err(Failed::new("not-allowed", format!("{} may not ask for this over a link", peer.name)))
        }
    }
}

/// Why there is no answer of another node.
pub(crate) fn lost(name: &str, error: CallError) -> Failed {
    match error {
        CallError::Failed(failed) => failed,
        error => Failed::new("away", format!("{name}: {}", crate::exit::with_causes(&error))),
    }
}
