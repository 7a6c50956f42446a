//! Events: JSON files in events/ that wake mom, now, once, or again and again.
//!
//! Files enter, jobs leave (`Outside::submit`). The state is one entry per file, owned here and
//! shared by the thread that watches the directory (`watch.rs`) and the workers that run the jobs.
//! A file's text is not stored: it is read again when the event is due. An immediate or one-shot
//! file is removed when its run is on disk (`ran`), so that a crash in between makes it run late,
//! not never; the run is known by its `ts`, which is the same after a restart. A file that can't
//! run becomes NAME.json.error, with the reason inside.

pub(crate) mod cron;
mod file;
mod pace;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use jiff::Timestamp;
use rustix::fs::inotify::ReadFlags;

use crate::agent::run::Job;
use crate::base::error::Result;
use crate::base::log;
use crate::base::text::one_line;
use crate::base::time;
use crate::events::cron::Schedule;
use crate::store::dir::{Dir, Stamp};

use self::file::Unusable;
use self::pace::EventWriter;

const DIR: &str = "events";
/// Directory entries that are read at most; the rest is ignored, with a warning.
const ENTRIES_MAX: usize = 50_000;
/// A run that was due longer ago than this is not made up for.
const LATE_MAX_MS: i64 = 24 * 3600 * 1000;
/// A periodic run that is late by more than this (a suspend, a clock set forward) is skipped.
const PERIODIC_LATE_MAX_MS: i64 = 5 * 60 * 1000;
/// Shortest time from one run of a periodic file to its next.
const PERIOD_MIN_MS: i64 = 60 * 1000;
/// Broken files that one prompt names at most, and channels that such notes wait for.
const NOTES_MAX: usize = 20;

/// Shared by the thread that watches and the workers.
#[derive(Clone)]
pub(crate) struct Events(Arc<EventsShared>);

struct EventsShared {
    dir: Arc<Dir>,
    state: Mutex<EventsState>,
}

#[derive(Default)]
struct EventsState {
    /// By file name.
    files: HashMap<String, EventFile>,
    /// Number of times the directory was read.
    scans: u64,
    /// Whether the last scan found more files than are read.
    is_full: bool,
    /// Notes for the next prompt, by channel; "" is the next prompt of any channel.
    notes: HashMap<String, Vec<String>>,
}

/// What is known about a file since its last change.
struct EventFile {
    stamp: Stamp,
    /// Number of the last scan that found the file.
    scan: u64,
    channel: String,
    writer: EventWriter,
    /// Due time, or `ts`, of the last run; it may be a run of the file's earlier content.
    last_ms: i64,
    plan: EventPlan,
}

enum EventPlan {
    Once {
        due_ms: i64,
    },
    Periodic {
        schedule: Box<Schedule>,
        next_ms: Option<i64>,
    },
    /// Queued under this `ts`; the file is removed when that run is on disk.
    Submitted {
        ts_ms: i64,
    },
    /// The file may be half written: it is set aside if it is still the same at `until_ms`.
    Unusable {
        until_ms: i64,
    },
    /// It could not be set aside, or removed after its run: it is ignored until it changes.
    LeftAlone,
}

impl EventFile {
    fn due_ms(&self) -> Option<i64> {
        match self.plan {
            EventPlan::Once { due_ms } => Some(due_ms),
            EventPlan::Periodic { next_ms, .. } => next_ms,
            EventPlan::Unusable { until_ms } => Some(until_ms),
            EventPlan::Submitted { .. } | EventPlan::LeftAlone => None,
        }
    }

    /// An entry that has no channel: the file can't be used.
    fn new(stamp: Stamp, plan: EventPlan) -> EventFile {
        EventFile {
            stamp,
            scan: 0,
            channel: String::new(),
            writer: EventWriter::Anyone,
            last_ms: i64::MIN,
            plan,
        }
    }

    /// Whether the file is queued under the `ts` of this job.
    fn is_of(&self, job: &Job, name: &str) -> bool {
        let ts = job.requests.first().map(|request| &request.ts);
        matches!(self.plan, EventPlan::Submitted { ts_ms } if ts == Some(&run_ts(ts_ms, name)))
    }
}

/// What became of a job that was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Uptake {
    Taken,
    /// Too many events wait in the channel. The callee has posted that there, once.
    Full,
    /// mom is shutting down: the file stays for the next start.
    Closing,
}

/// What the thread that watches needs from other modules. No lock is held during these calls.
pub(crate) struct Outside<'a> {
    pub(crate) submit: &'a mut dyn FnMut(Job) -> Uptake,
    /// Why mom can't post in a channel (unknown, not a member); `Ok` also when that can't be found
    /// out now. Called for every file, so the callee should remember the answer.
    pub(crate) channel: &'a mut dyn FnMut(&str) -> std::result::Result<(), String>,
    /// Whether a run is in progress somewhere: a file that appears now may come from its tools.
    pub(crate) is_working: &'a dyn Fn() -> bool,
    /// Posts a sentence in a channel.
    pub(crate) post: &'a mut dyn FnMut(&str, String),
}

