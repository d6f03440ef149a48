//! The signal that a server ends: first "finish what you do and say good-bye", then "stop".
//!
//! Invariants:
//! - Stages only go forward: serving, easing, draining, cut.
//! - A task that must be waited for holds a [`DrainGuard`]; the guard counts from its creation to its drop.
//! - A child is never at an earlier stage than its parent, and its guards count at the parent, too.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Serving,
    Easing,
    Draining,
    Cut,
}

/// The signal, shared by everything that must end with the server. Clones are the same signal.
#[derive(Clone)]
pub struct Drain {
    shared: Arc<Shared>,
}

struct Shared {
    stage: watch::Sender<Stage>,
    guards: AtomicUsize,
    all_gone: Notify,
    parent: Option<Drain>,
    children: Mutex<Vec<Weak<Shared>>>,
}

/// Held by a task that main waits for.
pub struct DrainGuard {
    drain: Drain,
}

impl Drain {
    /// A signal that was not given yet.
    pub fn new() -> Drain {
        Drain::at(Stage::Serving, None)
    }

    fn at(stage: Stage, parent: Option<Drain>) -> Drain {
        let (stage, _) = watch::channel(stage);
        let (guards, all_gone, children) = (AtomicUsize::new(0), Notify::new(), Mutex::default());
        Drain { shared: Arc::new(Shared { stage, guards, all_gone, parent, children }) }
    }

    /// A signal for some of what this one is for: given with this one, or before by itself.
    pub fn child(&self) -> Drain {
        // Under the lock, so that a stage that is reached meanwhile is either seen here or told to the child.
        let mut children = self.shared.children.lock();
        children.retain(|child| child.strong_count() > 0);
        let child = Drain::at(*self.shared.stage.borrow(), Some(self.clone()));
        children.push(Arc::downgrade(&child.shared));
        child
    }

    /// Before the first stage: who waits for nothing but news leaves, since its client comes again by itself.
    pub fn ease(&self) {
        self.raise(Stage::Easing);
    }

    /// First stage: listeners close, sessions finish the command under way and say BYE.
    pub fn start(&self) {
        self.raise(Stage::Draining);
    }

    /// Second stage: what is still there is aborted.
    pub fn cut(&self) {
        self.raise(Stage::Cut);
    }

    fn raise(&self, to: Stage) {
        self.shared.stage.send_if_modified(|stage| {
            let forward = to > *stage;
            if forward {
                *stage = to;
            }
            forward
        });
        let children: Vec<_> = self.shared.children.lock().iter().filter_map(Weak::upgrade).collect();
        for shared in children {
            Drain { shared }.raise(to);
        }
    }

    /// Waits until those may leave who wait for nothing but news. Safe to cancel.
    pub async fn easing(&self) {
        self.reached(Stage::Easing).await;
    }

    /// Whether that was reached.
    pub fn is_easing(&self) -> bool {
        *self.shared.stage.borrow() >= Stage::Easing
    }

    /// Whether the first stage was reached.
    pub fn is_draining(&self) -> bool {
        *self.shared.stage.borrow() >= Stage::Draining
    }

    /// Waits for the first stage. Safe to cancel; at once if it was reached before.
    pub async fn draining(&self) {
        self.reached(Stage::Draining).await;
    }

    /// Waits for the second stage.
    pub async fn cut_off(&self) {
        self.reached(Stage::Cut).await;
    }

    async fn reached(&self, stage: Stage) {
        // The sender lives in `self`, so waiting cannot fail.
        let _ = self.shared.stage.subscribe().wait_for(|now| *now >= stage).await;
    }

    /// Counts one more task to wait for, until the guard is dropped.
    pub fn guard(&self) -> DrainGuard {
        let mut counting = Some(self);
        while let Some(drain) = counting {
            drain.shared.guards.fetch_add(1, Ordering::AcqRel);
            counting = drain.shared.parent.as_ref();
        }
        DrainGuard { drain: self.clone() }
    }

