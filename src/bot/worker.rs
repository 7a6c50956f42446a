//! One task of the queue: a run, from its first post in Slack to its end in the log.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::agent::approval::{Decision, Question};
use crate::agent::prompt::{Person, Place};
use crate::agent::queue::{Running, Task};
use crate::agent::run::{Job, Outcome, Update};
use crate::agent::{Conversation, Session};
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::{Cause, Stop};
use crate::base::text;
use crate::base::time;
use crate::slack::display::{Show, Target};
use crate::slack::earlier::EarlierPosts;
use crate::slack::is_user_id;
use crate::slack::users::DIRECTORY_FILE;
use crate::store::ledger::{Ending, LedgerEnd, LedgerRequest};
use crate::store::{Attachment, LogEntry, Now, Seen, clean_text};

use super::Services;
use super::catch_up::fetch_again;
use super::intake::{Intake, NAME_WAIT};
use super::outbox::earlier_posts;
use super::router::Router;

/// People named in a prompt, and looked up for it.
const PEOPLE_MAX: usize = 50;
/// Emoji under a message that gets no answer today.
const OVER_BUDGET: &str = "zzz";
/// Jobs whose end waits for the next connection.
const UNPOSTED_MAX: usize = 100;

pub(super) struct Worker {
    pub(super) services: Arc<Services>,
    pub(super) router: Arc<Router>,
    pub(super) intake: Arc<Intake>,
    /// Jobs whose end could not be posted.
    pub(super) unposted: Mutex<Vec<Job>>,
    /// Channels whose history can't be read, and why.
    pub(super) unread: Mutex<HashMap<String, String>>,
}

/// What an earlier try of a job has done.
enum EarlierTry {
    /// It ended, and its end is posted and recorded.
    Done,
    /// It ended with this; whether that is posted is not recorded.
    Ended(Outcome),
    Unfinished,
}

impl Worker {
    /// Takes the jobs whose end can probably be posted now.
    pub(super) fn take_unposted(&self) -> Vec<Job> {
        let all = std::mem::take(&mut *self.unposted.lock().unwrap());
        let is_closed = |job: &Job| self.is_closed(&job.channel);
        let (closed, ready): (Vec<Job>, _) = all.into_iter().partition(is_closed);
        self.unposted.lock().unwrap().extend(closed);
        ready
    }

    /// Does one task, on a thread of the queue.
    pub(super) fn work(&self, running: &Running) {
        match &running.task {
            Task::NewConversation(command) => {
                if let Err(err) = self.router.commands.new_conversation(command) {
                    log::warning!(&command.channel, "cannot answer `new`: {err}");
                }
            }
            Task::Run(job) if job.is_addition() => {
                if let Err(err) = self.append_additions(job) {
                    log::warning!(&job.channel, "cannot append an addition: {err}");
                }
            }
            Task::Run(job) if !job.resumed && !self.services.events.stands(job) => {
                log::info!(
                    &job.channel,
                    "an event's file was removed before its run began"
                );
            }
            Task::Run(job) => {
                let outcome = self.run(job, running);
                self.post_set_aside(job);
                if let Err(err) = outcome {
                    self.not_posted(job, running, &err);
                }
            }
        }
    }

    /// Puts additions that no run has taken into the context, where the next run reads them.
    fn append_additions(&self, job: &Job) -> Result<()> {
        let name_of = |id: &str| {
            let user = self.services.names.last_known(id);
            user.map_or_else(|| id.to_owned(), |user| user.handle)
        };
        for request in &job.requests {
            let attachments = request.files.iter().map(|local| Attachment {
                original: String::new(),
                local: local.clone(),
            });
            let entry = LogEntry {
                ts: request.ts.clone(),
                user: request.user.clone(),
                text: clean_text(&request.text),
                attachments: attachments.collect(),
                ..LogEntry::default()
            };
            (self.services.agent).append_addition(&job.channel, &entry, &name_of)?;
        }
        Ok(())
    }

    /// Keeps a job whose end could not be posted, if that may work later.
    fn not_posted(&self, job: &Job, running: &Running, err: &Error) {
        // This comes first: the channel may be reopened at this moment.
        let mut unposted = self.unposted.lock().unwrap();
        if unposted.len() < UNPOSTED_MAX {
            unposted.push(Job {
                resumed: true,
                stopped_by: running.stopped_by(),
                ..job.clone()
            });
        }
        drop(unposted);
        self.services.names.forget_channel(&job.channel);
        if self.is_closed(&job.channel) {
            let why = "I keep the answer until I can post here again";
            return log::error!(&job.channel, "{err}; {why}");
        }
        log::error!(&job.channel, "{err}");
        if !matches!(err, Error::Retry { .. }) {
            let mut unposted = self.unposted.lock().unwrap();
            unposted.retain(|kept| kept.channel != job.channel || kept.run_ts() != job.run_ts());
        }
    }

