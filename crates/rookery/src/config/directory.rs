//! Where the directory of a cluster is.

use std::path::{Path, PathBuf};

use rookery_directory::{EtcdOptions, EtcdSource};
use serde::{Deserialize, Serialize};

rookery_types::settings! {
    /// Where a cluster's directory is kept. The same for all of its nodes.
    #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    pub(crate) struct DirectorySection {
        /// `embedded`: at the first node. `etcd`: in etcd, where it survives the loss of any machine.
        pub source: SourceKind,
        /// etcd's members, as `https://host:port` or `http://host:port`.
        pub endpoints: Vec<String>,
        /// What all keys in etcd begin with. Another cluster in the same etcd needs another one.
        pub prefix: String,
        /// PEM file with the authorities that vouch for etcd's members, for `https`.
        pub ca: PathBuf,
        /// PEM file with the certificate that this node shows to etcd; empty: none.
        pub cert: PathBuf,
        /// PEM file with its private key.
        pub key: PathBuf,
        /// Who this node is to etcd, if etcd asks for a password; empty: nobody.
        pub user: String,
        /// A file with that password.
        pub password_file: PathBuf,
    }
}

/// What keeps a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SourceKind {
    /// The first node's engine.
    #[default]
    Embedded,
    /// etcd.
    Etcd,
}

impl SourceKind {
    /// As the settings have it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            SourceKind::Embedded => "embedded",
            SourceKind::Etcd => "etcd",
        }
    }
}

impl Default for DirectorySection {
    fn default() -> DirectorySection {
        DirectorySection {
            source: SourceKind::Embedded,
            endpoints: Vec::new(),
            prefix: "rookery/".to_owned(),
            ca: PathBuf::new(),
            cert: PathBuf::new(),
            key: PathBuf::new(),
            user: String::new(),
            password_file: PathBuf::new(),
        }
    }
}

impl DirectorySection {
    /// The source in etcd that the settings describe. Err: what is wrong with them.
    pub(crate) fn etcd(&self) -> Result<EtcdSource, String> {
        if self.endpoints.is_empty() {
            return Err("directory.endpoints names no member of etcd".to_owned());
        }
        let read = |file: &Path| std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()));
        let is_set = |path: &PathBuf| !path.as_os_str().is_empty();
        let ca = is_set(&self.ca).then(|| read(&self.ca)).transpose()?;
        let identity = match (is_set(&self.cert), is_set(&self.key)) {
            (true, true) => Some((read(&self.cert)?, read(&self.key)?)),
            (false, false) => None,
            _ => return Err("directory.cert and directory.key belong together".to_owned()),
        };
        let user = match self.user.is_empty() {
            true => None,
            false => {
                let password = String::from_utf8(read(&self.password_file)?)
                    .map_err(|_| "directory.password_file is not UTF-8".to_owned())?;
                Some((self.user.clone(), password.trim_end_matches(['\r', '\n']).to_owned()))
            }
        };
        let (endpoints, prefix) = (self.endpoints.clone(), self.prefix.clone());
        EtcdSource::new(EtcdOptions { endpoints, prefix, user, ca, identity })
            .map_err(|error| error.to_string())
    }
}
