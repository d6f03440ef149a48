//! Which commands run at another node, and which. The only file that asks.
//!
//! Invariants:
//! - A command runs where the account of its mailbox is at home. One that names mailboxes of two homes is coordinated
//!   here, or refused; it is never done by half.
//! - A guest sends nothing on: what is not at home where it runs is not reached.

use super::{Context, Outcome, notify_there, select};
use crate::answer::{Answer, Failure};
use crate::names::{directory_failed, nothing_can_be_made};
use crate::session::{Abroad, State, User};
use rookery_codec::imap::command::SelectParameters;
use rookery_codec::imap::{Code, Command, Condition, Response, WireName};
use rookery_route::{Route, RouteError, Target};
use rookery_store::Destination;
use rookery_types::namespace::AdminNames;
use rookery_types::{AccountName, Address, NodeId};

impl User {
    /// The other node that an account is at home at; none: it is at home here, or there is none that the user can
    /// reach.
    pub(super) async fn other_home(&self, name: &AccountName) -> Result<Option<NodeId>, Failure> {
        let own = self.own.is_some() && name.user() == Some(&self.name);
        if own || !self.reaches(name.domain()) {
            return Ok(None);
        }
        match self.services.router.target(Address::top(name.clone())).await {
            Ok(Target { route: Route::Proxy(node), .. }) => Ok(Some(node)),
            Ok(_) | Err(RouteError::NonExistent(_) | RouteError::Name(_)) => Ok(None),
            Err(RouteError::Unavailable(error)) => Err(directory_failed(error)),
        }
    }

    /// The other node that commands on an account's mailboxes are sent to.
    pub(crate) async fn home_of(&self, name: &AccountName) -> Result<Option<NodeId>, Failure> {
        match self.is_guest {
            true => Ok(None),
            false => self.other_home(name).await,
        }
    }

    /// The same for the mailbox of a name. What can be no name is answered here.
    pub(crate) async fn home_of_mailbox(&self, name: &WireName) -> Result<Option<NodeId>, Failure> {
        match self.names.address(name).or_else(|_| self.names.new_address(name)) {
            Ok(address) => self.home_of(address.account()).await,
            Err(_) => Ok(None),
        }
    }

    /// The other node that a command runs at, by the mailbox or quota root that it names.
    pub(crate) async fn home_of_command(&self, command: &Command) -> Result<Option<NodeId>, Failure> {
        match self.account_of_command(command) {
            Some(account) => self.home_of(&account).await,
            None => Ok(None),
        }
    }

    /// The account that a command is about, by the mailbox or quota root that it names.
    pub(crate) fn account_of_command(&self, command: &Command) -> Option<AccountName> {
        let of_mailbox = |mailbox: &WireName| {
            let address = self.names.address(mailbox).or_else(|_| self.names.new_address(mailbox));
            address.ok().map(|address| address.account().clone())
        };
        match command {
            Command::Create { mailbox, .. } => {
                self.names.new_address(mailbox).ok().map(|address| address.account().clone())
            }
            Command::Delete { mailbox }
            | Command::Rename { from: mailbox, at: None, .. }
            | Command::Status { mailbox, .. }
            | Command::GetAcl { mailbox }
            | Command::SetAcl { mailbox, .. }
            | Command::DeleteAcl { mailbox, .. }
            | Command::ListRights { mailbox, .. }
            | Command::MyRights { mailbox }
            | Command::GetQuotaRoot { mailbox } => of_mailbox(mailbox),
            Command::GetMetadata { mailbox, .. } | Command::SetMetadata { mailbox, .. } => {
                match mailbox.as_bytes().is_empty() {
                    // The server's.
                    true => None,
                    false => of_mailbox(mailbox),
                }
            }
            Command::GetQuota { root } | Command::SetQuota { root, .. } => {
                let text = std::str::from_utf8(root.as_bytes()).ok();
                let names = AdminNames::new(self.name.domain()).ok();
                let address = text.zip(names).and_then(|(text, names)| names.parse(text).ok());
                address.map(|address| address.account().clone())
            }
            _ => None,
        }
    }

