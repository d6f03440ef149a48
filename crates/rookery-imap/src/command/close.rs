//! CLOSE (RFC 9051 §6.4.1). UNSELECT needs no code of its own.

use super::Outcome;
use crate::answer::{Answer, Failure};
use crate::session::{Selected, User};
use rookery_store::StoreError;
use rookery_types::Rights;

/// Expunges without a word where the client may, and leaves the mailbox. The answer never carries
/// HIGHESTMODSEQ (RFC 7162 §3.2.8).
pub(crate) async fn close(user: &User, selected: &Selected) -> Outcome {
    if !selected.read_only && selected.rights(user).contains(Rights::EXPUNGE) {
        match selected.mailbox.expunge(None).await {
            Ok(_) | Err(StoreError::NoMailbox) => {}
            Err(error) => return Err(Failure::from(error)),
        }
    }
    Ok(Answer::ok("CLOSE completed"))
}
