//! What the command line asks of the running server: one verb, one function.

mod aliases;
mod check;
mod directory;
mod export;
mod groups;
mod import;
mod mailboxes;
mod moves;
mod placements;
mod places;
mod quota;
mod restore;
mod rights;
mod transit;
mod undelete;
mod users;

use std::sync::Arc;

use rookery_admin::PrometheusHandle;
use rookery_admin::socket::{Failed, Replies, Request};
use rookery_store::StoreError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::cluster::duties::Doorkeeper;
use crate::cluster::{self, Cluster};
use crate::node::{Node, NodeError};
use crate::reload::Reload;
use crate::restart::Restart;

use check::check;
pub(crate) use moves::refused as move_refused;
pub(crate) use places::{Reach, reach};

/// Makes a mailbox for a user, who is subscribed to it.
pub(crate) async fn make_mailbox(
    account: &rookery_store::Account,
    user: &rookery_types::UserName,
    path: &rookery_types::MailboxPath,
) -> Result<rookery_types::MailboxId, Failed> {
    mailboxes::make(account, user, path, Vec::new()).await
}

/// What every verb may use.
pub(crate) struct Desk {
    pub(crate) node: Arc<Node>,
    pub(crate) reload: Reload,
    pub(crate) restart: Restart,
    pub(crate) metrics: PrometheusHandle,
    /// The cluster, if this server is not alone.
    pub(crate) cluster: Option<Cluster>,
    /// Lets clients in, or not.
    pub(crate) doorkeeper: Arc<Doorkeeper>,
    pub(crate) transit: rookery_route::Transit,
    pub(crate) mover: rookery_route::Mover,
    /// The same as `node.directory`, for what only its own kind can do.
    pub(crate) directory: rookery_directory::CopiedDirectory,
    /// One import or check at a time.
    pub(crate) heavy: tokio::sync::Mutex<()>,
}

/// Answers one request of an administrator at this machine: what is for another node to do is done there.
pub(crate) async fn answer(desk: Arc<Desk>, request: Request, replies: Replies) -> Result<Value, Failed> {
    tracing::debug!(verb = request.verb, from = ?request.from, "asked by the command line");
    match places::elsewhere(&desk, &request).await? {
        Some(place) => place.run(&desk, request, &replies).await,
        None => answer_here(desk, request, replies).await,
    }
}

