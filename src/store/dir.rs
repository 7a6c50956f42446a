//! The data directory, opened once: every path is looked up beneath it by the kernel
//! (openat2, RESOLVE_BENEATH), so that no link, `..` or directory swapped meanwhile leads
//! out of it. Only regular files are read and written: a FIFO or a device in place of one is
//! recognised before it is opened, since opening alone may hang, or act.
//!
//! Paths are relative, with `/` between names. A link that stays beneath is followed.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::FileExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{self, AtFlags, FileType, FlockOperation, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, UCred};

use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::time;

#[derive(Debug)]
pub(crate) struct Dir {
    root: Mutex<Root>,
    /// Of the owner's choosing, like what is put there: it is opened again when the
    /// directory that was there is no more.
    path: PathBuf,
    /// Held from the look at a file's last byte to the end of the write.
    appending: Arc<Mutex<()>>,
    /// See `take_set_aside`.
    set_aside: Mutex<Vec<(String, String)>>,
}

/// Names of which someone is still to be told.
const SET_ASIDE_MAX: usize = 100;

#[derive(Debug)]
struct Root {
    handle: Arc<OwnedFd>,
    /// Held, when it is, with the `flock` on `handle`: see `Dir::lock`.
    lock: Option<Lock>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
    /// FIFO, device, socket, or a link that leads nowhere or out.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) kind: Kind,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) bytes: u64,
    pub(crate) modified_ns: i128,
    pub(crate) links: u64,
    /// Also moves when a link, a name or a mode changes; says nothing about the content, so
    /// it does not count when two are compared.
    pub(crate) changed_ns: i128,
}

impl PartialEq for Stamp {
    fn eq(&self, other: &Stamp) -> bool {
        let content = |stamp: &Stamp| {
            (
                stamp.kind,
                stamp.device,
                stamp.inode,
                stamp.bytes,
                stamp.modified_ns,
                stamp.links,
            )
        };
        content(self) == content(other)
    }
}

impl Eq for Stamp {}

impl Stamp {
    /// Milliseconds since 1970.
    pub(crate) fn modified_ms(&self) -> i64 {
        (self.modified_ns / 1_000_000) as i64
    }

    /// When the file came to where it is, or its content, whatever its times were set to.
    pub(crate) fn changed_ms(&self) -> i64 {
        (self.changed_ns / 1_000_000) as i64
    }
}

impl Dir {
    /// Makes the data directory where it is missing.
    pub(crate) fn make_root(path: &Path) -> Result<()> {
        std::fs::create_dir_all(path).map_err(|err| no_root(path, &err))
    }

    /// Whether `make_root` could: makes the first that is missing, and takes it away again.
    pub(crate) fn try_root(path: &Path) -> Result<()> {
        let missing = path.ancestors().take_while(|path| !path.exists());
        // A relative one ends with the empty path, which is here.
        let missing = missing.filter(|path| !path.as_os_str().is_empty()).last();
        missing.map_or(Ok(()), |missing| {
            let made = std::fs::create_dir(missing).and_then(|()| std::fs::remove_dir(missing));
            made.map_err(|err| no_root(path, &err))
        })
    }

    /// # Errors
    /// Also when the kernel has no openat2: nothing would keep mom inside then.
    pub(crate) fn open(path: &Path) -> Result<Dir> {
        let root = open_root(path).map_err(|err| match path.is_file() {
            true => is_a_file(path),
            false => Error::io("open", path, &err.into()),
        })?;
        let dir = Dir {
            root: Mutex::new(Root {
                handle: Arc::new(root),
                lock: None,
            }),
            path: path.to_owned(),
            appending: Arc::default(),
            set_aside: Mutex::default(),
        };
        dir.open_dir(".").map_err(|err| {
            Error::failed(format!(
                "{err}; mom keeps inside its directory by openat2: Linux 5.6 or newer has it, \
                 and a seccomp filter must let it pass"
            ))
        })?;
        Ok(dir)
    }