    /// mom was removed from the channel, or it is archived.
    fn is_closed(&self, channel: &str) -> bool {
        let channel = self.services.names.channel(channel);
        channel.is_err_and(|failure| failure.is_closed())
    }

    fn run(&self, job: &Job, running: &Running) -> Result<()> {
        let mut job = job.clone();
        if job.resumed && job.event.is_none() {
            // One run may have answered several that were resumed.
            let ledger = &self.services.agent.store.ledger;
            for request in std::mem::take(&mut job.requests) {
                if !ledger.has_ended(&job.channel, &request.ts)? {
                    job.requests.push(request);
                }
            }
            for request in &job.requests {
                fetch_again(&self.services, &job.channel, request);
            }
        }
        let is_left = !job.requests.is_empty() && !running.stop.is_set();
        if is_left && self.is_over_budget(&job)? {
            return self.refuse(&job);
        }
        while !job.requests.is_empty() {
            job.requests = self.run_once(&job, running)?;
            job.resumed = true;
        }
        Ok(())
    }

    /// Posts in the request's thread that mom's own files there were replaced.
    fn post_set_aside(&self, job: &Job) {
        let set_aside = self.services.agent.store.dir().take_set_aside(&job.channel);
        let first = job.requests.first().map(|request| request.ts.as_str());
        let thread_ts = job
            .thread_ts
            .as_deref()
            .or(first.filter(|ts| time::is_slack_ts(ts)));
        for (path, aside) in set_aside {
            let text = format!(
                "_Warning_: {path} was not a regular file, so I go on with a new one. What was \
                 there is now {aside}."
            );
            (self.router.commands.outbox).post(&job.channel, thread_ts, text::escape(&text));
        }
    }

    /// Whether the day's budget is used up and the job has not begun: the end of a job that has
    /// begun must still be posted.
    fn is_over_budget(&self, job: &Job) -> Result<bool> {
        let Services { agent, .. } = &*self.services;
        if !agent.budget.is_used_up() {
            return Ok(false);
        }
        let begun = agent.store.ledger.run(&job.channel)?;
        Ok(!begun.is_some_and(|run| run.has_any(&job.requests)))
    }

    /// Ends a job without a run because of the budget. The first request and the first event per
    /// channel and day get a post; further messages get a reaction, further events a log line.
    fn refuse(&self, job: &Job) -> Result<()> {
        let Services { agent, events, .. } = &*self.services;
        let (channel, ledger) = (&job.channel, &agent.store.ledger);
        let sentence = agent.budget.sentence();
        let mut requests = job.requests.iter();
        let topic = if job.event.is_some() {
            "events"
        } else {
            "requests"
        };
        if ledger.tell_once(channel, &format!("budget, {topic} of {channel}"))? {
            requests.next();
            let text = match &job.event {
                Some(event) => {
                    format!("{sentence} _I left out the event {}._", text::escape(event))
                }
                None => sentence,
            };
            let outbox = &self.router.commands.outbox;
            outbox.post(channel, job.thread_ts.as_deref(), text);
        }
        for request in requests.filter(|_| job.event.is_none()) {
            self.router
                .commands
                .outbox
                .react(channel, &request.ts, OVER_BUDGET);
        }
        let what = job.event.as_deref().unwrap_or("a request");
        log::info!(channel, "not run, because the budget is used up: {what}");
        let refused = job.requests.iter().map(|request| request.ts.clone());
        let ended = LedgerEnd::of(Ending::Refused, refused.collect(), None);
        ledger.end(channel, vec![ended], None)?;
        events.ran(job);
        Ok(())
    }

    /// Returns the requests that still need a run, because an earlier try ended without them.
    fn run_once(&self, job: &Job, running: &Running) -> Result<Vec<LedgerRequest>> {
        let services = &self.services;
        let first = job.requests.first();
        let mut target = Target {
            channel: job.channel.clone(),
            thread_ts: job.thread_ts.clone(),
            event: job.event.clone(),
            run: first.map_or(String::new(), |request| request.ts.clone()),
            since: running.since,
            earlier: EarlierPosts::default(),
        };
        // Someone waits for the first post, so it comes before any reading; only a job that may
        // have begun before a restart is looked up first.
        let mut session = None;
        if job.resumed || job.event.is_some() {
            let begun = services.agent.begin(job)?;
            let earlier = self.earlier_try(job, &begun, &mut target)?;
            (self.router.approvals).retire(&target.channel, &target.earlier.question_ts);
            for (ts, content) in std::mem::take(&mut target.earlier.cut_details) {
                (self.router.commands.outbox).edit(&target.channel, &ts, content);
            }
            match earlier {
                EarlierTry::Done => {
                    services.events.ran(job);
                    return Ok(Vec::new());
                }
                EarlierTry::Ended(outcome) => {
                    return self.conclude(job, begun, target, outcome, running);
                }
                EarlierTry::Unfinished => session = Some(begun),
            }
        }
        self.show_run(job, session, target, running)?;
        Ok(Vec::new())
    }

