//! What every session of this node shares.

use crate::config::ImapConfig;
use crate::search::HeaderTexts;
use crate::sorting::SortTables;
use rookery_auth::{Authenticator, Sessions};
use rookery_directory::Directory;
use rookery_net::{Networks, ServerTls};
use rookery_route::{Administrators, Keeper, Peers, Registrar, Relocator, Router, Transit};
use rookery_store::Store;
use std::sync::Arc;

/// What every session of this node shares.
pub struct Services {
    /// Mail.
    pub store: Store,
    /// Which accounts there are.
    pub directory: Arc<dyn Directory>,
    /// Where the commands on a mailbox run.
    pub router: Router,
    /// The other nodes.
    pub peers: Arc<dyn Peers>,
    /// Keeps clients while another program takes this one's place.
    pub keeper: Keeper,
    /// Moves messages to them.
    pub transit: Transit,
    /// Who is asking.
    pub authenticator: Arc<Authenticator>,
    /// Makes accounts and takes them apart, for administrators.
    pub registrar: Arc<Registrar>,
    /// Has accounts moved to other nodes, for administrators.
    pub relocator: Arc<dyn Relocator>,
    /// Who administers what.
    pub administrators: Administrators,
    /// For STARTTLS and for TLS ports; `None`: there is no certificate.
    pub tls: Option<Arc<ServerTls>>,
    /// The operator's settings.
    pub config: ImapConfig,
    /// The server's name, for the greeting.
    pub hostname: String,
    /// Networks from which passwords are taken without TLS, besides this machine.
    pub trusted: Networks,
    /// How many sessions each account has, by all protocols.
    pub sessions: Sessions,
    /// The header fields that are searched most.
    pub header_texts: HeaderTexts,
    /// What SORT and THREAD compare of messages.
    pub sort_tables: SortTables,
}
