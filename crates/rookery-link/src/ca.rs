//! The cluster's own certificate authority, and what a node has of it.
//!
//! Invariants:
//! - A certificate says which node it is of and what the node may do; of a request only the key is taken.
//! - Private keys are made where they are used, leave no node, and lie in files of mode 0600.

use std::fmt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::files::{self, FileError};
use crate::identity::{Identity, NODE_NAME_OCTETS_MAX};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long a CA is good.
const CA_DAYS: u32 = 20 * 365;
/// How long a node's certificate is good, unless said otherwise.
pub const NODE_DAYS: u32 = 365;
/// Clocks of nodes differ; certificates begin so much before they are made.
const SKEW: Duration = DAY;
/// The cluster's name, for people.
const CLUSTER_NAME_OCTETS_MAX: usize = 64;

/// Why something with certificates failed.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file's content.
    #[error("{file}: {reason}")]
    Content {
        /// Which.
        file: String,
        /// Why.
        reason: String,
    },
    /// There is a CA already.
    #[error("{0} holds a certificate authority already")]
    Exists(String),
    /// A request for a certificate that is none, or names that cannot be in one.
    #[error("no certificate can be made of this: {0}")]
    Request(String),
    /// The certificate is not one of a node.
    #[error("the certificate is not one of a node of a murder")]
    NoNode,
    /// The TLS library refuses.
    #[error("the certificate cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

impl From<rcgen::Error> for CaError {
    fn from(error: rcgen::Error) -> CaError {
        CaError::Request(error.to_string())
    }
}

