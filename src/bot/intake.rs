//! From an envelope to the queue: a message is logged, acked and routed, in this order. Jobs of
//! event files enter here as well.

use std::collections::{HashMap, HashSet};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::agent::queue::{Submitted, Task};
use crate::agent::run::Job;
use crate::base::bounded::Bounded;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::secret;
use crate::base::text;
use crate::base::time;
use crate::events::{Outside, Uptake};
use crate::slack::files::Download;
use crate::slack::inbound::{self, Author, Inbound, Incoming};
use crate::slack::{Envelope, history};
use crate::store::ledger::{AccessDecision, HEARD_MAX, LedgerRequest};
use crate::store::{self, Attachment, LogEntry, Now, Seen, Store, log_path};

use super::Services;
use super::access::Access;
use super::catch_up::Wake;
use super::commands::Commands;
use super::router::{Arrival, LoggedMessage, Router, Routing};

/// How long a channel is assumed to be closed after a look-up: mom may be invited, and the event
/// file put back.
const CLOSED_FOR: Duration = Duration::from_secs(2);
/// How long a log line waits for a new user's name; until then it is in the ledger.
pub(super) const NAME_WAIT: Duration = Duration::from_secs(1);
/// How long an ack waits for names before their lines go to the ledger: an ack has 100 ms.
const NAME_GRACE: Duration = Duration::from_millis(50);
/// Channels that can have lines waiting for a name.
const HEARD_CHANNELS_MAX: usize = 1_000;
/// How many dropped messages are remembered: Slack may send them again.
const DROPPED_MAX: usize = 100;
/// With `--follow-threads`: largest age of mom's last message in the thread.
const FOLLOWED_MS: i64 = 24 * 3_600_000;

pub(super) struct Intake {
    pub(super) services: Arc<Services>,
    pub(super) router: Arc<Router>,
    /// Wakes the reading of the history.
    pub(super) catch_up: Wake,
    /// Channels whose messages can't be logged, and whether that was posted there.
    pub(super) unwritable: Mutex<HashMap<String, bool>>,
    pub(super) heard: Heard,
    pub(super) dropped: Dropped,
}

/// Channel and ts of messages that were dropped, so that each is logged once.
pub(super) struct Dropped(Mutex<Bounded<String, ()>>);

impl Dropped {
    pub(super) fn new() -> Dropped {
        Dropped(Mutex::new(Bounded::new(DROPPED_MAX)))
    }

    fn is_first(&self, channel: &str, ts: &str) -> bool {
        let key = format!("{channel} {ts}");
        self.0.lock().unwrap().insert(key, ()).is_none()
    }
}

/// Input of `log_waiting`'s thread: channels with lines that wait for a name, and until when.
pub(super) struct Heard {
    sender: SyncSender<(String, Instant)>,
    receiver: Mutex<Receiver<(String, Instant)>>,
}

impl Heard {
    pub(super) fn new() -> Heard {
        let (sender, receiver) = sync_channel(HEARD_CHANNELS_MAX);
        Heard {
            sender,
            receiver: Mutex::new(receiver),
        }
    }
}

/// Where messages come from, and so whether they may be requests.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// From the socket: Slack waits for the ack; they may be requests.
    Live,
    /// From the history after an absence: they may be requests.
    Missed,
    /// From the thread around a request: never requests themselves, not even a `stop`.
    Context,
}

