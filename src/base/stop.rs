//! `Stop`: the one way to end something early. It is a flag with an eventfd, so that every wait
//! in poll(2), for a socket, a child or a pause, ends at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::Timespec;

use crate::base::error::{Error, Result};

/// Why something was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Someone wrote `stop` or pressed the button.
    Asked = 1,
    /// mom itself is shutting down (SIGTERM, SIGINT).
    Restart = 2,
}

/// Cheap to clone; all clones are one flag. Once set it stays set.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<StopFlag>);

#[derive(Debug)]
struct StopFlag {
    cause: AtomicU8,
    /// `None`: the process had no file descriptor left, see `NEVER`.
    fd: Option<OwnedFd>,
}

/// A descriptor that is never readable, for a `Stop` that got none. Made with the first `Stop`.
static NEVER: OnceLock<OwnedFd> = OnceLock::new();
/// Set when some `Stop` has no descriptor: every wait then ends after `LOOK_EACH`, for a check.
static LOOK_OFTEN: AtomicBool = AtomicBool::new(false);
const LOOK_EACH: Duration = Duration::from_millis(100);

impl Stop {
    /// # Panics
    /// When the program's first `Stop` gets no file descriptor.
    pub(crate) fn new() -> Stop {
        let new_fd = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        NEVER.get_or_init(|| new_fd().expect("a file descriptor at the program's start"));
        let fd = new_fd().ok();
        if fd.is_none() {
            LOOK_OFTEN.store(true, Ordering::Relaxed);
        }
        Stop(Arc::new(StopFlag {
            cause: AtomicU8::new(0),
            fd,
        }))
    }

    /// The first cause wins.
    pub(crate) fn set(&self, cause: Cause) {
        let first =
            self.0
                .cause
                .compare_exchange(0, cause as u8, Ordering::SeqCst, Ordering::SeqCst);
        if let (Ok(_), Some(fd)) = (first, &self.0.fd) {
            // Cannot fail: the counter goes from 0 to 1 once and is never read.
            rustix::io::write(fd, &1u64.to_ne_bytes()).ok();
        }
    }

    pub(crate) fn cause(&self) -> Option<Cause> {
        match self.0.cause.load(Ordering::SeqCst) {
            0 => None,
            1 => Some(Cause::Asked),
            _ => Some(Cause::Restart),
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.cause().is_some()
    }

    /// `Err(Error::Stopped)` once set.
    pub(crate) fn check(&self) -> Result<()> {
        if self.is_set() {
            Err(Error::Stopped)
        } else {
            Ok(())
        }
    }

    /// A descriptor that is readable once the flag is set, for a caller's own poll.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        let fd = self.0.fd.as_ref().or(NEVER.get());
        fd.expect("made with the first of them").as_fd()
    }

    /// A pause that ends early with `Err(Error::Stopped)`.
    pub(crate) fn wait(&self, pause: Duration) -> Result<()> {
        let until = Instant::now().checked_add(pause);
        loop {
            self.check()?;
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Ok(());
            }
            let fd = self.fd();
            poll_for(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], left);
        }
    }
}

/// poll(2) with a `Duration`; `None` waits without end. A signal counts as "nothing yet":
/// callers loop and look at their own deadline.
pub(crate) fn poll_for(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> usize {
    let timeout = if LOOK_OFTEN.load(Ordering::Relaxed) {
        Some(timeout.map_or(LOOK_EACH, |timeout| timeout.min(LOOK_EACH)))
    } else {
        timeout
    };
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    poll(fds, timeout.as_ref()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_cause_wins_and_wakes_a_waiter() {
        let stop = Stop::new();
        assert_eq!(stop.wait(Duration::from_millis(1)), Ok(()));
        let other = stop.clone();
        let waiter = std::thread::spawn(move || other.wait(Duration::from_secs(3600)));
        stop.set(Cause::Asked);
        stop.set(Cause::Restart);
        assert_eq!(waiter.join().unwrap(), Err(Error::Stopped));
        assert_eq!(stop.cause(), Some(Cause::Asked));
    }
}
