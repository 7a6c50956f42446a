//! Events: JSON files in events/ that wake her, now, once, or again and again.
//!
//! One thread sleeps in poll(2) until the directory changes (inotify) or something is due
//! (a timer on the wall clock, which also fires when that clock is set and after a suspend).
//! A file is looked at a moment after its last change, read whole, and kept here as a due
//! time; its text is read again when it fires. An immediate or one-shot file goes when its
//! run is on disk (`ran`), so that a crash in between makes it run late, not never: the run
//! is known by `Request::ts`, which is the same after a restart. What can't run becomes
//! NAME.json.error, with the reason inside.

pub(crate) mod cron;
mod file;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::agent::run::{Job, Request};
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::{Stop, poll_for};
use crate::base::text::one_line;
use crate::base::time;
use crate::events::cron::Schedule;
use crate::store::dir::{Dir, Kind, Stamp};

use self::file::{Event, When, channel_in, parse, read, without_comments};

const DIR: &str = "events";
/// Directory entries that are looked at; more are left alone, with a warning.
const ENTRIES_MAX: usize = 50_000;
/// A change is looked at this much later: what is written in pieces is read once.
const SETTLE: Duration = Duration::from_millis(100);
/// A file that is not valid may be half written: it has this long to change.
const MEND: Duration = Duration::from_secs(2);
/// After the directory was lost; each further pause is twice as long.
const REOPEN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// What was missed longer ago does not run any more.
const LATE_MAX_MS: i64 = 24 * 3600 * 1000;
/// From here on a run says that it is late.
const LATE_MS: i64 = 60 * 1000;
/// A periodic run missed by more (a suspend, a clock set forward) is left out.
const PERIODIC_LATE_MAX_MS: i64 = 5 * 60 * 1000;
/// Broken files she is told of in one prompt, and channels that wait for it.
const NOTES_MAX: usize = 20;

/// Shared by the thread that watches and those that ask.
#[derive(Clone)]
pub(crate) struct Events(Arc<Inner>);

struct Inner {
    dir: Arc<Dir>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By file name.
    files: HashMap<String, Known>,
    /// Milliseconds and file name of what has a due time.
    due: BTreeSet<(i64, String)>,
    /// Files to be looked at.
    looks: HashMap<String, Look>,
    /// What the next prompt of a channel tells; "" for the next one of any.
    notes: HashMap<String, Vec<String>>,
}

struct Known {
    stamp: Stamp,
    /// Of the content: a file written once more as it was is no new event.
    hash: u64,
    channel: String,
    plan: Plan,
    next_ms: Option<i64>,
}

enum Plan {
    /// `missed`: it may have been while mom was not running.
    Once { missed: bool },
    /// `last_ms`: due time of the last run.
    Periodic {
        schedule: Box<Schedule>,
        last_ms: i64,
    },
    /// Queued under this `ts`; the file goes when that run is on disk.
    Submitted { ts_ms: i64 },
    /// Could not be set aside, or removed after its run: left alone until it changes.
    Broken,
}

#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    /// It was not valid then, in this state, since this moment.
    bad: Option<(Stamp, Instant)>,
    /// Only made so far, not closed: what is not valid may be half written.
    open: bool,
}

/// What the world outside makes of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Uptake {
    Taken,
    /// Too many events wait in the channel. Whoever says so tells the channel, once.
    Full,
    /// mom is going down: the file stays for the next start.
    Closing,
}

/// What the thread that watches needs of others. Both are called without a lock held.
pub(crate) struct Outside<'a> {
    pub(crate) submit: &'a mut dyn FnMut(Job) -> Uptake,
    /// Why she can't speak in a channel (unknown, not a member). Asked for every file, so
    /// the answer is to be remembered; `Ok` when it can't be found out now.
    pub(crate) channel: &'a mut dyn FnMut(&str) -> std::result::Result<(), String>,
}

/// When a look happens.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The first scan: what it finds may have been missed.
    Start,
    Running,
}

impl Events {
    pub(crate) fn new(dir: Arc<Dir>) -> Events {
        Events(Arc::new(Inner {
            dir,
            state: Mutex::default(),
        }))
    }

    /// The thread's whole life: until `stop`.
    pub(crate) fn watch(&self, stop: &Stop, outside: &mut Outside<'_>) -> Result<()> {
        let timer = timerfd_create(
            TimerfdClockId::Realtime,
            TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK,
        )
        .map_err(|err| Error::failed(format!("cannot make a timer for events: {err}")))?;
        let mut watched: Option<OwnedFd> = None;
        let mut open_at = Instant::now();
        let mut phase = Phase::Start;
        let mut pause = REOPEN;
        while !stop.is_set() {
            if watched.is_none() && open_at <= Instant::now() {
                match self.open() {
                    Ok(fd) => {
                        watched = Some(fd);
                        pause = REOPEN;
                        self.scan(phase, outside);
                        phase = Phase::Running;
                    }
                    Err(err) => {
                        if pause == REOPEN {
                            log::error!("", "events don't work: {err}");
                        }
                        open_at = Instant::now() + pause;
                        pause = (pause * 2).min(RETRY_MAX);
                    }
                }
            }
            self.look_where_needed(time::now_ms(), outside);
            self.fire_due(time::now_ms(), outside);

            let (due_ms, look_at) = self.next_wake();
            arm(&timer, due_ms);
            let reopen = watched.is_none().then_some(open_at);
            let pause = look_at.into_iter().chain(reopen).min();
            let pause = pause.map(|at| at.saturating_duration_since(Instant::now()));
            let stop_fd = stop.fd();
            let mut fds = vec![
                PollFd::from_borrowed_fd(stop_fd, PollFlags::IN),
                PollFd::new(&timer, PollFlags::IN),
            ];
            if let Some(watched) = &watched {
                fds.push(PollFd::new(watched, PollFlags::IN));
            }
            poll_for(&mut fds, pause);

            let mut ticks = [0; 8];
            if rustix::io::read(&timer, &mut ticks) == Err(Errno::CANCELED) {
                self.clock_was_set(time::now_ms());
            }
            match watched.as_ref().map(|fd| self.read_changes(fd)) {
                None | Some(Changes::Noted) => {}
                Some(Changes::Overflow) => self.scan(Phase::Running, outside),
                Some(Changes::Lost) => {
                    // Someone may be putting another one in its place.
                    watched = None;
                    open_at = Instant::now() + REOPEN;
                }
            }
        }
        Ok(())
    }

