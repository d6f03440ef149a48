//! Search keys asked of a message's records and octets, on a blocking thread.

use super::compile::{Compiled, Scene, compares};
use crate::fetch::Content;
use rookery_codec::imap::command::{DateField, DateTest, Day};
use rookery_mime::{Needle, SearchScope, search_text};
use rookery_store::{Account, Message, StoreError};
use rookery_types::UidSet;

/// Whether a message matches. One that cannot be read matches nothing that needs reading.
pub(crate) fn matches(
    key: &Compiled,
    account: &Account,
    message: &Message,
    recent: &UidSet,
) -> Result<bool, StoreError> {
    let mut asked = Asked {
        account,
        message,
        scene: Scene { recent },
        content: Content::new(account, message.content, message.size),
    };
    asked.matches(key)
}

struct Asked<'a> {
    account: &'a Account,
    message: &'a Message,
    scene: Scene<'a>,
    content: Content<'a>,
}

impl Asked<'_> {
    fn matches(&mut self, key: &Compiled) -> Result<bool, StoreError> {
        if let Some(known) = key.known(self.message, &self.scene) {
            return Ok(known);
        }
        match key {
            Compiled::And(keys) => {
                for key in keys {
                    if !self.matches(key)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Compiled::Or(a, b) => Ok(self.matches(a)? || self.matches(b)?),
            Compiled::Not(key) => Ok(!self.matches(key)?),
            Compiled::Date(DateField::Sent, test, day) => self.sent(*test, *day),
            Compiled::ThreadId(id) => {
                Ok(self.account.content(self.message.content)?.thread.objectid() == **id)
            }
            Compiled::Text(needle) => self.search(needle, SearchScope::Text),
            Compiled::Body(needle) => self.search(needle, SearchScope::Body),
            Compiled::Header(name, needle) => self.header(needle, SearchScope::Header(name)),
            Compiled::Addresses(name, needle) => self.header(needle, SearchScope::Addresses(name)),
            // The others are known from memory.
            _ => Ok(false),
        }
    }

    fn sent(&mut self, test: DateTest, day: Day) -> Result<bool, StoreError> {
        let sent = self.account.facts(self.message.content)?.sent;
        Ok(sent.is_some_and(|sent| compares(sent.day(), test, day)))
    }

    fn search(&mut self, needle: &Needle, scope: SearchScope<'_>) -> Result<bool, StoreError> {
        let octets = self.content.whole()?;
        let structure = self.content.structure()?;
        Ok(search_text(&octets, structure, needle, scope))
    }

    /// A header key needs the message's header alone.
    fn header(&mut self, needle: &Needle, scope: SearchScope<'_>) -> Result<bool, StoreError> {
        let structure = self.content.structure()?.clone();
        let end = structure.parts().next().map_or(0, |root| root.header.end);
        let header = self.content.octets(0..end)?;
        Ok(search_text(&header, &structure, needle, scope))
    }
}
