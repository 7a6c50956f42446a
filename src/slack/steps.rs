//! What the status message of a run says, and when which of the run's messages is to be
//! posted or edited. Pure: updates and the time go in, the next call to Slack comes out, and
//! the outcome of that call goes in again.
//!
//! It is state, not a queue: each message has one newest content, and what it said in between
//! is never sent later. All calls of a run share one pace: at most one a second, slower as the
//! run goes on, because all channels together have about 50 edits a minute.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::blocks::{self, SentAs, SlackText, StepStatus, words};
use super::details::{CARDS_MAX, Details, DetailsMessage};
use super::markdown::{self, TEXT_UNITS_MAX};
use super::web::Failure;
use crate::agent::run::Update;
use crate::base::text;

/// UTF-16 units of what the model is writing just now, in the status.
const WORDS_UNITS_MAX: usize = 1_500;
/// What is kept of it, in bytes.
const WORDS_BYTES_MAX: usize = 64 << 10;
/// Between two calls (Slack's advice), what each update adds to it, and its end.
const PACE: Duration = Duration::from_secs(1);
const PACE_STEP: Duration = Duration::from_millis(250);
const PACE_MAX: Duration = Duration::from_secs(3);
/// Details wait this long for others to share their edit.
const DETAILS_EVERY: Duration = Duration::from_secs(4);
/// After a failure that may pass.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Slack forgets the line below a thread after two minutes.
const THREAD_LINE_AGE_MAX: Duration = Duration::from_secs(90);

/// The next call to Slack.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// The first status message.
    Post(SlackText),
    Update {
        ts: String,
        shown: SlackText,
    },
    Details(DetailsMessage),
    /// The line below the thread that the run lives in.
    ThreadLine(String),
    /// Nothing until then, or until the next change.
    Wait(Option<Instant>),
}

/// Whether the run lives in a thread.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Home {
    Channel,
    Thread,
}

#[derive(Clone, Debug, PartialEq)]
enum StatusMessage {
    Wanted,
    Posted(String),
    /// Slack refuses it: deleted, or too old to be edited, or no right to post at all.
    Lost(Option<String>),
}

impl StatusMessage {
    fn ts(&self) -> Option<&str> {
        match self {
            StatusMessage::Wanted => None,
            StatusMessage::Posted(ts) => Some(ts),
            StatusMessage::Lost(ts) => ts.as_deref(),
        }
    }
}

pub(crate) struct Board {
    begun: Instant,
    home: Home,
    status: StatusMessage,
    progress: Progress,
    /// There may be something new to show.
    changed: bool,
    /// What the status message says now; `None` before the first.
    shown: Option<SlackText>,
    details: Details,
    /// When the oldest change of the details has waited long enough.
    details_at: Option<Instant>,
    pace: CallPace,
    thread_line: ThreadLine,
}

/// No call before `free_at`, no update of the status before `status_at`.
struct CallPace {
    free_at: Instant,
    status_at: Instant,
    updates: u32,
}

struct ThreadLine {
    shown: String,
    shown_at: Option<Instant>,
    refused: bool,
}

impl Board {
    /// `status_ts` is a message of an earlier try to go on with. `begun`: since when someone
    /// waits.
    pub(crate) fn new(
        progress: Progress,
        home: Home,
        status_ts: Option<String>,
        begun: Instant,
    ) -> Board {
        // The line that an earlier try has set may still stand.
        let line = match (&home, &status_ts) {
            (Home::Thread, Some(_)) => progress.now(),
            _ => String::new(),
        };
        Board {
            begun,
            home,
            status: status_ts.map_or(StatusMessage::Wanted, StatusMessage::Posted),
            progress,
            changed: true,
            shown: None,
            details: Details::new(),
            details_at: None,
            pace: CallPace {
                free_at: begun,
                status_at: begun,
                updates: 0,
            },
            thread_line: ThreadLine {
                shown: line,
                shown_at: None,
                refused: false,
            },
        }
    }

