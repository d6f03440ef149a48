//! The mail corpus: real archives and malformed messages, read where they lie and never copied into the repository.
//!
//! It is found by the variable `ROOKERY_CORPUS`, else at `../shared/corpus` beside the workspace; its absence is a
//! failure, not a reason to skip.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::command;

/// One message.
#[derive(Debug, Clone)]
pub struct Message {
    /// Where it is from, for messages: archive and number or path.
    pub name: String,
    /// Its octets as archived.
    pub octets: Vec<u8>,
}

/// The corpus folder.
pub fn folder() -> Result<PathBuf> {
    let folder = match std::env::var_os("ROOKERY_CORPUS") {
        Some(path) => PathBuf::from(path),
        None => crate::workspace().join("../shared/corpus"),
    };
    ensure!(
        folder.join("real").is_dir() && folder.join("torture").is_dir(),
        "the mail corpus is not at {}; set ROOKERY_CORPUS to the folder that holds real/ and torture/",
        folder.display()
    );
    Ok(folder)
}

/// All real messages, in a fixed order.
pub fn real() -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    for path in sorted(&folder()?.join("real"))? {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".maildir.tar.xz") {
            messages.extend(archive(&path)?);
        } else if name.ends_with(".mboxrd.xz") {
            messages.extend(mboxrd(
                &name,
                &command::ok("xz", &["-dc", &path.display().to_string()], b"")?.stdout,
            ));
        }
    }
    ensure!(messages.len() > 1000, "the corpus has only {} messages", messages.len());
    Ok(messages)
}

/// All malformed and extreme messages, in a fixed order.
pub fn torture() -> Result<Vec<Message>> {
    let messages = archive(&folder()?.join("torture/torture.tar.xz"))?;
    ensure!(messages.len() > 100, "the torture corpus has only {} messages", messages.len());
    Ok(messages)
}

fn archive(path: &Path) -> Result<Vec<Message>> {
    let unpacked = tempfile::tempdir()?;
    let (archive, target) = (path.display().to_string(), unpacked.path().display().to_string());
    command::ok("tar", &["-xJf", &archive, "-C", &target], b"")?;
    let mut messages = Vec::new();
    let mut folders = vec![unpacked.path().to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in sorted(&folder)? {
            if entry.is_dir() {
                folders.push(entry);
            } else {
                let name = entry.strip_prefix(unpacked.path())?.display().to_string();
                messages.push(Message { name, octets: std::fs::read(&entry)? });
            }
        }
    }
    messages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(messages)
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

/// Splits an mboxrd file: a `From ` line after an empty line begins a message, one `>` of every quoted `From ` goes.
fn mboxrd(name: &str, mbox: &[u8]) -> Vec<Message> {
    let mut messages: Vec<Message> = Vec::new();
    let mut blank = true;
    for line in mbox.split_inclusive(|&octet| octet == b'\n') {
        if blank && line.starts_with(b"From ") {
            if let Some(last) = messages.last_mut() {
                last.octets.pop();
            }
            messages.push(Message { name: format!("{name}:{}", messages.len() + 1), octets: Vec::new() });
        } else if let Some(last) = messages.last_mut() {
            let unquoted = line.iter().position(|&octet| octet != b'>').unwrap_or(0);
            let quoted = unquoted > 0 && line[unquoted..].starts_with(b"From ");
            last.octets.extend_from_slice(if quoted { &line[1..] } else { line });
        }
        blank = line == b"\n";
    }
    if let Some(last) = messages.last_mut()
        && last.octets.ends_with(b"\n\n")
    {
        last.octets.pop();
    }
    messages
}

/// Every LF that no CR precedes becomes CRLF; everything else, lone CR included, stays.
pub fn crlf(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len() + octets.len() / 30);
    let mut last = 0;
    for &octet in octets {
        if octet == b'\n' && last != b'\r' {
            out.push(b'\r');
        }
        out.push(octet);
        last = octet;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mboxrd_is_split_and_unquoted() {
        let found = mboxrd("m", b"From a\nS: 1\n\n>From x\n>>From y\n\nFrom b\nS: 2\n\nz\n\n");
        let octets: Vec<_> = found.iter().map(|message| message.octets.as_slice()).collect();
        assert_eq!(octets, [&b"S: 1\n\nFrom x\n>From y\n"[..], b"S: 2\n\nz\n"]);
    }

    #[test]
    fn only_bare_lf_gets_a_cr() {
        assert_eq!(crlf(b"a\nb\r\nc\rd\n\n"), b"a\r\nb\r\nc\rd\r\n\r\n");
    }
}
