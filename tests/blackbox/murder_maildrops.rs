//! Sessions of POP3 go along with their account, and outlive restarts.

use anyhow::{Context, Result, ensure};
use rookery_tests::murder::Murder;

use crate::message;
use crate::pop3::{Pop3, left};

#[test]
fn sessions_go_along_with_their_account_and_through_restarts() -> Result<()> {
    let mut murder = Murder::start(&[("n1.example", ""), ("n2.example", "serve,hold")])?;
    for node in &mut murder.nodes {
        node.allow_log("the directory's source is away");
    }
    murder.node(1)?.add_user("joe")?;
    for n in 1..=7 {
        murder.node(0)?.deliver("joe", message(&format!("letter {n}"), "x").as_bytes())?;
    }
    let mut clients = Vec::new();
    for (at, marks) in [(0, "DELE 1"), (1, "DELE 2")] {
        let mut client = Pop3::login(murder.node(at)?, &[marks])?;
        let ids = client.lines("UIDL")?;
        clients.push((client, ids));
    }
    // So that the maildrop is not what the mailbox is.
    Pop3::login(murder.node(0)?, &["DELE 7", "QUIT"])?;
    let go_on = |clients: &mut Vec<(Pop3, Vec<String>)>, what: &str| -> Result<()> {
        for (client, ids) in clients {
            let found = client.lines("UIDL").context(what.to_owned())?;
            ensure!(found == *ids, "{what}: {found:?}, not {ids:?}");
            let letter = client.lines("RETR 7").context(what.to_owned())?;
            ensure!(letter.contains(&"Subject: letter 7".to_owned()), "{what}: {letter:?}");
        }
        Ok(())
    };
    for to in ["n1.example", "n2.example", "n1.example"] {
        let output = murder.node(0)?.cli(&["move", "user", "joe", "--to", to, "--wait"], b"")?;
        ensure!(output.status.success(), "{}", output.text());
        go_on(&mut clients, &format!("at {to}"))?;
    }
    for node in [0, 1, 0] {
        let output = murder.node(node)?.cli(&["restart"], b"")?;
        ensure!(output.status.success(), "{}", output.text());
        go_on(&mut clients, &format!("after a restart of {node}"))?;
    }
    let output = murder.node(1)?.cli(&["move", "user", "joe", "--to", "n2.example", "--wait"], b"")?;
    ensure!(output.status.success(), "{}", output.text());
    for (client, _) in &mut clients {
        ensure!(client.ok("QUIT")?.contains("is gone"), "nothing was removed");
    }
    ensure!(left(murder.node(0)?)? == 4, "{} letters are left", left(murder.node(0)?)?);
    murder.node(1)?.check()?;
    murder.stop()
}
