//! One request, in the form from which every wire format is written: the turn's messages without
//! those that no model may see again, each call with its result, pictures within limits.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::iter;

use super::endpoint::Endpoint;
use super::learned::{Learned, Optional};
use super::pictures::{self, PictureChoice, PictureKey};
use super::services::Quirk;
use super::{
    Assistant, Block, Content, Image, Message, Model, StopReason, ToolCall, ToolResult, ToolSpec,
    Turn,
};

/// How this try of a turn differs from the first.
#[derive(Debug, Default)]
pub(super) struct Variation {
    pub(super) thinking_dropped: bool,
    pub(super) pictures_on_trial: Vec<PictureKey>,
}

pub(super) struct Outgoing<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) learned: &'a Learned,
    /// The system prompt; `None` where it is blank.
    pub(super) system: Option<&'a str>,
    pub(super) tools: &'a [ToolSpec],
    pub(super) entries: Vec<TurnEntry<'a>>,
    /// Index of the first entry of the present run.
    pub(super) run_start: usize,
    /// Tokens the reply may have.
    pub(super) output_tokens: u32,
    pub(super) pictures: SentPictures,
}

/// A request's text, and the parts of it that the server may refuse.
pub(super) struct WrittenRequest {
    /// In pieces, see `json::pieces`.
    pub(super) body: Vec<String>,
    pub(super) output_tokens: u32,
    pub(super) pictures: SentPictures,
}

/// The pictures in a request.
#[derive(Default)]
pub(super) struct SentPictures {
    pub(super) keys: Vec<PictureKey>,
    /// In base64.
    pub(super) bytes: usize,
}

#[derive(Debug, PartialEq)]
pub(super) enum TurnEntry<'a> {
    /// Never empty.
    User(Vec<ContentPart<'a>>),
    /// Never empty.
    Assistant(Vec<SentBlock<'a>>),
    /// One for each call of the assistant entry before it, in the order of the calls.
    Results(Vec<SentResult<'a>>),
}

#[derive(Debug, PartialEq)]
pub(super) enum ContentPart<'a> {
    Text(Cow<'a, str>),
    /// With its media type.
    Picture(&'static str, &'a Image),
}

impl ContentPart<'_> {
    pub(super) fn is_picture(&self) -> bool {
        matches!(self, ContentPart::Picture(..))
    }
}

pub(super) fn data_url(mime: &str, image: &Image) -> String {
    format!("data:{mime};base64,{}", image.data)
}

#[derive(Debug, PartialEq)]
pub(super) enum SentBlock<'a> {
    Text(&'a str),
    /// Thinking of this same model in this run: sent back unchanged.
    Thinking {
        text: &'a str,
        signature: &'a str,
        redacted: bool,
    },
    Call {
        id: Cow<'a, str>,
        name: Cow<'a, str>,
        call: &'a ToolCall,
    },
}

#[derive(Debug, PartialEq)]
pub(super) struct SentResult<'a> {
    pub(super) call_id: Cow<'a, str>,
    /// Never empty.
    pub(super) content: Vec<ContentPart<'a>>,
    pub(super) is_error: bool,
}

const NO_RESULT: &str = "No result: the call was interrupted.";
const NO_OUTPUT: &str = "(no output)";
const STARTED_MIDWAY: &str = "(The conversation before this is not shown.)";

impl<'a> Outgoing<'a> {
    pub(super) fn of(
        turn: &Turn<'a>,
        endpoint: &'a Endpoint,
        learned: &'a Learned,
        variation: &'a Variation,
    ) -> Outgoing<'a> {
        let (service, model) = (endpoint.service, &*learned.model);
        let mut builder = Builder {
            model,
            thinking_from: match variation.thinking_dropped {
                true => turn.messages.len(),
                false => turn.run_start,
            },
            ids: CallIds {
                len: service.call_id_len,
                used: HashSet::new(),
            },
            choice: PictureChoice::of(turn.messages, service, learned, variation),
            entries: Vec::new(),
            pictures: SentPictures::default(),
        };
        let mut run_start = None;
        for (index, message) in turn.messages.iter().enumerate() {
            if index == turn.run_start {
                run_start = Some(builder.entries.len());
            }
            match message {
                Message::User { content, .. } => builder.user(content),
                Message::Assistant(said) if is_sendable(said) => {
                    builder.assistant(said, &turn.messages[index + 1..], index);
                }
                // An answer that was cut off or failed is left out; results are sent with their
                // calls, and those without a call are left out.
                Message::Assistant(_) | Message::ToolResult(_) => {}
            }
        }
        Outgoing {
            endpoint,
            learned,
            system: Some(turn.system).filter(|system| !is_blank(system)),
            tools: turn.tools,
            run_start: run_start.unwrap_or(builder.entries.len()),
            entries: builder.entries,
            output_tokens: turn.output_tokens_max.min(model.output_tokens_max),
            pictures: builder.pictures,
        }
    }

    pub(super) fn model(&self) -> &Model {
        &self.learned.model
    }

    pub(super) fn has(&self, quirk: Quirk) -> bool {
        self.endpoint.service.has(quirk)
    }

    pub(super) fn is_refused(&self, part: Optional) -> bool {
        self.learned.refused.contains(&part)
    }
}

