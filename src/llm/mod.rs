//! Language models. What enters: a `Turn` (system prompt, messages, tools). What leaves: a
//! `Reply`, its text piece by piece on the way, or an `Error` that says whether another try
//! may help. `services` turns `PROVIDER/ID` into a `Provider`; `call` makes one request of a
//! turn (`request`, `pictures`), sends it (`endpoint`, `sse`) and reads the reply (`reply`);
//! `anthropic`, `openai` and `responses` are the three wire formats. The `Client` in `call`
//! owns what is learned from a server while mom runs; nothing is kept on disk.

mod anthropic;
mod arguments;
mod call;
mod endpoint;
mod learned;
pub(crate) mod models;
mod offline;
mod openai;
mod pictures;
mod probe;
mod refusal;
mod reply;
mod request;
mod responses;
mod services;
mod sse;

pub(crate) use reply::BLOCKS_MAX;
pub(crate) use services::{Sources, check, open};

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::error::Result;
use crate::base::stop::Stop;

/// A language model behind some wire format.
pub(crate) trait Provider: Send + Sync {
    /// What is known of the model now: its window may be learned from the server later.
    fn model(&self) -> Arc<Model>;

    /// One model turn. Blocks until the stream has ended; `on_text` gets the text piece by
    /// piece. The caller retries (`Error::worth_retrying`) and compacts (`ContextFull`).
    fn stream(&self, turn: &Turn<'_>, stop: &Stop, on_text: &mut OnText<'_>) -> Result<Reply>;
}

pub(crate) type OnText<'a> = dyn FnMut(&str) + 'a;

/// Tells the model that its run was cut by a restart and goes on.
pub(crate) const RESUMED: &str = "[mom was restarted while she worked on this. What was done \
    before stands above; a tool call without a result may or may not have taken effect. Go on \
    from there.]";

/// Everything one request is made of.
pub(crate) struct Turn<'a> {
    /// Byte-stable during a run (signed thinking and prompt caches depend on it). Empty for none.
    pub(crate) system: &'a str,
    pub(crate) messages: &'a [Message],
    /// Index of the first message of the present run: thinking before it is left out, and the
    /// message before it gets a cache breakpoint.
    pub(crate) run_start: usize,
    /// Empty for a summary.
    pub(crate) tools: &'a [ToolSpec],
    /// Tokens, thinking included; capped by the model's own maximum.
    pub(crate) output_tokens_max: u32,
}

/// A tool as it is described to the model. `schema` is a JSON object as text.
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

    /// The content that a person or a tool wrote; empty for the model's own messages.
    pub(crate) fn content(&self) -> &[Content] {
        match self {
            Message::User { content, .. } => content,
            Message::ToolResult(result) => &result.content,
            Message::Assistant(_) => &[],
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    Text(String),
    Image(Image),
}

/// The texts of the content, joined by line breaks.
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
    /// The picture's path as the tools see it; empty if unknown.
    pub(crate) name: String,
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
    /// A JSON object on one line, as the model wrote it or as `arguments` repaired it. A text
    /// that is no JSON is put in it as `invalid_json`, with the reason as `why`. A call that was
    /// cut off never becomes a `ToolCall` (`Reply::cut_call`).
    pub(crate) arguments: String,
    /// Gemini's `thought_signature`, to be echoed with the call.
    pub(crate) signature: Option<String>,
}

/// Why the model stopped, as the session format names the outcomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum StopReason {
    /// `stop`: the model was done.
    Stop,
    /// `length`: the output limit was reached.
    Length,
    /// `toolUse`
    ToolUse,
    /// `error`: the message stays in the file and is never sent to a model again.
    Error,
    /// `aborted`: the same.
    Aborted,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply {
    pub(crate) blocks: Vec<Block>,
    pub(crate) stop_reason: StopReason,
    /// The model declined (stop reason `refusal`, `content_filter`): the reason it gives.
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
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

    /// The sum of all four counts: how full the window was after this reply.
    pub(crate) fn total(&self) -> u64 {
        self.input + self.output + self.cache_read + self.cache_write
    }
}

/// A count of tokens that a server or a file gives; an absurd one is lowered, so that sums fit.
pub(crate) fn token_count(value: &Value) -> Option<u64> {
    value.as_u64().map(|count| count.min(1 << 40))
}

/// What is known of a model.
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
    /// `None` when unknown: costs are left out then.
    pub(crate) price: Option<models::Price>,
    pub(crate) takes_images: bool,
}

#[cfg(test)]
mod tests {
    use super::models::CacheLifetime;
    use super::*;
    use crate::agent::session;

    pub(super) fn model(provider: &str, id: &str) -> Model {
        let service = services::find(provider).unwrap();
        models::model(service.name, service.api, id, CacheLifetime::FiveMinutes)
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

    /// A picture's header in base64, with this width, and this many more bytes.
    pub(super) fn png(width: u32, bytes: usize) -> String {
        use base64::Engine as _;
        let (width, height) = (width.to_be_bytes(), 1_u32.to_be_bytes());
        let start: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
        let header = [start, &width, &height].concat();
        let header = base64::prelude::BASE64_STANDARD.encode(header);
        let more = "A".repeat(bytes.saturating_sub(header.len()));
        header + &more
    }

    /// A user message with a picture of this width and at least this many bytes of base64.
    pub(super) fn picture(text: &str, width: u32, bytes: usize) -> Message {
        let image = Image {
            mime: "image/png".to_owned(),
            data: png(width, bytes),
            name: format!("/workspace/{width}.png"),
        };
        Message::User {
            content: vec![Content::Image(image), Content::Text(text.to_owned())],
            timestamp_ms: 0,
        }
    }

    /// What `write` makes of the turn's request to `model`.
    pub(super) fn outgoing<T>(
        turn: &Turn<'_>,
        model: &Model,
        write: impl FnOnce(&request::Outgoing<'_>) -> T,
    ) -> T {
        let endpoint = endpoint::Endpoint::for_tests(model.provider);
        let learned = learned::Learned::new(model.clone(), 0);
        let variation = request::Variation::default();
        write(&request::Outgoing::of(
            turn, &endpoint, &learned, &variation,
        ))
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

    pub(super) use super::reply::thinking as thought;

    /// The text that was shown and the reply, when `model` of `provider` streams these chunks.
    pub(super) fn replay(
        provider: &str,
        id: &str,
        chunks: &[&[u8]],
    ) -> (String, endpoint::Tried<Reply>) {
        let endpoint = endpoint::Endpoint::for_tests(provider);
        let client = call::Client::new(endpoint, model(provider, id), 0);
        let stream = sse::SseReader::new(sse::tests::Chunks(chunks.to_vec()));
        let mut text = String::new();
        let reply = client.read(stream, TOOLS, &Stop::new(), &mut |piece| text += piece);
        (text, reply)
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

    /// Feeds mutations of hostile streams to the reply reader; none may crash it.
    pub(super) fn survive_stream(provider: &str, id: &str, corpus: &[&str]) {
        crate::mutate::survive(corpus, |random, input| {
            let (deltas, reply) = replay(provider, id, &[input]);
            let (same, again) = replay(provider, id, &random.chunks(input));
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
    pub(super) fn survive_history(model: &Model) {
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
        let history = [picture("é", 1, 0), asked, result("call 1", "c"), user("d")];
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
            let turn = Turn {
                run_start,
                system,
                ..turn(&messages)
            };
            let body = outgoing(&turn, model, call::WireFormat::of(model).body).concat();
            serde_json::from_str::<&serde_json::value::RawValue>(&body).expect(&body);
        });
    }
}
