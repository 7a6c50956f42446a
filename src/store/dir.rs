//! The data directory, opened once: every path is looked up beneath it by the kernel
//! (openat2, RESOLVE_BENEATH), so that no link, `..` or directory swapped meanwhile leads
//! out of it. Only regular files are read and written: a FIFO or a device in place of one is
//! recognised before it is opened, since opening alone may hang, or act.
//!
//! Paths are relative, with `/` between names. A link that stays beneath is followed, except in
//! the place of a file that mom appends to: its lines would get into another file.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::time;
use crate::store::lines::{Appended, Floor, LinesBack};
use crate::store::lock::Lock;

#[derive(Debug)]
pub(crate) struct Dir {
    root: Mutex<Root>,
    /// The path that the owner chose, trusted whatever directory is there: it is opened again when
    /// the directory that was open has been removed.
    path: PathBuf,
    /// Locked from reading a file's last byte until the write has ended.
    appending: Arc<Mutex<()>>,
    /// See `take_set_aside`.
    set_aside: Mutex<Vec<(String, String)>>,
}

/// How many names of files that were set aside are remembered until they are reported.
const SET_ASIDE_MAX: usize = 100;

#[derive(Debug)]
struct Root {
    handle: Arc<OwnedFd>,
    /// Set after `Dir::lock`; the `flock` on `handle` belongs to it.
    lock: Option<Lock>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Dir,
    /// FIFO, device, socket, or a link whose target is missing or outside the data directory.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// Identifies one state of a file: two equal stamps mean that its content did not change.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    pub(crate) kind: Kind,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) bytes: u64,
    modified_ns: i128,
    /// Time of the last change of content, name or mode (ctime), which no program can set.
    /// Milliseconds since 1970. Not compared by `eq`, because a rename or chmod changes it without
    /// changing the content.
    pub(crate) changed_ms: i64,
}

impl PartialEq for Stamp {
    fn eq(&self, other: &Stamp) -> bool {
        let content = |of: &Stamp| (of.kind, of.device, of.inode, of.bytes, of.modified_ns);
        content(self) == content(other)
    }
}

impl Stamp {
    fn of(stat: &Stat) -> Stamp {
        let changed_ns = i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec);
        Stamp {
            kind: kind(FileType::from_raw_mode(stat.st_mode)),
            device: stat.st_dev,
            inode: stat.st_ino,
            bytes: stat.st_size as u64,
            modified_ns: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
            changed_ms: (changed_ns / 1_000_000) as i64,
        }
    }

    /// Milliseconds since 1970.
    pub(crate) fn modified_ms(&self) -> i64 {
        (self.modified_ns / 1_000_000) as i64
    }
}

impl Dir {
    /// False also when this user can't find out.
    pub(crate) fn is_missing(path: &Path) -> bool {
        matches!(path.try_exists(), Ok(false))
    }

    /// Makes the data directory where it is missing.
    pub(crate) fn make_root(path: &Path) -> Result<()> {
        std::fs::create_dir_all(path).map_err(|err| no_root(path, &err))
    }

    /// Whether `make_root` would succeed: creates the first missing directory and removes it again.
    pub(crate) fn try_root(path: &Path) -> Result<()> {
        let missing = path.ancestors().take_while(|path| !path.exists());
        // The ancestors of a relative path end with the empty path, which is the current directory.
        let missing = missing.filter(|path| !path.as_os_str().is_empty()).last();
        missing.map_or(Ok(()), |missing| {
            let made = std::fs::create_dir(missing).and_then(|()| std::fs::remove_dir(missing));
            made.map_err(|err| no_root(path, &err))
        })
    }

