//! The server under test as a process: its folder, start, kill, stop, log and command line.
//!
//! Invariants:
//! - A server that is dropped is killed, and if the thread is panicking the end of its log is printed.
//! - After [`Server::stop`] its log held no line of level WARN or ERROR that was not announced with
//!   [`Server::allow_log`].

mod config;

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use crate::certificate::{self, Certificate};
use crate::command::{self, Output};
use crate::edge::{self, Behind, Edge};
use crate::imap::Imap;
use crate::lmtp::Lmtp;
use crate::peer;
use config::Listens;

/// How long a server may take until it answers, and until it has ended after SIGTERM.
pub const START_STOP_MAX: Duration = Duration::from_secs(60);
/// The password of every account that tests add.
pub const PASSWORD: &str = "correct horse";

/// Accounts that are added at the same time: each costs a password hash.
const ADDING_AT_ONCE: usize = 4;

/// Which program is driven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The real binary.
    Rookery,
    /// Dovecot as a stand-in, to tell mistakes of the tests from mistakes of the server
    /// (`ROOKERY_TESTS_PROGRAM=dovecot`).
    Dovecot,
    /// Cyrus IMAP, for side-by-side figures alone.
    Cyrus,
    /// nginx in front of another server, for side-by-side figures alone. It has no mail and no LMTP.
    Nginx,
}

impl Program {
    /// What the environment asks for.
    pub fn chosen() -> Program {
        let stand_in = std::env::var("ROOKERY_TESTS_PROGRAM").is_ok_and(|name| name == "dovecot");
        if stand_in { Program::Dovecot } else { Program::Rookery }
    }
}

/// A server and its folder.
#[derive(Debug)]
pub struct Server {
    program: Program,
    folder: Folder,
    child: Option<Child>,
    /// Set for the process: `LD_PRELOAD` and what the shim wants.
    environment: Vec<(OsString, OsString)>,
    allowed_log: Vec<String>,
    binary: Option<PathBuf>,
    /// Program and arguments that the server is started through.
    wrapper: Vec<OsString>,
    /// The node in front, to which clients connect.
    edge: Option<Edge>,
    /// Where the server itself listens.
    listens: Listens,
    /// Octets of the log already judged by an earlier stop.
    log_judged: u64,
    /// IMAP with STARTTLS.
    pub imap: SocketAddr,
    /// IMAP over TLS.
    pub imaps: SocketAddr,
    /// POP3 with STLS.
    pub pop3: SocketAddr,
    /// POP3 over TLS.
    pub pop3s: SocketAddr,
    /// LMTP over TCP.
    pub lmtp: SocketAddr,
    /// Metrics and health.
    pub http: SocketAddr,
    /// IMAP for administrators alone.
    pub admins: SocketAddr,
    /// What TLS clients are to trust.
    pub certificate: Certificate,
}

#[derive(Debug)]
pub(crate) enum Folder {
    Temporary(tempfile::TempDir),
    Given(PathBuf),
}

impl Server {
    /// Starts a server on a new temporary folder.
    pub fn start() -> Result<Server> {
        let mut server = Server::unstarted()?;
        server.launch()?;
        Ok(server)
    }

    /// Prepares a server on a folder of the caller's (its data stay there), without starting it.
    pub fn on(folder: &Path) -> Result<Server> {
        Server::prepare(Program::chosen(), Folder::Given(folder.to_path_buf()))
    }

    /// As [`Server::on`], for a program of the caller's choice.
    pub fn of(program: Program, folder: &Path) -> Result<Server> {
        Server::prepare(program, Folder::Given(folder.to_path_buf()))
    }

    fn prepare(program: Program, folder: Folder) -> Result<Server> {
        let mut server = Server::prepare_alone(program, folder)?;
        if let Some(behind) = Behind::chosen()?
            && program == Program::Rookery
        {
            server.add_config(&edge::cluster_section("home.example", edge::link_place(server.imap)?))?;
            let root = server.root().join("front");
            std::fs::create_dir_all(&root)?;
            let node = Server::prepare_alone(program, Folder::Given(root))?;
            (server.imap, server.imaps) = (node.listens.imap, node.listens.imaps);
            (server.pop3, server.pop3s) = (node.listens.pop3, node.listens.pop3s);
            server.lmtp = node.listens.lmtp;
            server.certificate = node.certificate.clone();
            server.edge = Some(Edge::new(node, behind)?);
        }
        Ok(server)
    }

