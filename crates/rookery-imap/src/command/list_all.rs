//! LIST of an administrator: every account that a pattern can reach, one after another, wherever it is at home.
//!
//! Invariants:
//! - What is in memory at once is one account and one page of the directory.
//! - What was made, renamed or deleted anywhere before the command is listed so, unless the directory is away; then it is
//!   what this node knows.

use super::list::{Gathered, add_parents, tell};
use super::list_there;
use crate::answer::Failure;
use crate::names::directory_failed;
use crate::session::User;
use crate::wire::Wire;
use rookery_codec::imap::command::List;
use rookery_directory::{AccountFilter, PAGE_MAX};
use rookery_route::Authority;
use rookery_types::{AccountName, Pattern, SharedName, UserName};
use std::collections::BTreeSet;

/// What all users' names begin with in this view.
const USERS: &str = "user/";

/// Lists account by account, in the order of domains and names.
pub(super) async fn list_all(
    wire: &mut Wire,
    user: &mut User,
    list: &List,
    patterns: &[Pattern],
) -> Result<(), Failure> {
    if let Err(error) = user.services.directory.barrier().await {
        tracing::debug!(%error, "accounts are listed as this node knows them");
    }
    let mut told_above = BTreeSet::new();
    let prefixes: Vec<String> = patterns.iter().map(Pattern::literal_prefix).collect();
    let shared = Starts::of_shared(&prefixes);
    let users = Starts::of_users(&prefixes);
    for domain in domains(user).await? {
        for (is_shared, starts) in [(true, &shared), (false, &users)] {
            for start in starts.iter() {
                let mut after = None;
                loop {
                    let (names, next) = page(user, &domain, is_shared, start, after).await?;
                    for name in names {
                        one(wire, user, list, patterns, &name, &mut told_above).await?;
                    }
                    match next {
                        Some(name) => after = Some(name),
                        None => break,
                    }
                }
            }
        }
    }
    Ok(())
}

/// Lists what of one account matches.
async fn one(
    wire: &mut Wire,
    user: &mut User,
    list: &List,
    patterns: &[Pattern],
    name: &AccountName,
    told_above: &mut BTreeSet<String>,
) -> Result<(), Failure> {
    let mut names = Gathered::new();
    if !list_there::add_account(wire, user, name, list.returns.my_rights, &mut names).await? {
        return Ok(());
    }
    add_parents(user, &mut names);
    if let Some(own) = &user.own {
        let tree = own.tree();
        for (name, listed) in &mut names {
            let address = user.names.client.read(name);
            listed.subscribed = address.is_ok_and(|a| tree.subscriptions().contains_key(&a.to_string()));
        }
    }
    // What stands above several accounts is told once.
    if name.user().is_some() {
        let above = USERS.trim_end_matches('/');
        if names.contains_key(above) && !told_above.insert(above.to_owned()) {
            names.remove(above);
        }
    }
    tell(wire, user, list, patterns, &names).await
}

/// The domains that the user administers, their own first.
async fn domains(user: &User) -> Result<Vec<String>, Failure> {
    let own = user.name.domain().to_owned();
    let mut domains = vec![own.clone()];
    if user.authority != Authority::Site {
        return Ok(domains);
    }
    let mut after = None;
    loop {
        let page = user.services.directory.domains(after, PAGE_MAX).await.map_err(directory_failed)?;
        let Some(last) = page.last() else { return Ok(domains) };
        after = Some(last.name.to_string());
        domains.extend(page.iter().map(|domain| domain.name.to_string()).filter(|name| *name != own));
    }
}

/// How the local parts or roots begin that are looked for.
struct Starts(Vec<Start>);

struct Start {
    text: String,
    /// It is all of the name.
    whole: bool,
}

