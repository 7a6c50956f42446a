//! What the run loop and the providers say to each other: messages in, a streamed reply
//! out. One file per wire format beside this one; `open` picks by `PROVIDER/ID`.

mod anthropic;
mod call;
mod draft;
pub(crate) mod models;
mod offline;
mod open;
mod openai;
mod prepare;
mod probe;
mod responses;
mod sse;

pub(crate) use draft::BLOCKS_MAX;
pub(crate) use open::{Sources, check, open};

use serde_json::Value;

use crate::base::error::Result;
use crate::base::stop::Stop;

/// A language model behind some wire format. The only trait of ours.
pub(crate) trait Provider: Send + Sync {
    fn model(&self) -> &Model;

    /// One model turn. Blocks until the stream has ended; `on_delta` sees the text as it
    /// comes. `Error::Retry` and `Error::ContextFull` are the caller's to act on.
    fn stream(&self, turn: &Turn<'_>, stop: &Stop, on_delta: &mut OnDelta<'_>) -> Result<Reply>;
}

pub(crate) type OnDelta<'a> = dyn FnMut(Delta<'_>) + 'a;

/// What a run tells the model that goes on with it after a crash.
pub(crate) const RESUMED: &str = "[mom was restarted while she worked on this. What was done \
    before stands above; a tool call without a result may or may not have taken effect. Go on \
    from there.]";

/// Everything one request is made of.
pub(crate) struct Turn<'a> {
    /// Byte-stable during a run (signed thinking and prompt caches depend on it). Empty for none.
    pub(crate) system: &'a str,
    pub(crate) messages: &'a [Message],
    /// Index of the first message of the present run: thinking before it is left out, and
    /// a cache breakpoint stands at the message before it.
    pub(crate) run_start: usize,
    /// Empty for a summary.
    pub(crate) tools: &'a [ToolSpec],
    /// Tokens, thinking included; capped by the model's own maximum.
    pub(crate) output_tokens_max: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delta<'a> {
    Text(&'a str),
    Thinking(&'a str),
}

/// A tool as the model is told of it. `schema` is a JSON object as text.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ToolSpec {
    pub(crate) name: &'static str,
    pub(crate) description: &'static str,
    pub(crate) schema: &'static str,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Message {
    User {
        content: Vec<Content>,
        timestamp_ms: i64,
    },
    Assistant(Assistant),
    ToolResult(ToolResult),
}

impl Message {
    pub(crate) fn user(text: String, timestamp_ms: i64) -> Message {
        Message::User {
            content: vec![Content::Text(text)],
            timestamp_ms,
        }
    }

    /// What came from a person or a tool; nothing for the model's own messages.
    pub(crate) fn content(&self) -> &[Content] {
        match self {
            Message::User { content, .. } => content,
            Message::ToolResult(result) => &result.content,
            Message::Assistant(_) => &[],
        }
    }

