//! LSUB (RFC 3501 §6.3.9).

use super::{Outcome, list};
use crate::answer::Answer;
use crate::session::User;
use crate::wire::Wire;
use rookery_codec::imap::response::{ListAttribute, ListEntry};
use rookery_codec::imap::{Response, WireName};
use rookery_types::Pattern;
use std::collections::BTreeMap;

/// Lists subscriptions. With `%` a name that is not subscribed to stands, with `\Noselect`, for those below it
/// that the pattern does not reach.
pub(crate) async fn lsub(
    wire: &mut Wire,
    user: &mut User,
    reference: &WireName,
    pattern: &WireName,
) -> Outcome {
    let patterns = list::patterns(&user.names, reference, std::slice::from_ref(pattern))?;
    let gathered = list::gather(wire, user, &patterns, None).await?;
    let mut names: BTreeMap<&str, bool> = BTreeMap::new();
    for (name, _) in gathered.iter().filter(|(_, listed)| listed.subscribed) {
        match patterns.iter().any(|pattern| pattern.matches(name)) {
            true => drop(names.insert(name, true)),
            false => stand_in(&patterns, name, &mut names),
        }
    }
    for (name, subscribed) in names {
        wire.put(&Response::Lsub(ListEntry {
            attributes: if subscribed { Vec::new() } else { vec![ListAttribute::NoSelect] },
            separator: Some(b'/'),
            mailbox: user.names.wire(name),
            child_info: Vec::new(),
            old_name: None,
        }));
        wire.flush_if_full().await?;
    }
    Ok(Answer::ok("LSUB completed"))
}

/// Adds the names above `name` that match.
fn stand_in<'a>(patterns: &[Pattern], name: &'a str, names: &mut BTreeMap<&'a str, bool>) {
    let mut rest = name;
    while let Some((above, _)) = rest.rsplit_once('/') {
        if patterns.iter().any(|pattern| pattern.matches(above)) {
            names.entry(above).or_insert(false);
        }
        rest = above;
    }
}
