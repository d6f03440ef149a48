//! What the directory knows of a server of the site.

use crate::DirectoryError;
use crate::change::{Change, get};
use crate::encoding::{Damaged, Decoder, Encoder, layout_of, open};
use crate::records::{self, LAYOUT, NODE, node_key, number_of_key};
use bytes::Bytes;
use rookery_types::{NodeId, StoreId};

/// Nodes at most: [`crate::Directory::nodes`] answers with all.
const NODES_MAX: usize = crate::PAGE_MAX;

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

    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Duty::On => "on",
            Duty::Cordon => "cordon",
            Duty::Drain => "drain",
            Duty::Off => "off",
        }
    }

    /// What a word stands for.
    pub fn of_word(word: &str) -> Option<Duty> {
        [Duty::On, Duty::Cordon, Duty::Drain, Duty::Off].into_iter().find(|duty| duty.word() == word)
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
    /// What placement may ask for, such as `ssd`; in order, each once.
    pub tags: Vec<Box<str>>,
    /// It was lost, or has left, and does not come back.
    pub removed: bool,
}

/// What an operator decides of a node; `None`: as it was.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct NodeEdit {
    /// Whether it takes clients' connections.
    pub serve: Option<Duty>,
    /// Whether it holds accounts.
    pub hold: Option<Duty>,
    /// Its tags.
    pub tags: Option<Vec<Box<str>>>,
}

/// Whether this can be a tag, or the name of a node: what placement is told by.
pub(crate) fn is_word(text: &str) -> bool {
    let octets = 1..=Node::TEXT_OCTETS_MAX;
    octets.contains(&text.len())
        && text.bytes().all(|octet| octet.is_ascii_graphic() && !b",!\"".contains(&octet))
}

impl Node {
    /// Octets in the longest text of a node.
    pub const TEXT_OCTETS_MAX: usize = 255;
    /// Services of one node at most.
    pub const SERVICES_MAX: usize = 32;
    /// Tags of one node at most.
    pub const TAGS_MAX: usize = 32;

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
            tags: Vec::new(),
            removed: false,
        }
    }

    /// Takes over what was decided of the node, which is not the node's to say.
    pub(crate) fn decided_by(&mut self, known: &Node) {
        (self.serve, self.hold) = (known.serve, known.hold);
        self.tags.clone_from(&known.tags);
    }

    /// As an operator wants it.
    pub(crate) fn edited(mut self, edit: &NodeEdit) -> Node {
        self.serve = edit.serve.unwrap_or(self.serve);
        self.hold = edit.hold.unwrap_or(self.hold);
        if let Some(tags) = &edit.tags {
            self.tags.clone_from(tags);
            self.tags.sort();
            self.tags.dedup();
        }
        self
    }

    pub(crate) fn check(&self) -> Result<(), DirectoryError> {
        let texts = [&self.name, &self.address, &self.version].into_iter();
        let mut texts = texts.chain(self.services.iter().flat_map(|(service, at)| [service, at]));
        if texts.any(|text| text.len() > Node::TEXT_OCTETS_MAX) {
            return Err(DirectoryError::Refused("a node's name, address or version is too long"));
        }
        if self.tags.len() > Node::TAGS_MAX || !self.tags.iter().all(|tag| is_word(tag)) {
            return Err(DirectoryError::Refused("a node has at most 32 tags, words without commas"));
        }
        match self.services.len() <= Node::SERVICES_MAX {
            true => Ok(()),
            false => Err(DirectoryError::Refused("a node has too many services")),
        }
    }
}

pub(crate) fn encode_node(key: &[u8], node: &Node) -> Bytes {
    // The version before this one reads layout 2.
    let is_plain = node.tags.is_empty() && !node.removed;
    let mut e = Encoder::new(if is_plain { 2 } else { 3 });
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
    if !is_plain {
        e.varint(node.tags.len() as u64);
        for tag in &node.tags {
            e.text(tag);
        }
        e.u8(node.removed.into());
    }
    e.seal(key)
}

