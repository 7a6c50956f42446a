//! The details of a run: what its messages in the thread say. Each message is a plan with a
//! card for each tool call and grows by edits; when it is full a further one begins. At the
//! end come lines such as the usage. Where Slack takes no blocks, the same stands in text.
//! Pure: `display` makes the calls, `steps` says when.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::Value;

use super::blocks::{self, RichText, SentAs, Shown, StepStatus, words};
use super::markdown::{self, TEXT_UNITS_MAX};
use crate::agent::run::{ToolReport, ToolStep};
use crate::base::text;

/// Cards of one plan (Slack shows about 48).
pub(super) const CARDS_MAX: usize = 40;
/// Of a message's blocks, as JSON: beyond about 13,200 characters Slack refuses them.
pub(super) const BLOCKS_WEIGHT_MAX: usize = 11_000;
/// What each part of a card may cost; together they fit in one text.
const THOUGHT_COST_MAX: usize = 250;
const WORDS_COST_MAX: usize = 800;
const ARGUMENTS_COST_MAX: usize = 800;
const OUTPUT_COST_MAX: usize = 1_300;
const LABEL_COST_MAX: usize = 300;
/// Messages that wait for a slow Slack; the oldest give way.
const PAGES_MAX: usize = 40;

/// One message of details, as it is to be now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DetailsPage {
    pub(super) number: usize,
    pub(super) version: usize,
    /// `None`: to be posted.
    pub(super) ts: Option<String>,
    pub(super) shown: Shown,
}

pub(super) struct Details {
    sent_as: SentAs,
    /// Those that are not complete and posted; at least one.
    pages: VecDeque<Page>,
    /// Number of the next page.
    next: usize,
    /// What the model thought and wrote since the last call: it goes into the next card.
    thought: String,
    words: String,
}

#[derive(Default)]
struct Page {
    number: usize,
    ts: Option<String>,
    cards: Vec<Card>,
    notes: Vec<Note>,
    /// Counts the changes, and which of them Slack shows.
    version: usize,
    shown: usize,
}

/// Its texts are cut already.
struct Card {
    step: ToolStep,
    status: StepStatus,
    thought: String,
    words: String,
    output: String,
    took: Option<Duration>,
}

struct Note {
    block: Value,
    text: String,
}

impl Details {
    /// `earlier`: messages of details that an earlier try of the run has posted.
    pub(super) fn new(earlier: usize) -> Details {
        let page = Page {
            number: earlier,
            ..Page::default()
        };
        Details {
            sent_as: SentAs::Blocks,
            pages: VecDeque::from([page]),
            next: earlier + 1,
            thought: String::new(),
            words: String::new(),
        }
    }

    /// What the model thought and wrote in a turn that goes on with calls.
    pub(super) fn said(&mut self, thought: &str, words: &str) {
        for (all, more) in [(&mut self.thought, thought), (&mut self.words, words)] {
            *all = format!("{all}\n{}", more.trim()).trim().to_owned();
        }
    }

    pub(super) fn start(&mut self, step: ToolStep) {
        let thought = std::mem::take(&mut self.thought);
        let words = std::mem::take(&mut self.words);
        let card = Card {
            status: StepStatus::InProgress,
            thought: middle(&thought, THOUGHT_COST_MAX),
            words: middle(&words, WORDS_COST_MAX),
            output: String::new(),
            took: None,
            step: ToolStep {
                label: middle(&text::one_line(&step.label, 200), LABEL_COST_MAX),
                arguments: middle(&step.arguments, ARGUMENTS_COST_MAX),
                ..step
            },
        };
        self.push_card(card);
    }

    fn push_card(&mut self, card: Card) {
        let is_full = self.last_page().cards.len() >= CARDS_MAX;
        let page = match is_full {
            true => self.new_page(None),
            false => self.page_for(card.weight(self.sent_as) + card.reserve()),
        };
        page.cards.push(card);
        page.version += 1;
    }

