//! CREATE, DELETE, RENAME, SUBSCRIBE and UNSUBSCRIBE (RFC 9051 §6.3.4 to §6.3.8).

use super::Outcome;
use crate::answer::{Answer, Failure, no_permission};
use crate::names::{Found, Place};
use crate::session::User;
use rookery_codec::imap::{Code, WireName};
use rookery_types::{Rights, SpecialUse};

/// Makes a mailbox; those above it need not exist. Says its id (RFC 8474 §4.2).
pub(crate) async fn create(user: &User, name: &WireName, special_use: Vec<SpecialUse>) -> Outcome {
    let Place { account, address } = user.place(name).await?;
    if special_use.contains(&SpecialUse::All) || special_use.contains(&SpecialUse::Flagged) {
        // Views of other mailboxes, which a mailbox with messages of its own cannot be (RFC 6154 §3).
        return Err(Answer::no(Code::UseAttr, "That special use cannot be given to a mailbox").into());
    }
    let id = account.create(address.path(), special_use).await?;
    Ok(Answer::ok_code(Code::MailboxId(id.objectid().into()), "CREATE completed"))
}

/// Deletes a mailbox; those below it stay.
pub(crate) async fn delete(user: &User, name: &WireName) -> Outcome {
    let Found { account, id, address, rights, .. } = user.find(name).await?;
    if address.path().is_inbox() {
        return Err(Answer::no(Code::Cannot, "INBOX cannot be deleted").into());
    }
    if !rights.contains(Rights::DELETE_MAILBOX) {
        return Err(no_permission().into());
    }
    account.delete(id).await?;
    Ok(Answer::ok("DELETE completed"))
}

/// Renames a mailbox and all below it. INBOX itself stays, emptied (RFC 9051 §6.3.6). A name that exists only
/// through what is below it can be renamed as well.
pub(crate) async fn rename(user: &User, from: &WireName, to: &WireName) -> Outcome {
    let (source, path) = match user.find(from).await {
        Ok(found) if !found.rights.contains(Rights::DELETE_MAILBOX) => return Err(no_permission().into()),
        Ok(found) => (found.account, found.address.path().clone()),
        Err(Failure::Refused(answer)) if answer.code == Some(Code::NonExistent) => {
            let address = user.names.address(from)?;
            let ours = address.account().user() == Some(&user.name);
            if !ours || !user.account.tree().has_children(address.path()) {
                return Err(Failure::Refused(answer));
            }
            (user.account.clone(), address.path().clone())
        }
        Err(failure) => return Err(failure),
    };
    let target = user.place(to).await?;
    if target.account.id() != source.id() {
        return Err(Answer::no(Code::Cannot, "A mailbox cannot be renamed into another account").into());
    }
    let to = target.address.path();
    if to.is_below(&path) && !path.is_inbox() {
        return Err(Answer::no(Code::Cannot, "A mailbox cannot be moved below itself").into());
    }
    source.rename(&path, to).await?;
    Ok(Answer::ok("RENAME completed"))
}

/// Subscribes to a name. One that does not exist is taken too (RFC 9051 §6.3.7 allows to check, and forbids to
/// forget): clients subscribe to what they are about to create.
pub(crate) async fn subscribe(user: &User, name: &WireName) -> Outcome {
    let (address, mailbox) = match user.find(name).await {
        Ok(found) => (found.address, Some(found.id)),
        Err(Failure::Refused(answer)) if answer.code == Some(Code::NonExistent) => {
            (user.names.new_address(name)?, None)
        }
        Err(failure) => return Err(failure),
    };
    if mailbox.is_none() && user.account.tree().subscriptions().len() >= DEAD_SUBSCRIPTIONS_MAX {
        return Err(Answer::no(Code::Limit, "There are too many subscriptions").into());
    }
    user.account.subscribe(&address.to_string(), mailbox).await?;
    Ok(Answer::ok("SUBSCRIBE completed"))
}

/// Subscriptions beyond which names without a mailbox are refused.
const DEAD_SUBSCRIPTIONS_MAX: usize = 100_000;

/// Takes a subscription back, whether or not there is a mailbox.
pub(crate) async fn unsubscribe(user: &User, name: &WireName) -> Outcome {
    let address = user.names.address(name)?;
    user.account.unsubscribe(&address.to_string()).await?;
    Ok(Answer::ok("UNSUBSCRIBE completed"))
}
