//! What came of an APPEND, a REPLACE, a COPY or a MOVE at another home whose answer was lost: the session asks, and the guest
//! there says.
//!
//! The question is an APPEND's beginning, with a note before it that names the operation. The guest answers OK with
//! APPENDUID or COPYUID if it was done; NO with COPYUID if it was done in part. If not, it never will be, and the answer
//! is NO.

use super::Outcome;
use super::append::append_uid;
use super::copy::copy_uid;
use crate::answer::{Answer, Failure, no_such_mailbox};
use crate::guest::{Trouble, answer_of, not_reached, own_tag};
use crate::session::User;
use crate::wire::Wire;
use rookery_codec::imap::client::{AppendEncoder, Literals};
use rookery_codec::imap::command::{AppendLiteral, AppendMessage, AppendSource};
use rookery_codec::imap::passage::Passed;
use rookery_codec::imap::types::LiteralKind;
use rookery_codec::imap::{Code, Condition, WireName};
use rookery_store::Settled;
use rookery_types::{NodeId, OperationId};
use std::time::Duration;
use tokio::time::Instant;

/// How long a home that was lost is asked.
pub(super) const ASKING: Duration = Duration::from_secs(10);
/// From one question to the next.
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// What a session has another home do that must not be done twice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operation {
    pub(crate) id: OperationId,
    /// What came of it is asked for.
    pub(crate) again: bool,
}

impl Operation {
    /// One that has not been asked for before.
    pub(super) fn new() -> Operation {
        Operation { id: rookery_route::new_operation(), again: false }
    }
}

/// What came of an operation in the account of a mailbox that is at home here.
pub(super) async fn settle(user: &User, mailbox: &WireName, id: OperationId) -> Outcome {
    let address = user.names.address(mailbox)?;
    let account = user.account_of(address.account()).await?.ok_or_else(no_such_mailbox)?;
    Ok(match account.settle_operation(id).await? {
        Settled::Appended(appended) => Answer::ok_code(append_uid(appended), "APPEND completed"),
        Settled::Copied(copied) => match copy_uid(&copied) {
            Some(code) => Answer::ok_code(code, "COPY completed"),
            None => Answer::server_fault(),
        },
        Settled::Moved { moved, source, whole } => {
            // They are gone where they were, also if the step between was lost.
            let (is_finished, code) =
                (user.services.store.finish_move(source, &moved).await?, copy_uid(&moved));
            match (code, whole) {
                _ if !is_finished => not_yet(),
                (Some(code), true) => Answer::ok_code(code, "MOVE completed"),
                (Some(code), false) => Answer::no(code, "Some were moved before it was broken off"),
                (None, _) => Answer::server_fault(),
            }
        }
        Settled::Undone => Answer::no(Code::Cannot, "It was lost before it was done"),
        Settled::Open => not_yet(),
    })
}

fn not_yet() -> Answer {
    Answer::no(Code::InUse, "It is not done yet")
}

/// The answer of a guest that was lost before it was heard, as the mailbox's home says it when it is there again. No
/// answer: that stays unknown.
pub(super) async fn lost_answer(
    wire: &Wire,
    user: &User,
    trouble: &Trouble,
    mailbox: &WireName,
    operation: Operation,
) -> Option<Answer> {
    if matches!(trouble, Trouble::Client(_) | Trouble::Moved) {
        return None;
    }
    let asking = async {
        loop {
            let asked = Instant::now();
            if let Some(answer) = ask(wire, user, mailbox, operation.id).await {
                return answer;
            }
            tokio::time::sleep_until(asked + PAUSE).await;
        }
    };
    let answer = Box::pin(tokio::time::timeout(ASKING, asking)).await.ok();
    let known = answer.is_some();
    tracing::info!(operation = %operation.id, known, "the answer of another node was lost");
    answer
}

async fn ask(wire: &Wire, user: &User, mailbox: &WireName, id: OperationId) -> Option<Answer> {
    // It may have moved meanwhile, also to here.
    let answer = match user.home_of_mailbox(mailbox).await.ok()? {
        Some(node) => ask_guest(wire, user, node, mailbox, id).await?,
        None => match settle(user, mailbox, id).await {
            Ok(answer) => answer,
            Err(Failure::Refused(answer)) => *answer,
            Err(Failure::Gone(_) | Failure::Moved) => return None,
        },
    };
    match (answer.condition, &answer.code) {
        (Condition::Ok, Some(Code::AppendUid { .. } | Code::CopyUid { .. })) => Some(answer),
        (Condition::No, Some(Code::CopyUid { .. })) => Some(answer),
        (Condition::No, Some(Code::Cannot)) => Some(not_reached()),
        // The account is gone, and what was put into it.
        (Condition::No, Some(Code::NonExistent)) => Some(answer),
        _ => None,
    }
}

async fn ask_guest(
    wire: &Wire,
    user: &User,
    node: NodeId,
    mailbox: &WireName,
    id: OperationId,
) -> Option<Answer> {
    let tag = own_tag()?;
    let kind = LiteralKind { synchronising: true, binary: false };
    let source = AppendSource::Literal(AppendLiteral { octets: 1, kind, utf8: false });
    let first = AppendMessage { flags: Vec::new(), date: None, source };
    let start = AppendEncoder::start(&tag, None, mailbox, &first, Literals::NonSynchronising);
    let (_, head) = start.ok()?;
    let mut guest = user.new_guest(wire, node).await.ok()?;
    guest.ask_as(Operation { id, again: true }, user.enabled, head.concat().into());
    loop {
        match guest.next().await.ok()? {
            Passed::Status { status, .. } if status.tag.as_ref() == Some(&tag) => {
                return Some(answer_of(status));
            }
            Passed::Status { status, .. } if status.condition == Condition::Bye => return None,
            // It does not know what it was asked.
            Passed::Continue(_) => return None,
            _ => {}
        }
    }
}
