//! What administrators ask of the cluster, and how new nodes are let in.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rookery_admin::socket::{Failed, Replies};
use rookery_directory::{Directory, Duty, Node};
use rookery_link::{Admission, Ca, Duties, Identity, JoinDesk, NewNode, Tokens};
use serde::Deserialize;
use serde_json::{Value, json};

use super::join::Welcome;
use super::site::{DirectoryAt, Site};
use super::{Cluster, duties, failed};
use crate::config::Config;
use crate::exit::Failure;

impl Cluster {
    /// Lets nodes join here, if the cluster's authority is here.
    pub(crate) fn open_desk(
        &mut self,
        config: &Config,
        directory: Arc<dyn Directory>,
    ) -> Result<(), Failure> {
        if !self.has_authority() {
            return Ok(());
        }
        let folder = config.data_dir.join("cluster");
        let ca = Ca::load(&folder).map_err(|error| failed("the cluster's authority", &error))?;
        let tokens =
            Tokens::open(folder.join("tokens.json")).map_err(|error| failed("join tokens", &error))?;
        let (ca, tokens) = (Arc::new(ca), Arc::new(tokens));
        let at = DirectoryAt { node: self.links.identity().node.0, address: self.address.clone() };
        let default_domain = config.default_domain.clone();
        let admit = Box::new(move |new: NewNode, allowed: String| {
            let directory = directory.clone();
            // As it is now: the directory may have moved since the start.
            let facts = facts(&folder, at.clone(), default_domain.clone());
            let admitted: std::pin::Pin<Box<dyn Future<Output = _> + Send>> =
                Box::pin(async move { admit(&*directory, new, &allowed, facts?).await });
            admitted
        });
        self.links.set_join_desk(Some(Arc::new(JoinDesk::new(ca.clone(), tokens.clone(), admit))));
        self.giving = Some((ca, tokens));
        Ok(())
    }
}

/// What a new node is told.
fn facts(folder: &Path, directory: DirectoryAt, default_domain: String) -> Result<Vec<u8>, String> {
    let site = Site::load(folder).map_err(|failure| failure.text)?;
    let source = site.map(|site| site.source).unwrap_or_default();
    serde_json::to_vec(&Welcome { directory, default_domain, source }).map_err(|error| error.to_string())
}

/// Writes a new node down.
async fn admit(
    directory: &dyn Directory,
    new: NewNode,
    allowed: &str,
    facts: Vec<u8>,
) -> Result<Admission, String> {
    let duties = Duties::parse(allowed).ok_or("the token allows what is not known here")?;
    let id = new.node.ok_or("a node brings its id")?;
    let nodes = directory.nodes().await.map_err(|error| error.to_string())?;
    if nodes.iter().any(|node| node.id == id || *node.name == *new.name) {
        return Err(format!("there is a node {} already", new.name));
    }
    let duty = |one: Duties| if duties.contains(one) { Duty::On } else { Duty::Off };
    let node = Node {
        name: new.name.as_str().into(),
        serve: duty(Duties::SERVE),
        hold: duty(Duties::HOLD),
        ..Node::new(id)
    };
    directory.put_node(node).await.map_err(|error| error.to_string())?;
    Ok(Admission { identity: Identity { node: id, name: new.name, duties }, facts: facts.into() })
}

#[derive(Deserialize)]
pub(crate) struct TokenArgs {
    /// `serve`, `hold`.
    duties: Vec<String>,
    hours: u64,
}

/// Gives a token with which one node can join.
pub(crate) fn token(cluster: Option<&Cluster>, args: TokenArgs) -> Result<Value, Failed> {
    let cluster = in_cluster(cluster)?;
    let Some((ca, tokens)) = &cluster.giving else {
        return Err(Failed::new("usage", "nodes are let in by the first node; ask there"));
    };
    let duties = Duties::parse(&args.duties.join("&"));
    let Some(duties) = duties.filter(|duties| *duties != Duties::NONE && !duties.contains(Duties::DIRECTORY))
    else {
        return Err(Failed::new("usage", "a node's duties are serve and hold, or one of them"));
    };
    let valid = Duration::from_secs(args.hours.clamp(1, 24 * 30) * 3600);
    let token =
        tokens.give(ca.fingerprint(), &cluster.address, &duties.to_string(), valid, SystemTime::now());
    let token = token.map_err(|error| Failed::new("failed", error.to_string()))?;
    Ok(json!({"token": token.to_string()}))
}

/// All nodes, one reply each.
pub(crate) async fn nodes(
    cluster: Option<&Cluster>,
    directory: &dyn Directory,
    replies: &Replies,
) -> Result<Value, Failed> {
    let cluster = in_cluster(cluster)?;
    let nodes = directory.nodes().await.map_err(|error| Failed::new("failed", error.to_string()))?;
    for node in nodes {
        let row = duties::row(cluster, &node);
        if replies.row(row).await.is_err() {
            break;
        }
    }
    Ok(Value::Null)
}

/// Lets this node hold what its store has, though the directory knows that it had more.
pub(crate) fn accept(cluster: Option<&Cluster>) -> Result<Value, Failed> {
    let cluster = in_cluster(cluster)?;
    let Some(why) = cluster.fence.why() else {
        return Err(Failed::new("usage", "this node holds what it has; there is nothing to accept"));
    };
    tracing::warn!(%why, "an operator has accepted this node's store as it is");
    cluster.fence.lift();
    Ok(Value::Null)
}

pub(super) fn in_cluster(cluster: Option<&Cluster>) -> Result<&Cluster, Failed> {
    cluster
        .ok_or_else(|| Failed::new("usage", "this server is alone; cluster.listen makes it the first node"))
}
