//! Users of the users' file who have no account yet, and get one when they log in or mail comes for them.

use std::pin::Pin;
use std::sync::{Arc, OnceLock};

use rookery_auth::{Credential, PasswdFile};
use rookery_route::Coming;
use rookery_types::UserName;

/// Makes a user's account, unless there is one.
pub(crate) type Make =
    Box<dyn Fn(UserName) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// The users' file, if there is one, and what becomes of those it names.
pub(crate) struct Newcomers {
    file: Option<PasswdFile>,
    /// Whether users without an account get one.
    welcome: bool,
    make: OnceLock<Make>,
}

impl Newcomers {
    pub(crate) fn new(file: Option<PasswdFile>, welcome: bool) -> Arc<Newcomers> {
        Arc::new(Newcomers { file, welcome, make: OnceLock::new() })
    }

    /// Sets how accounts are made. What makes them looks users up here, so this comes later; the first time counts.
    pub(crate) fn set_maker(&self, make: Make) {
        let _ = self.make.set(make);
    }

    /// What the file says of a user.
    pub(crate) async fn credential(&self, user: &UserName) -> Option<Credential> {
        self.file.as_ref()?.look_up(user).await
    }

    /// A verifier that can stand for that of a user who does not exist.
    pub(crate) fn stand_in(&self, user: &str) -> Option<String> {
        self.file.as_ref()?.stand_in(user)
    }

    /// Whether users of the file get accounts.
    pub(crate) fn are_welcome(&self) -> bool {
        self.welcome
    }
}

impl rookery_route::Newcomers for Newcomers {
    fn know<'a>(&'a self, user: &'a UserName) -> Coming<'a, bool> {
        Box::pin(async move { self.welcome && self.credential(user).await.is_some() })
    }

    fn welcome<'a>(&'a self, user: &'a UserName) -> Coming<'a, Result<(), String>> {
        Box::pin(async move {
            match self.make.get() {
                Some(make) if self.know(user).await => make(user.clone()).await,
                _ => Ok(()),
            }
        })
    }
}
