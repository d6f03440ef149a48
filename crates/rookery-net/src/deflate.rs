//! The compression layer of one connection: raw DEFLATE (RFC 1951) both ways, as IMAP's COMPRESS has it
//! (RFC 4978).
//!
//! Invariants:
//! - What a few octets blow up to comes out in pieces of at most [`UNPACKED_OCTETS`]; who takes them bounds
//!   what is kept.
//! - What is packed ahead of what the stream takes is bounded ([`PACKED_AHEAD`]).
//! - A packer's tables (some 300 KiB) exist only while octets are under way. An idle layer keeps the last
//!   octets sent, which a new packer may refer to, and the state of the unpacker.
//! - Octets behind the end of the client's compressed stream, or behind a flush of it, are never taken for a
//!   part of it, if nobody reads on: see [`Deflate::into_rest`].

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::connection::{give_back, poll_into};

/// What [`Deflate::given`] is before anything was given: no end of a flush.
const NOTHING_GIVEN: [u8; 4] = [1; 4];
/// Octets that are unpacked at once.
const UNPACKED_OCTETS: usize = 16 << 10;
/// Octets of room that the packer is given at once.
const PACKED_OCTETS: usize = 8 << 10;
/// Octets already sent that a new packer may refer to.
const HISTORY_OCTETS: usize = 4 << 10;
/// Octets that are packed ahead of what the stream takes.
const PACKED_AHEAD: usize = 32 << 10;
/// Speed before size: the higher levels cost a multiple of the time for a few per cent.
const LEVEL: u32 = 3;
/// What a sync flush ends with (RFC 1951 §3.2.4: an empty stored block). Behind it octets are whole.
const FLUSH_MARK: [u8; 4] = [0, 0, 0xff, 0xff];
/// The two ways to write an empty last block, behind a flush.
const LAST_BLOCKS: [&[u8]; 2] = [&[3, 0], &[1, 0, 0, 0xff, 0xff]];

/// Both directions of one compressed connection.
pub(crate) struct Deflate {
    packer: Option<Compress>,
    history: Vec<u8>,
    /// To be written to the stream.
    packed: BytesMut,
    /// Octets were packed that no flush has followed yet.
    unflushed: bool,
    /// The stream to the client is over.
    finished: bool,
    unpacker: Decompress,
    /// Read from the stream, not yet unpacked.
    arrived: BytesMut,
    /// The last octets that the unpacker was given.
    given: [u8; 4],
    /// The last piece filled its room: there may be more without further input.
    full: bool,
    /// Others have had their turn since the last piece.
    has_yielded: bool,
    /// The client has ended its compressed stream.
    ended: bool,
}

impl Deflate {
    /// `arrived`: what was read behind the command that began it; it is compressed already.
    pub(crate) fn new(arrived: BytesMut) -> Box<Deflate> {
        Box::new(Deflate {
            packer: None,
            history: Vec::new(),
            packed: BytesMut::new(),
            unflushed: false,
            finished: false,
            unpacker: Decompress::new(false),
            arrived,
            given: NOTHING_GIVEN,
            full: false,
            has_yielded: false,
            ended: false,
        })
    }

