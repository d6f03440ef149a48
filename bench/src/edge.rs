//! What clients are connected to instead of the server that has their mail: another node, or a proxy.
//!
//! Rookery's nodes speak over mutual TLS, since they have nothing else; the peers in plain text, as they do where the
//! network between them is trusted.

use std::path::Path;

use anyhow::{Context, Result, bail};
use rookery_tests::edge as front;
use rookery_tests::etcd::Etcd;
use rookery_tests::peer;
use rookery_tests::server::{PASSWORD, Program, Server};

/// What clients are connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Before {
    /// The server with the mail.
    Nothing,
    /// An edge.
    Edge,
    /// An edge of a cluster whose directory is in etcd. Rookery alone has that.
    EdgeOfEtcd,
    /// An edge, and another node beside the home, to which accounts can move. Rookery and Cyrus have that.
    EdgeOfTwo,
}

/// Members of etcd.
const MEMBERS: usize = 3;
/// Who may make accounts, on both nodes.
pub(crate) const ROOKERY_ADMIN: &str = "postmaster";
pub(crate) const CYRUS_ADMIN: &str = "cyrus";
/// Where proxies look for what they are told no port of.
const IMAP: u16 = 143;
const LMTP: u16 = 24;
/// Whom a Cyrus frontend logs in as.
const CYRUS_PROXY: &str = "murder";
/// Rookery's two homes.
const HOME: &str = "be1.example";
const OTHER: &str = "be2.example";

/// An edge that runs.
pub(crate) struct Edge {
    pub(crate) server: Server,
    /// Another home.
    pub(crate) other: Option<Server>,
    /// It ends behind the nodes.
    _etcd: Option<Etcd>,
}

/// Starts an edge, and before it the home, which was prepared and not started.
pub(crate) fn start(
    program: Program,
    home: &mut Server,
    place: &Path,
    binary: Option<&Path>,
    before: Before,
) -> Result<Edge> {
    let prepared = |name: &str| -> Result<Server> {
        let place = place.join(name);
        std::fs::create_dir_all(&place)?;
        let mut server = Server::of(program, &place)?;
        if let Some(binary) = binary {
            server.use_binary(binary.to_path_buf());
        }
        Ok(server)
    };
    let mut edge = prepared("edge")?;
    let mut other = (before == Before::EdgeOfTwo).then(|| prepared("other")).transpose()?;
    match program {
        Program::Rookery => return rookery(home, edge, other, before),
        Program::Cyrus => cyrus(home, other.as_mut(), &edge)?,
        Program::Dovecot => {
            home.use_ports(IMAP, LMTP)?;
            // It asks for LMTP at the port where it was asked itself.
            edge.use_ports(edge.imap.port(), LMTP)?;
            write(&edge, home, &edge.config(), include_str!("../peers/dovecot-proxy.conf"))?;
        }
        Program::Nginx => write(&edge, home, &edge.config(), include_str!("../peers/nginx-mail.conf"))?,
    }
    home.launch().context("the home")?;
    edge.launch().context("the edge")?;
    if let Some(other) = &mut other {
        other.launch().context("the other home")?;
    }
    Ok(Edge { server: edge, other, _etcd: None })
}

fn rookery(home: &mut Server, mut edge: Server, mut other: Option<Server>, before: Before) -> Result<Edge> {
    let etcd = match before {
        Before::EdgeOfEtcd => Some(Etcd::start(home.imap.ip(), MEMBERS)?),
        Before::Nothing | Before::Edge | Before::EdgeOfTwo => None,
    };
    let directory = etcd.as_ref().map(|etcd| etcd.config(true)).transpose()?.unwrap_or_default();
    let nodes = [(Some(&*home), HOME), (Some(&edge), "fe1.example"), (other.as_ref(), OTHER)];
    for (server, name) in nodes.into_iter().filter_map(|(server, name)| Some((server?, name))) {
        server.put_config_first(&format!("admins = [\"{ROOKERY_ADMIN}\"]\n"))?;
        server.add_config(&directory)?;
        server.add_config(&front::cluster_section(name, front::link_place(server.imap)?))?;
    }
    home.launch()?;
    home.add_user(ROOKERY_ADMIN)?;
    front::join(&mut edge, home, "serve")?;
    if let Some(other) = &mut other {
        front::join(other, home, "serve,hold")?;
    }
    Ok(Edge { server: edge, other, _etcd: etcd })
}

