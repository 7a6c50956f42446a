//! What is asked goes to the queue, and commands are obeyed; who may ask, and what an event
//! may do, is decided here.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::agent::queue::{Order, Queue, Submitted, Task};
use crate::agent::run::{Asked, Job};
use crate::base::command::Command;
use crate::base::log;
use crate::base::text;
use crate::events::{Outside, Uptake};
use crate::slack::inbound::{Inbound, Incoming};
use crate::slack::users::Standing;
use crate::slack::web::Failure;
use crate::store::Seen;

use super::House;
use super::errands::Errand;
use super::intake::{Intake, Taken};

/// Codes of conversations.info for a place where she can't speak.
const CLOSED_TO_HER: [&str; 3] = ["channel_not_found", "not_in_channel", "is_archived"];
/// How long that is believed: she may be invited, and the file put back.
const CLOSED_FOR: Duration = Duration::from_secs(2);
const GUESTS: &str = "guests need to be on her list of users";
const NOTHING_RUNS: &str =
    "_Nothing running_\nI also know `new` (a fresh start) and `status` (what I am up to).";
/// Messages that one run answers from its start.
const TOGETHER_MAX: usize = 50;

impl House {
    /// What logged messages lead to; those that came together are answered together.
    pub(super) fn route(self: &Arc<House>, taken: Vec<Taken>, queue: &Queue, _: Intake<'_>) {
        let mut tasks = Vec::new();
        for taken in taken {
            // A command is about what was said before it.
            if taken.command().is_some() {
                tasks.drain(..).for_each(|task| self.submit(task, queue));
            }
            if let Some(job) = self.route_one(taken, queue) {
                gather(&mut tasks, job);
            }
        }
        tasks.into_iter().for_each(|task| self.submit(task, queue));
    }

    fn route_one(self: &Arc<House>, taken: Taken, queue: &Queue) -> Option<Job> {
        let command = taken.command();
        let Taken {
            message,
            files,
            seen,
        } = taken;
        let locals: Vec<String> = files
            .iter()
            .map(|download| download.local.clone())
            .collect();
        for download in files {
            self.files.fetch(download);
        }
        // `stop` needs no mention, the rest of what is not for her is only logged.
        let stops = command == Some(Command::Stop) && queue.running(&message.channel).is_some();
        if !message.mention && !stops {
            return None;
        }
        let channel = message.channel.clone();
        let thread_ts = message.thread_ts.clone().filter(|root| *root != message.ts);
        if let Err(why) = self.may(&message) {
            if message.mention {
                self.refuse(&channel, thread_ts, &message.user, why);
            }
            return None;
        }
        let Some(command) = command else {
            let mut job = Job {
                channel,
                asked: vec![Asked {
                    ts: message.ts,
                    user: message.user,
                    text: message.text,
                    files: locals,
                }],
                thread_ts,
                event: None,
                again: false,
                stopped: false,
            };
            if seen == Seen::NowFiles {
                // For the run that was asked; there is none when it has ended.
                job.asked[0].text.clear();
                job.again = true;
                queue.submit(Task::Run(job));
                return None;
            }
            return Some(job);
        };
        let order = Order {
            channel,
            thread_ts,
            ts: message.ts,
            again: false,
        };
        match command {
            Command::Stop => {
                self.when_no_outsider(message.user, queue, move |house, queue, user| {
                    house.stop_run(order, user, queue);
                });
            }
            Command::New => self.submit(Task::Fresh(order), queue),
            Command::Status => self.errand(Errand::Status(order)),
        }
        None
    }

