//! Malformed and extreme messages: taken by APPEND, given back as they are, and described in a way that adds up.

use anyhow::{Context, Result, ensure};
use rookery_tests::bodystructure;
use rookery_tests::corpus::{self, Message, crlf};
use rookery_tests::imap::Imap;

/// Parts asked for in one FETCH.
const PARTS_PER_FETCH: usize = 40;
/// Parts of one message that are fetched: from both ends and evenly between.
const PARTS_CHECKED_MAX: usize = 400;

fn check(imap: &mut Imap, message: &Message) -> Result<()> {
    let (_, uid) = imap.append_ok("INBOX", "", &message.octets)?;
    let reply = imap.ok(&format!("UID FETCH {uid} (RFC822.SIZE ENVELOPE BODYSTRUCTURE BODY.PEEK[])"))?;
    let fetches = reply.fetches()?;
    let fetch =
        fetches.iter().find(|fetch| fetch.uid().is_ok_and(|found| found == uid)).context("not fetched")?;
    let octets = fetch.body("BODY[]")?;
    // A server may turn LF into CRLF; more it may not do.
    ensure!(octets == message.octets || octets == crlf(&message.octets), "BODY[] is not what was appended");
    ensure!(fetch.get("RFC822.SIZE")?.number()? == octets.len() as u64, "RFC822.SIZE differs from BODY[]");
    bodystructure::envelope(fetch.get("ENVELOPE")?).context("ENVELOPE")?;
    let parts = bodystructure::parts(fetch.get("BODYSTRUCTURE")?).context("BODYSTRUCTURE")?;
    ensure!(!parts.is_empty(), "a BODYSTRUCTURE without parts");
    let step = parts.len().div_ceil(PARTS_CHECKED_MAX);
    let chosen: Vec<_> =
        parts.iter().enumerate().filter(|(n, _)| n % step == 0 || n + 20 > parts.len()).collect();
    for group in chosen.chunks(PARTS_PER_FETCH) {
        let items: Vec<_> = group.iter().map(|(_, part)| format!("BODY.PEEK[{}]", part.section)).collect();
        let reply = imap.ok(&format!("UID FETCH {uid} ({})", items.join(" ")))?;
        let fetches = reply.fetches()?;
        let fetch =
            fetches.iter().find(|fetch| fetch.uid().is_ok_and(|found| found == uid)).context("no parts")?;
        for (_, part) in group {
            let item = format!("BODY[{}]", part.section);
            let octets = fetch.get(&item)?.octets()?.unwrap_or_default();
            ensure!(
                octets.len() as u64 == part.octets,
                "{item} ({}) has {} octets, BODYSTRUCTURE says {}",
                part.media,
                octets.len(),
                part.octets
            );
        }
    }
    Ok(())
}

#[test]
fn torture_is_taken_and_described() -> Result<()> {
    let mut server = crate::server_with_joe()?;
    let messages = corpus::torture()?;
    let mut imap = server.login("joe")?;
    imap.ok("SELECT INBOX")?;
    let mut faults = Vec::new();
    // NUL cannot be in a literal (RFC 9051 §4.3); an empty message is no message.
    let allowed =
        messages.iter().filter(|message| !message.octets.is_empty() && !message.octets.contains(&0));
    for message in allowed {
        if let Err(error) = check(&mut imap, message) {
            faults.push(format!("{}: {error:#}", message.name));
            // The session may be out of step after a fault.
            imap = server.login("joe")?;
            imap.ok("SELECT INBOX")?;
        }
    }
    ensure!(faults.is_empty(), "{} messages:\n{}", faults.len(), faults.join("\n"));
    server.check()?;
    server.stop()
}
