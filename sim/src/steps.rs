//! Where moves of accounts are, as it is seen from outside: by what is durable at both nodes, by what they say to each
//! other, and by what the directory is asked. The numbers are those of decision 0016.
//!
//! At a step that is aimed at somebody fails, at once: before anybody else has done anything. Which steps were reached
//! when somebody failed is counted, whether it was aimed at or not.

use crate::strike::strike;
use crate::world::World;
use parking_lot::Mutex;
use rookery_directory::source::ConditionalBatch;
use rookery_route::Phase;
use rookery_store::{AccountState, Job, Stage, Store};
use rookery_types::{AccountId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use tokio::sync::watch;

/// A moment of a move. S is the home that the account leaves, T the node that it goes to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Point {
    /// S has written the move down.
    Prepared,
    /// The directory is asked that the account goes to T.
    Marking,
    /// It says so; S has not heard that.
    Marked,
    /// T is asked to receive the account.
    Beginning,
    /// T has written that down; S has not heard it.
    Receiving,
    /// The first records come to T.
    Copying,
    /// They are durable there, and S hears it.
    Copied,
    /// All records are compared.
    Comparing,
    /// S asks the directory for the last time.
    Deciding,
    /// The account stands still, and the last records come to T.
    Sealing,
    /// T has written down that it is ready; S has not heard it.
    Ready,
    /// S hears it.
    Sealed,
    /// S has given the account away; nobody has heard it.
    Released,
    /// T hears it.
    Releasing,
    /// T is the account's home; nobody has heard it.
    Home,
    /// S hears it.
    Active,
    /// The directory is asked that the account is at home at T.
    Announcing,
    /// It says so; T has not heard that.
    Announced,
    /// T has written down that the directory knows.
    Told,
    /// T is asked whether the directory knows.
    Settling,
    /// S hears that it does.
    Settled,
    /// S has written down that it is over.
    Moved,
    /// S has written down that it is given up.
    Aborting,
    /// T is told so.
    Cancelling,
    /// T has dropped what came.
    Cancelled,
    /// The directory is asked that the account goes nowhere.
    Unmarking,
    /// It says so; S has not heard that.
    Unmarked,
    /// S has forgotten the move.
    Stayed,
}

impl Point {
    /// All of them, in their order.
    pub const ALL: [Point; 28] = [
        Point::Prepared,
        Point::Marking,
        Point::Marked,
        Point::Beginning,
        Point::Receiving,
        Point::Copying,
        Point::Copied,
        Point::Comparing,
        Point::Deciding,
        Point::Sealing,
        Point::Ready,
        Point::Sealed,
        Point::Released,
        Point::Releasing,
        Point::Home,
        Point::Active,
        Point::Announcing,
        Point::Announced,
        Point::Told,
        Point::Settling,
        Point::Settled,
        Point::Moved,
        Point::Aborting,
        Point::Cancelling,
        Point::Cancelled,
        Point::Unmarking,
        Point::Unmarked,
        Point::Stayed,
    ];

    /// Its name, with the number of the step; `a` is what gives a move up.
    pub fn name(self) -> &'static str {
        match self {
            Point::Prepared => "1-prepared",
            Point::Marking => "1-marking",
            Point::Marked => "1-marked",
            Point::Beginning => "2-beginning",
            Point::Receiving => "2-receiving",
            Point::Copying => "3-copying",
            Point::Copied => "3-copied",
            Point::Comparing => "4-comparing",
            Point::Deciding => "4-deciding",
            Point::Sealing => "5-sealing",
            Point::Ready => "5-ready",
            Point::Sealed => "6-sealed",
            Point::Released => "6-released",
            Point::Releasing => "7-releasing",
            Point::Home => "7-home",
            Point::Active => "8-active",
            Point::Announcing => "9-announcing",
            Point::Announced => "9-announced",
            Point::Told => "9-told",
            Point::Settling => "10-settling",
            Point::Settled => "10-settled",
            Point::Moved => "10-moved",
            Point::Aborting => "a-aborting",
            Point::Cancelling => "a-cancelling",
            Point::Cancelled => "a-cancelled",
            Point::Unmarking => "a-unmarking",
            Point::Unmarked => "a-unmarked",
            Point::Stayed => "a-stayed",
        }
    }

    /// The move is given up before.
    fn is_of_giving_up(self) -> bool {
        self >= Point::Aborting
    }

    /// The directory itself is asked, or has answered: what is lost then is that request or that answer.
    pub(crate) fn is_at_the_directory(self) -> bool {
        matches!(
            self,
            Point::Marking
                | Point::Marked
                | Point::Announcing
                | Point::Announced
                | Point::Unmarking
                | Point::Unmarked
        )
    }

    fn is_end(self) -> bool {
        matches!(self, Point::Moved | Point::Stayed)
    }
}

