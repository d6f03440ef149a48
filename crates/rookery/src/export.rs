//! What an exported account is on disk: one folder, in plain text and plain messages, so that it can be read without
//! this program and copied by any backup.
//!
//! ```text
//! NAME/account.json        the account, its mailboxes and what is set on them; written last
//! NAME/mailbox-N.jsonl     the messages of one mailbox, one a line, by UID
//! NAME/messages/ab/ab….eml the octets of each message, once, named by their content id
//! ```
//!
//! Invariants:
//! - A file has its name only when it is whole and on the disk. `account.json` comes last: where it is, the rest is.
//! - A message's file never changes, so exporting again writes only what is new.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file that says that the rest is there.
pub(crate) const WHOLE: &str = "account.json";

/// The form of the folder.
pub(crate) const FORMAT: u32 = 1;

/// `account.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AccountFile {
    pub(crate) format: u32,
    /// Canonical: `user/joe@example.org`, or `team@example.org` for shared mailboxes.
    pub(crate) name: String,
    /// What logins are checked against.
    pub(crate) verifier: Option<String>,
    pub(crate) suspended: bool,
    /// The account's modseq when it was exported.
    pub(crate) modseq: u64,
    pub(crate) subscriptions: Vec<String>,
    pub(crate) annotations: Vec<AnnotationLine>,
    pub(crate) mailboxes: Vec<MailboxFile>,
}

/// A mailbox in `account.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MailboxFile {
    /// Empty: the root of shared mailboxes.
    pub(crate) path: String,
    pub(crate) uid_validity: u32,
    pub(crate) uid_next: u32,
    pub(crate) special_use: Vec<String>,
    /// Identifier (with `-` if negative) and rights.
    pub(crate) acl: Vec<(String, String)>,
    /// Octets, messages and mailboxes.
    pub(crate) quota: Option<[Option<u64>; 3]>,
    pub(crate) annotations: Vec<AnnotationLine>,
    /// The file with its messages.
    pub(crate) messages: String,
    /// What others than the owner have seen of it: users, and the first and last of UIDs that follow one another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) seen: Vec<(String, Vec<(u32, u32)>)>,
}

/// A named value (RFC 5464).
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AnnotationLine {
    pub(crate) entry: String,
    /// The owner's own.
    pub(crate) private: bool,
    /// In base64.
    pub(crate) value: String,
}

/// A line of `mailbox-N.jsonl`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MessageLine {
    pub(crate) uid: u32,
    pub(crate) flags: Vec<String>,
    /// INTERNALDATE: seconds since 1970, and minutes east.
    pub(crate) date: (i64, i16),
    /// When it came into the mailbox, seconds since 1970.
    pub(crate) saved: u32,
    /// Names its file.
    pub(crate) content: String,
    pub(crate) octets: u32,
}

/// The folder of an account below the folder of an export. No two names give one.
pub(crate) fn folder(root: &Path, name: &str) -> PathBuf {
    let keeps = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"@-_".contains(&octet);
    let mut text = String::new();
    for octet in name.bytes() {
        match octet {
            b'.' if !text.is_empty() => text.push('.'),
            octet if keeps(octet) => text.push(char::from(octet)),
            octet => text.push_str(&format!("%{octet:02X}")),
        }
    }
    root.join(text)
}

/// The file of a message. `content` has nothing but letters and digits.
pub(crate) fn message_file(account: &Path, content: &str) -> Option<PathBuf> {
    let is_plain = content.len() >= 3 && content.bytes().all(|octet| octet.is_ascii_alphanumeric());
    let start = content.get(1..3)?;
    is_plain.then(|| account.join("messages").join(start).join(format!("{content}.eml")))
}

/// Writes a file that has its name only when it is whole. With its folder it is on the disk after [`settle`].
pub(crate) fn write(file: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let draft = file.with_extension("draft");
    let mut open = io::BufWriter::new(
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?,
    );
    write(&mut open)?;
    open.flush()?;
    open.get_ref().sync_all()?;
    fs::rename(&draft, file)
}

/// Makes the names in a folder durable.
pub(crate) fn settle(folder: &Path) -> io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

/// Makes a folder that only the server's user can look into.
pub(crate) fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_folders_differ_and_stay_inside() {
        let shown = |name: &str| folder(Path::new("/x"), name).display().to_string();
        assert_eq!(shown("user/joe@example.org"), "/x/user%2Fjoe@example.org");
        assert_eq!(shown("user/Joe@example.org"), "/x/user%2F%4Aoe@example.org");
        assert_eq!(shown("../../etc"), "/x/%2E.%2F..%2Fetc");
        assert!(message_file(Path::new("/x"), "E0a/../../b").is_none());
        assert!(message_file(Path::new("/x"), "E0").is_none());
    }
}
