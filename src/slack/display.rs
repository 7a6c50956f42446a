//! The display of one run in Slack, on a thread of its own beside the run.
//!
//! The run hands over updates and never waits; `Board` says which call is due, this thread
//! makes it. One call at a time keeps the order, and the answer waits for one call in flight
//! at most. At the end: first the answer, then the rest of an answer too long for one
//! message, then the status of a long run, then the details that were still waiting.
//!
//! Exactly one answer: it takes the place of the status, or is a message of its own when the
//! run was long (an edit rings no bell) or Slack refuses the edit.
//!
//! A step that waits for a person is shown as pending from `Update::ToolWaiting` until
//! `Update::ToolStart`. The question with its buttons is a message of its own in the thread,
//! which bot/approvals.rs posts.

use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::agent::run::{Outcome, Update};
use crate::base::backoff::Backoff;
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::{Cause, Stop};
use crate::base::text;
use crate::slack::blocks::{self, SentAs, SlackText, words};
use crate::slack::details::DetailsMessage;
use crate::slack::earlier::{EarlierPosts, STATUS, find, metadata};
use crate::slack::markdown;
use crate::slack::steps::{Board, Home, Next, Progress};
use crate::slack::web::{Failure, PostContent, SlackResult, Urgency, Web};

/// After a run of this length the answer is a new message, because an edit rings no bell.
const BELL_AFTER: Duration = Duration::from_secs(30);
/// Pauses between the tries of an answer while the network is away: about nine minutes in all.
const ANSWER_PAUSES: u32 = 9;
/// How long the details may hold up the end of a run when Slack limits the rate.
const DETAILS_PATIENCE: Duration = Duration::from_secs(30);
/// A file of this size gets a line in the status while it is uploaded.
const LARGE_FILE_BYTES: usize = 1 << 20;

/// Where a run is shown.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// `C..`, `D..` or `G..`
    pub(crate) channel: String,
    /// Root of the thread the run lives in; `None`: the channel itself.
    pub(crate) thread_ts: Option<String>,
    /// File name of the event that woke her.
    pub(crate) event: Option<String>,
    /// Names the run in the metadata of its messages; the same when it is taken up again.
    pub(crate) run: String,
    /// When it was asked for: from here on someone waits.
    pub(crate) since: Instant,
    /// What an earlier try left, to go on with.
    pub(crate) earlier: EarlierPosts,
}

/// What stands in Slack after a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Posted {
    /// The answer's messages in order; empty when there was none.
    pub(crate) answer_ts: Vec<String>,
    /// `None` when it was deleted or never stood.
    pub(crate) status_ts: Option<String>,
}

/// Handle of the run's worker.
pub(crate) struct Show {
    shared: Arc<Shared>,
    web: Arc<Web>,
    target: Target,
    thread: Option<JoinHandle<Result<Posted>>>,
}

/// Says `_Stopping..._` from another thread.
#[derive(Clone)]
pub(crate) struct Stopper(Arc<Shared>);

struct Shared {
    state: Mutex<ShowState>,
    changed: Condvar,
}

struct ShowState {
    board: Board,
    /// Who stopped the run: the id, at the end the name.
    by: Option<String>,
    end: Option<End>,
}

#[derive(Debug, PartialEq)]
enum End {
    Answer(String),
    Silent,
    Stopped,
    Interrupted,
    Failed(Error),
    /// Nobody called `finish`.
    Dropped,
}

impl Show {
    /// Posts the first message at once, on the new thread. `stop` is the run's. `on_status` is
    /// called there with the ts of the status message as soon as it is posted.
    pub(crate) fn start(
        web: Arc<Web>,
        target: Target,
        stop: Stop,
        on_status: impl FnMut(&str) + Send + 'static,
    ) -> Result<Show> {
        let display = Display::new(Arc::clone(&web), target.clone(), stop, on_status);
        let shared = Arc::clone(&display.shared);
        let thread = thread::Builder::new()
            .name(format!("show-{}", target.channel))
            .spawn(move || display.run())
            .map_err(|err| Error::failed(format!("cannot start the display's thread: {err}")))?;
        Ok(Show {
            shared,
            web,
            target,
            thread: Some(thread),
        })
    }

