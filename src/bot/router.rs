//! What a logged message leads to: a request for a run, a command, a refusal. Nothing happens
//! before it is known whether the sender may use mom.

use std::collections::VecDeque;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::agent::queue::{CommandRequest, Submitted, Task};
use crate::agent::run::Job;
use crate::base::backoff::Backoff;
use crate::base::command::Command;
use crate::base::log;
use crate::slack::files::Download;
use crate::slack::inbound::Incoming;
use crate::store::ledger::{AccessDecision, Ending, LedgerRequest};

use super::Services;
use super::access::{Access, AccessVerdict};
use super::approvals::Approvals;
use super::catch_up::Wake;
use super::commands::Commands;

/// Messages that one run answers from its start.
const TOGETHER_MAX: usize = 50;
/// Messages that wait for a look-up of their senders; further ones are only logged, and a later
/// start resumes them.
const WAITING_MAX: usize = 1_000;
/// Pauses before Slack is asked again who someone is.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

pub(super) struct Router {
    pub(super) services: Arc<Services>,
    pub(super) access: Access,
    pub(super) commands: Commands,
    pub(super) approvals: Approvals,
    /// Locked from the check whether a message is new until it is in the queue: the socket and the
    /// history may deliver the same one, and a run reads from the log what is not in the queue.
    pub(super) routing: Mutex<()>,
    pub(super) waiting: Mutex<VecDeque<WaitingBatch>>,
    /// Wakes the thread that asks Slack who someone is.
    pub(super) wake: Wake,
}

/// The lock of `Router::routing`.
pub(super) type Routing<'a> = MutexGuard<'a, ()>;

/// A message in the log, or a press of the Stop button.
#[derive(Default)]
pub(super) struct LoggedMessage {
    pub(super) message: Incoming,
    /// Files that are to be fetched.
    pub(super) downloads: Vec<Download>,
    /// Paths of all its files.
    pub(super) files: Vec<String>,
    pub(super) arrival: Arrival,
    /// The decision in the ledger; `None`: not a request, or its sender may not use mom.
    pub(super) decision: Option<AccessDecision>,
}

#[derive(Default, PartialEq, Eq)]
pub(super) enum Arrival {
    #[default]
    New,
    /// The ledger had it before: it is routed already.
    Routed,
    /// Its text came earlier, without its files.
    LateFiles,
    /// Found after a start.
    Resumed,
    /// The Stop button of this run.
    Button(String),
}

/// Messages of one channel that wait for a look-up of their senders.
pub(super) struct WaitingBatch {
    channel: String,
    messages: Vec<LoggedMessage>,
    /// The look-up did not help: later messages do not wait for this batch any more.
    tried: bool,
}

impl LoggedMessage {
    fn command(&self) -> Option<Command> {
        match self.arrival {
            Arrival::Button(_) => Some(Command::Stop),
            Arrival::LateFiles => None,
            _ => Command::parse(&self.message.text),
        }
    }

    pub(super) fn set_downloads(&mut self, downloads: Vec<Download>) {
        let files = downloads.iter().map(|download| download.local.clone());
        self.files = files.collect();
        self.downloads = downloads;
    }

    fn verdict(&self, access: &Access) -> AccessVerdict {
        access.verdict(&self.message, self.decision)
    }

    fn thread_ts(&self) -> Option<&str> {
        let root = self.message.thread_ts.as_deref();
        root.filter(|root| *root != self.message.ts)
    }
}

