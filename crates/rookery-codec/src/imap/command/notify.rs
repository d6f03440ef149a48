//! What NOTIFY asks (RFC 5465).

use super::FetchItem;
use crate::imap::types::WireName;

/// NOTIFY (RFC 5465 §8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notify {
    /// `NONE`: nothing is wanted.
    None,
    /// `SET`
    Set {
        /// `STATUS`: begin with a STATUS of each mailbox.
        status: bool,
        /// At least one.
        groups: Vec<EventGroup>,
    },
}

/// Some mailboxes and what is wanted of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventGroup {
    /// Which mailboxes.
    pub filter: MailboxFilter,
    /// Empty: `NONE`.
    pub events: Vec<Event>,
}

/// `filter-mailboxes` of RFC 5465 §8.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MailboxFilter {
    /// `SELECTED`
    Selected,
    /// `SELECTED-DELAYED`
    SelectedDelayed,
    /// `INBOXES`
    Inboxes,
    /// `PERSONAL`
    Personal,
    /// `SUBSCRIBED`
    Subscribed,
    /// `SUBTREE`; at least one.
    Subtree(Vec<WireName>),
    /// `MAILBOXES`; at least one.
    Mailboxes(Vec<WireName>),
}

/// `event` of RFC 5465 §8.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// `MessageNew`, with what is to be told of each; empty: nothing besides.
    MessageNew(Vec<FetchItem>),
    /// `MessageExpunge`
    MessageExpunge,
    /// `FlagChange`
    FlagChange,
    /// `AnnotationChange`
    AnnotationChange,
    /// `MailboxName`
    MailboxName,
    /// `SubscriptionChange`
    SubscriptionChange,
    /// `MailboxMetadataChange`
    MailboxMetadataChange,
    /// `ServerMetadataChange`
    ServerMetadataChange,
    /// One that is not ours, as written.
    Other(Box<str>),
}

impl Event {
    /// Each event with its wire name, without attributes.
    pub const NAMES: [(Event, &'static str); 8] = [
        (Event::MessageNew(Vec::new()), "MessageNew"),
        (Event::MessageExpunge, "MessageExpunge"),
        (Event::FlagChange, "FlagChange"),
        (Event::AnnotationChange, "AnnotationChange"),
        (Event::MailboxName, "MailboxName"),
        (Event::SubscriptionChange, "SubscriptionChange"),
        (Event::MailboxMetadataChange, "MailboxMetadataChange"),
        (Event::ServerMetadataChange, "ServerMetadataChange"),
    ];

    /// The wire name.
    pub fn name(&self) -> &str {
        match self {
            Event::MessageNew(_) => "MessageNew",
            Event::Other(name) => name,
            known => {
                let mut names = Event::NAMES.into_iter();
                names.find(|(one, _)| one == known).map_or("", |(_, name)| name)
            }
        }
    }
}