    /// The end of a run that was over before a crash: posts what of it is not posted yet.
    pub(crate) fn conclude(
        web: Arc<Web>,
        target: Target,
        outcome: &Result<Outcome>,
        stop: &Stop,
    ) -> Result<Posted> {
        let display = Display::new(web, target, stop.clone(), |_| {});
        display.finish(End::of(outcome, stop))
    }

    /// Never waits, but for an upload, whose error is the tool's to tell.
    pub(crate) fn update(&self, update: Update) -> Result<()> {
        if let Update::Upload(file) = update {
            return self.upload(&file.name, &file.title, &file.bytes);
        }
        self.shared
            .change(|state| state.board.apply(update, Instant::now()));
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

    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    pub(crate) fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.shared))
    }

    /// Waits until the end stands in Slack, and the details with it. An error: the answer
    /// could not be posted.
    /// `name_of`: what people call a user.
    pub(crate) fn finish(
        mut self,
        outcome: &Result<Outcome>,
        stop: &Stop,
        name_of: &dyn Fn(&str) -> String,
    ) -> Result<Posted> {
        let by = self.shared.state.lock().unwrap().by.clone();
        if let Some(by) = by {
            let name = name_of(&by);
            self.shared.state.lock().unwrap().by = Some(name);
        }
        self.end(End::of(outcome, stop))
    }

    fn end(&mut self, end: End) -> Result<Posted> {
        let Some(thread) = self.thread.take() else {
            return Ok(Posted::default());
        };
        self.shared.change(|state| {
            state.end = Some(end);
            true
        });
        thread
            .join()
            .unwrap_or_else(|_| Err(Error::failed("the display's thread panicked")))
    }
}

impl End {
    fn of(outcome: &Result<Outcome>, stop: &Stop) -> End {
        match outcome {
            Ok(Outcome::Answered(answer)) => End::Answer(answer.clone()),
            Ok(Outcome::Silent) => End::Silent,
            Ok(Outcome::Stopped) | Err(Error::Stopped) => match stop.cause() {
                Some(Cause::Restart) => End::Interrupted,
                _ => End::Stopped,
            },
            Err(err) => End::Failed(err.clone()),
        }
    }
}

impl Drop for Show {
    fn drop(&mut self) {
        // Without `finish` there is nobody to tell.
        self.end(End::Dropped).ok();
    }
}

impl Stopper {
    /// `by`: id of the user who asked for it.
    pub(crate) fn stopping(&self, by: &str) {
        self.0.change(|state| {
            state.by.get_or_insert_with(|| by.to_owned());
            state.board.stopping(Instant::now());
            true
        });
    }
}

impl Shared {
    /// Wakes the display when `change` says so.
    fn change(&self, change: impl FnOnce(&mut ShowState) -> bool) {
        let wake = change(&mut self.state.lock().unwrap());
        if wake {
            self.changed.notify_one();
        }
    }
}

/// What runs on the thread.
struct Display {
    shared: Arc<Shared>,
    web: Arc<Web>,
    target: Target,
    stop: Stop,
    on_status: Box<dyn FnMut(&str) + Send>,
    /// Details posted, oldest first.
    detail_ts: Vec<String>,
}

