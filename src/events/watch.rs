//! The thread that watches events/. It sleeps in poll(2) until the directory changes (inotify) or
//! something is due (a timer on the wall clock, which also fires when that clock is set and after a
//! suspend). inotify says which files to look at; what is in the directory counts, not what inotify
//! says about it. The whole directory is read at the start, and when there are too many changes to
//! name. A file is parsed when it is new or has changed; one that can't be used may be half written
//! and gets a moment to be completed.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::agent::run::Job;
use crate::base::backoff::Backoff;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::{Stop, poll_for};
use crate::base::text::{escape, one_line};
use crate::base::time;
use crate::events::cron::Schedule;
use crate::store::dir::Stamp;
use crate::store::ledger::LedgerRequest;

use super::file::{self, Event, Unusable, When};
use super::pace::{EventPace, EventWriter};
use super::{
    DIR, ENTRIES_MAX, EventFile, EventPlan, Events, LATE_MAX_MS, Outside, PERIOD_MIN_MS, Uptake,
    next_run, path_of, run_ts,
};

/// A file that can't be used may be half written: it has this long to change.
const COMPLETE_MS: i64 = 2_000;
/// Pause before the directory is opened again: someone may be putting another one in its place.
const REOPEN: Duration = Duration::from_secs(2);
const REOPEN_MAX: Duration = Duration::from_secs(30);
/// After a scan, the next one waits this many times as long as the scan took: with 10,000 files
/// that change all the time, there are some ten scans a second.
const REST: u32 = 9;
/// With more changed files than this, the whole directory is read.
const CHANGED_MAX: usize = 100;
/// Usual time from creating a file to closing it.
const CLOSES: Duration = Duration::from_millis(5);
/// A run that is later than this says so in its text.
const LATE_MS: i64 = 60 * 1000;

struct EventWatch<'a, 'b> {
    events: &'a Events,
    outside: &'a mut Outside<'b>,
    phase: Phase,
    pace: EventPace,
    /// `None`: the directory could not be opened, or was lost.
    inotify: Option<OwnedFd>,
    reopening: Backoff,
    /// The files that the next scan looks at; `None`: all.
    changed: Option<BTreeSet<String>>,
    /// When the directory is to be opened or read next; `None`: when it changes.
    look_at: Option<Instant>,
    rest_until: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The first scan: events that it finds may be overdue.
    Start,
    Running,
}

impl Events {
    /// Runs the thread until `stop`.
    pub(crate) fn watch(&self, stop: &Stop, outside: &mut Outside<'_>) -> Result<()> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags)
            .map_err(|err| Error::failed(format!("cannot make a timer for events: {err}")))?;
        let mut watch = EventWatch::new(self, outside);
        while !stop.is_set() {
            if watch.look_at.is_some_and(|at| at <= Instant::now()) {
                watch.look_at = None;
                watch.look_at_directory();
            }
            watch.fire_due(time::now_ms());

            arm(&timer, self.state().next_due_ms());
            let mut fds = vec![
                PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN),
                PollFd::new(&timer, PollFlags::IN),
            ];
            let idle = watch.inotify.as_ref().filter(|_| watch.look_at.is_none());
            fds.extend(idle.map(|fd| PollFd::new(fd, PollFlags::IN)));
            let pause = watch
                .look_at
                .map(|at| at.saturating_duration_since(Instant::now()));
            poll_for(&mut fds, pause);

            let mut ticks = [0; 8];
            if rustix::io::read(&timer, &mut ticks) == Err(Errno::CANCELED) {
                self.state().clock_was_set(time::now_ms());
            }
            watch.read_changes();
        }
        Ok(())
    }

    /// Creates the directory when it is missing, and watches it.
    fn open(&self) -> Result<OwnedFd> {
        self.0.dir.make_dir(DIR)?;
        let Some(dir) = self.0.dir.open_dir(DIR)? else {
            let next = "move it away (mv), then mom makes the directory";
            return Err(Error::failed(format!("events is not a directory; {next}")));
        };
        let open = || {
            let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            // By its descriptor: exactly the directory that was opened is watched.
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
        open().map_err(|err: Errno| Error::failed(format!("cannot watch events/: {err}")))
    }
}

