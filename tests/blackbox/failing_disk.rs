//! Disks that fail under load: one that fills up while messages come, one without room for compaction, and ones that
//! turn read-only.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rookery_tests::command;
use rookery_tests::imap::{Imap, Status};
use rookery_tests::lmtp::Lmtp;
use rookery_tests::server::{PASSWORD, Server};

use crate::full_disk::{inside, on_small_disk, shell};

/// Clients that append at the same time.
const CLIENTS: usize = 4;

/// A message of about that many octets that no other one is like.
fn unlike(name: &str, octets: usize) -> Vec<u8> {
    let mut message = format!("Subject: {name}\r\nFrom: ada@example.net\r\n\r\n");
    let line = format!("{name} {}\r\n", "0123456789".repeat(7));
    message.push_str(&line.repeat(octets / line.len() + 1));
    message.into_bytes()
}

/// What one client was told is stored, by UID.
type Stored = BTreeMap<u32, Vec<u8>>;

/// Appends until an answer is NO, `CLIENTS` at a time; what was acknowledged, and the answers.
fn append_until_refused(server: &Server, octets: usize, round: &str) -> Result<(Stored, Vec<String>)> {
    let deadline = Instant::now() + Duration::from_secs(120);
    let one = |client: usize| -> Result<(Stored, String)> {
        let mut imap = server.login("joe")?;
        let mut stored = Stored::new();
        for n in 0.. {
            ensure!(Instant::now() < deadline, "the disk does not fill up");
            let message = unlike(&format!("{round}-{client}-{n}"), octets);
            let reply = imap.append("INBOX", "", &message)?;
            if reply.status != Status::Ok {
                // The session is in step and goes on.
                imap.ok("NOOP")?;
                imap.ok("LOGOUT")?;
                ensure!(reply.status == Status::No, "{}", reply.text);
                return Ok((stored, reply.text));
            }
            let code = reply.code("APPENDUID").context("no APPENDUID")?;
            let (_, uid) = code.split_once(' ').context("APPENDUID of one number")?;
            stored.insert(uid.parse()?, message);
        }
        bail!("there are no more numbers")
    };
    let ended: Vec<Result<(Stored, String)>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..CLIENTS).map(|client| scope.spawn(move || one(client))).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|_| bail!("a client panicked"))).collect()
    });
    let (mut all, mut answers) = (Stored::new(), Vec::new());
    for end in ended {
        let (mut stored, answer) = end?;
        all.append(&mut stored);
        answers.push(answer);
    }
    Ok((all, answers))
}

/// Everything that was acknowledged is in INBOX as it came.
fn verify(imap: &mut Imap, stored: &Stored) -> Result<()> {
    imap.ok("EXAMINE INBOX")?;
    for (uid, message) in stored {
        let read = imap.ok(&format!("UID FETCH {uid} BODY.PEEK[]"))?.fetches()?;
        let [read] = &read[..] else { bail!("UID {uid} was acknowledged and is not there") };
        ensure!(read.body("BODY[]")? == message, "UID {uid} has other octets");
    }
    Ok(())
}

fn add_joe(server: &Server) -> Result<()> {
    add_user(server, "joe")
}

fn add_user(server: &Server, name: &str) -> Result<()> {
    let added = inside(server, &["user", "add", name, "--password-stdin"], PASSWORD.as_bytes())?;
    ensure!(added.status.success(), "{}\n{}", added.text(), server.log_tail());
    Ok(())
}

fn check(server: &Server) -> Result<()> {
    let check = inside(server, &["check"], b"")?;
    ensure!(check.status.success(), "{}\n{}", check.text(), server.log_tail());
    Ok(())
}

