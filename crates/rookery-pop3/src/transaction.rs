//! Commands after the login (RFC 1939 §5, §7).

use rookery_codec::pop3::{Command, Reply};
use rookery_net::IoError;
use rookery_store::Message;

use crate::capability::line;
use crate::connection::Outcome;
use crate::maildrop::{Maildrop, failed};
use crate::retrieve::{blocking, retrieve};
use crate::wire::Wire;

/// Does what a client asks that has logged in.
pub(crate) async fn obey(
    wire: &mut Wire,
    maildrop: &mut Maildrop,
    command: Command,
) -> Result<Outcome, IoError> {
    let reply = match command {
        Command::Stat => {
            let (count, octets) = maildrop.count();
            Reply::ok(format!("{count} {octets}"))
        }
        Command::List(Some(number)) => match maildrop.message(number) {
            Ok(message) => Reply::ok(format!("{number} {}", message.size)),
            Err(reply) => reply,
        },
        Command::Uidl(Some(number)) => match maildrop.message(number) {
            Ok(message) => Reply::ok(format!("{number} {}", maildrop.unique_id(&message))),
            Err(reply) => reply,
        },
        Command::List(None) => return listing(wire, maildrop, Item::Size).await,
        Command::Uidl(None) => return listing(wire, maildrop, Item::UniqueId).await,
        Command::Retr(number) => match maildrop.message(number) {
            Ok(message) => return retrieve(wire, maildrop.mailbox(), &message, None).await,
            Err(reply) => reply,
        },
        Command::Top { message, lines } => match maildrop.message(message) {
            Ok(message) => return retrieve(wire, maildrop.mailbox(), &message, Some(lines)).await,
            Err(reply) => reply,
        },
        Command::Dele(number) => maildrop.mark(number),
        Command::Noop => Reply::ok("Still here"),
        Command::Rset => {
            maildrop.unmark_all();
            let (count, octets) = maildrop.count();
            Reply::ok(format!("maildrop has {count} messages ({octets} octets)"))
        }
        Command::Unknown { .. } => return Ok(Outcome::Bad(Reply::err("Unknown command"))),
        _ => return Ok(Outcome::Bad(Reply::err("You have logged in already"))),
    };
    Ok(Outcome::Said(reply))
}

/// What LIST and UIDL tell of each message.
#[derive(Clone, Copy)]
enum Item {
    Size,
    UniqueId,
}

/// One line for each message that is not marked.
async fn listing(wire: &mut Wire, maildrop: &Maildrop, item: Item) -> Result<Outcome, IoError> {
    let messages = maildrop.messages().clone();
    // What cannot be read is found before the list begins: later there is no way to say so.
    if let Err(error) = blocking(move || messages.load(&(0..messages.len()))).await {
        return Ok(Outcome::Said(failed(&error)));
    }
    let (count, octets) = maildrop.count();
    wire.put(&Reply::ok(format!("{count} messages ({octets} octets)")));
    for found in maildrop.messages().iter() {
        let (number, message) = match found {
            Ok(found) => found,
            Err(error) => {
                failed(&error);
                return Err(IoError::Lost(std::io::ErrorKind::InvalidData.into()));
            }
        };
        if !maildrop.is_marked(&message) {
            tell(wire, maildrop, number.get(), &message, item);
            wire.flush_if_full().await?;
        }
    }
    wire.connection.out().extend_from_slice(b".\r\n");
    Ok(Outcome::Sent)
}

fn tell(wire: &mut Wire, maildrop: &Maildrop, number: u32, message: &Message, item: Item) {
    let out = wire.connection.out();
    match item {
        Item::Size => line(out, format_args!("{number} {}", message.size)),
        Item::UniqueId => line(out, format_args!("{number} {}", maildrop.unique_id(message))),
    }
}
