//! COPY and MOVE (RFC 9051 §6.4.7, §6.4.8), with COPYUID (RFC 4315 §3).

use super::{Outcome, quota, select};
use crate::answer::{Answer, Failure, no_permission, no_such_mailbox};
use crate::names::Found;
use crate::progress::Progress;
use crate::session::{Selected, User};
use crate::tell;
use crate::wire::Wire;
use rookery_codec::imap::{Code, MessageSet, Response, WireName};
use rookery_route::MoveError;
use rookery_store::{Copied, Destination, Refusal, StoreError};
use rookery_types::{OperationId, Rights, UidSet};

/// Copies messages to another mailbox.
pub(crate) async fn copy(
    wire: &mut Wire,
    progress: &mut Progress,
    user: &User,
    selected: &Selected,
    set: &MessageSet,
    uid: bool,
    name: &WireName,
) -> Outcome {
    let uids = selected.resolve_uids(set, uid)?;
    let target = target(user, name).await?;
    if uids.is_empty() {
        return Ok(Answer::ok("No messages to copy"));
    }
    // If a session at another home has it done here.
    let operations: Vec<OperationId> =
        wire.operation.take().map(|operation| operation.id).into_iter().collect();
    let copying = selected.mailbox.copy_as(&operations, &uids, &target.account, target.id);
    let copied = progress.during(wire, copying).await?;
    quota::warn(wire, user, &target.account, target.address.path());
    Ok(match copy_uid(&copied) {
        Some(code) => Answer::ok_code(code, "COPY completed"),
        None => Answer::no(Code::ExpungeIssued, "The messages are gone"),
    })
}

/// Moves messages to another mailbox. COPYUID comes before the EXPUNGEs, untagged (RFC 6851 §4.3).
pub(crate) async fn r#move(
    wire: &mut Wire,
    progress: &mut Progress,
    user: &User,
    selected: &mut Selected,
    set: &MessageSet,
    uid: bool,
    name: &WireName,
) -> Outcome {
    // If a session at another home has it done here.
    let operations: Vec<OperationId> =
        wire.operation.take().map(|operation| operation.id).into_iter().collect();
    let rights = selected.writable(user, &[Rights::DELETE_MESSAGES])?;
    if !rights.contains(Rights::EXPUNGE) {
        return Err(no_permission().into());
    }
    let uids = selected.resolve_uids(set, uid)?;
    if let Some(to) = user.departs_for(name).await? {
        if !operations.is_empty() {
            // That session takes it for a mailbox of this home, and would ask here what came of it.
            return Err(Failure::Moved);
        }
        return depart(wire, progress, user, selected, &uids, &to).await;
    }
    let target = target(user, name).await?;
    if uids.is_empty() {
        return Ok(Answer::ok("No messages to move"));
    }
    let moving = selected.mailbox.move_as(&operations, &uids, &target.account, target.id);
    let moved = progress.during(wire, moving).await?;
    let Some(code) = copy_uid(&moved) else {
        return Ok(Answer::no(Code::ExpungeIssued, "The messages are gone"));
    };
    quota::warn(wire, user, &target.account, target.address.path());
    wire.put(&Response::ok_code(code, "These moved"));
    tell::checkpoint(wire, user, selected, true).await?;
    Ok(moved_all(user, selected))
}

fn moved_all(user: &User, selected: &Selected) -> Answer {
    match user.enabled.qresync {
        true => Answer::ok_code(select::highest_modseq(selected), "MOVE completed"),
        false => Answer::ok("MOVE completed"),
    }
}

/// Moves messages to a mailbox of another home. They go in slices; what has gone is told, also if the rest stays.
async fn depart(
    wire: &mut Wire,
    progress: &mut Progress,
    user: &User,
    selected: &mut Selected,
    uids: &UidSet,
    to: &Destination,
) -> Outcome {
    if uids.is_empty() {
        return Ok(Answer::ok("No messages to move"));
    }
    // The account stays here until all have gone that can: what is left over could not be named as the client did.
    let _guard = selected.mailbox.account().guard().await?;
    let transit = user.services.transit.clone();
    let moving = transit.r#move(wire.trace, &selected.mailbox, uids, to);
    let (moved, result) = progress.during(wire, moving).await;
    let codes: Vec<Code> = moved.iter().filter_map(copy_uid).collect();
    if codes.is_empty() && result.is_ok() {
        return Ok(Answer::no(Code::ExpungeIssued, "The messages are gone"));
    }
    for code in codes {
        wire.put(&Response::ok_code(code, "These moved"));
    }
    tell::checkpoint(wire, user, selected, true).await?;
    match result {
        Ok(()) => Ok(moved_all(user, selected)),
        Err(MoveError::Refused(refusal)) => Err(refused(refusal).into()),
        Err(MoveError::Store(error)) => Err(error.into()),
        Err(MoveError::Pending) => {
            let text =
                "The move is pending: the messages will be there or stay here, and cannot change until then";
            Err(Answer::no(Code::InUse, text).into())
        }
    }
}

/// Why another home does not take messages.
fn refused(refusal: Refusal) -> Answer {
    match refusal {
        Refusal::NoMailbox | Refusal::Gone => no_such_mailbox(),
        Refusal::MayCreate => Answer::no(Code::TryCreate, "No such mailbox; it could be created"),
        Refusal::NoRight => no_permission(),
        Refusal::OverQuota => StoreError::OverQuota.into(),
        Refusal::NoSpace => StoreError::NoSpace.into(),
        Refusal::TooLarge => StoreError::TooLarge(0).into(),
        Refusal::Limit => StoreError::TooMany("").into(),
        Refusal::GivenUp => Answer::no(Code::Unavailable, "The move was given up"),
    }
}

/// The mailbox that takes the messages; `[TRYCREATE]` if it could be made (RFC 9051 §6.4.7).
pub(super) async fn target(user: &User, name: &WireName) -> Result<Found, Failure> {
    let found = match user.find(name).await {
        Err(Failure::Refused(answer)) if answer.code == Some(Code::NonExistent) => {
            return Err(match user.may_create(name).await {
                true => Answer::no(Code::TryCreate, "No such mailbox; it could be created").into(),
                false => Failure::Refused(answer),
            });
        }
        found => found?,
    };
    if !found.rights.contains(Rights::INSERT) {
        return Err(no_permission().into());
    }
    Ok(match found.rights.contains(Rights::SEEN) {
        true => found,
        false => Found { account: found.account.without_keeping_seen(), ..found },
    })
}

pub(super) fn copy_uid(copied: &Copied) -> Option<Code> {
    (!copied.from.is_empty()).then(|| Code::CopyUid {
        uid_validity: copied.uid_validity,
        from: copied.from.iter().copied().collect(),
        to: copied.to.iter().copied().collect(),
    })
}