impl Events {
    pub(crate) fn new(dir: Arc<Dir>) -> Events {
        Events(Arc::new(EventsShared {
            dir,
            state: Mutex::default(),
        }))
    }

    fn state(&self) -> MutexGuard<'_, EventsState> {
        self.0.state.lock().unwrap()
    }

    /// Events scheduled in a channel: due time in milliseconds and file name, soonest first.
    pub(crate) fn scheduled(&self, channel: &str) -> Vec<(i64, String)> {
        let state = self.state();
        let files = state.files.iter();
        let ours = files.filter(|(_, file)| file.channel == channel);
        let mut out: Vec<(i64, String)> = ours
            .filter_map(|(name, file)| Some((file.due_ms()?, name.clone())))
            .collect();
        out.sort_unstable();
        out
    }

    /// Notes about event files of this channel that were set aside since the last call, for
    /// `prompt::note`.
    pub(crate) fn notes(&self, channel: &str) -> Vec<String> {
        let mut state = self.state();
        let mut notes = state.notes.remove(channel).unwrap_or_default();
        notes.extend(state.notes.remove("").unwrap_or_default());
        notes
    }

    /// Whether the file of a waiting job is still there as it was read. If not, what is there now
    /// is a new event.
    pub(crate) fn stands(&self, job: &Job) -> bool {
        let Some(name) = &job.event else { return true };
        let state = self.state();
        state.files.get(name).is_some_and(|file| {
            let is_periodic = matches!(file.plan, EventPlan::Periodic { .. });
            (is_periodic || file.is_of(job, name)) && self.is_unchanged(name, &file.stamp)
        })
    }

    /// Called when an event's request is on disk (or was already, before a crash): removes its
    /// file, if it is still the one that was read.
    pub(crate) fn ran(&self, job: &Job) {
        let Some(name) = &job.event else { return };
        let mut state = self.state();
        let Some(file) = state.files.get_mut(name) else {
            return;
        };
        // The file has changed: it is a new event, which the next scan finds.
        if !file.is_of(job, name) || !self.is_unchanged(name, &file.stamp) {
            return;
        }
        if let Err(err) = self.0.dir.remove(&path_of(name)) {
            log::error!(&job.channel, "event {name} ran and can't be removed: {err}");
            file.plan = EventPlan::LeftAlone;
        } else {
            state.files.remove(name);
        }
    }

    fn is_unchanged(&self, name: &str, stamp: &Stamp) -> bool {
        self.0.dir.stamp_link(&path_of(name)) == Ok(Some(*stamp))
    }

    /// Reads the directory: returns the files that are new or have changed, by name, and forgets
    /// those that are gone.
    fn scan(&self) -> Result<Vec<(String, Stamp)>> {
        let mut state = self.state();
        state.scans += 1;
        let EventsState { files, scans, .. } = &mut *state;
        let mut changed = Vec::new();
        let count = self.0.dir.scan(DIR, ENTRIES_MAX, |name, stamp| {
            let known = files.get_mut(name);
            let is_same = known.as_ref().is_some_and(|file| file.stamp == stamp);
            if let Some(file) = known {
                file.scan = *scans;
            }
            if !is_same && name.ends_with(".json") {
                changed.push((name.to_owned(), stamp));
            }
        })?;
        files.retain(|_, file| file.scan == *scans);
        let was_full = std::mem::replace(&mut state.is_full, count > ENTRIES_MAX);
        if state.is_full && !was_full {
            log::warning!(
                "",
                "events/ has more than {ENTRIES_MAX} files, the rest is ignored"
            );
        }
        changed.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(changed)
    }

    /// Like `scan`, but looks only at these files.
    fn scan_files(&self, names: BTreeSet<String>) -> Result<Vec<(String, Stamp)>> {
        let mut state = self.state();
        let mut changed = Vec::new();
        for name in names {
            let known = state.files.get(&name).map(|file| file.stamp);
            match self.0.dir.stamp_link(&path_of(&name))? {
                None => drop(state.files.remove(&name)),
                stamp if stamp == known => {}
                Some(stamp) => changed.push((name, stamp)),
            }
        }
        Ok(changed)
    }

    /// Renames NAME.json to NAME.json.error, which has the reason, then the file's text. A file
    /// that is not text stays next to it as NAME.json.orig.
    fn set_aside(&self, name: &str, stamp: &Stamp, unusable: &Unusable) {
        let dir = &self.0.dir;
        let reason = one_line(&unusable.why, 500);
        let base = file::base(name);
        let channel = unusable.text.as_deref().map_or("", file::channel_in);
        let write = |rest: &str| {
            let body = format!("# mom did not run this: {reason}\n{rest}");
            dir.replace(&path_of(&format!("{base}.error")), body.as_bytes())
        };
        let done = match &unusable.text {
            Some(text) => write(&file::corrigible(text)).and_then(|()| {
                // If it has changed meanwhile, the next scan reads it again.
                if self.is_unchanged(name, stamp) {
                    dir.remove(&path_of(name))
                } else {
                    Ok(())
                }
            }),
            None => dir
                .rename(&path_of(name), &format!("{base}.orig"))
                .and_then(|()| write(&format!("# What was there is now {base}.orig.\n"))),
        };
        log::warning!(channel, "event {name} does not run: {}", unusable.why);
        let mut state = self.state();
        let name_shown = one_line(name, 255);
        state.note(
            channel,
            format!("Event file {DIR}/{name_shown} does not run: {reason}. See {base}.error"),
        );
        if let Err(err) = done {
            log::error!(channel, "event {name} can't be set aside: {err}");
            state.insert(name, EventFile::new(*stamp, EventPlan::LeftAlone));
        } else {
            state.files.remove(name);
        }
    }
}

