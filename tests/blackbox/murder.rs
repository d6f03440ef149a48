//! Several nodes that look like one: clients at a frontend, mail at backends.

use anyhow::{Context, Result, bail, ensure};
use rookery_tests::imap::Imap;
use rookery_tests::lmtp::Lmtp;
use rookery_tests::murder::Murder;
use rookery_tests::server::{PASSWORD, Server};
use rookery_tests::{command, process};
use rustix::process::Signal;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

const MESSAGE: &[u8] = b"From: a@example.net\r\nSubject: over the link\r\n\r\nbody\r\n";

#[test]
fn clients_at_a_frontend_find_their_mail_at_a_backend() -> Result<()> {
    let mut murder =
        Murder::start(&[("be1.example", ""), ("be2.example", "hold"), ("fe1.example", "serve")])?;
    let [one, two, front] = &murder.nodes[..] else { anyhow::bail!("three nodes were started") };
    // Each backend keeps the accounts that are made there; the frontend holds none and places them.
    one.add_user("ann")?;
    two.add_user("joe")?;
    front.add_user("eve")?;
    ensure!(front.cli(&["status", "--json"], b"")?.status.success());
    for user in ["ann", "joe", "eve"] {
        let mut client = front.login(user)?;
        let (_, uid) = client.append_ok("INBOX", "(\\Flagged)", MESSAGE)?;
        client.ok("CREATE Work")?;
        ensure!(client.ok("LIST \"\" *")?.lines().iter().any(|line| line.ends_with("Work")));
        client.ok("SELECT INBOX")?;
        let fetched = client.ok(&format!("UID FETCH {uid} (FLAGS BODY[])"))?.fetches()?;
        ensure!(fetched.len() == 1 && fetched[0].body("BODY[]")? == MESSAGE);
        ensure!(fetched[0].flags()?.iter().any(|flag| flag == "\\Flagged"));
        client.ok("LOGOUT")?;
    }
    // The same account at two nodes at once: what one does the other hears.
    let mut near = two.login("joe")?;
    let mut far = front.login("joe")?;
    near.ok("SELECT INBOX")?;
    far.ok("SELECT INBOX")?;
    let tag = far.idle()?;
    near.append_ok("INBOX", "()", MESSAGE)?;
    let heard = far.response()?;
    ensure!(heard.starts_with(b"* 2 EXISTS"), "{}", String::from_utf8_lossy(&heard));
    far.done(&tag)?;
    // A password that is changed at one node holds at another within a second.
    let changed = one.cli(&["user", "passwd", "joe", "--password-stdin"], b"another one")?;
    ensure!(changed.status.success(), "{}", changed.text());
    let deadline = Instant::now() + Duration::from_secs(1);
    while Imap::login(front.imap, "joe", "another one").is_err() {
        ensure!(Instant::now() < deadline, "the frontend takes the old password for longer than a second");
    }
    ensure!(Imap::login(front.imap, "joe", PASSWORD).is_err(), "the old password still holds");
    drop((near, far));
    let listed = front.cli(&["node", "list"], b"")?;
    ensure!(
        listed.text().lines().filter(|line| line.contains(" up") || line.contains(" here")).count() == 3,
        "{}",
        listed.text()
    );
    murder.stop()
}

#[test]
fn what_is_shared_is_listed_everywhere_at_once() -> Result<()> {
    let mut murder =
        Murder::start(&[("be1.example", ""), ("be2.example", "serve,hold"), ("fe1.example", "serve")])?;
    let [one, two, front] = &murder.nodes[..] else { anyhow::bail!("three nodes were started") };
    one.add_user("ann")?;
    two.add_user("joe")?;
    // The owner's home has the directory, or has it not; both clients are anywhere.
    for (owner, at, reader) in [("ann", front, "joe"), ("joe", front, "ann"), ("joe", two, "ann")] {
        let mut sharing = at.login(owner)?;
        sharing.ok("CREATE Plans")?;
        let name = format!("Other Users/{owner}/Plans");
        let listed = |node: &Server| -> Result<bool> {
            let answer = node.login(reader)?.ok("LIST \"\" *")?;
            Ok(answer.lines().iter().any(|line| line.contains(&name)))
        };
        let mut open = front.login(reader)?;
        for _ in 0..10 {
            sharing.ok(&format!("SETACL Plans {reader} lr"))?;
            let answer = open.ok("LIST \"\" * RETURN (MYRIGHTS)")?;
            ensure!(
                answer.lines().iter().any(|line| line.contains("MYRIGHTS") && line.contains(&name)),
                "{:?}",
                answer.lines()
            );
            for node in [one, two, front] {
                ensure!(listed(node)?, "{name} is not listed for {reader}");
            }
            sharing.ok(&format!("DELETEACL Plans {reader}"))?;
            for node in [one, two, front] {
                ensure!(!listed(node)?, "{name} is still listed for {reader}");
            }
        }
        sharing.ok(&format!("SETACL Plans {reader} lr"))?;
        sharing.ok("RENAME Plans Past")?;
        ensure!(!listed(front)?, "the old name is still listed");
        ensure!(open.ok("LIST \"\" \"Other Users/*\"")?.lines().iter().any(|line| line.contains("/Past")));
        sharing.ok("DELETE Past")?;
        ensure!(!open.ok("LIST \"\" \"Other Users/*\"")?.lines().iter().any(|line| line.contains("/Past")));
    }
    murder.stop()
}

