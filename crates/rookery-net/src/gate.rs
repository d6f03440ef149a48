//! How many connections may be open: all together, and per address until they have authenticated.
//!
//! Invariants:
//! - A permit counts from its creation to its drop, whatever becomes of its task.
//! - Addresses without a connection take no memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use crate::peer::Peer;

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// All connections of the listeners that share a gate.
    pub total_max: usize,
    /// Connections of one address that have not authenticated yet.
    pub unauthenticated_per_address_max: usize,
}

impl Default for ConnectionLimits {
    fn default() -> ConnectionLimits {
        ConnectionLimits { total_max: 200_000, unauthenticated_per_address_max: 500 }
    }
}

/// Where connections come from, as far as one client can choose it: an IPv4 address, or the /64 of an IPv6
/// address, since a host owns a whole /64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Source(IpAddr);

impl Source {
    /// The group an address belongs to. A mapped IPv4 address counts as the IPv4 address.
    pub fn of(ip: IpAddr) -> Source {
        match ip.to_canonical() {
            IpAddr::V4(v4) => Source(IpAddr::V4(v4)),
            IpAddr::V6(v6) => Source(IpAddr::V6((u128::from(v6) >> 64 << 64).into())),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(v4) => write!(f, "{v4}"),
            IpAddr::V6(v6) => write!(f, "{v6}/64"),
        }
    }
}

/// Counts connections and refuses what is too many. Clones count together.
#[derive(Clone)]
pub struct Gate {
    shared: Arc<Shared>,
}

struct Shared {
    limits: ArcSwap<ConnectionLimits>,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    unauthenticated: HashMap<Source, usize>,
}

/// Why a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// There are `total_max` connections.
    #[error("too many connections")]
    Total,
    /// The address has `unauthenticated_per_address_max` connections that have not authenticated.
    #[error("too many unauthenticated connections from one address")]
    Address,
}

/// One admitted connection.
pub struct Permit {
    gate: Gate,
    /// Where it counts as unauthenticated.
    source: Option<Source>,
}

impl Gate {
    /// A gate with nobody inside.
    pub fn new(limits: ConnectionLimits) -> Gate {
        let limits = ArcSwap::from_pointee(limits);
        Gate { shared: Arc::new(Shared { limits, counts: Mutex::default() }) }
    }

    /// Other limits, for connections that come from now on.
    pub fn set_limits(&self, limits: ConnectionLimits) {
        self.shared.limits.store(Arc::new(limits));
    }

    /// Admits a connection of an address, or `None`.
    pub fn admit(&self, ip: IpAddr) -> Option<Permit> {
        self.enter(Some(Source::of(ip))).ok()
    }

    /// Admits a connection of a peer. What does not come over IP counts for the total only.
    pub fn admit_peer(&self, peer: Peer) -> Result<Permit, Refused> {
        self.enter(peer.ip().map(Source::of))
    }

    fn enter(&self, source: Option<Source>) -> Result<Permit, Refused> {
        let limits = self.shared.limits.load();
        let mut counts = self.shared.counts.lock();
        if counts.total >= limits.total_max {
            return Err(Refused::Total);
        }
        if let Some(source) = source {
            let known = counts.unauthenticated.get(&source).copied().unwrap_or(0);
            if known >= limits.unauthenticated_per_address_max {
                return Err(Refused::Address);
            }
            counts.unauthenticated.insert(source, known + 1);
        }
        counts.total += 1;
        Ok(Permit { gate: self.clone(), source })
    }

    /// Connections inside now.
    pub fn total(&self) -> usize {
        self.shared.counts.lock().total
    }

    /// Connections of this address that have not authenticated.
    pub fn unauthenticated(&self, ip: IpAddr) -> usize {
        self.shared.counts.lock().unauthenticated.get(&Source::of(ip)).copied().unwrap_or(0)
    }
}

impl Permit {
    /// The connection has authenticated: it no longer counts against its address.
    pub fn authenticated(&mut self) {
        if let Some(source) = self.source.take() {
            leave(&mut self.gate.shared.counts.lock(), source);
        }
    }

    /// The connection is nobody's again, and counts against the address it comes from. Fails when the address
    /// has as many such connections as it may have.
    pub fn unauthenticated(&mut self, peer: Peer) -> Result<(), Refused> {
        let Some(source) = peer.ip().map(Source::of).filter(|_| self.source.is_none()) else { return Ok(()) };
        let mut counts = self.gate.shared.counts.lock();
        let known = counts.unauthenticated.get(&source).copied().unwrap_or(0);
        if known >= self.gate.shared.limits.load().unauthenticated_per_address_max {
            return Err(Refused::Address);
        }
        counts.unauthenticated.insert(source, known + 1);
        drop(counts);
        self.source = Some(source);
        Ok(())
    }
}

fn leave(counts: &mut Counts, source: Source) {
    if let Entry::Occupied(mut entry) = counts.unauthenticated.entry(source) {
        if *entry.get() <= 1 {
            entry.remove();
        } else {
            *entry.get_mut() -= 1;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.gate.shared.counts.lock();
        counts.total = counts.total.saturating_sub(1);
        if let Some(source) = self.source.take() {
            leave(&mut counts, source);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(total_max: usize, unauthenticated_per_address_max: usize) -> Gate {
        Gate::new(ConnectionLimits { total_max, unauthenticated_per_address_max })
    }

    #[test]
    fn an_address_is_limited_until_it_authenticates() {
        let gate = gate(10, 2);
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        let mut first = gate.admit(ip).unwrap();
        let second = gate.admit("::ffff:192.0.2.1".parse().unwrap()).unwrap();
        assert_eq!(gate.admit_peer(Peer::Ip((ip, 1).into())).err(), Some(Refused::Address));
        assert!(gate.admit("192.0.2.2".parse().unwrap()).is_some());
        first.authenticated();
        first.authenticated();
        assert_eq!(gate.unauthenticated(ip), 1);
        let third = gate.admit(ip).unwrap();
        drop((first, second, third));
        assert_eq!((gate.total(), gate.unauthenticated(ip)), (0, 0));
        assert!(gate.shared.counts.lock().unauthenticated.is_empty());
    }

    #[test]
    fn a_host_cannot_hide_in_its_64() {
        let gate = gate(10, 1);
        let _held = gate.admit("2001:db8:0:1::1".parse().unwrap()).unwrap();
        assert!(gate.admit("2001:db8:0:1:ffff::9".parse().unwrap()).is_none());
        assert!(gate.admit("2001:db8:0:2::1".parse().unwrap()).is_some());
        assert_eq!(Source::of("2001:db8:0:1::1".parse().unwrap()).to_string(), "2001:db8:0:1::/64");
    }

    #[test]
    fn the_total_counts_everyone() {
        let gate = gate(2, 9);
        let mut first = gate.admit_peer(Peer::Memory).unwrap();
        first.authenticated();
        let _second = gate.admit_peer(Peer::Unix { uid: None }).unwrap();
        assert_eq!(gate.admit_peer(Peer::Memory).err(), Some(Refused::Total));
        drop(first);
        assert!(gate.admit_peer(Peer::Memory).is_ok());
    }
}
