//! The display of one run in Slack, on its own thread in parallel with the run.
//!
//! The run sends updates and never waits; `Progress` has the content that each message should have.
//! This thread compares that with what Slack shows, and makes the next call that is due: only the
//! newest content of a message is sent, older content is skipped. One call at a time keeps the
//! order, and the answer waits for one call in flight at most. All calls of a run share one rate
//! limit, because all channels together have about 50 edits a minute.
//!
//! The end is in `ending`.
//!
//! A step that waits for a person is shown as pending from `Update::ToolWaiting` until
//! `Update::ToolStart`. The question with its buttons is a message of its own in the thread,
//! which bot/approvals.rs posts.

use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::agent::run::{Outcome, Update};
use crate::base::backoff::Backoff;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::Stop;
use crate::base::text;
use crate::slack::blocks::{self, SentAs};
use crate::slack::earlier::{EarlierPosts, STATUS, find, metadata};
use crate::slack::steps::{DetailsPage, Progress, THINKING};
use crate::slack::web::{Failure, PostContent, SlackResult, Urgency, Web};

/// Pauses between tries to post an answer while the network is down: about nine minutes in all.
const ANSWER_PAUSES: u32 = 9;
/// A file of this size gets a line in the status while it is uploaded.
const LARGE_FILE_BYTES: usize = 1 << 20;
/// Pause between two calls (Slack's advice), what each call adds to it, and the longest pause.
const PACE: Duration = Duration::from_secs(1);
const PACE_STEP: Duration = Duration::from_millis(250);
const PACE_MAX: Duration = Duration::from_secs(3);
/// How long changes of the details wait, so that one edit shows several of them.
const DETAILS_WAIT: Duration = Duration::from_secs(2);
/// Pause after a temporary failure.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Age at which the line below a thread is set again: Slack removes it after two minutes.
const THREAD_LINE_AGE_MAX: Duration = Duration::from_secs(90);

/// Where a run is shown.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// `C..`, `D..` or `G..`
    pub(crate) channel: String,
    /// Root of the thread the run lives in; `None`: the channel itself.
    pub(crate) thread_ts: Option<String>,
    /// File name of the event that started the run.
    pub(crate) event: Option<String>,
    /// Id of the run in its messages' metadata; the same when the run is resumed.
    pub(crate) run: String,
    /// When the request came: someone has been waiting since then.
    pub(crate) since: Instant,
    /// What an earlier try has posted; the run continues with it.
    pub(crate) earlier: EarlierPosts,
}

/// Handle of the run's worker.
pub(crate) struct Show {
    shared: Arc<Shared>,
    web: Arc<Web>,
    target: Target,
    thread: JoinHandle<Result<Option<String>>>,
}

pub(super) struct Shared {
    pub(super) state: Mutex<ShowState>,
    changed: Condvar,
}

pub(super) struct ShowState {
    progress: Progress,
    /// Whether anything here has changed since the display last looked.
    changed: bool,
    /// The status message, of this try or an earlier one; `None` before it is posted, and when
    /// Slack has it no more.
    pub(super) status_ts: Option<String>,
    /// Who stopped the run: the id, at the end the name.
    pub(super) stopped_by: Option<String>,
    /// A person asked for the run, or for something in the run of an event.
    pub(super) is_for_person: bool,
    /// Messages with questions of this try.
    pub(super) question_ts: Vec<String>,
    end: Option<Result<Outcome>>,
}

impl Show {
    /// Starts the thread, which posts the first message at once. `stop` is the run's.
    pub(crate) fn start(web: Arc<Web>, target: Target, stop: Stop) -> Result<Show> {
        let display = Display::new(Arc::clone(&web), target.clone(), stop);
        let shared = Arc::clone(&display.shared);
        let thread = thread::Builder::new()
            .name(format!("show-{}", target.channel))
            .spawn(move || display.run())
            .map_err(|err| Error::failed(format!("cannot start the display's thread: {err}")))?;
        Ok(Show {
            shared,
            web,
            target,
            thread,
        })
    }

    /// For a run that ended before a crash: posts what is not posted yet.
    pub(crate) fn conclude(
        web: Arc<Web>,
        target: Target,
        outcome: &Result<Outcome>,
        stop: &Stop,
    ) -> Result<Option<String>> {
        let display = Display::new(web, target, stop.clone());
        display.finish(outcome)
    }