/// The SHA-256 of a certificate, as `openssl x509 -fingerprint -sha256` shows it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Fingerprint {
        Fingerprint(Sha256::digest(certificate.as_ref()).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let octets: Vec<String> = self.0.iter().map(|octet| format!("{octet:02X}")).collect();
        f.write_str(&octets.join(":"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// A certificate authority with its key.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const NODE_CERTIFICATE: &str = "node.crt";
const NODE_KEY: &str = "node.key";

impl Ca {
    /// Makes one for a cluster.
    pub fn make(cluster: &str, now: SystemTime) -> Result<Ca, CaError> {
        if cluster.len() > CLUSTER_NAME_OCTETS_MAX {
            return Err(CaError::Request(format!(
                "the cluster's name has more than {CLUSTER_NAME_OCTETS_MAX} octets"
            )));
        }
        let mut params = params(&format!("Rookery cluster {cluster}"), now, CA_DAYS);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Ca { issuer: Issuer::new(params, key), certificate })
    }

    /// Writes it into a folder that holds none.
    pub fn save(&self, folder: &Path) -> Result<(), CaError> {
        if folder.join(CA_KEY).exists() {
            return Err(CaError::Exists(folder.display().to_string()));
        }
        files::write_whole(&folder.join(CA_CERTIFICATE), self.certificate_pem().as_bytes())?;
        // The key last: where it is, the certificate is.
        Ok(files::write_whole(&folder.join(CA_KEY), self.issuer.key().serialize_pem().as_bytes())?)
    }

    /// Reads it from a folder.
    pub fn load(folder: &Path) -> Result<Ca, CaError> {
        let certificates = read_certificates(&folder.join(CA_CERTIFICATE))?;
        let file = folder.join(CA_KEY);
        let content = |reason: String| CaError::Content { file: file.display().to_string(), reason };
        let pem = String::from_utf8(files::read(&file)?).map_err(|error| content(error.to_string()))?;
        let key = KeyPair::from_pem(&pem).map_err(|error| content(error.to_string()))?;
        // Certificates of former authorities may stand there too.
        let own = certificates.into_iter().find(|certificate| is_of(certificate, &key));
        let certificate = own.ok_or_else(|| content("no certificate there is of this key".to_owned()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        Ok(Ca { issuer, certificate })
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its certificate as PEM.
    pub fn certificate_pem(&self) -> String {
        pem("CERTIFICATE", &self.certificate)
    }

    /// What joining nodes know it by.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Issues a certificate for the key of a request; of all else in the request nothing is taken.
    /// Renewing is the same with the old key or a new one.
    pub fn issue(
        &self,
        request: &CertificateSigningRequestDer<'_>,
        identity: &Identity,
        now: SystemTime,
        days: u32,
    ) -> Result<CertificateDer<'static>, CaError> {
        if identity.name.is_empty() || identity.name.len() > NODE_NAME_OCTETS_MAX {
            return Err(CaError::Request("a node's name has 1 to 255 octets".to_owned()));
        }
        let request = CertificateSigningRequestParams::from_der(request)?;
        let mut params = params(&identity.name, now, days);
        let text = |text: String| text.try_into().map_err(CaError::from);
        params.subject_alt_names = vec![
            SanType::URI(text(identity.uri())?),
            SanType::DnsName(text(Identity::server_name(identity.node))?),
        ];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(&request.public_key, &self.issuer)?.der().clone())
    }

    /// All at once for a node of this machine, as the first of a cluster needs it.
    pub fn credentials(&self, identity: &Identity, now: SystemTime) -> Result<Credentials, CaError> {
        let key = NodeKey::make()?;
        let certificate = self.issue(&key.request()?, identity, now, NODE_DAYS)?;
        Credentials::new(key, certificate, vec![self.certificate.clone()])
    }
}

fn params(name: &str, now: SystemTime, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    params.not_before = (now - SKEW).into();
    params.not_after = (now + DAY * days).into();
    params
}

fn is_of(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    let parsed = X509Certificate::from_der(certificate);
    parsed
        .is_ok_and(|(_, parsed)| parsed.public_key().subject_public_key.data.as_ref() == key.public_key_raw())
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    // Base64 is ASCII, so any cut is between characters.
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, CaError> {
    let octets = files::read(file)?;
    let content = |reason: String| CaError::Content { file: file.display().to_string(), reason };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&octets).collect();
    let certificates = read.map_err(|error| content(error.to_string()))?;
    if certificates.is_empty() {
        return Err(content("no certificate in PEM form is in it".to_owned()));
    }
    Ok(certificates)
}

/// A node's private key, before there is a certificate for it.
pub struct NodeKey {
    key: KeyPair,
}

impl NodeKey {
    /// Makes one.
    pub fn make() -> Result<NodeKey, CaError> {
        Ok(NodeKey { key: KeyPair::generate()? })
    }

    /// A request for a certificate: it shows that whoever asks has the key.
    pub fn request(&self) -> Result<CertificateSigningRequestDer<'static>, CaError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        Ok(params.serialize_request(&self.key)?.der().clone())
    }
}

/// What a node needs to link with others.
pub struct Credentials {
    /// The authorities it trusts: one, or two while they change.
    authorities: Vec<CertificateDer<'static>>,
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    identity: Identity,
    valid: (u64, u64),
}

impl Clone for Credentials {
    fn clone(&self) -> Credentials {
        Credentials {
            authorities: self.authorities.clone(),
            certificate: self.certificate.clone(),
            key: self.key.clone_key(),
            identity: self.identity.clone(),
            valid: self.valid,
        }
    }
}

impl fmt::Debug for Credentials {
    /// No key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Credentials {
    /// From what a CA has given.
    pub fn new(
        key: NodeKey,
        certificate: CertificateDer<'static>,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<Credentials, CaError> {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.key.serialize_der()));
        Credentials::of_parts(key, certificate, authorities)
    }

    fn of_parts(
        key: PrivateKeyDer<'static>,
        certificate: CertificateDer<'static>,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<Credentials, CaError> {
        let identity = Identity::of_certificate(&certificate).ok_or(CaError::NoNode)?;
        let valid = validity(&certificate).ok_or(CaError::NoNode)?;
        Ok(Credentials { authorities, certificate, key, identity, valid })
    }

    /// Writes them into a folder. What was there is replaced file by file, the certificate last.
    pub fn save(&self, folder: &Path) -> Result<(), CaError> {
        let authorities: String =
            self.authorities.iter().map(|authority| pem("CERTIFICATE", authority)).collect();
        files::write_whole(&folder.join(CA_CERTIFICATE), authorities.as_bytes())?;
        files::write_whole(&folder.join(NODE_KEY), pem("PRIVATE KEY", self.key.secret_der()).as_bytes())?;
        Ok(files::write_whole(
            &folder.join(NODE_CERTIFICATE),
            pem("CERTIFICATE", &self.certificate).as_bytes(),
        )?)
    }

    /// Reads them from a folder.
    pub fn load(folder: &Path) -> Result<Credentials, CaError> {
        let authorities = read_certificates(&folder.join(CA_CERTIFICATE))?;
        let file = folder.join(NODE_CERTIFICATE);
        let content = |reason: String| CaError::Content { file: file.display().to_string(), reason };
        let own = read_certificates(&file)?.into_iter().next();
        let certificate = own.ok_or_else(|| content("it is empty".to_owned()))?;
        let file = folder.join(NODE_KEY);
        let key = PrivateKeyDer::from_pem_slice(&files::read(&file)?).map_err(|error| CaError::Content {
            file: file.display().to_string(),
            reason: error.to_string(),
        })?;
        Credentials::of_parts(key, certificate, authorities)
    }

    /// Who this node is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The authorities this node trusts.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// The same with more authorities, or fewer.
    pub fn with_authorities(mut self, authorities: Vec<CertificateDer<'static>>) -> Credentials {
        self.authorities = authorities;
        self
    }

    /// The certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    /// Asks for another certificate for the same key; see [`Ca::issue`] and [`Credentials::renewed`].
    pub fn renewal(&self) -> Result<CertificateSigningRequestDer<'static>, CaError> {
        NodeKey { key: KeyPair::try_from(&self.key)? }.request()
    }

    /// The same with the certificate that came of it.
    pub fn renewed(&self, certificate: CertificateDer<'static>) -> Result<Credentials, CaError> {
        Credentials::of_parts(self.key(), certificate, self.authorities.clone())
    }

    /// Until when the certificate is good.
    pub fn valid_until(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(self.valid.1)
    }

    /// Whether two thirds of the certificate's time are over.
    pub fn needs_renewal(&self, now: SystemTime) -> bool {
        let (begin, end) = self.valid;
        let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        now >= begin + (end.saturating_sub(begin)) / 3 * 2
    }
}

fn validity(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    let begin = u64::try_from(validity.not_before.timestamp()).ok()?;
    Some((begin, u64::try_from(validity.not_after.timestamp()).ok()?))
}