    /// Guards alive now.
    pub fn guards(&self) -> usize {
        self.shared.guards.load(Ordering::Acquire)
    }

    /// Waits until no guard is left, or for `limit`. Says how many are left: 0 is success.
    pub async fn wait_for_all(&self, limit: Duration) -> usize {
        let none_left = async {
            loop {
                let notified = self.shared.all_gone.notified();
                if self.guards() == 0 {
                    return;
                }
                notified.await;
            }
        };
        let _ = tokio::time::timeout(limit, none_left).await;
        self.guards()
    }

    /// The whole ending: starts draining, waits for all guards up to `limit`, cuts off what is left and
    /// waits a moment for that. Says how many had to be cut off.
    pub async fn shut_down(&self, limit: Duration) -> usize {
        self.start();
        let left = self.wait_for_all(limit).await;
        self.cut();
        if left > 0 {
            tracing::warn!(connections = left, "connections did not end in time and are cut off");
            self.wait_for_all(CUT_GRACE).await;
        }
        left
    }
}

/// How long aborted tasks get to be dropped.
const CUT_GRACE: Duration = Duration::from_secs(5);

impl Default for Drain {
    fn default() -> Drain {
        Drain::new()
    }
}

impl DrainGuard {
    /// The signal this guard belongs to.
    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Waits for the first stage.
    pub async fn draining(&self) {
        self.drain.draining().await;
    }

    /// Waits until who waits for nothing but news may leave.
    pub async fn easing(&self) {
        self.drain.easing().await;
    }

    /// Whether the first stage was reached.
    pub fn is_draining(&self) -> bool {
        self.drain.is_draining()
    }
}

impl Drop for DrainGuard {
    fn drop(&mut self) {
        let mut counted = Some(&self.drain);
        while let Some(drain) = counted {
            if drain.shared.guards.fetch_sub(1, Ordering::AcqRel) == 1 {
                drain.shared.all_gone.notify_waiters();
            }
            counted = drain.shared.parent.as_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn main_waits_for_guards_and_then_cuts() {
        let drain = Drain::new();
        let polite = drain.guard();
        let stubborn = drain.guard();
        let polite = tokio::spawn(async move { polite.draining().await });
        let aborted = tokio::spawn(async move {
            stubborn.drain().cut_off().await;
        });
        assert!(!drain.is_draining());
        let before = tokio::time::Instant::now();
        assert_eq!(drain.shut_down(Duration::from_secs(10)).await, 1);
        assert_eq!(before.elapsed(), Duration::from_secs(10));
        assert_eq!(drain.guards(), 0);
        polite.await.unwrap();
        aborted.await.unwrap();
        drain.start();
        drain.cut_off().await; // a later start does not take the second stage back
    }

    #[tokio::test(start_paused = true)]
    async fn a_child_ends_by_itself_or_with_its_parent_and_counts_there() {
        let parent = Drain::new();
        let (one, other) = (parent.child(), parent.child());
        let (in_one, in_other) = (one.guard(), other.guard());
        assert_eq!((parent.guards(), one.guards(), other.guards()), (2, 1, 1));
        one.ease();
        in_one.easing().await;
        assert!(one.is_easing() && !one.is_draining() && !other.is_easing() && !parent.is_easing());
        one.start();
        in_one.draining().await;
        assert!(!in_other.is_draining());
        drop(in_one);
        assert_eq!((parent.guards(), one.guards()), (1, 0));
        parent.start();
        in_other.draining().await;
        assert!(parent.child().is_draining(), "who comes later is at the same stage");
        drop(in_other);
        assert_eq!(parent.wait_for_all(Duration::from_secs(1)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_there_is_no_wait() {
        let before = tokio::time::Instant::now();
        assert_eq!(Drain::new().shut_down(Duration::from_secs(60)).await, 0);
        assert_eq!(before.elapsed(), Duration::ZERO);
    }
}