    /// Never waits, except for an upload, whose error the tool reports.
    pub(crate) fn update(&self, update: Update) -> Result<()> {
        if let Update::Upload(file) = update {
            return self.upload(&file.name, &file.title, &file.bytes);
        }
        let mut state = self.shared.state.lock().unwrap();
        state.progress.apply(update);
        if !std::mem::replace(&mut state.changed, true) {
            self.shared.changed.notify_one();
        }
        Ok(())
    }

    fn upload(&self, name: &str, title: &str, bytes: &[u8]) -> Result<()> {
        if bytes.len() >= LARGE_FILE_BYTES {
            let size = text::bytes(bytes.len() as u64);
            self.update(Update::Note(format!("Uploading {name} ({size})")))?;
        }
        let (channel, thread_ts) = (&self.target.channel, self.target.thread_ts.as_deref());
        let uploaded = self
            .web
            .files_upload(channel, thread_ts, name, title, bytes);
        uploaded.map_err(|failure| Error::failed(format!("cannot upload {name}: {failure}")))
    }

    /// The status message, once it is posted.
    pub(crate) fn status_ts(&self) -> Option<String> {
        self.shared.state.lock().unwrap().status_ts.clone()
    }

    /// Remembers the message of a question, which a silent end of the run deletes.
    pub(crate) fn asked(&self, ts: &str) {
        let mut state = self.shared.state.lock().unwrap();
        state.question_ts.push(ts.to_owned());
    }

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Records that a person has asked for something in this run, also in the run of an event.
    pub(crate) fn asked_by_person(&self) {
        self.shared.state.lock().unwrap().is_for_person = true;
    }

    /// Shows `_Stopping..._` from another thread; the argument is the user who stopped the run.
    pub(crate) fn stopper(&self) -> impl Fn(&str) + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move |by| {
            let mut state = shared.state.lock().unwrap();
            state.stopped_by.get_or_insert_with(|| by.to_owned());
            state.progress.stopping = true;
            shared.changed.notify_one();
        }
    }

    /// Waits until the end and the details are posted. Returns the ts of the answer, if there is
    /// one; an error means that it could not be posted. `name_of`: the display name of a user.
    pub(crate) fn finish(
        self,
        outcome: &Result<Outcome>,
        name_of: &dyn Fn(&str) -> String,
    ) -> Result<Option<String>> {
        let by = self.shared.state.lock().unwrap().stopped_by.clone();
        let by = by.filter(|by| !by.is_empty()).map(|by| name_of(&by));
        let mut state = self.shared.state.lock().unwrap();
        state.stopped_by = by;
        state.end = Some(outcome.clone());
        drop(state);
        self.shared.changed.notify_one();
        let ended = self.thread.join();
        ended.unwrap_or_else(|_| Err(Error::failed("the display's thread panicked")))
    }
}

/// The state of the display's thread.
pub(super) struct Display {
    pub(super) shared: Arc<Shared>,
    pub(super) web: Arc<Web>,
    pub(super) target: Target,
    pub(super) stop: Stop,
    pub(super) shown: SentMessages,
    pub(super) sent_as: SentAs,
    pub(super) answer_ts: Vec<String>,
    /// Calls so far, and when the next may be made.
    calls: u32,
    free_at: Instant,
}

/// What Slack shows of the run now.
#[derive(Default)]
pub(super) struct SentMessages {
    /// The content of the status; `None` before the first post or edit of this try.
    status: Option<PostContent>,
    /// Slack refuses to edit it: deleted, too old to be edited, or mom may not post at all.
    status_is_lost: bool,
    /// Details messages of this try; one that Slack refused has no ts.
    pub(super) details: Vec<(Option<String>, PostContent)>,
    /// When changes of the details must be sent; `None`: there are none.
    details_due: Option<Instant>,
    /// The line below the run's thread, and when it was set.
    pub(super) line: String,
    line_at: Option<Instant>,
}

/// A message to edit, or a new one with its name in the metadata.
#[derive(Clone, Copy)]
pub(super) enum Slot<'a> {
    Existing(&'a str),
    New(&'a str, Option<&'a str>),
}

