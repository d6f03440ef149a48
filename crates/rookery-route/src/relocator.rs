//! Accounts that somebody wants at another node, wherever they are at home, and who waits until they are there.

use crate::Coming;
use rookery_types::AccountName;

/// What has become of an account that was to go to a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Relocated {
    /// It is at home there now.
    Moved,
    /// It was already.
    WasThere,
}

/// Why an account is not at home at a node. The texts are for whoever runs the nodes, a sentence each.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotMoved {
    /// There is no such account.
    #[error("there is no such account")]
    NonExistent,
    /// It cannot be.
    #[error("{0}")]
    Refused(String),
    /// Something else is being done with the account.
    #[error("{0}")]
    InUse(String),
    /// A node or the directory is away.
    #[error("{0}")]
    Unavailable(String),
}

/// Has accounts moved.
pub trait Relocator: Send + Sync + 'static {
    /// Has an account move to the node of that name, and returns when it is at home there, or is known to stay. The move
    /// goes on by itself when nobody waits for it any more.
    fn relocate<'a>(
        &'a self,
        account: &'a AccountName,
        node: &'a str,
    ) -> Coming<'a, Result<Relocated, NotMoved>>;
}

/// That of a server that is alone.
#[derive(Clone, Copy, Default, Debug)]
pub struct NoRelocator;

impl Relocator for NoRelocator {
    fn relocate<'a>(
        &'a self,
        _account: &'a AccountName,
        node: &'a str,
    ) -> Coming<'a, Result<Relocated, NotMoved>> {
        Box::pin(
            async move { Err(NotMoved::Refused(format!("There is no node {node}; this server is alone"))) },
        )
    }
}
