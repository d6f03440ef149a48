//! Sessions on their way from one node to another: from what they are to their value, and back.
//!
//! Invariants:
//! - A session is handed over between commands, or in IDLE: nothing of a command is half done, and all that was said has
//!   left.
//! - Whoever goes on says nothing of its own: the next checkpoint tells what has changed.

use crate::answer::{Answer, Failure, blocking};
use crate::names::directory_failed;
use crate::notify::Notify;
use crate::session::{Enabled, Selected, State, User};
use crate::value::{SelectedValue, SessionValue};
use crate::view::View;
use rookery_codec::imap::Code;
use rookery_store::StoreError;
use rookery_types::{AccountId, MailboxId, UidValidity};

impl State {
    /// What another node needs to go on with the session.
    pub(crate) async fn value(&self) -> Result<SessionValue, Failure> {
        let mut value = SessionValue::new();
        let (user, selected) = match self {
            State::Authenticated(user) => (user, None),
            State::Selected(user, selected) => (user, Some(selected)),
            State::Abroad(..) | State::NotAuthenticated | State::Away(_) | State::Logout => {
                return Err(cannot_go_on());
            }
        };
        value.enabled = user.enabled.bits();
        if let Some(selected) = selected {
            value.selected = Some(selected.value().await?);
        }
        value.notify = user.notify.as_ref().map(|notify| notify.value(user));
        Ok(value)
    }

    /// The session of a value, whose user has just come in.
    pub(crate) async fn resumed(mut user: Box<User>, value: SessionValue) -> Result<State, Failure> {
        user.enable(Enabled::from_bits(value.enabled));
        if let Some(notify) = value.notify {
            user.notify = Some(Box::new(Notify::resumed(&user, notify).await?));
        }
        match value.selected {
            None => Ok(State::Authenticated(user)),
            Some(selected) => {
                let selected = Selected::resumed(&user, selected).await?;
                Ok(State::Selected(user, Box::new(selected)))
            }
        }
    }
}

/// The session cannot be carried on; the client has to begin anew.
fn cannot_go_on() -> Failure {
    Answer::no(Code::Unavailable, "The session cannot go on; connect again").into()
}

impl Selected {
    async fn value(&self) -> Result<SelectedValue, Failure> {
        let (state, messages) = self.now();
        let id = self.mailbox.id();
        Ok(SelectedValue {
            account: id.account.get(),
            mailbox: id.number,
            uid_validity: state.settings.uid_validity.get(),
            read_only: self.read_only,
            saved: self.saved.clone(),
            view: self.view.value(&messages)?,
        })
    }

    async fn resumed(user: &User, value: SelectedValue) -> Result<Selected, Failure> {
        let SelectedValue { account, mailbox, uid_validity, read_only, saved, view } = value;
        let ids = AccountId::new(account).zip(UidValidity::new(uid_validity));
        let (id, uid_validity) = ids.ok_or_else(cannot_go_on)?;
        let entry = user.services.directory.by_id(id).await.map_err(directory_failed)?;
        let account = user.account_here(&entry.name).await?.filter(|account| account.id() == id);
        let account = account.ok_or_else(cannot_go_on)?;
        let id = MailboxId { account: id, number: mailbox };
        let mailbox = match account.open(id).await {
            Ok(mailbox) if mailbox.now().settings.uid_validity == uid_validity => mailbox,
            // Deleted under the session, which goes on to see it empty.
            Ok(_) | Err(StoreError::NoMailbox) => account.open_deleted(id, uid_validity),
            Err(error) => return Err(error.into()),
        };
        let opened = mailbox.clone();
        let view = blocking(move || {
            let state = opened.now();
            let messages = state.messages.clone().unwrap_or_default();
            View::resumed(view, &state, &messages, |uids| opened.account().lately_expunged(id, uids))
        });
        let view = view.await??.ok_or_else(cannot_go_on)?;
        Ok(Selected { mailbox, read_only, view, saved })
    }
}
