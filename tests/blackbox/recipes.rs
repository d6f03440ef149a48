//! The recipes of docs/recipes.md, followed to the letter: machines are folders, and addresses and ports others.

use anyhow::{Context, Result, bail, ensure};
use rookery_tests::command::{self, Output};
use rookery_tests::imap::Imap;
use rookery_tests::server::{PASSWORD, START_STOP_MAX, Server};
use rookery_tests::soak::moving::moves;
use rookery_tests::soak::upgrade::{self, Installed};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// One block of a recipe.
struct Block<'a> {
    machine: &'a str,
    /// `toml` or `sh`.
    kind: &'a str,
    text: String,
}

/// The blocks of the section that begins so.
fn blocks<'a>(recipe: &'a str, section: &str) -> Result<Vec<Block<'a>>> {
    let begin = recipe.find(section).with_context(|| format!("there is no {section}"))?;
    let rest = &recipe[begin + section.len()..];
    let section = rest.find("\n## ").map_or(rest, |end| &rest[..end]);
    let (mut blocks, mut machine, mut open) = (Vec::new(), "", None);
    for line in section.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(kind)) => open = Some(Block { machine, kind, text: String::new() }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text += &format!("{line}\n"),
            // "On **be1**, …"
            (None, None) => {
                if let Some((_, after)) = line.split_once("n **") {
                    machine = after.split_once("**").context("a machine without a name")?.0;
                }
            }
        }
    }
    ensure!(open.is_none() && blocks.len() > 3, "the recipe cannot be read");
    Ok(blocks)
}

/// Whoever follows recipes.
struct Cook {
    folder: tempfile::TempDir,
    /// What stands for `192.0.2`.
    network: &'static str,
    /// The program of all machines.
    installed: Installed,
    machines: BTreeMap<String, Server>,
    /// The configuration of each, as the recipe has it.
    configurations: BTreeMap<String, String>,
    /// Those that have left the cluster.
    left: Vec<Server>,
    token: String,
    logins: u32,
    /// A client that stays connected from the moment on when there is an account for it.
    connected: Option<Imap>,
}

impl Cook {
    fn at(network: &'static str) -> Result<Cook> {
        Ok(Cook {
            folder: tempfile::tempdir()?,
            network,
            installed: Installed::new(None)?,
            machines: BTreeMap::new(),
            configurations: BTreeMap::new(),
            left: Vec::new(),
            token: String::new(),
            logins: 0,
            connected: None,
        })
    }

    /// Follows the section of that name.
    fn follow(&mut self, section: &str) -> Result<()> {
        let recipe = std::fs::read_to_string(rookery_tests::workspace().join("docs/recipes.md"))?;
        for block in blocks(&recipe, section)? {
            let Block { machine, kind, text } = block;
            if kind == "toml" {
                self.configure(machine, &text)?;
            } else {
                for line in text.lines() {
                    let line = line.split(" #").next().unwrap_or_default().trim();
                    self.obey(machine, line).with_context(|| format!("on {machine}: {line}"))?;
                }
            }
            if let Some(client) = &mut self.connected {
                client.ok("NOOP").with_context(|| format!("behind what was done on {machine}: {text}"))?;
            }
        }
        ensure!(self.logins > 0, "nobody has logged in");
        Ok(())
    }

    /// A whole configuration, or a section more.
    fn configure(&mut self, machine: &str, text: &str) -> Result<()> {
        let (machine, root) = (machine.to_owned(), self.folder.path().join(machine));
        let mut here = text.replace("192.0.2.0/24", "127.0.0.0/8").replace("192.0.2.", self.network);
        for (port, other) in [(":143\"", ":1143\""), (":993\"", ":1993\""), (":24\"", ":2424\"")] {
            here = here.replace(port, other);
        }
        if let Some(server) = self.machines.get(&machine) {
            return server.add_config(&here);
        }
        std::fs::create_dir_all(&root)?;
        let mut server = Server::on(&root)?;
        server.use_binary(self.installed.path());
        here = here.replace("/var/lib/rookery", &root.join("data").display().to_string());
        // These machines share the loopback addresses on which a server listens without being told.
        here += "\n[pop3]\nlisten = []\nlisten_tls = []\n\n[http]\nlisten = []\n";
        if !here.contains("listen_tls = [\"") {
            here = here.replace("[imap]\n", "[imap]\nlisten_tls = []\n");
        }
        server.follow_config(&here)?;
        self.configurations.insert(machine.clone(), text.to_owned());
        self.machines.insert(machine, server);
        Ok(())
    }

    /// A machine without a configuration of its own has that of n2, but for its number.
    fn configure_as_second(&mut self, machine: &str) -> Result<()> {
        let of_n2 =
            self.configurations.get("n2").with_context(|| format!("{machine} has no configuration"))?;
        let number = machine.strip_prefix('n').context("the machine has no number")?;
        let text = of_n2.replace("n2.", &format!("{machine}.")).replace("2.32:", &format!("2.3{number}:"));
        self.configure(machine, &text)
    }

