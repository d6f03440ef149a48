//! Work that may wait for the disk, off the runtime's threads.

use std::cell::Cell;

/// The work has not come to its end: it ended in a panic, or the runtime is ending.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("work beside the runtime was cut off")]
pub struct CutOff;

thread_local! {
    static IN_PLACE: Cell<bool> = const { Cell::new(false) };
}

/// On this thread such work is done in its place from now on: in a simulation nothing runs beside anything else, or its
/// order would be chance.
pub(crate) fn in_place() {
    IN_PLACE.set(true);
}

/// Does work that may wait for the disk while the runtime does other things. It goes on when the future is dropped.
pub async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, CutOff> {
    if IN_PLACE.get() {
        // Others come first, as they would.
        tokio::task::yield_now().await;
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await.map_err(|_| CutOff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn in_a_simulation_it_is_done_in_its_place() {
        let here = std::thread::current().id();
        assert_ne!(off_thread(|| std::thread::current().id()).await, Ok(here));
        assert_eq!(off_thread(|| panic!("a fault")).await, Err::<(), CutOff>(CutOff));
        crate::sim::in_place();
        assert_eq!(off_thread(|| std::thread::current().id()).await, Ok(here));
    }
}
