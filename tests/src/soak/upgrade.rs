//! A program that is replaced under nodes that run, one node after another.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::murder::Murder;
use crate::server::{self, START_STOP_MAX, Server};
use crate::soak::crowd::Crowd;

/// Where an operator would have put the program, for all nodes of a run.
#[derive(Debug)]
pub struct Installed {
    folder: tempfile::TempDir,
}

impl Installed {
    /// This program, or that of the tests.
    pub fn new(program: Option<&Path>) -> Result<Installed> {
        let installed = Installed { folder: tempfile::tempdir()? };
        installed.put(&program.map_or_else(server::binary, |path| Ok(path.to_path_buf()))?, b"")?;
        Ok(installed)
    }

    /// Its file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("rookery")
    }

    fn put(&self, program: &Path, tail: &[u8]) -> Result<()> {
        let new = self.folder.path().join("new");
        std::fs::copy(program, &new).with_context(|| program.display().to_string())?;
        std::fs::OpenOptions::new().append(true).open(&new)?.write_all(tail)?;
        Ok(std::fs::rename(new, self.path())?)
    }

    /// Puts another program in its place; without one, the same with an octet more.
    pub fn replace(&self, program: Option<&Path>) -> Result<()> {
        match program {
            Some(program) => self.put(program, b""),
            None => self.put(&self.path(), b"\n"),
        }
    }
}

/// An account that goes from a node that runs one program to one that runs another, and back, under clients at both, while
/// mail for it comes in at both.
#[derive(Debug)]
pub struct Traveller<'a> {
    /// The user.
    pub user: &'a str,
    /// The names of the nodes.
    pub nodes: &'a [&'a str],
}

impl Traveller<'_> {
    fn to_and_fro(&self, murder: &Murder, new: usize, old: usize) -> Result<()> {
        let mut clients = Vec::new();
        let mut count = 0;
        for at in [new, old] {
            let mut client = murder.node(at)?.login(self.user)?;
            let told = client.ok("SELECT INBOX")?.lines();
            let exists = told.iter().find_map(|line| line.strip_suffix(" EXISTS"));
            count = exists.context("no EXISTS")?.parse::<u32>()?;
            clients.push((at, client));
        }
        // Asked at either, whichever has the account.
        for (asked, to) in [(new, old), (old, new)] {
            let name = *self.nodes.get(to).context("a node without a name")?;
            let words = ["move", "user", self.user, "--to", name, "--wait"];
            let moved = murder.node(asked)?.cli(&words, b"")?;
            ensure!(moved.status.success(), "{words:?}: {}", moved.text());
            for at in [new, old] {
                count += 1;
                let text = format!("Subject: {count}\r\n\r\n");
                murder.node(at)?.deliver(self.user, text.as_bytes())?;
                for (client_at, client) in &mut clients {
                    let what = || format!("at {client_at}, home {to}, mail at {at}");
                    let told = client.ok("NOOP").with_context(what)?.lines();
                    ensure!(told.contains(&format!("{count} EXISTS")), "{}: {told:?}", what());
                    client.ok(&format!("STORE {count} +FLAGS (\\Flagged)")).with_context(what)?;
                }
            }
        }
        Ok(())
    }
}

/// Restarts all nodes, one after another, and makes sure that each runs what is installed. How long each took. While nodes
/// with the old program are left, the traveller goes to one of them and back.
pub fn restart_all(
    murder: &Murder,
    crowd: &Crowd,
    traveller: &Traveller<'_>,
    report: &mut dyn FnMut(&str),
) -> Result<Vec<Duration>> {
    let mut took = Vec::new();
    for (number, node) in murder.nodes.iter().enumerate() {
        ensure!(!runs_what_is_installed(node)?, "node {number} runs the new program already");
        let began = Instant::now();
        let restarted = node.cli(&["restart"], b"")?;
        ensure!(restarted.status.success(), "restart: {}", restarted.text());
        took.push(began.elapsed());
        // It answers the command line a little before it says so.
        while !runs_what_is_installed(node)? {
            ensure!(began.elapsed() < START_STOP_MAX, "node {number} still runs the old program");
            std::thread::sleep(Duration::from_millis(20));
        }
        report(&format!("node {number} restarted in {:?}", began.elapsed()));
        if number + 1 < murder.nodes.len() {
            traveller.to_and_fro(murder, number, number + 1)?;
        }
        // People work with the old and the new for a while.
        std::thread::sleep(Duration::from_secs(1));
        crowd.nobody_failed()?;
    }
    Ok(took)
}

/// Whether the process that serves is the file that is installed, and not what that has replaced.
pub fn runs_what_is_installed(node: &Server) -> Result<bool> {
    let log = std::fs::read_to_string(node.log_path())?;
    let pid = log.lines().rev().find_map(|line| {
        // As JSON or as plain text.
        let is_ready = line.contains("\"ready\"") || line.contains(" ready version=");
        let (_, pid) = line.split_once("\"pid\":").or_else(|| line.split_once("pid="))?;
        let digits = pid.split(|octet: char| !octet.is_ascii_digit()).next()?;
        digits.parse::<u32>().ok().filter(|_| is_ready)
    });
    let pid = pid.context("no server has said that it is ready")?;
    // Of a file that is gone the kernel says so.
    Ok(std::fs::read_link(format!("/proc/{pid}/exe"))? == node.binary()?)
}
