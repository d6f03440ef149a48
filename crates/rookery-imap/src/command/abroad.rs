//! Commands while a mailbox of another node is selected: a guest there has it, and does what is about its messages.

use super::operation::{self, Operation};
use super::{Context, Outcome, elsewhere, of_mailboxes, replace, transfer};
use crate::answer::{Answer, Failure};
use crate::connection::{departed, ended};
use crate::guest::{Guest, Heard, Trouble, own_tag, printed};
use crate::mark;
use crate::measure::Idling;
use crate::notify;
use crate::progress::Progress;
use crate::session::{Abroad, State, User};
use crate::tell;
use crate::wire::{LINE_OCTETS_MAX, Wire, closed};
use bytes::Bytes;
use rookery_codec::imap::server::Decoded;
use rookery_codec::imap::{Code, Command, Condition, Response, Tag, WireName};
use rookery_net::{DrainGuard, IoError};
use rookery_types::{ModSeq, NodeId};
use std::time::Duration;

/// Takes the old state and gives the next.
pub(super) async fn abroad(state: State, command: Command, context: Context<'_>) -> (State, Outcome) {
    let State::Abroad(mut user, abroad) = state else {
        return (state, Ok(Answer::bad("No mailbox is selected")));
    };
    let Context { services, wire, tag } = context;
    let outcome = match command {
        Command::Select { mailbox, read_only, parameters } => {
            let context = Context { services, wire, tag };
            let state = State::Abroad(user, abroad);
            return elsewhere::select(state, mailbox, read_only, parameters, context).await;
        }
        Command::Close | Command::Unselect => {
            let leaves_all = matches!(command, Command::Unselect) && user.guests.awaits();
            let outcome = match leaves_all {
                true => Ok(Answer::ok("UNSELECT completed")),
                false => user.forward(wire, tag, abroad.node, command).await,
            };
            if matches!(outcome, Err(Failure::Moved)) || (outcome.is_err() && user.guests.awaits()) {
                return (State::Abroad(user, abroad), outcome);
            }
            user.guests.set_selected(None);
            return (State::Authenticated(user), outcome);
        }
        Command::Expunge { uids: Some(uids) } if std::mem::take(&mut wire.replaces) => {
            replace::take_away_there(wire, &mut user, abroad.node, uids).await
        }
        Command::Noop
        | Command::Check
        | Command::Expunge { .. }
        | Command::Search(_)
        | Command::Sort(_)
        | Command::Thread(_)
        | Command::Fetch(_)
        | Command::Store(_) => user.forward(wire, tag, abroad.node, command).await,
        Command::Notify(asked) => {
            let outcome = super::notify::notify(wire, &mut user, None, asked).await;
            with_news(&mut user, wire, outcome).await
        }
        Command::Copy { ref mailbox, .. } | Command::Move { ref mailbox, .. } => {
            transferred(&mut user, &abroad, mailbox.clone(), command, wire, tag).await
        }
        command => match user.home_of_command(&command).await {
            Ok(Some(node)) if node == abroad.node => user.forward(wire, tag, node, command).await,
            _ => {
                let context = Context { services, wire: &mut *wire, tag };
                let outcome = of_mailboxes(&mut user, command, context).await;
                with_news(&mut user, wire, outcome).await
            }
        },
    };
    (State::Abroad(user, abroad), outcome)
}

/// COPY and MOVE of messages of the selected mailbox.
async fn transferred(
    user: &mut User,
    abroad: &Abroad,
    mailbox: WireName,
    command: Command,
    wire: &mut Wire,
    tag: &Tag,
) -> Outcome {
    let home = user.home_of_mailbox(&mailbox).await?;
    let is_here = match (user.names.address(&mailbox), home) {
        (_, Some(node)) => node != abroad.node,
        // What is nowhere is said by the guest, with what else is wrong.
        (Ok(address), None) => user.account_of(address.account()).await?.is_some(),
        (Err(_), None) => false,
    };
    let outcome = match command {
        command if !is_here => {
            return transferred_there(wire, user, tag, abroad.node, &mailbox, command).await;
        }
        Command::Copy { uid, set, .. } => {
            let mut progress = Progress::new(tag);
            let (what, to) = ((set, uid), (home, &mailbox));
            Box::pin(transfer::bring(wire, &mut progress, user, abroad, what, to)).await
        }
        // The home of the messages moves them, wherever they go.
        command => return user.forward(wire, tag, abroad.node, command).await,
    };
    with_news(user, wire, outcome).await
}

