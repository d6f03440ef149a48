//! A new program takes the running one's place, and sockets are given to the server by whoever starts it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rookery_tests::command;
use rookery_tests::imap::Status;
use rookery_tests::murder::Murder;
use rookery_tests::process;
use rookery_tests::server::{PASSWORD, Server};

use crate::{message, server_with_joe};

/// Reads until the peer has said a line, which must come.
fn first_line(mut stream: impl Read) -> Result<String> {
    let mut line = Vec::new();
    while !line.ends_with(b"\n") {
        let mut octet = [0];
        ensure!(
            stream.read(&mut octet)? == 1,
            "the connection ended after {:?}",
            String::from_utf8_lossy(&line)
        );
        line.extend(octet);
    }
    Ok(String::from_utf8(line)?)
}

/// Connects again and again until told to stop; every connection has to be greeted.
fn connect_again_and_again(
    connect: impl Fn() -> Result<String>,
    stop: &AtomicBool,
    count: &AtomicU32,
) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let line = connect()?;
        ensure!(["* OK", "220 ", "* BYE", "421 "].iter().any(|start| line.starts_with(start)), "{line}");
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

#[test]
fn a_restart_refuses_no_connection() -> Result<()> {
    let mut server = server_with_joe()?;
    let pid = server.pid()?;
    let (imap, socket) = (server.imap, server.lmtp_socket());
    let tcp = || {
        let stream = TcpStream::connect(imap).context("IMAP")?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        first_line(stream)
    };
    let unix = || {
        let stream = UnixStream::connect(&socket).context("LMTP")?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        first_line(stream)
    };
    let (stop, count) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| -> Result<()> {
        let workers = [
            scope.spawn(|| connect_again_and_again(tcp, &stop, &count)),
            scope.spawn(|| connect_again_and_again(unix, &stop, &count)),
        ];
        let restarts = (0..3).try_for_each(|round| -> Result<()> {
            let before = count.load(Ordering::Relaxed);
            server.deliver("joe", message(&format!("round {round}"), "still here").as_bytes())?;
            let output = server.cli(&["restart"], b"")?;
            ensure!(output.status.success(), "{}", output.text());
            ensure!(output.text().starts_with("Restarted"), "{}", output.text());
            while count.load(Ordering::Relaxed) < before + 20 && workers.iter().all(|one| !one.is_finished())
            {
                std::thread::yield_now();
            }
            Ok(())
        });
        stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        restarts
    })?;
    ensure!(server.pid()? == pid, "another process");
    let mut imap = server.login("joe")?;
    let selected = imap.ok("SELECT INBOX")?.lines();
    ensure!(selected.iter().any(|line| line == "3 EXISTS"), "{selected:?}");
    drop(imap);
    server.check()?;
    server.stop()?;
    ensure!(!server.lmtp_socket().exists(), "the socket's file is left behind");
    Ok(())
}

/// Lines to and from a server, compressed behind COMPRESS.
const DEFLATE: &str = r#"
import os, select, socket, sys, zlib
server = socket.create_connection((sys.argv[1], int(sys.argv[2])))
lines, asked, pack, unpack = b"", False, None, None
while True:
    for ready in select.select([0, server], [], [])[0]:
        octets = os.read(0, 65536) if ready == 0 else server.recv(65536)
        if not octets:
            sys.exit()
        if ready == 0:
            *whole, lines = (lines + octets).split(b"\n")
            for line in whole:
                asked = asked or b" COMPRESS " in line
                line += b"\r\n"
                server.sendall(pack.compress(line) + pack.flush(zlib.Z_SYNC_FLUSH) if pack else line)
        else:
            os.write(1, unpack.decompress(octets) if unpack else octets)
            if asked and not pack and b" OK " in octets:
                pack, unpack = zlib.compressobj(wbits=-15), zlib.decompressobj(wbits=-15)
"#;

/// A client whose lines another program encrypts or compresses.
struct Wrapped {
    child: Child,
    lines: BufReader<ChildStdout>,
    tags: u32,
}

