//! Which certificate a client is shown: by the name it asks for (SNI, RFC 6066 §3), else the first.
//!
//! A folder of certificates has one folder for each, as ACME clients lay them out: `NAME/fullchain.pem` and
//! `NAME/privkey.pem`. The names are those that the certificate itself is valid for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::verify_server_name;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::tls::TlsError;

/// Certificates in a folder at most.
const FOLDER_MAX: usize = 10_000;

/// The certificates a server has.
#[derive(Debug)]
pub(crate) struct Certificates {
    first: Arc<CertifiedKey>,
    more: Vec<Arc<CertifiedKey>>,
}

impl Certificates {
    /// Reads all. One of the folder that cannot be read is left out, and the log says so.
    pub(crate) fn read(
        cert: &Path,
        key: &Path,
        folder: Option<&Path>,
        provider: &CryptoProvider,
    ) -> Result<Certificates, TlsError> {
        let first = Arc::new(read_pair(cert, key, provider)?);
        let mut more = Vec::new();
        for (cert, key) in pairs(folder)? {
            match read_pair(&cert, &key, provider) {
                Ok(pair) => more.push(Arc::new(pair)),
                Err(error) => tracing::error!(%error, "a certificate of the folder is left out"),
            }
        }
        Ok(Certificates { first, more })
    }

    fn for_name(&self, name: &str) -> &Arc<CertifiedKey> {
        let fits = |name: &ServerName<'_>, key: &CertifiedKey| {
            let parsed = key.cert.first().and_then(|cert| ParsedCertificate::try_from(cert).ok());
            parsed.is_some_and(|cert| verify_server_name(&cert, name).is_ok())
        };
        let Ok(name) = ServerName::try_from(name) else { return &self.first };
        if fits(&name, &self.first) {
            return &self.first;
        }
        self.more.iter().find(|key| fits(&name, key)).unwrap_or(&self.first)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(hello.server_name().map_or(&self.first, |name| self.for_name(name))))
    }
}

/// The files of the certificates in a folder, in the order of their names.
pub(crate) fn pairs(folder: Option<&Path>) -> Result<Vec<(PathBuf, PathBuf)>, TlsError> {
    let Some(folder) = folder else { return Ok(Vec::new()) };
    let read = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?.take(FOLDER_MAX).map(|entry| Ok(entry?.path())).collect()
    };
    let mut places = read().map_err(|source| TlsError::File { file: folder.to_owned(), source })?;
    places.sort();
    let pair = |place: PathBuf| (place.join("fullchain.pem"), place.join("privkey.pem"));
    Ok(places.into_iter().map(pair).filter(|(cert, _)| cert.exists()).collect())
}

fn read_pair(cert: &Path, key: &Path, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let pem = |file: &Path, what, reason: String| TlsError::Pem { file: file.to_owned(), what, reason };
    let read =
        |file: &Path| fs::read(file).map_err(|source| TlsError::File { file: file.to_owned(), source });
    let chain = CertificateDer::pem_slice_iter(&read(cert)?)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| pem(cert, "certificate", error.to_string()))?;
    if chain.is_empty() {
        return Err(pem(cert, "certificate", "nothing found".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_slice(&read(key)?)
        .map_err(|error| pem(key, "private key", error.to_string()))?;
    CertifiedKey::from_der(chain, private, provider).map_err(|source| TlsError::Unusable {
        cert: cert.to_owned(),
        key: key.to_owned(),
        source,
    })
}
