//! The cheapest clients that still check every answer: they count lines and skip literals, and build nothing.
//!
//! Invariants:
//! - An answer that is not the expected one is an error with its text.
//! - Every wait ends: a server that is silent for [`SILENCE_MAX`] is an error.
//! - What a command brought is counted, never kept, unless the caller asks for its lines.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a server may be silent in the middle of an answer.
pub const SILENCE_MAX: Duration = Duration::from_secs(120);
/// Octets asked of the socket at once while an answer comes in.
const READ_OCTETS: usize = 256 << 10;

/// Where a server listens, and how to speak to it.
#[derive(Clone)]
pub struct Target {
    /// Its address.
    pub address: SocketAddr,
    /// TLS from the first octet; none: plain.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The address of this machine that connections come from; none: the system's choice.
    pub from: Option<IpAddr>,
}

impl Target {
    /// A plain one.
    pub fn plain(address: SocketAddr) -> Target {
        Target { address, tls: None, from: None }
    }

    /// One with TLS, which has to show the first certificate of this PEM file: who made it does not matter then.
    pub fn tls(address: SocketAddr, certificate: &Path) -> Result<Target> {
        let certificate = CertificateDer::from_pem_file(certificate).context("the server's certificate")?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = Pinned { certificate, algorithms: provider.signature_verification_algorithms };
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_no_client_auth();
        Ok(Target { address, tls: Some(Arc::new(config)), from: None })
    }

    /// The same for connections that come from this address of the machine.
    pub fn from(mut self, address: IpAddr) -> Target {
        self.from = Some(address);
        self
    }

    /// A bare connection, without TLS.
    pub async fn open(&self) -> Result<TcpStream> {
        let stream = match self.from {
            None => tokio::time::timeout(SILENCE_MAX, TcpStream::connect(self.address)).await?,
            Some(from) => {
                let socket = if from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
                socket.bind((from, 0).into())?;
                tokio::time::timeout(SILENCE_MAX, socket.connect(self.address)).await?
            }
        };
        stream.with_context(|| format!("no connection to {}", self.address))
    }
}

/// Takes one certificate alone, and the proof that the server has its key.
#[derive(Debug)]
struct Pinned {
    certificate: CertificateDer<'static>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match *shown == self.certificate {
            true => Ok(ServerCertVerified::assertion()),
            false => Err(rustls::Error::General("the server shows another certificate".to_owned())),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> task::Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        octets: &[u8],
    ) -> task::Poll<std::io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, octets),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, octets),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut task::Context<'_>) -> task::Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(
        self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> task::Poll<std::io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// A stream with what was read of it and not yet taken.
struct Wire {
    stream: Stream,
    buffer: Vec<u8>,
    /// Octets of the buffer that are taken.
    taken: usize,
}

impl Wire {
    async fn connect(target: &Target) -> Result<Wire> {
        let stream = target.open().await?;
        stream.set_nodelay(true)?;
        let stream = match &target.tls {
            None => Stream::Plain(stream),
            Some(config) => {
                let name = ServerName::try_from("mail.example.org")?;
                let shaking = TlsConnector::from(config.clone()).connect(name, stream);
                Stream::Tls(Box::new(tokio::time::timeout(SILENCE_MAX, shaking).await??))
            }
        };
        Ok(Wire { stream, buffer: Vec::new(), taken: 0 })
    }

    async fn send(&mut self, octets: &[u8]) -> Result<()> {
        self.stream.write_all(octets).await?;
        Ok(self.stream.flush().await?)
    }

