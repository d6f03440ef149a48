//! GETACL, SETACL, DELETEACL, LISTRIGHTS and MYRIGHTS (RFC 4314 §3).
//!
//! Invariants:
//! - Without `l` a mailbox is answered like one that does not exist; [`User::find`] sees to that.
//! - An ACL is read and changed within one transaction: two administrators cannot undo each other's changes.
//! - What the owner of a tree has whatever the ACL says is no entry, cannot be taken away, and is told as
//!   required by LISTRIGHTS.

use super::Outcome;
use crate::answer::{Answer, Failure, no_permission};
use crate::names::Found;
use crate::session::User;
use crate::wire::Wire;
use bytes::Bytes;
use rookery_codec::imap::command::Change;
use rookery_codec::imap::{Code, Response, WireName};
use rookery_route::Authority;
use rookery_types::namespace::{parse_identifier, show_identifier};
use rookery_types::{Acl, Identifier, Rights};

/// Entries of the longest ACL: more should be a group.
const ENTRIES_MAX: usize = 1000;

/// Who may ask for their rights (RFC 4314 §4): MYRIGHTS needs one of these.
const MAY_ASK: [Rights; 6] = [
    Rights::LOOKUP,
    Rights::READ,
    Rights::INSERT,
    Rights::CREATE,
    Rights::DELETE_MAILBOX,
    Rights::ADMINISTER,
];

/// Rights that are given and taken one by one.
const EACH: [Rights; 12] = [
    Rights::LOOKUP,
    Rights::READ,
    Rights::SEEN,
    Rights::WRITE,
    Rights::INSERT,
    Rights::POST,
    Rights::CREATE,
    Rights::DELETE_MAILBOX,
    Rights::DELETE_MESSAGES,
    Rights::EXPUNGE,
    Rights::ADMINISTER,
    Rights::ANNOTATE,
];

/// Tells the ACL. The virtual `c` and `d` stand behind the rights (RFC 4314 §2.1.1).
pub(crate) async fn get(wire: &mut Wire, user: &User, name: &WireName) -> Outcome {
    let found = administered(user, name).await?;
    let entries = found.state.settings.acl.entries().iter().map(|entry| {
        let who = show_identifier(&entry.identifier, entry.negative, user.name.domain());
        (Bytes::from(who), shown(entry.rights))
    });
    wire.put(&Response::Acl { mailbox: name.clone(), entries: entries.collect() });
    Ok(Answer::ok("GETACL completed"))
}

/// Gives an identifier rights, more rights or fewer.
pub(crate) async fn set(
    user: &User,
    name: &WireName,
    identifier: &[u8],
    change: Change,
    rights: Rights,
) -> Outcome {
    let (identifier, negative) = read(user, identifier)?;
    update(user, name, Some(&identifier), |acl| {
        let had = acl.of(&identifier, negative);
        let new = match change {
            Change::Replace => rights,
            Change::Add => had.union(rights),
            Change::Remove => had.without(rights),
        };
        acl.set(identifier.clone(), negative, new);
    })
    .await?;
    Ok(Answer::ok("SETACL completed"))
}

/// Takes an identifier's entry away, if there is one.
pub(crate) async fn delete(user: &User, name: &WireName, identifier: &[u8]) -> Outcome {
    let (identifier, negative) = read(user, identifier)?;
    update(user, name, None, |acl| acl.set(identifier.clone(), negative, Rights::NONE)).await?;
    Ok(Answer::ok("DELETEACL completed"))
}

/// Tells which rights an identifier always has and which can be given to it.
pub(crate) async fn list_rights(wire: &mut Wire, user: &User, name: &WireName, identifier: Bytes) -> Outcome {
    let found = administered(user, name).await?;
    let (who, negative) = read(user, &identifier)?;
    let owner = found.account.owner();
    let required = match who {
        Identifier::User(who) if !negative && owner.as_ref() == Some(&who) => Rights::OWNER_IMPLIED,
        _ => Rights::NONE,
    };
    let optional = EACH.iter().filter(|one| !required.contains(**one)).map(|one| one.to_string().into());
    wire.put(&Response::ListRights {
        mailbox: name.clone(),
        identifier,
        required: required.to_string().into(),
        optional: optional.collect(),
    });
    Ok(Answer::ok("LISTRIGHTS completed"))
}

/// Tells the user's own rights.
pub(crate) async fn my_rights(wire: &mut Wire, user: &User, name: &WireName) -> Outcome {
    let found = user.find(name).await?;
    if !MAY_ASK.iter().any(|one| found.rights.contains(*one)) {
        return Err(no_permission().into());
    }
    wire.put(&Response::MyRights { mailbox: name.clone(), rights: shown(found.rights) });
    Ok(Answer::ok("MYRIGHTS completed"))
}

fn shown(rights: Rights) -> Bytes {
    rights.shown_to_old_clients().into()
}

/// The mailbox, if the user may administer it.
async fn administered(user: &User, name: &WireName) -> Result<Found, Failure> {
    let found = user.find(name).await?;
    match found.rights.contains(Rights::ADMINISTER) {
        true => Ok(found),
        false => Err(no_permission().into()),
    }
}

/// Reads an identifier. A bare user is of the asker's domain, as in mailbox names.
fn read(user: &User, identifier: &[u8]) -> Result<(Identifier, bool), Failure> {
    let text = std::str::from_utf8(identifier).map_err(|_| Answer::bad("The identifier is not UTF-8"))?;
    parse_identifier(text, user.name.domain())
        .map_err(|error| Answer::bad(format!("Bad identifier: {error}")).into())
}

/// `given`: who gets rights. Users reach mailboxes of their own domain only, so those of others get none; but an
/// administrator of the site reaches everything.
async fn update(
    user: &User,
    name: &WireName,
    given: Option<&Identifier>,
    change: impl FnOnce(&mut Acl),
) -> Result<(), Failure> {
    let found = administered(user, name).await?;
    if let Some(Identifier::User(who)) = given
        && who.domain() != found.address.account().domain()
        && user.services.administrators.authority(who) != Authority::Site
    {
        let text = "Rights are given to users of the mailbox's own domain";
        return Err(Answer::no(Code::Cannot, text).into());
    }
    let asker = user.asker(&found.account);
    let changed = found.account.change_acl(found.id, |acl| {
        // Asked again where nothing can come between: the right may have gone since.
        if !acl.rights_of(&asker).contains(Rights::ADMINISTER) {
            return Err(Failure::from(no_permission()));
        }
        change(acl);
        match acl.entries().len() > ENTRIES_MAX {
            true => Err(Answer::no(Code::Limit, "The ACL has as many entries as it may have").into()),
            false => Ok(()),
        }
    });
    changed.await
}