    /// Runs a job and shows it in Slack. `session`: an already begun one; else it is begun after
    /// the first post.
    fn show_run<'a>(
        &'a self,
        job: &Job,
        mut session: Option<Session<'a>>,
        target: Target,
        running: &Running,
    ) -> Result<()> {
        let services = &self.services;
        let show = Show::start(services.web.clone(), target, running.stop.clone())?;
        running.on_stop(show.stopper());
        let begun = session.take().map_or_else(|| services.agent.begin(job), Ok);
        let outcome = begun.and_then(|begun| {
            let session = session.insert(begun);
            let conversation = SlackConversation::new(self, job, &show);
            session.run(job, &conversation, &running.stop)
        });
        if let Err(err) = &outcome {
            log::error!(&job.channel, "a run failed: {err}");
        }
        let name_of = |id: &str| {
            let user = services.names.user(id);
            user.map_or_else(|| id.to_owned(), |user| user.display)
        };
        if matches!(outcome, Ok(Outcome::Answered(_))) {
            running.answers();
        }
        let answer_ts = show.finish(&outcome, &name_of)?;
        services.names.want_directory();
        if let Some(session) = session {
            self.end(job, session, &outcome, answer_ts.as_deref(), running)?;
        }
        Ok(())
    }

    /// Finds what an earlier try did, and adds what it posted to `target`.
    fn earlier_try(
        &self,
        job: &Job,
        session: &Session<'_>,
        target: &mut Target,
    ) -> Result<EarlierTry> {
        let start = session.start();
        if start.done {
            return Ok(EarlierTry::Done);
        }
        target.run.clone_from(&start.name);
        if job.resumed || start.resumed {
            let thread_ts = job.thread_ts.as_deref();
            let web = &self.services.web;
            target.earlier = earlier_posts(web, &job.channel, thread_ts, &start.name)?;
        }
        if target.earlier.status_ts.is_none() {
            target.earlier.status_ts.clone_from(&start.status_ts);
        }
        // Someone waits since then, whatever cut the run.
        let status_ts = target.earlier.status_ts.as_deref();
        if let Some(began_ms) = status_ts.and_then(time::slack_ts_ms) {
            let age_ms = u64::try_from(time::now_ms() - began_ms).unwrap_or_default();
            let since = Instant::now().checked_sub(Duration::from_millis(age_ms));
            target.since = since.unwrap_or(target.since);
        }
        let existing = session.existing_outcome().cloned();
        // The answer is posted, but its text was lost in a power cut.
        let posted = || Some(Outcome::Answered(String::new()));
        let existing = existing.or_else(|| target.earlier.answer_ts(0).and_then(|_| posted()));
        Ok(existing.map_or(EarlierTry::Unfinished, EarlierTry::Ended))
    }

    /// Posts what is missing of a run that had ended before a restart.
    fn conclude(
        &self,
        job: &Job,
        session: Session<'_>,
        target: Target,
        outcome: Outcome,
        running: &Running,
    ) -> Result<Vec<LedgerRequest>> {
        let name = &session.start().name;
        log::info!(&job.channel, "{name} had ended before the restart");
        self.services.events.ran(job);
        let outcome = Ok(outcome);
        let web = self.services.web.clone();
        let answer_ts = Show::conclude(web, target, &outcome, &running.stop)?;
        let mut unanswered = job.requests.clone();
        unanswered.retain(|request| !session.answers(&request.ts));
        self.end(job, session, &outcome, answer_ts.as_deref(), running)?;
        Ok(unanswered)
    }

    /// Records that the run's end is posted in Slack.
    fn end(
        &self,
        job: &Job,
        session: Session<'_>,
        outcome: &Result<Outcome>,
        answer_ts: Option<&str>,
        running: &Running,
    ) -> Result<()> {
        if let (Ok(Outcome::Answered(answer)), Some(ts)) = (outcome, answer_ts) {
            self.log_answer(job, answer, ts)?;
        }
        session.end(outcome, answer_ts, running.take_dropped(), &running.stop)?;
        if running.stop.cause() != Some(Cause::Restart) {
            // Also for a run that failed before it began a session.
            self.services.events.ran(job);
        }
        Ok(())
    }

    /// Logs the answer unless it is in the log already, as it may be after a crash.
    fn log_answer(&self, job: &Job, answer: &str, ts: &str) -> Result<()> {
        let store = &self.services.agent.store;
        if answer.is_empty() || store.seen(&job.channel, ts, Now::default())? != Seen::New {
            return Ok(());
        }
        let entry = LogEntry {
            thread_ts: job.thread_ts.clone(),
            ..LogEntry::own(ts.to_owned(), answer)
        };
        store.log(&[(job.channel.clone(), entry)])
    }
}