impl Display {
    fn new(web: Arc<Web>, target: Target, stop: Stop) -> Display {
        let head = match &target.event {
            Some(event) => format!("Starting event: {event}"),
            None => THINKING.to_owned(),
        };
        // Slack may still show the line that an earlier try has set.
        let line = match (&target.thread_ts, &target.earlier.status_ts) {
            (Some(_), Some(_)) => head.clone(),
            _ => String::new(),
        };
        let state = ShowState {
            progress: Progress::new(head, target.run.clone()),
            changed: true,
            status_ts: target.earlier.status_ts.clone(),
            stopped_by: None,
            is_for_person: target.event.is_none(),
            question_ts: Vec::new(),
            end: None,
        };
        Display {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                changed: Condvar::new(),
            }),
            web,
            stop,
            shown: SentMessages {
                line,
                ..SentMessages::default()
            },
            sent_as: SentAs::Blocks,
            answer_ts: Vec::new(),
            calls: 0,
            free_at: target.since,
            target,
        }
    }

    fn run(mut self) -> Result<Option<String>> {
        let mut wake = None;
        loop {
            if let Some(outcome) = self.wait(wake) {
                return self.finish(&outcome);
            }
            wake = self.show_progress();
        }
    }

    /// Waits until a call may be made and something has changed, or until `wake`. Returns how the
    /// run ended, once it has.
    fn wait(&self, wake: Option<Instant>) -> Option<Result<Outcome>> {
        let mut state = self.shared.state.lock().unwrap();
        loop {
            if let Some(outcome) = state.end.take() {
                return Some(outcome);
            }
            let now = Instant::now();
            // A stop is shown at once.
            let is_free = now >= self.free_at || state.progress.stopping;
            if is_free && (state.changed || wake.is_some_and(|at| at <= now)) {
                state.changed = false;
                return None;
            }
            state = match wake
                .filter(|_| is_free)
                .or(Some(self.free_at))
                .filter(|at| *at > now)
            {
                Some(at) => self.shared.changed.wait_timeout(state, at - now).unwrap().0,
                None => self.shared.changed.wait(state).unwrap(),
            };
        }
    }

    /// Makes the call that is due. Returns when to look again if nothing changes.
    fn show_progress(&mut self) -> Option<Instant> {
        let details = self.next_details();
        let (status, line) = self.progress(|progress| (progress.status(), progress.now()));
        let now = Instant::now();
        let mut wake = self.line_due(&line, now);
        // The line goes first, because details and status may change again before each call.
        if wake.is_some_and(|due| due <= now) {
            self.show_line(line);
            return Some(now);
        }
        // Before the status, which is changed all the time.
        if let (Some(page), Some(root)) = (details, self.root()) {
            let due = *self.shown.details_due.get_or_insert(now + DETAILS_WAIT);
            if due <= now {
                self.show_details(&root, &page);
                return Some(self.free_at);
            }
            wake = Some(wake.map_or(due, |wake| due.min(wake)));
        }
        if !self.shown.status_is_lost && self.shown.status.as_ref() != Some(&status) {
            self.show_status(status);
            return Some(self.free_at);
        }
        wake
    }

    /// When the line below the thread must be set; `None`: there is no status yet, or no thread.
    fn line_due(&self, line: &str, now: Instant) -> Option<Instant> {
        if self.target.thread_ts.is_none() || self.shown.status.is_none() {
            return None;
        }
        let age_max = match line == self.shown.line {
            true => THREAD_LINE_AGE_MAX,
            false => PACE_MAX,
        };
        Some(self.shown.line_at.map_or(now, |at| at + age_max))
    }

    fn show_status(&mut self, status: PostContent) {
        let (ts, thread_ts) = (self.status_ts(), self.target.thread_ts.clone());
        let slot = match &ts {
            Some(ts) => Slot::Existing(ts),
            None => Slot::New(STATUS, thread_ts.as_deref()),
        };
        match self.send(slot, &status, Urgency::Optional) {
            Ok(posted_ts) => {
                self.shared.state.lock().unwrap().status_ts = Some(posted_ts);
                self.shown.status = Some(status);
                self.called();
            }
            Err(failure) => {
                self.not_shown(&failure);
                if failure.stays() && self.shown.status.is_none() && ts.is_some() {
                    // The status of an earlier try was deleted: post a new one.
                    self.shared.state.lock().unwrap().status_ts = None;
                } else {
                    self.shown.status_is_lost = failure.stays();
                }
            }
        }
    }

    fn show_details(&mut self, root: &str, page: &DetailsPage) {
        let sent_as = self.sent_as;
        if let Err(failure) = self.send_details(root, page) {
            self.not_shown(&failure);
            if failure.stays() {
                self.details_sent(page, None, sent_as);
            }
        }
    }

    /// Posts or edits one message of details.
    pub(super) fn send_details(&mut self, root: &str, page: &DetailsPage) -> SlackResult<()> {
        let ts = self.details_ts(page.number);
        let part = format!(
            "detail-{}",
            self.target.earlier.detail_ts.len() + page.number
        );
        let slot = match &ts {
            Some(ts) => Slot::Existing(ts),
            None => Slot::New(&part, Some(root)),
        };
        let sent_as = self.sent_as;
        let posted_ts = self.send(slot, &page.content, Urgency::Optional)?;
        if ts.is_none() {
            // Slack removes the line when a new message is posted in the thread.
            self.shown.line.clear();
        }
        self.details_sent(page, Some(posted_ts), sent_as);
        self.shown.details_due = None;
        self.called();
        Ok(())
    }

    /// Remembers what a details message shows. `ts`: `None` if Slack refused the message; its
    /// steps stay on this page even then.
    fn details_sent(&mut self, page: &DetailsPage, ts: Option<String>, sent_as: SentAs) {
        (self.shown).set_details(page.number, ts, page.content.clone());
        self.progress(|progress| progress.details_shown(page, sent_as));
    }

    pub(super) fn details_ts(&self, number: usize) -> Option<String> {
        self.shown.details.get(number)?.0.clone()
    }

    /// The first page of the details whose message does not show its content yet.
    pub(super) fn next_details(&self) -> Option<DetailsPage> {
        let pages = self.progress(|progress| progress.details(self.sent_as));
        pages.into_iter().find(|page| {
            let shown = self.shown.details.get(page.number);
            shown.is_none_or(|(_, shown)| *shown != page.content)
        })
    }

    fn called(&mut self) {
        self.free_at = Instant::now() + (PACE + PACE_STEP * self.calls).min(PACE_MAX);
        self.calls += 1;
    }

    fn not_shown(&mut self, failure: &Failure) {
        let pause = match failure {
            Failure::Limited(after) => (*after).max(PACE),
            _ => RETRY_AFTER,
        };
        self.free_at = Instant::now() + pause;
        if !matches!(failure, Failure::Limited(_)) {
            log::warning!(&self.target.channel, "cannot show the progress: {failure}");
        }
    }

    /// Sets the line below the thread; a failure does not matter.
    fn show_line(&mut self, line: String) {
        if let Err(failure) = self.set_thread_line(&blocks::title(&line)) {
            let channel = &self.target.channel;
            log::debug!(channel, "cannot set the thread's status: {failure}");
        }
        self.shown.line = line;
        self.shown.line_at = Some(Instant::now());
    }

    pub(super) fn set_thread_line(&self, line: &str) -> SlackResult<()> {
        let root = self.target.thread_ts.as_deref().unwrap_or_default();
        self.web
            .assistant_threads_set_status(&self.target.channel, root, line)
    }

    /// Root of the thread for details and questions: the run's thread, else the status, else the
    /// answer.
    pub(super) fn root(&self) -> Option<String> {
        let root = (self.target.thread_ts.clone()).or_else(|| self.status_ts());
        root.or_else(|| self.answer_ts.first().cloned())
    }

    pub(super) fn status_ts(&self) -> Option<String> {
        self.shared.state.lock().unwrap().status_ts.clone()
    }

    pub(super) fn progress<R>(&self, act: impl FnOnce(&mut Progress) -> R) -> R {
        act(&mut self.shared.state.lock().unwrap().progress)
    }

    /// Sends a message with blocks; if Slack refuses the blocks, at once with the text alone.
    pub(super) fn send(
        &mut self,
        slot: Slot<'_>,
        shown: &PostContent,
        urgency: Urgency,
    ) -> SlackResult<String> {
        let plain = PostContent::plain(&shown.text);
        if self.sent_as == SentAs::Text {
            return self.put(slot, plain, urgency);
        }
        match self.put(slot, shown.clone(), urgency) {
            Err(failure) if failure.blames_blocks() => {
                let channel = &self.target.channel;
                log::warning!(channel, "this run is shown as plain text: {failure}");
                self.sent_as = SentAs::Text;
                self.put(slot, plain, urgency)
            }
            outcome => outcome,
        }
    }

    /// Posts or edits a message and returns its ts. An urgent call is tried again while the network
    /// is down, until the stop.
    pub(super) fn put(
        &self,
        slot: Slot<'_>,
        mut content: PostContent,
        urgency: Urgency,
    ) -> SlackResult<String> {
        if let Slot::New(part, _) = slot {
            content.metadata = Some(metadata(&self.target.run, part));
        }
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(256));
        loop {
            let failure = match self.put_once(slot, &content, urgency) {
                Err(failure @ (Failure::Unknown(_) | Failure::Failed(_))) => failure,
                outcome => return outcome,
            };
            let patient = urgency == Urgency::Must && backoff.failures() < ANSWER_PAUSES;
            if !patient || backoff.wait(&self.stop, None).is_err() {
                return Err(failure);
            }
        }
    }

    /// Like `put`, once. If Slack's answer to a post was lost, looks for the message in Slack.
    fn put_once(
        &self,
        slot: Slot<'_>,
        content: &PostContent,
        urgency: Urgency,
    ) -> SlackResult<String> {
        let (web, channel) = (&self.web, &self.target.channel);
        let (part, thread_ts) = match slot {
            Slot::Existing(ts) => {
                web.chat_update(channel, ts, content, urgency)?;
                return Ok(ts.to_owned());
            }
            Slot::New(part, thread_ts) => (part, thread_ts),
        };
        let posted = web.chat_post_message(channel, thread_ts, content, urgency);
        let Err(Failure::Unknown(why)) = &posted else {
            return posted;
        };
        log::warning!(channel, "looking in Slack whether {part} was posted: {why}");
        find(web, channel, thread_ts, &self.target.run, part)?.map_or(posted, Ok)
    }
}

