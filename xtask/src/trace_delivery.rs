//! LMTP deliveries under strace: which files were written, when their sync returned, when the 250 went out.
//!
//! A written file counts as safe once an fsync or fdatasync of it, begun after its last write, has returned 0; a name made
//! or moved once the same happened to its folder. All of that has to come before the 250 is written to the client.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rookery_tests::command;
use rookery_tests::lmtp::Lmtp;
use rookery_tests::process;
use rookery_tests::server::Server;

const CALLS: &str = "openat,open,creat,close,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,fsync,fdatasync,\
                     ftruncate,fallocate,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,link,linkat";

/// One finished call.
struct Call {
    begun: f64,
    returned: f64,
    text: String,
}

/// Traces the first delivery of a new store, which makes files and their names, and a later one; fails unless the order
/// is right in both.
pub(crate) fn run() -> Result<()> {
    command::require("strace")?;
    println!("the first delivery of a new store");
    one(true)?;
    println!("\na later delivery");
    one(false)
}

fn one(first: bool) -> Result<()> {
    let mut server = Server::start()?;
    server.add_user("joe")?;
    if !first {
        server.deliver("joe", b"Subject: before\r\n\r\nso that everything is open\r\n")?;
    }

    let mut lmtp = Lmtp::connect(server.lmtp)?;
    let trace = server.root().join("strace");
    let mut strace = Command::new("strace");
    strace.args(["-f", "-yy", "-ttt", "-T", "-s", "200", "-e", &format!("trace={CALLS}"), "-o"]).arg(&trace);
    strace
        .args(["-p", &server.pid()?.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut strace = strace.spawn().context("strace cannot be started")?;
    wait_until_attached(server.pid()?)?;
    let answers = lmtp.deliver("ada@example.net", &["joe"], b"Subject: traced\r\n\r\nhello\r\n")?;
    ensure!(answers.iter().all(|answer| answer.code == 250), "{answers:?}");
    std::thread::sleep(Duration::from_millis(200));
    process::signal(strace.id(), process::SignalName::INT)?;
    strace.wait()?;
    drop(lmtp);
    server.stop()?;

    let text = std::fs::read_to_string(&trace)?;
    judge(&parse(&text)?, &server.data().display().to_string())
}

/// strace says nothing when it has attached; the kernel does, for every thread.
fn wait_until_attached(pid: u32) -> Result<()> {
    for _ in 0..500 {
        let mut all = true;
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = std::fs::read_to_string(task?.path().join("status"))?;
            all &= status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0"));
        }
        if all {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    bail!("strace did not attach within 5 s")
}

/// Joins "unfinished" and "resumed" halves. Lines are `PID TIME CALL(...) = RESULT <SECONDS>`.
fn parse(text: &str) -> Result<Vec<Call>> {
    let mut pending: BTreeMap<String, (f64, String)> = BTreeMap::new();
    let mut calls = Vec::new();
    for line in text.lines() {
        let mut words = line.splitn(3, ' ').filter(|word| !word.is_empty());
        let (Some(pid), Some(time), Some(rest)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let rest = rest.trim_start();
        let Ok(begun) = time.trim().parse::<f64>() else { continue };
        if let Some(first) = rest.strip_suffix(" <unfinished ...>") {
            pending.insert(pid.to_owned(), (begun, first.to_owned()));
            continue;
        }
        let (begun, whole) = match rest.strip_prefix("<... ").and_then(|rest| rest.split_once(" resumed>")) {
            Some((_, end)) => {
                let (begun, first) =
                    pending.remove(pid).with_context(|| format!("nothing to resume: {line}"))?;
                (begun, format!("{first}{end}"))
            }
            None => (begun, rest.to_owned()),
        };
        let Some((call, seconds)) = whole.rsplit_once(" <") else { continue };
        let seconds: f64 = seconds.trim_end_matches('>').parse().unwrap_or(0.0);
        calls.push(Call { begun, returned: begun + seconds, text: call.to_owned() });
    }
    calls.sort_by(|a, b| a.begun.total_cmp(&b.begun));
    Ok(calls)
}

impl Call {
    fn name(&self) -> &str {
        self.text.split('(').next().unwrap_or_default()
    }

    /// The path of the descriptor that is the first argument, as `-yy` shows it: `write(7</path>, ...`.
    fn file(&self) -> Option<&str> {
        let inside = self.text.split_once('(')?.1;
        let digits = inside.find(|c: char| !c.is_ascii_digit())?;
        inside.get(digits..)?.strip_prefix('<')?.split('>').next()
    }

    fn failed(&self) -> bool {
        self.text.rsplit_once("= ").is_some_and(|(_, result)| result.starts_with('-'))
    }

    /// Paths in quotes that a call on names concerns.
    fn paths(&self) -> Vec<&str> {
        self.text.split('"').skip(1).step_by(2).collect()
    }
}

/// What has to be synced: a file by its octets, a folder by its names.
fn touched(call: &Call, data: &str) -> Vec<String> {
    let folder_of =
        |path: &str| path.rsplit_once('/').map_or_else(String::new, |(folder, _)| folder.to_owned());
    match call.name() {
        "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2" | "ftruncate" | "fallocate" => {
            call.file().filter(|path| path.starts_with(data)).map(str::to_owned).into_iter().collect()
        }
        "rename" | "renameat" | "renameat2" | "unlink" | "unlinkat" | "mkdir" | "mkdirat" | "link"
        | "linkat" => call.paths().into_iter().filter(|path| path.starts_with(data)).map(folder_of).collect(),
        "open" | "openat" | "creat" if call.text.contains("O_CREAT") => {
            call.paths().into_iter().filter(|path| path.starts_with(data)).map(folder_of).collect()
        }
        _ => Vec::new(),
    }
}

fn judge(calls: &[Call], data: &str) -> Result<()> {
    let is_answer = |call: &&Call| {
        matches!(call.name(), "write" | "writev" | "sendto" | "sendmsg")
            && call.file().is_some_and(|file| file.starts_with("TCP:"))
            && call.text.contains("\"250 2.")
            && call.text.contains("2.")
    };
    let answer = calls.iter().rfind(is_answer).context("no 250 was seen going out")?;
    let start = calls.first().map_or(0.0, |call| call.begun);
    let mut dirty: BTreeMap<String, f64> = BTreeMap::new();
    let mut written: BTreeSet<String> = BTreeSet::new();
    println!("{:>10}  call", "ms");
    for call in calls.iter().filter(|call| call.begun <= answer.begun && !call.failed()) {
        let touched = touched(call, data);
        let sync = matches!(call.name(), "fsync" | "fdatasync");
        let ours = call.file().is_some_and(|path| path.starts_with(data));
        if !touched.is_empty() || (sync && ours) || std::ptr::eq(call, answer) {
            let short: String = call.text.replace(data, "DATA").chars().take(150).collect();
            let took = (call.returned - call.begun) * 1e3;
            println!("{:>10.3}  {short}  [returned after {took:.3}]", (call.begun - start) * 1e3);
        }
        for path in touched {
            written.insert(path.clone());
            let last = dirty.entry(path).or_default();
            *last = last.max(call.returned);
        }
        if let Some(path) = call.file().filter(|_| sync && call.returned <= answer.begun)
            && dirty.get(path).is_some_and(|last| *last <= call.begun)
        {
            dirty.remove(path);
        }
    }
    ensure!(!written.is_empty(), "the delivery wrote no file under {data}");
    let early: Vec<_> = dirty.keys().cloned().collect();
    ensure!(early.is_empty(), "the 250 went out before these were synced: {}", early.join(", "));
    println!("the 250 went out after the sync of all that was written: {}", written.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
10 1.000000 pwrite64(7</d/journal>, \"x\"..., 3, 0) = 3 <0.000010>
10 1.000100 fdatasync(7</d/journal> <unfinished ...>
11 1.000150 write(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"354 go\\r\\n\", 8) = 8 <0.000010>
10 1.000900 <... fdatasync resumed>) = 0 <0.000800>
11 1.001000 write(9<TCP:[127.0.0.1:1->127.0.0.1:2]>, \"250 2.1.5 ok\\r\\n\", 14) = 14 <0.000010>
";

    #[test]
    fn a_sync_that_returned_before_the_answer_is_good() {
        judge(&parse(GOOD).unwrap(), "/d").unwrap();
    }

    #[test]
    fn an_answer_inside_the_sync_is_found_out() {
        let bad = GOOD.replace("1.001000", "1.000500");
        assert!(judge(&parse(&bad).unwrap(), "/d").unwrap_err().to_string().contains("/d/journal"));
    }

    #[test]
    fn a_new_name_wants_its_folder_synced() {
        let new =
            "10 0.900000 openat(AT_FDCWD</>, \"/d/new\", O_WRONLY|O_CREAT, 0600) = 7</d/new> <0.000010>\n";
        let text = format!("{new}{GOOD}");
        assert!(judge(&parse(&text).unwrap(), "/d").unwrap_err().to_string().ends_with("/d"));
    }
}