    /// Reads more; an error when the server has closed.
    async fn more(&mut self) -> Result<()> {
        if self.taken == self.buffer.len() {
            self.buffer.clear();
            self.taken = 0;
        } else if self.taken >= READ_OCTETS {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        if self.buffer.capacity() - self.buffer.len() < 4096 {
            // Small at first, so that thousands of clients that wait need little.
            self.buffer.reserve(self.buffer.capacity().clamp(4096, READ_OCTETS));
        }
        let reading = self.stream.read_buf(&mut self.buffer);
        let read = tokio::time::timeout(SILENCE_MAX, reading).await.context("the server is silent")??;
        ensure!(read > 0, "the server closed the connection");
        Ok(())
    }

    /// The place of the next line in the buffer, with its line end. The line is taken by the caller.
    async fn line(&mut self) -> Result<std::ops::Range<usize>> {
        let mut searched = 0;
        loop {
            let rest = &self.buffer[self.taken..];
            if let Some(end) = memchr::memchr(b'\n', &rest[searched..]) {
                return Ok(self.taken..self.taken + searched + end + 1);
            }
            searched = rest.len();
            self.more().await?;
        }
    }

    /// Takes so many octets and forgets them.
    async fn skip(&mut self, mut octets: usize) -> Result<()> {
        loop {
            let there = (self.buffer.len() - self.taken).min(octets);
            self.taken += there;
            octets -= there;
            if octets == 0 {
                return Ok(());
            }
            self.more().await?;
        }
    }

    /// Gives the buffer's memory back.
    fn shrink(&mut self) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.shrink_to_fit();
    }
}

/// What a command brought.
#[derive(Debug, Default)]
pub struct Brought {
    /// Untagged responses.
    pub untagged: usize,
    /// FETCH responses among them.
    pub fetches: usize,
    /// Octets in literals.
    pub literal_octets: u64,
    /// The untagged responses without literals, if they were asked for.
    pub lines: Vec<String>,
    /// The tagged answer, after `TAG OK `.
    pub text: String,
}

/// An IMAP connection.
pub struct Imap {
    wire: Wire,
    tags: u32,
}

impl Imap {
    /// Connects and reads the greeting.
    pub async fn connect(target: &Target) -> Result<Imap> {
        let mut client = Imap { wire: Wire::connect(target).await?, tags: 0 };
        let line = client.wire.line().await?;
        let greeting = &client.wire.buffer[line.clone()];
        ensure!(greeting.starts_with(b"* OK"), "the greeting is {}", greeting.escape_ascii());
        client.wire.taken = line.end;
        Ok(client)
    }

    /// Connects and logs in.
    pub async fn login(target: &Target, user: &str, password: &str) -> Result<Imap> {
        let mut client = Imap::connect(target).await?;
        let login =
            format!("LOGIN {} {}", rookery_tests::imap::quote(user), rookery_tests::imap::quote(password));
        client.ok(&login).await?;
        Ok(client)
    }

    /// Sends a command and counts what it brings; anything but OK is an error.
    pub async fn ok(&mut self, command: &str) -> Result<Brought> {
        self.run(command, false).await
    }

    /// As [`Imap::ok`], and keeps the untagged lines.
    pub async fn lines(&mut self, command: &str) -> Result<Vec<String>> {
        Ok(self.run(command, true).await?.lines)
    }

    /// Sends a command; that it is refused, with NO or BAD and these words, is an answer too. After an error the connection
    /// is of no more use.
    pub async fn answered(&mut self, command: &str) -> Result<Result<Brought, String>> {
        self.tags += 1;
        let tag = format!("b{} ", self.tags);
        self.wire.send(format!("{tag}{command}\r\n").as_bytes()).await?;
        self.judged(&tag, command, true).await
    }

    async fn run(&mut self, command: &str, keep: bool) -> Result<Brought> {
        self.tags += 1;
        let tag = format!("b{} ", self.tags);
        self.wire.send(format!("{tag}{command}\r\n").as_bytes()).await?;
        self.tagged(&tag, command, keep).await
    }

    /// For answers of lines alone, without literals: counts line ends as they come, which costs next to nothing.
    pub async fn count_lines(&mut self, command: &str) -> Result<usize> {
        self.tags += 1;
        let tag = format!("b{} ", self.tags);
        self.wire.send(format!("{tag}{command}\r\n").as_bytes()).await?;
        let mut lines = 0;
        loop {
            self.wire.more().await?;
            let fresh = &self.wire.buffer[self.wire.taken..];
            let Some(end) = memchr::memrchr(b'\n', fresh) else { continue };
            let whole = &fresh[..=end];
            lines += memchr::memchr_iter(b'\n', whole).count();
            let last = memchr::memrchr(b'\n', &whole[..end]).map_or(0, |at| at + 1);
            let last = &whole[last..];
            let done = last.starts_with(tag.as_bytes());
            if done {
                ensure!(last[tag.len()..].starts_with(b"OK"), "{command}: {}", last.escape_ascii());
            }
            // The last line stays while it may be the beginning of what is looked for.
            self.wire.taken += end + 1;
            if done {
                return Ok(lines - 1);
            }
        }
    }

