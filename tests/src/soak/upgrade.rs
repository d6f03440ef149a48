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

/// Restarts all nodes, one after another, and makes sure that each runs what is installed. How long each took.
pub fn restart_all(murder: &Murder, crowd: &Crowd, report: &mut dyn FnMut(&str)) -> Result<Vec<Duration>> {
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
