//! What is announced by CAPA (RFC 2449 §5), and when.

use std::fmt::Write;

use bytes::BytesMut;
use rookery_codec::pop3::Reply;

use crate::services::Services;
use crate::wire::Wire;

/// Answers CAPA.
pub(crate) fn capa(services: &Services, wire: &mut Wire, logged_in: bool) {
    let mechanisms = mechanism_names(services, wire);
    let password = services.password_allowed(&wire.connection);
    let tls = services.offers_tls(&wire.connection) && !logged_in;
    let out = wire.connection.out();
    Reply::ok("Capabilities follow").print(out);
    // EXPIRE NEVER: messages that a client leaves stay until somebody removes them.
    out.extend_from_slice(
        b"TOP\r\nUIDL\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nPIPELINING\r\nEXPIRE NEVER\r\nUTF8 USER\r\n",
    );
    if password {
        out.extend_from_slice(b"USER\r\n");
    }
    if !mechanisms.is_empty() {
        line(out, format_args!("SASL {}", mechanisms.join(" ")));
    }
    if tls {
        out.extend_from_slice(b"STLS\r\n");
    }
    out.extend_from_slice(b"IMPLEMENTATION Rookery\r\n.\r\n");
}

/// Answers AUTH without a mechanism: those there are, one a line.
pub(crate) fn mechanisms(services: &Services, wire: &mut Wire) {
    let mechanisms = mechanism_names(services, wire);
    let out = wire.connection.out();
    Reply::ok("Mechanisms follow").print(out);
    for name in mechanisms {
        line(out, format_args!("{name}"));
    }
    out.extend_from_slice(b".\r\n");
}

fn mechanism_names(services: &Services, wire: &Wire) -> Vec<&'static str> {
    services.authenticator.mechanisms(&services.client(&wire.connection)).collect()
}

/// Appends a line.
pub(crate) fn line(out: &mut BytesMut, text: std::fmt::Arguments<'_>) {
    // Writing to memory cannot fail.
    let _ = out.write_fmt(text);
    out.extend_from_slice(b"\r\n");
}
