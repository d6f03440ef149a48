//! After the crash: every message at a permitted point of its story, every UID what it was, nothing foreign.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use anyhow::{Context, Result, bail, ensure};

use super::load::Worker;
use super::{ACCOUNTS, FLAGS, MAILBOXES, State, Story};
use crate::imap::Imap;
use crate::server::Server;

/// UIDVALIDITY of each mailbox and, per mailbox, the highest UID anyone was told and which message each UID names.
#[derive(Debug, Default, Clone)]
pub struct Uids {
    validity: HashMap<(&'static str, &'static str), u32>,
    seen: HashMap<(&'static str, &'static str), BTreeMap<u32, String>>,
}

impl Uids {
    /// Notes the UIDVALIDITY of all mailboxes, before any load.
    pub fn note(server: &Server) -> Result<Uids> {
        let mut uids = Uids::default();
        for account in ACCOUNTS {
            let mut imap = server.login(account)?;
            for mailbox in MAILBOXES {
                let validity =
                    imap.ok(&format!("SELECT {mailbox}"))?.code("UIDVALIDITY").context("no UIDVALIDITY")?;
                uids.validity.insert((account, mailbox), validity.parse()?);
            }
        }
        Ok(uids)
    }

    fn bind(&mut self, account: &'static str, mailbox: &'static str, uid: u32, token: &str) -> Result<()> {
        let known = self.seen.entry((account, mailbox)).or_default();
        let before = known.insert(uid, token.to_owned());
        ensure!(
            before.as_deref().is_none_or(|before| before == token),
            "{account}/{mailbox}: UID {uid} was {before:?} and is now {token}"
        );
        Ok(())
    }
}

/// Where a message was found: by mailbox its UID and flags.
type Found = BTreeMap<&'static str, (u32, BTreeSet<&'static str>)>;

/// Compares the server with the stories as they could stand at `cut_ns`; then takes what was found as their new base.
/// Gives the number of messages there are.
pub fn verify(server: &Server, workers: &mut [Worker], uids: &mut Uids, cut_ns: u64) -> Result<usize> {
    let mut messages = 0;
    // What clients were told before the cut holds.
    for story in workers.iter().flat_map(|worker| &worker.stories) {
        for (mailbox, uid) in told(story, cut_ns) {
            uids.bind(story.account, mailbox, uid, &story.token)?;
        }
    }
    for account in ACCOUNTS {
        let mut imap = server.login(account)?;
        let mut found: HashMap<String, Found> = HashMap::new();
        for mailbox in MAILBOXES {
            messages += read(&mut imap, account, mailbox, uids, &mut found)
                .with_context(|| format!("{account}/{mailbox}"))?;
        }
        let stories = workers.iter_mut().flat_map(|worker| &mut worker.stories);
        for story in stories.filter(|story| story.account == account) {
            let found = found.remove(&story.token).unwrap_or_default();
            judge(story, &found, cut_ns).with_context(|| format!("{account}: {}", story.token))?;
            compare(&mut imap, story, &found).with_context(|| format!("{account}: {}", story.token))?;
            settle(story, found);
        }
        ensure!(
            found.is_empty(),
            "{account} has messages nobody sent: {:?}",
            found.keys().collect::<Vec<_>>()
        );
    }
    // Gone for good and told so: nothing more to ask about them but that they stay away, which `read` does.
    for worker in workers {
        worker.stories.retain(|story| !story.base.is_empty());
    }
    Ok(messages)
}

fn told(story: &Story, cut_ns: u64) -> Vec<(&'static str, u32)> {
    let before = story.base_uids.iter().map(|(mailbox, uid)| (*mailbox, *uid));
    let since = story.steps.iter().filter(|step| step.acked_by(cut_ns)).filter_map(|step| step.uid);
    before.chain(since).collect()
}

