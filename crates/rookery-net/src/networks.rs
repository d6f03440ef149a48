//! Lists of networks that the administrator trusts with something.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

use crate::peer::Peer;

/// A list of networks, and perhaps the sockets of this machine that have no address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    nets: Vec<IpNet>,
    /// Whether Unix sockets and memory streams belong to the list.
    unix: bool,
}

/// A text that is no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no network: write an address, address/prefix, 'unix' or 'loopback'")]
pub struct BadNetwork(pub String);

impl Networks {
    /// The empty list.
    pub fn none() -> Networks {
        Networks::default()
    }

    /// This machine: 127.0.0.0/8, ::1 and Unix sockets.
    pub fn loopback() -> Networks {
        Networks { nets: vec![IpNet::new_assert(LOOPBACK_V4, 8), IpNet::from(LOOPBACK_V6)], unix: true }
    }

    /// Reads a list: each item is an address, a network (`192.0.2.0/24`, `2001:db8::/32`), `unix` for Unix
    /// sockets, or `loopback` for [`Networks::loopback`].
    pub fn parse<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> Result<Networks, BadNetwork> {
        let mut list = Networks::none();
        for item in items {
            let item = item.as_ref().trim();
            match item {
                "unix" => list.unix = true,
                "loopback" => {
                    list.unix = true;
                    list.nets.extend(Networks::loopback().nets);
                }
                _ => list.nets.push(parse_net(item).ok_or_else(|| BadNetwork(item.to_owned()))?),
            }
        }
        Ok(list)
    }

    /// Whether the peer comes from one of the networks. A mapped IPv4 address is the IPv4 address.
    pub fn contains(&self, peer: Peer) -> bool {
        match peer.ip() {
            Some(ip) => self.contains_ip(ip),
            None => self.unix,
        }
    }

    /// The same for an address alone.
    pub fn contains_ip(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.nets.iter().any(|net| net.contains(&ip))
    }

    /// Whether nothing belongs to the list.
    pub fn is_empty(&self) -> bool {
        self.nets.is_empty() && !self.unix
    }
}

const LOOPBACK_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 0));
const LOOPBACK_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

fn parse_net(text: &str) -> Option<IpNet> {
    IpNet::from_str(text).ok().or_else(|| IpAddr::from_str(text).ok().map(|ip| ip.to_canonical().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_in_a_list_or_not() {
        let list = Networks::parse(["192.0.2.0/24", "2001:db8::/32", "198.51.100.7"]).unwrap();
        let host = |ip: &str| Peer::Ip((ip.parse::<IpAddr>().unwrap(), 1).into());
        for inside in ["192.0.2.255", "::ffff:192.0.2.1", "2001:db8:ffff::1", "198.51.100.7"] {
            assert!(list.contains(host(inside)), "{inside}");
        }
        for outside in ["192.0.3.0", "2001:db9::1", "198.51.100.8", "127.0.0.1"] {
            assert!(!list.contains(host(outside)), "{outside}");
        }
        assert!(!list.contains(Peer::Memory) && !list.contains(Peer::Unix { uid: Some(0) }));
        let loopback = Networks::parse(["loopback"]).unwrap();
        assert_eq!(loopback, Networks::loopback());
        assert!(loopback.contains(host("127.255.0.1")) && loopback.contains(host("::1")));
        assert!(loopback.contains(Peer::Unix { uid: None }) && !loopback.contains(host("::2")));
        for bad in ["", "192.0.2.0/33", "example.org", "1.2.3"] {
            assert_eq!(Networks::parse([bad]), Err(BadNetwork(bad.to_owned())));
        }
        assert!(Networks::none().is_empty());
    }
}