    /// Tells whether someone who waits must look again.
    pub(crate) fn apply(&mut self, update: Update, now: Instant) -> bool {
        let progress = &mut self.progress;
        match update {
            Update::TextDelta(delta) => {
                progress.note = None;
                if std::mem::take(&mut progress.words_are_old) {
                    progress.words.clear();
                }
                progress.words.push_str(&delta);
                if progress.words.len() > WORDS_BYTES_MAX {
                    let kept = text::utf16_suffix(&progress.words, WORDS_BYTES_MAX / 8);
                    progress.words = kept.to_owned();
                }
            }
            Update::TurnEnd {
                text,
                thinking,
                more,
            } => {
                if more {
                    self.details.said(&thinking, &text);
                }
                // They stay until others take their place.
                progress.words_are_old = true;
                progress.words = text;
            }
            Update::ToolWaiting(step) => {
                progress.set(step.number, &step.label, StepStatus::Pending)
            }
            Update::ToolStart(step) => {
                progress.note = None;
                progress.started += 1;
                progress.set(step.number, &step.label, StepStatus::InProgress);
                self.details.start(step);
                self.details_changed(now);
            }
            Update::ToolEnd(report) => {
                let step = &report.step;
                progress.set(step.number, &step.label, StepStatus::of(&report));
                self.details.end(&report);
                self.details_changed(now);
            }
            Update::Note(note) => progress.note = Some(note),
            Update::Usage(usage) => self.note(format!("_{}_", usage.line())),
            // Done by the caller's thread, which adds a note.
            Update::Upload { .. } => {}
        }
        !std::mem::replace(&mut self.changed, true)
    }

    fn details_changed(&mut self, now: Instant) {
        self.details_at.get_or_insert(now + DETAILS_EVERY);
    }

    /// Someone said `stop`: shown at once.
    pub(crate) fn stopping(&mut self, now: Instant) {
        self.progress.stopping = true;
        self.changed = true;
        self.pace.status_at = self.pace.status_at.min(now);
        self.pace.free_at = self.pace.free_at.min(now);
    }

    /// Of a run that ended without an answer: what the model wrote goes into the thread.
    pub(crate) fn keep_words(&mut self) {
        let words = match self.progress.words_are_old {
            true => "",
            false => &self.progress.words,
        };
        self.details.keep_words(words);
    }

    /// A line of safe Markdown for the thread, at the end of the run.
    pub(crate) fn note(&mut self, line: String) {
        self.details.note(line);
    }

    pub(crate) fn next(&mut self, now: Instant) -> Next {
        let mut wake: Option<Instant> = None;
        let mut later = |at: Instant| wake = Some(wake.map_or(at, |wake| wake.min(at)));
        let has_thread =
            self.home == Home::Thread || matches!(self.status, StatusMessage::Posted(_));
        // Before the status, which is changed all the time.
        if let Some(at) = self.details_at.filter(|_| has_thread) {
            let at = at.max(self.pace.free_at);
            if now < at {
                later(at);
            } else {
                self.details_at = None;
                if let Some(message) = self.details.next() {
                    return Next::Details(message);
                }
            }
        }
        let lost = matches!(self.status, StatusMessage::Lost(_));
        let at = self.pace.status_at.max(self.pace.free_at);
        if self.changed && !lost && now < at {
            later(at);
        } else if self.changed && !lost {
            let shown = self.progress.shown();
            match &self.status {
                _ if self.shown.as_ref() == Some(&shown) => self.changed = false,
                StatusMessage::Posted(ts) => {
                    let ts = ts.clone();
                    return Next::Update { ts, shown };
                }
                _ => return Next::Post(shown),
            }
        } else {
            self.changed = false;
        }
        let line = &self.thread_line;
        if self.home == Home::Thread && !line.refused && self.shown.is_some() {
            let label = self.progress.now();
            let at = line.shown_at.map(|at| match label == line.shown {
                true => at + THREAD_LINE_AGE_MAX,
                false => at + PACE_MAX,
            });
            match at.filter(|at| now < *at) {
                Some(at) => later(at),
                None => return Next::ThreadLine(label),
            }
        }
        Next::Wait(wake)
    }

    /// All that is still to be said in the thread, message by message.
    pub(crate) fn rest(&mut self) -> Option<DetailsMessage> {
        self.details.end_all();
        self.details.next()
    }

