//! `rookery demo --murder`: several servers on this machine that look like one, made with the commands that an
//! administrator would type.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use super::{USER, messages, password, write_private};
use crate::cli::Arrangement;
use crate::exit::Failure;
use crate::output;

/// The second user, whose home is another node.
const OTHER: &str = "crew";
/// A mailbox of the first user that the second may read and write.
const SHARED: &str = "Boats";
/// How long a node may take until it answers, and until it has ended.
const START_STOP_MAX: Duration = Duration::from_secs(60);

/// One server of the demo.
struct Node {
    name: &'static str,
    /// What it does besides the directory, which the first one has.
    duties: &'static str,
    config: PathBuf,
    imap: String,
    lmtp: String,
    log: PathBuf,
    child: Option<Child>,
}

fn failed(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Failure {
    move |error| Failure::failed(format!("{what}: {error}"))
}

/// Runs the demo until it is interrupted.
pub(super) fn run(
    arrangement: Arrangement,
    folder: &Path,
    kept: bool,
    runtime: &tokio::runtime::Runtime,
) -> Result<(), Failure> {
    let plan: &[(&str, &str)] = match arrangement {
        Arrangement::Discrete => {
            &[("be1.example", "serve,hold"), ("be2.example", "hold"), ("fe1.example", "serve")]
        }
        Arrangement::Unified => {
            &[("n1.example", "serve,hold"), ("n2.example", "serve,hold"), ("n3.example", "serve,hold")]
        }
    };
    let mut nodes = Vec::new();
    let result = build(plan, folder, &mut nodes).and_then(|password| {
        tell(arrangement, &nodes, &password, folder, kept);
        runtime.block_on(until_interrupted())
    });
    // The one with the directory last.
    for node in nodes.iter_mut().rev() {
        node.stop();
    }
    result
}

async fn until_interrupted() -> Result<(), Failure> {
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("signals"))?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Starts the nodes, one after another, and fills them unless that was done before. Gives the users' password.
fn build(
    plan: &[(&'static str, &'static str)],
    folder: &Path,
    nodes: &mut Vec<Node>,
) -> Result<String, Failure> {
    for (at, (name, duties)) in plan.iter().enumerate() {
        let mut node = Node::prepare(name, duties, folder, at)?;
        if let Some(first) = nodes.first()
            && !node.has_joined(folder)
        {
            let token = first.cli(&["node", "token", "--duties", node.duties], b"")?;
            node.cli(&["join", token.trim()], b"")?;
        }
        node.start()?;
        nodes.push(node);
    }
    let note = folder.join("demo-password");
    if let Ok(password) = fs::read_to_string(&note) {
        return Ok(password.trim().to_owned());
    }
    let password = password();
    let [one, two, ..] = nodes.as_slice() else { return Err(Failure::failed("a murder has several nodes")) };
    let secret = format!("{password}\n");
    one.cli(&["user", "add", USER, "--password-stdin"], secret.as_bytes())?;
    two.cli(&["user", "add", OTHER, "--password-stdin"], secret.as_bytes())?;
    one.cli(&["mailbox", "create", USER, SHARED], b"")?;
    let mail = folder.join("demo.mbox");
    write_mbox(&mail).map_err(failed(mail.display()))?;
    let mail = mail.display().to_string();
    for (node, words) in [
        (one, &["import", "mbox", USER, &mail, "--into", "INBOX"][..]),
        (one, &["import", "mbox", USER, &mail, "--into", SHARED]),
        (two, &["import", "mbox", OTHER, &mail, "--into", "INBOX"]),
        (one, &["acl", "set", &format!("user/{USER}/{SHARED}"), OTHER, "lrswitea"]),
    ] {
        node.cli(words, b"")?;
    }
    write_private(&note, &password).map_err(failed(note.display()))?;
    Ok(password)
}

/// The letters of the demo's INBOX, oldest first.
fn write_mbox(path: &Path) -> std::io::Result<()> {
    let now = jiff::ZonedDateTime::now();
    let mut letters = messages::letters();
    letters.retain(|letter| letter.mailbox == "INBOX");
    letters.sort_by_key(|letter| -letter.hours_ago);
    let mut file = File::create(path)?;
    for letter in letters {
        let seconds = now.timestamp().as_second() - letter.hours_ago * 3600;
        let then = jiff::Timestamp::from_second(seconds).map_err(std::io::Error::other)?;
        let then = then.to_zoned_datetime(now.time_zone().clone());
        writeln!(file, "From demo@localhost {}", then.strftime("%a %b %e %H:%M:%S %Y"))?;
        let text = letter.text(&then.strftime("%a, %d %b %Y %H:%M:%S %z").to_string());
        for line in text.split_inclusive(|octet| *octet == b'\n') {
            // As mboxrd has it.
            if line.trim_ascii_start().starts_with(b"From ") {
                file.write_all(b">")?;
            }
            file.write_all(line)?;
        }
        writeln!(file)?;
    }
    file.sync_all()
}

impl Node {
    /// Its folder and configuration.
    fn prepare(name: &'static str, duties: &'static str, folder: &Path, at: usize) -> Result<Node, Failure> {
        let root = folder.join(name);
        fs::create_dir_all(&root).map_err(failed(root.display()))?;
        // Each on an address of its own, so that all have the same ports.
        let ip = format!("127.0.0.{}", 11 + at);
        let [imap, imaps, pop3, pop3s, lmtp, http, link] =
            [1143, 1993, 1110, 1995, 2003, 8080, 7100].map(|port| free(&ip, port));
        let config = root.join("rookery.toml");
        let text = format!(
            "data_dir = \"{data}\"\nhostname = \"{name}\"\n\n[cluster]\nlisten = \"{link}\"\nname = \"{name}\"\n\n\
             [imap]\nlisten = [\"{imap}\"]\nlisten_tls = [\"{imaps}\"]\n\n\
             [pop3]\nlisten = [\"{pop3}\"]\nlisten_tls = [\"{pop3s}\"]\n\n\
             [lmtp]\nlisten = [\"{lmtp}\"]\n\n[http]\nlisten = [\"{http}\"]\n",
            data = root.join("data").display(),
        );
        fs::write(&config, text).map_err(failed(config.display()))?;
        Ok(Node { name, duties, config, imap, lmtp, log: root.join("log"), child: None })
    }

    fn has_joined(&self, folder: &Path) -> bool {
        folder.join(self.name).join("data/cluster/site.json").exists()
    }

    fn command(&self, words: &[&str]) -> Result<Command, Failure> {
        let mut command = Command::new(std::env::current_exe().map_err(failed("this program"))?);
        command.arg("--config").arg(&self.config).args(words);
        Ok(command)
    }

    /// Runs a command of the command line against it.
    fn cli(&self, words: &[&str], stdin: &[u8]) -> Result<String, Failure> {
        let mut command = self.command(words)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(failed(words.join(" ")))?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(stdin).map_err(failed(words.join(" ")))?;
        }
        let output = child.wait_with_output().map_err(failed(words.join(" ")))?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(Failure::failed(format!(
                "rookery {}, at {}: {}",
                words.join(" "),
                self.name,
                String::from_utf8_lossy(&output.stderr).trim()
            ))),
        }
    }

    fn start(&mut self) -> Result<(), Failure> {
        let log =
            File::options().create(true).append(true).open(&self.log).map_err(failed(self.log.display()))?;
        let mut command = self.command(&["serve"])?;
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed("log"))?).stderr(log);
        let mut child = command.spawn().map_err(failed(self.name))?;
        let deadline = Instant::now() + START_STOP_MAX;
        while self.cli(&["status"], b"").is_err() {
            let ended = child.try_wait().map_err(failed(self.name))?.is_some();
            if ended || Instant::now() > deadline {
                // Nothing is left to do about a process that cannot be killed.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Failure::failed(format!(
                    "{} does not start; its log is {}",
                    self.name,
                    self.log.display()
                )));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.child = Some(child);
        Ok(())
    }

    /// A Ctrl-C at a terminal has told it already.
    fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        }
        let deadline = Instant::now() + START_STOP_MAX;
        while matches!(child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The port if nobody has it on that address, otherwise any.
fn free(ip: &str, port: u16) -> String {
    let bound = TcpListener::bind((ip, port)).or_else(|_| TcpListener::bind((ip, 0)));
    let place = bound.and_then(|listener| listener.local_addr());
    place.map_or_else(|_| format!("{ip}:{port}"), |place| place.to_string())
}

fn tell(arrangement: Arrangement, nodes: &[Node], password: &str, folder: &Path, kept: bool) {
    let mut text = format!(
        "{what} runs. Press Ctrl-C to stop it{kept}.\n\n",
        what = match arrangement {
            Arrangement::Discrete => "A discrete murder, two backends and a frontend,",
            Arrangement::Unified => "A unified murder of three nodes",
        },
        kept = match kept {
            true => format!("; {} is kept", folder.display()),
            false => "; its data goes with it".to_owned(),
        },
    );
    for (at, node) in nodes.iter().enumerate() {
        let holds = match at {
            0 => format!(", home of {USER}, with the directory"),
            1 => format!(", home of {OTHER}"),
            _ => String::new(),
        };
        text += &format!("{}  IMAP {}  LMTP {}  ({}{holds})\n", node.name, node.imap, node.lmtp, node.duties);
    }
    let (Some(first), Some(last)) = (nodes.first(), nodes.last()) else { return };
    let newest = messages::letters().iter().filter(|letter| letter.mailbox == "INBOX").count();
    text += &format!(
        "\nUsers     {USER} and {OTHER}\nPassword  {password}, of both\n\n\
         Read mail through a node that has none:\n  \
         curl --url 'imap://{imap}/INBOX;MAILINDEX={newest}' --user {USER}:{password}\n  \
         curl --url 'imap://{imap}/INBOX;MAILINDEX={newest}' --user {OTHER}:{password}\n\
         Read what {USER} shares with {OTHER}, whose mailboxes are at another node:\n  \
         curl --url 'imap://{imap}/Other%20Users/{USER}/{SHARED};MAILINDEX=1' --user {OTHER}:{password}\n\
         See the nodes:\n  \
         {program} --config {config} node list",
        imap = last.imap,
        program = std::env::current_exe().map_or("rookery".to_owned(), |path| path.display().to_string()),
        config = first.config.display(),
    );
    output::line(&text);
}
