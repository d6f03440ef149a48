//! Guests: the sessions that this one has at other nodes, for mailboxes that are at home there.
//!
//! A guest runs the same code as this session, for the same user. It is asked in IMAP, command by command; what it says
//! is passed on to the client as it is, but for the tagged line.
//!
//! Invariants:
//! - One guest for each other node at most. It is opened when it is needed first, and closed when it was not needed
//!   for a while and nothing is selected there.
//! - Whoever asks a guest has it to themselves. A guest with which something went wrong, or whose answer nobody waited
//!   for, is never asked again.
//! - No answer is invented: without one, a command that may have changed something ends the session.

mod asked;
mod opening;
mod talk;
mod unwatched;

pub(crate) use talk::answer_of;

use crate::answer::{Answer, Failure};
use crate::command::notify_there::Groups;
use crate::services::Services;
use crate::session::{Enabled, User};
use crate::value::{GuestValue, HomeValue, SelectedValue, SessionValue};
use crate::wire::Wire;
use asked::{begins_modseqs, changes};
use bytes::{Bytes, BytesMut};
use rookery_codec::imap::client::{Literals, encode};
use rookery_codec::imap::command::Tagged;
use rookery_codec::imap::passage::Passage;
use rookery_codec::imap::{Code, Command, Condition, Tag};
use rookery_net::{Connection, IoError};
use rookery_route::{Marked, SessionNote};
use rookery_types::{AccountId, Epoch, NodeId};
use std::collections::BTreeMap;
use std::task::Poll;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;
use unwatched::Unwatched;

/// Octets in the longest status line of a guest: COPYUID and MODIFIED may name many messages.
const STATUS_OCTETS_MAX: usize = 8 << 20;
/// How long one may take to say what it knows.
const SUSPEND_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a guest is kept that is not needed.
const UNUSED_MAX: Duration = Duration::from_secs(300);
/// As good as for ever: the link notices when the other node is lost.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// The session's guests.
#[derive(Default)]
pub(crate) struct Guests {
    open: BTreeMap<NodeId, Guest>,
    /// Where the session's selected mailbox is, if that is another node.
    selected: Option<NodeId>,
    /// What NOTIFY asks for, if some guest is to tell of it.
    notify: Option<Groups>,
    /// A guest has given up telling what NOTIFY asks for.
    overflow: bool,
    /// What guests knew that go on elsewhere.
    moved: Vec<GuestValue>,
    /// The selected mailbox, whose guest is lost: from this another goes on when its home is there again.
    awaited: Option<Box<Awaited>>,
    /// Homes that are lost and were watched for NOTIFY.
    unwatched: Unwatched,
}

/// A session of the user's at another node.
pub(crate) struct Guest {
    node: NodeId,
    connection: Connection,
    passage: Passage,
    /// What it was told is on.
    enabled: Enabled,
    used: Instant,
    /// The id of the mailbox that it has told of last.
    mailbox_id: Option<Bytes>,
    /// It tells what NOTIFY asks for.
    watches: bool,
    /// It has given that up.
    overflow: bool,
    /// Octets that were heard of it.
    heard: u64,
    marks: Marks,
    /// What it knew, once it has begun to say so: it goes on elsewhere.
    leaves: Option<Leaving>,
}

/// A selected mailbox whose home is lost.
struct Awaited {
    value: SelectedValue,
    /// When its home is asked next.
    next: Instant,
}

/// A guest's value on its way.
struct Leaving {
    octets: usize,
    come: BytesMut,
}

/// The marks of a guest.
#[derive(Default)]
struct Marks {
    /// How many count.
    count: u64,
    /// The last one counts where so much was heard.
    at: u64,
    /// What the last one says that says something: its mailbox as the client knows it.
    value: Option<Bytes>,
    /// The next one, and where it counts.
    next: Option<(u64, Marked)>,
}

/// Why there is no answer.
pub(crate) enum Trouble {
    /// There is nobody to tell.
    Client(IoError),
    /// The guest is lost.
    Guest,
    /// It goes on elsewhere. What it was asked was not begun.
    Moved,
}

/// What a guest says beside untagged responses.
pub(crate) enum Heard {
    /// The tagged line.
    Answer(Answer),
    /// `+`
    Continue(Bytes),
}

impl Guests {
    /// Whether one that the client would miss goes on elsewhere.
    pub(crate) fn have_moved(&self) -> bool {
        !self.moved.is_empty()
    }

