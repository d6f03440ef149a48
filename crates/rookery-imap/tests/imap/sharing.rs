//! Who sees what of others: LIST by grants, groups, and the equal answers for what is hidden and what is not there.

use crate::harness::{Client, Site};
use rookery_types::{AccountName, UserName};
use std::sync::atomic::Ordering;

#[tokio::test]
async fn what_others_share_is_listed() {
    let site = Site::new().await;
    site.add_shared("team", "anyone", "lr").await;
    site.add_shared("hidden", "max", "lr").await;
    site.play(
        r#"
        J> 1 LIST "" *
        J< * LIST (\HasNoChildren) "/" INBOX
        J< * LIST (\HasNoChildren \Sent) "/" Sent
        J< * LIST (\NonExistent \Noselect \HasChildren) "/" Shared
        J< * LIST (\HasNoChildren) "/" Shared/team
        J< * LIST (\HasNoChildren \Trash) "/" Trash
        J< 1 OK <*>
        A> 1 SETACL Sent joe lr
        A< 1 OK <*>
        A> 2 SETACL INBOX joe r
        A< 2 OK <*>
        J> 2 LIST "" "O*"
        J< * LIST (\NonExistent \Noselect \HasChildren) "/" "Other Users"
        J< * LIST (\NonExistent \Noselect \HasChildren) "/" "Other Users/ann"
        J< * LIST (\HasNoChildren \Sent) "/" "Other Users/ann/Sent"
        J< 2 OK <*>
        J> 3 LIST "" %
        J< * LIST (\HasNoChildren) "/" INBOX
        J< * LIST (\NonExistent \Noselect \HasChildren) "/" "Other Users"
        J< * LIST (\HasNoChildren \Sent) "/" Sent
        J< * LIST (\NonExistent \Noselect \HasChildren) "/" Shared
        J< * LIST (\HasNoChildren \Trash) "/" Trash
        J< 3 OK <*>
        A> 3 SETACL Sent -joe l
        A< 3 OK <*>
        J> 4 LIST "" "Other Users/*"
        J< 4 OK <*>
        A> 4 DELETEACL Sent -joe
        A< 4 OK <*>
        A> 5 RENAME Sent Gone
        A< 5 OK <*>
        J> 5 LIST "" "Other Users/ann/%"
        J< * LIST (\HasNoChildren \Sent) "/" "Other Users/ann/Gone"
        J< 5 OK <*>
        A> 6 DELETE Gone
        A< 6 OK <*>
        J> 6 LIST "" "Other Users/*"
        J< 6 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn what_is_made_below_a_shared_mailbox_has_its_rights() {
    let site = Site::new().await;
    site.add_shared("team", "ann", "lrswipkxte").await;
    site.play(
        r#"
        M> 1 SETACL team joe lr
        M< 1 OK <*>
        A> 1 CREATE Shared/team/plans
        A< 1 OK [MAILBOXID <*>
        A> 2 APPEND Shared/team/plans {3+}\na\n
        A< 2 OK <*>
        J> 1 STATUS Shared/team/plans (MESSAGES)
        J< * STATUS Shared/team/plans (MESSAGES 1)
        J< 1 OK <*>
        J> 2 CREATE Shared/team/more
        J< 2 NO [NOPERM] <*>
        A> 3 DELETE Shared/team/plans
        A< 3 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn what_is_shared_at_another_node_is_listed() {
    let site = Site::new().await;
    site.publish_elsewhere("pat", "Plans/2026", &[("joe", "lrs"), ("-joe", "s")]).await;
    site.publish_elsewhere("sue", "Secret", &[("ann", "l"), ("-ann", "l")]).await;
    site.play(
        r#"
        J> 2 LIST "" "Other Users/*" RETURN (MYRIGHTS CHILDREN STATUS (MESSAGES))
        J< * LIST (\NonExistent \HasChildren) "/" "Other Users/pat"
        J< * LIST (\NonExistent \HasChildren) "/" "Other Users/pat/Plans"
        J< * LIST (\HasNoChildren) "/" "Other Users/pat/Plans/2026"
        J< * MYRIGHTS "Other Users/pat/Plans/2026" lr
        J< 2 OK <*>
        A> 3 LIST "" "Other Users/*"
        A< 3 OK <*>
        J> 4 LIST "" O%
        J< * LIST (\NonExistent \Noselect \HasChildren) "/" "Other Users"
        J< 4 OK <*>
        "#,
    )
    .await;
    // What is taken back is not listed any more.
    site.publish_elsewhere("pat", "Plans/2026", &[("pat", "lrs")]).await;
    site.play("J> 1 LIST \"\" \"Other Users/*\"\nJ< 1 OK <*>\n").await;
}

#[tokio::test]
async fn groups_hold_from_the_next_command_on() {
    let site = Site::new().await;
    let joe = UserName::parse("joe", "example.org").unwrap();
    let directory = site.services.directory.clone();
    let mut ann = site.login("ann").await;
    let mut client = site.login("joe").await;
    assert!(ann.command("1 SETACL Sent group:Staff lr").await[0].starts_with("1 OK"));
    assert!(client.command("1 SELECT \"Other Users/ann/Sent\"").await[0].starts_with("1 NO [NONEXISTENT]"));
    directory.add_group("example.org".to_string(), "staff".to_string()).await.unwrap();
    directory.set_member("staff".to_string(), joe.clone(), true).await.unwrap();
    site.settled().await;
    let heard = client.command("2 LIST \"\" \"Other Users/*/*\"").await;
    assert!(heard[0].ends_with(r#") "/" "Other Users/ann/Sent""#), "{heard:?}");
    assert!(client.command("3 EXAMINE \"Other Users/ann/Sent\"").await.last().unwrap().starts_with("3 OK"));
    directory.set_member("staff".to_string(), joe, false).await.unwrap();
    site.settled().await;
    assert!(client.command("4 FETCH 1:* FLAGS").await[0].starts_with("4 NO [NOPERM]"));
    assert!(
        client.command("5 STATUS \"Other Users/ann/Sent\" (MESSAGES)").await[0].starts_with("5 NO [NONEX")
    );
}

#[tokio::test]
async fn a_list_costs_what_it_answers() {
    let site = Site::new().await;
    site.add_shared("team", "anyone", "lr").await;
    let mut joe = site.login("joe").await;
    let lists = [r#"LIST "" %"#, r#"LIST "" *"#, r#"LIST "" "Other Users/%""#, r#"LSUB "" *"#];
    let mut before = Vec::new();
    for (n, list) in lists.iter().enumerate() {
        before.push(cost(&site, &mut joe, &format!("{n} {list}")).await);
    }
    for n in 0..300 {
        let name = AccountName::User(UserName::parse(&format!("u{n}"), "example.org").unwrap());
        site.services.registrar.create(&name, None).await.unwrap();
    }
    joe.command("x NOOP").await;
    for (n, list) in lists.iter().enumerate() {
        assert_eq!(cost(&site, &mut joe, &format!("{n} {list}")).await, before[n], "{list}");
    }
}

/// The lines of an answer, and the records read for it.
async fn cost(site: &Site, client: &mut Client, command: &str) -> (Vec<String>, u64) {
    // Once before, so that what a cache may hold is in it; the cheapest of several, since the store's background reads,
    // too.
    let mut heard = client.command(command).await;
    let mut cheapest = u64::MAX;
    for _ in 0..8 {
        let before = site.reads.load(Ordering::Relaxed);
        heard = client.command(command).await;
        cheapest = cheapest.min(site.reads.load(Ordering::Relaxed) - before);
    }
    (heard, cheapest)
}

/// Every command that takes a name, with `@` for the name.
const VERBS: [&str; 27] = [
    "SELECT @",
    "EXAMINE @",
    "STATUS @ (MESSAGES UNSEEN)",
    "CREATE @",
    "DELETE @",
    "RENAME @ elsewhere",
    "RENAME INBOX @",
    "RENAME user/eve @",
    "SUBSCRIBE @",
    "UNSUBSCRIBE @",
    "LIST \"\" @",
    "LIST \"\" (@) RETURN (STATUS (MESSAGES) MYRIGHTS)",
    "LIST @ *",
    "LIST @ %",
    "LSUB @ *",
    "GETACL @",
    "SETACL @ eve lr",
    "SETACL @ ann +l",
    "DELETEACL @ ann",
    "LISTRIGHTS @ ann",
    "MYRIGHTS @",
    "GETQUOTA @",
    "GETQUOTAROOT @",
    "SETQUOTA @ (STORAGE 1)",
    "APPEND @ {3+}\\nabc",
    "COPY 1 @",
    "MOVE 1 @",
];

/// Asks all verbs about both names of each pair; the answers must be the same but for the name.
async fn must_be_alike(client: &mut Client, pairs: &[(&str, &str)]) {
    for (there, missing) in pairs {
        for verb in VERBS {
            let mut answers = Vec::new();
            for name in [there, missing] {
                client.command("s SELECT INBOX").await;
                let command = verb.replace('@', &format!("\"{name}\""));
                let heard = client.command(&format!("t {command}")).await;
                let heard: Vec<String> = heard.iter().map(|line| line.replace(name, "NAME")).collect();
                answers.push(heard);
            }
            assert_eq!(answers[0], answers[1], "{verb} of {there} and {missing}");
            let granted = answers[0].last().unwrap().starts_with("t OK");
            let harmless = ["SUBSCRIBE", "UNSUBSCRIBE", "LIST", "LSUB"];
            let is_harmless = harmless.iter().any(|one| verb.starts_with(one));
            assert!(!granted || is_harmless, "{verb} of {there}: {:?}", answers[0]);
        }
    }
}

#[tokio::test]
async fn nobody_learns_of_what_they_cannot_reach() {
    let site = Site::new().await;
    site.fill("..").await;
    site.add_shared("secret", "max", "lrswipkxtea").await;
    site.add_shared("open", "anyone", "lrswi").await;
    let mut root = site.login("root").await;
    for (n, account) in ["user/eve@b.test", "user/adm@b.test"].iter().enumerate() {
        assert!(root.command(&format!("{n} CREATE {account}")).await[0].contains(" OK "));
    }
    // An administrator of a domain, who has mailboxes, and one message in INBOX.
    let mut admin = site.login("adm@b.test").await;
    assert!(admin.command("1 APPEND INBOX {3+}\\nabc").await[0].starts_with("1 OK"));
    assert!(admin.command("2 SELECT INBOX").await.last().unwrap().starts_with("2 OK"));
    must_be_alike(
        &mut admin,
        &[
            ("user/ann@example.org", "user/nobody@example.org"),
            ("user/ann/Sent@example.org", "user/ann/None@example.org"),
            ("user/ann/Sent@example.org", "user/nobody/Sent@example.org"),
            ("open@example.org", "none@example.org"),
            ("secret@example.org", "secret@nowhere.test"),
            ("user/joe@example.org", "user/joe@nowhere.test"),
        ],
    )
    .await;
    let heard = admin.command("3 LIST \"\" *").await.join("\n");
    assert!(heard.contains("user/eve") && !heard.contains("ann") && !heard.contains("open"), "{heard}");
    // A user of that domain: even what is open to anyone is open within its domain.
    let mut eve = site.login("eve@b.test").await;
    assert!(eve.command("1 APPEND INBOX {3+}\\nabc").await[0].starts_with("1 OK"));
    assert!(eve.command("2 SELECT INBOX").await.last().unwrap().starts_with("2 OK"));
    must_be_alike(
        &mut eve,
        &[
            ("Other Users/ann@example.org", "Other Users/nobody@example.org"),
            ("Other Users/ann@example.org/Sent", "Other Users/ann@example.org/None"),
            ("Shared/open@example.org", "Shared/none@example.org"),
            ("Other Users/adm", "Other Users/nobody"),
        ],
    )
    .await;
    // And within one domain what is not shared.
    let mut joe = site.login("joe").await;
    assert!(joe.command("1 APPEND INBOX {3+}\\nabc").await[0].starts_with("1 OK"));
    assert!(joe.command("2 SELECT INBOX").await.last().unwrap().starts_with("2 OK"));
    must_be_alike(
        &mut joe,
        &[
            ("Other Users/ann", "Other Users/nobody"),
            ("Other Users/ann/Sent", "Other Users/ann/None"),
            ("Shared/secret", "Shared/none"),
            ("Shared/secret/below", "Shared/none/below"),
        ],
    )
    .await;
    // Nothing was made, changed or lost meanwhile.
    let mut ann = site.login("ann").await;
    assert_eq!(ann.command("1 GETACL Sent").await[0], "* ACL Sent ann lrswipkxteancd");
    let heard = root.command("9 LIST \"\" *").await.join("\n");
    assert!(!heard.contains("nowhere.test") && !heard.contains("none"), "{heard}");
}
