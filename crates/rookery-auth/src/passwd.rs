//! Users in a passwd-style file, as Dovecot's `passwd-file` has them: `user:password:uid:gid:gecos:home:shell:extra`.
//! Only the user, the password and some of the extra fields are looked at.
//!
//! Invariants:
//! - A look-up sees the file as it is: it is read again when it has changed. While it cannot be read, what was read
//!   before holds, and the log says so.
//! - An entry with a restriction that is not understood lets nobody in.
//! - The file is at most [`FILE_OCTETS_MAX`] long, so memory is bounded.

use std::collections::HashMap;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::RwLock;
use rookery_types::UserName;

use crate::accounts::{AccountState, Credential};
use crate::verifier;

/// Octets in the longest file.
pub const FILE_OCTETS_MAX: u64 = 256 << 20;
/// Faulty lines that are logged one by one.
const FAULTS_LOGGED_MAX: usize = 10;
/// Extra fields that would restrict who gets in, and are not understood.
const RESTRICTIONS: [&str; 4] = ["allow_nets", "allow_real_nets", "nopassword", "proxy"];

/// A file of users, and what was last read of it.
pub struct PasswdFile {
    path: PathBuf,
    default_domain: String,
    current: RwLock<Arc<Table>>,
    /// One reads at a time.
    turn: tokio::sync::Mutex<()>,
    users: RandomState,
}

struct Table {
    seen: FileState,
    users: HashMap<UserName, Credential>,
    /// Verifiers that can stand for those of users who do not exist.
    verifiers: Vec<String>,
}

/// Tells a replaced or rewritten file from the one that was read; `None`: it cannot be looked at.
type FileState = Option<(u64, u64, i64, i64)>;

