//! What a run's messages should say, and when it is time to say it. Pure: updates and the
//! time go in, the next call to Slack comes out, and the outcome of that call goes in again.
//!
//! It is state, not a queue. The status message has one newest text; what it said in between
//! is never caught up. Details for the thread are collected into messages, and their number
//! is bounded: the oldest give way when Slack is slow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::agent::run::{ToolReport, Update};
use crate::base::text;
use crate::slack::markdown::{self, MRKDWN_UNITS_MAX};
use crate::slack::web::Failure;

/// UTF-16 units of the status: a section block takes 3,000, chat.update a text of 4,000.
const STATUS_UNITS_MAX: usize = 2_900;
/// Of these, what the model is writing just now.
const WORDS_UNITS_MAX: usize = 1_800;
/// Between two updates of a message (Slack's advice). Longer runs are updated more rarely:
/// all channels together have about 50 a minute.
const UPDATE_EVERY: Duration = Duration::from_secs(1);
const UPDATE_EVERY_MAX: Duration = Duration::from_secs(3);
/// Details wait this long for others to share their message.
const DETAILS_GATHER: Duration = Duration::from_secs(2);
/// Between two messages of details, unless there is more than one to post.
const DETAILS_EVERY: Duration = Duration::from_secs(4);
/// Between two messages in a channel (Slack, chat.postMessage).
const POST_EVERY: Duration = Duration::from_secs(1);
/// Messages of details that may wait: 160 KB at most.
const DETAILS_MAX: usize = 40;
/// Lines the status remembers; far fewer fit.
const LINES_MAX: usize = 100;
/// The model's words that are kept for the status, in bytes.
const WORDS_BYTES_MAX: usize = 64 << 10;
/// After a failure that may pass.
const RETRY_AFTER: Duration = Duration::from_secs(2);

/// What is to be done now.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// The first status message.
    Post(String),
    Update {
        ts: String,
        text: String,
    },
    /// A message in the thread.
    Detail(String),
    /// Nothing until then, or until the next change.
    Wait(Option<Instant>),
}

#[derive(Clone, Debug, PartialEq)]
enum Status {
    Wanted,
    Stands(String),
    /// Slack refuses it: deleted, or too old to be edited, or no right to post at all.
    Lost(Option<String>),
}

impl Status {
    fn ts(&self) -> Option<&str> {
        match self {
            Status::Wanted => None,
            Status::Stands(ts) => Some(ts),
            Status::Lost(ts) => ts.as_deref(),
        }
    }
}

pub(crate) struct Board {
    begun: Instant,
    head: String,
    lines: VecDeque<String>,
    words: String,
    steps: usize,
    stopping: bool,
    status: Status,
    changed: bool,
    shown: String,
    /// Neither post nor update before this.
    status_at: Instant,
    details: VecDeque<String>,
    details_lost: usize,
    /// When the oldest has waited long enough for others.
    gathered_at: Instant,
    /// When the last one was posted.
    detail_posted_at: Option<Instant>,
    /// No detail before this: Slack said so.
    detail_refused_until: Instant,
    /// The thread is not there before the status is.
    in_thread: bool,
}

impl Board {
    /// `head` is mrkdwn: `_Thinking_`. `status_ts` is a message of an earlier try to go on
    /// with. `in_thread`: the run lives in a thread. `begun`: since when someone waits.
    pub(crate) fn new(
        head: String,
        status_ts: Option<String>,
        in_thread: bool,
        begun: Instant,
        now: Instant,
    ) -> Board {
        Board {
            begun,
            head,
            lines: VecDeque::new(),
            words: String::new(),
            steps: 0,
            stopping: false,
            status: status_ts.map_or(Status::Wanted, Status::Stands),
            changed: true,
            shown: String::new(),
            status_at: now,
            details: VecDeque::new(),
            details_lost: 0,
            gathered_at: now,
            detail_posted_at: None,
            detail_refused_until: now,
            in_thread,
        }
    }

