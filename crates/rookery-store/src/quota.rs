//! Quota roots: which one a mailbox has, what it holds and what it may hold.
//!
//! Invariants:
//! - A mailbox has at most one root: the nearest mailbox at or above it that has limits, else the account itself.
//! - What a root holds changes in the same batch as the messages. The account's record counts everything in the
//!   account; what the account's own root holds is that, less what nearer roots hold.
//! - A change that adds is refused by the total it would lead to. One that only takes away is never refused.

use crate::account::Account;
use crate::error::StoreError;
use crate::messages::Message;
use crate::records::{AccountRecord, Change, Held, Limits, Settings};
use crate::sequencer::{MailboxState, Transaction, Tree};
use rookery_types::{MailboxId, MailboxPath};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Quota roots that one account can have.
pub const QUOTA_ROOTS_MAX: usize = 1000;

/// A quota root as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quota {
    /// The mailbox it begins at: INBOX, or the root of a shared account, for the account's own.
    pub path: MailboxPath,
    /// What it holds.
    pub held: Held,
    /// How many mailboxes it governs.
    pub mailboxes: u64,
    /// What it may hold.
    pub limits: Limits,
}

impl Held {
    /// What messages come to.
    pub(crate) fn of<'a>(messages: impl IntoIterator<Item = &'a Message>) -> Held {
        messages
            .into_iter()
            .fold(Held::default(), |held, m| held.plus(Held { octets: m.size.into(), messages: 1 }))
    }

    /// What all messages of a mailbox come to.
    fn of_mailbox(state: &MailboxState) -> Held {
        Held { octets: state.summary.octets, messages: state.summary.exists.into() }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, more: Held) -> Held {
        Held {
            octets: self.octets.saturating_add(more.octets),
            messages: self.messages.saturating_add(more.messages),
        }
    }

    /// This less the other.
    #[must_use]
    pub fn less(self, gone: Held) -> Held {
        Held {
            octets: self.octets.saturating_sub(gone.octets),
            messages: self.messages.saturating_sub(gone.messages),
        }
    }
}

impl Limits {
    /// Whether nothing is limited.
    pub fn is_none(&self) -> bool {
        *self == Limits::default()
    }

    /// Whether so much is within the limits.
    pub fn allow(&self, held: Held) -> bool {
        let within = |n: u64, max: Option<u64>| max.is_none_or(|max| n <= max);
        within(held.octets, self.octets) && within(held.messages, self.messages)
    }
}

/// Whether a path is the mailbox that its account is named after, and so the account's own quota root.
fn is_top(record: &AccountRecord, path: &MailboxPath) -> bool {
    match record.owner {
        Some(_) => path.is_inbox(),
        None => path.is_root(),
    }
}

impl Account {
    /// The mailbox that the account is named after.
    fn top(&self) -> MailboxPath {
        match self.owner() {
            Some(_) => MailboxPath::inbox(),
            None => MailboxPath::root(),
        }
    }

    /// The quota root of a path, whether or not there is a mailbox; `None` if nothing limits it.
    pub fn quota_of(&self, path: &MailboxPath) -> Option<Quota> {
        let tree = self.tree();
        self.quota(&tree, &self.root_path(&tree, path))
    }

    /// What the quota root of a path holds and may hold; `None` if nothing limits it. Costs little.
    pub fn quota_standing(&self, path: &MailboxPath) -> Option<(Held, Limits)> {
        let tree = self.tree();
        self.standing(&tree, &self.root_path(&tree, path))
    }

    /// The quota root that begins at a path; `None` if none does.
    pub fn quota_at(&self, path: &MailboxPath) -> Option<Quota> {
        self.quota(&self.tree(), path)
    }

    /// All quota roots of the account, its own first.
    pub fn quotas(&self) -> Vec<Quota> {
        let tree = self.tree();
        let paths = std::iter::once(self.top()).chain(tree.roots.keys().cloned());
        paths.filter_map(|path| self.quota(&tree, &path)).collect()
    }

