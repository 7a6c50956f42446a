//! A reply while it is streamed: pieces come in, a `Reply` goes out. For every wire format this
//! file decides what is a complete answer, what is a complete tool call, and how large a reply
//! may be.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::arguments;
use super::call::WireFormat;
use super::endpoint::{Fault, Tried};
use super::openai::ChunkState;
use super::refusal::{self, Refusal};
use super::services::Service;
use super::sse::StreamPart;
use super::{Block, Model, OnText, Reply, StopReason, ToolCall, ToolSpec, Usage};
use crate::base::error::{Error, ModelFault, Result};
use crate::base::json::{self, SplitPair};
use crate::base::log;
use crate::base::text;

/// Blocks of one reply; real ones have a few dozen.
pub(crate) const BLOCKS_MAX: usize = 1024;
/// Bytes of one reply: 128,000 tokens are less than one MB.
const REPLY_BYTES_MAX: usize = 8 << 20;
/// Bytes of the replies that all runs receive at one time.
const ALL_REPLIES_BYTES_MAX: usize = 32 << 20;

/// How the stream ended.
#[derive(Debug)]
pub(super) enum ReplyEnd {
    /// The model was done, or wants its tools run.
    Done,
    /// The output limit or the end of the window was reached.
    Cut,
    /// The model declined: the reason it gives.
    Refused(String),
    /// An error inside the stream.
    Failed(Refusal),
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
struct HeldBytes<'a> {
    own: usize,
    all: &'a AtomicUsize,
}

impl Drop for HeldBytes<'_> {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

pub(super) struct ReplyDraft<'a> {
    /// The arguments of calls are as much as has come so far: not yet JSON.
    pub(super) blocks: Vec<Block>,
    /// The stream's own number of each block that has one, with the block's index in `blocks`.
    places: Vec<(u64, usize)>,
    pub(super) usage: Usage,
    /// The text with which the model declines.
    pub(super) refusal: String,
    /// `None` until the server has given a reason that is known.
    pub(super) end: Option<ReplyEnd>,
    /// The server has said that nothing more comes.
    pub(super) is_closed: bool,
    /// State that only chat completions need.
    pub(super) chunks: ChunkState,
    pair: SplitPair,
    bytes: HeldBytes<'a>,
    on_text: &'a mut OnText<'a>,
}

impl<'a> ReplyDraft<'a> {
    /// `all` counts the bytes of the replies that come in at the same time.
    pub(super) fn new(on_text: &'a mut OnText<'a>, all: &'a AtomicUsize) -> ReplyDraft<'a> {
        ReplyDraft {
            blocks: Vec::new(),
            places: Vec::new(),
            usage: Usage::default(),
            refusal: String::new(),
            end: None,
            is_closed: false,
            chunks: ChunkState::default(),
            pair: SplitPair::default(),
            bytes: HeldBytes { own: 0, all },
            on_text,
        }
    }

    /// Adds one part of the stream.
    pub(super) fn event(&mut self, format: &WireFormat, part: StreamPart) -> Result<()> {
        match part {
            StreamPart::Event { name, data } if name == "error" => self.fail(&data),
            StreamPart::Event { data, .. } if data.trim() == "[DONE]" => self.is_closed = true,
            StreamPart::Event { data, .. } => self.value(&data, format.event)?,
            StreamPart::Whole(data) => {
                self.value(&data, format.whole)?;
                if self.end.is_none() && self.blocks.is_empty() {
                    self.fail(&data);
                }
                // The body is complete; without a known reason the answer in it may be cut off.
                self.is_closed = true;
            }
        }
        Ok(())
    }

    fn value(
        &mut self,
        data: &str,
        read: fn(&mut ReplyDraft<'_>, &Value) -> Result<()>,
    ) -> Result<()> {
        let value = self.pair.parse(data).map_err(|err| {
            let shown = text::one_line(data, 100);
            broken_off(format!(
                "the model's server sent an event that is not JSON: {err}: {shown}"
            ))
        })?;
        if refusal::is_error_object(&value) {
            self.fail(data);
            return Ok(());
        }
        read(self, &value)
    }

    /// Ends the reply as failed; `data` is the server's error.
    pub(super) fn fail(&mut self, data: &str) {
        self.end = Some(ReplyEnd::Failed(Refusal::read(data)));
        self.is_closed = true;
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

    /// Counts bytes that the reply holds in memory.
    ///
    /// # Errors
    /// `Failed` when the reply is larger than any model writes, `Retry` when other replies hold
    /// too many.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<()> {
        self.bytes.own += bytes;
        let all = self.bytes.all.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if self.bytes.own > REPLY_BYTES_MAX {
            let mb = REPLY_BYTES_MAX >> 20;
            let why = format!("the model's reply is larger than {mb} MB");
            return Err(Error::Failed(why));
        }
        if all > ALL_REPLIES_BYTES_MAX {
            let why = "too many large replies come in at the same time";
            return Err(Error::retry(why));
        }
        Ok(())
    }

    /// Like `push`, for a block that later events name by `index`.
    pub(super) fn open(&mut self, index: &Value, block: Block) -> Result<()> {
        let place = self.push(block)?;
        self.places.push((index.as_u64().unwrap_or(0), place));
        Ok(())
    }

    pub(super) fn at(&mut self, index: &Value) -> Option<&mut Block> {
        let place = self.place(index)?;
        self.blocks.get_mut(place)
    }

    fn place(&self, index: &Value) -> Option<usize> {
        let index = index.as_u64().unwrap_or(0);
        let mut places = self.places.iter().rev();
        let (_, place) = places.find(|(other, _)| *other == index)?;
        Some(*place)
    }

    /// Appends to the block `index`, if its type allows such a piece.
    pub(super) fn add(&mut self, index: &Value, kind: PieceKind, piece: &str) -> Result<()> {
        match self.place(index) {
            Some(place) => self.append(place, kind, piece),
            None => Ok(()),
        }
    }

    /// Appends to the last block when it is text, else opens one.
    pub(super) fn text(&mut self, piece: &str) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        if !matches!(self.blocks.last(), Some(Block::Text(_))) {
            self.push(Block::Text(String::new()))?;
        }
        self.append(self.blocks.len() - 1, PieceKind::Text, piece)
    }

    /// Like `text`, for thinking that came in the field `source`.
    pub(super) fn thinking(&mut self, piece: &str, source: &str) -> Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        let last = self.blocks.last();
        if !matches!(last, Some(Block::Thinking { signature, .. }) if signature == source) {
            self.push(thinking("", source))?;
        }
        self.append(self.blocks.len() - 1, PieceKind::Thinking, piece)
    }