fn is_sendable(said: &Assistant) -> bool {
    !matches!(said.stop_reason, StopReason::Error | StopReason::Aborted)
}

fn is_by(said: &Assistant, model: &Model) -> bool {
    said.api == model.api && said.provider == model.provider && said.model == model.id
}

fn is_blank(text: &str) -> bool {
    text.trim().is_empty()
}

struct Builder<'a> {
    model: &'a Model,
    /// Index of the first message whose thinking is sent.
    thinking_from: usize,
    ids: CallIds,
    choice: PictureChoice<'a>,
    entries: Vec<TurnEntry<'a>>,
    pictures: SentPictures,
}

/// Calls of an assistant entry: their own id, and the id that is sent.
type SentCalls<'a> = Vec<(&'a str, Cow<'a, str>)>;

impl<'a> Builder<'a> {
    fn user(&mut self, content: &'a [Content]) {
        let parts = self.parts(content);
        if !parts.is_empty() {
            self.entries.push(TurnEntry::User(parts));
        }
    }

    /// `rest` is the messages after this one, whose index is `index`.
    fn assistant(&mut self, said: &'a Assistant, rest: &'a [Message], index: usize) {
        let (mut blocks, calls) = self.blocks(said);
        let is_thinking = |block: &SentBlock<'_>| matches!(block, SentBlock::Thinking { .. });
        // A message that holds only thinking is not sent: its signatures are of no use.
        if blocks.iter().all(is_thinking) {
            return;
        }
        // Thinking means something only to the model that wrote it.
        if index < self.thinking_from || !is_by(said, self.model) {
            blocks.retain(|block| !is_thinking(block));
        }
        if self.entries.is_empty() {
            let start = ContentPart::Text(STARTED_MIDWAY.into());
            self.entries.push(TurnEntry::User(vec![start]));
        }
        self.entries.push(TurnEntry::Assistant(blocks));
        if !calls.is_empty() {
            let results = self.results(rest, calls);
            self.entries.push(TurnEntry::Results(results));
        }
    }

    fn blocks(&mut self, said: &'a Assistant) -> (Vec<SentBlock<'a>>, SentCalls<'a>) {
        let mut calls = Vec::new();
        let sent = said.blocks.iter().filter_map(|block| match block {
            Block::Text(text) if is_blank(text) => None,
            Block::Text(text) => Some(SentBlock::Text(text)),
            Block::Thinking {
                text,
                signature,
                redacted,
            } => Some(SentBlock::Thinking {
                text,
                signature,
                redacted: *redacted,
            }),
            Block::ToolCall(call) => {
                let id = self.ids.take(&call.id);
                calls.push((call.id.as_str(), id.clone()));
                let name = tool_name(&call.name);
                Some(SentBlock::Call { id, name, call })
            }
        });
        (sent.collect(), calls)
    }