/// Reads a mailbox's UIDs, flags and tokens.
fn read(
    imap: &mut Imap,
    account: &'static str,
    mailbox: &'static str,
    uids: &mut Uids,
    found: &mut HashMap<String, Found>,
) -> Result<usize> {
    let selected = imap.ok(&format!("SELECT {mailbox}"))?;
    let validity: u32 = selected.code("UIDVALIDITY").context("no UIDVALIDITY")?.parse()?;
    let known = uids.validity.get(&(account, mailbox));
    ensure!(known == Some(&validity), "UIDVALIDITY was {known:?} and is {validity}");
    let next: u32 = selected.code("UIDNEXT").context("no UIDNEXT")?.parse()?;
    let reply = imap.ok("UID FETCH 1:* (FLAGS BODY.PEEK[HEADER.FIELDS (X-Token)])")?;
    let fetches = reply.fetches()?;
    let mut last = 0;
    for fetch in &fetches {
        let uid = fetch.uid()?;
        ensure!(uid > last && uid < next, "UID {uid} after {last}, UIDNEXT {next}");
        last = uid;
        let field = fetch.items.iter().find(|(name, _)| name.starts_with("BODY["));
        let octets = field.and_then(|(_, value)| value.octets().ok().flatten()).unwrap_or_default();
        let token = token_of(octets).with_context(|| format!("UID {uid} has no token"))?;
        uids.bind(account, mailbox, uid, &token)?;
        let mut flags = BTreeSet::new();
        for flag in fetch.flags()? {
            if flag.eq_ignore_ascii_case("\\Recent") {
                continue;
            }
            let known =
                FLAGS.into_iter().chain(["\\Deleted"]).find(|known| known.eq_ignore_ascii_case(&flag));
            flags.insert(known.with_context(|| format!("UID {uid} has the flag {flag}, which nobody set"))?);
        }
        let before = found.entry(token.clone()).or_default().insert(mailbox, (uid, flags));
        ensure!(before.is_none(), "{token} is there twice: UIDs {before:?} and {uid}");
    }
    let highest = uids.seen.get(&(account, mailbox)).and_then(|seen| seen.keys().next_back()).copied();
    ensure!(highest < Some(next), "UIDNEXT is {next}, but UID {highest:?} was told before");
    Ok(fetches.len())
}

fn judge(story: &Story, found: &Found, cut_ns: u64) -> Result<()> {
    let state: State = found.iter().map(|(mailbox, (_, flags))| (*mailbox, flags.clone())).collect();
    let possible = story.possible(cut_ns);
    if possible.contains(&state) {
        return Ok(());
    }
    let steps: String = story.steps.iter().map(|step| format!("  {step:?}\n")).collect();
    bail!("found {state:?}\npossible at {cut_ns}: {possible:?}\nbase: {:?}\nsteps:\n{steps}", story.base)
}

/// Compares a message's octets, once in its life.
fn compare(imap: &mut Imap, story: &mut Story, found: &Found) -> Result<()> {
    let Some((mailbox, (uid, _))) = found.iter().next() else { return Ok(()) };
    if story.compared {
        return Ok(());
    }
    imap.ok(&format!("EXAMINE {mailbox}"))?;
    let reply = imap.ok(&format!("UID FETCH {uid} BODY.PEEK[]"))?;
    let fetches = reply.fetches()?;
    let octets = fetches.first().context("nothing was fetched")?.body("BODY[]")?;
    let want = story.message();
    // LMTP puts its trace fields at the top.
    ensure!(octets.ends_with(&want), "its octets changed: {} are {}", octets.len(), want.len());
    let trace = String::from_utf8_lossy(&octets[..octets.len() - want.len()]).into_owned();
    ensure!(
        trace.lines().all(|line| line.starts_with("Return-Path:")
            || line.starts_with("Received:")
            || line.starts_with("Delivered-To:")
            || line.starts_with([' ', '\t'])),
        "fields nobody wrote: {trace}"
    );
    story.compared = true;
    Ok(())
}

fn settle(story: &mut Story, found: Found) {
    story.steps.clear();
    story.base_uids = found.iter().map(|(mailbox, (uid, _))| (*mailbox, *uid)).collect();
    story.base = found.into_iter().map(|(mailbox, (_, flags))| (mailbox, flags)).collect();
}

/// The token in a header field `X-Token`.
pub fn token_of(header: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(header);
    let value = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("X-Token").then_some(value)
    })?;
    Some(value.trim().to_owned())
}
