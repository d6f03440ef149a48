//! A client: sends commands and hears lines, in the clear, under TLS or compressed.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A connection, plain or not.
pub(super) trait Octets: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Octets for T {}

/// Takes any certificate.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A client's end of a connection.
pub(crate) struct Client {
    stream: Box<dyn Octets>,
    input: Vec<u8>,
    /// Octets of `input` that were told as lines, and those in which there is no further line end.
    told: usize,
    scanned: usize,
    /// Lines that were heard with the last command and are still to be looked at.
    pub(super) heard: Vec<String>,
    deflate: Option<(Compress, Decompress)>,
    plain: bool,
    /// The beginning of what was said last.
    said: String,
}

impl Client {
    pub(super) fn new(stream: impl Octets + 'static) -> Client {
        Client {
            stream: Box::new(stream),
            input: Vec::new(),
            told: 0,
            scanned: 0,
            heard: Vec::new(),
            deflate: None,
            plain: false,
            said: String::new(),
        }
    }

    /// Sends a command; `\n` in it is CRLF.
    pub(crate) async fn send(&mut self, command: &str) {
        self.said = command.chars().take(100).collect();
        let octets = self.packed(format!("{}\r\n", command.replace("\\n", "\r\n")).as_bytes());
        self.stream.write_all(&octets).await.unwrap();
    }

    /// The same client, under TLS.
    pub(crate) async fn start_tls(self) -> Client {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let name = ServerName::try_from("mail.example.org").unwrap();
        let stream = connector.connect(name, self.stream).await.unwrap();
        Client::new(stream)
    }

    /// From here on octets are compressed both ways.
    pub(crate) fn deflate(&mut self) {
        let heard = self.input.split_off(self.told);
        (self.input, self.told, self.scanned) = (Vec::new(), 0, 0);
        self.deflate = Some((Compress::new(Compression::default(), false), Decompress::new(false)));
        self.unpacked(&heard);
    }

    /// What is sent from here on is not compressed. What is heard is, until the server ends it.
    pub(crate) fn send_plain(&mut self) {
        self.plain = true;
    }

    /// The octets as they go over the wire.
    pub(crate) fn packed(&mut self, octets: &[u8]) -> Vec<u8> {
        let Some((packer, _)) = self.deflate.as_mut().filter(|_| !self.plain) else { return octets.to_vec() };
        let mut packed = Vec::with_capacity(octets.len() + 1024);
        packer.compress_vec(octets, &mut packed, FlushCompress::Sync).unwrap();
        packed
    }

    fn unpacked(&mut self, octets: &[u8]) {
        let Some((_, unpacker)) = &mut self.deflate else { return self.input.extend_from_slice(octets) };
        let mut at = 0;
        loop {
            let mut room = Vec::with_capacity(1 << 16);
            let before = unpacker.total_in();
            let status = unpacker.decompress_vec(&octets[at..], &mut room, FlushDecompress::None).unwrap();
            at += usize::try_from(unpacker.total_in() - before).unwrap();
            self.input.extend_from_slice(&room);
            if status == Status::StreamEnd {
                self.deflate = None;
                self.plain = false;
                self.input.extend_from_slice(&octets[at..]);
                return;
            }
            if at == octets.len() && room.len() < 1 << 16 {
                return;
            }
        }
    }

    pub(crate) async fn send_octets(&mut self, octets: &[u8]) {
        self.stream.write_all(octets).await.unwrap();
    }

    /// Sends octets to a server that may have gone already.
    pub(crate) async fn try_send_octets(&mut self, octets: &[u8]) {
        let _ = self.stream.write_all(octets).await;
    }

    /// Sends a command and gives all lines up to its tagged response.
    pub(crate) async fn command(&mut self, command: &str) -> Vec<String> {
        self.send(command).await;
        let tag = format!("{} ", command.split(' ').next().unwrap());
        self.until(&tag).await
    }

    /// All lines up to the one that begins so, or to the end of the connection.
    pub(crate) async fn until(&mut self, start: &str) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.next_line().await {
            let last = line.starts_with(start);
            lines.push(line);
            if last {
                break;
            }
        }
        lines
    }

    /// The next line.
    pub(crate) async fn line(&mut self) -> String {
        self.next_line().await.expect("the server closed the connection")
    }

    /// The next line; `None` once the server has closed. Waits longer than the server asks another for an answer that
    /// was lost.
    pub(crate) async fn next_line(&mut self) -> Option<String> {
        loop {
            let rest = self.input.get(self.scanned..).unwrap_or_default();
            if let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
                let end = self.scanned + at;
                let line = String::from_utf8_lossy(&self.input[self.told..end]).into_owned();
                (self.told, self.scanned) = (end + 2, end + 2);
                // Cutting off each line by itself would take forever for a large body.
                if self.told == self.input.len() || self.told > 1 << 20 {
                    self.input.drain(..self.told);
                    (self.told, self.scanned) = (0, 0);
                }
                return Some(line);
            }
            self.scanned = self.input.len().saturating_sub(1).max(self.told);
            let mut octets = vec![0; 65536];
            let read = self.stream.read(&mut octets);
            let read = tokio::time::timeout(Duration::from_secs(20), read).await;
            let Ok(read) = read else { panic!("the server says nothing, after {:?}", self.said) };
            match read.unwrap() {
                0 => return None,
                n => self.unpacked(&octets[..n]),
            }
        }
    }

    /// Fails if something was heard that nobody has looked at.
    pub(super) fn must_be_quiet(&self, at: &str) {
        assert!(self.heard.is_empty(), "before {at}: heard and not written: {:#?}", self.heard);
        assert!(self.input.is_empty(), "before {at}: {:?}", String::from_utf8_lossy(&self.input));
    }
}