    /// What is scheduled in a channel: file name and due time in milliseconds, soonest first.
    pub(crate) fn scheduled(&self, channel: &str) -> Vec<(String, i64)> {
        let state = self.0.state.lock().unwrap();
        let of_channel = state.due.iter().filter(|(_, name)| {
            state
                .files
                .get(name)
                .is_some_and(|known| known.channel == channel)
        });
        of_channel.map(|(ms, name)| (name.clone(), *ms)).collect()
    }

    /// Event files of this channel that were set aside since the last call, for
    /// `prompt::note`.
    pub(crate) fn notes(&self, channel: &str) -> Vec<String> {
        let mut state = self.0.state.lock().unwrap();
        let mut notes = state.notes.remove(channel).unwrap_or_default();
        notes.extend(state.notes.remove("").unwrap_or_default());
        notes
    }

    /// The file that a waiting job comes from is still there as it was read. If not, what is
    /// there now is taken up as a new one.
    pub(crate) fn stands(&self, job: &Job) -> bool {
        let Some(name) = &job.event else { return true };
        let now = self.0.dir.stamp_link(&format!("{DIR}/{name}"));
        let mut state = self.0.state.lock().unwrap();
        let Some(known) = state.files.get(name) else {
            return false;
        };
        let is_its = match known.plan {
            Plan::Submitted { ts_ms } => {
                job.requests.first().map(|a| &a.ts) == Some(&run_ts(ts_ms, name))
            }
            Plan::Periodic { .. } => true,
            Plan::Once { .. } | Plan::Broken => false,
        };
        let unchanged = matches!(now, Ok(Some(now)) if now == known.stamp);
        if is_its && !unchanged {
            state.forget(name);
        }
        is_its && unchanged
    }

    /// What an event asked is on disk (or was already, before a crash): its file goes, if it
    /// is still the one that was read.
    pub(crate) fn ran(&self, job: &Job) {
        let (Some(name), Some(asked)) = (&job.event, job.requests.first()) else {
            return;
        };
        let mut state = self.0.state.lock().unwrap();
        let stamp = match state.files.get(name) {
            Some(Known {
                plan: Plan::Submitted { ts_ms },
                stamp,
                ..
            }) if run_ts(*ts_ms, name) == asked.ts => *stamp,
            _ => return,
        };
        state.files.remove(name);
        drop(state);
        let path = format!("{DIR}/{name}");
        // Changed meanwhile: a new event, which the watching thread finds.
        if let Ok(Some(now)) = self.0.dir.stamp_link(&path) {
            if now == stamp {
                if let Err(err) = self.0.dir.remove(&path) {
                    log::error!(&job.channel, "event {name} ran and can't be removed: {err}");
                    self.leave_alone(name, &job.channel, stamp);
                }
            }
        }
    }

    /// Makes the directory when it is missing, and watches it.
    fn open(&self) -> Result<OwnedFd> {
        self.0.dir.make_dir(DIR)?;
        let Some(dir) = self.0.dir.open_dir(DIR)? else {
            return Err(Error::failed("events is not a directory"));
        };
        let watch = || {
            let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            // By way of its descriptor: what was opened beneath the data directory is watched.
            let path = format!("/proc/self/fd/{}", dir.as_raw_fd());
            let flags = WatchFlags::CLOSE_WRITE
                | WatchFlags::CREATE
                | WatchFlags::MOVE
                | WatchFlags::DELETE
                | WatchFlags::DELETE_SELF
                | WatchFlags::MOVE_SELF
                | WatchFlags::ONLYDIR;
            inotify::add_watch(&fd, path, flags)?;
            Ok(fd)
        };
        watch().map_err(|err: Errno| Error::failed(format!("cannot watch events/: {err}")))
    }

    fn read_changes(&self, watched: &OwnedFd) -> Changes {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(watched, &mut buffer);
        let mut changes = Changes::Noted;
        // Anything but an event is "no more for now": a broken descriptor shows as Lost.
        while let Ok(event) = reader.next() {
            let flags = event.events();
            let lost = ReadFlags::IGNORED
                | ReadFlags::DELETE_SELF
                | ReadFlags::MOVE_SELF
                | ReadFlags::UNMOUNT;
            if flags.intersects(lost) {
                return Changes::Lost;
            }
            if flags.contains(ReadFlags::QUEUE_OVERFLOW) {
                changes = Changes::Overflow;
            }
            let name = event.file_name().and_then(|name| name.to_str().ok());
            let Some(name) = name.filter(|name| name.ends_with(".json")) else {
                continue;
            };
            // A new file is looked at when it is closed. One that was made by a link is whole,
            // and may look like it when the link's other name is gone by now.
            let open = flags.contains(ReadFlags::CREATE) && self.is_being_written(name);
            if !self.look_later(name, open) {
                changes = Changes::Overflow;
            }
        }
        changes
    }

