//! The thread that watches events/. It sleeps in poll(2) until the directory changes
//! (inotify) or something is due (a timer on the wall clock, which also fires when that clock
//! is set and after a suspend). A file is read as soon as it changes; one that can't be used
//! may be half written and gets a moment to become whole.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::inotify::{self, ReadFlags, WatchFlags};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use crate::agent::run::{Job, Request};
use crate::base::backoff::Backoff;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::{Stop, poll_for};
use crate::base::text::{escape, one_line};
use crate::base::time;
use crate::store::dir::{Kind, Stamp};

use super::file::{self, Event, Unusable, When};
use super::pace::{EventPace, EventWriter};
use super::{
    DIR, ENTRIES_MAX, EventFile, EventPlan, Events, LATE_MAX_MS, Outside, PERIOD_MIN_MS, Uptake,
    next_run, path_of, run_ts,
};

/// A file that can't be used may be half written: it has this long to change.
const MEND: Duration = Duration::from_secs(2);
/// After the directory was lost: someone may be putting another one in its place.
const REOPEN: Duration = Duration::from_secs(2);
const REOPEN_MAX: Duration = Duration::from_secs(30);
/// From here on a run says that it is late.
const LATE_MS: i64 = 60 * 1000;

struct EventWatch<'a, 'b> {
    events: &'a Events,
    outside: &'a mut Outside<'b>,
    phase: Phase,
    pace: EventPace,
    /// Files to be looked at.
    changed: BTreeSet<String>,
    /// Made, and not closed yet.
    writing: HashSet<String>,
    /// They could not be used then, in this state, since this moment.
    invalid: HashMap<String, (Stamp, Instant)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The first listing: what it finds may have been missed.
    Start,
    Running,
}

#[derive(PartialEq, Eq)]
enum Watched {
    Still,
    /// The directory was removed, renamed or replaced.
    Lost,
}