#[test]
fn what_is_shared_while_the_directory_is_away_is_published_later() -> Result<()> {
    let mut murder =
        Murder::start(&[("be1.example", ""), ("be2.example", "hold"), ("be3.example", "serve,hold")])?;
    murder.node(1)?.add_user("joe")?;
    murder.node(2)?.add_user("ann")?;
    for node in [1, 2] {
        murder.node_mut(node)?.allow_log("the directory's source is away");
        murder.node_mut(node)?.allow_log("what users share is not published yet");
    }
    murder.node_mut(0)?.kill9()?;
    let mut sharing = murder.node(1)?.login("joe")?;
    sharing.ok("CREATE Plans")?;
    let began = Instant::now();
    let answer = sharing.command("SETACL Plans ann lr")?;
    ensure!(answer.code("UNAVAILABLE").is_some(), "{:?}", answer.lines());
    ensure!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
    ensure!(sharing.ok("GETACL Plans")?.lines().iter().any(|line| line.contains("ann")));
    // The outbox is on the disk.
    murder.node_mut(1)?.kill9()?;
    murder.node_mut(1)?.launch()?;
    murder.node_mut(0)?.launch()?;
    let mut reading = murder.node(2)?.login("ann")?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let is_listed = |client: &mut Imap| -> Result<bool> {
        Ok(client.ok("LIST \"\" *")?.lines().iter().any(|line| line.contains("Other Users/joe/Plans")))
    };
    while !is_listed(&mut reading)? {
        ensure!(Instant::now() < deadline, "what was shared is never published");
    }
    murder.stop()
}

#[test]
fn mail_comes_in_at_any_node_and_is_split_by_home() -> Result<()> {
    let mut murder =
        Murder::start(&[("be1.example", ""), ("be2.example", "hold,serve"), ("fe1.example", "serve")])?;
    murder.node(0)?.add_user("ann")?;
    murder.node(1)?.add_user("joe")?;
    let large = [MESSAGE, &b"0123456789abcdef\r\n".repeat(200_000)].concat();
    for at in 0..3 {
        for message in [MESSAGE, large.as_slice()] {
            let mut mta = Lmtp::connect(murder.node(at)?.lmtp)?;
            let answers = mta.deliver("x@example.net", &["ann", "nobody", "joe", "ann+Lists"], message)?;
            let codes: Vec<u16> = answers.iter().map(|answer| answer.code).collect();
            ensure!(codes == [250, 550, 250, 250], "at node {at}: {answers:?}");
        }
    }
    for user in ["ann", "joe"] {
        let mut client = murder.node(2)?.login(user)?;
        client.ok("SELECT INBOX")?;
        let fetched = client.ok("UID FETCH 1:* (BODY[])")?.fetches()?;
        ensure!(fetched.len() == 6, "{} messages for {user}", fetched.len());
        for (place, one) in fetched.iter().enumerate() {
            let expected = if place % 2 == 0 { MESSAGE } else { &large };
            ensure!(one.body("BODY[]")?.ends_with(expected), "message {place} of {user}");
        }
    }
    // A home that is away keeps nobody else from getting theirs.
    murder.node_mut(2)?.allow_log("a recipient's home is not reached");
    murder.node_mut(1)?.kill9()?;
    let mut mta = Lmtp::connect(murder.node(2)?.lmtp)?;
    let answers = mta.deliver("x@example.net", &["joe", "ann"], MESSAGE)?;
    ensure!(answers.iter().map(|answer| answer.code).eq([451, 250]), "{answers:?}");
    murder.node_mut(1)?.launch()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while mta.deliver("x@example.net", &["joe"], MESSAGE)?.iter().any(|answer| answer.code != 250) {
        ensure!(Instant::now() < deadline, "joe's home does not come back");
        std::thread::sleep(Duration::from_millis(100));
    }
    let mut client = murder.node(1)?.login("joe")?;
    ensure!(client.ok("STATUS INBOX (MESSAGES)")?.lines().iter().any(|line| line.contains("MESSAGES 7")));
    drop(client);
    for node in &murder.nodes {
        node.check()?;
    }
    Ok(())
}

