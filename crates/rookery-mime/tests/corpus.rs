//! Every message of the corpus, as archived and with CRLF, must be told as it is.

#![allow(clippy::unwrap_used)]

mod grammar;

use grammar::{check_message, scan, scan_in_pieces};
use std::path::{Path, PathBuf};
use std::process::Command;

fn corpus() -> PathBuf {
    match std::env::var_os("ROOKERY_CORPUS") {
        Some(path) => PathBuf::from(path),
        // As Cargo says it now: clones that share a target folder share what was built in one of them, too.
        None => PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap()).join("../../../shared/corpus"),
    }
}

fn check(message: &[u8], name: &Path) {
    let result = std::panic::catch_unwind(|| {
        let scanned = scan(message);
        check_message(message, &scanned);
        let pieces = scan_in_pieces(message, || 1_021);
        assert_eq!(pieces.structure(), scanned.structure());
        assert_eq!(pieces.bodystructure(), scanned.bodystructure());
    });
    assert!(result.is_ok(), "in {}", name.display());
}

fn with_crlf(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.len() * 41 / 40);
    for (place, line) in message.split(|b| *b == b'\n').enumerate() {
        if place > 0 {
            out.extend_from_slice(if out.ends_with(b"\r") { b"\n" } else { b"\r\n" });
        }
        out.extend_from_slice(line);
    }
    out
}

fn files(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, out) } else { out.push(path) }
    }
}

fn check_archive(archive: &Path) -> usize {
    let mut count = 0;
    if archive.extension().is_some() && archive.to_string_lossy().ends_with(".mboxrd.xz") {
        let unpacked = Command::new("xz").arg("-dc").arg(archive).output().unwrap();
        assert!(unpacked.status.success());
        let mut message: Vec<u8> = Vec::new();
        for line in unpacked.stdout.split_inclusive(|b| *b == b'\n').chain([&b"From "[..]]) {
            if line.starts_with(b"From ") {
                if !message.is_empty() {
                    count += 1;
                    check(&message, archive);
                    check(&with_crlf(&message), archive);
                }
                message.clear();
            } else {
                message.extend_from_slice(line);
            }
        }
        return count;
    }
    let dir = tempfile::tempdir().unwrap();
    assert!(
        Command::new("tar").arg("xJf").arg(archive).arg("-C").arg(dir.path()).status().unwrap().success()
    );
    let mut paths = Vec::new();
    files(dir.path(), &mut paths);
    for path in paths {
        let message = std::fs::read(&path).unwrap();
        count += 1;
        check(&message, &path);
        check(&with_crlf(&message), &path);
    }
    count
}

#[test]
fn every_message_is_told_as_it_is() {
    for (folder, least) in [("real", 5_000), ("torture", 480)] {
        let dir = corpus().join(folder);
        let mut archives = Vec::new();
        files(&dir, &mut archives);
        archives.retain(|path| path.extension().is_some_and(|ext| ext == "xz"));
        let count: usize = archives.iter().map(|archive| check_archive(archive)).sum();
        assert!(count >= least, "only {count} messages in {}", dir.display());
    }
}