impl Intake {
    /// Logs, acks and routes. A message that can't be logged is not acked, so that Slack sends it
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
        for (_, message) in &mut messages {
            self.mark_follow_up(message);
        }
        self.ask_names(messages.iter().map(|(_, message)| message), NAME_GRACE);
        let routing = self.router.lock();
        let batch = messages.iter().map(|(_, message)| message.clone());
        let (logged, failed) = self.log_new(batch.collect(), Reading::Live, &routing);
        for (channel, err) in &failed {
            let mut requests = messages.iter().map(|(_, message)| message);
            let request = requests.find(|m| m.mention && m.channel == *channel);
            self.not_logged(channel, request, err);
        }
        let mut unwritable = self.unwritable.lock().unwrap();
        let before = unwritable.len();
        unwritable.retain(|channel, _| logged.iter().all(|l| l.message.channel != *channel));
        if unwritable.len() < before {
            // Logging works again; Slack may have stopped resending what came meanwhile.
            self.catch_up.wake();
        }
        drop(unwritable);
        messages.retain(|(_, message)| failed.iter().all(|(failed, _)| *failed != message.channel));
        ids.extend(messages.into_iter().map(|(id, _)| id));
        ack(&ids);
        self.router.route(logged, &routing);
        drop(routing);
        let others = others.into_iter();
        let revised: Vec<Incoming> = others.filter_map(|other| self.apply(other)).collect();
        self.log_revised(&revised);
    }

    /// Handles what is not a message: changes of users and channels, and dropped messages.
    fn note(&self, kind: &str, inbound: &Inbound) {
        match inbound {
            Inbound::UserChanged(user) => self.services.names.user_changed(user),
            Inbound::ChannelChanged(channel) => self.services.names.forget_channel(channel),
            Inbound::Joined { channel } => {
                self.reopened(channel);
                greet(&self.router.access, channel);
            }
            Inbound::Unarchived { channel } => self.reopened(channel),
            Inbound::Opened { channel, user } => self.greet_member(channel, user),
            Inbound::Dropped { channel, ts, why } if self.dropped.is_first(channel, ts) => {
                log::info!(channel, "left out the message {ts}: {why}");
            }
            Inbound::Ignored(why) => log::debug!("", "left out {kind}: {why}"),
            _ => {}
        }
    }

    /// mom can read and post in the channel (again): reads the messages since then, and posts the
    /// answers that could not be posted.
    fn reopened(&self, channel: &str) {
        self.services.names.forget_channel(channel);
        self.services.history.mark_lost(channel);
        self.catch_up.wake();
    }

    /// With `--follow-threads`: a message in a thread where mom wrote within a day addresses mom,
    /// unless it mentions someone else.
    pub(super) fn mark_follow_up(&self, message: &mut Incoming) {
        let Services { agent, .. } = &*self.services;
        let root = message.thread_ts.as_deref();
        let root = root.filter(|root| *root != message.ts);
        let Some(root) = root.filter(|_| agent.config.follow_threads && !message.mention) else {
            return;
        };
        if mentions_others(&message.text) || self.router.access.decision(message).is_none() {
            return;
        }
        let since_ms = time::now_ms() - FOLLOWED_MS;
        // The answer is logged only after its details are posted.
        let running = self.router.commands.queue.running(&message.channel);
        message.follows = running.is_some_and(|running| running.answers_in(root))
            || (agent.store.wrote_in(&message.channel, root, since_ms))
                // If the log can't be read, the error is reported when the message is logged.
                .unwrap_or_default();
        message.mention |= message.follows;
    }

    fn greet_member(&self, channel: &str, user: &str) {
        let sender = Incoming {
            channel: channel.to_owned(),
            user: user.to_owned(),
            ..Incoming::default()
        };
        self.router.access.when_member(sender, |access, sender| {
            greet(access, &sender.channel);
            Ok(())
        });
    }

    /// Logs the failure, and posts it once until logging works again, if someone waits.
    fn not_logged(&self, channel: &str, request: Option<&Incoming>, err: &Error) {
        log::error!(
            channel,
            "cannot log messages; Slack will send them again: {err}"
        );
        self.services.history.mark_lost(channel);
        let mut unwritable = self.unwritable.lock().unwrap();
        let posted = unwritable.entry(channel.to_owned()).or_default();
        let Some(message) = request.filter(|_| !*posted).cloned() else {
            return;
        };
        *posted = true;
        let why = text::escape(&text::one_line(&err.to_string(), 300));
        let text = format!(
            "_Sorry, something went wrong_: I can't write down what is said here, so I can't \
             answer yet ({why}). The person who runs me can fix that; I will try again."
        );
        (self.router.access).when_member(message, |access, message| {
            let (channel, thread_ts) = (&message.channel, message.thread_ts.as_deref());
            access.outbox.post(channel, thread_ts, text);
            Ok(())
        });
    }

    /// Logs the new messages durably and returns them; also the channels where that failed.
    pub(super) fn log_new(
        &self,
        messages: Vec<Incoming>,
        reading: Reading,
        _: &Routing<'_>,
    ) -> (Vec<LoggedMessage>, Vec<(String, Error)>) {
        let Services { agent, history, .. } = &*self.services;
        let channels = messages.iter().map(|message| message.channel.as_str());
        let logged_until = |channel: &str| agent.store.logged_until(channel);
        let mut failed = history.note_gaps(&channels.collect::<Vec<_>>(), &logged_until);
        let mut new: Vec<LoggedMessage> = Vec::new();
        for message in messages {
            let channel = message.channel.clone();
            if failed.iter().any(|(failed, _)| *failed == channel) {
                continue;
            }
            // A duplicate in the same batch is not in the log yet.
            let twin = new.iter_mut().find(|logged| {
                logged.message.channel == channel && logged.message.ts == message.ts
            });
            if let Some(twin) = twin {
                // Sometimes only one of the two has the files.
                if twin.downloads.is_empty() && !message.files.is_empty() {
                    twin.set_downloads(downloads(&message));
                }
                twin.message.mention |= message.mention;
                twin.decision = self.decision(&twin.message, reading);
                continue;
            }
            match self.new_message(message, reading) {
                Ok(logged) => new.extend(logged),
                Err(err) => failed.push((channel, err)),
            }
        }
        failed.extend(self.write(&new, reading));
        new.retain(|logged| {
            let channel = &logged.message.channel;
            failed.iter().all(|(failed, _)| failed != channel)
        });
        (new, failed)
    }

    /// `None`: the message and its files are in the log already.
    fn new_message(&self, message: Incoming, reading: Reading) -> Result<Option<LoggedMessage>> {
        let store = &self.services.agent.store;
        let decision = self.decision(&message, reading);
        let now = Now {
            asked: message.mention && decision.is_some(),
            has_files: !message.files.is_empty(),
        };
        let (channel, ts) = (&message.channel, &message.ts);
        let arrival = match store.seen(channel, ts, now)? {
            Seen::Known => return Ok(None),
            Seen::NowFiles => Arrival::LateFiles,
            // A crash came between the writes to the ledger and to the log.
            _ if store.ledger.knows(channel, ts)? => Arrival::Routed,
            _ => Arrival::New,
        };
        let mut logged = LoggedMessage {
            arrival,
            decision,
            ..LoggedMessage::default()
        };
        logged.set_downloads(downloads(&message));
        logged.message = message;
        Ok(Some(logged))
    }

    /// Writes lines of the log and the ledger; returns the channels where that failed. The line of
    /// a new user waits in the ledger until the name is known.
    fn write(&self, new: &[LoggedMessage], reading: Reading) -> Vec<(String, Error)> {
        let (mut entries, mut heard, mut requests) = (Vec::new(), Vec::new(), Vec::new());
        for logged in new {
            let (message, channel) = (&logged.message, &logged.message.channel);
            let entry = LogEntry {
                mention: message.mention && logged.decision.is_some(),
                ..self.entry(message, &logged.downloads)
            };
            if reading == Reading::Live && self.waits_for_name(message, heard.len()) {
                let date_ms = Some(entry.date_ms());
                heard.push((channel.clone(), LogEntry { date_ms, ..entry }));
            } else {
                entries.push((channel.clone(), entry));
            }
            requests.extend(logged.decision.map(|access| {
                let request = LedgerRequest {
                    ts: message.ts.clone(),
                    user: message.user.clone(),
                    text: secret::hide(message.text.clone()),
                    thread: message.thread_ts.clone(),
                    files: logged.files.clone(),
                    event: None,
                    access,
                    is_addition: false,
                };
                (channel.clone(), request)
            }));
        }
        let store = &self.services.agent.store;
        let failed = store.log_batch(&entries, &heard, &requests);
        let until = Instant::now() + NAME_WAIT;
        let mut channels: Vec<String> = heard.into_iter().map(|(channel, _)| channel).collect();
        channels.dedup();
        for channel in channels {
            if self.heard.sender.try_send((channel, until)).is_err() {
                log::debug!(
                    "",
                    "too many log lines wait for a user's name; the next run writes them"
                );
            }
        }
        failed
    }

    /// `count`: lines of this batch that wait already.
    fn waits_for_name(&self, message: &Incoming, count: usize) -> bool {
        let ledger = &self.services.agent.store.ledger;
        let has_room = |heard: Vec<LogEntry>| heard.len() + count < HEARD_MAX;
        is_person(message)
            && self.services.names.is_new(&message.user)
            && ledger.heard(&message.channel).is_ok_and(has_room)
    }

    /// Requests look-ups of users who are new to mom, and waits at most `patience` for them.
    pub(super) fn ask_names<'a>(
        &self,
        messages: impl Iterator<Item = &'a Incoming>,
        patience: Duration,
    ) {
        let names = &self.services.names;
        let new = self.new_people(messages);
        if names.want(&new) {
            self.router.wake.wake();
            names.wait_known(&new, Instant::now() + patience);
        }
    }

    /// Ids of the senders who were never looked up, each once.
    pub(super) fn new_people<'a>(
        &self,
        messages: impl Iterator<Item = &'a Incoming>,
    ) -> Vec<&'a str> {
        let names = &self.services.names;
        let people = messages.filter(|message| is_person(message));
        let new = people.map(|message| message.user.as_str());
        let mut new: Vec<&str> = new.filter(|id| names.is_new(id)).collect();
        new.sort_unstable();
        new.dedup();
        new
    }

    /// The body of a thread: writes the lines that wait for a name. An empty channel name ends it.
    pub(super) fn log_waiting(&self) {
        for (channel, until) in &*self.heard.receiver.lock().unwrap() {
            if channel.is_empty() {
                return;
            }
            let has_time = !self.services.stop.is_set();
            let until = if has_time { until } else { Instant::now() };
            self.log_heard(&channel, until);
        }
    }

    /// Lets `log_waiting` end after the lines that wait now.
    pub(super) fn end_waiting(&self) {
        let end = (String::new(), Instant::now());
        self.heard.sender.send(end).ok();
    }

    /// Writes the waiting lines of a channel when the names are known, at `until` at the latest.
    pub(super) fn log_heard(&self, channel: &str, until: Instant) {
        let store = &self.services.agent.store;
        let written = store.ledger.heard(channel).and_then(|heard| {
            let users: Vec<&str> = heard.iter().map(|entry| entry.user.as_str()).collect();
            self.services.names.wait_known(&users, until);
            let _routing = self.router.lock();
            store.log_heard(channel, &|entry| self.named(entry))
        });
        if let Err(err) = written {
            log::error!(channel, "cannot log messages now, a later run will: {err}");
        }
    }

    fn named(&self, entry: LogEntry) -> LogEntry {
        let user = self.services.names.last_known(&entry.user);
        LogEntry {
            user_name: user.as_ref().map(|user| user.handle.clone()),
            display_name: user.map(|user| user.display),
            ..entry
        }
    }

    /// The decision that the ledger records with a request; `None`: the message is not a request,
    /// or its sender may not use mom.
    fn decision(&self, message: &Incoming, reading: Reading) -> Option<AccessDecision> {
        let asks = reading != Reading::Context && self.router.is_request(message);
        asks.then(|| self.router.access.decision(message)).flatten()
    }

    /// The log line of a message, not marked as a request.
    fn entry(&self, message: &Incoming, files: &[Download]) -> LogEntry {
        let names = &self.services.names;
        if let Author::Program(name) = &message.author {
            names.remember(&message.user, name);
        }
        let attachments = files.iter().map(|download| Attachment {
            original: download.file.name.clone(),
            local: download.local.clone(),
        });
        self.named(LogEntry {
            ts: message.ts.clone(),
            user: message.user.clone(),
            text: secret::hide(store::clean_text(&message.text)),
            attachments: attachments.collect(),
            thread_ts: message.thread_ts.clone(),
            ..LogEntry::default()
        })
    }

    /// Logs the earlier messages of the job's thread: those of people from before mom was there,
    /// and those of programs, since requests are often about their alerts.
    pub(super) fn log_thread(&self, job: &Job) -> Result<()> {
        let (Some(root), Some(request)) = (&job.thread_ts, job.requests.first()) else {
            return Ok(());
        };
        let Services { web, files, .. } = &*self.services;
        let me = self.services.me();
        history::thread(web, &job.channel, root, &request.ts, &mut |page| {
            let messages = page.iter();
            let messages = messages.filter_map(|m| inbound::overheard(m, &job.channel, me));
            let messages: Vec<Incoming> = messages.collect();
            self.ask_names(messages.iter(), NAME_WAIT);
            let routing = self.router.lock();
            let (logged, failed) = self.log_new(messages, Reading::Context, &routing);
            drop(routing);
            for download in logged.into_iter().flat_map(|logged| logged.downloads) {
                files.fetch(download);
            }
            failed
                .into_iter()
                .next()
                .map_or(Ok(()), |(_, err)| Err(err))
        })
    }

    /// Logs edited messages as further lines; an empty text means that the message was deleted.
    fn log_revised(&self, messages: &[Incoming]) {
        let _routing = self.router.lock();
        let store = &self.services.agent.store;
        for message in messages {
            // The original line must be in the log before its revision.
            let first = store.log_heard(&message.channel, &|entry| self.named(entry));
            let seen = store.seen(&message.channel, &message.ts, Now::default());
            let revised = match first.and(seen) {
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

    /// Records the new text of a waiting request; `None`: it was deleted.
    fn amend(&self, channel: &str, ts: &str, now: Option<(String, Vec<String>)>) {
        let ledger = &self.services.agent.store.ledger;
        if let Err(err) = ledger.amend(channel, ts, now) {
            log::warning!(channel, "cannot record an edit: {err}");
        }
    }

    /// Acts on what is not a new message. Returns the message to log, if any.
    fn apply(&self, inbound: Inbound) -> Option<Incoming> {
        match inbound {
            Inbound::Edited(message) => {
                let text = Some(message.text.as_str());
                self.router.amend(&message.channel, &message.ts, text);
                Some(message)
            }
            Inbound::Extended(message, added) => {
                let mut files = Vec::new();
                for download in downloads(&message) {
                    if (self.services.files).is_absent(&download.local, &self.services.agent.store)
                    {
                        files.push(download.local.clone());
                        self.services.files.fetch(download);
                    }
                }
                self.router.extend(&message, added, files);
                Some(message)
            }
            Inbound::Deleted { channel, ts } => {
                self.router.amend(&channel, &ts, None);
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
            Inbound::ApprovalPressed {
                channel,
                user,
                question,
                choice,
            } => {
                let message = Incoming {
                    channel,
                    user,
                    ..Incoming::default()
                };
                self.router.approvals.press(message, &question, choice);
                None
            }
            _ => None,
        }
    }

    /// The button of a run that has ended stops no other.
    fn stop_pressed(&self, channel: String, user: String, run: String) {
        let running = self.router.commands.queue.running(&channel);
        if running.is_some_and(|running| run.is_empty() || running.run_ts() == run) {
            let message = Incoming {
                channel,
                user,
                ..Incoming::default()
            };
            let pressed = LoggedMessage {
                message,
                arrival: Arrival::Button(run),
                ..LoggedMessage::default()
            };
            self.router.route(vec![pressed], &self.router.lock());
        }
    }

    /// The body of a thread: submits the jobs of event files.
    pub(super) fn watch_events(&self) {
        let Services { events, stop, .. } = &*self.services;
        let Commands { queue, outbox, .. } = &self.router.commands;
        // Channels where a full queue was posted since it was last empty.
        let mut notified = HashSet::new();
        // The last channel that was refused: event files of one channel often come together.
        let mut closed = None;
        let mut outside = Outside {
            submit: &mut |job| self.submit_event(job, &mut notified),
            channel: &mut |id| self.check_event_channel(id, &mut closed),
            is_working: &|| queue.is_working(),
            post: &mut |channel, text| outbox.post(channel, None, text),
        };
        if let Err(err) = events.watch(stop, &mut outside) {
            log::error!("", "events are not watched any more: {err}");
        }
    }

    fn submit_event(&self, job: Job, notified: &mut HashSet<String>) -> Uptake {
        let Commands { queue, outbox, .. } = &self.router.commands;
        let (channel, event) = (job.channel.clone(), job.event.clone().unwrap_or_default());
        match queue.submit(Task::Run(job)) {
            Submitted::Next => {
                notified.remove(&channel);
                Uptake::Taken
            }
            Submitted::Waits => Uptake::Taken,
            Submitted::Refused if self.services.stop.is_set() => Uptake::Closing,
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
    }

    /// Fails if events of a channel can't run. `closed`: the last such channel, when, and why.
    fn check_event_channel(
        &self,
        id: &str,
        closed: &mut Option<(String, Instant, String)>,
    ) -> std::result::Result<(), String> {
        if !self.router.access.is_channel_allowed(id) {
            return Err("--allow-channels does not name this channel".to_owned());
        }
        match closed {
            Some((known, at, why)) if known == id && at.elapsed() < CLOSED_FOR => {
                return Err(why.clone());
            }
            _ => {}
        }
        match self.services.names.channel(id) {
            Err(failure) if failure.is_closed() => {
                let why = failure.to_string();
                *closed = Some((id.to_owned(), Instant::now(), why.clone()));
                Err(why)
            }
            // Unknown for now: the run's first post will show it.
            _ => Ok(()),
        }
    }
}

/// Posts a greeting of two lines for people who see mom for the first time, once per channel.
fn greet(access: &Access, channel: &str) {
    let Services {
        agent,
        history,
        identity,
        ..
    } = &*access.services;
    let is_new = matches!(agent.store.dir().stamp(&log_path(channel)), Ok(None));
    if access.is_channel_allowed(channel) && is_new && history.greets(channel) {
        let text = format!(
            "Hello, I am {}: mention me, or write me a direct message, and I work on what you \
             need with commands and files of my own.\n`help` shows what else I know.",
            text::escape(&identity.user)
        );
        access.outbox.post(channel, None, text);
    }
}

/// `text`: without the mentions of mom. People, groups and all who are there.
fn mentions_others(text: &str) -> bool {
    let marks = ["<@", "<!subteam^", "<!here", "<!channel", "<!everyone"];
    marks.iter().any(|mark| text.contains(mark))
}

/// Only people need a look-up: messages of programs contain the program's name.
fn is_person(message: &Incoming) -> bool {
    !matches!(message.author, Author::Program(_))
}

/// The files of a message, with their paths in the data directory.
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