/// What an account is moved by: where that is asked, the home that has it or the edge, and the name of where it goes.
pub(crate) struct Way<'a> {
    pub(crate) asked: &'a Server,
    pub(crate) to: String,
}

impl Edge {
    /// From the home to the other one, and back.
    pub(crate) fn ways<'a>(&'a self, home: &'a Server) -> Result<[Way<'a>; 2]> {
        let other = self.other.as_ref().context("there is no other home")?;
        match home.program() {
            Program::Rookery => Ok([OTHER, HOME].map(|to| Way { asked: &self.server, to: to.to_owned() })),
            // A frontend of 3.6 carries XFER out itself, in vain, instead of passing it on.
            Program::Cyrus => Ok([(home, other), (other, home)]
                .map(|(from, to)| Way { asked: from, to: to.imap.ip().to_string() })),
            Program::Dovecot | Program::Nginx => bail!("accounts cannot be moved"),
        }
    }
}

/// A frontend with the mupdate master beside it; the homes become its backends.
fn cyrus(home: &mut Server, other: Option<&mut Server>, edge: &Server) -> Result<()> {
    let root = edge.root();
    let master = root.join("data-master");
    for folder in ["conf/socket", "conf/proc", "conf/lock", "sieve"] {
        std::fs::create_dir_all(master.join(folder))?;
    }
    write(edge, home, &edge.config(), include_str!("../peers/cyrus-frontend-imapd.conf"))?;
    write(edge, home, &root.join("services"), include_str!("../peers/cyrus-frontend-services.conf"))?;
    write(edge, home, &root.join("master"), include_str!("../peers/cyrus-master-imapd.conf"))?;
    peer::cyrus_password(edge, CYRUS_PROXY)?;
    peer::cyrus_own(edge)?;
    cyrus_backend(home, edge)?;
    other.map_or(Ok(()), |other| cyrus_backend(other, edge))
}

fn cyrus_backend(home: &mut Server, edge: &Server) -> Result<()> {
    // The load's LMTP is one without a login, which is not what a frontend expects; it has a port of its own.
    home.use_ports(IMAP, home.lmtp.port())?;
    let services = home.root().join("services");
    let text = std::fs::read_to_string(&services)?;
    let more = filled(edge, home, include_str!("../peers/cyrus-backend-services.conf"));
    std::fs::write(&services, text.replace("SERVICES {\n", &format!("SERVICES {{\n{more}")))?;
    let mut config = std::fs::read_to_string(home.config())?;
    // A backend that moves an account to another does so as an administrator there.
    config = config
        .replace(&format!("\nadmins: {CYRUS_ADMIN}\n"), &format!("\nadmins: {CYRUS_ADMIN} {CYRUS_PROXY}\n"));
    config.push_str(&filled(edge, home, include_str!("../peers/cyrus-backend-murder.conf")));
    std::fs::write(home.config(), config)?;
    peer::cyrus_password(home, CYRUS_PROXY)?;
    peer::cyrus_own(home)
}

fn write(edge: &Server, home: &Server, file: &Path, template: &str) -> Result<()> {
    Ok(std::fs::write(file, filled(edge, home, template))?)
}

fn filled(edge: &Server, home: &Server, template: &str) -> String {
    template
        .replace("@BIN@", peer::CYRUS_PROGRAMS)
        .replace("@ROOT@", &edge.root().display().to_string())
        .replace("@DATA@", &edge.data().display().to_string())
        .replace("@HOST@", &edge.imap.ip().to_string())
        .replace("@EDGE@", &edge.imap.ip().to_string())
        .replace("@IMAPPORT@", &edge.imap.port().to_string())
        .replace("@LMTPPORT@", &edge.lmtp.port().to_string())
        .replace("@IMAP@", &edge.imap.to_string())
        .replace("@LMTP@", &edge.lmtp.to_string())
        .replace("@HTTP@", &edge.http.to_string())
        // None speaks POP3 here, so its port is free.
        .replace("@SLAVEPORT@", &edge.pop3.port().to_string())
        .replace("@HOMEROOT@", &home.root().display().to_string())
        .replace("@HOMEIP@", &home.imap.ip().to_string())
        .replace("@HOMEPORT@", &home.imap.port().to_string())
        .replace("@HOME@", &home.imap.ip().to_string())
        .replace("@PASSWORD@", PASSWORD)
}
