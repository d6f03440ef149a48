//! The compression layer of one connection: raw DEFLATE (RFC 1951) both ways, as IMAP's COMPRESS has it
//! (RFC 4978).
//!
//! Invariants:
//! - What a few octets blow up to comes out in pieces of at most [`UNPACKED_OCTETS`]; who takes them bounds
//!   what is kept.
//! - A packer's tables (some 300 KiB) exist only while octets are under way. An idle layer keeps the last
//!   octets sent, which a new packer may refer to, and the state of the unpacker.
//! - Octets behind the end of the client's compressed stream, or behind a flush of it, are never taken for a
//!   part of it: see [`Deflate::into_rest`].
//! - Behind a flush of either side a layer is no more than what was last sent and received, and goes on anywhere with
//!   that: see [`Deflate::carry`].

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// What [`Deflate::given`] is before anything was given: no end of a flush.
const NOTHING_GIVEN: [u8; 4] = [1; 4];
/// Octets that are unpacked at once.
const UNPACKED_OCTETS: usize = 16 << 10;
/// Octets of room that the packer is given at once.
const PACKED_OCTETS: usize = 8 << 10;
/// Octets already sent that a new packer may refer to.
const HISTORY_OCTETS: usize = 4 << 10;
/// Octets already received that the client may refer to (RFC 1951 §2).
const WINDOW_OCTETS: usize = 32 << 10;
/// Speed before size: the higher levels cost a multiple of the time for a few per cent.
const LEVEL: u32 = 3;
/// What a sync flush ends with (RFC 1951 §3.2.4: an empty stored block). Behind it octets are whole.
const FLUSH_MARK: [u8; 4] = [0, 0, 0xff, 0xff];
/// The two ways to write an empty last block, behind a flush.
const LAST_BLOCKS: [&[u8]; 2] = [&[3, 0], &[1, 0, 0, 0xff, 0xff]];

/// What a compressed connection needs to go on elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    /// The last octets sent, unpacked.
    pub sent: Bytes,
    /// The last octets received, unpacked.
    pub received: Bytes,
}

