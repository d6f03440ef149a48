//! One program for all targets; `ROOKERY_FUZZ_TARGET` names the one that is run. `fuzz/run` builds and seeds it.
#![no_main]

mod auth;
mod codecs;
mod link;
mod mail;
mod names;
mod records;
mod session;

use std::sync::OnceLock;

type Target = fn(&[u8]);

/// All targets by name.
const TARGETS: &[(&str, Target)] = &[
    ("imap_server", codecs::imap_server),
    ("imap_client", codecs::imap_client),
    ("imap_passage", codecs::imap_passage),
    ("lmtp_server", codecs::lmtp_server),
    ("lmtp_client", codecs::lmtp_client),
    ("pop3_server", codecs::pop3_server),
    ("pop3_client", codecs::pop3_client),
    ("sasl", codecs::sasl),
    ("names", names::names),
    ("patterns", names::patterns),
    ("sets", names::sets),
    ("dates", names::dates),
    ("mime", mail::mime),
    ("headers", mail::headers),
    ("transfer", mail::transfer),
    ("store_records", records::store),
    ("volume_records", records::volumes),
    ("directory_records", records::directory),
    ("session_value", session::value),
    ("link", link::link),
    ("requests", link::requests),
    ("mechanisms", auth::mechanisms),
    ("mta", auth::mta),
];

fn target() -> Target {
    static TARGET: OnceLock<Target> = OnceLock::new();
    *TARGET.get_or_init(|| {
        let name = std::env::var("ROOKERY_FUZZ_TARGET").unwrap_or_default();
        match TARGETS.iter().find(|(known, _)| *known == name) {
            Some((_, target)) => *target,
            None => panic!("ROOKERY_FUZZ_TARGET is {name:?}, not one of {:?}", TARGETS.map_names()),
        }
    })
}

trait Names {
    fn map_names(&self) -> Vec<&'static str>;
}

impl Names for &[(&'static str, Target)] {
    fn map_names(&self) -> Vec<&'static str> {
        self.iter().map(|(name, _)| *name).collect()
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| target()(data));