    /// The directory itself; the one in its place when it was removed.
    ///
    /// # Errors
    /// `STALE`: there is none, or another mom has it.
    pub(crate) fn root(&self) -> rustix::io::Result<Arc<OwnedFd>> {
        let mut root = self.root.lock().unwrap();
        if fs::fstat(&root.handle)?.st_nlink == 0 {
            let handle = open_root(&self.path).map_err(|_| Errno::STALE)?;
            if root.lock.is_some() {
                root.lock = Some(Lock::take(&handle, &self.path).map_err(|_| Errno::STALE)?);
            }
            root.handle = Arc::new(handle);
            log::warning!(
                "",
                "the data directory was removed; I go on in the new {}. A container still has \
                 the old one: stop it and start it again",
                self.path.display()
            );
        }
        Ok(root.handle.clone())
    }

    fn openat2(&self, path: &str, flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let root = self.root()?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut flags = flags | OFlags::CLOEXEC;
        // openat2 refuses these beside O_PATH.
        if !flags.contains(OFlags::PATH) {
            flags |= OFlags::NONBLOCK | OFlags::NOCTTY;
        }
        let mode = match flags.contains(OFlags::CREATE) {
            true => Mode::from_raw_mode(0o666),
            false => Mode::empty(),
        };
        // AGAIN: something was renamed under the look-up.
        for _ in 0..100 {
            match fs::openat2(&root, path, flags, mode, resolve) {
                Err(Errno::AGAIN | Errno::INTR) => {}
                done => return done,
            }
        }
        Err(Errno::AGAIN)
    }

