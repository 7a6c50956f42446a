//! `Stop`: the one way to end something early. A flag with an eventfd, so that whoever
//! waits in poll(2) — for a socket, a child, a pause — wakes at once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::Timespec;

use crate::base::error::{Error, Result};

/// Why something was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Someone said `stop` or pressed the button.
    Asked = 1,
    /// mom herself is going down (SIGTERM, SIGINT).
    Restart = 2,
}

/// Cheap to clone; all clones are one flag. Once set it stays set.
#[derive(Clone, Debug)]
pub(crate) struct Stop(Arc<StopFlag>);

#[derive(Debug)]
struct StopFlag {
    cause: AtomicU8,
    fd: OwnedFd,
}

impl Stop {
    /// # Panics
    /// When the process is out of file descriptors: nothing could run then.
    pub(crate) fn new() -> Stop {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .expect("no file descriptor left for an eventfd");
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
        if first.is_ok() {
            // Cannot fail: the counter goes from 0 to 1 once and is never read.
            rustix::io::write(&self.0.fd, &1u64.to_ne_bytes()).ok();
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

    /// Readable once set, for a caller's own poll.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
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
            poll_for(&mut [PollFd::new(&self.0.fd, PollFlags::IN)], left);
        }
    }
}

/// poll(2) with a `Duration`; `None` waits without end. A signal counts as "nothing yet":
/// callers loop and look at their own deadline.
pub(crate) fn poll_for(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> usize {
    let timeout = timeout.and_then(|d| Timespec::try_from(d).ok());
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