    /// The account that a command is about, or that it takes messages to.
    pub(crate) fn account_in_command(&self, command: &Command) -> Option<AccountName> {
        match command {
            Command::Copy { mailbox, .. } | Command::Move { mailbox, .. } => {
                self.names.address(mailbox).ok().map(|address| address.account().clone())
            }
            command => self.account_of_command(command),
        }
    }

    /// Where MOVE of messages of a mailbox that is here takes them, if that is another home; also of a guest's, since
    /// that home is not asked by this session.
    pub(crate) async fn departs_for(&self, name: &WireName) -> Result<Option<Destination>, Failure> {
        let Ok(address) = self.names.address(name) else { return Ok(None) };
        if self.other_home(address.account()).await?.is_none() {
            return Ok(None);
        }
        match self.services.router.locate(address.account()).await {
            Ok((account, Route::Proxy(home))) => {
                let (path, user) = (address.path().clone(), self.name.clone());
                Ok(Some(Destination { account, home, path, user }))
            }
            Ok(_) | Err(RouteError::NonExistent(_) | RouteError::Name(_)) => Ok(None),
            Err(RouteError::Unavailable(error)) => Err(directory_failed(error)),
        }
    }

    /// Why a mailbox of another account cannot take the name; none: the account is here, or there is none.
    pub(crate) async fn renames_away(&self, to: &WireName) -> Result<Option<Answer>, Failure> {
        let Ok(address) = self.names.new_address(to) else { return Ok(None) };
        let own = address.account().user() == Some(&self.name);
        if self.other_home(address.account()).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(match own || self.administers() {
            true => crossing_accounts(),
            // Whether there is such an account is not told.
            false => nothing_can_be_made(),
        }))
    }
}

/// RENAME stays within an account.
pub(super) fn crossing_accounts() -> Answer {
    Answer::no(Code::Cannot, "A mailbox cannot be renamed into another account")
}

/// SELECT and EXAMINE, wherever the mailbox is and the one before was.
pub(super) async fn select(
    state: State,
    mailbox: WireName,
    read_only: bool,
    parameters: SelectParameters,
    context: Context<'_>,
) -> (State, Outcome) {
    let Context { wire, tag, .. } = context;
    let (mut user, selected, abroad) = match state {
        State::Authenticated(user) => (user, None, None),
        State::Selected(user, selected) => (user, Some(selected), None),
        State::Abroad(user, abroad) => (user, None, Some(abroad)),
        state => return (state, Ok(Answer::bad("Log in first"))),
    };
    // If that cannot be found out, the mailbox cannot be found either, which is told below.
    let home = user.home_of_mailbox(&mailbox).await.unwrap_or_default();
    let is_lost = user.guests.awaits();
    user.guests.set_selected(None);
    if let Some(abroad) = abroad
        && (is_lost || home != Some(abroad.node))
    {
        if !is_lost {
            // A guest that cannot do that is lost, and nobody minds.
            let left = user.ask(wire, abroad.node, Command::Unselect, &[b"* "]).await;
            if let Err(Failure::Gone(error)) = left {
                return (State::Authenticated(user), Err(Failure::Gone(error)));
            }
        }
        wire.put(&Response::ok_code(Code::Closed, "The previous mailbox is closed"));
    }
    let Some(node) = home else {
        return select::select(user, selected, wire, mailbox, read_only, parameters).await;
    };
    if selected.is_some() {
        drop(selected);
        wire.put(&Response::ok_code(Code::Closed, "The previous mailbox is closed"));
    }
    if let Err(failure) = notify_there::introduce(wire, &mut user, node).await {
        return (State::Authenticated(user), Err(failure));
    }
    let command = Command::Select { mailbox: mailbox.clone(), read_only, parameters };
    match user.forward(wire, tag, node, command).await {
        Ok(answer) if answer.condition == Condition::Ok => {
            user.guests.set_selected(Some(node));
            let mailbox_id = user.guests.mailbox_id(node);
            let abroad = Abroad { node, name: mailbox, mailbox_id };
            (State::Abroad(user, Box::new(abroad)), Ok(answer))
        }
        outcome => (State::Authenticated(user), outcome),
    }
}
