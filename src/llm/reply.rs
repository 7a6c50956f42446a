//! A reply while it is streamed: pieces come in, a `Reply` goes out. What counts as a whole
//! answer, what as a whole tool call, and how much a reply may hold is decided here for every
//! wire format.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::arguments;
use super::call::WireFormat;
use super::endpoint::{Fault, Tried};
use super::openai::ChunkState;
use super::refusal::{self, Refusal};
use super::services::Service;
use super::sse::{SplitPair, StreamPart};
use super::{Block, Model, OnText, Reply, StopReason, ToolCall, ToolSpec, Usage};
use crate::base::error::{Error, ModelFault, Result};
use crate::base::json;
use crate::base::log;
use crate::base::text;

/// Blocks of one reply; real ones have a few dozen.
pub(crate) const BLOCKS_MAX: usize = 1024;
/// Bytes of one reply: 128,000 tokens are less than one MB.
const REPLY_BYTES_MAX: usize = 8 << 20;
/// Bytes of the replies that all runs receive at one time.
const ALL_REPLIES_BYTES_MAX: usize = 32 << 20;
/// Above this the number of values in an event is looked at before it is parsed.
const EVENT_BYTES_HARMLESS: usize = 1 << 20;

/// How the stream ended, in the provider's words.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ReplyEnd {
    /// The model was done, or wants its tools run.
    Done,
    /// The output limit, or the end of the window.
    Cut,
    /// The model declined: the reason it gives.
    Refused(String),
}

impl ReplyEnd {
    pub(super) fn filtered() -> ReplyEnd {
        ReplyEnd::Refused("the provider's content filter".to_owned())
    }
}

/// What a piece of a block belongs to.
#[derive(Clone, Copy)]
pub(super) enum PieceKind {
    Text,
    Thinking,
    Signature,
    Arguments,
}

/// The bytes of this reply, counted among those of all replies until it is dropped.
#[derive(Debug, Default)]
struct HeldBytes {
    own: usize,
    all: Arc<AtomicUsize>,
}

impl HeldBytes {
    fn add(&mut self, bytes: usize) -> Result<()> {
        self.own += bytes;
        let all = self.all.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.own > REPLY_BYTES_MAX {
            let mb = REPLY_BYTES_MAX >> 20;
            return Err(Error::failed(format!(
                "the model's reply is larger than {mb} MB"
            )));
        }
        if all > ALL_REPLIES_BYTES_MAX {
            return Err(Error::retry(
                "too many large replies come in at the same time",
            ));
        }
        Ok(())
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

struct Received {
    pair: SplitPair,
    bytes: HeldBytes,
}

pub(super) struct ReplyDraft<'a> {
    /// Arguments of calls as far as they have come: not yet JSON.
    pub(super) blocks: Vec<Block>,
    /// The stream's own number of each block that has one, and its place in `blocks`.
    places: Vec<(u64, usize)>,
    pub(super) usage: Usage,
    /// What the model says when it declines.
    pub(super) refusal: String,
    /// An error inside the stream.
    failure: Option<Refusal>,
    /// `None` until the server has given a reason that is known.
    pub(super) end: Option<ReplyEnd>,
    /// The server has said that nothing more comes.
    pub(super) is_closed: bool,
    /// What only chat completions need.
    pub(super) chunks: ChunkState,
    received: Received,
    on_text: &'a mut OnText<'a>,
}

/// A finished reply, and whether the server named the reason of its end.
pub(super) enum Finished {
    Named(Reply),
    /// It ended in order, without a reason: it may be whole or not.
    Unnamed(Reply),
}

impl<'a> ReplyDraft<'a> {
    /// `all` counts the bytes of the replies that come in at the same time.
    pub(super) fn new(on_text: &'a mut OnText<'a>, all: Arc<AtomicUsize>) -> ReplyDraft<'a> {
        ReplyDraft {
            blocks: Vec::new(),
            places: Vec::new(),
            usage: Usage::default(),
            refusal: String::new(),
            failure: None,
            end: None,
            is_closed: false,
            chunks: ChunkState::default(),
            received: Received {
                pair: SplitPair::default(),
                bytes: HeldBytes { own: 0, all },
            },
            on_text,
        }
    }

