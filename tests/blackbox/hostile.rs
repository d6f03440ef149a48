//! Clients that mean harm: every octet they send is answered or dropped, others are served meanwhile, memory stays
//! bounded, and no name of theirs becomes a path.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rookery_tests::bodystructure;
use rookery_tests::imap::{Imap, Status};
use rookery_tests::lmtp::Lmtp;
use rookery_tests::process;
use rookery_tests::server::Server;
use rustix::net::{AddressFamily, SocketType};

use crate::{message, server_with_joe};

/// What an honest client waits for an answer at most, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(10);
/// What the server's memory may grow by under what one hostile client sends.
const GROWTH_MAX: u64 = 32 << 20;

/// A client that sends anything.
struct Raw(TcpStream);

impl Raw {
    fn connect(address: SocketAddr) -> Result<Raw> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.set_write_timeout(Some(Duration::from_secs(60)))?;
        let mut client = Raw(stream);
        client.until(b"\r\n")?;
        Ok(client)
    }

    fn login(address: SocketAddr) -> Result<Raw> {
        let mut client = Raw::connect(address)?;
        client.send(b"in LOGIN joe \"correct horse\"\r\n")?;
        client.until(b"in OK")?;
        Ok(client)
    }

    /// Sends; what the server does not take any more is no fault.
    fn send(&mut self, octets: &[u8]) -> Result<()> {
        match self.0.write_all(octets) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                bail!("the server stopped reading")
            }
            _ => Ok(()),
        }
    }

    /// Reads until this came, or the end of the connection; gives everything.
    fn until(&mut self, end: &[u8]) -> Result<Vec<u8>> {
        let mut heard = Vec::new();
        let mut some = [0; 4096];
        while !heard.windows(end.len()).any(|window| window == end) {
            match self.0.read(&mut some) {
                Ok(0) => break,
                Ok(read) => heard.extend_from_slice(&some[..read]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => return Err(error).context(format!("after {}", heard.escape_ascii())),
            }
        }
        // The rest of that line, if it came.
        Ok(heard)
    }
}

/// What happens to the connection.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    GoesOn,
    Ends,
}

fn repeated(before: &str, what: &str, times: usize, after: &str) -> Vec<u8> {
    [before, &what.repeat(times), after].concat().into_bytes()
}