    /// Without a node in front.
    pub(crate) fn prepare_alone(program: Program, folder: Folder) -> Result<Server> {
        let root = match &folder {
            Folder::Temporary(dir) => dir.path().to_path_buf(),
            Folder::Given(path) => path.clone(),
        };
        let listens = Listens::free()?;
        let Listens { imap, imaps, pop3, pop3s, lmtp, http, admins } = listens;
        let certificate = certificate::make(&root)?;
        let log_judged = std::fs::metadata(root.join("log")).map_or(0, |meta| meta.len());
        let server = Server {
            program,
            folder,
            child: None,
            environment: Vec::new(),
            allowed_log: Vec::new(),
            binary: None,
            wrapper: Vec::new(),
            edge: None,
            listens,
            log_judged,
            imap,
            imaps,
            pop3,
            pop3s,
            lmtp,
            http,
            admins,
            certificate,
        };
        server.write_config()?;
        Ok(server)
    }

    /// The folder of everything that belongs to this server.
    pub fn root(&self) -> &Path {
        match &self.folder {
            Folder::Temporary(dir) => dir.path(),
            Folder::Given(path) => path,
        }
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.root().join("data")
    }

    /// The LMTP socket that clients connect to.
    pub fn lmtp_socket(&self) -> PathBuf {
        match &self.edge {
            Some(edge) => edge.node().lmtp_socket(),
            None => self.root().join("lmtp.sock"),
        }
    }

    /// The log file: standard output and error of all starts.
    pub fn log_path(&self) -> PathBuf {
        self.root().join("log")
    }