    /// A file or directory of any kind, or `None` when it is missing.
    fn look_up(&self, path: &str, flags: OFlags) -> Result<Option<OwnedFd>> {
        match self.openat2(path, flags) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(err) => Err(self.io("open", path, err)),
        }
    }

    /// A regular file; `None` when it is missing. Looks first and then opens what it looked
    /// at, whatever is at `path` by now.
    fn open_file(&self, path: &str, flags: OFlags) -> Result<Option<File>> {
        let Some(handle) = self.look_up(path, OFlags::PATH)? else {
            return Ok(None);
        };
        let stat = fs::fstat(&handle).map_err(|err| self.io("open", path, err))?;
        if kind(FileType::from_raw_mode(stat.st_mode)) != Kind::File {
            return Err(self.failed("open", path, "it is not a regular file"));
        }
        let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let handle = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let file = fs::open(&*handle, flags, Mode::empty());
        Ok(Some(File::from(
            file.map_err(|err| self.io("open", path, err))?,
        )))
    }

    /// Likewise, made when it is missing.
    fn open_or_make(&self, path: &str, flags: OFlags) -> Result<File> {
        // Once more for each time that someone made it, or took it away, in between.
        for _ in 0..100 {
            if let Some(file) = self.open_file(path, flags)? {
                return Ok(file);
            }
            match self.openat2(path, flags | OFlags::CREATE | OFlags::EXCL) {
                Ok(fd) => return Ok(File::from(fd)),
                // LOOP: a link, which O_EXCL does not follow.
                Err(Errno::EXIST | Errno::LOOP) => {}
                Err(err) => return Err(self.io("make", path, err)),
            }
        }
        Err(self.failed("open", path, "it is a link that leads nowhere"))
    }

    /// The first `bytes_max` bytes of a regular file; `None` when it is missing.
    pub(crate) fn read_head(&self, path: &str, bytes_max: usize) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.open_file(path, OFlags::RDONLY)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(bytes_max as u64)
            .read_to_end(&mut bytes)
            .map_err(|err| Error::io("read", self.path.join(path), &err))?;
        Ok(Some(bytes))
    }

    /// The lines of a file of mom's own from its end back to byte `floor`; see `LinesBack`.
    /// What is no regular file there is set aside.
    pub(crate) fn lines_back(&self, path: &str, floor: Floor) -> Result<Option<LinesBack>> {
        let open = || self.open_file(path, OFlags::RDONLY);
        let file = open().or_else(|err| {
            if self.set_aside(path) {
                open()
            } else {
                Err(err)
            }
        });
        let Some(file) = file? else {
            return Ok(None);
        };
        LinesBack::new(file, self.path.join(path), floor).map(Some)
    }

    /// A regular file to be read from its start; `None` when it is missing.
    pub(crate) fn read(&self, path: &str) -> Result<Option<File>> {
        self.open_file(path, OFlags::RDONLY)
    }

    /// Gives a new name to something that is no regular file, or that leads out of the data
    /// directory; `take_set_aside` tells of it. False: it is none such, or it stays.
    pub(crate) fn set_aside(&self, path: &str) -> bool {
        let is_absent = || matches!(self.stamp_link(path), Ok(None));
        match self.stamp(path) {
            Ok(Some(stamp)) if stamp.kind == Kind::File => return false,
            Ok(None) if is_absent() => return false,
            _ => {}
        }
        let name = path.rsplit('/').next().unwrap_or(path);
        let aside = format!("{name}.set-aside-{}", time::now_ms());
        if let Err(err) = self.rename(path, &aside) {
            log::warning!("", "{path} is not a regular file, and {err}");
            return false;
        }
        log::warning!(
            "",
            "{path} was not a regular file; it is now {aside}, and I go on with a new one"
        );
        let mut set_aside = self.set_aside.lock().unwrap();
        set_aside.truncate(SET_ASIDE_MAX);
        set_aside.push((path.to_owned(), aside));
        true
    }

    /// Paths below `dir` that were set aside since the last call, and their new names.
    pub(crate) fn take_set_aside(&self, dir: &str) -> Vec<(String, String)> {
        let mut all = self.set_aside.lock().unwrap();
        let is_in = |path: &str| {
            path.strip_prefix(dir)
                .is_some_and(|rest| rest.starts_with('/'))
        };
        let (found, others) = std::mem::take(&mut *all)
            .into_iter()
            .partition(|(path, _)| is_in(path));
        *all = others;
        found
    }

    /// Adds whole lines to a file (made when missing) with one write. `first` comes before
    /// them in an empty file. A line that was cut short by a crash is ended first. Survives
    /// kill -9 when it returns, and a power cut after `Appended::sync`.
    ///
    /// # Errors
    /// Nothing was added then, as far as the disk lets that be undone.
    pub(crate) fn append(&self, path: &str, first: &str, lines: &str) -> Result<Appended> {
        let open = || self.open_or_make(path, OFlags::RDWR | OFlags::APPEND);
        let file = open().or_else(|err| {
            if self.set_aside(path) {
                open()
            } else {
                Err(err)
            }
        })?;
        let _one_writer = self.appending.lock().unwrap();
        let mut appended = Appended {
            file,
            path: self.path.join(path),
            before: 0,
            end: 0,
            appending: self.appending.clone(),
        };
        let fail = |err: io::Error| Error::io("write", self.path.join(path), &err);
        appended.before = appended.file.metadata().map_err(fail)?.len();
        appended.end = appended.before;
        let mut last = [b'\n'];
        if let Some(at) = appended.before.checked_sub(1) {
            appended.file.read_exact_at(&mut last, at).map_err(fail)?;
        }
        let start = match last {
            [b'\n'] if appended.before == 0 => first,
            [b'\n'] => "",
            _ => "\n",
        };
        let text = format!("{start}{lines}");
        let mut rest = text.as_bytes();
        while !rest.is_empty() {
            match appended.file.write(rest) {
                Ok(count) if count > 0 => {
                    appended.end += count as u64;
                    rest = rest.get(count..).unwrap_or_default();
                }
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                failed => {
                    let err = failed.err().unwrap_or(io::ErrorKind::WriteZero.into());
                    return Err(appended.undo(&err));
                }
            }
        }
        if appended.before == 0 {
            self.sync_parent(path)?;
        }
        Ok(appended)
    }

    /// A new file to write to and read; `None` when the name is taken, by a link too.
    pub(crate) fn create(&self, path: &str) -> Result<Option<File>> {
        let (parent, name) = self.parent(path)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        match fs::openat(&parent, name, flags, Mode::from_raw_mode(0o666)) {
            Ok(fd) => Ok(Some(File::from(fd))),
            Err(Errno::EXIST) => Ok(None),
            Err(err) => Err(self.io("make", path, err)),
        }
    }

    /// Refuses when another mom on this machine has it. Nothing is left in the directory that
    /// the agent could remove, and the lock goes with the process.
    pub(crate) fn lock(&self) -> Result<()> {
        let mut root = self.root.lock().unwrap();
        root.lock = Some(Lock::take(&root.handle, &self.path)?);
        Ok(())
    }

    /// At most `max` entries of a directory, sorted by name, names that are not UTF-8 left
    /// out; `None` when it is missing.
    pub(crate) fn list(&self, path: &str, max: usize) -> Result<Option<Vec<Entry>>> {
        let Some(fd) = self.open_dir(path)? else {
            return Ok(None);
        };
        let entries = fs::Dir::read_from(&fd).map_err(|err| self.io("list", path, err))?;
        let mut out = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|err| self.io("list", path, err))?;
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if matches!(name, "." | "..") {
                continue;
            }
            if out.len() >= max {
                break;
            }
            let kind = match entry.file_type() {
                FileType::Symlink | FileType::Unknown => self
                    .stamp(&format!("{path}/{name}"))
                    .ok()
                    .flatten()
                    .map_or(Kind::Other, |stamp| stamp.kind),
                file_type => kind(file_type),
            };
            out.push(Entry {
                name: name.to_owned(),
                kind,
            });
        }
        out.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Some(out))
    }

    /// Of what `path` leads to, links followed; `None` when it is missing.
    pub(crate) fn stamp(&self, path: &str) -> Result<Option<Stamp>> {
        self.stamp_with(path, OFlags::PATH)
    }

    /// Likewise, but of a link itself (`Kind::Other`).
    pub(crate) fn stamp_link(&self, path: &str) -> Result<Option<Stamp>> {
        self.stamp_with(path, OFlags::PATH | OFlags::NOFOLLOW)
    }

    fn stamp_with(&self, path: &str, flags: OFlags) -> Result<Option<Stamp>> {
        let Some(fd) = self.look_up(path, flags)? else {
            return Ok(None);
        };
        let stat: Stat = fs::fstat(&fd).map_err(|err| self.io("look at", path, err))?;
        Ok(Some(Stamp {
            kind: kind(FileType::from_raw_mode(stat.st_mode)),
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            bytes: stat.st_size as u64,
            modified_ns: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
            links: stat.st_nlink as u64,
            changed_ns: i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec),
        }))
    }

    /// For reading or watching; `None` when it is missing or no directory.
    pub(crate) fn open_dir(&self, path: &str) -> Result<Option<OwnedFd>> {
        self.look_up(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    pub(crate) fn make_dir(&self, path: &str) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        match fs::mkdirat(&parent, name, Mode::from_raw_mode(0o777)) {
            Ok(()) => fs::fsync(&parent).map_err(|err| self.io("make", path, err)),
            Err(Errno::EXIST) => Ok(()),
            Err(err) => Err(self.io("make", path, err)),
        }
    }

    /// Replaces a file by way of a temporary name in the same directory.
    pub(crate) fn replace(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let parent = self.put(path, bytes, File::sync_data)?;
        fs::fsync(&parent).map_err(|err| self.io("write", path, err))
    }

    /// The same for what a power cut may take: nothing waits for the disk.
    pub(crate) fn replace_unsynced(&self, path: &str, bytes: &[u8]) -> Result<()> {
        self.put(path, bytes, |_| Ok(())).map(drop)
    }

    /// Returns the directory it is in.
    fn put(
        &self,
        path: &str,
        bytes: &[u8],
        settle: fn(&File) -> std::io::Result<()>,
    ) -> Result<OwnedFd> {
        let (parent, name) = self.parent(path)?;
        let temporary = format!(".{name}.tmp");
        let write = || -> std::io::Result<()> {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            // Left over from a crash, or planted.
            fs::unlinkat(&parent, &*temporary, AtFlags::empty()).ok();
            let mut file = File::from(fs::openat(
                &parent,
                &*temporary,
                flags,
                Mode::from_raw_mode(0o666),
            )?);
            file.write_all(bytes)?;
            settle(&file)?;
            Ok(fs::renameat(&parent, &*temporary, &parent, name)?)
        };
        write().map_err(|err| Error::io("write", self.path.join(path), &err))?;
        Ok(parent)
    }

    /// Both in the same directory; a link is renamed itself, what is there is replaced.
    pub(crate) fn rename(&self, path: &str, new_name: &str) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        fs::renameat(&parent, name, &parent, new_name).map_err(|err| self.io("rename", path, err))
    }

    /// A file or a link; missing is fine.
    pub(crate) fn remove(&self, path: &str) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        match fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(err) => Err(self.io("remove", path, err)),
        }
    }

    fn parent<'a>(&self, path: &'a str) -> Result<(OwnedFd, &'a str)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let parent = self
            .open_dir(parent)?
            .ok_or_else(|| self.io("open", parent, Errno::NOENT))?;
        Ok((parent, name))
    }

    /// So that a new name survives a power cut, too.
    fn sync_parent(&self, path: &str) -> Result<()> {
        let (parent, _) = self.parent(path)?;
        fs::fsync(&parent).map_err(|err| self.io("write", path, err))
    }

    fn io(&self, verb: &str, path: &str, err: Errno) -> Error {
        match err {
            Errno::XDEV | Errno::LOOP => self.failed(
                verb,
                path,
                "it is a link that leads out of the data directory",
            ),
            Errno::AGAIN => self.failed(verb, path, "it is being moved all the time"),
            Errno::STALE => Error::failed(format!(
                "the data directory {} is gone; put it back, or make it anew, and I go on",
                self.path.display()
            )),
            err => Error::io(verb, self.path.join(path), &err.into()),
        }
    }

    fn failed(&self, verb: &str, path: &str, why: &str) -> Error {
        Error::failed(format!(
            "cannot {verb} {}: {why}",
            self.path.join(path).display()
        ))
    }
}

