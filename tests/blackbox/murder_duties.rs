//! What operators ask of nodes while these run: to take clients or not, to hold accounts or not; and what they ask of
//! accounts at whichever node they are.

use anyhow::{Context, Result, bail, ensure};
use rookery_tests::command::Output;
use rookery_tests::imap::Imap;
use rookery_tests::lmtp::Lmtp;
use rookery_tests::murder::Murder;
use rookery_tests::server::{PASSWORD, Server};
use serde_json::Value;
use std::time::{Duration, Instant};

const MESSAGE: &[u8] = b"From: a@example.net\r\nSubject: on duty\r\n\r\nbody\r\n";
const UNIFIED: [(&str, &str); 3] =
    [("n1.example", ""), ("n2.example", "serve,hold"), ("n3.example", "serve,hold")];
/// How long what is not told at once may take.
const SOON: Duration = Duration::from_secs(20);

fn cli(node: &Server, words: &str) -> Result<Output> {
    let words: Vec<&str> = words.split(' ').collect();
    node.cli(&words, b"")
}

fn done(node: &Server, words: &str) -> Result<String> {
    let output = cli(node, words)?;
    ensure!(output.status.success(), "{words}: {}", output.text());
    Ok(output.text())
}

fn refused(node: &Server, words: &str, why: &str) -> Result<()> {
    let output = cli(node, words)?;
    ensure!(!output.status.success() && output.text().contains(why), "{words}: {}", output.text());
    Ok(())
}

fn json(node: &Server, words: &str) -> Result<Value> {
    Ok(serde_json::from_str(&done(node, &format!("{words} --json"))?)?)
}

/// What `node list` says of a node.
fn listed(at: &Server, name: &str) -> Result<Value> {
    let nodes = json(at, "node list")?;
    let found = nodes.as_array().into_iter().flatten().find(|node| node["name"] == name);
    found.cloned().with_context(|| format!("{name} is not listed: {nodes}"))
}