/// Octets, how the answer begins, what then.
fn hostile() -> Vec<(&'static str, Vec<u8>, &'static str, Then)> {
    use Then::{Ends, GoesOn};
    let mut cases = vec![
        ("a tag of a megabyte", repeated("", "a", 1 << 20, " NOOP\r\n"), "* BAD [TOOBIG]", Ends),
        ("a tag of half a megabyte", repeated("", "a", 1 << 19, " NOOP\r\n"), "* BAD [TOOBIG]", GoesOn),
        ("a long argument", repeated("a NOOP ", "x", 1 << 19, "\r\n"), "a BAD [TOOBIG]", GoesOn),
        ("a line without an end", repeated("a NOOP ", "x", 3 << 20, ""), "a BAD [TOOBIG]", Ends),
        ("parentheses in SEARCH", repeated("a SEARCH ", "(", 30_000, "\r\n"), "a BAD", GoesOn),
        (
            "closed parentheses",
            repeated("a SEARCH ", "(", 60, &format!("ALL{}\r\n", ")".repeat(60))),
            "a BAD",
            GoesOn,
        ),
        ("NOT in NOT", repeated("a SEARCH ", "NOT ", 9_000, "ALL\r\n"), "a BAD", GoesOn),
        ("parentheses in FETCH", repeated("a FETCH 1 ", "(", 30_000, "\r\n"), "a BAD", GoesOn),
        ("parentheses in LIST", repeated("a LIST ", "(", 30_000, "\r\n"), "a BAD", GoesOn),
        ("parentheses in ID", repeated("a ID ", "(", 30_000, "\r\n"), "a BAD", GoesOn),
        ("NUL in a command", b"a NO\0OP\r\n".to_vec(), "a BAD", GoesOn),
        ("NUL in a quoted string", b"a LOGIN \"j\0e\" x\r\n".to_vec(), "a BAD", GoesOn),
        ("NUL alone", b"\0\r\n".to_vec(), "* BAD", GoesOn),
        ("nothing but line ends", b"\r\n\r\n\n\n".to_vec(), "* BAD", GoesOn),
        ("4 GiB in a command", b"a LOGIN {4294967296}\r\n".to_vec(), "a BAD [TOOBIG]", GoesOn),
        ("4 GiB at once", b"a LOGIN {4294967296+}\r\nxxx\r\nb NOOP\r\n".to_vec(), "a BAD [TOOBIG]", Ends),
        ("2^64 octets", b"a LOGIN {18446744073709551616}\r\n".to_vec(), "a BAD [TOOBIG]", GoesOn),
        ("2^64 octets at once", b"a LOGIN {18446744073709551616+}\r\n".to_vec(), "* BYE", Ends),
        ("more digits than a number has", repeated("a LOGIN {", "9", 60, "}\r\n"), "a BAD", GoesOn),
        ("a literal in a tag", b"{5}\r\n".to_vec(), "* BAD", GoesOn),
    ];
    for odd in [
        "{}", "{-1}", "{+}", "{1++}", "{ 1}", "{1 }", "{0x1}", "{1", "1}", "{1.0}", "~{1}", "{1}{1}", "{{1}}",
    ] {
        cases.push(("a malformed announcement", format!("a LOGIN {odd} x\r\n").into_bytes(), "a ", GoesOn));
        let ended = format!("a SUBSCRIBE x{odd}\r\n").into_bytes();
        cases.push(("one at the end of a line", ended, "a ", GoesOn));
    }
    for name in ["&", "&AAA", "&-&", "&Jjo!", "&ZeVnLIqe", "&AGE-", "&2AA-", "a&b", "&,,,,-"] {
        let command = format!("a STATUS \"{name}\" (MESSAGES)\r\n").into_bytes();
        cases.push(("an invalid modified UTF-7", command, "a ", GoesOn));
    }
    cases.push(("invalid UTF-8", b"a SUBSCRIBE \"\xff\xfe\"\r\n".to_vec(), "a ", GoesOn));
    cases
}

fn one(server: &Server, mut client: Raw, case: &(&str, Vec<u8>, &str, Then)) -> Result<()> {
    let (_, octets, begins, then) = case;
    client.send(octets)?;
    if *then == Then::Ends {
        // Whatever the rest is taken for, the answer has come, and nothing else than an end can follow.
        let heard = client.until(begins.as_bytes())?;
        ensure!(
            heard.starts_with(begins.as_bytes()),
            "heard {}",
            heard[..heard.len().min(200)].escape_ascii()
        );
        ensure!(!heard.windows(3).any(|window| window == b"\n+ "), "it was told to go on");
        return Ok(());
    }
    client.send(b"zz NOOP\r\n")?;
    let heard = client.until(b"zz OK")?;
    let shown = heard[..heard.len().min(300)].escape_ascii().to_string();
    ensure!(heard.starts_with(begins.as_bytes()), "heard {shown}");
    ensure!(
        !heard.starts_with(b"+") && !heard.windows(3).any(|window| window == b"\n+ "),
        "told to go on: {shown}"
    );
    ensure!(heard.windows(5).any(|window| window == b"zz OK"), "the connection did not go on: {shown}");
    drop(client);
    ensure!(server.pid().is_ok());
    Ok(())
}

