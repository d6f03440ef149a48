//! EXPUNGE and UID EXPUNGE (RFC 9051 §6.4.3, §6.4.9).

use super::{Outcome, select};
use crate::answer::Answer;
use crate::progress::Progress;
use crate::session::{Selected, User};
use crate::tell;
use crate::wire::Wire;
use rookery_codec::imap::MessageSet;
use rookery_types::Rights;

/// Expunges messages with \Deleted: all of them, or those with the given UIDs.
pub(crate) async fn expunge(
    wire: &mut Wire,
    progress: &mut Progress,
    user: &User,
    selected: &mut Selected,
    uids: Option<MessageSet>,
) -> Outcome {
    selected.writable(user, &[Rights::EXPUNGE])?;
    let uids = uids.map(|set| selected.resolve_uids(&set, true)).transpose()?;
    let gone = match uids {
        Some(uids) if uids.is_empty() => uids,
        uids => progress.during(wire, selected.mailbox.expunge(uids.as_ref())).await?,
    };
    // Told before the modseq that includes it is.
    tell::checkpoint(wire, user, selected, true).await?;
    Ok(match user.enabled.qresync && !gone.is_empty() {
        true => Answer::ok_code(select::highest_modseq(selected), "EXPUNGE completed"),
        false => Answer::ok("EXPUNGE completed"),
    })
}
