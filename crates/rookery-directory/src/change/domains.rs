//! Domains in a change: they come, one of them is the default, and they go in two steps.
//!
//! Invariants:
//! - Nothing new is made in a domain that is closing. Whoever makes something in a domain has its record as a condition,
//!   so that nothing comes between the two steps by which it goes.
//! - The default domain does not go, nor one in which there is something.

use super::{Change, domain, domain_name, read_state, unavailable};
use crate::DirectoryError;
use crate::alias;
use crate::entry::Domain;
use crate::records::{domain_key, domain_prefix, encode_domain, groups_prefix};
use rookery_kv::{Read, Space, prefix_end};

impl Change<'_> {
    /// Fails unless a domain is there and stays.
    pub(crate) fn need_domain(&self, name: &str) -> Result<(), DirectoryError> {
        match domain(&self.read, name)? {
            Some(domain) if !domain.closing => Ok(()),
            _ => Err(DirectoryError::NotFound(format!("domain {name}"))),
        }
    }

    /// Makes a domain, or takes back that it is removed.
    pub(crate) fn add_domain(&mut self, name: &str) -> Result<Domain, DirectoryError> {
        let name = domain_name(name)?;
        if domain(&self.read, &name)?.is_some_and(|domain| !domain.closing) {
            return Err(DirectoryError::Exists(format!("domain {name}")));
        }
        let domain = Domain { name, revision: self.revision, closing: false };
        self.put_domain(&domain);
        let mut state = read_state(&self.read)?;
        if state.default_domain.is_none() {
            state.default_domain = Some(domain.name.clone());
            self.put_state(&state);
        }
        Ok(domain)
    }

    fn put_domain(&mut self, domain: &Domain) {
        let key = domain_key(&domain.name);
        let value = encode_domain(&key, domain);
        self.put_record(key, value);
    }

    /// The first step of removing a domain: nothing new is made in it.
    pub(crate) fn close_domain(&mut self, name: &str) -> Result<(), DirectoryError> {
        let name = domain_name(name)?;
        let found = domain(&self.read, &name)?;
        let mut domain = found.ok_or_else(|| DirectoryError::NotFound(format!("domain {name}")))?;
        self.need_unused(&name)?;
        if !domain.closing {
            domain.closing = true;
            domain.revision = self.revision;
            self.put_domain(&domain);
        }
        Ok(())
    }

    /// The second step, decided on a copy that has seen the first: forgets the domain, or opens it again if something
    /// is in it. Whether it is gone.
    pub(crate) fn remove_domain(&mut self, name: &str) -> Result<bool, DirectoryError> {
        let name = domain_name(name)?;
        let found = domain(&self.read, &name)?;
        let mut domain = found.ok_or_else(|| DirectoryError::NotFound(format!("domain {name}")))?;
        if !domain.closing {
            // Somebody made it anew.
            return Ok(false);
        }
        match self.need_unused(&name) {
            Ok(()) => {
                self.delete(domain_key(&name));
                Ok(true)
            }
            Err(DirectoryError::InUse(_)) => {
                domain.closing = false;
                domain.revision = self.revision;
                self.put_domain(&domain);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn need_unused(&self, name: &str) -> Result<(), DirectoryError> {
        let is_default = read_state(&self.read)?.default_domain.as_deref() == Some(name);
        let in_use = |prefix: Vec<u8>| is_empty(&self.read, &prefix).map(|empty| !empty);
        let is_used = in_use(domain_prefix(name))?
            || in_use(groups_prefix(name))?
            || in_use(alias::domain_prefix(name))?;
        match is_default || is_used {
            true => Err(DirectoryError::InUse(format!("domain {name}"))),
            false => Ok(()),
        }
    }

    pub(crate) fn set_default_domain(&mut self, name: &str) -> Result<(), DirectoryError> {
        let name = domain_name(name)?;
        self.need_domain(&name)?;
        let mut state = read_state(&self.read)?;
        if state.default_domain.as_ref() != Some(&name) {
            state.default_domain = Some(name);
            self.put_state(&state);
        }
        Ok(())
    }
}

/// Whether no key begins so.
fn is_empty(read: &dyn Read, prefix: &[u8]) -> Result<bool, DirectoryError> {
    let mut empty = true;
    let end = prefix_end(prefix);
    let scanned = read.scan(Space::Directory, prefix, end.as_deref(), false, &mut |_, _| {
        empty = false;
        false
    });
    scanned.map_err(unavailable)?;
    Ok(empty)
}
