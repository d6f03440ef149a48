//! Accounts go to other nodes while mail comes in and clients are connected, and whatever node is killed.

use anyhow::{Result, bail, ensure};
use rookery_tests::lmtp::Lmtp;
use rookery_tests::murder::Murder;
use rookery_tests::server::Server;
use std::time::{Duration, Instant};

const NODES: [(&str, &str); 3] =
    [("n1.example", ""), ("n2.example", "serve,hold"), ("n3.example", "serve,hold")];
/// How long a move may take here.
const SOON: Duration = Duration::from_secs(60);

fn message(n: usize) -> Vec<u8> {
    format!("From: a@example.net\r\nSubject: {n}\r\n\r\n{}\r\n", "x".repeat(n % 7 * 600)).into_bytes()
}

fn cli(node: &Server, words: &str) -> Result<String> {
    let words: Vec<&str> = words.split(' ').collect();
    let output = node.cli(&words, b"")?;
    ensure!(output.status.success(), "{words:?}: {}", output.text());
    Ok(output.text())
}

fn deliver(node: &Server, n: usize) -> Result<bool> {
    let Ok(mut mta) = Lmtp::connect(node.lmtp) else { return Ok(false) };
    let answers = mta.deliver("x@example.net", &["joe"], &message(n))?;
    ensure!(answers.iter().all(|answer| [250, 451].contains(&answer.code)), "{answers:?}");
    Ok(answers.iter().all(|answer| answer.code == 250))
}

/// Waits until no node has a part in a move.
fn until_over(node: &Server) -> Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        let status = cli(node, "move status --json")?;
        if status.trim() == "[]" {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{status}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The subjects in joe's INBOX.
fn subjects(node: &Server) -> Result<Vec<usize>> {
    let mut joe = node.login("joe")?;
    joe.ok("SELECT INBOX")?;
    let fetched = joe.ok("UID FETCH 1:* BODY.PEEK[HEADER.FIELDS (SUBJECT)]")?.fetches()?;
    let subject = |one: &rookery_tests::imap::Fetch| -> Result<usize> {
        let text = String::from_utf8_lossy(one.body("BODY[HEADER.FIELDS (SUBJECT)]")?).into_owned();
        Ok(text.trim().trim_start_matches("Subject: ").parse()?)
    };
    fetched.iter().map(subject).collect()
}

#[test]
fn an_account_moves_under_its_connected_clients() -> Result<()> {
    let mut murder = Murder::start(&NODES)?;
    let [one, two, three] = &murder.nodes[..] else { bail!("three nodes were started") };
    two.add_user("joe")?;
    let mut joe = one.login("joe")?;
    joe.ok("SELECT INBOX")?;
    for n in 0..200 {
        joe.append_ok("INBOX", "()", &message(n))?;
    }
    // Asked at a node that has no part in it.
    let said = cli(one, "move user joe --to n3.example --wait")?;
    ensure!(said.contains("is at n3.example now"), "{said}");
    joe.append_ok("INBOX", "()", &message(200))?;
    ensure!(joe.ok("UID SEARCH ALL")?.search()?.len() == 201);
    ensure!(deliver(two, 201)? && deliver(three, 202)?);
    until_over(two)?;
    ensure!(subjects(two)? == (0..203).collect::<Vec<_>>());
    for node in [two, three] {
        let found = cli(node, "check")?;
        ensure!(!found.contains("quarantine"), "{found}");
    }
    // There and back, and all that a node has.
    cli(two, "move --from n3.example --to n2.example")?;
    until_over(one)?;
    ensure!(subjects(three)? == (0..203).collect::<Vec<_>>());
    let refused = one.cli(&["move", "user", "joe", "--to", "n2.example"], b"")?;
    ensure!(refused.text().contains("already"), "{}", refused.text());
    // A node that is to hold nothing gives its accounts away by itself.
    cli(one, "node hold drain --node n2.example")?;
    let deadline = Instant::now() + SOON;
    loop {
        let listed = cli(one, "user list --json")?;
        let users: serde_json::Value = serde_json::from_str(&listed)?;
        if users[0]["home"] != "n2.example" {
            break;
        }
        ensure!(Instant::now() < deadline, "{listed}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let refused = one.cli(&["move", "user", "joe", "--to", "n2.example"], b"")?;
    ensure!(refused.text().contains("takes no new accounts: hold is drain"), "{}", refused.text());
    ensure!(subjects(one)?.len() == 203);
    murder.stop()
}

#[test]
fn nodes_are_killed_while_an_account_moves() -> Result<()> {
    let mut murder = Murder::start(&NODES)?;
    murder.node(1)?.add_user("joe")?;
    let mut taken = Vec::new();
    for n in 0..100 {
        ensure!(deliver(murder.node(0)?, n)?);
        taken.push(n);
    }
    for node in 0..3 {
        for line in
            ["home is not reached", "the directory's source is away", "gives no answer", "could not be"]
        {
            murder.node_mut(node)?.allow_log(line);
        }
    }
    let (mut n, mut home) = (100, 1);
    for round in 0..6_u64 {
        let (to, name) = if home == 1 { (2, "n3.example") } else { (1, "n2.example") };
        cli(murder.node(0)?, &format!("move user joe --to {name}"))?;
        std::thread::sleep(Duration::from_millis(round * 13));
        let victim = if round % 2 == 0 { to } else { home };
        murder.node_mut(victim)?.kill9()?;
        murder.node_mut(victim)?.launch()?;
        let deadline = Instant::now() + SOON;
        // What is answered with 451 its sender has, and sends again.
        while !deliver(murder.node(0)?, n)? {
            ensure!(Instant::now() < deadline, "mail is not taken");
            std::thread::sleep(Duration::from_millis(20));
        }
        taken.push(n);
        n += 1;
        until_over(murder.node(0)?)?;
        home = to;
    }
    let found = subjects(murder.node(0)?)?;
    let mut once = found.clone();
    once.sort_unstable();
    // A repetition of what was answered with 451 may be there twice; nothing is lost.
    once.dedup();
    ensure!(once == taken, "{found:?}");
    for node in 1..3 {
        cli(murder.node(node)?, "check")?;
    }
    murder.stop()
}
