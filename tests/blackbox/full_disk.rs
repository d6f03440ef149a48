//! A disk that is full at the start, and one that fills up: on a small file system in a mount namespace of the server's own.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rookery_tests::command::{self, Output};
use rookery_tests::imap::Status;
use rookery_tests::lmtp::{Answer, Lmtp};
use rookery_tests::server::{PASSWORD, Server};

use crate::message;

/// A server whose data folder will be a file system of this size. Mounting needs root or a user namespace.
pub(crate) fn on_small_disk(mebibytes: u32) -> Result<Server> {
    command::require("unshare")?;
    let mut server = Server::unstarted()?;
    std::fs::create_dir(server.data())?;
    let mount = format!("mount -t tmpfs -o size={mebibytes}m small {:?} && exec \"$@\"", server.data());
    let mut words = vec!["unshare", "--mount"];
    if !rustix::process::geteuid().is_root() {
        words.extend(["--user", "--map-root-user"]);
    }
    words.extend(["sh", "-c", &mount, "sh"]);
    server.wrap(&words);
    Ok(server)
}

/// The command line inside the server's mount namespace.
pub(crate) fn inside(server: &Server, args: &[&str], stdin: &[u8]) -> Result<Output> {
    command::require("nsenter")?;
    let (pid, binary) = (server.pid()?.to_string(), server.binary()?.display().to_string());
    let config = server.config().display().to_string();
    let mut words = vec!["--target", &pid, "--mount"];
    if !rustix::process::geteuid().is_root() {
        words.extend(["--user", "--preserve-credentials"]);
    }
    words.extend([&binary, "--config", &config]);
    command::run("nsenter", &[&words, args].concat(), stdin)
}

#[test]
fn too_little_space_at_the_start() -> Result<()> {
    let mut server = on_small_disk(8)?;
    let Err(error) = server.launch() else { anyhow::bail!("it started") };
    let text = format!("{error:#}");
    ensure!(text.contains("exit status: 1") && text.contains("free on the disk of"), "{text}");
    ensure!(text.contains("store.free_octets_min"), "{text}");
    Ok(())
}

/// Runs a shell command in the server's mount namespace.
pub(crate) fn shell(server: &Server, script: &str) -> Result<()> {
    let pid = server.pid()?.to_string();
    let mut words = vec!["--target", &pid, "--mount"];
    if !rustix::process::geteuid().is_root() {
        words.extend(["--user", "--preserve-credentials"]);
    }
    command::ok("nsenter", &[&words[..], &["sh", "-c", script]].concat(), b"").map(drop)
}

/// Delivers until an answer is, or is not, 250; that answer. Fails when that does not come within ten seconds.
fn deliver_until(lmtp: &mut Lmtp, taken: &mut usize, wanted: bool) -> Result<Answer> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let answers = lmtp.deliver("ada@example.net", &["joe"], message("fill", "x").as_bytes())?;
        let answer = answers.into_iter().next().context("no answer")?;
        *taken += usize::from(answer.code == 250);
        if (answer.code == 250) == wanted {
            return Ok(answer);
        }
        ensure!(Instant::now() < deadline, "still {answer:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_disk_that_fills_up_refuses_mail_and_keeps_what_it_has() -> Result<()> {
    // Below 256 MiB the server takes no new mail, so that it can go on deleting.
    let mut server = on_small_disk(320)?;
    server.allow_log("disk");
    server.allow_log("space");
    server.launch()?;
    let added = inside(&server, &["user", "add", "joe", "--password-stdin"], PASSWORD.as_bytes())?;
    ensure!(added.status.success(), "{}\n{}", added.text(), server.log_tail());
    let mut lmtp = Lmtp::connect(server.lmtp)?;
    let mut taken = 0;
    deliver_until(&mut lmtp, &mut taken, true)?;
    deliver_until(&mut lmtp, &mut taken, true)?;
    let filler = server.data().join("filler").display().to_string();
    shell(&server, &format!("fallocate -l 150M {filler}"))?;
    let refusal = deliver_until(&mut lmtp, &mut taken, false)?;
    // For now only: space can be made (RFC 3463 §3.4: 4.3.1, system full).
    ensure!(refusal.code == 452 && refusal.text.starts_with("4.3.1"), "{refusal:?}");
    let mut imap = server.login("joe")?;
    let selected = imap.ok("SELECT INBOX")?;
    ensure!(selected.lines().contains(&format!("{taken} EXISTS")), "{:?}", selected.lines());
    let refused = imap.append("INBOX", "", message("more", "x").as_bytes())?;
    ensure!(refused.status == Status::No, "{} on a full disk", refused.text);
    imap.ok("STORE 1 +FLAGS (\\Deleted)")?;
    imap.ok("EXPUNGE")?;
    taken -= 1;
    let check = inside(&server, &["check"], b"")?;
    ensure!(check.status.success(), "{}", check.text());
    // There is room again.
    shell(&server, &format!("rm {filler}"))?;
    deliver_until(&mut lmtp, &mut taken, true)?;
    // Not an octet is left, at once: whatever is answered 250 now must be there, and reading goes on.
    shell(&server, &format!("dd if=/dev/zero of={filler} bs=1M 2>/dev/null || true"))?;
    deliver_until(&mut lmtp, &mut taken, false)?;
    let mut imap = server.login("joe")?;
    let selected = imap.ok("EXAMINE INBOX")?;
    ensure!(selected.lines().contains(&format!("{taken} EXISTS")), "{taken}: {:?}", selected.lines());
    let read = imap.ok(&format!("FETCH 1:{taken} BODY.PEEK[]"))?.fetches()?;
    ensure!(
        read.len() == taken && read.iter().all(|fetch| fetch.body("BODY[]").is_ok_and(|b| b.len() > 100))
    );
    imap.ok("LOGOUT")?;
    server.stop()
}