/// COPY and MOVE of messages of the selected mailbox to a mailbox of the same home, which does it.
async fn transferred_there(
    wire: &mut Wire,
    user: &mut User,
    tag: &Tag,
    node: NodeId,
    name: &WireName,
    command: Command,
) -> Outcome {
    let moves = matches!(command, Command::Move { .. });
    let octets = printed(tag, command)?;
    let operation = Operation::new();
    let mut guest = user.guest(wire, node).await?;
    guest.ask_as(operation, user.enabled, octets);
    match guest.answer(wire, tag).await {
        Ok(answer) => {
            user.guests.keep(guest);
            Ok(answer)
        }
        Err(Trouble::Guest) if guest.is_between() => {
            match operation::lost_answer(wire, user, &Trouble::Guest, name, operation).await {
                Some(answer) => {
                    user.guests.let_go(&guest);
                    match answer.code {
                        Some(code @ Code::CopyUid { .. }) if moves => {
                            moved_there(wire, user, node, code, answer.condition == Condition::Ok).await
                        }
                        _ => Ok(answer),
                    }
                }
                None => Err(user.lost(&guest, Trouble::Guest, true)),
            }
        }
        Err(trouble) => Err(user.lost(&guest, trouble, true)),
    }
}

/// The answer of a MOVE as it was asked for. `whole`: all of them were moved.
async fn moved_there(wire: &mut Wire, user: &mut User, node: NodeId, code: Code, whole: bool) -> Outcome {
    wire.put(&Response::ok_code(code, "These moved"));
    if let Err(Failure::Gone(error)) = user.news(wire).await {
        return Err(Failure::Gone(error));
    }
    if !whole {
        let text = "The mailbox's server was lost; only these were moved";
        return Ok(Answer::no(Code::Unavailable, text));
    }
    let told = user.guests.of(node).and_then(Guest::mark).and_then(|known| ModSeq::new(known.view.modseq));
    Ok(match told {
        Some(modseq) if user.enabled.qresync => {
            Answer::ok_code(Code::HighestModSeq(modseq), "MOVE completed")
        }
        // If what has gone could not be told yet, it will be by whoever goes on.
        _ => Answer::ok("MOVE completed"),
    })
}

/// What a command comes to that did not go to the guest, behind what is new in the selected mailbox.
pub(super) async fn with_news(user: &mut User, wire: &mut Wire, outcome: Outcome) -> Outcome {
    match outcome {
        Err(failure @ (Failure::Gone(_) | Failure::Moved)) => Err(failure),
        Ok(answer) if answer.condition == Condition::Bye => Ok(answer),
        Err(Failure::Refused(answer)) if answer.condition == Condition::Bye => Err(Failure::Refused(answer)),
        outcome => match user.news(wire).await {
            // That is told by whoever goes on.
            Ok(()) | Err(Failure::Moved) => outcome,
            // Its home is lost, for which this command cannot be blamed.
            Err(Failure::Refused(answer)) if answer.condition == Condition::No => outcome,
            Err(failure) => Err(failure),
        },
    }
}

/// Passes on what the guest with the selected mailbox has said without being asked. Refused with BYE: it is lost.
pub(crate) async fn hear(wire: &mut Wire, user: &mut User) -> Result<(), Failure> {
    match user.guests.selected() {
        Some(node) => hear_from(wire, user, node).await,
        None => Ok(()),
    }
}

