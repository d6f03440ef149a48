//! What came of an APPEND at another home whose answer was lost: the session asks, and the guest there says.
//!
//! The question is the APPEND's beginning, with a note before it that names the operation. The guest answers OK with
//! APPENDUID if it was done. If not, it never will be, and the answer is NO.

use super::Outcome;
use super::append::append_uid;
use crate::answer::{Answer, Failure, no_such_mailbox};
use crate::guest::{Trouble, answer_of, not_reached, own_tag};
use crate::session::User;
use crate::wire::Wire;
use rookery_codec::imap::client::{AppendEncoder, Literals};
use rookery_codec::imap::command::{AppendLiteral, AppendMessage, AppendSource};
use rookery_codec::imap::passage::Passed;
use rookery_codec::imap::types::LiteralKind;
use rookery_codec::imap::{Code, Condition, WireName};
use rookery_types::{NodeId, OperationId};
use std::time::Duration;
use tokio::time::Instant;

/// How long a home that was lost is asked.
const ASKING: Duration = Duration::from_secs(10);
/// From one question to the next.
const PAUSE: Duration = Duration::from_millis(200);

/// An APPEND that a session has another home do.
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
        Some(appended) => Answer::ok_code(append_uid(appended), "APPEND completed"),
        None => Answer::no(Code::Cannot, "It was lost before it was done"),
    })
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
    tracing::info!(operation = %operation.id, known, "the answer to an APPEND at another node was lost");
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
        (Condition::Ok, Some(Code::AppendUid { .. })) => Some(answer),
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
