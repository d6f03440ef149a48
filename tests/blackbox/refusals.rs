//! A server that cannot start says why in words an operator can act on, with an exit code that scripts can act on.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rookery_kv::Engine;
use rookery_kv::engine::{Batch, Space};
use rookery_kv::fjall_engine::{FjallEngine, FjallOptions};
use rookery_tests::command::{self, Output};
use rookery_tests::server::Server;

use crate::server_with_joe;

/// Starts a server that is expected to refuse.
fn serve(server: &Server) -> Result<Output> {
    server.cli(&["serve"], b"")
}

fn expect(output: &Output, code: i32, words: &[&str]) -> Result<()> {
    let text = output.text();
    ensure!(output.status.code() == Some(code), "ended with {}, not {code}:\n{text}", output.status);
    for word in words {
        ensure!(text.contains(word), "{word:?} is not in:\n{text}");
    }
    ensure!(!text.contains("panicked"), "{text}");
    Ok(())
}

#[test]
fn a_second_process_on_the_same_data() -> Result<()> {
    let mut server = server_with_joe()?;
    expect(&serve(&server)?, 6, &["in use", &server.pid()?.to_string()])?;
    // The first goes on undisturbed, and its end frees the folder.
    server.login("joe")?;
    server.restart()?;
    server.kill9()?;
    server.launch()?;
    server.stop()
}

#[test]
fn a_mistaken_setting_is_told_with_its_line() -> Result<()> {
    let server = Server::unstarted()?;
    let line = std::fs::read_to_string(server.config())?.lines().count() + 2;
    server.add_config("[store]\nretention_dais = 3\n[accounts]\nmailboxes = 5\n")?;
    let (first, second) = (format!("config:{line}: "), format!("config:{}: ", line + 2));
    expect(&serve(&server)?, 2, &[&first, &second, "retention_dais", "did you mean 'retention_days'?"])?;
    let config = server.config().display().to_string();
    expect(&server.cli(&["config", "check", &config], b"")?, 2, &[&first, &second])?;
    ensure!(!server.data().exists(), "a server that does not start makes no data folder");
    Ok(())
}

#[test]
fn a_missing_permission() -> Result<()> {
    let server = Server::unstarted()?;
    let open = |path: &Path, mode: u32| std::fs::set_permissions(path, PermissionsExt::from_mode(mode));
    std::fs::create_dir(server.data())?;
    open(&server.data(), 0o000)?;
    open(server.root(), 0o755)?;
    // Where the build lies, others may not be let in.
    let binary = server.root().join("rookery");
    std::fs::copy(server.binary()?, &binary)?;
    let mut run = if rustix::process::geteuid().is_root() {
        command::require("setpriv")?;
        let mut run = Command::new("setpriv");
        run.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&binary);
        run
    } else {
        Command::new(&binary)
    };
    run.arg("serve").arg("--config").arg(server.config());
    let output = command::run_command(run, b"")?;
    expect(&output, 1, &[&server.data().display().to_string(), "ermission denied"])?;
    open(&server.data(), 0o700)?;
    Ok(())
}

/// Writes the record that names the store's format as a later version would: octets 1 to 4 are the number, and the last
/// four are a checksum over space, key and fields.
fn raise_format(data: &Path) -> Result<u32> {
    let engine: Arc<dyn Engine> = Arc::new(FjallEngine::open(data.join("engine"), FjallOptions::default())?);
    let value = engine.get(Space::Meta, b"store")?.context("the store has no identity")?;
    let (fields, _) = value.split_last_chunk::<4>().context("the identity is too short")?;
    let mut fields = fields.to_vec();
    let number = fields.get_mut(1..5).context("the identity has no format")?;
    let newer = u32::from_le_bytes(number.try_into()?) + 1;
    number.copy_from_slice(&newer.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&[Space::Meta.index()]), b"store");
    let crc = crc32c::crc32c_append(crc, &fields);
    fields.extend_from_slice(&crc.to_le_bytes());
    let mut batch = Batch::new();
    batch.put(Space::Meta, &b"store"[..], fields);
    engine.commit(batch)?;
    Ok(newer)
}

#[test]
fn a_newer_format() -> Result<()> {
    let mut server = server_with_joe()?;
    server.stop()?;
    let newer = raise_format(&server.data())?;
    let format = format!("format {newer}");
    expect(&serve(&server)?, 1, &[&format, "newer program"])?;
    expect(&server.cli(&["check"], b"")?, 1, &[&format, "newer program"])
}

#[test]
fn an_address_that_is_taken() -> Result<()> {
    let mut server = Server::unstarted()?;
    let held = std::net::TcpListener::bind(server.imap)?;
    expect(&serve(&server)?, 1, &[&server.imap.to_string(), "in use"])?;
    drop(held);
    server.launch()?;
    server.stop()
}

#[test]
fn a_certificate_that_is_none() -> Result<()> {
    let server = Server::unstarted()?;
    std::fs::write(&server.certificate.cert, "no certificate\n")?;
    expect(&serve(&server)?, 1, &[&server.certificate.cert.display().to_string()])
}
