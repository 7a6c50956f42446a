//! Keeps a second mom away from a data directory by an abstract socket name in the kernel and a
//! lock on the directory's handle. Each alone has a gap. Whoever may open the directory, root in
//! the container too, can lock its handle while no mom runs. The container can't reach the name,
//! but any user of this machine can take it, and another network namespace does not see it. The
//! directory holds nothing that the agent could remove, and both end with the process.

use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{self, FlockOperation};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, UCred};
use rustix::process::test_kill_process;

use crate::base::error::{Error, Result};
use crate::base::stop::poll_for;

/// The name; the lock on the handle (`flock`) belongs to it.
#[derive(Debug)]
pub(super) struct Lock {
    /// `None`: another process has taken the name.
    _name: Option<UnixListener>,
}

/// How long the name may outlive a mom that was killed: a child that was between fork and exec at
/// that moment still holds a copy of the socket.
const ORPHANED_MAX: Duration = Duration::from_secs(1);
const ORPHANED_POLL: Duration = Duration::from_millis(10);

impl Lock {
    /// `path` is for messages.
    pub(super) fn take(root: &OwnedFd, path: &Path) -> Result<Lock> {
        let shown = path.display();
        let failed = |err: io::Error| Error::io("lock", path, &err);
        let stat = fs::fstat(root).map_err(|err| failed(err.into()))?;
        let name = format!("mom/{:x}/{:x}", stat.st_dev, stat.st_ino);
        let address = SocketAddr::from_abstract_name(&name).map_err(failed)?;
        let since = Instant::now();
        let (listener, owner) = loop {
            match UnixListener::bind_addr(&address) {
                Ok(listener) => break (Some(listener), None),
                Err(err) if err.kind() == io::ErrorKind::AddrInUse => {}
                Err(err) => return Err(failed(err)),
            }
            let owner = owner_of(&name);
            let is_orphaned =
                owner.is_some_and(|owner| test_kill_process(owner.pid) == Err(Errno::SRCH));
            if !is_orphaned || since.elapsed() > ORPHANED_MAX {
                break (None, owner);
            }
            poll_for(&mut [], Some(ORPHANED_POLL));
        };
        if let Some(owner) = owner.filter(|owner| owner.uid == rustix::process::getuid()) {
            let pid = owner.pid.as_raw_pid();
            return Err(Error::failed(format!(
                "another mom works on {shown}; stop that one first (process {pid})"
            )));
        }
        match fs::flock(root, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => Err(Error::failed(format!(
                "{} has locked {shown}: a mom in another container or network namespace, or a program \
                 in mom's own container; stop it (`lslocks` as root shows it, `mom-sandbox stop` \
                 ends what runs in the container)",
                lock_holder(stat.st_ino as u64)
            ))),
            Err(err) if listener.is_none() => Err(failed(err.into())),
            // Some network file systems do not have such locks.
            Ok(()) | Err(_) => Ok(Lock { _name: listener }),
        }
    }
}

/// The process that took an abstract name. Does not block when that accepts no connections.
fn owner_of(name: &str) -> Option<UCred> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    let address = net::SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?;
    net::connect(&socket, &address).ok()?;
    net::sockopt::socket_peercred(&socket).ok()
}

/// The process that has locked the directory with this inode, as /proc/locks shows it.
fn lock_holder(inode: u64) -> String {
    let locks = std::fs::read_to_string("/proc/locks").unwrap_or_default();
    let end = format!(":{inode}");
    // `1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF`
    let pid = locks.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let kind = words.next()?;
        let pid = words.nth(2)?;
        (kind == "FLOCK" && words.next()?.ends_with(&end)).then_some(pid)
    });
    match pid.filter(|pid| pid.parse().is_ok_and(|pid: u32| pid > 0)) {
        None => "something".to_owned(),
        Some(pid) => {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            format!("process {pid} ({})", name.trim())
        }
    }
}
