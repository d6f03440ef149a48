//! Search keys asked of messages' records and octets, on a blocking thread.

use super::compile::{Compiled, Scene, compares};
use super::headers::Field;
use crate::fetch::{Content, WHOLE_OCTETS_MAX};
use rookery_codec::imap::command::{DateField, DateTest, Day};
use rookery_mime::{Needle, SearchBuffers, SearchScope, Structure, search_text_with};
use rookery_store::{Account, Message, StoreError, Whole};
use rookery_types::{ContentId, UidSet};

/// For each message whether it matches. One that cannot be read matches nothing that needs reading.
pub(crate) fn matches(
    key: &Compiled,
    account: &Account,
    messages: &[&Message],
    recent: &UidSet,
) -> Vec<Result<bool, StoreError>> {
    let mut buffers = SearchBuffers::default();
    let mut ask = |message: &Message, whole: Option<Whole<'_>>| {
        let content = Content::new(account, message.content, message.size);
        let mut asked = Asked {
            account,
            message,
            scene: Scene { recent, headers: None },
            content,
            whole,
            buffers: &mut buffers,
        };
        asked.matches(key)
    };
    if !key.reads_whole() {
        return messages.iter().map(|message| ask(message, None)).collect();
    }
    let mut answers: Vec<Result<bool, StoreError>> = Vec::with_capacity(messages.len());
    let mut small: Vec<(usize, ContentId)> = Vec::with_capacity(messages.len());
    for (at, message) in messages.iter().enumerate() {
        // Of a large one perhaps only the header is needed.
        let large = u64::from(message.size) > WHOLE_OCTETS_MAX;
        answers.push(if large { ask(message, None) } else { Ok(false) });
        if !large {
            small.push((at, message.content));
        }
    }
    let contents: Vec<ContentId> = small.iter().map(|(_, content)| *content).collect();
    account.read_many(&contents, |at, whole| {
        let at = small.get(at).map_or(usize::MAX, |(at, _)| *at);
        if let (Some(message), Some(answer)) = (messages.get(at), answers.get_mut(at)) {
            *answer = whole.and_then(|whole| ask(message, Some(whole)));
        }
    });
    answers
}

struct Asked<'a, 'b> {
    account: &'a Account,
    message: &'a Message,
    scene: Scene<'a>,
    content: Content<'a>,
    /// The message, if all keys need it anyway.
    whole: Option<Whole<'a>>,
    buffers: &'b mut SearchBuffers,
}

impl Asked<'_, '_> {
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
            Compiled::Field(Field::Subject, needle) => self.header(needle, SearchScope::Header("Subject")),
            Compiled::Field(field, needle) => self.header(needle, SearchScope::Addresses(field.name())),
            // The others are known from memory.
            _ => Ok(false),
        }
    }

    fn sent(&mut self, test: DateTest, day: Day) -> Result<bool, StoreError> {
        let sent = self.account.facts(self.message.content)?.sent;
        Ok(sent.is_some_and(|sent| compares(sent.day(), test, day)))
    }

    fn search(&mut self, needle: &Needle, scope: SearchScope<'_>) -> Result<bool, StoreError> {
        if let Some(Whole { octets, structure }) = self.whole
            && let Ok(structure) = Structure::decode(structure)
        {
            return Ok(search_text_with(self.buffers, octets, &structure, needle, scope));
        }
        let octets = self.content.whole()?;
        let structure = self.content.structure()?;
        Ok(search_text_with(self.buffers, &octets, structure, needle, scope))
    }

    /// A header key needs the message's header alone.
    fn header(&mut self, needle: &Needle, scope: SearchScope<'_>) -> Result<bool, StoreError> {
        if self.whole.is_some() {
            return self.search(needle, scope);
        }
        let structure = self.content.structure()?.clone();
        let end = structure.parts().next().map_or(0, |root| root.header.end);
        let header = self.content.octets(0..end)?;
        Ok(search_text_with(self.buffers, &header, &structure, needle, scope))
    }
}
