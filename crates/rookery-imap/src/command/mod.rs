//! The commands: which may come in which state, and what state they leave. One file for each small family.

pub(crate) mod abroad;
mod acl;
pub(crate) mod append;
pub(crate) mod authenticate;
mod catenate;
mod close;
mod copy;
mod elsewhere;
mod enable;
mod expunge;
pub(crate) mod fetch;
mod id;
pub(crate) mod idle;
mod list;
mod list_all;
mod list_there;
mod lsub;
mod mailboxes;
mod metadata;
mod namespace;
mod notify;
pub(crate) mod notify_there;
pub(crate) mod operation;
mod quota;
mod replace;
mod search;
pub(crate) mod select;
mod send;
mod sort;
mod status;
mod store;
mod transfer;
mod xfer;

use crate::answer::{Answer, Failure, no_permission};
use crate::capability;
use crate::guest::not_reached;
use crate::progress::Progress;
use crate::services::Services;
use crate::session::{State, User};
use crate::wire::Wire;
use rookery_codec::imap::{Command, Condition, Response, Tag};
use rookery_types::Rights;
use std::sync::Arc;

/// What a command has at hand besides the session's state.
pub(crate) struct Context<'a> {
    pub(crate) services: &'a Arc<Services>,
    pub(crate) wire: &'a mut Wire,
    pub(crate) tag: &'a Tag,
}

/// What a command comes to.
type Outcome = Result<Answer, Failure>;

/// Whether messages may disappear while this command is answered. During commands with sequence numbers they
/// must not (RFC 9051 §7.5.1).
pub(crate) fn may_expunge(command: &Command) -> bool {
    match command {
        Command::Fetch(fetch) => fetch.uid,
        Command::Store(store) => store.uid,
        Command::Search(search) => search.uid,
        Command::Sort(sort) => sort.uid,
        Command::Thread(thread) => thread.uid,
        _ => true,
    }
}

/// Whether a command names messages by sequence number or asks for such (RFC 9586 §3).
fn names_numbers(command: &Command) -> bool {
    match command {
        Command::Fetch(fetch) => !fetch.uid,
        Command::Store(store) => !store.uid,
        Command::Copy { uid, .. } | Command::Move { uid, .. } => !uid,
        Command::Search(search) => !search.uid || crate::search::mentions_numbers(&search.key),
        Command::Sort(sort) => !sort.uid || crate::search::mentions_numbers(&sort.key),
        Command::Thread(thread) => !thread.uid || crate::search::mentions_numbers(&thread.key),
        _ => false,
    }
}

/// Takes the old state and gives the next.
pub(crate) async fn step(state: State, command: Command, context: Context<'_>) -> (State, Outcome) {
    match command {
        Command::Capability => {
            let names = capability::names(context.services, &state, context.wire);
            context.wire.put(&Response::Capability(names));
            (state, Ok(Answer::ok("CAPABILITY completed")))
        }
        // The checkpoint that follows every command is what they are for.
        Command::Noop if !matches!(state, State::Abroad(..)) => (state, Ok(Answer::ok("NOOP completed"))),
        Command::Id(parameters) => {
            id::id(context.wire, parameters);
            (state, Ok(Answer::ok("ID completed")))
        }
        Command::Logout => {
            context.wire.put(&Response::untagged(Condition::Bye, "Logging out"));
            (State::Logout, Ok(Answer::ok("LOGOUT completed")))
        }
        Command::Unknown { .. } => (state, Ok(Answer::bad("Unknown command"))),
        Command::List(_)
        | Command::Lsub { .. }
        | Command::Subscribe { .. }
        | Command::Unsubscribe { .. }
        | Command::Notify(_)
            if state.is_bereft() =>
        {
            (state, Err(not_reached().into()))
        }
        command => match state {
            State::NotAuthenticated => before_login(command, context).await,
            State::Authenticated(user) => authenticated(user, command, context).await,
            State::Selected(..) => selected(state, command, context).await,
            State::Abroad(..) => Box::pin(abroad::abroad(state, command, context)).await,
            State::Away(_) | State::Logout => (State::Logout, Ok(Answer::bad("The session is over"))),
        },
    }
}

