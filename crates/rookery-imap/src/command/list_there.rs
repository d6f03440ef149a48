//! LIST of mailboxes at other homes: what only those know is asked of guests there.
//!
//! Invariant: an account is listed whole or the command fails; but what LIST returns besides (STATUS, METADATA) is left
//! out of a home that is away (RFC 5819 §2).

use super::list::{self, Gathered, Known, Listed};
use crate::answer::{Answer, Failure};
use crate::names::{Opened, directory_failed};
use crate::session::User;
use crate::wire::Wire;
use rookery_codec::imap::client::{Decoded, Decoder};
use rookery_codec::imap::command::{List, ListReturn, ListSelect, MetadataDepth};
use rookery_codec::imap::response::ListAttribute;
use rookery_codec::imap::{Code, Command, Condition, Response, WireName};
use rookery_directory::{AccountState, DirectoryError};
use rookery_types::{AccountName, Address, NodeId, Rights, SpecialUse};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// How long it is waited for an account that moves while it is listed, and how often it is looked for.
const MOVES_WITHIN: Duration = Duration::from_secs(10);
const PAUSE_FIRST: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// Adds all mailboxes of an account, wherever it is at home, to what is listed, for an administrator; false: there are
/// none to be listed here.
pub(super) async fn add_account(
    wire: &mut Wire,
    user: &mut User,
    name: &AccountName,
    my_rights: bool,
    names: &mut Gathered,
) -> Result<bool, Failure> {
    let (end, mut pause) = (Instant::now() + MOVES_WITHIN, PAUSE_FIRST);
    let mut refused = false;
    loop {
        let opened = match user.own.clone().filter(|_| name.user() == Some(&user.name)) {
            Some(own) => Opened::Here(own),
            None => user.opened(name).await?,
        };
        let node = match opened {
            Opened::Here(account) => {
                list::add_tree(user, &account, name, None, names);
                return Ok(true);
            }
            Opened::Nowhere => return Ok(false),
            // A guest lists what is here.
            Opened::Elsewhere(_) if user.is_guest => return Ok(false),
            Opened::Elsewhere(node) => node,
        };
        if add_tree(wire, user, node, name, my_rights, names).await? {
            return Ok(true);
        }
        // Every account has its topmost mailbox. It was deleted, or has moved; or the node does not take the user for an
        // administrator.
        match whither(user, name).await? {
            Whither::Nowhere => return Ok(false),
            // It may have been elsewhere meanwhile, once.
            Whither::At(other) if other == node && std::mem::replace(&mut refused, true) => {
                return Err(not_listed(user, node));
            }
            Whither::At(_) | Whither::OnItsWay if Instant::now() > end => return Err(not_listed(user, node)),
            Whither::At(_) | Whither::OnItsWay => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn not_listed(user: &User, node: NodeId) -> Failure {
    tracing::info!(user = %user.name, %node, "a node lists nothing for an administrator of another");
    Answer::no(Code::Unavailable, "A server does not list its mailboxes for you").into()
}

/// Where the directory says that an account is, up to date.
enum Whither {
    At(NodeId),
    /// It moves, or is there already, and the directory is about to know.
    OnItsWay,
    Nowhere,
}

async fn whither(user: &User, name: &AccountName) -> Result<Whither, Failure> {
    let directory = &user.services.directory;
    directory.barrier().await.map_err(directory_failed)?;
    match directory.look_up(name).await {
        Ok(entry) if !matches!(entry.state, AccountState::Active | AccountState::Suspended) => {
            Ok(Whither::Nowhere)
        }
        Ok(entry) if entry.moving.is_some() => Ok(Whither::OnItsWay),
        Ok(entry) => Ok(Whither::At(entry.home.node)),
        Err(DirectoryError::NotFound(_)) => Ok(Whither::Nowhere),
        Err(error) => Err(directory_failed(error)),
    }
}

/// Adds what a guest lists of an account; false: that is nothing.
async fn add_tree(
    wire: &mut Wire,
    user: &mut User,
    node: NodeId,
    name: &AccountName,
    my_rights: bool,
    names: &mut Gathered,
) -> Result<bool, Failure> {
    let top = user.names.show(&Address::top(name.clone()));
    let below = match top.rsplit_once('@') {
        Some((top, domain)) => format!("{top}/*@{domain}"),
        None => format!("{top}/*"),
    };
    let command = Command::List(List {
        select: ListSelect::default(),
        reference: WireName::from_static(""),
        patterns: vec![user.names.wire(&top), user.names.wire(&below)],
        returns: ListReturn { my_rights, ..ListReturn::default() },
        extended: true,
    });
    let (answer, caught) = user.ask(wire, node, command, &[b"* LIST ", b"* MYRIGHTS "]).await?;
    if answer.condition != Condition::Ok {
        return Err(answer.into());
    }
    let mut found = false;
    for octets in caught {
        let mut decoder = Decoder::new(octets.len().saturating_add(1));
        decoder.push(&octets);
        match decoder.next() {
            Decoded::Response(Response::List(entry)) => {
                let exists = !entry.attributes.contains(&ListAttribute::NonExistent);
                if let Some(name) = of_account(user, name, &entry.mailbox).filter(|_| exists) {
                    let uses = entry.attributes.iter().filter_map(|attribute| match attribute {
                        ListAttribute::SpecialUse(special_use) => Some(*special_use),
                        _ => None,
                    });
                    let special_use: Vec<SpecialUse> = uses.collect();
                    let mailbox = Some(Known::Elsewhere { node, rights: Rights::ALL, special_use });
                    names.insert(name, Listed { mailbox, in_tree: true, ..Listed::default() });
                    found = true;
                }
            }
            Decoded::Response(Response::MyRights { mailbox, rights }) => {
                let rights = std::str::from_utf8(&rights).ok().and_then(|text| Rights::parse(text).ok());
                if let (Some(name), Some(known)) = (of_account(user, name, &mailbox), rights)
                    && let Some(Listed { mailbox: Some(Known::Elsewhere { rights, .. }), .. }) =
                        names.get_mut(&name)
                {
                    *rights = known;
                }
            }
            _ => {}
        }
    }
    Ok(found)
}

/// The name as patterns see it, if it is of that account: patterns find those of others who are called alike.
fn of_account(user: &User, account: &AccountName, mailbox: &WireName) -> Option<String> {
    let text = user.names.decoded(mailbox)?;
    let address = user.names.address_of_text(&text).ok()?;
    (address.account() == account).then_some(text)
}

/// Answers LIST with STATUS and METADATA of a mailbox. `away`: nodes that did not answer.
pub(super) async fn returned(
    wire: &mut Wire,
    user: &mut User,
    name: &str,
    (node, rights): (NodeId, Rights),
    returns: &ListReturn,
    away: &mut BTreeSet<NodeId>,
) -> Result<(), Failure> {
    let mailbox = user.names.wire(name);
    let mut commands = Vec::new();
    if !returns.status.is_empty() && rights.contains(Rights::READ) {
        commands.push(Command::Status { mailbox: mailbox.clone(), items: returns.status.clone() });
    }
    if !returns.metadata.is_empty() {
        let (max_size, depth) = (None, MetadataDepth::Zero);
        commands.push(Command::GetMetadata { mailbox, max_size, depth, entries: returns.metadata.clone() });
    }
    for command in commands {
        if away.contains(&node) {
            return Ok(());
        }
        match user.ask(wire, node, command, &[]).await {
            // It may have been deleted, or its rights taken away.
            Ok(_) => {}
            Err(Failure::Refused(answer)) if answer.condition != Condition::Bye => drop(away.insert(node)),
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}
