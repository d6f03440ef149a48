//! The whole of a login with real threads and real hashes.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use rookery_auth::{
    AccountState, Accounts, Attempt, AuthError, Authenticator, AuthenticatorOptions, Credential, HashParams,
    Hasher, HasherOptions, LookUp,
};
use rookery_types::UserName;

struct Joe {
    verifier: String,
}

impl Accounts for Joe {
    fn look_up<'a>(&'a self, user: &'a UserName) -> LookUp<'a> {
        let credential = Credential { verifier: Some(self.verifier.clone()), state: AccountState::Active };
        Box::pin(async move { Ok((user.local() == "joe").then_some(credential)) })
    }
}

fn attempt(password: &str) -> Attempt<'_> {
    let ip = Some([192, 0, 2, 1].into());
    Attempt { authzid: "", authcid: "joe", password: password.as_bytes(), ip, protocol: "imap" }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_right_password_is_answered_while_fifty_guess() {
    // A fifth of the default's work, so that an unoptimised build on a busy machine says something too.
    let params = HashParams { memory_kib: 8 * 1024, passes: 1, lanes: 1 };
    let options = HasherOptions { workers: 2, params, ..HasherOptions::default() };
    let hasher = Arc::new(Hasher::new(options).unwrap());
    let verifier = hasher.hash(b"right").await.unwrap();
    let options = AuthenticatorOptions::new("example.org");
    let auth = Arc::new(Authenticator::new(Arc::new(Joe { verifier }), hasher, options));
    let mut guessers = tokio::task::JoinSet::new();
    for n in 0..50 {
        let auth = Arc::clone(&auth);
        guessers.spawn(async move { auth.login(attempt(&format!("guess {n}"))).await });
    }
    tokio::task::yield_now().await;
    let before = Instant::now();
    let login = auth.login(attempt("right")).await.unwrap();
    let waited = before.elapsed();
    assert_eq!(login.user.as_str(), "joe@example.org");
    assert!(waited < Duration::from_secs(5), "{waited:?}");
    while let Some(guess) = guessers.join_next().await {
        assert_eq!(guess.unwrap(), Err(AuthError::Invalid));
    }
}
