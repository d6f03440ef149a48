//! What every session of this node shares.

use crate::config::ImapConfig;
use rookery_auth::{Authenticator, Sessions};
use rookery_directory::Directory;
use rookery_net::{Networks, ServerTls};
use rookery_route::Router;
use rookery_store::Store;
use rookery_types::UserName;
use std::sync::Arc;

/// What every session of this node shares.
pub struct Services {
    /// Mail.
    pub store: Store,
    /// Which accounts there are.
    pub directory: Arc<dyn Directory>,
    /// Where the commands on a mailbox run.
    pub router: Router,
    /// Who is asking.
    pub authenticator: Arc<Authenticator>,
    /// For STARTTLS and for TLS ports; `None`: there is no certificate.
    pub tls: Option<Arc<ServerTls>>,
    /// The operator's settings.
    pub config: ImapConfig,
    /// The server's name, for the greeting.
    pub hostname: String,
    /// Networks from which passwords are taken without TLS, besides this machine.
    pub trusted: Networks,
    /// Who administers the site.
    pub admins: Vec<UserName>,
    /// How many sessions each account has, by all protocols.
    pub sessions: Sessions,
}
