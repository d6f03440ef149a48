//! What operators ask of nodes while these run: to take clients or not, to hold accounts or not; and what they ask of
//! accounts at whichever node they are.

use anyhow::{Context, Result, bail, ensure};
use rookery_tests::command::Output;
use rookery_tests::imap::{Imap, Status, quote};
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
    let mut murder = Murder::start_under(&UNIFIED, "admins = [\"cyrus\"]\n", "")?;
    let [one, two, three] = &murder.nodes[..] else { bail!("three nodes were started") };
    two.add_user("joe")?;
    let added =
        one.cli(&["user", "add", "cyrus", "--login-only", "--password-stdin"], PASSWORD.as_bytes())?;
    ensure!(added.status.success(), "{}", added.text());
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
    // Whoever looks after it comes in all the same, and nobody else.
    let user = Imap::connect(two.admins)?.command(&format!("LOGIN joe {}", quote(PASSWORD)))?;
    ensure!(user.status == Status::No && user.code("AUTHORIZATIONFAILED").is_some(), "{user:?}");
    let mut admin = Imap::login(two.admins, "cyrus", PASSWORD)?;
    let seen = admin.ok("LIST \"\" user/*")?;
    ensure!(seen.lines().iter().any(|line| line.ends_with("user/joe")), "{:?}", seen.lines());
    admin.ok("CREATE user/kim n3.example")?;
    ensure!(home_of(&murder, "kim")? == 2, "kim is at {}", home_of(&murder, "kim")?);
    admin.ok("LOGOUT")?;
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
    refused(one, "node hold drain --node n2.example", "no other node takes")?;
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
fn no_account_comes_back_to_a_node_that_takes_none() -> Result<()> {
    let mut murder = Murder::start(&[("n1.example", ""), ("n2.example", "serve,hold")])?;
    let [one, two] = &murder.nodes[..] else { bail!("two nodes were started") };
    two.add_user("joe")?;
    two.login("joe")?.append_ok("INBOX", "()", MESSAGE)?;
    let saved = two.root().join("saved").display().to_string();
    done(two, &format!("export {saved}"))?;
    done(one, "user delete joe --yes")?;
    // Told at another node, and obeyed at once.
    for hold in ["cordon", "off"] {
        done(one, &format!("node hold {hold} --node n2.example"))?;
        let why = format!("hold is {hold}");
        refused(two, &format!("restore {saved}"), &why)?;
        refused(two, "undelete user joe", &why)?;
        let users = json(one, "user list")?;
        ensure!(users.as_array().is_some_and(Vec::is_empty), "{users}");
    }
    done(one, "node hold on --node n2.example")?;
    done(two, "undelete user joe")?;
    done(one, "user delete joe --yes")?;
    let told = done(two, &format!("restore {saved}"))?;
    ensure!(told.contains("1 accounts with 1 messages"), "{told}");
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

/// The node that an account is at home at.
fn home_of(murder: &Murder, user: &str) -> Result<usize> {
    for (place, node) in murder.nodes.iter().enumerate() {
        let checked = json(node, "check")?;
        if checked["sums"]["accounts"] == 0 {
            continue;
        }
        let folder = node.root().join(format!("home-of-{user}"));
        let all = json(node, &format!("export {}", folder.display()))?;
        ensure!(all["accounts"].is_u64(), "{all}");
        if folder.join(format!("user%2F{user}@example.org")).exists() {
            return Ok(place);
        }
    }
    bail!("{user} is nowhere")
}

#[test]
fn accounts_are_placed_where_they_are_asked_for_and_where_their_domain_is() -> Result<()> {
    let nodes = [
        ("n1.example", ""),
        ("n2.example", "serve,hold"),
        ("n3.example", "serve,hold"),
        ("fe1.example", "serve"),
    ];
    let mut murder = Murder::start_under(&nodes, "admins = [\"cyrus\"]\n", "")?;
    let [one, two, _, front] = &murder.nodes[..] else { bail!("four nodes were started") };
    let added =
        one.cli(&["user", "add", "cyrus", "--login-only", "--password-stdin"], PASSWORD.as_bytes())?;
    ensure!(added.status.success(), "{}", added.text());
    // By the command line, and as Cyrus has it.
    let added =
        one.cli(&["user", "add", "joe", "--node", "n2.example", "--password-stdin"], PASSWORD.as_bytes())?;
    ensure!(added.status.success(), "{}", added.text());
    let mut admin = front.login("cyrus")?;
    admin.ok("CREATE user/ann n3.example")?;
    admin.ok("CREATE user/eve n2.example!default")?;
    admin.ok("CREATE Team (PARTITION n3.example)")?;
    ensure!(admin.ok("LIST \"\" Team")?.lines().iter().any(|line| line.ends_with("Team")));
    for (user, home) in [("joe", 1), ("ann", 2), ("eve", 1)] {
        ensure!(home_of(&murder, user)? == home, "{user} is at {}", home_of(&murder, user)?);
    }
    let mut refused_with = |command: &str, why: &str| -> Result<()> {
        let answer = admin.command(command)?;
        let text = answer.lines().join(" ") + &format!("{answer:?}");
        ensure!(
            answer.status == rookery_tests::imap::Status::No && text.contains(why),
            "{command}: {answer:?}"
        );
        Ok(())
    };
    refused_with("CREATE user/kim n9.example", "no node n9.example")?;
    refused_with("CREATE user/joe/Sub n2.example", "only new accounts")?;
    done(front, "node hold cordon --node n3.example")?;
    refused_with("CREATE user/kim n3.example", "hold is cordon")?;
    let added = front.cli(&["user", "add", "kim", "--node", "n3.example", "--password-stdin"], b"x")?;
    ensure!(!added.status.success() && added.text().contains("hold is cordon"), "{}", added.text());
    done(front, "node hold on --node n3.example")?;
    // By their domain: tags and names.
    refused(one, "placement set example.org n9.example", "no node n9.example")?;
    done(two, "node tag eu --node n3.example")?;
    done(one, "placement set example.org tag:eu")?;
    one.add_user("kim")?;
    ensure!(home_of(&murder, "kim")? == 2);
    let placed = json(front, "placement list")?;
    ensure!(placed[0]["domain"] == "example.org" && placed[0]["to"][0] == "tag:eu", "{placed}");
    done(two, "node hold cordon --node n3.example")?;
    refused_with("CREATE user/pat", "placement")?;
    done(one, "placement delete example.org")?;
    admin.ok("CREATE user/pat")?;
    ensure!(home_of(&murder, "pat")? != 2);
    done(two, "node hold on --node n3.example")?;
    // What would make them even: nothing, or somebody from where most are.
    let at_one: Vec<String> = (0..8).map(|n| format!("many{n}")).collect();
    one.add_users(&at_one)?;
    let plan = json(front, "balance --dry-run")?;
    let moves = plan.as_array().context("no plan")?;
    ensure!(!moves.is_empty() && moves.iter().all(|row| row["from"] == "n1.example"), "{plan}");
    done(front, "balance")?;
    until("the nodes do not become even", || {
        Ok(json(front, "balance --dry-run")? == Value::Array(Vec::new()))
    })?;
    // A node that is emptied holds nobody in the end.
    done(front, "node hold drain --node n2.example")?;
    until("n2 is not emptied", || Ok(cli(one, "node hold off --node n2.example")?.status.success()))?;
    ensure!(home_of(&murder, "joe")? != 1 && listed(one, "n2.example")?["hold"] == "off");
    front.login("joe")?.ok("SELECT INBOX")?;
    murder.stop()
}

#[test]
fn what_a_lost_node_held_is_away_until_it_is_restored() -> Result<()> {
    let mut murder = Murder::start(&UNIFIED)?;
    for user in ["joe", "ann"] {
        murder.node(1)?.add_user(user)?;
        murder.node(0)?.login(user)?.append_ok("INBOX", "(\\Flagged)", MESSAGE)?;
    }
    let [one, two, three] = &murder.nodes[..] else { bail!("three nodes were started") };
    let mut joe = three.login("joe")?;
    joe.ok("CREATE Plans")?;
    joe.ok("SETACL Plans ann lr")?;
    drop(joe);
    let saved = one.root().join("saved").display().to_string();
    done(one, &format!("export {saved} --user joe"))?;
    refused(one, "node remove n1.example --yes", "ask there")?;
    refused(two, "node remove n1.example --yes", "has the directory")?;
    refused(one, "node remove n2.example --yes", "accounts are at home at n2.example: 2")?;
    refused(one, "node remove n2.example --yes --lost", "is there")?;
    ensure!(listed(one, "n2.example")?["hold"] == "on");
    murder.node_mut(1)?.kill9()?;
    let [one, _, three] = &murder.nodes[..] else { bail!("three nodes were started") };
    until("n2 is never away", || {
        Ok(listed(three, "n2.example")?["link"].as_str().is_some_and(|l| l != "up"))
    })?;
    let lost = done(three, "node remove n2.example --yes --lost")?;
    ensure!(lost.contains("user/joe@example.org") && lost.contains("user/ann@example.org"), "{lost}");
    ensure!(listed(one, "n2.example").is_err(), "n2 is listed still");
    // Away, and nothing else.
    let is_away = |node: &Server, user: &str| -> Result<()> {
        let mut mta = Lmtp::connect(node.lmtp)?;
        let answers = mta.deliver("x@example.net", &[user], MESSAGE)?;
        ensure!(answers.iter().all(|answer| answer.code == 451), "{user}: {answers:?}");
        let mut client = Imap::connect(node.imap)?;
        let answer = client.command(&format!("LOGIN {user} {}", rookery_tests::imap::quote(PASSWORD)))?;
        ensure!(answer.code("UNAVAILABLE").is_some(), "{user}: {:?}", answer.lines());
        Ok(())
    };
    for node in [one, three] {
        is_away(node, "joe")?;
        is_away(node, "ann")?;
    }
    // Who was exported comes back as they were, the others stay away.
    let told = done(three, &format!("restore {saved}"))?;
    ensure!(told.contains("1 accounts with 1 messages"), "{told}");
    for node in [one, three] {
        let mut joe = node.login("joe")?;
        joe.ok("SELECT INBOX")?;
        let fetched = joe.ok("FETCH 1:* (FLAGS BODY.PEEK[])")?.fetches()?;
        ensure!(fetched.len() == 1 && fetched[0].body("BODY[]")? == MESSAGE);
        ensure!(fetched[0].flags()?.iter().any(|flag| flag == "\\Flagged"));
        ensure!(joe.ok("GETACL Plans")?.lines().iter().any(|line| line.contains("ann")));
        let mut mta = Lmtp::connect(node.lmtp)?;
        let answers = mta.deliver("x@example.net", &["joe"], b"From: c@example.net\r\n\r\nnew\r\n")?;
        ensure!(answers.iter().all(|answer| answer.code == 250), "{answers:?}");
        let mut joe = node.login("joe")?;
        joe.ok("SELECT INBOX")?;
        joe.ok("STORE 2 +FLAGS (\\Deleted)")?;
        joe.ok("EXPUNGE")?;
        is_away(node, "ann")?;
    }
    refused(three, &format!("restore {saved}"), "exists already")?;
    // What nobody has saved is given up.
    done(one, "user delete ann --yes")?;
    one.add_user("ann")?;
    one.login("ann")?.ok("SELECT INBOX")?;
    ensure!(!done(one, "user list")?.contains("restoring-"));
    for node in &murder.nodes {
        if node.pid().is_ok() {
            node.check()?;
        }
    }
    // The lost node comes back, and is nobody's home.
    for node in 0..3 {
        for line in [
            "home is not reached",
            "removed from the cluster",
            "a link",
            "source is away",
            "could not be looked up",
            "the directory failed",
        ] {
            murder.node_mut(node)?.allow_log(line);
        }
    }
    drop(murder);
    Ok(())
}
