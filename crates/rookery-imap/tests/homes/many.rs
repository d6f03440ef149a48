//! Many messages at once between two homes: no bound of octets is to tell them from one server.

use super::harness::Site;
use rookery_store::NewMessage;
use rookery_types::{InternalDate, MailboxPath, SystemFlags};

/// Messages of a user, more octets in all than may wait in memory.
const MESSAGES: u32 = 150;
const OCTETS: usize = 500_000;

/// Fills the INBOX of a user.
async fn fill(site: &Site, user: &str) {
    let account = site.account(user).await;
    let inbox = account.tree().get(&MailboxPath::inbox()).unwrap();
    for number in 0..MESSAGES {
        let mut spool = account.spool();
        let mut body = format!("Subject: {user} {number}\r\n\r\n").into_bytes();
        body.resize(OCTETS + number as usize, b'x');
        spool.push(&body).unwrap();
        let (flags, date) = (SystemFlags::NONE, InternalDate::from_unix(i64::from(number) + 1));
        let message = NewMessage { body: spool.finish().unwrap(), flags, keywords: vec![], date };
        account.append(inbox, vec![message]).await.unwrap();
    }
}

#[tokio::test]
async fn a_copy_is_of_any_size() {
    let site = Site::new().await;
    for (who, name) in [("ann", "joe"), ("joe", "ann")] {
        fill(&site, who).await;
        let mut client = site.login(who).await;
        assert!(client.command(&format!("1 SETACL INBOX {name} lrsi")).await[0].starts_with("1 OK"));
        assert!(client.command("2 CREATE kept").await[0].starts_with("2 OK"));
        assert!(client.command(&format!("3 SETACL kept {name} lrsi")).await[0].starts_with("3 OK"));
    }
    site.settled().await;
    // From the own home to another, from that one to here, and back there.
    let ways = [("INBOX", "\"Other Users/ann/kept\""), ("\"Other Users/ann\"", "kept")];
    let mut joe = site.login("joe").await;
    for (from, to) in ways {
        joe.command(&format!("1 SELECT {from}")).await;
        let heard = joe.command(&format!("2 UID COPY 1:* {to}")).await;
        let last = heard.last().unwrap();
        let wanted = format!(" 1:{MESSAGES} 1:{MESSAGES}] COPY completed");
        assert!(last.starts_with("2 OK [COPYUID ") && last.ends_with(&wanted), "{last}");
        joe.command(&format!("3 EXAMINE {to}")).await;
        let heard = joe.command("4 FETCH 1,77,150 (RFC822.SIZE BODY[HEADER.FIELDS (SUBJECT)])").await;
        let author = if from == "INBOX" { "joe" } else { "ann" };
        let heard = heard.join("\n");
        for number in [0, 76, 149] {
            let size = OCTETS + number;
            let wanted = format!("* {} FETCH (RFC822.SIZE {size} ", number + 1);
            let subject = format!("\nSubject: {author} {number}\n");
            assert!(heard.contains(&wanted) && heard.contains(&subject), "{heard}");
        }
    }
}
