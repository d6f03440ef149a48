//! Administrators send accounts to other nodes over IMAP, as they do with Cyrus: cyradm's xfermailbox and renamemailbox.

use crate::cyradm::cyradm;
use anyhow::{Context, Result, bail, ensure};
use rookery_tests::imap::{Imap, Status};
use rookery_tests::murder::Murder;
use rookery_tests::server::{PASSWORD, Server};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const NODES: [(&str, &str); 3] =
    [("n1.example", ""), ("n2.example", "serve,hold"), ("n3.example", "serve,hold")];
/// How long a move may take here.
const SOON: Duration = Duration::from_secs(60);

/// Three nodes that `cyrus` administers, who has no mailboxes, and `boss`.
fn administered() -> Result<Murder> {
    let murder = Murder::start_under(&NODES, "admins = [\"cyrus\", \"boss\"]\n", "")?;
    let added = murder
        .node(0)?
        .cli(&["user", "add", "cyrus", "--login-only", "--password-stdin"], PASSWORD.as_bytes())?;
    ensure!(added.status.success(), "{}", added.text());
    Ok(murder)
}

fn message(n: usize) -> Vec<u8> {
    format!("From: a@example.net\r\nSubject: {n}\r\n\r\n{}", "some words\r\n".repeat(1700)).into_bytes()
}

/// The node that has the account of a name.
fn home(node: &Server, user: &str) -> Result<String> {
    let listed = node.cli(&["user", "list", "--json"], b"")?;
    let users: serde_json::Value = serde_json::from_str(&listed.text())?;
    let users = users.as_array().context("no list")?;
    let found = users.iter().find(|one| one["name"].as_str().is_some_and(|name| name.starts_with(user)));
    Ok(found.and_then(|one| one["home"].as_str()).context("no such user")?.to_owned())
}

