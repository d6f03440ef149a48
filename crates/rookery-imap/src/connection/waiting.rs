//! A session while its client asks for nothing: between commands, and in IDLE.
//!
//! Invariants:
//! - Whatever ends or moves a session is heard here: the drain, the end of its account, the account's leaving.
//! - What is told unasked is told between commands, or where the RFC lets it be told.

use super::{Driver, Next, account_closed, bye};
use crate::answer::{Answer, Failure};
use crate::command;
use crate::guest::Guests;
use crate::handed::Replay;
use crate::mark;
use crate::measure;
use crate::notify::{self, Notify};
use crate::session::{Selected, State, User};
use crate::tell;
use rookery_auth::SessionSlot;
use rookery_codec::imap::{Code, Condition, Tag};
use rookery_net::Timing;
use rookery_store::Whereabouts;
use tokio::sync::watch;

impl Driver {
    /// Sends what is waiting and waits for the client, or for the server's or the account's end.
    pub(super) async fn wait(&mut self) -> Result<Next, Failure> {
        Box::pin(mark::flush_state(&mut self.wire, &self.state)).await?;
        let limit = self.wire.silence_max;
        let (user, selected) = match &mut self.state {
            State::Authenticated(user) | State::Abroad(user, _) => (Some(&mut **user), None),
            State::Selected(user, selected) => (Some(&mut **user), Some(&**selected)),
            State::NotAuthenticated | State::Away(_) | State::Logout => (None, None),
        };
        // Between commands, and nowhere else, can it go on elsewhere.
        let is_between = self.wire.decoder.is_between();
        let (slot, home, mut stirred) = match user {
            Some(User { slot, notify, guests, home, own, .. }) => {
                // Few need it, and what they wait with is large.
                let is_own = |selected: &&Selected| {
                    own.as_ref().is_some_and(|own| own.id() == selected.mailbox.account().id())
                };
                let others = selected.filter(|selected| is_between && !is_own(selected));
                let others = others.map(|selected| selected.home.clone());
                let needed = notify.is_some() || !guests.is_empty() || others.is_some();
                let stirred =
                    needed.then(|| Box::pin(stirred(notify.as_deref_mut(), guests, selected, others)));
                (slot.as_ref(), home.as_mut().filter(|_| is_between), stirred)
            }
            None => (None, None, None),
        };
        let stirs = async {
            match &mut stirred {
                Some(stirred) => stirred.await,
                None => std::future::pending().await,
            }
        };
        let patient = self.wire.suspended;
        tokio::select! {
            biased;
            // A command that has begun to come is waited for until the drain is cut off.
            () = self.drain.draining(), if !patient => {
                drop(stirred);
                if self.is_kept() {
                    return Ok(Next::Go);
                }
                self.wire.put(&bye(Some(Code::Unavailable), "The server is ending"));
                return Ok(Next::Close);
            }
            read = self.wire.read(limit) => match read? {
                true => return Ok(Next::Go),
                false => return Ok(Next::Close),
            },
            () = ended(slot) => return Ok(account_closed(&mut self.wire)),
            () = departed(home) => return Ok(Next::Go),
            () = stirs => {}
        }
        drop(stirred);
        Box::pin(self.unasked()).await
    }

    /// Tells what NOTIFY asks for while no command is under way.
    async fn unasked(&mut self) -> Result<Next, Failure> {
        match &mut self.state {
            State::Selected(user, selected) => {
                let expunges = user.of_selected().is_some_and(|of| !of.delayed);
                tell::all(&mut self.wire, user, Some(selected), expunges).await?;
            }
            State::Authenticated(user) => tell::all(&mut self.wire, user, None, true).await?,
            State::Abroad(user, _) => {
                let heard = match command::abroad::hear(&mut self.wire, user).await {
                    Err(Failure::Refused(_)) if user.guests.awaits() => Ok(()),
                    heard => heard,
                };
                let heard = match heard {
                    Ok(()) => tell::all(&mut self.wire, user, None, true).await,
                    Err(failure) => Err(failure),
                };
                match heard {
                    // The client hears of it when it asks for something.
                    Err(Failure::Refused(_)) if user.guests.awaits() => {}
                    Err(Failure::Refused(answer)) => return Ok(self.farewell(*answer)),
                    heard => heard?,
                }
            }
            State::NotAuthenticated | State::Away(_) | State::Logout => {}
        }
        Ok(Next::Go)
    }

    /// IDLE. `resumed`: it has begun at another node.
    pub(super) async fn idle(&mut self, tag: Tag, resumed: bool) -> Result<Next, Failure> {
        let timing = Timing::start(&measure::NAMES, "IDLE", tag.as_str());
        let outcome = match &mut self.state {
            State::NotAuthenticated | State::Away(_) | State::Logout => {
                Err(Answer::bad("Log in first").into())
            }
            State::Authenticated(user) => {
                let begun = (&tag, resumed);
                Box::pin(command::idle::idle(&mut self.wire, user, None, &self.drain, begun)).await
            }
            State::Selected(user, selected) => {
                let begun = (&tag, resumed);
                Box::pin(command::idle::idle(&mut self.wire, user, Some(selected), &self.drain, begun)).await
            }
            State::Abroad(user, abroad) => {
                Box::pin(command::abroad::idle(&mut self.wire, user, abroad, &tag, &self.drain, resumed))
                    .await
            }
        };
        if matches!(&outcome, Err(Failure::Moved)) {
            timing.end("moved");
            let whither = self.whither().unwrap_or_else(|| self.here());
            if self.state.is_bereft() && !self.wire.suspended {
                return Box::pin(self.go_home(whither, Some(tag))).await;
            }
            return Box::pin(self.hand_over(whither, Some(tag), Replay::default(), None)).await;
        }
        if matches!(&outcome, Ok(answer) if answer.condition == Condition::Bye) {
            // The server's end, or the account's.
            if self.state.is_ended() {
                return Ok(account_closed(&mut self.wire));
            }
            self.wire.put(&bye(Some(Code::Unavailable), "The server is ending"));
            return Ok(Next::Close);
        }
        self.answered(tag, timing, true, outcome).await
    }
}

/// Returns when there may be something to tell that was not asked for. Safe to cancel.
async fn stirred(
    notify: Option<&mut Notify>,
    guests: &mut Guests,
    selected: Option<&Selected>,
    mut home: Option<watch::Receiver<Whereabouts>>,
) {
    let changed = async {
        match notify {
            Some(notify) => notify::changed(notify, selected).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = changed => {}
        () = guests.stirred() => {}
        () = departed(home.as_mut()) => {}
    }
}

/// Returns when an account has left for another node that serves it. Safe to cancel.
pub(crate) async fn departed(home: Option<&mut watch::Receiver<Whereabouts>>) {
    let has_left = match home {
        Some(home) => home.wait_for(|whereabouts| *whereabouts != Whereabouts::Here).await.is_ok(),
        None => false,
    };
    if !has_left {
        std::future::pending::<()>().await;
    }
}

/// Returns when the account of a session is closed.
pub(crate) async fn ended(slot: Option<&SessionSlot>) {
    match slot {
        Some(slot) => slot.ended().await,
        None => std::future::pending().await,
    }
}