    /// Slack shows this, or refuses it: then `ts` is `None`.
    pub(crate) fn details_done(
        &mut self,
        message: &DetailsMessage,
        ts: Option<String>,
        now: Instant,
    ) {
        if message.ts.is_none() {
            // A new message in the thread takes the line away.
            self.thread_line.shown.clear();
        }
        self.details.done(message, ts);
        // There may be more; later changes wait for each other.
        let at = match self.details.next() {
            Some(_) => now,
            None => now + DETAILS_EVERY,
        };
        self.details_at = Some(at);
        self.called(now);
    }

    pub(crate) fn details_failed(&mut self, failure: &Failure, now: Instant) {
        self.details_at = Some(now + pause(failure));
    }

    /// Slack refuses blocks: everything goes out as text from now on.
    pub(crate) fn go_on_in_text(&mut self) {
        self.details.sent_as = SentAs::Text;
        self.details_at = Some(self.begun);
    }

    pub(super) fn sent_as(&self) -> SentAs {
        self.details.sent_as
    }

    pub(crate) fn status_posted(&mut self, ts: &str, shown: SlackText, now: Instant) {
        self.status = StatusMessage::Posted(ts.to_owned());
        self.status_updated(shown, now);
    }

    pub(crate) fn status_updated(&mut self, shown: SlackText, now: Instant) {
        self.shown = Some(shown);
        self.called(now);
    }

    fn called(&mut self, now: Instant) {
        self.pace.free_at = now + (PACE + PACE_STEP * self.pace.updates).min(PACE_MAX);
        self.pace.updates += 1;
    }

    pub(crate) fn status_failed(&mut self, failure: &Failure, now: Instant) {
        self.pace.status_at = now + pause(failure);
        if failure.stays() {
            self.status = match &self.status {
                // That of an earlier try is gone: a new one.
                StatusMessage::Posted(_) if self.shown.is_none() => {
                    self.pace.status_at = now;
                    StatusMessage::Wanted
                }
                status => StatusMessage::Lost(status.ts().map(str::to_owned)),
            };
        }
    }

    pub(crate) fn thread_line_set(&mut self, line: String, now: Instant) {
        self.thread_line.shown = line;
        self.thread_line.shown_at = Some(now);
    }

    pub(crate) fn thread_line_refused(&mut self) {
        self.thread_line.refused = true;
    }

    /// The line that Slack may still show below the thread.
    pub(crate) fn has_thread_line(&self) -> bool {
        !self.thread_line.shown.is_empty()
    }

    /// The status message, even if Slack refuses its updates.
    pub(crate) fn status_ts(&self) -> Option<&str> {
        self.status.ts()
    }

    pub(crate) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.begun)
    }

    /// `_Done: 12 steps, 1m 40s_`
    pub(crate) fn done_line(&self, now: Instant) -> String {
        let time = text::duration(Duration::from_secs(self.age(now).as_secs()));
        match self.progress.started {
            0 => format!("_Done: {time}_"),
            steps => format!("_Done: {}, {time}_", text::count(steps, "step")),
        }
    }
}

fn pause(failure: &Failure) -> Duration {
    match failure {
        Failure::Limited(after) => (*after).max(PACE),
        _ => RETRY_AFTER,
    }
}

/// What goes on, as the status message shows it.
pub(crate) struct Progress {
    head: String,
    run: String,
    steps: Vec<PlanStep>,
    /// Older steps that are only counted.
    folded: usize,
    /// Calls that have begun.
    started: usize,
    /// The model's words, safe or not.
    words: String,
    /// They are those of a turn that is over.
    words_are_old: bool,
    note: Option<String>,
    stopping: bool,
}

struct PlanStep {
    number: usize,
    label: String,
    status: StepStatus,
}

impl Progress {
    /// `head` says what goes on before the first step: `Thinking`. `run` names the run for the
    /// Stop button.
    pub(crate) fn new(head: String, run: String) -> Progress {
        Progress {
            head,
            run,
            steps: Vec::new(),
            folded: 0,
            started: 0,
            words: String::new(),
            words_are_old: false,
            note: None,
            stopping: false,
        }
    }

