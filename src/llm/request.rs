//! One request, as every wire format is written from it: the turn's messages without what no
//! model may see again, each call paired with its result, pictures within limits.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::models::CacheLifetime;
use super::pictures::{self, PictureChoice, PictureKey, PictureMemory};
use super::services::Service;
use super::{
    Assistant, Block, Content, Image, Message, Model, StopReason, ToolCall, ToolResult, ToolSpec,
    Turn,
};

/// A part of a request that some servers refuse; once refused it is written otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Optional {
    /// `stream_options`: left out.
    StreamOptions,
    /// The usual name of the output limit: the other name is used.
    TokensField,
    /// Thinking beside tools: `reasoning_effort` becomes `none`.
    Effort,
    /// A null content beside calls: it becomes an empty text.
    NullContent,
    /// Summaries of the thinking, which are for verified organizations only: left out.
    ThinkingSummary,
}

/// How this try of a turn differs from the first.
#[derive(Debug, Default)]
pub(super) struct Variation {
    pub(super) thinking_dropped: bool,
    pub(super) pictures_on_trial: Vec<PictureKey>,
}

/// What is known of the server when the request is made.
pub(super) struct Circumstances<'a> {
    pub(super) service: &'static Service,
    pub(super) model: &'a Model,
    pub(super) lifetime: CacheLifetime,
    /// Parts that the server refused.
    pub(super) refused: &'a [Optional],
    pub(super) pictures: &'a PictureMemory,
}

pub(super) struct Outgoing<'a> {
    pub(super) service: &'static Service,
    pub(super) model: &'a Model,
    pub(super) lifetime: CacheLifetime,
    pub(super) refused: &'a [Optional],
    /// `None` where it is blank.
    pub(super) system: Option<&'a str>,
    pub(super) tools: &'a [ToolSpec],
    pub(super) entries: Vec<TurnEntry<'a>>,
    /// Index of the first entry of the present run.
    pub(super) run_start: usize,
    /// Tokens the reply may have.
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
    Text(Cow<'a, str>),
    /// Of this very model and this run: goes back unchanged.
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
        around: &Circumstances<'a>,
        variation: &'a Variation,
    ) -> Outgoing<'a> {
        let Circumstances { service, model, .. } = *around;
        let trial = &variation.pictures_on_trial;
        let choice = PictureChoice::of(turn.messages, service.pictures_max, around.pictures, trial);
        let choice = if model.takes_images {
            choice
        } else {
            choice.none()
        };
        let thinking_from = match variation.thinking_dropped || turn.tools.is_empty() {
            true => turn.messages.len(),
            false => turn.run_start,
        };
        let mut builder = Builder {
            ids: CallIds {
                len: service.call_id_len,
                used: HashSet::new(),
            },
            choice,
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
                    let thinking = match index >= thinking_from {
                        false => Thinking::Drop,
                        true if is_by(said, model) => Thinking::Replay,
                        true => Thinking::AsText,
                    };
                    builder.assistant(said, thinking, &turn.messages[index + 1..]);
                }
                // An answer that was cut short or failed; results go along with their calls,
                // or belong to none.
                Message::Assistant(_) | Message::ToolResult(_) => {}
            }
        }
        let mut entries = builder.entries;
        if turn.tools.is_empty() {
            entries.iter_mut().for_each(without_tools);
        }
        Outgoing {
            service,
            model,
            lifetime: around.lifetime,
            refused: around.refused,
            system: Some(turn.system).filter(|system| !is_blank(system)),
            tools: turn.tools,
            run_start: run_start.unwrap_or(entries.len()),
            entries,
            output_tokens: turn.output_tokens_max.min(model.output_tokens_max),
            pictures: builder.pictures,
        }
    }

    pub(super) fn is_refused(&self, part: Optional) -> bool {
        self.refused.contains(&part)
    }
}

