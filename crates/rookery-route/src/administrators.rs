//! Who administers what. Named in the configuration, so that nobody makes themselves one.

use rookery_types::UserName;

/// Who administers the site, and who a domain.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Administrators {
    site: Vec<UserName>,
    domains: Vec<UserName>,
}

/// How far a user's authority goes.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Authority {
    /// Their own account, and what others let them.
    #[default]
    User,
    /// All of their own domain, and nothing outside of it.
    Domain,
    /// Everything.
    Site,
}

impl Administrators {
    /// `site`: administrators of everything. `domains`: each administers the domain in their name.
    pub fn new(site: Vec<UserName>, domains: Vec<UserName>) -> Administrators {
        Administrators { site, domains }
    }

    /// Those of the site.
    pub fn site(&self) -> &[UserName] {
        &self.site
    }

    /// How far a user's authority goes.
    pub fn authority(&self, user: &UserName) -> Authority {
        match (self.site.contains(user), self.domains.contains(user)) {
            (true, _) => Authority::Site,
            (false, true) => Authority::Domain,
            (false, false) => Authority::User,
        }
    }
}
