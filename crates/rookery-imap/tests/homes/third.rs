//! What is at home at three nodes, for one session.

use crate::harness::Site;

/// Jim, who is at home at a third node, has a message for joe; ann's INBOX is empty, and joe may do anything with it.
async fn shared() -> (Site, rookery_types::NodeId) {
    let mut site = Site::new().await;
    let third = site.add_home("jim").await;
    for (one, rights, messages) in [("jim", "lr", 1), ("ann", "lrswipkxte", 0), ("joe", "lr", 1)] {
        let mut client = site.login(one).await;
        for _ in 0..messages {
            let command = format!("1 APPEND INBOX {{18+}}\\nFrom: {one}\\n\\n{one}'s");
            let heard = client.command(&command).await;
            assert!(heard.last().unwrap().starts_with("1 OK"), "{heard:?}");
        }
        let heard = client.command(&format!("2 SETACL INBOX joe {rights}")).await;
        assert!(heard[0].starts_with("2 OK"), "{heard:?}");
    }
    site.settled().await;
    (site, third)
}

#[tokio::test]
async fn a_message_is_made_for_one_home_of_messages_of_all() {
    let (site, third) = shared().await;
    site.play(
        r#"
        J> 1 APPEND "Other Users/ann" CATENATE (URL "/Other%20Users/jim/;UID=1/;SECTION=HEADER" URL "/INBOX/;UID=1/;SECTION=TEXT")
        J< 1 OK [APPENDUID <*> 1] APPEND completed
        J> 2 SELECT "Other Users/jim"
        J< ...
        J< 2 OK <*>
        J> 3 APPEND "Other Users/ann" CATENATE (URL "/Other%20Users/ann/;UID=1" TEXT {1+}\n+ URL ;UID=1/;SECTION=TEXT)
        J< 3 OK [APPENDUID <*> 2] APPEND completed
        J> 4 APPEND INBOX CATENATE (URL "/Other%20Users/ann/;UID=2/;SECTION=TEXT" URL /;UID=1/;SECTION=TEXT)
        J< 4 OK [APPENDUID <*> 2] APPEND completed
        -- Joe may only read the selected mailbox.
        J> 5 REPLACE 1 "Other Users/ann" CATENATE (URL ;UID=1)
        J< 5 NO [CANNOT] The mailbox is selected read-only
        J> 6 SELECT "Other Users/ann"
        J< ...
        J< 6 OK <*>
        J> 7 UID FETCH 2 BODY.PEEK[]
        J< * 2 FETCH (UID 2 BODY[] {24}
        J< From: jim
        J<
        J< joe's+jim's)
        J< 7 OK <*>
        J> 8 SELECT INBOX
        J< ...
        J< 8 OK <*>
        J> 9 UID FETCH 2 BODY.PEEK[]
        J< * 2 FETCH (UID 2 BODY[] {16}
        J< joe's+jim'sjim's)
        J< 9 OK <*>
        "#,
    )
    .await;
    site.links.lose(third);
    site.play(
        r#"
        J> 1 APPEND "Other Users/ann" CATENATE (URL "/Other%20Users/jim/;UID=1")
        J< 1 NO [UNAVAILABLE] <*>
        J> 2 APPEND "Other Users/ann" {1+}\nx CATENATE (URL "/Other%20Users/jim/;UID=1")
        J< 2 NO [UNAVAILABLE] <*>
        J> 3 STATUS "Other Users/ann" (MESSAGES)
        J< * STATUS "Other Users/ann" (MESSAGES 2)
        J< 3 OK <*>
        "#,
    )
    .await;
}

#[tokio::test]
async fn a_url_is_of_the_selected_mailbox_and_of_no_other_of_its_name() {
    let (site, _) = shared().await;
    site.play(
        r#"
        A> 1 CREATE Work
        A< 1 OK <*>
        A> 2 SETACL Work joe lr
        A< 2 OK <*>
        A> 3 APPEND Work {5+}\nfirst
        A< 3 OK <*>
        J> 1 SELECT "Other Users/ann/Work"
        J< ...
        J< 1 OK <*>
        J> 2 APPEND INBOX CATENATE (URL ;UID=1)
        J< 2 OK <*>
        A> 4 DELETE Work
        A< 4 OK <*>
        A> 5 CREATE Work
        A< 5 OK <*>
        A> 6 SETACL Work joe lr
        A< 6 OK <*>
        A> 7 APPEND Work {5+}\nother
        A< 7 OK <*>
        J> 3 APPEND INBOX CATENATE (URL ;UID=1)
        J< * 1 EXPUNGE
        J< 3 NO [BADURL ;UID=1] <*>
        "#,
    )
    .await;
}
