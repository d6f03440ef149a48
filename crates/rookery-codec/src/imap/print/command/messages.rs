//! FETCH, STORE and APPEND.

use super::{CommandWriter, sign};
use crate::imap::client::EncodeError;
use crate::imap::command::{AppendLiteral, AppendMessage, AppendSource, Fetch, FetchItem, Replaced, Store};
use crate::imap::print::basic::{
    can_be_quoted, date_time, is_astring_atom, number, part, quoted, section_with,
};
use crate::imap::types::{Partial, WireName};
use rookery_types::SetEnd;

impl CommandWriter {
    pub(super) fn fetch(&mut self, fetch: &Fetch) {
        self.uid(fetch.uid);
        self.text("FETCH ");
        self.set(&fetch.set);
        self.text(" (");
        self.many(&fetch.items, Self::fetch_item);
        self.text(")");
        if let Some(modseq) = fetch.changed_since {
            self.text(" (CHANGEDSINCE ");
            number(&mut self.out, modseq);
            self.text(if fetch.vanished { " VANISHED" } else { "" });
        }
        if let Some(range) = fetch.partial {
            self.text(if fetch.changed_since.is_some() { " PARTIAL " } else { " (PARTIAL " });
            self.partial_range(range);
        }
        self.text(if fetch.changed_since.is_some() || fetch.partial.is_some() { ")" } else { "" });
    }

    pub(super) fn fetch_item(&mut self, item: &FetchItem) {
        self.text(match item {
            FetchItem::Envelope => "ENVELOPE",
            FetchItem::Flags => "FLAGS",
            FetchItem::InternalDate => "INTERNALDATE",
            FetchItem::Rfc822 => "RFC822",
            FetchItem::Rfc822Header => "RFC822.HEADER",
            FetchItem::Rfc822Text => "RFC822.TEXT",
            FetchItem::Rfc822Size => "RFC822.SIZE",
            FetchItem::Body => "BODY",
            FetchItem::BodyStructure => "BODYSTRUCTURE",
            FetchItem::Uid => "UID",
            FetchItem::ModSeq => "MODSEQ",
            FetchItem::EmailId => "EMAILID",
            FetchItem::ThreadId => "THREADID",
            FetchItem::SaveDate => "SAVEDATE",
            FetchItem::Preview { lazy: false } => "PREVIEW",
            FetchItem::Preview { lazy: true } => "PREVIEW (LAZY)",
            FetchItem::Section { peek: false, .. } => "BODY",
            FetchItem::Section { peek: true, .. } => "BODY.PEEK",
            FetchItem::Binary { peek: false, .. } => "BINARY",
            FetchItem::Binary { peek: true, .. } => "BINARY.PEEK",
            FetchItem::BinarySize { .. } => "BINARY.SIZE",
        });
        match item {
            FetchItem::Section { section, partial, .. } => {
                // Field names are short words; one that is not would need a literal in the middle.
                let mut legal = true;
                section_with(&mut self.out, section, |out, name| {
                    legal &= can_be_quoted(name);
                    if is_astring_atom(name) { out.extend_from_slice(name) } else { quoted(out, name) }
                });
                if !legal {
                    self.fail(EncodeError::FieldName);
                }
                self.partial(*partial);
            }
            FetchItem::Binary { part, partial, .. } => {
                self.part(part);
                self.partial(*partial);
            }
            FetchItem::BinarySize { part } => self.part(part),
            _ => {}
        }
    }

    fn part(&mut self, numbers: &[std::num::NonZeroU32]) {
        self.text("[");
        part(&mut self.out, numbers);
        self.text("]");
    }

    fn partial(&mut self, partial: Option<Partial>) {
        if let Some(Partial { origin, octets }) = partial {
            self.text("<");
            number(&mut self.out, origin);
            self.text(".");
            number(&mut self.out, octets);
            self.text(">");
        }
    }

    pub(super) fn store(&mut self, store: &Store) {
        self.uid(store.uid);
        self.text("STORE ");
        self.set(&store.set);
        if let Some(modseq) = store.unchanged_since {
            self.text(" (UNCHANGEDSINCE ");
            number(&mut self.out, modseq);
            self.text(")");
        }
        self.text(" ");
        self.text(sign(store.change));
        self.text(if store.silent { "FLAGS.SILENT " } else { "FLAGS " });
        self.flag_list(&store.flags);
    }

    /// `APPEND mailbox` or `REPLACE message mailbox`, without a message.
    pub(crate) fn append(&mut self, replaced: Option<Replaced>, mailbox: &WireName) {
        match replaced {
            None => self.text("APPEND "),
            Some(Replaced { uid, message }) => {
                self.uid(uid);
                self.text("REPLACE ");
                match message {
                    SetEnd::Number(n) => number(&mut self.out, n),
                    SetEnd::Largest => self.text("*"),
                }
                self.text(" ");
            }
        }
        self.mailbox(mailbox);
    }

    /// One message of APPEND up to the octets.
    pub(crate) fn append_message(&mut self, message: &AppendMessage) {
        self.text(" ");
        if !message.flags.is_empty() {
            self.flag_list(&message.flags);
            self.text(" ");
        }
        if let Some(date) = message.date {
            date_time(&mut self.out, date);
            self.text(" ");
        }
        let AppendSource::Literal(AppendLiteral { octets, kind, utf8 }) = message.source else {
            self.fail(EncodeError::Catenate);
            return;
        };
        if utf8 {
            self.text("UTF8 (");
        }
        if kind.binary || utf8 {
            self.text("~");
        }
        self.text("{");
        number(&mut self.out, octets);
        self.text(if kind.synchronising { "}\r\n" } else { "+}\r\n" });
        if kind.synchronising {
            self.waits.push(self.out.len());
        }
    }
}
