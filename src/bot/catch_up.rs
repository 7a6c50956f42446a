//! Finds the messages that came while mom was away: from the files at the start, and from Slack's
//! history after each connection.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::agent::queue::Task;
use crate::agent::run::Job;
use crate::base::backoff::Backoff;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::time;
use crate::slack::history;
use crate::slack::inbound::{self, Inbound, Incoming};
use crate::slack::is_channel_id;
use crate::store::MISSED_MS;
use crate::store::ledger::{AccessDecision, LedgerRequest};

use super::Services;
use super::intake::{NAME_WAIT, Reading, downloads};
use super::router::{Arrival, LoggedMessage};
use super::worker::Worker;

/// Messages whose files are fetched again after a start.
const FETCHED_AGAIN_MAX: usize = 100;
/// Pauses before the history is read again: twice as long each time.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// How long the lines of many new people wait for all names.
const NAMES_WAIT_MAX: Duration = Duration::from_secs(30);

pub(super) struct CatchUp(pub(super) Arc<Worker>);

/// Wakes the thread that reads the history. Cheap to clone.
#[derive(Clone)]
pub(super) struct Wake(SyncSender<()>);

impl Wake {
    pub(super) fn new() -> (Wake, Receiver<()>) {
        let (wake, wakes) = sync_channel(1);
        (Wake(wake), wakes)
    }

    /// Never waits: one pending wake-up is enough.
    pub(super) fn wake(&self) {
        self.0.try_send(()).ok();
    }
}

/// Waits for a wake-up, or for the end of the pause. False: no more wake-ups can come.
fn is_woken(wakes: &Receiver<()>, pause: Option<Duration>) -> bool {
    match pause {
        None => wakes.recv().is_ok(),
        Some(pause) => wakes.recv_timeout(pause) != Err(RecvTimeoutError::Disconnected),
    }
}

impl CatchUp {
    /// The body of a thread: after each connection, reads the messages that mom missed.
    pub(super) fn run(&self, wakes: &Receiver<()>) {
        let mut first = true;
        let mut backoff = Backoff::new(PAUSE, PAUSE_MAX);
        // Pause before the next try of a failed read.
        let mut pause = None;
        while is_woken(wakes, pause) && !self.0.services.stop.is_set() {
            pause = match self.read_missed() {
                Err(Error::Retry { after, .. }) => {
                    let next = backoff.next_pause();
                    Some(after.unwrap_or(next))
                }
                Err(_) => None,
                Ok(()) => {
                    backoff.reset();
                    None
                }
            };
            if std::mem::take(&mut first) {
                self.fetch_files_again();
            }
        }
    }

    fn read_missed(&self) -> Result<()> {
        for job in self.0.take_unposted() {
            self.0.router.submit(Task::Run(job));
        }
        self.read_channels()
    }

    /// Logs once why a channel can't be read; again only for another reason or after a success.
    fn report(&self, channel: &str, read: std::result::Result<(), &str>) {
        let mut unread = self.0.unread.lock().unwrap();
        let Err(why) = read else {
            unread.remove(channel);
            return;
        };
        let before = unread.insert(channel.to_owned(), why.to_owned());
        if before.as_deref() != Some(why) {
            log::warning!(channel, "cannot read what was missed: {why}; I keep trying");
        }
    }

    fn read_channels(&self) -> Result<()> {
        let services = &self.0.services;
        let store = &services.agent.store;
        let gap = |channel: &str| services.history.gap(channel, &|id| store.logged_until(id));
        let own_threads = |channel: &str| store.own_threads(channel).unwrap_or_default();
        let mut each = |channel: &str, messages: Vec<Incoming>, until: Option<String>| {
            self.route_missed(channel, messages)?;
            services.history.mark_read(channel, until);
            Ok(())
        };
        let missed = history::Missed {
            web: &services.web,
            me: services.me(),
            stop: &services.stop,
            gap: &gap,
            own_threads: &own_threads,
            report: &|channel, read| self.report(channel, read),
        };
        missed.read(&mut each)
    }

    fn route_missed(&self, channel: &str, mut messages: Vec<Incoming>) -> Result<()> {
        let Worker {
            services,
            router,
            intake,
            ..
        } = &*self.0;
        let since_ms = time::now_ms() - MISSED_MS;
        for message in &mut messages {
            // An old message is only logged: nobody waits for its answer any more.
            let recent = time::slack_ts_ms(&message.ts).is_some_and(|ms| ms >= since_ms);
            message.mention &= recent;
            if recent {
                intake.mark_follow_up(message);
            }
        }
        if !messages.is_empty() {
            let logged = services.agent.store.logged(channel)?;
            messages.retain(|message| match logged.get(&message.ts) {
                Some(asked) => message.mention && !asked,
                None => true,
            });
        }
        self.wait_names(&messages);
        let routing = router.lock();
        let (logged, failed) = intake.log_new(messages, Reading::Missed, &routing);
        router.route(logged, &routing);
        drop(routing);
        failed
            .into_iter()
            .next()
            .map_or(Ok(()), |(_, err)| Err(err))
    }

