//! `--model=offline`: no language model, no key, no network. mom runs the message as one bash
//! command and answers with its output. For trying out mom, the sandbox and Slack.

use std::sync::Arc;

use super::{
    Block, Message, Model, OnText, Provider, RESUMED, Reply, StopReason, ToolCall, Turn, Usage,
    words,
};
use crate::base::error::Result;
use crate::base::json::Obj;
use crate::base::stop::Stop;
use crate::base::text;

const NOTHING_TO_RUN: &str = "I am running without a language model (`--model=offline`): \
    whatever you write to me I run as one bash command, and answer with its output. Try `uname -a`.";

/// The answer to words that are no command.
const NO_COMMAND: &str = "I am running without a language model (`--model=offline`): I only run \
    commands, like `uname -a`. To talk to a language model start me with one, like \
    `--model=anthropic/claude-sonnet-5-5` with its key in ANTHROPIC_API_KEY, or `--model=ollama/ID` \
    for one on this machine.";
/// How the result of the bash tool ends when the shell found no such command.
const NOT_FOUND: &str = "Command exited with code 127";
/// The result of the bash tool when a command printed nothing and did not fail.
const NO_OUTPUT: &str = "(no output)";
/// Words that most English sentences have, and few commands.
const SENTENCE_WORDS: [&str; 10] = [
    "a", "are", "i", "is", "me", "my", "the", "this", "you", "your",
];

/// The answer to the note that a run was cut off: no command runs twice without a request.
const INTERRUPTED: &str = "I was restarted while the command ran: it may or may not have taken \
    effect. Write it again to run it again.";

const LABEL_CHARS_MAX: usize = 60;

pub(super) struct Offline {
    model: Arc<Model>,
}

impl Offline {
    pub(super) fn new() -> Offline {
        Offline {
            model: Arc::new(Model {
                provider: "offline",
                api: "offline",
                id: "offline".to_owned(),
                // Its context is never full.
                context_window: 1_000_000_000,
                output_tokens_max: 1_000_000,
                price: None,
                takes_images: false,
            }),
        }
    }
}

impl Provider for Offline {
    fn model(&self) -> Arc<Model> {
        Arc::clone(&self.model)
    }

    fn stream(&self, turn: &Turn<'_>, stop: &Stop, on_text: &mut OnText<'_>) -> Result<Reply> {
        stop.check()?;
        let block = answer(turn.messages);
        let stop_reason = match &block {
            Block::Text(text) => {
                on_text(text);
                StopReason::Stop
            }
            _ => StopReason::ToolUse,
        };
        Ok(Reply {
            blocks: vec![block],
            stop_reason,
            refusal: None,
            cut_call: None,
            usage: Usage::default(),
        })
    }
}

fn answer(messages: &[Message]) -> Block {
    let said = messages
        .last()
        .map_or("".into(), |message| words(message.content()));
    if let Some(Message::ToolResult(result)) = messages.last() {
        let output = fenced(&said);
        let mut requests = messages.iter().rev();
        let request = requests.find(|message| matches!(message, Message::User { .. }));
        let request = request.map_or("".into(), |message| command(&words(message.content())));
        let has_output = !result.is_error && said != NO_OUTPUT;
        let is_refused = result.is_error && (said.contains(NOT_FOUND) || is_syntax_error(&said));
        return Block::Text(if is_refused || !has_output && is_sentence(&request) {
            format!("{NO_COMMAND}\n{output}")
        } else if result.is_error {
            format!("The command failed:\n{output}")
        } else {
            output
        });
    }
    if said == RESUMED {
        return Block::Text(INTERRUPTED.to_owned());
    }
    let command = command(&said);
    if command.is_empty() {
        return Block::Text(NOTHING_TO_RUN.to_owned());
    }
    let label = format!("Run {}", text::one_line(&command, LABEL_CHARS_MAX));
    let arguments = Obj::new().str("label", &label).str("command", &command);
    Block::ToolCall(ToolCall {
        // Unique within the conversation, the same when the turn is tried again.
        id: format!("offline_{}", messages.len()),
        name: "bash".to_owned(),
        arguments: arguments.end(),
        signature: None,
    })
}

/// Whether the shell refused to parse the command: `what's the time?` opens a quote.
fn is_syntax_error(output: &str) -> bool {
    let line = output.lines().next().unwrap_or_default();
    let is_shell = line.starts_with("bash: ") || line.starts_with("sh: ");
    is_shell && (line.contains("yntax error") || line.contains("unexpected EOF"))
}