    pub(super) fn end(&mut self, report: &ToolReport) {
        let number = report.step.number;
        for page in &mut self.pages {
            if let Some(card) = page
                .cards
                .iter_mut()
                .find(|card| card.step.number == number)
            {
                card.status = match report.is_error {
                    true => StepStatus::Error,
                    false => StepStatus::Complete,
                };
                card.took = Some(report.duration);
                card.output = match &report.diff {
                    Some(diff) => middle(diff, OUTPUT_COST_MAX),
                    None => last_lines(&report.result, OUTPUT_COST_MAX),
                };
                page.version += 1;
            }
        }
    }

    /// No call runs any more, however the run ended.
    pub(super) fn end_all(&mut self) {
        for page in &mut self.pages {
            for card in page.cards.iter_mut().filter(|card| !card.status.is_over()) {
                card.status = StepStatus::Error;
                "(stopped)".clone_into(&mut card.output);
                page.version += 1;
            }
        }
    }

    /// A line of mrkdwn of mom's own, of at most 3,000 characters.
    pub(super) fn note(&mut self, line: &str) {
        self.push_note(blocks::context(line), line.to_owned());
    }

    /// What the model wrote and no message shows otherwise.
    pub(super) fn keep_words(&mut self, words: &str) {
        self.said("", words);
        let words = std::mem::take(&mut self.words);
        if words.is_empty() {
            return;
        }
        for piece in markdown::pieces(&words) {
            for part in markdown::split(&piece.markdown, TEXT_UNITS_MAX / 2) {
                let text = markdown::mrkdwn(&part);
                self.push_note(blocks::markdown(&part), text);
            }
        }
    }

    fn push_note(&mut self, block: Value, text: String) {
        let note = Note { block, text };
        let page = self.page_for(note.weight(self.sent_as));
        page.notes.push(note);
        page.version += 1;
    }

    fn last_page(&mut self) -> &mut Page {
        if self.pages.is_empty() {
            self.new_page(None);
        }
        let last = self.pages.len() - 1;
        &mut self.pages[last]
    }

    /// The last page if it has room for this, else a new one.
    fn page_for(&mut self, weight: usize) -> &mut Page {
        let sent_as = self.sent_as;
        let page = self.last_page();
        let is_empty = page.cards.is_empty() && page.notes.is_empty();
        match is_empty || page.weight(sent_as) + weight <= limit(sent_as) {
            true => self.last_page(),
            false => self.new_page(None),
        }
    }

    fn new_page(&mut self, ts: Option<String>) -> &mut Page {
        if self.pages.len() == PAGES_MAX {
            // The rest of what it shows is lost; a line says so.
            let lost = self.pages.pop_front().map_or(0, |page| page.cards.len());
            let lost = text::count(lost, "step");
            let line = format!("_({lost} left out here: Slack was too slow)_");
            self.pages[0].notes.push(Note {
                block: blocks::context(&line),
                text: line,
            });
        }
        self.pages.push_back(Page {
            number: self.next,
            ts,
            ..Page::default()
        });
        self.next += 1;
        self.last_page()
    }

    /// The oldest message that does not show what it should.
    pub(super) fn changed(&self) -> Option<DetailsPage> {
        let page = self.pages.iter().find(|page| page.is_changed())?;
        Some(DetailsPage {
            number: page.number,
            version: page.version,
            ts: page.ts.clone(),
            shown: page.render(self.sent_as),
        })
    }

    pub(super) fn is_changed(&self) -> bool {
        self.pages.iter().any(Page::is_changed)
    }

    /// Slack shows this, or will never: then `ts` is `None`.
    pub(super) fn done(&mut self, done: &DetailsPage, ts: Option<String>) {
        if let Some(page) = self
            .pages
            .iter_mut()
            .find(|page| page.number == done.number)
        {
            page.shown = done.version;
            page.ts = ts;
        }
        let last = self.pages.back().map(|page| page.number);
        self.pages
            .retain(|page| Some(page.number) == last || page.is_changed() || !page.is_over());
    }