impl<'a, 'b> EventWatch<'a, 'b> {
    fn new(events: &'a Events, outside: &'a mut Outside<'b>) -> EventWatch<'a, 'b> {
        EventWatch {
            events,
            outside,
            phase: Phase::Start,
            pace: EventPace::new(),
            inotify: None,
            reopening: Backoff::new(REOPEN, REOPEN_MAX),
            changed: None,
            look_at: Some(Instant::now()),
            rest_until: Instant::now(),
        }
    }

    fn look_at_directory(&mut self) {
        if self.inotify.is_none() {
            match self.events.open() {
                Ok(fd) => self.inotify = Some(fd),
                Err(err) => {
                    if self.reopening.failures() == 0 {
                        log::error!("", "events don't work: {err}");
                    }
                    self.look_at = Some(Instant::now() + self.reopening.next_pause());
                    return;
                }
            }
            self.reopening.reset();
        }
        self.scan(time::now_ms());
    }

    /// Reads which files have changed; the scan will show how.
    fn read_changes(&mut self) {
        let Some(fd) = &self.inotify else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(fd, &mut buffer);
        let mut all = ReadFlags::empty();
        while let Ok(event) = reader.next() {
            match event.file_name().map(CStr::to_str) {
                Some(Ok(name)) if self.events.state().concerns(name, event.events()) => {
                    add(&mut self.changed, name);
                }
                Some(_) => continue,
                // It is about the directory, or some changes were not reported (IN_Q_OVERFLOW).
                None => self.changed = None,
            }
            all |= event.events();
        }
        let lost =
            ReadFlags::IGNORED | ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::UNMOUNT;
        if all.intersects(lost) {
            self.inotify = None;
            self.look_at = Some(Instant::now() + REOPEN);
        } else if !all.is_empty() {
            // Usually a new file is closed at once; before that it is incomplete.
            let is_made = all == ReadFlags::CREATE;
            let pause = if is_made { CLOSES } else { Duration::ZERO };
            self.look_at = Some(self.rest_until.max(Instant::now() + pause));
        }
    }

    fn scan(&mut self, now_ms: i64) {
        let since = Instant::now();
        let found = match self.changed.replace(BTreeSet::new()) {
            Some(names) if self.events.state().files.len() < ENTRIES_MAX => {
                self.events.scan_files(names)
            }
            // Of too many files some are ignored, which only this finds out.
            _ => self.events.scan(),
        };
        self.rest_until = Instant::now() + since.elapsed() * REST;
        match found {
            Ok(found) => {
                for (name, stamp) in found {
                    self.look(&name, stamp, now_ms);
                }
                self.phase = Phase::Running;
            }
            Err(err) => {
                log::error!("", "events can't be read: {err}");
                self.changed = None;
            }
        }
    }

    /// Reads a file that is new or has changed.
    fn look(&mut self, name: &str, stamp: Stamp, now_ms: i64) {
        let (text, event) = match file::load(&self.events.0.dir, &path_of(name), &stamp) {
            Ok(loaded) => loaded,
            Err(_) => {
                let until_ms = now_ms + COMPLETE_MS;
                let file = EventFile::new(stamp, EventPlan::Unusable { until_ms });
                return self.events.state().insert(name, file);
            }
        };
        let placed = (self.outside.channel)(&event.channel);
        if let Err(why) = placed.and_then(|()| self.place(name, event, stamp, now_ms)) {
            let text = Some(text);
            self.events.set_aside(name, &stamp, &Unusable { why, text });
        }
    }

    /// Puts a valid file into the schedule; an error says why it can't run.
    fn place(
        &mut self,
        name: &str,
        event: Event,
        stamp: Stamp,
        now_ms: i64,
    ) -> std::result::Result<(), String> {
        self.explain(name, &event, now_ms);
        let writer = match event.when {
            _ if self.phase == Phase::Running && (self.outside.is_working)() => EventWriter::Tools,
            When::Cron(_) => EventWriter::Owner,
            When::Now | When::At { .. } => EventWriter::Anyone,
        };
        let mut state = self.events.state();
        let before = state.files.get(name);
        let last_ms = before.map_or(i64::MIN, |before| before.last_ms);
        let file = EventFile {
            channel: event.channel,
            writer,
            ..EventFile::new(
                stamp,
                plan(event.when, &stamp, self.phase, last_ms, now_ms)?,
            )
        };
        state.insert(name, file);
        Ok(())
    }