    fn is_being_written(&self, name: &str) -> bool {
        let stamp = self.0.dir.stamp_link(&format!("{DIR}/{name}"));
        matches!(stamp, Ok(Some(stamp)) if stamp.kind == Kind::File && stamp.links == 1)
    }

    /// False when too many wait for that.
    fn look_later(&self, name: &str, open: bool) -> bool {
        let at = Instant::now() + if open { MEND } else { SETTLE };
        let mut state = self.0.state.lock().unwrap();
        if state.looks.len() >= ENTRIES_MAX {
            return false;
        }
        let look = state.looks.entry(name.to_owned());
        let bad = None;
        let look = look.or_insert(Look { at, bad, open });
        look.at = look.at.min(at);
        look.open &= open;
        true
    }

    /// Every file that is new or changed, and what is gone.
    fn scan(&self, phase: Phase, outside: &mut Outside<'_>) {
        let entries = match self.0.dir.list(DIR, ENTRIES_MAX) {
            Ok(entries) => entries.unwrap_or_default(),
            Err(err) => {
                log::error!("", "events can't be read: {err}");
                return;
            }
        };
        if entries.len() >= ENTRIES_MAX {
            log::warning!(
                "",
                "events/ has more than {ENTRIES_MAX} files, the rest is left alone"
            );
        }
        let names: HashSet<String> = entries
            .into_iter()
            .map(|entry| entry.name)
            .filter(|name| name.ends_with(".json"))
            .collect();
        let known: Vec<String> = self.0.state.lock().unwrap().files.keys().cloned().collect();
        let gone = known.iter().filter(|name| !names.contains(*name));
        for name in gone.chain(&names) {
            let (at, bad, open) = (Instant::now(), None, false);
            self.look(name, Look { at, bad, open }, time::now_ms(), phase, outside);
        }
    }

    fn look_where_needed(&self, now_ms: i64, outside: &mut Outside<'_>) {
        let now = Instant::now();
        let mut state = self.0.state.lock().unwrap();
        let mut ripe = Vec::new();
        state.looks.retain(|name, look| {
            let later = look.at > now;
            if !later {
                ripe.push((name.clone(), *look));
            }
            later
        });
        drop(state);
        ripe.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (name, look) in ripe {
            self.look(&name, look, now_ms, Phase::Running, outside);
        }
    }

    /// Takes notice of a file as it is now.
    fn look(&self, name: &str, look: Look, now_ms: i64, phase: Phase, outside: &mut Outside<'_>) {
        let path = format!("{DIR}/{name}");
        let stamp = match self.0.dir.stamp_link(&path) {
            Ok(Some(stamp)) => stamp,
            Ok(None) => return self.forget(name),
            Err(err) => {
                log::warning!("", "event {name}: {err}");
                return;
            }
        };
        if self.is_known(name, &stamp) {
            return;
        }
        let (text, hash) = match read(&self.0.dir, &path, &stamp) {
            Ok(read) => read,
            Err(_) if look.open => return,
            Err(why) => return self.set_aside(name, "", &stamp, None, &why),
        };
        let event = match parse(&text) {
            Ok(event) => event,
            Err(_) if look.open => return,
            Err(why) => {
                let since = match look.bad {
                    Some((then, since)) if then == stamp => since,
                    _ => Instant::now(),
                };
                if since.elapsed() >= MEND {
                    let channel = channel_in(&text);
                    return self.set_aside(name, channel, &stamp, Some(&text), &why);
                }
                let look = Look {
                    at: since + MEND,
                    bad: Some((stamp, since)),
                    open: false,
                };
                self.0
                    .state
                    .lock()
                    .unwrap()
                    .looks
                    .insert(name.to_owned(), look);
                return;
            }
        };
        let channel = event.channel.clone();
        let placed = (outside.channel)(&channel)
            .and_then(|()| self.place(name, event, stamp, hash, now_ms, phase));
        if let Err(why) = placed {
            self.set_aside(name, &channel, &stamp, Some(&text), &why);
        }
    }

    /// Nothing has changed. A file written again as it was, while its run waits, has not.
    fn is_known(&self, name: &str, stamp: &Stamp) -> bool {
        let state = self.0.state.lock().unwrap();
        state
            .files
            .get(name)
            .is_some_and(|known| known.stamp == *stamp)
    }

