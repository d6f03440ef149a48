//! What a client wants to hear of without asking (RFC 5465): which mailboxes, which events, and how far each account
//! has been told.
//!
//! Invariants:
//! - Nothing is queued: what has happened is read from the accounts' change logs when it is told, and told as it is
//!   then. Of an account only a modseq is kept, and which of its mailboxes the client knows of.
//! - A mailbox is told of only to those who may look it up; its messages, only to those who may read it.
//! - What the client's own commands have done is not told, as far as RFC 5465 §5 lets that be left out.
//! - What would be too much to tell ends with NOTIFICATIONOVERFLOW, as if the client had asked for nothing.

mod handed;
mod telling;

use crate::answer::{Answer, Failure};
use crate::connection::departed;
use crate::fetch::Plan;
use crate::names::Others;
use crate::session::{Selected, User};
use crate::wire::Wire;
use bytes::Bytes;
use rookery_codec::imap::command::{Event, EventGroup, MailboxFilter};
use rookery_codec::imap::response::{ListAttribute, ListEntry, StatusValue};
use rookery_codec::imap::{Code, Response, WireName};
use rookery_store::{Account, MailboxState, Noted, Whereabouts};
use rookery_types::{AccountId, AccountName, Address, MailboxId, ModSeq, Rights, Uid, UidSet};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::sync::watch;

/// Accounts that one session watches.
const ACCOUNTS_MAX: usize = 100;
/// Changes of one account that are told at once.
const CHANGES_MAX: usize = 10_000;

/// What is told of the selected mailbox.
#[derive(Clone, Default)]
pub(crate) struct OfSelected {
    /// New and expunged messages.
    pub(crate) messages: bool,
    /// Flags.
    pub(crate) flags: bool,
    /// Expunges only where RFC 9051 §7.5.1 lets them be told.
    pub(crate) delayed: bool,
    /// What is told of each new message.
    pub(crate) attributes: Option<Arc<Plan>>,
}

/// Events of mailboxes, as a set.
#[derive(Clone, Copy, Default)]
struct Events {
    messages: bool,
    flags: bool,
    names: bool,
    subscriptions: bool,
    metadata: bool,
}

impl Events {
    fn union(self, other: Events) -> Events {
        Events {
            messages: self.messages || other.messages,
            flags: self.flags || other.flags,
            names: self.names || other.names,
            subscriptions: self.subscriptions || other.subscriptions,
            metadata: self.metadata || other.metadata,
        }
    }
}

/// Which mailboxes a group is about; names as this client sees them.
enum Filter {
    Personal,
    Subscribed,
    Subtree(Vec<String>),
    Mailboxes(Vec<String>),
}

/// An account whose changes are told.
struct Watched {
    account: Account,
    name: AccountName,
    changed: watch::Receiver<u64>,
    /// Where it is at home.
    home: watch::Receiver<Whereabouts>,
    /// Up to this everything was told.
    modseq: u64,
    /// The numbers of the mailboxes that the client may know of.
    visible: UidSet,
}

/// The annotations of the server at one moment, by their entries.
type ServerAnnotations = Arc<BTreeMap<String, Bytes>>;

/// What a client has asked for.
pub(crate) struct Notify {
    pub(crate) selected: OfSelected,
    /// What the client's own commands have changed since that was told last.
    pub(crate) own: Noted,
    /// The groups that the client has asked for; none: it has asked for none.
    asked: Option<Arc<[EventGroup]>>,
    groups: Vec<(Filter, Events)>,
    watched: Vec<Watched>,
    /// What the user was subscribed to when that was looked at last, and when it was told last.
    subscriptions: Arc<BTreeMap<String, Option<MailboxId>>>,
    told_subscriptions: Arc<BTreeMap<String, Option<MailboxId>>>,
    /// Somebody else has changed them since.
    others_subscribed: bool,
    /// The server's annotations when they were told last.
    server: Option<(watch::Receiver<u64>, ServerAnnotations)>,
}

/// The events that there are (for BADEVENT).
const SUPPORTED: [Event; 7] = [
    Event::MessageNew(Vec::new()),
    Event::MessageExpunge,
    Event::FlagChange,
    Event::MailboxName,
    Event::SubscriptionChange,
    Event::MailboxMetadataChange,
    Event::ServerMetadataChange,
];