#[test]
fn hostile_commands_are_answered_and_others_are_served() -> Result<()> {
    let mut server = server_with_joe()?;
    let pid = server.pid()?;
    let mut honest = server.login("joe")?;
    honest.ok("SELECT INBOX")?;
    process::reset_peak(pid)?;
    let before = process::peak(pid)?;
    let mut faults = Vec::new();
    for case in hostile() {
        for logged_in in [false, true] {
            let client = if logged_in { Raw::login(server.imap)? } else { Raw::connect(server.imap)? };
            if let Err(error) = one(&server, client, &case) {
                let shown = &case.1[..case.1.len().min(60)];
                faults.push(format!(
                    "{} ({}), logged in {logged_in}: {error:#}",
                    case.0,
                    shown.escape_ascii()
                ));
            }
            let begun = Instant::now();
            honest.ok("NOOP")?;
            ensure!(begun.elapsed() < PATIENCE, "after {}: {:?}", case.0, begun.elapsed());
        }
    }
    ensure!(faults.is_empty(), "{}", faults.join("\n"));
    let growth = process::peak(pid)?.saturating_sub(before);
    eprintln!("under hostile commands memory grew by {} KiB at most", growth >> 10);
    ensure!(growth < GROWTH_MAX, "memory grew by {growth} octets");
    server.stop()
}

#[test]
fn messages_too_large_and_literals_cut_short_leave_nothing() -> Result<()> {
    let mut server = server_with_joe()?;
    for announced in ["4294967296", "99999999999", "9223372036854775807"] {
        let mut client = Raw::login(server.imap)?;
        client.send(format!("a APPEND INBOX {{{announced}}}\r\n").as_bytes())?;
        client.send(b"b NOOP\r\n")?;
        let heard = client.until(b"b OK")?;
        ensure!(heard.starts_with(b"a NO [TOOBIG]"), "{announced}: {}", heard.escape_ascii());
        ensure!(!heard.windows(3).any(|window| window == b"\n+ "), "{}", heard.escape_ascii());
        // Without waiting: answered, and then dropped as it comes.
        client.send(format!("c APPEND INBOX {{{announced}+}}\r\nSubject: x\r\n\r\nx").as_bytes())?;
        let heard = client.until(b"c NO [TOOBIG]")?;
        ensure!(heard.windows(13).any(|window| window == b"c NO [TOOBIG]"), "{}", heard.escape_ascii());
    }
    for octets in [
        &b"a APPEND INBOX {10+}\r\nSubje"[..],
        b"a APPEND INBOX {300000+}\r\nSubject: x\r\n\r\nx",
        b"a LOGIN {5",
    ] {
        Raw::login(server.imap)?.send(octets)?;
    }
    let mut honest = server.login("joe")?;
    let status = honest.ok("STATUS INBOX (MESSAGES)")?.lines().join(" ");
    ensure!(status.contains("MESSAGES 0)"), "{status}");
    server.check()?;
    server.stop()
}

#[test]
fn many_messages_in_one_append_take_no_more_memory_than_a_few() -> Result<()> {
    const MESSAGES: usize = 150;
    const OCTETS: usize = 500_000;
    const MEMORY_MAX: u64 = 64 << 20;
    let mut server = server_with_joe()?;
    let pid = server.pid()?;
    let mut client = Raw::login(server.imap)?;
    process::reset_peak(pid)?;
    let before = process::peak(pid)?;
    client.send(b"a APPEND INBOX")?;
    let mut body = vec![b'x'; OCTETS];
    for number in 0..MESSAGES {
        client.send(format!(" {{{OCTETS}+}}\r\n").as_bytes())?;
        // No two are the same.
        let subject = format!("Subject: message {number:04}\r\n\r\n");
        body[..subject.len()].copy_from_slice(subject.as_bytes());
        client.send(&body)?;
    }
    client.send(b"\r\n")?;
    let heard = client.until(b"\r\n")?;
    let growth = process::peak(pid)?.saturating_sub(before);
    eprintln!("{MESSAGES} messages of {OCTETS} octets: memory grew by {} KiB", growth >> 10);
    ensure!(heard.starts_with(b"a OK [APPENDUID "), "{}", heard.escape_ascii());
    ensure!(growth < MEMORY_MAX, "memory grew by {growth} octets");
    let mut honest = server.login("joe")?;
    let status = honest.ok("STATUS INBOX (MESSAGES SIZE)")?.lines().join(" ");
    ensure!(status.contains(&format!("MESSAGES {MESSAGES} SIZE {})", MESSAGES * OCTETS)), "{status}");
    server.check()?;
    server.stop()
}

