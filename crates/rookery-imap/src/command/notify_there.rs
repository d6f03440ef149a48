//! NOTIFY about mailboxes of other homes: guests there are told what the client wants to hear of, and tell it.
//!
//! Invariants:
//! - Either every home that a NOTIFY is about tells what happens, one that is lost once it is back, or the client hears
//!   NOTIFICATIONOVERFLOW, behind which nobody tells anything (RFC 5465 §5.8).
//! - What is the user's own (subscriptions, INBOX and the like, annotations of the server) is told by this session alone.

use crate::answer::Failure;
use crate::notify::shown;
use crate::session::User;
use crate::wire::Wire;
use rookery_codec::imap::command::{Event, EventGroup, MailboxFilter, Notify};
use rookery_codec::imap::{Code, Command, Condition, Response, WireName};
use rookery_types::{Address, NodeId};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Tells the guests that some groups are about, and opens those that are not there yet. What was told before does not
/// hold any more.
pub(super) async fn register(
    wire: &mut Wire,
    user: &mut User,
    status: bool,
    groups: Vec<EventGroup>,
) -> Result<(), Failure> {
    if user.is_guest {
        return Ok(());
    }
    let mut nodes = nodes(user, &groups).await?;
    nodes.extend(user.guests.selected());
    user.guests.watch(None);
    for node in nodes {
        if let Err(failure) = hand_over(wire, user, node, status, &groups).await {
            user.guests.watch(None);
            return Err(failure);
        }
    }
    user.guests.watch(Some(groups.into()));
    Ok(())
}

/// Nobody tells anything any more.
pub(super) async fn forget(wire: &mut Wire, user: &mut User) -> Result<(), Failure> {
    user.guests.watch(None);
    match user.guests.selected() {
        Some(node) => user.ask(wire, node, Command::Notify(Notify::None), &[]).await.map(drop),
        None => Ok(()),
    }
}

/// Tells the guest at a node, where a mailbox is about to be selected, what the client wants to hear of it.
pub(super) async fn introduce(wire: &mut Wire, user: &mut User, node: NodeId) -> Result<(), Failure> {
    user.refuse_unwatched(wire, node).await?;
    match user.guests.watched() {
        Some(groups) if !user.guests.is_watching(node) => hand_over(wire, user, node, false, &groups).await,
        // NOTIFY NONE holds there as well.
        None if user.notify.is_some() && !user.is_guest => {
            user.ask(wire, node, Command::Notify(Notify::None), &[]).await.map(drop)
        }
        _ => Ok(()),
    }
}

async fn hand_over(
    wire: &mut Wire,
    user: &mut User,
    node: NodeId,
    status: bool,
    groups: &[EventGroup],
) -> Result<(), Failure> {
    let groups = of_node(user, groups, node).await?;
    let asked = match groups.is_empty() {
        true => Notify::None,
        false => Notify::Set { status, groups },
    };
    let (answer, _) = user.ask(wire, node, Command::Notify(asked), &[]).await?;
    if answer.condition != Condition::Ok {
        return Err(answer.into());
    }
    user.guests.watches(node);
    Ok(())
}

/// The other nodes that some groups are about.
pub(crate) async fn nodes(user: &User, groups: &[EventGroup]) -> Result<BTreeSet<NodeId>, Failure> {
    let mut nodes = BTreeSet::new();
    let mut patterns = Vec::new();
    for group in groups {
        match &group.filter {
            MailboxFilter::Subscribed => {
                for name in subscribed(user) {
                    nodes.extend(user.home_of_mailbox(&name).await?);
                }
            }
            MailboxFilter::Mailboxes(names) => {
                for name in names {
                    nodes.extend(user.home_of_mailbox(name).await?);
                }
            }
            MailboxFilter::Subtree(names) => {
                for name in names {
                    nodes.extend(user.home_of_mailbox(name).await?);
                    let below = shown(user, name).map(|name| WireName::from(format!("{name}/*")));
                    patterns.extend(below.and_then(|below| user.names.pattern_utf8(&below).ok()));
                }
            }
            _ => {}
        }
    }
    if !patterns.is_empty() {
        nodes.extend(user.others(&patterns).await?.into_iter().filter_map(|others| others.node()));
    }
    Ok(nodes)
}

/// The names that the user is subscribed to, as the session writes them.
fn subscribed(user: &User) -> Vec<WireName> {
    let Some(own) = &user.own else { return Vec::new() };
    let tree = own.tree();
    let addresses = tree.subscriptions().keys().filter_map(|canonical| Address::parse(canonical).ok());
    addresses.map(|address| user.names.wire(&user.names.show(&address))).collect()
}

/// What of some groups the guest at a node has to tell.
pub(crate) async fn of_node(
    user: &User,
    groups: &[EventGroup],
    node: NodeId,
) -> Result<Vec<EventGroup>, Failure> {
    let mut found = Vec::new();
    for EventGroup { filter, events } in groups {
        let filter = match filter {
            MailboxFilter::Selected | MailboxFilter::SelectedDelayed | MailboxFilter::Subtree(_) => {
                filter.clone()
            }
            MailboxFilter::Subscribed => MailboxFilter::Mailboxes(subscribed(user)),
            MailboxFilter::Mailboxes(names) => MailboxFilter::Mailboxes(names.clone()),
            MailboxFilter::Inboxes | MailboxFilter::Personal => continue,
        };
        let filter = match filter {
            MailboxFilter::Mailboxes(names) => {
                let mut there = Vec::new();
                for name in names {
                    if user.home_of_mailbox(&name).await? == Some(node) {
                        there.push(name);
                    }
                }
                match there.is_empty() {
                    true => continue,
                    false => MailboxFilter::Mailboxes(there),
                }
            }
            filter => filter,
        };
        let ours = |event: &&Event| !matches!(event, Event::ServerMetadataChange | Event::SubscriptionChange);
        found.push(EventGroup { filter, events: events.iter().filter(ours).cloned().collect() });
    }
    Ok(found)
}

/// Passes on what the guests that watch have said, and looks for homes of those that are lost.
pub(crate) async fn hear(wire: &mut Wire, user: &mut User) -> Result<(), Failure> {
    for node in user.guests.watching() {
        match super::abroad::hear_from(wire, user, node).await {
            // What has moved is told of by whoever goes on.
            Ok(()) | Err(Failure::Moved) => {}
            // It is lost, and looked for.
            Err(Failure::Refused(answer)) if answer.condition != Condition::Bye => {}
            Err(failure) => return Err(failure),
        }
    }
    user.look_for_unwatched(wire).await;
    if user.guests.take_overflow() {
        user.guests.watch(None);
        user.notify = Some(Box::new(crate::notify::Notify::none(user)));
        let text = "More has happened than can be told; nothing more will be";
        wire.put(&Response::ok_code(Code::NotificationOverflow, text));
    }
    Ok(())
}

/// What guests are asked for, as it is kept for those that come later.
pub(crate) type Groups = Arc<[EventGroup]>;