impl Notify {
    /// Nothing at all.
    pub(crate) fn none(user: &User) -> Notify {
        Notify {
            selected: OfSelected::default(),
            own: Noted::default(),
            asked: None,
            groups: Vec::new(),
            watched: Vec::new(),
            subscriptions: subscriptions(user),
            told_subscriptions: subscriptions(user),
            others_subscribed: false,
            server: None,
        }
    }

    /// Reads what a client asks for, and begins to watch it.
    pub(crate) async fn new(user: &User, asked: Vec<EventGroup>) -> Result<Notify, Failure> {
        let mut notify = Notify { asked: Some(asked.clone().into()), ..Notify::none(user) };
        let mut has_selected = false;
        for EventGroup { filter, events } in asked {
            if events.iter().any(|event| !is_supported(event)) {
                let names = SUPPORTED.iter().map(|event| event.name().to_owned().into()).collect();
                return Err(Answer::no(Code::BadEvent(names), "There are no such events here").into());
            }
            let is_selected = matches!(filter, MailboxFilter::Selected | MailboxFilter::SelectedDelayed);
            let set = events_of(&events)?;
            if is_selected {
                let server = events.contains(&Event::ServerMetadataChange);
                if std::mem::replace(&mut has_selected, true)
                    || set.names
                    || set.subscriptions
                    || set.metadata
                    || server
                {
                    return Err(Answer::bad("That cannot be asked of the selected mailbox").into());
                }
                notify.selected = OfSelected {
                    messages: set.messages,
                    flags: set.flags,
                    delayed: filter == MailboxFilter::SelectedDelayed,
                    attributes: attributes_of(events, user),
                };
                continue;
            }
            if events.iter().any(|event| matches!(event, Event::MessageNew(items) if !items.is_empty())) {
                return Err(Answer::bad("Attributes are told of the selected mailbox only").into());
            }
            if events.contains(&Event::ServerMetadataChange) {
                let store = &user.services.store;
                notify.server = Some((store.server_annotations_changed(), store.server_annotations()));
            }
            let names = |names: Vec<WireName>| names.iter().filter_map(|name| shown(user, name)).collect();
            let filter = match filter {
                MailboxFilter::Subscribed => Filter::Subscribed,
                MailboxFilter::Subtree(list) => Filter::Subtree(names(list)),
                MailboxFilter::Mailboxes(list) => Filter::Mailboxes(names(list)),
                // Any of a user's mailboxes can be delivered to, so these are the same (RFC 5465 §6.3).
                _ => Filter::Personal,
            };
            notify.groups.push((filter, set));
        }
        notify.watch(user).await?;
        Ok(notify)
    }

    /// Watches the accounts that the groups speak of; those that are watched already go on.
    async fn watch(&mut self, user: &User) -> Result<(), Failure> {
        let mut accounts: Vec<(Account, AccountName)> = Vec::new();
        if !self.groups.is_empty() || self.server.is_some() {
            let own = user.own.iter().cloned();
            accounts.extend(own.map(|own| (own, AccountName::User(user.name.clone()))));
        }
        let mut named: BTreeSet<AccountName> = BTreeSet::new();
        let mut patterns = Vec::new();
        for (filter, _) in &self.groups {
            match filter {
                Filter::Personal => {}
                Filter::Subscribed => {
                    let canonical = self.subscriptions.keys();
                    let addresses = canonical.filter_map(|name| Address::parse(name).ok());
                    named.extend(addresses.map(|address| address.account().clone()));
                }
                Filter::Subtree(names) | Filter::Mailboxes(names) => {
                    for name in names {
                        let address = user.names.address_of_text(name).ok();
                        named.extend(address.map(|address| address.account().clone()));
                        let pattern = WireName::from(format!("{name}/*"));
                        patterns.extend(user.names.pattern_utf8(&pattern).ok());
                    }
                }
            }
        }
        if named.len() > ACCOUNTS_MAX {
            return Err(overflow().into());
        }
        if !patterns.is_empty() {
            let others = user.others(&patterns).await?;
            accounts.extend(others.into_iter().filter_map(|others| match others {
                Others::Here { account, name, .. } => Some((account, name)),
                Others::Elsewhere { .. } => None,
            }));
        }
        for name in named {
            accounts.extend(user.account_here(&name).await?.map(|account| (account, name)));
        }
        for (account, name) in accounts {
            if self.watched.iter().any(|known| known.account.id() == account.id()) {
                continue;
            }
            if self.watched.len() >= ACCOUNTS_MAX {
                return Err(overflow().into());
            }
            let mut changed = account.changed();
            let modseq = *changed.borrow_and_update();
            let (home, visible) = (account.whereabouts(), visible(user, &account));
            self.watched.push(Watched { account, name, changed, home, modseq, visible });
        }
        Ok(())
    }

