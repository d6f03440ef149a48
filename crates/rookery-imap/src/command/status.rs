//! STATUS (RFC 9051 §6.3.11). Answered from summaries: no message is looked at, if the store has counted them.

use super::Outcome;
use crate::answer::{Answer, Failure, no_permission};
use crate::names::Found;
use crate::session::User;
use crate::wire::Wire;
use rookery_codec::imap::response::StatusValue;
use rookery_codec::imap::{Response, StatusItem, WireName};
use rookery_store::{Account, MailboxState, Summary};
use rookery_types::{Rights, Uid};

/// Tells what is asked of a mailbox.
pub(crate) async fn status(
    wire: &mut Wire,
    user: &mut User,
    name: &WireName,
    items: &[StatusItem],
) -> Outcome {
    user.enabled.condstore |= items.contains(&StatusItem::HighestModSeq);
    let Found { account, state, rights, .. } = user.find(name).await?;
    if !rights.contains(Rights::READ) {
        return Err(no_permission().into());
    }
    let items = values(user, &account, &state, items).await?;
    wire.put(&Response::MailboxStatus { mailbox: name.clone(), items });
    Ok(Answer::ok("STATUS completed"))
}

/// What is asked, with its values. RECENT alone needs the mailbox opened, and is only of IMAP4rev1.
pub(super) async fn values(
    user: &User,
    account: &Account,
    state: &MailboxState,
    items: &[StatusItem],
) -> Result<Vec<StatusValue>, Failure> {
    let recent = match items.contains(&StatusItem::Recent) {
        true => {
            let mailbox = account.open(state.id).await?;
            let messages = mailbox.now().messages.clone().unwrap_or_default();
            messages.len() - messages.place_of(mailbox.peek_recent())?
        }
        false => 0,
    };
    // Only these two can be the user's own.
    let own = items.contains(&StatusItem::Unseen) || items.contains(&StatusItem::HighestModSeq);
    let summary = if own { account.summary_of(state).await? } else { state.summary };
    Ok(items.iter().filter_map(|item| value(user, state, &summary, *item, recent)).collect())
}

fn value(
    user: &User,
    state: &MailboxState,
    summary: &Summary,
    item: StatusItem,
    recent: usize,
) -> Option<StatusValue> {
    Some(match item {
        StatusItem::Messages => StatusValue::Messages(summary.exists),
        StatusItem::Recent => StatusValue::Recent(u32::try_from(recent).unwrap_or(u32::MAX)),
        StatusItem::UidNext => StatusValue::UidNext(Uid::new(summary.uid_next)?),
        StatusItem::UidValidity => StatusValue::UidValidity(state.settings.uid_validity),
        StatusItem::Unseen => StatusValue::Unseen(summary.unseen),
        StatusItem::Deleted => StatusValue::Deleted(summary.deleted),
        StatusItem::Size => StatusValue::Size(summary.octets),
        StatusItem::HighestModSeq => StatusValue::HighestModSeq(Some(summary.highest_modseq)),
        StatusItem::MailboxId => StatusValue::MailboxId(state.id.objectid().into()),
        StatusItem::DeletedStorage => StatusValue::DeletedStorage(summary.deleted_octets),
        StatusItem::AppendLimit => StatusValue::AppendLimit(Some(user.services.config.message_octets_max)),
    })
}
