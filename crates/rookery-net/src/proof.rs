//! What TLS proves beyond secrecy: which channel this is (channel binding), and who the client is (its certificate).
//!
//! Of channel bindings there is `tls-exporter` under TLS 1.3 (RFC 9266). Not `tls-exporter` under TLS 1.2: it is safe
//! there only with an extended master secret (§4.2), which rustls does not tell. Not `tls-unique`: rustls has no
//! Finished messages to give, and TLS 1.3 no such binding. Not `tls-server-end-point`: rustls does not tell which
//! certificate it has served.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConnection};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::tls::TlsError;

/// What a client's certificate says of its owner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientNames {
    /// The subject's common name, if there is exactly one.
    pub common_name: Option<String>,
    /// The mail addresses among the subject's alternative names (RFC 5280 §4.2.1.6).
    pub emails: Vec<String>,
}

/// The label of RFC 9266 §2; the context is empty.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// What this connection can be bound to: names of binding types with their octets.
pub(crate) fn bindings(session: &ServerConnection) -> Vec<(&'static str, Vec<u8>)> {
    if session.protocol_version() != Some(rustls::ProtocolVersion::TLSv1_3) {
        return Vec::new();
    }
    let exported = session.export_keying_material([0; 32], EXPORTER_LABEL, Some(b""));
    exported.map(|octets: [u8; 32]| vec![("tls-exporter", octets.to_vec())]).unwrap_or_default()
}

/// The names in the certificate of the client, which the handshake has verified; `None`: it has shown none.
pub(crate) fn client_names(session: &ServerConnection) -> Option<ClientNames> {
    names_in(session.peer_certificates()?.first()?)
}

/// What asks clients for certificates of the authorities in a PEM file, and lets those in who have none.
///
/// Certificates that were revoked are not known: an authority that has to revoke one is replaced, or the user is
/// suspended.
pub(crate) fn verifier(
    authorities: &Path,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let read = std::fs::read(authorities);
    let octets = read.map_err(|source| TlsError::File { file: authorities.to_owned(), source })?;
    let pem = |reason: String| TlsError::Pem { file: authorities.to_owned(), what: "certificate", reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&octets) {
        let certificate = certificate.map_err(|error| pem(error.to_string()))?;
        roots.add(certificate).map_err(|error| pem(error.to_string()))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    builder.allow_unauthenticated().build().map_err(|error| pem(error.to_string()))
}

fn names_in(certificate: &CertificateDer<'_>) -> Option<ClientNames> {
    let (rest, certificate) = X509Certificate::from_der(certificate).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let mut common_names = certificate.subject().iter_common_name();
    let common_name = common_names.next().and_then(|name| name.as_str().ok()).map(str::to_owned);
    let common_name = common_name.filter(|_| common_names.next().is_none());
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let emails =
        alternatives.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
            GeneralName::RFC822Name(email) => Some((*email).to_owned()),
            _ => None,
        });
    Some(ClientNames { common_name, emails: emails.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    #[test]
    fn names_are_read_and_two_common_names_are_none() {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "joe");
        let emails = ["joe@example.org", "j@example.net"];
        params.subject_alt_names =
            emails.map(|email| SanType::Rfc822Name(email.try_into().unwrap())).to_vec();
        let certificate = params.self_signed(&key).unwrap();
        let names = names_in(certificate.der()).unwrap();
        assert_eq!(names.common_name.as_deref(), Some("joe"));
        assert_eq!(names.emails, emails);
        for at in 0..certificate.der().len() {
            let _ = names_in(&CertificateDer::from(&certificate.der()[..at]));
        }
        let mut more = certificate.der().to_vec();
        more.push(0);
        assert!(names_in(&CertificateDer::from(more)).is_none());
    }
}
