//! Clients that stay with this process while the program that takes its place runs their sessions.

use parking_lot::Mutex;
use rookery_net::Stream;
use std::sync::Arc;

use crate::{PipeService, SessionHead, Suspended};

/// A client whose session is to go on elsewhere: at this node, once the next program runs, or where it ran.
#[derive(Debug)]
pub struct Kept {
    /// Its connection.
    pub client: Stream,
    /// As what its session is opened.
    pub service: PipeService,
    /// The same.
    pub head: SessionHead,
    /// The session.
    pub session: Suspended,
}

/// Where sessions leave their clients when the process makes room for the next program. Closed until then. Cheap to
/// clone.
#[derive(Clone, Default)]
pub struct Keeper(Arc<Mutex<Option<Vec<Kept>>>>);

impl Keeper {
    /// From here on sessions that end because the server ends leave their clients here.
    pub fn open(&self) {
        self.0.lock().get_or_insert_default();
    }

    /// Whether clients are kept.
    pub fn is_open(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Takes a client; gives it back if none are kept.
    pub fn keep(&self, kept: Kept) -> Result<(), Box<Kept>> {
        match &mut *self.0.lock() {
            Some(all) => {
                all.push(kept);
                Ok(())
            }
            None => Err(Box::new(kept)),
        }
    }

    /// All of them. No more are taken.
    pub fn close(&self) -> Vec<Kept> {
        self.0.lock().take().unwrap_or_default()
    }
}