#[test]
fn a_backend_that_is_gone_is_waited_for_by_its_own_users_alone() -> Result<()> {
    let mut murder =
        Murder::start(&[("be1.example", ""), ("be2.example", "hold"), ("fe1.example", "serve")])?;
    murder.node(0)?.add_user("ann")?;
    murder.node(1)?.add_user("joe")?;
    let front = murder.node(2)?.imap;
    let mut of_joe = Imap::login(front, "joe", PASSWORD)?;
    of_joe.append_ok("INBOX", "()", MESSAGE)?;
    let mut selected = Imap::login(front, "joe", PASSWORD)?;
    selected.ok("SELECT INBOX")?;
    let mut idling = Imap::login(front, "joe", PASSWORD)?;
    idling.ok("SELECT INBOX")?;
    let idle = idling.idle()?;
    for node in [0, 2] {
        murder.node_mut(node)?.allow_log("a user's home is not reached");
    }
    murder.node_mut(1)?.kill9()?;
    // Whoever was there stays, and is answered at once; nobody hears BYE.
    for command in ["STATUS INBOX (MESSAGES)", "LIST \"\" *", "SELECT INBOX"] {
        unavailable(&mut of_joe, command)?;
    }
    for command in ["FETCH 1 FLAGS", "STORE 1 +FLAGS (\\Seen)", "NOOP"] {
        unavailable(&mut selected, command)?;
    }
    of_joe.ok("NOOP")?;
    let mut refused = Imap::connect(front)?;
    let began = Instant::now();
    let answer = refused.command(&format!("LOGIN joe {}", rookery_tests::imap::quote(PASSWORD)))?;
    ensure!(answer.code("UNAVAILABLE").is_some(), "{:?}", answer.lines());
    ensure!(began.elapsed() < Duration::from_secs(6), "{:?}", began.elapsed());
    let mut of_ann = Imap::login(front, "ann", PASSWORD)?;
    of_ann.append_ok("INBOX", "()", MESSAGE)?;
    murder.node_mut(1)?.launch()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut back = loop {
        match Imap::login(front, "joe", PASSWORD) {
            Ok(client) => break client,
            Err(error) => ensure!(Instant::now() < deadline, "joe's home does not come back: {error:#}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    ensure!(back.ok("STATUS INBOX (MESSAGES)")?.lines().iter().any(|line| line.contains("MESSAGES 1")));
    back.append_ok("INBOX", "()", MESSAGE)?;
    // So are those who waited, each where they were.
    let heard = idling.response()?;
    ensure!(heard.starts_with(b"* 2 EXISTS"), "{}", String::from_utf8_lossy(&heard));
    idling.done(&idle)?;
    for (client, command) in [(&mut of_joe, "SELECT INBOX"), (&mut selected, "FETCH 2 FLAGS")] {
        while client.command(command)?.code("UNAVAILABLE").is_some() {
            ensure!(Instant::now() < deadline, "{command}: the session does not recover");
            std::thread::sleep(Duration::from_millis(50));
        }
        client.ok("FETCH 1:2 FLAGS")?;
    }
    for node in &murder.nodes {
        node.check()?;
    }
    Ok(())
}

/// Two backends and a frontend; ann, at home at the first, lets joe, at home at the second, do anything with her INBOX
/// and below Work.
fn shared_between_homes() -> Result<Murder> {
    let murder = Murder::start(&[("be1.example", ""), ("be2.example", "hold"), ("fe1.example", "serve")])?;
    murder.node(0)?.add_user("ann")?;
    murder.node(1)?.add_user("joe")?;
    let mut ann = murder.node(2)?.login("ann")?;
    ann.append_ok("INBOX", "(\\Flagged)", MESSAGE)?;
    ann.ok("CREATE Work")?;
    for mailbox in ["INBOX", "Work"] {
        ann.ok(&format!("SETACL {mailbox} joe lrswipkxte"))?;
    }
    ann.ok("LOGOUT")?;
    Ok(murder)
}

const OF_ANN: &str = "\"Other Users/ann\"";

#[test]
fn a_mailbox_of_another_home_is_used_like_any() -> Result<()> {
    let mut murder = shared_between_homes()?;
    for node in [2, 1, 0] {
        let mut joe = murder.node(node)?.login("joe")?;
        joe.command("CREATE Work")?;
        joe.ok(&format!("SELECT {OF_ANN}"))?;
        let fetched = joe.ok("UID FETCH 1 (FLAGS BODY.PEEK[])")?.fetches()?;
        ensure!(fetched[0].body("BODY[]")? == MESSAGE);
        joe.ok("UID STORE 1 +FLAGS (\\Answered)")?;
        ensure!(joe.ok("UID SEARCH ANSWERED")?.search()? == [1]);
        // A message of many frames of the link, both ways.
        let large = [MESSAGE, &b"0123456789abcdef\r\n".repeat(100_000)[..]].concat();
        let (_, uid) = joe.append_ok("Other Users/ann", "", &large)?;
        let fetched = joe.ok(&format!("UID FETCH {uid} BODY.PEEK[]"))?.fetches()?;
        ensure!(fetched[0].body("BODY[]")? == large, "{} octets", fetched[0].body("BODY[]")?.len());
        joe.ok(&format!("UID STORE {uid} +FLAGS.SILENT (\\Deleted)"))?;
        joe.ok("EXPUNGE")?;
        // What happens there is heard while joe idles.
        let tag = joe.idle()?;
        let mut ann = murder.node(2)?.login("ann")?;
        let (_, uid) = ann.append_ok("INBOX", "()", MESSAGE)?;
        let heard = joe.response()?;
        ensure!(heard == b"* 2 EXISTS", "{}", String::from_utf8_lossy(&heard));
        joe.done(&tag)?;
        joe.ok(&format!("UID STORE {uid} +FLAGS.SILENT (\\Deleted)"))?;
        joe.ok("CLOSE")?;
        joe.ok("CREATE \"Other Users/ann/Work/done\"")?;
        ensure!(joe.ok("MYRIGHTS \"Other Users/ann/Work/done\"")?.lines()[0].contains("lrswipkxte"));
        joe.ok("DELETE \"Other Users/ann/Work/done\"")?;
        let status = joe.ok(&format!("STATUS {OF_ANN} (MESSAGES)"))?;
        ensure!(status.lines()[0].ends_with("(MESSAGES 1)"), "{:?}", status.lines());
        // Out of joe's own and into it.
        joe.append_ok("INBOX", "(\\Flagged)", &large)?;
        joe.append_ok("INBOX", "()", MESSAGE)?;
        joe.ok("SELECT INBOX")?;
        let copied = joe.ok(&format!("COPY 1:2 {OF_ANN}"))?;
        let code = copied.code("COPYUID").context("no COPYUID")?;
        joe.ok(&format!("SELECT {OF_ANN}"))?;
        let fetched = joe.ok("FETCH 2:3 (UID FLAGS BODY.PEEK[])")?.fetches()?;
        ensure!(fetched[0].body("BODY[]")? == large && fetched[1].body("BODY[]")? == MESSAGE);
        ensure!(code.ends_with(&format!(" {}:{}", fetched[0].uid()?, fetched[1].uid()?)), "{code}");
        ensure!(fetched[0].flags()?.iter().any(|flag| flag == "\\Flagged"));
        joe.ok("COPY 2:3 Work")?;
        joe.ok("STORE 2:3 +FLAGS.SILENT (\\Deleted)")?;
        joe.ok("SELECT Work")?;
        let fetched = joe.ok("FETCH 1:2 (FLAGS BODY.PEEK[])")?.fetches()?;
        ensure!(fetched[0].body("BODY[]")? == large && fetched[1].body("BODY[]")? == MESSAGE);
        joe.ok("DELETE Work")?;
        joe.ok("CREATE Work")?;
        joe.ok(&format!("SELECT {OF_ANN}"))?;
        joe.ok("CLOSE")?;
        joe.ok("SELECT INBOX")?;
        joe.ok("STORE 1:* +FLAGS.SILENT (\\Deleted)")?;
        joe.ok("CLOSE")?;
    }
    for node in &murder.nodes {
        node.check()?;
    }
    murder.stop()
}

/// A command that is refused since a home is away, within a second and what a busy machine takes.
fn unavailable(client: &mut Imap, command: &str) -> Result<()> {
    let began = Instant::now();
    let answer = client.command(command)?;
    ensure!(answer.code("UNAVAILABLE").is_some(), "{command}: {:?} {}", answer.lines(), answer.text);
    ensure!(began.elapsed() < Duration::from_millis(1500), "{command}: {:?}", began.elapsed());
    Ok(())
}

#[test]
fn a_home_that_is_lost_is_waited_for_by_who_has_its_mailbox_selected() -> Result<()> {
    let mut murder = shared_between_homes()?;
    let front = murder.node(2)?.imap;
    let mut reader = Imap::login(front, "joe", PASSWORD)?;
    reader.ok(&format!("SELECT {OF_ANN}"))?;
    let mut other = Imap::login(front, "joe", PASSWORD)?;
    other.ok(&format!("STATUS {OF_ANN} (MESSAGES)"))?;
    murder.node_mut(0)?.kill9()?;
    for command in ["NOOP", "FETCH 1 FLAGS"] {
        unavailable(&mut reader, command)?;
    }
    for command in [format!("STATUS {OF_ANN} (MESSAGES)"), format!("SELECT {OF_ANN}")] {
        unavailable(&mut other, &command)?;
    }
    // Joe's own mailboxes go on, in the same session and in new ones, though the directory was at the node that is lost.
    other.append_ok("INBOX", "()", MESSAGE)?;
    other.ok("SELECT INBOX")?;
    let mut new = Imap::login(front, "joe", PASSWORD)?;
    ensure!(new.ok("STATUS INBOX (MESSAGES)")?.lines()[0].ends_with("(MESSAGES 1)"));
    murder.node_mut(0)?.launch()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while other.command(&format!("STATUS {OF_ANN} (MESSAGES)"))?.code("UNAVAILABLE").is_some() {
        ensure!(Instant::now() < deadline, "ann's home does not come back");
        std::thread::sleep(Duration::from_millis(100));
    }
    other.ok(&format!("SELECT {OF_ANN}"))?;
    while reader.command("FETCH 1 FLAGS")?.code("UNAVAILABLE").is_some() {
        ensure!(Instant::now() < deadline, "what was selected does not come back");
        std::thread::sleep(Duration::from_millis(100));
    }
    for node in &murder.nodes {
        node.check()?;
    }
    Ok(())
}

#[test]
fn a_session_has_to_do_with_three_homes() -> Result<()> {
    let all = "serve,hold";
    let nodes = [("be1.example", ""), ("be2.example", all), ("be3.example", all)];
    let mut murder = Murder::start_under(&nodes, "admins = [\"cyrus\"]\n", "")?;
    for (node, user) in [(0, "ann"), (1, "joe"), (2, "eve"), (0, "cyrus")] {
        murder.node(node)?.add_user(user)?;
    }
    for (node, user) in [(1, "ann"), (2, "eve")] {
        let mut client = murder.node(node)?.login(user)?;
        client.append_ok("INBOX", "(\\Flagged)", MESSAGE)?;
        client.ok("SETACL INBOX joe lrswipkxte")?;
    }
    // From one remote mailbox into another.
    let of_eve = "\"Other Users/eve\"";
    let mut joe = murder.node(0)?.login("joe")?;
    let listed = joe.ok("LIST \"\" \"Other Users/%\" RETURN (STATUS (MESSAGES))")?.lines();
    for user in ["ann", "eve"] {
        let status = format!("STATUS \"Other Users/{user}\" (MESSAGES 1)");
        ensure!(listed.contains(&status), "{listed:?}");
    }
    joe.ok(&format!("SELECT {OF_ANN}"))?;
    let copied = joe.ok(&format!("COPY 1 {of_eve}"))?;
    ensure!(copied.code("COPYUID").is_some_and(|code| code.ends_with(" 1 2")), "{}", copied.text);
    joe.ok(&format!("SELECT {of_eve}"))?;
    let fetched = joe.ok("FETCH 2 (FLAGS BODY.PEEK[])")?.fetches()?;
    ensure!(fetched[0].body("BODY[]")? == MESSAGE);
    ensure!(fetched[0].flags()?.iter().any(|flag| flag == "\\Flagged"));
    // And in place of one: the old one goes where it is.
    joe.ok(&format!("SELECT {OF_ANN}"))?;
    for (number, new) in
        ["{6+}\r\na: b\r\n", "CATENATE (TEXT {4+}\r\na: c URL /INBOX/;UID=1)"].iter().enumerate()
    {
        joe.append_ok("INBOX", "()", MESSAGE)?;
        joe.append_ok("Other Users/ann", "()", MESSAGE)?;
        let replaced = joe.ok(&format!("REPLACE * {of_eve} (\\Draft) {new}"))?;
        let lines = replaced.lines();
        let appended = lines.iter().position(|line| line.starts_with("OK [APPENDUID "));
        let expunged = lines.iter().position(|line| line == "2 EXPUNGE");
        ensure!(appended.is_some() && appended < expunged, "{number}: {lines:?}");
    }
    let status = joe.ok(&format!("STATUS {OF_ANN} (MESSAGES)"))?.lines();
    ensure!(status[0].ends_with("(MESSAGES 1)"), "{status:?}");
    joe.ok(&format!("SELECT {of_eve}"))?;
    let fetched = joe.ok("FETCH 3:4 (FLAGS BODY.PEEK[])")?.fetches()?;
    ensure!(
        fetched[0].body("BODY[]")? == b"a: b\r\n"
            && fetched[1].body("BODY[]")? == [b"a: c", MESSAGE].concat()
    );
    ensure!(fetched[1].flags()?.iter().any(|flag| flag == "\\Draft"));
    let replaced = joe.ok("REPLACE 3 INBOX {6+}\r\na: d\r\n")?.lines();
    ensure!(replaced.iter().any(|line| line == "3 EXPUNGE"), "{replaced:?}");
    // An administrator sees and changes all of it, at any node.
    for node in [2, 1, 0] {
        let mut cyrus = murder.node(node)?.login("cyrus")?;
        let names: Vec<String> = cyrus
            .ok("LIST \"\" user/%")?
            .lines()
            .iter()
            .filter_map(|line| line.rsplit(' ').next().map(str::to_owned))
            .collect();
        ensure!(names == ["user/ann", "user/cyrus", "user/eve", "user/joe"], "{names:?}");
        cyrus.ok("CREATE user/eve/made")?;
        cyrus.ok("SETQUOTA user/joe (STORAGE 1000)")?;
        ensure!(cyrus.ok("GETQUOTA user/joe")?.lines()[0].contains("1000"));
        cyrus.ok("DELETE user/eve/made")?;
    }
    // What is away is not left out.
    murder.node_mut(2)?.kill9()?;
    unavailable(&mut joe, "NOOP")?;
    let mut cyrus = murder.node(1)?.login("cyrus")?;
    let began = Instant::now();
    ensure!(cyrus.command("LIST \"\" *")?.code("UNAVAILABLE").is_some());
    ensure!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    cyrus.ok("LIST \"\" user/joe")?;
    Ok(())
}

/// The one command that shows a murder, and the commands that it tells of.
#[test]
fn the_demo_shows_a_murder() -> Result<()> {
    for kind in ["discrete", "unified"] {
        let folder = tempfile::tempdir()?;
        let mut demo = std::process::Command::new(rookery_tests::server::binary()?)
            .args(["demo", "--murder", kind])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let told = BufReader::new(demo.stdout.take().context("it says nothing")?);
        let mut commands = Vec::new();
        for line in told.lines() {
            let line = line?;
            let line = line.trim();
            if line.starts_with("curl ") || line.ends_with(" node list") {
                commands.push(line.to_owned());
            }
            if line.ends_with(" node list") {
                break;
            }
        }
        let run = || -> Result<()> {
            let outputs = commands.iter().map(|command| command::ok("sh", &["-c", command], b""));
            let outputs: Vec<String> = outputs.map(|output| Ok(output?.text())).collect::<Result<_>>()?;
            let [of_demo, of_crew, shared, nodes] = &outputs[..] else {
                bail!("it tells of {} commands", commands.len())
            };
            for letter in [of_demo, of_crew, shared] {
                ensure!(letter.contains("Subject: "), "{letter}");
            }
            ensure!(nodes.matches(" up").count() == 2 && nodes.contains(" here"), "{nodes}");
            Ok(())
        };
        let result = run();
        process::signal(demo.id(), Signal::INT)?;
        ensure!(demo.wait()?.success(), "{kind}: the demo does not end as it should");
        result?;
        // Its servers went with it.
        let sockets = command::ok("sh", &["-c", &format!("ls {}/*/data", folder.path().display())], b"")?;
        ensure!(!sockets.text().contains("admin.sock"), "{}", sockets.text());
    }
    Ok(())
}
