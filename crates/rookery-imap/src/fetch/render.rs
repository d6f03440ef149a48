//! Messages to FETCH responses, on a blocking thread.

use super::body::{Content, Data, UnknownCte, cut, section_of};
use super::plan::{Plan, Source};
use crate::tell::{self, keyword_names};
use bytes::{BufMut, Bytes, BytesMut};
use rookery_codec::imap::command::FetchItem;
use rookery_codec::imap::print::FetchWriter;
use rookery_codec::imap::types::Partial;
use rookery_mime::TransferEncoding;
use rookery_store::{Account, Facts, Message, StoreError};
use rookery_types::{ContentId, InternalDate, Keyword, SeqNum, UidSet};
use std::ops::Range;
use std::sync::Arc;

/// The largest body that is put into the batch itself, octets. Larger ones are streamed.
const INLINE_OCTETS_MAX: u64 = 1 << 20;

/// Some messages to be rendered.
pub(crate) struct Job {
    pub(crate) account: Account,
    pub(crate) plan: Arc<Plan>,
    pub(crate) keywords: Arc<Vec<Keyword>>,
    /// Whether UIDFETCH responses are wanted (RFC 9586 §3.3).
    pub(crate) uid_only: bool,
    /// \Recent ones; `None`: the session does not know \Recent.
    pub(crate) recent: Option<UidSet>,
    pub(crate) messages: Vec<(SeqNum, Message)>,
    /// Of so many of the messages a preview is made also if it is not urgent.
    pub(crate) lazy_previews: usize,
}

/// What to send.
pub(crate) enum Piece {
    /// These octets.
    Octets(Bytes),
    /// These octets of a message, too many to be held.
    Body { content: ContentId, range: Range<u64>, encoded: Option<Encoded> },
}

/// How octets of a message are to be undone before they are sent.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    pub(crate) encoding: TransferEncoding,
    /// What of the octets that come out is sent.
    pub(crate) cut: Range<u64>,
}

/// What came of a job.
#[derive(Default)]
pub(crate) struct Rendered {
    pub(crate) pieces: Vec<Piece>,
    /// Messages that could not be read; nothing was sent of them.
    pub(crate) failed: usize,
    /// Messages with a part whose transfer encoding is unknown (RFC 3516 §4.3).
    pub(crate) unknown_cte: bool,
}

/// Renders all messages of a job. One that cannot be read is left out whole.
pub(crate) fn render(job: &Job) -> Rendered {
    let mut rendered = Rendered::default();
    let mut out = BytesMut::new();
    for (n, (seq, message)) in job.messages.iter().enumerate() {
        let before = out.len();
        let pieces = rendered.pieces.len();
        let mut one = One {
            job,
            message,
            lazy_preview: n < job.lazy_previews,
            facts: None,
            content: Content::new(&job.account, message.content, message.size),
        };
        match one.render(*seq, &mut out, &mut rendered) {
            Ok(()) => {}
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a message cannot be read");
                // Of a message that began with a streamed body nothing can be taken back, but such a message
                // was found readable before its body was queued.
                if rendered.pieces.len() == pieces {
                    out.truncate(before);
                }
                rendered.failed += 1;
            }
        }
    }
    flush(&mut out, &mut rendered.pieces);
    rendered
}

fn flush(out: &mut BytesMut, pieces: &mut Vec<Piece>) {
    if !out.is_empty() {
        pieces.push(Piece::Octets(out.split().freeze()));
    }
}

/// One message under way.
struct One<'a> {
    job: &'a Job,
    message: &'a Message,
    lazy_preview: bool,
    facts: Option<Facts>,
    content: Content<'a>,
}

/// A section ready to be written.
enum Ready {
    Nil,
    Octets(Bytes),
    Stream { range: Range<u64>, octets: u64, encoded: Option<Encoded>, nul: bool },
}