/// Whether a command that failed, or printed nothing, reads like a sentence: there is a `who`,
/// which answers `who are you` with nothing or with its usage.
fn is_sentence(request: &str) -> bool {
    let is_mark = |c: char| matches!(c, ',' | '.' | '!' | '?');
    let words = request.split_whitespace();
    let mut words = words.map(|word| word.trim_end_matches(is_mark));
    let is_plain = |word: &str| word.chars().all(|c| c.is_alphabetic() || c == '\'');
    let is_usual = |word: &str| SENTENCE_WORDS.contains(&&*word.to_lowercase());
    words.clone().count() > 2 && words.clone().all(is_plain) && words.any(is_usual)
}

/// The message as it was typed: without the `[time] [name]: ` or `[EVENT:..] ` before it
/// and the attachments behind it, and with what Slack encodes decoded.
fn command(said: &str) -> String {
    let mut rest = said
        .split("\n\n<slack_attachments>\n")
        .next()
        .unwrap_or_default();
    for (start, end) in [("[2", "] ["), ("[", "]: "), ("[EVENT:", "] ")] {
        let head = rest.split_once(end).map(|(head, _)| head);
        if let Some(head) = head.filter(|head| head.starts_with(start) && !head.contains('\n')) {
            // The opening bracket of the next head stays.
            rest = &rest[head.len() + end.trim_end_matches('[').len()..];
        }
    }
    let mut command = String::new();
    while let Some((before, link)) = rest.split_once("<http") {
        let Some((link, after)) = link.split_once('>') else {
            break;
        };
        let url = link.split('|').next().unwrap_or_default();
        command += &format!("{before}http{url}");
        rest = after;
    }
    command += rest;
    text::unescape(&command).trim().to_owned()
}

/// A code block whose fence is longer than any run of backticks inside.
fn fenced(text: &str) -> String {
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}\n{}\n{fence}", text.trim_end_matches('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::{Content, ToolResult};

    #[test]
    #[rustfmt::skip]
    fn commands() {
        for (said, want) in [
            ("[2026-01-05 10:12:45+01:00] [lena]: ls -l", "ls -l"),
            ("[2026-01-05 10:12:45+01:00] [lena]:  ls\npwd ", "ls\npwd"),
            ("[lena]: ls", "ls"),
            ("[2026-01-05 10:12:45+01:00] [x]: a [b]: c", "a [b]: c"),
            ("[2026-01-05 10:12:45+01:00] [unknown]: [EVENT:x.json:periodic:0 9 * * 1] ls", "ls"),
            ("[x]: curl <https://a.b/c?d&amp;e|a.b> <http://d> &lt; f &gt;&gt; g <h", "curl https://a.b/c?d&e http://d < f >> g <h"),
            ("[ -d /tmp ] && echo '[x]'", "[ -d /tmp ] && echo '[x]'"),
            ("[lena]: ls\n\n<slack_attachments>\n/a/b\n</slack_attachments>", "ls"),
            ("[2026-01-05 10:12:45+01:00] [lena]: ", ""),
            ("", ""),
        ] {
            assert_eq!(command(said), want, "{said:?}");
        }
    }

    #[test]
    fn a_note_is_not_a_command() {
        let note = Message::user(RESUMED.to_owned(), 0);
        assert_eq!(answer(&[note]), Block::Text(INTERRUPTED.to_owned()));
    }

    #[test]
    #[rustfmt::skip]
    fn a_sentence_is_told_from_a_command() {
        for (request, output, is_told) in [
            ("what's the time?", "bash: -c: line 1: unexpected EOF while", true),
            ("I don't know", "sh: 1: Syntax error: Unterminated quoted string", true),
            ("I don't know", "sh: syntax error: unterminated quoted string", true),
            ("who are you?", NO_OUTPUT, true),
            ("find the bug, please", "find: the: No such file", true),
            ("hello", "bash: hello: not found\n\nCommand exited with code 127", true),
            ("psql -f x", "psql: syntax error", false),
            ("cat my-notes the.txt /x", "cat: No such file", false),
            ("true", NO_OUTPUT, false),
            ("ls you", "ls: you: No such file", false),
        ] {
            let result = ToolResult {
                is_error: output != NO_OUTPUT,
                content: vec![Content::Text(output.to_owned())],
                call_id: String::new(),
                name: "bash".to_owned(),
                timestamp_ms: 0,
            };
            let request = Message::user(format!("[lena]: {request}"), 0);
            let said = answer(&[request.clone(), Message::ToolResult(result)]);
            let Block::Text(text) = said else {
                panic!("{request:?}")
            };
            assert_eq!(
                text.contains("--model=ollama/ID"),
                is_told,
                "{request:?} {text}"
            );
            assert!(text.contains(output), "{text}");
        }
    }

    #[test]
    fn fences() {
        for (text, want) in [
            ("a\n", "```\na\n```"),
            ("```\nx\n```", "````\n```\nx\n```\n````"),
            ("", "```\n\n```"),
        ] {
            assert_eq!(fenced(text), want);
        }
    }
}
