//! The details of a run: what its messages in the thread say. Each message is a plan with a
//! card for each tool call and grows by edits; when it is full a further one begins. At the
//! end come lines such as the usage. Where Slack takes no blocks, the same goes into as many
//! texts as it needs. Pure: `display` makes the calls, `steps` says when.

use std::collections::VecDeque;
use std::time::Duration;

use serde_json::{Value, json};

use super::blocks::{self, RichText, SentAs, SlackText, StepStatus, words};
use super::markdown::{self, TEXT_UNITS_MAX};
use crate::agent::run::{ToolReport, ToolStep};
use crate::base::text;

/// Cards of one plan (Slack shows about 48).
pub(super) const CARDS_MAX: usize = 40;
/// Of a message's blocks, as JSON: beyond about 13,200 characters Slack refuses them.
pub(super) const BLOCKS_WEIGHT_MAX: usize = 11_000;
/// What the parts of a card weigh at most.
const WORDS_WEIGHT_MAX: usize = 1_000;
const ARGUMENTS_WEIGHT_MAX: usize = 1_000;
const OUTPUT_WEIGHT_MAX: usize = 1_500;
/// Plans that wait for a slow Slack; the oldest give way.
const PAGES_MAX: usize = 20;

/// One message of details, as it is to be now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct DetailsMessage {
    page: usize,
    /// Of the page's texts; 0 for its blocks.
    part: usize,
    /// `None`: to be posted.
    pub(super) ts: Option<String>,
    pub(super) shown: SlackText,
}

pub(super) struct Details {
    pub(super) sent_as: SentAs,
    /// Those that are not complete and posted, and the last.
    pages: VecDeque<Page>,
    /// Pages so far.
    count: usize,
    /// What the model thought and wrote since the last call: it goes into the next card.
    words: String,
}

#[derive(Default)]
struct Page {
    number: usize,
    cards: Vec<Card>,
    /// Safe Markdown.
    notes: Vec<String>,
    /// What Slack shows of it: one message, or several texts. Without a ts: it shows none.
    messages: Vec<(Option<String>, SlackText)>,
}

/// Its texts are cut already.
struct Card {
    step: ToolStep,
    status: StepStatus,
    words: String,
    output: String,
    took: Option<Duration>,
}

impl Details {
    pub(super) fn new() -> Details {
        Details {
            sent_as: SentAs::Blocks,
            pages: VecDeque::from([Page::default()]),
            count: 1,
            words: String::new(),
        }
    }

    /// What the model thought and wrote in a turn that goes on.
    pub(super) fn said(&mut self, thought: &str, words: &str) {
        for more in [thought.trim(), words.trim()] {
            self.words = format!("{}\n{more}", self.words).trim().to_owned();
        }
    }

    pub(super) fn start(&mut self, step: ToolStep) {
        let words = std::mem::take(&mut self.words);
        let card = Card {
            status: StepStatus::InProgress,
            words: fit(&words, WORDS_WEIGHT_MAX, middle),
            output: String::new(),
            took: None,
            step: ToolStep {
                arguments: fit(&step.arguments, ARGUMENTS_WEIGHT_MAX, middle),
                ..step
            },
        };
        let page = self.page_for(card.weight());
        page.cards.push(card);
    }

    pub(super) fn end(&mut self, report: &ToolReport) {
        let mut cards = self.pages.iter().flat_map(|page| &page.cards);
        if !cards.any(|card| card.step.number == report.step.number) {
            // It was denied before it began.
            self.start(report.step.clone());
        }
        let cards = self.pages.iter_mut().flat_map(|page| &mut page.cards);
        for card in cards.filter(|card| card.step.number == report.step.number) {
            card.status = StepStatus::of(report);
            card.took = Some(report.duration);
            card.output = match &report.diff {
                Some(diff) => fit(diff, OUTPUT_WEIGHT_MAX, middle),
                None => fit(&report.result, OUTPUT_WEIGHT_MAX, last_lines),
            };
        }
    }

    /// No call runs any more, however the run ended.
    pub(super) fn end_all(&mut self) {
        let cards = self.pages.iter_mut().flat_map(|page| &mut page.cards);
        for card in cards.filter(|card| !card.status.is_over()) {
            card.status = StepStatus::Error;
            "(stopped)".clone_into(&mut card.output);
        }
    }

    /// A short text of safe Markdown.
    pub(super) fn note(&mut self, note: String) {
        let weight = note_weight(&note);
        self.page_for(weight).notes.push(note);
    }

    /// What the model wrote and no message shows otherwise.
    pub(super) fn keep_words(&mut self, words: &str) {
        self.said("", words);
        let words = markdown::safe(&std::mem::take(&mut self.words));
        for part in markdown::split(&words, TEXT_UNITS_MAX, 0) {
            self.note(part);
        }
    }

