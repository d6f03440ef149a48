//! Several servers as one cluster, each with a folder, ports and a log of its own.

use crate::server::Server;
use anyhow::{Context, Result, ensure};
use std::net::TcpListener;

/// Starts a server that has never run as a node: of the founder's cluster, with these duties, or of one of its own.
pub fn start_node(server: &mut Server, name: &str, founder: Option<(&Server, &str)>) -> Result<()> {
    // The port is free again before the server takes it; nobody else is on this address.
    let link = TcpListener::bind((server.imap.ip(), 0))?.local_addr()?;
    server.add_config(&format!("[cluster]\nlisten = \"{link}\"\nname = \"{name}\"\n"))?;
    if let Some((founder, duties)) = founder {
        let given = founder.cli(&["node", "token", "--duties", duties], b"")?;
        ensure!(given.status.success(), "node token: {}", given.text());
        let joined = server.cli(&["join", given.text().trim()], b"")?;
        ensure!(joined.status.success(), "join: {}", joined.text());
    }
    server.launch()
}

/// The nodes of a cluster. The first one has the directory.
#[derive(Debug)]
pub struct Murder {
    /// In the order of their names given.
    pub nodes: Vec<Server>,
}

impl Murder {
    /// Starts nodes of these names and duties (`serve,hold`), one after another. The first is the founder, whose
    /// duties are set by its founding.
    pub fn start(nodes: &[(&str, &str)]) -> Result<Murder> {
        let mut murder = Murder { nodes: Vec::new() };
        for (name, duties) in nodes {
            murder.add(name, duties)?;
        }
        Ok(murder)
    }

    /// Lets one more node join, and starts it.
    pub fn add(&mut self, name: &str, duties: &str) -> Result<()> {
        let mut server = Server::unstarted()?;
        start_node(&mut server, name, self.nodes.first().map(|founder| (founder, duties)))?;
        self.nodes.push(server);
        Ok(())
    }

    /// Of that place.
    pub fn node(&self, place: usize) -> Result<&Server> {
        self.nodes.get(place).context("no such node")
    }

    /// The same, to be stopped or started.
    pub fn node_mut(&mut self, place: usize) -> Result<&mut Server> {
        self.nodes.get_mut(place).context("no such node")
    }

    /// Stops all of them, the founder last; their logs must be clean.
    pub fn stop(&mut self) -> Result<()> {
        self.nodes.iter_mut().rev().try_for_each(Server::stop)
    }
}
