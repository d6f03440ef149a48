//! Maildir: a folder with `cur`, `new` and `tmp`. Mailboxes below it are folders named `.A.B` (Maildir++), or
//! nested Maildirs (as Dovecot's `LAYOUT=fs` has them).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rookery_types::{InternalDate, Keyword, MailboxPath, SystemFlags};

use super::{Found, crlf};

/// Nested folders looked into.
const DEPTH_MAX: usize = 32;
/// Mailboxes of one Maildir.
const MAILBOXES_MAX: usize = 100_000;

/// One mailbox of a Maildir: where it goes, and the folder with its `cur` and `new`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MaildirFolder {
    pub(crate) path: MailboxPath,
    pub(crate) folder: PathBuf,
}

/// Why something was left out.
pub(crate) type Complaint = String;

/// Finds the mailboxes of a Maildir, itself first. `into`: where its own messages go; mailboxes below it go
/// to the top if that is INBOX, otherwise below `into`.
pub(crate) fn mailboxes(root: &Path, into: &MailboxPath) -> io::Result<(Vec<MaildirFolder>, Vec<Complaint>)> {
    let mut found = Vec::new();
    let mut complaints = Vec::new();
    if is_maildir(root) {
        found.push(MaildirFolder { path: into.clone(), folder: root.to_owned() });
    }
    // Folders still to be looked into, with the name so far.
    let mut waiting = vec![(root.to_owned(), String::new(), 0)];
    while let Some((folder, above, depth)) = waiting.pop() {
        let mut names: Vec<String> = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            match entry.file_name().into_string() {
                Ok(name) if entry.path().is_dir() => names.push(name),
                Ok(_) => {}
                Err(name) => complaints.push(format!("{name:?}: the name is not UTF-8")),
            }
        }
        names.sort_unstable();
        for name in names {
            if matches!(name.as_str(), "cur" | "new" | "tmp" | "." | "..") {
                continue;
            }
            let below = folder.join(&name);
            let mailbox = match name.strip_prefix('.') {
                // Maildir++: dots separate levels, names are in modified UTF-7.
                Some(dotted) => dotted.split('.').map(decoded).collect::<Vec<_>>().join("/"),
                None => decoded(&name),
            };
            let whole = if above.is_empty() { mailbox } else { format!("{above}/{mailbox}") };
            if is_maildir(&below) {
                let target = match into.is_inbox() {
                    true => MailboxPath::new(&whole),
                    false => MailboxPath::new(&format!("{into}/{whole}")),
                };
                match target {
                    Ok(path) if found.len() < MAILBOXES_MAX => {
                        found.push(MaildirFolder { path, folder: below.clone() })
                    }
                    Ok(_) => complaints.push(format!("{}: too many mailboxes", below.display())),
                    Err(error) => complaints.push(format!("{}: {error}", below.display())),
                }
            }
            if depth < DEPTH_MAX && !name.starts_with('.') {
                waiting.push((below, whole, depth + 1));
            }
        }
    }
    found.sort_by(|a, b| (!a.path.is_inbox(), &a.path).cmp(&(!b.path.is_inbox(), &b.path)));
    Ok((found, complaints))
}

fn is_maildir(folder: &Path) -> bool {
    folder.join("cur").is_dir() || folder.join("new").is_dir()
}

/// A name in modified UTF-7, or as it stands if it is none.
fn decoded(name: &str) -> String {
    rookery_types::utf7::decode(name.as_bytes()).unwrap_or_else(|_| name.to_owned())
}