    /// The last page if it has room for this, else a new one.
    fn page_for(&mut self, weight: usize) -> &mut Page {
        let is_full = self.pages.back().is_none_or(|page| {
            let is_empty = page.cards.is_empty() && page.notes.is_empty();
            let is_over = page.weight() + weight > BLOCKS_WEIGHT_MAX;
            !is_empty && (is_over || page.cards.len() == CARDS_MAX)
        });
        if is_full {
            if self.pages.len() == PAGES_MAX {
                let lost = self.pages.pop_front().map_or(0, |page| page.cards.len());
                let lost = text::count(lost, "step");
                let note = format!("_({lost} left out here: Slack was too slow)_");
                self.pages[0].notes.push(note);
            }
            self.pages.push_back(Page {
                number: self.count,
                ..Page::default()
            });
            self.count += 1;
        }
        let last = self.pages.len() - 1;
        &mut self.pages[last]
    }

    /// The oldest message that does not show what it should.
    pub(super) fn next(&self) -> Option<DetailsMessage> {
        self.pages.iter().find_map(|page| page.next(self.sent_as))
    }

    /// Slack shows this, or refuses it: then `ts` is `None`.
    pub(super) fn done(&mut self, done: &DetailsMessage, ts: Option<String>) {
        let page = self.pages.iter_mut().find(|page| page.number == done.page);
        if let Some(page) = page {
            match page.messages.get_mut(done.part) {
                Some(message) => *message = (ts, done.shown.clone()),
                None => page.messages.push((ts, done.shown.clone())),
            }
        }
        let (last, sent_as) = (self.count - 1, self.sent_as);
        self.pages
            .retain(|page| page.number == last || !page.is_over() || page.next(sent_as).is_some());
    }
}

impl Page {
    fn is_over(&self) -> bool {
        self.cards.iter().all(|card| card.status.is_over())
    }

    fn weight(&self) -> usize {
        let cards: usize = self.cards.iter().map(Card::weight).sum();
        let notes = self.notes.iter().map(|note| note_weight(note));
        cards + notes.sum::<usize>() + 100
    }

    fn next(&self, sent_as: SentAs) -> Option<DetailsMessage> {
        let all = match sent_as {
            SentAs::Blocks => Vec::from_iter(self.blocks()),
            SentAs::Text => self.texts(),
        };
        let mut all = all.into_iter().enumerate();
        let (part, shown) = all.find(|(part, shown)| {
            let existing = self.messages.get(*part);
            existing.is_none_or(|(_, existing)| existing != shown)
        })?;
        Some(DetailsMessage {
            page: self.number,
            part,
            ts: self.messages.get(part).and_then(|(ts, _)| ts.clone()),
            shown,
        })
    }

    fn blocks(&self) -> Option<SlackText> {
        let mut out = Vec::new();
        if !self.cards.is_empty() {
            let cards: Vec<Value> = self.cards.iter().map(Card::block).collect();
            out.push(blocks::plan(&text::count(cards.len(), "step"), cards));
        }
        out.extend(self.notes.iter().map(|note| blocks::markdown(note)));
        let lines = self.cards.iter().map(Card::line);
        let lines = lines.chain(self.notes.iter().map(|note| markdown::mrkdwn(note)));
        let text = lines.collect::<Vec<_>>().join("\n");
        (!out.is_empty()).then(|| SlackText {
            text: text::utf16_prefix(&text, TEXT_UNITS_MAX).to_owned(),
            blocks: out.into(),
        })
    }

    fn texts(&self) -> Vec<SlackText> {
        let texts = self.cards.iter().map(Card::text);
        let texts = texts.chain(self.notes.iter().map(|note| markdown::mrkdwn(note)));
        let all = texts.collect::<Vec<_>>().join("\n");
        let texts = markdown::split(&all, TEXT_UNITS_MAX, 0).into_iter();
        let shown = texts.map(|text| SlackText {
            text,
            blocks: json!([]),
        });
        shown.collect()
    }
}

impl Card {
    /// With room for the output that is still to come.
    fn weight(&self) -> usize {
        let output = match self.status.is_over() {
            true => 0,
            false => OUTPUT_WEIGHT_MAX + 150,
        };
        blocks::weight(&self.block()) + output
    }

    /// `Check disk usage · 0.3 s`; without a time while it runs.
    fn title(&self) -> String {
        let took = self.took.map(text::duration);
        let took = took.map_or(String::new(), |took| format!(" · {took}"));
        text::one_line(&self.step.label, blocks::TITLE_CHARS_MAX) + &took
    }

