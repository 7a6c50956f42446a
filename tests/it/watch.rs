//! A value that threads change and tests wait for: waiting is for facts, never for time.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a test waits for a fact before it fails; it only guards against a hang.
pub(crate) const GUARD: Duration = Duration::from_secs(30);

const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Default)]
pub(crate) struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    pub(crate) fn new(value: T) -> Watched<T> {
        Watched {
            value: Mutex::new(value),
            changed: Condvar::new(),
        }
    }

    /// Gives access to the value; changes made through the guard wake nobody. A failed test must
    /// still be able to clean up, so a poisoned lock is used as it is.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let result = change(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// The first `Some` that `look` returns, or `None` after `GUARD`. Calls `look` after each
    /// change, and at intervals for facts outside the value, such as files.
    pub(crate) fn poll<R>(&self, mut look: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        let until = Instant::now() + GUARD;
        let mut value = self.lock();
        loop {
            if let Some(result) = look(&mut value) {
                return Some(result);
            }
            let left = until.checked_duration_since(Instant::now())?;
            value = self
                .changed
                .wait_timeout(value, left.min(LOOK_EVERY))
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// The texts that a failed test prints for whoever reads its output.
#[expect(clippy::print_stderr, reason = "a failed test shows what there was")]
pub(crate) fn show(title: &str, text: &str) {
    eprintln!("--- {title}\n{text}---");
}
