//! How long 1,000 distinct users take to log in with nothing cached, what memory that takes, and how late another
//! session's task runs meanwhile. `cargo run --release -p rookery-auth --example cold_logins [USERS] [CONNECTIONS]`
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rookery_auth::{
    AccountState, Accounts, Attempt, Authenticator, AuthenticatorOptions, Credential, Hasher, HasherOptions,
    LookUp,
};
use rookery_types::UserName;

struct Everybody(String);

impl Accounts for Everybody {
    fn look_up<'a>(&'a self, _: &'a UserName) -> LookUp<'a> {
        let credential = Credential { verifier: Some(self.0.clone()), state: AccountState::Active };
        Box::pin(async move { Ok(Some(credential)) })
    }
}

fn status(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap_or("?");
    line.trim_matches([':', '\t', ' ']).to_owned()
}

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1).map(|text| text.parse::<usize>().unwrap());
    let (users, connections) = (args.next().unwrap_or(1000), args.next().unwrap_or(50));
    let hasher = Arc::new(Hasher::new(HasherOptions::default()).unwrap());
    let verifier = hasher.hash(b"correct horse").await.unwrap();
    let options = AuthenticatorOptions::new("example.org");
    let auth = Arc::new(Authenticator::new(Arc::new(Everybody(verifier)), hasher, options));
    let (next, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let over = Arc::clone(&done);
    let other = tokio::spawn(async move {
        let mut late = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let due = Instant::now() + Duration::from_millis(5);
            tokio::time::sleep_until(due.into()).await;
            late.push(due.elapsed());
        }
        late.sort_unstable();
        late
    });
    let began = Instant::now();
    let mut sessions = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let (auth, next) = (Arc::clone(&auth), Arc::clone(&next));
        sessions.spawn(async move {
            loop {
                let user = next.fetch_add(1, Ordering::Relaxed);
                if user >= users {
                    return;
                }
                let (authcid, ip) = (format!("user{user}"), Some([192, 0, 2, 1].into()));
                let password = b"correct horse";
                let attempt = Attempt { authzid: "", authcid: &authcid, password, ip, protocol: "imap" };
                auth.login(attempt).await.unwrap();
            }
        });
    }
    while let Some(session) = sessions.join_next().await {
        session.unwrap();
    }
    let took = began.elapsed();
    done.store(true, Ordering::Relaxed);
    let late = other.await.unwrap();
    let at =
        |percent: usize| late.get(late.len() * percent / 100).or(late.last()).copied().unwrap_or_default();
    println!("{users} cold logins over {connections} connections in {:.1} s", took.as_secs_f64());
    println!("another task was late by {:?} (p50), {:?} (p99), {:?} (max)", at(50), at(99), at(100));
    println!("resident at most {}", status("VmHWM"));
}
