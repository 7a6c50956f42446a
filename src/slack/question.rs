//! A question with buttons as Slack messages: the calls in full, as plain text that can neither
//! notify nor link anyone, and the decision. Pure.

use serde_json::{Value, json};

use super::blocks::{section, title, weight, words};
use super::web::PostContent;
use crate::agent::approval::{ProposedCall, Question};
use crate::base::text;

/// Ids of the buttons; their value is the question's id.
pub(super) const APPROVE: &str = "approve";
pub(super) const APPROVE_ALL: &str = "approve_all";
pub(super) const DENY: &str = "deny";

/// UTF-16 units of one block of code, which may double in JSON.
const CODE_UNITS_MAX: usize = 4_000;
/// Largest weight of a message's blocks (see `weight`), with room for the heading and the buttons;
/// longer calls are shown as a file.
const WEIGHT_MAX: usize = 10_500;
const BLOCKS_MAX: usize = 40;
const LABEL_CHARS_MAX: usize = 100;

pub(crate) struct QuestionText {
    /// All calls as a text file, if the message can't show them.
    pub(crate) file: Option<String>,
    text: String,
    blocks: Vec<Value>,
}

impl QuestionText {
    pub(crate) fn of(question: &Question) -> QuestionText {
        let mut shown = QuestionText {
            file: None,
            text: fallback(question),
            blocks: vec![section("*May I run this?*")],
        };
        let mut filled = 0;
        for block in question.calls.iter().flat_map(call_blocks) {
            filled += weight(&block);
            if filled > WEIGHT_MAX || shown.blocks.len() >= BLOCKS_MAX {
                shown.file = Some(file_text(question));
                let note = "_This is the beginning: all of it is in the file above._";
                shown.blocks.push(section(note));
                break;
            }
            shown.blocks.push(block);
        }
        shown
    }

    /// The question with its calls in a file, for when Slack refuses the blocks.
    pub(crate) fn in_file(question: &Question) -> QuestionText {
        QuestionText {
            file: Some(file_text(question)),
            text: fallback(question),
            blocks: vec![section("*May I run this?* _It is in the file above._")],
        }
    }

    /// The message while it waits for a press.
    pub(crate) fn open(&self, id: &str) -> PostContent {
        let button = |action: &str, label: &str| {
            json!({"type": "button", "action_id": action, "value": id,
                "text": {"type": "plain_text", "text": label}})
        };
        let mut approve = button(APPROVE, "Approve");
        approve["style"] = "primary".into();
        let mut deny = button(DENY, "Deny");
        deny["style"] = "danger".into();
        let all = button(APPROVE_ALL, "Approve all (of this run)");
        self.with(
            json!({"type": "actions", "elements": [approve, all, deny]}),
            &self.text,
        )
    }

    /// The message when it was decided; `line` is mrkdwn.
    pub(crate) fn closed(&self, line: &str) -> PostContent {
        self.with(section(line), line)
    }

    fn with(&self, block: Value, text: &str) -> PostContent {
        let mut blocks = self.blocks.clone();
        blocks.push(block);
        PostContent::blocks(text, &Value::from(blocks))
    }
}

/// The text that notifications show.
fn fallback(question: &Question) -> String {
    let first = question.calls.first().map_or("", |call| &call.label);
    let more = match question.calls.len() {
        0 | 1 => String::new(),
        count => format!(" and {} more", count - 1),
    };
    let label = words(first, LABEL_CHARS_MAX);
    format!("_May I run this?_ {label}{more}")
}

fn file_text(question: &Question) -> String {
    let calls = question.calls.iter();
    let calls = calls.map(|call| format!("{}: {}\n{}\n", call.tool, call.label, call.text));
    calls.collect::<Vec<_>>().join("\n")
}

/// A heading, and the call's text.
fn call_blocks(call: &ProposedCall) -> Vec<Value> {
    let heading = title(&format!("{}: {}", call.tool, call.label));
    let heading = json!({"type": "rich_text_section",
        "elements": [{"type": "text", "text": heading, "style": {"bold": true}}]});
    let mut blocks = vec![rich_text(heading)];
    blocks.extend(code(&call.text));
    blocks
}

fn rich_text(element: Value) -> Value {
    json!({"type": "rich_text", "elements": [element]})
}

/// A text as code in as many blocks as it needs, cut at line ends if there are any.
fn code(text: &str) -> Vec<Value> {
    let mut blocks = Vec::new();
    let mut rest = match text {
        "" => "(nothing)",
        text => text,
    };
    while !rest.is_empty() {
        let mut piece = text::utf16_prefix(rest, CODE_UNITS_MAX);
        if piece.len() < rest.len() {
            if let Some(end) = piece.rfind('\n') {
                piece = &rest[..=end];
            }
        }
        rest = &rest[piece.len()..];
        blocks.push(rich_text(json!({"type": "rich_text_preformatted",
            "elements": [{"type": "text", "text": piece}]})));
    }
    blocks
}
