//! What the server is told by signals.

use std::io;

use rookery_net::Drain;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::lineage::Lineage;
use crate::reload::Reload;
use crate::restart::Restart;

/// The signals that mean something here. From the start on none of them ends the process by itself.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    user2: Signal,
}

impl Signals {
    pub(crate) fn listen() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Does what it is told until the server is to end; whether that is for the program that takes its place.
    pub(crate) async fn until_the_end(
        &mut self,
        reload: &Reload,
        (restart, restarts): (&Restart, &mut mpsc::Receiver<()>),
        lineage: &Lineage,
    ) -> bool {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return false,
                _ = self.interrupt.recv() => return false,
                _ = self.hangup.recv() => drop(reload.run()),
                _ = self.user2.recv() => drop(restart.ask().await),
                () = lineage.orphaned() => return false,
                Some(()) = restarts.recv() => return true,
            }
        }
    }

    /// Whoever asks a second time does not want to wait for clients.
    pub(crate) async fn cut_at_the_next(mut self, drain: Drain) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
        drain.cut();
    }
}