impl One<'_> {
    fn render(&mut self, seq: SeqNum, out: &mut BytesMut, rendered: &mut Rendered) -> Result<(), StoreError> {
        // All that can fail comes before the first octet.
        let job = self.job;
        let mut ready = Vec::new();
        for item in &job.plan.items {
            ready.push(self.prepare(item, &mut rendered.unknown_cte)?);
        }
        if ready.iter().all(|ready| matches!(ready, Some(Prepared::Skip))) {
            return Ok(());
        }
        let mut writer = tell::begin(out, job.uid_only, seq, self.message);
        for (item, ready) in job.plan.items.iter().zip(ready) {
            match ready {
                None => simple(&mut writer, self.job, self.message, self.facts.as_ref(), item),
                Some(Prepared::Skip) => {}
                Some(Prepared::Size(octets)) => {
                    if let FetchItem::BinarySize { part } = item {
                        writer.binary_size(part, octets);
                    }
                }
                Some(Prepared::Thread(id)) => writer.threadid(Some(id.as_bytes())),
                Some(Prepared::Preview(text)) => writer.preview(text.as_deref().map(str::as_bytes)),
                Some(Prepared::Body(ready)) => {
                    body(&mut writer, item, ready, self.message.content, &mut rendered.pieces)
                }
            }
        }
        writer.end();
        Ok(())
    }

    /// What has to be read for an item; `None` if nothing.
    fn prepare(&mut self, item: &FetchItem, unknown_cte: &mut bool) -> Result<Option<Prepared>, StoreError> {
        if matches!(item, FetchItem::Envelope | FetchItem::Body | FetchItem::BodyStructure)
            && self.facts.is_none()
        {
            self.facts = Some(self.job.account.facts(self.message.content)?);
        }
        Ok(match item {
            FetchItem::ThreadId => {
                Some(Prepared::Thread(self.job.account.content(self.message.content)?.thread.objectid()))
            }
            FetchItem::Preview { lazy: true } if !self.lazy_preview => Some(Prepared::Preview(None)),
            FetchItem::Preview { .. } => Some(Prepared::Preview(Some(self.preview()?))),
            FetchItem::Section { section, partial, .. } => {
                let data = self.content.section(section)?;
                Some(Prepared::Body(self.ready(data, *partial)?))
            }
            FetchItem::Rfc822 | FetchItem::Rfc822Header | FetchItem::Rfc822Text => match section_of(item) {
                Some((_, section)) => {
                    let data = self.content.section(&section)?;
                    Some(Prepared::Body(self.ready(data, None)?))
                }
                None => None,
            },
            FetchItem::Binary { part, partial, .. } => Some(match self.content.binary(part)? {
                Ok(data) => Prepared::Body(self.ready_binary(data, *partial)?),
                Err(UnknownCte) => {
                    *unknown_cte = true;
                    Prepared::Skip
                }
            }),
            FetchItem::BinarySize { part } => Some(match self.content.binary(part)? {
                Ok(Data::Nil) => Prepared::Size(0),
                Ok(Data::Range(range)) => Prepared::Size(range.end - range.start),
                Ok(Data::Made(octets)) => Prepared::Size(octets.len() as u64),
                Ok(Data::Encoded(range, encoding)) => {
                    Prepared::Size(self.content.measure(range, encoding, None)?.0)
                }
                Err(UnknownCte) => {
                    *unknown_cte = true;
                    Prepared::Skip
                }
            }),
            _ => None,
        })
    }

    /// Reads no more of the message than the headers of its first parts and the beginning of a text.
    fn preview(&mut self) -> Result<String, StoreError> {
        let structure = self.content.structure()?.clone();
        rookery_mime::preview(&structure, |range| self.content.octets(range))
    }

    fn ready(&mut self, data: Data, partial: Option<Partial>) -> Result<Ready, StoreError> {
        Ok(match data {
            Data::Nil => Ready::Nil,
            Data::Range(range) => {
                let range = cut(range, partial);
                let octets = range.end - range.start;
                match octets > INLINE_OCTETS_MAX {
                    true => Ready::Stream { range, octets, encoded: None, nul: false },
                    false => Ready::Octets(self.content.octets(range)?),
                }
            }
            Data::Made(octets) => {
                let range = cut(0..octets.len() as u64, partial);
                let at = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(octets.len());
                Ready::Octets(octets.slice(at(range.start)..at(range.end)))
            }
            Data::Encoded(range, encoding) => {
                let (whole, nul) = self.content.measure(range.clone(), encoding, partial)?;
                let cut = cut(0..whole, partial);
                let octets = cut.end - cut.start;
                Ready::Stream { range, octets, encoded: Some(Encoded { encoding, cut }), nul }
            }
        })
    }

    /// The same for BINARY, where the client is told whether NUL is among the octets (RFC 3516 §4.3).
    fn ready_binary(&mut self, data: Data, partial: Option<Partial>) -> Result<Ready, StoreError> {
        let mut ready = self.ready(data, partial)?;
        if let Ready::Stream { range, encoded: None, nul, .. } = &mut ready {
            *nul = self.content.measure(range.clone(), TransferEncoding::Identity, None)?.1;
        }
        Ok(ready)
    }
}

