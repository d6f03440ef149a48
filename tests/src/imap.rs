//! A small blocking IMAP client that keeps its transcript and trusts nothing.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::value::{self, Value};

/// How long a server may be silent in the middle of a command.
pub const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Lines of transcript kept for error messages.
const TRANSCRIPT_LINES: usize = 60;
/// Longest literal a client here takes, in octets.
const LITERAL_MAX: usize = 256 << 20;

/// One connection.
#[derive(Debug)]
pub struct Imap {
    reader: BufReader<TcpStream>,
    tags: u32,
    transcript: VecDeque<String>,
    /// The server's first line, without CRLF.
    pub greeting: String,
}

/// The tagged answer's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done.
    Ok,
    /// Refused.
    No,
    /// Not understood.
    Bad,
}

/// All that came back for one command.
#[derive(Debug)]
pub struct Reply {
    /// Untagged responses without `* ` and CRLF; literals are inside as sent.
    pub untagged: Vec<Vec<u8>>,
    /// The tagged answer.
    pub status: Status,
    /// What follows the tag and the status, such as `[APPENDUID 1 2] Done`.
    pub text: String,
}

/// One FETCH response.
#[derive(Debug)]
pub struct Fetch {
    /// The message's sequence number.
    pub seq: u64,
    /// Items in the order sent, names in upper case.
    pub items: Vec<(String, Value)>,
}

impl Fetch {
    /// The value of an item, such as `UID` or `BODY[]`.
    pub fn get(&self, name: &str) -> Result<&Value> {
        let found = self.items.iter().find(|(item, _)| item == name);
        found.map(|(_, value)| value).with_context(|| format!("FETCH {} lacks {name}", self.seq))
    }

    /// The UID; an error if it was not sent.
    pub fn uid(&self) -> Result<u32> {
        Ok(u32::try_from(self.get("UID")?.number()?)?)
    }

    /// The octets of a `BODY[...]` item.
    pub fn body(&self, name: &str) -> Result<&[u8]> {
        self.get(name)?.octets()?.with_context(|| format!("FETCH {} has NIL for {name}", self.seq))
    }

    /// The flags as sent.
    pub fn flags(&self) -> Result<Vec<String>> {
        let items = self.get("FLAGS")?.list()?.iter();
        Ok(items
            .filter_map(|item| if let Value::Atom(flag) = item { Some(flag.clone()) } else { None })
            .collect())
    }
}

impl Reply {
    /// The FETCH responses among the untagged ones.
    pub fn fetches(&self) -> Result<Vec<Fetch>> {
        self.untagged.iter().filter_map(|raw| fetch(raw).transpose()).collect()
    }

    /// Untagged responses as text, for comparing with what is expected.
    pub fn lines(&self) -> Vec<String> {
        self.untagged.iter().map(|raw| String::from_utf8_lossy(raw).into_owned()).collect()
    }

    /// The arguments of a response code in the tagged line or an untagged `OK`, such as `UIDNEXT`.
    pub fn code(&self, name: &str) -> Option<String> {
        let lines = self.lines().into_iter().chain([format!("OK {}", self.text)]);
        lines.filter_map(|line| code_in(&line, name)).next_back()
    }

    /// The numbers of a SEARCH response.
    pub fn search(&self) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        for line in self.lines() {
            let Some(rest) = line.strip_prefix("SEARCH") else { continue };
            for number in rest.split_ascii_whitespace() {
                found.push(number.parse().with_context(|| format!("SEARCH gave {number}"))?);
            }
        }
        Ok(found)
    }
}

fn code_in(line: &str, name: &str) -> Option<String> {
    let inside = line.split_once('[')?.1.split_once(']')?.0;
    let (word, rest) = inside.split_once(' ').unwrap_or((inside, ""));
    word.eq_ignore_ascii_case(name).then(|| rest.to_owned())
}