    /// Takes a valid file into the schedule; an error is why it can't run.
    fn place(
        &self,
        name: &str,
        event: Event,
        stamp: Stamp,
        hash: u64,
        now_ms: i64,
        phase: Phase,
    ) -> std::result::Result<(), String> {
        let mut state = self.0.state.lock().unwrap();
        let mut last = i64::MIN;
        match state.files.get_mut(name) {
            Some(Known {
                plan: Plan::Submitted { .. },
                stamp: known,
                hash: known_hash,
                ..
            }) if *known_hash == hash => {
                *known = stamp;
                return Ok(());
            }
            Some(Known {
                plan: Plan::Periodic { last_ms, .. },
                ..
            }) => last = *last_ms,
            _ => {}
        }
        let (plan, next_ms) = match event.when {
            When::Now => {
                let written = stamp.modified_ms();
                if phase == Phase::Start && now_ms - written > LATE_MAX_MS {
                    let when = time::prompt_stamp(written);
                    return Err(format!(
                        "written at {when}, more than a day before mom started"
                    ));
                }
                let missed = phase == Phase::Start;
                // The clock may have been ahead when it was written.
                (Plan::Once { missed }, Some(written.min(now_ms)))
            }
            When::At { ms: at, local } => {
                if phase == Phase::Running && at < stamp.modified_ms().min(now_ms) {
                    let when = time::prompt_stamp(at);
                    return Err(format!(
                        "`at` ({when}) was past already when it was written"
                    ));
                }
                if now_ms - at > LATE_MAX_MS {
                    return Err(too_old(at));
                }
                if local {
                    let note = format!(
                        "Event {name}: `at` has no UTC offset, taken as {}, so {}",
                        time::zone_name(),
                        time::prompt_stamp(at)
                    );
                    log::info!(&event.channel, "{note}");
                    if phase == Phase::Running {
                        state.note(&event.channel, note);
                    }
                }
                (Plan::Once { missed: true }, Some(at))
            }
            When::Cron(schedule) => {
                let next = next_run(&schedule, last, now_ms);
                (
                    Plan::Periodic {
                        schedule,
                        last_ms: last,
                    },
                    next,
                )
            }
        };
        state.forget(name);
        if state.files.len() >= ENTRIES_MAX {
            return Err(format!("there are {ENTRIES_MAX} events already"));
        }
        if let Some(next) = next_ms {
            state.due.insert((next, name.to_owned()));
        }
        let known = Known {
            stamp,
            hash,
            channel: event.channel,
            plan,
            next_ms,
        };
        state.files.insert(name.to_owned(), known);
        Ok(())
    }

    fn fire_due(&self, now_ms: i64, outside: &mut Outside<'_>) {
        loop {
            let mut state = self.0.state.lock().unwrap();
            let State { files, due, .. } = &mut *state;
            let (due_ms, name) = match due.first() {
                Some(first) if first.0 <= now_ms => first.clone(),
                _ => return,
            };
            due.pop_first();
            let Some(known) = files.get_mut(&name) else {
                continue;
            };
            known.next_ms = None;
            let stamp = known.stamp;
            let mut left_out = false;
            let mut missed = false;
            match &mut known.plan {
                Plan::Once { missed: then } => missed = *then,
                Plan::Periodic { schedule, last_ms } => {
                    left_out = now_ms - due_ms > PERIODIC_LATE_MAX_MS;
                    *last_ms = due_ms;
                    known.next_ms = next_run(schedule, due_ms, now_ms);
                    due.extend(known.next_ms.map(|next| (next, name.clone())));
                }
                Plan::Submitted { .. } | Plan::Broken => {}
            }
            drop(state);
            if left_out {
                let when = time::prompt_stamp(due_ms);
                log::info!("", "event {name}: the run due at {when} was missed");
                continue;
            }
            self.fire(&name, &stamp, due_ms, now_ms, missed, outside);
        }
    }

    /// Hands a due event over. `missed`: it can be late.
    fn fire(
        &self,
        name: &str,
        stamp: &Stamp,
        due_ms: i64,
        now_ms: i64,
        missed: bool,
        outside: &mut Outside<'_>,
    ) {
        let path = format!("{DIR}/{name}");
        let unchanged = matches!(self.0.dir.stamp_link(&path), Ok(Some(now)) if now == *stamp);
        let read = read(&self.0.dir, &path, stamp).ok().filter(|_| unchanged);
        let Some((text, event)) =
            read.and_then(|(text, _)| parse(&text).ok().map(|event| (text, event)))
        else {
            // Changed in this moment: it is taken up as it is then.
            self.forget(name);
            self.look_later(name, false);
            return;
        };
        if missed && now_ms - due_ms > LATE_MAX_MS {
            let why = too_old(due_ms);
            return self.set_aside(name, &event.channel, stamp, Some(&text), &why);
        }
        let once = !matches!(event.when, When::Cron(_));
        let mut asked = format!(
            "[EVENT:{}:{}:{}] {}",
            one_line(name, 255),
            event.kind,
            one_line(&event.info, 200),
            event.text
        );
        if missed && now_ms - due_ms > LATE_MS {
            let when = time::prompt_stamp(due_ms);
            asked.push_str(&format!("\n\n(This runs late: it was due at {when}.)"));
        }
        // A copy with the times of what ran before is another event.
        let ts_ms = match event.when {
            When::Now => stamp.changed_ms(),
            _ => due_ms,
        };
        let job = Job {
            channel: event.channel.clone(),
            requests: vec![Request {
                ts: run_ts(ts_ms, name),
                user: "EVENT".to_owned(),
                text: asked,
                files: Vec::new(),
            }],
            thread_ts: None,
            event: Some(name.to_owned()),
            ..Job::default()
        };
        // Before the queue has it: the run may be on disk at once.
        if once {
            if let Some(known) = self.0.state.lock().unwrap().files.get_mut(name) {
                known.plan = Plan::Submitted { ts_ms };
            }
        }
        match (outside.submit)(job) {
            Uptake::Taken | Uptake::Closing => {}
            Uptake::Full => {
                log::warning!(
                    &event.channel,
                    "event {name} refused: too many wait in the channel"
                );
                if once {
                    let why = "refused: 5 events waited in the channel already. Put many things into one event";
                    self.set_aside(name, &event.channel, stamp, Some(&text), why);
                }
            }
        }
    }

    /// After the wall clock was set: no run twice, none lost.
    fn clock_was_set(&self, now_ms: i64) {
        let mut state = self.0.state.lock().unwrap();
        let State { files, due, .. } = &mut *state;
        for (name, known) in files.iter_mut() {
            // What is due by now is for `fire_due`.
            if let (Plan::Periodic { schedule, last_ms }, Some(next)) = (&known.plan, known.next_ms)
            {
                if next > now_ms {
                    due.remove(&(next, name.clone()));
                    known.next_ms = next_run(schedule, *last_ms, now_ms);
                    due.extend(known.next_ms.map(|next| (next, name.clone())));
                }
            }
        }
    }

