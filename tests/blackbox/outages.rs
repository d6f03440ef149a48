//! Nodes that fall silent: a stopped process answers nothing and closes nothing, and a cable that is cut carries nothing.

use anyhow::{Context, Result, ensure};
use rookery_tests::imap::{Imap, Reply, quote};
use rookery_tests::lmtp::Lmtp;
use rookery_tests::murder::Murder;
use rookery_tests::namespace::Namespace;
use rookery_tests::process;
use rookery_tests::server::{PASSWORD, Server};
use rustix::process::Signal;
use std::time::{Duration, Instant};

const MESSAGE: &[u8] = b"From: a@example.net\r\nSubject: while it is away\r\n\r\nbody\r\n";
/// How long it may take until a node that has fallen silent counts as away.
const DETECTION_MAX: Duration = Duration::from_secs(5);
/// How long it may take to hear that it is away, once it counts as that.
const ANSWER_MAX: Duration = Duration::from_secs(1);
/// How long it may take until all goes on, once it is back.
const RECOVERY_MAX: Duration = Duration::from_secs(20);

/// A process that is stopped until this is dropped.
struct Silent(u32);

impl Silent {
    fn now(server: &Server) -> Result<Silent> {
        let pid = server.pid()?;
        process::signal(pid, Signal::STOP)?;
        let silent = Silent(pid);
        // Each thread stops for itself.
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let stat = thread?.path().join("stat");
            until("the stop of a thread", || Ok(std::fs::read_to_string(&stat)?.contains(") T ")))?;
        }
        Ok(silent)
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // It may have been killed meanwhile.
        process::signal(self.0, Signal::CONT).ok();
    }
}

/// What a command is answered, and that it is in time.
fn within<T>(time: Duration, what: &str, ask: impl FnOnce() -> T) -> Result<T> {
    let began = Instant::now();
    let answer = ask();
    ensure!(began.elapsed() <= time, "{what} took {:?}", began.elapsed());
    Ok(answer)
}

fn log_in(server: &Server, user: &str) -> Result<Reply> {
    Imap::connect(server.imap)?.command(&format!("LOGIN {user} {}", quote(PASSWORD)))
}

fn is_unavailable(reply: &Reply) -> bool {
    reply.code("UNAVAILABLE").is_some()
}

