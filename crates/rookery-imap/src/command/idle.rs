//! IDLE (RFC 2177, RFC 9051 §6.3.13).
//!
//! Invariant: the future that waits owns no buffer and little else; tens of thousands of it wait at once.

use super::Outcome;
use crate::answer::{Answer, Failure};
use crate::connection::{departed, ended};
use crate::mark;
use crate::measure::Idling;
use crate::notify;
use crate::session::{Selected, User};
use crate::tell;
use crate::wire::{LINE_OCTETS_MAX, Wire, closed};
use rookery_codec::imap::server::Decoded;
use rookery_codec::imap::{Condition, Response, Tag};
use rookery_net::{DrainGuard, IoError};
use rookery_store::Whereabouts;
use std::pin::pin;
use tokio::sync::watch;
use tokio::time::Instant;

/// Why the wait is over.
enum Woken {
    Client(bool),
    Changed,
    Still,
    Ending,
}

/// Tells changes as they come, until the client says DONE. An answer with `Bye` means that the server ends, or the account.
pub(crate) async fn idle(
    wire: &mut Wire,
    user: &mut User,
    mut selected: Option<&mut Selected>,
    drain: &DrainGuard,
    (tag, resumed): (&Tag, bool),
) -> Outcome {
    let mut changed = selected.as_ref().map(|selected| selected.mailbox.changed());
    if !resumed {
        wire.put(&Response::Continue("idling".into()));
    }
    wire.decoder.expect_line(LINE_OCTETS_MAX);
    let _idling = Idling::new();
    let services = user.services.clone();
    let config = &services.config;
    let last_octet = Instant::now();
    loop {
        if let Some(changed) = &mut changed {
            changed.borrow_and_update();
        }
        Box::pin(tell::all(wire, user, selected.as_deref_mut(), true)).await?;
        match wire.decoder.next() {
            Decoded::NeedMore => {}
            Decoded::Line(line) if line.eq_ignore_ascii_case(b"DONE") => {
                return Ok(Answer::ok("IDLE completed"));
            }
            Decoded::Line(_) => return Ok(Answer::bad("DONE was expected")),
            _ => return Err(closed()),
        }
        Box::pin(mark::flush(wire, user, selected.as_deref(), None, Some(tag))).await?;
        if wire.leaving {
            return Ok(ending());
        }
        if drain.is_draining() && !services.keeper.is_open() {
            return Ok(ending());
        }
        let left = selected.as_deref().is_some_and(Selected::has_left) || user.goes_on_elsewhere();
        if wire.suspended || drain.is_draining() || left {
            return Err(Failure::Moved);
        }
        let (still_here, silence_max) = (config.still_here(), config.idle_timeout());
        let others = selected.as_deref().filter(|selected| !user.owns(selected.mailbox.account()));
        let others = others.map(|selected| selected.home.clone());
        let User { slot, notify, guests, home, .. } = &mut *user;
        // Beside it, since what waits is to be small.
        let mut left = Box::pin(one_departed(home.as_mut(), others));
        let end = pin!(async {
            tokio::select! {
                biased;
                () = drain.easing() => {}
                () = ended(slot.as_ref()) => {}
                () = &mut left => return Woken::Changed,
            }
            Woken::Ending
        });
        let woken = match notify.as_deref_mut() {
            None => wait(wire, pin!(of_mailbox(&mut changed)), end, still_here, silence_max).await?,
            Some(notify) => {
                let change = Box::pin(async {
                    tokio::select! {
                        () = notify::changed(notify, selected.as_deref()) => {}
                        () = guests.others_stirred() => {}
                    }
                });
                Box::pin(wait(wire, change, end, still_here, silence_max)).await?
            }
        };
        match woken {
            Woken::Client(true) => {}
            Woken::Client(false) => return Err(closed()),
            Woken::Changed => {}
            Woken::Still if last_octet.elapsed() >= config.idle_timeout() => {
                return Err(Failure::Gone(IoError::Idle));
            }
            Woken::Still => wire.put(&Response::untagged(Condition::Ok, "Still here")),
            Woken::Ending if drain.is_draining() => {}
            Woken::Ending => return Ok(ending()),
        }
    }
}

/// What stands for the server's end.
pub(super) fn ending() -> Answer {
    let mut answer = Answer::ok("");
    answer.condition = Condition::Bye;
    answer
}

/// Returns when one of two accounts has left.
async fn one_departed(
    home: Option<&mut watch::Receiver<Whereabouts>>,
    mut others: Option<watch::Receiver<Whereabouts>>,
) {
    tokio::select! {
        () = departed(home) => {}
        () = departed(others.as_mut()) => {}
    }
}

async fn of_mailbox(changed: &mut Option<watch::Receiver<u64>>) {
    let came = match changed {
        Some(changed) => changed.changed().await.is_ok(),
        None => false,
    };
    if !came {
        // Nothing is selected, or a mailbox that will never change again.
        std::future::pending::<()>().await;
    }
}

/// What comes first. The futures are pinned where they are: given as such, they would lie in memory twice.
async fn wait(
    wire: &mut Wire,
    change: impl Future<Output = ()> + Unpin,
    ending: impl Future<Output = Woken> + Unpin,
    still_here: std::time::Duration,
    silence_max: std::time::Duration,
) -> Result<Woken, Failure> {
    tokio::select! {
        biased;
        woken = ending => Ok(woken),
        () = change => Ok(Woken::Changed),
        () = tokio::time::sleep(still_here) => Ok(Woken::Still),
        read = wire.read(silence_max) => Ok(Woken::Client(read?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn octets_of<'a, F: Future>(
        _: impl FnOnce(&'a mut Wire, &'a mut User, Option<&'a mut Selected>, &'a DrainGuard) -> F,
    ) -> usize {
        std::mem::size_of::<F>()
    }

    #[test]
    fn the_future_that_waits_is_small() {
        let tag = Box::leak(Box::new(Tag::new(b"1").unwrap()));
        let octets = octets_of(|wire, user, selected, drain| idle(wire, user, selected, drain, (tag, false)));
        assert!(octets < 1280, "{octets}");
        assert!(std::mem::size_of::<User>() + std::mem::size_of::<Selected>() < 1024);
    }
}
