//! The steps of a run so far, and how Slack shows them. One list of steps gives two messages: the
//! status (what mom does now, the model's text, a card for each step) and the details in the thread
//! (the same cards with arguments and output, then lines such as the usage). Pure: `display` makes
//! the calls and knows what Slack shows already.

use std::time::Duration;

use serde_json::Value;

use super::blocks::{self, SentAs, StepStatus, words};
use super::markdown::{self, TEXT_UNITS_MAX};
use super::web::PostContent;
use crate::agent::run::{ToolReport, ToolStep, Update};
use crate::base::text;

/// What goes on while the model works.
pub(super) const THINKING: &str = "Thinking";
/// Cards of one plan (Slack shows about 48).
const CARDS_MAX: usize = 40;
/// Limit in UTF-16 units for the text in the status that the model is writing.
const WRITING_UNITS_MAX: usize = 1_500;
/// Limit in bytes for that text in memory.
const WRITING_BYTES_MAX: usize = 64 << 10;
/// Weight limit of the blocks in one details message: Slack refuses more than about 13,200.
const BLOCKS_WEIGHT_MAX: usize = 11_000;
/// Weight limits of the parts of a card, as blocks and as text: a card fits in one text.
const WORDS_WEIGHT_MAX: usize = 700;
const ARGUMENTS_WEIGHT_MAX: usize = 1_000;
const OUTPUT_WEIGHT_MAX: usize = 1_500;
/// Limit in UTF-16 units for the Markdown of a note; as mrkdwn it gets longer.
const NOTE_UNITS_MAX: usize = 2_600;

pub(super) struct Progress {
    /// The status line before the first step: `Thinking`.
    head: String,
    /// Id of the run for the Stop button.
    run: String,
    /// In the order of their numbers.
    steps: Vec<Step>,
    /// The model's newest text, not made safe yet.
    writing: String,
    /// Whether `writing` is from a finished turn.
    writing_is_old: bool,
    /// The model's thinking and text of finished turns: becomes part of the next step.
    words: String,
    /// `Retrying (1/3)...`: shown until something else goes on.
    note: Option<String>,
    /// Safe Markdown at the end of the details.
    end_notes: Vec<String>,
    pub(super) stopping: bool,
}

/// Id, label and status, as the status message shows a step.
type Row = (String, String, StepStatus);

/// A tool call. Its texts are already cut to their limits.
struct Step {
    call: ToolStep,
    status: StepStatus,
    words: String,
    output: String,
    took: Option<Duration>,
    /// The message of details that shows it: it stays there, though it gets smaller once it is
    /// over and would fit an earlier one.
    shown_on: Option<(SentAs, usize)>,
}

impl Progress {
    pub(super) fn new(head: String, run: String) -> Progress {
        Progress {
            head,
            run,
            steps: Vec::new(),
            writing: String::new(),
            writing_is_old: false,
            words: String::new(),
            note: None,
            end_notes: Vec::new(),
            stopping: false,
        }
    }

    pub(super) fn apply(&mut self, update: Update) {
        self.note = None;
        match update {
            Update::TextDelta(delta) => {
                if std::mem::take(&mut self.writing_is_old) {
                    self.writing.clear();
                }
                self.writing.push_str(&delta);
                if self.writing.len() > WRITING_BYTES_MAX {
                    let kept = text::utf16_suffix(&self.writing, WRITING_BYTES_MAX / 8);
                    self.writing = kept.to_owned();
                }
            }
            Update::TurnEnd {
                text,
                thinking,
                more,
            } => {
                if more {
                    self.keep(&thinking);
                    self.keep(&text);
                }
                // The text is shown until new text replaces it.
                self.writing_is_old = true;
                self.writing = text;
            }
            Update::ToolWaiting(call) => drop(self.step(call)),
            Update::ToolStart(call) => self.step(call).status = StepStatus::InProgress,
            Update::ToolEnd(report) => self.step(report.step.clone()).end(&report),
            Update::Note(note) => self.note = Some(note),
            Update::Usage(usage) => self.end_note(format!("_{}_", usage.line())),
            // Done by the caller's thread, which adds a note.
            Update::Upload(_) => {}
        }
    }

