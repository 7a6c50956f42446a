//! A FIFO that shows whether processes are still alive: whatever a command starts has its writing
//! end open, on the host or in a container, and the kernel reports when the last one is gone.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};

use crate::scratch::Scratch;
use crate::watch::GUARD;

pub(crate) struct Tether(File, PathBuf);

impl Tether {
    /// Creates `name` in the directory. A command opens it with `exec 9>PATH; echo up >&9`.
    pub(crate) fn new(home: &Scratch, name: &str) -> Tether {
        make_fifo(home, name);
        let path = home.path(name);
        Tether(open(&path), path)
    }

    /// Waits until a process has opened the FIFO and written to it.
    pub(crate) fn wait_held(&mut self) {
        let guard = GUARD.try_into().expect("a short time");
        assert!(self.poll(PollFlags::IN, &guard), "nobody took hold");
        let mut word = [0; 64];
        assert!(self.0.read(&mut word).expect("read a FIFO") > 0, "no word");
    }

    pub(crate) fn is_held(&self) -> bool {
        !self.poll(PollFlags::empty(), &Timespec::default())
    }

    /// Waits until the last writer is gone.
    pub(crate) fn wait_released(&mut self) {
        let guard = GUARD.try_into().expect("a short time");
        assert!(self.poll(PollFlags::empty(), &guard), "someone still lives");
        // After the last writer is gone, poll returns at once for this reader; for a new one it
        // does not.
        self.0 = open(&self.1);
    }

    /// Polls the FIFO; without flags, waits until the last writer is gone.
    fn poll(&self, flags: PollFlags, limit: &Timespec) -> bool {
        poll(&mut [PollFd::new(&self.0, flags)], Some(limit)).expect("poll a FIFO") > 0
    }
}

fn open(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32);
    options.open(path).expect("open a FIFO")
}

/// Creates the FIFO `name` in the directory; everyone may open it.
pub(crate) fn make_fifo(home: &Scratch, name: &str) {
    let everyone = Mode::from_raw_mode(0o666);
    let path = home.path(name);
    mknodat(CWD, &path, FileType::Fifo, everyone, 0).expect("make a FIFO");
    rustix::fs::chmod(path, everyone).expect("open a FIFO to everyone");
}
