//! Files of lines that only grow: appends lines, which can be undone, and reads lines from the end.
//! `dir` opens the files.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::base::error::{Error, Result};

/// Lines that were written to the file, but are perhaps not on the disk yet.
#[derive(Debug)]
pub(crate) struct Appended {
    file: File,
    path: PathBuf,
    /// Length of the file before and after the write.
    before: u64,
    end: u64,
    /// Locked from reading a file's last byte until the write has ended.
    appending: Arc<Mutex<()>>,
}

impl Appended {
    /// Writes `first` before `lines` if the file is empty. Ends a torn last line first.
    pub(super) fn write(
        mut file: File,
        path: PathBuf,
        appending: &Arc<Mutex<()>>,
        [first, lines]: [&str; 2],
    ) -> Result<Appended> {
        let _one_writer = appending.lock().unwrap();
        let fail = |err: io::Error| Error::io("write", &path, &err);
        let before = file.metadata().map_err(fail)?.len();
        let mut last = [b'\n'];
        if let Some(at) = before.checked_sub(1) {
            file.read_exact_at(&mut last, at).map_err(fail)?;
        }
        let start = match last {
            [b'\n'] if before == 0 => first,
            [b'\n'] => "",
            _ => "\n",
        };
        let text = format!("{start}{lines}");
        let written = file.write_all(text.as_bytes());
        let appended = Appended {
            file,
            path,
            before,
            end: before + text.len() as u64,
            appending: appending.clone(),
        };
        match written {
            Ok(()) => Ok(appended),
            Err(err) => Err(appended.undo(&err)),
        }
    }

    /// Whether the file holds nothing but these lines.
    pub(super) fn is_first(&self) -> bool {
        self.before == 0
    }

    /// # Errors
    /// The lines are removed from the file, because whoever sent them will send them again.
    pub(crate) fn sync(&self) -> Result<()> {
        self.file.sync_data().map_err(|err| {
            let _one_writer = self.appending.lock().unwrap();
            self.undo(&err)
        })
    }

    /// Like `sync`, for everything written to the file so far; but a failure removes nothing.
    pub(crate) fn settle(&self) -> Result<()> {
        let synced = self.file.sync_data();
        synced.map_err(|err| Error::io("write", &self.path, &err))
    }

    /// Removes the lines from the file.
    pub(crate) fn take_back(self) {
        let _one_writer = self.appending.lock().unwrap();
        self.undo(&io::ErrorKind::Other.into());
    }

    /// Length of the file, these lines included.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Removes the lines, unless somebody wrote after them. The caller has locked `appending`.
    fn undo(&self, err: &io::Error) -> Error {
        let ours = self.before..=self.end;
        if (self.file.metadata()).is_ok_and(|meta| ours.contains(&meta.len())) {
            // If a torn line remains, the next append ends it.
            self.file.set_len(self.before).ok();
        }
        Error::io("write", &self.path, err)
    }
}

/// Where `LinesBack` stops.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Floor {
    /// At this byte, where a line begins.
    At(u64),
    /// This many bytes before the end; a line that is cut there is left out.
    Last(u64),
}

/// Reads the lines of a file from the last to the first, without newlines and empty lines. Returns
/// a last line that was cut short, too: readers skip what does not parse. Holds one line at a time.
pub(crate) struct LinesBack {
    file: File,
    path: PathBuf,
    floor: u64,
    /// Where the bytes that were read so far begin.
    start: u64,
    end: Option<u64>,
    line_end: u64,
    /// Bytes of the file from `start` on that are not returned as lines yet.
    carry: Vec<u8>,
}

impl LinesBack {
    /// `path` is for error messages.
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

    /// The byte after the last newline, once a line was requested. What follows it is torn, or is
    /// being written right now.
    pub(crate) fn end(&self) -> u64 {
        self.end.unwrap_or(self.floor)
    }

    /// The byte after the newline of the line that was returned last.
    pub(crate) fn line_end(&self) -> u64 {
        self.line_end
    }

    /// Continues with the line that ends before byte `to`, and reads at most `bytes` further back.
    pub(crate) fn jump(&mut self, to: u64, bytes: u64) {
        if to <= self.start {
            self.start = to;
            self.floor = to.saturating_sub(bytes);
            self.carry.clear();
        }
    }

    /// Whether a line begins at byte `start`: at the file's beginning, or after a newline.
    fn begins_line(&self) -> bool {
        let mut before = [b'\n'];
        if self.start > 0 {
            self.file.read_exact_at(&mut before, self.start - 1).ok();
        }
        before == [b'\n']
    }

    /// Reads what is before `start` and moves `start` back; returns by how much.
    fn read_more(&mut self) -> Result<usize> {
        const CHUNK: u64 = 64 * 1024;
        // As much as `carry` holds already, so that a long line is copied only a few times.
        let len = CHUNK.max(self.carry.len() as u64);
        let from = self.start.saturating_sub(len).max(self.floor);
        let count = (self.start - from) as usize;
        let mut chunk = Vec::with_capacity(count + self.carry.len());
        chunk.resize(count, 0);
        if let Err(err) = self.file.read_exact_at(&mut chunk, from) {
            self.start = self.floor;
            self.carry.clear();
            return Err(Error::io("read", &self.path, &err));
        }
        chunk.append(&mut self.carry);
        self.carry = chunk;
        self.start = from;
        Ok(count)
    }
}

impl Iterator for LinesBack {
    type Item = Result<Vec<u8>>;

    fn next(&mut self) -> Option<Result<Vec<u8>>> {
        // Length of the beginning of `carry` that may hold a newline.
        let mut unseen = self.carry.len();
        loop {
            let newline = self.carry[..unseen].iter().rposition(|b| *b == b'\n');
            let at = match newline {
                Some(at) => {
                    self.end.get_or_insert(self.start + at as u64 + 1);
                    at + 1
                }
                None if self.start > self.floor => match self.read_more() {
                    Ok(count) => {
                        unseen = count;
                        continue;
                    }
                    Err(err) => return Some(Err(err)),
                },
                None if !self.carry.is_empty() && self.begins_line() => 0,
                None => return None,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::dir::Dir;
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

    /// After a write failed (full disk), nobody may find lines that the writer regards as lost.
    #[test]
    fn a_failed_append_takes_itself_back() {
        let scratch = Scratch::new("dir-undo");
        let dir = Dir::open(&scratch.0).unwrap();
        let failure = io::Error::from(io::ErrorKind::StorageFull);
        for (torn, behind, want) in [
            ("old\n", "", "old\n"),
            ("old\nto", "", "old\nto"),
            ("", "", ""),
            // Lines that somebody else wrote after them are not lost.
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
}