/// What was read for an item.
enum Prepared {
    Body(Ready),
    Size(u64),
    Thread(String),
    Preview(Option<String>),
    Skip,
}

/// Writes an item that needs no content. Also what a FETCH without content writes.
pub(crate) fn simple(
    writer: &mut FetchWriter<'_>,
    job: &Job,
    message: &Message,
    facts: Option<&Facts>,
    item: &FetchItem,
) {
    let recent = job.recent.as_ref().is_some_and(|recent| recent.contains_uid(message.uid));
    match item {
        FetchItem::Uid => writer.uid(message.uid),
        FetchItem::Flags => writer.flags(message.flags, recent, keyword_names(&job.keywords, message)),
        FetchItem::InternalDate => writer.internaldate(message.date),
        FetchItem::Rfc822Size => writer.size(u64::from(message.size)),
        FetchItem::ModSeq => writer.modseq(message.modseq),
        FetchItem::EmailId => writer.emailid(message.content.objectid().as_bytes()),
        FetchItem::SaveDate => {
            writer.savedate(Some(InternalDate::from_unix(i64::from(message.saved_unix_seconds))));
        }
        FetchItem::Envelope => facts.into_iter().for_each(|facts| writer.envelope_rendered(&facts.envelope)),
        FetchItem::Body => facts.into_iter().for_each(|facts| writer.body_rendered(&facts.body)),
        FetchItem::BodyStructure => {
            facts.into_iter().for_each(|facts| writer.bodystructure_rendered(&facts.body_structure));
        }
        _ => {}
    }
}

/// Writes messages of a job that needs nothing but memory.
pub(crate) fn render_from_memory(job: &Job, seq: SeqNum, message: &Message, out: &mut BytesMut) {
    debug_assert_eq!(job.plan.source, Source::Memory);
    let mut writer = tell::begin(out, job.uid_only, seq, message);
    job.plan.items.iter().for_each(|item| simple(&mut writer, job, message, None, item));
    writer.end();
}

/// Writes a body: NIL, octets as a literal, or a literal's header whose octets follow as a piece.
fn body(
    writer: &mut FetchWriter<'_>,
    item: &FetchItem,
    ready: Ready,
    content: ContentId,
    pieces: &mut Vec<Piece>,
) {
    let octets = match &ready {
        Ready::Nil => None,
        Ready::Octets(octets) => Some(octets.len() as u64),
        Ready::Stream { octets, .. } => Some(*octets),
    };
    let binary_nul = match &ready {
        Ready::Nil => false,
        Ready::Octets(octets) => octets.contains(&0),
        Ready::Stream { nul, .. } => *nul,
    };
    match (item, octets) {
        (FetchItem::Section { section, partial, .. }, None) => {
            writer.section(section, partial.map(|partial| partial.origin), None);
        }
        (FetchItem::Section { section, partial, .. }, Some(octets)) => {
            writer.section_literal_header(section, partial.map(|partial| partial.origin), octets);
        }
        (FetchItem::Binary { part, partial, .. }, None) => {
            writer.binary(part, partial.map(|partial| partial.origin), None);
        }
        (FetchItem::Binary { part, partial, .. }, Some(octets)) => {
            writer.binary_literal_header(part, partial.map(|partial| partial.origin), binary_nul, octets);
        }
        (item, octets) => {
            if let Some((name, _)) = section_of(item) {
                writer.rfc822_literal_header(name, octets.unwrap_or(0));
            }
        }
    }
    match ready {
        Ready::Nil => {}
        Ready::Octets(octets) => writer.buffer().put_slice(&octets),
        Ready::Stream { range, encoded, .. } => {
            flush(writer.buffer(), pieces);
            pieces.push(Piece::Body { content, range, encoded });
        }
    }
}