/// Waits until something is so.
fn until(what: &str, is_so: impl Fn() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn is_refused(node: &Server) -> bool {
    Imap::connect(node.imap).is_err() && Lmtp::connect(node.lmtp).is_err()
}

#[test]
fn a_node_takes_clients_or_not_as_it_is_told_at_any_node() -> Result<()> {
    let mut murder = Murder::start(&UNIFIED)?;
    let [one, two, three] = &murder.nodes[..] else { bail!("three nodes were started") };
    two.add_user("joe")?;
    let mut inside = two.login("joe")?;
    let mut elsewhere = three.login("joe")?;
    // Asked at another node, and done before the command returns.
    done(one, "node serve cordon --node n2.example")?;
    ensure!(is_refused(two), "n2 takes clients");
    inside.append_ok("INBOX", "()", MESSAGE)?;
    let shown = json(three, "node show --node n2.example")?;
    ensure!(shown["serve"] == "cordon" && shown["takes_clients"] == false, "{shown}");
    ensure!(shown["clients"].as_u64() == Some(1) && shown["hold"] == "on", "{shown}");
    until("the list does not say it everywhere", || {
        Ok(listed(one, "n2.example")?["serve"] == "cordon"
            && listed(three, "n2.example")?["serve"] == "cordon")
    })?;
    // Back, at the node itself.
    done(two, "node serve on")?;
    two.login("joe")?.ok("NOOP")?;
    // Clients who wait for news leave first, then those who wait for nothing; nobody in the middle of a command.
    let mut idler = two.login("joe")?;
    idler.ok("SELECT INBOX")?;
    idler.idle()?;
    let began = Instant::now();
    let draining = std::thread::scope(|scope| -> Result<String> {
        let draining = scope.spawn(|| done(one, "node serve drain --node n2.example --within 6"));
        let heard = idler.response()?;
        ensure!(heard.starts_with(b"* BYE"), "{}", String::from_utf8_lossy(&heard));
        ensure!(began.elapsed() < Duration::from_secs(2), "IDLE leaves after {:?}", began.elapsed());
        inside.append_ok("INBOX", "()", MESSAGE)?;
        let heard = inside.response()?;
        ensure!(heard.starts_with(b"* BYE"), "{}", String::from_utf8_lossy(&heard));
        draining.join().map_err(|_| anyhow::anyhow!("the command panicked"))?
    })?;
    ensure!(draining.contains("has none"), "{draining}");
    ensure!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    ensure!(is_refused(two), "n2 takes clients");
    // Clients of other nodes have noticed nothing.
    elsewhere.ok("SELECT INBOX")?;
    ensure!(elsewhere.ok("UID SEARCH ALL")?.search()?.len() == 2);
    // It stays so over a restart, in which the ports are free.
    murder.node_mut(1)?.stop()?;
    murder.node_mut(1)?.launch()?;
    let [_, two, three] = &murder.nodes[..] else { bail!("three nodes were started") };
    ensure!(is_refused(two), "n2 takes clients after a restart");
    ensure!(json(two, "node show")?["serve"] == "drain");
    until("joe's home is not reached", || Ok(Imap::login(three.imap, "joe", PASSWORD).is_ok()))?;
    done(three, "node serve on --node n2.example")?;
    two.login("joe")?.ok("NOOP")?;
    // Off: at once.
    let mut inside = two.login("joe")?;
    let began = Instant::now();
    done(three, "node serve off --node n2.example --within 5")?;
    ensure!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    let heard = inside.response()?;
    ensure!(heard.starts_with(b"* BYE") && is_refused(two), "{}", String::from_utf8_lossy(&heard));
    // What is there is served through the others, and the new program takes over no client either.
    done(two, "restart")?;
    ensure!(is_refused(two), "n2 takes clients after it was replaced");
    until("mail is not taken", || {
        let mut mta = Lmtp::connect(three.lmtp)?;
        let answers = mta.deliver("x@example.net", &["joe"], MESSAGE)?;
        Ok(answers.iter().all(|answer| answer.code == 250))
    })?;
    done(two, "node serve on")?;
    ensure!(two.login("joe")?.ok("STATUS INBOX (MESSAGES)")?.lines()[0].ends_with("(MESSAGES 3)"));
    refused(three, "node serve on --node n9.example", "there is no node n9.example")?;
    drop(elsewhere);
    for node in 0..3 {
        murder.node_mut(node)?.allow_log("a user's home is not reached");
        murder.node_mut(node)?.allow_log("a recipient's home is not reached");
    }
    murder.stop()
}

#[test]
fn the_first_node_is_told_like_any_and_a_node_that_is_away_obeys_later() -> Result<()> {
    let mut murder = Murder::start(&[("n1.example", ""), ("n2.example", "serve,hold")])?;
    murder.node(0)?.add_user("ann")?;
    let [one, two] = &murder.nodes[..] else { bail!("two nodes were started") };
    done(two, "node serve off --node n1.example")?;
    ensure!(is_refused(one), "n1 takes clients");
    // Its administrators and the other nodes are answered.
    ensure!(json(one, "status")?["pid"].is_u64());
    let mut ann = two.login("ann")?;
    ann.append_ok("INBOX", "()", MESSAGE)?;
    done(one, "node serve on")?;
    one.login("ann")?.ok("NOOP")?;
    murder.node_mut(1)?.stop()?;
    let told = done(murder.node(0)?, "node serve cordon --node n2.example")?;
    ensure!(told.contains("away"), "{told}");
    murder.node_mut(1)?.launch()?;
    let [one, two] = &murder.nodes[..] else { bail!("two nodes were started") };
    until("n2 takes clients", || Ok(is_refused(two)))?;
    until("n2 is not linked", || Ok(listed(one, "n2.example")?["link"] == "up"))?;
    done(one, "node serve on --node n2.example")?;
    two.login("ann")?.ok("NOOP")?;
    murder.stop()
}

#[test]
fn a_node_takes_no_new_accounts_and_holds_none_when_it_is_told_so() -> Result<()> {
    let mut murder =
        Murder::start(&[("n1.example", ""), ("n2.example", "serve,hold"), ("fe1.example", "serve")])?;
    let [one, two, front] = &murder.nodes[..] else { bail!("three nodes were started") };
    two.add_user("joe")?;
    done(front, "node hold cordon --node n2.example")?;
    two.add_user("ann")?;
    until("the accounts are not counted", || {
        Ok(json(front, "node show --node n2.example")?["accounts"].is_u64())
    })?;
    refused(front, "node hold off --node n2.example", "1 account is at home at n2.example")?;
    refused(one, "node hold on --node fe1.example", "certificate")?;
    // With nobody left who takes them.
    done(front, "node hold cordon --node n1.example")?;
    let added = two.cli(&["user", "add", "eve", "--password-stdin"], b"secret")?;
    ensure!(!added.status.success() && added.text().contains("takes new accounts"), "{}", added.text());
    done(one, "node hold on --node n2.example")?;
    one.add_user("eve")?;
    ensure!(json(two, "mailbox list eve")?.is_array());
    done(one, "user delete joe --yes")?;
    done(one, "user delete eve --yes")?;
    done(one, "node hold on --node n1.example")?;
    done(one, "node hold off --node n2.example")?;
    two.add_user("eve")?;
    done(two, "mailbox create eve Made")?;
    ensure!(listed(one, "n2.example")?["hold"] == "off");
    let mut eve = two.login("eve")?;
    eve.append_ok("Made", "()", MESSAGE)?;
    murder.stop()
}

#[test]
fn accounts_are_looked_after_at_any_node() -> Result<()> {
    let mut murder =
        Murder::start(&[("n1.example", ""), ("n2.example", "serve,hold"), ("be3.example", "hold")])?;
    let [one, two, third] = &murder.nodes[..] else { bail!("three nodes were started") };
    two.add_user("joe")?;
    let mut joe = one.login("joe")?;
    let large = [MESSAGE, &b"0123456789abcdef\r\n".repeat(60_000)[..]].concat();
    joe.append_ok("INBOX", "(\\Flagged)", MESSAGE)?;
    joe.append_ok("INBOX", "()", &large)?;
    done(one, "mailbox create joe Work/now")?;
    done(one, "mailbox rename joe Work/now Work/then")?;
    done(one, "mailbox create joe Old")?;
    done(one, "mailbox delete joe Old --yes")?;
    let found = json(one, "mailbox list joe")?;
    let names: Vec<&str> =
        found.as_array().into_iter().flatten().filter_map(|row| row["name"].as_str()).collect();
    ensure!(names.contains(&"Work/then") && !names.contains(&"Old"), "{names:?}");
    ensure!(json(one, "mailbox info joe INBOX")?["messages"] == 2);
    done(one, "acl set user/joe/Work/then anyone lr")?;
    ensure!(json(one, "acl show user/joe/Work/then")?.to_string().contains("anyone"));
    done(one, "quota set user/joe --messages 100")?;
    ensure!(json(one, "quota show user/joe")?[0]["messages_max"] == 100);
    ensure!(joe.ok("GETQUOTAROOT INBOX")?.lines().iter().any(|line| line.contains("MESSAGE 2 100")));
    let checked = json(one, "check --user joe")?;
    ensure!(checked["sums"]["messages"] == 2 && checked["sums"]["accounts"] == 1, "{checked}");
    ensure!(done(one, "undelete mailbox joe Old")?.contains("Brought back"));
    refused(one, "mailbox info joe Nowhere", "there is no mailbox Nowhere")?;
    // What is exported there is the same as what is exported at its home.
    for (node, folder) in [(one, "far"), (two, "near")] {
        let into = one.root().join(folder).display().to_string();
        let told = done(node, &format!("export {into} --user joe"))?;
        ensure!(told.contains("2 messages") && told.contains("2 of them"), "{told}");
    }
    let (far, near) = (one.root().join("far"), one.root().join("near"));
    rookery_tests::command::ok(
        "diff",
        &["-r", &far.display().to_string(), &near.display().to_string()],
        b"",
    )?;
    joe.append_ok("Work/then", "()", b"From: b@example.net\r\n\r\nnew\r\n")?;
    let told = done(one, &format!("export {} --user joe", far.display()))?;
    ensure!(told.contains("3 messages") && told.contains("1 of them"), "{told}");
    // Whoever may not take clients reaches nobody else's accounts.
    third.add_user("kim")?;
    done(third, "mailbox list kim")?;
    refused(third, "mailbox list joe", "n2.example")?;
    ensure!(json(one, "mailbox list kim")?.is_array());
    // A home that is away is said to be.
    murder.node_mut(1)?.stop()?;
    refused(murder.node(0)?, "mailbox list joe", "n2.example is not reached")?;
    murder.node_mut(1)?.launch()?;
    murder.stop()
}
