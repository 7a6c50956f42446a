//! A reply while it is streamed: pieces come in, a `Reply` goes out. What counts as a whole
//! tool call, and what an ending means, is decided here for every wire format.

use std::ops::ControlFlow;

use serde_json::Value;

use super::call::{Fault, Refusal, Tried};
use super::{Block, Delta, Model, OnDelta, Reply, StopReason, ToolCall, Usage};
use crate::base::error::{Error, Result};
use crate::base::log;

/// Blocks of one reply; real ones have a few dozen.
pub(crate) const BLOCKS_MAX: usize = 1024;

/// How the stream ended, in the provider's words.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum End {
    /// The model was done, or wants its tools run.
    Done,
    /// The output limit, or the end of the window.
    Cut,
    /// What the provider says of it.
    Refused(String),
}

impl End {
    /// A reason that is not known is taken for the end of the turn.
    pub(super) fn unknown(reason: &str) -> End {
        log::warning!("", "stop reason {reason:?} taken as the end of the turn");
        End::Done
    }

    pub(super) fn filtered() -> End {
        End::Refused("the provider's content filter".to_owned())
    }
}

/// What a piece of a block belongs to.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    Thinking,
    Signature,
    Arguments,
}

#[derive(Debug, Default)]
pub(super) struct Draft {
    /// Arguments of calls as far as they have come: not yet JSON.
    pub(super) blocks: Vec<Block>,
    /// The stream's own number of each block that has one, and its place in `blocks`.
    places: Vec<(u64, usize)>,
    pub(super) usage: Usage,
    /// What the model says when it declines.
    pub(super) refusal: String,
    /// An error inside the stream.
    pub(super) failure: Option<Refusal>,
    /// `None` until all is said.
    pub(super) end: Option<End>,
}

impl Draft {
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
    pub(super) fn add(
        &mut self,
        index: &Value,
        kind: Kind,
        piece: &str,
        on_delta: &mut OnDelta<'_>,
    ) {
        if piece.is_empty() {
            return;
        }
        match (self.at(index), kind) {
            (Some(Block::Text(text)), Kind::Text) => {
                text.push_str(piece);
                on_delta(Delta::Text(piece));
            }
            (Some(Block::Thinking { redacted: true, .. }), _) => {}
            (Some(Block::Thinking { text, .. }), Kind::Thinking) => {
                text.push_str(piece);
                on_delta(Delta::Thinking(piece));
            }
            (Some(Block::Thinking { signature, .. }), Kind::Signature) => {
                signature.push_str(piece);
            }
            (Some(Block::ToolCall(call)), Kind::Arguments) => call.arguments.push_str(piece),
            _ => {}
        }
    }

    /// Appends to the last block when it is text, else opens one.
    pub(super) fn text(&mut self, piece: &str) -> Result<()> {
        if let Some(Block::Text(text)) = self.blocks.last_mut() {
            text.push_str(piece);
            return Ok(());
        }
        self.push(Block::Text(piece.to_owned())).map(drop)
    }

    /// Likewise for thinking that came in the field `source`.
    pub(super) fn thinking(&mut self, piece: &str, source: &str) -> Result<()> {
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

    /// Whether the stream has more to say.
    pub(super) fn flow(&self) -> ControlFlow<()> {
        match (&self.end, &self.failure) {
            (None, None) => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }

    pub(super) fn finish(mut self, model: &Model) -> Tried<Reply> {
        if let Some(failure) = self.failure {
            return Err(Fault::Refused(failure));
        }
        let Some(end) = self.end else {
            return Err(Error::retry("the model's answer broke off before its end").into());
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
        if let End::Refused(why) = end {
            reply.refusal = Some(why);
            return Ok(reply);
        }
        if !self.refusal.is_empty() {
            reply.refusal = Some(self.refusal);
            return Ok(reply);
        }
        // Only the last block can have been cut off.
        if let (End::Cut, Some(Block::ToolCall(call))) = (&end, self.blocks.last()) {
            if call.arguments.is_empty() || arguments(&call.arguments).is_none() {
                reply.cut_call = Some(call.name.clone());
                self.blocks.pop();
            }
        }
        self.blocks.retain_mut(|block| match block {
            Block::Text(text) => !text.trim().is_empty(),
            Block::Thinking {
                text, signature, ..
            } => !text.is_empty() || !signature.is_empty(),
            Block::ToolCall(call) => {
                let whole = arguments(&call.arguments);
                call.arguments = whole.unwrap_or_else(|| broken(&call.arguments));
                true
            }
        });
        // What the server says of tools is less reliable than the calls themselves.
        let is_call = |block: &Block| matches!(block, Block::ToolCall(_));
        let calls = self.blocks.iter().any(is_call);
        reply.stop_reason = match end {
            End::Cut if reply.cut_call.is_some() || !calls => StopReason::Length,
            _ if calls => StopReason::ToolUse,
            _ => StopReason::Stop,
        };
        reply.blocks = self.blocks;
        Ok(reply)
    }
}

/// The arguments as one line that is a JSON object, or `None` when they are none.
fn arguments(text: &str) -> Option<String> {
    match serde_json::from_str(text.trim()) {
        // A line break can stand between tokens only: within a string it is escaped.
        Ok(Value::Object(_)) => Some(text.trim().replace(['\n', '\r'], " ")),
        Ok(Value::Null) => Some("{}".to_owned()),
        // Some local models write the object as a string.
        Ok(Value::String(inner)) if inner.trim_start().starts_with('{') => arguments(&inner),
        Ok(_) => None,
        Err(_) => text.trim().is_empty().then(|| "{}".to_owned()),
    }
}

/// For a call the model wrote wrongly: the check against the tool's schema refuses it, and
/// the model sees what it wrote.
fn broken(text: &str) -> String {
    crate::base::json::Obj::new()
        .str("invalid_json", text)
        .end()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[rustfmt::skip]
    fn calls_whole_cut_and_broken() {
        let model = super::super::tests::model("anthropic", "claude-sonnet-5-5");
        for (arguments, end, want, cut) in [
            (r#"{"b":1, "a":"\n"}"#, End::Done, Some(r#"{"b":1, "a":"\n"}"#), false),
            ("{\n\"a\": 1\r\n}", End::Cut, Some("{ \"a\": 1  }"), false),
            ("", End::Done, Some("{}"), false),
            (" null ", End::Done, Some("{}"), false),
            (r#""{\"a\":1}""#, End::Done, Some(r#"{"a":1}"#), false),
            ("", End::Cut, None, true),
            (r#"{"a":"#, End::Cut, None, true),
            (r#"{"a":"#, End::Done, Some(r#"{"invalid_json":"{\"a\":"}"#), false),
            ("[1]", End::Done, Some(r#"{"invalid_json":"[1]"}"#), false),
        ] {
            let mut draft = Draft::default();
            draft.text(" \n").unwrap();
            draft.push(call("1", "bash")).unwrap();
            if let Some(Block::ToolCall(call)) = draft.blocks.last_mut() {
                call.arguments = arguments.to_owned();
            }
            draft.end = Some(end);
            let reply = draft.finish(&model).unwrap();
            let found = reply.blocks.first().map(|block| match block {
                Block::ToolCall(call) => call.arguments.as_str(),
                _ => "no call",
            });
            assert_eq!(found, want, "{arguments}");
            assert_eq!(reply.cut_call.is_some(), cut, "{arguments}");
            let reason = if cut {
                StopReason::Length
            } else {
                StopReason::ToolUse
            };
            assert_eq!(reply.stop_reason, reason, "{arguments}");
        }
    }
}
