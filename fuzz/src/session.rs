//! What one node gives another of a session that goes on there.

pub fn value(data: &[u8]) {
    // Two octets say how other inputs are cut.
    let data = data.get(2..).unwrap_or_default();
    rookery_imap::fuzzing::session_value(data);
    rookery_pop3::fuzzing::session_value(data);
}
