//! What operators decide of nodes while these run: whether they take clients, and whether they hold accounts.
//!
//! The directory's entry of a node says it, so that it outlives restarts and every node knows it. A node follows its own
//! entry, whoever has changed it.
//!
//! Invariants:
//! - What is not in the directory is not obeyed.
//! - Administrators at the admin socket and other nodes are answered whatever a node's duties are.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rookery_admin::socket::{Failed, Replies};
use rookery_directory::{
    AccountFilter, AccountState, CopiedDirectory, Directory, DirectoryError, Duty, Entry, Node, NodeEdit,
    PAGE_MAX,
};
use rookery_link::{Duties, PeerState};
use rookery_net::Door;
use rookery_types::{AccountName, NodeId};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::AbortHandle;

use super::Cluster;
use super::desk::in_cluster;

/// How long clients get to leave when nobody has said how long.
const WITHIN: Duration = Duration::from_secs(60);
/// The longest that can be said.
const WITHIN_MAX_S: u64 = 24 * 3600;
/// How often a command that waits for clients to leave says how many are left.
const TOLD_EVERY: Duration = Duration::from_millis(200);
/// Accounts that are told by name.
const NAMED_MAX: usize = 1000;

/// Opens and shuts the door of the clients' listeners, as the node's duty is.
pub(crate) struct Doorkeeper {
    door: Door,
    now: Mutex<(Duty, Option<AbortHandle>)>,
    /// Held from where the directory is read or changed to where that is obeyed, so that nothing old is.
    turn: tokio::sync::Mutex<()>,
}

impl Doorkeeper {
    /// Of a door that is open; nobody has come by it yet.
    pub(crate) fn new(door: Door, duty: Duty) -> Arc<Doorkeeper> {
        if duty != Duty::On {
            tracing::info!(serve = duty.word(), "this node takes no clients");
            door.shut();
        }
        Arc::new(Doorkeeper { door, now: Mutex::new((duty, None)), turn: Default::default() })
    }

    pub(crate) fn door(&self) -> &Door {
        &self.door
    }

    /// What the node does.
    pub(super) fn duty(&self) -> Duty {
        self.now.lock().0
    }

    /// Does what the directory says of a node, unless that is done.
    pub(crate) async fn follow(&self, directory: &dyn Directory, id: NodeId) -> Result<(), DirectoryError> {
        let _turn = self.turn.lock().await;
        let known = directory.nodes().await?.into_iter().find(|node| node.id == id);
        if let Some(node) = known.filter(|node| node.serve != self.duty()) {
            self.turn_to(node.serve, WITHIN);
        }
        Ok(())
    }

    /// Does another duty from here on. Sends clients away in this time.
    pub(super) fn turn_to(&self, duty: Duty, within: Duration) {
        let mut now = self.now.lock();
        if let Some(before) = now.1.take() {
            before.abort();
        }
        if now.0 != duty {
            tracing::info!(serve = duty.word(), clients = self.door.inside(), "this node's duty has changed");
        }
        now.0 = duty;
        let door = self.door.clone();
        match duty {
            Duty::On => door.open(),
            Duty::Cordon => door.shut(),
            Duty::Drain | Duty::Off => {
                door.shut();
                let leave_now = duty == Duty::Off;
                let task = tokio::spawn(async move {
                    door.empty(within, leave_now).await;
                });
                now.1 = Some(task.abort_handle());
            }
        }
    }

    /// Waits until all clients have left, or somebody has changed the duty; says how many are left.
    async fn emptied(&self, duty: Duty, replies: &Replies) -> usize {
        let began = self.door.inside();
        loop {
            let left = self.door.inside();
            let gone = began.saturating_sub(left) as u64;
            let told = replies.progress(gone, Some(began as u64), "clients have left").await;
            if left == 0 || self.duty() != duty || told.is_err() {
                return left;
            }
            tokio::time::sleep(TOLD_EVERY).await;
        }
    }
}

/// What is asked for. No node: this one.
#[derive(Deserialize)]
pub(crate) struct EditArgs {
    #[serde(default)]
    pub(crate) node: Option<String>,
    #[serde(default)]
    serve: Option<String>,
    #[serde(default)]
    hold: Option<String>,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    within_s: Option<u64>,
}

/// A node by its name, or its id. No name: this one.
pub(crate) async fn find_node(
    cluster: &Cluster,
    directory: &dyn Directory,
    name: Option<&str>,
) -> Result<Node, Failed> {
    let here = cluster.links.identity().node;
    let is_it = |node: &Node| match name {
        Some(name) => *node.name == *name || node.id.to_string() == name,
        None => node.id == here,
    };
    let known = |nodes: Vec<Node>| nodes.into_iter().find(is_it);
    let found = known(directory.nodes().await.map_err(failed)?);
    let found = match found {
        None if directory.barrier().await.is_ok() => known(directory.nodes().await.map_err(failed)?),
        found => found,
    };
    found.ok_or_else(|| match name {
        Some(name) => Failed::new("not-found", format!("there is no node {name}; see: rookery node list")),
        None => Failed::new("failed", "the directory does not know this node yet; ask again"),
    })
}

