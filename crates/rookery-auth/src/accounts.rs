//! What authentication needs to know of accounts, and asks of whoever keeps them.

use std::future::Future;
use std::pin::Pin;

use rookery_types::UserName;

/// What a user must prove, and whether that would help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// What the password is checked against, as [`crate::verifier`] reads it: `$argon2id$v=19$m=19456,...`, say.
    /// `None`: no password is right, and nobody gets in but by a certificate.
    pub verifier: Option<String>,
    /// Whether the account may be used.
    pub state: AccountState,
}

/// Whether an account may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountState {
    /// Users may log in.
    Active,
    /// An administrator has closed it for the time being.
    Suspended,
}

/// The directory cannot be asked. The text is for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accounts cannot be looked up: {0}")]
pub struct LookUpError(pub String);

/// The future of a look-up.
pub type LookUp<'a> = Pin<Box<dyn Future<Output = Result<Option<Credential>, LookUpError>> + Send + 'a>>;

/// The future of catching up.
pub type CatchUp<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The future of a welcome.
pub type Welcome<'a> = Pin<Box<dyn Future<Output = Result<(), LookUpError>> + Send + 'a>>;

/// Where accounts are looked up. Asked at every login, so that a suspension or a changed password holds at
/// once; it should answer from memory or a local copy.
pub trait Accounts: Send + Sync + 'static {
    /// The credential of a user; `None` if there is no such user.
    fn look_up<'a>(&'a self, user: &'a UserName) -> LookUp<'a>;

    /// Called before somebody is refused as unknown or for a wrong password: look-ups after it know what was changed
    /// elsewhere before it, as far as that can be asked.
    fn catch_up(&self) -> CatchUp<'_> {
        Box::pin(async {})
    }

    /// Called before a user is let in: whoever is known elsewhere and has no account yet gets one here.
    fn welcome<'a>(&'a self, user: &'a UserName) -> Welcome<'a> {
        let _ = user;
        Box::pin(async { Ok(()) })
    }

    /// A verifier of somebody else whose cost stands for that of a user who does not exist; `None`: the hasher's
    /// own. For sources whose users have verifiers of other kinds than this server makes.
    fn stand_in(&self, user: &str) -> Option<String> {
        let _ = user;
        None
    }

    /// Whether `who`, having proved it is them, may act as `whom` (RFC 4422 §3.4.1: an authorization identity
    /// that is not the authentication identity). Nobody may, unless the directory says otherwise.
    fn may_act_as(&self, who: &UserName, whom: &UserName) -> bool {
        let _ = (who, whom);
        false
    }
}
