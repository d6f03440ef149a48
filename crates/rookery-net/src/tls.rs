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

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier};
use tokio_rustls::TlsAcceptor;

use crate::certificates::{self, Certificates};

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

/// Where certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// A PEM certificate chain, the server's own first: for clients that ask for no name, or for none we have.
    pub cert: PathBuf,
    /// Its PEM private key.
    pub key: PathBuf,
    /// More certificates, for the names they are valid for: one folder each, with `fullchain.pem` and `privkey.pem`.
    pub folder: Option<PathBuf>,
    /// PEM certificates of the authorities that sign clients' certificates; `None`: clients are not asked for any.
    /// With it TLS sessions are not resumed, as a ticket would outlive the certificate that was shown for it.
    pub client_ca: Option<PathBuf>,
}

/// Certificates with their keys, as files, and what clients are served of them now.
pub struct ServerTls {
    current: ArcSwap<ServerConfig>,
    /// Kept over reloads, so that clients' tickets stay good.
    ticketer: Arc<dyn ProducesTickets>,
    source: Mutex<Source>,
}

/// The files, as they were when last read.
struct Source {
    files: TlsFiles,
    seen: Vec<(PathBuf, FileState)>,
}

/// Tells a replaced or rewritten file from the one that was read.
type FileState = Option<(u64, u64, i64, i64)>;

impl ServerTls {
    /// Reads a PEM certificate chain (the server's own first) and its PEM private key.
    pub fn load(cert: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<ServerTls, TlsError> {
        ServerTls::load_files(TlsFiles { cert: cert.into(), key: key.into(), folder: None, client_ca: None })
    }

    /// Reads all certificates.
    pub fn load_files(files: TlsFiles) -> Result<ServerTls, TlsError> {
        let ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(TlsError::Provider)?;
        let seen = states(&files)?;
        let config = read_config(&files, &ticketer)?;
        let source = Mutex::new(Source { files, seen });
        Ok(ServerTls { current: ArcSwap::from_pointee(config), ticketer, source })
    }

    /// What to perform a handshake with. Take a new one for each connection: a reload does not reach those
    /// taken before.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current.load_full())
    }

    /// Reads the files again if they have changed since they were last read. Says whether clients get
    /// something new from now on. On an error the old certificates stay, and the next call tries again.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let files = self.source.lock().files.clone();
        self.reload_from(files)
    }

    /// The same from other files, from now on.
    pub fn reload_from(&self, files: TlsFiles) -> Result<bool, TlsError> {
        let mut source = self.source.lock();
        let now = states(&files)?;
        if source.files == files && source.seen == now {
            return Ok(false);
        }
        let config = read_config(&files, &self.ticketer)?;
        self.current.store(Arc::new(config));
        *source = Source { files, seen: now };
        Ok(true)
    }
}

fn states(files: &TlsFiles) -> Result<Vec<(PathBuf, FileState)>, TlsError> {
    let more = certificates::pairs(files.folder.as_deref())?;
    let pairs = [(files.cert.clone(), files.key.clone())].into_iter().chain(more);
    let state = |file: PathBuf| (file_state(&file), file);
    let states = pairs.flat_map(|(cert, key)| [cert, key]).chain(files.client_ca.clone()).map(state);
    Ok(states.map(|(state, file)| (file, state)).collect())
}

fn file_state(file: &Path) -> FileState {
    fs::metadata(file).ok().map(|m| (m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
}

fn read_config(files: &TlsFiles, ticketer: &Arc<dyn ProducesTickets>) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certificates = Certificates::read(&files.cert, &files.key, files.folder.as_deref(), &provider)?;
    let clients = match &files.client_ca {
        Some(authorities) => crate::proof::verifier(authorities, &provider)?,
        None => WebPkiClientVerifier::no_client_auth(),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(TlsError::Provider)?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(certificates));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    match files.client_ca {
        // Sessions are resumed by tickets, which live with the client and cost the server nothing.
        None => config.ticketer = Arc::clone(ticketer),
        Some(_) => config.send_tls13_tickets = 0,
    }
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
