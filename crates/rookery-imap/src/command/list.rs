//! LIST in both its forms (RFC 9051 §6.3.9, RFC 5258), with SPECIAL-USE (RFC 6154), STATUS (RFC 5819) and
//! MYRIGHTS (RFC 8440).
//!
//! What can be listed is gathered first: mailboxes, names that exist only through what is below them, and
//! names that are subscribed to. Then patterns and options choose among it.

use super::{Outcome, list_all, list_there, metadata, status};
use crate::answer::{Answer, Failure};
use crate::names::{Names, Others};
use crate::session::User;
use crate::wire::Wire;
use bytes::Bytes;
use rookery_codec::imap::command::{List, ListReturn, ListSelect};
use rookery_codec::imap::response::{ListAttribute, ListEntry};
use rookery_codec::imap::{Response, StatusItem, WireName};
use rookery_directory::Published;
use rookery_store::{Account, MailboxState};
use rookery_types::{AccountName, Address, MailboxId, NameError, NodeId, Pattern, Rights, SpecialUse};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One name that can be listed.
#[derive(Default)]
pub(super) struct Listed {
    /// The mailbox; `None` for a name that exists only through others.
    pub(super) mailbox: Option<Known>,
    pub(super) subscribed: bool,
    pub(super) has_children: bool,
    /// The name is in the tree, if only through what is below it; else it is only subscribed to.
    pub(super) in_tree: bool,
}

/// A mailbox that is listed, and the user's rights on it.
pub(super) enum Known {
    Here(Account, Arc<MailboxState>, Rights),
    /// At another node: more is known there.
    Elsewhere {
        node: NodeId,
        rights: Rights,
        special_use: Vec<SpecialUse>,
    },
}

impl Known {
    fn special_use(&self) -> &[SpecialUse] {
        match self {
            Known::Here(_, state, _) => &state.settings.special_use,
            Known::Elsewhere { special_use, .. } => special_use,
        }
    }

    fn rights(&self) -> Rights {
        match self {
            Known::Here(_, _, rights) | Known::Elsewhere { rights, .. } => *rights,
        }
    }
}

/// Everything that can be listed, by the name that patterns match.
pub(super) type Gathered = BTreeMap<String, Listed>;

/// Lists.
pub(crate) async fn list(wire: &mut Wire, user: &mut User, list: List) -> Outcome {
    if list.select.recursive_match && !list.select.subscribed && !list.select.special_use {
        return Err(Answer::bad("RECURSIVEMATCH needs something to match").into());
    }
    user.enabled.condstore |= list.returns.status.contains(&StatusItem::HighestModSeq);
    if let [pattern] = &list.patterns[..]
        && pattern.as_bytes().is_empty()
        && !list.extended
    {
        separator(wire, &list.reference);
        return Ok(Answer::ok("LIST completed"));
    }
    metadata::check(&list.returns.metadata)?;
    let patterns = patterns(&user.names, &list.reference, &list.patterns)?;
    if user.administers() && !list.select.subscribed {
        list_all::list_all(wire, user, &list, &patterns).await?;
    } else {
        let names = gather(wire, user, &patterns, Some(&list.returns)).await?;
        tell(wire, user, &list, &patterns, &names).await?;
    }
    Ok(Answer::ok("LIST completed"))
}

/// Tells those of some names that patterns and options choose.
pub(super) async fn tell(
    wire: &mut Wire,
    user: &mut User,
    list: &List,
    patterns: &[Pattern],
    names: &Gathered,
) -> Result<(), Failure> {
    let mut away = BTreeSet::new();
    for (name, listed) in names {
        let matched = patterns.iter().any(|pattern| pattern.matches(name));
        if !matched {
            continue;
        }
        let chosen = chosen(&list.select, listed);
        let child_info = match list.select.recursive_match {
            true => chosen_below(names, name, &list.select, patterns),
            false => Vec::new(),
        };
        if !chosen && child_info.is_empty()
            || user.administers()
                && listed.mailbox.is_none()
                && stands_for_nothing(names, name, list, patterns)
        {
            continue;
        }
        let attributes = attributes(listed, list, chosen);
        wire.put(&Response::List(ListEntry {
            attributes,
            separator: Some(b'/'),
            mailbox: user.names.wire(name),
            child_info,
            old_name: None,
        }));
        if chosen {
            returned(wire, user, name, listed, &list.returns, &mut away).await?;
        }
        wire.flush_if_full().await?;
    }
    Ok(())
}

