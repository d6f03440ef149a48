//! Debian's etcd: members of one cluster on a loopback address, with TLS, certificates of clients and a password, each
//! to be killed and started again.

use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{self, run_command};

/// How long a cluster may take to come up.
const START_MAX: Duration = Duration::from_secs(60);
/// The password of etcd's user root.
const PASSWORD: &str = "of etcd";

/// A cluster. Its members end with it.
#[derive(Debug)]
pub struct Etcd {
    folder: tempfile::TempDir,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: String,
    client: String,
    peer: String,
    child: Option<Child>,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for child in self.members.iter_mut().filter_map(|member| member.child.as_mut()) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Etcd {
    /// Starts so many members on an address and waits until they answer. A port may be taken just before etcd takes it:
    /// then again.
    pub fn start(address: IpAddr, count: usize) -> Result<Etcd> {
        command::require("etcd")?;
        command::require("etcdctl")?;
        for _ in 0..5 {
            let mut etcd = Etcd::prepare(address, count)?;
            (0..count).try_for_each(|at| etcd.launch(at))?;
            if etcd.answers()? {
                etcd.ctl(None, &["user", "add", &format!("root:{PASSWORD}")])?;
                etcd.ctl(None, &["user", "grant-role", "root", "root"])?;
                etcd.ctl(None, &["auth", "enable"])?;
                return Ok(etcd);
            }
        }
        bail!("etcd does not start");
    }

    fn prepare(address: IpAddr, count: usize) -> Result<Etcd> {
        let folder = tempfile::Builder::new().prefix("rookery-etcd-").tempdir()?;
        make_certificates(folder.path(), address)?;
        // Held together, so that they differ, and let go for etcd to take.
        let held: Vec<TcpListener> =
            (0..2 * count).map(|_| TcpListener::bind((address, 0))).collect::<Result<_, _>>()?;
        let places = held.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
        let members = places.chunks(2).enumerate().map(|(n, pair)| Member {
            name: format!("m{n}"),
            client: pair.first().map(|at| format!("https://{at}")).unwrap_or_default(),
            peer: pair.last().map(|at| format!("http://{at}")).unwrap_or_default(),
            child: None,
        });
        Ok(Etcd { members: members.collect(), folder })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a member, again or for the first time.
    pub fn launch(&mut self, at: usize) -> Result<()> {
        let cluster: Vec<String> =
            self.members.iter().map(|member| format!("{}={}", member.name, member.peer)).collect();
        let (ca, cert, key) = (self.file("ca.pem"), self.file("member.pem"), self.file("member.key"));
        let log = std::fs::File::options().create(true).append(true).open(self.file("log"))?;
        let data = self.file(&format!("data{at}"));
        // Another cluster that gets one of these ports later is not to be taken for this one.
        let token = self.folder.path().display().to_string();
        let member = self.members.get_mut(at).context("no such member")?;
        let mut command = Command::new("etcd");
        command.args(["--name", &member.name]).arg("--data-dir").arg(data);
        command.args(["--listen-client-urls", &member.client, "--advertise-client-urls", &member.client]);
        command.args(["--listen-peer-urls", &member.peer, "--initial-advertise-peer-urls", &member.peer]);
        command.args(["--initial-cluster", &cluster.join(","), "--initial-cluster-token", &token]);
        command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(ca);
        command.arg("--cert-file").arg(cert).arg("--key-file").arg(key);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        member.child = Some(command.spawn()?);
        Ok(())
    }

    /// Whether all come up.
    fn answers(&mut self) -> Result<bool> {
        let until = Instant::now() + START_MAX;
        loop {
            for child in self.members.iter_mut().filter_map(|member| member.child.as_mut()) {
                if child.try_wait()?.is_some() {
                    return Ok(false);
                }
            }
            let health = |member: &Member| self.ctl(Some(&member.client), &["endpoint", "health"]).is_ok();
            if self.members.iter().all(health) {
                return Ok(true);
            }
            ensure!(Instant::now() < until, "etcd does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn ctl(&self, endpoint: Option<&str>, arguments: &[&str]) -> Result<String> {
        let all: Vec<&str> = self.members.iter().map(|member| member.client.as_str()).collect();
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", endpoint.unwrap_or(&all.join(","))]);
        command.arg("--cacert").arg(self.file("ca.pem")).arg("--cert").arg(self.file("client.pem"));
        command.arg("--key").arg(self.file("client.key")).args(arguments);
        let output = run_command(command, b"")?;
        ensure!(output.status.success(), "etcdctl {arguments:?}: {}", output.text());
        Ok(output.text())
    }

    /// The member that leads.
    pub fn leader(&self) -> Result<usize> {
        let user = format!("root:{PASSWORD}");
        let status = |member: &Member| -> Option<(u64, u64)> {
            let arguments = ["--user", &user, "endpoint", "status", "-w", "fields"];
            let text = self.ctl(Some(&member.client), &arguments).ok()?;
            let field = |name: &str| {
                let wanted = format!("\"{name}\" : ");
                text.lines().find_map(|line| line.strip_prefix(&wanted)?.trim().parse().ok())
            };
            Some((field("Leader")?, field("MemberID")?))
        };
        let leads = |member: &Member| status(member).is_some_and(|(leader, own)| leader == own);
        let running = |member: &Member| member.child.is_some();
        self.members.iter().position(|member| running(member) && leads(member)).context("nobody leads")
    }

    /// Kills a member.
    pub fn kill(&mut self, at: usize) -> Result<()> {
        let member = self.members.get_mut(at).context("no such member")?;
        let mut child = member.child.take().context("it does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// A member that runs.
    pub fn running(&self) -> Option<usize> {
        self.members.iter().position(|member| member.child.is_some())
    }

    /// What a node's configuration says of it; `with_certificate`: with the certificate that etcd asks for.
    pub fn config(&self, with_certificate: bool) -> Result<String> {
        let password = self.file("password");
        std::fs::write(&password, format!("{PASSWORD}\n"))?;
        let endpoints: Vec<String> =
            self.members.iter().map(|member| format!("\"{}\"", member.client)).collect();
        let show = |name: &str| self.file(name).display().to_string();
        let identity = match with_certificate {
            true => format!("cert = \"{}\"\nkey = \"{}\"\n", show("client.pem"), show("client.key")),
            false => String::new(),
        };
        Ok(format!(
            "[directory]\nsource = \"etcd\"\nendpoints = [{}]\nprefix = \"murder/\"\nca = \"{}\"\n{identity}\
             user = \"root\"\npassword_file = \"{}\"\n",
            endpoints.join(", "),
            show("ca.pem"),
            password.display(),
        ))
    }
}

/// An authority, and certificates of members and clients that it has signed.
fn make_certificates(folder: &Path, address: IpAddr) -> Result<()> {
    let path = |name: &str| folder.join(name).display().to_string();
    let new =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let (ca, ca_key) = (path("ca.pem"), path("ca.key"));
    let rest = ["-subj", "/CN=etcd authority", "-keyout", &ca_key, "-out", &ca];
    command::ok("openssl", &[&new[..], &rest[..]].concat(), b"")?;
    for name in ["member", "client"] {
        let names = format!("subjectAltName=IP:{address}");
        let (subject, key, cert) =
            (format!("/CN={name}"), path(&format!("{name}.key")), path(&format!("{name}.pem")));
        let rest = [
            "-CA",
            &ca,
            "-CAkey",
            &ca_key,
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &cert,
            "-addext",
            &names,
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-addext",
            "extendedKeyUsage=serverAuth,clientAuth",
        ];
        command::ok("openssl", &[&new[..], &rest[..]].concat(), b"")?;
    }
    Ok(())
}