fn duty_of(word: Option<&str>) -> Result<Option<Duty>, Failed> {
    let duty = |word| Duty::of_word(word).ok_or_else(|| Failed::new("usage", "say on, cordon, drain or off"));
    word.map(duty).transpose()
}

/// Changes what a node does: this one, or one that is not reached.
pub(crate) async fn edit(
    cluster: Option<&Cluster>,
    directory: &dyn Directory,
    doorkeeper: &Doorkeeper,
    args: EditArgs,
    replies: &Replies,
) -> Result<Value, Failed> {
    let cluster = in_cluster(cluster)?;
    let node = find_node(cluster, directory, args.node.as_deref()).await?;
    let is_here = node.id == cluster.links.identity().node;
    let (serve, hold) = (duty_of(args.serve.as_deref())?, duty_of(args.hold.as_deref())?);
    let within = args.within_s.map_or(WITHIN, |s| Duration::from_secs(s.min(WITHIN_MAX_S)));
    let tags = args.tags.map(|tags| tags.into_iter().map(Box::from).collect());
    match hold {
        Some(Duty::On) => may_hold(cluster, &node)?,
        // Its accounts go by themselves.
        Some(Duty::Drain) => need_another(directory, &node).await?,
        Some(Duty::Off) => need_no_accounts(directory, &node).await?,
        Some(Duty::Cordon) | None => {}
    }
    let edit = NodeEdit { serve, hold, tags };
    let turn = doorkeeper.turn.lock().await;
    let node = directory.edit_node(node.id, edit).await.map_err(failed)?;
    tracing::info!(node = %node.name, serve = node.serve.word(), hold = node.hold.word(), "duties set");
    let mut left = 0;
    if let (Some(serve), true) = (serve, is_here) {
        doorkeeper.turn_to(serve, within);
        drop(turn);
        if matches!(serve, Duty::Drain | Duty::Off) {
            left = doorkeeper.emptied(serve, replies).await;
        }
    }
    Ok(json!({
        "node": node.name,
        "serve": node.serve.word(),
        "hold": node.hold.word(),
        "tags": node.tags,
        "reached": is_here,
        "clients": left,
    }))
}

/// Refuses to let a node hold accounts that has no certificate for it.
fn may_hold(cluster: &Cluster, node: &Node) -> Result<(), Failed> {
    let duties = match node.id == cluster.links.identity().node {
        true => Some(cluster.links.identity().duties),
        false => cluster.links.peer(node.id).borrow().facts().map(|facts| facts.duties),
    };
    let why = match duties {
        Some(duties) if duties.contains(Duties::HOLD) && node.store.is_some() => return Ok(()),
        Some(_) => {
            "its certificate does not let it hold accounts; what a node may do is said by its join token"
        }
        None => "it is not reached, so that nobody knows what its certificate lets it do",
    };
    Err(Failed::new("failed", format!("{}: {why}", node.name)))
}

/// Refuses to have a node give its accounts away when no other takes them.
async fn need_another(directory: &dyn Directory, node: &Node) -> Result<(), Failed> {
    let takes = |other: &Node| other.id != node.id && other.hold == Duty::On && other.store.is_some();
    match directory.nodes().await.map_err(failed)?.iter().any(takes) {
        true => Ok(()),
        false => Err(Failed::new("failed", format!("no other node takes what {} holds", node.name))),
    }
}

/// Refuses while accounts are at home at a node, and has none made there from here on.
async fn need_no_accounts(directory: &dyn Directory, node: &Node) -> Result<(), Failed> {
    let before = node.hold;
    let refused = |count: u64| {
        let (name, these) = (&node.name, if count == 1 { "account is" } else { "accounts are" });
        Failed::new(
            "in-use",
            format!("{count} {these} at home at {name}; it holds them until they have moved"),
        )
    };
    let (count, _) = accounts_at(directory, node.id).await.map_err(failed)?;
    if count > 0 {
        return Err(refused(count));
    }
    if before == Duty::On {
        // One may be made at this moment.
        let cordon = NodeEdit { hold: Some(Duty::Cordon), ..NodeEdit::default() };
        directory.edit_node(node.id, cordon).await.map_err(failed)?;
        directory.barrier().await.map_err(failed)?;
        let (count, _) = accounts_at(directory, node.id).await.map_err(failed)?;
        if count > 0 {
            let back = NodeEdit { hold: Some(before), ..NodeEdit::default() };
            directory.edit_node(node.id, back).await.map_err(failed)?;
            return Err(refused(count));
        }
    }
    Ok(())
}

/// How many accounts are at home at a node, and the first of them by name. Who is only there to log in has nothing there.
pub(crate) async fn accounts_at(
    directory: &dyn Directory,
    node: NodeId,
) -> Result<(u64, Vec<AccountName>), DirectoryError> {
    let (mut count, mut names) = (0, Vec::new());
    each_account(directory, |entry| {
        if entry.home.node == node {
            count += 1;
            if names.len() < NAMED_MAX {
                names.push(entry.name.clone());
            }
        }
    })
    .await?;
    Ok((count, names))
}