    /// Posts what the writer of a schedule may not expect.
    fn explain(&mut self, name: &str, event: &Event, now_ms: i64) {
        let is_often = |schedule: &Schedule| schedule.has_shorter_period(now_ms, PERIOD_MIN_MS);
        if !matches!(&event.when, When::Cron(schedule) if is_often(schedule)) {
            return;
        }
        let note = format!("Event {name} is due more than once a minute; it runs once a minute");
        log::info!(&event.channel, "{note}");
        if self.phase == Phase::Running {
            (self.outside.post)(&event.channel, format!("_{}_", escape(&note)));
            self.events.state().note(&event.channel, note);
        }
    }

    fn fire_due(&mut self, now_ms: i64) {
        let due = self.events.state().take_due(now_ms);
        for (due_ms, name) in due {
            self.fire(&name, due_ms, now_ms);
        }
    }

    /// A file is due: reads it again, and submits its event or sets the file aside.
    fn fire(&mut self, name: &str, due_ms: i64, now_ms: i64) {
        let known = {
            let state = self.events.state();
            let file = state.files.get(name);
            file.map(|file| (file.stamp, file.writer))
        };
        let Some((stamp, writer)) = known else { return };
        let loaded = file::load(&self.events.0.dir, &path_of(name), &stamp);
        if !self.events.is_unchanged(name, &stamp) {
            // It changed at this moment: the next scan reads it again.
            self.events.state().files.remove(name);
            add(&mut self.changed, name);
            self.look_at = Some(self.rest_until);
            return;
        }
        let (text, event) = match loaded {
            Ok(loaded) => loaded,
            Err(unusable) => return self.events.set_aside(name, &stamp, &unusable),
        };
        let is_periodic = matches!(event.when, When::Cron(_));
        let channel = event.channel.clone();
        let submitted = if is_periodic {
            self.submit(name, job(name, event, due_ms, None), writer, now_ms)
        } else {
            self.submit_once(name, event, (stamp, writer), due_ms, now_ms)
        };
        match submitted {
            Err(why) if is_periodic => {
                log::warning!(&channel, "event {name} does not run now: {why}");
            }
            Err(why) => {
                let text = Some(text);
                self.events.set_aside(name, &stamp, &Unusable { why, text });
            }
            Ok(()) => {}
        }
    }

    /// Submits the only run of a file; an error says why it does not run.
    fn submit_once(
        &mut self,
        name: &str,
        event: Event,
        (stamp, writer): (Stamp, EventWriter),
        due_ms: i64,
        now_ms: i64,
    ) -> std::result::Result<(), String> {
        if now_ms - due_ms > LATE_MAX_MS {
            return Err(too_old(due_ms));
        }
        let earliest_ms = self.pace.earliest_ms(name, now_ms);
        if earliest_ms > now_ms {
            let mut state = self.events.state();
            if let Some(file) = state.files.get_mut(name) {
                file.plan = EventPlan::Once {
                    due_ms: earliest_ms,
                };
            }
            return Ok(());
        }
        // A copy with the times of a file that ran before is another event.
        let ts_ms = match event.when {
            When::Now => stamp.changed_ms,
            When::At { .. } | When::Cron(_) => due_ms,
        };
        // Marked before it is queued, because the run may be on disk at once.
        let ts_ms = self.events.state().submitted(name, ts_ms);
        let late_ms = (now_ms - due_ms > LATE_MS).then_some(due_ms);
        self.submit(name, job(name, event, ts_ms, late_ms), writer, now_ms)
    }

    /// Submits a run; an error says why it is refused.
    fn submit(
        &mut self,
        name: &str,
        job: Job,
        writer: EventWriter,
        now_ms: i64,
    ) -> std::result::Result<(), String> {
        let channel = job.channel.clone();
        if let Some(why) = self.pace.refuses(&channel, writer, now_ms) {
            // Too many runs in the last hour: this is posted in the channel, once an hour.
            if self.pace.should_notify(&channel, now_ms) {
                let name = escape(&one_line(name, 255));
                let text = format!(
                    "_I left out the event {name}: {why}. I leave out further ones until there is room_"
                );
                (self.outside.post)(&channel, text);
            }
            return Err(format!("refused: {why}. Rename it back later"));
        }
        match (self.outside.submit)(job) {
            Uptake::Taken => self.pace.ran(&channel, name, writer, now_ms),
            Uptake::Closing => {}
            Uptake::Full => {
                return Err(
                    "refused: 5 events waited in the channel already. Put many things into one event"
                        .to_owned(),
                );
            }
        }
        Ok(())
    }
}