    /// What those knew that the client would miss, to go on elsewhere with the session.
    pub(crate) async fn suspend(&mut self, wire: &mut Wire) -> Result<Vec<GuestValue>, Failure> {
        let mut values = std::mem::take(&mut self.moved);
        values.append(&mut self.unwatched.take());
        let of_mark = |node: NodeId, value| {
            let session = SessionValue::of_selected(value);
            GuestValue { node: node.0, watches: false, session }
        };
        if let Some((node, awaited)) = self.selected.zip(self.awaited.take()) {
            values.push(of_mark(node, awaited.value));
        }
        for (node, mut guest) in std::mem::take(&mut self.open) {
            let is_selected = self.selected == Some(node);
            if !is_selected && !guest.watches {
                continue;
            }
            if let Some(pipe) = guest.connection.pipe() {
                pipe.put_note(SessionNote::Suspend.encode());
                // Was it lost, what it says next tells.
                let _ = pipe.flush().await;
            }
            let said = tokio::time::timeout(SUSPEND_TIMEOUT, guest.last_words(wire)).await;
            match (said, guest.value()) {
                (Ok(Trouble::Moved), Some(value)) => values.push(value),
                (Ok(Trouble::Client(error)), _) => return Err(Failure::Gone(error)),
                _ => {
                    self.lose_watch(&guest);
                    values.append(&mut self.unwatched.take());
                    match guest.mark() {
                        Some(value) if is_selected => values.push(of_mark(node, value)),
                        None if is_selected => return Err(farewell().into()),
                        _ => {}
                    }
                }
            }
        }
        Ok(values)
    }

    /// The guest at a node.
    pub(crate) fn of(&self, node: NodeId) -> Option<&Guest> {
        self.open.get(&node)
    }

    /// The selected mailbox whose home is lost, as the client knows it.
    pub(crate) fn awaited(&self) -> Option<SelectedValue> {
        self.awaited.as_ref().map(|awaited| awaited.value.clone())
    }

    /// The selected mailbox is at another node, which is lost; the client knows it like this.
    pub(crate) fn await_selected(&mut self, node: NodeId, value: SelectedValue) {
        self.selected = Some(node);
        self.awaited = Some(Box::new(Awaited { value, next: Instant::now() }));
    }

    /// Whether the selected mailbox's home is waited for.
    pub(crate) fn awaits(&self) -> bool {
        self.awaited.is_some()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.selected.is_none()
    }

    /// From here on the session's selected mailbox is there; none: it is here, or there is none.
    pub(crate) fn set_selected(&mut self, node: Option<NodeId>) {
        self.selected = node;
        self.awaited = None;
    }

    /// Where the session's selected mailbox is, if that is another node.
    pub(crate) fn selected(&self) -> Option<NodeId> {
        self.selected
    }

    /// The id of the mailbox that the guest at a node has told of last.
    pub(crate) fn mailbox_id(&self, node: NodeId) -> Option<Bytes> {
        self.open.get(&node).and_then(|guest| guest.mailbox_id.clone())
    }

    /// Whether there is one at a node.
    pub(crate) fn is_open(&self, node: NodeId) -> bool {
        self.open.contains_key(&node)
    }

    /// What NOTIFY asks for from here on. Without anything the guests that watch are closed, but for the one with the
    /// selected mailbox.
    pub(crate) fn watch(&mut self, groups: Option<Groups>) {
        if groups.is_none() {
            let selected = self.selected;
            self.open.retain(|node, guest| !guest.watches || Some(*node) == selected);
            self.open.values_mut().for_each(|guest| guest.watches = false);
            self.overflow = false;
            self.unwatched = Unwatched::default();
        }
        self.notify = groups;
    }

    /// What NOTIFY asks for, if some guest is to tell of it.
    pub(crate) fn watched(&self) -> Option<Groups> {
        self.notify.clone()
    }

    /// The guest at a node tells what NOTIFY asks for.
    pub(crate) fn watches(&mut self, node: NodeId) {
        if let Some(guest) = self.open.get_mut(&node) {
            guest.watches = true;
        }
    }

    /// Whether it does.
    pub(crate) fn is_watching(&self, node: NodeId) -> bool {
        self.open.get(&node).is_some_and(|guest| guest.watches)
    }

