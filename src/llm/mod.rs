//! What the run loop and the providers say to each other: messages in, a streamed reply
//! out. One file per wire format beside this one; `open` picks by `PROVIDER/ID`.

use std::time::Duration;

use crate::error::Result;
use crate::stop::Stop;

/// A language model behind some wire format. The only trait of ours.
pub(crate) trait Provider: Send + Sync {
    fn model(&self) -> &Model;

    /// One model turn. Blocks until the stream has ended; `on_delta` sees the text as it
    /// comes. `Error::Retry` and `Error::ContextFull` are the caller's to act on.
    fn stream(
        &self,
        turn: &Turn<'_>,
        stop: &Stop,
        on_delta: &mut dyn FnMut(Delta<'_>),
    ) -> Result<Reply>;
}

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

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Content {
    Text(String),
    Image(Image),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Image {
    /// `image/png`, `image/jpeg`, `image/gif` or `image/webp`, found by magic bytes.
    pub(crate) mime: String,
    /// Base64.
    pub(crate) data: String,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ToolResult {
    pub(crate) call_id: String,
    pub(crate) name: String,
    pub(crate) content: Vec<Content>,
    pub(crate) is_error: bool,
    /// A JSON object for the session file, not for the model.
    pub(crate) details: Option<String>,
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
    /// A JSON object, byte for byte as the model wrote it (whole and valid: a call that was
    /// cut off never becomes a `ToolCall`; see `Reply::cut_call`).
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
    /// All four counts: how full the window was after this reply.
    pub(crate) fn total(&self) -> u64 {
        self.input + self.output + self.cache_read + self.cache_write
    }
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
}

/// How long a stream may be silent before it counts as stalled (PRODUCT.md, section 3).
pub(crate) const STREAM_IDLE_MAX: Duration = Duration::from_secs(120);
/// Before the first byte of a local server, which may be loading the model.
pub(crate) const LOCAL_FIRST_BYTE_MAX: Duration = Duration::from_secs(600);