    fn obey(&mut self, machine: &str, line: &str) -> Result<()> {
        if !self.machines.contains_key(machine) {
            self.configure_as_second(machine)?;
        }
        let known = self.machines.len();
        let server = self.machines.get_mut(machine).context("no such machine")?;
        let words: Vec<&str> = line.split_whitespace().collect();
        match &words[..] {
            ["systemctl", "start", "rookery"] => server.launch()?,
            ["systemctl", "stop", "rookery"] => server.stop()?,
            ["install", "-m", "755", "rookery-new", "/usr/bin/rookery"] => self.installed.replace(None)?,
            ["rookery", "restart"] => {
                succeeded(line, server.cli(&["restart"], b"")?)?;
                soon("the new program", || upgrade::runs_what_is_installed(server))?;
            }
            ["rookery", "join", _] => succeeded(line, server.cli(&["join", &self.token], b"")?)?,
            ["rookery", "node", "token", ..] => {
                let given = server.cli(&words[1..], b"")?;
                self.token = given.text().trim().to_owned();
                succeeded(line, given)?;
            }
            ["rookery", "user", "add", name] => {
                let add = ["user", "add", name, "--password-stdin"];
                succeeded(line, server.cli(&add, PASSWORD.as_bytes())?)?;
                if self.connected.is_none() {
                    let mut client = server.login(name)?;
                    client.ok("SELECT INBOX")?;
                    self.connected = Some(client);
                }
            }
            // A node that has just started is linked a moment later.
            ["rookery", "node", "list"] => soon("all nodes", || {
                let text = server.cli(&words[1..], b"")?.text();
                let up = text.lines().filter(|line| line.ends_with(" up") || line.ends_with(" here"));
                Ok(up.count() == known)
            })?,
            ["rookery", "balance"] => {
                succeeded(line, server.cli(&words[1..], b"")?)?;
                soon("the moves", || Ok(moves(server)? == 0))?;
            }
            ["rookery", "move", "status"] => succeeded(line, server.cli(&words[1..], b"")?)?,
            ["rookery", "node", "hold", "off", ..] => {
                soon("the drain", || Ok(server.cli(&words[1..], b"")?.status.success()))?;
            }
            ["rookery", "node", "hold" | "serve", ..] => succeeded(line, server.cli(&words[1..], b"")?)?,
            ["rookery", "node", "remove", name] => {
                server.allow_log("a node is removed from the cluster");
                succeeded(line, server.cli(&words[1..], b"")?)?;
                self.left.extend(self.machines.remove(name.trim_end_matches(".example")));
            }
            ["swaks", ..] => {
                let line = line.replace("192.0.2.", self.network).replace("--port 24 ", "--port 2424 ");
                command::ok("sh", &["-c", &line], b"")?;
            }
            ["curl", ..] => {
                let mut line = line.replace("192.0.2.", self.network);
                for user in ["joe", "ann", "bob"] {
                    let with_password = format!("--user '{user}:{PASSWORD}'");
                    line = line.replace(&format!("--user {user}"), &with_password);
                }
                for server in self.machines.values() {
                    line = line.replace(&format!("{}/", server.imap.ip()), &format!("{}/", server.imap));
                }
                let read = command::ok("sh", &["-c", &line], b"")?.text();
                ensure!(read.contains("Subject: the first") || read.contains("INBOX"), "{read}");
                self.logins += 1;
            }
            _ => bail!("what is that?"),
        }
        Ok(())
    }

    /// The first machine has the directory.
    fn stop(mut self) -> Result<()> {
        if let Some(client) = &mut self.connected {
            client.ok("LOGOUT")?;
        }
        self.machines.values_mut().rev().try_for_each(Server::stop)
    }
}

/// Waits until something is so.
fn soon(what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + START_STOP_MAX;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn succeeded(what: &str, output: Output) -> Result<()> {
    ensure!(output.status.success(), "{what}: {}", output.text());
    Ok(())
}

#[test]
fn a_discrete_murder_from_empty_machines() -> Result<()> {
    let mut cook = Cook::at("127.44.1.")?;
    cook.follow("## Discrete")?;
    cook.stop()
}

#[test]
fn a_unified_murder_from_empty_machines_and_then_another_program() -> Result<()> {
    let mut cook = Cook::at("127.44.2.")?;
    cook.follow("## Unified")?;
    cook.follow("## A rolling upgrade")?;
    cook.stop()
}

#[test]
fn one_server_that_becomes_five_nodes_and_then_two() -> Result<()> {
    let mut cook = Cook::at("127.44.3.")?;
    cook.follow("## Growing and leaving")?;
    cook.stop()
}
