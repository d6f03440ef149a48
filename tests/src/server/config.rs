//! Where the server under test listens, and its configuration file.
//!
//! Invariants:
//! - Every server has a loopback address of its own, so ports picked for one are not taken by another in between.
//! - The file says where the server itself listens. Clients connect elsewhere if there is a node in front, which is told
//!   what tests add for them.

use std::fs::OpenOptions;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};

use super::{Program, Server};
use crate::peer;

/// Where a server listens.
#[derive(Debug, Clone, Copy)]
pub(super) struct Listens {
    pub(super) imap: SocketAddr,
    pub(super) imaps: SocketAddr,
    pub(super) pop3: SocketAddr,
    pub(super) pop3s: SocketAddr,
    pub(super) lmtp: SocketAddr,
    pub(super) http: SocketAddr,
    pub(super) admins: SocketAddr,
}

impl Listens {
    /// Free ports on a loopback address that no other server of this machine's tests has.
    pub(super) fn free() -> Result<Listens> {
        static SERVERS: AtomicU32 = AtomicU32::new(1);
        let number = SERVERS.fetch_add(1, Ordering::Relaxed);
        let [_, _, high, low] = std::process::id().to_be_bytes();
        let last = u8::try_from(1 + number % 250).unwrap_or(1);
        let address = IpAddr::V4(Ipv4Addr::new(127, 64 | (high & 0x3f), low, last));
        let held = (0..7).map(|_| TcpListener::bind((address, 0))).collect::<Result<Vec<_>, _>>()?;
        let picked = held.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
        let &[imap, imaps, pop3, pop3s, lmtp, http, admins] = &*picked else { bail!("not seven addresses") };
        Ok(Listens { imap, imaps, pop3, pop3s, lmtp, http, admins })
    }
}

impl Server {
    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.root().join("config")
    }

    pub(super) fn write_config(&self) -> Result<()> {
        match self.program {
            Program::Dovecot => peer::dovecot_stand_in_config(self),
            Program::Cyrus => peer::cyrus_config(self),
            // What it stands before is known to the caller, who writes it.
            Program::Nginx => Ok(()),
            Program::Rookery => Ok(std::fs::write(self.config(), self.rookery_config())?),
        }
    }

    fn rookery_config(&self) -> String {
        let (cert, key) = (self.certificate.cert.display(), self.certificate.key.display());
        format!(
            "data_dir = \"{data}\"\n\
             default_domain = \"example.org\"\n\
             hostname = \"mail.example.org\"\n\
             [imap]\nlisten = [\"{imap}\"]\nlisten_tls = [\"{imaps}\"]\nadmins_listen = [\"{admins}\"]\n\
             [pop3]\nlisten = [\"{pop3}\"]\nlisten_tls = [\"{pop3s}\"]\n\
             [lmtp]\nlisten = [\"{lmtp}\", \"unix:{socket}\"]\n\
             [http]\nlisten = [\"{http}\"]\n\
             [tls]\ncert = \"{cert}\"\nkey = \"{key}\"\n\
             [log]\nformat = \"json\"\nlevel = \"info\"\n",
            data = self.data().display(),
            socket = self.root().join("lmtp.sock").display(),
            imap = self.listens.imap,
            imaps = self.listens.imaps,
            pop3 = self.listens.pop3,
            pop3s = self.listens.pop3s,
            lmtp = self.listens.lmtp,
            http = self.listens.http,
            admins = self.listens.admins,
        )
    }

    /// Takes these ports of its address, for programs that find each other by the usual ones, which only root can use.
    pub fn use_ports(&mut self, imap: u16, lmtp: u16) -> Result<()> {
        self.imap.set_port(imap);
        self.lmtp.set_port(lmtp);
        (self.listens.imap, self.listens.lmtp) = (self.imap, self.lmtp);
        self.write_config()
    }

    /// Listens at another address, with the same ports.
    pub fn listen_at(&mut self, ip: IpAddr) -> Result<()> {
        let own = [
            &mut self.imap,
            &mut self.imaps,
            &mut self.pop3,
            &mut self.pop3s,
            &mut self.lmtp,
            &mut self.http,
            &mut self.admins,
        ];
        own.into_iter().for_each(|place| place.set_ip(ip));
        let Server { imap, imaps, pop3, pop3s, lmtp, http, admins, .. } = *self;
        self.listens = Listens { imap, imaps, pop3, pop3s, lmtp, http, admins };
        self.write_config()
    }

    /// Adds lines to the configuration file, for the next start. They follow all sections, so they begin with one.
    pub fn add_config(&self, text: &str) -> Result<()> {
        use std::io::Write;
        ensure!(self.program == Program::Rookery, "the stand-in has its own configuration");
        if let Some(edge) = self.edge.as_ref().filter(|_| !text.contains("unix:")) {
            // What concerns clients concerns the node that they connect to.
            edge.node().add_config(text)?;
        }
        let mut file = OpenOptions::new().append(true).open(self.config())?;
        Ok(file.write_all(text.as_bytes())?)
    }

    /// Takes a whole configuration of the caller's, of a server with IMAP and LMTP on TCP.
    pub fn follow_config(&mut self, text: &str) -> Result<()> {
        let first = |section: &str| -> Result<SocketAddr> {
            let place = || {
                let (_, section) = text.split_once(&format!("[{section}]\n"))?;
                section.split_once("listen = [\"")?.1.split('"').next()
            };
            Ok(place().with_context(|| format!("no place for {section}"))?.parse()?)
        };
        (self.imap, self.lmtp) = (first("imap")?, first("lmtp")?);
        (self.listens.imap, self.listens.lmtp) = (self.imap, self.lmtp);
        Ok(std::fs::write(self.config(), text)?)
    }

    /// Puts lines before all sections of the configuration file, for the next start.
    pub fn put_config_first(&self, lines: &str) -> Result<()> {
        if let Some(edge) = &self.edge {
            edge.node().put_config_first(lines)?;
        }
        let config = std::fs::read_to_string(self.config())?;
        Ok(std::fs::write(self.config(), format!("{lines}{config}"))?)
    }

    /// Adds lines to a section of whoever the clients connect to, for the next start.
    pub fn add_to_section(&self, section: &str, lines: &str) -> Result<()> {
        let config = self.edge.as_ref().map_or(self.config(), |edge| edge.node().config());
        let (before, head) = (std::fs::read_to_string(&config)?, format!("[{section}]\n"));
        ensure!(before.contains(&head), "there is no section {section}");
        Ok(std::fs::write(config, before.replace(&head, &format!("{head}{lines}")))?)
    }
}