    /// Looks up senders who are new to mom, and waits up to a second for each: here no ack waits.
    fn wait_names(&self, messages: &[Incoming]) {
        let Services { names, stop, .. } = &*self.0.services;
        let new = self.0.intake.new_people(messages.iter());
        if new.is_empty() {
            return;
        }
        names.want(&new);
        self.0.router.wake.wake();
        let patience = NAME_WAIT.saturating_mul(new.len() as u32);
        let until = Instant::now() + patience.min(NAMES_WAIT_MAX);
        // The wait is split, so that a stop ends it within a second.
        while !stop.is_set() && Instant::now() < until && new.iter().any(|id| names.is_new(id)) {
            names.wait_known(&new, until.min(Instant::now() + NAME_WAIT));
        }
    }

    /// Fetches files again whose download was interrupted when mom ended.
    fn fetch_files_again(&self) {
        let Services {
            agent, files, stop, ..
        } = &*self.0.services;
        let store = &agent.store;
        let since_ms = time::now_ms() - MISSED_MS;
        let channels = store.channels().unwrap_or_default();
        let entries = channels.iter().flat_map(|channel| {
            let entries = store.with_files(channel, since_ms).unwrap_or_default();
            entries.into_iter().map(move |entry| (channel, entry))
        });
        let absent = entries.filter(|(_, entry)| {
            let mut locals = entry.attachments.iter().map(|file| &file.local);
            locals.any(|local| files.is_absent(local, store))
        });
        for (channel, entry) in absent.take(FETCHED_AGAIN_MAX) {
            if stop.is_set() {
                return;
            }
            let files = entry.attachments.into_iter().map(|file| file.local);
            let request = LedgerRequest {
                ts: entry.ts,
                thread: entry.thread_ts,
                files: files.collect(),
                ..LedgerRequest::default()
            };
            fetch_again(&self.0.services, channel, &request);
        }
    }

    /// Submits the requests that earlier starts did not answer, read from the files alone. Runs
    /// before new messages come, because an interrupted run must be the next one in its channel.
    pub(super) fn resume(&self) {
        let store = &self.0.services.agent.store;
        let channels = store.channels().unwrap_or_else(|err| {
            log::warning!("", "cannot look for unanswered messages: {err}");
            Vec::new()
        });
        for channel in channels.iter().filter(|id| is_channel_id(id)) {
            self.resume_channel(channel).unwrap_or_else(|err| {
                log::warning!(channel, "cannot look for unanswered requests: {err}");
            });
        }
    }

    fn resume_channel(&self, channel: &str) -> Result<()> {
        let Worker {
            services,
            router,
            intake,
            ..
        } = &*self.0;
        // Log lines that still waited for a name when mom ended.
        intake.log_heard(channel, Instant::now());
        let ledger = &services.agent.store.ledger;
        let open = ledger.open(channel, time::now_ms() - MISSED_MS)?;
        let begun = ledger.run(channel)?.unwrap_or_default();
        let mut messages = Vec::new();
        for request in open {
            if request.event.is_some() {
                // Its run has begun, so it comes before the requests that waited for it.
                router.submit(Task::Run(Job {
                    channel: channel.to_owned(),
                    event: request.event.clone(),
                    thread_ts: request.thread.clone(),
                    requests: vec![request],
                    resumed: true,
                    ..Job::default()
                }));
                continue;
            }
            // For a run that has begun, the sender was checked before it began.
            let has_begun = begun.requests.contains(&request.ts);
            let known = has_begun.then_some(AccessDecision::Member);
            messages.push(LoggedMessage {
                decision: known.or(Some(request.access)),
                files: request.files,
                message: Incoming {
                    channel: channel.to_owned(),
                    user: request.user,
                    text: request.text,
                    ts: request.ts,
                    thread_ts: request.thread,
                    mention: true,
                    ..Incoming::default()
                },
                arrival: Arrival::Resumed,
                ..LoggedMessage::default()
            });
        }
        router.route(messages, &router.lock());
        Ok(())
    }
}

/// Fetches the missing files of a message; asks Slack for the addresses, which are not logged.
pub(super) fn fetch_again(services: &Services, channel: &str, request: &LedgerRequest) {
    let Services {
        agent, web, files, ..
    } = services;
    let locals = request.files.iter();
    let absent = locals.filter(|local| files.is_absent(local, &agent.store));
    let absent: Vec<&String> = absent.collect();
    if absent.is_empty() {
        return;
    }
    let root = request.thread.as_ref().unwrap_or(&request.ts);
    let found = web.message(channel, root, &request.ts);
    let why = match &found {
        Ok(_) => "Slack does not have it any more".to_owned(),
        Err(failure) => failure.to_string(),
    };
    for local in absent {
        files.give_up(local, &why);
    }
    let message = found.ok().flatten();
    let message = message.map(|message| inbound::message(&message, channel, services.me()));
    if let Some(Inbound::Message(message)) = message {
        let downloads = downloads(&message).into_iter();
        for download in downloads.filter(|d| request.files.contains(&d.local)) {
            files.fetch(download);
        }
    }
}