/// `LIST "" ""`: what separates names (RFC 9051 §6.3.9).
fn separator(wire: &mut Wire, reference: &WireName) {
    let _ = reference;
    wire.put(&Response::List(ListEntry {
        attributes: vec![ListAttribute::NoSelect],
        separator: Some(b'/'),
        mailbox: WireName::from_static(""),
        child_info: Vec::new(),
        old_name: None,
    }));
}

pub(super) fn patterns(
    names: &Names,
    reference: &WireName,
    patterns: &[WireName],
) -> Result<Vec<Pattern>, Failure> {
    let read = |pattern: &WireName| match names.pattern(reference, pattern) {
        // No name is so encoded, so nothing matches.
        Err(NameError::BadEncoding) => None,
        pattern => Some(pattern),
    };
    let patterns: Result<Vec<Pattern>, NameError> = patterns.iter().filter_map(read).collect();
    Ok(patterns?)
}

/// Gathers what can be listed: the user's own tree, and trees of others as far as a pattern asks for them. `returns`:
/// what is to be returned of mailboxes; none: subscriptions are all that matters.
pub(super) async fn gather(
    wire: &mut Wire,
    user: &mut User,
    patterns: &[Pattern],
    returns: Option<&ListReturn>,
) -> Result<Gathered, Failure> {
    let mut names = Gathered::new();
    if let Some(own) = &user.own {
        add_tree(user, own, &AccountName::User(user.name.clone()), None, &mut names);
    }
    for others in user.others(patterns).await? {
        match others {
            Others::Here { account, name, mailboxes } => {
                add_tree(user, &account, &name, mailboxes.as_deref(), &mut names);
            }
            Others::Elsewhere { node, name, mailboxes: Some(mailboxes) } => {
                add_published(user, node, &name, mailboxes, &mut names);
            }
            Others::Elsewhere { name, mailboxes: None, .. } => {
                if let Some(returns) = returns {
                    list_there::add_account(wire, user, &name, returns.my_rights, &mut names).await?;
                }
            }
        }
    }
    add_parents(user, &mut names);
    add_subscriptions(user, &mut names);
    Ok(names)
}

/// Adds the mailboxes of an account that the user may look up; or these of them.
pub(super) fn add_tree(
    user: &User,
    account: &Account,
    name: &AccountName,
    only: Option<&[MailboxId]>,
    names: &mut Gathered,
) {
    let tree = account.tree();
    let mut add = |state: Arc<MailboxState>| {
        let rights = user.rights(account, &state);
        if !rights.contains(Rights::LOOKUP) {
            return;
        }
        if let Ok(address) = Address::new(name.clone(), state.settings.path.clone()) {
            let listed = Listed {
                mailbox: Some(Known::Here(account.clone(), state, rights)),
                in_tree: true,
                ..Listed::default()
            };
            names.insert(user.names.show(&address), listed);
        }
    };
    match only {
        None => tree.iter().for_each(|(_, state)| add(state)),
        Some(some) => some.iter().filter_map(|id| tree.state(*id)).for_each(add),
    }
}

/// Adds mailboxes of an account of another node.
fn add_published(
    user: &User,
    node: NodeId,
    name: &AccountName,
    mailboxes: Vec<(Published, Rights)>,
    names: &mut Gathered,
) {
    for (published, rights) in mailboxes {
        if let Ok(address) = Address::new(name.clone(), published.path) {
            let mailbox = Some(Known::Elsewhere { node, rights, special_use: published.special_use });
            names.insert(user.names.show(&address), Listed { mailbox, in_tree: true, ..Listed::default() });
        }
    }
}

/// Adds the names above each mailbox, and marks what has something below it.
pub(super) fn add_parents(user: &User, names: &mut Gathered) {
    let children: Vec<String> = names.keys().cloned().collect();
    for mut name in children {
        while let Some(above) = user.names.parent(&name) {
            let parent = names.entry(above.clone()).or_default();
            // What is above it was added when its first child was.
            if parent.has_children {
                break;
            }
            parent.has_children = true;
            parent.in_tree = true;
            name = above;
        }
    }
}