impl Wrapped {
    fn tls(server: &Server) -> Result<Wrapped> {
        command::require("openssl")?;
        let mut openssl = Command::new("openssl");
        openssl.args(["s_client", "-quiet", "-crlf", "-connect", &server.imaps.to_string()]);
        Wrapped::by(openssl)
    }

    fn deflate(server: &Server) -> Result<Wrapped> {
        command::require("python3")?;
        let mut python = Command::new("python3");
        python.args(["-c", DEFLATE, &server.imap.ip().to_string(), &server.imap.port().to_string()]);
        Wrapped::by(python)
    }

    fn by(mut program: Command) -> Result<Wrapped> {
        let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no output")?);
        let mut client = Wrapped { child, lines, tags: 0 };
        ensure!(client.line()?.starts_with("* OK"), "no greeting");
        Ok(client)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.lines.read_line(&mut line)? > 0, "the connection has ended");
        Ok(line)
    }

    /// One command that must be answered with OK; all lines of the answer.
    fn ok(&mut self, command: &str) -> Result<String> {
        self.tags += 1;
        let tag = format!("s{}", self.tags);
        writeln!(self.child.stdin.as_mut().context("no input")?, "{tag} {command}")?;
        let mut all = String::new();
        loop {
            let line = self.line()?;
            all += &line;
            if let Some(answer) = line.strip_prefix(&format!("{tag} ")) {
                ensure!(answer.starts_with("OK"), "{command}: {all}");
                return Ok(all);
            }
        }
    }
}