    /// From now on without blocks. What does not fit in the text of a message that has been
    /// posted goes into further ones.
    pub(super) fn go_on_in_text(&mut self) {
        if self.sent_as == SentAs::Text {
            return;
        }
        self.sent_as = SentAs::Text;
        for mut page in std::mem::take(&mut self.pages) {
            self.new_page(page.ts.take());
            for card in page.cards {
                self.push_card(card);
            }
            for note in page.notes {
                self.push_note(note.block, note.text);
            }
        }
    }

    pub(super) fn sent_as(&self) -> SentAs {
        self.sent_as
    }
}

fn limit(sent_as: SentAs) -> usize {
    match sent_as {
        SentAs::Blocks => BLOCKS_WEIGHT_MAX,
        SentAs::Text => TEXT_UNITS_MAX,
    }
}

impl Page {
    fn is_changed(&self) -> bool {
        self.version != self.shown
    }

    fn is_over(&self) -> bool {
        self.cards.iter().all(|card| card.status.is_over())
    }

    fn weight(&self, sent_as: SentAs) -> usize {
        let cards = self.cards.iter();
        let cards: usize = cards
            .map(|card| card.weight(sent_as) + card.reserve())
            .sum();
        let notes: usize = self.notes.iter().map(|note| note.weight(sent_as)).sum();
        cards + notes + 100
    }

    fn render(&self, sent_as: SentAs) -> Shown {
        let cards = self.cards.iter().map(|card| match sent_as {
            SentAs::Blocks => card.line(),
            SentAs::Text => card.text(),
        });
        let texts = cards.chain(self.notes.iter().map(|note| note.text.clone()));
        let text = texts.collect::<Vec<_>>().join("\n");
        let text = match sent_as {
            SentAs::Blocks => text::utf16_prefix(&text, TEXT_UNITS_MAX).to_owned(),
            SentAs::Text => text,
        };
        let mut out = Vec::new();
        if !self.cards.is_empty() {
            let count = text::count(self.cards.len(), "step");
            out.push(blocks::plan(
                &count,
                self.cards.iter().map(Card::block).collect(),
            ));
        }
        out.extend(self.notes.iter().map(|note| note.block.clone()));
        Shown {
            text,
            blocks: Value::Array(out),
        }
    }
}

impl Note {
    fn weight(&self, sent_as: SentAs) -> usize {
        match sent_as {
            SentAs::Blocks => blocks::weight(&self.block) + 1,
            SentAs::Text => text::utf16_len(&self.text) + 1,
        }
    }
}

impl Card {
    /// ` · 0.3 s` once it is over.
    fn time(&self) -> String {
        let took = self.took.map(text::duration);
        took.map_or_else(String::new, |took| format!(" · {took}"))
    }

    /// `Check disk usage · 0.3 s`, unfolded with arguments and output.
    fn block(&self) -> Value {
        let title = blocks::title(&self.step.label) + &self.time();
        let mut card = blocks::card(&self.step.number.to_string(), &title, self.status);
        let details = [
            (RichText::Italic, self.thought.as_str()),
            (RichText::Plain, &self.words),
            (RichText::Code, &self.step.arguments),
        ];
        let output = [(RichText::Code, self.output.as_str())];
        for (key, parts) in [("details", &details[..]), ("output", &output)] {
            if let Some(text) = blocks::rich_text(parts) {
                card[key] = text;
            }
        }
        card
    }

    /// `✓ *bash*  Check disk usage · 0.3 s`
    fn line(&self) -> String {
        let (name, label) = (words(&self.step.name, 30), words(&self.step.label, 200));
        let time = text::escape(&self.time());
        format!("{} *{name}*  {label}{time}", self.status.mark())
    }

    /// The line with arguments and output as code.
    fn text(&self) -> String {
        let mut out = String::new();
        if !self.thought.trim().is_empty() {
            out += &format!("_{}_\n", words(&self.thought, 200));
        }
        if !self.words.trim().is_empty() {
            out += &format!("{}\n", markdown::mrkdwn(&self.words));
        }
        out += &self.line();
        for code in [&self.step.arguments, &self.output] {
            if !code.trim().is_empty() {
                out += &format!("\n{}", text::code_block(code));
            }
        }
        out
    }

