//! What was said while mom was away: read from the files at the start, and from Slack's history
//! after each connection.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use crate::agent::queue::{CommandRequest, Task};
use crate::agent::run::{Job, Request};
use crate::base::backoff::Backoff;
use crate::base::command::Command;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::time;
use crate::slack::history;
use crate::slack::inbound::{self, Inbound, Incoming};
use crate::slack::is_channel_id;
use crate::store::LogEntry;
use crate::store::kept::MISSED_MS;

use super::Services;
use super::intake::{Intake, downloads, gather};
use super::worker::Worker;

/// Messages whose files are fetched again after a start.
const FETCHED_AGAIN_MAX: usize = 100;
/// Pauses before the history is read again: twice as long each time.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Messages of a channel that a start resumes, the newest: far more than people write in a day,
/// and anyone who writes in the data directory can write the log.
const RESUMED_MAX: usize = 200;

pub(super) struct CatchUp {
    pub(super) services: Arc<Services>,
    pub(super) intake: Arc<Intake>,
    pub(super) worker: Arc<Worker>,
}

/// Wakes the thread that reads the history. Cheap to clone.
#[derive(Clone)]
pub(super) struct Wake(SyncSender<()>);

impl Wake {
    pub(super) fn new() -> (Wake, Receiver<()>) {
        let (wake, wakes) = sync_channel(1);
        (Wake(wake), wakes)
    }

    /// Never waits: one that is on its way counts for all.
    pub(super) fn wake(&self) {
        self.0.try_send(()).ok();
    }
}

impl CatchUp {
    /// A thread's whole life: after each connection, what was missed.
    pub(super) fn run(&self, wakes: &Receiver<()>) {
        let stop = &self.services.stop;
        let mut first = true;
        for () in wakes {
            let mut backoff = Backoff::new(PAUSE, PAUSE_MAX);
            while let Err(err) = self.read_missed() {
                log::warning!("", "cannot read what was missed: {err}");
                let Error::Retry { after, .. } = err else {
                    break;
                };
                if backoff.wait(stop, after).is_err() {
                    break;
                }
            }
            if stop.is_set() {
                return;
            }
            if std::mem::take(&mut first) {
                self.fetch_files_again();
                let store = &self.services.agent.store;
                store
                    .ledger
                    .shorten_long(&store.channels().unwrap_or_default());
            }
        }
    }

    fn read_missed(&self) -> Result<()> {
        for job in self.worker.take_unposted() {
            self.intake.submit(Task::Run(job));
        }
        let services = &self.services;
        let store = &services.agent.store;
        let gap = |channel: &str| services.history.gap(channel, &|id| store.heard_until(id));
        let own_threads = |channel: &str| store.own_threads(channel).unwrap_or_default();
        let mut each = |channel: &str, messages: Vec<Incoming>, until: Option<String>| {
            self.route_missed(channel, messages)?;
            services.history.read(channel, until);
            Ok(())
        };
        history::missed(
            &services.web,
            &gap,
            &own_threads,
            services.me(),
            &services.stop,
            &mut each,
        )
    }

    fn route_missed(&self, channel: &str, mut messages: Vec<Incoming>) -> Result<()> {
        let since_ms = time::now_ms() - MISSED_MS;
        for message in &mut messages {
            // An old one is only logged: nobody waits for that answer any more.
            let recent = time::slack_ts_ms(&message.ts).is_some_and(|ms| ms >= since_ms);
            message.mention &= recent;
        }
        if !messages.is_empty() {
            let store = &self.services.agent.store;
            let logged = store.logged(channel)?;
            messages.retain(|message| match logged.get(&message.ts) {
                Some(asked) => message.mention && !asked,
                None => true,
            });
        }
        let routing = self.intake.lock();
        let (logged, failed) = self.intake.log_new(messages, &routing);
        self.intake.route(logged, routing);
        failed
            .into_iter()
            .next()
            .map_or(Ok(()), |(_, err)| Err(err))
    }

