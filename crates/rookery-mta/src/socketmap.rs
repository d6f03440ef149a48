//! Postfix's socketmap protocol (socketmap_table(5)): requests and replies are netstrings, `LENGTH:map key,`.
//!
//! | map | key | reply |
//! |---|---|---|
//! | `recipients` | an address | the address if mail for it is taken, whether account, alias or catch-all |
//! | `aliases` | an address | where the alias (or catch-all) leads; nothing for an account |
//! | `domains` | a domain | the domain if it is one of this server's |
//!
//! `+detail` is left out of the local part before it is looked up.

use std::sync::Arc;

use bytes::{Buf, BytesMut};
use rookery_net::{Accepted, Connection};
use rookery_route::{Recipients, RouteError, Router};
use rookery_types::UserName;

use crate::lines;

/// Octets in the longest request. Postfix's own limit for a reply is 100,000.
const REQUEST_OCTETS_MAX: usize = 4096;
/// Octets in the longest reply.
const REPLY_OCTETS_MAX: usize = 90_000;

/// What a look-up gives.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reply {
    Found(String),
    NotFound,
    /// The answer is not known now.
    Temporary(&'static str),
    /// It will never be: the map is not there.
    Permanent(&'static str),
}

impl Reply {
    fn to_netstring(&self) -> String {
        let text = match self {
            Reply::Found(text) if text.len() > REPLY_OCTETS_MAX => "PERM the answer is too long".to_owned(),
            Reply::Found(text) => format!("OK {text}"),
            Reply::NotFound => "NOTFOUND ".to_owned(),
            Reply::Temporary(why) => format!("TEMP {why}"),
            Reply::Permanent(why) => format!("PERM {why}"),
        };
        format!("{}:{text},", text.len())
    }
}

/// What stands at the beginning of the buffer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Framed {
    Request(Vec<u8>),
    Malformed,
}

/// Takes one netstring; `None`: it is not whole yet.
pub(crate) fn take_netstring(buffer: &mut BytesMut) -> Option<Framed> {
    let Some(colon) = buffer.iter().take(8).position(|octet| *octet == b':') else {
        return (buffer.len() >= 8).then_some(Framed::Malformed);
    };
    let length = buffer.get(..colon).and_then(|digits| std::str::from_utf8(digits).ok());
    let is_number = |text: &&str| !text.is_empty() && text.bytes().all(|octet| octet.is_ascii_digit());
    let length = length.filter(is_number).and_then(|text| text.parse::<usize>().ok());
    let Some(length) = length.filter(|length| *length <= REQUEST_OCTETS_MAX) else {
        return Some(Framed::Malformed);
    };
    let end = colon + 1 + length;
    match buffer.get(end) {
        None => None,
        Some(b',') => {
            buffer.advance(colon + 1);
            let request = buffer.split_to(length).to_vec();
            buffer.advance(1);
            Some(Framed::Request(request))
        }
        Some(_) => Some(Framed::Malformed),
    }
}

/// Looks recipients up for an MTA.
pub struct LookUps {
    router: Router,
    default_domain: String,
}

impl LookUps {
    /// `default_domain` completes local parts without a domain.
    pub fn new(router: Router, default_domain: &str) -> LookUps {
        LookUps { router, default_domain: default_domain.to_owned() }
    }

    async fn answer(&self, request: &[u8]) -> Reply {
        let Some((map, key)) = std::str::from_utf8(request).ok().and_then(|text| text.split_once(' ')) else {
            return Reply::NotFound;
        };
        let answered = match map {
            "recipients" => self.recipient(key).await,
            "aliases" => self.alias(key).await,
            "domains" => self.domain(key).await,
            _ => return Reply::Permanent("there is no such map"),
        };
        answered.unwrap_or_else(|error| match error {
            RouteError::Name(_) | RouteError::NonExistent(_) => Reply::NotFound,
            error => {
                tracing::warn!(%error, map, "a look-up for the MTA failed");
                Reply::Temporary("the directory is not available")
            }
        })
    }

    /// The user meant by an address; `None` if no user can be called so, as `@domain` in particular.
    fn user(&self, key: &str) -> Option<UserName> {
        let (local, domain) = key.rsplit_once('@').unwrap_or((key, &self.default_domain));
        let local = match local.find('+') {
            Some(at) if at > 0 => local.get(..at)?,
            _ => local,
        };
        UserName::parse(&format!("{local}@{domain}"), &self.default_domain).ok()
    }