    fn next_wake(&self) -> (Option<i64>, Option<Instant>) {
        let state = self.0.state.lock().unwrap();
        let due = state.due.first().map(|(ms, _)| *ms);
        (due, state.looks.values().map(|look| look.at).min())
    }

    fn forget(&self, name: &str) {
        self.0.state.lock().unwrap().forget(name);
    }

    /// NAME.json becomes NAME.json.error: the reason, then its text. What is no text stays
    /// beside it as NAME.json.orig.
    fn set_aside(&self, name: &str, channel: &str, stamp: &Stamp, text: Option<&str>, why: &str) {
        // With endings and while it is written, a name may have 255 bytes.
        let mut end = name.len().min(240);
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        let base = &name[..end];
        let path = format!("{DIR}/{name}");
        let reason = one_line(why, 500);
        let mut body = format!("# mom did not run this: {reason}\n");
        let write = |body: &str| {
            self.0
                .dir
                .replace(&format!("{DIR}/{base}.error"), body.as_bytes())
        };
        let done = match text {
            Some(text) => {
                body.push_str("# Mend it and rename it back to a name that ends in .json. Lines that begin with # may stay.\n");
                body.push_str(&without_comments(text));
                write(&body).and_then(|()| match self.0.dir.stamp_link(&path) {
                    Ok(Some(now)) if now == *stamp => self.0.dir.remove(&path),
                    // Changed meanwhile: it is looked at again.
                    _ => Ok(()),
                })
            }
            None => {
                body.push_str(&format!("# What was there is now {base}.orig.\n"));
                let renamed = self.0.dir.rename(&path, &format!("{base}.orig"));
                renamed.and_then(|()| write(&body))
            }
        };
        log::warning!(channel, "event {name} does not run: {why}");
        let mut state = self.0.state.lock().unwrap();
        state.forget(name);
        state.note(
            channel,
            format!(
                "Event file {DIR}/{} does not run: {reason}. See {base}.error",
                one_line(name, 255)
            ),
        );
        if let Err(err) = done {
            log::error!(channel, "event {name} can't be set aside: {err}");
            drop(state);
            self.leave_alone(name, channel, *stamp);
        }
    }

    /// Until it changes.
    fn leave_alone(&self, name: &str, channel: &str, stamp: Stamp) {
        let known = Known {
            stamp,
            hash: 0,
            channel: channel.to_owned(),
            plan: Plan::Broken,
            next_ms: None,
        };
        let mut state = self.0.state.lock().unwrap();
        if state.files.len() < ENTRIES_MAX {
            state.files.insert(name.to_owned(), known);
        }
    }
}

