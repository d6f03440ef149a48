//! Nodes of a cluster over the years: certificates that end, and data folders that are older than they were.

use anyhow::{Result, ensure};
use rookery_tests::clock::{Clock, DAY};
use rookery_tests::command;
use rookery_tests::lmtp::Lmtp;
use rookery_tests::murder::Murder;
use rookery_tests::server::{PASSWORD, Server};
use std::time::{Duration, Instant};

const MESSAGE: &[u8] = b"From: a@example.net\r\nSubject: later\r\n\r\nbody\r\n";
const NODES: [(&str, &str); 3] =
    [("be1.example", ""), ("be2.example", "serve,hold"), ("fe1.example", "serve")];

#[test]
fn certificates_are_renewed_before_they_end() -> Result<()> {
    let mut murder = Murder::start(&NODES)?;
    murder.node(1)?.add_user("joe")?;
    let certificates = |murder: &Murder| -> Result<Vec<Vec<u8>>> {
        let read = |node: &Server| Ok(std::fs::read(node.data().join("cluster/node.crt"))?);
        murder.nodes.iter().map(read).collect()
    };
    let first = certificates(&murder)?;
    murder.stop()?;
    let mut clocks = Vec::new();
    for node in &mut murder.nodes {
        for line in ["is not renewed yet", "the directory's source is away", "a user's home is not reached"] {
            node.allow_log(line);
        }
        clocks.push(Clock::of(node)?);
    }
    // Two thirds of a year are over.
    clocks.iter().try_for_each(|clock| clock.shift(250 * DAY))?;
    murder.nodes.iter_mut().try_for_each(Server::launch)?;
    let deadline = Instant::now() + Duration::from_secs(90);
    while certificates(&murder)?.iter().zip(&first).any(|(now, before)| now == before) {
        ensure!(Instant::now() < deadline, "a certificate is not renewed");
        std::thread::sleep(Duration::from_millis(100));
    }
    let joe = murder.node(2)?.login("joe")?;
    // The first ones have ended; new connections take the new ones.
    clocks.iter().try_for_each(|clock| clock.shift(400 * DAY))?;
    drop(joe);
    murder.stop()?;
    murder.nodes.iter_mut().try_for_each(Server::launch)?;
    let mut joe = murder.node(2)?.login("joe")?;
    joe.append_ok("INBOX", "()", MESSAGE)?;
    murder.stop()
}

fn deliver(node: &Server, user: &str) -> Result<Vec<u16>> {
    let mut mta = Lmtp::connect(node.lmtp)?;
    let answers = mta.deliver("x@example.net", &[user], MESSAGE)?;
    Ok(answers.iter().map(|answer| answer.code).collect())
}

/// Delivers one message, when the nodes are linked again after a start.
fn delivered(node: &Server, user: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match deliver(node, user)?[..] {
            [250] => return Ok(()),
            [451] => ensure!(Instant::now() < deadline, "mail for {user} is not taken"),
            ref other => anyhow::bail!("mail for {user} is answered {other:?}"),
        }
    }
}

#[test]
fn a_node_with_an_old_snapshot_holds_nothing_until_that_is_accepted() -> Result<()> {
    let mut murder = Murder::start(&NODES)?;
    murder.node(1)?.add_user("joe")?;
    delivered(murder.node(2)?, "joe")?;
    murder.node_mut(1)?.stop()?;
    let (data, old) = (murder.node(1)?.data(), murder.node(1)?.root().join("old"));
    let (data, old) = (data.display().to_string(), old.display().to_string());
    command::ok("cp", &["-a", &data, &old], b"")?;
    murder.node_mut(1)?.launch()?;
    delivered(murder.node(2)?, "joe")?;
    // The directory knows of this start.
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let listed = murder.node(0)?.cli(&["node", "list", "--json"], b"")?;
        let nodes: serde_json::Value = serde_json::from_str(&listed.text())?;
        let of_two = nodes.as_array().into_iter().flatten().find(|node| node["name"] == "be2.example");
        if of_two.is_some_and(|node| node["boot"] == 2) {
            break;
        }
        ensure!(Instant::now() < deadline, "{nodes}");
    }
    murder.node_mut(1)?.kill9()?;
    command::ok("rm", &["-r", &data], b"")?;
    command::ok("mv", &[&old, &data], b"")?;
    for node in 0..3 {
        let lines = [
            "this node holds nothing",
            "a recipient could not be looked up",
            "the directory failed a command",
            "home is not reached",
            "accepted",
        ];
        for line in lines {
            murder.node_mut(node)?.allow_log(line);
        }
    }
    murder.node_mut(1)?.launch()?;
    let listed = murder.node(1)?.cli(&["node", "list"], b"")?;
    ensure!(listed.text().contains("holding nothing"), "{}", listed.text());
    // Nobody hears that there is no such user, or sees a mailbox with less in it.
    let deadline = Instant::now() + Duration::from_secs(20);
    for node in [2, 1] {
        ensure!(deliver(murder.node(node)?, "joe")? == [451]);
        let mut client = rookery_tests::imap::Imap::connect(murder.node(node)?.imap)?;
        loop {
            let answer = client.command(&format!("LOGIN joe {}", rookery_tests::imap::quote(PASSWORD)))?;
            ensure!(answer.status != rookery_tests::imap::Status::Ok, "joe is let in at node {node}");
            if answer.code("UNAVAILABLE").is_some() {
                break;
            }
            ensure!(Instant::now() < deadline, "{:?}", answer.lines());
        }
    }
    // New accounts are made elsewhere.
    murder.node(1)?.add_user("eve")?;
    delivered(murder.node(2)?, "eve")?;
    let accepted = murder.node(1)?.cli(&["node", "accept"], b"")?;
    ensure!(accepted.status.success(), "{}", accepted.text());
    let mut joe = murder.node(2)?.login("joe")?;
    ensure!(joe.ok("STATUS INBOX (MESSAGES)")?.lines().iter().any(|line| line.contains("MESSAGES 1")));
    delivered(murder.node(2)?, "joe")?;
    let again = murder.node(1)?.cli(&["node", "accept"], b"")?;
    ensure!(!again.status.success(), "{}", again.text());
    // It is the one that the directory knows from here on.
    drop(joe);
    murder.node_mut(1)?.stop()?;
    murder.node_mut(1)?.launch()?;
    delivered(murder.node(2)?, "joe")?;
    murder.stop()
}

#[test]
fn a_node_with_an_empty_store_does_not_pass_for_the_one_it_was() -> Result<()> {
    let mut murder = Murder::start(&NODES)?;
    murder.node(1)?.add_user("joe")?;
    for node in [0, 2] {
        murder.node_mut(node)?.allow_log("home is not reached");
    }
    murder.node_mut(1)?.stop()?;
    let data = murder.node(1)?.data();
    for part in ["engine", "volumes"] {
        command::ok("rm", &["-r", &data.join(part).display().to_string()], b"")?;
    }
    let refused = murder.node(1)?.cli(&["serve"], b"")?;
    ensure!(
        !refused.status.success() && refused.text().contains("another node's than the store is"),
        "{}",
        refused.text()
    );
    ensure!(deliver(murder.node(2)?, "joe")? == [451]);
    Ok(())
}