#[test]
fn no_name_becomes_a_path() -> Result<()> {
    let mut server = server_with_joe()?;
    let before = names_below(server.root())?;
    let mut imap = server.login("joe")?;
    let names =
        ["../../etc/passwd", "..", "/etc/passwd", "a/../../b", "C:\\x", "x\u{1}y", "%00", "~root", "."];
    for name in names {
        let quoted = rookery_tests::imap::quote(name);
        // A name may be taken or refused; what matters is what comes of it.
        let made = imap.command(&format!("CREATE {quoted}"))?.status == Status::Ok;
        if made {
            imap.append_ok(name, "", message("in an odd place", "x").as_bytes())?;
            imap.ok(&format!("SELECT {quoted}"))?;
            imap.ok("UNSELECT")?;
            imap.ok(&format!("DELETE {quoted}"))?;
        }
        let reply = Imap::connect(server.imap)?.command(&format!("LOGIN {quoted} \"correct horse\""))?;
        ensure!(reply.status == Status::No, "LOGIN {name} was answered {:?}", reply.status);
        let answer =
            Lmtp::connect(server.lmtp)?.deliver("a@example.net", &[name], b"Subject: x\r\n\r\nx\r\n");
        if let Ok(answers) = answer {
            ensure!(answers.iter().all(|answer| answer.code >= 500), "delivery to {name}: {answers:?}");
        }
        let output = server.cli(&["user", "add", name, "--password-stdin"], b"correct horse")?;
        // That one is a name like any other, once no shell reads it.
        ensure!(!output.status.success() || name == "~root", "a user {name} was made");
    }
    let fresh: Vec<_> =
        names_below(server.root())?.into_iter().filter(|name| !before.contains(name)).collect();
    let odd = |name: &&String| name.contains("passwd") || name.contains("..") || name.contains("etc");
    ensure!(fresh.iter().find(odd).is_none(), "{fresh:?}");
    server.check()?;
    server.stop()
}

fn names_below(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            names.push(path.display().to_string());
            if path.is_dir() && !path.is_symlink() {
                folders.push(path);
            }
        }
    }
    Ok(names)
}

/// A connection from an address of the caller's choice on this machine.
fn connect_from(source: Ipv4Addr, to: SocketAddr) -> Result<TcpStream> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((IpAddr::V4(source), 0)))?;
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

#[test]
fn ten_thousand_that_say_nothing_keep_nobody_out() -> Result<()> {
    // Under the limit of one address, from many; a third of them stuck in a TLS handshake.
    const PER_ADDRESS: usize = 400;
    const ADDRESSES: u8 = 25;
    // What ARCHITECTURE.md adds up for one that has not logged in, and the allocator's slack.
    const OCTETS_EACH: u64 = 24 << 10;
    process::raise_descriptor_limit(24_000)?;
    let mut server = server_with_joe()?;
    let pid = server.pid()?;
    server.login("joe")?.ok("LOGOUT")?;
    process::reset_peak(pid)?;
    let before = process::peak(pid)?;
    let mut silent = Vec::new();
    for address in 1..=ADDRESSES {
        for number in 0..PER_ADDRESS {
            let tls = number % 3 == 0;
            let to = if tls { server.imaps } else { server.imap };
            let mut stream = connect_from(Ipv4Addr::new(127, 63, address, 1), to)
                .with_context(|| format!("the connection number {}", silent.len()))?;
            match (tls, number % 2) {
                // The beginning of a ClientHello; of a command; nothing at all.
                (true, 0) => stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00")?,
                (false, 0) => stream.write_all(b"a LOGIN \"joe")?,
                _ => {}
            }
            silent.push(stream);
        }
    }
    let begun = Instant::now();
    let mut honest = server.login("joe")?;
    honest.ok("SELECT INBOX")?;
    server.deliver("joe", message("meanwhile", "x").as_bytes())?;
    ensure!(begun.elapsed() < PATIENCE, "an honest client took {:?}", begun.elapsed());
    let growth = process::peak(pid)?.saturating_sub(before);
    let each = growth / silent.len() as u64;
    eprintln!("{} silent connections: memory grew by {} KiB, {each} octets each", silent.len(), growth >> 10);
    ensure!(each < OCTETS_EACH, "{each} octets for each silent connection");
    drop(silent);
    honest.ok("NOOP")?;
    server.stop()
}