impl Events {
    /// The thread's whole life: until `stop`.
    pub(crate) fn watch(&self, stop: &Stop, outside: &mut Outside<'_>) -> Result<()> {
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timer = timerfd_create(TimerfdClockId::Realtime, flags)
            .map_err(|err| Error::failed(format!("cannot make a timer for events: {err}")))?;
        let mut watch = EventWatch::new(self, outside);
        let mut watched: Option<OwnedFd> = None;
        let mut open_at = Instant::now();
        let mut backoff = Backoff::new(REOPEN, REOPEN_MAX);
        while !stop.is_set() {
            if watched.is_none() && open_at <= Instant::now() {
                match self.open() {
                    Ok(fd) => {
                        watched = Some(fd);
                        backoff.reset();
                        watch.list(time::now_ms());
                    }
                    Err(err) => {
                        if backoff.failures() == 0 {
                            log::error!("", "events don't work: {err}");
                        }
                        open_at = Instant::now() + backoff.next_pause();
                    }
                }
            }
            watch.look_at_changed(time::now_ms());
            watch.fire_due(time::now_ms());

            arm(&timer, self.next_due_ms());
            let reopen = watched.is_none().then_some(open_at);
            let wake = watch.look_again_at().into_iter().chain(reopen).min();
            let pause = wake.map(|at| at.saturating_duration_since(Instant::now()));
            let mut fds = vec![
                PollFd::from_borrowed_fd(stop.fd(), PollFlags::IN),
                PollFd::new(&timer, PollFlags::IN),
            ];
            fds.extend(watched.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
            poll_for(&mut fds, pause);

            let mut ticks = [0; 8];
            if rustix::io::read(&timer, &mut ticks) == Err(Errno::CANCELED) {
                self.clock_was_set(time::now_ms());
            }
            if watched.as_ref().map(|fd| watch.read_changes(fd)) == Some(Watched::Lost) {
                watched = None;
                open_at = Instant::now() + REOPEN;
            }
        }
        Ok(())
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
}

impl<'a, 'b> EventWatch<'a, 'b> {
    fn new(events: &'a Events, outside: &'a mut Outside<'b>) -> EventWatch<'a, 'b> {
        EventWatch {
            events,
            outside,
            phase: Phase::Start,
            pace: EventPace::new(),
            changed: BTreeSet::new(),
            writing: HashSet::new(),
            invalid: HashMap::new(),
        }
    }

    fn read_changes(&mut self, watched: &OwnedFd) -> Watched {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(watched, &mut buffer);
        let mut overflow = false;
        // Anything but an event is "no more for now": a broken descriptor shows as Lost.
        while let Ok(event) = reader.next() {
            let flags = event.events();
            let lost = ReadFlags::IGNORED
                | ReadFlags::DELETE_SELF
                | ReadFlags::MOVE_SELF
                | ReadFlags::UNMOUNT;
            if flags.intersects(lost) {
                return Watched::Lost;
            }
            overflow |= flags.contains(ReadFlags::QUEUE_OVERFLOW);
            let name = event.file_name().and_then(|name| name.to_str().ok());
            let Some(name) = name.filter(|name| name.ends_with(".json")) else {
                continue;
            };
            if flags.contains(ReadFlags::CREATE) {
                self.writing.insert(name.to_owned());
            } else {
                self.writing.remove(name);
            }
            self.changed.insert(name.to_owned());
            overflow |= self.changed.len().max(self.writing.len()) > ENTRIES_MAX;
        }
        if overflow {
            self.writing.clear();
            self.list(time::now_ms());
        }
        Watched::Still
    }

    /// Looks at every file, and at what is gone.
    fn list(&mut self, now_ms: i64) {
        let entries = match self.events.0.dir.list(DIR, ENTRIES_MAX) {
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
        let known: Vec<String> = {
            let state = self.events.0.state.lock().unwrap();
            state.files.keys().cloned().collect()
        };
        let names = entries.into_iter().map(|entry| entry.name);
        self.changed = names
            .filter(|name| name.ends_with(".json"))
            .chain(known)
            .collect();
        self.look_at_changed(now_ms);
        self.phase = Phase::Running;
    }

    fn look_at_changed(&mut self, now_ms: i64) {
        let mut names = std::mem::take(&mut self.changed);
        let ripe = self
            .invalid
            .iter()
            .filter(|(_, (_, since))| since.elapsed() >= MEND);
        names.extend(ripe.map(|(name, _)| name.clone()));
        for name in names {
            self.look(&name, now_ms);
        }
    }

    fn look_again_at(&self) -> Option<Instant> {
        let first = self.invalid.values().map(|(_, since)| *since + MEND).min();
        if self.changed.is_empty() {
            first
        } else {
            Some(Instant::now())
        }
    }

    /// Takes notice of a file as it is now.
    fn look(&mut self, name: &str, now_ms: i64) {
        let dir = &self.events.0.dir;
        let stamp = match dir.stamp_link(&path_of(name)) {
            Ok(Some(stamp)) => stamp,
            Ok(None) => {
                self.forget(name);
                self.invalid.remove(name);
                self.writing.remove(name);
                return;
            }
            Err(err) => {
                log::warning!("", "event {name}: {err}");
                return;
            }
        };
        {
            let state = self.events.0.state.lock().unwrap();
            if state
                .files
                .get(name)
                .is_some_and(|file| file.stamp == stamp)
            {
                return;
            }
        }
        let (text, event) = match file::load(dir, &path_of(name), &stamp) {
            Ok(loaded) => loaded,
            Err(unusable) => return self.cannot_use(name, stamp, &unusable),
        };
        self.invalid.remove(name);
        let placed = (self.outside.channel)(&event.channel);
        if let Err(why) = placed.and_then(|()| self.place(name, event, stamp, now_ms)) {
            let text = Some(text);
            self.events.set_aside(name, &stamp, &Unusable { why, text });
        }
    }

    fn cannot_use(&mut self, name: &str, stamp: Stamp, unusable: &Unusable) {
        // A file that was made by a link is never closed.
        if self.writing.contains(name) && stamp.kind == Kind::File && stamp.links == 1 {
            return;
        }
        let since = match self.invalid.get(name) {
            Some((then, since)) if *then == stamp => *since,
            _ => Instant::now(),
        };
        if since.elapsed() < MEND {
            self.invalid.insert(name.to_owned(), (stamp, since));
        } else {
            self.invalid.remove(name);
            self.events.set_aside(name, &stamp, unusable);
        }
    }

    /// Takes a valid file into the schedule; an error is why it can't run.
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
        let mut state = self.events.0.state.lock().unwrap();
        let mut last_ms = i64::MIN;
        match state.files.get_mut(name) {
            // Saved once more as it was, while its run waits.
            Some(EventFile {
                plan: EventPlan::Submitted { .. },
                stamp: known,
                hash,
                ..
            }) if *hash == event.hash => {
                *known = stamp;
                return Ok(());
            }
            Some(EventFile {
                plan: EventPlan::Periodic { last_ms: last, .. },
                ..
            }) => last_ms = *last,
            _ => {}
        }
        let file = EventFile {
            stamp,
            hash: event.hash,
            channel: event.channel,
            writer,
            plan: plan(event.when, &stamp, self.phase, last_ms, now_ms)?,
        };
        if state.files.len() >= ENTRIES_MAX && !state.files.contains_key(name) {
            return Err(format!("there are {ENTRIES_MAX} events already"));
        }
        state.files.insert(name.to_owned(), file);
        Ok(())
    }

    /// Says how a valid file is understood, where its writer may have meant something else.
    fn explain(&mut self, name: &str, event: &Event, now_ms: i64) {
        let note = match &event.when {
            When::At { ms, local: true } => format!(
                "Event {name}: `at` has no UTC offset, taken as {}, so {}",
                time::zone_name(),
                time::prompt_stamp(*ms)
            ),
            When::Cron(schedule) if schedule.has_shorter_period(now_ms, PERIOD_MIN_MS) => {
                format!("Event {name} is due more than once a minute; it runs once a minute")
            }
            When::Now | When::At { .. } | When::Cron(_) => return,
        };
        log::info!(&event.channel, "{note}");
        if self.phase == Phase::Start {
            return;
        }
        if let When::Cron(_) = event.when {
            (self.outside.post)(&event.channel, format!("_{}_", escape(&note)));
        }
        let mut state = self.events.0.state.lock().unwrap();
        state.note(&event.channel, note);
    }

    fn fire_due(&mut self, now_ms: i64) {
        for (due_ms, name) in self.events.take_due(now_ms) {
            self.fire(&name, due_ms, now_ms);
        }
    }

    /// Hands a due event over.
    fn fire(&mut self, name: &str, due_ms: i64, now_ms: i64) {
        let known = {
            let state = self.events.0.state.lock().unwrap();
            state.files.get(name).map(|file| (file.stamp, file.writer))
        };
        let Some((stamp, writer)) = known else { return };
        let dir = &self.events.0.dir;
        let now = dir.stamp_link(&path_of(name));
        let unchanged = matches!(now, Ok(Some(now)) if now == stamp);
        let loaded = file::load(dir, &path_of(name), &stamp).ok();
        let Some((text, event)) = loaded.filter(|_| unchanged) else {
            // Changed in this moment: it is looked at as it is then.
            self.forget(name);
            self.changed.insert(name.to_owned());
            return;
        };
        let is_once = !matches!(event.when, When::Cron(_));
        let channel = event.channel.clone();
        let refuse = |why: String| {
            if is_once {
                let text = Some(text.clone());
                self.events.set_aside(name, &stamp, &Unusable { why, text });
            } else {
                log::warning!(&channel, "event {name} does not run now: {why}");
            }
        };
        if is_once && now_ms - due_ms > LATE_MAX_MS {
            return refuse(too_old(due_ms));
        }
        if let Some(why) = self.refused(name, &event.channel, writer, now_ms) {
            return refuse(why);
        }
        let earliest_ms = self.pace.earliest_ms(name, now_ms);
        if is_once && earliest_ms > now_ms {
            return self.plan_once(
                name,
                EventPlan::Once {
                    due_ms: earliest_ms,
                },
            );
        }
        // A copy with the times of what ran before is another event.
        let ts_ms = match event.when {
            When::Now => stamp.changed_ms(),
            _ => due_ms,
        };
        // Before the queue has it: the run may be on disk at once.
        if is_once {
            self.plan_once(name, EventPlan::Submitted { ts_ms });
        }
        let late_ms = (is_once && now_ms - due_ms > LATE_MS).then_some(due_ms);
        match (self.outside.submit)(job(name, event, ts_ms, late_ms)) {
            Uptake::Taken => self.pace.ran(&channel, name, writer, now_ms),
            Uptake::Closing => {}
            Uptake::Full => refuse(
                "refused: 5 events waited in the channel already. Put many things into one event"
                    .to_owned(),
            ),
        }
    }

    /// Too many runs of the last hour: said in the channel, once an hour.
    fn refused(
        &mut self,
        name: &str,
        channel: &str,
        writer: EventWriter,
        now_ms: i64,
    ) -> Option<String> {
        let why = self.pace.refuses(channel, writer, now_ms)?;
        if self.pace.should_notify(channel, now_ms) {
            let name = escape(&one_line(name, 255));
            let text = format!(
                "_I left out the event {name}: {why}. I leave out further ones until there is room_"
            );
            (self.outside.post)(channel, text);
        }
        Some(format!("refused: {why}. Rename it back later"))
    }

    fn plan_once(&self, name: &str, plan: EventPlan) {
        let mut state = self.events.0.state.lock().unwrap();
        if let Some(file) = state.files.get_mut(name) {
            file.plan = plan;
        }
    }

    fn forget(&self, name: &str) {
        self.events.0.state.lock().unwrap().files.remove(name);
    }
}

/// When a file that was found now runs; an error is why it does not.
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
                last_ms,
            });
        }
        // Its old times say nothing: someone moved it here. But they say which came first.
        When::Now if phase == Phase::Running => written_ms.max(now_ms - LATE_MS),
        When::Now if now_ms - written_ms > LATE_MAX_MS => {
            return Err(format!(
                "written at {when_written}, more than a day before mom started"
            ));
        }
        When::Now => written_ms,
        When::At { ms, .. } if phase == Phase::Running && ms < written_ms => {
            let when = time::prompt_stamp(ms);
            return Err(format!(
                "`at` ({when}) was past already when it was written"
            ));
        }
        When::At { ms, .. } if now_ms - ms > LATE_MAX_MS => return Err(too_old(ms)),
        When::At { ms, .. } => ms,
    };
    Ok(EventPlan::Once { due_ms })
}