    /// Where there are guests that do, or should and are lost; but for the one with the selected mailbox.
    pub(crate) fn watching(&self) -> Vec<NodeId> {
        let selected = self.selected;
        let watching = self.open.values().filter(|guest| guest.watches && Some(guest.node) != selected);
        watching.map(|guest| guest.node).collect()
    }

    /// Whether one has, since it was asked last.
    pub(crate) fn take_overflow(&mut self) -> bool {
        std::mem::take(&mut self.overflow)
    }

    /// The guest at a node, whether it is lost or not.
    pub(crate) fn take(&mut self, node: NodeId) -> Option<Guest> {
        self.open.remove(&node)
    }

    /// Takes a guest back that is ready for the next command.
    pub(crate) fn keep(&mut self, guest: Guest) {
        self.overflow |= guest.overflow;
        self.open.insert(guest.node, Guest { used: Instant::now(), ..guest });
    }

    /// Returns when a guest that may speak without being asked has done so, or is lost: the one with the selected
    /// mailbox, and those that watch; or when homes that are lost are to be looked for. Closes others that were not needed
    /// for long. Safe to cancel.
    pub(crate) async fn stirred(&mut self) {
        if self.have_moved() {
            // The session goes on elsewhere as soon as it can; until then there is nothing to hear.
            return std::future::pending().await;
        }
        if self.awaits() {
            return self.some_stirred(None).await;
        }
        if self.selected.is_some_and(|node| !self.open.contains_key(&node)) {
            // Lost already.
            return;
        }
        self.some_stirred(self.selected).await;
    }

    /// The same of all but the one with the selected mailbox.
    pub(crate) async fn others_stirred(&mut self) {
        self.some_stirred(None).await;
    }

    async fn some_stirred(&mut self, also: Option<NodeId>) {
        loop {
            let now = Instant::now();
            let selected = self.selected;
            let stays = |guest: &Guest| guest.watches || Some(guest.node) == selected;
            self.open.retain(|_, guest| stays(guest) || guest.used + UNUSED_MAX > now);
            let idle = self.open.values().filter(|guest| !stays(guest));
            let next = idle.map(|guest| guest.used + UNUSED_MAX).min();
            let until = async |at: Option<Instant>| match at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            };
            let unwatched = self.unwatched.next();
            let speakers = self.open.values_mut().filter(|guest| {
                let is_selected = Some(guest.node) == selected;
                Some(guest.node) == also || (guest.watches && !is_selected)
            });
            // Whatever came of it is found out by whoever listens.
            let mut reads: Vec<_> = speakers.map(|guest| Box::pin(guest.read_for(FOREVER))).collect();
            let speaks = std::future::poll_fn(|context| {
                match reads.iter_mut().any(|read| read.as_mut().poll(context).is_ready()) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            });
            tokio::select! {
                biased;
                () = speaks => return,
                () = until(unwatched) => return,
                () = until(next) => {}
            }
        }
    }

    /// A guest is lost, but what it was asked is known nevertheless.
    pub(crate) fn let_go(&mut self, guest: &Guest) {
        self.lose_watch(guest);
        if self.selected == Some(guest.node)
            && let Some(value) = guest.mark()
        {
            self.await_selected(guest.node, value);
        }
    }

    /// What a guest comes to that gave no answer. `changes`: it may have changed something.
    fn lost(&mut self, guest: &Guest, trouble: Trouble, changes: bool) -> Failure {
        self.let_go(guest);
        match trouble {
            Trouble::Client(error) => Failure::Gone(error),
            Trouble::Guest if self.selected == Some(guest.node) && self.awaits() => match changes {
                true => perhaps_done().into(),
                false => not_reached().into(),
            },
            // In the middle of a response there is no way to say anything.
            Trouble::Guest if !guest.passage.is_between() => {
                Failure::Gone(IoError::Lost(std::io::ErrorKind::UnexpectedEof.into()))
            }
            _ if changes || self.selected == Some(guest.node) => farewell().into(),
            _ => not_reached().into(),
        }
    }
}

/// The session cannot go on: whether a change was made is not known, or the selected mailbox is lost.
fn farewell() -> Answer {
    let mut answer = Answer::no(Code::Unavailable, "The mailbox's server is lost; connect again");
    answer.condition = Condition::Bye;
    answer
}

/// For what may be done, or not.
pub(crate) fn perhaps_done() -> Answer {
    Answer::no(Code::Unavailable, "The server of that mailbox is lost; whether this was done is not known")
}