fn until(what: &str, mut is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + RECOVERY_MAX;
    while !is_so()? {
        ensure!(Instant::now() < deadline, "{what} does not come back");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Joe's home is away, which is known: whoever needs it hears so at once, and everybody else goes on.
fn others_go_on(front: &Server, of_ann: &mut Imap) -> Result<()> {
    for _ in 0..3 {
        let refused = within(ANSWER_MAX, "a login", || log_in(front, "joe"))??;
        ensure!(is_unavailable(&refused), "{:?}", refused.lines());
        let refused =
            within(ANSWER_MAX, "STATUS", || of_ann.command("STATUS \"Other Users/joe/Plans\" (MESSAGES)"))??;
        ensure!(is_unavailable(&refused), "{:?}", refused.lines());
        let mut mta = Lmtp::connect(front.lmtp)?;
        let deliver = || mta.deliver("x@example.net", &["joe", "ann"], MESSAGE);
        let answers = within(ANSWER_MAX, "a delivery", deliver)??;
        ensure!(answers.iter().map(|answer| answer.code).eq([451, 250]), "{answers:?}");
        // Everybody else goes on, and what the directory knows is listed.
        let listed = within(ANSWER_MAX, "LIST", || of_ann.ok("LIST \"\" *"))??;
        ensure!(
            listed.lines().iter().any(|line| line.ends_with("Other Users/joe/Plans\"")),
            "{:?}",
            listed.lines()
        );
        within(ANSWER_MAX, "an append", || of_ann.append_ok("INBOX", "", MESSAGE))??;
        let logged_in = within(ANSWER_MAX, "a login of another", || log_in(front, "ann"))??;
        ensure!(logged_in.code("UNAVAILABLE").is_none(), "{:?}", logged_in.lines());
    }
    Ok(())
}

/// The sessions that were there all the time find what they have selected again.
fn go_on(of_joe: &mut Imap, with_plans: &mut Imap) -> Result<()> {
    for session in [&mut *of_joe, with_plans] {
        until("a session", || Ok(!is_unavailable(&session.command("NOOP")?)))?;
        session.ok("UID SEARCH ALL")?;
    }
    of_joe.append_ok("INBOX", "", MESSAGE)?;
    ensure!(of_joe.ok("UID SEARCH ALL")?.search()?.len() == 1);
    Ok(())
}

/// Joe's home is back, without an operator: his session, in time.
fn comes_back(front: &Server, of_ann: &mut Imap) -> Result<Imap> {
    until("joe's home", || Ok(!is_unavailable(&log_in(front, "joe")?)))?;
    // A session that goes on finds the mailbox again.
    until("what joe shares", || {
        Ok(!is_unavailable(&of_ann.command("STATUS \"Other Users/joe/Plans\" (MESSAGES)")?))
    })?;
    let mut of_joe = front.login("joe")?;
    ensure!(of_joe.ok("STATUS INBOX (MESSAGES)")?.lines().iter().any(|line| line.contains("MESSAGES 0")));
    Ok(of_joe)
}

#[test]
fn a_backend_that_falls_silent_is_away_within_seconds_and_comes_back() -> Result<()> {
    let mut murder =
        Murder::start(&[("be1.example", ""), ("be2.example", "hold"), ("fe1.example", "serve")])?;
    murder.node(0)?.add_user("ann")?;
    murder.node(1)?.add_user("joe")?;
    for text in ["a link connection is refused", "the directory's source is away"] {
        murder.node_mut(1)?.allow_log(text);
    }
    for node in [0, 2] {
        for text in ["is not reached", "is lost", "a home is away"] {
            murder.node_mut(node)?.allow_log(text);
        }
    }
    let front = murder.node(2)?;
    let mut of_joe = front.login("joe")?;
    of_joe.ok("CREATE Plans")?;
    of_joe.ok("SETACL Plans ann lrswi")?;
    of_joe.ok("SELECT INBOX")?;
    let mut of_ann = front.login("ann")?;
    let mut with_plans = front.login("ann")?;
    with_plans.ok("SELECT \"Other Users/joe/Plans\"")?;
    let silent = Silent::now(murder.node(1)?)?;
    // Nobody waits for longer than it takes to find out, and no session ends.
    let noop =
        within(DETECTION_MAX + ANSWER_MAX, "a session at the silent node", || of_joe.command("NOOP"))??;
    ensure!(is_unavailable(&noop), "{noop:?}");
    let there = within(ANSWER_MAX, "a mailbox at the silent node", || with_plans.command("NOOP"))??;
    ensure!(is_unavailable(&there), "{there:?}");
    others_go_on(front, &mut of_ann)?;
    drop(silent);
    let newer = comes_back(front, &mut of_ann)?;
    go_on(&mut of_joe, &mut with_plans)?;
    drop((newer, of_joe, of_ann, with_plans));
    for node in &murder.nodes {
        node.check()?;
    }
    murder.stop()
}

/// Either side of a cut link is alive, and hears nothing of the other: no reset, no end.
#[test]
fn a_link_that_is_cut_without_a_word_is_noticed_and_comes_back() -> Result<()> {
    let cable = Namespace::new()?;
    let mut murder = Murder::start(&[])?;
    murder.add_at("be1.example", "", &cable, false)?;
    murder.add_at("be2.example", "hold", &cable, true)?;
    murder.add_at("fe1.example", "serve", &cable, false)?;
    murder.node(0)?.add_user("ann")?;
    murder.node(1)?.add_user("joe")?;
    for node in [0, 1, 2] {
        for text in ["is not reached", "is lost", "is away", "a link connection is refused", "directory"] {
            murder.node_mut(node)?.allow_log(text);
        }
    }
    let (home, front) = (murder.node(0)?, murder.node(2)?);
    let mut of_joe = front.login("joe")?;
    of_joe.ok("CREATE Plans")?;
    of_joe.ok("SETACL Plans ann lrswi")?;
    of_joe.ok("SELECT INBOX")?;
    let mut of_ann = front.login("ann")?;
    let mut with_plans = front.login("ann")?;
    with_plans.ok("SELECT \"Other Users/joe/Plans\"")?;
    cable.plug(false)?;
    let noop = within(DETECTION_MAX + ANSWER_MAX, "a session across the cut", || of_joe.command("NOOP"))??;
    ensure!(is_unavailable(&noop), "{noop:?}");
    let there = within(ANSWER_MAX, "a mailbox across the cut", || with_plans.command("NOOP"))??;
    ensure!(is_unavailable(&there), "{there:?}");
    others_go_on(front, &mut of_ann)?;
    let moved = give_a_move_up(home, front)?;
    cable.plug(true)?;
    let newer = comes_back(front, &mut of_ann)?;
    go_on(&mut of_joe, &mut with_plans)?;
    // The message that was to go has stayed, and nothing is under way.
    until("the end of the move", || {
        Ok(!home.cli(&["transit", "list", "--json"], b"")?.text().contains(&moved))
    })?;
    for (mailbox, messages) in [("Mine", 1), ("\"Other Users/joe/Plans\"", 0)] {
        let status = of_ann.ok(&format!("STATUS {mailbox} (MESSAGES)"))?.lines();
        ensure!(status.iter().any(|line| line.ends_with(&format!("(MESSAGES {messages})"))), "{status:?}");
    }
    drop((newer, of_joe, of_ann, with_plans));
    for node in &murder.nodes {
        node.check()?;
    }
    murder.stop()
}

/// Ann moves a message to joe's home, which is away; the operator of hers gives the move up. Which move that is.
fn give_a_move_up(home: &Server, front: &Server) -> Result<String> {
    let mut of_ann = front.login("ann")?;
    of_ann.ok("CREATE Mine")?;
    of_ann.append_ok("Mine", "", MESSAGE)?;
    of_ann.ok("SELECT Mine")?;
    let moved = of_ann.command("MOVE 1 \"Other Users/joe/Plans\"")?;
    ensure!(moved.code("INUSE").is_some(), "{:?}", moved.lines());
    let listed = home.cli(&["transit", "list"], b"")?.text();
    let row = listed.lines().find(|line| line.contains("be2.example") && line.contains("Plans"));
    let row = row.with_context(|| format!("no move waits for be2.example: {listed}"))?;
    let id = row.split_whitespace().next().context("an empty row")?.to_owned();
    let status = home.cli(&["status"], b"")?.text();
    ensure!(status.lines().any(|line| line.contains("moves_pending") && line.ends_with('1')), "{status}");
    let unknown = home.cli(&["transit", "give-up", "1-1"], b"")?;
    ensure!(!unknown.status.success(), "{}", unknown.text());
    let given_up = home.cli(&["transit", "give-up", &id], b"")?;
    ensure!(given_up.status.success() && given_up.text().contains("has not answered"), "{}", given_up.text());
    Ok(id)
}

#[test]
fn a_directory_that_falls_silent_keeps_nobody_from_their_mail() -> Result<()> {
    let mut murder =
        Murder::start(&[("be1.example", ""), ("be2.example", "serve,hold"), ("fe1.example", "serve")])?;
    murder.node(1)?.add_user("joe")?;
    // What others have begun with it while it was silent.
    murder.node_mut(0)?.allow_log("a link connection is refused");
    for node in [1, 2] {
        for text in ["directory", "is not reached", "is lost", "failed a command"] {
            murder.node_mut(node)?.allow_log(text);
        }
    }
    let (home, front) = (murder.node(1)?, murder.node(2)?);
    let mut open = front.login("joe")?;
    open.ok("SELECT INBOX")?;
    let silent = Silent::now(murder.node(0)?)?;
    for node in [front, home] {
        let mut client = within(DETECTION_MAX, "a login", || node.login("joe"))??;
        client.append_ok("INBOX", "", MESSAGE)?;
        client.ok("CREATE Later")?;
        client.ok("DELETE Later")?;
        node.deliver("joe", MESSAGE)?;
        open.ok("STORE 1:* +FLAGS (\\Seen)")?;
        // What only the directory can say or do is refused, and nothing is made of it.
        let add = || node.cli(&["user", "add", "eve", "--password-stdin"], PASSWORD.as_bytes());
        let added = within(Duration::from_secs(15), "adding an account", add)??;
        ensure!(!added.status.success(), "an account was made without the directory: {}", added.text());
        let unknown = Lmtp::connect(node.lmtp)?.deliver("x@example.net", &["eve"], MESSAGE)?;
        ensure!(unknown.iter().all(|answer| answer.code == 451), "{unknown:?}");
    }
    drop(silent);
    until("the directory", || {
        let added = front.cli(&["user", "add", "bob", "--password-stdin"], PASSWORD.as_bytes())?;
        Ok(added.status.success())
    })?;
    ensure!(Imap::login(front.imap, "eve", PASSWORD).is_err(), "an account was made after all");
    let mut of_bob = home.login("bob")?;
    of_bob.append_ok("INBOX", "", MESSAGE)?;
    let count = open.ok("STATUS INBOX (MESSAGES)")?.lines();
    ensure!(count.iter().any(|line| line.contains("MESSAGES 4")), "{count:?}");
    let unknown = Lmtp::connect(front.lmtp)?.deliver("x@example.net", &["nobody"], MESSAGE)?;
    ensure!(unknown.first().context("no answer")?.code == 550, "{unknown:?}");
    drop((open, of_bob));
    murder.stop()
}