/// Adds what is subscribed to. What is above it can stand for it (CHILDINFO) even if it is not in the tree.
fn add_subscriptions(user: &User, names: &mut Gathered) {
    let Some(own) = &user.own else { return };
    for canonical in own.tree().subscriptions().keys() {
        let Ok(address) = Address::parse(canonical) else { continue };
        let name = user.names.show(&address);
        let mut above = user.names.parent(&name);
        while let Some(name) = above {
            above = user.names.parent(&name);
            names.entry(name).or_default();
        }
        names.entry(name).or_default().subscribed = true;
    }
}

/// Whether the selection options choose the name itself.
fn chosen(select: &ListSelect, listed: &Listed) -> bool {
    let special = || listed.mailbox.as_ref().is_some_and(|known| !known.special_use().is_empty());
    match (select.subscribed, select.special_use) {
        (false, false) => listed.in_tree,
        (true, false) => listed.subscribed,
        (false, true) => special(),
        (true, true) => listed.subscribed && special(),
    }
}

/// For administrators, whose programs take every line for a mailbox, as Cyrus has it in `LIST "" *`: whether a name
/// without a mailbox says nothing that the names below it do not say: they are listed too.
fn stands_for_nothing(names: &Gathered, name: &str, list: &List, patterns: &[Pattern]) -> bool {
    let prefix = format!("{name}/");
    let mut below = names.range(prefix.clone()..).take_while(|(below, _)| below.starts_with(&prefix));
    let is_told = |below: &str| patterns.iter().any(|pattern| pattern.matches(below));
    !list.extended && below.any(|(below, listed)| listed.mailbox.is_some() && is_told(below))
}

/// CHILDINFO: which options choose something below the name that is not listed itself (RFC 5258 §3.5).
fn chosen_below(
    names: &Gathered,
    name: &str,
    select: &ListSelect,
    patterns: &[Pattern],
) -> Vec<std::borrow::Cow<'static, str>> {
    let prefix = format!("{name}/");
    let below = names.range(prefix.clone()..).take_while(|(below, _)| below.starts_with(&prefix));
    let hidden = |below: &str| !patterns.iter().any(|pattern| pattern.matches(below));
    let mut found = below.filter(|(below, listed)| chosen(select, listed) && hidden(below));
    match found.next() {
        None => Vec::new(),
        Some(_) => [(select.subscribed, "SUBSCRIBED"), (select.special_use, "SPECIAL-USE")]
            .into_iter()
            .filter(|(asked, _)| *asked)
            .map(|(_, name)| name.into())
            .collect(),
    }
}

fn attributes(listed: &Listed, list: &List, chosen: bool) -> Vec<ListAttribute> {
    let mut attributes = Vec::new();
    if listed.mailbox.is_none() {
        attributes.push(ListAttribute::NonExistent);
        // Clients that know RFC 3501 alone understand only this one.
        if !list.extended {
            attributes.push(ListAttribute::NoSelect);
        }
    }
    if listed.subscribed && chosen && (list.select.subscribed || list.returns.subscribed) {
        attributes.push(ListAttribute::Subscribed);
    }
    attributes.push(match listed.has_children {
        true => ListAttribute::HasChildren,
        false => ListAttribute::HasNoChildren,
    });
    if let Some(known) = &listed.mailbox {
        attributes.extend(known.special_use().iter().map(|one| ListAttribute::SpecialUse(*one)));
    }
    attributes
}

/// STATUS and MYRIGHTS of a name that was listed.
async fn returned(
    wire: &mut Wire,
    user: &mut User,
    name: &str,
    listed: &Listed,
    returns: &ListReturn,
    away: &mut BTreeSet<NodeId>,
) -> Result<(), Failure> {
    let Some(known) = &listed.mailbox else { return Ok(()) };
    if returns.my_rights {
        let rights = Bytes::from(known.rights().to_string());
        wire.put(&Response::MyRights { mailbox: user.names.wire(name), rights });
    }
    let (account, state, rights) = match known {
        Known::Here(account, state, rights) => (account, state, rights),
        Known::Elsewhere { node, rights, .. } => {
            let place = (*node, *rights);
            return Box::pin(list_there::returned(wire, user, name, place, returns, away)).await;
        }
    };
    if !returns.status.is_empty() && rights.contains(Rights::READ) {
        let items = status::values(user, account, state, &returns.status).await?;
        wire.put(&Response::MailboxStatus { mailbox: user.names.wire(name), items });
    }
    if !returns.metadata.is_empty() {
        metadata::listed(wire, user, user.names.wire(name), account, state, &returns.metadata).await?;
    }
    Ok(())
}