    fn weight(&self, sent_as: SentAs) -> usize {
        1 + match sent_as {
            SentAs::Blocks => blocks::weight(&self.block()),
            SentAs::Text => text::utf16_len(&self.text()),
        }
    }

    /// For the output that is still to come.
    fn reserve(&self) -> usize {
        match self.status.is_over() {
            true => 0,
            false => OUTPUT_COST_MAX + 150,
        }
    }
}

/// What a text takes in a message at most: escaped for mrkdwn, or as a JSON string.
fn cost(text: &str) -> usize {
    let of = |c: char| match c {
        '&' => 5,
        '<' | '>' => 4,
        '"' | '\\' | '\n' | '\t' | '`' => 2,
        c => c.len_utf16(),
    };
    text.chars().map(of).sum()
}

/// Plain text, head and end of it.
fn middle(text: &str, cost_max: usize) -> String {
    fit(text, cost_max, |text, max| {
        text::cut_middle(text, max).into_owned()
    })
}

/// Plain text, its end: how a command ended stands there.
fn last_lines(text: &str, cost_max: usize) -> String {
    fit(text, cost_max, |text, max| {
        let text = text.trim();
        let tail = text::utf16_suffix(text, max.saturating_sub(40));
        if tail.len() == text.len() {
            return text.to_owned();
        }
        let lines = tail.split_once('\n').map_or(tail, |(_, lines)| lines);
        let left_out = text[..text.len() - lines.len()].trim_end_matches('\n');
        let left_out = text::count(left_out.split('\n').count(), "line");
        format!("... ({left_out} left out)\n{lines}")
    })
}