impl Router {
    pub(super) fn lock(&self) -> Routing<'_> {
        self.routing.lock().unwrap()
    }

    /// Whether a logged message waits for a run.
    pub(super) fn waits(&self, channel: &str, ts: &str) -> bool {
        let _routing = self.lock();
        let waiting = self.waiting.lock().unwrap();
        let mut messages = waiting.iter().flat_map(|batch| &batch.messages);
        messages.any(|logged| logged.message.ts == ts && logged.message.channel == channel)
            || self.commands.queue.waits(channel, ts)
    }

    /// A waiting message was edited (`Some`) or deleted (`None`).
    pub(super) fn amend(&self, channel: &str, ts: &str, text: Option<&str>) {
        self.commands.queue.amend(channel, ts, text);
        for batch in self.waiting.lock().unwrap().iter_mut() {
            batch.messages.retain_mut(|logged| {
                if logged.message.ts != ts || logged.message.channel != channel {
                    return true;
                }
                text.unwrap_or_default()
                    .clone_into(&mut logged.message.text);
                text.is_some()
            });
        }
    }

    /// Slack added to a message. If it waits, its text is replaced; if it was a request that has
    /// begun, the addition goes to its run, or into the context.
    pub(super) fn extend(&self, message: &Incoming, added: String, files: Vec<String>) {
        let Incoming { channel, ts, .. } = message;
        let waits = self.waits(channel, ts);
        self.amend(channel, ts, Some(&message.text));
        let was_asked = self.services.agent.store.ledger.knows(channel, ts);
        if waits || !was_asked.unwrap_or_default() {
            return;
        }
        let root = message.thread_ts.clone().filter(|root| root != ts);
        self.submit(Task::Run(Job {
            channel: channel.clone(),
            thread_ts: root,
            requests: vec![LedgerRequest {
                ts: ts.clone(),
                user: message.user.clone(),
                text: format!("(Slack has added to this message:)\n{added}"),
                files,
                is_addition: true,
                ..LedgerRequest::default()
            }],
            resumed: true,
            ..Job::default()
        }));
    }

    /// Whether the message asks something of mom: it is addressed to mom, or is a `stop` while
    /// something runs.
    pub(super) fn is_request(&self, message: &Incoming) -> bool {
        message.mention
            || Command::parse(&message.text) == Some(Command::Stop)
                && self.commands.queue.running(&message.channel).is_some()
    }

    /// Routes requests to mom; at once if their senders are known.
    pub(super) fn route(&self, logged: Vec<LoggedMessage>, _: &Routing<'_>) {
        let mut batches: Vec<WaitingBatch> = Vec::new();
        for mut logged in logged {
            for download in logged.downloads.drain(..) {
                self.services.files.fetch(download);
            }
            let asks = match logged.arrival {
                // The run may have ended since the `stop` was recorded as a request.
                Arrival::New | Arrival::LateFiles => {
                    logged.decision.is_some() || self.is_request(&logged.message)
                }
                Arrival::Resumed | Arrival::Button(_) => true,
                Arrival::Routed => false,
            };
            if !asks {
                continue;
            }
            let channel = &logged.message.channel;
            match batches.iter_mut().find(|batch| batch.channel == *channel) {
                Some(batch) => batch.messages.push(logged),
                None => batches.push(WaitingBatch {
                    channel: channel.clone(),
                    messages: vec![logged],
                    tried: false,
                }),
            }
        }
        for batch in batches {
            self.route_or_wait(batch);
        }
    }

    fn route_or_wait(&self, mut batch: WaitingBatch) {
        let mut waiting = self.waiting.lock().unwrap();
        let earlier_wait = (waiting.iter()).any(|w| !w.tried && w.channel == batch.channel);
        let is_unknown =
            |logged: &LoggedMessage| matches!(logged.verdict(&self.access), AccessVerdict::Unknown);
        if earlier_wait || batch.messages.iter().any(is_unknown) {
            // A stop does not wait for others.
            let is_stop = |logged: &LoggedMessage| {
                logged.command() == Some(Command::Stop) && !is_unknown(logged)
            };
            let (stops, others) = batch.messages.into_iter().partition(is_stop);
            batch.messages = others;
            let count: usize = waiting.iter().map(|batch| batch.messages.len()).sum();
            if count + batch.messages.len() > WAITING_MAX {
                log::warning!(
                    &batch.channel,
                    "too many messages wait for a look-up of their senders; these are only logged"
                );
            } else if !batch.messages.is_empty() {
                waiting.push_back(batch);
                self.wake.wake();
            }
            drop(waiting);
            self.route_known(stops);
            return;
        }
        drop(waiting);
        self.route_known(batch.messages);
    }

    /// The body of a thread: looks up senders, and routes the messages that wait for that.
    pub(super) fn look_up_waiting(&self, wakes: &Receiver<()>) {
        let stop = &self.services.stop;
        for () in wakes {
            let mut backoff = Backoff::new(PAUSE, PAUSE_MAX);
            loop {
                let Some(users) = self.unknown_users() else {
                    match self.services.names.next_wanted() {
                        // Without an answer, the log line is written without the name.
                        Some(id) => drop(self.services.names.look_up(&id)),
                        None => break,
                    }
                    continue;
                };
                let mut failure = None;
                for user in &users {
                    failure = self.access.look_up(user).err().or(failure);
                }
                self.route_front();
                if let Some(why) = failure {
                    log::warning!("", "cannot find out who asks, trying again: {why}");
                    if backoff.wait(stop, None).is_err() {
                        return;
                    }
                }
            }
            if stop.is_set() {
                return;
            }
        }
    }

    /// Unknown senders in the next batch; `None`: nothing waits.
    fn unknown_users(&self) -> Option<Vec<String>> {
        let waiting = self.waiting.lock().unwrap();
        let mut users = Vec::new();
        for logged in &waiting.front()?.messages {
            if matches!(logged.verdict(&self.access), AccessVerdict::Unknown) {
                users.push(logged.message.user.clone());
            }
        }
        users.dedup();
        Some(users)
    }

    fn route_front(&self) {
        let _routing = self.lock();
        let mut waiting = self.waiting.lock().unwrap();
        let Some(mut batch) = waiting.pop_front() else {
            return;
        };
        let is_known = |logged: &LoggedMessage| {
            !matches!(logged.verdict(&self.access), AccessVerdict::Unknown)
        };
        let (known, unknown) = batch.messages.into_iter().partition(is_known);
        batch.messages = unknown;
        batch.tried = true;
        if !batch.messages.is_empty() {
            waiting.push_back(batch);
        }
        drop(waiting);
        self.route_known(known);
    }

    /// Messages of one channel that came together are answered together.
    fn route_known(&self, messages: Vec<LoggedMessage>) {
        let mut tasks = Vec::new();
        for logged in messages {
            match logged.verdict(&self.access) {
                AccessVerdict::Member => match logged.command() {
                    Some(command) => self.route_command(command, logged, &mut tasks),
                    None => self.route_request(logged, &mut tasks),
                },
                AccessVerdict::Outsider(refusal) => {
                    self.access.refuse(&logged.message, &refusal);
                    if logged.decision.is_some() {
                        let Incoming { channel, ts, .. } = &logged.message;
                        self.commands.end(channel, ts, Ending::Refused);
                    }
                }
                // An unknown sender may not use mom.
                AccessVerdict::Unknown => {}
            }
        }
        tasks.into_iter().for_each(|task| self.submit(task));
    }

    fn route_request(&self, logged: LoggedMessage, tasks: &mut Vec<Task>) {
        let thread_ts = logged.thread_ts().map(str::to_owned);
        let LoggedMessage {
            message,
            files,
            arrival,
            ..
        } = logged;
        let mut job = Job {
            channel: message.channel,
            requests: vec![LedgerRequest {
                ts: message.ts,
                user: message.user,
                text: message.text,
                thread: thread_ts.clone(),
                files,
                ..LedgerRequest::default()
            }],
            thread_ts,
            resumed: arrival == Arrival::Resumed,
            ..Job::default()
        };
        if arrival != Arrival::LateFiles {
            return gather(tasks, job);
        }
        let LedgerRequest {
            ts, text, files, ..
        } = &mut job.requests[0];
        // For the run that has the text already; without effect if that run has ended.
        let now = Some((std::mem::take(text), files.clone()));
        if let Err(err) = (self.services.agent.store.ledger).amend(&job.channel, ts, now) {
            log::warning!(&job.channel, "cannot record an edit: {err}");
        }
        job.resumed = true;
        self.commands.queue.submit(Task::Run(job));
    }

    fn route_command(&self, command: Command, logged: LoggedMessage, tasks: &mut Vec<Task>) {
        let thread_ts = logged.thread_ts().map(str::to_owned);
        let request = CommandRequest {
            thread_ts,
            channel: logged.message.channel,
            ts: logged.message.ts,
            user: logged.message.user,
            resumed: logged.arrival == Arrival::Resumed,
        };
        match command {
            Command::Stop => match logged.arrival {
                Arrival::Button(run) => {
                    (self.commands.queue).stop(&request.channel, &run, &request.user);
                }
                _ => self.commands.stop(&request, tasks),
            },
            Command::New => tasks.push(Task::NewConversation(request)),
            Command::Status => self.commands.status(request),
            Command::Help => self.commands.help(request),
        }
    }

    /// Messages that have to wait get a reaction.
    pub(super) fn submit(&self, task: Task) {
        let channel = task.channel().to_owned();
        let tss: Vec<String> = match &task {
            Task::Run(job) if !job.resumed => job.requests.iter().map(|r| r.ts.clone()).collect(),
            // A resumed message had its reaction; other tasks have no message.
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
                    "too many tasks wait in this channel; a message is only logged"
                );
            }
        }
    }
}

/// Adds a job to the tasks to submit. Requests from one channel or thread become one job, unless a
/// command is between them.
fn gather(tasks: &mut Vec<Task>, job: Job) {
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
