//! The directory moves into etcd: from the first node, or, where that is lost, from a node's copy. Everything but changes
//! of the directory goes on meanwhile.
//!
//! Invariants:
//! - etcd is told which directory it goes on from when it has all of that, and not before. Nodes believe only this.
//! - From then on the source so far says nothing any more.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rookery_admin::socket::{Failed, Replies};
use rookery_directory::{CopiedDirectory, Directory, EtcdSource, Following, Position, SourceError, whole};
use rookery_link::{Duties, Incoming, Message};
use rookery_types::NodeId;
use serde::Deserialize;
use serde_json::{Value, json};

use super::desk::in_cluster;
use super::site::Site;
use super::{Cluster, ask};
use crate::config::{self, DirectorySection, SourceKind};

/// The name of the service.
const SERVICE: &str = "directory-move";
/// How long another node may take, and how long until a copy follows etcd.
const WITHIN: Duration = Duration::from_secs(30);
/// How often etcd is told anew where it goes on from, while that is not certain.
const AGAIN: Duration = Duration::from_millis(500);

/// Where a node's configuration is read again, for its `[directory]`.
#[derive(Clone)]
pub(crate) struct Settings {
    /// `None`: there is no file.
    pub(crate) file: Option<PathBuf>,
}

impl Settings {
    fn etcd(&self) -> Result<DirectorySection, String> {
        let file = self.file.as_ref().ok_or("it has no configuration file")?;
        let settings = config::load_file(file).map_err(|error| error.to_string())?.config.directory;
        match settings.source {
            SourceKind::Etcd => Ok(settings),
            SourceKind::Embedded => {
                Err("its configuration does not say that directory.source is etcd".to_owned())
            }
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct MoveArgs {
    directory: DirectorySection,
}

fn failure(error: impl std::fmt::Display) -> Failed {
    Failed::new("failed", error.to_string())
}

/// Moves the directory of this node into etcd.
pub(crate) async fn promote(
    cluster: Option<&Cluster>,
    directory: &CopiedDirectory,
    args: MoveArgs,
    replies: &Replies,
) -> Result<Value, Failed> {
    let cluster = in_cluster(cluster)?;
    let Some(source) = directory.embedded() else {
        let text = "the directory is not at this node; ask the one that has it, or, if that is lost: rookery directory rebuild";
        return Err(Failed::new("usage", text));
    };
    let etcd = Arc::new(args.directory.etcd().map_err(|error| Failed::new("usage", error))?);
    let position = source.close().await.map_err(failure)?;
    match move_into(&etcd, directory, position).await {
        Ok(records) => {
            cluster.settle(directory, etcd).await.map_err(failure)?;
            cluster.tell_others(directory, replies).await;
            Ok(json!({"records": records}))
        }
        Err(SourceError::Unknown(why)) => Err(failure(format!(
            "outcome pending: {why}. The directory takes no changes until this command is given again, or the server is restarted"
        ))),
        Err(error) => {
            source.reopen();
            Err(failure(format!("the directory stays where it is: {error}")))
        }
    }
}

/// Puts this node's copy of the directory into etcd, because the directory is lost.
pub(crate) async fn rebuild(
    cluster: Option<&Cluster>,
    directory: &CopiedDirectory,
    args: MoveArgs,
    replies: &Replies,
) -> Result<Value, Failed> {
    let cluster = in_cluster(cluster)?;
    if directory.embedded().is_some() {
        let text = "this node has the directory; rookery directory promote moves it into etcd";
        return Err(Failed::new("usage", text));
    }
    let following = directory.following().borrow().clone();
    let (Following::Away(why) | Following::WentBack(why)) = following else {
        return Err(Failed::new("in-use", "the directory is there; there is nothing to rebuild"));
    };
    tracing::warn!(why, "the directory is rebuilt from this node's copy");
    let at = directory.position().ok_or_else(|| failure("this node's copy was never whole"))?;
    for (id, name) in cluster.others(directory).await {
        let Ok(other) = position_at(cluster, id).await else { continue };
        if other.cluster == at.cluster && other > at {
            return Err(failure(format!("{name} has seen more of the directory; give the command there")));
        }
    }
    let etcd = Arc::new(args.directory.etcd().map_err(|error| Failed::new("usage", error))?);
    let records = match move_into(&etcd, directory, at).await {
        Ok(records) => records,
        Err(error) => {
            return Err(failure(format!("the directory is not rebuilt: {error}; give the command again")));
        }
    };
    cluster.settle(directory, etcd).await.map_err(failure)?;
    cluster.tell_others(directory, replies).await;
    Ok(json!({"records": records}))
}

/// Gives etcd all records, then says that it goes on from there. Unknown: perhaps it was said.
async fn move_into(etcd: &EtcdSource, directory: &CopiedDirectory, at: Position) -> Result<u64, SourceError> {
    let copy = directory.whole().map_err(|error| SourceError::Damaged(error.to_string()))?;
    let away = |error: SourceError| match error {
        // Of the filling nothing counts yet.
        SourceError::Unknown(why) => SourceError::Unavailable(why),
        error => error,
    };
    let records = whole::fill(etcd, copy).await.map_err(away)?;
    let mut is_lost = false;
    let said = tokio::time::timeout(WITHIN, async {
        loop {
            match etcd.begin_after(at).await {
                Ok(()) => return Ok(()),
                Err(SourceError::Unknown(_)) => is_lost = true,
                Err(SourceError::Unavailable(_)) => {}
                Err(error) => return Err(error),
            }
            tokio::time::sleep(AGAIN).await;
        }
    });
    match said.await {
        Ok(Ok(())) => Ok(records),
        Ok(Err(error)) => Err(error),
        Err(_) if is_lost => Err(SourceError::Unknown("etcd gives no answer".to_owned())),
        Err(_) => Err(SourceError::Unavailable("etcd is away".to_owned())),
    }
}

/// How far another node's copy is.
async fn position_at(cluster: &Cluster, node: NodeId) -> Result<Position, String> {
    let question = json!({"verb": "position"});
    let answer = tokio::time::timeout(WITHIN, ask(&cluster.links, node, SERVICE, &question)).await;
    let answer = answer.unwrap_or_else(|_| Err("it takes too long".to_owned()))?;
    let number = |name: &str| answer.get(name).and_then(Value::as_u64).ok_or("its answer makes no sense");
    Ok(Position { cluster: number("cluster")?, term: number("term")?, revision: number("revision")? })
}

impl Cluster {
    /// Follows etcd from here on, and writes that down.
    async fn settle(&self, directory: &CopiedDirectory, etcd: Arc<EtcdSource>) -> Result<(), String> {
        directory.follow_on(etcd, self.links.identity().node).await.map_err(|error| error.to_string())?;
        self.has_moved()?;
        let mut following = directory.following();
        let follows = following.wait_for(|now| *now == Following::Following);
        match tokio::time::timeout(WITHIN, follows).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err("the directory has moved, and this node does not follow it yet".to_owned()),
        }
    }

    /// What keeps the directory now.
    pub(crate) fn source(&self) -> SourceKind {
        Site::load(&self.folder).ok().flatten().map_or(self.site.source, |site| site.source)
    }

    /// Writes down that the directory is in etcd.
    pub(super) fn has_moved(&self) -> Result<(), String> {
        let moved = Site { source: SourceKind::Etcd, ..self.site.clone() };
        moved.save(&self.folder).map_err(|failure| failure.text)
    }

    /// Other nodes, by id and name.
    async fn others(&self, directory: &CopiedDirectory) -> Vec<(NodeId, Box<str>)> {
        let here = self.links.identity().node;
        let nodes = directory.nodes().await.unwrap_or_default();
        nodes.into_iter().filter(|node| node.id != here).map(|node| (node.id, node.name)).collect()
    }

    /// Has all others follow, too, and says what they say.
    async fn tell_others(&self, directory: &CopiedDirectory, replies: &Replies) {
        for (id, name) in self.others(directory).await {
            let question = json!({"verb": "follow"});
            let answer = tokio::time::timeout(WITHIN, ask(&self.links, id, SERVICE, &question)).await;
            let outcome = match answer.unwrap_or_else(|_| Err("it takes too long".to_owned())) {
                Ok(Value::Null) => "follows".to_owned(),
                Ok(Value::String(why)) | Err(why) => format!("{why}; restart it with the new settings"),
                Ok(_) => "its answer makes no sense".to_owned(),
            };
            // Who asked may have gone; the others are to hear of it all the same.
            let _ = replies.row(json!({"node": name, "outcome": outcome})).await;
        }
    }

    /// Answers other nodes about this.
    pub(super) fn serve_moves(&self, directory: &CopiedDirectory, settings: Settings) {
        let (cluster, directory) = (self.clone(), directory.clone());
        self.links.serve(SERVICE, Duties::NONE, move |incoming| {
            let (cluster, directory, settings) = (cluster.clone(), directory.clone(), settings.clone());
            async move { cluster.answer_move(incoming, &directory, &settings).await }
        });
    }

    async fn answer_move(&self, mut incoming: Incoming, directory: &CopiedDirectory, settings: &Settings) {
        #[derive(Deserialize)]
        struct Question {
            verb: String,
        }
        let question = serde_json::from_slice::<Question>(&incoming.head).map(|question| question.verb);
        let answer = match question.as_deref() {
            Ok("position") => {
                let at = directory.position().unwrap_or_default();
                json!({"cluster": at.cluster, "term": at.term, "revision": at.revision})
            }
            Ok("follow") => match self.follow_etcd(directory, settings).await {
                Ok(()) => Value::Null,
                Err(why) => json!(why),
            },
            _ => json!("that is not understood"),
        };
        // Whoever asked may have gone.
        let _ = incoming.stream.send(Message::Data(Bytes::from(answer.to_string()))).await;
        let _ = incoming.stream.finish();
    }

    /// Follows etcd, if this node's own configuration says so and etcd goes on from what this node has followed.
    async fn follow_etcd(&self, directory: &CopiedDirectory, settings: &Settings) -> Result<(), String> {
        if self.source() == SourceKind::Etcd {
            return Ok(());
        }
        if directory.embedded().is_some() {
            return Err("it has a directory of its own".to_owned());
        }
        let etcd = Arc::new(settings.etcd()?.etcd()?);
        self.settle(directory, etcd).await
    }
}