    fn set(&mut self, number: usize, label: &str, status: StepStatus) {
        if let Some(step) = self.steps.iter_mut().find(|step| step.number == number) {
            step.status = status;
            return;
        }
        // One card says how many were folded.
        while self.steps.len() + usize::from(self.folded > 0) >= CARDS_MAX {
            let oldest = self.steps.iter().position(|step| step.status.is_over());
            match oldest {
                Some(oldest) => {
                    self.steps.remove(oldest);
                    self.folded += 1;
                }
                // It is shown once it begins.
                None if status == StepStatus::Pending => return,
                None => drop(self.steps.pop()),
            }
        }
        let label = text::one_line(label, blocks::TITLE_CHARS_MAX);
        let at = self.steps.partition_point(|step| step.number < number);
        self.steps.insert(
            at,
            PlanStep {
                number,
                label,
                status,
            },
        );
    }

    /// What goes on now, in a few words: plain text.
    fn now(&self) -> String {
        if let Some(note) = &self.note {
            return note.clone();
        }
        let with = |status| move |step: &&PlanStep| step.status == status;
        let mut running = self.steps.iter().rev().filter(with(StepStatus::InProgress));
        if let Some(step) = running.next() {
            return match running.count() {
                0 => step.label.clone(),
                more => format!("{} (and {more} more)", step.label),
            };
        }
        match self.steps.iter().find(with(StepStatus::Pending)) {
            Some(step) => format!("Waiting: {}", step.label),
            None => self.head.clone(),
        }
    }

    fn shown(&self) -> SlackText {
        if self.stopping {
            let line = "_Stopping..._".to_owned();
            return SlackText {
                blocks: json!([blocks::section(&line)]),
                text: line,
            };
        }
        let writing = match is_silent_start(self.words.trim()) {
            true => String::new(),
            false => markdown::tail(&self.words, WORDS_UNITS_MAX),
        };
        let writing = match self.words_are_old || writing.is_empty() {
            true => writing,
            false => writing + "▌",
        };
        SlackText {
            text: self.text(&writing),
            blocks: self.blocks(&writing),
        }
    }

    /// The same in words, the newest steps if there is no room for all.
    fn text(&self, writing: &str) -> String {
        let head = format!("_{}_ ...", words(&self.now(), 120));
        let end = match writing.is_empty() {
            true => String::new(),
            false => format!("\n{}", markdown::mrkdwn(writing)),
        };
        let earlier = self.earlier().map(|earlier| format!("\n✓ {earlier}"));
        let line = |step: &PlanStep| {
            let label = words(&step.label, blocks::TITLE_CHARS_MAX);
            format!("\n{} {label}", step.status.mark())
        };
        let lines: String = earlier
            .into_iter()
            .chain(self.steps.iter().map(line))
            .collect();
        let fixed = text::utf16_len(&head) + text::utf16_len(&end) + 2;
        let room = TEXT_UNITS_MAX.saturating_sub(fixed);
        if text::utf16_len(&lines) <= room {
            return head + &lines + &end;
        }
        let newest = text::utf16_suffix(&lines, room).split_once('\n');
        let newest = newest.map_or("", |(_, newest)| newest);
        format!("{head}\n…\n{newest}{end}")
    }

    fn earlier(&self) -> Option<String> {
        (self.folded > 0).then(|| text::count(self.folded, "earlier step"))
    }

    fn blocks(&self, writing: &str) -> Value {
        let mut out = Vec::new();
        if !writing.is_empty() {
            out.push(blocks::markdown(writing));
        } else if self.steps.is_empty() {
            out.push(blocks::markdown(&format!(
                "_{}_ ...",
                words(&self.now(), 120)
            )));
        }
        let earlier = self.earlier();
        let earlier =
            earlier.map(|earlier| blocks::card("earlier", &earlier, StepStatus::Complete));
        let card =
            |step: &PlanStep| blocks::card(&step.number.to_string(), &step.label, step.status);
        let cards: Vec<Value> = earlier
            .into_iter()
            .chain(self.steps.iter().map(card))
            .collect();
        if !cards.is_empty() {
            out.push(blocks::plan(&self.now(), cards));
        }
        out.push(blocks::stop_button(&self.run));
        Value::Array(out)
    }
}

/// `[SILENT]` is not to be seen in the channel, not even its beginning.
fn is_silent_start(words: &str) -> bool {
    const MARK: &str = "[SILENT]";
    words.starts_with(MARK) || MARK.starts_with(words)
}
#[cfg(test)]
mod tests {
    use super::super::details::tests::{report, step};
    use super::*;
    use std::collections::VecDeque;

