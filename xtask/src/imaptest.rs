//! `cargo xtask imaptest`: Dovecot's imaptest against the real server, its scripted tests and its stress mode.
//!
//! imaptest itself is not part of this workspace: the caller names the program and its folder of scripted tests.
//! Every complaint has to be in `imaptest-explained.txt`, with its reason; any other fails the run, as does a warning in
//! the server's log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::Args;
use rookery_tests::command::{self, Output};
use rookery_tests::corpus;
use rookery_tests::server::{PASSWORD, Server};

/// Complaints that are known, with the reason for each.
const EXPLAINED: &str = include_str!("imaptest-explained.txt");
/// Messages of the corpus that clients append.
const MESSAGES_MAX: usize = 1_000;
/// The longest of them, so that the load is one of commands and not of octets.
const MESSAGE_OCTETS_MAX: usize = 32 << 10;
/// Users of the runs with several.
const MANY: usize = 5;

/// Times that a run is begun: imaptest sometimes breaks off by a check of itself.
const ATTEMPTS: usize = 3;

/// The stress runs: what each is about, and imaptest's arguments. Each has an account of its own, which is empty: only
/// then does imaptest follow `\Recent`.
const STRESS: &[(&str, &[&str])] = &[
    ("checkpoints", &["checkpoint=1"]),
    ("checkpoints, nobody leaves", &["checkpoint=1", "logout=0", "expunge=10"]),
    ("checkpoints, one command at a time", &["checkpoint=1", "no_pipelining"]),
    ("messages with owners", &["own_msgs", "expunge=5", "logout=1"]),
    ("flags with owners", &["own_flags", "expunge=5", "logout=1"]),
    ("searches", &["logout=0", "search=100", "expunge=10", "clients=1"]),
    ("QRESYNC with checkpoints", &["qresync", "checkpoint=1"]),
    ("IMAP4rev2 with checkpoints", &["imap4rev2", "checkpoint=1"]),
    ("SASL and moves", &["checkpoint=1", "auth=100", "move=20", "copybox=Archive", "noop=30"]),
    (
        SEVERAL,
        &[
            "users=5",
            "clients=20",
            "copybox=Archive",
            "copy=50",
            "move=20",
            "search=20",
            "sort=20",
            "thread=20",
            "mcreate=20",
            "mdelete=10",
            "msubs=20",
            "uidfetch=30",
            "disconnect=1",
        ],
    ),
];
/// The run with several accounts.
const SEVERAL: &str = "several accounts, all commands";