fn is_a_file(path: &Path) -> Error {
    let shown = path.display();
    Error::failed(format!(
        "{shown} is a file; name a directory, for instance: mom ./data"
    ))
}

fn no_root(path: &Path, err: &io::Error) -> Error {
    if path.is_file() {
        return is_a_file(path);
    }
    Error::failed(format!(
        "cannot make the data directory {}: {err}; name one that you may write to",
        path.display()
    ))
}

fn open_root(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    fs::open(path, flags, Mode::empty())
}

/// What keeps a second mom away beside the lock on the directory's handle: a name in the
/// kernel. Each alone has a gap. Whoever may open the directory can lock its handle, root in
/// the container too, while no mom runs. The name is out of the container's reach, but any
/// user of this machine can take it, and another network namespace does not see it.
#[derive(Debug)]
struct Lock {
    /// `None`: someone else has taken it.
    _name: Option<UnixListener>,
}

impl Lock {
    /// `path` is for messages.
    fn take(root: &OwnedFd, path: &Path) -> Result<Lock> {
        let shown = path.display();
        let failed = |err: io::Error| Error::io("lock", path, &err);
        let stat = fs::fstat(root).map_err(|err| failed(err.into()))?;
        let name = format!("mom/{:x}/{:x}", stat.st_dev, stat.st_ino);
        let address = SocketAddr::from_abstract_name(&name).map_err(failed)?;
        let listener = match UnixListener::bind_addr(&address) {
            Ok(listener) => Some(listener),
            Err(err) if err.kind() == io::ErrorKind::AddrInUse => None,
            Err(err) => return Err(failed(err)),
        };
        let owner = match listener {
            Some(_) => None,
            None => owner_of(&name),
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
                 in mom's own container; stop it (`lslocks` as root shows it, `./docker.sh stop` \
                 ends what runs in the container)",
                lock_holder(stat.st_ino as u64)
            ))),
            Err(err) if listener.is_none() => Err(failed(err.into())),
            // Not every network file system has such locks.
            Ok(()) | Err(_) => Ok(Lock { _name: listener }),
        }
    }
}