/// Shows all accounts that have mailboxes, or are about to.
pub(crate) async fn each_account(
    directory: &dyn Directory,
    mut see: impl FnMut(&Entry),
) -> Result<(), DirectoryError> {
    let mut after = None;
    loop {
        let page = directory.list(AccountFilter::default(), after, PAGE_MAX).await?;
        page.entries.iter().filter(|entry| entry.state != AccountState::LoginOnly).for_each(&mut see);
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct RemoveArgs {
    name: String,
    /// It is lost with the accounts that are at home there.
    #[serde(default)]
    lost: bool,
}

/// Takes a node out of the cluster for good. Accounts that are lost with it are rows.
pub(crate) async fn remove(
    cluster: Option<&Cluster>,
    directory: &CopiedDirectory,
    args: RemoveArgs,
    replies: &Replies,
) -> Result<Value, Failed> {
    let cluster = in_cluster(cluster)?;
    let node = find_node(cluster, directory, Some(&args.name)).await?;
    let refuse = |why: String| Err(Failed::new("in-use", why));
    if node.id == cluster.links.identity().node {
        return refuse("a node is removed by another; ask there".to_owned());
    }
    if cluster.has_directory(node.id) {
        return refuse(format!(
            "{} has the directory; with that in etcd (rookery directory promote or rebuild) it can be removed",
            node.name
        ));
    }
    if args.lost && cluster.links.peer(node.id).borrow().takes_streams() {
        return refuse(format!("{} is there, and not lost", node.name));
    }
    // None are made there while they are counted.
    let cordon = NodeEdit { hold: Some(Duty::Cordon), ..NodeEdit::default() };
    if node.hold == Duty::On {
        directory.edit_node(node.id, cordon).await.map_err(failed)?;
    }
    directory.barrier().await.map_err(failed)?;
    let (count, names) = accounts_at(directory, node.id).await.map_err(failed)?;
    if count > 0 && !args.lost {
        if node.hold == Duty::On {
            let back = NodeEdit { hold: Some(Duty::On), ..NodeEdit::default() };
            directory.edit_node(node.id, back).await.map_err(failed)?;
        }
        let name = &node.name;
        return refuse(format!(
            "accounts are at home at {name}: {count}; if it is lost for good with them, say --lost"
        ));
    }
    directory.remove_node(node.id).await.map_err(failed)?;
    tracing::warn!(node = %node.name, accounts = count, lost = args.lost, "a node is removed from the cluster");
    for name in names {
        if replies.row(json!({"account": name.to_string()})).await.is_err() {
            break;
        }
    }
    Ok(json!({"node": node.name, "accounts": count}))
}

/// All that is known of a node. What only the node itself knows is there if it is this one.
pub(crate) async fn show(
    cluster: Option<&Cluster>,
    directory: &dyn Directory,
    doorkeeper: &Doorkeeper,
    name: Option<&str>,
) -> Result<Value, Failed> {
    let cluster = in_cluster(cluster)?;
    let node = find_node(cluster, directory, name).await?;
    let mut shown = row(cluster, &node);
    let services: Vec<String> = node.services.iter().map(|(kind, at)| format!("{kind} {at}")).collect();
    shown["services"] = json!(services);
    shown["store"] = json!(node.store.map(|store| store.to_string()));
    if node.id == cluster.links.identity().node {
        shown["certificate"] = json!(cluster.links.identity().duties.to_string());
        shown["clients"] = json!(doorkeeper.door().inside());
        shown["takes_clients"] = json!(doorkeeper.door().is_open());
    }
    Ok(shown)
}

/// A node as every node knows it.
pub(super) fn row(cluster: &Cluster, node: &Node) -> Value {
    let link = match node.id == cluster.links.identity().node {
        true => match cluster.fence.why() {
            Some(why) => format!("here, holding nothing: {why}"),
            None => "here".to_owned(),
        },
        false => match &*cluster.links.peer(node.id).borrow() {
            PeerState::Up(_) => "up".to_owned(),
            PeerState::Suspect(_) => "suspect".to_owned(),
            PeerState::Leaving(_) => "leaving".to_owned(),
            PeerState::Down(why) => format!("down: {why}"),
        },
    };
    json!({
        "id": node.id.to_string(),
        "name": node.name,
        "address": node.address,
        "serve": node.serve.word(),
        "hold": node.hold.word(),
        "tags": node.tags,
        "version": node.version,
        "boot": node.boot,
        "accounts": node.load.accounts,
        "octets_used": node.load.octets_used,
        "octets_free": node.load.octets_free,
        "link": link,
    })
}

pub(super) fn failed(error: DirectoryError) -> Failed {
    let code = match &error {
        DirectoryError::NotFound(_) => "not-found",
        DirectoryError::Exists(_) => "exists",
        DirectoryError::Refused(_) => "usage",
        _ => "failed",
    };
    Failed::new(code, error.to_string())
}