    const HOSTILE: [&str; 7] = ["&", "```\n<!here>", "👍", "\n", "x", "\"\\", "\0"];

    fn board(start: Instant, status_ts: Option<&str>) -> Board {
        let progress = Progress::new("Thinking".into(), "1.0".into());
        let status_ts = status_ts.map(str::to_owned);
        Board::new(progress, Home::Channel, status_ts, start)
    }

    fn begins(number: usize) -> Update {
        Update::ToolStart(step(number, &format!("step {number}"), "true"))
    }

    fn fits(shown: &SlackText) -> bool {
        blocks::weight(&shown.blocks) <= 13_000 && text::utf16_len(&shown.text) <= TEXT_UNITS_MAX
    }

    /// Plays Slack with calls that take `latency_ms`: what was called at which time.
    fn play(
        board: &mut Board,
        start: Instant,
        latency_ms: u64,
        mut updates: VecDeque<(u64, Update)>,
        until_ms: u64,
    ) -> Vec<(u64, Next)> {
        let at = |ms| start + Duration::from_millis(ms);
        let mut calls = Vec::new();
        let mut now = 0;
        while now <= until_ms {
            while updates.front().is_some_and(|(ms, _)| *ms <= now) {
                if let Some((ms, update)) = updates.pop_front() {
                    board.apply(update, at(ms));
                }
            }
            let next = board.next(at(now));
            let end = now + latency_ms;
            match &next {
                Next::Wait(wake) => {
                    let wake = wake
                        .map(|wake| wake.duration_since(start).as_micros().div_ceil(1_000) as u64);
                    assert!(wake.is_none_or(|wake| wake > now), "busy at {now}");
                    let change = updates.front().map(|(ms, _)| *ms);
                    now = wake.into_iter().chain(change).min().unwrap_or(until_ms + 1);
                    continue;
                }
                Next::Post(shown) => board.status_posted("1.0", shown.clone(), at(end)),
                Next::Update { shown, .. } => board.status_updated(shown.clone(), at(end)),
                Next::Details(page) => board.details_done(page, Some("2.0".into()), at(end)),
                Next::ThreadLine(line) => board.thread_line_set(line.clone(), at(end)),
            }
            calls.push((now, next));
            now = end;
        }
        calls
    }

    #[test]
    fn first_at_once_then_one_a_second_and_the_newest_last() {
        let start = Instant::now();
        let mut board = board(start, None);
        let updates = (1..=100).flat_map(|n| {
            let at = 10 + n as u64 * 30;
            [(at, begins(n)), (at, Update::ToolEnd(report(n, "x")))]
        });
        let calls = play(&mut board, start, 20, updates.collect(), 20_000);
        let times: Vec<u64> = calls.iter().map(|(ms, _)| *ms).collect();
        assert!(matches!(calls[0], (0, Next::Post(_))));
        assert!(
            times.windows(2).all(|pair| pair[1] - pair[0] >= 1_000),
            "{times:?}"
        );
        assert!(calls.len() <= 12, "{times:?}");
        let mut updates = calls.iter().filter_map(|(_, next)| match next {
            Next::Update { shown, .. } => Some(&shown.text),
            _ => None,
        });
        let text = updates.next_back().unwrap();
        assert!(text.ends_with("✓ step 99\n✓ step 100"), "{text}");
    }

    #[test]
    fn ten_tools_cost_few_calls() {
        // The answer and the last details come on top: 8 in all.
        for (name, every_ms, most) in [("fast", 100, 3), ("a second each", 1_000, 6)] {
            let start = Instant::now();
            let mut board = board(start, None);
            let mut updates = VecDeque::new();
            for n in 0..10 {
                updates.push_back((n * every_ms + 1, begins(n as usize)));
                let report = report(n as usize, "ok");
                updates.push_back(((n + 1) * every_ms, Update::ToolEnd(report)));
            }
            let calls = play(&mut board, start, 150, updates, 10 * every_ms);
            assert!(calls.len() <= most, "{name}: {}: {calls:?}", calls.len());
        }
    }

