//! What is advertised, and when.

use crate::services::Services;
use crate::session::State;
use crate::wire::Wire;
use rookery_auth::{CertificateNames, Client};
use std::borrow::Cow;

/// What can be said of a server at any time.
const ALWAYS: [&str; 6] = ["IMAP4rev1", "IMAP4rev2", "SASL-IR", "LITERAL+", "ID", "ENABLE"];

/// What a user who has logged in has besides.
const LOGGED_IN: &[&str] = &[
    "IDLE",
    "ACL",
    // Rights that are given one by one, beyond those of RFC 2086 (RFC 4314 §2.2).
    "RIGHTS=kxten",
    "NAMESPACE",
    "CHILDREN",
    "UNSELECT",
    "UIDPLUS",
    "MOVE",
    "CONDSTORE",
    "QRESYNC",
    "ESEARCH",
    "SEARCHRES",
    "PARTIAL",
    "SORT",
    "SORT=DISPLAY",
    "ESORT",
    "THREAD=ORDEREDSUBJECT",
    "THREAD=REFERENCES",
    "UIDONLY",
    "INPROGRESS",
    "LIST-EXTENDED",
    "LIST-STATUS",
    "LIST-MYRIGHTS",
    "SPECIAL-USE",
    "CREATE-SPECIAL-USE",
    "STATUS=SIZE",
    "OBJECTID",
    "SAVEDATE",
    "WITHIN",
    "MULTIAPPEND",
    "APPENDLIMIT",
    "NOTIFY",
    "METADATA",
    "METADATA-SERVER",
    "LIST-METADATA",
    "QUOTA",
    "QUOTASET",
    "QUOTA=RES-STORAGE",
    "QUOTA=RES-MESSAGE",
    "QUOTA=RES-MAILBOX",
];

/// Whether a password may come over this connection as it is.
pub(crate) fn password_allowed(services: &Services, wire: &Wire) -> bool {
    wire.connection.is_private(&services.trusted) || services.config.plaintext_login
}

/// What the authenticator is to know of the client.
pub(crate) fn client(services: &Services, wire: &Wire) -> Client {
    Client {
        ip: wire.connection.peer().ip(),
        protocol: "imap",
        private: password_allowed(services, wire),
        bindings: wire.connection.stream().channel_bindings(),
        certificate: wire
            .connection
            .stream()
            .client_names()
            .map(|names| CertificateNames { common_name: names.common_name, emails: names.emails }),
    }
}

/// Of these, what is about the content of messages.
const CONTENT: [&str; 5] = ["BINARY", "PREVIEW", "CATENATE", "REPLACE", "UTF8=ACCEPT"];

/// The capabilities of a session in its state.
pub(crate) fn names(services: &Services, state: &State, wire: &Wire) -> Vec<Cow<'static, str>> {
    let mut names: Vec<Cow<'static, str>> = ALWAYS.iter().map(|name| Cow::Borrowed(*name)).collect();
    match state {
        State::NotAuthenticated | State::Away(_) | State::Logout => {
            if services.tls.is_some() && !wire.connection.is_tls() {
                names.push("STARTTLS".into());
            }
            let client = client(services, wire);
            names
                .extend(services.authenticator.mechanisms(&client).map(|name| format!("AUTH={name}").into()));
            if !client.private {
                names.push("LOGINDISABLED".into());
            }
        }
        State::Authenticated(_) | State::Selected(..) | State::Abroad(..) => {
            let names_of_user = LOGGED_IN.iter().map(|name| match *name {
                "APPENDLIMIT" => Cow::Owned(format!("APPENDLIMIT={}", services.config.message_octets_max)),
                name => Cow::Borrowed(name),
            });
            names.extend(names_of_user);
            names.extend(CONTENT.iter().map(|name| Cow::Borrowed(*name)));
            if services.config.compress && wire.can_deflate && !wire.connection.is_deflated() {
                names.push("COMPRESS=DEFLATE".into());
            }
            if services.config.unauthenticate {
                names.push("UNAUTHENTICATE".into());
            }
        }
    }
    names
}