#[derive(Args)]
pub(crate) struct Imaptest {
    /// The program.
    program: PathBuf,
    /// Its folder of scripted tests.
    #[arg(long)]
    scripts: Option<PathBuf>,
    /// Seconds of each stress run.
    #[arg(long, default_value_t = 20)]
    secs: u32,
    /// Only the stress runs about whose subject this is said.
    #[arg(long)]
    only: Option<String>,
    /// One more argument of imaptest's for each stress run, such as `seed=7`; what a run itself sets stays.
    #[arg(long)]
    with: Vec<String>,
    /// This program of Rookery's instead of one built now.
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// Complaints of all runs: how many were explained by which line, and those that none explains.
#[derive(Default)]
struct Verdict {
    explained: BTreeMap<&'static str, usize>,
    open: Vec<String>,
}

impl Imaptest {
    pub(crate) fn run(self) -> Result<()> {
        let program = std::path::absolute(&self.program)?;
        let mut server = Server::unstarted()?;
        if let Some(binary) = &self.binary {
            server.use_binary(std::path::absolute(binary)?);
        }
        server.launch()?;
        let mut users: Vec<_> = (1..=MANY).map(|number| format!("many{number}")).collect();
        users.extend((0..STRESS.len()).map(|number| format!("alone{number}")));
        users.extend(["first", "second"].map(str::to_owned));
        server.add_users(&users)?;
        let mbox = server.root().join("mbox");
        std::fs::write(&mbox, mbox_of_the_corpus()?)?;
        let mut verdict = Verdict::default();
        let start = |arguments: &[&str]| -> Result<Output> {
            let mut command = Command::new(&program);
            command.current_dir(server.root()).args(arguments);
            command.arg(format!("host={}", server.imap.ip())).arg(format!("port={}", server.imap.port()));
            command.arg(format!("pass={PASSWORD}")).arg(format!("mbox={}", mbox.display()));
            command::run_command(command, b"")
        };
        if let Some(scripts) = &self.scripts {
            let folder = format!("test={}", std::path::absolute(scripts)?.display());
            let output = start(&[&folder, "user=first", "user2=second"])?;
            let summary = String::from_utf8_lossy(&output.stdout).into_owned();
            println!("scripted tests:\n{}", last_lines(&summary, 3));
            ensure!(summary.contains("test groups:"), "imaptest broke off:\n{}", output.text());
            verdict.judge("scripted tests", &output);
        }
        let secs = format!("secs={}", self.secs);
        for (number, (about, arguments)) in STRESS.iter().enumerate() {
            if self.only.as_ref().is_some_and(|only| !about.contains(only.as_str())) {
                continue;
            }
            let user =
                if *about == SEVERAL { "user=many%d".to_owned() } else { format!("user=alone{number}") };
            let with: Vec<_> = self.with.iter().map(String::as_str).collect();
            let arguments = [&with, *arguments, &[secs.as_str(), user.as_str()]].concat();
            make_keywords(&server, &format!("alone{number}"))?;
            for attempt in 1.. {
                let begun = Instant::now();
                let output = start(&arguments)?;
                println!("{about}:\n{}", last_lines(&String::from_utf8_lossy(&output.stdout), 3));
                verdict.judge(about, &output);
                if begun.elapsed().as_secs() >= u64::from(self.secs) {
                    break;
                }
                if attempt == ATTEMPTS {
                    verdict.open.push(format!("{about}: imaptest broke off {ATTEMPTS} times"));
                    break;
                }
            }
        }
        server.stop()?;
        server.check()?;
        verdict.tell()
    }
}

/// Makes imaptest's keywords known in an INBOX that stays empty: imaptest takes it that STORE makes a keyword, also one
/// that takes it away, and gives each an owner when it is first seen, which two clients can do at once.
fn make_keywords(server: &Server, user: &str) -> Result<()> {
    let mut client = server.login(user)?;
    let message = "Subject: keywords\r\n\r\n";
    client.append_ok("INBOX", "($Label1 $Label2 $Label3 $Label4 $Label5 \\Deleted)", message.as_bytes())?;
    client.ok("SELECT INBOX")?;
    client.ok("EXPUNGE")?;
    client.ok("LOGOUT")?;
    Ok(())
}

impl Verdict {
    fn judge(&mut self, run: &str, output: &Output) {
        for complaint in complaints(&String::from_utf8_lossy(&output.stderr)) {
            match explained().find(|(text, _)| text.split(" & ").all(|part| complaint.contains(part))) {
                Some((text, _)) => *self.explained.entry(text).or_default() += 1,
                None => self.open.push(format!("{run}: {complaint}")),
            }
        }
    }