    /// Sets a variable for the next start.
    pub fn set_environment(&mut self, name: &str, value: impl Into<OsString>) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.into(), value.into()));
    }

    /// Log lines of level WARN or ERROR that hold this text are expected.
    pub fn allow_log(&mut self, text: &str) {
        self.allowed_log.push(text.to_owned());
    }

    /// Drives this binary instead of the one built beside the tests.
    pub fn use_binary(&mut self, path: PathBuf) {
        self.binary = Some(path);
    }

    /// Starts the server through this program, which must end by `exec` of the arguments that follow its own.
    pub fn wrap(&mut self, program: &[&str]) {
        self.wrapper = program.iter().map(OsString::from).collect();
    }

    /// Prepares a server on a new temporary folder, without starting it.
    pub fn unstarted() -> Result<Server> {
        let folder = tempfile::Builder::new().prefix("rookery-test-").tempdir()?;
        Server::prepare(Program::chosen(), Folder::Temporary(folder))
    }

    /// The program that is started.
    pub fn binary(&self) -> Result<PathBuf> {
        self.binary.clone().map_or_else(binary, Ok)
    }

    /// Which program this is.
    pub fn program(&self) -> Program {
        self.program
    }

    /// Starts the process and waits until it greets.
    pub fn launch(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "the server runs already");
        let log = OpenOptions::new().create(true).append(true).open(self.log_path())?;
        let mut command = match self.program {
            Program::Rookery => {
                let mut words = self.wrapper.clone();
                words.push(self.binary()?.into_os_string());
                let mut command = Command::new(words.remove(0));
                command.args(words).arg("serve").arg("--config").arg(self.config());
                command
            }
            Program::Dovecot => {
                let mut command = Command::new("dovecot");
                command.arg("-F").arg("-c").arg(self.config());
                command
            }
            Program::Cyrus => peer::cyrus_command(self),
            Program::Nginx => {
                let mut command = Command::new("nginx");
                command.args(["-e", "stderr", "-p"]).arg(self.root()).arg("-c").arg(self.config());
                command
            }
        };
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir(self.root());
        let child = command.spawn().with_context(|| format!("{command:?} cannot be started"))?;
        self.child = Some(child);
        self.wait_until_ready()?;
        let Some(mut edge) = self.edge.take() else { return Ok(()) };
        let launched = edge.launch(self);
        self.edge = Some(edge);
        launched
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START_STOP_MAX;
        loop {
            if let Some(child) = &mut self.child
                && let Some(status) = child.try_wait()?
            {
                self.child = None;
                bail!("the server ended with {status} instead of starting:\n{}", self.log_tail());
            }
            match Imap::connect(self.listens.imap) {
                Ok(client) if client.greeting.starts_with("* OK") => break,
                Ok(client) => bail!("the greeting is {:?}", client.greeting),
                Err(error) if Instant::now() > deadline => {
                    bail!("the server does not answer: {error:#}\n{}", self.log_tail())
                }
                // A node whose duties say so takes no clients.
                Err(_) if self.says_ready_without_clients()? => return Ok(()),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
        while Instant::now() < deadline {
            if self.program == Program::Nginx || Lmtp::connect(self.listens.lmtp).is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        bail!("the server has no LMTP:\n{}", self.log_tail())
    }

    /// Whether the server of the last start says that it is ready and takes no clients.
    fn says_ready_without_clients(&self) -> Result<bool> {
        let log = std::fs::read_to_string(self.log_path())?;
        // As JSON or as plain text.
        let now = log.rfind("this node takes no clients").and_then(|at| log.get(at..)).unwrap_or_default();
        let has_begun_anew = now.contains("\"starting\"") || now.contains(" starting config=");
        Ok(!has_begun_anew && (now.contains("\"ready\"") || now.contains(" ready version=")))
    }

    /// The process id while it runs.
    pub fn pid(&self) -> Result<u32> {
        self.child.as_ref().map(Child::id).context("the server does not run")
    }

    /// Kills the process at once, as a crash would, and waits until it is gone.
    pub fn kill9(&mut self) -> Result<()> {
        if let Some(edge) = &mut self.edge {
            edge.kill9()?;
        }
        self.killer()?.fire()?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// What kills the process from another thread; [`Server::kill9`] is still to be called after it.
    pub fn killer(&self) -> Result<Killer> {
        Ok(Killer { pid: self.pid()?, program: self.program })
    }

    /// Stops by SIGTERM; fails unless the exit code is 0 and the log is clean.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(edge) = &mut self.edge {
            edge.stop(&self.allowed_log)?;
        }
        let Some(mut child) = self.child.take() else { bail!("the server does not run") };
        crate::process::signal(child.id(), Signal::TERM)?;
        let deadline = Instant::now() + START_STOP_MAX;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!(
                    "the server did not end within {} s of SIGTERM:\n{}",
                    START_STOP_MAX.as_secs(),
                    self.log_tail()
                );
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        ensure!(status.success(), "the server ended with {status}:\n{}", self.log_tail());
        self.judge_log()
    }

    /// Stops in good order and starts again on the same folder and ports.
    pub fn restart(&mut self) -> Result<()> {
        self.stop()?;
        self.launch()
    }

    /// Fails if the log has a WARN or ERROR line that was not announced.
    pub fn judge_log(&mut self) -> Result<()> {
        let fresh = self.log_after(self.log_judged)?;
        self.log_judged = self.log_size()?;
        let bad =
            |line: &&str| is_complaint(line) && !self.allowed_log.iter().any(|text| line.contains(text));
        let complaints: Vec<&str> = fresh.lines().filter(bad).collect();
        ensure!(complaints.is_empty(), "unexpected lines in the server's log:\n{}", complaints.join("\n"));
        Ok(())
    }

    /// Octets of the log so far.
    pub fn log_size(&self) -> Result<u64> {
        Ok(std::fs::metadata(self.log_path())?.len())
    }

    /// What has been logged behind that.
    pub fn log_after(&self, octets: u64) -> Result<String> {
        let log = std::fs::read(self.log_path())?;
        let from = usize::try_from(octets).unwrap_or(usize::MAX).min(log.len());
        Ok(String::from_utf8_lossy(&log[from..]).into_owned())
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read(self.log_path()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Adds an account with [`PASSWORD`].
    pub fn add_user(&self, name: &str) -> Result<()> {
        self.add_users(&[name.to_owned()])
    }

    /// Adds accounts with [`PASSWORD`].
    pub fn add_users(&self, names: &[String]) -> Result<()> {
        match self.program {
            Program::Dovecot => peer::dovecot_stand_in_users(self, names),
            Program::Cyrus => peer::cyrus_users(self, names),
            Program::Nginx => bail!("nginx has no users"),
            Program::Rookery => {
                let next = AtomicUsize::new(0);
                std::thread::scope(|scope| {
                    let adding = || {
                        while let Some(name) = names.get(next.fetch_add(1, Ordering::Relaxed)) {
                            self.add_one(name)?;
                        }
                        Ok(())
                    };
                    let threads: Vec<_> =
                        (0..names.len().min(ADDING_AT_ONCE)).map(|_| scope.spawn(adding)).collect();
                    threads.into_iter().try_for_each(|thread| {
                        thread.join().unwrap_or_else(|_| bail!("adding an account panicked"))
                    })
                })
            }
        }
    }

    fn add_one(&self, name: &str) -> Result<()> {
        let output = self.cli(&["user", "add", name, "--password-stdin"], PASSWORD.as_bytes())?;
        ensure!(output.status.success(), "user add {name}: {}\n{}", output.text(), self.log_tail());
        Ok(())
    }

    /// Runs the program's command line against this server.
    pub fn cli(&self, args: &[&str], stdin: &[u8]) -> Result<Output> {
        ensure!(self.program == Program::Rookery, "the stand-in has no command line");
        let mut command = Command::new(self.binary()?);
        command.arg("--config").arg(self.config()).args(args);
        command::run_command(command, stdin)
    }

    /// `rookery check` finds nothing.
    pub fn check(&self) -> Result<()> {
        if self.program != Program::Rookery {
            return Ok(());
        }
        let output = self.cli(&["check"], b"")?;
        ensure!(output.status.success(), "check found ({}):\n{}", output.status, output.text());
        Ok(())
    }

    /// An IMAP session of this account.
    pub fn login(&self, user: &str) -> Result<Imap> {
        Imap::login(self.imap, user, PASSWORD)
    }

    /// One message by LMTP to one account; fails unless it is taken.
    pub fn deliver(&self, user: &str, message: &[u8]) -> Result<()> {
        let answers = Lmtp::connect(self.lmtp)?.deliver("sender@example.net", &[user], message)?;
        ensure!(
            answers.iter().all(|answer| answer.code == 250),
            "delivery to {user} was answered {answers:?}"
        );
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let tail = self.log_tail();
            eprintln!("---- the server's log ({}):\n{tail}\n----", self.log_path().display());
        }
        if self.child.is_some() {
            // Nothing is left to do about a process that cannot be killed.
            self.kill9().ok();
        }
    }
}

/// Kills a server by its process id. The id stays its own until [`Server::kill9`] or a stop has waited for it.
#[derive(Debug, Clone, Copy)]
pub struct Killer {
    pid: u32,
    program: Program,
}

impl Killer {
    /// Sends SIGKILL.
    pub fn fire(self) -> Result<()> {
        if self.program != Program::Rookery {
            // The stand-in's master would start its children anew, and they would say good-bye if it went first.
            crate::process::signal(self.pid, Signal::STOP)?;
            for pid in crate::process::tree(self.pid).split_off(1) {
                crate::process::signal(pid, Signal::KILL).ok();
            }
        }
        crate::process::signal(self.pid, Signal::KILL)
    }

    /// Sends SIGTERM.
    pub fn end(self) -> Result<()> {
        crate::process::signal(self.pid, Signal::TERM)
    }
}

fn is_complaint(line: &str) -> bool {
    let json = line.contains("\"level\":\"WARN\"") || line.contains("\"level\":\"ERROR\"");
    json || line.contains(" WARN ") || line.contains(" ERROR ") || line.contains("panicked at")
}

/// The server's binary: `ROOKERY_BIN`, or built once beside the running test program.
pub fn binary() -> Result<PathBuf> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| find_binary().map_err(|error| format!("{error:#}")));
    found.clone().map_err(|text| anyhow::anyhow!(text))
}

fn find_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ROOKERY_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "ROOKERY_BIN is {}, which is no file", path.display());
        return Ok(std::path::absolute(path)?);
    }
    let me = std::env::current_exe()?;
    let mut folder = me.parent().context("the test program lies nowhere")?;
    if folder.ends_with("deps") {
        folder = folder.parent().context("deps lies nowhere")?;
    }
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(crate::workspace());
    // Built together with this crate so that both share their dependencies' features (see Cargo.toml).
    build.args(["build", "--quiet", "--locked", "-p", "rookery", "-p", "rookery-tests", "--bins"]);
    if folder.ends_with("release") {
        build.arg("--release");
    }
    // The folder above the profile's is the target folder, wherever it was put.
    build.env("CARGO_TARGET_DIR", folder.parent().context("no target folder")?);
    let lock = File::create(folder.join(".rookery-tests-build"))?;
    lock.lock()?;
    let output = build.stdin(Stdio::null()).output().context("cargo cannot be started")?;
    ensure!(
        output.status.success(),
        "the server does not build:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let binary = folder.join("rookery");
    ensure!(binary.is_file(), "cargo left no {}", binary.display());
    Ok(binary)
}