fn state_of(path: &Path) -> FileState {
    fs::metadata(path).ok().map(|meta| (meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

impl PasswdFile {
    /// Reads the file. `default_domain` completes users without a domain.
    pub fn open(path: &Path, default_domain: &str) -> io::Result<PasswdFile> {
        let table = read(path, default_domain)?;
        Ok(PasswdFile {
            path: path.to_owned(),
            default_domain: default_domain.to_owned(),
            current: RwLock::new(Arc::new(table)),
            turn: tokio::sync::Mutex::new(()),
            users: RandomState::new(),
        })
    }

    /// What the file says of a user; `None` if it does not name them.
    pub async fn look_up(&self, user: &UserName) -> Option<Credential> {
        self.fresh().await.users.get(user).cloned()
    }

    /// Some user's verifier, always the same one for the same text.
    pub fn stand_in(&self, user: &str) -> Option<String> {
        let table = Arc::clone(&self.current.read());
        let count = u64::try_from(table.verifiers.len()).ok().filter(|count| *count > 0)?;
        let at = usize::try_from(self.users.hash_one(user) % count).ok()?;
        table.verifiers.get(at).cloned()
    }

    /// Users that the file names.
    pub fn len(&self) -> usize {
        self.current.read().users.len()
    }

    /// Whether the file names nobody.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    async fn fresh(&self) -> Arc<Table> {
        let current = Arc::clone(&self.current.read());
        if state_of(&self.path) == current.seen {
            return current;
        }
        let _turn = self.turn.lock().await;
        let current = Arc::clone(&self.current.read());
        let now = state_of(&self.path);
        if now == current.seen {
            return current;
        }
        let (path, default_domain) = (self.path.clone(), self.default_domain.clone());
        let file = tokio::task::spawn_blocking(move || read(&path, &default_domain)).await;
        let table = match file.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(table) => table,
            Err(error) => {
                tracing::error!(file = %self.path.display(), %error, "the users' file cannot be read; what it said before holds");
                // Not tried again until the file is another.
                let Table { users, verifiers, .. } = &*current;
                Table { seen: now, users: users.clone(), verifiers: verifiers.clone() }
            }
        };
        let table = Arc::new(table);
        *self.current.write() = Arc::clone(&table);
        table
    }
}

fn read(path: &Path, default_domain: &str) -> io::Result<Table> {
    // The state first: what changes while the file is read is seen the next time.
    let seen = state_of(path);
    if seen.is_some_and(|(_, octets, _, _)| octets > FILE_OCTETS_MAX) {
        return Err(io::Error::other("the file is too long"));
    }
    let octets = fs::read(path)?;
    let text = String::from_utf8_lossy(&octets);
    let (mut users, mut faults) = (HashMap::new(), 0);
    for (at, line) in text.lines().enumerate() {
        let fault = match parse(line, default_domain) {
            Ok(None) => continue,
            Ok(Some((user, credential, fault))) => {
                // The first line of a user counts, as with passwd(5).
                users.entry(user).or_insert(credential);
                fault
            }
            Err(fault) => Some(fault),
        };
        if let Some(fault) = fault {
            faults += 1;
            if faults <= FAULTS_LOGGED_MAX {
                tracing::warn!(file = %path.display(), line = at + 1, fault, "a user in the users' file cannot log in");
            }
        }
    }
    if faults > FAULTS_LOGGED_MAX {
        tracing::warn!(file = %path.display(), faults, "more users in the users' file cannot log in");
    }
    let verifiers = users.values().filter_map(|credential: &Credential| credential.verifier.clone());
    let mut verifiers: Vec<String> = verifiers.filter(|text| verifier::is_supported(text)).collect();
    verifiers.sort_unstable();
    Ok(Table { seen, users, verifiers })
}

type Entry = (UserName, Credential, Option<&'static str>);

/// One line: a user with what to log in with, and what is wrong with it; `None` for a comment or an empty line.
fn parse(line: &str, default_domain: &str) -> Result<Option<Entry>, &'static str> {
    let line = line.trim_end_matches('\r');
    if line.trim().is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let mut fields = line.split(':');
    let name = fields.next().unwrap_or_default();
    let password = fields.next().ok_or("the line has no second field")?;
    let user = UserName::parse(name, default_domain).map_err(|_| "this cannot be a user's name")?;
    // uid, gid, gecos, home and shell are the mail program's of old; the extra fields may have colons.
    let extra = fields.skip(5).collect::<Vec<_>>().join(":");
    let extra = || extra.split_ascii_whitespace().map(|field| field.split('=').next().unwrap_or_default());
    let (verifier, mut fault) = match password {
        "" | "!" | "*" | "x" | "!!" => (None, None),
        text if verifier::is_supported(text) => (Some(text.to_owned()), None),
        text => (Some(text.to_owned()), Some("the scheme of the password is not supported")),
    };
    let mut state = AccountState::Active;
    if extra().any(|name| name == "nologin") {
        state = AccountState::Suspended;
    }
    if extra().any(|name| RESTRICTIONS.contains(&name)) {
        state = AccountState::Suspended;
        fault = Some("it has an extra field that restricts or redirects logins, which is not supported");
    }
    Ok(Some((user, Credential { verifier, state }, fault)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> UserName {
        UserName::parse(name, "example.org").unwrap()
    }

    fn credential(verifier: Option<&str>, state: AccountState) -> Option<Credential> {
        Some(Credential { verifier: verifier.map(str::to_owned), state })
    }

    #[tokio::test]
    async fn lines_are_read_as_dovecot_writes_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        let text = "# users\n\njoe:{PLAIN}secret\nAnn@Example.NET:$6$salt$hash:1000:1000::/home/ann:/bin/sh:userdb_quota=1G\r\n\
                    joe:{PLAIN}another\nlocked:!:::::\nclosed:{PLAIN}x::::::nologin\nnets:{PLAIN}x::::::allow_nets=10.0.0.0/8\n\
                    old:{LANMAN}x\nbad name:{PLAIN}x\nno-password\n";
        fs::write(&path, text).unwrap();
        let file = PasswdFile::open(&path, "example.org").unwrap();
        use AccountState::{Active, Suspended};
        for (name, expected) in [
            ("joe", credential(Some("{PLAIN}secret"), Active)),
            ("ann@example.net", credential(Some("$6$salt$hash"), Active)),
            ("locked", credential(None, Active)),
            ("closed", credential(Some("{PLAIN}x"), Suspended)),
            ("nets", credential(Some("{PLAIN}x"), Suspended)),
            ("old", credential(Some("{LANMAN}x"), Active)),
            ("ann", None),
            ("no-password", None),
        ] {
            assert_eq!(file.look_up(&user(name)).await, expected, "{name}");
        }
        assert_eq!(file.len(), 6);
        let stand_in = file.stand_in("nobody").unwrap();
        assert_eq!(file.stand_in("nobody"), Some(stand_in.clone()));
        assert!(stand_in != "{LANMAN}x" && text.contains(&stand_in));
    }

    #[tokio::test]
    async fn a_changed_file_is_read_again_and_a_lost_one_holds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        assert!(PasswdFile::open(&path, "example.org").is_err());
        fs::write(&path, "joe:{PLAIN}one\n").unwrap();
        let file = PasswdFile::open(&path, "example.org").unwrap();
        let verifier = async |file: &PasswdFile| file.look_up(&user("joe")).await.unwrap().verifier.unwrap();
        assert_eq!(verifier(&file).await, "{PLAIN}one");
        fs::write(folder.path().join("new"), "joe:{PLAIN}two\n").unwrap();
        fs::rename(folder.path().join("new"), &path).unwrap();
        assert_eq!(verifier(&file).await, "{PLAIN}two");
        fs::remove_file(&path).unwrap();
        assert_eq!(verifier(&file).await, "{PLAIN}two");
        fs::write(&path, "eve:{PLAIN}three and more\n").unwrap();
        assert_eq!(file.look_up(&user("joe")).await, None);
        fs::write(&path, "").unwrap();
        assert!(
            file.look_up(&user("eve")).await.is_none() && file.is_empty() && file.stand_in("x").is_none()
        );
    }

    proptest::proptest! {
        #[test]
        fn any_line_is_answered(line in "[a-z:{}$=@ \\PC]{0,80}") {
            let _ = parse(&line, "example.org");
        }
    }
}