    /// Takes one part of the stream; breaks when nothing more is to come.
    pub(super) fn event(
        &mut self,
        format: &WireFormat,
        part: StreamPart<'_>,
    ) -> Result<ControlFlow<()>> {
        let (data, read) = match part {
            StreamPart::Event {
                name: "error",
                data,
            } => {
                self.fail(data);
                return Ok(ControlFlow::Break(()));
            }
            StreamPart::Event { data, .. } if data.trim() == "[DONE]" => {
                self.is_closed = true;
                return Ok(ControlFlow::Break(()));
            }
            StreamPart::Event { data, .. } => (data, format.event),
            StreamPart::Whole(data) => (data, format.whole),
        };
        let value = self.parse(data)?;
        if refusal::is_error_object(&value) {
            self.fail(data);
        } else {
            read(self, &value)?;
        }
        if let StreamPart::Whole(_) = part {
            self.is_closed = true;
            if self.end.is_none() && self.blocks.is_empty() {
                self.fail(data);
            }
            // It has come whole, with its last bracket.
            self.end.get_or_insert(ReplyEnd::Done);
        }
        Ok(match (self.is_closed, &self.failure) {
            (false, None) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        })
    }

    fn parse(&mut self, data: &str) -> Result<Value> {
        let data = match data.contains("\\u") {
            true => self.received.pair.join(data),
            false => data.into(),
        };
        if data.len() > EVENT_BYTES_HARMLESS && json::parse_line(data.as_bytes()).is_none() {
            return Err(broken_off(
                "the model's server sent an event that is not JSON",
            ));
        }
        json::parse_lenient(&data).map_err(|err| {
            let shown = text::one_line(&data, 100);
            broken_off(format!(
                "the model's server sent an event that is not JSON: {err}: {shown}"
            ))
        })
    }

    /// The server says, in `data`, that it has failed.
    pub(super) fn fail(&mut self, data: &str) {
        self.failure = Some(Refusal::read(data));
    }

    /// # Errors
    /// `Failed` when the reply has more blocks than any model writes.
    pub(super) fn push(&mut self, block: Block) -> Result<usize> {
        if self.blocks.len() == BLOCKS_MAX {
            let why = format!("the model's reply has more than {BLOCKS_MAX} blocks");
            return Err(Error::Failed(why));
        }
        self.blocks.push(block);
        Ok(self.blocks.len() - 1)
    }

