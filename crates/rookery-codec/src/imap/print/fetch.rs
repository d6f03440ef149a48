//! FETCH data, item by item, straight into the output.

use super::basic::{self, number};
use crate::imap::response::FetchData;
use crate::imap::types::Section;
use bytes::{BufMut, BytesMut};
use rookery_types::{InternalDate, Keyword, ModSeq, SeqNum, SystemFlags, Uid};
use std::num::NonZeroU32;

/// Writes one `* n FETCH (...)`. Items come in the order they are called; [`FetchWriter::end`] closes it.
///
/// A body may be larger than the output should grow: after a `..._literal_header` call, send what
/// [`FetchWriter::buffer`] holds, then exactly the announced octets, and go on.
#[must_use = "without `end` the response stays open"]
#[derive(Debug)]
pub struct FetchWriter<'a> {
    out: &'a mut BytesMut,
    empty: bool,
}

impl<'a> FetchWriter<'a> {
    /// `* n FETCH (`
    pub fn begin(out: &'a mut BytesMut, seq: SeqNum) -> FetchWriter<'a> {
        out.extend_from_slice(b"* ");
        number(out, seq.get());
        out.extend_from_slice(b" FETCH (");
        FetchWriter { out, empty: true }
    }

    /// `* uid UIDFETCH (` (RFC 9586 §3.3)
    pub fn begin_uid(out: &'a mut BytesMut, uid: Uid) -> FetchWriter<'a> {
        out.extend_from_slice(b"* ");
        number(out, uid.get());
        out.extend_from_slice(b" UIDFETCH (");
        FetchWriter { out, empty: true }
    }

    /// `)` and the line end.
    pub fn end(self) {
        self.out.extend_from_slice(b")\r\n");
    }

    /// The output, to be sent and emptied, or to take a literal's octets.
    pub fn buffer(&mut self) -> &mut BytesMut {
        self.out
    }

    fn name(&mut self, name: &str) {
        if !self.empty {
            self.out.put_u8(b' ');
        }
        self.empty = false;
        self.out.extend_from_slice(name.as_bytes());
    }

    /// `UID n`
    pub fn uid(&mut self, uid: Uid) {
        self.name("UID ");
        number(self.out, uid.get());
    }

    /// `FLAGS (..)`
    pub fn flags<'k>(
        &mut self,
        system: SystemFlags,
        recent: bool,
        keywords: impl IntoIterator<Item = &'k str>,
    ) {
        self.name("FLAGS ");
        basic::flags(self.out, system, recent, keywords, false);
    }

    /// `MODSEQ (n)`
    pub fn modseq(&mut self, modseq: ModSeq) {
        self.name("MODSEQ (");
        number(self.out, modseq.get());
        self.out.put_u8(b')');
    }

    /// `RFC822.SIZE n`, octets.
    pub fn size(&mut self, octets: u64) {
        self.name("RFC822.SIZE ");
        number(self.out, octets);
    }

    /// `INTERNALDATE ".."`
    pub fn internaldate(&mut self, date: InternalDate) {
        self.name("INTERNALDATE ");
        basic::date_time(self.out, date);
    }

    /// `ENVELOPE`, rendered before: from `(` to `)`.
    pub fn envelope_rendered(&mut self, octets: &[u8]) {
        self.name("ENVELOPE ");
        self.out.extend_from_slice(octets);
    }

    /// `BODY`, rendered before: from `(` to `)`.
    pub fn body_rendered(&mut self, octets: &[u8]) {
        self.name("BODY ");
        self.out.extend_from_slice(octets);
    }

    /// `BODYSTRUCTURE`, rendered before: from `(` to `)`.
    pub fn bodystructure_rendered(&mut self, octets: &[u8]) {
        self.name("BODYSTRUCTURE ");
        self.out.extend_from_slice(octets);
    }

    /// `EMAILID (id)`
    pub fn emailid(&mut self, id: &[u8]) {
        self.name("EMAILID (");
        self.out.extend_from_slice(id);
        self.out.put_u8(b')');
    }

    /// `THREADID (id)` or `THREADID NIL`
    pub fn threadid(&mut self, id: Option<&[u8]>) {
        self.name("THREADID ");
        match id {
            Some(id) => {
                self.out.put_u8(b'(');
                self.out.extend_from_slice(id);
                self.out.put_u8(b')');
            }
            None => self.out.extend_from_slice(b"NIL"),
        }
    }

    /// `SAVEDATE ".."` or `SAVEDATE NIL`
    pub fn savedate(&mut self, date: Option<InternalDate>) {
        self.name("SAVEDATE ");
        match date {
            Some(date) => basic::date_time(self.out, date),
            None => self.out.extend_from_slice(b"NIL"),
        }
    }

    /// `PREVIEW ".."` or `PREVIEW NIL`
    pub fn preview(&mut self, text: Option<&[u8]>) {
        self.name("PREVIEW ");
        basic::nstring(self.out, text);
    }

    fn section_name(&mut self, section: &Section, origin: Option<u64>) {
        self.name("BODY");
        basic::section(self.out, section);
        self.origin(origin);
    }

    fn binary_name(&mut self, part: &[NonZeroU32], origin: Option<u64>) {
        self.name("BINARY[");
        basic::part(self.out, part);
        self.out.put_u8(b']');
        self.origin(origin);
    }

    /// `<n>` where asked for, and the space before the value.
    fn origin(&mut self, origin: Option<u64>) {
        if let Some(origin) = origin {
            self.out.put_u8(b'<');
            number(self.out, origin);
            self.out.put_u8(b'>');
        }
        self.out.put_u8(b' ');
    }

    /// `BODY[..]<n> {octets}` and its line end; the caller sends that many octets, without NUL, and goes on.
    pub fn section_literal_header(&mut self, section: &Section, origin: Option<u64>, octets: u64) {
        self.section_name(section, origin);
        basic::literal_header(self.out, false, octets);
    }

    /// `BODY[..]<n>` with its octets; `None`: NIL.
    pub fn section(&mut self, section: &Section, origin: Option<u64>, octets: Option<&[u8]>) {
        self.section_name(section, origin);
        basic::nstring(self.out, octets);
    }

    /// `BINARY[..]<n>` with a literal header, `~{octets}` if it may hold NUL; the octets are the caller's.
    pub fn binary_literal_header(
        &mut self,
        part: &[NonZeroU32],
        origin: Option<u64>,
        literal8: bool,
        octets: u64,
    ) {
        self.binary_name(part, origin);
        basic::literal_header(self.out, literal8, octets);
    }

    /// `BINARY[..]<n>` with its octets; `None`: NIL.
    pub fn binary(&mut self, part: &[NonZeroU32], origin: Option<u64>, octets: Option<&[u8]>) {
        self.binary_name(part, origin);
        basic::nstring(self.out, octets);
    }

    /// `BINARY.SIZE[..] n`
    pub fn binary_size(&mut self, part: &[NonZeroU32], octets: u64) {
        self.name("BINARY.SIZE[");
        basic::part(self.out, part);
        self.out.extend_from_slice(b"] ");
        number(self.out, octets);
    }

    /// `RFC822`, `RFC822.HEADER` or `RFC822.TEXT` (RFC 3501 §7.4.2) and a literal header; the octets are
    /// the caller's.
    pub fn rfc822_literal_header(&mut self, name: &'static str, octets: u64) {
        self.name(name);
        self.out.put_u8(b' ');
        basic::literal_header(self.out, false, octets);
    }

    fn rfc822(&mut self, name: &str, octets: Option<&[u8]>) {
        self.name(name);
        self.out.put_u8(b' ');
        basic::nstring(self.out, octets);
    }

    /// Any item.
    pub fn item(&mut self, item: &FetchData) {
        match item {
            FetchData::Flags(list) => {
                self.flags(list.system, list.recent, list.keywords.iter().map(Keyword::as_str));
            }
            FetchData::Uid(uid) => self.uid(*uid),
            FetchData::ModSeq(modseq) => self.modseq(*modseq),
            FetchData::Size(octets) => self.size(*octets),
            FetchData::InternalDate(date) => self.internaldate(*date),
            FetchData::Envelope(rendered) => self.envelope_rendered(rendered),
            FetchData::Body(rendered) => self.body_rendered(rendered),
            FetchData::BodyStructure(rendered) => self.bodystructure_rendered(rendered),
            FetchData::Section { section, origin, data } => self.section(section, *origin, data.as_deref()),
            FetchData::Binary { part, origin, data } => self.binary(part, *origin, data.as_deref()),
            FetchData::BinarySize { part, octets } => self.binary_size(part, *octets),
            FetchData::Rfc822(data) => self.rfc822("RFC822", data.as_deref()),
            FetchData::Rfc822Header(data) => self.rfc822("RFC822.HEADER", data.as_deref()),
            FetchData::Rfc822Text(data) => self.rfc822("RFC822.TEXT", data.as_deref()),
            FetchData::EmailId(id) => self.emailid(id),
            FetchData::ThreadId(id) => self.threadid(id.as_deref()),
            FetchData::SaveDate(date) => self.savedate(*date),
            FetchData::Preview(text) => self.preview(text.as_deref()),
        }
    }
}
