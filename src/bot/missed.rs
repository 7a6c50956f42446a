//! What was asked while mom was away: of the files at the start, of Slack after each hello.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use crate::agent::queue::{Order, Queue, Task};
use crate::agent::run::{Asked, Job};
use crate::base::backoff::Backoff;
use crate::base::command::Command;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::time;
use crate::slack::history;
use crate::slack::inbound::{self, Inbound, Incoming};
use crate::store::LogEntry;
use crate::store::kept::MISSED_MS;

use super::House;
use super::errands::Errand;
use super::route::gather;

/// Messages whose files are asked for once more after a start.
const FETCHED_AGAIN_MAX: usize = 100;
/// Pauses before missed messages are asked for once more: twice as long each time.
const MISSED_PAUSE: Duration = Duration::from_secs(1);
const MISSED_PAUSE_MAX: Duration = Duration::from_secs(300);

/// Messages of a channel that a start takes up, the newest: far more than people leave in a
/// day, and the log is anyone's who writes in the data directory.
const TAKEN_UP_MAX: usize = 200;

impl House {
    /// Never waits: one that is on its way already stands for all.
    pub(super) fn hello(&self) {
        self.hellos.try_send(()).ok();
    }

    /// A thread's whole life: after each hello, what was said while mom was away.
    pub(super) fn catch_up(self: &Arc<House>, hellos: &Receiver<()>, queue: &Queue) {
        let mut first = true;
        for () in hellos {
            let mut backoff = Backoff::new(MISSED_PAUSE, MISSED_PAUSE_MAX);
            while let Err(err) = self.read_missed(queue) {
                log::warning!("", "cannot read what was missed: {err}");
                let Error::Retry { after, .. } = err else {
                    break;
                };
                if backoff.wait(&self.stop, after).is_err() {
                    break;
                }
            }
            if self.stop.is_set() {
                return;
            }
            if std::mem::take(&mut first) {
                self.fetch_files_again();
            }
        }
    }

    fn read_missed(self: &Arc<House>, queue: &Queue) -> Result<()> {
        let unposted = std::mem::take(&mut *self.unposted.lock().unwrap());
        for job in unposted {
            self.submit(Task::Run(job), queue);
        }
        let since_ms = time::now_ms() - MISSED_MS;
        let store = &self.agent.store;
        let gap = |channel: &str| self.kept.gap(channel, &|id| store.heard_until(id));
        let mut take = |channel: &str, mut messages: Vec<Incoming>, until: Option<String>| {
            for message in &mut messages {
                // Only logged when it is old: nobody waits for that answer any more.
                let recent = time::slack_ts_ms(&message.ts).is_some_and(|ms| ms >= since_ms);
                message.mention &= recent;
            }
            if !messages.is_empty() {
                let logged = store.logged(channel)?;
                messages.retain(|message| match logged.get(&message.ts) {
                    Some(asked) => message.mention && !asked,
                    None => true,
                });
            }
            let intake = self.intake.lock().unwrap();
            let (taken, failed) = self.take(messages, &intake);
            self.route(taken, queue, intake);
            match failed.into_iter().next() {
                Some((_, err)) => Err(err),
                None => {
                    self.kept.read(channel, until);
                    Ok(())
                }
            }
        };
        let own_threads = |channel: &str| store.own_threads(channel).unwrap_or_default();
        history::missed(
            &self.web,
            &gap,
            &own_threads,
            self.me(),
            &self.stop,
            &mut take,
        )
    }

    /// Files that were on their way when mom ended.
    fn fetch_files_again(&self) {
        let store = &self.agent.store;
        let since_ms = time::now_ms() - MISSED_MS;
        let channels = store.channels().unwrap_or_default();
        let entries = channels.iter().flat_map(|channel| {
            let entries = store.with_files(channel, since_ms).unwrap_or_default();
            entries.into_iter().map(move |entry| (channel, entry))
        });
        let files = |entry: &LogEntry| -> Vec<String> {
            let files = entry.attachments.iter();
            files.map(|file| file.local.clone()).collect()
        };
        let is_absent = |local: &String| self.files.is_absent(local, store);
        let absent = entries.filter(|(_, entry)| files(entry).iter().any(is_absent));
        for (channel, entry) in absent.take(FETCHED_AGAIN_MAX) {
            if self.stop.is_set() {
                return;
            }
            let root = entry.thread_ts.as_deref();
            self.fetch_again(channel, root, &entry.ts, &files(&entry));
        }
    }