    async fn recipient(&self, key: &str) -> Result<Reply, RouteError> {
        let Some(user) = self.user(key) else { return Ok(Reply::NotFound) };
        self.router.recipients(&user).await?;
        Ok(Reply::Found(user.to_string()))
    }

    async fn alias(&self, key: &str) -> Result<Reply, RouteError> {
        let Some(user) = self.user(key) else { return Ok(Reply::NotFound) };
        Ok(match self.router.recipients(&user).await? {
            Recipients { by_alias: false, .. } => Reply::NotFound,
            Recipients { users, .. } => {
                Reply::Found(users.iter().map(UserName::as_str).collect::<Vec<_>>().join(","))
            }
        })
    }

    async fn domain(&self, key: &str) -> Result<Reply, RouteError> {
        Ok(match self.router.has_domain(&key.to_lowercase()).await? {
            true => Reply::Found(key.to_lowercase()),
            false => Reply::NotFound,
        })
    }
}

/// Serves one connection to its end.
pub async fn serve_connection(accepted: Accepted, look_ups: Arc<LookUps>) {
    let Accepted { stream, mut permit, drain, .. } = accepted;
    permit.authenticated();
    let mut connection = Connection::new(stream);
    let mut buffer = BytesMut::new();
    loop {
        let room = REQUEST_OCTETS_MAX + 16;
        let framed = lines::next(&mut connection, &drain, &mut buffer, room, take_netstring).await;
        let Some(Framed::Request(request)) = framed else {
            if framed.is_some() {
                tracing::warn!("an MTA sent what is no netstring; its connection is closed");
            }
            break;
        };
        let reply = look_ups.answer(&request).await;
        metrics::counter!("rookery_mta_lookups_total", "result" => match reply {
            Reply::Found(_) => "found",
            Reply::NotFound => "not-found",
            Reply::Temporary(_) | Reply::Permanent(_) => "failed",
        })
        .increment(1);
        connection.out().extend_from_slice(reply.to_netstring().as_bytes());
        if connection.flush().await.is_err() {
            break;
        }
    }
    let _ = connection.close().await;
    drop((permit, drain));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(text: &str) -> (Option<Framed>, String) {
        let mut buffer = BytesMut::from(text);
        let framed = take_netstring(&mut buffer);
        (framed, String::from_utf8_lossy(&buffer).into_owned())
    }

    #[test]
    fn netstrings_in_and_out() {
        let request = |text: &str| Some(Framed::Request(text.as_bytes().to_vec()));
        assert_eq!(take("5:a b c,6:x"), (request("a b c"), "6:x".to_owned()));
        assert_eq!(take("0:,"), (request(""), String::new()));
        for partial in ["", "5", "5:", "5:a b c"] {
            assert_eq!(take(partial), (None, partial.to_owned()));
        }
        for bad in [":", "x:", "-1:", "99999:", "5:a b cd", "123456789", "+5:a b c,"] {
            assert_eq!(take(bad).0, Some(Framed::Malformed), "{bad}");
        }
        assert_eq!(Reply::Found("joe@x".to_owned()).to_netstring(), "8:OK joe@x,");
        assert_eq!(Reply::NotFound.to_netstring(), "9:NOTFOUND ,");
        assert_eq!(Reply::Temporary("later").to_netstring(), "10:TEMP later,");
        assert!(Reply::Found("x".repeat(200_000)).to_netstring().contains("PERM"));
    }

    proptest::proptest! {
        #[test]
        fn every_cut_agrees_with_the_whole(text in "[0-9]{0,2}:?[ -~]{0,20}", at in 0usize..20) {
            let whole = take(&text).0;
            let cut = text.get(..at.min(text.len())).unwrap_or_default();
            let mut buffer = BytesMut::from(cut);
            let first = take_netstring(&mut buffer);
            if first.is_none() {
                buffer.extend_from_slice(text.get(cut.len()..).unwrap_or_default().as_bytes());
                proptest::prop_assert_eq!(take_netstring(&mut buffer), whole);
            } else {
                proptest::prop_assert_eq!(first, whole);
            }
        }
    }
}