    /// The step of this call; a new step gets the text that the model wrote before it.
    fn step(&mut self, call: ToolStep) -> &mut Step {
        let number = call.number;
        let at = self.steps.partition_point(|step| step.call.number < number);
        let known = self.steps.get(at).map(|step| step.call.number);
        if known != Some(number) {
            let words = std::mem::take(&mut self.words);
            self.steps.insert(at, Step::new(call, &words));
        }
        &mut self.steps[at]
    }

    fn keep(&mut self, words: &str) {
        self.words = format!("{}\n{}", self.words, words.trim());
    }

    /// For a run without an answer: moves what the model wrote into the details.
    pub(super) fn keep_writing(&mut self) {
        if !self.writing_is_old {
            self.keep(&self.writing.clone());
        }
        let words = markdown::safe(&std::mem::take(&mut self.words));
        let parts = markdown::split(&words, NOTE_UNITS_MAX, 0);
        self.end_notes.extend(parts);
    }

    /// A short text of safe Markdown.
    pub(super) fn end_note(&mut self, note: String) {
        self.end_notes.push(note);
    }

    /// Marks all steps as ended, however the run ended.
    pub(super) fn end_steps(&mut self) {
        let running = |step: &&mut Step| step.status == StepStatus::InProgress;
        for step in self.steps.iter_mut().filter(running) {
            step.status = StepStatus::Error;
            "(stopped)".clone_into(&mut step.output);
        }
    }

    /// What mom does now, in a few words of plain text.
    pub(super) fn now(&self) -> String {
        if let Some(note) = &self.note {
            return note.clone();
        }
        let with = |status| move |step: &&Step| step.status == status;
        let mut running = self.steps.iter().rev().filter(with(StepStatus::InProgress));
        if let Some(step) = running.next() {
            return match running.count() {
                0 => step.call.label.clone(),
                more => format!("{} (and {more} more)", step.call.label),
            };
        }
        match self.steps.iter().find(with(StepStatus::Pending)) {
            Some(step) => format!("Waiting: {}", step.call.label),
            None if self.steps.is_empty() => self.head.clone(),
            None => THINKING.to_owned(),
        }
    }

    /// `_Done: 12 steps, 1m 40s_`
    pub(super) fn done_line(&self, age: Duration) -> String {
        let begun = |step: &&Step| step.status != StepStatus::Pending;
        let time = text::duration(age);
        match self.steps.iter().filter(begun).count() {
            0 => format!("_Done: {time}_"),
            steps => format!("_Done: {}, {time}_", text::count(steps, "step")),
        }
    }

    /// The status message.
    pub(super) fn status(&self) -> PostContent {
        if self.stopping {
            return blocks::line("_Stopping..._");
        }
        let now = self.now();
        let writing = self.shown_writing();
        let rows = self.rows();
        let head = format!("_{}_ ...", words(&now, 120));
        let end = match writing.is_empty() {
            true => String::new(),
            false => format!("\n{}", markdown::mrkdwn(&writing)),
        };
        let line = |(_, label, status): &Row| format!("\n{} {}", status.mark(), words(label, 60));
        let lines: String = rows.iter().map(line).collect();
        let room = TEXT_UNITS_MAX - text::utf16_len(&head) - text::utf16_len(&end);
        let newest = last_lines(&lines, room.saturating_sub(50));
        let gap = if newest.is_empty() { "" } else { "\n" };
        let mut blocks = Vec::new();
        if !writing.is_empty() {
            blocks.push(blocks::markdown(&writing));
        } else if rows.is_empty() {
            blocks.push(blocks::markdown(&head));
        }
        if !rows.is_empty() {
            let cards = rows.iter();
            let cards = cards.map(|(id, label, status)| blocks::card(id, label, *status));
            blocks.push(blocks::plan(&now, cards.collect()));
        }
        blocks.push(blocks::stop_button(&self.run));
        PostContent::blocks(&(head + gap + &newest + &end), &blocks.into())
    }

