//! What is asked of the directory as a whole.

use std::io::BufRead;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rookery_admin::socket::{Failed, Replies};
use rookery_directory::source::Record;
use rookery_directory::{CopiedDirectory, DirectoryError, Following, whole};
use rookery_store::AccountState;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::config::SourceKind;
use crate::node::{Node, NodeError};

/// The form of exports.
const FORMAT: u64 = 1;
/// Records that are read at once.
const PAGE: usize = 256;
/// Conflicts that are told one by one.
const CONFLICTS_TOLD: usize = 100;

fn failed(error: impl std::fmt::Display) -> Failed {
    Failed::new("failed", error.to_string())
}

/// Where the directory is, how far this node's copy, and what is in it.
pub(super) async fn status(
    node: &Node,
    cluster: Option<&Cluster>,
    directory: &CopiedDirectory,
) -> Result<Value, Failed> {
    let counts = directory.counts().await.map_err(NodeError::from)?;
    let at = directory.position().unwrap_or_default();
    let head = directory.head().await;
    let source = match directory.embedded() {
        Some(_) => "this node".to_owned(),
        None if cluster.is_some_and(|cluster| cluster.source() == SourceKind::Etcd) => "etcd".to_owned(),
        None => "another node".to_owned(),
    };
    let state = match directory.following().borrow().clone() {
        Following::Starting => "starting".to_owned(),
        Following::Following => "following".to_owned(),
        Following::Reading => "reading".to_owned(),
        Following::Away(why) => format!("away: {why}"),
        Following::WentBack(why) => format!("takes no changes: {why}"),
    };
    let (conflicts, told) = conflicts(node).await?;
    Ok(json!({
        "source": source,
        "state": state,
        "cluster": format!("{:016x}", at.cluster),
        "term": at.term,
        "revision": at.revision,
        "lag": head.ok().filter(|head| head.cluster == at.cluster).map(|head| head.revision.saturating_sub(at.revision)),
        "accounts": counts.accounts,
        "published": counts.published,
        "reservations": counts.reservations,
        "conflicts": conflicts,
        "conflicting": told,
    }))
}

/// Accounts of this node's store of which the directory says something else: how many, and some of them.
async fn conflicts(node: &Node) -> Result<(u64, Vec<String>), Failed> {
    let engine = node.store.engine_for_check();
    let homes = tokio::task::spawn_blocking(move || rookery_store::check::homes(&*engine)).await;
    let homes = homes.map_err(failed)?.map_err(failed)?;
    let (mut count, mut told) = (0, Vec::new());
    for (id, record) in homes.into_iter().filter(|(_, record)| record.state == AccountState::Home) {
        let what = match node.directory.by_id(id).await {
            Ok(entry) if entry.home.store == node.store.store_id() => continue,
            Ok(entry) => format!("{} is here, and by the directory at node {}", entry.name, entry.home.node),
            Err(DirectoryError::NotFound(_)) => {
                let owner = record.owner.map_or("a shared tree".to_owned(), |owner| owner.to_string());
                format!("account {id}, {owner}, is here, and the directory does not know it")
            }
            Err(error) => return Err(failed(error)),
        };
        count += 1;
        if told.len() < CONFLICTS_TOLD {
            told.push(what);
        }
    }
    Ok((count, told))
}

/// The first line of an export.
#[derive(Serialize, Deserialize)]
struct Head {
    rookery_directory: u64,
    cluster: u64,
    term: u64,
    revision: u64,
}

/// One record of an export.
#[derive(Serialize, Deserialize)]
struct Line {
    kind: String,
    key: String,
    value: String,
}

/// All records as they are now, one row each.
pub(super) async fn export(directory: &CopiedDirectory, replies: &Replies) -> Result<Value, Failed> {
    let whole = directory.whole().map_err(NodeError::from)?;
    let at = whole.position();
    let head = Head { rookery_directory: FORMAT, cluster: at.cluster, term: at.term, revision: at.revision };
    let gone = |_| Failed::new("interrupted", "the export was interrupted");
    replies.row(serde_json::to_value(head).map_err(failed)?).await.map_err(gone)?;
    let (mut start, mut count) = (Some(bytes::Bytes::new()), 0_u64);
    while let Some(from) = start {
        let (records, next) = whole.page(&from, PAGE).map_err(NodeError::from)?;
        for record in records {
            let kind = whole::kind_of(&record).map_err(failed)?.to_owned();
            let line =
                Line { kind, key: STANDARD.encode(&record.key), value: STANDARD.encode(&record.value) };
            replies.row(serde_json::to_value(line).map_err(failed)?).await.map_err(gone)?;
            count += 1;
        }
        start = next;
    }
    Ok(json!({"records": count}))
}

#[derive(Deserialize)]
pub(super) struct ImportArgs {
    path: PathBuf,
}

/// Puts an export into this directory, which has to be new.
pub(super) async fn import(directory: &CopiedDirectory, args: ImportArgs) -> Result<Value, Failed> {
    let records = tokio::task::spawn_blocking(move || read(&args.path)).await.map_err(failed)?;
    let records = records.map_err(failed)?;
    let count = records.len();
    directory.import(records).await.map_err(NodeError::from)?;
    Ok(json!({"records": count}))
}

/// Reads an export, and sees to it that all of it is sound before any of it is used.
fn read(path: &std::path::Path) -> Result<Vec<Record>, String> {
    let file = std::fs::File::open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut records = Vec::new();
    let mut lines = std::io::BufReader::new(file).lines().enumerate();
    let head = lines.next().and_then(|(_, line)| line.ok());
    let head = head.and_then(|line| serde_json::from_str::<Head>(&line).ok());
    if head.is_none_or(|head| head.rookery_directory != FORMAT) {
        return Err(format!("{} is no export of a directory", path.display()));
    }
    for (at, line) in lines {
        let bad = |why: &dyn std::fmt::Display| format!("{}, line {}: {why}", path.display(), at + 1);
        let line = line.map_err(|error| bad(&error))?;
        let line: Line = serde_json::from_str(&line).map_err(|error| bad(&error))?;
        let octets = |text: &str| STANDARD.decode(text).map_err(|error| bad(&error));
        let record = Record { key: octets(&line.key)?.into(), value: octets(&line.value)?.into() };
        whole::kind_of(&record).map_err(|error| bad(&error))?;
        records.push(record);
    }
    Ok(records)
}
