//! One server in a comparison: its process, its users, what was filled in already, and the edge before it, if any.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rookery_tests::server::{PASSWORD, Program, Server};
use rookery_tests::{peer, process};
use tokio::runtime::Runtime;

use crate::client::{Imap, Target};
use crate::edge::{self, Before, Edge, Way};
use crate::load::{self, Bound, Users};

/// A server that takes part.
pub(crate) struct Contender {
    program: Program,
    /// Where the mail is.
    pub(crate) server: Server,
    /// What clients are connected to instead.
    edge: Option<Edge>,
    users: BTreeSet<String>,
    filled: BTreeSet<String>,
    started: u64,
}

/// A program's name in tables.
pub(crate) fn name(program: Program) -> &'static str {
    match program {
        Program::Rookery => "rookery",
        Program::Dovecot => "dovecot",
        Program::Cyrus => "cyrus",
        Program::Nginx => "nginx",
    }
}

/// Servers run as users of their own and have to get through.
fn open_to_all(folder: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?)
}

impl Contender {
    /// Starts it on a new folder below this one, with what stands before it.
    pub(crate) fn start(
        program: Program,
        folder: &Path,
        binary: Option<&Path>,
        before: Before,
    ) -> Result<Contender> {
        let place = folder.join(name(program));
        std::fs::create_dir_all(&place)?;
        open_to_all(&place)?;
        // nginx stands before what Rookery's own edge stands before.
        let home = if program == Program::Nginx { Program::Rookery } else { program };
        let mut server = Server::of(home, &place)?;
        if let Some(binary) = binary {
            server.use_binary(binary.to_path_buf());
        }
        let edge = match before {
            Before::Nothing => {
                server.launch()?;
                None
            }
            before => Some(edge::start(program, &mut server, &place, binary, before)?),
        };
        let (users, filled) = (BTreeSet::new(), BTreeSet::new());
        Ok(Contender { program, server, edge, users, filled, started: 0 })
    }

    pub(crate) fn program(&self) -> Program {
        self.program
    }

    pub(crate) fn is_rookery(&self) -> bool {
        self.program == Program::Rookery
    }

    /// What clients are connected to instead of the home.
    pub(crate) fn edge(&self) -> Result<&Server> {
        Ok(&self.edge.as_ref().context("there is no edge")?.server)
    }

    /// The same, to be stopped or started.
    pub(crate) fn edge_mut(&mut self) -> Result<&mut Server> {
        Ok(&mut self.edge.as_mut().context("there is no edge")?.server)
    }

    /// How an account is moved to the other home, and back.
    pub(crate) fn ways(&self) -> Result<[Way<'_>; 2]> {
        self.edge.as_ref().context("there is no edge")?.ways(&self.server)
    }

    /// Who may make accounts, where somebody may over IMAP.
    pub(crate) fn administrator(&self) -> Result<&'static str> {
        match self.program {
            Program::Rookery => Ok(edge::ROOKERY_ADMIN),
            Program::Cyrus => Ok(edge::CYRUS_ADMIN),
            Program::Dovecot | Program::Nginx => bail!("accounts are not made over IMAP"),
        }
    }

    pub(crate) fn imap(&self) -> Target {
        Target::plain(self.server.imap)
    }

    pub(crate) fn lmtp(&self) -> Target {
        Target::plain(self.server.lmtp)
    }

    /// Makes sure that these users are there.
    pub(crate) fn users(&mut self, pattern: &str, count: usize) -> Result<Users> {
        let users = Users { pattern: pattern.to_owned(), count, password: PASSWORD.to_owned() };
        let wanted: Vec<_> = (0..count).map(|number| users.name(number)).collect();
        let missing: Vec<_> = wanted.into_iter().filter(|user| !self.users.contains(user)).collect();
        if !missing.is_empty() {
            self.server.add_users(&missing)?;
            if let (Some(edge), Program::Cyrus) = (&self.edge, self.program) {
                for server in std::iter::once(&edge.server).chain(&edge.other) {
                    missing.iter().try_for_each(|user| peer::cyrus_password(server, user))?;
                }
            }
            if self.program() == Program::Dovecot {
                // It makes INBOX when it is first needed, and fails if two need it at once.
                for user in &missing {
                    self.server.login(user)?.ok("SELECT INBOX")?;
                }
            }
            self.users.extend(missing);
        }
        Ok(users)
    }

    /// Whether this is asked for the first time.
    pub(crate) fn first(&mut self, what: &str) -> bool {
        self.filled.insert(what.to_owned())
    }

    /// A number that was not given before.
    pub(crate) fn fresh(&mut self) -> u64 {
        self.started += 1;
        self.started
    }

    /// Stops the server in good order and starts it again.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.server.stop()?;
        self.server.launch()
    }

    /// A connection of a user.
    pub(crate) async fn login(&self, user: &str) -> Result<Imap> {
        Imap::login(&self.imap(), user, PASSWORD).await
    }

    /// A user whose INBOX has so many messages of 4 KB: some hundreds delivered, the others copies of those.
    pub(crate) fn large_inbox(&mut self, runtime: &Runtime, user: &str, count: usize) -> Result<()> {
        let users = self.users(user, 1)?;
        if !self.first(user) {
            return Ok(());
        }
        let seeds = count.min(500);
        let bound = Bound::count(seeds as u64);
        runtime.block_on(async {
            load::deliver(&self.lmtp(), &users, 8, 4096, bound).await?;
            let mut client = self.login(user).await?;
            client.ok("SELECT INBOX").await?;
            client.ok(&format!("STORE 1:{} +FLAGS.SILENT (\\Seen)", (seeds / 2).max(1))).await?;
            client.ok(&format!("STORE 1:{} +FLAGS.SILENT (\\Answered)", (seeds / 10).max(1))).await?;
            let mut there = seeds;
            while there < count {
                let now = there.min(count - there);
                client.ok(&format!("COPY 1:{now} INBOX")).await?;
                there += now;
            }
            let status = client.lines("STATUS INBOX (MESSAGES)").await?.join(" ");
            ensure!(status.contains(&format!("MESSAGES {count})")), "{status} instead of {count}");
            Ok(())
        })
    }
}

/// A stretch of time and the server's CPU in it.
pub(crate) struct Window {
    root: u32,
    cpu: Duration,
    begun: Instant,
}

impl Window {
    pub(crate) fn open(contender: &Contender) -> Result<Window> {
        Window::of(&contender.server)
    }

    /// Of one server, with all its processes.
    pub(crate) fn of(server: &Server) -> Result<Window> {
        let root = server.pid()?;
        Ok(Window { root, cpu: process::cpu(root), begun: Instant::now() })
    }

    /// Seconds by the clock and seconds of the server's CPU.
    pub(crate) fn close(self) -> (f64, f64) {
        let wall = self.begun.elapsed().as_secs_f64();
        (wall, process::cpu(self.root).saturating_sub(self.cpu).as_secs_f64())
    }
}
