//! XFER, and RENAME to a node: an administrator has a whole account go to another node, as Cyrus has it.
//!
//! Invariant: OK is said once the account is at home there, and NO when it stays where it is. Where neither is known,
//! NO says so. Whoever stops listening stops nothing.

use super::Outcome;
use crate::answer::{Answer, Failure, no_permission, no_such_mailbox};
use crate::progress::Progress;
use crate::session::User;
use crate::wire::Wire;
use rookery_codec::imap::{Code, Tag, WireName};
use rookery_route::{NotMoved, Relocated};
use rookery_types::Address;

/// `XFER mailbox node [partition]`. There are no partitions here: whichever is named, the node has one place for mail.
pub(super) async fn xfer(wire: &mut Wire, tag: &Tag, user: &User, name: &WireName, node: &[u8]) -> Outcome {
    // Node names are for those who run the nodes; an administrator of a domain is not one of them.
    if !user.is_admin() {
        return Err(no_permission().into());
    }
    let address = user.names.address(name)?;
    if address != Address::top(address.account().clone()) {
        let text = "A mailbox is kept where its account is; move the account";
        return Err(Answer::no(Code::Cannot, text).into());
    }
    let node = String::from_utf8_lossy(node);
    // As Cyrus writes it: `node!partition`, and `node:port`.
    let node = node.split(['!', ':']).next().unwrap_or_default();
    let relocated = user.services.relocator.relocate(address.account(), node);
    let relocated = Progress::new(tag).during(wire, relocated).await;
    match relocated {
        Ok(Relocated::Moved) => {
            tracing::info!(administrator = %user.name, account = %address.account(), node, "account moved");
            Ok(Answer::ok("The account is at home there now"))
        }
        Ok(Relocated::WasThere) => Ok(Answer::ok("The account is at home there already")),
        Err(refused) => Err(refused.into()),
    }
}

/// `RENAME mailbox mailbox node`: the same, if the name stays.
pub(super) async fn rename(
    wire: &mut Wire,
    tag: &Tag,
    user: &User,
    (from, to): (&WireName, &WireName),
    node: &[u8],
) -> Outcome {
    if user.is_admin() && user.names.address(from)? != user.names.address(to)? {
        let text = "A mailbox gets another name, or goes to another node: give one command for each";
        return Err(Answer::no(Code::Cannot, text).into());
    }
    xfer(wire, tag, user, from, node).await
}

impl From<NotMoved> for Failure {
    /// Whoever may ask for this runs the nodes, and is told what is wrong with them.
    fn from(error: NotMoved) -> Failure {
        match error {
            NotMoved::NonExistent => no_such_mailbox(),
            NotMoved::Refused(why) => Answer::no(Code::Cannot, why),
            NotMoved::InUse(why) => Answer::no(Code::InUse, why),
            NotMoved::Unavailable(why) => Answer::no(Code::Unavailable, why),
        }
        .into()
    }
}