/// A run's channel or thread in Slack.
struct SlackConversation<'a> {
    worker: &'a Worker,
    job: &'a Job,
    show: &'a Show,
    channel_name: Option<String>,
    /// People who wrote in the channel lately, and the sender of the request.
    people: Vec<Person>,
    /// Number of look-ups so far: the log, where the ids come from, may have thousands of them.
    lookups: Cell<usize>,
}

impl<'a> SlackConversation<'a> {
    fn new(worker: &'a Worker, job: &'a Job, show: &'a Show) -> SlackConversation<'a> {
        (worker.intake).log_heard(&job.channel, Instant::now() + NAME_WAIT);
        if let Err(err) = worker.intake.log_thread(job) {
            log::warning!(&job.channel, "cannot read the thread: {err}");
        }
        let names = &worker.services.names;
        SlackConversation {
            worker,
            job,
            show,
            people: people(&worker.services, job),
            channel_name: names.channel(&job.channel).unwrap_or_default(),
            lookups: Cell::new(0),
        }
    }
}

fn people(services: &Services, job: &Job) -> Vec<Person> {
    let mut ids = services
        .agent
        .store
        .people(&job.channel)
        .unwrap_or_default();
    ids.extend(job.requests.iter().map(|request| request.user.clone()));
    ids.retain(|id| is_user_id(id));
    ids.sort_unstable();
    ids.dedup();
    let known = ids.into_iter().take(PEOPLE_MAX).filter_map(|id| {
        let user = services.names.user(&id)?;
        Some(Person {
            id,
            handle: user.handle,
            display: user.display,
        })
    });
    known.collect()
}

impl Conversation for SlackConversation<'_> {
    fn place(&self) -> Place<'_> {
        let identity = &self.worker.services.identity;
        Place::Slack {
            user_id: &identity.me.user_id,
            handle: &identity.user,
            workspace: &identity.team,
            channel_id: &self.job.channel,
            channel_name: self.channel_name.as_deref(),
            people: &self.people,
            directory: DIRECTORY_FILE,
        }
    }

    fn name_of(&self, id: &str) -> String {
        if id == "EVENT" {
            // The original mom used this word in its prompt.
            return "unknown".to_owned();
        }
        let names = &self.worker.services.names;
        let known = names
            .recent(id)
            .and_then(std::result::Result::ok)
            .or_else(|| {
                self.lookups.set(self.lookups.get() + 1);
                let few = self.lookups.get() <= PEOPLE_MAX;
                few.then(|| names.user(id)).flatten()
            });
        known.map_or_else(|| id.to_owned(), |user| user.handle)
    }

    fn wait_for_files(&self, request: &LedgerRequest, stop: &Stop) -> Result<Vec<String>> {
        self.worker.services.files.wait(&request.files, stop)
    }

    fn steering(&self) -> Vec<LedgerRequest> {
        let (channel, thread_ts) = (&self.job.channel, self.job.thread_ts.as_deref());
        let queue = &self.worker.router.commands.queue;
        let requests = queue.take_steering(channel, thread_ts);
        if requests.iter().any(|request| !request.is_addition) {
            self.show.asked_by_person();
        }
        requests
    }

    fn waits(&self, ts: &str) -> bool {
        self.worker.router.waits(&self.job.channel, ts)
    }

    fn status_ts(&self) -> Option<String> {
        self.show.status_ts()
    }

    fn begun(&self) {
        self.worker.services.events.ran(self.job);
    }

    fn notes(&self) -> Vec<String> {
        self.worker.services.events.notes(&self.job.channel)
    }

    fn approve(&self, question: &Question, stop: &Stop) -> Decision {
        self.show
            .update(Update::Note("Waiting for approval".to_owned()))
            .ok();
        (self.worker.router.approvals).ask(self.show, question, stop)
    }

    fn show(&self, update: Update) -> Result<()> {
        self.show.update(update)
    }
}
