//! Annotations (RFC 5464, RFC 9590) as transcripts.

use crate::harness::Site;

#[tokio::test]
async fn values_are_set_read_and_taken_away() {
    Site::new()
        .await
        .play(
            r#"
            A> 1 SETMETADATA INBOX (/private/comment "My new comment" /shared/Comment {21+}\nThis one is\nfor you!)
            A< 1 OK <*>
            A> 2 GETMETADATA INBOX (/SHARED/comment /private/comment /shared/vendor/x/y)
            A< * METADATA INBOX (/SHARED/comment {21}
            A< This one is
            A< for you! /private/comment "My new comment" /shared/vendor/x/y NIL)
            A< 2 OK <*>
            A> 3 SETMETADATA INBOX (/private/comment NIL)
            A< 3 OK <*>
            A> 4 GETMETADATA INBOX /private/comment
            A< * METADATA INBOX (/private/comment NIL)
            A< 4 OK <*>
            A> 5 SETMETADATA INBOX (/private/filters/values/small "SMALLER 5000" /private/filters/values/boss/x "FROM \"boss@example.com\"")
            A< 5 OK <*>
            A> 6 GETMETADATA (DEPTH 1) INBOX (/private/filters/values)
            A< * METADATA INBOX (/private/filters/values/small "SMALLER 5000")
            A< 6 OK <*>
            A> 7 GETMETADATA INBOX (DEPTH infinity) (/private)
            A< * METADATA INBOX (/private/filters/values/boss/x "FROM \"boss@example.com\"" /private/filters/values/small "SMALLER 5000")
            A< 7 OK <*>
            A> 8 GETMETADATA (MAXSIZE 20) INBOX (/private/filters/values/small /shared/comment)
            A< * METADATA INBOX (/private/filters/values/small "SMALLER 5000")
            A< 8 OK [METADATA LONGENTRIES 21] <*>
            A> 9 SETMETADATA nowhere (/private/comment "x")
            A< 9 NO [NONEXISTENT] <*>
            A> 10 SETMETADATA INBOX (/private/comment ~{3+}\nabc)
            A< 10 OK <*>
            "#,
        )
        .await;
}

#[tokio::test]
async fn malformed_names_are_bad_and_change_nothing() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    for entry in [
        "/foo/bar",
        "/shared",
        "/private",
        "/shared//comment",
        "/shared/comment/",
        "/shared/comm*nt",
        "/shared/comm%nt",
        "\"/shared/c\u{f6}mment\"",
        "comment",
        "\"\"",
        "/",
        "/shared/vendor",
        "/shared/vendor/token",
        "/private/vendor/token",
        "\"/shared/a\tb\"",
    ] {
        let set = client.command(&format!("1 SETMETADATA INBOX (/shared/good \"x\" {entry} \"y\")")).await;
        assert!(set.last().unwrap().starts_with("1 BAD "), "{entry}: {set:?}");
        let get = client.command(&format!("2 GETMETADATA INBOX ({entry})")).await;
        assert!(get.last().unwrap().starts_with("2 BAD "), "{entry}: {get:?}");
        let list = client.command(&format!("3 LIST \"\" * RETURN (METADATA ({entry}))")).await;
        assert_eq!(list.len(), 1, "{list:?}");
        assert!(list[0].starts_with("3 BAD "), "{entry}: {list:?}");
    }
    // Octets of any value are taken.
    client.send_octets(b"5 SETMETADATA INBOX (/shared/octets ~{3+}\r\na\0b)\r\n").await;
    assert!(client.line().await.starts_with("5 OK "));
    let get = client.command("6 GETMETADATA INBOX /shared/octets").await;
    assert_eq!(get[..2], ["* METADATA INBOX (/shared/octets ~{3}", "a\0b)"]);
    let get = client.command("4 GETMETADATA INBOX /shared/good").await;
    assert_eq!(get[0], "* METADATA INBOX (/shared/good NIL)");
}

#[tokio::test]
async fn private_ones_are_seen_by_nobody_else_and_rights_decide() {
    Site::new()
        .await
        .play(
            r#"
            A> 1 SETACL INBOX joe lr
            A< 1 OK <*>
            A> 2 SETMETADATA INBOX (/private/comment "ann's" /shared/comment "all's")
            A< 2 OK <*>
            J> 1 GETMETADATA "Other Users/ann" (/private/comment /shared/comment)
            J< * METADATA "Other Users/ann" (/private/comment NIL /shared/comment "all's")
            J< 1 OK <*>
            J> 2 SETMETADATA "Other Users/ann" (/private/comment "joe's")
            J< 2 OK <*>
            A> 3 GETMETADATA (DEPTH infinity) INBOX /private
            A< * METADATA INBOX (/private/comment "ann's")
            A< 3 OK <*>
            A> 4 SETACL INBOX joe l
            A< 4 OK <*>
            J> 3 GETMETADATA "Other Users/ann" (/private/comment)
            J< 3 NO [NOPERM] <*>
            A> 5 SETACL INBOX joe r
            A< 5 OK <*>
            J> 4 GETMETADATA "Other Users/ann" (/private/comment)
            J< 4 NO [NONEXISTENT] No such mailbox
            J> 5 GETMETADATA "Other Users/nobody" (/private/comment)
            J< 5 NO [NONEXISTENT] No such mailbox
            A> 6 SETACL INBOX joe lp
            A< 6 OK <*>
            J> 6 GETMETADATA "Other Users/ann" (/private/comment)
            J< * METADATA "Other Users/ann" (/private/comment "joe's")
            J< 6 OK <*>
            "#,
        )
        .await;
}