impl Drop for Wrapped {
    fn drop(&mut self) {
        // It may have ended with its connection.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until so many processes are what is left of a server and its predecessors.
fn processes(server: &Server, count: usize) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let tree = process::tree(server.pid()?);
        if tree.len() == count {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "there are {} processes, not {count}: {tree:?}", tree.len());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn sessions_go_on_through_restarts() -> Result<()> {
    let mut server = server_with_joe()?;
    server.deliver("joe", message("the first", "one").as_bytes())?;
    let mut plain = server.login("joe")?;
    plain.ok("ENABLE QRESYNC")?;
    plain.ok("SELECT INBOX")?;
    let mut nothing_selected = server.login("joe")?;
    let mut idling = server.login("joe")?;
    idling.ok("SELECT INBOX")?;
    let idle = idling.idle()?;
    let mut tls = Wrapped::tls(&server)?;
    tls.ok(&format!("LOGIN joe \"{PASSWORD}\""))?;
    tls.ok("SELECT INBOX")?;
    let mut deflated = Wrapped::deflate(&server)?;
    deflated.ok(&format!("LOGIN joe \"{PASSWORD}\""))?;
    deflated.ok("COMPRESS DEFLATE")?;
    deflated.ok("SELECT INBOX")?;
    let mut newcomers: Vec<Wrapped> = Vec::new();
    for round in 2..5 {
        let output = server.cli(&["restart"], b"")?;
        ensure!(output.status.success(), "{}", output.text());
        server.deliver("joe", message(&format!("number {round}"), "more").as_bytes())?;
        let exists = format!("{round} EXISTS");
        // \Recent may be told of first.
        let heard = [idling.response()?, idling.response()?].map(|line| line.escape_ascii().to_string());
        ensure!(heard.iter().any(|line| line.ends_with(&exists)), "IDLE heard {heard:?}");
        let told = plain.ok("NOOP")?.lines();
        ensure!(told.contains(&exists), "{told:?}");
        ensure!(tls.ok("NOOP")?.contains(&exists), "over TLS");
        ensure!(deflated.ok("NOOP")?.contains(&exists), "under compression");
        nothing_selected.append_ok("Drafts", "", message("draft", "of it").as_bytes())?;
        // A sequence number means what it meant.
        let fetched = plain.ok("FETCH 1 (UID FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])")?;
        let subject = fetched.fetches()?[0].body("BODY[HEADER.FIELDS (SUBJECT)]")?.to_vec();
        ensure!(String::from_utf8_lossy(&subject).contains("the first"), "FETCH 1 is {subject:?}");
        plain.ok("STORE 1 +FLAGS (\\Flagged)")?;
        // The first process, those that keep clients, and the one that serves.
        processes(&server, round)?;
        for (number, newcomer) in newcomers.iter_mut().enumerate() {
            newcomer.ok("NOOP")?;
            if number == 2 {
                // It is connected to the process before.
                newcomer.ok("COMPRESS DEFLATE")?;
                newcomer.ok("NOOP")?;
            }
        }
        let mut newcomer = Wrapped::tls(&server)?;
        newcomer.ok(&format!("LOGIN joe \"{PASSWORD}\""))?;
        newcomers.push(newcomer);
        if round == 3 {
            // Compressed where its socket has been kept since.
            let mut late = Wrapped::deflate(&server)?;
            late.ok(&format!("LOGIN joe \"{PASSWORD}\""))?;
            newcomers.push(late);
        }
    }
    idling.done(&idle)?;
    ensure!(tls.ok("FETCH 1 FLAGS")?.contains("\\Flagged"), "a flag is lost");
    for client in [&mut plain, &mut idling, &mut nothing_selected] {
        client.ok("LOGOUT")?;
    }
    tls.ok("LOGOUT")?;
    ensure!(deflated.ok("FETCH 1:* BODY[]")?.contains("the first"), "a message is lost");
    deflated.ok("LOGOUT")?;
    for newcomer in &mut newcomers {
        newcomer.ok("LOGOUT")?;
    }
    processes(&server, 2)?;
    server.login("joe")?.ok("SELECT INBOX")?;
    // The server is told by its first process, and nothing of it is left.
    server.check()?;
    server.stop()
}

#[test]
fn sessions_go_on_when_the_nodes_of_a_murder_restart() -> Result<()> {
    let mut murder = Murder::start(&[("fe1.example", ""), ("be1.example", "serve,hold")])?;
    for node in &mut murder.nodes {
        node.allow_log("the directory's source is away");
    }
    murder.node(1)?.add_user("joe")?;
    let mut clients = Vec::new();
    for node in &murder.nodes {
        let mut client = node.login("joe")?;
        client.ok("SELECT INBOX")?;
        let mut idling = node.login("joe")?;
        idling.ok("SELECT INBOX")?;
        let tag = idling.idle()?;
        clients.push((client, idling, tag));
    }
    let mut number = 0;
    for node in [1, 0, 1, 0, 0] {
        let output = murder.node(node)?.cli(&["restart"], b"")?;
        let logs = || murder.nodes.iter().map(|node| node.log_tail()).collect::<Vec<_>>().join("\n----\n");
        ensure!(output.status.success(), "{}\n{}", output.text(), logs());
        number += 1;
        murder.node(1)?.deliver("joe", message(&format!("number {number}"), "more").as_bytes())?;
        let exists = format!("{number} EXISTS");
        for (client, idling, _) in &mut clients {
            let told = client
                .ok("NOOP")
                .inspect_err(|_| {
                    for n in &murder.nodes {
                        eprintln!("{}", n.log_tail())
                    }
                })?
                .lines();
            ensure!(told.contains(&exists), "node {node}: {told:?}");
            while !String::from_utf8_lossy(&idling.response()?).ends_with(&exists) {}
        }
    }
    for (client, idling, tag) in &mut clients {
        idling.done(tag)?;
        client.ok("LOGOUT")?;
        idling.ok("LOGOUT")?;
    }
    for node in &murder.nodes {
        node.check()?;
    }
    murder.stop()
}

#[test]
fn a_server_ends_with_its_first_process() -> Result<()> {
    let mut server = server_with_joe()?;
    let client = server.login("joe")?;
    let output = server.cli(&["restart"], b"")?;
    ensure!(output.status.success(), "{}", output.text());
    let tree = process::tree(server.pid()?);
    ensure!(tree.len() == 2, "{tree:?}");
    server.kill9()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while tree.iter().any(|pid| std::path::Path::new(&format!("/proc/{pid}")).exists()) {
        ensure!(Instant::now() < deadline, "the server outlives its first process");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(client);
    server.launch()?;
    server.check()?;
    server.stop()
}

#[test]
fn a_restart_that_would_fail_is_refused() -> Result<()> {
    let mut server = server_with_joe()?;
    server.allow_log("not restarted");
    server.add_config("[imap2]\n")?;
    let output = server.cli(&["--config", "/dev/null", "restart"], b"");
    // The server's own configuration is what counts, whatever this command was given.
    ensure!(!output?.status.success());
    server.login("joe")?;
    server.stop()
}

#[test]
fn a_reload_changes_what_it_can_and_names_the_rest() -> Result<()> {
    let mut server = server_with_joe()?;
    let reload = |server: &rookery_tests::server::Server| -> Result<String> {
        let output = server.cli(&["reload"], b"")?;
        ensure!(output.status.success(), "{}", output.text());
        Ok(output.text())
    };
    ensure!(reload(&server)?.contains("Nothing has changed"));
    let mut before = rookery_tests::imap::Imap::connect(server.imap)?;
    let text = std::fs::read_to_string(server.config())?;
    let changed = text
        .replace("[imap]\n", "[imap]\nbad_commands_max = 2\n")
        .replace("[http]\n", "[store]\nretention_days = 3\n[http]\n");
    std::fs::write(server.config(), &changed)?;
    let said = reload(&server)?;
    ensure!(said.contains("from now on: imap.bad_commands_max."), "{said}");
    ensure!(said.contains("`rookery restart`: store.retention_days."), "{said}");
    // Whoever comes now has the new limit, whoever was there keeps the old one.
    let mut after = rookery_tests::imap::Imap::connect(server.imap)?;
    after.raw(b"a NONSENSE\r\nb NONSENSE\r\n")?;
    let mut heard = String::new();
    while let Ok(line) = after.response() {
        heard += &String::from_utf8_lossy(&line);
    }
    ensure!(heard.contains("* BYE"), "{heard}");
    for _ in 0..3 {
        ensure!(before.command("NONSENSE")?.status == Status::Bad, "the old session");
    }
    // A mistake changes nothing, and is told with its line.
    server.allow_log("reload");
    std::fs::write(server.config(), format!("{changed}[nonsense]\n"))?;
    let output = server.cli(&["reload"], b"")?;
    ensure!(
        !output.status.success() && output.text().contains("unknown setting 'nonsense'"),
        "{}",
        output.text()
    );
    std::fs::write(server.config(), changed)?;
    ensure!(reload(&server)?.contains("store.retention_days"));
    server.stop()
}

/// Binds the sockets it is told, then becomes the server with them, as a service manager does.
const ACTIVATE: &str = r#"
import os, socket, sys
places, program = sys.argv[1].split(","), sys.argv[2:]
for number, place in enumerate(places, 3):
    if place.startswith("unix:"):
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        one.bind(place[5:])
    else:
        host, port = place.rsplit(":", 1)
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        one.bind((host, int(port)))
    one.listen(128)
    os.dup2(one.fileno(), number + 40)
for number in range(3, 3 + len(places)):
    os.dup2(number + 40, number, inheritable=True)
    os.close(number + 40)
os.environ.update(LISTEN_FDS=str(len(places)), LISTEN_PID=str(os.getpid()))
os.execv(program[0], program)
"#;

#[test]
fn sockets_of_a_service_manager_are_served_and_survive_a_restart() -> Result<()> {
    command::require("python3")?;
    let mut server = rookery_tests::server::Server::unstarted()?;
    let script = server.root().join("activate.py");
    std::fs::write(&script, ACTIVATE)?;
    let places = format!("{},unix:{}", server.imap, server.lmtp_socket().display());
    let script = script.to_str().context("the path")?.to_owned();
    server.wrap(&["python3", &script, &places]);
    server.launch()?;
    server.add_user("joe")?;
    let served = |socket: &Path| first_line(UnixStream::connect(socket)?);
    ensure!(served(&server.lmtp_socket())?.starts_with("220 "));
    let output = server.cli(&["restart"], b"")?;
    ensure!(output.status.success(), "{}", output.text());
    server.login("joe")?;
    ensure!(served(&server.lmtp_socket())?.starts_with("220 "));
    server.stop()
}
