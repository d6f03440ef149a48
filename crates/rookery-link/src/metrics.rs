//! What links count. Plain numbers; who shows them gives them names.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Counters of all links of a node, moved where things happen.
        #[derive(Debug, Default)]
        pub(crate) struct Counters { $(pub(crate) $name: AtomicU64),* }

        /// The same as numbers, at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct LinkCounters { $($(#[$doc])* pub $name: u64),* }

        impl Counters {
            pub(crate) fn snapshot(&self) -> LinkCounters {
                LinkCounters { $($name: self.$name.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counters! {
    /// Connections that were made, by either side.
    connections_made,
    /// Connections that ended.
    connections_ended,
    /// Attempts to connect that failed.
    dials_failed,
    /// Connections of others that were refused: certificate, version, duplicate.
    connections_refused,
    /// Connections that were cut since the peer broke the protocol.
    protocol_errors,
    /// Connections that were cut since the peer was silent.
    silences,
    /// Streams begun here.
    streams_opened,
    /// Streams begun by peers and given to a service.
    streams_accepted,
    /// Streams of peers that no service saw.
    streams_refused,
    /// Messages sent.
    messages_sent,
    /// Octets in them.
    octets_sent,
    /// Messages received.
    messages_received,
    /// Octets in them.
    octets_received,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counters {
    pub(crate) fn sent(&self, octets: usize) {
        count(&self.messages_sent);
        self.octets_sent.fetch_add(octets as u64, Ordering::Relaxed);
    }

    pub(crate) fn received(&self, octets: usize) {
        count(&self.messages_received);
        self.octets_received.fetch_add(octets as u64, Ordering::Relaxed);
    }
}
