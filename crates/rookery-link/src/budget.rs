//! How much memory all windows of this process may grow to above their base.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Octets that streams may take so that more of a transfer is under way at once.
#[derive(Debug)]
pub struct Budget {
    left: AtomicUsize,
}

impl Budget {
    /// A budget of so many octets.
    pub fn new(octets: usize) -> Budget {
        Budget { left: AtomicUsize::new(octets) }
    }

    /// Takes all of it or nothing.
    pub(crate) fn take(&self, octets: u32) -> bool {
        let octets = octets as usize;
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(octets)).is_ok()
    }

    pub(crate) fn give(&self, octets: u32) {
        self.left.fetch_add(octets as usize, Ordering::Relaxed);
    }

    /// What nobody has taken.
    pub fn left_octets(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }
}