    fn has_image(&self) -> bool {
        let mut content = self.content().iter();
        content.any(|content| matches!(content, Content::Image(_)))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    Text(String),
    Image(Image),
}

/// The texts in it, a line break between them.
pub(crate) fn words(content: &[Content]) -> String {
    let texts = content.iter().filter_map(|content| match content {
        Content::Text(text) => Some(text.as_str()),
        Content::Image(_) => None,
    });
    texts.collect::<Vec<_>>().join("\n")
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Image {
    /// `image/png`, `image/jpeg`, `image/gif` or `image/webp`, found by magic bytes.
    pub(crate) mime: String,
    /// Base64.
    pub(crate) data: String,
}

impl Image {
    fn data_url(&self) -> String {
        format!("data:{};base64,{}", self.mime, self.data)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ToolResult {
    pub(crate) call_id: String,
    pub(crate) name: String,
    pub(crate) content: Vec<Content>,
    pub(crate) is_error: bool,
    pub(crate) timestamp_ms: i64,
}

/// An assistant message with where it came from: thinking and signatures mean something
/// only to the model that wrote them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Assistant {
    pub(crate) blocks: Vec<Block>,
    /// `anthropic-messages`, `openai-completions`, ... as the session format names them.
    pub(crate) api: String,
    pub(crate) provider: String,
    pub(crate) model: String,
    pub(crate) usage: Usage,
    pub(crate) stop_reason: StopReason,
    pub(crate) timestamp_ms: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Block {
    Text(String),
    /// `redacted`: `signature` holds the opaque data and `text` is empty. For
    /// OpenAI-compatible servers `signature` is the name of the field the text came in.
    Thinking {
        text: String,
        signature: String,
        redacted: bool,
    },
    ToolCall(ToolCall),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ToolCall {
    pub(crate) id: String,
    pub(crate) name: String,
    /// A JSON object on one line, otherwise byte for byte as the model wrote it (whole and
    /// valid: a call that was cut off never becomes a `ToolCall`; see `Reply::cut_call`).
    pub(crate) arguments: String,
    /// Gemini's `thought_signature`, to be echoed with the call.
    pub(crate) signature: Option<String>,
}

/// Why the model stopped, as the session format names the outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StopReason {
    /// `stop`: end_turn and its kin, unknown reasons included.
    Stop,
    /// `length`: the output limit was reached.
    Length,
    /// `toolUse`
    ToolUse,
    /// `error`: kept in the file, never sent to a model again.
    Error,
    /// `aborted`: likewise.
    Aborted,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) blocks: Vec<Block>,
    pub(crate) stop_reason: StopReason,
    /// The model declined (stop reason `refusal`, `content_filter`): what it says of it.
    /// `blocks` is empty then; the same request must not be repeated.
    pub(crate) refusal: Option<String>,
    /// A tool call was cut off by the output limit: its name. It must not be run.
    pub(crate) cut_call: Option<String>,
    pub(crate) usage: Usage,
}

/// Tokens. `input` leaves out the cached ones; total input is the sum of the last three.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    pub(crate) output: u64,
    pub(crate) input: u64,
    pub(crate) cache_read: u64,
    pub(crate) cache_write: u64,
    /// Dollars; `None` for a model whose prices are unknown.
    pub(crate) cost: Option<Cost>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    pub(crate) input: f64,
    pub(crate) output: f64,
    pub(crate) cache_read: f64,
    pub(crate) cache_write: f64,
}

impl Cost {
    pub(crate) fn total(&self) -> f64 {
        self.input + self.output + self.cache_read + self.cache_write
    }
}

impl Usage {
    pub(crate) fn total_input(&self) -> u64 {
        self.input + self.cache_read + self.cache_write
    }

    /// A sum has a cost only where every part has one.
    pub(crate) fn add(&mut self, other: &Usage) {
        let first = self.total() == 0;
        self.output += other.output;
        self.input += other.input;
        self.cache_read += other.cache_read;
        self.cache_write += other.cache_write;
        self.cost = match (self.cost, other.cost) {
            (Some(a), Some(b)) => Some(Cost {
                input: a.input + b.input,
                output: a.output + b.output,
                cache_read: a.cache_read + b.cache_read,
                cache_write: a.cache_write + b.cache_write,
            }),
            (None, cost) if first => cost,
            _ => None,
        };
    }

    /// All four counts: how full the window was after this reply.
    pub(crate) fn total(&self) -> u64 {
        self.input + self.output + self.cache_read + self.cache_write
    }
}

/// A count of tokens in what a server or a file says; an absurd one is cut, so that sums fit.
pub(crate) fn token_count(value: &Value) -> Option<u64> {
    value.as_u64().map(|count| count.min(1 << 40))
}

/// A model as far as we know it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Model {
    /// `anthropic`, `openai`, `offline`, ...
    pub(crate) provider: &'static str,
    /// `anthropic-messages`, `openai-completions`, `openai-responses`, `offline`
    pub(crate) api: &'static str,
    pub(crate) id: String,
    /// Tokens.
    pub(crate) context_window: u64,
    pub(crate) output_tokens_max: u32,
    pub(crate) price: Option<Price>,
    pub(crate) takes_images: bool,
}

/// Dollars per million tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Price {
    pub(crate) input: f64,
    pub(crate) output: f64,
    pub(crate) cache_read: f64,
    /// For the cache lifetime in use.
    pub(crate) cache_write: f64,
    /// Input tokens above which a request is dearer, and the factors for input and output.
    pub(crate) step: Option<(u64, f64, f64)>,
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::models::CacheLifetime;
    use super::*;
    use crate::agent::session;

    pub(super) fn model(provider: &str, id: &str) -> Model {
        let service = models::find_service(provider).unwrap();
        models::model(service, id, CacheLifetime::FiveMinutes)
    }

    pub(super) const TOOLS: &[ToolSpec] = &[ToolSpec {
        name: "bash",
        description: "Runs",
        schema: r#"{"z":1,"a":2}"#,
    }];

