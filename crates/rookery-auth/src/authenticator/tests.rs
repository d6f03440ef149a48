//! Logins under tokio's paused clock, with hashes that take a simulated 40 ms.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::*;
use crate::accounts::{CatchUp, LookUp, LookUpError};
use crate::exchange::{CertificateName, CertificateNames, Progress};
use crate::password::{HasherOptions, simulated};

const HASH: Duration = Duration::from_millis(40);

/// Users `name@example.org` whose verifier is their password.
#[derive(Default)]
struct Town {
    users: Mutex<HashMap<String, Credential>>,
    down: Mutex<bool>,
    /// What was changed elsewhere and is not known here yet.
    coming: Mutex<HashMap<String, Credential>>,
}

/// How long it takes to hear of it.
const COMING: Duration = Duration::from_secs(3);

impl Town {
    fn set(&self, user: &str, password: &str, state: AccountState) {
        let credential = Credential { verifier: Some(password.to_owned()), state };
        self.users.lock().insert(format!("{user}@example.org"), credential);
    }
}

impl Accounts for Town {
    fn look_up<'a>(&'a self, user: &'a UserName) -> LookUp<'a> {
        Box::pin(async move {
            if *self.down.lock() {
                return Err(LookUpError("no answer".to_owned()));
            }
            Ok(self.users.lock().get(user.as_str()).cloned())
        })
    }

    fn catch_up(&self) -> CatchUp<'_> {
        Box::pin(async move {
            if !self.coming.lock().is_empty() {
                tokio::time::sleep(COMING).await;
                self.users.lock().extend(self.coming.lock().clone());
            }
        })
    }

    fn may_act_as(&self, who: &UserName, _whom: &UserName) -> bool {
        who.local() == "admin"
    }
}

fn town(workers: usize) -> (Arc<Town>, Arc<Authenticator>) {
    let town = Arc::new(Town::default());
    for user in ["joe", "ann", "admin"] {
        town.set(user, &format!("{user}'s password"), AccountState::Active);
    }
    town.set("gone", "gone's password", AccountState::Suspended);
    let options = HasherOptions { workers, ..HasherOptions::default() };
    let hasher = Arc::new(simulated::hasher(options, HASH));
    let options = AuthenticatorOptions::new("example.org");
    (Arc::clone(&town), Arc::new(Authenticator::new(town, hasher, options)))
}

fn attempt<'a>(user: &'a str, password: &'a str, ip: &str) -> Attempt<'a> {
    let ip = Some(ip.parse().unwrap());
    Attempt { authzid: "", authcid: user, password: password.as_bytes(), ip, protocol: "imap" }
}

/// The result, and how long it took.
async fn timed(auth: &Authenticator, attempt: Attempt<'_>) -> (Result<String, AuthError>, Duration) {
    let before = Instant::now();
    let result = auth.login(attempt).await.map(|login| login.user.to_string());
    (result, before.elapsed())
}

const IP: &str = "192.0.2.1";