    fn shown_writing(&self) -> String {
        // A silent answer must not appear in the channel, not even its beginning.
        const SILENT: &str = "[SILENT]";
        let start = self.writing.trim();
        if start.starts_with(SILENT) || SILENT.starts_with(start) {
            return String::new();
        }
        let tail = markdown::tail(&self.writing, WRITING_UNITS_MAX);
        match self.writing_is_old {
            true => tail,
            false => tail + "▌",
        }
    }

    /// The rows of the status, at most `CARDS_MAX`. The first row may represent the oldest
    /// finished steps, and the last row steps that are still waiting.
    fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        let over_max = match self.steps.len() > CARDS_MAX {
            true => self.steps.len() + 1 - CARDS_MAX,
            false => 0,
        };
        let (mut folded, mut folded_status) = (0, StepStatus::Complete);
        for step in &self.steps {
            let (label, status) = (step.call.label.clone(), step.status);
            if folded < over_max && status.is_over() {
                folded += 1;
                if status == StepStatus::Error {
                    folded_status = status;
                }
            } else {
                rows.push((step.call.number.to_string(), label, status));
            }
        }
        if folded > 0 {
            let label = text::count(folded, "earlier step");
            rows.insert(0, ("earlier".to_owned(), label, folded_status));
        }
        if rows.len() > CARDS_MAX {
            let count = rows.len() + 1 - CARDS_MAX;
            fold_waiting(&mut rows, count);
        }
        rows
    }

    /// The details, in as few messages as their limits and what is shown already allow.
    pub(super) fn details(&self, sent_as: SentAs) -> Vec<DetailsPage> {
        let mut pages: Vec<Page<'_>> = Vec::new();
        let (shown, new): (Vec<&Step>, Vec<&Step>) = (self.steps.iter())
            .filter(|step| step.status != StepStatus::Pending)
            .partition(|step| step.page(sent_as).is_some());
        for step in shown {
            let number = step.page(sent_as).unwrap_or_default();
            if pages.len() <= number {
                pages.resize_with(number + 1, Page::default);
            }
            pages[number].add(step, sent_as);
        }
        for step in new {
            page_for(&mut pages, step.weight(sent_as), sent_as).add(step, sent_as);
        }
        for note in &self.end_notes {
            let weight = blocks::weight(&blocks::markdown(note));
            let page = page_for(&mut pages, weight, sent_as);
            page.weight += weight;
            page.notes.push(note);
        }
        let mut all = Vec::new();
        for (number, page) in pages.iter().enumerate() {
            all.push(DetailsPage {
                number,
                steps: page.steps.iter().map(|step| step.call.number).collect(),
                content: page.content(sent_as),
            });
        }
        all
    }

    /// Remembers that this page was sent to Slack, so that its steps stay on it.
    pub(super) fn details_shown(&mut self, page: &DetailsPage, sent_as: SentAs) {
        for step in &mut self.steps {
            if page.steps.contains(&step.call.number) {
                step.shown_on = Some((sent_as, page.number));
            }
        }
    }
}

/// Replaces the last `count` waiting steps by one row at the end.
fn fold_waiting(rows: &mut Vec<Row>, count: usize) {
    let mut folded = 0;
    for at in (0..rows.len()).rev() {
        if folded < count && rows[at].2 == StepStatus::Pending {
            rows.remove(at);
            folded += 1;
        }
    }
    let label = format!("{folded} more");
    rows.push(("more".to_owned(), label, StepStatus::Pending));
}

/// One message of the details.
#[derive(Clone)]
pub(super) struct DetailsPage {
    pub(super) number: usize,
    /// Numbers of the steps it shows.
    steps: Vec<usize>,
    pub(super) content: PostContent,
}