/// The message files of a mailbox in the order of their delivery: the names begin with the time.
pub(crate) fn messages(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for part in ["cur", "new"] {
        match fs::read_dir(folder.join(part)) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry?;
                    if entry.file_type()?.is_file() && !entry.file_name().as_encoded_bytes().starts_with(b".")
                    {
                        files.push(entry.path());
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    files.sort_by_cached_key(|file| delivery_order(file));
    Ok(files)
}

/// `1700000000.M123P4.host:2,S` → (1700000000, the name).
fn delivery_order(file: &Path) -> (u64, PathBuf) {
    let name = file.file_name().unwrap_or_default();
    let text = name.to_string_lossy();
    let seconds = text.split('.').next().and_then(|digits| digits.parse().ok()).unwrap_or(u64::MAX);
    (seconds, name.into())
}

/// Dovecot's table from letters `a`–`z` to keywords; empty if there is none.
pub(crate) fn keyword_table(folder: &Path) -> Vec<(u8, Keyword)> {
    let text = fs::read_to_string(folder.join("dovecot-keywords")).unwrap_or_default();
    let entry = |line: &str| {
        let (number, name) = line.split_once(' ')?;
        let letter = b'a'.checked_add(number.parse().ok().filter(|number| *number < 26)?)?;
        Some((letter, Keyword::new(name.trim())?))
    };
    text.lines().filter_map(entry).collect()
}

/// Reads one message. Err: why it is left out.
pub(crate) fn read(file: &Path, keywords: &[(u8, Keyword)], octets_max: u64) -> Result<Found, Complaint> {
    let complain = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let meta = fs::metadata(file).map_err(|error| complain(&error))?;
    if meta.len() > octets_max {
        return Err(complain(&"larger than messages may be"));
    }
    let octets = crlf(&fs::read(file).map_err(|error| complain(&error))?);
    let seconds = match meta.modified().map_err(|error| complain(&error))?.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(0),
    };
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let letters = name.rsplit_once(":2,").map_or("", |(_, letters)| letters);
    let (flags, keywords) = flags_of(letters, keywords);
    Ok(Found { octets, flags, keywords, date: InternalDate::from_unix(seconds) })
}

/// What the letters behind `:2,` say. `P` (passed) is the keyword that mail programs use for it.
fn flags_of(letters: &str, table: &[(u8, Keyword)]) -> (SystemFlags, Vec<Keyword>) {
    let mut flags = SystemFlags::NONE;
    let mut keywords = Vec::new();
    for letter in letters.bytes() {
        match letter {
            b'F' => flags = flags | SystemFlags::FLAGGED,
            b'R' => flags = flags | SystemFlags::ANSWERED,
            b'S' => flags = flags | SystemFlags::SEEN,
            b'T' => flags = flags | SystemFlags::DELETED,
            b'D' => flags = flags | SystemFlags::DRAFT,
            b'P' => keywords.extend(Keyword::new("$Forwarded")),
            _ => keywords
                .extend(table.iter().find(|(known, _)| *known == letter).map(|(_, name)| name.clone())),
        }
    }
    keywords.dedup();
    (flags, keywords)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(root: &Path, folders: &[&str]) {
        for folder in folders {
            for part in ["cur", "new", "tmp"] {
                fs::create_dir_all(root.join(folder).join(part)).unwrap();
            }
        }
    }

    fn names(root: &Path, into: &str) -> Vec<String> {
        let (found, complaints) = mailboxes(root, &MailboxPath::new(into).unwrap()).unwrap();
        assert!(complaints.is_empty(), "{complaints:?}");
        found.into_iter().map(|folder| folder.path.to_string()).collect()
    }

    #[test]
    fn maildir_plus_plus_and_nested_layouts() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &["", ".Sent", ".Lists.rust", ".Entw&APw-rfe"]);
        assert_eq!(names(dir.path(), "INBOX"), ["INBOX", "Entwürfe", "Lists/rust", "Sent"]);
        assert_eq!(names(dir.path(), "Old"), ["Old", "Old/Entwürfe", "Old/Lists/rust", "Old/Sent"]);
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &["", "Sent", "Lists/rust"]);
        assert_eq!(names(dir.path(), "INBOX"), ["INBOX", "Lists/rust", "Sent"]);
    }

    #[test]
    fn messages_in_order_with_flags_and_dates() {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path(), &[""]);
        fs::write(dir.path().join("dovecot-keywords"), "0 Work\n1 $Junk\n").unwrap();
        for (name, text) in [("cur/20.b:2,FRSab", "B\n\nx\n"), ("cur/3.a:2,PTD", "A\r\n"), ("new/100.c", "C")]
        {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let time = UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
        fs::File::options()
            .write(true)
            .open(dir.path().join("new/100.c"))
            .unwrap()
            .set_modified(time)
            .unwrap();
        let table = keyword_table(dir.path());
        let files = messages(dir.path()).unwrap();
        let found: Vec<Found> = files.iter().map(|file| read(file, &table, 1000).unwrap()).collect();
        let texts: Vec<&[u8]> = found.iter().map(|message| &message.octets[..]).collect();
        assert_eq!(texts, [&b"A\r\n"[..], b"B\r\n\r\nx\r\n", b"C"]);
        let keywords = |at: usize| found[at].keywords.iter().map(Keyword::as_str).collect::<Vec<_>>();
        assert_eq!(found[0].flags, SystemFlags::DELETED | SystemFlags::DRAFT);
        assert_eq!(keywords(0), ["$Forwarded"]);
        assert_eq!(found[1].flags, SystemFlags::FLAGGED | SystemFlags::ANSWERED | SystemFlags::SEEN);
        assert_eq!(keywords(1), ["Work", "$Junk"]);
        assert_eq!(found[2].date.unix_seconds(), 1_000_000_000);
        assert!(read(&files[1], &table, 3).is_err());
    }
}
