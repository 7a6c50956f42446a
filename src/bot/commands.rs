//! The commands that mom carries out without a model: `stop`, `new`, `status`, `help`.

use std::sync::Arc;

use crate::agent::queue::{CommandRequest, Queue, Task};
use crate::agent::run::Job;
use crate::base::error::Result;
use crate::base::log;
use crate::base::text;
use crate::base::time;
use crate::slack::display;
use crate::slack::web::PostContent;
use crate::store::ledger::{Ended, Ending};
use crate::store::{LogEntry, Now, Seen};

use super::Services;
use super::outbox::{Outbox, earlier_posts, post};

const NEW_CONVERSATION: &str =
    "_A fresh start: what was said before is left out from now on. Memory and files stay._";
const NOTHING_RUNS: &str =
    "_Nothing running_\nI also know `new` (a fresh start), `status` (what I am up to) and `help`.";
/// Emoji under a `stop` that stopped something.
const STOPPED: &str = "octagonal_sign";
/// Scheduled events that `status` names.
const SCHEDULED_MAX: usize = 20;

pub(super) struct Commands {
    pub(super) services: Arc<Services>,
    pub(super) queue: Queue,
    pub(super) outbox: Outbox,
}

impl Commands {
    /// The run's status message shows that it has stopped.
    pub(super) fn stop(&self, command: &CommandRequest) {
        let (channel, thread_ts) = (&command.channel, command.thread_ts.as_deref());
        if self.queue.stop(channel, "", &command.user) {
            self.outbox.react(channel, &command.ts, STOPPED);
        } else {
            self.outbox.post(channel, thread_ts, NOTHING_RUNS);
            self.ended(command);
        }
    }

    /// It stops nothing any more, and a restart leaves it alone.
    pub(super) fn ended(&self, command: &CommandRequest) {
        if let Err(err) = has_ended(&self.services, command) {
            log::warning!(&command.channel, "{err}");
        }
    }

    /// On the channel's worker.
    pub(super) fn new_conversation(&self, command: &CommandRequest) -> Result<()> {
        let text = match self.services.agent.new_conversation(&command.channel) {
            Ok(()) => NEW_CONVERSATION.to_owned(),
            Err(err) => format!(
                "_Sorry, something went wrong_: {}",
                text::escape(&err.to_string())
            ),
        };
        answer(&self.services, command, &text)
    }

    pub(super) fn status(&self, command: CommandRequest) {
        let (services, queue) = (self.services.clone(), self.queue.clone());
        self.outbox.work(move || {
            let lines = status_lines(&services, &queue, &command.channel);
            let text = services.agent.status(&command.channel, &lines);
            answer(&services, &command, &text::escape(&text))
        });
    }

    pub(super) fn help(&self, command: CommandRequest) {
        let services = self.services.clone();
        self.outbox.work(move || {
            let who = match &services.agent.config.allow_users {
                Some(users) => users
                    .iter()
                    .map(|id| format!("<@{id}>"))
                    .collect::<Vec<_>>()
                    .join(", "),
                None => "every member of this workspace".to_owned(),
            };
            let text = services.agent.help(&services.identity.user);
            let text = format!("{}\nWho may use me: {who}.", text::escape(&text));
            answer(&services, &command, &text)
        });
    }
}

/// Posts the answer to a command, and logs it as that: once, also after a crash in between.
fn answer(services: &Services, command: &CommandRequest, text: &str) -> Result<()> {
    let (channel, thread_ts) = (&command.channel, command.thread_ts.as_deref());
    let posted = if command.resumed {
        earlier_posts(&services.web, channel, thread_ts, &command.ts)?.status_ts
    } else {
        None
    };
    let post = || {
        let content = PostContent {
            metadata: Some(display::metadata(&command.ts, display::STATUS)),
            ..PostContent::plain(text)
        };
        post(&services.web, channel, thread_ts, &content)
    };
    let ts = posted.map_or_else(post, Ok)?;
    let store = &services.agent.store;
    if store.seen(channel, &ts, Now::default())? == Seen::New {
        let entry = LogEntry {
            thread_ts: command.thread_ts.clone(),
            ..LogEntry::own(ts, text)
        };
        store.log(&[(channel.clone(), entry)])?;
    }
    has_ended(services, command)
}

fn has_ended(services: &Services, command: &CommandRequest) -> Result<()> {
    let ended = Ended::of(Ending::Command, vec![command.ts.clone()], None);
    let ledger = &services.agent.store.ledger;
    ledger.end(&command.channel, vec![ended], None)
}

fn status_lines(services: &Services, queue: &Queue, channel: &str) -> Vec<String> {
    let mut lines = Vec::new();
    lines.push(match queue.running(channel) {
        Some(running) => format!(
            "Running: {} for {}, {} waiting",
            match &running.task {
                Task::Run(Job {
                    event: Some(event), ..
                }) => format!("event {event}"),
                _ => "a message".to_owned(),
            },
            text::duration(running.since.elapsed()),
            queue.waiting(channel)
        ),
        None => "Running: nothing".to_owned(),
    });
    let scheduled = services.events.scheduled(channel);
    if scheduled.is_empty() {
        lines.push("Scheduled: nothing".to_owned());
    }
    for (name, due_ms) in scheduled.iter().take(SCHEDULED_MAX) {
        let due = time::prompt_stamp(*due_ms);
        lines.push(format!("Scheduled: {name} at {due}"));
    }
    lines
}
