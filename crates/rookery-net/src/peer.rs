//! Who is at the two ends of a stream.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// The far end of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A host. An IPv4 address mapped into IPv6 is shown as the IPv4 address it is.
    Ip(SocketAddr),
    /// A process of this machine, through a Unix socket.
    Unix {
        /// The user it ran as when it connected; `None` if the kernel would not say.
        uid: Option<u32>,
    },
    /// Another task of this process.
    Memory,
}

impl Peer {
    /// A host's peer, with a mapped IPv4 address unwrapped.
    pub fn from_addr(addr: SocketAddr) -> Peer {
        Peer::Ip(SocketAddr::new(addr.ip().to_canonical(), addr.port()))
    }

    /// The host's address, canonical; `None` for what did not come over IP.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Peer::Ip(addr) => Some(addr.ip()),
            Peer::Unix { .. } | Peer::Memory => None,
        }
    }

    /// Whether the peer is on this machine: 127.0.0.0/8, ::1, a Unix socket or memory.
    pub fn is_loopback(&self) -> bool {
        match self {
            Peer::Ip(addr) => addr.ip().to_canonical().is_loopback(),
            Peer::Unix { .. } | Peer::Memory => true,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Ip(addr) => write!(f, "{addr}"),
            Peer::Unix { uid: Some(uid) } => write!(f, "unix:uid={uid}"),
            Peer::Unix { uid: None } => f.write_str("unix"),
            Peer::Memory => f.write_str("memory"),
        }
    }
}

/// The near end of a stream or a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Local {
    /// An address and port.
    Ip(SocketAddr),
    /// A socket's path.
    Unix(PathBuf),
    /// Memory.
    Memory,
}

impl Local {
    /// The address and port; `None` for what is not IP.
    pub fn addr(&self) -> Option<SocketAddr> {
        match self {
            Local::Ip(addr) => Some(*addr),
            Local::Unix(_) | Local::Memory => None,
        }
    }
}

impl fmt::Display for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Local::Ip(addr) => write!(f, "{addr}"),
            Local::Unix(path) => write!(f, "unix:{}", path.display()),
            Local::Memory => f.write_str("memory"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_this_machine_in_all_its_spellings() {
        for (text, expected) in [
            ("127.0.0.1:1", true),
            ("127.9.8.7:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("[::ffff:10.0.0.1]:1", false),
            ("10.0.0.1:1", false),
            ("[2001:db8::1]:1", false),
        ] {
            let peer = Peer::from_addr(text.parse().unwrap());
            assert_eq!(peer.is_loopback(), expected, "{text}");
            assert_eq!(Peer::Ip(text.parse().unwrap()).is_loopback(), expected, "{text} as it came");
        }
        assert!(Peer::Unix { uid: None }.is_loopback());
        assert_eq!(Peer::from_addr("[::ffff:10.0.0.1]:5".parse().unwrap()).to_string(), "10.0.0.1:5");
    }
}
