//! Who brings letters by LMTP, each in a transaction over one connection, as an MTA that keeps its connections does: when
//! the server has closed it between two of them (421), another is made.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::crowd::Mood;
use super::ledger::Ledger;
use super::people::AWAY_MAX;
use crate::lmtp::{Lmtp, stuffed};

/// What the postman has brought.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// By user.
    pub(super) ledgers: BTreeMap<String, Ledger>,
    /// How many letters were taken.
    pub(super) delivered: u64,
    /// How often he was asked to come again.
    pub(super) deferred: u64,
}

/// What came of one attempt.
enum Came {
    /// The letter was taken.
    Taken(Lmtp),
    /// The server takes none now, and has got nothing.
    Later(anyhow::Error),
    /// The server has it, and asks for it once more.
    Asked(anyhow::Error),
    /// Nobody knows.
    Unknown(anyhow::Error),
    /// It is refused for good.
    Refused(anyhow::Error),
}

/// Brings letters until it is time. A strict postman brings a letter again if the server asked for that (4xx), and must
/// be rid of it before he loses his patience; a patient one also if nobody said what had become of it.
pub(super) fn bring(
    door: SocketAddr,
    a_second: u32,
    users: &[String],
    mood: Mood,
    crowd: u64,
    round: &mut Round,
    stop: &AtomicBool,
) -> Result<()> {
    let mut lmtp = None;
    let pause = Duration::from_secs(1) / a_second.max(1);
    let (mut number, mut since, mut unknown) = (0_usize, Instant::now(), false);
    let away_max = match mood {
        Mood::Strict(patience) => patience,
        Mood::Patient => AWAY_MAX,
    };
    while !stop.load(Ordering::Relaxed) {
        let user = users.get(number % users.len()).context("nobody to write to")?;
        let subject = format!("letter {crowd}.{number}");
        let ledger = round.ledgers.entry(user.clone()).or_default();
        let came = attempt(lmtp.take(), door, user, &subject, &mut || {
            if std::mem::take(&mut unknown) {
                ledger.again(&subject);
            } else {
                ledger.may_be(&subject, &[("INBOX", None)]);
            }
        });
        match came {
            Came::Taken(connection) => {
                ledger.is(&subject, &[("INBOX", None)]);
                lmtp = Some(connection);
                round.delivered += 1;
                number += 1;
                if let Mood::Strict(patience) = mood {
                    ensure!(since.elapsed() < patience + pause, "{subject} took {:?}", since.elapsed());
                }
                std::thread::sleep(pause);
                since = Instant::now();
                continue;
            }
            Came::Later(error) => {
                let refused =
                    error.downcast_ref().map(std::io::Error::kind) == Some(ErrorKind::ConnectionRefused);
                ensure!(mood == Mood::Patient || !refused, "{error:#}");
                ensure!(since.elapsed() < away_max, "mail is taken no more: {error:#}");
                round.deferred += 1;
            }
            Came::Asked(error) => {
                ensure!(since.elapsed() < away_max, "mail is taken no more: {error:#}");
                round.deferred += 1;
                // Mostly nothing was stored. Nobody promises it.
                unknown = true;
            }
            Came::Unknown(error) if mood == Mood::Patient => {
                ensure!(since.elapsed() < away_max, "mail is taken no more: {error:#}");
                unknown = true;
            }
            Came::Refused(error) => bail!("{subject} is refused: {error:#}"),
            Came::Unknown(error) => bail!("nobody says what became of {subject}: {error:#}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Brings one letter once. `gives` is called before it goes out.
fn attempt(open: Option<Lmtp>, door: SocketAddr, user: &str, subject: &str, gives: &mut dyn FnMut()) -> Came {
    let mut lmtp = match open.map_or_else(|| Lmtp::connect(door), Ok) {
        Ok(lmtp) => lmtp,
        Err(error) => return Came::Later(error),
    };
    let steps = [
        ("MAIL FROM:<sender@example.net>".to_owned(), 250),
        (format!("RCPT TO:<{user}>"), 250),
        ("DATA".to_owned(), 354),
    ];
    for (line, wanted) in steps {
        match lmtp.command(&line) {
            Ok(answer) if answer.code == wanted => {}
            Ok(answer) if answer.code / 100 == 5 => return Came::Refused(anyhow!("{line}: {answer:?}")),
            Ok(answer) => return Came::Later(anyhow!("{line} was answered {answer:?}")),
            Err(error) => return Came::Later(error),
        }
    }
    gives();
    let text = format!("Message-ID: <{subject}@crowd>\r\nSubject: {subject}\r\n\r\nThe text of it.\r\n");
    match lmtp.send(&stuffed(text.as_bytes())).and_then(|()| lmtp.answer()) {
        Ok(answer) if answer.code == 250 => Came::Taken(lmtp),
        Ok(answer) if answer.code / 100 == 5 => Came::Refused(anyhow!("{answer:?}")),
        Ok(answer) => Came::Asked(anyhow!("{answer:?}")),
        Err(error) => Came::Unknown(error),
    }
}
