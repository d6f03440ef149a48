//! Our own raw client: what a few commands answer, line by line, and that a restart changes nothing.

use anyhow::{Context, Result, ensure};
use rookery_tests::imap::{Imap, Status};

use crate::{message, server_with_joe};

#[test]
fn a_message_survives_a_restart_with_its_uid_and_flags() -> Result<()> {
    let mut server = server_with_joe()?;
    let text = message("keep me", "hello");
    let mut imap = server.login("joe")?;
    let (validity, uid) = imap.append_ok("INBOX", "(\\Seen $Later)", text.as_bytes())?;
    drop(imap);
    server.restart()?;
    let mut imap = server.login("joe")?;
    let selected = imap.ok("SELECT INBOX")?;
    ensure!(
        selected.code("UIDVALIDITY") == Some(validity.to_string()),
        "UIDVALIDITY changed: {:?}",
        selected.lines()
    );
    ensure!(selected.lines().contains(&"1 EXISTS".to_owned()), "{:?}", selected.lines());
    let fetched = imap.ok("FETCH 1 (UID FLAGS BODY.PEEK[])")?.fetches()?;
    let fetch = fetched.first().context("nothing fetched")?;
    ensure!(fetch.uid()? == uid && fetch.body("BODY[]")? == text.as_bytes());
    let flags = fetch.flags()?;
    ensure!(flags.contains(&"\\Seen".into()) && flags.contains(&"$Later".into()), "{flags:?}");
    imap.ok("LOGOUT")?;
    server.stop()
}

#[test]
fn a_crash_loses_nothing_acknowledged() -> Result<()> {
    let mut server = server_with_joe()?;
    server.deliver("joe", message("one", "x").as_bytes())?;
    server.login("joe")?.append_ok("INBOX", "", message("two", "y").as_bytes())?;
    server.kill9()?;
    server.launch()?;
    let selected = server.login("joe")?.ok("SELECT INBOX")?;
    ensure!(selected.lines().contains(&"2 EXISTS".to_owned()), "{:?}", selected.lines());
    server.check()?;
    server.stop()
}

#[test]
fn an_idle_session_hears_of_a_delivery() -> Result<()> {
    let mut server = server_with_joe()?;
    let mut imap = server.login("joe")?;
    imap.ok("SELECT INBOX")?;
    let tag = imap.idle()?;
    server.deliver("joe", message("news", "x").as_bytes())?;
    let mut told = String::new();
    while !told.ends_with("EXISTS") {
        told = String::from_utf8_lossy(&imap.response()?).into_owned();
    }
    ensure!(told == "* 1 EXISTS", "{told}");
    ensure!(imap.done(&tag)?.status == Status::Ok);
    imap.ok("LOGOUT")?;
    server.stop()
}

#[test]
fn wrong_passwords_and_nonsense_are_refused_and_the_session_goes_on() -> Result<()> {
    let mut server = server_with_joe()?;
    let mut imap = Imap::connect(server.imap)?;
    ensure!(imap.command("LOGIN joe wrong")?.status == Status::No);
    ensure!(imap.command("SELECT INBOX")?.status != Status::Ok, "SELECT before login");
    ensure!(imap.command("FROBNICATE 1")?.status == Status::Bad);
    imap.ok(&format!("LOGIN joe \"{}\"", rookery_tests::server::PASSWORD))?;
    imap.ok("SELECT INBOX")?;
    imap.ok("LOGOUT")?;
    server.stop()
}
