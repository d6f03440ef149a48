//! A cluster whose directory is in etcd, and loses members of it.

use anyhow::{Result, ensure};
use rookery_tests::command::Output;
use rookery_tests::edge::{cluster_section, link_place};
use rookery_tests::etcd::Etcd;
use rookery_tests::lmtp::Lmtp;
use rookery_tests::murder::Murder;
use rookery_tests::server::{PASSWORD, Server};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

const MESSAGE: &[u8] = b"From: a@example.net\r\nSubject: without a directory\r\n\r\nbody\r\n";
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// What goes on for a user at a node, whatever the directory does.
fn mail_goes_on(front: &Server, user: &str) -> Result<()> {
    let began = Instant::now();
    let mut client = front.login(user)?;
    let (_, uid) = client.append_ok("INBOX", "()", MESSAGE)?;
    client.ok("SELECT INBOX")?;
    client.ok(&format!("UID STORE {uid} +FLAGS (\\Flagged)"))?;
    let fetched = client.ok(&format!("UID FETCH {uid} (FLAGS BODY[])"))?.fetches()?;
    ensure!(fetched.len() == 1 && fetched[0].body("BODY[]")? == MESSAGE);
    ensure!(client.ok("LIST \"\" *")?.lines().iter().any(|line| line.ends_with("INBOX")));
    let mut mta = Lmtp::connect(front.lmtp)?;
    let answers = mta.deliver("x@example.net", &[user], MESSAGE)?;
    ensure!(answers.iter().all(|answer| answer.code == 250), "{answers:?}");
    ensure!(began.elapsed() < Duration::from_secs(5), "it took {:?}", began.elapsed());
    Ok(())
}

fn add(node: &Server, user: &str) -> Result<Output> {
    node.cli(&["user", "add", user, "--password-stdin"], PASSWORD.as_bytes())
}

