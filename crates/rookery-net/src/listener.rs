//! Sockets that clients connect to.
//!
//! Invariants:
//! - An IPv6 listener takes IPv6 only, so that `[::]:143` and `0.0.0.0:143` stand side by side.
//! - A Unix socket has its mode before anyone can connect.
//! - A socket file is removed only if nobody answers at it, and at the end only if it is still ours.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::inherit::{Held, SocketFile};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpListener, UnixListener};

use crate::peer::Local;
use crate::stream::Stream;

/// Where to listen: `127.0.0.1:143`, `[::]:143` or `unix:/run/rookery/lmtp`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenSpec {
    /// An address and port. Port 0 is any free port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

/// A text that says no place to listen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no place to listen: write address:port, [address]:port or unix:/path")]
pub struct BadListenSpec(pub String);

impl FromStr for ListenSpec {
    type Err = BadListenSpec;

    fn from_str(text: &str) -> Result<ListenSpec, BadListenSpec> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') && !path.contains('\0') => Ok(ListenSpec::Unix(path.into())),
            Some(_) => Err(BadListenSpec(text.to_owned())),
            None => text.parse().map(ListenSpec::Tcp).map_err(|_| BadListenSpec(text.to_owned())),
        }
    }
}

impl fmt::Display for ListenSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenSpec::Tcp(addr) => write!(f, "{addr}"),
            ListenSpec::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// The mode of a Unix socket's file.
    pub unix_mode: u32,
    /// Connections the kernel keeps waiting while the server is busy. The kernel has its own upper limit.
    pub backlog: u16,
    /// Whether to listen at once; else a TCP socket is bound, and who connects is refused until
    /// [`Listener::resume`].
    pub listens: bool,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions { unix_mode: 0o660, backlog: 4096, listens: true }
    }
}

/// Why listening failed.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A server answers at the socket.
    #[error("cannot listen on unix:{0}: a server answers there already")]
    Answered(PathBuf),
    /// What stands at the socket's path is something else.
    #[error("cannot listen on unix:{0}: the file is no socket")]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot listen on {spec}: {source}")]
    Refused {
        /// Where.
        spec: ListenSpec,
        /// Why.
        source: io::Error,
    },
}

/// A bound socket. Dropping it closes it, and removes a Unix socket's file if that is still ours.
pub struct Listener {
    socket: Bound,
}

enum Bound {
    Tcp(TcpListener),
    Unix { listener: UnixListener, file: Option<Arc<SocketFile>> },
}

impl Listener {
    /// Binds and listens, with the default options. Must be called inside a tokio runtime.
    pub fn bind(spec: &ListenSpec) -> Result<Listener, BindError> {
        Listener::bind_with(spec, ListenOptions::default())
    }

    /// Binds and listens. Must be called inside a tokio runtime.
    pub fn bind_with(spec: &ListenSpec, options: ListenOptions) -> Result<Listener, BindError> {
        let refused = |source| BindError::Refused { spec: spec.clone(), source };
        match spec {
            ListenSpec::Tcp(addr) => bind_tcp(*addr, options).map_err(refused),
            ListenSpec::Unix(path) => {
                remove_stale(path)?;
                bind_unix(path, options).map_err(refused)
            }
        }
    }

