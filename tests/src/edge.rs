//! A second node in front of a server, to which the clients of the tests connect instead: what a server does by itself
//! it has to do through another node.
//!
//! `ROOKERY_TESTS_BEHIND=frontend` or `unified` puts one before every server that is started. The accounts of the tests
//! are made at the server behind, and it is made sure that none is at home in front.

use crate::server::Server;
use anyhow::{Result, bail, ensure};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

/// What stands in front.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Behind {
    /// A node that holds no accounts.
    Frontend,
    /// A node that could hold accounts.
    Unified,
}

impl Behind {
    /// What the environment asks for.
    pub fn chosen() -> Result<Option<Behind>> {
        match std::env::var("ROOKERY_TESTS_BEHIND") {
            Err(_) => Ok(None),
            Ok(mode) if mode == "frontend" => Ok(Some(Behind::Frontend)),
            Ok(mode) if mode == "unified" => Ok(Some(Behind::Unified)),
            Ok(other) => bail!("ROOKERY_TESTS_BEHIND is {other}, neither frontend nor unified"),
        }
    }

    fn duties(self) -> &'static str {
        match self {
            Behind::Frontend => "serve",
            Behind::Unified => "serve,hold",
        }
    }
}

/// A free place for the links of the node whose services are on this address.
pub fn link_place(address: SocketAddr) -> Result<SocketAddr> {
    // The port is free again before the server takes it, and the ports of its services are free now. So it is on an
    // address of its own: those of services have this bit clear.
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_loopback() => {
            let [first, second, third, last] = ip.octets();
            Ipv4Addr::new(first, second | 0x80, third, last).into()
        }
        ip => ip,
    };
    Ok(TcpListener::bind((ip, 0))?.local_addr()?)
}

/// The `[cluster]` section of a node.
pub fn cluster_section(name: &str, link: SocketAddr) -> String {
    format!("[cluster]\nlisten = \"{link}\"\nname = \"{name}\"\n")
}

/// Lets a node that was not started yet join the cluster of another, and starts it.
pub fn join(node: &mut Server, cluster: &Server, duties: &str) -> Result<()> {
    let_join(node, cluster, duties)?;
    node.launch()
}

/// The same without starting it.
pub fn let_join(node: &mut Server, cluster: &Server, duties: &str) -> Result<()> {
    let given = cluster.cli(&["node", "token", "--duties", duties], b"")?;
    ensure!(given.status.success(), "node token: {}", given.text());
    let joined = node.cli(&["join", given.text().trim()], b"")?;
    ensure!(joined.status.success(), "join: {}", joined.text());
    Ok(())
}

/// The node in front of a server.
#[derive(Debug)]
pub struct Edge {
    node: Box<Server>,
    behind: Behind,
    joined: bool,
}

impl Edge {
    /// Of a server that is being prepared.
    pub(crate) fn new(node: Server, behind: Behind) -> Result<Edge> {
        node.add_config(&cluster_section("front.example", link_place(node.imap)?))?;
        Ok(Edge { node: Box::new(node), behind, joined: false })
    }

    /// The node.
    pub fn node(&self) -> &Server {
        &self.node
    }

    /// The server behind it runs.
    pub(crate) fn launch(&mut self, cluster: &Server) -> Result<()> {
        if self.joined {
            return self.node.launch();
        }
        join(&mut self.node, cluster, self.behind.duties())?;
        self.joined = true;
        Ok(())
    }

    /// Stops it in good order. `allowed`: what its log may complain of.
    pub(crate) fn stop(&mut self, allowed: &[String]) -> Result<()> {
        let checked = self.node.cli(&["check", "--json"], b"")?;
        ensure!(checked.status.success(), "check in front: {}", checked.text());
        let found: serde_json::Value = serde_json::from_str(&checked.text())?;
        ensure!(found["sums"]["accounts"] == 0, "an account of the tests is at home in front: {found}");
        allowed.iter().for_each(|text| self.node.allow_log(text));
        self.node.stop()
    }

    /// Kills it.
    pub(crate) fn kill9(&mut self) -> Result<()> {
        self.node.kill9()
    }
}
