//! The commands that mom carries out without a model: `stop`, `new`, `status`, `help`.

use std::sync::Arc;

use crate::agent::queue::{CommandRequest, Queue, Task};
use crate::agent::run::Job;
use crate::base::error::Result;
use crate::base::log;
use crate::base::text;
use crate::base::time;
use crate::slack::earlier;
use crate::slack::web::PostContent;
use crate::store::ledger::{Ending, LedgerEnd};
use crate::store::{LogEntry, Now, Seen};

use super::Services;
use super::outbox::{Outbox, earlier_posts, post};

const NEW_CONVERSATION: &str =
    "_A fresh start: what was said before is left out from now on. Memory and files stay._";
const NOTHING_RUNS: &str =
    "_Nothing running_\nI also know `new` (a fresh start), `status` (what I am up to) and `help`.";
/// Emoji under a `stop` that stopped something.
const STOPPED: &str = "octagonal_sign";
/// Allowed users whom `help` names.
const NAMED_MAX: usize = 20;
/// Scheduled events that `status` names.
const SCHEDULED_MAX: usize = 20;

pub(super) struct Commands {
    pub(super) services: Arc<Services>,
    pub(super) queue: Queue,
    pub(super) outbox: Outbox,
}

impl Commands {
    /// Stops the run in the channel, and the earlier requests in `tasks` from the same channel or
    /// thread. The run's status message shows the stop.
    pub(super) fn stop(&self, command: &CommandRequest, tasks: &mut [Task]) {
        let (channel, thread_ts) = (&command.channel, command.thread_ts.as_deref());
        let before = self.stop_before(command, tasks);
        let running = self.queue.stop(channel, "", &command.user);
        if !before && !running {
            if !command.resumed {
                self.outbox.post(channel, thread_ts, NOTHING_RUNS);
            }
            self.end(channel, &command.ts, Ending::Command);
        } else if !command.resumed {
            self.outbox.react(channel, &command.ts, STOPPED);
        }
    }

    /// Returns whether there was anything to stop.
    fn stop_before(&self, command: &CommandRequest, tasks: &mut [Task]) -> bool {
        let run = self.services.agent.store.ledger.run(&command.channel);
        // A resumed stop was meant for the run that the restart interrupted.
        let cut = run.ok().flatten().filter(|_| command.resumed);
        let cut = cut.map_or(Vec::new(), |run| run.requests);
        let mut found = false;
        for task in tasks {
            let Task::Run(job) = task else { continue };
            let was_running = job.requests.iter().any(|request| cut.contains(&request.ts));
            if was_running || job.thread_ts == command.thread_ts && job.event.is_none() {
                job.stopped_by.get_or_insert_with(|| command.user.clone());
                found = true;
            }
        }
        found
    }

    /// Records that a request has ended: a restart leaves it alone.
    pub(super) fn end(&self, channel: &str, ts: &str, how: Ending) {
        if let Err(err) = end(&self.services, channel, ts, how) {
            log::warning!(channel, "{err}");
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
                Some(users) => {
                    // Names, because a mention would notify people.
                    let name = |id: &String| services.names.user(id).map(|user| user.display);
                    let names = users.iter().take(NAMED_MAX);
                    let names = names.map(|id| name(id).unwrap_or_else(|| id.clone()));
                    text::escape(&names.collect::<Vec<_>>().join(", "))
                }
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
            metadata: Some(earlier::metadata(&command.ts, earlier::STATUS)),
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
    end(services, channel, &command.ts, Ending::Command)
}

fn end(services: &Services, channel: &str, ts: &str, how: Ending) -> Result<()> {
    let ended = LedgerEnd::of(how, vec![ts.to_owned()], None);
    let ledger = &services.agent.store.ledger;
    ledger.end(channel, vec![ended], None)
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
    lines.push(format!("Threads: {}", services.agent.config.threads()));
    let scheduled = services.events.scheduled(channel);
    if scheduled.is_empty() {
        lines.push("Scheduled: nothing".to_owned());
    }
    for (due_ms, name) in scheduled.iter().take(SCHEDULED_MAX) {
        let due = time::prompt_stamp(*due_ms);
        lines.push(format!("Scheduled: {name} at {due}"));
    }
    lines
}
