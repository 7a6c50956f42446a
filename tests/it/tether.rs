//! A FIFO that tells whether processes still live: whoever a command starts holds its
//! writing end, on the host or in a container, and the kernel says when the last is gone.

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
    /// Makes `name` in the directory. A command takes hold with `exec 9>PATH; echo up >&9`.
    pub(crate) fn new(home: &Scratch, name: &str) -> Tether {
        make_fifo(home, name);
        let path = home.path(name);
        Tether(open(&path), path)
    }

    /// Waits until someone has taken hold and said a word.
    pub(crate) fn wait_held(&mut self) {
        let guard = GUARD.try_into().expect("a short time");
        assert!(self.poll(PollFlags::IN, &guard), "nobody took hold");
        let mut word = [0; 64];
        assert!(self.0.read(&mut word).expect("read a FIFO") > 0, "no word");
    }

    pub(crate) fn is_held(&self) -> bool {
        !self.poll(PollFlags::empty(), &Timespec::default())
    }

    /// Waits until the last holder is gone.
    pub(crate) fn wait_released(&mut self) {
        let guard = GUARD.try_into().expect("a short time");
        assert!(self.poll(PollFlags::empty(), &guard), "someone still lives");
        // A reader that has seen the last writer go is told so for ever; a new one is not.
        self.0 = open(&self.1);
    }

    /// Without flags it waits for the end of the last holder.
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

/// `name` in the directory, for everyone.
pub(crate) fn make_fifo(home: &Scratch, name: &str) {
    let everyone = Mode::from_raw_mode(0o666);
    let path = home.path(name);
    mknodat(CWD, &path, FileType::Fifo, everyone, 0).expect("make a FIFO");
    rustix::fs::chmod(path, everyone).expect("open a FIFO to everyone");
}
