//! Blocks of a run's messages as Slack's JSON: the plan with its cards, the Stop button, mom's own
//! lines. Labels, arguments and output are plain text in them: they can neither notify nor link
//! anyone, nor end the block they are in. Pure.
//! Format: docs.slack.dev, "Plan block" and "Task card block".

use serde_json::{Value, json};

use super::inline::dead;
use super::web::PostContent;
use crate::agent::run::ToolReport;
use crate::base::json;
use crate::base::text;

/// Characters of a title: 40 of them with the model's text stay below Slack's limit.
pub(super) const TITLE_CHARS_MAX: usize = 60;

/// Kinds of elements in rich text.
pub(super) const PLAIN: &str = "rich_text_section";
pub(super) const CODE: &str = "rich_text_preformatted";

/// The state of a tool call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum StepStatus {
    /// Waits for its turn, or for a person's approval.
    Pending,
    InProgress,
    Complete,
    Error,
}

impl StepStatus {
    pub(super) fn of(report: &ToolReport) -> StepStatus {
        match report.is_error {
            true => StepStatus::Error,
            false => StepStatus::Complete,
        }
    }

    pub(super) fn is_over(self) -> bool {
        matches!(self, StepStatus::Complete | StepStatus::Error)
    }

    /// The sign in front of a step where Slack accepts no plan.
    pub(super) fn mark(self) -> char {
        self.signs().0
    }

    /// Its mark, and its name in Slack's cards.
    fn signs(self) -> (char, &'static str) {
        match self {
            StepStatus::Pending => ('○', "pending"),
            StepStatus::InProgress => ('→', "in_progress"),
            StepStatus::Complete => ('✓', "complete"),
            StepStatus::Error => ('✗', "error"),
        }
    }
}

/// A message of details as Slack has it, with steps that still run in it as failed, for a run
/// that was cut; `None`: there are none.
pub(super) fn without_running(message: &Value) -> Option<PostContent> {
    let (running, failed) = (StepStatus::InProgress.signs(), StepStatus::Error.signs());
    let mut blocks = message.get("blocks").cloned().unwrap_or_else(|| json!([]));
    let plans = blocks.as_array_mut()?.iter_mut();
    let cards = plans.filter_map(|block| block.get_mut("tasks")?.as_array_mut());
    for card in cards.flatten().filter(|card| card["status"] == running.1) {
        card["status"] = failed.1.into();
    }
    // Not in the code of a step's output: there no name in bold follows.
    let (run_line, failed_line) = (format!("{} *", running.0), format!("{} *", failed.0));
    let text = message["text"].as_str().unwrap_or_default();
    let lines = text
        .split('\n')
        .map(|line| match line.strip_prefix(&run_line) {
            Some(rest) => failed_line.clone() + rest,
            None => line.to_owned(),
        });
    let content = PostContent::blocks(&lines.collect::<Vec<_>>().join("\n"), &blocks);
    let is_same = message.get("blocks").is_none_or(|before| *before == blocks);
    (content.text != text || !is_same).then_some(content)
}

/// How a run's messages are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum SentAs {
    Blocks,
    /// Without blocks for the rest of the run, because Slack has refused some.
    Text,
}

/// A line of mrkdwn in a block: an edit of blocks is not marked `(edited)`.
pub(super) fn line(text: &str) -> PostContent {
    PostContent::blocks(text, &json!([section(text)]))
}

/// Text by someone else for a line of mrkdwn: one line, no mention, no fence.
pub(super) fn words(text: &str, chars_max: usize) -> String {
    let line = text::escape(&text::one_line(text, chars_max));
    text::fence_safe(&line).into_owned()
}

/// One line of plain text, never empty.
pub(super) fn title(text: &str) -> String {
    match dead(&text::one_line(text, TITLE_CHARS_MAX + 20)) {
        title if title.is_empty() => "(no label)".to_owned(),
        title => title,
    }
}

pub(super) fn markdown(text: &str) -> Value {
    json!({"type": "markdown", "text": text})
}

/// A line of mrkdwn. `verbatim`: Slack is not to look for names and channels in it.
pub(super) fn section(text: &str) -> Value {
    let text = json!({"type": "mrkdwn", "text": text, "verbatim": true});
    json!({"type": "section", "expand": true, "text": text})
}

pub(super) fn plan(name: &str, cards: Vec<Value>) -> Value {
    json!({"type": "plan", "title": title(name), "tasks": cards})
}

/// `id` is unique within its plan.
pub(super) fn card(id: &str, name: &str, status: StepStatus) -> Value {
    json!({"type": "task_card", "task_id": id, "title": title(name), "status": status.signs().1})
}

/// The content of an unfolded card, each text in an element of its kind; `None` if all are empty.
pub(super) fn rich_text(parts: &[(&str, &str)]) -> Option<Value> {
    let filled = parts.iter().filter(|(_, text)| !text.trim().is_empty());
    let element = |(kind, text): &(&str, &str)| {
        let text = text.trim_matches('\n');
        json!({"type": kind, "elements": [{"type": "text", "text": text}]})
    };
    let elements: Vec<Value> = filled.map(element).collect();
    (!elements.is_empty()).then(|| json!({"type": "rich_text", "elements": elements}))
}

/// `run` comes back with the press.
pub(super) fn stop_button(run: &str) -> Value {
    json!({"type": "actions", "elements": [{"type": "button", "action_id": "stop",
        "text": {"type": "plain_text", "text": "Stop"}, "style": "danger", "value": run}]})
}

/// Weight of blocks, or of a text in them, in characters: Slack refuses more than about 13,200.
pub(super) fn weight(json: &Value) -> usize {
    text::utf16_len(&json::text(json))
}