impl Display {
    fn new(
        web: Arc<Web>,
        target: Target,
        stop: Stop,
        on_status: impl FnMut(&str) + Send + 'static,
    ) -> Display {
        let head = match &target.event {
            Some(event) => format!("Starting event: {event}"),
            None => "Thinking".to_owned(),
        };
        let home = match &target.thread_ts {
            Some(_) => Home::Thread,
            None => Home::Channel,
        };
        let detail_ts = target.earlier.detail_ts.clone();
        let board = Board::new(
            Progress::new(head, target.run.clone()),
            home,
            target.earlier.status_ts.clone(),
            target.since,
        );
        let state = ShowState {
            board,
            by: None,
            end: None,
        };
        Display {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                changed: Condvar::new(),
            }),
            web,
            target,
            stop,
            on_status: Box::new(on_status),
            detail_ts,
        }
    }

    fn run(mut self) -> Result<Posted> {
        loop {
            match self.wait() {
                ControlFlow::Continue(next) => self.call(next),
                ControlFlow::Break(end) => return self.finish(end),
            }
        }
    }

    fn wait(&self) -> ControlFlow<End, Next> {
        let mut state = self.shared.state.lock().unwrap();
        loop {
            if let Some(end) = state.end.take() {
                return ControlFlow::Break(end);
            }
            let now = Instant::now();
            state = match state.board.next(now) {
                Next::Wait(None) => self.shared.changed.wait(state).unwrap(),
                Next::Wait(Some(at)) => {
                    let pause = at.saturating_duration_since(now);
                    self.shared.changed.wait_timeout(state, pause).unwrap().0
                }
                next => return ControlFlow::Continue(next),
            };
        }
    }

    fn call(&mut self, next: Next) {
        match next {
            Next::Wait(_) => {}
            Next::Post(shown) => {
                let post = |content| self.post(STATUS, self.place(), content, Urgency::Optional);
                match self.with_or_without_blocks(&shown, post) {
                    Ok(ts) => {
                        self.board(|board, now| board.status_posted(&ts, shown, now));
                        (self.on_status)(&ts);
                    }
                    Err(failure) => self.status_failed(&failure),
                }
            }
            Next::Update { ts, shown } => {
                let edit = |content| self.edit(&ts, content, Urgency::Optional);
                match self.with_or_without_blocks(&shown, edit) {
                    Ok(()) => self.board(|board, now| board.status_updated(shown, now)),
                    Err(failure) => self.status_failed(&failure),
                }
            }
            Next::Details(message) => self.details(&message),
            Next::ThreadLine(line) => self.thread_line(line),
        }
    }

    fn status_failed(&mut self, failure: &Failure) {
        if !matches!(failure, Failure::Limited(_)) {
            log::warning!(&self.target.channel, "cannot show the progress: {failure}");
        }
        self.board(|board, now| board.status_failed(failure, now));
    }

    fn details(&mut self, message: &DetailsMessage) {
        let Some(root) = self.root(None) else { return };
        if let Err(failure) = self.show_details(&root, message) {
            if failure.stays() {
                log::warning!(&self.target.channel, "cannot show details: {failure}");
                self.board(|board, now| board.details_done(message, None, now));
            } else {
                self.board(|board, now| board.details_failed(&failure, now));
            }
        }
    }

    /// Posts or edits one message of details. When Slack refuses its blocks, it comes again
    /// from the board, as texts.
    fn show_details(&mut self, root: &str, message: &DetailsMessage) -> SlackResult<()> {
        let sent_as = self.board(|board, _| board.sent_as());
        let content = message.shown.content(sent_as);
        let shown = match &message.ts {
            Some(ts) => self
                .edit(ts, content, Urgency::Optional)
                .map(|()| ts.clone()),
            None => {
                let part = format!("detail-{}", self.detail_ts.len());
                self.post(&part, Some(root), content, Urgency::Optional)
            }
        };
        let ts = match shown {
            Err(failure) if sent_as == SentAs::Blocks && blocks::are_refused(&failure) => {
                self.go_on_in_text(&failure);
                return Ok(());
            }
            shown => shown?,
        };
        if message.ts.is_none() {
            self.detail_ts.push(ts.clone());
        }
        self.board(|board, now| board.details_done(message, Some(ts), now));
        Ok(())
    }

    fn thread_line(&self, line: String) {
        if let Err(failure) = self.set_thread_line(&blocks::title(&line)) {
            log::debug!(
                &self.target.channel,
                "cannot set the thread's status: {failure}"
            );
            return self.board(|board, _| board.thread_line_refused());
        }
        self.board(|board, now| board.thread_line_set(line, now));
    }

    fn set_thread_line(&self, line: &str) -> SlackResult<()> {
        let root = self.place().unwrap_or_default();
        self.web
            .assistant_threads_set_status(&self.target.channel, root, line)
    }

    /// The thread the run lives in.
    fn place(&self) -> Option<&str> {
        self.target.thread_ts.as_deref()
    }

    /// The message that what belongs in the thread goes under: where the run lives, else the
    /// status, else the answer.
    fn root(&self, answer_ts: Option<&str>) -> Option<String> {
        let status_ts = self.board(|board, _| board.status_ts().map(str::to_owned));
        let answer_ts = answer_ts.map(str::to_owned);
        self.target.thread_ts.clone().or(status_ts).or(answer_ts)
    }

    fn board<R>(&self, act: impl FnOnce(&mut Board, Instant) -> R) -> R {
        act(&mut self.shared.state.lock().unwrap().board, Instant::now())
    }

    fn finish(mut self, end: End) -> Result<Posted> {
        let mut posted = Posted {
            answer_ts: Vec::new(),
            status_ts: self.board(|board, _| board.status_ts().map(str::to_owned)),
        };
        let ended = self.show_end(end, &mut posted);
        if self.board(|board, _| board.has_thread_line()) {
            // Else Slack takes it away in two minutes.
            self.set_thread_line("").ok();
        }
        ended.map(|()| posted)
    }

    fn show_end(&mut self, end: End, posted: &mut Posted) -> Result<()> {
        match end {
            End::Dropped => {}
            End::Answer(answer) => self.answer(&answer, posted)?,
            End::Silent if self.target.event.is_some() => return self.erase(None, posted),
            End::Silent => return self.erase(Some("_(nothing to say)_"), posted),
            End::Interrupted => {
                // There is no time to wait, and nothing to say where nothing was posted.
                if posted.status_ts.is_some() {
                    let line = "_Interrupted: mom is restarting_";
                    self.end_with(line, Urgency::Optional, posted)?;
                }
                return Ok(());
            }
            End::Stopped => {
                self.board(|board, _| board.keep_words());
                let by = self.shared.state.lock().unwrap().by.take();
                let by = by.filter(|by| !by.is_empty());
                let by = by.map_or(String::new(), |by| format!(" by {}", words(&by, 80)));
                self.end_with(&format!("_Stopped_{by}"), Urgency::Must, posted)?;
            }
            End::Failed(err) => {
                let why = text::cut_middle(err.to_string().trim(), 600).into_owned();
                self.board(|board, _| {
                    board.keep_words();
                    board.note(format!("_Error:_ {}", text::escape(&why)));
                });
                self.end_with(&sorry(&err), Urgency::Must, posted)?;
            }
        }
        self.rest(posted);
        Ok(())
    }

    fn answer(&mut self, answer: &str, posted: &mut Posted) -> Result<()> {
        for piece in markdown::pieces(answer) {
            match self.answer_part(SlackText::piece(&piece).content(SentAs::Blocks), posted) {
                Err(failure) if blocks::are_refused(&failure) => {
                    for text in piece.texts() {
                        self.answer_part(PostContent::plain(text), posted)?;
                    }
                }
                done => done?,
            }
        }
        let Some(status_ts) = posted.status_ts.clone() else {
            return Ok(());
        };
        if posted.answer_ts.first() != Some(&status_ts) {
            let done = SlackText::line(self.board(|board, now| board.done_line(now)));
            let edit = |content| self.edit(&status_ts, content, Urgency::Must);
            if let Err(failure) = self.with_or_without_blocks(&done, edit) {
                log::warning!(&self.target.channel, "cannot close the status: {failure}");
                self.retire(posted);
            }
        }
        Ok(())
    }

    /// The next message of the answer, unless an earlier try has posted it.
    fn answer_part(&mut self, content: PostContent, posted: &mut Posted) -> SlackResult<()> {
        let number = posted.answer_ts.len();
        let existing = self.target.earlier.answer_ts.get(&number).cloned();
        let ts = match (existing, posted.answer_ts.first()) {
            (Some(ts), _) => ts,
            (None, None) => self.first_part(content, posted)?,
            (None, Some(first)) => {
                let root = self.place().unwrap_or(first);
                self.post(
                    &format!("answer-{number}"),
                    Some(root),
                    content,
                    Urgency::Must,
                )?
            }
        };
        posted.answer_ts.push(ts);
        Ok(())
    }

    /// In the place of the status, or as a message of its own.
    fn first_part(&mut self, mut content: PostContent, posted: &mut Posted) -> SlackResult<String> {
        const PART: &str = "answer-0";
        let is_long = self.board(|board, now| board.age(now) > BELL_AFTER);
        let Some(ts) = posted.status_ts.clone().filter(|_| !is_long) else {
            return self.post(PART, self.place(), content, Urgency::Must);
        };
        content.metadata = Some(metadata(&self.target.run, PART));
        match self.edit(&ts, content.clone(), Urgency::Must) {
            Ok(()) => return Ok(ts),
            Err(failure) if !failure.stays() => return Err(failure),
            Err(failure) if blocks::are_refused(&failure) && content.blocks.is_some() => {
                return Err(failure);
            }
            Err(failure) => {
                log::warning!(&self.target.channel, "the answer is posted anew: {failure}");
            }
        }
        let new_ts = self.post(PART, self.place(), content, Urgency::Must)?;
        self.retire(posted);
        Ok(new_ts)
    }

    /// A status that can't be edited must not say `Thinking` for ever.
    fn retire(&self, posted: &mut Posted) {
        if let Some(ts) = posted.status_ts.take() {
            self.delete(&ts, Urgency::Optional);
        }
    }

    fn delete(&self, ts: &str, urgency: Urgency) {
        let channel = &self.target.channel;
        if let Err(failure) = self.web.chat_delete(channel, ts, urgency) {
            log::warning!(channel, "cannot delete {ts}: {failure}");
        }
    }

    /// The status becomes the run's last line, which is no answer.
    fn end_with(&mut self, text: &str, urgency: Urgency, posted: &mut Posted) -> Result<()> {
        let line = SlackText::line(text.to_owned());
        if let Some(ts) = &posted.status_ts {
            let edit = |content| self.edit(ts, content, urgency);
            match self.with_or_without_blocks(&line, edit) {
                Ok(()) => return Ok(()),
                Err(failure) if failure.stays() => self.retire(posted),
                Err(failure) => return Err(failure.into()),
            }
        }
        let post = |content| self.post("end", self.place(), content, urgency);
        let ts = self.with_or_without_blocks(&line, post)?;
        self.board(|board, now| board.status_posted(&ts, line, now));
        posted.status_ts = Some(ts);
        Ok(())
    }

    /// Deletes the run's messages, the newest first, so that no reply is seen without its
    /// root. `line` takes the place of the status.
    fn erase(&mut self, line: Option<&str>, posted: &mut Posted) -> Result<()> {
        for ts in self.detail_ts.iter().rev() {
            self.delete(ts, Urgency::Must);
        }
        if let Some(line) = line {
            return self.end_with(line, Urgency::Must, posted);
        }
        if let Some(ts) = posted.status_ts.take() {
            self.delete(&ts, Urgency::Must);
        }
        Ok(())
    }

    /// Details that were still waiting.
    fn rest(&mut self, posted: &Posted) {
        let answer_ts = posted.answer_ts.first().map(String::as_str);
        let status_ts = posted.status_ts.clone();
        let root = self.target.thread_ts.clone().or(status_ts);
        let Some(root) = root.as_deref().or(answer_ts) else {
            return;
        };
        let mut patience = DETAILS_PATIENCE;
        while let Some(message) = self.board(|board, _| board.rest()) {
            match self.show_details(root, &message) {
                Ok(()) => {}
                Err(Failure::Limited(after))
                    if after <= patience && self.stop.wait(after).is_ok() =>
                {
                    patience -= after;
                }
                Err(failure) => {
                    log::warning!(&self.target.channel, "details left out: {failure}");
                    return;
                }
            }
        }
    }

    /// With blocks as long as Slack takes them, else with the text alone, at once.
    fn with_or_without_blocks<T>(
        &self,
        shown: &SlackText,
        call: impl Fn(PostContent) -> SlackResult<T>,
    ) -> SlackResult<T> {
        let sent_as = self.board(|board, _| board.sent_as());
        match call(shown.content(sent_as)) {
            Err(failure) if sent_as == SentAs::Blocks && blocks::are_refused(&failure) => {
                self.go_on_in_text(&failure);
                call(PostContent::plain(&shown.text))
            }
            outcome => outcome,
        }
    }

    fn go_on_in_text(&self, failure: &Failure) {
        let channel = &self.target.channel;
        log::warning!(channel, "this run is shown as text: {failure}");
        self.board(|board, _| board.go_on_in_text());
    }

    /// Posts once: when Slack's answer was lost, the message is looked for.
    fn post(
        &self,
        part: &str,
        thread_ts: Option<&str>,
        mut content: PostContent,
        urgency: Urgency,
    ) -> SlackResult<String> {
        let (channel, run) = (&self.target.channel, &self.target.run);
        content.metadata = Some(metadata(run, part));
        self.persist(urgency, || {
            let web = &self.web;
            let posted = web.chat_post_message(channel, thread_ts, &content, urgency);
            let Err(Failure::Unknown(why)) = &posted else {
                return posted;
            };
            log::warning!(channel, "was {part} posted? {why}");
            find(web, channel, thread_ts, run, part)?.map_or(posted, Ok)
        })
    }

    /// Blocks that are left out are removed.
    fn edit(&self, ts: &str, mut content: PostContent, urgency: Urgency) -> SlackResult<()> {
        content.blocks.get_or_insert_with(|| "[]".to_owned());
        let channel = &self.target.channel;
        self.persist(urgency, || {
            self.web.chat_update(channel, ts, &content, urgency)
        })
    }

    /// What must be said is tried again while the network is away, unless the run is stopped.
    fn persist<T>(
        &self,
        urgency: Urgency,
        mut call: impl FnMut() -> SlackResult<T>,
    ) -> SlackResult<T> {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(256));
        loop {
            let failure = match call() {
                Err(failure @ (Failure::Unknown(_) | Failure::Failed(_))) => failure,
                outcome => return outcome,
            };
            let patient = urgency == Urgency::Must && backoff.failures() < ANSWER_PAUSES;
            if !patient || backoff.wait(&self.stop, None).is_err() {
                return Err(failure);
            }
        }
    }
}

