//! CREATE, DELETE, RENAME, SUBSCRIBE and UNSUBSCRIBE (RFC 9051 §6.3.4 to §6.3.8).

use super::Outcome;
use super::elsewhere::crossing_accounts;
use crate::answer::{Answer, Failure, no_permission, no_such_mailbox};
use crate::names::{Found, Place, nothing_can_be_made};
use crate::session::User;
use crate::wire::Wire;
use rookery_codec::imap::client::{Decoded, Decoder};
use rookery_codec::imap::response::StatusValue;
use rookery_codec::imap::{Code, Command, Condition, Response, StatusItem, Tag, WireName};
use rookery_store::StoreError;
use rookery_types::{AccountName, Address, NodeId, Rights, SpecialUse};

/// Makes a mailbox; those above it need not exist. Says its id (RFC 8474 §4.2). Administrators make accounts by it.
pub(crate) async fn create(
    wire: &mut Wire,
    tag: &Tag,
    user: &mut User,
    name: &WireName,
    special_use: Vec<SpecialUse>,
    at: Option<&str>,
) -> Outcome {
    if special_use.contains(&SpecialUse::All) || special_use.contains(&SpecialUse::Flagged) {
        // Views of other mailboxes, which a mailbox with messages of its own cannot be (RFC 6154 §3).
        return Err(Answer::no(Code::UseAttr, "That special use cannot be given to a mailbox").into());
    }
    if user.administers() {
        let address = user.names.new_address(name)?;
        let is_made = make_account(user, &address, &special_use, at).await?;
        if at.is_some() && !is_made {
            return Err(only_accounts().into());
        }
        if let Some(node) = user.home_of(address.account()).await? {
            let is_top = address == Address::top(address.account().clone());
            return made_elsewhere(wire, tag, user, node, name, special_use.clone(), is_top).await;
        }
    } else if at.is_some() {
        return Err(Answer::no(Code::NoPerm, "Only administrators say where a mailbox is kept").into());
    }
    let Place { account, address } = user.place(name).await?;
    let id = match address == Address::top(address.account().clone()) && user.administers() {
        true => account.tree().get(address.path()).ok_or(StoreError::NoMailbox)?,
        false => account.create(address.path(), special_use).await?,
    };
    Ok(Answer::ok_code(Code::MailboxId(id.objectid().into()), "CREATE completed"))
}

/// CREATE of an account that was placed at another node, or of a shared mailbox in a tree that was.
async fn made_elsewhere(
    wire: &mut Wire,
    tag: &Tag,
    user: &mut User,
    node: NodeId,
    name: &WireName,
    special_use: Vec<SpecialUse>,
    is_top: bool,
) -> Outcome {
    if !is_top {
        let command = Command::Create { mailbox: name.clone(), special_use, at: None };
        return user.forward(wire, tag, node, command).await;
    }
    // It is made; only its mailbox's id is there.
    let command = Command::Status { mailbox: name.clone(), items: vec![StatusItem::MailboxId] };
    let caught = match user.ask(wire, node, command, &[b"* STATUS "]).await {
        Ok((_, caught)) => caught,
        Err(Failure::Refused(_)) => Vec::new(),
        Err(gone) => return Err(gone),
    };
    let id = caught.iter().find_map(|octets| {
        let mut decoder = Decoder::new(octets.len().saturating_add(1));
        decoder.push(octets);
        match decoder.next() {
            Decoded::Response(Response::MailboxStatus { items, .. }) => {
                items.into_iter().find_map(|item| match item {
                    StatusValue::MailboxId(id) => Some(id),
                    _ => None,
                })
            }
            _ => None,
        }
    });
    Ok(match id {
        Some(id) => Answer::ok_code(Code::MailboxId(id), "CREATE completed"),
        None => Answer::ok("CREATE completed"),
    })
}

fn only_accounts() -> Answer {
    Answer::no(Code::Cannot, "A mailbox is kept where its account is; only new accounts are given a place")
}

/// Makes the account that a mailbox to be made is, or the shared tree that it stands in: whether that was needed.
async fn make_account(
    user: &User,
    address: &Address,
    special_use: &[SpecialUse],
    at: Option<&str>,
) -> Result<bool, Failure> {
    let name = address.account();
    if !user.reaches(name.domain()) {
        return Err(nothing_can_be_made().into());
    }
    let is_top = *address == Address::top(name.clone());
    match user.account_of(name).await? {
        Some(_) if is_top => return Err(StoreError::AlreadyExists.into()),
        Some(_) => return Ok(false),
        None if is_top && !special_use.is_empty() => {
            return Err(Answer::no(Code::UseAttr, "A special use is of one user's mailbox").into());
        }
        None if is_top || name.user().is_none() => {}
        None => return Err(no_such_mailbox().into()),
    }
    user.services.registrar.create_at(name, None, at).await?;
    tracing::info!(administrator = %user.name, account = %name, "account made");
    Ok(true)
}