fn add(changed: &mut Option<BTreeSet<String>>, name: &str) {
    if let Some(names) = changed {
        names.insert(name.to_owned());
    }
    changed.take_if(|names| names.len() > CHANGED_MAX);
}

/// When a file that was found now runs; an error says why it does not.
fn plan(
    when: When,
    stamp: &Stamp,
    phase: Phase,
    last_ms: i64,
    now_ms: i64,
) -> std::result::Result<EventPlan, String> {
    // The clock may have been ahead when it was written.
    let written_ms = stamp.modified_ms().min(now_ms);
    let when_written = time::prompt_stamp(written_ms);
    let due_ms = match when {
        When::Cron(schedule) => {
            return Ok(EventPlan::Periodic {
                next_ms: next_run(&schedule, last_ms, now_ms),
                schedule,
            });
        }
        // Someone moved it here: its old times say nothing about its age, only about the order.
        When::Now if phase == Phase::Running => written_ms.max(now_ms - LATE_MS),
        When::Now if now_ms - written_ms > LATE_MAX_MS => {
            return Err(format!(
                "written at {when_written}, more than a day before mom started"
            ));
        }
        When::Now => written_ms,
        When::At { ms } if phase == Phase::Running && ms < written_ms => {
            let when = time::prompt_stamp(ms);
            return Err(format!(
                "`at` ({when}) was past already when it was written"
            ));
        }
        When::At { ms } if now_ms - ms > LATE_MAX_MS => return Err(too_old(ms)),
        When::At { ms } => ms,
    };
    Ok(EventPlan::Once { due_ms })
}

fn too_old(due_ms: i64) -> String {
    let when = time::prompt_stamp(due_ms);
    format!("it was due at {when}, more than a day ago")
}

/// `late_ms`: when it was due, if the text is to say that it runs late.
fn job(name: &str, event: Event, ts_ms: i64, late_ms: Option<i64>) -> Job {
    let (kind, info) = (event.kind, one_line(&event.info, 200));
    let mut text = format!(
        "[EVENT:{}:{kind}:{info}] {}",
        one_line(name, 255),
        event.text
    );
    if let Some(due_ms) = late_ms {
        let when = time::prompt_stamp(due_ms);
        text.push_str(&format!("\n\n(This runs late: it was due at {when}.)"));
    }
    Job {
        channel: event.channel,
        requests: vec![LedgerRequest {
            ts: run_ts(ts_ms, name),
            user: "EVENT".to_owned(),
            text,
            event: Some(name.to_owned()),
            ..LedgerRequest::default()
        }],
        event: Some(name.to_owned()),
        ..Job::default()
    }
}