async fn before_login(command: Command, context: Context<'_>) -> (State, Outcome) {
    let login = match command {
        Command::Login { user, password } => authenticate::login(context, user, password).await,
        Command::Authenticate { mechanism, initial } => {
            authenticate::authenticate(context, &mechanism, initial).await
        }
        Command::StartTls => Err(Answer::bad("TLS is active already or there is none").into()),
        _ => Err(Answer::bad("Log in first").into()),
    };
    match login {
        Ok((state, answer)) => (state, Ok(answer)),
        Err(failure) => (State::NotAuthenticated, Err(failure)),
    }
}

async fn authenticated(mut user: Box<User>, command: Command, context: Context<'_>) -> (State, Outcome) {
    match command {
        Command::Enable(names) => {
            let outcome = enable::enable(context.wire, &mut user, &names);
            (State::Authenticated(user), outcome)
        }
        Command::Select { mailbox, read_only, parameters } => {
            elsewhere::select(State::Authenticated(user), mailbox, read_only, parameters, context).await
        }
        Command::Notify(asked) => {
            let outcome = notify::notify(context.wire, &mut user, None, asked).await;
            (State::Authenticated(user), outcome)
        }
        command => {
            let outcome = of_mailboxes(&mut user, command, context).await;
            (State::Authenticated(user), outcome)
        }
    }
}

/// What can come in the authenticated state and in the selected one.
async fn of_mailboxes(user: &mut User, command: Command, context: Context<'_>) -> Outcome {
    if let Some(node) = user.home_of_command(&command).await? {
        return user.forward(context.wire, context.tag, node, command).await;
    }
    let wire = context.wire;
    match command {
        Command::Create { mailbox, special_use, at } => {
            let at = at.as_deref().map(String::from_utf8_lossy);
            mailboxes::create(wire, context.tag, user, &mailbox, special_use, at.as_deref()).await
        }
        Command::Delete { mailbox } => mailboxes::delete(user, &mailbox).await,
        Command::Rename { from, to, at: None } => mailboxes::rename(user, &from, &to).await,
        Command::Rename { from, to, at: Some(node) } => {
            xfer::rename(wire, context.tag, user, (&from, &to), &node).await
        }
        Command::Xfer { mailbox, node, partition: _ } => {
            xfer::xfer(wire, context.tag, user, &mailbox, &node).await
        }
        Command::Subscribe { mailbox } => mailboxes::subscribe(wire, user, &mailbox).await,
        Command::Unsubscribe { mailbox } => mailboxes::unsubscribe(user, &mailbox).await,
        Command::List(list) => list::list(wire, user, list).await,
        Command::Lsub { reference, pattern } => lsub::lsub(wire, user, &reference, &pattern).await,
        Command::Namespace => {
            namespace::namespace(wire, user);
            Ok(Answer::ok("NAMESPACE completed"))
        }
        Command::Status { mailbox, items } => status::status(wire, user, &mailbox, &items).await,
        Command::GetAcl { mailbox } => acl::get(wire, user, &mailbox).await,
        Command::SetAcl { mailbox, identifier, change, rights } => {
            acl::set(user, &mailbox, &identifier, change, rights).await
        }
        Command::DeleteAcl { mailbox, identifier } => acl::delete(user, &mailbox, &identifier).await,
        Command::ListRights { mailbox, identifier } => {
            acl::list_rights(wire, user, &mailbox, identifier).await
        }
        Command::MyRights { mailbox } => acl::my_rights(wire, user, &mailbox).await,
        Command::GetMetadata { mailbox, max_size, depth, entries } => {
            metadata::get(wire, user, &mailbox, max_size, depth, &entries).await
        }
        Command::SetMetadata { mailbox, entries } => metadata::set(user, &mailbox, &entries).await,
        Command::GetQuota { root } => quota::get(wire, user, &root).await,
        Command::GetQuotaRoot { mailbox } => quota::get_root(wire, user, &mailbox).await,
        Command::SetQuota { root, limits } => quota::set(wire, user, &root, &limits).await,
        Command::Login { .. } | Command::Authenticate { .. } => Ok(Answer::bad("You are logged in already")),
        Command::StartTls => Ok(Answer::bad("TLS comes before the login")),
        Command::Enable(_) => Ok(Answer::bad("ENABLE comes before a mailbox is selected")),
        Command::Check
        | Command::Close
        | Command::Unselect
        | Command::Expunge { .. }
        | Command::Search(_)
        | Command::Sort(_)
        | Command::Thread(_)
        | Command::Fetch(_)
        | Command::Store(_)
        | Command::Copy { .. }
        | Command::Move { .. } => Ok(Answer::bad("No mailbox is selected")),
        _ => Ok(Answer::bad("This server has no such command")),
    }
}

