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
