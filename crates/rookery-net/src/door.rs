//! Whether the clients of some listeners are let in, and how those who are inside are sent away: while the server runs,
//! again and again.
//!
//! Invariants:
//! - Who was let in before the door was shut goes on, until they are sent away.
//! - The server's own drain counts all who are inside, and ends them.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::drain::{Drain, DrainGuard};

/// What the listeners behind a door do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doing {
    /// They let clients in.
    Open,
    /// They refuse clients.
    Shut,
    /// The same, and what is left inside is aborted.
    Cut,
}

/// How long those who do more than wait for news may go on, of the time in which all leave.
const PATIENT_PART: u32 = 2;
/// How long those get who are aborted, to be dropped.
const CUT_GRACE: Duration = Duration::from_secs(5);

/// A door that listeners share. Clones are the same door.
#[derive(Clone)]
pub struct Door {
    shared: Arc<Shared>,
}

struct Shared {
    doing: watch::Sender<Doing>,
    /// The server's.
    drain: Drain,
    /// Counts all who came by this door.
    inside: Drain,
    /// The signal of those who come now. Those who were told to leave have an older one.
    now: Mutex<Drain>,
}

impl From<Drain> for Door {
    fn from(drain: Drain) -> Door {
        Door::new(drain)
    }
}

impl Door {
    /// An open door of a server.
    pub fn new(drain: Drain) -> Door {
        let inside = drain.child();
        let now = Mutex::new(inside.child());
        Door { shared: Arc::new(Shared { doing: watch::Sender::new(Doing::Open), drain, inside, now }) }
    }

    /// Lets clients in. Those who were told to leave leave all the same.
    pub fn open(&self) {
        let mut now = self.shared.now.lock();
        if now.is_easing() {
            *now = self.shared.inside.child();
        }
        self.shared.doing.send_replace(Doing::Open);
    }

    /// Lets nobody in.
    pub fn shut(&self) {
        self.turn_to(Doing::Shut);
    }

    fn turn_to(&self, to: Doing) {
        self.shared.doing.send_if_modified(|doing| {
            let changes = *doing != to && (*doing == Doing::Open || to == Doing::Cut);
            if changes {
                *doing = to;
            }
            changes
        });
    }

    /// Shuts the door and sends away who is inside: at once who waits for nothing but news; in half of the time all
    /// others, when no command is under way; at its end whatever is left is aborted. With `now` nobody is waited for
    /// who has no command under way. Says how many were aborted. Whoever drops this stops sending away.
    pub async fn empty(&self, within: Duration, now: bool) -> usize {
        self.shut();
        let leaving = self.shared.now.lock().clone();
        leaving.ease();
        if !now {
            self.shared.inside.wait_for_all(within / PATIENT_PART).await;
        }
        leaving.start();
        let left = self.shared.inside.wait_for_all(if now { within } else { within / PATIENT_PART }).await;
        if left > 0 {
            tracing::warn!(connections = left, "connections did not end in time and are cut off");
            leaving.cut();
            self.turn_to(Doing::Cut);
            self.shared.inside.wait_for_all(CUT_GRACE).await;
        }
        left
    }

    /// Connections inside.
    pub fn inside(&self) -> usize {
        self.shared.inside.guards()
    }

    /// Whether clients are let in.
    pub fn is_open(&self) -> bool {
        *self.shared.doing.borrow() == Doing::Open
    }

    /// The server's drain.
    pub(crate) fn drain(&self) -> &Drain {
        &self.shared.drain
    }

    pub(crate) fn doing(&self) -> watch::Receiver<Doing> {
        self.shared.doing.subscribe()
    }

    /// For one who is let in.
    pub(crate) fn guard(&self) -> DrainGuard {
        self.shared.now.lock().guard()
    }
}
