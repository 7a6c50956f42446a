//! From an envelope to the queue: a message is logged, acked and routed, in this order. Jobs of
//! event files enter here as well.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use crate::agent::queue::{CommandRequest, Submitted, Task};
use crate::agent::run::{Job, Request};
use crate::base::command::Command;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::secret;
use crate::base::text;
use crate::events::{Outside, Uptake};
use crate::slack::files::Download;
use crate::slack::inbound::{self, Author, Inbound, Incoming};
use crate::slack::web::Failure;
use crate::slack::{Envelope, history};
use crate::store::ledger::LedgerRequest;
use crate::store::{self, Attachment, LogEntry, Now, Seen, Store};

use super::Services;
use super::access::Access;
use super::catch_up::Wake;
use super::commands::Commands;

/// Codes of conversations.info for a channel in which mom can't post.
const CLOSED: [&str; 3] = ["channel_not_found", "not_in_channel", "is_archived"];
/// How long that is believed: mom may be invited, and the event file put back.
const CLOSED_FOR: Duration = Duration::from_secs(2);
/// Messages that one run answers from its start.
const TOGETHER_MAX: usize = 50;

pub(super) struct Intake {
    pub(super) services: Arc<Services>,
    pub(super) access: Access,
    pub(super) commands: Arc<Commands>,
    pub(super) wake: Wake,
    /// Held from the look whether a message is new until it waits in the queue: the socket and
    /// the history may bring the same one, and a run takes over from the log what does not wait.
    pub(super) routing: Mutex<()>,
    /// Channels whose messages can't be logged, and whether that was posted there.
    pub(super) unlogged: Mutex<HashMap<String, bool>>,
}

/// A message that was logged just now.
pub(super) struct LoggedMessage {
    message: Incoming,
    files: Vec<Download>,
    seen: Seen,
    /// The ledger has it already: a crash came between the two files.
    is_recorded: bool,
}

/// The lock of `Intake::routing`.
pub(super) type Routing<'a> = MutexGuard<'a, ()>;

impl LoggedMessage {
    fn command(&self) -> Option<Command> {
        // When only its files are new, its text was routed before.
        let is_new = self.seen != Seen::NowFiles && !self.is_recorded;
        let text = Some(&self.message.text).filter(|_| is_new);
        text.and_then(|text| Command::parse(text))
    }
}