/// The process that took an abstract name. Does not wait when it takes no connections.
fn owner_of(name: &str) -> Option<UCred> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    let address = net::SocketAddrUnix::new_abstract_name(name.as_bytes()).ok()?;
    net::connect(&socket, &address).ok()?;
    net::sockopt::socket_peercred(&socket).ok()
}

/// The process that has locked the directory of this inode, by /proc/locks.
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

/// Lines that are in the file, but perhaps not yet on the disk.
#[derive(Debug)]
pub(crate) struct Appended {
    file: File,
    path: PathBuf,
    /// Length of the file before and after.
    before: u64,
    end: u64,
    appending: Arc<Mutex<()>>,
}

impl Appended {
    /// # Errors
    /// The lines are taken back: whoever failed will come again with them.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|err| {
            let _one_writer = self.appending.lock().unwrap();
            self.undo(&err)
        })
    }

    /// Likewise, with all that was written to the file before; but nothing is taken back.
    pub(crate) fn settle(&self) -> Result<()> {
        let synced = self.file.sync_data();
        synced.map_err(|err| Error::io("write", &self.path, &err))
    }

    /// As if they had never been written.
    pub(crate) fn take_back(self) {
        let _one_writer = self.appending.lock().unwrap();
        self.undo(&io::ErrorKind::Other.into());
    }

    /// Length of the file with them.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Unless somebody wrote behind them. `appending` is held.
    fn undo(&self, err: &io::Error) -> Error {
        if (self.file.metadata()).is_ok_and(|meta| meta.len() == self.end) {
            // A torn line that stays is ended by the next append.
            self.file.set_len(self.before).ok();
        }
        Error::io("write", &self.path, err)
    }
}