    /// Takes a listening TCP socket that was made elsewhere, such as by the service manager.
    pub fn from_tcp(socket: std::net::TcpListener) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        Ok(Listener { socket: Bound::Tcp(TcpListener::from_std(socket)?) })
    }

    /// Takes a listening Unix socket that was made elsewhere. Its file is not ours and stays.
    pub fn from_unix(socket: std::os::unix::net::UnixListener) -> io::Result<Listener> {
        socket.set_nonblocking(true)?;
        let listener = UnixListener::from_std(socket)?;
        Ok(Listener { socket: Bound::Unix { listener, file: None } })
    }

    /// A Unix socket that another process bound for this one: its file is this process's to remove.
    pub(crate) fn from_unix_with_file(socket: std::os::unix::net::UnixListener) -> io::Result<Listener> {
        let mut listener = Listener::from_unix(socket)?;
        if let (Ok(Local::Unix(path)), Bound::Unix { file, .. }) = (listener.local(), &mut listener.socket) {
            *file = Some(Arc::new(SocketFile::new(&path)));
        }
        Ok(listener)
    }

    /// Holds the socket open, whatever becomes of the listener.
    pub fn hold(&self) -> io::Result<Held> {
        use std::os::fd::AsFd;
        let (socket, file) = match &self.socket {
            Bound::Tcp(tcp) => (tcp.as_fd(), None),
            Bound::Unix { listener, file } => (listener.as_fd(), file.clone()),
        };
        Ok(Held { socket: socket.try_clone_to_owned()?, file })
    }

    /// Where it listens, with the port that was chosen for port 0.
    pub fn local(&self) -> io::Result<Local> {
        match &self.socket {
            Bound::Tcp(tcp) => tcp.local_addr().map(Local::Ip),
            Bound::Unix { listener, .. } => {
                let addr = listener.local_addr()?;
                Ok(Local::Unix(addr.as_pathname().map(Path::to_path_buf).unwrap_or_default()))
            }
        }
    }

    /// Refuses whoever connects from here on, and keeps the socket; whether that can be done. Of a Unix socket it cannot.
    pub fn pause(&self) -> io::Result<bool> {
        match &self.socket {
            Bound::Tcp(tcp) => {
                let socket = socket2::SockRef::from(tcp);
                // Whoever came by a socket that was shut down while it did not listen would read nothing.
                if socket.is_listener()? {
                    // The kernel takes it out of listening by this, and leaves it bound, unless it has chosen the port
                    // itself.
                    socket.shutdown(std::net::Shutdown::Read)?;
                }
                Ok(true)
            }
            Bound::Unix { .. } => Ok(false),
        }
    }

    /// Listens, again or for the first time.
    pub fn resume(&mut self) -> io::Result<()> {
        if let Bound::Tcp(tcp) = &mut self.socket {
            // Another descriptor: tokio holds a socket that was at rest for closed.
            let socket = Socket::from(std::os::fd::AsFd::as_fd(tcp).try_clone_to_owned()?);
            socket.listen(ListenOptions::default().backlog.into())?;
            *tcp = TcpListener::from_std(socket.into())?;
        }
        Ok(())
    }

    /// Waits for the next client. Safe to cancel.
    pub async fn accept(&self) -> io::Result<Stream> {
        match &self.socket {
            Bound::Tcp(tcp) => {
                let (stream, peer) = tcp.accept().await?;
                Ok(Stream::from_tcp(stream, peer))
            }
            Bound::Unix { listener, .. } => Ok(Stream::from_unix(listener.accept().await?.0)),
        }
    }
}

fn bind_tcp(addr: SocketAddr, options: ListenOptions) -> io::Result<Listener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    if options.listens {
        socket.listen(options.backlog.into())?;
    }
    Ok(Listener { socket: Bound::Tcp(TcpListener::from_std(socket.into())?) })
}

fn bind_unix(path: &Path, options: ListenOptions) -> io::Result<Listener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // From here on a failure removes the file again.
    let file = SocketFile::new(path);
    // Between bind and listen every connect is refused, so the mode is never wider than wanted.
    fs::set_permissions(path, fs::Permissions::from_mode(options.unix_mode))?;
    socket.listen(options.backlog.into())?;
    let listener = UnixListener::from_std(socket.into())?;
    Ok(Listener { socket: Bound::Unix { listener, file: Some(Arc::new(file)) } })
}

fn remove_stale(path: &Path) -> Result<(), BindError> {
    let refused = |source| BindError::Refused { spec: ListenSpec::Unix(path.to_owned()), source };
    let metadata = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(refused)?,
    };
    if !metadata.file_type().is_socket() {
        return Err(BindError::NotASocket(path.to_owned()));
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "removing the socket of a server that is gone");
            fs::remove_file(path).map_err(refused)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(refused(error)),
        Ok(_) => Err(BindError::Answered(path.to_owned())),
    }
}

impl SocketFile {
    fn new(path: &Path) -> SocketFile {
        SocketFile { path: path.to_owned(), id: file_id(path), kept: AtomicBool::new(false) }
    }
}

/// Device and inode: a file of the same name made since is another.
fn file_id(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !*self.kept.get_mut() && self.id.is_some() && self.id == file_id(&self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_shown_alike() {
        for text in ["127.0.0.1:143", "[::1]:143", "[::]:993", "0.0.0.0:0", "unix:/run/rookery/lmtp"] {
            assert_eq!(text.parse::<ListenSpec>().unwrap().to_string(), text);
        }
        for bad in ["", "143", ":143", "localhost:143", "unix:", "unix:relative", "127.0.0.1", "unix:/a\0b"] {
            assert!(bad.parse::<ListenSpec>().is_err(), "{bad:?}");
        }
    }
}
