//! The display of one run in Slack, on a thread of its own beside the run.
//!
//! The run hands over updates and never waits; `Board` says what is due, this thread makes
//! the call. One call at a time keeps the order, and the answer waits for one call in flight
//! at most. At the end: first the answer, then the rest of an answer too long for one
//! message, then the status of a long run, then the details that were still waiting.
//!
//! Exactly one answer: it takes the place of the status, or is a message of its own when the
//! run was long (an edit rings no bell) or Slack refuses the edit. A post without an answer
//! from Slack is looked for by its metadata before it is repeated.
//!
//! assistant.threads.setStatus is not used: it shows in threads only, our own first message
//! there clears it, and set after that it stays under the answer for two minutes unless a
//! further call clears it.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::agent::run::{Outcome, Update};
use crate::base::error::{Error, Result};
use crate::base::log;
use crate::base::stop::{Cause, Stop};
use crate::base::text;
use crate::base::time;
use crate::slack::markdown::{self, Piece};
use crate::slack::steps::{Board, Next, words};
use crate::slack::web::{Answer, Content, Failure, Urgency, Web};

/// After a run of this length the answer is a new message, because an edit rings no bell.
const BELL_AFTER: Duration = Duration::from_secs(30);
/// The pause before the last try of an answer while the network is away: ten minutes in all.
const ANSWER_PAUSE_MAX: Duration = Duration::from_secs(512);
/// How long the details may hold up the end of a run when Slack limits the rate.
const DETAILS_PATIENCE: Duration = Duration::from_secs(30);
/// A file of this size gets a line in the status while it is uploaded.
const LARGE_FILE_BYTES: usize = 1 << 20;

/// What its metadata calls the first message of a run, or the answer to a command.
pub(crate) const STATUS: &str = "status";

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
    pub(crate) left: Left,
}

/// Messages of a run, by what its metadata calls them.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Left {
    pub(crate) status_ts: Option<String>,
    /// The answer's messages by their number, and details.
    answer_ts: BTreeMap<usize, String>,
    detail_ts: Vec<String>,
}

impl Left {
    pub(crate) fn answer_ts(&self) -> Option<&str> {
        self.answer_ts.get(&0).map(String::as_str)
    }

    /// False: the search goes on.
    fn note(&mut self, message: &Value, run: &str) -> bool {
        let part = part_of(message, run).unwrap_or_default();
        let (kind, number) = part.split_once('-').unwrap_or((part, "0"));
        if let (Some(ts), Ok(number)) = (message["ts"].as_str(), number.parse()) {
            match kind {
                STATUS => self.status_ts = Some(ts.to_owned()),
                "answer" => {
                    self.answer_ts.insert(number, ts.to_owned());
                }
                "detail" => self.detail_ts.push(ts.to_owned()),
                _ => {}
            }
        }
        false
    }
}

/// What stands in Slack after a run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Posted {
    /// The answer's messages in order; empty when there was none.
    pub(crate) answer_ts: Vec<String>,
    /// `None` when it was deleted or never stood.
    pub(crate) status_ts: Option<String>,
}