impl EventsState {
    /// Whether a change reported by inotify needs a look: only changes of event files do, and their
    /// removal only if the file is known, because mom removes files itself.
    fn concerns(&self, name: &str, flags: ReadFlags) -> bool {
        let is_end = (ReadFlags::DELETE | ReadFlags::MOVED_FROM).contains(flags);
        name.ends_with(".json") && (!is_end || self.files.contains_key(name))
    }

    /// Puts a file into the schedule, in the place of its earlier entry.
    fn insert(&mut self, name: &str, file: EventFile) {
        let before = self.files.remove(name);
        let file = EventFile {
            scan: self.scans,
            last_ms: before.map_or(i64::MIN, |before| before.last_ms),
            ..file
        };
        self.files.insert(name.to_owned(), file);
    }

    /// Marks a file whose only run is about to be queued. Returns a `ts` that no run of the file's
    /// earlier content has: the kernel's file times advance in steps of some milliseconds.
    fn submitted(&mut self, name: &str, ts_ms: i64) -> i64 {
        let Some(file) = self.files.get_mut(name) else {
            return ts_ms;
        };
        file.last_ms = ts_ms.max(file.last_ms.saturating_add(1));
        file.plan = EventPlan::Submitted {
            ts_ms: file.last_ms,
        };
        file.last_ms
    }

    /// Returns the files that are due, soonest first; moves periodic ones on to their next time.
    fn take_due(&mut self, now_ms: i64) -> Vec<(i64, String)> {
        let mut out = Vec::new();
        for (name, file) in &mut self.files {
            let Some(due_ms) = file.due_ms().filter(|due_ms| *due_ms <= now_ms) else {
                continue;
            };
            if let EventPlan::Periodic { schedule, next_ms } = &mut file.plan {
                file.last_ms = due_ms;
                *next_ms = next_run(schedule, due_ms, now_ms);
                if now_ms - due_ms > PERIODIC_LATE_MAX_MS {
                    let when = time::prompt_stamp(due_ms);
                    log::info!(
                        &file.channel,
                        "event {name}: the run due at {when} was missed"
                    );
                    continue;
                }
            }
            out.push((due_ms, name.clone()));
        }
        out.sort_unstable();
        out
    }

    fn next_due_ms(&self) -> Option<i64> {
        self.files.values().filter_map(EventFile::due_ms).min()
    }

    /// Called after the wall clock was set: no run happens twice, none is lost.
    fn clock_was_set(&mut self, now_ms: i64) {
        for file in self.files.values_mut() {
            if let EventPlan::Periodic { schedule, next_ms } = &mut file.plan {
                // What is due by now is left for `take_due`.
                if next_ms.is_none_or(|next_ms| next_ms > now_ms) {
                    *next_ms = next_run(schedule, file.last_ms, now_ms);
                }
            }
        }
    }

    fn note(&mut self, channel: &str, note: String) {
        if self.notes.len() < NOTES_MAX || self.notes.contains_key(channel) {
            let notes = self.notes.entry(channel.to_owned()).or_default();
            if notes.len() < NOTES_MAX {
                notes.push(note);
            }
        }
    }
}

fn path_of(name: &str) -> String {
    format!("{DIR}/{name}")
}

/// The name of a run: the same after a restart, and different for each file due at that time.
fn run_ts(due_ms: i64, name: &str) -> String {
    format!("{due_ms}:{name}")
}

/// The next run, at least a minute after the last one and not before now. If the last run is more
/// than a day ahead, the clock was wrong at that time, and the run does not count.
fn next_run(schedule: &Schedule, last_ms: i64, now_ms: i64) -> Option<i64> {
    let after = if last_ms > now_ms.saturating_add(LATE_MAX_MS) {
        now_ms
    } else {
        now_ms.max(last_ms.saturating_add(PERIOD_MIN_MS - 1))
    };
    let after = Timestamp::from_millisecond(after).ok()?;
    schedule.next(after).map(Timestamp::as_millisecond)
}