/// The same of the guest at a node; refused without BYE: it is lost, and nothing was selected there.
pub(super) async fn hear_from(wire: &mut Wire, user: &mut User, node: NodeId) -> Result<(), Failure> {
    let Some(tag) = own_tag() else { return Ok(()) };
    if !user.guests.is_open(node) && user.guests.selected() != Some(node) {
        return Err(crate::guest::not_reached().into());
    }
    // What it has said is passed on, also if it is lost by now.
    let mut guest = match user.guests.take(node) {
        Some(guest) => guest,
        None => user.guest(wire, node).await?,
    };
    let heard = loop {
        match guest.unasked(wire, &tag).await {
            // What it says next is not waited for, but what has come is passed on.
            Ok(None) => match guest.has_more().await {
                Some(true) => {}
                Some(false) => break Ok(()),
                None => break Err(Trouble::Guest),
            },
            Ok(Some(_)) => break Err(Trouble::Guest),
            Err(trouble) => break Err(trouble),
        }
    };
    match heard {
        Ok(()) => {
            user.guests.keep(guest);
            Ok(())
        }
        Err(trouble) => Err(user.lost(&guest, trouble, false)),
    }
}

/// IDLE (RFC 9051 §6.3.13): the guest idles, and is told when the client is done.
pub(crate) async fn idle(
    wire: &mut Wire,
    user: &mut User,
    abroad: &Abroad,
    tag: &Tag,
    drain: &DrainGuard,
    resumed: bool,
) -> Outcome {
    let _idling = Idling::new();
    let mut resumed = resumed;
    loop {
        match idle_with_guest(wire, user, abroad, tag, drain, &mut resumed).await {
            Err(Failure::Refused(_)) if resumed && user.guests.awaits() => {
                if let Some(answer) = Box::pin(idle_alone(wire, user, abroad, tag, drain)).await? {
                    return Ok(answer);
                }
            }
            outcome => return outcome,
        }
    }
}

/// The same without the guest, whose home is lost: until the client is done, or the home may be there again.
async fn idle_alone(
    wire: &mut Wire,
    user: &mut User,
    abroad: &Abroad,
    tag: &Tag,
    drain: &DrainGuard,
) -> Result<Option<Answer>, Failure> {
    wire.decoder.expect_line(LINE_OCTETS_MAX);
    let silence_max = user.services.config.idle_timeout();
    let again = tokio::time::Instant::now() + LOOK_AGAIN;
    loop {
        match wire.decoder.next() {
            Decoded::NeedMore => {}
            Decoded::Line(line) if line.eq_ignore_ascii_case(b"DONE") => {
                return Ok(Some(Answer::ok("IDLE completed")));
            }
            Decoded::Line(_) => return Ok(Some(Answer::bad("DONE was expected"))),
            _ => return Err(closed()),
        }
        mark::flush(wire, user, None, Some((abroad, None)), Some(tag)).await?;
        let kept = drain.is_draining() && user.services.keeper.is_open();
        if wire.leaving || (drain.is_draining() && !kept) {
            return Ok(Some(super::idle::ending()));
        }
        if wire.suspended || kept || user.goes_on_elsewhere() {
            return Err(Failure::Moved);
        }
        let User { slot, home, .. } = &mut *user;
        tokio::select! {
            biased;
            () = drain.easing() => return Ok(Some(super::idle::ending())),
            () = ended(slot.as_ref()) => return Ok(Some(super::idle::ending())),
            () = departed(home.as_mut()) => {}
            () = tokio::time::sleep_until(again) => return Ok(None),
            read = wire.read(silence_max) => if !read? {
                return Err(closed());
            },
        }
    }
}

/// How long the lost home of a mailbox is not looked for again, in IDLE.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// `resumed`: the client knows that it idles.
async fn idle_with_guest(
    wire: &mut Wire,
    user: &mut User,
    abroad: &Abroad,
    tag: &Tag,
    drain: &DrainGuard,
    resumed: &mut bool,
) -> Outcome {
    let mut guest = user.guest(wire, abroad.node).await?;
    guest.ask(user.enabled, printed(tag, Command::Idle)?);
    match idling(wire, user, &mut guest, (abroad, tag), drain, resumed).await {
        Ok(None) => {
            user.guests.keep(guest);
            Err(Failure::Moved)
        }
        Ok(Some(answer)) => {
            if !guest.has_left() {
                user.guests.keep(guest);
            }
            Ok(answer)
        }
        Err(Broken::Guest(trouble)) => Err(user.lost(&guest, trouble, false)),
        Err(Broken::Session(failure)) => Err(failure),
    }
}