/// What becomes of a change for which a guest was lost that had nothing selected. `ended`: it may have been done.
pub(crate) fn lost_before(trouble: Trouble, ended: bool) -> Failure {
    match trouble {
        Trouble::Client(error) => Failure::Gone(error),
        Trouble::Moved => Failure::Moved,
        Trouble::Guest if ended => farewell().into(),
        Trouble::Guest => not_reached().into(),
    }
}

/// For what can be said to be undone.
pub(crate) fn not_reached() -> Answer {
    Answer::no(Code::Unavailable, "That mailbox cannot be reached at the moment")
}

/// The tag of what the session asks for itself.
pub(crate) fn own_tag() -> Option<Tag> {
    Tag::new(b"guest")
}

impl User {
    /// What a guest comes to that gave no answer. `changes`: it may have changed something.
    pub(crate) fn lost(&mut self, guest: &Guest, trouble: Trouble, changes: bool) -> Failure {
        match trouble {
            Trouble::Moved if self.has_moved(guest) => Failure::Moved,
            trouble => self.guests.lost(guest, trouble, changes),
        }
    }

    /// Whether a guest goes on elsewhere; then what it knew is kept for that.
    pub(crate) fn has_moved(&mut self, guest: &Guest) -> bool {
        let Some(value) = guest.value() else { return false };
        learn_homes(&self.services, &value.session);
        if value.watches || value.session.selected.is_some() {
            self.guests.moved.push(value);
        }
        true
    }

    /// Has the guest at a node do a command.
    pub(crate) async fn forward(
        &mut self,
        wire: &mut Wire,
        tag: &Tag,
        node: NodeId,
        command: Command,
    ) -> Result<Answer, Failure> {
        let changes = changes(&command);
        let begins_modseqs = begins_modseqs(&command);
        let octets = printed(tag, command)?;
        let mut guest = self.guest(wire, node).await?;
        guest.ask(self.enabled, octets);
        match guest.answer(wire, tag).await {
            Ok(answer) => {
                if begins_modseqs && answer.condition != Condition::Bad {
                    self.enabled.condstore = true;
                    guest.enabled.condstore = true;
                }
                self.guests.keep(guest);
                Ok(answer)
            }
            Err(trouble) => Err(self.lost(&guest, trouble, changes)),
        }
    }

    /// Lets the guest with the selected mailbox say what is new there.
    pub(crate) async fn news(&mut self, wire: &mut Wire) -> Result<(), Failure> {
        match (self.guests.selected, own_tag()) {
            (Some(node), Some(tag)) => self.forward(wire, &tag, node, Command::Noop).await.map(drop),
            _ => Ok(()),
        }
    }

    /// Asks the guest at a node something for the session itself. What begins as one of `wanted` is given back, not
    /// passed on.
    pub(crate) async fn ask(
        &mut self,
        wire: &mut Wire,
        node: NodeId,
        command: Command,
        wanted: &[&[u8]],
    ) -> Result<(Answer, Vec<Bytes>), Failure> {
        let Some(tag) = own_tag() else { return Err(Answer::server_fault().into()) };
        let octets = printed(&tag, command)?;
        let mut guest = self.guest(wire, node).await?;
        guest.ask(self.enabled, octets);
        match guest.answer_with(wire, &tag, wanted).await {
            Ok(answered) => {
                self.guests.keep(guest);
                Ok(answered)
            }
            Err(trouble) => Err(self.lost(&guest, trouble, false)),
        }
    }
}

/// A command's octets, as a guest takes them.
pub(crate) fn printed(tag: &Tag, command: Command) -> Result<Bytes, Failure> {
    let tagged = Tagged { tag: tag.clone(), command };
    match encode(&tagged, Literals::NonSynchronising) {
        // Without waits it is one piece.
        Ok(pieces) => Ok(pieces.into_iter().next().unwrap_or_default()),
        Err(error) => {
            tracing::debug!(%error, "a command cannot be sent on");
            Err(Answer::no(Code::Cannot, "That cannot be asked of the mailbox's server").into())
        }
    }
}

/// What a session that goes on elsewhere has said of the homes of accounts.
pub(crate) fn learn_homes(services: &Services, value: &SessionValue) {
    for HomeValue { account, node, epoch } in &value.homes {
        if let Some(account) = AccountId::new(*account) {
            services.router.hear_of(account, NodeId(*node), Epoch(*epoch));
        }
    }
}
