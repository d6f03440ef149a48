//! ENABLE (RFC 5161, RFC 9051 §6.3.1).

use super::Outcome;
use crate::answer::Answer;
use crate::session::User;
use crate::wire::Wire;
use rookery_codec::imap::Response;
use std::borrow::Cow;

/// Turns on what is known of `names`; what is not known is passed over without a word.
pub(crate) fn enable(wire: &mut Wire, user: &mut User, names: &[Box<str>]) -> Outcome {
    let mut now_on: Vec<Cow<'static, str>> = Vec::new();
    for name in names {
        let enabled = &mut user.enabled;
        let (switch, name) = match &**name {
            "IMAP4REV2" => (&mut enabled.rev2, "IMAP4rev2"),
            "CONDSTORE" => (&mut enabled.condstore, "CONDSTORE"),
            "QRESYNC" => (&mut enabled.qresync, "QRESYNC"),
            "UIDONLY" => (&mut enabled.uid_only, "UIDONLY"),
            "UTF8=ACCEPT" => (&mut enabled.utf8, "UTF8=ACCEPT"),
            _ => continue,
        };
        if !std::mem::replace(switch, true) {
            now_on.push(name.into());
        }
        // QRESYNC is CONDSTORE and more (RFC 7162 §3.2.3).
        enabled.condstore |= enabled.qresync;
    }
    if user.enabled.rev2 || user.enabled.utf8 {
        user.names.use_utf8();
    }
    wire.put(&Response::Enabled(now_on));
    Ok(Answer::ok("ENABLE completed"))
}