/// Waits for something, a minute at most.
fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so()? {
        ensure!(Instant::now() < deadline, "{what} does not come");
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

#[test]
fn a_disk_that_fills_up_under_appends() -> Result<()> {
    // Below 256 MiB the server takes no new mail, so that it can go on deleting.
    let mut server = on_small_disk(330)?;
    server.add_config("[store]\nretention_days = 0\n")?;
    for text in ["disk", "space"] {
        server.allow_log(text);
    }
    server.launch()?;
    add_joe(&server)?;
    // Each in a volume of its own, so that its room comes back when it is deleted.
    let (stored, answers) = append_until_refused(&server, 1 << 20, "first")?;
    ensure!(stored.len() > 8, "{} messages fill the disk", stored.len());
    ensure!(answers.iter().all(|answer| answer.starts_with("[UNAVAILABLE] ")), "{answers:?}");
    let mut imap = server.login("joe")?;
    verify(&mut imap, &stored)?;
    let selected = imap.ok("SELECT INBOX")?;
    ensure!(selected.lines().contains(&format!("{} EXISTS", stored.len())), "{:?}", selected.lines());
    imap.ok(&format!("STORE 1:{} +FLAGS.SILENT (\\Deleted)", stored.len() - 2))?;
    imap.ok("EXPUNGE")?;
    // Without a restart there is room for mail again.
    let more = unlike("again", 1 << 20);
    let mut kept: Stored = stored.into_iter().rev().take(2).collect();
    until("room for new mail", || {
        let reply = imap.append("INBOX", "", &more)?;
        if let Some(code) = reply.code("APPENDUID") {
            let (_, uid) = code.split_once(' ').context("APPENDUID of one number")?;
            kept.insert(uid.parse()?, more.clone());
        }
        Ok(reply.status == Status::Ok)
    })?;
    verify(&mut imap, &kept)?;
    imap.ok("LOGOUT")?;
    check(&server)?;
    server.stop()
}

#[test]
fn a_disk_without_room_for_compaction() -> Result<()> {
    let mut server = on_small_disk(640)?;
    server.add_config("[store]\nretention_days = 0\n")?;
    for text in ["disk", "space"] {
        server.allow_log(text);
    }
    server.launch()?;
    add_joe(&server)?;
    // More than a volume holds, 128 MiB, so that the first one is full and can be compacted.
    let mut lmtp = Lmtp::connect(server.lmtp)?;
    let octets = 500 << 10;
    let mut messages = Vec::new();
    while messages.len() * octets < 140 << 20 {
        let message = unlike(&format!("c{}", messages.len()), octets);
        let answers = lmtp.deliver("ada@example.net", &["joe"], &message)?;
        ensure!(answers.iter().all(|answer| answer.code == 250), "{answers:?}");
        messages.push(message);
    }
    let first = server.data().join("volumes/v00000001.vol").display().to_string();
    let filler = server.data().join("filler").display().to_string();
    // Room for the log of changes, and not for what has to be copied.
    let avail = format!(
        "free=$(df --output=avail -B1 {data:?} | tail -n 1); fallocate -l $((free - (24 << 20))) {filler:?}",
        data = server.data()
    );
    shell(&server, &avail)?;
    let mut imap = server.login("joe")?;
    imap.ok("SELECT INBOX")?;
    // Two of three go from the first volume; the rest has to be written elsewhere before it can.
    let gone: Vec<String> = (1..=messages.len()).filter(|n| n % 3 != 0).map(|n| n.to_string()).collect();
    imap.ok(&format!("STORE {} +FLAGS.SILENT (\\Deleted)", gone.join(",")))?;
    imap.ok("EXPUNGE")?;
    let kept: Vec<&Vec<u8>> = messages.iter().skip(2).step_by(3).collect();
    let verify = |imap: &mut Imap| -> Result<()> {
        let selected = imap.ok("SELECT INBOX")?;
        ensure!(selected.lines().contains(&format!("{} EXISTS", kept.len())), "{:?}", selected.lines());
        for (at, message) in kept.iter().enumerate() {
            let read = imap.ok(&format!("FETCH {} BODY.PEEK[TEXT]", at + 1))?.fetches()?;
            let text = read.first().context("it is not there")?.body("BODY[TEXT]")?;
            ensure!(message.ends_with(text) && !text.is_empty(), "message {} has other octets", at + 1);
        }
        Ok(())
    };
    // What was expunged is forgotten by now, or soon; meanwhile nothing is lost and deleting goes on.
    let listed = || inside(&server, &["undelete", "list", "joe"], b"");
    until("forgetting", || Ok(!listed()?.text().contains("INBOX")))?;
    verify(&mut imap)?;
    imap.ok("STORE 1 +FLAGS.SILENT (\\Flagged)")?;
    check(&server)?;
    shell(&server, &format!("test -e {first:?}")).context("there was no room to compact it")?;
    // With room it goes on by itself.
    shell(&server, &format!("rm {filler:?}"))?;
    until("compaction", || Ok(shell(&server, &format!("test ! -e {first:?}")).is_ok()))?;
    verify(&mut imap)?;
    imap.ok("LOGOUT")?;
    check(&server)?;
    server.stop()
}

/// A server whose data folder is a file system in a file, so that it can break by itself. Needs root.
fn on_breakable_disk(image: &Path) -> Result<Server> {
    command::require("unshare")?;
    command::require("mkfs.ext4")?;
    ensure!(rustix::process::geteuid().is_root(), "only root can mount a file system in a file");
    let mut server = Server::unstarted()?;
    std::fs::create_dir(server.data())?;
    std::fs::File::create(image)?.set_len(900 << 20)?;
    command::ok("mkfs.ext4", &["-q", "-F", &image.display().to_string()], b"")?;
    let mount = format!("mount -o loop {image:?} {:?} && exec \"$@\"", server.data());
    server.wrap(&["unshare", "--mount", "sh", "-c", &mount, "sh"]);
    for text in ["ead-only", "background work failed", "store", "engine", "volume"] {
        server.allow_log(text);
    }
    Ok(server)
}

/// Returns when the file system in a file is mounted no more: its processes have ended.
fn unmounted(image: &Path) -> Result<()> {
    let image = image.display().to_string();
    until("the end of the old mount", || Ok(command::ok("losetup", &["-j", &image], b"")?.stdout.is_empty()))
}

/// Joe gets mail until his disk turns read-only, which it does when he has more than `messages`: as a file system does
/// that finds itself damaged, so that files that are open for writing cannot be written any more. What was acknowledged,
/// and the answers that were no acknowledgement.
fn break_under_load(server: &Server, messages: u32, round: &str) -> Result<(Stored, Vec<String>)> {
    let (appended, broken) = std::thread::scope(|scope| {
        let load = scope.spawn(|| append_until_refused(server, 20_000, round));
        let broken = until("load", || {
            let status = server.login("joe")?.ok("STATUS INBOX (MESSAGES)")?.lines().concat();
            let digits: String = status.chars().filter(char::is_ascii_digit).collect();
            Ok(digits.parse::<u32>()? > messages)
        });
        let broken =
            broken.and_then(|()| shell(server, &format!("mount -o remount,abort {:?}", server.data())));
        (load.join().unwrap_or_else(|_| bail!("the load panicked")), broken)
    });
    broken?;
    appended
}

#[test]
fn a_disk_that_turns_read_only_under_load() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("image");
    let mut server = on_breakable_disk(&image)?;
    server.launch()?;
    add_joe(&server)?;
    // Hers are not in memory when the disk fails.
    add_user(&server, "ann")?;
    let mut of_ann = server.login("ann")?;
    of_ann.ok("CREATE Quiet")?;
    of_ann.append_ok("INBOX", "", &unlike("ann", 20_000))?;
    of_ann.ok("LOGOUT")?;
    server.stop()?;
    unmounted(&image)?;
    server.launch()?;
    let mut before = Stored::new();
    let mut imap = server.login("joe")?;
    for n in 0..20 {
        let message = unlike(&format!("before-{n}"), 20_000);
        before.insert(imap.append_ok("INBOX", "", &message)?.1, message);
    }
    imap.ok("SELECT INBOX")?;
    let (during, answers) = break_under_load(&server, 40, "during")?;
    ensure!(answers.iter().all(|answer| answer.starts_with('[')), "{answers:?}");
    // Whoever has the mailbox open reads on, and mailboxes that nobody had open are read; changes are refused.
    for (uid, message) in &before {
        let read = imap.ok(&format!("UID FETCH {uid} BODY.PEEK[]"))?.fetches()?;
        ensure!(read.first().context("it is not there")?.body("BODY[]")? == message.as_slice());
    }
    ensure!(server.login("joe")?.ok("LIST \"\" *")?.lines().iter().any(|line| line.ends_with("INBOX")));
    // The first change that fails tells the store; whose change that is can open nothing more, since nobody knows whether
    // it is on the disk. Appends may all have been refused before it came to that.
    ensure!(imap.command("STORE 1 +FLAGS (\\Seen)")?.status == Status::No);
    let mut of_ann = server.login("ann")?;
    of_ann.ok("SELECT INBOX")?;
    let read = of_ann.ok("FETCH 1 BODY.PEEK[]")?.fetches()?;
    ensure!(read.first().context("it is not there")?.body("BODY[]")? == unlike("ann", 20_000).as_slice());
    ensure!(of_ann.command("STORE 1 +FLAGS (\\Flagged)")?.status == Status::No);
    of_ann.ok("SELECT Quiet")?;
    ensure!(imap.command("CREATE Work")?.status == Status::No);
    let answers = Lmtp::connect(server.lmtp)?.deliver("a@example.net", &["joe"], b"Subject: x\r\n\r\n")?;
    ensure!(answers.iter().all(|answer| (400..500).contains(&answer.code)), "{answers:?}");
    imap.ok("LOGOUT")?;
    // The disk is mounted anew, as after a repair. Nothing that was acknowledged is lost, and all goes on.
    server.kill9()?;
    unmounted(&image)?;
    server.launch()?;
    let mut imap = server.login("joe")?;
    verify(&mut imap, &before)?;
    verify(&mut imap, &during)?;
    imap.append_ok("INBOX", "", &unlike("after", 20_000))?;
    imap.ok("LOGOUT")?;
    check(&server)?;
    server.stop()
}
