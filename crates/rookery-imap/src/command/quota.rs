//! GETQUOTA, GETQUOTAROOT and SETQUOTA (RFC 9208), and the warning that a quota is nearly used up.
//!
//! A quota root is called as administrators call the mailbox it begins at: `user/joe`, `user/joe/Archive`, `team`.
//!
//! Invariants:
//! - Whoever may read none of the mailboxes that a root governs is answered as if there were no such root.
//! - Only administrators change quotas.
//! - STORAGE is told in units of 1024 octets, rounded up, limits too: what is used never looks like more than is
//!   allowed when it is not.

use super::Outcome;
use crate::answer::{Answer, Failure, no_permission};
use crate::session::User;
use crate::wire::Wire;
use rookery_codec::imap::response::{Condition, Status};
use rookery_codec::imap::{Code, Response, WireName};
use rookery_store::{Account, Held, Limits, Quota};
use rookery_types::namespace::AdminNames;
use rookery_types::{Address, MailboxPath, Rights};
use std::borrow::Cow;

/// Octets in a unit of STORAGE (RFC 9208 §5.1).
const UNIT_OCTETS: u64 = 1024;
/// The largest limit of STORAGE, in its units; larger ones are rounded to it.
const UNITS_MAX: u64 = (i64::MAX as u64) / UNIT_OCTETS;

/// Tells what a root holds and may hold.
pub(crate) async fn get(wire: &mut Wire, user: &User, root: &WireName) -> Outcome {
    let (account, address) = find(user, root).await?;
    let quota = account.quota_at(address.path()).filter(|quota| may_see(user, &account, quota));
    put(wire, root.clone(), &quota.ok_or_else(no_such_root)?);
    Ok(Answer::ok("GETQUOTA completed"))
}

/// Tells the root of a mailbox, which need not exist if the user could make it.
pub(crate) async fn get_root(wire: &mut Wire, user: &User, name: &WireName) -> Outcome {
    let (account, address) = match user.find(name).await {
        Ok(found) if found.rights.contains(Rights::READ) || user.administers() => {
            (found.account, found.address)
        }
        Ok(_) => return Err(no_permission().into()),
        Err(Failure::Refused(answer)) if answer.code == Some(Code::NonExistent) => {
            let place = user.place(name).await.map_err(|_| Failure::Refused(answer))?;
            (place.account, place.address)
        }
        Err(failure) => return Err(failure),
    };
    let quota = account.quota_of(address.path());
    let root = match &quota {
        Some(quota) => Some(root_name(user, &address, &quota.path)?),
        None => None,
    };
    wire.put(&Response::QuotaRoot { mailbox: name.clone(), roots: root.iter().cloned().collect() });
    if let Some((root, quota)) = root.zip(quota) {
        put(wire, root, &quota);
    }
    Ok(Answer::ok("GETQUOTAROOT completed"))
}

/// Sets a root's limits; those that are not named are none, and without any it is a root no more.
pub(crate) async fn set(
    wire: &mut Wire,
    user: &User,
    root: &WireName,
    limits: &[(Box<str>, u64)],
) -> Outcome {
    if !user.administers() {
        return Err(no_permission().into());
    }
    let mut wanted = Limits::default();
    for (resource, limit) in limits {
        let place = match &**resource {
            "STORAGE" => {
                wanted.octets = Some((*limit).min(UNITS_MAX) * UNIT_OCTETS);
                continue;
            }
            "MESSAGE" => &mut wanted.messages,
            "MAILBOX" => &mut wanted.mailboxes,
            _ => return Err(Answer::no(Code::Cannot, "That resource cannot be limited").into()),
        };
        *place = Some(*limit);
    }
    let (account, address) = find(user, root).await?;
    account.set_quota(address.path(), wanted).await?;
    tracing::info!(by = %user.name, root = %address, ?wanted, "quota set");
    match account.quota_at(address.path()) {
        Some(quota) => put(wire, root.clone(), &quota),
        None => wire.put(&Response::Quota { root: root.clone(), resources: Vec::new() }),
    }
    Ok(Answer::ok("SETQUOTA completed"))
}

/// Warns when a mailbox's quota is nearly used up (RFC 9208 §4.3.1: soft quota). Only where a mailbox is selected
/// or messages are being added.
pub(crate) fn warn(wire: &mut Wire, user: &User, account: &Account, path: &MailboxPath) {
    let percent = u64::from(user.services.config.quota_warning_percent);
    if percent == 0 {
        return;
    }
    let Some((held, limits)) = account.quota_standing(path) else { return };
    let nearly = |used: u64, limit: Option<u64>| {
        limit.is_some_and(|limit| used > 0 && used.saturating_mul(100) >= limit.saturating_mul(percent))
    };
    if nearly(held.octets, limits.octets) || nearly(held.messages, limits.messages) {
        wire.put(&Response::Status(Status {
            tag: None,
            condition: Condition::No,
            code: Some(Code::OverQuota),
            text: "The quota is nearly used up".into(),
        }));
    }
}

/// Refuses a message that would be too much, before it comes.
pub(crate) fn allows(account: &Account, path: &MailboxPath, more: Held) -> Result<(), Answer> {
    match account.quota_standing(path).is_none_or(|(held, limits)| limits.allow(held.plus(more))) {
        true => Ok(()),
        false => Err(Answer::no(Code::OverQuota, "The quota does not allow it")),
    }
}

fn no_such_root() -> Answer {
    Answer::no(Code::NonExistent, "No such quota root")
}

/// The place that a root's name means.
async fn find(user: &User, root: &WireName) -> Result<(Account, Address), Failure> {
    let names = admin_names(user)?;
    let text = std::str::from_utf8(root.as_bytes()).map_err(|_| no_such_root())?;
    let address = names.parse(text).map_err(|_| no_such_root())?;
    let account = user.account_of(address.account()).await?.ok_or_else(no_such_root)?;
    Ok((account, address))
}

fn root_name(user: &User, of: &Address, path: &MailboxPath) -> Result<WireName, Failure> {
    let address = Address::new(of.account().clone(), path.clone())?;
    Ok(WireName::from(admin_names(user)?.show(&address)))
}

fn admin_names(user: &User) -> Result<AdminNames, Failure> {
    Ok(AdminNames::new(user.name.domain())?)
}

/// Whether the user may know what the root holds: the sum says something about every mailbox in it.
fn may_see(user: &User, account: &Account, quota: &Quota) -> bool {
    user.administers()
        || user.asker(account).owner
        || account
            .governed_by(&quota.path)
            .iter()
            .any(|state| user.rights(account, state).contains(Rights::LOOKUP.union(Rights::READ)))
}

fn put(wire: &mut Wire, root: WireName, quota: &Quota) {
    let Quota { held, mailboxes, limits, .. } = quota;
    let units = |octets: u64| octets.div_ceil(UNIT_OCTETS);
    let all = [
        ("STORAGE", units(held.octets), limits.octets.map(units)),
        ("MESSAGE", held.messages, limits.messages),
        ("MAILBOX", *mailboxes, limits.mailboxes),
    ];
    let resources =
        all.into_iter().filter_map(|(name, used, limit)| Some((Cow::Borrowed(name), used, limit?)));
    wire.put(&Response::Quota { root, resources: resources.collect() });
}
