//! etcd itself, as Debian has it, on loopback.

use crate::following::{following, make, records, sound, until};
use crate::world::{Work, World, engine};
use rookery_directory::source::Source;
use rookery_directory::{Directory, EtcdOptions, EtcdSource, Following};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long etcd may take to come up.
const START_MAX: Duration = Duration::from_secs(60);

/// Some members of one cluster; they end with it.
pub(crate) struct Etcd {
    members: Vec<(Child, String)>,
    _folder: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for (member, _) in &mut self.members {
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

/// Free ports of an address: they are held together, so that they differ, and let go for etcd to take.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// In memory, if there is room: who asks a source without a directory before it has to be answered, and a disk that is
/// busy with other things makes etcd take longer than is waited for.
fn folder() -> tempfile::TempDir {
    const MEMORY: &str = "/dev/shm";
    const KIB_NEEDED: u64 = 2 << 20;
    let df = Command::new("df").args(["--output=avail", "-k", MEMORY]).stderr(Stdio::null()).output();
    let free = df.ok().and_then(|df| String::from_utf8(df.stdout).ok());
    let free = free.and_then(|text| text.lines().last()?.trim().parse::<u64>().ok());
    match free.is_some_and(|kib| kib >= KIB_NEEDED) {
        true => tempfile::tempdir_in(MEMORY).unwrap(),
        false => tempfile::tempdir().unwrap(),
    }
}

fn etcdctl(endpoint: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").arg("--endpoints").arg(endpoint).args(arguments);
    let output = command.stderr(Stdio::null()).output().expect("etcdctl is installed (Debian: etcd-client)");
    output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
}

impl Etcd {
    /// Starts a cluster and waits until each member answers. A port may be taken just before etcd takes it: then
    /// again.
    pub(crate) fn start(members: usize) -> Etcd {
        for _ in 0..5 {
            if let Some(etcd) = Etcd::try_start(members) {
                return etcd;
            }
        }
        panic!("etcd does not start");
    }

    fn try_start(count: usize) -> Option<Etcd> {
        let folder = folder();
        let ports = free_ports(2 * count);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let cluster: Vec<_> = (0..count).map(|n| format!("m{n}={}", url(ports[2 * n + 1]))).collect();
        let cluster = cluster.join(",");
        let members = (0..count).map(|n| {
            let (client, peer) = (url(ports[2 * n]), url(ports[2 * n + 1]));
            let mut command = Command::new("etcd");
            command.arg("--name").arg(format!("m{n}"));
            command.arg("--data-dir").arg(folder.path().join(n.to_string()));
            command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
            command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
            command.args([
                "--initial-cluster",
                &cluster,
                "--initial-cluster-token",
                &format!("t{}", ports[0]),
            ]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            (command.spawn().expect("etcd is installed (Debian: etcd-server)"), client)
        });
        let mut etcd = Etcd { members: members.collect(), _folder: folder };
        let until = Instant::now() + START_MAX;
        loop {
            if etcd.members.iter_mut().any(|(member, _)| member.try_wait().unwrap().is_some()) {
                return None;
            }
            let health = |endpoint: &String| etcdctl(endpoint, &["endpoint", "health"]).is_some();
            if etcd.endpoints().iter().all(health) {
                return Some(etcd);
            }
            assert!(Instant::now() < until, "etcd does not answer");
            std::thread::yield_now();
        }
    }

    fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|(_, endpoint)| endpoint.clone()).collect()
    }

    /// A number of the state of a member.
    fn status(&self, endpoint: &str, field: &str) -> Option<u64> {
        let status = etcdctl(endpoint, &["endpoint", "status", "-w", "fields"])?;
        let wanted = format!("\"{field}\" : ");
        status.lines().find_map(|line| line.strip_prefix(&wanted)?.trim().parse().ok())
    }

    /// Kills the member that leads.
    fn kill_the_leader(&mut self) {
        let leads = |endpoint: &String| {
            let (leader, member) = (self.status(endpoint, "Leader"), self.status(endpoint, "MemberID"));
            leader.is_some() && leader == member
        };
        let leader = self.members.iter().position(|(_, endpoint)| leads(endpoint)).unwrap();
        let (mut member, _) = self.members.remove(leader);
        member.kill().unwrap();
        member.wait().unwrap();
    }
}

impl World for Etcd {
    fn source(&self) -> Arc<dyn Source> {
        source(&self.endpoints())
    }

    fn compact(&self) -> Work<'_> {
        Box::pin(async move {
            let endpoint = &self.members[0].1;
            let revision = self.status(endpoint, "Revision").unwrap();
            etcdctl(endpoint, &["compact", "--physical", &revision.to_string()]).unwrap();
        })
    }
}

fn source(endpoints: &[String]) -> Arc<dyn Source> {
    let endpoints = endpoints.to_vec();
    let options = EtcdOptions { endpoints, prefix: "test/directory/".to_owned(), ..EtcdOptions::default() };
    Arc::new(EtcdSource::new(options).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_survives_the_leader() {
    let mut etcd = Etcd::start(3);
    let endpoints = etcd.endpoints();
    let (one, two) = (engine(), engine());
    let a = following(&one, source(&endpoints)).await;
    let b = following(&two, source(&endpoints)).await;
    a.add_domain("x.test".to_owned()).await.unwrap();
    make(&a, "user/before@x.test").await;
    let changing = tokio::spawn({
        let (a, b) = (a.clone(), b.clone());
        async move {
            let mut made = Vec::new();
            for n in 0..60 {
                // Through the change of leaders every change is known to be done, after a while.
                let directory = if n % 2 == 0 { &a } else { &b };
                made.push(make(directory, &format!("user/u{n}@x.test")).await);
            }
            made
        }
    });
    a.subscribe().wait_for(|revision| *revision > 10).await.unwrap();
    etcd.kill_the_leader();
    let made = changing.await.unwrap();
    for directory in [&a, &b] {
        until(directory, |now| *now == Following::Following).await;
        directory.barrier().await.unwrap();
        for entry in &made {
            assert_eq!(directory.look_up(&entry.name).await.unwrap(), *entry);
        }
    }
    assert_eq!(records(&one), records(&two));
    sound(&one);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_keep_in_etcd_holds_up_no_barrier() {
    let etcd = Etcd::start(1);
    let engine = engine();
    let directory = following(&engine, etcd.source()).await;
    directory.add_domain("x.test".to_owned()).await.unwrap();
    etcdctl(&etcd.endpoints()[0], &["put", "else/where", "1"]).unwrap();
    let revision = etcd.source().head().await.unwrap().revision;
    assert!(directory.barrier().await.unwrap() >= revision);
    assert!(directory.position().unwrap().revision >= revision);
}