/// Calls and results as text: with no tools defined they are refused as what they are. (For
/// the same reason the thinking is dropped: the tools are part of what it is bound to.)
fn without_tools(entry: &mut TurnEntry<'_>) {
    match entry {
        TurnEntry::User(_) => {}
        TurnEntry::Assistant(blocks) => {
            for block in blocks {
                if let SentBlock::Call { name, call, .. } = block {
                    let text = format!("(called {name} with {})", call.arguments);
                    *block = SentBlock::Text(text.into());
                }
            }
        }
        TurnEntry::Results(results) => {
            let parts = results.drain(..).flat_map(|result| result.content);
            *entry = TurnEntry::User(parts.collect());
        }
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

#[derive(Clone, Copy)]
enum Thinking {
    Replay,
    /// Another model's: its text is worth keeping, its signatures mean nothing here.
    AsText,
    Drop,
}

struct Builder<'a> {
    ids: CallIds,
    choice: PictureChoice<'a>,
    entries: Vec<TurnEntry<'a>>,
    pictures: SentPictures,
}

/// Calls of an assistant entry: their own id, and the one they are sent under.
type SentCalls<'a> = Vec<(&'a str, Cow<'a, str>)>;

impl<'a> Builder<'a> {
    fn user(&mut self, content: &'a [Content]) {
        let parts = self.parts(content);
        if !parts.is_empty() {
            self.entries.push(TurnEntry::User(parts));
        }
    }

    fn assistant(&mut self, said: &'a Assistant, thinking: Thinking, rest: &'a [Message]) {
        let (blocks, calls) = self.blocks(said, thinking);
        // Signatures of a message that says nothing else are of no use to anyone.
        let is_thinking = |block: &SentBlock<'_>| matches!(block, SentBlock::Thinking { .. });
        if blocks.iter().all(is_thinking) {
            return;
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

    fn blocks(
        &mut self,
        said: &'a Assistant,
        thinking: Thinking,
    ) -> (Vec<SentBlock<'a>>, SentCalls<'a>) {
        let (mut blocks, mut calls) = (Vec::new(), Vec::new());
        for block in &said.blocks {
            match (block, thinking) {
                (Block::Text(text), _) if !is_blank(text) => {
                    blocks.push(SentBlock::Text(text.into()));
                }
                (Block::Text(_), _) => {}
                (
                    Block::Thinking {
                        text,
                        signature,
                        redacted,
                    },
                    Thinking::Replay,
                ) => blocks.push(SentBlock::Thinking {
                    text,
                    signature,
                    redacted: *redacted,
                }),
                (Block::Thinking { text, .. }, Thinking::AsText) if !is_blank(text) => {
                    blocks.push(SentBlock::Text(text.into()));
                }
                (Block::Thinking { .. }, _) => {}
                (Block::ToolCall(call), _) => {
                    let id = self.ids.take(&call.id);
                    calls.push((call.id.as_str(), id.clone()));
                    let name = tool_name(&call.name);
                    blocks.push(SentBlock::Call { id, name, call });
                }
            }
        }
        (blocks, calls)
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
            // Taken out: two calls with one id have two results.
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
        let mut parts = Vec::new();
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

/// A name that every service accepts; models make up others.
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

/// Tool call ids the service accepts, no two alike.
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
        // The same in every request, for caches and signatures.
        let mut attempt = 0u64;
        loop {
            let mut hasher = DefaultHasher::new();
            (id, attempt).hash(&mut hasher);
            let id = format!("c{:08x}", hasher.finish() >> 32);
            if self.used.insert(id.clone()) {
                return id.into();
            }
            // Not one after the other: there may be many of this id.
            attempt = attempt.max(self.used.len() as u64) + 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{TOOLS, call, model, outgoing, result, said, thought, turn, user};
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
            tools: if name == "no tools" { &[] } else { TOOLS },
            ..turn(messages)
        };
        let id = if provider == "anthropic" {
            "claude-sonnet-5-5"
        } else {
            "m"
        };
        let model = model(provider, id);
        outgoing(&turn, &model, CacheLifetime::FiveMinutes, |outgoing| {
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
            ("another model's thinking", vec![user("a"), foreign(thinking()), result("1", "x")], 0, "| U[a] A[hm,bash#1] R[1=x]"),
            ("aborted, with the orphans it leaves", vec![user("a"), aborted(thinking()), result("1", "x"), user("b")], 3, "U[a] | U[b]"),
            ("missing and late results, all in the order of the calls", vec![user("a"), said(vec![call("1", "x"), call("2", "y"), call("3", "z")]), result("3", "c"), user("b"), result("1", ""), said(vec![text("d")]), result("2", "too late")], 7, "U[a] A[x#1,y#2,z#3] R[1=(no output);2!No result: the call was interrupted.;3=c] U[b] A[d] |"),
            ("two calls with one id", vec![user("a"), said(vec![call("1", "x"), call("1", "y")]), result("1", "p"), result("1", "q")], 0, "| U[a] A[x#1,y#cd0e369ac] R[1=p;cd0e369ac=q]"),
            ("blanks, and an answer that is only thinking", vec![user(" \n"), user("a"), said(vec![text("\t"), thought("hm", "s")]), said(vec![text(""), text("b")])], 0, "| U[a] A[b]"),
            ("no user at first", vec![said(vec![text("a")])], 0, "| U[(The conversation before this is not shown.)] A[a]"),
            ("no tools", vec![user("a"), said(vec![call("1", "x")]), result("1", "b")], 0, r#"| U[a] A[(called x with {"b":1, "a":2})] U[b]"#),
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