fn fit(text: &str, cost_max: usize, cut: impl Fn(&str, usize) -> String) -> String {
    let text = text::printable(text);
    let mut max = cost_max;
    loop {
        let out = cut(&text, max);
        if cost(&out) <= cost_max || max == 0 {
            return out;
        }
        max = max * 3 / 4;
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn step(number: usize, label: &str, arguments: &str) -> ToolStep {
        ToolStep {
            number,
            name: "bash".into(),
            label: label.into(),
            arguments: arguments.into(),
        }
    }

    pub(in super::super) fn report(number: usize, result: &str) -> ToolReport {
        ToolReport {
            step: step(number, "Check disk usage", "df -h /srv"),
            result: result.into(),
            diff: None,
            is_error: false,
            duration: Duration::from_millis(312),
        }
    }

    fn call(details: &mut Details, number: usize, text: &str) {
        details.start(step(number, text, text));
        details.end(&report(number, text));
    }

    /// Shows everything as Slack would keep it: the newest content of each message.
    fn messages(details: &mut Details) -> Vec<Shown> {
        let mut shown: Vec<(String, Shown)> = Vec::new();
        while let Some(page) = details.changed() {
            let ts = page
                .ts
                .clone()
                .unwrap_or_else(|| format!("1.{}", shown.len()));
            shown.retain(|(known, _)| *known != ts);
            shown.push((ts.clone(), page.shown.clone()));
            details.done(&page, Some(ts));
        }
        shown.into_iter().map(|(_, shown)| shown).collect()
    }

    #[test]
    fn one_message_grows_until_it_is_full() {
        let mut details = Details::new(0);
        for number in 1..=3 {
            call(&mut details, number, "ls");
            let page = details.changed().unwrap();
            assert_eq!((page.number, page.ts.is_some()), (0, number > 1));
            assert_eq!(
                page.shown.blocks[0]["tasks"].as_array().unwrap().len(),
                number
            );
            details.done(&page, Some("1.0".into()));
        }
        let page = &details.pages[0];
        let text = page.render(SentAs::Text).text;
        assert!(
            text.starts_with("✓ *bash*  ls · 0.3 s\n```\nls\n```\n```\nls\n```\n✓"),
            "{text}"
        );
        details.note("_310 out_");
        let shown = &messages(&mut details)[0];
        assert!(
            shown.text.ends_with("✓ *bash*  ls · 0.3 s\n_310 out_"),
            "{}",
            shown.text
        );
        for number in 4..=100 {
            call(
                &mut details,
                number,
                "a command of some length, with <things> in it",
            );
        }
        let all = messages(&mut details);
        let cards = |shown: &Shown| shown.blocks[0]["tasks"].as_array().unwrap().len();
        assert_eq!(all.iter().map(cards).sum::<usize>(), 100);
        assert!(
            all.len() <= 6
                && all
                    .iter()
                    .all(|shown| blocks::weight(&shown.blocks) <= BLOCKS_WEIGHT_MAX)
        );
    }

    #[test]
    fn any_content_fits_in_blocks_and_in_text() {
        for hostile in [
            "```<!channel>",
            "<",
            "&",
            "\n",
            "👍",
            "\0",
            "\"",
            "\\",
            "`",
            "https://x.y ",
        ] {
            let mut details = Details::new(0);
            let long = hostile.repeat(9_000);
            details.said(&long, &long);
            for number in 1..=9 {
                call(&mut details, number, &long);
            }
            details.note("_end_");
            details.keep_words(&long);
            let mut seen = 0;
            for sent_as in [SentAs::Blocks, SentAs::Text] {
                if sent_as == SentAs::Text {
                    details.go_on_in_text();
                }
                while let Some(page) = details.changed() {
                    seen += page.shown.text.matches("*bash*").count();
                    let Shown { text, blocks } = &page.shown;
                    assert!(text::utf16_len(text) < 4_000, "{hostile:?}: {text}");
                    assert!(!text.contains("<!") && !text.is_empty(), "{text}");
                    assert!(sent_as == SentAs::Text || blocks::weight(blocks) <= BLOCKS_WEIGHT_MAX);
                    details.done(&page, Some("1.0".into()));
                }
            }
            assert!(seen >= 9, "{hostile:?}: {seen}");
        }
    }

    #[test]
    fn refused_blocks_come_again_as_text() {
        let mut details = Details::new(2);
        call(&mut details, 1, "first");
        let page = details.changed().unwrap();
        assert_eq!(page.number, 2);
        details.done(&page, Some("1.0".into()));
        for number in 2..=20 {
            call(
                &mut details,
                number,
                &format!("call {number} {}", "x".repeat(300)),
            );
        }
        details.go_on_in_text();
        assert_eq!(details.changed().unwrap().ts.as_deref(), Some("1.0"));
        let texts: Vec<String> = messages(&mut details)
            .into_iter()
            .map(|shown| shown.text)
            .collect();
        assert!(
            texts.len() > 3
                && texts
                    .iter()
                    .all(|text| text::utf16_len(text) <= TEXT_UNITS_MAX)
        );
        let whole = texts.join("\n");
        let at: Vec<usize> = (2..=20)
            .map(|n| whole.find(&format!("call {n} x")).unwrap())
            .collect();
        assert!(
            at.is_sorted() && whole.starts_with("✓ *bash*  first"),
            "{at:?}"
        );
    }

    #[test]
    fn output_is_shown_from_its_end_and_an_edit_by_its_diff() {
        let mut details = Details::new(0);
        let long = format!("{}Command exited with code 3", "line\n".repeat(2_000));
        details.said("", "I look.");
        details.start(step(1, "Try", "make"));
        let running = details.changed().unwrap().shown.blocks;
        assert_eq!(running[0]["tasks"][0]["title"], "Try");
        details.end(&ToolReport {
            is_error: true,
            ..report(1, &long)
        });
        details.start(step(2, "Mend", "x.rs"));
        details.end(&ToolReport {
            diff: Some("-1 a\n+1 b".into()),
            ..report(2, "Replaced the text in x.rs")
        });
        details.start(step(3, "Wait", "sleep 9"));
        details.end_all();
        let blocks = details.changed().unwrap().shown.blocks.to_string();
        for part in [
            "\"I look.\"",
            " lines left out)\\nline\\n",
            "exited with code 3",
            "\"-1 a\\n+1 b\"",
            "(stopped)",
        ] {
            assert!(blocks.contains(part), "{part}: {blocks}");
        }
        assert!(
            !blocks.contains("Replaced") && !blocks.contains("in_progress"),
            "{blocks}"
        );
    }
}
