//! A machine of its own for one server: a network namespace with one cable to this one, which can be cut. Needs root.

use crate::command;
use anyhow::{Context, Result, ensure};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};

/// The namespace; gone when it is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    /// The cable's ends, here and there.
    ends: [String; 2],
    /// Their addresses.
    addresses: [Ipv4Addr; 2],
}

/// Where the addresses begin: a range that is for tests of networks (RFC 2544).
const FIRST: u32 = u32::from_be_bytes([198, 18, 0, 0]);

fn ip(words: &[&str]) -> Result<()> {
    command::ok("ip", words, b"").map(drop)
}

impl Namespace {
    /// A new one, with its cable plugged in.
    pub fn new() -> Result<Namespace> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        ensure!(number < 4, "more namespaces than one program has addresses for");
        let process = std::process::id();
        let first = FIRST + (process % 8192) * 16 + number * 4;
        let name = format!("rookery-{process}-{number}");
        let ends = ["h", "n"].map(|end| format!("rk{process}{end}{number}"));
        let namespace = Namespace { name, ends, addresses: [1, 2].map(|n| Ipv4Addr::from(first + n)) };
        let (name, [here, there]) = (namespace.name.as_str(), &namespace.ends);
        ip(&["netns", "add", name]).context("a network namespace takes root")?;
        ip(&["link", "add", here, "type", "veth", "peer", "name", there, "netns", name])?;
        let [at_here, at_there] = namespace.addresses.map(|address| format!("{address}/30"));
        ip(&["address", "add", &at_here, "dev", here])?;
        ip(&["link", "set", here, "up"])?;
        ip(&["-n", name, "address", "add", &at_there, "dev", there])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        namespace.plug(true)?;
        Ok(namespace)
    }

    /// The cable's address at this side.
    pub fn here(&self) -> IpAddr {
        IpAddr::V4(self.addresses[0])
    }

    /// And inside.
    pub fn inside(&self) -> IpAddr {
        IpAddr::V4(self.addresses[1])
    }

    /// What a program is started through to run inside.
    pub fn wrapper(&self) -> [&str; 4] {
        ["ip", "netns", "exec", &self.name]
    }

    /// Cuts the cable, or mends it. Nothing is said to anybody: what is sent is lost.
    pub fn plug(&self, is_in: bool) -> Result<()> {
        // The far end: this side still has its address and route, as with a cable that is cut somewhere.
        ip(&["-n", &self.name, "link", "set", &self.ends[1], if is_in { "up" } else { "down" }])
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its end inside goes with it. If it was never made, there is nothing to be taken away.
        ip(&["link", "delete", &self.ends[0]]).ok();
        ip(&["netns", "delete", &self.name]).ok();
    }
}
