//! Who a client or an MTA says somebody is: what a mechanism yields is a name, and nobody gets in by accident.

use rookery_auth::{Credentials, MECHANISMS, Mechanism, ScramKeys, Step, sasl};

/// Messages of a client, one a line: the first may be the initial response.
pub fn mechanisms(data: &[u8]) {
    let (bits, input) = data.split_first().unwrap_or((&0, data));
    let bindings = [("tls-exporter", vec![7; 32])];
    for name in MECHANISMS {
        let Some(mut mechanism) = Mechanism::new(name, &bindings, Some("tim")) else { continue };
        let mut messages = input.split(|octet| *octet == b'\n').take(5);
        let initial = if bits & 1 == 0 { messages.next() } else { None };
        let mut step = mechanism.start(initial);
        let mut is_over = false;
        loop {
            assert!(!is_over || step == Step::Fail, "{name} goes on after its end: {step:?}");
            match step {
                Step::Continue(_) => {}
                Step::Password(Credentials { authzid, authcid, password: _ }) => {
                    check(&authzid, true);
                    check(&authcid, false);
                    is_over = true;
                }
                Step::NeedKeys(authcid) => {
                    check(&authcid, false);
                    step = mechanism.keys(ScramKeys::derive(b"pencil", b"salt", 1), "xyz");
                    assert!(matches!(step, Step::Continue(_)));
                    continue;
                }
                Step::Proved { authzid, authcid, last } => {
                    assert!(name == "EXTERNAL" && last.is_none(), "{name} proved by chance");
                    assert_eq!(authcid, "tim");
                    check(&authzid, true);
                    is_over = true;
                }
                Step::Wrong { authcid } => {
                    check(&authcid, false);
                    is_over = true;
                }
                Step::Fail => is_over = true,
            }
            let Some(message) = messages.next() else { break };
            step = mechanism.step(message);
        }
    }
    if let Ok(text) = std::str::from_utf8(input)
        && let Some(keys) = ScramKeys::parse(text)
    {
        assert_eq!(ScramKeys::parse(&keys.to_string()).as_ref(), Some(&keys));
    }
}

fn check(name: &str, may_be_empty: bool) {
    assert!(may_be_empty || !name.is_empty());
    assert!(name.len() <= sasl::FIELD_OCTETS_MAX && !name.contains(char::is_control), "{name:?}");
}

/// Lines of the authentication protocol, and netstrings.
pub fn mta(data: &[u8]) {
    let (step, input) =
        data.split_first().map_or((1, data), |(step, rest)| (usize::from(*step) % 64 + 1, rest));
    for line in input.split(|octet| *octet == b'\n') {
        if let Ok(line) = std::str::from_utf8(line) {
            rookery_mta::fuzzing::request(line.trim_end_matches('\r'));
        }
    }
    let whole = rookery_mta::fuzzing::netstrings(input, input.len().max(1));
    assert_eq!(whole, rookery_mta::fuzzing::netstrings(input, step), "cut into pieces of {step}");
}