    async fn tagged(&mut self, tag: &str, command: &str, keep: bool) -> Result<Brought> {
        match self.judged(tag, command, keep).await? {
            Ok(brought) => Ok(brought),
            Err(refusal) => bail!("{command:.80} was answered {refusal}"),
        }
    }

    /// What a command brought, or the words of its refusal.
    async fn judged(&mut self, tag: &str, command: &str, keep: bool) -> Result<Result<Brought, String>> {
        let mut brought = Brought::default();
        let mut fresh = true;
        loop {
            let range = self.wire.line().await?;
            let line = &self.wire.buffer[range.clone()];
            if fresh && line.starts_with(tag.as_bytes()) {
                let rest = String::from_utf8_lossy(&line[tag.len()..]).trim_end().to_owned();
                self.wire.taken = range.end;
                let Some(text) = rest.strip_prefix("OK ") else { return Ok(Err(rest)) };
                brought.text = text.to_owned();
                return Ok(Ok(brought));
            }
            if fresh {
                ensure!(line.starts_with(b"* "), "{command:.80} was answered {}", line.escape_ascii());
                brought.untagged += 1;
                brought.fetches += usize::from(is_fetch(line));
                if keep {
                    brought.lines.push(String::from_utf8_lossy(&line[2..]).trim_end().to_owned());
                }
            }
            let literal = announced(line);
            self.wire.taken = range.end;
            fresh = literal.is_none();
            if let Some(octets) = literal {
                brought.literal_octets += octets as u64;
                self.wire.skip(octets).await?;
            }
        }
    }

    /// APPEND with a synchronising literal.
    pub async fn append(&mut self, mailbox: &str, message: &[u8]) -> Result<()> {
        self.tags += 1;
        let tag = format!("b{} ", self.tags);
        let announced = format!("{tag}APPEND {mailbox} {{{}}}\r\n", message.len());
        self.wire.send(announced.as_bytes()).await?;
        let line = self.wire.line().await?;
        let answer = &self.wire.buffer[line.clone()];
        ensure!(answer.starts_with(b"+"), "APPEND was answered {}", answer.escape_ascii());
        self.wire.taken = line.end;
        self.wire.send(message).await?;
        self.wire.send(b"\r\n").await?;
        self.tagged(&tag, "APPEND", false).await?;
        Ok(())
    }

    /// Begins IDLE and gives the client's buffers back.
    pub async fn idle(&mut self) -> Result<()> {
        self.wire.send(b"idle IDLE\r\n").await?;
        let line = self.wire.line().await?;
        let answer = &self.wire.buffer[line.clone()];
        ensure!(answer.starts_with(b"+"), "IDLE was answered {}", answer.escape_ascii());
        self.wire.taken = line.end;
        self.wire.shrink();
        Ok(())
    }

    /// Waits for a line of news during IDLE. That IDLE or the connection ends is an error.
    pub async fn news(&mut self) -> Result<()> {
        let line = self.wire.line().await?;
        let told = &self.wire.buffer[line.clone()];
        let good = told.starts_with(b"* ") && !told.starts_with(b"* BYE");
        ensure!(good, "IDLE ended with {}", told.escape_ascii());
        self.wire.taken = line.end;
        Ok(())
    }
}

fn is_fetch(line: &[u8]) -> bool {
    let rest = line.get(2..).unwrap_or_default();
    let digits = rest.iter().take_while(|octet| octet.is_ascii_digit()).count();
    digits > 0 && rest[digits..].starts_with(b" FETCH ")
}

/// The count of a literal announced at the end of a line, of both kinds (RFC 9051 §4.3, RFC 3516 §4.4).
fn announced(line: &[u8]) -> Option<usize> {
    let line = line.strip_suffix(b"}\r\n")?;
    let open = memchr::memrchr(b'{', line)?;
    std::str::from_utf8(&line[open + 1..]).ok()?.parse().ok()
}

/// An LMTP connection that sends MAIL, RCPT and DATA in one piece (RFC 2920), as MTAs do.
pub struct Lmtp {
    wire: Wire,
}

