//! What a command does that a guest is asked.

use rookery_codec::imap::Command;

/// Whether a command can change something that others, or the user, would see.
pub(super) fn changes(command: &Command) -> bool {
    match command {
        Command::Create { .. }
        | Command::Delete { .. }
        | Command::Rename { .. }
        | Command::SetAcl { .. }
        | Command::DeleteAcl { .. }
        | Command::SetQuota { .. }
        | Command::SetMetadata { .. }
        | Command::Store(_)
        | Command::Expunge { .. }
        | Command::Close
        | Command::Copy { .. }
        | Command::Move { .. } => true,
        // \Seen, which FETCH may set, is no loss to set again.
        _ => false,
    }
}

/// Whether a command turns modseqs on (RFC 7162 §3.1).
pub(super) fn begins_modseqs(command: &Command) -> bool {
    use crate::search::mentions_modseq;
    use rookery_codec::imap::StatusItem;
    use rookery_codec::imap::command::FetchItem;
    match command {
        Command::Select { parameters, .. } => parameters.condstore,
        Command::Status { items, .. } => items.contains(&StatusItem::HighestModSeq),
        Command::Fetch(fetch) => fetch.changed_since.is_some() || fetch.items.contains(&FetchItem::ModSeq),
        Command::Store(store) => store.unchanged_since.is_some(),
        Command::Search(search) => mentions_modseq(&search.key),
        Command::Sort(sort) => mentions_modseq(&sort.key),
        Command::Thread(thread) => mentions_modseq(&thread.key),
        _ => false,
    }
}
