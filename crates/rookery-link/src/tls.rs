//! TLS between nodes: 1.3 alone, both sides with certificates of the cluster's CA, by rustls over aws-lc-rs.
//!
//! One port serves links and joins; the name of the protocol in the first message (ALPN) tells them apart. A link asks
//! for a certificate and ends without one. A join shows the CA and asks for nothing: the token is the proof.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::ca::{CaError, Credentials};
use crate::identity::Identity;
use rookery_types::NodeId;

/// The protocol of links, in ALPN.
pub(crate) const ALPN_LINK: &[u8] = b"rookery-link";
/// The protocol of joins.
pub(crate) const ALPN_JOIN: &[u8] = b"rookery-join";

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// The three ways this node uses TLS.
pub(crate) struct TlsConfigs {
    pub(crate) dial: Arc<ClientConfig>,
    pub(crate) accept: Arc<ServerConfig>,
    pub(crate) accept_join: Arc<ServerConfig>,
}

impl TlsConfigs {
    pub(crate) fn new(credentials: &Credentials) -> Result<TlsConfigs, CaError> {
        let provider = provider();
        let mut roots = RootCertStore::empty();
        for authority in credentials.authorities() {
            roots.add(authority.clone())?;
        }
        let roots = Arc::new(roots);
        let own = vec![credentials.certificate().clone()];

        let mut dial = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(Arc::clone(&roots))
            .with_client_auth_cert(own.clone(), credentials.key())?;
        dial.alpn_protocols = vec![ALPN_LINK.to_vec()];
        dial.resumption = Resumption::disabled();

        let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
            .build()
            .map_err(|error| CaError::Tls(rustls::Error::General(error.to_string())))?;
        let mut accept = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(verifier)
            .with_single_cert(own.clone(), credentials.key())?;
        accept.alpn_protocols = vec![ALPN_LINK.to_vec()];
        // No tickets: each connection shows its certificate.
        accept.send_tls13_tickets = 0;
        accept.session_storage = Arc::new(NoServerSessionStorage {});

        let mut chain = own;
        chain.extend(credentials.authorities().iter().cloned());
        let mut accept_join = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain, credentials.key())?;
        accept_join.alpn_protocols = vec![ALPN_JOIN.to_vec()];
        accept_join.send_tls13_tickets = 0;
        accept_join.session_storage = Arc::new(NoServerSessionStorage {});

        Ok(TlsConfigs { dial: Arc::new(dial), accept: Arc::new(accept), accept_join: Arc::new(accept_join) })
    }
}

/// What TLS asks the dialled node to be.
pub(crate) fn server_name(node: NodeId) -> Result<ServerName<'static>, String> {
    ServerName::try_from(Identity::server_name(node)).map_err(|error| error.to_string())
}
