//! The data directory, opened once: every path is looked up beneath it by the kernel
//! (openat2, RESOLVE_BENEATH), so that no link, `..` or directory swapped meanwhile leads
//! out of it. Only regular files are read and written; nothing here blocks on a FIFO.
//!
//! Paths are relative, with `/` between names. A link that stays beneath is followed.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::error::{Error, Result};

#[derive(Debug)]
pub(crate) struct Dir {
    root: OwnedFd,
    /// For messages.
    path: PathBuf,
    /// Held from the look at a file's last byte to the end of the write.
    appending: Mutex<()>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) kind: Kind,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) bytes: u64,
    pub(crate) modified_ns: i128,
    pub(crate) links: u64,
}

impl Stamp {
    /// Milliseconds since 1970.
    pub(crate) fn modified_ms(&self) -> i64 {
        (self.modified_ns / 1_000_000) as i64
    }
}

impl Dir {
    /// Makes the data directory where it is missing.
    pub(crate) fn make_root(path: &Path) -> Result<()> {
        std::fs::create_dir_all(path).map_err(|err| {
            Error::failed(format!(
                "cannot make the data directory {}: {err}; name one that you may write to",
                path.display()
            ))
        })
    }

    pub(crate) fn open(path: &Path) -> Result<Dir> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = fs::open(path, flags, Mode::empty())
            .map_err(|err| Error::io("open", path, &err.into()))?;
        Ok(Dir {
            root,
            path: path.to_owned(),
            appending: Mutex::new(()),
        })
    }

    /// A file or directory of any kind, or `None` when it is missing.
    fn look_up(&self, path: &str, flags: OFlags) -> Result<Option<OwnedFd>> {
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
        // EAGAIN: something was renamed under the look-up.
        for _ in 0..100 {
            match fs::openat2(&self.root, path, flags, mode, resolve) {
                Ok(fd) => return Ok(Some(fd)),
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::XDEV | Errno::LOOP) => {
                    return Err(self.failed(
                        "open",
                        path,
                        "it is a link that leads out of the data directory",
                    ));
                }
                Err(err) => return Err(self.io("open", path, err)),
            }
        }
        Err(self.failed("open", path, "it is being moved all the time"))
    }

    /// A regular file; `None` when it is missing.
    fn open_file(&self, path: &str, flags: OFlags) -> Result<Option<File>> {
        let Some(fd) = self.look_up(path, flags)? else {
            return Ok(None);
        };
        let stat = fs::fstat(&fd).map_err(|err| self.io("open", path, err))?;
        if kind(FileType::from_raw_mode(stat.st_mode)) != Kind::File {
            return Err(self.failed("open", path, "it is not a regular file"));
        }
        Ok(Some(File::from(fd)))
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

    /// The lines of a regular file from its end back to byte `floor`; see `LinesBack`.
    pub(crate) fn lines_back(&self, path: &str, floor: Floor) -> Result<Option<LinesBack>> {
        let Some(file) = self.open_file(path, OFlags::RDONLY)? else {
            return Ok(None);
        };
        LinesBack::new(file, self.path.join(path), floor).map(Some)
    }

    /// A regular file to be read from its start; `None` when it is missing.
    pub(crate) fn read(&self, path: &str) -> Result<Option<File>> {
        self.open_file(path, OFlags::RDONLY)
    }

    /// Adds whole lines to a file (made when missing) with one write. `first` comes before
    /// them in an empty file. A line that was cut short by a crash is ended first. Survives
    /// kill -9 when it returns; `sync_data` on the file makes it survive a power cut.
    pub(crate) fn append(&self, path: &str, first: &str, lines: &str) -> Result<File> {
        let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE;
        let mut file = self
            .open_file(path, flags)?
            .ok_or_else(|| self.io("open", path, Errno::NOENT))?;
        let mut write = || -> std::io::Result<()> {
            let _one_writer = self.appending.lock().unwrap();
            let end = file.metadata()?.len();
            let mut last = [b'\n'];
            if end > 0 {
                file.read_exact_at(&mut last, end - 1)?;
            }
            let before = match last {
                [b'\n'] if end == 0 => first,
                [b'\n'] => "",
                _ => "\n",
            };
            file.write_all(format!("{before}{lines}").as_bytes())
        };
        write().map_err(|err| Error::io("write", self.path.join(path), &err))?;
        Ok(file)
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

    /// Takes the lock that `path` (made when missing) stands for, until the file is dropped.
    ///
    /// # Errors
    /// With the words `held` and the id of the process that has it, when one does.
    pub(crate) fn lock(&self, path: &str, held: &str) -> Result<File> {
        let file = self
            .open_file(path, OFlags::RDWR | OFlags::CREATE)?
            .ok_or_else(|| self.io("open", path, Errno::NOENT))?;
        match fs::flock(&file, fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let pid = self.read_head(path, 20)?.unwrap_or_default();
                let pid = String::from_utf8_lossy(&pid);
                return Err(Error::failed(format!("{held} (pid {})", pid.trim())));
            }
            Err(err) => return Err(self.io("lock", path, err)),
        }
        let write = || -> std::io::Result<()> {
            file.set_len(0)?;
            file.write_all_at(format!("{}\n", std::process::id()).as_bytes(), 0)
        };
        write().map_err(|err| Error::io("write", self.path.join(path), &err))?;
        Ok(file)
    }

    /// At most `max` entries of a directory, in the order the system gives them, names that
    /// are not UTF-8 left out; `None` when it is missing.
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
        }))
    }

    /// For reading or watching; `None` when it is missing or no directory.
    pub(crate) fn open_dir(&self, path: &str) -> Result<Option<OwnedFd>> {
        self.look_up(path, OFlags::RDONLY | OFlags::DIRECTORY)
    }

    pub(crate) fn make_dir(&self, path: &str) -> Result<()> {
        let (parent, name) = self.parent(path)?;
        match fs::mkdirat(&parent, name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(err) => Err(self.io("make", path, err)),
        }
    }

    /// Replaces a file by way of a temporary name in the same directory.
    pub(crate) fn replace(&self, path: &str, bytes: &[u8]) -> Result<()> {
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
            file.sync_data()?;
            fs::renameat(&parent, &*temporary, &parent, name)?;
            Ok(())
        };
        write().map_err(|err| Error::io("write", self.path.join(path), &err))
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

    fn io(&self, verb: &str, path: &str, err: Errno) -> Error {
        Error::io(verb, self.path.join(path), &err.into())
    }

    fn failed(&self, verb: &str, path: &str, why: &str) -> Error {
        Error::failed(format!(
            "cannot {verb} {}: {why}",
            self.path.join(path).display()
        ))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.root.as_fd()
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
    end: u64,
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
            end,
            carry: Vec::new(),
        })
    }

    /// Bytes of the file.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// True when the next line would begin before the floor.
    pub(crate) fn cut(&self) -> bool {
        self.floor > 0
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
                Some(at) => at + 1,
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

    /// Each of these in the place of a file neither leaks, overwrites nor hangs.
    #[test]
    fn refuses_what_is_planted() {
        let scratch = Scratch::new("dir-planted");
        scratch.write("outside", "secret");
        std::fs::create_dir(scratch.0.join("data")).unwrap();
        let dir = Dir::open(&scratch.0.join("data")).unwrap();
        let outside = scratch.0.join("outside");
        for name in ["link", "up", "magic", "fifo", "dir"] {
            let path = scratch.0.join("data").join(name);
            match name {
                "link" => symlink(&outside, path).unwrap(),
                "up" => symlink("../outside", path).unwrap(),
                "magic" => symlink("/proc/self/exe", path).unwrap(),
                "fifo" => {
                    let mode = Mode::from_raw_mode(0o666);
                    fs::mknodat(fs::CWD, path, FileType::Fifo, mode, 0).unwrap();
                }
                _ => std::fs::create_dir(path).unwrap(),
            }
            assert!(dir.read_head(name, 10).is_err(), "{name}");
            assert!(dir.lines_back(name, Floor::At(0)).is_err(), "{name}");
            assert!(dir.append(name, "", "x\n").is_err(), "{name}");
            assert!(dir.lock(name, "held").is_err(), "{name}");
            assert!(dir.create(name).unwrap().is_none(), "{name}");
            if name != "dir" {
                dir.replace(name, b"ours").unwrap();
                assert_eq!(scratch.read(&format!("data/{name}")), "ours", "{name}");
            }
        }
        symlink(&scratch.0, scratch.0.join("data/C1")).unwrap();
        assert!(dir.append("C1/outside", "", "x\n").is_err());
        assert!(dir.create("C1/new").is_err());
        assert!(dir.append("../outside", "", "x\n").is_err());
        assert_eq!(scratch.read("outside"), "secret");
    }
}
