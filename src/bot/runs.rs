//! One task of the queue: a run from its first sign in Slack to its end in the log.

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use crate::agent::prompt::{Person, Place};
use crate::agent::queue::{Queue, Running, Task};
use crate::agent::run::{Asked, Job, Outcome};
use crate::agent::{Scene, Session};
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::Cause;
use crate::base::text;
use crate::base::time;
use crate::slack::display::{self, Left, Milestone, Posted, Show, Target};
use crate::slack::users::DIRECTORY_FILE;
use crate::store::kept::MISSED_MS;
use crate::store::{LogEntry, Now, Seen};

use super::House;
use super::errands::Errand;

/// The directory file is made anew after a day.
const DIRECTORY_AGE_MS: i64 = 24 * 3_600_000;
/// People named in a prompt: as many as are looked up for it at most.
const PEOPLE_MAX: usize = 50;
const FRESH: &str =
    "_A fresh start: what was said before is left out from now on. Memory and files stay._";
/// Jobs that wait for Slack to be back.
const UNPOSTED_MAX: usize = 100;

impl House {
    /// On a worker of the queue.
    pub(super) fn work(self: &Arc<House>, running: &Arc<Running>, queue: &Queue) {
        match &running.task {
            Task::Fresh(order) => {
                let text = match self.agent.fresh(&order.channel) {
                    Ok(()) => FRESH.to_owned(),
                    Err(err) => format!(
                        "_Sorry, something went wrong_: {}",
                        text::escape(&err.to_string())
                    ),
                };
                if let Err(err) = self.obeyed(order, &text) {
                    log::warning!(&order.channel, "cannot say that this is new: {err}");
                }
            }
            Task::Run(job) if !job.again && !self.events.stands(job) => {
                log::info!(&job.channel, "an event's file went before its run began");
            }
            Task::Run(job) => {
                if let Err(err) = self.run(job, running, queue) {
                    log::error!(&job.channel, "{err}");
                    let mut unposted = self.unposted.lock().unwrap();
                    if matches!(err, Error::Retry { .. }) && unposted.len() < UNPOSTED_MAX {
                        unposted.push(Job {
                            again: true,
                            ..job.clone()
                        });
                    }
                }
            }
        }
        self.keep_promises(running.over());
    }

    fn run(self: &Arc<House>, job: &Job, running: &Running, queue: &Queue) -> Result<()> {
        let mut job = job.clone();
        if job.again && job.event.is_none() {
            // Of several that were taken up one run may have answered all.
            let since_ms = time::now_ms() - MISSED_MS;
            let done = self.agent.store.done(&job.channel, since_ms)?;
            let (done, _) = done.unwrap_or_default();
            job.asked.retain(|asked| !done.contains(&asked.ts));
            for asked in &job.asked {
                let root = job.thread_ts.as_deref();
                self.fetch_again(&job.channel, root, &asked.ts, &asked.files);
            }
        }
        while !job.asked.is_empty() {
            job.asked = self.run_once(&job, running, queue)?;
            job.again = true;
        }
        Ok(())
    }