    /// Files whose download the end of mom cut off.
    fn fetch_files_again(&self) {
        let Services {
            agent, files, stop, ..
        } = &*self.services;
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
            let thread_ts = entry.thread_ts.clone();
            fetch_again(
                &self.services,
                channel,
                thread_ts.as_deref(),
                &request(entry),
            );
        }
    }

    /// Submits what earlier starts did not answer, from the files alone; before anything new
    /// comes, because a run that was cut must be the next one of its channel.
    pub(super) fn resume(&self) {
        let store = &self.services.agent.store;
        let channels = store.channels().unwrap_or_else(|err| {
            log::warning!("", "cannot look for unanswered messages: {err}");
            Vec::new()
        });
        for channel in channels.iter().filter(|id| is_channel_id(id)) {
            for task in self.unfinished(channel) {
                self.intake.submit(task);
            }
        }
    }

    /// What a channel's ledger has without an end, oldest first.
    fn unfinished(&self, channel: &str) -> Vec<Task> {
        let since_ms = time::now_ms() - MISSED_MS;
        let store = &self.services.agent.store;
        let found = store.ledger.open(channel, since_ms);
        let found = found.and_then(|open| Ok((open, store.ledger.run(channel)?)));
        let (open, cut) = found.unwrap_or_else(|err| {
            log::warning!(channel, "cannot look for unanswered requests: {err}");
            Default::default()
        });
        let cut = cut.unwrap_or_default();
        let more = open.len().saturating_sub(RESUMED_MAX);
        if more > 0 {
            log::warning!(
                channel,
                "{more} older unanswered messages stay in the log only"
            );
        }
        let mut tasks = Vec::new();
        // An event's run was begun: it comes before what waited for its end.
        let (events, open): (Vec<_>, Vec<_>) =
            open.into_iter().skip(more).partition(|r| r.event.is_some());
        for request in events.into_iter().chain(open) {
            let is_event = request.event.is_some();
            if !is_event && self.intake.access.allowed(&request.user, channel).is_err() {
                continue;
            }
            let thread_ts = request.thread.clone().filter(|root| *root != request.ts);
            let Some(command) = Command::parse(&request.text).filter(|_| !is_event) else {
                let job = Job {
                    channel: channel.to_owned(),
                    thread_ts,
                    event: request.event.clone(),
                    requests: vec![request.into()],
                    resumed: true,
                    ..Job::default()
                };
                if is_event {
                    tasks.push(Task::Run(job));
                } else {
                    gather(&mut tasks, job);
                }
                continue;
            };
            let command_request = CommandRequest {
                channel: channel.to_owned(),
                thread_ts,
                ts: request.ts,
                user: request.user,
                resumed: true,
            };
            match command {
                Command::Stop => {
                    if !stop_before(&mut tasks, &command_request, &cut.requests) {
                        self.intake.commands.ended(&command_request);
                    }
                }
                Command::New => tasks.push(Task::NewConversation(command_request)),
                Command::Status => self.intake.commands.status(command_request),
                Command::Help => self.intake.commands.help(command_request),
            }
        }
        tasks
    }
}

/// A `stop` was given and perhaps not carried out: the requests before it in the same place, and
/// the run that was `cut`, which it was for, are stopped. False when there are none.
fn stop_before(tasks: &mut [Task], stop: &CommandRequest, cut: &[String]) -> bool {
    let mut stops = false;
    for task in tasks {
        let Task::Run(job) = task else { continue };
        let was_running = job.requests.iter().any(|request| cut.contains(&request.ts));
        if was_running || job.thread_ts == stop.thread_ts && job.event.is_none() {
            job.stopped_by.get_or_insert_with(|| stop.user.clone());
            stops = true;
        }
    }
    stops
}

fn request(entry: LogEntry) -> Request {
    let files = entry.attachments.into_iter().map(|file| file.local);
    Request {
        ts: entry.ts,
        user: entry.user,
        text: entry.text,
        files: files.collect(),
    }
}

/// Fetches those files of a message that are not here; the log has no addresses.
pub(super) fn fetch_again(
    services: &Services,
    channel: &str,
    thread_ts: Option<&str>,
    request: &Request,
) {
    let Services {
        agent, web, files, ..
    } = services;
    let locals = request.files.iter();
    let absent = locals.filter(|local| files.is_absent(local, &agent.store));
    let absent: Vec<&String> = absent.collect();
    if absent.is_empty() {
        return;
    }
    let found = web.message(channel, thread_ts.unwrap_or(&request.ts), &request.ts);
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
