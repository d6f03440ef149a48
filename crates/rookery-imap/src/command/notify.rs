//! NOTIFY (RFC 5465 §3.1).

use super::{Outcome, notify_there};
use crate::answer::Answer;
use crate::notify;
use crate::session::{Selected, User};
use crate::tell;
use crate::wire::Wire;
use rookery_codec::imap::command::Notify;

/// Asks for other events than before. What has happened in the selected mailbox is told first, as at NOOP.
pub(crate) async fn notify(
    wire: &mut Wire,
    user: &mut User,
    mut selected: Option<&mut Selected>,
    asked: Notify,
) -> Outcome {
    let (status, groups) = match asked {
        Notify::Set { status, groups } => (status, groups),
        Notify::None => {
            notify_there::forget(wire, user).await?;
            user.notify = Some(Box::new(notify::Notify::none(user)));
            return Ok(Answer::ok("NOTIFY completed"));
        }
    };
    let new = notify::Notify::new(user, groups.clone()).await?;
    if let Some(selected) = selected.as_deref_mut() {
        tell::checkpoint(wire, user, selected, true).await?;
    }
    let selected = selected.map(|selected| selected.mailbox.id());
    if let Err(failure) = notify_there::register(wire, user, status, groups).await {
        // Who was told already tells nothing any more, so nobody does.
        user.notify = Some(Box::new(notify::Notify::none(user)));
        return Err(failure);
    }
    notify::begin(wire, user, &new, selected, status).await?;
    user.notify = Some(Box::new(new));
    Ok(Answer::ok("NOTIFY completed"))
}