/// Answers one request at this node.
pub(crate) async fn answer_here(
    desk: Arc<Desk>,
    request: Request,
    replies: Replies,
) -> Result<Value, Failed> {
    let Request { verb, args, .. } = request;
    let node = &desk.node;
    if matches!(verb.as_str(), "user.list" | "alias.list" | "domain.list" | "group.list") {
        // What other nodes have done is listed, too. If the directory is away, what is known here has to do.
        let _ = node.directory.barrier().await;
    }
    match verb.as_str() {
        "status" => status(node, &desk.transit).await,
        "reload" => {
            desk.reload.run().map(|text| json!({"text": text})).map_err(|error| Failed::new("failed", error))
        }
        "metrics" => {
            rookery_admin::process::record();
            Ok(json!({"text": desk.metrics.render()}))
        }
        "restart" => {
            let asked = desk.restart.ask().await;
            asked.map(|()| Value::Null).map_err(|error| Failed::new("failed", error))
        }
        "user.add" => users::add(node, parse(args)?).await,
        "user.list" => users::list(node, &replies).await,
        "user.passwd" => users::passwd(node, parse(args)?).await,
        "user.delete" => users::delete(node, parse(args)?).await,
        "user.suspend" => users::suspend(node, parse(args)?, true).await,
        "user.resume" => users::suspend(node, parse(args)?, false).await,
        "alias.add" => aliases::add(node, parse(args)?).await,
        "alias.list" => aliases::list(node, parse(args)?, &replies).await,
        "alias.delete" => aliases::delete(node, parse(args)?).await,
        "mailbox.list" => mailboxes::list(node, parse(args)?, &replies).await,
        "mailbox.create" => mailboxes::create(node, parse(args)?).await,
        "mailbox.delete" => mailboxes::delete(node, parse(args)?).await,
        "mailbox.rename" => mailboxes::rename(node, parse(args)?).await,
        "mailbox.info" => mailboxes::info(node, parse(args)?).await,
        "acl.show" => rights::show(node, parse(args)?, &replies).await,
        "acl.set" => rights::set(node, parse(args)?).await,
        "acl.delete" => rights::delete(node, parse(args)?).await,
        "domain.list" => groups::domains(node, &replies).await,
        "domain.add" => groups::add_domain(node, parse(args)?).await,
        "domain.delete" => groups::delete_domain(node, parse(args)?).await,
        "group.list" => groups::list(node, parse(args)?, &replies).await,
        "group.add" => groups::add(node, parse(args)?).await,
        "group.delete" => groups::delete(node, parse(args)?).await,
        "group.members" => groups::members(node, parse(args)?, &replies).await,
        "group.member" => groups::set_member(node, parse(args)?).await,
        "node.list" => cluster::nodes(desk.cluster.as_ref(), &*node.directory, &replies).await,
        "node.show" => {
            let args: NodeArgs = parse(args)?;
            let (cluster, directory) = (desk.cluster.as_ref(), &*node.directory);
            cluster::duties::show(cluster, directory, &desk.doorkeeper, args.node.as_deref()).await
        }
        "node.edit" => {
            let (cluster, directory) = (desk.cluster.as_ref(), &*node.directory);
            cluster::duties::edit(cluster, directory, &desk.doorkeeper, parse(args)?, &replies).await
        }
        "node.remove" => {
            cluster::remove(desk.cluster.as_ref(), &desk.directory, parse(args)?, &replies).await
        }
        "node.usage" => cluster::balance::usage(node, &replies).await,
        "balance" => {
            cluster::balance::balance(desk.cluster.as_ref(), node, &desk.mover, parse(args)?, &replies).await
        }
        "placement.list" => placements::list(node, &replies).await,
        "placement.set" => placements::set(node, parse(args)?).await,
        "node.accept" => cluster::accept(desk.cluster.as_ref()),
        "node.token" => cluster::token(desk.cluster.as_ref(), parse(args)?),
        "move.begin" => moves::begin(&desk, parse(args)?, &replies).await,
        "move.wait" => moves::wait(&desk, parse(args)?).await,
        "move.domain" => moves::domain(&desk, parse(args)?).await,
        "move.drain" => moves::drain(&desk, parse(args)?).await,
        "move.status" => moves::status(&desk, &replies).await,
        "move.here" => moves::here(&desk, &replies).await,
        "move.pause" => moves::pause(&desk, parse(args)?, true).await,
        "move.resume" => moves::pause(&desk, parse(args)?, false).await,
        "move.cancel" => moves::cancel(&desk, parse(args)?).await,
        "transit.list" => transit::list(node, &desk.transit, &replies).await,
        "transit.give-up" => transit::give_up(&desk.transit, parse(args)?).await,
        "directory.status" => directory::status(node, desk.cluster.as_ref(), &desk.directory).await,
        "directory.export" => directory::export(&desk.directory, &replies).await,
        "directory.import" => {
            let _turn = desk.heavy.lock().await;
            directory::import(&desk.directory, parse(args)?).await
        }
        "directory.promote" => {
            let _turn = desk.heavy.lock().await;
            cluster::promote(desk.cluster.as_ref(), &desk.directory, parse(args)?, &replies).await
        }
        "directory.rebuild" => {
            let _turn = desk.heavy.lock().await;
            cluster::rebuild(desk.cluster.as_ref(), &desk.directory, parse(args)?, &replies).await
        }
        "quota.show" => quota::show(node, parse(args)?, &replies).await,
        "quota.set" => quota::set(node, parse(args)?).await,
        "import.maildir" => {
            let _turn = desk.heavy.lock().await;
            import::maildir(node, parse(args)?, &replies).await
        }
        "import.mbox" => {
            let _turn = desk.heavy.lock().await;
            import::mbox(node, parse(args)?, &replies).await
        }
        "undelete.users" => undelete::users(node, &replies).await,
        "undelete.list" => undelete::list(node, parse(args)?, &replies).await,
        "undelete.messages" => undelete::messages(node, parse(args)?).await,
        "undelete.mailbox" => undelete::mailbox(node, parse(args)?).await,
        "undelete.user" => undelete::user(node, parse(args)?).await,
        "export" => {
            let _turn = desk.heavy.lock().await;
            export::export(node, parse(args)?, &replies).await
        }
        "export.send" => {
            let _turn = desk.heavy.lock().await;
            export::send(node, parse(args)?, &replies).await
        }
        "restore" => {
            let _turn = desk.heavy.lock().await;
            let here = desk.cluster.as_ref().map(|cluster| cluster.links.identity().name.as_str());
            restore::restore(node, here, parse(args)?, &replies).await
        }
        "check" => {
            let _turn = desk.heavy.lock().await;
            check(node, parse(args)?, &replies).await
        }
        _ => Err(Failed::new("usage", format!("the server does not know '{verb}'; is it an older version?"))),
    }
}

/// A node by its name; none: this one.
#[derive(Deserialize)]
struct NodeArgs {
    #[serde(default)]
    node: Option<String>,
}

fn parse<T: DeserializeOwned>(args: Value) -> Result<T, Failed> {
    serde_json::from_value(args).map_err(|error| Failed::new("usage", error.to_string()))
}

async fn status(node: &Node, transit: &rookery_route::Transit) -> Result<Value, Failed> {
    let (moves, oldest) = transit.under_way();
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "started_unix_ms": rookery_admin::process::started_unix_ms(),
        "uptime_s": rookery_admin::process::uptime().as_secs(),
        "resident_octets": rookery_admin::process::resident_octets(),
        "data_dir": node.config.data_dir.display().to_string(),
        "store": node.store.store_id().to_string(),
        "read_only": node.store.read_only_because(),
        "moves_pending": moves,
        "moves_oldest_s": oldest.and_then(transit::age),
    }))
}

impl From<NodeError> for Failed {
    fn from(error: NodeError) -> Failed {
        let code = match &error {
            NodeError::Name(_) | NodeError::Usage(_) => "usage",
            NodeError::Exists(_) => "exists",
            NodeError::NotFound(_) => "not-found",
            NodeError::Directory(_) | NodeError::Password(_) | NodeError::Away(_) => "failed",
            NodeError::Store(error) => return failed(error),
        };
        Failed::new(code, error.to_string())
    }
}

/// What the store says, for the command line.
fn failed(error: &StoreError) -> Failed {
    let code = match error {
        StoreError::NoAccount | StoreError::NoMailbox => "not-found",
        StoreError::AlreadyExists => "exists",
        StoreError::InvalidName => "usage",
        _ => "failed",
    };
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    Failed::new(code, text)
}