fn until_home(node: &Server, user: &str, wanted: &str) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while home(node, user)? != wanted {
        ensure!(Instant::now() < deadline, "{user} is not at {wanted}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

fn refused(administrator: &mut Imap, command: &str, code: &str) -> Result<String> {
    let reply = administrator.command(command)?;
    ensure!(
        reply.status == Status::No && reply.text.starts_with(&format!("[{code}]")),
        "{command}: {reply:?}"
    );
    Ok(reply.text)
}

#[test]
fn cyradm_sends_accounts_to_other_nodes() -> Result<()> {
    let mut murder = administered()?;
    let [one, two, three] = &murder.nodes[..] else { bail!("three nodes were started") };
    two.add_user("joe")?;
    let mut joe = one.login("joe")?;
    for n in 0..20 {
        joe.append_ok("INBOX", "()", &message(n))?;
    }
    joe.ok("SELECT INBOX")?;
    // Asked at a node that has no part in it, at the home, and at the node that it goes to.
    for (at, commands, goes_to) in [
        (one, "xfermailbox user/joe n3.example", "n3.example"),
        (three, "renamemailbox user/joe user/joe n2.example", "n2.example"),
        (three, "xfermailbox --partition default user/joe n3.example", "n3.example"),
        (two, "xfer user/joe n1.example", "n1.example"),
    ] {
        let (_, complaints) = cyradm(at, &[commands])?;
        ensure!(complaints.is_empty(), "{commands}: {complaints}");
        ensure!(home(at, "joe")? == goes_to, "{commands}: joe is at {}", home(at, "joe")?);
        // Whoever is connected goes on.
        ensure!(joe.ok("UID SEARCH ALL")?.search()?.len() == 20);
    }
    let (_, complaints) = cyradm(one, &["xfermailbox user/joe n9.example"])?;
    ensure!(complaints.contains("There is no node n9.example"), "{complaints}");

    let mut administrator = Imap::login(two.imap, "cyrus", PASSWORD)?;
    let said = administrator.ok("XFER user/joe n1.example")?.text;
    ensure!(said.contains("already"), "{said}");
    refused(&mut administrator, "XFER user/nobody n1.example", "NONEXISTENT")?;
    refused(&mut administrator, "XFER user/joe/Letters n2.example", "CANNOT")?;
    let cordoned = one.cli(&["node", "hold", "cordon", "--node", "n2.example"], b"")?;
    ensure!(cordoned.status.success(), "{}", cordoned.text());
    let said = refused(&mut administrator, "XFER user/joe n2.example", "CANNOT")?;
    ensure!(said.contains("takes no new accounts: hold is cordon"), "{said}");
    // `rookery move` has the same rule, whichever node is asked.
    for node in [one, two] {
        let refused = node.cli(&["move", "user", "joe", "--to", "n2.example"], b"")?;
        let text = refused.text();
        ensure!(
            !refused.status.success() && text.contains("takes no new accounts: hold is cordon"),
            "{text}"
        );
    }
    refused(&mut joe, "XFER INBOX n3.example", "NOPERM")?;
    // Administrators go, too, and their sessions with them.
    two.add_user("boss")?;
    let mut boss = one.login("boss")?;
    boss.append_ok("INBOX", "()", &message(0))?;
    boss.ok("SELECT INBOX")?;
    for (name, to) in [("user/boss", "n3.example"), ("INBOX", "n1.example"), ("INBOX", "n3.example")] {
        boss.ok(&format!("XFER {name} {to}"))?;
        ensure!(boss.ok("UID SEARCH ALL")?.search()?.len() == 1);
        ensure!(home(one, "boss")? == to);
    }
    // Shared mailboxes go as a whole, too, with what users know of them.
    administrator.ok("CREATE team")?;
    administrator.ok("CREATE team/plans")?;
    administrator.ok("SETACL team/plans joe lrswip")?;
    joe.append_ok("Shared/team/plans", "()", &message(21))?;
    administrator.ok("XFER team n3.example")?;
    administrator.ok("XFER team n1.example")?;
    let listed = joe.ok("LIST \"\" Shared/*")?.lines();
    ensure!(listed.iter().any(|line| line.ends_with("Shared/team/plans")), "{listed:?}");
    let counted = joe.ok("STATUS Shared/team/plans (MESSAGES)")?.lines();
    ensure!(counted.iter().any(|line| line.ends_with("(MESSAGES 1)")), "{counted:?}");
    murder.stop()
}

#[test]
fn a_long_move_is_waited_for_through_the_loss_of_nodes() -> Result<()> {
    let mut murder = administered()?;
    for at in 1..3 {
        let node = murder.node_mut(at)?;
        for line in [
            "is not reached",
            "the directory's source is away",
            "gives no answer",
            "could not be",
            "a session's home is lost",
        ] {
            node.allow_log(line);
        }
        node.add_to_section("cluster", "move_octets_per_second = 400000\n")?;
        node.restart()?;
    }
    murder.node_mut(0)?.allow_log("is not reached");
    for (at, user) in [(1, "joe"), (2, "ann")] {
        murder.node(at)?.add_user(user)?;
        let mut owner = murder.node(at)?.login(user)?;
        for n in 0..120 {
            owner.append_ok("INBOX", "()", &message(n))?;
        }
    }
    let place = murder.node(0)?.imap;
    let begun = |user: &str, to: &str| -> Result<(Imap, String)> {
        let mut administrator = Imap::login(place, "cyrus", PASSWORD)?;
        administrator.set_silence_max(SOON)?;
        let tag = administrator.send(&format!("XFER user/{user} {to}"))?;
        Ok((administrator, tag))
    };
    let until_sending = |node: &Server| -> Result<()> {
        let deadline = Instant::now() + SOON;
        loop {
            let status = node.cli(&["move", "status", "--json"], b"")?.text();
            let rows: serde_json::Value = serde_json::from_str(&status)?;
            let sends = |row: &serde_json::Value| row["octets"].as_u64().is_some_and(|octets| octets > 0);
            if rows.as_array().is_some_and(|rows| rows.iter().any(sends)) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "nothing is sent: {status}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };

    // An operator stops it: that is said at once, and it goes on when they say so.
    let (mut administrator, tag) = begun("joe", "n3.example")?;
    until_sending(murder.node(0)?)?;
    let operator = |words: &[&str]| -> Result<()> {
        let said = murder.node(0)?.cli(words, b"")?;
        ensure!(said.status.success(), "{words:?}: {}", said.text());
        Ok(())
    };
    operator(&["move", "pause", "joe"])?;
    let shown = |line: &str| {
        ["user/joe@example.org", "n2.example", "n3.example", "paused", "an operator paused it", "MiB"]
            .iter()
            .all(|word| line.contains(word))
    };
    // Also once what was being sent is broken off.
    for _ in 0..20 {
        let status = murder.node(2)?.cli(&["move", "status"], b"")?.text();
        ensure!(
            status.lines().filter(|line| shown(line)).count() == 1 && status.lines().count() == 2,
            "{status}"
        );
        std::thread::sleep(Duration::from_millis(200));
    }
    let reply = administrator.answer(&tag)?;
    ensure!(reply.status == Status::No && reply.text.starts_with("[INUSE]"), "{reply:?}");
    refused(&mut administrator, "XFER user/joe n1.example", "INUSE")?;
    operator(&["move", "resume", "joe"])?;
    // Whoever asks again waits for the same move. Its home is killed meanwhile.
    let tag = administrator.send("XFER user/joe n3.example")?;
    until_sending(murder.node(0)?)?;
    murder.node_mut(1)?.kill9()?;
    murder.node_mut(1)?.launch()?;
    let reply = administrator.answer(&tag)?;
    ensure!(reply.status == Status::Ok, "{reply:?}");
    ensure!(home(murder.node(0)?, "joe")? == "n3.example");

    // Whoever has gone has not stopped it.
    let (administrator, _) = begun("joe", "n1.example")?;
    until_sending(murder.node(0)?)?;
    drop(administrator);
    until_home(murder.node(0)?, "joe", "n1.example")?;

    // The node that it goes to is lost: that it is still tried is heard, and then that it stays.
    let (mut administrator, tag) = begun("ann", "n2.example")?;
    until_sending(murder.node(0)?)?;
    murder.node_mut(1)?.kill9()?;
    let reply = administrator.answer(&tag)?;
    ensure!(reply.status == Status::No && reply.text.contains("stays where it is"), "{reply:?}");
    ensure!(reply.lines().iter().any(|line| line.contains("INPROGRESS")), "{reply:?}");
    ensure!(home(murder.node(0)?, "ann")? == "n3.example");
    murder.node_mut(1)?.launch()?;
    let deadline = Instant::now() + SOON;
    while murder.node(0)?.cli(&["move", "status", "--json"], b"")?.text().trim() != "[]" {
        ensure!(Instant::now() < deadline, "the move is not over");
        std::thread::sleep(Duration::from_millis(50));
    }
    for user in ["joe", "ann"] {
        let mut owner = murder.node(0)?.login(user)?;
        owner.ok("SELECT INBOX")?;
        ensure!(owner.ok("UID SEARCH ALL")?.search()?.len() == 120);
    }
    for at in 0..3 {
        murder.node(at)?.check()?;
    }
    murder.stop()
}

/// Asks again and again until told to end; what it has asked so far.
fn asking(ends: &AtomicBool, mut ask: impl FnMut() -> Result<()>) -> Result<u64> {
    let mut asked = 0;
    while !ends.load(Ordering::Relaxed) {
        ask()?;
        asked += 1;
    }
    Ok(asked)
}

#[test]
fn shared_mailboxes_move_and_are_listed_throughout() -> Result<()> {
    let mut murder = administered()?;
    let [one, two, three] = &murder.nodes[..] else { bail!("three nodes were started") };
    let nodes = [one, two, three];
    two.add_user("joe")?;
    three.add_user("ann")?;
    let mut administrator = Imap::login(one.imap, "cyrus", PASSWORD)?;
    administrator.ok("CREATE team n2.example")?;
    for name in ["team/plans", "team/past", "team/secret"] {
        administrator.ok(&format!("CREATE {name}"))?;
    }
    administrator.ok("DELETEACL team/secret anyone")?;
    administrator.ok("SETACL team/plans joe lrswip")?;
    three.add_user("boss")?;
    let mut boss = three.login("boss")?;
    for name in ["team", "team/plans", "team/past"] {
        boss.ok(&format!("SUBSCRIBE {name}"))?;
    }
    let mut joe = three.login("joe")?;
    for n in 0..3 {
        joe.append_ok("Shared/team/plans", "()", &message(n))?;
    }
    joe.ok("SELECT Shared/team/plans")?;
    joe.ok("STORE 2 +FLAGS (\\Seen)")?;
    joe.ok("UNSELECT")?;
    let run = |words: &str| -> Result<String> {
        let words: Vec<&str> = words.split(' ').collect();
        let said = one.cli(&words, b"")?;
        ensure!(said.status.success(), "{words:?}: {}", said.text());
        Ok(said.text())
    };
    let ends = AtomicBool::new(false);
    let mut clients = Vec::new();
    for (node, user) in [(one, "cyrus"), (one, "ann"), (two, "joe"), (three, "boss")] {
        clients.push((user, node.login(user)?));
    }
    std::thread::scope(|threads| {
        let mut watching = Vec::new();
        for (user, mut client) in clients {
            let ends = &ends;
            watching.push(threads.spawn(move || {
                let (list, top, hidden) = match user {
                    "cyrus" => ("LIST", "", 1),
                    "boss" => ("LIST (SUBSCRIBED)", "", 0),
                    _ => ("LIST", "Shared/", 0),
                };
                asking(ends, || {
                    let listed = client.ok(&format!("{list} \"\" \"{top}team*\""))?.lines();
                    ensure!(!listed.iter().any(|line| line.contains("\\NonExistent")), "{user}: {listed:?}");
                    let has = |name: &str| listed.iter().filter(|line| line.ends_with(name)).count();
                    let found = ["team", "team/plans", "team/past"].map(|name| has(&format!(" {top}{name}")));
                    ensure!(found == [1; 3] && has("team/secret") == hidden, "{user}: {listed:?}");
                    Ok(())
                })
            }));
        }
        let moved = (0..9).try_for_each(|round| {
            let to = ["n3.example", "n1.example", "n2.example"][round % 3];
            let said = run(&format!("move shared team --to {to} --wait"))?;
            ensure!(said.contains(&format!("team is at {to} now")), "{said}");
            Ok(())
        });
        ends.store(true, Ordering::Relaxed);
        for one in watching {
            let asked = one.join().map_err(|_| anyhow::anyhow!("a client has panicked"))??;
            ensure!(asked > 9, "only {asked} times");
        }
        moved
    })?;
    let refused = one.cli(&["move", "shared", "team/plans", "--to", "n1.example"], b"")?;
    ensure!(refused.text().contains("name the uppermost"), "{}", refused.text());
    let refused = one.cli(&["move", "shared", "crew", "--to", "n1.example"], b"")?;
    ensure!(refused.text().contains("no shared mailboxes crew"), "{}", refused.text());
    let refused = one.cli(&["move", "pause", "--shared", "team"], b"")?;
    ensure!(refused.text().contains("not on its way"), "{}", refused.text());
    // A node that is to hold nothing gives them away, and holds nothing then.
    run("node hold drain --node n2.example")?;
    let deadline = Instant::now() + SOON;
    while one.cli(&["node", "hold", "off", "--node", "n2.example"], b"")?.text().contains("are at home") {
        ensure!(Instant::now() < deadline, "{}", run("move status")?);
        std::thread::sleep(Duration::from_millis(50));
    }
    // What is shared from now on is published by the new home.
    administrator.ok("SETACL team/secret ann lr")?;
    for node in nodes {
        let counted = node.login("joe")?.ok("STATUS Shared/team/plans (MESSAGES UNSEEN)")?.lines();
        ensure!(counted.iter().any(|line| line.ends_with("(MESSAGES 3 UNSEEN 2)")), "{counted:?}");
        let listed = node.login("ann")?.ok("LIST \"\" Shared/*")?.lines();
        ensure!(listed.iter().any(|line| line.ends_with("Shared/team/secret")), "{listed:?}");
        node.check()?;
    }
    murder.stop()
}

#[test]
fn sessions_with_shared_mailboxes_notice_no_move() -> Result<()> {
    let mut murder = administered()?;
    let [one, two, three] = &murder.nodes[..] else { bail!("three nodes were started") };
    let mut administrator = one.login("cyrus")?;
    administrator.ok("CREATE team n2.example")?;
    administrator.ok("CREATE team/plans")?;
    // At home at the nodes in turn, and connected at another.
    let mut clients = Vec::new();
    for (user, home, at) in [("ann", one, two), ("joe", two, three), ("max", three, one)] {
        home.add_user(user)?;
        administrator.ok(&format!("SETACL team/plans {user} lrswipte"))?;
        let mut client = at.login(user)?;
        client.append_ok("Shared/team/plans", "()", &message(0))?;
        client.ok("SELECT Shared/team/plans")?;
        clients.push((user, client));
    }
    let ends = AtomicBool::new(false);
    let appended = std::thread::scope(|threads| {
        let writing: Vec<_> = clients
            .into_iter()
            .map(|(user, mut client)| {
                let ends = &ends;
                threads.spawn(move || {
                    let mut seen = 0;
                    let appended = asking(ends, || {
                        let (_, uid) = client.append_ok("Shared/team/plans", "()", &message(1))?;
                        let found = client.ok("UID SEARCH ALL")?.search()?;
                        ensure!(found.contains(&uid) && found.len() > seen, "{user}: {uid} of {found:?}");
                        seen = found.len();
                        let fetched =
                            client.ok(&format!("UID FETCH {uid} (FLAGS RFC822.SIZE)"))?.fetches()?;
                        // Beside it the client hears of what the others do.
                        let asked = fetched.iter().filter(|one| one.get("RFC822.SIZE").is_ok());
                        ensure!(asked.count() == 1, "{user}: {fetched:?}");
                        client.ok(&format!("UID STORE {uid} +FLAGS (\\Flagged)"))?;
                        let counted = client.ok("STATUS Shared/team (MESSAGES)")?.lines();
                        ensure!(
                            counted.iter().any(|line| line.ends_with("(MESSAGES 0)")),
                            "{user}: {counted:?}"
                        );
                        Ok(())
                    });
                    appended.map(|appended| appended + 1).with_context(|| user)
                })
            })
            .collect();
        let moved = (0..12).try_for_each(|round| {
            let to = ["n3.example", "n1.example", "n2.example"][round % 3];
            administrator.ok(&format!("XFER team {to}")).map(drop)
        });
        ends.store(true, Ordering::Relaxed);
        let mut appended = 0;
        for one in writing {
            appended += one.join().map_err(|_| anyhow::anyhow!("a client has panicked"))??;
        }
        moved.map(|()| appended)
    })?;
    ensure!(appended > 15, "only {appended} messages");
    for node in [one, two, three] {
        let counted = node.login("joe")?.ok("STATUS Shared/team/plans (MESSAGES)")?.lines();
        ensure!(counted.iter().any(|line| line.ends_with(&format!("(MESSAGES {appended})"))), "{counted:?}");
        node.check()?;
    }
    murder.stop()
}