    /// The mailboxes whose quota root begins at a path.
    pub fn governed_by(&self, path: &MailboxPath) -> Vec<Arc<MailboxState>> {
        let tree = self.tree();
        let governed = tree.by_path.iter().filter(|(one, _)| self.root_path(&tree, one) == *path);
        governed.map(|(_, cell)| cell.published.load_full()).collect()
    }

    /// Where the quota root of a path begins.
    fn root_path(&self, tree: &Tree, path: &MailboxPath) -> MailboxPath {
        tree.root_above(path).unwrap_or_else(|| self.top())
    }

    fn standing(&self, tree: &Tree, path: &MailboxPath) -> Option<(Held, Limits)> {
        let record = self.cell.record.load();
        let (held, limits) = match is_top(&record, path) {
            true => {
                let all = Held { octets: record.octets, messages: record.messages };
                let nearer = tree.roots.values().map(|cell| cell.published.load().held);
                (nearer.fold(all, Held::less), record.limits)
            }
            false => {
                let state = tree.roots.get(path)?.published.load();
                (state.held, state.settings.quota?)
            }
        };
        (!limits.is_none()).then_some((held, limits))
    }

    fn quota(&self, tree: &Tree, path: &MailboxPath) -> Option<Quota> {
        let (held, limits) = self.standing(tree, path)?;
        let mailboxes = tree.by_path.keys().filter(|one| self.root_path(tree, one) == *path).count() as u64;
        Some(Quota { path: path.clone(), held, mailboxes, limits })
    }

    /// Limits what a mailbox and all below it that has no nearer root may hold; no limits at all: it is a root no
    /// more. At the mailbox the account is named after, this limits the account. What is there already stays, even if
    /// it is more.
    pub async fn set_quota(&self, path: &MailboxPath, limits: Limits) -> Result<(), StoreError> {
        self.transact(|t| {
            if is_top(&t.record, path) {
                t.record.limits = limits;
                return Ok(());
            }
            let id = t.by_path(path).ok_or(StoreError::NoMailbox)?;
            let quota = (!limits.is_none()).then_some(limits);
            if t.roots().count() >= QUOTA_ROOTS_MAX && quota.is_some() {
                return Err(StoreError::TooMany("quota roots"));
            }
            let mailbox = t.change(id).ok_or(StoreError::NoMailbox)?;
            mailbox.settings = Arc::new(Settings { quota, ..Settings::clone(&mailbox.settings) });
            t.note(id, Change::Settings);
            recount(t);
            Ok(())
        })
        .await
    }
}

impl Tree {
    /// The nearest mailbox at or above a path that has limits of its own.
    fn root_above(&self, path: &MailboxPath) -> Option<MailboxPath> {
        let mut at = Some(path.clone()).filter(|_| !self.roots.is_empty());
        while let Some(path) = at {
            if self.roots.contains_key(&path) {
                return Some(path);
            }
            at = path.parent();
        }
        None
    }
}

/// The mailbox whose limits hold for a path; `None`: the account's do.
fn root_of(t: &Transaction<'_>, path: &MailboxPath) -> Option<MailboxId> {
    t.roots()
        .filter(|state| state.settings.path == *path || path.is_below(&state.settings.path))
        .max_by_key(|state| state.settings.path.as_str().len())
        .map(|state| state.id)
}

fn root_of_mailbox(t: &Transaction<'_>, id: MailboxId) -> Result<Option<MailboxId>, StoreError> {
    Ok(root_of(t, &t.mailbox(id).ok_or(StoreError::NoMailbox)?.settings.path))
}

/// What a root holds, and may hold.
fn standing(t: &Transaction<'_>, root: Option<MailboxId>) -> (Held, Limits) {
    match root.and_then(|root| t.mailbox(root)) {
        Some(state) => (state.held, state.settings.quota.unwrap_or_default()),
        None => {
            let all = Held { octets: t.record.octets, messages: t.record.messages };
            (t.roots().fold(all, |all, state| all.less(state.held)), t.record.limits)
        }
    }
}

