//! Events: JSON files in events/ that wake mom, now, once, or again and again.
//!
//! In come files, out go jobs (`Outside::submit`). The state is one entry a file, owned here
//! and shared by the thread that watches the directory (`watch.rs`) and the workers that run
//! the jobs. A file's text is not kept: it is read again when the event fires. An immediate
//! or one-shot file is removed when its run is on disk (`ran`), so that a crash in between
//! makes it run late, not never; the run is known by its `ts`, which is the same after a
//! restart. What can't run becomes NAME.json.error, with the reason inside.

pub(crate) mod cron;
mod file;
mod pace;
mod watch;

use std::collections::HashMap;
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
/// Directory entries that are looked at; more are left alone, with a warning.
const ENTRIES_MAX: usize = 50_000;
/// What was missed longer ago does not run any more.
const LATE_MAX_MS: i64 = 24 * 3600 * 1000;
/// A periodic run missed by more (a suspend, a clock set forward) is left out.
const PERIODIC_LATE_MAX_MS: i64 = 5 * 60 * 1000;
/// From one run of a periodic file to its next at least.
const PERIOD_MIN_MS: i64 = 60 * 1000;
/// Broken files that one prompt names, and channels that wait for it.
const NOTES_MAX: usize = 20;

/// Shared by the thread that watches and those that ask.
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
    /// How often the directory was read.
    scans: u64,
    /// The last time it had more files than are looked at.
    is_full: bool,
    /// What the next prompt of a channel says; "" for the next one of any.
    notes: HashMap<String, Vec<String>>,
}

/// What is known of a file since it changed last.
struct EventFile {
    stamp: Stamp,
    /// The scan that saw it last.
    scan: u64,
    channel: String,
    writer: EventWriter,
    /// Due time, or `ts`, of the last run, also of what was in the file before.
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
    /// Queued under this `ts`; the file goes when that run is on disk.
    Submitted {
        ts_ms: i64,
    },
    /// It may be half written: it is set aside when it is the same then.
    Unusable {
        until_ms: i64,
    },
    /// Could not be set aside, or removed after its run: nothing is done until it changes.
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

    /// Of no channel: a file that can't be used.
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

    /// Queued, and under the `ts` of this job.
    fn is_of(&self, job: &Job, name: &str) -> bool {
        let ts = job.requests.first().map(|request| &request.ts);
        matches!(self.plan, EventPlan::Submitted { ts_ms } if ts == Some(&run_ts(ts_ms, name)))
    }
}

/// What became of a job that was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Uptake {
    Taken,
    /// Too many events wait in the channel. Whoever says so tells the channel, once.
    Full,
    /// mom is going down: the file stays for the next start.
    Closing,
}

/// What the thread that watches needs of others. All are called without a lock held.
pub(crate) struct Outside<'a> {
    pub(crate) submit: &'a mut dyn FnMut(Job) -> Uptake,
    /// Why mom can't speak in a channel (unknown, not a member). Asked for every file, so
    /// the answer is to be remembered; `Ok` when it can't be found out now.
    pub(crate) channel: &'a mut dyn FnMut(&str) -> std::result::Result<(), String>,
    /// A run is in work somewhere: a file that appears now may come from its tools.
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

    /// What is scheduled in a channel: file name and due time in milliseconds, soonest first.
    pub(crate) fn scheduled(&self, channel: &str) -> Vec<(String, i64)> {
        let state = self.state();
        let files = state.files.iter();
        let ours = files.filter(|(_, file)| file.channel == channel);
        let mut out: Vec<(String, i64)> = ours
            .filter_map(|(name, file)| Some((name.clone(), file.due_ms()?)))
            .collect();
        out.sort_unstable_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
        out
    }

    /// Event files of this channel that were set aside since the last call, for
    /// `prompt::note`.
    pub(crate) fn notes(&self, channel: &str) -> Vec<String> {
        let mut state = self.state();
        let mut notes = state.notes.remove(channel).unwrap_or_default();
        notes.extend(state.notes.remove("").unwrap_or_default());
        notes
    }

    /// The file that a waiting job comes from is still there as it was read. If not, what is
    /// there now is a new event.
    pub(crate) fn stands(&self, job: &Job) -> bool {
        let Some(name) = &job.event else { return true };
        let state = self.state();
        state.files.get(name).is_some_and(|file| {
            let is_periodic = matches!(file.plan, EventPlan::Periodic { .. });
            (is_periodic || file.is_of(job, name)) && self.is_unchanged(name, &file.stamp)
        })
    }

    /// An event's request is on disk (or was already, before a crash): its file is removed,
    /// if it is still the one that was read.
    pub(crate) fn ran(&self, job: &Job) {
        let Some(name) = &job.event else { return };
        let mut state = self.state();
        let Some(file) = state.files.get_mut(name) else {
            return;
        };
        // Changed meanwhile: a new event, which the next scan finds.
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

    /// Reads the directory: gives the files that are new or have changed, by name, and forgets
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
                "events/ has more than {ENTRIES_MAX} files, the rest is left alone"
            );
        }
        changed.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(changed)
    }

    /// NAME.json becomes NAME.json.error: the reason, then its text. What is no text stays
    /// beside it as NAME.json.orig.
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
                // Changed meanwhile: it is looked at again.
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
    /// Not of a file that is no event, and not of the end of one that is not known: mom itself
    /// has removed it.
    fn concerns(&self, name: &str, flags: ReadFlags) -> bool {
        let is_end = (ReadFlags::DELETE | ReadFlags::MOVED_FROM).contains(flags);
        name.ends_with(".json") && (!is_end || self.files.contains_key(name))
    }

    /// Takes a file into the schedule, in the place of what it was before.
    fn insert(&mut self, name: &str, file: EventFile) {
        let before = self.files.remove(name);
        let file = EventFile {
            scan: self.scans,
            last_ms: before.map_or(i64::MIN, |before| before.last_ms),
            ..file
        };
        self.files.insert(name.to_owned(), file);
    }

    /// A file's only run is about to be queued. Gives its `ts`, which no run of what was in
    /// the file before has: the kernel's clock for files goes in steps of some milliseconds.
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

    /// Files that are due, soonest first; periodic ones are moved on to their next time.
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

    /// After the wall clock was set: no run twice, none lost.
    fn clock_was_set(&mut self, now_ms: i64) {
        for file in self.files.values_mut() {
            if let EventPlan::Periodic { schedule, next_ms } = &mut file.plan {
                // What is due by now is for `take_due`.
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

/// Names a run: the same after a restart, and another one for each file of a moment.
fn run_ts(due_ms: i64, name: &str) -> String {
    format!("{due_ms}:{name}")
}

/// The next run at least a minute after the last one, and not before now. A clock that was
/// set back by more than a day was wrong before: the last run does not count.
fn next_run(schedule: &Schedule, last_ms: i64, now_ms: i64) -> Option<i64> {
    let after = if last_ms > now_ms.saturating_add(LATE_MAX_MS) {
        now_ms
    } else {
        now_ms.max(last_ms.saturating_add(PERIOD_MIN_MS - 1))
    };
    let after = Timestamp::from_millisecond(after).ok()?;
    schedule.next(after).map(Timestamp::as_millisecond)
}