/// The content of one details message.
#[derive(Default)]
struct Page<'a> {
    /// By number.
    steps: Vec<&'a Step>,
    notes: Vec<&'a str>,
    weight: usize,
}

/// The last page if it has room for this, else a new page.
fn page_for<'p, 'a>(
    pages: &'p mut Vec<Page<'a>>,
    weight: usize,
    sent_as: SentAs,
) -> &'p mut Page<'a> {
    let weight_max = match sent_as {
        SentAs::Blocks => BLOCKS_WEIGHT_MAX - 100,
        SentAs::Text => TEXT_UNITS_MAX,
    };
    let has_room =
        |page: &Page<'_>| page.weight + weight <= weight_max && page.steps.len() < CARDS_MAX;
    if !pages.last().is_some_and(has_room) {
        pages.push(Page::default());
    }
    let last = pages.len() - 1;
    &mut pages[last]
}

impl<'a> Page<'a> {
    fn add(&mut self, step: &'a Step, sent_as: SentAs) {
        self.weight += step.weight(sent_as);
        let before = |other: &&Step| other.call.number < step.call.number;
        let at = self.steps.partition_point(before);
        self.steps.insert(at, step);
    }

    fn content(&self, sent_as: SentAs) -> PostContent {
        let of_step = match sent_as {
            SentAs::Blocks => Step::line,
            SentAs::Text => Step::text,
        };
        let steps = self.steps.iter().map(|step| of_step(step));
        let notes = self.notes.iter().map(|note| markdown::mrkdwn(note));
        let text = steps.chain(notes).collect::<Vec<_>>().join("\n");
        let text = text::utf16_prefix(&text, TEXT_UNITS_MAX);
        if sent_as == SentAs::Text {
            return PostContent::plain(text);
        }
        let mut blocks = Vec::new();
        if !self.steps.is_empty() {
            let cards: Vec<Value> = self.steps.iter().map(|step| step.block()).collect();
            blocks.push(blocks::plan(&text::count(cards.len(), "step"), cards));
        }
        blocks.extend(self.notes.iter().map(|note| blocks::markdown(note)));
        PostContent::blocks(text, &blocks.into())
    }
}

impl Step {
    fn new(call: ToolStep, words: &str) -> Step {
        Step {
            status: StepStatus::Pending,
            words: fit(words.trim(), WORDS_WEIGHT_MAX, middle),
            output: String::new(),
            took: None,
            shown_on: None,
            call: ToolStep {
                label: text::one_line(&call.label, blocks::TITLE_CHARS_MAX),
                arguments: fit(&call.arguments, ARGUMENTS_WEIGHT_MAX, middle),
                ..call
            },
        }
    }

    fn end(&mut self, report: &ToolReport) {
        self.status = StepStatus::of(report);
        self.took = Some(report.duration);
        self.output = match &report.diff {
            Some(diff) => fit(diff, OUTPUT_WEIGHT_MAX, middle),
            None => fit(&report.result, OUTPUT_WEIGHT_MAX, last_lines),
        };
    }

    /// The page of the details that shows this step. Pages of blocks and pages of text are
    /// divided differently.
    fn page(&self, sent_as: SentAs) -> Option<usize> {
        let shown_on = self.shown_on.filter(|(shown_as, _)| *shown_as == sent_as);
        shown_on.map(|(_, page)| page)
    }

    /// The weight of the step on a page. A step that is not over reserves room for its output.
    fn weight(&self, sent_as: SentAs) -> usize {
        let output = match self.status.is_over() {
            true => 0,
            false => OUTPUT_WEIGHT_MAX + 150,
        };
        output
            + match sent_as {
                SentAs::Blocks => blocks::weight(&self.block()),
                SentAs::Text => text::utf16_len(&self.text()),
            }
    }

    /// `Check disk usage · 0.3 s`; without a time while it runs.
    fn title(&self) -> String {
        match self.took {
            Some(took) => format!("{} · {}", self.call.label, text::duration(took)),
            None => self.call.label.clone(),
        }
    }