#[test]
fn one_address_gets_only_its_share_until_it_logs_in() -> Result<()> {
    process::raise_descriptor_limit(24_000)?;
    let mut server = Server::unstarted()?;
    server.add_config("[server]\nunauthenticated_per_address_max = 20\n")?;
    server.launch()?;
    server.add_user("joe")?;
    let greedy = Ipv4Addr::new(127, 63, 200, 1);
    let mut refused = 0;
    let mut held = Vec::new();
    for _ in 0..60 {
        let stream = connect_from(greedy, server.imap)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let heard = Raw(stream.try_clone()?).until(b"\r\n")?;
        if heard.starts_with(b"* OK") {
            held.push(stream);
        } else {
            ensure!(heard.is_empty() || heard.starts_with(b"* BYE"), "{}", heard.escape_ascii());
            refused += 1;
        }
    }
    ensure!(held.len() == 20 && refused == 40, "{} were let in, {refused} were not", held.len());
    // Who logs in gives the place back.
    let mut first = Raw(held.remove(0));
    first.send(b"in LOGIN joe \"correct horse\"\r\n")?;
    first.until(b"in OK")?;
    let another = connect_from(greedy, server.imap)?;
    ensure!(Raw(another).until(b"\r\n")?.starts_with(b"* OK"));
    server.login("joe")?.ok("NOOP")?;
    server.stop()
}

fn nested(depth: usize) -> Vec<u8> {
    let mut text = String::from("Subject: deep\r\n");
    for level in 0..depth {
        text.push_str(&format!("Content-Type: multipart/mixed; boundary=b{level}\r\n\r\n--b{level}\r\n"));
    }
    text.push_str("Content-Type: text/plain\r\n\r\nat the bottom\r\n");
    (0..depth).rev().for_each(|level| text.push_str(&format!("--b{level}--\r\n")));
    text.into_bytes()
}

fn held_in_each_other(depth: usize) -> Vec<u8> {
    let one = "Subject: held\r\nContent-Type: message/rfc822\r\n\r\n";
    format!("{}Subject: innermost\r\n\r\nat the bottom\r\n", one.repeat(depth)).into_bytes()
}

fn many_parts(count: usize) -> Vec<u8> {
    let part = "--b\r\nContent-Type: text/plain; charset=utf-8; name=\"a file\"\r\n\r\nx\r\n";
    format!(
        "Subject: wide\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n{}--b--\r\n",
        part.repeat(count)
    )
    .into_bytes()
}

fn many_addresses(count: usize) -> Vec<u8> {
    let list = (0..count)
        .map(|number| format!("\r\n Somebody {number} <s{number}@example.net>,"))
        .collect::<String>();
    format!("Subject: to all\r\nTo:{list} last@example.net\r\n\r\nx\r\n").into_bytes()
}