/// Whether a command looks at the messages of the selected mailbox, or changes them.
fn reads_messages(command: &Command) -> bool {
    matches!(
        command,
        Command::Expunge { .. }
            | Command::Search(_)
            | Command::Sort(_)
            | Command::Thread(_)
            | Command::Fetch(_)
            | Command::Store(_)
            | Command::Copy { .. }
            | Command::Move { .. }
    )
}

async fn selected(state: State, command: Command, context: Context<'_>) -> (State, Outcome) {
    let State::Selected(mut user, mut selected) = state else {
        return (state, Ok(Answer::bad("No mailbox is selected")));
    };
    if user.enabled.uid_only && names_numbers(&command) {
        return (State::Selected(user, selected), Ok(Answer::no_numbers()));
    }
    if reads_messages(&command) && !selected.rights(&user).contains(Rights::READ) {
        // The right was taken away since the mailbox was selected.
        return (State::Selected(user, selected), Err(no_permission().into()));
    }
    let command = match command {
        Command::Select { mailbox, read_only, parameters } => {
            let state = State::Selected(user, selected);
            return elsewhere::select(state, mailbox, read_only, parameters, context).await;
        }
        command => command,
    };
    let wire = context.wire;
    let replaces = std::mem::take(&mut wire.replaces);
    if replaces
        && let Command::Search(search) = &command
        && let Err(failure) = replace::asked(&user, &selected, &search.key).await
    {
        return (State::Selected(user, selected), Err(failure));
    }
    let knew_modseqs = user.enabled.condstore;
    let mut progress = Progress::new(context.tag);
    let progress = &mut progress;
    let outcome = match command {
        Command::Close => {
            let outcome = close::close(&user, &selected).await;
            return (State::Authenticated(user), outcome);
        }
        Command::Unselect => return (State::Authenticated(user), Ok(Answer::ok("UNSELECT completed"))),
        Command::Check => Ok(Answer::ok("CHECK completed")),
        Command::Notify(asked) => notify::notify(wire, &mut user, Some(&mut selected), asked).await,
        Command::Expunge { uids: Some(uids) } if replaces => {
            replace::take_away_as_asked(wire, &user, &mut selected, &uids).await
        }
        Command::Expunge { uids } => expunge::expunge(wire, progress, &user, &mut selected, uids).await,
        // RFC 6855 §3: everything is UTF-8 already.
        Command::Search(search) if user.enabled.utf8 && search.charset.is_some() => {
            Err(Answer::bad("With UTF8=ACCEPT a search has no charset").into())
        }
        Command::Search(search) => search::search(wire, context.tag, &mut user, &mut selected, search).await,
        Command::Sort(sort) => sort::sort(wire, context.tag, &mut user, &mut selected, sort).await,
        Command::Thread(thread) => sort::thread(wire, context.tag, &mut user, &mut selected, thread).await,
        Command::Fetch(fetch) => fetch::fetch(wire, &mut user, &mut selected, fetch).await,
        Command::Store(store) => store::store(wire, progress, &mut user, &mut selected, store).await,
        Command::Copy { uid, set, mailbox } => match user.home_of_mailbox(&mailbox).await {
            Ok(None) => copy::copy(wire, progress, &user, &selected, &set, uid, &mailbox).await,
            Ok(Some(node)) => {
                let (what, to) = ((&set, uid), (node, &mailbox));
                Box::pin(transfer::send(wire, progress, &mut user, &selected, what, to)).await
            }
            Err(failure) => Err(failure),
        },
        Command::Move { uid, set, mailbox } => {
            copy::r#move(wire, progress, &user, &mut selected, &set, uid, &mailbox).await
        }
        command => {
            let context = Context { services: context.services, wire: &mut *wire, tag: context.tag };
            of_mailboxes(&mut user, command, context).await
        }
    };
    if user.enabled.condstore && !knew_modseqs {
        // RFC 7162 §3.1: whoever begins to follow modseqs here needs one to begin with.
        let code = select::highest_modseq(&selected);
        wire.put(&Response::ok_code(code, "The last change that you know of"));
    }
    (State::Selected(user, selected), outcome)
}