    /// The card of the step. A reader who opens the card sees arguments and output.
    fn block(&self) -> Value {
        let number = self.call.number.to_string();
        let mut card = blocks::card(&number, &self.title(), self.status);
        let details = [
            (blocks::PLAIN, self.words.as_str()),
            (blocks::CODE, &self.call.arguments),
        ];
        let output = [(blocks::CODE, self.output.as_str())];
        for (key, parts) in [("details", &details[..]), ("output", &output)] {
            if let Some(text) = blocks::rich_text(parts) {
                card[key] = text;
            }
        }
        card
    }

    /// `✓ *bash*  Check disk usage · 0.3 s`
    fn line(&self) -> String {
        let (name, title) = (words(&self.call.name, 30), words(&self.title(), 200));
        format!("{} *{name}*  {title}", self.status.mark())
    }

    /// The line with arguments and output as code.
    fn text(&self) -> String {
        let written = text::escape(&self.words);
        let mut out = format!("{}\n{}", text::fence_safe(&written), self.line());
        for code in [&self.call.arguments, &self.output] {
            if !code.trim().is_empty() {
                out += &format!("\n{}", text::code_block(code));
            }
        }
        out.trim().to_owned()
    }
}

/// Cuts plain text to a weight that holds both in blocks and as escaped text.
fn fit(text: &str, weight_max: usize, cut: fn(&str, usize) -> String) -> String {
    let text = text::printable(text);
    let mut units_max = weight_max;
    loop {
        let out = cut(&text, units_max);
        let escaped = text::utf16_len(&text::code_block(&out));
        let weight = blocks::weight(&Value::from(out.as_str())).max(escaped);
        if weight <= weight_max || units_max == 0 {
            return out;
        }
        units_max = units_max * 3 / 4;
    }
}

fn middle(text: &str, units_max: usize) -> String {
    text::cut_middle(text, units_max).into_owned()
}

