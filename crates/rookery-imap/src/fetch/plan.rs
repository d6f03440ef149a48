//! What a FETCH asks, sorted out once for all its messages.

use rookery_codec::imap::command::FetchItem;
use rookery_codec::imap::{Section, SectionText};

/// The dearest thing an answer needs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Source {
    /// The message's own record, which is at hand.
    Memory,
    /// What was found out when it came.
    Facts,
    /// Its octets.
    Content,
}

/// The items of a FETCH, each once.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) items: Vec<FetchItem>,
    pub(crate) source: Source,
    /// Whether reading sets \Seen.
    pub(crate) sees: bool,
}

impl Plan {
    /// Sorts out the items. `uid`: UID is told whether asked or not. `modseq`: as well.
    pub(crate) fn new(asked: Vec<FetchItem>, uid: bool, modseq: bool) -> Plan {
        let mut items: Vec<FetchItem> = Vec::with_capacity(asked.len() + 2);
        if uid {
            items.push(FetchItem::Uid);
        }
        for item in asked {
            if !items.contains(&item) {
                items.push(item);
            }
        }
        if modseq && !items.contains(&FetchItem::ModSeq) {
            items.push(FetchItem::ModSeq);
        }
        let source = items.iter().map(source).max().unwrap_or(Source::Memory);
        let sees = items.iter().any(sees);
        Plan { items, source, sees }
    }

    /// Whether a client that gets the answer knows a message's flags; `modseq`: and its modseq.
    pub(crate) fn tells_flags(&self, modseq: bool) -> bool {
        let has = |item| self.items.contains(&item);
        has(FetchItem::Flags) && (!modseq || has(FetchItem::ModSeq))
    }

    /// With FLAGS among the items, since reading has changed them; and with UID and MODSEQ for those who follow
    /// modseqs (RFC 7162 §3.2.4).
    pub(crate) fn with_flags(&self, modseq: bool) -> Plan {
        let mut plan = self.clone();
        let more = [FetchItem::Flags, FetchItem::Uid, FetchItem::ModSeq];
        for item in more.into_iter().take(if modseq { 3 } else { 1 }) {
            if !plan.items.contains(&item) {
                plan.items.push(item);
            }
        }
        plan
    }

    /// About how many octets the answer for a message of `size` octets has, and reading it costs.
    pub(crate) fn octets(&self, size: u32) -> usize {
        match self.source {
            Source::Memory => 128,
            Source::Facts => 2048,
            Source::Content if self.only_headers() => 8192.min(size as usize),
            Source::Content => size as usize + 1024,
        }
    }

    fn only_headers(&self) -> bool {
        let header = |item: &FetchItem| match item {
            FetchItem::Section { section: Section { part, text }, .. } => {
                part.is_empty()
                    && matches!(
                        text,
                        Some(
                            SectionText::Header
                                | SectionText::HeaderFields(_)
                                | SectionText::HeaderFieldsNot(_)
                        )
                    )
            }
            FetchItem::Rfc822Header => true,
            other => source(other) < Source::Content,
        };
        self.items.iter().all(header)
    }
}

fn source(item: &FetchItem) -> Source {
    match item {
        FetchItem::Flags
        | FetchItem::InternalDate
        | FetchItem::Rfc822Size
        | FetchItem::Uid
        | FetchItem::ModSeq
        | FetchItem::EmailId
        | FetchItem::SaveDate => Source::Memory,
        FetchItem::Envelope | FetchItem::Body | FetchItem::BodyStructure | FetchItem::ThreadId => {
            Source::Facts
        }
        _ => Source::Content,
    }
}

/// Whether the item sets \Seen (RFC 9051 §6.4.5, RFC 3501 §6.4.5).
fn sees(item: &FetchItem) -> bool {
    match item {
        FetchItem::Rfc822 | FetchItem::Rfc822Text => true,
        FetchItem::Section { peek, .. } | FetchItem::Binary { peek, .. } => !peek,
        _ => false,
    }
}
