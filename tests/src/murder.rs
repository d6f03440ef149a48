//! Several servers as one cluster, each with a folder, ports and a log of its own.

use crate::edge;
use crate::namespace::Namespace;
use crate::server::Server;
use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// The nodes of a cluster. The first one has the directory.
#[derive(Debug)]
pub struct Murder {
    /// The program that all run, if it is not the one of the tests.
    binary: Option<PathBuf>,
    /// What all configurations begin with.
    top: String,
    /// What they say besides.
    config: String,
    /// In the order of their names given.
    pub nodes: Vec<Server>,
}

impl Murder {
    /// Starts nodes of these names and duties (`serve,hold`), one after another. The first is the founder, whose
    /// duties are set by its founding.
    pub fn start(nodes: &[(&str, &str)]) -> Result<Murder> {
        Murder::start_with(nodes, "")
    }

    /// The same, with more sections in the configuration of each.
    pub fn start_with(nodes: &[(&str, &str)], config: &str) -> Result<Murder> {
        Murder::start_under(nodes, "", config)
    }

    /// The same, of a program other than that of the tests.
    pub fn start_by(binary: Option<&Path>, nodes: &[(&str, &str)]) -> Result<Murder> {
        Murder::of(binary, "").with(nodes)
    }

    /// The same, with lines before all sections.
    pub fn start_under(nodes: &[(&str, &str)], top: &str, config: &str) -> Result<Murder> {
        Murder::empty(top, config).with(nodes)
    }

    /// No node yet; all will run this program, if it is not that of the tests, and have these sections.
    pub fn of(binary: Option<&Path>, config: &str) -> Murder {
        Murder::empty("", config).by(binary)
    }

    /// The configurations of nodes to come begin with these lines.
    pub fn under(self, top: &str) -> Murder {
        Murder { top: top.to_owned(), ..self }
    }

    fn empty(top: &str, config: &str) -> Murder {
        Murder { binary: None, top: top.to_owned(), config: config.to_owned(), nodes: Vec::new() }
    }

    fn by(self, binary: Option<&Path>) -> Murder {
        Murder { binary: binary.map(Path::to_path_buf), ..self }
    }

    fn with(mut self, nodes: &[(&str, &str)]) -> Result<Murder> {
        for (name, duties) in nodes {
            self.add(name, duties)?;
        }
        Ok(self)
    }

    /// A cluster of one node so far, which runs already. Nodes that join run `binary`.
    pub fn around(first: Server, binary: Option<&Path>) -> Murder {
        Murder { nodes: vec![first], ..Murder::of(binary, "") }
    }

    /// Adds sections to the configuration of all nodes, and of those to come.
    pub fn configure(&mut self, config: &str) -> Result<()> {
        self.config += config;
        self.nodes.iter().try_for_each(|node| node.add_config(config))
    }

    /// Lets one more node join, and starts it.
    pub fn add(&mut self, name: &str, duties: &str) -> Result<()> {
        let server = Server::unstarted()?;
        let link = edge::link_place(server.imap)?;
        self.add_server(server, name, duties, link)
    }

    /// The same, with its links at the end of a cable: this one, or, with all of the server, the one inside.
    pub fn add_at(&mut self, name: &str, duties: &str, cable: &Namespace, inside: bool) -> Result<()> {
        let mut server = Server::unstarted()?;
        let mut link = edge::link_place(server.imap)?;
        match inside {
            true => {
                server.listen_at(cable.inside())?;
                server.wrap(&cable.wrapper());
                let trusted = format!("trusted = [\"{}\", \"loopback\"]\n", cable.here());
                server.add_to_section("lmtp", &trusted)?;
                server.add_to_section("imap", "plaintext_login = true\n")?;
                // Nothing else is there.
                link.set_ip(cable.inside());
            }
            false => {
                link.set_ip(cable.here());
                link = edge::link_place(link)?;
            }
        }
        self.add_server(server, name, duties, link)
    }

    fn add_server(&mut self, mut server: Server, name: &str, duties: &str, link: SocketAddr) -> Result<()> {
        if let Some(binary) = &self.binary {
            server.use_binary(binary.clone());
        }
        let config = std::fs::read_to_string(server.config())?;
        std::fs::write(server.config(), format!("{}{config}", self.top))?;
        server.add_config(&edge::cluster_section(name, link))?;
        server.add_config(&self.config)?;
        match self.nodes.first() {
            Some(founder) => {
                edge::let_join(&mut server, founder, duties)?;
                // Backends take clients in the tests, of the accounts that they hold.
                let on = founder.cli(&["node", "serve", "on", "--node", name], b"")?;
                ensure!(on.status.success(), "node serve: {}", on.text());
                server.launch()?;
            }
            None => server.launch()?,
        }
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