/// Who fails.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// The home that the account leaves.
    Source,
    /// The node that it goes to.
    Target,
    /// The node at which a client has asked for something of the account and waits.
    Session,
    /// The directory: what it is asked or answers is lost, or it changes its leader.
    Directory,
    /// What links the source and the target.
    Link,
    /// The clock: of the source or the target, which stand still, or of all, which leap.
    Clock,
}

impl Role {
    /// All of them.
    pub const ALL: [Role; 6] =
        [Role::Source, Role::Target, Role::Session, Role::Directory, Role::Link, Role::Clock];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Role::Source => "source",
            Role::Target => "target",
            Role::Session => "session",
            Role::Directory => "directory",
            Role::Link => "link",
            Role::Clock => "clock",
        }
    }
}

/// Both nodes of a move: the home that is left, and the other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ends {
    pub(crate) source: NodeId,
    pub(crate) target: NodeId,
}

/// Who is to fail, at which step of the next move of an account.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Aim {
    pub(crate) account: AccountId,
    pub(crate) point: Point,
    pub(crate) role: Role,
}

/// All moves. One for a world.
pub(crate) struct Steps {
    state: Mutex<State>,
    /// Whether something is aimed at.
    armed: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    world: Weak<World>,
    /// The accounts whose requests to the directory are told apart.
    names: BTreeMap<AccountId, String>,
    under_way: BTreeMap<AccountId, (Point, Ends)>,
    aim: Option<Aim>,
    /// The aimed at move has been asked to be given up.
    cancelled: bool,
    /// The node at which steady clients ask.
    edge: usize,
    hits: BTreeMap<(Point, Role), u64>,
    moved: u64,
    ended: u64,
}

impl Steps {
    pub(crate) fn new() -> Arc<Steps> {
        Arc::new(Steps { state: Mutex::default(), armed: watch::Sender::new(false) })
    }

    pub(crate) fn attach(&self, world: &Arc<World>) {
        self.state.lock().world = Arc::downgrade(world);
    }

    pub(crate) fn name(&self, account: AccountId, name: &str) {
        self.state.lock().names.insert(account, name.to_owned());
    }

    pub(crate) fn account(&self, name: &str) -> Option<AccountId> {
        self.state.lock().names.iter().find(|(_, known)| *known == name).map(|(id, _)| *id)
    }

    pub(crate) fn aim(&self, aim: Aim, edge: usize) {
        let mut state = self.state.lock();
        (state.aim, state.cancelled, state.edge) = (Some(aim), false, edge);
        drop(state);
        self.armed.send_replace(true);
    }

    pub(crate) fn disarm(&self) {
        self.state.lock().aim = None;
        self.armed.send_replace(false);
    }

    pub(crate) fn armed(&self) -> watch::Receiver<bool> {
        self.armed.subscribe()
    }

    /// Whether the node is to fail at which clients wait.
    pub(crate) fn is_for_sessions(&self) -> bool {
        self.state.lock().aim.is_some_and(|aim| aim.role == Role::Session)
    }

    pub(crate) fn edge(&self) -> usize {
        self.state.lock().edge
    }