/// Where `LinesBack` ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Floor {
    /// The byte where a line begins.
    At(u64),
    /// So many bytes before the end; what is cut there is left out.
    Last(u64),
}

/// Lines without their newline, last one first, empty ones left out. A last line that was
/// cut short comes too: readers skip what does not parse. Holds one line at a time.
pub(crate) struct LinesBack {
    file: File,
    path: PathBuf,
    floor: u64,
    /// Of what was read so far.
    start: u64,
    end: Option<u64>,
    line_end: u64,
    /// The file's bytes from `start` on that no line was made of yet.
    carry: Vec<u8>,
}

impl LinesBack {
    /// `path` is for messages.
    pub(crate) fn new(file: File, path: PathBuf, floor: Floor) -> Result<LinesBack> {
        let meta = file.metadata();
        let end = meta.map_err(|err| Error::io("read", &path, &err))?.len();
        let floor = match floor {
            Floor::At(at) => at,
            Floor::Last(bytes) => end.saturating_sub(bytes),
        };
        Ok(LinesBack {
            file,
            path,
            floor: floor.min(end),
            start: end,
            end: None,
            line_end: end,
            carry: Vec::new(),
        })
    }

    /// The byte behind the last newline, once a line was asked for. What stands there is
    /// torn, or being written just now.
    pub(crate) fn end(&self) -> u64 {
        self.end.unwrap_or(self.floor)
    }

    /// The byte behind the newline of the line that came last.
    pub(crate) fn line_end(&self) -> u64 {
        self.line_end
    }

    /// Goes on with the line that ends before byte `to`, and at most `bytes` further back.
    pub(crate) fn jump(&mut self, to: u64, bytes: u64) {
        if to <= self.start {
            self.start = to;
            self.floor = to.saturating_sub(bytes);
            self.carry.clear();
        }
    }
}