    #[test]
    fn the_status_stays_small_and_names_the_newest() {
        let start = Instant::now();
        let mut board = board(start, None);
        for n in 1..=100 {
            let label = format!("step {n} <!channel>\n{}", "ä&\"".repeat(100));
            board.apply(Update::ToolStart(step(n, &label, "")), start);
            if n < 98 {
                board.apply(Update::ToolEnd(report(n, "x")), start);
            }
        }
        let shown = board.progress.shown();
        assert!(
            fits(&shown) && shown.text.contains("\n…\n✓ step"),
            "{}",
            shown.text
        );
        let plan = &shown.blocks[0];
        let cards = plan["tasks"].as_array().unwrap();
        assert!(
            cards.len() <= CARDS_MAX && cards[0]["title"].as_str().unwrap().contains("earlier")
        );
        assert!(
            plan["title"]
                .as_str()
                .unwrap()
                .starts_with("step 100 <\u{200B}!channel>")
        );
        board.apply(Update::TextDelta("**Most** of ".into()), start);
        board.apply(Update::TextDelta("it <!here>".into()), start);
        let shown = board.progress.shown();
        assert_eq!(shown.blocks[0]["text"], "**Most** of it &lt;!here>▌");
        assert!(
            shown.text.ends_with("\n**Most** of it &lt;!here&gt;▌"),
            "{}",
            shown.text
        );
        for hostile in HOSTILE {
            board.progress.words.clear();
            board.apply(Update::TextDelta(hostile.repeat(200_000)), start);
            assert!(board.progress.words.len() <= WORDS_BYTES_MAX);
            assert!(fits(&board.progress.shown()), "{hostile}");
        }
        // A note stands until something else goes on, and only the newest.
        for n in 1..=3 {
            board.apply(Update::Note(format!("Retrying ({n}/3)...")), start);
        }
        let text = board.progress.shown().text;
        assert!(text.starts_with("_Retrying (3/3)..._ ..."), "{text}");
        for (words, want) in [
            ("[SIL", ""),
            ("[SILENT] nothing", ""),
            ("[SILK", "\n[SILK▌"),
        ] {
            let mut board = self::board(start, None);
            board.apply(Update::TextDelta(words.into()), start);
            let text = board.progress.shown().text;
            assert_eq!(text, format!("_Thinking_ ...{want}"));
        }
        board.stopping(start);
        assert_eq!(board.progress.shown().text, "_Stopping..._");
    }

    #[test]
    fn a_call_waits_runs_and_ends() {
        let start = Instant::now();
        let mut board = board(start, None);
        let status = |board: &Board| {
            let plan = board.progress.shown().blocks[0].clone();
            (plan["title"].clone(), plan["tasks"][0]["status"].clone())
        };
        board.apply(Update::ToolWaiting(step(1, "Look", "ls")), start);
        assert_eq!(status(&board), ("Waiting: Look".into(), "pending".into()));
        board.apply(Update::ToolStart(step(1, "Look", "ls")), start);
        assert_eq!(status(&board), ("Look".into(), "in_progress".into()));
        board.apply(Update::ToolEnd(report(1, "x")), start);
        assert_eq!(status(&board), ("Thinking".into(), "complete".into()));
    }

    #[test]
    fn failures_pass_or_end_the_status() {
        let start = Instant::now();
        let mut board = board(start, None);
        board.status_failed(&Failure::Limited(Duration::from_secs(7)), start);
        let now = start + Duration::from_secs(7);
        assert_eq!(board.next(start), Next::Wait(Some(now)));
        assert!(matches!(board.next(now), Next::Post(_)));
        board.status_failed(&Failure::Unknown("reset".into()), now);
        assert_eq!(board.next(now), Next::Wait(Some(now + RETRY_AFTER)));
        board.status_failed(&Failure::Refused("not_in_channel".into()), now);
        assert_eq!(board.next(now + RETRY_AFTER), Next::Wait(None));
        assert_eq!(board.status_ts(), None);
        let gone = Failure::Refused("message_not_found".into());
        let mut board = self::board(start, Some("1.0"));
        assert!(matches!(board.next(start), Next::Update { .. }));
        board.status_failed(&gone, start);
        assert!(matches!(board.next(start), Next::Post(_)), "a new status");
        board.status_posted("2.0", board.progress.shown(), start);
        board.status_failed(&gone, start);
        board.apply(begins(1), start);
        assert_eq!(board.next(now), Next::Wait(None));
        assert_eq!(board.status_ts(), Some("2.0"));
    }
}
