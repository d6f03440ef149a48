//! Listening sockets that a process is given: by a service manager that listens before the server runs, or by the
//! server's own predecessor, which ends and starts a new program in its place, or stays and starts it beside itself.
//!
//! Invariants:
//! - A socket that is handed over never stops listening: who connects meanwhile waits, and is not refused.
//! - A socket that nobody takes is closed.
//! - The line between a process and those that come after it ends with the process.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair, sockopt,
};

use crate::listener::{ListenSpec, Listener};
use crate::peer::Local;

/// Set for a program that finds sockets at its standard input.
const VARIABLE: &str = "ROOKERY_LISTENERS";
/// What a socket on its way is.
const LISTENER: u8 = b'L';
/// The end of the line to the process that all others descend from.
const LINE: u8 = b'K';
/// Sockets that are handed over at most.
const SOCKETS_MAX: usize = 256;

/// A socket held open beside the listener that serves it.
#[derive(Debug)]
pub struct Held {
    pub(crate) socket: OwnedFd,
    pub(crate) file: Option<Arc<SocketFile>>,
}

/// The file of a Unix socket, removed with the last that holds it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    pub(crate) path: PathBuf,
    pub(crate) id: Option<(u64, u64)>,
    /// Somebody else has it now.
    pub(crate) kept: AtomicBool,
}

/// Sockets on their way into the program that takes this process's place.
#[derive(Debug)]
pub struct Handover {
    receiver: OwnedFd,
}

impl Handover {
    /// Puts the sockets where the next program will find them. `line`: the next one's end of the line.
    pub fn new(sockets: Vec<Held>, line: Option<OwnedFd>) -> io::Result<Handover> {
        let (sender, receiver) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        if let Some(line) = line {
            put(&sender, LINE, &line)?;
        }
        for Held { socket, file } in sockets.into_iter().take(SOCKETS_MAX) {
            put(&sender, LISTENER, &socket)?;
            if let Some(file) = file {
                file.kept.store(true, Ordering::Relaxed);
            }
        }
        Ok(Handover { receiver })
    }

    /// Becomes `program`, which has this process's id and finds the sockets with [`Inherited::take_all`]. Returns only if
    /// that fails. Destructors do not run: call it when everything else is closed.
    pub fn exec(self, mut program: Command) -> io::Error {
        use std::os::unix::process::CommandExt;
        if let Err(error) = rustix::stdio::dup2_stdin(&self.receiver) {
            return error.into();
        }
        tell(&mut program);
        program.exec()
    }

    /// Starts `program` beside this process, with the sockets.
    pub fn spawn(self, mut program: Command) -> io::Result<Child> {
        tell(&mut program);
        program.stdin(Stdio::from(self.receiver)).spawn()
    }
}

/// Sends one socket with a word on what it is.
fn put(sender: &OwnedFd, kind: u8, socket: &OwnedFd) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [std::os::fd::AsFd::as_fd(socket)];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    // A full queue is an error, not a wait: nobody reads yet.
    sendmsg(sender, &[IoSlice::new(&[kind])], &mut ancillary, SendFlags::DONTWAIT)?;
    Ok(())
}

/// Says to a program where its sockets are.
fn tell(program: &mut Command) {
    program.env(VARIABLE, "stdin");
    // Sockets of a service manager were taken at the start, and are among those handed over.
    for name in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
        program.env_remove(name);
    }
}

/// Sockets that this process was given and that wait to be taken.
#[derive(Default)]
pub struct Inherited {
    listeners: Vec<Listener>,
    line: Option<OwnedFd>,
}

impl fmt::Debug for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.places()).finish()
    }
}

impl Inherited {
    /// All that were given to this process, by a service manager (`sd_listen_fds`) or by a predecessor. To be called
    /// once, early, in the runtime that will serve them.
    pub fn take_all() -> io::Result<Inherited> {
        let (mut listeners, mut line) = (Vec::new(), None);
        if std::env::var_os(VARIABLE).is_some() {
            receive(&mut listeners, &mut line)?;
        }
        let mut given = listenfd::ListenFd::from_env();
        for at in 0..given.len().min(SOCKETS_MAX) {
            // What is no TCP listener is left there, and may be a Unix one.
            if let Ok(Some(socket)) = given.take_tcp_listener(at) {
                listeners.push(Listener::from_tcp(socket)?);
            } else if let Ok(Some(socket)) = given.take_unix_listener(at) {
                listeners.push(Listener::from_unix(socket)?);
            }
        }
        Ok(Inherited { listeners, line })
    }

    /// This process's end of the line, if another one started it and stays.
    pub fn take_line(&mut self) -> Option<OwnedFd> {
        self.line.take()
    }

    /// The one that listens at this place.
    pub fn take(&mut self, spec: &ListenSpec) -> Option<Listener> {
        let is_there = |listener: &Listener| match (listener.local(), spec) {
            (Ok(Local::Ip(address)), ListenSpec::Tcp(wanted)) => address == *wanted,
            (Ok(Local::Unix(path)), ListenSpec::Unix(wanted)) => path == *wanted,
            _ => false,
        };
        let at = self.listeners.iter().position(is_there)?;
        Some(self.listeners.swap_remove(at))
    }

    /// Where those listen that were not taken.
    pub fn places(&self) -> Vec<Local> {
        self.listeners.iter().filter_map(|listener| listener.local().ok()).collect()
    }
}

/// What a predecessor put into standard input, which is closed thereafter.
fn receive(listeners: &mut Vec<Listener>, line: &mut Option<OwnedFd>) -> io::Result<()> {
    let stdin = rustix::stdio::stdin();
    while listeners.len() <= SOCKETS_MAX {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut octet = [0u8; 1];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(stdin, &mut [IoSliceMut::new(&mut octet)], &mut ancillary, flags)?;
        if got.bytes == 0 {
            break;
        }
        for message in ancillary.drain() {
            let RecvAncillaryMessage::ScmRights(sockets) = message else { continue };
            for socket in sockets {
                if octet == [LINE] {
                    *line = Some(socket);
                    continue;
                }
                listeners.push(match sockopt::socket_domain(&socket)? {
                    AddressFamily::UNIX => Listener::from_unix_with_file(socket.into())?,
                    _ => Listener::from_tcp(socket.into())?,
                });
            }
        }
    }
    let nothing = std::fs::File::open("/dev/null")?;
    Ok(rustix::stdio::dup2_stdin(&nothing)?)
}
