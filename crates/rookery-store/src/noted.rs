//! Which changes a task makes, for sessions that tell their client of everybody else's.

use parking_lot::Mutex;
use rookery_types::{AccountId, ModSeq};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Changes that are kept in mind until they are taken; what is made beyond counts as anybody's.
const NOTED_MAX: usize = 10_000;

/// Changes made by one's own work, by account and modseq. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Noted(Arc<Mutex<BTreeSet<(AccountId, ModSeq)>>>);

tokio::task_local! {
    static NOTED: Noted;
}

impl Noted {
    /// Does some work, and notes the changes that it makes itself; those that it has others make are not noted.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        NOTED.scope(self.clone(), work).await
    }

    /// Whether a change was made by work that was noted here.
    pub fn has(&self, account: AccountId, modseq: ModSeq) -> bool {
        self.0.lock().contains(&(account, modseq))
    }

    /// Forgets all of them.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

/// A change is being made.
pub(crate) fn note(account: AccountId, modseq: ModSeq) {
    // Most work is not noted.
    let _ = NOTED.try_with(|noted| {
        let mut noted = noted.0.lock();
        if noted.len() < NOTED_MAX {
            noted.insert((account, modseq));
        }
    });
}