/// Deletes a mailbox; those below it stay. Administrators delete an account with its whole tree by it.
pub(crate) async fn delete(user: &User, name: &WireName) -> Outcome {
    let Found { account, id, address, rights, .. } = user.find(name).await?;
    let is_top = address == Address::top(address.account().clone());
    if is_top && address.account().user().is_some() && !user.administers() {
        return Err(Answer::no(Code::Cannot, "INBOX cannot be deleted").into());
    }
    if !rights.contains(Rights::DELETE_MAILBOX) {
        return Err(no_permission().into());
    }
    if !is_top {
        account.delete(id).await?;
        return Ok(Answer::ok("DELETE completed"));
    }
    if address.account().user().is_none() && account.tree().has_children(address.path()) {
        return Err(Answer::no(Code::HasChildren, "Delete the mailboxes below it first").into());
    }
    user.services.registrar.delete(address.account()).await?;
    tracing::info!(user = %user.name, account = %address.account(), "account deleted");
    Ok(Answer::ok("DELETE completed"))
}

/// Renames a mailbox and all below it. INBOX itself stays, emptied (RFC 9051 §6.3.6). A name that exists only
/// through what is below it can be renamed as well. Administrators rename accounts by it.
pub(crate) async fn rename(user: &User, from: &WireName, to: &WireName) -> Outcome {
    let (source, name, path) = match user.find(from).await {
        Ok(found) if !found.rights.contains(Rights::DELETE_MAILBOX) => return Err(no_permission().into()),
        Ok(found) => {
            let (name, path) = found.address.into_parts();
            (found.account, name, path)
        }
        Err(Failure::Refused(answer)) if answer.code == Some(Code::NonExistent) => {
            let (name, path) = user.names.address(from)?.into_parts();
            let may = name.user() == Some(&user.name) || user.administers();
            match user.account_of(&name).await? {
                Some(account) if may && account.tree().has_children(&path) => (account, name, path),
                _ => return Err(Failure::Refused(answer)),
            }
        }
        Err(failure) => return Err(failure),
    };
    let is_top = Address::top(name.clone()).path() == &path;
    if is_top && user.administers() {
        return rename_account(user, &name, to).await;
    }
    if let Some(refusal) = user.renames_away(to).await? {
        return Err(refusal.into());
    }
    let target = user.place(to).await?;
    if target.account.id() != source.id() {
        return Err(crossing_accounts().into());
    }
    let to = target.address.path();
    if to.is_below(&path) && !path.is_inbox() {
        return Err(Answer::no(Code::Cannot, "A mailbox cannot be moved below itself").into());
    }
    source.rename(&path, to).await?;
    Ok(Answer::ok("RENAME completed"))
}

async fn rename_account(user: &User, from: &AccountName, to: &WireName) -> Outcome {
    let target = user.names.new_address(to)?;
    if !user.reaches(target.account().domain()) {
        return Err(nothing_can_be_made().into());
    }
    if target != Address::top(target.account().clone()) {
        return Err(Answer::no(Code::Cannot, "An account becomes no mailbox of another").into());
    }
    let (to, _) = target.into_parts();
    user.services.registrar.rename(from, to.clone()).await?;
    tracing::info!(administrator = %user.name, account = %from, %to, "account renamed");
    Ok(Answer::ok("RENAME completed"))
}

/// Subscribes to a name. One that does not exist is taken too (RFC 9051 §6.3.7 allows to check, and forbids to
/// forget): clients subscribe to what they are about to create.
pub(crate) async fn subscribe(wire: &mut Wire, user: &mut User, name: &WireName) -> Outcome {
    let (address, mailbox, exists) = match user.home_of_mailbox(name).await? {
        None => match user.find(name).await {
            Ok(found) => (found.address, Some(found.id), true),
            Err(Failure::Refused(answer)) if answer.code == Some(Code::NonExistent) => {
                (user.names.new_address(name)?, None, false)
            }
            Err(failure) => return Err(failure),
        },
        Some(node) => {
            // The subscription is the user's own, and only they ask whether there is such a mailbox.
            let command = Command::MyRights { mailbox: name.clone() };
            let (answer, _) = user.ask(wire, node, command, &[b"* MYRIGHTS "]).await?;
            let exists = answer.code != Some(Code::NonExistent);
            if exists && answer.condition != Condition::Ok {
                return Ok(answer);
            }
            (user.names.address(name).or_else(|_| user.names.new_address(name))?, None, exists)
        }
    };
    let own = user.own()?;
    if !exists && own.tree().subscriptions().len() >= DEAD_SUBSCRIPTIONS_MAX {
        return Err(Answer::no(Code::Limit, "There are too many subscriptions").into());
    }
    own.subscribe(&address.to_string(), mailbox).await?;
    Ok(Answer::ok("SUBSCRIBE completed"))
}

/// Subscriptions beyond which names without a mailbox are refused.
const DEAD_SUBSCRIPTIONS_MAX: usize = 100_000;

/// Takes a subscription back, whether or not there is a mailbox.
pub(crate) async fn unsubscribe(user: &User, name: &WireName) -> Outcome {
    let address = user.names.address(name)?;
    user.own()?.unsubscribe(&address.to_string()).await?;
    Ok(Answer::ok("UNSUBSCRIBE completed"))
}