    pub(super) fn submit(&self, task: Task, queue: &Queue) {
        let channel = task.channel().to_owned();
        let tss: Vec<String> = match &task {
            Task::Run(job) if !job.again => job.asked.iter().map(|a| a.ts.clone()).collect(),
            // Seen before, or nobody's message.
            _ => Vec::new(),
        };
        match queue.submit(task) {
            Submitted::Next => {}
            Submitted::Waits => {
                for ts in tss {
                    self.errand(Errand::Eyes {
                        channel: channel.clone(),
                        ts,
                    });
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

    /// Returns what is to be written down of it.
    pub(super) fn act(self: &Arc<House>, inbound: Inbound, queue: &Queue) -> Option<Incoming> {
        match inbound {
            Inbound::Edited(message) => {
                queue.amend(&message.channel, &message.ts, Some(&message.text));
                return Some(message);
            }
            Inbound::Deleted { channel, ts } => {
                queue.amend(&channel, &ts, None);
                return Some(Incoming {
                    channel,
                    ts,
                    ..Incoming::default()
                });
            }
            Inbound::StopPressed { channel, user, run } => {
                let message = Incoming {
                    channel: channel.clone(),
                    user: user.clone(),
                    ..Incoming::default()
                };
                let running = queue.running(&channel);
                // The button of a run that has ended stops no other.
                let is_it = running.is_some_and(|on| run.is_empty() || on.run() == run);
                if is_it && self.may(&message).is_ok() {
                    self.when_no_outsider(user, queue, move |house, queue, user| {
                        house.stopping(&channel, user);
                        queue.stop(&channel, &run);
                    });
                }
            }
            Inbound::Message(_) | Inbound::Ignored(_) => {}
        }
        None
    }

    fn stop_run(&self, order: Order, user: &str, queue: &Queue) {
        self.stopping(&order.channel, user);
        match queue.stop(&order.channel, "") {
            Some(running) => self.errand(Errand::Stopping(order, running)),
            None => self.errand(Errand::Say {
                channel: order.channel,
                thread_ts: order.thread_ts,
                text: NOTHING_RUNS.to_owned(),
            }),
        }
    }

    /// `act` for someone who passed `may`: at once when it is known who that is, else on a
    /// thread of its own that asks Slack first.
    fn when_no_outsider(
        self: &Arc<House>,
        user: String,
        queue: &Queue,
        act: impl FnOnce(&House, &Queue, &str) + Send + 'static,
    ) {
        let listed = self.agent.config.allow_users.is_some();
        if listed || self.names.known(&user).is_some() {
            return act(self, queue, &user);
        }
        let (house, queue) = (self.clone(), queue.clone());
        let asked = thread::Builder::new()
            .name("who-stops".to_owned())
            .spawn(move || match house.names.user(&user) {
                Some(known) if known.standing != Standing::Member => {
                    log::info!("", "{user} may not stop her: {GUESTS}")
                }
                _ => act(&house, &queue, &user),
            });
        if let Err(err) = asked {
            log::error!("", "cannot start a thread to stop a run: {err}");
        }
    }

    /// Lets the display say who stopped the run; before the stop, which may end it at once.
    fn stopping(&self, channel: &str, user: &str) {
        let stopper = self.stoppers.lock().unwrap().get(channel).cloned();
        if let Some(stopper) = stopper {
            stopper.stopping(user);
        }
    }

    pub(super) fn may(&self, message: &Incoming) -> std::result::Result<(), &'static str> {
        self.allowed(&message.user, &message.channel)?;
        let listed = self.agent.config.allow_users.is_some();
        if message.foreign && !listed {
            return Err("people of other workspaces need to be on her list of users");
        }
        // Whoever is not known yet is looked at before the run begins.
        match self.names.known(&message.user) {
            Some(user) if user.standing != Standing::Member && !listed => Err(GUESTS),
            _ => Ok(()),
        }
    }

    pub(super) fn allowed(
        &self,
        user: &str,
        channel: &str,
    ) -> std::result::Result<(), &'static str> {
        let config = &self.agent.config;
        if !on(&config.allow_users, user) {
            return Err("you are not on her list of users");
        }
        if !on(&config.allow_channels, channel) {
            return Err("she does not work in this conversation");
        }
        Ok(())
    }

    /// Once a day and user.
    fn refuse(&self, channel: &str, thread_ts: Option<String>, user: &str, why: &str) {
        log::info!(channel, "refused {user}: {why}");
        if self.kept.refuses(user) {
            self.errand(Errand::Say {
                channel: channel.to_owned(),
                thread_ts,
                text: format!("_Sorry, I can't help here: {why}._"),
            });
        }
    }

    /// Refuses guests and people of other workspaces, unless there is a list: those on it
    /// passed already. Whom Slack does not tell about passes too.
    pub(super) fn turns_away(&self, job: &Job, thread_ts: Option<&str>, user: &str) -> bool {
        let open = self.agent.config.allow_users.is_none() && job.event.is_none();
        let outsider = open
            && self
                .names
                .user(user)
                .is_some_and(|user| user.standing != Standing::Member);
        if outsider {
            self.refuse(&job.channel, thread_ts.map(str::to_owned), user, GUESTS);
        }
        outsider
    }

    pub(super) fn watch_events(&self, queue: &Queue) {
        // Channels that were told of a full queue since it was last empty.
        let mut told = HashSet::new();
        let mut submit = |job: Job| {
            let (channel, event) = (job.channel.clone(), job.event.clone().unwrap_or_default());
            match queue.submit(Task::Run(job)) {
                Submitted::Next => {
                    told.remove(&channel);
                    Uptake::Taken
                }
                Submitted::Waits => Uptake::Taken,
                Submitted::Refused if self.stop.is_set() => Uptake::Closing,
                Submitted::Refused => {
                    if told.insert(channel.clone()) {
                        let event = text::escape(&event);
                        let text = format!(
                            "_Event {event} was left out: too many events wait here. So are \
                             further ones until there is room_"
                        );
                        self.errand(Errand::Say {
                            channel,
                            thread_ts: None,
                            text,
                        });
                    }
                    Uptake::Full
                }
            }
        };
        let allowed = &self.agent.config.allow_channels;
        // The last channel that was refused: its files often come together.
        let mut closed: Option<(String, Instant, String)> = None;
        let mut channel = |id: &str| {
            if !on(allowed, id) {
                return Err("--allow-channels does not name this channel".to_owned());
            }
            if let Some((_, _, why)) = closed
                .as_ref()
                .filter(|(known, at, _)| known == id && at.elapsed() < CLOSED_FOR)
            {
                return Err(why.clone());
            }
            match self.names.channel(id) {
                Err(Failure::Refused(code)) if CLOSED_TO_HER.contains(&code.as_str()) => {
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
        };
        if let Err(err) = self.events.watch(&self.stop, &mut outside) {
            log::error!("", "events are not watched any more: {err}");
        }
    }
}

/// Adds a job to those that will be submitted; what belongs to one place, and to the same
/// side of a command, is one job.
pub(super) fn gather(tasks: &mut Vec<Task>, job: Job) {
    let jobs = tasks.iter_mut().rev().map_while(|task| match task {
        Task::Run(job) => Some(job),
        Task::Fresh(_) => None,
    });
    let place = |job: &Job| {
        let place = (job.channel.clone(), job.thread_ts.clone());
        (place, job.event.is_some(), job.stopped)
    };
    let same = |other: &&mut Job| place(other) == place(&job) && other.asked.len() < TOGETHER_MAX;
    match jobs.into_iter().find(same) {
        Some(other) => other.asked.extend(job.asked),
        None => tasks.push(Task::Run(job)),
    }
}

/// Is it on the list, if there is one?
fn on(list: &Option<Vec<String>>, id: &str) -> bool {
    list.as_ref()
        .is_none_or(|list| list.iter().any(|listed| listed == id))
}