    /// Returns what the run did not answer: an earlier try had ended without it.
    fn run_once(
        self: &Arc<House>,
        job: &Job,
        running: &Running,
        queue: &Queue,
    ) -> Result<Vec<Asked>> {
        let mut target = Target {
            channel: job.channel.clone(),
            thread_ts: job.thread_ts.clone(),
            event: job.event.clone(),
            run: job
                .asked
                .first()
                .map(|asked| asked.ts.clone())
                .unwrap_or_default(),
            since: running.since,
            left: Left::default(),
        };
        let name_of = |id: &str| {
            let user = self.names.user(id);
            user.map_or_else(|| id.to_owned(), |user| user.display)
        };
        // Someone waits for a first sign, so it goes out before anything is read; only what
        // may have been begun before a restart is looked up first.
        let mut session = None;
        if job.again || job.event.is_some() {
            let begun = self.agent.begin(job)?;
            let record = begun.record();
            if record.done {
                self.events.ran(job);
                return Ok(Vec::new());
            }
            target.run.clone_from(&record.name);
            if job.again || record.resumed {
                let thread_ts = job.thread_ts.as_deref();
                target.left = self.left(&job.channel, thread_ts, &record.name)?;
            }
            let status_ts = target.left.status_ts.take();
            target.left.status_ts = status_ts.or(record.status_ts.clone());
            let stands = target.left.answer_ts().is_some();
            let standing = begun.standing().cloned();
            // Without its words, which a power cut took, it is an answer all the same.
            let lost = stands.then(|| Outcome::Answered(String::new()));
            if let Some(outcome) = standing.or(lost) {
                log::info!(&job.channel, "{} was done before the restart", record.name);
                self.events.ran(job);
                let outcome = Ok(outcome);
                let posted = Show::conclude(self.web.clone(), target, &outcome, &running.stop)?;
                let asked = job.asked.iter();
                let left = asked
                    .filter(|asked| !begun.asks(&asked.ts))
                    .cloned()
                    .collect();
                self.end(job, begun, &outcome, &posted, running)?;
                return Ok(left);
            }
            session = Some(begun);
        }
        let status = Arc::new(Mutex::new(target.left.status_ts.clone()));
        let told = {
            let status = status.clone();
            move |milestone: Milestone<'_>| {
                if let Milestone::Status(ts) = milestone {
                    *status.lock().unwrap() = Some(ts.to_owned());
                }
            }
        };
        let show = Show::start(self.web.clone(), target, running.stop.clone(), told)?;
        self.stoppers
            .lock()
            .unwrap()
            .insert(job.channel.clone(), show.stopper());
        let mut turned_away = false;
        let begun = session.take().map_or_else(|| self.agent.begin(job), Ok);
        let outcome = begun.and_then(|begun| {
            let begun = session.insert(begun);
            let thread_ts = job.thread_ts.as_deref();
            let mut askers = job.asked.iter();
            turned_away = askers.any(|asked| self.turns_away(job, thread_ts, &asked.user));
            if turned_away {
                return Ok(Outcome::Silent);
            }
            let status_ts = || status.lock().unwrap().clone();
            self.run_session(job, begun, running, queue, &status_ts, &show)
        });
        if let Err(err) = &outcome {
            log::error!(&job.channel, "a run failed: {err}");
        }
        let posted = show.finish(&outcome, &running.stop, &name_of);
        self.stoppers.lock().unwrap().remove(&job.channel);
        let posted = posted?;
        // Nothing was done, and nothing was said that the context should know.
        let outcome = match turned_away {
            true => Ok(Outcome::Stopped),
            false => outcome,
        };
        if let Some(session) = session {
            self.end(job, session, &outcome, &posted, running)?;
        }
        Ok(Vec::new())
    }

    /// Writes down what stands in Slack.
    fn end(
        &self,
        job: &Job,
        session: Session<'_>,
        outcome: &Result<Outcome>,
        posted: &Posted,
        running: &Running,
    ) -> Result<()> {
        let answer_ts = posted.answer_ts.first().map(String::as_str);
        if let (Ok(Outcome::Answered(answer)), Some(ts)) = (outcome, answer_ts) {
            self.log_answer(job, answer, ts)?;
        }
        let session = session.with_dropped(running.dropped());
        session.end(outcome, answer_ts, &running.stop)?;
        if running.stop.cause() != Some(Cause::Restart) {
            // Also when it failed before anything was begun.
            self.events.ran(job);
        }
        Ok(())
    }

    fn run_session(
        &self,
        job: &Job,
        session: &mut Session<'_>,
        running: &Running,
        queue: &Queue,
        status_ts: &dyn Fn() -> Option<String>,
        show: &Show,
    ) -> Result<Outcome> {
        let lookups = Cell::new(0);
        let handle = |id: &str| {
            if id == "EVENT" {
                // The original's name for it in the prompt.
                return "unknown".to_owned();
            }
            let known = self.names.known(id).or_else(|| {
                // The log, where ids come from, may name thousands.
                lookups.set(lookups.get() + 1);
                let few = lookups.get() <= PEOPLE_MAX;
                few.then(|| self.names.user(id)).flatten()
            });
            known.map_or_else(|| id.to_owned(), |user| user.handle)
        };
        if let Err(err) = self.read_thread(job) {
            log::warning!(&job.channel, "cannot read the thread: {err}");
        }
        let people = self.people(job);
        let channel = self.names.channel(&job.channel).unwrap_or_default();
        let scene = Scene {
            place: Place::Slack {
                user_id: &self.me().user_id,
                handle: &self.identity.user,
                workspace: &self.identity.team,
                channel_id: &job.channel,
                channel_name: channel.name.as_deref(),
                people: &people,
                directory: DIRECTORY_FILE,
            },
            name_of: &handle,
            await_files: &|asked, stop| self.files.wait(&asked.files, stop),
            steer: &|| {
                let thread_ts = job.thread_ts.as_deref();
                let mut asked = queue.take_steering(&job.channel, thread_ts);
                asked.retain(|asked| !self.turns_away(job, thread_ts, &asked.user));
                asked
            },
            waits: &|ts| {
                let _routed = self.intake.lock().unwrap();
                queue.waits(&job.channel, ts)
            },
            status_ts,
            begun: &|| self.events.ran(job),
            notes: self.events.notes(&job.channel),
        };
        self.refresh_directory();
        session.run(job, &scene, &running.stop, &mut |update| {
            show.update(update)
        })
    }

    /// Those who wrote in the channel lately, the askers among them.
    fn people(&self, job: &Job) -> Vec<Person> {
        let mut ids = self.agent.store.people(&job.channel).unwrap_or_default();
        ids.extend(job.asked.iter().map(|asked| asked.user.clone()));
        ids.retain(|id| crate::slack::is_user_id(id));
        ids.sort_unstable();
        ids.dedup();
        let mut people = Vec::new();
        for id in ids.into_iter().take(PEOPLE_MAX) {
            if let Some(user) = self.names.user(&id) {
                people.push(Person {
                    id,
                    handle: user.handle,
                    display: user.display,
                });
            }
        }
        people
    }

    /// What a run that was cut had posted.
    ///
    /// # Errors
    /// It cannot be known now, and so nothing may be said.
    pub(super) fn left(&self, channel: &str, thread_ts: Option<&str>, run: &str) -> Result<Left> {
        match display::left(&self.web, channel, thread_ts, run) {
            Err(failure) if failure.stays() => {
                log::warning!(channel, "cannot look for an earlier answer: {failure}");
                Ok(Left::default())
            }
            left => Ok(left?),
        }
    }

    /// Once: after a crash it may be there.
    fn log_answer(&self, job: &Job, answer: &str, ts: &str) -> Result<()> {
        let store = &self.agent.store;
        if answer.is_empty() || store.seen(&job.channel, ts, Now::default())? != Seen::New {
            return Ok(());
        }
        let entry = LogEntry {
            thread_ts: job.thread_ts.clone(),
            ..LogEntry::own(ts.to_owned(), answer)
        };
        store.log(&[(job.channel.clone(), entry)])
    }

    fn refresh_directory(&self) {
        let stamp = self.agent.store.dir().stamp(DIRECTORY_FILE).unwrap_or(None);
        let old = stamp.is_none_or(|stamp| time::now_ms() - stamp.modified_ms() > DIRECTORY_AGE_MS);
        if old {
            self.errand(Errand::Directory);
        }
    }
}
