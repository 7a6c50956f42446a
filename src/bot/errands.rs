//! What is said or done in Slack beside the runs, in order, on a thread of its own.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use crate::agent::queue::{Order, Promise, Queue, Running, Task};
use crate::agent::run::Job;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::text;
use crate::base::time;
use crate::slack::display;
use crate::slack::web::{Content, Urgency};
use crate::store::LogEntry;

use super::House;

/// Something to say or do in Slack beside the runs, in order.
pub(super) enum Errand {
    Say {
        channel: String,
        thread_ts: Option<String>,
        text: String,
    },
    Eyes {
        channel: String,
        ts: String,
    },
    /// `_Stopping..._`, which becomes `_Stopped_`.
    Stopping(Order, Arc<Running>),
    /// Makes `_Stopped_` of a `_Stopping..._` that a crash left behind.
    Stopped(Order),
    Status(Order),
    Directory,
    End,
}

impl House {
    /// Never waits: a full list means that Slack is out of reach, and what is lost then is a
    /// courtesy.
    pub(super) fn errand(&self, errand: Errand) {
        if self.errands.try_send(Box::new(errand)).is_err() {
            log::debug!("", "too many things to say at once");
        }
    }

    pub(super) fn run_errands(self: &Arc<House>, errands: &Receiver<Box<Errand>>, queue: &Queue) {
        for errand in errands {
            let done = match *errand {
                Errand::Say {
                    channel,
                    thread_ts,
                    text,
                } => self
                    .say(&channel, thread_ts.as_deref(), &text, None)
                    .map(drop),
                Errand::Eyes { channel, ts } => {
                    let added = self.web.reactions_add(&channel, &ts, "eyes");
                    added.map_err(Error::from)
                }
                Errand::Stopping(order, running) => {
                    self.say_to(&order, "_Stopping..._").map(|ts| {
                        let channel = order.channel;
                        let late = running.promise(Promise { channel, ts });
                        self.keep_promises(late.into_iter().collect());
                    })
                }
                Errand::Stopped(order) => self.said_to(&order).map(|ts| {
                    let channel = order.channel;
                    let promise = ts.map(|ts| Promise { channel, ts });
                    self.keep_promises(promise.into_iter().collect());
                }),
                Errand::Status(order) => {
                    let lines = self.status_lines(&order.channel, queue);
                    let text = self.agent.status(&order.channel, &lines);
                    self.obeyed(&order, &text::escape(&text))
                }
                Errand::Directory => self.names.write_directory(self.agent.store.dir()),
                Errand::End => return,
            };
            if let Err(err) = done {
                log::warning!("", "something was left out: {err}");
            }
        }
    }

    /// `run`: what its metadata names, so that it can be found again.
    fn say(
        &self,
        channel: &str,
        thread_ts: Option<&str>,
        text: &str,
        run: Option<&str>,
    ) -> Result<String> {
        let content = Content {
            text: text.to_owned(),
            metadata: run.map(|run| display::metadata(run, display::STATUS)),
            ..Content::default()
        };
        let posted = self
            .web
            .chat_post_message(channel, thread_ts, &content, Urgency::Must);
        Ok(posted?)
    }

    fn say_to(&self, order: &Order, text: &str) -> Result<String> {
        let thread_ts = order.thread_ts.as_deref();
        self.say(&order.channel, thread_ts, text, Some(&order.ts))
    }

    /// What stands in answer to it.
    fn said_to(&self, order: &Order) -> Result<Option<String>> {
        let left = self.left(&order.channel, order.thread_ts.as_deref(), &order.ts)?;
        Ok(left.status_ts)
    }

    /// Says what a command led to, and writes down that it did: once, whatever happens.
    pub(super) fn obeyed(&self, order: &Order, text: &str) -> Result<()> {
        let stands = if order.again {
            self.said_to(order)?
        } else {
            None
        };
        let ts = stands.map_or_else(|| self.say_to(order, text), Ok)?;
        let entry = LogEntry {
            thread_ts: order.thread_ts.clone(),
            answers: Some(order.ts.clone()),
            ..LogEntry::own(ts, text)
        };
        self.agent.store.log(&[(order.channel.clone(), entry)])
    }

    pub(super) fn keep_promises(&self, promises: Vec<Promise>) {
        let content = Content {
            text: "_Stopped_".to_owned(),
            ..Content::default()
        };
        for Promise { channel, ts } in promises {
            if let Err(failure) = self.web.chat_update(&channel, &ts, &content, Urgency::Must) {
                log::warning!(&channel, "cannot say that the run has stopped: {failure}");
            }
        }
    }

    fn status_lines(&self, channel: &str, queue: &Queue) -> Vec<String> {
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
        let scheduled = self.events.scheduled(channel);
        if scheduled.is_empty() {
            lines.push("Scheduled: nothing".to_owned());
        }
        for (name, due_ms) in scheduled.iter().take(20) {
            lines.push(format!(
                "Scheduled: {name} at {}",
                time::prompt_stamp(*due_ms)
            ));
        }
        lines
    }
}