    fn append(&mut self, place: usize, kind: PieceKind, piece: &str) -> Result<()> {
        self.grow(piece.len())?;
        match (&mut self.blocks[place], kind) {
            (Block::Text(text), PieceKind::Text) => {
                *text += piece;
                (self.on_text)(piece);
            }
            (Block::Thinking { redacted: true, .. }, _) => {}
            (Block::Thinking { text, .. }, PieceKind::Thinking) => *text += piece,
            (Block::Thinking { signature, .. }, PieceKind::Signature) => *signature += piece,
            (Block::ToolCall(call), PieceKind::Arguments) => call.arguments += piece,
            _ => {}
        }
        Ok(())
    }

    /// The reply, once the stream has ended.
    pub(super) fn finish(
        mut self,
        model: &Model,
        service: &Service,
        tools: &[ToolSpec],
    ) -> Tried<Reply> {
        self.check_window(model, service)?;
        let mut is_cut = false;
        match self.end.take() {
            None => return Err(broken_off("the model's answer broke off before its end").into()),
            Some(ReplyEnd::Failed(refusal)) => return Err(Fault::Refused(refusal)),
            Some(ReplyEnd::Refused(why)) => self.refusal = why,
            Some(ReplyEnd::Cut) => is_cut = true,
            Some(ReplyEnd::Done) => {}
        }
        super::openai::finish(&mut self)?;
        let mut reply = Reply {
            blocks: Vec::new(),
            stop_reason: StopReason::Stop,
            refusal: None,
            cut_call: None,
            usage: self.priced(model),
        };
        if !self.refusal.is_empty() {
            reply.refusal = Some(self.refusal);
            return Ok(reply);
        }
        if is_cut {
            reply.cut_call = self.take_cut_call();
        }
        self.blocks.retain_mut(|block| keep(block, tools));
        // The server's stop reason is less reliable than the calls themselves.
        let has_calls = self
            .blocks
            .iter()
            .any(|block| matches!(block, Block::ToolCall(_)));
        if reply.cut_call.is_some() || (is_cut && !has_calls) {
            reply.stop_reason = StopReason::Length;
        } else if has_calls {
            reply.stop_reason = StopReason::ToolUse;
        }
        if !has_calls {
            self.chunks.reject_calls_in_text(&self.blocks, tools)?;
        }
        reply.blocks = self.blocks;
        Ok(reply)
    }

    /// The usage with its cost: the server's figure, else by the table of models.
    fn priced(&self, model: &Model) -> Usage {
        let usage = self.usage;
        let by_table = || model.price.map(|price| price.cost(&usage));
        let cost = usage.cost.or_else(by_table);
        Usage { cost, ..usage }
    }

    /// Removes the call that was cut off and returns its name. Only the last block can be one.
    fn take_cut_call(&mut self) -> Option<String> {
        match self.blocks.last() {
            Some(Block::ToolCall(call)) if !json::is_whole(call.arguments.trim(), '{') => {
                let name = call.name.clone();
                self.blocks.pop();
                Some(name)
            }
            _ => None,
        }
    }

    /// Some servers cut a long prompt without an error, or leave no room for an answer.
    fn check_window(&self, model: &Model, service: &Service) -> Result<()> {
        let (input, window) = (self.usage.total_input(), model.context_window);
        let is_full = match self.end {
            Some(ReplyEnd::Done) => service.local.is_some() && input > window,
            Some(ReplyEnd::Cut) => {
                self.usage.output == 0 && input > 0 && input >= window / 100 * 99
            }
            _ => false,
        };
        if !is_full {
            return Ok(());
        }
        let text = format!(
            "{} was given {input} tokens, more than its window",
            model.id
        );
        Err(Error::ContextFull(text))
    }
}

pub(super) fn broken_off(why: impl Into<String>) -> Error {
    Error::model_retry(ModelFault::BrokenOff, why)
}

/// Whether the block has content. A call's name and arguments are repaired for the tools.
fn keep(block: &mut Block, tools: &[ToolSpec]) -> bool {
    match block {
        Block::Text(text) => !text.trim().is_empty(),
        Block::Thinking {
            text, signature, ..
        } => !text.is_empty() || !signature.is_empty(),
        Block::ToolCall(call) => {
            let name = arguments::canonical_name(&call.name, tools);
            if name != call.name {
                log::info!("", "the model called {:?}; read as {name}", call.name);
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