/// The end, which shows how a command ended.
fn last_lines(text: &str, units_max: usize) -> String {
    let text = text.trim();
    let tail = text::utf16_suffix(text, units_max);
    if tail.len() == text.len() {
        return text.to_owned();
    }
    let lines = tail.split_once('\n').map_or(tail, |(_, lines)| lines);
    let left_out = text[..text.len() - lines.len()].trim_end_matches('\n');
    let left_out = text::count(left_out.split('\n').count(), "line");
    format!("... ({left_out} left out)\n{lines}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: [&str; 9] = ["```<!channel>", "<", "&", "\n", "👍", "\0", "\"", "\\", "`"];

    fn progress() -> Progress {
        Progress::new("Thinking".into(), "1.0".into())
    }

    fn call(number: usize, label: &str, arguments: &str) -> ToolStep {
        ToolStep {
            number,
            name: "bash".into(),
            label: label.into(),
            arguments: arguments.into(),
        }
    }

    fn report(number: usize, result: &str) -> ToolReport {
        ToolReport {
            step: call(number, "", ""),
            result: result.into(),
            diff: None,
            is_error: false,
            duration: Duration::from_millis(312),
        }
    }

    /// Adds a finished call with this text as label, arguments and output.
    fn calls(progress: &mut Progress, number: usize, text: &str) {
        progress.apply(Update::ToolStart(call(number, text, text)));
        progress.apply(Update::ToolEnd(report(number, text)));
    }

    fn writes(progress: &mut Progress, text: &str) {
        progress.apply(Update::TurnEnd {
            text: text.into(),
            thinking: String::new(),
            more: true,
        });
    }

    fn blocks_of(content: &PostContent) -> Value {
        serde_json::from_str(content.blocks.as_ref().unwrap()).unwrap()
    }

    fn cards(plan: &Value) -> &[Value] {
        plan["tasks"].as_array().unwrap()
    }

    #[test]
    fn the_status_stays_small_and_names_the_newest() {
        let mut progress = progress();
        for n in 1..=100 {
            let label = format!("step {n} <!channel>\n{}", "ä&\"".repeat(100));
            progress.apply(Update::ToolStart(call(n, &label, "")));
            if n < 98 {
                progress.apply(Update::ToolEnd(report(n, "x")));
            }
        }
        let shown = progress.status();
        assert!(
            shown.text.contains(" lines left out)\n✓ step"),
            "{}",
            shown.text
        );
        let plan = &blocks_of(&shown)[0];
        assert_eq!(cards(plan).len(), CARDS_MAX);
        assert_eq!(cards(plan)[0]["title"], "61 earlier steps");
        let title = plan["title"].as_str().unwrap();
        assert!(title.starts_with("step 100 <\u{200B}!channel>"), "{title}");
        progress.apply(Update::TextDelta("**Most** of ".into()));
        progress.apply(Update::TextDelta("it <!here>".into()));
        let shown = progress.status();
        assert_eq!(blocks_of(&shown)[0]["text"], "**Most** of it &lt;!here>▌");
        let end = "\n**Most** of it &lt;!here&gt;▌";
        assert!(shown.text.ends_with(end), "{}", shown.text);
        for hostile in HOSTILE {
            progress.writing.clear();
            progress.apply(Update::TextDelta(hostile.repeat(200_000)));
            assert!(progress.writing.len() <= WRITING_BYTES_MAX);
            let shown = progress.status();
            let fits = text::utf16_len(&shown.text) <= TEXT_UNITS_MAX;
            assert!(
                fits && blocks::weight(&blocks_of(&shown)) <= 13_000,
                "{hostile}"
            );
        }
    }

    #[test]
    fn the_oldest_that_are_over_are_folded_wherever_they_are() {
        let mut progress = progress();
        for n in 1..=60 {
            progress.apply(Update::ToolStart(call(n, &format!("step {n}"), "")));
            if n != 1 && n != 60 {
                let is_error = n == 3;
                let report = report(n, "");
                progress.apply(Update::ToolEnd(ToolReport { is_error, ..report }));
            }
        }
        let rows = progress.rows();
        let earlier = "21 earlier steps".to_owned();
        assert_eq!(rows[0], ("earlier".into(), earlier, StepStatus::Error));
        let shown: Vec<usize> = rows[1..].iter().map(|row| row.0.parse().unwrap()).collect();
        let want: Vec<usize> = std::iter::once(1).chain(23..=60).collect();
        assert_eq!(shown, want);
        for n in 61..=100 {
            progress.apply(Update::ToolWaiting(call(n, &format!("step {n}"), "")));
        }
        let rows = progress.rows();
        assert_eq!((rows.len(), rows[0].1.as_str()), (40, "58 earlier steps"));
        assert_eq!(
            (rows[1].1.as_str(), rows[2].1.as_str()),
            ("step 1", "step 60")
        );
        assert_eq!(
            rows[39],
            ("more".into(), "4 more".into(), StepStatus::Pending)
        );
        assert_eq!(rows[38].1, "step 96");
    }

    #[test]
    fn a_step_stays_in_the_message_that_shows_it() {
        for sent_as in [SentAs::Blocks, SentAs::Text] {
            let mut progress = progress();
            for n in 1..=6 {
                progress.apply(Update::ToolStart(call(n, "Call", "sleep 9")));
            }
            let running = progress.details(sent_as);
            assert!(running.len() > 1);
            let steps = |pages: &[DetailsPage]| -> Vec<Vec<usize>> {
                pages.iter().map(|page| page.steps.clone()).collect()
            };
            for page in &running {
                progress.details_shown(page, sent_as);
            }
            for n in 1..=6 {
                progress.apply(Update::ToolEnd(report(n, "")));
            }
            assert_eq!(steps(&progress.details(sent_as)), steps(&running));
            // Unless it was never shown.
            for step in &mut progress.steps {
                step.shown_on = None;
            }
            assert_eq!(progress.details(sent_as).len(), 1);
        }
    }

    #[test]
    fn what_goes_on_now() {
        type Act = fn(&mut Progress);
        let steps: [(Act, &str); 8] = [
            (|_| {}, "_Starting_ ..."),
            (
                |p| p.apply(Update::TextDelta("[SIL".into())),
                "_Starting_ ...",
            ),
            (
                |p| p.apply(Update::TextDelta("K".into())),
                "_Starting_ ...\n[SILK▌",
            ),
            (|p| writes(p, "I look."), "_Starting_ ...\nI look."),
            (
                |p| p.apply(Update::ToolWaiting(call(1, "Look", ""))),
                "_Waiting: Look_ ...\n○ Look\nI look.",
            ),
            (
                |p| p.apply(Update::ToolStart(call(1, "Look", ""))),
                "_Look_ ...\n→ Look\nI look.",
            ),
            (
                |p| p.apply(Update::Note("Retrying (1/3)...".into())),
                "_Retrying (1/3)..._ ...\n→ Look\nI look.",
            ),
            (
                |p| p.apply(Update::ToolEnd(report(1, ""))),
                "_Thinking_ ...\n✓ Look\nI look.",
            ),
        ];
        let mut progress = progress();
        progress.head = "Starting".into();
        for (act, want) in steps {
            act(&mut progress);
            assert_eq!(progress.status().text, want);
        }
        assert_eq!(
            progress.done_line(Duration::from_secs(100)),
            "_Done: 1 step, 1m 40s_"
        );
        progress.stopping = true;
        assert_eq!(progress.status().text, "_Stopping..._");
    }

    #[test]
    fn any_content_fits_and_is_dead() {
        for hostile in HOSTILE {
            let mut progress = progress();
            let long = hostile.repeat(9_000);
            writes(&mut progress, &long);
            for number in 1..=9 {
                calls(&mut progress, number, &long);
            }
            writes(&mut progress, &long);
            progress.keep_writing();
            for sent_as in [SentAs::Blocks, SentAs::Text] {
                let all = progress.details(sent_as);
                let calls = all
                    .iter()
                    .map(|page| page.content.text.matches("*bash*").count());
                assert_eq!(calls.sum::<usize>(), 9, "{hostile:?}");
                for DetailsPage { content, .. } in all {
                    let text = &content.text;
                    let units = content.blocks.as_deref().map_or(0, text::utf16_len);
                    assert!(
                        text::utf16_len(text) < 4_000 && !text.contains("<!"),
                        "{text}"
                    );
                    assert!(units <= BLOCKS_WEIGHT_MAX, "{hostile:?}");
                }
            }
        }
    }

    #[test]
    fn output_is_shown_from_its_end_and_an_edit_by_its_diff() {
        let mut progress = progress();
        let long = format!("{}Command exited with code 3", "line\n".repeat(2_000));
        writes(&mut progress, "I look.");
        progress.apply(Update::ToolStart(call(1, "Try", "make")));
        let running = blocks_of(&progress.details(SentAs::Blocks)[0].content);
        assert_eq!(cards(&running[0])[0]["title"], "Try");
        progress.apply(Update::ToolEnd(ToolReport {
            is_error: true,
            ..report(1, &long)
        }));
        progress.apply(Update::ToolStart(call(2, "Mend", "x.rs")));
        progress.apply(Update::ToolEnd(ToolReport {
            diff: Some("-1 a\n+1 b".into()),
            ..report(2, "Replaced the text in x.rs")
        }));
        progress.apply(Update::ToolStart(call(3, "Wait", "sleep 9")));
        progress.end_steps();
        let blocks = progress.details(SentAs::Blocks)[0].content.blocks.clone();
        let blocks = blocks.unwrap();
        for part in [
            "\"I look.\"",
            " lines left out)\\nline\\n",
            "exited with code 3",
            "\"-1 a\\n+1 b\"",
            "(stopped)",
        ] {
            assert!(blocks.contains(part), "{part}: {blocks}");
        }
        let none = ["Replaced", "in_progress"];
        assert!(none.iter().all(|part| !blocks.contains(part)), "{blocks}");
    }
}