impl Starts {
    fn of_users(prefixes: &[String]) -> Starts {
        let starts = prefixes.iter().filter_map(|prefix| match prefix.strip_prefix(USERS) {
            Some(rest) => Some(Start::of(rest)),
            None => USERS.starts_with(prefix.as_str()).then(|| Start::of("")),
        });
        Starts::without_overlap(starts.collect())
    }

    fn of_shared(prefixes: &[String]) -> Starts {
        let starts = prefixes.iter().filter(|prefix| !prefix.starts_with(USERS));
        Starts::without_overlap(starts.map(|prefix| Start::of(prefix)).collect())
    }

    /// Leaves out what another finds as well, so that nothing is listed twice.
    fn without_overlap(mut starts: Vec<Start>) -> Starts {
        starts.sort_by(|a, b| (&a.text, a.whole).cmp(&(&b.text, b.whole)));
        let mut kept: Vec<Start> = Vec::new();
        for start in starts {
            let found = |known: &Start| match known.whole {
                true => known.text == start.text && start.whole,
                false => start.text.starts_with(&known.text),
            };
            if !kept.iter().any(found) {
                kept.push(start);
            }
        }
        Starts(kept)
    }

    fn iter(&self) -> impl Iterator<Item = &Start> {
        self.0.iter()
    }
}

impl Start {
    /// From what the whole name begins with. Names of another domain have it behind an `@`.
    fn of(prefix: &str) -> Start {
        match prefix.split_once('/') {
            Some((name, _)) => {
                Start { text: name.split('@').next().unwrap_or(name).to_owned(), whole: !name.contains('@') }
            }
            None => Start { text: prefix.split('@').next().unwrap_or(prefix).to_owned(), whole: false },
        }
    }
}

/// Some accounts of a domain, and where the next begin.
async fn page(
    user: &User,
    domain: &str,
    shared: bool,
    start: &Start,
    after: Option<AccountName>,
) -> Result<(Vec<AccountName>, Option<AccountName>), Failure> {
    if start.whole {
        let name = match shared {
            true => SharedName::new(&start.text, domain).map(AccountName::Shared),
            false => UserName::parse(&start.text, domain).map(AccountName::User),
        };
        return Ok((name.into_iter().collect(), None));
    }
    let filter = AccountFilter {
        domain: Some(domain.into()),
        shared: Some(shared),
        prefix: start.text.as_str().into(),
    };
    let page = user.services.directory.list(filter, after, PAGE_MAX).await.map_err(directory_failed)?;
    Ok((page.entries.into_iter().map(|entry| entry.name).collect(), page.next))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Texts, and whether each is whole.
    type Shown = Vec<(String, bool)>;

    fn starts(prefixes: &[&str]) -> (Shown, Shown) {
        let prefixes: Vec<String> = prefixes.iter().map(|prefix| (*prefix).to_owned()).collect();
        let shown = |starts: Starts| starts.0.into_iter().map(|s| (s.text, s.whole)).collect();
        (shown(Starts::of_users(&prefixes)), shown(Starts::of_shared(&prefixes)))
    }

    #[test]
    fn only_accounts_that_can_match_are_looked_at() {
        let of = |text: &str, whole| vec![(text.to_owned(), whole)];
        assert_eq!(starts(&[""]), (of("", false), of("", false)));
        assert_eq!(starts(&["us"]), (of("", false), of("us", false)));
        assert_eq!(starts(&["user/"]), (of("", false), vec![]));
        assert_eq!(starts(&["user/jo"]), (of("jo", false), vec![]));
        assert_eq!(starts(&["user/joe/"]), (of("joe", true), vec![]));
        assert_eq!(starts(&["user/joe@b.t"]), (of("joe", false), vec![]));
        assert_eq!(starts(&["team/x"]), (vec![], of("team", true)));
        assert_eq!(starts(&["user/jo", "user/joe/", "user/ann/"]).0.len(), 2);
        assert_eq!(starts(&["user/joe/a", "user/joe/b"]).0, of("joe", true));
    }
}