/// Both directions of one compressed connection.
pub(crate) struct Deflate {
    packer: Option<Compress>,
    history: Vec<u8>,
    /// To be written to the stream.
    pub(crate) packed: BytesMut,
    /// Octets were packed that no flush has followed yet.
    unflushed: bool,
    unpacker: Decompress,
    /// What was unpacked last.
    window: Vec<u8>,
    /// Read from the stream, not yet unpacked.
    pub(crate) arrived: BytesMut,
    /// The last octets that the unpacker was given.
    given: [u8; 4],
    /// The last piece filled its room: there may be more without further input.
    full: bool,
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
            unpacker: Decompress::new(false),
            window: Vec::new(),
            arrived,
            given: NOTHING_GIVEN,
            full: false,
            ended: false,
        })
    }

    /// Goes on with a connection that was compressed elsewhere. Fails on what cannot be that.
    pub(crate) fn carried(Carried { sent, received }: Carried) -> io::Result<Box<Deflate>> {
        if sent.len() > HISTORY_OCTETS || received.len() > WINDOW_OCTETS {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut layer = Deflate::new(BytesMut::new());
        if !received.is_empty() {
            layer.unpacker.set_dictionary(&received).map_err(io::Error::other)?;
            layer.given = FLUSH_MARK;
        }
        (layer.history, layer.window) = (sent.into(), received.into());
        Ok(layer)
    }

    /// Whether both sides are behind a flush, so that it can go on elsewhere.
    pub(crate) fn can_be_carried(&self) -> bool {
        let is_between = self.given == NOTHING_GIVEN || self.given == FLUSH_MARK;
        is_between && self.packed.is_empty() && !self.unflushed && !self.full && !self.ended
    }

    /// What it needs to go on elsewhere, and the octets that have arrived.
    pub(crate) fn carry(self) -> (Carried, BytesMut) {
        (Carried { sent: self.history.into(), received: self.window.into() }, self.arrived)
    }

    /// Whether a flush has to follow before the client can read all that was packed.
    pub(crate) fn is_unflushed(&self) -> bool {
        self.unflushed
    }

    /// Whether more may come out of what is there already.
    pub(crate) fn has_more(&self) -> bool {
        self.full
    }

    /// Whether the client has ended its compressed stream.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Packs octets; they can be read at the other end after a flush.
    pub(crate) fn pack(&mut self, octets: &[u8]) -> io::Result<()> {
        self.unflushed = true;
        self.run(octets, FlushCompress::None)?;
        self.remember(octets);
        Ok(())
    }

    /// Ends what was packed so that all of it can be read.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.run(&[], FlushCompress::Sync)?;
        self.unflushed = false;
        Ok(())
    }

    /// Ends the compressed stream to the client. Nothing may be packed any more.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        self.run(&[], FlushCompress::Finish)?;
        self.unflushed = false;
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
        keep_last(&mut self.history, octets, HISTORY_OCTETS);
    }

    /// Unpacks a piece of what has arrived and appends it; says how many octets it has, 0 if more has to
    /// arrive first. Fails on what is no DEFLATE.
    pub(crate) fn unpack(&mut self, input: &mut BytesMut) -> io::Result<usize> {
        let mut room = [0; UNPACKED_OCTETS];
        while !self.ended && (self.full || !self.arrived.is_empty()) {
            let end = self.next_flush();
            let octets = self.arrived.get(..end).unwrap_or_default();
            let (read, written) = (self.unpacker.total_in(), self.unpacker.total_out());
            let status = self
                .unpacker
                .decompress(octets, &mut room, FlushDecompress::None)
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
                let unpacked = room.get(..written).unwrap_or_default();
                input.extend_from_slice(unpacked);
                keep_last(&mut self.window, unpacked, WINDOW_OCTETS);
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
    pub(crate) fn give_back(&mut self) {
        if !self.unflushed {
            self.packer = None;
        }
        super::connection::give_back(&mut self.packed);
        super::connection::give_back(&mut self.arrived);
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

/// Adds octets, and keeps the last of all.
fn keep_last(kept: &mut Vec<u8>, octets: &[u8], max: usize) {
    let octets = octets.get(octets.len().saturating_sub(max)..).unwrap_or_default();
    let over = (kept.len() + octets.len()).saturating_sub(max);
    kept.drain(..over.min(kept.len()));
    kept.extend_from_slice(octets);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(layer: &mut Deflate) -> Vec<u8> {
        let mut out = BytesMut::new();
        while layer.unpack(&mut out).unwrap() > 0 {}
        out.to_vec()
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
    fn a_layer_goes_on_elsewhere() {
        let mut client = (Compress::new(Compression::new(9), false), Decompress::new(false));
        let mut layer = Deflate::new(BytesMut::new());
        let said = "a1 UID FETCH 1:* (FLAGS BODY.PEEK[HEADER.FIELDS (SUBJECT)])\r\n";
        let mut sizes = Vec::new();
        for round in 0..5 {
            assert!(layer.can_be_carried());
            let (carried, arrived) = layer.carry();
            assert!(arrived.is_empty());
            layer = Deflate::carried(carried).unwrap();
            // What the client sends refers to what it sent before.
            let mut packed = [0; 1000];
            let before = client.0.total_out();
            client.0.compress(said.as_bytes(), &mut packed, FlushCompress::Sync).unwrap();
            let octets = usize::try_from(client.0.total_out() - before).unwrap();
            sizes.push(octets);
            layer.arrived.extend_from_slice(&packed[..octets - 2]);
            let mut heard = all(&mut layer);
            assert!(!layer.can_be_carried(), "in the middle of a flush");
            layer.arrived.extend_from_slice(&packed[octets - 2..octets]);
            heard.extend(all(&mut layer));
            assert_eq!(heard, said.as_bytes(), "round {round}");
            // And so does what it is sent.
            layer.pack(&said.repeat(2).into_bytes()).unwrap();
            assert!(!layer.can_be_carried(), "not flushed");
            layer.flush().unwrap();
            let mut out = [0; 1000];
            let before = client.1.total_out();
            client.1.decompress(&layer.packed.split(), &mut out, FlushDecompress::Sync).unwrap();
            let octets = usize::try_from(client.1.total_out() - before).unwrap();
            assert_eq!(&out[..octets], said.repeat(2).as_bytes());
        }
        assert!(sizes[0] > 2 * sizes[4], "{sizes:?}");
        let too_much = Carried { sent: Bytes::from(vec![0; HISTORY_OCTETS + 1]), received: Bytes::new() };
        assert!(Deflate::carried(too_much).is_err());
    }

    #[test]
    fn what_packers_make_one_after_the_other_is_one_stream() {
        let text = b"* 1 FETCH (UID 1 FLAGS (\\Seen) MODSEQ (12345))\r\n".repeat(200);
        let packed = batches(&[b"* OK hello\r\n", &text, &text, b"", b"a OK done\r\n", &text], true);
        assert!(packed.len() < 2000, "{}", packed.len());
        let mut layer = Deflate::new(packed);
        assert_eq!(all(&mut layer), [b"* OK hello\r\n", &text[..], &text, b"a OK done\r\n", &text].concat());
        assert!(layer.has_ended());
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
            let mut out = BytesMut::new();
            match layer.unpack(&mut out).unwrap() {
                0 => break,
                n => whole += n,
            }
            assert!(out.len() <= UNPACKED_OCTETS);
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
                let mut out = BytesMut::new();
                layer.unpack(&mut out).unwrap();
                layer.arrived.extend_from_slice(&late);
                assert_eq!(&out[..], b"1 UNAUTHENTICATE\r\n");
                assert_eq!(&layer.into_rest()[..], b"2 NOOP\r\n", "{finish} {cut}");
            }
        }
    }

    #[test]
    fn what_is_no_deflate_is_refused() {
        let mut layer = Deflate::new(BytesMut::from(&b"a NOOP\r\n\r\n\r\n"[..]));
        let error = layer.unpack(&mut BytesMut::new()).unwrap_err();
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
