//! Verifies what is stored: the directory's records, and every message of every account against its record.
//! Reads only, through what sessions use; record by record a store is checked when no server uses it.

use rookery_admin::socket::{Failed, Replies};
use rookery_directory::AccountState;
use rookery_store::{Account, Mailbox, Messages, StoreError};
use rookery_types::{AccountName, SystemFlags, Uid};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::node::Node;

/// Faults that are told one by one; the rest is counted.
const FAULTS_MAX: u64 = 1000;
/// Octets of a message that are read at once.
const PIECE_OCTETS: usize = 1 << 20;

/// What was looked at.
#[derive(Default)]
struct Tally {
    accounts: u64,
    mailboxes: u64,
    messages: u64,
    octets: u64,
    faults: u64,
}

impl Tally {
    fn end(&self) -> Value {
        json!({
            "accounts": self.accounts,
            "mailboxes": self.mailboxes,
            "messages": self.messages,
            "octets": self.octets,
            "faults": self.faults,
        })
    }
}

#[derive(Default, Deserialize)]
pub(super) struct Args {
    /// Only this user's account.
    #[serde(default)]
    user: Option<String>,
}

/// Verifies everything that is at home here, or one user's account. Faults are rows; the end counts.
pub(super) async fn check(node: &Node, args: Option<Args>, report: &Replies) -> Result<Value, Failed> {
    let mut tally = Tally::default();
    let gone = |()| Failed::new("interrupted", "the check was interrupted");
    if let Some(user) = args.and_then(|args| args.user) {
        let user = node.user(&user)?;
        let account = node.account(&user).await?;
        tally.accounts += 1;
        check_account(&account, &node.shown(&user), &mut tally, report).await.map_err(gone)?;
        return Ok(tally.end());
    }
    let mut after = None;
    loop {
        let (entries, next) = node.users(after).await?;
        for entry in entries {
            let AccountName::User(user) = &entry.name else { continue };
            if matches!(
                entry.state,
                AccountState::Reserved { .. } | AccountState::Deleted | AccountState::LoginOnly
            ) {
                continue;
            }
            // What is at home elsewhere is checked there.
            if entry.home.node != node.store.node() {
                continue;
            }
            tally.accounts += 1;
            let name = node.shown(user);
            match node.store.account(entry.id).await {
                Ok(account) => check_account(&account, &name, &mut tally, report).await.map_err(gone)?,
                Err(error) => fault(&mut tally, report, format!("{name}: {error}")).await.map_err(gone)?,
            }
        }
        match next {
            Some(name) => after = Some(name),
            None => break,
        }
    }
    Ok(tally.end())
}

async fn fault(tally: &mut Tally, report: &Replies, text: String) -> Result<(), ()> {
    tally.faults += 1;
    tracing::error!(fault = text, "the check found damage");
    match tally.faults <= FAULTS_MAX {
        true => report.row(json!({"fault": text})).await.map_err(|_| ()),
        false => Ok(()),
    }
}

async fn check_account(account: &Account, name: &str, tally: &mut Tally, report: &Replies) -> Result<(), ()> {
    for (path, state) in account.tree().iter() {
        tally.mailboxes += 1;
        let place = format!("{name} {path}");
        let faults = match account.open(state.id).await {
            // Deleted since the list was taken.
            Err(StoreError::NoMailbox) => continue,
            Err(error) => vec![error.to_string()],
            Ok(mailbox) => {
                let checked = tokio::task::spawn_blocking(move || check_mailbox(&mailbox)).await;
                match checked {
                    Ok((messages, octets, faults)) => {
                        tally.messages += messages;
                        tally.octets += octets;
                        faults
                    }
                    Err(error) => vec![error.to_string()],
                }
            }
        };
        for text in faults {
            fault(tally, report, format!("{place}: {text}")).await?;
        }
        report.progress(tally.messages, None, &place).await.map_err(|_| ())?;
    }
    Ok(())
}

/// Messages and octets verified, and what is wrong.
fn check_mailbox(mailbox: &Mailbox) -> (u64, u64, Vec<String>) {
    let state = mailbox.now();
    let account = mailbox.account();
    let (mut count, mut octets, mut unseen, mut deleted) = (0_u64, 0_u64, 0_u64, 0_u64);
    let mut faults = Vec::new();
    let mut last = 0;
    for found in state.messages.iter().flat_map(|messages| messages.iter()) {
        let message = match found {
            Ok((_, message)) => message,
            Err(error) => {
                faults.push(format!("messages cannot be read: {error}"));
                break;
            }
        };
        let uid = message.uid.get();
        count += 1;
        octets += u64::from(message.size);
        unseen += u64::from(!message.flags.contains(SystemFlags::SEEN));
        deleted += u64::from(message.flags.contains(SystemFlags::DELETED));
        if uid <= last || uid >= state.summary.uid_next {
            faults
                .push(format!("UID {uid} stands after {last} and before UIDNEXT {}", state.summary.uid_next));
        }
        last = uid;
        if message.modseq > state.summary.highest_modseq {
            faults.push(format!("UID {uid} has a modseq above HIGHESTMODSEQ"));
        }
        let verified = match usize::try_from(message.size).is_ok_and(|size| size <= PIECE_OCTETS) {
            // The whole message at once is verified by its hash.
            true => account.read(message.content).map(|body| body.len() as u64),
            false => read_in_pieces(account, message.content),
        };
        match verified {
            Ok(read) if read == u64::from(message.size) => {}
            Ok(read) => faults.push(format!("UID {uid} has {read} octets and not {}", message.size)),
            // Expunged for good while we looked.
            Err(StoreError::NoContent)
                if mailbox.now().messages.as_ref().is_some_and(|now| is_gone(now, message.uid)) => {}
            Err(error) => faults.push(format!("UID {uid}: {error}")),
        }
        if let Err(error) = account.facts(message.content)
            && !matches!(error, StoreError::NoContent)
        {
            faults.push(format!("UID {uid}: envelope and structure: {error}"));
        }
    }
    let summary = &state.summary;
    let sums = [
        ("messages", u64::from(summary.exists), count),
        ("unseen", u64::from(summary.unseen), unseen),
        ("deleted", u64::from(summary.deleted), deleted),
        ("octets", summary.octets, octets),
    ];
    for (what, said, found) in sums {
        if said != found {
            faults.push(format!("the summary counts {said} {what}, and there are {found}"));
        }
    }
    (count, octets, faults)
}

fn is_gone(now: &Messages, uid: Uid) -> bool {
    matches!(now.message(uid), Ok(None))
}

fn read_in_pieces(account: &Account, content: rookery_types::ContentId) -> Result<u64, StoreError> {
    let reader = account.reader(content)?;
    let mut read = 0;
    loop {
        let piece = reader.read(read, PIECE_OCTETS)?;
        if piece.is_empty() {
            return Ok(read);
        }
        read += piece.len() as u64;
    }
}
