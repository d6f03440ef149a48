//! `rookery demo`: a server of its own with one account full of mail, or several servers.

mod messages;
mod murder;

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use rookery_net::Local;
use rookery_store::{NewMessage, StoreError};
use rookery_types::{InternalDate, MailboxPath};

use crate::cli::Demo;
use crate::config::{Config, Loaded};
use crate::exit::Failure;
use crate::listen::Places;
use crate::node::{Node, NodeError};
use crate::output;
use crate::serve;

/// The demo's user.
const USER: &str = "demo";

/// Runs the demo until it is interrupted.
pub(crate) fn run(options: Demo, runtime: &tokio::runtime::Runtime) -> Result<(), Failure> {
    // Removed when it is dropped.
    let temporary = match options.folder {
        Some(_) => None,
        None => Some(
            tempfile::tempdir().map_err(|error| Failure::failed(format!("no temporary folder: {error}")))?,
        ),
    };
    let folder = match (&options.folder, &temporary) {
        (Some(folder), _) => folder.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => std::path::PathBuf::from("rookery-demo"),
    };
    if let Some(arrangement) = options.murder {
        return murder::run(arrangement, &folder, temporary.is_none(), runtime);
    }
    let mut config =
        Config { data_dir: folder.clone(), hostname: "localhost".to_owned(), ..Config::default() };
    config.log.level = "warn".to_owned();
    config.imap.listen = vec![free(1143)];
    config.imap.listen_tls = vec![free(1993)];
    config.pop3.listen = vec![free(1110)];
    config.pop3.listen_tls = vec![free(1995)];
    config.lmtp.listen = vec![free(2003)];
    config.http.listen = vec![free(8080)];
    crate::logging::start(&config);
    let kept = temporary.is_none();
    let loaded = Loaded { config, file: None, lines: Default::default() };
    let result = runtime.block_on(serve::run(loaded, async |node, places| {
        let password = prepare(&node, &folder).await?;
        tell(&places, &password, &folder, kept);
        Ok(())
    }));
    drop(temporary);
    result.map(drop)
}

/// The port if nobody has it, otherwise any.
fn free(port: u16) -> String {
    let port = if TcpListener::bind(("127.0.0.1", port)).is_ok() { port } else { 0 };
    format!("127.0.0.1:{port}")
}

/// Makes the account with its mail, unless it was made before. Gives the password.
async fn prepare(node: &Arc<Node>, folder: &Path) -> Result<String, Failure> {
    let user = node.user(USER).map_err(Failure::failed)?;
    let note = folder.join("demo-password");
    if let Ok(password) = std::fs::read_to_string(&note) {
        match node.entry(&user).await {
            Ok(_) => return Ok(password.trim().to_owned()),
            Err(NodeError::NotFound(_)) => {}
            Err(error) => return Err(Failure::failed(error)),
        }
    }
    let password = password();
    write_private(&note, &password)
        .map_err(|error| Failure::failed(format!("{}: {error}", note.display())))?;
    node.add_user(&user, &password, false, None).await.map_err(Failure::failed)?;
    let account = node.account(&user).await.map_err(Failure::failed)?;
    let now = jiff::ZonedDateTime::now();
    let mut letters = messages::letters();
    // In the order of their arrival.
    letters.sort_by_key(|letter| -letter.hours_ago);
    for letter in letters {
        let path = MailboxPath::new(letter.mailbox).map_err(Failure::failed)?;
        let mailbox = match account.tree().get(&path) {
            Some(mailbox) => mailbox,
            None => crate::admin::make_mailbox(&account, &user, &path).await.map_err(Failure::failed)?,
        };
        let seconds = now.timestamp().as_second() - letter.hours_ago * 3600;
        let then = jiff::Timestamp::from_second(seconds).map_err(Failure::failed)?;
        let date =
            then.to_zoned_datetime(now.time_zone().clone()).strftime("%a, %d %b %Y %H:%M:%S %z").to_string();
        let spooled = || -> Result<_, StoreError> {
            let mut spool = node.store.spool();
            spool.push(&letter.text(&date))?;
            spool.finish()
        };
        let message = NewMessage {
            body: spooled().map_err(Failure::failed)?,
            flags: letter.flags,
            keywords: letter.keywords(),
            date: InternalDate::from_unix(seconds),
        };
        account.append(mailbox, vec![message]).await.map_err(Failure::failed)?;
    }
    Ok(password)
}

fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    writeln!(file, "{text}")
}

/// Twelve letters and digits that are not mistaken for one another.
fn password() -> String {
    const LETTERS: &[u8] = b"abcdefghjkmnpqrstuvwxyz23456789";
    (0..12).map(|_| char::from(LETTERS[rand::random_range(0..LETTERS.len())])).collect()
}

fn tell(places: &Places, password: &str, folder: &Path, kept: bool) {
    let at = |locals: &[Local]| locals.first().map_or("-".to_owned(), Local::to_string);
    let (imap, imaps, lmtp, http) =
        (at(&places.imap), at(&places.imap_tls), at(&places.lmtp), at(&places.http));
    let (pop3, pop3s) = (at(&places.pop3), at(&places.pop3_tls));
    output::line(&format!(
        "Rookery runs. Press Ctrl-C to stop it{kept}.\n\n\
         IMAP      {imap}  (STARTTLS, or plain from this machine)\n\
         IMAP/TLS  {imaps}  (self-signed certificate)\n\
         POP3      {pop3}  (STLS, or plain from this machine)\n\
         POP3/TLS  {pop3s}\n\
         LMTP      {lmtp}\n\
         HTTP      http://{http}/metrics\n\
         User      {USER}\n\
         Password  {password}\n\n\
         Read the newest message:\n  \
         curl --url 'imap://{imap}/INBOX;MAILINDEX={newest}' --user {USER}:{password}\n\
         List the mailboxes:\n  \
         curl --url 'imap://{imap}/' --user {USER}:{password}",
        newest = messages::letters().iter().filter(|letter| letter.mailbox == "INBOX").count(),
        kept = if kept {
            format!("; {} is kept", folder.display())
        } else {
            "; its data goes with it".to_owned()
        },
    ));
}