    /// One result for each call, looked for up to the next assistant message.
    fn results(&mut self, rest: &'a [Message], calls: SentCalls<'a>) -> Vec<SentResult<'a>> {
        let mut found: Vec<&ToolResult> = rest
            .iter()
            .take_while(|message| !matches!(message, Message::Assistant(_)))
            .filter_map(|message| match message {
                Message::ToolResult(result) => Some(result),
                _ => None,
            })
            .collect();
        let result = |(id, call_id): (&str, Cow<'a, str>)| {
            // Removed from the list: two calls with the same id have two results.
            let at = found.iter().position(|result| result.call_id == id);
            let result = at.map(|at| found.remove(at));
            let mut content = result.map_or_else(Vec::new, |result| self.parts(&result.content));
            if content.is_empty() {
                let text = result.map_or(NO_RESULT, |_| NO_OUTPUT);
                content.push(ContentPart::Text(text.into()));
            }
            SentResult {
                call_id,
                content,
                is_error: result.is_none_or(|result| result.is_error),
            }
        };
        calls.into_iter().map(result).collect()
    }

    fn parts(&mut self, content: &'a [Content]) -> Vec<ContentPart<'a>> {
        let mut parts = Vec::with_capacity(content.len());
        for content in content {
            match content {
                Content::Text(text) if is_blank(text) => {}
                Content::Text(text) => parts.push(ContentPart::Text(text.into())),
                Content::Image(image) => parts.push(match self.choice.look(image) {
                    Ok(mime) => {
                        self.pictures.keys.push(pictures::key(image));
                        self.pictures.bytes += image.data.len();
                        ContentPart::Picture(mime, image)
                    }
                    Err(instead) => ContentPart::Text(instead.into()),
                }),
            }
        }
        parts
    }
}

/// A tool name that every service accepts; models invent others.
fn tool_name(name: &str) -> Cow<'_, str> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    if name.is_empty() {
        return "unknown".into();
    }
    if name.len() <= 64 && name.chars().all(fits) {
        return name.into();
    }
    let fitting = name.chars().map(|c| if fits(c) { c } else { '_' });
    fitting.take(64).collect::<String>().into()
}

/// Makes tool call ids that the service accepts, no two the same.
struct CallIds {
    len: (usize, usize),
    used: HashSet<String>,
}

