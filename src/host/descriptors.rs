//! File descriptors: enough of them for many calls at once, and some left for the log.
//!
//! A running call holds three, and nine while it starts. Each run may always have one call in
//! progress; further calls in parallel share a fixed number of places in all channels, so that the
//! log can be written however many calls the models make.

use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Enough for all runs, their connections and calls. Not as high as the system allows, because
/// tools inherit the limit, and some close each descriptor up to it.
const DESCRIPTORS: u64 = 8192;
/// Calls in parallel with another call of their run, in all channels together.
const PARALLEL_CALLS_MAX: usize = 32;

/// Many systems begin with 1,024. If the change is refused, mom runs as before.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(DESCRIPTORS, |maximum| maximum.min(DESCRIPTORS));
    if current.is_some_and(|current| current < wanted) {
        let current = Some(wanted);
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).ok();
    }
}

/// Counts the calls that run in parallel with another one of their run.
#[derive(Default)]
pub(crate) struct CallPlaces(AtomicUsize);

/// The place of one call; it is free again when this is dropped.
pub(crate) struct CallPlace<'a>(&'a AtomicUsize);

impl CallPlaces {
    pub(crate) fn take(&self) -> Option<CallPlace<'_>> {
        let one_more = |taken: usize| (taken < PARALLEL_CALLS_MAX).then_some(taken + 1);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        taken.is_ok().then_some(CallPlace(&self.0))
    }
}

impl Drop for CallPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