    fn tell(&self) -> Result<()> {
        for (text, reason) in explained() {
            if let Some(times) = self.explained.get(text) {
                println!("explained, {times} times: {text}\n  {reason}");
            }
        }
        let open: BTreeSet<_> = self.open.iter().collect();
        let shown: Vec<_> = open.iter().take(100).map(|complaint| complaint.as_str()).collect();
        ensure!(open.is_empty(), "{} complaints without explanation:\n{}", self.open.len(), shown.join("\n"));
        println!("nothing unexplained");
        Ok(())
    }
}

/// The known complaints: parts of each, with ` & ` between them, and the reason.
fn explained() -> impl Iterator<Item = (&'static str, &'static str)> {
    let lines = EXPLAINED.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.filter_map(|line| line.split_once(" | ")).map(|(text, reason)| (text.trim(), reason.trim()))
}

/// What imaptest complains about: paragraphs that begin with `***`, and lines that it marks as errors.
fn complaints(said: &str) -> Vec<String> {
    let mut all = Vec::new();
    let mut lines = said.lines().peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("*** ") {
            let mut whole = line.to_owned();
            while let Some(more) = lines.next_if(|more| !more.is_empty()) {
                whole = format!("{whole} {}", more.trim());
            }
            all.push(whole);
        } else if ["Error:", "Panic:", "Fatal:"].iter().any(|mark| line.contains(mark))
            && !line.contains("backtrace:")
        {
            all.push(line.to_owned());
        }
    }
    all
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines
        .iter()
        .skip(lines.len().saturating_sub(count))
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Messages of the corpus as an mbox: those with a Message-ID of their own, which imaptest knows messages by.
fn mbox_of_the_corpus() -> Result<Vec<u8>> {
    let mut mbox = Vec::new();
    let mut seen = BTreeSet::new();
    for message in corpus::real()? {
        let octets = corpus::crlf(&message.octets);
        let odd = octets.len() > MESSAGE_OCTETS_MAX || !octets.ends_with(b"\r\n") || !is_plain(&octets);
        let Some(id) = message_id(&octets).filter(|_| !odd) else { continue };
        if seen.len() >= MESSAGES_MAX || !seen.insert(id) {
            continue;
        }
        mbox.extend_from_slice(b"From load@example.net Mon Nov 23 12:00:00 2026\r\n");
        for line in octets.split_inclusive(|octet| *octet == b'\n') {
            if line.starts_with(b"From ") {
                mbox.push(b'>');
            }
            mbox.extend_from_slice(line);
        }
        mbox.extend_from_slice(b"\r\n");
    }
    ensure!(seen.len() > 100, "the corpus has only {} messages with Message-IDs", seen.len());
    Ok(mbox)
}

/// Whether the text is as it stands: imaptest takes words out of the raw octets and expects SEARCH to find them, in base64
/// or in ISO-2022-JP as well, while the server looks into what they mean (RFC 9051 §6.4.4).
fn is_plain(octets: &[u8]) -> bool {
    let text = String::from_utf8_lossy(octets).to_ascii_lowercase();
    let printable = octets.iter().all(|octet| octet.is_ascii_graphic() || b" \t\r\n".contains(octet));
    printable && !["base64", "quoted-printable", "=?"].iter().any(|sign| text.contains(sign))
}

fn message_id(octets: &[u8]) -> Option<String> {
    let header = String::from_utf8_lossy(octets);
    let header = header.split("\r\n\r\n").next()?;
    let mut ids = header.lines().filter(|line| line.to_ascii_lowercase().starts_with("message-id:"));
    let id = ids.next()?.get("message-id:".len()..)?.trim();
    // One that is folded or doubled is another test's matter.
    let whole = id.starts_with('<') && id.ends_with('>') && id.contains('@') && !id.contains(' ');
    (whole && ids.next().is_none()).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_found_and_only_known_ones_are_explained() {
        let said = "Info: all is well\n*** Test append command 1/2 (line 3)\n - failed: x\n - Command: y\n\n\
                    joe[3]: Error: UID=4 went\nError: one[1]: odd\n";
        let found = complaints(said);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0], "*** Test append command 1/2 (line 3) - failed: x - Command: y");
        let mut verdict = Verdict::default();
        let output = Output { status: Default::default(), stdout: Vec::new(), stderr: said.into() };
        verdict.judge("run", &output);
        assert_eq!(verdict.open.len(), 3);
        assert!(verdict.tell().is_err());
    }

    #[test]
    fn every_explanation_has_a_reason() {
        for line in EXPLAINED.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (text, reason) = line.split_once(" | ").expect("a reason");
            assert!(text.len() > 10 && reason.len() > 20, "{line}");
        }
    }
}