    /// Whether an account that is watched has left for another node.
    pub(crate) fn has_left(&self) -> bool {
        self.watched.iter().any(|watched| *watched.home.borrow() != Whereabouts::Here)
    }

    fn wanted(&self, user: &User, account: &Account, address: &Address) -> Events {
        let name = user.names.show(address);
        let own = is_own(user, account);
        let covers = |filter: &Filter| match filter {
            Filter::Personal => own,
            Filter::Subscribed => {
                let canonical = address.to_string();
                self.subscriptions.contains_key(&canonical) || subscriptions(user).contains_key(&canonical)
            }
            Filter::Subtree(names) => names.iter().any(|above| {
                name.strip_prefix(above.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }),
            Filter::Mailboxes(names) => names.contains(&name),
        };
        let groups = self.groups.iter().filter(|(filter, _)| covers(filter));
        groups.fold(Events::default(), |all, (_, events)| all.union(*events))
    }
}

fn overflow() -> Answer {
    Answer::no(Code::NotificationOverflow, "That is more than can be told")
}

fn is_supported(event: &Event) -> bool {
    matches!(event, Event::MessageNew(_)) || SUPPORTED.contains(event)
}

/// The events as a set, if they go together (RFC 5465 §5).
fn events_of(events: &[Event]) -> Result<Events, Answer> {
    let new = events.iter().any(|event| matches!(event, Event::MessageNew(_)));
    let expunge = events.contains(&Event::MessageExpunge);
    let flags = events.contains(&Event::FlagChange);
    if new != expunge || (flags && !new) {
        return Err(Answer::bad("MessageNew, MessageExpunge and FlagChange go together"));
    }
    Ok(Events {
        messages: new,
        flags,
        names: events.contains(&Event::MailboxName),
        subscriptions: events.contains(&Event::SubscriptionChange),
        metadata: events.contains(&Event::MailboxMetadataChange),
    })
}

fn attributes_of(events: Vec<Event>, user: &User) -> Option<Arc<Plan>> {
    let asked = events.into_iter().find_map(|event| match event {
        Event::MessageNew(items) if !items.is_empty() => Some(items),
        _ => None,
    })?;
    Some(Arc::new(Plan::new(asked, true, user.enabled.condstore)))
}

/// A name as patterns see it; `None` for what cannot be one.
pub(crate) fn shown(user: &User, name: &WireName) -> Option<String> {
    match user.names.address(name) {
        Ok(address) => Some(user.names.show(&address)),
        // The top of a namespace is no mailbox, and can have some below it.
        Err(_) => user.names.decoded(name),
    }
}

/// The names the user subscribes to, and the mailbox each had then.
fn subscriptions(user: &User) -> Arc<BTreeMap<String, Option<MailboxId>>> {
    user.own.as_ref().map(|own| own.tree().subscriptions_now()).unwrap_or_default()
}

fn is_own_change(own: &Noted, account: AccountId, modseq: u64) -> bool {
    ModSeq::new(modseq).is_some_and(|modseq| own.has(account, modseq))
}

fn is_own(user: &User, account: &Account) -> bool {
    user.own.as_ref().is_some_and(|own| own.id() == account.id())
}

fn visible(user: &User, account: &Account) -> UidSet {
    let tree = account.tree();
    let states = tree.iter().filter(|(_, state)| user.rights(account, state).contains(Rights::LOOKUP));
    let mut numbers: Vec<u32> = states.map(|(_, state)| state.id.number).collect();
    numbers.sort_unstable();
    let mut visible = UidSet::new();
    numbers.into_iter().for_each(|number| visible.insert(number));
    visible
}

/// Answers NOTIFY SET: STATUS of the mailboxes that are watched, if asked for, and which may not be.
pub(crate) async fn begin(
    wire: &mut Wire,
    user: &User,
    notify: &Notify,
    selected: Option<MailboxId>,
    status: bool,
) -> Result<(), Failure> {
    for watched in &notify.watched {
        let tree = watched.account.tree();
        for (path, state) in tree.iter() {
            let Ok(address) = Address::new(watched.name.clone(), path.clone()) else { continue };
            let wanted = notify.wanted(user, &watched.account, &address);
            let rights = user.rights(&watched.account, &state);
            if !wanted.messages || Some(state.id) == selected || !rights.contains(Rights::LOOKUP) {
                continue;
            }
            let name = user.names.wire(&user.names.show(&address));
            if !rights.contains(Rights::READ) {
                let attributes = vec![ListAttribute::Other("\\NoAccess".into())];
                wire.put(&listed(name, attributes, None));
            } else if status {
                let modseq = wanted.flags || user.enabled.condstore;
                put_status(wire, name, &watched.account, &state, wanted.flags, modseq).await?;
            }
            wire.flush_if_full().await?;
        }
    }
    Ok(())
}

async fn put_status(
    wire: &mut Wire,
    mailbox: WireName,
    account: &Account,
    state: &MailboxState,
    unseen: bool,
    modseq: bool,
) -> Result<(), Failure> {
    let summary = account.summary_of(state).await?;
    let mut items = vec![StatusValue::Messages(summary.exists)];
    items.extend(Uid::new(summary.uid_next).map(StatusValue::UidNext));
    items.push(StatusValue::UidValidity(state.settings.uid_validity));
    if unseen {
        items.push(StatusValue::Unseen(summary.unseen));
    }
    if modseq {
        items.push(StatusValue::HighestModSeq(Some(summary.highest_modseq)));
    }
    wire.put(&Response::MailboxStatus { mailbox, items });
    Ok(())
}

fn listed(mailbox: WireName, attributes: Vec<ListAttribute>, old_name: Option<WireName>) -> Response {
    let child_info = Vec::new();
    Response::List(ListEntry { attributes, separator: Some(b'/'), mailbox, child_info, old_name })
}

/// Returns when there may be something to tell. Safe to cancel.
pub(crate) async fn changed(notify: &mut Notify, selected: Option<&Selected>) {
    let mut waits: Vec<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = Vec::new();
    for watched in &mut notify.watched {
        waits.push(Box::pin(heard(&mut watched.changed)));
        waits.push(Box::pin(departed(Some(&mut watched.home))));
    }
    if let Some((changed, _)) = &mut notify.server {
        waits.push(Box::pin(heard(changed)));
    }
    if let Some(selected) = selected.filter(|_| notify.selected.messages) {
        let mut changed = selected.mailbox.changed();
        let told = selected.view.modseq();
        waits.push(Box::pin(async move {
            if *changed.borrow_and_update() == told {
                heard(&mut changed).await;
            }
        }));
    }
    std::future::poll_fn(|context| {
        match waits.iter_mut().any(|wait| wait.as_mut().poll(context).is_ready()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}

async fn heard(changed: &mut watch::Receiver<u64>) {
    if changed.changed().await.is_err() {
        // Nothing will come from there any more.
        std::future::pending::<()>().await;
    }
}

/// Tells what has changed outside of the selected mailbox's messages.
pub(crate) async fn catch_up(
    wire: &mut Wire,
    user: &mut User,
    selected: Option<MailboxId>,
) -> Result<(), Failure> {
    let Some(mut notify) = user.notify.take() else { return Ok(()) };
    let told = notify.tell(wire, user, selected).await;
    if matches!(&told, Err(Failure::Gone(_) | Failure::Moved)) {
        user.notify = Some(notify);
        return told;
    }
    notify.own.clear();
    if told.is_err() {
        user.guests.watch(None);
        let text = "More has happened than can be told; nothing more will be";
        wire.put(&Response::ok_code(Code::NotificationOverflow, text));
        notify = Box::new(Notify::none(user));
    }
    user.notify = Some(notify);
    Ok(())
}