impl State {
    fn forget(&mut self, name: &str) {
        if let Some(Known {
            next_ms: Some(next),
            ..
        }) = self.files.remove(name)
        {
            self.due.remove(&(next, name.to_owned()));
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

enum Changes {
    Noted,
    /// Some were dropped by the kernel.
    Overflow,
    /// The directory was removed, renamed or replaced.
    Lost,
}

/// Names a run: the same after a restart, and another one for each file of a moment.
fn run_ts(due_ms: i64, name: &str) -> String {
    format!("{due_ms}:{name}")
}

/// The next run after the last one, and not before now. A clock that was set back by more
/// than a day was wrong before: the last run does not count.
fn next_run(schedule: &Schedule, last_ms: i64, now_ms: i64) -> Option<i64> {
    let after = if last_ms > now_ms.saturating_add(LATE_MAX_MS) {
        now_ms
    } else {
        now_ms.max(last_ms)
    };
    let after = Timestamp::from_millisecond(after).ok()?;
    schedule.next(after).map(Timestamp::as_millisecond)
}

/// Wakes poll at a wall clock time, or when that clock is set. `None`: never.
fn arm(timer: &OwnedFd, due_ms: Option<i64>) {
    let zero = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let value = due_ms.map_or(zero, |ms| Timespec {
        // 0 would disarm it.
        tv_sec: (ms / 1000).max(1),
        tv_nsec: ms.rem_euclid(1000) * 1_000_000,
    });
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    let spec = Itimerspec {
        it_interval: zero,
        it_value: value,
    };
    // ECANCELED: the clock was set just now, and the timer is armed all the same.
    if let Err(err) = timerfd_settime(timer, flags, &spec) {
        if err != Errno::CANCELED {
            log::error!("", "cannot set the timer for events: {err}");
        }
    }
}

fn too_old(due_ms: i64) -> String {
    format!(
        "it was due at {}, more than a day ago",
        time::prompt_stamp(due_ms)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt as _;
    use std::path::PathBuf;
    use std::sync::mpsc;
    use std::time::SystemTime;

    /// Noon of 5 January 2026, UTC: mom's start and all clocks here count from it.
    const START: i64 = 1_767_614_400_000;
    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 60 * MINUTE;
    /// A guard against a hang, never a measure.
    const GUARD: Duration = Duration::from_secs(30);

    /// A data directory, and what a queue would get.
    struct World {
        root: PathBuf,
        events: Events,
        jobs: Vec<Job>,
        uptake: Uptake,
    }

    impl World {
        fn new(name: &str) -> World {
            let root =
                std::env::temp_dir().join(format!("mom-events-{name}-{}", std::process::id()));
            fs::remove_dir_all(&root).ok();
            fs::create_dir_all(root.join(DIR)).unwrap();
            let dir = Arc::new(Dir::open(&root).unwrap());
            World {
                root,
                events: Events::new(dir),
                jobs: Vec::new(),
                uptake: Uptake::Taken,
            }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.root.join(DIR).join(name)
        }

        /// `rest` follows the channel and the text; written at this time.
        fn write(&self, name: &str, rest: &str, written_ms: i64) {
            let text = format!("{{\"channelId\":\"C1\",\"text\":\"do it\",{rest}}}");
            self.write_raw(name, &text, written_ms);
        }

        fn write_raw(&self, name: &str, text: &str, written_ms: i64) {
            let changed = || {
                let meta = fs::metadata(self.path(name)).ok()?;
                Some((meta.ctime(), meta.ctime_nsec() / 1_000_000))
            };
            let before = changed();
            // The kernel's clock for files goes in steps of some milliseconds: what is written
            // twice within one would count as one event.
            loop {
                fs::write(self.path(name), text).unwrap();
                let file = File::options().write(true).open(self.path(name)).unwrap();
                let time = SystemTime::UNIX_EPOCH + Duration::from_millis(written_ms as u64);
                file.set_modified(time).unwrap();
                if changed() != before {
                    return;
                }
            }
        }

        fn with(&mut self, act: impl FnOnce(&Events, &mut Outside<'_>)) {
            let World {
                events,
                jobs,
                uptake,
                ..
            } = self;
            let mut submit = |job| {
                if *uptake == Uptake::Taken {
                    jobs.push(job);
                }
                *uptake
            };
            let mut channel = |id: &str| match id {
                "C404" => Err("there is no channel C404".to_owned()),
                _ => Ok(()),
            };
            let mut outside = Outside {
                submit: &mut submit,
                channel: &mut channel,
            };
            act(events, &mut outside);
        }

        /// Reads all files at a time by the wall clock, then fires what is due.
        fn at(&mut self, now_ms: i64, phase: Phase) -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(self.root.join(DIR))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .filter(|name| name.ends_with(".json"))
                .collect();
            names.extend(self.events.0.state.lock().unwrap().files.keys().cloned());
            names.sort();
            self.with(|events, outside| {
                // As if it had been invalid for long already.
                let since = Instant::now().checked_sub(MEND).unwrap();
                for name in &names {
                    let stamp = events.0.dir.stamp_link(&format!("{DIR}/{name}")).unwrap();
                    let look = Look {
                        at: since,
                        bad: stamp.map(|stamp| (stamp, since)),
                        open: false,
                    };
                    events.look(name, look, now_ms, phase, outside);
                }
            });
            self.fire(now_ms)
        }

        fn fire(&mut self, now_ms: i64) -> Vec<String> {
            let before = self.jobs.len();
            self.with(|events, outside| events.fire_due(now_ms, outside));
            self.jobs[before..]
                .iter()
                .map(|job| job.requests[0].text.clone())
                .collect()
        }

        /// The reason inside a file that was set aside.
        fn reason(&self, name: &str) -> String {
            let text = fs::read_to_string(self.path(&format!("{name}.error")));
            text.map(|text| text.lines().next().unwrap_or_default().to_owned())
                .unwrap_or_default()
        }

        fn names(&self) -> String {
            let mut names: Vec<String> = fs::read_dir(self.root.join(DIR))
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names.join(" ")
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.root).ok();
        }
    }

    fn at(ms: i64) -> String {
        format!("\"type\":\"one-shot\",\"at\":\"{}\"", time::iso(ms))
    }

    const IMMEDIATE: &str = "\"type\":\"immediate\"";

    #[test]
    fn missed_while_away() {
        let mut world = World::new("missed");
        world.write("late.json", IMMEDIATE, START - HOUR);
        world.write("new.json", IMMEDIATE, START + 1);
        world.write("old.json", IMMEDIATE, START - 25 * HOUR);
        world.write("shot-late.json", &at(START - 2 * HOUR), START - 3 * HOUR);
        world.write("shot-old.json", &at(START - 25 * HOUR), START - 48 * HOUR);
        world.write("shot-ahead.json", &at(START + HOUR), START - 48 * HOUR);
        let got = world.at(START + 1000, Phase::Start);
        assert_eq!(got.len(), 3, "{got:?}");
        let shot = format!(
            "[EVENT:shot-late.json:one-shot:{}] do it\n\n(This runs late",
            time::iso(START - 2 * HOUR)
        );
        assert!(got[0].starts_with(&shot), "{got:?}");
        assert!(
            got[1].starts_with("[EVENT:late.json:immediate:immediate] do it\n\n(This runs late")
        );
        assert_eq!(got[2], "[EVENT:new.json:immediate:immediate] do it");
        assert!(
            world
                .reason("old.json")
                .contains("more than a day before mom started")
        );
        assert!(
            world
                .reason("shot-old.json")
                .contains("more than a day ago")
        );
        assert_eq!(
            world.events.scheduled("C1"),
            [("shot-ahead.json".to_owned(), START + HOUR)]
        );
        assert_eq!(world.events.scheduled("C2"), []);
        // Files go when their runs are on disk, each once.
        for job in world.jobs.clone() {
            world.events.ran(&job);
        }
        assert_eq!(
            world.names(),
            "old.json.error shot-ahead.json shot-old.json.error"
        );
        assert_eq!(world.fire(START + HOUR).len(), 1);
        assert_eq!(world.fire(START + HOUR), [""; 0]);
        assert_eq!(
            world.jobs[3].requests[0].ts,
            format!("{}:shot-ahead.json", START + HOUR)
        );
    }

    #[test]
    fn while_running() {
        let mut world = World::new("running");
        let now = START + HOUR;
        world.write("past.json", &at(now - MINUTE), now);
        world.write("just.json", &at(now - 10), now - 1000);
        world.write("far.json", &at(START + 400 * 24 * HOUR), now);
        // Its place in the past says nothing: someone moved it here.
        world.write("moved.json", IMMEDIATE, START - 48 * HOUR);
        assert_eq!(world.at(now, Phase::Running).len(), 2);
        assert!(
            world.reason("past.json").contains("past already"),
            "{}",
            world.reason("past.json")
        );
        assert_eq!(world.fire(now + 399 * 24 * HOUR), [""; 0]);
        assert_eq!(world.fire(START + 400 * 24 * HOUR).len(), 1);
        assert_eq!(
            world.events.notes("C1"),
            [format!(
                "Event file events/past.json does not run: {}. See past.json.error",
                world
                    .reason("past.json")
                    .trim_start_matches("# mom did not run this: ")
            )]
        );
        assert_eq!(world.events.notes("C1"), [""; 0]);
    }

    #[test]
    fn changed_while_its_run_waits() {
        let mut world = World::new("changed");
        let now = START + HOUR;
        world.write("a.json", IMMEDIATE, now);
        world.write("b.json", IMMEDIATE, now);
        assert_eq!(world.at(now, Phase::Running).len(), 2);
        // Saved once more as it was: the same event. With another text: a new one.
        world.write("a.json", IMMEDIATE, now + 5);
        world.write("b.json", "\"type\":\"immediate\",\"more\":1", now + 5);
        assert_eq!(world.at(now + 10, Phase::Running).len(), 1);
        let jobs = world.jobs.clone();
        world.events.ran(&jobs[0]);
        assert_eq!(world.names(), "b.json");
        world.events.ran(&jobs[1]);
        assert_eq!(world.names(), "b.json");
        world.events.ran(&jobs[2]);
        assert_eq!(world.names(), "");
    }

    #[test]
    fn periodic_and_a_clock_that_is_set() {
        let mut world = World::new("clock");
        let hourly = "\"type\":\"periodic\",\"schedule\":\"0 * * * *\",\"timezone\":\"UTC\"";
        world.write("p.json", hourly, START - 48 * HOUR);
        // Due at the very start of the minute it was read in: the next one.
        assert_eq!(world.at(START, Phase::Start), [""; 0]);
        assert_eq!(
            world.fire(START + HOUR),
            ["[EVENT:p.json:periodic:0 * * * *] do it"]
        );
        let next = |world: &World| (world.events.scheduled("C1")[0].1 - START) / HOUR;
        assert_eq!(next(&world), 2);
        // Back by half an hour: the same hour does not come twice.
        world.events.clock_was_set(START + HOUR / 2);
        assert_eq!((world.fire(START + HOUR).len(), next(&world)), (0, 2));
        // The file saved again in between changes nothing of that.
        world.write("p.json", hourly, START + 7);
        assert_eq!(
            (world.at(START + HOUR, Phase::Running).len(), next(&world)),
            (0, 2)
        );
        // A little late is still a run; three hours of suspend are none, and no storm.
        assert_eq!(
            (world.fire(START + 2 * HOUR + MINUTE).len(), next(&world)),
            (1, 3)
        );
        assert_eq!(
            (
                world.fire(START + 6 * HOUR + 10 * MINUTE).len(),
                next(&world)
            ),
            (0, 7)
        );
        // The clock was years ahead, and is put right.
        world.events.clock_was_set(START - 1000 * HOUR + MINUTE);
        assert_eq!(next(&world), -999);
        // Too many in the channel: this run is left out, the file stays.
        world.uptake = Uptake::Full;
        assert_eq!(
            (world.fire(START - 999 * HOUR).len(), next(&world)),
            (0, -998)
        );
        fs::remove_file(world.path("p.json")).unwrap();
        assert_eq!(world.at(START, Phase::Running), [""; 0]);
        assert_eq!(world.events.scheduled("C1"), []);
    }

    #[test]
    fn refused_and_closing() {
        let mut world = World::new("refused");
        world.write("a.json", IMMEDIATE, START);
        world.uptake = Uptake::Closing;
        assert_eq!(world.at(START, Phase::Start), [""; 0]);
        assert_eq!(world.names(), "a.json");
        world.write("b.json", &at(START), START);
        world.uptake = Uptake::Full;
        assert_eq!(world.at(START, Phase::Start), [""; 0]);
        assert_eq!(world.names(), "a.json b.json.error");
        assert!(world.reason("b.json").contains("5 events waited"));
    }

    #[test]
    fn bad_files_are_set_aside_and_mended() {
        let mut world = World::new("bad");
        let periodic = |schedule: &str, zone: &str| {
            format!("\"type\":\"periodic\",\"schedule\":\"{schedule}\",\"timezone\":\"{zone}\"")
        };
        for (name, rest, want) in [
            (
                "type",
                "\"type\":\"hourly\"".to_owned(),
                "immediate, one-shot and periodic",
            ),
            ("no-type", "\"x\":1".to_owned(), "\"type\" is missing"),
            (
                "no-at",
                "\"type\":\"one-shot\"".to_owned(),
                "\"at\" is missing",
            ),
            (
                "at",
                "\"type\":\"one-shot\",\"at\":\"tomorrow\"".to_owned(),
                "write it like 20",
            ),
            (
                "at-number",
                "\"type\":\"one-shot\",\"at\":1767614400}".to_owned(),
                "not valid JSON",
            ),
            (
                "no-zone",
                "\"type\":\"periodic\",\"schedule\":\"0 9 * * *\"".to_owned(),
                "\"timezone\" is missing",
            ),
            ("zone", periodic("0 9 * * *", "Vienna"), "Europe/Vienna"),
            ("cron", periodic("0 24 * * *", "UTC"), "the nearest is 0"),
            ("json", "\"type\":".to_owned(), "not valid JSON"),
        ] {
            let name = format!("{name}.json");
            world.write(&name, &rest, START);
            world.at(START, Phase::Running);
            assert!(
                world.reason(&name).contains(want),
                "{name}: {}",
                world.reason(&name)
            );
            assert!(!world.path(&name).exists(), "{name}");
        }
        assert_eq!(world.events.notes("C1").len(), 9);
        for (name, text, want) in [
            (
                "channel",
                "{\"type\":\"immediate\",\"channelId\":\"C404\",\"text\":\"x\"}",
                "no channel C404",
            ),
            (
                "path",
                "{\"type\":\"immediate\",\"channelId\":\"../C1\",\"text\":\"x\"}",
                "no channel id",
            ),
            (
                "blank",
                "{\"type\":\"immediate\",\"channelId\":\"C1\",\"text\":\" \"}",
                "\"text\" is missing",
            ),
            ("list", "[1]", "not a JSON object"),
            ("empty", "", "not valid JSON"),
            ("deep", &"[".repeat(60_000), "not valid JSON"),
        ] {
            let name = format!("{name}.json");
            world.write_raw(&name, text, START);
            world.at(START, Phase::Running);
            assert!(
                world.reason(&name).contains(want),
                "{name}: {}",
                world.reason(&name)
            );
        }
        assert_eq!(world.jobs.len(), 0);

        // Only the value mended and the name put back, as the file itself says.
        let text = fs::read_to_string(world.path("type.json.error")).unwrap();
        world.write_raw("type.json", &text.replace("hourly", "immediate"), START);
        assert_eq!(world.at(START, Phase::Running).len(), 1);
    }

    #[test]
    fn what_is_no_text_is_kept_beside_the_reason() {
        let mut world = World::new("odd");
        fs::write(world.path("binary.json"), [0xff; 100]).unwrap();
        File::create(world.path("huge.json"))
            .unwrap()
            .set_len(100 << 20)
            .unwrap();
        fs::create_dir(world.path("dir.json")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", world.path("link.json")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            world.path("fifo.json"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        let long = format!("{}.json", "n".repeat(250));
        fs::write(world.path(&long), "no").unwrap();
        assert_eq!(world.at(START, Phase::Start), [""; 0]);
        for (name, want) in [
            ("binary", "UTF-8"),
            ("huge", "larger than"),
            ("dir", "directory"),
            ("link", "regular file"),
            ("fifo", "regular file"),
        ] {
            let name = format!("{name}.json");
            assert!(
                world.reason(&name).contains(want),
                "{name}: {}",
                world.reason(&name)
            );
            assert!(!world.path(&name).exists(), "{name}");
            assert!(
                fs::symlink_metadata(world.path(&format!("{name}.orig"))).is_ok(),
                "{name}"
            );
        }
        assert!(!world.path(&long).exists());
        // For the channel, which is not known.
        assert_eq!(world.events.notes("C7").len(), 6);
    }

    /// The thread itself: files that come in all ways, and a directory that goes.
    #[test]
    fn watches() {
        let world = World::new("watch");
        let (events, stop) = (world.events.clone(), Stop::new());
        let (sender, jobs) = mpsc::channel();
        let thread = std::thread::spawn({
            let stop = stop.clone();
            move || {
                let mut submit = |job: Job| {
                    sender.send(job).unwrap();
                    Uptake::Taken
                };
                let mut channel = |_: &str| Ok(());
                let mut outside = Outside {
                    submit: &mut submit,
                    channel: &mut channel,
                };
                events.watch(&stop, &mut outside)
            }
        });
        let next = || jobs.recv_timeout(GUARD).unwrap().event.unwrap();
        let text = "{\"type\":\"immediate\",\"channelId\":\"C1\",\"text\":\"x\"}";

        // What the thread has seen of this one shows that it watches.
        fs::write(world.path("first.json"), text).unwrap();
        assert_eq!(next(), "first.json");
        // In pieces: valid only with the last one.
        let (head, tail) = text.split_at(20);
        fs::write(world.path("pieces.json"), head).unwrap();
        let mut file = File::options()
            .append(true)
            .open(world.path("pieces.json"))
            .unwrap();
        std::io::Write::write_all(&mut file, tail.as_bytes()).unwrap();
        drop(file);
        assert_eq!(next(), "pieces.json");
        // By rename, by hard link.
        fs::write(world.path("temporary"), text).unwrap();
        fs::hard_link(world.path("temporary"), world.path("linked.json")).unwrap();
        assert_eq!(next(), "linked.json");
        fs::rename(world.path("temporary"), world.path("renamed.json")).unwrap();
        assert_eq!(next(), "renamed.json");
        // Another directory in its place, with a file in it already; then none at all.
        fs::create_dir(world.root.join("other")).unwrap();
        fs::write(world.root.join("other/moved.json"), text).unwrap();
        fs::rename(world.root.join(DIR), world.root.join("away")).unwrap();
        fs::rename(world.root.join("other"), world.root.join(DIR)).unwrap();
        assert_eq!(next(), "moved.json");
        // A time ahead that comes.
        let soon = Timestamp::from_millisecond(time::now_ms() + 700).unwrap();
        let text = text.replace("immediate\"", &format!("one-shot\",\"at\":\"{soon}\""));
        fs::write(world.path("soon.json"), text).unwrap();
        assert_eq!(next(), "soon.json");
        stop.set(crate::base::stop::Cause::Restart);
        thread.join().unwrap().unwrap();
    }
}