    /// Reads: a bounded piece of what was sent. Nothing: the client has ended its stream, compressed or not.
    pub(crate) fn poll_read<S: AsyncRead + Unpin + ?Sized>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.full && !std::mem::replace(&mut self.has_yielded, true) {
            // Few octets can become many: others get their turn between the pieces.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.has_yielded = false;
        loop {
            if self.unpack(buf)? > 0 || self.ended || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            match poll_into(stream, &mut self.arrived, cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    self.give_back();
                    return Poll::Pending;
                }
            }
        }
    }

    /// Takes octets to be packed and written.
    pub(crate) fn poll_write<S: AsyncWrite + Unpin + ?Sized>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        while self.packed.len() >= PACKED_AHEAD {
            ready!(self.poll_send(stream, cx))?;
        }
        let octets = octets.get(..PACKED_AHEAD).unwrap_or(octets);
        if !octets.is_empty() {
            self.pack(octets)?;
        }
        Poll::Ready(Ok(octets.len()))
    }

    /// Writes all that was packed, so that the client can read it.
    pub(crate) fn poll_flush<S: AsyncWrite + Unpin + ?Sized>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.unflushed {
            self.flush()?;
        }
        while !self.packed.is_empty() {
            ready!(self.poll_send(stream, cx))?;
        }
        Pin::new(stream).poll_flush(cx)
    }

    /// The same, and ends the compressed stream to the client. Nothing may be written any more.
    pub(crate) fn poll_finish<S: AsyncWrite + Unpin + ?Sized>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.finished {
            self.finish()?;
        }
        self.poll_flush(stream, cx)
    }

    fn poll_send<S: AsyncWrite + Unpin + ?Sized>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        match ready!(Pin::new(stream).poll_write(cx, &self.packed))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            sent => {
                self.packed.advance(sent.min(self.packed.len()));
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Packs octets; they can be read at the other end after a flush.
    fn pack(&mut self, octets: &[u8]) -> io::Result<()> {
        self.unflushed = true;
        self.run(octets, FlushCompress::None)?;
        self.remember(octets);
        Ok(())
    }

    /// Ends what was packed so that all of it can be read.
    fn flush(&mut self) -> io::Result<()> {
        self.run(&[], FlushCompress::Sync)?;
        self.unflushed = false;
        Ok(())
    }

    /// Ends the compressed stream to the client. Nothing may be packed any more.
    fn finish(&mut self) -> io::Result<()> {
        self.run(&[], FlushCompress::Finish)?;
        (self.unflushed, self.finished) = (false, true);
        self.packer = None;
        Ok(())
    }

    fn run(&mut self, mut octets: &[u8], how: FlushCompress) -> io::Result<()> {
        let packer = match &mut self.packer {
            Some(packer) => packer,
            None => {
                // Every packer ends with a flush, so that the next one begins at an octet of its own; the
                // other end still has what was sent before.
                let mut packer = Compress::new(Compression::new(LEVEL), false);
                if !self.history.is_empty() {
                    packer.set_dictionary(&self.history).map_err(io::Error::other)?;
                }
                self.packer.insert(packer)
            }
        };
        let mut room = [0; PACKED_OCTETS];
        loop {
            let (read, written) = (packer.total_in(), packer.total_out());
            let status = packer.compress(octets, &mut room, how).map_err(io::Error::other)?;
            let read = usize::try_from(packer.total_in() - read).unwrap_or(usize::MAX);
            let written = usize::try_from(packer.total_out() - written).unwrap_or(usize::MAX);
            octets = octets.get(read..).unwrap_or_default();
            self.packed.extend_from_slice(room.get(..written).unwrap_or_default());
            if status == Status::StreamEnd || octets.is_empty() && written < room.len() {
                return Ok(());
            }
        }
    }

    fn remember(&mut self, octets: &[u8]) {
        let octets = octets.get(octets.len().saturating_sub(HISTORY_OCTETS)..).unwrap_or_default();
        let over = (self.history.len() + octets.len()).saturating_sub(HISTORY_OCTETS);
        self.history.drain(..over.min(self.history.len()));
        self.history.extend_from_slice(octets);
    }

    /// Unpacks a piece of what has arrived; says how many octets it has, 0 if more has to arrive first. Fails on what is no
    /// DEFLATE.
    fn unpack(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<usize> {
        while !self.ended && (self.full || !self.arrived.is_empty()) {
            let end = self.next_flush();
            let octets = self.arrived.get(..end).unwrap_or_default();
            let room = buf.initialize_unfilled_to(buf.remaining().min(UNPACKED_OCTETS));
            let (read, written) = (self.unpacker.total_in(), self.unpacker.total_out());
            let status = self
                .unpacker
                .decompress(octets, room, FlushDecompress::None)
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let read = usize::try_from(self.unpacker.total_in() - read).unwrap_or(usize::MAX);
            let written = usize::try_from(self.unpacker.total_out() - written).unwrap_or(usize::MAX);
            for octet in octets.get(read.saturating_sub(4)..read).unwrap_or_default() {
                self.given = [self.given[1], self.given[2], self.given[3], *octet];
            }
            self.arrived.advance(read.min(self.arrived.len()));
            self.full = written == room.len();
            self.ended = status == Status::StreamEnd;
            if written > 0 {
                buf.advance(written);
                return Ok(written);
            }
            if read == 0 {
                break;
            }
        }
        Ok(0)
    }

    /// Where the octets end that the unpacker may be given: behind the next flush, since what stands there
    /// may not be compressed any more.
    fn next_flush(&self) -> usize {
        for before in 1..=3 {
            let (old, new) = FLUSH_MARK.split_at(before);
            if self.given.ends_with(old) && self.arrived.starts_with(new) {
                return new.len();
            }
        }
        let mark = memchr::memmem::find(&self.arrived, &FLUSH_MARK);
        mark.map_or(self.arrived.len(), |at| at + FLUSH_MARK.len())
    }

    /// Lets go of what an idle connection does not need.
    fn give_back(&mut self) {
        if !self.unflushed {
            self.packer = None;
        }
        give_back(&mut self.packed);
        give_back(&mut self.arrived);
    }

    /// The layer is over: what was read and stands behind the client's last flush or end. Between the two an
    /// empty last block may stand, as zlib writes it; no text begins so.
    pub(crate) fn into_rest(mut self) -> BytesMut {
        let last_block = LAST_BLOCKS.iter().find(|block| self.arrived.starts_with(block));
        if let (false, Some(block)) = (self.ended, last_block) {
            self.arrived.advance(block.len());
        }
        self.arrived
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(layer: &mut Deflate) -> Vec<u8> {
        let mut room = vec![0; 64 << 10];
        let mut buf = ReadBuf::new(&mut room);
        assert_eq!(layer.unpack(&mut buf).unwrap(), buf.filled().len());
        buf.filled().to_vec()
    }

    fn all(layer: &mut Deflate) -> Vec<u8> {
        let mut out = Vec::new();
        loop {
            match piece(layer) {
                piece if piece.is_empty() => return out,
                piece => out.extend(piece),
            }
        }
    }

    /// Octets packed in batches, with the packer given back between them.
    fn batches(batches: &[&[u8]], finish: bool) -> BytesMut {
        let mut layer = Deflate::new(BytesMut::new());
        for batch in batches {
            layer.pack(batch).unwrap();
            layer.flush().unwrap();
            let packed = layer.packed.split();
            layer.give_back();
            layer.packed = packed;
        }
        if finish {
            layer.finish().unwrap();
        }
        layer.packed
    }

    #[test]
    fn what_packers_make_one_after_the_other_is_one_stream() {
        let text = b"* 1 FETCH (UID 1 FLAGS (\\Seen) MODSEQ (12345))\r\n".repeat(200);
        let packed = batches(&[b"* OK hello\r\n", &text, &text, b"", b"a OK done\r\n", &text], true);
        assert!(packed.len() < 2000, "{}", packed.len());
        let mut layer = Deflate::new(packed);
        assert_eq!(all(&mut layer), [b"* OK hello\r\n", &text[..], &text, b"a OK done\r\n", &text].concat());
        assert!(layer.ended);
    }

    #[test]
    fn the_last_octets_sent_are_referred_to() {
        let line = b"* STATUS INBOX (MESSAGES 231 UIDNEXT 44292 UNSEEN 12)\r\n";
        let (once, twice) = (batches(&[line], false).len(), batches(&[line, line], false).len());
        assert!(twice - once < once / 3, "{once} {twice}");
    }

    #[test]
    fn one_octet_at_a_time() {
        let text = b"some text, some text\r\n".repeat(50);
        let mut layer = Deflate::new(BytesMut::new());
        let mut out = Vec::new();
        for octet in batches(&[&text, &text], true) {
            layer.arrived.extend_from_slice(&[octet]);
            out.extend(all(&mut layer));
        }
        assert_eq!(out, text.repeat(2));
    }

    #[test]
    fn a_bomb_comes_out_in_pieces() {
        let bomb = batches(&[&vec![b'x'; 8 << 20]], false);
        assert!(bomb.len() < 64 << 10, "{}", bomb.len());
        let mut layer = Deflate::new(bomb);
        let (mut whole, mut pieces) = (0, 0);
        loop {
            match piece(&mut layer).len() {
                0 => break,
                octets => whole += octets,
            }
            pieces += 1;
        }
        assert_eq!((whole, pieces), (8 << 20, 512));
    }

    #[test]
    fn what_stands_behind_a_flush_or_the_end_is_not_unpacked() {
        for finish in [false, true] {
            for cut in 0..8 {
                let mut octets = batches(&[b"1 UNAUTHENTICATE\r\n"], finish);
                octets.extend_from_slice(b"2 NOOP\r\n");
                let late = octets.split_off(octets.len() - cut);
                let mut layer = Deflate::new(octets);
                assert_eq!(piece(&mut layer), b"1 UNAUTHENTICATE\r\n");
                layer.arrived.extend_from_slice(&late);
                assert_eq!(&layer.into_rest()[..], b"2 NOOP\r\n", "{finish} {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_deflate_is_refused() {
        let mut layer = Deflate::new(BytesMut::from(&b"a NOOP\r\n\r\n\r\n"[..]));
        let error = layer.unpack(&mut ReadBuf::new(&mut [0; 100])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn an_idle_layer_has_no_packer() {
        let mut layer = Deflate::new(BytesMut::new());
        layer.pack(b"x").unwrap();
        layer.give_back();
        assert!(layer.packer.is_some());
        layer.flush().unwrap();
        layer.packed.clear();
        layer.give_back();
        assert!(layer.packer.is_none() && layer.packed.capacity() == 0);
    }
}