impl CallIds {
    fn take<'a>(&mut self, id: &'a str) -> Cow<'a, str> {
        let (min, max) = self.len;
        // Where the length is fixed, `_` and `-` are refused too.
        let fits = |b: u8| b.is_ascii_alphanumeric() || (min < max && matches!(b, b'_' | b'-'));
        let fine = (min..=max).contains(&id.len()) && id.bytes().all(fits);
        if fine && self.used.insert(id.to_owned()) {
            return id.into();
        }
        // A hash, so that each request gets the same id (for caches and signatures). The
        // attempts start at the number of used ids: there may be many calls with this id.
        let attempts = iter::once(0).chain(self.used.len() as u64 + 1..);
        let mut ids = attempts.map(|attempt| {
            let mut hasher = DefaultHasher::new();
            (id, attempt).hash(&mut hasher);
            format!("c{:08x}", hasher.finish() >> 32)
        });
        let made_up = ids
            .find(|made_up| !self.used.contains(made_up))
            .unwrap_or_default();
        self.used.insert(made_up.clone());
        made_up.into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{call, model, outgoing, result, said, thought, turn, user};
    use super::*;

    /// `U[..] A[..] R[..]`, the run's start marked by `|`.
    fn outline(outgoing: &Outgoing<'_>) -> String {
        let parts = |parts: &[ContentPart<'_>]| {
            let words = parts.iter().map(|part| match part {
                ContentPart::Text(text) => text.to_string(),
                ContentPart::Picture(mime, _) => format!("<{mime}>"),
            });
            words.collect::<Vec<_>>().join(",")
        };
        let entry = |entry: &TurnEntry<'_>| match entry {
            TurnEntry::User(content) => format!("U[{}]", parts(content)),
            TurnEntry::Assistant(blocks) => {
                let blocks = blocks.iter().map(|block| match block {
                    SentBlock::Text(text) => text.to_string(),
                    SentBlock::Thinking {
                        text, signature, ..
                    } => format!("{text}~{signature}"),
                    SentBlock::Call { id, name, .. } => format!("{name}#{id}"),
                });
                format!("A[{}]", blocks.collect::<Vec<_>>().join(","))
            }
            TurnEntry::Results(answers) => {
                let answers = answers.iter().map(|answer| {
                    let mark = if answer.is_error { "!" } else { "=" };
                    format!("{}{mark}{}", answer.call_id, parts(&answer.content))
                });
                format!("R[{}]", answers.collect::<Vec<_>>().join(";"))
            }
        };
        let mut entries: Vec<String> = outgoing.entries.iter().map(entry).collect();
        entries.insert(outgoing.run_start, "|".to_owned());
        entries.join(" ")
    }

    fn check(name: &str, provider: &str, messages: &[Message], run_start: usize, want: &str) {
        let turn = Turn {
            run_start,
            ..turn(messages)
        };
        let id = if provider == "anthropic" {
            "claude-sonnet-5-5"
        } else {
            "m"
        };
        let model = model(provider, id);
        outgoing(&turn, &model, |outgoing| {
            assert_eq!(outline(outgoing), want, "{name}");
        });
    }

    #[test]
    #[rustfmt::skip]
    fn messages() {
        let aborted = |mut message: Message| {
            if let Message::Assistant(said) = &mut message {
                said.stop_reason = StopReason::Aborted;
            }
            message
        };
        let foreign = |mut message: Message| {
            if let Message::Assistant(said) = &mut message {
                said.model = "other".to_owned();
            }
            message
        };
        let redacted = Block::Thinking {
            text: String::new(),
            signature: "opaque".to_owned(),
            redacted: true,
        };
        let thinking = || {
            said(vec![
                thought("hm", "sig"),
                redacted.clone(),
                thought("", "s2"),
                call("1", "bash"),
            ])
        };
        let text = |text: &str| Block::Text(text.to_owned());
        for (name, messages, run_start, want) in [
            ("thinking stays in the run and leaves with it", vec![user("a"), thinking(), result("1", "x"), user("b"), thinking(), result("1", "y")], 3, "U[a] A[bash#1] R[1=x] | U[b] A[hm~sig,~opaque,~s2,bash#cd0e369ac] R[cd0e369ac=y]"),
            ("another model's thinking", vec![user("a"), foreign(thinking()), result("1", "x")], 0, "| U[a] A[bash#1] R[1=x]"),
            ("aborted, with the orphans it leaves", vec![user("a"), aborted(thinking()), result("1", "x"), user("b")], 3, "U[a] | U[b]"),
            ("missing and late results, all in the order of the calls", vec![user("a"), said(vec![call("1", "x"), call("2", "y"), call("3", "z")]), result("3", "c"), user("b"), result("1", ""), said(vec![text("d")]), result("2", "too late")], 7, "U[a] A[x#1,y#2,z#3] R[1=(no output);2!No result: the call was interrupted.;3=c] U[b] A[d] |"),
            ("two calls with one id", vec![user("a"), said(vec![call("1", "x"), call("1", "y")]), result("1", "p"), result("1", "q")], 0, "| U[a] A[x#1,y#cd0e369ac] R[1=p;cd0e369ac=q]"),
            ("blanks, and an answer that is only thinking", vec![user(" \n"), user("a"), said(vec![text("\t"), thought("hm", "s")]), said(vec![text(""), text("b")])], 0, "| U[a] A[b]"),
            ("no user at first", vec![said(vec![text("a")])], 0, "| U[(The conversation before this is not shown.)] A[a]"),
            ("names models make up", vec![user("a"), said(vec![call("1", "f.x"), call("2", "")])], 0, "| U[a] A[f_x#1,unknown#2] R[1!No result: the call was interrupted.;2!No result: the call was interrupted.]"),
            ("ids of other services", vec![user("a"), said(vec![call("functions.bash:0", "x")]), result("functions.bash:0", "b")], 0, "| U[a] A[x#c754d2176] R[c754d2176=b]"),
        ] {
            check(name, "anthropic", &messages, run_start, want);
        }
        let ids = ["abcDEF123", "call_1234", &"x".repeat(41)];
        let calls = ids.iter().map(|id| call(id, "x")).collect();
        let mut messages = vec![user("a"), said(calls)];
        messages.extend(ids.iter().map(|id| result(id, "b")));
        check(
            "nine letters and digits",
            "mistral",
            &messages,
            0,
            "| U[a] A[x#abcDEF123,x#c18b38bf3,x#c5f562db3] R[abcDEF123=b;c18b38bf3=b;c5f562db3=b]",
        );
        check(
            "up to 40",
            "openai",
            &messages,
            0,
            "| U[a] A[x#abcDEF123,x#call_1234,x#c5f562db3] R[abcDEF123=b;call_1234=b;c5f562db3=b]",
        );
    }
}