pub(crate) fn decode_node(key: &[u8], value: &[u8]) -> Result<Node, Damaged> {
    let id = number_of_key(NODE, key).ok_or_else(|| Damaged::new(key, "its key is no node's"))?;
    let id = NodeId(id);
    match layout_of(value) {
        Some(LAYOUT) => open(key, value, LAYOUT, |d| {
            Some(Node { address: d.text()?.into(), version: d.text()?.into(), ..Node::new(id) })
        }),
        Some(3) => open(key, value, 3, |d| {
            let node = fields(id, d)?;
            let count = usize::try_from(d.varint()?).ok().filter(|count| *count <= Node::TAGS_MAX)?;
            let tags = (0..count).map(|_| Some(d.text()?.into())).collect::<Option<_>>()?;
            let removed = match d.u8()? {
                0 => false,
                1 => true,
                _ => return None,
            };
            Some(Node { tags, removed, ..node })
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
        ..Node::new(id)
    })
}

impl Change<'_> {
    /// What a node says of itself. What was decided of it stays.
    pub(crate) fn put_node(&mut self, node: &Node) -> Result<(), DirectoryError> {
        let key = node_key(node.id);
        let mut node = node.clone();
        match get(&self.read, &key)? {
            Some(value) => {
                let known = decode_node(&key, &value)?;
                if known.removed {
                    return Err(DirectoryError::Refused("the node was removed from the cluster"));
                }
                node.decided_by(&known);
            }
            None if self.keys(&[records::NODE], NODES_MAX)?.len() >= NODES_MAX => {
                return Err(DirectoryError::Refused("there are too many nodes"));
            }
            None => {}
        }
        self.put_decided(&node)
    }

    fn put_decided(&mut self, node: &Node) -> Result<(), DirectoryError> {
        node.check()?;
        let key = node_key(node.id);
        let value = encode_node(&key, node);
        self.put_record(key, value);
        Ok(())
    }

    /// A node that is part of the cluster.
    fn node(&self, id: NodeId) -> Result<Node, DirectoryError> {
        let key = node_key(id);
        let known = get(&self.read, &key)?.map(|value| decode_node(&key, &value)).transpose()?;
        known.filter(|node| !node.removed).ok_or_else(|| DirectoryError::NotFound(format!("node {id}")))
    }

    /// What an operator decides of a node.
    pub(crate) fn edit_node(&mut self, id: NodeId, edit: &NodeEdit) -> Result<Node, DirectoryError> {
        let node = self.node(id)?.edited(edit);
        self.put_decided(&node)?;
        Ok(node)
    }

    /// Its record stays, so that the node does not come back by itself.
    pub(crate) fn remove_node(&mut self, id: NodeId) -> Result<(), DirectoryError> {
        let edit = NodeEdit { serve: Some(Duty::Off), hold: Some(Duty::Off), tags: Some(Vec::new()) };
        let node = Node { removed: true, address: "".into(), ..self.node(id)?.edited(&edit) };
        self.put_decided(&node)
    }

    /// Whether a node was removed.
    pub(crate) fn is_removed(&self, id: NodeId) -> Result<bool, DirectoryError> {
        let key = node_key(id);
        let known = get(&self.read, &key)?.map(|value| decode_node(&key, &value)).transpose()?;
        Ok(known.is_some_and(|node| node.removed))
    }

    /// Refuses new accounts at a node that takes none. Of a server that is alone the directory knows nothing.
    pub(crate) fn need_holding(&self, id: NodeId) -> Result<(), DirectoryError> {
        let key = node_key(id);
        match get(&self.read, &key)?.map(|value| decode_node(&key, &value)).transpose()? {
            Some(node) if node.removed || node.hold != Duty::On => {
                Err(DirectoryError::Refused("the node takes no new accounts"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::node_key;

    #[test]
    fn a_node_reads_back_in_all_layouts() {
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
        let value = encode_node(&key, &node);
        assert_eq!(layout_of(&value), Some(2), "the version before reads it");
        assert_eq!(decode_node(&key, &value), Ok(node.clone()));
        let edit =
            NodeEdit { tags: Some(vec!["ssd".into(), "eu".into(), "ssd".into()]), ..NodeEdit::default() };
        for node in [node.clone().edited(&edit), Node { removed: true, ..node.clone() }] {
            let value = encode_node(&key, &node);
            for at in 0..value.len() {
                assert!(decode_node(&key, &value[..at]).is_err());
            }
            assert_eq!(decode_node(&key, &value), Ok(node));
        }
        let edited = node.edited(&NodeEdit { hold: Some(Duty::On), ..edit });
        assert_eq!((edited.serve, edited.hold, edited.tags.len()), (Duty::Off, Duty::On, 2));
        assert!(Node { tags: vec!["a,b".into()], ..edited }.check().is_err());
        let mut first = Encoder::new(1);
        first.text("a:1").text("1");
        let read = decode_node(&key, &first.seal(&key)).unwrap();
        assert_eq!(read, Node { address: "a:1".into(), version: "1".into(), ..Node::new(NodeId(7)) });
        let long = Node { name: "x".repeat(256).into(), ..Node::new(NodeId(7)) };
        assert!(long.check().is_err());
    }
}