/// Makes poll return at a wall clock time, or when that clock is set. `None`: never.
fn arm(timer: &OwnedFd, due_ms: Option<i64>) {
    let zero = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let value = due_ms.map_or(zero, |ms| Timespec {
        // 0 would disarm the timer.
        tv_sec: (ms / 1000).max(1),
        tv_nsec: ms.rem_euclid(1000) * 1_000_000,
    });
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    let spec = Itimerspec {
        it_interval: zero,
        it_value: value,
    };
    // ECANCELED: the clock was set just now, and the timer is armed nevertheless.
    if let Err(err) = timerfd_settime(timer, flags, &spec) {
        if err != Errno::CANCELED {
            log::error!("", "cannot set the timer for events: {err}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt as _;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::SystemTime;

    use crate::store::dir::Dir;

    /// Noon of 5 January 2026, UTC: mom's start and all clocks here count from it.
    const START: i64 = 1_767_614_400_000;
    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 60 * MINUTE;
    const IMMEDIATE: &str = "\"type\":\"immediate\"";

    /// A data directory, and the jobs that the queue would receive.
    struct World {
        root: PathBuf,
        events: Events,
        jobs: Vec<Job>,
        uptake: Uptake,
        posted: Vec<String>,
        pace: EventPace,
    }

    impl World {
        fn new(name: &str) -> World {
            let root =
                std::env::temp_dir().join(format!("mom-events-{name}-{}", std::process::id()));
            fs::remove_dir_all(&root).ok();
            fs::create_dir_all(root.join(DIR)).unwrap();
            World {
                events: Events::new(Arc::new(Dir::open(&root).unwrap())),
                root,
                jobs: Vec::new(),
                uptake: Uptake::Taken,
                posted: Vec::new(),
                pace: EventPace::new(),
            }
        }

        /// `rest` follows the channel and the text; written at this time.
        fn write(&self, name: &str, rest: &str, written_ms: i64) {
            let path = self.root.join(path_of(name));
            let text = format!("{{\"channelId\":\"C1\",\"text\":\"do it\",{rest}}}");
            let changed = || {
                let meta = fs::metadata(&path).ok()?;
                Some((meta.ctime(), meta.ctime_nsec() / 1_000_000))
            };
            let before = changed();
            // The kernel's clock for files goes in steps of some milliseconds: what is written
            // twice within one would count as one event.
            loop {
                fs::write(&path, &text).unwrap();
                let file = File::options().write(true).open(&path).unwrap();
                let time = SystemTime::UNIX_EPOCH + Duration::from_millis(written_ms as u64);
                file.set_modified(time).unwrap();
                if changed() != before {
                    return;
                }
            }
        }

        /// The texts of the jobs that result from it.
        fn with(&mut self, act: impl FnOnce(&mut EventWatch<'_, '_>)) -> Vec<String> {
            let before = self.jobs.len();
            let mut submit = |job| {
                if self.uptake == Uptake::Taken {
                    self.jobs.push(job);
                }
                self.uptake
            };
            let mut outside = Outside {
                submit: &mut submit,
                channel: &mut |_| Ok(()),
                is_working: &|| false,
                post: &mut |_, text| self.posted.push(text),
            };
            let mut watch = EventWatch::new(&self.events, &mut outside);
            watch.pace = std::mem::replace(&mut self.pace, EventPace::new());
            act(&mut watch);
            self.pace = watch.pace;
            let texts = self.jobs[before..]
                .iter()
                .map(|job| job.requests[0].text.clone());
            texts.collect()
        }

        /// Reads all files at a time by the wall clock, then fires what is due.
        fn at(&mut self, now_ms: i64, phase: Phase) -> Vec<String> {
            self.with(|watch| {
                watch.phase = phase;
                watch.scan(now_ms);
                watch.fire_due(now_ms);
            })
        }

        fn fire(&mut self, now_ms: i64) -> Vec<String> {
            self.with(|watch| watch.fire_due(now_ms))
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

    #[test]
    fn a_time_far_ahead_is_waited_for() {
        let mut world = World::new("far");
        world.write("just.json", &at(START - 10), START - 1000);
        world.write("far.json", &at(START + 400 * 24 * HOUR), START);
        assert_eq!(world.at(START, Phase::Running).len(), 1);
        assert_eq!(world.fire(START + 399 * 24 * HOUR), [""; 0]);
        assert_eq!(world.fire(START + 400 * 24 * HOUR).len(), 1);
    }

    #[test]
    fn a_half_written_file_gets_a_moment() {
        let mut world = World::new("half");
        let half = world.root.join(path_of("half.json"));
        fs::write(&half, "{\"type\":").unwrap();
        assert_eq!(world.at(START, Phase::Running), [""; 0]);
        assert_eq!(world.fire(START + COMPLETE_MS - 1), [""; 0]);
        world.write("half.json", IMMEDIATE, START);
        assert_eq!(world.at(START + COMPLETE_MS, Phase::Running).len(), 1);
        fs::write(&half, "{}").unwrap();
        world.at(START, Phase::Running);
        world.fire(START + COMPLETE_MS);
        let error = fs::read_to_string(half.with_extension("json.error")).unwrap();
        assert!(error.contains("\"type\" is missing"), "{error}");
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
        let next = |world: &World| (world.events.scheduled("C1")[0].0 - START) / HOUR;
        assert_eq!(next(&world), 2);
        // Back by half an hour: the same hour does not come twice.
        world.events.state().clock_was_set(START + HOUR / 2);
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
        world
            .events
            .state()
            .clock_was_set(START - 1000 * HOUR + MINUTE);
        assert_eq!(next(&world), -999);
        // Too many in the channel: this run is left out, the file stays.
        world.uptake = Uptake::Full;
        assert_eq!(
            (world.fire(START - 999 * HOUR).len(), next(&world)),
            (0, -998)
        );
        fs::remove_file(world.root.join(path_of("p.json"))).unwrap();
        assert_eq!(world.at(START, Phase::Running), [""; 0]);
        assert_eq!(world.events.scheduled("C1"), []);
    }

    #[test]
    fn at_most_one_run_a_minute() {
        let mut world = World::new("minute");
        let often = "\"type\":\"periodic\",\"schedule\":\"*/10 * * * * *\",\"timezone\":\"UTC\"";
        world.write("often.json", often, START);
        assert_eq!(world.at(START, Phase::Running), [""; 0]);
        assert!(
            world.posted[0].contains("it runs once a minute"),
            "{:?}",
            world.posted
        );
        let runs = |world: &mut World, from: i64, to: i64| -> usize {
            (from..to).map(|s| world.fire(START + s * 1000).len()).sum()
        };
        assert_eq!(runs(&mut world, 0, 200), 4);
    }

    #[test]
    fn only_files_that_changed_are_looked_at() {
        let mut world = World::new("changed");
        let root = world.root.clone();
        let path = |name: &str| root.join(path_of(name));
        let text = format!(
            "{{\"channelId\":\"C1\",\"text\":\"x\",{}}}",
            at(START + HOUR)
        );
        let put = |name: &str| fs::write(path(name), &text).unwrap();
        let read = |watch: &mut EventWatch<'_, '_>, want: &[&str]| {
            let want = want.iter().map(ToString::to_string).collect();
            watch.read_changes();
            assert_eq!(watch.changed, Some(want));
        };
        let scan = |watch: &mut EventWatch<'_, '_>| {
            watch.scan(START);
            watch.events.scheduled("C1").len()
        };
        world.with(|watch| {
            watch.inotify = Some(watch.events.open().unwrap());
            assert_eq!(scan(watch), 0);
            ["a.json", "b.json", "c.json", "d.tmp"]
                .into_iter()
                .for_each(put);
            read(watch, &["a.json", "b.json", "c.json"]);
            // Gone before it is looked at, and not reported yet.
            fs::remove_file(path("b.json")).unwrap();
            put("late.json");
            assert_eq!(scan(watch), 2);
            fs::remove_file(path("a.json")).unwrap();
            put("c.json");
            read(watch, &["a.json", "c.json", "late.json"]);
            assert_eq!(scan(watch), 2);
            (0..=CHANGED_MAX).for_each(|n| put(&format!("{n}.json")));
            watch.read_changes();
            assert_eq!(watch.changed, None);
            assert_eq!(scan(watch), CHANGED_MAX + 3);
        });
    }

    /// Changed within one step of the kernel's clock, while its first run waits.
    #[test]
    fn what_is_in_a_file_now_has_a_run_of_its_own() {
        let mut world = World::new("own");
        let submit = |world: &mut World| {
            world.with(|watch| {
                let event = file::parse("{\"type\":\"one-shot\",\"channelId\":\"C1\",\"text\":\"x\",\"at\":\"2026-01-05\"}");
                let stamp = watch.events.0.dir.stamp_link(DIR).unwrap().unwrap();
                let plan = EventPlan::Once { due_ms: START };
                watch.events.state().insert("a.json", EventFile::new(stamp, plan));
                let known = (stamp, EventWriter::Anyone);
                watch.submit_once("a.json", event.unwrap(), known, START, START).unwrap();
            })
        };
        submit(&mut world);
        submit(&mut world);
        let ts = |job: &Job| job.requests[0].ts.clone();
        assert_ne!(ts(&world.jobs[0]), ts(&world.jobs[1]));
    }

    #[test]
    fn a_file_stays_when_mom_is_going_down() {
        let mut world = World::new("closing");
        world.write("a.json", IMMEDIATE, START);
        world.uptake = Uptake::Closing;
        assert_eq!(world.at(START, Phase::Start), [""; 0]);
        assert!(world.root.join(path_of("a.json")).exists());
    }
}
