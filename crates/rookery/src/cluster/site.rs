//! What a node keeps of its cluster in its data folder, beside certificates.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::SystemTime;

use rookery_link::Ca;
use rookery_types::NodeId;
use serde::{Deserialize, Serialize};

use super::{failed, founder};
use crate::config::{Config, SourceKind};
use crate::exit::Failure;

/// This node's cluster.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Site {
    /// This node's name.
    pub(super) name: String,
    /// Which node founded the cluster, and has the directory if that is embedded; `None`: this one.
    pub(super) directory: Option<DirectoryAt>,
    /// What keeps the directory that this node's copy is of.
    #[serde(default)]
    pub(super) source: SourceKind,
}

/// Where the first node is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct DirectoryAt {
    /// The node.
    pub(super) node: u64,
    /// Where it is reached, as `host:port`.
    pub(super) address: String,
}

impl Site {
    /// `None`: this node is in no cluster.
    pub(super) fn load(folder: &Path) -> Result<Option<Site>, Failure> {
        let file = folder.join("site.json");
        match fs::read(&file) {
            Ok(octets) => {
                let site = serde_json::from_slice(&octets);
                site.map(Some).map_err(|error| failed(file.display(), &error))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(file.display(), &error)),
        }
    }

    /// Written last: a folder without it is none.
    pub(super) fn save(&self, folder: &Path) -> Result<(), Failure> {
        let text = serde_json::to_vec_pretty(self).map_err(|error| failed("site.json", &error))?;
        write(&folder.join("site.json"), &text)
    }

    /// Makes a cluster of this one node.
    pub(super) fn found(folder: &Path, config: &Config, node: NodeId) -> Result<Site, Failure> {
        make_folder(folder)?;
        let now = SystemTime::now();
        let name = config.cluster.name(&config.hostname());
        let made = Ca::make(&config.default_domain, now).and_then(|ca| {
            ca.save(folder)?;
            ca.credentials(&founder(node, &name), now)?.save(folder)
        });
        made.map_err(|error| failed("the cluster's certificates", &error))?;
        let site = Site { name, directory: None, source: config.directory.source };
        site.save(folder)?;
        tracing::info!(name = site.name, "this server is the first node of a cluster");
        Ok(site)
    }
}

pub(super) fn make_folder(folder: &Path) -> Result<(), Failure> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| failed(folder.display(), &error))
}

/// Writes a file whole or not at all.
fn write(file: &Path, octets: &[u8]) -> Result<(), Failure> {
    let part = file.with_extension("part");
    let written = (|| {
        let mut out =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        out.write_all(octets)?;
        out.sync_all()?;
        fs::rename(&part, file)?;
        fs::File::open(file.parent().unwrap_or(Path::new(".")))?.sync_all()
    })();
    written.map_err(|error: std::io::Error| failed(file.display(), &error))
}
