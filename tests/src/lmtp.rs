//! A small blocking LMTP client (RFC 2033), over TCP or a Unix socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::imap::SILENCE_MAX;

trait Duplex: Read + Write + Send + std::fmt::Debug {}
impl<T: Read + Write + Send + std::fmt::Debug> Duplex for T {}

/// One connection.
#[derive(Debug)]
pub struct Lmtp {
    stream: BufReader<Box<dyn Duplex>>,
    /// What LHLO listed.
    pub extensions: Vec<String>,
}

/// One answer: its code and its last line's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Three digits.
    pub code: u16,
    /// What follows, such as `2.1.5 ok`.
    pub text: String,
}

impl Lmtp {
    /// Connects over TCP and says LHLO.
    pub fn connect(address: SocketAddr) -> Result<Lmtp> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))
            .with_context(|| format!("no LMTP connection to {address}"))?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        stream.set_nodelay(true)?;
        Lmtp::begin(Box::new(stream))
    }

    /// Connects to a Unix socket and says LHLO.
    pub fn connect_unix(path: &Path) -> Result<Lmtp> {
        let stream =
            UnixStream::connect(path).with_context(|| format!("no LMTP connection to {}", path.display()))?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        Lmtp::begin(Box::new(stream))
    }

    fn begin(stream: Box<dyn Duplex>) -> Result<Lmtp> {
        let mut client = Lmtp { stream: BufReader::new(stream), extensions: Vec::new() };
        let greeting = client.answer()?;
        ensure!(greeting.code == 220, "the greeting is {greeting:?}");
        client.send(b"LHLO client.example.org\r\n")?;
        let mut lines = Vec::new();
        let answer = client.answer_lines(&mut lines)?;
        ensure!(answer.code == 250, "LHLO was answered with {answer:?}");
        client.extensions = lines;
        Ok(client)
    }

    /// Sends one line and reads its answer.
    pub fn command(&mut self, line: &str) -> Result<Answer> {
        self.send(format!("{line}\r\n").as_bytes())?;
        self.answer()
    }

    /// One message to one or more recipients: an answer for each, in order. Those whose RCPT was refused get that
    /// answer; the message's lines may end in CRLF or LF and go out with CRLF.
    pub fn deliver(&mut self, from: &str, recipients: &[&str], message: &[u8]) -> Result<Vec<Answer>> {
        let mail = self.command(&format!("MAIL FROM:<{from}>"))?;
        ensure!(mail.code == 250, "MAIL was answered with {mail:?}");
        let mut answers = Vec::new();
        for recipient in recipients {
            answers.push(self.command(&format!("RCPT TO:<{recipient}>"))?);
        }
        if answers.iter().all(|answer| answer.code != 250) {
            self.command("RSET")?;
            return Ok(answers);
        }
        let go = self.command("DATA")?;
        ensure!(go.code == 354, "DATA was answered with {go:?}");
        self.send(&stuffed(message))?;
        for answer in answers.iter_mut().filter(|answer| answer.code == 250) {
            *answer = self.answer()?;
        }
        Ok(answers)
    }

    /// Sends octets as they are.
    pub fn send(&mut self, octets: &[u8]) -> Result<()> {
        self.stream.get_mut().write_all(octets).context("the LMTP connection broke while sending")
    }

    /// Reads one answer.
    pub fn answer(&mut self) -> Result<Answer> {
        self.answer_lines(&mut Vec::new())
    }

    fn answer_lines(&mut self, lines: &mut Vec<String>) -> Result<Answer> {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).context("while waiting for an LMTP answer")?;
            let Some(line) = line.strip_suffix("\r\n") else {
                bail!("the LMTP server closed the connection")
            };
            let code = line.get(..3).and_then(|digits| digits.parse().ok());
            let code: u16 = code.with_context(|| format!("an LMTP answer without a code: {line:?}"))?;
            let text = line.get(4..).unwrap_or_default().to_owned();
            if line.as_bytes().get(3) == Some(&b'-') {
                lines.push(text);
            } else {
                lines.push(text.clone());
                return Ok(Answer { code, text });
            }
        }
    }
}

/// The message as DATA wants it: CRLF, dots doubled, the final dot.
pub fn stuffed(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() + message.len() / 30 + 8);
    for line in crate::corpus::crlf(message).split_inclusive(|&octet| octet == b'\n') {
        if line.starts_with(b".") {
            out.push(b'.');
        }
        out.extend_from_slice(line);
    }
    if !out.is_empty() && !out.ends_with(b"\r\n") {
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

#[cfg(test)]
mod tests {
    #[test]
    fn dots_are_doubled_and_lines_end_in_crlf() {
        assert_eq!(super::stuffed(b".a\n..b\r\nc"), b"..a\r\n...b\r\nc\r\n.\r\n");
    }
}