    /// # Errors
    /// Fails also when the kernel has no openat2: nothing else keeps mom inside the directory.
    pub(crate) fn open(path: &Path) -> Result<Dir> {
        let root = open_root(path).map_err(|err| match path.is_file() {
            true => is_a_file(path),
            false if err == Errno::ACCESS => no_entry(path),
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

    /// The open data directory; if it was removed, the one that is at its path now.
    ///
    /// # Errors
    /// `STALE`: there is no directory at the path, or another mom has locked it.
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
        // openat2 refuses these flags together with O_PATH.
        if !flags.contains(OFlags::PATH) {
            flags |= OFlags::NONBLOCK | OFlags::NOCTTY;
        }
        let mode = match flags.contains(OFlags::CREATE) {
            true => Mode::from_raw_mode(0o666),
            false => Mode::empty(),
        };
        // AGAIN: something was renamed during the look-up.
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

    /// Opens a regular file; `None` when it is missing. Checks the type on a handle and opens that
    /// same handle, so a swap of what is at `path` in between has no effect. With `NOFOLLOW` a link
    /// is no regular file.
    fn open_file(&self, path: &str, flags: OFlags) -> Result<Option<File>> {
        let Some(handle) = self.look_up(path, OFlags::PATH | (flags & OFlags::NOFOLLOW))? else {
            return Ok(None);
        };
        let stat = fs::fstat(&handle).map_err(|err| self.io("open", path, err))?;
        if kind(FileType::from_raw_mode(stat.st_mode)) != Kind::File {
            return Err(self.failed("open", path, "it is not a regular file"));
        }
        // The path of a handle is a link itself.
        let flags = (flags - OFlags::NOFOLLOW) | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let handle = format!("/proc/self/fd/{}", handle.as_raw_fd());
        let file = fs::open(&*handle, flags, Mode::empty());
        Ok(Some(File::from(
            file.map_err(|err| self.io("open", path, err))?,
        )))
    }

    /// Like `open_file`, but creates the file when it is missing.
    fn open_or_make(&self, path: &str, flags: OFlags) -> Result<File> {
        // Tries again each time that another process created or removed the file in between.
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
        Err(self.io("open", path, Errno::AGAIN))
    }

    /// The first `bytes_max` bytes of a regular file; `None` when it is missing.
    pub(crate) fn read_head(&self, path: &str, bytes_max: usize) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.read(path)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(bytes_max as u64)
            .read_to_end(&mut bytes)
            .map_err(|err| Error::io("read", self.path.join(path), &err))?;
        Ok(Some(bytes))
    }

    /// The lines of one of mom's own files, from its end back to byte `floor`; see `LinesBack`.
    /// Anything at `path` that is not a regular file is set aside.
    pub(crate) fn lines_back(&self, path: &str, floor: Floor) -> Result<Option<LinesBack>> {
        let file = self.or_set_aside(path, || {
            self.open_file(path, OFlags::RDONLY | OFlags::NOFOLLOW)
        })?;
        let lines = file.map(|file| LinesBack::new(file, self.path.join(path), floor));
        lines.transpose()
    }

    /// Runs `open`; if `path` is not a regular file, sets it aside and runs `open` again.
    fn or_set_aside<T>(&self, path: &str, open: impl Fn() -> Result<T>) -> Result<T> {
        open().or_else(|err| {
            if self.set_aside(path) {
                open()
            } else {
                Err(err)
            }
        })
    }

    /// A regular file to be read from its start; `None` when it is missing.
    pub(crate) fn read(&self, path: &str) -> Result<Option<File>> {
        self.open_file(path, OFlags::RDONLY)
    }

    /// Renames what is at `path` if it is not a regular file, or is a link wherever it leads, and
    /// stores both names for `take_set_aside`. False: nothing was renamed.
    pub(crate) fn set_aside(&self, path: &str) -> bool {
        match self.stamp_link(path) {
            Ok(Some(stamp)) if stamp.kind == Kind::File => return false,
            Ok(None) => return false,
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

    /// Appends whole lines to a file (created when missing) with one write. `first` is written
    /// before them if the file is empty. A last line that a crash cut short is ended first. The
    /// lines survive kill -9 when this returns, and a power cut after `Appended::sync`.
    ///
    /// # Errors
    /// Nothing was appended then, unless undoing a partial write failed as well.
    pub(crate) fn append(&self, path: &str, first: &str, lines: &str) -> Result<Appended> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::NOFOLLOW;
        let file = self.or_set_aside(path, || self.open_or_make(path, flags))?;
        let shown = self.path.join(path);
        let appended = Appended::write(file, shown, &self.appending, [first, lines])?;
        if appended.is_first() {
            // So that the new name survives a power cut, too.
            let (parent, _) = self.parent(path)?;
            fs::fsync(&parent).map_err(|err| self.io("write", path, err))?;
        }
        Ok(appended)
    }

    /// Creates a file for writing and reading; `None` when the name exists, even as a link.
    pub(crate) fn create(&self, path: &str) -> Result<Option<File>> {
        let (parent, name) = self.parent(path)?;
        match make_at(&parent, name) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::EXIST) => Ok(None),
            Err(err) => Err(self.io("make", path, err)),
        }
    }

    /// Fails when another mom on this machine has locked it. The lock ends with the process.
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
        let mut out = Vec::new();
        self.each_entry(&fd, path, &mut |name, entry| {
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
            out.len() < max
        })?;
        out.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(Some(out))
    }