#[test]
fn a_cluster_outlives_the_leader_of_etcd_and_waits_for_its_majority() -> Result<()> {
    let mut etcd = Etcd::start(LOOPBACK, 3)?;
    let nodes = [("be1.example", ""), ("be2.example", "serve,hold"), ("fe1.example", "serve")];
    let mut murder = Murder::start_with(&nodes, &etcd.config(true)?)?;
    for node in 0..3 {
        for line in ["the directory's source is away", "accounts that were being made"] {
            murder.node_mut(node)?.allow_log(line);
        }
    }
    murder.node(0)?.add_user("ann")?;
    murder.node(1)?.add_user("joe")?;
    for user in ["ann", "joe"] {
        mail_goes_on(murder.node(2)?, user)?;
    }
    etcd.kill(etcd.leader()?)?;
    for user in ["ann", "joe"] {
        mail_goes_on(murder.node(2)?, user)?;
    }
    let added = add(murder.node(1)?, "eve")?;
    ensure!(added.status.success(), "{}", added.text());
    mail_goes_on(murder.node(2)?, "eve")?;
    // The majority goes.
    etcd.kill(etcd.leader()?)?;
    for user in ["ann", "joe", "eve"] {
        mail_goes_on(murder.node(2)?, user)?;
    }
    let began = Instant::now();
    let refused = add(murder.node(1)?, "bob")?;
    ensure!(!refused.status.success() && refused.text().contains("away"), "{}", refused.text());
    ensure!(began.elapsed() < Duration::from_secs(15), "refused after {:?}", began.elapsed());
    // Nobody can say that there is no such user.
    let mut mta = Lmtp::connect(murder.node(2)?.lmtp)?;
    let answers = mta.deliver("x@example.net", &["bob"], MESSAGE)?;
    ensure!(answers.iter().all(|answer| answer.code == 451), "{answers:?}");
    // A node that starts has its copy.
    murder.node_mut(1)?.kill9()?;
    murder.node_mut(1)?.launch()?;
    mail_goes_on(murder.node(1)?, "joe")?;
    for at in 0..3 {
        if etcd.running() != Some(at) {
            etcd.launch(at)?;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while !add(murder.node(1)?, "bob")?.status.success() {
        ensure!(Instant::now() < deadline, "the directory does not come back");
    }
    for user in ["ann", "joe", "eve", "bob"] {
        mail_goes_on(murder.node(2)?, user)?;
        drop(murder.node(0)?.login(user)?);
    }
    for node in &murder.nodes {
        node.check()?;
    }
    murder.stop()
}

#[test]
fn a_node_that_does_not_fit_its_directory_does_not_start() -> Result<()> {
    let etcd = Etcd::start(LOOPBACK, 1)?;
    let of_a_cluster =
        |server: &Server| -> Result<String> { Ok(cluster_section("node.example", link_place(server.imap)?)) };
    // Without the certificate that etcd asks for, nothing is read.
    let stranger = Server::unstarted()?;
    stranger.add_config(&of_a_cluster(&stranger)?)?;
    stranger.add_config(&etcd.config(false)?)?;
    let refused = stranger.cli(&["serve"], b"")?;
    ensure!(refused.text().contains("etcd does not answer"), "{}", refused.text());
    // One that has accounts of its own does not leave them behind.
    let mut alone = Server::unstarted()?;
    alone.launch()?;
    alone.add_user("ann")?;
    alone.stop()?;
    alone.add_config(&of_a_cluster(&alone)?)?;
    alone.add_config(&etcd.config(true)?)?;
    let refused = alone.cli(&["serve"], b"")?;
    ensure!(
        !refused.status.success() && refused.text().contains("directory of its own"),
        "{}",
        refused.text()
    );
    // A node whose settings say otherwise than the cluster's does not join.
    let murder = Murder::start_with(&[("be1.example", "")], &etcd.config(true)?)?;
    let token = murder.node(0)?.cli(&["node", "token"], b"")?.text();
    let other = Server::unstarted()?;
    other.add_config(&of_a_cluster(&other)?)?;
    let refused = other.cli(&["join", token.trim()], b"")?;
    ensure!(
        !refused.status.success() && refused.text().contains("directory.source is etcd"),
        "{}",
        refused.text()
    );
    Ok(())
}

/// The members of `rookery directory status`.
fn status(node: &Server) -> Result<serde_json::Value> {
    let output = node.cli(&["directory", "status", "--json"], b"")?;
    ensure!(output.status.success(), "directory status: {}", output.text());
    Ok(serde_json::from_str(&output.text())?)
}

#[test]
fn a_directory_moves_into_etcd_with_clients_connected() -> Result<()> {
    let etcd = Etcd::start(LOOPBACK, 1)?;
    let mut murder =
        Murder::start(&[("be1.example", ""), ("be2.example", "serve,hold"), ("fe1.example", "serve")])?;
    for node in 0..3 {
        for line in ["the directory's source is away", "the directory takes no changes", "not published yet"]
        {
            murder.node_mut(node)?.allow_log(line);
        }
    }
    murder.node(0)?.add_user("ann")?;
    murder.node(1)?.add_user("joe")?;
    ensure!(status(murder.node(0)?)?["source"] == "this node" && status(murder.node(1)?)?["accounts"] == 2);
    let mut open = Vec::new();
    for (at, user) in [(0, "ann"), (2, "ann"), (2, "joe")] {
        let mut client = murder.node(at)?.login(user)?;
        client.ok("SELECT INBOX")?;
        open.push(client);
    }
    // It needs to be told where, and one that has no directory has none to move.
    let refused = murder.node(0)?.cli(&["directory", "promote"], b"")?;
    ensure!(!refused.status.success() && refused.text().contains("directory.source"), "{}", refused.text());
    for node in &murder.nodes {
        node.add_config(&etcd.config(true)?)?;
    }
    let refused = murder.node(1)?.cli(&["directory", "promote"], b"")?;
    ensure!(!refused.status.success() && refused.text().contains("not at this node"), "{}", refused.text());
    let refused = murder.node(1)?.cli(&["directory", "rebuild"], b"")?;
    ensure!(!refused.status.success() && refused.text().contains("nothing to rebuild"), "{}", refused.text());
    // One that is not there meanwhile goes over when it starts.
    murder.node_mut(2)?.stop()?;
    let moved = murder.node(0)?.cli(&["directory", "promote"], b"")?;
    ensure!(moved.status.success() && moved.text().contains("be2.example"), "{}", moved.text());
    ensure!(moved.text().contains("follows"), "{}", moved.text());
    murder.node_mut(2)?.launch()?;
    open.truncate(1);
    for client in &mut open {
        client.append_ok("INBOX", "()", MESSAGE)?;
        client.ok("NOOP")?;
    }
    for (node, user) in [(0, "eve"), (1, "bob"), (2, "max")] {
        murder.node(node)?.add_user(user)?;
        let now = status(murder.node(node)?)?;
        ensure!(now["source"] == "etcd" && now["state"] == "following" && now["conflicts"] == 0, "{now}");
    }
    for user in ["ann", "joe", "eve", "bob", "max"] {
        mail_goes_on(murder.node(2)?, user)?;
    }
    // It stays so.
    for node in 0..3 {
        murder.node_mut(node)?.stop()?;
        murder.node_mut(node)?.launch()?;
    }
    murder.node(1)?.add_user("sue")?;
    mail_goes_on(murder.node(2)?, "sue")?;
    for node in &murder.nodes {
        node.check()?;
    }
    murder.stop()
}

#[test]
fn a_directory_that_is_lost_is_rebuilt_from_a_copy() -> Result<()> {
    let etcd = Etcd::start(LOOPBACK, 1)?;
    let lost = etcd.config(true)?;
    let nodes = [("be1.example", ""), ("be2.example", "serve,hold"), ("fe1.example", "serve")];
    let mut murder = Murder::start_with(&nodes, &lost)?;
    for node in 0..3 {
        for line in ["the directory's source is away", "the directory takes no changes", "is rebuilt"] {
            murder.node_mut(node)?.allow_log(line);
        }
    }
    murder.node(0)?.add_user("ann")?;
    murder.node(1)?.add_user("joe")?;
    murder.node(1)?.login("joe")?.ok("SETACL INBOX ann lr")?;
    // Another etcd comes up in its place, and has nothing.
    drop(etcd);
    let etcd = Etcd::start(LOOPBACK, 1)?;
    for node in 0..3 {
        let server = murder.node_mut(node)?;
        let config = std::fs::read_to_string(server.config())?.replace(&lost, &etcd.config(true)?);
        std::fs::write(server.config(), config)?;
        server.stop()?;
        server.launch()?;
    }
    for user in ["ann", "joe"] {
        mail_goes_on(murder.node(2)?, user)?;
    }
    ensure!(!add(murder.node(1)?, "eve")?.status.success(), "an account is made in another directory");
    let rebuilt = murder.node(1)?.cli(&["directory", "rebuild"], b"")?;
    ensure!(rebuilt.status.success(), "{}", rebuilt.text());
    let deadline = Instant::now() + Duration::from_secs(20);
    for node in &murder.nodes {
        while status(node)?["state"] != "following" {
            ensure!(Instant::now() < deadline, "{}", status(node)?);
        }
        let now = status(node)?;
        ensure!(now["accounts"] == 2 && now["published"] == 1 && now["conflicts"] == 0, "{now}");
    }
    murder.node(0)?.add_user("eve")?;
    mail_goes_on(murder.node(2)?, "eve")?;
    let listed = murder.node(2)?.login("ann")?.ok("LIST \"\" \"Other Users/*\"")?;
    ensure!(listed.lines().iter().any(|line| line.contains("joe")), "{:?}", listed.lines());
    for node in &murder.nodes {
        node.check()?;
    }
    murder.stop()
}

#[test]
fn a_directory_is_exported_and_imported() -> Result<()> {
    let mut from = Server::unstarted()?;
    from.launch()?;
    from.add_user("ann")?;
    from.add_user("joe")?;
    ensure!(from.cli(&["group", "add", "staff"], b"")?.status.success());
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("directory.jsonl");
    let file = file.display().to_string();
    let exported = from.cli(&["directory", "export", &file], b"")?;
    ensure!(exported.status.success(), "{}", exported.text());
    let printed = from.cli(&["directory", "export"], b"")?;
    ensure!(printed.stdout == std::fs::read(&file)?, "it is printed as it is written");
    let refused = from.cli(&["directory", "import", &file], b"")?;
    ensure!(refused.status.success(), "its own export changes nothing: {}", refused.text());
    let mut to = Server::unstarted()?;
    to.launch()?;
    let imported = to.cli(&["directory", "import", &file], b"")?;
    ensure!(imported.status.success(), "{}", imported.text());
    let (old, new) = (status(&from)?, status(&to)?);
    ensure!(new["accounts"] == 2 && old["accounts"] == 2, "{new}");
    // Their mail is not here, and nobody says that they do not exist.
    let mut mta = Lmtp::connect(to.lmtp)?;
    let answers = mta.deliver("x@example.net", &["ann"], MESSAGE)?;
    ensure!(answers.iter().all(|answer| answer.code == 451), "{answers:?}");
    to.allow_log("a recipient's home is not reached");
    let mut other = Server::unstarted()?;
    other.launch()?;
    other.add_user("eve")?;
    let refused = other.cli(&["directory", "import", &file], b"")?;
    ensure!(!refused.status.success() && refused.text().contains("not empty"), "{}", refused.text());
    let mut text = std::fs::read_to_string(&file)?;
    text.push_str("{\"kind\":\"account\",\"key\":\"YQ==\",\"value\":\"AAAA\"}\n");
    std::fs::write(&file, text)?;
    let mut third = Server::unstarted()?;
    third.launch()?;
    let refused = third.cli(&["directory", "import", &file], b"")?;
    ensure!(!refused.status.success() && refused.text().contains("line"), "{}", refused.text());
    ensure!(status(&third)?["accounts"] == 0, "nothing of a damaged export is used");
    Ok(())
}
