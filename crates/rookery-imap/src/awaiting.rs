//! Looking for a home that is lost, until it is there again.

use crate::services::Services;
use rookery_net::{Peer, Stream};
use rookery_route::{PipeService, SessionHead};
use rookery_store::Whereabouts;
use rookery_types::{AccountName, UserName};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long until it is looked for first, and from then on; not at the same moment for all sessions.
const FIRST: Duration = Duration::from_millis(200);
const AGAIN_MAX: Duration = Duration::from_secs(1);
const APART_MS: u64 = 300;
/// How long it may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// The search for a session's home. Ends with it.
pub(crate) struct Awaiting(JoinHandle<()>);

impl Drop for Awaiting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Awaiting {
    /// Begins; what is found is told as if the account had moved there.
    pub(crate) fn start(
        services: Arc<Services>,
        user: UserName,
        trace: u64,
    ) -> (Awaiting, watch::Receiver<Whereabouts>) {
        let (told, home) = watch::channel(Whereabouts::Here);
        let task = tokio::spawn(async move {
            let name = AccountName::User(user.clone());
            let head = SessionHead::of_guest(&user, trace, &Stream::ended().with_peer(Peer::Memory));
            let apart = Duration::from_millis(trace % APART_MS);
            let mut pause = FIRST;
            loop {
                tokio::time::sleep(pause + apart).await;
                pause = (pause * 2).min(AGAIN_MAX);
                let Ok((node, epoch)) = services.router.home(&name).await else { continue };
                let opening = services.peers.open(node, PipeService::Guest, head.encode());
                let is_there = node == services.store.node()
                    || matches!(tokio::time::timeout(ANSWER_MAX, opening).await, Ok(Ok(_)));
                if is_there {
                    told.send_replace(Whereabouts::Left { node, epoch });
                    return;
                }
            }
        });
        (Awaiting(task), home)
    }
}
