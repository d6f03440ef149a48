//! Accounts that come from other nodes and go to them.

use rookery_directory::{CopiedDirectory, Directory, Duty};
use rookery_link::Duties;
use rookery_net::{ConnId, Drain};
use rookery_route::{Fence, Mover, PipeHead, PipeService};
use rookery_types::NodeId;
use std::time::Duration;
use tokio::task::JoinSet;
use tracing::Instrument;

use super::Cluster;
use super::pipe::LinkPipe;

/// How often a node that gives its accounts away looks whether there are more.
const DRAIN_EVERY: Duration = Duration::from_secs(5);

impl Cluster {
    /// Takes accounts in, and gives them away while this node is to.
    pub(super) fn serve_accounts(
        &self,
        mover: &Mover,
        directory: &CopiedDirectory,
        tasks: &mut JoinSet<()>,
        drain: &Drain,
    ) {
        let (moving, draining, fence) = (mover.clone(), drain.clone(), self.fence.clone());
        // Nobody but the homes of accounts asks for it.
        self.links.serve(PipeService::Move.name(), Duties::HOLD, move |incoming| {
            let (mover, drain, fence) = (moving.clone(), draining.clone(), fence.clone());
            async move {
                let id = PipeHead::decode(&incoming.head)
                    .map_or_else(|_| ConnId::carried(0), |head| ConnId::carried(head.trace));
                let (node, name) = (incoming.peer.node, &incoming.peer.name);
                let span = tracing::info_span!("conn", %id, protocol = "move", peer = %name);
                let pipe = Box::new(LinkPipe::new(incoming.stream));
                // What an old store knows of an account may have gone on since.
                if fence.why().is_some() {
                    return;
                }
                let guard = drain.guard();
                tokio::select! {
                    // It goes on with the next connection.
                    () = drain.draining() => {}
                    () = mover.serve(pipe, node, guard).instrument(span) => {}
                }
            }
        });
        let (mover, directory, drain) = (mover.clone(), directory.clone(), drain.clone());
        let (here, fence) = (self.links.identity().node, self.fence.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = drain.draining() => {}
                () = keep_draining(&mover, &directory, here, &fence) => {}
            }
        });
    }
}

/// While the directory has this node drain what it holds, its accounts go to other nodes; also those that come meanwhile,
/// and after a restart.
async fn keep_draining(mover: &Mover, directory: &CopiedDirectory, here: NodeId, fence: &Fence) {
    let mut revisions = directory.subscribe();
    loop {
        revisions.mark_unchanged();
        let drains = match directory.nodes().await {
            // What an old store has is not given away.
            Ok(nodes) => {
                fence.why().is_none() && nodes.iter().any(|node| node.id == here && node.hold == Duty::Drain)
            }
            Err(_) => false,
        };
        match drains {
            true => match mover.drain(None).await {
                Ok(0) => {}
                Ok(begun) => {
                    tracing::info!(accounts = begun, "accounts go to other nodes, since this one drains")
                }
                Err(error) => tracing::warn!(%error, "this node drains, and its accounts stay"),
            },
            false => {
                // Nothing changes it but the directory.
                if revisions.changed().await.is_err() {
                    return;
                }
                continue;
            }
        }
        tokio::time::sleep(DRAIN_EVERY).await;
    }
}