impl Iterator for LinesBack {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Result<Vec<u8>>> {
        const CHUNK: u64 = 64 * 1024;
        // Of `carry`, where a newline may be.
        let mut unseen = self.carry.len();
        loop {
            let newline = self.carry[..unseen].iter().rposition(|b| *b == b'\n');
            let at = match newline {
                Some(at) => {
                    self.end.get_or_insert(self.start + at as u64 + 1);
                    at + 1
                }
                // A line begins where the file does, and at a floor that follows a newline.
                None if self.start == self.floor && !self.carry.is_empty() => {
                    let mut before = [b'\n'];
                    if self.floor > 0 {
                        self.file.read_exact_at(&mut before, self.floor - 1).ok();
                    }
                    if before != [b'\n'] {
                        return None;
                    }
                    0
                }
                None if self.start == self.floor => return None,
                None => {
                    // As much as is held already, so that a long line is moved few times.
                    let len = CHUNK.max(self.carry.len() as u64);
                    let from = self.start.saturating_sub(len).max(self.floor);
                    unseen = (self.start - from) as usize;
                    let mut chunk = vec![0; unseen];
                    if let Err(err) = self.file.read_exact_at(&mut chunk, from) {
                        self.start = self.floor;
                        self.carry.clear();
                        return Some(Err(Error::io("read", &self.path, &err)));
                    }
                    chunk.append(&mut self.carry);
                    self.carry = chunk;
                    self.start = from;
                    continue;
                }
            };
            let line = self.carry.split_off(at);
            self.line_end = self.start + (at + line.len()) as u64 + 1;
            self.carry.truncate(at.saturating_sub(1));
            if !line.is_empty() {
                return Some(Ok(line));
            }
            unseen = self.carry.len();
        }
    }
}

