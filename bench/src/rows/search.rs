//! Real mail: disk space, SEARCH in text, SORT and THREAD.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rookery_tests::{corpus, lmtp};
use tokio::runtime::Runtime;

use super::{Row, Values};
use crate::contender::{Contender, Window};
use crate::load;
use crate::machine::disk_octets;
use crate::report::{Aim, less};

const STAGE: &str = "corpus";
const USER: &str = "corpus";
/// Messages searched: the corpus, and again with a header field more, until there are so many.
const MESSAGES: usize = 10_000;
/// With no change for so long a server is taken to have nothing left to do.
const SETTLED: Duration = Duration::from_secs(20);
/// Times that each search is sent in one measurement: CPU time is counted in steps of 10 ms.
const SEARCHES: usize = 3;

/// The corpus as DATA wants it, and a word that few of its messages have.
struct Mail {
    once: Arc<Vec<Vec<u8>>>,
    again: Arc<Vec<Vec<u8>>>,
    rare: String,
}

fn mail() -> Result<&'static Mail> {
    static MAIL: OnceLock<Result<Mail, String>> = OnceLock::new();
    let loaded = MAIL.get_or_init(|| load_mail().map_err(|error| format!("{error:#}")));
    loaded.as_ref().map_err(|error| anyhow::anyhow!(error.clone()))
}

fn load_mail() -> Result<Mail> {
    let messages = corpus::real()?;
    let once: Vec<_> = messages.iter().map(|message| lmtp::stuffed(&message.octets)).collect();
    let copies = once.iter().cycle().take(MESSAGES.saturating_sub(once.len()));
    let again = copies.map(|text| [b"X-Copy: 2\r\n", text.as_slice()].concat()).collect();
    Ok(Mail { rare: rare_word(&once)?, once: Arc::new(once), again: Arc::new(again) })
}

/// The first word in alphabetical order, of eight to twelve letters, that stands in five messages.
fn rare_word(messages: &[Vec<u8>]) -> Result<String> {
    let mut found: HashMap<&[u8], (usize, usize)> = HashMap::new();
    for (number, message) in messages.iter().enumerate() {
        let body = memchr::memmem::find(message, b"\r\n\r\n").map_or(0, |at| at);
        for word in message[body..].split(|octet| !octet.is_ascii_alphabetic()) {
            if (8..=12).contains(&word.len()) && word.iter().all(u8::is_ascii_lowercase) {
                let entry = found.entry(word).or_insert((usize::MAX, 0));
                if entry.0 != number {
                    *entry = (number, entry.1 + 1);
                }
            }
        }
    }
    let rare = found.iter().filter(|(_, (_, count))| *count == 5).map(|(word, _)| *word).min();
    Ok(String::from_utf8(rare.context("the corpus has no rare word")?.to_vec())?)
}

pub(super) fn rows() -> Vec<Row> {
    let disk = Row::new(
        STAGE,
        "disk",
        "octets on disk for each message of the real corpus, by LMTP, indexes in, once they change no more, server \
         stopped; what the empty server took is left out",
        &[less("octets/message", Aim::TimesPeer("cyrus", 2.0))],
        |_, _| Ok(()),
        disk,
    );
    let mut rows = vec![disk.once()];
    for (key, word) in [("TEXT", "absent"), ("TEXT", "rare"), ("BODY", "absent"), ("BODY", "rare")] {
        rows.push(query(
            format!("search-{}-{word}", key.to_ascii_lowercase()),
            format!(
                "SEARCH {key} with a{} {word} word, 10,000 messages of real mail, no index",
                if word == "absent" { "n" } else { "" }
            ),
            2.0,
            move || {
                let word = if word == "rare" { mail()?.rare.clone() } else { "xyzzyplughqwv".to_owned() };
                Ok(format!("SEARCH {key} {word}"))
            },
        ));
    }
    let others = [
        ("search-unseen", "SEARCH UNSEEN"),
        ("sort-subject", "SORT (SUBJECT) UTF-8 ALL"),
        ("thread-references", "THREAD REFERENCES UTF-8 ALL"),
    ];
    for (name, command) in others {
        let title = format!("{command}, 10,000 messages of real mail");
        rows.push(query(name.to_owned(), title, 2.0, move || Ok(command.to_owned())));
    }
    rows
}

fn query(name: String, title: String, times: f64, command: impl Fn() -> Result<String> + 'static) -> Row {
    let metrics = [less("ms", Aim::Times(times)), less("server CPU ms", Aim::Times(2.0))];
    Row::new(STAGE, name, title, &metrics, both_halves, move |contender, runtime| {
        let command = command()?;
        runtime.block_on(async {
            let mut client = contender.login(USER).await?;
            client.ok("SELECT INBOX").await?;
            let window = Window::open(contender)?;
            for _ in 0..SEARCHES {
                client.ok(&command).await?;
            }
            let (wall, cpu) = window.close();
            let each = 1e3 / SEARCHES as f64;
            Ok(vec![("ms", wall * each), ("server CPU ms", cpu * each)])
        })
    })
}

fn bring(contender: &Contender, runtime: &Runtime, messages: &Arc<Vec<Vec<u8>>>) -> Result<u64> {
    let lmtp = contender.lmtp();
    let load = load::deliver_all(&lmtp, vec![USER.to_owned()], 8, messages.clone());
    let (done, refused) = runtime.block_on(load)?;
    ensure!(done.count > refused * 50, "{refused} messages were refused");
    Ok(done.count)
}

fn disk(contender: &mut Contender, runtime: &Runtime) -> Result<Values> {
    contender.users(USER, 1)?;
    ensure!(contender.first("once"), "the mail is there already");
    contender.server.stop()?;
    let before = disk_octets(&contender.server.data())?;
    contender.server.launch()?;
    let count = bring(contender, runtime, &mail()?.once)?;
    settle(&contender.server.data())?;
    contender.server.stop()?;
    let octets = disk_octets(&contender.server.data())?.saturating_sub(before);
    contender.server.launch()?;
    Ok(vec![("octets/message", octets as f64 / count as f64)])
}

/// Waits until a server that is left alone has done what it puts off: until its folder has not changed for a while.
fn settle(folder: &Path) -> Result<()> {
    let begun = Instant::now();
    let (mut last, mut since) = (disk_octets(folder)?, begun);
    while since.elapsed() < SETTLED && begun.elapsed() < SETTLED * 10 {
        std::thread::sleep(Duration::from_millis(500));
        // A file may go while they are counted.
        let now = disk_octets(folder).unwrap_or(0);
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    Ok(())
}

fn both_halves(contender: &mut Contender, runtime: &Runtime) -> Result<()> {
    contender.users(USER, 1)?;
    // Without it nothing is begun, so that no later row takes an empty mailbox for a filled one.
    let mail = mail()?;
    if contender.first("once") {
        bring(contender, runtime, &mail.once)?;
    }
    if contender.first("again") {
        bring(contender, runtime, &mail.again)?;
        runtime.block_on(async {
            let mut client = contender.login(USER).await?;
            client.ok("SELECT INBOX").await?;
            client.ok("STORE 1:5000 +FLAGS.SILENT (\\Seen)").await
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_rare_word_is_found() {
        let message = |word: &str| format!("Subject: everywhere\r\n\r\ncommonly {word}\r\n").into_bytes();
        let mut messages = vec![message("sometimes"); 5];
        messages.push(message("notoften"));
        assert_eq!(super::rare_word(&messages).unwrap(), "sometimes");
    }
}