    /// How many moves have ended, one way or the other.
    pub(crate) fn ended(&self) -> u64 {
        self.state.lock().ended
    }

    /// How many accounts have come to a new home, and who failed at which step how often.
    pub(crate) fn sum(&self) -> (u64, BTreeMap<String, u64>) {
        let state = self.state.lock();
        let name = |(point, role): &(Point, Role)| format!("{} {}", point.name(), role.name());
        (state.moved, state.hits.iter().map(|(pair, times)| (name(pair), *times)).collect())
    }

    /// Somebody has failed: for which moves, and who was it there?
    pub(crate) fn failed(&self, who: impl Fn(&str, Ends) -> Option<Role>) {
        let mut state = self.state.lock();
        let state = &mut *state;
        for (account, (point, ends)) in &state.under_way {
            let name = state.names.get(account).map(String::as_str).unwrap_or_default();
            if let Some(role) = who(name, *ends) {
                *state.hits.entry((*point, role)).or_default() += 1;
            }
        }
    }

    /// A move is at a step now. Some: who has failed there, by aim.
    pub(crate) fn reached(&self, account: AccountId, point: Point, ends: Ends) -> Option<Role> {
        let mut state = self.state.lock();
        // The other node may hear late that a move was given up.
        if matches!(point, Point::Cancelling | Point::Cancelled) && !state.under_way.contains_key(&account) {
            return None;
        }
        match point.is_end() {
            true => {
                state.under_way.remove(&account);
                state.ended += 1;
            }
            false => drop(state.under_way.insert(account, (point, ends))),
        }
        let world = state.world.upgrade()?;
        if point == Point::Home {
            state.moved += 1;
        }
        let aim = state.aim.filter(|aim| aim.account == account);
        let gives_up = !state.cancelled
            && point == Point::Receiving
            && aim.is_some_and(|aim| aim.point.is_of_giving_up());
        state.cancelled |= gives_up;
        drop(state);
        if point == Point::Home {
            world.compare(account, ends);
        }
        if gives_up && let Some(source) = world.live_at(ends.source) {
            let asked = Arc::clone(&source);
            source.spawn(async move { drop(asked.mover.cancel(account).await) });
        }
        let aim = aim.filter(|aim| aim.point == point)?;
        if !strike(&world, aim, ends) {
            return None;
        }
        *self.state.lock().hits.entry((point, aim.role)).or_default() += 1;
        self.disarm();
        Some(aim.role)
    }

    /// How far the source is, in its own memory.
    pub(crate) fn phase(&self, account: AccountId, ends: Ends) -> Option<Phase> {
        let world = self.state.lock().world.upgrade()?;
        let status = world.live_at(ends.source)?.mover.status().ok()?;
        status.iter().find(|status| status.account == account).map(|status| status.phase)
    }

    /// A node asks the directory where it is.
    pub(crate) fn asks(&self, node: usize) {
        let compared = {
            let state = self.state.lock();
            let Some(id) = state.world.upgrade().and_then(|world| world.node_id(node)) else { return };
            let all = state.under_way.iter();
            let compared: Vec<(AccountId, Ends)> = all
                .filter(|(_, (point, ends))| *point == Point::Comparing && ends.source == id)
                .map(|(account, (_, ends))| (*account, *ends))
                .collect();
            compared
        };
        for (account, ends) in compared {
            if self.phase(account, ends) == Some(Phase::Following) {
                self.reached(account, Point::Deciding, ends);
            }
        }
    }