/// Told from the display's thread as soon as it is so.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Milestone<'a> {
    /// The status message stands.
    Status(&'a str),
    /// The first message of the answer stands.
    Answer(&'a str),
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
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
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
    Failed(String),
    /// Nobody called `finish`.
    Dropped,
}

impl Show {
    /// Posts the first message at once, on the new thread. `stop` is the run's.
    pub(crate) fn start(
        web: Arc<Web>,
        target: Target,
        stop: Stop,
        told: impl FnMut(Milestone<'_>) + Send + 'static,
    ) -> Result<Show> {
        let head = match &target.event {
            Some(event) => format!("_Starting event: {}_", words(event, 100)),
            None => "_Thinking_".to_owned(),
        };
        let display = Display::new(head, Arc::clone(&web), target.clone(), stop, told);
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

    /// The end of a run that was over before a crash: says what of it does not stand yet.
    pub(crate) fn conclude(
        web: Arc<Web>,
        target: Target,
        outcome: &Result<Outcome>,
        stop: &Stop,
    ) -> Result<Posted> {
        let display = Display::new(String::new(), web, target, stop.clone(), |_| {});
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
            Err(err) => End::Failed(err.to_string()),
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
    fn change(&self, change: impl FnOnce(&mut State) -> bool) {
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
    told: Box<dyn FnMut(Milestone<'_>) + Send>,
    /// Details posted, oldest first.
    detail_ts: Vec<String>,
    /// Slack refuses the blocks of the status.
    plain_status: bool,
}

impl Display {
    fn new(
        head: String,
        web: Arc<Web>,
        target: Target,
        stop: Stop,
        told: impl FnMut(Milestone<'_>) + Send + 'static,
    ) -> Display {
        let (status_ts, in_thread) = (target.left.status_ts.clone(), target.thread_ts.is_some());
        let board = Board::new(head, status_ts, in_thread, target.since, Instant::now());
        let state = Mutex::new(State {
            board,
            by: None,
            end: None,
        });
        Display {
            shared: Arc::new(Shared {
                state,
                changed: Condvar::new(),
            }),
            web,
            detail_ts: target.left.detail_ts.clone(),
            target,
            stop,
            told: Box::new(told),
            plain_status: false,
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
            Next::Post(text) => {
                let content = self.status(&text);
                match &self.post(STATUS, self.place(), content, Urgency::Optional) {
                    Ok(ts) => {
                        self.board(|board, now| board.status_posted(ts, text, now));
                        (self.told)(Milestone::Status(ts));
                    }
                    Err(failure) => self.status_failed(failure),
                }
            }
            Next::Update { ts, text } => {
                let content = self.status(&text);
                match self.edit(&ts, &content, Urgency::Optional) {
                    Ok(()) => self.board(|board, now| board.status_updated(text, now)),
                    Err(failure) => self.status_failed(&failure),
                }
            }
            Next::Detail(text) => self.detail(text),
        }
    }

    fn status_failed(&mut self, failure: &Failure) {
        if is_about_blocks(failure) && !self.plain_status {
            // The board still holds it for changed and not shown: it comes again at once.
            self.plain_status = true;
            return;
        }
        if !matches!(failure, Failure::Limited(_)) {
            log::warning!(&self.target.channel, "cannot show the progress: {failure}");
        }
        self.board(|board, now| board.status_failed(failure, now));
    }

    fn detail(&mut self, text: String) {
        let root = match &self.target.thread_ts {
            Some(ts) => Some(ts.clone()),
            None => self.board(|board, _| board.status_ts().map(str::to_owned)),
        };
        let Some(root) = root else { return };
        match self.post_detail(&root, &text) {
            Ok(()) => self.board(|board, now| board.detail_posted(now)),
            Err(failure) if failure.stays() => {
                log::warning!(&self.target.channel, "cannot post details: {failure}");
                self.board(|board, now| board.detail_posted(now));
            }
            Err(failure) => self.board(|board, now| board.detail_failed(text, &failure, now)),
        }
    }

    fn post_detail(&mut self, root: &str, text: &str) -> Answer<()> {
        let part = format!("detail-{}", self.detail_ts.len());
        let ts = self.post(&part, Some(root), Content::plain(text), Urgency::Optional)?;
        self.detail_ts.push(ts);
        Ok(())
    }

    /// The thread the run lives in.
    fn place(&self) -> Option<&str> {
        self.target.thread_ts.as_deref()
    }

    fn board<R>(&self, act: impl FnOnce(&mut Board, Instant) -> R) -> R {
        act(&mut self.shared.state.lock().unwrap().board, Instant::now())
    }

    // The end.

    fn finish(mut self, end: End) -> Result<Posted> {
        let status_ts = self.board(|board, _| board.status_ts().map(str::to_owned));
        let mut posted = Posted {
            answer_ts: Vec::new(),
            status_ts,
        };
        match end {
            End::Dropped => {}
            End::Answer(answer) => self.answer(&answer, &mut posted)?,
            End::Silent => {
                self.erase(&mut posted);
                return Ok(posted);
            }
            End::Interrupted => {
                // There is no time to wait, and nothing to say where nothing stands.
                if posted.status_ts.is_some() {
                    let line = "_Interrupted: mom is restarting_";
                    self.settle(line, Urgency::Optional, &mut posted)?;
                }
                return Ok(posted);
            }
            End::Stopped => {
                self.board(|board, now| board.keep_words(now));
                let by = self.shared.state.lock().unwrap().by.take();
                let by = by.filter(|by| !by.is_empty());
                let by = by.map_or(String::new(), |by| format!(" by {}", words(&by, 80)));
                self.settle(&format!("_Stopped_{by}"), Urgency::Must, &mut posted)?;
            }
            End::Failed(why) => {
                let why = text::escape(&text::cut_middle(why.trim(), 600));
                self.board(|board, now| board.detail(format!("_Error:_ {why}"), now));
                self.settle("_Sorry, something went wrong_", Urgency::Must, &mut posted)?;
            }
        }
        self.rest(&posted);
        Ok(posted)
    }

    fn answer(&mut self, answer: &str, posted: &mut Posted) -> Result<()> {
        let mut pieces = markdown::pieces(answer).into_iter();
        let Some(first) = pieces.next() else {
            return Ok(());
        };
        let long = self.board(|board, now| board.age(now) > BELL_AFTER);
        let in_place_of = posted.status_ts.clone().filter(|_| !long);
        let mut contents = vec![in_blocks(&first)];
        let ts = match self.stand(&contents[0], in_place_of.clone(), posted) {
            Err(failure) if is_about_blocks(&failure) => {
                contents = first.mrkdwn().into_iter().map(Content::plain).collect();
                self.stand(&contents[0], in_place_of, posted)?
            }
            stood => stood?,
        };
        (self.told)(Milestone::Answer(&ts));
        let root = self.target.thread_ts.clone().unwrap_or_else(|| ts.clone());
        posted.answer_ts.push(ts);
        for content in contents.split_off(1) {
            self.follow(content, &root, posted)?;
        }
        for piece in pieces {
            match self.follow(in_blocks(&piece), &root, posted) {
                Err(failure) if is_about_blocks(&failure) => {
                    for text in piece.mrkdwn() {
                        self.follow(Content::plain(text), &root, posted)?;
                    }
                }
                followed => followed?,
            }
        }
        if let Some(status_ts) = posted.status_ts.clone() {
            if posted.answer_ts.first() != Some(&status_ts) {
                let done = worded(&self.board(|board, now| board.done_line(now)));
                if let Err(failure) = self.edit(&status_ts, &done, Urgency::Must) {
                    log::warning!(&self.target.channel, "cannot close the status: {failure}");
                    self.retire(posted);
                }
            }
        }
        Ok(())
    }

    /// A status that cannot be edited and still says `Thinking` would lie.
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

    /// A further message of the answer.
    fn follow(&self, content: Content, root: &str, posted: &mut Posted) -> Answer<()> {
        let number = posted.answer_ts.len();
        let ts = match self.target.left.answer_ts.get(&number) {
            Some(ts) => ts.clone(),
            None => {
                let part = format!("answer-{number}");
                self.post(&part, Some(root), content, Urgency::Must)?
            }
        };
        posted.answer_ts.push(ts);
        Ok(())
    }

    /// Puts the final word in the place of the status, or posts it.
    fn stand(
        &mut self,
        content: &Content,
        status_ts: Option<String>,
        posted: &mut Posted,
    ) -> Answer<String> {
        if let Some(ts) = self.target.left.answer_ts() {
            return Ok(ts.to_owned());
        }
        let mut content = content.clone();
        content.metadata = Some(metadata(&self.target.run, "answer-0"));
        let Some(ts) = status_ts else {
            return self.post("answer-0", self.place(), content, Urgency::Must);
        };
        match self.edit(&ts, &content, Urgency::Must) {
            Ok(()) => return Ok(ts),
            Err(failure) if !failure.stays() => return Err(failure),
            Err(failure) if is_about_blocks(&failure) && content.blocks.is_some() => {
                return Err(failure);
            }
            Err(failure) => {
                log::warning!(&self.target.channel, "the answer is posted anew: {failure}");
            }
        }
        let new_ts = self.post("answer-0", self.place(), content, Urgency::Must)?;
        self.retire(posted);
        Ok(new_ts)
    }

    /// The status becomes its last word, which is no answer.
    fn settle(&mut self, line: &str, urgency: Urgency, posted: &mut Posted) -> Result<()> {
        let content = worded(line);
        if let Some(ts) = &posted.status_ts {
            match self.edit(ts, &content, urgency) {
                Ok(()) => return Ok(()),
                Err(failure) if failure.stays() => self.retire(posted),
                Err(failure) => return Err(failure.into()),
            }
        }
        let ts = self.post("end", self.place(), content, urgency)?;
        self.board(|board, now| board.status_posted(&ts, String::new(), now));
        posted.status_ts = Some(ts);
        Ok(())
    }

    /// `[SILENT]`: the newest first, so that no message without a root is seen.
    fn erase(&mut self, posted: &mut Posted) {
        let status_ts = posted.status_ts.take();
        for ts in self.detail_ts.iter().rev().chain(&status_ts) {
            self.delete(ts, Urgency::Must);
        }
    }

    /// Details that were still waiting.
    fn rest(&mut self, posted: &Posted) {
        // Where the status stood; else under the answer.
        let places = [&self.target.thread_ts, &posted.status_ts];
        let root = places.into_iter().flatten().chain(&posted.answer_ts).next();
        let Some(root) = root.cloned() else { return };
        let mut patience = DETAILS_PATIENCE;
        while let Some(text) = self.board(|board, _| board.take_detail()) {
            while let Err(failure) = self.post_detail(&root, &text) {
                match failure {
                    Failure::Limited(after)
                        if after <= patience && self.stop.wait(after).is_ok() =>
                    {
                        patience -= after;
                    }
                    failure => {
                        log::warning!(&self.target.channel, "details left out: {failure}");
                        return;
                    }
                }
            }
        }
    }

    // Calls.

    /// Posts once: when Slack's answer was lost, the message is looked for.
    fn post(
        &self,
        part: &str,
        thread_ts: Option<&str>,
        mut content: Content,
        urgency: Urgency,
    ) -> Answer<String> {
        let (channel, run) = (&self.target.channel, &self.target.run);
        content.metadata = Some(metadata(run, part));
        self.insist(urgency, || {
            let web = &self.web;
            let posted = web.chat_post_message(channel, thread_ts, &content, urgency);
            let Err(Failure::Unknown(why)) = &posted else {
                return posted;
            };
            log::warning!(channel, "was {part} posted? {why}");
            find(web, channel, thread_ts, run, part)?.map_or(posted, Ok)
        })
    }

    /// Blocks that are not said are removed.
    fn edit(&self, ts: &str, content: &Content, urgency: Urgency) -> Answer<()> {
        let mut content = content.clone();
        content.blocks.get_or_insert_with(|| "[]".to_owned());
        let channel = &self.target.channel;
        self.insist(urgency, || {
            self.web.chat_update(channel, ts, &content, urgency)
        })
    }

    /// What must be said is tried again while the network is away, unless the run is stopped.
    fn insist<T>(&self, urgency: Urgency, mut call: impl FnMut() -> Answer<T>) -> Answer<T> {
        let mut pause = Duration::from_secs(1);
        loop {
            let failure = match call() {
                Err(failure @ (Failure::Unknown(_) | Failure::Failed(_))) => failure,
                outcome => return outcome,
            };
            let patient = urgency == Urgency::Must && pause < ANSWER_PAUSE_MAX;
            if !patient || self.stop.wait(pause).is_err() {
                return Err(failure);
            }
            pause *= 2;
        }
    }

    /// With the Stop button; what is read stands in a block then.
    fn status(&self, text: &str) -> Content {
        if self.plain_status {
            return Content::plain(text);
        }
        let button = json!({"type": "actions", "elements": [{"type": "button", "action_id": "stop",
            "text": {"type": "plain_text", "text": "Stop"}, "style": "danger", "value": self.target.run}]});
        Content::blocks(text, &json!([section(text), button]))
    }
}

/// By which `left` knows a message again.
pub(crate) fn metadata(run: &str, part: &str) -> String {
    let payload = json!({"run": run, "part": part});
    json!({"event_type": "mom", "event_payload": payload}).to_string()
}

/// The ts of the message that a run posted as `part`, if it stands in the channel or thread.
pub(crate) fn find(
    web: &Web,
    channel: &str,
    thread_ts: Option<&str>,
    run: &str,
    part: &str,
) -> Answer<Option<String>> {
    let found = web.find_message(channel, thread_ts, began_ms(run), |message| {
        part_of(message, run) == Some(part)
    })?;
    Ok(found.and_then(|message| message["ts"].as_str().map(str::to_owned)))
}

/// What stands of a run that was cut.
pub(crate) fn left(web: &Web, channel: &str, thread_ts: Option<&str>, run: &str) -> Answer<Left> {
    let mut left = Left::default();
    web.find_message(channel, thread_ts, began_ms(run), |message| {
        left.note(message, run)
    })?;
    if thread_ts.is_none() {
        // What follows them stands in their threads.
        let roots = [left.status_ts.clone(), left.answer_ts.get(&0).cloned()];
        for root in roots.iter().flatten() {
            web.find_message(channel, Some(root), began_ms(run), |message| {
                left.note(message, run)
            })?;
        }
    }
    left.detail_ts.sort_unstable();
    left.detail_ts.dedup();
    Ok(left)
}

/// Runs are named by the ts of what was asked, or by due time and name of an event.
fn began_ms(run: &str) -> i64 {
    let event = || run.split_once(':')?.0.parse().ok();
    time::slack_ts_ms(run).or_else(event).unwrap_or_default()
}

fn part_of<'a>(message: &'a Value, run: &str) -> Option<&'a str> {
    let metadata = &message["metadata"];
    let payload = &metadata["event_payload"];
    let ours = metadata["event_type"] == "mom" && payload["run"] == run;
    payload["part"].as_str().filter(|_| ours)
}

fn in_blocks(piece: &Piece) -> Content {
    let block = json!({"type": "markdown", "text": piece.markdown});
    Content::blocks(&piece.fallback, &json!([block]))
}

/// A line of mrkdwn in a block: an edit of blocks is not marked `(edited)`.
fn worded(line: &str) -> Content {
    Content::blocks(line, &json!([section(line)]))
}

/// `verbatim`: Slack is not to look for names and channels in it.
fn section(text: &str) -> Value {
    let text = json!({"type": "mrkdwn", "text": text, "verbatim": true});
    json!({"type": "section", "expand": true, "text": text})
}

/// The same text without these blocks may pass.
fn is_about_blocks(failure: &Failure) -> bool {
    matches!(failure, Failure::Refused(code) if code.contains("block") || code == "msg_too_long"
        || code == "invalid_arguments")
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
            left: Left::default(),
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
        // Whether progress was shown before the end is chance.
        named
            .filter(|call| !call.starts_with("/chat.update 1 Thinking"))
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
