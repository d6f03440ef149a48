//! What every session of this node shares.

use std::sync::Arc;

use rookery_auth::{Authenticator, CertificateNames, Client, Sessions};
use rookery_net::{Connection, Networks, ServerTls};
use rookery_route::{Keeper, Peers, Router};
use rookery_store::Store;

use crate::config::Pop3Config;

/// What every session of this node shares.
pub struct Services {
    /// Mail.
    pub store: Store,
    /// Where the commands on a mailbox run.
    pub router: Router,
    /// The other nodes.
    pub peers: Arc<dyn Peers>,
    /// Where sessions leave their clients when the server makes room for another program.
    pub keeper: Keeper,
    /// Who is asking.
    pub authenticator: Arc<Authenticator>,
    /// For STLS and for TLS ports; `None`: there is no certificate.
    pub tls: Option<Arc<ServerTls>>,
    /// The operator's settings.
    pub config: Pop3Config,
    /// The server's name, for the greeting.
    pub hostname: String,
    /// Networks from which passwords are taken without TLS, besides this machine.
    pub trusted: Networks,
    /// How many sessions each account has, by all protocols.
    pub sessions: Sessions,
}

impl Services {
    /// Whether a password may come over this connection as it is.
    pub(crate) fn password_allowed(&self, connection: &Connection) -> bool {
        connection.is_private(&self.trusted) || self.config.plaintext_login
    }

    /// What the authenticator is to know of the client.
    pub(crate) fn client(&self, connection: &Connection) -> Client {
        Client {
            ip: connection.peer().ip(),
            protocol: "pop3",
            private: self.password_allowed(connection),
            bindings: connection.stream().channel_bindings(),
            certificate: connection
                .stream()
                .client_names()
                .map(|names| CertificateNames { common_name: names.common_name, emails: names.emails }),
        }
    }

    /// Whether the client can begin TLS now.
    pub(crate) fn offers_tls(&self, connection: &Connection) -> bool {
        self.tls.is_some() && !connection.is_tls()
    }
}