    /// Which step a change of the directory is that a node asks for: before it is done, and after.
    pub(crate) fn of_change(
        &self,
        node: usize,
        batch: &ConditionalBatch,
    ) -> Option<(AccountId, Point, Point, Ends)> {
        let (world, names) = {
            let state = self.state.lock();
            (state.world.upgrade()?, state.names.clone())
        };
        let live = world.machines.get(node)?.live()?;
        let here = live.store.node();
        let is_of = |name: &str| {
            let Some((local, domain)) = name.strip_prefix("user/").and_then(|name| name.split_once('@'))
            else {
                return false;
            };
            let key = format!("a{domain}\0u{local}");
            batch.writes.iter().any(|write| write.key == key.as_bytes())
        };
        let account = *names.iter().find(|(_, name)| is_of(name))?.0;
        let job = live.store.job(account).ok()??;
        let leaves = Ends { source: here, target: job.peer };
        match job.stage {
            Stage::Prepared => Some((account, Point::Marking, Point::Marked, leaves)),
            Stage::Aborting => Some((account, Point::Unmarking, Point::Unmarked, leaves)),
            Stage::Announce => {
                let comes = Ends { source: job.peer, target: here };
                Some((account, Point::Announcing, Point::Announced, comes))
            }
            Stage::Waiting | Stage::Receiving => None,
        }
    }
}

type Known = (Option<Job>, Option<AccountState>);

/// What one start of a node has durable of moves, looked at after each commit.
pub(crate) struct Durable {
    steps: Arc<Steps>,
    store: Store,
    known: BTreeMap<AccountId, Known>,
}

impl Durable {
    pub(crate) fn new(steps: Arc<Steps>, store: Store) -> Durable {
        let mut durable = Durable { steps, store, known: BTreeMap::new() };
        durable.known = durable.now();
        durable
    }

    fn now(&self) -> BTreeMap<AccountId, Known> {
        let jobs: BTreeMap<AccountId, Job> =
            self.store.jobs().unwrap_or_default().into_iter().map(|job| (job.account, job)).collect();
        let all: BTreeSet<AccountId> = self.known.keys().chain(jobs.keys()).copied().collect();
        let known = |id: AccountId| {
            let record = self.store.account_record(id).ok().flatten();
            (id, (jobs.get(&id).copied(), record.map(|record| record.state)))
        };
        all.into_iter().map(known).collect()
    }

    /// Something was committed.
    pub(crate) fn look(&mut self) {
        let now = self.now();
        for (account, after) in &now {
            let before = self.known.get(account).copied().unwrap_or_default();
            if let Some((point, peer)) = between(before, *after) {
                let here = self.store.node();
                let comes = matches!(
                    point,
                    Point::Receiving | Point::Ready | Point::Home | Point::Told | Point::Cancelled
                );
                let ends = match comes {
                    true => Ends { source: peer, target: here },
                    false => Ends { source: here, target: peer },
                };
                self.steps.reached(*account, point, ends);
            }
        }
        self.known = now;
        self.known.retain(|_, (job, _)| job.is_some());
    }
}

/// What one commit has made of a move, and with which other node.
fn between(before: Known, after: Known) -> Option<(Point, NodeId)> {
    let stage = |known: &Known| known.0.map(|job| job.stage);
    let is_released = |known: &Known| matches!(known.1, Some(AccountState::Released(_)));
    let is_moved = |known: &Known| matches!(known.1, Some(AccountState::Moved(_)));
    let is_ready = |known: &Known| matches!(known.1, Some(AccountState::Ready(_)));
    let peer = after.0.or(before.0)?.peer;
    let point = match (stage(&before), stage(&after)) {
        _ if is_released(&after) && !is_released(&before) => Point::Released,
        _ if is_moved(&after) && is_released(&before) => Point::Moved,
        _ if is_ready(&after) && !is_ready(&before) => Point::Ready,
        (was, Some(Stage::Prepared)) if was != Some(Stage::Prepared) => Point::Prepared,
        (was, Some(Stage::Aborting)) if was != Some(Stage::Aborting) => Point::Aborting,
        (was, Some(Stage::Receiving)) if was != Some(Stage::Receiving) => Point::Receiving,
        (was, Some(Stage::Announce)) if was != Some(Stage::Announce) => Point::Home,
        (Some(Stage::Aborting), None) => Point::Stayed,
        (Some(Stage::Announce), None) => Point::Told,
        (Some(Stage::Receiving), None) => Point::Cancelled,
        _ => return None,
    };
    Some((point, peer))
}