    /// Of the files of a message those that are not here; the log has no addresses.
    pub(super) fn fetch_again(
        &self,
        channel: &str,
        root: Option<&str>,
        ts: &str,
        locals: &[String],
    ) {
        let store = &self.agent.store;
        let absent = locals.iter().filter(|l| self.files.is_absent(l, store));
        let absent: Vec<&String> = absent.collect();
        if absent.is_empty() {
            return;
        }
        let found = self.web.message(channel, root.unwrap_or(ts), ts);
        let why = match &found {
            Ok(_) => "Slack does not have it any more".to_owned(),
            Err(failure) => failure.to_string(),
        };
        let message = found.ok().flatten();
        let message = message.map(|message| inbound::message(&message, channel, self.me()));
        let downloads = match message {
            Some(Inbound::Message(message)) => self.downloads(&message),
            _ => Vec::new(),
        };
        for local in absent {
            self.files.give_up(local, &why);
        }
        for download in downloads.into_iter().filter(|d| locals.contains(&d.local)) {
            self.files.fetch(download);
        }
    }

    /// What earlier starts were asked and did not answer, from the files alone. Before anything
    /// new comes: a run that was cut must be the next one of its channel.
    pub(super) fn take_up(&self, queue: &Queue) {
        let since_ms = time::now_ms() - MISSED_MS;
        let store = &self.agent.store;
        let channels = store.channels().unwrap_or_else(|err| {
            log::warning!("", "cannot look for unanswered messages: {err}");
            Vec::new()
        });
        for channel in channels
            .into_iter()
            .filter(|id| crate::slack::is_channel_id(id))
        {
            let cut = store.cut_run(&channel, since_ms).unwrap_or_else(|err| {
                log::warning!(&channel, "cannot look for a run that was cut: {err}");
                None
            });
            let cut = cut.unwrap_or_default();
            let unanswered = store.unanswered(&channel, since_ms).unwrap_or_else(|err| {
                log::warning!(&channel, "cannot look for unanswered messages: {err}");
                Vec::new()
            });
            let more = unanswered.len().saturating_sub(TAKEN_UP_MAX);
            if more > 0 {
                log::warning!(
                    &channel,
                    "{more} older unanswered messages stay in the log only"
                );
            }
            let mut tasks = Vec::new();
            tasks.extend(cut.event.map(|event| {
                let asked = cut.asked.first().cloned().unwrap_or_default();
                Task::Run(event_again(&channel, asked, event))
            }));
            for entry in unanswered.into_iter().skip(more) {
                if self.allowed(&entry.user, &channel).is_err() {
                    continue;
                }
                let Some(command) = Command::parse(&entry.text) else {
                    gather(&mut tasks, job_again(&channel, entry));
                    continue;
                };
                let order = Order {
                    channel: channel.clone(),
                    thread_ts: entry.thread_ts.filter(|root| *root != entry.ts),
                    ts: entry.ts,
                    again: true,
                };
                match command {
                    Command::Stop => {
                        stop_before(&mut tasks, &order, &cut.asked);
                        self.errand(Errand::Stopped(order));
                    }
                    Command::New => tasks.push(Task::Fresh(order)),
                    Command::Status => self.errand(Errand::Status(order)),
                }
            }
            for task in tasks {
                self.submit(task, queue);
            }
        }
    }
}

/// What it asked stands in the context.
fn event_again(channel: &str, ts: String, name: String) -> Job {
    Job {
        channel: channel.to_owned(),
        thread_ts: None,
        asked: vec![Asked {
            ts,
            user: "EVENT".to_owned(),
            text: String::new(),
            files: Vec::new(),
        }],
        event: Some(name),
        again: true,
        stopped: false,
    }
}

/// A `stop` was said and perhaps not obeyed: what was asked before it in the same place, and
/// the run that was `cut`, which it was for, have ended.
fn stop_before(tasks: &mut [Task], order: &Order, cut: &[String]) {
    for task in tasks {
        let Task::Run(job) = task else { continue };
        let was_on = job.asked.iter().any(|asked| cut.contains(&asked.ts));
        job.stopped |= was_on || job.thread_ts == order.thread_ts && job.event.is_none();
    }
}

fn job_again(channel: &str, entry: LogEntry) -> Job {
    Job {
        channel: channel.to_owned(),
        thread_ts: entry.thread_ts.filter(|root| *root != entry.ts),
        asked: vec![Asked {
            ts: entry.ts,
            user: entry.user,
            text: entry.text,
            files: entry
                .attachments
                .into_iter()
                .map(|file| file.local)
                .collect(),
        }],
        event: None,
        again: true,
        stopped: false,
    }
}