    /// Unfolded it shows arguments and output.
    fn block(&self) -> Value {
        let number = self.step.number.to_string();
        let mut card = blocks::card(&number, &self.title(), self.status);
        let details = [
            (RichText::Plain, self.words.as_str()),
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
        let (name, title) = (words(&self.step.name, 30), words(&self.title(), 200));
        format!("{} *{name}*  {title}", self.status.mark())
    }

    /// The line with arguments and output as code.
    fn text(&self) -> String {
        let said = text::escape(&self.words);
        let mut out = format!("{}\n{}", text::fence_safe(&said), self.line());
        for code in [&self.step.arguments, &self.output] {
            if !code.trim().is_empty() {
                out += &format!("\n{}", text::code_block(code));
            }
        }
        out.trim().to_owned()
    }
}

fn note_weight(note: &str) -> usize {
    blocks::weight(&blocks::markdown(note))
}

/// Plain text that weighs at most so much in JSON.
fn fit(text: &str, weight_max: usize, cut: fn(&str, usize) -> String) -> String {
    let text = text::printable(text);
    let mut units_max = weight_max;
    loop {
        let out = cut(&text, units_max);
        if blocks::weight(&json!(out)) <= weight_max || units_max == 0 {
            return out;
        }
        units_max = units_max * 3 / 4;
    }
}

fn middle(text: &str, units_max: usize) -> String {
    text::cut_middle(text, units_max).into_owned()
}

/// The end: how a command ended stands there.
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
pub(crate) mod tests {
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
    fn messages(details: &mut Details) -> Vec<SlackText> {
        let mut shown: Vec<SlackText> = Vec::new();
        while let Some(message) = details.next() {
            let at = message
                .ts
                .as_ref()
                .map_or(shown.len(), |ts| ts.parse().unwrap());
            shown.truncate(shown.len().max(at));
            match shown.get_mut(at) {
                Some(earlier) => *earlier = message.shown.clone(),
                None => shown.push(message.shown.clone()),
            }
            details.done(&message, Some(at.to_string()));
        }
        shown
    }

    #[test]
    fn one_message_grows_until_it_is_full() {
        let mut details = Details::new();
        for number in 1..=3 {
            call(&mut details, number, "ls");
            let message = details.next().unwrap();
            assert_eq!(message.ts.is_some(), number > 1);
            let cards = message.shown.blocks[0]["tasks"].as_array().unwrap();
            assert_eq!(cards.len(), number);
            details.done(&message, Some("0".into()));
        }
        details.note("_310 out_".into());
        let text = &details.next().unwrap().shown.text;
        assert!(text.ends_with("✓ *bash*  ls · 0.3 s\n_310 out_"), "{text}");
        let mut details = Details::new();
        for number in 1..=100 {
            call(
                &mut details,
                number,
                "a command of some length, with <things> in it",
            );
        }
        let all = messages(&mut details);
        let cards = |shown: &SlackText| shown.blocks[0]["tasks"].as_array().unwrap().len();
        assert_eq!(all.iter().map(cards).sum::<usize>(), 100);
        assert!(all.len() <= 6, "{}", all.len());
    }

    #[test]
    fn any_content_fits_and_is_dead() {
        for hostile in ["```<!channel>", "<", "&", "\n", "👍", "\0", "\"", "\\", "`"] {
            let mut details = Details::new();
            let long = hostile.repeat(9_000);
            details.said(&long, &long);
            for number in 1..=9 {
                call(&mut details, number, &long);
            }
            details.keep_words(&long);
            for sent_as in [SentAs::Blocks, SentAs::Text] {
                details.sent_as = sent_as;
                let all: Vec<SlackText> = details
                    .pages
                    .iter()
                    .flat_map(|page| match sent_as {
                        SentAs::Blocks => Vec::from_iter(page.blocks()),
                        SentAs::Text => page.texts(),
                    })
                    .collect();
                let seen: usize = all
                    .iter()
                    .map(|shown| shown.text.matches("*bash*").count())
                    .sum();
                assert_eq!(seen, 9, "{hostile:?}");
                for SlackText { text, blocks } in all {
                    assert!(
                        text::utf16_len(&text) < 4_000 && !text.contains("<!"),
                        "{text}"
                    );
                    assert!(blocks::weight(&blocks) <= BLOCKS_WEIGHT_MAX, "{hostile:?}");
                }
            }
        }
    }

    #[test]
    fn refused_blocks_come_again_as_text() {
        let mut details = Details::new();
        details.said("Think.", "I look.");
        call(&mut details, 1, "first");
        let message = details.next().unwrap();
        details.done(&message, Some("0".into()));
        for number in 2..=20 {
            call(
                &mut details,
                number,
                &format!("call {number} {}", "x".repeat(300)),
            );
        }
        details.sent_as = SentAs::Text;
        assert_eq!(details.next().unwrap().ts.as_deref(), Some("0"));
        let all = messages(&mut details).into_iter().map(|shown| shown.text);
        let whole = Vec::from_iter(all).join("\n");
        let first = "Think.\nI look.\n✓ *bash*  first · 0.3 s\n```\nfirst\n```\n```\nfirst\n```\n✓";
        assert!(whole.starts_with(first), "{whole}");
        assert_eq!(whole.matches("✓ *bash*").count(), 20);
        for number in 2..=20 {
            assert!(whole.contains(&format!("call {number} x")), "{number}");
        }
    }

    #[test]
    fn output_is_shown_from_its_end_and_an_edit_by_its_diff() {
        let mut details = Details::new();
        let long = format!("{}Command exited with code 3", "line\n".repeat(2_000));
        details.said("", "I look.");
        details.start(step(1, "Try", "make"));
        let running = details.next().unwrap().shown.blocks;
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
        let blocks = details.next().unwrap().shown.blocks.to_string();
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
