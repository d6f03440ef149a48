//! What SIGHUP and `rookery reload` do: the configuration and the certificates are read again, and what can change while
//! the server runs is changed.
//!
//! Invariants:
//! - A configuration with a mistake changes nothing.
//! - Every setting that differs is named: as changed, or as one that needs a restart.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use rookery_net::ServerTls;
use serde::Deserialize;

use crate::config::{self, Config, Loaded};
use crate::live::Apply;

/// Settings, or whole sections, that change while the server runs.
const LIVE: [&str; 9] = [
    "imap",
    "pop3",
    "lmtp",
    "tls",
    "log.level",
    "server.connections_max",
    "server.unauthenticated_per_address_max",
    "server.plaintext_networks",
    "server.drain_timeout_s",
];
/// What needs a restart nevertheless: the sockets.
const SOCKETS: [&str; 5] = ["listen", "listen_tls", "admins_listen", "unix_mode", "unix_group"];

/// Reads configuration and certificates again. Connections that come later take what was read last.
#[derive(Clone)]
pub(crate) struct Reload {
    shared: Arc<Shared>,
}

struct Shared {
    /// What the server runs with, and the file it came from.
    running: Mutex<Loaded>,
    tls: Option<Arc<ServerTls>>,
    apply: Vec<Apply>,
}

impl Reload {
    pub(crate) fn new(loaded: Loaded, tls: Option<Arc<ServerTls>>, mut apply: Vec<Apply>) -> Reload {
        apply.push(Box::new(|config| {
            crate::logging::set_level(config);
            Ok(())
        }));
        Reload { shared: Arc::new(Shared { running: Mutex::new(loaded), tls, apply }) }
    }

    /// The file that is read; `None`: there is none.
    pub(crate) fn file(&self) -> Option<std::path::PathBuf> {
        self.shared.running.lock().file.clone()
    }

    /// What the server runs with.
    pub(crate) fn running(&self) -> Config {
        self.shared.running.lock().config.clone()
    }

    /// Reads certificates if their files have changed, as a look now and then.
    pub(crate) fn look(&self) {
        match self.shared.tls.as_ref().map(|tls| tls.reload()) {
            None | Some(Ok(false)) => {}
            Some(Ok(true)) => tracing::info!("a certificate has changed and was read again"),
            Some(Err(error)) => {
                tracing::error!(%error, "the certificates cannot be reloaded; the old ones are served");
            }
        }
    }

    /// Says what was done, or why nothing was.
    pub(crate) fn run(&self) -> Result<String, String> {
        let done = self.read_again();
        match &done {
            Ok(text) => tracing::info!("reload: {text}"),
            Err(error) => tracing::error!(error, "reload"),
        }
        done
    }

    fn read_again(&self) -> Result<String, String> {
        let mut running = self.shared.running.lock();
        let file = match &running.file {
            Some(file) => config::load_file(file).map_err(|error| error.to_string())?.config,
            None => running.config.clone(),
        };
        let (now, wanted) = (flat(&running.config), flat(&file));
        let differs = |name: &&String| now.get(*name) != wanted.get(*name);
        let (live, rest): (Vec<&String>, Vec<&String>) =
            wanted.keys().filter(differs).partition(|name| is_live(name));
        let mut effective = now.clone();
        effective.extend(live.iter().filter_map(|name| Some(((*name).clone(), wanted.get(*name)?.clone()))));
        let effective =
            unflat(effective).map_err(|error| format!("the settings do not fit together: {error}"))?;
        let renewed = self.shared.tls.as_ref().map(|tls| tls.reload());
        for apply in &self.shared.apply {
            apply(&effective).map_err(|failure| failure.text)?;
        }
        running.config = effective;
        let list = |names: &[&String]| names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
        let mut said = Vec::new();
        if !live.is_empty() {
            said.push(format!("Changed for connections from now on: {}.", list(&live)));
        }
        match renewed {
            Some(Ok(true)) => said.push("A certificate was read again.".to_owned()),
            Some(Err(error)) => return Err(format!("the old certificates are still served: {error}")),
            Some(Ok(false)) | None => {}
        }
        if !rest.is_empty() {
            said.push(format!("Changed in the file, and in need of `rookery restart`: {}.", list(&rest)));
        }
        if said.is_empty() {
            said.push("Nothing has changed.".to_owned());
        }
        Ok(said.join(" "))
    }
}

/// Whether a setting, by its name with its section, changes while the server runs.
pub(crate) fn is_live(name: &str) -> bool {
    let covers =
        |live: &&str| name == *live || name.strip_prefix(*live).is_some_and(|rest| rest.starts_with('.'));
    let socket = name.rsplit('.').next().is_some_and(|last| SOCKETS.contains(&last));
    LIVE.iter().any(covers) && !socket
}

/// Every setting by its name with its section.
fn flat(config: &Config) -> BTreeMap<String, toml::Value> {
    let mut settings = BTreeMap::new();
    for (name, value) in toml::Table::try_from(config).unwrap_or_default() {
        match value {
            toml::Value::Table(section) => {
                settings.extend(section.into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            value => drop(settings.insert(name, value)),
        }
    }
    settings
}

fn unflat(settings: BTreeMap<String, toml::Value>) -> Result<Config, toml::de::Error> {
    let mut table = toml::Table::new();
    for (name, value) in settings {
        match name.split_once('.') {
            None => drop(table.insert(name, value)),
            Some((section, key)) => {
                let section = table.entry(section).or_insert_with(|| toml::Value::Table(toml::Table::new()));
                if let toml::Value::Table(section) = section {
                    section.insert(key.to_owned(), value);
                }
            }
        }
    }
    Config::deserialize(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_goes_flat_and_back() {
        let config = Config::default();
        assert_eq!(unflat(flat(&config)).unwrap(), config);
    }

    #[test]
    fn sockets_and_the_store_need_a_restart() {
        for name in [
            "imap.listen",
            "imap.listen_tls",
            "imap.admins_listen",
            "data_dir",
            "store.retention_days",
            "log.format",
            "default_domain",
        ] {
            assert!(!is_live(name), "{name}");
        }
        for name in ["imap.idle_timeout_s", "log.level", "tls.cert", "server.connections_max"] {
            assert!(is_live(name), "{name}");
        }
        // A list that names nothing would promise what is not done.
        let known = flat(&Config::default());
        for live in LIVE {
            let starts = |name: &String| name == live || name.starts_with(&format!("{live}."));
            assert!(known.keys().any(starts), "{live}");
        }
    }
}
