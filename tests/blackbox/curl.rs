//! curl: lists, fetches by UID, searches and uploads.

use anyhow::{Result, ensure};
use rookery_tests::command;
use rookery_tests::server::{PASSWORD, Server};

use crate::{message, server_with_joe};

fn curl(server: &Server, path: &str, more: &[&str]) -> Result<Vec<u8>> {
    let (url, user) = (format!("imap://{}/{path}", server.imap), format!("joe:{PASSWORD}"));
    let args = [&["--silent", "--show-error", "--max-time", "60", "--user", &user, &url], more].concat();
    Ok(command::ok("curl", &args, b"")?.stdout)
}

#[test]
fn curl_lists_uploads_searches_and_fetches() -> Result<()> {
    let mut server = server_with_joe()?;
    server.login("joe")?.ok("CREATE \"Old Letters\"")?;
    let list = String::from_utf8_lossy(&curl(&server, "", &[])?).into_owned();
    ensure!(list.contains("INBOX") && list.contains("\"Old Letters\""), "{list}");

    let text = message("by curl", "line one\r\n.line two");
    let file = server.root().join("letter");
    std::fs::write(&file, &text)?;
    curl(&server, "Old%20Letters", &["--upload-file", &file.display().to_string()])?;
    let found = String::from_utf8_lossy(&curl(&server, "Old%20Letters?SUBJECT%20curl", &[])?).into_owned();
    ensure!(found.trim() == "* SEARCH 1", "{found}");
    let fetched = curl(&server, "Old%20Letters/;UID=1", &[])?;
    ensure!(fetched == text.as_bytes(), "{}", String::from_utf8_lossy(&fetched));
    let subject = curl(&server, "Old%20Letters/;UID=1/;SECTION=HEADER.FIELDS%20(SUBJECT)", &[])?;
    ensure!(subject == b"Subject: by curl\r\n\r\n", "{}", String::from_utf8_lossy(&subject));
    server.stop()
}

#[test]
fn curl_gives_up_on_a_wrong_password() -> Result<()> {
    let mut server = server_with_joe()?;
    let url = format!("imap://{}/", server.imap);
    let output = command::run("curl", &["--silent", "--max-time", "60", "--user", "joe:wrong", &url], b"")?;
    // 67 is curl's "login denied".
    ensure!(output.status.code() == Some(67), "{:?} {}", output.status, output.text());
    server.stop()
}