    pub(super) fn turn(messages: &[Message]) -> Turn<'_> {
        Turn {
            system: "",
            messages,
            run_start: 0,
            tools: TOOLS,
            output_tokens_max: 16_000,
        }
    }

    pub(super) fn user(text: &str) -> Message {
        Message::user(text.to_owned(), 0)
    }

    /// As user message, with `len` bytes of base64.
    pub(super) fn image(text: &str, len: usize) -> Message {
        let image = Image {
            mime: "image/png".to_owned(),
            data: "A".repeat(len),
        };
        Message::User {
            content: vec![Content::Image(image), Content::Text(text.to_owned())],
            timestamp_ms: 0,
        }
    }

    pub(super) fn said(blocks: Vec<Block>) -> Message {
        Message::Assistant(Assistant {
            blocks,
            api: "anthropic-messages".to_owned(),
            provider: "anthropic".to_owned(),
            model: "claude-sonnet-5-5".to_owned(),
            usage: Usage::default(),
            stop_reason: StopReason::ToolUse,
            timestamp_ms: 0,
        })
    }

    pub(super) use super::draft::thinking as thought;

    /// Feeds the chunks of a transcript to `event`: what was shown meanwhile, thinking in brackets.
    pub(super) fn replay(
        chunks: &[&[u8]],
        event: &mut dyn FnMut(&str, &mut OnDelta<'_>) -> Result<ControlFlow<()>>,
    ) -> (String, Result<()>) {
        let mut deltas = String::new();
        let mut on_delta = |delta: Delta<'_>| match delta {
            Delta::Text(piece) => deltas += piece,
            Delta::Thinking(piece) => deltas += &format!("({piece})"),
        };
        let fed = sse::tests::feed(chunks, &mut |data| event(data, &mut on_delta));
        (deltas, fed)
    }

    pub(super) fn call(id: &str, name: &str) -> Block {
        Block::ToolCall(ToolCall {
            id: id.to_owned(),
            name: name.to_owned(),
            arguments: r#"{"b":1, "a":2}"#.to_owned(),
            signature: None,
        })
    }

    pub(super) fn result(call_id: &str, text: &str) -> Message {
        Message::ToolResult(ToolResult {
            call_id: call_id.to_owned(),
            name: "bash".to_owned(),
            content: vec![Content::Text(text.to_owned())],
            is_error: false,
            timestamp_ms: 0,
        })
    }

    /// What a provider makes of hostile streams, however they are cut. `replay` gives the
    /// deltas and the reply.
    pub(super) fn survive_stream(
        corpus: &[&str],
        replay: impl Fn(&[&[u8]]) -> (String, call::Tried<Reply>),
    ) {
        crate::mutate::survive(corpus, |random, input| {
            let (deltas, reply) = replay(&[input]);
            let (same, again) = replay(&random.chunks(input));
            assert_eq!((&deltas, reply.is_ok()), (&same, again.is_ok()));
            let Ok(reply) = reply else {
                return;
            };
            let Message::Assistant(said) = said(reply.blocks) else {
                return;
            };
            let cost = Some(Cost::default());
            let usage = Usage {
                cost,
                ..reply.usage
            };
            let said = Message::Assistant(Assistant { usage, ..said });
            let line = format!(
                r#"{{"type":"message","message":{}}}"#,
                session::write(&said)
            );
            let entry = serde_json::from_str(&line).unwrap();
            assert_eq!(session::parse(&entry, &line), Some(said));
            assert!(!line.contains(['\n', '\r']));
        });
    }

    /// Requests made of what hostile session files hold are JSON, however deep it nests.
    pub(super) fn survive_history(model: &Model, request: impl Fn(&Turn<'_>) -> String) {
        let mut call = call("call 1", "bash");
        if let Block::ToolCall(call) = &mut call {
            call.signature = Some("s".to_owned());
        }
        let thoughts = [
            ("hm", "sig"),
            ("", r#"[{"type":"x"}]"#),
            ("a", r#"{"id":1}"#),
        ];
        let mut blocks: Vec<Block> = thoughts.map(|(text, sig)| thought(text, sig)).into();
        blocks.extend([Block::Text("b".to_owned()), call.clone(), call]);
        let mut asked = said(blocks);
        if let Message::Assistant(said) = &mut asked {
            said.api = model.api.to_owned();
            said.provider = model.provider.to_owned();
            said.model.clone_from(&model.id);
        }
        let history = [image("é", 4), asked, result("call 1", "c"), user("d")];
        let line = |message| {
            format!(
                "{{\"type\":\"message\",\"message\":{}}}\n",
                session::write(message)
            )
        };
        let history: String = history.iter().map(line).collect();
        crate::mutate::survive_some(20_000, &[&history], |random, input| {
            let text = String::from_utf8_lossy(input);
            let entry = |line| session::parse(&serde_json::from_str(line).ok()?, line);
            let messages: Vec<Message> = text.lines().filter_map(entry).collect();
            let run_start = random.below(messages.len() + 1);
            let system = if random.below(2) == 0 { "" } else { "S" };
            let body = request(&Turn {
                run_start,
                system,
                ..turn(&messages)
            });
            serde_json::from_str::<&serde_json::value::RawValue>(&body).expect(&body);
        });
    }
}