fn too_old(due_ms: i64) -> String {
    let when = time::prompt_stamp(due_ms);
    format!("it was due at {when}, more than a day ago")
}

/// `late_ms`: since when it is due, if that is to be said.
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
        requests: vec![Request {
            ts: run_ts(ts_ms, name),
            user: "EVENT".to_owned(),
            text,
            files: Vec::new(),
        }],
        event: Some(name.to_owned()),
        ..Job::default()
    }
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

    /// A data directory, and what a queue would get.
    struct World {
        root: PathBuf,
        events: Events,
        jobs: Vec<Job>,
        uptake: Uptake,
        working: bool,
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
                working: false,
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

        /// The texts of the jobs that it leads to.
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
                is_working: &|| self.working,
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
                watch.list(now_ms);
                watch.fire_due(now_ms);
            })
        }

        fn fire(&mut self, now_ms: i64) -> Vec<String> {
            self.with(|watch| watch.fire_due(now_ms))
        }

        /// The reason inside a file that was set aside.
        fn reason(&self, name: &str) -> String {
            let text = fs::read_to_string(self.root.join(path_of(&format!("{name}.error"))));
            text.map(|text| text.lines().next().unwrap_or_default().to_owned())
                .unwrap_or_default()
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
    fn while_running() {
        let mut world = World::new("running");
        let now = START + HOUR;
        world.write("just.json", &at(now - 10), now - 1000);
        world.write("far.json", &at(START + 400 * 24 * HOUR), now);
        // Its place in the past says nothing: someone moved it here.
        world.write("moved.json", IMMEDIATE, START - 48 * HOUR);
        assert_eq!(world.at(now, Phase::Running).len(), 2);
        assert_eq!(world.fire(now + 399 * 24 * HOUR), [""; 0]);
        assert_eq!(world.fire(START + 400 * 24 * HOUR).len(), 1);
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
        // Likewise a file that is put there again and again: the second time at once.
        fs::remove_file(world.root.join(path_of("often.json"))).unwrap();
        let mut count = 0;
        for second in 300..400 {
            let now = START + second * 1000;
            world.write("again.json", IMMEDIATE, now);
            count += world.at(now, Phase::Running).len();
            for job in world.jobs.drain(..).collect::<Vec<_>>() {
                world.events.ran(&job);
            }
        }
        assert_eq!(count, 3);
    }

    #[test]
    fn files_that_a_run_may_have_written_are_few() {
        let mut world = World::new("few");
        world.working = true;
        let mut count = 0;
        for n in 0..30 {
            let now = START + n * 10_000;
            world.write(&format!("{n}.json"), IMMEDIATE, now);
            count += world.at(now, Phase::Running).len();
        }
        assert_eq!((count, world.posted.len()), (20, 1), "{:?}", world.posted);
        assert!(
            world.reason("20.json").contains("20 runs in one hour"),
            "{}",
            world.reason("20.json")
        );
        // The owner's own are no part of that.
        world.working = false;
        world.write("own.json", IMMEDIATE, START);
        assert_eq!(world.at(START + 301_000, Phase::Running).len(), 1);
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