impl Lmtp {
    /// Connects and says LHLO.
    pub async fn connect(target: &Target) -> Result<Lmtp> {
        let mut client = Lmtp { wire: Wire::connect(target).await? };
        client.expect(220).await?;
        client.wire.send(b"LHLO load.example.net\r\n").await?;
        client.expect(250).await?;
        Ok(client)
    }

    /// One message, already as DATA wants it with the final dot, to these recipients; the first refusal is an error.
    pub async fn deliver(&mut self, recipients: &[String], stuffed: &[u8]) -> Result<()> {
        let mut commands = String::from("MAIL FROM:<load@example.net>\r\n");
        for recipient in recipients {
            commands.push_str(&format!("RCPT TO:<{recipient}>\r\n"));
        }
        commands.push_str("DATA\r\n");
        self.wire.send(commands.as_bytes()).await?;
        for _ in 0..=recipients.len() {
            self.expect(250).await?;
        }
        self.expect(354).await?;
        self.wire.send(stuffed).await?;
        for _ in recipients {
            self.expect(250).await?;
        }
        Ok(())
    }

    /// Whether mail for this recipient is taken.
    pub async fn knows(&mut self, recipient: &str) -> Result<bool> {
        let commands = format!("MAIL FROM:<load@example.net>\r\nRCPT TO:<{recipient}>\r\nRSET\r\n");
        self.wire.send(commands.as_bytes()).await?;
        self.expect(250).await?;
        let (code, text) = self.answer().await?;
        ensure!(code == 250 || code == 550, "RCPT was answered {text}");
        self.expect(250).await?;
        Ok(code == 250)
    }

    async fn expect(&mut self, code: u16) -> Result<()> {
        let (given, text) = self.answer().await?;
        ensure!(given == code, "LMTP answered {text}");
        Ok(())
    }

    /// A whole answer: its code, and its last line.
    async fn answer(&mut self) -> Result<(u16, String)> {
        loop {
            let range = self.wire.line().await?;
            let line = &self.wire.buffer[range.clone()];
            let last = (line.get(3) != Some(&b'-')).then(|| line.escape_ascii().to_string());
            let code = std::str::from_utf8(line.get(..3).unwrap_or_default())
                .ok()
                .and_then(|code| code.parse().ok());
            self.wire.taken = range.end;
            if let Some(text) = last {
                return Ok((code.with_context(|| format!("LMTP answered {text}"))?, text));
            }
        }
    }
}

/// A POP3 connection.
pub struct Pop3 {
    wire: Wire,
}

impl Pop3 {
    /// Connects and logs in.
    pub async fn login(target: &Target, user: &str, password: &str) -> Result<Pop3> {
        let mut client = Pop3 { wire: Wire::connect(target).await? };
        client.answer("the greeting").await?;
        client.ok(&format!("USER {user}")).await?;
        client.ok(&format!("PASS {password}")).await?;
        Ok(client)
    }

    /// A command with a line as its answer.
    pub async fn ok(&mut self, command: &str) -> Result<String> {
        self.wire.send(format!("{command}\r\n").as_bytes()).await?;
        self.answer(command).await
    }

    /// A command with many lines as its answer; gives their octets.
    pub async fn multi(&mut self, command: &str) -> Result<u64> {
        self.ok(command).await?;
        let mut octets = 0;
        loop {
            let range = self.wire.line().await?;
            let end = &self.wire.buffer[range.clone()] == b".\r\n";
            self.wire.taken = range.end;
            if end {
                return Ok(octets);
            }
            octets += range.len() as u64;
        }
    }

    async fn answer(&mut self, command: &str) -> Result<String> {
        let range = self.wire.line().await?;
        let line = String::from_utf8_lossy(&self.wire.buffer[range.clone()]).trim_end().to_owned();
        self.wire.taken = range.end;
        let verb = command.split(' ').next().unwrap_or_default();
        ensure!(line.starts_with("+OK"), "POP3 {verb} was answered {line}");
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_fetches_are_told_from_text() {
        assert_eq!(announced(b"* 1 FETCH (BODY[] {12}\r\n"), Some(12));
        assert_eq!(announced(b"* OK {x}\r\n"), None);
        assert_eq!(announced(b"* OK 12}\n"), None);
        assert!(is_fetch(b"* 12 FETCH (FLAGS ())\r\n"));
        assert!(!is_fetch(b"* OK FETCH done\r\n"));
    }
}
