//! NAMESPACE (RFC 9051 §6.3.10).

use crate::session::User;
use crate::wire::Wire;
use rookery_codec::imap::Response;
use rookery_codec::imap::response::{Namespace, Namespaces};

/// Tells the three namespaces.
pub(crate) fn namespace(wire: &mut Wire, user: &User) {
    let ours = user.names.client.namespaces();
    let one = |namespace: rookery_types::namespace::Namespace| {
        let separator = u8::try_from(namespace.separator).ok();
        vec![Namespace { prefix: user.names.wire(namespace.prefix), separator }]
    };
    wire.put(&Response::Namespace(Namespaces {
        personal: one(ours.personal),
        others: one(ours.other_users),
        shared: one(ours.shared),
    }));
}