impl Intake {
    pub(super) fn lock(&self) -> Routing<'_> {
        self.routing.lock().unwrap()
    }

    /// Whether a logged message waits for a run.
    pub(super) fn waits(&self, channel: &str, ts: &str) -> bool {
        let _routing = self.lock();
        self.commands.queue.waits(channel, ts)
    }

    /// Logs, acks and routes. A message that can't be logged is not acked, and Slack brings it
    /// again.
    pub(super) fn receive(&self, batch: Vec<Envelope>, ack: &mut dyn FnMut(&[String])) {
        let mut ids = Vec::with_capacity(batch.len());
        let mut messages = Vec::new();
        let mut others = Vec::new();
        for envelope in batch {
            let inbound = inbound::parse(&envelope.kind, &envelope.payload, self.services.me());
            self.note(&envelope.kind, &inbound);
            match inbound {
                Inbound::Message(message) => messages.push((envelope.id, message)),
                other => {
                    ids.push(envelope.id);
                    others.push(other);
                }
            }
        }
        let routing = self.lock();
        let batch = messages.iter().map(|(_, message)| message.clone());
        let (logged, failed) = self.log_new(batch.collect(), &routing);
        for (channel, err) in &failed {
            let mut requests = messages.iter().map(|(_, message)| message);
            let request = requests.find(|m| m.mention && m.channel == *channel);
            self.not_logged(channel, request, err);
        }
        let mut unlogged = self.unlogged.lock().unwrap();
        let before = unlogged.len();
        unlogged.retain(|channel, _| logged.iter().all(|l| l.message.channel != *channel));
        if unlogged.len() < before {
            // It works again; Slack may have given up bringing what came meanwhile.
            self.wake.wake();
        }
        drop(unlogged);
        messages.retain(|(_, message)| failed.iter().all(|(failed, _)| *failed != message.channel));
        ids.extend(messages.into_iter().map(|(id, _)| id));
        ack(&ids);
        self.route(logged, routing);
        let others = others.into_iter();
        let revised: Vec<Incoming> = others.filter_map(|other| self.apply(other)).collect();
        self.log_revised(&revised);
    }

    /// What is no message: changes of users and channels, and why something is not read.
    fn note(&self, kind: &str, inbound: &Inbound) {
        match inbound {
            Inbound::UserChanged(user) => self.services.names.user_changed(user),
            Inbound::ChannelChanged(channel) | Inbound::Joined { channel } => {
                self.services.names.forget_channel(channel);
            }
            Inbound::Dropped { channel, ts, why } => {
                log::info!(channel, "left out the message {ts}: {why}");
            }
            Inbound::Ignored(why) => log::debug!("", "left out {kind}: {why}"),
            _ => {}
        }
    }

    /// Someone waits for an answer that can't come: posted once, until it works again.
    fn not_logged(&self, channel: &str, request: Option<&Incoming>, err: &Error) {
        log::error!(
            channel,
            "cannot log messages, Slack will bring them again: {err}"
        );
        self.services.history.lost(channel);
        let mut unlogged = self.unlogged.lock().unwrap();
        let posted = unlogged.entry(channel.to_owned()).or_default();
        let request = request.filter(|message| !*posted && self.access.may(message).is_ok());
        if let Some(message) = request {
            *posted = true;
            let why = text::escape(&text::one_line(&err.to_string(), 300));
            let text = format!(
                "_Sorry, something went wrong_: I can't write down what is said here, so I \
                 can't answer yet ({why}). The person who runs me can fix that; I will try again."
            );
            let thread_ts = message.thread_ts.as_deref();
            self.commands.outbox.post(channel, thread_ts, text);
        }
    }

    /// Logs what is new, durably, and returns it; and the channels where that failed.
    pub(super) fn log_new(
        &self,
        messages: Vec<Incoming>,
        _: &Routing<'_>,
    ) -> (Vec<LoggedMessage>, Vec<(String, Error)>) {
        let store = &self.services.agent.store;
        let mut new: Vec<LoggedMessage> = Vec::new();
        let channels = messages.iter().map(|message| message.channel.as_str());
        let mut failed = self
            .services
            .history
            .hear(&channels.collect(), &|id| store.heard_until(id));
        for message in messages {
            if failed
                .iter()
                .any(|(channel, _)| *channel == message.channel)
            {
                continue;
            }
            // A twin in the same batch is not in the log yet.
            let twin = new.iter_mut().find(|logged| {
                logged.message.channel == message.channel && logged.message.ts == message.ts
            });
            if let Some(twin) = twin {
                // Sometimes only one of the twins carries the files.
                if twin.files.is_empty() && !message.files.is_empty() {
                    twin.files = downloads(&message);
                    twin.message.files = message.files;
                }
                twin.message.mention |= message.mention;
                continue;
            }
            let now = Now {
                asked: self.asks(&message),
                has_files: !message.files.is_empty(),
            };
            let (channel, ts) = (&message.channel, &message.ts);
            let seen = store.seen(channel, ts, now);
            let known = seen.and_then(|seen| Ok((seen, store.ledger.knows(channel, ts)?)));
            match known {
                Ok((Seen::Known, _)) => {}
                Ok((seen, is_known)) => new.push(LoggedMessage {
                    files: downloads(&message),
                    message,
                    is_recorded: is_known && seen != Seen::NowFiles,
                    seen,
                }),
                Err(err) => failed.push((message.channel, err)),
            }
        }
        let mut entries = Vec::new();
        let mut requests = Vec::new();
        for LoggedMessage { message, files, .. } in &new {
            let is_request = self.asks(message);
            let entry = LogEntry {
                mention: is_request,
                ..self.entry(message, files)
            };
            if is_request || self.stops(message) {
                let request = self.ledger_request(message, files);
                requests.push((message.channel.clone(), request));
            }
            entries.push((message.channel.clone(), entry));
        }
        failed.extend(store.log_batch(&entries, &requests));
        new.retain(|logged| {
            let channel = &logged.message.channel;
            failed.iter().all(|(failed, _)| failed != channel)
        });
        (new, failed)
    }

    /// A `stop` needs no mention while something runs.
    fn stops(&self, message: &Incoming) -> bool {
        Command::parse(&message.text) == Some(Command::Stop)
            && self.commands.queue.running(&message.channel).is_some()
            && self.access.may(message).is_ok()
    }

    fn ledger_request(&self, message: &Incoming, files: &[Download]) -> LedgerRequest {
        let files = files.iter().map(|download| download.local.clone());
        LedgerRequest {
            ts: message.ts.clone(),
            user: message.user.clone(),
            text: secret::hide(message.text.clone()),
            thread: message.thread_ts.clone(),
            files: files.collect(),
            event: None,
            access: self.access.decision(message),
        }
    }

    /// The log line asks something of mom.
    fn asks(&self, message: &Incoming) -> bool {
        message.mention && self.access.may(message).is_ok()
    }

    /// A log line that asks nothing.
    fn entry(&self, message: &Incoming, files: &[Download]) -> LogEntry {
        let names = &self.services.names;
        if let Author::Program(name) = &message.author {
            names.remember(&message.user, name);
        }
        let user = names.last_known(&message.user);
        let attachments = files.iter().map(|download| Attachment {
            original: download.file.name.clone(),
            local: download.local.clone(),
        });
        LogEntry {
            ts: message.ts.clone(),
            user: message.user.clone(),
            user_name: user.as_ref().map(|user| user.handle.clone()),
            display_name: user.map(|user| user.display),
            text: secret::hide(store::clean_text(&message.text)),
            attachments: attachments.collect(),
            thread_ts: message.thread_ts.clone(),
            ..LogEntry::default()
        }
    }

    /// Logs what was said in the job's thread before: by people while mom was not there, and by
    /// programs, since requests are often about their alerts.
    pub(super) fn log_thread(&self, job: &Job) -> Result<()> {
        let (Some(root), Some(request)) = (&job.thread_ts, job.requests.first()) else {
            return Ok(());
        };
        let Services { web, files, .. } = &*self.services;
        let me = self.services.me();
        history::thread(web, &job.channel, root, &request.ts, &mut |page| {
            let messages = page.iter();
            let messages = messages.filter_map(|m| inbound::overheard(m, &job.channel, me));
            let (logged, failed) = self.log_new(messages.collect(), &self.lock());
            for download in logged.into_iter().flat_map(|logged| logged.files) {
                files.fetch(download);
            }
            failed
                .into_iter()
                .next()
                .map_or(Ok(()), |(_, err)| Err(err))
        })
    }

    /// Logs what messages say after an edit, as further lines; nothing at all: deleted.
    fn log_revised(&self, messages: &[Incoming]) {
        let _routing = self.lock();
        let store = &self.services.agent.store;
        for message in messages {
            let revised = match store.seen(&message.channel, &message.ts, Now::default()) {
                Ok(Seen::New) => Ok(()),
                Ok(_) => {
                    let files = downloads(message);
                    let entry = self.entry(message, &files);
                    let is_deleted = entry.is_empty();
                    let logged = store.log(&[(message.channel.clone(), entry)]);
                    let files = files.into_iter().map(|download| download.local).collect();
                    let now = Some((secret::hide(message.text.clone()), files));
                    self.amend(&message.channel, &message.ts, now.filter(|_| !is_deleted));
                    logged
                }
                Err(err) => Err(err),
            };
            if let Err(err) = revised {
                log::warning!(&message.channel, "cannot log an edit: {err}");
            }
        }
    }

    /// How a request that waits reads now; `None`: it was deleted.
    fn amend(&self, channel: &str, ts: &str, now: Option<(String, Vec<String>)>) {
        let ledger = &self.services.agent.store.ledger;
        if let Err(err) = ledger.amend(channel, ts, now) {
            log::warning!(channel, "cannot record an edit: {err}");
        }
    }

    /// What logged messages lead to; those that came together are answered together.
    pub(super) fn route(&self, logged: Vec<LoggedMessage>, _: Routing<'_>) {
        let mut tasks = Vec::new();
        for logged in logged {
            // A command is about what was said before it.
            if logged.command().is_some() {
                tasks.drain(..).for_each(|task| self.submit(task));
            }
            if let Some(job) = self.route_one(logged) {
                gather(&mut tasks, job);
            }
        }
        tasks.into_iter().for_each(|task| self.submit(task));
    }

    fn route_one(&self, logged: LoggedMessage) -> Option<Job> {
        let command = logged.command();
        let LoggedMessage {
            message,
            files,
            seen,
            is_recorded,
        } = logged;
        let locals = files.iter().map(|download| download.local.clone());
        let locals: Vec<String> = locals.collect();
        for download in files {
            self.services.files.fetch(download);
        }
        let channel = message.channel.clone();
        if self.access.is_program(&message) {
            if message.mention {
                log::info!(&channel, "{} is a program: not answered", message.user);
            }
            return None;
        }
        // `stop` needs no mention; anything else that is not for mom is only logged.
        let is_running = || self.commands.queue.running(&message.channel).is_some();
        let stops = command == Some(Command::Stop) && is_running();
        if is_recorded || !message.mention && !stops {
            return None;
        }
        let thread_ts = message.thread_ts.clone().filter(|root| *root != message.ts);
        if let Err(why) = self.access.may(&message) {
            if message.mention {
                let thread_ts = thread_ts.as_deref();
                self.access.refuse(&channel, thread_ts, &message.user, why);
            }
            return None;
        }
        if let Some(command) = command {
            let request = CommandRequest {
                channel,
                thread_ts,
                ts: message.ts,
                user: message.user,
                resumed: false,
            };
            self.route_command(command, request);
            return None;
        }
        let mut job = Job {
            channel,
            requests: vec![Request {
                ts: message.ts,
                user: message.user,
                text: message.text,
                files: locals,
            }],
            thread_ts,
            ..Job::default()
        };
        if seen == Seen::NowFiles {
            let request = job.requests[0].clone();
            self.amend(
                &job.channel,
                &request.ts,
                Some((request.text, request.files)),
            );
            // For the run that has the text; there is none when it has ended.
            job.requests[0].text.clear();
            job.resumed = true;
            self.commands.queue.submit(Task::Run(job));
            return None;
        }
        Some(job)
    }

    fn route_command(&self, command: Command, request: CommandRequest) {
        match command {
            Command::Stop => {
                let commands = self.commands.clone();
                let user = request.user.clone();
                self.access
                    .when_member(user, move |_| commands.stop(&request));
            }
            Command::New => self.submit(Task::NewConversation(request)),
            Command::Status => self.commands.status(request),
            Command::Help => self.commands.help(request),
        }
    }

    /// Messages that have to wait get a reaction.
    pub(super) fn submit(&self, task: Task) {
        let channel = task.channel().to_owned();
        let tss: Vec<String> = match &task {
            Task::Run(job) if !job.resumed => job.requests.iter().map(|r| r.ts.clone()).collect(),
            // It had its reaction, or is nobody's message.
            _ => Vec::new(),
        };
        match self.commands.queue.submit(task) {
            Submitted::Next => {}
            Submitted::Waits => {
                for ts in tss {
                    self.commands.outbox.react(&channel, &ts, "eyes");
                }
            }
            Submitted::Refused => {
                log::warning!(
                    &channel,
                    "too much waits here; a message stays in the log only"
                );
            }
        }
    }

    /// Returns what is to be logged of it.
    fn apply(&self, inbound: Inbound) -> Option<Incoming> {
        let queue = &self.commands.queue;
        match inbound {
            Inbound::Edited(message) => {
                queue.amend(&message.channel, &message.ts, Some(&message.text));
                Some(message)
            }
            Inbound::Deleted { channel, ts } => {
                queue.amend(&channel, &ts, None);
                Some(Incoming {
                    channel,
                    ts,
                    ..Incoming::default()
                })
            }
            Inbound::StopPressed { channel, user, run } => {
                self.stop_pressed(channel, user, run);
                None
            }
            _ => None,
        }
    }

    fn stop_pressed(&self, channel: String, user: String, run: String) {
        let message = Incoming {
            channel: channel.clone(),
            user: user.clone(),
            ..Incoming::default()
        };
        let queue = self.commands.queue.clone();
        // The button of a run that has ended stops no other.
        let running = queue.running(&channel);
        let is_its = running.is_some_and(|running| run.is_empty() || running.run() == run);
        if is_its && self.access.may(&message).is_ok() {
            self.access.when_member(user, move |user| {
                queue.stop(&channel, &run, user);
            });
        }
    }

    /// A thread's whole life: submits the jobs of event files.
    pub(super) fn watch_events(&self) {
        let Services {
            events,
            names,
            stop,
            ..
        } = &*self.services;
        let Commands { queue, outbox, .. } = &*self.commands;
        // Channels that were told of a full queue since it was last empty.
        let mut notified = HashSet::new();
        let mut submit = |job: Job| {
            let (channel, event) = (job.channel.clone(), job.event.clone().unwrap_or_default());
            match queue.submit(Task::Run(job)) {
                Submitted::Next => {
                    notified.remove(&channel);
                    Uptake::Taken
                }
                Submitted::Waits => Uptake::Taken,
                Submitted::Refused if stop.is_set() => Uptake::Closing,
                Submitted::Refused => {
                    if notified.insert(channel.clone()) {
                        let event = text::escape(&event);
                        let text = format!(
                            "_I left out the event {event}: too many events wait here. I leave out \
                             further ones until there is room_"
                        );
                        outbox.post(&channel, None, text);
                    }
                    Uptake::Full
                }
            }
        };
        // The last channel that was refused: its files often come together.
        let mut closed: Option<(String, Instant, String)> = None;
        let mut channel = |id: &str| {
            if !self.access.is_channel_allowed(id) {
                return Err("--allow-channels does not name this channel".to_owned());
            }
            let is_same = |(known, at, _): &&(String, Instant, String)| {
                known == id && at.elapsed() < CLOSED_FOR
            };
            if let Some((_, _, why)) = closed.as_ref().filter(is_same) {
                return Err(why.clone());
            }
            match names.channel(id) {
                Err(Failure::Refused(code)) if CLOSED.contains(&code.as_str()) => {
                    let why = Failure::Refused(code).to_string();
                    closed = Some((id.to_owned(), Instant::now(), why.clone()));
                    Err(why)
                }
                // It can't be found out now: posting there will show.
                _ => Ok(()),
            }
        };
        let mut outside = Outside {
            submit: &mut submit,
            channel: &mut channel,
            is_working: &|| queue.is_working(),
            post: &mut |channel, text| outbox.post(channel, None, text),
        };
        if let Err(err) = events.watch(stop, &mut outside) {
            log::error!("", "events are not watched any more: {err}");
        }
    }
}

/// The files of a message, and where they go.
pub(super) fn downloads(message: &Incoming) -> Vec<Download> {
    let names = message.files.iter().map(|file| file.name.as_str());
    let places = Store::attachments(&message.channel, &message.ts, &names.collect::<Vec<_>>());
    let pairs = message.files.iter().cloned().zip(places);
    pairs
        .map(|(file, place)| Download {
            file,
            local: place.local,
        })
        .collect()
}

/// Adds a job to those that will be submitted; what belongs to one place, and to the same side
/// of a command, is one job.
pub(super) fn gather(tasks: &mut Vec<Task>, job: Job) {
    let jobs = tasks.iter_mut().rev().map_while(|task| match task {
        Task::Run(job) => Some(job),
        Task::NewConversation(_) => None,
    });
    let fits =
        |other: &&mut Job| other.place() == job.place() && other.requests.len() < TOGETHER_MAX;
    match jobs.into_iter().find(fits) {
        Some(other) => other.requests.extend(job.requests),
        None => tasks.push(Task::Run(job)),
    }
}