/// Refuses what would be too much for a mailbox's root.
pub(crate) fn check(t: &Transaction<'_>, id: MailboxId, more: Held) -> Result<(), StoreError> {
    let (held, limits) = standing(t, root_of_mailbox(t, id)?);
    match more.messages == 0 || limits.allow(held.plus(more)) {
        true => Ok(()),
        false => Err(StoreError::OverQuota),
    }
}

/// The same for messages that come from another mailbox of the account and leave that.
pub(crate) fn check_move(
    t: &Transaction<'_>,
    from: MailboxId,
    to: MailboxId,
    more: Held,
) -> Result<(), StoreError> {
    match root_of_mailbox(t, from)? == root_of_mailbox(t, to)? {
        true => Ok(()),
        false => check(t, to, more),
    }
}

/// Counts what comes into a mailbox.
pub(crate) fn add(t: &mut Transaction<'_>, id: MailboxId, more: Held) {
    count(t, id, |held| held.plus(more));
}

/// Counts what leaves a mailbox. A deleted one holds nothing any more.
pub(crate) fn subtract(t: &mut Transaction<'_>, id: MailboxId, gone: Held) {
    count(t, id, |held| held.less(gone));
}

fn count(t: &mut Transaction<'_>, id: MailboxId, change: impl Fn(Held) -> Held) {
    let Ok(root) = root_of_mailbox(t, id) else { return };
    let all = change(Held { octets: t.record.octets, messages: t.record.messages });
    (t.record.octets, t.record.messages) = (all.octets, all.messages);
    if let Some(state) = root.and_then(|root| t.change(root)) {
        state.held = change(state.held);
    }
}

/// What each root governs: the account's own is `None`.
type Governed = BTreeMap<Option<MailboxId>, (Held, u64)>;

fn governed(t: &Transaction<'_>) -> Governed {
    let roots: BTreeMap<&MailboxPath, MailboxId> =
        t.roots().map(|state| (&state.settings.path, state.id)).collect();
    let root_of = |path: &MailboxPath| {
        let mut at = Some(path.clone());
        while let Some(path) = at.filter(|_| !roots.is_empty()) {
            if let Some(root) = roots.get(&path) {
                return Some(*root);
            }
            at = path.parent();
        }
        None
    };
    let mut found = Governed::new();
    for state in t.mailboxes() {
        let (held, mailboxes) = found.entry(root_of(&state.settings.path)).or_default();
        *held = held.plus(Held::of_mailbox(state));
        *mailboxes += 1;
    }
    found
}

/// Makes what every root holds agree with the tree, after that or its roots have changed.
pub(crate) fn recount(t: &mut Transaction<'_>) {
    let governed = governed(t);
    let roots: Vec<MailboxId> = t.roots().map(|state| state.id).collect();
    for root in roots {
        let (held, _) = governed.get(&Some(root)).copied().unwrap_or_default();
        if let Some(state) = t.change(root) {
            state.held = held;
        }
    }
}

/// The tree as a change finds it, so that [`Before::check`] can refuse what the change makes of it.
///
/// `None`: nothing in the account is limited.
pub(crate) struct Before(Option<Governed>);

impl Before {
    /// Looks at the tree.
    pub(crate) fn of(t: &Transaction<'_>) -> Before {
        let limited = !t.record.limits.is_none() || t.roots().next().is_some();
        Before(limited.then(|| governed(t)))
    }

    /// Counts anew, and refuses if a root has got more than it may have. What was too much before may stay.
    pub(crate) fn check(self, t: &mut Transaction<'_>) -> Result<(), StoreError> {
        let Some(before) = self.0 else { return Ok(()) };
        recount(t);
        for (root, (held, mailboxes)) in governed(t) {
            let (_, limits) = standing(t, root);
            let (had, had_mailboxes) = before.get(&root).copied().unwrap_or_default();
            let over = |n: u64, before: u64, max: Option<u64>| n > before && max.is_some_and(|max| n > max);
            if over(held.octets, had.octets, limits.octets)
                || over(held.messages, had.messages, limits.messages)
                || over(mailboxes, had_mailboxes, limits.mailboxes)
            {
                return Err(StoreError::OverQuota);
            }
        }
        Ok(())
    }
}
