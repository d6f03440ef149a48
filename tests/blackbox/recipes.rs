//! The recipes of docs/recipes.md, followed to the letter: machines are folders, and addresses and ports others.

use anyhow::{Context, Result, bail, ensure};
use rookery_tests::command::{self, Output};
use rookery_tests::server::{PASSWORD, Server};
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
    ensure!(open.is_none() && blocks.len() > 6, "the recipe cannot be read");
    Ok(blocks)
}

/// Follows a recipe. `network`: what stands for `192.0.2` in it.
fn follow(section: &str, network: &str) -> Result<()> {
    let recipe = std::fs::read_to_string(rookery_tests::workspace().join("docs/recipes.md"))?;
    let folder = tempfile::tempdir()?;
    let mut machines: BTreeMap<&str, Server> = BTreeMap::new();
    let mut token = String::new();
    let mut logins = 0;
    for block in blocks(&recipe, section)? {
        let Block { machine, kind, text } = block;
        let root = folder.path().join(machine);
        let mut text = text.replace("192.0.2.0/24", "127.0.0.0/8").replace("192.0.2.", network);
        for (port, other) in [(":143\"", ":1143\""), (":993\"", ":1993\""), (":24\"", ":2424\"")] {
            text = text.replace(port, other);
        }
        if kind == "toml" {
            std::fs::create_dir_all(&root)?;
            let mut server = Server::on(&root)?;
            text = text.replace("/var/lib/rookery", &root.join("data").display().to_string());
            // These machines share the loopback addresses on which a server listens without being told.
            text += "\n[pop3]\nlisten = []\nlisten_tls = []\n\n[http]\nlisten = []\n";
            if !text.contains("listen_tls = [\"") {
                text = text.replace("[imap]\n", "[imap]\nlisten_tls = []\n");
            }
            server.follow_config(&text)?;
            machines.insert(machine, server);
            continue;
        }
        let known = machines.len();
        let server = machines.get_mut(machine).with_context(|| format!("{machine} has no configuration"))?;
        for line in text.lines() {
            if line == "systemctl start rookery" {
                server.launch()?;
                continue;
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            match &words[..] {
                ["rookery", "join", _] => succeeded(line, server.cli(&["join", &token], b"")?)?,
                ["rookery", "node", "token", ..] => {
                    let given = server.cli(&words[1..], b"")?;
                    token = given.text().trim().to_owned();
                    succeeded(line, given)?;
                }
                ["rookery", "user", "add", name] => {
                    let add = ["user", "add", name, "--password-stdin"];
                    succeeded(line, server.cli(&add, PASSWORD.as_bytes())?)?;
                }
                ["rookery", "node", "list"] => {
                    // A node that has just started is linked a moment later.
                    let deadline = Instant::now() + Duration::from_secs(5);
                    loop {
                        let text = server.cli(&words[1..], b"")?.text();
                        let up = text.lines().filter(|line| line.ends_with(" up") || line.ends_with(" here"));
                        if up.count() == known {
                            break;
                        }
                        ensure!(Instant::now() < deadline, "{text}");
                        std::thread::sleep(Duration::from_millis(50));
                    }
                }
                ["swaks", ..] => {
                    let line = line.replace("--port 24 ", "--port 2424 ");
                    command::ok("sh", &["-c", &line], b"")?;
                }
                ["curl", ..] => {
                    let mut line = line.to_owned();
                    for user in ["joe", "ann"] {
                        let with_password = format!("--user '{user}:{PASSWORD}'");
                        line = line.replace(&format!("--user {user}"), &with_password);
                    }
                    let host = server.imap.ip();
                    let line = line.replace(&format!("{host}/"), &format!("{}/", server.imap));
                    let read = command::ok("sh", &["-c", &line], b"")?.text();
                    ensure!(read.contains("Subject: the first") || read.contains("INBOX"), "{read}");
                    logins += 1;
                }
                _ => bail!("{line}: what is that?"),
            }
        }
    }
    ensure!(logins > 0, "nobody has logged in");
    // The first one has the directory.
    machines.values_mut().rev().try_for_each(Server::stop)
}

fn succeeded(what: &str, output: Output) -> Result<()> {
    ensure!(output.status.success(), "{what}: {}", output.text());
    Ok(())
}

#[test]
fn a_discrete_murder_from_empty_machines() -> Result<()> {
    follow("## Discrete", "127.44.1.")
}

#[test]
fn a_unified_murder_from_empty_machines() -> Result<()> {
    follow("## Unified", "127.44.2.")
}