    /// Calls `show` for each entry of a directory as it is now, in no order; links are not
    /// followed. Returns the number of entries, counted up to `max` + 1; at most `max` are shown.
    pub(crate) fn scan(
        &self,
        path: &str,
        max: usize,
        mut show: impl FnMut(&str, Stamp),
    ) -> Result<usize> {
        let Some(fd) = self.open_dir(path)? else {
            return Ok(0);
        };
        let mut count = 0;
        self.each_entry(&fd, path, &mut |name, entry| {
            count += 1;
            // Gone by now: it is not shown.
            let stat = fs::statat(&fd, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW);
            if let (Ok(stat), true) = (stat, count <= max) {
                show(name, Stamp::of(&stat));
            }
            count <= max
        })?;
        Ok(count)
    }

    /// Calls `each` with the names that are UTF-8, until it returns false.
    fn each_entry(
        &self,
        dir: &OwnedFd,
        path: &str,
        each: &mut dyn FnMut(&str, &fs::DirEntry) -> bool,
    ) -> Result<()> {
        let entries = fs::Dir::read_from(dir).map_err(|err| self.io("list", path, err))?;
        for entry in entries {
            let entry = entry.map_err(|err| self.io("list", path, err))?;
            match entry.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) if each(name, &entry) => {}
                Ok(_) => break,
            }
        }
        Ok(())
    }

    /// The stamp of what `path` leads to, links followed; `None` when it is missing.
    pub(crate) fn stamp(&self, path: &str) -> Result<Option<Stamp>> {
        self.stamp_with(path, OFlags::PATH)
    }

    /// Like `stamp`, but of a link itself (`Kind::Other`).
    pub(crate) fn stamp_link(&self, path: &str) -> Result<Option<Stamp>> {
        self.stamp_with(path, OFlags::PATH | OFlags::NOFOLLOW)
    }

    fn stamp_with(&self, path: &str, flags: OFlags) -> Result<Option<Stamp>> {
        let Some(fd) = self.look_up(path, flags)? else {
            return Ok(None);
        };
        let stat = fs::fstat(&fd).map_err(|err| self.io("look at", path, err))?;
        Ok(Some(Stamp::of(&stat)))
    }

    /// Opens a directory for reading or watching; `None` when it is missing or not a directory.
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

    /// Replaces a file by a temporary file that is renamed, and syncs it to disk.
    pub(crate) fn replace(&self, path: &str, bytes: &[u8]) -> Result<()> {
        let parent = self.put(path, &[bytes], File::sync_data)?;
        fs::fsync(&parent).map_err(|err| self.io("write", path, err))
    }

    /// Like `replace`, but does not wait for the disk: a power cut may undo it.
    pub(crate) fn replace_unsynced(&self, path: &str, pieces: &[String]) -> Result<()> {
        self.put(path, pieces, |_| Ok(())).map(drop)
    }

    /// Writes and renames the temporary file. Returns the directory that the file is in.
    fn put(
        &self,
        path: &str,
        pieces: &[impl AsRef<[u8]>],
        sync: fn(&File) -> io::Result<()>,
    ) -> Result<OwnedFd> {
        let (parent, name) = self.parent(path)?;
        write_anew(&parent, name, pieces, sync)
            .map_err(|err| Error::io("write", self.path.join(path), &err))?;
        Ok(parent)
    }

    /// Writes a file at the top to find out whether the directory can be written to. An error names
    /// the directory, because the user knows that name.
    pub(crate) fn put_probe(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (parent, _) = self.parent(name)?;
        write_anew(&parent, name, &[bytes], |_| Ok(())).map_err(|err| {
            let shown = Error::io("write to the data directory", &self.path, &err);
            let next = match err.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => {
                    "make room (df shows what is full)"
                }
                ErrorKind::ReadOnlyFilesystem => "mount its file system with write access",
                _ => "let mom's user own it (chown)",
            };
            Error::failed(format!("{shown}; {next}"))
        })
    }

    /// Renames within one directory and replaces what has the new name. A link itself is renamed.
    pub(crate) fn rename(&self, path: &str, new_name: &str) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        fs::renameat(&parent, name, &parent, new_name).map_err(|err| self.io("rename", path, err))
    }

    /// Removes a file or a link; it is no error when it is missing.
    pub(crate) fn remove(&self, path: &str) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        match fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(err) => Err(self.io("remove", path, err)),
        }
    }

    fn parent<'a>(&self, path: &'a str) -> Result<(OwnedFd, &'a str)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or((".", path));
        let opened = self.openat2(parent, OFlags::RDONLY | OFlags::DIRECTORY);
        let opened = opened.map_err(|err| self.io("open", parent, err))?;
        Ok((opened, name))
    }

    fn io(&self, verb: &str, path: &str, err: Errno) -> Error {
        match err {
            Errno::XDEV | Errno::LOOP => self.failed(
                verb,
                path,
                "it is a link that leads out of the data directory",
            ),
            Errno::NOTDIR => self.failed(
                verb,
                path,
                "a file is in the place of a directory; move that file away (mv)",
            ),
            Errno::AGAIN => self.failed(verb, path, "it is being moved all the time"),
            Errno::STALE => Error::failed(format!(
                "the data directory {} is gone; put it back, or create it again, and I continue",
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

fn no_entry(path: &Path) -> Error {
    Error::failed(format!(
        "cannot open {}: this user may not enter it; call mom as the user it belongs to, for the \
         service: sudo -u mom mom ...",
        path.display()
    ))
}

fn no_root(path: &Path, err: &io::Error) -> Error {
    if path.is_file() {
        return is_a_file(path);
    }
    let looked = path.try_exists();
    if looked.is_err_and(|err| err.kind() == ErrorKind::PermissionDenied) {
        return no_entry(path);
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

/// Writes a temporary file in the same directory and renames it to `name`.
fn write_anew(
    parent: &OwnedFd,
    name: &str,
    pieces: &[impl AsRef<[u8]>],
    sync: fn(&File) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = format!(".{name}.tmp");
    // The temporary file was left by a crash, or put there by the agent.
    fs::unlinkat(parent, &*temporary, AtFlags::empty()).ok();
    let mut file = make_at(parent, &temporary)?;
    let written = (pieces.iter()).try_for_each(|piece| file.write_all(piece.as_ref()));
    let written = written.and_then(|()| sync(&file));
    let put = written.and_then(|()| Ok(fs::renameat(parent, &*temporary, parent, name)?));
    put.inspect_err(|_| {
        fs::unlinkat(parent, &*temporary, AtFlags::empty()).ok();
    })
}

/// Creates a file; does not follow a link.
fn make_at(parent: &OwnedFd, name: &str) -> rustix::io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    fs::openat(parent, name, flags, Mode::from_raw_mode(0o666)).map(File::from)
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
    use std::os::unix::net::UnixListener;

    use crate::store::tests::Scratch;

    /// With each of these in the place of a file, mom does not leak, overwrite or hang.
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
                "beneath" => symlink("other", path).unwrap(),
                "fifo" => fs::mknodat(fs::CWD, path, FileType::Fifo, mode, 0).unwrap(),
                "device" => {
                    let (kind, full) = (FileType::CharacterDevice, fs::makedev(1, 7));
                    // Only root can make a device; another user tests a link to one.
                    fs::mknodat(fs::CWD, &path, kind, mode, full)
                        .or_else(|_| fs::symlink("/dev/full", path))
                        .unwrap();
                }
                "socket" => drop(UnixListener::bind(path).unwrap()),
                _ => std::fs::create_dir(path).unwrap(),
            }
        };
        scratch.write("data/other", "other");
        for name in [
            "link", "up", "magic", "nowhere", "beneath", "fifo", "device", "socket", "dir",
        ] {
            plant(name);
            assert_eq!(
                dir.read_head(name, 10).is_err(),
                !matches!(name, "nowhere" | "beneath"),
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
        assert_eq!(scratch.read("data/other"), "other");
        symlink(&scratch.0, scratch.0.join("data/C1")).unwrap();
        assert!(dir.append("C1/outside", "", "x\n").is_err());
        assert!(dir.create("C1/new").is_err() && dir.replace("C1/new", b"").is_err());
        assert!(dir.make_dir("C1/new").is_err() && dir.remove("C1/outside").is_err());
        assert!(dir.rename("C1/outside", "x").is_err() && dir.list("C1", 9).is_err());
        assert!(dir.append("../outside", "", "x\n").is_err());
        assert_eq!(scratch.read("outside"), "secret");
    }
}