fn kind(file_type: FileType) -> Kind {
    match file_type {
        FileType::RegularFile => Kind::File,
        FileType::Directory => Kind::Dir,
        _ => Kind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    use crate::store::tests::Scratch;

    fn lines(dir: &Dir, floor: Floor) -> Vec<String> {
        let lines = dir.lines_back("log", floor).unwrap().into_iter().flatten();
        let text = |line: Result<Vec<u8>>| String::from_utf8(line.unwrap()).unwrap();
        lines.map(text).collect()
    }

    #[test]
    fn lines_from_the_end() {
        let scratch = Scratch::new("dir-lines");
        let dir = Dir::open(&scratch.0).unwrap();
        let long = "x".repeat(200_000);
        for (text, floor, want) in [
            ("", Floor::At(0), &[][..]),
            ("\n\n", Floor::At(0), &[]),
            ("a\nbb\n\nccc\n", Floor::At(0), &["ccc", "bb", "a"]),
            ("a\nbb\ncc", Floor::At(0), &["cc", "bb", "a"]),
            ("a\nbb\ncc\n", Floor::At(2), &["cc", "bb"]),
            ("a\nbb\ncc\n", Floor::At(3), &["cc"]),
            ("a\nbb\ncc\n", Floor::At(99), &[]),
            ("a\nbb\ncc\n", Floor::Last(5), &["cc"]),
            ("a\nbb\ncc\n", Floor::Last(6), &["cc", "bb"]),
            ("a\nbb\ncc\n", Floor::Last(99), &["cc", "bb", "a"]),
            (&format!("a\n{long}\nb\n"), Floor::At(0), &["b", &long, "a"]),
            (&format!("a\n{long}\nb\n"), Floor::Last(1_000), &["b"]),
        ] {
            scratch.write("log", text);
            assert_eq!(lines(&dir, floor), want, "{:.20} {floor:?}", text);
        }
    }

    #[test]
    fn appends_end_a_torn_line_first() {
        let scratch = Scratch::new("dir-append");
        let dir = Dir::open(&scratch.0).unwrap();
        for (before, want) in [
            (None, "head\nnew\n"),
            (Some(""), "head\nnew\n"),
            (Some("old\n"), "old\nnew\n"),
            (Some("ol"), "ol\nnew\n"),
        ] {
            dir.remove("log").unwrap();
            before.iter().for_each(|text| scratch.write("log", text));
            dir.append("log", "head\n", "new\n").unwrap();
            assert_eq!(scratch.read("log"), want, "{before:?}");
        }
    }

    /// As when the disk is full: nobody may find lines that the writer takes for lost.
    #[test]
    fn a_failed_append_takes_itself_back() {
        let scratch = Scratch::new("dir-undo");
        let dir = Dir::open(&scratch.0).unwrap();
        let failure = io::Error::from(io::ErrorKind::StorageFull);
        for (torn, behind, want) in [
            ("old\n", "", "old\n"),
            ("old\nto", "", "old\nto"),
            ("", "", ""),
            // Who wrote behind it loses nothing.
            ("old\n", "other\n", "old\nnew\nother\n"),
        ] {
            scratch.write("log", torn);
            let appended = dir.append("log", "", "new\n").unwrap();
            dir.append("log", "", behind).unwrap().sync().unwrap();
            let err = appended.undo(&failure).to_string();
            assert!(err.starts_with("cannot write /"), "{err}");
            assert_eq!(scratch.read("log"), want, "{torn:?}");
        }
    }

    /// Each of these in the place of a file neither leaks, overwrites nor hangs.
    #[test]
    fn refuses_what_is_planted() {
        let scratch = Scratch::new("dir-planted");
        scratch.write("outside", "secret");
        std::fs::create_dir(scratch.0.join("data")).unwrap();
        let dir = Dir::open(&scratch.0.join("data")).unwrap();
        let outside = scratch.0.join("outside");
        let plant = |name: &str| {
            let path = scratch.0.join("data").join(name);
            let mode = Mode::from_raw_mode(0o666);
            match name {
                "link" => symlink(&outside, path).unwrap(),
                "up" => symlink("../outside", path).unwrap(),
                "magic" => symlink("/proc/self/exe", path).unwrap(),
                "nowhere" => symlink("missing", path).unwrap(),
                "fifo" => fs::mknodat(fs::CWD, path, FileType::Fifo, mode, 0).unwrap(),
                "device" => {
                    let (kind, full) = (FileType::CharacterDevice, fs::makedev(1, 7));
                    // Only root can; for another user a link stands in.
                    fs::mknodat(fs::CWD, &path, kind, mode, full)
                        .or_else(|_| fs::symlink("/dev/full", path))
                        .unwrap();
                }
                "socket" => drop(UnixListener::bind(path).unwrap()),
                _ => std::fs::create_dir(path).unwrap(),
            }
        };
        for name in [
            "link", "up", "magic", "nowhere", "fifo", "device", "socket", "dir",
        ] {
            plant(name);
            assert_eq!(
                dir.read_head(name, 10).is_err(),
                name != "nowhere",
                "{name}"
            );
            assert!(dir.create(name).unwrap().is_none(), "{name}");
            if name != "dir" {
                dir.replace(name, b"ours").unwrap();
                assert_eq!(scratch.read(&format!("data/{name}")), "ours", "{name}");
                dir.remove(name).unwrap();
                plant(name);
            }
            let lines = dir.lines_back(name, Floor::At(0));
            assert!(lines.unwrap().is_none(), "{name}");
            assert!(dir.append(name, "", "x\n").is_ok(), "{name}");
            assert_eq!(scratch.read(&format!("data/{name}")), "x\n", "{name}");
        }
        symlink(&scratch.0, scratch.0.join("data/C1")).unwrap();
        assert!(dir.append("C1/outside", "", "x\n").is_err());
        assert!(dir.create("C1/new").is_err() && dir.replace("C1/new", b"").is_err());
        assert!(dir.make_dir("C1/new").is_err() && dir.remove("C1/outside").is_err());
        assert!(dir.rename("C1/outside", "x").is_err() && dir.list("C1", 9).is_err());
        assert!(dir.append("../outside", "", "x\n").is_err());
        assert_eq!(scratch.read("outside"), "secret");
    }
}
