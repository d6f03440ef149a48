//! `rookery join`: a new node gets its certificate, and learns where the directory is.

use rookery_kv::{Batch, Space};
use rookery_link::{Duties, JoinToken, NewNode};
use rookery_store::{Store, StoreOptions};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use super::failed;
use super::site::{DirectoryAt, Site, make_folder};
use crate::config::{Config, SourceKind};
use crate::data::Folder;
use crate::exit::{Failure, Kind};
use crate::output;

/// What the cluster tells a new node.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Welcome {
    pub(super) directory: DirectoryAt,
    pub(super) default_domain: String,
    /// What keeps the directory.
    #[serde(default)]
    pub(super) source: SourceKind,
}

/// Joins the cluster that a token is of. The server of this data folder must not run.
pub(crate) async fn join(config: &Config, token: &str) -> Result<(), Failure> {
    let token: JoinToken = token.trim().parse().map_err(|error| Failure::new(Kind::Usage, error))?;
    if config.cluster.listen.is_empty() {
        return Err(Failure::new(
            Kind::Usage,
            "set cluster.listen first: other nodes have to reach this one",
        ));
    }
    let folder = Folder::open(config).await?;
    let cluster = config.data_dir.join("cluster");
    if Site::load(&cluster)?.is_some() {
        return Err(Failure::new(Kind::Exists, "this server is a node of a cluster already"));
    }
    let store = Store::open(StoreOptions::default(), Arc::clone(&folder.engine), folder.files.clone());
    let store = store.map_err(|error| failed(config.data_dir.display(), &error))?;
    let result = join_as(config, &token, &store, &folder).await;
    store.close().await;
    let site = result?;
    output::line(&format!("{} has joined; start it with: rookery serve", site.name));
    Ok(())
}

async fn join_as(
    config: &Config,
    token: &JoinToken,
    store: &Store,
    folder: &Folder,
) -> Result<Site, Failure> {
    let homes = rookery_store::check::homes(&*folder.engine);
    if !homes.map_err(|error| failed("the accounts", &error))?.is_empty() {
        return Err(Failure::new(
            Kind::InUse,
            "this data folder has accounts; a node joins with an empty one, and mail comes by export and restore",
        ));
    }
    let name = config.cluster.name(&config.hostname());
    let new = NewNode {
        node: Some(store.node()),
        name: name.clone(),
        duties: Duties::NONE,
        facts: bytes::Bytes::new(),
    };
    let joined = rookery_link::join(token, new).await.map_err(|error| failed("joining", &error))?;
    let welcome: Welcome =
        serde_json::from_slice(&joined.facts).map_err(|error| failed("what the cluster says", &error))?;
    if welcome.default_domain != config.default_domain {
        return Err(Failure::new(
            Kind::Usage,
            format!(
                "the cluster's default_domain is {}; set it here, too, and join again with a new token",
                welcome.default_domain
            ),
        ));
    }
    if welcome.source != config.directory.source {
        return Err(Failure::new(
            Kind::Usage,
            format!(
                "the cluster's directory.source is {}; set it here, too, and join again with a new token",
                welcome.source.word()
            ),
        ));
    }
    // What a start as a single server has left: its own directory, with its default domain.
    let mut batch = Batch::new();
    let scanned = folder.engine.scan(Space::Directory, b"", None, false, &mut |key, _| {
        batch.delete(Space::Directory, key.to_vec());
        true
    });
    scanned.map_err(|error| failed("the directory", &error))?;
    if !batch.is_empty() {
        store.commit_foreign(batch).await.map_err(|error| failed("the directory", &error))?;
    }
    let cluster = config.data_dir.join("cluster");
    make_folder(&cluster)?;
    joined.credentials.save(&cluster).map_err(|error| failed("this node's certificate", &error))?;
    let site = Site { name, directory: Some(welcome.directory), source: welcome.source };
    site.save(&cluster)?;
    Ok(site)
}
