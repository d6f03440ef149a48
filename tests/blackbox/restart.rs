//! A new program takes the running one's place, and sockets are given to the server by whoever starts it.

use std::io::Read;
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rookery_tests::command;
use rookery_tests::imap::Status;

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
