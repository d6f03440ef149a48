//! Where new accounts of a domain are placed.

use crate::DirectoryError;
use crate::change::{Change, domain_name, get};
use crate::encoding::{Damaged, Encoder, open};
use crate::node::{Node, is_word};
use crate::records::LAYOUT;
use bytes::Bytes;

pub(crate) const PLACEMENT: u8 = b'x';

/// Where new accounts of a domain may be at home: at nodes of these names, or with these tags.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Placement {
    /// Names of nodes.
    pub nodes: Vec<Box<str>>,
    /// Tags of nodes.
    pub tags: Vec<Box<str>>,
}

impl Placement {
    /// Nodes and tags that one placement names at most.
    pub const WORDS_MAX: usize = 64;

    /// Whether accounts may be at home at a node.
    pub fn fits(&self, node: &Node) -> bool {
        self.nodes.contains(&node.name) || self.tags.iter().any(|tag| node.tags.contains(tag))
    }

    pub(crate) fn check(&self) -> Result<(), DirectoryError> {
        let count = self.nodes.len() + self.tags.len();
        match (1..=Placement::WORDS_MAX).contains(&count)
            && self.nodes.iter().chain(&self.tags).all(|word| is_word(word))
        {
            true => Ok(()),
            false => Err(DirectoryError::Refused("a placement names 1 to 64 nodes or tags")),
        }
    }
}

/// `x` and the domain; nothing for all domains that have none of their own.
pub(crate) fn placement_key(domain: &str) -> Vec<u8> {
    [&[PLACEMENT], domain.as_bytes()].concat()
}

pub(crate) fn encode_placement(key: &[u8], placement: &Placement) -> Bytes {
    let mut e = Encoder::new(LAYOUT);
    for words in [&placement.nodes, &placement.tags] {
        e.varint(words.len() as u64);
        for word in words {
            e.text(word);
        }
    }
    e.seal(key)
}

/// The domain and its placement.
pub(crate) fn decode_placement(key: &[u8], value: &[u8]) -> Result<(Box<str>, Placement), Damaged> {
    let domain = key.strip_prefix(&[PLACEMENT]).and_then(|domain| std::str::from_utf8(domain).ok());
    let domain = domain.ok_or_else(|| Damaged::new(key, "its key is no placement's"))?;
    open(key, value, LAYOUT, |d| {
        let mut words = || {
            let count = usize::try_from(d.varint()?).ok().filter(|count| *count <= Placement::WORDS_MAX)?;
            (0..count).map(|_| Some(d.text()?.into())).collect::<Option<Vec<Box<str>>>>()
        };
        Some((domain.into(), Placement { nodes: words()?, tags: words()? }))
    })
}

impl Change<'_> {
    /// Says where new accounts of a domain are placed, or no longer.
    pub(crate) fn put_placement(
        &mut self,
        domain: &str,
        placement: Option<&Placement>,
    ) -> Result<(), DirectoryError> {
        if !domain.is_empty() && &*domain_name(domain)? != domain {
            return Err(DirectoryError::Refused("this cannot be the name of a domain"));
        }
        let key = placement_key(domain);
        match placement {
            Some(placement) => {
                placement.check()?;
                let value = encode_placement(&key, placement);
                self.put_record(key, value);
            }
            None if get(&self.read, &key)?.is_none() => {
                return Err(DirectoryError::NotFound(format!("a placement of {domain}")));
            }
            None => self.delete(key),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rookery_types::NodeId;

    #[test]
    fn a_placement_reads_back_and_fits_what_it_names() {
        let placement =
            Placement { nodes: vec!["be1.example".into()], tags: vec!["ssd".into(), "eu".into()] };
        for domain in ["", "example.org"] {
            let key = placement_key(domain);
            let value = encode_placement(&key, &placement);
            assert_eq!(decode_placement(&key, &value), Ok((domain.into(), placement.clone())));
            for at in 0..value.len() {
                assert!(decode_placement(&key, &value[..at]).is_err());
            }
        }
        let named = Node { name: "be1.example".into(), ..Node::new(NodeId(1)) };
        let tagged = Node { tags: vec!["eu".into()], ..Node::new(NodeId(2)) };
        assert!(placement.fits(&named) && placement.fits(&tagged) && !placement.fits(&Node::new(NodeId(3))));
        assert!(placement.check().is_ok() && Placement::default().check().is_err());
    }
}