    /// Tells whether someone who waits must look again.
    pub(crate) fn apply(&mut self, update: Update, now: Instant) -> bool {
        let wake = !self.changed;
        match update {
            Update::TextDelta(delta) => {
                self.words.push_str(&delta);
                if self.words.len() > WORDS_BYTES_MAX {
                    self.words = text::utf16_suffix(&self.words, WORDS_BYTES_MAX / 8).to_owned();
                }
            }
            Update::TurnEnd {
                text,
                thinking,
                more,
            } => {
                if !thinking.trim().is_empty() {
                    self.line(format!("_{}_", words(&thinking, 200)));
                    self.detail(thinking_detail(&thinking), now);
                }
                // The last turn's words stay until the answer takes their place.
                self.words = text;
                if more {
                    self.keep_words(now);
                }
            }
            Update::ToolWaiting(_) => return false,
            Update::ToolStart(step) => {
                self.steps += 1;
                self.line(format!("_→ {}_", words(&step.label, 150)));
            }
            Update::ToolEnd(report) => {
                if report.is_error {
                    self.line(format!("_Error: {}_", words(&report.result, 200)));
                }
                self.detail(tool_detail(&report), now);
            }
            Update::Note(note) => self.line(format!("_{}_", words(&note, 200))),
            Update::Usage(usage) => self.detail(format!("_{}_", usage.line()), now),
            // Done by the caller's thread; it says so by a note.
            Update::Upload { .. } => return false,
        }
        self.changed = true;
        wake
    }

    /// What the model wrote in this turn goes into the lines and the thread.
    pub(crate) fn keep_words(&mut self, now: Instant) {
        let words = std::mem::take(&mut self.words);
        if words.trim().is_empty() {
            return;
        }
        self.line(live_words(&words, WORDS_UNITS_MAX / 3));
        for piece in markdown::pieces(&words) {
            for part in piece.mrkdwn() {
                self.detail(part, now);
            }
        }
    }

    /// Someone said `stop`: told at once.
    pub(crate) fn stopping(&mut self, now: Instant) {
        self.stopping = true;
        self.changed = true;
        self.status_at = self.status_at.min(now);
    }

