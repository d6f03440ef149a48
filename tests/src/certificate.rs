//! A certificate for `localhost` and `mail.example.org`, made anew for each server by openssl.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::command;

/// A self-signed certificate and its key, as PEM files.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The certificate, which clients also take as their trusted root.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Makes both files in `dir`, unless they are there.
pub fn make(dir: &Path) -> Result<Certificate> {
    let made = Certificate { cert: dir.join("cert.pem"), key: dir.join("key.pem") };
    if made.cert.exists() && made.key.exists() {
        return Ok(made);
    }
    let (key, cert) = (made.key.display().to_string(), made.cert.display().to_string());
    let args =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let names = "subjectAltName=DNS:localhost,DNS:mail.example.org,IP:127.0.0.1";
    let rest = ["-subj", "/CN=localhost", "-addext", names, "-keyout", &key, "-out", &cert];
    command::ok("openssl", &[&args[..], &rest[..]].concat(), b"")?;
    Ok(made)
}