/// Why IDLE came to no good end.
enum Broken {
    Guest(Trouble),
    Session(Failure),
}

impl From<Trouble> for Broken {
    fn from(trouble: Trouble) -> Broken {
        Broken::Guest(trouble)
    }
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Broken {
        Broken::Session(failure)
    }
}

impl From<IoError> for Broken {
    fn from(error: IoError) -> Broken {
        Broken::Session(Failure::Gone(error))
    }
}

/// What has happened while it idles.
enum Woken {
    Guest,
    Client(bool),
    Changed,
    Ending,
}

async fn idling(
    wire: &mut Wire,
    user: &mut User,
    guest: &mut Guest,
    (abroad, tag): (&Abroad, &Tag),
    drain: &DrainGuard,
    resumed: &mut bool,
) -> Result<Option<Answer>, Broken> {
    match guest.hear(wire, tag).await? {
        Heard::Continue(_) if *resumed => {}
        Heard::Continue(text) => {
            wire.put(&Response::Continue(text));
            *resumed = true;
        }
        Heard::Answer(answer) => return Ok(Some(answer)),
    }
    wire.decoder.expect_line(LINE_OCTETS_MAX);
    let silence_max = user.services.config.idle_timeout();
    loop {
        match guest.unasked(wire, tag).await? {
            None => {}
            Some(Heard::Answer(answer)) => return Ok(Some(answer)),
            Some(Heard::Continue(_)) => return Err(Trouble::Guest.into()),
        }
        if user.notify.is_some() {
            tell::all(wire, user, None, true).await?;
        }
        match wire.decoder.next() {
            Decoded::NeedMore => {}
            Decoded::Line(line) => {
                guest.put(Bytes::from_static(b"DONE\r\n"));
                let answer = match guest.answer(wire, tag).await {
                    Err(Trouble::Moved) if user.has_moved(guest) => Answer::ok("IDLE completed"),
                    answer => answer?,
                };
                return Ok(Some(match line.eq_ignore_ascii_case(b"DONE") {
                    true => answer,
                    false => Answer::bad("DONE was expected"),
                }));
            }
            _ => return Err(closed().into()),
        }
        mark::flush(wire, user, None, Some((abroad, Some(guest))), Some(tag)).await?;
        if wire.leaving {
            return Ok(Some(super::idle::ending()));
        }
        let kept = drain.is_draining() && user.services.keeper.is_open();
        if wire.suspended || kept || user.goes_on_elsewhere() {
            // Whoever goes on asks again.
            guest.put(Bytes::from_static(b"DONE\r\n"));
            guest.answer(wire, tag).await?;
            return Ok(None);
        }
        let User { slot, notify, guests, home, .. } = &mut *user;
        let change = async {
            match notify.as_deref_mut() {
                Some(notify) => tokio::select! {
                    () = notify::changed(notify, None) => {}
                    () = guests.others_stirred() => {}
                },
                None => std::future::pending().await,
            }
        };
        let woken = tokio::select! {
            biased;
            () = drain.easing() => Woken::Ending,
            () = ended(slot.as_ref()) => Woken::Ending,
            read = guest.read() => {
                read?;
                Woken::Guest
            }
            () = change => Woken::Changed,
            () = departed(home.as_mut()) => Woken::Changed,
            read = wire.read(silence_max) => Woken::Client(read?),
        };
        match woken {
            Woken::Guest | Woken::Changed | Woken::Client(true) => {}
            Woken::Client(false) => return Err(closed().into()),
            Woken::Ending if drain.is_draining() && user.services.keeper.is_open() => {}
            Woken::Ending => return Ok(Some(super::idle::ending())),
        }
    }
}