/// What a failure means for the people in the channel; its details go into the thread.
fn sorry(err: &Error) -> String {
    match err {
        Error::Model { fault, .. } => {
            let fault = text::escape(&fault.to_string());
            format!("_Sorry, {fault}_")
        }
        _ => "_Sorry, something went wrong_ (the details are in the thread)".to_owned(),
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

    /// A run that has been going on for `age`, from the status to the answer: the calls.
    fn calls_of_a_run(age: Duration) -> Vec<String> {
        let (sender, requests) = mpsc::channel();
        let mut posted = 0;
        let address = serve(move |mut tcp| {
            let request = read_request(&mut tcp);
            posted += usize::from(request.contains("chat.postMessage"));
            let body = format!(r#"{{"ok":true,"ts":"1.00000{posted}"}}"#);
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
            earlier: EarlierPosts::default(),
        };
        let show = Show::start(web, target, stop.clone(), |_| {}).unwrap();
        let status = requests.recv().unwrap();
        let step = ToolStep {
            number: 1,
            name: "bash".to_owned(),
            label: "Check".to_owned(),
            arguments: String::new(),
        };
        show.update(Update::ToolStart(step)).unwrap();
        let outcome = Ok(Outcome::Answered("The answer.".to_owned()));
        show.finish(&outcome, &stop, &str::to_owned).unwrap();
        let calls = [status].into_iter().chain(requests.try_iter());
        let named = calls.map(|call| {
            let method = call.split(' ').nth(1).unwrap_or_default().to_owned();
            let texts = ["Thinking", "The+answer", "_Done%3A+1+step%2C+1m+40s_"];
            let said = texts.into_iter().find(|text| call.contains(text));
            let ts = if call.contains("&ts=1.000001") {
                " 1"
            } else {
                ""
            };
            format!("{method}{ts} {}", said.unwrap_or_default())
        });
        // Whether progress was shown before the end is chance; the details come last.
        named
            .filter(|call| !call.starts_with("/chat.update 1 Thinking") && !call.ends_with(' '))
            .collect()
    }

    #[test]
    fn after_a_long_run_the_answer_rings() {
        let short = ["/chat.postMessage Thinking", "/chat.update 1 The+answer"];
        assert_eq!(calls_of_a_run(Duration::from_secs(2)), short);
        let long = [
            "/chat.postMessage Thinking",
            "/chat.postMessage The+answer",
            "/chat.update 1 _Done%3A+1+step%2C+1m+40s_",
        ];
        assert_eq!(calls_of_a_run(Duration::from_secs(100)), long);
    }
}