#[tokio::test(start_paused = true)]
async fn right_and_wrong() {
    let (town, auth) = town(2);
    let ok = |user: &str| Ok(format!("{user}@example.org"));
    let login = async |user, password| timed(&auth, attempt(user, password, IP)).await.0;
    assert_eq!(login("joe", "joe's password").await, ok("joe"));
    assert_eq!(login("Joe@Example.ORG", "joe's password").await, ok("joe"));
    for (user, password) in [
        ("joe", "ann's password"),
        ("joe", ""),
        ("nobody", "x"),
        ("joe@example.com", "joe's password"),
        ("", ""),
        ("a/b", "x"),
        ("gone", "guess"),
        ("nobody", "\0"),
    ] {
        assert_eq!(login(user, password).await, Err(AuthError::Invalid), "{user:?} {password:?}");
    }
    assert_eq!(login("gone", "gone's password").await, Err(AuthError::Suspended));
    town.set("gone", "gone's password", AccountState::Active);
    assert_eq!(login("gone", "gone's password").await, ok("gone"));
    *town.down.lock() = true;
    assert_eq!(login("joe", "joe's password").await, Err(AuthError::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn what_was_changed_elsewhere_is_waited_for_before_anybody_is_refused() {
    let (town, auth) = town(2);
    let credential =
        |password: &str| Credential { verifier: Some(password.to_owned()), state: AccountState::Active };
    town.coming.lock().insert("joe@example.org".to_owned(), credential("another"));
    town.coming.lock().insert("new@example.org".to_owned(), credential("fresh"));
    // Whoever is not there and whose password is wrong cannot be told apart.
    let (nobody, unknown_took) = timed(&auth, attempt("nobody", "x", "192.0.2.2")).await;
    let (wrong, wrong_took) = timed(&auth, attempt("ann", "x", "192.0.2.3")).await;
    assert_eq!((nobody, wrong), (Err(AuthError::Invalid), Err(AuthError::Invalid)));
    assert_eq!(unknown_took, wrong_took);
    assert!(unknown_took >= COMING);
    town.users.lock().remove("new@example.org");
    town.set("joe", "joe's password", AccountState::Active);
    let login = async |user, password| timed(&auth, attempt(user, password, IP)).await.0;
    assert_eq!(login("new", "fresh").await, Ok("new@example.org".to_owned()));
    town.set("joe", "joe's password", AccountState::Active);
    assert_eq!(login("joe", "another").await, Ok("joe@example.org".to_owned()));
    assert_eq!(login("joe", "joe's password").await, Err(AuthError::Invalid));
}

#[tokio::test(start_paused = true)]
async fn one_may_act_as_another_only_where_the_directory_says_so() {
    let (_town, auth) = town(2);
    for (user, password, authzid, expected) in [
        ("joe", "joe's password", "joe@EXAMPLE.org", Ok("joe@example.org")),
        ("joe", "joe's password", "ann", Err(AuthError::NotAuthorized)),
        ("admin", "admin's password", "ann", Ok("ann@example.org")),
        ("admin", "admin's password", "gone", Err(AuthError::Suspended)),
        ("admin", "admin's password", "nobody", Err(AuthError::NotAuthorized)),
        ("admin", "admin's password", "a b", Err(AuthError::NotAuthorized)),
        ("admin", "wrong", "ann", Err(AuthError::Invalid)),
    ] {
        let attempt = Attempt { authzid, ..attempt(user, password, IP) };
        let got = timed(&auth, attempt).await.0;
        assert_eq!(got.as_deref(), expected.as_deref(), "{user} as {authzid}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_checked_password_is_not_hashed_again_until_it_is_changed() {
    let (town, auth) = town(2);
    let first = timed(&auth, attempt("joe", "joe's password", IP)).await.1;
    assert!(first >= HASH && first < HASH + HASH);
    assert_eq!(timed(&auth, attempt("joe", "joe's password", IP)).await.1, Duration::ZERO);
    town.set("joe", "new", AccountState::Active);
    let (old, _) = timed(&auth, attempt("joe", "joe's password", IP)).await;
    assert_eq!(old, Err(AuthError::Invalid));
    let (new, time) = timed(&auth, attempt("joe", "new", IP)).await;
    assert!(new.is_ok() && time >= HASH);
    auth.forget(&UserName::parse("joe@example.org", "").unwrap());
    assert!(timed(&auth, attempt("joe", "new", IP)).await.1 >= HASH);
}

#[tokio::test(start_paused = true)]
async fn nothing_tells_whether_a_user_exists() {
    let (_town, auth) = town(2);
    let mut times = Vec::new();
    for (n, user) in ["joe", "nobody", "gone", "a/b"].into_iter().enumerate() {
        let ip = format!("192.0.2.{n}");
        let (result, time) = timed(&auth, attempt(user, "guess", &ip)).await;
        assert_eq!(result, Err(AuthError::Invalid));
        times.push(time.as_millis() / 4);
    }
    times.dedup();
    assert_eq!(times.len(), 1, "{times:?} (in 4 ms)");
}

/// Fifty connections of one address that guess at joe for ever, and how many guesses were answered.
fn fifty_guessers(auth: &Arc<Authenticator>) -> (JoinSet<()>, Arc<AtomicUsize>) {
    let mut guessers = JoinSet::new();
    let answered = Arc::new(AtomicUsize::new(0));
    for connection in 0..50 {
        let (auth, answered) = (Arc::clone(auth), Arc::clone(&answered));
        guessers.spawn(async move {
            loop {
                let password = format!("guess {connection} {}", answered.fetch_add(1, Ordering::Relaxed));
                assert_eq!(auth.login(attempt("joe", &password, IP)).await, Err(AuthError::Invalid));
            }
        });
    }
    (guessers, answered)
}

#[tokio::test(start_paused = true)]
async fn fifty_guessers_lock_nobody_out() {
    for workers in [1, 2, 8] {
        let (_town, auth) = town(workers);
        let (_guessers, _) = fifty_guessers(&auth);
        // At the worst moment, when all fifty have just asked, and at many others.
        let mut worst = Duration::ZERO;
        for _ in 0..60 {
            let (result, time) = timed(&auth, attempt("joe", "joe's password", IP)).await;
            assert!(result.is_ok());
            worst = worst.max(time);
            auth.forget(&UserName::parse("joe@example.org", "").unwrap());
            tokio::time::sleep(Duration::from_millis(137)).await;
        }
        assert!(worst < Duration::from_millis(2500), "the victim waited {worst:?} with {workers} workers");
        // Others at that address, and elsewhere, hardly notice.
        let (ann, time) = timed(&auth, attempt("ann", "ann's password", IP)).await;
        assert!(ann.is_ok() && time <= HASH * 4, "{time:?}");
        auth.forget(&UserName::parse("ann@example.org", "").unwrap());
        let (ann, time) = timed(&auth, attempt("ann", "ann's password", "192.0.2.2")).await;
        assert!(ann.is_ok() && time <= HASH * 3, "{time:?}");
        // What was seen before is known at once.
        assert_eq!(timed(&auth, attempt("ann", "ann's password", IP)).await.1, Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn guessing_is_slow() {
    let (_town, auth) = town(8);
    let (_guessers, answered) = fifty_guessers(&auth);
    tokio::time::sleep(Duration::from_secs(100)).await;
    // One guess each in two seconds, and a few before the delay has grown.
    let answered = answered.load(Ordering::Relaxed);
    assert!((2000..=2600).contains(&answered), "{answered} guesses in 100 s");
}

#[tokio::test(start_paused = true)]
async fn too_many_at_once_are_told_so() {
    let town = Arc::new(Town::default());
    let options = HasherOptions { workers: 1, queue_max: 4, ..HasherOptions::default() };
    let hasher = Arc::new(simulated::hasher(options, HASH));
    let auth = Arc::new(Authenticator::new(town, hasher, AuthenticatorOptions::new("example.org")));
    let all: Vec<_> = (0..20)
        .map(|n| {
            let auth = Arc::clone(&auth);
            tokio::spawn(async move { auth.login(attempt("joe", "x", &format!("192.0.2.{n}"))).await })
        })
        .collect();
    let mut throttled = 0;
    for one in all {
        throttled += usize::from(one.await.unwrap() == Err(AuthError::Throttled));
    }
    assert!((15..=16).contains(&throttled), "{throttled}");
}

#[test]
fn the_failure_line_is_one_line() {
    let line = |user: &str, ip| failure_line(&Who { authcid: user, ip, protocol: "imap" }, "r");
    assert_eq!(
        line("joe", Some("::ffff:192.0.2.1".parse().unwrap())),
        "auth failed: user=<joe> from=<192.0.2.1> protocol=<imap> reason=r"
    );
    assert_eq!(
        line("a> from=<1.2.3.4\r\nx\u{1b}", None),
        "auth failed: user=<a\\u{3e} from=\\u{3c}1.2.3.4\\r\\nx\\u{1b}> from=<local> protocol=<imap> reason=r"
    );
    assert!(line(&"x".repeat(10_000), None).len() < 400);
}

/// An exchange from its beginning to its end, as a client of `user` that knows `password`.
async fn scram(
    auth: &Arc<Authenticator>,
    user: &str,
    password: &str,
    authzid: &str,
) -> (Progress, String, Duration) {
    let before = Instant::now();
    let client =
        Client { ip: Some(IP.parse().unwrap()), protocol: "imap", private: true, ..Client::default() };
    let mut exchange = auth.begin("scram-sha-256", client).unwrap();
    let header = format!("n,{authzid},");
    let bare = format!("n={user},r=abc");
    let Progress::Challenge(first) = exchange.start(Some(format!("{header}{bare}").as_bytes())).await else {
        panic!()
    };
    let first = String::from_utf8(first).unwrap();
    let salt = first.split(',').nth(1).unwrap().to_owned();
    let (last, server) = crate::scram::client::last(&bare, &first, header.as_bytes(), password.as_bytes());
    let mut progress = exchange.step(last.as_bytes()).await;
    if let Progress::Challenge(end) = &progress {
        assert_eq!(end, server.as_bytes());
        progress = exchange.step(b"").await;
    }
    (progress, salt, before.elapsed())
}

fn with_keys(town: &Town, user: &str, password: &str, state: AccountState) {
    let keys = ScramKeys::of_new_password(password.as_bytes(), 4096).to_string();
    town.set(user, &format!("{password}\n{keys}"), state);
}

#[tokio::test(start_paused = true)]
async fn scram_from_end_to_end() {
    let (town, auth) = town(2);
    with_keys(&town, "joe", "pencil", AccountState::Active);
    with_keys(&town, "admin", "pencil", AccountState::Active);
    with_keys(&town, "gone", "pencil", AccountState::Suspended);
    let done = |user: &str, by: &str| {
        let name = |text| UserName::parse(text, "example.org").unwrap();
        Progress::Done(Login { user: name(user), authenticated: name(by) })
    };
    for (user, password, authzid, expected) in [
        ("joe", "pencil", "", done("joe", "joe")),
        ("JOE@example.org", "pencil", "a=joe", done("joe", "joe")),
        ("admin", "pencil", "a=joe", done("joe", "admin")),
        ("joe", "pencil", "a=ann", Progress::Failed(AuthError::NotAuthorized)),
        ("joe", "pencils", "", Progress::Failed(AuthError::Invalid)),
        ("gone", "pencil", "", Progress::Failed(AuthError::Suspended)),
        ("gone", "pencils", "", Progress::Failed(AuthError::Invalid)),
        ("ann", "ann's password", "", Progress::Failed(AuthError::Invalid)),
        ("nobody", "pencil", "", Progress::Failed(AuthError::Invalid)),
        ("no/body", "pencil", "", Progress::Failed(AuthError::Invalid)),
    ] {
        assert_eq!(scram(&auth, user, password, authzid).await.0, expected, "{user} {authzid}");
    }
    *town.down.lock() = true;
    let client = Client { private: true, ..Client::default() };
    let mut exchange = auth.begin("SCRAM-SHA-256", client).unwrap();
    assert_eq!(exchange.start(Some(b"n,,n=joe,r=abc")).await, Progress::Failed(AuthError::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn scram_does_not_tell_whether_a_user_exists() {
    let (town, auth) = town(2);
    with_keys(&town, "joe", "pencil", AccountState::Active);
    let mut delays = Vec::new();
    for user in ["joe", "nobody", "ann"] {
        let (_, auth) = (
            &town,
            Authenticator::new(town.clone(), auth.hasher().clone(), {
                AuthenticatorOptions { scram_secret: [7; 32], ..AuthenticatorOptions::new("example.org") }
            }),
        );
        let auth = Arc::new(auth);
        let (first, salt, delay) = scram(&auth, user, "guess", "").await;
        let (_, again, _) = scram(&auth, user, "guess", "").await;
        assert_eq!((first, &salt), (Progress::Failed(AuthError::Invalid), &again), "{user}");
        assert_eq!(salt.len(), "s=W22ZaJ0SNY7soEsUEjb6gQ==".len());
        delays.push(delay);
    }
    delays.dedup();
    assert_eq!(delays.len(), 1, "{delays:?}");
}

#[tokio::test(start_paused = true)]
async fn mechanisms_are_offered_where_they_are_possible() {
    let (town, auth) = town(2);
    let offered =
        |auth: &Authenticator, client: &Client| auth.mechanisms(client).collect::<Vec<_>>().join(" ");
    let open = Client::default();
    let private = Client { private: true, ..Client::default() };
    let bindings = vec![("tls-exporter", vec![1])];
    let named = |name: &str, emails: &[&str]| {
        let emails = emails.iter().map(|email| (*email).to_owned()).collect();
        Some(CertificateNames { common_name: Some(name.to_owned()), emails })
    };
    let tls = Client { bindings, certificate: named("joe", &[]), ..private.clone() };
    assert_eq!(offered(&auth, &open), "");
    assert_eq!(offered(&auth, &private), "SCRAM-SHA-256 PLAIN LOGIN");
    assert_eq!(offered(&auth, &tls), "EXTERNAL SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN");
    assert!(auth.begin("PLAIN", open).is_none() && auth.begin("EXTERNAL", private.clone()).is_none());
    let mut external = auth.begin("EXTERNAL", tls.clone()).unwrap();
    let Progress::Done(login) = external.start(Some(b"")).await else { panic!() };
    assert_eq!(login.user.as_str(), "joe@example.org");
    let by_email = AuthenticatorOptions {
        certificate_name: CertificateName::Email,
        ..AuthenticatorOptions::new("example.org")
    };
    let by_email = Arc::new(Authenticator::new(town.clone(), auth.hasher().clone(), by_email));
    for (emails, expected) in [
        (&["ann@example.org"][..], Some("ann@example.org")),
        (&[], None),
        (&["ann@example.org", "joe@example.org"], None),
    ] {
        let client = Client { certificate: named("joe", emails), ..tls.clone() };
        let found = match by_email.begin("EXTERNAL", client) {
            Some(mut external) => match external.start(Some(b"")).await {
                Progress::Done(login) => Some(login.user.to_string()),
                _ => panic!(),
            },
            None => None,
        };
        assert_eq!(found.as_deref(), expected);
    }
    let unknown = Client { certificate: named("nobody", &[]), ..tls };
    let mut external = auth.begin("EXTERNAL", unknown).unwrap();
    assert_eq!(external.start(Some(b"")).await, Progress::Failed(AuthError::Invalid));
    let options = AuthenticatorOptions {
        mechanisms: vec!["plain".to_owned()],
        ..AuthenticatorOptions::new("example.org")
    };
    let auth = Arc::new(Authenticator::new(town, auth.hasher().clone(), options));
    assert_eq!(offered(&auth, &private), "PLAIN");
    assert!(auth.begin("LOGIN", private.clone()).is_none());
    let mut plain = auth.begin("Plain", private).unwrap();
    assert_eq!(plain.start(None).await, Progress::Challenge(Vec::new()));
    assert!(matches!(plain.step(b"\0joe\0joe's password").await, Progress::Done(_)));
    assert_eq!(plain.step(b"\0joe\0joe's password").await, Progress::Failed(AuthError::Malformed));
}