#[test]
fn mime_bombs_are_described_in_little_time_and_memory() -> Result<()> {
    // Two seconds are the aim on a machine of its own; tests share theirs, and the server is not optimised.
    const TIME_MAX: Duration = Duration::from_secs(15);
    const MEMORY_MAX: u64 = 64 << 20;
    let bombs = [
        ("2,000 multiparts in each other", nested(2_000)),
        ("2,000 messages in each other", held_in_each_other(2_000)),
        ("100,000 parts", many_parts(100_000)),
        ("100,000 addresses", many_addresses(100_000)),
    ];
    let mut server = server_with_joe()?;
    let pid = server.pid()?;
    let mut imap = server.login("joe")?;
    imap.append_ok("INBOX", "", message("so that everything is warm", "x").as_bytes())?;
    imap.ok("SELECT INBOX")?;
    imap.ok("FETCH 1 (ENVELOPE BODYSTRUCTURE)")?;
    for (what, bomb) in bombs {
        process::reset_peak(pid)?;
        let before = process::peak(pid)?;
        let begun = Instant::now();
        let (_, uid) = imap.append_ok("INBOX", "", &bomb)?;
        let reply = imap.ok(&format!("UID FETCH {uid} (ENVELOPE BODYSTRUCTURE RFC822.SIZE)"))?;
        let took = begun.elapsed();
        let growth = process::peak(pid)?.saturating_sub(before);
        eprintln!(
            "{what}, {} octets: {:.2} s, memory grew by {} KiB",
            bomb.len(),
            took.as_secs_f64(),
            growth >> 10
        );
        let fetches = reply.fetches().with_context(|| what.to_owned())?;
        let fetch = fetches
            .iter()
            .find(|fetch| fetch.uid().is_ok_and(|found| found == uid))
            .context("not fetched")?;
        bodystructure::envelope(fetch.get("ENVELOPE")?).context(what)?;
        ensure!(fetch.get("RFC822.SIZE")?.number()? == bomb.len() as u64);
        ensure!(took < TIME_MAX, "{what} took {took:?}");
        ensure!(growth < MEMORY_MAX, "{what}: memory grew by {growth} octets");
        let part =
            imap.ok(&format!("UID FETCH {uid} (BODY.PEEK[1.1.1.1.MIME] BODY.PEEK[] BODY.PEEK[99999])"))?;
        ensure!(part.fetches()?.iter().any(|fetch| fetch.body("BODY[]").is_ok_and(|octets| octets == bomb)));
        imap.ok("SEARCH BODY bottom")?;
    }
    server.check()?;
    server.stop()
}

#[test]
fn nothing_is_injected_into_a_header_over_lmtp() -> Result<()> {
    let mut server = server_with_joe()?;
    let envelopes: &[&[u8]] = &[
        b"MAIL FROM:<a@example.net>\rX-Injected: yes\r\n",
        b"MAIL FROM:<\"a\r\nX-Injected: yes\r\n\"@example.net>\r\n",
        b"MAIL FROM:<\"a\\\rX-Injected: yes\"@example.net>\r\n",
        b"MAIL FROM:<a@example.net> BODY=8BITMIME\rX-Injected: yes\r\n",
        b"MAIL FROM:<a\0@example.net>\r\n",
        b"RCPT TO:<joe\rX-Injected: yes>\r\n",
        b"RCPT TO:<joe> ORCPT=rfc822;a\rX-Injected: yes\r\n",
        b"LHLO evil\rX-Injected: yes\r\n",
        b"LHLO evil\nX-Injected: yes\r\n",
    ];
    for line in envelopes {
        let mut lmtp = Lmtp::connect(server.lmtp)?;
        lmtp.send(line)?;
        if line.starts_with(b"LHLO") {
            lmtp.send(b"MAIL FROM:<a@example.net>\r\n")?;
        }
        if line.starts_with(b"RCPT") {
            bail_unless_bad(&mut lmtp, line)?;
            lmtp.send(b"MAIL FROM:<a@example.net>\r\n")?;
        }
        lmtp.send(b"RCPT TO:<joe>\r\nDATA\r\nSubject: x\r\n\r\nx\r\n.\r\nQUIT\r\n")?;
        // Whatever of it was taken, its answers end with that to QUIT.
        while lmtp.answer().is_ok_and(|answer| answer.code != 221) {}
    }
    let mut imap = server.login("joe")?;
    imap.ok("SELECT INBOX")?;
    let found = imap.ok("SEARCH HEADER X-Injected \"\"")?.search()?;
    ensure!(found.is_empty(), "messages with an injected header: {found:?}");
    let reply = imap.ok("FETCH 1:* (BODY.PEEK[HEADER])")?;
    for fetch in reply.fetches()? {
        let header = fetch.body("BODY[HEADER]")?;
        ensure!(!header.windows(10).any(|window| window == b"X-Injected"), "{}", header.escape_ascii());
    }
    server.check()?;
    server.stop()
}

/// RCPT before MAIL, and malformed: refused in any case.
fn bail_unless_bad(lmtp: &mut Lmtp, line: &[u8]) -> Result<()> {
    let answer = lmtp.answer()?;
    ensure!(answer.code >= 500, "{} was answered {answer:?}", line.escape_ascii());
    Ok(())
}