    fn line(&mut self, line: String) {
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    /// `detail` is mrkdwn of at most `MRKDWN_UNITS_MAX`.
    pub(crate) fn detail(&mut self, detail: String, now: Instant) {
        if self.details.is_empty() {
            self.gathered_at = now + DETAILS_GATHER;
        }
        match self.details.back_mut() {
            Some(last) if fits(last, &detail) => {
                last.push('\n');
                last.push_str(&detail);
            }
            _ => self.details.push_back(detail),
        }
        if self.details.len() > DETAILS_MAX {
            self.details.pop_front();
            self.details_lost += 1;
        }
    }

    pub(crate) fn next(&mut self, now: Instant) -> Next {
        let mut wake = None;
        if self.changed && now < self.status_at {
            wake = Some(self.status_at);
        } else if self.changed {
            let text = self.status_text();
            match &self.status {
                Status::Stands(ts) if text != self.shown => {
                    let ts = ts.clone();
                    return Next::Update { ts, text };
                }
                Status::Wanted => return Next::Post(text),
                Status::Stands(_) | Status::Lost(_) => self.changed = false,
            }
        }
        let has_thread = self.in_thread || matches!(self.status, Status::Stands(_));
        if has_thread && !self.details.is_empty() {
            // A full message has nothing to wait for but its turn.
            let (gathered, every) = match self.details.len() > 1 {
                true => (now, POST_EVERY),
                false => (self.gathered_at, DETAILS_EVERY),
            };
            let turn = self.detail_posted_at.map_or(now, |at| at + every);
            let at = gathered.max(turn).max(self.detail_refused_until);
            if now >= at {
                if let Some(text) = self.take_detail() {
                    return Next::Detail(text);
                }
            }
            wake = Some(wake.map_or(at, |wake| at.min(wake)));
        }
        Next::Wait(wake)
    }

    /// The oldest message of details.
    pub(crate) fn take_detail(&mut self) -> Option<String> {
        let detail = self.details.pop_front()?;
        let lost = std::mem::take(&mut self.details_lost);
        if lost == 0 {
            return Some(detail);
        }
        let lost = text::count(lost, "message");
        let note = format!("_({lost} of details left out: Slack was too slow)_");
        if fits(&note, &detail) {
            return Some(format!("{note}\n{detail}"));
        }
        self.details.push_front(detail);
        Some(note)
    }

    /// The message of details comes back: it was not posted.
    pub(crate) fn detail_failed(&mut self, detail: String, failure: &Failure, now: Instant) {
        self.details.push_front(detail);
        self.detail_refused_until = now + pause(failure);
    }

    pub(crate) fn detail_posted(&mut self, now: Instant) {
        self.detail_posted_at = Some(now);
    }

    pub(crate) fn status_posted(&mut self, ts: &str, text: String, now: Instant) {
        self.status = Status::Stands(ts.to_owned());
        self.shown = text;
        // The first change may follow at once.
        self.status_at = now;
    }

    pub(crate) fn status_updated(&mut self, text: String, now: Instant) {
        self.shown = text;
        self.status_at = now + (UPDATE_EVERY + self.age(now) / 30).min(UPDATE_EVERY_MAX);
    }

    pub(crate) fn status_failed(&mut self, failure: &Failure, now: Instant) {
        self.status_at = now + pause(failure);
        if failure.stays() {
            self.status = match &self.status {
                // That of an earlier try is gone: a new one.
                Status::Stands(_) if self.shown.is_empty() => {
                    self.status_at = now;
                    Status::Wanted
                }
                status => Status::Lost(status.ts().map(str::to_owned)),
            };
        }
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
        let seconds = Duration::from_secs(self.age(now).as_secs());
        let steps = text::count(self.steps, "step");
        format!("_Done: {steps}, {}_", text::duration(seconds))
    }

    fn status_text(&self) -> String {
        if self.stopping {
            return "_Stopping..._".to_owned();
        }
        let words = live_words(&self.words, WORDS_UNITS_MAX);
        let end = match words.is_empty() {
            true => " ...".to_owned(),
            false => format!("\n{words}▌"),
        };
        let fixed = text::utf16_len(&self.head) + text::utf16_len(&end) + 3;
        let mut room = STATUS_UNITS_MAX.saturating_sub(fixed);
        let newest = self.lines.iter().rev().take_while(|line| {
            let units = text::utf16_len(line) + 1;
            let fits = units <= room;
            room = room.saturating_sub(units);
            fits
        });
        let lines: Vec<&str> = newest.map(String::as_str).collect();
        let mut out = self.head.clone();
        if lines.len() < self.lines.len() {
            out.push_str("\n…");
        }
        out.extend(lines.iter().rev().flat_map(|line| ["\n", line]));
        out + &end
    }
}

fn pause(failure: &Failure) -> Duration {
    match failure {
        Failure::Limited(after) => (*after).max(UPDATE_EVERY),
        _ => RETRY_AFTER,
    }
}

/// Someone's words within a line of ours: one line, no mention, no fence.
pub(crate) fn words(text: &str, chars_max: usize) -> String {
    let line = text::escape(&text::one_line(text, chars_max));
    text::fence_safe(&line).into_owned()
}

fn fits(a: &str, b: &str) -> bool {
    text::utf16_len(a) + 1 + text::utf16_len(b) <= MRKDWN_UNITS_MAX
}

/// The end of what the model has written so far, as mrkdwn of at most `units_max`.
fn live_words(words: &str, units_max: usize) -> String {
    let words = words.trim();
    // `[SILENT]` is not for the channel's eyes, not even its beginning.
    if is_silent_start(words) {
        return String::new();
    }
    let mut kept = units_max;
    loop {
        let mut tail = text::utf16_suffix(words, kept);
        if tail.len() < words.len() {
            tail = tail.split_once('\n').map_or(tail, |(_, lines)| lines);
        }
        let cut = words[..words.len() - tail.len()].lines();
        let fences = cut.filter(|line| line.trim_start().starts_with("```"));
        let fence = if fences.count() % 2 == 0 { "" } else { "```\n" };
        let out = markdown::mrkdwn(&format!("{fence}{tail}"));
        if text::utf16_len(&out) <= units_max {
            return out;
        }
        kept /= 2;
    }
}

fn is_silent_start(words: &str) -> bool {
    const MARK: &str = "[SILENT]";
    words.starts_with(MARK) || MARK.starts_with(words)
}

/// `✓ *bash*  Check disk usage · 0.3 s`, arguments and result as code.
fn tool_detail(report: &ToolReport) -> String {
    let mark = if report.is_error { "✗" } else { "✓" };
    let (name, label) = (words(&report.step.name, 60), words(&report.step.label, 200));
    let time = text::duration(report.duration);
    let head = format!("{mark} *{name}*  {label} · {time}");
    let block = |text: &str, max| match text.trim().is_empty() {
        true => String::new(),
        false => format!("\n{}", text::code_block(&text::cut_middle(text, max))),
    };
    // Escaping can make a text five times as long.
    let sizes = [(1_000, 2_400), (400, 1_200), (200, 400), (100, 100)];
    let mut details = sizes.into_iter().map(|(arguments_max, result_max)| {
        let arguments = block(&report.step.arguments, arguments_max);
        format!("{head}{arguments}{}", block(&report.result, result_max))
    });
    let fitting = details.find(|detail| text::utf16_len(detail) <= MRKDWN_UNITS_MAX);
    fitting.unwrap_or(head.clone())
}

fn thinking_detail(thinking: &str) -> String {
    let quote = |max| {
        let lines = text::escape(&text::cut_middle(thinking.trim(), max)).replace('\n', "\n> ");
        format!("_Thinking_\n> {lines}")
    };
    let detail = quote(2_500);
    match text::utf16_len(&detail) <= MRKDWN_UNITS_MAX {
        true => detail,
        // All of it escaped, every character a line.
        false => quote(400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::run::{ToolStep, UsageReport};
    use crate::llm::{Cost, Usage};

    fn board(start: Instant) -> Board {
        Board::new("_Thinking_".into(), None, false, start, start)
    }

    fn tool(label: &str) -> Update {
        Update::ToolStart(step(label, ""))
    }

    fn step(label: &str, arguments: &str) -> ToolStep {
        ToolStep {
            number: 1,
            name: "bash".into(),
            label: label.into(),
            arguments: arguments.into(),
        }
    }

    fn report(result: &str) -> ToolReport {
        ToolReport {
            step: step("Check disk usage", "df -h /srv"),
            result: result.into(),
            diff: None,
            is_error: false,
            duration: Duration::from_millis(312),
        }
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
                Next::Post(text) => board.status_posted("1.0", text.clone(), at(end)),
                Next::Update { text, .. } => board.status_updated(text.clone(), at(end)),
                Next::Detail(_) => board.detail_posted(at(end)),
            }
            calls.push((now, next));
            now = end;
        }
        calls
    }

    #[test]
    fn first_at_once_then_one_a_second_and_the_newest_last() {
        let start = Instant::now();
        let mut board = board(start);
        let updates = (0..100).map(|i| (10 + i * 30, tool(&format!("step {i}"))));
        let calls = play(&mut board, start, 20, updates.collect(), 10_000);
        let times: Vec<u64> = calls.iter().map(|(ms, _)| *ms).collect();
        assert_eq!(calls[0], (0, Next::Post("_Thinking_ ...".into())));
        assert_eq!(times[1], 20, "the first change follows at once");
        assert!(
            times
                .windows(2)
                .skip(1)
                .all(|pair| pair[1] - pair[0] >= 1_000),
            "{times:?}"
        );
        assert!(calls.len() <= 6, "{times:?}");
        match &calls.last().unwrap().1 {
            Next::Update { ts, text } => {
                assert_eq!(ts, "1.0");
                assert!(text.ends_with("_→ step 98_\n_→ step 99_ ..."), "{text}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ten_tools_cost_few_calls() {
        for (name, every_ms, most) in [("fast", 100, 5), ("a second each", 1_000, 13)] {
            let start = Instant::now();
            let mut board = board(start);
            let mut updates = VecDeque::new();
            for i in 0..10 {
                updates.push_back((i * every_ms + 1, tool(&format!("step {i}"))));
                updates.push_back(((i + 1) * every_ms, Update::ToolEnd(report("ok"))));
            }
            let calls = play(&mut board, start, 150, updates, 10 * every_ms);
            // The answer and the last details come on top.
            assert!(calls.len() <= most, "{name}: {calls:?}");
        }
    }

    #[test]
    fn details_wait_for_each_other_and_are_bounded() {
        let start = Instant::now();
        let mut board = board(start);
        for _ in 0..3 {
            board.apply(Update::ToolEnd(report("x")), start);
        }
        assert!(matches!(board.next(start), Next::Post(_)));
        board.status_posted("1.0", board.status_text(), start);
        assert_eq!(board.next(start), Next::Wait(Some(start + DETAILS_GATHER)));
        // Whoever waits for that is woken by a change of the status, once.
        assert!(board.apply(Update::Note("a".into()), start));
        assert!(!board.apply(Update::Note("b".into()), start));
        let Next::Update { text, .. } = board.next(start) else {
            panic!("no update")
        };
        board.status_updated(text, start);
        let later = start + DETAILS_GATHER;
        let Next::Detail(detail) = board.next(later) else {
            panic!("no details")
        };
        assert_eq!(
            detail
                .matches("✓ *bash*  Check disk usage · 0.3 s\n```\ndf -h /srv\n```\n```\nx\n```")
                .count(),
            3
        );
        // Not posted: it comes again after the pause, in front of what is new.
        board.detail_failed(
            detail.clone(),
            &Failure::Limited(Duration::from_secs(9)),
            later,
        );
        let at = later + Duration::from_secs(9);
        assert_eq!(board.next(later), Next::Wait(Some(at)));
        assert_eq!(board.next(at), Next::Detail(detail));
        for _ in 0..1_000 {
            board.apply(Update::ToolEnd(report(&"long ".repeat(1_000))), at);
        }
        assert_eq!(board.details.len(), DETAILS_MAX);
        let first = board.take_detail().unwrap();
        assert!(first.contains("messages of details left out"), "{first}");
        while let Some(detail) = board.take_detail() {
            assert!(text::utf16_len(&detail) <= MRKDWN_UNITS_MAX);
        }
    }

    #[test]
    fn status_stays_short_and_shows_the_newest() {
        let start = Instant::now();
        let mut board = board(start);
        for i in 0..500 {
            board.apply(
                tool(&format!("step {i} <!channel>\n{}", "ä&".repeat(100))),
                start,
            );
        }
        board.apply(Update::Note("``` open".into()), start);
        assert!(!board.status_text().contains("```"));
        board.apply(Update::TextDelta("**Most** of ".into()), start);
        board.apply(Update::TextDelta("it <!here>".into()), start);
        let text = board.status_text();
        assert!(text::utf16_len(&text) <= STATUS_UNITS_MAX, "{text}");
        assert!(text.starts_with("_Thinking_\n…\n_→ step "), "{text}");
        assert!(text.contains("step 499 &lt;!channel&gt;"), "{text}");
        assert!(text.ends_with("\n*Most* of it &lt;!here&gt;▌"), "{text}");
        for (words, want) in [
            ("[SIL", ""),
            ("[SILENT] nothing", ""),
            ("[SILK", "\n[SILK▌"),
        ] {
            board.words = words.into();
            board.lines.clear();
            let want = format!("_Thinking_{}", if want.is_empty() { " ..." } else { want });
            assert_eq!(board.status_text(), want);
        }
        for hostile in ["&", "```\n<", "👍", "\n", "x"] {
            board.words = String::new();
            board.apply(Update::TextDelta(hostile.repeat(200_000)), start);
            assert!(board.words.len() <= WORDS_BYTES_MAX);
            assert!(text::utf16_len(&board.status_text()) <= STATUS_UNITS_MAX);
            board.apply(
                Update::TurnEnd {
                    text: hostile.repeat(9_000),
                    thinking: hostile.repeat(9_000),
                    more: true,
                },
                start,
            );
            assert!(text::utf16_len(&board.status_text()) <= STATUS_UNITS_MAX);
        }
        assert!(
            board
                .details
                .iter()
                .all(|detail| text::utf16_len(detail) <= MRKDWN_UNITS_MAX)
        );
        board.stopping(start);
        assert_eq!(board.status_text(), "_Stopping..._");
    }

    #[test]
    fn failures_pass_or_end_the_status() {
        let start = Instant::now();
        let mut board = board(start);
        board.status_failed(&Failure::Limited(Duration::from_secs(7)), start);
        assert_eq!(
            board.next(start),
            Next::Wait(Some(start + Duration::from_secs(7)))
        );
        let now = start + Duration::from_secs(7);
        assert!(matches!(board.next(now), Next::Post(_)));
        board.status_failed(&Failure::Unknown("reset".into()), now);
        assert_eq!(board.next(now), Next::Wait(Some(now + RETRY_AFTER)));
        board.status_failed(&Failure::Refused("not_in_channel".into()), now);
        assert_eq!(board.next(now + RETRY_AFTER), Next::Wait(None));
        assert!(board.apply(Update::ToolEnd(report("x")), now));
        assert_eq!(board.status_ts(), None);
        let gone = Failure::Refused("message_not_found".into());
        let old = Some("1.0".to_owned());
        let mut board = Board::new("_Thinking_".into(), old, false, start, start);
        assert!(matches!(board.next(start), Next::Update { .. }));
        board.status_failed(&gone, start);
        assert!(matches!(board.next(start), Next::Post(_)), "a new status");
        board.status_posted("2.0", board.status_text(), start);
        board.status_failed(&gone, start);
        board.apply(tool("x"), start);
        assert_eq!(board.next(now), Next::Wait(None));
        assert_eq!(board.status_ts(), Some("2.0"));
    }

    #[test]
    fn says_what_tools_and_tokens_were() {
        let long = format!(
            "{}[full output: scratch/out-7f3a.txt]",
            "line\n".repeat(2_000)
        );
        let detail = tool_detail(&ToolReport {
            is_error: true,
            ..report(&long)
        });
        assert!(detail.starts_with("✗ *bash*"), "{detail}");
        assert!(
            detail.contains(" lines left out)") && detail.contains("scratch/out-7f3a.txt"),
            "{detail}"
        );
        for hostile in ["```<!channel>", "<", "&", "\n", "👍", "\0"] {
            let detail = tool_detail(&ToolReport {
                step: ToolStep {
                    name: hostile.repeat(9_000),
                    ..step(&hostile.repeat(9_000), &hostile.repeat(9_000))
                },
                ..report(&hostile.repeat(9_000))
            });
            assert!(
                text::utf16_len(&detail) <= MRKDWN_UNITS_MAX && !detail.contains('<'),
                "{detail}"
            );
        }
        let usage = Usage {
            output: 310,
            input: 300,
            cache_read: 3_900,
            cache_write: 0,
            cost: Some(Cost {
                input: 0.01,
                output: 0.001,
                ..Cost::default()
            }),
        };
        let mut usage = UsageReport {
            run: usage,
            context_tokens: 20_000,
            context_window: 1_000_000,
            cost_today: Some(0.42),
        };
        assert_eq!(
            format!("_{}_", usage.line()),
            "_4.2k in · 310 out · 3.9k cached · 2 % of 1M · $0.011 (today $0.42)_"
        );
        usage.run.cost = None;
        usage.run.cache_read = 0;
        usage.context_window = 0;
        assert_eq!(format!("_{}_", usage.line()), "_300 in · 310 out_");
    }
}