fn fetch(raw: &[u8]) -> Result<Option<Fetch>> {
    let mut words = raw.splitn(3, |&octet| octet == b' ');
    let (seq, word, rest) = (words.next(), words.next(), words.next());
    let (Some(seq), Some(rest)) = (seq, rest) else { return Ok(None) };
    if !word.is_some_and(|word| word.eq_ignore_ascii_case(b"FETCH")) {
        return Ok(None);
    }
    let seq = std::str::from_utf8(seq)?.parse().context("a FETCH without a number")?;
    let values = value::parse(rest).with_context(|| format!("in FETCH {}", String::from_utf8_lossy(rest)))?;
    ensure!(values.len() == 1, "a FETCH of {} values", values.len());
    let fields = values[0].list()?;
    ensure!(fields.len() % 2 == 0, "a FETCH with an item without value");
    let mut items = Vec::new();
    for pair in fields.chunks_exact(2) {
        items.push((pair[0].word().context("a FETCH item that is no atom")?, pair[1].clone()));
    }
    Ok(Some(Fetch { seq, items }))
}

/// A mailbox name or password as a quoted string.
pub fn quote(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

impl Imap {
    /// Connects and reads the greeting.
    pub fn connect(address: SocketAddr) -> Result<Imap> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(10))
            .with_context(|| format!("no IMAP connection to {address}"))?;
        stream.set_read_timeout(Some(SILENCE_MAX))?;
        stream.set_write_timeout(Some(SILENCE_MAX))?;
        stream.set_nodelay(true)?;
        let reader = BufReader::with_capacity(64 << 10, stream);
        let mut client = Imap { reader, tags: 0, transcript: VecDeque::new(), greeting: String::new() };
        client.greeting = String::from_utf8_lossy(&client.line()?).into_owned();
        ensure!(client.greeting.starts_with("* "), "the greeting is {:?}", client.greeting);
        Ok(client)
    }

    /// Connects and logs in.
    pub fn login(address: SocketAddr, user: &str, password: &str) -> Result<Imap> {
        let mut client = Imap::connect(address)?;
        client.ok(&format!("LOGIN {} {}", quote(user), quote(password)))?;
        Ok(client)
    }

    /// Fails whatever the server is silent about for longer; by default that is [`SILENCE_MAX`].
    pub fn set_silence_max(&mut self, max: Duration) -> Result<()> {
        Ok(self.reader.get_ref().set_read_timeout(Some(max))?)
    }

    /// Sends one command without tag or CRLF and reads its answer, whatever it is.
    pub fn command(&mut self, command: &str) -> Result<Reply> {
        let tag = self.send(command)?;
        self.answer(&tag)
    }

    /// As [`Imap::command`], but anything except `OK` is an error.
    pub fn ok(&mut self, command: &str) -> Result<Reply> {
        let reply = self.command(command)?;
        self.expect_ok(command, reply)
    }

    /// APPEND with a synchronising literal. `flags` is either empty or a parenthesised list.
    pub fn append(&mut self, mailbox: &str, flags: &str, message: &[u8]) -> Result<Reply> {
        let space = if flags.is_empty() { "" } else { " " };
        let command = format!("APPEND {} {flags}{space}{{{}}}", quote(mailbox), message.len());
        let tag = self.send(&command)?;
        let line = self.line()?;
        if !line.starts_with(b"+") {
            return self.answer_from(&tag, line);
        }
        self.reader.get_mut().write_all(message)?;
        self.reader.get_mut().write_all(b"\r\n")?;
        self.answer(&tag)
    }

    /// As [`Imap::append`], but anything except `OK` is an error; gives (UIDVALIDITY, UID) (RFC 4315 §3).
    pub fn append_ok(&mut self, mailbox: &str, flags: &str, message: &[u8]) -> Result<(u32, u32)> {
        let reply = self.append(mailbox, flags, message)?;
        let reply = self.expect_ok("APPEND", reply)?;
        let code = reply.code("APPENDUID").with_context(|| format!("no APPENDUID in {:?}", reply.text))?;
        let (validity, uid) = code.split_once(' ').context("APPENDUID of one number")?;
        Ok((validity.parse()?, uid.parse()?))
    }

    /// Begins IDLE and returns once the server has said `+`.
    pub fn idle(&mut self) -> Result<String> {
        let tag = self.send("IDLE")?;
        let line = self.line()?;
        ensure!(line.starts_with(b"+"), "IDLE was answered with {}", line.escape_ascii());
        Ok(tag)
    }

    /// Ends the IDLE that `tag` began.
    pub fn done(&mut self, tag: &str) -> Result<Reply> {
        self.raw(b"DONE\r\n")?;
        self.answer(tag)
    }

    /// Reads one response line, with its literals, without waiting for anything tagged.
    pub fn response(&mut self) -> Result<Vec<u8>> {
        self.line()
    }

    /// Sends a command and returns its tag; the answer is left to [`Imap::answer`].
    pub fn send(&mut self, command: &str) -> Result<String> {
        self.tags += 1;
        let tag = format!("t{}", self.tags);
        self.raw(format!("{tag} {command}\r\n").as_bytes())?;
        Ok(tag)
    }

    /// Sends octets as they are.
    pub fn raw(&mut self, octets: &[u8]) -> Result<()> {
        self.note("C", octets);
        self.reader.get_mut().write_all(octets).context("the connection broke while sending")
    }

    /// Reads up to the tagged answer.
    pub fn answer(&mut self, tag: &str) -> Result<Reply> {
        let first = self.line()?;
        self.answer_from(tag, first)
    }

    fn answer_from(&mut self, tag: &str, first: Vec<u8>) -> Result<Reply> {
        let mut untagged = Vec::new();
        let mut line = first;
        loop {
            if let Some(rest) = line.strip_prefix(b"* ") {
                untagged.push(rest.to_vec());
            } else if let Some(rest) = line.strip_prefix(format!("{tag} ").as_bytes()) {
                let rest = String::from_utf8_lossy(rest).into_owned();
                let (word, text) = rest.split_once(' ').unwrap_or((&rest, ""));
                let status = match word {
                    "OK" => Status::Ok,
                    "NO" => Status::No,
                    "BAD" => Status::Bad,
                    _ => bail!("{tag} was answered with {rest:?}"),
                };
                return Ok(Reply { untagged, status, text: text.to_owned() });
            } else {
                bail!("an unexpected line {}\n{}", line.escape_ascii(), self.transcript());
            }
            line = self.line()?;
        }
    }

    /// One line without CRLF, with every literal it announces and what follows that.
    fn line(&mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let from = all.len();
            let read = self.reader.read_until(b'\n', &mut all);
            if let Err(error) = read {
                return Err(error).with_context(|| format!("while reading\n{}", self.transcript()));
            }
            if !all.ends_with(b"\n") {
                let unread = all.len();
                bail!("the server closed the connection ({unread} octets of a line)\n{}", self.transcript());
            }
            ensure!(all.ends_with(b"\r\n"), "a line that ends in LF without CR\n{}", self.transcript());
            let Some(count) = announced(&all[from..]) else { break };
            ensure!(count <= LITERAL_MAX, "a literal of {count} octets");
            let start = all.len();
            all.resize(start + count, 0);
            self.reader.read_exact(&mut all[start..]).context("a literal was cut short")?;
        }
        all.truncate(all.len() - 2);
        self.note("S", &all);
        Ok(all)
    }

    fn expect_ok(&self, command: &str, reply: Reply) -> Result<Reply> {
        if reply.status == Status::Ok {
            return Ok(reply);
        }
        bail!("{command} was answered {:?} {}\n{}", reply.status, reply.text, self.transcript())
    }

    fn note(&mut self, who: &str, octets: &[u8]) {
        if self.transcript.len() == TRANSCRIPT_LINES {
            self.transcript.pop_front();
        }
        let shown = &octets[..octets.len().min(300)];
        self.transcript.push_back(format!("{who}: {}", shown.escape_ascii()));
    }

    /// The last lines of the dialogue.
    pub fn transcript(&self) -> String {
        self.transcript.iter().map(|line| format!("  {line}\n")).collect()
    }
}

/// The count of a literal announced at the end of a line.
fn announced(line: &[u8]) -> Option<usize> {
    let line = line.strip_suffix(b"}\r\n")?;
    let open = line.iter().rposition(|&octet| octet == b'{')?;
    let digits = &line[open + 1..];
    let digits = digits.strip_suffix(b"+").unwrap_or(digits);
    std::str::from_utf8(digits).ok()?.parse().ok()
}
