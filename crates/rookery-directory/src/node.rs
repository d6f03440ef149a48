//! What the directory knows of a server of the site.

use crate::DirectoryError;
use crate::encoding::{Damaged, Decoder, Encoder, layout_of, open};
use crate::records::{LAYOUT, NODE, number_of_key};
use bytes::Bytes;
use rookery_types::{NodeId, StoreId};

/// Whether a node does something.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Duty {
    /// It does, and takes more.
    #[default]
    On,
    /// It does, and is given nothing more.
    Cordon,
    /// It is giving it away.
    Drain,
    /// It does not.
    Off,
}

impl Duty {
    fn code(self) -> u8 {
        match self {
            Duty::On => 0,
            Duty::Cordon => 1,
            Duty::Drain => 2,
            Duty::Off => 3,
        }
    }

    fn of_code(code: u8) -> Option<Duty> {
        [Duty::On, Duty::Cordon, Duty::Drain, Duty::Off].into_iter().find(|duty| duty.code() == code)
    }
}

/// How much a node holds.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Load {
    /// Accounts at home there.
    pub accounts: u64,
    /// Octets in use on its disk.
    pub octets_used: u64,
    /// Octets free on its disk.
    pub octets_free: u64,
}

/// A server of the site.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name, `be2.example` say, whatever its addresses are.
    pub name: Box<str>,
    /// Where other nodes reach it, as `host:port`.
    pub address: Box<str>,
    /// Where clients reach its services: the service's name and `host:port`.
    pub services: Vec<(Box<str>, Box<str>)>,
    /// Whether it takes clients' connections.
    pub serve: Duty,
    /// Whether it holds accounts.
    pub hold: Duty,
    /// The version of the program it runs.
    pub version: Box<str>,
    /// The lowest and the highest version of the links' protocol that it speaks.
    pub links: (u16, u16),
    /// Its store; `None` if it holds none.
    pub store: Option<StoreId>,
    /// How often it has started with this store.
    pub boot: u64,
    /// How much it holds.
    pub load: Load,
}

impl Node {
    /// Octets in the longest text of a node.
    pub const TEXT_OCTETS_MAX: usize = 255;
    /// Services of one node at most.
    pub const SERVICES_MAX: usize = 32;

    /// A node of which nothing but its id is known.
    pub fn new(id: NodeId) -> Node {
        Node {
            id,
            name: "".into(),
            address: "".into(),
            services: Vec::new(),
            serve: Duty::On,
            hold: Duty::On,
            version: "".into(),
            links: (0, 0),
            store: None,
            boot: 0,
            load: Load::default(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), DirectoryError> {
        let texts = [&self.name, &self.address, &self.version].into_iter();
        let mut texts = texts.chain(self.services.iter().flat_map(|(service, at)| [service, at]));
        if texts.any(|text| text.len() > Node::TEXT_OCTETS_MAX) {
            return Err(DirectoryError::Refused("a node's name, address or version is too long"));
        }
        match self.services.len() <= Node::SERVICES_MAX {
            true => Ok(()),
            false => Err(DirectoryError::Refused("a node has too many services")),
        }
    }
}

pub(crate) fn encode_node(key: &[u8], node: &Node) -> Bytes {
    let mut e = Encoder::new(2);
    e.text(&node.name).text(&node.address).varint(node.services.len() as u64);
    for (service, at) in &node.services {
        e.text(service).text(at);
    }
    e.u8(node.serve.code()).u8(node.hold.code()).text(&node.version);
    e.varint(node.links.0.into()).varint(node.links.1.into());
    match node.store {
        Some(store) => e.u8(1).raw(&store.0),
        None => e.u8(0),
    };
    e.varint(node.boot);
    e.varint(node.load.accounts).varint(node.load.octets_used).varint(node.load.octets_free);
    e.seal(key)
}

pub(crate) fn decode_node(key: &[u8], value: &[u8]) -> Result<Node, Damaged> {
    let id = number_of_key(NODE, key).ok_or_else(|| Damaged::new(key, "its key is no node's"))?;
    let id = NodeId(id);
    match layout_of(value) {
        Some(LAYOUT) => open(key, value, LAYOUT, |d| {
            Some(Node { address: d.text()?.into(), version: d.text()?.into(), ..Node::new(id) })
        }),
        _ => open(key, value, 2, |d| fields(id, d)),
    }
}

fn fields(id: NodeId, d: &mut Decoder<'_>) -> Option<Node> {
    let (name, address) = (d.text()?.into(), d.text()?.into());
    let count = usize::try_from(d.varint()?).ok().filter(|count| *count <= Node::SERVICES_MAX)?;
    let services = (0..count).map(|_| Some((d.text()?.into(), d.text()?.into()))).collect::<Option<_>>()?;
    Some(Node {
        id,
        name,
        address,
        services,
        serve: Duty::of_code(d.u8()?)?,
        hold: Duty::of_code(d.u8()?)?,
        version: d.text()?.into(),
        links: (u16::try_from(d.varint()?).ok()?, u16::try_from(d.varint()?).ok()?),
        store: match d.u8()? {
            0 => None,
            1 => Some(StoreId(d.array()?)),
            _ => return None,
        },
        boot: d.varint()?,
        load: Load { accounts: d.varint()?, octets_used: d.varint()?, octets_free: d.varint()? },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::node_key;

    #[test]
    fn a_node_reads_back_also_of_the_first_layout() {
        let node = Node {
            name: "be2.example".into(),
            address: "[::1]:24".into(),
            services: vec![("imap".into(), "192.0.2.1:143".into())],
            serve: Duty::Off,
            hold: Duty::Drain,
            version: "1.0".into(),
            links: (3, 4),
            store: Some(StoreId([5; 16])),
            boot: 17,
            load: Load { accounts: 1, octets_used: 2, octets_free: 3 },
            ..Node::new(NodeId(7))
        };
        let key = node_key(node.id);
        assert_eq!(decode_node(&key, &encode_node(&key, &node)), Ok(node));
        let mut first = Encoder::new(1);
        first.text("a:1").text("1");
        let read = decode_node(&key, &first.seal(&key)).unwrap();
        assert_eq!(read, Node { address: "a:1".into(), version: "1".into(), ..Node::new(NodeId(7)) });
        let long = Node { name: "x".repeat(256).into(), ..Node::new(NodeId(7)) };
        assert!(long.check().is_err());
    }
}
