//! The server's certificate, its private key, and the TLS settings made of them.
//!
//! Invariants:
//! - A reload that fails changes nothing: clients go on getting the certificate that was good.
//! - A private key written here is never readable by others, not even while it is being written.
//! - TLS 1.2 and 1.3 only, by rustls with the aws-lc-rs provider (RFC 8314 §3, RFC 9325).

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use tokio_rustls::TlsAcceptor;

use crate::drain::Drain;

/// Why TLS cannot be offered. Every text names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or written.
    #[error("{file}: {source}", file = file.display())]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no PEM, or its PEM holds nothing of what it should.
    #[error("{file}: no {what} in PEM form is in it: {reason}", file = file.display())]
    Pem {
        /// Which.
        file: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
        /// What the reader says.
        reason: String,
    },
    /// The certificate and the key are well-formed, but cannot be used (together).
    #[error("{cert} with {key}: {source}", cert = cert.display(), key = key.display())]
    Unusable {
        /// The certificate chain's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The provider of cryptography fails.
    #[error("TLS cannot be set up: {0}")]
    Provider(#[source] rustls::Error),
    /// A certificate for these host names cannot be made.
    #[error("a self-signed certificate cannot be made: {0}")]
    Generate(#[source] rcgen::Error),
}

/// A certificate chain with its key, as files, and what clients are served of them now.
pub struct ServerTls {
    cert: PathBuf,
    key: PathBuf,
    current: ArcSwap<ServerConfig>,
    /// Kept over reloads, so that clients' tickets stay good.
    ticketer: Arc<dyn ProducesTickets>,
    /// The files as they were when last read.
    seen: Mutex<[FileState; 2]>,
}

/// Tells a replaced or rewritten file from the one that was read.
type FileState = Option<(u64, u64, i64, i64)>;

impl ServerTls {
    /// Reads a PEM certificate chain (the server's own first) and its PEM private key.
    pub fn load(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<ServerTls, TlsError> {
        let (cert, key) = (cert.into(), key.into());
        let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(TlsError::Provider)?;
        let seen = [file_state(&cert), file_state(&key)];
        let config = read_config(&cert, &key, &ticketer)?;
        Ok(ServerTls { cert, key, current: ArcSwap::from_pointee(config), ticketer, seen: Mutex::new(seen) })
    }

    /// What to perform a handshake with. Take a new one for each connection: a reload does not reach those
    /// taken before.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Reads the files again if they have changed since they were last read. Says whether clients get
    /// something new from now on. On an error the old certificate stays, and the next call tries again.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let mut seen = self.seen.lock();
        let now = [file_state(&self.cert), file_state(&self.key)];
        if *seen == now {
            return Ok(false);
        }
        let config = read_config(&self.cert, &self.key, &self.ticketer)?;
        self.current.store(Arc::new(config));
        *seen = now;
        Ok(true)
    }

    /// Looks every `interval` whether the files have changed, until the drain starts. Logs what it finds; the
    /// same failure is logged once.
    pub async fn watch(self: Arc<Self>, interval: Duration, drain: Drain) {
        let mut last_failure = String::new();
        loop {
            tokio::select! {
                () = drain.draining() => return,
                () = tokio::time::sleep(interval) => {}
            }
            match self.reload() {
                Ok(true) => tracing::info!(cert = %self.cert.display(), "the certificate was reloaded"),
                Ok(false) => {}
                Err(error) => {
                    let failure = error.to_string();
                    if failure != last_failure {
                        tracing::error!(%error, "the certificate cannot be reloaded; the old one is served");
                    }
                    last_failure = failure;
                    continue;
                }
            }
            last_failure.clear();
        }
    }

    /// The certificate chain's file.
    pub fn cert_file(&self) -> &Path {
        &self.cert
    }

    /// The private key's file.
    pub fn key_file(&self) -> &Path {
        &self.key
    }
}

fn file_state(file: &Path) -> FileState {
    fs::metadata(file).ok().map(|m| (m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
}

fn read_config(
    cert: &Path,
    key: &Path,
    ticketer: &Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, TlsError> {
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
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsError::Provider)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(|source| TlsError::Unusable { cert: cert.to_owned(), key: key.to_owned(), source })?;
    // Sessions are resumed by tickets, which live with the client and cost the server nothing.
    config.ticketer = Arc::clone(ticketer);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// The files of a self-signed certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelfSigned {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// The private key, PEM, mode 0600.
    pub key: PathBuf,
    /// Whether they were made now, so that the administrator should be told.
    pub newly_made: bool,
}

/// Makes a self-signed certificate for host names (or addresses) in a folder, unless one is there already.
/// Both files are whole and durable before they have their names.
pub fn self_signed(hostnames: &[String], dir: &Path) -> Result<SelfSigned, TlsError> {
    let files = |newly_made| SelfSigned {
        cert: dir.join("self-signed.crt"),
        key: dir.join("self-signed.key"),
        newly_made,
    };
    let found = files(false);
    if found.cert.exists() && found.key.exists() {
        return Ok(found);
    }
    let made = rcgen::generate_simple_self_signed(hostnames).map_err(TlsError::Generate)?;
    // The certificate last: where it is, its key is too.
    write_whole(&found.key, made.signing_key.serialize_pem().as_bytes(), 0o600)?;
    write_whole(&found.cert, made.cert.pem().as_bytes(), 0o644)?;
    Ok(files(true))
}

/// Writes a file under another name, syncs it, gives it its name, and syncs the folder.
fn write_whole(file: &Path, octets: &[u8], mode: u32) -> Result<(), TlsError> {
    let draft = file.with_extension("draft");
    let write = || -> io::Result<()> {
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut open = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&draft)?;
        open.write_all(octets)?;
        open.sync_all()?;
        fs::rename(&draft, file)?;
        file.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
    };
    write().map_err(|source| TlsError::File { file: file.to_owned(), source })
}