#[tokio::test]
async fn they_go_with_the_mailbox() {
    let site = Site::new().await;
    site.fill(".").await;
    site.play(
        r#"
        A> 1 CREATE a/b
        A< 1 OK <*>
        A> 2 SETMETADATA a/b (/shared/comment "c" /private/comment "p")
        A< 2 OK <*>
        A> 3 RENAME a z
        A< 3 OK <*>
        A> 4 LIST "" z/* RETURN (METADATA (/shared/comment /private/comment /shared/none))
        A< * LIST (\HasNoChildren) "/" z/b
        A< * METADATA z/b (/shared/comment "c" /private/comment "p" /shared/none NIL)
        A< 4 OK <*>
        A> 5 DELETE z/b
        A< 5 OK <*>
        A> 6 CREATE z/b
        A< 6 OK <*>
        A> 7 GETMETADATA z/b /shared/comment
        A< * METADATA z/b (/shared/comment NIL)
        A< 7 OK <*>
        A> 8 SETMETADATA INBOX (/shared/comment "kept")
        A< 8 OK <*>
        A> 9 RENAME INBOX old
        A< 9 OK <*>
        A> 10 LIST "" (INBOX old) RETURN (METADATA (/shared/comment))
        A< * LIST (\HasNoChildren) "/" INBOX
        A< * METADATA INBOX (/shared/comment "kept")
        A< * LIST (\HasNoChildren) "/" old
        A< * METADATA old (/shared/comment "kept")
        A< 10 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn what_a_mailbox_is_for_is_an_entry_too() {
    Site::new()
        .await
        .play(
            r#"
            A> 1 GETMETADATA Sent /private/specialuse
            A< * METADATA Sent (/private/specialuse "\\Sent")
            A< 1 OK <*>
            A> 2 SETMETADATA INBOX (/private/specialuse "\\Nonsense" /private/comment "x")
            A< 2 NO [USEATTR] <*>
            A> 3 SETMETADATA Trash (/private/specialuse "\\Junk")
            A< 3 OK <*>
            A> 4 LIST "" Trash
            A< * LIST (\HasNoChildren \Junk) "/" Trash
            A< 4 OK <*>
            A> 5 SETMETADATA Trash (/private/specialuse NIL)
            A< 5 OK <*>
            A> 6 GETMETADATA (DEPTH infinity) Trash /private
            A< * METADATA Trash (/private NIL)
            A< 6 OK <*>
            A> 7 GETMETADATA INBOX /private/comment
            A< * METADATA INBOX (/private/comment NIL)
            A< 7 OK <*>
            "#,
        )
        .await;
}

#[tokio::test]
async fn number_and_size_are_bounded() {
    let site = Site::new().await;
    let mut client = site.login("ann").await;
    let large = "x".repeat(32_769);
    let answer = client
        .command(&format!("1 SETMETADATA INBOX (/shared/small \"y\" /shared/large {{32769+}}\\n{large})"))
        .await;
    assert!(answer[0].starts_with("1 NO [METADATA MAXSIZE 32768] "), "{answer:?}");
    for n in 0..100 {
        let answer = client.command(&format!("2 SETMETADATA INBOX (/shared/n{n} \"y\")")).await;
        assert!(answer[0].starts_with("2 OK "), "{answer:?}");
    }
    let answer = client.command("3 SETMETADATA INBOX (/shared/n1 \"changed\" /shared/more \"y\")").await;
    assert!(answer[0].starts_with("3 NO [METADATA TOOMANY] "), "{answer:?}");
    let answer = client.command("4 GETMETADATA INBOX (/shared/n1 /shared/small)").await;
    assert_eq!(answer[0], "* METADATA INBOX (/shared/n1 \"y\" /shared/small NIL)");
    let answer =
        client.command("5 SETMETADATA INBOX (/private/own \"y\" /shared/n1 NIL /shared/more \"y\")").await;
    assert!(answer[0].starts_with("5 OK "), "{answer:?}");
}