    /// Counts bytes that the reply keeps.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<()> {
        self.received.bytes.add(bytes)
    }

    /// The same for a block that later events name by `index`.
    pub(super) fn open(&mut self, index: &Value, block: Block) -> Result<()> {
        let place = self.push(block)?;
        self.places.push((index.as_u64().unwrap_or(0), place));
        Ok(())
    }

    pub(super) fn at(&mut self, index: &Value) -> Option<&mut Block> {
        let index = index.as_u64().unwrap_or(0);
        let mut places = self.places.iter().rev();
        let (_, place) = places.find(|(other, _)| *other == index)?;
        self.blocks.get_mut(*place)
    }

    /// Appends to the block `index`, if it is one that such a piece belongs to.
    pub(super) fn add(&mut self, index: &Value, kind: PieceKind, piece: &str) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        self.grow(piece.len())?;
        match (self.at(index), kind) {
            (Some(Block::Text(text)), PieceKind::Text) => {
                text.push_str(piece);
                (self.on_text)(piece);
            }
            (Some(Block::Thinking { redacted: true, .. }), _) => {}
            (Some(Block::Thinking { text, .. }), PieceKind::Thinking) => text.push_str(piece),
            (Some(Block::Thinking { signature, .. }), PieceKind::Signature) => {
                signature.push_str(piece);
            }
            (Some(Block::ToolCall(call)), PieceKind::Arguments) => call.arguments.push_str(piece),
            _ => {}
        }
        Ok(())
    }

    /// Appends to the last block when it is text, else opens one.
    pub(super) fn text(&mut self, piece: &str) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        self.grow(piece.len())?;
        (self.on_text)(piece);
        if let Some(Block::Text(text)) = self.blocks.last_mut() {
            text.push_str(piece);
            return Ok(());
        }
        self.push(Block::Text(piece.to_owned())).map(drop)
    }

    /// The same for thinking that came in the field `source`.
    pub(super) fn thinking(&mut self, piece: &str, source: &str) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        self.grow(piece.len())?;
        match self.blocks.last_mut() {
            Some(Block::Thinking {
                text, signature, ..
            }) if signature == source => {
                text.push_str(piece);
                Ok(())
            }
            _ => self.push(thinking(piece, source)).map(drop),
        }
    }

    pub(super) fn finish(
        mut self,
        model: &Model,
        service: &Service,
        tools: &[ToolSpec],
    ) -> Tried<Finished> {
        let needs_close = WireFormat::of(model).needs_close;
        if let Some(failure) = self.failure {
            return Err(Fault::Refused(failure));
        }
        super::openai::finish(&mut self)?;
        if self.overflowed(model, service) {
            let (id, input) = (&model.id, self.usage.total_input());
            let text = format!("{id} was given {input} tokens, more than its window");
            return Err(Error::ContextFull(text).into());
        }
        if needs_close && !self.is_closed {
            self.end = None;
        }
        let is_named = self.end.is_some();
        let Some(end) = self.end.or(self.is_closed.then_some(ReplyEnd::Done)) else {
            return Err(broken_off("the model's answer broke off before its end").into());
        };
        let cost = self.usage.cost;
        let mut reply = Reply {
            blocks: Vec::new(),
            stop_reason: StopReason::Stop,
            refusal: None,
            cut_call: None,
            usage: Usage {
                cost: cost.or(model.price.map(|price| price.cost(&self.usage))),
                ..self.usage
            },
        };
        let declined = Some(self.refusal).filter(|text| !text.is_empty());
        reply.refusal = match &end {
            ReplyEnd::Refused(why) => Some(why.clone()),
            _ => declined,
        };
        if reply.refusal.is_some() {
            return Ok(Finished::Named(reply));
        }
        // Only the last block can have been cut off.
        if let (ReplyEnd::Cut, Some(Block::ToolCall(call))) = (&end, self.blocks.last()) {
            if call.arguments.is_empty() || !json::is_whole(call.arguments.trim(), '{') {
                reply.cut_call = Some(call.name.clone());
                self.blocks.pop();
            }
        }
        self.blocks.retain_mut(|block| keep(block, tools));
        // What the server says of tools is less reliable than the calls themselves.
        let is_call = |block: &Block| matches!(block, Block::ToolCall(_));
        let calls = self.blocks.iter().any(is_call);
        reply.stop_reason = match end {
            ReplyEnd::Cut if reply.cut_call.is_some() || !calls => StopReason::Length,
            _ if calls => StopReason::ToolUse,
            _ => StopReason::Stop,
        };
        reply.blocks = self.blocks;
        if !calls {
            self.chunks.reject_calls_in_text(&reply.blocks, tools)?;
        }
        match (is_named, reply.blocks.is_empty()) {
            (true, _) => Ok(Finished::Named(reply)),
            (false, false) => Ok(Finished::Unnamed(reply)),
            (false, true) => Err(broken_off("the model's server ended without an answer").into()),
        }
    }

    /// Servers that cut a long prompt in silence, or leave no room for an answer.
    fn overflowed(&self, model: &Model, service: &Service) -> bool {
        let (input, window) = (self.usage.total_input(), model.context_window);
        match self.end {
            Some(ReplyEnd::Done) => service.local.is_some() && input > window,
            Some(ReplyEnd::Cut) => {
                self.usage.output == 0 && input > 0 && input >= window / 100 * 99
            }
            _ => false,
        }
    }
}

pub(super) fn broken_off(why: impl Into<String>) -> Error {
    Error::model_retry(ModelFault::BrokenOff, why)
}

/// Whether the block says anything; the call in it as the tools are to get it.
fn keep(block: &mut Block, tools: &[ToolSpec]) -> bool {
    match block {
        Block::Text(text) => !text.trim().is_empty(),
        Block::Thinking {
            text, signature, ..
        } => !text.is_empty() || !signature.is_empty(),
        Block::ToolCall(call) => {
            let name = arguments::canonical_name(&call.name, tools);
            if name != call.name {
                log::info!(
                    "",
                    "the model's call of {:?} is taken for {name}",
                    call.name
                );
                call.name = name.to_owned();
            }
            let whole = arguments::read(&call.arguments);
            call.arguments = whole.unwrap_or_else(|| arguments::broken(&call.arguments));
            true
        }
    }
}

pub(super) fn thinking(text: &str, signature: &str) -> Block {
    Block::Thinking {
        text: text.to_owned(),
        signature: signature.to_owned(),
        redacted: false,
    }
}

pub(super) fn call(id: &str, name: &str) -> Block {
    Block::ToolCall(ToolCall {
        id: id.to_owned(),
        name: name.to_owned(),
        arguments: String::new(),
        signature: None,
    })
}