impl SentMessages {
    fn set_details(&mut self, number: usize, ts: Option<String>, shown: PostContent) {
        match self.details.get_mut(number) {
            Some(message) => *message = (ts, shown),
            None => self.details.push((ts, shown)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::run::ToolStep;
    use crate::base::secret::Secret;
    use crate::net::testing::{net, read_request, serve};
    use std::io::Write as _;
    use std::sync::mpsc;

    /// The calls of a run, from the status to the answer, that has taken `age`. `earlier`: a status
    /// message that Slack refuses to edit.
    fn calls_of_a_run(age: Duration, earlier: Option<&str>) -> Vec<String> {
        let (sender, requests) = mpsc::channel();
        let mut posted = 0;
        let address = serve(move |mut tcp| {
            let request = read_request(&mut tcp);
            posted += usize::from(request.contains("chat.postMessage"));
            let body = match request.contains("&ts=gone") {
                true => r#"{"ok":false,"error":"message_not_found"}"#.to_owned(),
                false => format!(r#"{{"ok":true,"ts":"1.00000{posted}"}}"#),
            };
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}");
            sender.send(request).ok();
            tcp.write_all(format!("{head}\r\n\r\n{body}").as_bytes())
                .ok();
        });
        let (url, token) = (format!("http://{address}"), || Secret::new("x"));
        let stop = Stop::new();
        let web = Arc::new(Web::new(&url, token(), token(), &net(None), &stop));
        let target = Target {
            channel: "C1".to_owned(),
            thread_ts: None,
            event: None,
            run: "1.000000".to_owned(),
            since: Instant::now().checked_sub(age).unwrap(),
            earlier: EarlierPosts {
                status_ts: earlier.map(str::to_owned),
                ..EarlierPosts::default()
            },
        };
        let show = Show::start(web, target, stop).unwrap();
        while show.status_ts().as_deref() != Some("1.000001") {
            thread::yield_now();
        }
        let step = ToolStep {
            number: 1,
            name: "bash".to_owned(),
            label: "Check".to_owned(),
            arguments: String::new(),
        };
        show.update(Update::ToolStart(step)).unwrap();
        let outcome = Ok(Outcome::Answered("The answer.".to_owned()));
        show.finish(&outcome, &str::to_owned).unwrap();
        let calls = requests.try_iter().map(|call| {
            let method = call.split(' ').nth(1).unwrap_or_default().to_owned();
            let texts = ["Thinking", "The+answer", "_Done%3A+1+step%2C+1m+40s_"];
            let text = texts.into_iter().find(|text| call.contains(text));
            let ts = call.split("&ts=").nth(1).unwrap_or_default();
            format!("{method} {ts} {}", text.unwrap_or_default())
        });
        // Whether progress was shown before the end is chance; the details come last.
        calls
            .filter(|call| !call.starts_with("/chat.update 1.000001 Thinking"))
            .filter(|call| !call.ends_with(' '))
            .collect()
    }

    #[test]
    fn after_a_long_run_the_answer_rings() {
        let short = [
            "/chat.postMessage  Thinking",
            "/chat.update 1.000001 The+answer",
        ];
        let (little, much) = (Duration::from_secs(2), Duration::from_secs(100));
        assert_eq!(calls_of_a_run(little, None), short);
        let long = [
            "/chat.postMessage  Thinking",
            "/chat.postMessage  The+answer",
            "/chat.update 1.000001 _Done%3A+1+step%2C+1m+40s_",
        ];
        assert_eq!(calls_of_a_run(much, None), long);
        let calls = calls_of_a_run(little, Some("gone"));
        assert_eq!(calls[0], "/chat.update gone Thinking");
        assert_eq!(calls[1..], short);
    }
}
